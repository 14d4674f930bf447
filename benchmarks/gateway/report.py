"""The table for people, and everything for machines."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from benchmarks.gateway.sitting import Cell, Results

NOTES = """
Median of {rounds} rounds (least-most), the arms in turn within each round. CPU: user + system of the arm's whole
process tree over the run, with what setting up connections and requests costs, divided by the tokens streamed
or by the requests. TTFT ends at the first token's text; all streams start within 20 ms, so it holds the wait
behind each other. Transit: from the backend's write of a token to the client's read of it, by stamps in the
tokens. RSS of an open stream: growth over the run, which warm memory of the same process hides. Ready: from
the start of the process to the first plain call answered through it. Added latency is a difference of medians
(p50 only) to the direct run of the same load; percentiles are never subtracted. A wrong reply (status, order
or number of tokens, finish reason, usage, [DONE], a closed connection, no end in time) voids its cell; so does
a client or backend that is busy more than {busy:.0%} of the time. Void cells count in no median."""


def machine() -> str:
    """One line: what this ran on, and when."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    load = f"load average {psutil.getloadavg()[0]:.1f} at the end"
    return f"{model}, {psutil.cpu_count()} cores, Linux {platform.release()}, {when}, {load}"


def as_json(results: Results) -> dict[str, Any]:
    """Every single measurement."""
    return {"machine": machine(), **asdict(results)}


def as_markdown(results: Results, arms: Sequence[str], busy_max: float) -> str:
    """The medians and their spread."""
    loads = [f"streams {count}" for count in results.plan.streams]
    parts = [f"{machine()}; {results.plan.tokens} tokens a stream, one in 20 ms"]
    parts += [_stream_table(results, arms, load) for load in loads]
    parts += [_plain_table(results, arms), _start_table(results, arms)]
    voids = [f"- void: {c.arm}, {c.load}, round {c.round + 1}: {c.void}" for c in results.cells if c.void]
    return "\n\n".join([*parts, *voids, NOTES.strip().format(rounds=results.plan.rounds, busy=busy_max)])


def _stream_table(results: Results, arms: Sequence[str], load: str) -> str:
    direct = _cells(results, "direct", load)
    rows = []
    for arm in arms:
        cells = _cells(results, arm, load)
        rows.append(
            (
                arm,
                _spread((c.cpu_us for c in cells), "{:.1f}"),
                *(_time(cells, name) for name in ("ttft_p50", "ttft_p99", "gap_p50", "gap_p99")),
                *(_time(cells, name) for name in ("transit_p50", "transit_p99")),
                _added(cells, direct, "ttft_p50"),
                _spread((c.rss_peak_kb_per_stream for c in cells), "{:.1f}"),
            )
        )
    head = (
        load, "CPU us/event", "TTFT p50 ms", "p99", "gap p50 ms", "p99", "transit p50 ms", "p99",
        "added TTFT p50 ms", "KB/open stream",
    )  # fmt: skip
    return _table(head, rows)


def _plain_table(results: Results, arms: Sequence[str]) -> str:
    direct = _cells(results, "direct", "plain")
    rows = []
    for arm in arms:
        cells = _cells(results, arm, "plain")
        rows.append(
            (
                arm,
                _spread((c.cpu_us for c in cells), "{:.0f}"),
                _time(cells, "reply_p50"),
                _time(cells, "reply_p99"),
                _added(cells, direct, "reply_p50"),
                _spread((c.count / c.wall_s for c in cells), "{:.0f}"),
            )
        )
    return _table(("plain", "CPU us/request", "p50 ms", "p99", "added p50 ms", "requests/s"), rows)


def _start_table(results: Results, arms: Sequence[str]) -> str:
    rows = []
    for arm in arms:
        starts = [start for start in results.starts if start.arm == arm]
        if starts:
            ready = _spread((start.ready_s for start in starts), "{:.2f}")
            rows.append((arm, ready, _spread((start.idle_rss_mb for start in starts), "{:.1f}")))
    return _table(("start", "ready s", "idle RSS MB"), rows)


def _cells(results: Results, arm: str, load: str) -> list[Cell]:
    return [cell for cell in results.cells if (cell.arm, cell.load) == (arm, load) and not cell.void]


def _time(cells: Iterable[Cell], name: str) -> str:
    return _spread((cell.times_ms.get(name) for cell in cells), "{:.2f}")


def _added(cells: Sequence[Cell], direct: Sequence[Cell], name: str) -> str:
    values = [[cell.times_ms[name] for cell in side] for side in (cells, direct)]
    if not all(values) or cells == direct:
        return ""
    return f"{statistics.median(values[0]) - statistics.median(values[1]):+.2f}"


def _spread(values: Iterable[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    show: Callable[[float], str] = form.format
    return f"{show(statistics.median(known))} ({show(min(known))}-{show(max(known))})"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
