/* unit_up.c: room UP: which target is next, what is known of them, and what outlives a reload.
 *
 * SPDX-License-Identifier: MIT
 */
#include "unit.h"

#define RP_NO_MAIN 1
#include "../rproxy.c"

static struct rp rp;

/* A snapshot with these rules that has gone live; the old one is let go. */
static void live(const char *const *rules)
{
	char *argv[64] = {"rproxy", "--http", "127.0.0.1:0"};
	int argc = 3;

	for (; *rules; rules++) {
		argv[argc++] = "--route";
		argv[argc] = malloc(strlen(*rules) + 1);
		memcpy(argv[argc++], *rules, strlen(*rules) + 1);
	}
	struct conf *cf = cf_load(argc, argv), *old = rp.cf;
	HOLDS(cf && !cf->faults && up_hold(&rp, cf) == 0);
	rp.cf = cf;
	tx_drop_conf(&rp, old);
	while (argc > 4) {
		free(argv[argc - 1]);
		argc -= 2;
	}
}

#define LIVE(...) live((const char *const[]){__VA_ARGS__, NULL})

static void begin(void)
{
	rp = (struct rp){.now = 1000000};
}

static void end(void)
{
	tx_drop_conf(&rp, rp.cf);
	up_close(&rp);
	rp.cf = NULL;
}

static const struct route *first(void)
{
	return rp.cf->route[0];
}

/* The struct up of target k of the first route. */
static struct up *up(unsigned k)
{
	return up_of(&rp, &first()->target[k]);
}

static void report(unsigned k, bool good)
{
	up_report(&rp, &first()->target[k], good ? WHY_NONE : WHY_UP_REFUSED);
}

static void a_target_is_left_out_for_a_second_and_twice_as_long_each_time_up_to_thirty(void)
{
	static const uint64_t s[] = {1, 2, 4, 8, 16, 30, 30, 30};

	begin();
	LIVE("a.b=http://10.0.0.1,http://10.0.0.2");
	for (size_t i = 0; i < sizeof s / sizeof *s; i++) {
		HOLDS(up_pick(&rp, first(), 0) == 0);
		report(0, false);
		rp.now += s[i] * 1000 - 1;
		HOLDS(up_pick(&rp, first(), 0) == 1);
		rp.now += 1;
	}
	HOLDS(up_pick(&rp, first(), 0) == 0);
	report(0, true);
	report(0, false);
	rp.now += 1000;
	HOLDS(up_pick(&rp, first(), 0) == 0); /* one good answer, and it begins anew */
	end();
}

static void requests_that_fail_together_count_once(void)
{
	begin();
	LIVE("a.b=http://10.0.0.1,http://10.0.0.2");
	for (int i = 0; i < 20; i++)
		report(0, false);
	rp.now += 1000;
	HOLDS(up_pick(&rp, first(), 0) == 0);
	end();
}

static void one_request_tries_a_target_that_was_out(void)
{
	begin();
	LIVE("a.b=http://10.0.0.1,http://10.0.0.2");
	report(0, false);
	rp.now += 1000;
	HOLDS(up_pick(&rp, first(), 0) == 0);
	for (int i = 0; i < 3; i++)
		HOLDS(up_pick(&rp, first(), 0) == 1);
	rp.now += rp.cf->connect_ms;
	HOLDS(up_pick(&rp, first(), 0) == 1);
	rp.now += 1000; /* whoever tried has gone without a word: the next one */
	HOLDS(up_pick(&rp, first(), 0) == 0);
	HOLDS(up_pick(&rp, first(), 0) == 1);
	report(0, true);
	HOLDS(up_pick(&rp, first(), 0) == 0 && up_pick(&rp, first(), 0) == 0);
	end();
}

static void all_that_are_out_are_tried_anyway_each_once(void)
{
	begin();
	LIVE("a.b=http://10.0.0.1,http://10.0.0.2,http://10.0.0.3");
	for (unsigned k = 0; k < 3; k++)
		report(k, false);
	HOLDS(up_pick(&rp, first(), 0) == 0);
	HOLDS(up_pick(&rp, first(), 1) == 1);
	HOLDS(up_pick(&rp, first(), 3) == 2);
	HOLDS(up_pick(&rp, first(), 7) == -1);
	report(1, true);
	HOLDS(up_pick(&rp, first(), 0) == 1 && up_pick(&rp, first(), 2) == 0);
	end();
}

static void round_robin_goes_around_and_goes_on_from_there(void)
{
	unsigned seen[3] = {0};

	begin();
	LIVE("a.b=http://10.0.0.1,http://10.0.0.2,http://10.0.0.3 balance=round-robin");
	int last = up_pick(&rp, first(), 0);
	for (int i = 0; i < 30; i++) {
		int k = up_pick(&rp, first(), 0);
		HOLDS(k == (last + 1) % 3);
		HOLDS(up_pick(&rp, first(), 1u << k) == (k + 1) % 3); /* the next try of that request */
		seen[k]++;
		last = k;
	}
	HOLDS(seen[0] == 10 && seen[1] == 10 && seen[2] == 10);
	report(1, false);
	for (int i = 0; i < 9; i++)
		HOLDS(up_pick(&rp, first(), 0) != 1);
	end();
}

static void what_is_known_survives_a_reload_for_unchanged_targets(void)
{
	begin();
	LIVE("a.b=http://10.0.0.1,http://10.0.0.2");
	report(0, false);
	up(1)->down = true;
	LIVE("new.b=http://10.0.0.9", "a.b=http://10.0.0.1,http://10.0.0.2,http://10.0.0.3");
	const struct route *r = rt_find(rp.cf, sl_of("a.b"), sl_of("/"));
	HOLDS(r && up_pick(&rp, r, 0) == 2);
	HOLDS(up_is_out(&rp, &r->target[0]) && up_is_out(&rp, &r->target[1]));
	LIVE("a.b=http://10.0.0.1:81,http://10.0.0.2");
	HOLDS(!up_is_out(&rp, &first()->target[0]) && up_is_out(&rp, &first()->target[1]));
	LIVE("a.b=http://10.0.0.7");
	LIVE("a.b=http://10.0.0.1");
	HOLDS(!up_is_out(&rp, &first()->target[0])); /* it was gone in between: forgotten */
	HOLDS(rp.nup <= 5);
	end();
}

static void equal_targets_of_two_routes_share_what_is_known(void)
{
	begin();
	LIVE("a.b=http://10.0.0.1", "c.d=http://10.0.0.1", "e.f=https://10.0.0.1 verify=off",
		 "g.h=http://10.0.0.1 send-proxy=v1");
	HOLDS(rp.nup == 3);
	HOLDS(up(0)->holds == 2);
	end();
	HOLDS(rp.nup == 0);
}

static struct dns_answer answer(unsigned n, const char *const *ips)
{
	struct target *tg = &rp.cf->route[0]->target[0];
	struct dns_answer a = {.cookie = (uint64_t)up(0)->serial << 32 | tg->up, .good = n > 0};

	for (a.naddr = 0; a.naddr < n; a.naddr++)
		HOLDS(addr_parse_ip(sl_of(ips[a.naddr]), a.addr[a.naddr].ip));
	return a;
}

static void the_last_good_answer_is_kept_and_its_good_address_is_first(void)
{
	static const char *const two[] = {"10.0.0.1", "10.0.0.2"}, *const three[] = {"10.0.0.3",
																				 "10.0.0.2"};
	struct addr second;

	begin();
	LIVE("a.b=http://nas.test");
	struct up *u = up(0);
	struct dns_answer a = answer(2, two);
	up_answer(&rp, &a);
	HOLDS(!u->naddr); /* nobody has asked */
	u->asking = true;
	up_answer(&rp, &a);
	HOLDS(u->naddr == 2 && u->best == 0 && !u->asking);
	HOLDS(u->fresh_until == rp.now + UP_FRESH_MS);
	second = u->addr[1];
	up_prefer(u, &second);
	HOLDS(u->best == 1);
	a = answer(0, NULL);
	u->asking = true;
	up_answer(&rp, &a);
	HOLDS(u->naddr == 2 && u->best == 1 && u->fresh_until < rp.now + UP_FRESH_MS);
	a = answer(2, three);
	u->asking = true;
	up_answer(&rp, &a);
	HOLDS(u->naddr == 2 && u->best == 1); /* 10.0.0.2 stands there again */
	a = answer(1, three);
	u->asking = true;
	up_answer(&rp, &a);
	HOLDS(u->naddr == 1 && u->best == 0);
	end();
}

static void an_answer_for_the_name_before_is_not_for_this_one(void)
{
	static const char *const ip[] = {"10.0.0.1"};

	begin();
	LIVE("a.b=http://old.test");
	struct dns_answer a = answer(1, ip);
	LIVE("a.b=http://10.0.0.1");
	LIVE("a.b=http://new.test");
	HOLDS(first()->target[0].up == (uint32_t)a.cookie); /* the place is the same */
	up(0)->asking = true;
	up_answer(&rp, &a);
	HOLDS(!up(0)->naddr && up(0)->asking);
	a.cookie = UINT32_MAX;
	up_answer(&rp, &a);
	end();
}

static void a_name_found_at_last_is_no_longer_out(void)
{
	static const char *const ip[] = {"10.0.0.1"};

	begin();
	LIVE("a.b=http://nas.test,http://10.0.0.2");
	for (int i = 0; i < 6; i++) {
		report(0, false);
		rp.now += 30000;
	}
	report(0, false);
	HOLDS(up_pick(&rp, first(), 0) == 1);
	struct dns_answer a = answer(1, ip);
	up(0)->asking = true;
	up_answer(&rp, &a);
	HOLDS(up_pick(&rp, first(), 0) == 0);
	end();
}

int main(void)
{
	RUN(a_target_is_left_out_for_a_second_and_twice_as_long_each_time_up_to_thirty);
	RUN(requests_that_fail_together_count_once);
	RUN(one_request_tries_a_target_that_was_out);
	RUN(all_that_are_out_are_tried_anyway_each_once);
	RUN(round_robin_goes_around_and_goes_on_from_there);
	RUN(what_is_known_survives_a_reload_for_unchanged_targets);
	RUN(equal_targets_of_two_routes_share_what_is_known);
	RUN(the_last_good_answer_is_kept_and_its_good_address_is_first);
	RUN(an_answer_for_the_name_before_is_not_for_this_one);
	RUN(a_name_found_at_last_is_no_longer_out);
	return unit_end();
}
