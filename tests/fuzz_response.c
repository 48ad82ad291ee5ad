/* fuzz_response.c: an answer's head: the same verdict and spans however it is cut, and what a good
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
	struct fr f;

	if (fuzz_parse(&h, true, data, size) <= 0)
		return 0;
	FUZZ_HOLDS(h.status >= 100 && h.status <= 599);
	fuzz_span(&h, base, h.reason);
	(void)fuzz_fields(&h, base);
	for (int head = 0; head < 2; head++)
		if (fr_decide_response(&h, base, head, &f) == 0) {
			FUZZ_HOLDS(f.left <= INT64_MAX && (!head || (f.kind == FR_NONE && f.done)));
			FUZZ_HOLDS(f.kind != FR_CLOSE || f.no_reuse);
			FUZZ_HOLDS(f.no_reuse || !hd_has(&h, HF_CONTENT_LENGTH) ||
					   !hd_has(&h, HF_TRANSFER_ENCODING));
		}
	return 0;
}
