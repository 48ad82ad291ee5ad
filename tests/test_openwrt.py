"""The OpenWrt package: its init script on the router of tests/openwrt, with the real program."""

import base64
import io
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading

import pytest
from cryptography import x509

from harness import BINARY, PATIENCE, ROOT, Client, dead_port, run, wait_for

sys.path.insert(0, str(pathlib.Path(__file__).parent / "openwrt"))
from router import PACKAGE, Router  # noqa: E402

CASES = ROOT / "tests/openwrt"
FEED = ROOT / "configs/openwrt"


@pytest.fixture
def router(tmp_path):
    made = []

    def make(**kw):
        made.append(Router(tmp_path / f"router{len(made)}", **kw))
        return made[-1]

    yield make
    for r in made:
        r.close()


def main(*more, **options):
    """A main section with a listener of each kind on free ports, in `main.http`, `main.https`."""
    main.http, main.https = dead_port(), dead_port()
    lines = ["config rproxy 'main'", "option enabled '1'", f"list http '127.0.0.1:{main.http}'",
             f"list https '127.0.0.1:{main.https}'"]
    lines += [f"option {k} '{v}'" for k, v in options.items()]
    return "\n".join([*lines, *more]) + "\n"


def again(*more, **options):
    """The same ports with something else behind them."""
    http, https = main.http, main.https
    text = main(*more, **options)
    text = text.replace(f":{main.http}'", f":{http}'").replace(f":{main.https}'", f":{https}'")
    main.http, main.https = http, https
    return text


def route(name, host, target, *more):
    return "\n".join([f"config route '{name}'", f"option host '{host}'",
                      f"list target '{target}'", *more]) + "\n"


def cert(domain):
    return f"config cert\noption domain '{domain}'\n"


def to(backend):
    return f"http://127.0.0.1:{backend.port}"


def ask(host, path="/"):
    client = Client(main.http)
    try:
        return client.ask(path, host=host)
    finally:
        client.close()


def number(certificate):
    return x509.load_pem_x509_certificate(pathlib.Path(certificate.chain).read_bytes()).serial_number


def serial(certs, name):
    """The number of the certificate that is shown for a name, None when there is none."""
    try:
        with socket.create_connection(("127.0.0.1", main.https), PATIENCE) as raw:
            with certs.trust().wrap_socket(raw, server_hostname=name) as tls:
                return int(tls.getpeercert()["serialNumber"], 16)
    except OSError:
        return None


# ==[ what UCI says, and what comes of it ]========================================================


@pytest.mark.parametrize("case", sorted(p.stem for p in CASES.glob("*.uci")))
def test_each_example_gives_exactly_this_configuration_and_this_procd_data(router, certs, case):
    r = router(jail=case != "nojail")
    r.uci((CASES / f"{case}.uci").read_text())
    (r.root / "etc/rproxy").mkdir()
    for name, text in (("users", "alice:$2b$04$abcdefghijklmnopqrstuu5LqBzOGQm3Zx1Yz6Q9f4R0V1C2E3G4"),
                       ("sorry.html", "<p>Sorry"), ("own.pem", certs.root.chain.read_text())):
        (r.root / "etc/rproxy" / name).write_text(text + "\n")
    shutil.copy(certs.root.chain, r.root / "etc/ssl/certs/ca-certificates.crt")
    r.set = lambda service: setattr(r, "service", service)  # nothing is run
    r.do("start")
    conf = re.sub(r"(?<=files/)(\w+)-[0-9a-f]{32}", r"\1-MD5", r.bare(r.conf.read_text()))
    got = {"instance": r.instance(), "changed": r.events,
           "log": [" ".join(line) for line in r.log()]}
    if os.environ.get("RP_GOLDEN") == "1":
        (CASES / f"{case}.conf").write_text(conf)
        (CASES / f"{case}.json").write_text(json.dumps(got, indent="\t") + "\n")
    assert conf == (CASES / f"{case}.conf").read_text()
    assert got == json.loads((CASES / f"{case}.json").read_text())
    done = subprocess.run([*BINARY, "--check", "-c", r.conf], capture_output=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


def test_the_example_of_the_readme_is_the_tested_one():
    readme = (ROOT / "README.md").read_text()
    assert (CASES / "home.uci").read_text() in readme


def test_as_shipped_nothing_runs_and_enabling_alone_is_enough(router):
    r = router()
    text = (PACKAGE / "rproxy.config").read_text()
    r.uci(text)
    r.do("start")
    assert not r.running and not r.conf.exists() and not r.log()
    assert ("config.change", "rproxy", 1000, "reload") in r.service.triggers
    r.set = lambda service: setattr(r, "service", service)
    r.uci(text.replace("enabled '0'", "enabled '1'"))
    r.do("reload")
    assert r.bare(r.conf.read_text()).splitlines()[1:] == [
        "http 8080", "https 8443", "status 9180", "public-port 443", "default 404",
        "log-level warn", "drain-timeout 4s", "log stderr", "cert-dir /var/run/rproxy/tls",
        "acme-dir /var/run/acme/challenge"]
    assert not r.log()


def test_reloads_after_changes_of_uci_and_of_certificates(router):
    r = router()
    r.uci(main())
    r.do("start")
    assert sorted(r.service.triggers, key=str) == [
        ("acme.issue", None, 5000, "reload"), ("acme.renew", None, 5000, "reload"),
        ("config.change", "rproxy", 1000, "reload")]


def test_a_value_reaches_the_program_byte_for_byte(router, backend):
    server = backend()
    r = router()
    value = r'''say "a\b" 'c' # $HOME `id` $(id) %41 *;|&<>'''
    r.uci(main() + route("a", "a.test", to(server), 'list set "X-Said: say \\"a\\\\b\\" \'c\' '
                         '# \\$HOME \\`id\\` \\$(id) %41 *;|&<>"'))
    r.do("start")
    assert ask("a.test").status == 200
    assert server.requests[-1].get("X-Said") == value


@pytest.mark.parametrize("options, section", [
    ({}, route("x", "x.test", "http://127.0.0.1:1", "option set 'A:b\nroute *=status:200'")),
    ({}, route("x", "x.test", "http://127.0.0.1:1\nroute *=status:200")),
    ({}, route("x", "x.test\nroute *=status:200", "http://127.0.0.1:1")),
    ({}, route("x", "x.test", "http://127.0.0.1:1", "option path '/a\nroute *=status:200'")),
    ({}, route("x", "x.test", "http://127.0.0.1:1", "option auth '/x\nroute *=status:200'")),
    ({}, route("x", "x.test", "http://127.0.0.1:1", "list allow '::1\nroute *=status:200'")),
    ({}, route("x", 'x.test=status:200 set="', "http://127.0.0.1:1")),
    ({"default": "404\nroute *=status:200"}, ""),
    ({"log": "none\nroute *=status:200"}, ""),
    ({}, "config rproxy 'second'\nlist http '1'\n"
         + route("x", "*", "http://127.0.0.1:1", "option rate '1\nroute *=status:200'")),
], ids=["set", "target", "host", "path", "auth", "allow", "quote", "default", "log", "rate"])
def test_no_value_can_write_a_line_of_its_own(router, options, section):
    r = router()
    r.uci(main(**options) + section)
    r.do("start")
    lines = r.conf.read_text().splitlines() if r.conf.exists() else []
    assert not [s for s in lines if s.startswith("route ") and "=status:503" not in s]
    assert len(r.log()) == 1


# ==[ while it runs ]==============================================================================


def test_starts_without_a_certificate_takes_it_up_and_takes_up_its_renewal(router, backend, certs):
    r, server = router(), backend()
    r.uci(main() + cert("a.test") + route("a", "a.test", to(server)))
    r.do("start")
    process = r.process
    process.said("rproxy: ready")
    assert [p for p, _ in r.log()] == ["daemon.notice"]
    assert serial(certs, "a.test") is None and ask("a.test").status == 200

    one, two = certs("a.test"), certs("a.test", "b.test")
    kept = Client(main.http)
    assert kept.ask("/", host="a.test").status == 200
    r.acme("a.test", one)
    assert r.fire("acme.issue")
    process.said("reloaded")
    assert serial(certs, "a.test") == number(one)
    r.acme("a.test", two)
    assert r.fire("acme.renew")
    process.said("reloaded", times=2)
    assert serial(certs, "a.test") == number(two)
    assert r.process is process and not r.log()
    assert kept.ask("/", host="a.test").status == 301  # the very connection of before
    kept.close()


def test_copies_are_for_root_and_the_group_of_rproxy_alone(router, certs):
    r = router()
    r.uci(main() + cert("a.test") + cert("*.b.test"))
    r.acme("a.test", certs("a.test"))
    r.acme("*.b.test", certs("*.b.test"))
    r.do("start")
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in r.tls.iterdir()}
    assert modes == dict.fromkeys(["a.test.fullchain.crt", "a.test.key", "*.b.test.fullchain.crt",
                                   "*.b.test.key"], 0o640)
    for folder in (r.tls, r.tls.parent, r.tls.parent / "files"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    assert stat.S_IMODE(r.conf.stat().st_mode) == 0o640
    r.uci(again() + cert("*.b.test"))
    assert r.fire("config.change", "rproxy")
    assert sorted(p.name for p in r.tls.iterdir()) == ["*.b.test.fullchain.crt", "*.b.test.key"]


def test_half_a_renewal_changes_nothing_until_it_is_whole(router, certs):
    r = router()
    one, two = certs("a.test"), certs("a.test", "b.test")
    r.uci(main() + cert("a.test"))
    r.acme("a.test", one)
    r.do("start")
    key = r.root / "etc/ssl/acme/a.test.key"
    key.write_bytes(pathlib.Path(two.key).read_bytes())
    r.fire("acme.renew")
    ((priority, text),) = r.log()
    assert priority == "daemon.err" and "cert 'a.test' left out" in text
    assert text.endswith("; the one before serves on")
    assert serial(certs, "a.test") == number(one)
    r.acme("a.test", two)
    r.fire("acme.renew")
    r.process.said("reloaded")
    assert serial(certs, "a.test") == number(two)
    r.acme("a.test")  # and when the files are taken away altogether
    r.do("reload")
    assert serial(certs, "a.test") == number(two)


def test_a_route_added_is_served_by_the_same_process(router, backend):
    r, server = router(), backend()
    r.uci(main() + route("a", "a.test", to(server)))
    r.do("start")
    process = r.process
    assert ask("b.test").status == 404
    r.uci(again() + route("a", "a.test", to(server)) + route("b", "b.test", to(server)))
    assert r.fire("config.change", "rproxy")
    process.said("reloaded")
    assert ask("a.test").status == ask("b.test").status == 200
    assert r.process is process and not r.log()
    r.do("reload")  # nothing changed: not even a signal
    r.do("start")
    assert len([s for s in process.lines if "reloaded" in s]) == 1


@pytest.mark.parametrize("bad, why", [
    (route("bad", "bad.test", "ftp://10.0.0.1"), 'target "ftp://10.0.0.1" fits none of'),
    (route("bad", "bad.test", "http://10.0.0.1", "list allow '10.0.0.1/8'"), "has bits set"),
    (route("bad", "bad.test", "http://10.0.0.1", "option auth '/etc/none'"), "/etc/none can't be"),
    (route("bad", "bad.test", "unix:/tmp/x"), "option jail '0'"),
    (route("bad", "a.test", "http://10.0.0.1"), "is there twice; the other is route a"),
    (route("bad", "http://bad.test", "http://10.0.0.1"), "without http://"),
    (route("bad", "bad test", "http://10.0.0.1", "option path 'x y'"), "blanks"),
    ("config route 'bad'\noption host 'bad.test'\n", "has no target"),
    ("config route 'bad'\nlist target 'http://10.0.0.1'\n", None),
], ids=["scheme", "range", "auth", "unix", "twice", "url", "blanks", "targetless", "hostless"])
def test_a_bad_route_is_left_out_with_one_line_and_the_others_are_served(router, backend, bad, why):
    r, server = router(), backend()
    r.uci(main() + route("a", "a.test", to(server)))
    r.do("start")
    process = r.process
    r.uci(again() + route("a", "a.test", to(server)) + bad + route("b", "b.test", to(server)))
    r.do("reload")
    said = r.log()
    assert len(said) == 1 and said[0][0] == "daemon.err" and "route 'bad'" in said[0][1], said
    assert (why or "has no host") in said[0][1]
    process.said("reloaded")
    assert ask("a.test").status == ask("b.test").status == 200
    assert ask("bad.test").status == 404


def test_what_a_bad_route_would_have_guarded_is_not_served_by_a_wider_one(router, backend):
    r, server = router(), backend()
    r.uci(main() + route("all", "a.test", to(server)) + route("wild", "*.w.test", to(server))
          + route("door", "a.test", to(server), "option path '/admin'", "list allow 'nonsense'")
          + route("name", "x.w.test", to(server), "option auth '/etc/none'")
          + route("lone", "lone.test", to(server), "option rate 'fast'"))
    r.do("start")
    assert len(r.log()) == 3
    assert ask("a.test").status == ask("b.w.test").status == 200
    assert ask("a.test", "/admin/x").status == ask("x.w.test").status == 503
    assert ask("lone.test").status == 404


def test_an_unknown_option_is_said_and_the_rest_of_its_section_counts(router, backend):
    r, server = router(), backend()
    r.uci(main(enable="1") + route("a", "a.test", to(server), "option hots '1'"))
    r.do("start")
    assert [t for _, t in r.log()] == ["main 'main': there is no option 'enable'; it is not used",
                                       "route 'a': there is no option 'hots'; it is not used"]
    assert ask("a.test").status == 200


@pytest.mark.parametrize("wrong", [{"default": "maybe"}, {"trust": "everybody"},
                                   {"max_conns": "many"}, {"head_timeout": "soon"},
                                   {"log_level": "loud"}])
def test_a_main_section_that_is_refused_keeps_what_runs_and_starts_nothing(router, backend, wrong):
    r, server = router(), backend()
    r.uci(main(**wrong) + route("a", "a.test", to(server)))
    r.do("start")
    assert not r.running
    ((priority, text),) = r.log()
    assert priority == "daemon.err" and text.endswith("; not started")
    r.uci(again() + route("a", "a.test", to(server)))
    r.do("reload")
    process, before = r.process, r.conf.read_text()
    process.said("rproxy: ready")
    r.uci(again(**wrong) + route("b", "b.test", to(server)))
    r.do("reload")
    ((priority, text),) = r.log()
    assert priority == "daemon.err" and text.endswith("; the configuration before is kept")
    assert r.process is process and r.conf.read_text() == before
    r.do("restart")  # not even then
    r.process.said("rproxy: ready")
    assert ask("a.test").status == 200 and len(r.log()) == 1


def test_certificates_are_renewed_while_the_rest_is_refused(router, certs):
    r = router()
    one, two = certs("a.test"), certs("a.test", "b.test")
    r.uci(main() + cert("a.test"))
    r.acme("a.test", one)
    r.do("start")
    r.uci(again(default="maybe") + cert("a.test"))
    r.acme("a.test", two)
    r.fire("acme.renew")
    r.process.said("reloaded")
    assert serial(certs, "a.test") == number(two)


def test_disabling_it_stops_it_and_leaves_nothing_behind(router, backend, certs):
    r, server = router(), backend()
    r.uci(main(open_wan="1") + cert("a.test") + route("a", "a.test", to(server)))
    r.acme("a.test", certs("a.test"))
    r.do("start")
    process = r.process
    process.said("rproxy: ready")
    assert r.events == ["firewall"]
    r.uci(again(enabled="0") + route("a", "a.test", to(server)))
    assert r.fire("config.change", "rproxy")
    assert process.poll() == 0 and not r.running
    assert not list(r.tls.parent.iterdir()) and r.events == ["firewall"] * 2
    r.uci(again(open_wan="1") + route("a", "a.test", to(server)))
    assert r.fire("config.change", "rproxy"), "it still listens for changes"
    r.process.said("rproxy: ready")
    assert ask("a.test").status == 200
    r.do("stop")
    assert not r.running and r.events == ["firewall"] * 4


def test_a_password_file_is_copied_and_a_changed_one_taken_up(router, backend):
    r, server = router(), backend()
    users = r.root / "etc/users"
    users.write_text("alice:{SHA}" + base64.b64encode(bytes(20)).decode() + "\n")
    text = route("a", "a.test", to(server), "option auth '/etc/users'")
    r.uci(main() + text)
    r.do("start")
    process = r.process
    (copy,) = (r.root / "var/run/rproxy/files").iterdir()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o640 and ask("a.test").status == 401
    users.write_text("bob:{SHA}" + base64.b64encode(bytes(20)).decode() + "\n")
    r.do("reload")
    process.said("reloaded")
    (other,) = (r.root / "var/run/rproxy/files").iterdir()
    assert other != copy and other.read_text() == users.read_text() and not r.log()
    users.unlink()
    r.do("reload")
    ((_, text),) = r.log()
    assert "route 'a' (a.test) left out" in text and ask("a.test").status == 404


# ==[ other ground ]===============================================================================

NETSTAT = """Active Internet connections (only servers)
Proto Recv-Q Send-Q Local Address           Foreign Address         State       PID/Program name
tcp        0      0 127.0.0.1:9000          0.0.0.0:*               LISTEN      801/other
tcp        0      0 {v4}:80              0.0.0.0:*               LISTEN      1234/uhttpd
tcp        0      0 :::443                  :::*                    LISTEN      1234/uhttpd
tcp        0      0 0.0.0.0:8080            0.0.0.0:*               LISTEN      77/rproxy
"""


@pytest.mark.parametrize("listen, other, taken", [
    ("80", "0.0.0.0", "80"), ("443", "0.0.0.0", "443"), ("192.168.1.1:80", "0.0.0.0", "80"),
    ("192.168.1.1:80", "192.168.1.1", "80"), ("192.168.1.1:80", "127.0.0.1", None),
    ("[::1]:443", "0.0.0.0", "443"), ("8080", "0.0.0.0", None), ("81", "0.0.0.0", None)])
def test_a_port_in_use_is_one_line_that_names_port_and_program(router, listen, other, taken):
    r = router()
    r.set = lambda service: setattr(r, "service", service)
    (r.root / "netstat").write_text(NETSTAT.format(v4=other))
    r.uci(f"config rproxy main\noption enabled 1\nlist http {listen}\n")
    r.do("start")
    said = r.log()
    if taken is None:
        assert not said and r.service.instances
    else:
        ((priority, text),) = said
        assert priority == "daemon.err" and f"port {taken} is taken by uhttpd" in text
        assert not r.service.instances


def test_a_port_in_use_keeps_the_listeners_that_run(router, backend):
    r, server = router(), backend()
    r.uci(main() + route("a", "a.test", to(server)))
    r.do("start")
    process = r.process
    process.said("rproxy: ready")
    (r.root / "netstat").write_text(NETSTAT.format(v4="0.0.0.0"))
    r.uci(again("list http '80'") + route("b", "b.test", to(server)))
    r.do("reload")
    ((_, text),) = r.log()
    assert text == ("port 80 is taken by uhttpd: give it another port there, or rproxy another one "
                    "here; the configuration before is kept")
    assert r.process is process and ask("a.test").status == 200


def test_without_ujail_it_starts_as_root_and_gives_that_up_itself(router):
    r = router(jail=False)
    r.set = lambda service: setattr(r, "service", service)
    r.uci(main())
    r.do("start")
    assert "user rproxy" in r.bare(r.conf.read_text()).splitlines()
    assert not {"jail", "user", "group", "capabilities", "no_new_privs"} & set(r.instance())
    assert not r.log()


def restarts(r):
    """Whether the next reload goes by way of a stop."""
    seen = []
    r.set = lambda service: seen.append(bool(service.instances))
    r.do("reload")
    return seen == [False, True]


def test_what_a_signal_cannot_change_restarts_it_and_says_so(router):
    r = router(jail=False)
    r.set = lambda service: None
    text = "config rproxy main\noption enabled 1\nlist http 8080\n"
    r.uci(text)
    r.do("start")
    assert not restarts(r)
    r.uci(text + "list http 80\n")  # below 1024, and no longer root
    assert restarts(r) and "restart" in r.log()[0][1]
    r.uci(text + "list http 80\nlist http 8081\n")
    assert not restarts(r)
    r.program("sbin/ujail", "exit 1")  # the package procd-ujail was installed
    assert restarts(r)
    r.uci(text + "list http 80\nlist https 443\n")  # in the jail it has the capability
    assert not restarts(r)
    r.uci(text + "option jail 0\n")
    assert restarts(r)


class Jailed:
    """The instance as ujail would run it. Who is not root stays himself."""

    def __init__(self, r, folder):
        (raw,) = r.service.instances.values()
        assert set(raw["jail"]["mount"].values()) == {"0"}
        uid, jail = (NOBODY if os.geteuid() == 0 else 0), folder / "jail"
        jail.mkdir()
        shutil.copy(ROOT / "build/rproxy", jail / "rproxy")  # static: it needs no other file
        self.outer = subprocess.Popen(
            ["unshare", *([] if uid else ["--map-root-user"]), "--mount", "--pid", "--fork",
             sys.executable, CASES / "jail.py", jail, "/rproxy",
             raw["command"][-1], str(uid), *raw["jail"]["mount"]],
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.lines = []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        children = pathlib.Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children")
        self.pid = int(wait_for(children.read_text, "a process in the jail"))

    def read(self):
        for line in self.outer.stderr:
            self.lines.append(line)

    def said(self, text):
        wait_for(lambda: any(text in s for s in self.lines) or self.outer.poll() is not None, text)
        assert self.outer.poll() is None, self.lines

    def close(self):
        if self.outer.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self.outer.wait(PATIENCE)
        self.reader.join(PATIENCE)
        self.outer.stderr.close()


NOBODY = 65534


def test_in_the_jail_it_is_process_one_and_reloads_with_the_one_right_it_has(router, backend,
                                                                             certs, tmp_path):
    r, server = router(), backend()
    r.set = lambda service: setattr(r, "service", service)
    if os.geteuid() == 0:
        r.program("bin/chgrp", f'exec {shutil.which("busybox")} chgrp {NOBODY} "$2"')
    r.uci(main() + cert("a.test") + route("a", "a.test", to(server)))
    r.do("start")
    assert [p for p, _ in r.log()] == ["daemon.notice"]
    j = Jailed(r, tmp_path)
    try:
        j.said("rproxy: ready")
        status = pathlib.Path(f"/proc/{j.pid}/status").read_text()
        assert re.search(r"^NSpid:\s+\d+\s+1$", status, re.M)
        assert {f"Cap{k}:\t0000000000000400" in status
                for k in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {True}
        assert "NoNewPrivs:\t1" in status
        assert ask("a.test").status == 200 and serial(certs, "a.test") is None
        low = next(p for p in range(700, 1024) if free(p)) if os.geteuid() == 0 else dead_port()
        r.acme("a.test", certs("a.test"))
        (r.root / "var/run/acme/challenge/token").write_text("proof")
        r.uci(again(f"list http '127.0.0.1:{low}'") + cert("a.test")
              + route("a", "a.test", to(server)) + route("b", "b.test", to(server)))
        r.do("reload")
        assert not r.log()
        os.kill(j.pid, signal.SIGHUP)
        j.said("reloaded")
        assert serial(certs, "a.test") == number(certs("a.test"))
        assert ask("b.test").status == 200
        assert ask("x.test", "/.well-known/acme-challenge/token").body == b"proof"
        client = Client(low)
        assert client.ask("/", host="b.test").status == 200
        client.close()
        os.kill(j.pid, signal.SIGTERM)
        assert j.outer.wait(PATIENCE) == 0
        assert not [s for s in j.lines if "failed" in s or "can't" in s]
    finally:
        j.close()


def free(port):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False


# ==[ the package ]================================================================================


def test_every_script_passes_shellcheck():
    scripts = [PACKAGE / "rproxy.init", CASES / "rc.common", FEED / "rproxy/test.sh",
               FEED / "luci-app-rproxy/root/usr/libexec/rpcd/luci.rproxy"]
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True,
                          timeout=6 * PATIENCE)
    assert done.returncode == 0, done.stdout


def test_the_jail_is_given_one_capability():
    sets = json.loads((PACKAGE / "rproxy.capabilities.json").read_text())
    assert sets == dict.fromkeys(["bounding", "effective", "ambient", "permitted", "inheritable"],
                                 ["CAP_NET_BIND_SERVICE"])


def member(archive, name):
    return archive.extractfile(name).read()


def listing(data):
    """{path: (mode, text)} of the files of a tar.gz, all of them root's and of the same second."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        assert {(m.uid, m.gid, m.mtime) for m in tar} == {(0, 0, 7)}
        assert {oct(m.mode) for m in tar if m.isdir()} == {"0o755"}
        return {m.name[1:]: (oct(m.mode), tar.extractfile(m).read().decode("latin-1"))
                for m in tar if m.isfile()}


def pack(package, program, out):
    """The package as `make ipk` packs it: its own name, then the files of control and of data."""
    subprocess.run(["make", "-s", "-C", FEED / package, f"TOPDIR={FEED}/ipk", f"OUT={out}",
                    "ARCH=mips_24kc", f"PROGRAM={program}", "STAMP=7", "ipk"], check=True,
                   timeout=6 * PATIENCE, stdout=subprocess.DEVNULL)
    (file,) = out.glob(f"{package}_*.ipk")
    with tarfile.open(file) as tar:
        assert tar.getnames() == ["./debian-binary", "./control.tar.gz", "./data.tar.gz"]
        assert member(tar, "./debian-binary") == b"2.0\n"
        return (file, listing(member(tar, "./control.tar.gz")),
                listing(member(tar, "./data.tar.gz")))


def fields(control):
    return dict(line.split(": ", 1) for line in control["/control"][1].splitlines())


def test_the_ipk_holds_what_the_package_installs(tmp_path):
    program = tmp_path / "program"
    program.write_text("the program")
    file, control, data = pack("rproxy", program, tmp_path / "one")
    assert file.name == "rproxy_0.1.0-r1_mips_24kc.ipk"
    assert {k: mode for k, (mode, _) in data.items()} == {
        "/usr/sbin/rproxy": "0o755", "/etc/init.d/rproxy": "0o755", "/etc/config/rproxy": "0o600",
        "/etc/capabilities/rproxy.json": "0o644", "/lib/upgrade/keep.d/rproxy": "0o644"}
    assert data["/usr/sbin/rproxy"][1] == "the program"
    assert data["/etc/init.d/rproxy"][1].encode("latin-1") == (PACKAGE / "rproxy.init").read_bytes()
    assert {k: mode for k, (mode, _) in control.items()} == {
        "/control": "0o644", "/conffiles": "0o644", "/postinst": "0o755",
        "/postinst-pkg": "0o755", "/prerm": "0o755"}
    assert control["/conffiles"][1] == "/etc/config/rproxy\n"
    assert "/etc/init.d/rproxy restart" in control["/postinst-pkg"][1]
    got = fields(control)
    assert got["Package"] == "rproxy" and got["Architecture"] == "mips_24kc"
    assert got["Require-User"] == "rproxy:rproxy" and got["Depends"] == "libc"
    again, _, _ = pack("rproxy", program, tmp_path / "two")
    assert again.read_bytes() == file.read_bytes()


def test_the_ipk_of_the_page_holds_menu_rights_and_view(tmp_path):
    _, control, data = pack("luci-app-rproxy", "", tmp_path)
    assert {k: mode for k, (mode, _) in data.items()} == {
        "/usr/share/luci/menu.d/luci-app-rproxy.json": "0o644",
        "/usr/share/rpcd/acl.d/luci-app-rproxy.json": "0o644",
        "/usr/libexec/rpcd/luci.rproxy": "0o755",
        "/www/luci-static/resources/view/rproxy.js": "0o644"}
    got = fields(control)
    assert got["Architecture"] == "all" and "rproxy" in got["Depends"].split(", ")


def test_the_recipes_obey_the_rules_of_the_feed():
    version = re.search(r'RP_VERSION "(.*)"', (ROOT / "rproxy.h").read_text())[1]
    text = (FEED / "rproxy/Makefile").read_text()
    value = dict(re.findall(r"^(PKG_\w+):=(.*)$", text, re.M))
    assert value["PKG_VERSION"] == version and value["PKG_LICENSE"] == "MIT"
    assert value["PKG_SOURCE"].replace("$(PKG_VERSION)", version) == f"rproxy-{version}.tar.gz"
    assert re.fullmatch("skip|[0-9a-f]{64}", value["PKG_HASH"])
    assert {"PKG_NAME", "PKG_RELEASE", "PKG_SOURCE_URL", "PKG_MAINTAINER", "PKG_LICENSE_FILES",
            "PKG_BUILD_FLAGS"} <= set(value)
    for recipe in (text, (FEED / "luci-app-rproxy/Makefile").read_text()):
        assert not re.search(r"^(define|\$\(eval).*\$\(PKG_NAME\)", recipe, re.M)
        assert "call BuildPackage" in recipe  # what the feed's scripts look for
    for name in value["PKG_LICENSE_FILES"].split():
        assert (ROOT / name.replace("bearssl/LICENSE.txt", "LICENSE")).exists()


def test_the_feed_test_accepts_the_program_and_refuses_another_version(tmp_path):
    (tmp_path / "rproxy").write_text(f'#!/bin/sh\nexec {shlex.join(BINARY)} "$@"\n')
    (tmp_path / "rproxy").chmod(0o755)

    def status(*args):
        return subprocess.run([FEED / "rproxy/test.sh", *args], capture_output=True,
                              timeout=6 * PATIENCE,
                              env={"PATH": f"{tmp_path}:/usr/bin:/bin"}).returncode

    version = run("--version")[1].split()[1]
    assert status("rproxy", version) == status("rproxy", f"{version}-r1") == 0
    assert status("rproxy", "9.9.9") == 1
    assert status("luci-app-rproxy", "1") == 0
