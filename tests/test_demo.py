"""make demo, the main job: shown, checked, and ended as it says."""

import os
import pathlib
import signal
import subprocess

import pytest

from harness import BINARY, PATIENCE, ROOT, wait_for

LONG = 12 * PATIENCE  # a certificate, two services, 64 MB through TLS
SCRIPT = ROOT / "tests/demo.sh"


def hears_ctrl_c():
    """A shell that was started in the background has its children ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(binary=BINARY[-1], **env):
    return subprocess.Popen([SCRIPT], env={**os.environ, "RPROXY": str(binary), **env}, text=True,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            start_new_session=True, preexec_fn=hears_ctrl_c)


def left_of(demo):
    """Processes that the demo started, by the folder that their arguments name."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            args = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(ROOT / "build/demo") in args or (str(ROOT) in args and "demo_ws.py serve" in args):
            found.append(args)
    return found


@pytest.mark.native  # the demo starts the program itself
@pytest.mark.release
def test_the_demo_proves_the_main_job():
    demo = start(DEMO="once")
    out = demo.communicate(timeout=LONG)[0]
    assert demo.returncode == 0, out
    assert out.rstrip().endswith("Every check held."), out
    assert out.count("\n   ok ") > 15 and "wrong" not in out, out
    assert not left_of(demo)


def test_the_demo_stays_until_ctrl_c():
    demo = start()
    lines = []
    for line in demo.stdout:
        lines.append(line)
        if "Running until Ctrl-C" in line:
            break
    assert demo.poll() is None, "".join(lines)
    os.killpg(demo.pid, signal.SIGINT)  # as a terminal does it
    demo.communicate(timeout=LONG)
    assert demo.returncode == 0
    wait_for(lambda: not left_of(demo), "its services to be gone")


@pytest.mark.parametrize("broken", ["refuses", "answers-otherwise"])
def test_a_demo_that_fails_says_so(tmp_path, broken):
    fake = tmp_path / "rproxy"
    fake.write_text({
        "refuses": "#!/bin/sh\nexit 1\n",
        "answers-otherwise": f'#!/bin/sh\nexec {BINARY[-1]} "$@" --route jellyfin.test.com/film.bin=status:404\n',
    }[broken])
    fake.chmod(0o755)
    demo = start(fake, DEMO="once")
    out = demo.communicate(timeout=LONG)[0]
    assert demo.returncode == 1, out
    assert ("wrong" if broken == "answers-otherwise" else "refused") in out, out
    assert not left_of(demo)
