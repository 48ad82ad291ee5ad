"""The WebSocket half of the demo, both ends. Needs Debian's python3-websockets.

demo_ws.py serve PORT                     echoes each message; answers plain requests with a page
demo_ws.py talk HOST PORT CA COUNT        sends COUNT messages over wss:// through the proxy at
                                          127.0.0.1:PORT and checks each echo
"""
import asyncio
import ssl
import sys

import websockets

PAGE = b"""<!doctype html><meta charset=utf-8><title>echo</title>
<h1>WebSocket echo</h1><pre id=o></pre><script>
const o = document.getElementById('o'), w = new WebSocket('wss://' + location.host + '/echo');
w.onopen = () => w.send('hello from the browser');
w.onmessage = e => o.textContent += e.data + '\\n';
w.onclose = () => o.textContent += 'closed';
</script>
"""


async def plain(_path, headers):
    """A request that asks for no upgrade gets a page, so that a browser has something to open."""
    if headers.get("Upgrade", "").lower() != "websocket":
        return 200, [("Content-Type", "text/html")], PAGE
    return None


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def serve(port):
    async with websockets.serve(echo, "127.0.0.1", port, process_request=plain):
        await asyncio.Future()


async def talk(host, port, ca, count):
    tls = ssl.create_default_context(cafile=ca)
    # The name is for TLS and Host; the address is the proxy's, whatever DNS says of the name.
    async with websockets.connect(f"wss://{host}:{port}/echo", ssl=tls, server_hostname=host,
                                  host="127.0.0.1", port=port) as socket:
        for i in range(count):
            said = f"message {i + 1} of {count}, " + "x" * (i * 37 % 5000)
            await socket.send(said)
            heard = await asyncio.wait_for(socket.recv(), 10)
            if heard != said:
                raise SystemExit(f"demo: message {i + 1} came back changed")
        print(f"{count} messages sent, {count} came back unchanged")


if __name__ == "__main__":
    try:
        if sys.argv[1] == "serve":
            asyncio.run(serve(int(sys.argv[2])))
        else:
            asyncio.run(talk(sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5])))
    except KeyboardInterrupt:
        pass
