"""Giving up root: what the kernel then says of the proxy and its helpers, and what HUP can still read."""

import base64
import hashlib
import os
import pathlib
import re
import signal
import subprocess
import time

import pytest

from harness import BINARY, PATIENCE, run, wait_for
from test_reload import RELOAD, children, hup

pytestmark = pytest.mark.release
NO_LEAKS = {"ASAN_OPTIONS": "detect_leaks=0"}  # without root it may not look for them
GONE = r"rproxy: warning: HUP will not be able to read .*"


@pytest.fixture(autouse=True)
def root():
    assert os.geteuid() == 0, "needs root, to give it up"


@pytest.fixture
def conf(open_folder):
    """conf(LINE, ...) writes the file; the arguments that name it."""
    def write(*lines):
        (open_folder / "rproxy.conf").write_text("\n".join(map(str, lines)) + "\n")
        return ["-c", str(open_folder / "rproxy.conf")]
    return write


def status(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return dict(re.findall(r"^(\w+):[ \t]*(.*)$", text, re.M))


def powerless(pid, uid, gid, groups=""):
    """Nothing of root is left, and it can't be had again."""
    s = status(pid)
    assert s["Uid"].split() == [str(uid)] * 4 and s["Gid"].split() == [str(gid)] * 4, s
    assert s["Groups"].split() == groups.split(), s
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(s[name], 16) == 0, (name, s[name])
    assert s["NoNewPrivs"] == "1"
    limits = pathlib.Path(f"/proc/{pid}/limits").read_text()
    assert re.search(r"Max core file size +0 +0", limits)


def htpasswd(path):
    digest = base64.b64encode(hashlib.sha1(b"pass").digest()).decode()
    path.write_text(f"user:{{SHA}}{digest}\n")
    return path


@pytest.mark.parametrize("user, uid, gid", [
    ("nobody", 65534, 65534), ("12345", 12345, 12345), ("nobody:daemon", 65534, 1),
    ("12345:54321", 12345, 54321)])
def test_root_is_given_up_for_good(proxy, backend, open_folder, user, uid, gid):
    """By the proxy and by both helpers, which serve nonetheless."""
    b = backend()
    p = proxy(f"app.test=http://localhost:{b.port}",
              f"door.test={b.url} auth={htpasswd(open_folder / 'htpasswd')}", user=user, env=NO_LEAKS)
    helpers = children(p)
    assert len(helpers) == 2
    for pid in helpers:  # which do nothing before they have given it up
        wait_for(lambda: status(pid)["NoNewPrivs"] == "1", "the last thing that it gives up")
    for pid in (p.process.pid, *helpers):
        powerless(pid, uid, gid)
    assert p.ask().status == 200
    word = base64.b64encode(b"user:pass").decode()
    assert p.ask("/", f"Authorization: Basic {word}", host="door.test").status == 200
    for pid in children(p):  # they have not changed
        powerless(pid, uid, gid)


def test_groups_of_the_user_are_kept_and_no_others(proxy, tmp_path, open_folder):
    (tmp_path / "passwd").write_text("root:x:0:0::/:/bin/sh\nproxy:x:4711:4712::/:/bin/false\n")
    (tmp_path / "group").write_text("adm:x:4:root,proxy\ntls:x:4713:proxy\nnot:x:4714:proxys,xproxy\n")
    binds = " && ".join(f"mount --bind {tmp_path}/{n} /etc/{n}" for n in ("passwd", "group"))
    p = proxy("app.test=status:410", user="proxy", env=NO_LEAKS,
              under=["unshare", "-m", "sh", "-c", binds + ' && exec "$@"', "sh"])
    powerless(p.process.pid, 4711, 4712, "4 4713")


@pytest.mark.parametrize("user", ["nosuchuser", "nobody:nosuchgroup", "4294967295", ":adm", "-1"])
def test_an_unknown_user_is_refused(user):
    code, _, said = run("--http", "127.0.0.1:0", "--route", "app.test=status:410", "--user", user)
    assert code == 2 and "user" in said and user in said


def test_root_without_user_is_warned_of(proxy):
    p = proxy("app.test=status:410")
    assert sum("--user" in s for s in p.lines) == 1
    p = proxy("app.test=status:410", user="nobody", env=NO_LEAKS)
    assert not any("--user" in s for s in p.lines)


def test_hup_reads_all_again_without_root(proxy, backend, certs, conf, open_folder):
    pem = open_folder / "site.pem"
    pem.write_bytes(certs("app.test").pem.read_bytes())
    pem.chmod(0o640)
    os.chown(pem, 0, 65534)
    lines = ["http 127.0.0.1:0", "https 127.0.0.1:0", f"cert {pem}", "user nobody",
             f"route app.test={backend().url} plain"]
    p = proxy(args=conf(*lines), expect=[RELOAD], env=NO_LEAKS)
    assert not any("will not be able" in s for s in p.lines)
    pem.write_bytes(certs("app.test", "new.test").pem.read_bytes())
    conf(*lines, "route new.test=status:410 plain")
    hup(p)
    assert p.ask(host="new.test").status == 410
    names = p.client("app.test").sock.getpeercert()["subjectAltName"]
    assert ("DNS", "new.test") in names


def test_what_hup_will_not_be_able_to_read_is_said_at_the_start(proxy, backend, certs, conf,
                                                                open_folder):
    secret = open_folder / "secret"
    secret.mkdir(mode=0o700)
    pem, users = open_folder / "site.pem", htpasswd(secret / "htpasswd")
    pem.write_bytes(certs("app.test").pem.read_bytes())
    pem.chmod(0o600)
    lines = ["http 127.0.0.1:0", "https 127.0.0.1:0", f"cert {pem}", "user nobody",
             f"route app.test={backend().url} plain", f"route door.test=status:410 plain auth={users}"]
    p = proxy(args=conf(*lines), expect=[RELOAD, GONE, r"rproxy: .*(site\.pem|htpasswd).*"],
              env=NO_LEAKS)
    said = [s for s in p.lines if "will not be able" in s]
    assert len(said) == 2 and str(pem) in said[0] and str(users) in said[1], said
    said = hup(p, good=False)
    assert any("htpasswd" in s and "rproxy.conf:6" in s for s in said), said
    assert p.client("app.test").ask().status == 200
    assert p.ask(host="door.test").status == 401


def test_an_include_that_can_not_be_looked_for_is_an_error(proxy, conf, open_folder):
    """Not an empty one: its routes would be gone."""
    secret = open_folder / "secret"
    secret.mkdir(mode=0o700)
    (secret / "one.conf").write_text("route one.test=status:411\n")
    lines = ["http 127.0.0.1:0", "user nobody", "route app.test=status:410", f"include {secret}/*.conf"]
    p = proxy(args=conf(*lines), expect=[RELOAD, GONE, r"rproxy: .*rproxy\.conf:4: .*"], env=NO_LEAKS)
    assert any(f"{secret}/one.conf" in s for s in p.lines)
    assert any("rproxy.conf:4: " in s for s in hup(p, good=False))
    assert p.ask(host="one.test").status == 411


def test_chroot(proxy, backend, certs, conf, open_folder):
    """It serves; what lies outside can't be read again, is named, and stays as it was."""
    jail = open_folder / "jail"
    jail.mkdir()
    pem = open_folder / "site.pem"
    pem.write_bytes(certs("app.test").pem.read_bytes())
    lines = ["http 127.0.0.1:0", "https 127.0.0.1:0", f"cert {pem}", "user nobody", f"chroot {jail}",
             f"route app.test={backend().url} plain"]
    p = proxy(args=conf(*lines), expect=[RELOAD, GONE, r"rproxy: .*(rproxy\.conf|site\.pem).*"],
              env=NO_LEAKS)
    assert os.readlink(f"/proc/{p.process.pid}/root") == str(jail)
    assert os.readlink(f"/proc/{p.process.pid}/cwd") == str(jail)
    powerless(p.process.pid, 65534, 65534)
    said = [s for s in p.lines if "will not be able" in s]
    assert any("rproxy.conf" in s for s in said) and any("site.pem" in s for s in said), said
    assert any("rproxy.conf" in s for s in hup(p, good=False))
    assert p.client("app.test").ask().status == 200


def test_chroot_with_its_files_inside(proxy, conf, open_folder):
    """The same path within and without: then HUP reads them."""
    jail = open_folder / "jail"
    inside = jail / str(open_folder)[1:]
    inside.mkdir(parents=True)
    lines = ["http 127.0.0.1:0", "user nobody", f"chroot {jail}", "route app.test=status:410"]
    args = conf(*lines)
    (inside / "rproxy.conf").write_text("\n".join([*lines[:3], "route app.test=status:411"]) + "\n")
    p = proxy(args=args, expect=[RELOAD], env=NO_LEAKS)
    assert not any("will not be able" in s for s in p.lines)
    assert p.ask().status == 410
    hup(p)
    assert p.ask().status == 411


def test_certificates_stay_when_chroot_hides_them(proxy, backend, certs, open_folder, clock):
    """Also when the files are looked at again after a minute."""
    (open_folder / "jail").mkdir()
    (open_folder / "certs").mkdir()
    (open_folder / "certs/site.pem").write_bytes(certs("app.test").pem.read_bytes())
    env = clock(speed=60)
    p = proxy(f"app.test={backend().url} plain", https="127.0.0.1:0", cert_dir=open_folder / "certs",
              chroot=open_folder / "jail", env={**env, "ASAN_OPTIONS": env["ASAN_OPTIONS"]
                                                + ":detect_leaks=0"},
              expect=[GONE, r"rproxy: .*certs.*"])
    time.sleep(2.5)  # minutes, for it; the release binary can't be hurried, and has nothing to lose
    assert p.client("app.test").ask().status == 200
    assert sum("certs" in s for s in p.lines) <= 3, p.lines


def test_the_pid_file_does_not_outlive_it(proxy, open_folder):
    """Its folder is root's: it can't be taken away, but an old number does not stay in it."""
    for user, left in (("nobody", ""), (None, None)):
        pid = open_folder / "pid"
        p = proxy("app.test=status:410", user=user, pid_file=pid, env=NO_LEAKS)
        assert pid.read_text() == f"{p.process.pid}\n"
        p.stop()
        assert (pid.read_text() if pid.exists() else None) == left
    open_folder.chmod(0o777)
    p = proxy("app.test=status:410", user="nobody", pid_file=open_folder / "pid2", env=NO_LEAKS)
    p.stop()
    assert not (open_folder / "pid2").exists()


def test_the_log_is_opened_again_without_root(proxy, backend, open_folder):
    """The file is the user's from the start; where its folder is not, that is said then."""
    log = open_folder / "log"
    p = proxy("app.test=status:410", user="nobody", log=log, env=NO_LEAKS)
    assert log.stat().st_uid == 65534
    log.rename(open_folder / "log.1")
    log.touch()  # as logrotate's "create" does
    os.chown(log, 65534, 65534)
    p.signal(signal.SIGUSR1)
    wait_for(lambda: str(log) in p.descriptors().values(), "the new file")
    p.ask("/after")
    wait_for(lambda: "/after" in log.read_text(), "the line")
    p.stop()
    deep = open_folder / "deep"
    deep.mkdir(mode=0o700)
    p = proxy("app.test=status:410", user="nobody", log=deep / "log", env=NO_LEAKS,
              expect=[r"rproxy: warning: USR1 will not be able to open .*deep/log again: .*"])
    assert any("USR1 will not" in s for s in p.lines)


def test_without_root_nothing_is_lost_and_nothing_needed(backend):
    """Started as a user: no warning, and capabilities that it was given for low ports stay."""
    process = subprocess.Popen(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+net_bind_service",
         "--ambient-caps=+net_bind_service", "--bounding-set=-all,+net_bind_service", *BINARY,
         "--http", "127.0.0.1:0", "--route", "app.test=status:410"],
        stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env={**os.environ, **NO_LEAKS})
    try:
        said = b""
        while b"rproxy: ready\n" not in said:
            more = os.read(process.stderr.fileno(), 4096)
            assert more, said
            said += more
        assert b"warning" not in said
        assert int(status(process.pid)["CapEff"], 16) == 1 << 10
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
