"""Limits against exhaustion: clients that send a head byte by byte, clients that never read, and the
honest ones beside them. RP_BIG=1: 1,000 slow clients (a byte every 2 s), 200 that never read and 50
honest ones, against the real timeouts of 10 s; otherwise a tenth of it with short timeouts.

All clients live in one thread and one selector, so that the crowd costs little itself."""

import re
import selectors
import socket
import threading
import time

import pytest

from harness import BIG, PATIENCE, SLOW, Client, reply, request, sanitized

pytestmark = pytest.mark.release

SLOW_ONES, DEAF_ONES, HONEST_ONES = (1000, 200, 50) if BIG else (100, 20, 10)
PACE = 2.0 if BIG else 0.4  # s between two bytes of a slow head
HEAD = 10.0 if BIG else 2.0  # s, --head-timeout
STALL = 10.0 if BIG else 2.0  # s, --stall-timeout
LATE = 3.0 + 5 * SLOW  # s that a cut may come late: the lingering close, a turn, a busy machine
BODY = b"x" * (4 << 20)  # more than all buffers between here and there


def connect(port, rcvbuf=None):
    sock = socket.socket()
    Client.every.append(sock)
    if rcvbuf:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    sock.settimeout(PATIENCE)
    sock.connect(("127.0.0.1", port))
    sock.setblocking(False)
    return sock


class Slow:
    """A head that never ends, a byte at a time."""

    text = b"GET / HTTP/1.1\r\nHost: app.test\r\nX: " + b"y" * 100000

    def __init__(self, port, now):
        self.sock, self.at, self.due, self.began, self.gone = connect(port), 0, now, None, None

    def tick(self, now):
        if self.gone or now < self.due:
            return
        try:
            self.sock.send(self.text[self.at:self.at + 1])
            self.began = self.began or now
            self.at += 1
            self.due = now + PACE
        except OSError:
            self.gone = now

    def readable(self, now):
        try:
            if not self.sock.recv(65536):
                self.gone = now
        except OSError:
            self.gone = now


class Deaf:
    """Asks for much and takes nothing."""

    def __init__(self, port, now):
        self.sock, self.began, self.gone = connect(port, rcvbuf=4096), now, None
        self.sock.send(request("/big"))

    def tick(self, now):
        # Whether it was cut shows without reading: the proxy resets who took nothing.
        if not self.gone and self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.gone = now


class Honest:
    """One request after the other on a connection that is kept."""

    whole = re.compile(rb"HTTP/1\.1 200 [^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\nfine", re.S)

    def __init__(self, port, now):
        self.sock, self.got, self.due, self.waits = connect(port), b"", now, False
        self.answers, self.errors, self.began = 0, [], now

    def tick(self, now):
        if self.waits and now - self.began > PATIENCE:
            self.errors.append(f"no answer for {now - self.began:.1f} s")
            self.waits = False
        if self.waits or now < self.due or self.errors:
            return
        try:
            self.sock.send(request("/fine"))
            self.waits, self.began = True, now
        except OSError as e:
            self.errors.append(repr(e))

    def readable(self, now):
        try:
            data = self.sock.recv(65536)
        except OSError as e:
            data = b""
            self.errors.append(repr(e))
        if not data:
            self.errors.append(f"an end after {self.got[:80]!r}")
        self.got += data
        if self.whole.fullmatch(self.got):
            self.got, self.waits, self.due = b"", False, now + 0.05
            self.answers += 1


def handler(conn):
    while (r := conn.request()) is not None:
        conn.send(reply(body=BODY if r.target == "/big" else b"fine" if not r.body else
                        str(len(r.body)).encode()))


def announced(p):
    """The memory budget that the proxy announced at its start, in bytes."""
    return int(re.search(r"at most (\d+) KB", p.said(r"memory: at most"))[1]) * 1024


def test_slow_and_deaf_clients_do_not_hurt_honest_ones(proxy, backend):
    whole = SLOW_ONES + DEAF_ONES + HONEST_ONES
    p = proxy(f"app.test={backend(handler).url}", max_conns=whole + 50, max_conns_per_ip=0,
              head_timeout=f"{int(HEAD * 1000)}ms", stall_timeout=f"{int(STALL * 1000)}ms")
    budget = announced(p)
    sel, port = selectors.DefaultSelector(), p.http[0]
    honest = [Honest(port, time.monotonic()) for _ in range(HONEST_ONES)]
    deaf = [Deaf(port, time.monotonic()) for _ in range(DEAF_ONES)]
    slow = [Slow(port, time.monotonic() + i * PACE / SLOW_ONES) for i in range(SLOW_ONES)]
    for c in honest + slow:
        sel.register(c.sock, selectors.EVENT_READ, c)
    end = time.monotonic() + max(HEAD, STALL) + PACE + LATE
    most, looked = 0, 0
    while time.monotonic() < end and not all(c.gone for c in slow + deaf):
        for key, _ in sel.select(0.02):
            key.data.readable(time.monotonic())
            if getattr(key.data, "gone", None) or getattr(key.data, "errors", None):
                sel.unregister(key.fileobj)
        now = time.monotonic()
        for c in honest + slow + deaf:
            c.tick(now)
        if now > looked + 0.5:
            most, looked = max(most, p.memory()), now
    sel.close()
    assert not [e for c in honest for e in c.errors], "honest clients see errors"
    assert all(c.answers for c in honest)
    late = [c for c in slow if not c.gone or c.gone - c.began > HEAD + PACE + LATE]
    assert not late, f"{len(late)} slow clients outlived their deadline"
    late = [c for c in deaf if not c.gone or c.gone - c.began > STALL + LATE]
    assert not late, f"{len(late)} clients that read nothing outlived their deadline"
    # AddressSanitizer has a shadow of its own: there only the behaviour counts.
    assert sanitized() or most <= budget + (2 << 20), f"{most} bytes resident, announced {budget}"
    print(f"{SLOW_ONES} slow, {DEAF_ONES} deaf, {HONEST_ONES} honest: "
          f"{sum(c.answers for c in honest)} answers, {most} bytes resident of {budget} announced")


def one_byte_records(client, n):
    client.send(request("/up", f"Content-Length: {n}", method="POST"))
    for _ in range(n):
        client.sock.send(b"x")  # a TLS record each
    assert client.answer().body == str(n).encode()


def one_byte_chunks(client, n):
    client.send(request("/up", "Transfer-Encoding: chunked", method="POST"))
    for _ in range(0, n, 100):
        client.send(b"1\r\nx\r\n" * 100)
    client.send(b"0\r\n\r\n")
    assert client.answer().body == str(n).encode()


def tiny_requests(client, n):
    """Pipelined without an end, and the answers are read at the same time."""
    sender = threading.Thread(target=lambda: client.send(request("/fine") * n), daemon=True)
    sender.start()
    left, end = b"", b"\r\n\r\nfine"
    while n:
        data = left + client.sock.recv(65536)
        n -= data.count(end)
        left = data[1 - len(end):]  # where an end may begin that is not whole
    sender.join(PATIENCE)


@pytest.mark.parametrize("flood, n", [(one_byte_records, 100000), (one_byte_chunks, 1000000),
                                      (tiny_requests, 100000)])
@pytest.mark.parametrize("name", [None, "app.test"], ids=["http", "https"])
def test_floods_of_the_smallest_pieces(proxy, backend, certs, flood, n, name):
    """What costs a client a byte or two a piece arrives whole, and honest clients beside it are
    served within the announced memory."""
    p = proxy(f"app.test={backend(handler).url} plain", https="127.0.0.1:0",
              cert=certs("app.test").pem)
    client, honest, faults, most = p.client(name), p.client(), [], 0

    def run():
        try:
            flood(client, n if BIG else n // 20)
        except Exception as e:  # told by the test
            faults.append(repr(e))

    attacker = threading.Thread(target=run, daemon=True)
    attacker.start()
    answers = 0
    while attacker.is_alive() or not answers:
        assert honest.ask("/fine").body == b"fine"
        answers += 1
        most = max(most, p.memory())
    assert not faults
    assert sanitized() or most <= announced(p) + (2 << 20)
    print(f"{flood.__name__}: {answers} honest answers beside it, {most} bytes resident")


def test_accept_does_not_spin_without_descriptors(proxy, backend):
    """With fewer descriptors than clients: who got in is served, the others wait, and waiting costs
    no processor time."""
    p = proxy(f"app.test={backend(handler).url}", max_conns=200, max_conns_per_ip=0,
              expect=[r"rproxy: .*descriptors.*", r"rproxy: can't accept: .*"],
              under=("prlimit", "--nofile=60:60"))
    crowd = [connect(p.http[0]) for _ in range(120)]
    time.sleep(0.2)  # until they were accepted, or not: there is nothing to be seen of it outside
    before, began = p.cpu(), time.monotonic()
    time.sleep(1)
    assert p.cpu() - before < 0.3 * (time.monotonic() - began), "it spins"
    for sock in crowd:
        sock.close()
    assert p.ask("/fine").body == b"fine"
