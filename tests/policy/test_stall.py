"""A replica stalls when it has work and neither bytes nor steps come, and for no other reason."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.policy.stall import (
    FRESH_S,
    LONG_STEPS_S,
    LOOK_AFTER_S,
    LOOK_AGAIN_S,
    LOOK_EVERY_S,
    SHORT_STEPS_S,
    Progress,
    Work,
    answered,
    asked,
    evidence,
    is_stalled,
    limit_s,
    noted,
    wants_look,
)

EVERY_S = 0.5
LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Beat:
    """A pulse."""

    steps: float
    counter: str = "vllm:iteration_tokens_total_count"


class Watch:
    """The watch of one replica in virtual time, as a gateway keeps it.

    Args:
        page_s: how long its page takes to be answered.
        counts: whether its page counts steps.
    """

    def __init__(self, *, page_s: float = 0.01, counts: bool = True, limit: float = LIMIT_S) -> None:
        self.now_s = 100.0
        self.progress = Progress(self.now_s)
        self.work = Work()
        self.steps = 0
        self.looks = 0
        self.trouble = ""
        self._page_s = page_s
        self._counts = counts
        self._limit = limit
        self._page_at_s = math.inf

    def byte(self) -> None:
        self.work = replace(self.work, heard_s=self.now_s)

    def pass_by(self, seconds: float) -> bool:
        """Lets time go by, with looks; whether it is called stalled at any of them."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s += EVERY_S
            if self.now_s >= self._page_at_s:
                self._page_at_s = math.inf
                pulse = Beat(self.steps) if self._counts and not self.trouble else None
                self.progress = answered(self.progress, pulse, self.trouble, self.now_s)
            self.progress = noted(self.progress, self.work, self.now_s)
            if is_stalled(self.progress, self._limit, self.now_s):
                return True
            if wants_look(self.progress, self.now_s):
                self.looks += 1
                self.progress = asked(self.progress, self.now_s)
                self._page_at_s = self.now_s + self._page_s
        return False


def test_an_engine_that_stops_amid_its_answers_is_found_within_its_limit_and_two_seconds() -> None:
    watch = Watch()
    watch.work = Work(3, 3)
    for _ in range(20):
        watch.byte()
        watch.steps += 5
        assert not watch.pass_by(EVERY_S)

    stopped_s = watch.work.heard_s
    assert watch.pass_by(60.0)
    assert LIMIT_S <= watch.now_s - stopped_s <= LIMIT_S + 2.0


def test_the_first_request_finds_an_engine_that_was_stopped_while_idle() -> None:
    watch = Watch()
    watch.steps = 7
    assert not watch.pass_by(300.0)

    watch.work = Work(1, 0)
    asked_s = watch.now_s

    assert watch.pass_by(60.0)
    assert watch.now_s - asked_s <= LIMIT_S + 2.0


def test_a_long_prompt_shows_only_in_the_steps_and_is_no_stall() -> None:
    watch = Watch()
    watch.work = Work(1, 1)
    for _ in range(60):
        watch.steps += 1

        assert not watch.pass_by(2.0)


def test_bytes_alone_are_enough_where_the_page_is_not_answered() -> None:
    watch = Watch(page_s=math.inf)
    watch.work = Work(2, 1)
    for _ in range(60):
        watch.byte()

        assert not watch.pass_by(LIMIT_S / 2)


def test_a_page_that_is_late_tells_of_steps_all_the_same() -> None:
    watch = Watch(page_s=LIMIT_S * 0.45)
    watch.work = Work(4, 0)
    for _ in range(120):
        watch.steps += 1

        assert not watch.pass_by(1.0)


def test_a_page_that_never_comes_is_no_proof_of_life() -> None:
    watch = Watch(page_s=math.inf)
    watch.work = Work(1, 1)

    assert watch.pass_by(LIMIT_S + 2.0)


def test_a_page_that_comes_and_stays_the_same_is_no_proof_of_life() -> None:
    watch = Watch()
    watch.work = Work(1, 1)

    assert watch.pass_by(LIMIT_S + 2.0)


def test_an_engine_that_counts_no_steps_is_judged_by_its_streams_alone() -> None:
    watch = Watch(counts=False)
    watch.work = Work(8, 0)
    assert not watch.pass_by(600.0)

    watch.work = Work(8, 1)

    assert not watch.pass_by(LIMIT_S - EVERY_S)
    assert watch.pass_by(3.0)


def test_where_the_page_fails_replies_that_are_silent_to_their_end_prove_nothing() -> None:
    watch = Watch()
    watch.work = Work(8, 0)
    watch.pass_by(2.0)
    watch.trouble = "/metrics says 503"
    assert not watch.pass_by(600.0)

    watch.trouble = ""

    assert watch.pass_by(LIMIT_S + 3.0)


def test_a_page_is_looked_at_only_in_silence() -> None:
    watch = Watch()
    watch.work = Work(1, 1)
    watch.pass_by(EVERY_S)
    for _ in range(100):
        watch.work = replace(watch.work, heard_s=watch.now_s + EVERY_S - 0.1)
        watch.pass_by(EVERY_S)

    assert watch.looks == 1  # the first one, which says whether it counts steps


def test_an_engine_without_steps_is_asked_once_a_minute() -> None:
    watch = Watch(counts=False)
    watch.work = Work(1, 0)

    watch.pass_by(10 * LOOK_AGAIN_S)

    assert 9 <= watch.looks <= 11


def test_for_the_time_in_which_the_gateway_stood_still_no_engine_is_to_blame() -> None:
    watch = Watch()
    watch.work = Work(1, 1)
    watch.pass_by(3.0)

    watch.now_s += 300.0
    watch.progress = noted(watch.progress, watch.work, watch.now_s, late_s=300.0)

    assert not is_stalled(watch.progress, LIMIT_S, watch.now_s)


def test_without_a_look_of_late_nothing_is_concluded() -> None:
    silent = answered(noted(Progress(0.0), Work(1, 1), 0.0), Beat(1), "", 0.0)

    assert not is_stalled(silent, LIMIT_S, LIMIT_S + FRESH_S)


@pytest.mark.parametrize(
    ("counter", "expected"),
    [
        ("vllm:iteration_tokens_total_count", SHORT_STEPS_S),
        ("sglang:realtime_tokens_total", SHORT_STEPS_S),
        ("llamacpp:n_decode_total", LONG_STEPS_S),
    ],
)
def test_how_long_a_step_may_last_goes_by_who_counts_it_unless_it_is_set(
    counter: str, expected: float
) -> None:
    counted = answered(Progress(0.0), Beat(1, counter), "", 0.0)

    assert limit_s(counted, None) == expected
    assert limit_s(counted, 3.0) == limit_s(Progress(0.0), 3.0) == 3.0
    assert limit_s(Progress(0.0), None) == LONG_STEPS_S


def test_the_evidence_names_requests_steps_bytes_and_page() -> None:
    counted = answered(noted(Progress(0.0), Work(3, 2, 1.0), 1.0), Beat(41), "", 2.0)

    assert evidence(counted, 12.0) == (
        "3 requests, no step for 10.0 s (vllm:iteration_tokens_total_count stays at 41), last byte 11.0 s ago"
    )
    assert evidence(asked(counted, 5.0), 12.0).endswith(", /metrics not answered for 7.0 s")
    failed = answered(counted, None, "/metrics says 503", 5.0)
    assert evidence(failed, 12.0).endswith(", /metrics says 503")
    assert limit_s(failed, None) == LONG_STEPS_S
    assert evidence(noted(Progress(0.0), Work(1, 1), 1.0), 2.0) == (
        "1 request, an engine that counts no steps, no byte ever"
    )


SIGNS = st.lists(
    st.tuples(st.sampled_from(["byte", "step", "idle", "both"]), st.floats(0.0, LIMIT_S - 4.0)), max_size=30
)


@given(SIGNS, st.booleans())
def test_whoever_gives_a_sign_more_often_than_its_limit_never_stalls(
    signs: list[tuple[str, float]], streams: bool
) -> None:
    watch = Watch()
    watch.work = Work(2, int(streams))
    for sign, pause_s in signs:
        if sign in ("byte", "both"):
            watch.byte()
        if sign in ("step", "both"):
            watch.steps += 1
        if sign == "idle":
            work, watch.work = watch.work, Work()
            watch.pass_by(EVERY_S)
            watch.work = work

        assert not watch.pass_by(pause_s)


@given(SIGNS, st.integers(1, 9))
def test_whatever_was_before_it_silence_is_found_in_time(
    signs: list[tuple[str, float]], requests: int
) -> None:
    watch = Watch()
    watch.work = Work(requests, requests)
    for sign, pause_s in signs:
        if sign != "step":
            watch.byte()
        watch.steps += sign != "byte"
        watch.pass_by(pause_s)
    silent_s = watch.now_s

    assert watch.pass_by(LIMIT_S + 2.0)
    assert watch.now_s - silent_s <= LIMIT_S + 2.0


@given(st.floats(0.0, 100.0), st.floats(0.0, 100.0))
def test_looks_are_apart(first_s: float, pause_s: float) -> None:
    progress = answered(asked(noted(Progress(0.0), Work(1, 1), 0.0), first_s), Beat(1), "", first_s)
    now_s = first_s + pause_s

    assert not wants_look(progress, now_s) or pause_s >= max(LOOK_EVERY_S, LOOK_AFTER_S)
