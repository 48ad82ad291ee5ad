/* mbedtls.c: an HTTPS client on Debian's mbedTLS, for test_interop.py.
 *
 * SPDX-License-Identifier: MIT
 *
 * mbedtls PORT NAME CA-FILE REQUEST ANSWER [REQUEST ANSWER]...: sends each file REQUEST on a
 * connection of its own, the later ones with the session of the first, and writes to the file
 * ANSWER what came back until close_notify.
 */
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/net_sockets.h>
#include <mbedtls/ssl.h>
#include <stdio.h>
#include <stdlib.h>

static mbedtls_ssl_config conf;
static mbedtls_ssl_session session;
static const char *port, *name;

static void must(int r, const char *what)
{
	if (r >= 0)
		return;
	fprintf(stderr, "%s: -0x%04x\n", what, (unsigned)-r);
	exit(1);
}

static void exchange(const char *request, const char *answer, int first)
{
	static unsigned char buffer[65536];
	mbedtls_net_context net;
	mbedtls_ssl_context ssl;
	FILE *in = fopen(request, "rb"), *out = fopen(answer, "wb");
	size_t n, at;
	int r;

	must(in && out ? 0 : -1, request);
	mbedtls_net_init(&net);
	mbedtls_ssl_init(&ssl);
	must(mbedtls_net_connect(&net, "127.0.0.1", port, MBEDTLS_NET_PROTO_TCP), "connect");
	must(mbedtls_ssl_setup(&ssl, &conf), "setup");
	must(mbedtls_ssl_set_hostname(&ssl, name), "name");
	if (!first)
		must(mbedtls_ssl_set_session(&ssl, &session), "set session");
	mbedtls_ssl_set_bio(&ssl, &net, mbedtls_net_send, mbedtls_net_recv, NULL);
	must(mbedtls_ssl_handshake(&ssl), "handshake");
	if (first)
		must(mbedtls_ssl_get_session(&ssl, &session), "get session");
	while ((n = fread(buffer, 1, sizeof buffer, in)) > 0)
		for (at = 0; at < n; at += (size_t)r)
			must(r = mbedtls_ssl_write(&ssl, buffer + at, n - at), "write");
	while ((r = mbedtls_ssl_read(&ssl, buffer, sizeof buffer)) > 0)
		fwrite(buffer, 1, (size_t)r, out);
	must(r == MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY ? 0 : r, "read");
	must(mbedtls_ssl_close_notify(&ssl), "close");
	mbedtls_ssl_free(&ssl);
	mbedtls_net_free(&net);
	fclose(in);
	fclose(out);
}

int main(int argc, char **argv)
{
	mbedtls_entropy_context entropy;
	mbedtls_ctr_drbg_context rng;
	mbedtls_x509_crt ca;

	if (argc < 6)
		return 2;
	port = argv[1];
	name = argv[2];
	mbedtls_entropy_init(&entropy);
	mbedtls_ctr_drbg_init(&rng);
	mbedtls_x509_crt_init(&ca);
	mbedtls_ssl_config_init(&conf);
	mbedtls_ssl_session_init(&session);
	must(mbedtls_ctr_drbg_seed(&rng, mbedtls_entropy_func, &entropy, NULL, 0), "seed");
	must(mbedtls_x509_crt_parse_file(&ca, argv[3]), "ca");
	must(mbedtls_ssl_config_defaults(&conf, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_STREAM,
									 MBEDTLS_SSL_PRESET_DEFAULT),
		 "defaults");
	mbedtls_ssl_conf_ca_chain(&conf, &ca, NULL);
	mbedtls_ssl_conf_authmode(&conf, MBEDTLS_SSL_VERIFY_REQUIRED);
	mbedtls_ssl_conf_rng(&conf, mbedtls_ctr_drbg_random, &rng);
	for (int i = 4; i + 1 < argc; i += 2)
		exchange(argv[i], argv[i + 1], i == 4);
	return 0;
}
