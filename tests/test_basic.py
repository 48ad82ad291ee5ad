"""HTTP/1.1 and 1.0 through the proxy: bodies, connections, and what is done to the fields."""

import http.client
import json
import subprocess
import time

import pytest

from harness import PATIENCE, Client, chunk, half_close, reply, request, says, wait_for

FORWARDING = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Real-IP")


def others(fields):
    """Names and values less what the proxy adds or decides itself."""
    mine = {n.lower() for n in FORWARDING} | {"host", "content-length", "transfer-encoding",
                                              "connection", "date"}
    return [tuple(f) for f in fields if f[0].lower() not in mine]


# ==[ methods and bodies ]=========================================================================


@pytest.mark.release
@pytest.mark.parametrize("name", [None, "app.test"], ids=["http", "https"])
def test_get(proxy, backend, certs, name):
    p = proxy(f"app.test={backend().url} plain", https="127.0.0.1:0", cert=certs("app.test").pem)
    answer = p.client(name).ask("/a/b?c=d&e=%20")
    assert answer.status == 200
    assert answer.json()["method"] == "GET"
    assert answer.json()["target"] == "/a/b?c=d&e=%20"
    assert answer.get("Content-Type") == "application/json"


@pytest.mark.release
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "PROPFIND"])
def test_body_with_length(proxy, backend, method):
    p = proxy(f"app.test={backend().url}")
    for body in (b"", b"x", bytes(range(256)) * 1000):
        got = p.ask(method=method, body=body).json()
        assert (got["method"], got["length"]) == (method, len(body))
        assert ["Content-Length", str(len(body))] in got["fields"]


@pytest.mark.release
def test_chunked_body(proxy, backend):
    b = backend()
    p = proxy(f"app.test={b.url}")
    client = p.client()
    pieces = [b"a", b"bc" * 5000, b"d" * 70000]
    client.send(request("/", "Transfer-Encoding: chunked", method="POST"))
    for piece in pieces:
        client.send(chunk(piece))
    client.send(b"0\r\n\r\n")
    assert client.answer().json()["length"] == len(b"".join(pieces))
    assert b.requests[0].body == b"".join(pieces)
    assert b.requests[0].get("Transfer-Encoding") == "chunked"
    assert client.ask("/next").json()["target"] == "/next"


def test_chunk_extensions_and_trailers_are_dropped(proxy, backend):
    b = backend()
    client = proxy(f"app.test={b.url}").client()
    client.send(request("/", "Transfer-Encoding: chunked", "Trailer: X-Sum", method="POST"),
                b"3;name=value;q=\"a b\"\r\nabc\r\n0\r\nX-Sum: 1\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n")
    assert client.answer().status == 200
    assert b.requests[0].body == b"abc"  # read by a reader that takes no extension, no trailer
    assert b"6.6.6.6" not in b.requests[0].head
    assert client.ask("/next").json()["target"] == "/next"


def test_chunked_answer(proxy, backend):
    b = backend(says(reply(200, "Transfer-Encoding: chunked", length=False)
                     + chunk(b"one,") + chunk(b"two" * 9000) + b"0\r\nX-Trailer: 1\r\n\r\n"))
    client = proxy(f"app.test={b.url}").client()
    for _ in range(3):
        answer = client.ask()
        assert answer.body == b"one," + b"two" * 9000
        assert answer.framing == "chunked"


@pytest.mark.release
@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_answer_until_close(proxy, backend, version):
    b = backend(says(reply(200, "Connection: close", body=b"x" * 50000, length=False,
                           version=version), close=True))
    client = proxy(f"app.test={b.url}").client()
    for _ in range(2):  # the client's own connection goes on
        answer = client.ask()
        assert answer.body == b"x" * 50000
        assert answer.framing == "chunked"


def test_backend_of_http_1_0_with_length(proxy, backend):
    b = backend(says(reply(200, body=b"old", version="HTTP/1.0"), close=True))
    client = proxy(f"app.test={b.url}").client()
    for _ in range(2):
        assert client.ask().body == b"old"


@pytest.mark.release
@pytest.mark.parametrize("status, fields", [
    (204, []), (304, []), (304, ["Content-Length: 1234"]), (304, ['ETag: "x"']),
], ids=["204", "304", "304-length", "304-etag"])
def test_answers_without_body(proxy, backend, status, fields):
    b = backend(says(reply(status, *fields, length=False)))
    client = proxy(f"app.test={b.url}").client()
    for _ in range(3):
        answer = client.ask()
        assert (answer.status, answer.body) == (status, b"")
        assert [tuple(f.split(": ", 1)) for f in fields] == [
            f for f in answer.fields if f[0].lower() in ("content-length", "etag")]
    assert b.conns == 1


@pytest.mark.release
@pytest.mark.parametrize("field", ["Content-Length: 98765", "Transfer-Encoding: chunked", None])
def test_head(proxy, backend, field):
    b = backend(says(reply(200, *([field] if field else []), "X-Kept: y", length=False)))
    client = proxy(f"app.test={b.url}").client()
    for _ in range(3):
        answer = client.ask(method="HEAD")
        assert (answer.status, answer.get("X-Kept")) == (200, "y")
        if field and field.startswith("Content-Length"):
            assert answer.get("Content-Length") == "98765"
    assert [r.method for r in b.requests] == ["HEAD"] * 3


def test_options_asterisk(proxy, backend):
    assert proxy(f"app.test={backend().url}").ask("*", method="OPTIONS").json()["target"] == "*"


def test_empty_and_large_answers(proxy, backend):
    sizes = iter([0, 1, 16383, 16384, 16385, 1 << 20, 0, 3])

    def handler(conn):
        while conn.request():
            conn.send(reply(200, body=b"z" * next(sizes)))

    client = proxy(f"app.test={backend(handler).url}").client()
    assert [len(client.ask().body) for _ in range(8)] == [
        0, 1, 16383, 16384, 16385, 1 << 20, 0, 3]


# ==[ connections ]================================================================================


@pytest.mark.release
def test_both_sides_are_kept_alive(proxy, backend):
    b = backend()
    client = proxy(f"app.test={b.url}").client()
    answers = [client.ask(f"/{i}") for i in range(20)]
    assert [a.json()["target"] for a in answers] == [f"/{i}" for i in range(20)]
    assert b.conns == 1
    assert not any("close" in (a.get("Connection") or "") for a in answers)


def test_a_backend_connection_serves_another_client(proxy, backend):
    b = backend()
    p = proxy(f"app.test={b.url}")
    assert [p.ask().status for _ in range(5)] == [200] * 5
    assert b.conns == 1


def test_client_asks_to_close(proxy, backend):
    client = proxy(f"app.test={backend().url}").client()
    answer = client.ask("/", "Connection: close")
    assert answer.get("Connection") == "close"
    assert client.rest() == b""


def test_backend_asks_to_close(proxy, backend):
    b = backend(says(reply(200, "Connection: close", body=b"hi"), close=True))
    client = proxy(f"app.test={b.url}").client()
    for i in range(3):
        answer = client.ask()
        assert (answer.body, answer.get("Connection")) == (b"hi", None)
    assert b.conns == 3


@pytest.mark.release
def test_pipelined_requests_are_answered_in_order(proxy, backend):
    b = backend()
    client = proxy(f"app.test={b.url}").client()
    wanted = [("POST" if i % 3 else "GET", f"/{i}", b"b" * i if i % 3 else None)
              for i in range(40)]
    client.send(b"".join(request(t, method=m, body=body) for m, t, body in wanted))
    for method, target, body in wanted:
        got = client.answer().json()
        assert (got["method"], got["target"], got["length"]) == (method, target, len(body or b""))
    assert client.quiet(0.05)


@pytest.mark.parametrize("name", [None, "app.test"], ids=["http", "https"])
def test_pipelined_requests_are_answered_though_the_client_sends_no_more(proxy, backend, certs,
                                                                           name):
    """RFC 9112 9.3.2: what came before the end of the client's sending side counts."""
    p = proxy(f"app.test={backend().url} plain", https="127.0.0.1:0", cert=certs("app.test").pem)
    client = p.client(name)
    client.send(b"".join(request(f"/{i}") for i in range(20)))
    half_close(client.sock)
    assert [client.answer().json()["target"] for _ in range(20)] == [f"/{i}" for i in range(20)]
    assert client.rest() == b""


def test_pipelined_requests_for_different_backends(proxy, backend):
    slow, quick = backend(says(0.3, reply(200, body=b"slow"))), backend(says(reply(200, body=b"quick")))
    client = proxy(f"slow.test={slow.url}", f"quick.test={quick.url}").client()
    client.send(request(host="slow.test") + request(host="quick.test") + request(host="none.test"))
    assert [client.answer().body for _ in range(2)] == [b"slow", b"quick"]
    assert client.answer().status == 404


def test_a_request_byte_by_byte(proxy, backend):
    client = proxy(f"app.test={backend().url}").client()
    for byte in request("/slowly", method="POST", body=b"abc"):
        client.send(bytes([byte]))
        time.sleep(0.0005)
    assert client.answer().json()["length"] == 3


@pytest.mark.release
def test_client_that_shuts_its_side_gets_its_answer(proxy, backend):
    b = backend(says(0.3, reply(200, body=b"late" * 10000)))
    client = proxy(f"app.test={b.url}").client()
    client.send(request())
    half_close(client.sock)
    assert client.answer().body == b"late" * 10000
    assert client.rest() == b""


def test_backend_that_sees_a_half_closed_client_still_gets_the_body(proxy, backend):
    client = proxy(f"app.test={backend().url}").client()
    client.send(request(method="POST", body=b"q" * 100000))
    half_close(client.sock)
    assert client.answer().json()["length"] == 100000


@pytest.mark.release
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_client_of_http_1_0(proxy, backend, framing):
    b = backend(says({
        "length": reply(200, body=b"body"),
        "chunked": reply(200, "Transfer-Encoding: chunked", length=False) + chunk(b"bo")
        + chunk(b"dy") + b"0\r\n\r\n",
        "close": reply(200, "Connection: close", body=b"body", length=False)}[framing],
        close=framing == "close"))
    client = proxy(f"app.test={b.url}").client()
    answer = client.ask(version="HTTP/1.0")
    assert answer.body == b"body"
    assert answer.framing in ("close", 4)  # never chunked: a 1.0 client can't read that
    assert client.rest() == b""


def test_client_of_http_1_0_may_ask_for_keep_alive(proxy, backend):
    client = proxy(f"app.test={backend().url}").client()
    for i in range(3):
        answer = client.ask(f"/{i}", "Connection: keep-alive", version="HTTP/1.0")
        assert answer.json()["target"] == f"/{i}"
        assert answer.get("Connection").lower() == "keep-alive"


def test_the_backend_is_asked_in_1_1_by_a_client_of_1_0(proxy, backend):
    b = backend()
    assert proxy(f"app.test={b.url}").ask(version="HTTP/1.0").status == 200
    assert b.requests[0].version == "HTTP/1.1"


def test_empty_lines_before_a_request_are_forgiven(proxy, backend):
    client = proxy(f"app.test={backend().url}").client()
    client.send(b"\r\n" + request("/x"))
    assert client.answer().json()["target"] == "/x"


# ==[ interim answers ]============================================================================

HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"


def test_interim_answers_reach_clients_of_1_1(proxy, backend):
    b = backend(says(HINTS, HINTS, reply(200, body=b"done")))
    answer = proxy(f"app.test={b.url}").ask()
    assert [i[0] for i in answer.interim] == [103, 103]
    assert answer.interim[0][1] == [("Link", "</a.css>; rel=preload")]
    assert (answer.status, answer.body) == (200, b"done")


def test_interim_answers_do_not_reach_clients_of_1_0(proxy, backend):
    b = backend(says(HINTS, reply(200, body=b"done")))
    answer = proxy(f"app.test={b.url}").ask(version="HTTP/1.0")
    assert (answer.status, answer.body, answer.interim) == (200, b"done", [])


@pytest.mark.release
def test_expect_goes_through_to_the_backend(proxy, backend):
    def handler(conn):
        r = conn.head()
        assert r.get("Expect") == "100-continue"
        assert conn.quiet(0.2)  # the body waits for our word
        conn.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        conn.send(reply(200, body=conn.take(int(r.get("Content-Length")))))
        conn.head()

    client = proxy(f"app.test={backend(handler).url}").client()
    client.send(request("/", "Expect: 100-continue", "Content-Length: 5", method="POST"))
    assert client.line() == b"HTTP/1.1 100 Continue"
    assert client.fields() == []
    client.send(b"hello")
    assert client.answer().body == b"hello"


def test_expect_refused_by_the_backend(proxy, backend):
    def handler(conn):
        conn.head()
        conn.send(reply(413, "Connection: close", body=b"no"))

    client = proxy(f"app.test={backend(handler).url}").client()
    client.send(request("/", "Expect: 100-continue", "Content-Length: 5", method="POST"))
    answer = client.answer()
    assert (answer.status, answer.body, answer.interim) == (413, b"no", [])


def test_answer_before_the_body_is_done(proxy, backend):
    def handler(conn):
        conn.head()
        conn.send(reply(413, "Connection: close", body=b"too much"))
        time.sleep(0.2)

    client = proxy(f"app.test={backend(handler).url}").client()
    client.send(request("/", "Content-Length: 100000000", method="POST"), b"x" * 1000)
    answer = client.answer()
    assert (answer.status, answer.body) == (413, b"too much")


# ==[ fields to the backend ]======================================================================


@pytest.mark.release
def test_the_backend_gets_exactly_these_fields(proxy, backend):
    b = backend()
    proxy(f"app.test={b.url}").ask("/", "User-Agent: test", "Accept: */*")
    assert b.requests[0].fields[:3] == [
        ("Host", "app.test"), ("User-Agent", "test"), ("Accept", "*/*")]
    assert sorted(b.requests[0].fields[3:]) == [
        ("X-Forwarded-For", "127.0.0.1"), ("X-Forwarded-Host", "app.test"),
        ("X-Forwarded-Proto", "http"), ("X-Real-IP", "127.0.0.1")]


def test_the_backend_is_told_of_https(proxy, backend, certs):
    b = backend()
    p = proxy(f"app.test={b.url}", https="127.0.0.1:0", cert=certs("app.test").pem)
    assert p.client("app.test").ask().status == 200
    assert b.requests[0].get("X-Forwarded-Proto") == "https"
    assert b.requests[0].get("X-Forwarded-For") == "127.0.0.1"


def test_host_reaches_the_backend_as_the_client_sent_it(proxy, backend):
    b = backend()
    proxy(f"app.test={b.url}").ask(host="App.Test:8080")
    assert b.requests[0].get("Host") == "App.Test:8080"
    assert b.requests[0].get("X-Forwarded-Host") == "App.Test:8080"


FORGED = ["X-Forwarded-For: 6.6.6.6", "X-FORWARDED-FOR: 6.6.6.6", "x-real-ip: 6.6.6.6",
          "X-Forwarded-Proto: https", "X-Forwarded-Host: evil.test", "X-Forwarded-Port: 66",
          "X-Forwarded-Server: evil.test", "X-Forwarded-Anything: evil.test",
          "Forwarded: for=6.6.6.6;proto=https", "CF-Connecting-IP: 6.6.6.6",
          "X_Forwarded_For: 6.6.6.6", "X.Forwarded.For: 6.6.6.6", "X_Real-IP: 6.6.6.6"]


@pytest.mark.release
def test_forged_forwarding_fields_do_not_pass(proxy, backend):
    b = backend()
    proxy(f"app.test={b.url}").ask("/", *FORGED)
    assert b"6.6.6.6" not in b.requests[0].head
    assert b"evil" not in b.requests[0].head
    assert others(b.requests[0].fields) == []
    assert [b.requests[0].get(n) for n in FORWARDING] == [
        "127.0.0.1", "http", "app.test", "127.0.0.1"]


def test_forwarding_fields_of_a_trusted_peer_are_believed(proxy, backend):
    b = backend()
    p = proxy(f"app.test={b.url}", trust="loopback")
    p.ask("/", "X-Forwarded-For: 6.6.6.6, 192.0.2.7", "X-Forwarded-Proto: https")
    assert b.requests[0].get("X-Real-IP") == "192.0.2.7"  # the rightmost that we don't trust
    assert b.requests[0].get("X-Forwarded-Proto") == "https"
    assert p.access()[0].peer == "192.0.2.7"


@pytest.mark.release
def test_hop_by_hop_fields_stay_here(proxy, backend):
    b = backend()
    client = proxy(f"app.test={b.url}").client()
    client.ask("/", "Connection: X-Private, keep-alive, x-other", "X-Private: 1", "X-Other: 2",
               "Keep-Alive: timeout=5", "TE: trailers", "Proxy-Connection: keep-alive",
               "Upgrade: h2c", "Proxy: evil.test", "X-Stays: 3")
    assert others(b.requests[0].fields) == [("X-Stays", "3")]
    assert client.ask().status == 200


def test_names_with_other_characters_are_dropped(proxy, backend):
    b = backend()
    proxy(f"app.test={b.url}").ask("/", "my_field: 1", "my.field: 2", "my!field: 3", "my-field: 4")
    assert others(b.requests[0].fields) == [("my-field", "4")]


@pytest.mark.release
def test_order_and_case_of_request_fields_are_kept(proxy, backend):
    b = backend()
    sent = ["ACCEPT: a", "x-Odd-CASE: b", "Cookie: c=1", "Accept-language: \xe9\xff", "Cookie: d=2",
            "X-Empty:", "X-Blanks: a  b", "authorization: Basic eDp5"]
    proxy(f"app.test={b.url}").ask("/", *sent)
    assert others(b.requests[0].fields) == [
        tuple(part.strip(" ") for part in s.split(":", 1)) for s in sent]


@pytest.mark.release
def test_order_and_case_of_answer_fields_are_kept(proxy, backend):
    sent = ["SERVER: App/9", "Set-Cookie: a=1; Path=/", "x-Odd: \xe9", "Date: Mon, 01 Jan 2024",
            "Set-Cookie: b=2", "ETag: \"q\"", "X-Empty:", "Content-Type: text/plain",
            "Cache-Control: no-store"]
    b = backend(says(reply(200, *sent, body=b"x")))
    answer = proxy(f"app.test={b.url}").ask()
    assert [f for f in answer.fields if f[0] != "Content-Length"] == [
        tuple(part.strip(" ") for part in s.split(":", 1)) for s in sent]


def test_hop_by_hop_fields_of_an_answer_stay_here(proxy, backend):
    b = backend(says(reply(200, "Connection: X-Inner", "X-Inner: 1", "Keep-Alive: timeout=5",
                           "Proxy-Connection: x", "X-Stays: 2", body=b"x")))
    assert others(proxy(f"app.test={b.url}").ask().fields) == [("X-Stays", "2")]


def test_the_reason_phrase_and_odd_status_codes_pass(proxy, backend):
    b = backend(says(b"HTTP/1.1 299 Quite Odd \xe9\r\nContent-Length: 0\r\n\r\n"))
    answer = proxy(f"app.test={b.url}").ask()
    assert answer.status == 299


def test_absolute_form_goes_on_as_origin_form(proxy, backend):
    b = backend()
    client = proxy(f"app.test={b.url}").client()
    assert client.ask("http://app.test/x?y=z").json()["target"] == "/x?y=z"
    assert client.ask("http://app.test").json()["target"] == "/"
    assert [r.get("Host") for r in b.requests] == ["app.test"] * 2


# ==[ listeners ]==================================================================================


@pytest.mark.release
def test_ipv6_listener(proxy, backend):
    b = backend()
    p = proxy(f"app.test={b.url}", http="[::1]:0")
    assert p.addresses == [("http", "[::1]")]
    assert p.client(address="::1").ask().status == 200
    assert b.requests[0].get("X-Forwarded-For") == "::1"


def test_a_port_without_address_serves_ipv4_and_ipv6(proxy, backend):
    b = backend()
    p = proxy(f"app.test={b.url}", http="0")
    for address in ("127.0.0.1", "::1"):
        assert p.client(address=address).ask().status == 200
    assert [r.get("X-Forwarded-For") for r in b.requests] == ["127.0.0.1", "::1"]
    assert [a.peer for a in p.access(2)] == ["127.0.0.1", "::1"]


def test_several_listeners(proxy, backend):
    p = proxy(f"app.test={backend().url}", http=["127.0.0.1:0", "127.0.0.1:0", "[::1]:0"])
    assert len(set(p.http)) == 3
    assert p.addresses == [("http", "127.0.0.1"), ("http", "127.0.0.1"), ("http", "[::1]")]
    for address, port in zip(("127.0.0.1", "127.0.0.1", "::1"), p.http):
        assert Client(port, address=address).ask().status == 200


def test_ipv6_backend_and_unix_socket(proxy, backend, tmp_path):
    v6, unix = backend(address="::1"), backend(path=tmp_path / "sock")
    p = proxy(f"v6.test={v6.url}", f"unix.test={unix.url}")
    assert p.ask(host="v6.test").status == 200
    assert p.ask(host="unix.test").status == 200
    assert (len(v6.requests), len(unix.requests)) == (1, 1)
    unix.close()  # so that its pooled connection is not counted as left over


def test_backend_by_name(proxy, backend):
    p = proxy(f"app.test=http://localhost:{backend().port}", expect=[r"rproxy: .*localhost.*"])
    assert p.ask().status == 200


# ==[ real clients, a real server ]================================================================


def curl(p, *args):
    done = subprocess.run(["curl", "-sS", "--noproxy", "*", "--max-time", str(PATIENCE), *args],
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.release
def test_curl_and_nginx(proxy, nginx, certs, tmp_path):
    data = bytes(range(256)) * 4096
    (nginx.root / "data.bin").write_bytes(data)
    (nginx.root / "dir").mkdir()
    (nginx.root / "dir/index.html").write_text("a folder")
    p = proxy(f"app.test={nginx.url} plain", https="127.0.0.1:0", cert=certs("app.test").pem)
    for url in (f"http://app.test:{p.http[0]}", f"https://app.test:{p.https[0]}"):
        port = url.rsplit(":", 1)[1]
        base = ["--resolve", f"app.test:{port}:127.0.0.1", "--cacert", str(certs.root.chain)]
        assert curl(p, *base, f"{url}/data.bin") == data
        assert curl(p, *base, "-r", "1000-1999", f"{url}/data.bin") == data[1000:2000]
        head = curl(p, *base, "-I", f"{url}/data.bin").decode().lower()
        assert "http/1.1 200 ok" in head and f"content-length: {len(data)}" in head
        etag = next(s.split(": ")[1] for s in head.split("\r\n") if s.startswith("etag"))
        assert b" 304 " in curl(p, *base, "-i", "-H", f"If-None-Match: {etag}", f"{url}/data.bin")
        assert b" 404 " in curl(p, *base, "-i", f"{url}/none")
        # nginx names its own port in this redirect; two ranges come as one body of parts
        assert curl(p, *base, "-L", f"{url}/dir") == b"a folder"
        assert b"bytes 5-6/" in curl(p, *base, "-r", "1-2,5-6", f"{url}/data.bin")


def test_curl_uploads_with_expect(proxy, backend, tmp_path):
    def handler(conn):
        while True:
            r = conn.head()
            if not r:
                return
            if r.get("Expect"):
                conn.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = conn.body(conn.framing(r.fields))
            conn.send(reply(200, body=b"%d" % len(body)))

    p = proxy(f"app.test={backend(handler).url}")
    (tmp_path / "up").write_bytes(b"u" * 3000000)
    url = [f"http://127.0.0.1:{p.http[0]}/", "-H", "Host: app.test", "-T", str(tmp_path / "up")]
    assert curl(p, *url) == b"3000000"
    assert curl(p, *url, "-H", "Transfer-Encoding: chunked") == b"3000000"


@pytest.mark.release
def test_http_client(proxy, backend):
    p = proxy(f"app.test={backend().url}")
    c = http.client.HTTPConnection("127.0.0.1", p.http[0], timeout=PATIENCE)
    for body in (None, b"abc", (x for x in [b"chunk", b"ed"])):
        c.request("POST" if body else "GET", "/h", body, {"Host": "app.test"},
                  encode_chunked=not isinstance(body, (bytes, type(None))))
        response = c.getresponse()
        assert response.status == 200
        length = json.loads(response.read())["length"]
    assert length == 7
    c.close()


def test_many_clients_at_once(proxy, backend):
    b = backend(says(0.1, reply(200, body=b"ok")))
    p = proxy(f"app.test={b.url}", max_conns_per_ip=0)
    clients = [p.client() for _ in range(100)]
    for c in clients:
        c.send(request())
    assert [c.answer().body for c in clients] == [b"ok"] * 100


def test_a_client_that_leaves_takes_its_backend_connection_along(proxy, backend):
    gone = []

    def handler(conn):
        conn.request()
        conn.send(reply(200, "Content-Length: 1000000", length=False), b"x" * 1000)
        gone.append(conn.rest())

    p = proxy(f"app.test={backend(handler).url}")
    client = p.client()
    client.send(request())
    client.head()
    client.close()
    wait_for(lambda: gone == [b""], "the backend's connection to be closed")
    assert p.access()[0].reason == "client-gone"
