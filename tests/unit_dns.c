/* unit_dns.c: room DNS: the helpers, their workers, and password hashes.
 *
 * SPDX-License-Identifier: MIT
 */
#include "unit.h"

#include <netdb.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

/* A resolver that is slow, or crashes, for some names. */
static int real_getaddrinfo(const char *name, const struct addrinfo *hints, struct addrinfo **out)
{
	return getaddrinfo(name, NULL, hints, out);
}

static int test_getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
							struct addrinfo **out)
{
	(void)service;
	if (strncmp(name, "slow", 4) == 0)
		(void)sleep(3);
	if (strncmp(name, "crash", 5) == 0)
		(void)raise(SIGKILL);
	return real_getaddrinfo(strncmp(name, "slow", 4) == 0 ? "localhost" : name, hints, out);
}

#define getaddrinfo test_getaddrinfo
#define RP_NO_MAIN 1
#include "../rproxy.c"

/* Waits for the next answer at most ms. */
static bool answer(struct dns_room *room, struct dns_answer *a, int ms)
{
	uint64_t end = sys_now() + (uint64_t)ms;

	for (;;) {
		struct pollfd p[2] = {{dns_fd(room, DNS_NAME), POLLIN, 0},
							  {dns_fd(room, DNS_HASH), POLLIN, 0}};
		if (dns_next(room, a))
			return true;
		if (sys_now() >= end)
			return false;
		(void)poll(p, 2, 20);
	}
}

/* The only process whose parent is pid, -1 for none. */
static pid_t child_of(pid_t pid)
{
	char path[64], text[64] = "";

	(void)snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)pid, (int)pid);
	FILE *f = fopen(path, "r");
	if (!f)
		return -1;
	bool got = fgets(text, sizeof text, f) != NULL;
	(void)fclose(f);
	return got && atoi(text) > 0 ? (pid_t)atoi(text) : -1;
}

static bool alive(pid_t pid)
{
	char path[64], state = 0;

	(void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	FILE *f = fopen(path, "r");
	if (!f)
		return false;
	bool got = fscanf(f, "%*d (%*[^)]) %c", &state) == 1;
	(void)fclose(f);
	return got && state != 'Z' && state != 'X';
}

static void localhost_has_an_address(void)
{
	struct dns_room *room = dns_start(DNS_FOR_NAMES);
	struct dns_answer a;
	char text[56];

	HOLDS(room && dns_fd(room, DNS_NAME) >= 0 && dns_fd(room, DNS_HASH) < 0);
	HOLDS(dns_ask_name(room, 7, sl_of("localhost")) == 0);
	HOLDS(answer(room, &a, 5000) && a.kind == DNS_NAME && a.cookie == 7 && a.good && a.naddr > 0);
	for (unsigned i = 0; i < a.naddr; i++) {
		(void)addr_print(&a.addr[i], true, text);
		HOLDS_FOR(text, strcmp(text, "127.0.0.1:0") == 0 || strcmp(text, "[::1]:0") == 0);
	}
	HOLDS(dns_ask_name(room, 8, sl_of("no-such-name.invalid")) == 0);
	HOLDS(answer(room, &a, 30000) && a.cookie == 8 && !a.good && a.naddr == 0);
	HOLDS(!answer(room, &a, 50));
	dns_stop(room);
}

static void no_helper_runs_that_is_not_needed(void)
{
	struct dns_room *room = dns_start(0);
	struct dns_answer a;

	HOLDS(room && dns_fd(room, DNS_NAME) < 0 && dns_fd(room, DNS_HASH) < 0 && !dns_next(room, &a));
	HOLDS(child_of(getpid()) < 0);
	HOLDS(dns_need(room, DNS_FOR_NAMES) == 0 && dns_fd(room, DNS_NAME) >= 0);
	pid_t pid = child_of(getpid());
	HOLDS(dns_need(room, DNS_FOR_NAMES) == 0 && child_of(getpid()) == pid);
	dns_stop(room);
	HOLDS(!alive(pid));
	dns_stop(NULL);
}

static void a_slow_name_does_not_delay_another(void)
{
	struct dns_room *room = dns_start(DNS_FOR_NAMES);
	struct dns_answer a;
	uint64_t from = sys_now();

	HOLDS(dns_ask_name(room, 1, sl_of("slow.test")) == 0);
	HOLDS(dns_ask_name(room, 2, sl_of("localhost")) == 0);
	HOLDS(answer(room, &a, 2000) && a.cookie == 2 && a.good && sys_now() - from < 1500);
	HOLDS(answer(room, &a, 5000) && a.cookie == 1 && a.good);
	dns_stop(room);
}

static void a_slow_name_does_not_delay_a_password(void)
{
	struct dns_room *room = dns_start(DNS_FOR_NAMES | DNS_FOR_HASHES);
	struct dns_answer a;
	unsigned got = 0;

	for (uint64_t i = 0; i < 12; i++)
		HOLDS(dns_ask_name(room, i, sl_of("slow.test")) == 0);
	HOLDS(dns_ask_hash(room, 99, sl_of("{SHA}2oguq15ANCGsJCWKX31fllwpyEk="), sl_of("pass word")) ==
		  0);
	HOLDS(answer(room, &a, 1500) && a.kind == DNS_HASH && a.cookie == 99 && a.good);
	while (got < 12 && answer(room, &a, 8000))
		got += a.kind == DNS_NAME && a.good;
	HOLDS(got == 12);
	dns_stop(room);
}

static void every_kind_of_hash_is_checked(void)
{
	static const struct {
		const char *hash, *pw;
	} rows[] = {
		/* openssl passwd -apr1 -salt ... */
		{"$apr1$saltsalt$qYpLAVWkBvXFyDme7.oc1/", "pass word"},
		{"$apr1$ab$S8K6Sgp3W8c9Jb6LxgywZ.", ""},
		{"$apr1$xxxxxxxx$8.pFhMRhtWjsxYuhZBbkT1", "a much longer password than sixteen bytes, ä"},
		/* openssl dgst -sha1 -binary | base64 */
		{"{SHA}2oguq15ANCGsJCWKX31fllwpyEk=", "pass word"},
		{"{SHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk=", ""},
		/* openssl passwd -5, -6 */
		{"$5$saltsalt$9Wp9Qw4Ze8Jxq5F1Z3UnS47KFhc8AqhCRyxFDa8e660", "pass word"},
		{"$6$saltsalt$cc1KsgmlKYtCcnNH8.sv7Fe8mca8fAso5fHlNrb1VZa5WYQ.L3ChTcx06ID."
		 "LoaXZAf9CZNraK43XCp7LxKHl1",
		 "pass word"},
		{"$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5", "Hello world!"},
		{"$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnI"
		 "FNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
		 "Hello world!"},
		/* libxcrypt */
		{"$6$rounds=1000$ab$3tLFZOSDxcyiDWcYSrieU1uloXMcbPJQRTcotZNqEJiB1iizwjzbn2jECOCvw6wslPpiTPzl"
		 "i2jppqTUXUq9N0",
		 "secret"},
		{"$5$rounds=1000$abcdefghijklmnop$XPI9divaDz2UXR4L48noVEQhGh1MV.xPSC/a9G2Nit7", ""},
		{"$5$longer$MgLAfXHp8LYRU.yMGGO.T2du8D7nXiHOUK6UwZra2l1",
		 "a password longer than the sixty-four bytes of a digest of SHA-512, so that it is filled twice"},
		{"$6$longer$Uyz.0oG4Xz8/8I2sQStn2dL49y829pVqN0TqaNZjplWeHWq0Mw"
		 "iu3M8ToT3WfXKgqAQxt0W4lp1/D3qrX/Gy..",
		 "a password longer than the sixty-four bytes of a digest of SHA-512, so that it is filled twice"},
#if RP_CRYPT
		{"$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U"},
		{"$2y$05$/OK.fbVrR/bpIqNJ5ianF.Sa7shbm4.OzKpvFnX1pQLmQW96oUlCq", "\xa3"},
		{"$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW", "secret"},
#endif
	};
	struct dns_room *room = dns_start(DNS_FOR_HASHES);
	struct dns_answer a;

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		char wrong[128];
		size_t n = strlen(rows[i].pw);
		HOLDS_FOR(rows[i].hash, dns_ask_hash(room, i, sl_of(rows[i].hash), sl_of(rows[i].pw)) == 0);
		HOLDS_FOR(rows[i].hash, answer(room, &a, 5000) && a.cookie == i && a.good);
		(void)snprintf(wrong, sizeof wrong, "%sx", rows[i].pw);
		HOLDS(dns_ask_hash(room, i, sl_of(rows[i].hash), sl_of(wrong)) == 0);
		HOLDS_FOR(rows[i].hash, answer(room, &a, 5000) && !a.good);
		if (n) {
			HOLDS(dns_ask_hash(room, i, sl_of(rows[i].hash), sl_mk(rows[i].pw, n - 1)) == 0);
			HOLDS_FOR(rows[i].hash, answer(room, &a, 5000) && !a.good);
		}
	}
	dns_stop(room);
}

static void what_is_no_hash_fits_no_password(void)
{
	static const char *const rows[] = {
		"",
		"secret",
		"*",
		"*0",
		"*1",
		"!",
		"x",
		"$",
		"$apr1$",
		"$apr1$saltsalt",
		"$apr1$saltsalt$",
		"$apr1$toolongsalt$8.pFhMRhtWjsxYuhZBbkT1",
		"{SHA}",
		"{SHA}secret",
		"{SSHA}abcd",
		"$2y$05$",
		"$2y$99$abc",
		"$5$",
		"$6$",
		"$6$salt$",
		"$6$rounds=x$a$b",
		"$9$a$b",
	};
	struct dns_room *room = dns_start(DNS_FOR_HASHES);
	struct dns_answer a;

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		HOLDS_FOR(rows[i], dns_ask_hash(room, i, sl_of(rows[i]), sl_of("secret")) == 0);
		HOLDS_FOR(rows[i], answer(room, &a, 5000) && a.cookie == i && !a.good);
		HOLDS_FOR(rows[i], dns_ask_hash(room, i, sl_of(rows[i]), sl_of("")) == 0);
		HOLDS_FOR(rows[i], answer(room, &a, 5000) && !a.good);
	}
	/* a 0 within a password would hide what stands behind it */
	if (dns_ask_hash(room, 1, sl_of("{SHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk="), sl_mk("\0x", 2)) == 0)
		HOLDS(answer(room, &a, 5000) && !a.good);
	dns_stop(room);
}

/* Each question gets exactly one answer, also when the worker dies over it. */
static void a_worker_that_crashes_is_answered_for(void)
{
	struct dns_room *room = dns_start(DNS_FOR_NAMES);
	struct dns_answer a;

	HOLDS(dns_ask_name(room, 1, sl_of("crash.test")) == 0);
	HOLDS(answer(room, &a, 3000) && a.cookie == 1 && !a.good);
	HOLDS(dns_ask_name(room, 2, sl_of("localhost")) == 0);
	HOLDS(answer(room, &a, 3000) && a.cookie == 2 && a.good);
	dns_stop(room);
}

static void a_helper_that_was_killed_comes_back(void)
{
	struct dns_room *room = dns_start(DNS_FOR_NAMES);
	struct dns_answer a;

	log_sink.starting = false; /* its warning is wanted, but not here */
	log_sink.kind = LOG_TO_NONE;
	HOLDS(dns_ask_name(room, 0, sl_of("localhost")) == 0 && answer(room, &a, 3000) && a.good);
	(void)kill(child_of(getpid()), SIGKILL);
	uint64_t from = sys_now();
	HOLDS(!answer(room, &a, 1500));
	while (dns_ask_name(room, 3, sl_of("localhost")) < 0 && sys_now() - from < 3000) {
		(void)dns_next(room, &a);
		(void)usleep(20000);
	}
	HOLDS(answer(room, &a, 3000) && a.cookie == 3 && a.good);
	HOLDS(sys_now() - from < 3000);
	dns_stop(room);
}

/* The workers of a killed helper must not keep its socket, and its questions, open. */
static void what_a_killed_helper_was_asked_fails_at_once(void)
{
	struct dns_room *room = dns_start(DNS_FOR_NAMES);
	struct dns_answer a;
	uint64_t seen = 0;

	HOLDS(dns_ask_name(room, 1, sl_of("slow.test")) == 0);
	HOLDS(dns_ask_name(room, 2, sl_of("slow.test")) == 0);
	(void)usleep(200000);
	uint64_t from = sys_now();
	(void)kill(child_of(getpid()), SIGKILL);
	for (int i = 0; i < 2; i++)
		if (answer(room, &a, 1500))
			seen |= a.good ? 0 : 1u << a.cookie;
	HOLDS(seen == (1u << 1 | 1u << 2));
	HOLDS(sys_now() - from < 1500);
	dns_stop(room);
}

/* Workers end with the helper, whatever they wait for. */
static void stopping_leaves_no_process_behind(void)
{
	struct dns_room *room = dns_start(DNS_FOR_NAMES);

	HOLDS(dns_ask_name(room, 1, sl_of("slow.test")) == 0);
	(void)usleep(200000);
	pid_t helper = child_of(getpid()), worker = child_of(helper);
	HOLDS(helper > 0 && worker > 0);
	uint64_t from = sys_now();
	dns_stop(room);
	HOLDS(sys_now() - from < 1000);
	(void)usleep(200000);
	HOLDS(!alive(helper));
	HOLDS(!alive(worker));
}

static void a_full_queue_says_so(void)
{
	struct dns_room *room = dns_start(DNS_FOR_HASHES);
	struct dns_answer a;
	unsigned asked = 0, told = 0;

	while (asked < 10000 &&
		   dns_ask_hash(room, asked, sl_of("$apr1$ab$S8K6Sgp3W8c9Jb6LxgywZ."), sl_of("no")) == 0)
		asked++;
	HOLDS(asked >= 8 && asked < 10000);
	while (told < asked && answer(room, &a, 5000))
		told++;
	HOLDS(told == asked);
	HOLDS(dns_ask_hash(room, 1, sl_of("$apr1$ab$S8K6Sgp3W8c9Jb6LxgywZ."), sl_of("")) == 0);
	HOLDS(answer(room, &a, 5000) && a.good);
	dns_stop(room);
}

/* A helper keeps no socket of the proxy open: the far end sees the close. */
static void a_helper_keeps_no_descriptor(void)
{
	int pair[2];
	char byte;

	HOLDS(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	struct dns_room *room = dns_start(DNS_FOR_NAMES | DNS_FOR_HASHES);
	struct dns_answer a;
	HOLDS(dns_ask_name(room, 1, sl_of("localhost")) == 0 && answer(room, &a, 3000));
	(void)close(pair[0]);
	HOLDS(recv(pair[1], &byte, 1, MSG_DONTWAIT) == 0);
	(void)close(pair[1]);
	dns_stop(room);
}

/* TERM and HUP are for the proxy; the end of the socketpair is what ends a helper. */
static void a_helper_lives_as_long_as_the_proxy(void)
{
	int report[2];
	pid_t helper = -1;

	HOLDS(pipe(report) == 0);
	pid_t proxy = fork();
	if (proxy == 0) {
		struct dns_room *room = dns_start(DNS_FOR_NAMES);
		struct dns_answer a;
		(void)dns_ask_name(room, 1, sl_of("localhost"));
		(void)answer(room, &a, 3000);
		pid_t pid = child_of(getpid());
		(void)kill(pid, SIGTERM);
		(void)kill(pid, SIGHUP);
		(void)kill(pid, SIGINT);
		(void)dns_ask_name(room, 2, sl_of("localhost"));
		if (!answer(room, &a, 3000) || !a.good || child_of(getpid()) != pid)
			pid = -1;
		(void)!write(report[1], &pid, sizeof pid);
		_exit(0);
	}
	HOLDS(read(report[0], &helper, sizeof helper) == (ssize_t)sizeof helper);
	HOLDS(helper > 0);
	(void)waitpid(proxy, NULL, 0);
	(void)usleep(300000);
	HOLDS(!alive(helper));
	(void)close(report[0]);
	(void)close(report[1]);
}

/* When the proxy has given up root, what answers its questions has, too. Only root can try it. */
static void helpers_give_up_root_with_the_proxy(void)
{
	if (geteuid() != 0)
		return;
	pid_t proxy = fork();
	if (proxy == 0) {
		struct dns_room *room = dns_start(0);
		struct dns_answer a;
		struct jail jail = {.user = true, .uid = 65534, .gid = 65534};
		dns_confine(room, &jail);
		if (dns_need(room, DNS_FOR_NAMES) < 0)
			_exit(2);
		pid_t helper = child_of(getpid()), worker;
		char path[64];
		(void)dns_ask_name(room, 1, sl_of("localhost"));
		(void)answer(room, &a, 3000);
		(void)dns_ask_name(room, 2, sl_of("slow.test"));
		(void)usleep(300000);
		worker = child_of(helper);
		unsigned uid = 99999;
		char text[256];
		(void)snprintf(path, sizeof path, "/proc/%d/status", (int)worker);
		FILE *f = fopen(path, "r");
		while (f && fgets(text, sizeof text, f))
			if (sscanf(text, "Uid: %u", &uid) == 1)
				break;
		_exit(uid == 65534 ? 0 : 1);
	}
	int status = -1;
	(void)waitpid(proxy, &status, 0);
	HOLDS(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void)
{
	RUN(localhost_has_an_address);
	RUN(no_helper_runs_that_is_not_needed);
	RUN(a_slow_name_does_not_delay_another);
	RUN(a_slow_name_does_not_delay_a_password);
	RUN(every_kind_of_hash_is_checked);
	RUN(what_is_no_hash_fits_no_password);
	RUN(a_worker_that_crashes_is_answered_for);
	RUN(a_helper_that_was_killed_comes_back);
	RUN(what_a_killed_helper_was_asked_fails_at_once);
	RUN(stopping_leaves_no_process_behind);
	RUN(a_full_queue_says_so);
	RUN(a_helper_keeps_no_descriptor);
	RUN(a_helper_lives_as_long_as_the_proxy);
	RUN(helpers_give_up_root_with_the_proxy);
	return unit_end();
}
