/* sim_world.h: the far ends of a simulation: scripted clients, strict backends, and the runner.
 *
 * SPDX-License-Identifier: MIT
 *
 * A story is a set of asks (one request each, with its answer and its fate), sent by clients over
 * connections to the proxy. The backend reads what reaches it with a reader of its own, wire_read(),
 * that shares no code with the proxy: it takes HTTP/1.1 by the letter and nothing else. It knows an
 * ask again by the token in the path, answers as that ask says, and counts how often it came. The
 * client compares what it gets with what that ask should bring.
 */
#undef write
#undef malloc
#undef calloc
#undef realloc

/* ---- an independent reader of HTTP/1.1 ---- */

enum wire_framing { W_NONE, W_LENGTH, W_CHUNKED, W_CLOSE };

struct wire {
	int code, minor;
	char method[40], target[600], token[24], host[300];
	enum wire_framing framing;
	size_t head, length; /* bytes of the head, of a Content-Length */
	bool close, upgrade;
	uint8_t *body; /* owns: the decoded body */
	size_t nbody, cap;
};

static void wire_add(struct wire *w, const uint8_t *p, size_t n)
{
	if (w->nbody + n > w->cap) {
		w->cap = (w->nbody + n) * 2;
		w->body = realloc(w->body, w->cap);
		if (!w->body)
			abort();
	}
	if (n)
		memcpy(w->body + w->nbody, p, n);
	w->nbody += n;
}

static bool wire_tchar(int c)
{
	return c > 32 && c < 127 && !strchr("\"(),/:;<=>?@[\\]{}", c);
}

/* Takes one field. False: not by the letter. */
static bool wire_field(struct wire *w, const char *line, size_t n, unsigned *hosts, bool *te,
					   bool *cl)
{
	char name[64] = "", value[600] = "";
	size_t k = 0, v;

	while (k < n && wire_tchar(line[k]))
		k++;
	if (!k || k >= n || line[k] != ':')
		return false;
	snprintf(name, sizeof name, "%.*s", (int)k, line);
	for (v = k + 1; v < n && (line[v] == ' ' || line[v] == '\t');)
		v++;
	while (n > v && (line[n - 1] == ' ' || line[n - 1] == '\t'))
		n--;
	snprintf(value, sizeof value, "%.*s", (int)(n - v), line + v);
	if (!strcasecmp(name, "host")) {
		++*hosts;
		snprintf(w->host, sizeof w->host, "%.299s", value);
	} else if (!strcasecmp(name, "content-length")) {
		if (*cl || !value[0] || strspn(value, "0123456789") != strlen(value) || strlen(value) > 15)
			return false;
		*cl = true;
		w->length = strtoul(value, NULL, 10);
	} else if (!strcasecmp(name, "transfer-encoding")) {
		if (*te || strcasecmp(value, "chunked") != 0)
			return false;
		*te = true;
	} else if (!strcasecmp(name, "connection")) {
		w->close |= strcasestr(value, "close") != NULL;
	} else if (!strcasecmp(name, "upgrade")) {
		w->upgrade = true;
	} else if (!strcasecmp(name, "x-token")) {
		snprintf(w->token, sizeof w->token, "%.20s", value);
	}
	return true;
}

/* Reads a head. Its length, 0 more, -1 bad. */
static ptrdiff_t wire_head(const uint8_t *p, size_t n, bool response, bool head_only,
						   struct wire *w)
{
	uint8_t *body = w->body;
	size_t cap = w->cap, at = 0;
	unsigned hosts = 0;
	bool te = false, cl = false;
	char version[16] = "";

	*w = (struct wire){.body = body, .cap = cap};
	for (bool first = true;; first = false) {
		size_t end = at;
		while (end < n && (p[end] >= 32 || p[end] == '\t') && p[end] != 127)
			end++;
		if (end + 1 >= n)
			return end < n && p[end] != '\r' ? -1 : 0;
		if (p[end] != '\r' || p[end + 1] != '\n')
			return -1;
		const char *line = (const char *)p + at;
		size_t len = end - at;
		at = end + 2;
		if (first && response) {
			if (len < 12 || sscanf(line, "HTTP/1.%1d %3d", &w->minor, &w->code) != 2)
				return -1;
		} else if (first) {
			const char *a = memchr(line, ' ', len),
					   *b = a ? memchr(a + 1, ' ', len - (size_t)(a + 1 - line)) : NULL;
			if (!b || a == line || b == a + 1 || a - line > 32 || b - a > 500)
				return -1;
			snprintf(w->method, sizeof w->method, "%.*s", (int)(a - line), line);
			snprintf(w->target, sizeof w->target, "%.*s", (int)(b - a - 1), a + 1);
			snprintf(version, sizeof version, "%.*s", (int)(line + len - b - 1), b + 1);
			w->minor = version[7] - '0';
			for (const char *m = w->method; *m; m++)
				if (!wire_tchar(*m))
					return -1;
			if (strncmp(version, "HTTP/1.", 7) != 0 || strlen(version) != 8)
				return -1;
		} else if (!len) {
			break;
		} else if (!wire_field(w, line, len, &hosts, &te, &cl)) {
			return -1;
		}
	}
	if ((te && cl) || (!response && (hosts > 1 || (w->minor == 1 && !hosts))) || (te && !w->minor))
		return -1;
	w->head = at;
	if (response && (head_only || w->code < 200 || w->code == 204 || w->code == 304))
		w->framing = W_NONE;
	else
		w->framing = te ? W_CHUNKED : cl ? W_LENGTH : response ? W_CLOSE : W_NONE;
	return (ptrdiff_t)at;
}

/* Reads a chunked body. Its length on the wire, 0 more, -1 bad. No extensions, no trailers. */
static ptrdiff_t wire_chunks(const uint8_t *p, size_t n, struct wire *w)
{
	for (size_t at = 0;;) {
		size_t size = 0, from = at;
		for (; at < n && isxdigit(p[at]); at++)
			size = size * 16 + (size_t)(isdigit(p[at]) ? p[at] - '0' : (p[at] | 32) - 'a' + 10);
		if (at + 1 >= n)
			return 0;
		if (at == from || at - from > 8 || p[at] != '\r' || p[at + 1] != '\n')
			return -1;
		at += 2;
		if (n - at < size + 2) {
			wire_add(w, p + at, n - at < size ? n - at : size);
			return 0;
		}
		if (p[at + size] != '\r' || p[at + size + 1] != '\n')
			return -1;
		wire_add(w, p + at, size);
		at += size + 2;
		if (!size)
			return (ptrdiff_t)at;
	}
}

/* Reads one message. Its length on the wire; 0 more is needed (w->head tells whether the head is
 * whole, w->body holds what there is); -1 bad. eof: nothing more will come. */
static ptrdiff_t wire_read(const uint8_t *p, size_t n, bool response, bool head_only, bool eof,
						   struct wire *w)
{
	ptrdiff_t head = wire_head(p, n, response, head_only, w), r;

	if (head <= 0)
		return head;
	n -= (size_t)head;
	p += head;
	switch (w->framing) {
	case W_NONE:
		return head;
	case W_LENGTH:
		wire_add(w, p, n < w->length ? n : w->length);
		return n >= w->length ? head + (ptrdiff_t)w->length : 0;
	case W_CHUNKED:
		r = wire_chunks(p, n, w);
		return r > 0 ? head + r : r;
	case W_CLOSE:
		wire_add(w, p, n);
		return eof ? head + (ptrdiff_t)n : 0;
	}
	return -1;
}

/* ---- the cast ---- */

/* What may become of an ask beside its own answer. */
enum {
	MAY_400 = 1,
	MAY_408 = 2,
	MAY_413 = 4,
	MAY_502 = 8,
	MAY_503 = 16,
	MAY_504 = 32,
	MAY_CUT = 64 /* the answer breaks off */,
	MAY_NONE = 128 /* no answer at all */
};

enum fate { FATE_WELL, FATE_SILENT, FATE_RESET, FATE_CLOSE, FATE_STALL, FATE_FLOOD };

struct ask {
	const char *method;
	enum wire_framing body, ans;
	size_t body_len, ans_len;
	int code;
	unsigned interims, may;
	bool old, close, up_close; /* HTTP/1.0; the client, the backend says "close" */
	bool early;				   /* answered when its head is there */
	bool upgrade;			   /* 101, then an echo of body_len bytes */
	bool said;				   /* 101, then ans_len bytes and the end, whatever the client says */
	enum fate fate;			   /* of the answer, after fate_at bytes of it */
	size_t fate_at;
	uint64_t delay;		   /* ms before the answer */
	size_t end;			   /* where it ends among its client's bytes */
	unsigned heads, dones; /* how often a backend got its head, all of it */
	int got;			   /* status that the client saw, 0: none */
	bool cut;
};

struct sim_tls;

struct client {
	struct sim_conn *c; /* borrows */
	struct ask *ask;	/* borrows: the first of its asks */
	unsigned nask, done;
	uint8_t *bytes, *got; /* owns: to send, received */
	size_t n, sent, ngot, parsed;
	size_t fin_at, rst_at, stall_at, stop_at; /* bytes sent (stop: received) before that */
	size_t piece;							  /* bytes at once, at most */
	unsigned pieces;						  /* so many more right behind */
	uint64_t pace;							  /* ms between pieces, at most */
	uint64_t at, start, give_up;
	size_t sip;				   /* it reads so many bytes at once, at most */
	uint64_t sip_pace, sip_at; /* ms between two sips, at most; the next one */
	bool pipelined, gone, reset, eof, tunnel;
	bool last;			 /* the answer that came is the last one */
	bool goodbye;		 /* and it said so */
	struct sim_tls *tls; /* owns: its engine, NULL without TLS */
};

struct server {
	struct sim_conn *c; /* borrows */
	struct ask *ask;	/* borrows: the one that is being answered */
	struct server *next;
	uint8_t *got, *ans; /* owns; of a tunnel, ans is what it sends in all */
	size_t ngot, parsed, nans, sent, rx, die_at;
	enum fate die;
	size_t rst_rx; /* it resets after so many bytes received */
	uint64_t at;
	bool counted, tunnel, dead, stall, bye, stale;
	size_t heard; /* bytes of a tunnel that it took and did not echo */
};

static struct {
	struct ask *ask; /* owns */
	unsigned nask, nclient;
	struct client client[64];
	struct server *server; /* owns */
	unsigned dials;
	uint8_t lazy;	  /* odds that a far end lets a moment pass, in 1/256 */
	uint8_t stale;	  /* odds that a kept backend connection is dead at its second request */
	bool tls;		  /* clients come by TLS, half of them */
	uint8_t refuse;	  /* odds that a dial is refused */
	uint8_t hole;	  /* odds that a dial gets no answer */
	uint64_t dial_ms; /* a dial takes this long at most */
	size_t rst_rx;	  /* the first backend connection resets after so many bytes received */
	size_t wnd;		  /* what a socket's kernel buffers hold */
	bool (*known)(const struct wire *); /* instead of tokens: may this reach a backend? */
	bool told;
	const char *story;
	uint64_t story_seed;
} world;

/* Notes the story's first wrong. */
__attribute__((format(printf, 1, 2))) static void wrong(const char *fmt, ...)
{
	va_list ap;

	if (world.told || unit_count.faults++ > 20)
		return;
	world.told = true;
	printf("# %s seed %llu at %llu ms: ", world.story, (unsigned long long)world.story_seed,
		   (unsigned long long)(sim.now - SIM_START));
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
}

/* Byte i of the body that belongs to a token. */
static uint8_t pattern(unsigned token, size_t i)
{
	return (uint8_t)('a' + (token * 7 + i * 13 + (i >> 7)) % 26);
}

static bool matches(unsigned token, const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != pattern(token, i))
			return false;
	return true;
}

static size_t put_cap(size_t n)
{
	size_t cap = 1024;

	while (cap < n)
		cap *= 2;
	return cap;
}

/* Appends bytes to a growing string. */
static void put(uint8_t **p, size_t *n, const void *bytes, size_t more)
{
	if (!*p || put_cap(*n) < *n + more) {
		*p = realloc(*p, put_cap(*n + more));
		if (!*p)
			abort();
	}
	if (more)
		memcpy(*p + *n, bytes, more);
	*n += more;
}

__attribute__((format(printf, 3, 4))) static void putf(uint8_t **p, size_t *n, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	int k = vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	put(p, n, text, (size_t)k);
}

/* Appends a body in its framing; chunks are cut at random places. */
static void put_body(uint8_t **p, size_t *n, unsigned token, enum wire_framing framing, size_t len)
{
	for (size_t i = 0, k; framing != W_NONE && i < len; i += k) {
		uint8_t text[4096];
		k = 1 + sim_rand(len - i < sizeof text ? (uint32_t)(len - i) : (uint32_t)sizeof text);
		for (size_t j = 0; j < k; j++)
			text[j] = pattern(token, i + j);
		if (framing == W_CHUNKED)
			putf(p, n, sim_odds(64) ? "%zx;name=\"v\"\r\n" : "%zx\r\n", k);
		put(p, n, text, k);
		if (framing == W_CHUNKED)
			putf(p, n, "\r\n");
	}
	if (framing == W_CHUNKED)
		putf(p, n, sim_odds(64) ? "0\r\nX-Trailer: t\r\n\r\n" : "0\r\n\r\n");
}

static unsigned token_of(const struct ask *a)
{
	return (unsigned)(a - world.ask);
}

/* ---- TLS of a client: BearSSL's own ---- */

struct sim_tls {
	br_ssl_client_context c;
	br_x509_knownkey_context known;
	br_x509_minimal_context unused;
	unsigned char buffer[BR_SSL_BUFSIZE_BIDI];
};

/* The server's key, the same in every run; its certificate says nothing that anybody reads. */
static struct {
	br_ec_private_key sk;
	br_ec_public_key pk;
	uint8_t d[BR_EC_KBUF_PRIV_MAX_SIZE], q[BR_EC_KBUF_PUB_MAX_SIZE];
} world_key;

static void world_key_make(void)
{
	br_hmac_drbg_context rng;

	if (world_key.sk.xlen)
		return;
	br_hmac_drbg_init(&rng, &br_sha256_vtable, "sim", 3);
	br_ec_keygen(&rng.vtable, br_ec_get_default(), &world_key.sk, world_key.d, BR_EC_secp256r1);
	br_ec_compute_pub(br_ec_get_default(), &world_key.pk, world_key.q, &world_key.sk);
}

static struct crt_set *world_cert(void)
{
	static const char san[] = "\x82\x06"
							  "h.test";
	static unsigned char der[] = {0x30, 0};
	struct crt_set *set = calloc(1, sizeof *set);
	struct crt_pair *p = calloc(1, sizeof *p);

	if (!set || !p || !(set->pair = calloc(1, sizeof *set->pair)))
		abort();
	world_key_make();
	p->ee.san = sl_mk(san, sizeof san - 1);
	p->ee.not_after = INT64_MAX;
	p->chain[0] = (br_x509_certificate){der, sizeof der};
	p->nchain = 1;
	p->key.key.ec = world_key.sk;
	p->key.key_type = BR_KEYTYPE_EC;
	set->pair[0] = p;
	set->npair = 1;
	set->holds = 1;
	return set;
}

static void client_tls(struct client *c)
{
	struct sim_tls *t = c->tls = calloc(1, sizeof *t);
	uint32_t seed = sim_rand(0x7fffffff);

	if (!t)
		abort();
	world_key_make();
	br_ssl_client_init_full(&t->c, &t->unused, NULL, 0);
	br_x509_knownkey_init_ec(&t->known, &world_key.pk, BR_KEYTYPE_KEYX | BR_KEYTYPE_SIGN);
	br_ssl_engine_set_x509(&t->c.eng, &t->known.vtable);
	br_ssl_engine_set_buffer(&t->c.eng, t->buffer, sizeof t->buffer, 1);
	br_ssl_engine_inject_entropy(&t->c.eng, &seed, sizeof seed);
	t->c.eng.rng_os_rand_done = 1; /* the same seed, the same run */
	if (!br_ssl_client_reset(&t->c, "h.test", 0))
		abort();
}

/* Moves ciphertext both ways, at most `most` bytes from the proxy. */
static void client_pump(struct client *c, size_t most)
{
	br_ssl_engine_context *e = &c->tls->c.eng;
	uint8_t *p;
	size_t n;

	for (bool more = true; more;) {
		more = false;
		if ((p = br_ssl_engine_sendrec_buf(e, &n)) && (n = sim_far_send(c->c, p, n))) {
			br_ssl_engine_sendrec_ack(e, n);
			more = true;
		}
		if (most && (p = br_ssl_engine_recvrec_buf(e, &n)) &&
			(n = sim_q_get(&c->c->out, p, n < most ? n : most))) {
			br_ssl_engine_recvrec_ack(e, n);
			most -= n;
			more = true;
		}
	}
}

/* Sends what fits; returns how much. */
static size_t client_send(struct client *c, const uint8_t *bytes, size_t n)
{
	size_t room;
	uint8_t *p;

	if (!c->tls)
		return sim_far_send(c->c, bytes, n);
	client_pump(c, 0);
	if (!(p = br_ssl_engine_sendapp_buf(&c->tls->c.eng, &room)))
		return 0;
	n = n < room ? n : room;
	memcpy(p, bytes, n);
	br_ssl_engine_sendapp_ack(&c->tls->c.eng, n);
	br_ssl_engine_flush(&c->tls->c.eng, 0);
	client_pump(c, 0);
	return n;
}

/* Has all that was sent left the client? */
static bool client_said(const struct client *c)
{
	size_t n;

	return !c->tls || !br_ssl_engine_sendrec_buf(&c->tls->c.eng, &n);
}

/* Takes at most n bytes; sets eof and reset when nothing more will come. */
static size_t client_take(struct client *c, uint8_t *to, size_t n)
{
	size_t have, got = 0;
	uint8_t *p;

	if (!c->tls) {
		got = sim_q_get(&c->c->out, to, n);
	} else {
		br_ssl_engine_context *e = &c->tls->c.eng;
		client_pump(c, n);
		while (got < n && (p = br_ssl_engine_recvapp_buf(e, &have))) {
			have = have < n - got ? have : n - got;
			memcpy(to + got, p, have);
			br_ssl_engine_recvapp_ack(e, have);
			got += have;
			client_pump(c, n);
		}
		if (br_ssl_engine_last_error(e))
			wrong("a client's TLS fails: %d", br_ssl_engine_last_error(e));
		if (br_ssl_engine_recvapp_buf(e, &have))
			return got;
		c->eof = e->shutdown_recv;
	}
	if (!sim_q_len(&c->c->out)) {
		c->eof |= !c->tls && c->c->out_fin;
		c->reset = !c->eof && (c->c->out_rst || c->c->out_fin);
	}
	return got;
}

/* ---- making a story ---- */

#define WORLD_ASKS 1000 /* of a story whose first client has fewer */

/* Adds `n` asks of the plainest kind and the client that sends them. They are changed before
 * client_write(). */
static struct client *client_add(unsigned n)
{
	struct client *c = &world.client[world.nclient++];

	if (!world.ask)
		world.ask = calloc(n < WORLD_ASKS ? WORLD_ASKS : 200000, sizeof *world.ask);
	if (!world.ask)
		abort();
	*c = (struct client){.ask = &world.ask[world.nask], .nask = n, .piece = 1u << sim_rand(16)};
	c->fin_at = c->rst_at = c->stall_at = c->stop_at = c->sip = SIZE_MAX;
	if (world.tls && sim_rand(2))
		client_tls(c);
	c->pace = sim_rand(3) ? 0 : sim_rand(30);
	c->start = SIM_START + sim_rand(100);
	c->give_up = SIM_START + 300000;
	c->pipelined = sim_rand(2);
	for (unsigned i = 0; i < n; i++)
		c->ask[i] =
			(struct ask){.method = "GET", .ans = W_LENGTH, .code = 200, .ans_len = sim_rand(200)};
	world.nask += n;
	return c;
}

/* Makes an ask of any kind that has to be answered well. */
static void ask_any(struct ask *a, uint32_t most)
{
	static const char *const methods[] = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"};
	static const int codes[] = {200, 200, 200, 404, 500, 304, 204, 201};

	a->method = methods[sim_rand(6)];
	if (a->method[0] == 'P')
		a->body = (enum wire_framing)sim_rand(3);
	a->body_len = sim_rand(3) ? sim_rand(300) : sim_rand(most);
	a->ans = (enum wire_framing)(1 + sim_rand(3));
	a->ans_len = sim_rand(3) ? sim_rand(300) : sim_rand(most);
	a->code = codes[sim_rand(8)];
	if (a->code == 204 || a->code == 304)
		a->ans = W_NONE;
	a->interims = sim_rand(8) ? 0 : sim_rand(4);
	a->up_close = sim_rand(4) == 0;
	a->delay = sim_rand(3) ? 0 : sim_rand(200);
	a->old = sim_rand(10) == 0 && a->body != W_CHUNKED;
	a->close = sim_rand(20) == 0;
}

/* Writes the bytes that a client sends. */
static void client_write(struct client *c)
{
	for (unsigned i = 0; i < c->nask; i++) {
		struct ask *a = &c->ask[i];
		putf(&c->bytes, &c->n, "%s /t%u HTTP/1.%d\r\nHost: h.test\r\n", a->method, token_of(a),
			 !a->old);
		if (sim_odds(64))
			putf(&c->bytes, &c->n, "X-Filler: %0*d\r\nAccept: */*\r\n", 1 + (int)sim_rand(300), 0);
		if (a->close)
			putf(&c->bytes, &c->n, "Connection: close\r\n");
		else if (a->old)
			putf(&c->bytes, &c->n, "Connection: keep-alive\r\n");
		if (a->upgrade)
			putf(&c->bytes, &c->n, "Connection: Upgrade\r\nUpgrade: websocket\r\n");
		if (a->body == W_LENGTH)
			putf(&c->bytes, &c->n, "Content-Length: %zu\r\n", a->body_len);
		if (a->body == W_CHUNKED)
			putf(&c->bytes, &c->n, "Transfer-Encoding: chunked\r\n");
		putf(&c->bytes, &c->n, "\r\n");
		put_body(&c->bytes, &c->n, token_of(a), a->body, a->body_len);
		a->end = c->n;
		if (a->upgrade)
			put_body(&c->bytes, &c->n, token_of(a), W_LENGTH, a->body_len);
	}
}

/* ---- the backend ---- */

static void server_answer(struct server *s, struct ask *a)
{
	size_t from;

	if (a->fate == FATE_SILENT)
		return;
	for (unsigned i = 0; i < a->interims; i++)
		putf(&s->ans, &s->nans, "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n");
	from = s->nans;
	if (a->upgrade) {
		putf(&s->ans, &s->nans,
			 "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
			 "Upgrade: websocket\r\nX-Token: %u\r\n\r\n",
			 token_of(a));
		s->tunnel = true;
		if (a->said) {
			put_body(&s->ans, &s->nans, token_of(a), W_LENGTH, a->ans_len);
			s->bye = true;
		}
	} else {
		putf(&s->ans, &s->nans, "HTTP/1.1 %d Fine\r\nX-Token: %u\r\n", a->code, token_of(a));
		if (a->ans == W_LENGTH)
			putf(&s->ans, &s->nans, "Content-Length: %zu\r\n", a->ans_len);
		if (a->ans == W_CHUNKED)
			putf(&s->ans, &s->nans, "Transfer-Encoding: chunked\r\n");
		if (a->up_close)
			putf(&s->ans, &s->nans, "Connection: close\r\n");
		putf(&s->ans, &s->nans, "\r\n");
		if (strcmp(a->method, "HEAD") != 0)
			put_body(&s->ans, &s->nans, token_of(a), a->ans, a->ans_len);
		s->bye = a->up_close || (a->ans == W_CLOSE && strcmp(a->method, "HEAD") != 0);
	}
	if (a->fate != FATE_WELL && a->fate != FATE_FLOOD) {
		bool whole = from + a->fate_at >= s->nans;
		s->die_at = whole ? s->nans : from + a->fate_at;
		/* Who stalls behind his answer is well as far as anybody can tell; the next request on
		 * that connection would pay for it. */
		s->die = whole && a->fate == FATE_STALL ? FATE_WELL : a->fate;
	}
}

/* Looks at what has come: a request is known again, its body compared, its answer begun. */
static void server_parse(struct server *s, struct wire *w)
{
	unsigned token = 0;
	size_t had = s->parsed;
	ptrdiff_t n = wire_read(s->got + had, s->ngot - had, false, false, false, w);

	if (n < 0) {
		wrong("the backend got what is no HTTP: %.60s", (const char *)s->got + had);
		s->dead = true;
		return;
	}
	if (!w->head)
		return;
	if (world.known) {
		if (n > 0 && !world.known(w))
			wrong("the backend got %s %s, which the client never sent", w->method, w->target);
		s->ask = &world.ask[0];
	} else if (sscanf(w->target, "/t%u", &token) != 1 || token >= world.nask) {
		wrong("the backend got a target that nobody sent: %s", w->target);
		s->dead = true;
		return;
	} else {
		s->ask = &world.ask[token];
		if (strcmp(s->ask->method, w->method) != 0 || strcmp(w->host, "h.test") != 0)
			wrong("token %u came as %s for %s", token, w->method, w->host);
		if (!matches(token, w->body, w->nbody) ||
			(n > 0 && w->nbody != (s->ask->body ? s->ask->body_len : 0)))
			wrong("token %u: its body came changed, %zu of %zu bytes", token, w->nbody,
				  s->ask->body_len);
	}
	if (!s->counted) {
		s->counted = true;
		s->at = sim.now + s->ask->delay;
		if (++s->ask->heads > 1 && !world.known && strcmp(s->ask->method, "POST") == 0)
			wrong("POST with token %u reached a backend %u times", token, s->ask->heads);
	}
	if (n == 0 && !s->ask->early)
		return;
	if (n > 0) {
		s->parsed += (size_t)n;
		s->ask->dones++;
	}
	if (sim.now >= s->at || n == 0)
		server_answer(s, s->ask);
	else
		s->stall = true; /* until its delay is over */
	s->counted = n == 0;
}

static uint64_t server_run(struct server *s)
{
	struct sim_conn *c = s->c;
	static struct wire w;
	uint8_t chunk[16384];
	size_t n;

	if (s->dead || c->far_closed || c->connecting || c->refused)
		return SIM_NEVER;
	if (c->out_rst)
		goto dead;
	if (s->stall && s->ask && sim.now >= s->at) {
		s->stall = false;
		server_answer(s, s->ask);
	}
	if (sim_odds(world.lazy))
		return sim.now + 1 + sim_rand(20);
	n = sim_q_get(&c->out, chunk, sim_odds(128) ? 1 + sim_rand(sizeof chunk) : sizeof chunk);
	if (n && s->parsed && !s->tunnel && s->rx == s->parsed && sim_odds(world.stale)) {
		sim_far_reset(c); /* it had given the connection up in the same moment */
		goto dead;
	}
	if (s->rx + n >= s->rst_rx) {
		sim_far_reset(c);
		goto dead;
	}
	s->rx += n;
	if (s->tunnel && !s->bye)
		put(&s->ans, &s->nans, chunk, n);
	else if (s->tunnel)
		s->heard += n;
	else
		put(&s->got, &s->ngot, chunk, n);
	if (!s->tunnel && !s->stall && s->parsed < s->ngot && s->sent == s->nans && !s->bye &&
		s->die == FATE_WELL)
		server_parse(s, &w);
	size_t upto = s->die == FATE_WELL ? s->nans : s->die_at;
	if (s->sent < upto) {
		n = upto - s->sent;
		if (sim_odds(128))
			n = 1 + sim_rand((uint32_t)n);
		s->sent += sim_far_send(c, s->ans + s->sent, n);
	}
	if (s->dead || (s->sent >= upto && (s->die == FATE_RESET || s->die == FATE_CLOSE))) {
		if (s->die == FATE_RESET)
			sim_far_reset(c);
		else
			sim_far_close(c);
		goto dead;
	}
	if (s->sent == s->nans && !s->stall && (s->bye || (c->out_fin && !sim_q_len(&c->out)))) {
		if (s->tunnel || !c->out_fin || s->bye || s->parsed == s->ngot)
			sim_far_close(c);
		goto dead;
	}
	if (s->stall)
		return s->at > sim.now ? s->at : sim.now + 1;
	return sim_q_len(&c->out) || (s->sent < upto && sim_q_len(&c->in) < c->in_room) ? sim.now + 1
																					: SIM_NEVER;
dead:
	s->dead = true;
	if (!c->far_closed)
		sim_far_close(c);
	return SIM_NEVER;
}

/* The proxy dials. */
static void world_dialled(struct sim_conn *c)
{
	struct server *s = calloc(1, sizeof *s);

	if (!s)
		abort();
	s->c = c;
	s->rst_rx = world.dials++ == 0 ? world.rst_rx : SIZE_MAX;
	s->next = world.server;
	world.server = s;
	c->far = s;
	c->in_room = c->out_room = world.wnd;
	c->connect_at = sim.now + (world.dial_ms ? sim_rand((uint32_t)world.dial_ms) : 0);
	if (sim_odds(world.refuse))
		c->connect_err = sim_odds(200) ? ECONNREFUSED : EHOSTUNREACH;
	if (sim_odds(world.hole))
		c->connect_at = sim.now + 100000000;
}

/* ---- the client ---- */

/* Compares an answer with what the ask should bring. n: its length, 0 when it broke off. */
static void client_judge(struct client *c, struct ask *a, const struct wire *w, ptrdiff_t n)
{
	unsigned token = token_of(a);
	bool ours = !w->token[0],
		 bodiless = !strcmp(a->method, "HEAD") || a->ans == W_NONE || a->upgrade;
	size_t len = bodiless ? 0 : a->ans_len;

	a->got = w->code;
	a->cut = n == 0;
	if (ours) {
		unsigned bit = w->code == 400	? MAY_400
					   : w->code == 408 ? MAY_408
					   : w->code == 413 ? MAY_413
					   : w->code == 502 ? MAY_502
					   : w->code == 503 ? MAY_503
					   : w->code == 504 ? MAY_504
										: 0;
		if (!(a->may & bit))
			wrong("token %u (%s) got our %d", token, a->method, w->code);
	} else if ((unsigned)atoi(w->token) != token || w->code != (a->upgrade ? 101 : a->code)) {
		wrong("token %u got the answer %d of token %s", token, w->code, w->token);
	} else if (!matches(token, w->body, w->nbody) || w->nbody > len) {
		wrong("token %u: the answer's body came changed", token);
	} else if (n && w->nbody != len && !(a->ans == W_CLOSE && a->fate == FATE_CLOSE)) {
		wrong("token %u: a short answer looks whole: %zu of %zu bytes", token, w->nbody, len);
	}
	if (a->cut && !(a->may & MAY_CUT))
		wrong("token %u: its answer broke off after %zu of %zu bytes", token, w->nbody, len);
	c->last = w->close || a->cut || w->framing == W_CLOSE;
	c->goodbye = w->close || w->framing == W_CLOSE || (a->cut && c->eof);
}

/* Takes whole answers off what has come; at the end what is not whole as well. */
static void client_parse(struct client *c)
{
	static struct wire w;

	/* With `known` nobody says what is right, but what reaches a backend must have been asked for. */
	while (c->done < c->nask && !c->tunnel && !world.known) {
		struct ask *a = &c->ask[c->done];
		bool over = c->eof || c->reset;
		ptrdiff_t n = wire_read(c->got + c->parsed, c->ngot - c->parsed, true,
								!strcmp(a->method, "HEAD"), c->eof, &w);
		if (n < 0) {
			wrong("token %u: the client got what is no HTTP: %.80s", token_of(a),
				  (const char *)c->got + c->parsed);
			c->last = true;
			return;
		}
		if (n == 0 && !(over && w.head))
			return;
		c->parsed += (size_t)n;
		if (w.head && w.code < 200 && w.code != 101 && n)
			continue;
		if (c->last)
			wrong("token %u: an answer behind the last one", token_of(a));
		client_judge(c, a, &w, n);
		c->done++;
		c->tunnel = w.code == 101;
		if (c->tunnel)
			c->fin_at = c->n;
		if (n == 0)
			return;
	}
}

/* What comes out of a tunnel is what went in. */
static void client_tunnel(struct client *c)
{
	const struct ask *a = &c->ask[c->done - 1];
	size_t n = c->ngot - c->parsed, len = a->said ? a->ans_len : a->body_len;

	if (n > len || !matches(token_of(a), c->got + c->parsed, n))
		wrong("token %u: the tunnel's bytes came changed", token_of(a));
	else if ((c->eof || a->said) && n != len && !(a->may & MAY_CUT))
		wrong("token %u: the tunnel ended after %zu of %zu bytes", token_of(a), n, len);
}

static void client_leave(struct client *c)
{
	if (c->c && !c->c->far_closed && !c->reset)
		sim_far_close(c->c);
	c->gone = true;
	if (c->tunnel)
		client_tunnel(c);
	/* Behind the answer that was the last, the others are never looked at. */
	for (unsigned i = c->done; i < c->nask && !world.known; i++) {
		struct ask *a = &c->ask[i];
		if (c->goodbye && a->heads)
			wrong("token %u reached a backend behind the last answer", token_of(a));
		if (!c->last && i == c->done && !(a->may & MAY_NONE) && !a->got && c->sent)
			wrong("token %u (%s) got no answer%s%s", token_of(a), a->method,
				  c->eof ? ", but an end" : "", c->reset ? ", but a reset" : "");
		if (!c->last && a->may & MAY_NONE)
			c->last = true;
	}
}

/* How far the client may send now. */
static size_t client_limit(const struct client *c)
{
	size_t n = c->n;

	if (c->done < c->nask && (!c->pipelined || c->ask[c->done].upgrade))
		n = c->ask[c->done].end;
	else if (c->nask && c->ask[c->nask - 1].upgrade && !c->tunnel)
		n = c->ask[c->nask - 1].end;
	if (n > c->fin_at)
		n = c->fin_at;
	if (n > c->rst_at)
		n = c->rst_at;
	return n < c->stall_at ? n : c->stall_at;
}

static uint64_t client_run(struct client *c)
{
	uint8_t chunk[16384];

	if (c->gone || sim.now < c->start)
		return c->gone ? SIM_NEVER : c->start;
	if (!c->c) {
		c->c = sim_conn_new(c->tls ? 8443 : 8080, c);
		c->c->in_room = c->c->out_room = world.wnd;
		bool listening = false;
		for (unsigned i = 0; i < SIM_FDS; i++)
			listening |= sim.fd[i].kind == SIM_LISTENER && sim.fd[i].port == c->c->port;
		if (!listening) {
			c->c->near_closed = true;
			client_leave(c);
			return SIM_NEVER;
		}
		sim.backlog[sim.nbacklog++] = c->c;
	}
	if (sim.now >= c->give_up) {
		wrong("a client waits for ever: %u of %u answers, %zu of %zu bytes sent", c->done, c->nask,
			  c->sent, c->n);
		client_leave(c);
	}
	if (sim_odds(world.lazy))
		return sim.now + 1 + sim_rand(20);
	if (c->c->near_closed) /* who did not read was let go: it may see that now */
		c->stop_at = SIZE_MAX;
	size_t most = sim_odds(128) ? 1 + sim_rand(sizeof chunk) : sizeof chunk, n = 0;
	if (c->ngot < c->stop_at && sim.now >= c->sip_at) {
		n = client_take(c, chunk, most < c->sip ? most : c->sip);
		c->sip_at = sim.now + (c->sip_pace ? sim_rand((uint32_t)c->sip_pace) : 0);
	} else if (c->tls) {
		client_pump(c, 0);
	}
	put(&c->got, &c->ngot, chunk, n);
	if (n || c->eof || c->reset)
		client_parse(c);
	bool all = c->done == c->nask && !c->tunnel && !world.known;
	if (c->eof || c->reset || all) {
		client_leave(c);
		return SIM_NEVER;
	}
	size_t limit = client_limit(c);
	if (c->sent < limit && sim.now >= c->at) {
		for (unsigned k = 0; k <= c->pieces && c->sent < limit; k++) {
			n = limit - c->sent < c->piece ? limit - c->sent : c->piece;
			c->sent += client_send(c, c->bytes + c->sent, n);
		}
		c->at = sim.now + (c->pace ? sim_rand((uint32_t)c->pace) : 0);
	}
	if (c->sent >= c->rst_at) {
		sim_far_reset(c->c);
		c->last = true;
		c->gone = true;
		return SIM_NEVER;
	}
	if (c->sent >= c->fin_at && !c->c->in_fin && client_said(c)) {
		c->c->in_fin = true;
		sim.moved++;
	}
	if (c->sent < limit && sim_q_len(&c->c->in) < c->c->in_room)
		return c->at > sim.now ? c->at : sim.now + 1;
	if (c->ngot >= c->stop_at || (!sim_q_len(&c->c->out) && !c->tls))
		return c->give_up;
	return c->sip_at > sim.now ? c->sip_at : sim_q_len(&c->c->out) ? sim.now + 1 : c->give_up;
}

/* ---- the runner ---- */

static uint64_t world_run(void)
{
	uint64_t next = SIM_NEVER, at;
	unsigned from = world.nclient ? sim_rand(world.nclient) : 0;

	for (unsigned i = 0; i < world.nclient; i++)
		if ((at = client_run(&world.client[(i + from) % world.nclient])) < next)
			next = at;
	for (struct server *s = world.server; s; s = s->next)
		if ((at = server_run(s)) < next)
			next = at;
	return next;
}

enum {
	WORLD_LOG = 4,
	WORLD_HEAD_TIMEOUT = 10,
	WORLD_STATUS = 26,
	WORLD_ROUTE = 28
}; /* where a value stands */

static char *world_argv[64] = {"rproxy",
							   "--http",
							   "127.0.0.1:8080",
							   "--log",
							   "none",
							   "--max-conns",
							   "16",
							   "--max-conns-per-ip",
							   "0",
							   "--head-timeout",
							   "60s",
							   "--idle-timeout",
							   "5s",
							   "--connect-timeout",
							   "1s",
							   "--response-timeout",
							   "3s",
							   "--stall-timeout",
							   "2s",
							   "--tunnel-timeout",
							   "20s",
							   "--drain-timeout",
							   "10s",
							   "--https",
							   "127.0.0.1:8443",
							   "--status",
							   "127.0.0.1:8081",
							   "--route",
							   "h.test=http://127.0.0.1:9001"};
static int world_argc = 29;

static void world_begin(const char *story, uint64_t seed)
{
	memset(&sim, 0, sizeof sim);
	memset(&world, 0, sizeof world);
	sim.seed = seed * 2654435761u + 12345;
	for (const char *p = story; *p; p++)
		sim.seed = sim.seed * 31 + (uint8_t)*p;
	sim.now = SIM_START;
	sim.wall = 1800000000;
	sim.fd_max = SIM_FDS;
	sim.alloc_left = -1;
	sim.world = world_run;
	sim.dialled = world_dialled;
	world.story = story;
	world.story_seed = seed;
	world.rst_rx = SIZE_MAX;
	world.wnd = 65536;
	world_argv[WORLD_LOG] = getenv("LOG") ? "stderr" : "none";
	world_argv[WORLD_HEAD_TIMEOUT] = "60s";
	world_argv[WORLD_STATUS] = "127.0.0.1:8081";
	world_argv[WORLD_ROUTE] = "h.test=http://127.0.0.1:9001";
}

/* How bad the machine is in this story: often not at all, sometimes very. */
static void world_weather(void)
{
	uint8_t bad = (uint8_t)(sim_rand(3) == 0 ? 0 : sim_rand(120));

	sim.f = (struct sim_faults){.cut_read = bad,
								.cut_write = bad,
								.again = bad / 4,
								.hold = bad / 2,
								.ghost = bad / 8,
								.early = bad / 4,
								.late_clock = bad,
								.wall_jump = bad / 16};
	world.lazy = sim_rand(2) ? (uint8_t)sim_rand(100) : 0;
	world.wnd = sim_rand(2) ? 65536 : 1 + sim_rand(3000);
	world.dial_ms = sim_rand(2) ? 0 : 1 + sim_rand(300);
}

static bool world_over(void)
{
	for (unsigned i = 0; i < world.nclient; i++)
		if (!world.client[i].gone)
			return false;
	return true;
}

static struct rp *world_open(void)
{
	int status = 0;
	uint8_t no_socket = sim.f.no_socket;
	sim.f.no_socket = 0;
	struct rp *rp = rp_open(world_argc, world_argv, &status);

	sim.f.no_socket = no_socket;

	if (!rp && sim.alloc_left < 0)
		wrong("rp_open() gives %d", status);
	if (rp && world.tls) {
		crt_drop(rp->certs);
		rp->certs = world_cert();
	}
	return rp;
}

/* Ends the proxy and looks at what must hold at the end of every story. */
static void world_close(struct rp *rp)
{
	uint64_t turns = 0;

	if (rp) {
		rp_drain(rp);
		while (rp_step(rp) && ++turns < 1000000 && !sim.stuck)
			;
		unsigned left = 0;
		for (uint32_t i = 0; i < rp->nlive; i++) /* closed ones are reaped in the next turn */
			left += rp->live[i]->phase != CP_FREE;
		if (rp->nclient || left || rp->nfree_tx != rp->ntx)
			wrong("after the drain %u clients, %u connections are left", rp->nclient, left);
	}
	rp_close(rp);
	if (sim.pages)
		wrong("%ld blocks of memory were not given back", sim.pages);
	if (sim.nfd)
		wrong("%u descriptors are left open", sim.nfd);
	if (sim.wrong)
		wrong("%s", sim.wrong);
	if (sim.stuck)
		wrong("stuck: poll without an end, and nothing will happen");
	sim_end();
	while (world.server) {
		struct server *s = world.server;
		world.server = s->next;
		free(s->got);
		free(s->ans);
		free(s);
	}
	for (unsigned i = 0; i < world.nclient; i++) {
		free(world.client[i].tls);
		free(world.client[i].bytes);
		free(world.client[i].got);
	}
	free(world.ask);
	world.ask = NULL;
}

/* Runs the proxy until every client is gone. turn, if not NULL, is called before each turn. */
static void world_play(void (*turn)(struct rp *))
{
	struct rp *rp = world_open();
	uint64_t turns = 0, still = 0, moved = 0;

	while (rp && !world_over()) {
		if (turn)
			turn(rp);
		if (!rp_step(rp))
			break;
		still = sim.moved == moved ? still + 1 : 0;
		moved = sim.moved;
		if (still > 3000 || ++turns > 3000000) {
			wrong("%s after %llu turns", still > 3000 ? "turns without progress or time" : "no end",
				  (unsigned long long)turns);
			break;
		}
	}
	world_close(rp);
}

/* How many seeds: SEEDS, or as many as said; FIRST is the first one. */
static uint64_t world_seeds(uint64_t usual)
{
	const char *text = getenv("SEEDS");

	return text ? strtoull(text, NULL, 10) : usual;
}

static uint64_t world_first(void)
{
	const char *text = getenv("FIRST");

	return text ? strtoull(text, NULL, 10) : 1;
}

/* Tells one story for many seeds. */
#define STORY(name, seeds) story_run(#name, name, seeds)
static void (*story_now)(void);
static uint64_t story_count;
static const char *story_name;

static void story_all(void)
{
	uint64_t first = world_first(), n = world_seeds(story_count);

	for (uint64_t seed = first; seed < first + n && unit_count.faults < 20; seed++) {
		world_begin(story_name, seed);
		story_now();
	}
}

static void story_run(const char *name, void (*tell)(void), uint64_t seeds)
{
	const char *only = getenv("STORY");

	if (only && strcmp(only, name) != 0)
		return;
	story_name = name;
	story_now = tell;
	story_count = seeds;
	unit_run(story_all, name);
}
