/* sim_http.c: whole-proxy stories on a fake machine, for as many seeds as wanted.
 *
 * SPDX-License-Identifier: MIT
 *
 *	SEEDS=10000 build/tests/sim_http           many seeds
 *	STORY=tunnels FIRST=4711 SEEDS=1 ...       one of them again
 *
 * Every story ends with: no descriptor lost, no connection or transaction left, no turn without
 * progress, each client answered or let go for a reason that the story allows, no POST twice.
 */
#include "unit.h"

#define RP_NO_MAIN
#define RP_SYS_FILE "tests/sim_sys.h"
#include "../rproxy.c"

#include "sim_world.h"
#include "strict.h"

/* Bodies that a story's slowest link can carry in a bounded number of turns. */
static uint32_t most_of(const struct client *c)
{
	size_t n = c->piece < world.wnd ? c->piece : world.wnd;

	return n * 1000 < 60000 ? (uint32_t)n * 1000 : 60000;
}

/* Adds clients with requests of every kind. */
static void any_clients(unsigned most, unsigned asks, unsigned may)
{
	for (unsigned k = 1 + sim_rand(most); k; k--) {
		struct client *c = client_add(1 + sim_rand(asks));
		for (unsigned i = 0; i < c->nask; i++) {
			ask_any(&c->ask[i], most_of(c));
			c->ask[i].may = may;
		}
		client_write(c);
	}
}

/* Keep-alive, pipelining, chunked both ways, short reads and writes, events in any order. */
static void exchanges(void)
{
	world_weather();
	any_clients(6, 6, 0);
	world_play(NULL);
}

/* A backend that closes kept connections just when the next request comes: GET is tried again,
 * and nothing that is not idempotent was ever sent over such a connection. */
static void stale_connections(void)
{
	world_weather();
	world.stale = (uint8_t)(30 + sim_rand(200));
	any_clients(6, 8, 0);
	world_play(NULL);
}

/* A backend that says its answer before it has the upload, and then goes: a reset, since it leaves
 * bytes unread. The answer arrives, unless that reset took it away, or was the end that it needs. */
static void early_answers(void)
{
	world_weather();
	sim.kept = sim_rand(2);
	for (unsigned k = 1 + sim_rand(4); k; k--) {
		struct client *c = client_add(1 + sim_rand(2));
		for (unsigned i = 0; i < c->nask; i++) {
			struct ask *a = &c->ask[i];
			a->method = sim_rand(2) ? "POST" : "PUT";
			a->body = sim_rand(2) ? W_LENGTH : W_CHUNKED;
			a->body_len = sim_rand(most_of(c));
			a->code = 413;
			a->ans = sim.kept ? (enum wire_framing)(1 + sim_rand(2)) : a->ans;
			a->early = a->up_close = true;
			a->may = sim.kept ? 0 : MAY_502 | MAY_CUT;
		}
		client_write(c);
	}
	world_play(NULL);
}

/* body-max: our own 413 arrives although the client goes on sending. */
static void uploads_too_big(void)
{
	world_weather();
	world.wnd = 65536;
	world_argv[WORLD_ROUTE] = "h.test=http://127.0.0.1:9001 body-max=1000";
	for (unsigned k = 1 + sim_rand(4); k; k--) {
		struct client *c = client_add(2);
		c->piece = 2000 + sim_rand(30000);
		c->pace = 0;
		c->pipelined = true;
		c->ask[0].method = "POST";
		c->ask[0].body = sim_rand(2) ? W_LENGTH : W_CHUNKED;
		c->ask[0].body_len = 1001 + sim_rand(100000);
		c->ask[0].may = MAY_413;
		client_write(c);
	}
	world_play(NULL);
}

/* Clients that close, half-close or reset anywhere. What was asked before a half-close is answered.
 */
static void clients_leave(void)
{
	world_weather();
	for (unsigned k = 1 + sim_rand(5); k; k--) {
		struct client *c = client_add(1 + sim_rand(3));
		for (unsigned i = 0; i < c->nask; i++)
			ask_any(&c->ask[i], most_of(c));
		client_write(c);
		size_t at = sim_rand(4) ? sim_rand((uint32_t)c->n + 1) : c->n;
		bool reset = sim_rand(2);
		if (reset)
			c->rst_at = at;
		else
			c->fin_at = at;
		c->pipelined = true;
		for (unsigned i = 0; i < c->nask; i++)
			if (reset || c->ask[i].end > at)
				c->ask[i].may = MAY_400 | MAY_NONE | MAY_CUT;
	}
	world_play(NULL);
}

/* Heads that take too long, bodies that stop, readers that stop: each is let go in time. */
static void clients_stall(void)
{
	world_weather();
	world_argv[WORLD_HEAD_TIMEOUT] = "2s";
	for (unsigned k = 1 + sim_rand(4); k; k--) {
		struct client *c = client_add(1 + sim_rand(2));
		struct ask *a = &c->ask[sim_rand(c->nask)];
		for (unsigned i = 0; i < c->nask; i++)
			c->ask[i].may = MAY_408 | MAY_NONE | MAY_CUT;
		if (sim_rand(2)) {
			a->method = "POST";
			a->body = (enum wire_framing)(1 + sim_rand(2));
			a->body_len = sim_rand(3000);
		}
		a->ans_len = sim_rand(300000);
		client_write(c);
		if (sim_rand(2))
			c->stall_at = sim_rand((uint32_t)c->n);
		else
			c->stop_at = sim_rand(2000);
		c->give_up = SIM_START + 200000;
	}
	world_play(NULL);
}

/* Backends that stay silent, break off or stop reading: 502 or 504, and never a whole-looking
 * answer that is not. */
static void backends_fail(void)
{
	world_weather();
	for (unsigned k = 1 + sim_rand(5); k; k--) {
		struct client *c = client_add(1 + sim_rand(4));
		for (unsigned i = 0; i < c->nask; i++) {
			struct ask *a = &c->ask[i];
			ask_any(a, most_of(c));
			a->fate = (enum fate)sim_rand(5);
			a->fate_at = sim_rand(3) ? sim_rand(200) : sim_rand(20000);
			if (a->fate != FATE_WELL)
				a->may =
					MAY_502 | MAY_504 | MAY_CUT | (a->old ? MAY_NONE : 0); /* its cut is a reset */
		}
		client_write(c);
	}
	world_play(NULL);
}

/* One exchange, its backend gone after each possible byte received. */
static void backend_resets(void)
{
	uint32_t bytes = (uint32_t)world.story_seed;

	world_weather();
	struct client *c = client_add(2);
	for (unsigned i = 0; i < 2; i++) {
		c->ask[i].method = sim_rand(2) ? "POST" : "GET";
		c->ask[i].may = MAY_502;
		if (c->ask[i].method[0] == 'P') {
			c->ask[i].body = (enum wire_framing)(1 + sim_rand(2));
			c->ask[i].body_len = 40;
		}
	}
	client_write(c);
	world.rst_rx = bytes;
	world_play(NULL);
}

/* Targets that refuse or never answer: the next one, or 502 and 504. */
static void dials_fail(void)
{
	world_weather();
	world.refuse = (uint8_t)sim_rand(256);
	world.hole = (uint8_t)(sim_rand(2) ? sim_rand(100) : 0);
	if (sim_rand(2))
		world_argv[WORLD_ROUTE] = "h.test=http://127.0.0.1:9001,http://127.0.0.1:9002";
	any_clients(5, 4, MAY_502 | MAY_504);
	world_play(NULL);
}

/* Descriptors run out, when accepting and when dialling. */
static void descriptors_end(void)
{
	world_weather();
	sim.fd_max = 5 + sim_rand(8); /* three are listeners */
	sim.f.no_socket = 0;
	sim.f.no_accept = (uint8_t)sim_rand(200);
	any_clients(10, 3, MAY_503);
	world_play(NULL);
}

/* Upgrades, with the client's half-close at the end. */
static void tunnels(void)
{
	world_weather();
	world.tls = sim_rand(2);
	world_argv[WORLD_ROUTE] = "h.test=http://127.0.0.1:9001 plain";
	for (unsigned k = 1 + sim_rand(4); k; k--) {
		struct client *c = client_add(1 + sim_rand(2));
		struct ask *a = &c->ask[c->nask - 1];
		a->upgrade = true;
		a->body_len = sim_rand(most_of(c));
		client_write(c);
	}
	world_play(NULL);
}

/* Tunnels that the backend ends, having said what it had to say: all of it arrives. */
static void tunnels_ended(void)
{
	world_weather();
	world.tls = sim_rand(2);
	world_argv[WORLD_ROUTE] = "h.test=http://127.0.0.1:9001 plain";
	sim.kept = true; /* the proxy's last bytes are not lost to a reset that comes behind them */
	for (unsigned k = 1 + sim_rand(3); k; k--) {
		struct client *c = client_add(1);
		c->ask[0].upgrade = true;
		c->ask[0].ans_len = 1 + sim_rand(most_of(c));
		c->ask[0].body_len = sim_rand(most_of(c));
		c->ask[0].said = true;
		client_write(c);
	}
	world_play(NULL);
}

/* The same asks as in exchanges, by TLS and not. */
static void exchanges_by_tls(void)
{
	world_weather();
	world.tls = true;
	world_argv[WORLD_ROUTE] = "h.test=http://127.0.0.1:9001 plain";
	any_clients(4, 5, 0);
	world_play(NULL);
}

/* What comes comes in crumbs, but again and again when it is asked for: a turn ends anywhere. */
static void crumbs(void)
{
	world.tls = true;
	sim.f.crumb = (uint8_t)(20 + sim_rand(40));
	world_argv[WORLD_ROUTE] = "h.test=http://127.0.0.1:9001 plain";
	for (unsigned k = 1 + sim_rand(3); k; k--) {
		struct client *c = client_add(1 + sim_rand(4));
		for (unsigned i = 0; i < c->nask; i++)
			ask_any(&c->ask[i], 300);
		client_write(c);
		c->piece = 1 + sim_rand(3); /* a TLS record each */
		c->pieces = 1000;
	}
	world_play(NULL);
}

/* Readers of some bytes at a time are never cut, however long it takes; the others don't feel it. */
static void slow_readers(void)
{
	world_weather();
	world.tls = sim_rand(2);
	world_argv[WORLD_ROUTE] = "h.test=http://127.0.0.1:9001 plain";
	for (unsigned k = 1 + sim_rand(3); k; k--) {
		struct client *c = client_add(1);
		/* A TLS client takes a record from TCP when it has read the one before. */
		c->sip = c->tls ? 4000 : 50 + sim_rand(500);
		c->sip_pace = 1 + sim_rand(300);
		c->give_up = SIM_START + 3000000;
		size_t gulp = c->sip < world.wnd ? c->sip : world.wnd;
		for (unsigned i = 0; i < c->nask; i++) {
			c->ask[i].ans = (enum wire_framing)(1 + sim_rand(3));
			c->ask[i].ans_len = sim_rand((uint32_t)(gulp < 600 ? gulp * 100 : 60000));
		}
		client_write(c);
	}
	any_clients(2, 4, 0);
	world_play(NULL);
}

/* An answer fills the buffer for a slow reader so that its last chunk has to wait, and its backend
 * is gone by then. */
static void last_chunks_wait(void)
{
	world.wnd = 500;
	for (unsigned k = 0; k < 2; k++) {
		struct client *c = client_add(1);
		c->sip = 100;
		c->sip_pace = 50;
		c->ask[0].ans = k ? W_CLOSE : W_CHUNKED;
		c->ask[0].up_close = true;
		c->ask[0].ans_len = 36000 + world.story_seed % 200 * 15;
		client_write(c);
	}
	world_play(NULL);
}

/* Interim answers: as many as are allowed arrive before the final one; one more is a fault of the
 * backend's. */
static void interim_floods(void)
{
	world_weather();
	for (unsigned k = 1 + sim_rand(4); k; k--) {
		struct client *c = client_add(1 + sim_rand(3));
		for (unsigned i = 0; i < c->nask; i++) {
			ask_any(&c->ask[i], 300);
			c->ask[i].interims = sim_rand(20);
			if (c->ask[i].interims > RP_INTERIM_MAX) {
				c->ask[i].fate = FATE_FLOOD;
				c->ask[i].may = MAY_502;
			}
		}
		client_write(c);
	}
	world_play(NULL);
}

/* Any connection may break at any call, any call may find the machine out of something: every client
 * is answered or sees that it is not, and nothing is lost or served wrong. */
static void anything_breaks(void)
{
	world_weather();
	sim.f.snap = (uint8_t)sim_rand(256);
	sim.f.no_socket = (uint8_t)sim_rand(30);
	sim.f.no_accept = (uint8_t)sim_rand(60);
	sim.f.no_connect = (uint8_t)sim_rand(30);
	if (sim_rand(2))
		world_argv[WORLD_ROUTE] = "h.test=http://127.0.0.1:9001,http://127.0.0.1:9002";
	any_clients(6, 6, MAY_502 | MAY_503 | MAY_504 | MAY_CUT | MAY_NONE);
	world_play(NULL);
}

/* Memory that ends in the middle of the start: it says so, and gives back what it had. */
static void memory_ends(void)
{
	world_argv[WORLD_ROUTE] = "h.test=http://127.0.0.1:9001,http://127.0.0.1:9002";
	sim.alloc_left = (long)world.story_seed % 400;
	client_write(client_add(2));
	world_play(NULL);
}

/* A change of the configuration, and whether it can be made. */
static void turn_reload(struct rp *rp)
{
	static char *const routes[] = {"h.test=http://127.0.0.1:9001", "h.test=http://127.0.0.1:9002",
								   "*=http://127.0.0.1:9001,http://127.0.0.1:9003",
								   "no route at all"};

	if (!sim_odds(20))
		return;
	unsigned pick = sim_rand(4);
	bool busy = pick < 3 && sim_odds(40), poor = sim_odds(60);
	world_argv[WORLD_ROUTE] = routes[pick];
	world_argv[WORLD_STATUS] = busy ? "127.0.0.1:7777" : "127.0.0.1:8081";
	sim.busy_port = 7777;
	sim.alloc_left = poor ? (long)sim_rand(300) : -1;
	int got = rp_reload(rp);
	sim.alloc_left = -1;
	if (got == 0 ? busy || pick == 3 : !busy && !poor && pick != 3)
		wrong("a reload of \"%s\" gives the wrong verdict", routes[pick]);
}

/* The configuration changes, or fails to, in the middle of everything: nobody notices. */
static void reloads(void)
{
	world_weather();
	any_clients(6, 6, 0);
	world_play(turn_reload);
}

static void turn_drain(struct rp *rp)
{
	if (sim.now > SIM_START + 150)
		rp_drain(rp);
}

/* Stopping: what is under way ends well; who comes later finds nobody. */
static void drains(void)
{
	world_weather();
	any_clients(6, 4, MAY_NONE | MAY_CUT | MAY_503);
	world_play(turn_drain);
}

/* ---- broken bytes: what reaches a backend was said by the letter ---- */

static struct {
	struct st_msg m[64];
	unsigned n;
} strict;

static bool strict_known(const struct wire *w)
{
	for (unsigned i = 0; i < strict.n; i++) {
		const struct st_msg *m = &strict.m[i];
		if (st_is(m->method, w->method) && st_path_is(m, st_text(w->target)) &&
			m->nbody == w->nbody && (!w->nbody || !memcmp(m->body, w->body, w->nbody)))
			return true;
	}
	return false;
}

/* What the bytes ask for by the letter. */
static void strict_take(struct st bytes)
{
	for (strict.n = 0; strict.n < 60; strict.n++) {
		struct st_msg *m = &strict.m[strict.n];
		st_free(m);
		st_read(bytes, 0, m);
		if (m->all != ST_WHOLE)
			break;
		bytes.p += m->nall;
		bytes.n -= m->nall;
	}
}

/* A byte or some of a good stream of requests changed, left out or doubled. */
static void broken_bytes(void)
{
	static const char odd[] = "\r\n\t :;,0a\0\x7f\xff";

	world_weather();
	struct client *c = client_add(1 + sim_rand(4));
	for (unsigned i = 0; i < c->nask; i++) {
		ask_any(&c->ask[i], 300);
		c->ask[i].body_len %= 100;
	}
	client_write(c);
	for (unsigned k = 1 + sim_rand(3); k && c->n > 40; k--) {
		size_t at = sim_rand((uint32_t)c->n - 20), len = 1 + sim_rand(12);
		switch (sim_rand(3)) {
		case 0:
			c->bytes[at] = (uint8_t)odd[sim_rand(sizeof odd - 1)];
			break;
		case 1:
			memmove(c->bytes + at, c->bytes + at + len, c->n - at - len);
			c->n -= len;
			break;
		case 2:
			memmove(c->bytes + at, c->bytes + at + len / 2, len);
			break;
		}
	}
	c->pipelined = true;
	c->fin_at = c->n;
	strict_take((struct st){c->bytes, c->n});
	world.known = strict_known;
	world_play(NULL);
}

/* ---- very many tiny requests in one go ---- */

static uint64_t crowd_requests, crowd_calls, crowd_polls;

static void turn_crowd(struct rp *rp)
{
	if (rp->requests - crowd_requests > 64)
		wrong("%llu requests in one turn", (unsigned long long)(rp->requests - crowd_requests));
	if (sim.calls - crowd_calls > 400)
		wrong("%llu calls in one turn", (unsigned long long)(sim.calls - crowd_calls));
	crowd_requests = rp->requests;
	crowd_calls = sim.calls;
	crowd_polls = sim.polls;
}

/* 100,000 pipelined requests keep the work of a turn bounded, and somebody else is served too. */
static void crowd(void)
{
	struct client *c = client_add(100000);

	c->pipelined = true;
	c->piece = 65536;
	c->pace = 0;
	for (unsigned i = 0; i < c->nask; i++)
		c->ask[i].ans_len = 2;
	client_write(c);
	client_write(client_add(3));
	crowd_requests = crowd_calls = crowd_polls = 0;
	world_play(turn_crowd);
}

int main(void)
{
	STORY(exchanges, 200);
	STORY(exchanges_by_tls, 30);
	STORY(stale_connections, 200);
	STORY(early_answers, 200);
	STORY(uploads_too_big, 100);
	STORY(clients_leave, 300);
	STORY(clients_stall, 200);
	STORY(backends_fail, 300);
	STORY(backend_resets, 700);
	STORY(dials_fail, 200);
	STORY(descriptors_end, 200);
	STORY(tunnels, 200);
	STORY(tunnels_ended, 100);
	STORY(crumbs, 100);
	STORY(slow_readers, 40);
	STORY(last_chunks_wait, 100);
	STORY(interim_floods, 100);
	STORY(anything_breaks, 300);
	STORY(memory_ends, 400);
	STORY(reloads, 200);
	STORY(drains, 200);
	STORY(broken_bytes, 500);
	STORY(crowd, 1);
	return unit_end();
}
