"""Upgrade: WebSocket and other protocols become a tunnel after the backend's 101, and only then."""

import asyncio
import logging
import threading
import time

import pytest
import websockets

from harness import PATIENCE, SLOW, half_close, reply, request, reset, says

UPGRADE = ["Connection: Upgrade", "Upgrade: thing/1"]
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: thing/1\r\n\r\n"


@pytest.fixture(scope="module")
def echo_server():
    """A WebSocket echo on a thread of its own; the port."""
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    loop, started = asyncio.new_event_loop(), threading.Event()

    async def echo(ws):
        async for message in ws:
            await ws.send(message)

    async def serve():
        server = await websockets.serve(echo, "127.0.0.1", 0, backlog=512, ping_interval=None)
        serve.port = server.sockets[0].getsockname()[1]
        started.set()

    def run():
        asyncio.set_event_loop(loop)
        loop.run_until_complete(serve())
        loop.run_forever()

    threading.Thread(target=run, daemon=True).start()
    assert started.wait(PATIENCE)
    yield serve.port
    loop.call_soon_threadsafe(loop.stop)


def connect(p, certs, tls):
    if tls:
        return websockets.connect("wss://app.test/", host="127.0.0.1", port=p.https[0],
                                  ssl=certs.trust(), server_hostname="app.test",
                                  ping_interval=None, open_timeout=6 * PATIENCE)
    return websockets.connect("ws://app.test/", host="127.0.0.1", port=p.http[0],
                              ping_interval=None)


@pytest.mark.release
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_websocket(proxy, certs, echo_server, tls):
    p = proxy(f"app.test=http://127.0.0.1:{echo_server} plain", https="127.0.0.1:0",
              cert=certs("app.test").pem)

    async def talk():
        async with connect(p, certs, tls) as ws:
            for message in ("hello", b"\0\1\2", "", "x" * 100000, b"y" * 300000):
                await ws.send(message)
                assert await ws.recv() == message

    asyncio.run(talk())
    line = p.access()[0]
    assert (line.status, line.reason) == ("101", "-")


@pytest.mark.release
def test_many_websockets_at_once_lose_nothing(proxy, certs, echo_server):
    """200 that are all open, each echoing 100 messages, over TLS."""
    count = 200
    p = proxy(f"app.test=http://127.0.0.1:{echo_server}", https="127.0.0.1:0",
              cert=certs("app.test").pem, max_conns_per_ip=0, head_timeout="10m")

    async def talk(i, ready, go):
        async with connect(p, certs, True) as ws:
            ready.append(i)
            await go.wait()
            for n in range(100):
                await ws.send(f"{i}:{n}")
                assert await ws.recv() == f"{i}:{n}"

    async def everybody():
        ready, go = [], asyncio.Event()
        talks = [asyncio.ensure_future(talk(i, ready, go)) for i in range(count)]
        while len(ready) < count and not any(t.done() for t in talks):
            await asyncio.sleep(0.02)
        go.set()
        await asyncio.gather(*talks)

    asyncio.run(everybody())
    assert {a.status for a in p.access(count)} == {"101"}


def test_silence_longer_than_the_other_timeouts_does_not_cut(proxy, certs, echo_server):
    p = proxy(f"app.test=http://127.0.0.1:{echo_server}", https="127.0.0.1:0",
              cert=certs("app.test").pem, idle_timeout="1s", head_timeout="1s",
              response_timeout="1s", stall_timeout="1s")

    async def talk():
        async with connect(p, certs, True) as ws:
            await ws.send("before")
            assert await ws.recv() == "before"
            await asyncio.sleep(2.5)
            await ws.send("after")
            assert await ws.recv() == "after"

    asyncio.run(talk())


# ==[ raw upgrades ]===============================================================================


def switching(after=b"", first=b""):
    """A backend that switches, says `first` along with the 101, then echoes until the end."""
    def handler(conn):
        r = conn.head()
        assert r.get("Upgrade") == "thing/1"
        assert r.get("Connection").lower() == "upgrade"
        conn.send(SWITCH + first)
        while True:
            try:
                if not conn.left:
                    conn.more()
            except EOFError:
                conn.send(after)
                return
            data, conn.left = conn.left, b""
            conn.send(data)
    return handler


@pytest.mark.release
@pytest.mark.parametrize("name", [None, "app.test"], ids=["http", "https"])
def test_any_protocol_becomes_a_tunnel(proxy, backend, certs, name):
    p = proxy(f"app.test={backend(switching()).url} plain", https="127.0.0.1:0",
              cert=certs("app.test").pem)
    client = p.client(name)
    answer = client.ask("/", *UPGRADE)
    assert (answer.status, answer.get("Upgrade")) == (101, "thing/1")
    assert answer.get("Connection").lower() == "upgrade"
    for data in (b"\0\xff", b"GET / HTTP/1.1\r\n\r\n", b"z" * 200000):
        client.send(data)
        assert client.take(len(data)) == data


def test_bytes_that_came_along_are_not_lost(proxy, backend):
    p = proxy(f"app.test={backend(switching(first=b'welcome')).url}")
    client = p.client()
    client.send(request("/", *UPGRADE) + b"early bird")
    assert client.answer().status == 101
    assert client.take(7 + 10) == b"welcomeearly bird"


@pytest.mark.release
def test_each_side_of_a_tunnel_ends_by_itself(proxy, backend):
    p = proxy(f"app.test={backend(switching(after=b'goodbye')).url}")
    client = p.client()
    assert client.ask("/", *UPGRADE).status == 101
    client.send(b"last")
    half_close(client.sock)
    assert client.rest() == b"lastgoodbye"
    assert p.access()[0].status == "101"


def test_the_backend_ends_the_tunnel(proxy, backend):
    def handler(conn):
        conn.head()
        conn.send(SWITCH + b"bye")
    client = proxy(f"app.test={backend(handler).url}").client()
    assert client.ask("/", *UPGRADE).status == 101
    assert client.rest() == b"bye"


def test_a_client_that_leaves_ends_the_tunnel(proxy, backend):
    ended = threading.Event()

    def handler(conn):
        conn.head()
        conn.send(SWITCH)
        conn.rest()
        ended.set()
    client = proxy(f"app.test={backend(handler).url}").client()
    assert client.ask("/", *UPGRADE).status == 101
    client.close()
    assert ended.wait(PATIENCE)


@pytest.mark.release
@pytest.mark.parametrize("status", [200, 400, 403, 426])
def test_a_refused_upgrade_is_a_normal_answer(proxy, backend, status):
    b = backend(says(reply(status, body=b"no thing")))
    client = proxy(f"app.test={b.url}").client()
    for _ in range(2):
        answer = client.ask("/", *UPGRADE)
        assert (answer.status, answer.body) == (status, b"no thing")
    assert client.ask("/").status == status


@pytest.mark.release
def test_h2c_is_not_passed_on(proxy, backend):
    b = backend()
    answer = proxy(f"app.test={b.url}").ask(
        "/", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
    assert answer.status == 200
    names = b.requests[0].fields.names()
    assert not {"upgrade", "connection", "http2-settings"} & set(names)


def test_upgrade_without_connection_is_not_passed_on(proxy, backend):
    b = backend()
    assert proxy(f"app.test={b.url}").ask("/", "Upgrade: thing/1").status == 200
    assert "upgrade" not in b.requests[0].fields.names()


@pytest.mark.release
@pytest.mark.parametrize("asked", [[], ["Connection: Upgrade", "Upgrade: h2c"]])
def test_a_101_that_nobody_asked_for_is_an_error(proxy, backend, asked):
    p = proxy(f"app.test={backend(says(SWITCH + b'tunnel?', close=True)).url}",
              expect=[r"rproxy: .*127\.0\.0\.1.*"])
    answer = p.ask("/", *asked)
    assert answer.status == 502
    assert p.access()[0].reason == "upgrade-refused"


def test_interim_answers_may_come_before_the_101(proxy, backend):
    def handler(conn):
        conn.head()
        conn.send(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
        time.sleep(0.05)
        conn.send(SWITCH + b"in")
    client = proxy(f"app.test={backend(handler).url}").client()
    answer = client.ask("/", *UPGRADE)
    assert ([i[0] for i in answer.interim], answer.status) == ([103], 101)
    assert client.rest() == b"in"


def test_a_stalled_tunnel_end_holds_the_other_back(proxy, backend):
    """What one end does not take, the other can't send: no buffering without bound."""
    sent = []

    def handler(conn):
        conn.head()
        conn.send(SWITCH)
        conn.sock.settimeout(0.7)
        try:
            while sum(sent) < 64 << 20:
                sent.append(conn.sock.send(b"f" * 65536))
        except TimeoutError:
            conn.rest()
    client = proxy(f"app.test={backend(handler, sndbuf=65536).url}").client(rcvbuf=65536)
    assert client.ask("/", *UPGRADE).status == 101
    time.sleep(1.5)
    assert 0 < sum(sent) < 16 << 20
    client.close()


@pytest.mark.release
@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_a_backend_that_resets_a_tunnel_is_felt_at_once(proxy, backend, certs, tmp_path, tls, unix):
    def handler(conn):
        conn.request()
        conn.send(SWITCH + b"bye")
        conn.request()  # the client has it
        reset(conn.sock)
    b = backend(handler, path=tmp_path / "sock" if unix else None)
    p = proxy(f"app.test={b.url} plain", https="127.0.0.1:0", cert=certs("app.test").pem)
    client = p.client("app.test" if tls else None)
    client.send(request("/", "Connection: Upgrade", "Upgrade: thing/1"))
    assert client.head().status == 101 and client.take(3) == b"bye"
    client.send(request("/"))
    began = time.monotonic()
    client.rest()
    assert time.monotonic() - began < 1 + 0.5 * SLOW
