/* fuzz.h: what the fuzzers share. Each takes its input as it is, so that a corpus file can be read;
 * where it is cut comes from a hash of it.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef FUZZ_H
#define FUZZ_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1 /* as rproxy.c does, which is included after this */
#endif

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#pragma GCC diagnostic ignored "-Wunused-function"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What must hold for any input. */
#define FUZZ_HOLDS(cond)                                                                           \
	((cond) ? (void)0 : (fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond), abort()))

/* Random numbers that depend on the input alone. */
static uint32_t fuzz_seed(const uint8_t *data, size_t size)
{
	uint32_t seed = 2166136261u;

	for (size_t i = 0; i < size; i++)
		seed = (seed ^ data[i]) * 16777619u;
	return seed;
}

static uint32_t fuzz_next(uint32_t *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return *seed >> 8;
}

/* A copy that ends where its memory ends; the caller frees it. */
static char *fuzz_copy(const void *p, size_t n)
{
	char *copy = malloc(n ? n : 1);

	FUZZ_HOLDS(copy);
	if (n)
		memcpy(copy, p, n);
	return copy;
}

/* The name of a file in memory that holds the bytes; the next call reuses it. */
static const char *fuzz_file(const void *p, size_t n)
{
	static char path[64];
	static int fd = -1;

	if (fd < 0) {
		fd = memfd_create("fuzz", MFD_CLOEXEC);
		(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	}
	FUZZ_HOLDS(fd >= 0 && ftruncate(fd, 0) == 0 && pwrite(fd, p, n, 0) == (ssize_t)n);
	return path;
}

#endif
