"""An engine under full load is never called stalled, in half an hour of virtual time; and one that stops then is."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from penstock.policy.stall import (
    SHORT_STEPS_S,
    Progress,
    Work,
    answered,
    asked,
    is_stalled,
    noted,
    wants_look,
)
from penstock.simulator.engine_model import EngineModel, EngineModelSettings, EngineRequest
from penstock.wire.exposition import Pulse

MINUTES = 30
LOOK_EVERY_S = 0.5
# Steps of up to 2.5 s, of a machine that is far too slow: 8 requests at once of a hundred, with long prompts.
SLOW = EngineModelSettings(
    prefill_s_per_token=0.001,
    base_step_s=0.4,
    step_s_per_seq=0.01,
    max_num_seqs=8,
    max_num_batched_tokens=2048,
)
REQUESTS = 100


class Load:
    """A model engine with more requests than it can run, and a gateway's watch of it.

    Args:
        streams: whether bytes come with each token; else at the end alone.
    """

    def __init__(self, seed: int, *, streams: bool) -> None:
        self.engine = EngineModel(SLOW)
        self.now_s = 0.0
        self.finished = 0
        self._chance = random.Random(seed)
        self._streams = streams
        self._asked = 0
        self._heard_s = 0.0
        self._progress = Progress(0.0)
        self._page = Pulse("vllm:iteration_tokens_total_count", 0, 0.0)
        for _ in range(REQUESTS):
            self._ask()

    def _ask(self) -> None:
        self._asked += 1
        prompt, output = self._chance.choice((10, 500, 6000)), self._chance.choice((1, 20, 300))
        self.engine.submit(EngineRequest(f"r{self._asked}", prompt, output), self.now_s)

    def step(self) -> None:
        """One step of the engine, and what its clients do then."""
        ends_s = self.engine.step_ends_s
        assert ends_s is not None
        self.now_s = ends_s
        done = self.engine.step(ends_s)
        self._page = Pulse(self._page.counter, self._page.steps + bool(done.tokens), self.engine.kv_usage)
        if done.finished or (done.tokens and self._streams):
            self._heard_s = self.now_s
        for _ in done.finished:
            self.finished += 1
            self._ask()

    def look(self, now_s: float) -> bool:
        """The watch looks; whether it calls the engine stalled."""
        streams = REQUESTS if self._streams else 0
        self._progress = noted(self._progress, Work(REQUESTS, streams, self._heard_s), now_s)
        if is_stalled(self._progress, SHORT_STEPS_S, now_s):
            return True
        if wants_look(self._progress, now_s):
            self._progress = answered(asked(self._progress, now_s), self._page, "", now_s)
        return False


def looks(load: Load, until_s: float) -> Iterator[bool]:
    """What the watch says twice a second, while the engine works."""
    at_s = load.now_s
    while at_s < until_s:
        at_s += LOOK_EVERY_S
        while load.engine.step_ends_s is not None and load.engine.step_ends_s <= at_s:
            load.step()
        yield load.look(at_s)


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_half_an_hour_at_saturation_is_no_stall_and_a_stop_is_found(seed: int, streams: bool) -> None:
    load = Load(seed, streams=streams)

    assert not any(looks(load, MINUTES * 60))

    assert load.finished > 50
    stopped_s = at_s = load.now_s
    while not load.look(at_s):
        at_s += LOOK_EVERY_S
    assert at_s - stopped_s <= SHORT_STEPS_S + 2.0
