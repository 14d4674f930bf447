"""Every choice is among the ready, prefers the untried, and keeps its strategy's promise."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.config import Address
from penstock.policy.fleet import Fleet, Replica, State
from penstock.policy.route import STRATEGIES, Choice, route

NAMES = tuple("abcdef")


def replica(name: str, state: State = State.READY) -> Replica:
    return Replica(name, "m", "sim", Address("h", 1), "", state=state)


READY = st.lists(st.sampled_from(NAMES), unique=True).map(lambda names: [replica(name) for name in names])
LOADS = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 5))
TURNS = st.integers(0, 1000)
TRIED = st.frozensets(st.sampled_from(NAMES))


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(states=st.lists(st.sampled_from(State), max_size=6), turn=TURNS, tried=TRIED)
def test_a_replica_that_is_not_ready_is_never_chosen(
    strategy: str, states: list[State], turn: int, tried: frozenset[str]
) -> None:
    fleet = Fleet(tuple(replica(name, state) for name, state in zip(NAMES, states, strict=False)))

    choice = route(fleet.ready("m"), {}, turn, strategy=strategy, tried=tried)

    assert (choice is None) == (State.READY not in states)
    assert choice is None or choice.replica.state is State.READY


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(ready=READY, loads=LOADS, turn=TURNS, tried=TRIED)
def test_a_tried_replica_is_avoided_while_an_untried_one_is_left(
    strategy: str, ready: list[Replica], loads: dict[str, int], turn: int, tried: frozenset[str]
) -> None:
    choice = route(ready, loads, turn, strategy=strategy, tried=tried)

    untried = {replica.name for replica in ready} - tried
    assert (choice is None) == (not ready)
    assert choice is None or not untried or choice.replica.name in untried


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(ready=READY, loads=LOADS, turn=TURNS)
def test_the_same_input_gives_the_same_choice_and_is_left_as_it_was(
    strategy: str, ready: list[Replica], loads: dict[str, int], turn: int
) -> None:
    replicas, counts = list(ready), dict(loads)

    assert route(ready, loads, turn, strategy=strategy) == route(ready, loads, turn, strategy=strategy)
    assert (ready, loads) == (replicas, counts)


@given(READY, LOADS, TURNS, TRIED)
def test_least_load_never_picks_a_busier_one(
    ready: list[Replica], loads: dict[str, int], turn: int, tried: frozenset[str]
) -> None:
    choice = route(ready, loads, turn, strategy="least_load", tried=tried)

    if choice is not None:
        candidates = {replica.name for replica in ready} - tried or {replica.name for replica in ready}
        assert loads.get(choice.replica.name, 0) == min(loads.get(name, 0) for name in candidates)


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(ready=READY.filter(bool), first=TURNS, count=st.integers(1, 40))
def test_equals_take_turns_within_one_of_each_other(
    strategy: str, ready: list[Replica], first: int, count: int
) -> None:
    choices = [route(ready, {}, first + i, strategy=strategy) for i in range(count)]

    chosen = Counter(choice.replica.name for choice in choices if choice is not None)
    spread = [chosen[replica.name] for replica in ready]
    assert max(spread) - min(spread) <= 1


def test_the_reason_says_what_was_decided() -> None:
    a, b = replica("a"), replica("b")

    assert route([a], {}, 0, strategy="least_load") == Choice(a, "only_one")
    assert route([a, b], {}, 0, strategy="least_load", tried=frozenset("a")) == Choice(b, "last_untried")
    assert route([a, b], {"a": 1}, 0, strategy="least_load") == Choice(b, "least_load")
    assert route([a, b], {"a": 1}, 0, strategy="round_robin") == Choice(a, "round_robin")


def test_where_all_were_tried_they_are_tried_again() -> None:
    a, b = replica("a"), replica("b")

    choice = route([a, b], {"a": 3}, 0, strategy="least_load", tried=frozenset("ab"))

    assert choice == Choice(b, "least_load")
