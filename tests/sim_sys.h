/* sim_sys.h: room SYS as a scripted world inside one process.
 *
 * SPDX-License-Identifier: MIT
 *
 * A simulation defines RP_SYS_FILE as this file, so that the proxy's own code runs unchanged on a
 * fake machine: descriptors are numbers in a table, a TCP connection is two queues of bytes, the
 * clock moves only in sys_poll(), and every call may go wrong in the ways that Linux lets it go
 * wrong. All chance comes from one seed, so a failure is played again by its number.
 *
 * What a wrapper of the real room hides (EINTR) is hidden here too. What differs from Linux is
 * what Linux leaves open: how much a call takes, which events come when, whether what was queued
 * before a reset can still be read.
 *
 * The far ends of connections are scripts in sim_world.h; this file only moves bytes and time.
 */

#define SIM_FD0 1000 /* the first fake descriptor: none is mistaken for a real one */
#define SIM_FDS 2048
#define SIM_NEVER UINT64_MAX
#define SIM_START 1000000 /* ms on the clock when a story begins */

/* Bytes under way in one direction. Grows; the limit is kept by whoever puts bytes in. */
struct sim_q {
	uint8_t *p; /* owns */
	size_t r, w, cap;
};

/* One connection. "Near" is the proxy, "far" the scripted client or backend. */
struct sim_conn {
	struct sim_q in, out;	  /* to the proxy, from the proxy */
	size_t in_room, out_room; /* what the kernels hold at most */
	bool in_fin, out_fin;	  /* the far, the near end said that no more will come */
	bool in_rst;			  /* the far end's reset has arrived here */
	bool out_rst;			  /* the proxy's kernel has sent a reset to the far end */
	bool linger0;			  /* sys_reset(): close with a reset */
	bool far_closed, near_closed;
	bool connecting, refused;
	uint64_t connect_at; /* when the dial ends, well or not */
	int connect_err;
	uint16_t port; /* dialled by the proxy, or the listener's */
	uint64_t told; /* resets are told once: as an error, then as an end */
	void *far;	   /* borrows: the script */
	struct sim_conn *next;
};

enum sim_kind { SIM_FREE, SIM_SOCKET, SIM_LISTENER, SIM_STREAM };

struct sim_fd {
	enum sim_kind kind;
	struct sim_conn *c; /* borrows: the world frees it */
	uint16_t port;
};

/* Chances of a fault at one call, in 1/256. */
struct sim_faults {
	uint8_t cut_read, cut_write;  /* fewer bytes than asked for */
	uint8_t crumb;				  /* if not 0: a read takes so many */
	uint8_t again;				  /* EAGAIN although it would go */
	uint8_t hold;				  /* an event is reported only at a later poll */
	uint8_t ghost;				  /* an event that is none */
	uint8_t early;				  /* poll returns 0 before the time is up, as after a signal */
	uint8_t no_socket, no_accept; /* EMFILE, ENFILE, ENOBUFS, ECONNABORTED ... */
	uint8_t no_connect;			  /* EADDRNOTAVAIL, ENETUNREACH, ENOBUFS ... at once */
	uint8_t snap;				  /* the connection breaks in the middle of a call: in 1/65536 */
	uint8_t late_clock;			  /* a turn takes a few ms */
	uint8_t wall_jump;			  /* the wall clock jumps */
};

static struct {
	uint64_t seed, now;
	int64_t wall; /* what the wall clock is ahead of the monotonic one, s */
	struct sim_faults f;
	struct sim_fd fd[SIM_FDS];
	unsigned nfd, fd_max;	/* descriptors that are open, that may be */
	struct sim_conn *conns; /* owns: all of the story */
	struct sim_conn *backlog[1024];
	unsigned nbacklog;
	uint64_t (*world)(void);			/* lets the far ends act; says when one wants to act next */
	void (*dialled)(struct sim_conn *); /* the proxy connects to c->port */
	uint16_t busy_port;					/* a listener can't be opened there */
	long alloc_left;					/* allocations before they fail; < 0: they never do */
	long pages;							/* blocks of sys_mem() that were not given back */
	unsigned signals;
	uint64_t moved; /* anything that is progress */
	uint64_t calls; /* reads, writes and accepts */
	uint64_t polls, datagrams;
	bool stuck;		   /* nothing will ever happen again */
	bool kept;		   /* what was sent before a reset is not lost */
	const char *wrong; /* a misuse of the system, the first one */
} sim;

/* ---- chance ---- */

static uint32_t sim_rand(uint32_t n)
{
	sim.seed = sim.seed * 6364136223846793005u + 1442695040888963407u;
	uint32_t x = (uint32_t)(sim.seed >> 33);
	return n ? x % n : 0;
}

static bool sim_odds(unsigned in256)
{
	return in256 && sim_rand(256) < in256;
}

static void sim_wrong(const char *what)
{
	if (!sim.wrong)
		sim.wrong = what;
}

/* TRACE=1 shows every call that moves something. */
__attribute__((format(printf, 1, 2))) static void sim_trace(const char *fmt, ...)
{
	static int on = -1;
	va_list ap;

	if (on < 0)
		on = getenv("TRACE") != NULL;
	if (!on)
		return;
	va_start(ap, fmt);
	printf("%7llu ", (unsigned long long)(sim.now - SIM_START));
	vprintf(fmt, ap);
	printf("\n");
	va_end(ap);
}

/* ---- memory that may run out ---- */

static bool sim_alloc_fails(void)
{
	return sim.alloc_left >= 0 && sim.alloc_left-- == 0 ? (sim.alloc_left = 0, true) : false;
}

static void *sim_malloc(size_t n)
{
	return sim_alloc_fails() ? NULL : malloc(n);
}

static void *sim_calloc(size_t n, size_t size)
{
	return sim_alloc_fails() ? NULL : calloc(n, size);
}

static void *sim_realloc(void *p, size_t n)
{
	return sim_alloc_fails() ? NULL : realloc(p, n);
}

/* Pages that cost nothing until they are touched, as in the real room: a story is short. */
static void *sys_mem(size_t n)
{
	void *p = sim_alloc_fails() ? MAP_FAILED
								: mmap(NULL, n ? n : 1, PROT_READ | PROT_WRITE,
									   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	sim.pages += p != MAP_FAILED;
	return p == MAP_FAILED ? NULL : p;
}

static void sys_unmem(void *p, size_t n)
{
	if (!p)
		return;
	sim.pages--;
	(void)munmap(p, n ? n : 1);
}

static void sys_fade(void *p, size_t n)
{
	(void)madvise(p, n, MADV_DONTNEED);
}

/* ---- queues and connections ---- */

static size_t sim_q_len(const struct sim_q *q)
{
	return q->w - q->r;
}

static void sim_q_put(struct sim_q *q, const void *p, size_t n)
{
	if (q->r == q->w)
		q->r = q->w = 0;
	if (q->w + n > q->cap) {
		q->cap = (q->w + n) * 2;
		q->p = realloc(q->p, q->cap);
		if (!q->p)
			abort();
	}
	if (n)
		memcpy(q->p + q->w, p, n);
	q->w += n;
	sim.moved += n;
}

static size_t sim_q_get(struct sim_q *q, void *p, size_t n)
{
	if (n > sim_q_len(q))
		n = sim_q_len(q);
	if (n)
		memcpy(p, q->p + q->r, n);
	q->r += n;
	sim.moved += n;
	return n;
}

static struct sim_conn *sim_conn_new(uint16_t port, void *far)
{
	struct sim_conn *c = calloc(1, sizeof *c);

	if (!c)
		abort();
	c->port = port;
	c->far = far;
	c->in_room = c->out_room = 65536;
	c->next = sim.conns;
	sim.conns = c;
	return c;
}

/* The far end resets the connection. What it had sent may be lost. */
static void sim_far_reset(struct sim_conn *c)
{
	if (c->far_closed)
		return;
	sim_trace("far end of port %u resets", c->port);
	c->far_closed = c->in_rst = true;
	if (!sim.kept && sim_odds(64))
		c->in.r = c->in.w = 0;
	sim.moved++;
}

/* The far end closes: a FIN, or a reset when it leaves bytes unread. */
static void sim_far_close(struct sim_conn *c)
{
	if (c->far_closed)
		return;
	if (sim_q_len(&c->out)) {
		sim_far_reset(c);
		return;
	}
	sim_trace("far end of port %u closes", c->port);
	c->far_closed = c->in_fin = true;
	sim.moved++;
}

/* A reset from the proxy's kernel: what the far end had not read is lost, perhaps. */
static void sim_near_reset(struct sim_conn *c)
{
	c->out_rst = true;
	if (!sim.kept && sim_odds(128))
		c->out.r = c->out.w = 0;
	sim.moved++;
}

/* The far end sends. To an end that is closed this brings back a reset. Returns what was taken. */
static size_t sim_far_send(struct sim_conn *c, const void *p, size_t n)
{
	size_t room = c->in_room > sim_q_len(&c->in) ? c->in_room - sim_q_len(&c->in) : 0;

	if (c->in_fin) /* behind its own end: a TLS engine may still want to say goodbye */
		return n;
	if (c->near_closed && n) {
		sim_near_reset(c);
		return n;
	}
	if (n > room)
		n = room;
	sim_q_put(&c->in, p, n);
	return n;
}

/* ---- descriptors ---- */

static int sim_fd_new(enum sim_kind kind, struct sim_conn *c)
{
	if (sim.nfd >= sim.fd_max) {
		errno = EMFILE;
		return -1;
	}
	for (int i = 0; i < SIM_FDS; i++)
		if (sim.fd[i].kind == SIM_FREE) {
			sim.fd[i] = (struct sim_fd){.kind = kind, .c = c};
			sim.nfd++;
			return SIM_FD0 + i;
		}
	errno = ENFILE;
	return -1;
}

static struct sim_fd *sim_fd_of(int fd)
{
	static struct sim_fd none;

	if (fd < SIM_FD0 || fd >= SIM_FD0 + SIM_FDS || sim.fd[fd - SIM_FD0].kind == SIM_FREE) {
		sim_wrong("a call with a descriptor that is not open");
		none = (struct sim_fd){SIM_FREE, NULL, 0};
		return &none;
	}
	return &sim.fd[fd - SIM_FD0];
}

static void sys_close(int fd)
{
	if (fd < 0)
		return;
	struct sim_fd *f = sim_fd_of(fd);
	struct sim_conn *c = f->c;
	if (f->kind == SIM_FREE)
		return;
	sim_trace("close(%d)%s", fd, c && sim_q_len(&c->in) ? " with bytes unread" : "");
	if (c && !c->near_closed) {
		c->near_closed = true;
		/* Linux: closing with bytes unread, or to make it so, is a reset. */
		if (c->linger0 || sim_q_len(&c->in) || c->connecting)
			sim_near_reset(c);
		else
			c->out_fin = true;
	}
	for (unsigned i = sim.nbacklog; f->kind == SIM_LISTENER && i--;)
		if (sim.backlog[i]->port == f->port) {
			sim_near_reset(sim.backlog[i]);
			sim.backlog[i]->near_closed = true;
			sim.backlog[i] = sim.backlog[--sim.nbacklog];
		}
	f->kind = SIM_FREE;
	sim.nfd--;
	sim.moved++;
}

/* The stream behind a descriptor when a call on it may go on; NULL with errno set otherwise. */
static struct sim_conn *sim_stream(int fd)
{
	struct sim_fd *f = sim_fd_of(fd);

	sim.calls++;
	if (f->kind != SIM_STREAM) {
		errno = f->kind == SIM_FREE ? EBADF : ENOTCONN;
		return NULL;
	}
	if (f->c->connecting || f->c->refused) {
		errno = f->c->refused ? ECONNREFUSED : EAGAIN;
		return NULL;
	}
	if (sim_odds(sim.f.again)) {
		errno = EAGAIN;
		return NULL;
	}
	if (sim_odds(sim.f.snap) && sim_odds(1) && !f->c->far_closed)
		sim_far_reset(f->c); /* which this call or the next one tells, once */
	return f->c;
}

static ssize_t sys_read(int fd, void *p, size_t n)
{
	struct sim_conn *c = sim_stream(fd);

	if (!c)
		return -1;
	if (n == 0)
		sim_wrong("a read of no bytes looks like an end");
	if (sim_q_len(&c->in)) {
		n = sim.f.crumb && sim.f.crumb < n ? sim.f.crumb : n;
		n = sim_q_get(&c->in, p, sim_odds(sim.f.cut_read) ? 1 + sim_rand((uint32_t)n) : n);
		sim_trace("read(%d) = %zu: %.*s", fd, n, n < 50 ? (int)n : 50, (const char *)p);
		return (ssize_t)n;
	}
	if (c->in_rst && c->told++ == 0) {
		errno = ECONNRESET;
		return -1;
	}
	if (c->in_rst || c->in_fin)
		return sim_trace("read(%d) = 0", fd), 0;
	errno = EAGAIN;
	return -1;
}

static ssize_t sys_peek(int fd)
{
	struct sim_fd *f = sim_fd_of(fd);
	struct sim_conn *c = f->c;

	errno = EAGAIN;
	if (f->kind != SIM_STREAM || sim_odds(sim.f.again / 2))
		return -1;
	if (sim_q_len(&c->in))
		return 1;
	if (c->in_rst && !c->told)
		errno = ECONNRESET;
	return c->in_fin || (c->in_rst && c->told) ? 0 : -1;
}

static ssize_t sys_write(int fd, const void *p, size_t n)
{
	struct sim_conn *c = sim_stream(fd);

	if (!c)
		return -1;
	if (c->out_fin)
		sim_wrong("a write behind our own end");
	if (c->in_rst || c->out_fin) {
		errno = c->told++ == 0 && !c->out_fin ? ECONNRESET : EPIPE;
		sim_trace("write(%d): %s", fd, strerror(errno));
		return -1;
	}
	if (c->far_closed) { /* nobody is there any more: taken, and answered with a reset */
		c->in_rst = true;
		return (ssize_t)n;
	}
	size_t room = c->out_room > sim_q_len(&c->out) ? c->out_room - sim_q_len(&c->out) : 0;
	if (n > room)
		n = room;
	if (n > 1 && sim_odds(sim.f.cut_write))
		n = 1 + sim_rand((uint32_t)n);
	if (!n) {
		errno = EAGAIN;
		return -1;
	}
	sim_trace("write(%d) = %zu: %.*s", fd, n, n < 50 ? (int)n : 50, (const char *)p);
	sim_q_put(&c->out, p, n);
	return (ssize_t)n;
}

static void sys_shut(int fd)
{
	struct sim_fd *f = sim_fd_of(fd);

	sim_trace("shutdown(%d)", fd);
	if (f->kind == SIM_STREAM)
		f->c->out_fin = true;
	sim.moved++;
}

static void sys_reset(int fd)
{
	struct sim_fd *f = sim_fd_of(fd);

	sim_trace("reset(%d)", fd);
	if (f->kind == SIM_STREAM)
		f->c->linger0 = true;
}

static int sys_socket(int family)
{
	(void)family;
	if (sim_odds(sim.f.no_socket)) {
		static const int odd[] = {EMFILE, ENFILE, ENOBUFS, ENOMEM};
		errno = odd[sim_rand(4)];
		return -1;
	}
	return sim_fd_new(SIM_SOCKET, NULL);
}

static uint16_t sim_port(const struct sockaddr *sa)
{
	struct sockaddr_in in4;

	if (sa->sa_family != AF_INET)
		return 0;
	memcpy(&in4, sa, sizeof in4);
	return ntohs(in4.sin_port);
}

static int sys_bind(int fd, const struct sockaddr *sa, socklen_t len, bool both)
{
	struct sim_fd *f = sim_fd_of(fd);

	(void)len, (void)both;
	if (sim_port(sa) == sim.busy_port) {
		errno = EADDRINUSE;
		return -1;
	}
	f->kind = SIM_LISTENER;
	f->port = sim_port(sa);
	return 0;
}

static int sim_name(struct sockaddr *sa, socklen_t *len, uint16_t port)
{
	struct sockaddr_in in4 = {.sin_family = AF_INET, .sin_port = htons(port)};

	in4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	memcpy(sa, &in4, sizeof in4 < *len ? sizeof in4 : *len);
	*len = sizeof in4;
	return 0;
}

static int sys_accept(int fd, struct sockaddr *sa, socklen_t *len)
{
	static const int odd[] = {EMFILE, ENFILE, ENOBUFS, ENOMEM, ECONNABORTED, EPROTO};
	struct sim_fd *f = sim_fd_of(fd);

	sim.calls++;
	for (unsigned i = 0; i < sim.nbacklog; i++) {
		struct sim_conn *c = sim.backlog[i];
		if (c->port != f->port)
			continue;
		if (sim_odds(sim.f.no_accept)) {
			errno = odd[sim_rand(6)];
			return -1;
		}
		int got = sim_fd_new(SIM_STREAM, c);
		if (got < 0)
			return -1;
		memmove(sim.backlog + i, sim.backlog + i + 1, (--sim.nbacklog - i) * sizeof *sim.backlog);
		sim.moved++;
		sim_trace("accept() = %d", got);
		sim_name(sa, len, (uint16_t)(20000 + sim_rand(30000)));
		return got;
	}
	errno = EAGAIN;
	return -1;
}

static int sys_connect(int fd, const struct sockaddr *sa, socklen_t len)
{
	struct sim_fd *f = sim_fd_of(fd);

	(void)len;
	if (sim_odds(sim.f.no_connect)) {
		static const int odd[] = {EADDRNOTAVAIL, ENETUNREACH, EHOSTUNREACH, ENOBUFS, EPERM, EAGAIN};
		errno = odd[sim_rand(6)];
		return -1;
	}
	f->kind = SIM_STREAM;
	f->c = sim_conn_new(sim_port(sa), NULL);
	f->c->connecting = true;
	sim.dialled(f->c);
	sim_trace("connect(%d) to %u: %d at %llu", fd, f->c->port, f->c->connect_err,
			  (unsigned long long)(f->c->connect_at - SIM_START));
	sim.moved++;
	if (f->c->connecting && f->c->connect_at <= sim.now) { /* at once, as to the same machine */
		f->c->connecting = false;
		f->c->refused = f->c->connect_err != 0;
		errno = f->c->connect_err;
		return f->c->refused ? -1 : 0;
	}
	errno = EINPROGRESS;
	return -1;
}

static int sys_sockerr(int fd)
{
	struct sim_fd *f = sim_fd_of(fd);

	return f->kind == SIM_STREAM && f->c->refused ? f->c->connect_err : 0;
}

static void sys_tune(int fd)
{
	(void)sim_fd_of(fd);
}

static int sys_local(int fd, struct sockaddr *sa, socklen_t *len)
{
	struct sim_fd *f = sim_fd_of(fd);

	return sim_name(sa, len, f->kind == SIM_LISTENER ? f->port : f->c ? f->c->port : 0);
}

/* ---- waiting ---- */

static short sim_events(const struct pollfd *p)
{
	struct sim_fd *f = sim_fd_of(p->fd);
	struct sim_conn *c = f->c;
	int r = 0;

	if (f->kind == SIM_FREE)
		return POLLNVAL;
	if (f->kind == SIM_LISTENER) {
		for (unsigned i = 0; i < sim.nbacklog; i++)
			if (sim.backlog[i]->port == f->port)
				r = POLLIN;
		return (short)(r & p->events);
	}
	if (f->kind == SIM_SOCKET)
		return POLLHUP;
	if (c->connecting) {
		if (sim.now < c->connect_at)
			return 0;
		c->connecting = false;
		c->refused = c->connect_err != 0;
	}
	if (c->refused)
		return (short)((POLLIN | POLLOUT) & p->events) | POLLERR | POLLHUP;
	if (sim_q_len(&c->in) || c->in_fin || c->in_rst)
		r |= POLLIN;
	if (c->in_rst || sim_q_len(&c->out) < c->out_room)
		r |= POLLOUT;
	r &= p->events;
	if (c->in_rst || (c->in_fin && c->out_fin))
		r |= POLLHUP;
	if (c->in_rst && !c->told)
		r |= POLLERR;
	return (short)r;
}

/* Never sleeps: lets the far ends act, and when there is nothing to report sets the clock to the
 * next moment at which there may be. */
static int sys_poll(struct pollfd *p, size_t n, int ms)
{
	uint64_t until = ms < 0 ? SIM_NEVER : sim.now + (uint64_t)ms;

	sim.polls++;
	if (sim_odds(sim.f.late_clock))
		sim.now += sim_rand(4);
	for (;;) {
		uint64_t next = sim.world();
		int found = 0;
		bool held = sim_odds(sim.f.early);
		for (struct sim_conn *c = sim.conns; c; c = c->next)
			if (c->connecting && !c->near_closed && c->connect_at > sim.now && c->connect_at < next)
				next = c->connect_at;
		for (size_t i = 0; i < n; i++) {
			p[i].revents = p[i].fd < 0 ? (short)0 : sim_events(&p[i]);
			if (p[i].revents && sim_odds(sim.f.hold)) {
				p[i].revents = 0;
				held = true;
			}
			if (p[i].fd >= 0 && p[i].events && sim_odds(sim.f.ghost) && sim_fd_of(p[i].fd)->c &&
				!sim_fd_of(p[i].fd)->c->connecting)
				p[i].revents |= p[i].events & (POLLIN | POLLOUT);
			found += p[i].revents != 0;
		}
		if (found || held || sim.signals || sim.now >= until)
			return found;
		if (next > until)
			next = until;
		if (next == SIM_NEVER) {
			sim.stuck = true;
			return 0;
		}
		sim.now = next > sim.now ? next : sim.now + 1;
		sim.moved++;
	}
}

static uint64_t sys_now(void)
{
	return sim.now;
}

static int64_t sys_wall(void)
{
	if (sim_odds(sim.f.wall_jump))
		sim.wall += (int64_t)sim_rand(2000000) - 1000000;
	return sim.wall + (int64_t)(sim.now / 1000);
}

static void sys_random(void *p, size_t n)
{
	for (uint8_t *at = p; n--; at++)
		*at = (uint8_t)sim_rand(256);
}

/* ---- the rest of the machine: no files, no signals but the story's ---- */

static char *sys_slurp(const char *path, size_t max, size_t *len)
{
	(void)path, (void)max;
	*len = 0;
	errno = ENOENT;
	return NULL;
}

struct sys_stamp {
	int64_t size, ms, ino;
};

static int sys_stamp(const char *path, struct sys_stamp *out)
{
	(void)path;
	*out = (struct sys_stamp){0, 0, 0};
	return -1;
}

static int sys_datagram(const struct sockaddr *sa, socklen_t len, const void *p, size_t n)
{
	(void)sa, (void)len, (void)p, (void)n;
	sim.datagrams++;
	return 0;
}

static int sys_opendir(const char *path)
{
	(void)path;
	return -1;
}

static ptrdiff_t sys_challenge(int dir, const char *name, char *p, size_t cap)
{
	(void)dir, (void)name, (void)p, (void)cap;
	return -1;
}

static uint32_t sys_descriptors(uint32_t want)
{
	return want;
}

static int sys_pid_file(const char *path)
{
	(void)path;
	return -1;
}

static void sys_pid_end(int fd, const char *path)
{
	(void)fd, (void)path;
}

static void sys_std(void)
{
}

static int sys_notify_open(void)
{
	return -1;
}

static void sys_notify(int fd, const char *state)
{
	(void)fd, (void)state;
}

enum { SYS_TERM = 1, SYS_HUP = 2, SYS_USR1 = 4, SYS_USR2 = 8, SYS_CHLD = 16 };

static int sys_signals(int *fd)
{
	*fd = -1;
	return 0;
}

static void sys_reap(void)
{
}

static unsigned sys_taken(int fd, int *terms)
{
	(void)fd;
	unsigned set = sim.signals;

	sim.signals = 0;
	*terms += (set & SYS_TERM) != 0;
	return set;
}

static size_t sys_first_byte(size_t x)
{
	uint8_t byte[sizeof x];
	size_t i = 0;

	memcpy(byte, &x, sizeof x);
	while (i < sizeof x && !byte[i])
		i++;
	if (i == sizeof x)
		sim_wrong("sys_first_byte(0)");
	return i;
}

static int sys_open(const char *path)
{
	(void)path;
	errno = EACCES;
	return -1;
}

/* Forgets the story: what is left of connections is freed. */
static void sim_end(void)
{
	while (sim.conns) {
		struct sim_conn *c = sim.conns;
		sim.conns = c->next;
		free(c->in.p);
		free(c->out.p);
		free(c);
	}
}

/* What the log says is of no use but in a debugger: LOG=1 shows it. */
static ssize_t sim_log(int fd, const void *p, size_t n)
{
	return getenv("LOG") ? write(fd, p, n) : (ssize_t)n;
}

/* From here on it is the proxy that calls. */
#define write(fd, p, n) sim_log(fd, p, n)
#define malloc(n) sim_malloc(n)
#define calloc(n, size) sim_calloc(n, size)
#define realloc(p, n) sim_realloc(p, n)
