/* strict.h: a strict reading of HTTP/1.1 messages, written from RFC 9112 and the limits of README.md
 * alone. It shares no code with the proxy and reads in another way: whole lines of bytes that are all
 * there, no state machine. What the proxy passes on is held against it.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef STRICT_H
#define STRICT_H

#include <ctype.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Bytes of a message; not terminated. */
struct st {
	const uint8_t *p;
	size_t n;
};

struct st_field {
	struct st name, value;
};

enum st_verdict { ST_MORE, ST_WHOLE, ST_BAD };
enum st_framing { ST_NONE, ST_LENGTH, ST_CHUNKED, ST_CLOSE };

struct st_msg {
	enum st_verdict head, all; /* of the head, of the whole message */
	bool doubt;				   /* the head is of a kind that may be refused or not */
	int minor, code;
	struct st method, target;
	struct st path; /* of a request: the target in origin-form, or "*" */
	struct st_field f[128];
	unsigned n;
	enum st_framing framing;
	uint64_t length;
	bool ambiguous;		/* both ways of framing: read as chunked, but the connection is spoilt */
	bool close;			/* this message is the last on its connection */
	size_t nhead, nall; /* bytes on the wire, of the head with empty lines before it */
	uint8_t *body;		/* owns: what was read of it; st_free */
	size_t nbody, cap;
};

#define ST_HEAD_MAX 2048 /* what the proxy under test is told as --head-max */

/* How bytes are to be read. */
enum {
	ST_RESPONSE = 1,
	ST_TO_HEAD = 2, /* a response to HEAD */
	ST_EOF = 4,		/* no more will come */
	ST_OURS = 8		/* the proxy wrote it: the limits for what it takes do not hold */
};

static void st_free(struct st_msg *m)
{
	free(m->body);
	m->body = NULL;
}

static bool st_is(struct st a, const char *text)
{
	return a.n == strlen(text) && !strncasecmp((const char *)a.p, text, a.n);
}

static bool st_same(struct st a, struct st b)
{
	return a.n == b.n && (!a.n || !memcmp(a.p, b.p, a.n));
}

static bool st_all(struct st a, const char *allowed)
{
	for (size_t i = 0; i < a.n; i++)
		if (!a.p[i] || !strchr(allowed, a.p[i]))
			return false;
	return true;
}

#define ST_ALNUM "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

/* RFC 9110 5.6.2 */
static bool st_token(struct st a)
{
	return a.n && st_all(a, ST_ALNUM "!#$%&'*+-.^_`|~");
}

static struct st st_trim(struct st a)
{
	while (a.n && (*a.p == ' ' || *a.p == '\t'))
		a.p++, a.n--;
	while (a.n && (a.p[a.n - 1] == ' ' || a.p[a.n - 1] == '\t'))
		a.n--;
	return a;
}

/* Cuts off what stands before the first c. False: there is none, and *out is all. */
static bool st_cut(struct st *rest, char c, struct st *out)
{
	const uint8_t *at = rest->n ? memchr(rest->p, c, rest->n) : NULL;

	*out = *rest;
	if (!at)
		return false;
	out->n = (size_t)(at - rest->p);
	rest->p += out->n + 1;
	rest->n -= out->n + 1;
	return true;
}

/* Is the word among those of a comma-separated list? */
static bool st_lists(struct st list, struct st word)
{
	struct st item;
	bool more;

	do {
		more = st_cut(&list, ',', &item);
		item = st_trim(item);
		if (item.n == word.n && !strncasecmp((const char *)item.p, (const char *)word.p, word.n))
			return true;
	} while (more);
	return false;
}

static struct st st_text(const char *text)
{
	return (struct st){(const uint8_t *)text, strlen(text)};
}

static unsigned st_count(const struct st_msg *m, const char *name, struct st *value)
{
	unsigned n = 0;

	for (unsigned i = 0; i < m->n; i++)
		if (st_is(m->f[i].name, name)) {
			*value = n++ ? *value : m->f[i].value;
		}
	return n;
}

/* Does any Connection field name this? */
static bool st_named(const struct st_msg *m, struct st name)
{
	for (unsigned i = 0; i < m->n; i++)
		if (st_is(m->f[i].name, "connection") && st_lists(m->f[i].value, name))
			return true;
	return false;
}

/* RFC 9112 2.2: takes the next line. ST_BAD: a CR or LF that ends no line, or another control
 * character, stands before its end. */
static enum st_verdict st_line(struct st *rest, struct st *line)
{
	for (size_t i = 0; i < rest->n; i++) {
		uint8_t c = rest->p[i];
		if (c == '\r') {
			if (i + 1 == rest->n)
				return ST_MORE;
			if (rest->p[i + 1] != '\n')
				return ST_BAD;
			*line = (struct st){rest->p, i};
			rest->p += i + 2;
			rest->n -= i + 2;
			return ST_WHOLE;
		}
		if ((c < 32 && c != '\t') || c == 127)
			return ST_BAD;
	}
	return ST_MORE;
}

/* A host name of letters, digits and "-": surely good. Else it is one of those whose verdict is left
 * to the proxy (*doubt), or surely bad. */
static bool st_host(struct st a, bool *doubt)
{
	struct st host = a, port = {NULL, 0};

	if (a.n && a.p[0] == '[') {
		*doubt = true;
		return true;
	}
	if (st_cut(&a, ':', &host))
		port = a;
	if (!host.n || !st_all(host, ST_ALNUM "-._~!$&'()*+,;=%") || !st_all(port, "0123456789"))
		return false;
	*doubt |= !st_all(host, ST_ALNUM ".") || host.p[0] == '.' || port.n > 4 || host.n > 60 ||
			  memmem(host.p, host.n, "..", 2);
	return true;
}

/* Do two authorities mean the same place? */
static bool st_agree(struct st a, struct st b, const char *usual)
{
	struct st ah, bh;
	bool ap = st_cut(&a, ':', &ah), bp = st_cut(&b, ':', &bh);
	unsigned long an = ap && a.n ? strtoul((const char *)a.p, NULL, 10) : strtoul(usual, NULL, 10);
	unsigned long bn = bp && b.n ? strtoul((const char *)b.p, NULL, 10) : strtoul(usual, NULL, 10);

	ah.n -= ah.n && ah.p[ah.n - 1] == '.';
	bh.n -= bh.n && bh.p[bh.n - 1] == '.';
	return ah.n == bh.n && !strncasecmp((const char *)ah.p, (const char *)bh.p, ah.n) && an == bn;
}

/* RFC 9112 3.2: the form of the target. */
static bool st_target(struct st_msg *m, bool *doubt)
{
	struct st t = m->target, authority, host = {NULL, 0};
	bool options = m->method.n == 7 && !memcmp(m->method.p, "OPTIONS", 7), https;

	m->path = t;
	for (size_t i = 0; i < t.n; i++)
		if (t.p[i] <= 32 || t.p[i] >= 127 || t.p[i] == '#')
			return false;
	if (!t.n)
		return false;
	if (m->method.n == 7 && !memcmp(m->method.p, "CONNECT", 7))
		return *doubt = true; /* never passed on */
	if (t.p[0] == '/')
		return true;
	if (t.n == 1 && t.p[0] == '*')
		return options;
	https = t.n >= 8 && !strncasecmp((const char *)t.p, "https://", 8);
	if (!https && (t.n < 7 || strncasecmp((const char *)t.p, "http://", 7) != 0))
		return false;
	t.p += 7 + https;
	t.n -= 7 + https;
	authority = t;
	for (size_t i = 0; i < t.n && authority.n == t.n; i++)
		if (t.p[i] == '/' || t.p[i] == '?')
			authority.n = i;
	m->path = (struct st){t.p + authority.n, t.n - authority.n};
	if (!m->path.n && options)
		m->path = st_text("*");
	/* "?q" goes on as "/?q", "" as "/": that "/" is not here, st_path_is knows */
	if (!st_host(authority, doubt) || memchr(authority.p, '@', authority.n))
		return false;
	if (st_count(m, "host", &host) == 1 && !*doubt)
		return st_agree(host, authority, https ? "443" : "80");
	return true;
}

/* Is this what goes on as the target? */
static bool st_path_is(const struct st_msg *m, struct st got)
{
	if (!m->path.n || m->path.p[0] == '?')
		return got.n == m->path.n + 1 && got.p[0] == '/' &&
			   !memcmp(got.p + 1, m->path.p, m->path.n);
	return st_same(got, m->path);
}

static bool st_request_line(struct st_msg *m, struct st line)
{
	struct st version;

	if (!st_cut(&line, ' ', &m->method)) {
		m->method.n = 0;
		return false;
	}
	if (!st_cut(&line, ' ', &m->target))
		return false;
	version = line;
	if (!st_token(m->method) || m->method.n > 32 || version.n != 8 ||
		memcmp(version.p, "HTTP/1.", 7) != 0 || !isdigit(version.p[7]))
		return false;
	m->minor = version.p[7] != '0';
	return true;
}

static bool st_status_line(struct st_msg *m, struct st line)
{
	if (line.n < 12 || memcmp(line.p, "HTTP/1.", 7) != 0 || !isdigit(line.p[7]) ||
		line.p[8] != ' ' || !st_all((struct st){line.p + 9, 3}, "0123456789") ||
		(line.n > 12 && line.p[12] != ' '))
		return false;
	m->minor = line.p[7] != '0';
	m->code = (line.p[9] - '0') * 100 + (line.p[10] - '0') * 10 + line.p[11] - '0';
	return m->code >= 100 && m->code <= 599;
}

/* RFC 9112 6: how long is it? */
static bool st_framing(struct st_msg *m, unsigned how)
{
	bool response = how & ST_RESPONSE, head_only = how & ST_TO_HEAD;
	struct st cl = {NULL, 0}, te = {NULL, 0};
	unsigned ncl = st_count(m, "content-length", &cl), nte = st_count(m, "transfer-encoding", &te);

	if (ncl > 1 || nte > 1 || (nte && (!st_is(te, "chunked") || !m->minor)) ||
		(ncl && nte && !response))
		return false;
	if (ncl) {
		if (!cl.n || !st_all(cl, "0123456789"))
			return false;
		for (size_t i = 0; i < cl.n; i++) {
			if (m->length > (INT64_MAX - (uint64_t)(cl.p[i] - '0')) / 10)
				return false;
			m->length = m->length * 10 + (uint64_t)(cl.p[i] - '0');
		}
	}
	m->ambiguous = ncl && nte;
	if (response && (head_only || m->code < 200 || m->code == 204 || m->code == 304)) {
		m->ambiguous |= nte && !head_only && m->code != 304;
		return true;
	}
	m->framing = nte ? ST_CHUNKED : ncl ? ST_LENGTH : response ? ST_CLOSE : ST_NONE;
	return true;
}

static enum st_verdict st_head(struct st *rest, unsigned how, struct st_msg *m)
{
	unsigned fields = how & ST_OURS ? 120 : 100, most = how & ST_OURS ? 16384 : ST_HEAD_MAX;
	bool response = how & ST_RESPONSE;
	struct st line = {NULL, 0}, host = {NULL, 0};
	const uint8_t *from = rest->p;
	enum st_verdict v = st_line(rest, &line);
	bool doubt = false;

	for (unsigned empty = 0; v == ST_WHOLE && !line.n; v = st_line(rest, &line))
		if (response || ++empty > 2)
			return ST_BAD;
	if (v != ST_WHOLE)
		return v;
	if (!(response ? st_status_line(m, line) : st_request_line(m, line)))
		return ST_BAD;
	for (;;) {
		if ((v = st_line(rest, &line)) != ST_WHOLE)
			return v;
		if (!line.n)
			break;
		struct st_field *f = &m->f[m->n];
		if (m->n++ == fields || !st_cut(&line, ':', &f->name) || !st_token(f->name))
			return ST_BAD;
		f->value = st_trim(line);
	}
	m->nhead = (size_t)(rest->p - from);
	if (m->nhead > most || !st_framing(m, how))
		return ST_BAD;
	if (st_named(m, st_text("content-length")) || st_named(m, st_text("transfer-encoding")) ||
		st_named(m, st_text("host")))
		return ST_BAD;
	m->close = st_named(m, st_text("close")) || (!m->minor && !st_named(m, st_text("keep-alive")));
	if (!response) {
		unsigned hosts = st_count(m, "host", &host);
		if (hosts > 1 || (!hosts && m->minor) ||
			(hosts && !st_host(host, &doubt) && !(how & ST_OURS && !host.n)) ||
			!st_target(m, &doubt))
			return ST_BAD;
		m->doubt = doubt;
	}
	return ST_WHOLE;
}

static void st_body(struct st_msg *m, struct st a)
{
	if (!a.n)
		return;
	if (m->nbody + a.n > m->cap) {
		m->cap = (m->nbody + a.n) * 2;
		m->body = realloc(m->body, m->cap);
		if (!m->body)
			abort();
	}
	memcpy(m->body + m->nbody, a.p, a.n);
	m->nbody += a.n;
}

/* RFC 9112 7.1.1: ";" name [ "=" value ], without blanks. */
static bool st_extensions(struct st a)
{
	while (a.n) {
		struct st name, value;
		size_t n = 0;
		if (*a.p != ';')
			return false;
		a.p++, a.n--;
		while (n < a.n && a.p[n] != '=' && a.p[n] != ';')
			n++;
		name = (struct st){a.p, n};
		a.p += n, a.n -= n;
		if (!st_token(name))
			return false;
		if (!a.n || *a.p == ';')
			continue;
		a.p++, a.n--;
		if (a.n && *a.p == '"') {
			for (n = 1; n < a.n && a.p[n] != '"'; n++)
				n += a.p[n] == '\\';
			if (n >= a.n)
				return false;
			a.p += n + 1, a.n -= n + 1;
			continue;
		}
		for (n = 0; n < a.n && a.p[n] != ';';)
			n++;
		value = (struct st){a.p, n};
		a.p += n, a.n -= n;
		if (!st_token(value))
			return false;
	}
	return true;
}

/* RFC 9112 7.1 */
static enum st_verdict st_chunks(struct st *rest, struct st_msg *m)
{
	size_t ext = 0, trailers = 0;
	enum st_verdict v;
	struct st line, name;

	for (;;) {
		uint64_t size = 0;
		size_t digits = 0;
		if ((v = st_line(rest, &line)) == ST_MORE && rest->n > 256)
			return ST_BAD;
		if (v != ST_WHOLE)
			return v;
		while (digits < line.n && isxdigit(line.p[digits]))
			digits++;
		if (!digits || digits > 16 || (digits == 16 && strchr("89abcdefABCDEF", *line.p)) ||
			line.n > 254)
			return ST_BAD;
		for (size_t i = 0; i < digits; i++) {
			int c = tolower(line.p[i]);
			size = size << 4 | (uint64_t)(isdigit(c) ? c - '0' : c - 'a' + 10);
		}
		ext += line.n - digits;
		if (ext > 4096 || !st_extensions((struct st){line.p + digits, line.n - digits}))
			return ST_BAD;
		if (!size)
			break;
		size_t n = rest->n < size ? rest->n : (size_t)size;
		st_body(m, (struct st){rest->p, n});
		rest->p += n, rest->n -= n;
		if (n < size || !rest->n)
			return ST_MORE;
		if (rest->p[0] != '\r' || (rest->n > 1 && rest->p[1] != '\n'))
			return ST_BAD;
		if (rest->n < 2)
			return ST_MORE;
		rest->p += 2, rest->n -= 2;
	}
	for (;;) {
		if ((v = st_line(rest, &line)) == ST_MORE && trailers + rest->n > 8192)
			return ST_BAD;
		if (v != ST_WHOLE)
			return v;
		if (!line.n)
			return ST_WHOLE;
		trailers += line.n + 2;
		if (trailers > 8190 || !st_cut(&line, ':', &name) || !st_token(name))
			return ST_BAD;
	}
}

/* Reads the message that bytes begin with. The verdicts are in m; what was read of a body that is
 * bad or not whole stands in it, too. */
static void st_read(struct st bytes, unsigned how, struct st_msg *m)
{
	struct st rest = bytes;

	*m = (struct st_msg){.framing = ST_NONE};
	m->head = m->all = st_head(&rest, how, m);
	if (m->head == ST_MORE && bytes.n > ST_HEAD_MAX && !(how & ST_OURS))
		m->head = m->all = ST_BAD;
	if (m->head != ST_WHOLE)
		return;
	switch (m->framing) {
	case ST_NONE:
		break;
	case ST_LENGTH:
		m->all = rest.n >= m->length ? ST_WHOLE : ST_MORE;
		if (m->all == ST_WHOLE)
			rest.n = (size_t)m->length;
		st_body(m, rest);
		rest.p += rest.n;
		break;
	case ST_CHUNKED:
		m->all = st_chunks(&rest, m);
		break;
	case ST_CLOSE:
		m->all = how & ST_EOF ? ST_WHOLE : ST_MORE;
		m->close = true;
		st_body(m, rest);
		rest.p += rest.n;
		break;
	}
	m->nall = (size_t)(rest.p - bytes.p);
}

/* Does this field of a message go on beyond a proxy? RFC 9110 7.6.1, and what README.md says. */
static bool st_goes_on(const struct st_msg *m, const struct st_field *f, bool response)
{
	static const char *const hop[] = {"connection",
									  "keep-alive",
									  "proxy-connection",
									  "proxy-authenticate",
									  "proxy-authorization",
									  "proxy",
									  "te",
									  "trailer",
									  "upgrade",
									  "http2-settings",
									  "content-length",
									  "transfer-encoding",
									  "host"};
	static const char *const claims[] = {"forwarded", "x-real-ip"};

	for (size_t i = 0; i < sizeof hop / sizeof *hop; i++)
		if (st_is(f->name, hop[i]))
			return false;
	if (st_named(m, f->name))
		return false;
	if (response)
		return true;
	for (size_t i = 0; i < sizeof claims / sizeof *claims; i++)
		if (st_is(f->name, claims[i]))
			return false;
	if ((f->name.n >= 11 && !strncasecmp((const char *)f->name.p, "x-forwarded", 11)) ||
		(f->name.n >= 3 && !strncasecmp((const char *)f->name.p, "cf-", 3)))
		return false;
	if (st_is(f->name, "expect") && !m->minor)
		return false;
	return st_all(f->name, ST_ALNUM "-");
}

#endif
