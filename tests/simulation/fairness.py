"""Who has had how much while others waited, by books that know nothing of how `policy/fair` reckons."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

from penstock.policy.fair import SHARE

if TYPE_CHECKING:
    from tests.simulation.gateway import Request

GRAIN = 1e-6


class Fairness:
    """Who has had how much, between tenants of a class and between classes.

    For tenants i and j that wait at the same time, what they have had by weight may drift apart by DRIFT times the
    largest request and the most that one tenant has running; a class that waits is behind its share by two requests
    at most.
    """

    DRIFT = 2.0

    def __init__(self, fail: Callable[[str, str], None]) -> None:
        self._fail = fail
        self.waiting = 0
        self.exempt: set[str] = set()
        self._in_line: Counter[tuple[str, str]] = Counter()
        self._in_class: Counter[str] = Counter()
        self._had: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._running: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._most_running: defaultdict[str, float] = defaultdict(float)
        self._largest: defaultdict[str, float] = defaultdict(float)
        self._largest_cost = 0
        self._pairs: dict[tuple[str, str, str], tuple[float, float]] = {}
        self._share_lead: dict[str, tuple[float, float]] = {}
        self.drift_most = 0.0

    def joined(self, request: Request) -> None:
        """A request came to wait."""
        self.waiting += 1
        self._largest_cost = max(self._largest_cost, request.cost_tokens)
        lane, tenant = request.lane, request.tenant
        self._in_line[lane, tenant] += 1
        self._in_class[lane] += 1
        if self._in_class[lane] == 1:
            self._share_lead[lane] = (0.0, 0.0)
        if self._in_line[lane, tenant] == 1:
            for other_lane, other in [key for key, count in self._in_line.items() if count]:
                if other_lane == lane and other != tenant and not {tenant, other} & self.exempt:
                    pair = (lane, min(tenant, other), max(tenant, other))
                    lead = self._lead(*pair)
                    self._pairs[pair] = (lead, lead)

    def left(self, request: Request) -> None:
        """A request waits no more."""
        self.waiting -= 1
        lane, tenant = request.lane, request.tenant
        self._in_line[lane, tenant] -= 1
        self._in_class[lane] -= 1
        if not self._in_line[lane, tenant]:
            for pair in [pair for pair in self._pairs if pair[0] == lane and tenant in pair]:
                del self._pairs[pair]

    def served(self, request: Request, *, waited: bool) -> None:
        """A request got a permit."""
        key = (request.lane, request.tenant)
        cost = request.cost_tokens
        self._running[key] += cost / request.weight
        self._most_running[request.lane] = max(self._most_running[request.lane], self._running[key])
        self._largest[request.lane] = max(self._largest[request.lane], cost / request.weight)
        self._largest_cost = max(self._largest_cost, cost)
        if waited:
            self._classes(request)

    def settled(self, request: Request, actual_tokens: int) -> None:
        """A request gave its permit back."""
        key = (request.lane, request.tenant)
        self._running[key] -= request.cost_tokens / request.weight
        self._had[key] += actual_tokens / request.weight
        bound = self.DRIFT * (self._largest[request.lane] + self._most_running[request.lane])
        for pair, (least, most) in self._pairs.items():
            if pair[0] != request.lane or request.tenant not in pair:
                continue
            lead = self._lead(*pair)
            least, most = min(least, lead), max(most, lead)
            self._pairs[pair] = (least, most)
            self.drift_most = max(self.drift_most, (most - least) / (bound / self.DRIFT))
            if most - least > bound + GRAIN and not self.exempt & set(pair):
                self._fail(
                    "tenants share by weight", f"{pair} drifted by {most - least:.0f}, bound {bound:.0f}"
                )

    def _lead(self, lane: str, tenant: str, other: str) -> float:
        return self._had[lane, tenant] - self._had[lane, other]

    def _classes(self, request: Request) -> None:
        cost = request.cost_tokens
        if not self._in_class[request.lane]:
            self._share_lead.pop(request.lane, None)
        for lane, (high, lead) in self._share_lead.items():
            if not self._in_class[lane]:
                continue
            lead += cost if lane == request.lane else -SHARE[lane] * cost
            high = max(high, lead)
            self._share_lead[lane] = (high, lead)
            if high - lead > 2 * self._largest_cost + GRAIN:
                self._fail("no class starves", f"{lane} is {high - lead:.0f} tokens behind its share")
