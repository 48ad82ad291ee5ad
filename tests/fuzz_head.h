/* fuzz_head.h: what the fuzzers of both parsers of heads share.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef FUZZ_HEAD_H
#define FUZZ_HEAD_H

static bool fuzz_same_span(struct hd_span a, struct hd_span b)
{
	return a.off == b.off && a.len == b.len;
}

/* The same verdict; for a good head also the same spans. */
static void fuzz_same_head(const struct hd *a, const struct hd *b)
{
	FUZZ_HOLDS(a->why == b->why && a->status == b->status);
	if (a->why)
		return;
	FUZZ_HOLDS(a->whole == b->whole && a->size == b->size && a->seen == b->seen);
	FUZZ_HOLDS(a->minor == b->minor && a->close == b->close && a->keep == b->keep);
	FUZZ_HOLDS(a->upgrade == b->upgrade && a->form == b->form && a->n == b->n);
	FUZZ_HOLDS(fuzz_same_span(a->method, b->method) && fuzz_same_span(a->target, b->target));
	FUZZ_HOLDS(fuzz_same_span(a->path, b->path) && fuzz_same_span(a->query, b->query));
	FUZZ_HOLDS(fuzz_same_span(a->authority, b->authority) && fuzz_same_span(a->reason, b->reason));
	for (unsigned i = 0; i < a->n; i++) {
		FUZZ_HOLDS(fuzz_same_span(a->f[i].name, b->f[i].name));
		FUZZ_HOLDS(fuzz_same_span(a->f[i].value, b->f[i].value));
		FUZZ_HOLDS(a->f[i].id == b->f[i].id && a->f[i].drop == b->f[i].drop);
	}
}

/* Inside the head, and without a byte that could end a line or a text. */
static void fuzz_span(const struct hd *h, const char *base, struct hd_span s)
{
	struct sl a = hd_sl(base, s);

	FUZZ_HOLDS((size_t)s.off + s.len <= h->size);
	for (size_t i = 0; i < a.n; i++)
		FUZZ_HOLDS(((uint8_t)a.p[i] >= 0x20 || a.p[i] == '\t') && a.p[i] != 0x7f);
}

/* Parses the bytes whole, cut at random, and byte by byte; *h is what came of them whole. */
static ptrdiff_t fuzz_parse(struct hd *h, bool response, const uint8_t *data, size_t size)
{
	static struct hd other;
	uint32_t seed = fuzz_seed(data, size), max = seed & 1 ? RP_HEAD_MAX : RP_HEAD_MIN;
	ptrdiff_t r, r2;

	hd_reset(h, response);
	r = hd_parse(h, sl_mk(data, size), max);
	FUZZ_HOLDS(r <= (ptrdiff_t)size && r <= (ptrdiff_t)max && (r > 0) == (h->whole && !h->why));
	FUZZ_HOLDS((r < 0) == (h->why != WHY_NONE) && (r <= 0 || (size_t)r == h->size));
	for (unsigned way = 0; way < 2; way++) {
		size_t at = 0;
		hd_reset(&other, response);
		for (r2 = 0; r2 == 0 && at < size;) {
			size_t step = way ? 1 : 1 + fuzz_next(&seed) % 64;
			at = size - at < step ? size : at + step;
			char *copy = fuzz_copy(data, at); /* a buffer may move */
			r2 = hd_parse(&other, sl_mk(copy, at), max);
			free(copy);
			if (way && size > 512)
				break;
		}
		if (!way || size <= 512) {
			FUZZ_HOLDS(r2 == r);
			fuzz_same_head(h, &other);
		}
	}
	return r;
}

/* What holds for each good head. Returns how long its copy is. */
static size_t fuzz_fields(struct hd *h, const char *base)
{
	static char out[RP_HEAD_MAX * 4];
	struct sb b = sb_of(out, sizeof out);

	FUZZ_HOLDS(h->n <= RP_FIELDS_MAX);
	for (unsigned i = 0; i < h->n; i++) {
		struct sl name = hd_sl(base, h->f[i].name), value = hd_sl(base, h->f[i].value);
		fuzz_span(h, base, h->f[i].name);
		fuzz_span(h, base, h->f[i].value);
		FUZZ_HOLDS(name.n && sl_count(name, SL_TCHAR) == name.n && h->f[i].id < HF_COUNT);
		FUZZ_HOLDS(sl_trim(value).n == value.n && hd_has(h, (enum hd_id)h->f[i].id));
	}
	hd_copy(&b, h, base, hd_hop | hd_claims);
	FUZZ_HOLDS(!b.over);
	/* What was copied is a head again, with just the fields that were to go on. */
	static struct hd copy;
	static char whole[sizeof out + 64];
	unsigned on = 0;
	for (unsigned i = 0; i < h->n; i++)
		on += !h->f[i].drop && !((hd_hop | hd_claims) >> h->f[i].id & 1);
	struct sb w = sb_of(whole, sizeof whole);
	sb_str(&w, "HTTP/1.1 200 OK\r\n");
	sb_put(&w, sl_mk(out, b.n));
	sb_crlf(&w);
	hd_reset(&copy, true);
	if (w.n <= RP_HEAD_MAX)
		FUZZ_HOLDS(hd_parse(&copy, sl_mk(whole, w.n), RP_HEAD_MAX) == (ptrdiff_t)w.n &&
				   copy.n == on);
	return b.n;
}

#endif
