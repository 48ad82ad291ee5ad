/* fuzz_request.c: a request's head: the same verdict and spans however it is cut, and what a good
 * one never holds.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz.h"

#define RP_NO_MAIN 1
#include "../rproxy.c"

#include "fuzz_head.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct hd h;
	const char *base = (const char *)data;
	char host[RP_NAME_MAX + 3];
	struct sl port, target;
	struct fr f;

	if (fuzz_parse(&h, false, data, size) <= 0)
		return 0;
	fuzz_span(&h, base, h.method);
	fuzz_span(&h, base, h.target);
	fuzz_span(&h, base, h.path);
	fuzz_span(&h, base, h.query);
	fuzz_span(&h, base, h.authority);
	FUZZ_HOLDS(h.method.len && h.method.len <= RP_METHOD_MAX && h.target.len);
	target = hd_sl(base, h.target);
	FUZZ_HOLDS(sl_count(target, SL_URI) == target.n);
	FUZZ_HOLDS(!hd_twice(&h, HF_HOST) && (hd_has(&h, HF_HOST) || !h.minor));
	(void)fuzz_fields(&h, base);
	struct sl value = hd_value(&h, base, HF_HOST);
	char *exact = fuzz_copy(value.p, value.n);
	size_t n = hd_authority(sl_mk(exact, value.n), host, &port);
	FUZZ_HOLDS(n <= RP_NAME_MAX + 2 && (!n || host[n] == 0));
	if (n && host[0] != '[') { /* one form: read again it is the same */
		char again[RP_NAME_MAX + 3];
		FUZZ_HOLDS(hd_authority(sl_mk(host, n), again, &port) == n && !memcmp(host, again, n));
	}
	free(exact);
	if (fr_decide_request(&h, base, &f) == 0) {
		FUZZ_HOLDS(f.kind != FR_CLOSE && f.left <= INT64_MAX);
		FUZZ_HOLDS(!(hd_has(&h, HF_CONTENT_LENGTH) && hd_has(&h, HF_TRANSFER_ENCODING)));
		FUZZ_HOLDS((f.kind == FR_CHUNKED) == hd_has(&h, HF_TRANSFER_ENCODING));
	}
	return 0;
}
