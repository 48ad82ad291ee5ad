"""tcp: routes: TLS that is handed through unopened, chosen by the name in the ClientHello."""

import hashlib
import os
import signal
import socket
import ssl
import threading
import time

import pytest

from harness import PATIENCE, SLOW, Client, Talk, dead_port, half_close, reply, says, wait_for

HTTPS = "127.0.0.1:0"
ALERT_NAME = b"\x15\x03\x03\x00\x02\x02\x70"  # fatal, unrecognized_name
ALERT_DECODE = b"\x15\x03\x03\x00\x02\x02\x32"  # fatal, decode_error


def big_hello(certs, size, name="vpn.test"):
    """A ClientHello whose handshake message has exactly so many bytes, in one or two records."""
    pad = size
    while True:
        context = certs.trust()
        names, left = [], pad
        while left > 0:
            names.append("x" * min(left, 250))
            left -= 251
        context.set_alpn_protocols([*names, "http/1.1"])
        talk = Talk(name, context)
        data = talk.hello()
        records = 0
        at = 0
        while at < len(data):
            at += 5 + int.from_bytes(data[at + 3:at + 5], "big")
            records += 1
        over = len(data) - 5 * records - size
        if over == 0:
            return talk, data
        pad -= over


def split(hello, size):
    """The same ClientHello in TLS records of at most so many bytes."""
    body = hello[5:]
    return b"".join(hello[:3] + len(body[i:i + size]).to_bytes(2, "big") + body[i:i + size]
                    for i in range(0, len(body), size))


def read_hello(conn):
    """One record of a ClientHello that arrived at a raw backend."""
    head = conn.take(5)
    return head + conn.take(int.from_bytes(head[3:5], "big"))


@pytest.fixture
def vpn(backend, certs):
    """A backend that speaks TLS by itself, also 1.3, with a certificate that only it has."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    cert = certs("vpn.test")
    context.load_cert_chain(cert.chain, cert.key)

    def handler(conn):
        raw, conn.sock = conn.sock, context.wrap_socket(conn.sock, server_side=True)
        assert raw.fileno() == -1  # the TLS socket took it over
        conn.sock.settimeout(PATIENCE)
        try:
            says(reply(200, body=b"inside"))(conn)
        finally:
            conn.sock.close()
    return backend(handler)


@pytest.mark.release
def test_both_kinds_of_names_share_one_port(proxy, backend, certs, vpn):
    p = proxy(f"vpn.test=tcp://{vpn.address}", f"a.test={backend().url}", https=HTTPS,
              cert=certs("a.test").pem)
    for _ in range(2):
        inside = p.client("vpn.test")
        assert inside.sock.version() == "TLSv1.3"  # which rproxy does not speak: it is unopened
        assert inside.ask(host="vpn.test").body == b"inside"
        ours = p.client("a.test")
        assert ours.sock.version() == "TLSv1.2"
        assert ours.ask(host="a.test").status == 200
        inside.close()
    line = next(a for a in p.access(3) if a.vhost == "vpn.test")
    assert line.upstream.endswith(vpn.address)
    assert (line.reason, line.tls) == ("-", "-")


def test_a_hello_in_one_byte_segments(proxy, certs, vpn):
    p = proxy(f"vpn.test=tcp://{vpn.address}", https=HTTPS, cert=certs("a.test").pem)
    talk = Talk("vpn.test", certs.trust(), p.https[0])
    for byte in talk.hello():
        talk.raw.send(bytes([byte]))
        time.sleep(0.0002)  # a segment each
    assert talk.ask()


@pytest.mark.release
@pytest.mark.parametrize("size", [16, 200])
def test_a_hello_over_several_records(proxy, certs, vpn, size):
    p = proxy(f"vpn.test=tcp://{vpn.address}", https=HTTPS, cert=certs("a.test").pem)
    talk = Talk("vpn.test", certs.trust(), p.https[0])
    hello = talk.hello()
    talk.raw.send(split(hello, size))
    assert talk.ask()


def test_records_are_handed_on_as_they_came(proxy, backend, certs):
    """Each byte, header included, however the client cuts them."""
    got = []

    def handler(conn):
        while True:
            conn.more()
            got.append(conn.left)

    b = backend(handler)
    p = proxy(f"vpn.test=tcp://{b.address}", https=HTTPS, cert=certs("a.test").pem)
    hello = Talk("vpn.test", certs.trust(), p.https[0]).hello()
    for size in (1, 3, 4, 5, 16383):
        sent = split(hello, size)
        client = Client(p.https[0])
        client.send(sent[:7])
        client.send(sent[7:])
        wait_for(lambda s=sent: got and got[-1] == s, f"the hello in records of {size}")
        client.close()
        got.clear()


@pytest.mark.release
@pytest.mark.parametrize("head_max", ["32k", "1k"])
def test_a_hello_of_16_kb_and_not_one_byte_more(proxy, certs, vpn, head_max):
    p = proxy(f"vpn.test=tcp://{vpn.address}", https=HTTPS, cert=certs("a.test").pem,
              head_max=head_max)
    talk, hello = big_hello(certs, 16384)
    talk.raw = Client(p.https[0])
    talk.raw.send(hello)
    assert talk.ask()
    talk, hello = big_hello(certs, 16385)
    client = Client(p.https[0])
    client.send(hello)
    assert client.rest() == ALERT_DECODE
    assert vpn.conns == 1


@pytest.mark.release
def test_a_hello_of_16_kb_for_a_name_of_ours(proxy, backend, certs):
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=certs("a.test").pem, head_max="1k")
    talk, hello = big_hello(certs, 16384, "a.test")
    talk.raw = Client(p.https[0])
    for i in range(0, len(hello), 1000):
        talk.raw.send(hello[i:i + 1000])
    assert talk.ask("a.test", b"}").startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_send_proxy_comes_before_the_hello(proxy, backend, certs, version):
    got = []

    def handler(conn):
        if version == "v1":
            got.append(conn.line())
        else:
            head = conn.take(16)
            got.append(head + conn.take(int.from_bytes(head[14:16], "big")))
        got.append(read_hello(conn))

    b = backend(handler)
    p = proxy(f"vpn.test=tcp://{b.address} send-proxy={version}", https=HTTPS,
              cert=certs("a.test").pem)
    talk = Talk("vpn.test", certs.trust(), p.https[0])
    hello = talk.hello()
    talk.raw.send(hello)
    wait_for(lambda: len(got) == 2, "header and hello")
    port = talk.raw.sock.getsockname()[1]
    if version == "v1":
        assert got[0] == f"PROXY TCP4 127.0.0.1 127.0.0.1 {port} {p.https[0]}".encode()
    else:
        assert got[0] == (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01"
                          + port.to_bytes(2, "big") + p.https[0].to_bytes(2, "big"))
    assert got[1] == hello


@pytest.mark.release
def test_the_next_target_when_one_is_down(proxy, certs, vpn):
    p = proxy(f"vpn.test=tcp://127.0.0.1:{dead_port()},tcp://{vpn.address}", https=HTTPS,
              cert=certs("a.test").pem, expect=[r"rproxy: .*127\.0\.0\.1.*"])
    assert p.client("vpn.test").ask(host="vpn.test").body == b"inside"


@pytest.mark.release
def test_a_backend_that_is_down_costs_the_connection_alone(proxy, backend, certs):
    p = proxy(f"vpn.test=tcp://127.0.0.1:{dead_port()}", f"a.test={backend().url}", https=HTTPS,
              cert=certs("a.test").pem, expect=[r"rproxy: .*127\.0\.0\.1.*"])
    talk = Talk("vpn.test", certs.trust(), p.https[0])
    talk.raw.send(talk.hello())
    assert talk.raw.rest() == b""  # no word of HTTP, no certificate
    assert p.access()[0].reason == "upstream-refused"
    assert p.client("a.test").ask(host="a.test").status == 200


@pytest.mark.release
def test_each_side_ends_by_itself(proxy, backend, certs):
    """The end of what one side sends is passed on, and the other side may go on sending."""
    def late(conn):
        conn.rest()
        conn.send(b"after your end" * 10000)

    def early(conn):
        read_hello(conn)
        half_close(conn.sock)
        got.append(conn.rest())

    got = []
    late, early = backend(late), backend(early)
    p = proxy(f"late.test=tcp://{late.address}", f"early.test=tcp://{early.address}", https=HTTPS,
              cert=certs("a.test").pem)
    talk = Talk("late.test", certs.trust(), p.https[0])
    talk.raw.send(talk.hello(), b"and more")
    half_close(talk.raw.sock)
    assert talk.raw.rest() == b"after your end" * 10000
    talk = Talk("early.test", certs.trust(), p.https[0])
    talk.raw.send(talk.hello())
    with pytest.raises(EOFError):
        talk.raw.more()
    talk.raw.send(b"still here" * 10000)
    half_close(talk.raw.sock)
    wait_for(lambda: got, "the backend")
    assert got == [b"still here" * 10000]


@pytest.mark.release
def test_a_megabyte_both_ways_at_once(proxy, backend, certs):
    block = os.urandom(1 << 20)

    def handler(conn):
        read_hello(conn)
        thread = threading.Thread(target=conn.send, args=(block,))
        thread.start()
        conn.send(hashlib.sha256(conn.take(len(block))).digest())
        thread.join()

    b = backend(handler)
    p = proxy(f"vpn.test=tcp://{b.address}", https=HTTPS, cert=certs("a.test").pem)
    talk = Talk("vpn.test", certs.trust(), p.https[0])
    talk.raw.send(talk.hello())
    thread = threading.Thread(target=talk.raw.send, args=(block,))
    thread.start()
    got = talk.raw.rest()
    thread.join()
    assert len(got) == len(block) + 32
    assert hashlib.sha256(block).digest() in got


@pytest.mark.release
def test_names_that_nobody_serves(proxy, backend, certs, vpn):
    rules = [f"vpn.test=tcp://{vpn.address}", f"a.test={backend().url}"]
    alerting = proxy(*rules, https=HTTPS, cert=certs("a.test").pem)
    dropping = proxy(*rules, https=HTTPS, cert=certs("a.test").pem, default="drop")
    for p, said in ((alerting, ALERT_NAME), (dropping, b"")):
        talk = Talk("none.test", certs.trust(), p.https[0])
        talk.raw.send(talk.hello())
        assert talk.raw.rest() == said
        assert p.client("vpn.test").ask(host="vpn.test").body == b"inside"
        assert p.client("a.test").ask(host="a.test").status == 200


def test_a_star_takes_every_name_and_none(proxy, backend, certs, vpn):
    p = proxy(f"*=tcp://{vpn.address}", f"a.test={backend().url}", https=HTTPS,
              cert=certs("a.test").pem)
    context = certs.trust(False)
    for name in ("any.test", ""):
        assert p.client(name, context=context).ask(host="any.test").body == b"inside"
    assert p.client("a.test").sock.version() == "TLSv1.2"


@pytest.mark.release
def test_closed_doors_are_closed_for_tcp_too(proxy, certs, vpn):
    p = proxy(f"in.test=tcp://{vpn.address} allow=127.0.0.0/8",
              f"out.test=tcp://{vpn.address} deny=127.0.0.1", https=HTTPS,
              cert=certs("a.test").pem)
    context = certs.trust(False)
    assert p.client("in.test", context=context).ask(host="in.test").body == b"inside"
    talk = Talk("out.test", context, p.https[0])
    talk.raw.send(talk.hello())
    assert talk.raw.rest() == b""
    wait_for(lambda: any(a.reason == "denied" for a in p.access()), "the reason in the log")
    assert vpn.conns == 1


@pytest.mark.release
def test_a_request_for_such_a_name_on_a_connection_of_ours_is_misdirected(proxy, backend, certs,
                                                                           vpn):
    p = proxy(f"vpn.d.test=tcp://{vpn.address}", f"*.d.test={backend().url}", https=HTTPS,
              cert=certs("*.d.test").pem)
    client = p.client("x.d.test")
    assert client.ask(host="y.d.test").status == 200
    assert client.ask(host="vpn.d.test").status == 421
    assert p.ask(host="vpn.d.test").status == 404  # plain HTTP has no door to it


def test_a_hello_that_never_ends_is_gone_with_the_head_timeout(proxy, certs, vpn):
    p = proxy(f"vpn.test=tcp://{vpn.address}", https=HTTPS, cert=certs("a.test").pem,
              head_timeout="1s")
    talk = Talk("vpn.test", certs.trust(), p.https[0])
    hello = talk.hello()
    began = time.monotonic()
    talk.raw.send(hello[:-1])
    assert talk.raw.rest() == b""
    assert 0.9 < time.monotonic() - began < 3 * SLOW
    assert vpn.conns == 0


@pytest.mark.release
def test_a_tunnel_outlives_hup_and_drains(proxy, backend, certs):
    def handler(conn):
        read_hello(conn)
        while True:
            conn.send(conn.take(1))

    b = backend(handler)
    p = proxy(f"vpn.test=tcp://{b.address}", https=HTTPS, cert=certs("a.test").pem,
              drain_timeout="8s", expect=["rproxy: reloaded"])
    talk = Talk("vpn.test", certs.trust(), p.https[0])
    talk.raw.send(talk.hello(), b"1")
    assert talk.raw.take(1) == b"1"
    p.signal(signal.SIGHUP)
    p.said("reloaded")
    talk.raw.send(b"2")
    assert talk.raw.take(1) == b"2"
    p.signal(signal.SIGTERM)
    talk.raw.send(b"3")
    assert talk.raw.take(1) == b"3"
    talk.raw.close()
    assert p.wait() == 0


def test_a_client_that_resets_takes_the_backend_connection_along(proxy, backend, certs):
    ended = threading.Event()

    def handler(conn):
        try:
            conn.rest()
        finally:
            ended.set()

    b = backend(handler)
    p = proxy(f"vpn.test=tcp://{b.address}", https=HTTPS, cert=certs("a.test").pem)
    talk = Talk("vpn.test", certs.trust(), p.https[0])
    talk.raw.send(talk.hello())
    wait_for(lambda: b.conns == 1, "the backend's connection")
    talk.raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    talk.raw.close()
    assert ended.wait(PATIENCE)
