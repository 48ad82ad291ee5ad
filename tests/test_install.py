"""`make install` and `make uninstall`: what lies where, and that it works there."""

import os
import pathlib
import re
import subprocess

import pytest

from harness import ROOT

FILES = {
    "bin/rproxy": 0o755,
    "lib/systemd/system/rproxy.service": 0o644,
    "share/bash-completion/completions/rproxy": 0o644,
    "share/man/man8/rproxy.8": 0o644,
    "share/doc/rproxy/README.md": 0o644,
    "share/doc/rproxy/LICENSE": 0o644,
    **{f"share/doc/rproxy/examples/{f.name}": 0o644 for f in (ROOT / "configs").glob("*.conf")},
}


def run(*command, **kw):
    """What a command prints; it must succeed."""
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, timeout=120,
                          stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL, **kw)
    assert done.returncode == 0, done.stdout
    return done.stdout


def make(target, *words):
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "MFLAGS"}
    run("make", "-s", "-C", ROOT, target, *words, env=env)


def files(top):
    return {str(f.relative_to(top)): f.stat().st_mode & 0o7777
            for f in top.rglob("*") if not f.is_dir()}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """DESTDIR, after `make install PREFIX=/opt/proxy`."""
    top = tmp_path_factory.mktemp("dest")
    make("install", f"DESTDIR={top}", "PREFIX=/opt/proxy")
    return top


def test_everything_is_there_and_nothing_else(installed):
    assert files(installed) == {f"opt/proxy/{name}": mode for name, mode in FILES.items()}


def test_the_program_runs(installed):
    assert re.match(r"rproxy \d", run(installed / "opt/proxy/bin/rproxy", "--version"))


def test_the_manual_is_clean(installed):
    page = installed / "opt/proxy/share/man/man8/rproxy.8"
    assert run("mandoc", "-T", "lint", page) == ""
    shown = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(page)],
                           stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                           env={**os.environ, "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"})
    assert (shown.returncode, shown.stderr) == (0, "")
    text = run("mandoc", "-T", "ascii", page)
    assert "rproxy" in text and "drain-timeout" in re.sub(r".\x08", "", text)


def test_the_unit_is_good(installed):
    unit = installed / "opt/proxy/lib/systemd/system/rproxy.service"
    said = unit.read_text()
    assert "ExecStart=/opt/proxy/bin/rproxy " in said and "/usr/local" not in said
    assert "Type=notify" in said and "ExecReload=" in said and "man:rproxy(8)" in said
    # verify wants the program where the unit says that it is
    real = installed / "verify.service"
    real.write_text(said.replace("/opt/proxy/bin", f"{installed}/opt/proxy/bin"))
    complaints = [line for line in run("systemd-analyze", "verify", "--man=no", real).splitlines()
                  if "verify.service" in line]
    real.unlink()
    assert not complaints, complaints
    level = re.search(r"Overall exposure level for rproxy.service: ([\d.]+)",
                      run("systemd-analyze", "security", "--offline=yes", "--no-pager", unit))
    assert float(level[1]) < 2.0


def completed(script, *words):
    """What bash offers for the last word."""
    line = " ".join(f"'{w}'" for w in words)
    return run("bash", "-c", f"set -u; . {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; "
               'COMPREPLY=(); _rproxy; printf "%s\\n" "${COMPREPLY[@]}"; complete -p rproxy').split()


def test_bash_completes(installed):
    script = installed / "opt/proxy/share/bash-completion/completions/rproxy"
    assert "--drain-timeout" in completed(script, "rproxy", "--dr")
    assert {"combined", "json"} <= set(completed(script, "rproxy", "--log-format", ""))
    assert "/etc/passwd" in completed(script, "rproxy", "-c", "/etc/passw")


def test_the_examples_are_those_of_the_readme(installed):
    readme = (ROOT / "README.md").read_text()
    for example in (installed / "opt/proxy/share/doc/rproxy/examples").iterdir():
        assert example.read_text().strip() in readme


def test_uninstall_leaves_nothing_of_ours_and_all_of_others(tmp_path):
    other = tmp_path / "usr/local/bin/other"
    other.parent.mkdir(parents=True)
    other.write_text("")
    make("install", f"DESTDIR={tmp_path}")
    assert len(files(tmp_path)) == len(FILES) + 1
    make("uninstall", f"DESTDIR={tmp_path}")
    assert set(files(tmp_path)) == {"usr/local/bin/other"}
    assert not (tmp_path / "usr/local/share/doc/rproxy").exists()
