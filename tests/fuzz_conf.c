/* fuzz_conf.c: a configuration file, and, when it is one line, a RULE: no crash and no leak; a good
 * rule reads back as it was written, and its host is found.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz.h"

#define RP_NO_MAIN 1
#include "../rproxy.c"

/* Loads with these arguments; what is said is dropped. */
static struct conf *load(const char *a, const char *b, const char *c, const char *d)
{
	char *text = fuzz_copy(d, strlen(d) + 1), *name[4];
	const char *from[] = {"rproxy", a, b, c};
	char *argv[6] = {NULL};

	for (int i = 0; i < 4; i++)
		argv[i] = name[i] = fuzz_copy(from[i], strlen(from[i]) + 1);
	argv[4] = text;
	struct conf *cf = cf_load(5, argv);
	FUZZ_HOLDS(cf && cf->holds == 1);
	for (int i = 0; i < 4; i++)
		free(name[i]);
	free(text);
	return cf;
}

/* What a good route never lacks. */
static void judge(const struct conf *cf, const struct route *r)
{
	char host[RP_NAME_MAX + 1], path[512];
	size_t n = strlen(r->path);

	FUZZ_HOLDS(r->host && r->path && r->rule &&
			   (n == 0 || (r->path[0] == '/' && r->path[n - 1] != '/')));
	FUZZ_HOLDS((r->kind == RT_PROXY || r->kind == RT_TCP) == (r->ntarget > 0));
	FUZZ_HOLDS(r->ntarget <= RP_TARGETS_MAX);
	for (unsigned i = 0; i < r->ntarget; i++)
		FUZZ_HOLDS(r->target[i].label && r->target[i].key &&
				   (r->target[i].host || r->target[i].path));
	if (!strcmp(r->host, "*") || r->kind == RT_TCP || n >= sizeof path - 2)
		return;
	const char *name = r->host[0] == '*' ? r->host + 1 : r->host; /* "*.b": ".b" */
	int len = snprintf(host, sizeof host, "%s%s", r->host[0] == '*' ? "x" : "", name);
	if (len <= 0 || len >= (int)sizeof host)
		return;
	(void)snprintf(path, sizeof path, "%s/", r->path);
	const struct route *found = rt_find(cf, sl_of(host), sl_of(path));
	FUZZ_HOLDS(found && strlen(found->path) >= n);
}

/* A rule that was kept is good as an argument, too, and is kept as it is. */
static void again(const struct route *r)
{
	struct conf *cf = load("--http=80", "--https=443", "--route", r->rule);

	FUZZ_HOLDS(cf->faults == 0 && cf->nroute == 1 && strcmp(cf->route[0]->rule, r->rule) == 0);
	FUZZ_HOLDS(cf->route[0]->kind == r->kind && cf->route[0]->ntarget == r->ntarget);
	FUZZ_HOLDS(strcmp(cf->route[0]->host, r->host) == 0 &&
			   strcmp(cf->route[0]->path, r->path) == 0);
	cf_drop(cf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	log_sink.starting = false;
	log_sink.kind = LOG_TO_NONE;
	/* No other file is to be read, and no device. */
	if (size > 4096 ||
		(size && (memmem(data, size, "include", 7) || memmem(data, size, "/proc", 5))))
		return 0;
	struct conf *cf = load("--check", "--log=none", "-c", fuzz_file(data, size));
	for (size_t i = 0; !cf->faults && i < cf->nroute; i++) {
		judge(cf, cf->route[i]);
		again(cf->route[i]);
	}
	cf_drop(cf);
	if (!size || memchr(data, '\n', size) || memchr(data, 0, size))
		return 0;
	char *rule = calloc(1, size + 1);
	FUZZ_HOLDS(rule);
	memcpy(rule, data, size);
	cf = load("--http=80", "--https=443", "--route", rule);
	if (!cf->faults)
		again(cf->route[0]);
	cf_drop(cf);
	free(rule);
	return 0;
}
