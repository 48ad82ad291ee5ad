/* unit_life.c: room LIFE: a reload without memory, at each allocation that it makes.
 *
 * SPDX-License-Identifier: MIT
 */
#include "unit.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bearssl.h>

/* The allocation with this number fails; 0: none. */
static unsigned starve_at;

static bool starved(void)
{
	if (!starve_at || --starve_at)
		return false;
	errno = ENOMEM;
	return true;
}

#define malloc(n) (starved() ? NULL : malloc(n))
#define calloc(n, size) (starved() ? NULL : calloc(n, size))
#define realloc(p, n) (starved() ? NULL : realloc(p, n))
#define strdup(s) (starved() ? NULL : strdup(s))
#define strndup(s, n) (starved() ? NULL : strndup(s, n))
#define vasprintf(to, fmt, ap) (starved() ? -1 : vasprintf(to, fmt, ap))
#define scandir(dir, list, fit, order) (starved() ? -1 : scandir(dir, list, fit, order))

#define RP_NO_MAIN 1
#include "../rproxy.c"

#include "unit_certs.h"

static unsigned entries(const char *dir)
{
	DIR *d = opendir(dir);
	unsigned n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		(void)closedir(d);
	return n;
}

/* The processes that we have started, a zombie too. */
static unsigned helpers(void)
{
	char path[64], text[256] = "";
	unsigned n = 0;

	(void)snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)getpid(), (int)getpid());
	FILE *f = fopen(path, "r");
	if (f && fgets(text, sizeof text, f))
		for (const char *p = text; *p; p++)
			n += *p == ' ';
	if (f)
		(void)fclose(f);
	return n;
}

static void write_conf(const char *text)
{
	FILE *f = fopen(at("rproxy.conf"), "w");

	if (!f)
		exit(1);
	(void)fprintf(f, "http 127.0.0.1:0\nhttps 127.0.0.1:0\nlog %s/events\ncert-dir %s/live\n%s",
				  certs_dir, certs_dir, text);
	(void)fclose(f);
}

static uint32_t holds(const struct rp *rp)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < rp->nup; i++)
		n += rp->up[i]->holds;
	return n;
}

/* One reload after the other, each without one more of its allocations, until none is missed. */
static void starve(struct rp *rp)
{
	unsigned n = 0, refused = 0;

	for (bool fired = true; fired && n < 5000;) {
		const struct conf *old = rp->cf;
		const struct crt_set *certs = rp->certs;
		unsigned fds = entries("/proc/self/fd"), children = helpers();
		uint32_t held = holds(rp), nls = rp->nls;
		starve_at = ++n;
		int r = rp_reload(rp);
		fired = !starve_at;
		starve_at = 0;
		if (r == 0)
			continue;
		refused++;
		HOLDS(fired && rp->cf == old && old->holds == 1 && rp->certs == certs && rp->nls == nls);
		HOLDS(holds(rp) == held && entries("/proc/self/fd") == fds && helpers() == children);
	}
	HOLDS(refused > 50 && n > refused);
	printf("  %u allocations, %u reloads refused\n", n - 1, refused);
}

static void a_reload_without_memory_changes_nothing(void)
{
	char config[PATH_MAX], text[4096];
	char *argv[] = {NULL, NULL, NULL, NULL};
	int status = 0;

	argv[0] = config;
	(void)snprintf(config, sizeof config, "%s", at("rproxy.conf"));
	char flag[] = "-c", name[] = "rproxy";
	argv[0] = name;
	argv[1] = flag;
	argv[2] = config;
	write_conf("route a.test=http://127.0.0.1:1\n");
	struct rp *rp = rp_open(3, argv, &status);
	HOLDS(rp && status == 0);
	if (!rp)
		return;
	(void)snprintf(
		text, sizeof text,
		"http 127.0.0.1:0\ninclude %s/*.inc\ntrust private\npid-file %s/pid\n"
		"route a.test=http://127.0.0.1:1,http://127.0.0.1:2 auth=%s/users set=A:b hide=c\n"
		"route b.test=http://name.invalid error-page=%s/users allow=10.0.0.0/8\n"
		"route c.test=https://127.0.0.1:3 ca=%s/root.crt wake=00:11:22:33:44:55\n"
		"route d.test=redirect:https://e.test/\n",
		certs_dir, certs_dir, certs_dir, certs_dir, certs_dir);
	write_conf(text);
	starve(rp);
	HOLDS(rp->nls == 3 && rp->cf->nroute == 5);
	write_conf("route a.test=http://127.0.0.1:1\n");
	starve(rp);
	HOLDS(rp->nls == 2 && rp->cf->nroute == 1);
	rp_close(rp);
}

int main(void)
{
	make_certs();
	make_cert("a", EC256, "DNS:a.test", YEAR);
	run("mkdir live; cp a.pem live/a.pem; printf 'user:{SHA}fEqNCco3Yq9h5ZUglD3CZJT4lBs=\\n' > users; "
		"printf 'route x.test=status:410\\n' > one.inc");
	RUN(a_reload_without_memory_changes_nothing);
	remove_certs();
	return unit_end();
}
