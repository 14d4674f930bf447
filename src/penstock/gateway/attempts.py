"""The attempts of one request: ask a replica, relay; try again while the client has seen nothing, go on after."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus

from penstock.core.errors import ClientError, EngineError, Fault, PenstockError
from penstock.core.record import Outcome, Usage
from penstock.engines.catalog import SPECS
from penstock.engines.client import EngineClient
from penstock.engines.exchange import Exchange, Headers
from penstock.engines.spec import EngineSpec
from penstock.gateway.call import Call
from penstock.gateway.comments import Comments
from penstock.gateway.continuation import Continuations, is_loss, remembered
from penstock.gateway.forwarding import content_type, headers_to_client
from penstock.gateway.hedge import race
from penstock.gateway.relay import PlainRelay, StreamRelay
from penstock.gateway.replicas import Replicas
from penstock.gateway.routing import Routing
from penstock.gateway.settings import Settings
from penstock.gateway.trials import Trial, Trials
from penstock.policy.hedge import hedge
from penstock.policy.retry import RETRIED_STATUSES, Failure, RetryBudget, retry
from penstock.policy.route import Choice
from penstock.wire.delivered import Delivered
from penstock.wire.joint import Joint
from penstock.wire.openai import CHAT, COMPLETIONS

__all__ = ["Attempts", "Call"]

_READ: Headers = []  # what is left of headers that are not needed any more; never written to


class Attempts:
    """Brings requests to replicas and their answers back.

    Args:
        clock: monotonic seconds.
        specs: engine kinds by name.
    """

    def __init__(
        self,
        settings: Settings,
        replicas: Replicas,
        routing: Routing,
        client: EngineClient,
        clock: Callable[[], float],
        specs: Callable[[str], EngineSpec] = SPECS.__getitem__,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._replicas = replicas
        self._trials = Trials(replicas, routing, client, clock)
        self._continuations = Continuations(settings, self._trials, specs, self._stream_relay, clock)
        self._budget = RetryBudget()

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
        trial = self._trials.begin(call, choice.replica, choice.reason)
        try:
            if call.model.hedge_after_s is None:
                await trial.open(call, call.request.body)
            else:
                trial = await race(call, trial, call.model.hedge_after_s, lambda: self._second(call))
                if trial.error is not None:
                    raise trial.error
            return await self._relay(call, trial)
        except EngineError as error:
            return self._failed(call, trial, error)
        finally:
            trial.close()

    def _choose(self, call: Call) -> Choice:
        choice = self._trials.choose(call)
        if choice is None:
            raise self._replicas.not_ready(call.model.name)
        return choice

    def _second(self, call: Call) -> Trial | None:
        """A second attempt beside the first, where there may be one."""
        may, self._budget = hedge(
            self._budget,
            elsewhere=self._trials.elsewhere(call),
            time_left_s=call.deadline_s - self._clock(),
        )
        choice = self._trials.choose(call) if may else None
        return self._trials.begin(call, choice.replica, "hedge") if choice is not None else None

    async def _relay(self, call: Call, trial: Trial) -> float | None:
        exchange = trial.exchange
        assert exchange is not None
        if exchange.status in RETRIED_STATUSES:
            delay_s = self._retry_delay_s(call, trial, Failure.STATUS)
            if delay_s is not None:
                return delay_s
        if exchange.status == HTTPStatus.UNAUTHORIZED:  # the key is the gateway's, not the client's
            raise PenstockError(
                f"{trial.replica.name} refused the gateway's key",
                code="engine_refused_key",
                hint="whoever runs this gateway: check models.N.api_key",
                status=502,
            )
        record = call.record
        record.status = exchange.status
        delivered = remembered(call, self._settings.gateway.continuations_max)
        relay = self._relay_for(call, exchange, delivered)
        try:
            await relay.run()
        except PenstockError as error:
            if not relay.committed:
                raise
            trial.attempt.failure = error.code
            trial.error = error
            trial.close()
            await self._end(call, relay, delivered, error)
            return None
        record.outcome = Outcome.COMPLETE
        return None

    async def _end(
        self, call: Call, relay: PlainRelay | StreamRelay, delivered: Delivered | None, error: PenstockError
    ) -> None:
        """Brings an answer that broke off by `error` to an end: its own, or one that tells of the failure."""
        record = call.record
        try:
            if delivered is None or isinstance(relay, PlainRelay) or not is_loss(error):
                raise error
            assert isinstance(error, EngineError)
            await self._continuations.go_on(call, delivered, error)
        except PenstockError as cause:
            record.outcome, record.fault, record.error_code = Outcome.INTERRUPTED, cause.fault, cause.code
            relay.fail(cause)

    def _relay_for(
        self, call: Call, exchange: Exchange, delivered: Delivered | None
    ) -> PlainRelay | StreamRelay:
        record, responder = call.record, call.responder
        if content_type(exchange.headers) == "text/event-stream":
            return self._stream_relay(call, exchange, delivered)
        if responder.started:  # by comments of an earlier attempt: another status can't be told any more
            raise _answered_too_late(exchange.status)
        if call.comments is not None:
            call.comments.hush()
        headers = headers_to_client(exchange.headers, record.request_id) + call.reply_headers
        if exchange.status >= 400:
            record.fault = Fault.ENGINE if exchange.status >= 500 else Fault.CLIENT
            record.error_code = f"engine_status_{exchange.status}"
            headers.append((b"x-penstock-fault", record.fault.encode()))
        return PlainRelay(
            exchange,
            responder,
            record,
            headers,
            rewrite=call.rewrite_reply,
            before_end=call.before_end,
            clock=self._clock,
        )

    def _stream_relay(
        self, call: Call, exchange: Exchange, delivered: Delivered | None, joint: Joint | None = None
    ) -> StreamRelay:
        headers = headers_to_client(exchange.headers, call.record.request_id) + call.reply_headers
        exchange.headers = _READ  # a stream may last for long
        if call.comments is None:  # nobody asked for a stream, but one came
            call.comments = Comments(self._settings.gateway.comment_every_s, self._clock)
        return StreamRelay(
            exchange,
            call.responder,
            call.record,
            headers,
            hides_usage=call.request.hides_usage,
            needs_done=call.route in (CHAT, COMPLETIONS),
            rewrite=call.rewrite_event,
            before_end=call.before_end,
            comments=call.comments,
            clock=self._clock,
            delivered=delivered,
            joint=joint,
        )

    def _failed(self, call: Call, trial: Trial, error: EngineError) -> float:
        """In how many seconds to try again after `error`, which is raised where that may not be."""
        record = call.record  # what came was never delivered
        record.first_token_s, record.usage, record.fault, record.error_code = None, Usage(), "", ""
        delay_s = self._retry_delay_s(call, trial, trial.failed(error))
        if delay_s is None:
            raise error
        return delay_s

    def _retry_delay_s(self, call: Call, trial: Trial, failure: Failure) -> float | None:
        trial.attempt.failure = failure
        decision, self._budget = retry(
            failure,
            retries_done=len(call.record.attempts) - 1,
            retries_max=self._settings.gateway.retries_max,
            elsewhere=self._trials.elsewhere(call),
            budget=self._budget,
            time_left_s=call.deadline_s - self._clock(),
        )
        return decision.delay_s if decision.again else None


def _answered_too_late(status: int) -> PenstockError:
    kind = ClientError if 400 <= status < 500 else EngineError
    return kind(f"the engine answered {status} to a stream that had begun", code=f"engine_status_{status}")
