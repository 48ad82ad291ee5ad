"""What goes wrong: own pages, broken backends, and what is said about a bad configuration."""

import re
import socket
import time

import pytest

from harness import TROUBLE, chunk, dead_port, reply, request, reset, run, says, wait_for

# ==[ own pages ]==================================================================================


def judge_page(p, answer, status, backends=()):
    """A short HTML page that tells a stranger nothing about the inside."""
    assert answer.status == status
    assert answer.get("Content-Type").split(";")[0] == "text/html"
    assert 0 < len(answer.body) < 2048
    assert re.match(rb"\s*<!doctype html>|\s*<html", answer.body, re.I)
    page = str(answer.fields) + answer.body.decode()
    for secret in ["127.0.0.1", *(str(b) for b in backends), "0.1.0", "rproxy", str(p.http[0])]:
        assert secret not in page, secret
    if status in (502, 503, 504):
        assert int(answer.get("Retry-After")) > 0


LONG = "/" + "x" * 9000


@pytest.mark.release
@pytest.mark.parametrize("status, reason, raw", [
    (400, "bad-request", b"nonsense\r\n\r\n"),
    (400, "bad-request", request("/", host=None)),
    (404, "no-route", request("/", host="none.test")),
    (413, "body-too-big", request("/", "Content-Length: 2000", method="POST")),
    (414, "uri-too-long", request(LONG)),
    (431, "head-too-big", request("/", *(f"X-{i}: {'y' * 1000}" for i in range(40)))),
    (431, "head-too-big", request("/", *(f"X-{i}: y" for i in range(101)))),
    (501, "method-refused", request("app.test:443", method="CONNECT")),
    (405, "method-refused", request("/", method="TRACE")),
    (505, "bad-request", request("/", version="HTTP/2.0")),
], ids=["400", "400-host", "404", "413", "414", "431-bytes", "431-count", "501", "405", "505"])
def test_own_page(proxy, backend, status, reason, raw):
    b = backend()
    p = proxy(f"app.test={b.url}", body_max="1k")
    client = p.client()
    client.send(raw)
    judge_page(p, client.answer(), status, [b.port])
    assert p.access()[0].reason == reason
    assert b.requests == []


def test_own_pages_have_no_body_for_head(proxy):
    client = proxy().client()
    for _ in range(2):  # what followed would be read as the next answer
        assert client.ask(method="HEAD", host="none.test").status == 404
    assert client.ask(host="none.test").status == 404


def test_body_max(proxy, backend):
    b = backend()
    p = proxy(f"app.test={b.url}", f"big.test={b.url} body-max=1m", body_max="1k")
    assert p.ask(method="POST", body=b"x" * 1024).status == 200
    assert p.ask(method="POST", body=b"x" * 1025).status == 413
    assert p.ask(method="POST", body=b"x" * 5000, host="big.test").status == 200
    client = p.client()
    client.send(request("/", "Transfer-Encoding: chunked", method="POST"), chunk(b"x" * 2000))
    assert client.answer().status == 413
    assert client.rest() == b""


def test_head_max(proxy, backend):
    p = proxy(f"app.test={backend().url}", head_max="4k")
    assert p.ask("/", "X: " + "y" * 3000).status == 200
    assert p.ask("/", "X: " + "y" * 5000).status == 431


# ==[ backends ]===================================================================================


@pytest.mark.release
def test_dead_backend(proxy, backend):
    port, b = dead_port(), backend()
    p = proxy(f"dead.test=http://127.0.0.1:{port}", f"app.test={b.url}", expect=[TROUBLE])
    client = p.client()
    for _ in range(2):  # the connection to the client goes on
        judge_page(p, client.ask(host="dead.test"), 502, [port])
    assert client.ask(host="app.test").status == 200
    line = p.access(3)[0]
    assert (line.status, line.reason) == ("502", "upstream-refused")


def test_dead_backend_and_a_request_with_body(proxy):
    p = proxy(f"dead.test=http://127.0.0.1:{dead_port()}", expect=[TROUBLE])
    client = p.client()
    assert client.ask(host="dead.test", method="POST", body=b"x" * 100000).status == 502


def resets(conn):
    conn.request()
    reset(conn.sock)


def truncates(conn):
    conn.request()
    conn.send(b"HTTP/1.1 200 OK\r\nConte")


@pytest.mark.release
@pytest.mark.parametrize("handler, reason", [
    (resets, "upstream-reset"),
    (lambda conn: conn.request() and None, "upstream-reset"),
    # qemu-user of MIPS gives SO_ERROR in the numbers of the machine around it
    pytest.param(lambda conn: reset(conn.sock), "upstream-reset", marks=pytest.mark.native),
    (truncates, "upstream-reset"),
    (says(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", close=True), "upstream-bad"),
    (says(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", close=True), "upstream-bad"),
    (says(b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", close=True), "upstream-bad"),
    (says(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000 + b"\r\n\r\n", close=True), "upstream-bad"),
], ids=["reset", "close", "reset-at-once", "truncated", "ssh", "length", "bare-lf", "too-big"])
def test_broken_backend(proxy, backend, handler, reason):
    bad, good = backend(handler), backend()
    p = proxy(f"bad.test={bad.url}", f"app.test={good.url}", expect=[TROUBLE])
    judge_page(p, p.ask(host="bad.test", method="POST", body=b"x"), 502, [bad.port])
    assert p.ask(host="app.test").status == 200
    assert p.access(2)[0].reason == reason


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_answer_cut_short_is_cut_for_the_client_too(proxy, backend, framing, end):
    def handler(conn):
        conn.request()
        if framing == "length":
            conn.send(reply(200, "Content-Length: 100", length=False), b"part")
        else:
            conn.send(reply(200, "Transfer-Encoding: chunked", length=False), chunk(b"part"))
        time.sleep(0.2)  # or the reset overtakes the bytes
        if end == "reset":
            reset(conn.sock)

    p = proxy(f"app.test={backend(handler).url}", expect=[TROUBLE])
    client = p.client()
    client.send(request())
    assert client.head().status == 200
    assert client.rest() == (b"part" if framing == "length" else chunk(b"part"))
    assert p.access()[0].reason == "upstream-reset"


def test_a_backend_that_comes_back_is_used_again(proxy, backend):
    b = backend()
    p = proxy(f"app.test={b.url}", expect=[TROUBLE])
    assert p.ask().status == 200
    b.close()
    wait_for(lambda: p.ask().status == 502, "502")
    again = backend(port=b.port)
    wait_for(lambda: p.ask().status == 200, "200", 3)
    assert len(again.requests) >= 1


@pytest.mark.release
def test_a_stale_pooled_connection_is_replaced(proxy, backend):
    """The backend closes after each answer without a word, as if just then its keep-alive ran
    out: a GET must never notice."""
    def handler(conn):
        if conn.request():
            conn.send(reply(200, body=b"ok"))
            time.sleep(0.003)

    p = proxy(f"app.test={backend(handler).url}", expect=[TROUBLE])
    client = p.client()
    for i in range(60):
        assert client.ask().status == 200
        time.sleep(0.0005 * (i % 12))


def test_a_post_is_never_sent_twice(proxy, backend):
    """A reused connection that dies after taking the whole POST: 502, and only one POST."""
    def handler(conn):
        while True:
            r = conn.request()
            if not r:
                return
            if r.method == "POST":
                return reset(conn.sock)
            conn.send(reply(200, body=b"ok"))

    b = backend(handler)
    client = proxy(f"app.test={b.url}", expect=[TROUBLE]).client()
    assert client.ask().status == 200
    assert client.ask(method="POST", body=b"x" * 100).status == 502
    assert [r.method for r in b.requests] == ["GET", "POST"]


def test_a_name_that_does_not_resolve_harms_only_its_host(proxy, backend):
    p = proxy("gone.test=http://nobody.invalid:80", f"app.test={backend().url}", expect=[TROUBLE])
    assert p.ask(host="app.test").status == 200
    judge_page(p, p.ask(host="gone.test"), 502, ["nobody.invalid"])
    assert p.access(2)[1].reason == "upstream-unresolved"


def test_more_connections_than_allowed_wait_their_turn(proxy, backend):
    p = proxy(f"app.test={backend().url}", max_conns=8, max_conns_per_ip=0)
    held = [p.client() for _ in range(8)]
    assert [c.ask().status for c in held] == [200] * 8
    late = p.client()  # accepted by the kernel only
    late.send(request())
    assert late.quiet(0.3)
    held[0].close()
    assert late.answer().status == 200


def test_connections_per_address(proxy, backend):
    p = proxy(f"app.test={backend().url}", max_conns_per_ip=4)
    held = [p.client() for _ in range(4)]
    assert [c.ask().status for c in held] == [200] * 4
    fifth = p.client()
    assert fifth.rest() == b""
    held[0].close()

    def free():
        client = p.client()
        try:
            return client.ask().status == 200
        except (EOFError, ConnectionError):
            return False
    wait_for(free, "the place to be free")


# ==[ a bad configuration ]========================================================================


def refused(args, *wanted, status=2):
    got, out, err = run(*args)
    assert got == status, (got, out, err)
    assert out == ""
    for line in err.splitlines():
        assert line.startswith("rproxy: ") or re.match(r"\S+:\d+: ", line), line
    for text in wanted:
        assert str(text) in err, f"{text!r} not in {err!r}"


ROUTE = ["--http", "127.0.0.1:0", "--route"]


@pytest.mark.release
@pytest.mark.parametrize("args, wanted", [
    (["--htpp", "80"], ["--htpp"]),
    (["--http", "99999"], ["99999"]),
    (["--http", "eighty"], ["eighty"]),
    (["--http"], ["--http"]),
    (["--http", "300.1.2.3:80"], ["300.1.2.3"]),
    (["--idle-timeout", "5 parsecs"], ["5 parsecs", "idle-timeout"]),
    (["--idle-timeout=-1s"], ["-1s"]),
    (["--head-max", "lots"], ["lots"]),
    (["--head-max", "1g"], ["1g"]),
    (["--max-conns", "0"], ["0", "max-conns"]),
    (["--max-conns", "99999999999999999999"], ["99999999999999999999"]),
    (["--default", "200"], ["200"]),
    (["--default", "nope"], ["nope", "drop"]),
    (["--log-format", "xml"], ["xml", "combined", "json"]),
    (["--trust", "10.0.0.0/99"], ["10.0.0.0/99"]),
    (["--public-port", "70000"], ["70000"]),
    (["--config", "/nonexistent/rproxy.conf"], ["/nonexistent/rproxy.conf"]),
    (["stray"], ["stray"]),
    ([*ROUTE, "app.test"], ["app.test"]),
    ([*ROUTE, "app.test=ftp://127.0.0.1"], ["ftp://127.0.0.1", "http://"]),
    ([*ROUTE, "app.test=http://"], ["http://"]),
    ([*ROUTE, "app.test=http://127.0.0.1:0"], ["127.0.0.1:0"]),
    ([*ROUTE, "app.test=http://127.0.0.1:99999"], ["99999"]),
    ([*ROUTE, "app.test=127.0.0.1:80"], ["127.0.0.1:80"]),
    ([*ROUTE, "app.test=http://127.0.0.1 colour=blue"], ["colour"]),
    ([*ROUTE, "app.test=http://127.0.0.1 rate=0/s"], ["0/s"]),
    ([*ROUTE, "app.test=http://127.0.0.1,status:404"], ["status:404"]),
    ([*ROUTE, "app.test=status:99"], ["99"]),
    ([*ROUTE, "app.test=redirect:nowhere"], ["nowhere"]),
    ([*ROUTE, "a..test=http://127.0.0.1"], ["a..test"]),
    ([*ROUTE, "a.*.test=http://127.0.0.1"], ["a.*.test"]),
    ([*ROUTE, "app.test=http://127.0.0.1", "--route", "APP.test.=http://127.0.0.2"], ["APP.test"]),
    ([*ROUTE, "a.test/x=http://127.0.0.1", "--route", "a.test/x/=http://127.0.0.2"], ["a.test/x"]),
    ([*ROUTE, "app.test=http://127.0.0.1 auth=/nonexistent/pw"], ["/nonexistent/pw"]),
    ([*ROUTE, "app.test=https://127.0.0.1 verify=maybe"], ["maybe"]),
], ids=lambda v: v[-1] if isinstance(v, list) and v else None)
def test_a_bad_value_is_named(args, wanted):
    refused(args, *wanted)
    refused([*args, "-t"] if args != ["--http"] else ["-t", *args], *wanted)


@pytest.mark.release
def test_bad_certificates(certs, tmp_path):
    junk, empty = tmp_path / "junk.pem", tmp_path / "empty.pem"
    junk.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    empty.write_text("")
    a, b = certs("a.test"), certs("b.test")
    for value, wanted in [
            (junk, [junk]), (empty, [empty]), (tmp_path, [tmp_path]),
            (a.chain, [a.chain]),  # no key in it
            (f"{a.chain},{b.key}", [b.key]),  # the key of another
            (f"{a.chain},{junk}", [junk])]:
        refused(["--https", "127.0.0.1:0", "--cert", value], *wanted)


def test_a_port_in_use():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(["--http", f"127.0.0.1:{port}"], f"127.0.0.1:{port}", status=1)


def test_a_log_that_cannot_be_written():
    refused(["--http", "127.0.0.1:0", "--log", "/nonexistent/dir/log"], "/nonexistent/dir/log",
            status=1)


@pytest.mark.release
def test_check_reports_every_error_with_file_and_line(tmp_path):
    more, main = tmp_path / "more.conf", tmp_path / "main.conf"
    more.write_text("# first\nhttp 127.0.0.1:0\nroute b.test=gopher://x\n")
    main.write_text("http nowhere\n\nroute a.test=http://127.0.0.1\nroutes x=y\n"
                    "include more.conf\nidle-timeout soon\nroute a.test=http://127.0.0.2\n")
    status, out, err = run("-t", "-c", main)
    assert (status, out) == (2, "")
    places = re.findall(r"(\S+\.conf):(\d+): ", err)
    for place in [(main, 1), (main, 4), (more, 3), (main, 6), (main, 7)]:
        assert (str(place[0]), str(place[1])) in places, err
    assert not {(str(main), "3"), (str(main), "5"), (str(more), "2")} & {
        re.match(r"(?:rproxy: )?(\S+):(\d+): ", line).groups() for line in err.splitlines()}
    for value in ("nowhere", "routes", "gopher://x", "soon", "a.test"):
        assert value in err


def test_check_of_a_good_file_opens_nothing(certs, tmp_path):
    conf = tmp_path / "good.conf"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        conf.write_text(f"http 127.0.0.1:{taken.getsockname()[1]}\nhttps 127.0.0.1:0\n"
                        f"cert {certs('a.test').pem}\nroute a.test=http://127.0.0.1:1\n")
        status, _, err = run("-t", "-c", conf)
    assert status == 0, err


def test_a_broken_certificate_is_found_by_check(tmp_path):
    junk, conf = tmp_path / "junk.pem", tmp_path / "c.conf"
    junk.write_text("junk")
    conf.write_text(f"https 127.0.0.1:0\ncert {junk}\n")
    status, _, err = run("-t", "-c", conf)
    assert status == 2
    assert str(junk) in err


def test_nothing_to_listen_on():
    refused([], "--http")


@pytest.mark.release
@pytest.mark.parametrize("name", [None, "app.test"], ids=["http", "https"])
def test_who_sends_all_of_a_refused_upload_can_read_why(proxy, backend, certs, name):
    """Browsers read the answer when they have sent: until then the connection is not reset."""
    size = 32 << 20
    p = proxy(f"app.test={backend().url} body-max=1m plain", https="127.0.0.1:0",
              cert=certs("app.test").pem)
    for _ in range(4):
        client = p.client(name)
        client.send(request("/", f"Content-Length: {size}", method="POST"))
        for _ in range(0, size, 1 << 20):
            client.send(bytes(1 << 20))
        assert client.answer().status == 413


@pytest.mark.release
@pytest.mark.parametrize("status, reason, fields", [
    (204, "No Content", set()), (200, "OK", {"content-type", "content-length"}),
    (299, "Success", {"content-type", "content-length"}),
    (499, "Client Error", {"content-type", "content-length"})])
def test_status_targets_say_what_their_status_allows(proxy, status, reason, fields):
    """RFC 9110 8.6 and 15.3.5."""
    p = proxy(f"app.test=status:{status}")
    client = p.client()
    for _ in range(2):
        answer = client.ask()
        assert answer.line == f"HTTP/1.1 {status} {reason}".encode()
        assert set(answer.fields.names()) - {"connection"} == fields | {"cache-control", "date"}
