"""A replica is ejected for its own failures, for a while, and never as the last one; clients change nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.config import Address
from penstock.core.errors import (
    ClientError,
    DeadlineError,
    EngineError,
    Fault,
    InternalError,
    OverloadError,
    PenstockError,
    Phase,
)
from penstock.policy.breaker import (
    CLEAN,
    LIMITS,
    Breaker,
    BreakerLimits,
    Sign,
    Trust,
    all_settled,
    allowed,
    begun,
    observed,
    sign_of,
)
from penstock.policy.fleet import Replica, State

GOOD, BAD, NOTHING = Sign.SUCCESS, Sign.FAILURE, Sign.NOTHING
NAMES = tuple("abcdef")


def replica(name: str) -> Replica:
    return Replica(name, "m", "sim", Address("h", 1), "", state=State.READY)


class Fleet:
    """The breakers of some ready replicas, kept as the gateway keeps them."""

    def __init__(self, names: Sequence[str] = "abc", limits: BreakerLimits = LIMITS) -> None:
        self.ready = [replica(name) for name in names]
        self.breakers: dict[str, Breaker] = {}
        self.limits = limits
        self.now_s = 1000.0

    def __getitem__(self, name: str) -> Breaker:
        return self.breakers.get(name, CLEAN)

    def see(self, name: str, *signs: Sign, begun_s: float | None = None) -> Breaker:
        """Attempts that began just now, or when it is said, and ended as `signs` tell."""
        for sign in signs:
            self.breakers[name] = observed(
                self.breakers,
                name,
                sign,
                self.now_s,
                begun_s=self.now_s if begun_s is None else begun_s,
                ready=self.ready,
                limits=self.limits,
            )
        return self[name]

    def send(self, name: str) -> Breaker:
        """A request is given to `name`."""
        self.breakers[name] = begun(self[name], self.now_s, self.limits)
        return self[name]

    def eject(self, name: str) -> Breaker:
        return self.see(name, *[BAD] * self.limits.failures_in_row_max)

    def wait_for(self, name: str) -> float:
        """Until its ejection is over; returns how long that was."""
        waited_s = self[name].until_s - self.now_s
        self.now_s = self[name].until_s
        return waited_s

    @property
    def allowed(self) -> str:
        return "".join(r.name for r in allowed(self.ready, self.breakers, self.now_s, self.limits))

    @property
    def ejections(self) -> int:
        return sum(breaker.ejections for breaker in self.breakers.values())

    @property
    def open(self) -> set[str]:
        return {r.name for r in self.ready if self[r.name].state is not Trust.CLOSED}


# -- what an attempt tells -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [*range(400, 500), 501, 505])
def test_no_answer_that_is_about_the_request_is_held_against_the_replica(status: int) -> None:
    assert sign_of(status=status) is NOTHING


@pytest.mark.parametrize("status", [500, 502, 503, 504, 529])
def test_an_answer_that_is_about_the_engine_is_a_failure(status: int) -> None:
    assert sign_of(status=status) is BAD


@pytest.mark.parametrize("status", [200, 201, 204, 304])
def test_a_whole_answer_is_a_success(status: int) -> None:
    assert sign_of(status=status) is GOOD


@pytest.mark.parametrize("phase", [Phase.CONNECT, Phase.FIRST_TOKEN, Phase.STALL])
def test_a_time_limit_is_a_failure_unless_the_client_had_lowered_it(phase: Phase) -> None:
    error = DeadlineError("too slow", phase=phase)

    assert sign_of(error=error) is BAD
    assert sign_of(status=200, error=error) is BAD
    assert sign_of(error=error, limited_by_client=True) is NOTHING


def test_the_limit_of_the_whole_request_is_a_failure_where_not_one_token_came() -> None:
    error = DeadlineError("too slow", phase=Phase.TOTAL)

    assert sign_of(status=200, error=error) is NOTHING
    assert sign_of(status=200, error=error, no_token=True) is BAD
    assert sign_of(status=200, error=error, no_token=True, limited_by_client=True) is NOTHING
    assert sign_of(error=DeadlineError("in line", phase=Phase.QUEUE), no_token=True) is NOTHING


def test_lost_and_malformed_answers_are_failures_also_when_they_had_begun_well() -> None:
    assert sign_of(error=EngineError("reset")) is BAD
    assert sign_of(status=200, error=EngineError("no end mark")) is BAD


class SlowClientError(DeadlineError):
    status = HTTPStatus.REQUEST_TIMEOUT
    fault = Fault.CLIENT


@pytest.mark.parametrize(
    "error",
    [
        None,  # nothing came of it and nobody is to blame: the client left
        ClientError("bad"),
        SlowClientError("slow", phase=Phase.STALL),
        OverloadError("connections"),
        InternalError("a bug"),
        PenstockError("refused the gateway's key", status=502),
        EngineError("cancelled by the gateway", code="cancelled"),
        EngineError("not offered", status=501),
        ConnectionResetError(),
        BaseException(),
    ],
)
def test_what_the_client_or_the_gateway_did_tells_nothing(error: BaseException | None) -> None:
    assert sign_of(error=error) is NOTHING


# -- ejection --------------------------------------------------------------------------------------------


def test_failures_in_a_row_eject_and_one_success_between_them_does_not() -> None:
    fleet = Fleet()

    fleet.see("a", BAD, BAD, BAD, BAD, GOOD, BAD, BAD, BAD, BAD)
    assert fleet.allowed == "abc"
    fleet.see("a", BAD)

    assert fleet.allowed == "bc"
    assert (fleet["a"].state, fleet["a"].cause) == (Trust.OPEN, "5 failures in a row")


def test_one_that_fails_far_more_often_than_its_siblings_is_ejected() -> None:
    fleet = Fleet()
    for name in "bc":
        fleet.see(name, *[GOOD] * 20)

    fleet.see("a", *[GOOD, GOOD, BAD] * 7)

    assert fleet.allowed == "bc"
    assert fleet["a"].cause == "7 of 21 requests failed, and 0 of 40 at its siblings"


def test_where_all_fail_alike_nobody_is_ejected() -> None:
    fleet = Fleet()

    for _ in range(30):
        for name in "abc":
            fleet.see(name, GOOD, GOOD, BAD)

    assert fleet.ejections == 0


def test_a_few_requests_are_no_rate() -> None:
    fleet = Fleet("ab")
    fleet.see("b", *[GOOD] * 100)

    fleet.see("a", *[GOOD, BAD] * 9, GOOD)

    assert fleet.ejections == 0


def test_a_small_difference_is_none_however_sure_it_is() -> None:
    fleet = Fleet("ab")
    fleet.see("b", *[GOOD] * 1000)

    fleet.see("a", *[*[GOOD] * 9, BAD] * 100)

    assert fleet.ejections == 0


def test_a_difference_that_may_be_chance_is_none() -> None:
    fleet = Fleet("ab")
    fleet.see("b", *[GOOD] * 19, BAD)

    fleet.see("a", *[GOOD] * 10, *[BAD, GOOD] * 4, BAD, BAD)

    assert fleet.ejections == 0


def test_siblings_without_traffic_are_no_comparison() -> None:
    fleet = Fleet("ab")
    fleet.see("b", *[GOOD] * 19)

    fleet.see("a", *[GOOD, BAD] * 50)

    assert fleet.ejections == 0


def test_failures_are_forgotten_when_the_window_has_passed() -> None:
    fleet = Fleet("ab")
    fleet.see("a", *[GOOD, BAD] * 12)
    fleet.now_s += LIMITS.window_s
    fleet.see("b", *[GOOD] * 100)

    fleet.see("a", *[GOOD] * 19, BAD)

    assert fleet.ejections == 0


def test_failures_of_the_half_before_still_count() -> None:
    fleet = Fleet("ab")
    fleet.see("a", *[GOOD, BAD] * 12)
    fleet.now_s += LIMITS.window_s / 2
    fleet.see("b", *[GOOD] * 100)

    fleet.see("a", BAD)

    assert fleet.open == {"a"}


@pytest.mark.parametrize(("count", "most"), [(1, 0), (2, 1), (3, 2), (4, 2), (6, 3)])
def test_no_more_than_half_rounded_up_is_ejected_at_once_and_one_always_stays(count: int, most: int) -> None:
    fleet = Fleet(NAMES[:count])

    for name in NAMES[: count - 1]:
        fleet.eject(name)
    fleet.see(NAMES[count - 1], *[BAD] * 100)

    assert len(fleet.open) == most
    assert fleet.allowed


def test_nobody_is_ejected_while_no_sibling_does_better() -> None:
    fleet = Fleet("ab", BreakerLimits(failures_in_row_max=3))
    for _ in range(50):
        fleet.see("a", BAD)
        fleet.see("b", BAD)
        if fleet["b"].in_row == 3:
            break
    assert fleet.open == {"a"}  # at its third failure, when b had two

    fleet.breakers["a"] = CLEAN
    fleet.see("a", *[BAD] * 50)

    assert fleet.ejections == 0


def test_a_sibling_that_is_not_ready_does_not_count_as_one_that_stays() -> None:
    fleet = Fleet("a")
    fleet.breakers["b"] = CLEAN

    fleet.see("a", *[BAD] * 100)

    assert fleet.ejections == 0


def test_what_began_before_an_ejection_or_a_return_tells_nothing_of_the_time_after() -> None:
    fleet = Fleet()
    began_s = fleet.now_s
    fleet.now_s += 1
    ejected = fleet.eject("a")

    assert fleet.see("a", GOOD, BAD, NOTHING, begun_s=began_s) == ejected
    fleet.wait_for("a")
    probed = fleet.send("a")
    assert fleet.see("a", GOOD, BAD, NOTHING, begun_s=began_s) == probed
    returned = fleet.see("a", GOOD)
    assert fleet.see("a", *[BAD] * 50, begun_s=fleet.now_s - 0.001) == returned


# -- the way back ----------------------------------------------------------------------------------------


def test_when_its_time_is_over_one_request_at_a_time_is_let_through() -> None:
    fleet = Fleet()
    fleet.eject("a")
    fleet.now_s += LIMITS.ejection_s - 0.001
    assert fleet.allowed == "bc"

    fleet.now_s = fleet["a"].until_s
    assert fleet.allowed == "abc"
    assert fleet.send("a").state is Trust.HALF_OPEN
    assert fleet.allowed == "bc"


def test_a_probe_that_succeeds_brings_it_back_clean_but_remembered() -> None:
    fleet = Fleet()
    fleet.eject("a")
    fleet.wait_for("a")
    fleet.send("a")

    back = fleet.see("a", GOOD)

    assert fleet.allowed == "abc"
    assert (back.state, back.returned_s, back.in_row, back.bad) == (Trust.CLOSED, fleet.now_s, 0, 0)
    assert back.ejections == 1


def test_a_probe_that_tells_nothing_makes_way_for_the_next() -> None:
    fleet = Fleet()
    fleet.eject("a")
    fleet.wait_for("a")
    fleet.send("a")

    assert fleet.see("a", NOTHING).state is Trust.HALF_OPEN
    assert fleet.allowed == "abc"


def test_a_probe_that_nobody_reports_on_does_not_keep_it_away_forever() -> None:
    fleet = Fleet()
    fleet.eject("a")
    fleet.wait_for("a")
    fleet.send("a")

    fleet.now_s += LIMITS.probe_patience_s - 0.001
    assert fleet.allowed == "bc"
    fleet.now_s += 0.001
    assert fleet.allowed == "abc"
    assert fleet.send("a").probe_s == fleet.now_s


def test_a_request_sent_to_one_whose_probe_is_under_way_does_not_count_as_the_probe() -> None:
    fleet = Fleet()
    fleet.eject("a")
    fleet.wait_for("a")
    probed = fleet.send("a")
    fleet.now_s += 1

    assert fleet.send("a") == probed


def test_each_further_ejection_is_twice_as_long_up_to_a_limit() -> None:
    fleet = Fleet()
    fleet.eject("a")
    waits_s = []
    for _ in range(8):
        waits_s.append(fleet.wait_for("a"))
        fleet.send("a")
        assert fleet.see("a", BAD).cause == "its probe failed"

    assert waits_s == [5, 10, 20, 40, 80, 120, 120, 120]


def test_one_that_fails_again_soon_after_its_return_stays_away_longer_and_later_it_does_not() -> None:
    fleet = Fleet()
    fleet.eject("a")
    fleet.wait_for("a")
    fleet.send("a")
    fleet.see("a", GOOD)

    fleet.now_s += LIMITS.forgiven_after_s - 1
    fleet.eject("a")
    assert fleet.wait_for("a") == 2 * LIMITS.ejection_s
    fleet.send("a")
    fleet.see("a", GOOD)
    fleet.now_s += LIMITS.forgiven_after_s
    fleet.eject("a")

    assert fleet.wait_for("a") == LIMITS.ejection_s


def test_one_that_answers_because_all_were_ejected_is_back_at_once() -> None:
    fleet = Fleet("ab")
    fleet.eject("a")
    fleet.ready = [replica("a")]
    assert fleet.allowed == ""

    fleet.now_s += 1
    fleet.see("a", BAD, NOTHING)
    assert fleet.open == {"a"}
    fleet.see("a", GOOD)

    assert not fleet.open


def test_all_are_settled_when_they_are_trusted_and_have_been_for_a_while() -> None:
    fleet = Fleet("ab")
    old, new = fleet.now_s, fleet.now_s + 100
    fleet.see("b", GOOD)
    assert all_settled(fleet.ready, fleet.breakers, old)

    fleet.eject("a")
    fleet.now_s += 1000
    assert not all_settled(fleet.ready, fleet.breakers, fleet.now_s)
    fleet.send("a")
    assert not all_settled(fleet.ready, fleet.breakers, fleet.now_s)
    fleet.see("a", GOOD)

    assert not all_settled(fleet.ready, fleet.breakers, new)
    assert all_settled(fleet.ready, fleet.breakers, fleet.now_s)


# -- whatever happens ------------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(NAMES[:4]),
        st.sampled_from([GOOD, BAD, BAD, NOTHING]),
        st.floats(0, 20) | st.just(0.0) | st.floats(-5, 0),
        st.floats(0, 10),
    ),
    max_size=200,
)


@given(st.integers(1, 4), STEPS)
def test_somebody_is_always_trusted_and_no_more_than_half_are_away(
    count: int, steps: list[tuple[str, Sign, float, float]]
) -> None:
    fleet = Fleet(NAMES[:count], BreakerLimits(failures_in_row_max=2, requests_min=3))
    for name, sign, later_s, ago_s in steps:
        fleet.now_s += later_s
        if name in NAMES[:count]:
            if name in fleet.allowed:
                fleet.send(name)
            fleet.see(name, sign, begun_s=fleet.now_s - ago_s)

        assert len(fleet.open) <= min(count - 1, math.ceil(count / 2))
        assert fleet.allowed


CLIENTS_ERRORS = st.sampled_from([400, 401, 403, 404, 408, 409, 413, 422, 429, 499])


@given(st.integers(1, 4), STEPS, st.lists(st.tuples(st.sampled_from(NAMES[:4]), CLIENTS_ERRORS), max_size=10))
def test_a_storm_of_clients_errors_changes_nothing(
    count: int, steps: list[tuple[str, Sign, float, float]], storm: list[tuple[str, int]]
) -> None:
    calm, stormy = Fleet(NAMES[:count]), Fleet(NAMES[:count])
    for name, sign, later_s, _ in steps:
        for fleet in (calm, stormy):
            fleet.now_s += abs(later_s)
            fleet.see(name, sign)
        for other, status in storm:
            stormy.see(other, sign_of(status=status))

        assert [stormy[one] for one in NAMES] == [calm[one] for one in NAMES]
        assert stormy.allowed == calm.allowed


@given(STEPS)
def test_an_ejected_one_may_always_return_within_the_longest_ejection_and_a_probe(
    steps: list[tuple[str, Sign, float, float]],
) -> None:
    fleet = Fleet(NAMES[:4], BreakerLimits(failures_in_row_max=2))
    for name, sign, later_s, _ in steps:
        fleet.now_s += abs(later_s)
        if name in fleet.allowed:
            fleet.send(name)
        fleet.see(name, sign)

    fleet.now_s += max(fleet.limits.ejection_s_max, fleet.limits.probe_patience_s)

    assert fleet.allowed == "abcd"
