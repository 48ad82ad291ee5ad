"""`make dist`: one tarball, the same bytes every time, that builds without network; and `make install`
as a packager calls it, with a compiler, flags and a BearSSL of his own."""

import os
import pathlib
import re
import shutil
import subprocess
import tarfile

import pytest

from harness import ROOT

BEARSSL = next(d for d in (ROOT / "bearssl", ROOT / "build/bearssl") if (d / "inc").is_dir())
VERSION = re.search('RP_VERSION "(.*)"', (ROOT / "rproxy.h").read_text())[1]
NAME = f"rproxy-{VERSION}"
ENV = {k: v for k, v in os.environ.items() if not re.match("MAKE|MFLAGS|CC$|CFLAGS|LDFLAGS|GIT_", k)}
ARM = ["qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu"]


def call(*command, cwd, **env):
    done = subprocess.run([str(c) for c in command], cwd=cwd, env={**ENV, **env}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def make(cwd, *args, before=(), **env):
    return call(*before, "make", *args, cwd=cwd, **env)


def version(*command):
    return subprocess.run([*command, "--version"], check=True, capture_output=True,
                          text=True).stdout.split("\n")[0]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A repository of the files as they stand here."""
    folder = tmp_path_factory.mktemp("release") / "checkout"
    tracked = (call("git", "ls-files", cwd=ROOT).split("\n") if (ROOT / ".git").exists() else
               [str(f.relative_to(ROOT)) for f in ROOT.rglob("*")
                if not re.match(r"build|bearssl|\.git/|.*__pycache__", str(f.relative_to(ROOT)))])
    for name in tracked:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    who = {f"GIT_{w}_{k}": v for w in ("AUTHOR", "COMMITTER")
           for k, v in (("NAME", "a"), ("EMAIL", "a@b"), ("DATE", "2026-01-02T03:04:05Z"))}
    for command in ("git init -q", "git add -A", "git commit -qm x"):
        call(*command.split(), cwd=folder, GIT_CONFIG_GLOBAL="/dev/null", **who)
    return folder


@pytest.fixture(scope="module")
def tarball(checkout):
    make(checkout, "-s", "dist", f"BEARSSL_DIR={BEARSSL}")
    return checkout / f"build/{NAME}.tar.gz"


@pytest.fixture(scope="module")
def unpacked(tarball, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    call("tar", "xzf", tarball, cwd=folder)
    assert [f.name for f in folder.iterdir()] == [NAME]
    return folder / NAME


@pytest.fixture
def tree(unpacked, tmp_path):
    """A fresh copy of what the tarball holds."""
    shutil.copytree(unpacked, tmp_path / "tree", ignore=shutil.ignore_patterns("build"))
    return tmp_path / "tree"


def test_the_tarball_is_the_same_each_time_and_everywhere(tarball, checkout, tmp_path):
    first = tarball.read_bytes()
    os.utime(checkout / "README.md")
    make(checkout, "-s", "dist", f"BEARSSL_DIR={BEARSSL}")
    assert tarball.read_bytes() == first
    # cloned elsewhere, later, by somebody with another mask, zone and language
    call("sh", "-c", f"umask 077; git clone -q {checkout} other", cwd=tmp_path)
    make(tmp_path / "other", "-s", "dist", f"BEARSSL_DIR={BEARSSL}", TZ="Asia/Tokyo",
         LC_ALL="C.UTF-8", before=("sh", "-c", 'umask 027; exec "$0" "$@"'))
    assert (tmp_path / f"other/build/{NAME}.tar.gz").read_bytes() == first


def test_the_tarball_holds_what_is_tracked_and_bearssl(tarball, checkout):
    with tarfile.open(tarball) as tar:
        members = tar.getmembers()
    files = {m.name for m in members if m.isfile()}
    tracked = {f"{NAME}/{f}" for f in call("git", "ls-files", cwd=checkout).split()}
    bearssl = {f"{NAME}/bearssl/{f.relative_to(BEARSSL)}" for d in ("src", "inc")
               for f in (BEARSSL / d).rglob("*") if f.is_file()}
    assert files == tracked | bearssl | {f"{NAME}/bearssl/LICENSE.txt"}
    assert all(m.uid == m.gid == 0 and m.mode in (0o644, 0o755) for m in members)
    assert {m.name for m in members if m.isfile() and m.mode == 0o755} >= {f"{NAME}/tests/check.sh"}
    assert not any("/.git/" in f for f in files)


def test_it_builds_without_network(unpacked):
    said = make(unpacked, "CFLAGS=-O0", before=("unshare", "-rn"))
    assert "fetch" not in said and "install" not in said
    assert version(unpacked / "build/rproxy") == f"rproxy {VERSION}"
    # what else there is to do needs no repository
    said = make(unpacked, "-n", "check", before=("unshare", "-rn"))
    assert "tests/lint.py bearssl/inc build/rproxy" in said and "git l" not in said  # ls-files, log


def installed(folder):
    return {str(f.relative_to(folder)): f.stat().st_mode & 0o777 for f in folder.rglob("*")
            if f.is_file()}


def dynamic(file):
    """The interpreter of a program, None for a static one; whether it has symbols."""
    said = call("readelf", "-lSW", file, cwd="/")
    found = re.search(r"interpreter: (.*)\]", said)
    return found and found[1], ".symtab" in said


def test_install_with_a_compiler_and_a_bearssl_of_ones_own(tree, tmp_path):
    to, mine = tmp_path / "to", tmp_path / "mine"
    shutil.move(tree / "bearssl", mine)
    before = sorted((str(f), f.stat().st_mtime_ns) for f in mine.rglob("*"))
    make(tree, "install", "CC=clang-14", "CFLAGS=-O0 -g  -pipe", f"BEARSSL_DIR={mine}",
         f"DESTDIR={to}", "PREFIX=/usr", before=("unshare", "-rn"))
    assert sorted((str(f), f.stat().st_mtime_ns) for f in mine.rglob("*")) == before
    files = installed(to)
    assert files.pop("usr/bin/rproxy") == 0o755 and set(files.values()) == {0o644}
    assert {"usr/lib/systemd/system/rproxy.service", "usr/share/man/man8/rproxy.8",
            "usr/share/doc/rproxy/LICENSE", "usr/share/doc/rproxy/README.md",
            "usr/share/bash-completion/completions/rproxy"} <= set(files)
    assert {pathlib.Path(f).name for f in files if "/examples/" in f} == {
        f.name for f in (ROOT / "configs").glob("*.conf")}
    assert "/usr/bin/rproxy" in (to / "usr/lib/systemd/system/rproxy.service").read_text()
    assert version(to / "usr/bin/rproxy") == f"rproxy {VERSION}"
    interpreter, symbols = dynamic(to / "usr/bin/rproxy")
    assert "ld-linux" in interpreter and symbols  # as the compiler links by default; not stripped
    make(tree, "uninstall", f"DESTDIR={to}", "PREFIX=/usr")
    assert not installed(to)


def test_install_for_another_processor(tree, tmp_path):
    to = tmp_path / "to"
    make(tree, "install", "CC=aarch64-linux-gnu-gcc", "AR=aarch64-linux-gnu-ar", "CFLAGS=-O0",
         "LDFLAGS=-s -Wl,-z,now", f"DESTDIR={to}")
    interpreter, symbols = dynamic(to / "usr/local/bin/rproxy")
    assert "aarch64" in interpreter and not symbols
    assert version(*ARM, to / "usr/local/bin/rproxy") == f"rproxy {VERSION}"


def test_install_with_a_musl_that_is_shared(tree, tmp_path):
    to = tmp_path / "to"
    make(tree, "install", "CC=musl-gcc", "STATIC=", "CFLAGS=-O0", f"DESTDIR={to}")
    interpreter, _ = dynamic(to / "usr/local/bin/rproxy")
    assert "ld-musl" in interpreter
    assert version(to / "usr/local/bin/rproxy") == f"rproxy {VERSION}"
