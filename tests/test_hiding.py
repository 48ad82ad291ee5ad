"""What visitors get to know of the inner network: nothing. Location and its like come out public,
own answers name nothing, and what a backend says can be hidden or added to."""

import re
import ssl

import pytest

from harness import Client, dead_port, reply, request, says

WAYS = pytest.mark.parametrize("way", ["http", "https"])


def obedient(conn):
    """Says the fields that X-Say lines ask for, with the status of X-Status."""
    while r := conn.request():
        status = int(r.get("X-Status") or 200)
        conn.send(reply(status, *r.fields.all("X-Say")))


def once(conn):
    """The same, one request a connection: none is left in the pool."""
    r = conn.request()
    conn.send(reply(200, "Connection: close", *r.fields.all("X-Say")))


class Site:
    """A proxy before obedient backends; ask() says what becomes of a field on its way out."""

    def __init__(self, proxy, certs, way, routes, names=("app.test", "other.test"), **options):
        self.way, self.context = way, certs.trust()
        self.proxy = proxy(*routes, https="127.0.0.1:0", cert=certs(*names).pem,
                           expect=[r"rproxy: warning: no certificate covers .*",
                                   r"rproxy: .*nas\.lan.*", r"rproxy: target .*"],
                           **options)
        self.http, self.https = self.proxy.http[0], self.proxy.https[0]
        self.port = self.http if way == "http" else self.https

    def client(self, name="app.test", **kw):
        return self.proxy.client(name if self.way == "https" else None, context=self.context, **kw)

    def say(self, *lines, client=None, target="/", host="app.test", **kw):
        """The fields of the answer, less our own Date and the framing."""
        c = client or self.client(host.split(":")[0])
        answer = c.ask(target, *[f"X-Say: {line}" for line in lines], host=host, **kw)
        if not client:
            c.close()
        return [f"{n}: {v}" for n, v in answer.fields
                if n not in ("Date", "Content-Length", "Connection")]


# ==[ Location ]===================================================================================

# {own}: the authority of the route's target; {pub}: how the visitor came; {HOST} others below.
REFERENCES = [
    ("http://{own}/x?y=1&z#f", "{pub}/x?y=1&z#f"),
    ("HTTP://{own}/x", "{pub}/x"),
    ("https://{own}/x", "{pub}/x"),  # any scheme
    ("hTtPs://{own}/x", "{pub}/x"),
    ("//{own}/x", "{pub}/x"),
    ("http://{own}", "{pub}"),
    ("http://{own}/", "{pub}/"),
    ("http://{own}?q", "{pub}?q"),
    ("http://{own}#f", "{pub}#f"),
    ("http://user:secret@{own}/x", "{pub}/x"),
    ("http://user@elsewhere.test@{own}/x", "{pub}/x"),
    # what browsers take for the same
    ("http:\\\\{own}\\x", "{pub}\\x"),
    ("http:/\\{own}/x", "{pub}/x"),
    ("\\\\{own}/x", "{pub}/x"),
    ("///{own}/x", "{pub}/x"),
    ("http:///{own}/x", "{pub}/x"),
    # any other scheme is kept
    ("ws://{own}/x", "{ws}app.test{port}/x"),
    ("WSS://{own}", "{ws}app.test{port}"),
    ("ftp://{own}/x", "ftp://app.test{port}/x"),
    ("app+x.y-z://me@{own}?x", "app+x.y-z://app.test{port}?x"),
    # another route's targets
    ("http://10.9.9.9:8443/x", "{https}other.test{sport}/x"),
    ("https://10.9.9.9:8443", "{https}other.test{sport}"),
    ("http://10.9.9.8:81/x", "http://bare.test{hport}/x"),  # no certificate
    ("https://10.9.9.7:8443/x", "{https}tcp.test{sport}/x"),
    ("http://[fd00::5]:8096/x", "http://six.test{hport}/x"),
    ("http://[FD00:0:0::0005]:8096/x", "http://six.test{hport}/x"),
    ("http://nas.lan:5000/x", "http://nas.test{hport}/x"),
    ("http://NAS.Lan.:5000/x", "http://nas.test{hport}/x"),
    ("http://10.9.9.6/x", "{pub}/x"),  # a wildcard has no name of its own
    ("http://10.9.9.3/x", "{pub}/docs/x"),
    ("http://10.9.9.3", "{pub}/docs"),
    # default ports, of either scheme
    ("http://10.9.9.5/x", "http://def.test{hport}/x"),
    ("http://10.9.9.5:80/x", "http://def.test{hport}/x"),
    ("http://10.9.9.5:/x", "http://def.test{hport}/x"),
    ("https://10.9.9.5/x", "http://def.test{hport}/x"),
    ("https://10.9.9.5:443/x", "http://def.test{hport}/x"),
    ("//10.9.9.5/x", "http://def.test{hport}/x"),
    ("http://[::ffff:10.9.9.5]/x", "http://def.test{hport}/x"),
    ("http://10.9.9.4/x", "http://defs.test{hport}/x"),
    ("https://10.9.9.4:443/x", "http://defs.test{hport}/x"),
    # one address, two services: the very port first
    ("http://10.9.9.2/x", "http://two80.test{hport}/x"),
    ("https://10.9.9.2/x", "http://two443.test{hport}/x"),
]
UNTOUCHED = [
    "/x", "x", "?x", "#x", "", "../x", "/", "x:y", "/http://{own}/x", "./http://{own}/x",
    "http://elsewhere.test/x", "https://elsewhere.test/?to=http://{own}/x",
    "https://elsewhere.test/#http://{own}/x", "http://{own}.elsewhere.test/x",
    "http://elsewhere.test@elsewhere.test/{own}", "http://x{own}/x",
    "http://127.0.0.1/x", "http://127.0.0.1:1/x", "http://10.9.9.9/x", "http://10.9.9.9:443/x",
    "http://10.9.9.5:443/x", "http://10.9.9.5:8080/x", "http://nas.lan/x", "http://nas:5000/x",
    "http://app.test/x", "http://other.test/x", "https://app.test:99/x",
    "mailto:me@{own}", "http:{own}/x", "http:/{own}/x", "1x://{own}/x", "://{own}/x", "a b://{own}/",
    "ftp://10.9.9.5/x",
    "http://[::1", "http://[::1]x/", "http:///", "http://", "//", "http://%31", "http://{own}x/",
    "http://10.9.9.5:99999/x", "http://10.9.9.5:-1/x", "caf\xe9",
]


@pytest.fixture
def site(proxy, backend, certs):
    def make(way, **options):
        b = backend(obedient)
        s = Site(proxy, certs, way, [
            f"app.test={b.url} plain",
            "app.test/docs=http://10.9.9.3 strip plain",
            "other.test=http://10.9.9.10,https://10.9.9.9:8443 plain",
            "bare.test=http://10.9.9.8:81", "tcp.test=tcp://10.9.9.7:8443",
            "*.wild.test=http://10.9.9.6", "six.test=http://[fd00::5]:8096",
            "nas.test=http://nas.lan:5000", "def.test=http://10.9.9.5",
            "defs.test=https://10.9.9.4 verify=off", "two443.test=https://10.9.9.2 verify=off",
            "two80.test=http://10.9.9.2"], **options)
        s.backend = b
        return s
    return make


@pytest.mark.release
@WAYS
@pytest.mark.parametrize("ported", [False, True], ids=["host", "host:port"])
@pytest.mark.parametrize("public", [None, 443], ids=["own-port", "public-443"])
def test_references_to_targets_come_out_public(site, way, ported, public):
    s = site(way, public_port=public)
    port = f":{s.port}" if ported else ""
    words = {"own": s.backend.address, "pub": f"{way}://app.test{port}", "https": "https://",
             "port": port, "ws": "wss://" if way == "https" else "ws://",
             "sport": "" if public else f":{s.https}", "hport": port if way == "http" else ""}
    client = s.client()
    for sent, want in REFERENCES + [(u, u) for u in UNTOUCHED]:
        sent, want = (text.format(**words) for text in (sent, want))
        for name in ("Location", "content-LOCATION"):
            got = s.say(f"{name}: {sent}", client=client, host=f"app.test{port}")
            assert got == [f"{name}: {want}"], sent


REFRESH = [
    ("0; url=http://{own}/x", "0; url={pub}/x"),
    ("0;URL='http://{own}/x'", "0;URL='{pub}/x'"),
    ("0;URL='http://{own}'", "0;URL='{pub}'"),
    ('5 ; Url = "http://{own}/x"; y', '5 ; Url = "{pub}/x"; y'),
    ("5, http://{own}/x", "5, {pub}/x"),
    ("5;http://{own}/x", "5;{pub}/x"),
    ("5 url=http://{own}/x", "5 url={pub}/x"),
    ("1.5; url=//{own}", "1.5; url={pub}"),
    (".; url=http://{own}", ".; url={pub}"),
    ("url=http://{own}/x", "url={pub}/x"),
    ("0; url=http://elsewhere.test/?url=http://{own}/", None),
    ("0; url=/x", None), ("5", None), ("", None), ("0; url", None), ("0; url=", None),
    ("0;", None), ("0; url='", None), ("0; urlx=http://elsewhere.test/", None),
]


@WAYS
def test_refresh_in_all_its_forms(site, way):
    s = site(way)
    words = {"own": s.backend.address, "pub": f"{way}://app.test"}
    client = s.client()
    for sent, want in REFRESH:
        sent, want = sent.format(**words), (want or sent).format(**words)
        assert s.say(f"Refresh: {sent}", client=client) == [f"Refresh: {want}"], sent


@WAYS
def test_several_are_all_rewritten_and_nothing_else_is(site, way):
    s = site(way)
    own, pub = s.backend.address, f"{way}://app.test"
    got = s.say(f"X-Location: http://{own}/a", f"Location: http://{own}/b",
                f"Link: <http://{own}/c>; rel=next", f"Location: http://{own}/d",
                f"Set-Cookie: a={own}; Domain=127.0.0.1", f"Content-Location: http://{own}/e",
                f"Content-Security-Policy: default-src http://{own}",
                f"Access-Control-Allow-Origin: http://{own}", f"Refresh: 1;url=http://{own}/f")
    assert sorted(got) == sorted([
        f"X-Location: http://{own}/a", f"Location: {pub}/b", f"Link: <http://{own}/c>; rel=next",
        f"Location: {pub}/d", f"Set-Cookie: a={own}; Domain=127.0.0.1",
        f"Content-Location: {pub}/e", f"Content-Security-Policy: default-src http://{own}",
        f"Access-Control-Allow-Origin: http://{own}", f"Refresh: 1;url={pub}/f"])
    assert [g for g in got if g.startswith("Location")] == [f"Location: {pub}/b",
                                                           f"Location: {pub}/d"]


@WAYS
@pytest.mark.parametrize("status", [200, 201, 202, 300, 301, 302, 303, 307, 308, 401, 404, 503])
def test_with_any_status(site, way, status):
    s = site(way)
    got = s.say(f"Location: http://{s.backend.address}/x", client=s.client(), target="/")
    assert got == [f"Location: {way}://app.test/x"]
    answer = s.client().ask("/", f"X-Say: Location: http://{s.backend.address}/x",
                            f"X-Status: {status}")
    assert (answer.status, answer.get("Location")) == (status, f"{way}://app.test/x")


@WAYS
def test_after_a_long_body_the_visitors_port_is_still_known(site, way):
    s = site(way)
    host = f"app.test:{s.port}"
    for size in (10, 300000):
        got = s.say(f"Location: http://{s.backend.address}/x", host=host, method="POST",
                    body=b"x" * size)
        assert got == [f"Location: {way}://{host}/x"], size


def test_a_visitor_without_host_gets_a_path(proxy, backend):
    b = backend(obedient)
    p = proxy(f"*={b.url}")
    for sent, want in (("/x?y", "/x?y"), ("", "/"), ("?y", "/?y")):
        c = p.client()
        c.send(request("/", f"X-Say: Location: http://{b.address}{sent}", host=None,
                       version="HTTP/1.0"))
        assert c.answer().get("Location") == want


def test_who_came_by_https_says_a_trusted_peer(proxy, backend):
    b = backend(obedient)
    p = proxy(f"app.test={b.url}", trust="127.0.0.2")
    for source, scheme in (("127.0.0.1", "http"), ("127.0.0.2", "https")):
        c = p.client(source=source)
        answer = c.ask("/", "X-Forwarded-Proto: https", f"X-Say: Location: http://{b.address}/x")
        assert answer.get("Location") == f"{scheme}://app.test/x"


@WAYS
def test_strip_is_taken_back(proxy, backend, certs, way):
    docs, root = backend(obedient), backend(obedient)
    s = Site(proxy, certs, way, [f"app.test={root.url} plain",
                                 f"app.test/docs/v1={docs.url} strip plain"])
    at, own, pub = "/docs/v1", docs.address, f"{way}://app.test"
    for sent, want in [
            ("/login?x", f"{at}/login?x"), ("/", f"{at}/"), ("login", None), ("?x", None),
            ("", None), ("//elsewhere.test/x", None), ("http://elsewhere.test/x", None),
            (f"http://{own}/x", f"{pub}{at}/x"), (f"http://{own}", f"{pub}{at}"),
            (f"http://{own}?x", f"{pub}{at}?x"), (f"//{own}/x", f"{pub}{at}/x"),
            (f"{pub}/x", f"{pub}{at}/x"), (f"{way}://APP.test", f"{way}://APP.test{at}"),
            ("//app.test/x", f"//app.test{at}/x"), (f"{way}://app.test:99/x", None),
            (f"http://{root.address}/x", f"{pub}/x"),
            # one that knows of the prefix
            (f"{at}/login?x", None), (at, None), (f"{at}?x", None), (f"{at}x", f"{at}{at}x"),
            (f"{pub}{at}/x", None), (f"//app.test{at}/x", None), (f"{pub}{at}", None),
            (f"http://{own}{at}/x", f"{pub}{at}{at}/x")]:
        for line in ("Location: ", "Content-Location: ", "Refresh: 0; url="):
            assert s.say(line + sent, target=f"{at}/here") == [line + (want or sent)], sent
    # and from another route, the other way round
    assert s.say(f"Location: http://{own}/x") == [f"Location: {pub}{at}/x"]
    assert s.say("Location: /x") == ["Location: /x"]
    for target, seen in ((at, "/"), (f"{at}/", "/"), (f"{at}/a?b", "/a?b"), (f"{at}?b", "/?b")):
        s.say(target=target)
        assert docs.requests[-1].target == seen


@WAYS
def test_of_several_routes_to_a_target_the_one_that_serves_the_path(proxy, backend, certs, way):
    b = backend(obedient)
    s = Site(proxy, certs, way, [
        f"app.test/a={b.url} plain", f"app.test/a/b={b.url} plain", f"other.test={b.url} plain",
        f"other.test/c={b.url} strip plain"])
    here, there = f"{way}://app.test", f"https://other.test:{s.https}"
    for target, sent, want in [
            ("/a", "/a/x", f"{here}/a/x"),  # this one
            ("/a/b", "/a/b", f"{here}/a/b"),
            ("/a/b", "/a/x", f"{here}/a/x"),
            ("/a", "/login", f"{there}/c/login"),  # nobody serves it here
            ("/a", "/ab", f"{there}/c/ab")]:
        assert s.say(f"Location: http://{b.address}{sent}", target=target) == [
            f"Location: {want}"], (target, sent)


# ==[ Host ]=======================================================================================


@WAYS
def test_the_host_that_the_backend_sees(proxy, backend, certs, way):
    b = backend(obedient)
    names = ["a.test", "b.test", "c.test", "d.test", "e.test"]
    s = Site(proxy, certs, way, [
        f"a.test={b.url} plain", f"b.test={b.url} plain host=keep",
        f"c.test={b.url} plain host=target", f"d.test={b.url} plain host=Inner.LAN",
        f"e.test={b.url} plain host=inner.lan:8080"], names=names)
    for name, want in zip(names, ["A.test:77", "B.test:77", b.address, "inner.lan",
                                  "inner.lan:8080"]):
        s.say(client=s.client(name), host=name.capitalize() + ":77")
        assert b.requests[-1].get("Host") == want
        assert b.requests[-1].get("X-Forwarded-Host") == name.capitalize() + ":77"


@WAYS
def test_the_name_by_which_a_backend_is_called_comes_out_public(proxy, backend, certs, way,
                                                                 tmp_path):
    b, u = backend(obedient), backend(once, path=tmp_path / "sock")
    names = ["a.test", "b.test", "c.test", "d.test", "e.test"]
    s = Site(proxy, certs, way, [
        f"a.test={b.url} plain host=inner.lan", f"b.test={b.url} plain host=inner.lan:8080",
        f"c.test={u.url} plain host=target", f"d.test={u.url} plain",
        f"e.test={b.url} plain host=a.test"], names=names)
    pub = {n: f"{way}://{n}" for n in names}
    for name, sent, want in [
            ("a.test", "http://inner.lan/x", f"{pub['a.test']}/x"),
            ("a.test", "https://INNER.lan:443/x", f"{pub['a.test']}/x"),
            ("a.test", "http://inner.lan:99/x", None),
            ("a.test", f"http://{b.address}/x", f"{pub['a.test']}/x"),
            ("b.test", "http://inner.lan:8080/x", f"{pub['b.test']}/x"),
            ("b.test", "http://inner.lan/x", None),
            ("c.test", "http://localhost/x", f"{pub['c.test']}/x"),
            ("d.test", "http://localhost/x", None),
            ("e.test", "http://a.test/x", None)]:  # public by itself
        assert s.say(f"Location: {sent}", client=s.client(name), host=name) == [
            f"Location: {want or sent}"], (name, sent)


# ==[ fields that are hidden, set and added ]======================================================


@WAYS
def test_hide_set_and_add_response(proxy, backend, certs, way):
    b = backend(obedient)
    s = Site(proxy, certs, way, [
        f"app.test={b.url} plain hide=Server,X-Powered-By hide=location "
        f'set=X-Key:secret set=X-Key:two "set=X-Text: a b" '
        f'add-response=X-Frame-Options:DENY "add-response=X-Own: c, d"'])
    c = s.client()
    answer = c.ask("/", "X-Say: SERVER: inner/1.2", "X-Say: X-powered-by: php", "X-Say: X-Stays: 1",
                   f"X-Say: Location: http://{b.address}/", "X-Say: X-Own: theirs",
                   "x-key: forged", "X-TEXT: forged", "X-Key: again")
    got = [(n, v) for n, v in answer.fields if n not in ("Date", "Content-Length")]
    assert got == [("X-Stays", "1"), ("X-Own", "theirs"), ("X-Frame-Options", "DENY"),
                   ("X-Own", "c, d")]
    seen = b.requests[0].fields
    assert seen.all("X-Key") == ["secret", "two"] and seen.all("X-Text") == ["a b"]


def test_hidden_fields_stay_hidden_in_interim_answers(proxy, backend):
    b = backend(says(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nServer: inner\r\n\r\n",
                     reply(200, "Server: inner")))
    answer = proxy(f"app.test={b.url} hide=server").ask()
    assert answer.interim == [(103, [("Link", "</a>")])] and answer.get("Server") is None


@WAYS
def test_hsts(proxy, backend, certs, way):
    b, name = backend(obedient), "Strict-Transport-Security"
    s = Site(proxy, certs, way, [f"app.test={b.url} plain hsts", f"app.test/b={b.url} plain hsts=5",
                                 f"app.test/c={b.url} plain", "app.test/d=status:404 plain hsts",
                                 "app.test/e=redirect:https://x.test/ plain hsts"])
    by_https = way == "https"
    for target, want in (("/", "max-age=31536000"), ("/b", "max-age=5"), ("/d", "max-age=31536000"),
                         ("/e", "max-age=31536000")):
        answer = s.client().ask(target)
        assert answer.get(name) == (want if by_https else None), target  # RFC 6797 7.2
    theirs = f"X-Say: {name}: max-age=1"
    assert s.client().ask("/", theirs).get(name) == (
        "max-age=31536000" if by_https else "max-age=1")
    assert s.client().ask("/c", theirs).get(name) == "max-age=1"


# ==[ own answers ]================================================================================


def inside(site):
    """What no visitor may read."""
    return re.compile(rb"(?i)rproxy|bearssl|127\.0\.0\.|10\.9\.9\.|secret|inner|"
                      + b"|".join(str(p).encode() for p in site))


@pytest.mark.release
@WAYS
def test_own_answers_name_nothing_inside(proxy, backend, certs, way, tmp_path):
    secret = dead_port()
    silent = backend(lambda conn: conn.rest())
    broken = backend(says(b"secret inner nonsense\r\n\r\n"))
    users = tmp_path / "users"
    users.write_text("ann:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n")
    s = Site(proxy, certs, way, [
        f"app.test/dead=http://127.0.0.1:{secret} plain",
        f"app.test/silent={silent.url} plain response-timeout=300ms",
        f"app.test/broken={broken.url} plain",
        f"app.test/wake=http://127.0.0.1:{secret} wake=00:11:22:33:44:55@127.0.0.1 plain",
        "app.test/denied=http://10.9.9.9 allow=10.9.9.9 plain",
        f"app.test/auth=http://10.9.9.9 auth={users} plain",
        "app.test/rate=status:204 rate=1/s:1 plain",
        "app.test/small=http://10.9.9.9 body-max=1 plain",
        "app.test/go=redirect:https://elsewhere.test/{uri} plain",
        *[f"app.test/s{n}=status:{n} plain" for n in (400, 403, 404, 410, 500, 502, 503, 504)],
    ], head_timeout="500ms", connect_timeout="500ms")
    pattern = inside([secret, silent.port, broken.port, s.proxy.process.pid])
    seen = set()

    def check(raw, status):
        c = s.client()
        c.send(raw)
        got = c.rest()
        assert got.startswith(b"HTTP/1.1 %d " % status), (raw[:60], got[:200])
        assert not pattern.search(got), got
        assert not re.search(rb"(?im)^server:", got)
        if status >= 400:
            assert b"\r\nContent-Type: text/html; charset=utf-8\r\n" in got
        if status in (502, 503):
            assert b"\r\nRetry-After: " in got
        seen.add(status)
        c.close()

    def ask(target, status, *fields, **kw):
        check(request(target, "Connection: close", *fields, **kw), status)

    ask("/dead", 502)
    ask("/broken", 502)
    ask("/silent", 504)
    ask("/wake", 503)
    ask("/denied", 403)
    ask("/auth", 401)
    ask("/auth", 401, "Authorization: Basic eDp5")
    ask("/rate", 204)
    ask("/rate", 429)
    ask("/small", 413, method="POST", body=b"xx")
    ask("/nowhere", 404)
    ask("/", 421 if way == "https" else 404, host="unknown.test")
    ask("/go/x", 302)
    ask("/", 405, method="TRACE")
    ask("/" + "x" * 9000, 414)
    ask("/", 431, *[f"X-{n}: {'y' * 900}" for n in range(60)])
    ask("/", 505, version="HTTP/3.0")
    check(request("app.test:1", method="CONNECT"), 501)
    check(b"nonsense\r\n\r\n", 400)
    check(b"GET / HT", 408)
    for n in (400, 403, 404, 410, 500, 502, 503, 504):
        ask(f"/s{n}", n)
    assert {400, 401, 403, 404, 405, 408, 413, 414, 429, 431, 501, 502, 503, 504, 505} <= seen


@WAYS
def test_an_unknown_host_is_told_what_an_unknown_path_is(proxy, backend, certs, way):
    """404 for both, byte for byte; only a configured path with a dead backend gives 502."""
    s = Site(proxy, certs, way, [f"app.test/x=http://127.0.0.1:{dead_port()} plain",
                                 "*.sub.test/x=status:204 plain"],
             names=["app.test", "*.unknown.test", "*.sub.test"])

    def told(host, target="/"):
        c = s.client(host)
        c.send(request(target, "Connection: close", host=host))
        got = c.rest()
        c.close()
        return re.sub(rb"Date: [^\r]*", b"", got)

    first = told("app.test")
    assert first.startswith(b"HTTP/1.1 404 ")
    for host in ("a.unknown.test", "b.unknown.test", "a.sub.test"):
        assert told(host) == first
    assert told("app.test", "/x").startswith(b"HTTP/1.1 502 ")


def test_a_redirect_to_https_names_the_public_address(proxy, backend, certs):
    b = backend(obedient)
    for public, port in ((None, None), (443, ""), (8443, ":8443")):
        p = proxy(f"app.test={b.url}", https="127.0.0.1:0", cert=certs("app.test").pem,
                  public_port=public)
        port = f":{p.https[0]}" if port is None else port
        answer = p.ask("/a?b", host="APP.test:8080")
        assert (answer.status, answer.get("Location")) == (301, f"https://app.test{port}/a?b")


def test_tls_shows_nothing_to_who_asks_for_no_name_of_ours(proxy, backend, certs):
    """No certificate, only the alert, whether the name is routed or not."""
    p = proxy(f"app.test={backend().url}", f"bare.test={backend().url}", https="127.0.0.1:0",
              cert=certs("app.test").pem,
              expect=[r"rproxy: warning: no certificate covers bare\.test.*"])
    told = set()
    for name in ("unknown.test", "bare.test", "127-0-0-1.test", None):
        out, into = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context()
        context.check_hostname = name is not None
        context.verify_mode = ssl.CERT_NONE if name is None else ssl.CERT_REQUIRED
        tls = context.wrap_bio(into, out, server_hostname=name)
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        told.add(Client(p.https[0], first=out.read()).rest())
    assert told == {b"\x15\x03\x03\0\x02\x02\x70"}  # fatal, unrecognized_name


@pytest.mark.release
def test_the_name_for_the_backend_with_the_port_of_the_target(proxy, backend):
    """As nginx redirects that listens on a port of its own."""
    b = backend(obedient)
    p = proxy(f"app.test={b.url} host=inner.lan")
    for sent, want in ((f"http://inner.lan:{b.port}/x", "http://app.test/x"),
                       ("http://inner.lan/x", "http://app.test/x"),
                       ("http://inner.lan:1/x", "http://inner.lan:1/x")):
        assert p.ask("/", f"X-Say: Location: {sent}").get("Location") == want
