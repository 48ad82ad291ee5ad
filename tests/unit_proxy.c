/* unit_proxy.c: room NET: PROXY protocol headers, read and written.
 *
 * SPDX-License-Identifier: MIT
 */
#include "unit.h"

#define RP_NO_MAIN 1
#include "../rproxy.c"

#define SIGN "\r\n\r\n\0\r\nQUIT\n"

/* Reads a copy that ends where its memory ends, so that the sanitizer sees a byte too many. */
static ptrdiff_t parse(const char *p, size_t n, struct net_proxy *out)
{
	char *copy = malloc(n ? n : 1);

	if (n)
		memcpy(copy, p, n);
	ptrdiff_t r = net_proxy_parse(sl_mk(copy, n), out);
	free(copy);
	return r;
}

static bool is(const struct addr *a, const char *text)
{
	char out[56];

	(void)addr_print(a, true, out);
	return strcmp(out, text) == 0;
}

static void version_1_names_both_ends(void)
{
	static const char *const rows[][3] = {
		{"PROXY TCP4 1.2.3.4 5.6.7.8 1234 80\r\n", "1.2.3.4:1234", "5.6.7.8:80"},
		{"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", "0.0.0.0:0", "255.255.255.255:65535"},
		{"PROXY TCP6 2001:db8::1 ::1 1 2\r\n", "[2001:db8::1]:1", "[::1]:2"},
		{"PROXY TCP6 ::ffff:1.2.3.4 ::1 1 2\r\n", "1.2.3.4:1", "[::1]:2"},
		{"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
		 "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
		 "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
		 "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"},
	};
	struct net_proxy p;
	char more[256];

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		size_t n = strlen(rows[i][0]);
		for (size_t k = 0; k < n; k++)
			HOLDS_FOR(rows[i][0], parse(rows[i][0], k, &p) == 0);
		int len = snprintf(more, sizeof more, "%sGET / HTTP/1.1\r\n", rows[i][0]);
		HOLDS_FOR(rows[i][0], parse(more, (size_t)len, &p) == (ptrdiff_t)n);
		HOLDS_FOR(rows[i][0], !p.local && is(&p.src, rows[i][1]) && is(&p.dst, rows[i][2]));
	}
}

static void version_1_unknown_is_local(void)
{
	static const char *const rows[] = {
		"PROXY UNKNOWN\r\n",
		"PROXY UNKNOWN ffff::1 whatever 1\r\n",
		"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
	};
	struct net_proxy p;

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		HOLDS_FOR(rows[i],
				  parse(rows[i], strlen(rows[i]), &p) == (ptrdiff_t)strlen(rows[i]) && p.local);
}

static void a_malformed_version_1_line_is_refused(void)
{
	static const char *const rows[] = {
		"GET / HTTP/1.1\r\n",
		"proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
		"PROXYTCP4",
		"PROXY\tTCP4",
		"X",
		" PROXY",
		"\n",
		"PROXY\r\n",
		"PROXY \r\n",
		"PROXY TCP4\r\n",
		"PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
		"PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
		"PROXY TCP4 1.2.3.4 5.6.7.8 1  2\r\n",
		"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
		"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
		"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
		"PROXY TCP4 1.2.3.4 5.6.7.8\r\n",
		"PROXY TCP4 1.2.3.4\r\n",
		"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
		"PROXY TCP4 1.2.3.4 5.6.7.8 1 00\r\n",
		"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
		"PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n",
		"PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
		"PROXY TCP4 1.2.3.4 5.6.7.8 a 2\r\n",
		"PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
		"PROXY TCP4 256.2.3.4 5.6.7.8 1 2\r\n",
		"PROXY TCP4 01.2.3.4 5.6.7.8 1 2\r\n",
		"PROXY TCP4 ::1 ::2 1 2\r\n",
		"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
		"PROXY TCP6 ::1 5.6.7.8 1 2\r\n",
		"PROXY TCP6 [::1] ::2 1 2\r\n",
		"PROXY TCP6 ::1%eth0 ::2 1 2\r\n",
		"PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n",
		"PROXY tcp4 1.2.3.4 5.6.7.8 1 2\r\n",
		"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
		"PROXY unknown\r\n",
		"PROXY UNKNOWNX\r\n",
		"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\rX",
		"PROXY TCP4 1.2.3.4 5.6.7.8\r 1 2\r\n",
		"PROXY UNKNOWN\r\r\n",
	};
	char line[128] = "PROXY UNKNOWN ";
	struct net_proxy p;

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		HOLDS_FOR(rows[i], parse(rows[i], strlen(rows[i]), &p) == -1);
	memset(line + 14, 'x', sizeof line - 14); /* 2.1: at most 107 bytes, CRLF included */
	HOLDS(parse(line, 106, &p) == 0 && parse(line, 107, &p) == -1);
	memcpy(line + 105, "\r\n", 2);
	HOLDS(parse(line, 107, &p) == 107 && p.local);
	memset(line + 105, 'x', 2);
	memcpy(line + 106, "\r\n", 2);
	HOLDS(parse(line, 108, &p) == -1);
	HOLDS(parse("PROXY TCP4 1.2.3.4\0 5.6.7.8 1 2\r\n", 34, &p) == -1);
}

/* A version 2 header in b[2048]; returns its length. */
static size_t make(char *b, uint8_t cmd, uint8_t family, const char *body, size_t n)
{
	memcpy(b, SIGN, 12);
	b[12] = (char)cmd;
	b[13] = (char)family;
	b[14] = (char)(n >> 8);
	b[15] = (char)n;
	if (n)
		memcpy(b + 16, body, n);
	return 16 + n;
}

#define FOUR "\1\2\3\4\5\6\7\10\4\322\0\120"
#define SIX                                                                                        \
	"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\1"                                                     \
	"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1\0\1\1\273"

static void version_2_names_both_ends(void)
{
	char b[2048];
	struct net_proxy p;
	size_t n = make(b, 0x21, 0x11, FOUR, 12);

	for (size_t k = 0; k < n; k++)
		HOLDS(parse(b, k, &p) == 0);
	b[n] = 'G';
	HOLDS(parse(b, n + 1, &p) == (ptrdiff_t)n && !p.local);
	HOLDS(is(&p.src, "1.2.3.4:1234") && is(&p.dst, "5.6.7.8:80"));
	n = make(b, 0x21, 0x21, SIX, 36);
	for (size_t k = 0; k < n; k++)
		HOLDS(parse(b, k, &p) == 0);
	HOLDS(parse(b, n, &p) == (ptrdiff_t)n && !p.local);
	HOLDS(is(&p.src, "[2001:db8::1]:1") && is(&p.dst, "[::1]:443"));
}

static void what_is_no_tcp_over_ip_is_local(void)
{
	static const char zeros[216];
	char b[2048];
	struct net_proxy p;
	size_t n;

	n = make(b, 0x20, 0, "", 0);
	HOLDS(parse(b, n, &p) == (ptrdiff_t)n && p.local);
	n = make(b, 0x20, 0x11, "junk", 4); /* LOCAL: what follows is skipped */
	HOLDS(parse(b, n, &p) == (ptrdiff_t)n && p.local);
	n = make(b, 0x21, 0, "", 0);
	HOLDS(parse(b, n, &p) == (ptrdiff_t)n && p.local);
	n = make(b, 0x21, 0x31, zeros, 216);
	HOLDS(parse(b, n, &p) == (ptrdiff_t)n && p.local);
	n = make(b, 0x21, 0x12, FOUR, 12); /* UDP */
	HOLDS(parse(b, n, &p) == (ptrdiff_t)n && p.local);
}

static void a_malformed_version_2_header_is_refused(void)
{
	static const char zeros[1100];
	char b[2048];
	struct net_proxy p;

	for (unsigned cmd = 0; cmd < 256; cmd++)
		HOLDS((parse(b, make(b, (uint8_t)cmd, 0x11, FOUR, 12), &p) > 0) ==
			  (cmd == 0x20 || cmd == 0x21));
	for (unsigned f = 0; f < 256; f++) /* other values must be rejected */
		HOLDS((parse(b, make(b, 0x21, (uint8_t)f, zeros, 216), &p) > 0) ==
			  (f >> 4 < 4 && (f & 15) < 3));
	for (unsigned i = 0; i < 12; i++) {
		(void)make(b, 0x21, 0x11, FOUR, 12);
		b[i] ^= 1;
		HOLDS(parse(b, i + 1, &p) == -1 && parse(b, 28, &p) == -1);
	}
	HOLDS(parse(b, make(b, 0x21, 0x11, zeros, 11), &p) == -1);
	HOLDS(parse(b, make(b, 0x21, 0x21, zeros, 35), &p) == -1);
	HOLDS(parse(b, make(b, 0x21, 0x31, zeros, 215), &p) == -1);
	(void)make(b, 0x20, 0, zeros, 1025); /* refused from its length, before the rest comes */
	HOLDS(parse(b, 16, &p) == -1);
	HOLDS(parse(b, make(b, 0x20, 0, zeros, 1024), &p) == 1040);
}

static void tlvs_are_skipped_when_they_fit(void)
{
	static const struct {
		const char *tlv;
		size_t n;
		bool good;
	} rows[] = {
		{"\4\0\0", 3, true},	  {"\4\0\3abc", 6, true},  {"\2\0\1a\352\0\2xy", 9, true},
		{"\4", 1, false},		  {"\4\0", 2, false},	   {"\4\0\1", 3, false},
		{"\4\0\3ab", 5, false},	  {"\4\1\0ab", 5, false},  {"\4\377\377ab", 5, false},
		{"\4\0\0\4", 4, false},	  {"\3\0\3abc", 6, false}, /* a checksum has 4 bytes */
		{"\3\0\4abcd", 7, false}, {"\3\0\0", 3, false},
	};
	char b[2048], body[64] = FOUR;
	struct net_proxy p;

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		memcpy(body + 12, rows[i].tlv, rows[i].n);
		size_t n = make(b, 0x21, 0x11, body, 12 + rows[i].n);
		char row[16];
		(void)snprintf(row, sizeof row, "%zu", i);
		HOLDS_FOR(row, parse(b, n, &p) == (rows[i].good ? (ptrdiff_t)n : -1));
	}
}

/* RFC 3720 B.4, and the check value of the catalogue of CRCs. */
static void crc32c_agrees_with_its_vectors(void)
{
	char v[32];

	HOLDS(net_proxy_crc(0, sl_of("123456789")) == 0xe3069283);
	HOLDS(net_proxy_crc(0, sl_mk("", 0)) == 0);
	memset(v, 0, sizeof v);
	HOLDS(net_proxy_crc(0, sl_mk(v, 32)) == 0x8a9136aa);
	memset(v, 0xff, sizeof v);
	HOLDS(net_proxy_crc(0, sl_mk(v, 32)) == 0x62a8ab43);
	for (int i = 0; i < 32; i++)
		v[i] = (char)i;
	HOLDS(net_proxy_crc(0, sl_mk(v, 32)) == 0x46dd794e);
	HOLDS(net_proxy_crc(net_proxy_crc(0, sl_mk(v, 7)), sl_mk(v + 7, 25)) == 0x46dd794e);
}

/* 2.2.3: PP2_TYPE_CRC32C; any changed bit is seen. */
static void the_checksum_covers_the_whole_header(void)
{
	static const char body[] = FOUR "\2\0\1a\3\0\4\0\0\0\0\4\0\2zz";
	char b[2048];
	struct net_proxy p;
	size_t n = make(b, 0x21, 0x11, body, sizeof body - 1), at = 16 + 12 + 4 + 3;
	uint32_t crc = net_proxy_crc(0, sl_mk(b, n));

	for (int i = 0; i < 4; i++)
		b[at + (size_t)i] = (char)(crc >> (24 - 8 * i));
	HOLDS(parse(b, n, &p) == (ptrdiff_t)n && is(&p.src, "1.2.3.4:1234"));
	for (size_t bit = 16 * 8; bit < n * 8; bit++) {
		b[bit / 8] ^= (char)(1 << bit % 8);
		if (bit / 8 != at - 3) /* its type: then it is another TLV, and no checksum */
			HOLDS(parse(b, n, &p) == -1);
		b[bit / 8] ^= (char)(1 << bit % 8);
	}
}

static void what_is_written_is_read_again(void)
{
	static const char *const rows[][2] = {
		{"1.2.3.4:1", "5.6.7.8:65535"},
		{"[2001:db8::1]:1", "[::1]:443"},
		{"1.2.3.4:1", "[::1]:2"},
		{"[::1]:2", "1.2.3.4:1"},
		{"[fefe:fefe:fefe:fefe:fefe:fefe:fefe:fefe]:65535",
		 "[fefe:fefe:fefe:fefe:fefe:fefe:fefe:fefe]:65535"},
	};
	uint8_t out[108];
	struct net_proxy p;
	struct addr a, d;

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		for (int version = 1; version <= 2; version++) {
			HOLDS(addr_parse(sl_of(rows[i][0]), &a) && addr_parse(sl_of(rows[i][1]), &d));
			size_t n = net_proxy_write(version, &a, &d, out);
			HOLDS_FOR(rows[i][0], n <= 108 && parse((char *)out, n, &p) == (ptrdiff_t)n);
			HOLDS_FOR(rows[i][0], !p.local && is(&p.src, rows[i][0]) && is(&p.dst, rows[i][1]));
		}
	for (int version = 1; version <= 2; version++) {
		size_t n = net_proxy_write(version, NULL, NULL, out);
		HOLDS(parse((char *)out, n, &p) == (ptrdiff_t)n && p.local);
	}
	HOLDS(addr_parse(sl_of("1.2.3.4:1"), &a) && addr_parse(sl_of("[::1]:2"), &d));
	size_t n = net_proxy_write(1, &a, &d, out);
	HOLDS(sl_is(sl_mk((char *)out, n), "PROXY TCP6 ::ffff:1.2.3.4 ::1 1 2\r\n"));
	HOLDS(net_proxy_write(2, &a, &a, out) == 28 && memcmp(out, SIGN "\x21\x11\0\14", 16) == 0);
}

int main(void)
{
	RUN(version_1_names_both_ends);
	RUN(version_1_unknown_is_local);
	RUN(a_malformed_version_1_line_is_refused);
	RUN(version_2_names_both_ends);
	RUN(what_is_no_tcp_over_ip_is_local);
	RUN(a_malformed_version_2_header_is_refused);
	RUN(tlvs_are_skipped_when_they_fit);
	RUN(crc32c_agrees_with_its_vectors);
	RUN(the_checksum_covers_the_whole_header);
	RUN(what_is_written_is_read_again);
	return unit_end();
}
