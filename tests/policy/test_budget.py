"""What keys and tenants may use: no limit is passed together, nothing is lost, whatever the clock does."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.policy import budget
from penstock.policy.budget import FREE, Account, Cost, Granted, Left, Limits, Refused, Standing, Subject

NOW_S = datetime(2026, 5, 20, 12, tzinfo=UTC).timestamp()
DAY_S = 86400.0


def subject(name: str = "key", **limits: float) -> Subject:
    """A subject with these limits."""
    return Subject(name, Limits(**limits))


def reserve(account: Account, who: Subject, cost: Cost = FREE, now_s: float = NOW_S) -> Granted | Refused:
    """The verdict on one request of one subject."""
    return budget.reserve((account,), (who,), cost, now_s)


def passes(account: Account, who: Subject, cost: Cost = FREE, now_s: float = NOW_S) -> bool:
    """Whether a request is granted."""
    return isinstance(reserve(account, who, cost, now_s), Granted)


def refusal(account: Account, who: Subject, cost: Cost = FREE, now_s: float = NOW_S) -> Refused:
    """The refusal of a request, which is expected."""
    verdict = reserve(account, who, cost, now_s)
    assert isinstance(verdict, Refused)
    return verdict


def test_a_minute_s_worth_passes_at_once_and_the_next_when_one_is_refilled() -> None:
    account, who = Account(), subject(requests_per_minute=6)

    passed = [passes(account, who) for _ in range(7)]

    assert passed == [True] * 6 + [False]
    assert refusal(account, who).retry_after_s == pytest.approx(10.0)
    assert not passes(account, who, now_s=NOW_S + 9.9)
    assert passes(account, who, now_s=NOW_S + 10.0)


def test_tokens_that_were_reserved_and_not_used_are_given_back() -> None:
    account, who = Account(), subject(tokens_per_minute=1000)
    assert passes(account, who, Cost(900))
    assert not passes(account, who, Cost(200))

    budget.settle((account,), (who,), Cost(900), Cost(100), NOW_S)

    assert account.tokens == 900
    assert passes(account, who, Cost(900))


def test_overuse_is_owed_and_delays_the_next() -> None:
    account, who = Account(), subject(tokens_per_minute=600)
    assert passes(account, who, Cost(100))

    budget.settle((account,), (who,), Cost(100), Cost(1200), NOW_S)

    assert account.tokens == -600
    assert refusal(account, who, Cost(100)).retry_after_s == pytest.approx(70.0)
    assert refusal(account, who, Cost(100)).standing.tokens == Left(600, 0, 120.0)


@pytest.mark.parametrize("end", ["settle", "release"])
def test_what_is_given_back_to_a_full_bucket_is_lost(end: str) -> None:
    account, who = Account(), subject(requests_per_minute=5, tokens_per_minute=100)
    assert passes(account, who, Cost(90))
    budget.refresh(account, who.limits, NOW_S + 60)

    costs = (Cost(90), FREE) if end == "settle" else (Cost(90),)
    getattr(budget, end)((account,), (who,), *costs, NOW_S + 60)

    assert (account.requests, account.tokens) == (5, 100)


@pytest.mark.parametrize("per_minute", [1, 3, 7, 11, 13, 59, 601])
def test_a_wait_is_over_when_it_was_said_to_be(per_minute: int) -> None:
    account, who, now_s = Account(), subject(requests_per_minute=per_minute), NOW_S + 0.123
    while passes(account, who, now_s=now_s):
        pass

    for _ in range(50):
        now_s += refusal(account, who, now_s=now_s).retry_after_s or 0.0
        assert passes(account, who, now_s=now_s)


@pytest.mark.parametrize(
    ("cost", "bounded"),
    [
        (Cost(5, 0.5), Cost(5, 0.5)),
        (Cost(-1, -0.5), Cost(0, 0.0)),
        (Cost(0, math.nan), Cost(0, 0.0)),
        (Cost(10**18, math.inf), Cost(10**9, 1e6)),
    ],
)
def test_a_cost_out_of_range_is_taken_for_the_nearest_in_range(cost: Cost, bounded: Cost) -> None:
    assert budget.bounded(cost) == bounded


def test_a_wrong_count_of_an_engine_locks_nobody_out_for_more_than_an_hour() -> None:
    account, who = Account(), subject(tokens_per_minute=60)
    assert passes(account, who, Cost(1))

    budget.settle((account,), (who,), Cost(1), Cost(10**18, math.nan), NOW_S)

    assert not passes(account, who, Cost(1), NOW_S + 3590)
    assert passes(account, who, Cost(1), NOW_S + 3602)


def test_a_released_request_was_never_there() -> None:
    account = Account()
    who = subject(requests_per_minute=5, tokens_per_minute=99, parallel_requests=1, usd_per_day=1.0)
    assert passes(account, who, Cost(50, 0.5))

    budget.release((account,), (who,), Cost(50, 0.5), NOW_S)

    assert (account.requests, account.tokens, account.parallel) == (5, 99, 0)
    assert (account.reserved_usd, account.day_usd) == (0.0, 0.0)


def test_parallel_requests_are_counted_until_they_end() -> None:
    account, who = Account(), subject(parallel_requests=2)
    assert [passes(account, who) for _ in range(3)] == [True, True, False]
    refused = refusal(account, who)

    budget.settle((account,), (who,), FREE, FREE, NOW_S)

    assert (refused.limit_name, refused.retry_after_s) == ("parallel_requests", 1.0)
    assert passes(account, who)


def test_money_counts_as_spent_while_it_is_reserved() -> None:
    account, who = Account(), subject(usd_per_day=1.0)
    assert passes(account, who, Cost(0, 0.6))

    refused = refusal(account, who, Cost(0, 0.6))

    assert (refused.limit_name, refused.retry_after_s) == ("usd_per_day", DAY_S / 2)


def test_ten_times_a_tenth_fits_into_one() -> None:
    account, who = Account(), subject(usd_per_day=1.0, usd_per_month=0.3)
    account_of_day, day = Account(), subject(usd_per_day=1.0)

    assert [passes(account, who, Cost(0, 0.1)) for _ in range(4)] == [True] * 3 + [False]
    assert [passes(account_of_day, day, Cost(0, 0.1)) for _ in range(11)] == [True] * 10 + [False]


def test_a_new_day_has_its_own_money_and_what_still_runs_is_counted_in_it() -> None:
    account, who = Account(), subject(usd_per_day=1.0)
    assert passes(account, who, Cost(0, 0.5))
    budget.settle((account,), (who,), Cost(0, 0.5), Cost(0, 0.5), NOW_S)
    assert passes(account, who, Cost(0, 0.4))

    tomorrow_s = NOW_S + DAY_S / 2

    assert passes(account, who, Cost(0, 0.6), tomorrow_s)
    assert not passes(account, who, Cost(0, 0.1), tomorrow_s)
    budget.settle((account,), (who,), Cost(0, 0.4), Cost(0, 0.3), tomorrow_s)
    assert (account.day_usd, account.month_usd) == (0.3, 0.8)
    assert account.reserved_usd == pytest.approx(0.6)


def test_a_month_s_money_is_back_when_the_month_ends() -> None:
    account, who = Account(), subject(usd_per_month=1.0)
    budget.seed(account, 1.0, 1.0, NOW_S)

    refused = refusal(account, who, Cost(0, 0.1))

    june_s = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
    assert refused.retry_after_s == june_s - NOW_S
    assert not passes(account, who, Cost(0, 0.1), june_s - 1)
    assert passes(account, who, Cost(0, 0.1), june_s)


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 11, 30)))
def test_a_month_ends_where_the_calendar_says(moment: datetime) -> None:
    year, month = (moment.year, moment.month + 1) if moment.month < 12 else (moment.year + 1, 1)

    ends_s = budget.month_end_s(moment.replace(tzinfo=UTC).timestamp())

    assert ends_s == datetime(year, month, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("limits", "cost", "name"),
    [
        ({"tokens_per_minute": 100}, Cost(101), "tokens_per_minute"),
        ({"tokens_per_minute": 10**9}, Cost(10**12), "parallel_requests"),
        ({"requests_per_minute": 0}, FREE, "requests_per_minute"),
        ({"tokens_per_minute": 0}, Cost(1), "tokens_per_minute"),
        ({"parallel_requests": 0}, FREE, "parallel_requests"),
        ({"usd_per_day": 0.0}, Cost(1, 0.1), "usd_per_day"),
        ({"usd_per_month": 1.0}, Cost(1, 1.1), "usd_per_month"),
    ],
)
def test_what_can_never_pass_is_told_so_and_not_to_wait(
    limits: dict[str, float], cost: Cost, name: str
) -> None:
    if name not in limits:
        limits = {**limits, name: 0}  # the cost is taken for the largest in range, which this rate allows

    refused = refusal(Account(), subject(**limits), cost)

    assert (refused.limit_name, refused.retry_after_s) == (name, None)
    assert refused.code == "request_too_large_for_limit"
    assert "can never pass" in refused.message
    assert f"{name} of key is {limits[name]:g}" in refused.message
    assert "limit" in refused.hint


def test_a_refusal_says_which_limit_of_whom_and_how_long() -> None:
    account, who = Account(), subject("tenant:a", requests_per_minute=1)
    assert passes(account, who)

    refused = refusal(account, who, now_s=NOW_S + 0.5)

    assert (refused.subject_id, refused.code) == ("tenant:a", "rate_limit_exceeded")
    assert refused.message == (
        "requests_per_minute of tenant:a is 1, which is used up; there may be enough in 60 s"
    )
    assert refused.hint == "wait as long as Retry-After says"


def test_of_several_refusals_the_longest_wait_is_told() -> None:
    subjects = (subject("key", requests_per_minute=60), subject("tenant", requests_per_minute=6))
    accounts = (Account(requests=0, at_s=NOW_S), Account(requests=0, at_s=NOW_S))

    refused = budget.reserve(accounts, subjects, FREE, NOW_S)

    assert isinstance(refused, Refused)
    assert (refused.subject_id, refused.retry_after_s) == ("tenant", pytest.approx(10.0))


def test_a_request_that_one_subject_refuses_is_counted_against_none() -> None:
    subjects = (subject("key", requests_per_minute=9), subject("tenant", parallel_requests=0))
    accounts = (Account(), Account())

    budget.reserve(accounts, subjects, Cost(5, 0.1), NOW_S)

    assert (accounts[0].requests, accounts[0].parallel, accounts[0].reserved_usd) == (9, 0, 0.0)


def test_the_standing_is_that_of_the_tightest_subject() -> None:
    subjects = (
        subject("key", requests_per_minute=100, tokens_per_minute=600),
        subject("tenant", requests_per_minute=60, tokens_per_minute=6000),
        subject("other"),
    )

    verdict = budget.reserve((Account(), Account(), Account()), subjects, Cost(300), NOW_S)

    assert verdict == Granted(
        Standing(Left(60, 59, pytest.approx(1.0)), Left(600, 300, pytest.approx(30.0)))  # type: ignore[arg-type]
    )


def test_a_full_bucket_is_full_whatever_the_clock_says() -> None:
    account, who = Account(), subject(requests_per_minute=5, tokens_per_minute=0)
    assert passes(account, who)

    left = [budget.standing((account,), (who,), now_s) for now_s in (NOW_S + 60, NOW_S + 30)]

    assert left == [Standing(Left(5, 5, 0.0), Left(0, 0, 0.0))] * 2


def test_nothing_is_told_of_what_is_not_limited() -> None:
    verdict = budget.reserve((Account(), Account()), (subject("key"), subject("b")), Cost(9), NOW_S)

    assert verdict == Granted(Standing(None, None))


def test_subjects_without_limits_are_counted_too() -> None:
    account, who = Account(), subject()
    assert passes(account, who, Cost(10, 0.5))
    running = budget.balance(account, who, NOW_S)

    budget.settle((account,), (who,), Cost(10, 0.5), Cost(8, 0.4), NOW_S)

    assert running == budget.Balance("key", 1, None, None, 0.5, 0.0, 0.0)
    assert budget.balance(account, who, NOW_S) == budget.Balance("key", 0, None, None, 0.0, 0.4, 0.4)


def test_a_balance_tells_what_is_left() -> None:
    account, who = Account(), subject(requests_per_minute=5, tokens_per_minute=100)
    assert passes(account, who, Cost(40))

    assert budget.balance(account, who, NOW_S) == budget.Balance("key", 1, 4, 60, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("value", [-1, 10**12 + 1, math.nan, math.inf])
def test_a_limit_out_of_range_is_refused_by_name(value: float) -> None:
    with pytest.raises(ValueError, match="usd_per_day: expected 0 to"):
        Limits(usd_per_day=value)


def test_a_limit_that_is_lowered_holds_at_once_and_locks_nobody_out() -> None:
    account = Account()
    assert passes(account, subject(tokens_per_minute=10**6), Cost(10**6))
    budget.settle((account,), (subject(),), Cost(10**6), Cost(10**6), NOW_S)
    account.tokens = -(10.0**6)

    lower = subject(tokens_per_minute=60)

    assert not passes(account, lower, Cost(1))
    assert passes(account, lower, Cost(60), NOW_S + 3661)
    assert not passes(account, lower, Cost(60), NOW_S + 3661)


def test_a_limit_that_is_taken_away_and_set_again_counts_nothing_from_between() -> None:
    account = Account()
    assert passes(account, subject(requests_per_minute=10))
    for _ in range(100):
        assert passes(account, subject(tokens_per_minute=10**6))

    assert passes(account, subject(requests_per_minute=10))


def test_a_clock_that_steps_back_a_little_refills_nothing_twice() -> None:
    account, who = Account(), subject(requests_per_minute=60)
    assert all(passes(account, who) for _ in range(60))

    passed = sum(passes(account, who, now_s=NOW_S - step_s) for step_s in (60, 0, 30, 0, 59, 0))

    assert passed == 0
    refused = refusal(account, who, now_s=NOW_S - 30)
    assert refused.retry_after_s == pytest.approx(31.0)
    assert refused.standing.requests == Left(60, 0, 90.0)
    assert passes(account, who, now_s=NOW_S + 1)


@given(back_s=st.floats(0, NOW_S), wait_s=st.just(121.0))
def test_a_clock_that_steps_back_locks_nobody_out_for_long(back_s: float, wait_s: float) -> None:
    account, who = Account(), subject(requests_per_minute=5, tokens_per_minute=50)
    assert all(passes(account, who, Cost(10)) for _ in range(5))

    passes(account, who, Cost(50), NOW_S - back_s)

    assert passes(account, who, Cost(50), NOW_S - back_s + wait_s)


def test_a_clock_that_steps_back_over_midnight_does_not_give_the_day_s_money_again() -> None:
    account, who = Account(), subject(usd_per_day=1.0)
    midnight_s = NOW_S + DAY_S / 2
    for now_s in (midnight_s - 1, midnight_s + 1):
        assert passes(account, who, Cost(0, 1.0), now_s)
        budget.settle((account,), (who,), Cost(0, 1.0), Cost(0, 1.0), now_s)

    passed = [passes(account, who, Cost(0, 0.1), midnight_s + step_s) for step_s in (-1, 2, -3600, 3)]

    assert passed == [False] * 4


def test_a_clock_that_was_years_ahead_keeps_the_money_but_not_its_date() -> None:
    account, who = Account(), subject(usd_per_day=1.0, usd_per_month=5.0)
    budget.seed(account, 1.0, 5.0, NOW_S + 2000 * DAY_S)

    refused = refusal(account, who, Cost(0, 0.1))

    assert (account.day_usd, account.month_usd) == (1.0, 5.0)
    assert (refused.limit_name, refused.retry_after_s) == ("usd_per_month", 11.5 * DAY_S)
    assert passes(account, who, Cost(0, 0.1), NOW_S + 11.5 * DAY_S)


def test_money_known_from_elsewhere_is_not_counted_twice() -> None:
    account = Account()
    budget.seed(account, 0.5, 3.0, NOW_S)

    budget.seed(account, 0.4, 4.0, NOW_S)

    assert (account.day_usd, account.month_usd) == (0.5, 4.0)


def test_an_account_is_forgotten_only_when_a_fresh_one_is_as_good() -> None:
    who = subject(requests_per_minute=5)
    ran, runs, paid = Account(), Account(), Account()
    for account in (ran, runs):
        assert passes(account, who)
    budget.release((ran,), (who,), FREE, NOW_S)
    budget.seed(paid, 0.0, 1.0, NOW_S)
    later_s, next_month_s = NOW_S + 3700, NOW_S + 31 * DAY_S

    forgettable = [
        [budget.is_forgettable(account, now_s) for account in (ran, runs, paid)]
        for now_s in (NOW_S, later_s, next_month_s)
    ]

    assert forgettable == [[False] * 3, [True, False, False], [True, False, True]]


LIMITS = st.builds(
    Limits,
    requests_per_minute=st.none() | st.integers(0, 20),
    tokens_per_minute=st.none() | st.integers(0, 2000),
    parallel_requests=st.none() | st.integers(0, 4),
    usd_per_day=st.none() | st.floats(0, 2),
    usd_per_month=st.none() | st.floats(0, 3),
)
COSTS = st.builds(Cost, st.integers(0, 500), st.floats(0, 0.5))
WHO = st.sampled_from([(0,), (1,), (0, 1), (1, 2), (0, 2)])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), WHO, COSTS),
        st.tuples(st.just("settle"), st.integers(0, 9), COSTS),
        st.tuples(st.just("release"), st.integers(0, 9)),
        st.tuples(st.just("ahead"), st.floats(0, 40)),
        st.tuples(st.just("back"), st.floats(0, 60)),
    ),
    max_size=60,
)


class _Ledger:
    """What was granted, counted apart from the accounts."""

    def __init__(self, subjects: list[Subject]) -> None:
        self.subjects = subjects
        self.accounts = [Account() for _ in subjects]
        self.running: list[tuple[tuple[int, ...], Cost]] = []
        self.requests = [0 for _ in subjects]
        self.tokens = [0 for _ in subjects]
        self.usd = [0.0 for _ in subjects]
        self.overuse = Cost(0, 0.0)

    def reserve(self, who: tuple[int, ...], cost: Cost, now_s: float) -> None:
        verdict = budget.reserve(*self.of(who), cost, now_s)
        if isinstance(verdict, Granted):
            self.running.append((who, cost))
            self.count(who, 1, cost.tokens, cost.usd)
            return
        wait_s = verdict.retry_after_s
        assert verdict.limit_name in budget.LIMIT_NAMES
        assert wait_s is None or wait_s > 0.0

    def settle(self, turn: int, actual: Cost, now_s: float) -> None:
        if self.running:
            who, cost = self.running.pop(turn % len(self.running))
            budget.settle(*self.of(who), cost, actual, now_s)
            self.count(who, 0, actual.tokens - cost.tokens, actual.usd - cost.usd)
            self.overuse = Cost(
                self.overuse.tokens + max(0, actual.tokens - cost.tokens),
                self.overuse.usd + max(0.0, actual.usd - cost.usd),
            )

    def release(self, turn: int, now_s: float) -> None:
        if self.running:
            who, cost = self.running.pop(turn % len(self.running))
            budget.release(*self.of(who), cost, now_s)
            self.count(who, -1, -cost.tokens, -cost.usd)

    def count(self, who: tuple[int, ...], requests: int, tokens: int, usd: float) -> None:
        for at in who:
            self.requests[at] += requests
            self.tokens[at] += tokens
            self.usd[at] += usd

    def of(self, who: tuple[int, ...]) -> tuple[list[Account], list[Subject]]:
        return [self.accounts[at] for at in who], [self.subjects[at] for at in who]

    def check(self, passed_s: float) -> None:
        """Nothing passed a limit in `passed_s` seconds, and nothing that runs was lost."""
        for at, (subject, account) in enumerate(zip(self.subjects, self.accounts, strict=True)):
            limits = subject.limits
            running = [cost for who, cost in self.running if at in who]
            minutes = 1 + passed_s / 60
            assert account.parallel == len(running)
            assert account.reserved_usd == pytest.approx(sum(cost.usd for cost in running), abs=1e-9)
            assert account.day_usd + account.reserved_usd == pytest.approx(self.usd[at], abs=1e-9)
            if limits.requests_per_minute is not None:
                assert self.requests[at] <= limits.requests_per_minute * minutes + 0.01
            if limits.tokens_per_minute is not None:
                most = limits.tokens_per_minute * minutes + self.overuse.tokens
                assert self.tokens[at] <= most + 1
            if limits.parallel_requests is not None:
                assert len(running) <= limits.parallel_requests
            for usd in (limits.usd_per_day, limits.usd_per_month):
                assert usd is None or self.usd[at] <= usd + self.overuse.usd + 1e-6


@given(st.lists(LIMITS, min_size=3, max_size=3), STEPS)
def test_no_interleaving_of_requests_passes_a_limit_or_loses_anything(
    limits: list[Limits], steps: list[tuple[object, ...]]
) -> None:
    ledger = _Ledger([Subject(str(at), entry) for at, entry in enumerate(limits)])
    now_s = latest_s = NOW_S

    for name, *args in steps:
        if name in ("ahead", "back"):
            now_s = max(NOW_S, latest_s - 60.0, now_s + (args[0] if name == "ahead" else -args[0]))  # type: ignore[operator]
            latest_s = max(latest_s, now_s)
        else:
            getattr(ledger, str(name))(*args, now_s)
        ledger.check(latest_s - NOW_S)

    for _ in range(len(ledger.running)):
        ledger.release(0, now_s)
    ledger.check(latest_s - NOW_S)
    for subject, account in zip(ledger.subjects, ledger.accounts, strict=True):
        budget.refresh(account, subject.limits, latest_s + 3700)
        assert account.requests in (math.inf, subject.limits.requests_per_minute)
        assert account.tokens in (math.inf, subject.limits.tokens_per_minute)


@given(LIMITS, st.lists(COSTS, max_size=20), st.floats(0, 30))
def test_whoever_waits_as_told_finds_room(limits: Limits, costs: list[Cost], every_s: float) -> None:
    account, who, now_s = Account(), Subject("key", limits), NOW_S

    for cost in costs:
        verdict = reserve(account, who, cost, now_s)
        if isinstance(verdict, Refused) and verdict.retry_after_s is not None:
            now_s += verdict.retry_after_s
            again = reserve(account, who, cost, now_s)
            assert isinstance(again, Granted) or again.limit_name in ("parallel_requests", "usd_per_month")
            verdict = again
        if isinstance(verdict, Granted):
            budget.settle((account,), (who,), cost, cost, now_s)
        now_s += every_s


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=30), st.integers(1, 30))
def test_no_step_of_the_clock_fills_a_bucket_beyond_its_size(steps_s: list[float], per_minute: int) -> None:
    account, who, now_s = Account(), subject(requests_per_minute=per_minute), NOW_S

    for step_s in steps_s:
        now_s = max(0.0, now_s + step_s)
        reserve(account, who, now_s=now_s)
        left = budget.standing((account,), (who,), now_s).requests
        assert left is not None
        assert 0 <= left.remaining <= per_minute
        assert 0.0 <= left.reset_s <= 121.0


def test_month_ends_follow_each_other_over_centuries() -> None:
    ends_s = [0.0]
    while ends_s[-1] < 500 * 366 * DAY_S:
        ends_s.append(budget.month_end_s(ends_s[-1]))

    assert {round((later - earlier) / DAY_S) for earlier, later in pairwise(ends_s)} == {28, 29, 30, 31}
