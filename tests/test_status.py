"""The status page: for people, as JSON, and as metrics for Prometheus."""

import html.parser
import json
import re

import pytest

from harness import Client, dead_port, reply, request

REASONS = """- no-route bad-request head-too-big uri-too-long body-too-big head-timeout body-timeout denied
auth-required rate-limited misdirected method-refused upgrade-refused redirect challenge
upstream-unresolved upstream-refused upstream-reset upstream-timeout upstream-tls upstream-bad
upstream-waking client-gone client-stalled upstream-stalled draining internal""".split()

OUT = (r"rproxy: .*127\.0\.0\.1.*",)  # what is said about targets that are broken here on purpose


def get(p, path="/status.json", *fields, host="localhost", **kw):
    answer = Client(p.status[0]).ask(path, *fields, host=host, **kw)
    assert answer.status == 200, answer
    return answer


def metrics(text):
    """{(name, labels): value} of the text format 0.0.4, by its grammar and without mercy: each name
    has HELP and TYPE before its samples, which stand together and never come twice; a counter is
    called _total; the last line ends."""
    assert text.endswith("\n")
    samples, types, helps, done, current = {}, {}, {}, set(), None
    label = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\n"])*)"'
    for line in text[:-1].split("\n"):
        m = re.fullmatch(r"# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.*)", line)
        if m:
            table = helps if m[1] == "HELP" else types
            assert m[2] not in table and m[2] not in done, line
            table[m[2]] = m[3]
            if m[1] == "TYPE":
                assert m[3] in ("counter", "gauge"), line
                assert (m[3] == "counter") == m[2].endswith("_total"), line
                done.add(current)
                current = m[2]
            continue
        m = re.fullmatch(rf"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{{({label}(?:,{label})*)\}})? (\d+)", line)
        assert m, line
        assert m[1] == current and m[1] in helps, f"{line}: not with the others of its name"
        pairs = re.findall(label, m[2] or "")
        assert len(dict(pairs)) == len(pairs), f"{line}: a label twice"
        key = m[1], tuple(sorted(pairs))
        assert key not in samples, f"{line}: twice"
        samples[key] = int(m.groups()[-1])
    return samples


class Page(html.parser.HTMLParser):
    """Text of a page, its headings, and the rows of its tables."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.headings, self.tag, self.tags = [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.tag = tag
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.tag = ""

    def handle_data(self, data):
        if self.tag == "h2":
            self.headings.append(data)
        elif self.rows and self.tag != "style":
            self.rows[-1][-1] += data.strip()


# ==[ three forms of the same ]====================================================================


@pytest.fixture
def busy(proxy, backend, certs):
    """A proxy with a route of every kind, one good target and one dead, and some traffic."""
    good, dead = backend(), dead_port()
    p = proxy(f"app.test={good.url} plain", f"two.test/a/b=http://127.0.0.1:{dead},{good.url}",
              f"dead.test=http://127.0.0.1:{dead}", "old.test=redirect:https://app.test/{uri}",
              "*.gone.test=status:410", "vpn.test=tcp://10.0.0.1:443", status="127.0.0.1:0",
              https="127.0.0.1:0", cert=[certs("app.test").pem, certs("soon.test", life=(-80, 10.5)).pem,
                                         certs("late.test", life=(-80, -3.5)).pem,
                                         certs("app.test", kind="rsa").pem],
              expect=(r"rproxy: .*the certificate for (soon|late)\.test expire.*",
                      r"rproxy: warning: no certificate covers .*", *OUT))
    for host, status in (("app.test", 200), ("app.test", 200), ("two.test", 200), ("dead.test", 502),
                         ("old.test", 302), ("x.gone.test", 410), ("nobody.test", 404)):
        assert p.ask("/a/b", host=host).status == status, host
    p.good, p.dead = good, f"http://127.0.0.1:{dead}"
    return p


@pytest.mark.release
def test_json(busy):
    got = get(busy).json()
    routes = {r["host"] + r["path"]: r for r in got["routes"]}
    assert set(routes) == {"app.test", "two.test/a/b", "dead.test", "old.test", "*.gone.test",
                           "vpn.test"}
    assert routes["app.test"]["targets"][0]["target"] == busy.good.url
    assert [t["state"] for t in routes["two.test/a/b"]["targets"]] == ["out", "up"]
    assert routes["two.test/a/b"]["targets"][0]["failed"] > 0
    assert routes["dead.test"]["targets"][0] == {**routes["two.test/a/b"]["targets"][0]}
    assert routes["old.test"]["redirect"] == "https://app.test/{uri}"
    assert routes["*.gone.test"]["status"] == 410
    assert routes["vpn.test"]["targets"][0]["target"] == "tcp://10.0.0.1:443"
    certs = [(c["name"], c["state"], c["days_left"]) for c in got["certificates"]]
    assert [c for c in certs if c[0] != "app.test"] == [("soon.test", "expiring", 10),
                                                        ("late.test", "expired", -4)]
    assert [c[1] for c in certs if c[0] == "app.test"] == ["good", "good"]
    assert sorted(f"{m['kind']} {m['address']}" for m in got["listeners"]) == sorted(
        f"{k} 127.0.0.1:{getattr(busy, k)[0]}" for k in ("http", "https", "status"))
    assert set(got["reasons"]) == set(REASONS)
    assert {k: v for k, v in got["reasons"].items() if v} == {
        "-": 4, "no-route": 1, "redirect": 1, "upstream-refused": 1}
    assert (got["answers_2xx_total"], got["answers_3xx_total"], got["answers_4xx_total"],
            got["answers_5xx_total"]) == (3, 1, 2, 1)
    assert got["requests_total"] == 8  # this one, too
    assert got["version"]


@pytest.mark.release
def test_metrics(busy):
    got = metrics(get(busy, "/metrics").body.decode())

    def one(name, **labels):
        return got[f"rproxy_{name}", tuple(sorted(labels.items()))]

    for host, path in (("two.test", "/a/b"), ("dead.test", "")):
        assert one("target_up", host=host, path=path, target=busy.dead) == 0
        assert one("target_failed_total", host=host, path=path, target=busy.dead) > 0
    assert one("target_up", host="app.test", path="", target=busy.good.url) == 1
    assert one("target_served_total", host="app.test", path="", target=busy.good.url) == 3
    assert one("answers_total", **{"class": "4xx"}) == 2
    assert one("reasons_total", reason="no-route") == 1
    assert {dict(k)["reason"] for n, k in got if n == "rproxy_reasons_total"} == set(REASONS)
    names = [dict(k)["name"] for n, k in got if n == "rproxy_certificate_not_after_seconds"]
    assert sorted(names) == ["app.test", "app.test", "late.test", "soon.test"]
    assert one("uptime_seconds") < 600
    assert one("clients") == 1


@pytest.mark.release
def test_the_page(busy):
    answer = get(busy, "/")
    page = Page(answer.body.decode())
    assert page.headings == ["Routes", "Certificates", "Listeners", "Numbers",
                             "Answers and cuts of the proxy itself"]
    rows = {}
    for name, text in page.rows:
        rows.setdefault(name, text)
    assert rows["app.test"].startswith(f"{busy.good.url}up, 3 served, 0 failed")
    assert rows["dead.test"].startswith(f"{busy.dead}out")
    assert rows["old.test"] == "redirect to https://app.test/{uri}"
    assert rows["*.gone.test"] == "status 410"
    assert rows["soon.test"].startswith("expiring, 10 days left")
    assert rows["late.test"].startswith("expired, 4 days ago")
    assert rows["no-route"] == "1"
    assert "denied" not in rows  # what never happened is left out
    assert "do not work" in answer.body.decode()


# ==[ odd configurations ]=========================================================================


@pytest.mark.release
@pytest.mark.parametrize("routes", [["a.test=status:410"], [], ["*=redirect:https://a.test/"]])
def test_without_targets_or_certificates_all_forms_are_valid(proxy, routes):
    p = proxy(*routes, status="127.0.0.1:0")
    got = get(p).json()
    assert (len(got["routes"]), got["certificates"]) == (len(routes), [])
    assert ("rproxy_clients", ()) in metrics(get(p, "/metrics").body.decode())
    assert "No targets" in get(p, "/").body.decode()


@pytest.mark.release
def test_names_of_any_characters(proxy, backend, tmp_path):
    name = 'ü"q\\b<script>&amp;{}=\u20ac\U0001f600.sock'
    b = backend(path=tmp_path / name)
    quoted = b.url.replace("\\", "\\\\").replace('"', '\\"')
    p = proxy(f'a.test="{quoted}"', "b.test/~x'(y)*=status:204",
              status="127.0.0.1:0")
    assert p.ask(host="a.test").status == 200
    got = get(p).json()["routes"]
    assert [r["targets"][0]["target"] for r in got if r["host"] == "a.test"] == [b.url]
    assert [r["path"] for r in got if r["host"] == "b.test"] == ["/~x'(y)*"]
    labels = dict(next(k for n, k in metrics(get(p, "/metrics").body.decode())
                       if n == "rproxy_target_up"))
    assert labels["target"].replace('\\"', '"').replace("\\\\", "\\") == b.url
    page = Page(get(p, "/").body.decode())
    assert "script" not in page.tags
    assert any(r[0] == "a.test" and b.url in r[1] for r in page.rows)
    p.stop()


@pytest.mark.release
def test_names_that_are_no_utf8(proxy, tmp_path):
    """A file may be called anything; JSON and metrics may not hold just any bytes."""
    odd = bytes(range(0x80, 0x100)) + b"\xed\xa0\x80\xf4\x90\x80\x80\xc0\xaf\xe2\x82"
    for i in range(0, len(odd), 40):
        path = b"/nowhere/" + odd[i:i + 40]
        p = proxy(b"a.test=unix:" + path, status="127.0.0.1:0")
        [target] = get(p).json()["routes"][0]["targets"]
        assert target["target"].startswith("unix:/nowhere/")
        metrics(get(p, "/metrics").body.decode())
        get(p, "/").body.decode()
        p.stop()


@pytest.mark.release
def test_a_long_page_goes_through_small_buffers(proxy, tmp_path):
    """2,000 routes with two targets each, and a client with a small window."""
    conf = tmp_path / "conf"
    conf.write_text("http 127.0.0.1:0\nstatus 127.0.0.1:0\nhead-max 1k\n" + "".join(
        f"route h{i}.test/{'p' * (i % 900)}=http://10.0.0.1:{i + 1},http://10.0.0.2:{i + 1}\n"
        for i in range(2000)))
    p = proxy(args=["-c", str(conf)])
    client = Client(p.status[0], rcvbuf=4096)
    client.send(request("/status.json", host="localhost"))
    assert client.head().status == 200
    body = client.left
    while data := client.sock.recv(3000):
        body += data
    assert [len(r["targets"]) for r in json.loads(body)["routes"]] == [2] * 2000
    got = metrics(get(p, "/metrics").body.decode())
    assert sum(n == "rproxy_target_up" for n, _ in got) == 4000


# ==[ who may read it ]============================================================================


def test_without_an_address_it_listens_on_loopback_only(proxy):
    p = proxy(status="0")
    assert [a for k, a in p.addresses if k == "status"] == ["127.0.0.1"]


@pytest.mark.release
@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:9180", "[::1]", "[::ffff:127.0.0.1]:80",
                                  "localhost", "LOCALHOST.", "router", "router.lan", "nas.local",
                                  "a.home.arpa", "x.localhost:9180", "app.test", "APP.test:80",
                                  "deep.own.test"])
def test_a_host_of_ones_own_is_served(proxy, host):
    p = proxy("app.test=status:204", "*.own.test=status:204", "*=status:404", status="127.0.0.1:0")
    assert get(p, "/", host=host).status == 200


@pytest.mark.release
@pytest.mark.parametrize("path", ["/", "/status.json", "/metrics"])
@pytest.mark.parametrize("host", ["evil.test", "evil.test:9180", "rebind.example.com",
                                  "127.0.0.1.evil.test", "xlocalhost.evil.com", "evil-lan.com",
                                  "app.test.evil.com", "127.0.0.1.nip.io"])
def test_a_foreign_host_gets_nothing(proxy, host, path):
    """DNS rebinding: a site elsewhere lets its name point here and reads through a browser."""
    p = proxy("app.test=status:204", "*=status:404", status="127.0.0.1:0")
    answer = Client(p.status[0]).ask(path, host=host)
    assert answer.status == 421
    assert b"app.test" not in answer.body
    assert p.access()[0].reason == "misdirected"


def test_without_a_host_an_old_client_is_served(proxy):
    p = proxy(status="127.0.0.1:0")
    assert get(p, "/metrics", host=None, version="HTTP/1.0").status == 200


@pytest.mark.release
def test_only_get_and_head_are_served(proxy):
    p = proxy(status="127.0.0.1:0")
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PURGE"):
        answer = Client(p.status[0]).ask("/", method=method, host="localhost")
        assert (answer.status, answer.get("Allow")) == (405, "GET, HEAD"), method
    head = Client(p.status[0]).ask("/metrics", method="HEAD", host="localhost")
    assert (head.status, head.body) == (200, b"")
    assert Client(p.status[0]).ask("/nothing", host="localhost").status == 404


def test_it_is_not_served_on_other_listeners(proxy):
    p = proxy("app.test=status:410", status="127.0.0.1:0")
    assert p.ask("/metrics").status == 410
    assert p.ask("/metrics", host="localhost").status == 404


def test_it_answers_when_all_connections_are_taken(proxy):
    """It is needed most when nothing else answers."""
    p = proxy("app.test=status:410", status="127.0.0.1:0", max_conns=2)
    clients = [p.client() for _ in range(2)]
    for client in clients:
        client.ask()
    assert get(p).json()["clients"] == 3
