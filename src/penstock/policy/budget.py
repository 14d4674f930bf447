"""What a key or a tenant may use: rates, parallel requests and money; reserved before a request, settled after it.

A request is counted against several subjects at once, all or nothing. A rate is a bucket that holds one minute's
worth and is refilled continuously. `now_s` is seconds since the epoch. A clock that steps back a little gives
nothing twice: the time that it lives through again refills nothing. One that steps back further is believed, so
that nobody is locked out for long.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import msgspec

MINUTE_S = 60.0
DAY_S = 86400.0
CLOCK_BACK_MAX_S = 60.0  # as long as a bucket takes to fill: nobody waits longer than twice that
PERIOD_BACK_MAX_S = DAY_S  # a day or month that began this far ahead of the clock is still held to
_DAY_HELD_S = DAY_S + PERIOD_BACK_MAX_S
_MONTH_HELD_S = 31 * DAY_S + PERIOD_BACK_MAX_S
DEBT_MINUTES_MAX = 60.0  # how much overuse is remembered: a wrong count from an engine locks out no longer
LIMIT_MAX = 10**12  # whole numbers stay exact in the floats of a bucket
COST_TOKENS_MAX = 10**9
COST_USD_MAX = 1e6
PARALLEL_RETRY_S = 1.0

# Less than what counts: seconds since the epoch are floats, and a wait is over a little before or after its end.
REQUEST_GRAIN = 1e-3
TOKEN_GRAIN = 0.5
USD_GRAIN = 1e-9

TOO_LARGE = "request_too_large_for_limit"
EXCEEDED = "rate_limit_exceeded"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one subject may use; None is without limit, 0 lets nothing pass.

    Args:
        requests_per_minute: also how many may come at once.
        tokens_per_minute: prompt and completion together.
        parallel_requests: from admission to the last byte.
        usd_per_day: until midnight UTC.
        usd_per_month: until the month ends in UTC.

    Raises:
        ValueError: a limit is negative, no number, or above `LIMIT_MAX`.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    parallel_requests: int | None = None
    usd_per_day: float | None = None
    usd_per_month: float | None = None
    unlimited: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        values = {name: getattr(self, name) for name in LIMIT_NAMES}
        for name, value in values.items():
            if value is not None and not 0 <= value <= LIMIT_MAX:
                raise ValueError(f"{name}: expected 0 to {LIMIT_MAX}, not {value}")
        object.__setattr__(self, "unlimited", all(value is None for value in values.values()))


LIMIT_NAMES = tuple(entry.name for entry in fields(Limits) if entry.init)
UNLIMITED = Limits()


@dataclass(frozen=True, slots=True)
class Subject:
    """Who is limited; `id` differs between keys and tenants, and within one request."""

    id: str
    limits: Limits = UNLIMITED


class Cost(msgspec.Struct, frozen=True, gc=False):
    """What a request uses, or may use at most; what is out of range is taken for the nearest in range."""

    tokens: int
    usd: float = 0.0


FREE = Cost(0, 0.0)


@dataclass(slots=True)
class Account:
    """The state of one subject. It is changed in place: a new one for each change costs half the request.

    Args:
        requests: level of the bucket; infinite means as full as it may be, below 0 is owed.
        tokens: likewise.
        at_s: until when the buckets were refilled.
        parallel: requests that are reserved and not settled.
        reserved_usd: of those.
        day_usd: spent in the day that ends at `day_ends_s`.
        month_usd: spent in the month that ends at `month_ends_s`.
    """

    requests: float = math.inf
    tokens: float = math.inf
    at_s: float = 0.0
    parallel: int = 0
    reserved_usd: float = 0.0
    day_usd: float = 0.0
    day_ends_s: float = 0.0
    month_usd: float = 0.0
    month_ends_s: float = 0.0


class Left(NamedTuple):
    """What is left of a rate: `remaining` of `limit` (0 or more), and seconds until the bucket is full."""

    limit: int
    remaining: int
    reset_s: float


class Standing(NamedTuple):
    """What is left to the tightest subject, for requests and for tokens; None where there is no limit."""

    requests: Left | None = None
    tokens: Left | None = None


UNBOUNDED = Standing()


class Granted(NamedTuple):
    """The request may go on."""

    standing: Standing


_GRANTED = Granted(UNBOUNDED)


@dataclass(frozen=True, slots=True)
class Refused:
    """The request may not go on; where several limits refuse, this is the one to wait for longest.

    Args:
        limit_name: a name in `LIMIT_NAMES`.
        retry_after_s: when there may be enough; None when that will never be.
        limit: the limit's figure.
        asked: how much of it the request needs.
    """

    subject_id: str
    limit_name: str
    retry_after_s: float | None
    standing: Standing
    limit: float = 0.0
    asked: float = 0.0

    @property
    def code(self) -> str:
        """The error code: `request_too_large_for_limit` or `rate_limit_exceeded`."""
        return TOO_LARGE if self.retry_after_s is None else EXCEEDED

    @property
    def message(self) -> str:
        """What happened, for the client."""
        limit = f"{self.limit_name} of {self.subject_id} is {self.limit:.12g}"
        if self.retry_after_s is None:
            return f"{limit}, and this request needs {self.asked:.12g}: it can never pass"
        return f"{limit}, which is used up; there may be enough in {math.ceil(self.retry_after_s)} s"

    @property
    def hint(self) -> str:
        """What the client can do."""
        if self.retry_after_s is not None:
            return "wait as long as Retry-After says"
        if self.limit_name in ("tokens_per_minute", "usd_per_day", "usd_per_month") and self.limit:
            return "lower max_tokens or shorten the prompt, or ask for a higher limit"
        return "ask for a higher limit"


@dataclass(frozen=True, slots=True)
class Balance:
    """How one subject stands, for people; `None` where there is no limit.

    `day_usd` and `month_usd` are spent; `reserved_usd` is on top of either.
    """

    subject_id: str
    parallel: int
    requests_left: int | None
    tokens_left: int | None
    reserved_usd: float
    day_usd: float
    month_usd: float


def reserve(
    accounts: Sequence[Account], subjects: Sequence[Subject], cost: Cost, now_s: float
) -> Granted | Refused:
    """Counts a request against every account, or against none where one refuses.

    Args:
        accounts: of the subjects, in their order.
        cost: the most that the request may use.
    """
    cost = bounded(cost)
    limited = False
    for account, subject in zip(accounts, subjects):  # noqa: B905 - `strict` costs as much as the check
        refresh(account, subject.limits, now_s)
        if not subject.limits.unlimited:
            limited = True
            if not _fits(account, subject.limits, cost):
                return _refusal(accounts, subjects, cost, now_s)
    for account, subject in zip(accounts, subjects):  # noqa: B905 - as above
        limits = subject.limits
        if limits.requests_per_minute is not None:
            account.requests -= 1.0
        if limits.tokens_per_minute is not None:
            account.tokens -= cost.tokens
        account.parallel += 1
        account.reserved_usd += cost.usd
    return Granted(_standing(accounts, subjects, now_s)) if limited else _GRANTED


def settle(
    accounts: Sequence[Account], subjects: Sequence[Subject], reserved: Cost, actual: Cost, now_s: float
) -> None:
    """Charges what a request that has ended did use in place of what was reserved for it.

    What it used beyond its reservation is owed, up to `DEBT_MINUTES_MAX`.
    """
    _end(accounts, subjects, bounded(reserved), bounded(actual), 0, now_s)


def release(accounts: Sequence[Account], subjects: Sequence[Subject], reserved: Cost, now_s: float) -> None:
    """Makes the accounts as though the request had never been: it was not sent to an engine."""
    _end(accounts, subjects, bounded(reserved), FREE, 1, now_s)


def seed(account: Account, day_usd: float, month_usd: float, now_s: float) -> None:
    """Takes from elsewhere that at least this much was spent in this day and month."""
    refresh(account, UNLIMITED, now_s)
    account.day_usd = max(account.day_usd, day_usd)
    account.month_usd = max(account.month_usd, month_usd)


def standing(accounts: Sequence[Account], subjects: Sequence[Subject], now_s: float) -> Standing:
    """How the subjects stand now."""
    for account, subject in zip(accounts, subjects, strict=True):
        refresh(account, subject.limits, now_s)
    return _standing(accounts, subjects, now_s)


def balance(account: Account, subject: Subject, now_s: float) -> Balance:
    """How the subject stands now, for people."""
    left = standing((account,), (subject,), now_s)
    return Balance(
        subject_id=subject.id,
        parallel=account.parallel,
        requests_left=left.requests.remaining if left.requests else None,
        tokens_left=left.tokens.remaining if left.tokens else None,
        reserved_usd=account.reserved_usd,
        day_usd=account.day_usd,
        month_usd=account.month_usd,
    )


def bounded(cost: Cost) -> Cost:
    """The cost, or the nearest one in range: engines report what they like, and a NaN is in no range."""
    if 0 <= cost.tokens <= COST_TOKENS_MAX and 0.0 <= cost.usd <= COST_USD_MAX:
        return cost
    usd = min(cost.usd, COST_USD_MAX) if cost.usd > 0.0 else 0.0
    return Cost(min(max(cost.tokens, 0), COST_TOKENS_MAX), usd)


def is_forgettable(account: Account, now_s: float) -> bool:
    """Whether a fresh account would be as good: nothing runs or was spent, and whatever was owed is refilled."""
    refilled = now_s - account.at_s > (DEBT_MINUTES_MAX + 1) * MINUTE_S
    spent = account.month_usd > 0.0 and now_s < account.month_ends_s
    return refilled and not spent and account.parallel == 0


def worth(account: Account) -> tuple[bool, bool, float]:
    """By what accounts are kept where not all can be: what runs, then what has spent, then the last used."""
    return account.parallel > 0, account.month_usd > 0.0, account.at_s


def refresh(account: Account, limits: Limits, now_s: float) -> None:
    """Brings the account to `now_s`: refills buckets, and forgets money of a day or month that is over."""
    if not limits.unlimited:
        passed_s = now_s - account.at_s
        if passed_s < 0.0:
            account.at_s = now_s if passed_s < -CLOCK_BACK_MAX_S else account.at_s
            passed_s = 0.0
        else:
            account.at_s = now_s
        most = limits.requests_per_minute
        if most is not None:
            account.requests = _refilled(account.requests, most, passed_s)
        most = limits.tokens_per_minute
        if most is not None:
            account.tokens = _refilled(account.tokens, most, passed_s)
    ends_s = account.day_ends_s
    if not ends_s - _DAY_HELD_S <= now_s < ends_s:
        account.day_usd = 0.0 if now_s >= ends_s else account.day_usd
        account.day_ends_s = (now_s // DAY_S + 1) * DAY_S
    ends_s = account.month_ends_s
    if not ends_s - _MONTH_HELD_S <= now_s < ends_s:
        account.month_usd = 0.0 if now_s >= ends_s else account.month_usd
        account.month_ends_s = month_end_s(now_s)


def month_end_s(now_s: float) -> float:
    """When the month of `now_s` ends in UTC.

    Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms" (civil_from_days, days_from_civil);
    it takes any time, where `datetime` ends with the year 9999.
    """
    era, day_of_era = divmod(int(now_s // DAY_S) + 719468, 146097)
    year = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    month_from_march = (5 * day_of_year + 2) // 153 + 1
    if month_from_march == 12:
        year, month_from_march = year + 1, 0
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * month_from_march + 2) // 5
    return (era * 146097 + days - 719468) * DAY_S


def _refilled(level: float, per_minute: int, passed_s: float) -> float:
    if level < 0.0:
        level = max(level, -DEBT_MINUTES_MAX * per_minute)
    return min(per_minute, level + passed_s * per_minute / MINUTE_S)


def _fits(account: Account, limits: Limits, cost: Cost) -> bool:
    more_usd = account.reserved_usd + cost.usd - USD_GRAIN
    return (
        (limits.requests_per_minute is None or account.requests + REQUEST_GRAIN >= 1.0)
        and (limits.tokens_per_minute is None or account.tokens + TOKEN_GRAIN >= cost.tokens)
        and (limits.parallel_requests is None or account.parallel < limits.parallel_requests)
        and (limits.usd_per_day is None or account.day_usd + more_usd <= limits.usd_per_day)
        and (limits.usd_per_month is None or account.month_usd + more_usd <= limits.usd_per_month)
    )


def _end(
    accounts: Sequence[Account],
    subjects: Sequence[Subject],
    reserved: Cost,
    actual: Cost,
    requests_back: int,
    now_s: float,
) -> None:
    tokens_back = reserved.tokens - actual.tokens
    for account, subject in zip(accounts, subjects):  # noqa: B905 - as in `reserve`
        limits = subject.limits
        refresh(account, limits, now_s)
        most = limits.requests_per_minute
        if most is not None:
            account.requests = min(most, account.requests + requests_back)
        most = limits.tokens_per_minute
        if most is not None:
            account.tokens = min(most, account.tokens + tokens_back)
        if account.parallel > 1:
            account.parallel -= 1
            account.reserved_usd = max(0.0, account.reserved_usd - reserved.usd)
        else:
            account.parallel = 0
            account.reserved_usd = 0.0  # no rounding is left over
        account.day_usd += actual.usd
        account.month_usd += actual.usd


class _Shortage(NamedTuple):
    wait_s: float
    limit_name: str
    limit: float
    asked: float


def _refusal(accounts: Sequence[Account], subjects: Sequence[Subject], cost: Cost, now_s: float) -> Refused:
    standing_now = standing(accounts, subjects, now_s)
    worst, subject_id = max(
        (
            (shortage, subject.id)
            for account, subject in zip(accounts, subjects, strict=True)
            for shortage in _shortages(account, subject.limits, cost, now_s)
        ),
        key=lambda found: found[0].wait_s,
    )
    retry_after_s = worst.wait_s if math.isfinite(worst.wait_s) else None
    return Refused(subject_id, worst.limit_name, retry_after_s, standing_now, worst.limit, worst.asked)


def _shortages(account: Account, limits: Limits, cost: Cost, now_s: float) -> Iterator[_Shortage]:
    """Each limit that refuses: the same conditions as in `_fits`, with how long to wait."""
    held_s = max(0.0, account.at_s - now_s)  # the clock stepped back: nothing is refilled before
    per_minute = limits.requests_per_minute
    if per_minute is not None and account.requests + REQUEST_GRAIN < 1.0:
        yield _rate_shortage("requests_per_minute", per_minute, 1, account.requests, held_s)
    per_minute = limits.tokens_per_minute
    if per_minute is not None and account.tokens + TOKEN_GRAIN < cost.tokens:
        yield _rate_shortage("tokens_per_minute", per_minute, cost.tokens, account.tokens, held_s)
    parallel_max = limits.parallel_requests
    if parallel_max is not None and account.parallel >= parallel_max:
        yield _Shortage(PARALLEL_RETRY_S if parallel_max else math.inf, "parallel_requests", parallel_max, 1)
    more_usd = account.reserved_usd + cost.usd - USD_GRAIN
    for name, limit, spent_usd, ends_s in (
        ("usd_per_day", limits.usd_per_day, account.day_usd, account.day_ends_s),
        ("usd_per_month", limits.usd_per_month, account.month_usd, account.month_ends_s),
    ):
        if limit is not None and spent_usd + more_usd > limit:
            never = cost.usd - USD_GRAIN > limit
            yield _Shortage(math.inf if never else ends_s - now_s, name, limit, cost.usd)


def _rate_shortage(name: str, per_minute: int, asked: int, level: float, held_s: float) -> _Shortage:
    never = asked > per_minute
    wait_s = math.inf if never else held_s + (asked - level) * MINUTE_S / per_minute
    return _Shortage(wait_s, name, per_minute, asked)


def _standing(accounts: Sequence[Account], subjects: Sequence[Subject], now_s: float) -> Standing:
    """What is left by refreshed accounts, to the tightest of them."""
    requests = tokens = None
    for account, subject in zip(accounts, subjects):  # noqa: B905 - as in `reserve`
        limits = subject.limits
        most = limits.requests_per_minute
        if most is not None and (requests is None or account.requests < requests[0].requests):
            requests = account, most
        most = limits.tokens_per_minute
        if most is not None and (tokens is None or account.tokens < tokens[0].tokens):
            tokens = account, most
    return Standing(
        _left(requests[0].requests, requests[1], REQUEST_GRAIN, requests[0].at_s - now_s)
        if requests
        else None,
        _left(tokens[0].tokens, tokens[1], TOKEN_GRAIN, tokens[0].at_s - now_s) if tokens else None,
    )


def _left(level: float, per_minute: int, grain: float, held_s: float) -> Left:
    reset_s = held_s + (per_minute - level) * MINUTE_S / per_minute if level < per_minute else 0.0
    return Left(per_minute, int(level + grain) if level > 0.0 else 0, reset_s)
