/* unit_cert.c: room CERT: chains, keys, names, directories, anchors.
 *
 * SPDX-License-Identifier: MIT
 */
#include "unit.h"

#include <malloc.h>
#include <stdlib.h>

/* What is given back to the heap is searched for these bytes first. */
static struct {
	const char *bytes[3];
	size_t n[3];
	unsigned found, freed;
} secret;

static void watched_free(void *p);

#define free watched_free
#define RP_NO_MAIN 1
#include "../rproxy.c"
#undef free

static void watched_free(void *p)
{
	size_t n = p ? malloc_usable_size(p) : 0;

	secret.freed++;
	for (size_t i = 0; i < RP_LEN(secret.bytes) && secret.n[i]; i++)
		if (n >= secret.n[i] && memmem(p, n, secret.bytes[i], secret.n[i]))
			secret.found++;
	free(p);
}

#include "unit_certs.h"

static bool names(const char *san, const char *host)
{
	uint8_t der[300];
	size_t n = strlen(san);

	der[0] = san[0] == '#' ? 0x87 : 0x82;
	if (san[0] == '#') {
		n = (n - 1) / 2;
		(void)sl_hex(sl_of(san + 1), der + 2, n);
	} else {
		memcpy(der + 2, san, n);
	}
	der[1] = (uint8_t)n;
	return crt_match(sl_mk((const char *)der, n + 2), sl_of(host)) != 0;
}

/* RFC 6125 6.4.3. */
static void names_match_exactly_or_by_one_label(void)
{
	HOLDS(names("a.test", "a.test"));
	HOLDS(names("A.Test", "a.test"));
	HOLDS(!names("a.test", "b.test"));
	HOLDS(!names("a.test", "a.test.b"));
	HOLDS(!names("a.test", ""));
	HOLDS(names("*.test.org", "a.test.org"));
	HOLDS(!names("*.test.org", "test.org"));
	HOLDS(!names("*.test.org", ".test.org"));
	HOLDS(!names("*.test.org", "a.b.test.org"));
	HOLDS(!names("a*.test.org", "ab.test.org"));
	HOLDS(!names("*", "test"));
	HOLDS(!names("*.", "test."));
	HOLDS(!names("*.*.org", "a.b.org"));
	HOLDS(names("#7f000001", "127.0.0.1"));
	HOLDS(!names("#7f000001", "127.0.0.2"));
	HOLDS(!names("127.0.0.1", "127.0.0.1")); /* an address is no dNSName */
	HOLDS(!names("*.0.0.1", "127.0.0.1"));
	HOLDS(names("#20010db8000000000000000000000001", "2001:db8::1"));
}

static void der_lengths_are_definite_and_short(void)
{
	static const struct {
		const char *bytes;
		size_t n;
		bool fine;
	} rows[] = {{"\x04\x01x", 3, true},
				{"\x04\x00", 2, true},
				{"\x04", 1, false},
				{"", 0, false},
				{"\x04\x02x", 3, false},
				{"\x04\x80x\0\0", 5, false},
				{"\x04\x81\x01x", 4, false},
				{"\x04\x82\x00\x01x", 5, false},
				{"\x04\x81", 2, false},
				{"\x04\x84\0\0\0\x01x", 7, false},
				{"\x04\x83\xff\xff\xff", 5, false},
				{"\x1f\x01x", 3, false}};

	for (size_t i = 0; i < RP_LEN(rows); i++) {
		struct sl in = sl_mk(rows[i].bytes, rows[i].n), v;
		uint8_t tag;
		HOLDS(crt_element(&in, &tag, &v, NULL) == rows[i].fine);
	}
}

static void times_are_read(void)
{
	static const struct {
		const char *der;
		int64_t s; /* -1: refused */
	} rows[] = {{"\x17\x0d"
				 "700101000000Z",
				 0},
				{"\x17\x0d"
				 "000229235959Z",
				 951868799},
				{"\x17\x0d"
				 "491231235959Z",
				 2524607999},
				{"\x18\x0f"
				 "20500101000000Z",
				 2524608000},
				{"\x18\x0f"
				 "99991231235959Z",
				 253402300799},
				{"\x17\x0d"
				 "240230000000z",
				 -1},
				{"\x17\x0d"
				 "241301000000Z",
				 -1},
				{"\x17\x0d"
				 "24010a000000Z",
				 -1},
				{"\x17\x0b"
				 "2401010000Z",
				 -1},
				{"\x16\x0d"
				 "240101000000Z",
				 -1}};

	for (size_t i = 0; i < RP_LEN(rows); i++) {
		struct sl in = sl_of(rows[i].der);
		int64_t s = -1;
		bool ok = crt_time(&in, &s);
		HOLDS_FOR(rows[i].der + 2, ok == (rows[i].s >= 0) && (!ok || s == rows[i].s));
	}
}

/* A certificate cut or flipped anywhere is refused or read, never read past its end. */
static void broken_certificates_do_no_harm(void)
{
	size_t n;
	char *text = sys_slurp(at("a.one"), 1 << 16, &n);
	struct sl rest = sl_mk(text, n);
	struct crt_pem pem;
	struct crt_x509 c;

	HOLDS(text && crt_pem(text, &rest, &pem) == 1);
	HOLDS(crt_parse(sl_mk((char *)pem.der, pem.nder), &c));
	for (size_t i = 0; i < pem.nder; i++) {
		char *copy = malloc(i + 1); /* ASan guards its end */
		memcpy(copy, pem.der, i);
		HOLDS(!crt_parse(sl_mk(copy, i), &c));
		free(copy);
		copy = malloc(pem.nder);
		memcpy(copy, pem.der, pem.nder);
		for (unsigned k = 1; k < 256; k += 2) {
			copy[i] = (char)(pem.der[i] ^ k);
			if (crt_parse(sl_mk(copy, pem.nder), &c))
				(void)crt_match(c.san, sl_of("a.test"));
		}
		free(copy);
	}
	free(text);
}

static void every_kind_of_key_is_read(void)
{
	static const char *const rows[] = {"a.pem", "p384.pem", "rsa.pem", "sec1.pem", "pkcs1.pem"};

	run("{ cat a.crt; openssl ecparam -name prime256v1; openssl ec -in a.key; } > sec1.pem");
	run("{ openssl rsa -in rsa.key -traditional; cat rsa.crt; } > pkcs1.pem");
	for (size_t i = 0; i < RP_LEN(rows); i++) {
		struct crt_set *set = load(at(rows[i]), NULL, NULL);
		HOLDS_FOR(rows[i], set && set->npair == 1 && set->pair[0]->nchain == 2);
		crt_drop(set);
	}
	char both[2 * PATH_MAX];
	(void)snprintf(both, sizeof both, "%s,%s", at("a.crt"), at("a.key"));
	struct crt_set *set = load(both, NULL, NULL);
	HOLDS(set && set->npair == 1);
	crt_drop(set);
	run("make_rsa4096() { openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:4096 -out r4.key;"
		" openssl req -x509 -new -key r4.key -subj /CN=r4 -addext subjectAltName=DNS:r4.test "
		"-out r4.crt; cat r4.crt r4.key > r4.pem; }; make_rsa4096");
	set = load(at("r4.pem"), NULL, NULL);
	HOLDS(set && crt_pick(set, sl_of("r4.test")));
	crt_drop(set);
	HOLDS(!*said());
}

static void each_fault_names_the_file_and_what(void)
{
	static const struct {
		const char *make, *file, *says;
	} rows[] = {
		{"cat a.crt b.key > x1.pem", "x1.pem", "not the one of the certificate"},
		{"cat a.crt rsa.key > x2.pem", "x2.pem", "not the one of the certificate"},
		{"cat a.one root.crt a.key > x3.pem", "x3.pem", "out of order"},
		{"cat sub.crt a.one a.key > x4.pem", "x4.pem", "out of order"},
		{"{ cat a.crt; openssl pkey -in a.key -aes128 -passout pass:x; } > x5.pem", "x5.pem",
		 "encrypted"},
		{"{ cat rsa.crt; openssl rsa -traditional -in rsa.key -aes128 -passout pass:x; } > x6.pem",
		 "x6.pem", "encrypted"},
		{"cp nosan.pem x7.pem", "x7.pem", "no names"},
		{"cp a.key x8.pem", "x8.pem", "no certificate"},
		{"cp a.crt x9.pem", "x9.pem", "no private key"},
		{"openssl req -x509 -newkey ed25519 -nodes -keyout k -subj /CN=x -addext "
		 "subjectAltName=DNS:x -out c; cat c k > x10.pem",
		 "x10.pem", "not of a supported kind"},
		{"openssl req -x509 -newkey rsa:1024 -nodes -keyout k -subj /CN=x -addext "
		 "subjectAltName=DNS:x -out c; cat c k > x11.pem",
		 "x11.pem", "EC P-256 or P-384, RSA 2048 to 4096"},
		{"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-521 -nodes -keyout k -subj "
		 "/CN=x -addext subjectAltName=DNS:x -out c; cat c k > x16.pem",
		 "x16.pem", "EC P-256 or P-384, RSA 2048 to 4096"},
		{"{ printf -- '-----BEGIN CERTIFICATE-----\\nMAA=\\n-----END CERTIFICATE-----\\n'; "
		 "cat a.key; } > x17.pem",
		 "x17.pem", "malformed"},
		{"for i in 1 2 3 4 5; do cat a.crt; done > x18.pem; cat a.key >> x18.pem", "x18.pem",
		 "more than 8 certificates"},
		{"head -c 700 a.pem > x12.pem", "x12.pem", "broken PEM"},
		{"cat a.pem b.key > x13.pem", "x13.pem", "more than one private key"},
		{": > x14.pem", "x14.pem", "no certificate"},
		{"mkdir x15.pem", "x15.pem", "cannot be read"}};

	for (size_t i = 0; i < RP_LEN(rows); i++) {
		run("%s", rows[i].make);
		HOLDS_FOR(rows[i].file, load(at(rows[i].file), NULL, NULL) == NULL);
		const char *text = said();
		HOLDS_FOR(text, strstr(text, rows[i].file) && strstr(text, rows[i].says));
		HOLDS_FOR(text, strchr(text, '\n') == strrchr(text, '\n'));
	}
}

static void what_is_not_there_yet_is_a_warning(void)
{
	struct crt_set *set = load(at("late.pem"), at("a.pem"), at("no-dir"));

	HOLDS(set && set->npair == 1);
	const char *text = said();
	HOLDS_FOR(text, strstr(text, "late.pem: not there"));
	HOLDS_FOR(text, strstr(text, "no-dir"));
	HOLDS(!crt_stale(set));
	run("cp b.pem late.pem");
	HOLDS(crt_stale(set));
	crt_drop(set);
}

/* What was served keeps being served while its files are anything but whole. */
static void a_half_written_file_keeps_the_old_set(void)
{
	static const struct {
		const char *damage, *says;
	} rows[] = {{": > d1/a.crt", "a.crt: no certificate"},
				{"head -c 500 a.crt > d1/a.crt", "a.crt: broken PEM"},
				{"head -c 20 a.crt > d1/a.crt", "a.crt: no certificate"},
				{"cp b.crt d1/a.crt", "a.crt: the key in"},
				{": > d1/a.key", "a.crt: no private key in"},
				{"cp b.key d1/a.key", "a.crt: the key in"},
				{"head -c 60 a.key > d1/a.key", "a.key: broken PEM"},
				{"rm d1/a.key", "a.crt: no private key in"},
				{"rm -r d1", "d1: No such file"}};
	static const char fresh[] = "rm -rf d1; mkdir d1; cp a.crt a.key d1/; cp b.pem d1/";

	for (size_t i = 0; i < RP_LEN(rows); i++) {
		run("%s", fresh);
		struct crt_set *set = load(NULL, NULL, at("d1"));
		HOLDS(set && set->npair == 2 && !crt_stale(set) && !*said());
		run("sleep 0.01; %s", rows[i].damage);
		HOLDS_FOR(rows[i].damage, crt_stale(set));
		HOLDS_FOR(rows[i].damage, !load_after(set, NULL, NULL, at("d1")));
		const char *text = said();
		HOLDS_FOR(text, strstr(text, rows[i].says) && strchr(text, '\n') == strrchr(text, '\n'));
		HOLDS_FOR(rows[i].damage, !crt_stale(set)); /* judged and said: once */
		HOLDS(set->npair == 2 && crt_pick(set, sl_of("a.test")));
		run("sleep 0.01; %s", fresh);
		HOLDS_FOR(rows[i].damage, crt_stale(set));
		struct crt_set *next = load_after(set, NULL, NULL, at("d1"));
		HOLDS(next && next->npair == 2 && !*said());
		crt_drop(set);
		crt_drop(next);
	}
}

/* A file that is taken away from a directory is no longer wanted; one that an option names is. */
static void a_certificate_can_be_taken_out_of_a_directory(void)
{
	run("mkdir -p d2 && cp a.pem b.pem d2/ && cp b.pem named.pem");
	struct crt_set *set = load(at("named.pem"), NULL, at("d2"));
	HOLDS(set && set->npair == 3);
	run("sleep 0.01; rm d2/b.pem");
	struct crt_set *next = load_after(set, at("named.pem"), NULL, at("d2"));
	HOLDS(crt_stale(set) && next && next->npair == 2 && !*said());
	crt_drop(set);
	run("rm named.pem");
	HOLDS(crt_stale(next) && !load_after(next, at("named.pem"), NULL, at("d2")));
	HOLDS(strstr(said(), "named.pem: not there") && !crt_stale(next));
	set = load_after(next, NULL, NULL, at("d2")); /* no longer named */
	HOLDS(set && set->npair == 1 && !*said());
	crt_drop(set);
	crt_drop(next);
}

/* No copy of a key outlives its set: not the text that it came in, not what was decoded. */
static void keys_are_wiped_when_a_set_is_dropped(void)
{
	static const char *const from[] = {"a", "rsa"};
	char both[2 * PATH_MAX], line[65], d[256];

	/* A file that is read in several steps, so that its memory has to grow. */
	run("for k in a rsa; do { for i in 1 2 3 4 5 6; do cat sub.crt | tr '-' '#'; done; "
		"cat $k.key $k.crt; } > long-$k.pem; done");
	for (size_t i = 0; i < 4; i++) {
		(void)snprintf(both, sizeof both, i < 2 ? "long-%s.pem" : "%s.crt", from[i % 2]);
		(void)snprintf(both, sizeof both, "%s", at(both));
		if (i >= 2)
			(void)snprintf(both + strlen(both), sizeof both - strlen(both), ",%s/%s.key", certs_dir,
						   from[i % 2]);
		run("sed -n 2p %s.key > line", from[i % 2]);
		size_t n;
		char *text = sys_slurp(at("line"), 100, &n);
		(void)snprintf(line, sizeof line, "%.40s", text);
		free(text);
		struct crt_set *set = load(both, NULL, NULL);
		HOLDS_FOR(both, set && set->npair == 1);
		const br_ec_private_key *ec = br_skey_decoder_get_ec(&set->pair[0]->key);
		const br_rsa_private_key *rsa = br_skey_decoder_get_rsa(&set->pair[0]->key);
		size_t nd = ec ? ec->xlen : rsa->plen;
		memcpy(d, ec ? ec->x : rsa->p, nd);
		secret.bytes[0] = line;
		secret.n[0] = 40;
		secret.bytes[1] = d;
		secret.n[1] = nd;
		secret.freed = secret.found = 0;
		crt_drop(crt_hold(set));
		HOLDS(!secret.freed); /* somebody holds it */
		crt_drop(set);
		HOLDS(secret.freed > 4);
		HOLDS_FOR(both, secret.found == 0);
		set = load(both, NULL, NULL); /* nor does one while it is read */
		crt_drop(set);
		HOLDS_FOR(both, secret.found == 0);
		char *copy = malloc(nd); /* that it would have been found */
		memcpy(copy, d, nd);
		watched_free(copy);
		HOLDS(secret.found == 1);
		secret.n[0] = secret.n[1] = 0;
	}
	HOLDS(!*said());
}

/* Once a minute, and again in a second while files are being written. */
static void files_are_looked_at_once_a_minute(void)
{
	run("mkdir -p d3 && cp a.pem d3/");
	char *dir = strdup(at("d3"));
	struct conf cf = {.cert_dir = {&dir, 1}};
	struct rp rp = {.cf = &cf, .now = 5000, .warned_day = sys_wall() / 86400};

	HOLDS(crt_load(&cf, NULL, &rp.certs) == 0);
	rp.up_due = 1;
	life_second(&rp);
	HOLDS(rp.certs_due == 65000);
	run("sleep 0.01; cp b.pem d3/");
	for (; rp.now < 64000; rp.now += 1000)
		life_second(&rp);
	HOLDS(rp.certs->npair == 1 && !*said());
	rp.now = 65000;
	life_second(&rp);
	HOLDS(rp.certs->npair == 2 && strstr(said(), "loaded anew") && rp.certs_due == 125000);
	run("sleep 0.01; : > d3/b.pem");
	rp.now = 125000;
	life_second(&rp);
	HOLDS(rp.certs->npair == 2 && strstr(said(), "b.pem: no certificate"));
	for (; rp.now < 400000; rp.now += 1000)
		life_second(&rp);
	HOLDS(rp.certs->npair == 2 && !*said());
	run("cp b.pem d3/");
	for (; rp.now < 470000; rp.now += 1000)
		life_second(&rp);
	HOLDS(rp.certs->npair == 2 && strstr(said(), "loaded anew"));
	/* One day later it is within a quarter of the end of its life. */
	rp.warned_day--;
	rp.now += 60000;
	life_second(&rp);
	HOLDS(rp.warned_day == sys_wall() / 86400 && !*said());
	crt_drop(rp.certs);
	free(dir);
}

static void the_exact_name_comes_before_the_wildcard(void)
{
	struct crt_set *set = load(at("wild.pem"), at("a.pem"), NULL);
	struct crt_info info;

	HOLDS(set && set->npair == 2);
	HOLDS(crt_pick(set, sl_of("a.test")) == set->pair[1]);
	HOLDS(crt_pick(set, sl_of("z.test")) == set->pair[0]);
	HOLDS(!crt_pick(set, sl_of("y.z.test")) && !crt_any(set, sl_of("test")));
	HOLDS(crt_any(set, sl_of("a2.test")));
	HOLDS(crt_covers(set, set->pair[1], sl_of("a2.test")));
	HOLDS(!crt_covers(set, set->pair[1], sl_of("z.test")));
	HOLDS(crt_covers(set, set->pair[1], sl_of("127.0.0.1")));
	HOLDS(crt_each(set, 0, &info) && sl_is(info.name, "*.test"));
	HOLDS(crt_each(set, 1, &info) && sl_is(info.name, "a.test"));
	HOLDS(info.not_after - info.not_before == 365 * 86400);
	HOLDS(!crt_each(set, 2, &info));
	crt_drop(set);
}

static void both_kinds_of_key_for_one_name_are_found(void)
{
	struct crt_set *set = load(at("a.pem"), at("rsa.pem"), NULL);

	HOLDS(crt_twin(set, set->pair[0], sl_of("a.test")) == set->pair[1]);
	HOLDS(crt_twin(set, set->pair[1], sl_of("a.test")) == set->pair[0]);
	HOLDS(!crt_twin(set, set->pair[0], sl_of("a2.test")));
	crt_drop(set);
}

static void directories_in_every_layout(void)
{
	run("mkdir d d/bot d/ac.test_ecc d/empty && cp a.crt d/a.fullchain.crt && cp a.one d/a.crt && "
		"cp sub.crt d/a.issuer.crt && cp sub.crt d/a.chain.crt && cp a.pem d/a.combined.crt && "
		"cp a.key d/a.key && cp b.crt d/b.crt && cp b.key d/ && cp wild.pem d/w.pem && "
		"cp rsa.crt d/r.pem && cp rsa.key d/r.key && cp a.crt d/bot/fullchain.pem && "
		"cp a.one d/bot/cert.pem && cp a.key d/bot/privkey.pem && "
		"cp b.crt d/ac.test_ecc/fullchain.cer && cp b.key d/ac.test_ecc/ac.test.key && "
		"echo hi > d/README && cp root.key d/root-key.pem");
	struct crt_set *set = load(NULL, NULL, at("d"));
	HOLDS(set && set->npair == 6);
	HOLDS_FOR(said(), true);
	HOLDS(!crt_stale(set));
	run("rm d/README");
	HOLDS(crt_stale(set));
	crt_drop(set);
	set = load(NULL, NULL, at("d"));
	run("sleep 0.01; cp b.pem d/bot/new.pem");
	HOLDS(crt_stale(set));
	crt_drop(set);
	set = load(NULL, NULL, at("d"));
	run("sleep 0.01; cat b.key > d/ac.test_ecc/ac.test.key");
	HOLDS(crt_stale(set));
	crt_drop(set);
	set = load(NULL, NULL, at("d/bot")); /* certbot's live/NAME itself */
	HOLDS(set && set->npair == 1);
	crt_drop(set);
	HOLDS(!*said());
	run("rm d/b.key");
	set = load(NULL, NULL, at("d"));
	HOLDS(set && set->npair == 5);
	crt_drop(set);
	const char *text = said();
	HOLDS_FOR(text, strstr(text, "b.crt: no private key") && strstr(text, "skipped"));
	run("cp rsa.key d/b.key");
	HOLDS(!load(NULL, NULL, at("d")));
	text = said();
	HOLDS_FOR(text, strstr(text, "b.crt: the key in"));
	/* uacme: DIR/NAME/cert.pem and DIR/private/NAME/key.pem; dehydrated's names are certbot's */
	run("mkdir -p u/private/b.test u/private/other u/b.test u/none && cp b.crt u/b.test/cert.pem && "
		"cp b.key u/private/b.test/key.pem && cp a.key u/private/key.pem && "
		"cp a.crt u/none/cert.pem");
	set = load(NULL, NULL, at("u"));
	HOLDS(set && set->npair == 1 && crt_pick(set, sl_of("b.test")) && !*said());
	run("sleep 0.01; cat b.key >> u/private/b.test/key.pem");
	HOLDS(crt_stale(set));
	crt_drop(set);
	/* lego, with --pem: the same certificate twice does no harm */
	run("mkdir l && cp b.crt l/b.test.crt && cp b.key l/b.test.key && cp sub.crt "
		"l/b.test.issuer.crt && cat b.crt b.key > l/b.test.pem && echo {} > l/b.test.json && "
		"cp wild.crt l/_.test.crt && cp wild.key l/_.test.key");
	set = load(NULL, NULL, at("l"));
	HOLDS(set && set->npair == 3 && crt_pick(set, sl_of("z.test")) && !*said());
	crt_drop(set);
}

static void expiry_is_warned_of(void)
{
	struct crt_set *set = load(at("a.pem"), NULL, NULL);
	int64_t now = sys_wall();

	crt_warn_expiry(set, now);
	HOLDS(!*said());
	crt_warn_expiry(set, now + 275 * 86400);
	HOLDS(strstr(said(), "expires in 21"));
	crt_warn_expiry(set, now + 366 * 86400);
	HOLDS(strstr(said(), "a.test expired 2"));
	crt_warn_expiry(set, now - 86400);
	HOLDS(strstr(said(), "not valid yet"));
	crt_warn_expiry(set, 1000);
	HOLDS(!*said());
	crt_drop(set);
}

static void anchors_are_read(void)
{
	struct crt_anchors *a = crt_anchors_load(at("root.crt"));

	HOLDS(a && a->n == 1 && a->v[0].flags == BR_X509_TA_CA);
	crt_anchors_free(crt_anchors_hold(a));
	crt_anchors_free(a);
	HOLDS(!crt_anchors_load(at("a.key")) && strstr(said(), "no usable certificate"));
	HOLDS(!crt_anchors_load(at("none")) && strstr(said(), "cannot be read"));
	a = crt_anchors_load(NULL);
	HOLDS(!a || a->n > 50);
	crt_anchors_free(a);
	(void)said();
}

int main(void)
{
	make_certs();
	log_to_dir();
	make_cert("a", EC256, "DNS:a.test,DNS:a2.test,IP:127.0.0.1", YEAR);
	make_cert("b", EC256, "DNS:b.test", YEAR);
	make_cert("rsa", RSA2048, "DNS:a.test", YEAR);
	make_cert("p384", EC384, "DNS:p.test", YEAR);
	make_cert("wild", EC256, "DNS:*.test", YEAR);
	make_cert("nosan", EC256, "", YEAR);
	RUN(names_match_exactly_or_by_one_label);
	RUN(der_lengths_are_definite_and_short);
	RUN(times_are_read);
	RUN(broken_certificates_do_no_harm);
	RUN(every_kind_of_key_is_read);
	RUN(each_fault_names_the_file_and_what);
	RUN(what_is_not_there_yet_is_a_warning);
	RUN(a_half_written_file_keeps_the_old_set);
	RUN(a_certificate_can_be_taken_out_of_a_directory);
	RUN(keys_are_wiped_when_a_set_is_dropped);
	RUN(files_are_looked_at_once_a_minute);
	RUN(the_exact_name_comes_before_the_wildcard);
	RUN(both_kinds_of_key_for_one_name_are_found);
	RUN(directories_in_every_layout);
	RUN(expiry_is_warned_of);
	RUN(anchors_are_read);
	remove_certs();
	return unit_end();
}
