"""TERM: who was accepted gets a whole answer, nobody new is taken, and the end comes in time."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

from harness import (BINARY, PATIENCE, SLOW, Client, chunk, half_close, reply, request, says,
                     wait_for)
from test_reload import tunnels
from test_signals import Gate, refuses

UPGRADE = ["Connection: Upgrade", "Upgrade: thing/1"]


@pytest.fixture
def gate(backend):
    g = Gate(backend)
    yield g
    g.go.set()


@pytest.mark.release
def test_who_waits_in_the_kernels_queue_is_served(proxy, backend):
    p = proxy(f"app.test={backend().url}")
    p.signal(signal.SIGSTOP)
    waiting = [p.client() for _ in range(30)]
    for client in waiting:
        client.send(request())
    p.signal(signal.SIGTERM)
    p.signal(signal.SIGCONT)
    for client in waiting:
        answer = client.answer()
        assert (answer.status, answer.get("Connection")) == (200, "close")
        client.close()
    assert p.wait() == 0


@pytest.mark.release
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_a_new_connection_may_still_ask(proxy, backend, gate, certs, tls):
    """Connected before TERM, its request comes after: even the handshake may."""
    p = proxy(f"app.test={backend().url} plain", f"slow.test={gate.url}", https="127.0.0.1:0",
              cert=certs("app.test").pem, expect=[r"rproxy: warning: no certificate covers slow.*"])
    busy = p.client()
    busy.send(request(host="slow.test"))
    assert busy.head().status == 200
    raw = Client((p.https if tls else p.http)[0])
    p.signal(signal.SIGTERM)
    wait_for(lambda: refuses(p.http[0]), "the listener to be closed")
    if tls:
        raw.sock = certs.trust().wrap_socket(raw.sock, server_hostname="app.test")
        Client.every.append(raw.sock)
    assert raw.ask().get("Connection") == "close"
    assert raw.rest() == b""
    raw.close()
    gate.go.set()
    busy.rest()
    busy.close()
    assert p.wait() == 0


@pytest.mark.release
def test_a_request_that_is_on_its_way_is_answered(proxy, backend):
    """On a kept connection, already in the kernel when TERM comes."""
    p = proxy(f"app.test={backend().url}")
    client = p.client()
    assert client.ask().status == 200
    p.signal(signal.SIGSTOP)
    stat = pathlib.Path(f"/proc/{p.process.pid}/stat")
    wait_for(lambda: stat.read_text().rsplit(")", 1)[1].split()[0] == "T", "it to stand still")
    client.send(request("/2"))
    p.signal(signal.SIGTERM)
    p.signal(signal.SIGCONT)
    answer = client.answer()
    assert (answer.status, answer.get("Connection")) == (200, "close")
    client.close()
    assert p.wait() == 0


@pytest.mark.release
def test_a_silent_connection_holds_nothing_up(proxy, backend):
    p = proxy(f"app.test={backend().url}")
    silent = p.client()
    wait_for(lambda: len(p.descriptors()) > p.fds, "the connection")
    start = time.monotonic()
    p.signal(signal.SIGTERM)
    assert silent.rest() == b""
    assert p.wait() == 0
    assert time.monotonic() - start < 2.5 * SLOW


@pytest.mark.release
def test_tunnels_get_until_the_drain_timeout(proxy, backend):
    p = proxy(f"app.test={backend(tunnels).url}", drain_timeout="1500ms")
    client = p.client()
    client.send(request("/", *UPGRADE))
    assert client.head().status == 101
    start = time.monotonic()
    p.signal(signal.SIGTERM)
    wait_for(lambda: refuses(p.http[0]), "the listener to be closed")
    for _ in range(3):
        client.send(b"ping")
        assert client.take(4) == b"ping"
        time.sleep(0.1)
    assert client.rest() == b""
    assert p.wait() == 0
    assert 1.4 < time.monotonic() - start < 2.5 + SLOW
    assert p.access()[0].reason == "draining"


@pytest.mark.release
def test_who_ends_before_the_timeout_ends_the_drain(proxy, backend):
    p = proxy(f"app.test={backend(tunnels).url}")
    client = p.client()
    client.send(request("/", *UPGRADE))
    assert client.head().status == 101
    p.signal(signal.SIGTERM)
    wait_for(lambda: refuses(p.http[0]), "the listener to be closed")
    half_close(client.sock)
    assert p.wait(5 * SLOW) == 0


@pytest.mark.release
def test_a_second_signal_ends_with_status_0(proxy, gate):
    p = proxy(f"app.test={gate.url}")
    client = gate.under_way(p.client())
    p.signal(signal.SIGTERM)
    wait_for(lambda: refuses(p.http[0]), "the listener to be closed")
    p.signal(signal.SIGINT)
    client.rest()
    assert p.wait(2 * SLOW) == 0


def test_hup_while_draining_opens_nothing(proxy, gate):
    p = proxy(f"app.test={gate.url}")
    client = gate.under_way(p.client())
    p.signal(signal.SIGTERM)
    wait_for(lambda: refuses(p.http[0]), "the listener to be closed")
    p.signal(signal.SIGHUP)
    time.sleep(0.2)
    assert not any("reload" in s for s in p.lines)
    gate.finish(client)
    client.close()
    assert p.wait() == 0


@pytest.mark.release
def test_a_drain_under_load_answers_whatever_was_accepted(proxy, backend, certs):
    body = b"0123456789" * 4000
    b = backend(says(reply(200, "Transfer-Encoding: chunked", length=False) + chunk(body[:15000]),
                     0.01, chunk(body[15000:]) + b"0\r\n\r\n"))
    p = proxy(f"app.test={b.url} plain", https="127.0.0.1:0", cert=certs("app.test").pem,
              drain_timeout="5s", max_conns_per_ip=0)
    faults, unheard, whole = [], [], []

    def one(tls):
        """Requests on kept connections until nobody listens any more."""
        while True:
            try:
                client = p.client("app.test" if tls else None)
            except OSError:
                return
            asked = 0
            try:
                while asked < 5:
                    client.send(request(f"/{asked}"))
                    answer = client.answer()
                    asked += 1
                    if (answer.status, answer.body) != (200, body):
                        faults.append(answer)
                    whole.append(1)
                    if answer.get("Connection") == "close":
                        break
            except (EOFError, OSError) as e:
                # a kept connection may end between two requests, but not within an answer
                if client.left:
                    faults.append(f"{e!r} within an answer: {client.left[:80]}")
                elif not asked:
                    unheard.append(repr(e))
            client.close()

    threads = [threading.Thread(target=one, args=(i % 3 == 0,)) for i in range(12)]
    for t in threads:
        t.start()
    wait_for(lambda: len(whole) > 100, "some load")
    start = time.monotonic()
    p.signal(signal.SIGTERM)
    for t in threads:
        t.join(2 * PATIENCE)
    assert p.wait() == 0
    assert time.monotonic() - start < 6 * SLOW
    assert not faults, faults
    # between the last accept() and close() of the listener the kernel may let one in
    assert len(unheard) <= 1, unheard


@pytest.mark.release
def test_as_process_1(backend, gate):
    """In a container: signals work without an init, orphans are buried, the drain is whole."""
    assert os.geteuid() == 0, "needs root, for a process namespace"
    args = [*BINARY, "--http", "127.0.0.1:0", "--route", f"app.test={gate.url}"]
    # exec keeps the children of the shell: as the proxy's they must not stay zombies
    process = subprocess.Popen(["unshare", "-pf", "--kill-child", "--mount-proc", "sh", "-c",
                                'sleep 0.3 & exec "$@"', "sh", *args],
                               stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        lines = []
        reader = threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True)
        reader.start()

        def children(pid):
            return [int(n) for n in open(f"/proc/{pid}/task/{pid}/children").read().split()]
        heard = wait_for(lambda: re.search(r"listening http \S+:(\d+)\n(?=.*ready)", "".join(lines),
                                           re.S), "ready")
        first = children(process.pid)[0]
        assert re.search(r"NSpid:\s+\d+\s+1\n", open(f"/proc/{first}/status").read())
        wait_for(lambda: not children(first), "the orphan to be buried")
        client = gate.under_way(Client(int(heard[1])))
        os.kill(first, signal.SIGTERM)
        wait_for(lambda: refuses(int(heard[1])), "the listener to be closed")
        gate.finish(client)
        client.close()
        assert process.wait(PATIENCE) == 0
        reader.join(PATIENCE)
        assert not [s for s in lines if "Sanitizer" in s], lines
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
