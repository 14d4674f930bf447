"""What the tables, the bars and the plot show: each measure of an arm, its name, unit and form. Less is better."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.gateway.plan import Plan
from benchmarks.gateway.sitting import Cell, Results, Start


@dataclass(frozen=True, slots=True)
class Measure:
    """One column.

    Args:
        step: the key of the load it is taken from; empty for what is measured at each start.
        title: with `{n}` where the number of connections belongs.
        form: of one number.
        take: from a cell that is not void, or from a start; None where it has no such number.
    """

    step: str
    title: str
    form: str
    take: Callable[[Cell | Start], float | None]

    def name(self, plan: Plan) -> str:
        """Its title in this plan."""
        step = plan.step(self.step)
        return self.title.format(n=f"{step.load.connections:,}" if step else "")

    def values(self, results: Results, arm: str) -> list[float]:
        """One for each round in which the cell counts."""
        found: Sequence[Cell | Start]
        if self.step:
            found = [
                cell for cell in results.cells if (cell.arm, cell.step, cell.void) == (arm, self.step, "")
            ]
        else:
            found = [start for start in results.starts if start.arm == arm]
        return [value for value in map(self.take, found) if value is not None]

    def beaten_by(self, results: Results, ours: str, arms: Sequence[str]) -> list[str]:
        """Those of `arms` whose median is visibly below that of `ours`, the best first, each with its number."""
        own = self.median(results, ours)
        known = [(value, arm) for arm in arms if (value := self.median(results, arm)) is not None]
        if own is None:
            return []
        texts = [(self.form.format(value), arm) for value, arm in sorted(known) if value < own]
        return [f"{arm} {text}" for text, arm in texts if text != self.form.format(own)]

    def median(self, results: Results, arm: str) -> float | None:
        """Over the rounds; None where nothing counts."""
        values = self.values(results, arm)
        return statistics.median(values) if values else None

    def text(self, results: Results, arm: str) -> str:
        """The median, and the least and most where there is more than one round."""
        values = self.values(results, arm)
        if not values:
            return ""
        median = self.form.format(statistics.median(values))
        if len(values) == 1:
            return median
        return f"{median} ({self.form.format(min(values))}–{self.form.format(max(values))})"  # noqa: RUF001 - a range


def _attribute(name: str) -> Callable[[Cell | Start], float | None]:
    return lambda found: getattr(found, name)


def _time(name: str) -> Callable[[Cell | Start], float | None]:
    return lambda found: found.times_ms.get(name) if isinstance(found, Cell) else None


EVENT_MANY = Measure("many", "µs CPU per event, {n} streams", "{:.1f}", _attribute("cpu_us"))
EVENT_FEW = Measure("few", "µs CPU per event, {n} streams", "{:.1f}", _attribute("cpu_us"))
PLAIN = Measure("plain", "µs CPU per plain request", "{:.0f}", _attribute("cpu_us"))
PROMPT = Measure("prompt", "µs CPU per request, 200 KB prompt", "{:.0f}", _attribute("cpu_us"))
BODY = Measure("body", "µs CPU per request, 5 MB body", "{:,.0f}", _attribute("cpu_us"))
STREAM_KB = Measure("open", "KB per open stream, {n} open", "{:.1f}", _attribute("rss_kb_per_stream"))
OPEN_PEAK = Measure("open", "open at once, of {n}", "{:,.0f}", _attribute("open_peak"))
IDLE_RSS = Measure("", "idle RSS, MB", "{:.1f}", _attribute("idle_rss_mb"))
PROCESSES = Measure("", "processes", "{:.0f}", _attribute("processes"))
READY = Measure("", "ready, s", "{:.2f}", _attribute("ready_s"))

TTFT_P50 = Measure("first", "TTFT p50, {n} streams", "{:.2f}", _time("ttft_p50"))
TTFT_P99 = Measure("first", "TTFT p99, {n} streams", "{:.2f}", _time("ttft_p99"))
BURST_P50 = Measure("many", "TTFT p50, {n} begin within 20 ms", "{:.2f}", _time("ttft_p50"))
GAP_P50 = Measure("many", "gap p50, {n} streams", "{:.2f}", _time("gap_p50"))
GAP_P99 = Measure("many", "gap p99, {n} streams", "{:.2f}", _time("gap_p99"))
TRANSIT_P50 = Measure("many", "transit p50, {n} streams", "{:.2f}", _time("transit_p50"))
TRANSIT_P99 = Measure("many", "transit p99, {n} streams", "{:.2f}", _time("transit_p99"))
PLAIN_P50 = Measure("plain", "plain p50", "{:.2f}", _time("reply_p50"))
PLAIN_P99 = Measure("plain", "plain p99", "{:.2f}", _time("reply_p99"))
PROMPT_P50 = Measure("prompt", "200 KB prompt p50", "{:.2f}", _time("reply_p50"))
PROMPT_P99 = Measure("prompt", "200 KB prompt p99", "{:.2f}", _time("reply_p99"))
BODY_P50 = Measure("body", "5 MB body p50", "{:.1f}", _time("reply_p50"))

THROTTLED_PER_S = Measure("throttled", "plain requests/s", "{:.0f}", _attribute("per_s"))
EVENT_BUSIEST = Measure(
    "many", "µs CPU per event, busiest process, {n} streams", "{:.1f}", _attribute("busiest_cpu_us")
)
PAIR_BUSIEST = Measure(
    "pair", "µs CPU per event, busiest process, {n} streams", "{:.1f}", _attribute("busiest_cpu_us")
)
PAIR_EVENT = Measure("pair", "µs CPU per event, {n} streams", "{:.1f}", _attribute("cpu_us"))

COSTS = (EVENT_MANY, EVENT_FEW, PLAIN, PROMPT, BODY, STREAM_KB, IDLE_RSS, READY)
TIMES = (
    TTFT_P50, TTFT_P99, BURST_P50, GAP_P50, GAP_P99, TRANSIT_P50, TRANSIT_P99, PLAIN_P50, PLAIN_P99,
    PROMPT_P50, PROMPT_P99, BODY_P50,
)  # fmt: skip
