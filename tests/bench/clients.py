"""The small clients of the benchmarks. Everything goes to 127.0.0.1.

clients.py serial PORT COUNT     COUNT GETs, one after the other, on one connection
clients.py idle PORT COUNT TLS   COUNT connections (TLS: 0 or 1), one GET on each, then says
                                 "ready" and holds them until its input ends; then one more GET
                                 on each must still be answered
"""
import socket
import ssl
import sys

REQUEST = b"GET /small HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"


def connect(port, tls=None):
    s = socket.create_connection(("127.0.0.1", port), timeout=30)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return tls.wrap_socket(s, server_hostname="localhost") if tls else s


def get(s):
    """One GET; the answer must be a 200 with a Content-Length, and is read whole."""
    s.sendall(REQUEST)
    data = b""
    while b"\r\n\r\n" not in data:
        more = s.recv(65536)
        if not more:
            raise SystemExit("bench: the proxy closed a kept-alive connection")
        data += more
    head, body = data.split(b"\r\n\r\n", 1)
    lines = head.decode("latin-1").split("\r\n")
    if lines[0].split()[1] != "200":
        raise SystemExit(f"bench: answered {lines[0]!r}")
    left = int(next(v for n, _, v in (line.partition(":") for line in lines[1:])
                    if n.lower() == "content-length")) - len(body)
    while left > 0:
        left -= len(s.recv(left))


def serial(port, count):
    s = connect(port)
    for _ in range(count):
        get(s)
    s.close()


def idle(port, count, tls):
    context = None
    if tls:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    held = []
    for _ in range(count):
        s = connect(port, context)
        get(s)
        held.append(s)
    print("ready", flush=True)
    sys.stdin.read()
    for s in held:
        get(s)
    print("alive", flush=True)


if __name__ == "__main__":
    what, numbers = sys.argv[1], [int(a) for a in sys.argv[2:]]
    {"serial": serial, "idle": idle}[what](*numbers)
