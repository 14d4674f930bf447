"""A recorded load as requests: the same times, or faster or slower ones, the same lengths, the same shared blocks.

Of a trace without texts, equal blocks become equal words and all others words of their own, so a prefix cache finds
what it would have found. Blocks lie a chat template's length beside those of the recording; what is shared is told
by `shared_tokens`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random

import msgspec

from penstock.bench.plan import PlannedRequest, Stage
from penstock.bench.workloads.lengths import WorkloadError
from penstock.bench.workloads.prompts import BLOCK_TOKENS, Texts
from penstock.bench.workloads.trace_rows import TraceRow
from penstock.bench.workloads.traces import Trace
from penstock.bench.workloads.workload import Client, Plan, StageOf, Tally, Workload, fitted

# English in most vocabularies, where nobody can count: OpenAI's rule of thumb.
CHARS_PER_TOKEN = 4.0
# Words that make a recorded text one that no engine has seen.
_MARK_WORDS = 8
SPEED_MAX = 10_000.0


def rescaled(trace: Trace, speed: float = 1.0, duration_s: float | None = None) -> Trace:
    """A part of a trace, at another speed.

    Args:
        speed: twice as fast is 2; above 0, at most `SPEED_MAX`.
        duration_s: only what came so long after the first request, seconds of the recording; None is all.

    Raises:
        WorkloadError: the speed is none.
    """
    if not 0 < speed <= SPEED_MAX:
        raise WorkloadError(f"speed: {speed:g} should be above 0 and at most {SPEED_MAX:g}")
    rows = [
        row
        if row.at_s is None
        else msgspec.structs.replace(row, at_s=row.at_s / speed, think_s=row.think_s / speed)
        for row in trace.rows
        if duration_s is None or row.at_s is None or row.at_s <= duration_s
    ]
    return msgspec.structs.replace(trace, rows=rows)


def untimed(trace: Trace) -> Trace:
    """The same requests, without their times: for a load of another course."""
    rows = [msgspec.structs.replace(row, at_s=None) for row in trace.rows]
    return msgspec.structs.replace(trace, rows=rows)


def replay(
    workload: Workload,
    trace: Trace,
    *,
    times: Sequence[float] | None = None,
    count: int | None = None,
    stages: Sequence[Stage] = (),
    seed: int = 0,
    first_index: int = 0,
    stage: int = 0,
    tokens_of: Callable[[str], int] | None = None,
) -> Plan:
    """The requests of a recorded load.

    Args:
        workload: the model, how texts are made, and how clients behave; its mix is not used.
        times: when, in place of the recorded times, ascending: one for each session, or request without one.
        count: so many requests at most; None is all.
        stages: parts of the load by their times; without any, all is `stage`.
        seed: see `workload.plan`, and `first_index` and `stage` too.
        tokens_of: counts the tokens of recorded texts; None estimates them.

    Raises:
        WorkloadError: the settings make no sense.
    """
    workload.check()
    tally = Tally()
    replayed = _Replayed(workload, seed, tally, tokens_of)
    requests = _requests(replayed, _sessions(trace.rows), times, count, StageOf(stages, stage), first_index)
    return Plan(requests, tally)


def _sessions(rows: Sequence[TraceRow]) -> list[list[TraceRow]]:
    """The rows of each session together, at the time of its first one."""
    sessions: list[list[TraceRow]] = []
    known: dict[str, list[TraceRow]] = {}
    for row in rows:
        session = known.get(row.session) if row.session else None
        if session is None:
            session = []
            sessions.append(session)
            if row.session:
                known[row.session] = session
        session.append(row)
    return sessions


def _requests(
    replayed: _Replayed,
    sessions: Sequence[Sequence[TraceRow]],
    times: Sequence[float] | None,
    count: int | None,
    stage_of: StageOf,
    index: int,
) -> Iterator[PlannedRequest]:
    end = None if count is None else index + count
    for number, turns in enumerate(sessions):
        if times is not None and number >= len(times):
            return
        moved_s = None if times is None else times[number]
        first_s = moved_s if moved_s is not None else turns[0].at_s
        stage = stage_of(first_s)
        for turn, row in enumerate(turns):
            if index == end:
                return
            at_s = row.at_s if moved_s is None else (moved_s if turn == 0 else None)
            session = number if len(turns) > 1 else -1
            request = replayed.request(row, index, at_s, stage, session, turn)
            if request is None:
                break
            yield request
            index += 1


class _Replayed:
    """Makes the requests."""

    def __init__(
        self, workload: Workload, seed: int, tally: Tally, tokens_of: Callable[[str], int] | None
    ) -> None:
        self._workload = workload
        self._calibration = workload.calibration
        self._template = workload.template()
        self._tally = tally
        self._tokens_of = tokens_of or _estimated
        self._exact = tokens_of is not None and workload.calibration.known
        self._texts = Texts(workload.calibration, f"{workload.salt}/{seed}")
        self._groups = Random(f"{seed}/groups")  # noqa: S311 - a schedule, no secret
        self._client = Client(workload, seed)
        self._sent_blocks: set[int | str] = set()

    def request(
        self, row: TraceRow, index: int, at_s: float | None, stage: int, session: int, turn: int
    ) -> PlannedRequest | None:
        """The request of a row; None where the server's context has no room for it."""
        if row.texts:
            texts, prompt_tokens, shared, output = self._recorded(row, index, turn)
        else:
            texts, prompt_tokens, shared, output = self._made(row, index)
        if output < 1:
            self._tally.shortened += 1
            return None
        cancel_after_s, read_bytes_per_s = self._client.next()
        return PlannedRequest(
            index=index,
            body=self._template.body(texts, output),
            at_s=at_s,
            kind=row.kind,
            stage=stage,
            prompt_tokens=prompt_tokens,
            output_tokens=output,
            shared_tokens=shared,
            session=session,
            turn=turn,
            think_s=row.think_s,
            cancel_after_s=cancel_after_s,
            read_bytes_per_s=read_bytes_per_s,
        )

    def _made(self, row: TraceRow, index: int) -> tuple[Sequence[str], int | None, int, int]:
        calibration = self._calibration
        prompt, output = fitted(row.prompt_tokens or 1, row.output_tokens or 1, calibration, self._tally)
        words = calibration.words_for(prompt)
        if row.blocks:
            text, shared_words = self._texts.blocks(index, row.blocks, words), self._seen(row.blocks, words)
        else:
            cache = self._workload.cache
            shared_words = round(words * cache.share)
            group = self._groups.randrange(cache.groups)
            text = self._texts.shared(index, group, shared_words, words)
        tokens = calibration.tokens_of(words) if calibration.known else None
        return [text], tokens, calibration.tokens_of(shared_words), output

    def _seen(self, blocks: Sequence[int | str], words: int) -> int:
        """The words at the beginning that an earlier request has sent too."""
        seen = 0
        while seen < len(blocks) and blocks[seen] in self._sent_blocks:
            seen += 1
        self._sent_blocks.update(blocks)
        return min(words, seen * BLOCK_TOKENS)

    def _recorded(self, row: TraceRow, index: int, turn: int) -> tuple[Sequence[str], int | None, int, int]:
        """Recorded texts; where no cache may find them, behind a few words of the session's own."""
        texts = list(row.texts)
        if self._workload.cache.busting:
            texts[0] = f"{self._texts.unique(index - turn, _MARK_WORDS)}\n\n{texts[0]}"
        sizes = [self._tokens_of(text) for text in texts]
        prompt_tokens = self._calibration.tokens_of(sum(sizes) - len(texts), turns=turn)
        output = max(1, self._tokens_of(row.answer))
        most = self._calibration.context_tokens
        if most is not None and prompt_tokens + output > most:
            output = 0
        shared = self._calibration.base_tokens + sum(sizes[:-2])
        return texts, prompt_tokens if self._exact else None, shared, output


def _estimated(text: str) -> int:
    return round(len(text) / CHARS_PER_TOKEN)
