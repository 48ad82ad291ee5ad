"""What the usual scanners say about the TLS listener: nothing above LOW.

testssl.sh asks the most of it in half a minute on an idle machine; RP_BIG=1 makes it ask everything
it knows, each of 370 suites and a list of old clients included.
"""

import json
import subprocess
from xml.etree import ElementTree

import pytest

from harness import BIG, SLOW, reply, says

# Findings above LOW that are there and are fine: identifier, and why. Those of TLS 1.2 itself would
# stand here, too, but testssl.sh has none above LOW for these suites.
FINE = {
    "engine_problem": "of the scanning machine: its openssl has no GOST",
}
SUITES = {f"ECDHE-{kind}-{suite}" for kind in ("ECDSA", "RSA") for suite in
          ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")}


@pytest.fixture
def scanned(proxy, backend, certs):
    """Both kinds of keys, and an application whose own fields are as they should be."""
    b = backend(says(reply(200, "X-Frame-Options: DENY", "X-Content-Type-Options: nosniff",
                           "Content-Security-Policy: default-src 'self'",
                           "Referrer-Policy: no-referrer", body=b"hello")))
    return proxy(f"a.test={b.url} hsts", https="127.0.0.1:0", default_cert="a.test",
                 max_conns_per_ip=0, cert=[certs("a.test").pem, certs("a.test", kind="rsa").pem])


def test_testssl_finds_nothing(scanned, certs, tmp_path):
    what = [] if BIG else ["-p", "-s", "-f", "-S", "-h", "-U"]
    done = subprocess.run(
        ["testssl", "--quiet", "--color", "0", "--warnings", "off", "--nodns", "none", "--ip",
         "127.0.0.1", "--add-ca", certs.root.chain, "--jsonfile", tmp_path / "found.json", *what,
         f"a.test:{scanned.https[0]}"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=(400 if BIG else 150) * SLOW)
    found = json.loads((tmp_path / "found.json").read_text())
    bad = [(f["severity"], f["id"], f["finding"]) for f in found
           if f["severity"] not in ("OK", "INFO", "LOW") and f["id"] not in FINE]
    assert not bad, done.stdout
    verdicts = {f["id"]: (f["severity"], f["finding"]) for f in found}
    for name in ("TLS1_2", "PFS", "heartbleed", "CCS", "ROBOT", "secure_renego",
                 "secure_client_renego", "CRIME_TLS", "POODLE_SSL", "SWEET32", "FREAK", "LOGJAM",
                 "BEAST", "RC4", "LUCKY13", *(["cipher_order"] if BIG else [])):
        assert verdicts[name][0] == "OK", (name, verdicts[name])  # it was asked, and is fine
    for name in ("SSLv2", "SSLv3", "TLS1", "TLS1_1"):
        assert verdicts[name][1].startswith("not offered"), (name, verdicts[name])


@pytest.mark.release
def test_sslscan_finds_nothing(scanned):
    done = subprocess.run(["sslscan", "--xml=-", "--sni-name=a.test",
                           f"127.0.0.1:{scanned.https[0]}"], capture_output=True, timeout=60 * SLOW)
    found = ElementTree.fromstring(done.stdout).find("ssltest")
    assert found is not None, done
    on = {p.get("type") + p.get("version") for p in found.iter("protocol") if p.get("enabled") == "1"}
    assert on == {"tls1.2"}
    ciphers = {c.get("cipher"): c.get("strength") for c in found.iter("cipher")}
    assert set(ciphers) == SUITES and set(ciphers.values()) == {"strong"}, ciphers
    assert {c.get("curve") for c in found.iter("cipher")} == {"25519"}
    assert found.find("renegotiation").get("supported") == "0"
    assert [h.get("vulnerable") for h in found.iter("heartbleed")] == ["0"]
    assert {c.findtext("expired") for c in found.iter("certificate")} == {"false"}
