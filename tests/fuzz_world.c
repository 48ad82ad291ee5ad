/* fuzz_world.c: the whole proxy on the simulated system, between a client and backends that say what
 * the input says. What reaches a backend is held against a strict reading of the client's bytes, what
 * reaches the client against one of the backends' bytes (strict.h, which shares no code with the
 * proxy). At the end of each input nothing may be left of it.
 *
 * SPDX-License-Identifier: MIT
 *
 * An input is text: a line of letters that say how it goes, what the client sends, and behind each
 * byte 0x1e what a backend answers to the next request (a plain answer when there is none left).
 *
 *	b s   the client sends byte by byte, in small pieces     B S   so does the backend
 *	f r   it ends, resets, after its last byte               C R   closes, resets after an answer
 *	n     it never reads                                     E     answers when the head is there
 *	w     the machine is bad: short reads, EAGAIN, late events
 *	q     sockets hold little
 *	other letters and digits: only the seed of all chance changes
 */
#include "fuzz.h"

#define RP_NO_MAIN 1
#define RP_SYS_FILE "tests/sim_sys.h"
#undef RP_DEBUG
#define RP_DEBUG 1
#include "../rproxy.c"

#undef write
#undef malloc
#undef calloc
#undef realloc
#include "strict.h"

#define WORLD_REQUESTS 64 /* of one input that are followed; more are cut off */
#define WORLD_INPUT 8192  /* bytes of an input; longer ones are left out */

static struct rp *rp;

/* A backend's end of a connection. */
struct server {
	struct sim_conn *c;	 /* borrows */
	uint8_t *got, *sent; /* owns; what it got, what it sends */
	size_t ngot, read, nsent, out;
	unsigned n; /* requests that it got or is getting */
	bool gone, early, ended, tunnel;
	bool spoilt; /* bytes behind an answer went out with it: no request may follow */
};

/* One request as a backend got it, in the order in which they came. */
struct seen {
	unsigned server, nth; /* the nth that this one got */
	size_t at;			  /* where it begins among its bytes */
};

static struct {
	char how[64];
	const uint8_t *in; /* the client's bytes */
	size_t nin, sent, ngot;
	uint8_t *got; /* owns: what the client got */
	struct st answer[WORLD_REQUESTS];
	unsigned nanswer, next;
	struct sim_conn *c;
	bool left, eof, reset;
	struct server server[WORLD_REQUESTS];
	unsigned nserver;
	struct seen seen[WORLD_REQUESTS];
	unsigned nseen;
	struct st_msg
		asked[WORLD_REQUESTS]; /* own their bodies: the client's requests, by the letter */
	unsigned nasked;
	bool cut;	/* there were more than we follow */
	bool twins; /* two of them are alike: which one a backend got can't be told */
	uint64_t until;
} world;

static bool how(char c)
{
	return strchr(world.how, c) != NULL;
}

static void bytes_add(uint8_t **p, size_t *n, const void *more, size_t k)
{
	*p = realloc(*p, *n + k + 1);
	FUZZ_HOLDS(*p);
	if (k)
		memcpy(*p + *n, more, k);
	*n += k;
}

/* How much of n bytes is sent at once. A byte of much takes too long. */
static size_t piece(char one, char few, size_t n)
{
	size_t most = how(one) ? 1 + n / 1024 : how(few) ? 1 + n / 1024 + sim_rand(24) : n;

	return n < most ? n : most;
}

/* ---- the backends ---- */

static void server_reply(struct server *s, const struct st_msg *m)
{
	struct st plain = st_text("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\nplain");
	struct st a = world.next < world.nanswer ? world.answer[world.next++] : plain;
	bool head = m->method.n == 4 && !memcmp(m->method.p, "HEAD", 4);
	struct st_msg r;

	if (a.p == plain.p && head)
		a.n -= 5;
	bytes_add(&s->sent, &s->nsent, a.p, a.n);
	s->ended = how('C') || how('R');
	st_read(a, ST_RESPONSE | (head ? ST_TO_HEAD : 0), &r);
	while (r.all == ST_WHOLE && r.code < 200 && r.code != 101) {
		a.p += r.nall, a.n -= r.nall;
		st_free(&r);
		st_read(a, ST_RESPONSE | (head ? ST_TO_HEAD : 0), &r);
	}
	s->tunnel |= r.head == ST_WHOLE && r.code == 101;
	/* It knows itself whether it is done; some say nothing of it. */
	s->ended |= r.head == ST_WHOLE && (r.close || r.framing == ST_CLOSE);
	s->spoilt |= r.all != ST_WHOLE || r.nall < a.n || r.ambiguous || r.close;
	st_free(&r);
}

static void server_look(struct server *s)
{
	struct st rest = {s->got + s->read, s->ngot - s->read};
	struct st_msg m;

	if (s->tunnel || s->ended)
		return;
	st_read(rest, ST_OURS, &m);
	if (m.all == ST_WHOLE || (how('E') && m.head == ST_WHOLE && !s->early)) {
		FUZZ_HOLDS(!s->spoilt || how('B') || how('S') || how('q') || how('w'));
		server_reply(s, &m);
		s->early = m.all != ST_WHOLE;
		if (s->early)
			s->ended = true;
		s->read += m.all == ST_WHOLE ? m.nall : 0;
	}
	st_free(&m);
}

static uint64_t server_run(struct server *s)
{
	uint8_t chunk[4096];
	struct sim_conn *c = s->c;

	if (s->gone || c->connecting || c->far_closed)
		return SIM_NEVER;
	size_t n = sim_q_get(&c->out, chunk, piece('B', 'S', sizeof chunk));
	if (n && s->read == s->ngot && !s->tunnel) {
		if (world.nseen == WORLD_REQUESTS)
			world.cut = true;
		else
			world.seen[world.nseen++] =
				(struct seen){(unsigned)(s - world.server), s->n++, s->ngot};
	}
	bytes_add(&s->got, &s->ngot, chunk, n);
	if (s->out == s->nsent)
		server_look(s);
	if (s->out < s->nsent) {
		size_t k = sim_far_send(c, s->sent + s->out, piece('B', 'S', s->nsent - s->out));
		s->out += k;
		n += k;
	}
	bool said = s->out == s->nsent;
	if (c->out_rst || (said && s->ended && how('R'))) {
		sim_far_reset(c);
		s->gone = true;
	} else if (said && !sim_q_len(&c->out) && ((s->ended && !s->early) || c->out_fin)) {
		sim_far_close(c);
		s->gone = true;
	} else if (said && s->early && (how('C') || c->out_fin)) {
		sim_far_close(c);
		s->gone = true;
	}
	return n ? sim.now + 1 : SIM_NEVER;
}

static void world_dialled(struct sim_conn *c)
{
	c->connect_at = sim.now;
	if (how('q'))
		c->in_room = c->out_room = 64;
	if (world.nserver == WORLD_REQUESTS) {
		world.cut = true;
		c->connect_err = ECONNREFUSED;
		return;
	}
	world.server[world.nserver++] = (struct server){.c = c};
}

/* ---- the client ---- */

static uint64_t client_run(void)
{
	uint8_t chunk[4096];
	struct sim_conn *c = world.c;
	size_t n = 0, k = 0;

	if (world.left)
		return SIM_NEVER;
	if (!how('n'))
		n = sim_q_get(&c->out, chunk, sizeof chunk);
	bytes_add(&world.got, &world.ngot, chunk, n);
	if (world.sent < world.nin) {
		k = sim_far_send(c, world.in + world.sent, piece('b', 's', world.nin - world.sent));
		world.sent += k;
	}
	if (world.sent == world.nin && how('r')) {
		sim_far_reset(c);
		world.left = true;
	} else if (world.sent == world.nin && how('f') && !c->in_fin) {
		c->in_fin = true;
		sim.moved++;
	}
	if (!sim_q_len(&c->out) || how('n')) {
		world.reset = c->out_rst;
		world.eof = c->out_fin && !c->out_rst;
		if (c->out_rst || c->out_fin) {
			sim_far_close(c);
			world.left = true;
		}
	}
	return n || k ? sim.now + 1 : SIM_NEVER;
}

static uint64_t world_run(void)
{
	uint64_t next = client_run(), at;

	for (unsigned i = 0; i < world.nserver; i++)
		if ((at = server_run(&world.server[i])) < next)
			next = at;
	return next;
}

/* ---- the input ---- */

static void world_read(const uint8_t *data, size_t size)
{
	struct st rest = {data, size}, line, part;

	if (!st_cut(&rest, '\n', &line))
		rest = (struct st){data, size}, line.n = 0;
	if (line.n > sizeof world.how - 1) /* no such line: it is the client's */
		rest = (struct st){data, size}, line.n = 0;
	for (size_t i = 0, k = 0; i < line.n; i++)
		if (line.p[i])
			world.how[k++] = (char)line.p[i];
	bool more = st_cut(&rest, 0x1e, &part);
	world.in = part.p;
	world.nin = part.n;
	while (more && world.nanswer < WORLD_REQUESTS) {
		more = st_cut(&rest, 0x1e, &part);
		world.answer[world.nanswer++] = part;
	}
}

/* What the client asks by the letter, up to the first thing that is wrong or not whole. */
static void world_ask(void)
{
	struct st rest = {world.in, world.nin};

	while (rest.n) {
		if (world.nasked == WORLD_REQUESTS) {
			world.cut = true;
			return;
		}
		struct st_msg *m = &world.asked[world.nasked];
		st_read(rest, 0, m);
		if (m->head != ST_WHOLE) {
			if (m->head == ST_BAD)
				world.nasked++; /* it is answered, but not passed on */
			return;
		}
		world.nasked++;
		for (unsigned i = 0; i + 1 < world.nasked; i++)
			world.twins |=
				st_same(m->method, world.asked[i].method) && st_same(m->path, world.asked[i].path);
		if (m->all != ST_WHOLE)
			return;
		rest.p += m->nall;
		rest.n -= m->nall;
	}
}

static void world_begin(const uint8_t *data, size_t size)
{
	uint8_t bad;

	memset(&world, 0, sizeof world);
	world_read(data, size);
	world_ask();
	sim.seed = fuzz_seed((const uint8_t *)world.how, strlen(world.how));
	bad = (uint8_t)(how('w') ? 20 + sim_rand(100) : 0);
	sim.f = (struct sim_faults){.cut_read = bad,
								.cut_write = bad,
								.again = bad / 4,
								.hold = bad / 2,
								.ghost = bad / 8,
								.early = bad / 4,
								.late_clock = bad};
	sim.calls = sim.polls = 0;
	world.c = sim_conn_new(8080, NULL);
	if (how('q'))
		world.c->in_room = world.c->out_room = 64;
	sim.backlog[sim.nbacklog++] = world.c;
}

/* Lets the proxy work until nothing is left of this input. */
static void world_play(void)
{
	uint64_t still = 0, moved = 0;

	for (unsigned turns = 0; sim.nbacklog || rp->nlive; turns++) {
		FUZZ_HOLDS(turns < 200000);
		FUZZ_HOLDS(rp_step(rp));
		still = sim.moved == moved ? still + 1 : 0;
		moved = sim.moved;
		FUZZ_HOLDS(still < 3000);
	}
}

static void world_end(void)
{
	FUZZ_HOLDS(!sim.wrong && !sim.stuck);
	FUZZ_HOLDS(sim.nfd == rp->nls && !rp->nclient && rp->nfree == rp->nconn);
	FUZZ_HOLDS(rp->nfree_tx == rp->ntx && rp->pool.nfree == rp->pool.n);
	for (uint32_t i = 0; i < rp->nup; i++) {
		FUZZ_HOLDS(!rp->up[i]->idle && !rp->up[i]->nidle);
		rp->up[i]->fails = 0;
		rp->up[i]->out_until = rp->up[i]->trial_until = 0;
	}
	sim_end();
	for (unsigned i = 0; i < world.nserver; i++) {
		free(world.server[i].got);
		free(world.server[i].sent);
	}
	for (unsigned i = 0; i < world.nasked; i++)
		st_free(&world.asked[i]);
	if (world.nasked < WORLD_REQUESTS)
		st_free(&world.asked[world.nasked]);
	free(world.got);
}

/* ---- what a backend may have got ---- */

static bool is_method(const struct st_msg *m, const char *method)
{
	return m->method.n == strlen(method) && !memcmp(m->method.p, method, m->method.n);
}

static bool is_among(struct st name, const char *const *names)
{
	while (*names && !st_is(name, *names))
		names++;
	return *names != NULL;
}

/* Are the fields of `got` those of `said` that go on, in their order, and ours? */
static bool same_fields(const struct st_msg *said, const struct st_msg *got, bool response)
{
	static const char *const req[] = {"host",
									  "x-forwarded-for",
									  "x-forwarded-proto",
									  "x-real-ip",
									  "x-forwarded-host",
									  "content-length",
									  "connection",
									  "transfer-encoding",
									  "upgrade",
									  "max-forwards",
									  NULL};
	static const char *const rsp[] = {"content-length", "connection", "transfer-encoding",
									  "upgrade",		"location",	  "content-location",
									  "refresh",		NULL};
	const char *const *ours = response ? rsp : req;
	struct st x;
	bool dated = !response || st_count(said, "date", &x);
	unsigned i = 0, k = 0;

	for (;;) {
		while (i < said->n &&
			   (!st_goes_on(said, &said->f[i], response) || is_among(said->f[i].name, ours)))
			i++;
		while (k < got->n &&
			   (is_among(got->f[k].name, ours) || (!dated && st_is(got->f[k].name, "date"))))
			k++;
		if (i == said->n || k == got->n)
			return i == said->n && k == got->n;
		if (!st_same(said->f[i].name, got->f[k].name) ||
			!st_same(said->f[i].value, got->f[k].value))
			return false;
		i++;
		k++;
	}
}

/* Is this, as far as it came, the client's request `said`? */
static bool is_request(const struct st_msg *said, const struct st_msg *got)
{
	struct st a = {NULL, 0}, b = {NULL, 0};
	bool here = !st_count(said, "host", &a) || (st_count(got, "host", &b) && st_same(a, b));

	return said->head == ST_WHOLE && here && st_same(said->method, got->method) &&
		   st_path_is(said, got->target) && got->nbody <= said->nbody &&
		   (!got->nbody || !memcmp(said->body, got->body, got->nbody)) &&
		   (got->all != ST_WHOLE || (said->all == ST_WHOLE && got->nbody == said->nbody)) &&
		   same_fields(said, got, false);
}

static void judge_request(const struct st_msg *said, const struct st_msg *got)
{
	struct st host = {NULL, 0}, was = {NULL, 0}, x;

	FUZZ_HOLDS(!is_method(said, "CONNECT") && !is_method(said, "TRACE"));
	FUZZ_HOLDS(got->minor == 1 && got->framing == said->framing && got->length == said->length);
	FUZZ_HOLDS(st_count(got, "host", &host) == 1);
	if (st_count(said, "host", &was))
		FUZZ_HOLDS(st_same(host, was));
	FUZZ_HOLDS(st_count(got, "x-forwarded-for", &x) == 1 && st_is(x, "127.0.0.1"));
	FUZZ_HOLDS(st_count(got, "x-forwarded-proto", &x) == 1 && st_is(x, "http"));
	FUZZ_HOLDS(st_count(got, "x-real-ip", &x) == 1 && st_is(x, "127.0.0.1"));
	unsigned up = st_count(got, "upgrade", &x);
	FUZZ_HOLDS(up == st_count(got, "connection", &was) && up <= 1);
	FUZZ_HOLDS(!up || (said->minor && st_named(said, st_text("upgrade"))));
}

/* ---- what a backend said ---- */

/* The nth final answer that a server sent on its connection, read by the letter; *left: bytes that it
 * sent behind the answers before that one. */
static bool server_answer(const struct server *s, unsigned nth, struct st_msg *r, size_t *left)
{
	struct st rest = {s->sent, s->out}, asked = {s->got, s->ngot};
	unsigned eof = s->gone && !s->c->in_rst ? ST_EOF : 0;
	struct st_msg q;

	for (unsigned i = 0;; i++) {
		st_read(asked, ST_OURS, &q);
		unsigned head = is_method(&q, "HEAD") ? ST_TO_HEAD : 0, interim = 0;
		asked.p += q.nall, asked.n -= q.nall;
		st_free(&q);
		*left = rest.n;
		for (;;) {
			st_read(rest, ST_RESPONSE | head | eof, r);
			if (r->head != ST_WHOLE || (r->code < 200 && r->code != 101 && ++interim > 8)) {
				st_free(r);
				return false;
			}
			if (r->code >= 200 || r->code == 101)
				break;
			rest.p += r->nall, rest.n -= r->nall;
			st_free(r);
		}
		if (i == nth)
			return true;
		rest.p += r->nall, rest.n -= r->nall;
		st_free(r);
	}
}

/* Was nothing said to a request on a connection that had served others? Then it is asked again. */
static bool is_stale(const struct seen *seen)
{
	struct st_msg r;
	size_t left;

	if (seen->nth == 0)
		return false;
	if (server_answer(&world.server[seen->server], seen->nth, &r, &left)) {
		st_free(&r);
		return false;
	}
	return !left;
}

/* Finds for each request that a backend got the one of the client that it is. They come in order; one
 * comes twice only when it may. found[i]: who got the client's ith last, NULL nobody. */
static void judge_backends(const struct seen *found[WORLD_REQUESTS])
{
	unsigned of = 0; /* the last one */

	memset(found, 0, WORLD_REQUESTS * sizeof *found);
	for (unsigned i = 0; i < world.nseen; i++) {
		const struct seen *seen = &world.seen[i];
		const struct server *s = &world.server[seen->server];
		struct st_msg m;
		st_read((struct st){s->got + seen->at, s->ngot - seen->at}, ST_OURS, &m);
		FUZZ_HOLDS(m.head != ST_BAD && m.all != ST_BAD);
		if (m.head == ST_WHOLE) { /* else it did not get through */
			bool again = i && found[of] && is_stale(found[of]) && is_request(&world.asked[of], &m);
			if (again)
				FUZZ_HOLDS(m.framing == ST_NONE && !is_method(&m, "POST"));
			of += !again && found[of];
			while (of < world.nasked && !is_request(&world.asked[of], &m))
				of++;
			FUZZ_HOLDS(of < world.nasked || world.cut);
			if (of == world.nasked) {
				st_free(&m);
				break;
			}
			judge_request(&world.asked[of], &m);
			found[of] = seen;
		}
		st_free(&m);
	}
}

/* ---- what the client may have got ---- */

/* Is this an answer of our own: a page of ours and nothing else? */
static bool is_own(const struct st_msg *got, const struct st_msg *said)
{
	char page[REP_PAGE_MAX];
	struct st x;

	if (got->code < 300 ? !(is_method(said, "OPTIONS") && !got->nbody) : got->code < 400)
		return false;
	struct sl own = rep_page(got->code, false, page);
	return st_count(got, "cache-control", &x) == 1 && st_is(x, "no-store") && got->nbody <= own.n &&
		   !memcmp(got->body ? got->body : (const uint8_t *)"", own.p, got->nbody);
}

static void judge_answer(const struct st_msg *said, const struct st_msg *sent,
						 const struct st_msg *got)
{
	FUZZ_HOLDS(got->code == sent->code && got->nbody <= sent->nbody);
	FUZZ_HOLDS(!got->nbody || !memcmp(got->body, sent->body, got->nbody));
	if (got->all == ST_WHOLE && got->framing != ST_CLOSE)
		FUZZ_HOLDS(sent->all == ST_WHOLE && got->nbody == sent->nbody);
	/* What ends with the connection looks whole unless that ends badly. */
	if (got->framing == ST_CLOSE && world.eof)
		FUZZ_HOLDS(sent->all == ST_WHOLE && got->nbody == sent->nbody);
	FUZZ_HOLDS(said->minor || got->framing != ST_CHUNKED);
	FUZZ_HOLDS(same_fields(sent, got, true));
}

static void judge_client(const struct seen *const found[WORLD_REQUESTS])
{
	struct st rest = {world.got, world.ngot};
	unsigned i = 0, interim = 0;
	bool last = false;

	while (rest.n) {
		struct st_msg m, sent;
		FUZZ_HOLDS(!last);
		const struct st_msg *said = i < world.nasked ? &world.asked[i] : NULL;
		bool head = said && is_method(said, "HEAD");
		st_read(rest, ST_OURS | ST_RESPONSE | (head ? ST_TO_HEAD : 0) | (world.eof ? ST_EOF : 0),
				&m);
		FUZZ_HOLDS(m.head != ST_BAD && m.all != ST_BAD && !m.ambiguous);
		if (m.head == ST_MORE) {
			FUZZ_HOLDS(world.left);
			break;
		}
		rest.p += m.nall, rest.n -= m.nall;
		if (m.code < 200 && m.code != 101) {
			FUZZ_HOLDS(said && said->minor && ++interim <= 8);
			st_free(&m);
			continue;
		}
		interim = 0;
		static const struct st_msg none;
		if (!said) { /* a request that is not whole: 408, or a head that was bad in its middle */
			FUZZ_HOLDS(is_own(&m, &none) && m.close);
		} else if (is_own(&m, said)) {
			FUZZ_HOLDS(m.code != 400 || said->all != ST_WHOLE || said->doubt);
			FUZZ_HOLDS(said->head != ST_BAD || m.close);
		} else if (!world.twins) {
			size_t left;
			FUZZ_HOLDS(found[i]);
			FUZZ_HOLDS(server_answer(&world.server[found[i]->server], found[i]->nth, &sent, &left));
			judge_answer(said, &sent, &m);
			st_free(&sent);
		}
		last = m.close || m.all != ST_WHOLE || m.code == 101;
		i++;
		bool tunnel = m.code == 101;
		st_free(&m);
		if (tunnel)
			break;
	}
	/* Who reads, and waits, gets an answer to whatever is whole. */
	if (!how('r') && !how('n') && !world.cut && !last)
		FUZZ_HOLDS(i >= world.nasked || world.asked[i].all == ST_MORE || world.reset);
}

static void world_open(void)
{
	static char *argv[] = {"rproxy",
						   "--http",
						   "127.0.0.1:8080",
						   "--log",
						   "none",
						   "--max-conns",
						   "4",
						   "--max-conns-per-ip",
						   "0",
						   "--head-max",
						   "2k",
						   "--head-timeout",
						   "2s",
						   "--idle-timeout",
						   "2s",
						   "--connect-timeout",
						   "1s",
						   "--response-timeout",
						   "3s",
						   "--stall-timeout",
						   "2s",
						   "--tunnel-timeout",
						   "4s",
						   "--route",
						   "*=http://127.0.0.1:9001"};
	int status;

	sim.now = SIM_START;
	sim.wall = 1800000000;
	sim.fd_max = SIM_FDS;
	sim.alloc_left = -1;
	sim.world = world_run;
	sim.dialled = world_dialled;
	rp = rp_open((int)(sizeof argv / sizeof *argv), argv, &status);
	FUZZ_HOLDS(rp);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct seen *found[WORLD_REQUESTS];

	if (!rp)
		world_open();
	if (size > WORLD_INPUT)
		return 0;
	world_begin(data, size);
	world_play();
	judge_backends(found);
	judge_client(found);
	world_end();
	return 0;
}
