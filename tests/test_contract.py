"""What a user can rely on of the command line, of files and of rules, sentence by sentence: each
test quotes the sentence that it pins. What other files pin is left to them."""

import json
import os
import random
import re
import signal
import socket

import pytest

from harness import COMBINED, PATIENCE, ROOT, Client, run

# A value for each option of the table and each setting of a rule; a new one needs a line here.
OPTIONS = {
    "http": "127.0.0.1:8080", "https": "[::1]:8443", "status": "9180", "public-port": "443",
    "route": "r.test=http://10.0.0.1", "default": "https://www.test/{uri}",
    "cert": "/etc/my certs/a.pem,/etc/my certs/a.key", "cert-dir": "/etc/dir #1",
    "acme-dir": '/srv/"acme"', "default-cert": "www.test", "session-cache": "9",
    "trust": "10.0.0.0/8,cloudflare,fd00::/8", "accept-proxy": "loopback,192.0.2.7/32",
    "user": "nobody:nogroup", "chroot": "/var/empty\\n", "pid-file": "/run/#pid",
    "log": "/var/log/my proxy.log", "log-level": "debug", "log-format": "json", "max-conns": "99",
    "max-conns-per-ip": "0", "head-max": "16k", "body-max": "3g", "head-timeout": "1500ms",
    "idle-timeout": "2m", "connect-timeout": "9s", "response-timeout": "1h", "stall-timeout": "7s",
    "tunnel-timeout": "2d", "drain-timeout": "0"}
SETTINGS = {
    "host": "inner.test:81", "strip": None, "plain": None, "hsts": "300", "allow": "10.0.0.0/8",
    "deny": "10.1.0.0/16,loopback", "auth": "{file}", "rate": "5/s:50", "hide": "Server,X-Inner",
    "set": 'X-A:"b c" # \\d', "add-response": "X-B: 1; x=\u00fc", "balance": "round-robin",
    "check": "/health?x=1", "wake": "00:11:22:33:44:55@10.0.0.255", "verify": "ca", "ca": "{file}",
    "send-proxy": "v2", "error-page": "{file}", "body-max": "1m", "response-timeout": "5m",
    "tunnel-timeout": "6h"}
NO_VALUE = {"check", "dump-config", "help", "version"}


def quoted(value):
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.fixture
def conf(tmp_path):
    """conf(text): a file; conf(text, name): one of that name."""
    def make(text, name="rproxy.conf"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
        return path
    return make


def dump(*args):
    status, out, err = run(*args, "--dump-config")
    assert (status, err) == (0, ""), err
    return out


def refused(*args):
    status, out, err = run(*args)
    assert (status, out) == (2, ""), (status, out)
    return err


def table(word):
    return re.findall(r"(?m)^\| `(?:-\w, )?--([a-z-]+)", run(f"--help={word}")[1])


# ==[ the option table ]===========================================================================


def test_the_samples_cover_the_whole_table():
    assert {*OPTIONS, *NO_VALUE, "config"} == set(table("readme"))
    man = run("--help=man")[1]
    rows = re.findall(r"(?m)^\.It Cm ([a-z-]+)(?:$|[=\[])", man[man.index("Settings:"):])
    assert set(SETTINGS) == set(rows)


@pytest.mark.release
@pytest.mark.parametrize("name", OPTIONS)
def test_flag_and_line_are_one_and_the_same(conf, name):
    """"`--http 80` on the command line is `http 80` in a file. `--name=value` and `--name value`
    both work." """
    value, base = OPTIONS[name], ["--http", "127.0.0.1:1"]
    first = dump(*base, f"--{name}", value)
    assert dump(*base, f"--{name}={value}") == first
    assert dump(*base, "-c", conf(f"{name} {quoted(value)}\n")) == first
    assert dump(*base, "-c", conf(f"{name} = {quoted(value)}\n")) == first
    assert dump(*base, "-c", conf(f"\t{name}   {quoted(value)}   # why\r\n\r\n")) == first
    assert re.search(rf"(?m)^{name} ", first)


@pytest.mark.release
def test_dump_config_reproduces_every_option_and_setting(conf, tmp_path):
    """"print the effective configuration as a configuration file that reproduces it, exit 0" """
    file = conf("x", "a file # of mine")
    args = [f"--{n}={v}" for n, v in OPTIONS.items()]
    for name, value in SETTINGS.items():
        if value is None:
            word = name
        else:
            word = f"{name}={quoted(value.format(file=file))}"
        args.append(f"--route={name}.test/p=https://10.0.0.2 {word}")
    args += ["--route=all.test/p=https://10.0.0.3,https://10.0.0.4:9 " + " ".join(
        n if v is None else f"{n}={quoted(v.format(file=file))}" for n, v in SETTINGS.items()),
        f"--route=\"sock.test=unix:{tmp_path}/a b\\\\c\\\"d\"", "--route=tcp.test=tcp://10.0.0.5:443",
        "--route=redirect.test=redirect:https://x.test/{uri}", "--route=status.test=status:410",
        "--cert=/second.pem", "--http=127.0.0.1:8081"]
    first = dump(*args)
    again = conf(first, "again.conf")
    assert dump("-c", again) == first
    for name in OPTIONS:
        assert re.search(rf"(?m)^{name} ", first), name
    for name in SETTINGS:
        assert re.search(rf"(?m)^route {name}\.test.* {name}(=|$)", first), name
    assert len(re.findall("(?m)^cert ", first)) == 2 and len(re.findall("(?m)^http ", first)) == 2


@pytest.mark.release
def test_any_value_survives_the_dump(conf):
    """"values may be "quoted"" """
    rng = random.Random(7)
    values = ["#", "=", '"', "\\", "a\\", '\\"', " ", "  a", "a  ", "a\tb", "a#b", "a #b", "#a", "=a",
              '"a', 'a"', '"a"', "''", "\u00fc \u20ac", "a\\\\b", "-c", "--http", "include x"]
    values += ["".join(rng.choice('a" \\#=\t\u00fc-$`') for _ in range(rng.randint(1, 12)))
               for _ in range(200)]
    first = dump("--http=80", *(f"--cert-dir={v}" for v in values))
    assert dump("-c", conf(first)) == first
    lines = [s[len("cert-dir "):] for s in first.splitlines() if s.startswith("cert-dir ")]
    assert [re.sub(r"\\([\"\\])", r"\1", s[1:-1]) if s.startswith('"') else s
            for s in lines] == values


@pytest.mark.release
def test_files_and_flags_mixed_in_the_order_given(conf):
    """"Flags may be mixed with `-c`; they are applied in the order given." "(repeatable)" """
    a, b = conf("idle-timeout 1s\nhead-max 2k\n", "a"), conf("idle-timeout 2s\n", "b")
    base = ["--http=80"]

    def idle(*args):
        return re.search("(?m)^idle-timeout (.*)$", dump(*base, *args))[1]

    assert idle("-c", a, "-c", b) == "2s"
    assert idle("-c", b, f"--config={a}") == "1s"
    assert idle("--idle-timeout=3s", "-c", b) == "2s"
    assert idle("-c", b, "--idle-timeout=3s") == "3s"
    assert idle("-c", a, "--idle-timeout=3s", f"-c{b}") == "2s"


@pytest.mark.release
def test_includes_are_relative_to_their_file_and_sorted(conf, tmp_path):
    """"`include GLOB` reads more files"; "A relative `include` is relative to its file." """
    main = conf("http 80\ninclude sub/*.conf\ninclude none-such/*.conf\nidle-timeout 9s\n")
    conf("include more/x.conf\nroute b.test=status:404\n", "sub/20.conf")
    conf("route a.test=status:404\n", "sub/10.conf")
    conf("route c.test=status:404\n", "sub/more/x.conf")
    conf("nonsense\n", "sub/30.conf.bak")
    out = dump("-c", main)
    assert re.findall(r"(?m)^route (\w)", out) == ["a", "c", "b"]
    assert "idle-timeout 9s" in out
    err = refused("-c", conf("http 80\ninclude sub/none.conf\n", "2.conf"), "-t")
    assert err == f'{tmp_path}/2.conf:2: "{tmp_path}/sub/none.conf" is not there\n'


@pytest.mark.release
@pytest.mark.parametrize("files", [
    {"a": "include a\n"}, {"a": "include b\n", "b": "include a\n"}, {"a": "include ./a\n"},
    {"a": "include *\n"}, {"a": "include b\n", "b": "include c\n", "c": "include ../x/a\n"}],
    ids=["itself", "round", "other-spelling", "glob", "through-a-folder"])
def test_a_recursive_include_is_refused(conf, files):
    for name, text in files.items():
        path = conf("http 80\n" * (name == "a") + text, f"x/{name}")
    err = refused("-t", "-c", path.parent / "a")
    assert re.search(r"(includes itself|over 8 deep)", err), err


def test_check_opens_no_socket_and_writes_no_file(conf, tmp_path):
    """"check the whole configuration... exit 0 or 2. Opens no socket" """
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        path = conf(f"http 127.0.0.1:{port}\nlog {tmp_path}/log\npid-file {tmp_path}/pid\n")
        assert run("--check", "-c", path) == (0, "", "")
        assert run("-t", "-c", path, "--dump-config")[0] == 0
        assert run("-c", path)[0] == 1  # it would not have started
    assert not (tmp_path / "pid").exists()


def test_a_dump_of_what_is_wrong_is_no_dump(conf):
    err = refused("-c", conf("http 80\nroute x\n"), "--dump-config")
    assert ":2: " in err


def test_help_and_version_come_before_everything_else():
    """nginx, HAProxy and curl answer these whatever else is there."""
    for args in (["--help", "--nonsense"], ["-h", "-c", "/nowhere"], ["-V", "--http=x"]):
        status, out, err = run(*args)
        assert (status, err) == (0, "") and out.startswith(("Usage: rproxy", "rproxy 0.")), args


def test_the_manual_page_is_one_that_formatters_take():
    """`--help=man`: each macro of mdoc(7) at the start of its line, none unknown, lists closed."""
    page = run("--help=man")[1]
    macros = re.findall(r"(?m)^\.(\w+)", page)
    assert set(macros) <= set("Dd Dt Os Sh Nm Nd Op Pp Fl Ar Ql Bl It El Cm Dv Dl Pa Ev Xr".split())
    assert macros.count("Bl") == macros.count("El") > 0
    assert [s for s in macros if s in ("Dd", "Dt", "Os")] == ["Dd", "Dt", "Os"]
    assert all(len(s) < 200 and not s.startswith("'") for s in page.splitlines())
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "SIGNALS", "EXIT STATUS", "EXAMPLES"):
        assert f".Sh {section}" in page


# ==[ listeners ]==================================================================================


def reach(address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as s:
        s.settimeout(PATIENCE)
        return s.connect_ex((address, port)) == 0


@pytest.mark.release
@pytest.mark.parametrize("kind", ["http", "https"])
@pytest.mark.parametrize("asked, four, six", [
    ("0", True, True), ("127.0.0.1:0", True, False), ("[::1]:0", False, True),
    ("0.0.0.0:0", True, False)])
def test_listeners(proxy, certs, kind, asked, four, six):
    """"repeatable; without ADDR both IPv4 and IPv6; IPv6 as `[::1]:80`; port 0 picks a free port";
    "Starting prints each listener with its real port" """
    options = {"http": None, **{kind: [asked, "127.0.0.1:0"]}}
    p = proxy("app.test=status:410", cert=certs("app.test").pem, **options)
    ports = getattr(p, kind)
    assert len(ports) == 2 and all(0 < port < 65536 for port in ports)
    assert (reach("127.0.0.1", ports[0]), reach("::1", ports[0])) == (four, six)
    assert reach("127.0.0.1", ports[1])


@pytest.mark.release
@pytest.mark.parametrize("args", [
    ["--http=80", "--http=80"], ["--http=80", "--https=80"], ["--http=80", "--http=127.0.0.1:80"],
    ["--http=[::1]:80", "--status=80", "--http=127.0.0.1:80"]])
def test_two_listeners_on_one_port_are_refused(args):
    assert "taken by another listener" in refused(*args)


def test_the_same_port_on_two_addresses_is_no_clash():
    dump("--http=127.0.0.1:80", "--http=127.0.0.2:80", "--http=[::1]:80", "--status=127.0.0.3:80")


@pytest.mark.release
def test_public_port_is_the_first_https_listener_unless_told(proxy, certs):
    """"the port visitors use for HTTPS... (left out when 443)" """
    cert = certs("app.test").pem
    p = proxy("app.test=status:410", https=["127.0.0.1:0", "127.0.0.1:0"], cert=cert)
    assert p.ask("/x").get("Location") == f"https://app.test:{p.https[0]}/x"
    p = proxy("app.test=status:410", https="127.0.0.1:0", cert=cert, public_port=443)
    assert p.ask("/x").get("Location") == "https://app.test/x"


# ==[ values ]=====================================================================================


@pytest.mark.release
@pytest.mark.parametrize("value, fits", [
    ("400", True), ("599", True), ("399", False), ("600", False), ("200", False), ("301", False),
    ("drop", True), ("Drop", False), ("https://x.test", True), ("http://x.test/a?b", True),
    ("x.test", False), ("/x", False), ("ftp://x.test", False), ("https://", False),
    ("https://u@x.test/", False), ("https://x.test/{uri}", True), ("https://x.test/{url}", False)])
def test_default(value, fits):
    """"a status code `400`..`599`, `drop`..., or an absolute URL to redirect to" """
    if fits:
        assert f"default {value}\n" in dump("--http=80", f"--default={value}")
    else:
        assert value in refused("--http=80", f"--default={value}")


@pytest.mark.release
@pytest.mark.parametrize("value, shown", [
    ("100ms", "100ms"), ("1000ms", "1s"), ("90s", "90s"), ("60s", "1m"), ("120m", "2h"),
    ("24h", "1d"), ("1d", "1d"), ("5", None), ("5 s", None), ("5S", None), ("s", None), ("1.5s", None),
    ("-1s", None), ("0x5s", None), ("1w", None), ("99999999999999999999s", None), ("1h30m", None)])
def test_times(value, shown):
    """"Times take `ms s m h d`" """
    if shown:
        assert f"idle-timeout {shown}\n" in dump("--http=80", f"--idle-timeout={value}")
    else:
        err = refused("--http=80", f"--idle-timeout={value}")
        assert f'"{value}"' in err and "ms, s, m, h or d" in err


@pytest.mark.release
@pytest.mark.parametrize("value, shown", [
    ("0", "0"), ("1", "1"), ("1024", "1k"), ("1k", "1k"), ("2048k", "2m"), ("1g", "1g"), ("1K", None),
    ("1kb", None), ("1 k", None), ("1t", None), ("k", None), ("-1", None), ("1.5m", None),
    ("18446744073709551616", None), ("17179869184g", None)])
def test_sizes(value, shown):
    """"sizes `k m g`" """
    if shown:
        assert f"body-max {shown}\n" in dump("--http=80", f"--body-max={value}")
    else:
        err = refused("--http=80", f"--body-max={value}")
        assert f'"{value}"' in err and "k, m, g" in err


@pytest.mark.release
def test_every_value_of_the_wrong_kind_is_refused_with_what_fits():
    """"An unknown option, a bad value... is refused before anything starts: exit status 2, the bad
    value quoted, what fits named." """
    fits = {"http": "PORT", "https": "PORT", "status": "PORT", "public-port": "1 to 65535",
            "route": "HOST", "default": "400 to 599", "default-cert": "letters, digits",
            "session-cache": "0 to 65535", "trust": "ADDR", "accept-proxy": "loopback",
            "log-level": "warn", "log-format": "json", "max-conns": "1 to 65535",
            "max-conns-per-ip": "0 to 65535", "head-max": "1k to 60k", "body-max": "1024g"}
    for name in OPTIONS:
        if name in ("cert", "cert-dir", "acme-dir", "user", "chroot", "pid-file", "log"):
            continue  # any text may be a file's name
        err = refused("--http=80", f"--{name}=?!?")
        assert err.startswith(f"rproxy: --{name}: ") and err.count("\n") == 1, err
        assert "?!?" in err and fits.get(name, "number with ms") in err, err


@pytest.mark.release
@pytest.mark.parametrize("rule, other", [
    ("a.test=http://x", "a.test=http://y"), ("a.test=http://x", "A.TEST./=http://y"),
    ("*.a.test=http://x", "*.A.test=http://y"), ("*=http://x", "*=status:404"),
    ("a.test/b=http://x", "a.test/b/=http://y"), ("[::1]=http://x", "[0:0::1]=http://y")])
def test_the_same_host_and_path_twice_is_refused(rule, other):
    assert "there twice" in refused("--http=80", "--route", rule, "--route", other)


@pytest.mark.release
@pytest.mark.parametrize("rule, said", [
    ("a.test=http://x,status:404", "status:404"), ("a.test=status:404,http://x", "status:404"),
    ("a.test=redirect:https://y,http://x", "redirect:"), ("a.test=http://x,redirect:https://y", "redirect:"),
    ("a.test=http://x,tcp://y:1", "tcp://y:1"), ("a.test=http://x:0", "x:0"),
    ("a.test=tcp://x:0", "x:0"), ("a.test=https://[::1]:0", ":0"),
    ("a.test=http://x rate=0/s", "0/s"), ("a.test=http://x rate=5/s:0", "5/s:0"),
    ("a.test=http://x rate=5/m", "5/m")])
def test_what_the_contract_lists_as_refused(rule, said):
    """"Refused too: the same host and path twice, `http:` and `status:` targets mixed, port 0 in a
    target, `rate=0/s`." """
    assert said in refused("--http=80", "--route", rule)


@pytest.mark.release
def test_a_missing_cert_dir_is_a_warning(proxy, tmp_path):
    """"A missing `--cert-dir` is a warning." """
    status, out, err = run("-t", "--https=1", "--cert-dir", tmp_path / "none")
    assert (status, out, err.count("\n")) == (0, "", 1) and str(tmp_path / "none") in err
    p = proxy("app.test=status:410", https="127.0.0.1:0", cert_dir=tmp_path / "none",
              expect=[r"rproxy: .*none.*", "rproxy: warning: no certificate covers app.test.*"])
    assert p.ask().status == 410


@pytest.mark.parametrize("args", [
    ["--log=/nowhere/log"], ["--pid-file=/nowhere/pid"], ["--http=192.0.2.1:1"],
    ["--http=127.0.0.1:0", "--https=192.0.2.1:1"]])
def test_what_keeps_it_from_running_is_exit_status_1(args):
    """"Exit status 1: it could not run" """
    status, out, err = run("--http=127.0.0.1:0", *args)
    assert (status, out) == (1, "") and args[-1].split("=")[1].split(":")[0] in err


@pytest.mark.release
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_ends_with_0(proxy, number):
    """"0: it was asked to stop and did." """
    p = proxy("app.test=status:410")
    p.signal(number)
    assert p.wait() == 0


def test_it_cleans_up_after_a_start_that_failed(tmp_path):
    """A listener that was opened before the one that failed, and the pid file."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run("--http=127.0.0.1:0", f"--http=127.0.0.1:{port}",
                   f"--pid-file={tmp_path / 'pid'}")[0] == 1
    assert not os.listdir(tmp_path)


# ==[ rules ]======================================================================================


@pytest.mark.release
@pytest.mark.parametrize("host", ["a", "a.b", "*.a.b", "*", "a-b.c_d.test", "xn--bcher-kva.test", "10.0.0.1",
                                  "[::1]", "a" * 63 + ".test", ".".join(["a" * 60] * 4)])
def test_hosts_that_fit(host):
    assert f"route {host}=status:404\n" in dump("--http=80", "--route", f"{host}=status:404")


@pytest.mark.release
@pytest.mark.parametrize("host", ["", "a..b", ".a", "a.*.b", "*a.b", "a.*", "**", "*.*.a", "a b", "a:80", "::1",
                                  "http://a", "a@b", "\u00fc.test", "a" * 64 + ".test", "-a.test=", "*.10.0.0.1",
                                  "1.2.3", "256.1.1.1", "[::1", "[::g]", ".".join(["a" * 60] * 5)])
def test_hosts_that_do_not_fit(host):
    err = refused("--http=80", "--route", f"{host}=status:404")
    assert err.startswith("rproxy: --route: ") and err.count("\n") == 1


@pytest.mark.release
@pytest.mark.parametrize("target, label", [
    ("http://10.0.0.1", "http://10.0.0.1:80"), ("https://10.0.0.1", "https://10.0.0.1:443"),
    ("http://10.0.0.1:65535", "http://10.0.0.1:65535"), ("http://[fd00::1]:8", "http://[fd00::1]:8"),
    ("https://nas.lan", "https://nas.lan:443"), ("unix:/run/x.sock", "unix:/run/x.sock"),
    ("tcp://10.0.0.1:443", "tcp://10.0.0.1:443"), ("HTTP://x", None), ("http://x/", None),
    ("http://u@x", None), ("http://x?y", None), ("tcp://x", None), ("unix:x", None), ("x:80", None),
    ("http://", None), ("http://:80", None), ("http://x:", None), ("http://x:65536", None),
    ("http://x,,http://y", None), ("http://x,", None), ("ws://x", None), ("http:/x", None)])
def test_targets(proxy, target, label):
    """"`http://ADDR[:PORT]`, `https://ADDR[:PORT]`, `unix:PATH`..., `tcp://ADDR:PORT`" """
    if not label:
        refused("--http=80", "--route", f"a.test={target}")
        return
    p = proxy(f"a.test={target} {'verify=off' if target.startswith('https') else ''}", status="127.0.0.1:0",
              expect=[r"rproxy: .*tcp:// route is never reached.*", r"rproxy: .*nas\.lan.*"])
    routes = json.loads(Client(p.status[0]).ask("/status.json", host="localhost").body)["routes"]
    assert [t["target"] for t in routes[0]["targets"]] == [label]


@pytest.mark.release
def test_each_setting_refuses_what_is_not_its_own():
    """A setting that means nothing there is an error, not silence."""
    for rule, said in {
            "a.test=redirect:https://x strip": "strip", "a.test=status:404 hide=X": "hide",
            "a.test=tcp://x:1 auth=/etc/passwd": "auth", "a.test=tcp://x:1 plain": "plain",
            "a.test=tcp://x:1 hsts": "hsts", "a.test=tcp://x:1 host=target": "host",
            "a.test/p=tcp://x:1": "/p", "a.test=http://x strip": "strip",
            "a.test=http://x verify=off": "verify", "a.test=http://x ca=/etc/passwd": "ca=",
            "a.test=https://x verify=off ca=/etc/passwd": "ca=", "a.test=http://x strip=yes": "strip",
            "a.test=http://x plain plain": "twice", "a.test=http://x host=a host=b": "twice",
            "a.test=http://x host=": "host", "a.test=http://x allow": "allow",
            "a.test=http://x set=Content-Length:1": "Content-Length", "a.test=http://x set=Host:y": "host=",
            "a.test=http://x set=A": "NAME:VALUE", "a.test=http://x hide=a/b": "a/b",
            "a.test=http://x send-proxy=v3": "v1|v2", "a.test=http://x balance=random": "round-robin",
            "a.test=http://x wake=nas": "MAC", "a.test=http://x check=health": "/",
            "a.test=http://x hsts=soon": "soon", "a.test=http://x host=b/c": "b/c",
            "a.test=http://x body-max=1x": "1x", "a.test=http://x allow=10.0.0.1/8": "10.0.0.0/8"}.items():
        err = refused("--http=80", "--route", rule)
        assert said in err and err.count("\n") == 1, (rule, err)


# ==[ what README.md and configs/ show ]===========================================================

README = (ROOT / "README.md").read_text()
EXAMPLES = sorted((ROOT / "configs").glob("*.conf"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_examples_are_right_and_the_ones_of_the_readme(path):
    status, out, err = run("--check", "-c", path)
    assert (status, out) == (0, ""), err
    assert all("warning: " in s for s in err.splitlines()), err  # files that are not here
    assert path.read_text() in README


def test_every_route_of_the_readme_is_right(conf):
    rules, block = set(), None
    for line in README.splitlines():
        fence = re.fullmatch(r" *```(\w*)", line)
        if fence:
            block = fence[1] if block is None else None
        elif block == "" and line.strip().startswith("route ") and "=..." not in line:
            rules.add(line.strip().replace("pin:HEX", "pin:" + 64 * "0"))
    assert len(rules) > 12
    for i, rule in enumerate(sorted(rules)):
        status, _, err = run("-t", "-c", conf(f"http 80\n{rule}\n", f"{i}.conf"))
        assert status == 0, err


def test_the_readme_says_how_a_log_line_looks():
    line = next(s for s in README.splitlines() if s.startswith("cloud.example.com 198.51"))
    assert COMBINED.fullmatch(line)
