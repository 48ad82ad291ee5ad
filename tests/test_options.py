"""The option table: flags, files, help, dump; all from one source, so all must agree."""

import re

import pytest

from harness import ROOT, Client, run

# The option table of the contract: what a user can rely on, whatever else is there.
OPTIONS = """config check dump-config help version http https public-port status route default cert
cert-dir acme-dir trust accept-proxy default-cert session-cache user chroot log log-format pid-file
max-conns max-conns-per-ip head-timeout idle-timeout connect-timeout response-timeout stall-timeout
tunnel-timeout drain-timeout head-max body-max""".split()


def good(*args):
    status, out, err = run(*args)
    assert (status, err) == (0, ""), err
    return out


@pytest.mark.release
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_option(flag):
    out = good(flag)
    for option in OPTIONS:
        assert re.search(rf"--{option}\b", out), option
    for default in ("64", "512", "10s", "65s", "5m", "32k", "combined"):
        assert default in out, default
    for short in ("-c", "-t", "-r", "-h", "-V"):
        assert re.search(rf"(?m)^\s*{short}\b", out), short


def test_manual_page():
    out = good("--help=man")
    assert re.match(r'(\.\\".*\n)*\.(TH|Dd)', out)
    plain = out.replace("\\-", "-")
    for option in OPTIONS:
        assert f"-{option}" in plain or option in plain, option


@pytest.mark.release
@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_version(flag):
    version = re.search(r'#define RP_VERSION "(.+)"', (ROOT / "rproxy.h").read_text())[1]
    out = good(flag)
    assert out.startswith(f"rproxy {version}")
    assert "BearSSL" in out


def test_readme_has_the_same_table():
    table = good("--help=readme").strip()
    for option in OPTIONS:
        assert f"--{option}" in table, option
    assert table in (ROOT / "README.md").read_text()


def test_unknown_help_is_refused():
    status, out, err = run("--help=poem")
    assert (status, out) == (2, "")
    assert "poem" in err


# ==[ one table for flags and files ]==============================================================

FLAGS = ["--http", "127.0.0.1:8080", "--http=[::1]:8081", "--idle-timeout", "90s",
         "--max-conns=100", "--default", "https://www.test/", "--trust", "10.0.0.0/8,loopback",
         "--log-format", "json", "--body-max", "5m", "-r", "a.test=http://10.0.0.4:8096 plain hsts=9",
         "--route", "*.b.test/x=http://10.0.0.5,http://10.0.0.6 balance=round-robin strip",
         "--route=c.test=redirect:https://a.test/", "--route", "*=status:410"]
LINES = """
# A comment, then blank lines.

http 127.0.0.1:8080
http [::1]:8081          # a comment behind a value
idle-timeout 90s
max-conns 100
default "https://www.test/"
trust 10.0.0.0/8,loopback
log-format json
body-max 5m
route a.test=http://10.0.0.4:8096 plain hsts=9
  route "*.b.test/x=http://10.0.0.5,http://10.0.0.6" balance=round-robin strip
route c.test=redirect:https://a.test/
route *=status:410
"""


@pytest.fixture
def conf(tmp_path):
    """conf(text): a file; the newest one's path."""
    def make(text, name="rproxy.conf"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path
    return make


@pytest.mark.release
def test_a_file_says_what_flags_say(conf):
    dump = good("-c", conf(LINES), "--dump-config")
    assert dump == good(*FLAGS, "--dump-config")
    for text in ("127.0.0.1:8080", "[::1]:8081", "https://www.test/", "json", "a.test=", "hsts=9"):
        assert text in dump, text


@pytest.mark.release
def test_dump_config_reproduces_itself(conf):
    first = good(*FLAGS, "--dump-config")
    assert good("-c", conf(first), "--dump-config") == first
    plain = good("--http", "80", "--dump-config")
    assert good("-c", conf(plain, "2"), "--dump-config") == plain
    assert good("-c", conf(plain, "3"), "-t") == ""


def test_line_endings_and_a_missing_last_newline(conf):
    unix = good("-c", conf("http 8080\nroute a.test=status:410\n"), "--dump-config")
    assert good("-c", conf("http 8080\nroute a.test=status:410", "2"), "--dump-config") == unix


def test_flags_and_files_are_applied_in_the_order_given(conf):
    file = conf("idle-timeout 20s\n")
    value = re.compile(r"(?m)^idle-timeout\s+(\S+)$")
    before = good("--http", "80", "--idle-timeout", "10s", "-c", file, "--dump-config")
    after = good("--http", "80", "-c", file, "--idle-timeout", "10s", "--dump-config")
    assert (value.search(before)[1], value.search(after)[1]) == ("20s", "10s")


@pytest.mark.parametrize("a, b", [
    ("--idle-timeout=2m", "--idle-timeout=120s"), ("--idle-timeout=1h", "--idle-timeout=60m"),
    ("--drain-timeout=2000ms", "--drain-timeout=2s"), ("--tunnel-timeout=1d", "--tunnel-timeout=24h"),
    ("--body-max=1k", "--body-max=1024"), ("--body-max=2m", "--body-max=2048k"),
    ("--body-max=1g", "--body-max=1024m")])
def test_units(a, b):
    assert good("--http", "80", a, "--dump-config") == good("--http", "80", b, "--dump-config")


@pytest.mark.release
def test_include(conf, tmp_path):
    conf("route b.test=status:410\n", "sites/b.conf")
    conf("route a.test=status:410\n", "sites/a.conf")
    conf("route c.test=status:410\n", "sites/c.off")
    main = conf("http 80\ninclude sites/*.conf\n")
    dump = good("-c", main, "--dump-config")  # relative to the file, not to the directory
    assert re.findall(r"\b[abc]\.test", dump) == ["a.test", "b.test"]
    assert good("-c", conf(f"http 80\ninclude {tmp_path}/sites/a.conf\n", "2"), "--dump-config")


def test_a_file_that_includes_itself_is_refused(conf):
    path = conf("http 80\ninclude rproxy.conf\n")
    status, _, err = run("-c", path, "-t")
    assert status == 2
    assert "rproxy.conf:2: " in err


def test_quotes_keep_blanks_and_hashes(conf):
    dump = good("-c", conf('http 80\nlog "/var/log/my proxy#1.log"\n'), "--dump-config")
    assert "/var/log/my proxy#1.log" in dump
    assert good("-c", conf(dump, "2"), "--dump-config") == dump


def test_an_open_quote_is_refused(conf):
    status, _, err = run("-c", conf('http 80\nlog "/var/log/x\n'), "-t")
    assert status == 2
    assert "rproxy.conf:2: " in err


@pytest.mark.release
def test_a_file_serves(proxy, backend, conf):
    path = conf(f"http 127.0.0.1:0\nroute app.test={backend().url}\n")
    p = proxy(args=["-c", str(path)])
    assert p.ask().status == 200


@pytest.mark.release
def test_pid_file(proxy, tmp_path):
    p = proxy("a.test=status:410", pid_file=tmp_path / "pid")
    assert (tmp_path / "pid").read_text().strip() == str(p.process.pid)


def test_status_listener_is_loopback_unless_told(proxy, backend):
    p = proxy(f"app.test={backend().url}", status="0")
    assert {a for k, a in p.addresses if k == "status"} <= {"127.0.0.1", "[::1]"}
    p.ask()
    for path, kind in (("/", "text/html"), ("/status.json", "application/json"),
                       ("/metrics", "text/plain")):
        answer = Client(p.status[0]).ask(path, host="127.0.0.1")
        assert (answer.status, answer.get("Content-Type").split(";")[0]) == (200, kind), path


@pytest.mark.release
def test_check_reports_every_error_of_every_room_with_its_place(conf, tmp_path):
    """A wrong option hides neither a wrong certificate nor an unknown user, and each has its line."""
    junk = tmp_path / "junk.pem"
    junk.write_text("junk\n")
    lines = ["http 8080", "idle-timeout soon", f"cert {junk}", "user nobody-here",
             f"chroot {tmp_path}/nowhere", f"route a.test=https://10.0.0.1 ca={junk}",
             f"cert {tmp_path}/later.pem", "route b.test=http://10.0.0.1:0"]
    path = conf("\n".join(lines) + "\n")
    status, out, err = run("--check", "-c", path)
    assert (status, out) == (2, "")
    for number, text in [(2, '"soon" is not a time'), (3, f"{junk}: no certificate in it"),
                         (4, '"nobody-here"'), (5, f'"{tmp_path}/nowhere"'),
                         (6, f"{junk}: no usable certificate"), (7, "later.pem: not there"),
                         (8, "a port from 1 to 65535 fits")]:
        assert any(s.startswith(f"{path}:{number}: ") and text in s for s in err.splitlines()), text
    assert len(err.splitlines()) == 7, err


def test_what_is_wrong_on_the_command_line_has_its_flag(tmp_path):
    junk = tmp_path / "junk.pem"
    junk.write_text("junk\n")
    status, _, err = run("--http=8080", "--cert", junk, "--user=nobody-here", "-t")
    assert status == 2
    assert f"rproxy: --cert: {junk}: no certificate" in err
    assert "rproxy: --user: " in err


def test_a_file_that_cannot_be_read_is_the_only_error(tmp_path):
    """Whether it would have named a listener nobody knows."""
    status, _, err = run("-t", "-c", tmp_path / "nowhere")
    assert (status, len(err.splitlines())) == (2, 1)
    assert str(tmp_path / "nowhere") in err
