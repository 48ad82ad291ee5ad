/* unit_conf.c: room CONF: options, files, rules, messages, help and the dump.
 *
 * SPDX-License-Identifier: MIT
 */
#include "unit.h"

#include <glob.h>

#define RP_NO_MAIN 1
#include "../rproxy.c"

static char dir[64];	 /* where the files of the tests are made */
static char said[65536]; /* what the last load() printed to stderr */

/* Writes a file below dir and returns its name. */
static const char *put(const char *name, const char *text, size_t n)
{
	static char path[4][128];
	static unsigned turn;
	char *p = path[turn++ % 4];
	FILE *f;

	(void)snprintf(p, sizeof path[0], "%s/%s", dir, name);
	if (!(f = fopen(p, "wb")) || fwrite(text, 1, n, f) != n || fclose(f))
		abort();
	return p;
}

static const char *file(const char *name, const char *text)
{
	return put(name, text, strlen(text));
}

/* Reads all of a temporary file into a buffer. */
static void collect(FILE *f, char *out, size_t cap)
{
	rewind(f);
	size_t n = fread(out, 1, cap - 1, f);
	out[n] = 0;
	(void)fclose(f);
}

/* cf_load() with up to seven arguments; what it says goes to said[]. */
static struct conf *load(const char *a, const char *b, const char *c, const char *d, const char *e,
						 const char *f, const char *g)
{
	static char args[8][9000];
	const char *from[] = {"rproxy", a, b, c, d, e, f, g, NULL};
	char *argv[9] = {NULL};
	FILE *err = tmpfile();
	int argc = 0, keep = dup(2);

	for (; from[argc]; argc++) {
		(void)snprintf(args[argc], sizeof args[0], "%s", from[argc]);
		argv[argc] = args[argc];
	}
	if (!err || keep < 0 || dup2(fileno(err), 2) < 0)
		abort();
	struct conf *cf = cf_load(argc, argv);
	(void)fflush(stderr);
	(void)dup2(keep, 2);
	(void)close(keep);
	collect(err, said, sizeof said);
	return cf;
}

static struct conf *load_text(const char *text)
{
	return load("--check", "-c", file("t.conf", text), NULL, NULL, NULL, NULL);
}

/* A good configuration of one rule; NULL and a failed test when there is an error in it. */
static struct conf *load_rule(const char *rule)
{
	struct conf *cf = load("--http", "80", "--https=443", "--route", rule, NULL, NULL);

	HOLDS_FOR(rule, cf->faults == 0 && cf->nroute == 1 && !said[0]);
	if (cf->nroute == 1)
		return cf;
	printf("  %s", said);
	cf_drop(cf);
	return NULL;
}

static unsigned lines_of(const char *text)
{
	unsigned n = 0;

	for (; *text; text++)
		n += *text == '\n';
	return n;
}

/* What cf_usage() or the dump prints. */
static const char *printed(const struct conf *cf)
{
	static char out[65536];
	FILE *f = tmpfile();
	int keep = dup(1);

	(void)fflush(stdout);
	if (!f || keep < 0 || dup2(fileno(f), 1) < 0)
		abort();
	int r = cf_usage(cf);
	(void)dup2(keep, 1);
	(void)close(keep);
	HOLDS(r == 0);
	collect(f, out, sizeof out);
	return out;
}

/* ---- errors ---- */

/* Each line alone is one error, said in one line that begins with its place and holds the text. */
static void each_wrong_line_gets_one_clear_line(void)
{
	static const char *const rows[][2] = {
		{"idle-timeout 5x",
		 "option \"idle-timeout\": \"5x\" is not a time; a number with ms, s, m, h "
		 "or d, from 100ms to 1d"},
		{"idle-timeout 5", "\"5\" is not a time"},
		{"idle-timeout 1.5s", "\"1.5s\" is not a time"},
		{"idle-timeout -1s", "\"-1s\" is not a time"},
		{"idle-timeout 0", "from 100ms"},
		{"idle-timeout 99999999999999999999s", "is not a time"},
		{"idle-timeout 9223372036854775807d", "is not a time"},
		{"idle-timeout", "needs a value: TIME"},
		{"idle-timeout \"\"", "needs a value: TIME"},
		{"idle-timeout 5s 6s", "takes one value; \"6s\" is too much"},
		{"idle-timeout \"5s", "a quote has no end"},
		{"idle-timout 5s", "unknown option \"idle-timout\"; did you mean \"idle-timeout\"?"},
		{"frobnicate", "unknown option \"frobnicate\"; --help lists them"},
		{"--http 80", "unknown option \"--http\"; in a file options are written without dashes"},
		{"config x", "in a file it is \"include GLOB\""},
		{"check", "is for the command line"},
		{"help", "is for the command line"},
		{"head-max 61441", "is not a size; a number with k, m, g or nothing, from 1k to 60k"},
		{"head-max 32kb", "is not a size"},
		{"head-max 100", "is not a size"},
		{"max-conns 0", "\"0\" is not a number from 1 to 65535"},
		{"max-conns 1k", "is not a number"},
		{"public-port 65536", "is not a number from 1 to 65535"},
		{"log-format xml", "\"xml\" is none of combined|json"},
		{"log-level Debug", "is none of error|warn|info|debug"},
		{"http 99999", "\"99999\" is not [ADDR:]PORT"},
		{"http localhost:80", "is not [ADDR:]PORT"},
		{"http ::1:80", "is not [ADDR:]PORT"},
		{"http 127.0.0.1", "is not [ADDR:]PORT"},
		{"http 80", "\"80\" is taken by another listener"},
		{"https 80", "\"80\" is taken by another listener"},
		{"default 200", "a status code from 400 to 599, \"drop\" or an absolute URL"},
		{"default nothing", "\"nothing\" does not fit; a status code"},
		{"default ftp://x", "\"ftp://x\" must begin with http:// or https://"},
		{"default-cert a..b", "\"a..b\" is no host name"},
		{"trust 10.0.0.1/8",
		 "\"10.0.0.1/8\" has bits set behind its prefix; the range is 10.0.0.0/8"},
		{"trust fd00::1/8", "the range is fd00::/8"},
		{"trust 10.0.0.0/8,", "\"\" is not an address range"},
		{"trust cloudfare", "one of the words cloudflare, private, loopback"},
		{"accept-proxy 10.0.0.0/33", "is not an address range"},
		{"log a\x01z", "holds a control character"},
		{"include nowhere.conf", "nowhere.conf\" is not there"},
		{"include", "needs one file name or pattern"},
		{"include a b", "needs one file name or pattern"},
		{"route", "needs a value: RULE"},
		{"route a.b", "\"a.b\" is not HOST[/PATH]=TARGET"},
		{"route a.b=", "\"a.b=\" is not HOST[/PATH]=TARGET"},
		{"route a.b = http://x", "\"a.b\" is not HOST[/PATH]=TARGET"},
		{"route \"\"", "needs a rule"},
		{"route a.b=http://x set=\"A: b", "a quote has no end"},
		/* hosts */
		{"route /x=http://y", "HOST \"\" is empty"},
		{"route http://a.b=http://x", "is to be written without http:// or https://"},
		{"route a.b:8080=http://x", "\"a.b:8080\" holds a colon: no scheme or port here"},
		{"route a..b=http://x", "\"a..b\" is no host name"},
		{"route -a.b=http://x", "is no host name"},
		{"route a!b=http://x", "is no host name"},
		{"route .=http://x", "is no host name"},
		{"route *b.c=http://x", "has its \"*\" elsewhere"},
		{"route a.*.c=http://x", "has its \"*\" elsewhere"},
		{"route *.=http://x", "HOST \"*.\" is empty"},
		{"route *.*.c=http://x", "is no host name"},
		{"route *.10.0.0.1=http://x", "is an address below a \"*.\""},
		{"route m\xc3\xbcller.de=http://x", "write it in its xn-- form"},
		{"route 10.0.0.300=http://x", "is neither an IPv4 address nor a name"},
		{"route ::1=http://x", "needs brackets: [::1]"},
		/* paths */
		{"route a.b/x?y=http://x", "PATH \"/x?y\" holds a query or fragment"},
		{"route a.b//x=http://x", "can be read in more than one way; write \"/x\""},
		{"route a.b/x/../y=http://x", "write \"/y\""},
		{"route a.b/%61=http://x", "write \"/a\""},
		{"route a.b/caf%c3%a9=http://x", "write \"/caf%C3%A9\""},
		{"route a.b/..=http://x", "write \"/\""},
		{"route a.b/caf\xc3\xa9=http://x", "needs percent-encoding"},
		{"route a.b/x\\y=http://x", "needs percent-encoding"},
		/* targets */
		{"route a.b=10.0.0.4:8096", "has no scheme; did you mean http://10.0.0.4:8096?"},
		{"route a.b=ftp:x/y", "target \"ftp:x/y\" fits none of http://ADDR[:PORT]"},
		{"route a.b=http://", "\"\" is empty"},
		{"route a.b=http://10.0.0.4:8096/",
		 "holds a \"/\"; a target is scheme://ADDR[:PORT] alone"},
		{"route a.b=http://10.0.0.4?x", "holds a \"?\""},
		{"route a.b=http://me:pw@10.0.0.4", "holds a \"@\""},
		{"route a.b=http://10.0.0.4:0", "a port from 1 to 65535 fits behind the colon"},
		{"route a.b=http://10.0.0.4:", "a port from 1 to 65535"},
		{"route a.b=http://10.0.0.4:65536", "a port from 1 to 65535"},
		{"route a.b=http://10.0.0.4:http", "a port from 1 to 65535"},
		{"route a.b=http://[::1", "\"[::1\" is no IPv6 address in brackets"},
		{"route a.b=http://::1", "is empty"},
		{"route a.b=http://10.0.0.300", "is neither an IPv4 address nor a name"},
		{"route a.b=http://x,", "target \"\" fits none of"},
		{"route a.b=http://x,http://X:80", "target \"http://X:80\" is there twice"},
		{"route a.b=http://x,status:404", "\"status:404\" can't stand beside another target"},
		{"route a.b=http://x,redirect:https://y", "can't stand beside another target"},
		{"route a.b=http://x,tcp://y:1", "tcp:// can't be mixed with other targets"},
		{"route a.b=http://1,http://2.x", "\"1\" is neither an IPv4 address nor a name"},
		{"route a.b=unix:run/x", "unix: needs an absolute path of at most 107 bytes"},
		{"route a.b=tcp://10.0.0.1", "is needed: tcp://ADDR:PORT"},
		{"route a.b/x=tcp://10.0.0.1:1", "PATH \"/x\" does not fit tcp://"},
		{"route a.b=status:99", "\"99\" is not a status code from 200 to 599"},
		{"route a.b=status:100", "is not a status code"},
		{"route a.b=status:302", "use redirect:URL"},
		{"route a.b=redirect:/x", "must begin with http:// or https://"},
		{"route a.b=redirect:https://", "names no valid host"},
		{"route a.b=redirect:https://x/{url}", "\"{uri}\" alone stands for something"},
		{"route a.b=redirect:https://u@x/", "holds a user name"},
		{"route a.b=\"redirect:https://x/a b\"", "needs percent-encoding"},
		{"route a.b=redirect:https://x:99999/", "names no valid host"},
		/* settings */
		{"route a.b=http://x stripe", "unknown setting \"stripe\"; did you mean \"strip\"?"},
		{"route a.b=http://x strip", "strip needs HOST/PATH="},
		{"route a.b/c=http://x strip=yes", "setting \"strip\" takes no value"},
		{"route a.b=http://x plain plain", "setting \"plain\" is there twice"},
		{"route a.b=http://x auth", "setting \"auth\" needs a value: auth=FILE"},
		{"route a.b=http://x auth=", "setting \"auth\" needs a value"},
		{"route a.b=http://x auth=/nowhere", "auth=\"/nowhere\" can't be read: No such file"},
		{"route a.b=http://x auth=/", "auth=\"/\" can't be read: Is a directory"},
		{"route a.b=tcp://x:1 auth=/nowhere", "setting \"auth\" does not fit a tcp:// target"},
		{"route a.b=redirect:https://x verify=off", "does not fit a redirect: target"},
		{"route a.b=status:404 check=/x", "does not fit a status: target"},
		{"route a.b=http://x rate=0/s", "rate=\"0/s\" is not N/s[:BURST]"},
		{"route a.b=http://x rate=5/m", "is not N/s[:BURST]"},
		{"route a.b=http://x rate=5", "is not N/s[:BURST]"},
		{"route a.b=http://x rate=5/s:0", "is not N/s[:BURST]"},
		{"route a.b=http://x rate=5/s:", "is not N/s[:BURST]"},
		{"route a.b=http://x balance=random", "is none of failover|round-robin"},
		{"route a.b=http://x send-proxy=v3", "is none of v1|v2"},
		{"route a.b=http://x hsts=soon", "is not a number of seconds"},
		{"route a.b=http://x hsts=", "is not a number of seconds"},
		{"route a.b=http://x host=a..b", "keep, target or a name fit"},
		{"route a.b=http://x host=a:0", "has no valid port"},
		{"route a.b=http://x allow=10.0.0.1/8", "allow=\"10.0.0.1/8\" has bits set"},
		{"route a.b=http://x deny=all", "deny=\"all\" is not an address range"},
		{"route a.b=http://x hide=a,b\xc3\xa9", "is no field name"},
		{"route a.b=http://x hide=Content-Length", "is a field that HTTP itself needs"},
		{"route a.b=http://x set=X-A", "set=\"X-A\" is not NAME:VALUE"},
		{"route a.b=http://x \"set=X A:b\"", "is not NAME:VALUE"},
		{"route a.b=http://x set=X-A:", "has no value"},
		{"route a.b=http://x set=Host:b", "is what host= is for"},
		{"route a.b=http://x set=transfer-ENCODING:chunked", "is a field that HTTP itself needs"},
		{"route a.b=http://x add-response=Connection:close", "is a field that HTTP itself needs"},
		{"route a.b=http://x \"set=X-A:b\tc\"", NULL}, /* HTAB may stand in a value */
		{"route a.b=http://x verify=off", "verify= needs an https:// target"},
		{"route a.b=https://x verify=maybe", "is none of ca, off and pin:"},
		{"route a.b=https://x verify=pin:abc", "64 hex digits"},
		{"route a.b=https://x ca=/nowhere", "ca=\"/nowhere\" can't be read"},
		{"route a.b=https://x verify=off ca=/etc/passwd", "needs an https:// target and verify=ca"},
		{"route a.b=http://x check=health", "check=\"health\" must begin with \"/\""},
		{"route a.b=http://x wake=00:11:22:33:44", "is not MAC[@ADDR[:PORT]]"},
		{"route a.b=http://x wake=00:11:22:33:44:5g", "is not MAC[@ADDR[:PORT]]"},
		{"route a.b=http://x wake=00:11:22:33:44:55@nas", "is not MAC[@ADDR[:PORT]]"},
		{"route a.b=http://x wake=00:11:22:33:44:55@1.2.3.4:0", "is not MAC[@ADDR[:PORT]]"},
		{"route a.b=http://x error-page=/nowhere", "error-page=\"/nowhere\" can't be read"},
		{"route a.b=http://x body-max=lots", "body-max=\"lots\" is not a size"},
		{"route a.b=http://x tunnel-timeout=1", "tunnel-timeout=\"1\" is not a time"},
	};
	char text[600], place[100];

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		(void)snprintf(text, sizeof text, "http 80\n%s\n", rows[i][0]);
		struct conf *cf = load_text(text);
		(void)snprintf(place, sizeof place, "%s/t.conf:2: ", dir);
		if (!rows[i][1]) {
			HOLDS_FOR(rows[i][0], cf->faults == 0 && !said[0]);
		} else {
			HOLDS_FOR(rows[i][0], cf->faults == 1 && lines_of(said) == 1);
			HOLDS_FOR(rows[i][0], strncmp(said, place, strlen(place)) == 0);
			HOLDS_FOR(said, strstr(said, rows[i][1]) != NULL);
			HOLDS_FOR(rows[i][0], cf->nroute == 0);
		}
		cf_drop(cf);
	}
}

static void wrong_flags_are_named_with_their_dashes(void)
{
	static const char *const rows[][3] = {
		{"--idle-timeout=5x", NULL, "--idle-timeout: \"5x\" is not a time"},
		{"--idle-timeout", "5x", "--idle-timeout: \"5x\" is not a time"},
		{"--idle-timeout", NULL, "--idle-timeout: needs a value: TIME"},
		{"--idle-timeout", "--check", "--idle-timeout: needs a value: TIME"},
		{"--idle-timout", "5s",
		 "unknown option \"--idle-timout\"; did you mean \"--idle-timeout\"?"},
		{"--check=yes", NULL, "--check: takes no value"},
		{"--include=x", NULL,
		 "unknown option \"--include\"; it is for files, here it is --config FILE"},
		{"-x", NULL, "unknown option \"-x\""},
		{"-c", NULL, "--config: needs a value: FILE"},
		{"-c", "/nowhere", "--config: \"/nowhere\" can't be read: No such file"},
		{"rproxy.conf", NULL, "a file is read with -c FILE"},
		{"--", NULL, "\"--\" is no option"},
		{"-", NULL, "\"-\" is no option"},
		{"--route", "a.b=http://x:0", "--route: target \"http://x:0\": a port"},
	};

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct conf *cf = load("--http", "80", rows[i][0], rows[i][1], NULL, NULL, NULL);
		HOLDS_FOR(said, cf->faults == 1 && lines_of(said) == 1);
		HOLDS_FOR(said, strstr(said, rows[i][2]) != NULL);
		cf_drop(cf);
	}
}

static void every_error_is_reported_not_only_the_first(void)
{
	struct conf *cf =
		load_text("http 80\nx 1\nroute a=http://b:0 rate=0/s hsts=x\n\n# y\nlog-level z\n");
	char place[100];

	HOLDS(cf->faults == 5);
	HOLDS(lines_of(said) == 5);
	for (unsigned line = 2; line <= 6; line += 4) {
		(void)snprintf(place, sizeof place, "%s/t.conf:%u: ", dir, line);
		HOLDS_FOR(place, strstr(said, place) != NULL);
	}
	cf_drop(cf);
}

static void without_a_listener_there_is_nothing_to_do(void)
{
	struct conf *cf = load("--check", NULL, NULL, NULL, NULL, NULL, NULL);

	HOLDS(cf->faults == 1 && strstr(said, "no listener") != NULL);
	cf_drop(cf);
	cf = load("--status", "80", NULL, NULL, NULL, NULL, NULL);
	HOLDS(cf->faults == 1);
	cf_drop(cf);
}

static void a_route_given_twice_is_refused_with_both_places(void)
{
	struct conf *cf = load_text("http 80\nroute a.b/c/=http://x\n\nroute A.B./c=http://y\n");
	char first[100], second[100];

	(void)snprintf(first, sizeof first, "%s/t.conf:2\n", dir);
	(void)snprintf(second, sizeof second, "%s/t.conf:4: ", dir);
	HOLDS(cf->faults == 1 && strstr(said, "\"a.b/c\" is there twice") != NULL);
	HOLDS(strstr(said, first) != NULL && strstr(said, second) != NULL);
	cf_drop(cf);
	cf = load("--http=80", "-r", "a=http://x", "-r", "a=http://y", NULL, NULL);
	HOLDS(cf->faults == 1 && strstr(said, "the other is on the command line") != NULL);
	cf_drop(cf);
	cf = load("--https=80", "-r", "a=tcp://x:1", "-r", "a/p=http://y", NULL, NULL);
	HOLDS(cf->faults == 1 && strstr(said, "handed through by tcp://") != NULL);
	cf_drop(cf);
}

static void bytes_of_a_file_do_not_steer_the_terminal(void)
{
	struct conf *cf = load_text("http 80\n\x1b[31m 1\nlog a\x1b[31mz\n");

	HOLDS(cf->faults == 2 && !strchr(said, 0x1b) && strstr(said, "\\x1b") != NULL);
	cf_drop(cf);
	cf = load("-c", put("z.conf", "http 80\nlog a\0b\n", 16), NULL, NULL, NULL, NULL, NULL);
	HOLDS(cf->faults == 1 && strstr(said, "is no text file") != NULL);
	cf_drop(cf);
}

/* ---- what is read ---- */

static void defaults_are_those_of_the_contract(void)
{
	struct conf *cf = load("--http", "80", NULL, NULL, NULL, NULL, NULL);

	HOLDS(cf->faults == 0 && cf->action == CF_SERVE && cf->holds == 1);
	HOLDS_FOR(said, strstr(said, "warning: there is no route: every request gets a 404"));
	HOLDS(cf->head_ms == 10000 && cf->idle_ms == 65000 && cf->connect_ms == 5000);
	HOLDS(cf->response_ms == 300000 && cf->stall_ms == 60000 && cf->tunnel_ms == 3600000);
	HOLDS(cf->drain_ms == 30000 && cf->head_max == 32768 && cf->body_max == 0);
	HOLDS(cf->max_conns == 512 && cf->max_conns_per_ip == 64 && cf->session_cache == 256);
	HOLDS(cf->public_port == 0 && cf->log_format == CF_LOG_COMBINED && cf->log_level == 2);
	HOLDS(cf->default_kind == CF_DEFAULT_STATUS && cf->default_status == 404);
	HOLDS(strcmp(cf->log, "stderr") == 0 && !cf->user && !cf->pid_file && !cf->default_cert);
	cf_drop(cf);
}

static void all_spellings_of_a_flag_are_one(void)
{
	static const char *const rows[][3] = {
		{"--config", NULL, NULL}, {"-c", NULL, NULL}, {"--config=", "", NULL}, {"-c", "", NULL}};
	const char *path = file("s.conf", "http 80\nidle-timeout=7s\nhead-timeout = 3s\n");
	char joined[200];

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		(void)snprintf(joined, sizeof joined, "%s%s", rows[i][0], path);
		struct conf *cf = rows[i][1] ? load("-t", joined, NULL, NULL, NULL, NULL, NULL)
									 : load("--check", rows[i][0], path, NULL, NULL, NULL, NULL);
		HOLDS_FOR(said, cf->faults == 0 && cf->action == CF_CHECK && cf->idle_ms == 7000);
		HOLDS(cf->head_ms == 3000);
		cf_drop(cf);
	}
	struct conf *cf = load("-tc", path, NULL, NULL, NULL, NULL, NULL);
	HOLDS(cf->faults == 0 && cf->action == CF_CHECK && cf->nlisten == 1);
	cf_drop(cf);
}

static void the_later_value_wins_and_lists_grow(void)
{
	const char *path =
		file("o.conf", "idle-timeout 2s\ncert b\ntrust 2.2.2.2\nacme-dir /b\nhttp 81\n");
	struct conf *cf = load("--idle-timeout=1s", "-c", path, "--cert=c", "--trust=3.3.3.3",
						   "--acme-dir=/c", "--http=80");

	HOLDS(cf->faults == 0 && cf->idle_ms == 2000);
	HOLDS(cf->cert.n == 2 && strcmp(cf->cert.v[0], "b") == 0 && strcmp(cf->cert.v[1], "c") == 0);
	HOLDS(cf->trust.n == 2 && cf->trust.v[1].ip[15] == 3);
	HOLDS(cf->acme_dir.n == 1 && strcmp(cf->acme_dir.v[0], "/c") == 0);
	HOLDS(cf->nlisten == 2 && cf->listen[0].addr.port == 81 && cf->listen[0].line == 5);
	HOLDS(cf->listen[1].file == NULL);
	cf_drop(cf);
	cf = load("-c", path, "--idle-timeout=3s", NULL, NULL, NULL, NULL);
	HOLDS(cf->faults == 0 && cf->idle_ms == 3000);
	cf_drop(cf);
}

static void files_may_hold_comments_quotes_and_foreign_line_ends(void)
{
	struct conf *cf =
		load_text("\xef\xbb\xbf# first\r\n  http\t80   # plain\r\n\r\n"
				  "log \"/a b/\\\"c\\\\#d\" # more\r\n"
				  "route a=redirect:https://x/#top # a word in which # is no comment\n"
				  "route \"b.c=http://x set=\\\"X-A: b # c\\\"\"\n"
				  "route d=http://x set=\"X-A: b  c\" set=X-B:\"d e\"\n"
				  "idle-timeout 5s");

	HOLDS_FOR(said, cf->faults == 0 && cf->nroute == 3 && cf->idle_ms == 5000);
	HOLDS(cf->log && strcmp(cf->log, "/a b/\"c\\#d") == 0);
	if (cf->nroute == 3) {
		HOLDS(strcmp(cf->route[0]->redirect, "https://x/#top") == 0);
		HOLDS(strcmp(cf->route[1]->set.v[0], "X-A: b # c") == 0);
		HOLDS(strcmp(cf->route[2]->set.v[0], "X-A: b  c") == 0);
		HOLDS(strcmp(cf->route[2]->set.v[1], "X-B: d e") == 0);
	}
	cf_drop(cf);
}

static void includes_are_relative_sorted_and_bounded(void)
{
	const char *top = file("top.conf", "http 80\ninclude part-*.inc\ninclude none-*.inc\n");
	char text[100];

	(void)file("part-b.inc", "idle-timeout 2s\n");
	(void)file("part-a.inc", "idle-timeout 1s\nx\n");
	struct conf *cf = load("-c", top, NULL, NULL, NULL, NULL, NULL);
	HOLDS(cf->faults == 1 && cf->idle_ms == 2000);
	HOLDS(strstr(said, "/part-a.inc:2: unknown option \"x\"") != NULL);
	cf_drop(cf);

	(void)file("loop.conf", "http 80\ninclude loop2.conf\n");
	cf = load("-c", file("loop2.conf", "include loop.conf\n"), NULL, NULL, NULL, NULL, NULL);
	HOLDS(strstr(said, "includes itself") != NULL);
	cf_drop(cf);

	for (int i = 0; i < 10; i++) {
		char name[32];
		(void)snprintf(name, sizeof name, "deep%d.conf", i);
		(void)snprintf(text, sizeof text, "include deep%d.conf\n", i + 1);
		(void)file(name, i < 9 ? text : "");
	}
	(void)snprintf(text, sizeof text, "%s/deep2.conf", dir); /* 2 to 9: eight files */
	cf = load("--http=80", "-c", text, NULL, NULL, NULL, NULL);
	HOLDS_FOR(said, cf->faults == 0 && cf->files.n == 8);
	cf_drop(cf);
	(void)snprintf(text, sizeof text, "%s/deep1.conf", dir);
	cf = load("--http=80", "-c", text, NULL, NULL, NULL, NULL);
	HOLDS(cf->faults == 1 && strstr(said, "over 8 deep") != NULL);
	cf_drop(cf);
}

static void patterns_of_includes_fit_like_a_shell_s(void)
{
	static const struct {
		const char *pattern, *name;
		bool fits;
	} rows[] = {
		{"*", "a.conf", true},
		{"*.conf", ".conf", true},
		{"*.conf", "a.conf2", false},
		{"a*b*c", "abcbc", true},
		{"a*b*c", "acb", false},
		{"a**", "a", true},
		{"?", "", false},
		{"a?c", "abc", true},
		{"a?c", "ac", false},
		{"[a-c]x", "bx", true},
		{"[a-c]x", "dx", false},
		{"[!a-c]x", "dx", true},
		{"[!a-c]x", "ax", false},
		{"[]x]", "]", true},
		{"[!]]", "]", false},
		{"[a-]", "-", true},
		{"[ab", "[ab", true},
		{"[ab", "a", false},
		{"[", "[", true},
		{"[!", "[!", true},
		{"[!", "x", false},
		{"", "", true},
		{"a[xyz]*[0-9]", "ay12", true},
		{"*[!0-9]", "12", false},
		{"[", "", false},
		{"*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaa", false},
	};

	for (size_t i = 0; i < RP_LEN(rows); i++)
		HOLDS_FOR(rows[i].pattern, cf_fits(rows[i].pattern, rows[i].name) == rows[i].fits);
}

static void includes_of_a_pattern_may_be_in_many_directories(void)
{
	const char *const names[] = {"sub-b/z.inc", "sub-a/y.inc", "sub-a/.hidden.inc", "sub-a/x.inc"};
	char path[120];

	for (size_t i = 0; i < RP_LEN(names); i++) {
		(void)snprintf(path, sizeof path, "%s/%.5s", dir, names[i]);
		(void)mkdir(path, 0700);
		(void)file(names[i], i == 2 ? "bad\n" : "http 80\n");
	}
	struct conf *cf =
		load("-c", file("top.conf", "include sub-?/*.inc\n"), NULL, NULL, NULL, NULL, NULL);
	HOLDS_FOR(said, cf->files.n == 4);
	for (size_t i = 1; i < cf->files.n; i++)
		HOLDS(strstr(cf->files.v[i], i == 1 ? "sub-a/x.inc" : i == 2 ? "sub-a/y" : "sub-b/z"));
	cf_drop(cf);
	for (size_t i = 0; i < RP_LEN(names); i++) {
		(void)snprintf(path, sizeof path, "%s/%s", dir, names[i]);
		(void)unlink(path);
		*strrchr(path, '/') = 0;
		(void)rmdir(path);
	}
}

static void words_stand_for_lists_of_ranges(void)
{
	struct conf *cf = load("--http=80", "--trust=cloudflare,private", "--trust", "loopback,1.2.3.4",
						   NULL, NULL, NULL);
	uint8_t ip[16];
	const struct cidr *c;

	HOLDS(cf->faults == 0 && cf->trust.n == 15 + 7 + 7 + 2 + 1);
	HOLDS(addr_parse_ip(sl_of("172.68.1.1"), ip) && (c = addr_match(&cf->trust, ip)) && c->cf);
	HOLDS(addr_parse_ip(sl_of("2606:4700::1"), ip) && (c = addr_match(&cf->trust, ip)) && c->cf);
	HOLDS(addr_parse_ip(sl_of("100.64.9.9"), ip) && (c = addr_match(&cf->trust, ip)) && !c->cf);
	HOLDS(addr_parse_ip(sl_of("1.2.3.4"), ip) && (c = addr_match(&cf->trust, ip)) && !c->cf);
	HOLDS(addr_parse_ip(sl_of("8.8.8.8"), ip) && !addr_match(&cf->trust, ip));
	cf_drop(cf);
}

/* Every word of the table names ranges that parse. */
static void the_ranges_behind_the_words_are_well_formed(void)
{
	struct cidr c;

	for (size_t i = 0; i < sizeof cf_ranges / sizeof *cf_ranges; i++)
		HOLDS_FOR(cf_ranges[i].range, addr_cidr_parse(sl_of(cf_ranges[i].range), &c));
}

static void the_status_page_is_for_loopback_unless_told(void)
{
	struct conf *cf = load_text("http 80\nstatus 1\nstatus [::]:2\nstatus 10.0.0.1:3\n");
	char text[56];

	HOLDS(cf->faults == 0 && cf->nlisten == 4);
	(void)addr_print(&cf->listen[1].addr, true, text);
	HOLDS_FOR(text, strcmp(text, "127.0.0.1:1") == 0);
	(void)addr_print(&cf->listen[2].addr, true, text);
	HOLDS_FOR(text, strcmp(text, "[::]:2") == 0);
	cf_drop(cf);
}

/* ---- rules ---- */

static void targets_are_named_for_the_log_for_host_and_for_the_pool(void)
{
	static const struct {
		const char *target, *host, *label, *authority;
		enum target_kind kind;
		uint16_t port;
		bool literal;
	} rows[] = {
		{"http://10.0.0.4", "10.0.0.4", "http://10.0.0.4:80", "10.0.0.4", TG_HTTP, 80, true},
		{"http://10.0.0.4:8096", "10.0.0.4", "http://10.0.0.4:8096", "10.0.0.4:8096", TG_HTTP, 8096,
		 true},
		{"http://10.0.0.4:443", "10.0.0.4", "http://10.0.0.4:443", "10.0.0.4:443", TG_HTTP, 443,
		 true},
		{"https://NAS.Lan.", "nas.lan", "https://nas.lan:443", "nas.lan", TG_HTTPS, 443, false},
		{"https://nas:8443", "nas", "https://nas:8443", "nas:8443", TG_HTTPS, 8443, false},
		{"http://[FD00:0::1]:81", "fd00::1", "http://[fd00::1]:81", "[fd00::1]:81", TG_HTTP, 81,
		 true},
		{"http://[::1]", "::1", "http://[::1]:80", "[::1]", TG_HTTP, 80, true},
		{"unix:/run/x.sock", NULL, "unix:/run/x.sock", "localhost", TG_UNIX, 0, false},
		{"tcp://10.0.0.1:443", "10.0.0.1", "tcp://10.0.0.1:443", "10.0.0.1:443", TG_TCP, 443, true},
	};
	char rule[100];

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		(void)snprintf(rule, sizeof rule, "a.b=%s", rows[i].target);
		struct conf *cf = load_rule(rule);
		if (!cf)
			continue;
		const struct target *t = &cf->route[0]->target[0];
		HOLDS_FOR(rule, t->kind == rows[i].kind && t->port == rows[i].port);
		HOLDS_FOR(rule, t->literal == rows[i].literal && (!t->literal || t->addr.port == t->port));
		HOLDS_FOR(t->label, strcmp(t->label, rows[i].label) == 0);
		HOLDS_FOR(t->authority, strcmp(t->authority, rows[i].authority) == 0);
		HOLDS_FOR(rule, rows[i].host ? strcmp(t->host, rows[i].host) == 0 : !t->host && t->path);
		HOLDS_FOR(rule, cf->route[0]->kind == (t->kind == TG_TCP ? RT_TCP : RT_PROXY));
		cf_drop(cf);
	}
}

/* Two targets share connections only when TLS is checked alike and the PROXY header is too. */
static void keys_differ_where_connections_may_not_be_shared(void)
{
	static const char *const pin =
		"a=https://x verify=pin:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
	const char *const rules[] = {"a=https://x",
								 "a=https://x verify=off",
								 pin,
								 "a=https://x send-proxy=v1",
								 "a=https://x send-proxy=v2",
								 "a=http://x",
								 "a=https://x:444",
								 "a=https://x ca=/dev/null"};
	char keys[8][300];

	for (size_t i = 0; i < 8; i++) {
		struct conf *cf = load_rule(rules[i]);
		(void)snprintf(keys[i], sizeof keys[i], "%s", cf ? cf->route[0]->target[0].key : "");
		cf_drop(cf);
		for (size_t k = 0; k < i; k++)
			HOLDS_FOR(keys[i], strcmp(keys[i], keys[k]) != 0);
	}
	struct conf *cf = load_rule("b/c=https://X.:443 strip verify=ca host=target hsts");
	HOLDS(cf && strcmp(cf->route[0]->target[0].key, keys[0]) == 0);
	cf_drop(cf);
}

static void hosts_and_paths_are_kept_in_one_spelling(void)
{
	static const char *const rows[][3] = {
		{"A.Example.COM.=http://x", "a.example.com", ""},
		{"*.Example.com/=http://x", "*.example.com", ""},
		{"*/a/b/=http://x", "*", "/a/b"},
		{"[0:0::1]/A=http://x", "[::1]", "/A"},
		{"10.0.0.1=http://x", "10.0.0.1", ""},
		{"my_nas=http://x", "my_nas", ""},
		{"xn--mller-kva.de/caf%C3%A9/~x,y=http://x", "xn--mller-kva.de", "/caf%C3%A9/~x,y"},
	};

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct conf *cf = load_rule(rows[i][0]);
		HOLDS_FOR(rows[i][0], cf && strcmp(cf->route[0]->host, rows[i][1]) == 0);
		HOLDS_FOR(rows[i][0], cf && strcmp(cf->route[0]->path, rows[i][2]) == 0);
		cf_drop(cf);
	}
}

static void every_setting_reaches_its_route(void)
{
	char rule[900];

	(void)snprintf(
		rule, sizeof rule,
		"a.b/c=http://10.0.0.1,https://nas,unix:/s host=Foo.Bar:81 strip "
		"balance=round-robin plain hsts=60 allow=private,1.2.3.4 deny=::/0 auth=/dev/null "
		"rate=5/s:20 hide=Server,X-A set=X-B:c \"add-response=X-C: d e\" "
		"verify=pin:0123456789abcdefABCDEF0000000000000000000000000000000000000000FF "
		"send-proxy=v2 check=/health wake=00:11:22:aa:BB:ff@10.0.0.255:7 body-max=1m "
		"response-timeout=3s tunnel-timeout=2d error-page=%s",
		file("page.html", "<p>sorry"));
	struct conf *cf = load_rule(rule);
	if (!cf)
		return;
	const struct route *r = cf->route[0];
	HOLDS(r->ntarget == 3 && r->target[2].kind == TG_UNIX && r->kind == RT_PROXY);
	HOLDS(r->host_mode == RT_HOST_NAME && strcmp(r->host_name, "foo.bar:81") == 0);
	HOLDS(r->strip && r->plain && r->round_robin && r->hsts == 60);
	HOLDS(r->allow.n == 8 && r->deny.n == 1 && strcmp(r->auth_file, "/dev/null") == 0);
	HOLDS(r->rate == 5 && r->burst == 20);
	HOLDS(r->hide.n == 2 && strcmp(r->hide.v[0], "server") == 0);
	HOLDS(r->set.n == 1 && strcmp(r->set.v[0], "X-B: c") == 0);
	HOLDS(r->add.n == 1 && strcmp(r->add.v[0], "X-C: d e") == 0);
	HOLDS(r->verify == RT_VERIFY_PIN && r->pin[0] == 1 && r->pin[8] == 0xab && r->pin[31] == 0xff);
	HOLDS(r->send_proxy == 2 && strcmp(r->check, "/health") == 0);
	HOLDS(r->wake && r->wake_mac[4] == 0xbb && r->wake_addr.port == 7 &&
		  r->wake_addr.ip[15] == 255);
	HOLDS(r->body_max == 1 << 20 && r->response_ms == 3000 && r->tunnel_ms == 172800000);
	HOLDS(r->error_page_len == 8 && strcmp(r->error_page, "<p>sorry") == 0);
	cf_drop(cf);
}

static void settings_left_out_take_the_options(void)
{
	struct conf *cf =
		load_text("http 80\nroute a=http://x\nroute b=http://x wake=00-11-22-33-44-55 "
				  "hsts rate=3/s\nbody-max 5k\nresponse-timeout 9s\ntunnel-timeout 8s\n");

	HOLDS(cf->faults == 0 && cf->nroute == 2);
	if (cf->nroute == 2) {
		const struct route *a = cf->route[0], *b = cf->route[1];
		HOLDS(a->body_max == 5120 && a->response_ms == 9000 && a->tunnel_ms == 8000);
		HOLDS(a->hsts == -1 && a->rate == 0 && a->verify == RT_VERIFY_CA && a->send_proxy == 0);
		HOLDS(a->host_mode == RT_HOST_KEEP && !a->wake && !a->check && !a->strip &&
			  !a->round_robin);
		HOLDS(b->hsts == 31536000 && b->burst == 3 && b->wake_addr.port == 0 &&
			  b->wake_mac[5] == 0x55);
	}
	cf_drop(cf);
}

static void other_targets_are_read(void)
{
	struct conf *cf = load_text("http 80\nhttps 443\nroute a=redirect:https://b.c{uri} plain\n"
								"route b=status:410\nroute c=tcp://x:1,tcp://y:2 send-proxy=v1 "
								"tunnel-timeout=5s\ndefault https://d.e/\n");

	HOLDS_FOR(said, cf->faults == 0 && cf->nroute == 3);
	if (cf->nroute == 3) {
		HOLDS(cf->route[0]->kind == RT_REDIRECT &&
			  strcmp(cf->route[0]->redirect, "https://b.c{uri}") == 0);
		HOLDS(cf->route[1]->kind == RT_STATUS && cf->route[1]->status == 410);
		HOLDS(cf->route[2]->kind == RT_TCP && cf->route[2]->ntarget == 2);
	}
	HOLDS(cf->default_kind == CF_DEFAULT_REDIRECT && strcmp(cf->default_url, "https://d.e/") == 0);
	cf_drop(cf);
	cf = load("--http=80", "--default=drop", NULL, NULL, NULL, NULL, NULL);
	HOLDS(cf->faults == 0 && cf->default_kind == CF_DEFAULT_DROP);
	cf_drop(cf);
	cf = load("--http=80", "-r", "c=tcp://x:1", NULL, NULL, NULL, NULL);
	HOLDS(cf->faults == 0 && strstr(said, "never reached") != NULL);
	cf_drop(cf);
}

static void what_a_route_adds_is_bounded(void)
{
	static char rule[8192];
	size_t n = (size_t)snprintf(rule, sizeof rule, "a=http://x set=X-A:");

	memset(rule + n, 'v', 3072 - 3 - 4);
	struct conf *cf = load_rule(rule);
	cf_drop(cf);
	memset(rule + n, 'v', 3072 - 3 - 4 + 1);
	cf = load("--http=80", "-r", rule, NULL, NULL, NULL, NULL);
	HOLDS(cf->faults == 1 && strstr(said, "3072 bytes fit") != NULL);
	cf_drop(cf);
	n = (size_t)snprintf(rule, sizeof rule, "a=http://t0");
	for (int i = 1; i < 16; i++)
		n += (size_t)snprintf(rule + n, sizeof rule - n, ",http://t%d", i);
	cf = load_rule(rule);
	HOLDS(cf && cf->route[0]->ntarget == RP_TARGETS_MAX);
	cf_drop(cf);
	(void)snprintf(rule + n, sizeof rule - n, ",http://t16");
	cf = load("--http=80", "-r", rule, NULL, NULL, NULL, NULL);
	HOLDS(cf->faults == 1 && strstr(said, "over 16 targets") != NULL);
	cf_drop(cf);
}

/* ---- what is printed ---- */

static void the_dump_reproduces_the_configuration(void)
{
	static const char *const rows[] = {
		"http 80\n",
		"http 0\nhttp 127.0.0.1:0\nhttps [::1]:443\nstatus 9\nstatus [::]:8\npublic-port 443\n",
		"http 80\ntrust private,cloudflare,1.2.3.0/24\naccept-proxy loopback,::/0,0.0.0.0/0\n",
		"http 80\nlog =x\ndefault drop\nlog-format json\nlog-level debug\nlog \"a \\\"b\\\\ #c\"\nuser #x\nuser \"#x\"\n",
		"http 80\ndefault https://x/{uri}\ncert \"a b.pem,k.pem\"\ncert c\ncert-dir /d\nacme-dir /e\n",
		"http 80\nhead-max 1025\nbody-max 3g\nidle-timeout 90s\nstall-timeout 1500ms\ndrain-timeout 0\n",
		"http 80\nhttps 443\nroute b=http://x set=\"X-A: b\"\troute\nroute a/x=http://y strip\n",
		"http 80\nroute b=http://x set=\"X-A: b # c\" # more\nroute \"a=unix:/x\"\nroute *=status:404\n",
		"http 80\ndefault-cert A.B\nchroot /x\npid-file /y\nmax-conns-per-ip 0\nsession-cache 0\n",
	};
	char first[65536];

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct conf *cf =
			load("--dump-config", "-c", file("d1.conf", rows[i]), NULL, NULL, NULL, NULL);
		/* Errors are part of some rows: what is left must come through all the same. */
		(void)snprintf(first, sizeof first, "%s", printed(cf));
		cf_drop(cf);
		cf = load("--dump-config", "-c", file("d2.conf", first), NULL, NULL, NULL, NULL);
		HOLDS_FOR(said, cf->faults == 0);
		HOLDS_FOR(rows[i], strcmp(first, printed(cf)) == 0);
		cf_drop(cf);
	}
}

static void the_help_fits_80_columns_and_names_every_option(void)
{
	struct conf *cf = load("-h", "--nonsense", NULL, NULL, NULL, NULL, NULL);
	const char *text = printed(cf);
	char name[64];

	HOLDS(cf->action == CF_HELP && cf->faults == 0 && !said[0]);
	for (size_t i = 0; i < CF_NOPTS; i++) {
		(void)snprintf(name, sizeof name, cf_opts[i].kind == CK_GROUP ? "\n%s:" : "--%s",
					   cf_opts[i].name);
		HOLDS_FOR(name, strstr(text, name) != NULL);
	}
	for (size_t i = 0; i < CS_COUNT; i++) {
		(void)snprintf(name, sizeof name, "\n  %s", cf_settings[i].name);
		HOLDS_FOR(name, strstr(text, name) != NULL);
	}
	for (const char *p = text; *p; p = strchr(p, '\n') + 1)
		HOLDS_FOR(p, strchr(p, '\n') - p <= 80);
	cf_drop(cf);
}

static void each_form_of_the_help_begins_as_it_should(void)
{
	static const char *const rows[][3] = {
		{"--help=man", ".Dd ", ".It Fl \\-tunnel-timeout Ar TIME\n"},
		{"--help=readme", "| option | default | meaning |\n", "| `--head-max SIZE` | `32k` | "},
		{"--help=reasons", "| reason | status | when |\n", "| `upstream-timeout` | 504 | "},
		{"--help=bash", "# bash completion", "complete -F _rproxy rproxy\n"},
		{"--help", "Usage: rproxy ", "[65s]\n"},
	};

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct conf *cf = load(rows[i][0], NULL, NULL, NULL, NULL, NULL, NULL);
		const char *text = printed(cf);
		HOLDS_FOR(rows[i][0], cf->faults == 0 && cf->action == CF_HELP);
		HOLDS_FOR(rows[i][0], strncmp(text, rows[i][1], strlen(rows[i][1])) == 0);
		HOLDS_FOR(rows[i][0], strstr(text, rows[i][2]) != NULL);
		cf_drop(cf);
	}
	struct conf *cf = load("--help=me", NULL, NULL, NULL, NULL, NULL, NULL);
	HOLDS(cf->faults == 1 && strstr(said, "\"me\" is none of man, readme, reasons, bash") != NULL);
	cf_drop(cf);
}

static void the_options_of_the_contract_are_all_there(void)
{
	static const char *const names[] = {"config",
										"check",
										"dump-config",
										"help",
										"version",
										"http",
										"https",
										"public-port",
										"status",
										"route",
										"default",
										"cert",
										"cert-dir",
										"acme-dir",
										"trust",
										"accept-proxy",
										"default-cert",
										"session-cache",
										"user",
										"chroot",
										"log",
										"log-format",
										"log-level",
										"pid-file",
										"max-conns",
										"max-conns-per-ip",
										"head-timeout",
										"idle-timeout",
										"connect-timeout",
										"response-timeout",
										"stall-timeout",
										"tunnel-timeout",
										"drain-timeout",
										"head-max",
										"body-max"};
	const char *near;

	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		HOLDS_FOR(names[i], cf_find(sl_of(names[i]), &near) != NULL);
}

static void a_snapshot_lives_until_its_last_user_drops_it(void)
{
	struct conf *cf = load("--http=80", NULL, NULL, NULL, NULL, NULL, NULL);

	HOLDS(cf_hold(cf) == cf && cf->holds == 2);
	cf_drop(cf);
	HOLDS(cf->holds == 1 && cf->nlisten == 1);
	cf_drop(cf);
	cf_drop(NULL);
}

int main(void)
{
	const char *tmp = getenv("TMPDIR");

	(void)snprintf(dir, sizeof dir, "%.40s/rproxy.XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp(dir))
		abort();
	RUN(each_wrong_line_gets_one_clear_line);
	RUN(wrong_flags_are_named_with_their_dashes);
	RUN(every_error_is_reported_not_only_the_first);
	RUN(without_a_listener_there_is_nothing_to_do);
	RUN(a_route_given_twice_is_refused_with_both_places);
	RUN(bytes_of_a_file_do_not_steer_the_terminal);
	RUN(defaults_are_those_of_the_contract);
	RUN(all_spellings_of_a_flag_are_one);
	RUN(the_later_value_wins_and_lists_grow);
	RUN(files_may_hold_comments_quotes_and_foreign_line_ends);
	RUN(includes_are_relative_sorted_and_bounded);
	RUN(patterns_of_includes_fit_like_a_shell_s);
	RUN(includes_of_a_pattern_may_be_in_many_directories);
	RUN(words_stand_for_lists_of_ranges);
	RUN(the_ranges_behind_the_words_are_well_formed);
	RUN(the_status_page_is_for_loopback_unless_told);
	RUN(targets_are_named_for_the_log_for_host_and_for_the_pool);
	RUN(keys_differ_where_connections_may_not_be_shared);
	RUN(hosts_and_paths_are_kept_in_one_spelling);
	RUN(every_setting_reaches_its_route);
	RUN(settings_left_out_take_the_options);
	RUN(other_targets_are_read);
	RUN(what_a_route_adds_is_bounded);
	RUN(the_dump_reproduces_the_configuration);
	RUN(the_help_fits_80_columns_and_names_every_option);
	RUN(each_form_of_the_help_begins_as_it_should);
	RUN(the_options_of_the_contract_are_all_there);
	RUN(a_snapshot_lives_until_its_last_user_drops_it);

	/* Take the files away again: all that put() made, whatever their names. */
	char pattern[80];
	glob_t g;
	(void)snprintf(pattern, sizeof pattern, "%s/*", dir);
	if (glob(pattern, 0, NULL, &g) == 0) {
		for (size_t i = 0; i < g.gl_pathc; i++)
			(void)unlink(g.gl_pathv[i]);
		globfree(&g);
	}
	(void)rmdir(dir);
	return unit_end();
}
