"""The host table: which route serves a request, and what its settings do."""

import pytest

from harness import TROUBLE, dead_port, reply, request, says


def naming(name):
    """A backend that says who it is and what it was asked."""
    def handler(conn):
        while True:
            r = conn.request()
            if not r:
                return
            conn.send(reply(200, body=f"{name} {r.target} {r.get('Host')}".encode()))
    return handler


@pytest.fixture
def table(proxy, backend):
    """table("a.test", "*.b.test/x"): a proxy whose backends are named by what routes to them."""
    def make(*routes, **options):
        return proxy(*(f"{r.split()[0]}={backend(naming(r.split()[0])).url} "
                       + " ".join(r.split()[1:]) for r in routes), **options)
    return make


def served(p, host, target="/"):
    answer = p.ask(target, host=host)
    return answer.body.decode().split()[0] if answer.status == 200 else answer.status


@pytest.mark.release
def test_hosts(table):
    p = table("a.test", "b.a.test", "*.a.test", "*.c.a.test", "*.b.test")
    for host, route in {
            "a.test": "a.test", "b.a.test": "b.a.test",
            "x.a.test": "*.a.test", "x.y.a.test": "*.a.test",
            "c.a.test": "*.a.test", "x.c.a.test": "*.c.a.test", "x.y.c.a.test": "*.c.a.test",
            "x.b.a.test": "*.a.test",
            "x.b.test": "*.b.test", "b.test": 404,  # any name below it, not the name itself
            "test": 404, "xa.test": 404, "a.test.evil": 404, "127.0.0.1": 404,
    }.items():
        assert served(p, host) == route, host


def test_any_host(table):
    p = table("a.test", "*.a.test", "*")
    for host, route in {"a.test": "a.test", "x.a.test": "*.a.test", "other": "*",
                        "127.0.0.1": "*", "[::1]:80": "*", "b.c.d.e": "*"}.items():
        assert served(p, host) == route, host


@pytest.mark.release
@pytest.mark.parametrize("host", ["A.TEST", "a.Test.", "a.test:80", "a.test:65535", "A.test.:8080"])
def test_case_final_dot_and_port_do_not_matter(table, host):
    assert served(table("a.test"), host) == "a.test"


def test_case_and_final_dot_of_the_rule_do_not_matter(table):
    p = table("A.Test", "*.B.test")
    assert served(p, "a.test") == "A.Test"
    assert served(p, "x.b.test") == "*.B.test"


@pytest.mark.release
def test_paths_match_whole_segments_and_the_longest_wins(table):
    p = table("a.test", "a.test/app", "a.test/app/deep", "a.test/other/")
    for target, route in {
            "/": "a.test", "/ap": "a.test", "/application": "a.test", "/app-2": "a.test",
            "/app": "a.test/app", "/app/": "a.test/app", "/app?q": "a.test/app",
            "/app/x": "a.test/app", "/app/deepest": "a.test/app",
            "/app/deep": "a.test/app/deep", "/app/deep/": "a.test/app/deep",
            "/app/deep/x?y": "a.test/app/deep", "/x/app": "a.test",
            "/other/": "a.test/other/", "/other/x": "a.test/other/",
    }.items():
        assert served(p, "a.test", target) == route, target


def test_a_host_with_paths_only(table):
    p = table("a.test/app", "*.test")
    assert served(p, "a.test", "/app/x") == "a.test/app"
    assert served(p, "a.test", "/") in (404, "*.test")


def test_path_of_the_request_is_kept_without_strip(table):
    assert table("a.test/app").ask("/app/x?y=z", host="a.test").body == b"a.test/app /app/x?y=z a.test"


@pytest.mark.release
@pytest.mark.parametrize("target, seen", [
    ("/app/x/y?z=1", "/x/y?z=1"), ("/app/", "/"), ("/app", "/"), ("/app?q=1", "/?q=1")])
def test_strip(table, target, seen):
    p = table("a.test/app strip")
    assert p.ask(target, host="a.test").body.decode().split()[1] == seen


@pytest.mark.parametrize("setting, seen", [
    ("", "a.test:99"), ("host=keep", "a.test:99"), ("host=inner.lan", "inner.lan"),
    ("host=target", None)])
def test_host_for_the_backend(proxy, backend, setting, seen):
    b = backend()
    p = proxy(f"a.test={b.url} {setting}")
    assert p.ask(host="a.test:99").status == 200
    assert b.requests[0].get("Host") == (seen or b.address)
    assert b.requests[0].get("X-Forwarded-Host") == "a.test:99"


@pytest.mark.release
def test_redirect_target(proxy):
    p = proxy("a.test=redirect:https://b.test/new")
    answer = p.ask("/x?y", host="a.test")
    assert answer.status in (301, 302, 307, 308)
    assert answer.get("Location") == "https://b.test/new"
    assert p.access()[0].reason == "redirect"


@pytest.mark.parametrize("code", [403, 404, 410, 503])
def test_status_target(proxy, code):
    p = proxy(f"a.test=status:{code}")
    client = p.client()
    for _ in range(2):
        assert client.ask(host="a.test").status == code


def test_a_path_can_be_closed(proxy, backend):
    b = backend()
    p = proxy(f"a.test={b.url}", "a.test/admin=status:403")
    assert p.ask("/admin/x", host="a.test").status == 403
    assert p.ask("/administrator", host="a.test").status == 200
    assert len(b.requests) == 1


@pytest.mark.release
@pytest.mark.parametrize("code", ["400", "403", "410", "421", "503"])
def test_default_status(proxy, code):
    p = proxy("a.test=status:410", default=code)
    assert p.ask(host="none.test").status == int(code)
    assert p.access()[0].reason == "no-route"


def test_default_drop(proxy):
    p = proxy("a.test=status:410", default="drop")
    client = p.client()
    client.send(request(host="none.test"))
    assert client.rest() == b""
    assert p.access()[0].reason == "no-route"
    assert p.ask(host="a.test").status == 410


def test_default_redirect(proxy):
    p = proxy("a.test=status:410", default="https://www.test/")
    answer = p.ask("/x", host="none.test")
    assert answer.status in (301, 302, 307, 308)
    assert answer.get("Location") == "https://www.test/"


def test_no_route_at_all(proxy):
    client = proxy().client()
    assert [client.ask(host="a.test").status for _ in range(2)] == [404, 404]


@pytest.mark.parametrize("field", ["Location", "Content-Location"])
def test_addresses_of_targets_come_out_public(proxy, backend, field):
    b, other = backend(), backend()
    p = proxy(f"a.test={b.url}", f"o.test={other.url}")
    for inner, outer in {
            f"{b.url}/login?x=1#y": "http://a.test/login?x=1#y",
            f"HTTP://{b.address}/login": "http://a.test/login",
            f"{other.url}/q": "http://o.test/q",
            "/relative": "/relative", "https://elsewhere.test/z": "https://elsewhere.test/z",
            "http://10.9.8.7/secret": "http://10.9.8.7/secret",  # no target of ours
    }.items():
        b.handler = says(reply(302, f"{field}: {inner}", "Connection: close"), close=True)
        assert p.ask(host="a.test").get(field) == outer


@pytest.mark.release
@pytest.mark.parametrize("came, said, shown", [
    # A server that listens on a port of its own and shows it (nginx), or that sees no TLS (Apache).
    ("https", "http://{host}:{port}/dir/", "https://{host}:{public}/dir/"),
    ("https", "https://{host}:{port}/dir/", "https://{host}:{public}/dir/"),
    ("https", "//{host}:{port}/dir/", "https://{host}:{public}/dir/"),
    ("https", "http://{host}:{public}/dir/", "https://{host}:{public}/dir/"),
    ("https", "http://localhost:{port}/dir/", "https://{host}:{public}/dir/"),
    ("http", "http://{host}:{port}/dir/", "http://{host}:{public}/dir/"),
    ("http", "http://localhost:{port}/dir/", "http://{host}:{public}/dir/"),
    # What may be meant as it is said.
    ("https", "https://{host}:{public}/dir/", "https://{host}:{public}/dir/"),
    ("https", "https://{host}/dir/", "https://{host}/dir/"),
    ("https", "http://{host}/dir/", "http://{host}/dir/"),
    ("https", "http://localhost/dir/", "http://localhost/dir/"),
    ("https", "http://{host}:9/dir/", "http://{host}:9/dir/"),
    ("https", "http://other.test:{public}/", "http://other.test:{public}/"),
    ("http", "https://{host}/dir/", "https://{host}/dir/"),
    ("http", "https://{host}:{port}/dir/", "https://{host}:{port}/dir/"),
    ("http", "https://{host}:{public}/dir/", "https://{host}:{public}/dir/"),
    ("http", "http://{host}:{public}/dir/", "http://{host}:{public}/dir/")])
def test_a_backend_that_names_itself_as_it_sees_itself(proxy, backend, certs, came, said, shown):
    b = backend()
    p = proxy(f"a.test={b.url} plain", https="127.0.0.1:0", cert=certs("a.test").pem)
    public = (p.https if came == "https" else p.http)[0]
    where = {"host": "a.test", "port": b.port, "public": public}
    b.handler = says(reply(302, "Location: " + said.format(**where)))
    client = p.client("a.test" if came == "https" else None)
    answer = client.ask(host=f"A.test:{public}")
    assert answer.get("Location") == shown.format(**where)
    answer = client.ask(host=f"A.test:{public}", method="POST", body=b"x" * 50000)
    assert answer.get("Location") == shown.format(**where)


def test_the_address_that_comes_out_public_has_the_prefix_that_was_taken_off(proxy, backend):
    b = backend()
    p = proxy(f"a.test/app={b.url} strip")
    b.handler = says(reply(302, f"Location: http://a.test:{b.port}/dir/"))
    assert p.ask("/app/dir", host="a.test").get("Location") == "http://a.test/app/dir/"


def test_refresh_comes_out_public(proxy, backend):
    b = backend()
    b.handler = says(reply(200, f"Refresh: 5; url={b.url}/next", body=b"x"))
    assert proxy(f"a.test={b.url}").ask(host="a.test").get("Refresh") == "5; url=http://a.test/next"


def test_bodies_are_never_changed(proxy, backend):
    b = backend()
    b.handler = says(reply(200, "Content-Type: text/html", body=f"<a href={b.url}>".encode()))
    assert proxy(f"a.test={b.url}").ask(host="a.test").body == f"<a href={b.url}>".encode()


def test_response_fields_hidden_and_added(proxy, backend):
    b = backend(says(reply(200, "X-Powered-By: inner/1.2", "SERVER: inner", "X-Stays: 1", body=b"x")))
    p = proxy(f"a.test={b.url} hide=x-powered-by,Server add-response=X-More:yes set=X-To-App:on")
    answer = p.ask(host="a.test")
    assert (answer.get("X-Powered-By"), answer.get("Server")) == (None, None)
    assert (answer.get("X-Stays"), answer.get("X-More")) == ("1", "yes")
    assert b.requests[0].get("X-To-App") == "on"


@pytest.mark.release
def test_the_next_target_takes_over(proxy, backend):
    b = backend()
    p = proxy(f"a.test=http://127.0.0.1:{dead_port()},{b.url}", expect=[TROUBLE])
    assert [p.ask(host="a.test").status for _ in range(3)] == [200] * 3
    assert p.access(3)[2].upstream.endswith(b.address)


def test_round_robin(proxy, backend):
    one, two = backend(), backend()
    p = proxy(f"a.test={one.url},{two.url} balance=round-robin")
    for _ in range(6):
        assert p.ask(host="a.test").status == 200
    assert (len(one.requests), len(two.requests)) == (3, 3)


def test_in_order_without_balance(proxy, backend):
    one, two = backend(), backend()
    p = proxy(f"a.test={one.url},{two.url}")
    for _ in range(4):
        assert p.ask(host="a.test").status == 200
    assert (len(one.requests), len(two.requests)) == (4, 0)


def test_allow_and_deny(proxy, backend):
    url = backend().url
    p = proxy(f"in.test={url} allow=127.0.0.0/8", f"out.test={url} allow=192.0.2.0/24",
              f"no.test={url} deny=127.0.0.1", f"most.test={url} deny=127.0.0.0/8 allow=127.0.0.1")
    assert [p.ask(host=f"{h}.test").status for h in ("in", "out", "no", "most")] == [
        200, 403, 403, 200]


def test_a_thousand_routes(proxy, backend):
    b = backend()
    p = proxy(*(f"h{i}.test={b.url}" for i in range(1000)))
    assert [p.ask(host=f"h{i}.test").status for i in (0, 499, 999, 1000)] == [200, 200, 200, 404]
