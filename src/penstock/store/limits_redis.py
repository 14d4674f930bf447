"""Accounts of many machines: `RedisLimits` keeps them in Redis, and falls back to another store without it.

One script for each operation, atomic over all subjects. A request that runs holds a lease, which its gateway
renews: those of a gateway that was killed run out. What ends while Redis is away is told to it when it is back.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable, Sequence

from redis.asyncio import Redis, RedisCluster

from penstock.policy import budget
from penstock.policy.budget import Account, Balance, Cost, Granted, Refused, Standing, Subject
from penstock.store import limits_lua
from penstock.store.limits import LimitStore, Reservation
from penstock.store.redis_link import AwayError, Command, RedisLink, Script

LEASE_S = 60.0
RENEWALS = 3  # of a lease before it runs out
LEASES_AT_ONCE = 500
SUBJECTS_AT_ONCE = 100
SUBJECTS_MAX = 65_536  # whose money is remembered while Redis is away
_LEASE = "redis:"


class RedisLimits:
    """Accounts in Redis, shared by all gateways with the same `prefix`.

    Requests whose subjects have no limit at all are counted by the fallback, and cost Redis nothing.

    Args:
        client_or_url: `redis://`, `rediss://` or `unix://`; a client that is passed in is not closed.
        prefix: begins every key, as its hash tag: a script touches several keys, which a cluster keeps together
            only so.
        clock: seconds since the epoch; tells which remembered money is of a day that is over.
        fallback: decides while Redis is away.
        timeout_s: the longest that a request waits.
        on_state: told once for each change: False and why, or True and nothing. After True, whoever has the
            ledger should call `seed_spend`, for Redis may have lost what it knew.
        lease_s: after which the requests of a killed gateway no longer count.
        server_time: decide by the clock of Redis, so that gateways whose clocks differ keep one limit; False is
            for tests, which have time in their hands.
    """

    def __init__(
        self,
        client_or_url: Redis | RedisCluster | str,
        prefix: str,
        clock: Callable[[], float],
        fallback: LimitStore,
        timeout_s: float = 0.05,
        on_state: Callable[[bool, str], None] = lambda _up, _why: None,
        *,
        lease_s: float = LEASE_S,
        server_time: bool = True,
    ) -> None:
        self._prefix = f"{{{prefix}}}:limits:"
        self._clock = clock
        self._fallback = fallback
        self._on_state = on_state
        self._lease_s = lease_s
        self._server_time = server_time
        self._name = f"{_LEASE}{secrets.token_hex(8)}"
        self._numbers = itertools.count()
        self._held: dict[str, Reservation] = {}
        self._owed_usd: dict[str, float] = {}
        self._spent: dict[str, Account] = {}
        self._renewer: asyncio.Task[None] | None = None
        self._link = RedisLink(
            client_or_url,
            scripts=limits_lua.ALL,
            probe=self._command(limits_lua.SPEND, (Subject("probe"),), ["0", "0", "0"]),
            timeout_s=timeout_s,
            on_state=self._changed,
        )

    @property
    def up(self) -> bool:
        """Whether Redis decides, and not the fallback."""
        return self._link.up

    async def start(self) -> None:
        """Connects; where that fails, the fallback decides from the first request on."""
        await self._link.start()

    async def reserve(self, subjects: Sequence[Subject], cost: Cost) -> Reservation | Refused:
        """Counts a request against every subject, or against none."""
        if not self._link.up or all(subject.limits.unlimited for subject in subjects):
            return await self._reserve_without(subjects, cost)
        cost = budget.bounded(cost)
        lease = f"{self._name}:{next(self._numbers)}|{cost.usd:.17g}"
        args = [lease, str(cost.tokens), f"{cost.usd:.17g}", *_limits_of(subjects)]
        undo = self._end_command(subjects, lease, 1, cost.tokens, 0.0).repair
        try:
            reply = await self._link.call(self._command(limits_lua.RESERVE, subjects, args, repair=undo))
        except AwayError:
            return await self._reserve_without(subjects, cost)
        granted, now_s, accounts = reply[0], float(reply[1]), [_account(told) for told in reply[2:]]
        self._remember(subjects, accounts)
        verdict = budget.reserve(accounts, subjects, cost, now_s)
        assert bool(granted) is isinstance(verdict, Granted), "the script and policy/budget disagree"
        if isinstance(verdict, Refused):
            return verdict
        reservation = Reservation(subjects, cost, verdict.standing, lease)
        self._held[lease] = reservation
        if self._renewer is None:
            self._renewer = asyncio.get_running_loop().create_task(self._keep_renewing())
        return reservation

    async def settle(self, reservation: Reservation, actual: Cost) -> None:
        """Charges what was used in place of what was reserved; nothing when it has ended already.

        Redis is told without waiting for it.
        """
        if reservation.ended:
            return
        actual = budget.bounded(actual)
        if reservation.lease.startswith(_LEASE):
            self._end(reservation, 0, reservation.cost.tokens - actual.tokens, actual.usd)
            return
        await self._fallback.settle(reservation, actual)
        if actual.usd and not all(subject.limits.unlimited for subject in reservation.subjects):
            self._owe(reservation.subjects, actual.usd)

    async def release(self, reservation: Reservation) -> None:
        """Gives back a request that was not sent to an engine; nothing when it has ended already."""
        if reservation.ended:
            return
        if reservation.lease.startswith(_LEASE):
            self._end(reservation, 1, reservation.cost.tokens, 0.0)
        else:
            await self._fallback.release(reservation)

    async def standing(self, subjects: Sequence[Subject]) -> Standing:
        """What is left to the tightest of the subjects."""
        try:
            now_s, accounts = await self._read(subjects)
        except AwayError:
            return await self._fallback.standing(subjects)
        return budget.standing(accounts, subjects, now_s)

    async def usage(self, subjects: Sequence[Subject]) -> tuple[Balance, ...]:
        """How each subject stands, in their order; one without limits as far as the fallback knows."""
        here = await self._fallback.usage(subjects)
        found: list[Balance] = []
        try:
            for first in range(0, len(subjects), SUBJECTS_AT_ONCE):
                some = subjects[first : first + SUBJECTS_AT_ONCE]
                now_s, accounts = await self._read(some)
                found += (
                    budget.balance(account, subject, now_s)
                    for account, subject in zip(accounts, some, strict=True)
                )
        except AwayError:
            return here
        return tuple(
            mine if subject.limits.unlimited else balance
            for balance, subject, mine in zip(found, subjects, here, strict=True)
        )

    async def seed_spend(self, subject_id: str, day_usd: float, month_usd: float) -> None:
        """Takes from the ledger that at least this much was spent in this day and month (UTC)."""
        await self._fallback.seed_spend(subject_id, day_usd, month_usd)
        self._spend(subject_id, day_usd, month_usd, 0.0)

    async def renew(self) -> None:
        """Renews the leases of all requests that run; the store does so by itself."""
        by_subject: dict[str, list[Reservation]] = {}
        for reservation in self._held.values():
            for subject in reservation.subjects:
                by_subject.setdefault(subject.id, []).append(reservation)
        for subject_id, reservations in by_subject.items():
            for first in range(0, len(reservations), LEASES_AT_ONCE):
                leases = [it.lease for it in reservations[first : first + LEASES_AT_ONCE]]
                self._link.post(self._command(limits_lua.RENEW, (Subject(subject_id),), leases))

    async def close(self) -> None:
        """Tells Redis what it was not told yet, closes the connection, and the fallback."""
        if self._renewer is not None:
            self._renewer.cancel()
            await asyncio.wait((self._renewer,))
        await self._link.close()
        await self._fallback.close()

    async def _reserve_without(self, subjects: Sequence[Subject], cost: Cost) -> Reservation | Refused:
        """Asks the fallback, once it knows what Redis last said of the subjects' money."""
        for subject in subjects:
            account = self._spent.pop(subject.id, None)
            if account is not None:
                now_s = self._clock()
                await self._fallback.seed_spend(
                    subject.id,
                    account.day_usd if now_s < account.day_ends_s else 0.0,
                    account.month_usd if now_s < account.month_ends_s else 0.0,
                )
        return await self._fallback.reserve(subjects, cost)

    def _remember(self, subjects: Sequence[Subject], accounts: Sequence[Account]) -> None:
        for subject, account in zip(subjects, accounts, strict=True):
            if account.month_usd and (subject.id in self._spent or len(self._spent) < SUBJECTS_MAX):
                self._spent[subject.id] = account

    def _end(self, reservation: Reservation, requests_back: int, tokens_back: int, usd: float) -> None:
        reservation.ended = True
        self._held.pop(reservation.lease, None)
        subjects = reservation.subjects
        end = self._end_command(subjects, reservation.lease, requests_back, tokens_back, usd)
        if not self._link.post(end):
            self._owe(subjects, usd)

    def _end_command(
        self, subjects: Sequence[Subject], lease: str, requests_back: int, tokens_back: int, usd: float
    ) -> Command:
        """The end of a request; where it is in doubt, it is ended if its lease shows that it was not."""
        args = [str(requests_back), str(tokens_back), f"{usd:.17g}", *_limits_of(subjects)]
        if_held = self._command(limits_lua.END, subjects, [lease, "1", *args], repeatable=True)
        return self._command(limits_lua.END, subjects, [lease, "0", *args], repair=if_held)

    def _owe(self, subjects: Sequence[Subject], usd: float) -> None:
        """Charges money to accounts in Redis that hold no lease for it."""
        for subject in subjects:
            if usd and not self._spend(subject.id, 0.0, 0.0, usd):
                known = subject.id in self._owed_usd or len(self._owed_usd) < SUBJECTS_MAX
                if known:
                    self._owed_usd[subject.id] = self._owed_usd.get(subject.id, 0.0) + usd

    def _spend(self, subject_id: str, day_usd: float, month_usd: float, more_usd: float) -> bool:
        amounts = [f"{usd:.17g}" for usd in (day_usd, month_usd, more_usd)]
        return self._link.post(self._command(limits_lua.SPEND, (Subject(subject_id),), amounts))

    def _changed(self, up: bool, why: str) -> None:
        if up:
            owed, self._owed_usd = self._owed_usd, {}
            for subject_id, usd in owed.items():
                self._owe((Subject(subject_id),), usd)
        self._on_state(up, why)

    async def _read(self, subjects: Sequence[Subject]) -> tuple[float, list[Account]]:
        reply = await self._link.call(self._command(limits_lua.READ, subjects, _limits_of(subjects)))
        return float(reply[0]), [_account(told) for told in reply[1:]]

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / RENEWALS)
            if self._link.up:
                await self.renew()

    def _command(
        self,
        script: Script,
        subjects: Sequence[Subject],
        args: Sequence[str],
        *,
        repair: Command | None = None,
        repeatable: bool = False,
    ) -> Command:
        keys = [
            f"{self._prefix}{part}:{subject.id}" for subject in subjects for part in ("account", "leases")
        ]
        now = "" if self._server_time else f"{self._clock():.17g}"
        return Command(script, keys, [now, f"{self._lease_s:.17g}", *args], repair, repeatable)


def _limits_of(subjects: Sequence[Subject]) -> list[str]:
    return [
        "" if limit is None else f"{limit:.17g}"
        for subject in subjects
        for limit in (getattr(subject.limits, name) for name in budget.LIMIT_NAMES)
    ]


def _account(told: bytes | str) -> Account:
    requests, tokens, at_s, parallel, *rest = map(float, told.split())
    return Account(requests, tokens, at_s, int(parallel), *rest)
