/* rproxy.h: the map of rproxy.c.
 *
 * SPDX-License-Identifier: MIT
 *
 * Every limit with its reason, the build switches, the types that rooms share and tests name,
 * the list of reasons, the room map, and the five functions that main() itself uses.
 * There is no promise of a stable API: this header exists to be read.
 */
#ifndef RPROXY_H
#define RPROXY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RP_VERSION "0.1.0"

/* ---- build switches: always 0 or 1 ---------------------------------------------------------- */

#ifndef RP_DEBUG
#define RP_DEBUG 0 /* 1: check every invariant after every turn, and abort on a broken one */
#endif
#ifndef RP_CRYPT
#define RP_CRYPT 1 /* 1: the libc has crypt(3), for bcrypt */
#endif

/* ---- limits: value, and why ------------------------------------------------------------------- */

#define RP_FIELDS_MAX 100	 /* fields of a head; nginx has no count, HAProxy 101 */
#define RP_METHOD_MAX 32	 /* bytes; the longest registered one is UPDATEREDIRECTREF, 17 */
#define RP_LINE_MAX 8192	 /* bytes of a request line; RFC 9112 3 asks for 8000 */
#define RP_HEAD_MIN 1024	 /* bytes; the smallest --head-max */
#define RP_HEAD_MAX 61440	 /* bytes; the largest: spans are 16 bit offsets */
#define RP_HEAD_SLACK 4096	 /* bytes that we may add to a head: forwarding fields, set=, hsts */
#define RP_TLS_IN 16709		 /* bytes: a full TLS record, 16384 + the 325 that BearSSL asks for */
#define RP_TLS_OUT 16469	 /* bytes: the same outwards, 16384 + 85 */
#define RP_CHUNK_LINE 256	 /* bytes of one chunk-size line with its extensions */
#define RP_CHUNK_EXT 4096	 /* bytes of chunk extensions in one message (CVE-2023-39326) */
#define RP_TRAILER_MAX 8192	 /* bytes of a trailer section, which is parsed and dropped */
#define RP_INTERIM_MAX 8	 /* 1xx answers before the final one */
#define RP_EMPTY_LINES 2	 /* CRLFs before a request line that are forgiven, RFC 9112 2.2 */
#define RP_IDLE_UP 32		 /* idle connections kept for one target */
#define RP_IDLE_UP_MS 4000	 /* ms; below the 5 s after which Node's http server closes */
#define RP_ADDRS_MAX 8		 /* addresses kept for one name */
#define RP_NAME_MAX 253		 /* bytes of a host name, RFC 1035 2.3.4 without the final dot */
#define RP_HELLO_MAX 16384	 /* bytes of a ClientHello that we look into */
#define RP_TARGETS_MAX 16	 /* targets of one route */
#define RP_ERROR_PAGE 65536	 /* bytes of an error-page file */
#define RP_AUTH_MS 30000	 /* ms for a password check: 16 may wait, 2 s each on a slow router */
#define RP_LINGER_MS 2000	 /* ms that a refused client may go on sending before we hang up */
#define RP_LINGER_MAX 262144 /* bytes within that time that give it as long again */
#define RP_LINGER_ALL 30000	 /* ms in all */
#define RP_LOG_LINE 4096	 /* bytes of one log line */
#define RP_CAPTURE 1536		 /* bytes of a request that are kept for its log line */
#define RP_CLOCK_SANE 1704067200 /* unix seconds, 2024-01-01: before it the clock has no battery */
#define RP_SPARE_FDS 8			 /* descriptors that accept may not use: reload and log need them */

_Static_assert(RP_HEAD_MAX + RP_HEAD_SLACK <= 65536, "spans of a head are 16 bit");

/* ---- words that every room uses --------------------------------------------------------------- */

/* A run of bytes that somebody else owns; not terminated. */
struct sl {
	const char *p;
	size_t n;
};

enum io { IO_OK, IO_AGAIN, IO_EOF, IO_ERR };

/* An address and port. IPv4 is kept as ::ffff:a.b.c.d, so that there is one way to compare. */
struct addr {
	uint8_t ip[16];
	uint16_t port;
};

/* The first `bits` of `ip`, 0 to 128, count. `cf`: the range is Cloudflare's. */
struct cidr {
	uint8_t ip[16];
	uint8_t bits;
	bool cf;
};

struct cidrs {
	struct cidr *v; /* owns */
	size_t n;
};

struct strs {
	char **v; /* owns, and each string */
	size_t n;
	char **from; /* owns, and each: "FILE:LINE: " or "--flag: ", of options alone */
};

/* One buffer of the pool. Bytes r..w are there to be taken; w..cap is room. */
struct buf {
	uint8_t *p;
	uint32_t r, w, cap;
};

/* Why the proxy itself answered or cut a request: constant, log word, status (0: none). */
#define RP_REASONS(X)                                                                              \
	X(NONE, "-", 0, "the backend's own answer, whole")                                             \
	X(NO_ROUTE, "no-route", 404, "no route serves this host and path (or what --default says)")    \
	X(BAD_REQUEST, "bad-request", 400, "the request breaks the grammar of HTTP")                   \
	X(HEAD_TOO_BIG, "head-too-big", 431, "the head is over --head-max or has over 100 fields")     \
	X(URI_TOO_LONG, "uri-too-long", 414, "the request line is over 8 KB")                          \
	X(BODY_TOO_BIG, "body-too-big", 413, "the body is over body-max")                              \
	X(HEAD_TIMEOUT, "head-timeout", 408, "the head was not whole within --head-timeout")           \
	X(BODY_TIMEOUT, "body-timeout", 408,                                                           \
	  "the client sent nothing of its body for --stall-timeout")                                   \
	X(DENIED, "denied", 403, "allow= or deny= keeps this address out")                             \
	X(AUTH_REQUIRED, "auth-required", 401, "no or wrong credentials for auth=")                    \
	X(RATE_LIMITED, "rate-limited", 429, "the address is over rate=")                              \
	X(MISDIRECTED, "misdirected", 421,                                                             \
	  "the connection's certificate, or the status page, is not for this host")                    \
	X(METHOD_REFUSED, "method-refused", 405, "TRACE is refused; CONNECT gets 501")                 \
	X(UPGRADE_REFUSED, "upgrade-refused", 502, "the backend switched protocols unasked")           \
	X(REDIRECT, "redirect", 301, "to https, or where a redirect: route says")                      \
	X(CHALLENGE, "challenge", 200, "an ACME challenge file from --acme-dir")                       \
	X(UP_UNRESOLVED, "upstream-unresolved", 502, "the target's name has no address")               \
	X(UP_REFUSED, "upstream-refused", 502, "the target refused the connection or is unreachable")  \
	X(UP_RESET, "upstream-reset", 502, "the target closed or reset the connection")                \
	X(UP_TIMEOUT, "upstream-timeout", 504, "the target did not connect or answer in time")         \
	X(UP_TLS, "upstream-tls", 502, "TLS to the target failed: certificate, name or protocol")      \
	X(UP_BAD, "upstream-bad", 502, "the target's answer breaks the grammar of HTTP")               \
	X(UP_WAKING, "upstream-waking", 503, "the target is being woken by wake=")                     \
	X(CLIENT_GONE, "client-gone", 0, "the client went away before the end")                        \
	X(CLIENT_STALLED, "client-stalled", 0, "the client took nothing for --stall-timeout")          \
	X(UP_STALLED, "upstream-stalled", 504, "the target took nothing for --stall-timeout")          \
	X(DRAINING, "draining", 503, "the proxy is stopping and time is up")                           \
	X(INTERNAL, "internal", 503, "out of descriptors, memory or buffers")

enum why {
#define X(NAME, word, status, text) WHY_##NAME,
	RP_REASONS(X)
#undef X
		WHY_COUNT
};

/* ---- the configuration: one counted, read-only snapshot --------------------------------------- */

enum cf_listen_kind { LS_HTTP, LS_HTTPS, LS_STATUS };

struct cf_listen {
	enum cf_listen_kind kind;
	struct addr addr; /* all zero ip: every address, IPv4 and IPv6 */
	const char *file; /* borrows: where it was said, for messages */
	unsigned line;
};

enum target_kind { TG_HTTP, TG_HTTPS, TG_UNIX, TG_TCP };

/* One backend address of a route. `up` is its health and pool, matched across reloads by key. */
struct target {
	enum target_kind kind;
	char *host;		 /* owns: name or address as written, lower case, no brackets; NULL for unix */
	char *path;		 /* owns: unix socket path, else NULL */
	char *label;	 /* owns: "http://10.0.0.4:8096" for the log */
	char *key;		 /* owns: label + TLS settings + send-proxy: equal keys share connections */
	char *authority; /* owns: host[:port] for host=target, port left out when it is the default */
	bool literal;	 /* host is an address: addr is set and DNS is never asked */
	struct addr addr;
	uint16_t port;
	uint32_t up; /* index into rp->up, set when the snapshot goes live */
};

enum rt_kind { RT_PROXY, RT_TCP, RT_REDIRECT, RT_STATUS };
enum rt_host { RT_HOST_KEEP, RT_HOST_TARGET, RT_HOST_NAME };
enum rt_verify { RT_VERIFY_CA, RT_VERIFY_PIN, RT_VERIFY_OFF };

struct route {
	char *host; /* owns: lower case: "a.b", "*.b" or "*" */
	char *path; /* owns: "" or "/a/b", without a final slash */
	enum rt_kind kind;
	struct target *target; /* owns */
	unsigned ntarget;
	char *redirect; /* owns: absolute URL; "{uri}" in it stands for path and query */
	int status;
	enum rt_host host_mode;
	char *host_name; /* owns */
	bool strip, plain, round_robin;
	int64_t hsts; /* seconds, -1: none */
	struct cidrs allow, deny;
	char *auth_file;		  /* owns */
	struct gate_users *users; /* owns: what was read from auth_file */
	uint32_t rate, burst;	  /* requests per second and bucket size; 0: no limit */
	struct strs hide;		  /* field names, lower case */
	struct strs set, add;	  /* "Name: value" */
	uint64_t set_ids;		  /* which fields set= writes: bits of HEAD */
	enum rt_verify verify;
	uint8_t pin[32];
	char *ca_file;				 /* owns; NULL: the system's bundle */
	struct crt_anchors *anchors; /* owns; NULL unless an https target needs them */
	int send_proxy;				 /* 0, 1 or 2 */
	char *check;				 /* owns: path of the active health check, or NULL */
	bool wake;
	uint8_t wake_mac[6];
	struct addr wake_addr; /* port 0: broadcast 255.255.255.255:9 */
	char *error_page_file; /* owns */
	char *error_page;	   /* owns: what was read from it */
	size_t error_page_len;
	uint64_t body_max; /* bytes; 0: no limit */
	uint64_t response_ms, tunnel_ms;
	char *rule;		  /* owns: the RULE as written, for --dump-config */
	const char *file; /* borrows */
	unsigned line;
};

enum cf_default { CF_DEFAULT_STATUS, CF_DEFAULT_DROP, CF_DEFAULT_REDIRECT };
enum cf_log_format { CF_LOG_COMBINED, CF_LOG_JSON };

/* What --check, --help and so on ask for instead of serving. */
enum cf_action { CF_SERVE, CF_CHECK, CF_DUMP, CF_HELP, CF_VERSION };

struct conf {
	unsigned holds;
	unsigned faults; /* errors met while it was built */
	enum cf_action action;
	char *help; /* owns: what --help=WORD asked for, or NULL */

	struct cf_listen *listen; /* owns */
	size_t nlisten;
	uint32_t public_port; /* 0: the first HTTPS listener's */
	struct route **route; /* owns; in the order given until rt_seal sorts it */
	size_t nroute;
	struct strs cert; /* CHAIN[,KEY] */
	struct strs cert_dir;
	struct strs acme_dir; /* at most one */
	struct cidrs trust, accept_proxy;
	char *default_cert;
	uint32_t session_cache;
	char *user, *chroot_dir;
	char *log;
	uint32_t log_format, log_level;
	char *pid_file;
	uint32_t max_conns, max_conns_per_ip;
	uint64_t head_ms, idle_ms, connect_ms, response_ms, stall_ms, tunnel_ms, drain_ms;
	uint64_t head_max, body_max; /* bytes */
	enum cf_default default_kind;
	int default_status;
	char *default_url;
	struct strs files;	  /* every file that was read; `file` pointers borrow from here */
	struct cf_said *said; /* owns: where each option was said last */
};

/* ---- the room map -------------------------------------------------------------------------------
 * A room calls only rooms above it, and only through their doors.
 *
 * SYS    sys_   syscalls, clock, randomness: the only test seam and the only OS extensions
 * STR    sl_    slices, numbers, tokens, base64, constant-time equality
 * TEXT   sb_    a writer into a fixed buffer
 * LOG    log_   one line per event: stderr, syslog, file
 * BUF    buf_   fixed buffers from a pool
 * TIME   tm_    deadlines: says what is due, calls nobody
 * ADDR   addr_  addresses and ranges
 * HEAD   hd_    strict HTTP/1.1 head parser and writer
 * BODY   fr_    framing: decided once, then scanned
 * ROUTE  rt_    the static host table
 * CONF   cf_    the option table and its snapshots
 * CERT   crt_   chains, keys and names
 * TLS    tls_   BearSSL contexts and the non-blocking pump
 * NET    net_   listen, accept, dial, read, write, PROXY header
 * JAIL   jail_  giving up privileges
 * DNS    dns_   the helper process: names and password hashes
 * UP     up_    targets: pool, health, wake
 * GATE   gate_  who is calling, and may they
 * REPLY  rep_   our own answers
 * TUN    tun_   two connections, two half-closes
 * TX     tx_    one transaction
 * LIFE   life_  start, signals, reload, drain
 * LOOP   loop_  poll, dispatch, reap
 * MAIN   rp_    the five functions below
 *
 * Ownership: struct rp owns everything; a conn owns its descriptor, its TLS engine and its
 * buffers; a tx borrows its two connections and holds the snapshot it began with.
 */

struct rp;

/* Reads the arguments, opens everything, gives up privileges. Returns NULL and sets *status to the
 * exit status when there is nothing to run (help, --check, an error). */
struct rp *rp_open(int argc, char **argv, int *status);
/* One turn of the loop: waits at most until the next deadline. Returns false when it is time to
 * close. */
bool rp_step(struct rp *rp);
/* Builds a new snapshot beside the old and swaps; on any error keeps the old. 0 or -1. */
int rp_reload(struct rp *rp);
/* Stops accepting; what is under way has --drain-timeout to end. */
void rp_drain(struct rp *rp);
/* Frees everything; NULL is fine. */
void rp_close(struct rp *rp);

#endif
