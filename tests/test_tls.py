"""TLS: the right certificate, the right alert, the right version; and who is sent to https."""

import re
import socket
import ssl
import subprocess
import warnings

import pytest
from cryptography.hazmat.primitives import hashes, serialization

from harness import PATIENCE, Authority, Client, reply, request, says

HTTPS = "127.0.0.1:0"


def peer_names(sock):
    return [v for k, v in sock.getpeercert()["subjectAltName"]]


def alert(p, context, name):
    """Why the handshake failed, in OpenSSL's words."""
    with pytest.raises(ssl.SSLError) as e:
        p.client(name, context=context)
    return e.value.reason


# ==[ certificates and names ]=====================================================================


@pytest.mark.release
def test_each_name_gets_its_certificate(proxy, backend, certs):
    url = backend().url
    made = [certs("a.test"), certs("b.test", "c.test", kind="rsa"), certs("*.d.test")]
    p = proxy(f"*={url}", https=HTTPS, cert=[c.pem for c in made])
    for name, cert in {"a.test": made[0], "b.test": made[1], "c.test": made[1],
                       "x.d.test": made[2]}.items():
        client = p.client(name)
        assert peer_names(client.sock) == list(cert.names)
        assert client.sock.version() == "TLSv1.2"
        assert client.ask(host=name).status == 200


def test_exact_name_before_wildcard(proxy, backend, certs):
    exact, wild = certs("x.d.test"), certs("*.d.test")
    p = proxy(f"*={backend().url}", https=HTTPS, cert=[wild.pem, exact.pem])
    assert peer_names(p.client("x.d.test").sock) == ["x.d.test"]
    assert peer_names(p.client("y.d.test").sock) == ["*.d.test"]


def test_names_are_found_in_any_case(proxy, backend, certs):
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=certs("a.test").pem)
    assert p.client("A.Test").ask(host="A.TEST").status == 200


def test_ecdsa_and_rsa_for_one_name(proxy, backend, certs):
    p = proxy(f"a.test={backend().url}", https=HTTPS,
              cert=[certs("a.test").pem, certs("a.test", kind="rsa").pem])
    for kind in ("ECDSA", "RSA"):
        context = certs.trust()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(f"ECDHE-{kind}-AES128-GCM-SHA256")
        client = p.client("a.test", context=context)
        assert client.sock.cipher()[0] == f"ECDHE-{kind}-AES128-GCM-SHA256"
        assert client.ask(host="a.test").status == 200


def test_chain_and_key_in_two_files(proxy, backend, certs):
    cert = certs("a.test")
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=f"{cert.chain},{cert.key}")
    assert p.client("a.test").ask(host="a.test").status == 200


@pytest.mark.release
def test_unknown_name_gets_the_alert_and_no_certificate(proxy, backend, certs):
    p = proxy(f"*={backend().url}", https=HTTPS, cert=[certs("a.test").pem, certs("*.d.test").pem])
    for name in ("b.test", "d.test", "x.y.d.test", ""):
        assert alert(p, certs.trust(False), name) == "TLSV1_UNRECOGNIZED_NAME", name
    assert p.client("a.test").ask(host="a.test").status == 200


def test_default_certificate(proxy, backend, certs):
    p = proxy(f"*={backend().url}", https=HTTPS, default_cert="b.test",
              cert=[certs("a.test").pem, certs("b.test").pem])
    assert peer_names(p.client("").sock) == ["b.test"]
    assert p.client("").ask(host="b.test").status == 200
    assert alert(p, certs.trust(False), "c.test") == "TLSV1_UNRECOGNIZED_NAME"


@pytest.mark.release
def test_misdirected_request(proxy, backend, certs):
    p = proxy(f"*={backend().url}", https=HTTPS,
              cert=[certs("a.test", "a2.test").pem, certs("b.test").pem])
    client = p.client("a.test")
    assert client.ask(host="a2.test").status == 200  # the same certificate covers it
    assert client.ask(host="b.test").status == 421
    assert p.access(2)[1].reason == "misdirected"
    assert p.client("a.test").ask(host="none.test").status == 421


def test_a_covered_name_without_route(proxy, backend, certs):
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=certs("a.test", "b.test").pem)
    assert p.client("b.test").ask(host="b.test").status == 404


def test_a_certificate_that_does_not_exist_yet_is_a_warning(proxy, backend, certs, tmp_path):
    late = tmp_path / "late.pem"
    p = proxy(f"*={backend().url} plain", https=HTTPS, cert=[certs("a.test").pem, late],
              expect=[r"rproxy: .*late\.pem.*"])
    assert "late.pem" in p.said(r"late\.pem")
    assert p.client("a.test").ask(host="a.test").status == 200


# ==[ protocol ]===================================================================================


@pytest.mark.release
def test_only_tls_1_2(proxy, backend, certs):
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=certs("a.test").pem)
    newer = certs.trust()
    newer.minimum_version = ssl.TLSVersion.TLSv1_3
    assert alert(p, newer, "a.test") == "TLSV1_ALERT_PROTOCOL_VERSION"
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        older = certs.trust()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python deprecates what we want refused
            older.set_ciphers("ALL:@SECLEVEL=0")
            older.minimum_version = older.maximum_version = version
        assert alert(p, older, "a.test") == "TLSV1_ALERT_PROTOCOL_VERSION"


@pytest.mark.parametrize("suite, fits", [
    ("ECDHE-ECDSA-AES128-GCM-SHA256", True), ("ECDHE-ECDSA-AES256-GCM-SHA384", True),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", True), ("ECDHE-ECDSA-AES128-SHA256", False),
    ("ECDHE-ECDSA-AES128-SHA", False), ("AES128-GCM-SHA256", False),
    ("DHE-RSA-AES128-GCM-SHA256", False)])
def test_suites(proxy, backend, certs, suite, fits):
    p = proxy(f"a.test={backend().url}", https=HTTPS,
              cert=[certs("a.test").pem, certs("a.test", kind="rsa").pem])
    context = certs.trust()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(suite)
    if fits:
        assert p.client("a.test", context=context).sock.cipher()[0] == suite
    else:
        assert "HANDSHAKE_FAILURE" in alert(p, context, "a.test")


@pytest.mark.release
def test_resumption(proxy, backend, certs):
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=certs("a.test").pem)
    context = certs.trust()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    first = p.client("a.test", context=context)
    assert first.ask(host="a.test").status == 200
    session = first.sock.session
    first.close()
    for _ in range(3):
        again = p.client("a.test", context=context, session=session)
        assert again.sock.session_reused
        assert again.ask(host="a.test").status == 200


def test_a_session_is_resumed_only_under_its_name(proxy, backend, certs):
    p = proxy(f"*={backend().url}", https=HTTPS, cert=[certs("a.test", "a2.test").pem])
    context = certs.trust()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    first = p.client("a.test", context=context)
    assert first.ask(host="a.test").status == 200
    other = p.client("a2.test", context=context, session=first.sock.session)
    assert not other.sock.session_reused
    assert other.ask(host="a2.test").status == 200


def test_the_session_cache_forgets_the_oldest(proxy, backend, certs):
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=certs("a.test").pem, session_cache=4)
    context = certs.trust()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    sessions = []
    for _ in range(12):
        client = p.client("a.test", context=context)
        client.ask(host="a.test")
        sessions.append(client.sock.session)
        client.close()
    reused = [p.client("a.test", context=context, session=s).sock.session_reused
              for s in (sessions[0], sessions[-1])]
    assert reused[0] is False


@pytest.mark.release
def test_alpn(proxy, backend, certs):
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=certs("a.test").pem)
    for offered in (["h2", "http/1.1"], ["http/1.1"]):
        context = certs.trust()
        context.set_alpn_protocols(offered)
        client = p.client("a.test", context=context)
        assert client.sock.selected_alpn_protocol() == "http/1.1"
        assert client.ask(host="a.test").status == 200
    assert p.client("a.test").sock.selected_alpn_protocol() is None


@pytest.mark.release
def test_http_on_the_tls_port_gets_a_plain_400(proxy, certs):
    p = proxy(https=HTTPS, cert=certs("a.test").pem)
    client = Client(p.https[0])
    answer = client.ask(host="a.test")
    assert answer.status == 400
    assert client.rest() == b""


def test_the_end_is_said_with_close_notify(proxy, backend, certs):
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=certs("a.test").pem)
    context = certs.trust()
    sock = context.wrap_socket(socket.create_connection(("127.0.0.1", p.https[0]), PATIENCE),
                               server_hostname="a.test", suppress_ragged_eofs=False)
    Client.every.append(sock)
    sock.sendall(request("/", "Connection: close", host="a.test"))
    got = b""
    while True:
        data = sock.recv(65536)  # raises SSLEOFError without close_notify
        if not data:
            break
        got += data
    assert got.startswith(b"HTTP/1.1 200")


def test_requests_in_tiny_tls_records(proxy, backend, certs):
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=certs("a.test").pem)
    client = p.client("a.test")
    for byte in request("/tiny", host="a.test", method="POST", body=b"xyz"):
        client.send(bytes([byte]))
    assert client.answer().json()["length"] == 3


def test_pipelined_requests_in_one_record(proxy, backend, certs):
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=certs("a.test").pem)
    client = p.client("a.test")
    client.send(b"".join(request(f"/{i}", host="a.test") for i in range(30)))
    assert [client.answer().json()["target"] for _ in range(30)] == [f"/{i}" for i in range(30)]


def test_garbage_and_silence_on_the_tls_port(proxy, backend, certs):
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=certs("a.test").pem, head_timeout="1s")
    for junk in (b"\x16\x03\x01\xff\xff" + b"\0" * 500, b"\x16\x03\x01\x00\x05hello", b"\0" * 40,
                 b"\x16\x03\x01\x02"):
        client = Client(p.https[0])
        client.send(junk)
        client.rest()
    assert p.client("a.test").ask(host="a.test").status == 200


@pytest.mark.release
def test_openssl_s_client(proxy, backend, certs):
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=certs("a.test").pem)
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{p.https[0]}", "-servername", "a.test",
         "-CAfile", str(certs.root.chain), "-verify_return_error", "-alpn", "h2,http/1.1",
         "-ign_eof"], input=request("/", "Connection: close", host="a.test"),
        capture_output=True, timeout=PATIENCE)
    said = done.stdout.decode("latin-1")
    for line in ("Verify return code: 0 (ok)", "ALPN protocol: http/1.1", "New, TLSv1.2, Cipher is",
                 "Compression: NONE", "HTTP/1.1 200"):
        assert line in said, line


def test_no_renegotiation(proxy, backend, certs):
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=certs("a.test").pem)
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{p.https[0]}", "-servername", "a.test",
         "-tls1_2"], input=b"R\n", capture_output=True, timeout=PATIENCE)
    said = (done.stdout + done.stderr).decode("latin-1")
    assert "RENEGOTIATING" in said
    assert "no renegotiation" in said or "handshake failure" in said or done.returncode != 0
    assert p.client("a.test").ask(host="a.test").status == 200


def test_ipv6_tls_listener(proxy, backend, certs):
    p = proxy(f"a.test={backend().url}", https="[::1]:0", cert=certs("a.test").pem)
    assert p.client("a.test", address="::1").ask(host="a.test").status == 200


def test_the_log_names_version_and_cipher(proxy, backend, certs):
    p = proxy(f"a.test={backend().url} plain", https=HTTPS, cert=certs("a.test").pem)
    client = p.client("a.test")
    assert client.ask(host="a.test").status == 200
    assert p.ask(host="a.test").status == 200
    tls, plain = p.access(2)
    assert re.fullmatch(r"TLSv?1\.2", tls.tls)
    assert re.search(r"GCM|CHACHA20", tls.cipher, re.I)
    assert (plain.tls, plain.cipher) == ("-", "-")


# ==[ from http to https ]=========================================================================


@pytest.mark.release
@pytest.mark.parametrize("method, status", [("GET", 301), ("HEAD", 301), ("POST", 308),
                                            ("PUT", 308), ("DELETE", 308)])
def test_a_covered_name_is_sent_to_https(proxy, backend, certs, method, status):
    b = backend()
    p = proxy(f"a.test={b.url}", https=HTTPS, cert=certs("a.test").pem)
    answer = p.ask("/x/y?z=1&%41", host=f"a.test:{p.http[0]}", method=method)
    assert answer.status == status
    assert answer.get("Location") == f"https://a.test:{p.https[0]}/x/y?z=1&%41"
    assert p.access()[0].reason == "redirect"
    assert b.requests == []


@pytest.mark.release
@pytest.mark.parametrize("port, shown", [(443, ""), (8443, ":8443")])
def test_public_port(proxy, backend, certs, port, shown):
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=certs("a.test").pem, public_port=port)
    assert p.ask("/x", host="A.TEST:80").get("Location").lower() == f"https://a.test{shown}/x"


def test_a_redirected_body_is_drained(proxy, backend, certs):
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=certs("a.test").pem)
    client = p.client()
    for _ in range(3):
        answer = client.ask(host="a.test", method="POST", body=b"b" * 5000)
        assert answer.status == 308
        if answer.get("Connection") == "close":
            break
    else:
        assert client.ask(host="a.test").status == 301


def test_plain_is_served_over_both(proxy, backend, certs):
    p = proxy(f"a.test={backend().url} plain", https=HTTPS, cert=certs("a.test").pem)
    assert p.ask(host="a.test").status == 200
    assert p.client("a.test").ask(host="a.test").status == 200


def test_a_name_without_certificate_is_served_over_http(proxy, backend, certs):
    b = backend()
    p = proxy(f"a.test={b.url}", f"b.test={b.url}", https=HTTPS, cert=certs("a.test").pem,
              expect=[r"rproxy: .*\bb\.test\b.*"])
    assert p.ask(host="b.test").status == 200
    assert p.ask(host="a.test").status == 301
    p.said(r"rproxy: .*\bb\.test\b")


def test_no_redirect_without_a_tls_listener(proxy, backend):
    assert proxy(f"a.test={backend().url}").ask(host="a.test").status == 200


def test_a_trusted_peer_that_says_https_is_not_redirected(proxy, backend, certs):
    told = ["X-Forwarded-Proto: https"]
    settings = dict(https=HTTPS, cert=certs("a.test").pem)
    trusting = proxy(f"a.test={backend().url}", trust="loopback", **settings)
    assert trusting.ask("/", *told, host="a.test").status == 200
    assert trusting.ask("/", host="a.test").status == 301
    assert proxy(f"a.test={backend().url}", **settings).ask("/", *told, host="a.test").status == 301


@pytest.mark.release
@pytest.mark.parametrize("setting, age", [("hsts", r"\d+"), ("hsts=12345", "12345")])
def test_hsts(proxy, backend, certs, setting, age):
    p = proxy(f"a.test={backend().url} plain {setting}", https=HTTPS, cert=certs("a.test").pem)
    answer = p.client("a.test").ask(host="a.test")
    assert re.fullmatch(f"max-age={age}.*", answer.get("Strict-Transport-Security"))
    assert p.ask(host="a.test").get("Strict-Transport-Security") is None  # RFC 6797 7.2


def test_no_hsts_unless_asked(proxy, backend, certs):
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=certs("a.test").pem)
    assert p.client("a.test").ask(host="a.test").get("Strict-Transport-Security") is None


# ==[ https targets ]==============================================================================


@pytest.fixture
def secure(backend, certs):
    """A backend that speaks TLS, with a certificate for its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    cert = certs("127.0.0.1")
    context.load_cert_chain(cert.chain, cert.key)

    def handler(conn):
        raw, conn.sock = conn.sock, context.wrap_socket(conn.sock, server_side=True)
        assert raw.fileno() == -1  # the TLS socket took it over
        conn.sock.settimeout(PATIENCE)
        try:
            says(reply(200, body=b"secret"))(conn)
        finally:
            conn.sock.close()
    b = backend(handler)
    b.url = b.url.replace("http:", "https:")
    return b


def test_https_target(proxy, secure, certs, tmp_path):
    stranger = Authority(tmp_path).root  # signed nothing here
    spki = hashes.Hash(hashes.SHA256())
    spki.update(certs("127.0.0.1").private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))
    pin = spki.finalize().hex()
    p = proxy(f"ca.test={secure.url} ca={certs.root.chain}", f"off.test={secure.url} verify=off",
              f"pin.test={secure.url} verify=pin:{pin}",
              f"bad.test={secure.url} verify=pin:{'0' * 64}",
              f"other.test={secure.url} ca={stranger.chain}",
              expect=[r"rproxy: .*127\.0\.0\.1.*"])
    assert [p.ask(host=f"{h}.test").status for h in ("ca", "off", "pin", "bad", "other")] == [
        200, 200, 200, 502, 502]
    assert [a.reason for a in p.access(5)][3:] == ["upstream-tls"] * 2
