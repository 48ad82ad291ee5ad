/* unit_tls.c: room TLS: a server's and a client's engine over a socket pair, and the openssl
 * command as the other side.
 *
 * SPDX-License-Identifier: MIT
 */
#include "unit.h"

#define RP_NO_MAIN 1
#include "../rproxy.c"

#include "unit_certs.h"

static struct tls_room *room;
static struct crt_set *set; /* a.test EC and RSA, b.test EC, *.w.test P-384 */
static struct buf_pool pool;

/* One end of a connection. */
struct end {
	struct tls *x;
	int fd;
	struct buf in, out;
	enum io io;
	unsigned moved; /* all bits that were ever set */
	unsigned keys;	/* private-key operations */
};

static void end_open(struct end *e, int fd, struct tls *x)
{
	*e = (struct end){.x = x, .fd = fd};
	HOLDS(x && buf_take(&pool, &e->in) && buf_take(&pool, &e->out));
}

static void end_close(struct end *e)
{
	tls_close(e->x);
	buf_give(&pool, &e->in);
	buf_give(&pool, &e->out);
	sys_close(e->fd);
	*e = (struct end){.fd = -1};
}

static void end_pump(struct end *e)
{
	unsigned moved;

	e->io = tls_pump(e->x, e->fd, &e->in, &e->out, true, &moved);
	e->moved |= moved;
	e->keys += (moved & TLS_PK) != 0;
	HOLDS(!(moved & TLS_DEFERRED));
}

/* Pumps both until they rest. */
static void settle(struct end *a, struct end *b)
{
	for (int i = 0; i < 40; i++) {
		end_pump(a);
		end_pump(b);
	}
}

static void pair_of_sockets(int fd[2], int size)
{
	HOLDS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd) == 0);
	for (int i = 0; size && i < 2; i++) {
		(void)setsockopt(fd[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
		(void)setsockopt(fd[i], SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
	}
}

static struct tls *accept_as(const char *sni)
{
	const struct crt_pair *pair = crt_pick(set, sl_of(sni[0] ? sni : "a.test"));

	return pair ? tls_accept(room, set, pair, sl_of(sni)) : NULL;
}

static struct crt_anchors *anchors;
static bool judge = true;
static int64_t today;

static struct tls *dial_as(const char *host, enum rt_verify verify, const uint8_t *pin)
{
	struct route r = {.verify = verify, .anchors = anchors};
	char name[256];
	struct target tg = {.kind = TG_HTTPS, .host = name};

	(void)snprintf(name, sizeof name, "%s", host);
	tg.literal = addr_parse_ip(sl_of(host), tg.addr.ip);
	if (pin)
		memcpy(r.pin, pin, 32);
	return tls_dial(room, &r, &tg, judge, today);
}

/* A handshake that should work or not. */
static void meet(struct end *s, struct end *c, const char *sni, struct tls *client)
{
	int fd[2];

	pair_of_sockets(fd, 0);
	end_open(s, fd[0], accept_as(sni));
	end_open(c, fd[1], client);
	settle(s, c);
}

static void part(struct end *s, struct end *c)
{
	end_close(s);
	end_close(c);
	HOLDS(room->io.nfree == room->io.n);
	HOLDS(set->holds == 1);
}

static bool pass(struct end *from, struct end *to, const char *text)
{
	(void)buf_add(&from->out, sl_of(text));
	end_pump(from);
	end_pump(to);
	bool same = sl_is(buf_peek(&to->in), text);
	buf_skip(&to->in, buf_len(&to->in));
	return same;
}

static void a_full_handshake_and_words_both_ways(void)
{
	struct end s, c;

	meet(&s, &c, "a.test", dial_as("a.test", RT_VERIFY_CA, NULL));
	HOLDS(tls_is_open(s.x) && tls_is_open(c.x) && s.io == IO_OK && c.io == IO_OK);
	HOLDS_FOR(tls_error(c.x), tls_error(c.x)[0] == 0);
	HOLDS(s.keys == 2 && c.keys == 1);
	HOLDS(strcmp(tls_version_name(s.x), "TLSv1.2") == 0);
	HOLDS_FOR(tls_cipher_name(s.x), strstr(tls_cipher_name(s.x), "ECDHE-ECDSA-"));
	HOLDS(strcmp(tls_cipher_name(s.x), tls_cipher_name(c.x)) == 0);
	HOLDS(tls_pair(s.x) == set->pair[0] && tls_set(s.x) == set && !c.x->anchors);
	HOLDS(!tls_lent(s.x) && !tls_lent(c.x));
	HOLDS(pass(&c, &s, "hello") && pass(&s, &c, "world"));
	HOLDS(!tls_lent(s.x) && !tls_lent(c.x));
	tls_bye(c.x);
	HOLDS(tls_unsent(c.x));
	settle(&s, &c);
	HOLDS(s.io == IO_EOF && tls_clean_eof(s.x) && c.io == IO_OK);
	tls_bye(s.x);
	settle(&s, &c);
	HOLDS(s.io == IO_EOF && c.io == IO_EOF && tls_clean_eof(c.x));
	HOLDS(!tls_lent(s.x) && !tls_lent(c.x));
	part(&s, &c);
}

/* The end of one direction is not the end of the other: all that is asked for still goes out. */
static void what_is_due_after_close_notify_is_sent(void)
{
	struct end s, c;
	uint64_t sent = 0, got = 0;

	meet(&s, &c, "a.test", dial_as("a.test", RT_VERIFY_CA, NULL));
	(void)buf_add(&c.out, sl_of("please"));
	end_pump(&c);
	tls_bye(c.x);
	end_pump(&c);
	settle(&s, &c);
	HOLDS(sl_is(buf_peek(&s.in), "please") && s.io == IO_EOF && tls_clean_eof(s.x));
	HOLDS(!tls_lent(s.x) && tls_wants(s.x, true, false) == 0);
	HOLDS(tls_wants(s.x, true, true) == POLLOUT);
	for (int i = 0; i < 40; i++) {
		while (buf_room(&s.out, s.out.cap))
			buf_fill(&s.out, 1);
		uint32_t before = buf_len(&s.out);
		end_pump(&s);
		sent += before - buf_len(&s.out);
	}
	HOLDS(sent > 100000 && s.io == IO_EOF);
	part(&s, &c);
	/* And it arrives, at a client that does listen. */
	meet(&s, &c, "a.test", dial_as("a.test", RT_VERIFY_CA, NULL));
	s.x->eng->shutdown_recv = 1;
	HOLDS(pass(&s, &c, "the answer"));
	tls_bye(s.x);
	settle(&s, &c);
	HOLDS(c.io == IO_EOF && tls_clean_eof(c.x) && got == 0);
	part(&s, &c);
}

/* A warning is no goodbye; a fatal alert is an error. */
static void other_alerts_are_the_engines(void)
{
	struct end s, c;
	static const uint8_t words[][2] = {{1, 90}, {2, 0}, {2, 80}};

	for (size_t i = 0; i < RP_LEN(words); i++) {
		meet(&s, &c, "a.test", dial_as("a.test", RT_VERIFY_CA, NULL));
		uint8_t record[64] = {21, 3, 3, 0, 0};
		size_t n = 2;
		uint8_t *p = record + 5 + 8; /* room for a header and an explicit nonce */
		memcpy(p, words[i], 2);
		p = c.x->eng->out.vtable->encrypt(&c.x->eng->out.vtable, 21, BR_TLS12, p, &n);
		HOLDS(write(c.fd, p, n) == (ssize_t)n);
		settle(&s, &c);
		HOLDS(s.io == (i == 0 ? IO_OK : IO_ERR));
		HOLDS(i != 0 || pass(&c, &s, "on it goes"));
		part(&s, &c);
	}
}

/* What is not there is not waited for, and no engine holds memory then. */
static void an_idle_connection_holds_no_record_buffer(void)
{
	struct end s, c;
	unsigned moved;
	int fd[2];
	uint8_t record[600];

	meet(&s, &c, "b.test", dial_as("b.test", RT_VERIFY_CA, NULL));
	uint32_t all = room->io.n;
	HOLDS(room->io.nfree == all);
	for (int round = 0; round < 50; round++) {
		HOLDS(pass(&c, &s, "ping") && pass(&s, &c, "pong"));
		HOLDS(room->io.nfree == all);
	}
	HOLDS(tls_wants(s.x, true, false) == POLLIN && tls_wants(s.x, false, false) == 0);
	HOLDS(tls_wants(s.x, true, true) == (POLLIN | POLLOUT));
	/* A record that comes in pieces holds the buffer from its first byte to its last. */
	(void)buf_add(&c.out, sl_of("0123456789"));
	pair_of_sockets(fd, 0);
	HOLDS(tls_pump(c.x, fd[0], NULL, &c.out, true, &moved) == IO_OK && moved == TLS_TX);
	ssize_t n = sys_read(fd[1], record, sizeof record);
	for (ssize_t i = 0; i < n; i++) {
		HOLDS(sys_write(c.fd, record + i, 1) == 1);
		end_pump(&s);
		HOLDS(tls_lent(s.x) == (i + 1 < n));
		HOLDS(buf_len(&s.in) == (i + 1 < n ? 0 : 10));
	}
	/* No room for the plaintext: nothing is read. */
	buf_skip(&s.in, 10);
	(void)buf_add(&c.out, sl_of("x"));
	end_pump(&c);
	HOLDS(tls_pump(s.x, s.fd, NULL, NULL, true, &moved) == IO_OK && moved == 0 && !tls_lent(s.x));
	struct buf tiny = {buf_claim(&pool), 0, 0, 1};
	(void)buf_add(&c.out, sl_of("yz"));
	end_pump(&c);
	HOLDS(tls_pump(s.x, s.fd, &tiny, NULL, true, &moved) == IO_OK && moved == TLS_RX);
	HOLDS(tiny.p[0] == 'x' && tls_pending(s.x) && tls_lent(s.x));
	buf_skip(&tiny, 1);
	HOLDS(tls_pump(s.x, s.fd, &tiny, NULL, true, &moved) == IO_OK && tiny.p[0] == 'y');
	HOLDS(tls_pending(s.x) && tls_wants(s.x, true, false) == 0);
	buf_skip(&tiny, 1);
	HOLDS(tls_pump(s.x, s.fd, &tiny, NULL, true, &moved) == IO_OK && tiny.p[0] == 'z');
	HOLDS(!tls_pending(s.x) && !tls_lent(s.x));
	buf_waive(&pool, tiny.p);
	sys_close(fd[0]);
	sys_close(fd[1]);
	part(&s, &c);
}

/* A megabyte each way at the same time; every byte is checked. */
static void bulk(int size)
{
	struct end s, c;
	uint64_t sent[2] = {0, 0}, got[2] = {0, 0};
	struct end *e[2] = {&s, &c};
	const uint64_t all = 1000003;
	int fd[2], turns = 0;

	pair_of_sockets(fd, size);
	end_open(&s, fd[0], accept_as("a.test"));
	end_open(&c, fd[1], dial_as("a.test", RT_VERIFY_CA, NULL));
	for (; turns < 100000 && (got[0] < all || got[1] < all); turns++)
		for (int i = 0; i < 2; i++) {
			uint32_t room_ = buf_room(&e[i]->out, e[i]->out.cap);
			for (; room_ && sent[i] < all; room_--, sent[i]++) {
				*buf_free(&e[i]->out) = (uint8_t)(sent[i] * 7 + sent[i] / 251);
				buf_fill(&e[i]->out, 1);
			}
			end_pump(e[i]);
			HOLDS(e[i]->io == IO_OK);
			struct sl d = buf_peek(&e[i]->in);
			for (size_t k = 0; k < d.n; k++, got[i]++)
				if ((uint8_t)d.p[k] != (uint8_t)(got[i] * 7 + got[i] / 251)) {
					HOLDS(false);
					got[0] = got[1] = all;
				}
			buf_skip(&e[i]->in, d.n);
		}
	HOLDS(got[0] == all && got[1] == all);
	HOLDS(!tls_lent(s.x) && !tls_lent(c.x) && !tls_unsent(s.x));
	part(&s, &c);
}

static void a_megabyte_both_ways(void)
{
	bulk(0);
	bulk(4608);
	bulk(1);
}

static void records_are_small_at_first_and_after_silence(void)
{
	struct end s, c;
	uint8_t head[5];
	size_t first = 0, last = 0, small = 0;

	meet(&s, &c, "a.test", dial_as("a.test", RT_VERIFY_CA, NULL));
	for (int i = 0; i < 40; i++) {
		while (buf_room(&s.out, s.out.cap))
			buf_fill(&s.out, 1);
		end_pump(&s);
		while (recv(c.fd, head, 5, MSG_PEEK) == 5) {
			size_t len = (size_t)head[3] << 8 | head[4];
			uint8_t body[20000];
			HOLDS(sys_read(c.fd, body, 5 + len) == (ssize_t)(5 + len));
			if (!first)
				first = len;
			small += len < 5000 ? len : 0;
			last = len;
			end_pump(&s);
		}
	}
	HOLDS(first > 4096 && first < 4096 + 40);
	HOLDS(small >= 65536 && small < 65536 + 10000 + 40 * 5000);
	HOLDS(last > 16000);
	s.x->last_ms -= 2000;
	while (buf_room(&s.out, s.out.cap))
		buf_fill(&s.out, 1);
	end_pump(&s);
	HOLDS(recv(c.fd, head, 5, MSG_PEEK) == 5 && ((size_t)head[3] << 8 | head[4]) < 5000);
	part(&s, &c);
}

static const char *fails(const char *sni, const char *host, enum rt_verify verify,
						 const uint8_t *pin)
{
	static char text[256];
	struct end s, c;

	meet(&s, &c, sni, dial_as(host, verify, pin));
	text[0] = 0;
	if (!tls_is_open(c.x) || !tls_is_open(s.x)) {
		HOLDS(c.io == IO_ERR);
		(void)snprintf(text, sizeof text, "%s", tls_error(c.x));
		HOLDS(text[0]);
	} else {
		HOLDS(pass(&s, &c, "fine"));
	}
	part(&s, &c);
	return text;
}

/* RFC 6125; RFC 7469 2.4 for the pin. */
static void a_server_is_judged_by_authority_name_or_pin(void)
{
	struct crt_anchors *right = anchors;
	uint8_t pin[32], wrong[32] = {1};
	br_sha256_context sha;

	HOLDS(!*fails("a.test", "a.test", RT_VERIFY_CA, NULL));
	HOLDS(!*fails("x.w.test", "x.w.test", RT_VERIFY_CA, NULL)); /* P-384, wildcard */
	HOLDS(!*fails("", "127.0.0.1", RT_VERIFY_CA, NULL));
	HOLDS(strstr(fails("", "127.0.0.2", RT_VERIFY_CA, NULL), "another name"));
	HOLDS(strstr(fails("a.test", "b.test", RT_VERIFY_CA, NULL), "another name"));
	HOLDS(strstr(fails("x.w.test", "x.y.w.test", RT_VERIFY_CA, NULL), "another name"));
	HOLDS(!*fails("a.test", "b.test", RT_VERIFY_OFF, NULL));
	br_sha256_init(&sha);
	br_sha256_update(&sha, set->pair[0]->ee.spki.p, set->pair[0]->ee.spki.n);
	br_sha256_out(&sha, pin);
	HOLDS(!*fails("a.test", "b.test", RT_VERIFY_PIN, pin));
	HOLDS(strstr(fails("a.test", "a.test", RT_VERIFY_PIN, wrong), "pinned"));
	anchors = crt_anchors_load(at("other.crt"));
	HOLDS(strstr(fails("a.test", "a.test", RT_VERIFY_CA, NULL), "not signed by a trusted"));
	HOLDS(!*fails("a.test", "a.test", RT_VERIFY_OFF, NULL));
	crt_anchors_free(anchors);
	anchors = crt_anchors_load(at("self.crt")); /* a certificate that is trusted by itself */
	struct crt_set *mine = set;
	set = load(at("self.pem"), NULL, NULL);
	HOLDS(!*fails("self.test", "self.test", RT_VERIFY_CA, NULL));
	crt_drop(set);
	set = mine;
	crt_anchors_free(anchors);
	anchors = right;
	HOLDS(anchors->holds == 1);
}

static void dates_are_judged_when_the_clock_is_right(void)
{
	HOLDS(!*fails("a.test", "a.test", RT_VERIFY_CA, NULL));
	today += 400 * 86400;
	HOLDS(strstr(fails("a.test", "a.test", RT_VERIFY_CA, NULL), "expired"));
	today = 1000;
	HOLDS(strstr(fails("a.test", "a.test", RT_VERIFY_CA, NULL), "expired"));
	judge = false;
	HOLDS(!*fails("a.test", "a.test", RT_VERIFY_CA, NULL));
	HOLDS(strstr(fails("a.test", "b.test", RT_VERIFY_CA, NULL), "another name"));
	judge = true;
	today = sys_wall();
}

/* The public client of BearSSL resumes when its context is reset with a session. */
static bool resumes(const char *sni, br_ssl_session_parameters *session, bool *failed)
{
	struct end s, c;
	struct tls *x = dial_as(sni, RT_VERIFY_OFF, NULL);

	if (session->session_id_len) {
		br_ssl_engine_set_session_parameters(x->eng, session);
		HOLDS(br_ssl_client_reset(&x->u.c, sni, 1));
	}
	meet(&s, &c, sni, x);
	*failed = !tls_is_open(s.x) || !tls_is_open(c.x) || !pass(&c, &s, "hi") || !pass(&s, &c, "ho");
	bool resumed = s.x->resumed;
	HOLDS(resumed == (s.keys == 0));
	br_ssl_engine_get_session_parameters(x->eng, session);
	part(&s, &c);
	return resumed;
}

static void sessions_are_resumed_under_their_name_alone(void)
{
	br_ssl_session_parameters a = {.session_id_len = 0}, copy;
	bool failed;

	HOLDS(!resumes("a.test", &a, &failed) && !failed);
	for (int i = 0; i < 3; i++)
		HOLDS(resumes("a.test", &a, &failed) && !failed);
	copy = a;
	HOLDS(!resumes("b.test", &copy, &failed) && !failed);
	copy = a;
	HOLDS(!resumes("a2.test", &copy, &failed) && !failed); /* the same certificate */
	HOLDS(resumes("a.test", &a, &failed) && !failed);
	/* The same certificate in a new set, as after HUP. */
	struct crt_set *old = set;
	set = load(at("a.pem"), NULL, NULL);
	HOLDS(resumes("a.test", &a, &failed) && !failed);
	crt_drop(set);
	set = load(at("renewed.pem"), NULL, NULL);
	copy = a;
	HOLDS(!resumes("a.test", &copy, &failed) && !failed);
	crt_drop(set);
	set = old;
	/* The cache has 4 entries: the oldest go. */
	for (int i = 0; i < 4; i++) {
		copy.session_id_len = 0;
		HOLDS(!resumes("b.test", &copy, &failed) && !failed);
	}
	HOLDS(!resumes("a.test", &a, &failed) && !failed);
	/* Too old. */
	for (uint32_t i = 0; i < room->nsession; i++)
		room->session[i].born -= TLS_SESSION_S;
	HOLDS(!resumes("a.test", &a, &failed) && !failed);
}

/* The ring's chains hold together whatever is overwritten. */
static void the_session_cache_forgets_the_oldest(void)
{
	struct tls *x = accept_as("a.test");
	br_ssl_session_parameters s = {.session_id_len = 32, .cipher_suite = 1}, back;

	for (unsigned i = 0; i < 1000; i++) {
		memset(s.session_id, 0, 32);
		s.session_id[0] = (uint8_t)(i % 3);
		s.session_id[5] = (uint8_t)i;
		s.session_id[6] = (uint8_t)(i >> 8);
		memset(s.master_secret, (int)(i & 0xff), 48);
		tls_cache_save(&x->cache.vtable, NULL, &s);
		for (unsigned k = 0; k < 6 && k <= i; k++) {
			back = s;
			back.session_id[0] = (uint8_t)((i - k) % 3);
			back.session_id[5] = (uint8_t)(i - k);
			back.session_id[6] = (uint8_t)((i - k) >> 8);
			HOLDS(tls_cache_load(&x->cache.vtable, NULL, &back) == (k < 4));
			HOLDS(k >= 4 || back.master_secret[7] == (uint8_t)(i - k));
		}
	}
	tls_close(x);
	memset(room->session, 0, room->nsession * sizeof *room->session);
	memset(room->bucket, 0, room->nsession * sizeof *room->bucket);
	room->oldest = 0;
}

/* The certificate is chosen by what the client offers. */
static void ecdsa_or_rsa_as_the_client_offers(void)
{
	static const uint16_t rsa[] = {BR_TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256};
	struct end s, c;
	struct tls *x = dial_as("a.test", RT_VERIFY_CA, NULL);

	br_ssl_engine_set_suites(x->eng, rsa, 1);
	HOLDS(br_ssl_client_reset(&x->u.c, "a.test", 0));
	meet(&s, &c, "a.test", x);
	HOLDS_FOR(tls_error(c.x), tls_is_open(s.x) && tls_is_open(c.x));
	HOLDS(strcmp(tls_cipher_name(s.x), "ECDHE-RSA-AES128-GCM-SHA256") == 0);
	HOLDS(tls_pair(s.x) == set->pair[1]);
	part(&s, &c);
	x = dial_as("b.test", RT_VERIFY_CA, NULL); /* b.test has no RSA certificate */
	br_ssl_engine_set_suites(x->eng, rsa, 1);
	HOLDS(br_ssl_client_reset(&x->u.c, "b.test", 0));
	meet(&s, &c, "b.test", x);
	HOLDS(s.io == IO_ERR && strstr(tls_error(s.x), "no cipher suite"));
	HOLDS(c.io == IO_ERR && strstr(tls_error(c.x), "found no cipher suite"));
	part(&s, &c);
}

static void alpn_other_than_http_1_1_is_refused(void)
{
	static const char *h2[] = {"h2"}, *both[] = {"h2", "http/1.1"};
	struct end s, c;

	for (int i = 0; i < 3; i++) {
		struct tls *x = dial_as("a.test", RT_VERIFY_CA, NULL);
		if (i < 2)
			br_ssl_engine_set_protocol_names(x->eng, i ? both : h2, i ? 2 : 1);
		HOLDS(br_ssl_client_reset(&x->u.c, "a.test", 0));
		meet(&s, &c, "a.test", x);
		HOLDS(tls_is_open(s.x) == (i > 0) && (i || s.io == IO_ERR));
		HOLDS(i || strstr(tls_error(s.x), "no application protocol"));
		if (i)
			HOLDS(strcmp(br_ssl_engine_get_selected_protocol(s.x->eng), "http/1.1") == 0);
		part(&s, &c);
	}
}

static void private_key_work_waits_for_its_turn(void)
{
	struct end s, c;
	int fd[2], keys = 0;
	unsigned moved;

	pair_of_sockets(fd, 0);
	end_open(&s, fd[0], accept_as("a.test"));
	end_open(&c, fd[1], dial_as("a.test", RT_VERIFY_CA, NULL));
	for (int i = 0; i < 30; i++) {
		(void)tls_pump(c.x, c.fd, NULL, NULL, true, &moved);
		for (int k = 0; k < 3; k++) {
			HOLDS(tls_pump(s.x, s.fd, NULL, NULL, false, &moved) == IO_OK && !(moved & TLS_PK));
			HOLDS(!(moved & TLS_DEFERRED) || tls_wants(s.x, false, false) & POLLIN);
		}
		if (!(moved & TLS_DEFERRED))
			continue;
		HOLDS(tls_pump(s.x, s.fd, NULL, NULL, true, &moved) == IO_OK && (moved & TLS_PK));
		keys++;
	}
	HOLDS(keys == 2 && tls_is_open(s.x) && tls_is_open(c.x));
	part(&s, &c);
	/* Bytes that were fed wait, too. */
	uint8_t hello[1024];
	pair_of_sockets(fd, 0);
	end_open(&c, fd[1], dial_as("a.test", RT_VERIFY_CA, NULL));
	end_pump(&c);
	ssize_t n = sys_read(fd[0], hello, sizeof hello);
	end_open(&s, fd[0], accept_as("a.test"));
	HOLDS(tls_feed(s.x, sl_mk((char *)hello, (size_t)n)) == 0 && tls_pending(s.x));
	HOLDS(tls_pump(s.x, s.fd, NULL, NULL, false, &moved) == IO_OK && moved == TLS_DEFERRED);
	HOLDS(tls_pump(s.x, s.fd, NULL, NULL, true, &moved) == IO_OK && moved == (TLS_PK | TLS_TX));
	settle(&s, &c);
	HOLDS(tls_is_open(s.x) && pass(&c, &s, "hi"));
	part(&s, &c);
}

/* Of all connections together: the others are called again in the next turn. */
static void one_private_key_operation_a_turn(void)
{
	enum { COUNT = 4 };
	struct end client[COUNT];
	struct conn c[COUNT];
	struct rp rp = {.now = 1};
	unsigned turns = 0, open = 0;

	HOLDS(buf_pool_open(&rp.pool, COUNT * 2, 8192) == 0);
	for (int i = 0; i < COUNT; i++) {
		int fd[2];
		pair_of_sockets(fd, 0);
		end_open(&client[i], fd[1], dial_as("a.test", RT_VERIFY_CA, NULL));
		end_pump(&client[i]);
		c[i] = (struct conn){.fd = fd[0], .phase = CP_TLS, .tls = accept_as("a.test")};
	}
	for (; open < COUNT && turns < 100; turns++) {
		unsigned done = 0;
		rp.pk_used = false;
		open = 0;
		for (int i = 0; i < COUNT; i++) {
			bool had = rp.pk_used;
			(void)net_io(&rp, &c[i], true);
			done += rp.pk_used && !had;
			HOLDS(!c[i].again || rp.pk_used);
			open += tls_is_open(c[i].tls);
			end_pump(&client[i]);
		}
		HOLDS(done <= 1);
	}
	HOLDS(open == COUNT && turns >= 2 * COUNT); /* the key exchange has two halves */
	for (int i = 0; i < COUNT; i++) {
		tls_close(c[i].tls);
		sys_close(c[i].fd);
		end_close(&client[i]);
	}
	buf_pool_close(&rp.pool);
}

static void an_end_without_close_notify_is_not_clean(void)
{
	struct end s, c;

	meet(&s, &c, "a.test", dial_as("a.test", RT_VERIFY_CA, NULL));
	(void)buf_add(&c.out, sl_of("last words"));
	end_pump(&c);
	(void)shutdown(c.fd, SHUT_WR);
	end_pump(&s);
	end_pump(&s);
	HOLDS(s.io == IO_EOF && !tls_clean_eof(s.x) && sl_is(buf_peek(&s.in), "last words"));
	HOLDS(tls_wants(s.x, true, false) == 0);
	(void)buf_add(&s.out, sl_of("answer"));
	HOLDS(tls_wants(s.x, true, true) == POLLOUT);
	end_pump(&s);
	HOLDS(s.io == IO_EOF && !buf_len(&s.out));
	tls_bye(s.x);
	end_pump(&s);
	end_pump(&c);
	HOLDS(sl_is(buf_peek(&c.in), "answer") && tls_clean_eof(c.x) && c.io == IO_EOF);
	part(&s, &c);
	/* In the middle of the handshake. */
	int fd[2];
	pair_of_sockets(fd, 0);
	end_open(&s, fd[0], accept_as("a.test"));
	HOLDS(sys_write(fd[1], "\x16\x03\x01", 3) == 3);
	end_pump(&s);
	HOLDS(s.io == IO_OK && tls_wants(s.x, false, false) == POLLIN);
	sys_close(fd[1]);
	end_pump(&s);
	HOLDS(s.io == IO_EOF && !tls_clean_eof(s.x) && !tls_is_open(s.x));
	end_close(&s);
}

/* Close while plaintext waits to be read and records wait to be sent. */
static void goodbye_comes_behind_what_is_being_sent(void)
{
	struct end s, c;
	int fd[2];
	uint64_t got = 0, sent = 0;

	pair_of_sockets(fd, 1);
	end_open(&s, fd[0], accept_as("a.test"));
	end_open(&c, fd[1], dial_as("a.test", RT_VERIFY_CA, NULL));
	settle(&s, &c);
	(void)buf_add(&c.out, sl_of("unread"));
	end_pump(&c);
	while (!tls_unsent(s.x)) {
		while (buf_room(&s.out, s.out.cap))
			buf_fill(&s.out, 1);
		uint32_t before = buf_len(&s.out);
		end_pump(&s);
		sent += before - buf_len(&s.out);
	}
	tls_bye(s.x);
	HOLDS(tls_unsent(s.x));
	for (int i = 0; i < 200; i++) {
		end_pump(&s);
		end_pump(&c);
		got += buf_len(&c.in);
		buf_skip(&c.in, buf_len(&c.in));
	}
	HOLDS(got == sent && tls_clean_eof(c.x) && c.io == IO_EOF && s.io == IO_OK);
	tls_bye(c.x);
	end_pump(&c);
	end_pump(&s);
	HOLDS(s.io == IO_EOF && tls_clean_eof(s.x));
	part(&s, &c);
}

static void changed_and_random_records_end_the_connection(void)
{
	struct end s, c;
	uint32_t seed = 1;

	for (int i = 0; i < 300; i++) {
		int fd[2];
		uint8_t junk[700];
		ssize_t n;
		bool open = i % 3 == 0;
		if (open) {
			meet(&s, &c, "a.test", dial_as("a.test", RT_VERIFY_CA, NULL));
			(void)buf_add(&c.out, sl_of("some words"));
		} else {
			pair_of_sockets(fd, 0);
			end_open(&s, fd[0], accept_as("a.test"));
			end_open(&c, fd[1], dial_as("a.test", RT_VERIFY_CA, NULL));
		}
		int wire[2];
		pair_of_sockets(wire, 0);
		unsigned moved;
		(void)tls_pump(c.x, wire[0], NULL, &c.out, true, &moved);
		n = sys_read(wire[1], junk, sizeof junk);
		HOLDS(n > 20);
		for (int k = 0; k < (i % 3 == 2 ? 40 : 1) && n > 0; k++) {
			seed = seed * 1103515245 + 12345;
			junk[(seed >> 8) % (uint32_t)n] ^= (uint8_t)(1u << (seed >> 29));
		}
		if (i % 3 == 1) {
			struct sl sni;
			uint8_t scratch[256];
			(void)tls_hello(sl_mk((char *)junk, (size_t)n), &sni, scratch);
			(void)tls_feed(s.x, sl_mk((char *)junk, (size_t)n));
		} else {
			(void)sys_write(c.fd, junk, (size_t)n);
		}
		end_pump(&s);
		end_pump(&s);
		HOLDS(!open || s.io != IO_OK || !buf_len(&s.in));
		HOLDS(s.io != IO_ERR || tls_error(s.x)[0]);
		sys_close(wire[0]);
		sys_close(wire[1]);
		part(&s, &c);
	}
}

static void when_all_are_in_use_there_is_none(void)
{
	struct tls *x[8], *y[8];

	for (int i = 0; i < 4; i++) {
		x[i] = accept_as("a.test");
		y[i] = dial_as("a.test", RT_VERIFY_OFF, NULL);
		HOLDS(x[i] && y[i]);
	}
	HOLDS(!accept_as("a.test") && !dial_as("a.test", RT_VERIFY_OFF, NULL));
	tls_close(x[2]);
	tls_close(y[1]);
	HOLDS((y[1] = dial_as("a.test", RT_VERIFY_CA, NULL)) != NULL);
	HOLDS((x[2] = accept_as("a.test")) != NULL && !accept_as("a.test"));
	for (int i = 0; i < 4; i++) {
		tls_close(x[i]);
		tls_close(y[i]);
	}
	HOLDS(room->io.nfree == room->io.n);
	tls_close(NULL);
	HOLDS(sizeof(struct tls) <= 4600);
	HOLDS(tls_room_bytes(4, 4, 4) < 400000 && tls_room_bytes(4, 4, 4) > 8 * 37000);
}

/* ---- the ClientHello ---- */

static uint8_t hello[40000];
static size_t nhello;

static void put(const void *p, size_t n)
{
	memcpy(hello + nhello, p, n);
	nhello += n;
}

/* A ClientHello with extensions as given, in records of at most `piece` bytes. */
static void make_hello(const void *ext, size_t n, size_t piece)
{
	static uint8_t body[RP_HELLO_MAX + 64];
	size_t len = 0, all = 2 + 32 + 1 + 2 + 4 + 2 + (ext ? 2 + n : 0);

	body[len++] = 1;
	body[len++] = 0;
	body[len++] = (uint8_t)(all >> 8);
	body[len++] = (uint8_t)all;
	memcpy(body + len, "\3\3", 2);
	memset(body + len + 2, 7, 32);
	memcpy(body + len + 34, "\0\0\4\xcc\xa9\xc0\x2b\1\0", 9);
	len += 43;
	if (ext) {
		body[len++] = (uint8_t)(n >> 8);
		body[len++] = (uint8_t)n;
		memcpy(body + len, ext, n);
		len += n;
	}
	nhello = 0;
	for (size_t i = 0; i < len; i += piece) {
		size_t k = len - i < piece ? len - i : piece;
		uint8_t head[5] = {22, 3, 1, (uint8_t)(k >> 8), (uint8_t)k};
		put(head, 5);
		put(body + i, k);
	}
}

/* What tls_hello says of it: the name, "-" for none, "bad", "more". The input ends at a guard. */
static const char *peek(void)
{
	static uint8_t scratch[256];
	static char text[300];
	struct sl sni;
	char *copy = malloc(nhello + 1);

	memcpy(copy, hello, nhello);
	int r = 0;
	for (size_t i = 0; i < nhello && r == 0; i++) { /* however the bytes come */
		char *part_ = malloc(i ? i : 1);
		memcpy(part_, hello, i);
		r = tls_hello(sl_mk(part_, i), &sni, scratch);
		free(part_);
		HOLDS(r <= 0);
	}
	if (r == 0)
		r = tls_hello(sl_mk(copy, nhello), &sni, scratch);
	free(copy);
	HOLDS(r <= 0 || r == (int)nhello);
	(void)snprintf(text, sizeof text, "%.*s", (int)sni.n, sni.p);
	return r < 0 ? "bad" : r == 0 ? "more" : sni.n ? text : "-";
}

static void the_name_in_a_hello_is_found(void)
{
	static const struct {
		const char *ext;
		size_t n;
		const char *name;
	} rows[] = {{NULL, 0, "-"},
				{"", 0, "-"},
				{"\0\0\0\x0b\0\x09\0\0\x06"
				 "a.test",
				 15, "a.test"},
				{"\0\0\0\x0b\0\x09\0\0\x06"
				 "A.TEST",
				 15, "a.test"},
				{"\0\x17\0\0\0\0\0\x0b\0\x09\0\0\x06"
				 "a.test\xff\1\0\1\0",
				 24, "a.test"},
				{"\0\0\0\x0b\0\x09\0\0\x06"
				 "a\0test",
				 15, "bad"},
				{"\0\0\0\x0b\0\x09\0\0\x06"
				 "a test",
				 15, "bad"},
				{"\0\0\0\x0b\0\x09\0\0\x06"
				 ".atest",
				 15, "bad"},
				{"\0\0\0\x0b\0\x09\1\0\x06"
				 "a.test",
				 15, "bad"},
				{"\0\0\0\x0b\0\x08\0\0\x06"
				 "a.test",
				 15, "bad"},
				{"\0\0\0\x0b\0\x09\0\0\x07"
				 "a.test",
				 15, "bad"},
				{"\0\0\0\x0b\0\x09\0\0\x05"
				 "a.test",
				 15, "bad"},
				{"\0\0\0\x0c\0\x09\0\0\x06"
				 "a.test",
				 15, "bad"},
				{"\0\0\0\0", 4, "bad"},
				{"\0\0\0\5\0\3\0\0\0", 9, "bad"},
				{"\0\0\0\6\0\4\0\0\1a\0\0\0\6\0\4\0\0\1a", 20, "bad"},
				{"\0\x17\0", 3, "bad"},
				{"\0\x17\0\1", 4, "bad"},
				{"\0\x2b\0\3\2\3\4", 7, "-"},
				{"\0\x2b\0\3\3\3\4", 7, "bad"},
				{"\0\x2b\0\2\1\3", 6, "bad"}};
	static const size_t pieces[] = {16384, 100, 7, 3, 1};

	for (size_t i = 0; i < RP_LEN(rows); i++)
		for (size_t k = 0; k < RP_LEN(pieces); k++) {
			make_hello(rows[i].ext, rows[i].n, pieces[k]);
			HOLDS_FOR(rows[i].name, strcmp(peek(), rows[i].name) == 0);
		}
}

static void what_is_no_hello_is_refused_at_once(void)
{
	static const struct {
		const char *bytes;
		size_t n;
		int is;
	} rows[] = {{"GET / HTTP/1.1\r\n", 16, -1},
				{"G", 1, -1},
				{"", 0, 0},
				{"\x16", 1, 0},
				{"\x16\x02", 2, -1},
				{"\x16\3\1\0\0", 5, -1},
				{"\x16\3\1\xff\xff", 5, -1},
				{"\x16\3\1\x40\0", 5, 0},
				{"\x16\3\1\x40\1", 5, -1},
				{"\x16\3\1\0\5hello", 10, -1},
				{"\x16\3\1\0\4\1\0\x40\0", 9, -1},
				{"\x16\3\1\0\4\1\1\0\0", 9, -1},
				{"\x16\3\1\0\4\1\0\0\0", 9, -1},
				{"\x16\3\1\0\5\1\0\0\0\0", 10, -1},
				{"\x15\3\1\0\2\2\0", 7, -1}};
	struct sl sni;
	uint8_t scratch[256];

	for (size_t i = 0; i < RP_LEN(rows); i++)
		HOLDS_FOR(rows[i].bytes,
				  tls_hello(sl_mk(rows[i].bytes, rows[i].n), &sni, scratch) == rows[i].is);
	static uint8_t big[RP_HELLO_MAX];
	size_t n = RP_HELLO_MAX - 4 - 45;
	big[1] = 0x17; /* an unknown extension that fills it */
	big[2] = (uint8_t)((n - 4) >> 8);
	big[3] = (uint8_t)(n - 4);
	make_hello(big, n, 16384);
	HOLDS(tls_hello(sl_mk((char *)hello, nhello), &sni, scratch) == (int)nhello);
	make_hello(big, 6000, 1); /* 36 KB of records */
	HOLDS(tls_hello(sl_mk((char *)hello, nhello), &sni, scratch) == -1);
	make_hello(big, n + 1, 16384);
	HOLDS(tls_hello(sl_mk((char *)hello, nhello), &sni, scratch) == -1);
}

/* RFC 8446 4.2.1. */
static void a_client_of_tls_1_3_alone_is_told(void)
{
	struct end s;
	int fd[2];
	uint8_t got[16];

	make_hello("\0\x2b\0\3\2\3\4", 7, 16384);
	pair_of_sockets(fd, 0);
	end_open(&s, fd[0], accept_as("a.test"));
	HOLDS(tls_feed(s.x, sl_mk((char *)hello, nhello)) == 0);
	end_pump(&s);
	HOLDS(s.io == IO_ERR && strstr(tls_error(s.x), "no protocol version"));
	HOLDS(sys_read(fd[1], got, sizeof got) == 7 && memcmp(got, "\x15\3\3\0\2\2\x46", 7) == 0);
	end_close(&s);
	sys_close(fd[1]);
	HOLDS(tls_alert(got, TLS_UNRECOGNIZED_NAME) == 7 && got[6] == 112);
}

/* ---- OpenSSL as the other side ---- */

/* Starts `openssl` in the directory of certificates; what it says is read from the result. */
static FILE *openssl(const char *args, const char *more)
{
	char command[1024];

	(void)snprintf(command, sizeof command, "cd %s && echo hello | timeout 20 openssl %s %s 2>&1",
				   certs_dir, args, more);
	FILE *f = popen(command, "r");
	if (!f)
		abort();
	return f;
}

/* Serves one connection of `openssl s_client` and returns what it printed. */
static const char *openssl_client(const char *args)
{
	static char text[32768];
	char connect[64];
	struct end s;
	struct sockaddr_in sa = {.sin_family = AF_INET};
	socklen_t len = sizeof sa;
	int lfd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	HOLDS(bind(lfd, (struct sockaddr *)&sa, len) == 0 && listen(lfd, 1) == 0 &&
		  getsockname(lfd, (struct sockaddr *)&sa, &len) == 0);
	(void)snprintf(connect, sizeof connect,
				   "s_client -connect 127.0.0.1:%d -CAfile root.crt -ign_eof", ntohs(sa.sin_port));
	FILE *client = openssl(connect, args);
	int fd = accept4(lfd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	end_open(&s, fd, accept_as("a.test"));
	sys_tune(fd);
	bool answered = false;
	uint64_t end = sys_now() + 10000;
	while (s.io == IO_OK && sys_now() < end) {
		struct pollfd p = {fd, tls_wants(s.x, true, buf_len(&s.out) != 0), 0};
		(void)sys_poll(&p, 1, 100);
		end_pump(&s);
		if (!answered && buf_len(&s.in)) {
			(void)buf_add(&s.out, sl_of("<answer>\n"));
			answered = true;
		} else if (answered && !buf_len(&s.out)) {
			tls_bye(s.x);
		}
	}
	end_close(&s);
	sys_close(lfd);
	text[fread(text, 1, sizeof text - 1, client)] = 0;
	(void)pclose(client);
	return text;
}

static void openssl_talks_to_our_server(void)
{
	static const char *const suites[] = {
		"ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305",
		"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256",
		"ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384"};
	char args[300];
	const char *text;

	for (size_t i = 0; i < RP_LEN(suites); i++) {
		(void)snprintf(args, sizeof args,
					   "-servername a.test -verify_return_error -cipher %s "
					   "-curves %s -alpn h2,http/1.1",
					   suites[i], i % 2 ? "P-256" : "X25519:P-256");
		text = openssl_client(args);
		HOLDS_FOR(text, strstr(text, suites[i]) && strstr(text, "Verify return code: 0 (ok)") &&
							strstr(text, "<answer>") && strstr(text, "ALPN protocol: http/1.1"));
	}
	text = openssl_client("-servername a.test -cipher ECDHE-ECDSA-AES128-SHA -tls1_2");
	HOLDS_FOR(text, strstr(text, "handshake failure"));
	text = openssl_client("-servername a.test -tls1_1 -cipher ALL:@SECLEVEL=0");
	HOLDS_FOR(text, strstr(text, "protocol version"));
	text = openssl_client("-servername a.test -tls1 -cipher ALL:@SECLEVEL=0");
	HOLDS_FOR(text, strstr(text, "protocol version"));
	/* The client knows X25519 alone: a P-256 certificate is not for it, the RSA one is. */
	text = openssl_client("-servername a.test -tls1_2 -curves X25519");
	HOLDS_FOR(text, strstr(text, "<answer>") && strstr(text, "Cipher is ECDHE-RSA-"));
	text = openssl_client("-servername a.test -alpn h2");
	HOLDS_FOR(text, strstr(text, "no application protocol"));
}

static void our_client_talks_to_openssl(void)
{
	static const char *const rows[] = {"-cert a.crt -key a.key", "-cert rsa.crt -key rsa.key",
									   "-cert p384.crt -key p384.key"};
	static const char *const hosts[] = {"a.test", "a.test", "x.w.test"};

	for (size_t i = 0; i < RP_LEN(rows); i++) {
		struct end c;
		struct sockaddr_in sa = {.sin_family = AF_INET};
		unsigned port = 0;
		char line[256];
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		FILE *server =
			openssl("s_server -accept 127.0.0.1:0 -cert_chain sub.crt -www -naccept 1", rows[i]);
		while (!port && fgets(line, sizeof line, server))
			(void)sscanf(line, "ACCEPT 127.0.0.1:%u", &port);
		sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		sa.sin_port = htons((uint16_t)port);
		HOLDS(connect(fd, (struct sockaddr *)&sa, sizeof sa) == 0);
		(void)fcntl(fd, F_SETFL, O_NONBLOCK);
		end_open(&c, fd, dial_as(hosts[i], RT_VERIFY_CA, NULL));
		(void)buf_add(&c.out, sl_of("GET / HTTP/1.0\r\n\r\n"));
		uint64_t end = sys_now() + 10000;
		char first[16] = "";
		while (c.io == IO_OK && sys_now() < end) {
			struct pollfd p = {fd, tls_wants(c.x, true, buf_len(&c.out) != 0), 0};
			(void)sys_poll(&p, 1, 100);
			end_pump(&c);
			if (!first[0] && buf_len(&c.in) > 15)
				memcpy(first, buf_peek(&c.in).p, 15);
			buf_skip(&c.in, buf_len(&c.in));
		}
		HOLDS_FOR(tls_error(c.x), strcmp(first, "HTTP/1.0 200 ok") == 0);
		end_close(&c);
		(void)pclose(server);
	}
}

int main(void)
{
	char two[2 * PATH_MAX];

	make_certs();
	log_to_dir();
	make_cert("a", EC256, "DNS:a.test,DNS:a2.test,IP:127.0.0.1", YEAR);
	make_cert("renewed", EC256, "DNS:a.test", YEAR);
	make_cert("b", EC256, "DNS:b.test", YEAR);
	make_cert("rsa", RSA2048, "DNS:a.test", YEAR);
	make_cert("p384", EC384, "DNS:*.w.test", YEAR);
	run("openssl req -x509 -newkey rsa:2048 -nodes -keyout k -out other.crt -subj /CN=Root");
	run("openssl req -x509 -newkey rsa:2048 -nodes -keyout k -out self.crt -subj /CN=s -addext "
		"subjectAltName=DNS:self.test -addext basicConstraints=CA:FALSE && "
		"cat self.crt k > self.pem");
	run("mkdir more && cp b.pem p384.pem more");
	(void)snprintf(two, sizeof two, "%s", at("more"));
	set = load(at("a.pem"), at("rsa.pem"), two);
	anchors = crt_anchors_load(at("root.crt"));
	today = sys_wall();
	if (!set || !anchors || tls_open_room(&room, 4, 4, 4) < 0 ||
		buf_pool_open(&pool, 8, 16384) < 0) {
		printf("not ok: %s\n", said());
		return 1;
	}
	RUN(a_full_handshake_and_words_both_ways);
	RUN(an_idle_connection_holds_no_record_buffer);
	RUN(a_megabyte_both_ways);
	RUN(records_are_small_at_first_and_after_silence);
	RUN(a_server_is_judged_by_authority_name_or_pin);
	RUN(dates_are_judged_when_the_clock_is_right);
	RUN(the_session_cache_forgets_the_oldest);
	RUN(sessions_are_resumed_under_their_name_alone);
	RUN(ecdsa_or_rsa_as_the_client_offers);
	RUN(alpn_other_than_http_1_1_is_refused);
	RUN(private_key_work_waits_for_its_turn);
	RUN(one_private_key_operation_a_turn);
	RUN(an_end_without_close_notify_is_not_clean);
	RUN(goodbye_comes_behind_what_is_being_sent);
	RUN(what_is_due_after_close_notify_is_sent);
	RUN(other_alerts_are_the_engines);
	RUN(changed_and_random_records_end_the_connection);
	RUN(when_all_are_in_use_there_is_none);
	RUN(the_name_in_a_hello_is_found);
	RUN(what_is_no_hello_is_refused_at_once);
	RUN(a_client_of_tls_1_3_alone_is_told);
	RUN(openssl_talks_to_our_server);
	RUN(our_client_talks_to_openssl);
	HOLDS(!*said());
	crt_drop(set);
	crt_anchors_free(anchors);
	tls_close_room(room);
	buf_pool_close(&pool);
	remove_certs();
	return unit_end();
}
