/* fuzz_chunk.c: a chunked body: the same payload, end and verdict however it is cut; what was taken
 * is a chunked body also to a second reader that knows nothing of rproxy's.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz.h"

#define RP_NO_MAIN 1
#include "../rproxy.c"

struct got {
	struct fr f;
	ptrdiff_t used; /* -1: malformed */
	uint64_t sum;	/* a hash of the payload */
};

/* Scans in pieces of `step` bytes at most; 0: pieces of random sizes. */
static struct got scan(const uint8_t *data, size_t size, size_t step, uint32_t seed)
{
	struct got g = {.f = {.kind = FR_CHUNKED}, .sum = 14695981039346656037ull};
	size_t at = 0;

	while (at < size && !g.f.done) {
		size_t n = step ? step : 1 + fuzz_next(&seed) % 32, done = 0;
		n = n < size - at ? n : size - at;
		char *piece = fuzz_copy(data + at, n);
		while (done < n && !g.f.done && g.used >= 0) {
			struct sl payload;
			ptrdiff_t r = fr_scan(&g.f, sl_mk(piece + done, n - done), &payload);
			FUZZ_HOLDS(r == -1 || (r > 0 && (size_t)r <= n - done));
			g.used = r < 0 ? -1 : g.used + r;
			for (size_t i = 0; r > 0 && i < payload.n; i++)
				g.sum = (g.sum ^ (uint8_t)payload.p[i]) * 1099511628211ull;
			if (r > 0 && payload.n)
				FUZZ_HOLDS(payload.p >= piece + done && payload.p + payload.n <= piece + done + r);
			done += r > 0 ? (size_t)r : 0;
		}
		free(piece);
		if (g.used < 0)
			break;
		at += n;
	}
	return g;
}

/* The length of the payload of a whole body, as a simple-minded reader has it: strtoull and strstr
 * on a text that is known to be good. */
static uint64_t simple(const char *text, size_t size)
{
	uint64_t total = 0, n;
	const char *end = text + size;

	for (;;) {
		const char *line = memmem(text, (size_t)(end - text), "\r\n", 2);
		FUZZ_HOLDS(line);
		n = strtoull(text, NULL, 16);
		text = line + 2;
		if (!n)
			return total;
		FUZZ_HOLDS(n <= (uint64_t)(end - text));
		text += n;
		FUZZ_HOLDS(end - text >= 2 && memcmp(text, "\r\n", 2) == 0);
		text += 2;
		total += n;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct got whole = scan(data, size, size ? size : 1, 0);
	size_t steps[] = {1, 0, 7};

	for (size_t i = 0; i < RP_LEN(steps); i++) {
		struct got g = scan(data, size, steps[i], fuzz_seed(data, size));
		FUZZ_HOLDS(g.used == whole.used && g.f.done == whole.f.done);
		if (g.used >= 0)
			FUZZ_HOLDS(g.sum == whole.sum && g.f.total == whole.f.total && g.f.at == whole.f.at);
	}
	if (whole.f.done && whole.used > 0) {
		char *text = calloc(1, (size_t)whole.used + 1);
		FUZZ_HOLDS(text);
		memcpy(text, data, (size_t)whole.used);
		FUZZ_HOLDS(simple(text, (size_t)whole.used) == whole.f.total);
		FUZZ_HOLDS(memcmp(text + whole.used - 4, "\r\n\r\n", 4) == 0);
		free(text);
	}
	return 0;
}
