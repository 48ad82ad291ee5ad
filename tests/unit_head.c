/* unit_head.c: room HEAD: heads of requests and answers, parsed and copied.
 *
 * SPDX-License-Identifier: MIT
 */
#include "unit.h"

#define RP_NO_MAIN 1
#include "../rproxy.c"

static struct hd h; /* what the last parse() made of its head */

/* Parses in[] from memory that ends where it does, in pieces that end at cut[]. */
static ptrdiff_t parse(bool response, const char *in, size_t n, const size_t *cut, size_t ncut,
					   uint32_t max)
{
	ptrdiff_t r = 0;

	hd_reset(&h, response);
	for (size_t k = 0; k <= ncut && r == 0; k++) {
		size_t have = k < ncut ? cut[k] : n;
		char *copy = malloc(have ? have : 1); /* elsewhere each time: a buffer may move */
		memcpy(copy, in, have);
		r = hd_parse(&h, sl_mk(copy, have), max);
		free(copy);
	}
	return r;
}

static bool same_span(struct hd_span a, struct hd_span b)
{
	return a.off == b.off && a.len == b.len;
}

static bool same_head(const struct hd *a, const struct hd *b)
{
	if (a->why != b->why || a->status != b->status)
		return false;
	if (a->why)
		return true;
	for (unsigned i = 0; i < a->n; i++)
		if (!same_span(a->f[i].name, b->f[i].name) || !same_span(a->f[i].value, b->f[i].value) ||
			a->f[i].id != b->f[i].id || a->f[i].drop != b->f[i].drop)
			return false;
	return a->n == b->n && a->size == b->size && a->seen == b->seen && a->minor == b->minor &&
		   a->close == b->close && a->keep == b->keep && a->upgrade == b->upgrade &&
		   a->form == b->form && same_span(a->method, b->method) &&
		   same_span(a->target, b->target) && same_span(a->path, b->path) &&
		   same_span(a->query, b->query) && same_span(a->authority, b->authority) &&
		   same_span(a->reason, b->reason) && a->whole == b->whole;
}

/* Whole, byte by byte, and cut in two at every place: the same. Leaves the whole one in h. */
static ptrdiff_t parse_all_ways(bool response, const char *in, size_t n, uint32_t max)
{
	static struct hd whole;
	static size_t cut[70000];
	ptrdiff_t r = parse(response, in, n, NULL, 0, max);

	whole = h;
	for (size_t i = 0; i < n; i++)
		cut[i] = i;
	HOLDS_FOR(in, n > 4096 || (parse(response, in, n, cut, n, max) == r && same_head(&whole, &h)));
	for (size_t i = 1; i < n && n < 4096; i++)
		HOLDS_FOR(in, parse(response, in, n, &i, 1, max) == r && same_head(&whole, &h));
	h = whole;
	return r;
}

static ptrdiff_t request(const char *in)
{
	return parse_all_ways(false, in, strlen(in), RP_HEAD_MIN * 32);
}

static ptrdiff_t response(const char *in)
{
	return parse_all_ways(true, in, strlen(in), RP_HEAD_MIN * 32);
}

static bool says(const char *base, struct hd_span s, const char *want)
{
	return sl_is(hd_sl(base, s), want);
}

#define HOST "Host: a\r\n\r\n"

/* RFC 9112 3, 3.2. */
static void request_lines_that_are_good(void)
{
	static const struct {
		const char *in, *method, *path, *query, *authority;
		enum hd_form form;
		int minor;
	} rows[] = {
		{"GET / HTTP/1.1\r\n" HOST, "GET", "/", "", "", HD_ORIGIN, 1},
		{"GET / HTTP/1.0\r\n\r\n", "GET", "/", "", "", HD_ORIGIN, 0},
		{"GET / HTTP/1.9\r\n" HOST, "GET", "/", "", "", HD_ORIGIN, 1}, /* RFC 9110 2.5 */
		{"get / HTTP/1.1\r\n" HOST, "get", "/", "", "", HD_ORIGIN, 1},
		{"M-SEARCH /a/b HTTP/1.1\r\n" HOST, "M-SEARCH", "/a/b", "", "", HD_ORIGIN, 1},
		{"!#$%&'*+-.^_`|~09az / HTTP/1.1\r\n" HOST, "!#$%&'*+-.^_`|~09az", "/", "", "", HD_ORIGIN,
		 1},
		{"ABCDEFGHIJKLMNOPQRSTUVWXYZ012345 / HTTP/1.1\r\n" HOST, "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345",
		 "/", "", "", HD_ORIGIN, 1},
		{"GET /a?b HTTP/1.1\r\n" HOST, "GET", "/a", "?b", "", HD_ORIGIN, 1},
		{"GET /? HTTP/1.1\r\n" HOST, "GET", "/", "?", "", HD_ORIGIN, 1},
		{"GET /a?b?c/d HTTP/1.1\r\n" HOST, "GET", "/a", "?b?c/d", "", HD_ORIGIN, 1},
		{"GET //a HTTP/1.1\r\n" HOST, "GET", "//a", "", "", HD_ORIGIN, 1},
		{"GET /%00%zz\"<>\\^`{|}~!$&'()*+,;=:@-._[] HTTP/1.1\r\n" HOST, "GET",
		 "/%00%zz\"<>\\^`{|}~!$&'()*+,;=:@-._[]", "", "", HD_ORIGIN, 1},
		/* RFC 9112 3.2.2 */
		{"GET http://a/ HTTP/1.1\r\n" HOST, "GET", "/", "", "a", HD_ABSOLUTE, 1},
		{"GET HTTP://A:80/b?c HTTP/1.1\r\n" HOST, "GET", "/b", "?c", "A:80", HD_ABSOLUTE, 1},
		{"GET https://a HTTP/1.1\r\n" HOST, "GET", "", "", "a", HD_ABSOLUTE, 1},
		{"GET http://a?b HTTP/1.1\r\n" HOST, "GET", "", "?b", "a", HD_ABSOLUTE, 1},
		{"GET http://[::1]:8/ HTTP/1.1\r\n" HOST, "GET", "/", "", "[::1]:8", HD_ABSOLUTE, 1},
		{"GET http:/// HTTP/1.1\r\n" HOST, "GET", "/", "", "", HD_ABSOLUTE, 1}, /* judged later */
		/* RFC 9112 3.2.4 */
		{"OPTIONS * HTTP/1.1\r\n" HOST, "OPTIONS", "*", "", "", HD_ASTERISK, 1},
		{"OPTIONS http://a HTTP/1.1\r\n" HOST, "OPTIONS", "", "", "a", HD_ASTERISK, 1},
		{"OPTIONS http://a/ HTTP/1.1\r\n" HOST, "OPTIONS", "/", "", "a", HD_ABSOLUTE, 1},
		/* RFC 9112 3.2.3 */
		{"CONNECT a:443 HTTP/1.1\r\n" HOST, "CONNECT", "", "", "", HD_AUTHORITY, 1},
		/* RFC 9112 2.2: at most two empty lines before */
		{"\r\nGET / HTTP/1.1\r\n" HOST, "GET", "/", "", "", HD_ORIGIN, 1},
		{"\r\n\r\nGET / HTTP/1.1\r\n" HOST, "GET", "/", "", "", HD_ORIGIN, 1},
	};

	for (size_t i = 0; i < RP_LEN(rows); i++) {
		const char *in = rows[i].in;
		HOLDS_FOR(in, request(in) == (ptrdiff_t)strlen(in));
		HOLDS_FOR(in, h.whole && h.size == strlen(in) && h.minor == rows[i].minor);
		HOLDS_FOR(in, says(in, h.method, rows[i].method) && h.form == rows[i].form);
		HOLDS_FOR(in, says(in, h.path, rows[i].path) && says(in, h.query, rows[i].query));
		HOLDS_FOR(in, says(in, h.authority, rows[i].authority));
	}
}

static void request_lines_that_are_refused(void)
{
	static const struct {
		const char *in;
		int status;
	} rows[] = {
		/* RFC 9112 3: single SP, no other blank, CRLF */
		{"GET  / HTTP/1.1\r\n" HOST, 400},
		{"GET /  HTTP/1.1\r\n" HOST, 400},
		{"GET / HTTP/1.1 \r\n" HOST, 400},
		{" GET / HTTP/1.1\r\n" HOST, 400},
		{"GET\t/ HTTP/1.1\r\n" HOST, 400},
		{"GET /\tHTTP/1.1\r\n" HOST, 400},
		{"GET / HTTP/1.1\t\r\n" HOST, 400},
		{"GET /a b HTTP/1.1\r\n" HOST, 400},
		{"GET / HTTP/1.1\n" HOST, 400},
		{"GET / HTTP/1.1\r" HOST, 400},
		{"GET / HTTP/1.1\r\r\n" HOST, 400},
		{"\nGET / HTTP/1.1\r\n" HOST, 400},
		{"\rGET / HTTP/1.1\r\n" HOST, 400},
		{"\r\n\r\n\r\nGET / HTTP/1.1\r\n" HOST, 400},
		{"GET /\r\n", 400}, /* HTTP/0.9 */
		{"GET\r\n", 400},
		{"GET \r\n", 400},
		{"GET / \r\n", 400},
		{"/ HTTP/1.1\r\n" HOST, 400},
		{"GET HTTP/1.1\r\n" HOST, 400},
		{"GE:T / HTTP/1.1\r\n" HOST, 400},
		{"GE(T / HTTP/1.1\r\n" HOST, 400},
		{"G\xc3\x89T / HTTP/1.1\r\n" HOST, 400},
		{"\x16\x03\x01\x02", 400}, /* TLS to a plain port */
		{"\x80\x2e\x01\x03\r\n", 400},
		{"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456 / HTTP/1.1\r\n" HOST, 501}, /* 33 bytes */
		{"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", 501},
		/* RFC 9112 2.3 */
		{"GET / HTTP/2.0\r\n" HOST, 505},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505}, /* RFC 9113 3.4 */
		{"GET / HTTP/0.9\r\n" HOST, 505},
		{"GET / HTTP/3.0\r\n" HOST, 505},
		{"GET / http/1.1\r\n" HOST, 400},
		{"GET / HTTP/1\r\n" HOST, 400},
		{"GET / HTTP/1.\r\n" HOST, 400},
		{"GET / HTTP/.1\r\n" HOST, 400},
		{"GET / HTTP/1.10\r\n" HOST, 400},
		{"GET / HTTP/01.1\r\n" HOST, 400},
		{"GET / HTTP/1,1\r\n" HOST, 400},
		{"GET / HTTP/1.x\r\n" HOST, 400},
		{"GET / HTTP/+1.1\r\n" HOST, 400},
		{"GET / HTTP 1.1\r\n" HOST, 400},
		{"GET / HTTPS/1.1\r\n" HOST, 400},
		{"GET / ICY/1.1\r\n" HOST, 400},
		{"GET / HTTP/1.1x\r\n" HOST, 400},
		/* RFC 9112 3.2: forms of the target */
		{"GET * HTTP/1.1\r\n" HOST, 400},
		{"OPTIONS ** HTTP/1.1\r\n" HOST, 400},
		{"OPTIONS *a HTTP/1.1\r\n" HOST, 400},
		{"GET a HTTP/1.1\r\n" HOST, 400},
		{"GET a:80 HTTP/1.1\r\n" HOST, 400},
		{"GET ?a HTTP/1.1\r\n" HOST, 400},
		{"GET ftp://a/ HTTP/1.1\r\n" HOST, 400},
		{"GET http:/a HTTP/1.1\r\n" HOST, 400},
		{"GET httpx://a/ HTTP/1.1\r\n" HOST, 400},
		{"GET /a#b HTTP/1.1\r\n" HOST, 400},
		{"GET http://a/#b HTTP/1.1\r\n" HOST, 400},
		{"GET /\x7f HTTP/1.1\r\n" HOST, 400},
		{"GET /\x01 HTTP/1.1\r\n" HOST, 400},
		{"GET /\x80 HTTP/1.1\r\n" HOST, 400},
		{"GET /\xc3\xa4 HTTP/1.1\r\n" HOST, 400},
		{"GET /\xff HTTP/1.1\r\n" HOST, 400},
		/* RFC 9112 3.2: exactly one Host on 1.1, at most one on 1.0 */
		{"GET / HTTP/1.1\r\n\r\n", 400},
		{"GET / HTTP/1.1\r\nHosts: a\r\n\r\n", 400},
		{"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400},
		{"GET / HTTP/1.1\r\nHost: a\r\nhOST: b\r\n\r\n", 400},
		{"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", 400},
	};

	for (size_t i = 0; i < RP_LEN(rows); i++) {
		HOLDS_FOR(rows[i].in, request(rows[i].in) == -1);
		HOLDS_FOR(rows[i].in, h.status == rows[i].status);
		HOLDS_FOR(rows[i].in,
				  h.why == (rows[i].status == 501 ? WHY_METHOD_REFUSED : WHY_BAD_REQUEST));
	}
}

/* RFC 9112 5, RFC 9110 5.1, 5.5. The same lines for requests and answers. */
static void field_lines_that_are_good(void)
{
	static const char *const rows[][3] = {
		{"A: b", "A", "b"},
		{"A:b", "A", "b"},
		{"A:", "A", ""},
		{"A: ", "A", ""},
		{"A: \t ", "A", ""},
		{"A: \t b \t ", "A", "b"},
		{"A: b c\td", "A", "b c\td"},
		{"A: :b:", "A", ":b:"},
		{"A: \x80\xff", "A", "\x80\xff"}, /* obs-text goes on untouched */
		{"A: \"b\\\"", "A", "\"b\\\""},
		{"!#$%&'*+-.^_`|~09az: x", "!#$%&'*+-.^_`|~09az", "x"},
		{"a-b-c-d-e-f-g-h-i-j-k: x", "a-b-c-d-e-f-g-h-i-j-k", "x"},
	};
	char in[256];

	for (size_t i = 0; i < RP_LEN(rows); i++) {
		(void)snprintf(in, sizeof in, "GET / HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n", rows[i][0]);
		HOLDS_FOR(in, request(in) == (ptrdiff_t)strlen(in) && h.n == 2);
		HOLDS_FOR(in, says(in, h.f[1].name, rows[i][1]) && says(in, h.f[1].value, rows[i][2]));
		(void)snprintf(in, sizeof in, "HTTP/1.1 200 OK\r\n%s\r\n\r\n", rows[i][0]);
		HOLDS_FOR(in, response(in) == (ptrdiff_t)strlen(in) && h.n == 1);
		HOLDS_FOR(in, says(in, h.f[0].name, rows[i][1]) && says(in, h.f[0].value, rows[i][2]));
		HOLDS_FOR(in, !h.f[0].drop);
	}
}

static void field_lines_that_are_refused(void)
{
	static const char *const rows[] = {
		"A : b\r\n",
		"A\t: b\r\n",
		": b\r\n",
		"A\r\n",
		"A b\r\n",
		" A: b\r\n",
		"\tA: b\r\n",
		"A: b\r\n c\r\n",
		"A: b\r\n\tc\r\n",
		"A: b\r\n \r\n", /* obs-fold, RFC 9112 5.2 */
		"A: b\n",
		"A: b\nC: d\r\n",
		"A: b\rC: d\r\n",
		"A: b\r\r\n",
		"A: b\r\n\n",
		"\n",
		"\rX",
		"A: \x01\r\n",
		"A: \x1f\r\n",
		"A: \x7f\r\n",
		"A: \x0b\r\n",
		"A: \x0c\r\n",
		"A: b\x08\r\n",
		"A\x80: b\r\n",
		"A\xc3\xa4: b\r\n",
		"A(: b\r\n",
		"A\"B: c\r\n",
		"A/B: c\r\n",
		"A,B: c\r\n",
		"A;B: c\r\n",
		"A=B: c\r\n",
		"A@B: c\r\n",
		"[A]: c\r\n",
		"{A}: c\r\n",
		"A\\B: c\r\n",
		"Content-Length : 5\r\n",
		"Transfer-Encoding\x0b: chunked\r\n",
		"GET / HTTP/1.1\r\n",
	};
	char in[256];

	for (size_t i = 0; i < RP_LEN(rows); i++) {
		(void)snprintf(in, sizeof in, "GET / HTTP/1.1\r\nHost: a\r\n%s\r\n", rows[i]);
		HOLDS_FOR(in, request(in) == -1 && h.status == 400 && h.why == WHY_BAD_REQUEST);
		(void)snprintf(in, sizeof in, "GET / HTTP/1.1\r\n%sHost: a\r\n\r\n", rows[i]);
		HOLDS_FOR(in, request(in) == -1 && h.status == 400);
		(void)snprintf(in, sizeof in, "HTTP/1.1 200 OK\r\n%s\r\n", rows[i]);
		HOLDS_FOR(in, response(in) == -1 && h.why == WHY_UP_BAD);
	}
}

/* A byte that is none of the grammar's, at every place of a head: never taken, however it comes. */
static void controls_are_refused_everywhere(void)
{
	static const char good[2][64] = {"GET /a?b HTTP/1.1\r\nHost: a\r\nA: b c\r\n\r\n",
									 "HTTP/1.1 200 A B\r\nA: b c\r\nD:e\r\n\r\n"};

	for (int k = 0; k < 2; k++)
		for (size_t at = 0; at < strlen(good[k]); at++)
			for (int c = 0; c < 256; c++) {
				char in[64];
				size_t n = strlen(good[k]);
				memcpy(in, good[k], n);
				in[at] = (char)c;
				ptrdiff_t r = parse(k == 1, in, n, NULL, 0, 4096), r2;
				struct hd_span method = h.method;
				r2 = parse(k == 1, in, n, &at, 1, 4096);
				HOLDS_FOR(good[k], r == r2 && same_span(method, h.method));
				if (c == good[k][at])
					HOLDS_FOR(good[k], r == (ptrdiff_t)n);
				else if ((c < 0x20 && c != '\t') || c == 0x7f || good[k][at] < ' ')
					HOLDS_FOR(good[k], r <= 0);
			}
}

/* RFC 9112 4, RFC 9110 15. */
static void status_lines(void)
{
	static const struct {
		const char *line, *reason;
		int status, minor; /* 0: refused */
	} rows[] = {
		{"HTTP/1.1 200 OK", "OK", 200, 1},
		{"HTTP/1.0 200 OK", "OK", 200, 0},
		{"HTTP/1.1 200 ", "", 200, 1},
		{"HTTP/1.1 200", "", 200, 1}, /* no blank: so many send it */
		{"HTTP/1.1 404 Not Found", "Not Found", 404, 1},
		{"HTTP/1.1 100 Continue", "Continue", 100, 1},
		{"HTTP/1.1 599 x", "x", 599, 1},
		{"HTTP/1.1 200  two  \tblanks ", " two  \tblanks ", 200, 1},
		{"HTTP/1.1 200 \xc3\xa4", "\xc3\xa4", 200, 1},
		{"HTTP/1.2 200 OK", "OK", 200, 1},
		{"HTTP/1.1 099 x", "", 0, 0},
		{"HTTP/1.1 000 x", "", 0, 0},
		{"HTTP/1.1 600 x", "", 0, 0},
		{"HTTP/1.1 999 x", "", 0, 0},
		{"HTTP/1.1 20 OK", "", 0, 0},
		{"HTTP/1.1 2000 OK", "", 0, 0},
		{"HTTP/1.1 2x0 OK", "", 0, 0},
		{"HTTP/1.1 +20 OK", "", 0, 0},
		{"HTTP/1.1  200 OK", "", 0, 0},
		{"HTTP/1.1\t200 OK", "", 0, 0},
		{"HTTP/1.1 200\tOK", "", 0, 0},
		{"HTTP/1.1 200OK", "", 0, 0},
		{"HTTP/1.1", "", 0, 0},
		{"HTTP/1.1 ", "", 0, 0},
		{" HTTP/1.1 200 OK", "", 0, 0},
		{"HTTP/2.0 200 OK", "", 0, 0},
		{"HTTP/2 200", "", 0, 0},
		{"HTTP/0.9 200 OK", "", 0, 0},
		{"HTTP/1.x 200 OK", "", 0, 0},
		{"http/1.1 200 OK", "", 0, 0},
		{"ICY 200 OK", "", 0, 0},
		{"SSH-2.0-x", "", 0, 0},
		{"<html>", "", 0, 0},
		{"", "", 0, 0}, /* no empty line before an answer */
	};
	char in[256];

	for (size_t i = 0; i < RP_LEN(rows); i++) {
		(void)snprintf(in, sizeof in, "%s\r\nA: b\r\n\r\n", rows[i].line);
		ptrdiff_t r = response(in);
		HOLDS_FOR(in, r == (rows[i].status ? (ptrdiff_t)strlen(in) : -1));
		if (r > 0)
			HOLDS_FOR(in, h.status == rows[i].status && h.minor == rows[i].minor &&
							  says(in, h.reason, rows[i].reason));
		else
			HOLDS_FOR(in, h.why == WHY_UP_BAD);
	}
	HOLDS(parse(true, "SSH-", 4, NULL, 0, 4096) == -1); /* its line may never end */
}

/* A head of n bytes in all, whose one long field fills it up. */
static size_t fill(char *in, const char *first, size_t n)
{
	size_t k = strlen(first);

	memcpy(in, first, k);
	memcpy(in + k, "A: ", 3);
	memset(in + k + 3, 'x', n - k - 3);
	memcpy(in + n - 4, "\r\n\r\n", 4);
	return n;
}

static void a_head_has_its_limit(void)
{
	static char in[RP_HEAD_MAX + 8192];
	static const uint32_t max[] = {RP_HEAD_MIN, 4095, RP_HEAD_MAX};

	for (size_t i = 0; i < RP_LEN(max); i++)
		for (int k = 0; k < 2; k++) {
			const char *first = k ? "HTTP/1.1 200 OK\r\n" : "GET / HTTP/1.1\r\nHost: a\r\n";
			for (uint32_t n = max[i] - 3; n <= max[i] + 3; n++) {
				ptrdiff_t r = parse_all_ways(k, in, fill(in, first, n), max[i]);
				HOLDS(r == (n <= max[i] ? (ptrdiff_t)n : -1));
				HOLDS(n <= max[i] || (h.status == (k ? 502 : 431) &&
									  h.why == (k ? WHY_UP_BAD : WHY_HEAD_TOO_BIG)));
			}
			/* one that never ends is refused as soon as it is over */
			(void)fill(in, first, max[i] + 200);
			HOLDS(parse(k, in, max[i], NULL, 0, max[i]) == 0);
			HOLDS(parse(k, in, max[i] + 1, NULL, 0, max[i]) == -1 && h.status == (k ? 502 : 431));
		}
	/* bytes behind the head don't count */
	size_t n = fill(in, "GET / HTTP/1.1\r\nHost: a\r\n", 1000);
	memset(in + n, 0, sizeof in - n);
	HOLDS(parse(false, in, sizeof in, NULL, 0, RP_HEAD_MIN) == 1000);
}

/* RFC 9112 3: 414 past RP_LINE_MAX, and RP_METHOD_MAX while the line has no end yet. */
static void a_request_line_has_its_limit(void)
{
	static char in[RP_LINE_MAX + 4096];

	for (size_t n = RP_LINE_MAX - 2; n <= RP_LINE_MAX + 2; n++) {
		memset(in, 'a', sizeof in);
		memcpy(in, "GET /", 5);
		memcpy(in + n - 9, " HTTP/1.1\r\nHost: a\r\n\r\n", 22);
		for (size_t cut = n - 12; cut < n + 4; cut++) {
			ptrdiff_t r = parse(false, in, n + 13, &cut, 1, 32768);
			HOLDS(r == (n <= RP_LINE_MAX ? (ptrdiff_t)n + 13 : -1));
			HOLDS(r > 0 || (h.status == 414 && h.why == WHY_URI_TOO_LONG));
		}
	}
	memset(in, 'a', sizeof in);
	memcpy(in, "GET /", 5);
	HOLDS(parse(false, in, RP_LINE_MAX, NULL, 0, 32768) == 0);
	HOLDS(parse(false, in, RP_LINE_MAX + 1, NULL, 0, 32768) == -1 && h.status == 414);
	memset(in, 'A', 64);
	HOLDS(parse(false, in, RP_METHOD_MAX, NULL, 0, 32768) == 0);
	HOLDS(parse(false, in, RP_METHOD_MAX + 1, NULL, 0, 32768) == -1 && h.status == 501);
}

static void fields_are_counted(void)
{
	static char in[4096];

	for (int k = 0; k < 2; k++)
		for (unsigned fields = RP_FIELDS_MAX - 1; fields <= RP_FIELDS_MAX + 1; fields++) {
			int n =
				snprintf(in, sizeof in, "%s",
						 k ? "HTTP/1.1 200 OK\r\nHost: a\r\n" : "GET / HTTP/1.1\r\nHost: a\r\n");
			for (unsigned i = 1; i < fields; i++)
				n += snprintf(in + n, sizeof in - (size_t)n, "F%u: %u\r\n", i, i);
			n += snprintf(in + n, sizeof in - (size_t)n, "\r\n");
			ptrdiff_t r = parse_all_ways(k, in, (size_t)n, 32768);
			HOLDS(r == (fields <= RP_FIELDS_MAX ? n : -1));
			HOLDS(r > 0 ? h.n == fields : h.status == (k ? 502 : 431));
		}
}

/* RFC 9110 7.6.1. */
static void connection_takes_its_fields_with_it(void)
{
	static const struct {
		const char *fields, *want; /* want NULL: refused */
		bool close, keep, upgrade;
	} rows[] = {
		{"Connection: close\r\nA: b\r\n", "A: b\r\n", true, false, false},
		{"Connection: CLOSE\r\n", "", true, false, false},
		{"Connection: closed\r\n", "", false, false, false},
		{"Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n", "", false, true, false},
		{"Connection: keep-alive, close\r\n", "", true, true, false},
		{"Connection: ,, \t,a ,\r\nA: b\r\nB: c\r\n", "B: c\r\n", false, false, false},
		{"A: b\r\nConnection: a\r\na: c\r\nB: d\r\nA: e\r\n", "B: d\r\n", false, false, false},
		{"Connection: x\r\nConnection: close, y\r\nX: 1\r\nY: 2\r\nZ: 3\r\n", "Z: 3\r\n", true,
		 false, false},
		{"Connection: Upgrade\r\nUpgrade: websocket\r\n", "", false, false, true},
		{"Connection: upgradex\r\n", "", false, false, false},
		{"Connection: cookie, authorization\r\nCookie: a\r\nAuthorization: b\r\nC: d\r\n",
		 "C: d\r\n", false, false, false},
		{"Connection:\r\nA: b\r\n", "A: b\r\n", false, false, false},
		{"Connection: \"a\"\r\nA: b\r\n", "A: b\r\n", false, false, false},
		/* what would take away framing or host is an attack */
		{"Connection: content-length\r\n", NULL, false, false, false},
		{"Connection: a, Transfer-Encoding\r\n", NULL, false, false, false},
		{"Connection: HOST\r\n", NULL, false, false, false},
		{"Connection: close\r\nConnection: host\r\n", NULL, false, false, false},
	};
	char in[512], out[512];

	for (size_t i = 0; i < RP_LEN(rows); i++)
		for (int k = 0; k < 2; k++) {
			(void)snprintf(in, sizeof in, "%s\r\n%s\r\n",
						   k ? "HTTP/1.1 200 OK" : "GET / HTTP/1.1\r\nHost: a", rows[i].fields);
			ptrdiff_t r = k ? response(in) : request(in);
			HOLDS_FOR(in, r == (rows[i].want ? (ptrdiff_t)strlen(in) : -1));
			if (r < 0) {
				HOLDS_FOR(in, h.why == (k ? WHY_UP_BAD : WHY_BAD_REQUEST));
				continue;
			}
			struct sb b = sb_of(out, sizeof out);
			hd_copy(&b, &h, in, hd_hop);
			HOLDS_FOR(in, rows[i].want && sl_is(sl_mk(out, b.n), rows[i].want));
			HOLDS_FOR(in, h.close == rows[i].close && h.keep == rows[i].keep);
			HOLDS_FOR(in, h.upgrade == rows[i].upgrade);
		}
}

/* CGI makes one name of X-Forwarded-For and X_Forwarded_For: only plain names go to a backend. */
static void odd_field_names_do_not_go_on(void)
{
	static const char in[] =
		"GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 1\r\nA.b: 2\r\nA!: 3\r\n"
		"Plain-1: 4\r\n\r\n";
	static const char rsp[] = "HTTP/1.1 200 OK\r\nX_a: 1\r\nA.b: 2\r\n\r\n";
	char out[256];
	struct sb b = sb_of(out, sizeof out);

	HOLDS(request(in) > 0);
	hd_copy(&b, &h, in, hd_hop);
	HOLDS(sl_is(sl_mk(out, b.n), "Plain-1: 4\r\n"));
	HOLDS(response(rsp) > 0);
	b = sb_of(out, sizeof out);
	hd_copy(&b, &h, rsp, hd_hop);
	HOLDS(sl_is(sl_mk(out, b.n), "X_a: 1\r\nA.b: 2\r\n"));
}

/* One by one, for comparing. */
static void copy_plainly(struct sb *b, const char *base, uint64_t out)
{
	for (unsigned i = 0; i < h.n; i++)
		if (!h.f[i].drop && !(out >> h.f[i].id & 1)) {
			sb_put(b, hd_sl(base, h.f[i].name));
			sb_str(b, ": ");
			sb_put(b, hd_sl(base, h.f[i].value));
			sb_crlf(b);
		}
}

/* Random mixes of usual and odd spellings, dropped and kept: the pieces add up. */
static void copying_in_pieces_is_copying_one_by_one(void)
{
	static const char *const bits[] = {"A: b\r\n",
									   "Bc:d\r\n",
									   "E:\r\n",
									   "F: \r\n",
									   "G:  h \r\n",
									   "TE: trailers\r\n",
									   "Date: x\r\n",
									   "I-j: k l\t\r\n",
									   "Via: 1.1 x\r\n",
									   "X_y: z\r\n",
									   "E:\t\r\n",
									   "Upgrade: h2c\r\n",
									   "Connection: a, te\r\n",
									   "X-Forwarded-Foo: 1\r\n"};
	uint32_t seed = 7;
	char in[1024], one[1024], two[1024];

	for (int round = 0; round < 5000; round++) {
		int n = snprintf(in, sizeof in, "GET / HTTP/1.1\r\nHost: a\r\n");
		seed = seed * 1664525u + 1013904223u;
		for (uint32_t k = seed >> 24 & 15; k; k--) {
			seed = seed * 1664525u + 1013904223u;
			n += snprintf(in + n, sizeof in - (size_t)n, "%s", bits[(seed >> 8) % RP_LEN(bits)]);
		}
		n += snprintf(in + n, sizeof in - (size_t)n, "\r\n");
		HOLDS_FOR(in, parse(false, in, (size_t)n, NULL, 0, 4096) == n);
		uint64_t out = round % 3 ? hd_hop : round % 2 ? hd_claims | HD_BIT(DATE) : 0;
		if (round % 5 == 0)
			hd_hide(&h, in, "vIA");
		if (round % 7 == 0)
			hd_drop(&h, HF_DATE);
		struct sb a = sb_of(one, sizeof one), b = sb_of(two, sizeof two);
		hd_copy(&a, &h, in, out);
		copy_plainly(&b, in, out);
		HOLDS_FOR(in, !a.over && sl_eq(sl_mk(one, a.n), sl_mk(two, b.n)));
	}
}

static void known_fields_are_known_in_any_case(void)
{
	char in[256], upper[64];

	for (int id = HF_OTHER + 1; id < HF_XF_OTHER; id++) {
		const char *name = hd_names[id].text;
		size_t n = strlen(name);
		for (size_t i = 0; i <= n; i++)
			upper[i] =
				(char)(name[i] >= 'a' && name[i] <= 'z' && i % 2 == 0 ? name[i] - 32 : name[i]);
		HOLDS_FOR(name,
				  (int)hd_lookup(sl_mk(name, n)) == id && (int)hd_lookup(sl_mk(upper, n)) == id);
		HOLDS_FOR(name, (int)hd_lookup(sl_mk(name, n - 1)) != id);
		upper[1] = '_';
		HOLDS_FOR(name, (int)hd_lookup(sl_mk(upper, n)) != id);
		(void)snprintf(in, sizeof in, "HTTP/1.1 200 OK\r\nA: 1\r\n%s: 2\r\nB: 3\r\n%s: 4\r\n\r\n",
					   name, name);
		ptrdiff_t r = parse(true, in, strlen(in), NULL, 0, 4096);
		HOLDS_FOR(name, r == (ptrdiff_t)strlen(in));
		HOLDS_FOR(name, hd_has(&h, (enum hd_id)id) && hd_twice(&h, (enum hd_id)id));
		HOLDS_FOR(name, sl_is(hd_value(&h, in, (enum hd_id)id), "2"));
	}
	HOLDS(hd_lookup(sl_of("X-Forwarded-Anything")) == HF_XF_OTHER);
	HOLDS(hd_lookup(sl_of("x-forwarded-")) == HF_XF_OTHER);
	HOLDS(hd_lookup(sl_of("X-Forwarded")) == HF_XF_OTHER);
	HOLDS(hd_lookup(sl_of("CF-Ray")) == HF_CF_OTHER && hd_lookup(sl_of("cf-")) == HF_CF_OTHER);
	HOLDS(hd_lookup(sl_of("X-Forward-For")) == HF_OTHER && hd_lookup(sl_of("CF")) == HF_OTHER);
	HOLDS(hd_lookup(sl_of("X")) == HF_OTHER);
	char wide[260]; /* 256 more than "host": not to be taken for it */
	memset(wide, 'x', sizeof wide);
	wide[0] = 'h';
	wide[259] = 't';
	HOLDS(hd_lookup(sl_mk(wide, 260)) == HF_OTHER);
	HOLDS(request("GET / HTTP/1.1\r\nHost: a\r\n\r\n") > 0 && !hd_find(&h, HF_DATE));
	HOLDS(hd_value(&h, "", HF_DATE).n == 0);
}

/* RFC 9110 7.2, RFC 3986 3.2.2, 3.2.3. */
static void authorities(void)
{
	static const char *const rows[][3] = {
		/* text, host ("" refused), port */
		{"a", "a", ""},
		{"A.Example.ORG", "a.example.org", ""},
		{"a.", "a", ""},
		{"a.:80", "a", "80"},
		{"a:", "a", ""},
		{"a:80", "a", "80"},
		{"a:0", "a", "0"},
		{"a:65535", "a", "65535"},
		{"a:00080", "a", "00080"},
		{"a_b.c", "a_b.c", ""},
		{"1.2.3.4:8", "1.2.3.4", "8"},
		{"xn--4ca.de", "xn--4ca.de", ""},
		{"[::1]", "[::1]", ""},
		{"[::1]:80", "[::1]", "80"},
		{"[::1]:", "[::1]", ""},
		{"[2001:DB8:0:0::1]", "[2001:db8::1]", ""},
		{"[0:0:0:0:0:0:0:1]", "[::1]", ""},
		{"[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]:1",
		 "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]", "1"},
		{"", "", ""},
		{":80", "", ""},
		{"a:b", "", ""},
		{"a:65536", "", ""},
		{"a:-1", "", ""},
		{"a:+1", "", ""},
		{"a:80:80", "", ""},
		{"a:80 ", "", ""},
		{"a b", "", ""},
		{"a,b", "", ""},
		{"a/b", "", ""},
		{"a?b", "", ""},
		{"a#b", "", ""},
		{"a@b", "", ""},
		{"user:pw@b", "", ""},
		{"a\\b", "", ""},
		{"a%20b", "", ""},
		{"a..b", "", ""},
		{".a", "", ""},
		{".", "", ""},
		{"..", "", ""},
		{"-a", "", ""},
		{"a-", "", ""},
		{"a-.b", "", ""},
		{"a.-b", "", ""},
		{"*", "", ""},
		{"*.a", "", ""},
		{"\xc3\xa4.de", "", ""},
		{"::1", "", ""},
		{"[", "", ""},
		{"[]", "", ""},
		{"[]:80", "", ""},
		{"[::1", "", ""},
		{"[::1]a", "", ""},
		{"[::1].", "", ""},
		{"[::1]]", "", ""},
		{"[[::1]]", "", ""},
		{"[::1%25eth0]", "", ""},
		{"[::1%eth0]", "", ""},
		{"[1.2.3.4]", "", ""},
		{"[v1.a]", "", ""},
		{"[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.2555]", "", ""},
		{"[0000:0000:0000:0000:0000:0000:0000:0000:0000:0000]", "", ""},
	};
	char out[RP_NAME_MAX + 3], name[300];
	struct sl port;

	for (size_t i = 0; i < RP_LEN(rows); i++) {
		size_t len = strlen(rows[i][0]);
		char *copy = malloc(len ? len : 1);
		memcpy(copy, rows[i][0], len);
		size_t n = hd_authority(sl_mk(copy, len), out, &port);
		HOLDS_FOR(rows[i][0], sl_is(sl_mk(out, n), rows[i][1]));
		if (n)
			HOLDS_FOR(rows[i][0], sl_is(port, rows[i][2]) && out[n] == 0);
		free(copy);
	}
	HOLDS(hd_authority(sl_mk("[\0::1]", 6), out, &port) == 0);
	HOLDS(hd_authority(sl_mk("[::1\0]", 6), out, &port) == 0);
	HOLDS(hd_authority(sl_mk("a\0b", 3), out, &port) == 0);
	for (size_t i = 0; i < sizeof name; i++)
		name[i] = i % 64 == 63 ? '.' : 'a';
	HOLDS(hd_authority(sl_mk(name, 253), out, &port) == 253);
	name[253] = '.';
	HOLDS(hd_authority(sl_mk(name, 254), out, &port) == 253);
	name[253] = 'a';
	HOLDS(hd_authority(sl_mk(name, 254), out, &port) == 0);
	memset(name, 'a', sizeof name);
	HOLDS(hd_authority(sl_mk(name, 63), out, &port) == 63);
	HOLDS(hd_authority(sl_mk(name, 64), out, &port) == 0);
}

/* Pipelined: the second head is left where it is. */
static void nothing_behind_the_head_is_taken(void)
{
	static const char in[] =
		"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET /2 HTTP/1.1\r\nHost: b\r\n\r\n";

	ptrdiff_t n = request(in);
	HOLDS(n == 28 && h.whole && h.n == 1 && says(in, h.path, "/1"));
	n = request(in + n);
	HOLDS(n == 30 && h.empty_lines == 1 && says(in + 28, h.path, "/2"));
	HOLDS(response("HTTP/1.1 100 C\r\n\r\nHTTP/1.1 200 OK\r\n\r\n") == 18);
	HOLDS(request("") == 0 && request("\r") == 0 &&
		  request("GET / HTTP/1.1\r\nHost: a\r\n\r") == 0);
}

int main(void)
{
	RUN(request_lines_that_are_good);
	RUN(request_lines_that_are_refused);
	RUN(field_lines_that_are_good);
	RUN(field_lines_that_are_refused);
	RUN(controls_are_refused_everywhere);
	RUN(status_lines);
	RUN(a_head_has_its_limit);
	RUN(a_request_line_has_its_limit);
	RUN(fields_are_counted);
	RUN(connection_takes_its_fields_with_it);
	RUN(odd_field_names_do_not_go_on);
	RUN(copying_in_pieces_is_copying_one_by_one);
	RUN(known_fields_are_known_in_any_case);
	RUN(authorities);
	RUN(nothing_behind_the_head_is_taken);
	return unit_end();
}
