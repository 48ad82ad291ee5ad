/* unit_log.c: room LOG: the texts of a moment, floods, and what a full disk tears.
 *
 * SPDX-License-Identifier: MIT
 */
#include "unit.h"

#define RP_NO_MAIN 1
#include "../rproxy.c"

/* What the C library makes of the same second, in the same zone. */
static void the_time_is_written_in_every_zone(void)
{
	static const char *const zones[] = {"UTC0", "EST5EDT,M3.2.0,M11.1.0", "<+0545>-5:45",
										"<-0930>9:30", "<-0030>0:30"};

	for (size_t i = 0; i < RP_LEN(zones); i++) {
		char clf[40], iso[40], old[40], http[40];
		struct tm tm, gmt;
		time_t t;

		(void)setenv("TZ", zones[i], 1);
		tzset();
		log_sink.stamp_s = -1;
		log_clock();
		t = (time_t)log_sink.stamp_s;
		HOLDS(localtime_r(&t, &tm) && gmtime_r(&t, &gmt));
		(void)strftime(clf, sizeof clf, "%d/%b/%Y:%H:%M:%S %z", &tm);
		(void)strftime(iso, sizeof iso, "%Y-%m-%dT%H:%M:%S%z", &tm);
		(void)strftime(old, sizeof old, "%b %e %H:%M:%S", &tm);
		(void)strftime(http, sizeof http, "%a, %d %b %Y %H:%M:%S GMT", &gmt);
		memmove(iso + 23, iso + 22, 3);
		iso[22] = ':';
		HOLDS_FOR(zones[i], strcmp(clf, log_sink.clf) == 0);
		HOLDS_FOR(zones[i], strcmp(iso, log_sink.iso) == 0);
		HOLDS_FOR(zones[i], strcmp(old, log_sink.rfc3164) == 0);
		HOLDS_FOR(zones[i], strcmp(http, log_sink.http) == 0);
	}
}

/* What was logged so far, to a file that is taken away with it. */
static const char *logged(const char *path)
{
	static char text[8192];
	size_t n = 0;
	char *all = sys_slurp(path, sizeof text - 1, &n);

	memcpy(text, all ? all : "", all ? n + 1 : 1);
	free(all);
	return text;
}

static const char *begin(void)
{
	static char path[] = "/tmp/rproxy-log-XXXXXX";

	memcpy(path + sizeof path - 7, "XXXXXX", 6);
	int fd = mkstemp(path);
	HOLDS(fd >= 0);
	sys_close(fd);
	HOLDS(log_open(path, LOG_INFO) == 0);
	log_started();
	return path;
}

static void end(const char *path)
{
	log_close();
	(void)unlink(path);
}

/* Two broken targets complain in turn, for each request. */
static void floods_are_folded(void)
{
	const char *path = begin();

	for (int i = 0; i < 100; i++)
		for (int k = 0; k < LOG_FOLDS; k++)
			log_event(LOG_WARN, "target %d is broken", k);
	log_event(LOG_INFO, "not folded");
	log_event(LOG_INFO, "not folded");
	HOLDS_FOR(logged(path), strcmp(logged(path), "rproxy: target 0 is broken\n"
												 "rproxy: target 1 is broken\n"
												 "rproxy: target 2 is broken\n"
												 "rproxy: target 3 is broken\n"
												 "rproxy: not folded\nrproxy: not folded\n") == 0);
	for (int k = 0; k < LOG_FOLDS; k++)
		log_sink.fold[k].at -= LOG_FOLD_MS;
	log_tick(sys_now());
	HOLDS(strstr(logged(path), "rproxy: 99 times more: target 3 is broken\n") != NULL);
	log_tick(sys_now());
	size_t n = strlen(logged(path));
	log_event(LOG_WARN, "target 0 is broken"); /* news again */
	HOLDS(strlen(logged(path)) > n);
	end(path);
}

static void an_answer_is_never_folded(void)
{
	const char *path = begin();

	for (int i = 0; i < 3; i++) {
		log_fresh();
		log_event(LOG_ERR, "line 4 is wrong");
		log_event(LOG_ERR, "line 4 is wrong");
	}
	log_fresh();
	HOLDS_FOR(logged(path),
			  strcmp(logged(path),
					 "rproxy: line 4 is wrong\nrproxy: 1 times more: line 4 is wrong\n"
					 "rproxy: line 4 is wrong\nrproxy: 1 times more: line 4 is wrong\n"
					 "rproxy: line 4 is wrong\nrproxy: 1 times more: line 4 is wrong\n") == 0);
	end(path);
}

/* The limit of a file's size tears a write as a full disk does. */
static void a_torn_line_is_ended_before_the_next(void)
{
	const char *path = begin();
	struct rlimit was, some;
	char line[] = "0123456789abcdef\n";

	(void)signal(SIGXFSZ, SIG_IGN);
	HOLDS(getrlimit(RLIMIT_FSIZE, &was) == 0);
	some = was;
	some.rlim_cur = 40;
	HOLDS(setrlimit(RLIMIT_FSIZE, &some) == 0);
	for (int i = 0; i < 5; i++)
		log_line(LOG_INFO, line, sizeof line - 1);
	HOLDS(setrlimit(RLIMIT_FSIZE, &was) == 0);
	log_line(LOG_INFO, line, sizeof line - 1);
	HOLDS_FOR(logged(path),
			  strcmp(logged(path), "0123456789abcdef\n0123456789abcdef\n012345\n"
								   "rproxy: 3 log lines lost\n0123456789abcdef\n") == 0);
	end(path);
}

static void a_wrong_target_changes_nothing(void)
{
	const char *path = begin();
	char name[2000];

	HOLDS(log_open("/nonexistent/log", LOG_ERR) < 0 && errno == ENOENT);
	memset(name, 'x', sizeof name - 1);
	name[sizeof name - 1] = 0;
	HOLDS(log_open(name, LOG_ERR) < 0 && errno == ENAMETOOLONG);
	log_event(LOG_INFO, "still here");
	HOLDS(strcmp(logged(path), "rproxy: still here\n") == 0);
	end(path);
}

int main(void)
{
	RUN(floods_are_folded);
	RUN(an_answer_is_never_folded);
	RUN(a_torn_line_is_ended_before_the_next);
	RUN(a_wrong_target_changes_nothing);
	RUN(the_time_is_written_in_every_zone);
	return unit_end();
}
