"""Drives the tables of cases.py against the real binary.

Every row is sent whole, byte by byte, and split at three random places (seeded by its id), over
HTTP and over HTTPS; the verdict must be the expected one, and the same each time. After each run a
clean request of another client must get its own answer, on whatever backend connection it lands.

Rows run on a few threads; each thread has a backend and a host name of its own, so that whatever
a backend sees can be blamed on one row. The backend is strict: it accepts only what rproxy may
write, one canonical form of framing, no field name beyond letters, digits and '-'.

RPROXY names the binary (and an emulator before it, if need be); RPROXY_SLOW=N stretches every
time-out for slow machines.
"""

import concurrent.futures
import datetime
import fcntl
import os
import pathlib
import queue
import random
import re
import select
import shlex
import signal
import socket
import ssl
import struct
import subprocess
import sys
import termios
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import cases

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = shlex.split(os.environ.get("RPROXY", str(ROOT / "build/debug/rproxy")))
PATIENCE = 5 * float(os.environ.get("RPROXY_SLOW", "1"))  # s: anything longer is a hang
WORKERS = 8
WAYS = tuple(os.environ.get("RPROXY_WAYS", "whole bytes split").split())
TRANSPORTS = tuple(os.environ.get("RPROXY_TRANSPORTS", "http https").split())


class Bad(Exception):
    """A peer wrote something that it may never write."""


# ==[ reading strictly ]===========================================================================


class Stream:
    """Bytes of a socket, by line and by count; EOFError at the end, whether clean or by reset."""

    def __init__(self, sock):
        self.sock, self.left, self.reset = sock, b"", False

    def more(self):
        try:
            data = self.sock.recv(65536)
        except socket.timeout:
            raise Bad("silence: nothing came, and the connection stays open") from None
        except OSError:
            self.reset, data = True, b""
        if not data:
            raise EOFError
        self.left += data

    def line(self):
        while b"\n" not in self.left:
            self.more()
        line, self.left = self.left.split(b"\n", 1)
        if not line.endswith(b"\r") or b"\r" in line[:-1]:
            raise Bad(f"line does not end in CRLF alone: {line[:80]!r}")
        return line[:-1]

    def take(self, count, into):
        """Moves `count` bytes to the bytearray `into`, as they come."""
        while count:
            if not self.left:
                self.more()
            part, self.left = self.left[:count], self.left[count:]
            into += part
            count -= len(part)


def read_fields(stream, name=rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"):
    fields = []
    while line := stream.line():
        m = re.fullmatch(rb"(" + name + rb"):[ \t]*((?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)[ \t]*",
                         line)
        if not m:
            raise Bad(f"malformed field line {line[:80]!r}")
        fields.append((m[1].decode(), m[2].decode("latin-1")))
    return fields


def values(fields, name):
    return [v for n, v in fields if n.lower() == name.lower()]


def read_body(stream, fields, into):
    """The one canonical Content-Length or chunked that we may write. False: neither is there."""
    length, coding = values(fields, "Content-Length"), values(fields, "Transfer-Encoding")
    if len(length) + len(coding) > 1:
        raise Bad(f"framed twice: {fields}")
    if coding:
        if coding != ["chunked"]:
            raise Bad(f"Transfer-Encoding {coding}")
        while True:
            line = stream.line()
            if not re.fullmatch(rb"[0-9a-fA-F]{1,16}", line):
                raise Bad(f"chunk line {line[:80]!r}")
            stream.take(int(line, 16), into)
            if stream.line() != b"":  # after data, or where a trailer field would stand
                raise Bad("no CRLF after a chunk, or a trailer that should have been dropped")
            if int(line, 16) == 0:
                return True
    if length:
        if not re.fullmatch(r"0|[1-9][0-9]{0,18}", length[0]):
            raise Bad(f"Content-Length {length[0]!r}")
        stream.take(int(length[0]), into)
        return True
    return False


class Answer:
    """What a client got: `verdict` is the status of a whole answer, or "cut"."""

    def __init__(self, stream, method="GET"):
        self.status, self.fields, self.body = None, [], bytearray()
        self.interim, self.verdict = 0, "cut"
        try:
            self.read(stream, method)
        except EOFError:
            pass

    def __str__(self):
        return self.verdict if self.verdict != "cut" else (
            f"cut (status {self.status}, {self.interim} interim, {len(self.body)} bytes of body)")

    def read(self, stream, method):
        while True:
            line = stream.line()
            m = re.fullmatch(rb"HTTP/1\.1 ([1-9]\d\d) [\t -~\x80-\xff]*", line)
            if not m:
                raise Bad(f"malformed status line {line[:80]!r}")
            fields = read_fields(stream)
            if m[1][:1] != b"1" or m[1] == b"101":
                break
            self.interim += 1
        self.status, self.fields = m[1].decode(), fields
        if method != "HEAD" and self.status not in ("101", "204", "304"):
            if not read_body(stream, fields, self.body):
                self.until_close(stream)
        self.verdict = self.status

    def until_close(self, stream):
        try:
            while True:
                self.body += stream.left
                stream.left = b""
                stream.more()
        except EOFError:
            if stream.reset:
                raise


# ==[ the backend ]================================================================================


class Got:
    """One request that reached the backend; `whole` once its last byte is in."""

    def __init__(self, conn):
        self.conn, self.whole, self.over, self.error = conn, False, False, None
        self.method = self.target = "?"
        self.fields, self.body = [], bytearray()

    def __repr__(self):
        return (f"<{'whole' if self.whole else 'unfinished'} {self.method} {self.target} "
                f"{bytes(self.body[:60])!r}>")

    def read(self, stream):
        line = stream.line()
        m = re.fullmatch(rb"([!-~]+) ([!-~]+) HTTP/1\.1", line)
        if not m:
            raise Bad(f"request line {line[:80]!r}")
        self.method, self.target = m[1].decode(), m[2].decode()
        self.fields = read_fields(stream, rb"[0-9A-Za-z-]+")
        if len(values(self.fields, "Host")) != 1:
            raise Bad(f"Host: {values(self.fields, 'Host')}")
        read_body(stream, self.fields, self.body)
        self.whole = True


class Watched(Stream):
    """A Stream that says whether all that came has been read."""

    idle = False

    def more(self):
        self.idle = True
        select.select([self.sock], [], [])
        self.idle = False
        super().more()

    def quiet(self):
        try:
            there = fcntl.ioctl(self.sock, termios.FIONREAD, b"\0\0\0\0")
        except (OSError, ValueError):
            return True  # closed
        return self.idle and there == b"\0\0\0\0"


class Backend:
    """Answers "METHOD TARGET" to everything, but plays `script` for targets below /r/."""

    LATE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"

    def __init__(self):
        self.log, self.closed, self.script, self.conns = [], set(), None, 0
        self.streams, self.peers = set(), {}
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            sock, peer = self.listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.conns += 1
            stream = Watched(sock)
            self.streams.add(stream)
            threading.Thread(target=self.serve, args=(stream, self.conns), daemon=True).start()
            self.peers[peer[1]] = self.conns

    def serve(self, stream, conn):
        sock, got = stream.sock, None
        try:
            while True:
                if not stream.left:
                    stream.more()
                got = Got(conn)
                self.log.append(got)
                got.read(stream)
                if got.target.startswith("/r/") and self.script:
                    if not self.play(sock):
                        return
                else:
                    body = f"{got.method} {got.target}".encode()
                    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
                                 + (b"" if got.method == "HEAD" else body))
                got.over = True
        except Bad as e:
            got.error = f"the backend got {e}"
        except (EOFError, OSError):
            pass
        finally:
            sock.close()
            self.streams.discard(stream)
            self.closed.add(conn)
            if got:
                got.over = True

    def play(self, sock):
        """True: the connection may carry on. A proxy that hangs up in the middle is fine."""
        pieces, end = self.script
        for piece in pieces:
            sock.sendall(piece)
        if end == "late":
            time.sleep(0.05)  # by now the connection is in the pool
            sock.sendall(self.LATE)
        if end == "reset":
            time.sleep(0.05)  # so that the bytes are read before the reset overtakes them
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return end not in ("close", "reset")

    def settle(self):
        """Waits until all that was sent so far has been read: connections come in their order."""
        before, until = self.conns, time.monotonic() + PATIENCE
        with socket.create_connection(("127.0.0.1", self.port)) as last:
            mine = last.getsockname()[1]
            while self.peers.get(mine, 0) <= before or not all(s.quiet() for s in list(self.streams)):
                if time.monotonic() > until:
                    raise Bad("the backend does not come to rest")
                time.sleep(0.0002)

    def take(self):
        """The requests since the last call, once all have ended in one way or the other."""
        self.settle()
        log, until = self.log, time.monotonic() + PATIENCE
        while not all(g.over for g in log):
            if time.monotonic() > until:
                raise Bad(f"the backend's connection was not aborted: {log}")
            time.sleep(0.001)
        self.log = []
        for g in log:
            if g.error:
                raise Bad(g.error)
        return log

    def gone(self, conn):
        until = time.monotonic() + PATIENCE
        while conn not in self.closed and time.monotonic() < until:
            time.sleep(0.001)
        return conn in self.closed


# ==[ the proxy ]==================================================================================


def make_cert(folder, names):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    now = datetime.datetime.utcnow()
    cert = (x509.CertificateBuilder().subject_name(name).issuer_name(name)
            .public_key(key.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=300))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), False)
            .sign(key, hashes.SHA256()))
    path = folder / "cert.pem"
    path.write_bytes(cert.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption()))
    return path


class Proxy:
    """The binary with a route and a path rule for each worker."""

    def __init__(self, folder, workers):
        cert = make_cert(folder, [w.host for w in workers])
        args = ["--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--cert", str(cert),
                "--max-conns-per-ip", "0", "--log", str(folder / "access.log")]
        for w in workers:
            args += ["--route", f"{w.host}/admin=status:403 plain",
                     "--route", f"{w.host}=http://127.0.0.1:{w.backend.port} plain"]
        self.stderr = folder / "stderr"
        self.process = subprocess.Popen([*BINARY, *args], stderr=self.stderr.open("wb"))
        until = time.monotonic() + 4 * PATIENCE
        while "rproxy: ready\n" not in self.stderr.read_text():
            if self.process.poll() is not None or time.monotonic() > until:
                self.process.kill()
                raise RuntimeError(f"{BINARY} did not start:\n{self.stderr.read_text()}")
            time.sleep(0.01)
        self.port = {kind: int(port) for kind, port in re.findall(
            r"rproxy: listening (https?) 127\.0\.0\.1:(\d+)", self.stderr.read_text())}
        self.tls = ssl.create_default_context(cafile=str(cert))

    def connect(self, transport, host):
        sock = socket.create_connection(("127.0.0.1", self.port[transport]), PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.tls.wrap_socket(sock, server_hostname=host) if transport == "https" else sock

    def stop(self):
        """TERM; the exit status, and what it wrote besides its greeting."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = "no exit"
        said = self.stderr.read_text(errors="replace").splitlines()
        greeting = re.compile(r"rproxy: (listening \S+ \S+|ready|memory: .*|warning: it runs as root.*)")
        return status, [s for s in said if not greeting.fullmatch(s)]


# ==[ running one row ]============================================================================


def pieces_of(raw, way, seed):
    """The bytes in the portions in which they are written."""
    if way == "whole" or len(raw) < 2:
        return [raw] if raw else []
    if way == "split":
        cuts = sorted(random.Random(seed).sample(range(1, len(raw)), min(3, len(raw) - 1)))
    elif len(raw) <= 4096:
        cuts = range(1, len(raw))
    else:  # long filler: single bytes at both ends, where the decisions are
        cuts = [*range(1, 300), *range(300, len(raw) - 300, 251), *range(len(raw) - 300, len(raw))]
    edges = [0, *cuts, len(raw)]
    return [raw[a:b] for a, b in zip(edges, edges[1:]) if a < b]


def send(sock, pieces, pause):
    try:
        for piece in pieces:
            sock.sendall(piece)
            if pause:
                time.sleep(0.002)  # a few pieces: let each be read by itself
    except OSError:
        pass  # refused before it was all out: the answer tells


def half_close(sock):
    """Says that no more will come and goes on reading. Over TLS this is an incomplete close."""
    with socket.socket(fileno=os.dup(sock.fileno())) as raw:
        raw.shutdown(socket.SHUT_WR)


class Worker:
    """A host name, its backend, and the rows that are run through them one after the other."""

    def __init__(self, number):
        self.host, self.backend, self.count = f"ap{number}.test", Backend(), 0

    def local(self, value, transport):
        """A table's bytes, text, list or dict with this worker's name and scheme put in."""
        if isinstance(value, dict):
            return {n: self.local(v, transport) for n, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.local(v, transport) for v in value]
        if isinstance(value, str):
            return self.local(value.encode("latin-1"), transport).decode("latin-1")
        if value is None:
            return None
        host, scheme = self.host.encode(), transport.encode()
        return (value.replace(b"app.test", host).replace(b"APP.TEST", host.upper())
                .replace(b"SCHEME", scheme).replace(b"Scheme", scheme.capitalize()))

    def run(self, proxy, row):
        """Every way and transport. Returns what was wrong, as text; none: the row passes."""
        self.proxy, wrong, verdicts = proxy, [], {}
        for transport in TRANSPORTS:
            for way in WAYS:
                fault = lambda text: wrong.append(f"{transport}, {way}: {text}")  # noqa: E731
                try:
                    run = self.run_reply if isinstance(row, cases.Reply) else self.run_case
                    own = getattr(row, "tls", ()) or getattr(row, "eof", False)
                    key = transport if own else ""
                    verdicts.setdefault(key, set()).add(run(row, transport, way, fault))
                except (Bad, OSError) as e:
                    fault(str(e))
                try:
                    self.clean(fault, getattr(row, "partial", False))
                except (Bad, OSError) as e:
                    fault(f"the clean request after it: {e}")
        for seen in verdicts.values():
            if len(seen) > 1:
                wrong.append(f"the verdict depends on how the bytes come: {sorted(seen)}")
        return wrong

    def clean(self, fault, late=False):
        """Another client asks for something of its own. Returns the backend connection used.

        late: the row before may leave an unfinished request, which can reach the backend only now.
        """
        self.count += 1
        target = f"/clean/{self.count}"
        self.backend.take()
        with self.proxy.connect("http", self.host) as sock:
            sock.sendall(f"GET {target} HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode())
            answer = Answer(Stream(sock))
        if (answer.verdict, answer.body) != ("200", f"GET {target}".encode()):
            fault(f"the clean request after it got {answer.verdict} {bytes(answer.body[:80])!r}")
        got = [g for g in self.backend.take() if g.whole or not late]
        if [(g.whole, g.method, g.target) for g in got] != [(True, "GET", target)]:
            fault(f"with the clean request after it the backend saw {got}")
        return got[-1].conn if got else None

    # -- a row of REQUESTS

    def run_case(self, row, transport, way, fault):
        raw = self.local(row.raw, transport)
        expect = row.tls if row.tls and transport == "https" else row.answers
        with self.proxy.connect(transport, self.host) as sock:
            stream = Stream(sock)
            send(sock, pieces_of(raw, way, row.id), way == "split")
            if row.eof:
                half_close(sock)
            answers = []
            for i, verdict in enumerate(expect):
                method = row.seen[i].method if i < len(row.seen) else raw[:4].decode("latin-1")
                answer = Answer(stream, method)
                answers.append(answer)
                if answer.verdict not in verdict.split("|"):
                    fault(f"answer {i + 1} is {answer}, expected {verdict}")
                elif i < len(row.seen):
                    self.check_echo(answer, row.seen[i], fault)
            self.check_fields(answers[-1].fields, row.has, (), transport, fault)
            if row.close:
                if answers[-1].status and not row.eof:  # who hangs up himself needn't be told
                    self.check_says_close(answers[-1], fault)
                self.check_closed(stream, fault)
            got = self.backend.take()
            if row.close is False:
                self.check_open(sock, stream, fault)
        self.check_seen(row, got, transport, fault)
        return " ".join(a.verdict for a in answers)

    def check_echo(self, answer, seen, fault):
        own = b"" if seen.method == "HEAD" else f"{seen.method} {seen.target}".encode()
        if answer.body != own:
            fault(f"the answer is not its own: {bytes(answer.body[:80])!r} for {own[:80]!r}")

    def check_says_close(self, answer, fault):
        if "close" not in ",".join(values(answer.fields, "Connection")).lower():
            fault("the last answer does not say Connection: close")

    def check_closed(self, stream, fault):
        try:
            while not stream.left:
                stream.more()
            fault(f"more bytes after the last answer: {stream.left[:80]!r}")
        except EOFError:
            pass
        except Bad:
            fault("the connection was left open")

    def check_open(self, sock, stream, fault):
        sock.sendall(f"GET /again HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode())
        again = Answer(stream)
        if (again.verdict, again.body) != ("200", b"GET /again"):
            fault(f"the next request on the connection got {again.verdict} "
                  f"{bytes(again.body[:80])!r}")
        self.backend.take()

    def check_seen(self, row, got, transport, fault):
        whole = [g for g in got if g.whole]
        want = [(s.method, self.local(s.target, transport), s.body) for s in row.seen]
        if [(g.method, g.target, bytes(g.body)) for g in whole] != want:
            fault(f"the backend saw {whole}, expected {[w[:2] for w in want]}")
        elif len(whole) < len(got) and not row.partial:
            fault(f"the backend saw a part of what was refused: {got}")
        else:
            for g, s in zip(whole, row.seen):
                self.check_fields(g.fields, s.has, s.lacks, transport, fault)

    def check_fields(self, fields, has, lacks, transport, fault):
        for name, want in self.local(has, transport).items():
            found = values(fields, name)
            if name == "Connection":
                found = [v.lower() for v in found]
            if not found or (want is not None and
                             found != (want if isinstance(want, list) else [want])):
                fault(f"{name} is {found}, expected {want}")
        for name in lacks:
            if values(fields, name):
                fault(f"{name} should not be there: {values(fields, name)}")

    # -- a row of RESPONSES

    def run_reply(self, row, transport, way, fault):
        self.backend.script = (pieces_of(row.raw, way, row.id), row.end)
        request = self.local(row.request or cases.ask(), transport)
        with self.proxy.connect(transport, self.host) as sock:
            sock.sendall(request)
            answer = Answer(Stream(sock), request.split(b" ")[0].decode())
            got = self.backend.take()  # waits until the script is played out
        self.check_answer(row, answer, transport, fault)
        if not got:
            fault("the backend was not asked")
            return answer.verdict
        if row.tries and len(got) > row.tries:
            fault(f"the backend was asked {len(got)} times: {got}")
        if row.reuse is False and not self.backend.gone(got[-1].conn):
            fault("the backend's connection was kept")
        if row.reuse and self.clean(fault) != got[-1].conn:
            fault("the backend's connection was not reused")
        return answer.verdict

    def check_answer(self, row, answer, transport, fault):
        if answer.verdict not in row.verdict.split("|"):
            fault(f"the client got {answer}, expected {row.verdict}")
        elif answer.verdict not in ("cut", "502"):
            if answer.body != row.body:
                fault(f"the body is {bytes(answer.body[:80])!r}")
            self.check_fields(answer.fields, row.has, row.lacks, transport, fault)
        if b"EVIL" in answer.body or b"hello" in answer.body and answer.verdict == "502":
            fault("the client got bytes that no answer of its own holds")
        if row.interim not in (None, answer.interim):
            fault(f"the client got {answer.interim} interim answers, expected {row.interim}")


# ==[ the tests ]==================================================================================


@pytest.fixture(scope="module")
def workers():
    return [Worker(i) for i in range(WORKERS)]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory, workers):
    proxy = Proxy(tmp_path_factory.mktemp("cases"), workers)
    yield proxy
    proxy.stop()


@pytest.fixture(scope="module")
def verdicts(request, proxy, workers):
    """Runs every selected row, on all workers at once: {row id: what was wrong}."""
    rows = [i.callspec.params["row"] for i in request.session.items
            if "verdicts" in i.fixturenames and hasattr(i, "callspec")]
    idle = queue.SimpleQueue()
    for w in workers:
        idle.put(w)

    def run(row):
        worker = idle.get()
        try:
            return worker.run(proxy, row)
        except Exception as e:  # a broken driver fails its row, not the whole table
            return [f"{type(e).__name__}: {e}"]
        finally:
            idle.put(worker)

    switch = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)  # threads that do little but system calls
    try:
        with concurrent.futures.ThreadPoolExecutor(len(workers)) as pool:
            return dict(zip([r.id for r in rows], pool.map(run, rows)))
    finally:
        sys.setswitchinterval(switch)


def test_tables_are_sound():
    rows = cases.REQUESTS + cases.RESPONSES
    assert len(cases.REQUESTS) >= 250 and len({r.id for r in rows}) == len(rows)
    for r in rows:
        assert r.clause and isinstance(r.raw, bytes), r.id


@pytest.mark.parametrize("row", cases.REQUESTS, ids=lambda r: r.id)
def test_request(row, verdicts):
    assert not verdicts[row.id], f"[{row.clause}] " + "\n".join(verdicts[row.id])


@pytest.mark.parametrize("row", cases.RESPONSES, ids=lambda r: r.id)
def test_response(row, verdicts):
    assert not verdicts[row.id], f"[{row.clause}] " + "\n".join(verdicts[row.id])


def test_http_on_the_tls_port_gets_a_plain_400(proxy, workers):
    with socket.create_connection(("127.0.0.1", proxy.port["https"]), PATIENCE) as sock:
        sock.sendall(f"GET / HTTP/1.1\r\nHost: {workers[0].host}\r\n\r\n".encode())
        stream = Stream(sock)
        assert Answer(stream).verdict == "400"
        with pytest.raises(EOFError):
            stream.more()


def test_tls_is_closed_with_an_alert(proxy, workers):
    """RFC 9112 9.8: a server starts an exchange of closure alerts before it closes."""
    sock = socket.create_connection(("127.0.0.1", proxy.port["https"]), PATIENCE)
    with proxy.tls.wrap_socket(sock, server_hostname=workers[0].host,
                               suppress_ragged_eofs=False) as tls:
        tls.sendall(f"GET / HTTP/1.1\r\nHost: {workers[0].host}\r\nConnection: close\r\n\r\n"
                    .encode())
        data = b""
        while part := tls.recv(65536):  # an end without the alert raises SSLEOFError
            data += part
        assert data.endswith(b"\r\n\r\nGET /")


def test_tls_client_may_leave_without_an_alert(proxy, workers):
    """RFC 9112 9.8: a server must be prepared for an incomplete close."""
    for _ in range(20):
        tls = proxy.connect("https", workers[0].host)
        with socket.socket(fileno=os.dup(tls.fileno())) as raw:
            raw.shutdown(socket.SHUT_RDWR)
        tls.close()
    wrong = []
    workers[0].proxy = proxy
    workers[0].clean(wrong.append)
    assert not wrong


def test_proxy_ends_cleanly(proxy):
    """Last: after all of the above it stops when asked, and has had nothing to say."""
    assert proxy.stop() == (0, [])
