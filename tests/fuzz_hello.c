/* fuzz_hello.c: the look into a ClientHello: the same verdict when it comes in parts; a name that
 * comes out is a host name.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz.h"

#define RP_NO_MAIN 1
#include "../rproxy.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t scratch[256], other[256];
	char host[RP_NAME_MAX + 1];
	struct sl sni, sni2;
	int r = tls_hello(sl_mk(data, size), &sni, scratch), r2 = 0;
	uint32_t seed = fuzz_seed(data, size);

	FUZZ_HOLDS(r >= -1 && r <= (int)RP_TLS_IN && (r <= 0 || (size_t)r <= size));
	FUZZ_HOLDS(r != 0 || size < RP_TLS_IN); /* more is never asked for without end */
	for (size_t n = 0; r2 == 0;) {
		char *copy = fuzz_copy(data, n);
		r2 = tls_hello(sl_mk(copy, n), &sni2, other);
		free(copy);
		if (n == size)
			break;
		n += size < 1024 ? 1 : 1 + fuzz_next(&seed) % 256;
		n = n < size ? n : size;
	}
	FUZZ_HOLDS(r2 == r);
	if (r <= 0)
		return 0;
	FUZZ_HOLDS(sl_eq(sni, sni2));
	if (sni.n)
		FUZZ_HOLDS(sl_host(sni, host) == sni.n && memcmp(host, sni.p, sni.n) == 0);
	return 0;
}
