/* fuzz_main.c: runs a fuzz target over collected inputs, where libFuzzer is not at hand.
 *
 * SPDX-License-Identifier: MIT
 *
 *	build/fuzz-quick/head tests/corpus/head ...
 *
 * Feeds every file of each directory named, and the empty input. A sanitizer or an assert ends the
 * process at a bad one, so it is named before it is fed when VERBOSE is set.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned fed;

/* Feeds one file from a block of exactly its size, so that a byte too far is seen. */
static void feed_file(const char *path)
{
	FILE *f = fopen(path, "rb");
	long size;
	uint8_t *data;

	if (!f || fseek(f, 0, SEEK_END) || (size = ftell(f)) < 0 || fseek(f, 0, SEEK_SET)) {
		perror(path);
		exit(1);
	}
	data = malloc(size ? (size_t)size : 1);
	if (!data || fread(data, 1, (size_t)size, f) != (size_t)size) {
		perror(path);
		exit(1);
	}
	fclose(f);
	if (getenv("VERBOSE"))
		fprintf(stderr, "%s\n", path);
	LLVMFuzzerTestOneInput(data, (size_t)size);
	free(data);
	fed++;
}

static void feed_dir(const char *dir)
{
	struct dirent **entry;
	int n = scandir(dir, &entry, NULL, alphasort);

	if (n < 0) {
		perror(dir);
		exit(1);
	}
	for (int i = 0; i < n; i++) {
		char path[4096];
		snprintf(path, sizeof path, "%s/%s", dir, entry[i]->d_name);
		if (entry[i]->d_name[0] != '.')
			feed_file(path);
		free(entry[i]);
	}
	free(entry);
}

int main(int argc, char **argv)
{
	LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
	for (int i = 1; i < argc; i++)
		feed_dir(argv[i]);
	printf("%u passed, 0 failed\n", fed + 1);
	return 0;
}
