"""Accounts of keys and tenants in memory: `LocalLimits`; and `LimitStore`, what each kind of store can do.

The decisions are `policy/budget`'s; a store only keeps the accounts, for one process, one machine or many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from penstock.policy import budget
from penstock.policy.budget import Account, Balance, Cost, Refused, Standing, Subject

ACCOUNTS_MAX = 65_536  # several times the keys and tenants that a home may hold
SWEEP_FROM = 1024


class Reservation(msgspec.Struct, eq=False):
    """What a request may use: to be settled or released once, by the store that gave it.

    Args:
        cost: what was reserved of each subject.
        standing: how the subjects stood after it.
        lease: the store's own mark.
        ended: it was settled or released.
    """

    subjects: Sequence[Subject]
    cost: Cost
    standing: Standing
    lease: str = ""
    ended: bool = False


class LimitStore(Protocol):
    """Keeps accounts. No method raises for a subject that it has not seen, or because it is out of reach."""

    async def reserve(self, subjects: Sequence[Subject], cost: Cost) -> Reservation | Refused:
        """Counts a request against every subject, or against none."""

    async def settle(self, reservation: Reservation, actual: Cost) -> None:
        """Charges what was used in place of what was reserved; nothing when it has ended already."""

    async def release(self, reservation: Reservation) -> None:
        """Gives back a request that was not sent to an engine; nothing when it has ended already."""

    async def standing(self, subjects: Sequence[Subject]) -> Standing:
        """What is left to the tightest of the subjects."""

    async def usage(self, subjects: Sequence[Subject]) -> tuple[Balance, ...]:
        """How each subject stands, in their order."""

    async def seed_spend(self, subject_id: str, day_usd: float, month_usd: float) -> None:
        """Takes from the ledger that at least this much was spent in this day and month (UTC)."""

    async def close(self) -> None:
        """Gives back what the store holds of the system."""


class LocalLimits:
    """Accounts of this process.

    Args:
        clock: seconds since the epoch.
        accounts_max: from there on the accounts that are worth least are forgotten.
    """

    def __init__(self, clock: Callable[[], float], *, accounts_max: int = ACCOUNTS_MAX) -> None:
        self._clock = clock
        self._accounts_max = accounts_max
        self._sweep_at = min(SWEEP_FROM, accounts_max)
        self._accounts: dict[str, Account] = {}

    def __len__(self) -> int:
        return len(self._accounts)

    async def reserve(self, subjects: Sequence[Subject], cost: Cost) -> Reservation | Refused:
        """Counts a request against every subject, or against none."""
        if len(self._accounts) >= self._sweep_at:
            self._sweep()
        accounts = [self._account(subject.id) for subject in subjects]
        verdict = budget.reserve(accounts, subjects, cost, self._clock())
        if isinstance(verdict, Refused):
            return verdict
        return Reservation(subjects, cost, verdict.standing)

    async def settle(self, reservation: Reservation, actual: Cost) -> None:
        """Charges what was used in place of what was reserved; nothing when it has ended already."""
        if reservation.ended:
            return
        reservation.ended = True
        accounts = [self._account(subject.id) for subject in reservation.subjects]
        budget.settle(accounts, reservation.subjects, reservation.cost, actual, self._clock())

    async def release(self, reservation: Reservation) -> None:
        """Gives back a request that was not sent to an engine; nothing when it has ended already."""
        if reservation.ended:
            return
        reservation.ended = True
        accounts = [self._account(subject.id) for subject in reservation.subjects]
        budget.release(accounts, reservation.subjects, reservation.cost, self._clock())

    async def standing(self, subjects: Sequence[Subject]) -> Standing:
        """What is left to the tightest of the subjects."""
        accounts = [self._accounts.get(subject.id) or Account() for subject in subjects]
        return budget.standing(accounts, subjects, self._clock())

    async def usage(self, subjects: Sequence[Subject]) -> tuple[Balance, ...]:
        """How each subject stands, in their order."""
        now_s = self._clock()
        return tuple(
            budget.balance(self._accounts.get(subject.id) or Account(), subject, now_s)
            for subject in subjects
        )

    async def seed_spend(self, subject_id: str, day_usd: float, month_usd: float) -> None:
        """Takes from the ledger that at least this much was spent in this day and month (UTC)."""
        if len(self._accounts) >= self._sweep_at:
            self._sweep()
        budget.seed(self._account(subject_id), day_usd, month_usd, self._clock())

    async def close(self) -> None:
        """Nothing: the accounts end with the process."""

    def _account(self, subject_id: str) -> Account:
        account = self._accounts.get(subject_id)
        if account is None:
            account = self._accounts[subject_id] = Account()
        return account

    def _sweep(self) -> None:
        """Forgets accounts that are as good as fresh; the next sweep is due at twice what is left.

        Where more than half of `accounts_max` are left, those worth most are kept.
        """
        now_s = self._clock()
        kept = {name: it for name, it in self._accounts.items() if not budget.is_forgettable(it, now_s)}
        half = self._accounts_max // 2
        if len(kept) > half:
            by_worth = sorted(kept.items(), key=lambda item: budget.worth(item[1]))
            kept = dict(by_worth[len(kept) - half :])
        self._accounts = kept
        self._sweep_at = min(max(SWEEP_FROM, 2 * len(kept)), self._accounts_max)
