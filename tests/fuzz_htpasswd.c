/* fuzz_htpasswd.c: the first line is an Authorization field, the rest a password file.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz.h"

#define RP_NO_MAIN 1
#include "../rproxy.c"

/* What base64 gives when it is encoded again is the text without its padding (RFC 4648 4). */
static void decode(struct sl text)
{
	static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t cap = text.n * 3 / 4 + 3, at = 0;
	uint8_t *out = malloc(cap);
	uint32_t bits = 0;
	unsigned have = 0;

	FUZZ_HOLDS(out);
	ptrdiff_t n = sl_base64(text, out, cap);
	FUZZ_HOLDS(n >= -1 && n <= (ptrdiff_t)(text.n * 3 / 4));
	for (ptrdiff_t i = 0; i < n; i++) {
		bits = bits << 8 | out[i];
		for (have += 8; have >= 6;) {
			have -= 6;
			FUZZ_HOLDS(text.p[at++] == set[bits >> have & 63]);
		}
	}
	if (n >= 0 && have)
		FUZZ_HOLDS(text.p[at++] == set[bits << (6 - have) & 63]);
	FUZZ_HOLDS(n < 0 || sl_find(sl_rest(text, at), 'A') == text.n - at);
	FUZZ_HOLDS(n <= 0 || sl_base64(text, out, (size_t)n - 1) == -1);
	free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct gate *g;
	static struct dns_room dns; /* no helper runs: it has always just died */
	static const uint8_t ip[16];
	struct sl rest = sl_mk(data, size), field = sl_mk("", 0);
	char name[64];

	log_sink.starting = false;
	log_sink.kind = LOG_TO_NONE;
	if (!g)
		g = gate_open(8);
	FUZZ_HOLDS(g);
	dns.helper[DNS_NAME].fd = dns.helper[DNS_HASH].fd = -1;
	dns.helper[DNS_HASH].died_at = sys_now();
	(void)(size && sl_cut(&rest, '\n', &field));
	decode(field);
	struct gate_users *u = gate_read(fuzz_file(rest.p ? rest.p : "", rest.n));
	FUZZ_HOLDS(u || rest.n > 1 << 20);
	for (size_t i = 0; u && i < u->n; i++) {
		const struct gate_user *one = &u->v[i];
		FUZZ_HOLDS(one->name.n && sl_find(one->name, ':') == one->name.n);
		FUZZ_HOLDS(sl_find(one->name, '\n') == one->name.n && one->hash.n && one->hash.n <= 200);
		FUZZ_HOLDS(one->name.p >= u->text && one->hash.p > one->name.p);
	}
	char *exact = fuzz_copy(field.p, field.n);
	struct gate_login l = {
		.field = sl_mk(exact, field.n), .ip = ip, .name = name, .cap = sizeof name};
	enum gate_auth verdict = gate_auth_check(g, &dns, u, &l, dns.helper[DNS_HASH].died_at);
	FUZZ_HOLDS(verdict == GATE_ASK || (verdict == GATE_DENY && u->n));
	free(exact);
	gate_users_free(u);
	return 0;
}
