"""Every choice is among the ready, prefers the untried, and keeps its strategy's promise."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.config import Address
from penstock.policy.breaker import CLEAN, Breaker, Trust
from penstock.policy.fleet import SERVING, Fleet, Replica, State
from penstock.policy.permits import PERMITS_UNKNOWN
from penstock.policy.prefix import BLOCK_BYTES, PrefixIndex, chain_of
from penstock.policy.route import (
    BALANCE_FACTOR,
    REASONS,
    SESSION_CHARS_MAX,
    SLACK_SHARE,
    SLOW_START_S,
    STRATEGIES,
    WARMTH_MIN,
    Choice,
    route,
)

NAMES = tuple("abcdef")
NOW_S = 1000.0


def replica(name: str, state: State = State.READY) -> Replica:
    return Replica(name, "m", "sim", Address("h", 1), "", state=state)


def fleet_of(count: int) -> list[Replica]:
    return [replica(f"m-{number}") for number in range(count)]


def away(until_s: float = NOW_S + 5) -> Breaker:
    return Breaker(Trust.OPEN, since_s=NOW_S - 1, returned_s=math.inf, until_s=until_s)


def back(since_s: float) -> Breaker:
    return Breaker(since_s=since_s, returned_s=since_s, ejections=1)


def chosen(ready: list[Replica], loads: dict[str, int] | None = None, turn: int = 0, **given: Any) -> Choice:
    choice = route(ready, loads or {}, turn, **given)
    assert choice is not None
    return choice


class Rounds:
    """Routes requests that end at once, and remembers the turns as the gateway does."""

    def __init__(self, strategy: str, **given: Any) -> None:
        self.strategy = strategy
        self.given = given
        self.turn = 0
        self.last_turns: dict[str, int] = {}

    def __call__(self, ready: list[Replica], loads: dict[str, int] | None = None, **given: Any) -> str:
        self.turn += 1
        name = chosen(
            ready,
            loads,
            self.turn,
            strategy=self.strategy,
            last_turns=self.last_turns,
            **self.given,
            **given,
        ).replica.name
        self.last_turns[name] = self.turn
        return name


READY = st.lists(st.sampled_from(NAMES), unique=True).map(lambda names: [replica(name) for name in names])
LOADS = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 5))
TURNS = st.integers(0, 1000)
TRIED = st.frozensets(st.sampled_from(NAMES))


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(states=st.lists(st.sampled_from(State), max_size=6), turn=TURNS, tried=TRIED)
def test_a_replica_that_is_not_ready_and_not_busy_is_never_chosen(
    strategy: str, states: list[State], turn: int, tried: frozenset[str]
) -> None:
    fleet = Fleet(tuple(replica(name, state) for name, state in zip(NAMES, states, strict=False)))

    choice = route(fleet.ready("m"), {}, turn, strategy=strategy, tried=tried)

    assert (choice is None) == SERVING.isdisjoint(states)
    assert choice is None or choice.replica.state in SERVING


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


@pytest.mark.parametrize("strategy", ["round_robin", "least_load", "prefix", "session"])
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


# -- every strategy, with everything that is known -------------------------------------------------------


BREAKERS = st.dictionaries(
    st.sampled_from(NAMES),
    st.sampled_from([CLEAN, away(), away(NOW_S - 1), back(NOW_S - 3), back(NOW_S - 300)])
    | st.builds(
        lambda probe_s: Breaker(
            Trust.HALF_OPEN, since_s=0.0, returned_s=math.inf, until_s=0.0, probe_s=probe_s
        ),
        st.sampled_from([None, NOW_S - 1]),
    ),
)


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(
    names=st.lists(st.sampled_from(NAMES), unique=True, min_size=1),
    since_s=st.dictionaries(st.sampled_from(NAMES), st.floats(NOW_S - 40, NOW_S + 1)),
    loads=LOADS,
    tried=TRIED,
    breakers=BREAKERS,
    permits=st.dictionaries(st.sampled_from(NAMES), st.integers(1, 8)),
    chance=st.floats(0, 1),
    turn=TURNS,
    session=st.text(max_size=5),
    known=st.lists(st.sampled_from(NAMES), max_size=4),
    slow_start_s=st.sampled_from([0.0, SLOW_START_S]),
)
def test_whatever_is_known_somebody_ready_is_chosen_for_a_listed_reason(
    strategy: str,
    names: list[str],
    since_s: dict[str, float],
    loads: dict[str, int],
    tried: frozenset[str],
    breakers: dict[str, Breaker],
    permits: dict[str, int],
    chance: float,
    turn: int,
    session: str,
    known: list[str],
    slow_start_s: float,
) -> None:
    ready = [replace(replica(name), since_s=since_s.get(name, 0.0)) for name in names]
    chain, prefixes = chain_of(bytes(BLOCK_BYTES)), PrefixIndex()
    for name in known:
        prefixes.add(chain, name)

    choice = chosen(
        ready,
        loads,
        turn,
        strategy=strategy,
        tried=tried,
        now_s=NOW_S,
        breakers=breakers,
        concurrency=permits,
        chance=chance,
        session=session,
        chain=chain,
        prefixes=prefixes,
        slow_start_s=slow_start_s,
    )

    assert choice.replica in ready
    assert choice.reason in REASONS
    ejected = {name for name, breaker in breakers.items() if breaker == away()}
    better = set(names) - tried - ejected
    assert choice.replica.name in better or not {
        name for name in better if breakers.get(name, CLEAN).state is Trust.CLOSED
    }


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_ejected_replica_gets_nothing_while_another_is_left(strategy: str) -> None:
    a, b, c = (replica(name) for name in "abc")

    names = {
        chosen([a, b, c], {}, turn, strategy=strategy, now_s=NOW_S, breakers={"b": away()}).replica.name
        for turn in range(20)
    }

    assert "b" not in names


def test_the_reason_tells_that_ejection_has_decided() -> None:
    a, b, c = (replica(name) for name in "abc")

    def reason(ready: list[Replica], *ejected: str, tried: str = "") -> tuple[str, str]:
        breakers = dict.fromkeys(ejected, away())
        choice = chosen(
            ready,
            strategy="least_load",
            now_s=NOW_S,
            breakers=breakers,
            tried=frozenset(tried),
        )
        return choice.replica.name, choice.reason

    assert reason([a, b], "a") == ("b", "only_allowed")
    assert reason([a, b], "a", "b") == ("a", "ejected_all")
    assert reason([a, b], "a", tried="b") == ("b", "only_allowed")
    assert reason([a, b, c], "a", "b", "c", tried="a") == ("b", "ejected_all")
    assert reason([a, b], "a", "b", tried="ab") == ("a", "ejected_all")
    assert reason([a, b, c], "b", tried="a") == ("c", "only_allowed")
    assert reason([a], "a") == ("a", "only_one")


def test_one_whose_ejection_is_over_gets_its_probe_at_once_and_no_second_request() -> None:
    a, b = replica("a"), replica("b")
    probed = Breaker(Trust.HALF_OPEN, since_s=0.0, returned_s=math.inf, until_s=0.0, probe_s=NOW_S)

    first = chosen([a, b], {"b": 1}, strategy="least_load", now_s=NOW_S, breakers={"a": away(NOW_S)})
    second = chosen([a, b], {"b": 1}, strategy="least_load", now_s=NOW_S, breakers={"a": probed})

    assert (first.replica, second.replica) == (a, b)


# -- round robin -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["round_robin", "least_load"])
@given(st.lists(st.sets(st.sampled_from(NAMES), min_size=1), min_size=1, max_size=60))
def test_whoever_stays_while_others_come_and_go_waits_for_one_turn_of_each(
    strategy: str, lists: list[set[str]]
) -> None:
    rounds, since_its_turn = Rounds(strategy), {name: Counter[str]() for name in NAMES}
    for present in lists:
        name = rounds([replica(name) for name in sorted(present, reverse=len(present) % 2 == 0)])

        for other in NAMES:
            if other in present and other != name:
                since_its_turn[other][name] += 1
                assert since_its_turn[other][name] <= 1
            else:
                since_its_turn[other].clear()


# -- load ------------------------------------------------------------------------------------------------


def test_load_is_the_part_of_its_permits_that_a_replica_has_given_away() -> None:
    small, large = replica("small"), replica("large")

    def pick(in_small: int, in_large: int) -> Replica:
        return chosen(
            [small, large],
            {"small": in_small, "large": in_large},
            strategy="least_load",
            concurrency={"small": 8, "large": 64},
        ).replica

    assert pick(1, 7) is large
    assert pick(1, 9) is small


def test_a_replica_of_unknown_permits_counts_as_one_of_the_default() -> None:
    a, b = replica("a"), replica("b")

    choice = chosen([a, b], {"a": 2, "b": 2}, strategy="least_load", concurrency={"a": PERMITS_UNKNOWN // 2})

    assert choice.replica is b


@given(READY.filter(lambda ready: len(ready) > 1), LOADS, st.floats(0, 1))
def test_p2c_never_picks_the_one_that_all_others_are_less_loaded_than(
    ready: list[Replica], loads: dict[str, int], chance: float
) -> None:
    choice = chosen(ready, loads, strategy="p2c", chance=chance)

    counts = {replica.name: loads.get(replica.name, 0) for replica in ready}
    most = max(counts.values())
    if list(counts.values()).count(most) == 1:
        assert counts[choice.replica.name] < most


def test_p2c_looks_at_every_pair_equally_often() -> None:
    ready = fleet_of(4)
    first = {"m-0": 0, "m-1": 1, "m-2": 2, "m-3": 3}

    counts = Counter(
        chosen(ready, first, strategy="p2c", chance=(number + 0.5) / 1200).replica.name
        for number in range(1200)
    )

    # of the six pairs, the least loaded wins three, the next two, the next one
    assert counts == {"m-0": 600, "m-1": 400, "m-2": 200}


def test_p2c_spreads_idle_traffic_by_turns_alone() -> None:
    counts = Counter(chosen(fleet_of(4), {}, turn, strategy="p2c").replica.name for turn in range(400))

    assert all(80 <= count <= 120 for count in counts.values())
    assert len(counts) == 4


# -- slow start ------------------------------------------------------------------------------------------


def shares(strategy: str, age_s: float, count: int = 4, turns: int = 4000) -> float:
    """The part of an even share that the first of `count` idle replicas gets, `age_s` after it became ready."""
    ready = fleet_of(count)
    ready[0] = replace(ready[0], since_s=NOW_S - age_s)
    rounds = Rounds(strategy, now_s=NOW_S)
    names = Counter(rounds(ready) for _ in range(turns))
    return names["m-0"] * count / turns


@pytest.mark.parametrize("strategy", ["round_robin", "least_load", "prefix", "session"])
@pytest.mark.parametrize("count", [2, 3, 8])
def test_one_that_became_ready_just_now_gets_a_tenth_of_its_share_and_is_never_starved(
    strategy: str, count: int
) -> None:
    assert shares(strategy, 0.0, count) == pytest.approx(WARMTH_MIN, abs=0.02)


@pytest.mark.parametrize("strategy", ["round_robin", "least_load", "p2c"])
def test_its_share_grows_until_it_is_full(strategy: str) -> None:
    growing = [shares(strategy, age_s) for age_s in (0.0, 10.0, 20.0, SLOW_START_S)]

    assert growing == sorted(growing)
    assert growing[-1] == pytest.approx(1.0, abs=0.05)
    assert growing[0] <= 0.15


def test_one_that_is_back_from_its_breaker_starts_slowly_too() -> None:
    rounds = Rounds("least_load", now_s=NOW_S, breakers={"m-0": back(NOW_S)})

    names = Counter(rounds(fleet_of(2)) for _ in range(1000))

    assert names["m-0"] == pytest.approx(50, abs=10)


def test_under_load_one_that_is_not_warm_holds_the_same_part_of_fewer_permits() -> None:
    ready = fleet_of(2)
    ready[0] = replace(ready[0], since_s=NOW_S - SLOW_START_S / 2)
    rounds = Rounds("least_load", now_s=NOW_S)

    names = Counter(rounds(ready, {"m-0": 56, "m-1": 100}) for _ in range(100))

    assert names == {"m-1": 100}  # 56 is more than 0.55 of 100


def test_where_all_became_ready_at_once_nobody_starts_slowly() -> None:
    ready = [replace(one, since_s=NOW_S) for one in fleet_of(3)]
    rounds = Rounds("round_robin", now_s=NOW_S)

    assert set(Counter(rounds(ready) for _ in range(30)).values()) == {10}


def test_where_nobody_is_warm_the_warmest_has_a_full_share_and_each_other_its_part_of_that() -> None:
    a, b = (replace(one, since_s=NOW_S - age_s) for one, age_s in zip(fleet_of(2), (5.0, 15.0), strict=True))
    rounds = Rounds("round_robin", now_s=NOW_S)

    names = Counter(rounds([a, b]) for _ in range(1000))

    assert names["m-0"] == pytest.approx(1000 / 2 * 0.25 / 0.55, abs=10)


# -- prefix ----------------------------------------------------------------------------------------------


PROMPT = b"x" * (10 * BLOCK_BYTES)
CHAIN = chain_of(PROMPT)


def holding(*names: str, chain: tuple[int, ...] = CHAIN) -> PrefixIndex:
    index = PrefixIndex()
    for name in names:
        index.add(chain, name)
    return index


def by_prefix(
    ready: list[Replica], loads: dict[str, int], prefixes: PrefixIndex, **given: Any
) -> tuple[str, str]:
    choice = chosen(ready, loads, strategy="prefix", chain=CHAIN, prefixes=prefixes, **given)
    return choice.replica.name, choice.reason


def test_the_one_that_has_the_beginning_gets_the_prompt_though_it_is_busier() -> None:
    assert by_prefix(fleet_of(3), {"m-1": 5}, holding("m-1")) == ("m-1", "prefix_hit")


def test_of_those_that_have_it_the_least_loaded_gets_it() -> None:
    assert by_prefix(fleet_of(3), {"m-1": 5, "m-2": 4}, holding("m-1", "m-2")) == ("m-2", "prefix_hit")


def test_the_longest_beginning_wins() -> None:
    prefixes = holding("m-2")
    prefixes.add(CHAIN[:4], "m-1")

    assert by_prefix(fleet_of(3), {}, prefixes) == ("m-2", "prefix_hit")
    assert by_prefix(fleet_of(3), {}, prefixes, tried=frozenset({"m-2"})) == ("m-1", "prefix_hit")


@pytest.mark.parametrize("prefixes", [None, PrefixIndex(), holding("gone")])
def test_a_prompt_that_nobody_has_goes_to_the_least_loaded(prefixes: PrefixIndex | None) -> None:
    loads = {"m-0": 3, "m-1": 1, "m-2": 2}

    choice = chosen(fleet_of(3), loads, strategy="prefix", chain=CHAIN, prefixes=prefixes)

    assert (choice.replica.name, choice.reason) == ("m-1", "prefix_miss")


@given(st.lists(st.integers(0, 300), min_size=2, max_size=6), st.integers(0, 5), TURNS)
def test_a_hit_never_goes_to_one_that_holds_too_much_while_another_does_not(
    held: list[int], holder: int, turn: int
) -> None:
    ready = fleet_of(len(held))
    loads = {one.name: count for one, count in zip(ready, held, strict=True)}
    bar = BALANCE_FACTOR * sum(held) / len(held) + 1 + PERMITS_UNKNOWN * SLACK_SHARE

    name, reason = by_prefix(ready, loads, holding(f"m-{holder % len(held)}"), turn=turn)

    has_too_much = {one for one, count in loads.items() if count > bar or count >= PERMITS_UNKNOWN}
    assert name not in has_too_much or len(has_too_much) == len(ready)
    if reason == "prefix_overloaded" and len(has_too_much) < len(ready):
        assert loads[name] == min(loads.values())


def test_an_overloaded_holder_is_relieved_by_one_that_is_not_warm_rather_than_by_nobody() -> None:
    ready = fleet_of(2)
    ready[1] = replace(ready[1], since_s=NOW_S)

    for turn in range(50):
        choice = chosen(
            ready,
            {"m-0": PERMITS_UNKNOWN},
            turn,
            strategy="prefix",
            chain=CHAIN,
            prefixes=holding("m-0"),
            now_s=NOW_S,
        )

        assert (choice.replica.name, choice.reason) == ("m-1", "prefix_overloaded")


# -- session ---------------------------------------------------------------------------------------------


SESSIONS = [f"session-{number}" for number in range(1000)]


def homes(ready: list[Replica], **given: Any) -> dict[str, str]:
    return {
        session: chosen(ready, strategy="session", session=session, **given).replica.name
        for session in SESSIONS
    }


def test_sessions_spread_evenly() -> None:
    counts = Counter(homes(fleet_of(5)).values())

    assert all(150 <= count <= 250 for count in counts.values())
    assert len(counts) == 5


def test_a_session_has_the_same_home_in_every_gateway_and_version() -> None:
    ready = fleet_of(4)

    found = "".join(
        chosen(ready, strategy="session", session=session).replica.name[-1] for session in SESSIONS[:24]
    )

    assert found == "110112332131010131113123"


@pytest.mark.parametrize("gone", range(4))
def test_a_replica_that_leaves_moves_its_own_sessions_only(gone: int) -> None:
    ready = fleet_of(4)
    before = homes(ready)

    after = homes([one for one in ready if one.name != f"m-{gone}"])

    moved = {session for session in SESSIONS if before[session] != after[session]}
    assert moved == {session for session, home in before.items() if home == f"m-{gone}"}
    assert len({after[session] for session in moved}) == 3  # and all others share them


def test_a_session_stays_where_it_is_while_others_are_less_loaded() -> None:
    ready = fleet_of(3)
    home = chosen(ready, strategy="session", session="s")

    busy = chosen(ready, {home.replica.name: 10}, strategy="session", session="s")

    assert home.reason == "session"
    assert busy == home


@pytest.mark.parametrize("trouble", ["tried", "ejected", "overloaded"])
def test_a_session_falls_over_to_the_next_in_rank_and_says_so(trouble: str) -> None:
    ready = fleet_of(4)
    home = chosen(ready, strategy="session", session="s").replica
    following = chosen([one for one in ready if one != home], strategy="session", session="s").replica

    given: dict[str, dict[str, Any]] = {
        "tried": {"tried": frozenset({home.name})},
        "ejected": {"breakers": {home.name: away()}},
        "overloaded": {"loads": {home.name: PERMITS_UNKNOWN}},
    }
    moved = chosen(ready, strategy="session", session="s", now_s=NOW_S, **given[trouble])

    assert (moved.replica, moved.reason) == (following, "session_moved")


def test_sessions_return_one_after_another_to_a_replica_that_is_back_and_never_leave_it_again() -> None:
    ready = fleet_of(4)
    settled = homes(ready)
    home = {session for session, name in settled.items() if name == "m-0"}

    returned: list[set[str]] = []
    for age_s in range(0, 31, 3):
        ready[0] = replace(ready[0], since_s=NOW_S - age_s)
        found = homes(ready, now_s=NOW_S)
        returned.append({session for session, name in found.items() if name == "m-0"})

    assert all(before <= after for before, after in pairwise(returned))
    assert len(returned[0]) == pytest.approx(WARMTH_MIN * len(home), abs=20)
    assert returned[-1] == home


def test_without_a_session_the_least_loaded_gets_the_request() -> None:
    choice = chosen(fleet_of(2), {"m-0": 1}, strategy="session")

    assert (choice.replica.name, choice.reason) == ("m-1", "no_session")


def test_the_first_part_of_a_name_without_end_tells_the_session() -> None:
    long = "x" * SESSION_CHARS_MAX

    assert (
        len({chosen(fleet_of(8), strategy="session", session=long + end).replica.name for end in NAMES}) == 1
    )


@given(st.text() | st.just("\ud800") | st.just("x" * 100_000))
def test_any_text_names_a_session(session: str) -> None:
    assert chosen(fleet_of(3), strategy="session", session=session).replica.model == "m"


@pytest.mark.parametrize("strategy", ["round_robin", "least_load", "p2c", "prefix", "session"])
@given(turn=TURNS, full=st.sets(st.sampled_from(NAMES[:4]), max_size=3), chance=st.floats(0, 0.999))
def test_a_full_replica_gets_nothing_while_another_has_room(
    strategy: str, turn: int, full: set[str], chance: float
) -> None:
    ready = [replica(name) for name in NAMES[:4]]
    held = dict.fromkeys(full, 2)

    choice = route(
        ready,
        held,
        turn,
        strategy=strategy,
        concurrency=dict.fromkeys(NAMES, 2),
        chance=chance,
        session=f"s{turn}",
    )

    assert choice is not None
    assert choice.replica.name not in full
