/* clock.c: another clock for the program under test, by LD_PRELOAD (see Clock in harness.py).
 *
 * CLOCK_SPEED=N: the monotonic clock runs N times as fast, and poll() and ppoll() wait so much shorter.
 * CLOCK_WALL=FILE: the seconds since 1970 that time() tells stand in FILE, which may change.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE 1
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NSIG_BYTES (_NSIG / 8) /* of the kernel's signal set */

static long clock_speed(void)
{
	const char *text = getenv("CLOCK_SPEED");
	long n = text ? atol(text) : 1;

	return n > 0 ? n : 1;
}

int clock_gettime(clockid_t id, struct timespec *ts)
{
	static long speed;

	if (!speed)
		speed = clock_speed();
	long r = syscall(SYS_clock_gettime, id, ts);
	if (r == 0 && id == CLOCK_MONOTONIC && speed > 1) {
		long long ns = (ts->tv_sec * 1000000000LL + ts->tv_nsec) * speed;
		ts->tv_sec = (time_t)(ns / 1000000000LL);
		ts->tv_nsec = (long)(ns % 1000000000LL);
	}
	return (int)r;
}

int ppoll(struct pollfd *p, nfds_t n, const struct timespec *wait, const sigset_t *mask)
{
	struct timespec ts = {.tv_sec = 0};

	if (wait) {
		long long ns = (wait->tv_sec * 1000000000LL + wait->tv_nsec) / clock_speed();
		ts.tv_sec = (time_t)(ns / 1000000000LL);
		ts.tv_nsec = (long)(ns % 1000000000LL);
	}
	return (int)syscall(SYS_ppoll, p, n, wait ? &ts : NULL, mask, NSIG_BYTES);
}

int poll(struct pollfd *p, nfds_t n, int ms)
{
	struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};

	return ppoll(p, n, ms < 0 ? NULL : &ts, NULL);
}

time_t time(time_t *out)
{
	const char *path = getenv("CLOCK_WALL");
	char text[32] = "";
	struct timespec ts = {.tv_sec = 0};
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;

	if (fd >= 0) {
		if (read(fd, text, sizeof text - 1) > 0)
			ts.tv_sec = (time_t)atoll(text);
		(void)close(fd);
	} else {
		(void)syscall(SYS_clock_gettime, CLOCK_REALTIME, &ts);
	}
	if (out)
		*out = ts.tv_sec;
	return ts.tv_sec;
}
