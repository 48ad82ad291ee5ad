"""Certificate files as the running proxy meets them: late, damaged, replaced, wrong."""

import signal

import pytest

from harness import run, wait_for

HTTPS = "127.0.0.1:0"
RELOADED = [r"rproxy: (\d+ times more: rproxy: )?reloaded",
            "rproxy: (\\d+ times more: rproxy: )?reload failed: the old configuration serves on"]


def serial(p, name="a.test"):
    client = p.client(name)
    assert client.ask(host=name).status == 200
    shown = int(client.sock.getpeercert()["serialNumber"], 16)
    client.close()
    return shown


@pytest.mark.release
def test_a_damaged_file_keeps_the_old_certificate(proxy, backend, certs, tmp_path):
    folder = tmp_path / "certs"
    folder.mkdir()
    old, new = certs("a.test"), certs("a.test", kind="rsa")
    crt, key = folder / "a.test.crt", folder / "a.test.key"
    crt.write_bytes(old.chain.read_bytes())
    key.write_bytes(old.key.read_bytes())
    p = proxy(f"a.test={backend().url}", https=HTTPS, cert_dir=folder,
              expect=[r"rproxy: .*a\.test\.(crt|key): .*", *RELOADED])
    kept = p.client("a.test")
    assert kept.ask(host="a.test").status == 200
    for file, damaged in ((crt, b""), (crt, new.chain.read_bytes()[:300]),
                          (crt, new.chain.read_bytes()), (key, b""), (key, new.key.read_bytes()),
                          (key, b"-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----\n")):
        whole = file.read_bytes()
        file.write_bytes(damaged)
        before = len(p.lines)
        p.signal(signal.SIGHUP)
        wait_for(lambda n=before: any("reload failed" in s for s in p.lines[n:]), "the verdict")
        said = [s for s in p.lines[before:] if "a.test.crt" in s or "a.test.key" in s]
        assert len(said) == 1, said  # which file, and what
        assert serial(p) == old.cert.serial_number
        file.write_bytes(whole)
    crt.write_bytes(new.chain.read_bytes())
    key.write_bytes(new.key.read_bytes())
    p.signal(signal.SIGHUP)
    wait_for(lambda: serial(p) == new.cert.serial_number, "the new certificate")
    assert kept.ask(host="a.test").status == 200


@pytest.mark.release
def test_a_first_certificate_is_taken_up(proxy, backend, certs, tmp_path):
    pem, folder = tmp_path / "late.pem", tmp_path / "later"
    p = proxy(f"a.test={backend().url}", f"b.test={backend().url}", https=HTTPS, cert=pem,
              cert_dir=folder, expect=[r"rproxy: .*late.*", r"rproxy: .* [ab]\.test: .*", *RELOADED])
    assert p.ask(host="a.test").status == 200
    pem.write_bytes(certs("a.test").pem.read_bytes())
    folder.mkdir()
    (folder / "b.pem").write_bytes(certs("b.test").pem.read_bytes())
    p.signal(signal.SIGHUP)
    p.said("rproxy: reloaded")
    assert serial(p) == certs("a.test").cert.serial_number
    assert serial(p, "b.test") == certs("b.test").cert.serial_number
    assert p.ask(host="a.test").status == p.ask(host="b.test").status == 301


@pytest.mark.release
def test_a_certificate_that_is_taken_away_is_no_longer_shown(proxy, backend, certs, tmp_path):
    for name in ("a.test", "b.test"):
        (tmp_path / f"{name}.pem").write_bytes(certs(name).pem.read_bytes())
    url = backend().url
    p = proxy(f"a.test={url}", f"b.test={url}", https=HTTPS, cert_dir=tmp_path,
              expect=[r"rproxy: .* b\.test: .*", *RELOADED])
    assert serial(p, "b.test")
    kept = p.client("b.test")
    (tmp_path / "b.test.pem").unlink()
    p.signal(signal.SIGHUP)
    p.said("rproxy: reloaded")
    assert p.ask(host="b.test").status == 200  # plain now
    assert serial(p)
    assert kept.ask(host="b.test").status == 200


def test_check_names_the_file_and_what_would_fit(certs, tmp_path):
    key = certs("a.test", kind="rsa").key
    status, _, said = run("--check", "--https", "127.0.0.1:0", "--route", "a.test=status:410",
                          "--cert", f"{certs('a.test').chain},{key}")
    assert status == 2
    assert str(certs("a.test").chain) in said and str(key) in said
    assert "is not the one of the certificate" in said and "is expected" in said
