"""The simulated engine in real time: one timer, set for the end of the step under way, moves every reply.

Virtual time follows the clock: a step that was noticed a little late is dated to when it was due, so that
lateness does not add up; one noticed far too late, as after a suspend, moves the engine's time on.
"""

from __future__ import annotations

import asyncio

from penstock.simulator.engine_model import EngineModel, EngineModelSettings, EngineRequest, Step, Verdict
from penstock.simulator.exposition import Gauges, Metrics
from penstock.simulator.replies import Ending, Reply
from penstock.simulator.tokens import block_keys

_LATE_S = 0.25  # a GPU goes on while its server is held up, and the tokens then come in a bunch


class EngineLoop:
    """The engine model, its clock, and the replies it feeds.

    Args:
        settings: of the model.
        loop: gives time and timers.
    """

    def __init__(self, settings: EngineModelSettings, loop: asyncio.AbstractEventLoop) -> None:
        self.model = EngineModel(settings)
        self.metrics = Metrics()
        self.replies: dict[str, Reply] = {}
        self._loop = loop
        self._timer: asyncio.Handle | None = None
        self._frozen_until_s = 0.0
        self._frozen_gauges = Gauges(0, 0, 0.0)

    def submit(self, reply: Reply, prompt: tuple[bytes, ...]) -> Verdict:
        """Lets the engine generate a reply; it is started where it is accepted.

        Args:
            reply: what to feed.
            prompt: its prompt's tokens.
        """
        settings = self.model.settings
        keys = block_keys(prompt + reply.answer.tokens, settings.block_size) if settings.prefix_cache else ()
        now_s = self._loop.time()
        request = EngineRequest(reply.request_id, len(prompt), reply.total, keys)
        verdict = self.model.submit(request, now_s)
        if verdict is Verdict.ACCEPTED:
            reply.arrived_s = now_s
            self.replies[reply.request_id] = reply
            self.metrics.prompt_tokens += len(prompt)
            self._set_timer()
            reply.start()
        elif verdict is Verdict.QUEUE_FULL:
            self.metrics.rejections += 1
        return verdict

    def ended(self, reply: Reply, ending: Ending, prompt_tokens: int) -> None:
        """A reply has ended: its engine work ends with it, and is counted.

        Args:
            reply: it.
            ending: how it ended.
            prompt_tokens: of its prompt.
        """
        self.replies.pop(reply.request_id, None)
        unfinished = self.model.cancel(reply.request_id)
        reason = "abort" if unfinished or ending is not Ending.FINISHED else reply.answer.finish_reason
        now_s = self._loop.time()
        decode_s = (reply.last_s or 0.0) - (reply.first_s or 0.0)
        self.metrics.request_ended(reason, prompt_tokens, reply.due, now_s - reply.arrived_s, decode_s)

    def freeze(self, seconds: float) -> None:
        """Makes no step for that long; all else goes on."""
        self._frozen_gauges = self._gauges()
        self._frozen_until_s = self._loop.time() + seconds
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._set_timer()

    def exposition(self, model_name: str) -> bytes:
        """The body of /metrics."""
        return self.metrics.render(self.model, self._gauges(), model_name)

    def _gauges(self) -> Gauges:
        frozen = self._loop.time() < self._frozen_until_s
        return self._frozen_gauges if frozen else Gauges.of(self.model)

    def stop(self) -> None:
        """Makes no more steps; every reply under way ends with "abort"."""
        for reply in list(self.replies.values()):
            reply.abort()
        if self._timer is not None:
            self._timer.cancel()

    def _set_timer(self) -> None:
        ends_s = self.model.step_ends_s
        if self._timer is None and ends_s is not None:
            at_s = max(ends_s, self._frozen_until_s)
            if at_s <= self._loop.time():
                self._timer = self._loop.call_soon(self._on_step)
            else:
                self._timer = self._loop.call_at(at_s, self._on_step)

    def _on_step(self) -> None:
        self._timer = None
        due_s = self.model.step_ends_s
        if due_s is None:
            return
        now_s = self._loop.time()
        step = self.model.step(due_s if now_s - due_s < _LATE_S else now_s)
        self._set_timer()
        self._count(step)
        self._deliver(step)

    def _deliver(self, step: Step) -> None:
        replies = self.replies
        now_s = step.ended_s
        gaps: dict[float, int] = {}
        for request_id in step.tokens:
            reply = replies.get(request_id)
            if reply is None:
                continue
            last_s = reply.last_s
            if last_s is None:
                self.metrics.histograms["vllm:time_to_first_token_seconds"].observe(now_s - reply.arrived_s)
                reply.first_s = now_s
            else:
                gaps[last_s] = gaps.get(last_s, 0) + 1
            reply.last_s = now_s
            reply.token()
        between = self.metrics.histograms["vllm:inter_token_latency_seconds"]
        for last_s, times in gaps.items():
            between.observe(now_s - last_s, times)

    def _count(self, step: Step) -> None:
        self.metrics.generation_tokens += len(step.tokens)
        self.metrics.histograms["vllm:iteration_tokens_total"].observe(step.computed_tokens)
