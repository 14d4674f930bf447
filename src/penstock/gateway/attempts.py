"""The attempts of one request: choose a replica, open, relay; try again while the client has seen nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus

from penstock.core.config import GatewayConfig, ModelConfig, Timeouts
from penstock.core.errors import (
    ClientError,
    DeadlineError,
    EngineError,
    Fault,
    OverloadError,
    PenstockError,
    Phase,
)
from penstock.core.record import Attempt, Outcome, RequestRecord, Usage
from penstock.engines.client import ConnectRefusedError, EngineClient
from penstock.engines.exchange import Exchange, Headers, MalformedResponseError, PhaseTimeouts
from penstock.gateway.forwarding import content_type, headers_to_client, headers_to_engine
from penstock.gateway.relay import PlainRelay, Rewrite, StreamRelay
from penstock.gateway.replicas import Replicas
from penstock.gateway.responder import Responder
from penstock.gateway.tenants import Caller
from penstock.policy.fleet import Replica
from penstock.policy.retry import RETRIED_STATUSES, Failure, RetryBudget, retry
from penstock.policy.route import Choice, route
from penstock.wire.openai import CHAT, COMPLETIONS, InferenceRequest

NO_REPLICA_RETRY_AFTER_S = 2


@dataclass(slots=True)
class Call:
    """One accepted request: what is asked, of which model, and where the answer goes."""

    route: str
    request: InferenceRequest
    model: ModelConfig
    caller: Caller
    headers: Headers
    session: str
    responder: Responder
    record: RequestRecord
    timeouts: Timeouts
    deadline_s: float
    before_end: Callable[[], None] = field(default=lambda: None)
    reply_headers: Headers = field(default_factory=list)
    rewrite_reply: Rewrite | None = None
    rewrite_event: Rewrite | None = None
    tried: set[str] = field(default_factory=set)


class Attempts:
    """Brings requests to replicas and their answers back; `clock` gives monotonic seconds."""

    def __init__(
        self, config: GatewayConfig, replicas: Replicas, client: EngineClient, clock: Callable[[], float]
    ) -> None:
        self._config = config
        self._clock = clock
        self._replicas = replicas
        self._client = client
        self._budget = RetryBudget()
        self._turns: dict[str, int] = {}

    async def serve(self, call: Call) -> None:
        """Answers the request, by as many attempts as it needs and may have.

        Raises:
            EngineError: every attempt failed before the client had seen a byte.
            OverloadError: no replica is ready.
        """
        self._budget = self._budget.deposited()
        # ASYNC110 sees a wait for a condition; it is a pause between attempts
        while (delay_s := await self._attempt(call)) is not None:  # noqa: ASYNC110
            await asyncio.sleep(delay_s)

    async def _attempt(self, call: Call) -> float | None:
        """One attempt; returns in how many seconds to make another, or None when the request is over."""
        choice = self._choose(call)
        attempt = Attempt(choice.replica.name, choice.reason, self._clock())
        call.record.attempts.append(attempt)
        call.tried.add(choice.replica.name)
        self._replicas.take_permit(choice.replica.name)
        exchange = None
        try:
            exchange = await self._open(call, choice.replica)
            attempt.status = exchange.status
            return await self._relay(call, attempt, exchange)
        except EngineError as error:
            return self._failed(call, attempt, _failure_of(error), error)
        finally:
            if exchange is not None:
                exchange.cancel()
            self._replicas.return_permit(choice.replica.name)

    def _choose(self, call: Call) -> Choice:
        model = call.model.name
        turn = self._turns[model] = self._turns.get(model, -1) + 1
        fleet = self._replicas.fleet
        choice = route(
            fleet.ready(model),
            self._replicas.in_flight,
            turn,
            strategy=call.model.routing,
            tried=frozenset(call.tried),
        )
        if choice is None:
            raise OverloadError(
                f"model {model!r} is not ready: {fleet.unready_reason(model)}",
                code="no_replica_ready",
                hint="try again shortly; `penstock status` shows the replicas",
                retry_after_s=NO_REPLICA_RETRY_AFTER_S,
            )
        return choice

    async def _open(self, call: Call, replica: Replica) -> Exchange:
        limits = call.timeouts
        streams = call.request.stream
        return await self._client.open(
            replica.address,
            b"POST",
            call.route.encode(),
            headers_to_engine(call.headers, call.record.request_id, replica.api_key),
            call.request.body,
            PhaseTimeouts(
                connect_s=limits.connect_s,
                first_byte_s=limits.first_token_s if streams else None,
                stall_s=limits.stall_s if streams else None,
                total_s=max(0.0, call.deadline_s - self._clock()),
            ),
        )

    async def _relay(self, call: Call, attempt: Attempt, exchange: Exchange) -> float | None:
        if exchange.status in RETRIED_STATUSES:
            delay_s = self._retry_delay_s(call, attempt, Failure.STATUS)
            if delay_s is not None:
                return delay_s
        if exchange.status == HTTPStatus.UNAUTHORIZED:  # the key is the gateway's, not the client's
            raise PenstockError(
                f"{attempt.replica} refused the gateway's key",
                code="engine_refused_key",
                hint="whoever runs this gateway: check models.N.api_key",
                status=502,
            )
        record = call.record
        record.status = exchange.status
        relay = self._relay_for(call, exchange)
        try:
            await relay.run()
        except PenstockError as error:
            if not relay.committed:
                raise
            attempt.failure = error.code
            record.outcome, record.fault, record.error_code = Outcome.INTERRUPTED, error.fault, error.code
            relay.fail(error)
            return None
        record.outcome = Outcome.COMPLETE
        return None

    def _relay_for(self, call: Call, exchange: Exchange) -> PlainRelay | StreamRelay:
        record, responder = call.record, call.responder
        headers = headers_to_client(exchange.headers, record.request_id) + call.reply_headers
        if content_type(exchange.headers) == "text/event-stream":
            return StreamRelay(
                exchange,
                responder,
                record,
                headers,
                hides_usage=call.request.hides_usage,
                needs_done=call.route in (CHAT, COMPLETIONS),
                rewrite=call.rewrite_event,
                comment_every_s=self._config.comment_every_s,
                clock=self._clock,
            )
        if responder.started:  # by comments of an earlier attempt: another status can't be told any more
            raise _answered_too_late(exchange.status)
        if exchange.status >= 400:
            record.fault = Fault.ENGINE if exchange.status >= 500 else Fault.CLIENT
            record.error_code = f"engine_status_{exchange.status}"
            headers.append((b"x-penstock-fault", record.fault.encode()))
        return PlainRelay(exchange, responder, record, headers, rewrite=call.rewrite_reply, clock=self._clock)

    def _failed(self, call: Call, attempt: Attempt, failure: Failure, error: EngineError) -> float:
        """In how many seconds to try again after `error`, which is raised where that may not be."""
        record = call.record  # what came was never delivered
        record.first_token_s, record.usage, record.fault, record.error_code = None, Usage(), "", ""
        if failure is Failure.REFUSED:
            self._replicas.refused(attempt.replica, error.message)
        delay_s = self._retry_delay_s(call, attempt, failure)
        if delay_s is None:
            raise error
        return delay_s

    def _retry_delay_s(self, call: Call, attempt: Attempt, failure: Failure) -> float | None:
        attempt.failure = failure
        ready = self._replicas.fleet.ready(call.model.name)
        decision, self._budget = retry(
            failure,
            retries_done=len(call.record.attempts) - 1,
            retries_max=self._config.retries_max,
            elsewhere=any(replica.name not in call.tried for replica in ready),
            budget=self._budget,
            time_left_s=call.deadline_s - self._clock(),
        )
        return decision.delay_s if decision.again else None


def _answered_too_late(status: int) -> PenstockError:
    kind = ClientError if 400 <= status < 500 else EngineError
    return kind(f"the engine answered {status} to a stream that had begun", code=f"engine_status_{status}")


def _failure_of(error: EngineError) -> Failure:
    if isinstance(error, DeadlineError):
        return Failure.REFUSED if error.phase is Phase.CONNECT else Failure.TIMEOUT
    if isinstance(error, ConnectRefusedError):
        return Failure.REFUSED
    return Failure.MALFORMED if isinstance(error, MalformedResponseError) else Failure.LOST
