/* prop_gate.c: asks rooms ADDR, GATE and TX questions that tests/test_properties.py makes up, and
 * compares with a model of its own.
 *
 * A line of standard input is one question: a word, then values in hex, blank between them ("-" is
 * an empty one). The answer is one line. argv[1]: a certificate chain with its key.
 *
 *   believe TRUST PEER TLS CF-CONNECTING-IP X-FORWARDED-PROTO CF-VISITOR X-FORWARDED-FOR...
 *           -> ADDRESS https|http            TRUST: ranges, a comma between; "cf:" before one
 *   cidr RANGE ADDRESS...  -> bad, or the range as it is printed, and 1 or 0 for each address
 *   allowed ALLOW DENY ADDRESS -> 1 or 0
 *   field HTTPS HOST[:PORT] PATH PUBLICPORT FIELD RULE...
 *           -> hex of what becomes of a response's field; "none" when no rule serves the request
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE 1

#include <stdio.h>

#pragma GCC diagnostic ignored "-Wunused-function"

#define RP_NO_MAIN 1
#include "../rproxy.c"

#define PROP_WORDS 128

static char *prop_word[PROP_WORDS]; /* the question's values, each with a 0 behind it */
static size_t prop_len[PROP_WORDS];
static unsigned prop_n;
static struct rp prop_rp;

/* Takes the line apart in place. */
static void prop_read(char *line)
{
	prop_n = 0;
	for (char *w = strtok(line, " \n"); w && prop_n < PROP_WORDS; w = strtok(NULL, " \n")) {
		size_t n = strlen(w) / 2;
		prop_len[prop_n] = n;
		if (prop_n && strcmp(w, "-") != 0) {
			assert(sl_hex(sl_of(w), (uint8_t *)w, n));
			w[n] = 0;
		} else if (prop_n) {
			w[0] = 0;
		}
		prop_word[prop_n++] = w;
	}
}

static struct sl prop_sl(unsigned i)
{
	return i < prop_n ? sl_mk(prop_word[i], prop_len[i]) : sl_mk("", 0);
}

/* Ranges with a comma between; all are good. */
static struct cidrs prop_ranges(struct sl text, struct cidr *v)
{
	struct cidrs l = {v, 0};
	struct sl one;

	while (text.n && sl_cut(&text, ',', &one)) {
		bool cf = one.n > 3 && memcmp(one.p, "cf:", 3) == 0;
		assert(addr_cidr_parse(sl_rest(one, cf ? 3 : 0), &v[l.n]));
		v[l.n++].cf = cf;
	}
	return l;
}

static void prop_believe(void)
{
	struct cidr v[64];
	struct conf cf = {.trust = prop_ranges(prop_sl(1), v)};
	struct gate_claims cl = {.nxff = 0};
	struct gate_caller who;
	uint8_t ip[16];
	char text[56];

	assert(addr_parse_ip(prop_sl(2), ip));
	cl.cf_ip = prop_sl(4);
	cl.proto = prop_sl(5);
	cl.cf_visitor = prop_sl(6);
	for (unsigned i = 7; i < prop_n; i++)
		cl.xff[cl.nxff++] = prop_sl(i);
	gate_believe(&cf, ip, 1, &cl, sl_is(prop_sl(3), "1"), &who);
	(void)addr_print(&who.addr, false, text);
	printf("%s %s\n", text, who.https ? "https" : "http");
}

static void prop_cidr(void)
{
	struct cidr c;
	char text[56];
	uint8_t ip[16];

	if (!addr_cidr_parse(prop_sl(1), &c)) {
		printf("bad\n");
		return;
	}
	(void)addr_cidr_print(&c, text);
	printf("%s", text);
	for (unsigned i = 2; i < prop_n; i++) {
		assert(addr_parse_ip(prop_sl(i), ip));
		printf(" %d", addr_in(&c, ip));
	}
	printf("\n");
}

static void prop_allowed(void)
{
	struct cidr a[16], d[16];
	struct route r = {.allow = prop_ranges(prop_sl(1), a), .deny = prop_ranges(prop_sl(2), d)};
	uint8_t ip[16];

	assert(addr_parse_ip(prop_sl(3), ip));
	printf("%d\n", gate_allowed(&r, ip));
}

static void prop_field(void)
{
	static struct tx t;
	static struct conn c;
	char route[] = "--route", public[] = "--public-port", http[] = "--http=1";
	char https[] = "--https=2";
	char *args[2 * PROP_WORDS + 8], text[65536], out[65536], head[512];
	struct sl host = prop_sl(2), port;
	int n = 0;

	args[n++] = prop_word[0];
	for (unsigned i = 6; i < prop_n; i++) {
		args[n++] = route;
		args[n++] = prop_word[i];
	}
	if (prop_len[4]) {
		args[n++] = public;
		args[n++] = prop_word[4];
	}
	args[n++] = http;
	args[n++] = https;
	args[n] = NULL;
	struct conf *cf = cf_load(n, args);
	assert(cf && !cf->faults);
	t = (struct tx){.cf = cf, .c = &c};
	t.m.who.https = sl_is(prop_sl(1), "1");
	t.m.nhost = (uint16_t)hd_authority(host, t.m.host, &port);
	t.m.port = (uint16_t)tx_port(port, 0);
	t.route = rt_find(cf, tx_host(&t), prop_sl(3));
	if (t.route && t.route->ntarget) {
		(void)snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\n");
		int len = snprintf(text, sizeof text, "%s%s\r\n\r\n", head, prop_word[5]);
		t.target = &t.route->target[0];
		hd_reset(&t.rsp, true);
		assert(hd_parse(&t.rsp, sl_mk(text, (size_t)len), RP_HEAD_MAX) == len);
		struct sb b = sb_of(out, sizeof out);
		tx_put_locations(&prop_rp, &t, text, &b);
		for (size_t i = 0; i < b.n; i++)
			printf("%02x", (uint8_t)out[i]);
		printf("\n");
	} else {
		printf("none\n");
	}
	cf_drop(cf);
}

/* The certificate, which tells whose public address is https://. */
static void prop_cert(char *file)
{
	char name[] = "prop", https[] = "--https=1", cert[] = "--cert", route[] = "--route";
	char rule[] = "*=status:404";
	char *args[] = {name, https, cert, file, route, rule, NULL};
	struct conf *cf = cf_load(6, args);

	assert(cf && !cf->faults && crt_load(cf, NULL, &prop_rp.certs) == 0 && prop_rp.certs);
	cf_drop(cf);
}

int main(int argc, char **argv)
{
	static char line[1 << 17];

	assert(argc == 2);
	prop_cert(argv[1]);
	while (fgets(line, sizeof line, stdin)) {
		prop_read(line);
		if (strcmp(prop_word[0], "believe") == 0)
			prop_believe();
		else if (strcmp(prop_word[0], "cidr") == 0)
			prop_cidr();
		else if (strcmp(prop_word[0], "allowed") == 0)
			prop_allowed();
		else
			prop_field();
		(void)fflush(stdout);
	}
	crt_drop(prop_rp.certs);
	return 0;
}
