"""Where the log goes: files, full disks, stuck readers, syslog. It never holds up a request."""

import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import time

import pytest

from harness import BINARY, COMBINED, PATIENCE, TROUBLE, Client, dead_port, request, wait_for
from test_reload import tunnels
from test_signals import Gate

ROOT_NEEDED = "needs root, for a mount namespace"


def whole(line):
    """An access line or an event."""
    return COMBINED.fullmatch(line) or line.startswith("rproxy: ")


# ==[ a full disk ]================================================================================


@pytest.mark.release
def test_a_full_disk_costs_lines_and_no_request(proxy, backend, tmp_path):
    assert os.geteuid() == 0, ROOT_NEEDED
    disk = tmp_path / "disk"
    disk.mkdir()
    p = proxy(f"app.test={backend().url}", log=disk / "log",
              under=["unshare", "-m", "sh", "-c", f"mount -t tmpfs -o size=32k disk {disk} && "
                     f'head -c 12288 /dev/zero >{disk}/ballast && exec "$@"', "sh"])
    log = pathlib.Path(f"/proc/{p.process.pid}/root{disk}/log")
    client, asked = p.client(), 0

    def ask(n):
        nonlocal asked
        for _ in range(n):
            assert client.ask(f"/{asked}/{'x' * (asked * 7 % 300)}").status == 200
            asked += 1

    size = -1
    while log.stat().st_size != size:  # until nothing more fits
        size = log.stat().st_size
        ask(30)
        assert asked < 5000
    ask(20)
    (log.parent / "ballast").unlink()
    ask(1)
    wait_for(lambda: "log lines lost" in log.read_text(), "the count of what was lost")
    ask(5)
    wait_for(lambda: f"GET /{asked - 1}/" in log.read_text(), "the last line")
    lines = log.read_text().split("\n")
    assert lines.pop() == ""
    torn = [s for s in lines if not whole(s)]
    assert len(torn) <= 1 and all(s.startswith("app.test ") for s in torn), torn
    lost = [int(m[1]) for m in (re.fullmatch(r"rproxy: (\d+) log lines lost", s) for s in lines) if m]
    assert sum(bool(COMBINED.fullmatch(s)) for s in lines) + sum(lost) == asked


# ==[ a reader that does not read ]================================================================


@pytest.mark.release
def test_a_stuck_reader_of_a_pipe_holds_nothing_up(proxy, backend, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        p = proxy(f"app.test={backend().url}", log=pipe)
        client = p.client()
        for i in range(400):
            assert client.ask(f"/{i}", f"User-Agent: {'x' * 250}").status == 200
        text = b""

        def more():
            nonlocal text
            try:
                text += os.read(end, 1 << 20)
            except BlockingIOError:
                pass
            return b"log lines lost" in text and text.endswith(b"\n")
        wait_for(more, "the count of what was lost")
        lines = text.decode().split("\n")[:-1]
        assert all(map(whole, lines))
        lost = int(re.search(r"(\d+) log lines lost", text.decode())[1])
        assert lost + sum(bool(COMBINED.fullmatch(s)) for s in lines) == 400
    finally:
        os.close(end)
    for i in range(10):  # nobody reads at all any more
        assert client.ask().status == 200


@pytest.mark.release
def test_a_stuck_stderr_holds_nothing_up(backend):
    process = subprocess.Popen([*BINARY, "--http", "127.0.0.1:0", "--route",
                                f"app.test={backend().url}"], stderr=subprocess.PIPE,
                               stdin=subprocess.DEVNULL)
    try:
        head = b""
        while b"rproxy: ready\n" not in head:
            head += os.read(process.stderr.fileno(), 4096)
        port = int(re.search(rb"listening http \S+:(\d+)", head)[1])
        client = Client(port)
        for _ in range(600):
            assert client.ask("/", f"User-Agent: {'x' * 250}").status == 200
        client.close()
        process.terminate()
        assert process.wait(PATIENCE) == 0
        rest = process.stderr.read().decode().split("\n")
        assert all(map(whole, rest[:-1])) and not rest[-1]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.release
def test_closed_standard_descriptors_are_not_taken_for_others(backend):
    """With 2 closed the first socket would get it, and with it the log."""
    b = backend()
    process = subprocess.Popen(["sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh", *BINARY, "--http",
                                "127.0.0.1:0", "--route", f"app.test={b.url}"])
    try:
        def listening():
            try:
                inodes = {os.readlink(f"/proc/{process.pid}/fd/{n}")
                          for n in os.listdir(f"/proc/{process.pid}/fd")}
            except FileNotFoundError:  # one of the shell's
                return None
            for line in open(f"/proc/{process.pid}/net/tcp").readlines()[1:]:
                f = line.split()
                if f[3] == "0A" and f"socket:[{f[9]}]" in inodes:
                    return int(f[1].rsplit(":", 1)[1], 16)
            return None
        port = wait_for(listening, "a listener")
        for n in range(3):
            assert os.readlink(f"/proc/{process.pid}/fd/{n}") == "/dev/null"
        client = Client(port)
        for _ in range(10):
            assert client.ask().status == 200
        client.close()
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()


# ==[ files ]======================================================================================


@pytest.mark.release
def test_a_log_that_can_not_be_opened_again_goes_on(proxy, backend, tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    log = folder / "log"
    p = proxy(f"app.test={backend().url}", log=log)
    p.ask("/first")
    wait_for(lambda: "/first" in log.read_text(), "the first line")
    folder.rename(tmp_path / "gone")
    p.signal(signal.SIGUSR1)
    p.ask("/second")
    log = tmp_path / "gone/log"
    wait_for(lambda: "/second" in log.read_text(), "the second line")
    assert re.search(rf"rproxy: --log: can't open again {folder}/log: No such file", log.read_text())


@pytest.mark.release
def test_the_level_leaves_out_what_is_less_important(proxy, backend):
    b = backend()
    for level, access in (("error", False), ("warn", False), ("info", True), ("debug", True)):
        p = proxy(f"app.test={b.url}", f"dead.test=http://127.0.0.1:{dead_port()}", log_level=level,
                  expect=[TROUBLE])
        assert p.ask().status == 200 and p.ask(host="dead.test").status == 502
        p.stop()
        assert any(COMBINED.fullmatch(s) for s in p.lines) == access, p.lines
        if level == "error":
            assert not any("127.0.0.1" in s and "listening" not in s for s in p.lines), p.lines


@pytest.mark.release
def test_the_zone_is_known_in_a_jail(proxy, tmp_path):
    """The file of the time zone is read before chroot hides it."""
    assert os.geteuid() == 0, "needs root, for chroot"
    block = struct.pack(">4sc15x6L", b"TZif", b"2", 0, 0, 0, 0, 1, 4)  # RFC 8536: one type, EAT
    block += struct.pack(">lbB", 10800, 0, 0) + b"EAT\0"
    (tmp_path / "zone").write_bytes(block + block + b"\nEAT-3\n")
    (tmp_path / "root").mkdir()
    p = proxy("app.test=status:410", chroot=tmp_path / "root", env={
        "TZ": f":{tmp_path}/zone", "ASAN_OPTIONS": "detect_leaks=0"})
    p.ask()
    assert p.access()[0].time.endswith(" +0300")


# ==[ USR2 ]=======================================================================================


@pytest.mark.release
def test_usr2_says_state_age_peer_target_and_bytes(proxy, backend):
    gate, echo = Gate(backend), backend(tunnels)
    silent = backend(lambda conn: conn.request() and gate.go.wait(PATIENCE))
    p = proxy(f"slow.test={gate.url}", f"ws.test={echo.url}", f"mute.test={silent.url}",
              expect=[r"rproxy: transaction .*", r"rproxy: \d+ transactions under way", TROUBLE])
    download, ws, up = p.client(), p.client(), p.client()
    download.send(request("/file?x=1", host="slow.test"))
    assert download.head().status == 200 and download.chunk() == b"first"
    ws.send(request("/", "Connection: Upgrade", "Upgrade: thing/1", host="ws.test"))
    assert ws.head().status == 101
    ws.send(b"x" * 1000)
    assert ws.take(1000) == b"x" * 1000
    up.send(request("/up", host="mute.test", method="POST", body=b"y" * 500))
    wait_for(lambda: silent.requests, "the upload")
    time.sleep(0.3)
    p.signal(signal.SIGUSR2)
    p.said("3 transactions under way")
    line = re.compile(r"rproxy: transaction (\w+) (\d+) ms 127\.0\.0\.1 (\S+) (\S+) (\S+) -> (\S+), "
                      r"(\d+) bytes up, (\d+) down")
    found = {m[3]: m for m in map(line.fullmatch, p.lines) if m}
    for host, state, method, target, to, sent, got in (
            ("slow.test", "RELAY", "GET", "/file?x=1", gate.url, 0, 5),
            ("ws.test", "TUNNEL", "GET", "/", echo.url, 1000, 1000),
            ("mute.test", "SEND", "POST", "/up", silent.url, 500, 0)):
        m = found[host]
        assert (m[1], m[4], m[5], m[6]) == (state, method, target, to), m[0]
        assert (int(m[7]), int(m[8])) == (sent, got), m[0]
        assert 250 < int(m[2]) < 60000, m[0]
    gate.finish(download)
    ws.close()


# ==[ syslog ]=====================================================================================


class Syslogd:
    """/dev/log as a proxy sees it that runs under self.under()."""

    def __init__(self, folder):
        self.dev = folder / "dev"
        self.dev.mkdir()
        self.path, self.got = self.dev / "log", []
        for name in ("null", "zero", "random", "urandom"):
            (self.dev / name).touch()
        self.open()

    def open(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(self.path))
        self.path.chmod(0o666)

    def close(self):
        self.sock.close()
        self.path.unlink()

    def under(self):
        binds = "".join(f"mount --bind /dev/{n} {self.dev}/{n} && "
                        for n in ("null", "zero", "random", "urandom"))
        return ["unshare", "-m", "sh", "-c", f'{binds} mount --rbind {self.dev} /dev && exec "$@"',
                "sh"]

    def read(self):
        """All datagrams so far."""
        while True:
            try:
                self.got.append(self.sock.recv(1 << 16, socket.MSG_DONTWAIT).decode())
            except BlockingIOError:
                return self.got

    def said(self, regex):
        return wait_for(lambda: next((s for s in self.read() if re.search(regex, s)), None),
                        f"{regex} in {self.got}")


@pytest.fixture
def syslogd(tmp_path):
    assert os.geteuid() == 0, ROOT_NEEDED
    s = Syslogd(tmp_path)
    yield s
    s.sock.close()


LEAD = r"<(\d+)>([A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) rproxy\[(\d+)\]: "


@pytest.mark.release
@pytest.mark.parametrize("form", ["combined", "json"])
def test_syslog_lines_are_those_of_rfc_3164(proxy, syslogd, backend, form):
    p = proxy(f"app.test={backend().url}", log="syslog", log_format=form, under=syslogd.under())
    p.ask("/here")
    m = re.fullmatch(LEAD + r"(.*)", syslogd.said("/here"))
    assert (int(m[1]) >> 3, int(m[1]) & 7) == (3, 6)  # daemon, informational
    assert int(m[3]) == p.process.pid
    said = time.mktime(time.strptime(f"{time.localtime().tm_year} {m[2]}", "%Y %b %d %H:%M:%S"))
    assert abs(said - time.time()) < 60
    assert COMBINED.fullmatch(m[4]) if form == "combined" else json.loads(m[4])["target"] == "/here"
    p.signal(signal.SIGHUP)
    m = re.fullmatch(LEAD + r"(.*)", syslogd.said("reload"))
    assert m[4] == "reloaded"  # the tag says who
    p.stop()
    assert not any(COMBINED.fullmatch(s) for s in p.lines)


@pytest.mark.release
def test_a_syslogd_that_restarts_is_found_again(proxy, syslogd, backend):
    p = proxy(f"app.test={backend().url}", log="syslog", under=syslogd.under())
    p.ask("/first")
    syslogd.said("/first")
    syslogd.close()
    for _ in range(3):
        assert p.ask("/lost").status == 200
    syslogd.open()
    p.ask("/second")
    syslogd.said("/second")
    lost = int(re.search(r": (\d+) log lines lost$", syslogd.said("lost$"))[1])
    assert lost >= 2 and lost + sum("/lost" in s for s in syslogd.read()) == 3


@pytest.mark.release
def test_a_stuck_syslogd_holds_nothing_up(proxy, syslogd, backend):
    p = proxy(f"app.test={backend().url}", log="syslog", under=syslogd.under())
    client = p.client()
    for i in range(300):
        assert client.ask(f"/{i}").status == 200
    syslogd.said("log lines lost")
    client.ask("/last")
    syslogd.said("/last")
    lost = sum(int(m[1]) for m in (re.search(r": (\d+) log lines lost", s) for s in syslogd.got) if m)
    assert lost > 0 and lost + sum(bool(re.search(r"GET /\d", s)) for s in syslogd.got) == 300


@pytest.mark.release
def test_rsyslog_reads_it(proxy, syslogd, backend, tmp_path):
    syslogd.close()
    (tmp_path / "rsyslog.conf").write_text(f"""
        module(load="imuxsock" SysSock.Use="off")
        input(type="imuxsock" Socket="{syslogd.path}")
        template(name="all" type="string"
            string="%programname%|%procid%|%syslogfacility-text%|%syslogseverity-text%|%msg%\\n")
        action(type="omfile" file="{tmp_path}/messages" template="all")
    """)
    server = subprocess.Popen(["rsyslogd", "-n", "-f", str(tmp_path / "rsyslog.conf"), "-i",
                               str(tmp_path / "pid")], stdout=subprocess.DEVNULL,
                              stderr=subprocess.STDOUT)
    try:
        wait_for(syslogd.path.exists, "rsyslogd")
        p = proxy(f"app.test={backend().url}", log="syslog", under=syslogd.under())
        p.ask("/here")
        messages = tmp_path / "messages"
        wait_for(lambda: messages.exists() and "/here" in messages.read_text(), "the line")
        line = next(s for s in messages.read_text().splitlines() if "/here" in s)
        name, pid, facility, severity, text = line.split("|", 4)
        assert (name, int(pid), facility, severity) == ("rproxy", p.process.pid, "daemon", "info")
        assert COMBINED.fullmatch(text.strip())
    finally:
        server.terminate()
        server.wait(PATIENCE)


def test_without_a_syslogd_it_does_not_start(syslogd):
    syslogd.close()
    done = subprocess.run([*syslogd.under(), *BINARY, "--http", "127.0.0.1:0", "--route",
                           "app.test=status:410", "--log", "syslog"], capture_output=True, text=True,
                          timeout=PATIENCE)
    assert done.returncode == 1 and "can't log to syslog" in done.stderr
