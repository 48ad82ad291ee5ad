/* unit_log.c: room LOG: the texts of a moment.
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

int main(void)
{
	RUN(the_time_is_written_in_every_zone);
	return unit_end();
}
