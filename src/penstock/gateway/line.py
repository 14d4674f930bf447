"""The line before a model: requests wait here for a permit. Acts for `policy/admit`, with futures and timers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from penstock.core.errors import DeadlineError, Fault, OverloadError, PenstockError, Phase
from penstock.policy.admit import ADMITTED, Admission, Decision, Reason, Verdict
from penstock.policy.fair import Entry

# Tenants named in a snapshot, the longest first; the others are counted together.
SNAPSHOT_TENANTS_MAX = 50
OTHER_TENANTS = "other"


class Permit(Entry):
    """The right to occupy a replica of the model, from `Line.enter` to `Line.leave`; until then, a place in line."""

    __slots__ = ("granted_s", "turn")

    granted_s: float
    turn: asyncio.Future[None]  # set for one that must wait, and for no other


@dataclass(frozen=True, slots=True)
class LineSnapshot:
    """The line at one moment, for the admin API.

    Args:
        predicted_wait_s: of one who came last; None where it is not known.
        permits_out: may be more than `capacity` for a while after that has shrunk.
    """

    length: int
    length_max: int
    by_class: dict[str, int]
    by_tenant: dict[str, int]
    predicted_wait_s: float | None
    permits_out: int
    capacity: int


class Line:
    """The line of one model, and its permits.

    Args:
        model: its name, for messages.
        queue_len_max: requests that may wait; 0 for none.
        sheds: whether requests are turned away at once when the wait would be longer than they may wait.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        model: str,
        *,
        queue_len_max: int,
        clock: Callable[[], float],
        sheds: bool = True,
        capacity: int = 0,
    ) -> None:
        self._model = model
        self._clock = clock
        self._admission = Admission(queue_len_max=queue_len_max, sheds=sheds, capacity=capacity)

    def __len__(self) -> int:
        return self._admission.line.length

    @property
    def permits_out(self) -> int:
        """Permits that are held now."""
        return self._admission.out

    @property
    def capacity(self) -> int:
        """Permits that may be held at once."""
        return self._admission.capacity

    async def enter(
        self, tenant: str, *, weight: float, priority: str, cost_tokens: int, deadline_s: float
    ) -> Permit:
        """Waits for a permit; give it back with `leave`, whatever happens. May be cancelled at any time.

        Args:
            tenant: who asks.
            weight: the tenant's share among those of its class, 0.1 to 1000.
            priority: interactive, standard or batch.
            cost_tokens: prompt and expected completion.
            deadline_s: when to give up waiting, on the line's clock. Not looked at where a permit is free.

        Raises:
            OverloadError: the line is full, or the wait would be longer than it may be.
            DeadlineError: of the phase `queue`: its turn did not come in time.
            ValueError: weight or priority are none.
        """
        permit = Permit(tenant, weight=weight, priority=priority, cost_tokens=cost_tokens)
        now_s = permit.granted_s = self._clock()
        decision = self._admission.arrive(permit, deadline_s - now_s)
        if decision is not ADMITTED:
            if decision.verdict is Verdict.REJECT:
                raise self._error(decision)
            self._displace(decision)
            await self._turn(permit, deadline_s - now_s)
        return permit

    def leave(self, permit: Permit, actual_tokens: int | None = None) -> None:
        """Gives the permit back and admits who is next. A second time does nothing.

        Args:
            actual_tokens: prompt and completion as they were; None where that is not known.
        """
        hold_s = self._clock() - permit.granted_s
        if self._admission.release(permit, actual_tokens=actual_tokens, hold_s=hold_s):
            self._admit()

    def set_capacity(self, permits: int) -> None:
        """Sets how many permits there are, 0 or more. What is out beyond it comes back in its own time."""
        self._admission.capacity = max(0, permits)
        self._admit()

    def set_limits(self, *, queue_len_max: int, sheds: bool) -> None:
        """Sets what `queue_len_max` and `sheds` are for those who come from now on; who waits goes on waiting."""
        self._admission.queue_len_max, self._admission.sheds = queue_len_max, sheds

    def turn_away(self, error: Callable[[], PenstockError]) -> None:
        """Ends the wait of all who wait, each by an error of its own."""
        for entry in self._admission.line.waiting():
            assert isinstance(entry, Permit)
            self._admission.abandon(entry)
            _refuse(entry, error())

    def snapshot(self) -> LineSnapshot:
        """The line as it is now."""
        admission = self._admission
        by_tenant: dict[str, int] = {}
        for lane in admission.line.lanes.values():
            for tenant, mark in lane.marks.items():
                if mark.entries:
                    by_tenant[tenant] = by_tenant.get(tenant, 0) + len(mark.entries)
        return LineSnapshot(
            length=admission.line.length,
            length_max=admission.queue_len_max,
            by_class={priority: lane.length for priority, lane in admission.line.lanes.items()},
            by_tenant=_longest(by_tenant),
            predicted_wait_s=admission.predicted_wait_s(),
            permits_out=admission.out,
            capacity=admission.capacity,
        )

    async def _turn(self, permit: Permit, time_left_s: float) -> None:
        loop = asyncio.get_running_loop()
        permit.turn = loop.create_future()
        timer = loop.call_later(time_left_s, self._expire, permit)
        try:
            await permit.turn
        except BaseException:
            # cancelled: out of the line; or, where the turn came at the same moment, the permit goes on
            if not self._admission.abandon(permit) and self._admission.release(
                permit, actual_tokens=0, hold_s=None
            ):
                self._admit()
            raise
        finally:
            timer.cancel()

    def _admit(self) -> None:
        while (permit := self._admission.next_admitted()) is not None:
            assert isinstance(permit, Permit)
            permit.granted_s = self._clock()
            if not permit.turn.done():
                permit.turn.set_result(None)

    def _expire(self, permit: Permit) -> None:
        if self._admission.abandon(permit):
            late = Decision(Verdict.REJECT, Reason.QUEUE_TIMEOUT, self._admission.retry_after_s(permit))
            _refuse(permit, self._error(late))

    def _displace(self, decision: Decision) -> None:
        if decision.loser is not None:
            full = Decision(Verdict.REJECT, Reason.QUEUE_FULL, self._admission.retry_after_s(decision.loser))
            assert isinstance(decision.loser, Permit)
            _refuse(decision.loser, self._error(full))

    def _error(self, decision: Decision) -> PenstockError:
        hint = f"try again in {decision.retry_after_s} s"
        if decision.reason is Reason.QUEUE_TIMEOUT:
            message = f"no replica of model {self._model!r} came free while the request might wait"
            late = DeadlineError(message, phase=Phase.QUEUE, hint=hint)
            # Unlike the other phases, not an engine's fault: it was never asked.
            late.status, late.fault = HTTPStatus.SERVICE_UNAVAILABLE, Fault.GATEWAY
            late.retry_after_s = decision.retry_after_s
            return late
        waiting = f"{len(self)} requests wait for model {self._model!r}"
        if decision.reason is Reason.QUEUE_FULL:
            message = f"{waiting}, and no more may"
        else:
            message = (
                f"{waiting}; this one's turn would come in {decision.retry_after_s} s, after its time limit"
            )
        return OverloadError(message, code=decision.reason, hint=hint, retry_after_s=decision.retry_after_s)


def _refuse(permit: Permit, error: PenstockError) -> None:
    if not permit.turn.done():
        permit.turn.set_exception(error)


def _longest(by_tenant: dict[str, int]) -> dict[str, int]:
    ordered = sorted(by_tenant.items(), key=lambda item: (-item[1], item[0]))
    shown = dict(ordered[:SNAPSHOT_TENANTS_MAX])
    others = sum(length for _, length in ordered[SNAPSHOT_TENANTS_MAX:])
    return {**shown, OTHER_TENANTS: others} if others else shown
