"""What is kept of each request while a run is read, in columns and in bounded memory. Pure.

Counts are of every request. Of a run longer than the limits, percentiles are made of a part of its requests, drawn
evenly by their index, so that a second reading draws the same; their intervals are of what was kept.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

from penstock.bench.analysis.measures import MEASURES, gaps
from penstock.bench.sample import Cause, Sample

# Each row is some 170 bytes. The 95 % interval of a p99 of so many is from p98.96 to p99.04.
ROWS_MAX = 200_000
# Sorted once for each part of a report: a second and 40 MB for so many.
GAPS_MAX = 1_000_000
# Prompt types are few; what has more of them has another idea of the field.
KINDS_MAX = 64
OTHER_KIND = "other"

NAN = math.nan
_DRAWS = 2**32
_GOLDEN = 2654435761  # Knuth's multiplier: neighbours are drawn as evenly as can be
_TIMED_OUT = frozenset({Cause.FIRST_TOKEN_TIMEOUT, Cause.STALL_TIMEOUT, Cause.TOTAL_TIMEOUT, Cause.CUT_OFF})
_CAUSES = tuple(Cause)
_CAUSE_CODES = {cause: code for code, cause in enumerate(_CAUSES)}
COLUMNS = tuple(measure for measure in MEASURES if measure.of is not None)

_PLAIN_COLUMNS = (
    "kind",
    "stage",
    "cause",
    "good",
    "missed",
    "scheduled_s",
    "ended_s",
    "lasted_s",
    "gap_count",
)


def draw(index: int) -> int:
    """A number from 0 to 2**32 - 1 that decides whether a request is kept; spread evenly over any run of indexes."""
    return index * _GOLDEN % _DRAWS


class Rows:
    """The kept requests, column by column.

    Args:
        rows_max, gaps_max: limits, at least 2.
    """

    def __init__(self, rows_max: int = ROWS_MAX, gaps_max: int = GAPS_MAX) -> None:
        self._rows_max, self._gaps_max = rows_max, gaps_max
        self._draw_below = self._gaps_below = _DRAWS
        self.kinds: list[str] = []
        self.draws = array("L")
        self.kind = array("h")
        self.stage = array("l")
        self.cause = array("b")
        self.good = array("b")  # -1 where it is undetermined
        self.missed = array("l")  # bits, in the order of the SLO's limits
        self.scheduled_s = array("d")
        self.ended_s = array("d")
        self.lasted_s = array("d")  # E2E, or what of it was seen where time ended it
        self.values = {measure.name: array("d") for measure in COLUMNS}
        self.gap_count = array("l")  # -1 where they are not kept
        self.gaps = array("d")

    def __len__(self) -> int:
        return len(self.draws)

    @property
    def share(self) -> float:
        """The part of all requests that is kept."""
        return self._draw_below / _DRAWS

    @property
    def gaps_share(self) -> float:
        """The part of all requests whose gaps are kept."""
        return self._gaps_below / _DRAWS

    def kind_code(self, kind: str) -> int:
        """The number of a prompt type; those beyond `KINDS_MAX` are one."""
        if kind in self.kinds:
            return self.kinds.index(kind)
        if len(self.kinds) >= KINDS_MAX:
            return self.kinds.index(OTHER_KIND)
        self.kinds.append(kind if len(self.kinds) < KINDS_MAX - 1 else OTHER_KIND)
        return len(self.kinds) - 1

    def add(self, sample: Sample, good: bool | None = None, missed: int = 0) -> None:
        """Keeps a request, or not.

        Args:
            good: whether it met the SLO; None where that is undetermined.
            missed: the limits that it missed, as bits.
        """
        drawn = draw(sample.index)
        kind = self.kind_code(sample.kind)
        if drawn >= self._draw_below:
            return
        complete = sample.cause is Cause.NONE
        self.draws.append(drawn)
        self.kind.append(kind)
        self.stage.append(sample.stage)
        self.cause.append(_CAUSE_CODES[sample.cause])
        self.good.append(-1 if good is None else good)
        self.missed.append(missed)
        self.scheduled_s.append(sample.scheduled_s)
        ended_s = sample.ended_s if sample.ended_s is not None else sample.scheduled_s
        self.ended_s.append(ended_s)
        for measure in COLUMNS:
            # Complete answers alone, but for what the client itself did, which is told of all.
            value = measure.of(sample) if measure.of and (complete or measure.name == "send_late") else None
            self.values[measure.name].append(NAN if value is None else value)
        e2e_s = self.values["e2e"][-1]
        self.lasted_s.append(ended_s - sample.scheduled_s if sample.cause in _TIMED_OUT else e2e_s)
        self._add_gaps(sample, complete and drawn < self._gaps_below)
        while len(self.draws) > self._rows_max:
            self._draw_below //= 2
            self._thin()

    def cause_of(self, row: int) -> Cause:
        """How a request ended."""
        return _CAUSES[self.cause[row]]

    def in_order(self) -> list[int]:
        """All rows by their scheduled times."""
        return sorted(range(len(self)), key=self.scheduled_s.__getitem__)

    def pooled_gaps(self, rows: Sequence[int]) -> list[float]:
        """The gaps of these requests, one request after the other."""
        begins = self._gap_begins()
        pooled: list[float] = []
        for row in rows:
            count = self.gap_count[row]
            if count > 0:
                pooled += self.gaps[begins[row] : begins[row] + count]
        return pooled

    def _add_gaps(self, sample: Sample, kept: bool) -> None:
        found = gaps(sample) if kept else []
        self.gap_count.append(len(found) if kept else -1)
        self.gaps.extend(found)
        while len(self.gaps) > self._gaps_max and self._gaps_below > 1:
            self._gaps_below //= 2
            self._keep_gaps(lambda drawn: drawn < self._gaps_below)

    def _gap_begins(self) -> array[int]:
        begins, begin = array("q"), 0
        for count in self.gap_count:
            begins.append(begin)
            begin += max(count, 0)
        return begins

    def _keep_gaps(self, kept: Callable[[int], bool]) -> None:
        gaps_left = array("d")
        for row, begin in enumerate(self._gap_begins()):
            count = self.gap_count[row]
            if count >= 0 and kept(self.draws[row]):
                gaps_left.extend(self.gaps[begin : begin + count])
            else:
                self.gap_count[row] = -1
        self.gaps = gaps_left

    def _thin(self) -> None:
        below = self._draw_below
        self._gaps_below = min(self._gaps_below, below)
        self._keep_gaps(lambda drawn: drawn < below)
        kept = [row for row, drawn in enumerate(self.draws) if drawn < below]
        for name in _PLAIN_COLUMNS:
            column: array[float] = getattr(self, name)
            setattr(self, name, array(column.typecode, [column[row] for row in kept]))
        for name, values in self.values.items():
            self.values[name] = array("d", [values[row] for row in kept])
        self.draws = array("L", [self.draws[row] for row in kept])


def between(rows: Rows, order: Sequence[int], begins_s: float, ends_s: float) -> Iterator[int]:
    """The rows in `order` that were scheduled between two times, both included."""
    first = bisect_left(order, begins_s, key=rows.scheduled_s.__getitem__)
    for row in order[first:]:
        if rows.scheduled_s[row] > ends_s:
            return
        yield row
