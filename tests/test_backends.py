"""Backends that come and go: the pool of idle connections, several targets, health, answers that
come early and peers that break. RP_BIG=1: the figures of the project in full (minutes)."""

import collections
import contextlib
import random
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest

from harness import (BIG, PATIENCE, SLOW, TROUBLE, chunk, dead_port, half_close, hurry, reply,
                     request, reset, says, wait_for)

OK = reply(200, body=b"ok")
EVIL = reply(200, body=b"evil")
CHECKED = r"rproxy: target \S+ (fails its check|passes its check again)"


def together(*jobs):
    """Runs functions at the same time; the first exception is the test's."""
    faults = []

    def run(job):
        try:
            job()
        except BaseException as e:  # noqa: B902: it is raised again below
            faults.append(e)

    threads = [threading.Thread(target=run, args=(job,), daemon=True) for job in jobs]
    for t in threads:
        t.start()
    for t in threads:
        t.join(600)
    if faults:
        raise faults[0]


class Gate:
    """A backend's handler that answers each request when the test lets it."""

    def __init__(self):
        self.open = collections.defaultdict(threading.Event)
        self.came = collections.defaultdict(threading.Event)

    def __call__(self, conn):
        while True:
            r = conn.request()
            if not r:
                return
            self.came[r.target].set()
            assert self.open[r.target].wait(PATIENCE)
            conn.send(reply(200, body=str(conn.number).encode()))

    def let(self, client, target):
        """Lets it go and reads the answer: on which connection it was."""
        self.open[target].set()
        return int(client.answer().body)

    def send(self, client, target):
        client.send(request(target))
        assert self.came[target].wait(PATIENCE)


# ==[ the pool ]===================================================================================


@pytest.mark.parametrize("said, low, high", [
    (None, 3, 4), ("timeout=60", 3, 4), ("timeout=2, max=100", 1, 2), ("timeout=1", 0.1, 1),
    ("max=5,timeout=0", 0, 0)], ids=["4s", "60", "2", "1", "0"])
def test_an_idle_connection_is_kept_four_seconds_or_as_the_backend_says(
        proxy, backend, clock, said, low, high):
    lasted, speed = [], hurry(4)

    def handler(conn):
        conn.request()
        conn.send(reply(200, *([f"Keep-Alive: {said}"] if said else []), body=b"ok"))
        since = time.monotonic()
        conn.rest()
        lasted.append((time.monotonic() - since) * speed)

    p = proxy(f"app.test={backend(handler).url}", env=clock(speed=speed))
    assert p.ask().status == 200
    wait_for(lambda: lasted, "the proxy to close it")
    assert low <= lasted[0] <= high + SLOW, lasted


def test_at_most_32_idle_connections_are_kept_to_a_target(proxy, backend):
    barrier = threading.Barrier(40)

    def handler(conn):
        while conn.request():
            barrier.wait(PATIENCE)
            conn.send(OK)

    b = backend(handler)
    p = proxy(f"app.test={b.url}")
    clients = [p.client() for _ in range(40)]
    for c in clients:
        c.send(request())
    assert [c.answer().status for c in clients] == [200] * 40
    wait_for(lambda: p.pooled({b.port}) <= 32, "the others to be closed", 2 * SLOW)
    assert p.pooled({b.port}) == 32


@pytest.mark.release
def test_the_newest_idle_connection_is_taken_first(proxy, backend):
    gate = Gate()
    p = proxy(f"app.test={backend(gate).url}")
    one, two = p.client(), p.client()
    for turn, last in enumerate("abab"):
        gate.send(one, f"/{turn}a")
        gate.send(two, f"/{turn}b")
        order = [(two, f"/{turn}b"), (one, f"/{turn}a")]
        number = [gate.let(*x) for x in (order if last == "a" else order[::-1])][-1]
        gate.send(one, f"/{turn}")
        assert gate.let(one, f"/{turn}") == number


@pytest.mark.parametrize("how", ["bytes", "end", "reset"])
def test_what_a_backend_says_unasked_ends_its_idle_connection_at_once(proxy, backend, how):
    closed = []

    def handler(conn):
        conn.request()
        conn.send(OK)
        since = time.monotonic()
        time.sleep(0.05)
        if how == "bytes":
            conn.send(EVIL)
        elif how == "end":
            half_close(conn.sock)
        else:
            return reset(conn.sock)
        conn.rest()
        closed.append(time.monotonic() - since)

    b = backend(handler)
    client = proxy(f"app.test={b.url}").client()
    for _ in range(3):
        assert client.ask().body == b"ok"
        if how != "reset":
            n = b.conns
            wait_for(lambda: len(closed) == n, "the proxy to close it", 2 * SLOW)
        else:
            time.sleep(0.1)
    assert b.conns == 3


@pytest.mark.release
def test_the_second_of_two_answers_is_for_nobody(proxy, backend):
    b = backend(says(OK + EVIL))
    client = proxy(f"app.test={b.url}").client()
    for i in range(4):
        assert client.ask().body == b"ok"
    assert b.conns == 4


def test_what_came_unasked_just_before_a_request_is_not_its_answer(proxy, backend):
    """The proxy stands still meanwhile: it sees the bytes and the request in the same moment."""
    socks = []

    def handler(conn):
        socks.append(conn)
        while conn.request():
            conn.send(OK)

    p = proxy(f"app.test={backend(handler).url}")
    clients = [p.client() for _ in range(8)]
    for client in clients:
        assert client.ask().body == b"ok"
        p.signal(signal.SIGSTOP)
        socks[-1].send(EVIL)
        client.send(request())
        time.sleep(0.02)
        p.signal(signal.SIGCONT)
        assert client.answer().body == b"ok"


@pytest.mark.parametrize("last", [b"HTTP/1.1 200 O", b"HTTP/1.1 103 Hint\r\n\r\n"],
                         ids=["part", "interim"])
def test_a_request_is_not_repeated_when_something_of_an_answer_came(proxy, backend, last):
    def handler(conn):
        conn.request()
        conn.send(OK)
        if conn.request():
            conn.send(last)

    b = backend(handler)
    client = proxy(f"app.test={b.url}", expect=[TROUBLE]).client()
    assert client.ask("/1").status == 200
    assert client.ask("/2").status == 502
    assert [r.target for r in b.requests] == ["/1", "/2"]


def test_a_request_on_a_fresh_connection_is_not_repeated(proxy, backend):
    b = backend(lambda conn: conn.request() and None)
    p = proxy(f"app.test={b.url}", expect=[TROUBLE])
    assert p.ask().status == 502
    assert len(b.requests) == 1


@pytest.mark.release
@pytest.mark.parametrize("method, body", [("POST", b"x"), ("POST", b""), ("PUT", b"x"),
                                          ("FOO", None)])
def test_what_may_not_be_sent_twice_gets_a_connection_of_its_own(proxy, backend, method, body):
    """A connection from the pool may die unseen, and then nobody knows whether it was done."""
    def handler(conn):
        while True:
            r = conn.request()
            if not r:
                return
            conn.send(reply(200, body=str(conn.number).encode()))

    client = proxy(f"app.test={backend(handler).url}").client()
    assert client.ask().body == b"1"
    assert client.ask(method=method, body=body).body == b"2"
    assert client.ask().body == b"2"  # which is as good as any other afterwards


def closing(seconds):
    """A backend that counts what it does, and ends a connection that was idle for so long."""
    done, lock = collections.Counter(), threading.Lock()

    def handler(conn):
        sock, left = conn.sock, b""
        while True:
            while b"\r\n\r\n" not in left:
                data = sock.recv(65536)
                if not data:
                    return
                left += data
                sock.settimeout(PATIENCE)
            head, left = left.split(b"\r\n\r\n", 1)
            if head.startswith(b"POST"):
                while not left:
                    left += sock.recv(65536)
                left = left[1:]
            with lock:
                done[head.split(b" ", 2)[1].decode()] += 1
            sock.sendall(OK)
            sock.settimeout(random.uniform(*seconds))

    return handler, done


def test_a_backend_that_closes_idle_connections_is_never_noticed(proxy, backend):
    """GETs never fail, and no POST is done twice."""
    gets, posts, threads = (100000, 10000, 40) if BIG else (2000, 400, 20)
    handler, done = closing((0.01, 6) if BIG else (0.001, 0.03))
    p = proxy(f"app.test={backend(handler).url}", log="none", expect=[TROUBLE])
    bad = []

    def job(number):
        client, chance = p.client(), random.Random(number)
        for i in range((gets + posts) // threads):
            post = i % (gets // posts + 1) == 0
            target = f"/{number}/{i}"
            client.send(request(target, method="POST", body=b"x") if post else request(target))
            status = client.answer().status
            if status != 200:
                bad.append((status, post))
            if chance.random() < 0.3:
                time.sleep(chance.uniform(0, 0.5 if BIG and chance.random() < 0.02 else 0.03))

    together(*(lambda n=n: job(n) for n in range(threads)))
    assert not bad, collections.Counter(bad)
    assert len(done) == (gets + posts) // threads * threads
    assert set(done[k] for k in done if int(k.split("/")[2]) % (gets // posts + 1) == 0) == {1}


# ==[ restarts ]===================================================================================


class Service:
    """A real server (nginx) that can be killed without warning, and come back."""

    def __init__(self, folder):
        self.port, self.folder = dead_port(), folder
        folder.mkdir()
        (folder / "conf").write_text(f"""
            daemon off; master_process off; pid {folder}/pid; error_log {folder}/log;
            events {{ worker_connections 256; }}
            http {{ access_log off; keepalive_requests 100000;
                server {{ listen 127.0.0.1:{self.port}; location / {{ return 200 ok; }} }}
                client_body_temp_path {folder}/1; proxy_temp_path {folder}/2;
                fastcgi_temp_path {folder}/3; uwsgi_temp_path {folder}/4;
                scgi_temp_path {folder}/5; }}""")
        self.start()

    def start(self):
        self.process = subprocess.Popen(["/usr/sbin/nginx", "-c", self.folder / "conf", "-e",
                                         self.folder / "log"], stderr=subprocess.DEVNULL)

        def listening():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", self.port)) == 0

        wait_for(listening, "nginx")

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def services(tmp_path):
    """services(n): so many of them."""
    made = []

    def make(n):
        made.extend(Service(tmp_path / f"nginx{len(made)}") for _ in range(n))
        return made

    yield make
    for s in made:
        s.kill()


@contextlib.contextmanager
def pressure(p, clients=20):
    """Keep-alive clients that send GETs without pause: yields the list of (when it ended, status,
    how long it took); the status of a connection that is cut is 0."""
    seen, stop = [], threading.Event()

    def job():
        client = p.client()
        while not stop.is_set():
            since = time.monotonic()
            client.send(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")
            try:
                status = client.answer().status
            except (EOFError, ConnectionError):
                status, client = 0, p.client()
            now = time.monotonic()
            seen.append((now, status, now - since))

    threads = [threading.Thread(target=job, daemon=True) for _ in range(clients)]
    for t in threads:
        t.start()
    try:
        yield seen
    finally:
        stop.set()
        for t in threads:
            t.join(PATIENCE)


def statuses(seen):
    return collections.Counter(status for _, status, _ in seen)


def test_a_backend_that_restarts_is_back_within_a_second(proxy, services):
    service, = services(1)
    p = proxy(f"app.test=http://127.0.0.1:{service.port}", log="none", expect=[TROUBLE])
    late = []
    with pressure(p) as seen:
        for _ in range(50 if BIG else 6):
            wait_for(lambda: seen and seen[-1][1] == 200, "200")
            service.kill()
            time.sleep(0.1)
            service.start()
            since = time.monotonic()
            n = len(seen)
            first = wait_for(lambda: next((s for s in seen[n:] if s[1] == 200), None), "200 again")
            late.append(first[0] - since)
    print(f"{len(late)} restarts, {statuses(seen)}, back after at most {max(late) * 1e3:.0f} ms")
    assert set(statuses(seen)) <= {200, 502, 503}, statuses(seen)
    assert max(late) < 1, late


@pytest.mark.parametrize("balance", ["", "balance=round-robin"], ids=["failover", "round-robin"])
def test_with_two_targets_a_restart_is_not_seen_by_anyone(proxy, services, balance):
    both = services(2)
    targets = ",".join(f"http://127.0.0.1:{s.port}" for s in both)
    p = proxy(f"app.test={targets} {balance}", log="none", expect=[TROUBLE])
    with pressure(p) as seen:
        for i in range(50 if BIG else 6):
            n = len(seen)
            wait_for(lambda: len(seen) > n + 50, "answers")
            both[i % 2].kill()
            time.sleep(0.1)
            both[i % 2].start()
    assert set(statuses(seen)) == {200}, statuses(seen)


# ==[ several targets ]============================================================================


def named(name):
    return says(reply(200, body=name.encode()))


@pytest.mark.release
def test_the_first_target_that_works_is_used(proxy, backend):
    one, two = backend(named("one")), backend(named("two"))
    p = proxy(f"app.test=http://127.0.0.1:{dead_port()},{one.url},{two.url}", expect=[TROUBLE])
    assert [p.ask().body for _ in range(6)] == [b"one"] * 6
    one.close()
    assert [p.ask().body for _ in range(6)] == [b"two"] * 6
    assert {line.upstream for line in p.access(12)} == {one.url, two.url}


def test_round_robin_spreads_requests(proxy, backend):
    p = proxy("app.test=" + ",".join(backend(named(n)).url for n in "abc")
              + " balance=round-robin")
    said = [p.ask().body for _ in range(30)]
    assert said[:3] * 10 == said and set(said) == {b"a", b"b", b"c"}


def test_round_robin_leaves_out_who_is_dead(proxy, backend):
    p = proxy(f"app.test={backend(named('a')).url},http://127.0.0.1:{dead_port()},"
              f"{backend(named('c')).url} balance=round-robin", expect=[TROUBLE])
    assert {p.ask().body for _ in range(30)} == {b"a", b"c"}


@pytest.mark.parametrize("method, body, status, asked", [
    ("GET", None, 200, 1), ("PUT", b"", 200, 1), ("POST", b"", 502, 0), ("POST", b"x", 502, 0),
    ("PUT", b"x", 502, 0)])
def test_another_target_is_tried_only_when_that_is_safe(proxy, backend, method, body, status,
                                                        asked):
    bad, good = backend(lambda conn: conn.request() and None), backend()
    p = proxy(f"app.test={bad.url},{good.url}", expect=[TROUBLE])
    assert p.ask(method=method, body=body).status == status
    assert (len(bad.requests), len(good.requests)) == (1, asked)


def test_a_silent_target_is_replaced(proxy, backend):
    """Silent before an answer: the next target; and it is left out for a while."""
    bad, good = backend(lambda conn: conn.request() and conn.rest()), backend(named("good"))
    p = proxy(f"app.test={bad.url},{good.url}", response_timeout="1s", expect=[TROUBLE])
    assert p.ask().body == b"good"
    since = time.monotonic()
    assert p.ask().body == b"good" and time.monotonic() - since < 0.9
    assert len(bad.requests) == 1


def test_a_broken_target_is_left_out_longer_each_time_and_tried_by_one_request(
        proxy, backend, clock):
    tries, speed = [], hurry(5)

    def breaks(conn):
        tries.append(time.monotonic())
        reset(conn.sock)

    bad, good = backend(breaks), backend(named("good"))
    p = proxy(f"app.test={bad.url},{good.url}", env=clock(speed=speed), log="none", expect=[TROUBLE],
              idle_timeout="1h")
    with pressure(p, 4) as seen:
        wait_for(lambda: len(tries) >= 3 and tries[-1] - tries[0] > 6.5 / speed, "tries", 20 * SLOW)
    assert set(statuses(seen)) == {200}
    bursts = []  # tries less than 0.3 s of the proxy's clock apart belong together
    for t in tries:
        if not bursts or t - bursts[-1][-1] > 0.3 / speed:
            bursts.append([])
        bursts[-1].append(t)
    assert len(bursts[0]) <= 4 and [len(b) for b in bursts[1:]] == [1] * (len(bursts) - 1), bursts
    gaps = [(b[0] - a[0]) * speed for a, b in zip(bursts, bursts[1:])]
    for i, gap in enumerate(gaps[:4]):
        assert 2 ** i * 0.95 <= gap <= 2 ** i * 1.5 + 3 * SLOW, gaps


def test_when_all_targets_are_out_they_are_tried_anyway(proxy, backend):
    ports = [dead_port(), dead_port()]
    p = proxy("app.test=" + ",".join(f"http://127.0.0.1:{n}" for n in ports), expect=[TROUBLE])
    client = p.client()
    for _ in range(4):  # out for seconds now
        assert client.ask().status == 502
    backend(named("back"), port=ports[1])
    assert client.ask().body == b"back"


# ==[ active checks ]==============================================================================


class Checked:
    """A backend's handler with a health page: `well` says what it shows; what was asked when."""

    def __init__(self, name):
        self.name, self.well, self.checks, self.asked, self.heads = name, True, [], 0, []

    def __call__(self, conn):
        while True:
            r = conn.request()
            if not r:
                return
            if r.target == "/healthz":
                self.checks.append(time.monotonic())
                self.heads.append(r)
                conn.send(reply(200 if self.well else 500, body=b"?"))
            else:
                self.asked += 1
                conn.send(reply(200, body=self.name.encode()))

    def checked(self, n):
        """Waits for the nth check and its verdict."""
        wait_for(lambda: len(self.checks) >= n, f"{n} checks of {self.name}", 20 * SLOW)
        time.sleep(0.1 * SLOW)


def test_a_target_that_fails_its_check_twice_is_out_until_it_passes_twice(proxy, backend, clock):
    one, two, speed = Checked("one"), Checked("two"), hurry(10)
    one.well = False
    p = proxy(f"app.test={backend(one).url},{backend(two).url} check=/healthz",
              env=clock(speed=speed), expect=[CHECKED])
    one.checked(1)
    assert p.ask().body == b"one"  # once is no reason
    one.checked(2)
    p.said("fails its check")
    assert p.ask().body == b"two"
    one.well = True
    one.checked(3)
    assert p.ask().body == b"two"
    one.checked(4)
    p.said("passes its check again")
    assert p.ask().body == b"one"
    gaps = [(b - a) * speed for a, b in zip(one.checks, one.checks[1:])]
    assert all(9 <= gap <= 12 + 4 * SLOW for gap in gaps), gaps
    head = one.heads[0]
    assert (head.method, head.get("Host"), head.get("Connection")) == ("GET", "app.test", "close")


@pytest.mark.parametrize("ill", ["refused", "silent", "no-http", "404", "endless"])
def test_what_counts_as_a_failed_check(proxy, backend, clock, ill):
    """And what never ends is cut: 302 is good, 404 is not, a body is not waited for."""
    def handler(conn):
        conn.request()
        if ill == "silent":
            conn.rest()
        elif ill == "no-http":
            conn.send(b"SSH-2.0-OpenSSH_9.2\r\n")
            conn.rest()
        elif ill == "404":
            conn.send(reply(404))
        else:
            conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            while True:
                conn.send(b"x" * 1000)

    b = backend(handler)
    url = f"http://127.0.0.1:{dead_port()}" if ill == "refused" else b.url
    p = proxy(f"app.test={url},{backend(named('two')).url} check=/healthz",
              env=clock(speed=hurry(10)),
              expect=[CHECKED])
    if ill == "endless":
        wait_for(lambda: b.conns >= 2, "two checks", 20 * SLOW)
        assert not [line for line in p.lines if "fails its check" in line]
    else:
        p.said("target .* fails its check", 20 * SLOW)
        assert p.ask().body == b"two"
    wait_for(lambda: len(p.descriptors()) <= p.fds + 2, "checks to end")


def test_what_the_checks_say_survives_a_reload_until_nobody_checks(proxy, backend, clock,
                                                                   tmp_path):
    one, two = Checked("one"), Checked("two")
    one.well = False
    ones, twos, conf = backend(one), backend(two).url, tmp_path / "conf"
    conf.write_text(f"http 127.0.0.1:0\nroute app.test={ones.url},{twos} check=/healthz\n")
    p = proxy(args=["-c", str(conf)], env=clock(speed=hurry(10)),
              expect=[CHECKED, "rproxy: reloaded"])
    p.said("fails its check")
    assert p.ask().body == b"two"
    conf.write_text(f"http 127.0.0.1:0\nroute app.test={ones.url},{twos} check=/healthz\n"
                    "route new.test=status:204\n")
    p.signal(signal.SIGHUP)
    wait_for(lambda: p.ask(host="new.test").status == 204, "the reload")
    assert p.ask().body == b"two" and one.asked == 0
    conf.write_text(f"http 127.0.0.1:0\nroute app.test={ones.url},{twos}\n")
    p.signal(signal.SIGHUP)
    wait_for(lambda: p.ask().body == b"one", "the first target to be used again")


def test_a_target_of_two_routes_is_checked_as_the_one_with_the_check_says(proxy, backend, clock):
    one = Checked("one")
    url = backend(one).url
    p = proxy(f"a.test={url}", f"b.test={url} check=/healthz", env=clock(speed=hurry(10)))
    one.checked(1)
    assert {r.get("Host") for r in one.heads} == {"b.test"}
    assert p.ask(host="a.test").status == 200


# ==[ places for connections ]=====================================================================


@pytest.mark.parametrize("kind", ["http", "https"])
def test_idle_connections_make_room(proxy, backend, certs, kind):
    """More of them than there are places (or TLS engines): the oldest go, no request fails."""
    context = None
    if kind == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certs("127.0.0.1").chain, certs("127.0.0.1").key)
    barrier = threading.Barrier(8)

    def handler(conn):
        if context:
            conn.sock = context.wrap_socket(conn.sock, server_side=True)
        while conn.request():
            barrier.wait(PATIENCE)
            conn.send(OK)

    backs = [backend(handler) for _ in range(13)]
    p = proxy(*(f"h{i}.test={kind}://{b.address}"
                + (f" ca={certs.root.chain}" if context else "") for i, b in enumerate(backs)),
              max_conns=8)
    clients = [p.client() for _ in range(8)]
    for i in range(13):
        for c in clients:
            c.send(request(host=f"h{i}.test"))
        assert [c.answer().status for c in clients] == [200] * 8, i
    clients[0].close()
    with contextlib.closing(p.client()) as late:  # nor does anybody wait at the door
        late.send(request("/", host="none.test"))
        assert late.answer().status == 404


# ==[ early answers, broken peers ]================================================================


@pytest.mark.parametrize("size", [8, 300000])
@pytest.mark.parametrize("then", ["keep", "close", "reset"])
def test_an_answer_before_the_body_is_done_arrives_whole(proxy, backend, size, then):
    """And its connection is not used again: the rest of the body would be the next request."""
    ended = threading.Event()

    def handler(conn):
        conn.head()
        if conn.number > 1:
            return conn.send(OK)
        conn.send(reply(413, body=b"n" * size))
        if then == "reset":  # what it did not read makes its close a reset
            time.sleep(0.1)
            return
        if then == "close":
            half_close(conn.sock)
        conn.rest()
        ended.set()

    p = proxy(f"app.test={backend(handler).url}", expect=[TROUBLE])
    client = p.client()
    client.send(request("/", "Content-Length: 100000000", method="POST"), b"x" * 100000)
    answer = client.answer()
    assert (answer.status, answer.body, answer.get("Connection")) == (413, b"n" * size, "close")
    if then != "reset":
        assert ended.wait(2 * SLOW), "the backend's connection is still open"
    assert p.ask().body == b"ok"


def test_a_body_is_still_taken_while_the_early_answer_is_under_way(proxy, backend):
    """A backend may answer while it reads: both go on to their ends."""
    def handler(conn):
        conn.head()
        conn.send(reply(200, "Transfer-Encoding: chunked", length=False), chunk(b"begun"))
        got = len(conn.take(300000))
        conn.send(chunk(str(got).encode()), b"0\r\n\r\n")
        conn.rest()

    client = proxy(f"app.test={backend(handler).url}").client()
    client.send(request("/", "Content-Length: 300000", method="POST"), b"x" * 100000)
    assert client.head().status == 200
    assert client.chunk() == b"begun"
    client.send(b"x" * 200000)
    assert client.chunk() == b"300000" and client.chunk() == b""


@pytest.mark.release
@pytest.mark.parametrize("when", ["body", "body-end", "answer", "waiting"])
def test_when_the_client_goes_away_the_backend_is_let_go_at_once(proxy, backend, when):
    came, ended = threading.Event(), threading.Event()

    def handler(conn):
        conn.head()
        if when == "answer":
            conn.send(reply(200, "Content-Length: 100000000", length=False), b"x" * 1000)
        came.set()
        conn.rest()
        ended.set()

    b = backend(handler)
    p = proxy(f"app.test={b.url}")
    client = p.client()
    fields = ["Content-Length: 1000"] if when.startswith("body") else []
    client.send(request("/", *fields, method="POST" if fields else "GET"), b"x" * len(fields))
    assert came.wait(PATIENCE)
    if when == "answer":
        client.head()
    if when == "body-end":
        half_close(client.sock)
    else:
        reset(client.sock)
    assert ended.wait(2 * SLOW), "the backend's connection is still open"
    assert p.pooled({b.port}) == 0
    assert p.access()[0].reason == "client-gone"


def test_a_client_that_goes_away_ends_the_connect(proxy, blackhole):
    p = proxy(f"app.test=http://127.0.0.1:{blackhole}", connect_timeout="5m")
    client = p.client()
    client.send(request())
    wait_for(lambda: len(p.descriptors()) == p.fds + 2, "the connect")
    reset(client.sock)
    wait_for(lambda: len(p.descriptors()) == p.fds, "both to be closed", 2 * SLOW)
    assert p.access()[0].reason == "client-gone"


def test_a_backend_that_shuts_its_side_after_the_answer_is_not_pooled(proxy, backend):
    def handler(conn):
        conn.request()
        conn.send(OK)
        half_close(conn.sock)
        conn.rest()

    b = backend(handler)
    client = proxy(f"app.test={b.url}").client()
    for i in range(1, 4):
        assert client.ask().body == b"ok"
        assert b.conns == i


def test_the_answer_to_one_client_never_reaches_another(proxy, backend):
    """Under load, with a backend that breaks in every way it knows."""
    chance = random.Random(4)

    def handler(conn):
        while True:
            r = conn.request()
            if not r:
                return
            answer = reply(200, body=r.target.encode() * 50)
            way = chance.randrange(8)
            if way == 0:
                return reset(conn.sock)
            if way == 1:
                conn.send(answer[:chance.randrange(1, len(answer))])
                return None
            conn.send(answer + (EVIL if way == 2 else b""))
            if way == 3:
                half_close(conn.sock)
            if way == 4:
                return None

    p = proxy(f"app.test={backend(handler).url}", log="none", expect=[TROUBLE])
    good = []

    def job(number):
        client = p.client()
        for i in range(60):
            target = f"/{number}-{i}-"
            client.send(request(target))
            try:
                answer = client.answer()
            except (EOFError, ConnectionError):
                client = p.client()
                continue
            if answer.status == 200:
                assert answer.body == target.encode() * 50
                good.append(target)
            else:
                assert answer.status == 502

    together(*(lambda n=n: job(n) for n in range(10)))
    assert len(good) > 200


# ==[ found by reading ]===========================================================================


def test_a_server_that_talks_with_one_peer_at_a_time_is_not_kept_from_it(proxy, backend):
    """An idle connection makes way for one that a POST may not share."""
    lock = threading.Lock()

    def handler(conn):
        with lock:
            while conn.request():
                conn.send(OK)
    p = proxy(f"app.test={backend(handler).url}", response_timeout=f"{int(3000 * SLOW)}ms")
    for method in ("GET", "POST", "PUT", "GET", "POST", "PROPFIND", "GET"):
        assert p.ask(method=method, body=None if method == "GET" else b"x").status == 200


@pytest.mark.parametrize("tail, body", [
    (b"HTTP/1.0 200 OK\r\n\r\nhello world", b"hello world"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"hello")])
def test_a_unix_socket_that_is_closed_behind_its_answer(proxy, backend, tmp_path, tail, body):
    """There the kernel says POLLHUP of what is no more than an end."""
    p = proxy(f"app.test={backend(says(0.05, tail, close=True), path=tmp_path / 'sock').url}")
    client = p.client()
    for _ in range(3):
        assert client.ask().body == body
    assert [line.reason for line in p.access(3)] == ["-"] * 3


@pytest.mark.parametrize("buffers", [1, 2, 3])
def test_what_stands_behind_a_request_that_timed_out_is_served(proxy, backend, certs, blackhole,
                                                               buffers):
    """All of it waits inside the TLS engine, where poll() can't see it."""
    p = proxy(f"app.test/hole=http://127.0.0.1:{blackhole}", f"app.test={backend().url}",
              https="127.0.0.1:0", cert=certs("app.test").pem, connect_timeout="300ms",
              expect=[TROUBLE])
    client = p.client("app.test")
    client.send(request("/hole", method="POST", body=bytes(buffers * 36864)) + request("/next"))
    assert client.answer().status == 504
    before, began = p.cpu(), time.monotonic()
    assert client.answer().json()["target"] == "/next"
    time.sleep(0.3)
    assert p.cpu() - before < 0.5 * (time.monotonic() - began), "it spins"


def test_a_silent_target_is_not_asked_for_ever_though_another_sleeps(proxy, backend):
    silent = backend(lambda conn: conn.request() and time.sleep(PATIENCE))
    p = proxy(f"app.test={silent.url},http://127.0.0.1:{dead_port()} response-timeout=300ms "
              "wake=00:11:22:33:44:55@127.0.0.1", connect_timeout="2s",
              expect=[TROUBLE, r"rproxy: .*Wake-on-LAN.*"])
    assert p.ask().status == 504
    assert len(silent.requests) == 1


def test_requests_whose_clients_left_make_way_for_their_address(proxy, backend, certs):
    over = threading.Event()
    silent, good = backend(lambda conn: conn.request() and over.wait(PATIENCE)), backend()
    p = proxy(f"app.test={silent.url} plain", f"good.test={good.url} plain", max_conns_per_ip=4,
              https="127.0.0.1:0", cert=certs("app.test").pem, expect=[TROUBLE])
    for _ in range(4):
        client = p.client("app.test")
        client.send(request())
        client.close()
    wait_for(lambda: len(silent.requests) == 4, "all of them to be asked")
    assert p.ask(host="good.test").status == 200
    assert p.access(2)[0].reason == "client-gone"
    over.set()


def test_expect_in_a_request_of_http_1_0_is_no_excuse(proxy, backend):
    """RFC 9110 10.1.1: it is ignored; who keeps the exchange waiting is the client."""
    p = proxy(f"app.test={backend().url}", stall_timeout="500ms", response_timeout="3s")
    client = p.client()
    client.send(request("/", "Expect: 100-continue", "Content-Length: 5", method="POST",
                        version="HTTP/1.0"))
    assert client.answer().status == 408
    assert p.access()[0].reason == "body-timeout"


def test_a_reader_too_slow_for_interim_answers_is_not_the_backends_fault(proxy, backend):
    hints = b"HTTP/1.1 103 Early Hints\r\n" + b"Link: </%s>\r\n" % (b"x" * 900) * 29 + b"\r\n"
    p = proxy(f"app.test={backend(says(hints * 5, 0.2, OK)).url}")
    client = p.client(rcvbuf=2304)
    client.send(request())
    time.sleep(0.6)
    answer = client.answer()
    assert (answer.status, answer.body, len(answer.interim)) == (200, b"ok", 5)
