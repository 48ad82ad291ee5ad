/* unit_certs.h: a directory with certificates that the openssl command makes, for the unit tests of
 * CERT and TLS.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef UNIT_CERTS_H
#define UNIT_CERTS_H

static char certs_dir[] = "/tmp/rproxy-certs-XXXXXX";

/* A path below the directory; a few live at the same time. */
static const char *at(const char *name)
{
	static char path[8][PATH_MAX];
	static unsigned turn;
	char *out = path[turn++ % 8];

	(void)snprintf(out, PATH_MAX, "%s/%s", certs_dir, name);
	return out;
}

/* Runs a shell command in the directory. */
__attribute__((format(printf, 1, 2))) static void run(const char *fmt, ...)
{
	char text[4096];
	va_list ap;
	int n = snprintf(text, sizeof text, "cd %s && { ", certs_dir);

	va_start(ap, fmt);
	n += vsnprintf(text + n, sizeof text - (size_t)n, fmt, ap);
	va_end(ap);
	(void)snprintf(text + n, sizeof text - (size_t)n, "; } >>log 2>&1");
	if (system(text) != 0) {
		printf("not ok: %s\n", text);
		exit(1);
	}
}

/* Makes NAME.key, NAME.crt and NAME.pem (chain and key), signed by the intermediate CA. */
static void make_cert(const char *name, const char *key, const char *san, const char *days)
{
	run("openssl genpkey %s -out %s.key", key, name);
	run("openssl req -new -key %s.key -subj /CN=%s -out %s.csr", name, name, name);
	run("printf 'subjectAltName=%s\\n' > ext", san);
	run("openssl x509 -req -in %s.csr -CA sub.crt -CAkey sub.key -CAcreateserial %s "
		"%s -out %s.one -sha256",
		name, days, san[0] ? "-extfile ext" : "", name);
	run("cat %s.one sub.crt > %s.crt; cat %s.crt %s.key > %s.pem", name, name, name, name, name);
}

#define EC256 "-algorithm EC -pkeyopt ec_paramgen_curve:P-256"
#define EC384 "-algorithm EC -pkeyopt ec_paramgen_curve:P-384"
#define RSA2048 "-algorithm RSA -pkeyopt rsa_keygen_bits:2048"
#define YEAR "-days 365"

/* A root, an intermediate CA below it. */
static void make_certs(void)
{
	if (!mkdtemp(certs_dir))
		exit(1);
	run("openssl genpkey " EC256 " -out root.key");
	run("openssl req -x509 -new -key root.key -subj /CN=Root -days 3650 -out root.crt");
	run("openssl genpkey " RSA2048 " -out sub.key");
	run("openssl req -new -key sub.key -subj /CN=Sub -out sub.csr");
	run("printf 'basicConstraints=critical,CA:TRUE\\n' > ext");
	run("openssl x509 -req -in sub.csr -CA root.crt -CAkey root.key -CAcreateserial -days 3650 "
		"-extfile ext -out sub.crt -sha384");
}

static void remove_certs(void)
{
	char text[128];

	(void)snprintf(text, sizeof text, "rm -rf %s", certs_dir);
	(void)!system(text);
}

/* Loads --cert and --cert-dir options (NULL: none) to replace a set (NULL: the first). NULL when it
 * fails: then the old set has been told what was looked at. */
static struct crt_set *load_after(struct crt_set *was, const char *cert, const char *cert2,
								  const char *dir)
{
	char *certs[2] = {cert ? strdup(cert) : NULL, cert2 ? strdup(cert2) : NULL};
	char *dirs[1] = {dir ? strdup(dir) : NULL};
	struct conf cf = {.cert = {certs, cert2 ? 2 : cert ? 1 : 0}, .cert_dir = {dirs, dir ? 1 : 0}};
	struct crt_set *set;

	if (crt_load(&cf, was, &set) < 0) {
		if (was)
			crt_watch(was, set);
		crt_drop(set);
		set = NULL;
	}
	free(certs[0]);
	free(certs[1]);
	free(dirs[0]);
	return set;
}

static struct crt_set *load(const char *cert, const char *cert2, const char *dir)
{
	return load_after(NULL, cert, cert2, dir);
}

/* What the log said since the last call; it goes to a file in the directory. */
static const char *said(void)
{
	static char text[8192];
	static size_t seen;
	size_t n = 0;
	char *all = sys_slurp(at("events"), 1 << 20, &n);

	size_t len = n - seen < sizeof text - 1 ? n - seen : sizeof text - 1;
	memcpy(text, all ? all + seen : "", len);
	text[len] = 0;
	seen = n;
	memset(log_sink.fold, 0, sizeof log_sink.fold); /* the same event is said again */
	free(all);
	return text;
}

static void log_to_dir(void)
{
	(void)log_open(at("events"), LOG_DEBUG);
	log_started();
}

#endif
