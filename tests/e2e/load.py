"""A raw load client: streams and plain calls side by side on one core, each reply checked to its last byte.

Every `Ask` becomes one `Seen`: what its own client saw, and nothing of what the gateway says about it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, cast

import httptools
import msgspec
import uvloop

from tests.e2e.processes import PATIENCE_S

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
RECONNECT_EVERY_S = 0.05


class End(StrEnum):
    """How a request ended for its client."""

    COMPLETE = "complete"  # [DONE], or a whole plain reply of 200
    ERROR_EVENT = "error event"  # part of a stream, and an error event as its end
    REFUSED = "refused"  # a whole HTTP error
    CUT = "cut"  # the connection was lost before the end
    LEFT = "left"  # this client closed it before the end
    UNREACHED = "unreached"  # nobody took the connection


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to make.

    Args:
        tokens: of a whole answer: the body asks for as many, and for no end before.
        text: the whole answer.
        leave_after_s: after sending, when this client goes; None for never.
        leave_after_events: with which event this client goes; None for never.
        headers: further ones, as lines.
    """

    request_id: str
    secret: str
    route: str
    body: bytes
    streamed: bool
    tokens: int
    text: str
    leave_after_s: float | None = None
    leave_after_events: int | None = None
    headers: str = ""

    def head(self) -> bytes:
        return (
            f"POST {self.route} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self.secret}\r\nX-Request-Id: {self.request_id}\r\n"
            f"Content-Length: {len(self.body)}\r\n{self.headers}\r\n"
        ).encode()


@dataclass(slots=True)
class Seen:
    """What the client of one request saw; `status` is 0 where no reply began, `wrong` is what must not be."""

    ask: Ask
    end: End = End.CUT
    status: int = 0
    text: str = ""
    token_events: int = 0
    usage: dict[str, int] | None = None
    error_code: str = ""
    wrong: list[str] = field(default_factory=list)

    def tell(self) -> str:
        return f"{self.ask.request_id}: {self.end} {self.status} {self.error_code} {self.wrong}"


@dataclass(slots=True)
class Target:
    """Where the load goes; the port may change while it runs."""

    port: int


class Reader:
    """Reads and checks the body of one reply."""

    def __init__(self, seen: Seen, on_event: Callable[[], None]) -> None:
        self._seen = seen
        self._on_event = on_event
        self._rest = b""
        self._id: Any = None
        self._roles = self._finishes = 0
        self.streams = False
        self.ended: End | None = None

    def feed(self, data: bytes) -> None:
        self._rest += data
        if not self.streams:
            return
        *events, self._rest = self._rest.split(b"\n\n")
        for event in events:
            if event and not event.startswith(b":"):
                self._event(event)

    def finish(self) -> None:
        """The reply is whole, as HTTP has it."""
        seen = self._seen
        if not self.streams:
            self._plain()
        elif self.ended is None:
            seen.wrong.append("a stream that HTTP calls whole has neither [DONE] nor an error")
            self.ended = End.CUT
        elif self._rest:
            seen.wrong.append(f"behind the end: {self._rest!r}")

    def _event(self, event: bytes) -> None:
        seen = self._seen
        if self.ended is not None or not event.startswith(b"data: "):
            seen.wrong.append(f"unexpected event: {event!r}")
            return
        data = event[6:]
        if data == b"[DONE]":
            self.ended = End.COMPLETE
            if self._finishes != 1:
                seen.wrong.append(f"{self._finishes} finish reasons")
            return
        chunk = self._decoded(data)
        if "error" in chunk:
            self.ended, seen.error_code = End.ERROR_EVENT, str(chunk["error"].get("code"))
            return
        if chunk.get("usage"):
            seen.usage = chunk["usage"]
        self._id = self._id or chunk.get("id")
        if chunk.get("id") != self._id:
            seen.wrong.append(f"the id changed: {self._id} to {chunk.get('id')}")
        for choice in chunk.get("choices", ()):
            self._choice(choice)
        self._on_event()

    def _choice(self, choice: dict[str, Any]) -> None:
        seen = self._seen
        delta = choice.get("delta") or {}
        text = choice.get("text") or delta.get("content") or ""
        seen.token_events += bool(text)
        seen.text += text
        self._roles += "role" in delta
        self._finishes += choice.get("finish_reason") is not None
        if self._roles > 1:
            seen.wrong.append("a second role")

    def _plain(self) -> None:
        seen = self._seen
        reply = self._decoded(self._rest)
        if seen.status != 200:
            self.ended = End.REFUSED
            seen.error_code = str((reply.get("error") or {}).get("code"))
            return
        self.ended = End.COMPLETE
        seen.usage = reply.get("usage")
        choice = (reply.get("choices") or [{}])[0]
        seen.text = choice.get("text") or choice.get("message", {}).get("content") or ""

    def _decoded(self, data: bytes) -> dict[str, Any]:
        try:
            return cast("dict[str, Any]", msgspec.json.decode(data))
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._seen.wrong.append(f"not JSON: {data[:200]!r}")
            return {}


class Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[End] = self._loop.create_future()
        self._leaving: asyncio.TimerHandle | None = None
        self.usable = True

    async def ask(self, ask: Ask) -> Seen:
        """Sends the request, and returns when it has ended, one way or another."""
        self._seen = seen = Seen(ask)
        self._events = 0
        self._reader = Reader(seen, self._count)
        self._parser = httptools.HttpResponseParser(self)
        self._over = self._loop.create_future()
        self._transport.write(ask.head() + ask.body)
        if ask.leave_after_s is not None:
            self._leaving = self._loop.call_later(ask.leave_after_s, self._leave)
        try:
            seen.end = await asyncio.wait_for(asyncio.shield(self._over), PATIENCE_S)
        except TimeoutError:
            seen.wrong.append(f"no end within {PATIENCE_S} s")
        finally:
            if self._leaving is not None:
                self._leaving.cancel()
        if seen.end not in (End.COMPLETE, End.REFUSED) or not self._parser.should_keep_alive():
            self.close()
        _check(seen)
        return seen

    def close(self) -> None:
        self.usable = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        self._end(End.CUT)

    def data_received(self, data: bytes) -> None:
        if self._over.done():  # it has left, or something follows an end
            if self.usable:
                self._seen.wrong.append(f"behind the reply: {data[:200]!r}")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._seen.wrong.append(f"not HTTP: {error}: {data[:200]!r}")
            self._end(End.CUT)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self._reader.streams = value.startswith(b"text/event-stream")
        if name.lower() == b"x-request-id" and value.decode() != self._seen.ask.request_id:
            self._seen.wrong.append(f"the reply to {value!r}")

    def on_headers_complete(self) -> None:
        self._seen.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if not self._over.done():
            self._reader.feed(body)

    def on_message_complete(self) -> None:
        if not self._over.done():
            self._reader.finish()
            self._end(self._reader.ended or End.CUT)

    def _count(self) -> None:
        self._events += 1
        if self._events == self._seen.ask.leave_after_events:
            self._leave()

    def _leave(self) -> None:
        if not self._over.done() and self._reader.ended is None:
            self._end(End.LEFT)
            self.close()

    def _end(self, end: End) -> None:
        if not self._over.done():
            # a client that has seen its end has it, even if the last bytes of HTTP are missing
            self._over.set_result(self._reader.ended or end if end is End.CUT else end)


def _check(seen: Seen) -> None:
    """Nobody is given another's words, or half an answer as a whole one."""
    ask = seen.ask
    whole = seen.end is End.COMPLETE
    if ask.text and not (seen.text == ask.text if whole else ask.text.startswith(seen.text)):
        seen.wrong.append(f"another answer: {seen.text!r}, not {ask.text!r}")
    if whole and seen.usage is not None and seen.usage.get("completion_tokens") not in (None, ask.tokens):
        seen.wrong.append(f"usage {seen.usage} for {ask.tokens} tokens")


async def apply(
    target: Target,
    asks: Iterator[Ask],
    *,
    clients: int,
    on_seen: Callable[[Seen], None],
    pause_s: Callable[[], float] = lambda: 0.0,
) -> None:
    """Makes all requests, by so many clients at once.

    Args:
        pause_s: between two requests of one client, drawn each time.
    """

    async def client() -> None:
        connection: Connection | None = None
        for ask in asks:
            if connection is None or not connection.usable:
                connection = await _connected(target)
            if connection is None:
                on_seen(Seen(ask, End.UNREACHED))
                await asyncio.sleep(RECONNECT_EVERY_S)
                continue
            on_seen(await connection.ask(ask))
            if (wait_s := pause_s()) > 0:
                await asyncio.sleep(wait_s)
        if connection is not None:
            connection.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())


async def _connected(target: Target) -> Connection | None:
    loop = asyncio.get_running_loop()
    try:
        _, connection = await loop.create_connection(Connection, "127.0.0.1", target.port)
    except OSError:
        return None
    return connection


def apply_all(target: Target, asks: Sequence[Ask], *, clients: int) -> list[Seen]:
    """What the clients of all these requests saw."""
    seen: list[Seen] = []
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(apply(target, iter(asks), clients=clients, on_seen=seen.append))
    return seen


class Background(threading.Thread):
    """Load until `stop`, in a thread of its own.

    Args:
        on_seen: takes what each client saw; without it, `seen` does.
    """

    def __init__(
        self,
        target: Target,
        make: Callable[[], Ask],
        *,
        clients: int,
        pause_s: Callable[[], float] = lambda: 0.0,
        on_seen: Callable[[Seen], None] | None = None,
    ) -> None:
        super().__init__(daemon=True)
        self._target = target
        self._make = make
        self._clients = clients
        self._pause_s = pause_s
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self.seen: list[Seen] = []
        self._on_seen = on_seen or self.seen.append

    def run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(
                    apply(
                        self._target,
                        self._asks(),
                        clients=self._clients,
                        on_seen=self._on_seen,
                        pause_s=self._pause_s,
                    )
                )
        except BaseException as error:
            self._error = error

    def stop(self) -> list[Seen]:
        """Lets requests under way end, and returns what all clients saw."""
        self._stopping.set()
        self.join(PATIENCE_S)
        assert not self.is_alive(), "clients still wait for their replies"
        if self._error is not None:
            raise self._error
        return self.seen

    def _asks(self) -> Iterator[Ask]:
        while not self._stopping.is_set():
            yield self._make()
