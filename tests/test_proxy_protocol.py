"""The PROXY protocol, versions 1 and 2, as HAProxy's proxy-protocol.txt has it: required from the
peers of --accept-proxy (here 127.0.0.2), refused from all others, before TLS and before HTTP."""

import socket
import ssl
import struct
import time

import pytest

from harness import SLOW, Client, proxy_line, request

CARRIER = "127.0.0.2"
SIGN = b"\r\n\r\n\0\r\nQUIT\n"
GET = request("/x", "Connection: close")
WAYS = pytest.mark.parametrize("way", ["http", "https"])


def tlv(kind, value):
    return struct.pack("!BH", kind, len(value)) + value


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def v2(src="192.0.2.1", tlvs=b"", command=0x21, family=None, addresses=None, checksum=None,
       size=None):
    """A version 2 header. checksum: True adds the right one, a number a wrong one."""
    if addresses is None:
        kind = socket.AF_INET6 if ":" in src else socket.AF_INET
        to = "2001:db8::2" if ":" in src else "198.51.100.2"
        addresses = (socket.inet_pton(kind, src) + socket.inet_pton(kind, to)
                     + struct.pack("!HH", 40000, 443))
    if family is None:
        family = 0x21 if ":" in src else 0x11
    if checksum is not None:
        tlvs += tlv(3, b"\0\0\0\0")
    body = addresses + tlvs
    head = SIGN + bytes([command, family]) + struct.pack(
        "!H", len(body) if size is None else size) + body
    if checksum is not None:
        head = head[:-4] + struct.pack("!I", crc32c(head) ^ (0 if checksum is True else checksum))
    return head


ALL_TLVS = (tlv(1, b"h2") + tlv(2, b"app.test") + tlv(4, b"\0" * 20) + tlv(5, b"u" * 128)
            + tlv(0x20, b"\x01\0\0\0\0" + tlv(0x21, b"TLSv1.3")) + tlv(0x30, b"ns")
            + tlv(0xE0, b"own") + tlv(0xEE, b""))

GOOD = {  # header, and whose the connection is
    "v1-tcp4": (proxy_line("192.0.2.1"), "192.0.2.1"),
    "v1-tcp6": (proxy_line("2001:db8::1"), "2001:db8::1"),
    "v1-tcp6-upper": (b"PROXY TCP6 2001:DB8:0::1 ::1 1 2\r\n", "2001:db8::1"),
    "v1-tcp6-mapped": (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:1.2.3.4 1 2\r\n", "192.0.2.1"),
    "v1-tcp4-ports": (b"PROXY TCP4 192.0.2.1 255.255.255.255 65535 0\r\n", "192.0.2.1"),
    "v1-unknown": (b"PROXY UNKNOWN\r\n", CARRIER),
    "v1-unknown-more": (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", CARRIER),
    "v1-107-bytes": (b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", CARRIER),
    "v2-inet": (v2(), "192.0.2.1"),
    "v2-inet6": (v2("2001:db8::1"), "2001:db8::1"),
    "v2-inet6-mapped": (v2("::ffff:192.0.2.1"), "192.0.2.1"),
    "v2-local": (v2(command=0x20, family=0, addresses=b""), CARRIER),
    "v2-local-with-address": (v2(command=0x20), CARRIER),
    "v2-local-with-junk": (v2(command=0x20, addresses=b"\x01\xff\xff\xff"), CARRIER),
    "v2-unspec": (v2(family=0, addresses=b""), CARRIER),
    "v2-unix": (v2(family=0x31, addresses=b"/a".ljust(108, b"\0") * 2), CARRIER),
    "v2-udp": (v2(family=0x12), CARRIER),
    "v2-tlvs": (v2(tlvs=ALL_TLVS), "192.0.2.1"),
    "v2-tlvs-inet6": (v2("2001:db8::1", tlvs=ALL_TLVS), "2001:db8::1"),
    "v2-checksum": (v2(checksum=True), "192.0.2.1"),
    "v2-checksum-tlvs": (v2(tlvs=ALL_TLVS, checksum=True), "192.0.2.1"),
    "v2-large": (v2(tlvs=tlv(4, b"x" * (1024 - 12 - 3))), "192.0.2.1"),
}

BAD = {
    "v1-lower": b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    "v1-tcp5": b"PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
    "v1-no-family": b"PROXY \r\n",
    "v1-nothing": b"PROXY\r\n",
    "v1-no-port": b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
    "v1-too-many": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
    "v1-two-blanks": b"PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
    "v1-tab": b"PROXY\tTCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    "v1-blank-end": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
    "v1-wrong-family": b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
    "v1-wrong-family-6": b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
    "v1-mixed": b"PROXY TCP4 192.0.2.1 2001:db8::2 1 2\r\n",
    "v1-address": b"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
    "v1-zeros": b"PROXY TCP4 192.0.02.1 192.0.2.2 1 2\r\n",
    "v1-port": b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
    "v1-port-zeros": b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
    "v1-port-sign": b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
    "v1-lf": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
    "v1-cr": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\rx",
    "v1-nul": b"PROXY TCP4 192.0.2.1\0 192.0.2.2 1 2\r\n",
    "v1-108-bytes": b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    "v1-endless": b"PROXY UNKNOWN " + b"x" * 5000,
    "v2-version-1": v2(command=0x11),
    "v2-version-3": v2(command=0x31),
    "v2-command": v2(command=0x22),
    "v2-family": v2(family=0x41),
    "v2-transport": v2(family=0x13),
    "v2-short-inet": v2(addresses=b"\0" * 11),
    "v2-short-inet6": v2("2001:db8::1", addresses=b"\0" * 35),
    "v2-short-unix": v2(family=0x31, addresses=b"\0" * 215),
    "v2-tlv-cut": v2(tlvs=b"\x04\0"),
    "v2-tlv-long": v2(tlvs=b"\x04\0\x09abc"),
    "v2-checksum-wrong": v2(checksum=1),
    "v2-checksum-wrong-tlvs": v2(tlvs=ALL_TLVS, checksum=0x80000000),
    "v2-checksum-short": v2(tlvs=tlv(3, b"\0\0\0")),
    "v2-checksum-twice": v2(tlvs=tlv(3, b"\0\0\0\0"), checksum=True),
    "v2-oversized": v2(tlvs=tlv(4, b"x" * (1025 - 12 - 3))),
    "v2-huge": v2(size=65535),
    "v2-signature": b"\r\n\r\n\0\r\nQUIT\r" + v2()[12:],
    "http": request("/x"),
    "crlf": b"\r\n\r\n" + request("/x"),
    "junk": b"\0\0\0\0",
}


@pytest.fixture
def site(proxy, backend, certs):
    def make(*settings, **options):
        s = type("Site", (), {})()
        s.backend, s.context = backend(), certs.trust()
        s.proxy = proxy(" ".join([f"app.test={s.backend.url} plain", *settings]),
                        https="127.0.0.1:0", cert=certs("app.test").pem, accept_proxy=CARRIER,
                        **options)
        return s
    return make


def start_tls(client, context):
    """TLS on a connection that has begun."""
    client.sock = context.wrap_socket(client.sock, server_hostname="app.test")
    Client.every.append(client.sock)
    return client


def connect(s, way, source=CARRIER, first=b""):
    return Client((s.proxy.http if way == "http" else s.proxy.https)[0], source=source, first=first)


@pytest.mark.release
@WAYS
def test_each_good_header(site, way):
    s = site()
    for name, (header, peer) in GOOD.items():
        client = connect(s, way, first=header)
        if way == "https":
            start_tls(client, s.context)
        answer = client.ask("/x")
        assert answer.status == 200, name
        got = dict(answer.json()["fields"])
        assert got["X-Real-IP"] == got["X-Forwarded-For"] == peer, name
        assert got["X-Forwarded-Proto"] == way
        client.close()
    assert [a.peer for a in s.proxy.access(len(GOOD))] == [peer for _, peer in GOOD.values()]


@pytest.mark.release
@WAYS
def test_a_bad_header_closes_without_a_byte(site, way):
    s = site(expect=[r"rproxy: (\d+ times more: )?\S+: no PROXY header, which accept-proxy expects of it"])
    for name, header in BAD.items():
        client = connect(s, way, first=header)
        assert client.rest(patience=5 * SLOW) == b"", name  # at once, not after --head-timeout
        client.close()
    assert not s.backend.requests
    assert s.proxy.ask("/x").status == 200


def test_header_and_request_in_one_segment(site):
    s = site()
    for header, peer in GOOD.values():
        client = connect(s, "http", first=header + GET)
        assert dict(client.answer().json()["fields"])["X-Real-IP"] == peer


def test_header_and_hello_in_one_segment(site):
    s = site()
    for header, peer in (GOOD["v1-tcp4"], GOOD["v2-tlvs"]):
        hello, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = s.context.wrap_bio(hello, out, server_hostname="app.test")
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        client = connect(s, "https", first=header + out.read())
        while True:  # the rest of the handshake, and one exchange
            hello.write(client.sock.recv(65536))
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                client.send(out.read())
        client.send(out.read())
        tls.write(GET)
        client.send(out.read())
        got = b""
        while b'"X-Real-IP", "' + peer.encode() not in got:
            data = client.sock.recv(65536)
            assert data, got
            hello.write(data)
            try:
                got += tls.read(65536)
            except ssl.SSLWantReadError:
                pass


@WAYS
def test_header_byte_by_byte(site, way):
    s = site()
    for name in ("v1-tcp4", "v1-107-bytes", "v2-inet6", "v2-checksum-tlvs"):
        header, peer = GOOD[name]
        client = connect(s, way)
        for at in range(len(header)):
            client.send(header[at:at + 1])
            time.sleep(0.0005)
        if way == "https":
            start_tls(client, s.context)
        assert dict(client.ask("/x").json()["fields"])["X-Real-IP"] == peer, name


@WAYS
def test_a_late_header_closes(site, way):
    """--head-timeout holds for the header, from the beginning of the connection, absolutely."""
    s = site(head_timeout="400ms")
    silent = connect(s, way)
    began = time.monotonic()
    assert silent.rest() == b""
    assert 0.3 <= time.monotonic() - began <= 3 * SLOW
    slow = connect(s, way)
    began = time.monotonic()
    with pytest.raises(OSError):
        for byte in v2(tlvs=ALL_TLVS)[:150]:
            slow.send(bytes([byte]))
            time.sleep(0.03)
        raise AssertionError("a dribbled header was waited for")
    assert time.monotonic() - began <= 3 * SLOW
    assert not s.backend.requests


@WAYS
def test_a_header_that_ends_with_the_connection_is_none(site, way):
    s = site()
    for header, _ in GOOD.values():
        client = connect(s, way, first=header[:-1])
        client.sock.shutdown(socket.SHUT_WR)
        assert client.rest() == b""
    assert not s.backend.requests


@WAYS
def test_from_others_a_header_is_a_bad_request(site, way):
    s = site()
    for name, (header, _) in GOOD.items():
        client = connect(s, way, source="127.0.0.1", first=header + GET)
        got = client.rest()
        if way == "http" or name.startswith("v1"):  # who speaks text gets an answer, on TLS, too
            assert got.startswith(b"HTTP/1.1 400 "), (name, got[:60])
        else:
            assert got[:1] == b"\x15" and len(got) == 7, (name, got[:60])  # an alert
        client.close()
    assert not s.backend.requests


@WAYS
def test_a_second_header_is_a_bad_request(site, way):
    s = site()
    for second in (proxy_line("6.6.6.6"), v2("6.6.6.6")):
        client = connect(s, way, first=proxy_line("192.0.2.1"))
        if way == "https":
            start_tls(client, s.context)
        client.send(second + GET)
        assert client.answer().status == 400
    assert not s.backend.requests


def test_after_a_refused_tls_name_too_the_peer_is_the_headers(site):
    """The alert goes to the client, and nothing else is said."""
    s = site()
    client = connect(s, "https", first=proxy_line("192.0.2.1"))
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        s.context.wrap_socket(client.sock, server_hostname="other.test")


def test_the_header_decides_for_lists(site):
    s = site("allow=192.0.2.0/24")
    for header, status in ((v2("192.0.2.7"), 200), (v2("192.0.3.7"), 403),
                           (v2(command=0x20), 403)):
        assert connect(s, "http", first=header + GET).answer().status == status


def test_trust_goes_by_the_header(site):
    """A CDN's address behind a balancer: the balancer names the CDN, the CDN the visitor."""
    s = site(trust="192.0.2.0/24")
    for peer, want in (("192.0.2.7", "1.2.3.4"), ("192.0.3.7", "192.0.3.7")):
        client = connect(s, "http", first=proxy_line(peer) + request(
            "/", "X-Forwarded-For: 1.2.3.4"))
        assert dict(client.answer().json()["fields"])["X-Real-IP"] == want


def test_tcp_routes_behind_a_balancer(proxy, backend):
    """The header is taken off, or written anew where send-proxy= wants one."""
    got = []

    def handler(conn):
        got.append(conn.sock.recv(4096))

    b = backend(handler)
    p = proxy(f"app.test=tcp://{b.address} allow=192.0.2.0/24",
              f"two.test=tcp://{b.address} send-proxy=v1", https="127.0.0.1:0", http=None,
              accept_proxy=CARRIER)
    for name, start in (("app.test", b"\x16\x03"), ("two.test", b"PROXY TCP4 192.0.2.1 ")):
        out = ssl.MemoryBIO()
        tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        client = Client(p.https[0], source=CARRIER, first=proxy_line("192.0.2.1") + out.read())
        assert client.rest() == b""
        client.close()
        assert got.pop().startswith(start)
    assert [(a.peer, a.vhost) for a in p.access(2)] == [("192.0.2.1", "app.test"),
                                                        ("192.0.2.1", "two.test")]


def test_the_status_page_needs_none(proxy, backend):
    p = proxy(f"app.test={backend().url}", status="127.0.0.1:0", accept_proxy="127.0.0.0/8")
    assert Client(p.status[0]).ask("/", host="127.0.0.1").status == 200
