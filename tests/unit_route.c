/* unit_route.c: room ROUTE: which route serves a host and path, and which paths are in doubt.
 *
 * SPDX-License-Identifier: MIT
 */
#include "unit.h"

#define RP_NO_MAIN 1
#include "../rproxy.c"

/* A host table from "host/path" texts; a "!" before the host makes it a tcp: route. */
struct table {
	struct conf cf;
	struct route r[64];
	struct route *p[64];
	char text[64][2][300];
};

static void table_open(struct table *t, const char *const *keys, size_t n)
{
	memset(t, 0, sizeof *t);
	for (size_t i = 0; i < n; i++) {
		bool tcp = keys[i][0] == '!';
		const char *host = keys[i] + tcp, *path = strchr(host, '/');
		size_t len = path ? (size_t)(path - host) : strlen(host);

		(void)snprintf(t->text[i][0], sizeof t->text[i][0], "%.*s", (int)len, host);
		(void)snprintf(t->text[i][1], sizeof t->text[i][1], "%s", path ? path : "");
		t->r[i] = (struct route){.host = t->text[i][0],
								 .path = t->text[i][1],
								 .kind = tcp ? RT_TCP : RT_PROXY,
								 .line = (unsigned)i};
		t->p[i] = &t->r[i];
	}
	t->cf = (struct conf){.route = t->p, .nroute = n};
	rt_seal(&t->cf);
}

/* The key of the route that serves host and path, "" for none. */
static const char *found(struct table *t, const char *host, const char *path)
{
	static char key[300];
	const struct route *r = rt_find(&t->cf, sl_of(host), sl_of(path));

	if (!r)
		return "";
	(void)snprintf(key, sizeof key, "%s%s", r->host, r->path);
	return key;
}

static void the_exact_name_wins_then_the_longest_wildcard_then_the_star(void)
{
	static const char *const keys[] = {"*",		"a.b.c",	"*.b.c", "*.c",	  "*.x.b.c",
									   "[::1]", "10.0.0.1", "d",	 "aa.b.c"};
	static const char *const rows[][2] = {
		{"a.b.c", "a.b.c"},
		{"z.b.c", "*.b.c"},
		{"b.c", "*.c"},
		{"c", "*"},
		{"y.x.b.c", "*.x.b.c"},
		{"z.y.x.b.c", "*.x.b.c"},
		{"x.b.c", "*.b.c"},
		{"a.a.b.c", "*.b.c"},
		{"z.d", "*"},
		{"d", "d"},
		{"[::1]", "[::1]"},
		{"[::2]", "*"},
		{"10.0.0.1", "10.0.0.1"},
		{"10.0.0.2", "*"},
		{"aa.b.c", "aa.b.c"},
		{"a.b.cc", "*"},
		{"xa.b.c", "*.b.c"},
		{"", "*"},
	};
	struct table t;

	table_open(&t, keys, sizeof keys / sizeof *keys);
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		HOLDS_FOR(rows[i][0], strcmp(found(&t, rows[i][0], "/"), rows[i][1]) == 0);
}

static void a_table_without_a_star_knows_no_other_host(void)
{
	static const char *const keys[] = {"a.b", "*.c"};
	struct table t;

	table_open(&t, keys, 2);
	HOLDS(found(&t, "b", "/")[0] == 0);
	HOLDS(found(&t, "c", "/")[0] == 0);
	HOLDS(found(&t, "", "/")[0] == 0);
	table_open(&t, keys, 0);
	HOLDS(found(&t, "a.b", "/")[0] == 0);
}

static void the_longest_path_on_a_segment_edge_wins(void)
{
	static const char *const keys[] = {"h", "h/a", "h/a/b", "h/ab", "h/a/b/c"};
	static const char *const rows[][2] = {
		{"/", "h"},		   {"/a", "h/a"},	 {"/a/", "h/a"},
		{"/a/x", "h/a"},   {"/ab", "h/ab"},	 {"/abc", "h"},
		{"/a/b", "h/a/b"}, {"/a/bc", "h/a"}, {"/a/b/c/d", "h/a/b/c"},
		{"/A", "h"},	   {"*", "h"},		 {"", "h"},
	};
	struct table t;

	table_open(&t, keys, sizeof keys / sizeof *keys);
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		HOLDS_FOR(rows[i][0], strcmp(found(&t, "h", rows[i][0]), rows[i][1]) == 0);
}

/* As nginx: the host is chosen first, and a path that it does not serve is 404. */
static void a_wider_host_does_not_step_in_for_a_path(void)
{
	static const char *const keys[] = {"a.b/x", "*.b", "*"};
	struct table t;

	table_open(&t, keys, 3);
	HOLDS(strcmp(found(&t, "a.b", "/x/y"), "a.b/x") == 0);
	HOLDS(found(&t, "a.b", "/y")[0] == 0);
	HOLDS(strcmp(found(&t, "c.b", "/y"), "*.b") == 0);
}

static void tcp_routes_are_found_by_name(void)
{
	static const char *const keys[] = {"!a.b", "*.b", "!*", "c.b/x"};
	struct table t;
	const struct route *r;

	table_open(&t, keys, 4);
	r = rt_find_tcp(&t.cf, sl_of("a.b"));
	HOLDS(r && strcmp(r->host, "a.b") == 0);
	HOLDS(!rt_find_tcp(&t.cf, sl_of("z.b")));
	HOLDS(!rt_find_tcp(&t.cf, sl_of("c.b")));
	r = rt_find_tcp(&t.cf, sl_of("q"));
	HOLDS(r && strcmp(r->host, "*") == 0);
	r = rt_find_tcp(&t.cf, sl_of("")); /* no SNI */
	HOLDS(r && strcmp(r->host, "*") == 0);
}

static unsigned clashes(const char *const *keys, size_t n)
{
	struct table t;
	unsigned count = 0;

	table_open(&t, keys, n);
	for (size_t i = 0; i < n; i++)
		count += rt_clash(&t.cf, i) != NULL;
	return count;
}

static void the_same_host_and_path_twice_clash(void)
{
	static const char *const same[] = {"b", "a", "b"}, *const path[] = {"b/x", "b/y", "b/x", "b"},
							 *const tcp[] = {"!b", "b/x"},
							 *const fine[] = {"b", "!c", "b/x", "*.b"};

	HOLDS(clashes(same, 3) == 1);
	HOLDS(clashes(path, 4) == 1);
	HOLDS(clashes(tcp, 2) == 1);
	HOLDS(clashes(fine, 4) == 0);
}

/* Issue 3: a target that would route differently after normalisation is refused. */
static void paths_that_another_server_reads_otherwise_are_in_doubt(void)
{
	static const char *const keys[] = {"h", "h/admin", "h/a/b", "one", "only/app", "*.w/admin"};
	static const struct {
		const char *host, *path;
		bool doubt;
	} rows[] = {
		/* plain paths */
		{"h", "/", false},
		{"h", "/admin", false},
		{"h", "/admin/", false},
		{"h", "/x/y.css", false},
		{"h", "/x/.well-known", false},
		{"h", "/x%20y", false},
		{"h", "/caf%c3%a9", false},
		{"h", "*", false},
		{"h", "/..a/b..", false},
		{"h", "/x;v=1/y", false},
		/* dot segments */
		{"h", "/x/../admin", true},
		{"h", "/admin/../x", true},
		{"h", "/admin/./x", false}, /* the same route however it is read */
		{"h", "/./admin", true},
		{"h", "/x/..", false},
		{"h", "/admin/..", true},
		{"h", "/a/./b", true},
		{"h", "/x/../y", false},
		/* their encoded forms */
		{"h", "/x/%2e%2e/admin", true},
		{"h", "/x/.%2E/admin", true},
		{"h", "/x/..%2fadmin", true},
		{"h", "/x%2f..%2Fadmin", true},
		{"h", "/%2e/admin", true},
		{"h", "/x/..%5cadmin", true},
		{"h", "/x\\..\\admin", true},
		{"h", "/a%2fb", true},
		{"h", "/a%5cb", true},
		{"h", "/x%2fy", false},
		/* encoded characters that could stand for themselves */
		{"h", "/%61dmin", true},
		{"h", "/adm%69n/x", true},
		{"h", "/admin%2fx", true},
		{"h", "/%78", false},
		/* what is left out by some */
		{"h", "//admin", true},
		{"h", "/a//b", true},
		{"h", "/admin//x", false},
		{"h", "/x//y", false},
		{"h", "/admin;x=1", true},
		{"h", "/x/..;/admin", true},
		{"h", "/;/admin", true},
		/* a slash merged or not gives ".." something else to take off */
		{"h", "/x//../admin", true},
		{"h", "/admin//../x", true},
		/* above the root is the root, RFC 3986 5.2.4 */
		{"h", "/..", false},
		{"one", "/../etc/passwd", false},
		{"one", "/a/../../b", false},
		{"one", "/..%2f..%2fetc", false},
		{"one", "/a/../b", false},
		{"one", "//x//%2e/%61", false},
		/* out of the only path that a host serves, and into it */
		{"only", "/app/../x", true},
		{"only", "/x/../app", true},
		{"only", "/app/x/../y", false},
		{"z.w", "/x/../admin", true},
		{"nobody", "/x/../admin", false},
		/* what only looks like an encoding */
		{"h", "/%", false},
		{"h", "/%2", false},
		{"h", "/%zz/x", false},
	};
	struct table t;

	table_open(&t, keys, sizeof keys / sizeof *keys);
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		HOLDS_FOR(rows[i].path,
				  rt_ambiguous(&t.cf, sl_of(rows[i].host), sl_of(rows[i].path)) == rows[i].doubt);
}

/* The scratch is the size of the longest request line, and no byte more is written. */
static void the_longest_path_is_judged(void)
{
	static const char *const keys[] = {"h", "h/admin"};
	static char path[RP_LINE_MAX + 1];
	struct table t;

	table_open(&t, keys, 2);
	for (size_t i = 0; i < RP_LINE_MAX; i += 4)
		memcpy(path + i, "/%2e", 4);
	HOLDS(!rt_ambiguous(&t.cf, sl_of("h"), sl_mk(path, RP_LINE_MAX)));
	memcpy(path + RP_LINE_MAX - 8, "/./admin", 8);
	HOLDS(rt_ambiguous(&t.cf, sl_of("h"), sl_mk(path, RP_LINE_MAX)));
	memset(path, '/', sizeof path);
	HOLDS(rt_ambiguous(&t.cf, sl_of("h"), sl_mk(path, RP_LINE_MAX + 1)));
}

/* Another way to say it: a path is in no doubt if all its readings, segment by segment, lead to the
 * same route. Random paths of the characters that matter; the reading with nothing but decoding
 * must never lead elsewhere when there is said to be no doubt. */
static void no_doubt_means_that_a_decoding_server_agrees(void)
{
	static const char *const keys[] = {"h", "h/a", "h/a/b", "h/b"};
	static const char *const bits[] = {"/",	  "/",	 "a",  "b", ".",   "..", "%2e",
									   "%2F", "%5c", "\\", ";", "%61", "%"};
	struct table t;
	uint32_t seed = 1;

	table_open(&t, keys, 4);
	for (int round = 0; round < 20000; round++) {
		char path[64] = "/", seen[64];
		size_t n = 1, len;
		for (int k = 0; k < 8; k++) {
			seed = seed * 1664525 + 1013904223;
			const char *bit = bits[(seed >> 16) % (sizeof bits / sizeof *bits)];
			memcpy(path + n, bit, strlen(bit));
			n += strlen(bit);
		}
		path[n] = 0;
		if (rt_ambiguous(&t.cf, sl_of("h"), sl_mk(path, n)))
			continue;
		for (unsigned how = 0; how < RT_READINGS; how++) {
			len = rt_normal(sl_mk(path, n), how, seen);
			HOLDS_FOR(path, len <= n);
			HOLDS_FOR(path, rt_find(&t.cf, sl_of("h"), sl_mk(seen, len)) ==
								rt_find(&t.cf, sl_of("h"), sl_mk(path, n)));
		}
	}
}

int main(void)
{
	RUN(the_exact_name_wins_then_the_longest_wildcard_then_the_star);
	RUN(a_table_without_a_star_knows_no_other_host);
	RUN(the_longest_path_on_a_segment_edge_wins);
	RUN(a_wider_host_does_not_step_in_for_a_path);
	RUN(tcp_routes_are_found_by_name);
	RUN(the_same_host_and_path_twice_clash);
	RUN(paths_that_another_server_reads_otherwise_are_in_doubt);
	RUN(the_longest_path_is_judged);
	RUN(no_doubt_means_that_a_decoding_server_agrees);
	return unit_end();
}
