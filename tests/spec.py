"""`make spec`: what HTTP demands of an intermediary, and the test that pins each demand.

Every MUST and MUST NOT of RFC 9110 section 7 and of RFC 9112 that concerns a gateway: as server
towards the client, as client towards the backend, or as the one between. In our own words; the
clause number leads to the exact ones. Left out is what binds only user agents, origin servers
with content of their own, or registries.

A pin is the id of a row of cases.py, or FILE::NAME of another test. A demand without a pin says
why: "not ours" (the clause speaks of a forward proxy, or of something that rproxy doesn't do), or
"deviation" (we could, and don't). Exits 1 if a pin doesn't exist or a demand has neither.
"""

import pathlib
import sys

import cases

HERE = pathlib.Path(__file__).resolve().parent


class Why(str):
    """The reason why a demand has no test."""


SPEC = [
    # ==[ RFC 9110 section 7: routing and forwarding ]==
    ("9110 7.4", "MUST", "refuse a request for an origin that the connection's certificate does "
     "not cover", "host-unknown host-v6 host-v4 host-subdomain-decoy"),
    ("9110 7.6", "MUST", "implement Connection, and keep back what is meant for one connection",
     "hop-named hop-named-lists hop-known rsp-hop-dropped"),
    ("9110 7.6", "MUST NOT", "forward to itself without protection from a loop",
     Why("deviation: targets are named by the operator, as in nginx; each turn of a loop holds a "
         "connection, so that it ends at --max-conns-per-ip")),
    ("9110 7.6.1", "MUST", "read Connection before forwarding, remove the fields that it names, "
     "then Connection itself", "hop-named hop-named-lists rsp-hop-dropped trailer-dropped"),
    ("9110 7.6.1", "MUST", "list a field about this connection in Connection when sending one",
     "upgrade-passed rsp-101"),
    ("9110 7.6.1", "MUST NOT", "let Connection name a field that is meant for all recipients: "
     "those that frame or route are refused, our own forwarding fields survive",
     "hop-names-host hop-names-content-length hop-names-transfer-encoding hop-named-forwarded "
     "rsp-hop-names-content-length rsp-hop-names-transfer-encoding"),
    ("9110 7.6.2", "MUST", "check and update Max-Forwards of OPTIONS (TRACE is refused)",
     "max-forwards-counted max-forwards-star trace-max-forwards"),
    ("9110 7.6.2", "MUST NOT", "forward when it is 0", "max-forwards-zero"),
    ("9110 7.6.2", "MUST", "answer as the final recipient when it is 0", "max-forwards-zero"),
    ("9110 7.6.2", "MUST", "send it on lowered by one", "max-forwards-counted max-forwards-star"),
    ("9110 7.6.3", "MUST", "add Via to forwarded requests",
     Why("deviation: no Via, as nginx and HAProxy by default: it changes what backends send "
         "(compression, ranges); X-Forwarded-* tell them what they need")),
    ("9110 7.6.3", "MUST NOT", "combine Via members of different protocols",
     Why("not ours: Via of others passes unchanged, as any field")),
    ("9110 7.7", "MUST NOT", "change a host name that is fully qualified",
     "host-case host-port host-dot absolute-10-without-host"),
    ("9110 7.7", "MUST NOT", "change path or query of the target, save an empty path",
     "line-target-untouched line-target-loose-characters path-dots-same path-escaped-same "
     "absolute-empty-path"),
    ("9110 7.7", "MUST NOT", "transform content marked no-transform (we transform none)",
     "rsp-no-transform"),
    ("9110 7.8", "MUST", "name the new protocol in a 101", "rsp-101 rsp-101-nameless"),
    ("9110 7.8", "MUST NOT", "switch to a protocol that the client did not ask for",
     "rsp-101-unasked rsp-101-other rsp-101-h2c"),
    ("9110 7.8", "MUST", "name the acceptable protocols in a 426", "rsp-426"),
    ("9110 7.8", "MUST NOT", "switch unless the message can be honoured by the new protocol",
     Why("not ours: the backend decides; without its 101 nothing is switched")),
    ("9110 7.8", "MUST", "list Upgrade in Connection when sending it", "upgrade-passed rsp-101"),
    ("9110 7.8", "MUST", "ignore Upgrade in an HTTP/1.0 request", "upgrade-10 rsp-101-10-client"),
    ("9110 7.8", "MUST", "send 100 before 101 where both are due", "rsp-100-then-101"),
    ("9110 9.2.2", "MUST NOT", "retry by itself what is not idempotent", "rsp-nothing-post"),
    # ==[ RFC 9112 section 2: messages ]==
    ("9112 2.2", "MUST", "parse octets, not text in some wider encoding",
     "field-obs-text host-obs-text te-kelvin line-bom rsp-reason-obs-text"),
    ("9112 2.2", "MUST NOT", "send a bare CR outside content",
     "field-bare-cr rsp-field-bare-cr cl-binary-body"),
    ("9112 2.2", "MUST", "hold an element with a bare CR for invalid (or put a space there)",
     "line-bare-cr line-target-cr field-bare-cr field-cr-in-name field-cr-cr-lf head-ends-cr-cr "
     "empty-line-cr chunk-bare-cr trailer-bare-cr rsp-line-bare-cr rsp-field-bare-cr "
     "rsp-field-splitting-cr"),
    ("9112 2.2", "MUST NOT", "send whitespace before the first field", "line-get rsp-length"),
    ("9112 2.2", "MUST", "refuse (or skip) a first line that begins with whitespace",
     "field-obs-fold-start rsp-field-fold-first trailer-fold-first"),
    ("9112 2.3", "MUST", "send its own version, whatever came",
     "version-10 version-12 rsp-10-length rsp-12"),
    # ==[ section 3: request line ]==
    ("9112 3", "MUST", "answer 414 to a target that is too long",
     "line-8300 line-8300-query line-endless"),
    ("9112 3.2", "MUST", "answer 400 to HTTP/1.1 without Host",
     "host-missing host-missing-with-fields absolute-11-without-host"),
    ("9112 3.2", "MUST", "answer 400 to more than one Host",
     "host-twice host-twice-differing host-twice-case host-twice-apart host-twice-10 "
     "host-twice-absolute"),
    ("9112 3.2", "MUST", "answer 400 to an invalid Host",
     "host-empty host-blank host-list host-space host-userinfo host-path host-url "
     "host-port-letters host-port-overflow host-v6-open host-v6-bad host-percent"),
    ("9112 3.2", "MUST", "send Host in every request", "line-get absolute-10-without-host"),
    ("9112 3.2.1", "MUST", "send path and query alone to an origin server",
     "absolute absolute-host-case"),
    ("9112 3.2.1", "MUST", 'send "/" for an empty path',
     "absolute-empty-path absolute-empty-path-query"),
    ("9112 3.2.2", "MUST", "take the host from an absolute target, not from Host: where they "
     "differ we refuse, which leaves nothing to choose",
     "absolute absolute-10-without-host absolute-other-host absolute-other-host-routed "
     "absolute-other-port"),
    ("9112 3.2.2", "MUST", "send Host made from an absolute target", "absolute-10-without-host"),
    ("9112 3.2.2", "MUST", "accept the absolute form", "absolute absolute-scheme-case"),
    ("9112 3.2.3", "MUST", "know CONNECT by its authority form (we refuse it)",
     "connect connect-bad-port target-authority-get"),
    ("9112 3.2.4", "MUST", 'send "*" for OPTIONS of an absolute target without path and query',
     "asterisk-from-absolute asterisk-options asterisk-options-path"),
    # ==[ sections 4 and 5: status line, fields ]==
    ("9112 4", "MUST", "send the space after the status code even without a reason",
     "rsp-reason-empty rsp-reason-missing"),
    ("9112 5.1", "MUST", "answer 400 to whitespace before the colon",
     "field-space-before-colon field-tab-before-colon field-host-space-before-colon "
     "cl-space-before-colon te-space-before-colon te-tab-before-colon"),
    ("9112 5.1", "MUST", "not let such whitespace through in a response: 502 instead of repair",
     "rsp-field-space-before-colon rsp-field-tab-before-colon"),
    ("9112 5.2", "MUST NOT", "send folded lines", "field-obs-fold rsp-field-obs-fold"),
    ("9112 5.2", "MUST", "refuse folding in a request (or put spaces there)",
     "field-obs-fold field-obs-fold-tab field-obs-fold-blank field-obs-fold-host "
     "field-obs-fold-te field-obs-fold-cl trailer-obs-fold"),
    ("9112 5.2", "MUST", "answer 502 to folding in a response (or put spaces there)",
     "rsp-field-obs-fold rsp-chunk-trailer-fold"),
    # ==[ section 6: message body ]==
    ("9112 6.1", "MUST", "understand chunked", "te-chunked chunk-two rsp-chunked"),
    ("9112 6.1", "MUST NOT", "apply chunked twice", "te-chunked te-chunked-chunked rsp-te-twice"),
    ("9112 6.1", "MUST", "end another coding of a request with chunked (we forward no other)",
     "te-gzip te-gzip-chunked"),
    ("9112 6.1", "MUST", "end another coding of a response with chunked or close (we forward no "
     "other)", "rsp-te-gzip rsp-te-gzip-chunked"),
    ("9112 6.1", "MUST NOT", "send Transfer-Encoding with 1xx or 204",
     "rsp-204-chunked rsp-interim"),
    ("9112 6.1", "MUST NOT", "send Transfer-Encoding in a 2xx to CONNECT", "connect"),
    ("9112 6.1", "MUST NOT", "send Transfer-Encoding to a server that may be older than 1.1",
     Why("not ours: rproxy is configured for HTTP/1.1 backends, which the clause allows for")),
    ("9112 6.1", "MUST NOT", "answer an HTTP/1.0 request with Transfer-Encoding",
     "rsp-chunked-10-client rsp-until-close-10-client"),
    ("9112 6.1", "MUST", "close after a request with both Content-Length and Transfer-Encoding",
     "te-and-cl te-and-cl-first te-and-cl-0 te-and-cl-smuggles"),
    ("9112 6.1", "MUST", "hold Transfer-Encoding in HTTP/1.0 for faulty framing, and close",
     "te-10 te-10-keep-alive te-and-cl-10 rsp-te-10"),
    ("9112 6.2", "MUST NOT", "send Content-Length beside Transfer-Encoding",
     "te-chunked rsp-te-and-cl"),
    ("9112 6.3", "MUST", "ignore framing fields where a response has no body",
     "rsp-head rsp-head-chunked rsp-304-length rsp-304-chunked"),
    ("9112 6.3", "MUST", "drop Content-Length where Transfer-Encoding stands beside it",
     "rsp-te-and-cl rsp-te-and-cl-wrong te-and-cl"),
    ("9112 6.3", "MUST", "answer 400 and close where chunked is not the last coding",
     "te-gzip te-identity te-chunked-gzip te-chunked-identity te-xchunked te-parameter"),
    ("9112 6.3", "MUST", "hold an invalid Content-Length for fatal",
     "cl-empty cl-plus cl-minus cl-hex cl-comma cl-list-differ cl-2e63 cl-2e64-plus-5 "
     "cl-twice-differ"),
    ("9112 6.3", "MUST", "in a request: answer 400 and close", "cl-letter cl-space-inside cl-huge"),
    ("9112 6.3", "MUST", "in a response: close the backend's connection, answer 502",
     "rsp-cl-letter rsp-cl-differ rsp-cl-list-differ rsp-cl-2e63 rsp-cl-2e64-plus-5"),
    ("9112 6.3", "MUST", "hold a message cut before its length for incomplete, and close",
     "cl-cut rsp-short-length rsp-short-length-reset rsp-short-none"),
    ("9112 6.3", "MUST", "frame a request that has a body", "cl-body te-chunked cl-get-body"),
    ("9112 6.3", "MUST NOT", "use, keep or forward bytes after a response as another one",
     "rsp-more-answer rsp-more-answer-chunked rsp-more-204 rsp-more-head rsp-head-with-body"),
    # ==[ section 7: chunked ]==
    ("9112 7.1", "MUST", "decode chunked",
     "chunk-empty chunk-two chunk-one-byte-each chunk-hex-case chunk-data-like-chunks"),
    ("9112 7.1", "MUST", "expect large sizes and never overflow",
     "chunk-16-digits chunk-17-digits chunk-overflow-63 chunk-overflow-64 chunk-all-f "
     "chunk-overflow-32-digits chunk-cut-in-16-digits rsp-chunk-overflow rsp-chunk-17-digits"),
    ("9112 7.1.1", "MUST", "ignore unknown chunk extensions",
     "chunk-ext-token chunk-ext-value chunk-ext-quoted chunk-ext-two rsp-chunked-ext"),
    ("9112 7.1.2", "MUST NOT", "merge trailers into the head (we drop them)",
     "trailer-dropped trailer-host trailer-length trailer-forwarded trailer-authorization "
     "rsp-trailer-dropped"),
    ("9112 7.4", "MUST NOT", "name chunked in TE, or send TE without Connection (we send none)",
     "hop-known"),
    # ==[ section 8: incomplete messages ]==
    ("9112 8", "MUST", "record a response as incomplete when it breaks off or its chunks are bad: "
     "the client is cut off, and no end is faked",
     "rsp-chunk-cut-no-final rsp-chunk-cut-in-data rsp-chunk-cut-half-final rsp-chunk-letter "
     "rsp-chunk-data-no-crlf rsp-until-close-reset rsp-nothing rsp-half-head-close"),
    # ==[ section 9: connections ]==
    ("9112 9.2", "MUST", "match answers to requests in their order",
     "pipeline-3 pipeline-20 pipeline-bodies rsp-interim"),
    ("9112 9.2", "MUST NOT", "take bytes on an idle connection for an answer", "rsp-more-late"),
    ("9112 9.3", "MUST", "read a request's body whole, or close",
     "own-answer-body refused-body-unread cl-short-rest-is-bad"),
    ("9112 9.3", "MUST", "read a response's body whole before using the connection again",
     "rsp-length rsp-chunked rsp-short-length"),
    ("9112 9.3", "MUST NOT", "keep a connection with an HTTP/1.0 client, as a proxy",
     Why("not ours: said of forward proxies, which such a client may not know about; towards its "
         "clients a gateway is an origin server (9110 3.7)")),
    ("9112 9.3.2", "MUST", "answer pipelined requests in their order", "pipeline-3 pipeline-20"),
    ("9112 9.3.2", "MUST NOT", "pipeline right after a reconnect",
     Why("not ours: rproxy never pipelines towards a backend")),
    ("9112 9.6", "MUST NOT", "send more on a connection after sending close",
     Why("not ours: rproxy sends no close to a backend that it means to use again")),
    ("9112 9.6", "MUST", "close after the answer to a request with close",
     "close-asked close-asked-list close-asked-second-line"),
    ("9112 9.6", "MUST NOT", "process what comes after a request with close", "close-then-more"),
    ("9112 9.6", "MUST", "close after sending close", "refused-then-more pipeline-then-bad"),
    ("9112 9.6", "MUST NOT", "process what comes after sending close",
     "refused-then-more refused-then-much pipeline-then-smuggling"),
    ("9112 9.6", "MUST", "send no more to a backend that said close",
     "rsp-close rsp-close-case rsp-10-length"),
    ("9112 9.7", "MUST", "send HTTP over TLS as application data alone",
     "test_cases.py::test_http_on_the_tls_port_gets_a_plain_400 line-get"),
    ("9112 9.8", "MUST", "start an exchange of closure alerts before closing",
     "test_cases.py::test_tls_is_closed_with_an_alert"),
    ("9112 9.8", "SHOULD", "bear a client that leaves without one",
     "test_cases.py::test_tls_client_may_leave_without_an_alert"),
]


def exists(pin, rows):
    if "::" not in pin:
        return pin in rows
    name, test = pin.split("::", 1)
    return (HERE / name).is_file() and f" {test}(" in (HERE / name).read_text()


def main():
    rows = {r.id for r in cases.REQUESTS + cases.RESPONSES}
    missing = pinned = 0
    for clause, level, demand, pins in SPEC:
        print(f"{clause:<11} {level:<8}  {demand}")
        if isinstance(pins, Why):
            print(f"{'':22}- {pins}")
            continue
        absent = [p for p in pins.split() if not exists(p, rows)]
        print(f"{'':22}= {pins}")
        if absent or not pins:
            missing += 1
            print(f"{'':22}! no such test: {' '.join(absent) or 'none named'}")
        else:
            pinned += 1
    print(f"{len(SPEC)} demands: {pinned} pinned, {len(SPEC) - pinned - missing} with a reason, "
          f"{missing} with tests that don't exist")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
