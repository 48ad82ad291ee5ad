/* unit_gate.c: room GATE: who is calling, lists, limits, passwords.
 *
 * SPDX-License-Identifier: MIT
 */
#include "unit.h"

#define RP_NO_MAIN 1
#include "../rproxy.c"

static void ip_of(const char *text, uint8_t ip[16])
{
	HOLDS_FOR(text, addr_parse_ip(sl_of(text), ip));
}

/* Reads a list of ranges, blank between them; "cf:" before one marks it as Cloudflare's. */
static struct cidrs ranges(const char *text, struct cidr *v)
{
	struct cidrs l = {v, 0};
	struct sl rest = sl_of(text), one;

	while (sl_cut(&rest, ' ', &one)) {
		bool cf = one.n > 3 && memcmp(one.p, "cf:", 3) == 0;
		if (!one.n)
			continue;
		HOLDS_FOR(text, addr_cidr_parse(sl_rest(one, cf ? 3 : 0), &v[l.n]));
		v[l.n++].cf = cf;
	}
	return l;
}

/* ---- who is calling ---- */

#define TRUST "127.0.0.0/8 10.0.0.0/8 2001:db8::/32 cf:173.245.48.0/20 cf:2606:4700::/32"

static void the_believed_address(void)
{
	static const struct {
		const char *peer;
		const char *xff[4];
		const char *cf_ip, *want;
		bool trusted;
	} rows[] = {
		{"8.8.8.8", {"1.2.3.4"}, "5.6.7.8", "8.8.8.8", false},
		{"127.0.0.1", {NULL}, "", "127.0.0.1", true},
		{"127.0.0.1", {"1.2.3.4"}, "", "1.2.3.4", true},
		{"127.0.0.1", {"1.2.3.4, 5.6.7.8"}, "", "5.6.7.8", true},
		{"127.0.0.1", {"1.2.3.4, 10.0.0.1"}, "", "1.2.3.4", true},
		{"127.0.0.1", {"1.2.3.4, 10.0.0.1,10.0.0.2"}, "", "1.2.3.4", true},
		{"127.0.0.1", {"10.0.0.1, 10.0.0.2"}, "", "10.0.0.1", true}, /* all trusted: the first */
		{"127.0.0.1", {"1.2.3.4", "5.6.7.8"}, "", "5.6.7.8", true},	 /* fields in their order */
		{"127.0.0.1", {"1.2.3.4", "10.0.0.1"}, "", "1.2.3.4", true},
		{"127.0.0.1", {"9.9.9.9", "1.2.3.4,10.0.0.3", "10.0.0.1"}, "", "1.2.3.4", true},
		{"127.0.0.1", {"1.2.3.4, junk"}, "", "127.0.0.1", true}, /* malformed: the walk ends */
		{"127.0.0.1", {"1.2.3.4, junk, 10.0.0.1"}, "", "10.0.0.1", true},
		{"127.0.0.1", {"junk, 1.2.3.4"}, "", "1.2.3.4", true},
		{"127.0.0.1", {"1.2.3.4", "junk", "10.0.0.1"}, "", "10.0.0.1", true},
		{"127.0.0.1", {"1.2.3.4:567"}, "", "1.2.3.4", true},
		{"127.0.0.1", {"[2606::1]:567"}, "", "2606::1", true},
		{"127.0.0.1", {"[2606::1]"}, "", "2606::1", true},
		{"127.0.0.1", {"2606::1"}, "", "2606::1", true},
		{"127.0.0.1", {"::ffff:1.2.3.4"}, "", "1.2.3.4", true},
		{"127.0.0.1", {"::ffff:1.2.3.4, ::ffff:10.0.0.1"}, "", "1.2.3.4", true},
		{"127.0.0.1", {"1.2.3.4, 2001:db8::7"}, "", "1.2.3.4", true},
		{"127.0.0.1", {"\"1.2.3.4\""}, "", "127.0.0.1", true},
		{"127.0.0.1", {"unknown"}, "", "127.0.0.1", true},
		{"127.0.0.1", {"_hidden"}, "", "127.0.0.1", true},
		{"127.0.0.1", {"1.2.3.4:"}, "", "127.0.0.1", true},
		{"127.0.0.1", {"1.2.3.4:65536"}, "", "127.0.0.1", true},
		{"127.0.0.1", {"1.2.3.4:x"}, "", "127.0.0.1", true},
		{"127.0.0.1", {"[1.2.3.4]"}, "", "127.0.0.1", true},
		{"127.0.0.1", {"[2606::1"}, "", "127.0.0.1", true},
		{"127.0.0.1", {"[2606::1]x"}, "", "127.0.0.1", true},
		{"127.0.0.1", {"[]"}, "", "127.0.0.1", true},
		{"127.0.0.1", {"2606::1%eth0"}, "", "127.0.0.1", true},
		{"127.0.0.1", {"01.2.3.4"}, "", "127.0.0.1", true},
		{"127.0.0.1", {"1.2.3.4 5.6.7.8"}, "", "127.0.0.1", true},
		{"127.0.0.1", {" \t1.2.3.4\t "}, "", "1.2.3.4", true},
		{"127.0.0.1", {""}, "", "127.0.0.1", true},
		/* CF-Connecting-IP counts from Cloudflare alone */
		{"173.245.48.9", {"9.9.9.9"}, "1.2.3.4", "1.2.3.4", true},
		{"2606:4700::9", {NULL}, "2a00::1", "2a00::1", true},
		{"127.0.0.1", {"9.9.9.9"}, "1.2.3.4", "9.9.9.9", true},
		{"127.0.0.1", {NULL}, "1.2.3.4", "127.0.0.1", true},
		{"173.245.48.9", {"9.9.9.9"}, "", "9.9.9.9", true},
		{"173.245.48.9", {"9.9.9.9"}, "junk", "9.9.9.9", true},
		{"127.0.0.1", {"1.2.3.4, 173.245.48.9"}, "7.7.7.7", "1.2.3.4", true},
	};
	struct cidr v[8];
	struct conf cf = {.trust = ranges(TRUST, v)};

	for (size_t i = 0; i < RP_LEN(rows); i++) {
		struct gate_claims cl = {.nxff = 0};
		struct gate_caller who;
		char text[56], row[128];
		uint8_t ip[16];
		(void)snprintf(row, sizeof row, "%zu: %s %s", i, rows[i].peer, rows[i].want);
		cl.cf_ip = sl_of(rows[i].cf_ip);
		cl.proto = cl.cf_visitor = sl_mk("", 0);
		for (unsigned k = 0; k < 4 && rows[i].xff[k]; k++)
			cl.xff[cl.nxff++] = sl_of(rows[i].xff[k]);
		ip_of(rows[i].peer, ip);
		gate_believe(&cf, ip, 4711, &cl, false, &who);
		(void)addr_print(&who.addr, false, text);
		HOLDS_FOR(row, strcmp(text, rows[i].want) == 0);
		HOLDS_FOR(row, who.trusted == rows[i].trusted && !who.https);
	}
}

/* A proxy that appends a field of its own must not be drowned in fields that the visitor made up. */
static void the_last_of_very_many_fields_counts(void)
{
	struct cidr v[8];
	struct conf cf = {.trust = ranges(TRUST, v)};
	struct gate_claims cl = {.nxff = 0};
	struct gate_caller who;
	uint8_t ip[16], want[16];

	cl.cf_ip = cl.proto = cl.cf_visitor = sl_mk("", 0);
	while (cl.nxff < GATE_XFF_MAX - 1)
		cl.xff[cl.nxff++] = sl_of("6.6.6.6");
	cl.xff[cl.nxff++] = sl_of("1.2.3.4");
	ip_of("10.0.0.1", ip);
	ip_of("1.2.3.4", want);
	gate_believe(&cf, ip, 1, &cl, false, &who);
	HOLDS(memcmp(who.addr.ip, want, 16) == 0);
	HOLDS(GATE_XFF_MAX >= RP_FIELDS_MAX); /* no head has more of them */
}

/* Also when a narrower range of somebody's own lies within. */
static void cloudflare_is_known_by_any_of_its_ranges(void)
{
	static const struct {
		const char *trust, *peer;
		bool cf;
	} rows[] = {
		{"cf:173.245.48.0/20 173.245.48.9", "173.245.48.9", true},
		{"173.245.48.0/24 cf:173.245.48.0/20", "173.245.48.9", true},
		{"173.245.48.0/20", "173.245.48.9", false},
		{"cf:173.245.48.0/20", "10.0.0.1", false},
		{"cf:173.245.48.0/20 10.0.0.0/8", "10.0.0.1", false},
	};
	struct cidr v[4];

	for (size_t i = 0; i < RP_LEN(rows); i++) {
		struct conf cf = {.trust = ranges(rows[i].trust, v)};
		struct gate_claims cl = {.nxff = 0, .cf_ip = sl_of("1.2.3.4")};
		struct gate_caller who;
		uint8_t ip[16], said[16];
		cl.proto = cl.cf_visitor = sl_mk("", 0);
		ip_of(rows[i].peer, ip);
		ip_of("1.2.3.4", said);
		gate_believe(&cf, ip, 1, &cl, false, &who);
		HOLDS_FOR(rows[i].trust, who.cf == rows[i].cf);
		HOLDS_FOR(rows[i].trust, (memcmp(who.addr.ip, said, 16) == 0) == rows[i].cf);
	}
}

static void trusted_peers_say_how_the_visitor_came(void)
{
	static const struct {
		const char *peer, *proto, *visitor;
		bool tls, https;
	} rows[] = {
		{"8.8.8.8", "https", "{\"scheme\":\"https\"}", false, false},
		{"8.8.8.8", "http", "", true, true},
		{"10.0.0.1", "", "", false, false},
		{"10.0.0.1", "", "", true, true},
		{"10.0.0.1", "https", "", false, true},
		{"10.0.0.1", "HTTPS", "", false, true},
		{"10.0.0.1", " https ", "", false, true},
		{"10.0.0.1", "http", "", false, false},
		{"10.0.0.1", "http", "", true, false},
		{"10.0.0.1", "https, http", "", false, true}, /* the first hop is the visitor's */
		{"10.0.0.1", "wss", "", false, true},
		{"10.0.0.1", "ws", "", true, false},
		{"10.0.0.1", "ftp", "", false, false},
		{"10.0.0.1", "ftp", "", true, true}, /* says nothing */
		{"10.0.0.1", "httpsx", "", false, false},
		{"10.0.0.1", ",https", "", false, false},
		{"173.245.48.9", "", "{\"scheme\":\"https\"}", false, true},
		{"173.245.48.9", "", "{ \"scheme\" : \"https\" }", false, true},
		{"173.245.48.9", "", "{\"scheme\":\"http\"}", false, false},
		{"173.245.48.9", "", "{\"scheme\":\"http\"}", true, false},
		{"173.245.48.9", "http", "{\"scheme\":\"https\"}", false, true}, /* either will do */
		{"173.245.48.9", "https", "{\"scheme\":\"http\"}", false, true},
		{"173.245.48.9", "", "{\"scheme\":\"httpsx\"}", false, false},
		{"173.245.48.9", "", "{\"scheme\":\"httpsx\"}", true, true},
		{"173.245.48.9", "", "{\"scheme\":\"https", false, false},
		{"173.245.48.9", "", "{\"scheme\":", true, true},
		{"173.245.48.9", "", "\"scheme\"", true, true},
		{"173.245.48.9", "", "{\"scheme\":https}", false, false},
		{"10.0.0.1", "", "{\"scheme\":\"https\"}", false, true},
		{"173.245.48.9", "", "{\"scheme\"}", false, false},
		{"173.245.48.9", "", "https", false, false},
		{"173.245.48.9", "https", "{\"scheme\":\"https\"}", false, true},
	};
	struct cidr v[8];
	struct conf cf = {.trust = ranges(TRUST, v)};

	for (size_t i = 0; i < RP_LEN(rows); i++) {
		struct gate_claims cl = {.nxff = 0};
		struct gate_caller who;
		uint8_t ip[16];
		char row[128];
		(void)snprintf(row, sizeof row, "%zu: %s %s", i, rows[i].proto, rows[i].visitor);
		cl.cf_ip = sl_mk("", 0);
		cl.proto = sl_of(rows[i].proto);
		cl.cf_visitor = sl_of(rows[i].visitor);
		ip_of(rows[i].peer, ip);
		gate_believe(&cf, ip, 1, &cl, rows[i].tls, &who);
		HOLDS_FOR(row, who.https == rows[i].https);
	}
}

/* ---- lists ---- */

static void the_most_specific_range_decides(void)
{
	static const struct {
		const char *allow, *deny, *ip;
		bool in;
	} rows[] = {
		{"", "", "1.2.3.4", true},
		{"10.0.0.0/8", "", "10.1.2.3", true},
		{"10.0.0.0/8", "", "11.1.2.3", false},
		{"", "10.0.0.0/8", "10.1.2.3", false},
		{"", "10.0.0.0/8", "11.1.2.3", true},
		{"10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", false},
		{"10.0.0.0/8", "10.1.0.0/16", "10.2.2.3", true},
		{"10.1.0.0/16", "10.0.0.0/8", "10.1.2.3", true},
		{"10.1.0.0/16", "10.0.0.0/8", "10.2.2.3", false},
		{"10.0.0.0/8", "10.0.0.0/8", "10.1.2.3", false}, /* alike: deny */
		{"10.0.0.0/8", "11.0.0.0/8", "12.1.2.3", false}, /* neither, with an allow list */
		{"0.0.0.0/0", "10.0.0.0/8", "12.1.2.3", true},
		{"0.0.0.0/0", "", "::1", false},
		{"::/0", "2001:db8::/32", "2001:db8::1", false},
		{"::/0", "2001:db8::/32", "2001:db9::1", true},
		{"10.1.2.3", "10.1.2.0/24", "10.1.2.3", true},
		{"10.0.0.0/8 10.1.2.0/24", "10.1.0.0/16", "10.1.2.3", true},
		{"", "0.0.0.0/0 ::/0", "1.2.3.4", false},
	};
	struct cidr a[4], d[4];

	for (size_t i = 0; i < RP_LEN(rows); i++) {
		struct route r = {.allow = ranges(rows[i].allow, a), .deny = ranges(rows[i].deny, d)};
		uint8_t ip[16];
		char row[96];
		(void)snprintf(row, sizeof row, "%zu: %s", i, rows[i].ip);
		ip_of(rows[i].ip, ip);
		HOLDS_FOR(row, gate_allowed(&r, ip) == rows[i].in);
	}
}

/* ---- connections of an address ---- */

static void number(uint8_t ip[16], uint32_t n)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

	memcpy(ip, mapped, 12);
	for (int i = 0; i < 4; i++)
		ip[12 + i] = (uint8_t)(n >> (24 - 8 * i));
}

static void connections_are_counted_by_address(void)
{
	struct gate *g = gate_open(512);
	uint8_t a[16], b[16];

	ip_of("1.2.3.4", a);
	ip_of("1.2.3.5", b);
	for (int i = 0; i < 64; i++)
		HOLDS(gate_conn_in(g, a, 64));
	HOLDS(!gate_conn_in(g, a, 64) && !gate_conn_in(g, a, 64));
	HOLDS(gate_conn_in(g, b, 64));
	gate_conn_out(g, a);
	HOLDS(gate_conn_in(g, a, 64) && !gate_conn_in(g, a, 64));
	HOLDS(gate_conn_in(g, a, 0)); /* no cap, but it counts */
	gate_conn_out(g, a);
	HOLDS(!gate_conn_in(g, a, 64) && gate_conn_in(g, a, 65));
	for (int i = 0; i < 65; i++)
		gate_conn_out(g, a);
	HOLDS(gate_conn_in(g, a, 1) && !gate_conn_in(g, a, 1));
	ip_of("2001:db8:1:2::1", a); /* whoever has one address of a /64 has all of them */
	ip_of("2001:db8:1:2:ffff::9", b);
	HOLDS(gate_conn_in(g, a, 2) && gate_conn_in(g, b, 2) && !gate_conn_in(g, a, 2));
	gate_conn_out(g, b);
	gate_conn_out(g, a);
	ip_of("2001:db8:1:3::1", b);
	HOLDS(gate_conn_in(g, a, 1) && gate_conn_in(g, b, 1) && !gate_conn_in(g, b, 1));
	gate_close(g);
	gate_close(NULL);
}

/* Against a plain array, with addresses that come and go until every place was used often. */
static void counting_agrees_with_an_array(void)
{
	enum { CONNS = 64, ADDRS = 5000, TURNS = 200000 };
	static uint32_t count[ADDRS], open[CONNS];
	struct gate *g = gate_open(CONNS);
	uint64_t x = 88172645463325252u;
	unsigned nopen = 0;
	uint8_t ip[16];

	for (int turn = 0; turn < TURNS; turn++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		if (nopen && (nopen == CONNS || x & 1)) {
			unsigned i = (unsigned)(x >> 8) % nopen;
			number(ip, open[i]);
			gate_conn_out(g, ip);
			count[open[i]]--;
			open[i] = open[--nopen];
			continue;
		}
		uint32_t who = (uint32_t)(x >> 8) % (x & 2 ? ADDRS : 4);
		number(ip, who);
		bool in = gate_conn_in(g, ip, 8);
		HOLDS(in == (count[who] < 8));
		if (in) {
			count[who]++;
			open[nopen++] = who;
		}
	}
	gate_close(g);
}

/* ---- rate ---- */

/* How many of a stream of requests, one each ms, get in within the time. */
static unsigned got_in(uint32_t rate, uint32_t burst, uint64_t ms, unsigned per_ms)
{
	struct gate *g = gate_open(16);
	char host[] = "a.test", path[] = "";
	struct route r = {.host = host, .path = path, .rate = rate, .burst = burst};
	uint8_t ip[16];
	unsigned in = 0;

	ip_of("1.2.3.4", ip);
	for (uint64_t t = 0; t < ms; t++)
		for (unsigned k = 0; k < per_ms; k++)
			in += gate_rate(g, &r, ip, 1000000 + t) == 0;
	gate_close(g);
	return in;
}

/* burst at once, then the rate, within one per cent. */
static void a_bucket_lets_the_rate_through(void)
{
	static const uint32_t rows[][2] = {
		{1, 1},	   {1, 5},	   {3, 3},	   {5, 10},	   {7, 1},		 {10, 20},	  {30, 30},
		{100, 10}, {300, 300}, {600, 600}, {700, 700}, {1000, 1000}, {5000, 5000}};

	for (size_t i = 0; i < RP_LEN(rows); i++) {
		uint32_t rate = rows[i][0], burst = rows[i][1];
		unsigned want = burst + rate * 20, in = got_in(rate, burst, 20000, rate > 500 ? 8 : 1);
		char row[64];
		(void)snprintf(row, sizeof row, "%u/s:%u let %u in, not %u", rate, burst, in, want);
		HOLDS_FOR(row, in + want / 100 + 1 >= want && in <= want + want / 100 + 1);
	}
	HOLDS(got_in(5, 10, 1, 100) == 10);
	HOLDS(got_in(5000, 10, 1, 100) == 10);
}

static void who_is_over_is_told_when_to_come_again(void)
{
	struct gate *g = gate_open(16);
	char host[] = "a.test", other[] = "b.test", path[] = "";
	struct route r = {.host = host, .path = path, .rate = 1, .burst = 3};
	struct route s = {.host = other, .path = path, .rate = 1, .burst = 3};
	uint8_t a[16], b[16], c[16], d[16];
	uint64_t now = 5000000;

	ip_of("1.2.3.4", a);
	ip_of("2001:db8:1:2::1", b);
	ip_of("2001:db8:1:2:ffff::9", c);
	ip_of("2001:db8:1:3::1", d);
	for (int i = 0; i < 3; i++)
		HOLDS(gate_rate(g, &r, a, now) == 0);
	HOLDS(gate_rate(g, &r, a, now) == 1 && gate_rate(g, &r, a, now + 1) == 1);
	HOLDS(gate_rate(g, &s, a, now) == 0); /* another route, another bucket */
	HOLDS(gate_rate(g, &r, a, now + 999) == 1 && gate_rate(g, &r, a, now + 1000) == 0);
	HOLDS(gate_rate(g, &r, a, now + 1000) == 1);
	for (int i = 0; i < 3; i++)
		HOLDS(gate_rate(g, &r, i & 1 ? b : c, now) == 0);
	HOLDS(gate_rate(g, &r, b, now) == 1 && gate_rate(g, &r, c, now) == 1); /* one /64 */
	HOLDS(gate_rate(g, &r, d, now) == 0);
	HOLDS(gate_rate(g, &r, a, now + 1000000) == 0); /* full again, no more than full */
	for (int i = 0; i < 2; i++)
		HOLDS(gate_rate(g, &r, a, now + 1000000) == 0);
	HOLDS(gate_rate(g, &r, a, now + 1000000) == 1);
	gate_close(g);
}

/* 10,000 addresses that never stop: the honest ones notice nothing, and whoever is over his rate
 * stays out although the table is far too small. */
static void ten_thousand_addresses_change_nothing_for_others(void)
{
	struct gate *g = gate_open(16);
	char host[] = "a.test", path[] = "";
	struct route r = {.host = host, .path = path, .rate = 1, .burst = 5};
	unsigned honest_refused = 0, heavy_in = 0;
	uint8_t ip[16];

	for (uint64_t ms = 0; ms < 60000; ms += 5) {
		uint64_t now = 9000000 + ms;
		for (uint32_t i = 0; i < 20; i++) { /* 4,000 requests a second, each address in its turn */
			number(ip, 0x0a000000 + (uint32_t)(ms / 5 * 20 + i) % 10000);
			(void)gate_rate(g, &r, ip, now);
		}
		number(ip, 0x0b000001); /* one that asks 200 times a second */
		heavy_in += gate_rate(g, &r, ip, now) == 0;
		if (ms % 1000 == 0)
			for (uint32_t i = 0; i < 50; i++) {
				number(ip, 0x0c000000 + i);
				honest_refused += gate_rate(g, &r, ip, now) != 0;
			}
	}
	HOLDS(honest_refused == 0);
	char row[32];
	(void)snprintf(row, sizeof row, "%u", heavy_in);
	HOLDS_FOR(row, heavy_in <= 2 * (60 + 5)); /* 65 alone; never the 12,000 that it asked for */
	gate_close(g);
}

/* ---- passwords ---- */

#define SHA_SECRET "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=" /* "secret" */
#define SHA_EMPTY "{SHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk="

static char *htpasswd_file(const char *text)
{
	static char path[] = "/tmp/unit_gate.XXXXXX";

	(void)snprintf(path, sizeof path, "/tmp/unit_gate.XXXXXX");
	int fd = mkstemp(path);
	HOLDS(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	(void)close(fd);
	return path;
}

/* A route whose users are the lines; freed by let_go. */
static struct route *users(struct conf *cf, const char *text)
{
	static struct route r;
	static struct route *list[1] = {&r};

	r = (struct route){.kind = RT_PROXY};
	r.auth_file = htpasswd_file(text);
	*cf = (struct conf){.route = list, .nroute = 1};
	HOLDS(gate_load(cf, &r) == 0 && r.users);
	(void)unlink(r.auth_file);
	return &r;
}

/* "Basic " and the base64 of a text. */
static const char *basic(const char *text)
{
	static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	static char out[2048];
	size_t n = strlen(text), at = 6;

	memcpy(out, "Basic ", 6);
	for (size_t i = 0; i < n; i += 3) {
		uint32_t v = 0;
		for (size_t k = 0; k < 3; k++)
			v = v << 8 | (i + k < n ? (uint8_t)text[i + k] : 0);
		for (size_t k = 0; k < 4; k++)
			out[at++] = i + k > n ? '=' : set[v >> (18 - 6 * k) & 63];
	}
	out[at] = 0;
	return out;
}

static struct gate_login login; /* of the last check */

/* What becomes of an Authorization field that comes from an address. */
static enum gate_auth check_from(struct gate *g, struct dns_room *room, const struct route *r,
								 const char *field, const char *from, uint64_t now)
{
	static char name[256];
	uint8_t ip[16];

	ip_of(from, ip);
	login = (struct gate_login){.field = sl_of(field), .ip = ip, .name = name, .cap = sizeof name};
	return gate_auth_check(g, room, r->users, &login, now);
}

static enum gate_auth check(struct gate *g, struct dns_room *room, const struct route *r,
							const char *field, uint64_t now)
{
	return check_from(g, room, r, field, "1.2.3.4", now);
}

/* The helper's next answer; a.cookie is 0 when none came. */
static struct dns_answer answer_of(struct dns_room *room)
{
	struct dns_answer a;

	for (int i = 0; i < 250; i++) {
		struct pollfd p = {dns_fd(room, DNS_HASH), POLLIN, 0};
		if (dns_next(room, &a)) {
			HOLDS(a.kind == DNS_HASH && a.cookie);
			return a;
		}
		(void)poll(&p, 1, 100);
	}
	HOLDS(!"an answer came");
	return (struct dns_answer){.cookie = 0};
}

/* Waits for the helper and hands its answer on. */
static bool verdict(struct gate *g, struct dns_room *room, uint64_t now)
{
	struct dns_answer a = answer_of(room);

	HOLDS(a.cookie == login.cookie);
	return gate_auth_verdict(g, a.cookie, a.good, now);
}

static void good_credentials_are_remembered_for_five_minutes(void)
{
	struct gate *g = gate_open(16);
	struct dns_room *room = dns_start(DNS_FOR_HASHES);
	struct conf cf;
	struct route *r = users(&cf, "# people\n\nann:" SHA_SECRET "\r\nbob:" SHA_EMPTY ":a remark\n");

	HOLDS(check(g, room, r, basic("ann:secret"), 1000) == GATE_BUSY);
	HOLDS(verdict(g, room, 1000));
	HOLDS(check(g, room, r, basic("ann:secret"), 2000) == GATE_OK && sl_is(login.user, "ann"));
	HOLDS(check(g, room, r, basic("ann:secret"), 300999) == GATE_OK);
	HOLDS(check(g, room, r, basic("ann:secret"), 301001) == GATE_BUSY);
	HOLDS(verdict(g, room, 301001));
	HOLDS(check(g, room, r, basic("bob:"), 301002) == GATE_BUSY && verdict(g, room, 301002));
	HOLDS(check(g, room, r, basic("bob:"), 301003) == GATE_OK);
	gate_unload(&cf);
	HOLDS(!r->users);
	/* a changed password counts at once */
	r = users(&cf, "ann:" SHA_EMPTY "\n");
	HOLDS(check(g, room, r, basic("ann:secret"), 301003) == GATE_BUSY);
	HOLDS(!verdict(g, room, 301003));
	gate_unload(&cf);
	dns_stop(room);
	gate_close(g);
}

static void wrong_credentials_are_never_remembered(void)
{
	static const char *const rows[] = {"ann:Secret",	"ann:",		 "ann:secret ", "Ann:secret",
									   "nobody:secret", "ann:secre", "ann::secret"};
	struct gate *g = gate_open(16);
	struct dns_room *room = dns_start(DNS_FOR_HASHES);
	struct conf cf;
	struct route *r = users(&cf, "ann:" SHA_SECRET "\n");

	for (size_t i = 0; i < RP_LEN(rows); i++)
		for (int k = 0; k < 2; k++) {
			enum gate_auth v = check(g, room, r, basic(rows[i]), 1000);
			HOLDS_FOR(rows[i], v == GATE_BUSY || v == GATE_ASK);
			if (v == GATE_BUSY)
				HOLDS_FOR(rows[i], !verdict(g, room, 1000));
		}
	gate_unload(&cf);
	dns_stop(room);
	gate_close(g);
}

/* A name that is not in the file costs a check, so that its time tells nothing, but the answer is
 * no whatever the helper says: the first user's password must not open the door for any name. */
static void no_password_fits_an_unknown_name(void)
{
	struct gate *g = gate_open(16);
	struct dns_room *room = dns_start(DNS_FOR_HASHES);
	struct conf cf;
	struct route *r = users(&cf, "ann:" SHA_SECRET "\n");

	HOLDS(check(g, room, r, basic("mallory:secret"), 1000) == GATE_BUSY);
	HOLDS(!verdict(g, room, 1000));
	HOLDS(check(g, room, r, basic("mallory:secret"), 1000) == GATE_BUSY); /* nor remembered */
	HOLDS(!verdict(g, room, 1000));
	gate_unload(&cf);
	dns_stop(room);
	gate_close(g);
}

/* Which hash is computed for a name that is not there depends on the name alone, and is now one
 * kind, now the other, as it is for names that are there. */
static void an_unknown_name_costs_what_some_known_one_does(void)
{
	struct gate *g = gate_open(16);
	struct conf cf;
	struct route *r = users(&cf, "ann:" SHA_SECRET "\nbob:" SHA_EMPTY "\n");
	struct dns_room *room = dns_start(DNS_FOR_HASHES);
	unsigned secret = 0, empty = 0;

	for (unsigned i = 0; i < 20; i++) {
		char pair[32];
		bool good[2][2];
		for (int k = 0; k < 2; k++)
			for (int n = 0; n < 2; n++) {
				(void)snprintf(pair, sizeof pair, "x%u:%s", i, n ? "secret" : "");
				HOLDS(check(g, room, r, basic(pair), 1000) == GATE_BUSY);
				struct dns_answer a = answer_of(room);
				good[k][n] = a.good; /* tells which hash it was */
				HOLDS(!gate_auth_verdict(g, a.cookie, a.good, 1000));
			}
		HOLDS(good[0][0] == good[1][0] && good[0][1] == good[1][1] && good[0][0] != good[0][1]);
		secret += good[0][1];
		empty += good[0][0];
	}
	HOLDS(secret > 1 && empty > 1);
	gate_unload(&cf);
	dns_stop(room);
	gate_close(g);
}

/* A browser opens six connections at once: one question, one answer for all. */
static void what_is_being_checked_is_not_asked_again(void)
{
	struct gate *g = gate_open(16);
	struct dns_room *room = dns_start(DNS_FOR_HASHES);
	struct conf cf;
	struct route *r = users(&cf, "ann:" SHA_SECRET "\n");

	HOLDS(check(g, room, r, basic("ann:secret"), 1000) == GATE_BUSY);
	uint64_t first = login.cookie;
	for (int i = 0; i < 5; i++)
		HOLDS(check(g, room, r, basic("ann:secret"), 1000) == GATE_BUSY && login.cookie == first);
	HOLDS(check_from(g, room, r, basic("ann:secret"), "4.4.4.4", 1000) == GATE_BUSY &&
		  login.cookie == first);
	HOLDS(check(g, room, r, basic("ann:Secret"), 1000) == GATE_BUSY && login.cookie != first);
	for (int i = 0; i < 2; i++) {
		struct dns_answer a = answer_of(room);
		HOLDS(gate_auth_verdict(g, a.cookie, a.good, 1000) == (a.cookie == first));
		HOLDS(!gate_auth_verdict(g, a.cookie, true, 1000)); /* each is given once */
	}
	HOLDS(check(g, room, r, basic("ann:secret"), 1000) == GATE_OK);
	gate_unload(&cf);
	dns_stop(room);
	gate_close(g);
}

/* One address that tries password after password has but a part of the queue. */
static void a_guesser_leaves_room_for_others(void)
{
	struct gate *g = gate_open(16);
	struct dns_room *room = dns_start(DNS_FOR_HASHES);
	struct conf cf;
	struct route *r = users(&cf, "ann:" SHA_SECRET "\n");
	unsigned busy = 0;
	char pair[64], from[64];

	for (unsigned i = 0; i < 100; i++) {
		(void)snprintf(pair, sizeof pair, "ann:guess%u", i);
		(void)snprintf(from, sizeof from, "2001:db8:6:6::%x", i);
		busy += check_from(g, room, r, basic(pair), from, 1000) == GATE_BUSY;
	}
	HOLDS(busy == GATE_EACH);
	HOLDS(check(g, room, r, basic("ann:secret"), 1000) == GATE_BUSY);
	uint64_t mine = login.cookie;
	for (unsigned i = 0; i < GATE_EACH + 1; i++) {
		struct dns_answer a = answer_of(room);
		HOLDS(gate_auth_verdict(g, a.cookie, a.good, 1000) == (a.cookie == mine));
	}
	gate_unload(&cf);
	dns_stop(room);
	gate_close(g);
}

static void what_is_no_basic_field_is_asked_again(void)
{
	static const char *const rows[] = {
		"",
		"Basic",
		"Basic ",
		"Basic  ",
		"Bearer YW5uOnNlY3JldA==",
		"BasicYW5uOnNlY3JldA==",
		"Basic YW5uOnNlY3JldA=",
		"Basic YW5uOnNlY3JldA===",
		"Basic YW5uOnNlY3JldB==",
		"Basic YW5u!nNlY3JldA==",
		"Basic YW5uOnNl Y3JldA==",
		"Basic YW5u", /* "ann", no colon */
		"Basic OnNlY3JldA==",
		/* no name */ "Basic YW5uOnNlY3JldA==, Basic x",
		"Basic -_-_",
	};
	struct gate *g = gate_open(16);
	struct dns_room *room = dns_start(DNS_FOR_HASHES);
	struct conf cf;
	struct route *r = users(&cf, "ann:" SHA_SECRET "\n");
	char large[1200];

	for (size_t i = 0; i < RP_LEN(rows); i++)
		HOLDS_FOR(rows[i], check(g, room, r, rows[i], 1000) == GATE_ASK);
	memset(large, 'a', sizeof large);
	memcpy(large, "ann:", 4);
	large[sizeof large - 1] = 0;
	HOLDS(check(g, room, r, basic(large), 1000) == GATE_ASK);
	HOLDS(check(g, room, r, "bAsIc YW5uOnNlY3JldA==", 1000) == GATE_BUSY && verdict(g, room, 1000));
	gate_unload(&cf);
	r = users(&cf, ""); /* an empty file keeps everybody out */
	HOLDS(check(g, room, r, basic("ann:secret"), 1000) == GATE_ASK);
	gate_unload(&cf);
	dns_stop(room);
	gate_close(g);
}

/* A storm fills a queue of fixed size, is turned away, and leaves nothing behind. */
static void a_login_storm_is_turned_away(void)
{
	struct gate *g = gate_open(16);
	struct dns_room *room = dns_start(DNS_FOR_HASHES);
	struct conf cf;
	struct route *r = users(&cf, "ann:$apr1$ab$S8K6Sgp3W8c9Jb6LxgywZ.\n");
	struct dns_answer a;
	unsigned busy = 0, told = 0;
	char pair[64];

	for (uint64_t i = 0; i < 1000; i++) {
		(void)snprintf(pair, sizeof pair, "ann:wrong%u", (unsigned)i);
		enum gate_auth v = check(g, room, r, basic(pair), 1000);
		HOLDS(v == GATE_BUSY || v == GATE_DENY);
		busy += v == GATE_BUSY;
	}
	HOLDS(busy > 0 && busy <= 256);
	for (int i = 0; i < 500 && told < busy; i++) {
		while (dns_next(room, &a)) {
			HOLDS(!gate_auth_verdict(g, a.cookie, a.good, 1000));
			told++;
		}
		(void)usleep(20000);
	}
	HOLDS(told == busy);
	HOLDS(check(g, room, r, basic("ann:"), 1000) == GATE_BUSY && verdict(g, room, 1000));
	gate_unload(&cf);
	dns_stop(room);
	gate_close(g);
}

/* ---- what is read at load ---- */

static void lines_that_cannot_be_used_are_named(void)
{
	static const struct {
		const char *line;
		bool good;
	} rows[] = {
		{"ann:" SHA_SECRET, true},
		{"ann:$apr1$saltsalt$qYpLAVWkBvXFyDme7.oc1/", true},
		{"ann:$2y$05$/OK.fbVrR/bpIqNJ5ianF.Sa7shbm4.OzKpvFnX1pQLmQW96oUlCq", RP_CRYPT},
		{"ann:$5$saltsalt$9Wp9Qw4Ze8Jxq5F1Z3UnS47KFhc8AqhCRyxFDa8e660", true},
		/* as mkpasswd and htpasswd write them */
		{"ann:$2b$05$PPBTrdz2T5IVV1C2iP/OL.NThmDPjZ7HYr8qTAB19t055VQnQ5on2", RP_CRYPT},
		{"ann:$2a$05$yc0/mSnoBwPgconRCbEx0u0r0o6/SVyyU0safU83G5vALtdDbOu46", RP_CRYPT},
		{"ann:$5$rounds=1000$saltsalt$9Wp9Qw4Ze8Jxq5F1Z3UnS47KFhc8AqhCRyxFDa8e660", true},
		{"ann:$6$CZHDLNe9p8FRFXzE$7MkhO70qtEHBIQcDBiILMtLDI1/PmSF82UJMqUB8U7DTnubs91uZMTd1zsigZg1f"
		 "gaWYeo/zkaGt/.Rtc7tP70",
		 true},
		{"ann:$y$j9T$D7ErJinB5GtvtL/Bp80Uw1$niYntMc7Hgb59UjdHIGlQllfZyftns3grF7oQ8umv.1", false},
		{"ann:secret", false},
		{"ann:rqXexS6ZhobKA", false}, /* DES */
		{"ann:$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/", false},
		{"ann:{SSHA}aaaa", false},
		{"ann:", false},
		{"ann", false},
		{":" SHA_SECRET, false},
		/* not whole: nobody could ever log in with them */
		{"ann:{SHA}short", false},
		{"ann:$apr1$saltsalt$short", false},
		{"ann:$2y$05$short", false},
		{"ann:$6$saltsalt$short", false},
		{"ann:$2y$03$/OK.fbVrR/bpIqNJ5ianF.Sa7shbm4.OzKpvFnX1pQLmQW96oUlCq", false},
		{"ann:$2y$32$/OK.fbVrR/bpIqNJ5ianF.Sa7shbm4.OzKpvFnX1pQLmQW96oUlCq", false},
		{"ann:$2x$05$/OK.fbVrR/bpIqNJ5ianF.Sa7shbm4.OzKpvFnX1pQLmQW96oUlCq", false},
		{"ann:$2y$05$/OK.fbVrR/bpIqNJ5ianF.Sa7shbm4.OzKpvFnX1pQLmQW96oUlC-", false},
		{"ann:$apr1$saltsaltx$qYpLAVWkBvXFyDme7.oc1/", false},
		{"ann:$5$rounds=$saltsalt$9Wp9Qw4Ze8Jxq5F1Z3UnS47KFhc8AqhCRyxFDa8e660", false},
		{"ann:$5$rounds=10000000$saltsalt$9Wp9Qw4Ze8Jxq5F1Z3UnS47KFhc8AqhCRyxFDa8e660", false},
		{"ann:$5$saltsaltsaltsaltx$9Wp9Qw4Ze8Jxq5F1Z3UnS47KFhc8AqhCRyxFDa8e660", false},
		{"ann:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ", true}, /* padding may be left out */
	};

	for (size_t i = 0; i < RP_LEN(rows); i++) {
		char text[256], said[512] = "", *path;
		struct route r = {.kind = RT_PROXY}, *list[] = {&r};
		struct conf cf = {.route = list, .nroute = 1};
		int out[2], keep = dup(2);
		(void)snprintf(text, sizeof text, "# one\n%s\n", rows[i].line);
		r.auth_file = path = htpasswd_file(text);
		HOLDS(pipe2(out, O_NONBLOCK) == 0 && dup2(out[1], 2) == 2);
		HOLDS_FOR(rows[i].line, gate_load(&cf, &r) == 0 && r.users);
		(void)dup2(keep, 2);
		(void)!read(out[0], said, sizeof said - 1);
		(void)snprintf(text, sizeof text, "%s:2:", path);
		HOLDS_FOR(rows[i].line, rows[i].good ? !said[0] : strstr(said, text) != NULL);
		HOLDS_FOR(rows[i].line, !strstr(said, "secret") && !strstr(said, "saltsalt"));
		(void)unlink(path);
		gate_unload(&cf);
		for (int k = 0; k < 2; k++)
			(void)close(out[k]);
		(void)close(keep);
	}
}

static void a_file_that_cannot_be_read_is_an_error(void)
{
	char none[] = "/nonexistent/htpasswd", folder[] = "/tmp";
	struct route r = {.kind = RT_PROXY, .auth_file = none}, *list[] = {&r};
	struct conf cf = {.route = list, .nroute = 1};
	int keep = dup(2), sink = open("/dev/null", O_WRONLY);

	(void)dup2(sink, 2);
	int first = gate_load(&cf, &r);
	r.auth_file = folder;
	int second = gate_load(&cf, &r);
	(void)dup2(keep, 2);
	HOLDS(first == -1 && second == -1 && !r.users);
	gate_unload(&cf);
	gate_unload(&cf);
	(void)close(keep);
	(void)close(sink);
}

int main(void)
{
	RUN(the_believed_address);
	RUN(the_last_of_very_many_fields_counts);
	RUN(cloudflare_is_known_by_any_of_its_ranges);
	RUN(trusted_peers_say_how_the_visitor_came);
	RUN(the_most_specific_range_decides);
	RUN(connections_are_counted_by_address);
	RUN(counting_agrees_with_an_array);
	RUN(a_bucket_lets_the_rate_through);
	RUN(who_is_over_is_told_when_to_come_again);
	RUN(ten_thousand_addresses_change_nothing_for_others);
	RUN(good_credentials_are_remembered_for_five_minutes);
	RUN(wrong_credentials_are_never_remembered);
	RUN(no_password_fits_an_unknown_name);
	RUN(an_unknown_name_costs_what_some_known_one_does);
	RUN(what_is_being_checked_is_not_asked_again);
	RUN(a_guesser_leaves_room_for_others);
	RUN(what_is_no_basic_field_is_asked_again);
	RUN(a_login_storm_is_turned_away);
	RUN(lines_that_cannot_be_used_are_named);
	RUN(a_file_that_cannot_be_read_is_an_error);
	return unit_end();
}
