"""What a TLS handshake chooses, what is resumed, how records are cut, and how connections end."""

import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest

from harness import PATIENCE, SLOW, Talk, half_close, reply, request, reset, says, wait_for

HTTPS = "127.0.0.1:0"
DATA = 23  # type of a record


def tls12(certs, suites=None):
    context = certs.trust()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    if suites:
        context.set_ciphers(suites)
    return context


def s_client(p, *args, name="a.test"):
    """OpenSSL's word on one handshake."""
    done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{p.https[0]}",
                           *(["-servername", name] if name else ["-noservername"]), *args],
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE)
    return (done.stdout + done.stderr).decode("latin-1")


# ==[ which certificate ]==========================================================================


@pytest.fixture
def both(proxy, backend, certs):
    """One name with an ECDSA and an RSA certificate."""
    return proxy(f"a.test={backend().url}", https=HTTPS,
                 cert=[certs("a.test", kind="rsa").pem, certs("a.test").pem])


@pytest.mark.release
@pytest.mark.parametrize("offer, shown", [
    (["-sigalgs", "RSA+SHA256"], "RSA"), (["-sigalgs", "RSA+SHA384:RSA+SHA512"], "RSA"),
    (["-sigalgs", "ECDSA+SHA256"], "ECDSA"), (["-sigalgs", "ECDSA+SHA512"], "ECDSA"),
    (["-sigalgs", "ECDSA+SHA384:RSA+SHA256"], "ECDSA"),
    (["-curves", "X25519"], "RSA"),  # RFC 8422 5.1: the ECDSA key is on P-256
    (["-curves", "P-256"], "ECDSA"), (["-curves", "P-521:P-384:X25519"], "RSA"),
    (["-cipher", "aRSA"], "RSA"), (["-cipher", "aECDSA"], "ECDSA"), ([], "ECDSA")])
def test_the_certificate_fits_what_the_client_offers(both, offer, shown):
    said = s_client(both, "-tls1_2", *offer)
    assert f"Cipher is ECDHE-{shown}-" in said, said


def test_the_suite_is_the_one_that_the_processor_does_fast(both):
    """Whatever the client's order: AES first where there are instructions for it that BearSSL
    knows, else ChaCha20, which is several times faster than AES in plain code."""
    flags = open("/proc/cpuinfo").read()
    fast = "AES128-GCM-SHA256" if re.search(r"^flags\s*:.*\baes\b", flags, re.M) or \
        re.search(r"POWER([89]|1\d)", flags) else "CHACHA20-POLY1305"
    names = [f"ECDHE-ECDSA-{s}" for s in ("AES256-GCM-SHA384", "CHACHA20-POLY1305",
                                          "AES128-GCM-SHA256")]
    for order in (names, names[::-1], names[1:] + names[:1]):
        said = s_client(both, "-tls1_2", "-cipher", ":".join(order))
        assert f"Cipher is ECDHE-ECDSA-{fast}" in said, said


@pytest.mark.release
@pytest.mark.parametrize("offer", [
    ["-sigalgs", "RSA-PSS+SHA256:RSA+SHA1:ECDSA+SHA1"],  # no hash that we would sign
    ["-curves", "P-521"], ["-cipher", "AES128-SHA:ECDHE-RSA-AES128-SHA256:DHE-RSA-AES128-SHA"]])
def test_nothing_in_common_is_said(both, offer):
    said = s_client(both, "-tls1_2", *offer, "-cipher", "ALL:@SECLEVEL=0") \
        if "-sigalgs" in offer else s_client(both, "-tls1_2", *offer)
    assert "handshake failure" in said and "no peer certificate available" in said, said
    assert both.client("a.test").ask(host="a.test").status == 200


@pytest.mark.parametrize("curve, name", [("X25519", "X25519"), ("P-256", "P-256"),
                                         ("P-384:P-256", "P-256")])
def test_curves(both, curve, name):
    assert f"Server Temp Key: {'X25519' if name == 'X25519' else 'ECDH, prime256v1'}" in s_client(
        both, "-tls1_2", "-curves", curve, "-cipher", "aRSA" if name == "X25519" else "ALL")


def test_a_certificate_on_p384(proxy, backend, certs):
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=certs("a.test", kind="p384").pem)
    client = p.client("a.test")
    assert client.sock.cipher()[0].startswith("ECDHE-ECDSA-")
    assert client.ask(host="a.test").status == 200


def test_a_large_rsa_key(proxy, backend, certs):
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=certs("a.test", kind="rsa4096").pem)
    assert p.client("a.test").ask(host="a.test").status == 200


@pytest.mark.release
def test_a_client_without_sni(proxy, backend, certs):
    rule = f"*={backend().url}"
    pems = [certs("a.test").pem, certs("b.test").pem, certs("b.test", kind="rsa").pem]
    plain = proxy(rule, https=HTTPS, cert=pems)
    said = s_client(plain, name=None)
    assert "unrecognized name" in said and "no peer certificate available" in said
    p = proxy(rule, https=HTTPS, cert=pems, default_cert="b.test")
    for kind in ("ECDSA", "RSA"):  # both kinds are there for it, too
        assert f"Cipher is ECDHE-{kind}-" in s_client(p, "-cipher", f"a{kind}", name=None)
    for name, sni in (("b.test", "b.test"), ("a.test", "a.test")):
        assert f"CN = {name}" in s_client(p, name=sni)
    assert "unrecognized name" in s_client(p, name="c.test")


# ==[ resumption ]=================================================================================


def session_of(p, context, name="a.test"):
    client = p.client(name, context=context)
    assert client.ask(host=name).status == 200
    session = client.sock.session
    client.close()
    return session


def resumed(p, context, session, name="a.test"):
    client = p.client(name, context=context, session=session)
    assert client.ask(host=name).status == 200
    reused = client.sock.session_reused
    client.close()
    return reused


@pytest.mark.release
def test_sessions_survive_hup_with_the_same_certificate(proxy, backend, certs, tmp_path):
    pem = tmp_path / "a.pem"
    pem.write_bytes(certs("a.test").pem.read_bytes())
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=pem, expect=["rproxy: reloaded"])
    context = tls12(certs)
    session = session_of(p, context)
    p.signal(signal.SIGHUP)
    p.said("reloaded")
    assert resumed(p, context, session)


@pytest.mark.release
def test_sessions_end_with_their_certificate(proxy, backend, certs, tmp_path):
    pem = tmp_path / "a.pem"
    pem.write_bytes(certs("a.test").pem.read_bytes())
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=pem, expect=["rproxy: reloaded"])
    context = tls12(certs)
    session = session_of(p, context)
    assert resumed(p, context, session)
    pem.write_bytes(certs("a.test", "also.test").pem.read_bytes())
    p.signal(signal.SIGHUP)
    p.said("reloaded")
    assert not resumed(p, context, session)
    assert resumed(p, context, session_of(p, context))


def test_the_session_of_a_client_without_sni(proxy, backend, certs):
    p = proxy(f"*={backend().url}", https=HTTPS, cert=certs("a.test").pem, default_cert="a.test")
    context = certs.trust(False)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    client = p.client("", context=context)
    assert client.ask(host="a.test").status == 200
    session = client.sock.session
    again = p.client("", context=context, session=session)
    assert again.ask(host="a.test").status == 200 and again.sock.session_reused
    named = p.client("a.test", context=context, session=session)  # another name, if the same host
    assert named.ask(host="a.test").status == 200 and not named.sock.session_reused


def test_a_session_is_resumed_with_the_certificate_it_was_made_with(both, certs):
    for kind in ("RSA", "ECDSA"):
        context = tls12(certs, f"a{kind}")
        session = session_of(both, context)
        client = both.client("a.test", context=context, session=session)
        assert client.sock.session_reused and f"-{kind}-" in client.sock.cipher()[0]


@pytest.mark.release
def test_without_a_session_cache(proxy, backend, certs):
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=certs("a.test").pem, session_cache=0)
    assert "Reused" not in s_client(p, "-tls1_2", "-reconnect")
    assert p.client("a.test").ask(host="a.test").status == 200


@pytest.mark.release
def test_the_newest_sessions_are_kept(proxy, backend, certs):
    size = 8
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=certs("a.test").pem, session_cache=size)
    context = tls12(certs)
    sessions = [session_of(p, context) for _ in range(3 * size)]
    again = [resumed(p, context, s) for s in reversed(sessions)]
    assert again == [True] * size + [False] * (2 * size)  # those make new ones


# ==[ records ]====================================================================================


@pytest.mark.release
def test_records_are_small_at_first_then_full_then_small_again(proxy, backend, certs):
    """Small ones can be read as soon as they arrive; full ones cost less."""
    size = 1 << 20
    b = backend(says(reply(200, body=bytes(size))))
    p = proxy(f"a.test={b.url}", https=HTTPS, cert=certs("a.test").pem)
    talk = Talk("a.test", tls12(certs), p.https[0]).shake()

    def sizes():
        talk.records.clear()
        talk.send(request(host="a.test"))
        answer = talk.read(64)
        while not answer.endswith(b"\r\n\r\n"):
            answer += talk.read(1)
        talk.read(size)
        assert {kind for kind, _ in talk.records} == {DATA}
        return [n - overhead for _, n in talk.records]

    # the tag, and what AES-GCM sends of its nonce: ChaCha20 comes first where AES has no hardware
    overhead = 16 if "CHACHA20" in talk.tls.cipher()[0] else 24

    for _ in range(2):
        lengths = sizes()
        first, sent = 0, 0
        while sent < 65536:
            assert lengths[first] <= 4096, lengths[:30]
            sent += lengths[first]
            first += 1
        assert max(lengths) == 16384
        assert len(lengths) < first + 3 * (size - sent) / 16384, lengths  # most of them are full
        time.sleep(1.1)  # a silence: what is pinned here
    assert max(sizes()[:4]) <= 4096


@pytest.mark.release
def test_a_head_in_one_byte_records_that_come_together(proxy, backend, certs):
    """A turn ends after so many steps, wherever the request is then: all lengths, all is well."""
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=certs("a.test").pem)
    talk = Talk("a.test", tls12(certs), p.https[0]).shake()
    for n in range(60):
        for byte in request("/" + "n" * n, host="a.test"):
            talk.tls.write(bytes([byte]))
        talk.flush()
        assert talk.read(12) == b"HTTP/1.1 200", n
        answer = b""
        while not answer.endswith(b"}"):
            answer += talk.run(talk.tls.read, 65536)


# ==[ the end of a connection ]====================================================================


@pytest.mark.release
def test_a_client_that_says_close_notify_gets_its_answer(proxy, backend, certs):
    """RFC 9112 9.6 and 9.8: the client's closure alert is the end of what it sends."""
    body = os.urandom(1 << 20)
    b = backend(says(0.2, reply(200, body=body)))
    p = proxy(f"a.test={b.url}", https=HTTPS, cert=certs("a.test").pem)
    talk = Talk("a.test", tls12(certs), p.https[0]).shake()
    talk.send(request(host="a.test"))
    talk.goodbye()
    got = b""
    with pytest.raises((ssl.SSLZeroReturnError, EOFError)) as e:
        while True:
            data = talk.run(talk.tls.read, 65536)
            if not data:
                raise ssl.SSLZeroReturnError
            got += data
    assert e.type is ssl.SSLZeroReturnError  # and the end of it is said, too
    assert got.endswith(body)
    assert p.access()[0].reason == "-"


def test_half_a_request_and_close_notify(proxy, backend, certs):
    b = backend()
    p = proxy(f"a.test={b.url}", https=HTTPS, cert=certs("a.test").pem)
    talk = Talk("a.test", tls12(certs), p.https[0]).shake()
    talk.send(request(host="a.test", method="POST", body=b"x" * 100)[:-1])
    talk.goodbye()
    assert p.access()[0].reason == "client-gone"


@pytest.mark.release
def test_gnutls_says_goodbye_first_and_reads_on(proxy, backend, certs):
    p = proxy(f"a.test={backend(says(0.2, reply(200, body=b'the answer'))).url}", https=HTTPS,
              cert=certs("a.test").pem)
    done = subprocess.run(
        ["gnutls-cli", "-p", str(p.https[0]), "--sni-hostname", "a.test", "--verify-hostname",
         "a.test", "--x509cafile", str(certs.root.chain), "127.0.0.1"],
        input=request("/", "Connection: close", host="a.test"), capture_output=True,
        timeout=PATIENCE)
    assert b"the answer" in done.stdout, done.stdout + done.stderr


def test_a_websocket_that_is_cut_below_tls_does_not_wait_for_the_tunnel_timeout(proxy, backend,
                                                                                certs):
    """No close_notify: the client is gone, not quiet. What it had sent arrives, then both ends
    close, though neither says anything more."""
    heard, over = [], threading.Event()

    def handler(conn):
        conn.head()
        conn.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        heard.append(conn.rest())
        over.wait(PATIENCE)

    p = proxy(f"a.test={backend(handler).url}", https=HTTPS, cert=certs("a.test").pem)
    client = p.client("a.test", context=tls12(certs))
    assert client.ask("/", "Connection: Upgrade", "Upgrade: x", host="a.test").status == 101
    client.send(b"last words")
    half_close(client.sock)
    assert p.access()[0].status == "101"  # it is written when the tunnel has ended
    over.set()
    assert heard == [b"last words"]


@pytest.mark.release
@pytest.mark.parametrize("said", ["bye", "nothing"])
def test_a_dead_connection_does_not_keep_the_processor_busy(proxy, backend, certs, said):
    """A reset while nothing is read from the client: poll() goes on saying so."""
    b = backend(says(3.0, reply(200)) if said == "bye" else lambda conn: time.sleep(3))
    p = proxy(f"a.test={b.url}", https=HTTPS, cert=certs("a.test").pem,
              expect=[r"rproxy: .*127\.0\.0\.1.*"])
    talk = Talk("a.test", tls12(certs), p.https[0]).shake()
    if said == "bye":  # the answer is still to come
        talk.send(request(host="a.test"))
        talk.goodbye()
    else:  # an upload that the backend does not take
        talk.send(request(host="a.test", method="POST", body=bytes(100))[:-100])
        talk.raw.sock.settimeout(0.3)
        try:
            while True:
                talk.send(bytes(16384))
        except TimeoutError:
            pass
    wait_for(lambda: b.conns == 1, "the request at the backend")
    reset(talk.raw.sock)

    def ticks():
        f = open(f"/proc/{p.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return int(f[11]) + int(f[12])

    time.sleep(0.1)
    before = ticks()
    time.sleep(1)
    assert ticks() - before < 15, "of 100 in a second"


def test_an_upload_needs_its_close_notify_from_nobody(proxy, backend, certs):
    """A backend that ends with no close_notify: an answer with a length is whole, one without is
    cut."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    cert = certs("127.0.0.1")
    context.load_cert_chain(cert.chain, cert.key)

    def handler(conn):
        raw = conn.sock
        conn.sock = context.wrap_socket(raw, server_side=True, suppress_ragged_eofs=False)
        r = conn.head()
        if r.target == "/length":
            conn.send(reply(200, body=b"whole"))
        else:
            conn.send(reply(200, "Connection: close", body=b"until the end", length=False))
        if r.target == "/clean":
            try:
                conn.sock.unwrap()
            except (ssl.SSLError, OSError):
                pass
        conn.sock.close()

    url = backend(handler).url.replace("http:", "https:")
    p = proxy(f"a.test={url} ca={certs.root.chain}", expect=[r"rproxy: .*127\.0\.0\.1.*"])
    assert p.ask("/length", host="a.test").body == b"whole"
    clean = p.client()
    answer = clean.ask("/clean", host="a.test")
    assert answer.body == b"until the end"
    cut = p.client()
    cut.send(request("/cut", host="a.test"))
    with pytest.raises((EOFError, ConnectionResetError)):
        answer = cut.answer()
        raise AssertionError(f"a cut answer passed for a whole one: {answer}")
    assert [a.reason for a in p.access(3)] == ["-", "-", "upstream-reset"]


@pytest.mark.parametrize("junk", ["flip", "truncate", "huge", "plain"])
def test_a_broken_record_ends_the_connection(proxy, backend, certs, junk):
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=certs("a.test").pem, head_timeout="2s")
    talk = Talk("a.test", tls12(certs), p.https[0]).shake()
    talk.tls.write(request(host="a.test"))
    record = bytearray(talk.outgoing.read())
    if junk == "flip":
        record[-3] ^= 1
    elif junk == "truncate":
        del record[-3:]
    elif junk == "huge":
        record[3:5] = b"\xff\xff"
    else:
        record = request(host="a.test")
    talk.raw.send(bytes(record))
    if junk == "truncate":
        half_close(talk.raw.sock)
    began = time.monotonic()
    got = talk.raw.rest()
    assert len(got) < 100 and b"HTTP" not in got  # an alert at most
    assert time.monotonic() - began < 5 * SLOW
    assert p.client("a.test").ask(host="a.test").status == 200


def test_a_handshake_that_stops_is_gone_with_the_head_timeout(proxy, backend, certs):
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=certs("a.test").pem, head_timeout="1s")
    talk = Talk("a.test", tls12(certs), p.https[0])
    talk.raw.send(talk.hello())
    began = time.monotonic()
    talk.raw.more()  # the server's part
    talk.raw.rest()
    assert 0.9 < time.monotonic() - began < 3 * SLOW
    with socket.socket() as s:
        s.connect(("127.0.0.1", p.https[0]))
        s.settimeout(PATIENCE)
        assert s.recv(1) == b""  # who says nothing at all is gone as well
