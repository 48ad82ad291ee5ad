"""Targets by name, and targets in a black hole: resolved beside the loop, by a resolver of the
test's own. Each test has a network of its own (needs root): addresses on lo, nothing else."""

import collections
import ctypes
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest

from harness import PATIENCE, SLOW, TROUBLE, hurry, reply, request, says, wait_for
from test_backends import pressure, statuses

RESOLVER = "127.0.0.53"
NET = 0x40000000  # CLONE_NEWNET
A, AAAA = 1, 28
LOST = object()  # what a resolver says that says nothing


class Resolver:
    """A DNS server. `names`: what it knows, {"nas.test": ["10.0.0.1", "fd99::1"]}; a value may be
    an rcode ("SERVFAIL"), or LOST. Unknown names are NXDOMAIN. `delay`: s before each answer.
    `asked`: when which name was asked for (A and AAAA count as one: they come together)."""

    RCODES = {"FORMERR": 1, "SERVFAIL": 2, "NXDOMAIN": 3, "REFUSED": 5}

    def __init__(self):
        self.names, self.delay, self.asked = {}, 0, collections.defaultdict(list)
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((RESOLVER, 53))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                data, peer = self.sock.recvfrom(4096)
            except OSError:
                return
            labels, at = [], 12
            while data[at]:
                labels.append(data[at + 1:at + 1 + data[at]].decode())
                at += 1 + data[at]
            name, (kind,) = ".".join(labels).lower(), struct.unpack(">H", data[at + 1:at + 3])
            if kind == A:
                self.asked[name].append(time.monotonic())
            said = name, kind, data[:at + 5], peer
            if self.delay:
                threading.Timer(self.delay, self.answer, said).start()
            else:
                self.answer(*said)

    def answer(self, name, kind, query, peer):
        said = self.names.get(name, "NXDOMAIN")
        if said is LOST:
            return
        found = [] if isinstance(said, str) else [
            x for x in said if (":" in x) == (kind == AAAA) and kind in (A, AAAA)]
        rcode = self.RCODES[said] if isinstance(said, str) else 0
        records = b"".join(
            b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 1, 16 if kind == AAAA else 4)
            + socket.inet_pton(socket.AF_INET6 if kind == AAAA else socket.AF_INET, x)
            for x in found)
        head = query[:2] + struct.pack(">HHHHH", 0x8580 | rcode, 1, len(found), 0, 0)
        try:
            self.sock.sendto(head + query[12:] + records, peer)
        except OSError:
            pass  # the test is over

    def lookups(self, name):
        """How often it was asked for: what comes within 0.2 s is one lookup and its retries."""
        times = self.asked[name]
        return len(times) and 1 + sum(b - a > 0.2 for a, b in zip(times, times[1:]))


class Net:
    """The network, its resolver, and the files that a proxy in it sees."""

    def __init__(self, folder):
        self.folder, self.resolver, self.holes = folder, Resolver(), 0
        self.hosts("")
        self.conf(f"nameserver {RESOLVER}\n")
        (folder / "nsswitch").write_text("hosts: files dns\n")

    def hosts(self, text):
        (self.folder / "hosts").write_text("127.0.0.1 localhost\n" + text)

    def conf(self, text):
        (self.folder / "resolv").write_text(text)

    def under(self):
        """For Proxy: the command that shows it these files as those of /etc."""
        script = ""
        for mine, name in (("hosts", "hosts"), ("resolv", "resolv.conf"),
                           ("nsswitch", "nsswitch.conf")):
            if os.path.exists(f"/etc/{name}"):
                script += f"mount --bind {self.folder}/{mine} $(readlink -f /etc/{name}) && "
        return ["unshare", "-m", "sh", "-c", script + 'exec "$@"', "sh"]

    def hole(self):
        """An address whose SYNs nobody answers."""
        self.holes += 1
        return f"10.66.0.{self.holes}"


@pytest.fixture
def net(tmp_path):
    assert os.geteuid() == 0, "needs root: for a network of its own, and port 53 in it"
    libc = ctypes.CDLL(None, use_errno=True)
    outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    assert libc.unshare(NET) == 0, os.strerror(ctypes.get_errno())
    try:
        # what is routed to lo and is no address of it is dropped there: a black hole
        for words in ("link set lo up", "addr add 10.99.0.1/24 dev lo",
                      "addr add fd99::1/64 dev lo nodad", "addr add 2001:db8::1/64 dev lo nodad",
                      "route add 10.66.0.0/24 dev lo", "-6 route add 2001:db8:66::/64 dev lo"):
            subprocess.run(["ip", *words.split()], check=True)
        made = Net(tmp_path)
        yield made
        made.resolver.sock.close()
    finally:
        assert libc.setns(outside, NET) == 0, os.strerror(ctypes.get_errno())
        os.close(outside)


@pytest.fixture
def named(net, proxy):
    """named(RULE, ..., option=value): a proxy in that network."""
    def make(*routes, **options):
        options.setdefault("expect", [TROUBLE, r"rproxy: .*\.test.*"])
        if "args" not in options:  # a name that is found late is found
            options.setdefault("connect_timeout", "30s")
        return proxy(*routes, under=net.under(), **options)
    return make


def saying(name):
    return says(reply(200, body=name.encode()))


def p99(seconds):
    return sorted(seconds)[len(seconds) * 99 // 100]


# ==[ names ]======================================================================================


@pytest.mark.release
def test_a_name_is_resolved_by_dns_by_hosts_and_by_search_domain(net, named, backend):
    b = backend(address="10.99.0.1")
    net.resolver.names = {"nas.home.test": ["10.99.0.1"], "full.test": ["10.99.0.1"]}
    net.hosts("10.99.0.1 box.test\n")
    net.conf(f"nameserver {RESOLVER}\nsearch home.test\n")
    p = named(f"a.test=http://full.test:{b.port}", f"b.test=http://box.test:{b.port}",
              f"c.test=http://nas:{b.port}")
    for host in ("a.test", "b.test", "c.test"):
        assert p.ask(host=host).status == 200, host
    assert net.resolver.lookups("box.test") == 0


@pytest.mark.release
@pytest.mark.parametrize("said", ["NXDOMAIN", "SERVFAIL", "REFUSED", [], LOST],
                         ids=["nxdomain", "servfail", "refused", "empty", "lost"])
def test_a_name_without_address_is_502_for_its_host_alone(net, named, backend, said):
    net.resolver.names["nas.test"] = said
    p = named("a.test=http://nas.test:80", f"b.test={backend(address='10.99.0.1').url}",
              connect_timeout="1s")
    other, waiting = p.client(), p.client()
    waiting.send(request(host="a.test"))
    assert [other.ask(host="b.test").status for _ in range(20)] == [200] * 20
    answer = waiting.answer()
    assert answer.status == 502 and answer.get("Retry-After")
    assert [line.reason for line in p.access(21) if line.status == "502"] == [
        "upstream-unresolved"]


@pytest.mark.release
def test_a_name_that_never_resolved_is_asked_for_again_at_most_once_a_second(net, named, backend):
    p = named(f"a.test=http://nas.test:{backend(address='10.99.0.1').port}", log="none")
    client, since = p.client(), time.monotonic()
    while time.monotonic() - since < 1.3:
        assert client.ask(host="a.test").status == 502
    assert 1 < net.resolver.lookups("nas.test") <= 3
    net.resolver.names["nas.test"] = ["10.99.0.1"]
    since = time.monotonic()
    wait_for(lambda: client.ask(host="a.test").status == 200, "the name to be found")
    assert time.monotonic() - since < 1.5 * SLOW


def test_a_name_nobody_asks_for_is_looked_up_seldom(net, named, clock):
    """A mistyped name must not keep a router busy for ever."""
    speed = hurry(5)
    named("a.test=http://nas.test:80", env=clock(speed=speed))
    wait_for(lambda: net.resolver.lookups("nas.test") >= 3, "lookups", 15 * SLOW)
    times = net.resolver.asked["nas.test"]
    assert (times[-1] - times[0]) * speed / (net.resolver.lookups("nas.test") - 1) > 4, times


def test_a_late_answer_is_waited_for_as_long_as_a_connection(net, named, backend):
    b = backend(address="10.99.0.1")
    net.resolver.names = {"nas.test": ["10.99.0.1"]}
    net.resolver.delay = 1.5
    p = named(f"a.test=http://nas.test:{b.port}", f"b.test={b.url}", connect_timeout="10s")
    since = time.monotonic()
    assert p.ask(host="b.test").status == 200 and time.monotonic() - since < 1
    assert p.ask(host="a.test").status == 200
    assert time.monotonic() - since > 1


@pytest.mark.parametrize("trouble", ["delayed", "lost"])
def test_dns_trouble_does_not_touch_targets_by_address(net, named, backend, trouble):
    """Two proxies side by side, one of them with twenty names in trouble that somebody asks for:
    the start and the slowest requests of both are alike."""
    b = backend(saying("here"), address="10.99.0.1")
    names = [f"n{i}.test" for i in range(20)]
    if trouble == "lost":
        net.resolver.names = {n: LOST for n in names}
    else:
        net.resolver.names, net.resolver.delay = {n: ["10.99.0.1"] for n in names}, 5
    starts = []

    def start(*routes):
        since = time.monotonic()
        p = named(f"app.test={b.url}", *routes, log="none", connect_timeout="2s")
        starts.append(time.monotonic() - since)
        return p

    calm = start()
    sick = start(*(f"{n}=http://{n}:{b.port}" for n in names))
    assert starts[1] < starts[0] * 2 + SLOW
    waiting = [sick.client() for _ in names]
    for client, n in zip(waiting, names):
        client.send(request(host=n))
    took = {calm: [], sick: []}
    clients = {p: p.client() for p in took}
    for _ in range(700):
        for p, client in clients.items():
            since = time.perf_counter()
            assert client.ask().status == 200
            took[p].append(time.perf_counter() - since)
    ratio = p99(took[sick]) / p99(took[calm])
    print(f"p99 {p99(took[calm]) * 1e3:.2f} ms calm, {p99(took[sick]) * 1e3:.2f} ms with DNS "
          f"{trouble}: {ratio:.2f}")
    assert p99(took[sick]) < 2 * p99(took[calm]) + 0.01 * SLOW  # which is what noise may be
    assert max(took[sick]) < 1.5 * SLOW
    assert {c.answer().status for c in waiting} <= {200, 502}


def test_an_address_that_changes_is_noticed_after_a_failed_connect(net, named, backend):
    old = backend(saying("old"), address="10.99.0.1")
    net.resolver.names["nas.test"] = ["10.99.0.1"]
    p = named(f"a.test=http://nas.test:{old.port}")
    assert p.ask(host="a.test").body == b"old"
    net.resolver.names["nas.test"] = ["127.0.0.1"]
    old.close()
    backend(saying("new"), port=old.port)
    since = time.monotonic()
    wait_for(lambda: p.ask(host="a.test").body == b"new", "the new address")
    assert time.monotonic() - since < 2.5 * SLOW


def test_an_address_that_changes_is_noticed_within_a_minute(net, named, backend, clock):
    old = backend(saying("old"), address="10.99.0.1")
    backend(saying("new"), port=old.port)
    net.resolver.names["nas.test"] = ["10.99.0.1"]
    speed = hurry(40)
    p = named(f"a.test=http://nas.test:{old.port}", env=clock(speed=speed), connect_timeout="2m")
    assert p.ask(host="a.test").body == b"old"
    since = time.monotonic()
    net.resolver.names["nas.test"] = ["127.0.0.1"]
    wait_for(lambda: p.ask(host="a.test").body == b"new", "the new address", 10 * SLOW)
    assert 40 < (time.monotonic() - since) * speed < 62 + 60 * SLOW


def test_the_last_good_address_is_kept_while_dns_fails(net, named, backend, clock):
    b = backend(saying("here"), address="10.99.0.1")
    net.resolver.names["nas.test"] = ["10.99.0.1"]
    p = named(f"a.test=http://nas.test:{b.port}", env=clock(speed=hurry(40)),
              connect_timeout="2m")
    assert p.ask(host="a.test").status == 200
    for trouble in ("SERVFAIL", "NXDOMAIN", LOST):
        net.resolver.names["nas.test"] = trouble
        n = len(net.resolver.asked["nas.test"])
        wait_for(lambda: len(net.resolver.asked["nas.test"]) > n, "the next lookup", 10 * SLOW)
        time.sleep(0.1)
        assert p.ask(host="a.test").status == 200, trouble
    b.close()
    assert p.ask(host="a.test").status == 502  # and a failed connect does not lose it
    backend(saying("back"), address="10.99.0.1", port=b.port)
    assert p.ask(host="a.test").body == b"back"


@pytest.mark.release
@pytest.mark.parametrize("first", ["10.99.0.1", "fd99::1"])
def test_the_addresses_of_a_name_are_tried_in_order(net, named, backend, first):
    """Only one of both families is listened at, whichever comes first."""
    b = backend(address=first)
    net.resolver.names["nas.test"] = ["fd99::1", "10.99.0.1"]
    p = named(f"a.test=http://nas.test:{b.port}")
    assert p.ask(host="a.test").status == 200
    assert p.access()[0].reason == "-"


def test_a_dead_address_is_paid_for_once(net, named, backend):
    """The address that worked is tried first from then on; and both share --connect-timeout."""
    b = backend(says(reply(200, "Connection: close")), address="10.99.0.1")
    net.resolver.names["nas.test"] = ["10.99.0.1", "2001:db8:66::1"]  # RFC 6724: IPv6 is first
    p = named(f"a.test=http://nas.test:{b.port}", connect_timeout="2s")
    took = []
    for _ in range(3):
        since = time.monotonic()
        assert p.ask(host="a.test").status == 200
        took.append(time.monotonic() - since)
    assert 0.9 < took[0] < 1 + 0.5 * SLOW and max(took[1:]) < 0.5, took
    b.close()
    since = time.monotonic()
    assert p.ask(host="a.test").status == 502  # refused by the first, silence from the second
    assert time.monotonic() - since < 2 + SLOW


def test_a_helper_that_dies_is_replaced(net, named, backend):
    b = backend(address="10.99.0.1")
    net.resolver.names["nas.test"] = ["10.99.0.1"]
    p = named(f"a.test=http://nas.test:{b.port}", f"b.test=http://other.test:{b.port}",
              expect=[TROUBLE, "rproxy: the helper for names died; it is started anew"])
    assert p.ask(host="a.test").status == 200
    helper = subprocess.run(["pgrep", "-P", str(p.process.pid)], capture_output=True, text=True)
    for pid in helper.stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    p.said("helper for names died")
    assert p.ask(host="a.test").status == 200
    net.resolver.names["other.test"] = ["10.99.0.1"]
    wait_for(lambda: p.ask(host="b.test").status == 200, "the new helper")


def test_a_lost_name_does_not_keep_others_waiting(net, named, backend):
    """As many lost names as a helper works on at a time, less one; the next one is found."""
    b = backend(address="10.99.0.1")
    names = [f"n{i}.test" for i in range(15)]
    net.resolver.names = {n: LOST for n in names}
    net.resolver.names["nas.test"] = ["10.99.0.1"]
    p = named(*(f"{n}=http://{n}:80" for n in names), f"z.test=http://nas.test:{b.port}")
    since = time.monotonic()
    assert p.ask(host="z.test").status == 200
    assert time.monotonic() - since < SLOW


def test_an_unresolved_target_is_left_out(net, named, backend):
    """The next target is used; and not every request waits for the resolver again."""
    net.resolver.names["nas.test"] = LOST
    p = named(f"a.test=http://nas.test:80,{backend(address='10.99.0.1').url}",
              connect_timeout="1s")
    took = []
    for _ in range(5):
        since = time.monotonic()
        assert p.ask(host="a.test").status == 200
        took.append(time.monotonic() - since)
    assert took[0] > 0.9 and max(took[1:]) < 0.5, took


@pytest.mark.parametrize("jail", ["user", "chroot"])
def test_names_are_resolved_in_a_jail(net, named, backend, tmp_path, jail):
    """Also those that only a reload brings, when the proxy itself sees no /etc any more."""
    b = backend(address="10.99.0.1")
    net.hosts("10.99.0.1 box.test\n")
    net.resolver.names["nas.test"] = ["10.99.0.1"]
    root = tmp_path / "root"
    conf = root / str(tmp_path)[1:] / "conf"
    conf.parent.mkdir(parents=True)
    for folder in (tmp_path, root, *[f for f in conf.parents if root in f.parents]):
        folder.chmod(0o755)
    (tmp_path / "conf").symlink_to(conf)
    lines = ["http 127.0.0.1:0", "connect-timeout 30s", f"route b.test={b.url}",
             "user 65534" if jail == "user" else f"chroot {root}"]
    conf.write_text("\n".join(lines) + "\n")
    for parent in tmp_path.parents:  # pytest closes them to others
        if parent.stat().st_uid == 0 and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    p = named(args=["-c", str(tmp_path / "conf")], env={"ASAN_OPTIONS": "detect_leaks=0"},
              expect=[TROUBLE, "rproxy: reloaded", "rproxy: warning: after chroot .*"])
    assert p.ask(host="b.test").status == 200
    conf.write_text("\n".join([*lines, f"route a.test=http://nas.test:{b.port}",
                               f"route c.test=http://box.test:{b.port}"]) + "\n")
    p.signal(signal.SIGHUP)
    p.said("reloaded")
    for host in ("a.test", "c.test"):
        assert p.ask(host=host).status == 200, (p.lines, net.resolver.asked)
    p.fds += jail == "user"  # the helper's, which only the reload has started


def test_old_answers_are_not_taken_for_new_names(net, named, backend, tmp_path):
    """Two reloads put a new name where the old one stood, whose question is still under way."""
    right = backend(saying("right"), address="10.99.0.1")
    backend(saying("wrong"), port=right.port)
    net.resolver.names = {"old.test": ["127.0.0.1"], "new.test": ["10.99.0.1"]}
    net.resolver.delay = 1
    conf = tmp_path / "conf"
    conf.write_text(f"http 127.0.0.1:0\nroute a.test=http://old.test:{right.port}\n")
    p = named(args=["-c", str(conf)], expect=[TROUBLE, "rproxy: reloaded"])
    wait_for(lambda: net.resolver.asked["old.test"], "the question")
    for i, rule in enumerate((f"c.test={right.url}", f"b.test=http://new.test:{right.port}")):
        conf.write_text(f"http 127.0.0.1:0\nroute {rule}\n")
        p.signal(signal.SIGHUP)
        wait_for(lambda: p.lines.count("rproxy: reloaded") > i, "the reload")
    assert p.ask(host="b.test").body == b"right"


# ==[ black holes ]================================================================================


def test_a_black_hole_costs_its_own_requests_the_connect_timeout_and_nobody_else_anything(
        net, named, backend):
    """SYNs vanish. Two proxies side by side, one of them with fifty requests into the hole."""
    b = backend(saying("here"), address="10.99.0.1")
    rules = [f"app.test={b.url}", f"hole.test=http://{net.hole()}:80",
             f"both.test=http://{net.hole()}:80,{b.url}"]
    calm, sick = (named(*rules, connect_timeout="1500ms", log="none") for _ in range(2))
    lost, costs = [sick.client() for _ in range(50)], []
    since = time.monotonic()
    for client in lost:
        client.send(request(host="hole.test"))

    def end(client):
        assert client.answer().status == 504
        costs.append(time.monotonic() - since)

    enders = [threading.Thread(target=end, args=(c,)) for c in lost]
    for t in enders:
        t.start()
    took = {calm: [], sick: []}
    clients = {p: p.client() for p in took}
    while time.monotonic() - since < 1.3:
        for p, client in clients.items():
            began = time.perf_counter()
            assert client.ask().status == 200
            took[p].append(time.perf_counter() - began)
    for t in enders:
        t.join(PATIENCE)
    assert len(costs) == 50 and 1.4 < min(costs) and max(costs) < 1.5 + SLOW, (min(costs), max(costs))
    print(f"p99 {p99(took[calm]) * 1e3:.2f} ms calm, {p99(took[sick]) * 1e3:.2f} ms beside a hole")
    assert p99(took[sick]) < 2 * p99(took[calm]) + 0.01 * SLOW  # which is what noise may be
    assert max(took[sick]) < 1.5 * SLOW
    began = time.monotonic()
    assert sick.ask(host="both.test").body == b"here"
    assert 1.4 < time.monotonic() - began < 1.5 + SLOW
    assert sick.ask(host="both.test").body == b"here"  # it is left out now
    assert time.monotonic() - began < 2 + SLOW


def test_a_target_in_a_hole_is_tried_by_one_request_at_a_time(net, named, backend, clock):
    """Each trial takes --connect-timeout: meanwhile the others do not queue up behind it."""
    b = backend(saying("here"), address="10.99.0.1")
    speed = hurry(4)  # a machine that stands still for a moment must not look like a trial
    p = named(f"app.test=http://{net.hole()}:80,{b.url}", connect_timeout="3s", log="none",
              env=clock(speed=speed), idle_timeout="1h")
    with pressure(p, 6) as seen:
        began = time.monotonic()
        time.sleep(15 / speed)
    assert set(statuses(seen)) == {200} and len(seen) > 300
    trials = [when - began for when, _, took in seen if took > 3 / speed * 0.9]
    assert 1 < len([t for t in trials if t > 5 / speed]) <= 3, trials  # the first ones all went in


def test_an_unreachable_network_fails_at_once(net, named, backend):
    subprocess.run(["ip", "route", "add", "unreachable", "10.67.0.0/24"], check=True)
    p = named(f"app.test=http://10.67.0.1:80,{backend(address='10.99.0.1').url}",
              "dead.test=http://10.67.0.2:80")
    since = time.monotonic()
    assert p.ask().status == 200
    assert p.ask(host="dead.test").status == 502
    assert time.monotonic() - since < 1.5 * SLOW
    assert re.search("upstream-refused", p.access(2)[1].reason)
