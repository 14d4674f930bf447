"""The live view of a load: a picture that changes in a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from penstock.bench.load.health import Progress
from penstock.bench.report.shown import DURATION, SHARE, number, shown, whole
from penstock.bench.watch import Expected
from penstock.core.stats import percentile

# A percentile of the newest values moves, and is not moved by each of them.
RECENT_LEN_MAX = 500
RATES_OVER_S = 5.0
LINE_EVERY_S = 5.0
_REDRAWS_PER_S = 4
# Lateness of the client that an eye should be drawn to.
_LATE_S = 0.010


@dataclass(slots=True)
class Recent:
    """What has been seen of late: rates over the last seconds, percentiles of the newest values."""

    ttft_s: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_LEN_MAX))
    tpot_s: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_LEN_MAX))
    seen: deque[Progress] = field(default_factory=deque)
    late_max_s: float = 0.0

    def add(self, progress: Progress) -> None:
        """Notes a report."""
        self.ttft_s.extend(progress.recent_ttft_s)
        self.tpot_s.extend(progress.recent_tpot_s)
        self.late_max_s = max(self.late_max_s, progress.send_late_max_s)
        self.seen.append(progress)
        while len(self.seen) > 2 and progress.elapsed_s - self.seen[1].elapsed_s >= RATES_OVER_S:
            self.seen.popleft()

    def rate(self, count: Callable[[Progress], int]) -> float:
        """How fast a count grew, per second."""
        first, last = self.seen[0], self.seen[-1]
        length_s = last.elapsed_s - first.elapsed_s
        if length_s <= 0:
            return count(last) / last.elapsed_s if last.elapsed_s else 0.0
        return (count(last) - count(first)) / length_s


class View:
    """Shows a load on a console; the load generators know nothing of it.

    Args:
        console: of standard error.
        clock_s: for the plain lines.
        quiet: shows no progress, only phases.
    """

    def __init__(
        self, console: Console, *, clock_s: Callable[[], float] = time.monotonic, quiet: bool = False
    ) -> None:
        self._console = console
        self._clock_s = clock_s
        self._quiet = quiet
        self._live: Live | None = None
        self._expected: Expected | None = None
        self._recent = Recent()
        self._line_at_s = 0.0
        self.loading = False

    def phase(self, says: str) -> None:
        """Something else begins."""
        if not self._quiet:
            self._console.print(f"{says} ...", style="dim", highlight=False, markup=False)

    def begin(self, expected: Expected) -> None:
        """The load begins."""
        self._expected, self._recent, self.loading = expected, Recent(), True
        self._line_at_s = self._clock_s() + LINE_EVERY_S
        if self._quiet:
            return
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=_REDRAWS_PER_S, transient=True)
            self._live.start()
        else:
            self._console.print(f"load: {expected.title}", highlight=False, markup=False)

    def progress(self, progress: Progress, beside: Mapping[str, float]) -> None:
        """Draws it anew."""
        if self._expected is None:
            return
        self._recent.add(progress)
        if self._live is not None:
            self._live.update(screen(self._expected, progress, self._recent, beside))
        elif not self._quiet and self._clock_s() >= self._line_at_s:
            self._line_at_s = self._clock_s() + LINE_EVERY_S
            line = plain_line(self._expected, progress, self._recent)
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def end(self) -> None:
        """The load is over."""
        self.loading = False
        if self._live is not None:
            self._live.stop()
            self._live = None


def plain_line(expected: Expected, progress: Progress, recent: Recent) -> str:
    """One line of a log."""
    left_s = expected.left_s(progress)
    parts = [
        f"{progress.elapsed_s:6.1f} s",
        f"{number(recent.rate(_done))} req/s",
        f"{number(recent.rate(_tokens))} tok/s",
        f"{whole(progress.in_flight)} under way",
        f"TTFT {_percentiles(recent.ttft_s, (50, 95))}",
        f"TPOT {_percentiles(recent.tpot_s, (50,))}",
        f"{whole(progress.failed)} failed",
        f"{_clock(left_s)} left" if left_s is not None else "",
    ]
    return "  ".join(part for part in parts if part)


def screen(
    expected: Expected, progress: Progress, recent: Recent, beside: Mapping[str, float]
) -> RenderableType:
    """The picture."""
    left_s = expected.left_s(progress)
    head = Table.grid(expand=True)
    head.add_column(ratio=1)
    head.add_column(justify="right")
    left = f"{_clock(left_s)} left" if left_s is not None else ""
    warm = " (warm-up)" if progress.elapsed_s < expected.warmup_s else ""
    head.add_row(Text(expected.title, style="bold"), Text(f"{_clock(progress.elapsed_s)}{warm}  {left}"))
    bar = ProgressBar(total=1.0, completed=expected.part_done(progress))
    return Group(head, bar, _figures(progress, recent), _beside(progress, recent, beside))


def _figures(progress: Progress, recent: Recent) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), show_edge=False)
    names = ("REQ/S", "TOK/S", "UNDER WAY", "DONE", "FAILED", "", "P50", "P95", "P99")
    for name in names:
        table.add_column(name, header_style="dim", justify="left" if name == "" else "right", no_wrap=True)
    failed = Text(whole(progress.failed), style="red" if progress.failed else "")
    first: list[str | Text] = [
        number(recent.rate(_done)),
        number(recent.rate(_tokens)),
        whole(progress.in_flight),
        whole(progress.completed),
        failed,
    ]
    table.add_row(*first, "TTFT", *(_percentile(recent.ttft_s, p) for p in (50, 95, 99)))
    table.add_row("", "", "", "", "", "TPOT", *(_percentile(recent.tpot_s, p) for p in (50, 95, 99)))
    return table


def _beside(progress: Progress, recent: Recent, beside: Mapping[str, float]) -> Text:
    """The engine's queue and cache, and how the client fares."""
    told = []
    if "running" in beside:
        told.append(f"engine: {beside['running']:g} running, {beside.get('waiting', 0):g} waiting")
    if "kv_usage" in beside:
        told.append(f"KV cache {shown(beside['kv_usage'], SHARE)}")
    if "gateway_waiting" in beside:
        told.append(f"gateway: {beside['gateway_waiting']:g} in line")
    text = Text("   ".join(told), style="dim")
    busiest = max(progress.cpu_share, default=0.0)
    client = f"client: {shown(busiest, SHARE, digits=2)} CPU, sends up to {shown(recent.late_max_s, DURATION)} late"
    return text.append(
        f"{'   ' if told else ''}{client}", style="red" if recent.late_max_s > _LATE_S else "dim"
    )


def _done(progress: Progress) -> int:
    return progress.completed + progress.failed


def _tokens(progress: Progress) -> int:
    return progress.output_tokens


def _percentile(values: deque[float], p: float) -> str:
    return shown(percentile(values, p), DURATION) if values else "-"


def _percentiles(values: deque[float], each: tuple[float, ...]) -> str:
    return " ".join(f"p{p:g} {_percentile(values, p)}" for p in each)


def _clock(seconds: float) -> str:
    """A time that counts up or down: `42 s`, `12:05`."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds // 60:.0f}:{seconds % 60:02.0f}"
