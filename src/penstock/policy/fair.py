"""Who is next in line: first by class, then by tenant, then by arrival; service is counted in tokens.

Two rules, one inside the other.

Between classes: the highest class that waits is next, but a lower class gets at least its `SHARE` of the tokens.
While a class waits, it is owed its share of every token that goes to another class; once it is owed the cost of
its own next request, that request goes first. So in any stretch during which a class waits, with L the largest
cost of a request,

    tokens to the class >= SHARE * tokens to the others - 2 L

and a request at the head of its class, of cost k, waits for at most k / SHARE + 2 L tokens of others.

Between the tenants of one class: a virtual token counter (Sheng and others 2024), read as start-time fair queueing
(Goyal, Vin, Cheng 1996), whose bounds hold however fast permits come back. A tenant's count is the tokens that it
has had, and those that its running requests are expected to take, over its weight; the lowest count is next. Of
two tenants i and j that both wait throughout a stretch,

    | tokens_i / weight_i - tokens_j / weight_j | <= 2 (L + R)

in real tokens, where L is the largest request of the class and R the most that the running requests of one tenant
are expected to take, both by weight; where estimates are right, counted as dispatched, it is L_i / weight_i +
L_j / weight_j. From the moment that a request of i comes in until it is next, another tenant j of its class gets
at most

    weight_j / weight_i * (tokens of i ahead of it: in line, running, or had beyond the tenant that is next) + L_j

A tenant with nothing ahead is thus passed by one request of each other tenant at most, however many these have
in line. A tenant that comes back from idleness has saved up nothing: what it has had is lifted to what the tenant
that is next has had, or, where nobody waits, the tenant that was last.

Costs are estimates, put right by `settle` at the end of a request. Every step is O(log n) but for
`newest_over_share`, which looks at each tenant of one class, and only while a line is full.
"""

from __future__ import annotations

from collections import OrderedDict
from heapq import heapify, heappop, heappush

# From the highest to the lowest, each with the part of the tokens that it is sure of while it waits.
SHARE = {"interactive": 0.75, "standard": 0.2, "batch": 0.05}

WEIGHT_MIN = 0.1
WEIGHT_MAX = 1000.0
# More than any context holds: an absurd `max_tokens` shall not shut its tenant out for good.
COST_MAX_TOKENS = 10_000_000
# Beyond this idle tenants are forgotten, those first that have had least.
TENANTS_MAX = 10_000
# What has grown to twice its size is swept, and not before it is this long.
SWEEP_MIN = 64


# Where an entry stands; plain numbers, because a member of an Enum takes several times as long to look up.
OUTSIDE, WAITS, SERVED = 0, 1, 2


class Entry:
    """One request in line.

    Args:
        tenant: who waits.
        weight: share of the tenant among those of its class, 0.1 to 1000.
        priority: a class in `SHARE`.
        cost_tokens: prompt and expected completion; held to 1 to `COST_MAX_TOKENS`.

    Raises:
        ValueError: the weight or the class is out of range.
    """

    __slots__ = ("cost_tokens", "lane", "mark", "stand", "tenant", "weight")

    def __init__(self, tenant: str, *, weight: float, priority: str, cost_tokens: int) -> None:
        if not WEIGHT_MIN <= weight <= WEIGHT_MAX:
            raise ValueError(f"weight: expected {WEIGHT_MIN} to {WEIGHT_MAX:g}, not {weight}")
        if priority not in SHARE:
            raise ValueError(f"priority: expected one of {', '.join(SHARE)}, not {priority!r}")
        self.tenant = tenant
        self.weight = weight
        self.lane = priority
        self.cost_tokens = held_to_range(cost_tokens)
        self.stand = OUTSIDE
        self.mark: Mark | None = None


class Mark:
    """A tenant within a class: how far it has been served, and what it has in line."""

    __slots__ = ("cost_tokens", "entries", "had", "key", "running_tokens", "weight")

    def __init__(self, weight: float) -> None:
        self.had = 0.0  # tokens of requests that are over, by weight; never taken back
        self.running_tokens = 0  # estimates of those that were served and are not over
        self.weight = weight
        self.cost_tokens = 0  # of what is in line
        self.entries: OrderedDict[Entry, None] = OrderedDict()
        self.key: tuple[float, int, Mark] | None = None  # its only valid place in the heap

    @property
    def at(self) -> float:
        """Its count: the lowest is next."""
        return self.had + self.running_tokens / self.weight


class Lane:
    """The tenants of one class."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.owed_tokens = 0.0
        self.cost_tokens = 0  # of all that waits
        self.length = 0
        self.weight = 0.0  # of all tenants that wait
        self.marks: dict[str, Mark] = {}
        self._had = 0.0  # the most that a tenant had had when it was served
        self._heap: list[tuple[float, int, Mark]] = []
        self._pushed = 0
        self._sweep_at = SWEEP_MIN

    def push(self, entry: Entry) -> None:
        """Puts the entry behind its tenant's others."""
        mark = entry.mark = self.marks.get(entry.tenant) or self._new(entry)
        if mark.entries:
            self.weight += entry.weight - mark.weight
        else:
            mark.had = max(mark.had, self._level())
            self.weight += entry.weight
        mark.entries[entry] = None
        mark.cost_tokens += entry.cost_tokens
        self.cost_tokens += entry.cost_tokens
        self.length += 1
        if mark.key is None or mark.weight != entry.weight:
            mark.weight = entry.weight
            self._place(mark)

    def head(self) -> Entry | None:
        """The entry that is next."""
        mark = self._next()
        return next(iter(mark.entries)) if mark is not None else None

    def remove(self, entry: Entry) -> None:
        """Takes out an entry that waits, next or not."""
        mark = entry.mark
        assert mark is not None
        del mark.entries[entry]
        mark.cost_tokens -= entry.cost_tokens
        self.cost_tokens -= entry.cost_tokens
        self.length -= 1
        if not mark.entries:
            mark.key = None
            self.weight -= mark.weight
        if not self.length:
            self.owed_tokens = self.weight = 0.0
            self._heap.clear()

    def serve(self, entry: Entry) -> None:
        """Charges the tenant for an entry that has just been taken out."""
        mark = entry.mark
        assert mark is not None
        self._had = max(self._had, mark.had)
        mark.running_tokens += entry.cost_tokens
        if mark.entries:
            self._place(mark)

    def serve_at_once(self, entry: Entry) -> None:
        """Does the same for an entry that never waited, while nobody else does."""
        mark = entry.mark = self.marks.get(entry.tenant) or self._new(entry)
        mark.weight = entry.weight
        if mark.had > self._had:
            self._had = mark.had
        else:
            mark.had = self._had
        mark.running_tokens += entry.cost_tokens

    def settle(self, entry: Entry, actual_tokens: int) -> None:
        """Puts what an entry has really taken in the place of its estimate."""
        mark = entry.mark
        assert mark is not None
        mark.running_tokens -= entry.cost_tokens
        mark.had += actual_tokens / entry.weight
        if mark.entries:
            self._place(mark)

    def tokens_ahead(self, entry: Entry) -> float:
        """About how many tokens of this class would go before the entry, were it pushed now."""
        mark, first = self.marks.get(entry.tenant), self._next()
        if mark is None or first is None:
            return 0.0
        others = self.weight - (mark.weight if mark.entries else 0.0)
        at = max(mark.had, self._level()) + (mark.running_tokens + mark.cost_tokens) / entry.weight
        return min(self.cost_tokens, mark.cost_tokens + max(0.0, (at - first.at) * others))

    def newest_over_share(self) -> Entry | None:
        """The newest entry of the tenant that has the most in line for its weight."""
        waiting = [mark for mark in self.marks.values() if mark.entries]
        if not waiting:
            return None
        longest = max(waiting, key=lambda mark: len(mark.entries) / mark.weight)
        return next(reversed(longest.entries))

    def has_room_for(self, entry: Entry) -> bool:
        """Whether the tenant would have at most its share of the places that this class has now."""
        mark = self.marks.get(entry.tenant)
        length = len(mark.entries) if mark is not None else 0
        weight = self.weight + (0.0 if length else entry.weight)
        return (length + 1) * weight <= self.length * entry.weight

    def _level(self) -> float:
        """To what one is lifted that comes back."""
        first = self._next()
        return self._had if first is None else first.had

    def _next(self) -> Mark | None:
        heap = self._heap
        while heap and heap[0][2].key is not heap[0]:
            heappop(heap)
        return heap[0][2] if heap else None

    def _place(self, mark: Mark) -> None:
        self._pushed += 1
        key = mark.key = (mark.at, self._pushed, mark)
        heappush(self._heap, key)
        if len(self._heap) > SWEEP_MIN + 2 * len(self.marks):
            self._heap = [item for item in self._heap if item[2].key is item]
            heapify(self._heap)

    def _new(self, entry: Entry) -> Mark:
        if len(self.marks) >= self._sweep_at:
            self._sweep()
        mark = self.marks[entry.tenant] = Mark(entry.weight)
        return mark

    def _sweep(self) -> None:
        """Forgets idle tenants that would be lifted anyway, and, where there are too many, others as well."""
        level = min((mark.had for mark in self.marks.values() if mark.entries), default=self._had)
        idle = [(mark.at, name) for name, mark in self.marks.items() if not mark.entries]
        excess = len(self.marks) - TENANTS_MAX
        for rank, (at, name) in enumerate(sorted(idle)):
            if at <= level or rank < excess:
                del self.marks[name]
        self._sweep_at = max(SWEEP_MIN, 2 * len(self.marks))


class FairLine:
    """The requests that wait for one model, of all classes and tenants."""

    def __init__(self) -> None:
        self.lanes = {priority: Lane(share) for priority, share in SHARE.items()}
        self.length = 0

    def push(self, entry: Entry) -> None:
        """Puts a new entry in line."""
        assert entry.stand == OUTSIDE
        self.lanes[entry.lane].push(entry)
        entry.stand = WAITS
        self.length += 1

    def pop(self) -> Entry | None:
        """Takes out the entry that is next, and charges its tenant for it; None where nobody waits."""
        entry = self._next()
        if entry is None:
            return None
        lane = self.lanes[entry.lane]
        for other in self.lanes.values():
            if other is lane:
                other.owed_tokens = max(0.0, other.owed_tokens - entry.cost_tokens)
            elif other.length:
                other.owed_tokens += other.share * entry.cost_tokens
        lane.remove(entry)
        lane.serve(entry)
        entry.stand = SERVED
        self.length -= 1
        return entry

    def pass_by(self, entry: Entry) -> None:
        """Charges the tenant for an entry that need not wait, because nobody does."""
        assert entry.stand == OUTSIDE
        self.lanes[entry.lane].serve_at_once(entry)
        entry.stand = SERVED

    def remove(self, entry: Entry) -> bool:
        """Takes out an entry that waits no longer; false where it did not wait."""
        if entry.stand != WAITS:
            return False
        self.lanes[entry.lane].remove(entry)
        entry.stand = OUTSIDE
        self.length -= 1
        return True

    def waiting(self) -> list[Entry]:
        """All that wait, in no order."""
        marks = (mark for lane in self.lanes.values() for mark in lane.marks.values())
        return [entry for mark in marks for entry in mark.entries]

    def settle(self, entry: Entry, actual_tokens: int) -> None:
        """Puts right what the tenant was charged for an entry that was served. To be called once.

        Args:
            actual_tokens: what it really took; 0 for an entry that was not used.
        """
        assert entry.stand == SERVED
        entry.stand = OUTSIDE
        self.lanes[entry.lane].settle(entry, min(max(0, actual_tokens), COST_MAX_TOKENS))

    def tokens_ahead(self, entry: Entry) -> float:
        """About how many tokens would go before the entry, were it pushed now and nobody came after it."""
        higher_tokens = 0
        for priority, lane in self.lanes.items():
            if priority == entry.lane:
                own_tokens = lane.tokens_ahead(entry)
                sure = (own_tokens + entry.cost_tokens) / lane.share
                return min(higher_tokens + own_tokens, sure)
            higher_tokens += lane.cost_tokens
        raise AssertionError(f"no class {entry.lane}")

    def loser(self, entry: Entry) -> Entry | None:
        """The entry that must make room for this one in a full line; None where this one has no right to it.

        Places are shared like tokens: a class that has less than its share of the places gets one from the class
        that is furthest over its own; within a class a tenant that has less than its share, by weight, gets the
        newest place of the tenant that is furthest over its own.
        """
        lane = self.lanes[entry.lane]
        if lane.length + 1 <= lane.share * self.length:
            lane = max(self.lanes.values(), key=lambda lane: lane.length / lane.share)
        elif not lane.has_room_for(entry):
            return None
        return lane.newest_over_share()

    def _next(self) -> Entry | None:
        first = None
        for lane in self.lanes.values():
            if not lane.length:
                continue
            head = lane.head()
            assert head is not None
            if first is None or lane.owed_tokens >= head.cost_tokens:
                first = head  # the lowest class that is owed its next request, or else the highest that waits
        return first


def held_to_range(tokens: int) -> int:
    """The tokens, at least 1 and at most `COST_MAX_TOKENS`."""
    if tokens < 1:
        return 1
    return tokens if tokens <= COST_MAX_TOKENS else COST_MAX_TOKENS
