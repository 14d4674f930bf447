"""One sitting: in each round every arm is started, warmed, measured cell by cell, and ended."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from benchmarks.gateway import replies
from benchmarks.gateway.arms import Arm, Place
from benchmarks.gateway.client import KEY, Load
from benchmarks.gateway.processes import ROOT, backend, cpu_s, free_ports, rss_bytes, started

READY_TIMEOUT_S = 30.0
ASK_EVERY_S = 0.01
WATCH_EVERY_S = 0.1
SETTLE_S = 0.5
PLAIN_CONNECTIONS = 8
# A short run's CPU is mostly what starting it costs; each stream cell has at least this many events.
EVENTS_MIN = 8_000
# A client or backend that is busier than this sets the pace itself.
BUSY_MAX = 0.8


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure: stream counts from the largest down, plain requests, and how often."""

    streams: tuple[int, ...]
    tokens: int
    plain_requests: int
    rounds: int


@dataclass(slots=True)
class Cell:
    """One arm under one load, once. `void` says why its numbers are worth nothing."""

    arm: str
    round: int
    load: str
    count: int = 0
    wall_s: float = 0.0
    cpu_us: float | None = None
    rss_peak_kb_per_stream: float | None = None
    times_ms: dict[str, float] = field(default_factory=dict)
    client_busy: float = 0.0
    backend_busy: float = 0.0
    void: str = ""


@dataclass(frozen=True, slots=True)
class Start:
    """How an arm started, once."""

    arm: str
    round: int
    ready_s: float
    idle_rss_mb: float


@dataclass(slots=True)
class Results:
    """Everything that was measured."""

    plan: Plan
    starts: list[Start] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)


class ArmError(Exception):
    """An arm that did not come up."""


def measure(arms: Sequence[Arm], plan: Plan) -> Results:
    """All rounds. The order of the arms turns from round to round, so that none is always first."""
    results = Results(plan)
    with backend() as (engine, port):
        for number in range(plan.rounds):
            turn = number % len(arms)
            for arm in (*arms[turn:], *arms[:turn]):
                print(f"round {number + 1} of {plan.rounds}: {arm.name}", file=sys.stderr)
                _measure_arm(arm, number, engine, port, results)
    return results


def _measure_arm(arm: Arm, number: int, engine: psutil.Process, backend_port: int, results: Results) -> None:
    plan = results.plan
    with _up(arm, backend_port) as (process, port, ready_s):
        if process is not None:
            time.sleep(SETTLE_S)
            results.starts.append(Start(arm.name, number, ready_s, rss_bytes(process) / 1e6))
        for load in (Load(port, 4, 1, 20, 20.0), Load(port, 4, 50, 0, 20.0)):  # warm-up, not kept
            _run(Cell(arm.name, number, "warm-up"), load, process, engine)
        for streams in plan.streams:
            waves = max(2, -(-EVENTS_MIN // (streams * plan.tokens)))
            limit_s = 10 + 5 * waves * plan.tokens * replies.INTERVAL_S
            load = Load(port, streams, waves, plan.tokens, limit_s)
            results.cells.append(_run(Cell(arm.name, number, f"streams {streams}"), load, process, engine))
        each = -(-plan.plain_requests // PLAIN_CONNECTIONS)
        load = Load(port, PLAIN_CONNECTIONS, each, 0, 60.0)
        results.cells.append(_run(Cell(arm.name, number, "plain"), load, process, engine))


def _run(cell: Cell, load: Load, process: psutil.Process | None, engine: psutil.Process) -> Cell:
    """`cell`, filled in by one run of the client."""
    argv = (sys.executable, "-m", "benchmarks.gateway.client", json.dumps(asdict(load)))
    rss_before = rss_peak = rss_bytes(process) if process else 0
    arm_before_s, engine_before_s, began_s = (
        cpu_s(process) if process else 0.0,
        cpu_s(engine),
        time.monotonic(),
    )
    client_s = 0.0
    with tempfile.TemporaryFile() as output, subprocess.Popen(argv, cwd=ROOT, stdout=output) as client:
        watched = psutil.Process(client.pid)
        while client.poll() is None:
            client_s = max(client_s, cpu_s(watched))
            rss_peak = max(rss_peak, rss_bytes(process) if process else 0)
            time.sleep(WATCH_EVERY_S)
        output.seek(0)
        text = output.read()
    cell.wall_s = time.monotonic() - began_s
    cell.client_busy = client_s / cell.wall_s
    cell.backend_busy = (cpu_s(engine) - engine_before_s) / cell.wall_s
    if client.returncode:
        cell.void = f"the client ended with {client.returncode}"
        return cell
    seen = json.loads(text)
    cell.count = seen["events"] if load.tokens else seen["replies"]
    cell.void = seen["wrong"][0] if seen["wrong"] else ""
    for name in ("ttft_ms", "gap_ms", "transit_ms", "reply_ms"):
        for p in (50, 99) if seen[name] else ():
            cell.times_ms[f"{name.removesuffix('_ms')}_p{p}"] = percentile(seen[name], p)
    if process is not None and cell.count:
        cell.cpu_us = (cpu_s(process) - arm_before_s) / cell.count * 1e6
        cell.rss_peak_kb_per_stream = (
            (rss_peak - rss_before) / load.connections / 1e3 if load.tokens else None
        )
    if max(cell.client_busy, cell.backend_busy) > BUSY_MAX and load.tokens:
        cell.void = cell.void or f"client {cell.client_busy:.0%} or backend {cell.backend_busy:.0%} busy"
    return cell


@contextmanager
def _up(arm: Arm, backend_port: int) -> Iterator[tuple[psutil.Process | None, int, float]]:
    """The arm while it runs: its process, its port, and the seconds until it served a request."""
    if arm.launch is None:
        yield None, backend_port, 0.0
        return
    with tempfile.TemporaryDirectory(prefix=f"bench-{arm.name}-") as name:
        folder = Path(name)
        port, spare_port = free_ports(2)
        launch = arm.launch(Place(backend_port, port, spare_port, folder))
        began_s = time.monotonic()
        with started(launch, folder) as process:
            while not _serves(port):
                if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                    raise ArmError(f"{arm.name} has ended:\n{(folder / 'output.log').read_text()[-2000:]}")
                if time.monotonic() - began_s > READY_TIMEOUT_S:
                    raise ArmError(f"{arm.name} did not serve a request within {READY_TIMEOUT_S:g} s")
                time.sleep(ASK_EVERY_S)
            yield process, port, time.monotonic() - began_s


def _serves(port: int) -> bool:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        replies.request(1, stream=False),
        {"content-type": "application/json", "authorization": f"Bearer {KEY}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def percentile(values: Sequence[float], p: float) -> float:
    """The nearest-rank percentile of at least one value; `p` from 0 to 100."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * p // 100).__int__() - 1)]
