"""Streaming: bytes go through at once, in any amount, through buffers of a fixed size."""

import hashlib
import os
import statistics
import threading
import time

import pytest

from harness import BIG, PATIENCE, TROUBLE, chunk, reply, request, sanitized, says, wait_for

BLOCK = os.urandom(1 << 20)
GROWTH = 256 * 1024  # bytes of resident memory that a transfer of any size may cost


def size_for(name):
    """TLS under sanitizers is slow; there 64 MB would say no more than 16."""
    return 5 << 30 if BIG else 16 << 20 if name and sanitized() else 64 << 20


def blocks(size):
    """A body of any size that is never the same twice and never stored: numbered blocks."""
    number = 0
    while size > 0:
        block = b"%016x" % number + BLOCK[:-16]
        yield block[:size]
        size -= len(block)
        number += 1


class Drain:
    """Reads and hashes a counted body without keeping it."""

    def __init__(self, reader, size):
        self.sha, self.size = hashlib.sha256(reader.left), len(reader.left)
        reader.left = b""
        buffer = bytearray(1 << 18)
        while self.size < size:
            n = reader.sock.recv_into(buffer, min(len(buffer), size - self.size))
            if not n:
                raise EOFError(f"closed after {self.size} of {size} bytes")
            self.sha.update(memoryview(buffer)[:n])
            self.size += n


class Memory:
    """The most that the proxy's resident memory grew while the block ran."""

    def __init__(self, p):
        self.p, self.over = p, threading.Event()

    def __enter__(self):
        self.before = self.most = self.p.memory()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while not self.over.wait(0.05):
            self.most = max(self.most, self.p.memory())

    def __exit__(self, *error):
        self.over.set()
        self.thread.join()
        self.grown = max(self.most, self.p.memory()) - self.before
        print(f"resident memory grew by {self.grown >> 10} KB")
        if error[0] is None and not sanitized():
            assert self.grown < GROWTH, f"resident memory grew by {self.grown} bytes"


def download(size, sums):
    """A backend that sends so many bytes; /warm-up only 1 MB."""
    def handler(conn):
        while True:
            r = conn.request()
            if not r:
                return
            n, sha = 1 << 20 if r.target == "/warm-up" else size, hashlib.sha256()
            conn.send(reply(200, f"Content-Length: {n}", length=False))
            for block in blocks(n):
                sha.update(block)
                conn.send(block)
            sums.append(sha.hexdigest())
    return handler


@pytest.mark.release
@pytest.mark.parametrize("name", [None, "app.test"], ids=["http", "https"])
def test_big_download(proxy, backend, certs, name):
    size, sums = size_for(name), []
    p = proxy(f"app.test={backend(download(size, sums)).url} plain", https="127.0.0.1:0",
              cert=certs("app.test").pem)
    client = p.client(name)
    client.ask("/warm-up")  # buffers and code are touched once
    with Memory(p):
        client.send(request("/"))
        assert client.head().get("Content-Length") == str(size)
        got = Drain(client, size)
    wait_for(lambda: len(sums) == 2, "the backend to be done")
    assert got.sha.hexdigest() == sums[1]
    assert p.access(2)[1].bytes == str(size)


@pytest.mark.release
@pytest.mark.parametrize("name", [None, "app.test"], ids=["http", "https"])
def test_big_upload(proxy, backend, certs, name):
    def handler(conn):
        while True:
            r = conn.head()
            if not r:
                return
            got = Drain(conn, int(r.get("Content-Length")))
            conn.send(reply(200, body=got.sha.hexdigest().encode()))

    size, sha = size_for(name), hashlib.sha256()
    p = proxy(f"app.test={backend(handler).url} plain", https="127.0.0.1:0",
              cert=certs("app.test").pem)
    client = p.client(name)
    client.ask("/warm-up", method="POST", body=BLOCK)
    with Memory(p):
        client.send(request("/", f"Content-Length: {size}", method="POST"))
        for block in blocks(size):
            sha.update(block)
            client.send(block)
        assert client.answer().body.decode() == sha.hexdigest()


def test_big_chunked_both_ways(proxy, backend):
    """Chunks of odd sizes go up; the same bytes come down in other chunks, at the same time."""
    def handler(conn):
        conn.head()
        conn.send(reply(200, "Transfer-Encoding: chunked", length=False))
        while True:
            data = conn.chunk()
            if not data:
                break
            conn.send(chunk(data))
        conn.send(b"0\r\n\r\n")

    client = proxy(f"app.test={backend(handler).url}").client()
    sha, sizes = hashlib.sha256(), [1, 7, 4095, 4096, 4097, 65535, 100001] * 20

    def upload():
        client.sock.sendall(request("/", "Transfer-Encoding: chunked", method="POST"))
        for n in sizes:
            sha.update(BLOCK[:n])
            client.sock.sendall(chunk(BLOCK[:n]))
        client.sock.sendall(b"0\r\n\r\n")

    thread = threading.Thread(target=upload)
    thread.start()
    body = client.answer().body
    thread.join()
    assert (len(body), hashlib.sha256(body).hexdigest()) == (sum(sizes), sha.hexdigest())


# ==[ at once ]====================================================================================


def events(sent, taken):
    """An event stream. Each event waits until the client has the one before."""
    def handler(conn):
        while conn.head():
            conn.send(reply(200, "Content-Type: text/event-stream", "Cache-Control: no-store",
                            "Transfer-Encoding: chunked", length=False))
            for i in range(4):
                assert taken.acquire(timeout=PATIENCE)
                time.sleep(0.02)  # so that it can't come with what was sent before
                sent.append(time.monotonic())
                conn.send(chunk(b"data: %d\n\n" % i))
            conn.send(b"0\r\n\r\n")
    return handler


@pytest.mark.release
@pytest.mark.parametrize("name", [None, "app.test"], ids=["http", "https"])
def test_events_arrive_one_by_one_at_once(proxy, backend, certs, name):
    """The first event of a stream within 50 ms: of the best of five streams, because a busy machine
    may delay one."""
    sent, taken, took = [], threading.Semaphore(0), []
    p = proxy(f"app.test={backend(events(sent, taken)).url} plain", https="127.0.0.1:0",
              cert=certs("app.test").pem)
    client = p.client(name)
    for _ in range(5):
        client.send(request("/", "Accept: text/event-stream"))
        assert client.head().get("Content-Type") == "text/event-stream"
        for i in range(4):
            taken.release()
            assert client.chunk() == b"data: %d\n\n" % i
            took.append((time.monotonic() - sent[-1]) * 1000)
        assert client.chunk() == b""
    print(f"first event after {took[0]:.2f} ms, median {statistics.median(took):.2f} ms")
    assert min(took[::4]) < 50, took


def test_an_answer_until_close_arrives_at_once(proxy, backend):
    go = threading.Event()

    def handler(conn):
        conn.head()
        conn.send(reply(200, "Connection: close", length=False), b"first")
        assert go.wait(5)
        conn.send(b"second")

    client = proxy(f"app.test={backend(handler).url}").client()
    client.send(request())
    client.head()
    assert client.chunk() == b"first"
    go.set()
    assert client.chunk() == b"second"
    assert client.chunk() == b""


def test_an_answer_head_does_not_wait_for_its_body(proxy, backend):
    go = threading.Event()

    def handler(conn):
        conn.head()
        conn.send(reply(200, "Content-Length: 4", length=False))
        assert go.wait(5)
        conn.send(b"body")

    client = proxy(f"app.test={backend(handler).url}").client()
    client.send(request())
    assert client.head().status == 200
    go.set()
    assert client.take(4) == b"body"


@pytest.mark.release
def test_a_request_body_goes_up_piece_by_piece(proxy, backend):
    pieces = []

    def handler(conn):
        conn.head()
        while True:
            data = conn.chunk()
            if not data:
                break
            pieces.append(data)
        conn.send(reply(200, body=b"ok"))

    client = proxy(f"app.test={backend(handler).url}").client()
    client.send(request("/", "Transfer-Encoding: chunked", method="POST"))
    for i in range(5):
        client.send(chunk(b"piece %d" % i))
        wait_for(lambda: b"".join(pieces).endswith(b"piece %d" % i), "the piece", 1)
    client.send(b"0\r\n\r\n")
    assert client.answer().body == b"ok"


# ==[ back-pressure ]==============================================================================

BOUND = 16 << 20  # bytes: what kernels may hold on the way (tcp_rmem), far from "everything"


def settled(counter, total):
    """Waits until the count no longer moves."""
    last = -1
    while last != counter[0]:
        last = counter[0]
        time.sleep(0.5)
    assert 0 < last < min(BOUND, total)


def pour(sock, counter, total):
    sock.settimeout(1.2)
    try:
        while counter[0] < total:
            counter[0] += sock.send(BLOCK[:65536])
        return True
    except TimeoutError:
        return False


@pytest.mark.release
@pytest.mark.parametrize("name", [None, "app.test"], ids=["http", "https"])
def test_the_backend_of_a_stalled_client_is_held_back(proxy, backend, certs, name):
    counter, total = [0], 256 << 20

    def handler(conn):
        conn.head()
        conn.send(reply(200, f"Content-Length: {total}", length=False))
        if not pour(conn.sock, counter, total):
            conn.rest()

    p = proxy(f"app.test={backend(handler, sndbuf=65536).url} plain", https="127.0.0.1:0",
              cert=certs("app.test").pem)
    client = p.client(name, rcvbuf=65536)
    client.send(request())
    client.head()
    with Memory(p):
        settled(counter, total)
    client.close()


@pytest.mark.release
def test_the_client_of_a_stalled_backend_is_held_back(proxy, backend):
    counter, total, over = [0], 256 << 20, threading.Event()

    def handler(conn):
        conn.head()
        over.wait(20)

    p = proxy(f"app.test={backend(handler, rcvbuf=65536).url}", expect=[TROUBLE])
    client = p.client()
    client.send(request("/", f"Content-Length: {total}", method="POST"))
    thread = threading.Thread(target=pour, args=(client.sock, counter, total))
    thread.start()
    settled(counter, total)
    thread.join()
    client.close()
    over.set()


@pytest.mark.release
def test_a_slow_reader_does_not_hurt_a_fast_one(proxy, backend):
    """The fast one is within 10% of its throughput alone, and costs the proxy 10% more at most. Both
    are tried in turn and the best of each counts: what else the machine does makes a try dearer,
    never cheaper. A transfer takes a third of a second, or its beginning would be most of it."""
    size = 256 << 20
    p = proxy(f"app.test={backend(download(size, [])).url}")

    def fast():
        """(s of processor time, s) of one transfer."""
        client, cpu, start = p.client(), p.cpu(), time.monotonic()
        client.send(request())
        client.head()
        Drain(client, size)
        client.close()
        return p.cpu() - cpu, time.monotonic() - start

    def beside_a_slow_one():
        slow, over = p.client(rcvbuf=4096), threading.Event()
        slow.send(request())

        def crawl():
            while not over.wait(0.1):
                slow.sock.recv(102)  # 1 KB/s

        thread = threading.Thread(target=crawl)
        thread.start()
        took = fast()
        over.set()
        thread.join()
        slow.close()
        return took

    alone, shared = [fast()], []
    for _ in range(12):
        alone.append(fast())
        shared.append(beside_a_slow_one())
        costs, times = ([min(t[i] for t in tries) for tries in (alone, shared)] for i in (0, 1))
        if len(shared) > 1 and costs[1] < 1.1 * costs[0] and 0.9 * times[1] < times[0]:
            break
    print("alone {:.1f} ms, beside a slow reader {:.1f} ms for 256 MB".format(*(c * 1000 for c in costs)),
          "at {:.0f} and {:.0f} MB/s".format(*(size / t / 1e6 for t in times)))
    assert costs[1] < 1.1 * costs[0] and 0.9 * times[1] < times[0]


def test_many_pipelined_requests_of_a_client_that_does_not_read(proxy, backend):
    """Answers that nobody takes hold the requests back too."""
    b = backend(says(reply(200, body=b"a" * 100000)))
    p = proxy(f"app.test={b.url}")
    client = p.client(rcvbuf=4096)
    threading.Thread(target=lambda: quietly(client, request() * 5000), daemon=True).start()
    time.sleep(1)
    asked = len(b.requests)
    time.sleep(0.5)
    assert 0 < asked == len(b.requests) < 500
    with Memory(p):
        assert p.ask().status == 200  # and nobody else is held up
    client.close()


def quietly(client, data):
    try:
        client.sock.sendall(data)
    except OSError:
        pass  # the test closed it
