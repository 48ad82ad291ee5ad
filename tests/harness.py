"""What the behaviour tests share: the binary under test, strict raw clients, backends that do as
they are told, certificates made on the spot.

Both ends are written here by hand, byte for byte, because a library that forgives would hide what
the tests are after. Everything waits with a bound (PATIENCE); nothing is retried.

RPROXY names the binary (and an emulator before it, if need be); RPROXY_SLOW=N stretches every
bound for slow machines; RP_BIG=1 makes the transfers of test_stream.py 5 GB, and the storms of
test_backends.py 100,000 requests and 50 restarts.
"""

import datetime
import fcntl
import hashlib
import ipaddress
import json
import os
import pathlib
import random
import re
import shlex
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time
import types

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = shlex.split(os.environ.get("RPROXY", str(ROOT / "build/debug/rproxy")))
EMULATED = len(BINARY) > 1  # what the machine says of the process is not about the program alone
SLOW = float(os.environ.get("RPROXY_SLOW", "1"))
PATIENCE = 10 * SLOW  # s: anything longer is a hang
BIG = os.environ.get("RP_BIG") == "1"


def hurry(speed):
    """How much faster a proxy's clock may go (see `clock` in conftest.py): its timeouts, too, become
    so short that a slow machine must not go as far."""
    return max(1, int(speed / SLOW))


def sanitized():
    """Whether the binary carries AddressSanitizer, whose shadow makes memory figures void."""
    return b"__asan_" in pathlib.Path(BINARY[-1]).read_bytes()


def wait_for(what, text, patience=PATIENCE):
    """The first true value of `what()`."""
    until = time.monotonic() + patience
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < until, f"waited {patience:.0f} s in vain for {text}"
        time.sleep(0.005)


# ==[ messages ]===================================================================================


class Bad(AssertionError):
    """A peer wrote what it may never write."""


def request(target="/", *fields, host="app.test", method="GET", version="HTTP/1.1", body=None):
    """A request with exactly these field lines; a body gets its Content-Length."""
    lines = [f"{method} {target} {version}", *([f"Host: {host}"] if host else []), *fields]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


def reply(status=200, *fields, body=b"", length=True, version="HTTP/1.1"):
    """An answer as a backend writes it."""
    lines = [f"{version} {status} Said", *fields]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def half_close(sock):
    """Says that no more will come, below TLS if there is TLS."""
    with socket.socket(fileno=os.dup(sock.fileno())) as raw:
        raw.shutdown(socket.SHUT_WR)


def reset(sock):
    """Close with RST instead of FIN: linger on, for 0 s."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Fields(list):
    """(name, value) pairs in the order and case in which they came."""

    def all(self, name):
        return [v for n, v in self if n.lower() == name.lower()]

    def get(self, name):
        found = self.all(name)
        if len(found) > 1:
            raise Bad(f"{name} {len(found)} times: {found}")
        return found[0] if found else None

    def names(self):
        return [n.lower() for n, _ in self]


class Reader:
    """One end of a connection. EOFError at the end; ConnectionResetError for a reset."""

    def __init__(self, sock):
        self.sock, self.left = sock, b""
        sock.settimeout(PATIENCE)

    def more(self):
        data = self.sock.recv(65536)
        if not data:
            raise EOFError(f"closed after {self.left[:200]!r}")
        self.left += data

    def send(self, *data):
        for piece in data:
            self.sock.sendall(piece)

    def line(self):
        while b"\r\n" not in self.left:
            if len(self.left) > 1 << 17:
                raise Bad("endless line")
            self.more()
        line, self.left = self.left.split(b"\r\n", 1)
        if b"\n" in line or b"\r" in line or b"\0" in line:
            raise Bad(f"control character in {line[:100]!r}")
        return line

    def take(self, n):
        while len(self.left) < n:
            self.more()
        data, self.left = self.left[:n], self.left[n:]
        return data

    def fields(self):
        got = Fields()
        while True:
            line = self.line()
            if not line:
                return got
            m = re.fullmatch(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~\x80-\xff]*?)[ \t]*", line)
            if not m:
                raise Bad(f"field line {line[:100]!r}")
            got.append((m[1].decode(), m[2].decode("latin-1")))

    def framing(self, fields):
        """"chunked", a length, or None; both at once, or twice the same, is never right."""
        coding, length = fields.get("Transfer-Encoding"), fields.get("Content-Length")
        if coding is not None:
            if coding != "chunked" or length is not None:
                raise Bad(f"Transfer-Encoding {coding!r}, Content-Length {length!r}")
            return "chunked"
        if length is not None and not re.fullmatch("0|[1-9][0-9]{0,18}", length):
            raise Bad(f"Content-Length {length!r}")
        return None if length is None else int(length)

    def chunk(self):
        """The next chunk's bytes; b"" after the last one. Extensions and trailers: never."""
        size = self.line()
        if not re.fullmatch(rb"[0-9a-fA-F]{1,16}", size):
            raise Bad(f"chunk size {size[:100]!r}")
        data = self.take(int(size, 16))
        if self.line():
            raise Bad("bytes after a chunk" if data else "a trailer")
        return data

    def body(self, framing):
        if framing == "chunked":
            return b"".join(iter(self.chunk, b""))
        return self.take(framing or 0)

    def rest(self, patience=PATIENCE):
        """Everything up to the end of the connection, clean or by reset."""
        self.sock.settimeout(patience)
        try:
            while True:
                self.more()
        except (EOFError, ConnectionError, ssl.SSLEOFError):
            pass
        except TimeoutError:
            raise AssertionError(f"not closed within {patience:.1f} s") from None
        data, self.left = self.left, b""
        return data

    def quiet(self, seconds):
        """Whether nothing comes, not even the end, for so long."""
        assert not self.left, f"bytes left: {self.left[:100]!r}"
        self.sock.settimeout(seconds)
        try:
            self.more()
            return False
        except (EOFError, ConnectionError):
            return False
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(PATIENCE)

    def close(self):
        try:
            self.sock.close()
        except OSError:
            pass


# ==[ clients ]====================================================================================


class Answer:
    """status, fields, body, `framing` ("chunked", a length, "close", None) and the 1xx before."""

    def __init__(self):
        self.status, self.fields, self.body = 0, Fields(), b""
        self.framing, self.interim, self.line = None, [], b""

    def get(self, name):
        return self.fields.get(name)

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"<{self.line!r} {list(self.fields)} {self.body[:300]!r}>"


def proxy_line(peer, to="127.0.0.1", ports="4711 80"):
    """The version 1 header of the PROXY protocol for a connection from `peer`."""
    six = ":" in peer
    to = "::1" if six and ":" not in to else to
    return f"PROXY TCP{'6' if six else '4'} {peer} {to} {ports}\r\n".encode()


class Client(Reader):
    """A connection to the proxy. `name`: TLS with this SNI; "" is TLS without SNI. `source`: the
    address to come from; `first`: what is said before anything else, TLS included."""

    every = []  # so that a test need not close them

    def __init__(self, port, name=None, address="127.0.0.1", context=None, rcvbuf=None,
                 session=None, source=None, first=b""):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family)
        Client.every.append(sock)
        if rcvbuf:  # before connect, or the window scale is already agreed
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        sock.settimeout(PATIENCE)
        if source:
            sock.bind((source, 0))
        sock.connect((address, port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if first:
            sock.sendall(first)
        if name is not None:
            sock = context.wrap_socket(sock, server_hostname=name or None, session=session)
            Client.every.append(sock)
        super().__init__(sock)

    def head(self):
        """Status line and fields of the next answer that is not interim; the body is left."""
        answer = Answer()
        while True:
            answer.line = self.line()
            m = re.fullmatch(rb"HTTP/1\.1 ([1-5]\d\d) [\t -~\x80-\xff]*", answer.line)
            if not m:
                raise Bad(f"status line {answer.line[:100]!r}")
            answer.status, answer.fields = int(m[1]), self.fields()
            if answer.status >= 200 or answer.status == 101:
                return answer
            answer.interim.append((answer.status, answer.fields))

    def answer(self, method="GET"):
        answer = self.head()
        answer.framing = self.framing(answer.fields)
        if answer.status in (101, 204, 304) or method == "HEAD":
            return answer
        if answer.framing is None:
            answer.framing = "close"
            try:
                while True:
                    self.more()
            except EOFError:
                answer.body, self.left = self.left, b""
        else:
            answer.body = self.body(answer.framing)
        return answer

    def ask(self, *args, method="GET", **kw):
        self.send(request(*args, method=method, **kw))
        return self.answer(method)


class Talk:
    """A TLS client that hands out and takes in its bytes one by one. Without a port: `raw` is to be
    set before anything is sent. `records` are the types and lengths of those that came."""

    def __init__(self, name, context, port=None, session=None):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name or None,
                                    session=session)
        self.raw = Client(port) if port else None
        self.records, self.part = [], b""

    def hello(self):
        """The ClientHello, not sent yet."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return self.outgoing.read()

    def flush(self):
        data = self.outgoing.read()
        if data:
            self.raw.send(data)

    def came(self):
        """Takes in what comes next."""
        data = self.raw.sock.recv(65536)
        if not data:
            raise EOFError
        self.incoming.write(data)
        self.part += data
        while len(self.part) >= 5:
            size = int.from_bytes(self.part[3:5], "big")
            if len(self.part) < 5 + size:
                break
            self.records.append((self.part[0], size))
            self.part = self.part[5 + size:]

    def run(self, what, *args):
        """Repeats an operation of the TLS object until it is done."""
        while True:
            try:
                value = what(*args)
                self.flush()
                return value
            except ssl.SSLWantReadError:
                self.flush()
                self.came()

    def shake(self):
        self.run(self.tls.do_handshake)
        return self

    def send(self, data):
        self.tls.write(data)
        self.flush()

    def read(self, n):
        """Exactly n bytes."""
        got = b""
        while len(got) < n:
            got += self.run(self.tls.read, n - len(got))
        return got

    def goodbye(self):
        """close_notify: no more will be sent; what comes can still be read."""
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        self.flush()

    def ask(self, host="vpn.test", end=b"inside"):
        """A request; the answer ends like that."""
        self.shake().send(request(host=host))
        got = b""
        while not got.endswith(end):
            got += self.run(self.tls.read, 65536)
        return got


# ==[ backends ]===================================================================================


class Request:
    """One request as a backend got it."""

    def __init__(self, conn):
        self.conn, self.head, self.body = conn, b"", b""
        self.method, self.target, self.version, self.fields = "", "", "", Fields()

    def get(self, name):
        return self.fields.get(name)


class Conn(Reader):
    """A backend's connection: what a handler talks through."""

    def __init__(self, backend, sock, number):
        super().__init__(sock)
        self.backend, self.number = backend, number

    def head(self):
        """The next request's head; None when the proxy hung up between requests."""
        try:
            if not self.left:
                self.more()
        except (EOFError, ConnectionError, TimeoutError):
            return None
        r = Request(self)
        while b"\r\n\r\n" not in self.left:
            self.more()
        r.head = self.left[:self.left.index(b"\r\n\r\n") + 4]
        line = self.line()
        m = re.fullmatch(rb"([!-~]+) ([!-~]+) (HTTP/1\.1)", line)
        if not m:
            raise Bad(f"the backend got the request line {line[:100]!r}")
        r.method, r.target, r.version = (g.decode() for g in m.groups())
        r.fields = self.fields()
        if len(r.fields.all("Host")) != 1:
            raise Bad(f"the backend got Host {r.fields.all('Host')}")
        self.framing(r.fields)
        self.backend.requests.append(r)
        return r

    def request(self):
        """The next request with its body, or None."""
        r = self.head()
        if r:
            r.body = self.body(self.framing(r.fields))
        return r


def echo(conn):
    """Answers each request with what was received, as JSON."""
    while True:
        r = conn.request()
        if not r:
            return
        body = json.dumps({
            "method": r.method, "target": r.target, "fields": r.fields, "conn": conn.number,
            "head": r.head.decode("latin-1"), "length": len(r.body),
            "sha256": hashlib.sha256(r.body).hexdigest()}).encode()
        conn.send(reply(200, "Content-Type: application/json", body=b"" if r.method == "HEAD"
                        else body, length=r.method != "HEAD"))


def says(*pieces, close=False):
    """A handler that answers every request with these bytes; numbers among them are pauses."""
    def handler(conn):
        while conn.request():
            for piece in pieces:
                if isinstance(piece, bytes):
                    conn.send(piece)
                else:
                    time.sleep(piece)
            if close:
                return
    return handler


class Backend:
    """A server that runs handler(Conn) in a thread for each connection, then closes it. What a
    handler raises, besides the proxy's hanging up on it, fails the test."""

    def __init__(self, handler=echo, port=0, path=None, address="127.0.0.1", sndbuf=None,
                 rcvbuf=None, context=None):
        self.handler, self.context = handler, context
        self.requests, self.errors, self.conns, self.socks = [], [], 0, []
        family = (socket.AF_UNIX if path else
                  socket.AF_INET6 if ":" in address else socket.AF_INET)
        self.listener = socket.socket(family)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for option, value in ((socket.SO_SNDBUF, sndbuf), (socket.SO_RCVBUF, rcvbuf)):
            if value:  # accepted connections inherit it
                self.listener.setsockopt(socket.SOL_SOCKET, option, value)
        self.listener.bind(str(path) if path else (address, port))
        self.listener.listen(256)
        self.port = 0 if path else self.listener.getsockname()[1]
        shown = f"[{address}]" if ":" in address else address
        self.address = f"{shown}:{self.port}"
        self.url = f"unix:{path}" if path else f"http://{self.address}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.conns += 1
            self.socks.append(sock)
            threading.Thread(target=self.serve, args=(sock, self.conns), daemon=True).start()

    def serve(self, sock, number):
        try:
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.handler(Conn(self, sock, number))
        except (EOFError, OSError):
            pass
        except BaseException as e:  # noqa: B902: an assertion in a handler is the test's
            self.errors.append(e)
        finally:
            sock.close()

    def close(self):
        """Like a service that stops: later connections are refused, open ones end."""
        for sock in [self.listener, *self.socks]:
            try:
                sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits on it
            except OSError:
                pass
            if sock is self.listener:
                sock.close()


def dead_port():
    """A port that nobody listens on, and that the kernel gives to nobody by itself: it is below those
    that it takes for outgoing connections (from 32768 on)."""
    while True:
        port = random.randrange(15000, 32000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


# ==[ certificates ]===============================================================================


class Cert:
    """Files `chain`, `key` and `pem` (both) for these names, signed by an authority. life: days from
    now, from when to when it is valid."""

    def __init__(self, folder, stem, names, key, issuer=None, life=(-1, 300)):
        now = datetime.datetime.utcnow()
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
        alt = [x509.IPAddress(ipaddress.ip_address(n)) if re.fullmatch(r"[\d.]+|.*:.*", n)
               else x509.DNSName(n) for n in names]
        ca = issuer is None
        builder = (x509.CertificateBuilder().subject_name(subject)
                   .issuer_name(subject if ca else issuer.cert.subject)
                   .public_key(key.public_key()).serial_number(x509.random_serial_number())
                   .not_valid_before(now + datetime.timedelta(days=life[0]))
                   .not_valid_after(now + datetime.timedelta(days=life[1]))
                   .add_extension(x509.BasicConstraints(ca, None), True))
        if not ca:
            revoked = x509.UniformResourceIdentifier("http://ca.test/revoked.crl")
            builder = (builder.add_extension(x509.SubjectAlternativeName(alt), False)
                       .add_extension(x509.CRLDistributionPoints(
                           [x509.DistributionPoint([revoked], None, None, None)]), False))
        self.cert = builder.sign(key if ca else issuer.private, hashes.SHA256())
        self.private, self.names = key, names
        pem = self.cert.public_bytes(serialization.Encoding.PEM)
        secret = key.private_bytes(serialization.Encoding.PEM,
                                   serialization.PrivateFormat.PKCS8,
                                   serialization.NoEncryption())
        self.chain, self.key, self.pem = (folder / f"{stem}.{e}" for e in ("crt", "key", "pem"))
        self.chain.write_bytes(pem)
        self.key.write_bytes(secret)
        self.pem.write_bytes(pem + secret)


class Authority:
    """Signs certificates, each set of names once a session; `trust()` is a client's context."""

    def __init__(self, folder):
        self.folder, self.made = folder, {}
        self.root = Cert(folder, "ca", ["rproxy test authority"],
                         ec.generate_private_key(ec.SECP256R1()))

    def __call__(self, *names, kind="ec", life=(-1, 300)):
        if (names, kind, life) not in self.made:
            key = (ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else
                   ec.generate_private_key(ec.SECP384R1()) if kind == "p384" else
                   rsa.generate_private_key(65537, 4096 if kind == "rsa4096" else 2048))
            self.made[names, kind, life] = Cert(self.folder, f"cert{len(self.made)}", names, key,
                                                self.root, life)
        return self.made[names, kind, life]

    def trust(self, check_name=True):
        context = ssl.create_default_context(cafile=str(self.root.chain))
        context.check_hostname = check_name
        return context


# ==[ the proxy ]==================================================================================

QUOTED = r'"((?:[^"\\]|\\.)*)"'
COMBINED = re.compile(
    r"(?P<vhost>\S+) (?P<peer>\S+) - (?P<user>\S+) "
    r"\[(?P<time>\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\] "
    + QUOTED.replace("(", "(?P<request>", 1) + r" (?P<status>\d{3}|-) (?P<bytes>\d+|-) "
    + QUOTED.replace("(", "(?P<referer>", 1) + " " + QUOTED.replace("(", "(?P<agent>", 1)
    + r" (?P<upstream>\S+) (?P<total_ms>\d+|-) (?P<first_ms>\d+|-) (?P<tls>\S+) (?P<cipher>\S+) "
    r"(?P<reason>[a-z-]+)")
EXPECTED = (
    r"rproxy: listening (http|https|status) \S+:\d+",
    r"rproxy: ready",
    r"rproxy: memory: at most .*",
    r"rproxy: warning: there is no route: every request gets a \d+",
    r"rproxy: stopping: \d+ connections have \d+ s; a second signal ends at once",
    r"rproxy: .*\broot\b.*--user.*",  # tests in a container run as root
)
# What may be said about a target that a test has broken on purpose.
TROUBLE = r"rproxy: .*(127\.0\.0\.1|upstream|target|\.invalid).*"


def arguments(routes, options):
    """cert=[a, b] becomes --cert a --cert b; hsts=True becomes --hsts; None is left out."""
    args = []
    for name, value in options.items():
        for v in value if isinstance(value, (list, tuple)) else [value]:
            if v is not None:
                args += [f"--{name.replace('_', '-')}"] + ([] if v is True else [str(v)])
    for rule in routes:
        args += ["--route", rule]
    return args


def run(*args, stdin=None):
    """The binary run to its end: exit status, standard output, standard error."""
    done = subprocess.run([*BINARY, *map(str, args)], capture_output=True, timeout=PATIENCE,
                          text=True, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout, done.stderr


class Proxy:
    """The running binary. proxy(RULE, RULE, idle_timeout="2s", expect=[REGEX]): `expect` lists
    what it may say on stderr besides its greeting and access lines; anything else, a sanitizer's
    report above all, fails the test at the end. `under`: a command that ends with exec of it."""

    def __init__(self, *routes, expect=(), args=None, authority=None, env=None, under=(),
                 **options):
        if args is None:
            options.setdefault("http", "127.0.0.1:0")
            args = arguments(routes, options)
        self.expect = [re.compile(e) for e in (*EXPECTED, *expect)]
        # Real servers that a test has in front of it: their idle connections are no leak either.
        self.targets = {int(n) for a in args for n in re.findall(r"=http://[^ ]*:(\d+)", str(a))}
        self.authority, self.lines, self.stopped = authority, [], False
        self.process = subprocess.Popen([*under, *BINARY, *args], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                        env={**os.environ, **(env or {})})
        # a busy machine may keep us from reading for a while: no line is lost then
        fcntl.fcntl(self.process.stderr, fcntl.F_SETPIPE_SZ, 1 << 20)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        try:
            wait_for(lambda: self.ready() or self.process.poll() is not None, "rproxy: ready")
            if not self.ready():
                self.reader.join(PATIENCE)
                raise AssertionError("\n".join(["did not start:", *map(repr, args), *self.lines]))
        except AssertionError:
            self.process.kill()
            self.stopped = True
            raise
        heard = [re.fullmatch(r"rproxy: listening (\w+) (\S+):(\d+)", s) for s in self.lines]
        self.addresses = [(m[1], m[2]) for m in heard if m]
        ports = {k: [int(m[3]) for m in heard if m and m[1] == k]
                 for k in ("http", "https", "status")}
        self.http, self.https, self.status = ports["http"], ports["https"], ports["status"]
        self.fds = len(self.descriptors())

    # -- what it says

    def read(self):
        for line in self.process.stderr:
            self.lines.append(line.decode("utf-8", "backslashreplace").rstrip("\n"))

    def ready(self):
        return "rproxy: ready" in self.lines

    def said(self, regex, patience=PATIENCE):
        """The first line that matches, waited for."""
        return wait_for(lambda: next((s for s in self.lines if re.search(regex, s)), None),
                        f"{regex!r} in {self.lines}", patience)

    def access(self, n=1):
        """The access lines so far, as objects, once there are at least n."""
        def found():
            lines = [COMBINED.fullmatch(s) for s in self.lines]
            lines = [types.SimpleNamespace(**m.groupdict()) for m in lines if m]
            return lines if len(lines) >= n else None
        return wait_for(found, f"{n} access lines in {self.lines}")

    def unexpected(self):
        return [s for s in self.lines if not COMBINED.fullmatch(s) and not s.startswith('{"')
                and not any(e.fullmatch(s) for e in self.expect)]

    # -- what it holds

    def descriptors(self):
        folder = f"/proc/{self.process.pid}/fd"
        links = {}
        for fd in os.listdir(folder):
            try:
                links[fd] = os.readlink(f"{folder}/{fd}")
            except FileNotFoundError:
                pass
        return links

    def pooled(self, ports):
        """How many live connections to these backends it holds: those it may keep for 4 s."""
        inodes = set()
        for table in ("tcp", "tcp6"):
            for line in open(f"/proc/{self.process.pid}/net/{table}").readlines()[1:]:
                f = line.split()
                if f[3] == "01" and int(f[2].rsplit(":", 1)[1], 16) in ports:
                    inodes.add(f"socket:[{f[9]}]")
        return sum(link in inodes for link in self.descriptors().values())

    def memory(self):
        """Resident bytes, exactly (VmRSS may be off by 64 pages a processor)."""
        text = open(f"/proc/{self.process.pid}/smaps_rollup").read()
        return int(re.search(r"^Rss:\s+(\d+) kB", text, re.M)[1]) * 1024

    def cpu(self):
        """Processor time so far, in s: what clock_getcpuclockid(3) gives for its process."""
        return time.clock_gettime(~self.process.pid << 3 | 2)

    # -- talking to it

    def client(self, name=None, context=None, **kw):
        """A connection to the first plain listener, or with `name` to the first TLS one."""
        if name is None:
            return Client(self.http[0], **kw)
        context = context or self.authority.trust(check_name=bool(name))
        return Client(self.https[0], name, context=context, **kw)

    def ask(self, *args, **kw):
        """One request on a connection of its own."""
        client = self.client()
        try:
            return client.ask(*args, **kw)
        finally:
            client.close()

    # -- its end

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, patience=PATIENCE):
        """Its exit status."""
        try:
            status = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"not gone within {patience:.0f} s: {self.lines}") from None
        finally:
            self.stopped = True
        self.reader.join(PATIENCE)
        return status

    def stop(self, patience=PATIENCE):
        """TERM: must end in time, with 0, having said nothing unexpected."""
        self.signal(signal.SIGTERM)
        status = self.wait(patience)
        assert status == 0, f"exit status {status}: {self.lines}"

    def finish(self, ports=()):
        """The end of a test: alive, no descriptor left over, ends cleanly, said nothing else."""
        if not self.stopped:
            status = self.process.poll()
            if status is not None:
                self.stopped = True
                self.reader.join(PATIENCE)
                raise AssertionError(f"died with {status}: {self.lines}")
            try:
                ports = self.targets | set(ports)
                wait_for(lambda: len(self.descriptors()) - self.pooled(ports) <= self.fds,
                         "descriptors to be given back", 6 * SLOW)
            except AssertionError as e:
                self.signal(signal.SIGKILL)
                left = self.descriptors()
                self.wait()
                raise AssertionError(f"{e}: {self.fds} at the start, now {left}") from None
            self.stop()
        assert not self.unexpected(), "\n".join(["unexpected on stderr:", *self.unexpected()])
