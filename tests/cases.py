"""Tables of cases: raw bytes in, verdict, what may come out on the other side, and why.

REQUESTS: what a client sends.        RESPONSES: what a backend sends.
test_cases.py drives both against the real binary, whole, byte by byte and split at random places,
over HTTP and HTTPS; after each row a clean request of another client must get its own answer.

How to read a row of REQUESTS:

  refuse(id, clause, bytes)            400, connection closed, not a byte reaches the backend
  broken(id, clause, bytes)            400 and closed; the backend may have seen the head and a part
                                       of the body, then its connection dies: never a whole request
  forward(id, clause, bytes, Seen(..)) the backend gets exactly these requests, in order, and the
                                       client exactly their answers; the connection stays open
  answer(id, clause, bytes, "403")     the proxy's own answer; the backend sees nothing

A clause is of RFC 9112 unless another is named; a CVE number stands where a real proxy or server
fell for these bytes. "400|501" permits either, but it must be the same in every split.

The driver writes its worker's name for `app.test` (same length) and http or https for `SCHEME`.
Routes: app.test/admin=status:403, app.test=<backend>; nobody.test has neither route nor
certificate.
"""

from dataclasses import dataclass, field
from typing import Optional


@dataclass
class Seen:
    """One request as the backend must get it. Fields: `has` by value, `lacks` by name."""

    method: str
    target: str = "/"
    body: bytes = b""
    has: dict = field(default_factory=dict)
    lacks: tuple = ()


@dataclass
class Case:
    id: str
    clause: str
    raw: bytes
    answers: tuple  # of verdicts: "200", "400|501", "cut" (closed before a whole answer)
    seen: tuple = ()  # of Seen: whole requests
    partial: bool = False  # an unfinished request may be seen besides
    close: Optional[bool] = None  # None: not judged
    eof: bool = False  # the client shuts its sending side after the bytes
    has: dict = field(default_factory=dict)  # fields of the last answer; None: any value
    tls: tuple = ()  # answers over HTTPS where they differ


@dataclass
class Reply:
    id: str
    clause: str
    raw: bytes  # what the backend writes for the request
    verdict: str  # as in Case.answers
    body: bytes = b""
    request: bytes = b""  # default: a plain GET
    end: str = "keep"  # what the backend does then: keep, close, reset, or late: an answer unasked
    reuse: Optional[bool] = None  # True: must be, False: must not be
    has: dict = field(default_factory=dict)
    lacks: tuple = ()
    interim: Optional[int] = None  # how many 1xx the client must get
    tries: Optional[int] = None  # how often the backend may be asked


REQUESTS = []
RESPONSES = []


def req(*fields, method="GET", target="/", version="HTTP/1.1", host="app.test", body=b""):
    """A request with exactly these field lines; host=None leaves Host out."""
    lines = [f"{method} {target} {version}"] + ([f"Host: {host}"] if host is not None else [])
    return "\r\n".join([*lines, *fields]).encode("latin-1") + b"\r\n\r\n" + body


def post(*fields, **kw):
    return req(*fields, method="POST", **kw)


def chunked(body, *fields):
    return post("Transfer-Encoding: chunked", *fields, body=body)


def refuse(id, clause, raw, verdict="400", **kw):
    REQUESTS.append(Case(id, clause, raw, (verdict,), close=True, **kw))


def broken(id, clause, raw, verdict="400", **kw):
    REQUESTS.append(Case(id, clause, raw, (verdict,), partial=True, close=True, **kw))


def answer(id, clause, raw, verdict, **kw):
    REQUESTS.append(Case(id, clause, raw, (verdict,), **kw))


def forward(id, clause, raw, *seen, close=False, then=(), **kw):
    """`then`: own answers after the forwarded ones; such a connection is closed."""
    answers = ("200",) * len(seen) + tuple(then)
    REQUESTS.append(Case(id, clause, raw, answers, seen, close=bool(then) or close, **kw))


GET = Seen("GET")
HELLO = Seen("POST", body=b"hello")
EMPTY = Seen("POST")
CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n"

# ==[ the request line ]==========================================================================

forward("line-get", "3", req(), GET)
forward("line-target-untouched", "9110 7.7", req(target="/a/b.c;d=1?e=/../f&g=%41%c3%a9"),
        Seen("GET", "/a/b.c;d=1?e=/../f&g=%41%c3%a9"))
forward("line-target-loose-characters", "3.2", req(target='/a|b"c{d}[e]^`<f>\\'),
        Seen("GET", '/a|b"c{d}[e]^`<f>\\'))
forward("line-method-unknown", "9110 9.1", req(method="FROB"), Seen("FROB"))
forward("line-method-case", "9110 9.1", req(method="get"), Seen("get"))
forward("line-method-32", "3", req(method="M" * 32), Seen("M" * 32))
# 9112 3: longer than any method known SHOULD be 501
refuse("line-method-33", "3", req(method="M" * 33), "501")
refuse("line-method-endless", "3", b"M" * 9000, "501")
refuse("line-method-empty", "3", b" / HTTP/1.1\r\nHost: app.test\r\n\r\n")
for c in '\x00\x01\t"(),/:;<=>?@[\\]{}\x7f\x80\xff':
    refuse(f"line-method-byte-{ord(c):02x}", "9110 5.6.2", req(method=f"G{c}T"))
refuse("line-two-spaces", "3", b"GET  / HTTP/1.1\r\nHost: app.test\r\n\r\n")
refuse("line-two-spaces-version", "3", b"GET /  HTTP/1.1\r\nHost: app.test\r\n\r\n")
refuse("line-tab", "3", b"GET\t/ HTTP/1.1\r\nHost: app.test\r\n\r\n")
refuse("line-tab-version", "3", b"GET /\tHTTP/1.1\r\nHost: app.test\r\n\r\n")
refuse("line-leading-space", "3", b" GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")
refuse("line-trailing-space", "3", b"GET / HTTP/1.1 \r\nHost: app.test\r\n\r\n")
refuse("line-space-in-target", "3.2", req(target="/a b"))
refuse("line-fourth-word", "3", req(version="HTTP/1.1 x"))
refuse("line-no-target", "3", b"GET HTTP/1.1\r\nHost: app.test\r\n\r\n")
refuse("line-bare-lf", "2.2", b"GET / HTTP/1.1\nHost: app.test\r\n\r\n")
refuse("line-bare-cr", "2.2", b"GET / HTTP/1.1\rHost: app.test\r\n\r\n")
refuse("line-cr-cr-lf", "2.2", b"GET / HTTP/1.1\r\r\nHost: app.test\r\n\r\n")
refuse("line-nul-first", "2.2", b"\x00GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")
refuse("line-bom", "2.2", b"\xef\xbb\xbfGET / HTTP/1.1\r\nHost: app.test\r\n\r\n")
refuse("line-tls-hello", "2.2", bytes.fromhex("16030100c8010000c40303") + bytes(32))
refuse("line-proxy-header", "2.2", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + req())
refuse("line-proxy-v2-header", "2.2",
       b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12) + req())
for c in "\x00\x01\x08\x0b\x1f\x7f\x80\xff#":
    refuse(f"line-target-byte-{ord(c):02x}", "3.2", req(target=f"/a{c}b"))
refuse("line-target-cr", "2.2, CVE-2019-9740", req(target="/a\rX: b"))
refuse("line-target-lf", "2.2, CVE-2019-9740", req(target="/a\nX: b"))

forward("line-8100", "3", req(target="/" + "a" * 8085), Seen("GET", "/" + "a" * 8085))
refuse("line-8300", "3", req(target="/" + "a" * 8300), "414")
refuse("line-endless", "3", b"GET /" + b"a" * 40000, "414")
refuse("line-8300-query", "3", req(target="/?" + "a" * 8300), "414")

# two empty lines are forgiven, a third is not
forward("empty-line-1", "2.2", b"\r\n" + req(), GET)
forward("empty-line-2", "2.2", b"\r\n\r\n" + req(), GET)
refuse("empty-line-3", "2.2", b"\r\n\r\n\r\n" + req())
refuse("empty-line-lf", "2.2", b"\n" + req())
refuse("empty-line-cr", "2.2", b"\r" + req())
refuse("empty-line-space", "2.2", b" \r\n" + req())
forward("empty-line-between", "2.2", post("Content-Length: 5", body=b"hello\r\n") + req(),
        HELLO, GET)

# ==[ versions ]===================================================================================

forward("version-10", "2.3", req(version="HTTP/1.0"), GET, close=None)
forward("version-12", "9110 6.2", req(version="HTTP/1.2"), GET)
forward("version-19", "9110 6.2", req(version="HTTP/1.9"), GET)
for v in "HTTP/2.0", "HTTP/3.0", "HTTP/9.9", "HTTP/0.9":
    refuse(f"version-{v[5]}{v[7]}", "2.3", req(version=v), "505")
for name, v in {
    "lower": "http/1.1", "mixed": "Http/1.1", "two-digit-minor": "HTTP/1.10",
    "leading-zero": "HTTP/01.1", "no-minor": "HTTP/1", "dot-only": "HTTP/1.", "no-dot": "HTTP/11",
    "no-major": "HTTP/.1", "plus": "HTTP/+1.1", "hex": "HTTP/1.a", "three": "HTTP/1.1.1",
    "comma": "HTTP/1,1", "slash": "HTTP//1.1", "no-slash": "HTTP1.1", "nothing": "HTTP/",
    "other": "HTTQ/1.1", "shttp": "Secure-HTTP/1.4", "icy": "ICY/1.0", "rtsp": "RTSP/1.0",
    "unicode-digit": "HTTP/1.\xb9", "nul": "HTTP/1.1\x00",
}.items():
    refuse(f"version-{name}", "2.3", req(version=v))
refuse("version-09-simple", "9110 6.2", b"GET /\r\n")
refuse("version-09-simple-host", "9110 6.2", b"GET /\r\nHost: app.test\r\n\r\n")
refuse("version-2-preface", "9113 3.4", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), "400|505")

# ==[ target forms ]===============================================================================

forward("absolute", "3.2.2", req(target="SCHEME://app.test/x?y"), Seen("GET", "/x?y"))
forward("absolute-scheme-case", "9110 4.2.3",
        req(target="Scheme://app.test/x"), Seen("GET", "/x"))
forward("absolute-host-case", "9110 4.2.3", req(target="SCHEME://APP.TEST/x"), Seen("GET", "/x"))
forward("absolute-empty-path", "3.2.1", req(target="SCHEME://app.test"), GET)
forward("absolute-empty-path-query", "3.2.1", req(target="SCHEME://app.test?q"),
        Seen("GET", "/?q"))
forward("absolute-10-without-host", "3.2.2",
        req(target="SCHEME://app.test/x", version="HTTP/1.0", host=None),
        Seen("GET", "/x", has={"Host": "app.test"}), close=None)
refuse("absolute-11-without-host", "3.2", req(target="SCHEME://app.test/x", host=None))
refuse("absolute-other-host", "3.2.2", req(target="SCHEME://nobody.test/"))
refuse("absolute-other-host-routed", "3.2.2", req(target="SCHEME://app.test/", host="nobody.test"))
refuse("absolute-other-port", "3.2.2", req(target="SCHEME://app.test:81/"))
refuse("absolute-userinfo", "9110 4.2.4", req(target="SCHEME://u:p@app.test/"))
refuse("absolute-userinfo-decoy", "9110 4.2.4", req(target="SCHEME://app.test@nobody.test/"))
refuse("absolute-no-authority", "9110 4.2.1", req(target="SCHEME:///x"))
refuse("absolute-one-slash", "3.2.2", req(target="SCHEME:/x"))
refuse("absolute-port-only", "9110 4.2.1", req(target="SCHEME://:80/"))
refuse("absolute-bad-port", "9110 4.2.1", req(target="SCHEME://app.test:8x/"))
refuse("absolute-ftp", "3.2.2", req(target="ftp://app.test/"))
refuse("absolute-backslash", "3.2.2", req(target="SCHEME:\\\\app.test/"))
refuse("absolute-fragment", "3.2", req(target="SCHEME://app.test/#x"))
refuse("absolute-dots", "9110 4.2.3", req(target="SCHEME://app.test/x/../admin"))
answer("absolute-path-rule", "3.2.2", req(target="SCHEME://app.test/admin"), "403")

forward("asterisk-options", "3.2.4", req(method="OPTIONS", target="*"), Seen("OPTIONS", "*"))
# the last proxy of the chain MUST turn an empty path into "*"
forward("asterisk-from-absolute", "3.2.4", req(method="OPTIONS", target="SCHEME://app.test"),
        Seen("OPTIONS", "*"))
forward("asterisk-options-path", "3.2.4", req(method="OPTIONS", target="SCHEME://app.test/"),
        Seen("OPTIONS", "/"))
refuse("asterisk-get", "3.2.4", req(target="*"))
refuse("asterisk-post", "3.2.4", post("Content-Length: 0", target="*"))
refuse("asterisk-more", "3.2.4", req(method="OPTIONS", target="*x"))
refuse("asterisk-query", "3.2.4", req(method="OPTIONS", target="*?x"))
refuse("target-relative", "3.2", req(target="x"))
refuse("target-dots-relative", "3.2", req(target="../admin"))
refuse("target-query-only", "3.2", req(target="?x"))
refuse("target-authority-get", "3.2.3", req(target="app.test:80"))
refuse("target-at", "3.2, CVE-2021-40438", req(target="@nobody.test/"))
refuse("target-empty-host-port", "3.2.3", req(target=":80"))

answer("connect", "9110 9.3.6", req(method="CONNECT", target="app.test:443"), "501")
answer("connect-bad-port", "9110 9.3.6", req(method="CONNECT", target="app.test:x"), "501|400")
answer("connect-origin-form", "9110 9.3.6", req(method="CONNECT"), "501|400")
answer("trace", "9110 9.3.8", req(method="TRACE"), "405", has={"Allow": None})
answer("trace-max-forwards", "9110 7.6.2", req("Max-Forwards: 0", method="TRACE"), "405",
       has={"Allow": None})

# ==[ steps around a path rule ]===================================================================
# /admin is the proxy's own 403, the rest goes to the backend. A target that would take the other
# way once a backend has normalised it (dots, empty segments, %-escapes, in any order) is refused.

answer("path-rule", "9110 4.2.3", req(target="/admin"), "403")
answer("path-rule-slash", "9110 4.2.3", req(target="/admin/"), "403")
answer("path-rule-below", "9110 4.2.3", req(target="/admin/x?y"), "403")
answer("path-rule-query", "9110 4.2.3", req(target="/admin?/../"), "403")
answer("path-rule-dot-inside", "9110 4.2.3", req(target="/admin/./x"), "403")
answer("path-rule-dots-inside", "9110 4.2.3", req(target="/admin/x/../y"), "403")
answer("path-rule-out-and-in", "9110 4.2.3", req(target="/admin/../admin/x"), "403")
for name, target in {
    "dots": "/x/../admin", "dots-first": "/../admin", "dots-twice": "/x/y/../../admin",
    "dots-over-root": "/x/../../../admin", "dot": "/./admin", "dot-twice": "/././admin",
    "empty": "//admin", "empty-three": "///admin", "empty-dots": "/x//../admin",
    "escaped-dots": "/x/%2e%2e/admin", "escaped-dots-upper": "/x/%2E%2E/admin",
    "half-escaped": "/x/.%2e/admin", "half-escaped-2": "/x/%2e./admin",
    "zero": "/admin%00", "zero-below": "/admin%00/x", "zero-extension": "/admin%00.png",
    "broken-escape": "/admin%zz", "lone-percent": "/admin%",
    "escaped-dot": "/%2e/admin", "escaped-letter": "/%61dmin", "escaped-word": "/%61%64%6d%69%6e",
    "escaped-slash": "/x%2f..%2fadmin", "escaped-slash-first": "/%2fadmin",
    "escaped-slash-after": "/admin%2fx", "escaped-all": "/x%2F%2E%2E%2F%61dmin",
    "mixed": "/x/./%2e%2e//admin", "query": "/x/../admin?y",
    "out": "/admin/../x", "out-end": "/admin/..", "out-slash": "/admin/../",
    "out-escaped": "/admin/%2e%2e/x", "out-escaped-slash": "/admin/..%2fx",
    "out-empty": "/admin//../../x",
    "semicolon": "/admin;x=1", "dots-semicolon": "/x/..;/admin",  # servlet engines drop ";..."
}.items():
    refuse(f"path-{name}", "9110 4.2.3", req(target=target))
for name, target in {  # dots and blanks that take the same way before and after: untouched
    "dots-same": "/x/../y", "dot-same": "/x/./y", "empty-same": "/x//y", "dots-end": "/x/..",
    "dots-root": "/..", "escaped-same": "/x/%2e%2e/y", "escaped-slash-same": "/x%2fy",
    "zero-same": "/x%00y", "percent-same": "/100%", "broken-same": "/x%zz/y",
    "double-slash": "//", "query-dots": "/x?/../admin", "query-slash": "/?//admin",
    "prefix-only": "/administrator", "prefix-dash": "/admin-x", "case": "/ADMIN",
    "three-dots": "/x/.../admin", "dots-name": "/x/..admin", "hidden": "/.admin",
    "escaped-twice": "/x/%252e%252e/admin", "host-like": "//elsewhere.test/admin",
}.items():
    forward(f"path-{name}", "9110 7.7", req(target=target), Seen("GET", target))

# ==[ Host ]=======================================================================================

for name, host in {
    "case": "APP.TEST", "port": "app.test:8080", "dot": "app.test.", "dot-port": "app.test.:80",
}.items():
    forward(f"host-{name}", "9110 7.2", req(host=host), Seen("GET", has={"Host": host}))
refuse("host-missing", "3.2", req(host=None))
refuse("host-missing-with-fields", "3.2", req("X-Host: app.test", "Hos: app.test", host=None))
answer("host-missing-10", "3.2", req(version="HTTP/1.0", host=None), "404", tls=("404|421",))
refuse("host-twice", "3.2", req("Host: app.test"))
refuse("host-twice-differing", "3.2, CVE-2020-11724", req("Host: nobody.test"))
refuse("host-twice-case", "3.2", req("hOST: app.test"))
refuse("host-twice-apart", "3.2", req("X-A: b", "Host: app.test"))
refuse("host-twice-10", "3.2", req("Host: app.test", version="HTTP/1.0"))
refuse("host-twice-absolute", "3.2", req("Host: app.test", target="SCHEME://app.test/"))
for name, host in {
    "empty": "", "blank": " \t ", "list": "app.test, nobody.test",
    "space": "app.test nobody.test", "tab": "app.test\tx", "userinfo": "u@app.test",
    "userinfo-password": "u:p@app.test", "userinfo-decoy": "app.test@nobody.test",
    "path": "app.test/x", "query": "app.test?x", "fragment": "app.test#x",
    "url": "http://app.test", "slashes": "//app.test", "backslash": "app.test\\x",
    "port-letters": "app.test:8x", "port-sign": "app.test:+80", "port-minus": "app.test:-1",
    "port-overflow": "app.test:65536", "port-long": "app.test:4294967376",
    "port-twice": "app.test:80:80", "port-only": ":80", "port-blank": "app.test: 80",
    "v6-open": "[::1", "v6-close": "::1]", "v6-bare": "::1", "v6-bad": "[zz]", "v6-empty": "[]",
    "v6-tail": "[::1]x", "v6-port": "[::1]:x", "percent": "app%zz.test", "percent-end": "app.test%",
    "obs-text": "\xe4pp.test", "quote": '"app.test"', "angle": "<app.test>", "pipe": "app|test",
    "caret": "app^test", "brace": "{app.test}",
}.items():
    refuse(f"host-{name}", "3.2", req(host=host))
# a comma is a legal letter of reg-name, so this may also be a name that nobody serves
answer("host-list-same", "3.2", req(host="app.test,app.test"), "400|404", tls=("400|421",))
answer("host-unknown", "9110 7.4", req(host="nobody.test"), "404", tls=("421",))
answer("host-v6", "9110 7.2", req(host="[::1]:80"), "404", tls=("421",))
answer("host-v4", "9110 7.2", req(host="127.0.0.1:80"), "404", tls=("421",))
answer("host-subdomain-decoy", "9110 7.2", req(host="app.test.elsewhere.test"), "404",
       tls=("421",))

# ==[ field lines ]================================================================================

forward("field-obs-text", "5.5", req("X-A: caf\xe9 \x80\xff"),
        Seen("GET", has={"X-A": "caf\xe9 \x80\xff"}))
forward("field-tab-inside", "9110 5.5", req("X-A: a\tb"), Seen("GET", has={"X-A": "a\tb"}))
forward("field-ows-trimmed", "5.1", req("X-A: \t v \t "), Seen("GET", has={"X-A": "v"}))
forward("field-no-ows", "5.1", req("X-A:v"), Seen("GET", has={"X-A": "v"}))
forward("field-empty-value", "9110 5.5", req("X-A:", "X-B:  "),
        Seen("GET", has={"X-A": "", "X-B": ""}))
forward("field-colons", "5", req("X-A: :b:c:"), Seen("GET", has={"X-A": ":b:c:"}))
forward("field-repeated", "9110 5.3", req("X-A: 1", "X-B: 2", "X-A: 3"),
        Seen("GET", has={"X-A": ["1", "3"], "X-B": "2"}))
forward("field-name-tchar", "9110 5.6.2", req("X!#$%&'*+.^`|~: 1", "X-A: 2"),
        Seen("GET", has={"X-A": "2"}, lacks=("X!#$%&'*+.^`|~",)))
forward("field-100", "5", req(*(f"X-{i}: v" for i in range(99))), Seen("GET", has={"X-98": "v"}))
refuse("field-101", "9110 5.4", req(*(f"X-{i}: v" for i in range(100))), "431")
refuse("field-1000", "9110 5.4, CVE-2011-3192", req(*(f"X-{i}:" for i in range(1000))), "431")
forward("field-30k", "9110 5.4", req(*(f"X-{i:02}: " + "v" * 992 for i in range(30))),
        Seen("GET", has={"X-29": "v" * 992}))
refuse("field-40k", "9110 5.4", req(*(f"X-{i:02}: " + "v" * 992 for i in range(40))), "431")
refuse("field-long-value", "9110 5.4", req("X-A: " + "v" * 40000), "431")
refuse("field-long-name", "9110 5.4", req("X" * 40000 + ": v"), "431")
refuse("field-endless", "9110 5.4", req()[:-2] + b"X: " + b"v" * 40000, "431")

refuse("field-space-before-colon", "5.1", req("X-A : b"))
refuse("field-tab-before-colon", "5.1", req("X-A\t: b"))
refuse("field-forwarded-space-before-colon", "5.1", req("X-Forwarded-For : b"))
refuse("field-cloudflare-space-before-colon", "5.1", req("CF-X : b"))
refuse("field-forwarded-not-a-token", "5.1", req("X-Forwarded-F)r: b"))
refuse("field-cf-not-a-token", "5.1", req("CF-Connecting-I\xccP: 6.6.6.6"))
refuse("field-cf-space-before-colon", "5.1", req("CF-Ray : b"))
refuse("field-host-space-before-colon", "5.1", req("Host : app.test", host=None))
refuse("field-obs-fold", "5.2", req("X-A: b", " c"))
refuse("field-obs-fold-tab", "5.2", req("X-A: b", "\tc"))
refuse("field-obs-fold-blank", "5.2", req("X-A: b", " "))
refuse("field-obs-fold-host", "5.2", req(" x"))
refuse("field-obs-fold-start", "2.2",
       b"GET / HTTP/1.1\r\n Host: app.test\r\nHost: app.test\r\n\r\n")
refuse("field-obs-fold-te", "5.2", post("Transfer-Encoding:", " chunked", body=CHUNKS))
refuse("field-obs-fold-cl", "5.2", post("Content-Length:", " 5", body=b"hello"))
refuse("field-no-colon", "5", req("X-A"))
refuse("field-empty-name", "5", req(": v"))
refuse("field-colon-only", "5", req(":"))
refuse("field-pseudo", "9113 8.3", req(":authority: app.test"))
for c in '\x00\x01\t \x0b\x1f"(),/;<=>?@[\\]{}\x7f\x80\xa0\xff':
    refuse(f"field-name-byte-{ord(c):02x}", "9110 5.1", req(f"X{c}A: v"))
for c in "\x00\x01\x07\x08\x0b\x0c\x0e\x1b\x1f\x7f":
    refuse(f"field-value-byte-{ord(c):02x}", "9110 5.5", req(f"X-A: b{c}c"))
refuse("field-value-ends-nul", "9110 5.5", req("X-A: b\x00"))
refuse("field-bare-cr", "2.2", req("X-A: b\rc"))
refuse("field-bare-cr-smuggles", "2.2, CVE-2023-30589", req("X-A: b\rTransfer-Encoding: chunked"))
refuse("field-bare-lf", "2.2", req("X-A: b\nX-B: c"))
refuse("field-bare-lf-smuggles", "2.2, CVE-2022-2256", req("X-A: b\nContent-Length: 5"))
refuse("field-cr-cr-lf", "2.2", req("X-A: b\r"))
refuse("field-cr-in-name", "2.2", req("X\rA: b"))
refuse("field-nul-line", "2.2", req("\x00"))
refuse("head-lf-only", "2.2", req().replace(b"\r\n", b"\n"))
refuse("head-ends-lf", "2.2", req()[:-2] + b"\n")
refuse("head-ends-lf-lf", "2.2", req()[:-4] + b"\n\n")
refuse("head-ends-cr-cr", "2.2", req()[:-2] + b"\r\r\n")
refuse("head-ends-space", "2.2", req()[:-2] + b" \r\n\r\n")
answer("head-cut", "8", req()[:-2], "400|cut", eof=True, close=True)
answer("head-cut-line", "8", b"GET / HT", "400|cut", eof=True, close=True)
answer("head-nothing", "8", b"", "cut", eof=True, close=True)

# ==[ what is not passed on ]======================================================================

forward("hop-named", "9110 7.6.1",
        req("Connection: X-Hop, x-hop2", "X-Hop: 1", "X-Hop2: 2", "X-A: 3"),
        Seen("GET", has={"X-A": "3"}, lacks=("X-Hop", "X-Hop2")))
forward("hop-named-lists", "9110 7.6.1",
        req("Connection: ,, X-Hop ,", "X-Hop: 1", "connection: X-Two", "X-Two: 2"),
        Seen("GET", lacks=("X-Hop", "X-Two")))
forward("hop-known", "9110 7.6.1",
        req("Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "TE: trailers",
            "Connection: TE, keep-alive", "Trailer: X-A"),
        Seen("GET", lacks=("Keep-Alive", "Proxy-Connection", "TE")))
# a client can't have the fields removed that the backend relies on
forward("hop-named-forwarded", "9110 7.6.1, CVE-2022-31813",
        req("Connection: close, X-Forwarded-For, X-Real-IP, X-Forwarded-Proto, X-Forwarded-Host"),
        Seen("GET", has={"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1",
                         "X-Forwarded-Proto": "SCHEME", "X-Forwarded-Host": "app.test"}),
        close=True)
for name in "Host", "Content-Length", "Transfer-Encoding":
    refuse(f"hop-names-{name.lower()}", "9110 7.6.1",
           post(f"Connection: close, {name.lower()}", "Content-Length: 5", body=b"hello"))
    refuse(f"hop-names-{name.lower()}-only", "9110 7.6.1", req(f"Connection: {name}"))
refuse("hop-names-te-second-line", "9110 7.6.1",
       chunked(CHUNKS, "Connection: keep-alive", "Connection: transfer-encoding"))
forward("drop-spoofed", "contract", req("X-Forwarded-For: 6.6.6.6", "X-Real-IP: 6.6.6.6",
        "X-Forwarded-Proto: gopher", "X-Forwarded-Host: evil.test", "Forwarded: for=6.6.6.6",
        "CF-Connecting-IP: 6.6.6.6", "X-Forwarded-Port: 6"),
        Seen("GET", has={"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1",
                         "X-Forwarded-Proto": "SCHEME", "X-Forwarded-Host": "app.test"},
             lacks=("Forwarded", "CF-Connecting-IP", "X-Forwarded-Port")))
forward("drop-underscore", "contract", req("X_Forwarded_For: 6.6.6.6", "Content_Length: 5"),
        Seen("GET", has={"X-Forwarded-For": "127.0.0.1"},
             lacks=("X_Forwarded_For", "Content_Length")))
forward("drop-proxy", "contract, CVE-2016-5385", req("Proxy: http://evil.test"),
        Seen("GET", lacks=("Proxy",)))
forward("drop-h2c", "contract, 9110 7.8",
        req("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQ"),
        Seen("GET", lacks=("Upgrade", "HTTP2-Settings")), close=None)
forward("drop-h2c-case", "contract, 9110 7.8",
        req("Connection: upgrade", "Upgrade: H2C"), Seen("GET", lacks=("Upgrade",)), close=None)
forward("upgrade-passed", "9110 7.8", req("Connection: Upgrade", "Upgrade: websocket"),
        Seen("GET", has={"Upgrade": "websocket", "Connection": "upgrade"}), close=None)
forward("upgrade-not-in-connection", "9110 7.8", req("Upgrade: websocket"),
        Seen("GET", lacks=("Upgrade",)))
forward("upgrade-10", "9110 7.8",
        req("Connection: Upgrade", "Upgrade: websocket", version="HTTP/1.0"),
        Seen("GET", lacks=("Upgrade",)), close=None)
forward("upgrade-with-body", "9110 7.8",
        post("Connection: Upgrade", "Upgrade: websocket", "Content-Length: 5", body=b"hello"),
        Seen("POST", body=b"hello", lacks=("Upgrade",)), close=None)
forward("upgrade-with-chunks", "9110 7.8",
        chunked(CHUNKS, "Connection: Upgrade", "Upgrade: websocket"),
        Seen("POST", body=b"hello", lacks=("Upgrade",)), close=None)
forward("expect-10", "9110 10.1.1",
        post("Expect: 100-continue", "Content-Length: 5", version="HTTP/1.0", body=b"hello"),
        Seen("POST", body=b"hello", lacks=("Expect",)), close=None)
forward("expect-passed", "9110 10.1.1",
        post("Expect: 100-continue", "Content-Length: 5", body=b"hello"),
        Seen("POST", body=b"hello", has={"Expect": "100-continue"}))
forward("max-forwards-counted", "9110 7.6.2", req("Max-Forwards: 5", method="OPTIONS"),
        Seen("OPTIONS", has={"Max-Forwards": "4"}))
forward("max-forwards-star", "9110 7.6.2", req("Max-Forwards: 1", method="OPTIONS", target="*"),
        Seen("OPTIONS", "*", has={"Max-Forwards": "0"}))
answer("max-forwards-zero", "9110 7.6.2", req("Max-Forwards: 0", method="OPTIONS"), "200|204")
forward("max-forwards-get", "9110 7.6.2", req("Max-Forwards: 0"), GET)

# ==[ framing: Content-Length ]====================================================================

forward("cl-body", "6.2", post("Content-Length: 5", body=b"hello"), HELLO)
forward("cl-zero", "6.2", post("Content-Length: 0"), EMPTY)
forward("cl-none", "6.3", post(), EMPTY)
forward("cl-leading-zeros", "6.2", post("Content-Length: 0005", body=b"hello"), HELLO)
forward("cl-name-case", "9110 5.1", post("cONTENT-lENGTH: 5", body=b"hello"), HELLO)
forward("cl-ows", "5.1", post("Content-Length: \t 5 \t", body=b"hello"), HELLO)
forward("cl-get-body", "9110 9.3.1", req("Content-Length: 5", body=b"hello"),
        Seen("GET", body=b"hello"))
forward("cl-binary-body", "6", post("Content-Length: 8", body=b"\r\n\r\n\x00\xff0\r"),
        Seen("POST", body=b"\r\n\r\n\x00\xff0\r"))
for name, value in {
    "empty": "", "plus": "+5", "minus": "-5", "minus-zero": "-0", "hex": "0x5", "octal": "0o5",
    "space-inside": "5 5", "comma": "5,", "comma-first": ",5", "list": "5, 5",
    "list-differ": "5, 6", "dot": "5.0", "exponent": "5e0", "letter": "5a",
    "quote": '"5"', "semicolon": "5;a",
    "underscore": "1_0", "unicode-digit": "\xb25", "nan": "NaN", "tab-inside": "5\t5",
    "2e63": "9223372036854775808", "2e64": "18446744073709551616",
    "2e64-plus-5": "18446744073709551621",
    "2e128-plus-5": "340282366920938463463374607431768211461",
    "huge": "9" * 200,
}.items():
    refuse(f"cl-{name}", "6.3", post(f"Content-Length: {value}", body=b"hello"))
refuse("cl-vt", "6.3", post("Content-Length: \x0b5", body=b"hello"))
refuse("cl-nul", "6.3", post("Content-Length: 5\x00", body=b"hello"))
refuse("cl-space-before-colon", "5.1, CVE-2019-16869", post("Content-Length : 5", body=b"hello"))
refuse("cl-twice", "6.3", post("Content-Length: 5", "Content-Length: 5", body=b"hello"))
refuse("cl-twice-differ", "6.3", post("Content-Length: 5", "Content-Length: 0", body=b"hello"))
refuse("cl-twice-case", "6.3", post("Content-Length: 0", "content-length: 5", body=b"hello"))
refuse("cl-twice-empty", "6.3", post("Content-Length:", "Content-Length: 5", body=b"hello"))
refuse("cl-bad-get", "6.3", req("Content-Length: x"))
# CL.0: the rest is the next request of the same client, seen and judged as one
forward("cl-0-rest-is-next", "6.3", post("Content-Length: 0", body=SMUGGLED),
        EMPTY, Seen("GET", "/smuggled"))
forward("cl-0-rest-is-bad", "6.3", post("Content-Length: 0", body=b"hello\r\n\r\n"), EMPTY,
        then=("400",))
forward("cl-none-rest-is-bad", "6.3", post(body=b"hello world x\r\n\r\n"), EMPTY, then=("400",))
forward("cl-short-rest-is-bad", "6.3", post("Content-Length: 2", body=b"hello\r\n\r\n"),
        Seen("POST", body=b"he"), then=("400",))
broken("cl-cut", "8", post("Content-Length: 10", body=b"hello"), "400|cut", eof=True)
broken("cl-2e63-less-1-cut", "6.2", post("Content-Length: 9223372036854775807", body=b"hello"),
       "400|cut|413", eof=True)

# ==[ framing: Transfer-Encoding ]=================================================================

forward("te-chunked", "7.1", chunked(CHUNKS), HELLO)
forward("te-case", "7", post("tRANSFER-eNCODING: CHUNKED", body=CHUNKS), HELLO)
forward("te-ows", "5.1", post("Transfer-Encoding: \t chunked \t", body=CHUNKS), HELLO)
forward("te-get", "9110 9.3.1", req("Transfer-Encoding: chunked", body=CHUNKS),
        Seen("GET", body=b"hello"))
forward("te-then-next", "7.1", chunked(CHUNKS + SMUGGLED), HELLO, Seen("GET", "/smuggled"))
# CL.TE and TE.CL
refuse("te-and-cl", "6.3", chunked(CHUNKS, "Content-Length: 5"))
refuse("te-and-cl-first", "6.3",
       post("Content-Length: 15", "Transfer-Encoding: chunked", body=CHUNKS))
refuse("te-and-cl-0", "6.3", chunked(b"0\r\n\r\n" + SMUGGLED, "Content-Length: 0"))
refuse("te-and-cl-smuggles", "6.3", chunked(b"0\r\n\r\n" + SMUGGLED, "Content-Length: 47"))
refuse("te-and-cl-empty", "6.3", chunked(CHUNKS, "Content-Length:"))
refuse("te-and-cl-bad", "6.3", chunked(CHUNKS, "Content-Length: x"))
refuse("te-and-cl-10", "6.1", post("Transfer-Encoding: chunked", "Content-Length: 5",
                                   version="HTTP/1.0", body=CHUNKS))
refuse("te-10", "6.1", post("Transfer-Encoding: chunked", version="HTTP/1.0", body=CHUNKS))
refuse("te-10-keep-alive", "6.1",
       post("Transfer-Encoding: chunked", "Connection: keep-alive", version="HTTP/1.0",
            body=CHUNKS))
# TE.TE: one side sees chunked where the other doesn't
for name, value in {
    "empty": "", "xchunked": "xchunked", "chunkedx": "chunkedx", "chunk": "chunk",
    "chunke": "chunke", "identity": "identity", "gzip": "gzip", "gzip-chunked": "gzip, chunked",
    "chunked-gzip": "chunked, gzip", "chunked-identity": "chunked, identity",
    "identity-chunked": "identity, chunked", "chunked-chunked": "chunked, chunked",
    "comma": "chunked,", "comma-first": ",chunked", "comma-twice": ",,chunked",
    "parameter": "chunked;foo", "parameter-value": "chunked;q=1", "semicolon": "chunked;",
    "quoted": '"chunked"', "single-quoted": "'chunked'", "space-inside": "chun ked",
    "space-word": "chunked x", "tab-word": "chunked\tx", "dot": "chunked.", "colon": ":chunked",
    "dash": "-chunked", "backslash": "chunked\\", "obs-text": "chunked\xa0",
    "obs-text-first": "\xa0chunked", "kelvin": "chun\xe2\x84\xaaed", "cow": "cow",
    "cow-chunked": "cow, chunked", "trailers": "trailers", "newline-literal": "\\nchunked",
}.items():
    refuse(f"te-{name}", "6.1", post(f"Transfer-Encoding: {value}", body=CHUNKS))
for c in "\x00\x01\x08\x0b\x0c\x1f\x7f":
    refuse(f"te-byte-{ord(c):02x}-first", "6.1, CVE-2019-18277",
           post(f"Transfer-Encoding: {c}chunked", body=CHUNKS))
    refuse(f"te-byte-{ord(c):02x}-last", "6.1", post(f"Transfer-Encoding: chunked{c}", body=CHUNKS))
refuse("te-vt-and-cl", "6.1, CVE-2019-18277",
       post("Content-Length: 15", "Transfer-Encoding:\x0bchunked", body=CHUNKS))
refuse("te-space-before-colon", "5.1", post("Transfer-Encoding : chunked", body=CHUNKS))
refuse("te-tab-before-colon", "5.1", post("Transfer-Encoding\t: chunked", body=CHUNKS))
refuse("te-leading-space", "5.2", req(" Transfer-Encoding: chunked", "Content-Length: 5"))
refuse("te-bare-cr-before", "2.2", post("X: x\rTransfer-Encoding: chunked", body=CHUNKS))
refuse("te-bare-lf-before", "2.2", post("X: x\nTransfer-Encoding: chunked", body=CHUNKS))
refuse("te-bare-cr-inside", "2.2", post("Transfer-Encoding: \rchunked", body=CHUNKS))
refuse("te-bare-lf-inside", "2.2", post("Transfer-Encoding:\nchunked", body=CHUNKS))
refuse("te-twice", "6.1", chunked(CHUNKS, "Transfer-Encoding: chunked"))
refuse("te-twice-identity", "6.1", chunked(CHUNKS, "Transfer-Encoding: identity"))
refuse("te-twice-cow", "6.1", chunked(CHUNKS, "Transfer-encoding: cow"))
refuse("te-twice-empty", "6.1", chunked(CHUNKS, "Transfer-Encoding:"))
refuse("te-twice-identity-first", "6.1",
       post("Transfer-Encoding: identity", "Transfer-Encoding: chunked", body=CHUNKS))
refuse("te-identity-and-cl", "6.3",
       post("Transfer-Encoding: identity", "Content-Length: 5", body=b"hello"))
# a name that only some server takes for Transfer-Encoding: not framing here, not passed on
for name, alias in {"underscore": "Transfer_Encoding", "dot": "Transfer.Encoding"}.items():
    forward(f"te-name-{name}", "contract",
            post(f"{alias}: chunked", "Content-Length: 15", body=CHUNKS),
            Seen("POST", body=CHUNKS, lacks=(alias, "Transfer-Encoding")))
refuse("te-name-space", "5.1", post("Transfer Encoding: chunked", body=CHUNKS))
forward("te-name-prefix", "5", post("X-Transfer-Encoding: chunked", "Content-Length: 15",
                                    body=CHUNKS), Seen("POST", body=CHUNKS))
forward("te-name-underscore-rest-is-bad", "contract",
        post("Transfer_Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"), EMPTY, then=("400",))

# ==[ chunked ]====================================================================================

forward("chunk-empty", "7.1", chunked(b"0\r\n\r\n"), EMPTY)
forward("chunk-two", "7.1", chunked(b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), HELLO)
forward("chunk-one-byte-each", "7.1", chunked(b"1\r\nh\r\n" * 300 + b"0\r\n\r\n"),
        Seen("POST", body=b"h" * 300))
forward("chunk-hex-case", "7.1", chunked(b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n"),
        Seen("POST", body=b"0123456789" * 2))
forward("chunk-16-digits", "7.1", chunked(b"0000000000000005\r\nhello\r\n0000\r\n\r\n"), HELLO)
forward("chunk-data-like-chunks", "7.1", chunked(b"f\r\n" + CHUNKS + b"\r\n0\r\n\r\n"),
        Seen("POST", body=CHUNKS))
for name, ext in {
    "token": b";a", "value": b";a=b", "two": b";a=b;c", "quoted": b';a="b c"',
    "quoted-escape": b';a="\\"\\\\;"', "quoted-obs-text": b';a="\xe9\t"', "quoted-empty": b';a=""',
    "250": b";a=" + b"b" * 246,
}.items():
    forward(f"chunk-ext-{name}", "7.1.1", chunked(b"5" + ext + b"\r\nhello\r\n0" + ext +
                                                  b"\r\n\r\n"), HELLO)
forward("chunk-ext-3k-in-all", "7.1.1", chunked((b"1;a=" + b"b" * 96 + b"\r\nx\r\n") * 30 +
                                                b"0\r\n\r\n"), Seen("POST", body=b"x" * 30))
for name, size in {
    "plus": b"+5", "minus": b"-5", "hex-prefix": b"0x5", "hex-prefix-upper": b"0X5",
    "underscore": b"0_5", "space-first": b" 5", "space-last": b"5 ", "tab-first": b"\t5",
    "tab-last": b"5\t", "17-digits": b"00000000000000005", "overflow-64": b"10000000000000005",
    "overflow-63": b"8000000000000000", "all-f": b"ffffffffffffffff",
    "minus-as-f": b"fffffffffffffffb",
    "overflow-32-digits": b"1" + b"0" * 30 + b"5", "letter": b"g", "letter-last": b"5g",
    "dot": b"5.",
    "comma": b"5,5", "no-digit": b"", "nul": b"5\x00", "nul-first": b"\x005", "vt": b"5\x0b",
    "unicode-digit": b"\xb2", "quote": b'"5"', "h": b"5h", "bare-cr": b"5\rx", "cr-cr": b"5\r",
    "ext-empty": b"5;", "ext-empty-name": b"5;=b", "ext-empty-value": b"5;a=",
    "ext-blank-before": b"5 ;a=b", "ext-tab-before": b"5\t;a", "ext-comma": b"5,a=b",
    "ext-nul": b"5;a=\x00", "ext-ctl": b"5;a=\x01", "ext-bare-cr": b"5;a=b\rc",
    "ext-bare-lf": b"5;a=b\nc", "ext-del": b"5;\x7f", "ext-obs-text": b"5;\xe9",
    "ext-quote-open": b'5;a="b', "ext-quote-tail": b'5;a="b"c', "ext-quote-cr": b'5;a="\r"',
    "ext-quote-lf": b'5;a="\n"', "ext-quote-crlf": b'5;a="\r\nhello\r\n0\r\n\r\n"',
    "ext-quote-escaped-cr": b'5;a="\\\r"', "ext-quote-nul": b'5;a="\x00"',
    "ext-260": b"5;a=" + b"b" * 256, "ext-10k": b"5;a=" + b"b" * 10000,
    "ext-many": b"5" + b";a" * 200,
}.items():
    broken(f"chunk-{name}", "7.1.1" if name.startswith("ext") else "7.1",
           chunked(size + b"\r\nhello\r\n0\r\n\r\n"))
broken("chunk-ext-5k-in-all", "7.1.1, CVE-2023-39326",
       chunked((b"1;a=" + b"b" * 196 + b"\r\nx\r\n") * 25 + b"0\r\n\r\n"))
broken("chunk-size-lf", "7.1, CVE-2025-22871", chunked(b"5\nhello\r\n0\r\n\r\n"))
broken("chunk-ext-lf", "7.1.1, CVE-2025-22871",
       chunked(b"2;\nxx\r\n4c\r\n0\r\n\r\n" + SMUGGLED))
broken("chunk-size-cr", "7.1", chunked(b"5\rhello\r\n0\r\n\r\n"))
broken("chunk-data-no-crlf", "7.1", chunked(b"5\r\nhello0\r\n\r\n"))
broken("chunk-data-lf", "7.1", chunked(b"5\r\nhello\n0\r\n\r\n"))
broken("chunk-data-cr", "7.1", chunked(b"5\r\nhello\r0\r\n\r\n"))
broken("chunk-data-crcrlf", "7.1", chunked(b"5\r\nhello\r\r\n0\r\n\r\n"))
broken("chunk-data-long", "7.1", chunked(b"5\r\nhello!\r\n0\r\n\r\n"))
broken("chunk-data-short", "7.1", chunked(b"6\r\nhello\r\n0\r\n\r\n"))
broken("chunk-data-any-two", "7.1, CVE-2024-23452", chunked(b"5\r\nhelloXX0\r\n\r\n" + SMUGGLED))
broken("chunk-empty-line-first", "7.1", chunked(b"\r\n5\r\nhello\r\n0\r\n\r\n"))
broken("chunk-final-lf", "7.1", chunked(b"5\r\nhello\r\n0\n\n"))
broken("chunk-final-second-lf", "7.1", chunked(b"5\r\nhello\r\n0\r\n\n"))
broken("chunk-final-cr", "7.1", chunked(b"5\r\nhello\r\n0\r\n\rX"))
broken("chunk-cut-data", "8", chunked(b"5\r\nhel"), "400|cut", eof=True)
broken("chunk-cut-size", "8", chunked(b"5\r\nhello\r\n"), "400|cut", eof=True)
broken("chunk-cut-final", "8", chunked(b"5\r\nhello\r\n0\r\n"), "400|cut", eof=True)
broken("chunk-cut-in-16-digits", "7.1", chunked(b"7fffffffffffffff\r\nhello"), "400|cut|413",
       eof=True)
broken("chunk-request-instead", "7.1", chunked(SMUGGLED))
forward("chunk-final-then-bad", "7.1", chunked(CHUNKS + b"hello\r\n\r\n"), HELLO, then=("400",))

LAST = b"5\r\nhello\r\n0\r\n"
for name, trailer in {
    "dropped": b"X-A: b\r\n", "two": b"X-A: b\r\nX-C: d\r\n", "length": b"Content-Length: 500\r\n",
    "encoding": b"Transfer-Encoding: gzip\r\n", "host": b"Host: nobody.test\r\n",
    "forwarded": b"X-Forwarded-For: 6.6.6.6\r\n", "authorization": b"Authorization: Basic eDp5\r\n",
}.items():
    forward(f"trailer-{name}", "7.1.2", chunked(LAST + trailer + b"\r\n"),
            Seen("POST", body=b"hello", lacks=("X-A", "X-C", "Authorization")))
for name, trailer in {
    "space-before-colon": b"X-A : b\r\n", "no-colon": b"X-A\r\n", "empty-name": b": b\r\n",
    "bad-name": b"X A: b\r\n", "obs-fold": b"X-A: b\r\n c\r\n", "fold-first": b" X-A: b\r\n",
    "nul": b"X-A: \x00\r\n", "ctl": b"X-A: \x01\r\n", "bare-cr": b"X-A: b\rc\r\n",
    "bare-lf": b"X-A: b\nX-B: c\r\n", "cr-cr-lf": b"X-A: b\r\r\n",
    "request-line": b"GET /smuggled HTTP/1.1\r\n",
}.items():
    broken(f"trailer-{name}", "7.1.2", chunked(LAST + trailer + b"\r\n"))
broken("trailer-request", "7.1.2", chunked(LAST + SMUGGLED))
broken("trailer-40k", "7.1.2", chunked(LAST + b"X-A: " + b"b" * 40000 + b"\r\n\r\n"), "400|431")
broken("trailer-2000-fields", "7.1.2", chunked(LAST + b"X: y12345678901\r\n" * 2000 + b"\r\n"),
       "400|431")

# ==[ one connection, several requests ]===========================================================

forward("pipeline-3", "9.3.2", req(target="/1") + req(target="/2") + req(target="/3"),
        Seen("GET", "/1"), Seen("GET", "/2"), Seen("GET", "/3"))
forward("pipeline-bodies", "9.3.2",
        post("Content-Length: 5", body=b"hello") + chunked(CHUNKS) + req(),
        HELLO, HELLO, GET)
forward("pipeline-20", "9.3.2", b"".join(req(target=f"/{i}") for i in range(20)),
        *(Seen("GET", f"/{i}") for i in range(20)))
forward("pipeline-then-bad", "2.2", req() + b"GET  / HTTP/1.1\r\n\r\n", GET, then=("400",))
forward("pipeline-then-smuggling", "6.3",
        req() + chunked(CHUNKS, "Content-Length: 5") + SMUGGLED, GET, then=("400",))
forward("close-asked", "9.6", req("Connection: close"), GET, close=True)
forward("close-asked-list", "9.6", req("Connection: x, CLOSE"), GET, close=True)
forward("close-asked-second-line", "9.6", req("Connection: keep-alive", "Connection: close"), GET,
        close=True)
forward("close-then-more", "9.6", req("Connection: close") + SMUGGLED, GET, close=True)
forward("close-10", "9.3", req(version="HTTP/1.0"), GET, close=True)
forward("close-10-then-more", "9.3", req(version="HTTP/1.0") + SMUGGLED, GET, close=True)
# over TLS without close_notify: what is whole is whole (RFC 9112 9.8)
forward("half-close", "contract", req(), GET, eof=True, close=True)
forward("half-close-body", "contract", chunked(CHUNKS), HELLO, eof=True, close=True)
refuse("refused-then-more", "9.6", req("X-A : b") + SMUGGLED)
refuse("refused-then-much", "9.6", req("X-A : b") + SMUGGLED * 1000)
refuse("refused-body-unread", "6.3",
       chunked(CHUNKS, "Content-Length: 5") + b"x" * 100000)
answer("own-answer-body", "9.3", post("Content-Length: 5", target="/admin", body=b"hello"), "403")
answer("own-answer-head", "9110 9.3.2", req(method="HEAD", target="/admin"), "403")
forward("head-forwarded", "9110 9.3.2", req(method="HEAD"), Seen("HEAD"))

# ==[ what a backend sends ]=======================================================================


def ok(*fields, status="200 OK", version="HTTP/1.1", body=b""):
    return "\r\n".join([f"{version} {status}", *fields]).encode("latin-1") + b"\r\n\r\n" + body


def whole(id, clause, raw, body=b"", verdict="200", **kw):
    """The client gets this answer, complete."""
    RESPONSES.append(Reply(id, clause, raw, verdict, body, **kw))


def bad(id, clause, raw, verdict="502", **kw):
    """The client gets 502 and not a byte of this; the backend's connection is gone."""
    RESPONSES.append(Reply(id, clause, raw, verdict, reuse=False, **kw))


def cut(id, clause, raw, **kw):
    """The client is cut off: it can tell that the answer isn't whole."""
    RESPONSES.append(Reply(id, clause, raw, "cut", reuse=False, **kw))


def ask(*fields, **kw):
    """The request of a reply row: its target tells the backend to play the row's script."""
    return req(*fields, target="/r/", **kw)


CL5 = "Content-Length: 5"
TE = "Transfer-Encoding: chunked"
H = b"hello"
HEAD = ask(method="HEAD")
OLD = ask(version="HTTP/1.0")

whole("rsp-length", "6.2", ok(CL5, body=H), H, reuse=True)
whole("rsp-length-zero", "6.2", ok("Content-Length: 0"), reuse=True)
whole("rsp-chunked", "7.1", ok(TE, body=CHUNKS), H, reuse=True)
whole("rsp-chunked-case", "7", ok("transfer-encoding: Chunked", body=CHUNKS), H, reuse=True)
whole("rsp-chunked-ext", "7.1.1", ok(TE, body=b'5;a="b"\r\nhello\r\n0;c\r\n\r\n'), H, reuse=True)
whole("rsp-trailer-dropped", "7.1.2", ok(TE, body=LAST + b"X-A: b\r\n\r\n"), H, reuse=True,
      lacks=("X-A",))
whole("rsp-until-close", "6.3", ok(body=H), H, end="close", reuse=False)
whole("rsp-until-close-empty", "6.3", ok(), end="close", reuse=False)
whole("rsp-10-until-close", "6.3", ok(version="HTTP/1.0", body=H), H, end="close", reuse=False)
whole("rsp-10-length", "9.3", ok(CL5, version="HTTP/1.0", body=H), H, reuse=False)
whole("rsp-10-keep-alive", "9.3", ok(CL5, "Connection: keep-alive", version="HTTP/1.0", body=H), H)
whole("rsp-12", "9110 6.2", ok(CL5, version="HTTP/1.2", body=H), H)
whole("rsp-close", "9.6", ok(CL5, "Connection: close", body=H), H, reuse=False)
whole("rsp-close-case", "9.6", ok(CL5, "connection: x, Close", body=H), H, reuse=False)
whole("rsp-reason-empty", "4", ok(CL5, status="200 ", body=H), H, reuse=True)
whole("rsp-reason-missing", "4", ok(CL5, status="200", body=H), H, verdict="200|502")
whole("rsp-reason-obs-text", "4", ok(CL5, status="200 caf\xe9\t!", body=H), H)
whole("rsp-status-unknown", "9110 15", ok(CL5, status="299 Odd", body=H), H, verdict="299")
whole("rsp-status-599", "9110 15", ok(CL5, status="599 Odd", body=H), H, verdict="599")
whole("rsp-fields-kept", "9110 5.3", ok(CL5, "Set-Cookie: a", "X-B: 1", "Set-Cookie: b", "X_C: 2",
      "X-D: caf\xe9", "x-lower: 3", body=H), H,
      has={"Set-Cookie": ["a", "b"], "X-B": "1", "X_C": "2", "X-D": "caf\xe9", "x-lower": "3"})
whole("rsp-hop-dropped", "9110 7.6.1", ok(CL5, "Connection: X-Hop", "X-Hop: 1", "X-A: 2",
      "Keep-Alive: timeout=9", "Proxy-Connection: x", body=H), H,
      has={"X-A": "2"}, lacks=("X-Hop", "Keep-Alive", "Proxy-Connection"))
whole("rsp-upgrade-offer", "9110 7.8", ok(CL5, "Upgrade: h2c", "Connection: Upgrade", body=H), H)
whole("rsp-no-transform", "9110 7.7", ok(CL5, "Cache-Control: no-transform", body=H), H,
      has={"Cache-Control": "no-transform"})

# no body, whatever the fields say
whole("rsp-head", "6.3", ok(CL5), request=HEAD, reuse=True)
whole("rsp-head-chunked", "6.3", ok(TE), request=HEAD, reuse=True)
whole("rsp-head-nothing", "6.3", ok(), request=HEAD, reuse=True)
whole("rsp-head-with-body", "6.3", ok(CL5, body=H), request=HEAD, reuse=False)
whole("rsp-head-404", "6.3", ok(CL5, status="404 No"), verdict="404", request=HEAD, reuse=True)
whole("rsp-204", "6.3", ok(status="204 No Content"), verdict="204", reuse=True)
whole("rsp-204-length-zero", "9110 8.6", ok("Content-Length: 0", status="204 No Content"),
      verdict="204", reuse=True, lacks=("Content-Length",))
whole("rsp-204-with-body", "6.3", ok(status="204 No Content", body=H), verdict="204", reuse=False)
whole("rsp-204-chunked", "6.1", ok(TE, status="204 No Content"), verdict="204|502",
      lacks=("Transfer-Encoding",))
whole("rsp-304", "6.3", ok(status="304 Not Modified"), verdict="304", reuse=True)
whole("rsp-304-length", "6.3", ok(CL5, status="304 Not Modified"), verdict="304", reuse=True)
whole("rsp-304-with-body", "6.3", ok(CL5, status="304 Not Modified", body=H), verdict="304",
      reuse=False)
whole("rsp-304-chunked", "6.3", ok(TE, status="304 Not Modified"), verdict="304")

# interim answers
E103 = ok("Link: </a>", status="103 Early Hints")
whole("rsp-interim", "9110 15.2", E103 + ok(CL5, body=H), H, interim=1, reuse=True)
whole("rsp-interim-100", "9110 15.2", ok(status="100 Continue") + ok(CL5, body=H), H, reuse=True)
whole("rsp-interim-8", "9110 15.2", E103 * 8 + ok(CL5, body=H), H, interim=8, reuse=True)
whole("rsp-interim-10-client", "9110 15.2", E103 + ok(CL5, body=H), H, request=OLD, interim=0)
whole("rsp-interim-head", "9110 15.2", E103 + ok(CL5), request=HEAD, interim=1, reuse=True)
bad("rsp-interim-9", "9110 15.2", E103 * 9 + ok(CL5, body=H))
bad("rsp-interim-only", "8", E103, end="close")
bad("rsp-interim-then-bad", "4", E103 + b"garbage\r\n\r\n")
WS = ok("Upgrade: websocket", "Connection: Upgrade", status="101 Switching Protocols")
WS_ASKED = ask("Upgrade: websocket", "Connection: Upgrade", "Expect: 100-continue")
SWITCHED = {"Upgrade": "websocket", "Connection": "upgrade"}
whole("rsp-101", "9110 7.8", WS, verdict="101", request=WS_ASKED, has=SWITCHED, reuse=False)
whole("rsp-100-then-101", "9110 7.8", ok(status="100 Continue") + WS, verdict="101",
      request=WS_ASKED, interim=1, has=SWITCHED, reuse=False)
whole("rsp-426", "9110 7.8", ok(CL5, "Upgrade: websocket", "Connection: Upgrade",
      status="426 Upgrade Required", body=H), H, verdict="426", has={"Upgrade": "websocket"})
bad("rsp-101-unasked", "9110 7.8", ok("Upgrade: websocket", "Connection: Upgrade",
    status="101 Switching Protocols"))
bad("rsp-101-other", "9110 7.8", ok("Upgrade: foo", "Connection: Upgrade",
    status="101 Switching Protocols"), request=ask("Upgrade: websocket", "Connection: Upgrade"))
bad("rsp-101-length", "9110 8.6", ok("Upgrade: websocket", "Connection: Upgrade", "Content-Length: 1:2",
    status="101 Switching Protocols"), request=WS_ASKED)
bad("rsp-100-length", "9110 8.6", ok("Content-Length: 1:2", status="100 Continue") + ok("Content-Length: 0"))
bad("rsp-101-nameless", "9110 7.8", ok(status="101 Switching Protocols"),
    request=ask("Upgrade: websocket", "Connection: Upgrade"))
bad("rsp-101-h2c", "9110 7.8", ok("Upgrade: h2c", "Connection: Upgrade",
    status="101 Switching Protocols"), request=ask("Upgrade: h2c", "Connection: Upgrade"))
bad("rsp-101-10-client", "9110 7.8", ok("Upgrade: websocket", "Connection: Upgrade",
    status="101 Switching Protocols"),
    request=ask("Upgrade: websocket", "Connection: Upgrade", version="HTTP/1.0"))

# framing
whole("rsp-te-and-cl", "6.3", ok(CL5, TE, body=CHUNKS), H, reuse=False)
whole("rsp-te-and-cl-wrong", "6.3", ok(TE, "Content-Length: 500", body=CHUNKS), H, reuse=False)
for name, value in {
    "empty": "", "plus": "+5", "minus": "-5", "hex": "0x5", "space": "5 5", "list": "5, 5",
    "list-differ": "5, 6", "letter": "5a", "dot": "5.0", "2e63": "9223372036854775808",
    "2e64-plus-5": "18446744073709551621", "huge": "9" * 200,
}.items():
    bad(f"rsp-cl-{name}", "6.3", ok(f"Content-Length: {value}", body=H))
bad("rsp-cl-differ", "6.3", ok(CL5, "Content-Length: 6", body=H))
bad("rsp-cl-twice", "6.3", ok(CL5, CL5, body=H))
for name, value in {
    "empty": "", "gzip": "gzip", "gzip-chunked": "gzip, chunked", "chunked-gzip": "chunked, gzip",
    "identity": "identity", "xchunked": "xchunked", "twice-in-one": "chunked, chunked",
    "parameter": "chunked;a", "comma": "chunked,", "vt": "\x0bchunked",
}.items():
    bad(f"rsp-te-{name}", "6.1", ok(f"Transfer-Encoding: {value}", body=CHUNKS))
bad("rsp-te-twice", "6.1", ok(TE, TE, body=CHUNKS))
bad("rsp-te-10", "6.1", ok(TE, version="HTTP/1.0", body=CHUNKS))
for name in "content-length", "transfer-encoding":
    bad(f"rsp-hop-names-{name}", "9110 7.6.1", ok(CL5, f"Connection: {name}", body=H))
whole("rsp-chunked-10-client", "6.1", ok(TE, body=CHUNKS), H, request=OLD, reuse=True,
      lacks=("Transfer-Encoding",))
whole("rsp-until-close-10-client", "6.3", ok(body=H), H, request=OLD, end="close",
      lacks=("Transfer-Encoding",))

# bytes that belong to nobody
for name, extra in {"byte": b"x", "crlf": b"\r\n", "answer": ok(CL5, body=b"EVIL!"),
                    "garbage": b"\x00" * 5000}.items():
    whole(f"rsp-more-{name}", "6.3", ok(CL5, body=H + extra), H, reuse=False)
    whole(f"rsp-more-{name}-chunked", "6.3", ok(TE, body=CHUNKS + extra), H, reuse=False)
whole("rsp-more-late", "9.2", ok(CL5, body=H), H, end="late", reuse=False)
whole("rsp-more-204", "6.3", ok(status="204 No Content") + ok(CL5, body=b"EVIL!"), verdict="204",
      reuse=False)
whole("rsp-more-head", "6.3", ok(CL5) + ok(CL5, body=b"EVIL!"), request=HEAD, reuse=False)

# the status line
for name, line in {
    "2-digits": "HTTP/1.1 20 OK", "4-digits": "HTTP/1.1 2000 OK", "1-digit": "HTTP/1.1 2 OK",
    "letters": "HTTP/1.1 abc OK", "sign": "HTTP/1.1 +20 OK", "099": "HTTP/1.1 099 OK",
    "000": "HTTP/1.1 000 OK", "no-space": "HTTP/1.1200 OK", "two-spaces": "HTTP/1.1  200 OK",
    "tab": "HTTP/1.1\t200 OK", "tab-reason": "HTTP/1.1 200\tOK", "lower": "http/1.1 200 OK",
    "http2": "HTTP/2.0 200 OK", "http2-short": "HTTP/2 200 OK",
    "minor-2-digits": "HTTP/1.10 200 OK",
    "leading-zero": "HTTP/01.1 200 OK", "icy": "ICY 200 OK", "leading-space": " HTTP/1.1 200 OK",
    "status-only": "200 OK", "nothing": "", "version-only": "HTTP/1.1", "html": "<html>",
    "request": "GET / HTTP/1.1", "nul": "HTTP/1.1 200 O\x00K", "ctl": "HTTP/1.1 200 O\x01K",
    "bare-cr": "HTTP/1.1 200 O\rK", "bare-lf": "HTTP/1.1 200 O\nK", "cr-cr": "HTTP/1.1 200 OK\r",
    "del": "HTTP/1.1 200 \x7f",
}.items():
    bad(f"rsp-line-{name}", "4", f"{line}\r\nContent-Length: 5\r\n\r\nhello".encode("latin-1"))
bad("rsp-line-lf", "2.2", b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello")
bad("rsp-line-endless", "4", b"HTTP/1.1 200 " + b"a" * 70000)
bad("rsp-empty-line-first", "4", b"\r\n" + ok(CL5, body=H))
whole("rsp-600", "9110 15", ok(CL5, status="600 Odd", body=H), H, verdict="502|600")

# its fields
for name, line in {
    "space-before-colon": "X-A : b", "tab-before-colon": "X-A\t: b", "obs-fold": "X-A: b\r\n c",
    "no-colon": "X-A", "empty-name": ": b", "bad-name": "X A: b", "name-obs-text": "X\xe9: b",
    "nul": "X-A: b\x00", "ctl": "X-A: \x01", "del": "X-A: \x7f", "bare-cr": "X-A: b\rc",
    "bare-lf": "X-A: b\nc", "cr-cr-lf": "X-A: b\r",
    "splitting-cr": "Location: /\rSet-Cookie: evil=1",
    "splitting-lf": "Location: /\nSet-Cookie: evil=1",
    "splitting-lf-lf": "Location: /\n\nHTTP/1.1 200 OK\n\nEVIL",
}.items():
    bad(f"rsp-field-{name}", "11.1" if name.startswith("split") else "5", ok(line, CL5, body=H))
bad("rsp-field-fold-first", "5.2", ok(" X-A: b", CL5, body=H))
bad("rsp-field-101", "9110 5.4", ok(CL5, *(f"X-{i}: v" for i in range(100)), body=H))
whole("rsp-field-100", "9110 5.4", ok(CL5, *(f"X-{i}: v" for i in range(99)), body=H), H)
bad("rsp-head-40k", "9110 5.4", ok(CL5, *(f"X-{i}: " + "v" * 990 for i in range(40)), body=H))
bad("rsp-field-endless", "9110 5.4", ok(CL5)[:-2] + b"X: " + b"v" * 70000)
bad("rsp-head-ends-lf", "2.2", ok(CL5)[:-2] + b"\nhello")

# cut short
bad("rsp-nothing", "8", b"", end="close")
bad("rsp-nothing-post", "9.3.1", b"", end="close", tries=1,
    request=ask(CL5, method="POST", body=H))
bad("rsp-half-head-close", "8", ok(CL5)[:-2], end="close", tries=1)
bad("rsp-half-line-close", "8", b"HTTP/1.1 20", end="close", tries=1)
bad("rsp-half-head-reset", "8", ok(CL5)[:-2], end="reset")
cut("rsp-short-length", "8", ok("Content-Length: 50", body=H), end="close")
cut("rsp-short-length-reset", "8", ok("Content-Length: 50", body=H), end="reset")
cut("rsp-short-none", "8", ok("Content-Length: 50"), end="close")
cut("rsp-short-10-client", "8", ok("Content-Length: 50", body=H), end="close", request=OLD)
for name, body in {
    "no-final": b"5\r\nhello\r\n", "in-data": b"5\r\nhel", "in-size": b"5",
    "in-crlf": b"5\r\nhello\r",
    "half-final": b"5\r\nhello\r\n0\r\n", "half-trailer": LAST + b"X-A: b\r\n", "nothing": b"",
}.items():
    cut(f"rsp-chunk-cut-{name}", "8", ok(TE, body=body), end="close")
for name, body in {
    "letter": b"g\r\nhello\r\n0\r\n\r\n", "sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "minus": b"-5\r\nhello\r\n0\r\n\r\n", "hex-prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "space-first": b" 5\r\nhello\r\n0\r\n\r\n", "space-last": b"5 \r\nhello\r\n0\r\n\r\n",
    "empty": b"\r\nhello\r\n0\r\n\r\n", "17-digits": b"00000000000000005\r\nhello\r\n0\r\n\r\n",
    "overflow": b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n", "lf": b"5\nhello\n0\n\n",
    "data-no-crlf": b"5\r\nhello0\r\n\r\n", "data-long": b"5\r\nhello!\r\n0\r\n\r\n",
    "ext-empty": b"5;\r\nhello\r\n0\r\n\r\n", "ext-ctl": b"5;a=\x01\r\nhello\r\n0\r\n\r\n",
    "ext-quote-cr": b'5;a="\r"\r\nhello\r\n0\r\n\r\n',
    "ext-260": b"5;a=" + b"b" * 256 + b"\r\nhello\r\n0\r\n\r\n",
    "ext-5k-in-all": (b"1;a=" + b"b" * 196 + b"\r\nx\r\n") * 25 + b"0\r\n\r\n",
    "second": b"5\r\nhello\r\nzz\r\n", "final-lf": b"5\r\nhello\r\n0\r\n\n",
    "trailer-bad": LAST + b"X A: b\r\n\r\n", "trailer-fold": LAST + b"X-A: b\r\n c\r\n\r\n",
    "trailer-40k": LAST + b"X-A: " + b"b" * 40000 + b"\r\n\r\n",
    "trailer-answer": LAST + ok(CL5, body=b"EVIL!"),
}.items():
    cut(f"rsp-chunk-{name}", "7.1", ok(TE, body=body))
cut("rsp-until-close-reset", "8", ok(body=H), end="reset")
