/* unit_addr.c: room ADDR: addresses and ranges, parsed, printed and matched.
 *
 * SPDX-License-Identifier: MIT
 */
#include "unit.h"

#define RP_NO_MAIN 1
#include "../rproxy.c"

/* Reads an address and prints it again; "" when it is refused. */
static const char *again(const char *text)
{
	static char out[56];
	struct addr a = {{0}, 0};

	out[0] = 0;
	if (addr_parse_ip(sl_of(text), a.ip))
		HOLDS_FOR(text, addr_print(&a, false, out) == strlen(out));
	return out;
}

/* RFC 4291 2.2, RFC 5952 4. */
static void addresses_come_out_in_their_one_spelling(void)
{
	static const char *const rows[][2] = {
		{"1.2.3.4", "1.2.3.4"},
		{"0.0.0.0", "0.0.0.0"},
		{"255.255.255.255", "255.255.255.255"},
		{"::", "::"},
		{"::1", "::1"},
		{"1::", "1::"},
		{"0:0:0:0:0:0:0:1", "::1"},
		{"2001:DB8::A", "2001:db8::a"},
		{"2001:0db8:0000:0000:0000:0000:0000:0001", "2001:db8::1"},
		{"2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"}, /* 4.2.2: not for one group */
		{"2001:0:0:1:0:0:0:1", "2001:0:0:1::1"},		  /* 4.2.3: the longest run */
		{"2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"},	  /* 4.2.3: the first of equals */
		{"1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"},
		{"::2:3:4:5:6:7:8", "0:2:3:4:5:6:7:8"},
		{"1:0:0:0:0:0:0:0", "1::"},
		{"::ffff:1.2.3.4", "1.2.3.4"}, /* folded */
		{"::FFFF:102:304", "1.2.3.4"},
		{"0:0:0:0:0:ffff:1.2.3.4", "1.2.3.4"},
		{"64:ff9b::192.0.2.33", "64:ff9b::c000:221"},
		{"1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:102:304"},
		{"fe80::1", "fe80::1"},
	};

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		HOLDS_FOR(rows[i][0], strcmp(again(rows[i][0]), rows[i][1]) == 0);
}

static void what_is_no_address_is_refused(void)
{
	static const char *const rows[] = {
		"",
		"1",
		"1.2.3",
		"1.2.3.4.5",
		"1.2.3.4.",
		".1.2.3.4",
		"1..2.3",
		"01.2.3.4",
		"1.2.3.00",
		"0x1.2.3.4",
		"256.1.1.1",
		"1.2.3.-4",
		"1.2.3.4 ",
		" 1.2.3.4",
		"1.2.3.4/8",
		"+1.2.3.4",
		"1.2.3.1000",
		"a.b.c.d",
		":",
		":::",
		"1:",
		":1",
		"1::2::3",
		"::1:",
		":1::",
		"12345::",
		"g::",
		"1:2:3:4:5:6:7",
		"1:2:3:4:5:6:7:8:9",
		"::1%eth0",
		"[::1]",
		"1:2:3:4:5:6:7:8::",
		"::1:2:3:4:5:6:7:8",
		"1:2:3:4::5:6:7:8",
		"::1.2.3",
		"::1.2.3.256",
		"1.2.3.4::",
		"::1.2.3.4:5",
		"1:2:3:4:5:6:7:1.2.3.4",
		"::01.2.3.4",
		"0:0:0:0:0:0:0:0:",
		"::-1",
		"1:2:3:4:5:6:7:",
	};

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		HOLDS_FOR(rows[i], again(rows[i])[0] == 0);
}

static void listener_addresses_have_brackets_around_ipv6(void)
{
	static const char *const good[][2] = {
		{"80", "[::]:80"},
		{"0", "[::]:0"},
		{"127.0.0.1:8080", "127.0.0.1:8080"},
		{"[::1]:443", "[::1]:443"},
		{"65535", "[::]:65535"},
		{"[::ffff:10.0.0.1]:1", "10.0.0.1:1"},
		{"0.0.0.0:80", "0.0.0.0:80"},
	};
	static const char *const bad[] = {
		"",		   ":80",		   "65536",	 "-1",	 "1.2.3.4", "1.2.3.4:",
		"[::1]",   "[::1]:",	   "::1:80", "[::1", "[]:80",	"[1.2.3.4]:80",
		"[::1]80", "localhost:80", "80 ",	 "*:80", "080000",	"1.2.3.4:80:80",
	};
	char out[56];
	struct addr a;

	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		HOLDS_FOR(good[i][0], addr_parse(sl_of(good[i][0]), &a));
		(void)addr_print(&a, true, out);
		HOLDS_FOR(good[i][0], strcmp(out, good[i][1]) == 0);
	}
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		HOLDS_FOR(bad[i], !addr_parse(sl_of(bad[i]), &a));
}

/* The longest texts fit the 56 bytes that callers give. */
static void the_longest_address_fits(void)
{
	char out[56];
	struct addr a = {.port = 65535};

	memset(a.ip, 0xfe, sizeof a.ip);
	HOLDS(addr_print(&a, true, out) == 8 * 4 + 7 + 2 + 6);
	HOLDS(strcmp(out, "[fefe:fefe:fefe:fefe:fefe:fefe:fefe:fefe]:65535") == 0);
}

static void a_range_holds_what_its_prefix_says(void)
{
	static const struct {
		const char *range, *ip;
		bool in;
	} rows[] = {
		{"10.0.0.0/8", "10.255.255.255", true},
		{"10.0.0.0/8", "11.0.0.0", false},
		{"10.0.0.0/8", "::ffff:10.1.2.3", true},
		{"10.0.0.0/8", "a00::", false},
		{"192.168.1.7", "192.168.1.7", true},
		{"192.168.1.7", "192.168.1.6", false},
		{"192.168.1.7/32", "192.168.1.7", true},
		{"172.16.0.0/12", "172.31.255.255", true},
		{"172.16.0.0/12", "172.32.0.0", false},
		{"100.64.0.0/10", "100.127.255.255", true},
		{"100.64.0.0/10", "100.128.0.0", false},
		{"1.2.3.4/31", "1.2.3.5", true},
		{"1.2.3.4/31", "1.2.3.6", false},
		{"0.0.0.0/0", "8.8.8.8", true},
		{"0.0.0.0/0", "::1", false},
		{"::/0", "2001:db8::1", true},
		{"::/0", "8.8.8.8", false}, /* IPv4 is kept inside, but nobody means it */
		{"::ffff:10.0.0.0/104", "10.9.9.9", true},
		{"2a06:98c0::/29", "2a06:98c7:ffff::1", true},
		{"2a06:98c0::/29", "2a06:98c8::", false},
		{"fc00::/7", "fdff::1", true},
		{"fc00::/7", "fe00::", false},
		{"::1/128", "::1", true},
		{"::1", "::2", false},
	};

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct cidr c;
		uint8_t ip[16];
		HOLDS_FOR(rows[i].range, addr_cidr_parse(sl_of(rows[i].range), &c));
		HOLDS_FOR(rows[i].ip, addr_parse_ip(sl_of(rows[i].ip), ip));
		HOLDS_FOR(rows[i].range, addr_in(&c, ip) == rows[i].in);
	}
}

static void what_is_no_range_is_refused(void)
{
	static const char *const rows[] = {
		"",
		"/8",
		"10.0.0.0/",
		"10.0.0.0/33",
		"::/129",
		"10.0.0.0/08",
		"10.0.0.0/8 ",
		"10.0.0.1/8",
		"10.0.0.0/-1",
		"fd00::1/8",
		"10/8",
		"10.0.0.0/8/8",
		"::ffff:10.0.0.1/104",
		"10.0.0.0/0",
		"1.2.3.4/30000",
	};
	struct cidr c;

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		HOLDS_FOR(rows[i], !addr_cidr_parse(sl_of(rows[i]), &c));
}

/* Every prefix length against every single bit, compared with a count bit by bit. */
static void matching_agrees_with_counting_bits(void)
{
	struct cidr c = {.cf = false};
	uint8_t ip[16];

	memset(c.ip, 0x5a, sizeof c.ip);
	for (unsigned bits = 0; bits <= 128; bits++) {
		for (unsigned flip = 0; flip < 128; flip++) {
			memcpy(ip, c.ip, sizeof ip);
			ip[flip / 8] ^= (uint8_t)(0x80 >> flip % 8);
			c.bits = (uint8_t)bits;
			HOLDS(addr_in(&c, ip) == (flip >= bits));
		}
	}
}

static void the_most_specific_range_wins(void)
{
	struct cidr v[4];
	struct cidrs l = {v, 4};
	uint8_t ip[16];

	HOLDS(addr_cidr_parse(sl_of("10.0.0.0/8"), &v[0]));
	HOLDS(addr_cidr_parse(sl_of("10.1.2.0/24"), &v[1]));
	HOLDS(addr_cidr_parse(sl_of("10.1.0.0/16"), &v[2]));
	HOLDS(addr_cidr_parse(sl_of("10.1.2.0/24"), &v[3]));
	HOLDS(addr_parse_ip(sl_of("10.1.2.3"), ip) && addr_match(&l, ip) == &v[1]);
	HOLDS(addr_parse_ip(sl_of("10.1.9.3"), ip) && addr_match(&l, ip) == &v[2]);
	HOLDS(addr_parse_ip(sl_of("10.9.9.3"), ip) && addr_match(&l, ip) == &v[0]);
	HOLDS(addr_parse_ip(sl_of("11.0.0.1"), ip) && addr_match(&l, ip) == NULL);
	l.n = 0;
	HOLDS(addr_match(&l, ip) == NULL);
}

int main(void)
{
	RUN(addresses_come_out_in_their_one_spelling);
	RUN(what_is_no_address_is_refused);
	RUN(listener_addresses_have_brackets_around_ipv6);
	RUN(the_longest_address_fits);
	RUN(a_range_holds_what_its_prefix_says);
	RUN(what_is_no_range_is_refused);
	RUN(matching_agrees_with_counting_bits);
	RUN(the_most_specific_range_wins);
	return unit_end();
}
