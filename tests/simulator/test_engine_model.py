from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from penstock.simulator.engine_model import EngineModel, EngineModelSettings, EngineRequest, Step, Verdict

FAST = EngineModelSettings(
    prefill_s_per_token=0.001,
    base_step_s=0.01,
    step_s_per_seq=0.002,
    kv_blocks=16,
    block_size=4,
    max_num_seqs=4,
    max_num_batched_tokens=8,
    max_model_len=32,
)


def run_out(model: EngineModel) -> list[Step]:
    steps = []
    while model.step_ends_s is not None:
        steps.append(model.step(model.step_ends_s))
        assert len(steps) < 10_000
    return steps


def test_a_step_takes_its_base_time_and_what_each_sequence_and_prompt_token_adds():
    model = EngineModel(FAST)

    model.submit(EngineRequest("a", prompt_tokens=5, output_tokens=2), 1.0)

    first, second = run_out(model)
    assert first.ended_s - first.started_s == pytest.approx(0.01 + 0.002 + 5 * 0.001)
    assert second.ended_s - second.started_s == pytest.approx(0.01 + 0.002)


def test_a_prompt_longer_than_the_budget_is_computed_in_chunks_while_others_go_on():
    model = EngineModel(FAST)
    model.submit(EngineRequest("short", prompt_tokens=2, output_tokens=9), 0.0)
    model.submit(EngineRequest("long", prompt_tokens=20, output_tokens=1), 0.0)

    steps = run_out(model)

    first_of_long = next(number for number, step in enumerate(steps) if "long" in step.tokens)
    assert first_of_long == 3
    assert all("short" in step.tokens for step in steps[:first_of_long])


def test_requests_start_in_the_order_they_came():
    model = EngineModel(replace(FAST, max_num_seqs=1))
    for name in "abc":
        model.submit(EngineRequest(name, prompt_tokens=3, output_tokens=2), 0.0)

    order = [name for step in run_out(model) for name in step.finished]

    assert order == ["a", "b", "c"]


def test_a_known_prefix_is_not_computed_again():
    model = EngineModel(FAST)
    keys = (11, 22, 33)
    model.submit(EngineRequest("a", 12, 1, keys), 0.0)
    run_out(model)

    model.submit(EngineRequest("b", 12, 1, keys), 1.0)

    # The last token is always computed, so the third block is not shared whole.
    assert run_out(model)[0].computed_tokens == 4
    assert (model.prefix_queries, model.prefix_hits) == (24, 8)


def test_without_a_prefix_cache_everything_is_computed():
    model = EngineModel(replace(FAST, prefix_cache=False))
    for name in "ab":
        model.submit(EngineRequest(name, 8, 1, (11, 22)), 0.0)

        assert run_out(model)[0].computed_tokens == 8


def test_the_prefix_used_longest_ago_is_evicted_first():
    model = EngineModel(replace(FAST, kv_blocks=8))
    for name, key in (("old", 1), ("new", 2)):
        model.submit(EngineRequest(name, 13, 1, (key, key + 10, key + 20)), 0.0)
        run_out(model)
    model.submit(EngineRequest("big", 13, 1, (7, 8, 9)), 0.0)
    run_out(model)

    hits = []
    for name, key in (("new", 2), ("old", 1)):
        before = model.prefix_hits
        model.submit(EngineRequest(name, 5, 1, (key,)), 0.0)
        run_out(model)
        hits.append(model.prefix_hits - before)

    assert hits == [4, 0]


def test_out_of_blocks_the_youngest_is_preempted_and_still_finishes():
    model = EngineModel(replace(FAST, kv_blocks=8, prefix_cache=False))
    model.submit(EngineRequest("old", prompt_tokens=4, output_tokens=20), 0.0)
    model.submit(EngineRequest("young", prompt_tokens=4, output_tokens=20), 0.0)

    steps = run_out(model)

    assert {name for step in steps for name in step.preempted} == {"young"}
    assert model.preemptions >= 1
    assert Counter(name for step in steps for name in step.tokens) == {"old": 20, "young": 20}


def test_a_preempted_request_goes_before_those_that_came_later():
    model = EngineModel(replace(FAST, kv_blocks=8, max_num_seqs=2, prefix_cache=False))
    for name in ("old", "young", "late"):
        model.submit(EngineRequest(name, prompt_tokens=4, output_tokens=20), 0.0)

    steps = run_out(model)

    preempted_at = next(place for place, step in enumerate(steps) if "young" in step.preempted)
    later = [name for step in steps[preempted_at + 1 :] for name in step.tokens if name != "old"]
    assert later[0] == "young"


def test_a_full_line_turns_requests_away():
    model = EngineModel(replace(FAST, max_num_waiting=1))
    verdicts = [model.submit(EngineRequest(name, 1, 1), 0.0) for name in "abc"]

    assert verdicts == [Verdict.ACCEPTED, Verdict.ACCEPTED, Verdict.QUEUE_FULL]


def test_a_request_that_could_never_fit_is_turned_away():
    model = EngineModel(FAST)

    assert model.submit(EngineRequest("a", 31, 2), 0.0) is Verdict.TOO_LONG
    assert model.step_ends_s is None


def test_a_step_can_not_end_early_and_an_id_can_not_live_twice():
    model = EngineModel(FAST)
    model.submit(EngineRequest("a", 1, 1), 0.0)

    with pytest.raises(ValueError, match="no step ends by"):
        model.step(0.0)
    with pytest.raises(ValueError, match="live already"):
        model.submit(EngineRequest("a", 1, 1), 0.0)
    with pytest.raises(ValueError, match="at least 1"):
        model.submit(EngineRequest("b", 0, 1), 0.0)


def test_the_same_seed_gives_the_same_times():
    def times(seed: int) -> list[float]:
        model = EngineModel(replace(FAST, jitter=0.3, seed=seed))
        model.submit(EngineRequest("a", 4, 9), 0.0)
        return [step.ended_s for step in run_out(model)]

    assert times(1) == times(1)
    assert times(1) != times(2)


class AnyTraffic(RuleBasedStateMachine):
    """Requests come and go while the engine steps; the books must balance at every moment."""

    def __init__(self) -> None:
        super().__init__()
        self.model = EngineModel(
            replace(FAST, kv_blocks=12, max_num_waiting=5, max_num_batched_tokens=6, jitter=0.5, seed=3)
        )
        self.now_s = 0.0
        self.live: dict[str, EngineRequest] = {}
        self.tokens: Counter[str] = Counter()
        self.count = 0

    @rule(prompt=st.integers(1, 40), output=st.integers(1, 30), family=st.integers(0, 2))
    def submit(self, prompt: int, output: int, family: int) -> None:
        self.count += 1
        keys = tuple(hash((family, place)) for place in range((prompt + output) // 4))
        request = EngineRequest(f"r{self.count}", prompt, output, keys)
        verdict = self.model.submit(request, self.now_s)
        assert (verdict is Verdict.TOO_LONG) == (prompt + output > 32)
        if verdict is Verdict.ACCEPTED:
            self.live[request.id] = request

    @rule(pick=st.integers(0, 99))
    def cancel(self, pick: int) -> None:
        if self.live:
            name = sorted(self.live)[pick % len(self.live)]
            assert self.model.cancel(name)
            assert not self.model.cancel(name)
            del self.live[name]

    @rule(times=st.integers(1, 8))
    def step(self, times: int) -> None:
        for _ in range(times):
            if self.model.step_ends_s is None:
                return
            assert self.model.step_ends_s > self.now_s
            self.now_s = self.model.step_ends_s
            self.take(self.model.step(self.now_s))

    def take(self, step: Step) -> None:
        assert len(set(step.tokens)) == len(step.tokens)
        assert step.computed_tokens <= self.model.settings.max_num_batched_tokens
        for name in step.tokens:
            self.tokens[name] += 1
            assert self.tokens[name] <= self.live[name].output_tokens
        for name in step.finished:
            assert self.tokens[name] == self.live.pop(name).output_tokens

    @invariant()
    def blocks_are_neither_leaked_nor_given_out_twice(self) -> None:
        holdings = self.model.holdings()
        assert holdings.keys() == self.live.keys()
        held = {block for blocks in holdings.values() for block in blocks}
        assert len(held) == self.model.blocks_used <= self.model.settings.kv_blocks
        assert all(len(set(blocks)) == len(blocks) for blocks in holdings.values())

    @invariant()
    def seats_and_line_keep_their_bounds(self) -> None:
        model = self.model
        assert model.running <= model.settings.max_num_seqs
        assert model.running + model.waiting == len(self.live)
        assert not self.live or model.step_ends_s is not None

    def teardown(self) -> None:
        while self.model.step_ends_s is not None:
            self.step(1)
        assert not self.live
        assert self.model.blocks_used == 0


TestAnyTraffic = AnyTraffic.TestCase
TestAnyTraffic.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(prompts=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 12)), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_every_request_gets_exactly_its_tokens_whatever_the_company(prompts):
    model = EngineModel(replace(FAST, kv_blocks=8))
    for number, (prompt, output) in enumerate(prompts):
        assert model.submit(EngineRequest(str(number), prompt, output), 0.0) is Verdict.ACCEPTED

    tokens = Counter(name for step in run_out(model) for name in step.tokens)

    assert tokens == {str(number): output for number, (_, output) in enumerate(prompts)}
