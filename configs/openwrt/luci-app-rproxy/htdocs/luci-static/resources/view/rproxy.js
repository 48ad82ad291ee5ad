'use strict';
'require form';
'require poll';
'require rpc';
'require view';

const callStatus = rpc.declare({
	object: 'luci.rproxy',
	method: 'status',
	expect: { '': {} }
});

/* ---- the grammar of a route, as rproxy --check judges it ---- */

const LABEL = /^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$/i;

function isIPv4(s) {
	return /^(\d{1,3}\.){3}\d{1,3}$/.test(s) && s.split('.').every(n => n <= 255 && String(+n) === n);
}

function isIPv6(s) {
	const halves = s.split('::');
	let groups = 0;

	if (halves.length > 2 || !s.includes(':'))
		return false;

	for (const half of halves) {
		const parts = half === '' ? [] : half.split(':');
		for (let i = 0; i < parts.length; i++) {
			if (i === parts.length - 1 && half === halves[halves.length - 1] && isIPv4(parts[i]))
				groups++;
			else if (!/^[0-9a-f]{1,4}$/i.test(parts[i]))
				return false;
			groups++;
		}
	}

	return halves.length === 2 ? groups < 8 : groups === 8;
}

function isName(s) {
	const labels = s.replace(/\.$/, '').split('.');

	return s.length <= 253 && labels.every(l => LABEL.test(l)) && !/^\d+$/.test(labels[labels.length - 1]);
}

/* A name, an IPv4 address, or an IPv6 address in brackets. */
function isHost(s) {
	return isName(s) || isIPv4(s) || (/^\[.*\]$/.test(s) && isIPv6(s.slice(1, -1)));
}

function isPort(s, from) {
	return /^\d{1,5}$/.test(s) && +s >= from && +s <= 65535;
}

/* ADDR[:PORT] */
function isAddress(s, needsPort) {
	const m = s.match(/^(\[[^\]]*\]|[^:]*)(?::(.*))?$/);

	return m !== null && isHost(m[1]) && (m[2] === undefined ? !needsPort : isPort(m[2], 1));
}

function isRange(s) {
	const m = s.match(/^([^\/]*)(?:\/(\d{1,3}))?$/);

	if ([ 'cloudflare', 'private', 'loopback' ].includes(s))
		return true;

	return m !== null && (isIPv4(m[1]) ? (m[2] ?? 0) <= 32 : isIPv6(m[1]) && (m[2] ?? 0) <= 128);
}

function isURL(s) {
	const m = s.match(/^https?:\/\/([^\/?#{]*)([^\s"<>\\^`|]*)$/);

	return m !== null && isAddress(m[1], false) && !/[{}]/.test(m[2].replaceAll('{uri}', ''));
}

function isStatus(s, from) {
	return /^\d{3}$/.test(s) && +s >= from && +s <= 599;
}

/* Own words for what is wrong; LuCI shows them beside the field. */
function check(good, text) {
	return (section_id, value) => !value || good(value) || text;
}

const checkHost = check(
	v => v === '*' || isHost(v) || (v.startsWith('*.') && isName(v.slice(2))),
	_('A host name, *.NAME for all names below it, or * for any; without http:// and port'));

const checkPath = check(
	v => /^\/[^\s"<>\\^`{|}?#=;]*$/.test(v) && !/%(?![0-9a-f]{2})/i.test(v) && !/\/\*$|\/\/|\/\.\.?(\/|$)/.test(v),
	_('A path that begins with /, without query and *; it stands for all below it'));

const checkTarget = check(v => {
	const m = v.match(/^(https?|tcp):\/\/(.*)$/);

	if (m !== null)
		return isAddress(m[2], m[1] === 'tcp');
	if (v.startsWith('unix:'))
		return /^unix:\/[^\s,]{1,106}$/.test(v);
	if (v.startsWith('redirect:'))
		return isURL(v.slice(9));
	return v.startsWith('status:') && isStatus(v.slice(7), 200) && v[7] !== '3';
}, _('http://ADDRESS[:PORT], https://ADDRESS[:PORT], tcp://ADDRESS:PORT, unix:PATH, redirect:URL or status:CODE'));

const checkRange = check(isRange, _('An address or a range as 10.0.0.0/8, or one of cloudflare, private, loopback'));

const checkListener = check(v => {
	const m = v.match(/^(?:(.*):)?(\d+)$/);

	return m !== null && isPort(m[2], 1) &&
		(m[1] === undefined || isIPv4(m[1]) || (/^\[.*\]$/.test(m[1]) && isIPv6(m[1].slice(1, -1))));
}, _('A port, or an address and a port as 192.168.1.1:80 or [::1]:80'));

const checkDefault = check(
	v => v === 'drop' || isStatus(v, 400) || isURL(v),
	_('A status code from 400 to 599, drop, or an absolute URL'));

const checkHeader = check(
	v => v === 'keep' || v === 'target' || isAddress(v, false),
	_('keep, target or a host name'));

const checkRate = check(
	v => /^[1-9]\d{0,6}\/s(:[1-9]\d{0,6})?$/.test(v),
	_('Requests per second as 20/s, or with a burst as 20/s:100'));

const checkField = check(
	v => /^[!#$%&'*+.^_`|~0-9A-Za-z-]+:\s*\S/.test(v) && !/[\x00-\x08\x0a-\x1f\x7f]/.test(v) &&
		!/^(connection|content-length|keep-alive|proxy-connection|te|trailer|transfer-encoding|upgrade):/i.test(v),
	_('NAME:VALUE; fields that HTTP itself needs are not for setting'));

const checkFieldName = check(
	v => /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(v),
	_('The name of a header field'));

const checkWake = check(v => {
	const m = v.match(/^[0-9a-f]{2}([:-])([0-9a-f]{2}\1){4}[0-9a-f]{2}(?:@(.*))?$/i);

	return m !== null && (m[3] === undefined || isAddress(m[3], false));
}, _('A MAC address as 00:11:22:aa:bb:cc, with @ADDRESS for a broadcast address'));

const checkVerify = check(
	v => v === 'ca' || v === 'off' || /^pin:[0-9a-f]{64}$/i.test(v),
	_('ca, off, or pin: and the SHA-256 of the public key in hex'));

const checkTime = check(v => /^\d{1,9}(ms|s|m|h|d)$/.test(v), _('A number with ms, s, m, h or d'));

const checkSize = check(v => /^\d{1,12}[kmg]?$/.test(v), _('A number of bytes, or with k, m or g'));

const checkAbsolute = check(v => /^\/\S*$/.test(v), _('A path that begins with /'));

/* ---- what it is doing ---- */

/* Text goes into arrays: LuCI takes a bare string for HTML. */
function table(id, titles, rows, none) {
	return E('table', { 'class': 'table', 'id': id }, [
		E('tr', { 'class': 'tr table-titles' }, titles.map(t => E('th', { 'class': 'th' }, [ t ]))),
		...rows.map(cells => E('tr', { 'class': 'tr' }, cells.map((c, i) =>
			E('td', { 'class': 'td', 'data-title': titles[i] }, [ c ])))),
		...(rows.length ? [] : [
			E('tr', { 'class': 'tr placeholder' }, [ E('td', { 'class': 'td' }, [ E('em', {}, [ none ]) ]) ])
		])
	]);
}

const STATES = {
	up: _('up'),
	out: _('left out'),
	down: _('down')
};

/* A row for each target of a route; a redirect or a fixed answer is a row, too. */
function routeRows(r) {
	const route = r.host + r.path;

	if (r.redirect !== undefined)
		return [ [ route, 'redirect:' + r.redirect, '', '', '' ] ];
	if (r.status !== undefined)
		return [ [ route, 'status:' + r.status, '', '', '' ] ];
	return r.targets.map(t =>
		[ route, t.target, STATES[t.state] ?? t.state, String(t.served), String(t.failed) ]);
}

function timeLeft(c) {
	if (c.state === 'expired')
		return E('strong', {}, [ _('expired') ]);
	if (c.state === 'early')
		return E('strong', {}, [ _('not valid yet') ]);

	return E(c.state === 'expiring' ? 'strong' : 'span', {}, [ _('%d days').format(c.days_left) ]);
}

function renderStatus(s) {
	if (!Array.isArray(s.listeners))
		return [ E('p', {}, [ E('em', {}, [ _('It is not running, or has no status port.') ]) ]) ];

	return [
		E('p', {}, [
			_('rproxy %s, up for %t, %d requests, %d connections now').format(
				s.version, s.uptime_seconds, s.requests_total, s.clients)
		]),
		table('rproxy-listeners', [ _('Listens'), _('Address') ],
			s.listeners.map(l => [ l.kind, l.address ]), _('none')),
		table('rproxy-routes', [ _('Route'), _('Target'), _('State'), _('Served'), _('Failed') ],
			s.routes.flatMap(routeRows), _('There is no route yet.')),
		table('rproxy-certificates', [ _('Certificate'), _('Left') ],
			s.certificates.map(c => [ c.name, timeLeft(c) ]),
			_('There is no certificate yet.'))
	];
}

return view.extend({
	load() {
		return L.resolveDefault(callStatus(), {});
	},

	render(status) {
		const m = new form.Map('rproxy', _('Reverse proxy'),
			_('Puts web services of the local network behind one public address, over HTTPS.'));
		let s;

		s = m.section(form.TypedSection, 'rproxy');
		s.anonymous = true;
		s.render = () => {
			const box = E('div', { 'id': 'rproxy-status' }, renderStatus(status));

			poll.add(() => L.resolveDefault(callStatus(), {}).then(now => {
				box.replaceChildren(...renderStatus(now));
			}), 5);

			return E('div', { 'class': 'cbi-section' }, [ E('h3', {}, [ _('Status') ]), box ]);
		};

		this.addMain(m);
		this.addRoutes(m);
		this.addCerts(m);

		return m.render();
	},

	addMain(m) {
		const s = m.section(form.NamedSection, 'main', 'rproxy', _('Settings'));
		let o;

		s.tab('general', _('General'));
		s.tab('advanced', _('Advanced'));

		o = s.taboption('general', form.Flag, 'enabled', _('Enabled'));
		o.rmempty = false;

		o = s.taboption('general', form.Flag, 'open_wan', _('Open to the internet'),
			_('Lets visitors from outside in: ports 80 and 443 of the WAN side lead to the first listeners below.'));
		o.rmempty = false;

		o = s.taboption('general', form.Flag, 'redirect', _('Redirect to HTTPS'),
			_('Visitors of a name with a certificate who come by HTTP are sent to HTTPS.'));
		o.default = '1';
		o.rmempty = false;

		o = s.taboption('general', form.DynamicList, 'http', _('HTTP listeners'),
			_('The web page of this router usually has port 80 itself, so 8080 is a good choice.'));
		o.validate = checkListener;
		o.placeholder = '8080';

		o = s.taboption('general', form.DynamicList, 'https', _('HTTPS listeners'));
		o.validate = checkListener;
		o.placeholder = '8443';

		o = s.taboption('general', form.Value, 'public_port', _('Public HTTPS port'),
			_('The port that visitors use, in redirects and rewritten addresses.'));
		o.datatype = 'port';
		o.placeholder = '443';
		o.optional = true;

		o = s.taboption('general', form.Value, 'default', _('Other hosts'),
			_('What a visitor gets who asks for a host without a route: a status code, drop, or a URL.'));
		o.validate = checkDefault;
		o.placeholder = '404';
		o.optional = true;

		o = s.taboption('advanced', form.DynamicList, 'trust', _('Trusted proxies'),
			_('Peers whose X-Forwarded-For and CF-Connecting-IP are believed.'));
		o.validate = checkRange;
		o.value('cloudflare', _('Cloudflare'));
		o.value('private', _('Private networks'));

		o = s.taboption('advanced', form.ListValue, 'log_level', _('Log'));
		o.value('info', _('Every request'));
		o.value('warn', _('Warnings'));
		o.value('error', _('Errors'));
		o.default = 'info';

		o = s.taboption('advanced', form.Value, 'status', _('Status port'),
			_('On this router alone; this page asks it. 0: none.'));
		o.validate = check(v => v === '0' || checkListener(null, v) === true, checkListener(null, '-'));
		o.placeholder = '9180';
		o.optional = true;

		o = s.taboption('advanced', form.Value, 'max_conns', _('Connections at most'),
			_('Each may take up to 200 KB of memory while it is busy.'));
		o.datatype = 'range(1,65535)';
		o.placeholder = '512';
		o.optional = true;

		o = s.taboption('advanced', form.Flag, 'jail', _('Run in a jail'),
			_('With the package procd-ujail. Without a jail unix: targets can be reached.'));
		o.default = '1';
	},

	addRoutes(m) {
		const s = m.section(form.GridSection, 'route', _('Routes'),
			_('Which host and path leads where. The exact name wins over a wildcard, the longest path over a shorter one.'));
		let o;

		s.anonymous = true;
		s.addremove = true;
		s.sortable = true;
		s.nodescriptions = true;
		s.addbtntitle = _('Add route');
		s.modaltitle = _('Route');

		s.tab('general', _('General'));
		s.tab('access', _('Access'));
		s.tab('headers', _('Header fields'));
		s.tab('target', _('Targets'));

		o = s.taboption('general', form.Flag, 'enabled', _('Enabled'));
		o.default = '1';
		o.editable = true;

		o = s.taboption('general', form.DynamicList, 'host', _('Host'),
			_('jellyfin.example.com, *.example.com or *'));
		o.validate = checkHost;
		o.rmempty = false;

		o = s.taboption('general', form.Value, 'path', _('Path'), _('Empty: all paths.'));
		o.validate = checkPath;
		o.optional = true;

		o = s.taboption('general', form.DynamicList, 'target', _('Target'),
			_('http://192.168.1.4:8096; several: the first that works.'));
		o.validate = checkTarget;
		o.rmempty = false;

		o = s.taboption('general', form.Flag, 'strip', _('Take the path off'));
		o.modalonly = true;

		o = s.taboption('general', form.Flag, 'plain', _('Serve over HTTP, too'));
		o.modalonly = true;

		o = s.taboption('general', form.Value, 'hsts', _('HSTS'),
			_('Tells browsers to come by HTTPS only: 1, or for how many seconds.'));
		o.datatype = 'uinteger';
		o.modalonly = true;
		o.optional = true;

		o = s.taboption('access', form.DynamicList, 'allow', _('Allowed'), _('Addresses that may come; the others get 403.'));
		o.validate = checkRange;
		o.modalonly = true;

		o = s.taboption('access', form.DynamicList, 'deny', _('Denied'));
		o.validate = checkRange;
		o.modalonly = true;

		o = s.taboption('access', form.Value, 'auth', _('Password file'), _('As htpasswd writes it.'));
		o.validate = checkAbsolute;
		o.placeholder = '/etc/rproxy/users';
		o.modalonly = true;
		o.optional = true;

		o = s.taboption('access', form.Value, 'rate', _('Rate limit'), _('Requests for each address, as 20/s:100.'));
		o.validate = checkRate;
		o.modalonly = true;
		o.optional = true;

		o = s.taboption('access', form.Value, 'body_max', _('Largest upload'));
		o.validate = checkSize;
		o.modalonly = true;
		o.optional = true;

		o = s.taboption('headers', form.Value, 'host_header', _('Host'),
			_('What the target sees: keep, as the visitor wrote it; target, its own address; or a name.'));
		o.validate = checkHeader;
		o.placeholder = 'keep';
		o.modalonly = true;
		o.optional = true;

		o = s.taboption('headers', form.DynamicList, 'set', _('For the target'), _('NAME:VALUE'));
		o.validate = checkField;
		o.modalonly = true;

		o = s.taboption('headers', form.DynamicList, 'add_response', _('For the visitor'), _('NAME:VALUE'));
		o.validate = checkField;
		o.modalonly = true;

		o = s.taboption('headers', form.DynamicList, 'hide', _('Not for the visitor'), _('Names of fields that are dropped.'));
		o.validate = checkFieldName;
		o.modalonly = true;

		o = s.taboption('target', form.ListValue, 'balance', _('Several targets'));
		o.value('', _('The first that works'));
		o.value('round-robin', _('All in turn'));
		o.modalonly = true;
		o.optional = true;

		o = s.taboption('target', form.Value, 'check', _('Health check'), _('A path that is asked for from time to time.'));
		o.validate = checkAbsolute;
		o.modalonly = true;
		o.optional = true;

		o = s.taboption('target', form.Value, 'wake', _('Wake-on-LAN'), _('MAC address of a target that sleeps.'));
		o.validate = checkWake;
		o.modalonly = true;
		o.optional = true;

		o = s.taboption('target', form.Value, 'verify', _('Certificate of the target'),
			_('For https:// targets: ca, off, or pin: and the SHA-256 of its public key.'));
		o.validate = checkVerify;
		o.placeholder = 'ca';
		o.modalonly = true;
		o.optional = true;

		o = s.taboption('target', form.Value, 'ca', _('Authorities'), _('A file of certificates instead of the system\'s.'));
		o.validate = checkAbsolute;
		o.modalonly = true;
		o.optional = true;

		o = s.taboption('target', form.ListValue, 'send_proxy', _('PROXY protocol'));
		o.value('', _('none'));
		o.value('v1');
		o.value('v2');
		o.modalonly = true;
		o.optional = true;

		o = s.taboption('target', form.Value, 'response_timeout', _('Silence at most'));
		o.validate = checkTime;
		o.placeholder = '5m';
		o.modalonly = true;
		o.optional = true;

		o = s.taboption('target', form.Value, 'tunnel_timeout', _('Silence of a WebSocket at most'));
		o.validate = checkTime;
		o.placeholder = '1h';
		o.modalonly = true;
		o.optional = true;

		o = s.taboption('target', form.Value, 'error_page', _('Error page'), _('A file for 502, 503 and 504.'));
		o.validate = checkAbsolute;
		o.modalonly = true;
		o.optional = true;
	},

	addCerts(m) {
		const s = m.section(form.GridSection, 'cert', _('Certificates'),
			_('The domain of a certificate of the acme package, or two files. They are read again when they are renewed.'));
		let o;

		s.anonymous = true;
		s.addremove = true;
		s.nodescriptions = true;
		s.addbtntitle = _('Add certificate');
		s.modaltitle = _('Certificate');

		o = s.option(form.Flag, 'enabled', _('Enabled'));
		o.default = '1';
		o.editable = true;

		o = s.option(form.Value, 'domain', _('Domain'));
		o.validate = function(section_id, value) {
			const chain = this.section.formvalue(section_id, 'chain');

			if (!value === !chain)
				return _('A domain, or a chain and a key');

			return !value || /^(\*\.)?[^*]+$/.test(value) && isName(value.replace(/^\*\./, '')) ||
				_('A domain name');
		};
		o.optional = true;

		o = s.option(form.Value, 'chain', _('Chain'), _('PEM file, the server\'s own certificate first.'));
		o.validate = checkAbsolute;
		o.optional = true;

		o = s.option(form.Value, 'key', _('Key'), _('PEM file; empty: it is in the chain\'s.'));
		o.validate = checkAbsolute;
		o.optional = true;
	}
});
