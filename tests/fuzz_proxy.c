/* fuzz_proxy.c: a PROXY header: the same verdict when it comes in parts, and what was read is
 * written and read again.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz.h"

#define RP_NO_MAIN 1
#include "../rproxy.c"

static bool same(const struct addr *a, const struct addr *b)
{
	return a->port == b->port && memcmp(a->ip, b->ip, 16) == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct net_proxy p, q;
	ptrdiff_t r = net_proxy_parse(sl_mk(data, size), &p), r2 = 0;

	FUZZ_HOLDS(r >= -1 && r <= (ptrdiff_t)size);
	FUZZ_HOLDS(r <= (data && size && data[0] == '\r' ? 16 + NET_PROXY_V2 : NET_PROXY_V1));
	FUZZ_HOLDS(r != 0 || size < 16 + NET_PROXY_V2); /* more is never asked for without end */
	for (size_t n = 0; n <= size && r2 == 0; n++) {
		char *copy = fuzz_copy(data, n);
		r2 = net_proxy_parse(sl_mk(copy, n), &q);
		free(copy);
	}
	FUZZ_HOLDS(r2 == r);
	if (r <= 0)
		return 0;
	FUZZ_HOLDS(p.local == q.local && (p.local || (same(&p.src, &q.src) && same(&p.dst, &q.dst))));
	for (int version = 1; version <= 2; version++) {
		uint8_t out[108];
		size_t n = net_proxy_write(version, p.local ? NULL : &p.src, p.local ? NULL : &p.dst, out);
		FUZZ_HOLDS(n <= sizeof out && net_proxy_parse(sl_mk(out, n), &q) == (ptrdiff_t)n);
		FUZZ_HOLDS(q.local == p.local);
		FUZZ_HOLDS(p.local || (same(&p.src, &q.src) && same(&p.dst, &q.dst)));
	}
	return 0;
}
