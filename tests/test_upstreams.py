"""Kinds of targets and how they are reached: unix sockets, the PROXY protocol, TLS and how a
server proves itself, targets that must be woken, and the pages that say that none was reached."""

import datetime
import hashlib
import ipaddress
import os
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time
import types

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from harness import (PATIENCE, SLOW, TROUBLE, dead_port, echo, hurry, reply, request, reset, run,
                     says, wait_for)
from test_names import net  # noqa: F401: a fixture

OK = reply(200, body=b"ok")


# ==[ unix sockets ]===============================================================================


@pytest.fixture
def path():
    """A path short enough for a socket; nothing is there yet."""
    with tempfile.TemporaryDirectory(prefix="rp") as folder:
        yield f"{folder}/s"


@pytest.mark.release
def test_a_unix_socket_that_is_not_there_and_comes_back(proxy, backend, path):
    p = proxy(f"app.test=unix:{path}", expect=[TROUBLE])
    client = p.client()
    assert client.ask().status == 502
    for _ in range(2):
        b = backend(path=path)
        assert client.ask().status == 200
        b.close()
        assert client.ask().status == 502  # nobody listens there any more
        os.unlink(path)
    assert {line.reason for line in p.access(5)} == {"-", "upstream-refused"}
    assert p.access()[0].upstream == f"unix:{path}"


def test_a_unix_socket_with_a_full_queue_is_refused_at_once(proxy, backend, path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(0)
    fill = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    for s in fill:
        s.setblocking(False)
        s.connect_ex(path)
    p = proxy(f"app.test=unix:{path},{backend().url}", expect=[TROUBLE])
    since = time.monotonic()
    assert p.ask().status == 200
    assert time.monotonic() - since < SLOW
    for s in [*fill, listener]:
        s.close()


@pytest.mark.release
def test_a_unix_socket_is_pooled_and_checked(proxy, backend, path):
    b = backend(echo, path=path)
    p = proxy(f"*=unix:{path} check=/healthz", f"t.test=unix:{path} host=target")
    wait_for(lambda: b.requests, "a check")
    assert (b.requests[0].target, b.requests[0].get("Host")) == ("/healthz", "localhost")
    client = p.client()
    assert client.ask().json()["conn"] == client.ask().json()["conn"]
    assert dict(client.ask(host="t.test").json()["fields"])["Host"] == "localhost"
    b.close()  # or the pooled connection would look like one that was lost


# ==[ the PROXY protocol ]=========================================================================


def introduced(conn):
    """Reads the header: (source, its port, destination, its port), or None for no client."""
    while len(conn.left) < 16:
        conn.more()
    if conn.left.startswith(b"PROXY "):
        words = conn.line().decode().split(" ")
        if words[1] == "UNKNOWN":
            return None
        source, dest = words[2:4]
        assert words[1] == ("TCP6" if ":" in source else "TCP4") and len(words) == 6
        return source, int(words[4]), dest, int(words[5])
    head = conn.take(16)
    assert head[:12] == b"\r\n\r\n\0\r\nQUIT\n"
    body = conn.take(struct.unpack(">H", head[14:])[0])
    if head[12] == 0x20:
        return None
    assert head[12] == 0x21 and head[13] in (0x11, 0x21)
    family, n = (socket.AF_INET, 4) if head[13] == 0x11 else (socket.AF_INET6, 16)
    ports = struct.unpack(">HH", body[2 * n:2 * n + 4])
    return (socket.inet_ntop(family, body[:n]), ports[0],
            socket.inet_ntop(family, body[n:2 * n]), ports[1])


def under_tls(conn, context):
    """The plaintext side of a TLS connection whose first bytes may be in conn.left already."""
    outside, inside = socket.socketpair()
    outside.sendall(conn.left)

    def carry(x, y):
        try:
            while data := x.recv(65536):
                y.sendall(data)
            y.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    for pair in ((conn.sock, outside), (outside, conn.sock)):
        threading.Thread(target=carry, args=pair, daemon=True).start()
    inside.settimeout(PATIENCE)
    conn.left, conn.sock = b"", context.wrap_socket(inside, server_side=True)


class Introduced:
    """A backend's handler that expects the header, and then TLS if there is a context."""

    def __init__(self, context=None):
        self.context, self.seen = context, []

    def __call__(self, conn):
        who = introduced(conn)
        if self.context:
            under_tls(conn, self.context)
        try:
            while conn.request():
                self.seen.append((conn.number, who))
                conn.send(OK)
        finally:
            conn.sock.close()


@pytest.mark.parametrize("version, kind, address", [
    ("v1", "http", "127.0.0.1"), ("v1", "http", "::1"), ("v1", "https", "127.0.0.1"),
    ("v2", "http", "127.0.0.1"), ("v2", "https", "::1"), ("v2", "unix", "127.0.0.1")])
def test_send_proxy_says_who_came_and_whereto(proxy, backend, certs, path, version, kind, address):
    """And no two clients share a connection: the second would be taken for the first."""
    seen = Introduced(server(certs("127.0.0.1")) if kind == "https" else None)
    b = backend(seen, path=path if kind == "unix" else None)
    url = b.url.replace("http:", f"{kind}:")
    shown = f"[{address}]" if ":" in address else address
    ca = f"ca={certs.root.chain}" if kind == "https" else ""
    p = proxy(f"app.test={url} send-proxy={version} {ca}", http=f"{shown}:0")
    clients = [p.client(address=address) for _ in range(2)]
    for client in clients * 2:
        assert client.ask().status == 200
    assert [who for _, who in seen.seen] == [
        (address, c.sock.getsockname()[1], address, p.http[0]) for c in clients * 2]
    by_conn = {}
    for number, who in seen.seen:
        assert by_conn.setdefault(number, who) == who


def test_send_proxy_names_the_visitor_that_is_believed(proxy, backend):
    seen = Introduced()
    p = proxy(f"app.test={backend(seen).url} send-proxy=v1", trust="loopback")
    assert p.ask("/", "X-Forwarded-For: 203.0.113.7").status == 200
    assert seen.seen[0][1][0] == "203.0.113.7"


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_check_introduces_nobody(proxy, backend, version):
    seen = Introduced()
    proxy(f"app.test={backend(seen).url} send-proxy={version} check=/healthz")
    wait_for(lambda: seen.seen, "a check")
    assert seen.seen[0][1] is None


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_send_proxy_goes_before_a_passed_through_handshake(proxy, backend, certs, version):
    seen = Introduced(server(certs("tcp.test")))
    p = proxy(f"tcp.test=tcp://{backend(seen).address} send-proxy={version}",
              https="127.0.0.1:0", cert=certs("other.test").pem, http=None)
    client = p.client("tcp.test")
    assert client.ask(host="tcp.test").body == b"ok"
    assert seen.seen[0][1] == ("127.0.0.1", client.sock.getsockname()[1], "127.0.0.1", p.https[0])


# ==[ TLS ]========================================================================================


def server(*certs):
    """A server's TLS context; the proxy speaks 1.2."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    for cert in certs:
        context.load_cert_chain(cert.chain, cert.key)
    return context


@pytest.fixture
def secure(backend):
    """secure(cert): a TLS server that shows it; `names`: whom it was asked for."""
    def make(cert):
        context, names = server(cert), []
        context.sni_callback = lambda sock, name, _: names.append(name)

        def handler(conn):
            try:
                conn.sock = context.wrap_socket(conn.sock, server_side=True)
                while conn.request():
                    conn.send(OK)
            finally:
                conn.sock.close()

        b = backend(handler)
        b.names = names
        return b
    return make


def pin_of(cert):
    return hashlib.sha256(cert.private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def alone(folder, address, ca):
    """A certificate signed by its own key, as `openssl req -x509` makes it."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.utcnow()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, address)])
    cert = (x509.CertificateBuilder().subject_name(name).issuer_name(name)
            .public_key(key.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=9))
            .add_extension(x509.BasicConstraints(ca, None), True)
            .add_extension(x509.SubjectAlternativeName(
                [x509.IPAddress(ipaddress.ip_address(address))]), False)
            .sign(key, hashes.SHA256()))
    made = types.SimpleNamespace(chain=folder / f"{cert.serial_number}.crt",
                                 key=folder / f"{cert.serial_number}.key")
    made.chain.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(key.private_bytes(serialization.Encoding.PEM,
                                           serialization.PrivateFormat.PKCS8,
                                           serialization.NoEncryption()))
    return made


@pytest.mark.parametrize("names, target, life, status", [
    (["localhost"], "localhost", (-1, 300), 200),
    (["x.test", "localhost"], "LOCALHOST", (-1, 300), 200),
    (["127.0.0.1"], "127.0.0.1", (-1, 300), 200),
    (["x.test", "127.0.0.1"], "127.0.0.1", (-1, 300), 200),
    (["x.test"], "localhost", (-1, 300), 502),
    (["*.localhost"], "localhost", (-1, 300), 502),
    (["localhost"], "127.0.0.1", (-1, 300), 502),  # an address must be named as one
    (["127.0.0.2"], "127.0.0.1", (-1, 300), 502),
    (["localhost"], "localhost", (-9, -1), 502),
    (["localhost"], "localhost", (1, 9), 502),
], ids=["name", "one-of", "address", "address-one-of", "other-name", "wildcard",
        "name-for-address", "other-address", "expired", "not-yet"])
def test_a_certificate_is_judged_by_authority_name_and_date(proxy, secure, certs, names, target,
                                                            life, status):
    """verify=off and pin: look at none of it; the system's authorities have not signed it."""
    cert = certs(*names, life=life)
    b = secure(cert)
    url = f"https://{target}:{b.port}"
    p = proxy(f"ca.test={url} ca={certs.root.chain}", f"off.test={url} verify=off",
              f"pin.test={url} verify=pin:{pin_of(cert)}", f"bundle.test={url}",
              f"wrong.test={url} verify=pin:{'1' * 64}", expect=[TROUBLE])
    client = p.client()
    assert client.ask(host="ca.test").status == status
    for host, wanted in (("off.test", 200), ("pin.test", 200), ("bundle.test", 502),
                         ("wrong.test", 502)):
        assert client.ask(host=host).status == wanted, host
    assert {line.reason for line in p.access(5) if line.status == "502"} == {"upstream-tls"}
    # RFC 6066 3: an address is no name
    assert set(b.names) == {None if target[0].isdigit() else "localhost"}


@pytest.mark.release
@pytest.mark.parametrize("ca", [True, False])
def test_a_self_signed_certificate_is_its_own_authority(proxy, secure, tmp_path, ca):
    """ca= with the server's own certificate, as people do; another one does not do."""
    own, other = (alone(tmp_path, "127.0.0.1", ca) for _ in range(2))
    b = secure(own)
    p = proxy(f"own.test=https://127.0.0.1:{b.port} ca={own.chain}",
              f"other.test=https://127.0.0.1:{b.port} ca={other.chain}", expect=[TROUBLE])
    assert p.ask(host="own.test").status == 200
    assert p.ask(host="other.test").status == 502


def test_connections_are_not_shared_between_ways_to_prove(proxy, secure, certs):
    """A connection that nobody judged is not for a route that wants it judged."""
    b = secure(certs("x.test"))
    url = f"https://127.0.0.1:{b.port}"
    p = proxy(f"off.test={url} verify=off", f"ca.test={url} ca={certs.root.chain}",
              expect=[TROUBLE])
    client = p.client()
    assert client.ask(host="off.test").status == 200
    assert client.ask(host="ca.test").status == 502
    assert client.ask(host="off.test").status == 200
    assert b.conns == 2


@pytest.mark.release
def test_a_tls_connection_is_kept_for_the_next_request(proxy, secure, certs):
    b = secure(certs("127.0.0.1"))
    client = proxy(f"app.test=https://127.0.0.1:{b.port} ca={certs.root.chain}").client()
    assert [client.ask().status for _ in range(5)] == [200] * 5
    assert b.conns == 1


def test_a_tls_target_is_checked(proxy, secure, certs, backend, clock):
    b = secure(certs("127.0.0.1"))
    p = proxy(f"app.test=https://127.0.0.1:{b.port},{backend().url} check=/healthz "
              f"verify=pin:{pin_of(certs('127.0.0.1'))}", env=clock(speed=hurry(10)),
              expect=[TROUBLE])
    wait_for(lambda: len(b.requests) >= 2, "checks", 30 * SLOW)
    assert {r.target for r in b.requests} == {"/healthz"}
    assert not [line for line in p.lines if "fails" in line]


@pytest.mark.parametrize("silent", [True, False])
def test_a_target_without_tls_is_replaced_by_the_next(proxy, backend, secure, certs, silent):
    """The handshake belongs to --connect-timeout; and alone it is 504 or 502."""
    bad = backend(lambda conn: conn.rest() if silent else conn.more() or reset(conn.sock))
    good = secure(certs("127.0.0.1"))
    ca = f"ca={certs.root.chain}"
    p = proxy(f"both.test=https://{bad.address},https://{good.address} {ca}",
              f"bad.test=https://{bad.address} {ca}", connect_timeout="1s", expect=[TROUBLE])
    since = time.monotonic()
    assert p.ask(host="both.test").status == 200
    assert (time.monotonic() - since > 0.9) == silent
    assert p.ask(host="bad.test").status == (504 if silent else 502)
    assert p.access(2)[1].reason == ("upstream-timeout" if silent else "upstream-tls")


def test_a_passed_through_target_that_was_out_is_used_again(proxy, backend, certs, clock):
    """That it can be reached is all that is ever known of it."""
    context, port = server(certs("tcp.test")), dead_port()

    def named(name):
        def handler(conn):
            try:
                conn.sock = context.wrap_socket(conn.sock, server_side=True)
                says(reply(200, body=name))(conn)
            finally:
                conn.sock.close()
        return handler

    p = proxy(f"tcp.test=tcp://127.0.0.1:{port},tcp://{backend(named(b'two')).address}",
              https="127.0.0.1:0", http=None, cert=certs("other.test").pem,
              env=clock(speed=hurry(10)), connect_timeout="30s", expect=[TROUBLE])

    def ask():
        client = p.client("tcp.test")
        body = client.ask(host="tcp.test").body
        client.close()
        return body

    assert ask() == b"two"
    backend(named(b"one"), port=port)
    wait_for(lambda: ask() == b"one", "the first target")
    assert [ask() for _ in range(3)] == [b"one"] * 3


class Scripted:
    """A TLS server whose flights are tampered with: change(tls, out, done) returns what goes out
    instead of what OpenSSL wants to send; done: the handshake is over with it."""

    def __init__(self, context, change):
        self.context, self.change = context, change

    def __call__(self, conn):
        come, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls, done, got = self.context.wrap_bio(come, out, server_side=True), False, b""
        while data := conn.sock.recv(65536):
            come.write(data)
            try:
                if not done:
                    tls.do_handshake()
                    done = True
                    conn.send(self.change(tls, out, done))
                while b"\r\n\r\n" not in got:
                    got += tls.read(65536)
                got = b""
                tls.write(OK)
                conn.send(out.read())
            except ssl.SSLWantReadError:
                conn.send(self.change(tls, out, done) if not done else b"")
            except ssl.SSLError:
                return  # an alert


def untouched(tls, out, done):
    return out.read()


def plain_first(tls, out, done):
    """A record of application data in front of everything, in the clear."""
    flight = out.read()
    return flight if done else b"\x17\x03\x03\x00\x05hello" + flight


def plain_before_finished(tls, out, done):
    flight = out.read()
    return b"\x17\x03\x03\x00\x05hello" + flight if done else flight


def no_tls(tls, out, done):
    return out.read() if done else reply(200, body=b"evil")


def right_behind(tls, out, done):
    """Well encrypted, but an answer to a request that nobody made."""
    if done:
        tls.write(reply(200, body=b"evil"))
    return out.read()


@pytest.mark.release
@pytest.mark.parametrize("change, reason", [
    (plain_first, "upstream-tls"), (plain_before_finished, "upstream-tls"),
    (no_tls, "upstream-tls"), (right_behind, "upstream-bad")])
def test_bytes_before_the_handshake_ends_are_an_error(proxy, backend, certs, change, reason):
    context = server(certs("127.0.0.1"))
    p = proxy(*(f"{h}.test=https://{backend(Scripted(context, x)).address} ca={certs.root.chain}"
                for h, x in (("bad", change), ("sane", untouched))), expect=[TROUBLE])
    assert p.ask(host="sane.test").body == b"ok"
    assert p.ask(host="bad.test").status == 502
    assert p.access(2)[1].reason == reason


def test_while_the_clock_is_before_2024_dates_are_not_judged(proxy, secure, certs, clock,
                                                             tmp_path):
    """A router without a battery: names and authorities are judged all the same."""
    shown = {"good": certs("127.0.0.1"), "old": certs("127.0.0.1", life=(-9, -1)),
             "other": certs("x.test"), "stranger": alone(tmp_path, "127.0.0.1", False)}
    wall = tmp_path / "wall"
    wall.write_text("1577836800")  # 2020
    p = proxy(*(f"{h}.test=https://127.0.0.1:{secure(c).port} ca={certs.root.chain}"
                for h, c in shown.items()),
              env=clock(speed=hurry(10), wall=wall), expect=[TROUBLE, "rproxy: the clock says .*"])

    def statuses():
        return [p.ask(host=f"{h}.test").status for h in shown]

    assert statuses() == [200, 200, 502, 502]
    wall.write_text(str(int(time.time())))
    time.sleep(5 / hurry(10))  # 5 s of its clock: connections that were judged before are gone
    assert statuses() == [200, 502, 502, 502]
    assert len([line for line in p.lines if "a time before 2024" in line]) == 1


def test_a_clock_before_2024_is_said_when_a_reload_brings_the_first_such_target(
        proxy, secure, certs, clock, tmp_path):
    wall, conf = tmp_path / "wall", tmp_path / "conf"
    wall.write_text("1577836800")
    conf.write_text("http 127.0.0.1:0\nroute a.test=status:204\n")
    p = proxy(args=["-c", str(conf)], env=clock(wall=wall),
              expect=[TROUBLE, "rproxy: reloaded", "rproxy: the clock says .*"])
    url = f"https://127.0.0.1:{secure(certs('127.0.0.1')).port}"
    for i in range(2):
        conf.write_text(f"http 127.0.0.1:0\nroute b.test={url} ca={certs.root.chain}\n")
        p.signal(signal.SIGHUP)
        wait_for(lambda: p.lines.count("rproxy: reloaded") > i, "the reload")
    assert p.ask(host="b.test").status == 200
    assert len([line for line in p.lines if "a time before 2024" in line]) == 1


# ==[ waking ]=====================================================================================

MAC = "00:11:32:aa:bb:cc"
PACKET = b"\xff" * 6 + bytes.fromhex(MAC.replace(":", "")) * 16
HTML = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
WOKEN = [TROUBLE, r"rproxy: target .*: sent a Wake-on-LAN packet"]


class Bed:
    """Where packets for the sleeper go; `setting` sends them here."""

    def __init__(self):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.settimeout(PATIENCE)
        self.setting = f"wake={MAC}@127.0.0.1:{self.sock.getsockname()[1]}"

    def packet(self):
        return self.sock.recv(2048)

    def quiet(self):
        self.sock.settimeout(0.05)
        try:
            self.sock.recv(2048)
            return False
        except TimeoutError:
            return True


@pytest.fixture
def bed():
    b = Bed()
    yield b
    b.sock.close()


@pytest.mark.release
def test_a_browser_gets_a_page_that_reloads_itself(proxy, bed):
    p = proxy(f"nas.test=http://127.0.0.1:{dead_port()} {bed.setting}", expect=WOKEN)
    since = time.monotonic()
    answer = p.ask("/", HTML, host="nas.test")
    assert time.monotonic() - since < SLOW, "a person waits"
    assert answer.status == 503 and int(answer.get("Retry-After")) > 0
    assert b"http-equiv=refresh" in answer.body and b"is starting" in answer.body
    assert len(answer.body) < 2000 and b"127.0.0.1" not in answer.body
    assert bed.packet() == PACKET
    assert p.access()[0].reason == "upstream-waking"


@pytest.mark.release
def test_a_program_waits_for_the_target(proxy, backend, bed):
    port = dead_port()
    p = proxy(f"nas.test=http://127.0.0.1:{port} {bed.setting}", expect=WOKEN)
    clients = [p.client() for _ in range(4)]
    clients[0].send(request(host="nas.test"))
    clients[1].send(request("/", "Accept: application/json", host="nas.test"))
    clients[2].send(request(host="nas.test", method="POST", body=b"x" * 50))
    clients[3].send(request("/", "Content-Length: 5", host="nas.test", method="PUT"))
    assert bed.packet() == PACKET
    time.sleep(0.7)
    b = backend(port=port)
    clients[3].send(b"later")
    assert [c.answer().status for c in clients] == [200] * 4
    assert sorted((r.method, r.body) for r in b.requests) == [
        ("GET", b""), ("GET", b""), ("POST", b"x" * 50), ("PUT", b"later")]
    assert bed.quiet(), "a second packet"


def test_a_program_gives_up_after_the_connect_timeout(proxy, bed):
    p = proxy(f"nas.test=http://127.0.0.1:{dead_port()} {bed.setting}", connect_timeout="2s",
              expect=WOKEN)
    since = time.monotonic()
    answer = p.ask(host="nas.test")
    assert 1.2 < time.monotonic() - since < 2 + SLOW
    assert answer.status == 503 and int(answer.get("Retry-After")) > 0
    assert b"refresh" not in answer.body
    assert p.access()[0].reason == "upstream-waking"


def test_a_client_may_go_away_while_it_waits(proxy, bed):
    p = proxy(f"nas.test=http://127.0.0.1:{dead_port()} {bed.setting}", expect=WOKEN)
    client = p.client()
    client.send(request(host="nas.test"))
    assert bed.packet() == PACKET
    reset(client.sock)
    assert p.access()[0].reason == "client-gone"


def test_packets_go_out_at_most_every_ten_seconds(proxy, bed, clock):
    speed = hurry(20)
    p = proxy(f"nas.test=http://127.0.0.1:{dead_port()} {bed.setting}", log="none",
              env=clock(speed=speed), expect=WOKEN)
    client, times = p.client(), []

    def listen():
        for _ in range(4):
            bed.packet()
            times.append(time.monotonic())

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    while listener.is_alive():
        assert client.ask("/", HTML, host="nas.test").status == 503
    gaps = [(b - a) * speed for a, b in zip(times, times[1:])]
    assert all(9 < gap < 11 + 5 * SLOW for gap in gaps), gaps


def test_a_silent_target_is_woken_before_the_wait_is_over(proxy, bed, blackhole):
    """As a sleeping machine is: no answer at all. The packet must not come after the patience."""
    p = proxy(f"nas.test=http://127.0.0.1:{blackhole} {bed.setting}", connect_timeout="2s",
              expect=WOKEN)
    client, since = p.client(), time.monotonic()
    client.send(request("/", HTML, host="nas.test"))
    assert bed.packet() == PACKET
    early = time.monotonic() - since
    answer = client.answer()
    assert early < time.monotonic() - since - 0.3 and time.monotonic() - since > 1.9
    assert answer.status == 503 and b"refresh" in answer.body


def test_a_target_that_is_awake_is_left_in_peace(proxy, backend, bed):
    """Slow or broken is not asleep."""
    def handler(conn):
        r = conn.request()
        time.sleep(1.2)
        if r and r.target != "/broken":
            conn.send(OK)

    p = proxy(f"nas.test={backend(handler).url} {bed.setting}", expect=[TROUBLE])
    clients = [p.client(), p.client()]
    for client, target in zip(clients, ("/", "/broken")):
        client.send(request(target, HTML, host="nas.test"))
    assert [c.answer().status for c in clients] == [200, 502]
    assert bed.quiet()


def test_a_passed_through_connection_wakes_its_target_too(proxy, backend, bed, certs):
    port = dead_port()
    p = proxy(f"nas.test=tcp://127.0.0.1:{port} {bed.setting}", https="127.0.0.1:0", http=None,
              cert=certs("other.test").pem, expect=WOKEN)
    context = server(certs("nas.test"))

    def handler(conn):
        try:
            conn.sock = context.wrap_socket(conn.sock, server_side=True)
            says(OK)(conn)
        finally:
            conn.sock.close()

    def wake():
        if bed.packet() == PACKET:
            backend(handler, port=port)

    waker = threading.Thread(target=wake)
    waker.start()
    client = p.client("nas.test")
    assert client.ask(host="nas.test").body == b"ok"
    waker.join()


def test_without_an_address_the_packet_is_broadcast(net, proxy):  # noqa: F811
    for words in ("link add v0 type veth peer name v1", "link set v0 up", "link set v1 up",
                  "addr add 10.88.0.1/24 dev v0", "route add default dev v0"):
        subprocess.run(["ip", *words.split()], check=True)
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    wire.bind(("v1", 0))
    wire.settimeout(PATIENCE)
    p = proxy(f"nas.test=http://127.0.0.1:{dead_port()} wake={MAC}", expect=WOKEN)
    assert p.ask("/", HTML, host="nas.test").status == 503
    frame = wire.recv(2048)
    wire.close()
    assert frame[:6] == b"\xff" * 6 and frame[30:34] == b"\xff" * 4  # Ethernet, then IPv4
    assert struct.unpack(">H", frame[36:38])[0] == 9
    assert frame[42:42 + len(PACKET)] == PACKET


# ==[ pages ]======================================================================================


@pytest.mark.parametrize("size", [20, 65536])
def test_an_error_page_of_ones_own(proxy, backend, blackhole, bed, tmp_path, size):
    page = tmp_path / "page.html"
    text = (b"<h1>Back soon</h1>" + b"." * size)[:size]
    page.write_bytes(text)
    p = proxy(f"e502.test=http://127.0.0.1:{dead_port()} error-page={page}",
              f"e504.test=http://127.0.0.1:{blackhole} error-page={page}",
              f"e503.test=http://127.0.0.1:{dead_port()} error-page={page} {bed.setting}",
              f"b502.test={backend(says(reply(502, body=b'its own'))).url} error-page={page}",
              f"e403.test=http://127.0.0.1:1 error-page={page} deny=0.0.0.0/0",
              f"plain.test=http://127.0.0.1:{dead_port()}",
              connect_timeout="300ms", expect=WOKEN)
    client = p.client()
    for status in (502, 503, 504):
        answer = client.ask(host=f"e{status}.test")
        assert (answer.status, answer.body) == (status, text)
        assert answer.get("Content-Type").startswith("text/html")
        assert int(answer.get("Retry-After")) > 0
        head = client.ask(host=f"e{status}.test", method="HEAD")
        assert (head.status, head.body, head.get("Content-Length")) == (status, b"", str(size))
    assert client.ask(host="b502.test").body == b"its own"
    denied, plain = client.ask(host="e403.test"), client.ask(host="plain.test")
    assert denied.status == 403 and denied.body != text
    assert plain.status == 502 and plain.body != text and len(plain.body) < 2000
    browser = client.ask("/", HTML, host="e503.test")
    assert b"refresh" in browser.body  # who is told to wait must not have to do it by hand


def test_an_error_page_that_does_not_fit_is_refused(tmp_path):
    page = tmp_path / "page.html"
    page.write_bytes(b"x" * 65537)
    for path in (page, tmp_path / "none"):
        status, _, said = run("--http", "127.0.0.1:0", "--route",
                              f"a.test=http://127.0.0.1 error-page={path}")
        assert status == 2 and str(path) in said


def test_an_error_page_is_read_again_on_hup(proxy, tmp_path):
    page = tmp_path / "page.html"
    page.write_bytes(b"old")
    p = proxy(f"a.test=http://127.0.0.1:{dead_port()} error-page={page}",
              expect=[TROUBLE, "rproxy: reloaded"])
    assert p.ask(host="a.test").body == b"old"
    page.write_bytes(b"new")
    assert p.ask(host="a.test").body == b"old"
    p.signal(signal.SIGHUP)
    p.said("reloaded")
    assert p.ask(host="a.test").body == b"new"


