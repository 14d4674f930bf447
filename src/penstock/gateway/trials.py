"""Replicas are chosen and asked here, for whoever needs one: a first attempt, a hedge, or the rest of an answer."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from penstock.core.errors import DeadlineError, EngineError, PenstockError, Phase
from penstock.core.record import Attempt
from penstock.engines.client import ConnectRefusedError, EngineClient
from penstock.engines.exchange import Exchange, MalformedResponseError, PhaseTimeouts
from penstock.gateway.call import Call
from penstock.gateway.forwarding import headers_to_engine
from penstock.gateway.replicas import Replicas
from penstock.gateway.routing import Routing
from penstock.gateway.tracing import attempt_header
from penstock.gateway.traffic import ReplicaStalledError
from penstock.policy.breaker import Sign, sign_of
from penstock.policy.fleet import Replica
from penstock.policy.retry import Failure
from penstock.policy.route import Choice


class Trial:
    """One attempt under way: its entry on the record, its permit until it is closed, and its exchange once open."""

    __slots__ = (
        *("_call", "_closed", "_number", "_sent", "_trials"),
        *("attempt", "error", "exchange", "replica"),
    )

    def __init__(self, trials: Trials, call: Call, replica: Replica, attempt: Attempt) -> None:
        self._trials = trials
        self._call = call
        self._closed = False
        self._number = len(call.record.attempts)
        self.replica = replica
        self.attempt = attempt
        self.error: PenstockError | None = None
        self.exchange: Exchange | None = None
        self._sent: Exchange | None = None  # the same one, as soon as it is under way
        trials.replicas.traffic.begin(replica.name, self)

    async def open(self, call: Call, body: bytes) -> Exchange:
        """Sends the request with this body, and waits for the head of its response.

        Raises:
            EngineError: as `EngineClient.open`.
        """
        limits, streams = call.timeouts, call.request.stream
        headers = headers_to_engine(call.headers, call.record.request_id, self.replica.api_key)
        if call.record.trace is not None:
            headers.append(attempt_header(call.record.trace, self._number))
        trials = self._trials
        exchange = await trials.client.open(
            self.replica.address,
            b"POST",
            call.route.encode(),
            headers,
            body,
            PhaseTimeouts(
                connect_s=limits.connect_s,
                first_byte_s=limits.first_token_s if streams else None,
                stall_s=limits.stall_s if streams else None,
                total_s=max(0.0, call.deadline_s - trials.clock()),
            ),
            self,
        )
        if self._closed:  # amid the wake-up
            exchange.cancel()
            raise asyncio.CancelledError
        self.exchange = exchange
        self.attempt.status = exchange.status
        self.attempt.connected_s = max(self.attempt.started_s, exchange.sent_s)
        return exchange

    def failed(self, error: EngineError) -> Failure:
        """Notes how it failed, and tells the fleet where nothing listens."""
        self.error = error
        failure = failure_of(error)
        self.attempt.failure = failure
        if isinstance(error, ConnectRefusedError):
            self._trials.replicas.refused(self.replica.name, error.message)
        elif failure is Failure.REFUSED:  # too late, which one that is merely busy may be as well
            self._trials.replicas.hurry(self.replica.name)
        return failure

    def close(self) -> None:
        """Tells what came of it, and gives the permit back.

        An unfinished exchange closes its connection, so that the engine stops work.
        """
        if self._closed:
            return
        self._closed = True
        trials = self._trials
        self.attempt.ended_s = trials.clock()
        trials.routing.observe(self._call.model.name, self.replica.name, self._sign(), self.attempt.started_s)
        if self.exchange is not None:
            self.exchange.cancel()
        trials.replicas.traffic.end(self.replica.name, self)

    def on_send(self, exchange: Exchange, reused: bool) -> None:  # noqa: ARG002 - as every watcher
        """The request goes out, by this exchange."""
        self._sent = exchange

    def on_head(self, exchange: Exchange) -> None:
        """The head is here, of which `open` tells."""

    @property
    def streams(self) -> bool:
        """Whether its answer is streamed."""
        return self._call.request.stream

    @property
    def waits_for_client(self) -> bool:
        """Whether it is its client that does not read."""
        return self._sent is not None and self._sent.paused

    @property
    def heard_s(self) -> float:
        """When a byte of a good answer came last; minus infinity where none has.

        Errors are answered by what is before an engine as well, while all work in it stands still.
        """
        exchange = self._sent
        return -math.inf if exchange is None or exchange.status >= 400 else exchange.heard_s

    def cut(self, error: EngineError) -> None:
        """Ends it by `error`, if it has been sent."""
        if self._sent is not None:
            self._sent.fail(error)

    def _sign(self) -> Sign:
        """What it tells of its replica."""
        exchange, call = self.exchange, self._call
        status = None  # as long as it is not known what came of it
        if exchange is not None and (exchange.complete or exchange.status >= 400):
            status = exchange.status
        if status is not None and self.error is None:
            return sign_of(status=status)
        # of a time that was short from the start, or used up before this attempt, the replica had no part
        hurried = call.deadline_s - self.attempt.started_s < call.timeouts.first_token_s
        return sign_of(
            status=status,
            error=self.error,
            limited_by_client=hurried,
            no_token=call.request.stream and call.record.first_token_s is None,
        )


class Trials:
    """Chooses replicas for calls and begins to ask them; `clock` gives monotonic seconds."""

    def __init__(
        self, replicas: Replicas, routing: Routing, client: EngineClient, clock: Callable[[], float]
    ) -> None:
        self.replicas = replicas
        self.routing = routing
        self.client = client
        self.clock = clock

    def choose(self, call: Call) -> Choice | None:
        """A replica, one that the call has not tried where there is one; None where none is ready."""
        return self.routing.choose(call.model, call.request.body, call.session, call.tried)

    def elsewhere(self, call: Call) -> bool:
        """Whether a replica is left that the call has not tried, and that may be given requests."""
        tried = call.tried
        return any(name not in tried for name in self.routing.open_to(call.model))

    def begin(self, call: Call, replica: Replica, reason: str) -> Trial:
        """An attempt at `replica`, with its permit and on the record; must be closed."""
        attempt = Attempt(replica.name, reason, self.clock())
        call.record.attempts.append(attempt)
        return Trial(self, call, replica, attempt)


def failure_of(error: EngineError) -> Failure:
    """The kind of failure that `error` is."""
    if isinstance(error, DeadlineError):
        return Failure.REFUSED if error.phase is Phase.CONNECT else Failure.TIMEOUT
    if isinstance(error, ConnectRefusedError):
        return Failure.REFUSED
    if isinstance(error, ReplicaStalledError):
        return Failure.STALLED
    return Failure.MALFORMED if isinstance(error, MalformedResponseError) else Failure.LOST
