"""Every TLS library at hand as a client: a full and a resumed handshake, and 1 MB both ways.

Whether a handshake was full or resumed is not left to the client's word: a tap between it and the
proxy looks for the Certificate message.
"""

import base64
import hashlib
import os
import shutil
import socket
import ssl
import subprocess
import threading

import pytest
from cryptography.hazmat.primitives import serialization

from harness import PATIENCE, ROOT, reply, request, wait_for

SIZE = 1 << 20
BODY = os.urandom(SIZE)
DIGEST = hashlib.sha256(BODY).hexdigest()
NAME = "a.test"
CLIENTS = ROOT / "build/interop"  # those that make compiles


class Tap:
    """Passes connections on to a port; `kinds` has "full" or "resumed" for each handshake."""

    def __init__(self, port):
        self.to, self.kinds, self.socks = port, [], []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near = self.listener.accept()[0]
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.to))
            self.socks += [near, far]
            threading.Thread(target=self.copy, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self.copy, args=(far, near, True), daemon=True).start()

    def copy(self, a, b, look):
        head = b""
        try:
            while True:
                data = a.recv(65536)
                if not data:
                    break
                if look:
                    head += data
                    kind = self.kind(head)
                    if kind:
                        self.kinds.append(kind)
                    look = not kind
                b.sendall(data)
            b.shutdown(socket.SHUT_WR)
        except OSError:
            for s in (a, b):
                s.close()

    @staticmethod
    def kind(head):
        """RFC 5246 7.3: what the server's hello is followed by."""
        at, messages = 0, b""
        while len(head) >= at + 5:
            size = int.from_bytes(head[at + 3:at + 5], "big")
            if head[at] == 20:
                return "resumed"
            if head[at] != 22:
                return "none"
            messages += head[at + 5:at + 5 + size]
            at += 5 + size
        while len(messages) >= 4:
            if messages[0] == 11:
                return "full"
            messages = messages[4 + int.from_bytes(messages[1:4], "big"):]
        return None

    def close(self):
        for s in [self.listener, *self.socks]:
            s.close()


def site(conn):
    """Takes uploads, hands out BODY, and a page that does both in a browser."""
    while True:
        r = conn.request()
        if not r:
            return
        if r.target == "/big":
            conn.send(reply(200, "Content-Type: application/octet-stream", body=BODY))
        elif r.target == "/":
            conn.send(reply(200, "Content-Type: text/html", body=PAGE))
        else:
            conn.send(reply(200, body=hashlib.sha256(r.body).hexdigest().encode()))


PAGE = b"""<!doctype html><script>
const hex = b => [...new Uint8Array(b)].map(x => x.toString(16).padStart(2, "0")).join("");
const sum = async b => hex(await crypto.subtle.digest("SHA-256", b));
(async () => {
	let said = "";
	try {
		const big = await (await fetch("/big")).arrayBuffer();
		said = await sum(big);
		await new Promise(r => setTimeout(r, 2500)); // the proxy closes what idles for 1 s
		said += " " + await (await fetch("/up", {method: "POST", body: big})).text();
	} catch (e) {
		said = "failed: " + e;
	}
	await fetch("/report", {method: "POST", body: said});
})();
</script>
"""


class World:
    """What a client is given: the tap's port, the authority's file, files of requests."""

    def __init__(self, p, b, certs, folder):
        self.p, self.b, self.certs, self.folder = p, b, certs, folder
        self.tap = Tap(p.https[0])
        self.port, self.ca = self.tap.port, str(certs.root.chain)
        self.body = folder / "body"
        self.body.write_bytes(BODY)
        self.up = folder / "up"
        self.up.write_bytes(request("/up", "Connection: close", host=NAME, method="POST",
                                    body=BODY))
        self.big = folder / "big"
        self.big.write_bytes(request("/big", "Connection: close", host=NAME))
        self.both = folder / "both"
        self.both.write_bytes(request("/up", host=NAME, method="POST", body=BODY)
                              + self.big.read_bytes())
        self.answer = folder / "answer"

    def run(self, *args, stdin=None, ok=True):
        """Runs a client to its end; what it wrote to its two outputs."""
        done = subprocess.run([str(a) for a in args], capture_output=True, timeout=6 * PATIENCE,
                              stdin=open(stdin or os.devnull, "rb"))
        assert done.returncode == 0 or not ok, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout, done.stderr

    def judge(self, kinds, got=None):
        """The upload arrived, BODY came back, the handshakes were of these kinds."""
        if got is None:
            got = self.answer.read_bytes()
        assert BODY in got, got[:300]
        ups = [hashlib.sha256(r.body).hexdigest() for r in self.b.requests if r.method == "POST"]
        assert ups and set(ups) == {DIGEST}
        assert self.tap.kinds == kinds


@pytest.fixture
def world(proxy, backend, certs, tmp_path):
    b = backend(site)
    p = proxy(f"*={b.url}", https="127.0.0.1:0", idle_timeout="1s", cert=[certs(NAME, "localhost").pem,
                                                      certs(NAME, "localhost", kind="rsa").pem])
    made = World(p, b, certs, tmp_path)
    yield made
    made.tap.close()


@pytest.mark.release
def test_curl_with_openssl(world):
    assert b"OpenSSL" in world.run("curl", "--version")[0]
    url = f"https://{NAME}:{world.port}"
    common = ["-sS", "-f", "--cacert", world.ca, "--resolve", f"{NAME}:{world.port}:127.0.0.1",
              "-H", "Connection: close"]
    world.run("curl", *common, "-o", world.folder / "up.out", "--data-binary", f"@{world.body}",
              f"{url}/up", "--next", *common, "-o", world.answer, f"{url}/big")
    world.judge(["full", "resumed"])


def test_gnutls_cli(world):
    out, _ = world.run("gnutls-cli", "--resume", "-p", world.port, "--sni-hostname", NAME,
                       "--verify-hostname", NAME, "--x509cafile", world.ca, "127.0.0.1",
                       stdin=world.both)
    assert b"This is a resumed session" in out
    world.judge(["full", "resumed"], out)


@pytest.mark.release
def test_openssl_s_client(world):
    common = ["openssl", "s_client", "-quiet", "-connect", f"127.0.0.1:{world.port}",
              "-servername", NAME, "-CAfile", world.ca, "-verify_return_error", "-tls1_2"]
    world.run(*common, "-sess_out", world.folder / "session", stdin=world.up)
    out, _ = world.run(*common, "-sess_in", world.folder / "session", stdin=world.big)
    world.judge(["full", "resumed"], out)


def test_wget(world):
    """Debian's, on GnuTLS. It keeps no session from one connection to the next."""
    url = f"https://localhost:{world.port}"
    common = ["wget", "-q", "--no-http-keep-alive", "--ca-certificate", world.ca]
    world.run(*common, "-O", world.folder / "up.out", "--post-file", world.body, f"{url}/up")
    world.run(*common, "-O", world.answer, f"{url}/big")
    world.judge(["full", "full"])


def test_python_ssl(world):
    context = world.certs.trust()
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # or its sessions are not shown

    def exchange(data, session=None):
        raw = socket.create_connection(("127.0.0.1", world.port), PATIENCE)
        with context.wrap_socket(raw, server_hostname=NAME, session=session) as s:
            s.sendall(data)
            got = b"".join(iter(lambda: s.recv(65536), b""))
            return got, s.session, s.session_reused
    _, session, _ = exchange(world.up.read_bytes())
    got, _, reused = exchange(world.big.read_bytes(), session)
    assert reused
    world.judge(["full", "resumed"], got)


def test_nss(world):
    """Firefox' library, by its own test client."""
    db = world.folder / "nss"
    db.mkdir()
    world.run("certutil", "-N", "-d", db, "--empty-password")
    world.run("certutil", "-A", "-d", db, "-n", "ca", "-t", "C,,", "-i", world.ca)
    out, said = world.run("tstclnt", "-h", "127.0.0.1", "-p", world.port, "-a", NAME, "-d", db,
                          "-L", 2, "-A", world.both, ok=False)
    world.judge(["full", "resumed"], out)


def test_mbedtls(world):
    world.run(CLIENTS / "mbedtls", world.port, NAME, world.ca, world.up, world.folder / "up.out", world.big,
              world.answer)
    world.judge(["full", "resumed"])


def test_brssl(world):
    """BearSSL's own client. It cannot resume; unit_tls.c does, with the same library."""
    # It stops listening at the end of its input: that stays open until the proxy has closed.
    brssl = subprocess.Popen([CLIENTS / "brssl", "client", "-q", "-sni", NAME, "-CA", world.ca,
                              f"127.0.0.1:{world.port}"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    writer = threading.Thread(target=lambda: (brssl.stdin.write(world.both.read_bytes()),
                                              brssl.stdin.flush()))
    writer.start()
    hang = threading.Timer(6 * PATIENCE, brssl.kill)
    hang.start()
    out = brssl.stdout.read()
    hang.cancel()
    writer.join()
    brssl.stdin.close()
    assert brssl.wait(PATIENCE) == 0
    world.judge(["full"], out)


@pytest.mark.release
def test_chromium(world):
    key = world.certs(NAME, "localhost").private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    pin = base64.b64encode(hashlib.sha256(key).digest()).decode()
    browser = subprocess.Popen(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--no-first-run", "--disable-background-networking", "--disable-component-update",
         f"--user-data-dir={world.folder}/chromium",
         f"--host-resolver-rules=MAP {NAME}:443 127.0.0.1:{world.port}, MAP * ~NOTFOUND",
         f"--ignore-certificate-errors-spki-list={pin}", f"https://{NAME}/"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=open(world.folder / "chromium.log", "wb"), start_new_session=True)
    try:
        report = wait_for(lambda: next((r for r in world.b.requests if r.target == "/report"
                                        and r.body), None), "the browser's report", 6 * PATIENCE)
        assert report.body.decode() == f"{DIGEST} {DIGEST}"
        # It may open a connection or two ahead of need.
        assert world.tap.kinds[0] == "full" and world.tap.kinds[-1] == "resumed"
    finally:
        browser.terminate()
        browser.wait(PATIENCE)


if shutil.which("javac") or os.environ.get("RP_INTEROP"):  # a JDK is large: `make interop` has it
    def test_java(world):
        out, _ = world.run("java", ROOT / "tests/interop/Fetch.java",
                           f"https://localhost:{world.port}", world.ca, world.body, world.answer)
        assert out.decode().split() == ["200", "200", "HTTP_1_1"]
        world.judge(["full", "resumed"])
