"""Going on with an answer whose engine was lost amid it: another replica is asked for the rest.

`policy/resume` decides, `wire/resume` makes the request, and `wire/joint` the seam. The client sees a pause, with
comments in it, and one answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from penstock.core.errors import DeadlineError, EngineError, OverloadError, Phase
from penstock.core.record import Outcome
from penstock.engines.exchange import Exchange, SlowClientError
from penstock.engines.spec import EngineSpec
from penstock.gateway.call import Call
from penstock.gateway.complaints import AnswerDivergedError
from penstock.gateway.forwarding import content_type
from penstock.gateway.relay import StreamRelay
from penstock.gateway.settings import Settings
from penstock.gateway.tokens import tokens_of
from penstock.gateway.trials import Trial, Trials
from penstock.policy.fleet import Replica
from penstock.policy.resume import (
    GREEDY_MEMBERS,
    OBSTACLES,
    REPLICA_WAIT_S,
    TRIES_MAX,
    Step,
    is_greedy,
    obstacle,
    resume,
)
from penstock.policy.retry import SAME_REPLICA_DELAY_S, Failure
from penstock.wire import sse
from penstock.wire.delivered import Answer, Delivered
from penstock.wire.joint import Joint
from penstock.wire.openai import CHAT, COMPLETIONS
from penstock.wire.resume import Manner, completion_tokens_max, continued, members, safe_cut

# A client that wants to see its engine fail says so in this header.
HEADER = b"x-penstock-continue"
_DECLINED = frozenset({b"no", b"off", b"false", b"0"})
_LIMITS = frozenset({"max_tokens", "max_completion_tokens", "n_predict"})
_MEMBERS = frozenset(OBSTACLES) | GREEDY_MEMBERS | _LIMITS
LOOK_EVERY_S = 0.05

RelayOf = Callable[[Call, Exchange, Delivered, Joint], StreamRelay]


def remembered(call: Call, continuations_max: int) -> Delivered | None:
    """What shall remember the answer to `call`; None where it will not be continued."""
    streams = call.request.stream and call.route in (CHAT, COMPLETIONS)
    return Delivered() if streams and continuations_max else None


def is_loss(error: Exception) -> bool:
    """Whether it is the engine that was lost, and not the client, its time, or its request."""
    if isinstance(error, SlowClientError) or not isinstance(error, EngineError):
        return False
    return not isinstance(error, DeadlineError) or error.phase is Phase.STALL


@dataclass(frozen=True, slots=True)
class _Rest:
    """What is left to ask for.

    Args:
        text: of the answer, to go on with.
        tokens: of it.
        joined: whether some came in one event, so that their number is a guess.
        repeats: the part of the delivered answer behind it, which is to come once more.
        counted: whether an engine was asked for their number.
    """

    text: str
    tokens: int
    joined: bool
    repeats: str
    counted: bool = False


class Continuations:
    """Continues answers.

    Args:
        specs: engine kinds by name.
        relay_of: makes the relay for an exchange whose events the joint fits in.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        settings: Settings,
        trials: Trials,
        specs: Callable[[str], EngineSpec],
        relay_of: RelayOf,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._trials = trials
        self._specs = specs
        self._relay_of = relay_of
        self._clock = clock

    async def go_on(self, call: Call, delivered: Delivered, error: EngineError) -> None:
        """Brings the answer to its end, after its engine was lost by `error`.

        Raises:
            PenstockError: it could not be; the client has part of an answer, which is to be ended by this.
        """
        try:
            asked = members(call.request.body, _MEMBERS)
        except ValueError:
            raise error from None
        while True:
            answer = _answer(delivered, error)
            limit = self._limit(call, asked)
            greedy = is_greedy(asked) and not isinstance(error, AnswerDivergedError)
            rest = _rest(answer, cuts_back=greedy)
            decision = resume(
                obstacle=self._obstacle(call, asked, answer),
                finish_reason=answer.finish_reason,
                tokens_left=None if limit is None else limit - rest.tokens,
                continuations_done=call.record.continuations,
                continuations_max=self._settings.gateway.continuations_max,
                time_left_s=call.deadline_s - self._clock(),
            )
            if decision.step is Step.FINISH:
                _finish(call)
                return
            if decision.step is Step.GIVE_UP:
                raise error
            trial, rest = await self._reached(call, rest, limit, error)
            try:
                await self._relayed(call, trial, delivered, _joint(call, answer, rest))
                return
            except EngineError as lost:
                trial.attempt.failure = lost.code
                if not isinstance(lost, AnswerDivergedError):  # which is nobody's fault
                    trial.error = lost
                if not is_loss(lost):
                    raise
                error = lost
            finally:
                trial.close()

    def _limit(self, call: Call, asked: dict[str, Any]) -> int | None:
        """The most tokens that the answer may have, as it was asked for or by the engine's own default."""
        manner = self._specs(call.model.engine).manner
        limit = completion_tokens_max(asked)
        return manner.completion_tokens if limit is None and manner and call.route == COMPLETIONS else limit

    def _obstacle(self, call: Call, asked: dict[str, Any], answer: Answer) -> str:
        if any(name == HEADER and value.strip().lower() in _DECLINED for name, value in call.headers):
            return HEADER.decode()
        return answer.obstacle or obstacle(asked)

    async def _reached(
        self, call: Call, rest: _Rest, limit: int | None, error: EngineError
    ) -> tuple[Trial, _Rest]:
        """An attempt at a replica that streams the rest, and the rest with its tokens counted.

        Args:
            limit: tokens that the answer may have.

        Raises:
            EngineError: `error`, when none has been found.
        """
        until_s = min(call.deadline_s, self._clock() + REPLICA_WAIT_S)
        tries = 0
        while tries < TRIES_MAX and self._clock() < until_s:
            choice = self._trials.choose(call)
            manner = self._specs(choice.replica.engine).manner if choice is not None else None
            if choice is None or manner is None:
                await asyncio.sleep(LOOK_EVERY_S)
                continue
            rest = await self._counted(choice.replica, manner, rest)
            if limit is not None and rest.tokens >= limit:
                raise error
            try:
                body = continued(call.route, call.request.body, rest.text, rest.tokens, manner)
            except ValueError:
                raise error from None
            tries += 1
            trial = self._trials.begin(call, choice.replica, "continue")
            if await _streams(call, trial, body):
                return trial, rest
            if 400 <= (trial.attempt.status or 0) < 500:  # another would say the same
                break
            await asyncio.sleep(SAME_REPLICA_DELAY_S)
        raise error

    async def _counted(self, replica: Replica, manner: Manner, rest: _Rest) -> _Rest:
        """The rest with its tokens as the replica's tokenizer counts them, where they may be more than its events.

        Where each event had one token these are what was generated; the same text may fall into one more, without
        what was before it.
        """
        if rest.counted or not rest.text or manner.tokenizer is None:
            return rest
        tokens = await tokens_of(self._trials.client, replica, manner.tokenizer, rest.text)
        if tokens is None:  # asked once: a client waits
            return replace(rest, counted=True)
        if not rest.joined and tokens <= rest.tokens + 1:
            tokens = rest.tokens
        return replace(rest, tokens=tokens, counted=True)

    async def _relayed(self, call: Call, trial: Trial, delivered: Delivered, joint: Joint) -> None:
        call.record.continuations += 1
        exchange = trial.exchange
        assert exchange is not None
        relay = self._relay_of(call, exchange, delivered, joint)
        await relay.run()
        call.record.outcome = Outcome.COMPLETE


async def _streams(call: Call, trial: Trial, body: bytes) -> bool:
    """Whether the replica begins a stream; else the attempt is over."""
    streams = False
    try:
        exchange = await trial.open(call, body)
        streams = exchange.status == 200 and content_type(exchange.headers) == "text/event-stream"
        if not streams:
            trial.attempt.failure = Failure.STATUS
    except EngineError as error:
        trial.failed(error)
    except OverloadError as error:
        trial.attempt.failure = error.code
    finally:
        if not streams:
            trial.close()
    return streams


def _answer(delivered: Delivered, error: EngineError) -> Answer:
    try:
        return delivered.answer()
    except ValueError:  # the engine sent texts that are none
        raise error from None


def _rest(answer: Answer, *, cuts_back: bool) -> _Rest:
    text = answer.text
    recent_chars = sum(map(len, answer.recent))
    cut = safe_cut(text, recent_chars) if cuts_back else len(text)
    if cut is None:
        cut = len(text)
    repeats = text[cut:]
    left, again = len(repeats), 0
    for piece in reversed(answer.recent):
        if left <= 0:
            break
        left -= len(piece)
        again += 1
    return _Rest(text[:cut], max(0, answer.tokens - again) if cut else 0, answer.joined, repeats)


def _joint(call: Call, answer: Answer, rest: _Rest) -> Joint:
    usage = call.record.usage
    prompt_tokens = usage.prompt_tokens if usage.source == "engine" else None
    return Joint(answer, repeats=rest.repeats, kept_tokens=rest.tokens, prompt_tokens=prompt_tokens)


def _finish(call: Call) -> None:
    """Ends an answer of which only the end mark was missing."""
    call.before_end()
    call.responder.write(sse.DONE)
    call.responder.end()
    call.record.outcome = Outcome.COMPLETE
