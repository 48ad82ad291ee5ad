"""Fixtures of the behaviour tests; what they are made of is in harness.py."""

import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

import pytest

from harness import ROOT, Authority, Backend, Client, Proxy, dead_port, echo, wait_for


def pytest_configure(config):
    config.addinivalue_line("markers", "release: quick; run again on the release binary")
    config.addinivalue_line("markers", "native: shows something else in an emulator")


@pytest.fixture(scope="session")
def certs(tmp_path_factory):
    """certs("a.test", kind="rsa"): a certificate; certs.trust(): a client that believes it."""
    return Authority(tmp_path_factory.mktemp("certs"))


@pytest.fixture
def backend():
    """backend(handler): a running Backend. Closed after the proxy has ended."""
    made = []

    def make(handler=echo, **kw):
        made.append(Backend(handler, **kw))
        return made[-1]

    make.made = made
    yield make
    for b in made:
        b.close()
    errors = [repr(e) for b in made for e in b.errors]
    assert not errors, "; ".join(errors)


@pytest.fixture
def proxy(certs, backend):
    """proxy(RULE, ..., option=value): a running Proxy, judged when the test is over."""
    made = []

    def make(*routes, **options):
        made.append(Proxy(*routes, authority=certs, **options))
        return made[-1]

    yield make
    while Client.every:
        Client.every.pop().close()
    faults = []
    for p in made:
        try:
            p.finish({b.port for b in backend.made})
        except AssertionError as e:
            faults.append(str(e))
        finally:
            p.process.stderr.close()
    assert not faults, "\n".join(faults)


@pytest.fixture(scope="session")
def nginx(tmp_path_factory):
    """A real web server: `url`, and `root`, the folder that it serves (with Range and ETag)."""
    folder = tmp_path_factory.mktemp("nginx")
    root = folder / "www"
    root.mkdir()
    port = dead_port()
    (folder / "conf").write_text(f"""
        daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
        events {{ worker_connections 64; }}
        http {{ access_log off; server {{ listen 127.0.0.1:{port}; root {root}; }}
            client_body_temp_path {folder}/1; proxy_temp_path {folder}/2;
            fastcgi_temp_path {folder}/3; uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5; }}
    """)
    server = subprocess.Popen(["/usr/sbin/nginx", "-c", str(folder / "conf"), "-e",
                               str(folder / "error.log")])

    def listening():
        assert server.poll() is None, (folder / "error.log").read_text()
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", port)) == 0

    wait_for(listening, "nginx")
    server.root, server.url = root, f"http://127.0.0.1:{port}"
    yield server
    server.terminate()
    server.wait(10)


@pytest.fixture(scope="session")
def clock(tmp_path_factory):
    """clock(speed=10): the environment for a proxy whose seconds are so much shorter;
    clock(wall=FILE): whose wall clock shows what FILE says. The release binary can't be told."""
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, ROOT / "tests/clock.c"],
                   check=True)

    def make(speed=1, wall=None):
        env = {"LD_PRELOAD": str(library), "CLOCK_SPEED": str(speed)}
        if wall:
            env["CLOCK_WALL"] = str(wall)
        options = os.environ.get("ASAN_OPTIONS", "")
        return {**env, "ASAN_OPTIONS": f"{options}:verify_asan_link_order=0"}

    return make


@pytest.fixture
def open_folder():
    """A folder that is open to all, for a proxy that gives up root: pytest's are closed."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="rproxy-test."))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def blackhole():
    """A port that neither accepts nor refuses: its queue is full, so the kernel drops SYNs."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fill = []
    for _ in range(4):
        s = socket.socket()
        s.setblocking(False)
        s.connect_ex(listener.getsockname())
        fill.append(s)
    time.sleep(0.1)
    yield listener.getsockname()[1]
    for s in [*fill, listener]:
        s.close()
