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
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from benchmarks.gateway import replies
from benchmarks.gateway.arms import Arm, Place
from benchmarks.gateway.client import KEY, Load
from benchmarks.gateway.peers import AbsentError
from benchmarks.gateway.plan import Plan, Step, at
from benchmarks.gateway.processes import ROOT, Throttle, Tree, backend, free_ports, started, throttled

from penstock.core.stats import percentile

READY_TIMEOUT_S = 90.0
ASK_EVERY_S = 0.01
WATCH_EVERY_S = 0.1
THROTTLE_EVERY_S = 0.002
SETTLE_S = 0.5
# A client or backend that is busier than this sets the pace itself.
BUSY_MAX = 0.8
# A throttled proxy that uses less of its share than this was not the bottleneck.
SHARE_USED_MIN = 0.85
# Processes with less of the tree's CPU than this do not serve requests.
WORKER_SHARE_MIN = 0.1
DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
WARM_UP = (Load(0, 4, 1, 20, 30.0), Load(0, 4, 50, 0, 30.0))


@dataclass(slots=True)
class Cell:
    """One arm under one load, once. `void` says why its numbers are worth nothing.

    `busiest_cpu_us` is what the busiest process of the tree alone used, divided by the same count.
    """

    arm: str
    round: int
    step: str
    count: int = 0
    per_s: float = 0.0
    cpu_us: float | None = None
    busiest_cpu_us: float | None = None
    open_peak: int = 0
    rss_kb_per_stream: float | None = None
    share_used: float | None = None
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
    processes: int


@dataclass(slots=True)
class Results:
    """Everything that was measured. `skipped` says why an arm could not be had, or did not serve."""

    plan: Plan
    arms: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    starts: list[Start] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    took_s: float = 0.0


class ArmError(Exception):
    """An arm that did not come up, or answers wrongly from the start."""


def measure(arms: Sequence[Arm], plan: Plan, cache: Path) -> Results:
    """All rounds. The order of the arms turns from round to round, so that none is always first.

    Args:
        arms: in the order of the tables.
        plan: what to do with each.
        cache: where peers are installed.
    """
    results = Results(plan, tuple(arm.name for arm in arms))
    venvs = _prepared(arms, cache, results)
    began_s = time.monotonic()
    with backend() as (engine, port):
        for number in range(plan.rounds):
            turn = number % len(arms)
            for arm in (*arms[turn:], *arms[:turn]):
                if arm.name in results.skipped:
                    continue
                print(f"round {number + 1} of {plan.rounds}: {arm.name}", file=sys.stderr)
                try:
                    _measure_arm(_Bench(arm, venvs[arm.name], engine, port), number, results)
                except ArmError as error:
                    results.skipped[arm.name] = str(error)
                    print(f"{arm.name} is left out: {error}", file=sys.stderr)
    results.took_s = time.monotonic() - began_s
    return results


def _prepared(arms: Sequence[Arm], cache: Path, results: Results) -> dict[str, Path]:
    venvs = {}
    for arm in arms:
        try:
            venvs[arm.name] = arm.prepared(cache)
            results.versions[arm.name] = arm.version()
        except AbsentError as reason:
            results.skipped[arm.name] = str(reason)
            print(f"{arm.name} is left out: {reason}", file=sys.stderr)
    return venvs


@dataclass(frozen=True, slots=True)
class _Bench:
    arm: Arm
    venv: Path
    engine: psutil.Process
    engine_port: int


def _measure_arm(bench: _Bench, number: int, results: Results) -> None:
    steps = results.plan.of(bench.arm.name)
    for group in ([step for step in steps if not step.fresh], *([step] for step in steps if step.fresh)):
        if not group:
            continue
        with _up(bench) as (tree, port, ready_s, folder):
            if tree is not None:
                time.sleep(SETTLE_S)
                tree.look()
                rss_mb = tree.rss_bytes() / 1e6
                results.starts.append(Start(bench.arm.name, number, ready_s, rss_mb, len(tree.members)))
            for load in WARM_UP:
                tried = _run(bench, number, Step("warm-up", at(load, port)), tree)
                if tried.void:
                    raise ArmError(f"it does not pass a plain call or a stream: {tried.void}")
            for step in group:
                here = Step(step.key, at(step.load, port), share=step.share)
                cell = _run(bench, number, here, tree)
                results.cells.append(cell)
                if tree is not None and not _runs(tree.root):
                    cell.void = f"it has ended: {_last_words(folder) or cell.void}"
                    break  # the loads that follow would find nobody


def _run(bench: _Bench, number: int, step: Step, tree: Tree | None) -> Cell:
    """One cell: the client's run, and what it cost."""
    cell = Cell(bench.arm.name, number, step.key)
    trees = {"engine": Tree(bench.engine)} | ({"arm": tree} if tree else {})
    if tree:
        tree.look()
    before = {name: each.cpu_s() for name, each in trees.items()}
    rss_before = tree.rss_bytes() if tree else 0
    said, rss_peak = _client(step, tree)
    if tree:
        tree.look()
    after = {name: each.cpu_s() for name, each in trees.items()}
    used_s = {
        name: [cpu_s - before[name].get(pid, 0.0) for pid, cpu_s in after[name].items()] for name in trees
    }
    if isinstance(said, str):
        cell.void = f"the client ended: {said}"
        return cell
    busy_s = max(said["wall_s"], 1e-3)
    cell.client_busy = min(said["cpu_s"] / busy_s, 1.0)
    cell.backend_busy = min(sum(used_s["engine"]) / busy_s, 1.0)
    cell.void = said["wrong"][0] if said["wrong"] else ""
    _fill(cell, step.load, said)
    if tree:
        _fill_cost(cell, step, used_s["arm"], rss_peak - rss_before, busy_s)
    if (step.load.tokens or step.share) and max(cell.client_busy, cell.backend_busy) > BUSY_MAX:
        cell.void = cell.void or f"client {cell.client_busy:.0%} or backend {cell.backend_busy:.0%} busy"
    return cell


def _fill(cell: Cell, load: Load, said: dict[str, Any]) -> None:
    """What the client saw."""
    cell.count = said["events"] if load.tokens else said["replies"]
    cell.per_s = cell.count / max(said["wall_s"], 1e-3)
    cell.open_peak = said["open_peak"]
    for name in ("ttft_ms", "gap_ms", "transit_ms", "reply_ms"):
        for p in (50, 99) if said[name] else ():
            cell.times_ms[f"{name.removesuffix('_ms')}_p{p}"] = percentile(said[name], p)


def _fill_cost(cell: Cell, step: Step, used_s: Sequence[float], grown_bytes: int, wall_s: float) -> None:
    """What it cost the arm."""
    if cell.count:
        cell.cpu_us = sum(used_s) / cell.count * 1e6
        cell.busiest_cpu_us = max(used_s) / cell.count * 1e6
    if cell.open_peak:
        cell.rss_kb_per_stream = grown_bytes / cell.open_peak / 1e3
    if step.share:
        workers = [each_s for each_s in used_s if each_s > WORKER_SHARE_MIN * sum(used_s)]
        cell.share_used = sum(workers) / len(workers) / (step.share * wall_s) if workers else 0.0
        if cell.share_used < SHARE_USED_MIN:
            cell.void = cell.void or f"the proxy used only {cell.share_used:.0%} of its share of a core"


def _client(step: Step, tree: Tree | None) -> tuple[dict[str, Any] | str, int]:
    """What the client says, or why it says nothing; and the arm's largest memory meanwhile."""
    argv = (sys.executable, "-m", "benchmarks.gateway.client", json.dumps(asdict(step.load)))
    with (
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(argv, cwd=ROOT, stdout=output, stderr=errors) as child,
    ):
        if step.share and tree is not None:
            with throttled(tree, step.share) as throttle:
                rss_peak = _watch(child, tree, throttle)
        else:
            rss_peak = _watch(child, tree, None)
        output.seek(0)
        errors.seek(0)
        if child.returncode:
            return errors.read().decode(errors="replace")[-500:], rss_peak
        return json.loads(output.read()), rss_peak


def _watch(child: subprocess.Popen[bytes], tree: Tree | None, throttle: Throttle | None) -> int:
    rss_peak, look_at_s = 0, 0.0
    while child.poll() is None:
        now_s = time.monotonic()
        if throttle:
            throttle.tick(now_s)
        if tree and now_s >= look_at_s:
            look_at_s = now_s + WATCH_EVERY_S
            rss_peak = max(rss_peak, tree.rss_bytes())
        time.sleep(THROTTLE_EVERY_S if throttle else WATCH_EVERY_S)
    return rss_peak


@contextmanager
def _up(bench: _Bench) -> Iterator[tuple[Tree | None, int, float, Path]]:
    """The arm while it runs: its processes, its port, the seconds until it served a request, and its folder."""
    arm = bench.arm
    if arm.launch is None:
        yield None, bench.engine_port, 0.0, Path()
        return
    with tempfile.TemporaryDirectory(prefix=f"bench-{arm.name}-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        port, spare_port = free_ports(2)
        launch = arm.launch(Place(bench.engine_port, port, spare_port, folder, bench.venv))
        began_s = time.monotonic()
        with started(launch, folder) as process:
            while not _serves(port):
                if not _runs(process):
                    raise ArmError(f"it has ended: {_last_words(folder)}")
                if time.monotonic() - began_s > READY_TIMEOUT_S:
                    raise ArmError(
                        f"it did not serve a request within {READY_TIMEOUT_S:g} s: {_last_words(folder)}"
                    )
                time.sleep(ASK_EVERY_S)
            yield Tree(process), port, time.monotonic() - began_s, folder


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _last_words(folder: Path) -> str:
    return " / ".join((folder / "output.log").read_text(errors="replace").strip().splitlines()[-4:])[-600:]


def _serves(port: int) -> bool:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        replies.request(1, stream=False),
        {"content-type": "application/json", "authorization": f"Bearer {KEY}"},
    )
    try:
        with DIRECTLY.open(request, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
