"""Replicas are chosen and asked here, for whoever needs one: a first attempt, a hedge, or the rest of an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from penstock.core.errors import DeadlineError, EngineError, Phase
from penstock.core.record import Attempt
from penstock.engines.client import ConnectRefusedError, EngineClient
from penstock.engines.exchange import Exchange, MalformedResponseError, PhaseTimeouts
from penstock.gateway.call import Call
from penstock.gateway.forwarding import headers_to_engine
from penstock.gateway.replicas import Replicas
from penstock.policy.fleet import Replica
from penstock.policy.retry import Failure
from penstock.policy.route import Choice, route


class Trial:
    """One attempt under way: its entry on the record, its permit until it is closed, and its exchange once open."""

    __slots__ = ("_client", "_clock", "_closed", "_replicas", "attempt", "exchange", "replica")

    def __init__(
        self,
        replicas: Replicas,
        client: EngineClient,
        clock: Callable[[], float],
        replica: Replica,
        attempt: Attempt,
    ) -> None:
        self._replicas = replicas
        self._client = client
        self._clock = clock
        self._closed = False
        self.replica = replica
        self.attempt = attempt
        self.exchange: Exchange | None = None
        replicas.take_permit(replica.name)

    async def open(self, call: Call, body: bytes) -> Exchange:
        """Sends the request with this body, and waits for the head of its response.

        Raises:
            EngineError: as `EngineClient.open`.
        """
        limits, streams = call.timeouts, call.request.stream
        exchange = await self._client.open(
            self.replica.address,
            b"POST",
            call.route.encode(),
            headers_to_engine(call.headers, call.record.request_id, self.replica.api_key),
            body,
            PhaseTimeouts(
                connect_s=limits.connect_s,
                first_byte_s=limits.first_token_s if streams else None,
                stall_s=limits.stall_s if streams else None,
                total_s=max(0.0, call.deadline_s - self._clock()),
            ),
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
        failure = failure_of(error)
        self.attempt.failure = failure
        if failure is Failure.REFUSED:
            self._replicas.refused(self.replica.name, error.message)
        return failure

    def close(self) -> None:
        """Gives the permit back; an unfinished exchange closes its connection, so that the engine stops work."""
        if self._closed:
            return
        self._closed = True
        if self.exchange is not None:
            self.exchange.cancel()
        self._replicas.return_permit(self.replica.name)


class Trials:
    """Chooses replicas for calls and begins to ask them; `clock` gives monotonic seconds."""

    def __init__(self, replicas: Replicas, client: EngineClient, clock: Callable[[], float]) -> None:
        self._replicas = replicas
        self._client = client
        self._clock = clock
        self._turns: dict[str, int] = {}

    def choose(self, call: Call) -> Choice | None:
        """A replica, one that the call has not tried where there is one; None where none is ready."""
        model = call.model.name
        turn = self._turns[model] = self._turns.get(model, -1) + 1
        return route(
            self._replicas.fleet.ready(model),
            self._replicas.in_flight,
            turn,
            strategy=call.model.routing,
            tried=frozenset(call.tried),
        )

    def elsewhere(self, call: Call) -> bool:
        """Whether a ready replica is left that the call has not tried."""
        return any(replica.name not in call.tried for replica in self._replicas.fleet.ready(call.model.name))

    def begin(self, call: Call, replica: Replica, reason: str) -> Trial:
        """An attempt at `replica`, with its permit and on the record; must be closed."""
        attempt = Attempt(replica.name, reason, self._clock())
        call.record.attempts.append(attempt)
        call.tried.add(replica.name)
        return Trial(self._replicas, self._client, self._clock, replica, attempt)


def failure_of(error: EngineError) -> Failure:
    """The kind of failure that `error` is."""
    if isinstance(error, DeadlineError):
        return Failure.REFUSED if error.phase is Phase.CONNECT else Failure.TIMEOUT
    if isinstance(error, ConnectRefusedError):
        return Failure.REFUSED
    return Failure.MALFORMED if isinstance(error, MalformedResponseError) else Failure.LOST
