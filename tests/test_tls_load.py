"""TLS under load: what idle connections cost, a stream beside a storm of handshakes, certificates
replaced under way. RP_BIG=1: 1,000 replacements instead of 50, a storm of 20 s instead of 2 s."""

import re
import resource
import signal
import ssl
import statistics
import subprocess
import threading
import time

import pytest

from harness import BIG, EMULATED, PATIENCE, SLOW, Client, reply, request, sanitized, says, wait_for

HTTPS = "127.0.0.1:0"


def pss(p):
    """Bytes that are the process' own."""
    text = open(f"/proc/{p.process.pid}/smaps_rollup").read()
    return sum(int(n) for n in re.findall(r"^Pss_(?:Anon|Shmem):\s+(\d+) kB", text, re.M)) * 1024


# ==[ memory ]=====================================================================================


@pytest.mark.release
def test_an_idle_connection_costs_6_kb_at_most(proxy, backend, certs):
    """Issue 5: 1,000 of them, each after one request; and each still answers."""
    count = 100 if sanitized() else 1000  # under sanitizers the figure means nothing
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    p = proxy(f"a.test={backend(says(reply(200, body=b'x' * 100))).url}", https=HTTPS,
              cert=certs("a.test").pem, max_conns=count + 20, max_conns_per_ip=0,
              idle_timeout="10m", log="none")
    context = certs.trust()
    before = pss(p)
    clients = [p.client("a.test", context=context) for _ in range(count)]
    for c in clients:
        assert c.ask(host="a.test").status == 200

    def each():
        return (pss(p) - before) / count
    if not sanitized():
        wait_for(lambda: each() <= 6 * 1024, f"6 KB; it is {each():.0f} bytes")
    for c in clients:
        assert c.ask(host="a.test").status == 200


# ==[ a storm of handshakes ]======================================================================


def gaps(port, certs, name, stop, started):
    """The largest time between two pieces of a stream in each second, until `stop`."""
    client = Client(port, name, context=certs.trust()) if name else Client(port)
    client.send(request("/stream", host=name or "a.test"))
    client.head()
    client.left = b""
    found, last, began = [], None, None
    while not stop.is_set():
        client.more()
        client.left = b""
        now = time.monotonic()
        if not started.is_set():
            continue
        if last is None:
            last = began = now
        if len(found) <= int(now - began):
            found += [0] * (int(now - began) + 1 - len(found))
        found[-1] = max(found[-1], now - last)
        last = now
    client.close()
    return found


@pytest.mark.release
@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_a_stream_stays_on_pace_beside_a_storm_of_handshakes(proxy, backend, certs, kind):
    """Issue 5: 16 clients that do nothing but full handshakes, a stream of 1 MB/s beside them: no
    gap over ten times what one handshake takes. What this machine adds is measured on a second
    stream that goes past the proxy, and the quietest second counts: others add to it, never take.
    (That a turn has one operation with a private key at most is pinned by unit_tls.c.)"""
    def stream(conn):
        while conn.request():
            conn.send(reply(200, "Content-Length: 10000000000", length=False))
            due = time.monotonic()
            while True:
                conn.send(b"s" * 10000)
                due += 0.01
                time.sleep(max(0, due - time.monotonic()))

    b = backend(stream)
    p = proxy(f"a.test={b.url}", https=HTTPS, cert=certs("a.test", kind=kind).pem,
              default_cert="a.test", max_conns_per_ip=0, log="none")
    context = certs.trust()
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def handshake():
        began = time.monotonic()
        p.client("a.test", context=context).close()
        return time.monotonic() - began
    one = statistics.median(handshake() for _ in range(15))

    stop, started, found = threading.Event(), threading.Event(), {}

    def watch(what, *args):
        found[what] = gaps(*args, stop, started)
    threads = [threading.Thread(target=watch, args=args) for args in (
        ("through", p.https[0], certs, "a.test"), ("past", b.port, certs, None))]
    for t in threads:
        t.start()
    seconds = 20 if BIG else 3
    storm = [subprocess.Popen(
        ["nice", "-n", "19", "openssl", "s_time", "-new", "-connect", f"127.0.0.1:{p.https[0]}",
         "-time", str(seconds + 1)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for _ in range(16)]
    time.sleep(0.5)
    started.set()
    time.sleep(seconds)
    stop.set()
    for t in threads:
        t.join()
    done = 0
    for s in storm:
        said = s.communicate(timeout=seconds + PATIENCE)[0].decode()
        done += int(re.search(r"(\d+) connections in \d+ real seconds", said)[1])
    print(f"{kind}: one handshake {one * 1000:.1f} ms, {done} in the storm; largest gaps "
          f"{[round(g * 1000) for g in found['through']]} ms, past the proxy "
          f"{[round(g * 1000) for g in found['past']]} ms")
    assert done > 16 * seconds  # it was a storm
    assert any(through <= 10 * one + past
               for through, past in zip(found["through"][:seconds], found["past"]))


# ==[ certificates replaced under way ]============================================================


@pytest.mark.release
def test_certificates_are_replaced_under_load(proxy, backend, certs, tmp_path):
    """HUP each time: no request fails, no connection is cut, nothing is lost."""
    times = 1000 if BIG else 50
    pem = tmp_path / "a.pem"
    both = [certs("a.test").pem.read_bytes(), certs("a.test", "b.test", kind="rsa").pem.read_bytes(),
            certs("a.test", "c.test").pem.read_bytes()]
    pem.write_bytes(both[0])
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert=pem, max_conns_per_ip=0,
              expect=[r"rproxy: (\d+ times more: rproxy: )?reloaded"])
    faults, asked, serials, over = [], [0], set(), threading.Event()

    def work(fresh):
        context = certs.trust()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        client, session = None, None
        try:
            while not over.is_set():
                if not client:
                    client = p.client("a.test", context=context, session=session)
                    serials.add(client.sock.getpeercert()["serialNumber"])
                assert client.ask(host="a.test").status == 200
                asked[0] += 1
                if fresh:
                    session = client.sock.session
                    client.close()
                    client = None
        except Exception as e:  # noqa: B902: whatever it is, it is one failed request
            faults.append(repr(e))

    kept = p.client("a.test")
    assert kept.ask(host="a.test").status == 200
    threads = [threading.Thread(target=work, args=(i > 0,)) for i in range(4)]
    for t in threads:
        t.start()

    def replace(i):
        new = tmp_path / "new"
        new.write_bytes(both[i % len(both)])
        new.rename(pem)
        p.signal(signal.SIGHUP)
        serial = next(c for c in (certs("a.test"), certs("a.test", "b.test", kind="rsa"),
                                  certs("a.test", "c.test"))
                      if c.pem.read_bytes() == both[i % len(both)]).cert.serial_number
        context = certs.trust()

        def served():
            client = p.client("a.test", context=context)
            shown = int(client.sock.getpeercert()["serialNumber"], 16)
            client.close()
            return shown == serial
        wait_for(served, "the new certificate")

    for i in range(10):
        replace(i)
    memory, fds = pss(p), len(p.descriptors())
    for i in range(10, times):
        replace(i)
    grown = pss(p) - memory
    over.set()
    for t in threads:
        t.join()
    assert not faults, faults[:3]
    assert kept.ask(host="a.test").status == 200  # the first set lives as long as it is used
    assert len(serials) == 3 and asked[0] > times
    print(f"{times} replacements, {asked[0]} requests, memory grew by {grown} bytes")
    assert sanitized() or EMULATED or grown < 64 * 1024
    assert len(p.descriptors()) <= fds + 8  # connections of the load come and go
    # That none is lost is judged at the end of every test: see Proxy.finish.
