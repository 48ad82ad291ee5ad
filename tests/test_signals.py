"""Signals: TERM drains, HUP reloads as a whole or not at all, USR1 reopens, USR2 lists."""

import re
import signal
import socket
import threading
import time

import pytest

from harness import COMBINED, Client, chunk, reply, request, says, wait_for

RELOAD = r"rproxy: .*reload.*"


class Gate:
    """A backend whose answers stop half way until they are let go."""

    def __init__(self, backend):
        self.go, self.begun = threading.Event(), 0
        self.backend = backend(self.handle)
        self.url = self.backend.url

    def handle(self, conn):
        while conn.request():
            conn.send(reply(200, "Transfer-Encoding: chunked", length=False), chunk(b"first"))
            self.begun += 1
            self.go.wait(20)
            conn.send(chunk(b"second"), b"0\r\n\r\n")

    def under_way(self, client):
        client.send(request("/slow"))
        assert client.head().status == 200
        assert client.chunk() == b"first"
        return client

    def finish(self, client):
        self.go.set()
        assert client.chunk() == b"second"
        assert client.chunk() == b""


@pytest.fixture
def gate(backend):
    g = Gate(backend)
    yield g
    g.go.set()


def refuses(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) != 0


# ==[ TERM, INT ]==================================================================================


@pytest.mark.release
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_what_is_under_way_is_finished(proxy, backend, gate, number):
    p = proxy(f"app.test={gate.url}", expect=[r"rproxy: .*(stop|drain|sign).*"])
    client = gate.under_way(p.client())
    p.signal(number)
    wait_for(lambda: refuses(p.http[0]), "the listener to be closed")
    assert p.process.poll() is None
    gate.finish(client)
    assert p.wait() == 0
    assert p.access()[0].reason == "-"


def test_idle_connections_are_closed_at_once(proxy, backend, gate):
    p = proxy(f"app.test={gate.url}", f"idle.test={backend().url}", drain_timeout="1h",
              expect=[r"rproxy: .*(stop|drain|sign).*"])
    idle, fresh, busy = p.client(), p.client(), gate.under_way(p.client())
    assert idle.ask(host="idle.test").status == 200
    p.signal(signal.SIGTERM)
    assert idle.rest() == b""
    assert fresh.rest() == b""
    gate.finish(busy)
    assert busy.rest() == b""  # no second request on it
    assert p.wait() == 0


def test_answers_while_draining_say_close(proxy, backend):
    b = backend(says(0.6, reply(200, body=b"late")))
    p = proxy(f"app.test={b.url}", expect=[r"rproxy: .*(stop|drain|sign).*"])
    client = p.client()
    client.send(request())
    wait_for(lambda: b.requests, "the request")
    p.signal(signal.SIGTERM)
    answer = client.answer()
    assert (answer.body, answer.get("Connection")) == (b"late", "close")
    assert client.rest() == b""
    assert p.wait() == 0


@pytest.mark.release
def test_drain_timeout(proxy, gate):
    p = proxy(f"app.test={gate.url}", drain_timeout="1s", expect=[r"rproxy: .*(stop|drain|sign).*"])
    client = gate.under_way(p.client())
    start = time.monotonic()
    p.signal(signal.SIGTERM)
    assert client.rest() == b""
    assert p.wait() == 0
    assert time.monotonic() - start > 0.9
    assert p.access()[0].reason == "draining"


@pytest.mark.release
def test_a_second_signal_ends_at_once(proxy, gate):
    p = proxy(f"app.test={gate.url}", drain_timeout="1h",
              expect=[r"rproxy: .*(stop|drain|sign).*"])
    gate.under_way(p.client())
    p.signal(signal.SIGTERM)
    wait_for(lambda: refuses(p.http[0]), "the listener to be closed")
    assert p.process.poll() is None
    p.signal(signal.SIGTERM)
    assert p.wait() >= 0  # by itself, not killed


def test_a_proxy_that_does_nothing_stops_at_once(proxy):
    p = proxy("a.test=status:410", drain_timeout="1h")
    p.stop()


# ==[ HUP ]========================================================================================


@pytest.fixture
def conf(tmp_path):
    def write(*lines):
        new = tmp_path / "rproxy.conf.new"
        new.write_text("\n".join(lines) + "\n")
        new.rename(tmp_path / "rproxy.conf")  # a HUP may be reading it: never half a file
        return ["-c", str(tmp_path / "rproxy.conf")]
    return write


def reloaded(p, host, status):
    """Waits until a new connection gets this answer for the host."""
    def now():
        return p.ask(host=host).status == status
    wait_for(now, f"{host} to answer {status}")


@pytest.mark.release
def test_reload_adds_a_route_and_cuts_nothing(proxy, gate, conf):
    lines = ["http 127.0.0.1:0", f"route app.test={gate.url}"]
    p = proxy(args=conf(*lines), expect=[RELOAD])
    download = gate.under_way(p.client())
    kept = p.client()
    assert kept.ask(host="new.test").status == 404
    conf(*lines, "route new.test=status:410")
    p.signal(signal.SIGHUP)
    reloaded(p, "new.test", 410)
    assert kept.ask(host="new.test").status == 410  # an idle connection goes on, newly routed
    gate.finish(download)
    assert download.ask(host="new.test").status == 410


def test_reload_removes_the_route_of_a_running_download(proxy, gate, conf):
    p = proxy(args=conf("http 127.0.0.1:0", f"route app.test={gate.url}"), expect=[RELOAD])
    download = gate.under_way(p.client())
    conf("http 127.0.0.1:0", "route other.test=status:410")
    p.signal(signal.SIGHUP)
    reloaded(p, "app.test", 404)
    gate.finish(download)


@pytest.mark.release
@pytest.mark.parametrize("bad", [
    "route new.test=gopher://x", "nonsense 1", "idle-timeout never",
    "route app.test=status:410", "include /nonexistent/file.conf"])
def test_a_bad_reload_keeps_the_old(proxy, backend, conf, bad):
    lines = ["http 127.0.0.1:0", f"route app.test={backend().url}"]
    p = proxy(args=conf(*lines), expect=[RELOAD, r".*rproxy\.conf:\d+: .*"])
    conf(*lines, "route new.test=status:410", bad)
    p.signal(signal.SIGHUP)
    assert "rproxy.conf:4: " in p.said(r"rproxy\.conf:\d+: ")
    assert p.ask().status == 200
    assert p.ask(host="new.test").status == 404
    conf(*lines, "route new.test=status:410")
    p.signal(signal.SIGHUP)
    reloaded(p, "new.test", 410)


def test_reload_opens_and_closes_listeners(proxy, backend, conf):
    route = f"route app.test={backend().url}"
    with socket.socket() as s:  # ports must be named here: with 0 none could be recognised
        s.bind(("127.0.0.1", 0))
        kept = s.getsockname()[1]
    ports = [kept]
    while len(ports) < 3:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            if s.getsockname()[1] not in ports:
                ports.append(s.getsockname()[1])
    p = proxy(args=conf(route, *(f"http 127.0.0.1:{n}" for n in ports[:2])), expect=[RELOAD])
    conf(route, *(f"http 127.0.0.1:{n}" for n in (ports[0], ports[2])))
    p.signal(signal.SIGHUP)
    wait_for(lambda: not refuses(ports[2]) and refuses(ports[1]), "the listeners to change")
    for port in (ports[0], ports[2]):
        assert Client(port).ask().status == 200


def test_reload_with_a_port_in_use_keeps_the_old(proxy, backend, conf):
    lines = ["http 127.0.0.1:0", f"route app.test={backend().url}"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        p = proxy(args=conf(*lines), expect=[RELOAD, rf"rproxy: .*127\.0\.0\.1:{port}.*"])
        conf(*lines, f"http 127.0.0.1:{port}", "route new.test=status:410")
        p.signal(signal.SIGHUP)
        p.said(rf"127\.0\.0\.1:{port}")
        assert p.ask().status == 200
        assert p.ask(host="new.test").status == 404


@pytest.mark.release
def test_reload_takes_up_a_new_certificate(proxy, backend, certs, conf, tmp_path):
    here = tmp_path / "site.pem"
    here.write_bytes(certs("app.test").pem.read_bytes())
    p = proxy(args=conf("http 127.0.0.1:0", "https 127.0.0.1:0", f"cert {here}",
                        f"route *={backend().url}"), expect=[RELOAD])
    old = p.client("app.test")
    assert old.ask().status == 200
    here.write_bytes(certs("app.test", "www.app.test").pem.read_bytes())
    p.signal(signal.SIGHUP)

    def new():
        names = p.client("app.test").sock.getpeercert()["subjectAltName"]
        return ("DNS", "www.app.test") in names
    wait_for(new, "the new certificate")
    assert old.ask().status == 200
    assert p.client("www.app.test").ask(host="www.app.test").status == 200


def test_many_reloads_under_load(proxy, backend, conf):
    lines = ["http 127.0.0.1:0", f"route app.test={backend().url}"]
    p = proxy(args=conf(*lines), expect=[RELOAD])
    over, statuses = threading.Event(), []

    def load():
        client = p.client()
        while not over.is_set():
            statuses.append(client.ask().status)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for t in threads:
        t.start()
    for i in range(40):
        conf(*lines, f"route r{i}.test=status:410")
        p.signal(signal.SIGHUP)
        time.sleep(0.02)
    reloaded(p, "r39.test", 410)
    over.set()
    for t in threads:
        t.join()
    assert len(statuses) > 40 and set(statuses) == {200}


# ==[ USR1, USR2 ]=================================================================================


@pytest.mark.release
def test_usr1_reopens_the_log(proxy, backend, tmp_path):
    log, old = tmp_path / "log", tmp_path / "log.1"
    p = proxy(f"app.test={backend().url}", log=log)

    def holds(path, target):
        return path.exists() and any(
            m["request"].split()[1] == target for m in
            (COMBINED.fullmatch(s) for s in path.read_text().splitlines()) if m)

    p.ask("/before")
    wait_for(lambda: holds(log, "/before"), "the first line")
    log.rename(old)
    p.ask("/still")
    wait_for(lambda: holds(old, "/still"), "the line in the renamed file")
    p.signal(signal.SIGUSR1)
    wait_for(log.exists, "a new log")
    p.ask("/after")
    wait_for(lambda: holds(log, "/after"), "the line in the new file")
    assert not holds(log, "/before") and not holds(old, "/after")


@pytest.mark.release
def test_usr2_lists_what_is_under_way(proxy, gate):
    p = proxy(f"app.test={gate.url}", expect=[r"rproxy: .*/slow.*", r"rproxy: .*transaction.*"])
    clients = [gate.under_way(p.client()) for _ in range(3)]
    idle = p.client()
    assert idle.ask(host="none.test").status == 404
    p.signal(signal.SIGUSR2)
    wait_for(lambda: sum("/slow" in s and not COMBINED.fullmatch(s) for s in p.lines) == 3,
             "three lines")
    assert all(re.search(r"127\.0\.0\.1", s) for s in p.lines if "/slow" in s)
    gate.go.set()
    for client in clients:
        gate.finish(client)
