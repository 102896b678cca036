"""A TURN client of aioice: sends messages through a relay to a peer that returns them, and ends
with an error unless all come back unchanged."""

import argparse
import asyncio
import ssl

from aioice.turn import create_turn_endpoint

MESSAGES = 20
SIZE = 500
PATIENCE_S = 10


class Received(asyncio.DatagramProtocol):
    def __init__(self):
        self.queue = asyncio.Queue()

    def datagram_received(self, data, addr):
        self.queue.put_nowait((data, addr))


def address(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


async def main(options):
    context = None
    if options.transport == "tls":
        context = ssl.create_default_context(cafile=options.authority)
    relay, received = await create_turn_endpoint(
        Received,
        server_addr=address(options.server),
        username=options.user,
        password=options.password,
        transport="udp" if options.transport == "udp" else "tcp",
        ssl=context,
    )
    peer = address(options.peer)
    for index in range(MESSAGES):
        message = bytes([index]) * SIZE
        relay.sendto(message, peer)
        answer = await asyncio.wait_for(received.queue.get(), PATIENCE_S)
        if answer != (message, peer):
            raise SystemExit(f"{len(answer[0])} bytes from {answer[1]} came back as {index}")
    relay.close()


parser = argparse.ArgumentParser()
parser.add_argument("--transport", choices=["udp", "tcp", "tls"])
for name in ["server", "authority", "user", "password", "peer"]:
    parser.add_argument(f"--{name}")
asyncio.run(main(parser.parse_args()))
