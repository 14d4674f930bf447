"""A service-time model of a continuous-batching engine, in virtual time.

The scheduler follows vLLM's V1 scheduler: first come, first served; each step gives every running sequence
its next token, and what is left of the token budget to prompts, in chunks; a sequence that finds no KV block
pushes the youngest running one back to the head of the line, to be computed again. No clock, socket or task.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from penstock.simulator.kv_blocks import KvBlocks


@dataclass(frozen=True, slots=True)
class EngineModelSettings:
    """How fast and how large the simulated engine is.

    Args:
        prefill_s_per_token: time of one prompt token in a step, seconds, at least 0.
        base_step_s: time of a step however small, seconds, at least 0.
        step_s_per_seq: time that each sequence in a step adds, seconds, at least 0.
        kv_blocks: KV blocks in all, at least 1.
        block_size: tokens in a block, at least 1.
        max_num_seqs: sequences that run at once, at least 1.
        max_num_waiting: sequences that may wait, at least 1.
        max_num_batched_tokens: tokens computed in one step, at least 1.
        max_model_len: prompt and answer together, tokens, at least 2.
        prefix_cache: whether known beginnings of prompts are skipped.
        jitter: how far a step's time strays from its mean, as a share of it, 0 to below 1.
        seed: of the jitter.
    """

    prefill_s_per_token: float = 0.00005
    base_step_s: float = 0.01
    step_s_per_seq: float = 0.0001
    kv_blocks: int = 8192
    block_size: int = 16
    max_num_seqs: int = 256
    max_num_waiting: int = 4096
    max_num_batched_tokens: int = 2048
    max_model_len: int = 8192
    prefix_cache: bool = True
    jitter: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One sequence to generate.

    Args:
        id: unlike that of every other live request.
        prompt_tokens: at least 1.
        output_tokens: tokens after which it is finished, at least 1.
        block_keys: for each full block of prompt and answer, a hash of all up to its end; may be shorter.
    """

    id: str
    prompt_tokens: int
    output_tokens: int
    block_keys: tuple[int, ...] = ()


class Verdict(StrEnum):
    """The engine's answer to a request."""

    ACCEPTED = "accepted"
    QUEUE_FULL = "queue_full"
    TOO_LONG = "too_long"


@dataclass(frozen=True, slots=True)
class Step:
    """What one engine step did; ids in scheduling order.

    `tokens` got one token each, `finished` is the part of them that got its last, and `preempted` lost its
    blocks before the step began. `computed_tokens` counts prompt and decode tokens together.
    """

    started_s: float
    ended_s: float
    tokens: tuple[str, ...]
    finished: tuple[str, ...]
    preempted: tuple[str, ...]
    computed_tokens: int


class _Sequence:
    """A live request: `total` tokens are known, the KV of the first `computed` is held in `blocks`."""

    __slots__ = ("blocks", "computed", "live", "named", "queried", "request", "total")

    def __init__(self, request: EngineRequest) -> None:
        self.request = request
        self.total = request.prompt_tokens
        self.computed = 0
        self.blocks: list[int] = []
        self.named = 0
        self.queried = False
        self.live = True


class EngineModel:
    """A simulated engine; the caller moves its time.

    Whenever `step_ends_s` is not None, a step is under way, and `step` is to be called at that time.
    """

    def __init__(self, settings: EngineModelSettings) -> None:
        self.settings = settings
        self._pool = KvBlocks(settings.kv_blocks, prefix_cache=settings.prefix_cache)
        self._random = random.Random(settings.seed)  # noqa: S311 - a simulation, repeatable by its seed
        self._live: dict[str, _Sequence] = {}
        self._running: list[_Sequence] = []
        self._waiting: deque[_Sequence] = deque()
        self._batch: list[tuple[_Sequence, int]] = []
        self._preempted: list[str] = []
        self._started_s = 0.0
        self.step_ends_s: float | None = None
        self.prefix_queries = 0
        self.prefix_hits = 0
        self.preemptions = 0
        self.steps = 0

    @property
    def running(self) -> int:
        """Sequences that hold KV blocks."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Sequences in line, preempted ones among them."""
        return len(self._waiting)

    @property
    def kv_usage(self) -> float:
        """The share of KV blocks in use, 0 to 1."""
        return self._pool.used / self._pool.count

    @property
    def blocks_used(self) -> int:
        """KV blocks in use."""
        return self._pool.used

    def holdings(self) -> dict[str, tuple[int, ...]]:
        """The KV blocks of each live request, in the order of its tokens."""
        return {request_id: tuple(sequence.blocks) for request_id, sequence in self._live.items()}

    def fits(self, prompt_tokens: int, output_tokens: int) -> bool:
        """Whether a request of that size could run if it were alone."""
        longest = min(self.settings.max_model_len, self.settings.kv_blocks * self.settings.block_size)
        return prompt_tokens + output_tokens <= longest

    def submit(self, request: EngineRequest, now_s: float) -> Verdict:
        """Puts a request in line, and starts a step if the engine is idle.

        Raises:
            ValueError: the id is live already, or a count is below 1.
        """
        if request.id in self._live:
            raise ValueError(f"request {request.id!r} is live already")
        if request.prompt_tokens < 1 or request.output_tokens < 1:
            raise ValueError(f"request {request.id!r}: prompt_tokens and output_tokens must be at least 1")
        if not self.fits(request.prompt_tokens, request.output_tokens):
            return Verdict.TOO_LONG
        if len(self._waiting) >= self.settings.max_num_waiting:
            return Verdict.QUEUE_FULL
        sequence = _Sequence(request)
        self._live[request.id] = sequence
        self._waiting.append(sequence)
        if self.step_ends_s is None:
            self._begin(now_s)
        return Verdict.ACCEPTED

    def cancel(self, request_id: str) -> bool:
        """Ends a request early and frees its blocks at once; False where no such request is live.

        The step under way takes its time all the same, as it does on a GPU.
        """
        sequence = self._live.get(request_id)
        if sequence is None:
            return False
        queue = self._running if sequence in self._running else self._waiting
        queue.remove(sequence)
        self._drop(sequence)
        return True

    def step(self, now_s: float) -> Step:
        """Ends the step under way and begins the next one at `now_s`, if there is work.

        Raises:
            ValueError: no step is under way, or it ends later than `now_s`.
        """
        if self.step_ends_s is None or now_s < self.step_ends_s:
            raise ValueError(f"no step ends by {now_s}; the next one ends at {self.step_ends_s}")
        tokens: list[str] = []
        finished: list[str] = []
        computed_tokens = 0
        for sequence, chunk in self._batch:
            if not sequence.live:
                continue
            computed_tokens += chunk
            sequence.computed += chunk
            if sequence.computed == sequence.total:
                self._sample(sequence, tokens, finished)
        if finished:
            self._running = [sequence for sequence in self._running if sequence.live]
        done = Step(
            self._started_s, now_s, tuple(tokens), tuple(finished), tuple(self._preempted), computed_tokens
        )
        self.steps += 1
        self._begin(now_s)
        return done

    def _sample(self, sequence: _Sequence, tokens: list[str], finished: list[str]) -> None:
        request = sequence.request
        sequence.total += 1
        tokens.append(request.id)
        if sequence.total - request.prompt_tokens == request.output_tokens:
            finished.append(request.id)
            self._drop(sequence)

    def _drop(self, sequence: _Sequence) -> None:
        sequence.live = False
        self._pool.release(sequence.blocks)
        sequence.blocks = []
        del self._live[sequence.request.id]

    def _begin(self, now_s: float) -> None:
        """Schedules the next step, or rests where there is no work."""
        self._batch = []
        self._preempted = []
        budget = self._schedule_running(self.settings.max_num_batched_tokens)
        if not self._preempted:
            self._admit(budget)
        self._started_s = now_s
        self.step_ends_s = now_s + self._duration_s() if self._batch else None

    def _duration_s(self) -> float:
        settings = self.settings
        prefill = sum(
            chunk for sequence, chunk in self._batch if chunk > 1 or not self._is_decoding(sequence)
        )
        mean_s = (
            settings.base_step_s
            + settings.step_s_per_seq * len(self._batch)
            + settings.prefill_s_per_token * prefill
        )
        if settings.jitter:
            return mean_s * (1 + settings.jitter * self._random.uniform(-1, 1))
        return mean_s

    @staticmethod
    def _is_decoding(sequence: _Sequence) -> bool:
        return sequence.total > sequence.request.prompt_tokens

    def _schedule_running(self, budget: int) -> int:
        """Gives each running sequence its tokens, oldest first; returns what is left of `budget`."""
        index = 0
        running = self._running
        while index < len(running) and budget > 0:
            sequence = running[index]
            chunk = min(sequence.total - sequence.computed, budget)
            if self._reserve(sequence, chunk):
                self._batch.append((sequence, chunk))
                budget -= chunk
                index += 1
            else:
                self._preempt(running.pop())
        return budget

    def _reserve(self, sequence: _Sequence, chunk: int) -> bool:
        """Gets the blocks for `chunk` more tokens; False where the pool lacks."""
        size = self.settings.block_size
        end = sequence.computed + chunk
        lacking = -(-end // size) - len(sequence.blocks)
        if lacking > 0:
            fresh = self._pool.take((), lacking)
            if fresh is None:
                return False
            sequence.blocks.extend(fresh)
        if end // size > sequence.named:
            self._name_full_blocks(sequence, end // size)
        return True

    def _name_full_blocks(self, sequence: _Sequence, full: int) -> None:
        keys = sequence.request.block_keys
        for index in range(sequence.named, min(full, len(keys))):
            self._pool.name(sequence.blocks[index], keys[index])
        sequence.named = full

    def _preempt(self, sequence: _Sequence) -> None:
        self._pool.release(sequence.blocks)
        sequence.blocks = []
        sequence.computed = 0
        self._waiting.appendleft(sequence)
        self._preempted.append(sequence.request.id)
        self.preemptions += 1

    def _admit(self, budget: int) -> None:
        """Lets waiting sequences run, in order, while there are seats, tokens and blocks."""
        while self._waiting and budget > 0 and len(self._running) < self.settings.max_num_seqs:
            sequence = self._waiting[0]
            chunk = self._seat(sequence, budget)
            if not chunk:
                return
            self._waiting.popleft()
            self._running.append(sequence)
            self._batch.append((sequence, chunk))
            budget -= chunk

    def _seat(self, sequence: _Sequence, budget: int) -> int:
        """Gives a waiting sequence its first blocks; returns the tokens to compute, 0 where it must wait."""
        size = self.settings.block_size
        # The last token is always computed: sampling needs its output.
        shareable = (sequence.total - 1) // size
        shared = self._pool.find(sequence.request.block_keys[:shareable])
        cached = len(shared) * size
        chunk = min(sequence.total - cached, budget)
        blocks = self._pool.take(shared, -(-(cached + chunk) // size) - len(shared))
        if blocks is None:
            return 0
        sequence.blocks = blocks
        sequence.computed = cached
        sequence.named = len(shared)
        self._name_full_blocks(sequence, (cached + chunk) // size)
        if not sequence.queried:
            sequence.queried = True
            self.prefix_queries += sequence.total
            self.prefix_hits += cached
        return chunk
