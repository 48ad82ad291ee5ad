"""Properties: rooms ADDR, GATE and TX against models of their own, with made-up questions.

The models are written from what README.md promises, with Python's ipaddress and regular
expressions, and share no code or order of steps with rproxy.c. The program tests/prop_gate.c
answers for rproxy. `make check` asks 2,000 questions of each kind; RP_BIG=1 asks 20,000.
"""

import ipaddress
import re
import string
import subprocess

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from harness import BIG, ROOT

CASES = settings(max_examples=20000 if BIG else 2000, deadline=None, database=None,
                 suppress_health_check=list(HealthCheck),
                 phases=[Phase.explicit, Phase.generate, Phase.shrink])


@pytest.fixture(scope="module")
def ask(certs):
    """ask(word, value, ...): rproxy's answer."""
    subprocess.run(["make", "-s", "build/tests/prop_gate"], cwd=ROOT, check=True)
    program = subprocess.Popen([ROOT / "build/tests/prop_gate", certs("a.test", "*.w.test").pem],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def question(word, *values):
        hexed = [v.encode("latin-1").hex() or "-" for v in values]
        program.stdin.write(" ".join([word, *hexed]).encode() + b"\n")
        program.stdin.flush()
        answer = program.stdout.readline()
        assert answer, f"it died over {word} {values}"
        return answer.decode().strip()

    yield question
    program.stdin.close()
    assert program.wait(10) == 0


# ==[ addresses ]==================================================================================


def parse_ip(text):
    """An address as text, IPv4 in one form; None for anything else."""
    if re.search(r"[^0-9a-fA-F.:]", text):
        return None  # ipaddress knows scopes, too
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    return fold(ip)


def fold(ip):
    return ip.ipv4_mapped or ip if ip.version == 6 else ip


def parse_net(text):
    """A network; None when it is none, or has bits set behind its prefix."""
    m = re.fullmatch(r"([0-9a-fA-F.:]+)(?:/(0|[1-9][0-9]{0,9}))?", text)
    if not m or parse_ip(m[1]) is None:
        return None
    try:
        net = ipaddress.ip_network(m[1] + (f"/{m[2]}" if m[2] else ""))
    except ValueError:
        return None
    if net.version == 6 and net.prefixlen >= 96 and net.network_address.ipv4_mapped:
        net = ipaddress.ip_network((net.network_address.ipv4_mapped, net.prefixlen - 96))
    return net


def holds(net, ip):
    return net.version == ip.version and ip in net


V4 = st.one_of(st.sampled_from([0, 2**32 - 1, 0x7F000001, 0x0A000000, 0x0A0000FF, 0xC0A80101]),
               st.integers(0, 2**32 - 1)).map(ipaddress.IPv4Address)
V6 = st.one_of(st.sampled_from([0, 1, 2**128 - 1, 0xFFFF << 32, 0x20010DB8 << 96]),
               st.integers(0, 2**128 - 1), st.integers(0, 2**16).map(lambda n: 0xFD << 120 | n),
               ).map(ipaddress.IPv6Address)


ANY = st.one_of(V4, V6)


@st.composite
def spelt(draw, ips=None):
    """An address in one of the spellings that are right."""
    ip = draw(ANY if ips is None else ips)
    ways = [str(ip)]
    if ip.version == 4:
        ways += [f"::ffff:{ip}", f"::FFFF:{int(ip) >> 16:x}:{int(ip) & 65535:X}",
                 f"0:0:0:0:0:ffff:{ip}"]
    else:
        ways += [ip.exploded, str(ip).upper(), ip.exploded.replace("0000", "0")]
    return draw(st.sampled_from(ways))


NEARLY = st.text("0123456789abcdefAF.:/[]%x ", max_size=24)


@st.composite
def ranges(draw):
    """A range whose spare bits are 0, most often."""
    text = draw(spelt())
    ip = ipaddress.ip_address(text)
    bits = draw(st.integers(0, ip.max_prefixlen))
    if draw(st.integers(0, 9)):
        net = ipaddress.ip_network((int(ip) >> (ip.max_prefixlen - bits) <<
                                    (ip.max_prefixlen - bits), bits)
                                   if ip.version == 6 else (int(ip), bits), strict=False)
        text = str(net.network_address)
        if ip.version == 4:
            text = str(ipaddress.IPv4Address(int(net.network_address)))
    return text + draw(st.sampled_from([f"/{bits}", f"/{bits}", f"/{bits}", "", f"/0{bits}"]))


GOOD_RANGES = ranges().filter(lambda text: parse_net(text) is not None)


@st.composite
def near(draw, net):
    """An address in the range, at its edges, or one bit away from it."""
    first = int(net.network_address)
    last = int(net.broadcast_address)
    at = draw(st.one_of(st.integers(first, last), st.sampled_from([first, last])))
    if draw(st.booleans()):
        at ^= 1 << draw(st.integers(0, net.max_prefixlen - 1))
    ip = (ipaddress.IPv4Address if net.version == 4 else ipaddress.IPv6Address)(at)
    return draw(spelt(st.just(ip)))


@seed(1)
@CASES
@given(st.data())
def test_ranges(ask, data):
    text = data.draw(st.one_of(ranges(), NEARLY))
    net = parse_net(text)
    ips = data.draw(st.lists(st.one_of(spelt(), near(net)) if net else spelt(), min_size=3,
                             max_size=3))
    answer = ask("cidr", text, *ips)
    if net is None:
        assert answer == "bad"
        return
    printed, *inside = answer.split()
    assert parse_net(printed) == net
    assert [i == "1" for i in inside] == [holds(net, parse_ip(ip)) for ip in ips]


@seed(2)
@CASES
@given(st.data())
def test_lists(ask, data):
    allow, deny = (data.draw(st.lists(GOOD_RANGES, max_size=4)) for _ in range(2))
    nets = [(parse_net(text), is_allow) for texts, is_allow in ((allow, True), (deny, False))
            for text in texts]
    text = data.draw(near(data.draw(st.sampled_from([n for n, _ in nets]))) if nets else spelt())
    ip = parse_ip(text)

    def bits(wanted):
        return max([n.prefixlen for n, a in nets if a == wanted and holds(n, ip)], default=-1)

    if bits(True) >= 0 or bits(False) >= 0:
        want = bits(True) > bits(False)
    else:
        want = not allow
    assert ask("allowed", ",".join(allow), ",".join(deny), text) == ("1" if want else "0")


# ==[ the believed address ]=======================================================================

TRUST = ["10.0.0.0/8", "127.0.0.1", "2001:db8::/32", "fd00::/8", "cf:173.245.48.0/20",
         "cf:2606:4700::/32", "173.245.49.0/24", "::/0", "0.0.0.0/1"]
KNOWN = ["10.0.0.1", "10.255.0.9", "127.0.0.1", "2001:db8::7", "fd00::1", "173.245.48.9",
         "173.245.49.9", "2606:4700::9", "::ffff:10.0.0.1", "8.8.8.8", "1.2.3.4", "2a00::17"]
JUNK = ["junk", "unknown", "_hidden", "", " ", "10.0.0.1:", "10.0.0.1:99999", "[10.0.0.1]",
        "[2001:db8::7", "2001:db8::7%eth0", "010.0.0.1", "10.0.0", "10.0.0.1 10.0.0.2", "\"1.2.3.4\"",
        "[::1]x", "[::1]:", "[]", ":80", "1.2.3.4:+1", "[2001:db8::7]:8x"]


@st.composite
def entry(draw):
    text = draw(st.one_of(st.sampled_from(KNOWN), st.sampled_from(KNOWN), spelt(),
                          st.sampled_from(JUNK)))
    if text in JUNK:
        return text
    port = draw(st.sampled_from(["", "", "", ":0", ":443", ":65535", ":65536"]))
    if ":" in text:
        text = f"[{text}]" if port or draw(st.booleans()) else text
    blank = draw(st.sampled_from(["", " ", "\t "]))
    return blank + text + port + blank


FIELD = st.lists(entry(), max_size=5).map(",".join)


def model_entry(text):
    """An entry of X-Forwarded-For as an address, or None."""
    m = (re.fullmatch(r"\[([^\[\]]*:[^\[\]]*)\](?::(\d+))?", text)
         or re.fullmatch(r"([^:\[\]]*)(?::(\d+))?", text)
         or re.fullmatch(r"([^\[\]]*:[^\[\]]*:[^\[\]]*)()", text))
    if not m or (m[2] and int(m[2]) > 65535):
        return None
    return parse_ip(m[1])


def model_believe(trust, peer, tls, cf_ip, proto, visitor, xffs):
    nets = [(parse_net(t.removeprefix("cf:")), t.startswith("cf:")) for t in trust]

    def trusted(ip, cloudflare=False):
        return any(holds(n, ip) and (cf or not cloudflare) for n, cf in nets)

    who = parse_ip(peer)
    if not trusted(who):
        return who, tls
    said = parse_ip(cf_ip)
    if trusted(who, cloudflare=True) and said is not None:
        who = said
    else:
        chain = [e.strip(" \t") for e in ",".join(xffs).split(",")]
        for text in reversed([e for e in chain if e]):
            ip = model_entry(text)
            if ip is None:
                break
            who = ip
            if not trusted(who):
                break
    scheme = re.search(r'"scheme"[ \t]*:[ \t]*"(https?)"', visitor)
    schemes = {scheme[1] if scheme else None, {"wss": "https", "ws": "http"}.get(
        proto.split(",")[0].strip(" \t").lower(), proto.split(",")[0].strip(" \t").lower())}
    return who, "https" in schemes or (tls and "http" not in schemes)


@seed(3)
@CASES
@given(trust=st.lists(st.sampled_from(TRUST), max_size=5, unique=True),
       peer=st.one_of(st.sampled_from(KNOWN), spelt()), tls=st.booleans(),
       cf_ip=st.one_of(st.just(""), st.sampled_from(KNOWN + JUNK), spelt()),
       proto=st.sampled_from(["", "", "http", "https", "HTTPS", "wss", "ws", "ftp", " https ",
                              "https, http", "http,https", ",", "httpsx"]),
       visitor=st.sampled_from(["", "", '{"scheme":"https"}', '{"scheme":"http"}',
                                '{ "scheme"\t: "https" , "a":1}', '{"scheme":"ftp"}', '{"scheme"}',
                                '{"scheme":"https', "https", '{"scheme":https}']),
       xffs=st.lists(FIELD, max_size=4))
def test_the_believed_address(ask, trust, peer, tls, cf_ip, proto, visitor, xffs):
    who, https = model_believe(trust, peer, tls, cf_ip, proto, visitor, xffs)
    answer = ask("believe", ",".join(trust), peer, "1" if tls else "0", cf_ip, proto, visitor,
                 *xffs).split()
    assert parse_ip(answer[0]) == who
    assert answer[1] == ("https" if https else "http")


# ==[ Location ]===================================================================================

TARGETS = ["http://10.0.0.1", "http://10.0.0.1:8080", "https://10.0.0.1", "https://10.0.0.1:8443",
           "http://10.0.0.2", "https://10.0.0.3", "http://[fd00::1]", "http://[fd00::1]:8080",
           "http://nas.lan", "http://nas.lan:5000", "https://nas.lan", "unix:/run/x"]
HOSTS = ["a.test", "b.test", "n.test", "x.w.test", "*.w.test", "*"]  # a certificate: a, *.w
PATHS = ["", "", "/p", "/p/q", "/pq"]


@st.composite
def tables(draw):
    """Routes with their settings; each host and path once."""
    routes, taken = [], set()
    for host, path in draw(st.lists(st.tuples(st.sampled_from(HOSTS), st.sampled_from(PATHS)),
                                    min_size=1, max_size=5, unique=True)):
        tcp = not path and host not in taken and draw(st.integers(0, 9)) == 0
        if host in {h for h, p, *_ in routes if p is None}:
            continue
        taken.add(host)
        if tcp:
            routes.append((host, None, ["tcp://10.0.0.9:8443"], False, "keep"))
            continue
        targets = draw(st.lists(st.sampled_from(TARGETS), min_size=1, max_size=3, unique=True))
        strip = bool(path) and draw(st.booleans())
        mode = draw(st.sampled_from(["keep", "keep", "target", "inner.lan", "inner.lan:81",
                                     "b.test"]))
        routes.append((host, path, targets, strip, mode))
    return routes


def rules(table):
    for host, path, targets, strip, mode in table:
        rule = f"{host}{path or ''}={','.join(targets)}"
        if path is not None:
            rule += f" host={mode}" + " strip" * strip
        yield rule


AUTHORITIES = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.9", "[fd00::1]", "[FD00:0::0001]",
               "[::ffff:10.0.0.1]", "nas.lan", "NAS.lan.", "localhost", "inner.lan", "a.test",
               "b.test", "x.w.test", "elsewhere.test", "10.0.0.1.elsewhere.test", "nas", "-x",
               "x..y", "[fd00::1", "[]", "", "%31", "10.0.0.01", "caf\xe9"]


@st.composite
def references(draw):
    if draw(st.integers(0, 9)) == 0:
        return draw(st.text(string.ascii_letters + "/\\?#@:.[]%1", max_size=20)).strip()
    scheme = draw(st.sampled_from(["http:", "https:", "http:", "https:", "HTTP:", "", "ftp:", "x", "wS:",
                                   "wss:", "a+b.c-d:", "1a:", ":"]))
    slashes = draw(st.sampled_from(["//", "//", "//", "//", "\\\\", "/\\", "///", "/", ""]))
    user = draw(st.sampled_from(["", "", "", "me@", "me:pw@", "a@b@"]))
    port = draw(st.sampled_from(["", "", ":80", ":443", ":8080", ":8443", ":5000", ":81", ":",
                                 ":7", ":65536", ":x", ":080"]))
    rest = draw(st.sampled_from(["", "/", "/p", "/p/x", "/p/q", "/pq/x", "/x?y=//10.0.0.1/", "?q",
                                 "#f", "\\x", "/p?q", "/p#f", "/q"]))
    return scheme + slashes + user + draw(st.sampled_from(AUTHORITIES)) + port + rest


def model_host(text):
    """The one form of uri-host, or None."""
    if m := re.fullmatch(r"\[([^\]]*)\]", text):
        ip = None if re.search(r"[^0-9a-fA-F:.]", m[1]) else m[1]
        try:
            return ip and ":" in ip and ipaddress.IPv6Address(ip) or None
        except ValueError:
            return None
    text = text[:-1] if text.endswith(".") else text
    labels = text.split(".")
    fine = len(text) <= 253 and all(
        re.fullmatch(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", la) for la in labels)
    if not fine:
        return None
    return parse_ip(text) or text.lower()


def model_authority(text):
    """(host, port or 0), or None."""
    m = re.fullmatch(r"(\[[^\]]*\]|[^:\[]*)(?::(\d*))?", text.rpartition("@")[2], re.S)
    if not m or int(m[2] or 0) > 65535:
        return None
    host = model_host(m[1])
    return host and (host, int(m[2] or 0))


def same(a, b):
    """Hosts, addresses folded."""
    a, b = (fold(h) if isinstance(h, (ipaddress.IPv4Address, ipaddress.IPv6Address)) else h
            for h in (a, b))
    return a == b


def model_location(table, own, here, https, public, value):
    """What a reference becomes. own: the route in use; here: (host text, port) of the visitor."""
    m = re.fullmatch(r"(?i)((?:[a-z][a-z0-9+.-]*:)?[/\\]{2,}([^/\\?#]*))(.*)", value, re.S)
    host, path, targets, strip, mode = own
    if not m:
        return path + value if strip and value.startswith("/") else value
    before, authority, rest = m.groups()
    scheme = re.match(r"[^/\\:]*", before)[0]
    usual = {"http": 80, "https": 443, "ws": 80, "wss": 443, "": 443 if https else 80}.get(
        scheme.lower(), 0)
    ref = model_authority(authority)
    if not ref:
        return value
    port = ref[1] or usual

    best = None
    for route in sorted(table, key=lambda r: (r[0] == "*", r[0].startswith("*"), r[0],
                                              -len(r[1] or ""), r[1] or "")):
        for target in route[2]:
            kind, _, where = target.partition("://")
            if kind.startswith("unix"):
                continue
            t = model_authority(where)
            tport = t[1] or {"http": 80, "https": 443}[kind]
            if not same(t[0], ref[0]):
                continue
            very = tport == port
            if not very and not (usual and port == usual and tport in (80, 443)):
                continue
            p = route[1] or ""
            serves = route[3] or re.match(re.escape(p) + r"(?:[/?#]|$)" if p else "", rest)
            score = (very, bool(serves), route == own, len(p))
            if best is None or score > best[0]:
                best = (score, route)
    to = best and best[1]
    if not to:  # the name by which the backend knows itself
        name = {"keep": None, "target": "localhost" if targets[0].startswith("unix") else None}.get(
            mode, mode)
        name = name and model_authority(name)
        public_already = name and any(name[0] == r[0] for r in table)
        if name and usual and not public_already and same(name[0], ref[0]) and (name[1] or usual) == port:
            to = own
    if not to and usual and not targets[0].startswith("unix"):  # or by the visitor's name, its own port
        kind, _, where = targets[0].partition("://")
        tport = model_authority(where)[1] or {"http": 80, "https": 443}[kind]
        secure = usual == 443
        if ref[0] == "localhost":
            to = own if port == tport else None
        elif same(ref[0], model_host(here[0])) and not (secure and not https):
            downgrade = https and usual == 80 and ref[1] == here[1]
            to = own if port == tport or downgrade else None
    if not to:
        mine = model_authority(here[0])
        if strip and usual and same(mine[0], ref[0]) and (here[1] or usual) == port:
            return before + path + rest
        return value
    known = to[0].startswith("*") or to[0] == here[0]
    prefix = to[1] if to[3] else ""
    if not known and (to[1] is None or to[0] in ("a.test", "x.w.test")):
        where = f"https://{to[0]}" + (f":{public}" if public != 443 else "")
    elif known:
        where = f"{'https' if https else 'http'}://{here[0]}" + (f":{here[1]}" if here[1] else "")
    else:
        where = f"http://{to[0]}" + (f":{here[1]}" if here[1] and not https else "")
    if not usual:
        where = scheme + where[where.index(":"):]
    elif scheme.lower().startswith("w"):
        where = where.replace("http", "ws", 1)
    return where + prefix + rest


@seed(4)
@CASES
@given(table=tables(), data=st.data(), https=st.booleans(), port=st.sampled_from([0, 0, 80, 8080]),
       public=st.sampled_from([443, 8443]), value=references(),
       form=st.sampled_from(["Location: {}", "Content-Location: {}", "Refresh: 0; url={}",
                             "Refresh: 5;URL='{}'", "refresh: 1, {}", "X-Other: {}"]))
def test_locations(ask, table, data, https, port, public, value, form):
    usable = [r for r in table if r[1] is not None]
    if not usable:
        return
    own = data.draw(st.sampled_from(usable))
    host = {"*": "any.test", "*.w.test": "y.w.test"}.get(own[0], own[0])
    if form.startswith(("R", "r")) and value[:3].lower() == "url":
        return
    answer = ask("field", "1" if https else "0", f"{host}:{port}" if port else host,
                 (own[1] or "") + "/", str(public), form.format(value).strip(), *rules(table))
    want = model_location(table, own, (host, port), https, public, value)
    if form.startswith("X"):
        assert answer == ""  # other fields are none of its business
        return
    name, _, text = bytes.fromhex(answer).decode("latin-1").partition(": ")
    assert (name, text) == (form.partition(":")[0],
                            form.partition(": ")[2].format(want).strip() + "\r\n")
