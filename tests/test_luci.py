"""The LuCI page: loaded into Chromium over tests/openwrt/luci.js, which stands for LuCI, and used as
a person would. What it asks rpcd for comes from the package's own script and a running rproxy."""

import base64
import functools
import http.server
import json
import os
import pathlib
import re
import shutil
import socketserver
import subprocess
import threading
import urllib.error
import urllib.request

import pytest

from harness import BINARY, PATIENCE, ROOT, dead_port, wait_for

APP = ROOT / "configs/openwrt/luci-app-rproxy"
STUB = ROOT / "tests/openwrt"
VIEW = APP / "htdocs/luci-static/resources/view/rproxy.js"
PHONE = {"width": 390, "height": 844, "pixelRatio": 2}


class Browser:
    """Chromium, spoken to by the WebDriver protocol."""

    def __init__(self, folder, **wanted):
        port = dead_port()
        self.driver = subprocess.Popen(["chromedriver", f"--port={port}"], cwd=folder,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.base, self.session = f"http://127.0.0.1:{port}", None

        def up():
            try:
                return self.call("GET", "/status")["ready"]
            except OSError:
                return False

        wait_for(up, "chromedriver", 3 * PATIENCE)
        made = self.call("POST", "/session", capabilities={"alwaysMatch": {
            **wanted, "browserName": "chrome", "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"binary": shutil.which("chromium"), "args": [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                f"--user-data-dir={folder}/profile", "--disable-background-networking"],
                "mobileEmulation": {"deviceMetrics": PHONE}}}})
        self.session = f"/session/{made['sessionId']}"

    def call(self, method, path, **body):
        data = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(self.base + path, data, method=method,
                                         headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=9 * PATIENCE) as said:
                return json.load(said)["value"]
        except urllib.error.HTTPError as e:
            raise AssertionError(json.load(e)["value"]["message"]) from None

    def open(self, url):
        self.call("POST", f"{self.session}/url", url=url)

    def js(self, script, *args):
        return self.call("POST", f"{self.session}/execute/sync", script=script, args=list(args))

    def wait(self, script, *args):
        return wait_for(lambda: self.js(script, *args), script)

    def complaints(self):
        return [e["message"] for e in self.call("POST", f"{self.session}/se/log", type="browser")
                if "favicon" not in e["message"]]

    def picture(self, name):
        """For a person to look at: RP_PICTURES names a folder."""
        if "RP_PICTURES" in os.environ:
            shot = self.call("GET", f"{self.session}/screenshot")
            path = pathlib.Path(os.environ["RP_PICTURES"], f"{name}.png")
            path.write_bytes(base64.b64decode(shot))

    def close(self):
        try:
            if self.session:
                self.call("DELETE", self.session)
        finally:
            self.driver.terminate()
            self.driver.wait(PATIENCE)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    made = Browser(tmp_path_factory.mktemp("chromium"))
    yield made
    made.close()


class Site(http.server.SimpleHTTPRequestHandler):
    """The stub, the view, and ubus; `status` runs the script that rpcd would."""

    def translate_path(self, path):
        for name, file in (("/luci.html", STUB / "luci.html"), ("/luci.js", STUB / "luci.js"),
                           ("/luci-static/resources/view/rproxy.js", VIEW)):
            if path == name:
                return str(file)
        return "/nonexistent"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        _, _, script, method = self.path.split("/")
        said = self.server.rpcd(script, "call", method)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(said.encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def page(browser, tmp_path):
    """page(SECTIONS, status=PORT): the view with this UCI configuration, in the browser."""
    made = []

    def rpcd(status, script, *args):
        (tmp_path / "uci").write_text(f"#!/bin/sh\n[ \"$*\" != '-q get rproxy.main.status' ] || "
                                      f"echo '{status}'\n")
        (tmp_path / "uci").chmod(0o755)
        return subprocess.run(
            [shutil.which("busybox"), "ash", APP / "root/usr/libexec/rpcd" / script, *args],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=3 * PATIENCE, check=True).stdout

    def make(sections=(), status="0"):
        site = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Site)
        site.daemon_threads = True
        site.rpcd = functools.partial(rpcd, status)
        made.append(site)
        threading.Thread(target=site.serve_forever, daemon=True).start()
        browser.open(f"http://127.0.0.1:{site.server_address[1]}/luci.html")
        browser.complaints()
        browser.js("config.push(...arguments[0]); luci('rproxy');",
                   [{".name": "main", ".type": "rproxy"}, *sections])
        browser.wait("return !!document.querySelector('#save')")
        return browser

    yield make
    complaints = browser.complaints()
    browser.open("about:blank")  # ends its polling before what it polls
    for site in made:
        site.shutdown()
        site.server_close()
    assert not complaints


def fill(browser, option, *values, where=".modal"):
    """Types values into a field, line by line; returns what the form says is wrong when saved."""
    browser.js("""
        const [ where, option, values ] = arguments;
        const box = document.querySelector(`${where} [data-option="${option}"]`);
        for (const [ i, v ] of values.entries()) {
            const input = box.querySelectorAll('input, select')[i];
            if (input.type === 'checkbox')
                input.checked = v;
            else
                input.value = v;
            input.dispatchEvent(new Event('input'));
        }""", where, option, list(values))


def click(browser, selector):
    browser.js("document.querySelector(arguments[0]).click()", selector)


def errors(browser):
    return browser.js("""return Object.fromEntries([ ...document.querySelectorAll('.invalid') ]
        .map(b => [ b.dataset.option, b.querySelector('.error').textContent ]))""")


def sections(browser, kind):
    return browser.js("return config.filter(s => s['.type'] === arguments[0])", kind)


def test_a_route_added_is_saved_as_the_init_script_reads_it(page):
    browser = page()
    click(browser, "#grid-route .add")
    fill(browser, "host", "jellyfin.example.com", "media.example.com")
    fill(browser, "target", "http://192.168.1.4:8096")
    fill(browser, "hsts", "1")
    fill(browser, "allow", "192.168.1.0/24", "fd00::/8")
    fill(browser, "set", 'X-From: the "edge" \\ here')
    fill(browser, "strip", True)
    fill(browser, "path", "/web")
    fill(browser, "balance", "round-robin")
    browser.picture("route")
    click(browser, ".modal .save")
    assert errors(browser) == {}
    assert sections(browser, "route") == [{
        ".name": "new1", ".type": "route", ".anonymous": True,
        "host": ["jellyfin.example.com", "media.example.com"],
        "target": ["http://192.168.1.4:8096"], "path": "/web", "hsts": "1", "strip": "1",
        "allow": ["192.168.1.0/24", "fd00::/8"], "set": ['X-From: the "edge" \\ here'],
        "balance": "round-robin"}]
    row = browser.js("return document.querySelector('#grid-route tr[data-sid]').innerText")
    assert "jellyfin.example.com, media.example.com" in row and "/web" in row
    click(browser, "#save")
    assert browser.js("return saved") == 1
    assert sections(browser, "rproxy")[0] == {".name": "main", ".type": "rproxy", "enabled": "0",
                                              "open_wan": "0", "redirect": "1"}


def test_a_wrong_host_is_refused_and_nothing_is_saved(page):
    browser = page()
    click(browser, "#grid-route .add")
    fill(browser, "host", "https://jellyfin.example.com")
    fill(browser, "target", "http://192.168.1.4:8096")
    click(browser, ".modal .save")
    assert errors(browser).keys() == {"host"} and "without http://" in errors(browser)["host"]
    assert "host" not in sections(browser, "route")[0]
    fill(browser, "host", "")
    click(browser, ".modal .save")
    assert errors(browser) == {"host": "Expecting: non-empty value"}
    click(browser, ".modal .cancel")
    assert sections(browser, "route") == []


# Each value is judged by the page and by rproxy itself: neither may be stricter than the other
# where a person would notice.
GRAMMAR = [
    ("host", ["a.example.com", "*.example.com", "*", "192.168.1.1", "[::1]", "nas", "a_b.test"],
     ["a b", "*.*.com", "a..b", "-a.test", "a.test:80", "http://a.test", "1.2.3.256",
      "a*", "::1", "*.1.2.3.4"]),
    ("path", ["/a", "/a/b/", "/a%20b"], ["/a;b", "/a?b", "/a#b", "/a/*", "/a b", "/%zz",
                                                 "/a//b", "/a/../b", "/a=b"]),
    ("target", ["http://10.0.0.1", "https://nas.lan:8443", "http://[fd00::1]:80", "unix:/run/x",
                "redirect:https://a.test{uri}", "status:410"],
     ["10.0.0.1", "http://", "http://a:0", "http://a:70000", "http://a/b", "ftp://a", "tcp://a",
      "unix:x", "redirect:a", "redirect:https://a{x}", "status:302", "status:99", "http://a@b"]),
    ("allow", ["10.0.0.0/8", "10.0.0.1", "fd00::/8", "private", "::ffff:1.2.3.4"],
     ["10.0.0.0/33", "10.0.0", "a", "fd00::/129", "1:2", "1::2::3"]),
    ("rate", ["1/s", "20/s:100"], ["20", "0/s", "20/m", "20/s:", "20/s:0"]),
    ("set", ["X-A:b", "X-A: b c", "Authorization: Basic x"], ["X-A", "X A:b", "X-A:", ":b",
                                                              "Connection: x", "TE:x"]),
    ("add_response", ["X-A:b"], ["Content-Length: 1"]),
    ("hide", ["Server"], ["a b", "a:b"]),
    ("host_header", ["keep", "target", "a.test", "a.test:81"], ["a b", "http://a", "a:0"]),
    ("wake", ["00:11:22:aa:bb:cc", "00-11-22-aa-bb-cc@10.0.0.255", "00:11:22:AA:BB:CC@10.0.0.1:7"],
     ["00:11:22:aa:bb", "00:11:22:aa:bb:cg", "00:11:22-aa:bb:cc", "00:11:22:aa:bb:cc@"]),
    ("verify", ["ca", "off", "pin:" + "0a" * 32], ["no", "pin:0a"]),
    ("body_max", ["0", "10g", "64k"], ["10t", "ten"]),
    ("response_timeout", ["10m", "100ms", "1h"], ["10", "soon", "10x"]),
    ("check", ["/healthz", "/a?b"], ["healthz", "/a b"]),
]
RULE = {"host_header": "host", "add_response": "add-response", "body_max": "body-max",
        "response_timeout": "response-timeout"}


def rule(option, value):
    parts = {"host": "a.test", "path": "", "target": "https://10.0.0.1"}
    setting = ""
    if option in parts:
        parts[option] = value
    else:
        text = value.replace("\\", "\\\\").replace('"', '\\"')
        setting = f' {RULE.get(option, option)}="{text}"'
    return f"{parts['host']}{parts['path']}={parts['target']}{setting}"


def test_the_page_and_the_program_agree_on_every_setting(page, tmp_path):
    browser = page()
    click(browser, "#grid-route .add")
    conf, lines, judged = tmp_path / "conf", ["http 80"], {}
    for option, good, bad in GRAMMAR:
        for value in [*good, *bad]:
            lines.append("route " + rule(option, value).replace("a.test", f"r{len(lines)}.a.test", 1)
                         if option != "host" else "route " + rule(option, value))
            judged[len(lines)] = (option, value, value in good)
    conf.write_text("\n".join(lines) + "\n")
    done = subprocess.run([*BINARY, "--check", "-c", conf], capture_output=True, text=True,
                          timeout=3 * PATIENCE)
    refused = {int(n) for n in re.findall(rf"^{re.escape(str(conf))}:(\d+):", done.stderr, re.M)}
    wrong = [j for n, j in judged.items() if j[2] == (n in refused)]
    assert not wrong, f"rproxy thinks otherwise: {wrong}\n{done.stderr}"
    for option, good, bad in GRAMMAR:
        for value in [*good, *bad]:
            fill(browser, option, value)
            click(browser, ".modal .save")
            open_, said = browser.js("return [ !!document.querySelector('.modal'), "
                                     "[ ...document.querySelectorAll('.invalid') ]"
                                     ".map(b => b.dataset.option) ]")
            assert open_, "host and target are still empty or wrong"
            assert (option in said) == (value in bad), (option, value, said)
        fill(browser, option, "")
    fill(browser, "host", "a.test/x")
    fill(browser, "path", "a")
    click(browser, ".modal .save")
    assert errors(browser).keys() == {"host", "path", "target"}
    click(browser, ".modal .cancel")


def test_settings_are_written_with_their_defaults_left_out(page):
    browser = page([{".name": "cfg1", ".type": "cert", "domain": "a.test"}])
    fill(browser, "enabled", True, where="#section-main")
    fill(browser, "http", "80x", where="#section-main")
    fill(browser, "public_port", "70000", where="#section-main")
    fill(browser, "default", "302", where="#section-main")
    click(browser, "#save")
    assert errors(browser).keys() == {"http", "public_port", "default"}
    assert browser.js("return saved") == 0
    fill(browser, "http", "192.168.1.1:80", "[::1]:80", where="#section-main")
    fill(browser, "public_port", "443", where="#section-main")
    fill(browser, "default", "https://www.example.com/", where="#section-main")
    fill(browser, "trust", "cloudflare", where="#section-main")
    fill(browser, "log_level", "warn", where="#section-main")
    click(browser, "#save")
    assert errors(browser) == {} and browser.js("return saved") == 1
    assert sections(browser, "rproxy") == [{
        ".name": "main", ".type": "rproxy", "enabled": "1", "open_wan": "0", "redirect": "1",
        "http": ["192.168.1.1:80", "[::1]:80"], "public_port": "443", "trust": ["cloudflare"],
        "default": "https://www.example.com/", "log_level": "warn"}]


def test_a_certificate_is_a_domain_or_two_files(page):
    browser = page()
    click(browser, "#grid-cert .add")
    click(browser, ".modal .save")
    assert errors(browser) == {"domain": "A domain, or a chain and a key"}
    fill(browser, "domain", "*.example.com")
    fill(browser, "chain", "/etc/x.pem")
    click(browser, ".modal .save")
    assert errors(browser) == {"domain": "A domain, or a chain and a key"}
    fill(browser, "chain", "")
    click(browser, ".modal .save")
    assert errors(browser) == {}
    assert [s["domain"] for s in sections(browser, "cert")] == ["*.example.com"]


def test_the_status_shows_listeners_routes_and_days_left_and_follows(page, proxy, backend, certs):
    pair = certs("a.test")
    p = proxy(f"a.test/x=http://127.0.0.1:{backend().port}", "a.test/old=redirect:https://b.test/",
              "a.test/gone=status:410", https="127.0.0.1:0", status="127.0.0.1:0",
              cert=f"{pair.chain},{pair.key}")
    browser = page(status=f"127.0.0.1:{p.status[0]}")

    def rows(name):
        return browser.js("return [ ...document.querySelectorAll(`#rproxy-${arguments[0]} tr`) ]"
                          ".slice(1).map(r => [ ...r.cells ].map(c => c.textContent))", name)

    assert ["http", f"127.0.0.1:{p.http[0]}"] in rows("listeners")
    target = f"http://127.0.0.1:{backend.made[0].port}"
    assert rows("routes") == [["a.test/gone", "status:410", "", "", ""],
                              ["a.test/old", "redirect:https://b.test/", "", "", ""],
                              ["a.test/x", target, "up", "0", "0"]]
    ((name, left),) = rows("certificates")
    assert name == "a.test" and left in ("299 days", "300 days")
    assert p.client("a.test").ask("/x", host="a.test").status == 200
    wait_for(lambda: ["a.test/x", target, "up", "1", "0"] in rows("routes"), "the page to follow")
    browser.picture("status")
    width = browser.js("return document.documentElement.scrollWidth")
    assert width <= browser.js("return window.innerWidth"), "it scrolls sideways on a phone"


@pytest.mark.parametrize("status", ["0", "", "127.0.0.1:1"])
def test_without_a_status_port_or_a_program_it_says_so(page, status):
    browser = page(status=status)
    text = browser.js("return document.querySelector('#rproxy-status').innerText")
    assert text == "It is not running, or has no status port."


def test_menu_and_rights_name_the_view_and_no_more_than_it_needs():
    share = APP / "root/usr/share"
    ((path, entry),) = json.loads((share / "luci/menu.d/luci-app-rproxy.json").read_text()).items()
    assert path == "admin/services/rproxy"
    assert entry["action"] == {"type": "view", "path": VIEW.stem}
    ((name, rights),) = json.loads((share / "rpcd/acl.d/luci-app-rproxy.json").read_text()).items()
    assert entry["depends"]["acl"] == [name]
    assert rights["read"] == {"ubus": {"luci.rproxy": ["status"]}, "uci": ["rproxy"]}
    assert rights["write"] == {"uci": ["rproxy"]}
    done = subprocess.run([shutil.which("busybox"), "ash",
                           APP / "root/usr/libexec/rpcd/luci.rproxy", "list"],
                          capture_output=True, text=True, timeout=PATIENCE)
    assert json.loads(done.stdout) == {"status": {}}


def test_the_template_for_translators_holds_every_text_of_the_page():
    texts = sorted({t.replace("\\'", "'") for t in
                    re.findall(r"_\('((?:[^'\\]|\\.)*)'\)", VIEW.read_text())})
    menu = json.loads((APP / "root/usr/share/luci/menu.d/luci-app-rproxy.json").read_text())
    acl = json.loads((APP / "root/usr/share/rpcd/acl.d/luci-app-rproxy.json").read_text())
    texts = sorted({*texts, *(e["title"] for e in menu.values()),
                    *(e["description"] for e in acl.values())})
    made = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8"\n' + "".join(
        f"\nmsgid {json.dumps(t, ensure_ascii=False)}\nmsgstr \"\"\n" for t in texts)
    pot = APP / "po/templates/rproxy.pot"
    if os.environ.get("RP_GOLDEN") == "1":
        pot.write_text(made)
    assert pot.read_text() == made
