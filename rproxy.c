/* rproxy: a reverse proxy for the small router at the edge of a home network.
 *
 * SPDX-License-Identifier: MIT
 * Copyright (c) 2026 the rproxy authors
 *
 *     rproxy --http 80 --https 443 --cert home.pem --route nas.example.com=http://10.0.0.4:8096
 *
 * One process, one thread, one poll() loop. Clients come in on --http and --https; TLS ends here
 * (BearSSL); the host table says which backend serves a name; requests go on as HTTP/1.1. A child
 * process answers what may block: names and password hashes. README.md is the manual for users,
 * `rproxy --help=man` the one of all options, rproxy.h the map for readers.
 *
 * The file is a house of rooms, bottom-up: each room calls only rooms above it, through the
 * functions that its banner names as its door. There are no prototypes, so the compiler refuses a
 * call to something further down. Search for "==[ TX ]" to get to a room:
 *
 *   FRONT SYS STR TEXT LOG BUF TIME ADDR HEAD BODY ROUTE CONF CERT TLS NET JAIL DNS UP GATE REPLY TUN
 *   TX LIFE LOOP MAIN
 */

/* ==[ FRONT ]============================================ prefix: none ==
 * Includes and a few words that the whole file uses.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include "rproxy.h"

#include <arpa/inet.h>
#include <assert.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include <bearssl.h>

#define RP_LEN(array) (sizeof(array) / sizeof *(array))

/* Between these two stand rooms that run seldom: there a small program is worth more than a fast one. */
#if defined __GNUC__ && !defined __clang__
#define RP_SELDOM _Pragma("GCC push_options") _Pragma("GCC optimize(\"Os\")")
#define RP_OFTEN _Pragma("GCC pop_options")
#else
#define RP_SELDOM
#define RP_OFTEN
#endif

#ifndef RP_SYS_FILE

/* ==[ SYS ]============================================== prefix: sys_ ==
 * Thin wrappers of system calls: EINTR is hidden, sockets are non-blocking and close on exec.
 * The only room with extensions of the operating system, and the seam that simulations replace
 * (they define RP_SYS_FILE). Errors are -1 with errno set, as the calls have them.
 * Door: sys_mem sys_unmem sys_fade sys_now sys_wall sys_random sys_read sys_peek sys_write sys_poll
 *       sys_close sys_shut sys_reset sys_socket sys_bind sys_accept sys_connect sys_sockerr
 *       sys_tune sys_local sys_slurp sys_stamp sys_datagram sys_opendir sys_challenge
 *       sys_descriptors sys_pid_file sys_pid_end sys_std sys_notify_open sys_notify sys_signals
 *       sys_taken sys_reap
 *       sys_first_byte sys_open
 */

/* Zeroed memory that costs nothing until it is touched; NULL when there is none. */
static void *sys_mem(size_t n)
{
	void *p = mmap(NULL, n ? n : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void sys_unmem(void *p, size_t n)
{
	if (p)
		(void)munmap(p, n ? n : 1);
}

/* Gives the pages of p..p+n back to the system; they read as zeros afterwards. p and n are
 * multiples of the page size, or nothing happens. */
static void sys_fade(void *p, size_t n)
{
	(void)madvise(p, n, MADV_DONTNEED);
}

/* Milliseconds of a clock that never jumps. */
static uint64_t sys_now(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* Seconds since 1970, which on a router without a battery may be anything. */
static int64_t sys_wall(void)
{
	return (int64_t)time(NULL);
}

/* Random bytes fit for keys. Ends the process when the system has none: nothing here could go on. */
static void sys_random(void *p, size_t n)
{
	uint8_t *at = p;

	while (n) {
		ssize_t got = getrandom(at, n < 256 ? n : 256, 0);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			abort();
		at += got;
		n -= (size_t)got;
	}
}

static ssize_t sys_read(int fd, void *p, size_t n)
{
	ssize_t r;

	do
		r = recv(fd, p, n, 0);
	while (r < 0 && errno == EINTR);
	return r;
}

/* Looks whether something came on a stream without taking it: 1 bytes, 0 its end, -1 nothing (errno
 * EAGAIN) or an error. */
static ssize_t sys_peek(int fd)
{
	char byte;

	return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
}

static ssize_t sys_write(int fd, const void *p, size_t n)
{
	ssize_t r;

	do
		r = send(fd, p, n, MSG_NOSIGNAL);
	while (r < 0 && errno == EINTR);
	return r;
}

/* Waits at most ms (< 0: for ever). Returns how many entries have events, 0 also after a signal. */
static int sys_poll(struct pollfd *p, size_t n, int ms)
{
	int r = poll(p, (nfds_t)n, ms);

	return r < 0 ? 0 : r;
}

static void sys_close(int fd)
{
	if (fd >= 0)
		(void)close(fd);
}

/* No more will be sent on this stream. */
static void sys_shut(int fd)
{
	(void)shutdown(fd, SHUT_WR);
}

/* Makes the coming close a reset: the far end must not take what it got for a whole. */
static void sys_reset(int fd)
{
	struct linger l = {.l_onoff = 1, .l_linger = 0};

	(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
}

static int sys_socket(int family)
{
	return socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

/* A stream that sends at once and keeps little unsent in the kernel, so that "the peer takes
 * nothing" is seen when it happens: poll() says that there is room below 16 KB. */
static void sys_tune(int fd)
{
	int on = 1, unsent = 16384;

	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
}

/* Binds and listens; whom it accepts is tuned as it is (Linux). both: an IPv6 socket takes IPv4 too. */
static int sys_bind(int fd, const struct sockaddr *sa, socklen_t len, bool both)
{
	int on = 1, only6 = !both;

	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	sys_tune(fd);
	if (sa->sa_family == AF_INET6 &&
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only6, sizeof only6) < 0)
		return -1;
	return bind(fd, sa, len) < 0 ? -1 : listen(fd, 4096);
}

static int sys_accept(int fd, struct sockaddr *sa, socklen_t *len)
{
	int r;

	do
		r = accept4(fd, sa, len, SOCK_NONBLOCK | SOCK_CLOEXEC);
	while (r < 0 && errno == EINTR);
	return r;
}

/* 0 connected, -1 with EINPROGRESS under way. */
static int sys_connect(int fd, const struct sockaddr *sa, socklen_t len)
{
	return connect(fd, sa, len);
}

/* The error that a connect under way ended with, 0 for none. */
static int sys_sockerr(int fd)
{
	int err = 0;
	socklen_t len = sizeof err;

	return getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0 ? errno : err;
}

static int sys_local(int fd, struct sockaddr *sa, socklen_t *len)
{
	return getsockname(fd, sa, len);
}

/* A whole file of at most max bytes, with a 0 behind it that len does not count; the caller frees.
 * NULL with errno; EFBIG: it is larger. */
static char *sys_slurp(const char *path, size_t max, size_t *len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	size_t n = 0, cap = 0;
	char *p = NULL;
	ssize_t got = -1;

	while (fd >= 0) {
		if (n == cap) {
			char *more = n > max ? NULL : malloc((cap = cap ? cap * 2 : 4096) + 1);
			if (!more) {
				errno = n > max ? EFBIG : ENOMEM;
				got = -1;
				break;
			}
			if (p) { /* it may be a key: realloc() would leave a copy of it behind */
				memcpy(more, p, n);
				explicit_bzero(p, n);
				free(p);
			}
			p = more;
		}
		got = read(fd, p + n, cap - n);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		n += (size_t)got;
	}
	int err = errno;
	sys_close(fd);
	if (fd < 0 || got < 0 || n > max) {
		free(p);
		errno = got == 0 ? EFBIG : err;
		return NULL;
	}
	p[n] = 0;
	*len = n;
	return p;
}

/* What tells one state of a file from another. */
struct sys_stamp {
	int64_t size, ms, ino;
};

static int sys_stamp(const char *path, struct sys_stamp *out)
{
	struct stat st;

	*out = (struct sys_stamp){0, 0, 0};
	if (stat(path, &st) < 0)
		return -1;
	*out = (struct sys_stamp){(int64_t)st.st_size,
							  (int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000,
							  (int64_t)st.st_ino};
	return 0;
}

/* Sends one UDP packet, broadcast allowed. */
static int sys_datagram(const struct sockaddr *sa, socklen_t len, const void *p, size_t n)
{
	int on = 1, fd = socket(sa->sa_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	(void)setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &on, sizeof on);
	ssize_t r = sendto(fd, p, n, 0, sa, len);
	sys_close(fd);
	return r == (ssize_t)n ? 0 : -1;
}

/* A directory to open files below, also after chroot; -1 when it is not there. */
static int sys_opendir(const char *path)
{
	return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* Reads the regular file `name` ("x", "a/b/x") of at most cap bytes below a directory; no symbolic
 * link is followed, and a FIFO does not block. Returns its length or -1. */
static ptrdiff_t sys_challenge(int dir, const char *name, char *p, size_t cap)
{
	const char *slash = strchr(name, '/');
	char step[64];
	struct stat st;
	ptrdiff_t r = -1;

	if (slash) {
		(void)snprintf(step, sizeof step, "%.*s", (int)(slash - name), name);
		int below = openat(dir, step, O_RDONLY | O_CLOEXEC | O_DIRECTORY | O_NOFOLLOW);
		if (below >= 0)
			r = sys_challenge(below, slash + 1, p, cap);
		sys_close(below);
		return r;
	}
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size <= cap)
		r = read(fd, p, cap);
	sys_close(fd);
	return r;
}

/* Lifts the limit of descriptors to at least want; returns what there is. */
static uint32_t sys_descriptors(uint32_t want)
{
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl) < 0)
		return 256;
	if (rl.rlim_cur < want) {
		struct rlimit up = {.rlim_cur = want, .rlim_max = rl.rlim_max > want ? rl.rlim_max : want};
		if (setrlimit(RLIMIT_NOFILE, &up) < 0) {
			up = (struct rlimit){.rlim_cur = rl.rlim_max, .rlim_max = rl.rlim_max};
			(void)setrlimit(RLIMIT_NOFILE, &up);
		}
		(void)getrlimit(RLIMIT_NOFILE, &rl);
	}
	return rl.rlim_cur > UINT32_MAX ? UINT32_MAX : (uint32_t)rl.rlim_cur;
}

/* Writes our number to a file of its own; a descriptor of it, or -1 with errno. */
static int sys_pid_file(const char *path)
{
	char text[24];
	struct stat st;
	int n = snprintf(text, sizeof text, "%ld\n", (long)getpid());

	if (lstat(path, &st) == 0 && S_ISREG(st.st_mode))
		(void)unlink(path); /* so that who has the old one does not take ours away */
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0644);
	if (fd >= 0 && write(fd, text, (size_t)n) != n) {
		int err = errno;
		sys_close(fd);
		errno = err;
		return -1;
	}
	return fd;
}

/* Takes the pid file away. Where that is not allowed any more it is emptied: an old number in it
 * would be somebody else's one day. */
static void sys_pid_end(int fd, const char *path)
{
	struct stat is, was;

	if (fd < 0)
		return;
	bool ours = fstat(fd, &was) == 0 && stat(path, &is) == 0 && is.st_ino == was.st_ino &&
				is.st_dev == was.st_dev;
	if ((!ours || unlink(path) < 0) && ftruncate(fd, 0) < 0)
		errno = 0; /* a pid file on /dev/null, say */
	sys_close(fd);
}

/* Descriptors 0, 1 and 2 are there, or what is opened next would be taken for them. */
static void sys_std(void)
{
	int fd;

	while ((fd = open("/dev/null", O_RDWR)) >= 0 && fd < 3)
		;
	sys_close(fd);
}

/* A socket to systemd's notify address ($NOTIFY_SOCKET), -1 without one. */
static int sys_notify_open(void)
{
	const char *name = getenv("NOTIFY_SOCKET");
	struct sockaddr_un un = {.sun_family = AF_UNIX};

	if (!name || (name[0] != '/' && name[0] != '@') || strlen(name) >= sizeof un.sun_path)
		return -1;
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	memcpy(un.sun_path, name, strlen(name));
	if (name[0] == '@')
		un.sun_path[0] = 0;
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));
	if (fd >= 0 && connect(fd, (const struct sockaddr *)&un, len) < 0) {
		sys_close(fd);
		fd = -1;
	}
	return fd;
}

static void sys_notify(int fd, const char *state)
{
	if (fd >= 0)
		(void)send(fd, state, strlen(state), MSG_NOSIGNAL | MSG_DONTWAIT);
}

enum { SYS_TERM = 1, SYS_HUP = 2, SYS_USR1 = 4, SYS_USR2 = 8, SYS_CHLD = 16 };

/* Takes the signals of the contract, from now on as bytes of a descriptor: none is overlooked just
 * before the wait, and none waits while there is much to do. Works as PID 1, too. 0 or -1 with errno. */
static int sys_signals(int *fd)
{
	static const int taken[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD};
	struct sigaction ign = {.sa_handler = SIG_IGN};
	sigset_t held;

	(void)sigaction(SIGPIPE, &ign, NULL);
	(void)sigemptyset(&held);
	for (size_t i = 0; i < RP_LEN(taken); i++)
		(void)sigaddset(&held, taken[i]);
	(void)sigprocmask(SIG_BLOCK, &held, NULL);
	*fd = signalfd(-1, &held, SFD_NONBLOCK | SFD_CLOEXEC);
	return *fd < 0 ? -1 : 0;
}

/* Which signals came since the last call; adds to *terms how many TERM and INT there were. */
static unsigned sys_taken(int fd, int *terms)
{
	struct signalfd_siginfo s;
	unsigned set = 0;

	while (read(fd, &s, sizeof s) == (ssize_t)sizeof s) {
		bool term = s.ssi_signo == SIGTERM || s.ssi_signo == SIGINT;
		*terms += term;
		set |= term						? SYS_TERM
			   : s.ssi_signo == SIGHUP	? SYS_HUP
			   : s.ssi_signo == SIGUSR1 ? SYS_USR1
			   : s.ssi_signo == SIGUSR2 ? SYS_USR2
										: SYS_CHLD;
	}
	return set;
}

/* As PID 1, of a container say, we are the parent of all orphans. */
static void sys_reap(void)
{
	while (getpid() == 1 && waitpid(-1, NULL, WNOHANG) > 0)
		;
}

/* The index of the first byte in memory order that has bits set; x is not 0. */
static size_t sys_first_byte(size_t x)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return (size_t)(sizeof x > 4 ? __builtin_ctzll(x) : __builtin_ctzl((unsigned long)x)) >> 3;
#else
	return ((size_t)__builtin_clzll(x) - (64 - 8 * sizeof x)) >> 3;
#endif
}

/* A file to append lines to; a FIFO needs its reader. */
static int sys_open(const char *path)
{
	return open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640);
}

#else
#include RP_SYS_FILE
#endif

/* ==[ STR ]============================================== prefix: sl_ ==
 * Slices, tokens, numbers, base64, hex, constant-time equality, host names.
 * Owns: nothing.  No locale, no 0 at the end, no allocation.
 * Spec: RFC 9110 5.6.2 (token), RFC 4648 4 (base64), RFC 1123 2.1 (names).
 * Door: sl_of sl_mk sl_eq sl_ieq sl_is sl_iis sl_trim sl_cut sl_item sl_lists sl_count sl_number
 *       sl_hex sl_hexval sl_base64 sl_same sl_host sl_colon sl_lower sl_at sl_plain sl_rest
 *       sl_find
 */

enum {
	SL_TCHAR = 1, /* RFC 9110 5.6.2 */
	SL_NAME = 2,  /* letters, digits, "-": field names that are forwarded */
	SL_DIGIT = 4,
	SL_HEXDIG = 8,
	SL_URI = 16,   /* what may stand in a request target: visible ASCII but "#" */
	SL_LABEL = 32, /* letters, digits, "-", "_": host names */
	SL_QUIET = 64, /* may stand in a log line or in JSON unescaped */
	SL_TOKEN68 = 128
};

#define SL_AZ (SL_TCHAR | SL_NAME | SL_URI | SL_LABEL | SL_QUIET | SL_TOKEN68)
#define SL_AF (SL_AZ | SL_HEXDIG)
#define SL_09 (SL_AF | SL_DIGIT)
#define SL_T (SL_TCHAR | SL_URI | SL_QUIET)
#define SL_V (SL_URI | SL_QUIET)

static const uint8_t sl_class[256] = {
	[' '] = SL_QUIET,
	['!'] = SL_T,
	['"'] = SL_URI,
	['#'] = SL_T & ~SL_URI,
	['$'] = SL_T,
	['%'] = SL_T,
	['&'] = SL_T,
	['\''] = SL_T,
	['('] = SL_V,
	[')'] = SL_V,
	['*'] = SL_T,
	['+'] = SL_T | SL_TOKEN68,
	[','] = SL_V,
	['-'] = SL_AZ,
	['.'] = SL_T | SL_TOKEN68,
	['/'] = SL_V | SL_TOKEN68,
	['0'] = SL_09,
	['1'] = SL_09,
	['2'] = SL_09,
	['3'] = SL_09,
	['4'] = SL_09,
	['5'] = SL_09,
	['6'] = SL_09,
	['7'] = SL_09,
	['8'] = SL_09,
	['9'] = SL_09,
	[':'] = SL_V,
	[';'] = SL_V,
	['<'] = SL_V,
	['='] = SL_V | SL_TOKEN68,
	['>'] = SL_V,
	['?'] = SL_V,
	['@'] = SL_V,
	['A'] = SL_AF,
	['B'] = SL_AF,
	['C'] = SL_AF,
	['D'] = SL_AF,
	['E'] = SL_AF,
	['F'] = SL_AF,
	['G'] = SL_AZ,
	['H'] = SL_AZ,
	['I'] = SL_AZ,
	['J'] = SL_AZ,
	['K'] = SL_AZ,
	['L'] = SL_AZ,
	['M'] = SL_AZ,
	['N'] = SL_AZ,
	['O'] = SL_AZ,
	['P'] = SL_AZ,
	['Q'] = SL_AZ,
	['R'] = SL_AZ,
	['S'] = SL_AZ,
	['T'] = SL_AZ,
	['U'] = SL_AZ,
	['V'] = SL_AZ,
	['W'] = SL_AZ,
	['X'] = SL_AZ,
	['Y'] = SL_AZ,
	['Z'] = SL_AZ,
	['['] = SL_V,
	['\\'] = SL_URI,
	[']'] = SL_V,
	['^'] = SL_T,
	['_'] = SL_T | SL_LABEL,
	['`'] = SL_T,
	['a'] = SL_AF,
	['b'] = SL_AF,
	['c'] = SL_AF,
	['d'] = SL_AF,
	['e'] = SL_AF,
	['f'] = SL_AF,
	['g'] = SL_AZ,
	['h'] = SL_AZ,
	['i'] = SL_AZ,
	['j'] = SL_AZ,
	['k'] = SL_AZ,
	['l'] = SL_AZ,
	['m'] = SL_AZ,
	['n'] = SL_AZ,
	['o'] = SL_AZ,
	['p'] = SL_AZ,
	['q'] = SL_AZ,
	['r'] = SL_AZ,
	['s'] = SL_AZ,
	['t'] = SL_AZ,
	['u'] = SL_AZ,
	['v'] = SL_AZ,
	['w'] = SL_AZ,
	['x'] = SL_AZ,
	['y'] = SL_AZ,
	['z'] = SL_AZ,
	['{'] = SL_V,
	['|'] = SL_T,
	['}'] = SL_V,
	['~'] = SL_T | SL_TOKEN68,
};

static inline struct sl sl_mk(const void *p, size_t n)
{
	return (struct sl){p, n};
}

/* The slice of a C string; NULL is empty. */
static inline struct sl sl_of(const char *s)
{
	return s ? sl_mk(s, strlen(s)) : sl_mk("", 0);
}

static inline bool sl_eq(struct sl a, struct sl b)
{
	return a.n == b.n && memcmp(a.p, b.p, a.n) == 0;
}

static inline bool sl_is(struct sl a, const char *b)
{
	return sl_eq(a, sl_of(b));
}

static char sl_lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
}

static bool sl_ieq(struct sl a, struct sl b)
{
	if (a.n != b.n)
		return false;
	for (size_t i = 0; i < a.n; i++)
		if (a.p[i] != b.p[i] && sl_lower(a.p[i]) != sl_lower(b.p[i]))
			return false;
	return true;
}

static bool sl_iis(struct sl a, const char *b)
{
	return sl_ieq(a, sl_of(b));
}

/* The byte at i, 0 behind the end. */
static char sl_at(struct sl a, size_t i)
{
	return i < a.n ? a.p[i] : '\0';
}

/* What is left behind the first i bytes. */
static inline struct sl sl_rest(struct sl a, size_t i)
{
	return i < a.n ? sl_mk(a.p + i, a.n - i) : sl_mk(a.p + a.n, 0);
}

/* Without the SP and HTAB around it (OWS, RFC 9110 5.6.3). */
static struct sl sl_trim(struct sl a)
{
	while (a.n && (a.p[0] == ' ' || a.p[0] == '\t'))
		a = sl_rest(a, 1);
	while (a.n && (a.p[a.n - 1] == ' ' || a.p[a.n - 1] == '\t'))
		a.n--;
	return a;
}

/* Where byte c stands first in a, a.n for nowhere. */
static size_t sl_find(struct sl a, char c)
{
	size_t i = 0;

	while (i < a.n && a.p[i] != c)
		i++;
	return i;
}

/* Takes what stands before the first c off *rest, and c with it; false when *rest is used up. */
static bool sl_cut(struct sl *rest, char c, struct sl *out)
{
	if (!rest->p)
		return false;
	size_t i = sl_find(*rest, c);
	*out = sl_mk(rest->p, i);
	*rest = i < rest->n ? sl_rest(*rest, i + 1) : sl_mk(NULL, 0);
	return true;
}

/* The next member of a comma-separated list, trimmed; empty ones are skipped (RFC 9110 5.6.1.2). */
static bool sl_item(struct sl *rest, struct sl *out)
{
	while (sl_cut(rest, ',', out)) {
		*out = sl_trim(*out);
		if (out->n)
			return true;
	}
	return false;
}

/* Does the list hold the word, in any case? */
static bool sl_lists(struct sl list, const char *word)
{
	struct sl item;

	while (sl_item(&list, &item))
		if (sl_iis(item, word))
			return true;
	return false;
}

/* How many of the first bytes are of a class. */
static size_t sl_count(struct sl a, uint8_t class)
{
	size_t i = 0;

	while (i < a.n && (sl_class[(uint8_t)a.p[i]] & class))
		i++;
	return i;
}

/* Plain digits, no sign or blank, up to max. */
static bool sl_number(struct sl a, uint64_t max, uint64_t *out)
{
	uint64_t v = 0;

	if (!a.n)
		return false;
	for (size_t i = 0; i < a.n; i++) {
		if (a.p[i] < '0' || a.p[i] > '9')
			return false;
		uint64_t d = (uint64_t)(a.p[i] - '0');
		if (v > (max - d) / 10 || max < d)
			return false;
		v = v * 10 + d;
	}
	*out = v;
	return true;
}

/* The value of a hex digit, -1 for another byte. */
static int sl_hexval(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = sl_lower(c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Reads exactly n bytes written as 2n hex digits. */
static bool sl_hex(struct sl a, uint8_t *out, size_t n)
{
	if (a.n != 2 * n)
		return false;
	for (size_t i = 0; i < n; i++) {
		int hi = sl_hexval(a.p[2 * i]), lo = sl_hexval(a.p[2 * i + 1]);
		if (hi < 0 || lo < 0)
			return false;
		out[i] = (uint8_t)(hi << 4 | lo);
	}
	return true;
}

static int sl_base64_value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decodes base64 (RFC 4648 4), with or without padding, into out of cap bytes; returns how many
 * came out, -1 when the text is malformed or too long. Spare bits must be 0. */
static ptrdiff_t sl_base64(struct sl a, uint8_t *out, size_t cap)
{
	uint32_t bits = 0;
	unsigned have = 0;
	size_t n = 0, pad = 0;

	while (pad < 2 && a.n && a.p[a.n - 1] == '=') {
		a.n--;
		pad++;
	}
	if ((pad && (a.n + pad) % 4) || a.n % 4 == 1)
		return -1;
	for (size_t i = 0; i < a.n; i++) {
		int v = sl_base64_value(a.p[i]);
		if (v < 0)
			return -1;
		bits = bits << 6 | (uint32_t)v;
		have += 6;
		if (have < 8)
			continue;
		have -= 8;
		if (n == cap)
			return -1;
		out[n++] = (uint8_t)(bits >> have);
		bits &= (1u << have) - 1;
	}
	return bits ? -1 : (ptrdiff_t)n;
}

/* Equality in a time that depends on the lengths alone. */
static bool sl_same(struct sl a, struct sl b)
{
	unsigned diff = a.n != b.n;

	for (size_t i = 0; i < a.n && i < b.n; i++)
		diff |= (unsigned)(uint8_t)a.p[i] ^ (unsigned)(uint8_t)b.p[i];
	return diff == 0;
}

/* Words in which each byte is 0x01, 0x80 and so on, for looking at sizeof(size_t) bytes at once. */
#define SL_EACH(byte) ((size_t)-1 / 255 * (byte))

/* Where every processor of a family can look at 16 bytes at once: *i is moved over as many as there
 * are without what is looked for. True: it stands at *i. */
#ifdef __SSE2__
static inline bool sl_wide_odd(struct sl a, size_t *i) /* a control or DEL */
{
	for (; a.n - *i >= 16; *i += 16) {
		__m128i v = _mm_loadu_si128((const void *)(a.p + *i));
		__m128i low = _mm_cmpeq_epi8(v, _mm_min_epu8(v, _mm_set1_epi8(0x1f)));
		int bits = _mm_movemask_epi8(_mm_or_si128(low, _mm_cmpeq_epi8(v, _mm_set1_epi8(0x7f))));
		if (bits) {
			*i += (size_t)__builtin_ctz((unsigned)bits);
			return true;
		}
	}
	return false;
}

static inline bool sl_wide_is(struct sl a, char c, size_t *i)
{
	for (; a.n - *i >= 16; *i += 16) {
		__m128i v = _mm_loadu_si128((const void *)(a.p + *i));
		int bits = _mm_movemask_epi8(_mm_cmpeq_epi8(v, _mm_set1_epi8(c)));
		if (bits) {
			*i += (size_t)__builtin_ctz((unsigned)bits);
			return true;
		}
	}
	return false;
}
#else
static inline bool sl_wide_odd(struct sl a, size_t *i)
{
	(void)a;
	(void)i;
	return false;
}

static inline bool sl_wide_is(struct sl a, char c, size_t *i)
{
	(void)c;
	return sl_wide_odd(a, i);
}
#endif

/* How many of the first bytes are neither controls (HTAB is one here) nor DEL. A word at a time:
 * within seven bits, 0x60 more carries into the eighth from 0x20 on, 1 more only from DEL. */
static inline size_t sl_plain(struct sl a)
{
	size_t i = 0;

	if (sl_wide_odd(a, &i))
		return i;
	for (; a.n - i >= sizeof(size_t); i += sizeof(size_t)) {
		size_t w, low, bad;
		memcpy(&w, a.p + i, sizeof w);
		low = w & SL_EACH(0x7f);
		bad = (~(low + SL_EACH(0x60)) | (low + SL_EACH(0x01))) & ~w & SL_EACH(0x80);
		if (bad)
			return i + sys_first_byte(bad);
	}
	while (i < a.n && (uint8_t)a.p[i] >= 0x20 && a.p[i] != 0x7f)
		i++;
	return i;
}

/* Where the first colon stands, a.n for nowhere; a word at a time: under xor a colon is 0, and
 * 0x7f more carries into the eighth bit from any other byte. */
static inline size_t sl_colon(struct sl a)
{
	size_t i = 0;

	if (sl_wide_is(a, ':', &i))
		return i;
	for (; a.n - i >= sizeof(size_t); i += sizeof(size_t)) {
		size_t w;
		memcpy(&w, a.p + i, sizeof w);
		w ^= SL_EACH(':');
		w = ~(((w & SL_EACH(0x7f)) + SL_EACH(0x7f)) | w) & SL_EACH(0x80);
		if (w)
			return i + sys_first_byte(w);
	}
	while (i < a.n && a.p[i] != ':')
		i++;
	return i;
}

/* A host name in its one form: lower case, without the final dot. Letters, digits, "-" and "_", in
 * labels of 1 to 63 that do not begin or end with "-"; or an address. out holds RP_NAME_MAX + 1.
 * Returns its length, 0 when it is no host name. */
static size_t sl_host(struct sl a, char *out)
{
	size_t from = 0; /* where the label begins */

	if (a.n && a.p[a.n - 1] == '.')
		a.n--;
	if (!a.n || a.n > RP_NAME_MAX)
		return 0;
	for (size_t i = 0; i <= a.n; i++) {
		char c = i < a.n ? a.p[i] : '.';
		if (sl_class[(uint8_t)c] & SL_LABEL) {
			out[i] = sl_lower(c);
			continue;
		}
		if (c != '.' || i == from || i - from > 63 || out[from] == '-' || out[i - 1] == '-')
			return 0;
		out[i] = '.';
		from = i + 1;
	}
	out[a.n] = 0;
	return a.n;
}

/* ==[ TEXT ]============================================= prefix: sb_ ==
 * A writer into a fixed buffer. Past the end nothing is written and `over` stays set.
 * Owns: nothing.
 * Door: sb_of sb_put sb_chr sb_str sb_num sb_crlf sb_fmt sb_escape
 */

struct sb {
	char *p;
	size_t n, cap;
	bool over;
};

static struct sb sb_of(void *p, size_t cap)
{
	return (struct sb){p, 0, cap, false};
}

static inline void sb_put(struct sb *b, struct sl a)
{
	if (a.n > b->cap - b->n) {
		b->over = true;
		return;
	}
	memcpy(b->p + b->n, a.p, a.n);
	b->n += a.n;
}

static inline void sb_chr(struct sb *b, char c)
{
	if (b->n == b->cap)
		b->over = true;
	else
		b->p[b->n++] = c;
}

static inline void sb_str(struct sb *b, const char *s)
{
	sb_put(b, sl_of(s));
}

static void sb_crlf(struct sb *b)
{
	sb_put(b, sl_mk("\r\n", 2));
}

static void sb_num(struct sb *b, uint64_t v)
{
	char text[20];
	size_t i = sizeof text;

	if (v < 10) {
		sb_chr(b, (char)('0' + v));
		return;
	}
	do
		text[--i] = (char)('0' + v % 10);
	while (v /= 10);
	sb_put(b, sl_mk(text + i, sizeof text - i));
}

/* printf for what is not in a hurry. */
__attribute__((format(printf, 2, 3))) static void sb_fmt(struct sb *b, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(b->p + b->n, b->cap - b->n, fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= b->cap - b->n)
		b->over = true;
	else
		b->n += (size_t)n;
}

/* Bytes from outside, for a log line: what is not printable ASCII comes as \xHH, or \u00HH in JSON;
 * quote and backslash get a backslash. At most max bytes are written, then "..." if that is not all. */
static void sb_escape(struct sb *b, struct sl a, size_t max, bool json)
{
	static const char hex[] = "0123456789abcdef";
	size_t wide = json ? 6 : 4;

	while (a.n) {
		size_t n = sl_count(a, SL_QUIET), some = n < max ? n : max;
		sb_put(b, sl_mk(a.p, some));
		max -= some;
		a = sl_rest(a, some);
		if (!a.n)
			return;
		uint8_t c = (uint8_t)a.p[0];
		bool mark = c == '"' || c == '\\';
		if (some < n || max < (mark ? 2 : wide)) {
			sb_str(b, "...");
			return;
		}
		max -= mark ? 2 : wide;
		sb_chr(b, '\\');
		if (mark) {
			sb_chr(b, (char)c);
		} else {
			sb_str(b, json ? "u00" : "x");
			sb_chr(b, hex[c >> 4]);
			sb_chr(b, hex[c & 15]);
		}
		a = sl_rest(a, 1);
	}
}

/* ==[ LOG ]============================================== prefix: log_ ==
 * One line per event, to stderr, syslog or a file; never blocks: what can't be written now is
 * dropped and counted, and the count is written when there is room again. A line that repeats is
 * folded.
 * Owns: log_sink, the one mutable object of the file.
 * Fails: log_open with -1 and errno.
 * Spec: RFC 3164 over /dev/log, as logd and rsyslog read it.
 * Door: log_open log_close log_reopen log_reachable log_give log_event log_line log_tick log_fresh
 *       log_stamp log_iso log_date log_started log_wants log_lead
 */

enum log_kind { LOG_TO_STDERR, LOG_TO_SYSLOG, LOG_TO_FILE, LOG_TO_NONE };
enum log_level { LOG_ERR, LOG_WARN, LOG_INFO, LOG_DEBUG };

static const struct log_why {
	const char *word;
	int status;
} log_whys[] = {
#define X(NAME, word, status, text) {word, status},
	RP_REASONS(X)
#undef X
};

#define LOG_FOLDS 4 /* different lines whose repeats are counted: a flood may be of two in turn */
#define LOG_FOLD_MS 10000

/* An event that was logged, to fold its repeats. */
struct log_fold {
	char text[256];
	uint64_t at, more;
};

static struct {
	enum log_kind kind;
	enum log_level level; /* what is less important is left out */
	bool starting;		  /* until "ready": events go to stderr whatever the sink */
	bool stream;		  /* fd is a pipe, socket or terminal: look before writing */
	bool torn;			  /* the last write ended within a line: the disk was full */
	int fd;				  /* owns when a file or a socket */
	char path[1024];
	const char *lead; /* borrows: what events begin with, NULL nothing */
	uint64_t lost;
	struct log_fold fold[LOG_FOLDS];
	int64_t stamp_s; /* the second that the texts below are for */
	char clf[32], iso[32], rfc3164[24], http[32];
} log_sink = {.level = LOG_INFO, .fd = 2, .starting = true, .stream = true, .stamp_s = -1};

static const char log_months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";

/* A time as a text. strftime(3) would bring the languages of a static musl with it. */
__attribute__((format(printf, 3, 4))) static void log_time(char *out, size_t cap, const char *fmt,
														   ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(out, cap, fmt, ap);
	va_end(ap);
}

/* Makes the texts of a second: 10/Oct/2000:13:55:36 -0700, 2000-10-10T13:55:36-07:00. */
static void log_clock(void)
{
	int64_t s = sys_wall();
	time_t t = (time_t)s;
	struct tm tm;

	if (s == log_sink.stamp_s || !localtime_r(&t, &tm))
		return;
	log_sink.stamp_s = s;
	const char *mon = log_months + 3 * tm.tm_mon;
	long off = tm.tm_gmtoff / 60;
	char sign = off < 0 ? '-' : '+';
	off = off < 0 ? -off : off;
	log_time(log_sink.clf, sizeof log_sink.clf, "%02d/%.3s/%d:%02d:%02d:%02d %c%02ld%02ld",
			 tm.tm_mday, mon, tm.tm_year + 1900, tm.tm_hour, tm.tm_min, tm.tm_sec, sign, off / 60,
			 off % 60);
	log_time(log_sink.rfc3164, sizeof log_sink.rfc3164, "%.3s %2d %02d:%02d:%02d", mon, tm.tm_mday,
			 tm.tm_hour, tm.tm_min, tm.tm_sec);
	log_time(log_sink.iso, sizeof log_sink.iso, "%d-%02d-%02dT%02d:%02d:%02d%c%02ld:%02ld",
			 tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, sign,
			 off / 60, off % 60);
	if (gmtime_r(&t, &tm))
		log_time(log_sink.http, sizeof log_sink.http, "%.3s, %02d %.3s %d %02d:%02d:%02d GMT",
				 &"SunMonTueWedThuFriSat"[3 * tm.tm_wday], tm.tm_mday, log_months + 3 * tm.tm_mon,
				 tm.tm_year + 1900, tm.tm_hour, tm.tm_min, tm.tm_sec);
}

/* The time now, as the common log format has it. */
static const char *log_stamp(void)
{
	log_clock();
	return log_sink.clf;
}

/* The time now, as HTTP has it (RFC 9110 5.6.7). */
static const char *log_date(void)
{
	log_clock();
	return log_sink.http;
}

/* The time now, as RFC 3339 has it. */
static const char *log_iso(void)
{
	log_clock();
	return log_sink.iso;
}

RP_SELDOM

/* Opens the way to a sink: a descriptor, 2 where none is needed, -1 with errno. */
static int log_dial(enum log_kind kind, const char *path)
{
	static const struct sockaddr_un un = {.sun_family = AF_UNIX, .sun_path = "/dev/log"};

	if (kind == LOG_TO_FILE)
		return sys_open(path);
	if (kind != LOG_TO_SYSLOG)
		return 2;
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && connect(fd, (const struct sockaddr *)&un, sizeof un) < 0) {
		int err = errno;
		sys_close(fd);
		errno = err;
		fd = -1;
	}
	return fd;
}

static int log_attach(enum log_kind kind, const char *path)
{
	struct stat st;
	size_t n = strlen(path);

	if (n >= sizeof log_sink.path) {
		errno = ENAMETOOLONG;
		return -1;
	}
	int fd = log_dial(kind, path);
	if (fd < 0)
		return -1;
	if (log_sink.fd > 2)
		sys_close(log_sink.fd);
	log_sink.fd = fd;
	log_sink.kind = kind;
	log_sink.stream = fstat(fd, &st) < 0 || !S_ISREG(st.st_mode);
	log_sink.torn = false;
	memmove(log_sink.path, path, n + 1);
	return 0;
}

RP_OFTEN

/* Writes one line, whole or not at all where that is possible: a full disk may take a part, and is
 * then given a newline before the next line. Never blocks. */
static bool log_write(const char *p, size_t n)
{
	struct pollfd pfd = {.fd = log_sink.fd, .events = POLLOUT};

	/* POLLOUT on a pipe: PIPE_BUF bytes, which is more than a line, go without blocking. */
	if (log_sink.stream && (poll(&pfd, 1, 0) != 1 || !(pfd.revents & POLLOUT)))
		return false;
	if (log_sink.torn && write(log_sink.fd, "\n", 1) != 1)
		return false;
	ssize_t w = write(log_sink.fd, p, n);
	log_sink.torn = w > 0 && (size_t)w < n;
	return w == (ssize_t)n;
}

/* A syslogd that was started anew is found again. */
static bool log_syslog(enum log_level level, const char *p, size_t n)
{
	static const uint8_t severity[] = {3, 4, 6, 7}; /* RFC 3164 4.1.1 */
	char line[RP_LOG_LINE + 64];
	struct sb b = sb_of(line, sizeof line);
	struct sl text = sl_mk(p, n && p[n - 1] == '\n' ? n - 1 : n);

	log_clock();
	sb_fmt(&b, "<%d>%s rproxy[%ld]: ", 3 * 8 + severity[level], log_sink.rfc3164, (long)getpid());
	if (text.n > 8 && memcmp(p, "rproxy: ", 8) == 0)
		text = sl_rest(text, 8); /* the tag says it already */
	sb_put(&b, text);
	for (int tries = 0; tries < 2; tries++) {
		if (send(log_sink.fd, line, b.n, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
			return true;
		if (errno == EAGAIN || errno == ENOBUFS || log_attach(LOG_TO_SYSLOG, log_sink.path) < 0)
			return false;
	}
	return false;
}

static bool log_send(enum log_level level, const char *p, size_t n)
{
	if (log_sink.kind == LOG_TO_NONE)
		return true;
	return log_sink.kind == LOG_TO_SYSLOG ? log_syslog(level, p, n) : log_write(p, n);
}

/* Says how many lines were dropped, when that can be said. */
static void log_losses(void)
{
	char text[64];
	struct sb b = sb_of(text, sizeof text);

	if (!log_sink.lost)
		return;
	sb_fmt(&b, "rproxy: %llu log lines lost\n", (unsigned long long)log_sink.lost);
	if (log_send(LOG_WARN, text, b.n))
		log_sink.lost = 0;
}

/* One finished line, its newline included. */
static void log_line(enum log_level level, const char *p, size_t n)
{
	if (log_sink.lost)
		log_losses();
	if (log_sink.lost || !log_send(level, p, n))
		log_sink.lost++;
}

RP_SELDOM

static void log_repeats(struct log_fold *f)
{
	char text[sizeof f->text + 40];
	struct sb b = sb_of(text, sizeof text);

	if (!f->more)
		return;
	sb_fmt(&b, "rproxy: %llu times more: %s\n", (unsigned long long)f->more, f->text);
	f->more = 0;
	log_line(LOG_WARN, text, b.n);
}

/* Where the cause of the events that follow stands: "FILE:LINE: " or "--flag: "; NULL: nowhere. It
 * is borrowed until the next call. */
static void log_lead(const char *place)
{
	log_sink.lead = place;
}

/* Is the event one that was logged less than ten seconds ago? Then it is only counted. */
static bool log_folds(const char *event)
{
	uint64_t now = sys_now();
	struct log_fold *oldest = log_sink.fold;

	for (struct log_fold *f = oldest; f < log_sink.fold + LOG_FOLDS; f++) {
		if (strncmp(event, f->text, sizeof f->text - 1) == 0 && now - f->at < LOG_FOLD_MS) {
			f->more++;
			return true;
		}
		if (f->at < oldest->at)
			oldest = f;
	}
	log_repeats(oldest);
	(void)snprintf(oldest->text, sizeof oldest->text, "%.*s", (int)sizeof oldest->text - 1, event);
	oldest->at = now;
	return false;
}

/* One event: "rproxy: " and the text, which is cut when too long. Floods of errors and warnings are
 * folded. While starting every level is said: there is somebody to read it. */
__attribute__((format(printf, 2, 3))) static void log_event(enum log_level level, const char *fmt,
															...)
{
	char text[1024];
	const char *lead = log_sink.lead ? log_sink.lead : "";
	va_list ap;

	if (level > log_sink.level && !log_sink.starting)
		return;
	/* At the start a place in a file begins the line, as compilers have it. */
	const char *name = log_sink.starting && *lead && *lead != '-' ? "" : "rproxy: ";
	size_t len = (size_t)snprintf(text, sizeof text / 2, "%s%.480s", name, lead);
	va_start(ap, fmt);
	int n = vsnprintf(text + len, sizeof text - len - 1, fmt, ap);
	va_end(ap);
	len += n < 0 ? 0 : (size_t)n < sizeof text - len - 2 ? (size_t)n : sizeof text - len - 2;
	text[len] = 0;
	if (!log_sink.starting && level <= LOG_WARN && log_folds(text + 8))
		return;
	text[len] = '\n';
	if (log_sink.starting)
		(void)!write(2, text, len + 1);
	else
		log_line(level, text, len + 1);
}

/* About once a second: says what was held back. */
static void log_tick(uint64_t now)
{
	for (struct log_fold *f = log_sink.fold; f < log_sink.fold + LOG_FOLDS; f++)
		if (now - f->at >= LOG_FOLD_MS)
			log_repeats(f);
	if (log_sink.lost)
		log_losses();
}

/* Somebody is about to ask for something: what is said now is an answer, and never folded. */
static void log_fresh(void)
{
	for (struct log_fold *f = log_sink.fold; f < log_sink.fold + LOG_FOLDS; f++) {
		log_repeats(f);
		*f = (struct log_fold){.at = 0};
	}
}

/* Where lines go from now on: "stderr", "syslog", "none" or a file; on an error (-1, errno) all
 * stays as it was. */
static int log_open(const char *target, enum log_level level)
{
	enum log_kind kind = LOG_TO_FILE;

	if (strcmp(target, "stderr") == 0)
		kind = LOG_TO_STDERR;
	else if (strcmp(target, "syslog") == 0)
		kind = LOG_TO_SYSLOG;
	else if (strcmp(target, "none") == 0)
		kind = LOG_TO_NONE;
	if (strcmp(target, log_sink.path) != 0 && log_attach(kind, target) < 0)
		return -1;
	log_sink.level = level;
	log_clock(); /* reads the time zone, while it can be read */
	return 0;
}

/* Opens the file (or the way to syslog) anew, after it was renamed. 0 or -1. */
static int log_reopen(void)
{
	return log_attach(log_sink.kind, log_sink.path);
}

/* Could log_reopen do that now? */
static bool log_reachable(void)
{
	int fd = log_dial(log_sink.kind, log_sink.path);

	if (fd > 2)
		sys_close(fd);
	return fd >= 0;
}

/* The log file becomes the user's who will open it again. */
static void log_give(uid_t uid, gid_t gid)
{
	if (log_sink.kind == LOG_TO_FILE && !log_sink.stream && fchown(log_sink.fd, uid, gid) < 0)
		return; /* log_reachable tells */
}

/* From now on events go where they were asked to go. */
static void log_started(void)
{
	log_sink.starting = false;
}

/* Is anybody interested in access lines? */
static bool log_wants(void)
{
	return log_sink.kind != LOG_TO_NONE && log_sink.level >= LOG_INFO;
}

static void log_close(void)
{
	log_fresh();
	log_losses();
	if (log_sink.fd > 2)
		sys_close(log_sink.fd);
	log_sink.fd = 2;
	log_sink.kind = LOG_TO_STDERR;
	log_sink.path[0] = 0;
	log_sink.starting = true;
}

RP_OFTEN

/* ==[ BUF ]============================================== prefix: buf_ ==
 * Fixed linear buffers from a pool that is made once. Bytes r..w of a buffer are there to be taken,
 * w..cap is room. An empty struct buf holds no memory; buf_done gives the memory back as soon as
 * nothing is left in it.
 * Owns: the pool's memory.  Fails: buf_take with false when the pool is used up.
 * Door: buf_pool_open buf_pool_close buf_pool_bytes buf_take buf_give buf_peek buf_skip buf_room
 *       buf_free buf_text buf_fill buf_add buf_done buf_len buf_claim buf_waive
 */

#define BUF_WARM 16 /* free buffers that may keep their pages; more are given to the system */

struct buf_pool {
	uint8_t *mem;	/* owns */
	uint32_t *free; /* owns: a stack of free indices, the warmest on top */
	uint32_t n, nfree;
	uint32_t cap;	 /* bytes that a buffer holds */
	uint32_t stride; /* cap in whole pages */
	uint32_t cold;	 /* at the bottom of the stack: how many surely have no pages */
};

static uint64_t buf_pool_bytes(uint32_t n, uint32_t cap)
{
	return (uint64_t)n * (((size_t)cap + 4095) / 4096 * 4096 + sizeof(uint32_t));
}

static int buf_pool_open(struct buf_pool *p, uint32_t n, uint32_t cap)
{
	uint32_t stride = (cap + 4095) / 4096 * 4096;

	*p = (struct buf_pool){.n = n, .nfree = n, .cap = cap, .stride = stride, .cold = n};
	p->mem = n > SIZE_MAX / stride ? NULL : sys_mem((size_t)n * stride);
	p->free = sys_mem((size_t)n * sizeof *p->free);
	if (!p->mem || !p->free)
		return -1;
	for (uint32_t i = 0; i < n; i++)
		p->free[i] = n - 1 - i;
	return 0;
}

static void buf_pool_close(struct buf_pool *p)
{
	sys_unmem(p->mem, (size_t)p->n * p->stride);
	sys_unmem(p->free, (size_t)p->n * sizeof *p->free);
	*p = (struct buf_pool){.mem = NULL};
}

/* A whole buffer's memory, NULL when all are taken. */
static uint8_t *buf_claim(struct buf_pool *p)
{
	if (!p->nfree)
		return NULL;
	p->nfree--;
	if (p->cold > p->nfree)
		p->cold = p->nfree;
	return p->mem + (size_t)p->free[p->nfree] * p->stride;
}

static void buf_waive(struct buf_pool *p, uint8_t *mem)
{
	uint32_t i = (uint32_t)((size_t)(mem - p->mem) / p->stride);

	assert(i < p->n && p->nfree < p->n);
	p->free[p->nfree++] = i;
	if (p->nfree - p->cold > BUF_WARM) { /* the one that was warm longest */
		sys_fade(p->mem + (size_t)p->free[p->cold] * p->stride, p->stride);
		p->cold++;
	}
}

/* Makes sure that b has memory. */
static bool buf_take(struct buf_pool *p, struct buf *b)
{
	if (b->p)
		return true;
	*b = (struct buf){buf_claim(p), 0, 0, p->cap};
	return b->p != NULL;
}

static void buf_give(struct buf_pool *p, struct buf *b)
{
	if (b->p)
		buf_waive(p, b->p);
	*b = (struct buf){NULL, 0, 0, 0};
}

static uint32_t buf_len(const struct buf *b)
{
	return b->w - b->r;
}

static struct sl buf_peek(const struct buf *b)
{
	return sl_mk(b->p ? b->p + b->r : NULL, b->w - b->r); /* NULL + 0 is undefined */
}

static void buf_skip(struct buf *b, size_t n)
{
	assert(n <= b->w - b->r);
	b->r += (uint32_t)n;
	if (b->r == b->w)
		b->r = b->w = 0;
}

/* Moves what is there to the front when there is less than `want` behind it; returns the room. */
static uint32_t buf_room(struct buf *b, uint32_t want)
{
	if (b->r && b->cap - b->w < want) {
		memmove(b->p, b->p + b->r, b->w - b->r);
		b->w -= b->r;
		b->r = 0;
	}
	return b->cap - b->w;
}

/* Where the next bytes go. */
static uint8_t *buf_free(const struct buf *b)
{
	return b->p + b->w;
}

/* A writer into all the room that b has behind what is there; buf_fill says what it wrote. */
static struct sb buf_text(struct buf *b)
{
	uint32_t room = buf_room(b, b->cap);

	return sb_of(buf_free(b), room);
}

static void buf_fill(struct buf *b, size_t n)
{
	assert(n <= b->cap - b->w);
	b->w += (uint32_t)n;
}

/* Appends as much of a as there is room for; returns how much. */
static size_t buf_add(struct buf *b, struct sl a)
{
	size_t room = b->cap - b->w;

	if (a.n > room)
		a.n = room;
	if (a.n)
		memcpy(b->p + b->w, a.p, a.n);
	b->w += (uint32_t)a.n;
	return a.n;
}

/* Gives the memory back when nothing is in it. */
static void buf_done(struct buf_pool *p, struct buf *b)
{
	if (b->p && b->r == b->w)
		buf_give(p, b);
}

/* ==[ TIME ]============================================= prefix: tm_ ==
 * Deadlines: a moment on the clock of sys_now() in ms, 0 for none. This room says what is due and
 * how long to wait; it calls nobody.
 * Door: tm_set tm_stop tm_due tm_wait
 */

static void tm_set(uint64_t *due, uint64_t now, uint64_t ms)
{
	*due = now + ms;
}

static void tm_stop(uint64_t *due)
{
	*due = 0;
}

static bool tm_due(const uint64_t *due, uint64_t now)
{
	return *due && now >= *due;
}

/* How long poll() may wait for the earliest deadline: ms, at most a second. */
static int tm_wait(uint64_t earliest, uint64_t now)
{
	uint64_t left = !earliest ? 1000 : earliest <= now ? 0 : earliest - now;

	return left > 1000 ? 1000 : (int)left;
}

/* ==[ ADDR ]============================================= prefix: addr_ ==
 * Addresses and ranges: parsed, printed, compared. IPv4 is folded to ::ffff:a.b.c.d everywhere, so
 * that there is one way to compare.
 * Owns: nothing.
 * Spec: RFC 4291 2.2 (texts), RFC 5952 4 (the one spelling), RFC 4632 3.1 (ranges).
 * Door: addr_is4 addr_any addr_parse_ip addr_parse_port addr_parse addr_print addr_cidr
 *       addr_cidr_parse addr_cidr_print addr_in addr_match addr_to_sa addr_from_sa
 */

static const uint8_t addr_mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

/* Is it an IPv4 address? */
static bool addr_is4(const uint8_t ip[16])
{
	return memcmp(ip, addr_mapped, sizeof addr_mapped) == 0;
}

/* Is it the address that stands for all, IPv4 and IPv6? */
static bool addr_any(const uint8_t ip[16])
{
	static const uint8_t zero[16];

	return memcmp(ip, zero, sizeof zero) == 0;
}

/* Dotted decimal of exactly four numbers; a leading 0 would be octal for some, so it is refused. */
static bool addr_parse4(struct sl a, uint8_t out[4])
{
	struct sl part;
	uint64_t v;
	unsigned n = 0;

	while (sl_cut(&a, '.', &part)) {
		if (n == 4 || (part.n > 1 && part.p[0] == '0') || !sl_number(part, 255, &v))
			return false;
		out[n++] = (uint8_t)v;
	}
	return n == 4;
}

/* Eight groups with at most one "::", the last two perhaps as IPv4. */
static bool addr_parse6(struct sl a, uint8_t ip[16])
{
	uint8_t b[16] = {0};
	size_t n = 0, gap = SIZE_MAX, i = 0;

	if (sl_at(a, 0) == ':' && sl_at(a, 1) == ':') {
		gap = 0;
		i = 2;
	}
	while (i < a.n) {
		size_t k = sl_count(sl_rest(a, i), SL_HEXDIG);
		if (sl_at(a, i + k) == '.') {
			if (n > 12 || !addr_parse4(sl_rest(a, i), b + n))
				return false;
			n += 4;
			break;
		}
		if (!k || k > 4 || n == 16)
			return false;
		unsigned v = 0;
		for (; k; k--)
			v = v << 4 | (unsigned)sl_hexval(a.p[i++]);
		b[n++] = (uint8_t)(v >> 8);
		b[n++] = (uint8_t)v;
		if (i == a.n)
			break;
		if (a.p[i++] != ':' || i == a.n)
			return false;
		if (a.p[i] == ':') {
			if (gap != SIZE_MAX)
				return false;
			gap = n;
			i++;
		}
	}
	if (gap == SIZE_MAX ? n != 16 : n > 14)
		return false;
	if (gap == SIZE_MAX)
		gap = n;
	memset(ip, 0, 16);
	memcpy(ip, b, gap);
	memcpy(ip + 16 - (n - gap), b + gap, n - gap);
	return true;
}

/* An address without brackets, zone or port. ip is written only when it is one. */
static bool addr_parse_ip(struct sl a, uint8_t ip[16])
{
	uint8_t four[4];

	if (sl_find(a, ':') < a.n)
		return addr_parse6(a, ip);
	if (!addr_parse4(a, four))
		return false;
	memcpy(ip, addr_mapped, sizeof addr_mapped);
	memcpy(ip + 12, four, sizeof four);
	return true;
}

/* A port: 1 to 5 digits, 0 to 65535. */
static bool addr_parse_port(struct sl a, uint16_t *port)
{
	uint64_t v;

	if (a.n > 5 || !sl_number(a, 65535, &v))
		return false;
	*port = (uint16_t)v;
	return true;
}

/* [ADDR:]PORT, an IPv6 address in brackets; without ADDR the ip is all zero: every address. */
static bool addr_parse(struct sl a, struct addr *out)
{
	size_t colon = a.n;

	*out = (struct addr){{0}, 0};
	if (a.n && sl_count(a, SL_DIGIT) == a.n)
		return addr_parse_port(a, &out->port);
	while (colon && a.p[colon - 1] != ':')
		colon--;
	if (colon < 2 || !addr_parse_port(sl_rest(a, colon), &out->port))
		return false;
	struct sl ip = sl_mk(a.p, colon - 1);
	bool six = ip.p[0] == '[' && ip.p[ip.n - 1] == ']';
	if (six)
		ip = sl_mk(ip.p + 1, ip.n - 2);
	return six == (sl_find(ip, ':') < ip.n) && addr_parse_ip(ip, out->ip);
}

/* The groups, with "::" for the longest run of two or more zeros, the first of equals. */
static void addr_print6(struct sb *b, const uint8_t ip[16])
{
	unsigned g[8], at = 8, best = 1;

	for (unsigned i = 0; i < 8; i++)
		g[i] = (unsigned)ip[2 * i] << 8 | ip[2 * i + 1];
	for (unsigned i = 0, run = 0; i < 8; i++) {
		run = g[i] ? 0 : run + 1;
		if (run > best) {
			best = run;
			at = i + 1 - run;
		}
	}
	for (unsigned i = 0; i < 8; i++) {
		if (i == at) {
			sb_str(b, "::");
			i += best - 1;
		} else {
			sb_fmt(b, i && i != at + best ? ":%x" : "%x", g[i]);
		}
	}
}

/* Writes the one spelling (RFC 5952; IPv4 dotted), with its port as ADDR:PORT or [ADDR]:PORT, and a
 * 0 behind it. Returns its length, at most 47. */
static size_t addr_print(const struct addr *a, bool with_port, char out[56])
{
	struct sb b = sb_of(out, 55);
	const uint8_t *ip = a->ip;

	if (addr_is4(ip)) {
		for (int i = 12; i < 16; i++) {
			if (i > 12)
				sb_chr(&b, '.');
			sb_num(&b, ip[i]);
		}
	} else {
		if (with_port)
			sb_chr(&b, '[');
		addr_print6(&b, ip);
		if (with_port)
			sb_chr(&b, ']');
	}
	if (with_port) {
		sb_chr(&b, ':');
		sb_num(&b, a->port);
	}
	out[b.n] = 0;
	return b.n;
}

/* Reads ADDR[/BITS]. Returns 1; 0 when bits are set behind the prefix (out is the range all the
 * same); -1 when it is no range. */
static int addr_cidr(struct sl a, struct cidr *out)
{
	struct sl ip, len;
	uint64_t bits;
	int exact = 1;

	*out = (struct cidr){.cf = false};
	if (!sl_cut(&a, '/', &ip) || !addr_parse_ip(ip, out->ip))
		return -1;
	bool six = sl_find(ip, ':') < ip.n;
	bits = six ? 128 : 32;
	len = a;
	if (len.p && ((len.n > 1 && len.p[0] == '0') || !sl_number(len, bits, &bits)))
		return -1;
	out->bits = (uint8_t)(six ? bits : bits + 96);
	for (unsigned i = out->bits; i < 128; i++) {
		uint8_t bit = (uint8_t)(0x80 >> i % 8);
		if (out->ip[i / 8] & bit)
			exact = 0;
		out->ip[i / 8] &= (uint8_t)~bit;
	}
	return exact;
}

/* A range whose bits behind the prefix are all 0. */
static bool addr_cidr_parse(struct sl a, struct cidr *out)
{
	return addr_cidr(a, out) == 1;
}

/* Writes a range so that addr_cidr_parse reads it. */
static size_t addr_cidr_print(const struct cidr *c, char out[56])
{
	struct addr a = {.port = 0};
	bool four = c->bits >= 96 && addr_is4(c->ip);

	memcpy(a.ip, c->ip, sizeof a.ip);
	size_t n = addr_print(&a, false, out);
	return n + (size_t)snprintf(out + n, 56 - n, "/%d", four ? c->bits - 96 : c->bits);
}

/* Is the address in the range? IPv4 is in no range that was meant for IPv6, such as ::/0. */
static bool addr_in(const struct cidr *c, const uint8_t ip[16])
{
	unsigned bytes = c->bits / 8, left = c->bits % 8;

	if (memcmp(c->ip, ip, bytes) != 0 || (c->bits < 96 && addr_is4(ip)))
		return false;
	return !left || ((unsigned)(c->ip[bytes] ^ ip[bytes]) & 0xff00u >> left & 0xffu) == 0;
}

/* The range with the longest prefix that holds the address, the first of equals; or NULL. */
static const struct cidr *addr_match(const struct cidrs *l, const uint8_t ip[16])
{
	const struct cidr *best = NULL;

	for (size_t i = 0; i < l->n; i++)
		if ((!best || l->v[i].bits > best->bits) && addr_in(&l->v[i], ip))
			best = &l->v[i];
	return best;
}

/* For connect and bind; returns its length. */
static socklen_t addr_to_sa(const struct addr *a, struct sockaddr_storage *ss)
{
	struct sockaddr_in in4 = {.sin_family = AF_INET, .sin_port = htons(a->port)};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(a->port)};
	bool four = addr_is4(a->ip);

	memcpy(&in4.sin_addr, a->ip + 12, 4);
	memcpy(&in6.sin6_addr, a->ip, 16);
	memset(ss, 0, sizeof *ss);
	if (four)
		memcpy(ss, &in4, sizeof in4);
	else
		memcpy(ss, &in6, sizeof in6);
	return four ? sizeof in4 : sizeof in6;
}

/* The reverse; all zero for a family without addresses, such as AF_UNIX. */
static void addr_from_sa(const struct sockaddr_storage *ss, struct addr *a)
{
	struct sockaddr_in in4;
	struct sockaddr_in6 in6;

	*a = (struct addr){{0}, 0};
	if (ss->ss_family == AF_INET) {
		memcpy(&in4, ss, sizeof in4);
		memcpy(a->ip, addr_mapped, sizeof addr_mapped);
		memcpy(a->ip + 12, &in4.sin_addr, 4);
		a->port = ntohs(in4.sin_port);
	} else if (ss->ss_family == AF_INET6) {
		memcpy(&in6, ss, sizeof in6);
		memcpy(a->ip, &in6.sin6_addr, 16);
		a->port = ntohs(in6.sin6_port);
	}
}

/* ==[ HEAD ]============================================= prefix: hd_ ==
 * The strict parser of HTTP/1.1 heads, and the writer of the head that goes on. Spans are offsets
 * into the head's own bytes, never pointers: a buffer may move. A head is parsed line by line as it
 * comes, each byte once, so that no split of the bytes costs more or changes the verdict.
 * Owns: nothing; struct hd sits in its transaction.
 * Fails: -1 with hd->status (400, 414, 431, 501, 505) and hd->why; a response is good or bad.
 * Spec: RFC 9112 2 to 5, RFC 9110 4.2, 5 and 7.2.
 * Door: hd_reset hd_parse hd_sl hd_value hd_find hd_next hd_has hd_twice hd_copy hd_drop hd_hide
 *       hd_authority hd_lookup
 */

/* The fields that the proxy looks at, and some that come often: name, its first and last byte, and
 * whether it goes on. A name that stands here needs no look at each of its bytes. */
#define HD_FIELDS(X)                                                                               \
	X(HOST, "host", 'h', 't', HD_OUT)                                                              \
	X(CONTENT_LENGTH, "content-length", 'c', 'h', HD_OUT)                                          \
	X(TRANSFER_ENCODING, "transfer-encoding", 't', 'g', HD_OUT)                                    \
	X(CONNECTION, "connection", 'c', 'n', HD_OUT)                                                  \
	X(KEEP_ALIVE, "keep-alive", 'k', 'e', HD_OUT)                                                  \
	X(PROXY_CONNECTION, "proxy-connection", 'p', 'n', HD_OUT)                                      \
	X(PROXY_AUTHENTICATE, "proxy-authenticate", 'p', 'e', HD_OUT)                                  \
	X(PROXY_AUTHORIZATION, "proxy-authorization", 'p', 'n', HD_OUT)                                \
	X(PROXY, "proxy", 'p', 'y', HD_OUT)                                                            \
	X(TE, "te", 't', 'e', HD_OUT)                                                                  \
	X(TRAILER, "trailer", 't', 'r', HD_OUT)                                                        \
	X(UPGRADE, "upgrade", 'u', 'e', HD_OUT)                                                        \
	X(HTTP2_SETTINGS, "http2-settings", 'h', 's', HD_OUT)                                          \
	X(FORWARDED, "forwarded", 'f', 'd', HD_CLAIM)                                                  \
	X(XFF, "x-forwarded-for", 'x', 'r', HD_CLAIM)                                                  \
	X(XFP, "x-forwarded-proto", 'x', 'o', HD_CLAIM)                                                \
	X(XFH, "x-forwarded-host", 'x', 't', HD_CLAIM)                                                 \
	X(REAL_IP, "x-real-ip", 'x', 'p', HD_CLAIM)                                                    \
	X(TRUE_IP, "true-client-ip", 't', 'p', HD_CLAIM)                                               \
	X(BARE_CLIENT_IP, "client-ip", 'c', 'p', HD_CLAIM)                                             \
	X(CLIENT_IP, "x-client-ip", 'x', 'p', HD_CLAIM)                                                \
	X(CLUSTER_IP, "x-cluster-client-ip", 'x', 'p', HD_CLAIM)                                       \
	X(CF_IP, "cf-connecting-ip", 'c', 'p', HD_CF)                                                  \
	X(CF_VISITOR, "cf-visitor", 'c', 'r', HD_CF)                                                   \
	X(EXPECT, "expect", 'e', 't', HD_ON)                                                           \
	X(AUTHORIZATION, "authorization", 'a', 'n', HD_ON)                                             \
	X(ACCEPT, "accept", 'a', 't', HD_ON)                                                           \
	X(USER_AGENT, "user-agent", 'u', 't', HD_ON)                                                   \
	X(REFERER, "referer", 'r', 'r', HD_ON)                                                         \
	X(VIA, "via", 'v', 'a', HD_ON)                                                                 \
	X(MAX_FORWARDS, "max-forwards", 'm', 's', HD_ON)                                               \
	X(DATE, "date", 'd', 'e', HD_ON)                                                               \
	X(LOCATION, "location", 'l', 'n', HD_ON)                                                       \
	X(CONTENT_LOCATION, "content-location", 'c', 'n', HD_ON)                                       \
	X(REFRESH, "refresh", 'r', 'h', HD_ON)                                                         \
	X(HSTS, "strict-transport-security", 's', 'y', HD_ON)                                          \
	X(SERVER, "server", 's', 'r', HD_ON)                                                           \
	X(CONTENT_TYPE, "content-type", 'c', 'e', HD_ON)                                               \
	X(LAST_MODIFIED, "last-modified", 'l', 'd', HD_ON)                                             \
	X(ETAG, "etag", 'e', 'g', HD_ON)                                                               \
	X(ACCEPT_RANGES, "accept-ranges", 'a', 's', HD_ON)                                             \
	X(CACHE_CONTROL, "cache-control", 'c', 'l', HD_ON)                                             \
	X(COOKIE, "cookie", 'c', 'e', HD_ON)                                                           \
	X(SET_COOKIE, "set-cookie", 's', 'e', HD_ON)                                                   \
	X(ACCEPT_ENCODING, "accept-encoding", 'a', 'g', HD_ON)                                         \
	X(ACCEPT_LANGUAGE, "accept-language", 'a', 'e', HD_ON)                                         \
	X(VARY, "vary", 'v', 'y', HD_ON)                                                               \
	X(CONTENT_ENCODING, "content-encoding", 'c', 'g', HD_ON)                                       \
	X(ORIGIN, "origin", 'o', 'n', HD_ON)                                                           \
	X(RANGE, "range", 'r', 'e', HD_ON)

enum hd_id {
	HF_OTHER,
#define X(NAME, text, first, last, way) HF_##NAME,
	HD_FIELDS(X)
#undef X
		HF_XF_OTHER, /* X-Forwarded-anything-else */
	HF_CF_OTHER,	 /* CF-anything-else */
	HF_COUNT
};

_Static_assert(HF_COUNT <= 64, "sets of fields are 64 bit masks");

#define HD_BIT(id) ((uint64_t)1 << HF_##id)

enum hd_way { HD_ON, HD_OUT, HD_CLAIM, HD_CF };

/* The fields that belong to one connection (RFC 9110 7.6.1) or are written anew. */
static const uint64_t hd_hop = 0
#define X(NAME, text, first, last, way) | (way == HD_OUT ? HD_BIT(NAME) : 0)
	HD_FIELDS(X)
#undef X
	;

/* What a client may claim about who it is: only ours goes on. */
static const uint64_t hd_claims = HD_BIT(XF_OTHER)
#define X(NAME, text, first, last, way) | (way == HD_CLAIM ? HD_BIT(NAME) : 0)
	HD_FIELDS(X)
#undef X
	;

/* What Cloudflare says, and goes on when it does. */
static const uint64_t hd_cf = HD_BIT(CF_OTHER)
#define X(NAME, text, first, last, way) | (way == HD_CF ? HD_BIT(NAME) : 0)
	HD_FIELDS(X)
#undef X
	;

struct hd_span {
	uint16_t off, len;
};

struct hd_field {
	struct hd_span name, value;
	uint8_t id; /* enum hd_id */
	bool drop;	/* not to be forwarded */
};

enum hd_form { HD_ORIGIN, HD_ABSOLUTE, HD_ASTERISK, HD_AUTHORITY };

struct hd {
	bool response;
	uint8_t minor;			   /* of the HTTP version: 0, or 1 for all others */
	bool whole;				   /* parsed to its end */
	bool close, keep, upgrade; /* what Connection says */
	uint8_t empty_lines;
	enum why why; /* when it is bad */
	int status;	  /* of the response, or of the answer to a bad request */
	struct hd_span method, target, reason;
	enum hd_form form;
	struct hd_span authority;	/* of an absolute-form target */
	struct hd_span path, query; /* path may be empty: "/"; query begins with "?" */
	uint32_t at, scan;			/* the line that is being read begins at, is looked through up to */
	uint32_t size;				/* bytes of the whole head */
	uint16_t n;
	uint64_t seen, twice;	 /* HD_BITs of the fields there, and there more than once */
	uint8_t first[HF_COUNT]; /* of those: the index of the first one; not cleared */
	struct hd_field f[RP_FIELDS_MAX];
};

/* Makes h ready for a new head. */
static void hd_reset(struct hd *h, bool response)
{
	memset(h, 0, offsetof(struct hd, first));
	h->response = response;
}

static struct sl hd_sl(const char *base, struct hd_span s)
{
	return sl_mk(base + s.off, s.len);
}

/* The well-known names, lower case: in one piece, so that nothing has to be relocated at start. */
static const struct {
	uint8_t n;
	char text[31];
} hd_names[HF_COUNT] = {
	[HF_OTHER] = {0, ""},
#define X(NAME, text, first, last, way) [HF_##NAME] = {sizeof text - 1, text},
	HD_FIELDS(X)
#undef X
		[HF_XF_OTHER] = {11, "x-forwarded"},
	[HF_CF_OTHER] = {3, "cf-"},
};

/* Do four bytes of a token differ from those of a name in more than bit 5? */
static bool hd_differ(const char *token, const char *name)
{
	uint32_t a, b;

	memcpy(&a, token, sizeof a);
	memcpy(&b, name, sizeof b);
	return (a | 0x20202020) != b;
}

/* Is a token this lower-case name of letters, digits and "-", which bit 5 alone tells from upper
 * case? Both have the same length. Four at a time, the last four first. */
static bool hd_same(struct sl token, const char *name)
{
	size_t i = 0;

	if (token.n < 4) {
		while (i < token.n && (token.p[i] | 0x20) == name[i])
			i++;
		return i == token.n;
	}
	if (hd_differ(token.p + token.n - 4, name + token.n - 4)) /* all 4 lie in both */
		return false;
	while (i + 4 < token.n && !hd_differ(token.p + i, name + i))
		i += 4;
	return i + 4 >= token.n;
}

/* Which of HD_FIELDS a name is. A hash of length, first and last byte leaves one candidate: for two
 * that were alike the compiler would warn of an override; then take other factors. */
#define HD_KEY(len, a, z) (((unsigned)(len)*5 + (unsigned)(a)*8 + (unsigned)(z)*4) & 255)
static const uint8_t hd_ids[256] = {
#define X(NAME, text, first, last, way) [HD_KEY(sizeof text - 1, first, last)] = HF_##NAME,
	HD_FIELDS(X)
#undef X
};

static enum hd_id hd_lookup(struct sl name)
{
	uint8_t a = (uint8_t)(name.p[0] | 0x20), z = (uint8_t)(name.p[name.n - 1] | 0x20);
	uint8_t id = hd_ids[HD_KEY(name.n, a, z)];

	if (id != HF_OTHER && name.n == hd_names[id].n && hd_same(name, hd_names[id].text))
		return (enum hd_id)id;
	if (a == 'x' && name.n >= 11 && sl_iis(sl_mk(name.p, 11), "x-forwarded"))
		return HF_XF_OTHER;
	if (a == 'c' && name.n >= 3 && sl_iis(sl_mk(name.p, 3), "cf-"))
		return HF_CF_OTHER;
	return HF_OTHER;
}

static int hd_bad(struct hd *h, enum why why, int status)
{
	h->why = why;
	h->status = h->response ? 502 : status;
	return -1;
}

static struct hd_span hd_span(const char *base, struct sl s)
{
	return (struct hd_span){(uint16_t)(s.p - base), (uint16_t)s.n};
}

/* "HTTP/1.0", "HTTP/1.1"; a later minor version is spoken to as 1.1 (RFC 9110 2.5). Returns 0, or
 * the status that fits. */
static int hd_version(struct hd *h, struct sl v)
{
	if (v.n != 8 || memcmp(v.p, "HTTP/", 5) != 0 || v.p[6] != '.' ||
		!(sl_class[(uint8_t)v.p[5]] & sl_class[(uint8_t)v.p[7]] & SL_DIGIT))
		return 400;
	if (v.p[5] != '1')
		return 505;
	h->minor = v.p[7] != '0';
	return 0;
}

/* RFC 9112 3.2: splits the request target. */
static int hd_target(struct hd *h, const char *base, struct sl method)
{
	struct sl t = hd_sl(base, h->target), path = t;

	if (sl_is(method, "CONNECT")) {
		h->form = HD_AUTHORITY;
		return 0;
	}
	if (t.n == 1 && t.p[0] == '*') {
		h->form = HD_ASTERISK;
		h->path = h->target;
		return sl_is(method, "OPTIONS") ? 0 : hd_bad(h, WHY_BAD_REQUEST, 400);
	}
	if (t.p[0] != '/') {
		size_t scheme = t.n >= 7 && sl_iis(sl_mk(t.p, 7), "http://")	? 7
						: t.n >= 8 && sl_iis(sl_mk(t.p, 8), "https://") ? 8
																		: 0;
		if (!scheme)
			return hd_bad(h, WHY_BAD_REQUEST, 400);
		path = sl_rest(t, scheme);
		size_t n = 0;
		while (n < path.n && path.p[n] != '/' && path.p[n] != '?')
			n++;
		h->form = HD_ABSOLUTE;
		h->authority = hd_span(base, sl_mk(path.p, n));
		path = sl_rest(path, n);
		if (!path.n && sl_is(method, "OPTIONS"))
			h->form = HD_ASTERISK; /* RFC 9112 3.2.4 */
	}
	size_t q = sl_find(path, '?');
	h->path = hd_span(base, sl_mk(path.p, q));
	h->query = hd_span(base, sl_rest(path, q));
	return 0;
}

static int hd_request_line(struct hd *h, const char *base, struct sl line)
{
	size_t n = sl_count(line, SL_TCHAR);
	struct sl method = sl_mk(line.p, n), rest = sl_rest(line, n);

	if (n > RP_METHOD_MAX)
		return hd_bad(h, WHY_METHOD_REFUSED, 501);
	if (!n || sl_at(rest, 0) != ' ')
		return hd_bad(h, WHY_BAD_REQUEST, 400);
	rest = sl_rest(rest, 1);
	n = sl_count(rest, SL_URI);
	h->method = hd_span(base, method);
	h->target = hd_span(base, sl_mk(rest.p, n));
	rest = sl_rest(rest, n);
	if (!n || sl_at(rest, 0) != ' ')
		return hd_bad(h, WHY_BAD_REQUEST, 400);
	int bad = hd_version(h, sl_rest(rest, 1));
	return bad ? hd_bad(h, WHY_BAD_REQUEST, bad) : hd_target(h, base, method);
}

/* RFC 9112 4; the blank before an absent reason may be absent, too, as many send it. */
static int hd_status_line(struct hd *h, const char *base, struct sl line)
{
	uint64_t status = 0;

	if (line.n < 12 || hd_version(h, sl_mk(line.p, 8)) || line.p[8] != ' ' ||
		!sl_number(sl_mk(line.p + 9, 3), 599, &status) || status < 100 ||
		(line.n > 12 && line.p[12] != ' '))
		return hd_bad(h, WHY_UP_BAD, 502);
	h->status = (int)status;
	h->reason = hd_span(base, sl_rest(line, 13));
	return 0;
}

static int hd_field_line(struct hd *h, const char *base, struct sl line)
{
	enum why bad = h->response ? WHY_UP_BAD : WHY_BAD_REQUEST;
	const char *p = line.p, *end = p + line.n; /* a CR stands there: no loop runs over it */
	struct hd_field *f = &h->f[h->n];
	struct sl name = sl_mk(p, sl_colon(line));
	uint8_t all = 0xff;

	if (h->n == RP_FIELDS_MAX)
		return hd_bad(h, h->response ? WHY_UP_BAD : WHY_HEAD_TOO_BIG, 431);
	if (!name.n || name.n == line.n)
		return hd_bad(h, bad, 400);
	f->id = (uint8_t)hd_lookup(name);
	bool known = f->id > HF_OTHER && f->id < HF_XF_OTHER; /* each byte of it is */
	for (size_t i = 0; !known && i < name.n; i++)
		all &= sl_class[(uint8_t)name.p[i]];
	if (!(all & SL_TCHAR)) /* RFC 9112 5.1: no blank before the colon, for one */
		return hd_bad(h, bad, 400);
	p += name.n;
	do
		p++;
	while (*p == ' ' || *p == '\t');
	while (end > p && (end[-1] == ' ' || end[-1] == '\t'))
		end--;
	f->name = hd_span(base, name);
	f->value = hd_span(base, sl_mk(p, (size_t)(end - p)));
	/* X_Forwarded_For and its like are one name to some backends (CGI): none passes. */
	f->drop = !(all & SL_NAME) && !h->response;
	if (!(h->seen >> f->id & 1))
		h->first[f->id] = (uint8_t)h->n;
	h->twice |= h->seen & (uint64_t)1 << f->id;
	h->seen |= (uint64_t)1 << f->id;
	h->n++;
	return 0;
}

/* Field lines have no other order than by name; i is the index behind the last one found, from 0.
 * Returns the next field with this id, NULL for none. */
static struct hd_field *hd_next(struct hd *h, enum hd_id id, unsigned *i)
{
	if (!(h->seen >> id & 1))
		return NULL;
	if (*i <= h->first[id]) {
		*i = h->first[id] + 1u;
		return &h->f[*i - 1];
	}
	while ((h->twice >> id & 1) && *i < h->n)
		if (h->f[(*i)++].id == id)
			return &h->f[*i - 1];
	return NULL;
}

static bool hd_has(const struct hd *h, enum hd_id id)
{
	return h->seen >> id & 1;
}

/* Is it there more than once? */
static bool hd_twice(const struct hd *h, enum hd_id id)
{
	return h->twice >> id & 1;
}

static struct hd_field *hd_find(struct hd *h, enum hd_id id)
{
	unsigned i = 0;

	return hd_next(h, id, &i);
}

/* The first value of a field, empty when there is none. */
static struct sl hd_value(struct hd *h, const char *base, enum hd_id id)
{
	struct hd_field *f = hd_find(h, id);

	return f ? hd_sl(base, f->value) : sl_mk("", 0);
}

/* RFC 9110 7.6.1: what Connection names is for this connection alone. A message that so takes away
 * its own framing or host is an attack. */
static int hd_connection(struct hd *h, const char *base)
{
	struct hd_field *f;
	unsigned i = 0, words = 0;

	while ((f = hd_next(h, HF_CONNECTION, &i))) {
		struct sl rest = hd_sl(base, f->value), word;
		while (sl_item(&rest, &word)) {
			if (word.n == 10 && hd_same(word, "keep-alive")) {
				h->keep = true;
				continue;
			}
			enum hd_id id = hd_lookup(word);
			if (id == HF_CONTENT_LENGTH || id == HF_TRANSFER_ENCODING || id == HF_HOST ||
				++words > RP_FIELDS_MAX) /* each is looked for among the fields */
				return hd_bad(h, h->response ? WHY_UP_BAD : WHY_BAD_REQUEST, 400);
			h->close |= sl_iis(word, "close");
			h->upgrade |= id == HF_UPGRADE;
			for (unsigned k = 0; k < h->n; k++)
				if (sl_ieq(word, hd_sl(base, h->f[k].name)))
					h->f[k].drop = true;
		}
	}
	return 0;
}

/* uri-host [":" port] (RFC 9110 7.2): writes the host's one form to out (RP_NAME_MAX + 3 bytes): lower
 * case, no final dot, IPv6 in brackets. Returns its length, 0 when it is malformed. Reads no
 * further than the host's colon for *port, which is the text behind it. */
static size_t hd_authority(struct sl a, char *out, struct sl *port)
{
	size_t n = 0, end;

	*port = sl_mk("", 0);
	if (sl_at(a, 0) == '[') {
		struct in6_addr in6;
		char text[INET6_ADDRSTRLEN + 1];
		end = sl_find(a, ']');
		if (end == a.n || end < 2 || end - 1 >= sizeof text)
			return 0;
		memcpy(text, a.p + 1, end - 1);
		text[end - 1] = 0;
		if (memchr(text, 0, end - 1) || inet_pton(AF_INET6, text, &in6) != 1 ||
			!inet_ntop(AF_INET6, &in6, out + 1, INET6_ADDRSTRLEN))
			return 0;
		out[0] = '[';
		n = strlen(out);
		out[n++] = ']';
		out[n] = 0;
		a = sl_rest(a, end + 1);
		end = 0;
	} else {
		end = sl_find(a, ':');
		if (!(n = sl_host(sl_mk(a.p, end), out)))
			return 0;
	}
	if (end == a.n)
		return n;
	*port = sl_rest(a, end + 1);
	uint64_t v = 0;
	return a.p[end] == ':' && (!port->n || sl_number(*port, 65535, &v)) ? n : 0;
}

/* The head is there to its empty line: what can be judged only now. */
static int hd_finish(struct hd *h, const char *base)
{
	h->whole = true;
	if (hd_has(h, HF_CONNECTION) && hd_connection(h, base) < 0)
		return -1;
	if (h->response)
		return 0;
	/* RFC 9112 3.2: exactly one Host on 1.1, at most one on 1.0 */
	if (hd_twice(h, HF_HOST) || (!hd_has(h, HF_HOST) && h->minor))
		return hd_bad(h, WHY_BAD_REQUEST, 400);
	return 0;
}

static int hd_line(struct hd *h, const char *base, struct sl line)
{
	if (h->at == 0 || (!h->response && !h->method.len)) {
		if (!line.n) {
			h->empty_lines++;
			return h->response || h->empty_lines > RP_EMPTY_LINES
					   ? hd_bad(h, h->response ? WHY_UP_BAD : WHY_BAD_REQUEST, 400)
					   : 0;
		}
		return h->response ? hd_status_line(h, base, line) : hd_request_line(h, base, line);
	}
	return line.n ? hd_field_line(h, base, line) : hd_finish(h, base);
}

/* A line that has no end yet, or has just got it, may already be too long for any that is good. */
static int hd_too_long(struct hd *h, const char *base, uint32_t end, uint32_t max)
{
	uint32_t len = end - h->at;

	if (!h->response && !h->method.len) {
		if (len > RP_METHOD_MAX && sl_count(sl_mk(base + h->at, len), SL_TCHAR) > RP_METHOD_MAX)
			return hd_bad(h, WHY_METHOD_REFUSED, 501);
		if (len > RP_LINE_MAX)
			return hd_bad(h, WHY_URI_TOO_LONG, 414);
	}
	if (end > max)
		return hd_bad(h, h->response ? WHY_UP_BAD : WHY_HEAD_TOO_BIG, 431);
	return 0;
}

/* Can a response that begins like this become one? Another protocol's first line may never end. */
static bool hd_begun(const struct hd *h, const char *base)
{
	return !h->response || h->at || memcmp(base, "HTTP/1.", h->scan < 7 ? h->scan : 7) == 0;
}

/* Parses the head that begins at in.p, which must be the same bytes and more in each call until it
 * is whole. Returns its length, 0 for more bytes, -1 bad with h->why and h->status. */
static ptrdiff_t hd_parse(struct hd *h, struct sl in, uint32_t max)
{
	enum why bad = h->response ? WHY_UP_BAD : WHY_BAD_REQUEST;
	uint32_t n = in.n > 65536 ? 65536 : (uint32_t)in.n;

	while (h->scan < n) {
		h->scan += (uint32_t)sl_plain(sl_mk(in.p + h->scan, n - h->scan));
		if (hd_too_long(h, in.p, h->scan, max) < 0)
			return -1;
		if (h->scan == n)
			break;
		if (in.p[h->scan] == '\t') {
			h->scan++;
			continue;
		}
		if (in.p[h->scan] != '\r')
			return hd_bad(h, bad, 400);
		if (h->scan + 1 == n)
			break;
		if (in.p[h->scan + 1] != '\n') /* RFC 9112 2.2: a bare CR is invalid */
			return hd_bad(h, bad, 400);
		if (hd_line(h, in.p, sl_mk(in.p + h->at, h->scan - h->at)) < 0)
			return -1;
		h->scan += 2;
		h->at = h->scan;
		if (h->whole) {
			h->size = h->at;
			return h->at > max ? hd_bad(h, h->response ? WHY_UP_BAD : WHY_HEAD_TOO_BIG, 431)
							   : (ptrdiff_t)h->size;
		}
	}
	return hd_begun(h, in.p) ? 0 : hd_bad(h, bad, 502);
}

/* Marks the fields of this name (any case) as not to be forwarded. */
static void hd_hide(struct hd *h, const char *base, const char *name)
{
	for (unsigned i = 0; i < h->n; i++)
		if (sl_iis(hd_sl(base, h->f[i].name), name))
			h->f[i].drop = true;
}

static void hd_drop(struct hd *h, enum hd_id id)
{
	struct hd_field *f;
	unsigned i = 0;

	while ((f = hd_next(h, id, &i)))
		f->drop = true;
}

/* Writes the fields that go on, in their order and case; those in `out` (HD_BITs) and the dropped
 * ones are left out. Neighbours that are spelled the one usual way go as one piece. */
static void hd_copy(struct sb *b, const struct hd *h, const char *base, uint64_t out)
{
	uint32_t from = 0, to = 0; /* the piece so far */

	for (unsigned i = 0; i < h->n; i++) {
		const struct hd_field *f = &h->f[i];
		if (f->drop || (out >> f->id & 1))
			continue;
		uint32_t value = f->value.off, end = value + f->value.len;
		bool usual = value == (uint32_t)f->name.off + f->name.len + 2 && base[value - 1] == ' ' &&
					 base[end] == '\r';
		if (from != to && (f->name.off != to || !usual)) {
			sb_put(b, sl_mk(base + from, to - from));
			from = to;
		}
		if (usual) {
			from = from == to ? f->name.off : from;
			to = end + 2;
			continue;
		}
		sb_put(b, hd_sl(base, f->name));
		sb_put(b, sl_mk(": ", 2));
		sb_put(b, hd_sl(base, f->value));
		sb_crlf(b);
	}
	sb_put(b, sl_mk(base + from, to - from));
}

/* ==[ BODY ]============================================= prefix: fr_ ==
 * How long a message is: decided in one place with the whole head in view, then scanned.
 * Owns: nothing; struct fr sits in its transaction.
 * Fails: fr_decide_* with -1 (a request gets 400, an answer 502); fr_scan with -1.
 * Spec: RFC 9112 6 and 7; RFC 9110 8.6, 15.
 * Door: fr_decide_request fr_decide_response fr_scan
 */

enum fr_kind { FR_NONE, FR_LENGTH, FR_CHUNKED, FR_CLOSE };

/* Where the scan of a chunked body stands: what may come next. */
enum fr_at {
	FR_SIZE,		/* hex digits */
	FR_EXT_NAME,	/* of an extension: its first byte */
	FR_EXT_NAMES,	/* more of it, "=", ";" or CR */
	FR_EXT_VALUE,	/* its first byte, or a quote */
	FR_EXT_VALUES,	/* more of it, ";" or CR */
	FR_EXT_QUOTED,	/* within quotes */
	FR_EXT_ESCAPED, /* behind a backslash */
	FR_EXT_END,		/* behind the closing quote: ";" or CR */
	FR_SIZE_LF,
	FR_DATA,
	FR_DATA_CR,
	FR_DATA_LF,
	FR_TRAILER, /* a line's first byte */
	FR_TRAILER_NAME,
	FR_TRAILER_VALUE,
	FR_TRAILER_LF,
	FR_END_LF
};

struct fr {
	enum fr_kind kind;
	enum fr_at at;
	bool done;		  /* the body ended */
	bool no_reuse;	  /* the head was in doubt: the connection is not for another message */
	uint8_t digits;	  /* of this chunk's size */
	uint16_t line;	  /* bytes of this size line */
	uint16_t ext;	  /* bytes of extensions in all */
	uint16_t trailer; /* bytes of trailers */
	uint64_t left;	  /* of the body with a length, or of this chunk */
	uint64_t total;	  /* payload bytes scanned */
};

/* Content-Length: one field of plain digits below 2^63. Returns 1 there, 0 absent, -1 bad. */
static int fr_length(struct hd *h, const char *base, uint64_t *out)
{
	if (!hd_has(h, HF_CONTENT_LENGTH))
		return 0;
	if (hd_twice(h, HF_CONTENT_LENGTH))
		return -1; /* RFC 9112 6.3: several are one attack or another */
	return sl_number(hd_value(h, base, HF_CONTENT_LENGTH), INT64_MAX, out) ? 1 : -1;
}

/* Transfer-Encoding: one field, "chunked" and nothing else. Returns 1 there, 0 absent, -1 bad. */
static int fr_coding(struct hd *h, const char *base)
{
	if (!hd_has(h, HF_TRANSFER_ENCODING))
		return 0;
	if (hd_twice(h, HF_TRANSFER_ENCODING) || !h->minor) /* RFC 9112 6.1: not in 1.0 */
		return -1;
	return sl_iis(hd_value(h, base, HF_TRANSFER_ENCODING), "chunked") ? 1 : -1;
}

/* How the body of a request is framed. 0 or -1. */
static int fr_decide_request(struct hd *h, const char *base, struct fr *f)
{
	uint64_t length = 0;
	int cl = fr_length(h, base, &length), te = fr_coding(h, base);

	*f = (struct fr){.kind = FR_NONE};
	if (cl < 0 || te < 0 || (cl && te)) /* RFC 9112 6.3: both present -> refuse */
		return -1;
	f->kind = te ? FR_CHUNKED : cl ? FR_LENGTH : FR_NONE;
	f->left = length;
	f->done = !te && !length;
	return 0;
}

/* How the body of an answer to a request with this method is framed. 0 or -1. */
static int fr_decide_response(struct hd *h, const char *base, bool head, struct fr *f)
{
	uint64_t length = 0;
	int cl = fr_length(h, base, &length), te = fr_coding(h, base);

	*f = (struct fr){.kind = FR_CLOSE};
	if (cl < 0 || te < 0)
		return -1;
	f->no_reuse = cl && te;
	if (head || h->status < 200 || h->status == 204 || h->status == 304) {
		f->kind = FR_NONE; /* RFC 9112 6.3 1 */
		f->done = true;
		/* RFC 9112 6.1: these two have no coding; a peer that says so may well send one */
		f->no_reuse |= te && (h->status < 200 || h->status == 204);
		return 0;
	}
	f->kind = te ? FR_CHUNKED : cl ? FR_LENGTH : FR_CLOSE;
	f->left = te ? 0 : length;
	f->done = f->kind == FR_LENGTH && !length;
	f->no_reuse |= f->kind == FR_CLOSE;
	return 0;
}

/* What may follow a chunk's size or an extension. */
static int fr_ext_next(struct fr *f, char c)
{
	if (c == ';')
		f->at = FR_EXT_NAME;
	else if (c == '\r')
		f->at = FR_SIZE_LF;
	else
		return -1;
	return 0;
}

static bool fr_is_token(char c)
{
	return sl_class[(uint8_t)c] & SL_TCHAR;
}

static bool fr_is_text(char c)
{
	return c == '\t' || ((uint8_t)c >= 0x20 && c != 0x7f);
}

/* One byte of a chunk-size line (RFC 9112 7.1), which has no blanks. */
static int fr_size_byte(struct fr *f, char c)
{
	bool ext = f->at > FR_SIZE && f->at < FR_SIZE_LF; /* a line without costs nothing */
	int digit;

	if (++f->line > RP_CHUNK_LINE || (ext && ++f->ext > RP_CHUNK_EXT))
		return -1;
	switch (f->at) {
	case FR_SIZE:
		digit = sl_hexval(c);
		if (digit < 0)
			return f->digits ? fr_ext_next(f, c) : -1;
		if (f->digits++ == 16 || f->left >> 59)
			return -1; /* 2^63 and more: nothing is that long */
		f->left = f->left << 4 | (uint64_t)digit;
		return 0;
	case FR_EXT_NAME:
		f->at = FR_EXT_NAMES;
		return fr_is_token(c) ? 0 : -1;
	case FR_EXT_NAMES:
		if (c == '=')
			f->at = FR_EXT_VALUE;
		else if (!fr_is_token(c))
			return fr_ext_next(f, c);
		return 0;
	case FR_EXT_VALUE:
		f->at = c == '"' ? FR_EXT_QUOTED : FR_EXT_VALUES;
		return c == '"' || fr_is_token(c) ? 0 : -1;
	case FR_EXT_VALUES:
		return fr_is_token(c) ? 0 : fr_ext_next(f, c);
	case FR_EXT_QUOTED:
		f->at = c == '"' ? FR_EXT_END : c == '\\' ? FR_EXT_ESCAPED : FR_EXT_QUOTED;
		return fr_is_text(c) ? 0 : -1;
	case FR_EXT_ESCAPED:
		f->at = FR_EXT_QUOTED;
		return fr_is_text(c) ? 0 : -1;
	case FR_EXT_END:
		return fr_ext_next(f, c);
	case FR_SIZE_LF:
		f->at = f->left ? FR_DATA : FR_TRAILER;
		f->line = 0;
		f->digits = 0;
		return c == '\n' ? 0 : -1;
	case FR_DATA:
	case FR_DATA_CR:
	case FR_DATA_LF:
	case FR_TRAILER:
	case FR_TRAILER_NAME:
	case FR_TRAILER_VALUE:
	case FR_TRAILER_LF:
	case FR_END_LF:
		break;
	}
	return -1;
}

/* One byte behind the data: of its CRLF, or of the trailer section, read as strictly as fields. */
static int fr_tail_byte(struct fr *f, char c)
{
	if (f->at >= FR_TRAILER && ++f->trailer > RP_TRAILER_MAX)
		return -1;
	switch (f->at) {
	case FR_DATA_CR:
		f->at = FR_DATA_LF;
		return c == '\r' ? 0 : -1;
	case FR_DATA_LF:
		f->at = FR_SIZE;
		return c == '\n' ? 0 : -1;
	case FR_TRAILER:
		f->at = c == '\r' ? FR_END_LF : FR_TRAILER_NAME;
		return c == '\r' || fr_is_token(c) ? 0 : -1;
	case FR_TRAILER_NAME:
		if (c == ':')
			f->at = FR_TRAILER_VALUE;
		return c == ':' || fr_is_token(c) ? 0 : -1;
	case FR_TRAILER_VALUE:
		if (c == '\r')
			f->at = FR_TRAILER_LF;
		return c == '\r' || fr_is_text(c) ? 0 : -1;
	case FR_TRAILER_LF:
		f->at = FR_TRAILER;
		return c == '\n' ? 0 : -1;
	case FR_END_LF:
		f->done = true;
		return c == '\n' ? 0 : -1;
	case FR_SIZE:
	case FR_EXT_NAME:
	case FR_EXT_NAMES:
	case FR_EXT_VALUE:
	case FR_EXT_VALUES:
	case FR_EXT_QUOTED:
	case FR_EXT_ESCAPED:
	case FR_EXT_END:
	case FR_SIZE_LF:
	case FR_DATA:
		break;
	}
	return -1;
}

/* Takes payload: as much of `in` as belongs to the body or chunk. */
static size_t fr_data(struct fr *f, struct sl in, struct sl *payload)
{
	size_t n = f->kind != FR_CLOSE && in.n > f->left ? (size_t)f->left : in.n;

	*payload = sl_mk(in.p, n);
	f->total += n;
	if (f->kind != FR_CLOSE)
		f->left -= n;
	return n;
}

/* Reads on in a body. Returns how many bytes of `in` it took, -1 for a malformed one; *payload is
 * the run of body bytes within them, maybe empty. Sets f->done at the end; an until-close body ends
 * when its connection does, which the caller knows. Takes all of `in` in as few calls as there are
 * runs of payload. */
static ptrdiff_t fr_scan(struct fr *f, struct sl in, struct sl *payload)
{
	size_t i = 0;

	*payload = sl_mk(in.p, 0);
	if (f->done || !in.n)
		return 0;
	if (f->kind != FR_CHUNKED) {
		i = fr_data(f, in, payload);
		f->done = f->kind == FR_LENGTH && !f->left;
		return (ptrdiff_t)i;
	}
	while (i < in.n && !f->done) {
		if (f->at == FR_DATA) {
			i += fr_data(f, sl_rest(in, i), payload);
			if (!f->left)
				f->at = FR_DATA_CR;
			return (ptrdiff_t)i;
		}
		int bad = f->at < FR_DATA ? fr_size_byte(f, in.p[i]) : fr_tail_byte(f, in.p[i]);
		if (bad)
			return -1;
		i++;
	}
	return (ptrdiff_t)i;
}

/* ==[ ROUTE ]============================================ prefix: rt_ ==
 * The static host table: which route serves a host and path, and which paths are in doubt because
 * another server may read them otherwise.
 * Owns: nothing; the order of conf->route is its work.
 * Spec: RFC 3986 6.2.2 (what is equivalent), 5.2.4 (dot segments).
 * Door: rt_seal rt_find rt_find_tcp rt_knows rt_clash rt_encoded rt_normal rt_ambiguous
 */

enum { RT_EXACT, RT_WILD, RT_STAR };

static int rt_class(const char *host)
{
	return host[0] != '*' ? RT_EXACT : host[1] ? RT_WILD : RT_STAR;
}

/* Exact names, wildcards, "*", each by name; within a host the longest path first. */
static int rt_order(const void *pa, const void *pb)
{
	const struct route *a = *(struct route *const *)pa, *b = *(struct route *const *)pb;
	size_t na = strlen(a->path), nb = strlen(b->path);
	int d = rt_class(a->host) - rt_class(b->host);

	if (!d)
		d = strcmp(a->host, b->host);
	if (!d)
		d = na < nb ? 1 : na > nb ? -1 : strcmp(a->path, b->path);
	return d ? d : a->line < b->line ? -1 : a->line > b->line;
}

/* Sorts conf->route for all the functions below. */
static void rt_seal(struct conf *cf)
{
	if (cf->nroute)
		qsort(cf->route, cf->nroute, sizeof(struct route *), rt_order);
}

/* How r's host compares with a name; of wildcards what stands behind the "*" is compared. */
static int rt_compare(const struct route *r, int class, struct sl name)
{
	int d = rt_class(r->host) - class;

	if (d)
		return d;
	const char *host = r->host + (class == RT_WILD);
	size_t i = 0;
	while (i < name.n && host[i] == name.p[i])
		i++;
	return (uint8_t)host[i] - (i < name.n ? (uint8_t)name.p[i] : 0);
}

/* The first route of a host, nroute for none. */
static size_t rt_seek(const struct conf *cf, int class, struct sl name)
{
	size_t lo = 0, hi = cf->nroute;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (rt_compare(cf->route[mid], class, name) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < cf->nroute && rt_compare(cf->route[lo], class, name) == 0 ? lo : cf->nroute;
}

/* The first route of the host that serves a name: itself, the longest wildcard, "*". */
static size_t rt_host(const struct conf *cf, struct sl name)
{
	size_t at = rt_seek(cf, RT_EXACT, name);

	for (size_t i = 1; at == cf->nroute && i < name.n; i++)
		if (name.p[i] == '.')
			at = rt_seek(cf, RT_WILD, sl_rest(name, i));
	return at < cf->nroute ? at : rt_seek(cf, RT_STAR, sl_of("*"));
}

/* Among the routes of the host that begins at `at`: the longest path on a segment edge. */
static const struct route *rt_pick(const struct conf *cf, size_t at, struct sl path)
{
	for (size_t i = at; i < cf->nroute; i++) {
		const struct route *r = cf->route[i];
		size_t n = strlen(r->path);
		if (i > at && strcmp(r->host, cf->route[at]->host) != 0)
			break;
		if (n <= path.n && memcmp(path.p, r->path, n) == 0 &&
			(!n || n == path.n || path.p[n] == '/'))
			return r->kind == RT_TCP ? NULL : r;
	}
	return NULL;
}

/* The route of a request, or NULL. host: as sl_host writes it; path: as it came, without query.
 * The host is chosen first: a wider one does not step in for a path. */
static const struct route *rt_find(const struct conf *cf, struct sl host, struct sl path)
{
	return rt_pick(cf, rt_host(cf, host), path);
}

/* The tcp: route of a TLS name (empty: the client named none), or NULL. */
static const struct route *rt_find_tcp(const struct conf *cf, struct sl host)
{
	size_t at = rt_host(cf, host);

	return at < cf->nroute && cf->route[at]->kind == RT_TCP ? cf->route[at] : NULL;
}

/* Does any route but a tcp: one serve this host? */
static bool rt_knows(const struct conf *cf, struct sl host)
{
	size_t at = rt_host(cf, host);

	return at < cf->nroute && cf->route[at]->kind != RT_TCP;
}

/* The route that makes route i of a sealed table one too many: same host and path, or same host
 * and one of them tcp:. NULL when all is well. */
static const struct route *rt_clash(const struct conf *cf, size_t i)
{
	const struct route *a = i ? cf->route[i - 1] : NULL, *b = cf->route[i];

	if (!a || strcmp(a->host, b->host) != 0)
		return NULL;
	return strcmp(a->path, b->path) == 0 || a->kind == RT_TCP || b->kind == RT_TCP ? a : NULL;
}

/* Ways in which servers differ when they read a path, each on or off. All decode characters that
 * can stand for themselves, and resolve dot segments. */
enum {
	RT_MERGE = 1, /* empty segments are left out */
	RT_SLASH = 2, /* %2F is a slash */
	RT_BACK = 4,  /* so is a backslash */
	RT_STRIP = 8, /* ";" and what follows in a segment is left out */
	RT_END = 16,  /* the path ends where %00 stands, or % before what is no hex */
	RT_READINGS = 32
};

/* The byte that %XX at i stands for, -1 when that is no encoding. */
static int rt_encoded(struct sl path, size_t i)
{
	int hi = sl_hexval(sl_at(path, i + 1)), lo = sl_hexval(sl_at(path, i + 2));

	return path.p[i] != '%' || hi < 0 || lo < 0 ? -1 : hi << 4 | lo;
}

/* Which ways change how this path is read; RT_READINGS: decoding or dots may. 0: nothing does. */
static unsigned rt_doubts(struct sl path)
{
	static const uint8_t mark[256] = {['%'] = 1, ['/'] = 1, [';'] = 1, ['\\'] = 1};
	unsigned doubts = 0;

	for (size_t i = 0; i < path.n; i++) {
		uint8_t c = (uint8_t)path.p[i];
		char next = sl_at(path, i + 1);
		if (!mark[c] || (c == '/' && next != '/' && next != '.'))
			continue;
		int code = rt_encoded(path, i);
		doubts |= RT_READINGS;
		if (c == '/' && next == '/')
			doubts |= RT_MERGE;
		else if (code == '/')
			doubts |= RT_SLASH | RT_MERGE;
		else if (c == '\\' || code == '\\')
			doubts |= RT_BACK | RT_MERGE;
		else if (c == ';' || code == ';')
			doubts |= RT_STRIP | RT_MERGE;
		else if (c == '%' && code <= 0)
			doubts |= RT_END;
	}
	return doubts;
}

/* Ends the segment that begins at seg: dots are resolved. Returns the new length. */
static size_t rt_segment(const char *out, size_t seg, size_t n)
{
	struct sl s = sl_mk(out + seg, n - seg);

	if (sl_is(s, "."))
		return seg;
	if (!sl_is(s, ".."))
		return n;
	if (seg == 1)
		return seg;
	n = seg - 1;
	while (out[n - 1] != '/')
		n--;
	return n;
}

/* Reads a path that begins with "/" in one of the RT_READINGS ways into out, which holds path.n.
 * Returns its length. */
static size_t rt_normal(struct sl path, unsigned how, char *out)
{
	size_t n = 1, seg = 1;
	bool cut = false;

	out[0] = '/';
	for (size_t i = 1; i < path.n; i++) {
		int c = (uint8_t)path.p[i], code = rt_encoded(path, i);
		bool plain = code > ' ' && code < 0x7f && !strchr("%?#", code);
		if (c == '%' && code <= 0 && (how & RT_END))
			break;
		if (code == '/' && !(how & RT_SLASH))
			plain = false;
		if (plain) {
			c = code;
			i += 2;
		}
		if (c == '/' || (c == '\\' && (how & RT_BACK))) {
			size_t end = rt_segment(out, seg, n);
			bool gone = end < n || (end == seg && (how & RT_MERGE));
			n = end;
			if (!gone)
				out[n++] = '/';
			seg = n;
			cut = false;
			continue;
		}
		if (c == ';' && (how & RT_STRIP))
			cut = true;
		if (cut)
			continue;
		out[n++] = (char)c;
		if (code >= 0 && !plain) { /* RFC 3986 6.2.2.1: hex digits in upper case */
			for (int k = 0; k < 2; k++) {
				char digit = path.p[++i];
				out[n++] = digit >= 'a' ? (char)(digit & ~0x20) : digit;
			}
		}
	}
	return rt_segment(out, seg, n);
}

/* Would another server, reading the path in its way, come to another route? Then a request is to be
 * refused. What climbs above the root ends at the root (RFC 3986 5.2.4). Paths without % // /. \ ;
 * are never in doubt, nor are those of unknown hosts. */
static bool rt_ambiguous(const struct conf *cf, struct sl host, struct sl path)
{
	char seen[RP_LINE_MAX];
	unsigned doubts = rt_doubts(path);

	if (!doubts || path.p[0] != '/')
		return false;
	size_t at = rt_host(cf, host);
	if (at == cf->nroute)
		return false;
	if (path.n > sizeof seen)
		return true;
	const struct route *r = rt_pick(cf, at, path);
	for (unsigned how = doubts & (RT_READINGS - 1);; how = (how - 1) & doubts) {
		size_t n = rt_normal(path, how, seen);
		if (rt_pick(cf, at, sl_mk(seen, n)) != r)
			return true;
		if (!how)
			return false;
	}
}

RP_SELDOM

/* ==[ CONF ]============================================= prefix: cf_ ==
 * One table of options gives flags, lines of files, ranges, help, manual, completion and the dump;
 * one table of settings does the same for rules. The result is one counted, read-only snapshot.
 * Owns: each struct conf and all below it, but for what GATE and CERT hang into a route (users,
 *       anchors). Each error is one line, `FILE:LINE: ...` or `rproxy: --flag: ...`.
 * Fails: conf->faults counts the errors; whoever loaded it drops it then.
 * Door: cf_load cf_usage cf_hold cf_drop cf_find cf_place
 */

#ifndef RP_BEARSSL
#define RP_BEARSSL "0.6 or newer" /* its headers do not say */
#endif

#define CF_FILE_MAX ((size_t)1 << 20)	   /* bytes of one configuration file */
#define CF_DEEP 8						   /* files that include each other */
#define CF_PATH_MAX 1024				   /* bytes of a rule's PATH */
#define CF_ADDS_MAX (RP_HEAD_SLACK - 1024) /* bytes that set= may add; the rest is for our fields */
#define CF_OPEN UINT64_MAX				   /* a setting that the option of the same name decides */

enum cf_kind {
	CK_GROUP,  /* a heading of the help */
	CK_ACTION, /* min: the enum cf_action; a flag without value */
	CK_HELP,   /* the same with an optional word */
	CK_CONFIG,
	CK_LISTEN, /* min: the enum cf_listen_kind */
	CK_ROUTE,
	CK_DEFAULT,
	CK_NAME, /* a host name */
	CK_TEXT,
	CK_LIST, /* struct strs that grows to at most max members; then the last is replaced */
	CK_RANGES,
	CK_WORD, /* one of arg's words, kept as its number */
	CK_NUM,	 /* uint32_t */
	CK_MS,	 /* uint64_t, milliseconds */
	CK_SIZE	 /* uint64_t, bytes */
};

#define CF_LISTS 100000

/* kind, name, letter, member, min, max, default, argument, help; `` is around what is typed. */
#define CF_OPTIONS(X)                                                                              \
	X(GROUP, "General", 0, action, 0, 0, NULL, NULL, NULL)                                         \
	X(CONFIG, "config", 'c', action, 0, 0, NULL, "FILE",                                           \
	  "read options from FILE, repeatable; applied in the order given. In files: `include GLOB`")  \
	X(ACTION, "check", 't', action, CF_CHECK, 0, NULL, NULL,                                       \
	  "check the whole configuration, say every error with its file and line, exit 0 or "          \
	  "2. Opens no socket")                                                                        \
	X(ACTION, "dump-config", 0, action, CF_DUMP, 0, NULL, NULL,                                    \
	  "print the effective configuration as a file that reproduces it")                            \
	X(HELP, "help", 'h', action, CF_HELP, 0, NULL, "man|readme|reasons|bash",                      \
	  "this list; or the manual page, the tables of README.md, the completion for bash")           \
	X(ACTION, "version", 'V', action, CF_VERSION, 0, NULL, NULL,                                   \
	  "version, with BearSSL's and the build switches")                                            \
	X(GROUP, "Listeners", 0, action, 0, 0, NULL, NULL, NULL)                                       \
	X(LISTEN, "http", 0, listen, LS_HTTP, 0, NULL, "[ADDR:]PORT",                                  \
	  "plain listener, repeatable; without ADDR any address, IPv4 and IPv6; IPv6 as `[::1]:80`; "  \
	  "port 0 picks a free one")                                                                   \
	X(LISTEN, "https", 0, listen, LS_HTTPS, 0, NULL, "[ADDR:]PORT", "TLS listener, repeatable")    \
	X(LISTEN, "status", 0, listen, LS_STATUS, 0, NULL, "[ADDR:]PORT",                              \
	  "status page `/`, `/status.json`, and `/metrics` for Prometheus; without ADDR on "           \
	  "loopback only")                                                                             \
	X(NUM, "public-port", 0, public_port, 1, 65535, "the first HTTPS listener's", "N",             \
	  "the port visitors use for HTTPS, in redirects and rewritten addresses. Set 443 where a "    \
	  "firewall forwards 443 to this one")                                                         \
	X(GROUP, "Routes", 0, action, 0, 0, NULL, NULL, NULL)                                          \
	X(ROUTE, "route", 'r', route, 0, 0, NULL, "RULE",                                              \
	  "one entry of the host table, `HOST[/PATH]=TARGET[,TARGET...] [SETTING]...`, repeatable")    \
	X(DEFAULT, "default", 0, default_kind, 0, 0, "404", "ACTION",                                  \
	  "for a host (or, on TLS, a name) that no route serves: a status code from 400 to 599, "      \
	  "`drop` (close without a byte), or an absolute URL to redirect to")                          \
	X(GROUP, "Certificates", 0, action, 0, 0, NULL, NULL, NULL)                                    \
	X(LIST, "cert", 0, cert, 0, CF_LISTS, NULL, "CHAIN[,KEY]",                                     \
	  "PEM certificate chain and key, repeatable; KEY may be in the same file. Its names come "    \
	  "from subjectAltName. A file that does not exist yet is a warning; it is taken up when "     \
	  "it appears")                                                                                \
	X(LIST, "cert-dir", 0, cert_dir, 0, CF_LISTS, NULL, "DIR",                                     \
	  "every chain in DIR with its key: `NAME.fullchain.crt`+`NAME.key`, `NAME.crt`+`NAME.key`, "  \
	  "`NAME.pem`, `NAME/fullchain.pem`+`NAME/privkey.pem`, and as acme.sh and uacme keep them; "  \
	  "repeatable")                                                                                \
	X(LIST, "acme-dir", 0, acme_dir, 0, 1, NULL, "DIR",                                            \
	  "answer `/.well-known/acme-challenge/TOKEN` from DIR (files there, or under "                \
	  "`.well-known/acme-challenge/` in it) on plain listeners, for every host, before any "       \
	  "redirect, `deny` or `auth`")                                                                \
	X(NAME, "default-cert", 0, default_cert, 0, 0, NULL, "NAME",                                   \
	  "whose certificate is shown to clients without SNI; none: an alert")                         \
	X(NUM, "session-cache", 0, session_cache, 0, 65535, "256", "N",                                \
	  "TLS sessions kept for resumption")                                                          \
	X(GROUP, "Peers", 0, action, 0, 0, NULL, NULL, NULL)                                           \
	X(RANGES, "trust", 0, trust, 0, 0, NULL, "CIDR[,CIDR]",                                        \
	  "peers whose X-Forwarded-* (and from `cloudflare` CF-Connecting-IP) are believed, "          \
	  "repeatable; the words `cloudflare`, `private`, `loopback` stand for lists")                 \
	X(RANGES, "accept-proxy", 0, accept_proxy, 0, 0, NULL, "CIDR[,CIDR]",                          \
	  "peers that must begin every connection with a PROXY protocol v1 or v2 header; from "        \
	  "others such a header is a bad request")                                                     \
	X(GROUP, "Process", 0, action, 0, 0, NULL, NULL, NULL)                                         \
	X(TEXT, "user", 0, user, 0, 0, NULL, "NAME[:GROUP]",                                           \
	  "give up root for this user once the sockets are open")                                      \
	X(TEXT, "chroot", 0, chroot_dir, 0, 0, NULL, "DIR", "and for this root directory")             \
	X(TEXT, "pid-file", 0, pid_file, 0, 0, NULL, "FILE", "write the process number to FILE")       \
	X(GROUP, "Log", 0, action, 0, 0, NULL, NULL, NULL)                                             \
	X(TEXT, "log", 0, log, 0, 0, "stderr", "TARGET",                                               \
	  "`stderr`, `syslog`, `none`, or a file; access and error lines")                             \
	X(WORD, "log-level", 0, log_level, 0, 0, "info", "error|warn|info|debug",                      \
	  "the least important lines that are logged; access lines are `info`")                        \
	X(WORD, "log-format", 0, log_format, 0, 0, "combined", "combined|json",                        \
	  "of access lines: vhost-combined plus upstream, timings and reason; or JSON")                \
	X(GROUP, "Limits", 0, action, 0, 0, NULL, NULL, NULL)                                          \
	X(NUM, "max-conns", 0, max_conns, 1, 65535, "512", "N",                                        \
	  "client connections held at once; past it new ones wait in the kernel's queue")              \
	X(NUM, "max-conns-per-ip", 0, max_conns_per_ip, 0, 65535, "64", "N",                           \
	  "the same for one address (IPv6: one /64), 0: no cap; past it a connection is closed at "    \
	  "once. Counts the address of the PROXY header where one is accepted")                        \
	X(SIZE, "head-max", 0, head_max, RP_HEAD_MIN, RP_HEAD_MAX, "32k", "SIZE",                      \
	  "request or response head; past it 431 or 502")                                              \
	X(SIZE, "body-max", 0, body_max, 0, (uint64_t)1 << 40, "0", "SIZE",                            \
	  "request body, 0: no limit; past it 413")                                                    \
	X(GROUP, "Timeouts", 0, action, 0, 0, NULL, NULL, NULL)                                        \
	X(MS, "head-timeout", 0, head_ms, 100, 86400000, "10s", "TIME",                                \
	  "from the first byte of a request to the end of its head, absolute; 408")                    \
	X(MS, "idle-timeout", 0, idle_ms, 100, 86400000, "65s", "TIME",                                \
	  "a kept-alive client connection without a request")                                          \
	X(MS, "connect-timeout", 0, connect_ms, 100, 3600000, "5s", "TIME",                            \
	  "TCP (and TLS) to a backend; then the next target, or 504")                                  \
	X(MS, "response-timeout", 0, response_ms, 100, 86400000, "5m", "TIME",                         \
	  "the longest silence of a backend while an answer is due or under way; 504 before a head")   \
	X(MS, "stall-timeout", 0, stall_ms, 100, 86400000, "60s", "TIME",                              \
	  "a peer that neither sends the body it owes nor takes what is sent to it. The total time "   \
	  "of a transfer has no limit")                                                                \
	X(MS, "tunnel-timeout", 0, tunnel_ms, 100, (uint64_t)30 * 86400000, "1h", "TIME",              \
	  "silence in both directions of a WebSocket or TCP tunnel")                                   \
	X(MS, "drain-timeout", 0, drain_ms, 0, 86400000, "30s", "TIME",                                \
	  "how long a stopping proxy waits for what is under way")

static const struct cf_opt {
	enum cf_kind kind;
	char letter;
	size_t member; /* its offset in struct conf */
	uint64_t min, max;
	const char *name, *def; /* a default with a blank in it is for people: it stands for 0 */
	const char *arg, *help;
} cf_opts[] = {
#define X(KIND, name, letter, member, min, max, def, arg, help)                                    \
	{CK_##KIND, letter, offsetof(struct conf, member), min, max, name, def, arg, help},
	CF_OPTIONS(X)
#undef X
};

#define CF_NOPTS RP_LEN(cf_opts)

/* Where an option was said; file NULL: on the command line. */
struct cf_said {
	const char *file; /* borrows from conf->files */
	unsigned line;
};

/* What a setting fits, by the route's kind. */
enum {
	CF_FIT_PROXY = 1 << RT_PROXY,
	CF_FIT_TCP = 1 << RT_TCP,
	CF_FIT_HTTP = CF_FIT_PROXY | 1 << RT_REDIRECT | 1 << RT_STATUS,
	CF_FIT_DIAL = CF_FIT_PROXY | CF_FIT_TCP,
	CF_FIT_ALL = CF_FIT_HTTP | CF_FIT_TCP,
	CF_MANY = 16 /* may be there more than once */
};

/* constant, name, what it fits, argument ("[" first: may be left out), help. */
#define CF_SETTINGS(X)                                                                             \
	X(HOST, "host", CF_FIT_PROXY, "keep|target|NAME",                                              \
	  "the Host that the backend sees; `keep`, the default: as the visitor wrote it")              \
	X(STRIP, "strip", CF_FIT_PROXY, NULL, "take PATH off before forwarding")                       \
	X(PLAIN, "plain", CF_FIT_HTTP, NULL, "serve over HTTP too, no redirect to HTTPS")              \
	X(HSTS, "hsts", CF_FIT_HTTP, "[=SECONDS]",                                                     \
	  "tell browsers to come by HTTPS only, for a year unless told")                               \
	X(ALLOW, "allow", CF_FIT_ALL | CF_MANY, "CIDR,...", "who may come; the others get 403")        \
	X(DENY, "deny", CF_FIT_ALL | CF_MANY, "CIDR,...", "who may not; the longer prefix wins")       \
	X(AUTH, "auth", CF_FIT_HTTP, "FILE", "ask for a password; FILE as htpasswd writes it")         \
	X(RATE, "rate", CF_FIT_HTTP, "N/s[:BURST]", "requests per address; past it 429")               \
	X(HIDE, "hide", CF_FIT_PROXY | CF_MANY, "NAME,...", "fields of the answer to drop")            \
	X(SET, "set", CF_FIT_PROXY | CF_MANY, "NAME:VALUE", "a field for the backend")                 \
	X(ADD, "add-response", CF_FIT_PROXY | CF_MANY, "NAME:VALUE", "a field for the visitor")        \
	X(BALANCE, "balance", CF_FIT_DIAL, "failover|round-robin",                                     \
	  "use the first target that works, or all in turn")                                           \
	X(CHECK, "check", CF_FIT_PROXY, "PATH",                                                        \
	  "ask each target for PATH from time to time, leave out those that fail")                     \
	X(WAKE, "wake", CF_FIT_DIAL, "MAC[@ADDR[:PORT]]",                                              \
	  "send a Wake-on-LAN packet when the target does not answer")                                 \
	X(VERIFY, "verify", CF_FIT_PROXY, "ca|off|pin:HEX",                                            \
	  "how an https:// target proves itself: an authority, not at all, the SHA-256 of its public " \
	  "key")                                                                                       \
	X(CA, "ca", CF_FIT_PROXY, "FILE", "authorities for `verify=ca` instead of the system's")       \
	X(SENDPROXY, "send-proxy", CF_FIT_DIAL, "v1|v2",                                               \
	  "tell the target the visitor's address by PROXY protocol")                                   \
	X(ERRORPAGE, "error-page", CF_FIT_PROXY, "FILE", "an own page for 502, 503 and 504")           \
	X(BODYMAX, "body-max", CF_FIT_PROXY, "SIZE", "as the option, for this route")                  \
	X(RESPONSE, "response-timeout", CF_FIT_PROXY, "TIME", "as the option, for this route")         \
	X(TUNNEL, "tunnel-timeout", CF_FIT_DIAL, "TIME", "as the option, for this route")

enum cf_set_id {
#define X(NAME, name, fits, arg, help) CS_##NAME,
	CF_SETTINGS(X)
#undef X
		CS_COUNT
};

static const struct cf_setting {
	const char *name;
	unsigned fits;
	const char *arg, *help;
} cf_settings[CS_COUNT] = {
#define X(NAME, name, fits, arg, help) {name, fits, arg, help},
	CF_SETTINGS(X)
#undef X
};

static const struct cf_setting cf_targets[] = {
	{"http://ADDR[:PORT]", 0, NULL,
	 "forward there; ADDR may be a name. Several targets: the first "
	 "that works, in order"},
	{"https://ADDR[:PORT]", 0, NULL, "the same over TLS"},
	{"unix:PATH", 0, NULL, "the same to a Unix socket"},
	{"tcp://ADDR:PORT", 0, NULL, "hand the TLS connection through unopened, chosen by its SNI"},
	{"redirect:URL", 0, NULL, "send the visitor there; `{uri}` stands for path and query"},
	{"status:CODE", 0, NULL, "answer with that status"},
};

/* What the words for ranges stand for: cloudflare.com/ips (2026-01), RFC 1918, 6598, 3927, 4193. */
static const struct {
	const char *word, *range;
} cf_ranges[] = {
	{"cloudflare", "173.245.48.0/20"},
	{"cloudflare", "103.21.244.0/22"},
	{"cloudflare", "103.22.200.0/22"},
	{"cloudflare", "103.31.4.0/22"},
	{"cloudflare", "141.101.64.0/18"},
	{"cloudflare", "108.162.192.0/18"},
	{"cloudflare", "190.93.240.0/20"},
	{"cloudflare", "188.114.96.0/20"},
	{"cloudflare", "197.234.240.0/22"},
	{"cloudflare", "198.41.128.0/17"},
	{"cloudflare", "162.158.0.0/15"},
	{"cloudflare", "104.16.0.0/13"},
	{"cloudflare", "104.24.0.0/14"},
	{"cloudflare", "172.64.0.0/13"},
	{"cloudflare", "131.0.72.0/22"},
	{"cloudflare", "2400:cb00::/32"},
	{"cloudflare", "2606:4700::/32"},
	{"cloudflare", "2803:f800::/32"},
	{"cloudflare", "2405:b500::/32"},
	{"cloudflare", "2405:8100::/32"},
	{"cloudflare", "2a06:98c0::/29"},
	{"cloudflare", "2c0f:f248::/32"},
	{"private", "10.0.0.0/8"},
	{"private", "172.16.0.0/12"},
	{"private", "192.168.0.0/16"},
	{"private", "100.64.0.0/10"},
	{"private", "169.254.0.0/16"},
	{"private", "fc00::/7"},
	{"private", "fe80::/10"},
	{"loopback", "127.0.0.0/8"},
	{"loopback", "::1/128"},
};

/* ---- what is being read, and what is said about it ---- */

/* Where the reader stands. */
struct cf_in {
	struct conf *cf;
	const char *file; /* borrows from cf->files; NULL: the command line */
	unsigned line;	  /* of the file, or the number of the argument */
	unsigned depth;
	const char *open[CF_DEEP]; /* borrows: the files that are being read */
	const struct cf_opt *opt;  /* whose value is read */
	bool listens;	/* a listener was asked for, or may have been where something is wrong */
	bool starved;	/* of memory, which was said */
	char lead[300]; /* what messages begin with: `target "x": ` */
};

/* Prints one line to stderr at start, to the log later. What could steer a terminal is escaped. */
static void cf_say(const char *prefix, const char *text)
{
	char line[RP_LOG_LINE];
	struct sb b = sb_of(line, sizeof line - 1);

	if (log_sink.starting)
		sb_str(&b, prefix);
	for (; *text; text++) {
		uint8_t c = (uint8_t)*text;
		if (c < ' ' || c >= 0x7f)
			sb_fmt(&b, "\\x%02x", c);
		else
			sb_chr(&b, (char)c);
	}
	if (!log_sink.starting) {
		log_event(LOG_ERR, "%.*s", (int)b.n, line);
		return;
	}
	line[b.n++] = '\n';
	(void)!write(2, line, b.n);
}

/* One error: its place, the option, the lead, the text. */
__attribute__((format(printf, 2, 3))) static void cf_fault(struct cf_in *in, const char *fmt, ...)
{
	char text[2048], rest[1200];
	va_list ap;

	in->cf->faults++;
	in->listens |= !in->opt || in->opt->kind == CK_LISTEN || in->opt->kind == CK_CONFIG;
	va_start(ap, fmt);
	(void)vsnprintf(rest, sizeof rest, fmt, ap);
	va_end(ap);
	const char *name = in->opt ? in->opt->name : "";
	if (!in->file)
		(void)snprintf(text, sizeof text, "%s%s%s%s%s", *name ? "--" : "", name, *name ? ": " : "",
					   in->lead, rest);
	else if (*name && in->opt->kind != CK_ROUTE)
		(void)snprintf(text, sizeof text, "%.500s:%u: option \"%s\": %s%s", in->file, in->line,
					   name, in->lead, rest);
	else
		(void)snprintf(text, sizeof text, "%.500s:%u: %s%s", in->file, in->line, in->lead, rest);
	cf_say(in->file ? "" : "rproxy: ", text);
}

/* The same for a bad value, which is quoted, and cut when long. Returns false. */
__attribute__((format(printf, 3, 4))) static bool cf_bad(struct cf_in *in, const char *value,
														 const char *fmt, ...)
{
	char rest[800];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(rest, sizeof rest, fmt, ap);
	va_end(ap);
	cf_fault(in, "\"%.240s%s\" %s", value, strlen(value) > 240 ? "..." : "", rest);
	return false;
}

/* There is no memory: said once, whatever else fails then. */
static void cf_starve(struct cf_in *in)
{
	if (in->starved)
		in->cf->faults++;
	else
		cf_fault(in, "out of memory");
	in->starved = true;
}

/* What messages about a part of a value begin with. */
__attribute__((format(printf, 2, 3))) static void cf_lead(struct cf_in *in, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(in->lead, sizeof in->lead, fmt, ap);
	va_end(ap);
}

/* Room for member n of an array, NULL when there is no memory (said then). */
static void *cf_more(struct cf_in *in, void *v, size_t n, size_t size)
{
	if (n & (n - 1)) /* it doubles at powers of two */
		return v;
	void *more = realloc(v, (n ? 2 * n : 1) * size);
	if (!more)
		cf_starve(in);
	return more;
}

/* Puts a formatted text into *to, in place of what was there. */
__attribute__((format(printf, 3, 4))) static bool cf_text(struct cf_in *in, char **to,
														  const char *fmt, ...)
{
	char *text = NULL;
	va_list ap;

	va_start(ap, fmt);
	int n = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (n < 0) {
		cf_starve(in);
		return false;
	}
	free(*to);
	*to = text;
	return true;
}

static bool cf_push(struct cf_in *in, struct strs *l, const char *text)
{
	char **v = cf_more(in, l->v, l->n, sizeof *v);

	if (!v)
		return false;
	l->v = v;
	v[l->n] = NULL;
	if (!cf_text(in, &v[l->n], "%s", text))
		return false;
	l->n++;
	return true;
}

/* Takes a prefix off *p. */
static bool cf_skip(char **p, const char *prefix)
{
	size_t n = strlen(prefix);

	if (strncmp(*p, prefix, n) != 0)
		return false;
	*p += n;
	return true;
}

/* How many letters must change to make b of a (Levenshtein). */
static size_t cf_distance(struct sl a, const char *b)
{
	size_t row[40], nb = strlen(b);

	if (nb >= RP_LEN(row) || a.n >= RP_LEN(row))
		return SIZE_MAX;
	for (size_t j = 0; j <= nb; j++)
		row[j] = j;
	for (size_t i = 0; i < a.n; i++) {
		size_t corner = row[0]++;
		for (size_t j = 0; j < nb; j++) {
			size_t d = corner + (sl_lower(a.p[i]) != b[j]);
			corner = row[j + 1];
			if (row[j] + 1 < d)
				d = row[j] + 1;
			row[j + 1] = corner + 1 < d ? corner + 1 : d;
		}
	}
	return row[nb];
}

/* Remembers name as *near when it is the nearest so far and near enough for a typing error. */
static void cf_nearer(struct sl word, const char *name, size_t *best, const char **near)
{
	size_t d = cf_distance(word, name);

	if (d <= 2 && 2 * d <= word.n && d < *best) {
		*best = d;
		*near = name;
	}
}

/* The option of a name, without dashes; or NULL, and *near is a name that may be meant, or NULL. */
static const struct cf_opt *cf_find(struct sl name, const char **near)
{
	size_t best = SIZE_MAX;

	*near = NULL;
	for (size_t i = 0; i < CF_NOPTS; i++) {
		if (cf_opts[i].kind == CK_GROUP)
			continue;
		if (sl_is(name, cf_opts[i].name))
			return &cf_opts[i];
		cf_nearer(name, cf_opts[i].name, &best, near);
	}
	return NULL;
}

/* ---- values ---- */

struct cf_scale {
	const char *what;
	struct {
		const char *name;
		uint64_t is;
	} unit[5]; /* the largest first */
};

static const struct cf_scale cf_times = {
	"a time; a number with ms, s, m, h or d",
	{{"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}}};
static const struct cf_scale cf_sizes = {
	"a size; a number with k, m, g or nothing",
	{{"g", 1 << 30}, {"m", 1 << 20}, {"k", 1 << 10}, {"", 1}, {"", 1}}};

/* A number in the largest unit that leaves it whole. */
static void cf_print_scaled(const struct cf_scale *s, uint64_t v, char out[32])
{
	size_t i = 0;

	while (v % s->unit[i].is)
		i++;
	(void)snprintf(out, 32, "%llu%s", (unsigned long long)(v / s->unit[i].is),
				   v ? s->unit[i].name : "");
}

/* A time or size from min to max; 0 needs no unit. */
static bool cf_scaled(struct cf_in *in, const char *v, const struct cf_scale *s, uint64_t min,
					  uint64_t max, uint64_t *out)
{
	struct sl a = sl_of(v), digits = sl_mk(v, sl_count(a, SL_DIGIT)), unit = sl_rest(a, digits.n);
	char low[32], high[32];
	uint64_t n;

	for (size_t i = 0; i < RP_LEN(s->unit); i++)
		if ((sl_is(unit, s->unit[i].name) || sl_is(a, "0")) &&
			sl_number(digits, max / s->unit[i].is, &n) && n * s->unit[i].is >= min) {
			*out = n * s->unit[i].is;
			return true;
		}
	cf_print_scaled(s, min, low);
	cf_print_scaled(s, max, high);
	return cf_bad(in, v, "is not %s, from %s to %s", s->what, low, high);
}

/* One of the words in "a|b|c": its number, -1 (said then) for another. */
static int cf_word_of(struct cf_in *in, const char *v, const char *words)
{
	struct sl rest = sl_of(words), word;

	for (int i = 0; sl_cut(&rest, '|', &word); i++)
		if (sl_is(word, v))
			return i;
	cf_bad(in, v, "is none of %s", words);
	return -1;
}

/* Is it "[IPv6]"? */
static bool cf_bracketed(const char *text)
{
	size_t n = strlen(text);
	uint8_t ip[16];

	return n > 2 && text[0] == '[' && text[n - 1] == ']' && strchr(text, ':') &&
		   addr_parse_ip(sl_mk(text + 1, n - 2), ip);
}

/* A host name or address in the one spelling that requests are compared with: lower case, IPv6 in
 * brackets. `shown` is what a message quotes. out holds RP_NAME_MAX + 1. */
static bool cf_host(struct cf_in *in, const char *shown, const char *text, char *out)
{
	struct addr a = {.port = 0};
	size_t n = strlen(text);

	if (!n)
		return cf_bad(in, shown, "is empty; a name or an address is needed, IPv6 as [::1]");
	if (text[0] == '[') {
		if (!cf_bracketed(text) || !addr_parse_ip(sl_mk(text + 1, n - 2), a.ip))
			return cf_bad(in, shown, "is no IPv6 address in brackets");
		bool four = addr_is4(a.ip);
		n = addr_print(&a, false, out + !four);
		if (!four) {
			out[0] = '[';
			memcpy(out + n + 1, "]", 2);
		}
		return true;
	}
	for (const char *p = text; *p; p++)
		if ((uint8_t)*p >= 0x80)
			return cf_bad(in, shown, "is not ASCII; write it in its xn-- form");
	if (strchr(text, ':'))
		return addr_parse_ip(sl_of(text), a.ip)
				   ? cf_bad(in, shown, "needs brackets: [%s]", text)
				   : cf_bad(in, shown, "holds a colon: no scheme or port here");
	if (!(n = sl_host(sl_of(text), out)))
		return cf_bad(in, shown,
					  "is no host name: letters, digits, \"-\" and \"_\" between dots, at most 63 "
					  "from dot to dot and 253 in all");
	const char *last = strrchr(out, '.');
	struct sl label = sl_of(last ? last + 1 : out);
	if (sl_count(label, SL_DIGIT) == label.n && !addr_parse_ip(sl_mk(out, n), a.ip))
		return cf_bad(in, shown, "is neither an IPv4 address nor a name");
	return true;
}

/* HOST[:PORT] taken apart in place. Returns the port's text, NULL when there is none. */
static char *cf_split_port(char *text)
{
	char *p = text[0] == '[' ? strchr(text, ']') : text;

	p = p ? strchr(p, ':') : NULL;
	if (p)
		*p++ = 0;
	return p;
}

/* Characters that stand in a URL as they are; others need percent-encoding (RFC 3986 2). */
static bool cf_url_char(char c)
{
	return (sl_class[(uint8_t)c] & SL_URI) && !strchr("\"<>\\^`{|}", c);
}

/* An absolute URL that is sent to visitors; "{uri}" may stand in it. */
static bool cf_url(struct cf_in *in, const char *text)
{
	char host[RP_NAME_MAX + 1], out[RP_NAME_MAX + 1];
	uint16_t port = 1;
	const char *p = strstr(text, "://");

	if (strncmp(text, "http://", 7) != 0 && strncmp(text, "https://", 8) != 0)
		return cf_bad(in, text, "must begin with http:// or https://");
	p += 3;
	size_t n = strcspn(p, "/?#{");
	if (memchr(p, '@', n))
		return cf_bad(in, text, "holds a user name, which browsers refuse to follow");
	for (const char *q = p; *q; q++) {
		if (strncmp(q, "{uri}", 5) == 0)
			q += 4;
		else if (*q == '{' || *q == '}')
			return cf_bad(in, text, "holds a brace; \"{uri}\" alone stands for something");
		else if (*q != '#' && !cf_url_char(*q))
			return cf_bad(in, text, "holds a character that needs percent-encoding");
	}
	if (n < sizeof host) {
		memcpy(host, p, n);
		host[n] = 0;
		const char *digits = cf_split_port(host);
		if (digits && !addr_parse_port(sl_of(digits), &port))
			port = 0;
		if (port && (cf_bracketed(host) || sl_host(sl_of(host), out)))
			return true;
	}
	return cf_bad(in, text, "names no valid host");
}

static bool cf_range(struct cf_in *in, struct cidrs *l, const struct cidr *c)
{
	struct cidr *v = cf_more(in, l->v, l->n, sizeof *v);

	if (!v)
		return false;
	l->v = v;
	v[l->n++] = *c;
	return true;
}

/* Adds CIDR,CIDR,... to a list; words stand for several. */
static bool cf_cidrs(struct cf_in *in, struct cidrs *l, char *text)
{
	bool fine = true;
	char *item, shown[56];
	struct cidr c;

	while ((item = strsep(&text, ","))) {
		int exact = addr_cidr(sl_of(item), &c);
		bool known = exact == 1;
		if (known && !cf_range(in, l, &c))
			return false;
		for (size_t i = 0; exact < 0 && i < RP_LEN(cf_ranges); i++) {
			if (strcmp(item, cf_ranges[i].word) != 0)
				continue;
			known = addr_cidr_parse(sl_of(cf_ranges[i].range), &c);
			c.cf = strcmp(item, "cloudflare") == 0;
			if (!cf_range(in, l, &c))
				return false;
		}
		if (exact == 0) {
			(void)addr_cidr_print(&c, shown);
			fine = cf_bad(in, item, "has bits set behind its prefix; the range is %s", shown);
		} else if (!known) {
			fine = cf_bad(in, item,
						  "is not an address range: ADDR[/BITS], or one of the words "
						  "cloudflare, private, loopback");
		}
	}
	return fine;
}

/* Do two listeners want the same port of the same address? */
static bool cf_overlap(const struct addr *a, const struct addr *b)
{
	static const struct cidr all4 = {.ip = {[10] = 0xff, [11] = 0xff}, .bits = 96};
	bool any4 = memcmp(a->ip, all4.ip, 16) == 0 || memcmp(b->ip, all4.ip, 16) == 0;

	if (a->port != b->port || !a->port)
		return false;
	return addr_any(a->ip) || addr_any(b->ip) || memcmp(a->ip, b->ip, 16) == 0 ||
		   (any4 && addr_is4(a->ip) && addr_is4(b->ip));
}

static bool cf_listener(struct cf_in *in, const char *text, enum cf_listen_kind kind)
{
	struct conf *cf = in->cf;
	struct addr a;

	if (!addr_parse(sl_of(text), &a))
		return cf_bad(in, text, "is not [ADDR:]PORT, as 80, 10.0.0.1:80 or [::1]:80");
	if (kind == LS_STATUS && !strchr(text, ':'))
		(void)addr_parse_ip(sl_of("127.0.0.1"), a.ip);
	for (size_t i = 0; i < cf->nlisten; i++)
		if (cf_overlap(&cf->listen[i].addr, &a))
			return cf_bad(in, text, "is taken by another listener; choose another port or address");
	struct cf_listen *v = cf_more(in, cf->listen, cf->nlisten, sizeof *v);
	if (!v)
		return false;
	cf->listen = v;
	v[cf->nlisten++] = (struct cf_listen){kind, a, in->file, in->line};
	return true;
}

static bool cf_default(struct cf_in *in, const char *text)
{
	struct conf *cf = in->cf;
	uint64_t code = 0;

	if (strstr(text, "://")) {
		if (!cf_url(in, text) || !cf_text(in, &cf->default_url, "%s", text))
			return false;
		cf->default_kind = CF_DEFAULT_REDIRECT;
	} else if (strcmp(text, "drop") == 0) {
		cf->default_kind = CF_DEFAULT_DROP;
	} else if (sl_number(sl_of(text), 599, &code) && code >= 400) {
		cf->default_kind = CF_DEFAULT_STATUS;
		cf->default_status = (int)code;
	} else {
		return cf_bad(in, text,
					  "does not fit; a status code from 400 to 599, \"drop\" or an "
					  "absolute URL does");
	}
	return true;
}

/* Can the file be read? It is read again by the room that knows what is in it. */
static bool cf_readable(struct cf_in *in, const char *path)
{
	size_t n;
	char *p = sys_slurp(path, (size_t)16 << 20, &n);

	free(p);
	return p ? true : cf_bad(in, path, "can't be read: %s", strerror(errno));
}

/* ---- rules ---- */

/* Reads the next word of *p in place: quotes are taken off, \" and \\ in them too. A word that
 * begins with "#" ends the text. Returns 1, 0 at the end, -1 when a quote has no end. */
static int cf_word(char **p, char **word)
{
	char *from = *p + strspn(*p, " \t"), *to = from;
	bool quoted = false;

	*word = from;
	if (!*from || *from == '#') {
		*p = from + strlen(from);
		return 0;
	}
	for (; *from && (quoted || (*from != ' ' && *from != '\t')); from++) {
		if (*from == '"') {
			quoted = !quoted;
			continue;
		}
		if (quoted && *from == '\\' && (from[1] == '"' || from[1] == '\\'))
			from++;
		*to++ = *from;
	}
	*p = *from ? from + 1 : from;
	*to = 0;
	return quoted ? -1 : 1;
}

/* Writes a word so that cf_word reads it; in a rule only what is behind the "=" is quoted. */
static void cf_quote(struct sb *b, const char *word, bool rule)
{
	const char *eq = rule ? strchr(word, '=') : NULL;

	if (*word && !strpbrk(word, " \t\"\\") && *word != '#' && *word != '=') {
		sb_str(b, word);
		return;
	}
	if (eq && !memchr(word, ' ', (size_t)(eq - word)) && *word != '"') {
		sb_put(b, sl_mk(word, (size_t)(eq - word) + 1));
		word = eq + 1;
	}
	sb_chr(b, '"');
	for (; *word; word++) {
		if (*word == '"' || *word == '\\')
			sb_chr(b, '\\');
		sb_chr(b, *word);
	}
	sb_chr(b, '"');
}

/* HOST of a rule: a name, "*.NAME" or "*". */
static bool cf_rule_host(struct cf_in *in, struct route *r, const char *text)
{
	char out[RP_NAME_MAX + 1] = "";
	bool wild = strncmp(text, "*.", 2) == 0;
	uint8_t ip[16];

	cf_lead(in, "HOST ");
	if (strcmp(text, "*") != 0) {
		if (!wild && strchr(text, '*'))
			return cf_bad(in, text, "has its \"*\" elsewhere than in \"*.NAME\" or \"*\"");
		if (!cf_host(in, text, text + 2 * wild, out))
			return false;
		const char *last = strrchr(out, '.');
		if (wild && (out[0] == '[' || addr_parse_ip(sl_of(out), ip) ||
					 (last && strspn(last + 1, "0123456789") == strlen(last + 1))))
			return cf_bad(in, text,
						  "is an address below a \"*.\"; only names have names below them");
	}
	in->lead[0] = 0;
	return cf_text(in, &r->host, "%s%s", wild ? "*." : *out ? "" : "*", out);
}

/* PATH of a rule, in the one spelling that no server reads otherwise. */
static bool cf_rule_path(struct cf_in *in, struct route *r, const char *text)
{
	char seen[CF_PATH_MAX + 1];
	size_t n = strlen(text);

	cf_lead(in, "PATH ");
	if (n > CF_PATH_MAX)
		return cf_bad(in, text, "is over %d bytes", CF_PATH_MAX);
	if (strpbrk(text, "?#"))
		return cf_bad(in, text, "holds a query or fragment; routes match the path alone");
	for (size_t i = 0; i < n; i++)
		if (!cf_url_char(text[i]) || (text[i] == '%' && rt_encoded(sl_mk(text, n), i) < 0))
			return cf_bad(in, text,
						  "holds a character that needs percent-encoding, or a bare \"%%\"");
	if (n > 1 && strcmp(text + n - 2, "/*") == 0)
		return cf_bad(in, text, "needs no \"*\": a PATH stands for all below it");
	if (n) {
		size_t len = rt_normal(sl_mk(text, n), RT_READINGS - 1, seen);
		seen[len] = 0;
		for (size_t i = 0; i < len; i++)
			if (!cf_url_char(seen[i]) || seen[i] == '=')
				return cf_bad(in, text, "holds \"%c\" encoded, which no PATH can", seen[i]);
		n -= n > 1 && text[n - 1] == '/';
		len -= len > 1 && seen[len - 1] == '/';
		if (!sl_eq(sl_mk(text, n), sl_mk(seen, len)))
			return cf_bad(in, text, "can be read in more than one way; write \"%s\"", seen);
	}
	in->lead[0] = 0;
	return cf_text(in, &r->path, "%.*s", n == 1 ? 0 : (int)n, text);
}

/* ADDR[:PORT] of a target; in->lead names the target. */
static bool cf_target_addr(struct cf_in *in, struct target *t, const char *scheme, uint16_t usual,
						   char *text)
{
	char host[RP_NAME_MAX + 1];
	const char *digits = cf_split_port(text);

	if (!cf_host(in, text, text, host))
		return false;
	t->port = usual;
	if (digits && (!addr_parse_port(sl_of(digits), &t->port) || !t->port)) {
		cf_fault(in, "a port from 1 to 65535 fits behind the colon");
		return false;
	}
	if (!t->port) {
		cf_fault(in, "a port is needed: tcp://ADDR:PORT");
		return false;
	}
	bool six = host[0] == '[';
	char port[8];
	(void)snprintf(port, sizeof port, ":%u", t->port);
	struct sl name = sl_mk(host + six, strlen(host) - 2 * six);
	t->literal = addr_parse_ip(name, t->addr.ip);
	t->addr.port = t->literal ? t->port : 0;
	return cf_text(in, &t->host, "%.*s", (int)name.n, name.p) &&
		   cf_text(in, &t->authority, "%s%s", host, t->port == usual ? "" : port) &&
		   cf_text(in, &t->label, "%s%s%s", scheme, host, port);
}

/* http://, https://, tcp:// or unix: into r's next target. */
static bool cf_target(struct cf_in *in, struct route *r, char *text)
{
	static const struct {
		const char *scheme;
		uint16_t port;
		enum target_kind kind;
	} schemes[] = {{"http://", 80, TG_HTTP},
				   {"https://", 443, TG_HTTPS},
				   {"tcp://", 0, TG_TCP},
				   {"unix:", 0, TG_UNIX}};
	char *rest = text;
	size_t i = 0;

	cf_lead(in, "target ");
	while (i < RP_LEN(schemes) && !cf_skip(&rest, schemes[i].scheme))
		i++;
	if (i == RP_LEN(schemes) && strpbrk(text, ".:") && !strpbrk(text, "/@"))
		return cf_bad(in, text, "has no scheme; did you mean http://%s?", text);
	if (i == RP_LEN(schemes))
		return cf_bad(in, text,
					  "fits none of http://ADDR[:PORT], https://ADDR[:PORT], unix:PATH, "
					  "tcp://ADDR:PORT, redirect:URL, status:CODE");
	if (r->ntarget == RP_TARGETS_MAX)
		return cf_bad(in, text, "is one too many: a route can't have over %d targets",
					  RP_TARGETS_MAX);
	struct target *v = cf_more(in, r->target, r->ntarget, sizeof *v);
	if (!v)
		return false;
	r->target = v;
	struct target *t = &v[r->ntarget++];
	*t = (struct target){.kind = schemes[i].kind};
	enum rt_kind kind = t->kind == TG_TCP ? RT_TCP : RT_PROXY;
	if (r->ntarget > 1 && kind != r->kind)
		return cf_bad(in, text, "does not fit: tcp:// can't be mixed with other targets");
	r->kind = kind;
	const char *bad = t->kind == TG_UNIX ? NULL : strpbrk(rest, "/?#@");
	if (bad)
		return cf_bad(in, text, "holds a \"%c\"; a target is scheme://ADDR[:PORT] alone", *bad);
	char shown[240];
	(void)snprintf(shown, sizeof shown, "%s", text);
	cf_lead(in, "target \"%s\": ", shown);
	if (t->kind != TG_UNIX) {
		if (!cf_target_addr(in, t, schemes[i].scheme, schemes[i].port, rest))
			return false;
	} else if (*rest != '/' || strlen(rest) >= sizeof((struct sockaddr_un *)0)->sun_path) {
		cf_fault(in, "unix: needs an absolute path of at most 107 bytes");
		return false;
	} else if (!cf_text(in, &t->path, "%s", rest) || !cf_text(in, &t->label, "%s", text) ||
			   !cf_text(in, &t->authority, "localhost")) {
		return false;
	}
	for (unsigned k = 0; k + 1 < r->ntarget; k++)
		if (strcmp(r->target[k].label, t->label) == 0) {
			cf_lead(in, "target ");
			return cf_bad(in, shown, "is there twice");
		}
	in->lead[0] = 0;
	return true;
}

/* TARGET[,TARGET...]: redirect: and status: stand alone. */
static bool cf_rule_targets(struct cf_in *in, struct route *r, char *text)
{
	char *rest = text, *item;
	uint64_t code;

	if (cf_skip(&rest, "redirect:")) {
		cf_lead(in, "redirect: ");
		r->kind = RT_REDIRECT;
		return cf_url(in, rest) && cf_text(in, &r->redirect, "%s", rest);
	}
	if (cf_skip(&rest, "status:") && !strchr(rest, ',')) {
		cf_lead(in, "status: ");
		if (!sl_number(sl_of(rest), 599, &code) || code < 200)
			return cf_bad(in, rest, "is not a status code from 200 to 599");
		if (code >= 300 && code < 400)
			return cf_bad(in, rest, "sends the visitor nowhere; use redirect:URL");
		r->kind = RT_STATUS;
		r->status = (int)code;
		return true;
	}
	while ((item = strsep(&text, ","))) {
		if (strncmp(item, "redirect:", 9) == 0 || strncmp(item, "status:", 7) == 0) {
			cf_lead(in, "target ");
			return cf_bad(in, item, "can't stand beside another target");
		}
		if (!cf_target(in, r, item))
			return false;
	}
	return true;
}

/* HOST[/PATH]=TARGET[,TARGET...], taken apart in place. */
static bool cf_rule_head(struct cf_in *in, struct route *r, char *text)
{
	char *target = strchr(text, '='), *path = strchr(text, '/');

	if (!target || !target[1])
		return cf_bad(in, text, "is not HOST[/PATH]=TARGET, without blanks around \"=\"");
	*target++ = 0;
	if (strncmp(text, "http://", 7) == 0 || strncmp(text, "https://", 8) == 0)
		return cf_bad(in, text, "is to be written without http:// or https://");
	if (!path || path >= target)
		path = target - 1;
	char slash = *path;
	*path = 0;
	if (!cf_rule_host(in, r, text))
		return false;
	*path = slash;
	return cf_rule_path(in, r, path) && cf_rule_targets(in, r, target);
}

/* ---- settings ---- */

/* Is it a field that only the proxy itself may write? (RFC 9110 7.6.1, RFC 9112 6) */
static bool cf_own_field(const char *name)
{
	return sl_lists(sl_of("connection,content-length,keep-alive,proxy-connection,te,trailer,"
						  "transfer-encoding,upgrade"),
					name);
}

/* NAME:VALUE for add-response= or, with ids, for set=. */
static bool cf_field(struct cf_in *in, struct strs *l, char *text, uint64_t *ids)
{
	struct sl rest = sl_of(text), name;
	char shown[64];

	(void)sl_cut(&rest, ':', &name);
	if (!rest.p || !name.n || sl_count(name, SL_TCHAR) < name.n)
		return cf_bad(in, text, "is not NAME:VALUE");
	rest = sl_trim(rest);
	if (!rest.n)
		return cf_bad(in, text, "has no value behind the colon");
	(void)snprintf(shown, sizeof shown, "%.*s", (int)(name.n < 60 ? name.n : 60), name.p);
	if (ids && sl_iis(name, "host"))
		return cf_bad(in, text, "is what host= is for");
	if (cf_own_field(shown))
		return cf_bad(in, text, "is a field that HTTP itself needs");
	char *line = NULL;
	bool fine = cf_text(in, &line, "%.*s: %.*s", (int)name.n, name.p, (int)rest.n, rest.p) &&
				cf_push(in, l, line);
	if (ids)
		*ids |= (uint64_t)1 << hd_lookup(name);
	free(line);
	return fine;
}

static bool cf_hide(struct cf_in *in, struct strs *l, char *text)
{
	char *item;

	while ((item = strsep(&text, ","))) {
		struct sl name = sl_of(item);
		if (!name.n || sl_count(name, SL_TCHAR) < name.n)
			return cf_bad(in, item, "is no field name");
		if (cf_own_field(item))
			return cf_bad(in, item, "is a field that HTTP itself needs");
		for (char *p = item; *p; p++)
			*p = sl_lower(*p);
		if (!cf_push(in, l, item))
			return false;
	}
	return true;
}

/* host=keep, target or NAME[:PORT]. */
static bool cf_host_mode(struct cf_in *in, struct route *r, char *text)
{
	char name[RP_NAME_MAX + 1], shown[300];
	uint16_t port = 1;

	r->host_mode = RT_HOST_KEEP;
	if (strcmp(text, "keep") == 0)
		return true;
	r->host_mode = RT_HOST_TARGET;
	if (strcmp(text, "target") == 0)
		return true;
	(void)snprintf(shown, sizeof shown, "%s", text);
	r->host_mode = RT_HOST_NAME;
	const char *digits = cf_split_port(text);
	if (digits && (!addr_parse_port(sl_of(digits), &port) || !port))
		return cf_bad(in, shown, "has no valid port");
	if (cf_bracketed(text))
		(void)snprintf(name, sizeof name, "%s", text);
	else if (!sl_host(sl_of(text), name))
		return cf_bad(in, shown, "is no host name; keep, target or a name fit");
	return cf_text(in, &r->host_name, "%s%s%s", name, digits ? ":" : "", digits ? digits : "");
}

/* N/s[:BURST] */
static bool cf_rate(struct cf_in *in, struct route *r, const char *text)
{
	struct sl rest = sl_of(text), n;
	uint64_t rate, burst;

	(void)sl_cut(&rest, '/', &n);
	bool fine = sl_number(n, 1000000, &rate) && rate && rest.p && sl_at(rest, 0) == 's';
	burst = fine ? rate : 0;
	if (fine && rest.n > 1)
		fine = rest.p[1] == ':' && sl_number(sl_rest(rest, 2), 1000000, &burst) && burst;
	if (!fine)
		return cf_bad(in, text, "is not N/s[:BURST], each from 1 to 1000000");
	r->rate = (uint32_t)rate;
	r->burst = (uint32_t)burst;
	return true;
}

/* MAC[@ADDR[:PORT]]; the port is 9 (discard) unless told. */
static bool cf_wake(struct cf_in *in, struct route *r, const char *text)
{
	struct sl rest = sl_of(text), mac;
	bool fine = sl_cut(&rest, '@', &mac) && mac.n == 17;

	for (size_t i = 0; fine && i < 6; i++)
		fine = sl_hex(sl_mk(mac.p + 3 * i, 2), &r->wake_mac[i], 1) &&
			   (i == 5 || mac.p[3 * i + 2] == (mac.p[2] == '-' ? '-' : ':'));
	if (fine && rest.p) {
		struct sl ip = sl_at(rest, 0) == '[' && rest.p[rest.n - 1] == ']'
						   ? sl_mk(rest.p + 1, rest.n - 2)
						   : rest;
		if (addr_parse_ip(ip, r->wake_addr.ip))
			r->wake_addr.port = 9;
		else
			fine =
				addr_parse(rest, &r->wake_addr) && r->wake_addr.port && !addr_any(r->wake_addr.ip);
	}
	r->wake = fine;
	return fine ? true : cf_bad(in, text, "is not MAC[@ADDR[:PORT]], MAC as 00:11:22:aa:bb:cc");
}

static bool cf_verify(struct cf_in *in, struct route *r, char *text)
{
	char *hex = text;

	r->verify = strcmp(text, "off") == 0 ? RT_VERIFY_OFF : RT_VERIFY_CA;
	if (r->verify == RT_VERIFY_OFF || strcmp(text, "ca") == 0)
		return true;
	r->verify = RT_VERIFY_PIN;
	if (!cf_skip(&hex, "pin:"))
		return cf_bad(in, text, "is none of ca, off and pin:HEX");
	return sl_hex(sl_of(hex), r->pin, sizeof r->pin)
			   ? true
			   : cf_bad(in, text, "is not pin: with 64 hex digits, the SHA-256 of the public key");
}

static bool cf_error_page(struct cf_in *in, struct route *r, const char *path)
{
	free(r->error_page);
	r->error_page = sys_slurp(path, RP_ERROR_PAGE, &r->error_page_len);
	if (!r->error_page)
		return cf_bad(in, path, "can't be read: %s",
					  errno == EFBIG ? "over 64 KB" : strerror(errno));
	return cf_text(in, &r->error_page_file, "%s", path);
}

/* The value of a setting; v is NULL where it may be left out. */
static bool cf_setting_value(struct cf_in *in, struct route *r, enum cf_set_id id, char *v)
{
	uint64_t n = 31536000;
	int word;

	switch (id) {
	case CS_HOST:
		return cf_host_mode(in, r, v);
	case CS_STRIP:
		return r->strip = true;
	case CS_PLAIN:
		return r->plain = true;
	case CS_HSTS:
		if (v && !sl_number(sl_of(v), 9999999999, &n))
			return cf_bad(in, v, "is not a number of seconds from 0 to 9999999999");
		r->hsts = (int64_t)n;
		return true;
	case CS_ALLOW:
		return cf_cidrs(in, &r->allow, v);
	case CS_DENY:
		return cf_cidrs(in, &r->deny, v);
	case CS_AUTH:
		return cf_readable(in, v) && cf_text(in, &r->auth_file, "%s", v);
	case CS_RATE:
		return cf_rate(in, r, v);
	case CS_HIDE:
		return cf_hide(in, &r->hide, v);
	case CS_SET:
		return cf_field(in, &r->set, v, &r->set_ids);
	case CS_ADD:
		return cf_field(in, &r->add, v, NULL);
	case CS_BALANCE:
		r->round_robin = (word = cf_word_of(in, v, "failover|round-robin")) == 1;
		return word >= 0;
	case CS_CHECK:
		if (*v != '/' || sl_count(sl_of(v), SL_URI) < strlen(v))
			return cf_bad(in, v, "must begin with \"/\" and hold no blank or \"#\"");
		return cf_text(in, &r->check, "%s", v);
	case CS_WAKE:
		return cf_wake(in, r, v);
	case CS_VERIFY:
		return cf_verify(in, r, v);
	case CS_CA:
		return cf_readable(in, v) && cf_text(in, &r->ca_file, "%s", v);
	case CS_SENDPROXY:
		r->send_proxy = (word = cf_word_of(in, v, "v1|v2")) + 1;
		return word >= 0;
	case CS_ERRORPAGE:
		return cf_error_page(in, r, v);
	case CS_BODYMAX:
		return cf_scaled(in, v, &cf_sizes, 0, (uint64_t)1 << 40, &r->body_max);
	case CS_RESPONSE:
		return cf_scaled(in, v, &cf_times, 100, 86400000, &r->response_ms);
	case CS_TUNNEL:
		return cf_scaled(in, v, &cf_times, 100, (uint64_t)30 * 86400000, &r->tunnel_ms);
	case CS_COUNT:
		break;
	}
	return false;
}

/* NAME or NAME=VALUE. fits: which settings may be there; *given: which were. */
static void cf_setting(struct cf_in *in, struct route *r, char *word, unsigned fits,
					   uint32_t *given)
{
	static const char *const kinds[] = {"", "tcp://", "redirect:", "status:"};
	char *v = strchr(word, '=');
	const char *near = NULL;
	size_t best = SIZE_MAX;
	unsigned id = 0;

	in->lead[0] = 0;
	if (v)
		*v++ = 0;
	for (; id < CS_COUNT && strcmp(word, cf_settings[id].name) != 0; id++)
		cf_nearer(sl_of(word), cf_settings[id].name, &best, &near);
	if (id == CS_COUNT) {
		if (near)
			cf_fault(in, "unknown setting \"%.100s\"; did you mean \"%s\"?", word, near);
		else
			cf_fault(in, "unknown setting \"%.100s\"; --help lists them", word);
		return;
	}
	const struct cf_setting *s = &cf_settings[id];
	if (!(s->fits & fits))
		cf_fault(in, "setting \"%s\" does not fit a %s target", word, kinds[r->kind]);
	else if (*given & 1u << id && !(s->fits & CF_MANY))
		cf_fault(in, "setting \"%s\" is there twice", word);
	else if (!s->arg && v)
		cf_fault(in, "setting \"%s\" takes no value", word);
	else if (s->arg && s->arg[0] != '[' && (!v || !*v))
		cf_fault(in, "setting \"%s\" needs a value: %s=%s", word, word, s->arg);
	else {
		cf_lead(in, "%s=", word);
		(void)cf_setting_value(in, r, (enum cf_set_id)id, v);
	}
	*given |= 1u << id;
}

/* How many bytes a list of fields adds to a head. */
static size_t cf_bytes(const struct strs *l)
{
	size_t n = 0;

	for (size_t i = 0; i < l->n; i++)
		n += strlen(l->v[i]) + 2;
	return n;
}

/* What settings and targets must be to each other. */
static void cf_rule_check(struct cf_in *in, struct route *r, uint32_t given)
{
	bool tls = false;
	size_t most = cf_bytes(&r->set) > cf_bytes(&r->add) ? cf_bytes(&r->set) : cf_bytes(&r->add);

	in->lead[0] = 0;
	for (unsigned i = 0; i < r->ntarget; i++)
		tls |= r->target[i].kind == TG_HTTPS;
	if (r->kind == RT_TCP && r->path[0])
		cf_fault(in, "PATH \"%s\" does not fit tcp://, which is chosen by the TLS name alone",
				 r->path);
	if (r->strip && !r->path[0])
		cf_fault(in, "strip needs HOST/PATH=");
	if (r->ca_file && (!tls || r->verify != RT_VERIFY_CA))
		cf_fault(in, "ca= needs an https:// target and verify=ca");
	else if (given & 1u << CS_VERIFY && !tls)
		cf_fault(in, "verify= needs an https:// target");
	if (most > CF_ADDS_MAX)
		cf_fault(in, "the fields of set= or add-response= take %zu bytes; %d bytes fit", most,
				 CF_ADDS_MAX);
}

/* Targets with equal keys share connections, so all that makes connections differ is in the key. */
static bool cf_keys(struct cf_in *in, struct route *r)
{
	static const char *const proxy[] = {"", " send-proxy=v1", " send-proxy=v2"};
	char hex[2 * sizeof r->pin + 1] = "";

	for (size_t i = 0; i < sizeof r->pin && r->verify == RT_VERIFY_PIN; i++)
		(void)snprintf(hex + 2 * i, 3, "%02x", r->pin[i]);
	const char *how = r->verify == RT_VERIFY_OFF   ? " verify=off"
					  : r->verify == RT_VERIFY_PIN ? " verify=pin:"
					  : r->ca_file				   ? " ca="
												   : "";
	for (unsigned i = 0; i < r->ntarget; i++) {
		struct target *t = &r->target[i];
		bool tls = t->kind == TG_HTTPS;
		if (!cf_text(in, &t->key, "%s%s%s%s%s%s%s", t->label, tls ? how : "", tls ? hex : "",
					 tls && r->ca_file ? r->ca_file : "", proxy[r->send_proxy], r->check ? " " : "",
					 r->check ? r->check : ""))
			return false;
	}
	return true;
}

static void cf_free_strs(struct strs *l)
{
	for (size_t i = 0; i < l->n; i++) {
		free(l->v[i]);
		if (l->from)
			free(l->from[i]);
	}
	free(l->v);
	free(l->from);
	*l = (struct strs){NULL, 0, NULL};
}

static void cf_free_route(struct route *r)
{
	for (unsigned i = 0; i < r->ntarget; i++) {
		struct target *t = &r->target[i];
		free(t->host);
		free(t->path);
		free(t->label);
		free(t->key);
		free(t->authority);
	}
	free(r->target);
	free(r->host);
	free(r->path);
	free(r->redirect);
	free(r->host_name);
	free(r->allow.v);
	free(r->deny.v);
	free(r->auth_file);
	cf_free_strs(&r->hide);
	cf_free_strs(&r->set);
	cf_free_strs(&r->add);
	free(r->ca_file);
	free(r->check);
	free(r->error_page_file);
	free(r->error_page);
	free(r->rule);
	free(r);
}

/* Reads the words of a rule into r; b collects them as the dump shows them. */
static void cf_rule(struct cf_in *in, struct route *r, char *text, struct sb *b)
{
	unsigned faults = in->cf->faults, fits = CF_FIT_ALL, n = 0;
	uint32_t given = 0;
	char *word;
	int got;

	while ((got = cf_word(&text, &word)) > 0) {
		if (n++)
			sb_chr(b, ' ');
		cf_quote(b, word, true);
		if (n == 1 && !*word)
			break;
		bool rule = strchr(word, '=') != NULL;
		if (n > 1)
			cf_setting(in, r, word, fits, &given);
		else if (cf_rule_head(in, r, word))
			fits = 1u << r->kind;
		else if (!rule)
			return; /* what follows are no settings */
	}
	in->lead[0] = 0;
	if (got < 0)
		cf_fault(in, "a quote has no end");
	else if (!n || got > 0)
		cf_fault(in, "needs a rule: HOST[/PATH]=TARGET[,TARGET...] [SETTING]...");
	if (in->cf->faults == faults)
		cf_rule_check(in, r, given);
	if (in->cf->faults == faults)
		(void)(cf_keys(in, r) && cf_text(in, &r->rule, "%.*s", (int)b->n, b->p));
}

/* One rule more for the host table, if it is right. */
static void cf_route(struct cf_in *in, char *text)
{
	struct conf *cf = in->cf;
	unsigned faults = cf->faults;
	size_t cap = 5 * strlen(text) + 8; /* each byte may be quoted, each word put into quotes */
	struct route *r = calloc(1, sizeof *r);
	char *shown = malloc(cap);

	if (r && shown) {
		struct sb b = sb_of(shown, cap);
		r->hsts = -1;
		r->body_max = r->response_ms = r->tunnel_ms = CF_OPEN;
		r->file = in->file;
		r->line = in->line;
		cf_rule(in, r, text, &b);
	} else {
		cf_starve(in);
	}
	struct route **v =
		cf->faults > faults ? NULL : cf_more(in, cf->route, cf->nroute, sizeof(struct route *));
	if (v) {
		cf->route = v;
		v[cf->nroute++] = r;
	} else if (r) {
		cf_free_route(r);
	}
	in->lead[0] = 0;
	free(shown);
}

/* ---- options, files, the command line ---- */

/* One value more of an option, and where it was said. */
static bool cf_grow(struct cf_in *in, struct strs *l, const char *v, uint64_t most)
{
	size_t n = l->n == most ? l->n - 1 : l->n;
	char **from = cf_more(in, l->from, l->n, sizeof *from);

	if (!from)
		return false;
	l->from = from;
	if (n == l->n) {
		from[n] = NULL;
		if (!cf_push(in, l, v))
			return false;
	} else if (!cf_text(in, &l->v[n], "%s", v)) {
		return false;
	}
	return in->file
			   ? cf_text(in, &from[n], "%s:%u: option \"%s\": ", in->file, in->line, in->opt->name)
			   : cf_text(in, &from[n], "--%s: ", in->opt->name);
}

/* Gives an option its value, which may be changed on the way. */
static void cf_set(struct cf_in *in, const struct cf_opt *o, char *v)
{
	void *at = (char *)in->cf + o->member;
	uint32_t *number = at;
	char name[RP_NAME_MAX + 1];
	uint64_t n;
	int word;

	switch (o->kind) {
	case CK_GROUP:
	case CK_ACTION:
	case CK_HELP:
	case CK_CONFIG:
		break; /* have no value, or none that is kept */
	case CK_LISTEN:
		(void)cf_listener(in, v, (enum cf_listen_kind)o->min);
		break;
	case CK_ROUTE:
		cf_route(in, v);
		break;
	case CK_DEFAULT:
		(void)cf_default(in, v);
		break;
	case CK_NAME:
		(void)(cf_host(in, v, v, name) && cf_text(in, at, "%s", name));
		break;
	case CK_TEXT:
		(void)cf_text(in, at, "%s", v);
		break;
	case CK_LIST:
		(void)cf_grow(in, at, v, o->max);
		break;
	case CK_RANGES:
		(void)cf_cidrs(in, at, v);
		break;
	case CK_WORD:
		if ((word = cf_word_of(in, v, o->arg)) >= 0)
			*number = (uint32_t)word;
		break;
	case CK_NUM:
		if (sl_number(sl_of(v), o->max, &n) && n >= o->min)
			*number = (uint32_t)n;
		else
			cf_bad(in, v, "is not a number from %u to %u", (unsigned)o->min, (unsigned)o->max);
		break;
	case CK_MS:
	case CK_SIZE:
		(void)cf_scaled(in, v, o->kind == CK_MS ? &cf_times : &cf_sizes, o->min, o->max, at);
		break;
	}
}

/* The same for a value that must stay as it is (the arguments are read again on reload), or is not
 * there at all: NULL. */
static void cf_take(struct cf_in *in, const struct cf_opt *o, const char *value)
{
	char *copy = NULL;

	in->opt = o;
	in->cf->said[o - cf_opts] = (struct cf_said){in->file, in->line};
	in->listens |= o->kind == CK_LISTEN && o->min != LS_STATUS;
	for (const char *p = value; p && *p; p++)
		if (((uint8_t)*p < ' ' && *p != '\t') || *p == 0x7f) {
			cf_bad(in, value, "holds a control character");
			return;
		}
	if (!value || (!*value && o->kind != CK_ROUTE))
		cf_fault(in, "needs a value: %s", o->arg);
	else if (cf_text(in, &copy, "%s", value))
		cf_set(in, o, copy);
	free(copy);
}

static void cf_unknown(struct cf_in *in, const char *dashes, struct sl name, const char *near)
{
	int n = name.n < 200 ? (int)name.n : 200;

	if (near)
		cf_fault(in, "unknown option \"%s%.*s\"; did you mean \"%s%s\"?", dashes, n, name.p, dashes,
				 near);
	else
		cf_fault(in, "unknown option \"%s%.*s\"; --help lists them", dashes, n, name.p);
}

/* Opens a file to be read: its text, NULL when that failed (said then). */
static char *cf_open(struct cf_in *in, const char *path)
{
	size_t n;

	if (in->depth == CF_DEEP) {
		cf_bad(in, path, "is included over %d deep", CF_DEEP);
		return NULL;
	}
	for (unsigned i = 0; i < in->depth; i++)
		if (strcmp(in->open[i], path) == 0) {
			cf_bad(in, path, "includes itself");
			return NULL;
		}
	char *text = sys_slurp(path, CF_FILE_MAX, &n);
	if (!text && errno == ENOENT && in->file)
		cf_bad(in, path, "is not there");
	else if (!text)
		cf_bad(in, path, "can't be read: %s", errno == EFBIG ? "over 1 MB" : strerror(errno));
	else if (strlen(text) == n)
		return text;
	else
		cf_bad(in, path, "is no text file: it holds a zero byte");
	free(text);
	return NULL;
}

/* Is the text one quoted string, perhaps with a comment behind it? */
static bool cf_is_quoted(const char *p)
{
	if (*p++ != '"')
		return false;
	for (; *p && *p != '"'; p++)
		if (*p == '\\' && (p[1] == '"' || p[1] == '\\'))
			p++;
	if (!*p)
		return false;
	p++;
	return !*p || ((*p == ' ' || *p == '\t') && strchr("#", p[strspn(p, " \t")]));
}

/* NAME VALUE or NAME = VALUE, whose name was found in the table. */
static void cf_line_value(struct cf_in *in, const struct cf_opt *o, char *text)
{
	char *value = NULL, *more;
	int got = 1;

	in->opt = o;
	if (o->kind != CK_ROUTE || cf_is_quoted(text) || !*text || *text == '#')
		got = cf_word(&text, &value);
	else
		value = text;
	if (got < 0)
		cf_fault(in, "a quote has no end");
	else if (o->kind != CK_ROUTE && got && cf_word(&text, &more))
		cf_fault(in, "takes one value; \"%.200s\" is too much", more);
	else
		cf_take(in, o, got ? value : NULL);
}

/* Reads one line. Returns the file name or pattern of an include, NULL for any other line. */
static char *cf_line(struct cf_in *in, char *line)
{
	char *name = line + strspn(line, " \t"), *text = name + strcspn(name, " \t="), *word, *more;
	struct sl key = sl_mk(name, (size_t)(text - name));
	const char *near;

	if (!*name || *name == '#')
		return NULL;
	text += strspn(text, " \t");
	if (*text == '=')
		text += 1 + strspn(text + 1, " \t");
	if (sl_is(key, "include")) {
		if (cf_word(&text, &word) == 1 && *word && cf_word(&text, &more) == 0)
			return word;
		cf_fault(in, "include needs one file name or pattern");
		return NULL;
	}
	const struct cf_opt *o = cf_find(key, &near);
	int n = key.n < 200 ? (int)key.n : 200;
	if (o && o->kind == CK_CONFIG)
		cf_fault(in, "config is for the command line; in a file it is \"include GLOB\"");
	else if (o && (o->kind == CK_ACTION || o->kind == CK_HELP))
		cf_fault(in, "\"%s\" is for the command line", o->name);
	else if (o)
		cf_line_value(in, o, text);
	else if (*name == '-')
		cf_fault(in, "unknown option \"%.*s\"; in a file options are written without dashes", n,
				 name);
	else
		cf_unknown(in, "", key, near);
	in->opt = NULL;
	return NULL;
}

/* Where a shell's pattern goes on after its part that fits the character c; NULL: it does not fit. */
static const char *cf_fits_one(const char *p, char c)
{
	const char *q = p + 1 + (p[0] == '[' && p[1] == '!'), *end = *q ? strchr(q + 1, ']') : NULL;
	bool in = false;

	if (*p != '[' || !end)
		return *p == c || *p == '?' ? p + 1 : NULL;
	for (bool not = p[1] == '!'; q < end; q++) {
		const char *from = q;
		if (q[1] == '-' && q + 2 < end)
			q += 2;
		in |= *from <= c && c <= *q;
		if (q + 1 == end && in != not )
			return end + 1;
	}
	return NULL;
}

/* Whether a name fits a shell's pattern: * ? [a-z] [!a-z]. */
static bool cf_fits(const char *p, const char *name)
{
	const char *star = NULL, *from = NULL, *next;

	while (*name)
		if (*p == '*') {
			star = ++p;
			from = name;
		} else if (*p && (next = cf_fits_one(p, *name))) {
			p = next;
			name++;
		} else if (star) {
			p = star; /* let the star take one character more */
			name = ++from;
		} else {
			return false;
		}
	return !p[strspn(p, "*")];
}

/* Adds the files that fit a pattern to a list, in the order of their names; directories before `at`
 * are taken as they stand. glob(3) of a static musl would bring 20 KB with it. */
static void cf_glob(struct cf_in *in, struct strs *out, const char *pattern, size_t at)
{
	const char *wild = strpbrk(pattern + at, "*?["), *piece = wild, *rest;
	char *dir = NULL, *one = NULL, *path = NULL;
	struct sys_stamp st;
	struct dirent **list;

	if (!wild) {
		if (sys_stamp(pattern, &st) == 0)
			(void)cf_push(in, out, pattern);
		return;
	}
	while (piece > pattern && piece[-1] != '/')
		piece--;
	rest = wild + strcspn(wild, "/");
	int n = -1;
	if (cf_text(in, &dir, "%.*s", (int)(piece - pattern), pattern) &&
		cf_text(in, &one, "%.*s", (int)(rest - piece), piece) &&
		(n = scandir(*dir ? dir : ".", &list, NULL, alphasort)) < 0 && errno != ENOENT &&
		errno != ENOTDIR)
		cf_bad(in, pattern, "can't be looked for: %s", strerror(errno));
	for (int i = 0; i < n; i++) {
		const char *name = list[i]->d_name;
		if ((*name != '.' || *one == '.') && cf_fits(one, name) &&
			cf_text(in, &path, "%s%s%s", dir, name, rest))
			cf_glob(in, out, path, strlen(dir) + strlen(name));
		free(list[i]);
	}
	if (n >= 0)
		free(list);
	free(dir);
	free(one);
	free(path);
}

/* Reads a file and, where it says include, others: relative to its own directory, in the order of
 * their names. */
static void cf_file(struct cf_in *in, const char *path)
{
	const struct cf_in above = {.file = in->file, .line = in->line, .opt = in->opt};
	char *text = cf_open(in, path), *rest = text, *line;

	if (!text || !cf_push(in, &in->cf->files, path)) {
		free(text);
		return;
	}
	in->file = in->open[in->depth++] = in->cf->files.v[in->cf->files.n - 1];
	in->line = 0;
	in->opt = NULL;
	(void)cf_skip(&rest, "\xef\xbb\xbf");
	while ((line = strsep(&rest, "\n"))) {
		char *pattern = NULL, *wanted;
		size_t n = strlen(line);
		if (n && line[n - 1] == '\r')
			line[n - 1] = 0;
		in->line++;
		if (!(wanted = cf_line(in, line)))
			continue;
		const char *slash = wanted[0] == '/' ? NULL : strrchr(in->file, '/');
		struct strs found = {NULL, 0, NULL};
		if (!cf_text(in, &pattern, "%.*s%s", slash ? (int)(slash - in->file) + 1 : 0, in->file,
					 wanted))
			break;
		if (!strpbrk(wanted, "*?["))
			cf_file(in, pattern);
		else
			cf_glob(in, &found, pattern, 0);
		for (size_t i = 0; i < found.n; i++)
			cf_file(in, found.v[i]);
		cf_free_strs(&found);
		free(pattern);
	}
	in->depth--;
	in->file = above.file;
	in->line = above.line;
	in->opt = above.opt;
	free(text);
}

/* One flag with its value, NULL for none. */
static void cf_flag(struct cf_in *in, const struct cf_opt *o, const char *value)
{
	static const char *const words[] = {"man", "readme", "reasons", "bash"};
	struct conf *cf = in->cf;

	in->opt = o;
	if (o->kind == CK_ACTION || o->kind == CK_HELP)
		cf->action = (enum cf_action)o->min;
	if (o->kind == CK_CONFIG && value && *value) {
		cf_file(in, value);
	} else if (o->kind == CK_ACTION) {
		if (value)
			cf_fault(in, "takes no value");
	} else if (o->kind == CK_HELP) {
		if (value && strcmp(value, "completion") == 0)
			value = "bash";
		for (size_t i = 0; value && i < RP_LEN(words); i++)
			if (strcmp(value, words[i]) == 0)
				(void)cf_text(in, &cf->help, "%s", value);
		if (value && !cf->help)
			cf_bad(in, value, "is none of man, readme, reasons, bash");
	} else {
		cf_take(in, o, value);
	}
	in->opt = NULL;
}

/* Does the flag take the next argument, when it has no value of its own? */
static bool cf_wants(const struct cf_opt *o)
{
	return o->kind != CK_ACTION && o->kind != CK_HELP;
}

/* --NAME, --NAME=VALUE, --NAME VALUE; argument *i and perhaps the one behind it. */
static void cf_long(struct cf_in *in, int argc, char **argv, int *i)
{
	struct sl rest = sl_of(argv[*i] + 2), name;
	const char *near, *value;

	(void)sl_cut(&rest, '=', &name);
	value = rest.p;
	const struct cf_opt *o = cf_find(name, &near);
	if (o) {
		if (!value && cf_wants(o) && *i + 1 < argc && strncmp(argv[*i + 1], "--", 2) != 0)
			value = argv[++*i];
		cf_flag(in, o, value);
	} else if (sl_is(name, "include")) {
		cf_fault(in, "unknown option \"--include\"; it is for files, here it is --config FILE");
	} else {
		cf_unknown(in, "--", name, near);
		*i += !value && *i + 1 < argc && argv[*i + 1][0] != '-'; /* what follows is its value */
	}
}

/* -t, -c FILE, -cFILE, -tc FILE. */
static void cf_short(struct cf_in *in, int argc, char **argv, int *i)
{
	struct sl word = sl_mk(argv[*i] + 1, strcspn(argv[*i] + 1, "="));
	const char *near;

	if (word.n > 1 && cf_find(word, &near)) {
		cf_fault(in, "unknown option \"-%.*s\"; did you mean \"--%.*s\"?", (int)word.n, word.p,
				 (int)word.n, word.p);
		*i += !word.p[word.n] && *i + 1 < argc && argv[*i + 1][0] != '-';
		return;
	}
	for (const char *p = argv[*i] + 1; *p; p++) {
		const struct cf_opt *o = NULL;
		for (size_t k = 0; k < CF_NOPTS; k++)
			if (cf_opts[k].letter == *p)
				o = &cf_opts[k];
		if (!o) {
			cf_unknown(in, "-", sl_mk(p, 1), NULL);
			return;
		}
		if (cf_wants(o)) {
			cf_flag(in, o, p[1] ? p + 1 : *i + 1 < argc ? argv[++*i] : NULL);
			return;
		}
		cf_flag(in, o, NULL);
	}
}

static void cf_args(struct cf_in *in, int argc, char **argv)
{
	for (int i = 1; i < argc && in->cf->action != CF_HELP && in->cf->action != CF_VERSION; i++) {
		const char *a = argv[i];
		in->line = (unsigned)i;
		if (a[0] != '-')
			cf_bad(in, a,
				   "is no option; a file is read with -c FILE, a RULE with blanks needs quotes");
		else if (strcmp(a, "-") == 0 || strcmp(a, "--") == 0)
			cf_bad(in, a, "is no option");
		else if (a[1] == '-')
			cf_long(in, argc, argv, &i);
		else
			cf_short(in, argc, argv, &i);
	}
}

/* ---- the whole ---- */

/* Says where two routes collide. The table is sealed for that; a dump keeps the order given. */
static void cf_seal(struct cf_in *in)
{
	struct conf *cf = in->cf;
	size_t bytes = cf->nroute * sizeof(struct route *);
	struct route **given = malloc(bytes + 1);
	char other[600];

	if (!given) {
		cf_starve(in);
		return;
	}
	if (bytes)
		memcpy(given, cf->route, bytes);
	rt_seal(cf);
	for (size_t i = 0; i < cf->nroute; i++) {
		const struct route *a = rt_clash(cf, i), *b = cf->route[i];
		if (!a)
			continue;
		if (a->file)
			(void)snprintf(other, sizeof other, "%.500s:%u", a->file, a->line);
		else
			(void)snprintf(other, sizeof other, "on the command line");
		in->file = b->file;
		in->line = b->line;
		cf_lead(in, "route \"%.*s\": ", (int)strcspn(b->rule, " \t"), b->rule);
		if (strcmp(a->path, b->path) == 0)
			cf_fault(in, "\"%s%s\" is there twice; the other is %s", b->host, b->path, other);
		else
			cf_fault(in,
					 "\"%s\" is handed through by tcp://, so it can have no PATH of its own; the "
					 "other is %s",
					 b->host, other);
	}
	if (bytes && cf->action == CF_DUMP)
		memcpy(cf->route, given, bytes);
	free(given);
	in->lead[0] = 0;
	in->file = NULL;
}

/* What can be judged only when all is read. */
static void cf_finish(struct cf_in *in)
{
	struct conf *cf = in->cf;
	bool tls = false, tcp = false;
	struct sys_stamp stamp;

	if (cf->action == CF_HELP || cf->action == CF_VERSION)
		return;
	for (size_t i = 0; i < cf->nlisten; i++)
		tls |= cf->listen[i].kind == LS_HTTPS;
	if (!in->listens)
		cf_fault(
			in,
			"no listener: --http [ADDR:]PORT or --https [ADDR:]PORT is needed; --help says more");
	for (size_t i = 0; i < cf->nroute; i++) {
		struct route *r = cf->route[i];
		tcp |= r->kind == RT_TCP;
		if (r->body_max == CF_OPEN)
			r->body_max = cf->body_max;
		if (r->response_ms == CF_OPEN)
			r->response_ms = cf->response_ms;
		if (r->tunnel_ms == CF_OPEN)
			r->tunnel_ms = cf->tunnel_ms;
	}
	cf_seal(in);
	if (cf->faults || cf->action == CF_DUMP)
		return;
	if (!cf->nroute && cf->default_kind == CF_DEFAULT_STATUS && cf->action == CF_SERVE)
		log_event(LOG_WARN, "warning: there is no route: every request gets a %d",
				  cf->default_status);
	if (tcp && !tls)
		log_event(LOG_WARN, "warning: without --https a tcp:// route is never reached");
	if (cf->acme_dir.n && sys_stamp(cf->acme_dir.v[0], &stamp) < 0)
		log_event(LOG_WARN, "warning: --acme-dir: \"%s\": %s", cf->acme_dir.v[0], strerror(errno));
}

/* What messages about an option of the table begin with: where it was said last. */
static void cf_place(const struct conf *cf, const char *name, char out[600])
{
	const char *near;
	const struct cf_said *at = &cf->said[cf_find(sl_of(name), &near) - cf_opts];

	if (at->file)
		(void)snprintf(out, 600, "%.500s:%u: ", at->file, at->line);
	else
		(void)snprintf(out, 600, "--%s: ", name);
}

/* Counts one user more of the snapshot. */
static struct conf *cf_hold(struct conf *cf)
{
	cf->holds++;
	return cf;
}

/* Ends one use; the last one frees it. NULL is fine. users and anchors of routes are not freed. */
static void cf_drop(struct conf *cf)
{
	if (!cf || --cf->holds)
		return;
	for (size_t i = 0; i < cf->nroute; i++)
		cf_free_route(cf->route[i]);
	free(cf->route);
	free(cf->listen);
	cf_free_strs(&cf->cert);
	cf_free_strs(&cf->cert_dir);
	cf_free_strs(&cf->acme_dir);
	cf_free_strs(&cf->files);
	free(cf->trust.v);
	free(cf->accept_proxy.v);
	free(cf->default_cert);
	free(cf->default_url);
	free(cf->user);
	free(cf->chroot_dir);
	free(cf->log);
	free(cf->pid_file);
	free(cf->help);
	free(cf->said);
	free(cf);
}

/* Reads the arguments and all files that they name into a new snapshot with one hold. Each error is
 * printed (logged once the proxy runs) and counted in ->faults; then it is only to be dropped.
 * NULL: out of memory. argv is not changed, so a reload gives it again. */
static struct conf *cf_load(int argc, char **argv)
{
	struct cf_in in = {.cf = calloc(1, sizeof(struct conf))};

	if (!in.cf || !(in.cf->said = calloc(CF_NOPTS, sizeof *in.cf->said))) {
		free(in.cf);
		return NULL;
	}
	in.cf->holds = 1;
	for (size_t i = 0; i < CF_NOPTS; i++)
		if (cf_opts[i].def && !strchr(cf_opts[i].def, ' '))
			cf_take(&in, &cf_opts[i], cf_opts[i].def);
	in.opt = NULL;
	cf_args(&in, argc, argv);
	cf_finish(&in);
	return in.cf;
}

/* ---- what is printed ---- */

/* One line of the dump. */
static void cf_dump_line(const char *name, const char *value)
{
	char line[RP_LOG_LINE * 2 + 8];
	struct sb b = sb_of(line, sizeof line);

	cf_quote(&b, value, false);
	printf("%s %.*s\n", name, (int)b.n, line);
}

static void cf_dump_cidrs(const char *name, const struct cidrs *l)
{
	bool cf = false;
	char text[56];
	const char *between = "";

	if (!l->n)
		return;
	printf("%s ", name);
	for (size_t i = 0; i < l->n; i++) {
		if (l->v[i].cf && cf)
			continue;
		(void)addr_cidr_print(&l->v[i], text);
		printf("%s%s", between, l->v[i].cf ? "cloudflare" : text);
		cf |= l->v[i].cf;
		between = ",";
	}
	printf("\n");
}

static void cf_dump_default(const struct conf *cf, const char *name)
{
	if (cf->default_kind == CF_DEFAULT_STATUS)
		printf("%s %d\n", name, cf->default_status);
	else
		cf_dump_line(name, cf->default_kind == CF_DEFAULT_DROP ? "drop" : cf->default_url);
}

/* The word that a number stands for. */
static void cf_dump_word(const struct cf_opt *o, uint32_t number)
{
	struct sl words = sl_of(o->arg), word = words;

	for (uint32_t i = 0; i <= number; i++)
		(void)sl_cut(&words, '|', &word);
	printf("%s %.*s\n", o->name, (int)word.n, word.p);
}

/* The lines of one option. */
static void cf_dump(const struct conf *cf, const struct cf_opt *o)
{
	const char *at = (const char *)cf + o->member;
	struct strs list;
	struct cidrs cidrs;
	uint32_t number;
	uint64_t scaled;
	char text[56], *string;

	switch (o->kind) {
	case CK_GROUP:
	case CK_ACTION:
	case CK_HELP:
	case CK_CONFIG:
		break;
	case CK_LISTEN:
		for (size_t i = 0; i < cf->nlisten; i++)
			if (cf->listen[i].kind == (enum cf_listen_kind)o->min) {
				(void)addr_print(&cf->listen[i].addr, true, text);
				printf("%s %s\n", o->name, text);
			}
		break;
	case CK_ROUTE:
		for (size_t i = 0; i < cf->nroute; i++)
			printf("%s %s\n", o->name, cf->route[i]->rule);
		break;
	case CK_DEFAULT:
		cf_dump_default(cf, o->name);
		break;
	case CK_NAME:
	case CK_TEXT:
		memcpy(&string, at, sizeof string);
		if (string)
			cf_dump_line(o->name, string);
		break;
	case CK_LIST:
		memcpy(&list, at, sizeof list);
		for (size_t i = 0; i < list.n; i++)
			cf_dump_line(o->name, list.v[i]);
		break;
	case CK_RANGES:
		memcpy(&cidrs, at, sizeof cidrs);
		cf_dump_cidrs(o->name, &cidrs);
		break;
	case CK_WORD:
	case CK_NUM:
		memcpy(&number, at, sizeof number);
		if (o->kind == CK_WORD)
			cf_dump_word(o, number);
		else if (number >= o->min)
			printf("%s %u\n", o->name, number);
		break;
	case CK_MS:
	case CK_SIZE:
		memcpy(&scaled, at, sizeof scaled);
		cf_print_scaled(o->kind == CK_MS ? &cf_times : &cf_sizes, scaled, text);
		printf("%s %s\n", o->name, text);
		break;
	}
}

enum cf_form { CF_PLAIN, CF_MAN, CF_TABLE };

/* Prints a text; outside of tables without its ``, in lines of 79 columns that begin at `indent`,
 * the first one at column `at`. */
static void cf_fill(enum cf_form form, const char *text, int indent, int at)
{
	while (*text) {
		size_t n = strcspn(text, " ");
		int shown = 0;
		for (size_t i = 0; i < n; i++)
			shown += text[i] != '`';
		bool ends = form == CF_MAN && at > indent && text[-2] == '.'; /* a sentence, a line */
		if (form != CF_TABLE && (at + shown + 1 > 79 || ends)) {
			printf("\n%*s", indent, "");
			at = indent;
		} else if (at > indent) {
			putchar(' ');
			at++;
		}
		at += shown;
		if (form == CF_MAN && text[*text == '`'] == '.')
			printf("\\&"); /* no macro */
		for (; n; n--, text++) {
			if (form == CF_TABLE && *text == '|')
				putchar('\\');
			if (form == CF_TABLE || *text != '`')
				putchar(*text);
		}
		text += *text == ' ';
	}
}

/* What is typed for an option: "-c, --config FILE". */
static void cf_typed(const struct cf_opt *o, char out[64])
{
	char letter[8] = "";

	if (o->letter)
		(void)snprintf(letter, sizeof letter, "-%c, ", o->letter);
	(void)snprintf(out, 64, o->kind == CK_HELP ? "%s--%s[=%s]" : "%s--%s%s%s", letter, o->name,
				   o->kind == CK_HELP ? o->arg
				   : o->arg			  ? " "
									  : "",
				   o->arg ? o->arg : "");
}

/* What is typed for a setting: "auth=FILE". */
static void cf_typed_setting(const struct cf_setting *s, char out[64])
{
	(void)snprintf(out, 64, "%s%s%s", s->name, s->arg && s->arg[0] != '[' ? "=" : "",
				   s->arg ? s->arg : "");
}

/* A row of the list: what is typed, what it means, the default. */
static void cf_row(const char *typed, int indent, const char *help, const char *def)
{
	char text[700];
	int at = printf("%*s%s", indent, "", typed);

	printf(at > 30 ? "\n%*s" : "%*s", at > 30 ? 32 : 32 - at, "");
	(void)snprintf(text, sizeof text, def ? "%s [%s]" : "%s", help, def);
	cf_fill(CF_PLAIN, text, 32, 32);
	printf("\n");
}

static void cf_help(void)
{
	char typed[64];

	printf("Usage: rproxy [OPTION]...\n"
		   "A reverse proxy for the router at the edge of a small network. Example:\n"
		   "  rproxy --http 80 --route jellyfin.example.com=http://10.0.0.4:8096\n\n"
		   "In a file the options are written without dashes, one a line. Times take ms, s,\n"
		   "m, h, d, sizes k, m, g. Defaults stand in [].\n");
	for (size_t i = 0; i < CF_NOPTS; i++) {
		const struct cf_opt *o = &cf_opts[i];
		if (o->kind == CK_GROUP) {
			printf("\n%s:\n", o->name);
			continue;
		}
		cf_typed(o, typed);
		cf_row(typed, o->letter ? 2 : 6, o->help, o->def);
	}
	printf("\nRULE is HOST[/PATH]=TARGET[,TARGET...] [SETTING]...\n"
		   "HOST is a name, *.NAME (any name below it) or * (any host). The exact name wins,\n"
		   "then the longest wildcard, then *. PATH matches whole segments; the longest\nwins.\n"
		   "\nTARGET:\n");
	for (size_t i = 0; i < RP_LEN(cf_targets); i++)
		cf_row(cf_targets[i].name, 2, cf_targets[i].help, NULL);
	printf("\nSETTING:\n");
	for (size_t i = 0; i < CS_COUNT; i++) {
		cf_typed_setting(&cf_settings[i], typed);
		cf_row(typed, 2, cf_settings[i].help, NULL);
	}
}

/* A list of the manual page. */
static void cf_man_list(const struct cf_setting *v, size_t n)
{
	char typed[64];

	printf(".Bl -tag -width Ds\n");
	for (size_t i = 0; i < n; i++) {
		cf_typed_setting(&v[i], typed);
		printf(".It Cm %s\n", typed);
		cf_fill(CF_MAN, v[i].help, 0, 0);
		printf(".\n");
	}
	printf(".El\n");
}

/* The manual page, in the language of mdoc(7). */
static void cf_man(void)
{
	printf(".Dd January 1, 2026\n.Dt RPROXY 8\n.Os\n.Sh NAME\n.Nm rproxy\n"
		   ".Nd reverse proxy for the router at the edge of a small network\n"
		   ".Sh SYNOPSIS\n.Nm rproxy\n.Op Ar option ...\n.Sh DESCRIPTION\n.Nm\n"
		   "puts the web services of a small network behind one public address:\n"
		   "TLS ends here, and the host table says which service a request goes to.\n.Pp\n"
		   "Long options and the lines of a configuration file are one table:\n"
		   ".Fl \\-http Ar 80\nis\n.Ql http 80\nin a file.\n"
		   "Options are applied in the order given.\n"
		   "In a file\n.Ql #\nbegins a comment, values may be in double quotes, and\n"
		   ".Ql include GLOB\nreads more files.\n"
		   "Times take ms, s, m, h, d, sizes k, m, g.\n.Bl -tag -width Ds\n");
	for (size_t i = 0; i < CF_NOPTS; i++) {
		const struct cf_opt *o = &cf_opts[i];
		if (o->kind == CK_GROUP)
			continue;
		printf(".It ");
		if (o->letter)
			printf("Fl %c , ", o->letter);
		printf("Fl \\-%s%s%s\n", o->name,
			   o->kind == CK_HELP ? " Ns Op = Ns Ar "
			   : o->arg			  ? " Ar "
								  : "",
			   o->arg ? o->arg : "");
		cf_fill(CF_MAN, o->help, 0, 0);
		printf(".\n");
		if (o->def)
			printf(strchr(o->def, ' ') ? "The default is %s.\n" : "The default is\n.Ql %s .\n",
				   o->def);
	}
	printf(".El\n.Sh ROUTES\n.Ar RULE\nis\n.Ql HOST[/PATH]=TARGET[,TARGET...] [SETTING]... .\n"
		   "HOST is a name,\n.Ql *.NAME\n(any name below it) or\n.Ql *\n(any host).\n"
		   "The exact name wins, then the longest wildcard, then\n.Ql * .\n"
		   "PATH matches whole segments, the longest wins.\n"
		   "Targets:\n");
	cf_man_list(cf_targets, RP_LEN(cf_targets));
	printf("Settings:\n");
	cf_man_list(cf_settings, CS_COUNT);
	printf(
		".Sh SIGNALS\n.Bl -tag -width Ds\n"
		".It Dv SIGHUP\nread configuration, certificates and password files again, all or "
		"nothing.\n"
		".It Dv SIGTERM , SIGINT\nfinish what is under way and end; a second one ends at once.\n"
		".It Dv SIGUSR1\nopen the log again.\n"
		".It Dv SIGUSR2\nlog one line for each request under way.\n.El\n"
		".Sh EXIT STATUS\n0: asked to stop, and did.\n1: could not run.\n"
		"2: refused its options or configuration.\n"
		".Sh EXAMPLES\n.Dl rproxy --http 80 --route jellyfin.example.com=http://10.0.0.4:8096\n");
}

static void cf_readme(void)
{
	char typed[64];

	printf("| option | default | meaning |\n|---|---|---|\n");
	for (size_t i = 0; i < CF_NOPTS; i++) {
		const struct cf_opt *o = &cf_opts[i];
		if (o->kind == CK_GROUP)
			continue;
		cf_typed(o, typed);
		printf("| `");
		cf_fill(CF_TABLE, typed, 0, 0);
		printf(!o->def				 ? "` | %s| "
			   : strchr(o->def, ' ') ? "` | %s | "
									 : "` | `%s` | ",
			   o->def		 ? o->def
			   : cf_wants(o) ? "none "
							 : "");
		cf_fill(CF_TABLE, o->help, 0, 0);
		printf(" |\n");
	}
}

static void cf_reasons(void)
{
	static const struct {
		const char *word, *text;
		int status;
	} rows[] = {
#define X(NAME, word, status, text) {word, text, status},
		RP_REASONS(X)
#undef X
	};

	printf("| reason | status | when |\n|---|---|---|\n");
	for (size_t i = 0; i < RP_LEN(rows); i++) {
		if (rows[i].status)
			printf("| `%s` | %d | %s |\n", rows[i].word, rows[i].status, rows[i].text);
		else
			printf("| `%s` | - | %s |\n", rows[i].word, rows[i].text);
	}
}

/* Completes names of options, and values that are files, directories or words. */
static void cf_bash(void)
{
	printf("# bash completion for rproxy\n_rproxy()\n{\n"
		   "\tlocal cur=${COMP_WORDS[COMP_CWORD]}\n"
		   "\tcase ${COMP_WORDS[COMP_CWORD - 1]} in\n");
	for (size_t i = 0; i < CF_NOPTS; i++) {
		const struct cf_opt *o = &cf_opts[i];
		const char *arg = o->arg ? o->arg : "";
		bool file = strcmp(arg, "FILE") == 0 || strncmp(arg, "CHAIN", 5) == 0;
		if (!file && strcmp(arg, "DIR") != 0 && o->kind != CK_WORD)
			continue;
		printf(o->letter ? "\t-%c | " : "\t", o->letter);
		printf("--%s) COMPREPLY=($(compgen ", o->name);
		if (o->kind == CK_WORD) {
			printf("-W '");
			for (; *arg; arg++)
				putchar(*arg == '|' ? ' ' : *arg);
			putchar('\'');
		} else {
			printf(file ? "-f" : "-d");
		}
		printf(" -- \"$cur\")) ;;\n");
	}
	printf("\t*) COMPREPLY=($(compgen -W '");
	for (size_t i = 0; i < CF_NOPTS; i++)
		if (cf_opts[i].kind != CK_GROUP)
			printf("--%s ", cf_opts[i].name);
	printf("' -- \"$cur\")) ;;\n\tesac\n}\ncomplete -F _rproxy rproxy\n");
}

/* Prints what --help, --version or --dump-config ask for. 0, or -1 when it can't be written. */
static int cf_usage(const struct conf *cf)
{
	const char *word = cf->help ? cf->help : "";

	if (cf->action == CF_DUMP)
		for (size_t i = 0; i < CF_NOPTS; i++)
			cf_dump(cf, &cf_opts[i]);
	else if (cf->action == CF_VERSION)
		printf("rproxy %s\nBearSSL %s\nRP_DEBUG=%d RP_CRYPT=%d\n", RP_VERSION, RP_BEARSSL, RP_DEBUG,
			   RP_CRYPT);
	else if (strcmp(word, "man") == 0)
		cf_man();
	else if (strcmp(word, "readme") == 0)
		cf_readme();
	else if (strcmp(word, "reasons") == 0)
		cf_reasons();
	else if (strcmp(word, "bash") == 0)
		cf_bash();
	else
		cf_help();
	return fflush(stdout) == 0 && !ferror(stdout) ? 0 : -1;
}

/* ==[ CERT ]============================================= prefix: crt_ ==
 * Certificate chains with their keys, swapped as a whole set; and the trust anchors that https
 * targets are judged by. Names come from subjectAltName alone.
 * Owns: struct crt_set (counted), its pairs with their keys, struct crt_anchors (counted).
 * Fails: each fault of a file is one line that says which file, what, and what would fit.
 * Spec: RFC 7468 (PEM), X.690 (DER), RFC 5280 4.1 and 4.2.1.6, RFC 6125 6.4.3 (wildcards).
 * Door: crt_load crt_watch crt_hold crt_drop crt_pick crt_twin crt_covers crt_any crt_stale
 *       crt_warn_expiry crt_each crt_parse crt_match crt_first_name crt_wipe crt_anchors_load
 *       crt_anchors_hold crt_anchors_free
 */

#define CRT_CHAIN_MAX 8		 /* certificates of a chain; public ones have 2 to 4 */
#define CRT_FILE_MAX 1048576 /* bytes of a file; the bundle of all public roots has 220 KB */

/* What we read from a certificate; the slices lie in its DER. */
struct crt_x509 {
	struct sl issuer, subject, spki; /* whole elements */
	struct sl san;					 /* what is inside GeneralNames, empty without */
	int64_t not_before, not_after;	 /* unix seconds */
};

struct crt_pair {
	char *file; /* owns: of the chain */
	char *text; /* owns: what the file held; the chain was decoded in place */
	size_t ntext;
	br_x509_certificate chain[CRT_CHAIN_MAX];
	size_t nchain;
	struct crt_x509 ee;			 /* chain[0] */
	uint8_t id[32];				 /* SHA-256 of chain[0] */
	br_skey_decoder_context key; /* the key lies in it */
};

/* A file or directory, and how it was when it was read; all zero: it was not there. */
struct crt_watch {
	char *path; /* owns */
	struct sys_stamp stamp;
};

struct crt_set {
	unsigned holds;
	struct crt_pair **pair; /* owns, and each */
	size_t npair;
	struct crt_watch *watch; /* owns */
	size_t nwatch;
	const struct crt_set *was; /* borrows, while it is loaded: the one that it will replace */
};

struct crt_info {
	struct sl name; /* the first name; borrows from the set */
	int64_t not_after, not_before;
	const char *file; /* borrows from the set */
};

struct crt_anchors {
	unsigned holds;
	br_x509_trust_anchor *v; /* owns, and the memory of each, which begins at dn.data */
	size_t n;
};

/* Zeroes memory in a way that no compiler takes for useless. */
static void crt_wipe(void *p, size_t n)
{
	if (p)
		explicit_bzero(p, n);
}

static int crt_fault(const char *file, const char *what)
{
	log_event(LOG_ERR, "%s: %s", file, what);
	return -1;
}

/* ---- DER, as far as a certificate needs it ---- */

/* Takes the next element off *in: its tag, what is in it, and (when whole is not NULL) all of it.
 * Lengths must be definite and in their shortest form (X.690 10.1). */
static bool crt_element(struct sl *in, uint8_t *tag, struct sl *value, struct sl *whole)
{
	size_t head = 2, len = (uint8_t)sl_at(*in, 1);

	*tag = (uint8_t)sl_at(*in, 0);
	if (in->n < 2 || (*tag & 0x1f) == 0x1f)
		return false;
	if (len > 0x7f) {
		size_t more = len & 0x7f;
		if (more < 1 || more > 3 || in->n < 2 + more || !in->p[2])
			return false;
		for (len = 0; head < 2 + more; head++)
			len = len << 8 | (uint8_t)in->p[head];
		if (len < 0x80)
			return false;
	}
	if (len > in->n - head)
		return false;
	*value = sl_mk(in->p + head, len); /* past the header, within *in as just checked */
	if (whole)
		*whole = sl_mk(in->p, head + len);
	*in = sl_rest(*in, head + len);
	return true;
}

/* The same for an element that must have this tag. */
static bool crt_tagged(struct sl *in, uint8_t tag, struct sl *value, struct sl *whole)
{
	uint8_t found;

	return crt_element(in, &found, value, whole) && found == tag;
}

/* The next element, which may be left out. */
static bool crt_option(struct sl *in, uint8_t tag, struct sl *value)
{
	*value = sl_mk("", 0);
	return !in->n || (uint8_t)in->p[0] != tag || crt_tagged(in, tag, value, NULL);
}

/* RFC 5280 4.1.2.5: UTCTime YYMMDDHHMMSSZ (1950 to 2049) or GeneralizedTime YYYYMMDDHHMMSSZ. */
static bool crt_time(struct sl *in, int64_t *out)
{
	struct sl v;
	uint8_t tag;
	uint64_t part[6];

	if (!crt_element(in, &tag, &v, NULL) || (tag != 0x17 && tag != 0x18))
		return false;
	size_t at = tag == 0x17 ? 2 : 4;
	if (v.n != at + 11 || v.p[at + 10] != 'Z' || !sl_number(sl_mk(v.p, at), 9999, &part[0]))
		return false;
	for (size_t i = 1; i < 6; i++, at += 2)
		if (!sl_number(sl_mk(v.p + at, 2), 60, &part[i]))
			return false;
	if (part[1] < 1 || part[1] > 12 || part[2] < 1 || part[2] > 31 || part[3] > 23)
		return false;
	int64_t y = (int64_t)part[0] + (tag == 0x18 ? 0 : part[0] < 50 ? 2000 : 1900);
	int64_t m = (int64_t)part[1], d = (int64_t)part[2];
	if (m < 3) { /* count years from March, so that the leap day comes last */
		m += 12;
		y--;
	}
	int64_t days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m - 457) / 5 + d - 719469;
	*out = days * 86400 + (int64_t)(part[3] * 3600 + part[4] * 60 + part[5]);
	return true;
}

/* Finds subjectAltName (2.5.29.17) among the extensions; twice is a fault. */
static bool crt_find_san(struct sl list, struct sl *san)
{
	struct sl one, oid, critical, value;
	bool seen = false;

	*san = sl_mk("", 0);
	while (list.n) {
		if (!crt_tagged(&list, 0x30, &one, NULL) || !crt_tagged(&one, 0x06, &oid, NULL) ||
			!crt_option(&one, 0x01, &critical) || !crt_tagged(&one, 0x04, &value, NULL) || one.n)
			return false;
		if (!sl_eq(oid, sl_mk("\x55\x1d\x11", 3)))
			continue;
		if (seen || !crt_tagged(&value, 0x30, san, NULL) || value.n)
			return false;
		seen = true;
		for (struct sl left = *san; left.n;) {
			uint8_t tag;
			if (!crt_element(&left, &tag, &one, NULL))
				return false;
		}
	}
	return true;
}

/* Reads a certificate, RFC 5280 4.1. */
static bool crt_parse(struct sl der, struct crt_x509 *c)
{
	struct sl cert, tbs, times, v, list;

	if (!crt_tagged(&der, 0x30, &cert, NULL) || der.n || !crt_tagged(&cert, 0x30, &tbs, NULL) ||
		!crt_option(&tbs, 0xa0, &v) || !crt_tagged(&tbs, 0x02, &v, NULL) ||
		!crt_tagged(&tbs, 0x30, &v, NULL) || !crt_tagged(&tbs, 0x30, &v, &c->issuer) ||
		!crt_tagged(&tbs, 0x30, &times, NULL) || !crt_time(&times, &c->not_before) ||
		!crt_time(&times, &c->not_after) || times.n || !crt_tagged(&tbs, 0x30, &v, &c->subject) ||
		!crt_tagged(&tbs, 0x30, &v, &c->spki) || !crt_option(&tbs, 0x81, &v) ||
		!crt_option(&tbs, 0x82, &v) || !crt_option(&tbs, 0xa3, &v) || tbs.n)
		return false;
	c->san = sl_mk("", 0);
	return !v.n || (crt_tagged(&v, 0x30, &list, NULL) && !v.n && crt_find_san(list, &c->san));
}

/* How well a certificate's names fit a host (lower case or not): 2 exactly, 1 by a wildcard that
 * stands for its first label (RFC 6125 6.4.3), 0 not at all. An address wants an iPAddress. */
static int crt_match(struct sl san, struct sl host)
{
	struct sl name, parent = sl_rest(host, sl_find(host, '.'));
	uint8_t tag, ip[16];
	bool address = addr_parse_ip(host, ip);
	size_t skip = address && addr_is4(ip) ? 12 : 0;
	int best = 0;

	while (best < 2 && crt_element(&san, &tag, &name, NULL)) {
		if (tag == 0x87 && address && sl_eq(name, sl_mk((const char *)ip + skip, 16 - skip)))
			best = 2;
		if (tag != 0x82 || address)
			continue;
		if (sl_ieq(name, host))
			best = 2;
		else if (parent.n > 1 && parent.n < host.n && sl_at(name, 0) == '*' &&
				 sl_ieq(sl_rest(name, 1), parent))
			best = 1;
	}
	return best;
}

/* The first name that is fit for print; empty when there is none. */
static struct sl crt_first_name(struct sl san)
{
	struct sl name;
	uint8_t tag;
	char form[RP_NAME_MAX + 1];

	while (crt_element(&san, &tag, &name, NULL))
		if (tag == 0x82 && sl_host(sl_rest(name, sl_at(name, 0) == '*' ? 2 : 0), form))
			return name;
	return sl_mk("", 0);
}

/* Is there a name or an address that a client could ask for? */
static bool crt_named(struct sl san)
{
	struct sl name;
	uint8_t tag;

	while (crt_element(&san, &tag, &name, NULL))
		if (tag == 0x82 || tag == 0x87)
			return true;
	return false;
}

/* ---- PEM ---- */

struct crt_pem {
	struct sl label; /* "CERTIFICATE" */
	uint8_t *der;	 /* what was decoded */
	size_t nder;
	char *from; /* the whole block behind its first line, for wiping */
	size_t n;
	bool locked; /* it says that it is encrypted */
};

/* The next block of a text, decoded in place: 1, 0 there is none, -1 malformed. */
static int crt_pem(char *text, struct sl *rest, struct crt_pem *out)
{
	struct sl line;
	char *to = NULL; /* inside a block: where its next base64 digits go */
	size_t n = 0;

	while (sl_cut(rest, '\n', &line)) {
		if (line.n && line.p[line.n - 1] == '\r')
			line.n--;
		line = sl_trim(line);
		bool edge = line.n > 16 && memcmp(line.p + line.n - 5, "-----", 5) == 0;
		if (edge && memcmp(line.p, "-----BEGIN ", 11) == 0) {
			*out = (struct crt_pem){.label = sl_mk(line.p + 11, line.n - 16)};
			out->from = to = text + (line.p - text) + line.n; /* a place in text, to be written */
			n = 0;
		} else if (to && edge && memcmp(line.p, "-----END ", 9) == 0) {
			ptrdiff_t got = sl_base64(sl_mk(to, n), (uint8_t *)to, n);
			out->der = (uint8_t *)to;
			out->nder = got < 0 ? 0 : (size_t)got;
			out->n = (size_t)(line.p - out->from);
			return got < 0 || !sl_eq(sl_mk(line.p + 9, line.n - 14), out->label) ? -1 : 1;
		} else if (to && sl_find(line, ':') < line.n) { /* RFC 1421 4.6: a field, no base64 */
			out->locked |= line.n > 9 && memcmp(line.p + line.n - 9, "ENCRYPTED", 9) == 0;
		} else if (to) {
			memmove(to + n, line.p, line.n); /* what was decoded is never ahead of what is read */
			n += line.n;
		}
	}
	return to ? -1 : 0;
}

static bool crt_is_key(struct sl label)
{
	static const char tail[] = "PRIVATE KEY";
	size_t n = sizeof tail - 1;

	return label.n >= n && sl_is(sl_rest(label, label.n - n), tail);
}

static int crt_take_key(struct crt_pair *p, const struct crt_pem *pem, const char *file)
{
	if (pem->locked || sl_is(pem->label, "ENCRYPTED PRIVATE KEY"))
		return crt_fault(file, "the key is encrypted; it must be stored without a passphrase "
							   "(openssl pkey -in OLD -out NEW)");
	if (br_skey_decoder_key_type(&p->key))
		return crt_fault(file, "more than one private key; one is expected");
	br_skey_decoder_init(&p->key);
	br_skey_decoder_push(&p->key, pem->der, pem->nder);
	const br_ec_private_key *ec = br_skey_decoder_get_ec(&p->key);
	const br_rsa_private_key *rsa = br_skey_decoder_get_rsa(&p->key);
	bool fits = (ec && (ec->curve == BR_EC_secp256r1 || ec->curve == BR_EC_secp384r1)) ||
				(rsa && rsa->n_bitlen >= 2048 && rsa->n_bitlen <= 4096);
	return fits ? 0
				: crt_fault(file, "the private key is not of a supported kind: EC P-256 or "
								  "P-384, RSA 2048 to 4096, as PKCS#8, SEC1 or PKCS#1");
}

/* Takes the certificates (when chain is set) and the key out of a text. Keys are wiped from it. */
static int crt_take(struct crt_pair *p, const char *file, char *text, size_t n, bool chain)
{
	struct sl rest = sl_mk(text, n);
	struct crt_pem pem;
	int r = 0, found;

	while ((found = crt_pem(text, &rest, &pem)) != 0 && r == 0) {
		bool key = found > 0 && crt_is_key(pem.label);
		if (found < 0)
			r = crt_fault(file, "broken PEM: a block is cut off or holds what is not base64");
		else if (key)
			r = crt_take_key(p, &pem, file);
		else if (chain && sl_is(pem.label, "CERTIFICATE") && p->nchain == CRT_CHAIN_MAX)
			r = crt_fault(file, "more than 8 certificates; a server's chain is expected");
		else if (chain && sl_is(pem.label, "CERTIFICATE"))
			p->chain[p->nchain++] = (br_x509_certificate){pem.der, pem.nder};
		if (key)
			crt_wipe(pem.from, pem.n);
	}
	return r;
}

/* ---- pairs ---- */

static struct sl crt_der(const br_x509_certificate *c)
{
	return sl_mk((const char *)c->data, c->data_len);
}

/* Is n the product of the key's two primes? (BearSSL 0.6 computes no modulus of 4096 bits.) */
static bool crt_modulus(const br_rsa_private_key *sk, const uint8_t *n, size_t len)
{
	uint8_t product[512 + 2] = {0};
	size_t all = sk->plen + sk->qlen, zeros = 0;

	if (all > 512)
		return false;
	for (size_t i = sk->plen; i-- > 0;) {
		unsigned carry = 0;
		for (size_t k = sk->qlen; k-- > 0; carry >>= 8) {
			carry += product[i + k + 1] + (unsigned)sk->p[i] * sk->q[k];
			product[i + k + 1] = (uint8_t)carry;
		}
		product[i] = (uint8_t)carry;
	}
	while (zeros < all && !product[zeros])
		zeros++;
	for (; len && !*n; len--)
		n++;
	return len && len == all - zeros && memcmp(product + zeros, n, len) == 0;
}

/* Is the key the one in the certificate? Public keys are compared. */
static bool crt_fits(struct crt_pair *p)
{
	const br_rsa_private_key *rsa = br_skey_decoder_get_rsa(&p->key);
	const br_ec_private_key *ec = br_skey_decoder_get_ec(&p->key);
	br_x509_decoder_context dc;
	br_ec_public_key mine;
	uint8_t q[BR_EC_KBUF_PUB_MAX_SIZE];

	br_x509_decoder_init(&dc, NULL, NULL);
	br_x509_decoder_push(&dc, p->chain[0].data, p->chain[0].data_len);
	const br_x509_pkey *pk = br_x509_decoder_get_pkey(&dc);
	if (!pk || pk->key_type != br_skey_decoder_key_type(&p->key))
		return false;
	if (rsa)
		return crt_modulus(rsa, pk->key.rsa.n, pk->key.rsa.nlen);
	size_t n = br_ec_compute_pub(br_ec_get_default(), &mine, q, ec);
	return n && ec->curve == pk->key.ec.curve && n == pk->key.ec.qlen &&
		   memcmp(q, pk->key.ec.q, n) == 0;
}

static void crt_free_pair(struct crt_pair *p)
{
	if (!p)
		return;
	crt_wipe(p->text, p->ntext);
	free(p->text);
	free(p->file);
	crt_wipe(p, sizeof *p);
	free(p);
}

/* Chain, order, names, key: what must be so before a pair is shown to anybody. */
static int crt_check(struct crt_pair *p, const char *key_file)
{
	struct crt_x509 c = {.not_after = 0};
	struct sl issuer = c.issuer;
	br_sha256_context sha;

	for (size_t i = 0; i < p->nchain; i++) {
		if (!crt_parse(crt_der(&p->chain[i]), &c))
			return crt_fault(p->file, "a certificate is malformed; PEM of X.509 v3 is expected");
		if (i && !sl_eq(issuer, c.subject))
			return crt_fault(p->file, "the chain is out of order: the server's certificate comes "
									  "first, then the one that signed it, and so on");
		issuer = c.issuer;
		if (!i)
			p->ee = c;
	}
	if (!crt_named(p->ee.san))
		return crt_fault(p->file, "the certificate has no names; DNS names in subjectAltName are "
								  "expected");
	if (!crt_fits(p)) {
		log_event(LOG_ERR,
				  "%s: the key in %s is not the one of the certificate; the key that the "
				  "certificate was asked with is expected",
				  p->file, key_file);
		return -1;
	}
	br_sha256_init(&sha);
	br_sha256_update(&sha, p->chain[0].data, p->chain[0].data_len);
	br_sha256_out(&sha, p->id);
	return 0;
}

/* ---- sets ---- */

/* Makes room for one more in a list of n. */
static bool crt_more(void **list, size_t n, size_t size)
{
	void *p = realloc(*list, (n + 1) * size);

	if (p)
		*list = p;
	return p != NULL;
}

/* Remembers how a path is now. Returns whether something is there; on lack of memory it is looked
 * at less, no more. */
static bool crt_look(struct crt_set *set, const char *path)
{
	struct crt_watch w = {.path = strdup(path)};
	bool there = sys_stamp(path, &w.stamp) == 0;
	void *list = set->watch;

	if (!w.path || !crt_more(&list, set->nwatch, sizeof w)) {
		free(w.path);
		return there;
	}
	set->watch = list;
	set->watch[set->nwatch++] = w;
	return there;
}

/* Reads one file into a pair. 0, or -1 after it was logged. */
static int crt_read(struct crt_pair *p, const char *file, bool chain)
{
	size_t n;
	char *text = sys_slurp(file, CRT_FILE_MAX, &n);

	if (!text) {
		log_event(LOG_ERR, "%s: cannot be read: %s", file, strerror(errno));
		return -1;
	}
	int r = crt_take(p, file, text, n, chain);
	if (chain) {
		p->text = text;
		p->ntext = n;
		return r;
	}
	crt_wipe(text, n);
	free(text);
	return r;
}

/* Did the set that is to be replaced have something from a file, or from below a directory? Then
 * that it gives nothing now is a fault: it is being written, or was damaged. */
static bool crt_had(const struct crt_set *set, const char *path, bool below)
{
	size_t n = strlen(path);

	for (size_t i = 0; set->was && i < set->was->npair; i++) {
		const char *file = set->was->pair[i]->file;
		if (below ? strncmp(file, path, n) == 0 && file[n] == '/' : strcmp(file, path) == 0)
			return true;
	}
	return false;
}

/* Adds a chain with its key; key_file NULL: the key is in the chain's file. in_dir: what is no
 * chain is passed by, and one without a key is only warned of. 0, or -1 after it was logged. */
static int crt_add(struct crt_set *set, const char *file, const char *key_file, bool in_dir)
{
	struct crt_pair *p = calloc(1, sizeof *p);
	void *list = set->pair;
	int r = -1;

	if (!p || !(p->file = strdup(file)) || !crt_more(&list, set->npair, sizeof p)) {
		crt_free_pair(p);
		return crt_fault(file, "out of memory");
	}
	set->pair = list;
	bool skip = in_dir && !crt_had(set, file, false);
	if (crt_read(p, file, true) < 0)
		goto out;
	if (in_dir && br_skey_decoder_key_type(&p->key)) /* lego's NAME.pem stands beside NAME.key */
		key_file = NULL;
	if (key_file && crt_read(p, key_file, false) < 0)
		goto out;
	if (!p->nchain) {
		r = skip ? 0 : crt_fault(file, "no certificate in it; PEM is expected");
		goto out;
	}
	if (!key_file)
		key_file = file;
	if (!br_skey_decoder_key_type(&p->key)) {
		log_event(skip ? LOG_WARN : LOG_ERR, "%s%s: no private key in %s; %s",
				  skip ? "warning: " : "", file, key_file,
				  skip ? "skipped" : "as PEM it may stand there or in another file: CHAIN,KEY");
		r = skip ? 0 : -1;
		goto out;
	}
	r = crt_check(p, key_file);
	if (r == 0) {
		set->pair[set->npair++] = p;
		return 0;
	}
out:
	crt_free_pair(p);
	return r;
}

/* One --cert CHAIN[,KEY]; what is not there yet is warned of. */
static int crt_add_option(struct crt_set *set, const char *arg)
{
	size_t n = sl_find(sl_of(arg), ',');
	char *chain = strndup(arg, n);
	const char *key = arg[n] ? arg + n + 1 : NULL;

	if (!chain)
		return crt_fault(arg, "out of memory");
	const char *missing = crt_look(set, chain) ? NULL : chain;
	if (key && !crt_look(set, key) && !missing)
		missing = key;
	bool had = missing && crt_had(set, chain, false);
	if (missing)
		log_event(had ? LOG_ERR : LOG_WARN, "%s%s: not there; it is taken up when it appears",
				  had ? "" : "warning: ", missing);
	int r = had ? -1 : missing ? 0 : crt_add(set, chain, key, false);
	free(chain);
	return r;
}

/* Writes dir/name with `tail` in place of the last `cut` bytes of name. */
static const char *crt_path(char out[PATH_MAX], const char *dir, struct sl name, const char *tail)
{
	struct sb b = sb_of(out, PATH_MAX - 1);

	sb_str(&b, dir);
	sb_chr(&b, '/');
	sb_put(&b, name);
	sb_str(&b, tail);
	out[b.over ? 0 : b.n] = 0;
	return out;
}

/* Adds dir/name+tail when it is there, with dir/key+key_tail when that is there. 1 added, 0 not
 * there, -1 a fault. */
static int crt_try(struct crt_set *set, const char *dir, struct sl name, const char *tail,
				   struct sl key, const char *key_tail)
{
	char file[PATH_MAX], key_file[PATH_MAX];
	struct sys_stamp st;

	if (sys_stamp(crt_path(file, dir, name, tail), &st) < 0)
		return 0;
	(void)crt_look(set, file);
	bool has_key = crt_look(set, crt_path(key_file, dir, key, key_tail));
	return crt_add(set, file, has_key ? key_file : NULL, true) < 0 ? -1 : 1;
}

static bool crt_ends(struct sl *name, const char *tail)
{
	size_t n = strlen(tail);

	if (name->n <= n || !sl_is(sl_rest(*name, name->n - n), tail))
		return false;
	name->n -= n;
	return true;
}

static bool crt_there(const char *dir, struct sl name, const char *tail)
{
	char path[PATH_MAX];
	struct sys_stamp st;

	return sys_stamp(crt_path(path, dir, name, tail), &st) == 0;
}

/* A file of a --cert-dir: NAME.fullchain.crt before NAME.crt; issuers alone are no server's. */
static int crt_add_file(struct crt_set *set, const char *dir, struct sl name)
{
	struct sl stem = name;

	if (crt_ends(&stem, ".pem"))
		return crt_try(set, dir, stem, ".pem", stem, ".key");
	if (!crt_ends(&stem, ".crt"))
		return 0;
	struct sl host = stem;
	if (crt_ends(&host, ".fullchain"))
		return crt_try(set, dir, stem, ".crt", host, ".key");
	if (crt_ends(&host, ".issuer") || crt_ends(&host, ".chain") ||
		(crt_ends(&host, ".combined") &&
		 (crt_there(dir, host, ".crt") || crt_there(dir, host, ".fullchain.crt"))) ||
		crt_there(dir, stem, ".fullchain.crt"))
		return 0;
	return crt_try(set, dir, stem, ".crt", stem, ".key");
}

/* A directory as certbot, dehydrated or acme.sh keep one for each name. name: the directory's own; in
 * acme.sh the key is called after it. */
static int crt_add_named(struct crt_set *set, const char *dir, struct sl name)
{
	struct sl host = name, none = sl_of("");

	(void)crt_ends(&host, "_ecc");
	int r = crt_try(set, dir, none, "fullchain.pem", none, "privkey.pem");
	return r ? r : crt_try(set, dir, none, "fullchain.cer", host, ".key");
}

/* dir/name as one of these, or as uacme keeps it: its key in dir/private/name. */
static int crt_add_sub(struct crt_set *set, const char *dir, struct sl name)
{
	char path[PATH_MAX], key[PATH_MAX];

	(void)crt_look(set, crt_path(path, dir, name, ""));
	int r = crt_add_named(set, path, name);
	struct sl keys = sl_of(crt_path(key, "private", name, ""));
	return r || !crt_there(dir, keys, "/key.pem")
			   ? r
			   : crt_try(set, dir, name, "/cert.pem", keys, "/key.pem");
}

/* One --cert-dir, in the order of names. */
static int crt_add_dir(struct crt_set *set, const char *dir)
{
	struct dirent **list = NULL;
	int r = 0;

	(void)crt_look(set, dir); /* its time changes when a file comes or goes */
	int n = scandir(dir, &list, NULL, alphasort);
	if (n < 0) {
		bool late = errno == ENOENT && !crt_had(set, dir, true);
		log_event(late ? LOG_WARN : LOG_ERR, "%s%s: %s; a directory is expected",
				  late ? "warning: " : "", dir, strerror(errno));
		return late ? 0 : -1;
	}
	int whole = crt_add_named(set, dir, sl_of("")); /* certbot's live/NAME itself */
	r |= whole < 0 ? -1 : 0;
	for (int i = 0; i < n; i++) {
		struct sl name = sl_of(list[i]->d_name);
		if (name.p[0] != '.' && !whole) {
			bool sub = crt_there(dir, name, "/.");
			if ((sub ? crt_add_sub(set, dir, name) : crt_add_file(set, dir, name)) < 0)
				r = -1;
		}
		free(list[i]);
	}
	free(list);
	return r;
}

static struct crt_set *crt_hold(struct crt_set *set)
{
	set->holds++;
	return set;
}

/* Lets go of a set; with the last hold its keys are wiped. NULL is fine. */
static void crt_drop(struct crt_set *set)
{
	if (!set || --set->holds)
		return;
	for (size_t i = 0; i < set->npair; i++)
		crt_free_pair(set->pair[i]);
	for (size_t i = 0; i < set->nwatch; i++)
		free(set->watch[i].path);
	free(set->pair);
	free(set->watch);
	free(set);
}

/* Reads every --cert and --cert-dir into a new set with one hold. was: the set that it will replace,
 * or NULL. Returns 0; or -1 after each fault was logged: *out, which may be NULL, is then good for
 * crt_watch and crt_drop alone. What is not there yet is a warning; what was there is a fault. */
static int crt_load(const struct conf *cf, const struct crt_set *was, struct crt_set **out)
{
	struct crt_set *set = calloc(1, sizeof *set);
	int r = 0;

	*out = set;
	if (!set)
		return crt_fault("certificates", "out of memory");
	set->holds = 1;
	set->was = was;
	for (size_t i = 0; i < cf->cert.n; i++) {
		log_lead(cf->cert.from ? cf->cert.from[i] : NULL);
		if (crt_add_option(set, cf->cert.v[i]) < 0)
			r = -1;
	}
	for (size_t i = 0; i < cf->cert_dir.n; i++) {
		log_lead(cf->cert_dir.from ? cf->cert_dir.from[i] : NULL);
		if (crt_add_dir(set, cf->cert_dir.v[i]) < 0)
			r = -1;
	}
	log_lead(NULL);
	set->was = NULL;
	return r;
}

/* The files as they are now were judged, and found wanting: what `looked` saw of them is taken over,
 * so that the set is stale only when they change again and each fault is said once. */
static void crt_watch(struct crt_set *set, struct crt_set *looked)
{
	struct crt_set was = *set;

	set->watch = looked->watch;
	set->nwatch = looked->nwatch;
	looked->watch = was.watch;
	looked->nwatch = was.nwatch;
}

/* The first pair that fits a name best, exactly before by wildcard; NULL when none does. */
static const struct crt_pair *crt_pick(const struct crt_set *set, struct sl name)
{
	const struct crt_pair *found = NULL;
	int best = 0;

	for (size_t i = 0; i < set->npair && best < 2; i++) {
		int fit = crt_match(set->pair[i]->ee.san, name);
		if (fit > best) {
			best = fit;
			found = set->pair[i];
		}
	}
	return found;
}

/* The first pair with another kind of key that fits the name as well as `pair` does, or NULL. */
static const struct crt_pair *crt_twin(const struct crt_set *set, const struct crt_pair *pair,
									   struct sl name)
{
	int fit = crt_match(pair->ee.san, name);

	for (size_t i = 0; fit && i < set->npair; i++)
		if (br_skey_decoder_key_type(&set->pair[i]->key) != br_skey_decoder_key_type(&pair->key) &&
			crt_match(set->pair[i]->ee.san, name) == fit)
			return set->pair[i];
	return NULL;
}

/* Does the certificate of this pair cover a host? */
static bool crt_covers(const struct crt_set *set, const struct crt_pair *pair, struct sl host)
{
	(void)set;
	return crt_match(pair->ee.san, host) != 0;
}

/* Does any certificate cover a host? */
static bool crt_any(const struct crt_set *set, struct sl host)
{
	return crt_pick(set, host) != NULL;
}

/* Did a file that was read, or that was missed, change, appear or vanish; did a directory? */
static bool crt_stale(const struct crt_set *set)
{
	for (size_t i = 0; i < set->nwatch; i++) {
		const struct sys_stamp *was = &set->watch[i].stamp;
		struct sys_stamp is;
		(void)sys_stamp(set->watch[i].path, &is);
		if (is.size != was->size || is.ms != was->ms || is.ino != was->ino)
			return true;
	}
	return false;
}

/* The certificate at index i; false behind the last. */
static bool crt_each(const struct crt_set *set, size_t i, struct crt_info *out)
{
	if (i >= set->npair)
		return false;
	const struct crt_x509 *ee = &set->pair[i]->ee;
	struct sl name = crt_first_name(ee->san);
	const char *file = set->pair[i]->file;
	*out = (struct crt_info){name.n ? name : sl_of(file), ee->not_after, ee->not_before, file};
	return true;
}

/* Warns of each certificate that is expired, not valid yet, or has less than a quarter of its life
 * left. now: unix seconds; a clock without a battery says nothing. */
static void crt_warn_expiry(const struct crt_set *set, int64_t now)
{
	struct crt_info c;

	for (size_t i = 0; now >= RP_CLOCK_SANE && crt_each(set, i, &c); i++) {
		int64_t left = c.not_after - now, life = c.not_after - c.not_before;
		const char *file = set->pair[i]->file;
		if (now < c.not_before)
			log_event(LOG_WARN, "warning: %s: the certificate for %.*s is not valid yet", file,
					  (int)c.name.n, c.name.p);
		else if (left < 0)
			log_event(LOG_WARN, "warning: %s: the certificate for %.*s expired %lld hours ago",
					  file, (int)c.name.n, c.name.p, (long long)(-left / 3600));
		else if (left < life / 4)
			log_event(LOG_WARN, "warning: %s: the certificate for %.*s expires in %lld hours", file,
					  (int)c.name.n, c.name.p, (long long)(left / 3600));
	}
}

/* ---- trust anchors ---- */

static struct crt_anchors *crt_anchors_hold(struct crt_anchors *a)
{
	a->holds++;
	return a;
}

static void crt_anchors_free(struct crt_anchors *a)
{
	if (!a || --a->holds)
		return;
	for (size_t i = 0; i < a->n; i++)
		free(a->v[i].dn.data);
	free(a->v);
	free(a);
}

/* Copies bytes behind what was copied before. */
static unsigned char *crt_copy(unsigned char **at, const void *p, size_t n)
{
	unsigned char *to = *at;

	memcpy(to, p, n);
	*at += n;
	return to;
}

/* Takes one certificate up as an anchor, with its name and key in one piece of memory. A key that
 * BearSSL doesn't know is passed by: 0. -1: out of memory. */
static int crt_anchor(struct crt_anchors *a, struct sl der)
{
	br_x509_decoder_context dc;
	struct crt_x509 c;
	void *list = a->v;

	br_x509_decoder_init(&dc, NULL, NULL);
	br_x509_decoder_push(&dc, der.p, der.n);
	const br_x509_pkey *pk = br_x509_decoder_get_pkey(&dc);
	if (!pk || !crt_parse(der, &c))
		return 0;
	bool rsa = pk->key_type == BR_KEYTYPE_RSA;
	size_t n = rsa ? pk->key.rsa.nlen + pk->key.rsa.elen : pk->key.ec.qlen;
	unsigned char *at = malloc(c.subject.n + n);
	if (!at || !crt_more(&list, a->n, sizeof *a->v)) {
		free(at);
		return -1;
	}
	a->v = list;
	br_x509_trust_anchor *ta = &a->v[a->n++];
	*ta = (br_x509_trust_anchor){.flags = br_x509_decoder_isCA(&dc) ? BR_X509_TA_CA : 0};
	ta->pkey = *pk;
	ta->dn.data = crt_copy(&at, c.subject.p, c.subject.n);
	ta->dn.len = c.subject.n;
	if (rsa) {
		ta->pkey.key.rsa.n = crt_copy(&at, pk->key.rsa.n, pk->key.rsa.nlen);
		ta->pkey.key.rsa.e = crt_copy(&at, pk->key.rsa.e, pk->key.rsa.elen);
	} else {
		ta->pkey.key.ec.q = crt_copy(&at, pk->key.ec.q, pk->key.ec.qlen);
	}
	return 0;
}

/* Reads the certificates of a PEM file, CAs or single servers, as anchors with one hold. NULL: the
 * system's bundle, which takes about 100 KB. Returns NULL after it was logged. */
static struct crt_anchors *crt_anchors_load(const char *file)
{
	static const char *const bundle[] = {"/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem",
										 "/etc/pki/tls/certs/ca-bundle.crt",
										 "/etc/ssl/ca-bundle.pem"};
	struct crt_anchors *a = calloc(1, sizeof *a);
	char *text = NULL;
	size_t n = 0;

	for (size_t i = 0; !text && (file ? i < 1 : i < RP_LEN(bundle)); i++)
		text = sys_slurp(file ? file : bundle[i], CRT_FILE_MAX, &n);
	if (a)
		a->holds = 1;
	if (a && text) {
		struct sl rest = sl_mk(text, n);
		struct crt_pem pem;
		int r = 0, found;
		while (r == 0 && (found = crt_pem(text, &rest, &pem)) != 0)
			if (found > 0 && sl_is(pem.label, "CERTIFICATE"))
				r = crt_anchor(a, sl_mk((const char *)pem.der, pem.nder));
		if (r == 0 && a->n) {
			free(text);
			return a;
		}
	}
	(void)crt_fault(file ? file : bundle[0], text ? "no usable certificate in it; PEM is expected"
												  : "cannot be read; a PEM file of the "
													"certificates to trust is expected");
	free(text);
	crt_anchors_free(a);
	return NULL;
}

/* ==[ TLS ]============================================== prefix: tls_ ==
 * BearSSL engines and the pump that moves bytes between a socket, an engine and buffers without
 * ever waiting. Also the look into a ClientHello before anything is decided.
 * An engine has its 33 KB of record buffers only while something is in them: they are lent by
 * tls_lend and taken back by tls_rest.
 * Owns: struct tls_room: engines, record buffers, the session cache; all made at start.
 * Holds: the certificate set of a connection until it is closed, anchors until it is open.
 * Fails: IO_ERR, and tls_error says why.
 * Spec: RFC 5246, 5288, 7905, 8422 (suites, curves), 6066 3 (SNI), 7301 (ALPN), 5746 (no
 *       renegotiation).
 * Door: tls_open_room tls_close_room tls_room_bytes tls_accept tls_dial tls_feed tls_pump tls_wants
 *       tls_is_open tls_pending tls_unsent tls_clean_eof tls_deaf tls_lent tls_bye tls_close tls_error
 *       tls_version_name tls_cipher_name tls_set tls_pair tls_alert tls_hello
 */

#define TLS_TURN 65536		/* bytes each way in one call of the pump */
#define TLS_SMALL 4096		/* bytes of a record at first: three segments */
#define TLS_SMALL_FOR 65536 /* bytes that go out in small records */
#define TLS_QUIET_MS 1000	/* after such a silence records are small again */
#define TLS_SESSION_S 86400 /* a session's life, RFC 5246 F.1.4 */
/* Behind the two record buffers of a connection: what judges a server during the handshake. */
#define TLS_JUDGE ((size_t)(RP_TLS_IN + RP_TLS_OUT + 15) / 16 * 16)

enum { TLS_RX = 1, TLS_TX = 2, TLS_PK = 4, TLS_DEFERRED = 8 };

enum { TLS_PROTOCOL_VERSION = 70, TLS_UNRECOGNIZED_NAME = 112 }; /* alerts, RFC 5246 7.2 */

/* One remembered session. All zero: none. */
struct tls_session {
	uint8_t id[32], secret[48];
	uint8_t bind[32]; /* what name and certificate it was made for: tls_bind */
	uint16_t suite;
	uint32_t born; /* s, on the clock of sys_now */
	uint32_t next; /* in its bucket: index + 1, 0 ends */
};

struct tls;

/* What BearSSL calls back with: its table of functions first, then what is ours. */
struct tls_policy {
	const br_ssl_server_policy_class *vtable;
	struct tls *x;
};

struct tls_cache {
	const br_ssl_session_cache_class *vtable;
	struct tls *x;
};

struct tls {
	struct tls_room *room;		/* borrows */
	struct tls *next;			/* while it is free */
	br_ssl_engine_context *eng; /* the one in u */
	bool server;
	bool open;	   /* the handshake is done */
	bool resumed;  /* it is a session from the cache */
	bool used_key; /* the private key was used since the pump last looked */
	bool bye;	   /* we said that no more comes */
	bool eof;	   /* the peer's TCP did */
	bool deaf;	   /* the peer's TCP takes no more; what it sent before may still be read */
	bool broken;   /* the socket failed */
	uint8_t alert; /* to be sent instead of anything else; 0: none */
	const char *why;
	struct crt_set *set;		 /* holds; server only */
	const struct crt_pair *pair; /* the certificate shown; borrows from the set */
	const struct crt_pair *twin; /* the one with the other kind of key, or NULL */
	struct crt_anchors *anchors; /* holds; client only, until it is open */
	uint8_t name[32];			 /* SHA-256 of the name asked for, for the session cache */
	uint16_t ahead, nahead; /* ciphertext read but not taken by the engine: where in ibuf, bytes */
	uint32_t burst;			/* plaintext taken since the last silence, at most TLS_SMALL_FOR */
	uint64_t last_ms;		/* when plaintext was last taken */
	struct tls_policy policy;
	struct tls_cache cache;
	union {
		br_ssl_server_context s;
		br_ssl_client_context c;
	} u;
};

/* How a server's certificate is judged; lies in the record buffer while the handshake lasts. */
struct tls_judge {
	const br_x509_class *vtable;
	struct tls *x;
	enum rt_verify verify;
	bool dates;
	bool misnamed; /* the certificate is for another host */
	unsigned err;  /* the first fault that we see, not BearSSL; 0 none */
	unsigned ncert;
	size_t nee; /* bytes of the server's certificate */
	uint8_t pin[32];
	char host[RP_NAME_MAX + 1];
	const br_x509_pkey *key; /* borrows from u.decoder */
	union {
		br_x509_minimal_context minimal; /* verify=ca */
		br_x509_decoder_context decoder; /* else: the public key alone is wanted */
	} u;
};

struct tls_room {
	struct tls *mem; /* owns: servers first, then clients */
	struct tls *free[2];
	uint32_t max[2], fresh[2]; /* servers, clients: how many, how many were ever used */
	struct buf_pool io;
	struct tls_session *session; /* owns: a ring, the oldest is overwritten */
	uint32_t *bucket;			 /* owns: by the first bytes of the id: index + 1 */
	uint32_t nsession, oldest;
	uint16_t suite[6];
	const char *alpn[1];
	br_ec_impl ec; /* for key exchange: X25519 and P-256 alone */
};

/* ---- the session cache ---- */

static uint32_t *tls_bucket(struct tls_room *room, const uint8_t id[32])
{
	uint32_t h;

	memcpy(&h, id, sizeof h); /* ids are random */
	return &room->bucket[h % room->nsession];
}

/* A session belongs to one name and one certificate, not to the set it was loaded with. */
static void tls_bind(const struct tls *x, const struct crt_pair *pair, uint8_t out[32])
{
	br_sha256_context sha;

	br_sha256_init(&sha);
	br_sha256_update(&sha, x->name, sizeof x->name);
	br_sha256_update(&sha, pair->id, sizeof pair->id);
	br_sha256_out(&sha, out);
}

static void tls_cache_save(const br_ssl_session_cache_class **ctx, br_ssl_server_context *cc,
						   const br_ssl_session_parameters *s)
{
	const struct tls *x = ((struct tls_cache *)(void *)ctx)->x;
	struct tls_room *room = x->room;
	uint32_t i = room->oldest;
	struct tls_session *e = &room->session[i];

	(void)cc;
	room->oldest = (i + 1) % room->nsession;
	if (e->suite) { /* out of the bucket that it is in */
		uint32_t *at = tls_bucket(room, e->id);
		while (*at != i + 1)
			at = &room->session[*at - 1].next;
		*at = e->next;
	}
	uint32_t *head = tls_bucket(room, s->session_id);
	memcpy(e->id, s->session_id, sizeof e->id);
	memcpy(e->secret, s->master_secret, sizeof e->secret);
	tls_bind(x, x->pair, e->bind);
	e->suite = s->cipher_suite;
	e->born = (uint32_t)(sys_now() / 1000);
	e->next = *head;
	*head = i + 1;
}

static int tls_cache_load(const br_ssl_session_cache_class **ctx, br_ssl_server_context *cc,
						  br_ssl_session_parameters *s)
{
	struct tls *x = ((struct tls_cache *)(void *)ctx)->x;
	const struct crt_pair *pair[2] = {x->pair, x->twin};
	uint8_t bind[32];

	(void)cc;
	for (uint32_t i = *tls_bucket(x->room, s->session_id); i; i = x->room->session[i - 1].next) {
		const struct tls_session *e = &x->room->session[i - 1];
		if (memcmp(e->id, s->session_id, sizeof e->id) != 0)
			continue;
		if ((uint32_t)(sys_now() / 1000) - e->born >= TLS_SESSION_S)
			return 0;
		for (size_t k = 0; k < 2 && pair[k]; k++) {
			tls_bind(x, pair[k], bind);
			if (memcmp(bind, e->bind, sizeof bind) != 0)
				continue;
			s->version = BR_TLS12;
			s->cipher_suite = e->suite;
			memcpy(s->master_secret, e->secret, sizeof e->secret);
			x->pair = pair[k];
			x->twin = pair[1 - k];
			x->resumed = true;
			return 1;
		}
	}
	return 0;
}

static const br_ssl_session_cache_class tls_cache_class = {sizeof(struct tls_cache), tls_cache_save,
														   tls_cache_load};

/* ---- which certificate, which signature ---- */

/* The hash to sign with, of those that the client offers for this kind of key (bits by BearSSL's
 * numbers); 0: the certificate is not for this client. */
static unsigned tls_hash(const br_ssl_server_context *cc, const struct crt_pair *p)
{
	static const uint8_t order[] = {br_sha384_ID, br_sha256_ID, br_sha384_ID, br_sha512_ID};
	const br_ec_private_key *ec = br_skey_decoder_get_ec(&p->key);
	uint32_t offered = br_ssl_server_get_client_hashes(cc);

	/* RFC 8422 5.1: a certificate's curve must be offered. (P-384 we can't see: room->ec.) */
	if (ec && ec->curve == BR_EC_secp256r1 &&
		!(br_ssl_server_get_client_curves(cc) >> BR_EC_secp256r1 & 1))
		return 0;
	offered = ec ? offered >> 8 & 0xff : offered & 0xff;
	for (size_t i = ec && ec->curve == BR_EC_secp384r1 ? 0 : 1; i < RP_LEN(order); i++)
		if (offered >> order[i] & 1)
			return order[i];
	return 0;
}

/* RFC 5246 7.4.2, 7.4.3: the first common suite (they come in our order) whose kind of key we have,
 * with a hash that the client offers for it. */
static int tls_choose(const br_ssl_server_policy_class **ctx, const br_ssl_server_context *cc,
					  br_ssl_server_choices *choices)
{
	struct tls *x = ((struct tls_policy *)(void *)ctx)->x;
	const struct crt_pair *pair[2] = {x->pair, x->twin};
	size_t n;
	const br_suite_translated *st = br_ssl_server_get_client_suites(cc, &n);

	x->resumed = false; /* a remembered session may have been refused for its suite */
	crt_wipe(x->eng->session.master_secret, sizeof x->eng->session.master_secret);
	for (size_t i = 0; i < n; i++) {
		bool ec = st[i][1] >> 12 == BR_SSLKEYX_ECDHE_ECDSA;
		for (size_t k = 0; k < 2 && pair[k]; k++) {
			const struct crt_pair *p = pair[k];
			if (ec != (br_skey_decoder_key_type(&p->key) == BR_KEYTYPE_EC))
				continue;
			unsigned hash = tls_hash(cc, p);
			if (!hash)
				continue;
			choices->cipher_suite = st[i][0];
			choices->algo_id = 0xff00 + hash;
			choices->chain = p->chain;
			choices->chain_len = p->nchain;
			x->pair = p;
			x->twin = pair[1 - k];
			return 1;
		}
	}
	return 0;
}

/* RSA key exchange is not offered. */
static uint32_t tls_keyx(const br_ssl_server_policy_class **ctx, unsigned char *data, size_t *len)
{
	(void)ctx;
	(void)data;
	(void)len;
	return 0;
}

static size_t tls_sign(const br_ssl_server_policy_class **ctx, unsigned algo, unsigned char *data,
					   size_t nhash, size_t cap)
{
	static const unsigned char oid[][10] = {
		[br_sha256_ID - 4] = {9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1},
		[br_sha384_ID - 4] = {9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2},
		[br_sha512_ID - 4] = {9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3}};
	struct tls *x = ((struct tls_policy *)(void *)ctx)->x;
	const br_rsa_private_key *rsa = br_skey_decoder_get_rsa(&x->pair->key);
	unsigned char hash[64];
	unsigned id = (algo & 0xff) - 4;

	x->used_key = true;
	if (id >= RP_LEN(oid) || nhash > sizeof hash || cap < 512)
		return 0;
	memcpy(hash, data, nhash);
	if (rsa)
		return br_rsa_pkcs1_sign_get_default()(oid[id], hash, nhash, rsa, data)
				   ? (rsa->n_bitlen + 7) / 8
				   : 0;
	return br_ecdsa_sign_asn1_get_default()(br_ec_get_default(),
											br_multihash_getimpl(&x->eng->mhash, (int)id + 4), hash,
											br_skey_decoder_get_ec(&x->pair->key), data);
}

static const br_ssl_server_policy_class tls_policy_class = {sizeof(struct tls_policy), tls_choose,
															tls_keyx, tls_sign};

/* ---- judging a server ---- */

/* The server's own certificate is gathered in the output half of the record buffer: between its
 * hello and the server's last word (ServerHelloDone) a client writes nothing, and a server that
 * answers before our hello is out is refused. */
static struct sl tls_judged(const struct tls_judge *j)
{
	return sl_mk((const char *)j->x->eng->obuf, j->nee);
}

static void tls_judge_chain(const br_x509_class **ctx, const char *name)
{
	struct tls_judge *j = (void *)ctx;
	size_t len;

	(void)name; /* the names are looked at here, addresses too */
	if (br_ssl_engine_sendrec_buf(j->x->eng, &len))
		j->err = BR_ERR_UNEXPECTED;
	if (j->verify == RT_VERIFY_CA)
		j->u.minimal.vtable->start_chain(&j->u.minimal.vtable, NULL);
}

static void tls_judge_cert(const br_x509_class **ctx, uint32_t len)
{
	struct tls_judge *j = (void *)ctx;

	if (!j->ncert && (!len || len > j->x->eng->obuf_len))
		j->err = BR_ERR_X509_LIMIT_EXCEEDED;
	else if (j->ncert && j->verify == RT_VERIFY_CA)
		j->u.minimal.vtable->start_cert(&j->u.minimal.vtable, len);
}

static void tls_judge_bytes(const br_x509_class **ctx, const unsigned char *p, size_t n)
{
	struct tls_judge *j = (void *)ctx;

	if (j->err)
		return;
	if (j->ncert) {
		if (j->verify == RT_VERIFY_CA)
			j->u.minimal.vtable->append(&j->u.minimal.vtable, p, n);
	} else if (n > j->x->eng->obuf_len - j->nee) {
		j->err = BR_ERR_X509_LIMIT_EXCEEDED;
	} else {
		memcpy(j->x->eng->obuf + j->nee, p, n);
		j->nee += n;
	}
}

/* The whole certificate of the server is there. */
static void tls_judge_server(struct tls_judge *j)
{
	struct sl der = tls_judged(j);
	struct crt_x509 c;
	uint8_t pin[32];
	br_sha256_context sha;

	if (!crt_parse(der, &c)) {
		j->err = BR_ERR_X509_INVALID_VALUE;
		return;
	}
	if (j->verify == RT_VERIFY_CA) {
		br_x509_minimal_context *m = &j->u.minimal;
		if (!j->dates) /* the moment it was made: then its chain was valid, too */
			br_x509_minimal_set_time(m, (uint32_t)(c.not_before / 86400 + 719528),
									 (uint32_t)(c.not_before % 86400));
		m->vtable->start_cert(&m->vtable, (uint32_t)der.n);
		m->vtable->append(&m->vtable, (const unsigned char *)der.p, der.n);
		m->vtable->end_cert(&m->vtable);
		j->misnamed = !crt_match(c.san, sl_of(j->host));
		return;
	}
	br_x509_decoder_init(&j->u.decoder, NULL, NULL);
	br_x509_decoder_push(&j->u.decoder, der.p, der.n);
	br_sha256_init(&sha);
	br_sha256_update(&sha, c.spki.p, c.spki.n);
	br_sha256_out(&sha, pin);
	j->key = br_x509_decoder_get_pkey(&j->u.decoder);
	if (!j->key)
		j->err = BR_ERR_X509_UNSUPPORTED;
	else if (j->verify == RT_VERIFY_PIN && memcmp(pin, j->pin, sizeof pin) != 0) {
		j->err = BR_ERR_X509_NOT_TRUSTED;
		j->x->why = "the server's public key is not the pinned one";
	}
}

static void tls_judge_cert_end(const br_x509_class **ctx)
{
	struct tls_judge *j = (void *)ctx;

	if (j->err)
		return;
	if (!j->ncert)
		tls_judge_server(j);
	else if (j->verify == RT_VERIFY_CA)
		j->u.minimal.vtable->end_cert(&j->u.minimal.vtable);
	j->ncert++;
}

static unsigned tls_judge_end(const br_x509_class **ctx)
{
	struct tls_judge *j = (void *)ctx;

	if (!j->ncert && !j->err)
		j->err = BR_ERR_X509_EMPTY_CHAIN;
	if (!j->err && j->verify == RT_VERIFY_CA)
		j->err = j->u.minimal.vtable->end_chain(&j->u.minimal.vtable);
	if (!j->err && j->misnamed)
		j->err = BR_ERR_X509_BAD_SERVER_NAME;
	return j->err;
}

static const br_x509_pkey *tls_judge_key(const br_x509_class *const *ctx, unsigned *usages)
{
	const struct tls_judge *j = (const void *)ctx;

	if (j->verify == RT_VERIFY_CA)
		return j->u.minimal.vtable->get_pkey(&j->u.minimal.vtable, usages);
	if (usages)
		*usages = BR_KEYTYPE_KEYX | BR_KEYTYPE_SIGN;
	return j->key;
}

static const br_x509_class tls_judge_class = {
	sizeof(struct tls_judge), tls_judge_chain, tls_judge_cert, tls_judge_bytes,
	tls_judge_cert_end,		  tls_judge_end,   tls_judge_key};

/* ---- the room ---- */

/* The bytes of address space that a room takes; they cost nothing until they are used. */
static uint64_t tls_room_bytes(uint32_t max_server, uint32_t max_client, uint32_t session_cache)
{
	uint32_t n = max_server + max_client;

	return sizeof(struct tls_room) + (uint64_t)n * sizeof(struct tls) +
		   buf_pool_bytes(n, (uint32_t)(TLS_JUDGE + sizeof(struct tls_judge))) +
		   (uint64_t)session_cache * (sizeof(struct tls_session) + sizeof(uint32_t));
}

static void tls_close_room(struct tls_room *room)
{
	if (!room)
		return;
	size_t n = (size_t)room->max[0] + room->max[1], s = room->nsession;
	crt_wipe(room->session, s * sizeof *room->session);
	sys_unmem(room->session, s * sizeof *room->session);
	sys_unmem(room->bucket, s * sizeof *room->bucket);
	sys_unmem(room->mem, n * sizeof *room->mem);
	buf_pool_close(&room->io);
	sys_unmem(room, sizeof *room);
}

/* Makes room for so many connections of either kind and sessions. 0, or -1 without memory. */
static int tls_open_room(struct tls_room **out, uint32_t max_server, uint32_t max_client,
						 uint32_t session_cache)
{
	static const uint16_t order[] = {BR_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
									 BR_TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
									 BR_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
									 BR_TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
									 BR_TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
									 BR_TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384};
	/* ChaCha20 is several times faster, unless the processor has AES: there it comes last. */
	bool aes = br_aes_x86ni_ctr_get_vtable() || br_aes_pwr8_ctr_get_vtable();
	struct tls_room *room = sys_mem(sizeof *room);
	size_t n = (size_t)max_server + max_client;
	uint32_t piece = (uint32_t)(TLS_JUDGE + sizeof(struct tls_judge));

	*out = NULL;
	if (!room)
		return -1;
	room->max[0] = max_server;
	room->max[1] = max_client;
	room->nsession = session_cache;
	for (size_t i = 0; i < RP_LEN(order); i++)
		room->suite[i] = order[aes ? (i + 2) % RP_LEN(order) : i];
	room->alpn[0] = "http/1.1";
	room->ec = *br_ec_get_default();
	room->ec.supported_curves &= 1u << BR_EC_curve25519 | 1u << BR_EC_secp256r1;
	room->mem = sys_mem(n * sizeof *room->mem);
	room->session = sys_mem(session_cache * sizeof *room->session);
	room->bucket = sys_mem(session_cache * sizeof *room->bucket);
	if (!room->mem || !room->session || !room->bucket ||
		buf_pool_open(&room->io, (uint32_t)n, piece) < 0) {
		tls_close_room(room);
		return -1;
	}
	*out = room;
	return 0;
}

/* ---- lending ---- */

/* Does it have record buffers now? */
static bool tls_lent(const struct tls *x)
{
	return x->eng->ibuf != NULL;
}

/* Gives the engine its record buffers. There are as many as connections: it can't fail. What lay
 * in them was nothing, and BearSSL counts in offsets. */
static void tls_lend(struct tls *x)
{
	if (tls_lent(x))
		return;
	uint8_t *p = buf_claim(&x->room->io);
	assert(p);
	x->eng->ibuf = p;
	x->eng->obuf = p + RP_TLS_IN; /* the second part of the same piece */
}

static void tls_unlend(struct tls *x)
{
	if (tls_lent(x))
		buf_waive(&x->room->io, x->eng->ibuf);
	x->eng->ibuf = x->eng->obuf = NULL;
}

/* Is plaintext readable now? */
static bool tls_readable(const struct tls *x)
{
	size_t len;

	return tls_lent(x) && br_ssl_engine_recvapp_buf(x->eng, &len);
}

/* Is there something that the pump could work on without the socket: plaintext, or ciphertext that
 * was read ahead or fed? */
static bool tls_pending(const struct tls *x)
{
	return x->nahead || tls_readable(x);
}

/* What came before the socket failed is still worked on. */
static bool tls_dead(const struct tls *x)
{
	return (x->broken && !tls_pending(x)) || br_ssl_engine_current_state(x->eng) == BR_SSL_CLOSED;
}

/* Takes the record buffers back when nothing is in them: no part of a record came (the engine
 * waits for all 5 bytes of a header), no plaintext waits, nothing is gathered or being sent. */
static void tls_rest(struct tls *x)
{
	const br_ssl_engine_context *e = x->eng;

	if ((x->open && !x->nahead && !e->ixa && !e->ixb && e->ixc == 5 && e->oxa == e->oxc) ||
		tls_dead(x))
		tls_unlend(x);
}

/* ---- opening and closing ---- */

static struct tls *tls_take_free(struct tls_room *room, bool client)
{
	struct tls *x = room->free[client];

	if (x)
		room->free[client] = x->next;
	else if (room->fresh[client] < room->max[client])
		x = &room->mem[(client ? room->max[0] : 0) + room->fresh[client]++];
	else
		return NULL;
	*x = (struct tls){.room = room, .server = !client};
	x->eng = client ? &x->u.c.eng : &x->u.s.eng;
	return x;
}

/* What both sides have in common. */
static void tls_setup(struct tls *x)
{
	br_ssl_engine_context *e = x->eng;
	uint8_t seed[32];

	br_ssl_engine_set_versions(e, BR_TLS12, BR_TLS12);
	br_ssl_engine_set_suites(e, x->room->suite, RP_LEN(x->room->suite));
	br_ssl_engine_set_hash(e, br_sha256_ID, &br_sha256_vtable);
	br_ssl_engine_set_hash(e, br_sha384_ID, &br_sha384_vtable);
	br_ssl_engine_set_hash(e, br_sha512_ID, &br_sha512_vtable);
	br_ssl_engine_set_prf_sha256(e, &br_tls12_sha256_prf);
	br_ssl_engine_set_prf_sha384(e, &br_tls12_sha384_prf);
	br_ssl_engine_set_default_aes_gcm(e);
	br_ssl_engine_set_default_chapol(e);
	br_ssl_engine_set_all_flags(e, BR_OPT_NO_RENEGOTIATION | BR_OPT_ENFORCE_SERVER_PREFERENCES |
									   BR_OPT_FAIL_ON_ALPN_MISMATCH);
	br_ssl_engine_set_protocol_names(e, x->room->alpn, RP_LEN(x->room->alpn));
	tls_lend(x);
	br_ssl_engine_set_buffers_bidi(e, e->ibuf, RP_TLS_IN, e->obuf, RP_TLS_OUT);
	sys_random(seed, sizeof seed);
	br_ssl_engine_inject_entropy(e, seed, sizeof seed);
	e->rng_os_rand_done = 1; /* that was it: no /dev/urandom in a jail */
	crt_wipe(seed, sizeof seed);
}

/* Closes at any time, without a word (tls_bye says one): keys are wiped, everything goes back to
 * the room. NULL is fine. */
static void tls_close(struct tls *x)
{
	if (!x)
		return;
	struct tls_room *room = x->room;
	bool client = !x->server;
	tls_unlend(x);
	crt_drop(x->set);
	crt_anchors_free(x->anchors);
	crt_wipe(x, sizeof *x);
	x->next = room->free[client];
	room->free[client] = x;
}

/* The server's side of a new connection. pair: the certificate for sni (lower case, may be empty);
 * the set is held until tls_close. NULL when all are in use. */
static struct tls *tls_accept(struct tls_room *room, struct crt_set *set,
							  const struct crt_pair *pair, struct sl sni)
{
	struct tls *x = tls_take_free(room, false);
	br_sha256_context sha;

	if (!x)
		return NULL;
	x->set = crt_hold(set);
	x->pair = pair;
	x->twin = crt_twin(set, pair, sni.n ? sni : crt_first_name(pair->ee.san));
	br_sha256_init(&sha);
	br_sha256_update(&sha, sni.p, sni.n);
	br_sha256_out(&sha, x->name);
	x->policy = (struct tls_policy){&tls_policy_class, x};
	x->cache = (struct tls_cache){&tls_cache_class, x};
	tls_setup(x);
	br_ssl_engine_set_ec(x->eng, &room->ec);
	br_ssl_server_set_policy(&x->u.s, &x->policy.vtable);
	if (room->nsession)
		br_ssl_server_set_cache(&x->u.s, &x->cache.vtable);
	if (!br_ssl_server_reset(&x->u.s)) {
		tls_close(x);
		return NULL;
	}
	x->eng->version_out = BR_TLS10; /* of an alert before the version is agreed on; it would be 0 */
	return x;
}

/* The client's side of a new connection to an https target, judged as the route says. now: unix
 * seconds; judge_dates false: the clock is not to be believed. NULL when all are in use. */
static struct tls *tls_dial(struct tls_room *room, const struct route *r, const struct target *tg,
							bool judge_dates, int64_t now)
{
	struct tls *x;
	size_t n = strlen(tg->host);

	if ((r->verify == RT_VERIFY_CA && !r->anchors) || n > RP_NAME_MAX ||
		!(x = tls_take_free(room, true)))
		return NULL;
	tls_setup(x);
	br_ssl_engine_set_ec(x->eng, br_ec_get_default()); /* P-384 signatures are fine, too */
	br_ssl_engine_set_default_rsavrfy(x->eng);
	br_ssl_engine_set_ecdsa(x->eng, br_ecdsa_vrfy_asn1_get_default());
	struct tls_judge *j = (void *)(x->eng->ibuf + TLS_JUDGE); /* the third part of that piece */
	*j = (struct tls_judge){&tls_judge_class, .x = x, .verify = r->verify, .dates = judge_dates};
	memcpy(j->pin, r->pin, sizeof j->pin);
	memcpy(j->host, tg->host, n);
	if (r->verify == RT_VERIFY_CA) {
		br_x509_minimal_context *m = &j->u.minimal;
		x->anchors = crt_anchors_hold(r->anchors);
		br_x509_minimal_init(m, &br_sha256_vtable, x->anchors->v, x->anchors->n);
		br_x509_minimal_set_hash(m, br_sha256_ID, &br_sha256_vtable);
		br_x509_minimal_set_hash(m, br_sha384_ID, &br_sha384_vtable);
		br_x509_minimal_set_hash(m, br_sha512_ID, &br_sha512_vtable);
		br_x509_minimal_set_rsa(m, br_rsa_pkcs1_vrfy_get_default());
		br_x509_minimal_set_ecdsa(m, br_ec_get_default(), br_ecdsa_vrfy_asn1_get_default());
		if (judge_dates)
			br_x509_minimal_set_time(m, (uint32_t)(now / 86400 + 719528), (uint32_t)(now % 86400));
	}
	br_ssl_engine_set_x509(x->eng, &j->vtable);
	if (br_ssl_client_reset(&x->u.c, tg->literal ? NULL : tg->host, 0))
		return x;
	tls_close(x);
	return NULL;
}

/* ---- the pump ---- */

/* Has the key exchange been computed, now or in the session that is resumed? */
static bool tls_keyed(const struct tls *x)
{
	uint8_t any = 0;

	for (size_t i = 0; i < sizeof x->eng->session.master_secret; i++)
		any |= x->eng->session.master_secret[i];
	return any != 0;
}

/* Notices the end of the handshake; what judged the server lies in buffers that go back now. */
static void tls_notice(struct tls *x)
{
	if (x->open || !(x->eng->application_data & 1))
		return;
	x->open = true;
	if (!x->server)
		br_ssl_engine_set_x509(x->eng, NULL);
	crt_anchors_free(x->anchors);
	x->anchors = NULL;
}

/* Wraps plaintext into a record and closes the record, so that nothing ever sits. */
static bool tls_take(struct tls *x, struct buf *out, unsigned *moved)
{
	size_t n, len;
	uint8_t *to;

	if (!x->open || x->deaf || !out || !out->p || !buf_len(out) ||
		!(to = br_ssl_engine_sendapp_buf(x->eng, &n)))
		return false;
	uint64_t now = sys_now();
	if (now - x->last_ms >= TLS_QUIET_MS)
		x->burst = 0;
	x->last_ms = now;
	if (x->burst < TLS_SMALL_FOR && n > TLS_SMALL)
		n = TLS_SMALL;
	len = buf_len(out) < n ? buf_len(out) : n;
	memcpy(to, buf_peek(out).p, len);
	br_ssl_engine_sendapp_ack(x->eng, len);
	br_ssl_engine_flush(x->eng, 0);
	buf_skip(out, len);
	if (x->burst < TLS_SMALL_FOR)
		x->burst += (uint32_t)len;
	*moved |= TLS_TX;
	return true;
}

/* Ciphertext out. *left: what this turn may still send. */
static bool tls_send(struct tls *x, int fd, size_t *left, unsigned *moved)
{
	size_t len;
	const uint8_t *p = br_ssl_engine_sendrec_buf(x->eng, &len);

	if (!p || !*left || x->deaf)
		return false;
	ssize_t n = sys_write(fd, p, len);
	if (n < 0) {
		x->deaf = errno != EAGAIN;
		*left = 0;
		return false;
	}
	br_ssl_engine_sendrec_ack(x->eng, (size_t)n);
	/* A short write: the kernel is full. */
	*left = (size_t)n < len || *left < len ? 0 : *left - len;
	*moved |= TLS_TX;
	return n > 0;
}

/* Must this handshake wait for a turn in which a private-key operation is still to be had? */
static bool tls_must_wait(const struct tls *x, bool may, unsigned moved)
{
	return !x->open && (!may || (moved & TLS_PK)) && !tls_keyed(x);
}

/* Reads ciphertext to where the engine wants it, and on behind it as far as there is room: what
 * belongs to the next record stays "ahead". Saves two of three system calls. */
static void tls_read(struct tls *x, int fd, uint8_t *to, size_t *left)
{
	size_t at = (size_t)(to - x->eng->ibuf), room = x->eng->ibuf_len - at;
	ssize_t n = sys_read(fd, to, room);

	if (n > 0) {
		x->ahead = (uint16_t)at;
		x->nahead = (uint16_t)n;
	} else if (n == 0) {
		x->eof = true;
	} else {
		x->deaf = x->broken = errno != EAGAIN;
	}
	/* A short read: the kernel has no more. */
	*left = n < (ssize_t)room || *left < room ? 0 : *left - room;
}

/* Is what completes a record, n bytes where the engine wants them, a close_notify? Then it is taken
 * in the engine's place, which would drop all that is still to be sent (RFC 5246 7.2.1): a client
 * that sends no more still wants its answer. */
static bool tls_goodbye(struct tls *x, size_t n)
{
	br_ssl_engine_context *e = x->eng;
	size_t len = e->ixa + n - 5; /* without the header */
	uint8_t text[64], keys[sizeof e->in];

	if (!x->open || x->bye || e->ixa < 5 || e->ixc != n || e->record_type_in != 21 ||
		len > sizeof text)
		return false;
	memcpy(text, e->ibuf + 5, len);
	memcpy(keys, &e->in, sizeof keys);
	const uint8_t *p = e->in.vtable->decrypt(&e->in.vtable, 21, e->version_in, text, &len);
	bool said = p && len == 2 && p[0] == 1 && p[1] == 0;
	if (said) {
		e->ixa = e->ixb = 0;
		e->ixc = 5;
		e->shutdown_recv = 1;
		x->nahead = 0;
	} else {
		memcpy(&e->in, keys, sizeof keys); /* as if nothing had been opened */
	}
	crt_wipe(keys, sizeof keys);
	return said;
}

/* Ciphertext in. hungry: there is room for the plaintext. */
static bool tls_recv(struct tls *x, int fd, bool hungry, size_t *left, bool may, unsigned *moved)
{
	size_t len;
	uint8_t *to = br_ssl_engine_recvrec_buf(x->eng, &len);

	if (!to || (!x->nahead && (x->eof || !*left || !hungry)))
		return false;
	if (tls_must_wait(x, may, *moved) && (x->nahead || sys_peek(fd) > 0)) {
		*moved |= TLS_DEFERRED;
		return false;
	}
	if (!x->nahead)
		tls_read(x, fd, to, left);
	if (!x->nahead)
		return false;
	if (len > x->nahead)
		len = x->nahead;
	memmove(to, x->eng->ibuf + x->ahead, len); /* ahead is never before `to` */
	x->ahead = (uint16_t)(x->ahead + len);
	x->nahead = (uint16_t)(x->nahead - len);
	bool keyed = x->open || tls_keyed(x);
	x->used_key = false;
	if (tls_goodbye(x, len))
		return true;
	br_ssl_engine_recvrec_ack(x->eng, len);
	if (x->used_key || (!keyed && !x->resumed && tls_keyed(x)))
		*moved |= TLS_PK;
	return true;
}

/* Plaintext in. */
static bool tls_give(struct tls *x, struct buf *in, unsigned *moved)
{
	size_t len;
	const uint8_t *p = br_ssl_engine_recvapp_buf(x->eng, &len);

	if (!p || !in || !in->p)
		return false;
	size_t room = buf_room(in, 1);
	if (len > room)
		len = room;
	if (!len)
		return false;
	memcpy(buf_free(in), p, len);
	buf_fill(in, len);
	br_ssl_engine_recvapp_ack(x->eng, len);
	*moved |= TLS_RX;
	return true;
}

/* How things stand after the pump. */
static enum io tls_verdict(const struct tls *x)
{
	if (br_ssl_engine_current_state(x->eng) == BR_SSL_CLOSED)
		return br_ssl_engine_last_error(x->eng) ? IO_ERR : IO_EOF;
	if (tls_pending(x))
		return IO_OK;
	if (x->eng->shutdown_recv)
		return IO_EOF; /* it said goodbye, and perhaps did not wait for ours */
	return x->broken ? IO_ERR : x->eof ? IO_EOF : IO_OK;
}

/* A fatal alert as a record of its own (RFC 5246 7.2), for a client that gets no engine. */
static size_t tls_alert(uint8_t out[7], int alert)
{
	static const uint8_t head[6] = {21, 3, 3, 0, 2, 2};

	memcpy(out, head, sizeof head);
	out[6] = (uint8_t)alert;
	return 7;
}

/* Moves bytes until nothing moves, at most TLS_TURN each way: ciphertext between the socket and the
 * engine; plaintext from the engine to `in` while there is room (NULL or without memory: none) and
 * from `out` (NULL or empty: none) to the engine. may_handshake: this turn may still do a
 * private-key operation. Sets *moved to TLS_ bits: RX plaintext came, TX bytes went out, PK a
 * private-key operation was done, DEFERRED one is due: call again next turn, poll() won't say.
 * Returns IO_OK while alive; IO_EOF when the peer will send no more and all it sent was given
 * (tls_clean_eof: did it say so?), what is in `out` may still go; IO_ERR: see tls_error. */
static enum io tls_pump(struct tls *x, int fd, struct buf *in, struct buf *out, bool may_handshake,
						unsigned *moved)
{
	size_t rx = TLS_TURN, tx = TLS_TURN;
	uint8_t record[7];
	bool more = !tls_dead(x);

	*moved = 0;
	if (x->alert && !x->broken) {
		(void)sys_write(fd, record, tls_alert(record, x->alert)); /* 7 bytes into an empty socket */
		x->deaf = x->broken = true;
		x->nahead = 0;
		more = false;
	}
	if (more)
		tls_lend(x);
	while (more) {
		more = tx && tls_take(x, out, moved);
		more |= tls_send(x, fd, &tx, moved);
		bool hungry = !x->open || x->bye || (in && in->p && buf_room(in, 1));
		more |= tls_recv(x, fd, hungry, &rx, may_handshake, moved);
		more |= tls_give(x, in, moved);
		tls_notice(x);
		more = more && !tls_dead(x);
	}
	tls_rest(x);
	return tls_verdict(x);
}

/* Is there ciphertext that must still be sent? */
static bool tls_unsent(const struct tls *x)
{
	size_t len;

	return tls_lent(x) && !x->deaf && br_ssl_engine_sendrec_buf(x->eng, &len);
}

/* Will no plaintext go out any more, whatever we do? */
static bool tls_deaf(const struct tls *x)
{
	return x->deaf || br_ssl_engine_current_state(x->eng) == BR_SSL_CLOSED;
}

/* What to ask poll() for. in_room: the owner would take plaintext; out_data: it has some. */
static short tls_wants(const struct tls *x, bool in_room, bool out_data)
{
	short events = 0;

	if (tls_dead(x))
		return 0;
	if (!x->eof && !x->eng->shutdown_recv && !tls_pending(x) && (!x->open || x->bye || in_room))
		events |= POLLIN;
	if (tls_unsent(x) || (out_data && x->open && !x->bye && !x->deaf))
		events |= POLLOUT;
	return events;
}

/* Is the handshake done? */
static bool tls_is_open(const struct tls *x)
{
	return x->open;
}

/* Did the peer say with close_notify that no more comes? Otherwise what came may be cut short. */
static bool tls_clean_eof(const struct tls *x)
{
	return x->eng->shutdown_recv != 0;
}

/* Queues close_notify behind what is being sent; nothing more can be sent, and what comes is
 * dropped. The pump sends it. */
static void tls_bye(struct tls *x)
{
	size_t len;

	if (x->bye || tls_dead(x))
		return;
	tls_lend(x);
	if (br_ssl_engine_recvapp_buf(x->eng, &len))
		br_ssl_engine_recvapp_ack(x->eng, len);
	br_ssl_engine_close(x->eng);
	x->bye = true;
}

/* Why it failed, in a few words; "" when it did not. */
static const char *tls_error(const struct tls *x)
{
	static const struct {
		int err;
		const char *text;
	} known[] = {{BR_ERR_OK, ""},
				 {BR_ERR_X509_NOT_TRUSTED, "the certificate is not signed by a trusted authority"},
				 {BR_ERR_X509_BAD_SIGNATURE, "the certificate's signature is wrong"},
				 {BR_ERR_X509_EXPIRED, "the certificate is expired or not valid yet"},
				 {BR_ERR_X509_BAD_SERVER_NAME, "the certificate is for another name"},
				 {BR_ERR_X509_LIMIT_EXCEEDED, "the certificate is too large"},
				 {BR_ERR_BAD_MAC, "a record was changed under way"},
				 {BR_ERR_SEND_FATAL_ALERT + 40, "no cipher suite in common"},
				 {BR_ERR_SEND_FATAL_ALERT + 70, "no protocol version in common"},
				 {BR_ERR_SEND_FATAL_ALERT + 120, "no application protocol in common"},
				 {BR_ERR_RECV_FATAL_ALERT + 40, "the peer found no cipher suite in common"},
				 {BR_ERR_RECV_FATAL_ALERT + 48, "the peer does not trust our certificate"},
				 {BR_ERR_RECV_FATAL_ALERT + 70, "the peer found no protocol version in common"},
				 {BR_ERR_RECV_FATAL_ALERT + 112, "the peer does not know the name"}};
	int err = br_ssl_engine_last_error(x->eng);

	if (x->why)
		return x->why;
	for (size_t i = 0; i < RP_LEN(known); i++)
		if (err == known[i].err && (err || !x->broken))
			return known[i].text;
	if (!err)
		return "the connection was reset";
	if (err >= BR_ERR_X509_OK && err <= BR_ERR_X509_NOT_TRUSTED)
		return "the certificate is malformed or of an unsupported kind";
	return err >= BR_ERR_RECV_FATAL_ALERT && err < BR_ERR_SEND_FATAL_ALERT
			   ? "the peer sent a fatal alert"
			   : "the peer broke the protocol";
}

static const char *tls_version_name(const struct tls *x)
{
	return x->eng->session.version == BR_TLS12 ? "TLSv1.2" : "-";
}

/* The suite, as OpenSSL names it. */
static const char *tls_cipher_name(const struct tls *x)
{
	static const struct {
		uint16_t suite;
		const char *name;
	} suites[] = {
		{BR_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-ECDSA-CHACHA20-POLY1305"},
		{BR_TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-RSA-CHACHA20-POLY1305"},
		{BR_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "ECDHE-ECDSA-AES128-GCM-SHA256"},
		{BR_TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "ECDHE-RSA-AES128-GCM-SHA256"},
		{BR_TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "ECDHE-ECDSA-AES256-GCM-SHA384"},
		{BR_TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, "ECDHE-RSA-AES256-GCM-SHA384"}};

	for (size_t i = 0; i < RP_LEN(suites); i++)
		if (suites[i].suite == x->eng->session.cipher_suite)
			return suites[i].name;
	return "-";
}

/* The set that a server's connection holds, and the certificate that was shown. */
static struct crt_set *tls_set(const struct tls *x)
{
	return x->set;
}

static const struct crt_pair *tls_pair(const struct tls *x)
{
	return x->pair;
}

/* ---- the ClientHello ---- */

/* Reads a handshake message that is spread over records. */
struct tls_reader {
	struct sl in;
	size_t record; /* bytes of the record that are left */
	size_t left;   /* bytes of the message that are left */
	bool bad;
};

/* What is of interest in a ClientHello. */
struct tls_offer {
	struct sl sni;
	bool named; /* SNI was there */
	bool other; /* it names the versions it speaks (RFC 8446 4.2.1), TLS 1.2 is not among them */
};

/* The next n bytes: copied to `to` when that is not NULL. They are there, or the message is bad. */
static void tls_skip(struct tls_reader *r, size_t n, uint8_t *to)
{
	if (n > r->left)
		r->bad = true;
	for (size_t k; n && !r->bad; n -= k) {
		if (!r->record) { /* the header was checked by tls_hello_whole */
			r->record = (size_t)((uint8_t)r->in.p[3] << 8 | (uint8_t)r->in.p[4]);
			r->in = sl_rest(r->in, 5);
		}
		k = n < r->record ? n : r->record;
		if (to) {
			memcpy(to, r->in.p, k);
			to += k;
		}
		r->in = sl_rest(r->in, k);
		r->record -= k;
		r->left -= k;
	}
}

/* The next n <= 3 bytes as a number. */
static uint32_t tls_number(struct tls_reader *r, size_t n)
{
	uint8_t b[3] = {0, 0, 0};
	uint32_t v = 0;

	tls_skip(r, n, b);
	for (size_t i = 0; i < n; i++)
		v = v << 8 | b[i];
	return v;
}

/* Is a ClientHello there whole? >0: the bytes of the records that it takes; 0 more; -1 bad. */
static int tls_hello_whole(struct sl in)
{
	size_t at = 0, got = 0, want = 4;
	uint8_t head[4];

	while (got < want) {
		struct sl rec = sl_rest(in, at);
		/* RFC 5246 6.2.1: handshake, version 3.x, 1 to 16384 bytes */
		if ((rec.n && rec.p[0] != 22) || (rec.n > 1 && rec.p[1] != 3))
			return -1;
		if (rec.n < 5)
			return 0;
		size_t len = (size_t)((uint8_t)rec.p[3] << 8 | (uint8_t)rec.p[4]);
		if (!len || len > 16384)
			return -1;
		for (size_t i = 0; i < len && got + i < 4 && 5 + i < rec.n; i++) {
			head[got + i] = (uint8_t)rec.p[5 + i];
			if (got + i == 0 && head[0] != 1)
				return -1;
			if (got + i == 3)
				want = 4 + ((size_t)head[1] << 16 | (size_t)head[2] << 8 | head[3]);
		}
		got += len;
		at += 5 + len;
		/* It must also fit into tls_feed, however small its records are. */
		if ((want > 4 && got > want) || want > RP_HELLO_MAX || at > RP_TLS_IN)
			return -1;
		if (rec.n < 5 + len)
			return 0;
	}
	return (int)at;
}

/* RFC 6066 3: one name of type host_name, as it stands in DNS. */
static void tls_hello_sni(struct tls_reader *r, size_t len, uint8_t *scratch, struct tls_offer *o)
{
	size_t list = tls_number(r, 2);
	uint32_t type = tls_number(r, 1);
	size_t n = tls_number(r, 2);

	if (o->named || len != list + 2 || list != n + 3 || type || !n || n > 255)
		r->bad = true;
	tls_skip(r, n, scratch);
	if (r->bad)
		return;
	n = sl_host(sl_mk((const char *)scratch, n), (char *)scratch); /* NUL is no letter */
	o->sni = sl_mk((const char *)scratch, n);
	o->named = true;
	r->bad = !n;
}

/* RFC 5246 7.4.1.2, with a strict eye on lengths. scratch: 256 bytes that the name is put into. */
static int tls_hello_read(struct sl bytes, uint8_t *scratch, struct tls_offer *o)
{
	int whole = tls_hello_whole(bytes);
	struct tls_reader r = {.in = bytes, .left = 4};
	size_t n;

	*o = (struct tls_offer){.sni = sl_mk("", 0)};
	if (whole <= 0)
		return whole;
	(void)tls_number(&r, 1);
	r.left = tls_number(&r, 3);
	tls_skip(&r, 2 + 32, NULL); /* version, random */
	n = tls_number(&r, 1);
	r.bad |= n > 32;
	tls_skip(&r, n, NULL);
	n = tls_number(&r, 2);
	r.bad |= n < 2 || n % 2;
	tls_skip(&r, n, NULL);
	n = tls_number(&r, 1);
	r.bad |= n < 1;
	tls_skip(&r, n, NULL);
	if (r.left && (n = tls_number(&r, 2)) != r.left)
		r.bad = true;
	while (r.left && !r.bad) {
		uint32_t type = tls_number(&r, 2);
		n = tls_number(&r, 2);
		if (type == 0) {
			tls_hello_sni(&r, n, scratch, o);
		} else if (type == 43) {
			o->other = true;
			if (n < 3 || n % 2 == 0 || tls_number(&r, 1) != n - 1)
				r.bad = true;
			for (size_t i = 1; i < n && !r.bad; i += 2)
				if (tls_number(&r, 2) == 0x0303)
					o->other = false;
		} else {
			tls_skip(&r, n, NULL);
		}
	}
	return r.bad ? -1 : whole;
}

/* Looks into the first bytes of a connection: >0 a whole ClientHello and how many bytes it takes, 0
 * more is wanted, -1 it is none (or over RP_HELLO_MAX, or malformed). *sni: the name asked for in
 * lower case, put into scratch[256]; empty when there is none. The bytes stay as they are. */
static int tls_hello(struct sl bytes, struct sl *sni, uint8_t *scratch)
{
	struct tls_offer o;
	int r = tls_hello_read(bytes, scratch, &o);

	*sni = o.sni;
	return r;
}

/* Hands over ciphertext that was read from the socket before the engine was there, once, before the
 * first pump; it is worked on by the pump. At most RP_TLS_IN bytes. 0, or -1: too many. */
static int tls_feed(struct tls *x, struct sl bytes)
{
	struct tls_offer o;
	uint8_t scratch[256];

	if (bytes.n > x->eng->ibuf_len || x->nahead || x->eng->ixa)
		return -1;
	/* RFC 8446 4.2.1: BearSSL would answer with TLS 1.2, or say handshake_failure. */
	if (x->server && tls_hello_read(bytes, scratch, &o) > 0 && o.other) {
		x->alert = TLS_PROTOCOL_VERSION;
		x->why = "no protocol version in common";
	}
	tls_lend(x);
	memcpy(x->eng->ibuf, bytes.p, bytes.n);
	x->ahead = 0;
	x->nahead = (uint16_t)bytes.n;
	return 0;
}

RP_OFTEN

/* ==[ NET ]============================================== prefix: net_ ==
 * Listeners and connections. There is one kind of connection for clients, backends and health
 * checks: one read path, one write path, TLS or not; who owns it is a word in it. Also the state of
 * the whole process, struct rp, since everybody from here on works on it.
 * Owns: struct conn (pool made at start): its descriptor, TLS engine and buffers.
 * Fails: net_dial and net_listen with errno. Each direction of a connection ends by itself: c->eof
 *        (c->torn: not as it should) and c->deaf. What came before an error is still given.
 * Spec: PROXY protocol 2.3 (haproxy.org, proxy-protocol.txt).
 * Door: net_open net_close_all net_bytes net_conns net_listen net_unlisten net_accept net_dial net_close
 *       net_io net_interest net_eager net_reap net_say net_said net_linger net_lingered net_bye
 *       net_proxy_parse net_proxy_write net_connected net_in net_local net_cap
 */

enum conn_phase {
	CP_FREE,	/* in the pool, or about to go there */
	CP_CONNECT, /* TCP is on its way to a backend */
	CP_PROXY,	/* the PROXY header is being read from a client, or written to a backend */
	CP_HELLO,	/* waiting for a whole ClientHello */
	CP_TLS,		/* handshake */
	CP_OPEN,	/* bytes of the application */
	CP_LINGER	/* all is said; what still comes is dropped, for a while */
};

enum conn_kind { CO_CLIENT, CO_UPSTREAM, CO_IDLE, CO_CHECK };

struct conn {
	int fd; /* owns */
	uint32_t id;
	enum conn_phase phase;
	enum conn_kind kind;
	enum cf_listen_kind door; /* of a client: which kind of listener it came through */
	short ready;			  /* what poll() said and nobody has used yet */
	bool eof;				  /* nothing more comes */
	bool torn;				  /* it did not end as it should: reset, TLS without a goodbye */
	bool deaf;				  /* it takes nothing more: what is said to it is dropped */
	bool shut;				  /* we will send no more */
	bool hung;				  /* poll() told of its end, and will again */
	bool again;				  /* has work that poll() will not tell */
	bool counted;			  /* among the connections of its address */
	bool un;				  /* a unix socket: its POLLHUP alone is an end like any other */
	bool used;				  /* a backend's: had an exchange before this one */
	uint32_t credit;	/* bytes that may be written before poll() must say that there is room */
	struct buf in, out; /* own */
	struct tls *tls;	/* owns */
	struct tx *t;		/* borrows: whose it is now */
	struct conn *next;	/* in the free list, in a pool */
	uint32_t up;		/* of a backend's: index of its struct up */
	uint32_t served;	/* requests */
	struct addr peer;	/* of a client: the one of the PROXY header when there was one */
	struct addr local;	/* where the client came to */
	uint64_t due;		/* of phases in which no transaction watches */
	uint64_t read_at, wrote_at; /* ms: when bytes last came, were taken */
	uint64_t lingered;			/* bytes dropped */
};

struct net_listener {
	int fd; /* owns */
	enum cf_listen_kind kind;
	struct addr asked, addr; /* as configured; with the real port */
};

#define NET_LISTENERS 64

struct rp {
	uint64_t now; /* ms, of this turn */
	int argc;
	char **argv;	 /* borrows: main's */
	struct conf *cf; /* holds */

	struct conn *conn; /* owns: nconn of them */
	struct conn **live;
	struct pollfd *pfd;
	struct conn *free;
	uint32_t nconn, nlive, nfree, npfd, conn_used;
	uint32_t nclient, max_client;
	struct buf_pool pool;
	struct net_listener ls[NET_LISTENERS];
	uint32_t nls;
	uint64_t accept_after; /* descriptors ran out: no accept before */

	struct tls_room *tls;
	struct crt_set *certs; /* holds */
	bool pk_used;		   /* a private-key operation ran in this turn */
	uint64_t certs_due;	   /* when the files are looked at again */
	int64_t warned_day;	   /* expiring certificates were named */

	struct dns_room *dns;
	struct gate *gate;
	struct up **up; /* owns: stable, so that transactions keep their index */
	uint32_t nup;
	uint64_t up_due;

	struct tx *tx; /* owns */
	struct tx *free_tx;
	uint32_t ntx, nfree_tx, tx_used;

	int acme;	 /* owns: the directory of --acme-dir, -1 */
	int notify;	 /* owns: the socket of systemd, -1 */
	int pid;	 /* owns: the pid file, -1 */
	int signals; /* owns: where they come in, -1 */
	int terms;	 /* TERM and INT so far */
	bool draining;
	uint64_t drain_due;
	bool stop;

	int64_t started; /* wall clock, s */
	uint64_t requests, bytes_out, accepted, refused;
	uint64_t by_class[6]; /* answers 1xx to 5xx */
	uint64_t by_why[WHY_COUNT];
};

/* What --max-conns takes: two connections for each client, and some for health checks. */
static uint32_t net_conns(uint32_t max_client)
{
	return max_client * 2 + 64;
}

/* The bytes of a buffer: a head and what we add to it, or a ClientHello. */
static uint32_t net_cap(const struct conf *cf)
{
	uint32_t n = (uint32_t)cf->head_max + RP_HEAD_SLACK;

	for (size_t i = 0; i < cf->nlisten && n < RP_TLS_IN; i++)
		if (cf->listen[i].kind == LS_HTTPS)
			n = RP_TLS_IN;
	return n;
}

/* The most memory that connections can take: bytes. */
static uint64_t net_bytes(const struct conf *cf)
{
	uint32_t n = net_conns(cf->max_conns);

	return (uint64_t)n * (sizeof(struct conn) + sizeof(struct conn *) + sizeof(struct pollfd)) +
		   buf_pool_bytes(cf->max_conns * 4 + 64, net_cap(cf));
}

/* Makes the pools, sized by --max-conns and --head-max. 0 or -1. */
static int net_open(struct rp *rp, const struct conf *cf)
{
	uint32_t n = net_conns(cf->max_conns);

	rp->nconn = n;
	rp->max_client = cf->max_conns;
	rp->conn = sys_mem(n * sizeof *rp->conn);
	rp->live = sys_mem(n * sizeof *rp->live);
	rp->pfd = sys_mem((n + NET_LISTENERS + 4) * sizeof *rp->pfd);
	if (!rp->conn || !rp->live || !rp->pfd ||
		buf_pool_open(&rp->pool, cf->max_conns * 4 + 64, net_cap(cf)) < 0)
		return -1;
	rp->nfree = n;
	return 0;
}

/* Takes a connection from the pool for a descriptor; NULL when there is none. */
static struct conn *net_new(struct rp *rp, int fd, enum conn_kind kind, enum conn_phase phase)
{
	struct conn *c = rp->free;

	if (!rp->nfree)
		return NULL;
	rp->nfree--;
	if (c)
		rp->free = c->next;
	else
		c = &rp->conn[rp->conn_used++]; /* what was never used costs no memory */
	*c = (struct conn){.fd = fd, .id = (uint32_t)(c - rp->conn), .kind = kind, .phase = phase};
	c->credit = rp->pool.cap;
	rp->live[rp->nlive++] = c;
	return c;
}

/* Ends a connection now. It is put back into the pool by net_reap, so that whoever still looks at
 * it in this turn finds CP_FREE. Closing a closed one is fine. */
static void net_close(struct rp *rp, struct conn *c)
{
	if (!c || c->phase == CP_FREE)
		return;
	if (c->kind == CO_CLIENT)
		rp->nclient--;
	tls_close(c->tls);
	c->tls = NULL;
	sys_close(c->fd);
	c->fd = -1;
	buf_give(&rp->pool, &c->in);
	buf_give(&rp->pool, &c->out);
	c->phase = CP_FREE;
	c->due = 0;
	c->again = false;
	c->t = NULL;
}

/* Takes closed connections out of the list; true when c was one. at: its place in rp->live. */
static bool net_reap(struct rp *rp, uint32_t at)
{
	struct conn *c = rp->live[at];

	if (c->phase != CP_FREE)
		return false;
	rp->live[at] = rp->live[--rp->nlive];
	c->next = rp->free;
	rp->free = c;
	rp->nfree++;
	return true;
}

static void net_close_all(struct rp *rp)
{
	for (uint32_t i = rp->nlive; i--;) {
		net_close(rp, rp->live[i]);
		(void)net_reap(rp, i);
	}
	for (uint32_t i = 0; i < rp->nls; i++)
		sys_close(rp->ls[i].fd);
	rp->nls = 0;
	sys_unmem(rp->conn, rp->nconn * sizeof *rp->conn);
	sys_unmem(rp->live, rp->nconn * sizeof *rp->live);
	sys_unmem(rp->pfd, (rp->nconn + NET_LISTENERS + 4) * sizeof *rp->pfd);
	buf_pool_close(&rp->pool);
}

/* Opens a listener; -1 with errno. An address of all zeros takes IPv6 and IPv4, or IPv4 alone where
 * the kernel has no IPv6. */
static int net_listen(const struct cf_listen *l, struct net_listener *out)
{
	static const uint8_t any[16];
	struct sockaddr_storage ss;
	bool both = memcmp(l->addr.ip, any, 16) == 0;
	struct addr a = l->addr;
	socklen_t len = addr_to_sa(&a, &ss);
	int fd = sys_socket(ss.ss_family);

	if (fd < 0 && both && errno == EAFNOSUPPORT) {
		a.ip[10] = a.ip[11] = 0xff;
		len = addr_to_sa(&a, &ss);
		fd = sys_socket(ss.ss_family);
	}
	if (fd < 0)
		return -1;
	if (sys_bind(fd, (const struct sockaddr *)&ss, len, both) < 0) {
		int err = errno;
		sys_close(fd);
		errno = err;
		return -1;
	}
	*out = (struct net_listener){.fd = fd, .kind = l->kind, .asked = l->addr, .addr = l->addr};
	len = sizeof ss;
	struct addr real = l->addr;
	if (sys_local(fd, (struct sockaddr *)&ss, &len) == 0)
		addr_from_sa(&ss, &real);
	out->addr.port = real.port;
	return 0;
}

static void net_unlisten(struct net_listener *l)
{
	sys_close(l->fd);
	l->fd = -1;
}

/* Takes one connection from a listener; NULL when there is none now, or no room for one. */
static struct conn *net_accept(struct rp *rp, const struct net_listener *l)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof ss;
	int fd = sys_accept(l->fd, (struct sockaddr *)&ss, &len);

	if (fd < 0) {
		if (errno != EAGAIN && errno != ECONNABORTED) {
			log_event(LOG_WARN, "can't accept: %s; trying again", strerror(errno));
			rp->accept_after = rp->now + 100;
		}
		return NULL;
	}
	struct conn *c = net_new(rp, fd, CO_CLIENT, CP_OPEN);
	if (!c) {
		sys_close(fd);
		return NULL;
	}
	rp->nclient++;
	rp->accepted++;
	c->door = l->kind;
	addr_from_sa(&ss, &c->peer);
	return c;
}

/* Where the client came to; asked only when somebody wants to know. */
static const struct addr *net_local(struct conn *c)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof ss;

	if (!c->local.port && sys_local(c->fd, (struct sockaddr *)&ss, &len) == 0)
		addr_from_sa(&ss, &c->local);
	return &c->local;
}

/* Begins to connect to an address, or to a unix socket when path is not NULL. NULL with errno. */
static struct conn *net_dial(struct rp *rp, const struct addr *a, const char *path,
							 enum conn_kind kind)
{
	struct sockaddr_storage ss;
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	const struct sockaddr *sa = (const struct sockaddr *)&ss;
	socklen_t len = sizeof un;

	if (path) {
		(void)snprintf(un.sun_path, sizeof un.sun_path, "%s", path);
		sa = (const struct sockaddr *)&un;
	} else {
		len = addr_to_sa(a, &ss);
	}
	int fd = sys_socket(sa->sa_family);
	if (fd < 0)
		return NULL;
	int r = sys_connect(fd, sa, len), err = r < 0 ? errno : 0;
	struct conn *c = !err || err == EINPROGRESS ? net_new(rp, fd, kind, CP_CONNECT) : NULL;
	if (!c) {
		sys_close(fd);
		errno = err == EAGAIN				 ? ECONNREFUSED /* a unix socket whose queue is full */
				: !err || err == EINPROGRESS ? ENFILE		/* there is no place for one more */
											 : err;
		return NULL;
	}
	c->un = path != NULL;
	if (!path)
		sys_tune(fd);
	if (r == 0)
		c->ready = POLLOUT; /* connected already */
	return c;
}

/* Looks how a connect is doing: 1 connected, 0 not yet, -1 with errno. */
static int net_connected(struct conn *c)
{
	int err;

	if (!(c->ready & (POLLOUT | POLLERR | POLLHUP)))
		return 0;
	if ((err = sys_sockerr(c->fd))) {
		errno = err;
		return -1;
	}
	c->ready = 0;
	return 1;
}

/* What the peer sent and nobody took. */
static struct sl net_in(const struct conn *c)
{
	return buf_peek(&c->in);
}

/* The peer takes nothing more, and will not know what it was to get. */
static void net_deafen(struct rp *rp, struct conn *c)
{
	c->deaf = c->shut = true;
	buf_give(&rp->pool, &c->out);
}

static bool net_read(struct rp *rp, struct conn *c)
{
	if (c->eof || !(c->ready & (POLLIN | POLLHUP | POLLERR)) || !buf_take(&rp->pool, &c->in))
		return false;
	uint32_t room = buf_room(&c->in, c->in.cap / 4);
	if (!room)
		return false;
	ssize_t n = sys_read(c->fd, buf_free(&c->in), room);
	c->ready &= (short)~(POLLIN | POLLHUP | POLLERR);
	if (n > 0) {
		buf_fill(&c->in, (size_t)n);
		c->read_at = rp->now;
		return true;
	}
	buf_done(&rp->pool, &c->in);
	if (n < 0 && errno == EAGAIN)
		return false;
	c->eof = true;
	c->torn = n < 0 || c->deaf; /* a reset is told once, perhaps to our last write */
	if (n < 0)
		net_deafen(rp, c);
	return true;
}

static bool net_write(struct rp *rp, struct conn *c)
{
	struct sl data = buf_peek(&c->out);

	if (!data.n)
		return false;
	if (c->ready & POLLOUT)
		c->credit = rp->pool.cap;
	if (data.n > c->credit)
		data.n = c->credit;
	if (!data.n)
		return false;
	ssize_t n = sys_write(c->fd, data.p, data.n);
	c->ready &= (short)~POLLOUT;
	if (n < 0) {
		c->credit = 0;
		if (errno == EAGAIN)
			return false;
		net_deafen(rp, c);
		return true;
	}
	c->wrote_at = rp->now;
	/* Less than asked for: the kernel is full, and poll() says when it is not. */
	c->credit = (size_t)n < data.n ? 0 : c->credit - (uint32_t)n;
	buf_skip(&c->out, (size_t)n);
	buf_done(&rp->pool, &c->out);
	return n > 0;
}

static bool net_pump(struct rp *rp, struct conn *c, bool want)
{
	static struct buf none;
	unsigned moved = 0;
	uint32_t before = buf_len(&c->out);

	if (c->ready & POLLOUT)
		c->credit = rp->pool.cap;
	if (want && !buf_take(&rp->pool, &c->in))
		want = false;
	if (want)
		(void)buf_room(&c->in, c->in.cap / 4);
	enum io io = tls_pump(c->tls, c->fd, want ? &c->in : &none, c->credit ? &c->out : &none,
						  !rp->pk_used, &moved);
	c->ready = 0;
	uint32_t sent = before - buf_len(&c->out);
	c->credit = sent > c->credit ? 0 : c->credit - sent;
	if (tls_unsent(c->tls))
		c->credit = 0;
	buf_done(&rp->pool, &c->in);
	buf_done(&rp->pool, &c->out);
	rp->pk_used |= (moved & TLS_PK) != 0;
	c->again = (moved & TLS_DEFERRED) != 0;
	if (moved & TLS_RX)
		c->read_at = rp->now;
	if (moved & TLS_TX)
		c->wrote_at = rp->now;
	bool ended = (!c->eof && io != IO_OK) || (!c->deaf && tls_deaf(c->tls));
	c->eof |= io != IO_OK;
	c->torn |= c->eof && !tls_clean_eof(c->tls); /* RFC 9112 9.8 */
	if (tls_deaf(c->tls))
		net_deafen(rp, c);
	return (moved & (TLS_RX | TLS_TX | TLS_PK)) || ended;
}

static bool net_io_now(struct rp *rp, struct conn *c, bool want)
{
	bool hung = c->ready & (c->un ? POLLERR : POLLHUP | POLLERR), moved = false;

	if (c->phase == CP_FREE)
		return false;
	c->hung |= hung;
	if (hung && !c->shut) { /* a reset; what came before it can still be read */
		net_deafen(rp, c);
		moved = true;
	}
	if (c->tls)
		return net_pump(rp, c, want) || moved;
	moved |= net_write(rp, c);
	if (want)
		moved |= net_read(rp, c);
	return moved;
}

/* Moves bytes between the socket and c->in, c->out, as far as poll() said that it goes: at most
 * one buffer each way. want: more may be read. Returns whether anything changed. */
static inline bool net_io(struct rp *rp, struct conn *c, bool want)
{
	/* Most often nothing came and nothing is to go. */
	return (c->tls || c->ready || buf_len(&c->out)) && net_io_now(rp, c, want);
}

/* May more be read? want: the owner would take it. */
static bool net_hungry(const struct conn *c, bool want)
{
	return want && !c->eof && (!c->in.p || c->in.w < c->in.cap || c->in.r > c->in.cap / 4);
}

/* What to ask poll() for. */
static short net_interest(const struct conn *c, bool want)
{
	bool room = net_hungry(c, want);

	if (c->phase == CP_CONNECT)
		return POLLOUT;
	if (c->tls)
		return tls_wants(c->tls, room, buf_len(&c->out) != 0);
	return (short)((room ? POLLIN : 0) | (buf_len(&c->out) ? POLLOUT : 0));
}

/* Is there something to do that poll() can't know? */
static bool net_eager(const struct conn *c, bool want)
{
	return c->again || (c->tls && net_hungry(c, want) && tls_pending(c->tls));
}

/* Has everything that was said left this process? */
static bool net_said(const struct conn *c)
{
	return !buf_len(&c->out) && (!c->tls || !tls_unsent(c->tls));
}

/* Puts bytes of ours into an empty c->out. They fit, or it is a bug. */
static bool net_say(struct rp *rp, struct conn *c, struct sl bytes)
{
	return buf_take(&rp->pool, &c->out) && buf_add(&c->out, bytes) == bytes.n;
}

/* We will send no more. */
static void net_bye(struct conn *c)
{
	if (c->shut)
		return;
	c->shut = true;
	if (c->tls)
		tls_bye(c->tls);
	else
		sys_shut(c->fd);
}

/* Closes so that the peer can read our last words although it is still sending (RFC 9112 9.6):
 * what comes is dropped for a while. */
static void net_linger(struct rp *rp, struct conn *c)
{
	bool said = c->deaf || c->eof;

	net_bye(c);
	if (c->tls) {
		(void)net_io(rp, c, false);
		if (!c->deaf)
			sys_shut(c->fd);
		tls_close(c->tls);
		c->tls = NULL;
	}
	if (said) {
		net_close(rp, c);
		return;
	}
	buf_give(&rp->pool, &c->in);
	buf_give(&rp->pool, &c->out);
	c->phase = CP_LINGER;
	c->again = false;
	c->read_at = rp->now;
	tm_set(&c->due, rp->now, RP_LINGER_MS);
	c->t = NULL;
}

/* Reads and drops; true when it is time to close. Who sends on in earnest, as browsers do with an
 * upload that was refused, reads the answer when all is sent: it has more time. */
static bool net_lingered(struct rp *rp, struct conn *c)
{
	uint8_t drop[4096];

	for (int i = 0; i < 4; i++) {
		ssize_t n = sys_read(c->fd, drop, sizeof drop);
		if (n < 0 && errno == EAGAIN)
			break;
		if (n <= 0)
			return true;
		c->lingered += (uint64_t)n;
	}
	if (c->lingered > RP_LINGER_MAX && rp->now - c->read_at < RP_LINGER_ALL) {
		c->lingered = 0;
		tm_set(&c->due, rp->now, RP_LINGER_MS);
	}
	return tm_due(&c->due, rp->now);
}

RP_SELDOM

/* The PROXY protocol, versions 1 and 2, as HAProxy's proxy-protocol.txt has it: what a peer of
 * --accept-proxy begins with, and what a target with send-proxy= is told. */

#define NET_PROXY_V1 107  /* bytes of the longest version 1 line, CRLF included */
#define NET_PROXY_V2 1024 /* bytes of addresses and TLVs that we take; real ones are below 600 */

static const char net_proxy_sign[12] = "\r\n\r\n\0\r\nQUIT\n"; /* 2.2 */

/* local: the header names no client; the connection is the peer's own (a health check, say), and
 * the addresses of the socket hold. */
struct net_proxy {
	bool local;
	struct addr src, dst;
};

/* An unsigned number of n bytes in network order. */
static uint32_t net_proxy_big(const char *p, size_t n)
{
	uint32_t v = 0;

	while (n--)
		v = v << 8 | (uint8_t)*p++;
	return v;
}

static void net_proxy_port(uint8_t *p, uint16_t port)
{
	p[0] = (uint8_t)(port >> 8);
	p[1] = (uint8_t)port;
}

/* CRC-32C (Castagnoli, RFC 3720 appendix B.4) of a, going on from crc (0 at first). */
static uint32_t net_proxy_crc(uint32_t crc, struct sl a)
{
	crc = ~crc;
	for (size_t i = 0; i < a.n; i++) {
		crc ^= (uint8_t)a.p[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (0x82f63b78 & (0 - (crc & 1)));
	}
	return ~crc;
}

/* The next word of a version 1 line; words stand one SP apart. */
static bool net_proxy_word(struct sl *rest, struct sl *out)
{
	return sl_cut(rest, ' ', out) && out->n;
}

/* An address and port of the family that the line names; no leading zeros. */
static bool net_proxy_end(struct sl ip, struct sl port, bool four, struct addr *out)
{
	uint64_t n = 0;

	if ((sl_find(ip, ':') == ip.n) != four || !addr_parse_ip(ip, out->ip))
		return false;
	if (!sl_number(port, 65535, &n) || (port.n > 1 && port.p[0] == '0'))
		return false;
	out->port = (uint16_t)n;
	return true;
}

/* 2.1: "PROXY TCP4 1.2.3.4 5.6.7.8 1234 80" CRLF, or "PROXY UNKNOWN" and anything up to CRLF. */
static ptrdiff_t net_proxy_v1(struct sl bytes, struct net_proxy *out)
{
	struct sl line = sl_mk(bytes.p, bytes.n < NET_PROXY_V1 ? bytes.n : NET_PROXY_V1);
	size_t cr = sl_plain(line);
	struct sl word[6], rest = sl_mk(line.p, cr);

	if (cr < line.n && line.p[cr] != '\r')
		return -1;
	if (cr + 1 >= line.n && line.n < NET_PROXY_V1)
		return 0;
	if (sl_at(line, cr + 1) != '\n')
		return -1;
	for (size_t i = 0; i < RP_LEN(word); i++) {
		if (!net_proxy_word(&rest, &word[i]))
			return -1;
		if (i == 1 && sl_is(word[1], "UNKNOWN")) {
			out->local = true;
			return (ptrdiff_t)cr + 2;
		}
	}
	bool four = sl_is(word[1], "TCP4");
	if (rest.p || !(four || sl_is(word[1], "TCP6")) ||
		!net_proxy_end(word[2], word[4], four, &out->src) ||
		!net_proxy_end(word[3], word[5], four, &out->dst))
		return -1;
	return (ptrdiff_t)cr + 2;
}

/* 2.2.7: type, length, value, up to the end of the header; of all types only the checksum (0x03)
 * concerns us: over the whole header with its own four bytes as zeros. */
static bool net_proxy_tlvs(struct sl head, size_t at)
{
	bool summed = false;

	while (at < head.n) {
		struct sl t = sl_rest(head, at);
		size_t n = (size_t)((uint8_t)sl_at(t, 1) << 8 | (uint8_t)sl_at(t, 2));
		if (t.n < 3 || n > t.n - 3)
			return false;
		if (t.p[0] == 0x03) {
			if (n != 4 || summed)
				return false;
			uint32_t crc = net_proxy_crc(0, sl_mk(head.p, at + 3));
			crc = net_proxy_crc(crc, sl_mk("\0\0\0\0", 4));
			if (net_proxy_crc(crc, sl_rest(head, at + 7)) != net_proxy_big(t.p + 3, 4))
				return false;
			summed = true;
		}
		at += 3 + n;
	}
	return true;
}

/* 2.2: signature, version and command, family and transport, length, addresses, TLVs. What is no
 * TCP over IPv4 or IPv6 is taken and says nothing about the client, as with LOCAL. */
static ptrdiff_t net_proxy_v2(struct sl bytes, struct net_proxy *out)
{
	static const uint8_t size[] = {0, 12, 36,
								   216}; /* of both addresses: unspec, IPv4, IPv6, unix */
	size_t n = bytes.n < 16 ? 0 : (size_t)((uint8_t)bytes.p[14] << 8 | (uint8_t)bytes.p[15]);
	uint8_t cmd = (uint8_t)sl_at(bytes, 12), family = (uint8_t)sl_at(bytes, 13);

	if ((bytes.n > 12 && cmd != 0x20 && cmd != 0x21) || n > NET_PROXY_V2 ||
		(bytes.n > 13 && (family >> 4 >= RP_LEN(size) || (family & 15) > 2)))
		return -1;
	if (bytes.n < 16 || bytes.n < 16 + n)
		return 0;
	if (cmd == 0x20) { /* LOCAL: whatever follows is skipped */
		out->local = true;
		return (ptrdiff_t)(16 + n);
	}
	if (n < size[family >> 4] || !net_proxy_tlvs(sl_mk(bytes.p, 16 + n), 16u + size[family >> 4]))
		return -1;
	const char *p = bytes.p + 16; /* two addresses, then two ports */
	struct addr four = {{[10] = 0xff, [11] = 0xff}, 0};
	size_t len = family == 0x11 ? 4 : 16;
	out->src = out->dst = family == 0x11 ? four : (struct addr){{0}, 0};
	out->local = family != 0x11 && family != 0x21;
	if (!out->local) {
		memcpy(out->src.ip + 16 - len, p, len);
		memcpy(out->dst.ip + 16 - len, p + len, len);
		out->src.port = (uint16_t)net_proxy_big(p + 2 * len, 2);
		out->dst.port = (uint16_t)net_proxy_big(p + 2 * len + 2, 2);
	}
	return (ptrdiff_t)(16 + n);
}

/* Reads the header that a connection begins with. Returns >0 bytes consumed, 0 more are needed, -1
 * malformed; a first byte that can't begin a header is refused at once. *out is set when >0. */
static ptrdiff_t net_proxy_parse(struct sl bytes, struct net_proxy *out)
{
	bool v2 = sl_at(bytes, 0) == '\r';
	struct sl sign = v2 ? sl_mk(net_proxy_sign, sizeof net_proxy_sign) : sl_of("PROXY ");
	size_t n = bytes.n < sign.n ? bytes.n : sign.n;

	*out = (struct net_proxy){.local = false};
	if (!bytes.n)
		return 0;
	if (memcmp(bytes.p, sign.p, n) != 0)
		return -1;
	if (n < sign.n)
		return 0;
	return v2 ? net_proxy_v2(bytes, out) : net_proxy_v1(bytes, out);
}

/* An address for a version 1 line; IPv4 on a TCP6 line is v4-mapped. */
static void net_proxy_say(struct sb *b, const struct addr *a, bool six)
{
	char text[56];
	size_t n = addr_print(a, false, text);

	sb_str(b, six && addr_is4(a->ip) ? " ::ffff:" : " ");
	sb_put(b, sl_mk(text, n));
}

/* Writes a header of version 1 or 2 and returns its length. src or dst NULL: a connection of our
 * own, such as a health check (v1 UNKNOWN, v2 LOCAL). */
static size_t net_proxy_write(int version, const struct addr *src, const struct addr *dst,
							  uint8_t out[108])
{
	bool known = src && dst, four = known && addr_is4(src->ip) && addr_is4(dst->ip);
	size_t len = four ? 4 : 16, n = !known ? 0 : 2 * len + 4;
	struct sb b = sb_of(out, 108);

	if (version == 1) {
		sb_str(&b, !known ? "PROXY UNKNOWN" : four ? "PROXY TCP4" : "PROXY TCP6");
		if (known) {
			net_proxy_say(&b, src, !four);
			net_proxy_say(&b, dst, !four);
			sb_fmt(&b, " %u %u", src->port, dst->port);
		}
		sb_crlf(&b);
		return b.n;
	}
	memcpy(out, net_proxy_sign, sizeof net_proxy_sign);
	out[12] = known ? 0x21 : 0x20;
	out[13] = !known ? 0 : four ? 0x11 : 0x21;
	out[15] = (uint8_t)n; /* at most 36 */
	out[14] = 0;
	if (known) {
		memcpy(out + 16, src->ip + 16 - len, len);
		memcpy(out + 16 + len, dst->ip + 16 - len, len);
		net_proxy_port(out + 16 + 2 * len, src->port);
		net_proxy_port(out + 18 + 2 * len, dst->port);
	}
	return 16 + n;
}

/* ==[ JAIL ]============================================= prefix: jail_ ==
 * Giving up privileges, once, after everything that needs root was opened: chroot, bounding set,
 * groups, gid, uid, capabilities, no-new-privs, limits. The helper processes do the same.
 * Owns: nothing.
 * Fails: -1 after saying why; the proxy then does not start.
 * Door: jail_prepare jail_enter jail_warnings
 */

#define JAIL_GROUPS 32 /* supplementary groups that are taken over */

struct jail {
	bool user; /* change to these */
	uid_t uid;
	gid_t gid;
	gid_t group[JAIL_GROUPS];
	size_t ngroup;
	const char *root; /* borrows from the snapshot that it was prepared with */
};

/* The next line of a text whose first part is `name`, or any line when name is empty; its parts,
 * which a colon separates. false: there is none. */
static bool jail_line(struct sl *text, struct sl name, struct sl part[4])
{
	struct sl line;

	while (sl_cut(text, '\n', &line)) {
		for (int i = 0; i < 4; i++)
			if (!sl_cut(&line, ':', &part[i]))
				part[i] = sl_mk("", 0);
		if (part[0].n && (!name.n || sl_eq(part[0], name)))
			return true;
	}
	return false;
}

/* An id as a number that is none of the two with a meaning of their own. */
static bool jail_id(struct sl text, uint32_t *out)
{
	uint64_t n = 0;

	if (!sl_number(text, UINT32_MAX - 1, &n))
		return false;
	*out = (uint32_t)n;
	return true;
}

/* The groups whose lists name the user. */
static void jail_groups(struct jail *j, struct sl user, struct sl groups)
{
	struct sl part[4], one;

	while (j->ngroup < JAIL_GROUPS && jail_line(&groups, sl_of(""), part))
		while (j->ngroup < JAIL_GROUPS && sl_item(&part[3], &one))
			if (sl_eq(one, user) && jail_id(part[2], &j->group[j->ngroup]))
				j->ngroup++;
}

/* Looks up --user NAME[:GROUP] while /etc is still there. The files are read by hand: getpwnam(3) of
 * a static musl reads nothing else, and is 7 KB. 0, or -1 after saying what is unknown. */
static int jail_prepare(const struct conf *cf, struct jail *j)
{
	struct sl rest = sl_of(cf->user), user, group = {"", 0}, part[4], in;
	size_t n = 0;

	*j = (struct jail){.root = cf->chroot_dir};
	if (!cf->user)
		return 0;
	(void)sl_cut(&rest, ':', &user);
	(void)sl_cut(&rest, '\n', &group);
	char *users = sys_slurp("/etc/passwd", 1 << 20, &n), *groups = NULL;
	in = sl_of(users);
	bool good = users && user.n && jail_line(&in, user, part);
	if (good)
		good = jail_id(part[2], &j->uid) && jail_id(part[3], &j->gid);
	else if ((good = jail_id(user, &j->uid)))
		j->gid = j->uid;
	if (!good)
		log_event(LOG_ERR, "user \"%s\": no such user; a name of /etc/passwd or a number fits",
				  cf->user);
	groups = sys_slurp("/etc/group", 1 << 20, &n);
	in = sl_of(groups);
	if (groups)
		jail_groups(j, user, in);
	if (good && group.n && !(groups && jail_line(&in, group, part) && jail_id(part[2], &j->gid)) &&
		!jail_id(group, &j->gid)) {
		log_event(LOG_ERR, "user \"%s\": no such group; a name of /etc/group or a number fits",
				  cf->user);
		good = false;
	}
	free(users);
	free(groups);
	j->user = good;
	return good ? 0 : -1;
}

static int jail_fault(const char *what)
{
	log_event(LOG_ERR, "can't give up privileges: %s: %s", what, strerror(errno));
	return -1;
}

/* Goes in. 0, or -1 after saying which step failed. */
static int jail_enter(const struct jail *j)
{
	struct {
		uint32_t version;
		int pid;
	} head = {0x20080522, 0}; /* _LINUX_CAPABILITY_VERSION_3 */
	uint32_t no_caps[6] = {0};
	struct rlimit none = {0, 0};

	if (j->root && (chroot(j->root) < 0 || chdir("/") < 0))
		return jail_fault("chroot");
	if (j->user) {
		/* The bounding set can be emptied while it is still root's; without root all of this is
		 * gone already, and a failure is fine. */
		for (unsigned long cap = 0; j->uid && cap < 64; cap++)
			(void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
		if (geteuid() == 0 && setgroups(j->ngroup, j->group) < 0)
			return jail_fault("setgroups");
		if (setgid(j->gid) < 0)
			return jail_fault("setgid");
		if (setuid(j->uid) < 0)
			return jail_fault("setuid");
		if (j->uid && setuid(0) == 0)
			return jail_fault("root could be had again");
		if (j->uid)
			(void)syscall(SYS_capset, &head, no_caps);
	}
	(void)setrlimit(RLIMIT_CORE, &none); /* a core would hold private keys */
	(void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	return 0;
}

static void jail_try(const struct jail *j, const char *path)
{
	int fd = path && *path ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;

	if (path && *path && fd < 0 && (j->root || errno != ENOENT))
		log_event(LOG_WARN, "warning: HUP will not be able to read %s: %s", path, strerror(errno));
	sys_close(fd);
}

/* Which files HUP could not read any more: tried out by a child that goes into the jail, since only
 * the kernel knows all that counts. */
static void jail_try_all(const struct conf *cf, const struct jail *j)
{
	if (jail_enter(j) < 0)
		return;
	for (size_t i = 0; i < cf->files.n; i++)
		jail_try(j, cf->files.v[i]);
	for (size_t i = 0; i < cf->cert.n; i++) {
		char path[PATH_MAX];
		struct sl rest = sl_of(cf->cert.v[i]), one;
		while (sl_cut(&rest, ',', &one)) {
			(void)snprintf(path, sizeof path, "%.*s", (int)one.n, one.p);
			jail_try(j, path);
		}
	}
	for (size_t i = 0; i < cf->cert_dir.n; i++)
		jail_try(j, cf->cert_dir.v[i]);
	for (size_t i = 0; i < cf->nroute; i++) {
		jail_try(j, cf->route[i]->auth_file);
		jail_try(j, cf->route[i]->ca_file);
		jail_try(j, cf->route[i]->error_page_file);
	}
	if (!log_reachable())
		log_event(LOG_WARN, "warning: USR1 will not be able to open %s again: %s", cf->log,
				  strerror(errno));
}

/* What a person should know: that it stays root, or which files can't be read again. Call before
 * jail_enter. */
static void jail_warnings(const struct conf *cf, const struct jail *j)
{
	if (geteuid() == 0 && (!j->user || !j->uid))
		log_event(LOG_WARN, "warning: it runs as root; --user NAME gives that up after the start");
	if (!j->root && !j->user)
		return;
	pid_t pid = fork();
	if (pid == 0) {
		jail_try_all(cf, j);
		_exit(0);
	}
	if (pid > 0)
		(void)waitpid(pid, NULL, 0);
}

/* ==[ DNS ]============================================== prefix: dns_ ==
 * Helper processes for what may block: getaddrinfo() and crypt(). Each kind has one helper behind a
 * socketpair, forked before privileges are given up, so /etc/hosts, search domains and dnsmasq work
 * as everywhere. A helper forks once for each question (at most DNS_AT_ONCE at a time), so that one
 * lost name does not delay another, and a crash takes one answer with it, not the helper. It has
 * the user that the proxy will have.
 * Owns: struct dns_room, the helpers' processes.
 * Fails: dns_start with NULL; a question to a helper that died is answered with good=false.
 * Door: dns_start dns_confine dns_need dns_running dns_trim dns_stop dns_fd dns_next dns_ask_name dns_ask_hash
 */

enum dns_kind { DNS_NAME, DNS_HASH, DNS_KINDS };

#define DNS_FOR_NAMES 1u
#define DNS_FOR_HASHES 2u
#define DNS_AT_ONCE 16	   /* names that are looked up at a time */
#define DNS_HASHES 2	   /* passwords that are checked at a time, on half of the processors */
#define DNS_NICE 5		   /* of who checks them: below everything that serves */
#define DNS_QUEUE 256	   /* questions under way; more are refused */
#define DNS_TEXT 512	   /* bytes of a name, or of a hash and a password */
#define DNS_REVIVE_MS 1000 /* a helper that died is started anew after this */

struct dns_question {
	uint64_t cookie;
	uint16_t n, split; /* bytes of text; where the password begins */
	char text[DNS_TEXT];
};

struct dns_answer {
	enum dns_kind kind;
	uint64_t cookie;
	bool done; /* false: the helper failed, not what was asked about */
	bool good;
	struct addr addr[RP_ADDRS_MAX];
	unsigned naddr;
};

struct dns_helper {
	int fd; /* owns; -1: not running */
	pid_t pid;
	uint64_t died_at;
	uint64_t asked[DNS_QUEUE]; /* cookies of the questions under way */
	unsigned nasked;
	bool failing; /* those are being answered with good=false */
};

struct dns_room {
	struct jail jail; /* of the helpers: the user alone, since /etc must be there for them */
	struct dns_helper helper[DNS_KINDS];
};

/* ---- in the helper ---- */

static void dns_resolve(const struct dns_question *q, struct dns_answer *a)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG}, *list = NULL;
	char name[DNS_TEXT + 1];

	memcpy(name, q->text, q->n);
	name[q->n] = 0;
	int err = getaddrinfo(name, NULL, &hints, &list);
	if (err == EAI_NONAME || err == EAI_BADFLAGS) { /* AI_ADDRCONFIG hides loopback on some */
		hints.ai_flags = 0;
		err = getaddrinfo(name, NULL, &hints, &list);
	}
	for (struct addrinfo *i = err ? NULL : list; i && a->naddr < RP_ADDRS_MAX; i = i->ai_next) {
		struct sockaddr_storage ss = {.ss_family = AF_UNSPEC};
		if (i->ai_addrlen > sizeof ss || (i->ai_family != AF_INET && i->ai_family != AF_INET6))
			continue;
		memcpy(&ss, i->ai_addr, i->ai_addrlen);
		addr_from_sa(&ss, &a->addr[a->naddr++]);
	}
	if (!err)
		freeaddrinfo(list);
	a->good = a->naddr > 0;
}

/* Writes n characters of the crypt alphabet for the low bits of v. */
static void dns_itoa64(struct sb *b, uint32_t v, int n)
{
	static const char set[] = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

	for (; n; n--, v >>= 6)
		sb_chr(b, set[v & 63]);
}

static void dns_add(br_hash_compat_context *c, struct sl a)
{
	c->vtable->update(&c->vtable, a.p, a.n);
}

/* Adds n bytes of a digest that is repeated. */
static void dns_fill(br_hash_compat_context *c, struct sl h, size_t n)
{
	for (; n > h.n; n -= h.n)
		dns_add(c, h);
	dns_add(c, sl_mk(h.p, n));
}

/* The digest of what was added; then the next may be begun. */
static void dns_sum(br_hash_compat_context *c, uint8_t *h)
{
	const br_hash_class *kind = c->vtable;

	kind->out(&c->vtable, h);
	kind->init(&c->vtable);
}

/* htpasswd's $apr1$SALT$: a thousand rounds of MD5 (Apache's apr_md5.c describes the order). Writes
 * what follows that. */
static void dns_apr1(struct sl salt, struct sl pw, struct sb *b)
{
	br_hash_compat_context md;
	uint8_t h[16];
	struct sl half = sl_mk(h, sizeof h);

	br_md5_vtable.init(&md.vtable);
	dns_add(&md, pw);
	dns_add(&md, salt);
	dns_add(&md, pw);
	dns_sum(&md, h);
	dns_add(&md, pw);
	dns_add(&md, sl_of("$apr1$"));
	dns_add(&md, salt);
	dns_fill(&md, half, pw.n);
	for (size_t n = pw.n; n; n >>= 1)
		dns_add(&md, n & 1 ? sl_mk("", 1) : sl_mk(pw.p, 1));
	dns_sum(&md, h);
	for (int i = 0; i < 1000; i++) {
		dns_add(&md, i & 1 ? pw : half);
		if (i % 3)
			dns_add(&md, salt);
		if (i % 7)
			dns_add(&md, pw);
		dns_add(&md, i & 1 ? half : pw);
		dns_sum(&md, h);
	}
	for (int i = 0; i < 5; i++)
		dns_itoa64(b, (uint32_t)h[i] << 16 | (uint32_t)h[i + 6] << 8 | h[i == 4 ? 5 : i + 12], 4);
	dns_itoa64(b, h[11], 2);
}

/* $5$SALT$ and $6$SALT$: rounds of SHA-256 or SHA-512 (Drepper's SHA-crypt.txt describes the order,
 * and takes fewer rounds for 1000). Writes what follows that. crypt(3) has it, too, but not in every
 * libc, and with SHA code of its own. */
static void dns_sha_crypt(const br_hash_class *kind, struct sl salt, struct sl pw, uint64_t rounds,
						  struct sb *b)
{
	br_hash_compat_context c;
	uint8_t h[64], keys[64], salts[64];
	size_t n = kind == &br_sha512_vtable ? 64 : 32;
	struct sl half = sl_mk(h, n), key = sl_mk(keys, n), spice = sl_mk(salts, salt.n);

	kind->init(&c.vtable);
	dns_add(&c, pw);
	dns_add(&c, salt);
	dns_add(&c, pw);
	dns_sum(&c, h);
	dns_add(&c, pw);
	dns_add(&c, salt);
	dns_fill(&c, half, pw.n);
	for (size_t i = pw.n; i; i >>= 1)
		dns_add(&c, i & 1 ? half : pw);
	dns_sum(&c, h);
	for (size_t i = 0; i < pw.n; i++)
		dns_add(&c, pw);
	dns_sum(&c, keys);
	for (size_t i = 0; i < 16u + h[0]; i++)
		dns_add(&c, salt);
	dns_sum(&c, salts);
	for (uint32_t i = 0; i < (rounds > 1000 ? rounds : 1000); i++) {
		if (i & 1)
			dns_fill(&c, key, pw.n);
		else
			dns_add(&c, half);
		if (i % 3)
			dns_add(&c, spice);
		if (i % 7)
			dns_fill(&c, key, pw.n);
		if (i & 1)
			dns_add(&c, half);
		else
			dns_fill(&c, key, pw.n);
		dns_sum(&c, h);
	}
	/* three bytes, a third of the digest apart, and which of them is first goes round */
	size_t third = n / 3, at[3] = {0, third, 2 * third}, turn = n == 64 ? 1 : 2;
	for (size_t i = 0; i < third; i++) {
		const size_t was[3] = {at[0], at[1], at[2]};
		dns_itoa64(b, (uint32_t)h[was[0]] << 16 | (uint32_t)h[was[1]] << 8 | h[was[2]], 4);
		for (size_t j = 0; j < 3; j++)
			at[j] = was[(j + turn) % 3] + 1;
	}
	dns_itoa64(b, n == 64 ? h[63] : (uint32_t)h[31] << 8 | h[30], n == 64 ? 2 : 3);
}

/* Does the password fit the hash? Both are 0-terminated. */
static bool dns_verify(const char *hash, const char *pw)
{
	struct sl h = sl_of(hash), p = sl_of(pw), kind = sl_mk(h.p, h.n < 3 ? h.n : 3);
	bool apr1 = strncmp(hash, "$apr1$", 6) == 0, sha512 = sl_is(kind, "$6$");
	char text[88];

	if (apr1 || sha512 || sl_is(kind, "$5$")) {
		struct sl rest = sl_rest(h, apr1 ? 6 : 3), salt;
		struct sb b = sb_of(text, sizeof text);
		uint64_t rounds = 5000;
		bool whole = sl_cut(&rest, '$', &salt);
		if (!apr1 && salt.n > 7 && memcmp(salt.p, "rounds=", 7) == 0)
			whole = sl_number(sl_rest(salt, 7), 9999999, &rounds) && sl_cut(&rest, '$', &salt);
		if (!whole || salt.n > (apr1 ? 8 : 16) || p.n > 256)
			return false;
		if (apr1)
			dns_apr1(salt, p, &b);
		else
			dns_sha_crypt(sha512 ? &br_sha512_vtable : &br_sha256_vtable, salt, p, rounds, &b);
		return sl_same(sl_mk(text, b.n), rest);
	}
	if (strncmp(hash, "{SHA}", 5) == 0) {
		br_sha1_context sha;
		uint8_t is[20], should[24];
		br_sha1_init(&sha);
		br_sha1_update(&sha, p.p, p.n);
		br_sha1_out(&sha, is);
		return sl_base64(sl_rest(h, 5), should, sizeof should) == 20 &&
			   sl_same(sl_mk(is, 20), sl_mk(should, 20));
	}
#if RP_CRYPT
	const char *made = sl_is(sl_mk(h.p, kind.n < 2 ? kind.n : 2), "$2") ? crypt(pw, hash) : NULL;
	return made && made[0] != '*' && sl_same(sl_of(made), h);
#else
	return false;
#endif
}

static void dns_judge(struct dns_question *q, struct dns_answer *a)
{
	char hash[DNS_TEXT + 1], pw[DNS_TEXT + 1];

	memcpy(hash, q->text, q->split);
	hash[q->split] = 0;
	memcpy(pw, q->text + q->split, (size_t)q->n - q->split);
	pw[q->n - q->split] = 0;
	a->good = !memchr(pw, 0, (size_t)q->n - q->split) && dns_verify(hash, pw);
	memset(pw, 0, sizeof pw); /* the process ends with this, too */
	memset(q->text, 0, sizeof q->text);
}

/* Answers one question and ends. */
_Noreturn static void dns_work(int fd, enum dns_kind kind, struct dns_question *q)
{
	struct dns_answer a = {.kind = kind, .cookie = q->cookie, .done = true};

	(void)alarm(120); /* whatever getaddrinfo() does, it does not do it for ever */
	if (kind == DNS_NAME)
		dns_resolve(q, &a);
	else
		dns_judge(q, &a);
	(void)send(fd, &a, sizeof a, MSG_NOSIGNAL);
	_exit(0);
}

static void dns_woken(int sig)
{
	(void)sig; /* it ends ppoll(), that is all */
}

/* Keeps nothing of the proxy but the socket: no root, no descriptor, no signal. */
static void dns_strip(int fd, const struct jail *jail)
{
	static const int back[] = {SIGHUP, SIGUSR1, SIGUSR2, SIGTERM, SIGINT};
	struct sigaction ign = {.sa_handler = SIG_IGN}, dfl = {.sa_handler = SIG_DFL},
					 wake = {.sa_handler = dns_woken};
	struct rlimit rl;
	sigset_t chld;

	for (size_t i = 0; i < RP_LEN(back); i++)
		(void)sigaction(back[i], &ign, NULL); /* the end of the socket is the signal */
	(void)sigaction(SIGALRM, &dfl, NULL);
	(void)sigaction(SIGCHLD, &wake, NULL);
	(void)sigemptyset(&chld);
	(void)sigaddset(&chld, SIGCHLD);
	(void)sigprocmask(SIG_BLOCK, &chld, NULL); /* but in ppoll() */
	int top = getrlimit(RLIMIT_NOFILE, &rl) == 0 && rl.rlim_cur < 65536 ? (int)rl.rlim_cur : 65536;
	for (int i = 0; i < top; i++)
		if (i != fd && i != 2)
			(void)close(i);
	(void)prctl(PR_SET_NAME, "rproxy-helper");
	if (jail_enter(jail) < 0)
		_exit(1);
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* a change of user would take it back */
}

/* The next question. 1; 0 for none now; -1: the proxy is gone. */
static int dns_hear(int fd, struct dns_question *q)
{
	ssize_t n = recv(fd, q, sizeof *q, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	return n == (ssize_t)sizeof *q && q->n <= DNS_TEXT && q->split <= q->n ? 1 : -1;
}

/* A worker, and what it is asked. */
struct dns_worker {
	pid_t pid; /* 0: none */
	uint64_t cookie;
};

/* How many questions are worked on at a time. Who computes may not have all processors: on what it
 * leaves free the others wake up at once, whatever the scheduler thinks of priorities. */
static unsigned dns_at_once(enum dns_kind kind)
{
	long half = sysconf(_SC_NPROCESSORS_ONLN) / 2;

	return kind == DNS_NAME	   ? DNS_AT_ONCE
		   : half < 1		   ? 1
		   : half < DNS_HASHES ? (unsigned)half
							   : DNS_HASHES;
}

/* Forgets workers that ended, and answers for those that came to a bad end. Returns a free place,
 * NULL when all n are busy. */
static struct dns_worker *dns_reap(int fd, enum dns_kind kind, struct dns_worker *w, unsigned n)
{
	struct dns_worker *spare = NULL;

	for (unsigned i = 0; i < n; i++) {
		int status = 0;
		if (w[i].pid && waitpid(w[i].pid, &status, WNOHANG) == w[i].pid) {
			struct dns_answer a = {.kind = kind, .cookie = w[i].cookie};
			if (status)
				(void)send(fd, &a, sizeof a, MSG_NOSIGNAL);
			w[i].pid = 0;
		}
		if (!w[i].pid)
			spare = &w[i];
	}
	return spare;
}

/* The helper: a fork for each question, until the proxy is gone. */
_Noreturn static void dns_serve(int fd, enum dns_kind kind, const struct jail *jail)
{
	struct dns_worker workers[DNS_AT_ONCE] = {{0}};
	struct dns_question q;
	sigset_t none;
	unsigned most = dns_at_once(kind);
	pid_t self = getpid();
	int got = 0;

	if (kind == DNS_HASH)
		(void)setpriority(PRIO_PROCESS, 0, DNS_NICE);
	dns_strip(fd, jail);
	(void)sigemptyset(&none);
	while (got >= 0) {
		struct dns_worker *w = dns_reap(fd, kind, workers, most);
		struct pollfd p = {.fd = fd, .events = w ? POLLIN : 0};
		if (ppoll(&p, 1, NULL, &none) < 0)
			continue;
		if (p.revents & POLLHUP)
			break;
		if (!w || (got = dns_hear(fd, &q)) <= 0)
			continue;
		*w = (struct dns_worker){.pid = fork(), .cookie = q.cookie};
		if (w->pid == 0) {
			(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
			if (getppid() == self)
				dns_work(fd, kind, &q);
			_exit(1);
		}
		if (w->pid < 0) {
			struct dns_answer a = {.kind = kind, .cookie = q.cookie};
			(void)send(fd, &a, sizeof a, MSG_NOSIGNAL);
			w->pid = 0;
		}
		memset(&q, 0, sizeof q);
	}
	_exit(0);
}

/* ---- in the proxy ---- */

static int dns_fork(struct dns_room *room, enum dns_kind kind)
{
	struct dns_helper *h = &room->helper[kind];
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -1;
	pid_t pid = fork();
	if (pid == 0)
		dns_serve(pair[1], kind, &room->jail);
	int err = errno;
	(void)close(pair[1]);
	if (pid < 0) {
		(void)close(pair[0]);
		errno = err;
		return -1;
	}
	h->fd = pair[0];
	h->pid = pid;
	return 0;
}

/* Whom the helpers that are started from now on run as. */
static void dns_confine(struct dns_room *room, const struct jail *jail)
{
	room->jail = *jail;
	room->jail.root = NULL;
}

/* Makes sure that the helpers for flags run. 0 or -1 with errno. */
static int dns_need(struct dns_room *room, unsigned flags)
{
	for (unsigned k = 0; k < DNS_KINDS; k++)
		if ((flags >> k & 1) && room->helper[k].fd < 0 && dns_fork(room, (enum dns_kind)k) < 0)
			return -1;
	return 0;
}

static void dns_end(struct dns_helper *h)
{
	(void)close(h->fd);
	if (waitpid(h->pid, NULL, WNOHANG) == 0) { /* else its number may be another's by now */
		(void)kill(h->pid, SIGKILL);
		(void)waitpid(h->pid, NULL, 0);
	}
	h->fd = -1;
}

/* Which helpers run, as flags. */
static unsigned dns_running(const struct dns_room *room)
{
	unsigned flags = 0;

	for (unsigned k = 0; k < DNS_KINDS; k++)
		flags |= (unsigned)(room->helper[k].fd >= 0) << k;
	return flags;
}

/* Ends the helpers that are not among flags; nothing may be under way there. */
static void dns_trim(struct dns_room *room, unsigned flags)
{
	for (unsigned k = 0; k < DNS_KINDS; k++)
		if (room->helper[k].fd >= 0 && !(flags >> k & 1))
			dns_end(&room->helper[k]);
}

/* Ends the helpers and frees the room; NULL is fine. */
static void dns_stop(struct dns_room *room)
{
	if (room)
		dns_trim(room, 0);
	free(room);
}

/* Starts the helpers that flags ask for; NULL with errno. */
static struct dns_room *dns_start(unsigned flags)
{
	struct dns_room *room = calloc(1, sizeof *room);

	if (!room)
		return NULL;
	room->helper[DNS_NAME].fd = room->helper[DNS_HASH].fd = -1;
	if (dns_need(room, flags) == 0)
		return room;
	int err = errno;
	dns_stop(room);
	errno = err;
	return NULL;
}

/* The descriptor to wait at for answers of a kind, -1 for none. */
static int dns_fd(const struct dns_room *room, enum dns_kind kind)
{
	return room->helper[kind].fd;
}

/* The helper is gone: what it was asked fails, and it is started anew. */
static void dns_died(struct dns_room *room, enum dns_kind kind)
{
	struct dns_helper *h = &room->helper[kind];

	dns_end(h);
	h->died_at = sys_now();
	h->failing = true;
	log_event(LOG_WARN, "the helper for %s died; it is started anew",
			  kind == DNS_NAME ? "names" : "passwords");
}

static void dns_forget(struct dns_helper *h, uint64_t cookie)
{
	for (unsigned i = 0; i < h->nasked; i++)
		if (h->asked[i] == cookie) {
			h->asked[i] = h->asked[--h->nasked];
			return;
		}
}

/* The next answer that is there; false: none now. */
static bool dns_next(struct dns_room *room, struct dns_answer *out)
{
	for (unsigned k = 0; k < DNS_KINDS; k++) {
		struct dns_helper *h = &room->helper[k];
		ssize_t n = h->fd < 0 ? -1 : recv(h->fd, out, sizeof *out, MSG_DONTWAIT);
		if (n == (ssize_t)sizeof *out) {
			dns_forget(h, out->cookie);
			return true;
		}
		if (h->fd >= 0 && (n >= 0 || (errno != EAGAIN && errno != EINTR)))
			dns_died(room, (enum dns_kind)k);
		if (h->failing && h->nasked) {
			*out = (struct dns_answer){.kind = (enum dns_kind)k, .cookie = h->asked[--h->nasked]};
			return true;
		}
		h->failing = false;
	}
	return false;
}

static int dns_ask(struct dns_room *room, enum dns_kind kind, struct dns_question *q)
{
	struct dns_helper *h = &room->helper[kind];

	if (h->fd < 0 && (sys_now() - h->died_at < DNS_REVIVE_MS || dns_fork(room, kind) < 0))
		return -1;
	if (h->nasked == DNS_QUEUE || send(h->fd, q, sizeof *q, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return -1;
	h->asked[h->nasked++] = q->cookie;
	return 0;
}

/* Asks for a name's addresses; the answer carries the cookie. -1: not now. */
static int dns_ask_name(struct dns_room *room, uint64_t cookie, struct sl name)
{
	struct dns_question q = {.cookie = cookie, .n = (uint16_t)name.n};

	if (name.n >= DNS_TEXT)
		return -1;
	memcpy(q.text, name.p, name.n);
	return dns_ask(room, DNS_NAME, &q);
}

/* Asks whether a password fits a hash as htpasswd writes it. -1: not now. */
static int dns_ask_hash(struct dns_room *room, uint64_t cookie, struct sl hash, struct sl password)
{
	struct dns_question q = {.cookie = cookie, .split = (uint16_t)hash.n};

	if (hash.n + password.n >= DNS_TEXT)
		return -1;
	q.n = (uint16_t)(hash.n + password.n);
	memcpy(q.text, hash.p, hash.n);
	memcpy(q.text + hash.n, password.p, password.n);
	int r = dns_ask(room, DNS_HASH, &q);
	memset(&q, 0, sizeof q);
	return r;
}

RP_OFTEN

/* ==[ UP ]=============================================== prefix: up_ ==
 * The targets: which one is next, what is known of their health, their names' addresses, their idle
 * connections, and how they are woken. What is known belongs to the target's key, so it outlives a
 * reload of the configuration.
 * Owns: struct up.  Borrows: idle connections (CO_IDLE, in newest-first lists).
 * Fails: up_dial with NULL and the reason.
 * Spec: RFC 9112 9.3 and 9.6; the magic packet as AMD published it.
 * Door: up_of up_hold up_drop up_pick up_dial up_introduce up_advance up_report up_take up_keep
 *       up_retire up_reap_one up_names up_answer up_step up_check_io up_wake up_addrs up_close
 *       up_is_out up_names_needed
 */

#define UP_OUT_MS 1000		/* how long a failing target is left out at first; it doubles */
#define UP_OUT_MAX_MS 30000 /* and at most */
#define UP_FRESH_MS 60000	/* an address of a name is looked up again after this long */
#define UP_ASK_MS 1000		/* from an answer for a name to the next question */
#define UP_STALE_MS 5000	/* the same while nobody waits for it and DNS fails */
#define UP_CHECK_MS 10000	/* between two active checks */
#define UP_CHECK_WAIT_MS 5000
#define UP_CHECKS_MAX 32 /* checks under way at a time: half of the spare connections */
#define UP_WAKE_MS 10000 /* between two magic packets */

struct up {
	char *key; /* owns; NULL: a free slot */
	uint32_t holds;
	uint32_t serial; /* of the slot's use: what was asked for an earlier one is not for this one */
	struct addr addr[RP_ADDRS_MAX]; /* of a name: its last good answer; the port is unset */
	unsigned naddr;
	unsigned best; /* the one that worked last: tried first */
	bool asking;   /* the DNS child works on it */
	uint64_t asked_at, fresh_until;
	unsigned fails;		  /* in a row */
	uint64_t out_until;	  /* left out before this, when fails */
	uint64_t trial_until; /* one request is trying it: others not before this */
	bool checked;		  /* some route has it checked */
	bool down;			  /* what the active checks say */
	unsigned good, bad;	  /* checks in a row */
	uint64_t check_due;
	struct conn *check; /* borrows: the check under way */
	struct conn *idle;	/* borrows: newest first */
	unsigned nidle;
	uint32_t turn; /* of round-robin, kept in a route's first target */
	uint64_t woken_at;
	uint64_t served, failed;
};

static struct up *up_of(const struct rp *rp, const struct target *tg)
{
	return rp->up[tg->up];
}

/* Gives every target of a snapshot its struct up, by key; 0, or -1 without memory (then up_drop
 * undoes what was done: targets without one have up UINT32_MAX). */
static int up_hold(struct rp *rp, struct conf *cf)
{
	for (size_t i = 0; i < cf->nroute; i++)
		for (unsigned k = 0; k < cf->route[i]->ntarget; k++)
			cf->route[i]->target[k].up = UINT32_MAX;
	for (size_t i = 0; i < cf->nroute; i++) {
		for (unsigned k = 0; k < cf->route[i]->ntarget; k++) {
			struct target *tg = &cf->route[i]->target[k];
			uint32_t at = 0, spare = UINT32_MAX;
			for (; at < rp->nup && !(rp->up[at]->key && !strcmp(rp->up[at]->key, tg->key)); at++)
				if (!rp->up[at]->key)
					spare = at;
			if (at == rp->nup && spare != UINT32_MAX)
				at = spare;
			if (at == rp->nup) {
				struct up **more = realloc(rp->up, (rp->nup + 1) * sizeof *more);
				struct up *u = calloc(1, sizeof *u);
				if (more)
					rp->up = more;
				if (!more || !u) {
					free(u);
					return -1;
				}
				rp->up[rp->nup++] = u;
			}
			struct up *u = rp->up[at];
			if (!u->key && !(u->key = strdup(tg->key)))
				return -1;
			u->holds++;
			tg->up = at;
		}
	}
	return 0;
}

/* Takes an idle connection out of its list and closes it. */
static void up_retire(struct rp *rp, struct conn *c)
{
	struct up *u = rp->up[c->up];
	struct conn **at = &u->idle;

	while (*at && *at != c)
		at = &(*at)->next;
	if (*at) {
		*at = c->next;
		u->nidle--;
	}
	net_close(rp, c);
}

static void up_forget(struct rp *rp, struct up *u)
{
	while (u->idle)
		up_retire(rp, u->idle);
	net_close(rp, u->check);
	free(u->key);
	*u = (struct up){.serial = u->serial + 1};
}

/* A snapshot is about to go: lets its targets go. */
static void up_drop(struct rp *rp, struct conf *cf)
{
	for (size_t i = 0; i < cf->nroute; i++)
		for (unsigned k = 0; k < cf->route[i]->ntarget; k++) {
			struct target *tg = &cf->route[i]->target[k];
			if (tg->up != UINT32_MAX && --rp->up[tg->up]->holds == 0)
				up_forget(rp, rp->up[tg->up]);
			tg->up = UINT32_MAX;
		}
}

static void up_close(struct rp *rp)
{
	for (uint32_t i = 0; i < rp->nup; i++) {
		free(rp->up[i]->key);
		free(rp->up[i]);
	}
	free(rp->up);
	rp->up = NULL;
	rp->nup = 0;
}

/* Closes the idle connection that ends first; tls: of those that have a TLS engine, which is free at
 * once, while the connection itself is so in the next turn. False: there is none. */
static bool up_reap_one(struct rp *rp, bool tls)
{
	struct conn *oldest = NULL;

	for (uint32_t i = 0; i < rp->nlive; i++)
		if (rp->live[i]->kind == CO_IDLE && rp->live[i]->phase != CP_FREE &&
			(!tls || rp->live[i]->tls) && (!oldest || rp->live[i]->due < oldest->due))
			oldest = rp->live[i];
	if (oldest)
		up_retire(rp, oldest);
	return oldest != NULL;
}

/* ---- names ---- */

/* Asks for a name's addresses, unless the last answer came less than UP_ASK_MS ago. */
static void up_ask(struct rp *rp, const struct target *tg)
{
	struct up *u = up_of(rp, tg);

	if (u->asking || (u->asked_at && rp->now - u->asked_at < UP_ASK_MS))
		return;
	u->asked_at = rp->now;
	u->asking = dns_ask_name(rp->dns, (uint64_t)u->serial << 32 | tg->up, sl_of(tg->host)) == 0;
}

/* Which of a name's addresses this is; naddr: none of them. */
static unsigned up_which(const struct up *u, const struct addr *a)
{
	unsigned i = 0;

	while (i < u->naddr && memcmp(u->addr[i].ip, a->ip, sizeof a->ip) != 0)
		i++;
	return i;
}

/* Has the name moved away from where this connection leads? */
static bool up_left(const struct up *u, const struct conn *c)
{
	return u->naddr && up_which(u, &c->peer) == u->naddr;
}

/* This address works: it is the one to try first. */
static void up_prefer(struct up *u, const struct addr *a)
{
	unsigned i = up_which(u, a);

	u->best = i < u->naddr ? i : u->best;
}

/* An answer of the DNS child. The last good one is kept while no new one comes. */
static void up_answer(struct rp *rp, const struct dns_answer *a)
{
	uint32_t at = (uint32_t)a->cookie;
	struct up *u = at < rp->nup ? rp->up[at] : NULL;

	if (!u || u->serial != a->cookie >> 32 || !u->asking)
		return;
	u->asking = false;
	u->asked_at = rp->now;
	u->fresh_until = rp->now + (a->good ? UP_FRESH_MS : UP_STALE_MS);
	if (!a->good)
		return;
	struct addr was = u->addr[u->best];
	if (!u->naddr)
		u->fails = 0; /* it was left out for want of an address */
	memcpy(u->addr, a->addr, sizeof u->addr);
	u->naddr = a->naddr;
	u->best = 0;
	up_prefer(u, &was);
	for (struct conn *c = u->idle, *next; c; c = next) {
		next = c->next;
		if (up_left(u, c))
			up_retire(rp, c);
	}
}

enum up_names { UP_NAMED, UP_ASKING, UP_NAMELESS };

/* Does this target have an address to connect to? Asks for it when not. */
static enum up_names up_names(struct rp *rp, const struct target *tg)
{
	struct up *u = up_of(rp, tg);

	if (tg->path || tg->literal || u->naddr)
		return UP_NAMED;
	up_ask(rp, tg);
	return u->asking ? UP_ASKING : UP_NAMELESS;
}

/* How many addresses there are to try. */
static unsigned up_addrs(const struct rp *rp, const struct target *tg)
{
	return tg->path || tg->literal ? 1 : up_of(rp, tg)->naddr;
}

/* Does any target of the snapshot need the DNS child? */
static bool up_names_needed(const struct conf *cf)
{
	for (size_t i = 0; i < cf->nroute; i++)
		for (unsigned k = 0; k < cf->route[i]->ntarget; k++)
			if (!cf->route[i]->target[k].literal && !cf->route[i]->target[k].path)
				return true;
	return false;
}

/* ---- health and choice ---- */

static bool up_is_out(const struct rp *rp, const struct target *tg)
{
	const struct up *u = up_of(rp, tg);

	return u->down || (u->fails && (rp->now < u->out_until || rp->now < u->trial_until));
}

/* The next target for a request: in order, or in turn with balance=round-robin; first those that
 * are well, then the others. tried: bits of those that had their chance. -1: none is left. */
static int up_pick(struct rp *rp, const struct route *r, uint32_t tried)
{
	struct up *first = up_of(rp, &r->target[0]);
	uint32_t from = r->round_robin ? (tried ? first->turn : ++first->turn) % r->ntarget : 0;

	for (int out = 0; out < 2; out++)
		for (unsigned i = 0; i < r->ntarget; i++) {
			unsigned k = (from + i) % r->ntarget;
			if (!(tried >> k & 1) && (out || !up_is_out(rp, &r->target[k]))) {
				struct up *u = up_of(rp, &r->target[k]);
				if (u->fails)
					u->trial_until = rp->now + rp->cf->connect_ms + UP_OUT_MS;
				return (int)k;
			}
		}
	return -1;
}

/* How it went with a target: it answered, or it refused, reset or was silent. */
static void up_report(struct rp *rp, const struct target *tg, enum why why)
{
	struct up *u = up_of(rp, tg);

	u->trial_until = 0;
	if (why == WHY_NONE) {
		if (u->fails)
			log_event(LOG_WARN, "target %s works again", tg->label);
		u->fails = 0;
		u->served++;
		return;
	}
	if (!u->fails)
		log_event(LOG_WARN, "target %s fails: %s", tg->label, log_whys[why].word);
	u->failed++;
	u->fresh_until = 0; /* its name may have moved */
	if (u->fails && rp->now < u->out_until)
		return; /* requests that failed together count once */
	uint64_t ms = UP_OUT_MS;
	for (unsigned i = 0; i < u->fails && ms < UP_OUT_MAX_MS; i++)
		ms *= 2;
	u->fails += u->fails < 100;
	u->out_until = rp->now + (ms < UP_OUT_MAX_MS ? ms : UP_OUT_MAX_MS);
}

/* ---- the pool ---- */

/* The newest idle connection to a target that is still alive: nothing unasked came on it, nor its
 * end. NULL: there is none. */
static struct conn *up_take(struct rp *rp, const struct target *tg)
{
	struct up *u = up_of(rp, tg);

	while (u->idle) {
		struct conn *c = u->idle;
		bool fine =
			!c->ready && sys_peek(c->fd) < 0 && errno == EAGAIN && !(c->tls && tls_pending(c->tls));
		if (!fine) {
			up_retire(rp, c);
			continue;
		}
		u->idle = c->next;
		u->nidle--;
		c->kind = CO_UPSTREAM;
		c->used = true;
		c->due = 0;
		return c;
	}
	return NULL;
}

/* Keeps a connection after a perfect exchange, for at most ms. */
static void up_keep(struct rp *rp, struct conn *c, uint64_t ms)
{
	struct up *u = rp->up[c->up];

	if (!u->key || u->nidle >= RP_IDLE_UP || !ms || rp->draining || c->eof || c->deaf ||
		up_left(u, c) || buf_len(&c->in) || buf_len(&c->out) || (c->tls && tls_pending(c->tls))) {
		net_close(rp, c);
		return;
	}
	buf_give(&rp->pool, &c->in);
	c->kind = CO_IDLE;
	c->t = NULL;
	c->again = false;
	c->next = u->idle;
	u->idle = c;
	u->nidle++;
	tm_set(&c->due, rp->now, ms < RP_IDLE_UP_MS ? ms : RP_IDLE_UP_MS);
}

RP_SELDOM

/* ---- connecting ---- */

/* Begins a connection to address number i of a target, the last good one first. NULL with *why. An
 * idle one makes way: there are servers that talk with one peer at a time. */
static struct conn *up_dial(struct rp *rp, const struct target *tg, unsigned i, enum conn_kind kind,
							enum why *why)
{
	struct up *u = up_of(rp, tg);
	struct addr a = tg->literal ? tg->addr
					: tg->path	? (struct addr){{0}, 0}
								: u->addr[(u->best + i) % u->naddr];

	a.port = tg->port;
	struct conn *c = u->idle;
	while (c && c->next)
		c = c->next;
	if (c)
		up_retire(rp, c);
	c = net_dial(rp, &a, tg->path, kind);
	if (!c) {
		*why = errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM
				   ? WHY_INTERNAL
				   : WHY_UP_REFUSED;
		return NULL;
	}
	c->up = tg->up;
	c->peer = a;
	return c;
}

/* With send-proxy, whose connection it is goes out first, even before TLS. src, dst NULL: nobody's,
 * it is a check. False: there is no buffer. */
static bool up_introduce(struct rp *rp, const struct route *r, struct conn *c,
						 const struct addr *src, const struct addr *dst)
{
	uint8_t head[108];

	return !r->send_proxy ||
		   net_say(rp, c, sl_mk(head, net_proxy_write(r->send_proxy, src, dst, head)));
}

enum up_going { UP_WAIT, UP_OPEN, UP_FAIL };

/* Goes on with a connection that is being made: TCP, PROXY header, TLS. UP_FAIL with *why. */
static enum up_going up_advance(struct rp *rp, struct conn *c, const struct route *r,
								const struct target *tg, enum why *why)
{
	int done;

	if (c->phase == CP_CONNECT) {
		*why = WHY_UP_REFUSED;
		done = net_connected(c);
		if (done < 0 && (errno == ECONNRESET || errno == EPIPE))
			*why = WHY_UP_RESET; /* it was there, for less than a turn */
		if (done <= 0)
			return done ? UP_FAIL : UP_WAIT;
		c->phase = CP_PROXY;
	}
	if (c->phase == CP_PROXY) {
		*why = WHY_UP_RESET;
		(void)net_io(rp, c, false);
		if (c->deaf)
			return UP_FAIL;
		if (!net_said(c))
			return UP_WAIT;
		c->phase = CP_OPEN;
		if (tg->kind == TG_HTTPS) {
			int64_t wall = sys_wall();
			*why = WHY_INTERNAL;
			c->tls = tls_dial(rp->tls, r, tg, wall >= RP_CLOCK_SANE, wall);
			if (!c->tls && up_reap_one(rp, true))
				c->tls = tls_dial(rp->tls, r, tg, wall >= RP_CLOCK_SANE, wall);
			if (!c->tls)
				return UP_FAIL;
			c->phase = CP_TLS;
			c->ready |= POLLOUT;
		}
	}
	if (c->phase == CP_TLS) {
		*why = WHY_UP_TLS;
		(void)net_io(rp, c, true);
		if (c->deaf || c->eof) {
			log_event(LOG_WARN, "target %s: TLS failed: %s", tg->label, tls_error(c->tls));
			return UP_FAIL;
		}
		if (!tls_is_open(c->tls))
			return UP_WAIT;
		c->phase = CP_OPEN;
	}
	up_prefer(rp->up[c->up], &c->peer);
	return UP_OPEN;
}

/* ---- active checks ---- */

static void up_check_end(struct rp *rp, struct up *u, const char *label, bool good)
{
	net_close(rp, u->check);
	u->check = NULL;
	tm_set(&u->check_due, rp->now, UP_CHECK_MS);
	u->good = good ? u->good + 1 : 0;
	u->bad = good ? 0 : u->bad + 1;
	if (u->good >= 2)
		u->fails = 0;
	if (u->down && u->good >= 2) {
		u->down = false;
		log_event(LOG_WARN, "target %s passes its check again", label);
	} else if (!good && !u->down && u->bad >= 2) {
		u->down = true;
		log_event(LOG_WARN, "target %s fails its check", label);
	}
}

/* Goes on with a check under way: asks, and judges by the status line: 200 to 399 is good. */
static void up_check_go(struct rp *rp, const struct route *r, const struct target *tg, struct up *u)
{
	struct conn *c = u->check;
	enum why why;
	uint64_t status = 0;

	if (c->phase != CP_OPEN) {
		enum up_going going = up_advance(rp, c, r, tg, &why);
		if (going == UP_FAIL)
			up_check_end(rp, u, tg->label, false);
		if (going != UP_OPEN)
			return;
		if (!buf_take(&rp->pool, &c->out)) {
			up_check_end(rp, u, tg->label, true);
			return;
		}
		struct sb b = buf_text(&c->out);
		sb_fmt(
			&b,
			"GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: rproxy-check\r\nConnection: close\r\n\r\n",
			r->check,
			r->host_mode == RT_HOST_NAME						? r->host_name
			: r->host_mode == RT_HOST_KEEP && r->host[0] != '*' ? r->host
																: tg->authority);
		buf_fill(&c->out, b.n);
	}
	(void)net_io(rp, c, true);
	struct sl in = net_in(c);
	if (in.n >= 12)
		up_check_end(rp, u, tg->label,
					 memcmp(in.p, "HTTP/1.", 7) == 0 && in.p[8] == ' ' &&
						 sl_number(sl_mk(in.p + 9, 3), 399, &status) && status >= 200);
	else if (c->eof)
		up_check_end(rp, u, tg->label, false);
}

/* Something happened on a check's connection, or its time is up. */
static void up_check_io(struct rp *rp, struct conn *c)
{
	for (size_t i = 0; i < rp->cf->nroute; i++)
		for (unsigned k = 0; k < rp->cf->route[i]->ntarget; k++) {
			const struct target *tg = &rp->cf->route[i]->target[k];
			struct up *u = up_of(rp, tg);
			if (u->check != c || !rp->cf->route[i]->check)
				continue;
			if (tm_due(&c->due, rp->now))
				up_check_end(rp, u, tg->label, false);
			else
				up_check_go(rp, rp->cf->route[i], tg, u);
			return;
		}
	rp->up[c->up]->check = NULL; /* no route of today has it checked */
	net_close(rp, c);
}

static void up_check(struct rp *rp, const struct route *r, const struct target *tg)
{
	struct up *u = up_of(rp, tg);
	enum why why = WHY_UP_UNRESOLVED;

	if (u->check || (u->check_due && !tm_due(&u->check_due, rp->now)) || !rp->nfree ||
		up_names(rp, tg) == UP_ASKING)
		return;
	u->check = up_addrs(rp, tg) ? up_dial(rp, tg, 0, CO_CHECK, &why) : NULL;
	if (u->check && !up_introduce(rp, r, u->check, NULL, NULL)) {
		net_close(rp, u->check);
		u->check = NULL;
		why = WHY_INTERNAL;
	}
	if (u->check)
		tm_set(&u->check->due, rp->now, UP_CHECK_WAIT_MS);
	else if (why != WHY_INTERNAL) /* our own want of something says nothing of it */
		up_check_end(rp, u, tg->label, false);
}

/* About once a second: names that are due, checks that are due. */
static void up_step(struct rp *rp)
{
	unsigned checks = 0;

	for (uint32_t i = 0; i < rp->nup; i++) {
		rp->up[i]->checked = false;
		checks += rp->up[i]->check != NULL;
	}
	for (size_t i = 0; i < rp->cf->nroute; i++) {
		const struct route *r = rp->cf->route[i];
		for (unsigned k = 0; k < r->ntarget; k++) {
			const struct target *tg = &r->target[k];
			struct up *u = up_of(rp, tg);
			if (!tg->literal && !tg->path && rp->now >= u->fresh_until)
				up_ask(rp, tg);
			if (!r->check)
				continue;
			u->checked = true;
			bool busy = u->check != NULL;
			if (!rp->draining && checks < UP_CHECKS_MAX)
				up_check(rp, r, tg);
			checks += !busy && u->check;
		}
	}
	for (uint32_t i = 0; i < rp->nup; i++)
		rp->up[i]->down &= rp->up[i]->checked; /* after a reload nobody may look any more */
}

/* ---- waking ---- */

/* Sends the magic packet of wake=, at most once in UP_WAKE_MS. */
static void up_wake(struct rp *rp, const struct route *r, const struct target *tg)
{
	struct up *u = up_of(rp, tg);
	struct sockaddr_storage ss;
	struct addr to = r->wake_addr;
	uint8_t packet[6 + 16 * 6];

	if (u->woken_at && rp->now - u->woken_at < UP_WAKE_MS)
		return;
	u->woken_at = rp->now;
	if (!to.port) {
		memset(to.ip, 0, 10);
		memset(to.ip + 10, 0xff, 6);
		to.port = 9;
	}
	memset(packet, 0xff, 6);
	for (int i = 0; i < 16; i++)
		memcpy(packet + 6 + i * 6, r->wake_mac, 6);
	socklen_t len = addr_to_sa(&to, &ss);
	if (sys_datagram((const struct sockaddr *)&ss, len, packet, sizeof packet) < 0)
		log_event(LOG_WARN, "target %s: the Wake-on-LAN packet was not sent: %s", tg->label,
				  strerror(errno));
	else
		log_event(LOG_INFO, "target %s: sent a Wake-on-LAN packet", tg->label);
}

RP_OFTEN

/* ==[ GATE ]============================================= prefix: gate_ ==
 * Who is calling, and may they: trust and the believed address, address lists, limits, Basic auth.
 * Owns: struct gate (made at start, of fixed size), and the password lists of routes.
 * Fails: gate_load with -1, after naming the file.
 * Spec: RFC 7617 (Basic); Cloudflare's CF-Connecting-IP and CF-Visitor; htpasswd's file format.
 * Door: gate_open gate_close gate_conn_in gate_conn_out gate_allowed gate_rate gate_believe
 *       gate_auth_check gate_auth_verdict gate_load gate_unload
 */

#define GATE_XFF_MAX RP_FIELDS_MAX
#define GATE_BUCKETS 4096 /* addresses that rate= remembers, in sets of GATE_WAYS */
#define GATE_WAYS 8
#define GATE_GOOD 64 /* credentials remembered as good */
#define GATE_GOOD_MS 300000
#define GATE_PENDING 16 /* passwords being checked; more are asked to come again */
#define GATE_EACH 4		/* of them for one address: nobody can keep all others out */
#define GATE_CREDS 256	/* bytes of user:password */

enum gate_auth { GATE_OK, GATE_ASK, GATE_BUSY, GATE_DENY };

struct gate_caller {
	struct addr addr;
	bool trusted, https, cf; /* cf: the peer is Cloudflare */
};

struct gate_claims {
	struct sl xff[GATE_XFF_MAX];
	unsigned nxff;
	struct sl cf_ip, proto, cf_visitor;
};

/* How many connections an address (IPv6: a /64) has. */
struct gate_count {
	uint8_t ip[16];
	uint32_t n; /* 0: free, or was used (then the search goes on) */
	bool used;
};

/* A token bucket: when it will be full again. */
struct gate_bucket {
	uint64_t key;	  /* of route and address; 0 free */
	uint64_t full_at; /* ns */
};

struct gate_good {
	uint8_t mac[32];
	uint64_t until; /* ms; 0 free */
};

/* A password that the helper is checking, for one request or more. */
struct gate_pending {
	uint64_t cookie; /* 0: free */
	uint8_t mac[32];
	uint8_t ip[16]; /* who asked first */
	bool known;		/* the user is in the file */
};

/* A request that must show a password. */
struct gate_login {
	struct sl field;   /* Authorization */
	const uint8_t *ip; /* borrows: who asks */
	char *name;		   /* borrows: `cap` bytes for the user's name */
	size_t cap;
	struct sl user;	 /* out: within name */
	uint64_t cookie; /* out: of the helper's answer */
};

struct gate {
	uint8_t key[32];		  /* of the MACs and hashes below, made at start */
	struct gate_count *count; /* owns */
	uint32_t ncount;		  /* a power of 2 */
	struct gate_bucket bucket[GATE_BUCKETS];
	struct gate_good good[GATE_GOOD];
	struct gate_pending pending[GATE_PENDING];
	uint64_t asked; /* questions so far: the cookie of the last one */
	unsigned turn;
};

struct gate_user {
	struct sl name, hash; /* within gate_users.text */
};

struct gate_users {
	char *text;			 /* owns */
	struct gate_user *v; /* owns */
	size_t n;
};

/* Makes the tables for max_conns connections; NULL without memory. */
static struct gate *gate_open(uint32_t max_conns)
{
	struct gate *g = sys_mem(sizeof *g);

	if (!g)
		return NULL;
	for (g->ncount = 64; g->ncount < max_conns * 2;)
		g->ncount *= 2;
	g->count = sys_mem(g->ncount * sizeof *g->count);
	if (!g->count) {
		sys_unmem(g, sizeof *g);
		return NULL;
	}
	sys_random(g->key, sizeof g->key);
	return g;
}

static void gate_close(struct gate *g)
{
	if (!g)
		return;
	sys_unmem(g->count, g->ncount * sizeof *g->count);
	memset(g->key, 0, sizeof g->key);
	sys_unmem(g, sizeof *g);
}

/* A hash of some bytes and two texts that nobody outside can aim at. Never 0. */
static uint64_t gate_hash(const struct gate *g, struct sl bytes, const char *a, const char *b)
{
	br_hmac_key_context kc;
	br_hmac_context hc;
	uint64_t h = 0;

	br_hmac_key_init(&kc, &br_md5_vtable, g->key, sizeof g->key);
	br_hmac_init(&hc, &kc, sizeof h);
	br_hmac_update(&hc, bytes.p, bytes.n);
	br_hmac_update(&hc, a, strlen(a));
	br_hmac_update(&hc, b, strlen(b));
	br_hmac_out(&hc, &h);
	return h ? h : 1;
}

/* Who counts as one: an IPv4 address, or an IPv6 /64, of which a household or a server can use
 * every address. */
static void gate_one(const uint8_t ip[16], uint8_t out[16])
{
	memcpy(out, ip, 16);
	if (!addr_is4(ip))
		memset(out + 8, 0, 8);
}

/* ---- connections per address ---- */

/* A cheap hash is enough here: there are never more addresses than connections, and the key keeps
 * an attacker from choosing his place. */
static uint32_t gate_place(const struct gate *g, const uint8_t ip[16])
{
	uint32_t h = 2166136261u;

	for (int i = 0; i < 16; i++)
		h = (h ^ ip[i] ^ g->key[i]) * 16777619u;
	return h & (g->ncount - 1);
}

static struct gate_count *gate_counter(struct gate *g, const uint8_t from[16], bool make)
{
	struct gate_count *spare = NULL;
	uint8_t ip[16];

	gate_one(from, ip);
	for (uint32_t k = 0, i = gate_place(g, ip); k < g->ncount; k++, i = (i + 1) & (g->ncount - 1)) {
		struct gate_count *c = &g->count[i];
		if (c->n && memcmp(c->ip, ip, 16) == 0)
			return c;
		if (!c->n && !spare)
			spare = c;
		if (!c->used)
			break;
	}
	if (!make || !spare)
		return NULL;
	memcpy(spare->ip, ip, 16);
	spare->used = true;
	return spare;
}

/* A connection from ip begins; false when it has `cap` of them already (0: no cap). */
static bool gate_conn_in(struct gate *g, const uint8_t ip[16], uint32_t cap)
{
	struct gate_count *c = gate_counter(g, ip, true);

	if (!c || (cap && c->n >= cap))
		return false;
	c->n++;
	return true;
}

static void gate_conn_out(struct gate *g, const uint8_t ip[16])
{
	struct gate_count *c = gate_counter(g, ip, false);

	if (!c)
		return;
	c->n--;
	/* A chain of used places that ends here may end earlier. */
	for (uint32_t i = (uint32_t)(c - g->count); !g->count[i].n; i = (i - 1) & (g->ncount - 1)) {
		if (g->count[(i + 1) & (g->ncount - 1)].used || !g->count[i].used)
			break;
		g->count[i].used = false;
	}
}

/* ---- lists and rates ---- */

/* allow= and deny=: the most specific range wins, deny when both are alike. What neither names may
 * come in unless there is an allow list. */
static bool gate_allowed(const struct route *r, const uint8_t ip[16])
{
	const struct cidr *allow = addr_match(&r->allow, ip), *deny = addr_match(&r->deny, ip);

	if (allow && deny)
		return allow->bits > deny->bits;
	return allow || (!deny && !r->allow.n);
}

/* rate=: a token bucket for each address (IPv6: /64) and route, kept as the moment at which it is
 * full again. Returns 0 to let the request in, else for how many seconds it should stay away. A new
 * address takes the place of the one in its set that has been full longest, or else of the one
 * that will be full first: who is over his rate is forgotten last. The key holds what the route is
 * called, so that a reload forgives nobody. */
static uint32_t gate_rate(struct gate *g, const struct route *r, const uint8_t ip[16], uint64_t now)
{
	uint8_t one[16];
	gate_one(ip, one);
	uint64_t key = gate_hash(g, sl_mk(one, sizeof one), r->host, r->path);
	struct gate_bucket *set = &g->bucket[key % (GATE_BUCKETS / GATE_WAYS) * GATE_WAYS], *b = set;
	uint64_t ns = now * 1000000, token = 1000000000 / r->rate;

	for (int i = 0; i < GATE_WAYS; i++) {
		if (set[i].key == key) {
			b = &set[i];
			break;
		}
		if (set[i].full_at < b->full_at)
			b = &set[i];
	}
	if (b->key != key)
		*b = (struct gate_bucket){key, 0};
	uint64_t owed = (b->full_at > ns ? b->full_at - ns : 0) + token, room = token * r->burst;
	if (owed > room) {
		uint64_t wait = (owed - room + 999999999) / 1000000000;
		return wait > 3600 ? 3600 : (uint32_t)wait;
	}
	b->full_at = ns + owed;
	return 0;
}

/* ---- who is calling ---- */

/* One entry of X-Forwarded-For: an address, maybe with a port, IPv6 then in brackets. */
static bool gate_entry(struct sl s, uint8_t ip[16])
{
	if (sl_at(s, 0) == '[') {
		size_t end = sl_find(s, ']');
		struct sl port = sl_rest(s, end + 1);
		uint64_t v;
		if (end == s.n || (port.n && (port.p[0] != ':' || !sl_number(sl_rest(port, 1), 65535, &v))))
			return false;
		s = sl_mk(s.p + 1, end - 1);
		return sl_find(s, ':') < s.n && addr_parse_ip(s, ip);
	}
	size_t colon = sl_find(s, ':');
	if (colon < s.n && sl_find(sl_rest(s, colon + 1), ':') == s.n - colon - 1) { /* one: a port */
		uint64_t v;
		if (!sl_number(sl_rest(s, colon + 1), 65535, &v))
			return false;
		s.n = colon;
	}
	return addr_parse_ip(s, ip);
}

/* Walks one X-Forwarded-For field from its right end. Returns whether the walk goes on to the left:
 * the address believed so far is a trusted one. */
static bool gate_walk(const struct conf *cf, struct sl field, uint8_t ip[16])
{
	while (field.n) {
		size_t at = field.n;
		uint8_t next[16];
		while (at && field.p[at - 1] != ',')
			at--;
		struct sl entry = sl_trim(sl_rest(field, at));
		field.n = at ? at - 1 : 0;
		if (!entry.n)
			continue;
		if (!gate_entry(entry, next))
			return false; /* a malformed entry stops the walk */
		memcpy(ip, next, 16);
		if (!addr_match(&cf->trust, ip))
			return false;
	}
	return true;
}

/* {"scheme":"https"} */
static bool gate_visitor_https(struct sl v, bool *known)
{
	static const char name[] = "\"scheme\"";

	*known = false;
	for (size_t i = 0; i + sizeof name - 1 <= v.n; i++) {
		if (memcmp(v.p + i, name, sizeof name - 1) != 0)
			continue;
		struct sl rest = sl_trim(sl_rest(v, i + sizeof name - 1));
		if (sl_at(rest, 0) != ':')
			return false;
		rest = sl_trim(sl_rest(rest, 1));
		bool https = rest.n >= 7 && memcmp(rest.p, "\"https\"", 7) == 0;
		*known = https || (rest.n >= 6 && memcmp(rest.p, "\"http\"", 6) == 0);
		return https;
	}
	return false;
}

static bool gate_is_cf(const struct cidrs *l, const uint8_t ip[16])
{
	for (size_t i = 0; i < l->n; i++)
		if (l->v[i].cf && addr_in(&l->v[i], ip))
			return true;
	return false;
}

/* Whose request it is, as far as the peer can be believed. From a trusted peer, X-Forwarded-For is
 * read from the right to the first address that is not trusted; CF-Connecting-IP when the peer is
 * Cloudflare; X-Forwarded-Proto or CF-Visitor say how the visitor came. */
static void gate_believe(const struct conf *cf, const uint8_t ip[16], uint16_t port,
						 const struct gate_claims *claims, bool tls, struct gate_caller *out)
{
	uint8_t said[16];
	bool known;

	memcpy(out->addr.ip, ip, 16);
	out->addr.port = port;
	out->trusted = cf->trust.n && addr_match(&cf->trust, ip);
	out->cf = out->trusted && gate_is_cf(&cf->trust, ip);
	out->https = tls;
	if (!out->trusted)
		return;
	if (out->cf && addr_parse_ip(claims->cf_ip, said)) {
		memcpy(out->addr.ip, said, 16);
	} else {
		for (unsigned i = claims->nxff; i--;)
			if (!gate_walk(cf, claims->xff[i], out->addr.ip))
				break;
	}
	struct sl proto = claims->proto;
	proto = sl_trim(sl_mk(proto.p, sl_find(proto, ',')));
	bool visitor = gate_visitor_https(claims->cf_visitor, &known);
	if (visitor || sl_iis(proto, "https") || sl_iis(proto, "wss"))
		out->https = true;
	else if (known || sl_iis(proto, "http") || sl_iis(proto, "ws"))
		out->https = false;
}

/* ---- passwords ---- */

static void gate_mac(const struct gate *g, struct sl creds, struct sl hash, uint8_t out[32])
{
	br_hmac_key_context kc;
	br_hmac_context hc;

	br_hmac_key_init(&kc, &br_sha256_vtable, g->key, sizeof g->key);
	br_hmac_init(&hc, &kc, 0);
	br_hmac_update(&hc, hash.p, hash.n);
	br_hmac_update(&hc, "\n", 1);
	br_hmac_update(&hc, creds.p, creds.n);
	br_hmac_out(&hc, out);
}

/* Looks at every user, so that the time does not tell where he stands. */
static const struct gate_user *gate_find_user(const struct gate_users *users, struct sl name)
{
	const struct gate_user *found = NULL;

	for (size_t i = 0; i < users->n; i++)
		if (sl_same(users->v[i].name, name) && !found)
			found = &users->v[i];
	return found;
}

static bool gate_is_good(struct gate *g, const uint8_t mac[32], uint64_t now)
{
	for (int i = 0; i < GATE_GOOD; i++)
		if (g->good[i].until > now && sl_same(sl_mk(g->good[i].mac, 32), sl_mk(mac, 32)))
			return true;
	return false;
}

/* Has a password checked by the helper. What is being checked already is not asked again: a
 * browser opens several connections at once. */
static enum gate_auth gate_ask(struct gate *g, struct dns_room *dns, struct gate_login *l,
							   struct sl hash, struct sl password, const struct gate_pending *what)
{
	struct gate_pending *room = NULL;
	unsigned mine = 0;

	for (int i = 0; i < GATE_PENDING; i++) {
		struct gate_pending *p = &g->pending[i];
		if (!p->cookie) {
			room = p;
			continue;
		}
		mine += memcmp(p->ip, what->ip, 16) == 0;
		if (p->known == what->known && memcmp(p->mac, what->mac, 32) == 0) {
			l->cookie = p->cookie;
			return GATE_BUSY;
		}
	}
	if (!room || mine >= GATE_EACH || dns_ask_hash(dns, g->asked + 1, hash, password) < 0)
		return GATE_DENY;
	*room = *what;
	l->cookie = room->cookie = ++g->asked;
	return GATE_BUSY;
}

/* Judges an Authorization field. GATE_OK: it is good; the user's name is in l->user. GATE_ASK: none
 * or wrong. GATE_BUSY: the helper was asked; its answer comes with l->cookie. GATE_DENY: too many
 * are being checked. An unknown user costs as much as a known one: for each such name always the
 * hash of the same known user is computed, and the answer is no. */
static enum gate_auth gate_auth_check(struct gate *g, struct dns_room *dns,
									  const struct gate_users *users, struct gate_login *l,
									  uint64_t now)
{
	char creds[GATE_CREDS];
	struct gate_pending what = {.cookie = 0};
	enum gate_auth verdict = GATE_ASK;

	l->user = sl_mk("", 0);
	if (!users || !users->n || l->field.n < 7 || !sl_iis(sl_mk(l->field.p, 6), "Basic "))
		return GATE_ASK;
	ptrdiff_t n = sl_base64(sl_trim(sl_rest(l->field, 6)), (uint8_t *)creds, sizeof creds);
	struct sl all = sl_mk(creds, n > 0 ? (size_t)n : 0), name = sl_mk(creds, sl_find(all, ':'));
	if (name.n && name.n < all.n) {
		const struct gate_user *u = gate_find_user(users, name);
		what.known = u != NULL;
		if (!u)
			u = &users->v[gate_hash(g, name, "", "") % users->n];
		gate_one(l->ip, what.ip);
		gate_mac(g, all, u->hash, what.mac);
		verdict = what.known && gate_is_good(g, what.mac, now)
					  ? GATE_OK
					  : gate_ask(g, dns, l, u->hash, sl_rest(all, name.n + 1), &what);
		struct sb b = sb_of(l->name, l->cap);
		sb_put(&b, name);
		l->user = sl_mk(l->name, b.n);
	}
	memset(creds, 0, sizeof creds);
	return verdict;
}

/* The helper's answer. Remembers good credentials for a while. Returns whether the requests that
 * wait for this cookie may go on: the password fits, and the user exists. */
static bool gate_auth_verdict(struct gate *g, uint64_t cookie, bool good, uint64_t now)
{
	for (int i = 0; cookie && i < GATE_PENDING; i++) {
		struct gate_pending *p = &g->pending[i];
		if (p->cookie != cookie)
			continue;
		p->cookie = 0;
		if (!good || !p->known)
			return false;
		struct gate_good *at = &g->good[g->turn++ % GATE_GOOD];
		memcpy(at->mac, p->mac, 32);
		at->until = now + GATE_GOOD_MS;
		return true;
	}
	return false;
}

/* ---- what is read at load ---- */

static void gate_users_free(struct gate_users *u)
{
	if (!u)
		return;
	free(u->text);
	free(u->v);
	free(u);
}

/* Is it what crypt(3) writes behind a hash's kind: [rounds=N$]SALT$ and `tail` characters? bcrypt's
 * salt is its cost, from 04 to 31. */
static bool gate_hash_whole(struct sl h, size_t salt, size_t tail)
{
	struct sl part;
	uint64_t n;

	if (h.n > 7 && memcmp(h.p, "rounds=", 7) == 0) {
		(void)sl_cut(&h, '$', &part);
		if (salt != 16 || !sl_number(sl_rest(part, 7), 9999999, &n))
			return false;
	}
	if (!sl_cut(&h, '$', &part) || part.n > salt || h.n != tail)
		return false;
	if (tail == 53 && (part.n != 2 || !sl_number(part, 31, &n) || n < 4))
		return false;
	for (size_t i = 0; i < h.n; i++)
		if (h.p[i] != '.' && h.p[i] != '/' &&
			(h.p[i] == '-' || h.p[i] == '_' || !(sl_class[(uint8_t)h.p[i]] & SL_LABEL)))
			return false;
	return true;
}

/* Why a hash can't be used; NULL when it can. */
static const char *gate_hash_fault(struct sl h)
{
	static const struct {
		const char *kind;
		size_t salt, tail;
	} kinds[] = {{"$2y$", 2, 53}, {"$2b$", 2, 53}, {"$2a$", 2, 53},
				 {"$5$", 16, 43}, {"$6$", 16, 86}, {"$apr1$", 8, 22}};
	static const char not_whole[] = "the hash is not whole";
	uint8_t sha[20];

	if (h.n > 5 && memcmp(h.p, "{SHA}", 5) == 0)
		return sl_base64(sl_rest(h, 5), sha, sizeof sha) == sizeof sha ? NULL : not_whole;
	for (size_t i = 0; i < RP_LEN(kinds); i++) {
		size_t n = strlen(kinds[i].kind);
		if (h.n < n || memcmp(h.p, kinds[i].kind, n) != 0)
			continue;
		if (!RP_CRYPT && kinds[i].salt == 2)
			return "its hash needs crypt(), which this libc does not have";
		return gate_hash_whole(sl_rest(h, n), kinds[i].salt, kinds[i].tail) ? NULL : not_whole;
	}
	return "the password is plain text or of a kind that is not read; bcrypt (htpasswd -B), $6$, "
		   "$5$, $apr1$ and {SHA} are";
}

/* Reads an htpasswd file: NAME:HASH lines. NULL after saying why. */
static struct gate_users *gate_read(const char *file)
{
	struct gate_users *u = calloc(1, sizeof *u);
	size_t len = 0, lines = 1;
	unsigned line = 0;

	if (!u || !(u->text = sys_slurp(file, 1 << 20, &len))) {
		log_event(LOG_ERR, "%s: can't be read: %s", file, strerror(errno));
		gate_users_free(u);
		return NULL;
	}
	for (size_t i = 0; i < len; i++)
		lines += u->text[i] == '\n';
	if (!(u->v = calloc(lines, sizeof *u->v))) {
		log_event(LOG_ERR, "%s: out of memory", file);
		gate_users_free(u);
		return NULL;
	}
	struct sl rest = sl_mk(u->text, len), l;
	while (sl_cut(&rest, '\n', &l)) {
		line++;
		if (l.n && l.p[l.n - 1] == '\r')
			l.n--;
		l = sl_trim(l);
		if (!l.n || l.p[0] == '#')
			continue;
		struct gate_user *one = &u->v[u->n];
		size_t colon = sl_find(l, ':');
		one->name = sl_mk(l.p, colon);
		one->hash = sl_rest(l, colon + 1);
		one->hash.n = sl_find(one->hash, ':');
		const char *fault =
			!colon || colon == l.n ? "it is not NAME:HASH" : gate_hash_fault(one->hash);
		if (fault)
			log_event(LOG_WARN, "warning: %s:%u: this line can't be used: %s", file, line, fault);
		else
			u->n++;
	}
	return u;
}

/* Another route of the snapshot that has read the same authorities. */
static struct crt_anchors *gate_anchors(const struct conf *cf, const struct route *r)
{
	for (size_t i = 0; i < cf->nroute; i++) {
		const struct route *o = cf->route[i];
		if (o->anchors &&
			(o->ca_file ? r->ca_file && !strcmp(o->ca_file, r->ca_file) : !r->ca_file))
			return crt_anchors_hold(o->anchors);
	}
	return crt_anchors_load(r->ca_file);
}

/* Reads what a route names: its password file, and the authorities that vouch for its https
 * targets. 0, or -1 after saying what is wrong. */
static int gate_load(struct conf *cf, struct route *r)
{
	bool https = false;

	for (unsigned k = 0; k < r->ntarget; k++)
		https |= r->target[k].kind == TG_HTTPS;
	if (r->auth_file && !r->users && !(r->users = gate_read(r->auth_file)))
		return -1;
	if (https && r->verify == RT_VERIFY_CA && !r->anchors && !(r->anchors = gate_anchors(cf, r)))
		return -1;
	return 0;
}

/* Frees what gate_load read, of all routes. */
static void gate_unload(struct conf *cf)
{
	for (size_t i = 0; i < cf->nroute; i++) {
		gate_users_free(cf->route[i]->users);
		crt_anchors_free(cf->route[i]->anchors);
		cf->route[i]->users = NULL;
		cf->route[i]->anchors = NULL;
	}
}

RP_SELDOM

/* ==[ REPLY ]============================================ prefix: rep_ ==
 * Our own answers: error pages, redirects, challenge files, the status page and metrics. They are
 * written into a buffer; who sends them is no business of this room. No page for visitors names an
 * address, a port, a product or a version.
 * Owns: nothing.  Fails: b->over when the buffer is too small.
 * Spec: RFC 9110 15, RFC 8555 8.3, Prometheus text format 0.0.4.
 * Door: rep_text rep_begin rep_end rep_page rep_challenge rep_status rep_status_type
 */

static const struct rep_code {
	int status;
	const char *text, *say;
} rep_codes[] = {
	{200, "OK", ""},
	{201, "Created", ""},
	{202, "Accepted", ""},
	{204, "No Content", ""},
	{205, "Reset Content", ""},
	{301, "Moved Permanently", ""},
	{302, "Found", ""},
	{307, "Temporary Redirect", ""},
	{308, "Permanent Redirect", ""},
	{400, "Bad Request", "The request could not be understood."},
	{401, "Unauthorized", "A name and a password are needed here."},
	{403, "Forbidden", "This address may not come in."},
	{404, "Not Found", "There is nothing here."},
	{405, "Method Not Allowed", "This method is not served."},
	{406, "Not Acceptable", ""},
	{408, "Request Timeout", "The request did not arrive in time."},
	{409, "Conflict", ""},
	{410, "Gone", "What was here is gone."},
	{413, "Content Too Large", "The upload is too large."},
	{414, "URI Too Long", "The address is too long."},
	{418, "I'm a teapot", ""},
	{421, "Misdirected Request", "This connection is for another site. Please reload the page."},
	{429, "Too Many Requests", "Too many requests; please wait a moment."},
	{431, "Request Header Fields Too Large",
	 "The request is too large. Clearing cookies may help."},
	{451, "Unavailable For Legal Reasons", ""},
	{500, "Internal Server Error", "Something went wrong."},
	{501, "Not Implemented", "This method is not served."},
	{502, "Bad Gateway", "The service behind this address does not answer properly."},
	{503, "Service Unavailable", "The service is not available; please try again soon."},
	{504, "Gateway Timeout", "The service behind this address did not answer in time."},
	{505, "HTTP Version Not Supported", "This version of HTTP is not served."},
};

static const struct rep_code *rep_code(int status)
{
	/* What is unknown is as good as the first of its class (RFC 9110 15). */
	static const struct rep_code others[] = {{2, "Success", ""},
											 {3, "Redirection", ""},
											 {4, "Client Error", ""},
											 {5, "Server Error", ""}};

	for (size_t i = 0; i < RP_LEN(rep_codes); i++)
		if (rep_codes[i].status == status)
			return &rep_codes[i];
	return &others[status / 100 - 2];
}

/* The reason phrase of a status. */
static const char *rep_text(int status)
{
	return rep_code(status)->text;
}

/* Begins an answer: status line, Date, Connection. The caller may add fields of its own. */
static void rep_begin(struct sb *b, int status, bool close, bool keep10)
{
	sb_str(b, "HTTP/1.1 ");
	sb_num(b, (uint64_t)status);
	sb_chr(b, ' ');
	sb_str(b, rep_text(status));
	sb_str(b, "\r\nDate: ");
	sb_str(b, log_date());
	sb_str(b, close	   ? "\r\nConnection: close\r\n"
			  : keep10 ? "\r\nConnection: keep-alive\r\n"
					   : "\r\n");
	if (status >= 502 && status <= 504)
		sb_str(b, "Retry-After: 5\r\n");
}

/* Ends an answer: its type and length, and the body unless the request was HEAD. type NULL: it has
 * no body at all (RFC 9110 8.6). */
static void rep_end(struct sb *b, const char *type, struct sl body, bool head)
{
	if (type) {
		sb_str(b, "Content-Type: ");
		sb_str(b, type);
		sb_str(b, "\r\nContent-Length: ");
		sb_num(b, body.n);
		sb_crlf(b);
	}
	sb_str(b, "Cache-Control: no-store\r\n\r\n");
	if (!head)
		sb_put(b, body);
}

#define REP_PAGE_MAX 1024

/* The page of a status into p[REP_PAGE_MAX]. waking: it reloads itself. */
static struct sl rep_page(int status, bool waking, char *p)
{
	static const struct rep_code start = {503, "Starting",
										  "The service is starting. This page reloads by itself."};
	const struct rep_code *code = waking ? &start : rep_code(status);
	struct sb b = sb_of(p, REP_PAGE_MAX);

	sb_fmt(&b,
		   "<!doctype html>\n<html lang=en><meta charset=utf-8>"
		   "<meta name=viewport content=\"width=device-width,initial-scale=1\">%s"
		   "<title>%s</title>\n<style>body{font:1.1rem/1.5 system-ui,sans-serif;max-width:34rem;"
		   "margin:15vh auto;padding:0 1rem;color:#333;background:#fff}h1{font-weight:500}"
		   "@media(prefers-color-scheme:dark){body{color:#ddd;background:#1b1b1b}}</style>\n"
		   "<h1>%s</h1>\n",
		   waking ? "<meta http-equiv=refresh content=5>" : "", code->text, code->text);
	if (*code->say)
		sb_fmt(&b, "<p>%s</p>\n", code->say);
	sb_str(&b, "</html>\n");
	return sl_mk(p, b.n);
}

#define REP_CHALLENGE "/.well-known/acme-challenge/"

/* Reads the challenge file for a path that begins with REP_CHALLENGE. The token is base64url
 * (RFC 8555 8.3), so no path of any kind is in it. Returns its length, -1 when there is none. */
static ptrdiff_t rep_challenge(const struct rp *rp, const char *dir, struct sl path, char *p,
							   size_t cap)
{
	static const char where[] = REP_CHALLENGE;
	struct sl token = sl_rest(path, sizeof where - 1);
	char name[sizeof where + 128];
	ptrdiff_t n = -1;

	if (!dir || !token.n || token.n > 128)
		return -1;
	for (size_t i = 0; i < token.n; i++)
		if (!(sl_class[(uint8_t)token.p[i]] & SL_LABEL))
			return -1;
	(void)snprintf(name, sizeof name, "%s%.*s", where + 1, (int)token.n, token.p);
	int fresh =
		sys_opendir(dir); /* it may have been made anew; after chroot there is the old one */
	int fd = fresh >= 0 ? fresh : rp->acme;
	if (fd >= 0 && (n = sys_challenge(fd, name + sizeof where - 2, p, cap)) < 0)
		n = sys_challenge(fd, name, p, cap);
	sys_close(fresh);
	return n;
}

/* ---- the status page ---- */

enum rep_form { REP_HTML, REP_JSON, REP_METRICS };

static const char *rep_status_type(enum rep_form form)
{
	static const char *const types[] = {"text/html; charset=utf-8", "application/json",
										"text/plain; version=0.0.4; charset=utf-8"};
	return types[form];
}

/* What the page consists of, in this order: before it in HTML, before and after it in JSON, name and
 * help of the metric that it is. All samples of one metric must stand together. */
#define REP_PARTS(X)                                                                               \
	X(HEAD, "", "", "", "", "")                                                                    \
	X(ROUTES, "<h2>Routes</h2><table class=r>\n", ",\"routes\":[", "]", "target_up",               \
	  "whether the target works")                                                                  \
	X(SERVED, "", "", "", "target_served_total", "requests that the target answered")              \
	X(FAILED, "", "", "", "target_failed_total", "requests and checks that failed there")          \
	X(CERTS, "</table><h2>Certificates</h2><table>\n", ",\"certificates\":[", "]",                 \
	  "certificate_not_after_seconds", "when the certificate expires, in unix time")               \
	X(LISTENERS, "</table><h2>Listeners</h2><table>\n", ",\"listeners\":[", "]", "", "")           \
	X(NUMBERS, "</table><h2>Numbers</h2><table class=n>\n", "", "", "", "")                        \
	X(CLASSES, "", "", "", "answers_total", "answers by class")                                    \
	X(REASONS, "</table><h2>Answers and cuts of the proxy itself</h2><table class=n>\n",           \
	  ",\"reasons\":{", "}", "reasons_total", "why the proxy itself answered or cut a request")    \
	X(TAIL, "</table>\n", "}\n", "", "", "")

enum rep_part {
#define X(NAME, html, json, end, metric, help) RP_PART_##NAME,
	REP_PARTS(X)
#undef X
		RP_PART_COUNT
};

static const struct rep_number {
	const char *name, *text;
	bool counter;
} rep_numbers[] = {
	{"uptime_seconds", "seconds since the start", false},
	{"clients", "client connections now", false},
	{"connections", "connections of all kinds now", false},
	{"accepted_total", "client connections so far", true},
	{"refused_total", "client connections closed at once: over a limit", true},
	{"requests_total", "requests so far", true},
	{"body_bytes_total", "bytes of bodies sent to clients", true},
};

static uint64_t rep_number(const struct rp *rp, size_t i)
{
	const uint64_t all[] = {(uint64_t)(sys_wall() - rp->started),
							rp->nclient,
							rp->nlive,
							rp->accepted,
							rp->refused,
							rp->requests,
							rp->bytes_out};
	_Static_assert(RP_LEN(all) == RP_LEN(rep_numbers), "one value for each name");
	return all[i];
}

/* The length of the UTF-8 character that a text begins with, 0: it is none (RFC 3629 4). */
static size_t rep_utf8(struct sl a)
{
	uint8_t c = (uint8_t)a.p[0], d = a.n > 1 ? (uint8_t)a.p[1] : 0;
	size_t n = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;

	if (n > a.n || (c == 0xe0 && d < 0xa0) || (c == 0xed && d > 0x9f) || (c == 0xf0 && d < 0x90) ||
		(c == 0xf4 && d > 0x8f))
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((a.p[i] & 0xc0) != 0x80)
			return 0;
	return n;
}

/* A text of any bytes: escaped for HTML, or as a string of JSON or of a label. */
static void rep_text_of(struct sb *b, enum rep_form form, struct sl a)
{
	if (form != REP_HTML)
		sb_chr(b, '"');
	while (a.n) {
		char c = a.p[0];
		size_t n = rep_utf8(a);
		if (!n || (uint8_t)c < ' ' || c == 0x7f)
			sb_chr(b, '?');
		else if (form == REP_HTML && (c == '<' || c == '&'))
			sb_str(b, c == '<' ? "&lt;" : "&amp;");
		else if (form != REP_HTML && (c == '"' || c == '\\'))
			sb_fmt(b, "\\%c", c);
		else
			sb_put(b, sl_mk(a.p, n));
		a = sl_rest(a, n ? n : 1);
	}
	if (form != REP_HTML)
		sb_chr(b, '"');
}

/* One sample of a number that stands alone. */
static void rep_put_number(struct sb *b, enum rep_form form, const struct rep_number *n, uint64_t v)
{
	unsigned long long value = v;

	if (form == REP_HTML)
		sb_fmt(b, "<tr><td>%s<td>%llu\n", n->text, value);
	else if (form == REP_JSON)
		sb_fmt(b, ",\"%s\":%llu", n->name, value);
	else
		sb_fmt(b, "# HELP rproxy_%s %s\n# TYPE rproxy_%s %s\nrproxy_%s %llu\n", n->name, n->text,
			   n->name, n->counter ? "counter" : "gauge", n->name, value);
}

/* 0 up; 1 out: it failed when it was last asked; 2 down, because its check fails. */
static int rep_state(const struct rp *rp, const struct target *tg)
{
	return up_of(rp, tg)->down ? 2 : up_of(rp, tg)->fails != 0;
}

/* How many targets there are, and how many of them do not work. */
static size_t rep_targets(const struct rp *rp, const struct conf *cf, size_t *bad)
{
	size_t n = 0;

	*bad = 0;
	for (size_t i = 0; i < cf->nroute; i++)
		for (unsigned k = 0; k < cf->route[i]->ntarget; k++, n++)
			*bad += rep_state(rp, &cf->route[i]->target[k]) != 0;
	return n;
}

static void rep_put_head(const struct rp *rp, const struct conf *cf, enum rep_form form,
						 struct sb *b)
{
	uint64_t up = rep_number(rp, 0) / 60;
	size_t bad, n = rep_targets(rp, cf, &bad);

	if (form == REP_JSON)
		sb_fmt(b, "{\"version\":\"%s\"", RP_VERSION);
	if (form != REP_HTML)
		return;
	sb_str(
		b,
		"<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport "
		"content=\"width=device-width,initial-scale=1\"><meta http-equiv=refresh content=10>"
		"<title>rproxy</title>\n<style>body{font:1rem/1.4 system-ui,sans-serif;margin:1.5rem "
		"auto;max-width:50rem;padding:0 1rem;color:#222;background:#fff}h1{font-size:1.5rem;"
		"margin:0}h2{font-size:1rem;margin:1.8rem 0 .3rem}p{margin:.2rem 0}table{"
		"border-collapse:collapse;width:100%}td{border-top:1px solid #8885;padding:.35rem 0;"
		"vertical-align:top;overflow-wrap:anywhere}td+td{padding-left:1rem}.n td+td{"
		"text-align:right;white-space:nowrap}small{opacity:.7;display:block}b{font-weight:600;color:#b30}i{"
		"font-style:normal;color:#080}@media(prefers-color-scheme:dark){body{color:#ddd;"
		"background:#1b1b1b}b{color:#f85}i{color:#6c6}}@media(max-width:34rem){.r td{"
		"display:block}.r td:empty{display:none}.r td+td{border:0;padding:0 0 .35rem}}"
		"</style>\n<h1>rproxy</h1>\n<p>");
	if (bad)
		sb_fmt(b, "<b>%zu of %zu targets do not work</b>\n", bad, n);
	else
		sb_fmt(b, "<i>%s</i>\n", n ? "All targets work" : "No targets");
	sb_fmt(b, "<p><small>version %s, up for %llu d %llu h %llu min%s</small>\n", RP_VERSION,
		   (unsigned long long)(up / 1440), (unsigned long long)(up / 60 % 24),
		   (unsigned long long)(up % 60), rp->draining ? ", stopping" : "");
}

/* Row k of the routes: one for each target, and one for a route that has none. *i: which target. */
static const struct route *rep_route(const struct conf *cf, size_t k, unsigned *i)
{
	for (size_t r = 0; r < cf->nroute; r++) {
		unsigned n = cf->route[r]->ntarget ? cf->route[r]->ntarget : 1;
		if (k < n) {
			*i = (unsigned)k;
			return cf->route[r];
		}
		k -= n;
	}
	return NULL;
}

static void rep_html_route(const struct rp *rp, const struct route *r, unsigned i, struct sb *b)
{
	static const char *const states[] = {"<i>up</i>", "<b>out</b>: it failed when last asked",
										 "<b>down</b>: its check fails"};

	sb_str(b, "<tr><td>");
	if (!i) {
		rep_text_of(b, REP_HTML, sl_of(r->host));
		rep_text_of(b, REP_HTML, sl_of(r->path));
	}
	sb_str(b, "<td>");
	if (r->kind == RT_REDIRECT) {
		sb_str(b, "redirect to ");
		rep_text_of(b, REP_HTML, sl_of(r->redirect));
	} else if (r->kind == RT_STATUS) {
		sb_fmt(b, "status %d", r->status);
	} else {
		const struct up *u = up_of(rp, &r->target[i]);
		rep_text_of(b, REP_HTML, sl_of(r->target[i].label));
		sb_fmt(b, "<small>%s, %llu served, %llu failed</small>",
			   states[rep_state(rp, &r->target[i])], (unsigned long long)u->served,
			   (unsigned long long)u->failed);
	}
	sb_chr(b, '\n');
}

static void rep_json_route(const struct rp *rp, const struct route *r, unsigned i, bool first,
						   struct sb *b)
{
	static const char *const states[] = {"up", "out", "down"};

	if (!i) {
		sb_fmt(b, "%s{\"host\":", first ? "" : ",");
		rep_text_of(b, REP_JSON, sl_of(r->host));
		sb_str(b, ",\"path\":");
		rep_text_of(b, REP_JSON, sl_of(r->path));
	}
	if (r->kind == RT_REDIRECT) {
		sb_str(b, ",\"redirect\":");
		rep_text_of(b, REP_JSON, sl_of(r->redirect));
	} else if (r->kind == RT_STATUS) {
		sb_fmt(b, ",\"status\":%d", r->status);
	} else {
		const struct up *u = up_of(rp, &r->target[i]);
		sb_str(b, i ? ",{\"target\":" : ",\"targets\":[{\"target\":");
		rep_text_of(b, REP_JSON, sl_of(r->target[i].label));
		sb_fmt(b, ",\"state\":\"%s\",\"served\":%llu,\"failed\":%llu}%s",
			   states[rep_state(rp, &r->target[i])], (unsigned long long)u->served,
			   (unsigned long long)u->failed, i + 1 < r->ntarget ? "" : "]");
	}
	if (i + 1 >= r->ntarget)
		sb_chr(b, '}');
}

static const struct {
	const char *html, *json, *end, *metric, *help;
} rep_parts[] = {
#define X(NAME, html, json, end, metric, help) {html, json, end, metric, help},
	REP_PARTS(X)
#undef X
};

/* Of a target: is it up, what did it serve, how often did it fail. */
static void rep_metric_route(const struct rp *rp, const struct route *r, unsigned i,
							 enum rep_part part, struct sb *b)
{
	if (!r->ntarget)
		return;
	const struct up *u = up_of(rp, &r->target[i]);
	uint64_t v = part == RP_PART_ROUTES	  ? !rep_state(rp, &r->target[i])
				 : part == RP_PART_SERVED ? u->served
										  : u->failed;

	sb_fmt(b, "rproxy_%s{host=", rep_parts[part].metric);
	rep_text_of(b, REP_METRICS, sl_of(r->host));
	sb_str(b, ",path=");
	rep_text_of(b, REP_METRICS, sl_of(r->path));
	sb_str(b, ",target=");
	rep_text_of(b, REP_METRICS, sl_of(r->target[i].label));
	sb_fmt(b, "} %llu\n", (unsigned long long)v);
}

static void rep_put_route(const struct rp *rp, const struct conf *cf, enum rep_form form,
						  enum rep_part part, size_t k, struct sb *b)
{
	unsigned i = 0;
	const struct route *r = rep_route(cf, k, &i);

	if (form == REP_METRICS)
		rep_metric_route(rp, r, i, part, b);
	else if (form == REP_JSON)
		rep_json_route(rp, r, i, !k, b);
	else
		rep_html_route(rp, r, i, b);
}

static void rep_put_cert(const struct rp *rp, enum rep_form form, size_t k, struct sb *b)
{
	static const char *const states[] = {"good", "unknown", "early", "expiring", "expired"};
	struct crt_info c, other;
	int64_t now = sys_wall();

	if (!crt_each(rp->certs, k, &c))
		return;
	int64_t left = c.not_after - now;
	int state = now < RP_CLOCK_SANE						  ? 1
				: now < c.not_before					  ? 2
				: left < 0								  ? 4
				: left < (c.not_after - c.not_before) / 4 ? 3
														  : 0;
	long long days = (left - (left < 0 ? 86399 : 0)) / 86400;
	if (form == REP_METRICS) {
		for (size_t i = 0; i < k; i++) /* a sample may not be there twice */
			if (crt_each(rp->certs, i, &other) && strcmp(other.file, c.file) == 0)
				return;
		sb_fmt(b, "rproxy_%s{name=", rep_parts[RP_PART_CERTS].metric);
	} else if (form == REP_JSON) {
		sb_str(b, k ? ",{\"name\":" : "{\"name\":");
	} else {
		sb_str(b, "<tr><td>");
	}
	rep_text_of(b, form, c.name);
	if (form == REP_HTML)
		sb_fmt(b, "<td><%c>%s</%c>, %lld days %s<small>", state < 2 ? 'i' : 'b', states[state],
			   state < 2 ? 'i' : 'b', left < 0 ? -days : days, left < 0 ? "ago" : "left");
	else
		sb_str(b, form == REP_JSON ? ",\"file\":" : ",file=");
	rep_text_of(b, form, sl_of(c.file));
	if (form == REP_HTML)
		sb_str(b, "</small>\n");
	else if (form == REP_METRICS)
		sb_fmt(b, "} %lld\n", (long long)c.not_after);
	else
		sb_fmt(b, ",\"state\":\"%s\",\"not_after\":%lld,\"days_left\":%lld}", states[state],
			   (long long)c.not_after, days);
}

static void rep_put_listener(const struct rp *rp, enum rep_form form, size_t k, struct sb *b)
{
	static const char *const kinds[] = {"http", "https", "status"};
	char text[56];

	(void)addr_print(&rp->ls[k].addr, true, text);
	if (form == REP_HTML)
		sb_fmt(b, "<tr><td>%s<td>%s\n", kinds[rp->ls[k].kind], text);
	else
		sb_fmt(b, "%s{\"kind\":\"%s\",\"address\":\"%s\"}", k ? "," : "", kinds[rp->ls[k].kind],
			   text);
}

static void rep_put_class(const struct rp *rp, enum rep_form form, size_t k, struct sb *b)
{
	unsigned long long v = rp->by_class[k];

	if (form == REP_HTML)
		sb_fmt(b, "<tr><td>answers %zuxx<td>%llu\n", k, v);
	else if (form == REP_JSON)
		sb_fmt(b, ",\"answers_%zuxx_total\":%llu", k, v);
	else
		sb_fmt(b, "rproxy_answers_total{class=\"%zuxx\"} %llu\n", k, v);
}

static void rep_put_reason(const struct rp *rp, enum rep_form form, size_t k, struct sb *b)
{
	unsigned long long v = rp->by_why[k];

	if (form == REP_JSON)
		sb_fmt(b, "%s\"%s\":%llu", k ? "," : "", log_whys[k].word, v);
	else if (form == REP_METRICS)
		sb_fmt(b, "rproxy_%s{reason=\"%s\"} %llu\n", rep_parts[RP_PART_REASONS].metric,
			   log_whys[k].word, v);
	else if (v && k)
		sb_fmt(b, "<tr><td>%s<td>%llu\n", log_whys[k].word, v);
}

/* How many rows a part has. */
static size_t rep_rows(const struct rp *rp, const struct conf *cf, enum rep_form form,
					   enum rep_part part)
{
	struct crt_info info;
	size_t n = 0;

	switch (part) {
	case RP_PART_HEAD:
		return 1;
	case RP_PART_SERVED:
	case RP_PART_FAILED:
		if (form != REP_METRICS)
			return 0;
		/* fallthrough */
	case RP_PART_ROUTES:
		for (size_t i = 0; i < cf->nroute; i++)
			n += cf->route[i]->ntarget ? cf->route[i]->ntarget : 1;
		return n;
	case RP_PART_CERTS:
		while (crt_each(rp->certs, n, &info))
			n++;
		return n;
	case RP_PART_LISTENERS:
		return form == REP_METRICS ? 0 : rp->nls;
	case RP_PART_NUMBERS:
		return RP_LEN(rep_numbers);
	case RP_PART_CLASSES:
		return 4;
	case RP_PART_REASONS:
		return WHY_COUNT;
	case RP_PART_TAIL:
	case RP_PART_COUNT:
		break;
	}
	return 0;
}

static void rep_put_row(const struct rp *rp, const struct conf *cf, enum rep_form form,
						enum rep_part part, size_t k, struct sb *b)
{
	switch (part) {
	case RP_PART_HEAD:
		rep_put_head(rp, cf, form, b);
		break;
	case RP_PART_ROUTES:
	case RP_PART_SERVED:
	case RP_PART_FAILED:
		rep_put_route(rp, cf, form, part, k, b);
		break;
	case RP_PART_CERTS:
		rep_put_cert(rp, form, k, b);
		break;
	case RP_PART_LISTENERS:
		rep_put_listener(rp, form, k, b);
		break;
	case RP_PART_NUMBERS:
		rep_put_number(b, form, &rep_numbers[k], rep_number(rp, k));
		break;
	case RP_PART_CLASSES:
		rep_put_class(rp, form, k + 2, b);
		break;
	case RP_PART_REASONS:
		rep_put_reason(rp, form, k, b);
		break;
	case RP_PART_TAIL:
	case RP_PART_COUNT:
		break;
	}
}

/* Writes row `row` of the status page, at most 4 KB; false behind the last. So a page of any length
 * goes through a small buffer. cf: the snapshot whose routes are shown. */
static bool rep_status(const struct rp *rp, const struct conf *cf, enum rep_form form, size_t row,
					   struct sb *b)
{
	for (unsigned part = 0; part < RP_PART_COUNT; part++) {
		size_t n = rep_rows(rp, cf, form, (enum rep_part)part);
		if (row > n + 1) {
			row -= n + 2;
			continue;
		}
		if (row && row <= n)
			rep_put_row(rp, cf, form, (enum rep_part)part, row - 1, b);
		else if (form == REP_METRICS && !row && rep_parts[part].metric[0])
			sb_fmt(b, "# HELP rproxy_%s %s\n# TYPE rproxy_%s %s\n", rep_parts[part].metric,
				   rep_parts[part].help, rep_parts[part].metric,
				   strstr(rep_parts[part].metric, "_total") ? "counter" : "gauge");
		else if (form == REP_JSON)
			sb_str(b, row ? rep_parts[part].end : rep_parts[part].json);
		else if (form == REP_HTML && !row)
			sb_str(b, rep_parts[part].html);
		return true;
	}
	return false;
}

RP_OFTEN

/* ==[ TUN ]============================================== prefix: tun_ ==
 * Two connections joined: what one sends the other gets, and so for its end. After an Upgrade that
 * both wanted, and for TLS that is passed through unopened. Each direction ends by itself; what
 * came before an end, good or bad, is delivered.
 * Borrows: both connections; the caller closes them when tun_step says so, or when nobody moves.
 * Door: tun_step tun_wants tun_due
 */

/* Would the tunnel take bytes from c now? Only when those before are gone: back-pressure. */
static bool tun_wants(const struct conn *c)
{
	return !buf_len(&c->in);
}

/* Hands bytes over by exchanging buffers, so that none is copied; to one that takes nothing more
 * they are as good as lost. */
static bool tun_pass(struct rp *rp, struct conn *from, struct conn *to, uint64_t *count)
{
	if (buf_len(&from->in) && to->deaf) {
		buf_give(&rp->pool, &from->in);
		return true;
	}
	if (buf_len(&from->in) && !buf_len(&to->out)) {
		struct buf b = to->out;
		*count += buf_len(&from->in);
		to->out = from->in;
		from->in = b;
		return true;
	}
	/* Over TLS an end that was none is not passed on as one, and our goodbye ends both directions:
	 * first what came is passed on. */
	bool may = !to->tls || (!from->torn && !buf_len(&to->in) && !tls_pending(to->tls));
	if (from->eof && !buf_len(&from->in) && !to->shut && net_said(to) && may) {
		net_bye(to);
		return true;
	}
	return false;
}

/* Has all that `from` ever sent, and its end, been handed to `to`, or is nobody there to take it? */
static bool tun_over(const struct conn *from, const struct conn *to)
{
	return to->deaf ||
		   (from->eof && !buf_len(&from->in) && net_said(to) && (to->shut || from->torn));
}

/* Moves what can be moved: once each way. *up and *down count bytes from a and from b. Sets *over
 * when there is nothing left to do. Returns whether anything moved. */
static bool tun_step(struct rp *rp, struct conn *a, struct conn *b, uint64_t *up, uint64_t *down,
					 bool *over)
{
	bool moved = net_io(rp, a, tun_wants(a));

	moved |= net_io(rp, b, tun_wants(b));
	moved |= tun_pass(rp, a, b, up);
	moved |= tun_pass(rp, b, a, down);
	moved |= net_io(rp, a, false);
	moved |= net_io(rp, b, false);
	*over = tun_over(a, b) && tun_over(b, a);
	return moved;
}

static uint64_t tun_later(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* When a tunnel's patience ends: idle ms after the last byte. When one end is gone, the other still
 * gets what is left as long as it takes some every stall ms, and a moment to close. *gone: since
 * when that is so, 0 at first; the caller keeps it. */
static uint64_t tun_due(const struct conn *a, const struct conn *b, uint64_t now, uint64_t idle,
						uint64_t stall, uint64_t *gone)
{
	uint64_t wrote = tun_later(a->wrote_at, b->wrote_at);
	bool left = buf_len(&a->in) || buf_len(&b->in) || !net_said(a) || !net_said(b);

	if (!a->deaf && !b->deaf && !a->torn && !b->torn && !(a->tls && a->shut) &&
		!(b->tls && b->shut))
		return tun_later(wrote, tun_later(a->read_at, b->read_at)) + idle;
	if (!*gone)
		*gone = now;
	return tun_later(*gone, wrote) + (left ? stall : RP_LINGER_MS);
}

/* ==[ TX ]=============================================== prefix: tx_ ==
 * One transaction: a client request, its upstream, the answer back.
 * Owns: struct tx (pool made at start).  Borrows: conn, route.  Holds: conf.
 * Fails: sets t->m.why once (first reason wins); tx_done() logs, nobody else.
 * Spec: RFC 9110 7.6, RFC 9112 6 and 9.
 * Door: tx_open_pool tx_close_pool tx_bytes tx_accept tx_client tx_run tx_expire tx_wants tx_check
 *       tx_list tx_drop_conf tx_hangup tx_drain_end tx_verdict tx_wait
 */

#define TX_STATES(X)                                                                               \
	X(HEAD, head, "collecting a request head")                                                     \
	X(PLAN, plan, "framing, gate, route")                                                          \
	X(DIAL, dial, "getting a connection to a target")                                              \
	X(SEND, send, "head and body going up")                                                        \
	X(RELAY, relay, "bodies both ways")                                                            \
	X(LOCAL, local, "our own answer")                                                              \
	X(FLUSH, flush, "last bytes out")                                                              \
	X(TUNNEL, tunnel, "two connections joined")

enum tx_state {
#define X(NAME, fn, text) TX_##NAME,
	TX_STATES(X)
#undef X
		TX_DEAD
};

/* The body of one direction. */
struct tx_body {
	struct fr fr;
	bool chunk; /* it goes on in chunks */
	bool ended; /* the last chunk was written */
};

/* What the log says of a request. */
struct tx_line {
	struct sl method, target, version, referer, agent;
};

/* Who may keep a transaction waiting, and what for. Each has its own patience. */
enum tx_debt {
	TX_CLIENT_TAKES, /* what is said to it */
	TX_CLIENT_SENDS, /* its body */
	TX_UP_TAKES,
	TX_UP_SENDS,	/* its answer */
	TX_CLIENT_LEFT, /* it ended in the middle of its answer, which may be goodbye: the next bytes */
	TX_DEBTS
};

/* What lives for one request: cleared by one assignment. */
struct tx_msg {
	enum why why;
	int status;
	uint64_t began, first_at; /* ms; the answer's first byte, 0 none */
	uint64_t due;
	uint64_t wait_at;			/* since when a helper's word or a target is waited for */
	uint64_t dial_at, dial_due; /* when DIAL began; when this attempt, or a pause, is over */
	uint64_t since[TX_DEBTS];	/* ms: since when each is owed, 0: it is not */
	struct tx_body up, down;
	uint64_t tun_up, tun_down;
	uint32_t tried;	   /* targets that had their chance, by bit */
	uint32_t addr;	   /* which address of the target's name */
	int pick;		   /* which target, -1 none */
	enum why dial_why; /* how the first target failed */
	uint8_t interim;
	bool is_head, is_get, idempotent, offers; /* of the request; it offers to upgrade */
	bool head_gone;							  /* the request head left c->in: no second try */
	bool captured;							  /* line points into cap */
	bool sent;								  /* the head was written to the upstream */
	bool fresh;								  /* no pooled connection any more: one was stale */
	bool nudge;		  /* the target is to be woken if the connection takes long */
	bool lost;		  /* a target had it and did not answer: nobody is asleep */
	bool paused;	  /* between two attempts at a target that is being woken */
	bool answered;	  /* the head of the final answer was written to the client */
	bool close;		  /* the client's connection ends with this request */
	bool half;		  /* the client had shut its sending side before the answer began */
	bool cut;		  /* the answer is not whole: the client must see that */
	bool tcp;		  /* passthrough */
	bool waiting;	  /* for a verdict on a password: that with this cookie */
	bool told;		  /* the verdict came */
	bool drain;		  /* what is left of the body is read and dropped */
	bool page;		  /* LOCAL: the answer was written */
	bool status_page; /* LOCAL: rows follow */
	size_t row;
	uint64_t cookie;
	enum rep_form form;
	struct sl rest; /* LOCAL: what is left of a long page; borrows from the route */
	struct gate_caller who;
	struct sl user; /* points into name */
	struct tx_line line;
	uint16_t nhost;
	uint16_t port;				/* in Host, 0: none */
	char host[RP_NAME_MAX + 3]; /* in its one form */
	char name[64];
};

struct tx {
	enum tx_state state;
	struct tx *next;
	struct conf *cf;		   /* holds */
	struct conn *c, *u;		   /* borrows: client, upstream */
	const struct route *route; /* borrows from cf */
	const struct target *target;
	struct tx_msg m;
	struct addr shown; /* whose text peer[npeer] is: kept, the next visitor is often the same */
	uint16_t npeer;
	char peer[56];
	struct hd req, rsp;
	char cap[RP_CAPTURE];
};

static uint64_t tx_bytes(uint32_t max_client)
{
	return (uint64_t)(max_client + 4) * sizeof(struct tx);
}

/* Makes as many transactions as there may be clients. 0 or -1. */
static int tx_open_pool(struct rp *rp, uint32_t max_client)
{
	rp->ntx = rp->nfree_tx = max_client + 4;
	rp->tx = sys_mem(rp->ntx * sizeof *rp->tx);
	return rp->tx ? 0 : -1;
}

static void tx_close_pool(struct rp *rp)
{
	sys_unmem(rp->tx, rp->ntx * sizeof *rp->tx);
	rp->tx = rp->free_tx = NULL;
}

/* Lets a snapshot go; the last one to do so frees what hangs on it. */
static void tx_drop_conf(struct rp *rp, struct conf *cf)
{
	if (cf && cf->holds == 1) {
		up_drop(rp, cf);
		gate_unload(cf);
	}
	cf_drop(cf);
}

static const char *tx_state_name(enum tx_state s)
{
	static const char *const names[] = {
#define X(NAME, fn, text) #NAME,
		TX_STATES(X)
#undef X
			"DEAD"};
	return names[s];
}

/* The bytes of the request head, while they are there. */
static const char *tx_base(const struct tx *t)
{
	return (const char *)t->c->in.p + t->c->in.r;
}

/* The believed address as text. */
static struct sl tx_peer(struct tx *t)
{
	if (!t->npeer || memcmp(t->shown.ip, t->m.who.addr.ip, sizeof t->shown.ip) != 0) {
		t->shown = t->m.who.addr;
		t->npeer = (uint16_t)addr_print(&t->shown, false, t->peer);
	}
	return sl_mk(t->peer, t->npeer);
}

static struct sl tx_host(const struct tx *t)
{
	return sl_mk(t->m.host, t->m.nhost);
}

/* ---- the log line ---- */

/* Points t->m.line at what the log will say, within the head. */
static void tx_read_line(struct tx *t)
{
	const char *base = tx_base(t);
	struct tx_line *l = &t->m.line;

	if (!t->c->in.p || t->m.tcp) {
		*l = (struct tx_line){{"", 0}, {"", 0}, {"", 0}, {"", 0}, {"", 0}};
		return;
	}
	l->method = hd_sl(base, t->req.method);
	l->target = hd_sl(base, t->req.target);
	l->version = sl_of(t->req.minor ? "HTTP/1.1" : "HTTP/1.0");
	l->referer = hd_value(&t->req, base, HF_REFERER);
	l->agent = hd_value(&t->req, base, HF_USER_AGENT);
	if (!t->req.whole) { /* what it was is anybody's guess: show its first line */
		struct sl in = net_in(t->c), rest = sl_mk(base, sl_plain(in));
		(void)sl_cut(&rest, ' ', &l->method);
		l->target = rest;
		l->version = sl_mk("", 0);
	}
}

static struct sl tx_save(struct sb *b, struct sl a, size_t most)
{
	size_t left = b->cap - b->n, at = b->n;

	a.n = a.n < most ? a.n : most;
	a.n = a.n < left ? a.n : left;
	sb_put(b, a);
	return sl_mk(b->p + at, a.n);
}

/* The head is about to leave c->in: keeps what the log will say. */
static void tx_release_head(struct rp *rp, struct tx *t)
{
	struct sb b = sb_of(t->cap, sizeof t->cap);
	struct tx_line *l = &t->m.line;

	if (t->m.head_gone)
		return;
	tx_read_line(t);
	l->method = tx_save(&b, l->method, 200);
	l->target = tx_save(&b, l->target, 900);
	l->version = tx_save(&b, l->version, 10);
	l->referer = tx_save(&b, l->referer, 200);
	l->agent = tx_save(&b, l->agent, 300);
	t->m.captured = true;
	t->m.head_gone = true;
	if (t->req.whole)
		buf_skip(&t->c->in, t->req.size);
	buf_done(&rp->pool, &t->c->in);
}

static void tx_log_quoted(struct sb *b, struct sl a, size_t most)
{
	sb_chr(b, '"');
	if (!a.n)
		sb_chr(b, '-');
	else
		sb_escape(b, a, most, false);
	sb_chr(b, '"');
}

static void tx_log_word(struct sb *b, struct sl a)
{
	if (!a.n)
		sb_chr(b, '-');
	for (size_t i = 0; i < a.n; i++) /* a word has no blank in it */
		sb_chr(b, (~sl_class[(uint8_t)a.p[i]] & (SL_URI | SL_QUIET)) ? '_' : a.p[i]);
}

static void tx_log_member(struct sb *b, const char *name, struct sl a, size_t most)
{
	sb_str(b, ",\"");
	sb_str(b, name);
	sb_str(b, "\":\"");
	sb_escape(b, a, most, true);
	sb_chr(b, '"');
}

static void tx_log_json(struct rp *rp, struct tx *t, struct sl peer, struct sb *b)
{
	const struct tx_line *l = &t->m.line;
	struct conn *c = t->c;

	sb_str(b, "{\"time\":\"");
	sb_str(b, log_iso());
	sb_chr(b, '"');
	tx_log_member(b, "peer", peer, 100);
	tx_log_member(b, "vhost", tx_host(t), 260);
	tx_log_member(b, "method", l->method, 200);
	tx_log_member(b, "target", l->target, 900);
	tx_log_member(b, "version", l->version, 10);
	sb_fmt(b, ",\"status\":%d,\"bytes\":%llu", t->m.status,
		   (unsigned long long)(t->m.down.fr.total + t->m.tun_down));
	tx_log_member(b, "upstream", sl_of(t->target ? t->target->label : ""), 300);
	sb_fmt(b, ",\"total_ms\":%llu,\"first_ms\":%llu", (unsigned long long)(rp->now - t->m.began),
		   (unsigned long long)(t->m.first_at ? t->m.first_at - t->m.began : rp->now - t->m.began));
	tx_log_member(b, "tls", sl_of(c->tls ? tls_version_name(c->tls) : ""), 20);
	tx_log_member(b, "cipher", sl_of(c->tls ? tls_cipher_name(c->tls) : ""), 60);
	tx_log_member(b, "reason", sl_of(log_whys[t->m.why].word), 40);
	tx_log_member(b, "referer", l->referer, 300);
	tx_log_member(b, "agent", l->agent, 300);
	sb_str(b, "}\n");
}

/* vhost peer - user [time] "request" status bytes "referer" "agent" upstream total first tls cipher
 * reason */
static void tx_log_combined(struct rp *rp, struct tx *t, struct sl peer, struct sb *b)
{
	const struct tx_line *l = &t->m.line;
	struct conn *c = t->c;

	if (!t->m.nhost)
		sb_chr(b, '-');
	sb_put(b, tx_host(t));
	sb_chr(b, ' ');
	sb_put(b, peer);
	sb_str(b, " - ");
	tx_log_word(b, t->m.user);
	sb_str(b, " [");
	sb_str(b, log_stamp());
	sb_str(b, "] \"");
	if (!l->method.n)
		sb_chr(b, '-');
	sb_escape(b, l->method, 200, false);
	if (l->target.n) {
		sb_chr(b, ' ');
		sb_escape(b, l->target, 900, false);
	}
	if (l->version.n) {
		sb_chr(b, ' ');
		sb_put(b, l->version);
	}
	sb_str(b, "\" ");
	if (t->m.status)
		sb_num(b, (uint64_t)t->m.status);
	else
		sb_chr(b, '-');
	sb_chr(b, ' ');
	sb_num(b, t->m.down.fr.total + t->m.tun_down);
	sb_chr(b, ' ');
	tx_log_quoted(b, l->referer, 300);
	sb_chr(b, ' ');
	tx_log_quoted(b, l->agent, 300);
	sb_chr(b, ' ');
	sb_str(b, t->target ? t->target->label : "-");
	sb_chr(b, ' ');
	sb_num(b, rp->now - t->m.began);
	sb_chr(b, ' ');
	sb_num(b, t->m.first_at ? t->m.first_at - t->m.began : rp->now - t->m.began);
	sb_chr(b, ' ');
	sb_str(b, c->tls ? tls_version_name(c->tls) : "-");
	sb_chr(b, ' ');
	sb_str(b, c->tls ? tls_cipher_name(c->tls) : "-");
	sb_chr(b, ' ');
	sb_str(b, log_whys[t->m.why].word);
	sb_chr(b, '\n');
}

static void tx_log(struct rp *rp, struct tx *t)
{
	char line[RP_LOG_LINE];
	struct sb b = sb_of(line, sizeof line);

	rp->by_why[t->m.why]++;
	rp->by_class[t->m.status / 100 % 6]++;
	rp->bytes_out += t->m.down.fr.total + t->m.tun_down;
	if (!log_wants())
		return;
	if (!t->m.captured)
		tx_read_line(t);
	struct sl who = tx_peer(t);
	if (t->cf->log_format == CF_LOG_JSON)
		tx_log_json(rp, t, who, &b);
	else
		tx_log_combined(rp, t, who, &b);
	if (b.over) { /* the limits above leave room for all; a name may be that long */
		b.n = b.n < sizeof line - 1 ? b.n : sizeof line - 1;
		b.p[b.n++] = '\n';
	}
	log_line(LOG_INFO, line, b.n);
}

/* ---- beginning and ending ---- */

/* Takes a transaction for a client connection; NULL when there is none, which the number of clients
 * forbids. */
static struct tx *tx_open(struct rp *rp, struct conn *c)
{
	struct tx *t = rp->free_tx;

	if (!rp->nfree_tx)
		return NULL;
	rp->nfree_tx--;
	if (t)
		rp->free_tx = t->next;
	else
		t = &rp->tx[rp->tx_used++];
	t->state = TX_HEAD;
	t->cf = cf_hold(rp->cf);
	t->c = c;
	t->u = NULL;
	t->route = NULL;
	t->target = NULL;
	memset(&t->m, 0, offsetof(struct tx_msg, host));
	t->m.pick = -1;
	t->m.began = rp->now;
	t->m.who.addr = c->peer;
	t->m.line = (struct tx_line){{"", 0}, {"", 0}, {"", 0}, {"", 0}, {"", 0}};
	hd_reset(&t->req, false);
	c->t = t;
	c->credit = rp->pool.cap;
	tm_stop(&c->due);
	rp->requests++;
	return t;
}

static void tx_close_up(struct rp *rp, struct tx *t)
{
	if (t->u)
		net_close(rp, t->u);
	t->u = NULL;
}

/* Closes a client's connection, whatever it was doing. */
static void tx_hangup(struct rp *rp, struct conn *c)
{
	if (c->phase == CP_FREE)
		return;
	if (c->counted)
		gate_conn_out(rp->gate, c->peer.ip);
	c->counted = false;
	net_close(rp, c);
}

#define TX_GRACE_MS 1000

/* A client that has no request under way may stay for ms; while we drain for a moment at most,
 * which a new one needs to say what it came for. */
static void tx_wait(const struct rp *rp, struct conn *c, uint64_t ms)
{
	tm_set(&c->due, rp->now, rp->draining && ms > TX_GRACE_MS ? TX_GRACE_MS : ms);
}

/* The end of a request: logs it, and gives the transaction back. What becomes of the client's
 * connection is up to the caller. */
static void tx_done(struct rp *rp, struct tx *t)
{
	struct conn *c = t->c;

	tx_close_up(rp, t);
	tx_log(rp, t);
	if (!t->m.head_gone && t->req.whole && !t->m.tcp)
		buf_skip(&c->in, t->req.size);
	buf_done(&rp->pool, &c->in);
	c->t = NULL;
	c->served++;
	tx_drop_conf(rp, t->cf);
	t->cf = NULL;
	t->c = NULL;
	t->next = rp->free_tx;
	rp->free_tx = t;
	rp->nfree_tx++;
}

static bool tx_go(struct tx *t, enum tx_state to)
{
	t->state = to;
	memset(t->m.since, 0, sizeof t->m.since);
	return true;
}

/* First reason wins. */
static void tx_why(struct tx *t, enum why why)
{
	if (!t->m.why)
		t->m.why = why;
}

/* Our own answer with this status; 0: the reason's own. */
static bool tx_fail(struct tx *t, enum why why, int status)
{
	tx_why(t, why);
	t->m.status = status ? status : log_whys[why].status;
	return tx_go(t, TX_LOCAL);
}

/* The exchange can't be saved: close both sides so that neither takes it for whole. */
static bool tx_abort(struct rp *rp, struct tx *t, enum why why)
{
	tx_why(t, why);
	tx_close_up(rp, t);
	t->m.close = t->m.cut = true;
	return tx_go(t, TX_DEAD);
}

/* ---- HEAD ---- */

static bool tx_head(struct rp *rp, struct tx *t)
{
	struct conn *c = t->c;
	ptrdiff_t n = hd_parse(&t->req, net_in(c), (uint32_t)t->cf->head_max);

	if (n > 0) {
		return tx_go(t, TX_PLAN);
	}
	if (n < 0) {
		t->m.close = true;
		t->m.is_head = sl_is(hd_sl(tx_base(t), t->req.method), "HEAD"); /* RFC 9110 9.3.2 */
		return tx_fail(t, t->req.why, t->req.status);
	}
	if (net_io(rp, c, true))
		return true;
	return c->eof ? tx_abort(rp, t, WHY_CLIENT_GONE) : false;
}

/* ---- PLAN: each step returns true when it has decided ---- */

static bool tx_bad(struct tx *t)
{
	t->m.close = true;
	return tx_fail(t, WHY_BAD_REQUEST, 400);
}

/* Framing, and what the method says of it. */
static bool tx_plan_frame(struct tx *t)
{
	const char *base = tx_base(t);
	struct sl method = hd_sl(base, t->req.method);

	t->m.is_get = sl_is(method, "GET");
	t->m.is_head = sl_is(method, "HEAD");
	t->m.idempotent = t->m.is_get || t->m.is_head || sl_is(method, "OPTIONS") ||
					  sl_is(method, "PUT") || sl_is(method, "DELETE");
	t->m.close = t->req.close || (!t->req.minor && !t->req.keep);
	if (fr_decide_request(&t->req, base, &t->m.up.fr) < 0)
		return tx_bad(t);
	t->m.up.chunk = t->m.up.fr.kind == FR_CHUNKED;
	return false;
}

/* What no backend gets to see. */
static bool tx_plan_method(struct tx *t)
{
	struct sl method = hd_sl(tx_base(t), t->req.method);

	if (t->req.form == HD_AUTHORITY) { /* CONNECT */
		t->m.close = true;
		return tx_fail(t, WHY_METHOD_REFUSED, 501);
	}
	return sl_is(method, "TRACE") && tx_fail(t, WHY_METHOD_REFUSED, 405);
}

/* Does the port behind a host's colon say the same as the scheme's own? */
static uint64_t tx_port(struct sl port, uint64_t none)
{
	uint64_t v = none;

	return port.n && sl_number(port, 65535, &v) ? v : none;
}

/* Host, and the authority of an absolute-form target, which must agree (RFC 9112 3.2.2). */
static bool tx_plan_host(struct tx *t)
{
	const char *base = tx_base(t);
	struct sl host = hd_value(&t->req, base, HF_HOST), port, aport;
	char other[RP_NAME_MAX + 3];

	if (hd_has(&t->req, HF_HOST)) {
		t->m.nhost = (uint16_t)hd_authority(host, t->m.host, &port);
		if (!t->m.nhost)
			return tx_bad(t);
		t->m.port = (uint16_t)tx_port(port, 0);
	}
	if (!t->req.authority.len)
		return t->req.form == HD_ABSOLUTE && tx_bad(t);
	size_t n = hd_authority(hd_sl(base, t->req.authority), other, &aport);
	uint64_t usual = sl_lower(base[t->req.authority.off - 4]) == 's' ? 443 : 80; /* "s://" */
	if (!n)
		return tx_bad(t);
	if (!t->m.nhost) { /* HTTP/1.0 without Host */
		memcpy(t->m.host, other, n);
		t->m.nhost = (uint16_t)n;
		t->m.port = (uint16_t)tx_port(aport, 0);
		return false;
	}
	return (!sl_eq(tx_host(t), sl_mk(other, n)) || tx_port(port, usual) != tx_port(aport, usual)) &&
		   tx_bad(t);
}

/* Is it a Host that the status page may be asked by? A site elsewhere can let its own name point to
 * us and so read through a visitor's browser (DNS rebinding); no such site has an address for a
 * name, nor one of ours, nor one that belongs to no public zone. */
static bool tx_is_own_host(const struct tx *t)
{
	static const char *const zones[] = {"localhost", "local", "lan",
										"internal",	 "home",  "home.arpa"};
	struct sl host = tx_host(t);
	uint8_t ip[16];
	const char *dot = memchr(host.p, '.', host.n);

	if (!dot || addr_parse_ip(host, ip))
		return true; /* an address in brackets is without a dot, or one that embeds IPv4 */
	for (size_t i = 0; i < RP_LEN(zones); i++) {
		size_t n = strlen(zones[i]);
		if (host.n > n && host.p[host.n - n - 1] == '.' &&
			sl_is(sl_rest(host, host.n - n), zones[i]))
			return true;
	}
	const struct route *r = rt_find(t->cf, host, sl_mk("/", 1));
	return host.p[0] == '[' || (r && strcmp(r->host, "*") != 0);
}

/* The status listener has pages of its own. */
static bool tx_plan_status(struct tx *t)
{
	struct sl path = hd_sl(tx_base(t), t->req.path);

	if (t->c->door != LS_STATUS)
		return false;
	t->m.status_page = true;
	if (!tx_is_own_host(t))
		return tx_fail(t, WHY_MISDIRECTED, 421);
	if (!t->m.is_get && !t->m.is_head)
		return tx_fail(t, WHY_METHOD_REFUSED, 405);
	t->m.close = true;
	t->m.form = sl_is(path, "/metrics")		  ? REP_METRICS
				: sl_is(path, "/status.json") ? REP_JSON
											  : REP_HTML;
	if (t->m.form == REP_HTML && path.n && !sl_is(path, "/"))
		return tx_fail(t, WHY_NO_ROUTE, 404);
	return tx_fail(t, WHY_NONE, 200);
}

/* Who is calling, as far as it can be believed. */
static void tx_plan_caller(struct tx *t)
{
	const char *base = tx_base(t);
	struct gate_claims cl;
	struct hd_field *f;
	unsigned i = 0;

	cl.nxff = 0;
	if (t->req.seen & (hd_claims | hd_cf)) {
		while (cl.nxff < GATE_XFF_MAX && (f = hd_next(&t->req, HF_XFF, &i)))
			cl.xff[cl.nxff++] = hd_sl(base, f->value);
		cl.cf_ip = hd_value(&t->req, base, HF_CF_IP);
		cl.proto = hd_value(&t->req, base, HF_XFP);
		cl.cf_visitor = hd_value(&t->req, base, HF_CF_VISITOR);
	} else {
		cl.cf_ip = cl.proto = cl.cf_visitor = sl_mk("", 0);
	}
	gate_believe(t->cf, t->c->peer.ip, t->c->peer.port, &cl, t->c->tls != NULL, &t->m.who);
}

/* ACME challenges, on plain listeners, before anything else is asked. */
static bool tx_plan_challenge(struct tx *t)
{
	static const char where[] = REP_CHALLENGE;
	struct sl path = hd_sl(tx_base(t), t->req.path);

	return t->cf->acme_dir.n && !t->c->tls && (t->m.is_get || t->m.is_head) &&
		   path.n >= sizeof where - 1 && memcmp(path.p, where, sizeof where - 1) == 0 &&
		   tx_fail(t, WHY_CHALLENGE, 200);
}

/* The host table. */
static bool tx_plan_route(struct rp *rp, struct tx *t)
{
	struct sl path = hd_sl(tx_base(t), t->req.path);

	if (t->c->tls && t->m.nhost && !crt_covers(tls_set(t->c->tls), tls_pair(t->c->tls), tx_host(t)))
		return tx_fail(t, WHY_MISDIRECTED, 421);
	if (!path.n)
		path = sl_mk("/", 1);
	if (rt_ambiguous(t->cf, tx_host(t), path))
		return tx_bad(t);
	t->route = rt_find(t->cf, tx_host(t), path);
	if (!t->route) {
		if (t->c->tls && rt_find_tcp(t->cf, tx_host(t))) /* it wants a connection of its own */
			return tx_fail(t, WHY_MISDIRECTED, 421);
		if (t->cf->default_kind == CF_DEFAULT_DROP)
			return tx_abort(rp, t, WHY_NO_ROUTE);
		if (t->cf->default_kind == CF_DEFAULT_REDIRECT)
			return tx_fail(t, WHY_NO_ROUTE, t->m.is_get || t->m.is_head ? 302 : 307);
		return tx_fail(t, WHY_NO_ROUTE, t->cf->default_status);
	}
	return false;
}

/* HTTP to HTTPS. */
static bool tx_plan_https(struct rp *rp, struct tx *t)
{
	return !t->m.who.https && !t->route->plain && rp->certs && crt_any(rp->certs, tx_host(t)) &&
		   tx_fail(t, WHY_REDIRECT, t->m.is_get || t->m.is_head ? 301 : 308);
}

/* auth=: a password that is not remembered is checked by the helper, and the plan waits. */
static bool tx_plan_auth(struct rp *rp, struct tx *t)
{
	struct gate_login l = {.field = hd_value(&t->req, tx_base(t), HF_AUTHORIZATION),
						   .ip = t->m.who.addr.ip,
						   .name = t->m.name,
						   .cap = sizeof t->m.name};
	enum gate_auth verdict = gate_auth_check(rp->gate, rp->dns, t->route->users, &l, rp->now);

	t->m.user = l.user;
	switch (verdict) {
	case GATE_OK:
		return false;
	case GATE_ASK:
		return tx_fail(t, WHY_AUTH_REQUIRED, 401);
	case GATE_DENY:
		return tx_fail(t, WHY_INTERNAL, 503);
	case GATE_BUSY:
		break;
	}
	t->m.cookie = l.cookie;
	t->m.wait_at = rp->now;
	return t->m.waiting = true;
}

/* deny, rate, auth: in this order. */
static bool tx_plan_gate(struct rp *rp, struct tx *t)
{
	const struct route *r = t->route;

	if ((r->allow.n || r->deny.n) && !gate_allowed(r, t->m.who.addr.ip))
		return tx_fail(t, WHY_DENIED, 403);
	if (r->rate && !t->m.told && (t->m.row = gate_rate(rp->gate, r, t->m.who.addr.ip, rp->now)))
		return tx_fail(t, WHY_RATE_LIMITED, 429);
	return r->auth_file && !t->m.told && tx_plan_auth(rp, t);
}

/* RFC 9110 7.6.2: an OPTIONS that may go no further is answered here. */
static bool tx_plan_forwards(struct tx *t)
{
	uint64_t v = 1;

	return hd_has(&t->req, HF_MAX_FORWARDS) && sl_is(hd_sl(tx_base(t), t->req.method), "OPTIONS") &&
		   sl_number(hd_value(&t->req, tx_base(t), HF_MAX_FORWARDS), UINT32_MAX, &v) && v == 0 &&
		   tx_fail(t, WHY_NONE, 200);
}

/* What kind of route it is. */
static bool tx_plan_kind(struct tx *t)
{
	const struct route *r = t->route;

	if (r->kind == RT_REDIRECT)
		return tx_fail(t, WHY_REDIRECT, t->m.is_get || t->m.is_head ? 302 : 307);
	if (r->kind == RT_STATUS)
		return tx_fail(t, WHY_NONE, r->status);
	if (r->body_max && t->m.up.fr.kind == FR_LENGTH && t->m.up.fr.left > r->body_max)
		return tx_fail(t, WHY_BODY_TOO_BIG, 413);
	/* RFC 9110 7.8: not from 1.0; and what comes behind a body would be in doubt. */
	t->m.offers = t->req.minor && t->req.upgrade && t->m.up.fr.done &&
				  hd_has(&t->req, HF_UPGRADE) &&
				  !sl_lists(hd_value(&t->req, tx_base(t), HF_UPGRADE), "h2c");
	return false;
}

static bool tx_plan(struct rp *rp, struct tx *t)
{
	if (t->m.waiting)
		return false;
	if (!t->m.told) {
		if (tx_plan_frame(t) || tx_plan_host(t) || tx_plan_method(t))
			return true;
		tx_plan_caller(t);
		if (tx_plan_status(t) || tx_plan_challenge(t) || tx_plan_route(rp, t) ||
			tx_plan_https(rp, t))
			return true;
	}
	if (tx_plan_gate(rp, t))
		return !t->m.waiting;
	if (tx_plan_forwards(t) || tx_plan_kind(t))
		return true;
	return tx_go(t, TX_DIAL);
}

/* The verdict on a password came: the plan of whoever waits for it goes on. False: this one does
 * not. */
static bool tx_verdict(struct tx *t, uint64_t cookie, enum why why)
{
	if (t->state != TX_PLAN || !t->m.waiting || t->m.cookie != cookie)
		return false;
	t->m.waiting = false;
	t->m.told = true;
	return why == WHY_NONE || tx_fail(t, why, 0);
}

/* ---- DIAL ---- */

/* May this request go on a connection that may have died unseen? Only when it can be sent twice. */
static bool tx_may_reuse(const struct tx *t)
{
	return !t->m.fresh && t->m.idempotent && t->m.up.fr.done && !t->m.offers &&
		   !t->route->send_proxy && !t->m.tcp;
}

static void tx_take_up(struct tx *t, struct conn *u)
{
	t->u = u;
	u->t = t;
	t->m.sent = false;
	hd_reset(&t->rsp, true);
}

RP_SELDOM

/* This target (or this address of it) failed: the next one, or the answer that says why. */
static bool tx_dial_failed(struct rp *rp, struct tx *t, enum why why)
{
	const struct target *tg = &t->route->target[t->m.pick];

	tx_close_up(rp, t);
	if (!t->m.dial_why)
		t->m.dial_why = why;
	if (why != WHY_UP_UNRESOLVED && why != WHY_INTERNAL && !t->m.sent &&
		++t->m.addr < up_addrs(rp, tg) && rp->now < t->m.wait_at + t->cf->connect_ms)
		return true;
	if (why != WHY_INTERNAL)
		up_report(rp, tg, why);
	t->m.tried |= 1u << t->m.pick;
	t->m.pick = -1;
	t->m.addr = 0;
	t->m.sent = false;
	return true;
}

/* A person at a browser, who can be shown a page that reloads itself? */
static bool tx_browser(struct tx *t)
{
	struct sl accept = hd_value(&t->req, tx_base(t), HF_ACCEPT), item;

	while (sl_item(&accept, &item))
		if (item.n >= 9 && sl_iis(sl_mk(item.p, 9), "text/html"))
			return true;
	return false;
}

#define TX_NUDGE_MS 1000 /* a connection that takes longer than this wakes the target */
#define TX_PAUSE_MS 500	 /* between two attempts at a target that is being woken */

/* A target with wake= can't be reached: wakes it. Returns whether the request waits for it, which it
 * does as long as a connection may take; a browser is told to come again: a person wants to see
 * something. */
static bool tx_wake(struct rp *rp, struct tx *t)
{
	up_wake(rp, t->route, &t->route->target[0]);
	if ((!t->m.tcp && tx_browser(t)) || rp->now + TX_PAUSE_MS >= t->m.dial_at + t->cf->connect_ms)
		return false;
	t->m.tried = 0;
	t->m.paused = true;
	t->m.dial_due = rp->now + TX_PAUSE_MS;
	return true;
}

/* No target is left. */
static bool tx_no_target(struct rp *rp, struct tx *t)
{
	enum why why = t->m.dial_why;
	bool asleep = t->route->wake && !t->m.lost && (why == WHY_UP_REFUSED || why == WHY_UP_TIMEOUT);

	if (asleep && tx_wake(rp, t))
		return false;
	if (t->m.tcp)
		return tx_abort(rp, t, why);
	return tx_fail(t, asleep ? WHY_UP_WAKING : why, 0);
}

/* A connection was begun. --connect-timeout is for the whole target: while there are more addresses
 * to try, each gets half of what is left. */
static void tx_dialled(struct rp *rp, struct tx *t, struct conn *u)
{
	tx_take_up(t, u);
	if (!t->m.addr)
		t->m.wait_at = rp->now; /* the wait for a name has a patience of its own */
	uint64_t end = t->m.wait_at + t->cf->connect_ms, left = end > rp->now ? end - rp->now : 0;
	t->m.dial_due = rp->now + (t->m.addr + 1 < up_addrs(rp, t->target) ? left / 2 : left);
	t->m.nudge = t->route->wake;
}

/* The connection is on its way. */
static bool tx_dialling(struct rp *rp, struct tx *t)
{
	enum why why = WHY_INTERNAL;

	switch (up_advance(rp, t->u, t->route, t->target, &why)) {
	case UP_WAIT:
		return false;
	case UP_FAIL:
		return tx_dial_failed(rp, t, why);
	case UP_OPEN:
		break;
	}
	if (buf_len(&t->u->in)) /* an answer to nothing: to what somebody put in before us? */
		return tx_dial_failed(rp, t, WHY_UP_BAD);
	if (t->m.tcp) /* no more than this is ever known of it */
		up_report(rp, t->target, WHY_NONE);
	return tx_go(t, t->m.tcp ? TX_TUNNEL : TX_SEND);
}

/* DIAL has waited long enough for what it waits for. */
static void tx_dial_late(struct rp *rp, struct tx *t)
{
	if (t->m.paused) {
		t->m.paused = false;
	} else if (t->u && rp->now < t->m.dial_due) {
		t->m.nudge = false;
		up_wake(rp, t->route, &t->route->target[0]);
	} else {
		(void)tx_dial_failed(rp, t, t->u ? WHY_UP_TIMEOUT : WHY_UP_UNRESOLVED);
	}
}

static uint64_t tx_dial_due(const struct tx *t)
{
	uint64_t nudge = t->m.wait_at + TX_NUDGE_MS;

	if (!t->u && !t->m.paused)
		return t->m.wait_at + t->cf->connect_ms; /* for a name to be resolved */
	return t->u && t->m.nudge && nudge < t->m.dial_due ? nudge : t->m.dial_due;
}

RP_OFTEN

static bool tx_dial(struct rp *rp, struct tx *t)
{
	enum why why = WHY_INTERNAL;

	if (t->u)
		return tx_dialling(rp, t);
	if (t->m.paused && rp->now < t->m.dial_due)
		return false;
	t->m.paused = false;
	if (t->m.pick < 0) {
		if ((t->m.pick = up_pick(rp, t->route, t->m.tried)) < 0)
			return tx_no_target(rp, t);
		t->target = &t->route->target[t->m.pick];
		t->m.wait_at = rp->now;
		t->m.dial_at = t->m.dial_at ? t->m.dial_at : rp->now;
	}
	struct conn *u = tx_may_reuse(t) ? up_take(rp, t->target) : NULL;
	if (u) {
		tx_take_up(t, u);
		return tx_go(t, TX_SEND);
	}
	switch (up_names(rp, t->target)) {
	case UP_ASKING:
		return false;
	case UP_NAMELESS:
		return tx_dial_failed(rp, t, WHY_UP_UNRESOLVED);
	case UP_NAMED:
		break;
	}
	if (!rp->nfree && up_reap_one(rp, false)) {
		t->c->again = true; /* its place is free in the next turn */
		return false;
	}
	u = up_dial(rp, t->target, t->m.addr, CO_UPSTREAM, &why);
	if (!u)
		return tx_dial_failed(rp, t, why);
	tx_dialled(rp, t, u);
	if (t->route->send_proxy && !up_introduce(rp, t->route, u, &t->m.who.addr, net_local(t->c)))
		return tx_dial_failed(rp, t, WHY_INTERNAL);
	return true;
}

/* ---- SEND: the head that goes on ---- */

/* path and query as the target shall see them. */
static void tx_put_target(struct tx *t, const char *base, struct sb *b)
{
	struct sl path = hd_sl(base, t->req.path);

	if (t->req.form == HD_ASTERISK) {
		sb_chr(b, '*');
		return;
	}
	if (t->route->strip)
		path = sl_rest(path, strlen(t->route->path));
	if (sl_at(path, 0) != '/')
		sb_chr(b, '/');
	sb_put(b, path);
	sb_put(b, hd_sl(base, t->req.query));
}

static void tx_put_host(struct tx *t, const char *base, struct sb *b)
{
	sb_str(b, "\r\nHost: ");
	if (t->route->host_mode == RT_HOST_TARGET)
		sb_str(b, t->target->authority);
	else if (t->route->host_mode == RT_HOST_NAME)
		sb_str(b, t->route->host_name);
	else if (hd_has(&t->req, HF_HOST))
		sb_put(b, hd_value(&t->req, base, HF_HOST));
	else if (t->m.nhost)
		sb_put(b, tx_host(t));
	else /* HTTP/1.0 need not say; 1.1 must */
		sb_str(b, t->target->authority);
	sb_crlf(b);
}

/* RFC 7239's older cousins: what every application reads. X-Forwarded-For is the believed address
 * alone: applications believe the last one that they do not trust, and they need trust us only. */
static void tx_put_forwarded(struct tx *t, const char *base, struct sb *b)
{
	uint64_t set = t->route->set_ids; /* the operator knows better */

	if (!(set & HD_BIT(XFF))) {
		sb_str(b, "X-Forwarded-For: ");
		sb_put(b, tx_peer(t));
		sb_crlf(b);
	}
	if (!(set & HD_BIT(XFP)))
		sb_str(b, t->m.who.https ? "X-Forwarded-Proto: https\r\n" : "X-Forwarded-Proto: http\r\n");
	if (!(set & HD_BIT(REAL_IP))) {
		sb_str(b, "X-Real-IP: ");
		sb_put(b, tx_peer(t));
		sb_crlf(b);
	}
	if (hd_has(&t->req, HF_HOST) && !(set & HD_BIT(XFH))) {
		sb_str(b, "X-Forwarded-Host: ");
		sb_put(b, hd_value(&t->req, base, HF_HOST));
		sb_crlf(b);
	}
}

static void tx_put_lines(struct sb *b, const struct strs *lines)
{
	for (size_t i = 0; i < lines->n; i++) {
		sb_str(b, lines->v[i]);
		sb_crlf(b);
	}
}

/* What set= replaces: the client's own fields of this name. */
static void tx_hide_lines(struct hd *h, const char *base, const struct strs *lines)
{
	for (size_t i = 0; i < lines->n; i++) {
		struct sl name = sl_mk(lines->v[i], sl_find(sl_of(lines->v[i]), ':'));
		for (unsigned k = 0; k < h->n; k++)
			if (sl_ieq(hd_sl(base, h->f[k].name), name))
				h->f[k].drop = true;
	}
}

static void tx_put_framing(const struct tx_body *body, bool length, struct sb *b)
{
	if (body->chunk) {
		sb_str(b, "Transfer-Encoding: chunked\r\n");
	} else if (length) {
		sb_str(b, "Content-Length: ");
		sb_num(b, body->fr.left);
		sb_crlf(b);
	}
}

/* RFC 9110 7.6.2: one hop less. */
static void tx_put_forwards(struct tx *t, const char *base, struct sb *b)
{
	uint64_t v = 0;

	if (hd_has(&t->req, HF_MAX_FORWARDS) && sl_is(hd_sl(base, t->req.method), "OPTIONS") &&
		sl_number(hd_value(&t->req, base, HF_MAX_FORWARDS), UINT32_MAX, &v) && v) {
		hd_drop(&t->req, HF_MAX_FORWARDS);
		sb_str(b, "Max-Forwards: ");
		sb_num(b, v - 1);
		sb_crlf(b);
	}
}

/* Writes the request head for the target into u->out, which is empty. */
static bool tx_write_request(struct rp *rp, struct tx *t)
{
	const char *base = tx_base(t);
	struct conn *u = t->u;

	if (!buf_take(&rp->pool, &u->out))
		return false;
	struct sb b = buf_text(&u->out);
	sb_put(&b, hd_sl(base, t->req.method));
	sb_chr(&b, ' ');
	tx_put_target(t, base, &b);
	sb_str(&b, " HTTP/1.1");
	tx_put_host(t, base, &b);
	tx_put_forwards(t, base, &b);
	if (t->route->set.n)
		tx_hide_lines(&t->req, base, &t->route->set);
	hd_copy(&b, &t->req, base,
			hd_hop | hd_claims | (t->m.who.cf ? 0 : hd_cf) |
				(t->req.minor ? 0 : HD_BIT(EXPECT)) | /* RFC 9110 10.1.1 */
				(t->route->auth_file ? HD_BIT(AUTHORIZATION) : 0));
	tx_put_forwarded(t, base, &b);
	tx_put_lines(&b, &t->route->set);
	tx_put_framing(&t->m.up, t->m.up.fr.kind == FR_LENGTH, &b);
	if (t->m.offers) {
		sb_str(&b, "Connection: upgrade\r\nUpgrade: ");
		sb_put(&b, hd_value(&t->req, base, HF_UPGRADE));
		sb_crlf(&b);
	}
	sb_crlf(&b);
	if (b.over)
		return false;
	buf_fill(&u->out, b.n);
	return true;
}

/* ---- bodies ---- */

/* Makes room in a connection's c->out; 0 when there is none to speak of. */
static uint32_t tx_out_room(struct rp *rp, struct conn *c)
{
	if (c->shut || !buf_take(&rp->pool, &c->out))
		return 0;
	uint32_t room = buf_room(&c->out, c->out.cap / 4);

	return room > 64 ? room - 32 : 0; /* for a chunk's size and ends */
}

static void tx_put_chunk(struct buf *out, struct sl payload)
{
	static const char hex[] = "0123456789abcdef";
	char size[20];
	size_t i = sizeof size;

	size[--i] = '\n';
	size[--i] = '\r';
	for (size_t v = payload.n; v; v >>= 4)
		size[--i] = hex[v & 15];
	(void)buf_add(out, sl_mk(size + i, sizeof size - i));
	(void)buf_add(out, payload);
	(void)buf_add(out, sl_mk("\r\n", 2));
}

/* Body bytes that need no framing go over as a whole buffer: nothing is copied. */
static bool tx_swap(struct tx_body *d, struct conn *from, struct conn *to)
{
	uint32_t n = buf_len(&from->in);

	if (d->chunk || d->fr.kind == FR_CHUNKED || buf_len(&to->out) || to->shut ||
		(d->fr.kind == FR_LENGTH && n > d->fr.left))
		return false;
	struct sl payload;
	(void)fr_scan(&d->fr, net_in(from), &payload);
	struct buf b = to->out;
	to->out = from->in;
	from->in = b;
	return true;
}

/* Moves body bytes from one connection's in to the other's out. -1: malformed; 0: nothing to do
 * now; 1: moved. */
static int tx_move(struct rp *rp, struct tx_body *d, struct conn *from, struct conn *to)
{
	int moved = 0;

	while (!d->fr.done && buf_len(&from->in)) {
		if (tx_swap(d, from, to))
			return 1;
		struct sl in = net_in(from), payload;
		uint32_t room = tx_out_room(rp, to);
		if (!room)
			break;
		if (in.n > room)
			in.n = room;
		ptrdiff_t used = fr_scan(&d->fr, in, &payload);
		if (used < 0)
			return -1;
		if (payload.n && d->chunk)
			tx_put_chunk(&to->out, payload);
		else
			(void)buf_add(&to->out, payload);
		buf_skip(&from->in, (size_t)used);
		moved = 1;
	}
	if (d->fr.done && d->chunk && !d->ended && tx_out_room(rp, to)) {
		(void)buf_add(&to->out, sl_mk("0\r\n\r\n", 5));
		d->ended = true;
		moved = 1;
	}
	buf_done(&rp->pool, &from->in);
	buf_done(&rp->pool, &to->out);
	return moved;
}

static bool tx_body_over(const struct tx_body *d)
{
	return d->fr.done && (!d->chunk || d->ended);
}

/* The client broke its body, or left in the middle of it: the upstream must not take it for whole. */
static bool tx_body_broke(struct rp *rp, struct tx *t, enum why why, int status)
{
	tx_close_up(rp, t);
	t->m.close = true;
	if (t->m.answered)
		return tx_abort(rp, t, why);
	return tx_fail(t, why, status);
}

/* How much has come behind the head of the request. */
static uint32_t tx_behind(const struct tx *t)
{
	uint32_t n = buf_len(&t->c->in);
	uint32_t head = t->m.head_gone || !t->req.whole || t->m.tcp ? 0 : t->req.size;

	return n > head ? n - head : 0;
}

/* Has the client left, or at least nothing more to say? What is behind the head in its buffer counts. */
static bool tx_silent(const struct tx *t)
{
	return t->c->eof && !tx_behind(t);
}

/* The request's body on its way up. Returns whether something moved; *over: the state changed. */
static bool tx_upload(struct rp *rp, struct tx *t, bool *over)
{
	bool moved = net_io(rp, t->c, true);

	*over = false;
	if (tx_body_over(&t->m.up))
		return moved;
	if (!t->m.head_gone && buf_len(&t->c->in) > t->req.size)
		tx_release_head(rp, t);
	if (t->m.head_gone) {
		int n = tx_move(rp, &t->m.up, t->c, t->u);
		uint64_t max = t->route->body_max;
		moved |= n > 0;
		*over = n < 0 || (max && t->m.up.fr.total > max);
		if (n < 0)
			return tx_body_broke(rp, t, WHY_BAD_REQUEST, 400);
		if (*over)
			return tx_body_broke(rp, t, WHY_BODY_TOO_BIG, 413);
	}
	if (!t->m.up.fr.done && tx_silent(t)) {
		*over = true;
		return tx_abort(rp, t, WHY_CLIENT_GONE);
	}
	return moved;
}

/* ---- SEND: the answer's head ---- */

/* The upstream is gone or silent before its answer began. One fresh try for a stale pooled
 * connection, another target when that is safe; else the answer that says why. */
static bool tx_lost(struct rp *rp, struct tx *t, enum why why)
{
	bool nothing = !buf_len(&t->u->in) && !t->m.interim;
	bool stale = t->u->used && why == WHY_UP_RESET;

	if (nothing && !t->m.head_gone && stale && !t->m.fresh) {
		tx_close_up(rp, t);
		t->m.fresh = true;
		t->m.sent = false;
		(void)tx_go(t, TX_DIAL);
		t->m.wait_at = t->m.dial_at = rp->now;
		return true;
	}
	if (nothing && !t->m.head_gone && t->m.idempotent && t->route->ntarget > 1) {
		t->m.lost = true;
		(void)tx_go(t, TX_DIAL);
		t->m.dial_why = WHY_NONE;
		t->m.dial_at = 0;
		return tx_dial_failed(rp, t, why);
	}
	up_report(rp, t->target, why);
	tx_close_up(rp, t);
	return tx_fail(t, why, 0);
}

RP_SELDOM

/* ---- Location and its like: names of targets come out public ---- */

/* An absolute or protocol-relative reference, taken apart. */
struct tx_ref {
	char host[RP_NAME_MAX + 3];		/* in its one form */
	size_t nhost;					/* 0: there is no authority, or none that can be read */
	uint64_t port, usual;			/* as written, what its scheme stands for; 0 none */
	struct sl scheme, before, rest; /* "http"; up to the path; path, query and fragment */
};

/* Browsers take a backslash for a slash. */
static bool tx_slash(struct sl uri, size_t i)
{
	return sl_at(uri, i) == '/' || sl_at(uri, i) == '\\';
}

/* The scheme of a URI (RFC 3986 3.1), empty for none; *usual is the port that it stands for. */
static struct sl tx_scheme(const struct tx *t, struct sl uri, uint64_t *usual)
{
	static const char *const known[] = {"http", "ws", "https", "wss"};
	size_t n = 0;

	*usual = t->m.who.https ? 443 : 80;
	while (n < uri.n &&
		   ((sl_class[(uint8_t)uri.p[n]] & SL_NAME) || uri.p[n] == '+' || uri.p[n] == '.'))
		n++;
	if (sl_at(uri, n) != ':' || (uri.p[0] | 0x20) < 'a') /* a letter is the first */
		return sl_mk(uri.p, 0);
	*usual = 0;
	for (size_t i = 0; i < RP_LEN(known); i++)
		if (sl_iis(sl_mk(uri.p, n), known[i]))
			*usual = i < 2 ? 80 : 443;
	return sl_mk(uri.p, n);
}

static void tx_read_ref(const struct tx *t, struct sl uri, struct tx_ref *ref)
{
	size_t from, to;
	struct sl port;

	ref->nhost = 0;
	ref->before = sl_mk("", 0);
	ref->scheme = tx_scheme(t, uri, &ref->usual);
	from = ref->scheme.n ? ref->scheme.n + 1 : 0;
	if (!tx_slash(uri, from) || !tx_slash(uri, from + 1))
		return;
	while (tx_slash(uri, from))
		from++;
	for (to = from; to < uri.n && !tx_slash(uri, to) && uri.p[to] != '?' && uri.p[to] != '#';)
		to++;
	ref->before = sl_mk(uri.p, to);
	ref->rest = sl_rest(uri, to);
	for (size_t i = from; i < to; i++) /* RFC 3986 3.2.1: a user name may stand there */
		from = uri.p[i] == '@' ? i + 1 : from;
	ref->nhost = hd_authority(sl_mk(uri.p + from, to - from), ref->host, &port);
	ref->port = tx_port(port, 0);
}

/* Does a reference name this target? 0: no; 2: yes; 1: the ports are both the usual ones, of
 * different schemes, as when an application takes X-Forwarded-Proto into account. */
static int tx_names_target(const struct tx_ref *ref, const struct target *tg)
{
	uint64_t port = ref->port ? ref->port : ref->usual;
	bool six = ref->host[0] == '[';
	struct sl host = sl_mk(ref->host + six, ref->nhost - 2 * six);
	uint8_t ip[16];

	if (!tg->host || (tg->literal ? !addr_parse_ip(host, ip) || memcmp(ip, tg->addr.ip, 16) != 0
								  : !sl_is(host, tg->host)))
		return 0;
	if (port == tg->port)
		return 2;
	return port && port == ref->usual && (tg->port == 80 || tg->port == 443);
}

/* Is it how this route's backends are told to call themselves: host=NAME, or for a unix socket
 * host=target? A name that is public by itself is not meant. */
static bool tx_names_self(const struct tx *t, const struct tx_ref *ref)
{
	const struct route *r = t->route;
	const char *name = r->host_mode == RT_HOST_NAME		? r->host_name
					   : r->host_mode == RT_HOST_TARGET ? t->target->authority
														: NULL;
	char host[RP_NAME_MAX + 3];
	struct sl port;
	size_t n = name && ref->usual ? hd_authority(sl_of(name), host, &port) : 0;

	for (size_t i = 0; n && i < t->cf->nroute; i++)
		if (sl_is(sl_mk(host, n), t->cf->route[i]->host))
			return false;
	uint64_t said = ref->port ? ref->port : ref->usual;
	return n && sl_eq(sl_mk(host, n), sl_mk(ref->host, ref->nhost)) &&
		   (said == tx_port(port, ref->usual) || said == t->target->port);
}

/* Does a backend mean itself that does not know how it is reached? By the name that the visitor has
 * for it, but with its own port, or without the TLS that ends here; or as "localhost". */
static bool tx_names_own(const struct tx *t, const struct tx_ref *ref)
{
	struct sl host = sl_mk(ref->host, ref->nhost);
	bool local = sl_is(host, "localhost"), http = ref->usual == 80, https = t->m.who.https;

	if (!ref->usual || (!local && !sl_eq(host, tx_host(t))))
		return false;
	if (!local &&
		((ref->usual == 443 && !https) || (http && https && t->route->plain && !ref->port)))
		return false; /* it sends the visitor from http to https, or back */
	return (ref->port ? ref->port : ref->usual) == t->target->port ||
		   (!local && http && https && ref->port == t->m.port);
}

/* Is this path the route's, or below it? */
static bool tx_inside(const struct route *r, struct sl path)
{
	size_t n = strlen(r->path);

	return n <= path.n && memcmp(r->path, path.p, n) == 0 &&
		   (n == path.n || !n || strchr("/?#", path.p[n]));
}

/* The route that a reference leads to through one of its targets; NULL: it is not ours. Of several
 * the one with the very port, then one that serves the path, then this one, then the longest. */
static const struct route *tx_route_of(const struct tx *t, const struct tx_ref *ref)
{
	const struct route *best = NULL;
	int top = 0;

	for (size_t i = 0; i < t->cf->nroute; i++) {
		const struct route *r = t->cf->route[i];
		size_t n = strlen(r->path);
		bool serves = r->strip || tx_inside(r, ref->rest);
		for (unsigned k = 0; k < r->ntarget; k++) {
			int exact = tx_names_target(ref, &r->target[k]);
			int score = exact * 4 + serves * 2 + (r == t->route);
			if (!exact || score < top || (score == top && n <= strlen(best->path)))
				continue;
			best = r;
			top = score;
		}
	}
	return best || !(tx_names_self(t, ref) || tx_names_own(t, ref)) ? best : t->route;
}

/* The port that visitors use for HTTPS; 0: 443, which need not be said. */
static uint32_t tx_public_port(const struct rp *rp, const struct conf *cf)
{
	uint32_t port = cf->public_port;

	for (uint32_t i = 0; i < rp->nls && !port; i++)
		if (rp->ls[i].kind == LS_HTTPS)
			port = rp->ls[i].addr.port;
	return port == 443 ? 0 : port;
}

/* A host and what stands behind its colon; 0: nothing. */
static void tx_put_place(struct sl host, uint32_t port, struct sb *b)
{
	sb_put(b, host);
	if (port) {
		sb_chr(b, ':');
		sb_num(b, port);
	}
}

static void tx_put_https(const struct rp *rp, const struct conf *cf, struct sl host, struct sb *b)
{
	sb_str(b, "https://");
	tx_put_place(host, tx_public_port(rp, cf), b);
}

/* The public way to a route: on this host as the client came here, else by the route's name. A
 * scheme that is neither http's nor WebSocket's is kept. */
static void tx_put_public(struct rp *rp, struct tx *t, const struct route *r,
						  const struct tx_ref *ref, struct sb *b)
{
	bool here = r->host[0] == '*' || sl_is(tx_host(t), r->host);
	struct sl host = here ? tx_host(t) : sl_of(r->host);
	bool cert = !here && (r->kind == RT_TCP || (rp->certs && crt_any(rp->certs, host)));
	bool https = here ? t->m.who.https : cert,
		 ws = ref->scheme.n && (ref->scheme.p[0] | 0x20) == 'w';

	if (!host.n) /* HTTP/1.0 without Host: the path alone has to do */
		return;
	if (!ref->usual)
		sb_put(b, ref->scheme);
	else
		sb_str(b, ws ? "ws" : "http");
	sb_str(b, ref->usual && https ? "s://" : "://");
	tx_put_place(host,
				 cert					   ? tx_public_port(rp, t->cf)
				 : here || !t->m.who.https ? t->m.port
										   : 0,
				 b);
}

/* Does a reference name the host that the client asked for? */
static bool tx_names_host(const struct tx *t, const struct tx_ref *ref)
{
	return ref->nhost && ref->usual && sl_eq(sl_mk(ref->host, ref->nhost), tx_host(t)) &&
		   (ref->port ? ref->port : ref->usual) == (t->m.port ? t->m.port : ref->usual);
}

/* Writes a URI reference as the client may see it: what names a target comes out public, and what
 * strip took off is put back, also where the backend names the host that the client asked for; but
 * not where the backend knows of it. */
static void tx_put_uri(struct rp *rp, struct tx *t, struct sl uri, struct sb *b)
{
	const struct route *r = t->route, *to;
	const char *path = "";
	struct tx_ref ref;

	tx_read_ref(t, uri, &ref);
	if (!ref.before.n) {
		if (r->strip && sl_at(uri, 0) == '/' && !tx_inside(r, uri))
			path = r->path;
	} else if (ref.nhost && (to = tx_route_of(t, &ref))) {
		tx_put_public(rp, t, to, &ref, b);
		path = to->strip ? to->path : "";
		uri = ref.rest;
		if (!t->m.nhost && !*path && sl_at(uri, 0) != '/')
			sb_chr(b, '/');
	} else if (r->strip && tx_names_host(t, &ref)) {
		sb_put(b, ref.before);
		path = tx_inside(r, ref.rest) ? "" : r->path;
		uri = ref.rest;
	}
	sb_str(b, path);
	sb_put(b, uri);
}

/* The part of Refresh that is a URI: "5; url=URI", with or without quotes and "url=" (WHATWG HTML,
 * 4.2.5.3). */
static struct sl tx_refresh(struct sl v)
{
	size_t i = 0, k;

	while (i < v.n && (v.p[i] == '.' || (v.p[i] >= '0' && v.p[i] <= '9')))
		i++;
	v = sl_trim(sl_rest(v, i));
	if (sl_at(v, 0) == ';' || sl_at(v, 0) == ',')
		v = sl_trim(sl_rest(v, 1));
	if (v.n >= 3 && sl_iis(sl_mk(v.p, 3), "url")) {
		struct sl rest = sl_trim(sl_rest(v, 3));
		if (sl_at(rest, 0) == '=')
			v = sl_trim(sl_rest(rest, 1));
	}
	char quote = sl_at(v, 0);
	if (quote == '"' || quote == '\'') {
		v = sl_rest(v, 1);
		k = sl_find(v, quote);
		v.n = k;
	}
	return v;
}

/* One field that may name a target. */
static void tx_put_location(struct rp *rp, struct tx *t, struct hd_field *f, const char *base,
							struct sb *b)
{
	struct sl v = hd_sl(base, f->value), uri = f->id == HF_REFRESH ? tx_refresh(v) : v;
	size_t at = (size_t)(uri.p - v.p);

	sb_put(b, hd_sl(base, f->name));
	sb_str(b, ": ");
	sb_put(b, sl_mk(v.p, at));
	tx_put_uri(rp, t, uri, b);
	sb_put(b, sl_rest(v, at + uri.n));
	sb_crlf(b);
}

static void tx_put_locations(struct rp *rp, struct tx *t, const char *base, struct sb *b)
{
	static const enum hd_id ids[] = {HF_LOCATION, HF_CONTENT_LOCATION, HF_REFRESH};

	for (size_t k = 0; k < RP_LEN(ids); k++) {
		struct hd_field *f;
		unsigned i = 0;
		while ((f = hd_next(&t->rsp, ids[k], &i)))
			if (!f->drop)
				tx_put_location(rp, t, f, base, b);
	}
}

RP_OFTEN

/* ---- the answer's head, rewritten ---- */

#define TX_LOCATIONS (HD_BIT(LOCATION) | HD_BIT(CONTENT_LOCATION) | HD_BIT(REFRESH))

static void tx_put_hsts(const struct tx *t, struct sb *b)
{
	if (t->route && t->route->hsts >= 0 && t->m.who.https) {
		sb_str(b, "Strict-Transport-Security: max-age=");
		sb_num(b, (uint64_t)t->route->hsts);
		sb_crlf(b);
	}
}

/* How the client learns where the answer ends, and what becomes of its connection. */
static void tx_put_ends(struct tx *t, const char *base, struct sb *b)
{
	uint64_t length = 0;
	bool none = t->m.down.fr.kind == FR_NONE;

	/* RFC 9110 8.6: of a HEAD or a 304 it says what a GET would have got; not in 204 */
	if (none && t->rsp.status != 204 && hd_has(&t->rsp, HF_CONTENT_LENGTH) &&
		!hd_has(&t->rsp, HF_TRANSFER_ENCODING) &&
		sl_number(hd_value(&t->rsp, base, HF_CONTENT_LENGTH), INT64_MAX, &length)) {
		sb_str(b, "Content-Length: ");
		sb_num(b, length);
		sb_crlf(b);
	} else {
		tx_put_framing(&t->m.down, t->m.down.fr.kind == FR_LENGTH, b);
	}
	if (t->rsp.status == 426 && hd_has(&t->rsp, HF_UPGRADE)) { /* RFC 9110 15.5.22 */
		sb_str(b, "Upgrade: ");
		sb_put(b, hd_value(&t->rsp, base, HF_UPGRADE));
		sb_str(b,
			   t->m.close ? "\r\nConnection: upgrade, close\r\n" : "\r\nConnection: upgrade\r\n");
	} else if (t->m.close) {
		sb_str(b, "Connection: close\r\n");
	} else if (!t->req.minor) {
		sb_str(b, "Connection: keep-alive\r\n");
	}
}

/* Writes the answer's head (final, or an interim one) into c->out. False: no room for it. */
static bool tx_write_response(struct rp *rp, struct tx *t)
{
	const char *base = (const char *)t->u->in.p + t->u->in.r;
	struct conn *c = t->c;
	bool interim = t->rsp.status < 200;
	uint64_t moved = t->rsp.seen & TX_LOCATIONS;

	if (!buf_take(&rp->pool, &c->out))
		return false;
	struct sb b = buf_text(&c->out);
	sb_str(&b, "HTTP/1.1 ");
	sb_num(&b, (uint64_t)t->rsp.status);
	sb_chr(&b, ' ');
	sb_put(&b, hd_sl(base, t->rsp.reason));
	sb_crlf(&b);
	for (size_t i = 0; i < t->route->hide.n; i++)
		hd_hide(&t->rsp, base, t->route->hide.v[i]);
	bool hsts = t->route->hsts >= 0 && t->m.who.https;
	hd_copy(&b, &t->rsp, base, hd_hop | moved | (hsts ? HD_BIT(HSTS) : 0));
	if (moved)
		tx_put_locations(rp, t, base, &b);
	if (t->rsp.status == 101) {
		sb_str(&b, "Connection: upgrade\r\nUpgrade: ");
		sb_put(&b, hd_value(&t->rsp, base, HF_UPGRADE));
		sb_crlf(&b);
	} else if (!interim) {
		if (!hd_has(&t->rsp, HF_DATE)) { /* RFC 9110 6.6.1 */
			sb_str(&b, "Date: ");
			sb_str(&b, log_date());
			sb_crlf(&b);
		}
		tx_put_hsts(t, &b);
		tx_put_lines(&b, &t->route->add);
		tx_put_ends(t, base, &b);
	}
	sb_crlf(&b);
	if (b.over)
		return false;
	buf_fill(&c->out, b.n);
	return true;
}

/* The protocols that a 101 switches to must have been offered (RFC 9110 7.8). */
static bool tx_offered(struct tx *t, const char *base)
{
	struct sl rest = hd_value(&t->rsp, base, HF_UPGRADE), word;
	bool any = false;

	while (sl_item(&rest, &word)) {
		struct sl offered = hd_value(&t->req, tx_base(t), HF_UPGRADE), o;
		bool found = false;
		while (sl_item(&offered, &o))
			found |= sl_ieq(o, word);
		if (!found)
			return false;
		any = true;
	}
	return any;
}

static bool tx_up_bad(struct rp *rp, struct tx *t, enum why why)
{
	up_report(rp, t->target, why);
	tx_close_up(rp, t);
	return tx_fail(t, why, 502);
}

/* A 1xx answer. */
static bool tx_interim(struct rp *rp, struct tx *t)
{
	const char *base = (const char *)t->u->in.p + t->u->in.r;

	if (t->rsp.status == 101) {
		if (t->m.head_gone || !t->m.offers || !tx_offered(t, base) || !t->m.up.fr.done)
			return tx_up_bad(rp, t, WHY_UPGRADE_REFUSED);
		if (!tx_write_response(rp, t))
			return tx_up_bad(rp, t, WHY_UP_BAD);
		buf_skip(&t->u->in, t->rsp.size);
		tx_release_head(rp, t);
		up_report(rp, t->target, WHY_NONE);
		t->m.status = 101;
		t->m.answered = true;
		t->m.close = true;
		return tx_go(t, TX_TUNNEL);
	}
	if (++t->m.interim > RP_INTERIM_MAX)
		return tx_up_bad(rp, t, WHY_UP_BAD);
	if (t->req.minor && !tx_write_response(rp, t)) /* RFC 9110 15.2: not to 1.0 */
		return tx_up_bad(rp, t, WHY_UP_BAD);
	buf_skip(&t->u->in, t->rsp.size);
	hd_reset(&t->rsp, true);
	(void)net_io(rp, t->c, true);
	return true;
}

/* The head of an answer is whole. */
static bool tx_answer(struct rp *rp, struct tx *t)
{
	const char *base = (const char *)t->u->in.p + t->u->in.r;
	struct tx_body *d = &t->m.down;
	struct fr framing;

	t->m.first_at = t->m.first_at ? t->m.first_at : rp->now;
	if (fr_decide_response(&t->rsp, base, t->m.is_head, &framing) < 0)
		return tx_up_bad(rp, t, WHY_UP_BAD);
	if (t->rsp.status < 200)
		return tx_interim(rp, t);
	d->fr = framing;
	up_report(rp, t->target, WHY_NONE);
	d->chunk = t->req.minor && (d->fr.kind == FR_CHUNKED || d->fr.kind == FR_CLOSE);
	/* What has no end of its own ends with the connection; an answer that comes before the body is
	 * done leaves a client that is still sending. */
	if ((d->fr.kind == FR_CHUNKED || d->fr.kind == FR_CLOSE) && !d->chunk)
		t->m.close = true;
	if (!t->m.up.fr.done || rp->draining)
		t->m.close = true;
	if (!tx_write_response(rp, t))
		return tx_up_bad(rp, t, WHY_UP_BAD);
	t->m.status = t->rsp.status;
	t->m.answered = true;
	t->m.half = t->c->eof;
	d->fr.no_reuse |= t->rsp.close || (!t->rsp.minor && !t->rsp.keep);
	uint64_t ms = RP_IDLE_UP_MS;
	if (hd_has(&t->rsp, HF_KEEP_ALIVE)) {
		struct sl rest = hd_value(&t->rsp, base, HF_KEEP_ALIVE), item;
		while (sl_item(&rest, &item))
			if (item.n > 8 && sl_iis(sl_mk(item.p, 8), "timeout=") &&
				sl_number(sl_rest(item, 8), 86400, &ms))
				ms = ms ? ms * 1000 - 500 : 0; /* closer to its end is too close */
	}
	t->m.row = (size_t)ms;
	buf_skip(&t->u->in, t->rsp.size);
	return tx_go(t, TX_RELAY);
}

static bool tx_send(struct rp *rp, struct tx *t)
{
	bool over = false, moved = false;

	if (!t->m.sent) {
		if (!tx_write_request(rp, t)) {
			tx_close_up(rp, t);
			return tx_fail(t, WHY_HEAD_TOO_BIG, 431);
		}
		t->m.sent = true;
	}
	moved = tx_upload(rp, t, &over);
	if (over)
		return true;
	moved |= net_io(rp, t->u, true);
	if (!net_said(t->c)) /* an interim answer */
		moved |= net_io(rp, t->c, true);
	if (!net_said(t->c)) /* the next head may need the room */
		return moved;
	ptrdiff_t n =
		buf_len(&t->u->in) ? hd_parse(&t->rsp, net_in(t->u), (uint32_t)t->cf->head_max) : 0;
	if (n > 0)
		return tx_answer(rp, t);
	if (n < 0)
		return tx_up_bad(rp, t, WHY_UP_BAD);
	if (t->u->eof)
		return tx_lost(rp, t, WHY_UP_RESET);
	return moved;
}

/* ---- RELAY ---- */

/* The answer is whole: the upstream goes to the pool if nothing at all is wrong with it. */
static bool tx_answered(struct rp *rp, struct tx *t)
{
	struct conn *u = t->u;
	bool perfect = !t->m.down.fr.no_reuse && tx_body_over(&t->m.up) && net_said(u) && !u->eof &&
				   !u->deaf && !buf_len(&u->in) && !t->route->send_proxy;

	if (!tx_body_over(&t->m.up))
		t->m.close = true;
	t->u = NULL;
	if (perfect)
		up_keep(rp, u, t->m.row);
	else
		net_close(rp, u);
	return tx_go(t, TX_FLUSH);
}

/* The upstream broke off in its body: what came is passed on, then the client is cut, too. */
static bool tx_broke_off(struct rp *rp, struct tx *t, enum why why)
{
	tx_why(t, why);
	tx_close_up(rp, t);
	t->m.close = t->m.cut = true;
	return tx_go(t, TX_FLUSH);
}

static bool tx_relay(struct rp *rp, struct tx *t)
{
	struct tx_body *d = &t->m.down;
	bool over = false, moved = false;
	int n = tx_move(rp, d, t->u, t->c);

	if (n < 0)
		return tx_broke_off(rp, t, WHY_UP_BAD);
	if (!tx_body_over(&t->m.up)) {
		moved = tx_upload(rp, t, &over);
		if (over)
			return true;
	} else {
		moved = net_io(rp, t->c, true);
	}
	if (tx_body_over(d))
		return tx_answered(rp, t);
	moved |= net_io(rp, t->u, !buf_len(&t->u->in));
	if (t->u->eof && !buf_len(&t->u->in) && !d->fr.done) {
		if (d->fr.kind != FR_CLOSE || t->u->torn)
			return tx_broke_off(rp, t, WHY_UP_RESET);
		d->fr.done = true; /* though a last chunk may have to wait for room */
		return true;
	}
	return moved || n > 0;
}

RP_SELDOM

/* ---- LOCAL ---- */

/* Where a redirect leads. */
static void tx_put_redirect(struct rp *rp, struct tx *t, struct sb *b)
{
	const char *base = tx_base(t);
	bool https = !t->route || (!t->m.who.https && !t->route->plain && rp->certs &&
							   crt_any(rp->certs, tx_host(t)));
	const char *to = t->route ? t->route->redirect : t->cf->default_url;

	sb_str(b, "Location: ");
	if (t->route && https) {
		tx_put_https(rp, t->cf, tx_host(t), b);
		to = "{uri}";
	}
	while (to && *to) {
		if (strncmp(to, "{uri}", 5) == 0) {
			struct sl path = hd_sl(base, t->req.path);
			sb_put(b, sl_at(path, 0) == '/' ? path : sl_mk("/", 1)); /* none, or "*" */
			sb_put(b, hd_sl(base, t->req.query));
			to += 5;
		} else {
			sb_chr(b, *to++);
		}
	}
	sb_crlf(b);
}

/* Fields that belong to a status or reason. */
static void tx_put_local_fields(struct rp *rp, struct tx *t, struct sb *b)
{
	if (t->m.status >= 300 && t->m.status < 400)
		tx_put_redirect(rp, t, b);
	if (t->m.status_page && t->m.status == 405)
		sb_str(b, "Allow: GET, HEAD\r\n");
	else if (t->m.status == 405 ||
			 (t->m.status == 200 && t->m.why == WHY_NONE && !t->m.status_page &&
			  !(t->route && t->route->kind == RT_STATUS)))
		sb_str(b, "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"); /* RFC 9110 15.5.6 */
	if (t->m.status == 401) {
		sb_str(b, "WWW-Authenticate: Basic realm=\"");
		sb_put(b, tx_host(t));
		sb_str(b, "\", charset=\"UTF-8\"\r\n");
	}
	if (t->m.status == 429) {
		sb_str(b, "Retry-After: ");
		sb_num(b, t->m.row ? t->m.row : 1);
		sb_crlf(b);
	}
	tx_put_hsts(t, b);
}

/* May the connection go on after our answer: can the rest of the body be read and dropped? */
static void tx_local_drain(struct rp *rp, struct tx *t)
{
	const struct fr *f = &t->m.up.fr;

	if (rp->draining)
		t->m.close = true;
	if (f->done || t->m.close || t->m.status == 413 || !t->req.whole)
		t->m.close |= !f->done || !t->req.whole;
	else if (f->kind == FR_LENGTH && f->left <= RP_LINGER_MAX && !hd_has(&t->req, HF_EXPECT))
		t->m.drain = true;
	else
		t->m.close = true;
}

static struct sl tx_local_body(struct rp *rp, struct tx *t, char *page, size_t cap,
							   const char **type)
{
	const struct route *r = t->route;

	*type = "text/html; charset=utf-8";
	if (t->m.why == WHY_CHALLENGE) {
		const char *dir = t->cf->acme_dir.v[0];
		ptrdiff_t n = rep_challenge(rp, dir, hd_sl(tx_base(t), t->req.path), page, cap);
		if (n >= 0) {
			*type = "text/plain";
			return sl_mk(page, (size_t)n);
		}
		t->m.status = 404;
	}
	if (t->m.status == 204)
		*type = NULL;
	if (t->m.status < 300 || !*type)
		return sl_mk("", 0);
	bool starting = t->m.why == WHY_UP_WAKING && tx_browser(t);
	if (r && r->error_page && t->m.status >= 502 && t->m.status <= 504 && !starting)
		return sl_mk(r->error_page, r->error_page_len);
	return rep_page(t->m.status, starting, page);
}

/* Writes our answer, or as much of it as there is room for; the rest of a long page waits. */
static bool tx_write_local(struct rp *rp, struct tx *t)
{
	char page[4096];
	const char *type;
	struct conn *c = t->c;

	tx_local_drain(rp, t);
	if (!buf_take(&rp->pool, &c->out))
		return tx_abort(rp, t, WHY_INTERNAL);
	struct sb b = buf_text(&c->out);
	struct sl body = tx_local_body(rp, t, page, sizeof page, &type);
	rep_begin(&b, t->m.status, t->m.close, !t->req.minor && t->req.whole);
	if (t->m.status_page && t->m.status == 200) {
		sb_str(&b, "Content-Type: ");
		sb_str(&b, rep_status_type(t->m.form));
		sb_str(&b, "\r\nCache-Control: no-store\r\n\r\n");
	} else {
		tx_put_local_fields(rp, t, &b);
		bool longer = body.n > sizeof page && !t->m.is_head;
		rep_end(&b, type, body, t->m.is_head || longer);
		t->m.rest = longer ? body : sl_mk("", 0);
		t->m.down.fr.total = t->m.is_head || longer ? 0 : body.n;
	}
	t->m.page = true;
	t->m.first_at = rp->now;
	if (b.over)
		return tx_abort(rp, t, WHY_INTERNAL);
	buf_fill(&c->out, b.n);
	if (!t->m.head_gone && t->req.whole)
		tx_release_head(rp, t);
	return true;
}

/* The rest of a long page, or of the status page. Returns whether all of it is in c->out. */
static bool tx_local_rest(struct rp *rp, struct tx *t)
{
	struct conn *c = t->c;
	bool rows = t->m.status_page && t->m.status == 200 && !t->m.is_head;

	if (!rows && !t->m.rest.n)
		return true;
	while (tx_out_room(rp, c) > 4096 || (!rows && tx_out_room(rp, c))) {
		struct sb b = buf_text(&c->out);
		if (rows && !rep_status(rp, t->cf, t->m.form, t->m.row++, &b))
			return true;
		if (!rows) {
			size_t n = t->m.rest.n < b.cap ? t->m.rest.n : b.cap;
			sb_put(&b, sl_mk(t->m.rest.p, n));
			t->m.rest = sl_rest(t->m.rest, n);
		}
		buf_fill(&c->out, b.n);
		t->m.down.fr.total += b.n;
		if (!rows && !t->m.rest.n)
			return true;
	}
	return false;
}

static bool tx_local(struct rp *rp, struct tx *t)
{
	struct conn *c = t->c;
	struct sl payload;

	tx_close_up(rp, t);
	if (!t->m.page)
		return tx_write_local(rp, t);
	bool whole = tx_local_rest(rp, t), moved = net_io(rp, c, t->m.drain);
	while (t->m.drain && !t->m.up.fr.done && buf_len(&c->in)) {
		ptrdiff_t n = fr_scan(&t->m.up.fr, net_in(c), &payload);
		buf_skip(&c->in, n < 0 ? buf_len(&c->in) : (size_t)n);
		t->m.close |= n < 0;
		t->m.drain = n >= 0;
		moved = true;
	}
	if (t->m.drain && !t->m.up.fr.done && c->eof)
		return tx_abort(rp, t, WHY_CLIENT_GONE);
	if (whole && (!t->m.drain || t->m.up.fr.done)) {
		return tx_go(t, TX_FLUSH);
	}
	return moved;
}

RP_OFTEN

/* ---- FLUSH ---- */

/* Is this the last request of its connection? What was asked before its end is still answered. */
static bool tx_closes(const struct rp *rp, const struct tx *t)
{
	return t->m.close || rp->draining || (t->c->eof && !tx_behind(t));
}

static bool tx_flush(struct rp *rp, struct tx *t)
{
	struct conn *c = t->c;

	if (net_said(c)) {
		if (!c->tls || c->shut || t->m.cut || !tx_closes(rp, t))
			return tx_go(t, TX_DEAD);
		net_bye(c); /* RFC 9112 9.8: the end is said, and it may have to wait as all that is said */
	}
	return net_io(rp, c, false);
}

/* ---- TUNNEL ---- */

static bool tx_tunnel(struct rp *rp, struct tx *t)
{
	bool over, moved = tun_step(rp, t->c, t->u, &t->m.tun_up, &t->m.tun_down, &over);

	t->m.head_gone = true;
	if (over)
		(void)tx_go(t, TX_DEAD);
	return moved || over;
}

/* ---- the driver ---- */

/* Would the owner of c take more bytes from it? */
static bool tx_wants(const struct conn *c)
{
	const struct tx *t = c->t;

	if (!t)
		return c->phase == CP_OPEN || c->phase == CP_HELLO || c->phase == CP_TLS ||
			   c->phase == CP_PROXY || c->phase == CP_LINGER;
	if (c == t->u && c->phase != CP_OPEN)
		return c->phase == CP_TLS;
	switch (t->state) {
	case TX_HEAD:
	case TX_SEND:
		return true;
	case TX_RELAY:
		return c == t->c || !buf_len(&c->in);
	case TX_LOCAL:
		return t->m.drain;
	case TX_TUNNEL:
		return tun_wants(c);
	case TX_PLAN:
	case TX_DIAL:
	case TX_FLUSH:
	case TX_DEAD:
		break;
	}
	return false;
}

static bool tx_step(struct rp *rp, struct tx *t)
{
	if (t->c->deaf && t->state != TX_DEAD && t->state != TX_TUNNEL)
		return tx_abort(rp, t, WHY_CLIENT_GONE);
	switch (t->state) {
#define X(NAME, fn, text)                                                                          \
	case TX_##NAME:                                                                                \
		return tx_##fn(rp, t);
		TX_STATES(X)
#undef X
	case TX_DEAD:
		break;
	}
	return false;
}

/* Is a client that asked to go on (RFC 9110 10.1.1) still waiting for the word? */
static bool tx_expects(const struct tx *t)
{
	return hd_has(&t->req, HF_EXPECT) && t->req.minor && !t->m.interim && !t->m.up.fr.total;
}

/* Is it this peer that keeps the transaction from going on? */
static bool tx_owed(const struct tx *t, enum tx_debt debt)
{
	bool going = t->state == TX_SEND || t->state == TX_RELAY;

	switch (debt) {
	case TX_CLIENT_TAKES:
		return !net_said(t->c);
	case TX_CLIENT_SENDS: /* there is room for it */
		return !t->m.up.fr.done && !tx_behind(t) &&
			   ((going && !tx_expects(t)) || (t->state == TX_LOCAL && t->m.drain));
	case TX_UP_TAKES:
		return going && !net_said(t->u);
	case TX_UP_SENDS: /* it has all that it needs for an answer; or the answer is under way */
		if (t->state == TX_SEND)
			return net_said(t->u) && (tx_body_over(&t->m.up) || tx_expects(t) || t->u->shut);
		return t->state == TX_RELAY && !t->m.down.fr.done && !buf_len(&t->u->in);
	case TX_CLIENT_LEFT: /* who ended before the answer began waits for it */
		return t->state == TX_RELAY && !t->m.half && tx_silent(t) && net_said(t->c);
	case TX_DEBTS:
		break;
	}
	return false;
}

/* When the patience with a debt ends: it counts from when it began, or from the last byte. */
static uint64_t tx_debt_due(const struct tx *t, enum tx_debt debt)
{
	const struct conn *c = debt == TX_CLIENT_TAKES || debt == TX_CLIENT_SENDS ? t->c : t->u;
	bool takes = debt == TX_CLIENT_TAKES || debt == TX_UP_TAKES;
	uint64_t last = takes ? c->wrote_at : c->read_at;

	if (last < t->m.since[debt])
		last = t->m.since[debt];
	return last + (debt == TX_UP_SENDS		? t->route->response_ms
				   : debt == TX_CLIENT_LEFT ? RP_LINGER_MS
											: t->cf->stall_ms);
}

/* The debt whose patience ends first; TX_DEBTS when there is none. */
static enum tx_debt tx_first_debt(const struct tx *t)
{
	enum tx_debt first = TX_DEBTS;

	for (enum tx_debt d = 0; d < TX_DEBTS; d++)
		if (t->m.since[d] && (first == TX_DEBTS || tx_debt_due(t, d) < tx_debt_due(t, first)))
			first = d;
	return first;
}

/* When this transaction's patience ends. Called when nothing moves any more: then somebody owes us
 * something, and it is noted who. */
static uint64_t tx_due(const struct rp *rp, struct tx *t)
{
	switch (t->state) {
	case TX_HEAD:
		return t->m.began + t->cf->head_ms;
	case TX_PLAN:
		return t->m.wait_at + RP_AUTH_MS;
	case TX_DIAL:
		return tx_dial_due(t);
	case TX_SEND:
	case TX_RELAY:
	case TX_LOCAL:
	case TX_FLUSH:
		break;
	case TX_TUNNEL:
		return tun_due(t->c, t->u, rp->now, t->route->tunnel_ms, t->cf->stall_ms, &t->m.since[0]);
	case TX_DEAD:
		return rp->now;
	}
	for (enum tx_debt d = 0; d < TX_DEBTS; d++)
		t->m.since[d] = !tx_owed(t, d) ? 0 : t->m.since[d] ? t->m.since[d] : rp->now;
	enum tx_debt first = tx_first_debt(t);
	assert(first != TX_DEBTS || t->c->again);
	return first == TX_DEBTS ? rp->now + 1000 : tx_debt_due(t, first);
}

/* The transaction is over: its client's connection goes on, or ends. */
static void tx_end(struct rp *rp, struct tx *t)
{
	struct conn *c = t->c;
	bool close = tx_closes(rp, t);
	bool until_close = t->m.answered && !t->m.down.chunk &&
					   (t->m.down.fr.kind == FR_CLOSE || t->m.down.fr.kind == FR_CHUNKED);
	/* It said that it has no more to say, and has kept its word so far. */
	bool silent = t->req.whole && (t->req.close || !(t->req.minor || t->req.keep)) && !c->tls &&
				  t->m.up.fr.done && t->m.why != WHY_BAD_REQUEST && !tx_behind(t);
	/* A FIN is the end of such an answer; what a stalled client left is not kept for it. */
	bool reset = c->deaf || (t->m.cut && until_close) || t->m.why == WHY_CLIENT_STALLED;
	bool cut = t->m.cut, hangup = cut && !net_said(c);

	tx_done(rp, t);
	if (reset || hangup || (close && silent && sys_peek(c->fd) <= 0)) {
		if (reset)
			sys_reset(c->fd);
		tx_hangup(rp, c);
	} else if (close || cut) {
		if (c->counted)
			gate_conn_out(rp->gate, c->peer.ip);
		c->counted = false;
		net_linger(rp, c);
	} else {
		tm_set(&c->due, rp->now, rp->cf->idle_ms);
		c->again = buf_len(&c->in) != 0;
	}
}

/* Runs a transaction until nothing moves. */
static void tx_run(struct rp *rp, struct tx *t)
{
	int left = 48;

	while (left && t->state != TX_DEAD && tx_step(rp, t))
		left--;
	if (t->state == TX_DEAD) {
		tx_end(rp, t);
		return;
	}
	if (!left) /* it goes on in the next turn: nobody is waited for */
		t->c->again = true;
	t->m.due = left || t->state == TX_HEAD ? tx_due(rp, t) : rp->now + 1000;
}

/* ---- client connections ---- */

/* A word about a connection that never came to a request. */
static void tx_tell(const struct conn *c, enum log_level level, const char *what)
{
	char peer[64];

	peer[addr_print(&c->peer, false, peer)] = 0;
	log_event(level, "%s: %s", peer, what);
}

/* Serves what stands in c->in: request after request, some at a time so that others get their
 * turn. */
static void tx_serve(struct rp *rp, struct conn *c)
{
	int left = 16;

	c->again = false;
	if (c->t)
		tx_run(rp, c->t);
	while (c->phase == CP_OPEN && !c->t && (buf_len(&c->in) || net_io(rp, c, true)) && left--) {
		if (!buf_len(&c->in))
			break;
		struct tx *t = tx_open(rp, c);
		if (!t) {
			tx_hangup(rp, c);
			return;
		}
		tx_run(rp, t);
	}
	if (c->phase != CP_OPEN || c->t)
		return;
	if (c->deaf || (c->eof && !buf_len(&c->in)))
		tx_hangup(rp, c);
	else if (buf_len(&c->in))
		c->again = true;
}

RP_SELDOM

/* A transaction that is no request: what was said is no ClientHello, or goes through unopened. */
static struct tx *tx_open_odd(struct rp *rp, struct conn *c)
{
	struct tx *t = tx_open(rp, c);

	c->phase = CP_OPEN;
	if (!t)
		tx_hangup(rp, c);
	return t;
}

enum { TX_ALERT_INTERNAL = 80, TX_ALERT_DECODE = 50, TX_ALERT_NAME = 112 };

/* Says a TLS alert (RFC 8446 6) and closes. */
static void tx_alert(struct rp *rp, struct conn *c, int alert)
{
	uint8_t record[7];
	size_t n = tls_alert(record, alert);

	tx_tell(c, LOG_DEBUG,
			alert == TX_ALERT_NAME	   ? "TLS: no certificate for the name it asks for"
			: alert == TX_ALERT_DECODE ? "TLS: what it said is no ClientHello"
									   : "TLS: no memory for one more");
	rp->refused++;
	buf_give(&rp->pool, &c->in);
	if (net_say(rp, c, sl_mk(record, n)))
		(void)net_io(rp, c, false);
	if (c->counted)
		gate_conn_out(rp->gate, c->peer.ip);
	c->counted = false;
	net_linger(rp, c);
}

static void tx_passthrough(struct rp *rp, struct conn *c, const struct route *r, struct sl sni)
{
	struct tx *t = tx_open_odd(rp, c);
	size_t n;

	if (!t)
		return;
	t->m.tcp = t->m.head_gone = t->m.captured = true;
	t->m.up.fr.done = true;
	t->m.close = true;
	t->route = r;
	(void)tx_go(t, TX_DIAL);
	n = sl_host(sni, t->m.host);
	t->m.nhost = (uint16_t)n;
	if (!gate_allowed(r, c->peer.ip))
		(void)tx_abort(rp, t, WHY_DENIED);
	tx_run(rp, t);
}

/* The ClientHello is whole: who is asked for? */
static void tx_hello(struct rp *rp, struct conn *c, struct sl sni)
{
	char name[RP_NAME_MAX + 1];
	struct sl host = sl_mk(name, sl_host(sni, name));
	const struct route *r = rt_find_tcp(rp->cf, host);
	const struct crt_pair *pair = NULL;

	if (r) {
		tx_passthrough(rp, c, r, host);
		return;
	}
	if (host.n && rp->cf->default_kind == CF_DEFAULT_DROP && !rt_knows(rp->cf, host)) {
		rp->refused++;
		tx_hangup(rp, c);
		return;
	}
	if (sni.n)
		pair = rp->certs && host.n ? crt_pick(rp->certs, host) : NULL;
	else if (rp->cf->default_cert && rp->certs)
		pair = crt_pick(rp->certs, sl_of(rp->cf->default_cert));
	if (!pair) {
		tx_alert(rp, c, TX_ALERT_NAME); /* RFC 6066 3 */
		return;
	}
	c->tls = tls_accept(rp->tls, rp->certs, pair, host);
	if (c->tls && tls_feed(c->tls, net_in(c)) < 0) {
		tls_close(c->tls);
		c->tls = NULL;
	}
	if (!c->tls) {
		tx_alert(rp, c, TX_ALERT_INTERNAL);
		return;
	}
	buf_give(&rp->pool, &c->in);
	c->phase = CP_TLS;
	c->again = true;
}

static void tx_greet_tls(struct rp *rp, struct conn *c)
{
	struct sl sni = sl_mk("", 0);
	uint8_t name[256];

	(void)net_io(rp, c, true);
	if (c->deaf || !buf_len(&c->in)) {
		if (c->eof || c->deaf)
			tx_hangup(rp, c);
		return;
	}
	int r = tls_hello(net_in(c), &sni, name);
	if (r > 0) {
		tx_hello(rp, c, sni);
	} else if (r < 0 && (sl_class[(uint8_t)net_in(c).p[0]] & SL_TCHAR)) { /* HTTP on a TLS port */
		struct tx *t = tx_open_odd(rp, c);
		if (t) {
			(void)tx_bad(t);
			tx_run(rp, t);
		}
	} else if (r < 0) {
		tx_alert(rp, c, TX_ALERT_DECODE);
	} else if (c->eof) {
		tx_hangup(rp, c);
	}
}

/* The address of a client is known: may it come in? */
/* Ends the oldest request of an address that waits for its answer, and whose client has sent its end:
 * more often than not it is gone, which can't be seen before something is sent. */
static bool tx_make_way(struct rp *rp, const uint8_t ip[16])
{
	struct tx *oldest = NULL;

	for (uint32_t i = 0; i < rp->nlive; i++) {
		struct conn *c = rp->live[i];
		struct tx *t = c->kind == CO_CLIENT && c->counted ? c->t : NULL;
		if (t && (t->state == TX_DIAL || t->state == TX_SEND) && tx_silent(t) &&
			memcmp(c->peer.ip, ip, 16) == 0 && (!oldest || t->m.began < oldest->m.began))
			oldest = t;
	}
	if (!oldest)
		return false;
	(void)tx_abort(rp, oldest, WHY_CLIENT_GONE);
	tx_end(rp, oldest);
	return true;
}

static bool tx_counts_in(struct rp *rp, struct conn *c)
{
	return gate_conn_in(rp->gate, c->peer.ip, rp->cf->max_conns_per_ip);
}

static void tx_admit(struct rp *rp, struct conn *c)
{
	if (c->door != LS_STATUS) {
		if (!tx_counts_in(rp, c) && !(tx_make_way(rp, c->peer.ip) && tx_counts_in(rp, c))) {
			tx_tell(c, LOG_DEBUG, "more connections than max-conns-per-ip");
			rp->refused++;
			tx_hangup(rp, c);
			return;
		}
		c->counted = true;
	}
	c->phase = c->door == LS_HTTPS ? CP_HELLO : CP_OPEN;
	tx_wait(rp, c, c->door == LS_HTTPS ? rp->cf->head_ms : rp->cf->idle_ms);
}

static void tx_greet_proxy(struct rp *rp, struct conn *c)
{
	struct net_proxy head;

	(void)net_io(rp, c, true);
	ptrdiff_t n = buf_len(&c->in) ? net_proxy_parse(net_in(c), &head) : 0;
	if (n < 0) {
		tx_tell(c, LOG_WARN, "no PROXY header, which accept-proxy expects of it");
		rp->refused++;
		tx_hangup(rp, c);
		return;
	}
	if (n == 0) {
		if (c->eof || c->deaf)
			tx_hangup(rp, c);
		return;
	}
	buf_skip(&c->in, (size_t)n);
	if (!head.local) {
		c->peer = head.src;
		c->local = head.dst;
	}
	tx_admit(rp, c);
	buf_done(&rp->pool, &c->in);
}

RP_OFTEN

/* Something happened on a client's connection. */
static void tx_client(struct rp *rp, struct conn *c)
{
	if (c->phase == CP_PROXY) {
		tx_greet_proxy(rp, c);
		if (c->phase == CP_PROXY || c->phase == CP_FREE || !buf_len(&c->in))
			return;
		c->ready = 0;
	}
	if (c->phase == CP_HELLO) {
		tx_greet_tls(rp, c);
		if (c->phase != CP_TLS)
			return;
	}
	if (c->phase == CP_TLS) {
		(void)net_io(rp, c, true);
		if (c->deaf || c->eof) {
			tx_tell(c, LOG_DEBUG, tls_error(c->tls));
			tx_hangup(rp, c);
			return;
		}
		if (!tls_is_open(c->tls))
			return;
		c->phase = CP_OPEN;
		tx_wait(rp, c, rp->cf->idle_ms);
	}
	if (c->phase == CP_OPEN)
		tx_serve(rp, c);
	else if (c->phase == CP_LINGER && net_lingered(rp, c))
		tx_hangup(rp, c);
}

/* A connection was just accepted. */
static void tx_accept(struct rp *rp, struct conn *c)
{
	if (addr_match(&rp->cf->accept_proxy, c->peer.ip) && c->door != LS_STATUS) {
		c->phase = CP_PROXY;
		tx_wait(rp, c, rp->cf->head_ms);
		return;
	}
	tx_admit(rp, c);
}

/* ---- time ---- */

/* Somebody did not do in time what the exchange waits for. */
static void tx_defaulted(struct rp *rp, struct tx *t, enum tx_debt debt)
{
	enum why why = debt == TX_UP_TAKES ? WHY_UP_STALLED : WHY_UP_TIMEOUT;

	switch (debt) {
	case TX_CLIENT_TAKES:
		(void)tx_abort(rp, t, WHY_CLIENT_STALLED);
		break;
	case TX_CLIENT_SENDS:
		if (t->state == TX_LOCAL)
			(void)tx_abort(rp, t, WHY_BODY_TIMEOUT);
		else
			(void)tx_body_broke(rp, t, WHY_BODY_TIMEOUT, 408);
		break;
	case TX_UP_TAKES:
	case TX_UP_SENDS:
		if (t->state == TX_SEND)
			(void)tx_lost(rp, t, why);
		else
			(void)tx_broke_off(rp, t, why);
		break;
	case TX_CLIENT_LEFT:
		(void)tx_abort(rp, t, WHY_CLIENT_GONE);
		break;
	case TX_DEBTS:
		break;
	}
}

/* A transaction's patience is over. */
static void tx_expired(struct rp *rp, struct tx *t)
{
	switch (t->state) {
	case TX_HEAD:
		t->m.close = true;
		(void)tx_fail(t, WHY_HEAD_TIMEOUT, 408);
		break;
	case TX_PLAN:
		(void)tx_fail(t, WHY_INTERNAL, 503);
		break;
	case TX_DIAL:
		tx_dial_late(rp, t);
		break;
	case TX_SEND:
	case TX_RELAY:
	case TX_LOCAL:
	case TX_FLUSH:
		tx_defaulted(rp, t, tx_first_debt(t));
		break;
	case TX_TUNNEL:
		t->m.cut = true;
		(void)tx_go(t, TX_DEAD);
		break;
	case TX_DEAD:
		break;
	}
	tx_run(rp, t);
}

/* Looks whether time is up for a client's connection or its transaction; *due becomes the earlier
 * of itself and what is left to wait for. */
static void tx_expire(struct rp *rp, struct conn *c, uint64_t *due)
{
	if (c->t && tm_due(&c->t->m.due, rp->now))
		tx_expired(rp, c->t);
	else if (!c->t && tm_due(&c->due, rp->now))
		tx_hangup(rp, c);
	uint64_t mine = c->phase == CP_FREE ? 0 : c->t ? c->t->m.due : c->due;
	if (mine && (!*due || mine < *due))
		*due = mine;
}

/* The drain timeout is over: what is still under way is cut, and says why. */
static void tx_drain_end(struct rp *rp)
{
	for (uint32_t i = rp->nlive; i--;) {
		struct conn *c = rp->live[i];
		if (c->phase == CP_FREE || c->kind != CO_CLIENT)
			continue;
		if (c->t) {
			(void)tx_abort(rp, c->t, WHY_DRAINING);
			tx_end(rp, c->t);
		} else {
			tx_hangup(rp, c);
		}
	}
}

RP_SELDOM

/* USR2: a line for each transaction under way. */
static void tx_list(struct rp *rp)
{
	unsigned n = 0;

	for (uint32_t i = 0; i < rp->nlive; i++) {
		struct conn *c = rp->live[i];
		struct tx *t = c->kind == CO_CLIENT && c->phase != CP_FREE ? c->t : NULL;
		char text[400], peer[56], line[1200];
		struct sb b = sb_of(text, sizeof text - 1);
		if (!t)
			continue;
		if (!t->m.captured)
			tx_read_line(t);
		(void)addr_print(&t->m.who.addr, false, peer);
		sb_escape(&b, t->m.line.method, 40, false);
		sb_chr(&b, ' ');
		sb_escape(&b, t->m.line.target, 60, false);
		text[b.n] = 0;
		struct sb l = sb_of(line, sizeof line);
		sb_fmt(&l, "rproxy: transaction %s %llu ms %s %.*s %s -> %s, %llu bytes up, %llu down\n",
			   tx_state_name(t->state), (unsigned long long)(rp->now - t->m.began), peer,
			   (int)t->m.nhost, t->m.host, text, t->target ? t->target->label : "-",
			   (unsigned long long)(t->m.up.fr.total + t->m.tun_up),
			   (unsigned long long)(t->m.down.fr.total + t->m.tun_down));
		log_line(LOG_ERR, line, l.n);
		n++;
	}
	log_event(LOG_ERR, "%u transactions under way", n);
}

/* What must hold for every client connection after a turn. */
static void tx_check(const struct rp *rp)
{
	uint32_t clients = 0, tx = 0;

	for (uint32_t i = 0; i < rp->nlive; i++) {
		const struct conn *c = rp->live[i];
		if (c->phase == CP_FREE)
			continue;
		assert(c->fd >= 0);
		clients += c->kind == CO_CLIENT;
		assert(c->kind != CO_UPSTREAM || (c->t && c->t->u == c));
		assert(c->kind != CO_IDLE || (!c->t && c->due && !c->in.p && !c->out.p));
		if (c->kind != CO_CLIENT)
			continue;
		assert(c->t ? c->t->c == c && c->t->m.due && c->t->state != TX_DEAD : c->due != 0);
		assert(!c->t || !c->t->u || c->t->u->t == c->t);
		tx += c->t != NULL;
	}
	assert(clients == rp->nclient);
	assert(tx == rp->ntx - rp->nfree_tx);
}

/* ==[ LIFE ]============================================= prefix: life_ ==
 * Start, signals, reload as a transaction, drain.
 * Owns: struct rp.
 * Fails: the start with an exit status; a reload with -1 and everything as it was.
 * Door: life_open life_close life_reload life_drain life_signals life_second life_may_accept
 */

static bool life_any(const struct conf *cf, enum target_kind kind)
{
	for (size_t i = 0; i < cf->nroute; i++)
		for (unsigned k = 0; k < cf->route[i]->ntarget; k++)
			if (cf->route[i]->target[k].kind == kind)
				return true;
	return false;
}

static bool life_listens(const struct conf *cf, enum cf_listen_kind kind)
{
	for (size_t i = 0; i < cf->nlisten; i++)
		if (cf->listen[i].kind == kind)
			return true;
	return false;
}

/* Which helper processes the snapshot needs. One that is started after chroot sees no /etc any more:
 * then it must be there before a reload may want it. */
static unsigned life_helpers(const struct conf *cf, bool start)
{
	unsigned flags = up_names_needed(cf) || (start && cf->chroot_dir) ? DNS_FOR_NAMES : 0;

	for (size_t i = 0; i < cf->nroute; i++)
		if (cf->route[i]->auth_file)
			flags |= DNS_FOR_HASHES;
	return flags;
}

/* Reads what a snapshot names: certificates, password files, authorities. 0 or -1; every fault is
 * logged. */
static int life_load(struct conf *cf, const struct crt_set *was, struct crt_set **certs)
{
	int bad = crt_load(cf, was, certs);

	for (size_t i = 0; i < cf->nroute; i++) {
		const struct route *r = cf->route[i];
		char place[600] = "--route: ";
		if (r->file)
			(void)snprintf(place, sizeof place, "%.500s:%u: ", r->file, r->line);
		log_lead(place);
		bad |= gate_load(cf, cf->route[i]);
		log_lead(NULL);
	}
	if (bad) {
		crt_drop(*certs);
		*certs = NULL;
		gate_unload(cf);
	}
	return bad ? -1 : 0;
}

/* A snapshot that never went live. */
static void life_discard(struct conf *cf)
{
	if (cf)
		gate_unload(cf);
	cf_drop(cf);
}

/* Names that no certificate covers stay on plain HTTP: said once, where it is a surprise. */
static void life_warn_uncovered(const struct conf *cf, const struct crt_set *certs)
{
	const char *how = life_listens(cf, LS_HTTP) ? "served over HTTP alone" : "not served";

	if (!life_listens(cf, LS_HTTPS))
		return;
	if (cf->default_cert && !crt_any(certs, sl_of(cf->default_cert)))
		log_event(LOG_WARN, "warning: no certificate covers default-cert %s", cf->default_cert);
	for (size_t i = 0; i < cf->nroute; i++) {
		const struct route *r = cf->route[i];
		struct sl host = sl_of(r->host);
		if (r->kind == RT_TCP || r->plain || sl_is(host, "*"))
			continue;
		if (i && !cf->route[i - 1]->plain && strcmp(r->host, cf->route[i - 1]->host) == 0)
			continue; /* said already: they are sorted */
		if (!crt_any(certs, host))
			log_event(LOG_WARN, "warning: no certificate covers %s: it is %s", r->host, how);
	}
}

/* A router without a battery: said once, with the first target that it matters for. */
static void life_warn_clock(const struct conf *cf, const struct conf *old)
{
	if (sys_wall() < RP_CLOCK_SANE && life_any(cf, TG_HTTPS) && !(old && life_any(old, TG_HTTPS)))
		log_event(LOG_WARN,
				  "the clock says a time before 2024: dates of backends' certificates are not "
				  "judged until it is set");
}

static uint64_t life_bytes(const struct conf *cf)
{
	uint32_t server = life_listens(cf, LS_HTTPS) ? cf->max_conns : 0;
	uint32_t client = life_any(cf, TG_HTTPS) ? cf->max_conns + 64 : 0;

	return net_bytes(cf) + tx_bytes(cf->max_conns) +
		   (server + client ? tls_room_bytes(server, client, cf->session_cache) : 0);
}

/* All memory of the data path, at once. 0 or -1. */
static int life_pools(struct rp *rp, const struct conf *cf)
{
	uint32_t other = (uint32_t)cf->nlisten + 16 + RP_SPARE_FDS;
	uint32_t need = net_conns(cf->max_conns) + other;
	uint32_t have = sys_descriptors(need);

	rp->gate = gate_open(cf->max_conns);
	if (!rp->gate || net_open(rp, cf) < 0 || tx_open_pool(rp, cf->max_conns) < 0 ||
		tls_open_room(&rp->tls, cf->max_conns + 4, cf->max_conns + 64, cf->session_cache) < 0) {
		log_event(LOG_ERR, "there is no memory for max-conns %u", cf->max_conns);
		return -1;
	}
	if (have < need) { /* so that what reload, log and helpers need is always left */
		rp->nfree = have > other + 16 ? have - other : 16;
		rp->max_client = rp->nfree < rp->max_client * 2 + 8 ? rp->nfree / 2 - 4 : rp->max_client;
		log_event(LOG_WARN,
				  "warning: %u descriptors are allowed, max-conns %u may need %u; at most "
				  "%u clients are served at once",
				  have, cf->max_conns, need, rp->max_client);
	}
	return 0;
}

static const char *life_kind(enum cf_listen_kind kind)
{
	static const char *const kinds[] = {"http", "https", "status"};

	return kinds[kind];
}

/* Is there room for one more connection from this listener? */
static bool life_may_accept(const struct rp *rp, const struct net_listener *l)
{
	return rp->now >= rp->accept_after && rp->nfree > 1 && rp->nfree_tx &&
		   rp->nclient < rp->max_client + (l->kind == LS_STATUS ? 4 : 0);
}

/* Closes a listener, but not on those who wait in its queue: for them TCP is connected. */
static void life_unlisten(struct rp *rp, struct net_listener *l)
{
	struct conn *c;

	while (l->fd >= 0 && life_may_accept(rp, l) && (c = net_accept(rp, l)))
		tx_accept(rp, c);
	net_unlisten(l);
}

/* Says that a listener is there, with its real port. */
static void life_listening(const struct net_listener *l)
{
	char text[56];

	(void)addr_print(&l->addr, true, text);
	log_event(LOG_ERR, "listening %s %s", life_kind(l->kind), text);
}

/* The listeners of a snapshot that is not live yet. */
struct life_ports {
	uint32_t n;
	struct net_listener next[NET_LISTENERS];
	uint32_t from[NET_LISTENERS]; /* which old one it is */
	bool kept[NET_LISTENERS];	  /* of the old ones: goes on */
	bool shut[NET_LISTENERS];	  /* of the old ones: was in the way, and is closed */
};

/* Looks for an old listener with the address of a new one. The kind may change where the port has a
 * name: then the socket is taken over, since a second one could not be bound beside it. */
static uint32_t life_old(const struct rp *rp, const struct life_ports *p, const struct cf_listen *l)
{
	uint32_t at = 0;

	while (at < rp->nls && (p->kept[at] || (!l->addr.port && rp->ls[at].kind != l->kind) ||
							memcmp(&rp->ls[at].asked, &l->addr, sizeof l->addr) != 0))
		at++;
	return at;
}

/* Closes the old listeners of a port that are not kept. */
static bool life_make_way(struct rp *rp, struct life_ports *p, uint16_t port)
{
	bool any = false;

	for (uint32_t i = 0; i < rp->nls && port; i++)
		if (!p->kept[i] && !p->shut[i] && rp->ls[i].addr.port == port) {
			life_unlisten(rp, &rp->ls[i]);
			any = p->shut[i] = true;
		}
	return any;
}

/* Opens a listener or says why not. Where an old one of ours is in the way ([::]:80 and 0.0.0.0:80,
 * say) it is closed before: EADDRINUSE tells that we may bind the port, so it can be had again. */
static int life_listen(struct rp *rp, struct life_ports *p, const struct cf_listen *l)
{
	char text[56], place[600];

	if (net_listen(l, &p->next[p->n]) == 0 ||
		(errno == EADDRINUSE && life_make_way(rp, p, l->addr.port) &&
		 net_listen(l, &p->next[p->n]) == 0))
		return 0;
	int err = errno;
	(void)addr_print(&l->addr, true, text);
	if (l->file) {
		(void)snprintf(place, sizeof place, "%.500s:%u: ", l->file, l->line);
		log_lead(place);
	}
	log_event(LOG_ERR, "can't listen on %s %s: %s%s", life_kind(l->kind), text, strerror(err),
			  err == EADDRINUSE
				  ? "; another program has this port, give it up there or use another here"
			  : err == EACCES ? "; ports below 1024 need root at the start"
							  : "");
	log_lead(NULL);
	return -1;
}

/* The new listeners are not wanted after all. */
static void life_ports_undo(struct rp *rp, struct life_ports *p)
{
	for (uint32_t i = 0; i < p->n; i++)
		if (p->from[i] == rp->nls)
			net_unlisten(&p->next[i]);
	for (uint32_t i = 0; i < rp->nls; i++) {
		struct net_listener *old = &rp->ls[i];
		struct cf_listen l = {.kind = old->kind, .addr = old->addr};
		struct addr asked = old->asked;
		if (p->shut[i] && net_listen(&l, old) < 0)
			log_event(LOG_ERR, "can't listen on port %u again: %s", old->addr.port,
					  strerror(errno));
		old->asked = asked;
	}
}

/* Opens what is new beside what there is; 0, or -1 and all is as it was. */
static int life_ports_open(struct rp *rp, const struct conf *cf, struct life_ports *p)
{
	*p = (struct life_ports){.n = 0};
	if (cf->nlisten > NET_LISTENERS) {
		log_event(LOG_ERR, "%zu listeners; at most %d fit", cf->nlisten, NET_LISTENERS);
		return -1;
	}
	for (size_t i = 0; i < cf->nlisten; i++) {
		uint32_t old = p->from[i] = life_old(rp, p, &cf->listen[i]);
		if (old < rp->nls)
			p->kept[old] = true;
	}
	for (; p->n < cf->nlisten; p->n++) {
		uint32_t old = p->from[p->n];
		if (old < rp->nls) {
			p->next[p->n] = rp->ls[old];
			p->next[p->n].kind = cf->listen[p->n].kind;
		} else if (life_listen(rp, p, &cf->listen[p->n]) < 0) {
			life_ports_undo(rp, p);
			return -1;
		}
	}
	return 0;
}

/* From now on they are the listeners; those that are named no longer are closed. */
static void life_ports_swap(struct rp *rp, struct life_ports *p)
{
	for (uint32_t i = 0; i < rp->nls; i++)
		if (!p->kept[i] && !p->shut[i])
			life_unlisten(rp, &rp->ls[i]);
	for (uint32_t i = 0; i < p->n; i++)
		if (p->from[i] == rp->nls)
			life_listening(&p->next[i]);
	memcpy(rp->ls, p->next, p->n * sizeof *p->next);
	rp->nls = p->n;
}

static void life_acme(struct rp *rp, const struct conf *cf)
{
	int fd = cf->acme_dir.n ? sys_opendir(cf->acme_dir.v[0]) : -1;

	if (fd < 0 && cf->acme_dir.n && rp->acme >= 0)
		return; /* after chroot the old one is all there is */
	sys_close(rp->acme);
	rp->acme = fd;
}

/* What a person who starts it wants to read. */
static void life_greet(struct rp *rp)
{
	log_event(LOG_WARN, "memory: at most %llu KB for %u connections",
			  (unsigned long long)(life_bytes(rp->cf) / 1024), rp->cf->max_conns);
	log_event(LOG_ERR, "ready");
	log_started();
	sys_notify(rp->notify, "READY=1");
}

/* What a snapshot takes beside the one that is live, while it is not certain that it will be. */
struct life_next {
	struct crt_set *certs;
	struct life_ports ports;
	unsigned helpers; /* that ran before */
	int pid;
};

/* Says what can't be done with a value of an option (NULL: of none), and why (errno). */
static int life_fault(const struct conf *cf, const char *option, const char *what,
					  const char *value)
{
	const char *why = strerror(errno);
	char place[600];

	if (option) {
		cf_place(cf, option, place);
		log_lead(place);
	}
	log_event(LOG_ERR, "can't %s%s: %s", what, value, why);
	log_lead(NULL);
	return -1;
}

/* Takes a step back. */
static void life_undo(struct rp *rp, struct conf *cf, struct life_next *n)
{
	if (n->pid != rp->pid)
		sys_pid_end(n->pid, cf->pid_file);
	dns_trim(rp->dns, n->helpers);
	up_drop(rp, cf);
}

/* Opens all that a snapshot names, beside what there is. 0, or -1 and all is as it was: the log is
 * opened last, since it can't be closed again unseen. */
static int life_take(struct rp *rp, struct conf *cf, struct life_next *n)
{
	const char *was = rp->cf ? rp->cf->pid_file : NULL;

	n->pid = rp->pid;
	n->helpers = dns_running(rp->dns);
	if (up_hold(rp, cf) < 0) {
		log_event(LOG_ERR, "out of memory");
		goto undo;
	}
	if (dns_need(rp->dns, life_helpers(cf, !rp->cf)) < 0) {
		(void)life_fault(cf, NULL, "start a helper process", "");
		goto undo;
	}
	if (!cf->pid_file)
		n->pid = -1;
	else if (!(was && strcmp(was, cf->pid_file) == 0) &&
			 (n->pid = sys_pid_file(cf->pid_file)) < 0) {
		(void)life_fault(cf, "pid-file", "write ", cf->pid_file);
		goto undo;
	}
	if (life_ports_open(rp, cf, &n->ports) < 0)
		goto undo;
	if (log_open(cf->log, (enum log_level)cf->log_level) == 0)
		return 0;
	(void)life_fault(cf, "log", "log to ", cf->log);
	life_ports_undo(rp, &n->ports);
undo:
	life_undo(rp, cf, n);
	return -1;
}

/* The moment at which a snapshot goes live; nothing can fail any more. */
static void life_swap(struct rp *rp, struct conf *cf, struct life_next *n)
{
	struct conf *old = rp->cf;

	life_ports_swap(rp, &n->ports);
	if (n->pid != rp->pid)
		sys_pid_end(rp->pid, old ? old->pid_file : NULL);
	rp->pid = n->pid;
	rp->cf = cf;
	life_warn_clock(cf, old);
	tx_drop_conf(rp, old);
	crt_drop(rp->certs);
	rp->certs = n->certs;
	life_acme(rp, cf);
	life_warn_uncovered(cf, rp->certs);
}

/* The order: read, fork, open, give up privileges, speak. 0, or the exit status. */
static int life_start(struct rp *rp, struct conf *cf)
{
	struct life_next next;
	struct jail jail;

	if (jail_prepare(cf, &jail) < 0 || life_load(cf, NULL, &next.certs) < 0)
		return 2;
	if (!(rp->dns = dns_start(0))) {
		log_event(LOG_ERR, "out of memory");
		crt_drop(next.certs);
		return 1;
	}
	dns_confine(rp->dns, &jail);
	/* Signals before the pid file says whom to send them to. */
	if ((sys_signals(&rp->signals) < 0 && life_fault(cf, NULL, "take signals", "") < 0) ||
		life_pools(rp, cf) < 0 || life_take(rp, cf, &next) < 0) {
		crt_drop(next.certs);
		return 1;
	}
	life_swap(rp, cf, &next);
	rp->notify = sys_notify_open();
	if (jail.user)
		log_give(jail.uid, jail.gid);
	jail_warnings(cf, &jail);
	if (jail_enter(&jail) < 0)
		return 1;
	crt_warn_expiry(rp->certs, sys_wall());
	rp->warned_day = sys_wall() / 86400;
	life_greet(rp);
	return 0;
}

/* Frees everything; NULL is fine. */
static void life_close(struct rp *rp)
{
	if (!rp)
		return;
	tx_drain_end(rp);
	net_close_all(rp);
	tx_close_pool(rp);
	if (rp->cf) {
		sys_pid_end(rp->pid, rp->cf->pid_file);
		tx_drop_conf(rp, rp->cf);
	}
	up_close(rp);
	tls_close_room(rp->tls);
	crt_drop(rp->certs);
	dns_stop(rp->dns);
	gate_close(rp->gate);
	sys_close(rp->acme);
	sys_close(rp->notify);
	sys_close(rp->signals);
	log_close();
	free(rp);
}

/* --check: says all that a start would, but for what needs sockets. 0 or -1. */
static int life_check(struct conf *cf)
{
	struct crt_set *certs;
	struct sys_stamp stamp;
	struct jail jail;
	char place[600];
	int bad = cf->faults ? -1 : 0;

	cf_place(cf, "user", place);
	log_lead(place);
	bad |= jail_prepare(cf, &jail);
	cf_place(cf, "chroot", place);
	if (cf->chroot_dir && sys_stamp(cf->chroot_dir, &stamp) < 0) {
		log_event(LOG_ERR, "\"%s\": %s; a directory is expected", cf->chroot_dir, strerror(errno));
		bad = -1;
	}
	log_lead(NULL);
	if (life_load(cf, NULL, &certs) < 0)
		return -1;
	life_warn_uncovered(cf, certs);
	crt_warn_expiry(certs, sys_wall());
	crt_drop(certs);
	return bad;
}

/* Reads the arguments and does what they ask for. Returns NULL with *status when there is nothing
 * to run. */
static struct rp *life_open(int argc, char **argv, int *status)
{
	struct rp *rp = NULL;

	sys_std();
	struct conf *cf = cf_load(argc, argv);
	*status = cf ? 2 : 1;
	if (!cf)
		goto out;
	if (cf->action == CF_CHECK) {
		*status = life_check(cf) < 0 ? 2 : 0;
		goto out;
	}
	if (cf->faults)
		goto out;
	if (cf->action != CF_SERVE) {
		*status = cf_usage(cf) < 0;
		goto out;
	}
	*status = 1;
	if (!(rp = calloc(1, sizeof *rp)))
		goto out;
	rp->argc = argc;
	rp->argv = argv;
	rp->acme = rp->notify = rp->pid = rp->signals = -1;
	rp->started = sys_wall();
	rp->now = sys_now();
	*status = life_start(rp, cf);
	if (!*status)
		return rp;
	if (rp->cf)
		cf = NULL; /* it is rp's by now */
	life_close(rp);
out:
	life_discard(cf);
	return NULL;
}

static bool life_differs(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) != 0 : a != b;
}

static void life_restart(bool changed, const char *option)
{
	if (changed)
		log_event(LOG_WARN, "%s changes with a restart only", option);
}

/* What was sized or given up at the start stays so. */
static void life_keep_sizes(const struct rp *rp, struct conf *cf)
{
	const struct conf *old = rp->cf;
	uint64_t head_max = rp->pool.cap - RP_HEAD_SLACK;

	life_restart(cf->max_conns != old->max_conns, "max-conns");
	life_restart(cf->session_cache != old->session_cache, "session-cache");
	life_restart(cf->head_max > head_max, "a larger head-max");
	life_restart(life_differs(cf->user, old->user), "user");
	life_restart(life_differs(cf->chroot_dir, old->chroot_dir), "chroot");
	cf->max_conns = old->max_conns;
	cf->session_cache = old->session_cache;
	cf->head_max = cf->head_max < head_max ? cf->head_max : head_max;
}

/* Builds a new snapshot beside the old and swaps; on any error all of the old stays. 0 or -1. */
static int life_reload(struct rp *rp)
{
	struct conf *cf = cf_load(rp->argc, rp->argv);
	struct life_next next = {.certs = NULL};

	if (!cf)
		log_event(LOG_ERR, "out of memory");
	else if (!cf->faults && cf->action == CF_SERVE && life_load(cf, rp->certs, &next.certs) == 0) {
		life_keep_sizes(rp, cf);
		if (life_take(rp, cf, &next) == 0) {
			life_swap(rp, cf, &next);
			log_event(LOG_INFO, "reloaded");
			return 0;
		}
	}
	crt_drop(next.certs);
	life_discard(cf);
	log_event(LOG_ERR, "reload failed: the old configuration serves on");
	return -1;
}

/* HUP. What is said is never folded: it is an answer. systemd waits for the READY. */
static void life_hup(struct rp *rp)
{
	char text[64];

	log_fresh();
	(void)snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%llu",
				   (unsigned long long)(sys_now() + 1) * 1000);
	sys_notify(rp->notify, text);
	(void)life_reload(rp);
	sys_notify(rp->notify, "READY=1");
}

/* Stops accepting. Connections that wait for a next request close at once, unless it is there; new
 * ones have a moment for their first; what is under way has --drain-timeout. */
static void life_drain(struct rp *rp)
{
	if (rp->draining)
		return;
	rp->draining = true;
	tm_set(&rp->drain_due, rp->now, rp->cf->drain_ms);
	sys_notify(rp->notify, "STOPPING=1");
	if (rp->nclient)
		log_event(LOG_INFO, "stopping: %u connections have %u s; a second signal ends at once",
				  rp->nclient, (unsigned)(rp->cf->drain_ms / 1000));
	for (uint32_t i = 0; i < rp->nlive; i++) {
		struct conn *c = rp->live[i];
		if (c->kind == CO_IDLE && c->phase != CP_FREE)
			up_retire(rp, c);
		if (c->kind != CO_CLIENT || c->t || c->phase == CP_LINGER || c->phase == CP_FREE)
			continue;
		if (c->served && !buf_len(&c->in) && sys_peek(c->fd) <= 0)
			tx_hangup(rp, c);
	}
	for (uint32_t i = 0; i < rp->nls; i++)
		life_unlisten(rp, &rp->ls[i]);
	rp->nls = 0;
	for (uint32_t i = 0; i < rp->nlive; i++) {
		struct conn *c = rp->live[i];
		if (c->kind == CO_CLIENT && !c->t && c->phase != CP_LINGER && c->phase != CP_FREE)
			tx_wait(rp, c, rp->cf->idle_ms);
	}
}

/* Does what signals ask for. */
static void life_signals(struct rp *rp)
{
	unsigned set = sys_taken(rp->signals, &rp->terms);

	if (!set)
		return;
	if ((set & SYS_HUP) && !rp->draining)
		life_hup(rp);
	if ((set & SYS_USR1) && log_reopen() < 0)
		(void)life_fault(rp->cf, "log", "open again ", rp->cf->log);
	if (set & SYS_USR2)
		tx_list(rp);
	if (set & SYS_CHLD)
		sys_reap();
	if (set & SYS_TERM)
		life_drain(rp);
	rp->stop |= rp->terms > 1;
}

#define LIFE_CERTS_MS 60000 /* between two looks at the files */

/* Certificate files that changed are taken up; a wrong one leaves the old set in place. */
static void life_certs(struct rp *rp)
{
	struct crt_set *certs = NULL;
	int64_t day = sys_wall() / 86400;

	tm_set(&rp->certs_due, rp->now, LIFE_CERTS_MS);

	if (day != rp->warned_day) {
		rp->warned_day = day;
		crt_warn_expiry(rp->certs, sys_wall());
	}
	if (!crt_stale(rp->certs))
		return;
	if (crt_load(rp->cf, rp->certs, &certs) < 0) {
		if (certs)
			crt_watch(rp->certs, certs);
	} else if (crt_stale(certs)) { /* somebody is writing them just now */
		tm_set(&rp->certs_due, rp->now, 1000);
	} else {
		struct crt_set *old = rp->certs;
		rp->certs = certs;
		certs = old;
		log_event(LOG_WARN, "certificates were loaded anew");
	}
	crt_drop(certs);
}

/* What is done about once a second. */
static void life_second(struct rp *rp)
{
	if (rp->now < rp->up_due)
		return;
	tm_set(&rp->up_due, rp->now, 1000);
	up_step(rp);
	log_tick(rp->now);
	if (!rp->certs_due)
		tm_set(&rp->certs_due, rp->now, LIFE_CERTS_MS);
	if (tm_due(&rp->certs_due, rp->now))
		life_certs(rp);
}

RP_OFTEN

/* ==[ LOOP ]============================================= prefix: loop_ ==
 * One turn: fill the pollfd array, wait, dispatch by owner kind, accept, look at the clock.
 * Fails: never.
 * Door: loop_once
 */

/* The first entries of the pollfd array. */
enum { LOOP_SIGNALS, LOOP_NAMES, LOOP_HASHES, LOOP_LISTENERS };

#define LOOP_SPARE 16 /* connections that are free when a turn begins, if need be */

static void loop_poll(struct pollfd *p, int fd, short events)
{
	*p = (struct pollfd){.fd = fd, .events = events};
}

static void loop_sooner(uint64_t *due, uint64_t at)
{
	if (at && (!*due || at < *due))
		*due = at;
}

/* Ends the patience that is over. *due becomes the earlier of itself and the next end. */
static void loop_expire(struct rp *rp, struct conn *c, uint64_t *due)
{
	if (c->kind == CO_CLIENT && c->phase != CP_FREE)
		tx_expire(rp, c, due);
	else if (c->kind == CO_IDLE && tm_due(&c->due, rp->now))
		up_retire(rp, c);
	else if (c->kind == CO_CHECK && tm_due(&c->due, rp->now))
		up_check_io(rp, c);
	else
		loop_sooner(due, c->due);
}

static bool loop_wants(const struct conn *c)
{
	return tx_wants(c) || c->kind == CO_IDLE || c->kind == CO_CHECK;
}

/* Does what goes on with this connection not depend on poll()? */
static bool loop_eager(const struct conn *c)
{
	return net_eager(c, loop_wants(c));
}

/* Writes down what to wait for. Reaps closed connections and ends patience before: the end of one
 * may close others. Returns how long to wait in ms. */
static int loop_fill(struct rp *rp)
{
	uint64_t due = rp->up_due ? rp->up_due : rp->now;
	bool eager = false;
	uint32_t i = 0;

	loop_poll(&rp->pfd[LOOP_SIGNALS], rp->signals, POLLIN);
	loop_poll(&rp->pfd[LOOP_NAMES], dns_fd(rp->dns, DNS_NAME), POLLIN);
	loop_poll(&rp->pfd[LOOP_HASHES], dns_fd(rp->dns, DNS_HASH), POLLIN);
	for (uint32_t k = 0; k < rp->nls; k++)
		loop_poll(&rp->pfd[LOOP_LISTENERS + k], life_may_accept(rp, &rp->ls[k]) ? rp->ls[k].fd : -1,
				  POLLIN);
	loop_sooner(&due, rp->accept_after > rp->now ? rp->accept_after : 0);
	loop_sooner(&due, rp->drain_due);
	rp->npfd = LOOP_LISTENERS + rp->nls;
	for (uint32_t k = 0; k < rp->nlive; k++)
		loop_expire(rp, rp->live[k], &due);
	for (uint32_t k = rp->nfree; k < LOOP_SPARE && up_reap_one(rp, false);)
		k++; /* idle connections to targets make room for clients */
	while (i < rp->nlive) {
		struct conn *c = rp->live[i];
		if (net_reap(rp, i))
			continue;
		short events = net_interest(c, loop_wants(c));
		loop_poll(&rp->pfd[rp->npfd + i], c->hung && !events ? -1 : c->fd, events);
		eager |= loop_eager(c);
		i++;
	}
	rp->npfd += rp->nlive;
	eager |= rp->draining && !rp->nclient; /* the last one's patience has just ended */
	return eager ? 0 : tm_wait(due, rp->now);
}

static void loop_dispatch(struct rp *rp, struct conn *c)
{
	switch (c->kind) {
	case CO_CLIENT:
		if (c->t && !tx_wants(c))
			(void)net_io(rp, c, false);
		tx_client(rp, c);
		break;
	case CO_UPSTREAM:
		c->again = false;
		tx_client(rp, c->t->c); /* which may have its next request waiting */
		break;
	case CO_IDLE:
		up_retire(rp, c);
		break;
	case CO_CHECK:
		up_check_io(rp, c);
		break;
	}
}

/* Connections in a different order each turn, so that none is always first. */
static void loop_conns(struct rp *rp, uint32_t base, uint32_t n)
{
	uint32_t from = n ? (uint32_t)(rp->requests + rp->now) % n : 0;

	for (uint32_t k = 0; k < n; k++) {
		uint32_t i = from + k < n ? from + k : from + k - n;
		short ready = rp->pfd[base + i].revents;
		struct conn *c = rp->live[i];
		if ((!ready && !loop_eager(c)) || c->phase == CP_FREE)
			continue;
		c->ready = ready;
		loop_dispatch(rp, c);
	}
}

static void loop_answers(struct rp *rp)
{
	struct dns_answer a;

	while (dns_next(rp->dns, &a)) {
		bool good = a.kind == DNS_HASH && gate_auth_verdict(rp->gate, a.cookie, a.good, rp->now);
		enum why why = good ? WHY_NONE : a.done ? WHY_AUTH_REQUIRED : WHY_INTERNAL;
		if (a.kind == DNS_NAME)
			up_answer(rp, &a);
		for (uint32_t i = 0; i < rp->nlive; i++) {
			struct conn *c = rp->live[i];
			struct tx *t = c->kind == CO_CLIENT && c->phase == CP_OPEN ? c->t : NULL;
			if (!t)
				continue;
			if (a.kind == DNS_HASH ? tx_verdict(t, a.cookie, why) : t->state == TX_DIAL && !t->u)
				tx_client(rp, c);
		}
	}
}

static void loop_accept(struct rp *rp)
{
	for (uint32_t k = 0; k < rp->nls; k++) {
		if (!rp->pfd[LOOP_LISTENERS + k].revents)
			continue;
		for (int n = 0; n < 16 && life_may_accept(rp, &rp->ls[k]); n++) {
			struct conn *c = net_accept(rp, &rp->ls[k]);
			if (!c)
				break;
			tx_accept(rp, c);
		}
	}
}

/* One turn. Returns false when it is time to close. */
static bool loop_once(struct rp *rp)
{
	int wait = loop_fill(rp);
	uint32_t n = rp->nlive, base = rp->npfd - n, nls = rp->nls;

	int ready = sys_poll(rp->pfd, rp->npfd, wait);
	rp->now = sys_now();
	rp->pk_used = false;
	if (rp->signals < 0 || rp->pfd[LOOP_SIGNALS].revents)
		life_signals(rp);
	if (ready > 0 && (rp->pfd[LOOP_NAMES].revents || rp->pfd[LOOP_HASHES].revents))
		loop_answers(rp);
	if (ready > 0 || wait == 0)
		loop_conns(rp, base, n);
	if (ready > 0 && nls == rp->nls)
		loop_accept(rp);
	life_second(rp);
	if (RP_DEBUG)
		tx_check(rp);
	if (rp->draining && tm_due(&rp->drain_due, rp->now)) {
		tx_drain_end(rp);
		rp->stop = true;
	}
	return !rp->stop && !(rp->draining && !rp->nclient);
}

/* ==[ MAIN ]============================================= prefix: rp_ ==
 * The five functions of rproxy.h, and main.
 * Door: rp_open rp_step rp_reload rp_drain rp_close
 */

struct rp *rp_open(int argc, char **argv, int *status)
{
	return life_open(argc, argv, status);
}

bool rp_step(struct rp *rp)
{
	return loop_once(rp);
}

int rp_reload(struct rp *rp)
{
	return life_reload(rp);
}

void rp_drain(struct rp *rp)
{
	life_drain(rp);
}

void rp_close(struct rp *rp)
{
	life_close(rp);
}

#ifndef RP_NO_MAIN
int main(int argc, char **argv)
{
	int status = 0;
	struct rp *rp = rp_open(argc, argv, &status);

	while (rp && rp_step(rp))
		;
	rp_close(rp);
	return status;
}
#endif
