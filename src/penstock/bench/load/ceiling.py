"""What this machine's load generator can take at most, measured before the load: its own client, on itself.

A server of this very process writes one event to each of some connections, and waits until the client has read
them all; then the next round. The time of the writes is the server's and is taken off. One event for each read is
the dearest way for them to come: real ones, which come together under load, cost less.
"""

from __future__ import annotations

import asyncio
import socket
import time

from penstock.bench.load.call import Caller
from penstock.bench.load.endpoint import Endpoint
from penstock.bench.load.timeouts import Timeouts
from penstock.bench.plan import PlannedRequest

STREAMS = 32
# Of CPU time: the processes of a run measure side by side.
MEASURE_S = 0.08
# A machine that is busy otherwise gives up on its ceiling rather than on its start.
GIVE_UP_S = 2.0
_LINGER_READ_BYTES = 65536

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_EVENT = (
    b'data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk",'
    b'"created":1764331200,"model":"a-model-of-usual-name","choices":[{"index":0,"delta":{"content":" word"},'
    b'"logprobs":null,"finish_reason":null}]}\n\n'
)
_PIECE = b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT)


async def measure_ceiling() -> float:
    """Events that this process could read in a second of its own; 0 where it could not be measured."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=STREAMS)
    listener.setblocking(False)
    endpoint = Endpoint(host="127.0.0.1", port=listener.getsockname()[1])
    caller = Caller(endpoint, Timeouts(), connections_max=STREAMS)
    request = PlannedRequest(index=0, body=b'{"stream":true}')
    calls = [asyncio.create_task(caller.call(request, 0.0)) for _ in range(STREAMS)]
    peers: list[socket.socket] = []
    try:
        async with asyncio.timeout(GIVE_UP_S):
            loop = asyncio.get_running_loop()
            for _ in range(STREAMS):
                peer, _ = await loop.sock_accept(listener)
                peers.append(peer)
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await loop.sock_recv(peer, _LINGER_READ_BYTES)
                peer.send(_HEAD)
            return await _rounds(caller, peers)
    except (TimeoutError, OSError):
        return 0.0
    finally:
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        for peer in peers:
            peer.close()
        listener.close()
        caller.close()


async def _rounds(caller: Caller, peers: list[socket.socket]) -> float:
    """The rate over as many rounds as fit into `MEASURE_S`; the first one is for caches and is not counted."""
    await _round(caller, peers)
    begun, begun_s, written_s = caller.counts.events, time.process_time(), 0.0
    while (busy_s := time.process_time() - begun_s) < MEASURE_S:
        written_s += await _round(caller, peers)
    return (caller.counts.events - begun) / max(busy_s - written_s, 1e-6)


async def _round(caller: Caller, peers: list[socket.socket]) -> float:
    """One event on each connection; how long the writing took, seconds of CPU."""
    wanted = caller.counts.events + len(peers)
    begun_s = time.process_time()
    for peer in peers:
        peer.send(_PIECE)
    written_s = time.process_time() - begun_s
    while caller.counts.events < wanted:  # noqa: ASYNC110 - each turn of the loop is what is measured
        await asyncio.sleep(0)
    return written_s
