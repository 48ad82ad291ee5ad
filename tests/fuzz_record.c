/* fuzz_record.c: TLS records as a hostile peer cuts, changes and makes them up, through the whole
 * proxy on the simulated system.
 *
 * SPDX-License-Identifier: MIT
 *
 * The client is BearSSL's own and honest; the input says what happens to each record that it sends:
 * bits are flipped, the end or the length is changed, bytes are put before it. With the first byte
 * odd there is no client, and the input is what is sent. Whatever it is: no crash, all memory given
 * back, and the connection is gone within the head timeout, or well served.
 */
#include "fuzz.h"

#define RP_NO_MAIN 1
#define RP_SYS_FILE "tests/sim_sys.h"
#include "../rproxy.c"

#define RECORD_HEAD_S 10 /* --head-timeout */

static struct {
	struct sim_conn *c;
	const uint8_t *data; /* the input, as far as it is not used */
	size_t size;
	br_ssl_client_context *client; /* NULL: raw bytes */
	bool asked, answered;
	uint64_t last; /* when something was sent */
	uint32_t seed;
} peer;

/* The server's key, the same in every run: made by BearSSL out of a fixed seed. */
static struct {
	br_ec_private_key sk;
	br_ec_public_key pk;
	uint8_t d[BR_EC_KBUF_PRIV_MAX_SIZE], q[BR_EC_KBUF_PUB_MAX_SIZE];
} key;

static void key_make(void)
{
	br_hmac_drbg_context rng;

	if (key.sk.xlen)
		return;
	br_hmac_drbg_init(&rng, &br_sha256_vtable, "fuzz", 4);
	FUZZ_HOLDS(br_ec_keygen(&rng.vtable, br_ec_get_default(), &key.sk, key.d, BR_EC_secp256r1));
	FUZZ_HOLDS(br_ec_compute_pub(br_ec_get_default(), &key.pk, key.q, &key.sk));
}

/* A certificate for a.test; what stands in it nobody reads, the client knows the key. */
static struct crt_set *cert_make(void)
{
	static const char san[] = "\x82\x06"
							  "a.test";
	static unsigned char der[] = {0x30, 0};
	struct crt_set *set = calloc(1, sizeof *set);
	struct crt_pair *p = calloc(1, sizeof *p);

	FUZZ_HOLDS(set && p && (set->pair = calloc(1, sizeof *set->pair)));
	p->ee.san = sl_mk(san, sizeof san - 1);
	p->ee.not_after = INT64_MAX;
	p->chain[0] = (br_x509_certificate){der, sizeof der};
	p->nchain = 1;
	p->key.key.ec = key.sk;
	p->key.key_type = BR_KEYTYPE_EC;
	set->pair[0] = p;
	set->npair = 1;
	set->holds = 1;
	return set;
}

static uint8_t take(void)
{
	if (!peer.size)
		return 0;
	peer.size--;
	return *peer.data++;
}

static void send_all(const uint8_t *p, size_t n)
{
	while (n && !peer.c->far_closed) {
		size_t k = 1 + fuzz_next(&peer.seed) % 1500;
		k = sim_far_send(peer.c, p, k < n ? k : n);
		if (!k)
			break; /* it does not fit: the rest is lost, which is one more way to be hostile */
		p += k;
		n -= k;
		peer.last = sim.now;
	}
}

/* What becomes of one record, or a part of one. */
static void send_changed(uint8_t *p, size_t n)
{
	uint8_t raw[256];
	unsigned op = take();
	size_t at, len = n;

	if (op % 8 == 4) {
		at = (size_t)take() << 8 | take();
		p[at % n] ^= (uint8_t)(take() | 1);
	} else if (op % 8 == 5) {
		len = n - 1 - take() % n;
	} else if (op % 8 == 6 && n > 5) {
		p[3] = take();
		p[4] = take();
	} else if (op % 8 == 7) {
		for (at = 0, len = take(); at < len; at++)
			raw[at] = take();
		send_all(raw, len);
		len = n;
	}
	send_all(p, len);
	if (op % 16 == 15)
		sim_far_close(peer.c);
}

static void client_step(void)
{
	static const char ask[] = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
	br_ssl_engine_context *e = &peer.client->eng;
	uint8_t *p, copy[20000];
	size_t n;

	for (bool more = true; more;) {
		more = false;
		if ((p = br_ssl_engine_sendrec_buf(e, &n))) {
			n = n < sizeof copy ? n : sizeof copy;
			memcpy(copy, p, n);
			br_ssl_engine_sendrec_ack(e, n);
			send_changed(copy, n);
			more = true;
		}
		if ((p = br_ssl_engine_recvrec_buf(e, &n)) && sim_q_len(&peer.c->out)) {
			br_ssl_engine_recvrec_ack(e, sim_q_get(&peer.c->out, p, n));
			more = true;
		}
		if (!peer.asked && (p = br_ssl_engine_sendapp_buf(e, &n))) {
			memcpy(p, ask, sizeof ask - 1);
			br_ssl_engine_sendapp_ack(e, sizeof ask - 1);
			br_ssl_engine_flush(e, 0);
			peer.asked = more = true;
		}
		if ((p = br_ssl_engine_recvapp_buf(e, &n))) {
			peer.answered |= n > 12 && memcmp(p, "HTTP/1.1 204", 12) == 0;
			br_ssl_engine_recvapp_ack(e, n);
			more = true;
		}
	}
}

/* The far end acts: the client; or the raw bytes, some at a time. */
static uint64_t peer_run(void)
{
	uint8_t drop[4096];

	if (peer.c->far_closed)
		return SIM_NEVER;
	if (peer.client) {
		client_step();
	} else {
		send_all(peer.data, peer.size);
		peer.size = 0;
		while (sim_q_len(&peer.c->out))
			(void)sim_q_get(&peer.c->out, drop, sizeof drop);
	}
	if (peer.answered || peer.c->out_fin || peer.c->out_rst)
		sim_far_close(peer.c);
	return SIM_NEVER;
}

static struct rp *proxy_open(void)
{
	static char *argv[] = {"rproxy",
						   "--https",
						   "127.0.0.1:8443",
						   "--max-conns",
						   "4",
						   "--route",
						   "*=status:204",
						   "--head-timeout",
						   "10s",
						   "--idle-timeout",
						   "5s",
						   "--log",
						   "none"};
	int status = 0;
	struct rp *rp = rp_open((int)RP_LEN(argv), argv, &status);

	FUZZ_HOLDS(rp);
	crt_drop(rp->certs);
	rp->certs = cert_make();
	return rp;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static br_ssl_client_context client;
	static unsigned char buffer[BR_SSL_BUFSIZE_BIDI];
	br_x509_minimal_context unused;
	br_x509_knownkey_context known;
	uint64_t turns = 0;

	memset(&sim, 0, sizeof sim);
	memset(&peer, 0, sizeof peer);
	sim.seed = peer.seed = fuzz_seed(data, size);
	sim.now = SIM_START;
	sim.wall = 1800000000;
	sim.fd_max = SIM_FDS;
	sim.alloc_left = -1;
	sim.world = peer_run;
	sim.f.cut_read = sim.f.cut_write = size ? data[0] & 0x60 : 0;
	key_make();
	peer.data = data;
	peer.size = size;
	if (!(take() & 1)) {
		br_ssl_client_init_full(&client, &unused, NULL, 0);
		br_x509_knownkey_init_ec(&known, &key.pk, BR_KEYTYPE_KEYX | BR_KEYTYPE_SIGN);
		br_ssl_engine_set_x509(&client.eng, &known.vtable);
		br_ssl_engine_set_buffer(&client.eng, buffer, sizeof buffer, 1);
		br_ssl_engine_inject_entropy(&client.eng, data, size);
		client.eng.rng_os_rand_done = 1; /* the same input, the same run */
		FUZZ_HOLDS(br_ssl_client_reset(&client, "a.test", 0));
		peer.client = &client;
	}
	struct rp *rp = proxy_open();
	peer.c = sim_conn_new(8443, &peer);
	sim.backlog[sim.nbacklog++] = peer.c;
	while (!peer.c->near_closed && !peer.c->out_fin) {
		FUZZ_HOLDS(rp_step(rp) && ++turns < 100000 && !sim.stuck);
		FUZZ_HOLDS(sim.now <= SIM_START + RECORD_HEAD_S * 1000 + RP_LINGER_MS + 2000);
	}
	FUZZ_HOLDS(size || peer.answered); /* left alone it works */
	rp_drain(rp);
	while (rp_step(rp))
		FUZZ_HOLDS(++turns < 200000 && !sim.stuck);
	FUZZ_HOLDS(rp->tls->io.nfree == rp->tls->io.n && rp->pool.nfree == rp->pool.n);
	rp_close(rp);
	FUZZ_HOLDS(!sim.pages && !sim.nfd && !sim.wrong);
	sim_end();
	return 0;
}
