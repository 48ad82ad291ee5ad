"""HUP is a transaction: all of the new configuration, or all of the old; nothing under way is cut."""

import base64
import contextlib
import ctypes
import hashlib
import os
import re
import resource
import signal
import socket
import subprocess
import threading
import time

import pytest

import harness
from harness import (BIG, COMBINED, EMULATED, PATIENCE, ROOT, Client, dead_port, reply, request,
                     sanitized, says, wait_for)
from test_signals import RELOAD, Gate, refuses, reloaded

LISTENING = r"rproxy: listening .*"
WRONG = r"rproxy: .*(rproxy\.conf|more\.conf):\d+: .*"
FAILED = r"rproxy: reload failed: .*"


@pytest.fixture
def gate(backend):
    g = Gate(backend)
    yield g
    g.go.set()


@pytest.fixture
def conf(tmp_path):
    """conf(LINE, ...) writes the file; the arguments that name it."""
    def write(*lines):
        new = write.folder / "rproxy.conf.new"
        new.write_text("\n".join(map(str, lines)) + "\n")
        new.rename(write.folder / "rproxy.conf")  # a HUP may be reading it: never half a file
        return ["-c", str(write.folder / "rproxy.conf")]
    write.folder = tmp_path
    return write


def children(p):
    """The processes that it has started."""
    pid = p.process.pid
    return set(open(f"/proc/{pid}/task/{pid}/children").read().split())


def hup(p, good=True):
    """Sends HUP and waits for the verdict; what was said on the way."""
    before = len(p.lines)
    p.signal(signal.SIGHUP)

    def verdict():
        new = list(p.lines[before:])
        end = [i for i, s in enumerate(new) if s == "rproxy: reloaded" or re.match(FAILED, s)]
        return new[:end[0] + 1] if end else None
    said = wait_for(lambda: p.process.poll() is not None or verdict(),
                    f"a verdict in {p.lines[before:]}")
    assert p.process.poll() is None, f"died with {p.process.poll()}: {p.lines[before:]}"
    assert (said[-1] == "rproxy: reloaded") == good, said
    return said


@contextlib.contextmanager
def own_network():
    """This thread, and what it starts, in a network of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    assert libc.unshare(0x40000000) == 0, os.strerror(ctypes.get_errno())
    try:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        assert libc.setns(outside, 0x40000000) == 0, os.strerror(ctypes.get_errno())
        os.close(outside)


# ==[ what is wrong ]==============================================================================

# Each is added to a good configuration as its line 4, {0} is the folder.
WRONGS = [
    "nonsense 1", "http 99999", "http here", "https ::1:443", "route", "route x",
    "route new.test=gopher://x", "route app.test=status:410", "route a.test=http://127.0.0.1:0",
    "route a.test=status:99", "route a.test=http://127.0.0.1 frobnicate",
    "route a.test=http://127.0.0.1,status:404", "route a.test=http://127.0.0.1 rate=0/s",
    "route a.test=http://127.0.0.1 auth={0}/missing", "route a.test=https://127.0.0.1 ca={0}/noise",
    "route a.test=http://127.0.0.1 error-page={0}/missing", "route a.test=http://127.0.0.1 wake=1",
    "idle-timeout never", "max-conns 0", "head-max 1g", "default 200", "trust 1.2.3.4/40",
    "cert {0}/noise", "cert-dir {0}/noise", "include {0}/missing.conf", "include {0}/more.conf",
    "log-format xml", "log {0}/missing/log", "log {0}", "pid-file {0}/missing/pid",
    "http 127.0.0.1:{1}", "http 192.0.2.1:80", "default-cert", 'log "half',
]


@pytest.mark.release
def test_wrong_configurations_are_refused_with_file_and_line(proxy, backend, conf, tmp_path):
    b = backend()
    (tmp_path / "noise").write_text("this is no PEM\n")
    (tmp_path / "more.conf").write_text("# nothing\nidle-timeout 5 s\n")
    good = ["http 127.0.0.1:0", f"route app.test={b.url}", "route old.test=status:410"]
    p = proxy(args=conf(*good), expect=[RELOAD, WRONG])
    kept = p.client()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert kept.ask(host="old.test").status == 410
        before = p.descriptors()
        for wrong in WRONGS:
            line = wrong.format(tmp_path, taken.getsockname()[1])
            conf(*good[:2], "route new.test=status:411", line)
            said = hup(p, good=False)
            place = "more.conf:2: " if "more.conf" in line else "rproxy.conf:4: "
            assert any(place in s for s in said), (line, said)
            assert kept.ask(host="new.test").status == 404
            assert kept.ask(host="old.test").status == 410
            assert p.descriptors() == before and not children(p), line
    conf(*good[:2], "route new.test=status:411")
    hup(p)
    assert kept.ask(host="new.test").status == 411


def test_every_error_of_a_configuration_is_named_each_time(proxy, conf):
    good = ["http 127.0.0.1:0", "route app.test=status:410"]
    p = proxy(args=conf(*good), expect=[RELOAD, WRONG])
    conf(*good, "nonsense", "idle-timeout x", "route y")
    for _ in range(3):  # not folded: each HUP gets its answer
        said = hup(p, good=False)
        assert [s[:s.index(": ", 20)].rsplit(":", 1)[1] for s in said[:-1]] == ["3", "4", "5"], said


def test_a_missing_file_is_named(proxy, conf, tmp_path):
    p = proxy(args=conf("http 127.0.0.1:0", "route app.test=status:410"),
              expect=[RELOAD, r"rproxy: .*rproxy\.conf.*"])
    (tmp_path / "rproxy.conf").unlink()
    assert any("rproxy.conf" in s for s in hup(p, good=False)[:-1])
    assert p.ask().status == 410


@pytest.mark.release
def test_an_error_at_the_last_step_leaves_nothing_behind(proxy, backend, conf, tmp_path):
    """All that a reload may open: listeners, helpers, a pid file; then the log can't be opened."""
    digest = base64.b64encode(hashlib.sha1(b"pass").digest()).decode()
    (tmp_path / "htpasswd").write_text(f"user:{{SHA}}{digest}\n")
    good = ["http 127.0.0.1:0", f"route app.test={backend().url}", f"log {tmp_path}/log",
            f"pid-file {tmp_path}/pid"]
    p = proxy(args=conf(*good))
    before, port = p.descriptors(), dead_port()
    conf(*good[:2], f"pid-file {tmp_path}/pid2", f"log {tmp_path}/missing/log",
         f"http 127.0.0.1:{port}", "route a.test=http://nobody.invalid",
         f"route b.test=status:411 auth={tmp_path}/htpasswd")
    p.signal(signal.SIGHUP)
    log = tmp_path / "log"
    wait_for(lambda: "reload failed" in log.read_text(), "the verdict")
    assert p.descriptors() == before and not children(p)
    assert refuses(port)
    assert (tmp_path / "pid").read_text().strip() == str(p.process.pid)
    assert not (tmp_path / "pid2").exists()
    assert p.ask(host="b.test").status == 404
    wait_for(lambda: COMBINED.fullmatch(log.read_text().splitlines()[-1]), "lines in the old log")


@pytest.mark.release
def test_what_only_a_restart_changes_is_said(proxy, conf, tmp_path):
    good = ["http 127.0.0.1:0", "route app.test=status:410"]
    p = proxy(args=conf(*good), expect=[RELOAD, r"rproxy: .* changes with a restart only"])
    conf(*good[:1], "route app.test=status:411", "max-conns 100", "session-cache 10",
         "head-max 60k", "user 65534", f"chroot {tmp_path}")
    said = hup(p)
    for option in ("max-conns", "session-cache", "head-max", "user", "chroot"):
        assert any(re.match(rf"rproxy: .*{option} changes", s) for s in said), said
    assert p.ask().status == 411


# ==[ what is read again ]=========================================================================


@pytest.mark.release
def test_password_and_error_page_files_are_read_again(proxy, conf, tmp_path):
    def password(word):
        digest = base64.b64encode(hashlib.sha1(word.encode()).digest()).decode()
        (tmp_path / "htpasswd").write_text(f"user:{{SHA}}{digest}\n")

    def status(word):
        field = base64.b64encode(f"user:{word}".encode()).decode()
        return p.ask("/", f"Authorization: Basic {field}", host="door.test").status

    password("old")
    (tmp_path / "page.html").write_text("the old page")
    p = proxy(args=conf("http 127.0.0.1:0", f"route door.test=http://127.0.0.1:{dead_port()} "
                        f"auth={tmp_path}/htpasswd error-page={tmp_path}/page.html"),
              expect=[RELOAD, harness.TROUBLE])
    assert status("old") == 502 and status("new") == 401
    password("new")
    (tmp_path / "page.html").write_text("the new page")
    assert status("old") == 502  # files count when HUP comes
    hup(p)
    assert status("new") == 502 and status("old") == 401
    field = base64.b64encode(b"user:new").decode()
    assert p.ask("/", f"Authorization: Basic {field}", host="door.test").body == b"the new page"


@pytest.mark.release
def test_a_lost_or_broken_certificate_keeps_the_old(proxy, backend, certs, conf, tmp_path):
    here = tmp_path / "site.pem"
    pem = certs("app.test").pem.read_bytes()
    here.write_bytes(pem)
    p = proxy(args=conf("http 127.0.0.1:0", "https 127.0.0.1:0", f"cert {here}",
                        f"route app.test={backend().url}"), expect=[RELOAD, r"rproxy: .*site\.pem.*"])
    for broken in (None, b"", pem[:len(pem) // 2]):
        here.unlink(missing_ok=True)
        if broken is not None:
            here.write_bytes(broken)
        assert any("site.pem" in s for s in hup(p, good=False))
        assert p.client("app.test").ask().status == 200
    here.write_bytes(pem)
    hup(p)
    assert p.client("app.test").ask().status == 200


@pytest.mark.release
def test_the_pid_file_moves(proxy, conf, tmp_path):
    good = ["http 127.0.0.1:0", "route app.test=status:410"]
    p = proxy(args=conf(*good, f"pid-file {tmp_path}/one"), expect=[RELOAD])
    one, two = tmp_path / "one", tmp_path / "two"
    assert one.read_text() == f"{p.process.pid}\n"
    conf(*good, f"pid-file {two}")
    hup(p)
    assert two.read_text() == f"{p.process.pid}\n" and not one.exists()
    hup(p)
    assert two.read_text() == f"{p.process.pid}\n"
    conf(*good)
    hup(p)
    assert not two.exists()
    conf(*good, f"pid-file {one}")
    hup(p)
    p.stop()
    assert not one.exists()


def test_a_pid_file_of_a_successor_is_left_alone(proxy, conf, tmp_path):
    p = proxy("app.test=status:410", pid_file=tmp_path / "pid")
    other = proxy("app.test=status:410", pid_file=tmp_path / "pid")
    p.stop()
    assert (tmp_path / "pid").read_text() == f"{other.process.pid}\n"


@pytest.mark.release
def test_the_log_moves(proxy, conf, tmp_path):
    good = ["http 127.0.0.1:0", "route app.test=status:410"]
    one, two = tmp_path / "one", tmp_path / "two"
    p = proxy(args=conf(*good, f"log {one}"))
    p.ask("/first")
    wait_for(lambda: "/first" in one.read_text(), "the first line")
    conf(*good, f"log {two}", "log-format json")
    p.signal(signal.SIGHUP)
    wait_for(lambda: two.exists() and "reloaded" in two.read_text(), "the new log")
    p.ask("/second")
    wait_for(lambda: "/second" in two.read_text(), "the second line")
    assert "/second" not in one.read_text() and '{"time"' in two.read_text()


# ==[ listeners ]==================================================================================


@pytest.mark.release
def test_a_port_becomes_https_and_http_again(proxy, backend, certs, conf):
    port, other = dead_port(), dead_port()
    lines = [f"http 127.0.0.1:{other}", f"cert {certs('app.test').pem}",
             f"route app.test={backend().url} plain"]
    p = proxy(args=conf(*lines, f"http 127.0.0.1:{port}"), expect=[RELOAD, LISTENING])
    kept = Client(port)
    assert kept.ask().status == 200
    conf(*lines, f"https 127.0.0.1:{port}")
    hup(p)
    assert Client(port, "app.test", context=certs.trust()).ask().status == 200
    assert kept.ask().status == 200  # it came in by HTTP and goes on so
    conf(*lines, f"http 127.0.0.1:{port}")
    hup(p)
    assert Client(port).ask().status == 200


@pytest.mark.release
def test_an_address_widens_and_narrows(proxy, backend, conf):
    """Sockets that can't be bound side by side: the old one makes way."""
    port, route = dead_port(), f"route app.test={backend().url}"
    p = proxy(args=conf(route, f"http 127.0.0.1:{port}"), expect=[RELOAD, LISTENING])
    before = len(p.descriptors())
    for address, more in (("0.0.0.0", "127.0.0.2"), ("[::]", "::1"), ("127.0.0.1", None),
                          ("[::]", "127.0.0.2"), ("0.0.0.0", None)):
        conf(route, f"http {address}:{port}")
        hup(p)
        for to in ("127.0.0.1", more):
            if to:
                client = Client(port, address=to)
                assert client.ask().status == 200
                client.close()
        wait_for(lambda: len(p.descriptors()) <= before + 1, "descriptors to be given back")


def test_an_address_that_can_not_widen_stays(proxy, backend, conf):
    port, route = dead_port(), f"route app.test={backend().url}"
    p = proxy(args=conf(route, f"http 127.0.0.1:{port}"), expect=[RELOAD, LISTENING, WRONG])
    with socket.socket() as other:
        other.bind(("127.0.0.2", port))
        other.listen()
        conf(route, f"http 0.0.0.0:{port}", "route new.test=status:410")
        said = hup(p, good=False)
        assert any(f"rproxy.conf:2: can't listen on http 0.0.0.0:{port}" in s for s in said), said
        assert Client(port).ask().status == 200
        assert Client(port).ask(host="new.test").status == 404


@pytest.mark.release
def test_who_waits_in_the_queue_of_a_closed_listener_is_served(proxy, backend, conf):
    port, other, route = dead_port(), dead_port(), f"route app.test={backend().url}"
    p = proxy(args=conf(route, f"http 127.0.0.1:{port}"), expect=[RELOAD, LISTENING])
    conf(route, f"http 127.0.0.1:{other}")
    p.signal(signal.SIGSTOP)
    waiting = [Client(port) for _ in range(20)]
    for client in waiting:
        client.send(request())
    p.signal(signal.SIGHUP)
    p.signal(signal.SIGCONT)
    for client in waiting:
        assert client.answer().status == 200
    wait_for(lambda: refuses(port), "the listener to be closed")


@pytest.mark.release
def test_a_low_port_after_root_was_given_up(proxy, conf, open_folder):
    """The message says what it needs, and the ports from before serve on."""
    assert os.geteuid() == 0, "needs root, to give it up"
    conf.folder = open_folder
    with own_network():  # where ports below 1024 are root's, whatever the machine has set
        lines = ["http 127.0.0.1:80", "user 65534", "route app.test=status:410"]
        p = proxy(args=conf(*lines), expect=[RELOAD, WRONG],
                  env={"ASAN_OPTIONS": "detect_leaks=0"})
        conf(*lines, "http 127.0.0.1:81")
        said = hup(p, good=False)
        assert any("127.0.0.1:81" in s and "below 1024 need root" in s for s in said), said
        assert Client(80).ask().status == 410
        conf("http 0.0.0.0:80", *lines[1:])  # where the old one would have to make way
        said = hup(p, good=False)
        assert any("below 1024 need root" in s for s in said), said
        assert Client(80).ask().status == 410
        conf(*lines[:2], "route app.test=status:411")
        hup(p)
        assert Client(80).ask().status == 411


# ==[ without memory or descriptors ]==============================================================


@pytest.fixture
def release_binary(monkeypatch):
    """The sanitizers' memory can't be limited."""
    if sanitized():
        monkeypatch.setattr(harness, "BINARY", [str(ROOT / "build/rproxy")])


@pytest.mark.native  # an emulator has all its guest's memory at once
@pytest.mark.release
def test_without_memory_a_reload_fails_and_the_old_serves_on(proxy, backend, conf, release_binary):
    good = ["http 127.0.0.1:0", f"route app.test={backend().url}"]
    p = proxy(args=conf(*good), expect=[RELOAD, r"rproxy: .*[oO]ut of memory"])
    conf(*good, *(f"route r{i}.test=http://10.0.0.1:{i + 1}" for i in range(3000)))
    size = int(re.search(r"VmSize:\s+(\d+)", open(f"/proc/{p.process.pid}/status").read())[1]) << 10
    before = p.descriptors()
    hard = resource.prlimit(p.process.pid, resource.RLIMIT_AS)[1]

    def limit(to):
        resource.prlimit(p.process.pid, resource.RLIMIT_AS, (to, hard))
    for room in range(4):
        limit(size + room * 200000)
        said = hup(p, good=False)
        assert any("ut of memory" in s for s in said), said
        assert p.ask().status == 200 and p.ask(host="r7.test").status == 404
        limit(hard)
    wait_for(lambda: len(p.descriptors()) - p.pooled({backend.made[0].port}) <= len(before),
             "descriptors to be given back")
    conf(*good, "route r7.test=status:410")
    hup(p)
    assert p.ask(host="r7.test").status == 410


@pytest.mark.release
def test_without_descriptors_it_waits_and_says_so_once(proxy, backend, conf):
    good = ["http 127.0.0.1:0", f"route app.test={backend().url}"]
    p = proxy(args=conf(*good), expect=[RELOAD, WRONG, r"rproxy: can't accept: .*",
                                        r"rproxy: \d+ times more: can't accept.*",
                                        r"rproxy: .*rproxy\.conf.*", harness.TROUBLE])
    limit = max(map(int, p.descriptors())) + 1
    resource.prlimit(p.process.pid, resource.RLIMIT_NOFILE, (limit, 4096))
    waiting = [p.client() for _ in range(5)]
    for client in waiting:
        client.send(request(host="none.test"))
    p.said("can't accept")
    time.sleep(0.5)
    assert sum("can't accept" in s for s in p.lines) == 1
    assert any("rproxy.conf" in s for s in hup(p, good=False))
    resource.prlimit(p.process.pid, resource.RLIMIT_NOFILE, (4096, 4096))
    for client in waiting:
        assert client.answer().status == 404
    hup(p)


@pytest.mark.release
def test_few_descriptors_bound_the_clients_not_the_reload(proxy, backend, conf):
    """With a low hard limit fewer clients are served at once; what a reload needs is left."""
    b = backend()
    good = ["http 127.0.0.1:0", f"route app.test={b.url}", "max-conns-per-ip 0"]
    p = proxy(args=conf(*good), under=["prlimit", "--nofile=64:64"],
              expect=[RELOAD, r"rproxy: warning: 64 descriptors are allowed.*"])
    clients = [p.client() for _ in range(60)]
    for client in clients:
        client.send(request(), request("/2"))
    hup(p)
    for client in clients:
        assert client.answer().status == 200 and client.answer().status == 200
        client.close()
    assert not any("can't accept" in s for s in p.lines)


# ==[ systemd ]====================================================================================


@pytest.mark.release
def test_systemd_is_told(proxy, conf, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(str(tmp_path / "notify"))
        s.settimeout(PATIENCE)
        good = ["http 127.0.0.1:0", "route app.test=status:410"]
        p = proxy(args=conf(*good), expect=[RELOAD, WRONG],
                  env={"NOTIFY_SOCKET": str(tmp_path / "notify")})

        def fields():
            return dict(line.split("=", 1) for line in s.recv(1000).decode().split("\n"))

        assert fields()["READY"] == "1"
        for lines in (good, [*good, "nonsense"]):
            conf(*lines)
            asked = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            p.signal(signal.SIGHUP)
            said = fields()
            assert said["RELOADING"] == "1"
            # systemd takes a stamp from before its signal for the answer to another one
            assert asked <= int(said["MONOTONIC_USEC"]) < asked + 10**7
            assert fields()["READY"] == "1"
        p.signal(signal.SIGTERM)
        assert fields()["STOPPING"] == "1"
        assert p.wait() == 0


# ==[ many ]=======================================================================================


def tunnels(conn):
    """Echoes after a switch of protocols."""
    if not conn.head():
        return
    conn.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: thing/1\r\n\r\n")
    while True:
        conn.more()
        conn.send(conn.take(len(conn.left)))


@pytest.mark.release
def test_hups_under_load_cost_nothing(proxy, backend, certs, conf, tmp_path):
    """GETs, one long download, 50 tunnels, and reload after reload (RP_BIG=1: a thousand)."""
    times = 1000 if BIG else 60
    gate = Gate(backend)
    site, echo = backend(says(reply(200, body=b"x" * 3000))), backend(tunnels)
    lines = ["http 127.0.0.1:0", "https 127.0.0.1:0", f"cert {certs('app.test').pem}",
             f"route app.test={site.url} plain", f"route slow.test={gate.url} plain",
             f"route ws.test={echo.url} plain", f"log {tmp_path}/log", "max-conns-per-ip 0"]
    p = proxy(args=conf(*lines))
    over, answers, faults = threading.Event(), [], []

    def load(tls):
        try:
            while not over.is_set():
                client = p.client("app.test" if tls else None)
                for _ in range(20):
                    answers.append(client.ask().status)
                    over.wait(0.01)
                client.close()
        except Exception as e:  # noqa: B902
            faults.append(repr(e))

    download = p.client()
    download.send(request(host="slow.test"))
    assert download.head().status == 200 and download.chunk() == b"first"
    ws = [p.client() for _ in range(50)]
    for client in ws:
        client.send(request("/", "Connection: Upgrade", "Upgrade: thing/1", host="ws.test"))
        assert client.head().status == 101
    threads = [threading.Thread(target=load, args=(i == 2,)) for i in range(3)]
    for t in threads:
        t.start()
    memory, open_now = [], []
    for i in range(times):
        conf(*lines, f"route r{i}.test=status:410", *(["http 127.0.0.1:0"] if i % 2 else []))
        p.signal(signal.SIGHUP)
        if i % 10 == 9:
            reloaded(p, f"r{i}.test", 410)
            memory.append(p.memory())
            open_now.append(len(p.descriptors()) - p.pooled({site.port}))
        else:
            time.sleep(0.03)
        one = ws[i % 50]
        one.send(b"still there?")
        assert one.take(12) == b"still there?"
    over.set()
    for t in threads:
        t.join(PATIENCE)
    assert not faults, faults
    assert len(answers) > times and set(answers) == {200}
    gate.go.set()
    assert download.chunk() == b"second" and download.chunk() == b""
    for client in ws:
        client.send(b"bye")
        assert client.take(3) == b"bye"
        client.close()
    warm = len(memory) // 3
    # a sanitizer keeps a place in mind for each allocation: its share grows for a while
    slack = 10 if sanitized() or EMULATED else 1  # an emulator keeps what it has translated
    assert min(memory[-warm:]) <= min(memory[:warm]) + 200000 * slack, memory
    assert max(open_now) <= min(open_now) + 8, open_now
    p.fds += 1  # the last configuration has one listener more
    print(f"{times} HUPs, {len(answers)} answers; memory {memory[0]}..{memory[-1]}")
