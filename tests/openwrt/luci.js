/* As much of LuCI's client side as one form needs, to load a view without LuCI: modules view, form,
 * poll and rpc, and the globals E, L and _. Written for the tests; it knows the ways of the original
 * that a view relies on: what validate() is called with, what an empty or default value does to the
 * configuration, that E() takes a bare string for HTML. What it does not know throws.
 *
 * The page sets `config`, the sections of one UCI package, before it calls luci(). Changes are made
 * there, and `saved` counts how often they were written.
 */
'use strict';

const config = [];
let saved = 0;

String.prototype.format = function(...args) {
	return this.replace(/%([sdt])/g, (_, kind) => {
		const v = args.shift();
		return kind === 't' ? `${Math.floor(v / 60)}m ${v % 60}s` : kind === 'd' ? Math.floor(v) : v;
	});
};

window._ = text => text;

window.E = (tag, attributes, children) => {
	const node = document.createElement(tag);

	for (const [ k, v ] of Object.entries(attributes ?? {}))
		if (typeof v === 'function')
			node.addEventListener(k, v);
		else if (v !== null)
			node.setAttribute(k, v);
	if (Array.isArray(children))
		node.append(...children);
	else if (children instanceof Node)
		node.append(children);
	else if (children != null)
		node.innerHTML = children;
	return node;
};

window.L = {
	resolveDefault: (promise, value) => Promise.resolve(promise).catch(() => value)
};

const uci = {
	section: id => config.find(s => s['.name'] === id),
	get: (id, option) => uci.section(id)?.[option],
	set: (id, option, value) => { uci.section(id)[option] = value; },
	unset: (id, option) => { delete uci.section(id)[option]; },
	add(type) {
		const id = `new${config.length}`;
		config.push({ '.name': id, '.type': type, '.anonymous': true });
		return id;
	},
	remove: id => config.splice(config.findIndex(s => s['.name'] === id), 1)
};

const modules = {
	view: { extend: proto => Object.assign({ handle: null }, proto) },
	poll: { add: (fn, seconds) => setInterval(fn, seconds * 100) },
	rpc: {
		declare: spec => async() => {
			const said = await fetch(`/ubus/${spec.object}/${spec.method}`, { method: 'POST' });
			return said.json();
		}
	}
};

/* ---- form ---- */

const DATATYPES = {
	port: v => /^\d+$/.test(v) && +v <= 65535,
	uinteger: v => /^\d+$/.test(v),
	range: (v, from, to) => /^\d+$/.test(v) && +v >= from && +v <= to
};

function wrongType(type, value) {
	const [ , name, args ] = type.match(/^(\w+)(?:\((.*)\))?$/);

	if (!DATATYPES[name])
		throw new Error(`datatype ${type}`);
	return !DATATYPES[name](value, ...(args ?? '').split(',').map(Number)) && `Expecting: ${type}`;
}

class Value {
	constructor(section, tab, option, title, description) {
		Object.assign(this, { section, tab, option, title, description, choices: [], rmempty: true });
	}

	value(key, title) { this.choices.push([ key, title ?? key ]); }

	cfgvalue(id) { return uci.get(id, this.option) ?? this.default; }

	texts(id) { return [].concat(this.cfgvalue(id) ?? []); }

	field(id) {
		const box = E('div', { 'class': 'cbi-value', 'data-option': this.option }, [
			E('label', {}, [ this.title ?? '' ]),
			...this.widget(id),
			E('span', { 'class': 'error' }),
			E('small', {}, [ this.description ?? '' ])
		]);

		this.boxes = { ...this.boxes, [id]: box };
		return box;
	}

	widget(id) {
		return [ E('input', { 'type': 'text', 'placeholder': this.placeholder ?? '', 'value': this.texts(id).join(' ') }) ];
	}

	input(id) { return this.boxes[id].querySelector('input, select'); }

	formvalue(id) { return this.input(id).value.trim(); }

	items(id) { return [ this.formvalue(id) ]; }

	fault(id) {
		for (const v of this.items(id)) {
			if (v === '' && !this.optional && !this.rmempty)
				return 'Expecting: non-empty value';
			const wrong = v !== '' && this.datatype ? wrongType(this.datatype, v) : false;
			if (wrong)
				return wrong;
			const said = this.validate ? this.validate(id, v) : true;
			if (said !== true)
				return said;
		}
		return '';
	}

	isValid(id) {
		const fault = this.fault(id);

		this.boxes[id].querySelector('.error').textContent = fault;
		this.boxes[id].classList.toggle('invalid', fault !== '');
		return fault === '';
	}

	write(id) {
		const v = this.formvalue(id);

		if (v.length === 0 || (v === this.default && this.rmempty))
			uci.unset(id, this.option);
		else
			uci.set(id, this.option, v);
	}

	textvalue(id) { return this.texts(id).join(', '); }
}

class Flag extends Value {
	widget(id) {
		return [ E('input', { 'type': 'checkbox', 'checked': (this.cfgvalue(id) ?? '0') === '1' ? '' : null }) ];
	}

	formvalue(id) { return this.input(id).checked ? '1' : '0'; }

	write(id) {
		const v = this.formvalue(id);

		if (v === (this.default ?? '0') && this.rmempty)
			uci.unset(id, this.option);
		else
			uci.set(id, this.option, v);
	}
}

class ListValue extends Value {
	widget(id) {
		return [ E('select', {}, this.choices.map(([ k, title ]) =>
			E('option', { 'value': k, 'selected': k === this.cfgvalue(id) ? '' : null }, [ title ]))) ];
	}
}

/* One line for each item, and an empty one to add another. */
class DynamicList extends Value {
	widget(id) {
		const box = E('div', { 'class': 'items' });
		const line = text => E('input', { 'type': 'text', 'placeholder': this.placeholder ?? '', 'value': text, 'input': () => {
			if (box.lastChild.value !== '')
				box.append(line(''));
		} });

		box.append(...this.texts(id).map(line), line(''));
		return [ box ];
	}

	formvalue(id) {
		return [ ...this.boxes[id].querySelectorAll('input') ].map(i => i.value.trim()).filter(v => v !== '');
	}

	items(id) {
		const v = this.formvalue(id);

		return v.length ? v : [ '' ];
	}
}

class NamedSection {
	constructor(map, type, title, description) {
		Object.assign(this, { map, type, title, description, children: [], tabs: [] });
	}

	tab(name, title) { this.tabs.push([ name, title ]); }

	option(kind, option, title, description) {
		return this.taboption(null, kind, option, title, description);
	}

	taboption(tab, kind, option, title, description) {
		if (tab !== null && !this.tabs.some(t => t[0] === tab))
			throw new Error(`tab ${tab}`);
		const o = new kind(this, tab, option, title, description);
		this.children.push(o);
		return o;
	}

	formvalue(id, option) {
		return this.children.find(o => o.option === option).formvalue(id);
	}

	heading() {
		return [ E('h3', {}, [ this.title ?? '' ]), E('p', {}, [ this.description ?? '' ]) ];
	}

	fields(id) {
		return (this.tabs.length ? this.tabs : [ [ null, '' ] ]).map(([ name, title ]) =>
			E('fieldset', {}, [ E('legend', {}, [ title ]),
				...this.children.filter(o => o.tab === name).map(o => o.field(id)) ]));
	}

	parse(id) {
		const good = this.children.map(o => o.isValid(id)).every(Boolean);

		if (good)
			this.children.forEach(o => o.write(id));
		return good;
	}

	render() {
		return E('div', { 'class': 'cbi-section', 'id': `section-${this.id}` }, [ ...this.heading(), ...this.fields(this.id) ]);
	}

	save() { return this.parse(this.id); }
}

class TypedSection extends NamedSection {
	save() { return true; }
}

class GridSection extends NamedSection {
	rows() {
		const columns = this.children.filter(o => !o.modalonly);

		return E('table', { 'class': 'table' }, [
			E('tr', {}, columns.map(o => E('th', {}, [ o.title ]))),
			...config.filter(s => s['.type'] === this.type).map(s => E('tr', { 'data-sid': s['.name'] }, [
				...columns.map(o => E('td', { 'data-title': o.title }, [ o.textvalue(s['.name']) ])),
				E('td', {}, [
					E('button', { 'class': 'edit', 'click': () => this.modal(s['.name'], false) }, [ 'Edit' ]),
					E('button', { 'class': 'remove', 'click': () => { uci.remove(s['.name']); this.refresh(); } }, [ 'Delete' ])
				])
			]))
		]);
	}

	refresh() { this.box.querySelector('table').replaceWith(this.rows()); }

	modal(id, added) {
		const close = () => { dialog.remove(); this.refresh(); };
		const dialog = E('div', { 'class': 'modal' }, [
			E('h4', {}, [ this.modaltitle ]),
			...this.fields(id),
			E('button', { 'class': 'cancel', 'click': () => { if (added) uci.remove(id); close(); } }, [ 'Dismiss' ]),
			E('button', { 'class': 'save', 'click': () => { if (this.parse(id)) close(); } }, [ 'Save' ])
		]);

		document.body.append(dialog);
	}

	render() {
		this.box = E('div', { 'class': 'cbi-section', 'id': `grid-${this.type}` }, [
			...this.heading(),
			this.rows(),
			E('button', { 'class': 'add', 'click': () => this.modal(uci.add(this.type), true) }, [ this.addbtntitle ])
		]);
		return this.box;
	}

	save() { return true; }
}

class Map {
	constructor(name, title, description) { Object.assign(this, { name, title, description, children: [] }); }

	section(kind, ...args) {
		const id = kind === NamedSection ? args.shift() : null;
		const s = new kind(this, ...args);

		s.id = id;
		this.children.push(s);
		return s;
	}

	async render() {
		return E('div', { 'class': 'cbi-map' }, [
			E('h2', {}, [ this.title ]), E('p', {}, [ this.description ]),
			...this.children.map(s => s.render()),
			E('button', { 'id': 'save', 'click': () => {
				if (this.children.map(s => s.save()).every(Boolean))
					saved++;
			} }, [ 'Save & Apply' ])
		]);
	}
}

modules.form = { Map, NamedSection, TypedSection, GridSection, Value, Flag, ListValue, DynamicList };

async function luci(name) {
	const source = await (await fetch(`/luci-static/resources/view/${name}.js`)).text();
	const wanted = [ ...source.matchAll(/^'require (\w+)';$/gm) ].map(m => m[1]);
	const view = new Function(...wanted, source)(...wanted.map(w => {
		if (!modules[w])
			throw new Error(`module ${w}`);
		return modules[w];
	}));

	document.body.append(await view.render(await view.load()));
}
