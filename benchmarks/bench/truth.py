"""A server of known timing: `python -m benchmarks.bench.truth`, which prints its port and serves until it is ended.

The first part of a request's path names its case, so that any load tester can be pointed at
`http://127.0.0.1:PORT/CASE/v1`. Every answer keeps its own schedule from the moment that its request was whole; what
was really written when is kept as well, and told by `GET /log`, as one JSON list of `[request id, [times]]`.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import cast

import httptools
import uvloop

from penstock.bench.load.pacer import Pacer

FIRST_S = 0.2
GAP_S = 0.02
TOKENS = 16
PROMPT_TOKENS = 100
LOG_LEN_MAX = 20_000


@dataclass(frozen=True, slots=True)
class Case:
    """How a server answers.

    Args:
        first_s, gap_s: when the first chunk with content comes, and how long after each the next one.
        tokens, per_chunk: of an answer, and in each chunk.
        role_at_s: when an empty chunk with the role comes; None sends none.
        reasoning: chunks of reasoning before those of the answer.
        tail_s: from the last content to the usage and the end mark.
        usage: whether the usage is told.
        refused, reset: of ten requests, so many get a 429, or are reset after half of their chunks.
        places: requests served at once, each for 0.5 s; others wait. 0 has no such limit.
    """

    first_s: float = FIRST_S
    gap_s: float = GAP_S
    tokens: int = TOKENS
    per_chunk: int = 1
    role_at_s: float | None = None
    reasoning: int = 0
    tail_s: float = 0.0
    usage: bool = True
    refused: int = 0
    reset: int = 0
    places: int = 0


CASES = {
    "base": Case(),
    "role": Case(role_at_s=0.0),
    "lumps": Case(per_chunk=4),
    "reasoning": Case(reasoning=8),
    "tail": Case(tail_s=0.3),
    "refused": Case(refused=3),
    "reset": Case(reset=3),
    "no-usage": Case(usage=False, per_chunk=4),
    "queue": Case(places=4),
    "instant": Case(first_s=0.0, gap_s=0.0, tokens=1),
}

_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nx-request-id: %b\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_ID = "chatcmpl-0123456789abcdef0123456789abcdef"


def case_of(path: str) -> Case | None:
    """The case that a path begins with; `fast-GAP_MS-TOKENS` has that gap and that many tokens."""
    name = path.split("/")[1]
    if name.startswith("fast-"):
        gap_ms, tokens = name.split("-")[1:3]
        return Case(first_s=float(gap_ms) / 1000, gap_s=float(gap_ms) / 1000, tokens=int(tokens))
    return CASES.get(name)


def steps(case: Case, wants_usage: bool, is_reset: bool) -> list[tuple[float, bytes, bool]]:
    """The chunks of an answer: when each comes, its bytes, and whether it brings tokens."""
    chunks = case.tokens // case.per_chunk
    found: list[tuple[float, bytes, bool]] = []
    if case.role_at_s is not None:
        found.append((case.role_at_s, _event({"role": "assistant", "content": ""}), False))
    for number in range(chunks):
        last = number == chunks - 1
        name = "reasoning_content" if number < case.reasoning else "content"
        text = "".join(f" w{number * case.per_chunk + n}" for n in range(case.per_chunk))
        found.append((case.first_s + number * case.gap_s, _event({name: text}, last), True))
    if is_reset:
        return found[: len(found) // 2]
    end_s = case.first_s + (chunks - 1) * case.gap_s + case.tail_s
    end = b""
    if case.usage and wants_usage:
        counts = {
            "prompt_tokens": PROMPT_TOKENS,
            "completion_tokens": case.tokens,
            "total_tokens": PROMPT_TOKENS + case.tokens,
        }
        end += _chunk({**_base(), "choices": [], "usage": counts})
    found.append((end_s, end + _http_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n", False))
    return found


def _base() -> dict[str, object]:
    return {"id": _ID, "object": "chat.completion.chunk", "created": 1764331200, "model": "truth"}


def _event(delta: dict[str, str], last: bool = False) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": "length" if last else None}
    return _chunk({**_base(), "choices": [choice]})


def _chunk(body: dict[str, object]) -> bytes:
    return _http_chunk(b"data: %b\n\n" % json.dumps(body, separators=(",", ":")).encode())


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Truth:
    """The state of the server: what is due next, what was written when, and who waits for a place."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()
        self._pacer = Pacer(self._ring)
        self.requests = count()
        self.log: deque[tuple[str, list[float]]] = deque(maxlen=LOG_LEN_MAX)
        self._served = 0
        self._waiting: deque[Callable[[], None]] = deque()
        self._plans: dict[tuple[Case, bool, bool], list[tuple[float, bytes, bool]]] = {}

    def steps(self, case: Case, wants_usage: bool, is_reset: bool) -> list[tuple[float, bytes, bool]]:
        """As the function of this name, made once."""
        key = (case, wants_usage, is_reset)
        if key not in self._plans:
            self._plans[key] = steps(*key)
        return self._plans[key]

    def at(self, due_s: float, act: Callable[[], None]) -> None:
        """Acts at `due_s` of the monotonic clock."""
        heapq.heappush(self._due, (due_s, next(self._number), act))
        if self._due[0][0] == due_s:
            self._pacer.set(due_s)

    def enter(self, places: int, begin: Callable[[], None]) -> None:
        """Begins as soon as a place is free."""
        if self._served < places:
            self._served += 1
            begin()
        else:
            self._waiting.append(begin)

    def leave(self) -> None:
        """A place is free."""
        if self._waiting:
            self._waiting.popleft()()
        else:
            self._served -= 1

    def _ring(self) -> None:
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()
        if self._due:
            self._pacer.set(self._due[0][0])


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self._parser = httptools.HttpRequestParser(self)
        self._open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason does not matter
        """It has gone."""
        self._open = False

    def data_received(self, data: bytes) -> None:
        """Requests, or parts of them."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    # -- httptools ----------------------------------------------------------------------------------

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
        """It is whole: its time begins."""
        path = self._path.decode()
        if path == "/log":
            self._answer(b"200 OK", json.dumps(list(self._truth.log)).encode())
            self._truth.log.clear()
        elif path.endswith("/models"):
            self._answer(b"200 OK", b'{"object":"list","data":[{"id":"truth","object":"model"}]}')
        elif (case := case_of(path)) is None or not path.endswith("/completions"):
            self._answer(b"404 Not Found", b'{"error":{"message":"no such case"}}')
        else:
            self._begin(case)

    def _answer(self, status: bytes, body: bytes) -> None:
        self._transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (status, len(body), body)
        )

    def _begin(self, case: Case) -> None:
        number = next(self._truth.requests)
        arrived_s = time.monotonic()
        if number % 10 < case.refused:
            self._answer(b"429 Too Many Requests", b'{"error":{"message":"slow down","type":"rate_limit"}}')
            return
        is_reset = number % 10 < case.reset
        plan = self._truth.steps(case, b'"include_usage":true' in self._body.replace(b" ", b""), is_reset)
        times = [arrived_s]
        self._truth.log.append((str(number), times))
        if case.places:
            self._truth.enter(
                case.places, lambda: self._send(case, plan, number, is_reset, time.monotonic(), times)
            )
        else:
            self._send(case, plan, number, is_reset, arrived_s, times)

    def _send(
        self,
        case: Case,
        plan: list[tuple[float, bytes, bool]],
        number: int,
        is_reset: bool,
        start_s: float,
        times: list[float],
    ) -> None:
        """Writes the plan, step by step, each at its time from `start_s`."""
        self._transport.write(_HEAD % str(number).encode())
        step = 0

        def write() -> None:
            nonlocal step
            if self._open:
                _, data, has_tokens = plan[step]
                if has_tokens:
                    times.append(time.monotonic())
                self._transport.write(data)
            step += 1
            if step < len(plan):
                self._truth.at(start_s + plan[step][0], write)
                return
            if is_reset and self._open:
                self._truth.at(time.monotonic() + case.gap_s, self._reset)
            if case.places:
                self._truth.leave()

        self._truth.at(start_s + plan[0][0], write)

    def _reset(self) -> None:
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()


async def serve() -> None:
    """Serves on a free port of loopback, or the one that is given."""
    truth = Truth()
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(truth), "127.0.0.1", port, backlog=4096
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
