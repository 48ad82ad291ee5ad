"""The access log: one line per request, with every member, and the word that says why."""

import base64
import datetime
import hashlib
import json
import pathlib
import re
import resource
import time

import pytest

from harness import (COMBINED, TROUBLE, Client, dead_port, reply, request, reset, run, says,
                     wait_for)

MEMBERS = """time peer vhost method target version status bytes upstream total_ms first_ms tls
cipher reason referer agent""".split()


@pytest.mark.release
def test_combined_line(proxy, backend):
    b = backend(says(0.05, reply(200, body=b"x" * 123)))
    p = proxy(f"app.test={b.url}")
    p.ask("/a?b=c", "Referer: http://r.test/", "User-Agent: Agent/1 (x; y)", host="APP.test:80")
    line = p.access()[0]
    assert (line.vhost, line.peer, line.user) == ("app.test", "127.0.0.1", "-")
    assert (line.request, line.status, line.bytes) == ("GET /a?b=c HTTP/1.1", "200", "123")
    assert (line.referer, line.agent) == ("http://r.test/", "Agent/1 (x; y)")
    assert (line.upstream, line.tls, line.cipher) == (b.url, "-", "-")
    assert 50 <= int(line.first_ms) <= int(line.total_ms) < 5000
    assert line.reason == "-"
    said = datetime.datetime.strptime(line.time, "%d/%b/%Y:%H:%M:%S %z").timestamp()
    assert abs(said - time.time()) < 60


def test_where_it_listens_is_said_whatever_the_level(proxy, backend):
    p = proxy(f"app.test={backend().url}", log_level="error")  # which waits for "ready"
    assert p.ask().status == 200


@pytest.mark.release
def test_json_line(proxy, backend, certs):
    b = backend(says(reply(200, body=b"x" * 123)))
    p = proxy(f"app.test={b.url}", https="127.0.0.1:0", cert=certs("app.test").pem,
              log_format="json")
    client = p.client("app.test")
    client.ask("/j", "User-Agent: quote\" back\\slash", method="POST", body=b"up")
    line = json.loads(p.said(r"^\{"))
    assert set(line) == set(MEMBERS)
    assert (line["method"], line["target"], line["version"]) == ("POST", "/j", "HTTP/1.1")
    assert (int(line["status"]), int(line["bytes"])) == (200, 123)
    assert (line["peer"], line["vhost"], line["upstream"]) == ("127.0.0.1", "app.test", b.url)
    assert line["agent"] == "quote\" back\\slash"
    assert "1.2" in line["tls"] and line["cipher"] not in ("", "-", None)
    assert line["reason"] == "-"


def test_absent_members(proxy, backend):
    p = proxy(f"app.test={backend().url}")
    p.ask()
    p.ask(host="none.test")
    here, none = p.access(2)
    assert (here.referer, here.agent) == ("-", "-")
    assert (none.upstream, none.status) == ("-", "404")


def test_one_line_for_each_request(proxy, backend):
    p = proxy(f"app.test={backend().url}")
    client = p.client()
    client.send(b"".join(request(f"/{i}") for i in range(50)))
    for _ in range(50):
        client.answer()
    assert [a.request.split()[1] for a in p.access(50)] == [f"/{i}" for i in range(50)]
    time.sleep(0.1)
    assert len(p.access(50)) == 50


def test_bytes_of_the_body_are_counted_without_framing(proxy, backend):
    b = backend(says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                     b"5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n"))
    p = proxy(f"app.test={b.url}")
    p.ask()
    p.ask(method="HEAD")
    assert [a.bytes for a in p.access(2)] == ["10", "0"]


HOSTILE = "a\"b\\c\xe9\xff\x9b\t' \" 200 0 \"fake"


@pytest.mark.release
@pytest.mark.parametrize("form", ["combined", "json"])
def test_bytes_from_outside_are_escaped(proxy, backend, form, tmp_path):
    log = tmp_path / "log"
    p = proxy(f"app.test={backend().url}", log=log, log_format=form)
    p.ask("/'\"%00?<\\>", f"User-Agent: {HOSTILE}", f"Referer: {HOSTILE}")
    wait_for(lambda: b"app.test" in log.read_bytes(), "the line")
    raw = log.read_bytes()
    assert re.fullmatch(rb"[ -~\n]+", raw), raw  # nothing but printable ASCII
    line = raw.decode().splitlines()[-1]
    if form == "json":
        assert json.loads(line)["status"] in (200, "200")
        assert json.loads(line)["reason"] == "-"
    else:
        m = COMBINED.fullmatch(line)
        assert (m["status"], m["reason"]) == ("200", "-")


def test_log_to_a_file_leaves_stderr_alone(proxy, backend, tmp_path):
    log = tmp_path / "log"
    p = proxy(f"app.test={backend().url}", log=log)
    p.ask()
    wait_for(lambda: log.exists() and COMBINED.search(log.read_text()), "the line in the file")
    assert not any(COMBINED.fullmatch(s) for s in p.lines)


def test_log_none(proxy, backend):
    p = proxy(f"app.test={backend().url}", log="none")
    p.ask()
    time.sleep(0.1)
    assert not any(COMBINED.fullmatch(s) for s in p.lines)


# ==[ the reasons ]================================================================================

UNASKED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
RAW = {
    "-": request(),
    "no-route": request(host="none.test"),
    "bad-request": b"GET  / HTTP/1.1\r\nHost: app.test\r\n\r\n",
    "head-too-big": request("/", *(f"X{i}: y" for i in range(120))),
    "uri-too-long": request("/" + "u" * 9000),
    "body-too-big": request("/", host="small.test", method="POST", body=b"x" * 2000),
    "denied": request(host="denied.test"),
    "auth-required": request(host="auth.test"),
    "method-refused": request(method="TRACE"),
    "redirect": request(host="moved.test"),
    "challenge": request("/.well-known/acme-challenge/token_1"),
    "upstream-refused": request(host="refused.test"),
    "upstream-reset": request(host="reset.test"),
    "upstream-bad": request(host="bad.test"),
    "upstream-unresolved": request(host="lost.test"),
    "upstream-timeout": request(host="silent.test"),
    "upgrade-refused": request(host="switch.test"),
}
STATUS = {"-": "200", "no-route": "404", "bad-request": "400", "head-too-big": "431",
          "uri-too-long": "414", "body-too-big": "413", "denied": "403", "auth-required": "401",
          "method-refused": "405", "challenge": "200", "upstream-refused": "502",
          "upstream-reset": "502", "upstream-bad": "502", "upstream-unresolved": "502",
          "upstream-timeout": "504", "upgrade-refused": "502", "redirect": "30[1278]"}


@pytest.mark.release
@pytest.mark.parametrize("reason", RAW)
def test_reason(proxy, backend, tmp_path, reason):
    (tmp_path / "token_1").write_text("token_1.thumbprint")
    digest = base64.b64encode(hashlib.sha1(b"pass").digest()).decode()
    (tmp_path / "htpasswd").write_text(f"user:{{SHA}}{digest}\n")
    url = backend().url
    p = proxy(
        f"app.test={url}", f"small.test={url} body-max=1k", f"denied.test={url} deny=127.0.0.0/8",
        f"auth.test={url} auth={tmp_path / 'htpasswd'}", "moved.test=redirect:https://new.test/",
        f"refused.test=http://127.0.0.1:{dead_port()}", "lost.test=http://nobody.invalid",
        f"reset.test={backend(lambda c: c.request() and reset(c.sock)).url}",
        f"bad.test={backend(says(b'nonsense', close=True)).url}",
        f"silent.test={backend(lambda c: c.request() and c.rest()).url} response-timeout=1s",
        f"switch.test={backend(says(UNASKED, close=True)).url}",
        acme_dir=tmp_path, expect=[TROUBLE])
    client = p.client()
    client.send(RAW[reason])
    answer = client.answer()
    line = p.access()[0]
    assert line.reason == reason
    assert re.fullmatch(STATUS[reason], line.status)
    assert line.status == str(answer.status)


def test_reason_rate_limited(proxy, backend):
    p = proxy(f"app.test={backend().url} rate=1/s:2")
    client = p.client()
    assert 429 in [client.ask().status for _ in range(4)]
    assert "rate-limited" in {a.reason for a in p.access(4)}


def test_reason_client_gone(proxy, backend):
    b = backend(lambda conn: conn.request() and conn.rest())
    p = proxy(f"app.test={b.url}")
    client = p.client()
    client.send(request())
    wait_for(lambda: b.requests, "the request")
    reset(client.sock)
    assert p.access()[0].reason == "client-gone"


def test_reason_upstream_waking(proxy):
    p = proxy(f"app.test=http://127.0.0.1:{dead_port()} wake=00:11:22:33:44:55@127.0.0.1",
              expect=[TROUBLE])
    assert p.ask().status == 503
    assert p.access()[0].reason == "upstream-waking"


def test_reason_internal(proxy, backend):
    """A client got the last descriptor, and none is left for the backend."""
    p = proxy(f"app.test={backend().url}", expect=[TROUBLE, "rproxy: can't accept: .*"])
    last = max(map(int, p.descriptors()))
    resource.prlimit(p.process.pid, resource.RLIMIT_NOFILE,
                     (last + 2, resource.prlimit(p.process.pid, resource.RLIMIT_NOFILE)[1]))
    client = p.client()
    assert [client.ask().status for _ in range(2)] == [503, 503]
    assert p.access()[0].reason == "internal"


# The others have their tests where their cause is at home.
ELSEWHERE = {"head-timeout": "test_timeouts.py", "body-timeout": "test_timeouts.py",
             "client-stalled": "test_timeouts.py", "upstream-stalled": "test_timeouts.py",
             "misdirected": "test_tls.py", "upstream-tls": "test_tls.py",
             "draining": "test_signals.py"}


def test_every_reason_has_a_test_that_makes_it_happen():
    reasons = re.findall(r"(?m)^\| `(\S+)` \|", run("--help=reasons")[1])
    assert len(reasons) > 20
    here = pathlib.Path(__file__)
    for reason in reasons:
        name = "test_reason_" + reason.replace("-", "_")
        if reason in ELSEWHERE:
            assert f'"{reason}"' in (here.parent / ELSEWHERE[reason]).read_text(), reason
        else:
            assert reason in RAW or f"def {name}(" in here.read_text(), reason


def test_credentials_and_user(proxy, backend, tmp_path):
    digest = base64.b64encode(hashlib.sha1(b"pass").digest()).decode()
    (tmp_path / "htpasswd").write_text(f"user:{{SHA}}{digest}\n")
    b = backend()
    p = proxy(f"app.test={b.url} auth={tmp_path / 'htpasswd'}")
    right, wrong = (base64.b64encode(c).decode() for c in (b"user:pass", b"user:fail"))
    client = p.client()
    assert client.ask("/", f"Authorization: Basic {wrong}").status == 401
    answer = client.ask()
    assert (answer.status, answer.get("WWW-Authenticate").split()[0]) == (401, "Basic")
    assert client.ask("/", f"Authorization: Basic {right}").status == 200
    assert b.requests[0].get("Authorization") is None  # used here, so not passed on
    assert p.access(3)[2].user == "user"


@pytest.mark.release
@pytest.mark.parametrize("line, shown", [
    ("GET / HTTP/2.0", "GET / HTTP/2.0"), ("GET /a b HTTP/1.1", "GET /a b HTTP/1.1"),
    ("EHLO x", "EHLO x"), ("GET /", "GET /"), ("GET / HTTP/1.0", "GET / HTTP/1.0"),
    ("GET / http/1.1", "GET / http/1.1"), ('G"T / HTTP/1.1', 'G\\"T / HTTP/1.1')])
def test_the_request_line_as_it_came(proxy, backend, line, shown):
    p = proxy(f"app.test={backend().url}")
    client = p.client()
    client.send(line.encode() + b"\r\nHost: app.test\r\nA : b\r\n\r\n")
    client.rest()
    assert p.access()[0].request == shown


@pytest.mark.release
@pytest.mark.parametrize("form", ["combined", "json"])
def test_a_line_is_whole_whatever_a_visitor_sends(proxy, backend, form):
    """What grows by being escaped is cut, and what stands behind it is there."""
    host = ".".join(["a" * 60] * 4)[:243]
    p = proxy(f"*={backend().url}", log_format=form)
    p.ask("/" + '"' * 899, "Referer: " + "\xe9" * 300, "User-Agent: " + "\xe9" * 300, host=host)
    if form == "json":
        line = json.loads(p.said(r"^\{"))
        assert line["vhost"] == host and line["reason"] == "-" and line["target"].endswith("...")
    else:
        line = p.access()[0]
        assert line.vhost == host and line.reason == "-" and line.request.startswith('GET /\\"')


def test_a_target_that_fails_and_works_again_is_an_event(proxy, backend):
    port, good = dead_port(), backend()
    p = proxy(f"app.test=http://127.0.0.1:{port},{good.url}", log_level="warn", expect=[TROUBLE])
    assert p.ask().status == 200
    p.said(rf"target http://127\.0\.0\.1:{port} fails: upstream-refused")
    backend(port=port)
    wait_for(lambda: p.ask("/").status == 200 and any("works again" in s for s in p.lines),
             "the target to be tried")
    assert not [s for s in p.lines if '"GET' in s]


def test_a_peer_without_its_proxy_header_is_an_event(proxy, backend):
    p = proxy(f"app.test={backend().url}", accept_proxy="127.0.0.0/8",
              expect=[r"rproxy: 127\.0\.0\.1: no PROXY header, which accept-proxy expects of it"])
    client = p.client()
    client.send(request())
    client.rest()
    p.said("no PROXY header")


def test_connections_that_never_come_to_a_request_are_events_of_debug(proxy, backend, certs):
    p = proxy(f"app.test={backend().url}", https="127.0.0.1:0", cert=certs("app.test").pem,
              log_level="debug", max_conns_per_ip=1, expect=[r"rproxy: 127\.0\.0\.1: .*"])
    Client(p.https[0], first=b"\x16\x03\x01\x00\x05hello").rest()
    p.said(r"127\.0\.0\.1: TLS: what it said is no ClientHello")
    wait_for(lambda: len(p.descriptors()) == p.fds, "it to be gone")
    held = Client(p.https[0])
    Client(p.https[0]).rest()
    held.close()
    p.said(r"127\.0\.0\.1: more connections than max-conns-per-ip")
