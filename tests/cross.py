"""A router's program in its emulator: what the file is, what it takes, and TLS with three clients.

`make TARGET=mips run-check` runs it, with RPROXY="EMULATOR build/mips/rproxy"; so it is not called
test_*. The tests that are marked for the release binary make up the quick form.
"""

import asyncio
import gzip
import hashlib
import os
import pathlib
import re
import ssl
import subprocess
import time

import pytest

from harness import BINARY, PATIENCE, ROOT, Backend, Client, reply, request, run, wait_for
from test_luci import Browser
from test_ws import connect, echo_server  # noqa: F401: a fixture

FILE = pathlib.Path(BINARY[-1])
TARGET = FILE.parent.name
MIPS = TARGET.startswith("mips")
HTTPS = "127.0.0.1:0"
SIZE = {"mips": 350_000, "mipsel": 350_000}.get(TARGET, 420_000)
PACKED = 170_000  # bytes of a compressed package
PRIVATE = 700  # KB at rest
# MIPS coprocessor 1: loads, stores, moves, branches, and arithmetic with its formats.
FLOAT = re.compile(r"([ls][wd]x?c1|m[tf]h?c1|c[tf]c1|bc1[tf]l?|mov[tf](\.[sd])?"
                   r"|[a-z.0-9]+\.(s|d|ps|w|l))$")


def tool(name, *args):
    """Output of the target's binutils."""
    triple = re.search(rf"call row,{TARGET},([^,]+),", (ROOT / "configs/targets.mk").read_text())[1]
    return subprocess.run([f"{triple}-{name}", *args], check=True, capture_output=True,
                          text=True).stdout


# ==[ the file ]===================================================================================


@pytest.mark.release
def test_it_is_small_static_and_stripped():
    headers = tool("readelf", "-lSW", FILE)
    assert "INTERP" not in headers and ".symtab" not in headers and "RWE" not in headers, headers
    size, packed = FILE.stat().st_size, len(gzip.compress(FILE.read_bytes(), 9))
    print(f"{TARGET}: {size} bytes, {packed} packed")
    assert size <= SIZE


@pytest.mark.release
def test_not_one_floating_point_instruction():
    """On MIPS each one is a trap that no router's kernel emulates. The emulator's 24Kc dies on it,
    too; here those are found that no test comes by."""
    said = tool("readelf", "-A", FILE)
    if MIPS:
        assert "Tag_GNU_MIPS_ABI_FP: Soft float" in said and "CPR1 size: 0" in said
        assert "ISA: MIPS32r2" in said
    elif TARGET.startswith("arm"):
        assert "Tag_ABI_VFP_args" not in said and "Tag_FP_arch" not in said
    if MIPS:
        code = re.findall(r"^ +[0-9a-f]+:\t[0-9a-f ]+\t(\S+)",
                          tool("objdump", "-d", f"{FILE}-symbols"), re.M)
        assert len(code) > 50_000 and "jalx" in code  # both instruction sets were understood
        assert not [i for i in code if FLOAT.fullmatch(i)]


@pytest.mark.release
def test_it_says_the_version_of_its_source():
    version = re.search('RP_VERSION "(.*)"', (ROOT / "rproxy.h").read_text())[1]
    status, said, _ = run("--version")
    assert status == 0 and said.split("\n")[0] == f"rproxy {version}"


def package_is_small():
    """Around a program that uses the libc of OpenWrt, and nothing else of it."""
    subprocess.run(["make", "-s", "-C", ROOT, f"TARGET={TARGET}", "ipk"], check=True,
                   stdout=subprocess.DEVNULL)
    (file,) = FILE.parent.glob("rproxy_*.ipk")
    print(f"{TARGET}: package {file.stat().st_size} bytes")
    assert file.stat().st_size <= PACKED
    said = tool("readelf", "-dlA", FILE.parent / "rproxy-openwrt")
    assert re.findall(r"NEEDED.*\[(.*)\]", said) == ["libc.so"] and "Soft float" in said
    assert re.search(rf"interpreter: /lib/ld-musl-{TARGET}-sf.so.1\]", said) and "RWE" not in said


if MIPS:
    test_the_package_is_small = package_is_small


# ==[ memory ]=====================================================================================


@pytest.mark.release
def memory_at_rest(certs, tmp_path):
    """With 20 routes and 5 certificates. The emulator puts the guest's memory where it is told to:
    what is private of that is the program's."""
    base = 1 << 32
    made = [certs(f"c{i}.test", kind="ec" if i % 2 else "rsa") for i in range(5)]
    conf = tmp_path / "conf"
    conf.write_text("".join(
        ["http 127.0.0.1:0\nhttps 127.0.0.1:0\n", *(f"cert {c.pem}\n" for c in made),
         *(f"route c{i % 5}.test/{i}=http://127.0.0.1:{9000 + i}\n" for i in range(20))]))
    emulated = subprocess.Popen([BINARY[0], "-B", hex(base), *BINARY[1:], "-c", conf],
                                stderr=subprocess.PIPE, text=True)
    try:
        for line in emulated.stderr:
            if "ready" in line:
                break
        kinds, inside = {"Private_Dirty": 0, "Private_Clean": 0}, False
        for line in open(f"/proc/{emulated.pid}/smaps"):
            area = re.match("([0-9a-f]+)-", line)
            if area:
                inside = base <= int(area[1], 16) < 2 * base
            kind = line.split(":")[0]
            if inside and kind in kinds:
                kinds[kind] += int(line.split()[1])
    finally:
        emulated.terminate()
        assert emulated.wait(PATIENCE) == 0
        emulated.stderr.close()
    print(f"{TARGET}: {kinds} KB")
    assert 50 < sum(kinds.values()) <= PRIVATE


if TARGET != "aarch64":  # a 64-bit guest's memory can't be told from the emulator's
    test_private_memory_at_rest = memory_at_rest


# ==[ TLS, with curl, OpenSSL and Chromium ]=======================================================


def site(big=bytes(range(256)) * 4096):
    """GET /N sends N bytes that are never the same; a POST is answered with its digest."""
    def handler(conn):
        while True:
            r = conn.request()
            if not r:
                return
            if r.method == "POST":
                conn.send(reply(200, body=hashlib.sha256(r.body).hexdigest().encode()))
            elif r.target[1:].isdigit():
                conn.send(reply(200, body=(big * (int(r.target[1:]) // len(big) + 1))
                                [:int(r.target[1:])]))
            else:
                conn.send(reply(200, "Content-Type: text/html; charset=utf-8", body=PAGE))
    return Backend(handler)


PAGE = b"""<!doctype html><title>emulated</title><script>
const got = window.got = {};
fetch('/1000000').then(r => r.arrayBuffer()).then(b => got.down = b.byteLength);
fetch('/up', {method: 'POST', body: new Uint8Array(1000000)}).then(r => r.text()).then(
    t => got.up = t);
const ws = new WebSocket(`wss://${location.host}/ws`), sent = 'x'.repeat(70000);
ws.onopen = () => ws.send(sent);
ws.onmessage = m => { got.ws = m.data === sent; ws.close(); };
ws.onerror = () => got.ws = 'failed';
</script>"""


@pytest.fixture
def shop(proxy, certs, echo_server, backend):  # noqa: F811
    """The emulated proxy before a site and its WebSocket."""
    s = site()
    backend.made.append(s)
    return proxy(f"app.localhost={s.url}", f"app.localhost/ws=http://127.0.0.1:{echo_server}",
                 f"app.test/=http://127.0.0.1:{echo_server}",
                 https=HTTPS, cert=[certs("app.localhost").pem, certs("app.test").pem],
                 max_conns_per_ip=0)


def curl(p, certs, *args):
    return subprocess.run(
        ["curl", "-sS", "--fail", "--cacert", str(certs.root.chain), "--max-time",
         str(int(6 * PATIENCE)), *args], check=True, capture_output=True).stdout


@pytest.mark.release
@pytest.mark.parametrize("size", [100_000, 5_000_000])
def test_curl_downloads_and_uploads(shop, certs, size, tmp_path):
    url = f"https://app.localhost:{shop.https[0]}"
    down = curl(shop, certs, f"{url}/{size}")
    assert len(down) == size and down == (bytes(range(256)) * (size // 256 + 1))[:size]
    data = os.urandom(size)
    (tmp_path / "up").write_bytes(data)
    said = curl(shop, certs, "--data-binary", f"@{tmp_path}/up", f"{url}/up")
    assert said.decode() == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("suite", ["ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES128-GCM-SHA256",
                                   "ECDHE-ECDSA-AES256-GCM-SHA384"])
def test_openssl_downloads_with_each_cipher(shop, certs, suite):
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{shop.https[0]}", "-servername",
         "app.localhost", "-CAfile", str(certs.root.chain), "-verify_return_error", "-cipher", suite,
         "-quiet"],
        input=request("/300000", "Connection: close", host="app.localhost"),
        capture_output=True, timeout=6 * PATIENCE)
    body = done.stdout.split(b"\r\n\r\n", 1)[1]
    assert body == (bytes(range(256)) * 1172)[:300_000]
    assert shop.access()[0].cipher == suite.replace("-", "_") or suite in shop.access()[0].cipher


@pytest.mark.release
def test_websocket_over_tls(shop, certs):
    async def talk():
        async with connect(shop, certs, True) as ws:
            for message in ("hello", os.urandom(300_000), b"", "ö" * 70_000):
                await ws.send(message)
                assert await ws.recv() == message
    asyncio.run(talk())


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_100_full_and_100_resumed_handshakes(proxy, backend, certs, kind):
    p = proxy(f"app.test={backend().url}", https=HTTPS, cert=certs("app.test", kind=kind).pem)
    context = certs.trust()
    took = {}
    for resumed in (False, True):
        session, begun = None, time.monotonic()
        if resumed:
            first = p.client("app.test", context)
            assert first.ask(host="app.test").status == 200
            session = first.sock.session
        for _ in range(100):
            client = p.client("app.test", context, session=session)
            assert client.sock.session_reused is resumed
            assert client.ask(host="app.test").status == 200
            client.close()
            Client.every.clear()
        took[resumed] = time.monotonic() - begun
    print(f"{TARGET} {kind}: full {took[False] * 10:.1f} ms, resumed {took[True] * 10:.1f} ms each")
    assert took[True] < took[False]


def test_chromium_loads_a_page_uploads_and_talks(shop, tmp_path):
    browser = Browser(tmp_path, acceptInsecureCerts=True)
    try:
        browser.open(f"https://app.localhost:{shop.https[0]}/")
        assert browser.js("return document.title") == "emulated"
        got = wait_for(lambda: (g := browser.js("return window.got")) and len(g) == 3 and g,
                       "all three answers", 6 * PATIENCE)
        assert got == {"down": 1_000_000, "up": hashlib.sha256(bytes(1_000_000)).hexdigest(),
                       "ws": True}
    finally:
        browser.close()
    assert {a.tls for a in shop.access(4)} == {"TLSv1.2"}
