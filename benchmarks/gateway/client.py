"""The load, from a process of its own: streams side by side, or plain calls one after the other.

Run as `python -m benchmarks.gateway.client '{"port": ..., ...}'`; prints one JSON object. Connections are
opened before the first request and kept alive. Every reply is checked whole; what is wrong goes to `wrong`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import cast

import httptools
import uvloop
from benchmarks.gateway import replies

KEY = "sk-bench-0123456789"
WRONG_MAX = 5  # shown in a report; the first one voids the cell already


@dataclass(frozen=True, slots=True)
class Load:
    """What to send.

    Args:
        connections: kept-alive connections, each with one request at a time.
        requests: on each connection, at most.
        tokens: of each stream; 0 makes plain calls.
        timeout_s: for all of it.
        until_s: no request is begun later than this after the first one; 0 means no such limit.
        ramp_s: over which the connections send their first requests, evenly.
        interval_s: between two tokens of a stream.
        prompt_bytes: length of the prompt; 0 means a short one.
    """

    port: int
    connections: int
    requests: int
    tokens: int
    timeout_s: float
    until_s: float = 0.0
    ramp_s: float = replies.INTERVAL_S
    interval_s: float = replies.INTERVAL_S
    prompt_bytes: int = 0


@dataclass(slots=True)
class Seen:
    """What came back; times in milliseconds.

    `ttft` ends at the first token's text, not at the role chunk. `gap` is between tokens of one stream as
    they arrive. `transit` is how long a token was under way: from the backend's write to the client's read.
    `wall_s` runs from the first request's write to the last reply's end, which is at `last_s` on the monotonic
    clock; `cpu_s` is what the client itself used meanwhile. `open_peak` is the largest number of streams that
    had begun, and not ended, at one time.
    """

    sent: int = 0
    replies: int = 0
    events: int = 0
    wall_s: float = 0.0
    last_s: float = 0.0
    cpu_s: float = 0.0
    open_now: int = 0
    open_peak: int = 0
    wrong: list[str] = field(default_factory=list)
    ttft_ms: list[float] = field(default_factory=list)
    gap_ms: list[float] = field(default_factory=list)
    transit_ms: list[float] = field(default_factory=list)
    reply_ms: list[float] = field(default_factory=list)


class Connection(asyncio.Protocol):
    """One connection; `send` begins a request, `done` is called once its reply is whole."""

    def __init__(self, request: bytes, seen: Seen, done: Callable[[Connection], None]) -> None:
        self._request = request
        self._seen = seen
        self._done = done
        self.answered = 0
        self._over = False

    def send(self) -> None:
        """Sends the request."""
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._whole = self._over = False
        self.begin()
        self._seen.sent += 1
        self._sent_ns = time.monotonic_ns()
        self._transport.write(self._request)

    def begin(self) -> None:
        """A reply is about to come."""

    def arrived(self, now_ns: int) -> None:
        """A part of the reply is in `_parts`."""

    def end(self) -> None:
        """The reply is whole."""

    def check(self, now_ns: int) -> str:
        """What is wrong with the whole reply, or nothing."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """A part of a reply, as it came from the socket."""
        now_ns = time.monotonic_ns()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fault(f"not HTTP: {error}: {data[:300]!r}")
            return
        if self._parts:
            self.arrived(now_ns)
        if self._whole:
            self._finish(now_ns)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, which it may be only after its last reply."""
        if not self._over:
            self._fault(f"the connection was closed: {exc}")

    def on_body(self, body: bytes) -> None:
        """A part of a reply's body."""
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """The reply is whole."""
        self._whole = True

    def _finish(self, now_ns: int) -> None:
        self.end()
        status = self._parser.get_status_code()
        wrong = self.check(now_ns) if status == 200 else f"status {status}: {b''.join(self._parts)[:300]!r}"
        if wrong:
            self._fault(wrong)
        self._seen.replies += 1
        self._seen.last_s = now_ns / 1e9
        self.answered += 1
        self._over = True
        self._done(self)

    def _fault(self, wrong: str) -> None:
        if len(self._seen.wrong) < WRONG_MAX:
            self._seen.wrong.append(wrong)


class Plain(Connection):
    """Plain calls, each answered with `expected`."""

    def __init__(self, request: bytes, seen: Seen, done: Callable[[Connection], None], expected: str) -> None:
        super().__init__(request, seen, done)
        self._expected = expected

    def check(self, now_ns: int) -> str:
        """A reply must say what the backend said."""
        self._seen.reply_ms.append((now_ns - self._sent_ns) / 1e6)
        body = b"".join(self._parts)
        try:
            reply = json.loads(body)
            same = reply["choices"][0]["message"]["content"] == self._expected
            same = same and reply["usage"]["total_tokens"] == replies.usage_counts(1)["total_tokens"]
        except (ValueError, LookupError, TypeError):
            same = False
        return "" if same else f"another reply: {body[:300]!r}"


class Stream(Connection):
    """Streams of `tokens` tokens: all of them, in order, then usage, then [DONE]."""

    def __init__(self, request: bytes, seen: Seen, done: Callable[[Connection], None], tokens: int) -> None:
        super().__init__(request, seen, done)
        self._tokens = tokens

    def begin(self) -> None:
        """Nothing has come so far."""
        self._rest = b""
        self._next = 0
        self._last_ns = 0
        self._finished = self._usage_seen = self._done_seen = False
        self._strange = ""

    def arrived(self, now_ns: int) -> None:
        """Events, each checked at once."""
        if self._parser.get_status_code() != 200:
            return
        data = self._rest + b"".join(self._parts)
        self._parts = []
        *events, self._rest = data.split(b"\n\n")
        for event in events:
            if event.startswith(replies.TOKEN_START):
                start = len(replies.TOKEN_START)
                number, sent_ns = event[start : start + 24].split(b" ")
                self._finished = event.endswith(b'"finish_reason":"length"}]}')
                self._token(int(number), int(sent_ns), now_ns)
            else:
                self._other(event, now_ns)

    def end(self) -> None:
        """One stream fewer is open."""
        if self._next:
            self._seen.open_now -= 1

    def check(self, now_ns: int) -> str:  # noqa: ARG002 - a stream has a time for each token
        """A stream must be whole."""
        if self._strange:
            return self._strange
        if self._rest:
            return f"an event without an end: {self._rest[:300]!r}"
        if self._next != self._tokens or not self._finished:
            return f"{self._next} tokens of {self._tokens}, finish reason {self._finished}"
        return "" if self._usage_seen and self._done_seen else "no usage event, or no [DONE]"

    def _token(self, number: int, sent_ns: int, now_ns: int) -> None:
        seen = self._seen
        if (number != self._next or self._done_seen) and not self._strange:
            self._strange = f"token {number} where {self._next} is due"
        if self._next == 0:
            seen.ttft_ms.append((now_ns - self._sent_ns) / 1e6)
            seen.open_now += 1
            seen.open_peak = max(seen.open_peak, seen.open_now)
        else:
            seen.gap_ms.append((now_ns - self._last_ns) / 1e6)
        seen.transit_ms.append((now_ns - sent_ns) / 1e6)
        seen.events += 1
        self._next += 1
        self._last_ns = now_ns

    def _other(self, event: bytes, now_ns: int) -> None:
        """Anything but an unchanged token: parsed, since a proxy may write events anew."""
        if event == b"data: [DONE]":
            self._done_seen = True
            return
        if event.startswith(b":"):
            return
        try:
            chunk = json.loads(event.removeprefix(b"data:"))
            if chunk.get("usage"):
                counts = replies.usage_counts(self._tokens)
                self._usage_seen = all(chunk["usage"][name] == count for name, count in counts.items())
            for choice in chunk["choices"]:
                text = choice["delta"].get("content")
                if text:
                    number, sent_ns = text.split()
                    self._token(int(number), int(sent_ns), now_ns)
                self._finished = self._finished or choice.get("finish_reason") == "length"
        except (ValueError, LookupError, TypeError, AttributeError):
            self._strange = self._strange or f"not an event of the backend: {event[:300]!r}"


async def run(load: Load) -> Seen:
    """Sends the load and waits for all replies."""
    loop = asyncio.get_running_loop()
    seen = Seen()
    over = loop.create_future()
    open_count = load.connections
    began_s = cpu_before_s = 0.0

    def done(connection: Connection) -> None:
        nonlocal open_count
        late = load.until_s and time.monotonic() - began_s > load.until_s
        if connection.answered < load.requests and not late and not seen.wrong:
            connection.send()
            return
        open_count -= 1
        if not open_count:
            over.set_result(None)

    try:
        async with asyncio.timeout(load.timeout_s):
            connections = await _connect(load, seen, done)
            began_s, cpu_before_s = time.monotonic(), time.process_time()
            for number, connection in enumerate(connections):
                loop.call_later(load.ramp_s * number / load.connections, connection.send)
            while not over.done() and not seen.wrong:
                await asyncio.wait({over}, timeout=0.1)
    except TimeoutError:
        seen.wrong.append(
            f"{open_count} connections of {load.connections} came to no end in {load.timeout_s:g} s"
        )
    except OSError as error:
        seen.wrong.append(f"no connection: {error}")
    seen.cpu_s = time.process_time() - cpu_before_s
    seen.wall_s = max(seen.last_s - began_s, 0.0)
    if seen.replies != seen.sent and not seen.wrong:
        seen.wrong.append(f"{seen.replies} replies of {seen.sent}")
    return Seen(**asdict(seen))  # closing the connections must not add to it


async def _connect(load: Load, seen: Seen, done: Callable[[Connection], None]) -> Sequence[Connection]:
    content = replies.prompt(load.prompt_bytes, load.interval_s)
    body = replies.request(load.tokens or 1, stream=load.tokens > 0, content=content)
    request = _head(load.port, len(body)) + body
    expected = replies.said(content)

    def connection() -> Connection:
        if load.tokens:
            return Stream(request, seen, done, load.tokens)
        return Plain(request, seen, done, expected)

    loop = asyncio.get_running_loop()
    return [
        (await loop.create_connection(connection, "127.0.0.1", load.port))[1] for _ in range(load.connections)
    ]


def _head(port: int, body_bytes: int) -> bytes:
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
        f"authorization: Bearer {KEY}\r\n"
        f"content-type: application/json\r\naccept: */*\r\nuser-agent: penstock-bench\r\n"
        f"content-length: {body_bytes}\r\n\r\n"
    ).encode()


if __name__ == "__main__":
    print(json.dumps(asdict(uvloop.run(run(Load(**json.loads(sys.argv[1])))))))
