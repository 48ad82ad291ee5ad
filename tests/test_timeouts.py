"""Each timeout of the contract, with small values: it fires, not too early, and only when due.

The bounds are wide (a busy machine may be late), the order is not: a test that expects the head
timeout sets all others far away."""

import contextlib
import time

import pytest

from harness import SLOW, TROUBLE, Bad, Client, chunk, reply, request, says

FAR = dict(head_timeout="60s", idle_timeout="60s", connect_timeout="60s", response_timeout="60s",
           stall_timeout="60s", tunnel_timeout="60s")


def only(**timeouts):
    return {**FAR, **timeouts}


@contextlib.contextmanager
def takes(least, most=None):
    """Seconds that the block must take."""
    start = time.monotonic()
    yield
    took = time.monotonic() - start
    most = (most or least + 1.5) * SLOW
    assert least - 0.1 <= took <= most, f"took {took:.2f} s, wanted {least} to {most} s"


# ==[ the client's side ]==========================================================================


@pytest.mark.release
def test_head_timeout_is_absolute(proxy, backend):
    b = backend()
    p = proxy(f"app.test={b.url}", **only(head_timeout="1s"))
    client = p.client()
    with takes(1):
        for byte in request("/", "X-Slow: " + "x" * 1000)[:100]:
            client.send(bytes([byte]))
            client.sock.settimeout(0.1)
            try:
                client.more()
                break
            except TimeoutError:
                continue
        answer = client.answer()
    assert answer.status == 408
    assert client.rest() == b""
    assert p.access()[0].reason == "head-timeout"
    assert b.requests == []


def test_head_timeout_of_a_handshake(proxy, backend, certs):
    p = proxy(f"app.test={backend().url}", https="127.0.0.1:0", cert=certs("app.test").pem,
              **only(head_timeout="1s"))
    client = Client(p.https[0])
    client.send(b"\x16\x03\x01")
    with takes(1):
        client.rest()


def test_head_timeout_does_not_count_the_wait_before_a_request(proxy, backend):
    p = proxy(f"app.test={backend().url}", **only(head_timeout="1s"))
    client = p.client()
    for _ in range(2):
        assert client.quiet(1.4)
        assert client.ask().status == 200


@pytest.mark.release
def test_idle_timeout(proxy, backend):
    p = proxy(f"app.test={backend().url}", **only(idle_timeout="1s"))
    client = p.client()
    assert client.ask().status == 200
    with takes(1):
        assert client.rest() == b""  # no 408: nothing was asked
    assert len(p.access()) == 1


def test_idle_timeout_of_a_connection_without_any_request(proxy, backend):
    client = proxy(f"app.test={backend().url}",
                   **only(idle_timeout="1s", head_timeout="1s")).client()
    with takes(1):
        assert client.rest() == b""


def test_idle_timeout_starts_anew_with_each_request(proxy, backend):
    client = proxy(f"app.test={backend().url}", **only(idle_timeout="1s")).client()
    for _ in range(4):
        assert client.ask().status == 200
        time.sleep(0.5)
    assert client.ask().status == 200


@pytest.mark.release
@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
def test_stall_of_a_body_that_does_not_come(proxy, backend, framing):
    b = backend(says(reply(200)))
    p = proxy(f"app.test={b.url}", **only(stall_timeout="1s"))
    client = p.client()
    with takes(1):
        client.send(request("/", framing, method="POST"))
        answer = client.answer()
    assert answer.status == 408
    assert client.rest() == b""
    assert p.access()[0].reason == "body-timeout"


def test_stall_of_a_client_that_does_not_read(proxy, backend):
    total = 64 << 20

    def handler(conn):
        conn.head()
        conn.send(reply(200, f"Content-Length: {total}", length=False))
        conn.send(b"x" * total)

    p = proxy(f"app.test={backend(handler).url}", **only(stall_timeout="1s"))
    client = p.client(rcvbuf=16384)
    with takes(1, 4):
        client.send(request())
        line = p.access()[0]
    assert (line.status, line.reason) == ("200", "client-stalled")


@pytest.mark.release
def test_there_is_no_limit_on_the_whole_time_of_an_upload(proxy, backend):
    p = proxy(f"app.test={backend().url}",
              **only(stall_timeout="1s", head_timeout="1s", idle_timeout="1s",
                     response_timeout="1s"))
    client = p.client()
    client.send(request("/", "Content-Length: 6", method="POST"))
    for _ in range(6):
        time.sleep(0.5)
        client.send(b"x")
    assert client.answer().json()["length"] == 6


def test_there_is_no_limit_on_the_whole_time_of_a_download(proxy, backend):
    drops = [p for _ in range(6) for p in (0.5, chunk(b"drop"))]
    b = backend(says(reply(200, "Transfer-Encoding: chunked", length=False), *drops, b"0\r\n\r\n"))
    p = proxy(f"app.test={b.url}", **only(stall_timeout="1s", head_timeout="1s", idle_timeout="1s",
                                          response_timeout="1s"))
    assert p.ask().body == b"drop" * 6


def test_a_slow_reader_that_reads_is_not_cut(proxy, backend):
    total = 3 << 20
    p = proxy(f"app.test={backend(says(reply(200, body=b'x' * total))).url}",
              **only(stall_timeout="1s", response_timeout="1s"))
    client = p.client(rcvbuf=16384)
    client.send(request())
    client.head()
    got, until = len(client.left), time.monotonic() + 3
    while time.monotonic() < until:
        time.sleep(0.1)
        got += len(client.sock.recv(16384))
    while got < total:
        data = client.sock.recv(65536)
        assert data, f"cut after {got} bytes"
        got += len(data)


# ==[ the backend's side ]=========================================================================


@pytest.mark.release
def test_connect_timeout(proxy, blackhole):
    p = proxy(f"app.test=http://127.0.0.1:{blackhole}", expect=[TROUBLE],
              **only(connect_timeout="1s"))
    with takes(1):
        answer = p.ask()
    assert answer.status == 504
    assert p.access()[0].reason == "upstream-timeout"


def test_connect_timeout_then_the_next_target(proxy, backend, blackhole):
    p = proxy(f"app.test=http://127.0.0.1:{blackhole},{backend().url}", expect=[TROUBLE],
              **only(connect_timeout="1s"))
    with takes(1):
        assert p.ask().status == 200


def test_a_blackhole_costs_nobody_else_anything(proxy, backend, blackhole):
    p = proxy(f"hole.test=http://127.0.0.1:{blackhole}", f"app.test={backend().url}",
              expect=[TROUBLE], **only(connect_timeout="1s"))
    waiting = p.client()
    waiting.send(request(host="hole.test"))
    with takes(0, 0.8):
        assert [p.ask().status for _ in range(20)] == [200] * 20
    assert waiting.answer().status == 504


@pytest.mark.release
@pytest.mark.parametrize("way", ["option", "setting"])
def test_response_timeout(proxy, backend, way):
    b = backend(lambda conn: conn.request() and conn.rest())
    if way == "option":
        p = proxy(f"app.test={b.url}", expect=[TROUBLE], **only(response_timeout="1s"))
    else:
        p = proxy(f"app.test={b.url} response-timeout=1s", expect=[TROUBLE], **FAR)
    with takes(1):
        answer = p.ask()
    assert answer.status == 504
    assert p.access()[0].reason == "upstream-timeout"


def test_an_interim_answer_restarts_the_response_timeout(proxy, backend):
    hints = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    b = backend(says(0.7, hints, 0.7, hints, 0.7, reply(200, body=b"at last")))
    answer = proxy(f"app.test={b.url}", **only(response_timeout="1s")).ask()
    assert (answer.status, answer.body, len(answer.interim)) == (200, b"at last", 2)


def test_a_backend_that_falls_silent_in_its_body_is_cut(proxy, backend):
    def handler(conn):
        conn.request()
        conn.send(reply(200, "Content-Length: 10", length=False), b"only")
        conn.rest()

    p = proxy(f"app.test={backend(handler).url}", expect=[TROUBLE], **only(response_timeout="1s"))
    client = p.client()
    with takes(1):
        client.send(request())
        assert client.head().status == 200
        assert client.rest() == b"only"
    assert p.access()[0].reason == "upstream-timeout"


def test_a_cut_chunked_answer_gets_no_last_chunk(proxy, backend):
    def handler(conn):
        conn.request()
        conn.send(reply(200, "Transfer-Encoding: chunked", length=False), chunk(b"only"))
        conn.rest()

    client = proxy(f"app.test={backend(handler).url}", expect=[TROUBLE],
                   **only(response_timeout="1s")).client()
    client.send(request())
    client.head()
    assert client.chunk() == b"only"
    assert client.rest() == b""


def test_stall_of_a_backend_that_does_not_take_the_body(proxy, backend):
    b = backend(lambda conn: conn.head() and time.sleep(4), rcvbuf=16384)
    p = proxy(f"app.test={b.url}", expect=[TROUBLE], **only(stall_timeout="1s"))
    client = p.client()
    client.sock.settimeout(0.5)
    with takes(1, 4):
        client.send(request("/", "Content-Length: 100000000", method="POST"))
        with contextlib.suppress(TimeoutError, ConnectionError):
            while True:
                client.sock.send(b"x" * 65536)
        client.sock.settimeout(10)
        with contextlib.suppress(ConnectionError, EOFError, Bad):  # it may hang up on our body
            assert client.answer().status == 504
        line = p.access()[0]
    assert (line.status, line.reason) == ("504", "upstream-stalled")


# ==[ tunnels ]====================================================================================

ASK = ["Connection: Upgrade", "Upgrade: thing"]
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: thing\r\n\r\n"


@pytest.mark.release
@pytest.mark.parametrize("way", ["option", "setting"])
def test_tunnel_timeout(proxy, backend, way):
    b = backend(lambda conn: (conn.request(), conn.send(SWITCH), conn.rest()))
    if way == "option":
        p = proxy(f"app.test={b.url}", **only(tunnel_timeout="1s"))
    else:
        p = proxy(f"app.test={b.url} tunnel-timeout=1s", **FAR)
    client = p.client()
    assert client.ask("/", *ASK).status == 101
    with takes(1):
        assert client.rest() == b""


def test_tunnel_lives_while_one_direction_does(proxy, backend):
    def handler(conn):
        conn.request()
        conn.send(SWITCH)
        for _ in range(5):
            time.sleep(0.5)
            conn.send(b"tick")
        conn.rest()

    client = proxy(f"app.test={backend(handler).url}", **only(tunnel_timeout="1s")).client()
    assert client.ask("/", *ASK).status == 101
    with takes(3.5):
        assert client.rest() == b"tick" * 5
