"""The engine's place: streams tokens at the pace its prompt asks for, and answers plain calls at once.

Run as `python -m benchmarks.gateway.backend`; it prints its port on the first line and serves until ended.
Each stream keeps its own time from its own start; a late token does not delay the next one.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import cast

import httptools
import uvloop
from benchmarks.gateway import replies

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)
TRACES_PATH = b"/v1/traces"  # it is a collector, too, that takes all and keeps nothing
MODELS = b'{"object":"list","data":[{"id":"bench","object":"model","created":0,"owned_by":"bench"}]}'


class Backend(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""
        self._body = bytearray()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A proxy has connected."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Requests, or parts of them; anything else ends the connection, as with routers that try HTTP/2 first."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason does not matter
        """The proxy has gone: so has the stream."""
        if self._timer is not None:
            self._timer.cancel()

    # -- httptools ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        self._path = b""
        self._body = bytearray()

    def on_url(self, url: bytes) -> None:
        """Its path."""
        self._path += url

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        self._body += body

    def on_message_complete(self) -> None:
        """It is whole: answered."""
        if self._path == b"/v1/models":
            self._answer(MODELS)
        elif self._path == b"/v1/chat/completions":
            self._chat(json.loads(self._body))
        elif self._path == b"/v1/completions":
            self._answer(replies.plain(_text(json.loads(self._body).get("prompt")), "text_completion"))
        elif self._path in (b"/health", TRACES_PATH):
            self._answer(b"{}")
        else:
            self._answer(b'{"error":{"message":"no such route"}}', b"404 Not Found")

    # -- answers --------------------------------------------------------------------------------------

    def _answer(self, body: bytes, status: bytes = b"200 OK") -> None:
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % (status, len(body)) + body)

    def _chat(self, request: dict[str, object]) -> None:
        content = _text(cast("list[dict[str, object]]", request["messages"])[-1]["content"])
        if not request.get("stream"):
            self._answer(replies.plain(content))
            return
        self._interval_s = replies.interval_s(content)
        self._tokens = int(str(request.get("max_tokens") or request["max_completion_tokens"]))
        self._wants_usage = bool(
            cast("dict[str, object]", request.get("stream_options") or {}).get("include_usage")
        )
        self._sent = 0
        self._start_s = self._loop.time()
        self._transport.write(STREAM_HEAD + _chunk(replies.ROLE))
        self._send_token()

    def _send_token(self) -> None:
        number = self._sent
        self._sent = number + 1
        last = self._sent == self._tokens
        self._transport.write(_chunk(replies.token(number, time.monotonic_ns(), last=last)))
        if not last:
            due_s = self._start_s + self._sent * self._interval_s
            self._timer = self._loop.call_at(due_s, self._send_token)
            return
        self._timer = None
        end = _chunk(replies.usage(self._tokens)) if self._wants_usage else b""
        self._transport.write(end + _chunk(replies.DONE) + b"0\r\n\r\n")


def _text(content: object) -> str:
    """A message's text, which a proxy may have turned into a list of parts."""
    if isinstance(content, list):
        return "".join(str(part["text"]) for part in content)
    return str(content)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def serve() -> None:
    """Serves on a free port of loopback."""
    server = await asyncio.get_running_loop().create_server(Backend, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
