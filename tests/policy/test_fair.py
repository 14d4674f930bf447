"""Nobody is lost or starved, and whoever has much in line delays the others by no more than is promised."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.policy.fair import COST_MAX_TOKENS, SHARE, SWEEP_MIN, TENANTS_MAX, Entry, FairLine

CLASSES = tuple(SHARE)
TENANTS = st.sampled_from("abc")
COSTS = st.integers(1, 5000)
WEIGHTS = st.sampled_from([0.1, 0.5, 1.0, 4.0, 1000.0])


def entry(
    tenant: str = "a", cost_tokens: int = 100, priority: str = "standard", weight: float = 1.0
) -> Entry:
    return Entry(tenant, weight=weight, priority=priority, cost_tokens=cost_tokens)


def pushed(line: FairLine, *args: object, **kwargs: object) -> Entry:
    new = entry(*args, **kwargs)  # type: ignore[arg-type]
    line.push(new)
    return new


def popped(line: FairLine) -> Entry:
    first = line.pop()
    assert first is not None
    return first


def pushed_and_popped(line: FairLine) -> Entry:
    pushed(line, "earlier")
    return popped(line)


def spread(values: Sequence[float]) -> float:
    return max(values) - min(values)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), TENANTS, st.sampled_from(CLASSES), COSTS),
        st.tuples(st.just("pop"), st.booleans()),
        st.tuples(st.just("remove"), st.integers(0, 1000)),
        st.tuples(st.just("settle"), st.integers(0, 1000), st.integers(0, 9000)),
    ),
    max_size=200,
)


@given(STEPS)
def test_what_went_in_comes_out_once_in_order_of_arrival_or_was_removed(steps: list[tuple]) -> None:
    line = FairLine()
    waiting: list[Entry] = []
    served: list[Entry] = []
    for kind, *args in steps:
        if kind == "push":
            tenant, priority, cost = args
            waiting.append(pushed(line, tenant, cost, priority))
        elif kind == "pop":
            first = line.pop()
            assert (first is None) == (not waiting)
            if first is not None:
                its_own = [e for e in waiting if (e.tenant, e.lane) == (first.tenant, first.lane)]
                assert first is its_own[0]
                waiting.remove(first)
                served.append(first)
        elif kind == "remove" and waiting:
            leaver = waiting.pop(args[0] % len(waiting))
            assert line.remove(leaver)
            assert not line.remove(leaver)
        elif kind == "settle" and served:
            line.settle(served.pop(args[0] % len(served)), args[1])

        assert line.length == len(waiting)
        for priority, lane in line.lanes.items():
            mine = [e for e in waiting if e.lane == priority]
            assert lane.length == len(mine)
            assert lane.cost_tokens == sum(e.cost_tokens for e in mine)
            assert lane.weight == pytest.approx(len({e.tenant for e in mine}))
            assert lane.owed_tokens >= 0.0
    rest = [line.pop() for _ in waiting]
    assert set(rest) == set(waiting)
    assert line.pop() is None


@given(
    st.tuples(WEIGHTS, WEIGHTS),
    st.lists(COSTS, min_size=60, max_size=60),
    st.lists(st.integers(1, 5000), min_size=60, max_size=60),
    st.booleans(),
)
def test_two_tenants_that_both_wait_get_tokens_by_weight_within_one_request_of_each(
    weights: tuple[float, float], costs: list[int], actuals: list[int], settles: bool
) -> None:
    line = FairLine()
    weight = dict(zip("ab", weights, strict=True))
    for i, cost in enumerate(costs):
        tenant = "ab"[i % 2]
        pushed(line, tenant, cost, weight=weight[tenant])
    left, had = {"a": 30, "b": 30}, {"a": 0.0, "b": 0.0}
    leads, largest = [0.0], {"a": 1.0, "b": 1.0}

    while min(left.values()):
        first = popped(line)
        took = actuals.pop() if settles else first.cost_tokens
        if settles:
            line.settle(first, took)
        left[first.tenant] -= 1
        had[first.tenant] += took / first.weight
        largest[first.tenant] = max(largest[first.tenant], took / first.weight)
        leads.append(had["a"] - had["b"])

    assert spread(leads) <= largest["a"] + largest["b"] + 1e-6


@given(
    st.lists(st.tuples(st.sampled_from("xyz"), COSTS), min_size=1, max_size=80),
    st.integers(0, 40),
    st.booleans(),
    st.integers(1, 5000),
)
def test_a_tenant_with_nothing_ahead_is_passed_by_one_request_of_each_other_at_most(
    crowd: list[tuple[str, int]], served_before: int, settles: bool, cost: int
) -> None:
    line = FairLine()
    for tenant, tokens in crowd:
        pushed(line, tenant, tokens)
    for _ in range(min(served_before, len(crowd) - 1)):
        first = popped(line)
        if settles:
            line.settle(first, first.cost_tokens // 3)

    light = pushed(line, "light", cost)
    passed: dict[str, int] = defaultdict(int)
    while (first := popped(line)) is not light:
        passed[first.tenant] += 1

    assert all(times == 1 for times in passed.values())


def test_overestimates_that_are_put_right_while_permits_are_taken_away_do_not_hold_back_a_light_tenant() -> (
    None
):
    line = FairLine()
    for _ in range(600):
        pushed(line, "heavy", 4000)
    running = deque(popped(line) for _ in range(16))
    for _ in range(50):
        line.settle(running.popleft(), 100)
        running.append(popped(line))
    light = pushed(line, "light", 100)
    while popped(line) is not light:
        pass
    line.settle(light, 100)
    for _ in range(12):  # twelve of the sixteen permits are taken away
        line.settle(running.popleft(), 100)

    second, rivals = pushed(line, "light", 100), 0
    while (first := popped(line)) is not second:
        line.settle(first, 100)
        rivals += 1

    assert rivals <= 2


@given(WEIGHTS, WEIGHTS, st.integers(0, 20), st.integers(100, 1000))
def test_a_rival_gets_its_weight_of_what_is_ahead_and_one_request_more(
    mine: float, its: float, ahead: int, cost: int
) -> None:
    line = FairLine()
    for _ in range(400):
        pushed(line, "rival", 500, weight=its)
    for _ in range(ahead):
        pushed(line, "me", cost, weight=mine)

    last, rivals_tokens = pushed(line, "me", cost, weight=mine), 0
    while line.length and (first := popped(line)) is not last:
        rivals_tokens += first.cost_tokens if first.tenant == "rival" else 0

    assert rivals_tokens <= its / mine * ahead * cost + 500 + 1e-6


def test_a_tenant_that_was_idle_has_saved_up_nothing() -> None:
    line = FairLine()
    early = pushed(line, "idle")
    assert line.pop() is early
    line.settle(early, 100)
    for _ in range(300):
        pushed(line, "busy")
    for _ in range(200):
        line.settle(popped(line), 100)

    for _ in range(50):
        pushed(line, "idle")
    tenants = [popped(line).tenant for _ in range(20)]

    assert abs(tenants.count("idle") - tenants.count("busy")) <= 1


def test_where_nobody_waits_all_begin_anew() -> None:
    line = FairLine()
    for _ in range(50):
        pushed(line, "busy")
        line.settle(popped(line), 100)

    for _ in range(10):
        pushed(line, "new")
        pushed(line, "busy")
    tenants = [popped(line).tenant for _ in range(10)]

    assert abs(tenants.count("new") - tenants.count("busy")) <= 2


def test_one_that_comes_back_begins_where_the_next_one_is_and_not_the_one_that_has_had_most() -> None:
    line = FairLine()
    for _ in range(40):
        pushed(line, "slow", 1000)
        pushed(line, "fast", 1000)
    running = []
    for _ in range(6):
        if (first := popped(line)).tenant == "fast":
            line.settle(first, 1000)
        else:
            running.append(first)
    light = pushed(line, "light", 100)
    for slow in running:
        line.settle(slow, 10)

    ahead = 0
    while popped(line) is not light:
        ahead += 1

    assert ahead <= 1


def test_what_was_served_without_waiting_counts_while_it_runs() -> None:
    line = FairLine()
    for _ in range(4):
        line.pass_by(entry("early", 100))
    pushed(line, "early", 100)
    for _ in range(6):
        pushed(line, "late", 100)

    assert [popped(line).tenant for _ in range(6)] == ["late"] * 4 + ["early", "late"]


def test_what_ended_without_rivals_counts_no_more() -> None:
    line = FairLine()
    for _ in range(50):
        alone = entry("early", 100)
        line.pass_by(alone)
        line.settle(alone, 100)
    line.pass_by(entry("third", 1))
    for _ in range(4):
        pushed(line, "early", 100)
        pushed(line, "late", 100)

    tenants = [popped(line).tenant for _ in range(8)]

    assert tenants.count("early") == 4
    assert tenants[:4].count("early") >= 1


def test_a_request_that_took_more_than_expected_sets_its_tenant_back() -> None:
    line = FairLine()
    for _ in range(8):
        pushed(line, "a", 100)
        pushed(line, "b", 100)
    first = popped(line)
    line.settle(first, 500)

    tenants = [popped(line).tenant for _ in range(6)]

    assert tenants.count(first.tenant) == 1
    assert first.tenant == "a"


def test_a_request_that_was_not_used_costs_nothing() -> None:
    line = FairLine()
    for _ in range(4):
        pushed(line, "a", 100)
        pushed(line, "b", 100)
    unused = popped(line)
    line.settle(unused, 0)

    assert [popped(line).tenant for _ in range(4)] == ["b", "a", "b", "a"]


@given(
    st.lists(
        st.one_of(st.tuples(st.sampled_from(CLASSES), COSTS), st.none()),
        min_size=150,
        max_size=300,
    ),
)
def test_a_class_that_waits_gets_its_share_within_two_requests(steps: list[tuple[str, int] | None]) -> None:
    line = FairLine()
    largest = 5000
    surplus: dict[str, list[float]] = {}
    for step in steps:
        if step is not None:
            pushed(line, "t", step[1], step[0])
            surplus.setdefault(step[0], [0.0])
            continue
        first = line.pop()
        if first is None:
            continue
        for priority in list(surplus):
            own = priority == first.lane
            moved = first.cost_tokens if own else -SHARE[priority] * first.cost_tokens
            surplus[priority].append(surplus[priority][-1] + moved)
            if not line.lanes[priority].length:
                del surplus[priority]
        for path in surplus.values():
            high = path[0]
            for point in path:
                high = max(high, point)
                assert high - point <= 2 * largest


@pytest.mark.parametrize(("waiting", "cost"), [("standard", 400), ("batch", 400), ("batch", 4000)])
def test_a_flood_of_higher_classes_delays_the_head_of_a_lower_one_by_its_cost_over_its_share(
    waiting: str, cost: int
) -> None:
    line = FairLine()
    low = pushed(line, "low", cost, waiting)
    for _ in range(3000):
        pushed(line, "high", 100, "interactive")
        if waiting == "batch":
            pushed(line, "middle", 100, "standard")

    others_tokens = 0
    while (first := popped(line)) is not low:
        others_tokens += first.cost_tokens

    assert cost / SHARE[waiting] <= others_tokens <= cost / SHARE[waiting] + 2 * max(cost, 100)


def test_a_higher_class_goes_first_where_nothing_is_owed() -> None:
    line = FairLine()
    for priority in reversed(CLASSES):
        pushed(line, "a", 100, priority)

    assert [popped(line).lane for _ in CLASSES] == list(CLASSES)


def test_a_class_that_went_away_is_owed_nothing_when_it_comes_back() -> None:
    line = FairLine()
    low = pushed(line, "low", 100, "batch")
    for _ in range(60):
        pushed(line, "high", 100, "interactive")
    for _ in range(19):
        popped(line)
    line.remove(low)

    again = pushed(line, "low", 100, "batch")
    ahead = 0
    while popped(line) is not again:
        ahead += 1

    assert ahead == 20


def test_a_changed_weight_counts_from_the_next_request_on() -> None:
    line = FairLine()
    for _ in range(60):
        pushed(line, "a", 100)
        pushed(line, "b", 100)
    pushed(line, "a", 100, weight=4.0)

    assert line.lanes["standard"].weight == 5.0
    tenants = [popped(line).tenant for _ in range(50)]

    assert 38 <= tenants.count("a") <= 42


def test_places_in_a_full_line_go_to_who_has_less_than_its_share() -> None:
    line = FairLine()
    heavy = [pushed(line, "heavy") for _ in range(10)]

    assert line.loser(entry("light")) is heavy[-1]
    assert line.loser(entry("heavy")) is None


def test_a_tenant_at_its_share_of_the_places_gets_no_more() -> None:
    line = FairLine()
    for _ in range(5):
        pushed(line, "a")
        pushed(line, "b")

    assert line.loser(entry("a")) is None
    assert line.loser(entry("c")) is not None
    assert line.loser(entry("a", weight=4.0)) is not None


def test_an_empty_line_has_no_place_to_give() -> None:
    assert FairLine().loser(entry()) is None


def test_classes_share_the_places_too() -> None:
    line = FairLine()
    batch = [pushed(line, "t", priority="batch") for _ in range(20)]

    assert line.loser(entry("t", priority="interactive")) is batch[-1]

    for old in batch[1:]:
        line.remove(old)
        pushed(line, "t", priority="interactive")

    assert line.loser(entry("t", priority="interactive")) is None
    assert line.loser(entry("t", priority="batch")) is None
    assert line.loser(entry("t", priority="standard")) is not None


@given(st.lists(st.tuples(TENANTS, st.sampled_from(CLASSES), WEIGHTS), min_size=12, max_size=200))
def test_a_full_line_stays_full_and_a_place_taken_is_not_taken_back(
    arrivals: list[tuple[str, str, float]],
) -> None:
    line = FairLine()
    weights: dict[str, float] = {}
    for tenant, priority, weight in arrivals:
        new = entry(tenant, priority=priority, weight=weights.setdefault(tenant, weight))
        if line.length < 12:
            line.push(new)
            continue
        loser = line.loser(new)
        if loser is None:
            continue
        assert (loser.tenant, loser.lane) != (new.tenant, new.lane)
        line.remove(loser)
        line.push(new)

        assert line.length == 12
        again = entry(loser.tenant, priority=loser.lane, weight=loser.weight)
        assert line.loser(again) is None


def test_what_goes_before_is_foretold_for_the_light_and_the_heavy() -> None:
    line = FairLine()
    assert line.tokens_ahead(entry("light")) == 0.0
    for _ in range(100):
        pushed(line, "heavy", 100)
        pushed(line, "busy", 100, "batch")

    assert line.tokens_ahead(entry("light", 100)) <= 100
    assert line.tokens_ahead(entry("heavy", 100)) == 100 * 100
    assert line.tokens_ahead(entry("light", 100, "batch")) == pytest.approx(100 / SHARE["batch"])
    assert line.tokens_ahead(entry("light", 100, "interactive")) == 0.0


@given(st.integers(1, 30), st.integers(1, 30), WEIGHTS, WEIGHTS)
def test_what_is_foretold_for_one_class_is_what_happens_within_one_request_of_each(
    mine: int, its: int, weight: float, weight_other: float
) -> None:
    line = FairLine()
    for _ in range(10):
        line.settle(pushed_and_popped(line), 100)
    for _ in range(its):
        pushed(line, "other", 100, weight=weight_other)
    for _ in range(mine):
        pushed(line, "me", 100, weight=weight)
    last = entry("me", 100, weight=weight)
    foretold = line.tokens_ahead(last)
    line.push(last)

    before = 0
    while (first := popped(line)) is not last:
        before += first.cost_tokens

    assert abs(before - foretold) <= 200 + 1e-6


def test_tenants_that_come_once_are_forgotten() -> None:
    line = FairLine()
    lane = line.lanes["standard"]
    for i in range(5000):
        once = entry(f"tenant {i}")
        line.pass_by(once)
        line.settle(once, 0)

    assert len(lane.marks) <= 2 * SWEEP_MIN


def test_tenants_that_are_ahead_are_remembered_up_to_a_limit() -> None:
    line = FairLine()
    lane = line.lanes["standard"]
    for i in range(2 * TENANTS_MAX + 10_000):
        line.pass_by(entry(f"tenant {i}"))

    assert TENANTS_MAX < len(lane.marks) <= 2 * TENANTS_MAX + 1


def test_corrections_leave_no_litter_behind() -> None:
    line = FairLine()
    lane = line.lanes["standard"]
    for _ in range(1000):
        pushed(line, "a")
    for running in [popped(line) for _ in range(900)]:
        line.settle(running, 50)

    assert len(lane._heap) <= SWEEP_MIN + 2 * len(lane.marks)


@pytest.mark.parametrize("weight", [0.0, -1.0, 0.09, 1001.0, float("nan"), float("inf")])
def test_a_weight_out_of_range_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        entry(weight=weight)


def test_a_class_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="interactive, standard, batch"):
        entry(priority="urgent")


@pytest.mark.parametrize(("asked", "held"), [(-5, 1), (0, 1), (7, 7), (10**12, COST_MAX_TOKENS)])
def test_an_absurd_cost_is_held_to_the_range(asked: int, held: int) -> None:
    assert entry(cost_tokens=asked).cost_tokens == held
