/* unit.h: what the unit tests share. A test is a function of no arguments, named for the behaviour
 * that it pins; RUN() calls it and prints its verdict.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef UNIT_H
#define UNIT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1 /* as rproxy.c does, which is included after this */
#endif

#include <stdbool.h>
#include <stdio.h>

/* A test uses some of rproxy.c's static functions, never all. */
#pragma GCC diagnostic ignored "-Wunused-function"

static struct {
	unsigned passed, failed;
	unsigned faults; /* in the test that runs */
} unit_count;

/* Says what did not hold, and in which row of a table. */
static void unit_hold(bool fine, const char *what, const char *row, int line)
{
	if (fine)
		return;
	if (unit_count.faults++ < 20)
		printf("  line %d: %s%s%s\n", line, what, row[0] ? ": " : "", row);
}

#define HOLDS(cond) unit_hold((cond), #cond, "", __LINE__)
#define HOLDS_FOR(row, cond) unit_hold((cond), #cond, (row), __LINE__)

static void unit_run(void (*test)(void), const char *name)
{
	unit_count.faults = 0;
	test();
	printf("%s %s\n", unit_count.faults ? "not ok" : "ok", name);
	unit_count.passed += !unit_count.faults;
	unit_count.failed += !!unit_count.faults;
}

#define RUN(test) unit_run(test, #test)

/* Prints the last line; returns the exit status. */
static int unit_end(void)
{
	printf("%u passed, %u failed\n", unit_count.passed, unit_count.failed);
	return unit_count.failed ? 1 : 0;
}

#endif
