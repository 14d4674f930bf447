"""What is sent: from settings, times and a seed to requests with their bytes, all before the run.

One seed gives the same kinds, lengths, cancellations and sessions on every machine; the words also depend on the
salt, so that a second run of the same seed finds nothing of the first in a server's cache.

An answer is not known before the run. So a later turn of a session carries, in place of the earlier answers, other
words of the planned length: the engine reads as many tokens as in a real conversation, and its prefix cache has
the earlier prompt, but not the answer that it gave to it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import repeat
from random import Random
from typing import Any

import msgspec

from penstock.bench.plan import PlannedRequest, Stage
from penstock.bench.workloads.bodies import Template
from penstock.bench.workloads.calibration import Calibration
from penstock.bench.workloads.kinds import Kind, Mix
from penstock.bench.workloads.lengths import Span, WorkloadError
from penstock.bench.workloads.prompts import Cache, Texts

# A closed loop's plan is made bit by bit, and ends somewhere: a hundred million requests are weeks of load.
REQUESTS_MAX = 100_000_000
# The last body of a session holds all of its turns: with more of them, megabytes.
TURNS_MAX = 200


class IgnoreEos(StrEnum):
    """Whether answers are made as long as was asked for, by a member that not all servers know."""

    AUTO = "auto"  # where the server took it before the run
    ON = "on"
    OFF = "off"


class Workload(msgspec.Struct, frozen=True):
    """What is sent, but for when.

    Args:
        model: its name at the server.
        mix: the kinds of requests.
        cache: what a prefix cache may find.
        calibration: how texts of a known number of tokens are made.
        ignore_eos: see `IgnoreEos`.
        stream: answers come as events.
        cancel_share: of the requests, how many are cancelled by their client, 0 to 1.
        cancel_after: how long after they are sent.
        slow_share: of the requests, how many are read slowly, 0 to 1.
        slow_bytes_per_s: how fast those are read, above 0.
        extra: further members of each body, such as `chat_template_kwargs`.
        salt: words of runs with different salts are different.
    """

    model: str
    mix: Mix
    cache: Cache = Cache()
    calibration: Calibration = Calibration()
    ignore_eos: IgnoreEos = IgnoreEos.AUTO
    stream: bool = True
    cancel_share: float = 0.0
    cancel_after: Span = Span(1.0, 1.0)
    slow_share: float = 0.0
    slow_bytes_per_s: float = 1000.0
    extra: dict[str, Any] = {}
    salt: str = ""

    def check(self) -> None:
        """Raises WorkloadError where settings make no sense together."""
        for name in ("cancel_share", "slow_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise WorkloadError(f"{name}: {getattr(self, name):g} should be 0 to 1")
        if not self.slow_bytes_per_s > 0:
            raise WorkloadError(f"slow_bytes_per_s: {self.slow_bytes_per_s:g} should be above 0")
        if not self.model:
            raise WorkloadError("model: no name", hint="GET /v1/models of the server tells its models")
        for kind in self.mix.kinds:
            if kind.turns.longest > TURNS_MAX:
                raise WorkloadError(f"{kind.name}: {kind.turns.longest} turns; at most {TURNS_MAX}")
        most = self.calibration.context_tokens
        if most is not None and most <= self.calibration.base_tokens:
            raise WorkloadError(
                f"the server's context of {most} tokens has no room for a prompt and an answer: the chat template "
                f"alone has {self.calibration.base_tokens}",
                hint="serve the model with a longer context",
            )
        self.template()

    @property
    def ignores_eos(self) -> bool:
        """Whether requests say so."""
        if self.ignore_eos is IgnoreEos.AUTO:
            return self.calibration.ignore_eos is True
        return self.ignore_eos is IgnoreEos.ON

    def template(self) -> Template:
        """Makes the bodies; raises WorkloadError where `extra` can't be in one."""
        return Template(
            self.model,
            chat=self.calibration.chat,
            stream=self.stream,
            ignore_eos=self.ignores_eos,
            extra=self.extra,
        )

    def describe(self) -> list[str]:
        """What is sent, in sentences, for reports."""
        told = [self.calibration.describe(), *self.calibration.notes, self.cache.describe()]
        for kind, weight in zip(self.mix.kinds, self.mix.weights, strict=True):
            told.append(f"{kind.name}: {weight:.1%} of requests, {_lengths(kind)}.")
        if any(kind.in_sessions for kind in self.mix.kinds):
            told.append(
                "Later turns carry words of the planned length in place of the earlier answers, which are not known "
                "when bodies are made."
            )
        if self.ignores_eos:
            told.append("Answers have the length that was asked for (ignore_eos).")
        else:
            told.append("Answers may end earlier than was asked for: the model may stop by itself.")
        if self.cancel_share:
            told.append(
                f"{self.cancel_share:.1%} of requests are cancelled by the client {self.cancel_after} after sending."
            )
        if self.slow_share:
            told.append(f"{self.slow_share:.1%} of answers are read at {self.slow_bytes_per_s:g} bytes/s.")
        return told


def _lengths(kind: Kind) -> str:
    told = f"prompt {kind.prompt} tokens, answer {kind.output} tokens"
    if kind.in_sessions:
        told += f", sessions of {kind.turns} turns with {kind.turn_prompt} tokens each after {kind.think}"
    return told


class Tally(msgspec.Struct):
    """What has been planned so far.

    Args:
        requests: all of them.
        by_kind: requests of each kind.
        sessions: conversations of more than one turn.
        prompt_tokens, output_tokens: of all requests, as far as they are known.
        shared_tokens: of the prompts, what a prefix cache may have by design.
        shortened: requests that were made to fit the server's context, and sessions that ended for it.
        lengthened: requests whose prompt would have been shorter than the chat template alone.
    """

    requests: int = 0
    by_kind: dict[str, int] = {}
    sessions: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    shared_tokens: int = 0
    shortened: int = 0
    lengthened: int = 0

    def add(self, request: PlannedRequest) -> None:
        """Counts one."""
        self.requests += 1
        self.by_kind[request.kind] = self.by_kind.get(request.kind, 0) + 1
        self.sessions += request.turn == 1
        self.prompt_tokens += request.prompt_tokens or 0
        self.output_tokens += request.output_tokens or 0
        self.shared_tokens += request.shared_tokens

    @property
    def shared_part(self) -> float:
        """Of all prompt tokens, the part that a prefix cache may have by design, 0 to 1; more was not asked for."""
        return self.shared_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    def notes(self) -> list[str]:
        """What the reader of a report must know, in sentences."""
        told = []
        if self.shortened:
            told.append(f"{self.shortened} requests were shortened or left out to fit the server's context.")
        if self.lengthened:
            told.append(
                f"{self.lengthened} prompts are longer than was asked for: the chat template alone is longer."
            )
        return told


class Plan(Iterator[PlannedRequest]):
    """Requests, made as they are taken.

    Args:
        requests: makes them, and counts in `tally` what it had to change.
        tally: of what has been taken.
    """

    def __init__(self, requests: Iterator[PlannedRequest], tally: Tally) -> None:
        self._requests = requests
        self.tally = tally

    def __next__(self) -> PlannedRequest:
        """The next request, in the order of times."""
        request = next(self._requests)
        self.tally.add(request)
        return request


def plan(
    workload: Workload,
    times: Sequence[float] | None,
    count: int | None = None,
    stages: Sequence[Stage] = (),
    seed: int = 0,
    *,
    first_index: int = 0,
    stage: int = 0,
) -> Plan:
    """The requests of a run.

    Args:
        workload: what is sent.
        times: when, seconds from the start, ascending; None is a closed loop. Each time begins a session; the times of
            its later turns nobody knows.
        count: how many requests there are at most; None is all `times`, or a closed loop without an end.
        stages: parts of the load by their times; without any, all is `stage`.
        seed: of kinds, lengths, cancellations, slow readers, and with the salt of words.
        first_index: of the first request; two plans of one run need different indexes, or salts.
        stage: see `stages`.

    Raises:
        WorkloadError: the settings make no sense.
    """
    workload.check()
    if times is None and count is None:
        count = REQUESTS_MAX
    if count is not None and not 0 <= count <= REQUESTS_MAX:
        raise WorkloadError(f"count: {count} requests; it should be 0 to {REQUESTS_MAX}")
    tally = Tally()
    maker = _Maker(workload, seed, tally, first_index)
    stage_of = StageOf(stages, stage)
    return Plan(_requests(maker, times, count, stage_of, first_index), tally)


def _requests(
    maker: _Maker, times: Sequence[float] | None, count: int | None, stage_of: StageOf, index: int
) -> Iterator[PlannedRequest]:
    end = index + (REQUESTS_MAX if count is None else count)
    starts: Iterator[float | None] = repeat(None) if times is None else iter(times)
    for at_s in starts:
        for request in maker.session(index, at_s, stage_of(at_s)):
            if index == end:
                return
            yield request
            index += 1
        if index == end:
            return


class StageOf:
    """The stage of a time."""

    def __init__(self, stages: Sequence[Stage], otherwise: int) -> None:
        self._begins = [stage.begins_s for stage in stages]
        self._otherwise = otherwise

    def __call__(self, at_s: float | None) -> int:
        if at_s is None or not self._begins:
            return self._otherwise
        return max(0, bisect_right(self._begins, at_s) - 1)


class Client:
    """How clients behave: which of them leave, and which read slowly. Its chance is its own: changing a share changes
    no lengths."""

    def __init__(self, workload: Workload, seed: int) -> None:
        self._workload = workload
        self._cancel = Random(f"{seed}/cancel")  # noqa: S311 - a schedule, no secret
        self._slow = Random(f"{seed}/slow")  # noqa: S311

    def next(self) -> tuple[float | None, float | None]:
        """When the client of the next request leaves, and how fast it reads; None is never, and at once."""
        workload = self._workload
        cancel_after_s = read_bytes_per_s = None
        if workload.cancel_share and self._cancel.random() < workload.cancel_share:
            cancel_after_s = workload.cancel_after.draw(self._cancel)
        if workload.slow_share and self._slow.random() < workload.slow_share:
            read_bytes_per_s = workload.slow_bytes_per_s
        return cancel_after_s, read_bytes_per_s


def fitted(prompt: int, output: int, calibration: Calibration, tally: Tally) -> tuple[int, int]:
    """The lengths of a first prompt and its answer, tokens, as the server's context and its chat template allow."""
    most = calibration.context_tokens
    if most is not None and prompt + output > most:
        tally.shortened += 1
        output = min(output, most // 2, most - calibration.base_tokens)
        prompt = most - output
    if prompt < calibration.base_tokens and calibration.known:
        tally.lengthened += 1
    return prompt, output


class _Maker:
    """Makes one session after the other; most have one turn."""

    def __init__(self, workload: Workload, seed: int, tally: Tally, first_index: int) -> None:
        self._sessions = first_index - 1
        self._cache = workload.cache
        self._calibration = workload.calibration
        self._known = workload.calibration.known
        self._tally = tally
        self._template = workload.template()
        self._texts = Texts(workload.calibration, f"{workload.salt}/{seed}")
        self._kinds = workload.mix.order(Random(f"{seed}/mix"))  # noqa: S311 - a schedule, no secret
        self._random = Random(f"{seed}/lengths")  # noqa: S311
        self._groups = Random(f"{seed}/groups")  # noqa: S311
        self._client = Client(workload, seed)

    def session(self, index: int, at_s: float | None, stage: int) -> Iterator[PlannedRequest]:
        """The requests of the next session; their indexes follow each other."""
        kind, random = next(self._kinds), self._random
        prompt, output, turns = kind.prompt.draw(random), kind.output.draw(random), kind.turns.draw(random)
        words, shared_words, output = self._first(prompt, output)
        texts = [self._text(index, words, shared_words)]
        shared = self._shared_tokens(shared_words)
        session, think_s = self._number(turns), 0.0
        for turn in range(turns):
            prompt_tokens = self._calibration.tokens_of(words, turn)
            output = self._room(prompt_tokens, output) if turn else output
            if output < 1:
                return  # the conversation has outgrown the server's context
            cancel_after_s, read_bytes_per_s = self._client.next()
            yield PlannedRequest(
                index=index + turn,
                body=self._template.body(texts, output),
                at_s=at_s if turn == 0 else None,
                kind=kind.name,
                stage=stage,
                prompt_tokens=prompt_tokens if self._known else None,
                output_tokens=output,
                shared_tokens=shared,
                session=session,
                turn=turn,
                think_s=think_s,
                cancel_after_s=cancel_after_s,
                read_bytes_per_s=read_bytes_per_s,
            )
            if turn + 1 < turns:
                shared, think_s = prompt_tokens, kind.think.draw(random)
                answered = self._calibration.words_in(output)
                added = self._calibration.words_in(kind.turn_prompt.draw(random))
                texts.append(self._texts.answer(index + turn, answered))
                texts.append(self._texts.unique(index + turn + 1, added))
                words, output = words + answered + added, kind.output.draw(random)

    def _number(self, turns: int) -> int:
        """The next session's number: one more than the last one's, so that processes get equally many."""
        if turns == 1:
            return -1
        self._sessions += 1
        return self._sessions

    def _first(self, prompt: int, output: int) -> tuple[int, int, int]:
        """The words of a first prompt, how many of them are shared, and the length of its answer."""
        prompt, output = fitted(prompt, output, self._calibration, self._tally)
        words = self._calibration.words_for(prompt)
        return words, round(words * self._cache.share), output

    def _room(self, prompt_tokens: int, output: int) -> int:
        """As much of a later answer as the server's context has room for."""
        most = self._calibration.context_tokens
        if most is None or prompt_tokens + output <= most:
            return output
        self._tally.shortened += 1
        return most - prompt_tokens

    def _text(self, index: int, words: int, shared_words: int) -> str:
        if not shared_words:
            return self._texts.unique(index, words)
        group = self._groups.randrange(self._cache.groups)
        return self._texts.shared(index, group, shared_words, words)

    def _shared_tokens(self, shared_words: int) -> int:
        return self._calibration.tokens_of(shared_words) if shared_words else self._calibration.base_tokens
