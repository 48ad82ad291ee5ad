/* unit_body.c: room BODY: how long a message is, and reading to its end.
 *
 * SPDX-License-Identifier: MIT
 */
#include "unit.h"

#define RP_NO_MAIN 1
#include "../rproxy.c"

/* Reads a head of these field lines; the memory stays as long as the next call. */
static struct hd h;
static char text[4096];

static void head(const char *first, const char *fields)
{
	int n = snprintf(text, sizeof text, "%s\r\n%s\r\n", first, fields);

	hd_reset(&h, first[0] == 'H');
	HOLDS_FOR(fields, hd_parse(&h, sl_mk(text, (size_t)n), RP_HEAD_MAX) == n);
}

static void a_request_is_framed_in_one_way_or_refused(void)
{
	static const struct {
		const char *fields;
		int minor, want; /* enum fr_kind, -1 refused */
		uint64_t left;
	} rows[] = {
		/* RFC 9112 6.3 7: neither: no body */
		{"", 1, FR_NONE, 0},
		{"", 0, FR_NONE, 0},
		/* RFC 9112 6.3 6, RFC 9110 8.6 */
		{"Content-Length: 0\r\n", 1, FR_LENGTH, 0},
		{"Content-Length: 5\r\n", 1, FR_LENGTH, 5},
		{"Content-Length: 5\r\n", 0, FR_LENGTH, 5},
		{"content-LENGTH:5\r\n", 1, FR_LENGTH, 5},
		{"Content-Length: \t 5 \t\r\n", 1, FR_LENGTH, 5},
		{"Content-Length: 00005\r\n", 1, FR_LENGTH, 5},
		{"Content-Length: 9223372036854775807\r\n", 1, FR_LENGTH, INT64_MAX},
		{"Content-Length: 9223372036854775808\r\n", 1, -1, 0},
		{"Content-Length: 18446744073709551616\r\n", 1, -1, 0},
		{"Content-Length: 18446744073709551621\r\n", 1, -1, 0},
		{"Content-Length: 100000000000000000000000000000000000005\r\n", 1, -1, 0},
		{"Content-Length:\r\n", 1, -1, 0},
		{"Content-Length: +5\r\n", 1, -1, 0},
		{"Content-Length: -5\r\n", 1, -1, 0},
		{"Content-Length: -0\r\n", 1, -1, 0},
		{"Content-Length: 0x5\r\n", 1, -1, 0},
		{"Content-Length: 5 \t5\r\n", 1, -1, 0},
		{"Content-Length: 5,\r\n", 1, -1, 0},
		{"Content-Length: ,5\r\n", 1, -1, 0},
		{"Content-Length: 5, 5\r\n", 1, -1, 0},
		{"Content-Length: 5;\r\n", 1, -1, 0},
		{"Content-Length: 5.0\r\n", 1, -1, 0},
		{"Content-Length: 5e0\r\n", 1, -1, 0},
		{"Content-Length: 1_0\r\n", 1, -1, 0},
		{"Content-Length: \"5\"\r\n", 1, -1, 0},
		{"Content-Length: \xd9\xa5\r\n", 1, -1, 0}, /* a digit to Unicode */
		{"Content-Length: chunked\r\n", 1, -1, 0},
		/* RFC 9112 6.3 5: several, even alike */
		{"Content-Length: 5\r\nContent-Length: 5\r\n", 1, -1, 0},
		{"Content-Length: 5\r\nContent-Length: 6\r\n", 1, -1, 0},
		{"Content-Length: 5\r\ncontent-length: 6\r\n", 1, -1, 0},
		{"Content-Length: 0\r\nA: b\r\nContent-Length: 0\r\n", 1, -1, 0},
		/* RFC 9112 6.1, 6.3 4 */
		{"Transfer-Encoding: chunked\r\n", 1, FR_CHUNKED, 0},
		{"transfer-encoding:ChUnKeD\r\n", 1, FR_CHUNKED, 0},
		{"Transfer-Encoding: \tchunked \r\n", 1, FR_CHUNKED, 0},
		{"Transfer-Encoding: chunked\r\n", 0, -1, 0}, /* RFC 9112 6.1: not in 1.0 */
		{"Transfer-Encoding:\r\n", 1, -1, 0},
		{"Transfer-Encoding: identity\r\n", 1, -1, 0},
		{"Transfer-Encoding: gzip\r\n", 1, -1, 0},
		{"Transfer-Encoding: gzip, chunked\r\n", 1, -1, 0},
		{"Transfer-Encoding: chunked, gzip\r\n", 1, -1, 0},
		{"Transfer-Encoding: chunked, chunked\r\n", 1, -1, 0},
		{"Transfer-Encoding: chunked,\r\n", 1, -1, 0},
		{"Transfer-Encoding: ,chunked\r\n", 1, -1, 0},
		{"Transfer-Encoding: chunked;q=1\r\n", 1, -1, 0},
		{"Transfer-Encoding: \"chunked\"\r\n", 1, -1, 0},
		{"Transfer-Encoding: xchunked\r\n", 1, -1, 0},
		{"Transfer-Encoding: chunkedx\r\n", 1, -1, 0},
		{"Transfer-Encoding: chunke\r\n", 1, -1, 0},
		{"Transfer-Encoding: chunked\x85\r\n", 1, -1, 0},
		{"Transfer-Encoding: \xa0"
		 "chunked\r\n",
		 1, -1, 0},
		{"Transfer-Encoding: chun\xc5\xbf"
		 "ed\r\n",
		 1, -1, 0},
		{"Transfer-Encoding: \xe2\x84\xaa\r\n", 1, -1, 0},
		{"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 1, -1, 0},
		{"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", 1, -1, 0},
		{"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", 1, -1, 0},
		/* RFC 9112 6.3 3: both */
		{"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 1, -1, 0},
		{"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", 1, -1, 0},
		{"Transfer-Encoding: x\r\nContent-Length: 5\r\n", 1, -1, 0},
		{"Content-Length: x\r\nTransfer-Encoding: chunked\r\n", 1, -1, 0},
		/* other names are other fields */
		{"Transfer_Encoding: chunked\r\n", 1, FR_NONE, 0},
		{"X-Content-Length: 5\r\n", 1, FR_NONE, 0},
		{"Content-Lengt: 5\r\n", 1, FR_NONE, 0},
		{"Content-Lengthh: 5\r\n", 1, FR_NONE, 0},
	};

	for (size_t i = 0; i < RP_LEN(rows); i++) {
		char fields[1024];
		struct fr f;
		(void)snprintf(fields, sizeof fields, "Host: a\r\n%s", rows[i].fields);
		head(rows[i].minor ? "POST / HTTP/1.1" : "POST / HTTP/1.0", fields);
		int r = fr_decide_request(&h, text, &f);
		HOLDS_FOR(rows[i].fields, r == (rows[i].want < 0 ? -1 : 0));
		if (r == 0 && rows[i].want >= 0) {
			HOLDS_FOR(rows[i].fields, (int)f.kind == rows[i].want && f.left == rows[i].left);
			HOLDS_FOR(rows[i].fields, f.done == (f.kind != FR_CHUNKED && !f.left));
			HOLDS_FOR(rows[i].fields, !f.no_reuse && !f.total);
		}
	}
}

static void an_answer_is_framed_by_its_status_and_fields(void)
{
	static const struct {
		const char *line, *fields;
		bool head;
		int want;
		uint64_t left;
		bool no_reuse;
	} rows[] = {
		/* RFC 9112 6.3 1: no body, whatever the fields say */
		{"HTTP/1.1 200 OK", "Content-Length: 5\r\n", true, FR_NONE, 0, false},
		{"HTTP/1.1 200 OK", "Transfer-Encoding: chunked\r\n", true, FR_NONE, 0, false},
		{"HTTP/1.1 200 OK", "", true, FR_NONE, 0, false},
		{"HTTP/1.1 100 Continue", "", false, FR_NONE, 0, false},
		{"HTTP/1.1 101 X", "Content-Length: 5\r\n", false, FR_NONE, 0, false},
		{"HTTP/1.1 204 No", "", false, FR_NONE, 0, false},
		{"HTTP/1.1 204 No", "Transfer-Encoding: chunked\r\n", false, FR_NONE, 0, true},
		{"HTTP/1.1 103 E", "Transfer-Encoding: chunked\r\n", false, FR_NONE, 0, true},
		{"HTTP/1.1 304 N", "Content-Length: 99\r\n", false, FR_NONE, 0, false},
		{"HTTP/1.1 304 N", "Transfer-Encoding: chunked\r\n", false, FR_NONE, 0, false},
		/* RFC 9112 6.3 4, 6 */
		{"HTTP/1.1 200 OK", "Content-Length: 5\r\n", false, FR_LENGTH, 5, false},
		{"HTTP/1.1 200 OK", "Content-Length: 0\r\n", false, FR_LENGTH, 0, false},
		{"HTTP/1.0 200 OK", "Content-Length: 5\r\n", false, FR_LENGTH, 5, false},
		{"HTTP/1.1 200 OK", "Transfer-Encoding: Chunked\r\n", false, FR_CHUNKED, 0, false},
		{"HTTP/1.1 205 Reset", "Content-Length: 0\r\n", false, FR_LENGTH, 0, false},
		{"HTTP/1.1 500 E", "Content-Length: 5\r\n", false, FR_LENGTH, 5, false},
		/* RFC 9112 6.3 3: the coding wins; the connection is in doubt */
		{"HTTP/1.1 200 OK", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", false,
		 FR_CHUNKED, 0, true},
		{"HTTP/1.1 200 OK", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", true, FR_NONE, 0,
		 true},
		/* RFC 9112 6.3 8 */
		{"HTTP/1.1 200 OK", "", false, FR_CLOSE, 0, true},
		{"HTTP/1.0 200 OK", "", false, FR_CLOSE, 0, true},
		{"HTTP/1.1 404 N", "", false, FR_CLOSE, 0, true},
		/* RFC 9112 6.3 4, 5: what can't be read is 502 */
		{"HTTP/1.1 200 OK", "Content-Length: 5\r\nContent-Length: 5\r\n", false, -1, 0, false},
		{"HTTP/1.1 200 OK", "Content-Length: 5, 5\r\n", false, -1, 0, false},
		{"HTTP/1.1 200 OK", "Content-Length: x\r\n", false, -1, 0, false},
		{"HTTP/1.1 200 OK", "Content-Length: 9223372036854775808\r\n", false, -1, 0, false},
		{"HTTP/1.1 200 OK", "Transfer-Encoding: gzip\r\n", false, -1, 0, false},
		{"HTTP/1.1 200 OK", "Transfer-Encoding: gzip, chunked\r\n", false, -1, 0, false},
		{"HTTP/1.1 200 OK", "Transfer-Encoding: identity\r\n", false, -1, 0, false},
		{"HTTP/1.1 200 OK", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", false,
		 -1, 0, false},
		{"HTTP/1.0 200 OK", "Transfer-Encoding: chunked\r\n", false, -1, 0, false},
		{"HTTP/1.1 304 N", "Content-Length: x\r\n", false, -1, 0, false},
		{"HTTP/1.1 204 N", "Transfer-Encoding: x\r\n", false, -1, 0, false},
	};

	for (size_t i = 0; i < RP_LEN(rows); i++) {
		struct fr f;
		char row[128];
		(void)snprintf(row, sizeof row, "%zu: %s %.60s", i, rows[i].line, rows[i].fields);
		head(rows[i].line, rows[i].fields);
		int r = fr_decide_response(&h, text, rows[i].head, &f);
		HOLDS_FOR(row, r == (rows[i].want < 0 ? -1 : 0));
		if (r == 0 && rows[i].want >= 0) {
			HOLDS_FOR(row, (int)f.kind == rows[i].want && f.left == rows[i].left);
			HOLDS_FOR(row, f.no_reuse == rows[i].no_reuse);
			HOLDS_FOR(row, f.done == (f.kind == FR_NONE || (f.kind == FR_LENGTH && !f.left)));
		}
	}
}

/* What came of scanning: bytes taken (-1: malformed), whether it ended, the payload. */
struct got {
	ptrdiff_t used;
	bool done;
	size_t n;
	uint64_t total;
	char p[70000];
};

/* Scans in[] in pieces that end at cut[], each from memory of just its size. */
static void scan(struct fr f, const char *in, size_t n, const size_t *cut, size_t ncut,
				 struct got *g)
{
	size_t at = 0;

	g->used = 0;
	g->n = 0;
	for (size_t k = 0; k <= ncut && g->used >= 0 && !f.done; k++) {
		size_t end = k < ncut ? cut[k] : n;
		char *piece = malloc(end > at ? end - at : 1);
		size_t have = end - at, done = 0;
		memcpy(piece, in + at, have);
		while (done < have && !f.done) {
			struct sl payload;
			ptrdiff_t r = fr_scan(&f, sl_mk(piece + done, have - done), &payload);
			if (r < 0) {
				g->used = -1;
				break;
			}
			HOLDS(r > 0 && (size_t)r <= have - done);
			if (r <= 0)
				break;
			if (payload.n) {
				HOLDS(payload.p >= piece + done &&
					  payload.p + payload.n <= piece + done + (size_t)r);
				memcpy(g->p + g->n, payload.p, payload.n);
				g->n += payload.n;
			}
			done += (size_t)r;
			g->used += r;
		}
		free(piece);
		at = end;
	}
	g->done = f.done;
	g->total = f.total;
}

static bool alike(const struct got *a, const struct got *b)
{
	return a->used == b->used && a->done == b->done &&
		   (a->used < 0 || (a->n == b->n && a->total == b->total && memcmp(a->p, b->p, a->n) == 0));
}

/* Whole, byte by byte, and cut in two at every place: the same. Leaves the whole one in *g. */
static void scan_all_ways(struct fr f, const char *in, size_t n, struct got *g)
{
	static struct got other;
	size_t cut[4096];

	scan(f, in, n, NULL, 0, g);
	for (size_t i = 0; i < n; i++)
		cut[i] = i;
	scan(f, in, n, cut, n, &other);
	HOLDS_FOR(in, alike(g, &other));
	for (size_t i = 1; i < n; i++) {
		scan(f, in, n, &i, 1, &other);
		HOLDS_FOR(in, alike(g, &other));
	}
}

static const struct fr chunked = {.kind = FR_CHUNKED};

static void a_chunked_body_is_read_as_strictly_as_it_is_written(void)
{
	/* payload NULL: malformed; a "+" before it: the body goes on behind in[] */
	static const struct {
		const char *in, *payload;
	} rows[] = {
		/* RFC 9112 7.1 */
		{"0\r\n\r\n", ""},
		{"5\r\nhello\r\n0\r\n\r\n", "hello"},
		{"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "hello world"},
		{"00005\r\nhello\r\n0000\r\n\r\n", "hello"},
		{"0000000000000005\r\nhello\r\n0\r\n\r\n", "hello"},
		{"a\r\n0123456789\r\n0\r\n\r\n", "0123456789"},
		{"A\r\n0123456789\r\n0\r\n\r\n", "0123456789"},
		{"2\r\n\r\n\r\n0\r\n\r\n", "\r\n"},
		{"7fffffffffffffff\r\nx", "+x"},
		{"", "+"},
		{"5", "+"},
		{"5\r\nhe", "+he"},
		{"5\r\nhello\r\n0\r\n", "+hello"},
		{"0\r\n\r", "+"},
		/* the size */
		{"\r\n", NULL},
		{" 5\r\nhello\r\n0\r\n\r\n", NULL},
		{"5 \r\nhello\r\n0\r\n\r\n", NULL},
		{"5\t\r\nhello\r\n0\r\n\r\n", NULL},
		{"+5\r\nhello\r\n0\r\n\r\n", NULL},
		{"-5\r\nhello\r\n0\r\n\r\n", NULL},
		{"0x5\r\nhello\r\n0\r\n\r\n", NULL},
		{"5h\r\nhello\r\n0\r\n\r\n", NULL},
		{"g\r\n", NULL},
		{"5_0\r\n", NULL},
		{"5,\r\n", NULL},
		{"\"5\"\r\n", NULL},
		{"5\x80\r\n", NULL},
		{"00000000000000005\r\nhello\r\n0\r\n\r\n", NULL}, /* 17 digits */
		{"8000000000000000\r\n", NULL},					   /* 2^63 */
		{"ffffffffffffffff\r\n", NULL},
		{"10000000000000000\r\n", NULL}, /* 2^64 */
		{"10000000000000005\r\nhello", NULL},
		{"100000005\r\nhello", "+hello"}, /* not cut to 32 bits */
		/* line ends: CRLF and nothing else, RFC 9112 2.2 */
		{"5\nhello\r\n0\r\n\r\n", NULL},
		{"5\rhello\r\n0\r\n\r\n", NULL},
		{"5\r\r\nhello", NULL},
		{"5\r\nhello\n0\r\n\r\n", NULL},
		{"5\r\nhello\r0\r\n\r\n", NULL},
		{"5\r\nhello0\r\n\r\n", NULL},
		{"5\r\nhelloX\r\n0\r\n\r\n", NULL},
		{"5\r\nhello\r\n\r\n0\r\n\r\n", NULL},
		{"5\r\nhell\r\n0\r\n\r\n", NULL},
		{"0\n\r\n", NULL},
		{"0\r\n\n", NULL},
		{"0\r\n\rX", NULL},
		/* extensions, RFC 9112 7.1.1: strictly, without BWS */
		{"5;a\r\nhello\r\n0\r\n\r\n", "hello"},
		{"5;a=b\r\nhello\r\n0\r\n\r\n", "hello"},
		{"5;a=\"b\"\r\nhello\r\n0;x\r\n\r\n", "hello"},
		{"5;a=\"\"\r\nhello\r\n0\r\n\r\n", "hello"},
		{"5;a=\"b;c=d\\\"\\\\ \t\x80\";e;f=g\r\nhello\r\n0\r\n\r\n", "hello"},
		{"5;\r\n", NULL},
		{"5;;a\r\n", NULL},
		{"5;=b\r\n", NULL},
		{"5;a=\r\n", NULL},
		{"5;a=;b\r\n", NULL},
		{"5; a\r\n", NULL},
		{"5 ;a\r\n", NULL},
		{"5;a =b\r\n", NULL},
		{"5;a= b\r\n", NULL},
		{"5;a b\r\n", NULL},
		{"5;a=b=c\r\n", NULL},
		{"5;a=b \r\n", NULL},
		{"5;a\n\r\n", NULL},
		{"5;a\rX", NULL},
		{"5;\nxx\r\n", NULL}, /* TERM.EXT and its like */
		{"5;a=\"b\r\n\"\r\n", NULL},
		{"5;a=\"b\n\"\r\n", NULL},
		{"5;a=\"\\\r\n\"\r\n", NULL},
		{"5;a=\"b\x01\"\r\n", NULL},
		{"5;a=\"b\x7f\"\r\n", NULL},
		{"5;a=\"b\"c\r\n", NULL},
		{"5;a=\"b\" \r\n", NULL},
		{"5;a=b\"c\"\r\n", NULL},
		{"5;a\x80\r\n", NULL},
		{"5,a\r\n", NULL},
		/* trailers, RFC 9112 7.1.2: parsed as fields are, and dropped */
		{"0\r\nA: b\r\n\r\n", ""},
		{"0\r\nA:\r\nB-c:\t d\x80 \r\n\r\n", ""},
		{"1\r\nx\r\n0\r\nContent-Length: 5\r\n\r\n", "x"},
		{"0\r\nA: b\r\n", "+"},
		{"0\r\nA: b\n\r\n", NULL},
		{"0\r\nA: b\rc\r\n\r\n", NULL},
		{"0\r\nA: b\r\n\n", NULL},
		{"0\r\nA\r\n\r\n", NULL},
		{"0\r\nA : b\r\n\r\n", NULL},
		{"0\r\n: b\r\n\r\n", NULL},
		{"0\r\n A: b\r\n\r\n", NULL},
		{"0\r\nA: b\r\n c\r\n\r\n", NULL}, /* obs-fold, RFC 9112 5.2 */
		{"0\r\nA: b\x01\r\n\r\n", NULL},
		{"0\r\nA: b\x7f\r\n\r\n", NULL},
		{"0\r\nA\x80: b\r\n\r\n", NULL},
		{"0\r\nGET / HTTP/1.1\r\n\r\n", NULL},
	};
	static struct got g;

	for (size_t i = 0; i < RP_LEN(rows); i++) {
		const char *in = rows[i].in, *want = rows[i].payload;
		size_t n = strlen(in);
		bool more = want && *want == '+';
		scan_all_ways(chunked, in, n, &g);
		HOLDS_FOR(in, (g.used == -1) == !want);
		if (!want || g.used < 0)
			continue;
		want += more;
		HOLDS_FOR(in, g.used == (ptrdiff_t)n && g.done == !more);
		HOLDS_FOR(in, g.n == strlen(want) && memcmp(g.p, want, g.n) == 0 && g.total == g.n);
	}
}

/* A 0 is no text: rows of C strings can't hold it. */
static void a_zero_byte_is_refused_everywhere(void)
{
	static const struct {
		const char *in;
		size_t n;
	} rows[] = {
		{"\0", 1},		   {"5\0", 2},		{"5;\0", 3},	  {"5;a\0", 4},
		{"5;a=\0", 5},	   {"5;a=b\0", 6},	{"5;a=\"\0", 6},  {"5;a=\"\\\0", 7},
		{"5;a=\"\"\0", 7}, {"5\r\0", 3},	{"1\r\nx\0", 5},  {"1\r\nx\r\0", 6},
		{"0\r\n\0", 4},	   {"0\r\nA\0", 5}, {"0\r\nA:\0", 6}, {"0\r\nA:\r\0", 7},
		{"0\r\n\r\0", 5},
	};
	static struct got g;

	for (size_t i = 0; i < RP_LEN(rows); i++) {
		scan_all_ways(chunked, rows[i].in, rows[i].n, &g);
		HOLDS_FOR(rows[i].in, g.used == -1);
	}
	scan_all_ways(chunked, "1\r\n\0\r\n0\r\n\r\n", 11, &g);
	HOLDS(g.done && g.n == 1 && g.p[0] == 0);
}

static void nothing_behind_the_end_is_taken(void)
{
	static const char in[] = "1\r\nx\r\n0\r\nA: b\r\n\r\nGET / HTTP/1.1\r\n\r\n";
	static struct got g;
	struct fr f = {.kind = FR_LENGTH, .left = 3};
	struct sl payload;

	scan_all_ways(chunked, in, sizeof in - 1, &g);
	HOLDS(g.done && g.used == 17 && g.n == 1);
	scan_all_ways(f, "abcGET", 6, &g);
	HOLDS(g.done && g.used == 3 && g.n == 3 && memcmp(g.p, "abc", 3) == 0);
	f.done = true;
	HOLDS(fr_scan(&f, sl_of("GET"), &payload) == 0 && payload.n == 0);
	f = (struct fr){.kind = FR_NONE, .done = true};
	HOLDS(fr_scan(&f, sl_of("GET"), &payload) == 0 && payload.n == 0);
	f = (struct fr){.kind = FR_CLOSE}; /* until its connection ends */
	scan_all_ways(f, "abcdef", 6, &g);
	HOLDS(!g.done && g.used == 6 && g.n == 6 && g.total == 6);
	f = (struct fr){.kind = FR_LENGTH, .left = INT64_MAX};
	scan_all_ways(f, "abcdef", 6, &g);
	HOLDS(!g.done && g.n == 6);
}

/* Makes a body, and says whether it was read to its end; -1 malformed. */
static int ends(const char *in, size_t n)
{
	struct fr f = chunked;
	struct sl payload;

	for (size_t at = 0; at < n && !f.done;) {
		ptrdiff_t r = fr_scan(&f, sl_mk(in + at, n - at), &payload);
		if (r < 0)
			return -1;
		at += (size_t)r;
	}
	return f.done;
}

/* RP_CHUNK_LINE counts the line's CRLF, too. */
static void a_size_line_has_its_limit(void)
{
	char in[RP_CHUNK_LINE + 16];

	for (size_t len = RP_CHUNK_LINE - 2; len <= RP_CHUNK_LINE + 2; len++) {
		memset(in, 'a', sizeof in);
		memcpy(in, "0;", 2);
		memcpy(in + len - 2, "\r\n\r\n", 4);
		HOLDS(ends(in, len + 2) == (len <= RP_CHUNK_LINE ? 1 : -1));
		memcpy(in, "0;a=\"", 5);
		in[len - 3] = '"';
		HOLDS(ends(in, len + 2) == (len <= RP_CHUNK_LINE ? 1 : -1));
	}
}

/* CVE-2023-39326: extensions are bounded over the whole message, not by the chunk. */
static void extensions_have_a_limit_in_all(void)
{
	static char in[(RP_CHUNK_EXT + 8) * 8];
	size_t n = 0;

	/* Two bytes of extension each, its end counted; chunks without any cost nothing. */
	for (int i = 0; i < RP_CHUNK_EXT / 2; i++, n += 8)
		memcpy(in + n, "1;a\r\nx\r\n", 8);
	for (int i = 0; i < 3; i++, n += 6)
		memcpy(in + n, "1\r\nx\r\n", 6);
	memcpy(in + n, "0\r\n\r\n", 5);
	HOLDS(ends(in, n + 5) == 1);
	memcpy(in + n, "0;a\r\n\r\n", 7);
	HOLDS(ends(in, n + 7) == -1);
}

/* A long stream of small chunks (events, a log that is followed) is as good as any. */
static void chunks_without_extensions_may_be_many(void)
{
	struct fr f = chunked;
	struct sl payload;
	bool good = true;

	for (unsigned i = 0; i < 200000 && good; i++) {
		good = fr_scan(&f, sl_of("1\r\n"), &payload) == 3;
		good &= fr_scan(&f, sl_of("x"), &payload) == 1 && payload.n == 1;
		good &= fr_scan(&f, sl_of("\r\n"), &payload) == 2;
	}
	HOLDS(good && f.total == 200000);
	HOLDS(fr_scan(&f, sl_of("0\r\n\r\n"), &payload) == 5 && f.done);
}

static void trailers_have_a_limit(void)
{
	static char in[RP_TRAILER_MAX + 64];

	for (size_t len = RP_TRAILER_MAX - 1; len <= RP_TRAILER_MAX + 1; len++) {
		memset(in, 'a', sizeof in);
		memcpy(in, "0\r\nA:", 5);
		memcpy(in + 3 + len - 4, "\r\n\r\n", 4);
		HOLDS(ends(in, 3 + len) == (len <= RP_TRAILER_MAX ? 1 : -1));
	}
	memset(in, 'a', sizeof in); /* one that never ends */
	memcpy(in, "0\r\n", 3);
	HOLDS(ends(in, sizeof in) == -1);
}

/* Random bodies, most of them broken somewhere, cut at random places. */
static void random_bodies_do_not_depend_on_their_cuts(void)
{
	static const char *const bits[] = {
		"0",	   "1", "5", "f",	  "\r\n",	   "\r\n",			 "\r\n",
		";",	   "a", "=", "\"",	  "\\",		   "A: b",			 "\r",
		"\n",	   " ", "x", "hello", "0\r\n\r\n", "5\r\nhello\r\n", "1\r\nx\r\n",
		";a=b\r\n"};
	static struct got whole, other;
	uint32_t seed = 4711;

	for (int round = 0; round < 20000; round++) {
		char in[256];
		size_t n = 0, cut[8], ncut = 0;
		for (int k = 0; k < 14; k++) {
			seed = seed * 1664525u + 1013904223u;
			const char *bit = bits[(seed >> 8) % RP_LEN(bits)];
			memcpy(in + n, bit, strlen(bit));
			n += strlen(bit);
		}
		for (size_t at = 0; ncut < 8; cut[ncut++] = at) {
			seed = seed * 1664525u + 1013904223u;
			if ((at += (seed >> 8) % 9) >= n)
				break;
		}
		in[n] = 0;
		scan(chunked, in, n, NULL, 0, &whole);
		scan(chunked, in, n, cut, ncut, &other);
		HOLDS_FOR(in, alike(&whole, &other));
	}
}

int main(void)
{
	RUN(a_request_is_framed_in_one_way_or_refused);
	RUN(an_answer_is_framed_by_its_status_and_fields);
	RUN(a_chunked_body_is_read_as_strictly_as_it_is_written);
	RUN(a_zero_byte_is_refused_everywhere);
	RUN(nothing_behind_the_end_is_taken);
	RUN(a_size_line_has_its_limit);
	RUN(extensions_have_a_limit_in_all);
	RUN(chunks_without_extensions_may_be_many);
	RUN(trailers_have_a_limit);
	RUN(random_bodies_do_not_depend_on_their_cuts);
	return unit_end();
}
