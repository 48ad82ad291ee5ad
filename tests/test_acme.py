"""--acme-dir: what is served out of it and what never is; and a real certbot that gets a
certificate of a real ACME server (pebble) through the running proxy."""

import json
import os
import socket
import ssl
import subprocess
import urllib.request

import pytest

from harness import PATIENCE, SLOW, wait_for

HTTPS = "127.0.0.1:0"
WHERE = "/.well-known/acme-challenge/"
LINE = r"rproxy: warning: no certificate covers .*"


def free_ports(n):
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


# ==[ the directory ]==============================================================================


@pytest.fixture
def webroot(tmp_path):
    """A directory as certbot's webroot plugin fills it, with a token in each of the two places."""
    root = tmp_path / "webroot"
    (root / WHERE.strip("/")).mkdir(parents=True)
    (root / WHERE.strip("/") / "nested-_1").write_text("nested-_1.print")
    (root / "plain").write_text("plain.print")
    return root


@pytest.mark.release
def test_a_challenge_is_answered_for_every_host_before_all_else(proxy, backend, certs, webroot,
                                                                tmp_path):
    b = backend()
    (tmp_path / "users").write_text("")
    p = proxy(f"a.test={b.url}", f"deny.test={b.url} deny=127.0.0.0/8",
              f"auth.test={b.url} auth={tmp_path}/users", f"rate.test={b.url} rate=1/s:1",
              "away.test=redirect:https://x.test/", "code.test=status:410",
              "vpn.test=tcp://127.0.0.1:1", https=HTTPS, cert=certs("a.test").pem,
              acme_dir=webroot, default="drop", expect=[LINE])
    client = p.client()
    for host in ("a.test", "deny.test", "auth.test", "rate.test", "rate.test", "away.test",
                 "code.test", "vpn.test", "unknown.test", "127.0.0.1", "A.TEST.:80"):
        for name in ("nested-_1", "plain"):
            answer = client.ask(WHERE + name, host=host)
            assert (answer.status, answer.body) == (200, name.encode() + b".print"), host
            assert answer.get("Content-Type") == "text/plain"
    assert client.ask(WHERE + "plain?x=/../y", host="a.test").body == b"plain.print"
    head = client.ask(WHERE + "plain", host="a.test", method="HEAD")
    assert (head.status, head.get("Content-Length"), head.body) == (200, "11", b"")
    assert client.ask(WHERE + "none", host="a.test").status == 404
    assert b.requests == []
    lines = p.access(25)
    assert [(a.status, a.reason) for a in lines] == [("200", "challenge")] * 24 + [
        ("404", "challenge")]


def secret_of(root):
    """What must never come out, in every place where a path could lead."""
    (root.parent / "secret").write_text("secret")
    (root.parent / "outside").mkdir()
    (root.parent / "outside" / "token").write_text("secret")
    below = root / WHERE.strip("/")
    (below / "link").symlink_to(root.parent / "secret")
    (below / "link-in").symlink_to(below / "nested-_1")
    (below / "dirlink").symlink_to(root.parent / "outside")
    (root / "dirlink").symlink_to(root.parent / "outside")
    (below / "directory").mkdir()
    (below / "directory" / "token").write_text("secret")
    os.mkfifo(below / "fifo")
    (below / "huge").write_bytes(bytes(10 << 20))
    (below / "a.b").write_text("secret")
    (below / ".hidden").write_text("secret")
    fd = os.open(below, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(f"/proc/self/fd/{fd}/socket")  # the path itself may be too long
    os.close(fd)
    (below / ("x" * 128)).write_text("long")
    (below / ("x" * 129)).write_text("secret")


@pytest.mark.release
def test_nothing_else_comes_out_of_the_directory(proxy, backend, webroot):
    secret_of(webroot)
    b = backend()
    p = proxy(f"a.test={b.url}", acme_dir=webroot)
    client = p.client()
    assert client.ask(WHERE + "x" * 128, host="a.test").body == b"long"
    for path in ("link", "link-in", "dirlink", "dirlink/token", "directory", "directory/token",
                 "fifo", "huge", "socket", "a.b", ".hidden", "x" * 129, "", "/plain",
                 "nested-_1/", "nested-_1%00", "%6eested-_1", "plain;x", "..", ".",
                 "../acme-challenge/plain", "../../plain", "..%2f..%2fplain", "nested-_1/../plain",
                 "\\..\\plain", "plain#", "%2e%2e/%2e%2e/plain"):
        answer = client.ask(WHERE + path, host="a.test")
        assert answer.status in (400, 404), path
        assert b"secret" not in answer.body and b"print" not in answer.body, path
        if answer.get("Connection") == "close":
            client = p.client()
    assert all("acme-challenge" not in r.target for r in b.requests)


def test_what_is_no_challenge_goes_its_way(proxy, backend, certs, webroot):
    """Other methods, other paths, and TLS: the application behind may answer challenges itself."""
    b = backend()
    p = proxy(f"a.test={b.url} plain", https=HTTPS, cert=certs("a.test").pem, acme_dir=webroot)
    assert p.ask(WHERE + "plain", host="a.test", method="POST", body=b"x").json()["method"] == "POST"
    for path in ("/.well-known/acme-challenge", "/.well-known/acme-challenge-x/plain", "/plain",
                 "/.well-known/other", "/x/.well-known/acme-challenge/plain"):
        assert p.ask(path, host="a.test").json()["target"] == path
    assert p.client("a.test").ask(WHERE + "plain", host="a.test").json()["target"] == WHERE + "plain"


def test_without_the_option_challenges_are_the_backends(proxy, backend):
    p = proxy(f"a.test={backend().url}")
    assert p.ask(WHERE + "plain", host="a.test").json()["target"] == WHERE + "plain"


def test_a_directory_that_comes_and_goes(proxy, tmp_path):
    """ACME clients make it when they need it, some anew each time."""
    root = tmp_path / "later"
    p = proxy("a.test=status:410", acme_dir=root, expect=[r"rproxy: .*later.*"])
    client = p.client()
    for word in ("one", "two"):
        assert client.ask(WHERE + "token", host="a.test").status == 404
        root.mkdir()
        (root / "token").write_text(word)
        assert client.ask(WHERE + "token", host="a.test").body == word.encode()
        (root / "token").unlink()
        root.rmdir()
    assert client.ask(WHERE + "token", host="a.test").status == 404


def test_the_largest_challenge(proxy, webroot):
    """A key authorization has under 200 bytes; there is room for 4096."""
    p = proxy(acme_dir=webroot)
    (webroot / "full").write_bytes(b"x" * 4096)
    (webroot / "over").write_bytes(b"x" * 4097)
    (webroot / "empty").write_bytes(b"")
    assert p.ask(WHERE + "full", host="a.test").body == b"x" * 4096
    assert p.ask(WHERE + "over", host="a.test").status == 404
    assert p.ask(WHERE + "empty", host="a.test").body == b""


# ==[ a real client, a real server ]===============================================================


class Pebble:
    """Let's Encrypt's small ACME server. It asks 127.0.0.1 whatever the name is, on this port."""

    def __init__(self, folder, certs, http_port):
        self.port, self.manage, dns, dns_manage = free_ports(4)
        cert = certs("127.0.0.1")
        (folder / "pebble.json").write_text(json.dumps({"pebble": {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self.manage}", "certificate": str(cert.chain),
            "privateKey": str(cert.key), "httpPort": http_port, "tlsPort": 1}}))
        env = {**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
        self.log = open(folder / "pebble.log", "w")
        self.processes = [subprocess.Popen(args, env=env, stdout=self.log, stderr=self.log)
                          for args in (
            ["pebble-challtestsrv", "-dns01", f"127.0.0.1:{dns}", "-management",
             f"127.0.0.1:{dns_manage}", "-defaultIPv6", "", "-http01", "", "-https01", "",
             "-tlsalpn01", ""],
            ["pebble", "-config", str(folder / "pebble.json"), "-dnsserver", f"127.0.0.1:{dns}"])]
        for port in (self.port, self.manage, dns_manage):
            wait_for(lambda port=port: self.listens(port), "pebble", 3 * PATIENCE)
        context = ssl.create_default_context(cafile=str(certs.root.chain))
        with urllib.request.urlopen(f"https://127.0.0.1:{self.manage}/roots/0",
                                    context=context) as answer:
            self.root = answer.read().decode()

    @staticmethod
    def listens(port):
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", port)) == 0

    def close(self):
        for process in self.processes:
            process.terminate()
            process.wait(PATIENCE)
        self.log.close()


def certbot(folder, certs, *args):
    env = {**os.environ, "REQUESTS_CA_BUNDLE": str(certs.root.chain), "LC_ALL": "C"}
    done = subprocess.run(["certbot", *args, "--config-dir", folder / "le", "--work-dir",
                           folder / "work", "--logs-dir", folder / "logs", "-n"], env=env,
                          capture_output=True, text=True, timeout=60 * SLOW)
    assert done.returncode == 0, done.stdout + done.stderr


def test_certbot_gets_and_renews_a_certificate_through_the_proxy(proxy, backend, certs, tmp_path):
    b = backend()
    live = tmp_path / "le" / "live"
    webroot = tmp_path / "webroot"
    webroot.mkdir()
    p = proxy(f"a.test={b.url}", f"www.a.test={b.url}", https=HTTPS, cert_dir=live,
              acme_dir=webroot, expect=[LINE, r"rproxy: .*live: No such file.*",
                                        "rproxy: (1 times more: rproxy: )?reloaded"])
    assert p.ask(host="a.test").status == 200  # no certificate yet: served as it is
    pebble = Pebble(tmp_path, certs, p.http[0])
    try:
        hook = f"kill -HUP {p.process.pid}"
        certbot(tmp_path, certs, "certonly", "--webroot", "-w", webroot, "-d", "a.test", "-d",
                "www.a.test", "--server", f"https://127.0.0.1:{pebble.port}/dir", "--agree-tos",
                "--register-unsafely-without-email", "--deploy-hook", hook)
        p.said("rproxy: reloaded")
        context = ssl.create_default_context(cadata=pebble.root)

        def shown(name):
            client = p.client(name, context=context)  # verified, name and chain
            assert client.ask(host=name).status == 200
            return client.sock.getpeercert()["serialNumber"]

        first = shown("a.test")
        assert shown("www.a.test") == first
        assert p.ask(host="a.test").status == 301  # now there is a better way
        open_before = p.client("a.test", context=context)
        assert open_before.ask(host="a.test").status == 200
        asked = sum(a.reason == "challenge" for a in p.access())
        assert asked >= 2 and all(a.status == "200" for a in p.access() if a.reason == "challenge")

        certbot(tmp_path, certs, "renew", "--force-renewal", "--no-random-sleep-on-renew")
        wait_for(lambda: shown("a.test") != first, "the new certificate")
        assert shown("www.a.test") == shown("a.test")
        assert open_before.ask(host="a.test").status == 200  # what was open lives on
    finally:
        pebble.close()
