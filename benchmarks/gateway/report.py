"""The tables for people, and everything for machines."""

from __future__ import annotations

import platform
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from benchmarks.gateway import replies
from benchmarks.gateway.arms import ARMS, OURS
from benchmarks.gateway.bars import Verdict, verdicts
from benchmarks.gateway.measures import (
    COSTS,
    GAP_P50,
    GAP_P99,
    OPEN_PEAK,
    PAIR_EVENT,
    PROCESSES,
    STREAM_KB,
    THROTTLED_PER_S,
    TIMES,
    Measure,
)
from benchmarks.gateway.plan import ONE_WORKER, TWO_WORKERS
from benchmarks.gateway.sitting import BUSY_MAX, SHARE_USED_MIN, Results

GAPS = (GAP_P50, GAP_P99)
NOTES = """
Medians over rounds: {rounds} (least and most), the arms in turn within each round. One worker each, but for
`{two_workers}`. The client and the backend have processes of their own, which are not counted.

- **CPU** is user + system of the arm's whole process tree over the run, with what setting up connections and
  requests costs, divided by the tokens streamed or by the requests.
- **TTFT** ends at the first token's text. **Transit** is from the backend's write of a token to the client's read of
  it, by stamps in the tokens; **gap** is between two tokens of one stream as the client reads them. They are sent every
  20 ms: a gap p50 far below that means that they came late and in bunches.
- **Percentiles are never subtracted**: the difference of two p99s is the p99 of nothing. `direct`, the client's run
  against the backend itself, stands beside each number, and a bar for added time compares the two.
- **Memory** is resident, of all of an arm's processes; pages that they share count for each. An open stream's is the
  growth from idle to the peak of a fresh process, divided by the streams that were open at once.
- **Ready** is from the start of the process to the first plain call answered through it.
- **Two workers**: client and backend need the same two cores, so that two free workers could never show twice the
  throughput. For plain requests each process is held to a quarter of a core (stopped while it has had more CPU time
  than that), which makes the proxy the bottleneck; a run in which it used less than {share:.0%} of it is void. Events
  are compared by CPU: twice the streams on two workers, what the busier process pays for each event, against what one
  worker pays for its own.
- A wrong reply (status, text, checksum of the prompt that arrived, order or number of tokens, finish reason, usage,
  `[DONE]`, a closed connection, no end in time) **voids its cell**; so does a client or backend that is busy more than
  {busy:.0%} of the time, except where plain calls follow one another without a pause: there `direct` shows the client's
  own limit. Void cells count in no median.
- A bar that is missed by less than the spread may be met in the next sitting, and the other way round."""


def machine() -> str:
    """One line: what this ran on, and when."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    optimised = "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS"))
    python = f"Python {platform.python_version()} ({'optimised' if optimised else 'not optimised'} build)"
    load = f"load average {psutil.getloadavg()[0]:.1f} at the end"
    return f"{model}, {psutil.cpu_count()} cores, Linux {platform.release()}, {python}, {when}, {load}"


def as_json(results: Results) -> dict[str, Any]:
    """Every single measurement, and the verdicts."""
    return {
        "machine": machine(),
        **asdict(results),
        "bars": [asdict(verdict) for verdict in verdicts(results)],
    }


def as_markdown(results: Results, command: str, plot: str = "") -> str:
    """The whole report.

    Args:
        results: what was measured.
        command: that made it.
        plot: the name of the picture's file; empty for none.
    """
    measured = [arm for arm in results.arms if any(cell.arm == arm for cell in results.cells)]
    proxies = [arm for arm in measured if arm != "direct"]
    notes = NOTES.strip().format(
        rounds=results.plan.rounds, two_workers=TWO_WORKERS, share=SHARE_USED_MIN, busy=BUSY_MAX
    )
    parts = [
        "# Penstock's gateway and its peers, side by side",
        f"{machine()}. `{command}` took {_minutes(results.took_s)}.",
        _versions(results),
        f"![CPU and memory of each]({plot})" if plot else "",
        "## What it costs",
        _table(results, proxies, (*COSTS, PROCESSES)),
        "## How long it takes, in milliseconds",
        _table(results, measured, TIMES),
        *_workers(results, measured),
        *_open(results, proxies),
        "## The bars",
        _bars(verdicts(results)),
        *_losses(results, proxies),
        "## Client and backend",
        _limits(results),
        *_void(results),
        "## How it is measured",
        notes,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def _versions(results: Results) -> str:
    lines = [
        ("", "version", "written in"),
        *(
            (arm, results.versions.get(arm, ""), ARMS[arm].written_in)
            for arm in results.arms
            if arm != "direct"
        ),
    ]
    skipped = [f"- left out: **{arm}**: {reason}" for arm, reason in results.skipped.items()]
    return "\n\n".join([_lined(lines[0], lines[1:]), *(["\n".join(skipped)] if skipped else [])])


def _table(results: Results, arms: Sequence[str], measures: Sequence[Measure]) -> str:
    shown = [measure for measure in measures if any(measure.values(results, arm) for arm in arms)]
    head = ("", *(measure.name(results.plan) for measure in shown))
    return _lined(head, [(arm, *(measure.text(results, arm) for measure in shown)) for arm in arms])


def _workers(results: Results, arms: Sequence[str]) -> list[str]:
    ours = [arm for arm in (ONE_WORKER, TWO_WORKERS) if arm in arms]
    if not any(THROTTLED_PER_S.values(results, arm) for arm in ours):
        return []
    table = _table(results, ours, (THROTTLED_PER_S, PAIR_EVENT))
    return ["## Two workers", "Each process held to a quarter of a core:", table]


def _open(results: Results, arms: Sequence[str]) -> list[str]:
    if not any(OPEN_PEAK.values(results, arm) for arm in arms):
        return []
    return ["## Many open streams, a token a second", _table(results, arms, (OPEN_PEAK, STREAM_KB))]


def _bars(judged: Sequence[Verdict]) -> str:
    rows = [
        (
            one.bar,
            one.wanted,
            one.found or "not measured",
            "met" if one.met else "**missed**" if one.found else "",
        )
        for one in judged
    ]
    return _lined((ONE_WORKER, "bar", "measured", ""), rows)


def _losses(results: Results, arms: Sequence[str]) -> list[str]:
    """The rows in which a peer is better; nobody needs to look for them."""
    rows = []
    for measure in (*COSTS, *TIMES):
        peers = [
            arm for arm in arms if arm not in OURS and (measure not in GAPS or _keeps_pace(results, arm))
        ]
        better = measure.beaten_by(results, ONE_WORKER, peers) if measure is not GAP_P50 else []
        if better:
            ours = measure.form.format(measure.median(results, ONE_WORKER))
            rows.append((measure.name(results.plan), ours, ", ".join(better)))
    return ["## Rows that Penstock loses", _lined(("", ONE_WORKER, "better"), rows)] if rows else []


def _keeps_pace(results: Results, arm: str) -> bool:
    """Whether its tokens do not come late and in bunches, which makes gaps short."""
    gap_ms = GAP_P50.median(results, arm)
    return gap_ms is not None and gap_ms > replies.INTERVAL_S * 1e3 / 2


def _limits(results: Results) -> str:
    """How near client and backend were to their own limits, load by load."""
    rows = []
    for step in results.plan.steps:
        cells = [cell for cell in results.cells if cell.step == step.key and not cell.void]
        direct = [cell.per_s for cell in cells if cell.arm == "direct"]
        if cells:
            busy = (max(cell.client_busy for cell in cells), max(cell.backend_busy for cell in cells))
            unit = "events/s" if step.load.tokens else "requests/s"
            alone = f"{sum(direct) / len(direct):,.0f} {unit}" if direct else ""
            load = f"{step.key}: {step.load.connections:,} connections"
            if step.load.prompt_bytes:
                load += f", prompts of {step.load.prompt_bytes / 1e3:,.0f} KB"
            rows.append((load, *(f"{share:.0%}" for share in busy), alone))
    return _lined(("load", "client busy, at most", "backend busy, at most", "direct"), rows)


def _void(results: Results) -> list[str]:
    voids = [
        f"- {cell.arm}, {cell.step}, round {cell.round + 1}: {cell.void}"
        for cell in results.cells
        if cell.void
    ]
    return ["## Void cells", "\n".join(voids)] if voids else []


def _lined(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
