"""One request to an engine and its response, on one connection.

The body reaches its consumer through a callback, once per read from the socket however many HTTP chunks the
read held; waiting for the head and for the end are awaits, one wake-up each. Time limits are kept by the one
alarm of the connection, which is set at the first byte and when it rings, so a body event costs no timer call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from math import inf
from typing import Protocol

import msgspec

from penstock.core.errors import DeadlineError, EngineError, Fault, Phase
from penstock.engines.alarm import EARLY_S, Alarm

Headers = list[tuple[bytes, bytes]]

# A consumer that has not attached yet, or is paused, holds back the engine once this much waits for it.
UNREAD_BYTES_MAX = 256 * 1024


class PhaseTimeouts(msgspec.Struct, frozen=True):
    """How long each phase of an exchange may last, in seconds.

    Args:
        connect_s: opening the connection.
        first_byte_s: from the request sent to the first byte of the body; None leaves it to `total_s`.
        stall_s: silence after the first byte; None leaves it to `total_s`.
        total_s: the whole exchange.
    """

    connect_s: float
    first_byte_s: float | None
    stall_s: float | None
    total_s: float


class ConnectionLostError(EngineError):
    """The engine closed or reset the connection before its response was complete."""

    code = "engine_connection_lost"


class MalformedResponseError(EngineError):
    """The engine answered with something that is not HTTP/1.1."""

    code = "engine_malformed_response"


class SlowClientError(DeadlineError):
    """The time was spent waiting for the client."""

    status = HTTPStatus.REQUEST_TIMEOUT
    fault = Fault.CLIENT


class Channel(Protocol):
    """What an exchange needs of the connection under it."""

    def pause_reading(self) -> None:
        """Stops reading from the engine."""

    def resume_reading(self) -> None:
        """Reads from the engine again."""

    def abort(self) -> None:
        """Closes the connection at once, which cancels the engine's work."""


class Watcher(Protocol):
    """Whoever wants to know at once, and not a turn of the event loop later: who takes times."""

    def on_send(self, exchange: Exchange, reused: bool) -> None:
        """The request is about to be written to an open connection, which may have carried others before."""

    def on_head(self, exchange: Exchange) -> None:
        """The head is whole; the body is still to come, and may be received from now on."""


class Exchange:
    """The response as it arrives: `status` and `headers` once `head()` returns, then the body.

    Args:
        alarm: of the connection, free for this exchange; None gives it one of its own.
        watcher: told of the head before whoever waits for it.
    """

    __slots__ = (
        "_alarm",
        "_alarm_is_ours",
        "_channel",
        "_end",
        "_error",
        "_first",
        "_head",
        "_loop",
        "_on_body",
        "_paused",
        "_started_s",
        "_timeouts",
        "_unread",
        "_watcher",
        "answered",
        "body_begun",
        "complete",
        "headers",
        "last_byte_s",
        "on_chunk",
        "status",
    )

    def __init__(
        self,
        channel: Channel,
        timeouts: PhaseTimeouts,
        loop: asyncio.AbstractEventLoop,
        alarm: Alarm | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        self._watcher = watcher
        self._channel = channel
        self._loop = loop
        self._timeouts = timeouts
        self._head: asyncio.Future[None] | None = None
        self._first: asyncio.Future[None] | None = None
        self._end: asyncio.Future[None] | None = None
        self._error: EngineError | None = None
        self._on_body: Callable[[bytes], None] | None = None
        self._unread: list[bytes] = []
        self._paused = False
        # Offered each read that is one whole chunk, with its framing, and the size of what is in it; says whether it
        # took it. What it takes goes to nobody else, and it notes `last_byte_s`, on the loop's clock.
        self.on_chunk: Callable[[bytes, int], bool] | None = None
        self.status = 0
        self.headers: Headers = []
        self.answered = False  # any byte of the response has arrived
        self.body_begun = False
        self.complete = False
        self._started_s = self.last_byte_s = loop.time()
        self._alarm_is_ours = alarm is None
        self._alarm = alarm or Alarm(loop)
        self._alarm.on_due = self._check_time
        self._alarm.set(self._due()[0])

    # -- the consumer's side ------------------------------------------------------------------------

    async def head(self) -> None:
        """Waits for the status line and the headers.

        Raises:
            EngineError: the connection was lost, the response is malformed, or a time limit passed.
        """
        if not self.status and self._error is None:
            self._head = self._loop.create_future()
            await self._head
        if self._error is not None:
            raise self._error

    async def begun(self) -> None:
        """Waits for the first byte of the body, or its end; what comes waits for `receive`.

        Raises:
            EngineError: as for `head`.
        """
        if not self._unread and not self.complete and self._error is None:
            self._first = self._loop.create_future()
            await self._first
        if self._error is not None:
            raise self._error

    def receive(self, on_body: Callable[[bytes], None]) -> None:
        """Sends the body to `on_body`, beginning with what has arrived already."""
        if not self.complete:
            self._on_body = on_body
        unread, self._unread = self._unread, []
        self.resume()  # before the consumer is given anything: it may pause amid it
        for data in unread:
            if self._error is None:
                on_body(data)

    async def end(self) -> None:
        """Waits until the whole body has been handed to the consumer.

        Raises:
            EngineError: as for `head`.
        """
        if not self.complete and self._error is None:
            self._end = self._loop.create_future()
            await self._end
        if self._error is not None:
            raise self._error

    async def read(self, bytes_max: int) -> bytes:
        """The whole body, of at most `bytes_max` bytes.

        Raises:
            EngineError: as for `head`, or the body is larger.
        """
        parts: list[bytes] = []
        size = 0

        def collect(data: bytes) -> None:
            nonlocal size
            size += len(data)
            if size > bytes_max:
                self.fail(MalformedResponseError(f"the engine's response is larger than {bytes_max} bytes"))
            else:
                parts.append(data)

        self.receive(collect)
        await self.end()
        return b"".join(parts)

    def pause(self) -> None:
        """Stops reading from the engine: the consumer can't keep up. Its silence then counts as ours."""
        if not self._paused and not self.complete:
            self._paused = True
            self._channel.pause_reading()

    def resume(self) -> None:
        """Reads from the engine again."""
        if self._paused:
            self._paused = False
            self.last_byte_s = self._loop.time()
            self._channel.resume_reading()

    def hold(self, paused: bool) -> None:
        """Stops reading from the engine, or reads again."""
        if paused:
            self.pause()
        else:
            self.resume()

    def cancel(self) -> None:
        """Ends the exchange now; an unfinished one closes its connection, so that the engine stops work."""
        if not self.complete:
            self.fail(ConnectionLostError("cancelled by the gateway", code="cancelled"))

    def expect_first_token(self) -> None:
        """What has come so far was no token: the limit on the first one goes on, not the one on stalls."""
        self.body_begun = False
        if not self.complete and self._error is None:  # else the alarm may be another's already
            self._alarm.set(self._due()[0])

    @property
    def heard_s(self) -> float:
        """When a byte of the body came last, on the loop's clock; minus infinity where none has."""
        return self.last_byte_s if self.last_byte_s > self._started_s else -inf

    @property
    def paused(self) -> bool:
        """Whether it waits for its consumer, and not for the engine."""
        return self._paused

    @property
    def sent_s(self) -> float:
        """When the request was sent, on the loop's clock."""
        return self._started_s

    # -- the connection's side ----------------------------------------------------------------------

    def on_head(self, status: int, headers: Headers) -> None:
        """The head is complete."""
        self.status = status
        self.headers = headers
        _wake(self._head)
        if self._watcher is not None:
            self._watcher.on_head(self)

    def on_data(self, data: bytes) -> None:
        """Body bytes of one read from the socket; dropped once the exchange has failed."""
        if self._error is not None:
            return
        self.last_byte_s = self._loop.time()
        if not self.body_begun:
            self.body_begun = True
            self._alarm.set(self._due()[0])  # the stall limit may pass before the first byte's would have
        if self._on_body is not None:
            self._on_body(data)
            return
        self._unread.append(data)
        _wake(self._first)
        if sum(map(len, self._unread)) > UNREAD_BYTES_MAX:
            self.pause()

    def on_complete(self) -> None:
        """The response is whole."""
        self.complete = True
        # they refer to what refers to us: not left to the garbage collector
        self._watcher = self._on_body = self.on_chunk = None
        self._stop_alarm()
        _wake(self._first)
        _wake(self._end)

    def fail(self, error: EngineError) -> None:
        """Ends the exchange with `error`, unless it is over already."""
        if self.complete or self._error is not None:
            return
        self._error = error
        self._watcher = self._on_body = self.on_chunk = None
        self._stop_alarm()
        self._channel.abort()
        _wake(self._head)
        _wake(self._first)
        _wake(self._end)

    # -- time ---------------------------------------------------------------------------------------

    def _due(self) -> tuple[float, Phase]:
        """When the nearest time limit passes, and whose phase it is."""
        limits = self._timeouts
        if self.body_begun:
            since_s, limit_s, phase = self.last_byte_s, limits.stall_s, Phase.STALL
        else:
            since_s, limit_s, phase = self._started_s, limits.first_byte_s, Phase.FIRST_TOKEN
        total = (self._started_s + limits.total_s, Phase.TOTAL)
        return total if limit_s is None else min(total, (since_s + limit_s, phase))

    def _check_time(self) -> None:
        now_s = self._loop.time()
        if self._paused:
            self.last_byte_s = now_s
        due_s, phase = self._due()
        if due_s - now_s > EARLY_S:
            self._alarm.set(due_s)
            return
        if self._paused:
            self.fail(SlowClientError("the client took too long to read its answer", phase=phase))
            return
        waited_s = now_s - (self.last_byte_s if phase is Phase.STALL else self._started_s)
        self.fail(
            DeadlineError(
                f"the engine was silent too long: {phase} limit passed after {waited_s:.3g} s",
                phase=phase,
                hint=f"raise models.N.timeouts.{phase}, or find out why the engine is slow",
            )
        )

    def _stop_alarm(self) -> None:
        if self._alarm_is_ours:
            self._alarm.close()
        else:
            self._alarm.clear()
            self._alarm.on_due = None


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
