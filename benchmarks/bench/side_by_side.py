"""Load testers side by side, in one sitting: `python -m benchmarks.bench.side_by_side`.

Every tool puts the same loads on the server of known timing, started anew for each, and what it tells is put beside
the truth. Then: how it spaces Poisson arrivals, by the server's own log; what an event costs it, by the difference
between long answers and short ones; what its start costs; how large it is installed. A tool that can't be had or
fails is named with the reason. The table goes to stdout and, with all numbers as JSON, to build/benchmarks.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.bench import metered
from benchmarks.bench.calm import OTHERS_SHARE_MAX, busy_s, process_cpu_s, share_of, wait_for_calm
from benchmarks.bench.expected import Load, Told, dispersion
from benchmarks.bench.own import Penstock
from benchmarks.bench.peers import PEERS, Place, Tool, write_tokenizer
from benchmarks.bench.side_by_side_table import table
from benchmarks.gateway.peers import AbsentError, cache_folder

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 180.0
TRUTH_TIMEOUT_S = 10.0
# Of the loads that cost is told of: the least of so many runs, as noise only adds.
COST_RUNS = 2
SAID = "said.txt"
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
NOT_INHERITED = frozenset((*OFFLINE, "PYTHONPATH"))

CLOSED = tuple(
    Load(case) for case in ("base", "role", "lumps", "reasoning", "tail", "refused", "reset", "no-usage")
)
QUEUES = {
    "queue at the server": Load("queue", requests=40, concurrency=0, rate_per_s=16.0),
    "cap at the client": Load("base", requests=40, concurrency=4, rate_per_s=16.0),
}
POISSON = Load("base", requests=240, concurrency=0, rate_per_s=30.0, poisson=True)
STREAMS, SHORT, LONG, GAP_MS = 100, 20, 200, 20
START = Load("instant", requests=1, concurrency=1)


@dataclass
class Run:
    """One run of a tool: what it told, what it used, and why there is nothing of either."""

    told: Told | None = None
    elsewhere_ms: float | None = None
    exit_code: int | None = None
    cpu_s: float = 0.0
    wall_s: float = 0.0
    largest_process_mb: float = 0.0
    others_share: float = 0.0  # of the machine, that was used by what was none of ours
    failure: str = ""


@dataclass
class Results:
    """All of one tool."""

    name: str
    version: str
    remark: str
    installed_mb: float = 0.0
    absent: str = ""
    cases: dict[str, Run] = field(default_factory=dict)
    arrivals_per_s: float | None = None
    dispersion: float | None = None
    cpu_us_per_event: float | None = None
    start_cpu_s: float | None = None
    largest_process_mb: float | None = None
    notes: list[str] = field(default_factory=list)


class Sitting:
    """Tools, one after the other.

    Args:
        cache: where they are installed.
        scratch: for their results.
        patience_s: how long to wait for others on this machine to be quiet, before each run.
        tries: a run that others disturbed is made again, so often in all; the calmest counts.
    """

    def __init__(self, cache: Path, scratch: Path, patience_s: float = 60.0, tries: int = 3) -> None:
        self._patience_s = patience_s
        self._tries = tries
        self._cache = cache
        self._scratch = scratch
        self._tokenizer = scratch / "tokenizer"
        write_tokenizer(self._tokenizer)

    def all_of(self, tool: Tool, quick: bool) -> Results:
        """Everything of one tool; `quick` leaves out arrivals and costs."""
        results = Results(tool.name, tool.version(), tool.remark)
        try:
            venv = tool.package.installed(self._cache, tool.locks)
            tool.prepare(venv)
        except AbsentError as error:
            results.absent = str(error)
            return results
        results.installed_mb = tool.installed_mb(venv)
        loads = {load.case: load for load in CLOSED} | (QUEUES if not quick else {})
        for name, load in loads.items():
            results.cases[name], _ = self.run(tool, venv, load)
        if not quick:
            self._arrivals(tool, venv, results)
            self._costs(tool, venv, results)
        return results

    def run(self, tool: Tool, venv: Path, load: Load) -> tuple[Run, list[float]]:
        """The calmest of some runs, and when its requests came to the server, seconds."""
        if load.rate_per_s and load.concurrency and not tool.caps_open_loops:
            return Run(failure="it has no such cap"), []
        tries: list[tuple[Run, list[float]]] = []
        while len(tries) < self._tries:
            wait_for_calm(self._patience_s)
            say(f"{tool.name}: {load}")
            tries.append(self._run(tool, venv, load))
            if tries[-1][0].failure or tries[-1][0].others_share <= OTHERS_SHARE_MAX:
                return tries[-1]
        return min(tries, key=lambda tried: tried[0].others_share)

    def _run(self, tool: Tool, venv: Path, load: Load) -> tuple[Run, list[float]]:
        out = self._scratch / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        with truth_server() as (url, pid):
            place = Place(venv, f"{url}/{load.case}", self._tokenizer, out)
            before_s, server_s = busy_s(), process_cpu_s(pid)
            run = self._metered(tool, tool.argv(load, place), out)
            others_s = busy_s() - before_s - run.cpu_s - (process_cpu_s(pid) - server_s)
            run.others_share = share_of(others_s, run.wall_s)
            arrivals = [times[0] for _, times in fetched(f"{url}/log")]
        if not run.failure:
            try:
                run.told, run.elsewhere_ms = tool.read(out), tool.elsewhere(out)
            except (OSError, KeyError, ValueError, TypeError, IndexError) as error:
                said = (self._scratch / SAID).read_text(errors="replace").strip().rpartition("\n")[2]
                run.failure = f"no results, exit code {run.exit_code}: {said[:200] or repr(error)}"
        return run, arrivals

    def _metered(self, tool: Tool, argv: Sequence[str], out: Path) -> Run:
        kept = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
        env = {**kept, "HF_HUB_DISABLE_TELEMETRY": "1", **tool.env()}
        if tool.hub_offline:
            env |= dict.fromkeys(OFFLINE, "1")
        report, log = self._scratch / "used.json", self._scratch / SAID
        report.unlink(missing_ok=True)
        wrapped = (sys.executable, metered.__file__, str(report), *argv)
        with log.open("w") as said:
            process = subprocess.Popen(
                wrapped, cwd=out, env=env, stdout=said, stderr=said, start_new_session=True
            )
            try:
                process.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()
                return Run(failure=f"it ran longer than {TIMEOUT_S:g} s")
        if not report.exists():
            return Run(failure=log.read_text()[-300:])
        return Run(**json.loads(report.read_text()))

    def _arrivals(self, tool: Tool, venv: Path, results: Results) -> None:
        run, arrivals = self.run(tool, venv, POISSON)
        if run.failure or len(arrivals) < POISSON.requests:
            results.notes.append(f"Poisson arrivals: {run.failure or f'only {len(arrivals)} requests came'}")
            return
        # What came before the load, such as a trial request, is no part of it.
        times_s = sorted(arrivals)[-POISSON.requests :]
        results.arrivals_per_s = (len(times_s) - 1) / (times_s[-1] - times_s[0])
        results.dispersion = dispersion(times_s)

    def _costs(self, tool: Tool, venv: Path, results: Results) -> None:
        def least(load: Load) -> Run | None:
            runs = [self.run(tool, venv, load)[0] for _ in range(COST_RUNS)]
            results.notes += [f"{load.case}: {run.failure}" for run in runs if run.failure]
            return min((run for run in runs if not run.failure), key=lambda run: run.cpu_s, default=None)

        start = least(START)
        short = least(Load(f"fast-{GAP_MS}-{SHORT}", requests=STREAMS, concurrency=STREAMS))
        long = least(Load(f"fast-{GAP_MS}-{LONG}", requests=STREAMS, concurrency=STREAMS))
        if start is not None:
            results.start_cpu_s = start.cpu_s
        if short is not None and long is not None:
            results.cpu_us_per_event = (long.cpu_s - short.cpu_s) / (STREAMS * (LONG - SHORT)) * 1e6
            results.largest_process_mb = long.largest_process_mb


@contextmanager
def truth_server() -> Iterator[tuple[str, int]]:
    """The URL and process of a server of known timing that nobody has asked so far."""
    process = subprocess.Popen(
        (sys.executable, "-m", "benchmarks.bench.truth"),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}", process.pid
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def fetched(url: str) -> Any:
    """The JSON at a URL of the truth server."""
    with urllib.request.urlopen(url, timeout=TRUTH_TIMEOUT_S) as reply:
        return json.load(reply)


def say(line: str) -> None:
    """Prints a line for who waits."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Runs the sitting."""
    tools: dict[str, Tool] = {tool.name.split()[0]: tool for tool in (Penstock(), *PEERS)}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", default=",".join(tools), help="some of %(default)s")
    parser.add_argument("--quick", action="store_true", help="the closed loops alone")
    parser.add_argument("--add", action="store_true", help="keep what --out has of the other tools")
    parser.add_argument("--patience", type=float, default=60.0, help="to wait for a calm machine, seconds")
    parser.add_argument("--tries", type=int, default=3, help="of a run that others disturb")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "benchmarks")
    arguments = parser.parse_args()
    unknown = set(arguments.tools.split(",")) - set(tools)
    if unknown:
        parser.error(f"--tools: {', '.join(sorted(unknown))}: it knows {', '.join(tools)}")
    names = arguments.tools.split(",")
    shown_names = {tools[name].name for name in names}
    all_results = (
        [old for old in read_back(arguments.out) if old.name not in shown_names] if arguments.add else []
    )
    with tempfile.TemporaryDirectory() as scratch:
        sitting = Sitting(cache_folder(), Path(scratch), arguments.patience, arguments.tries)
        for name in names:
            all_results.append(sitting.all_of(tools[name], arguments.quick))
            all_results.sort(key=lambda results: list(tools).index(results.name.split()[0]))
            shown = written(all_results, arguments.out)  # after each tool: a sitting is long
    print(shown)


def written(all_results: Sequence[Results], out: Path) -> str:
    """Writes the numbers and the table, and returns the table."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    told = {"machine": machine, "tools": [asdict(results) for results in all_results]}
    shown = table(all_results, {**{load.case: load for load in CLOSED}, **QUEUES}, machine)
    out.mkdir(parents=True, exist_ok=True)
    (out / "load_testers.json").write_text(json.dumps(told, indent=1))
    (out / "load_testers.md").write_text(shown)
    return shown


def read_back(out: Path) -> list[Results]:
    """The numbers that `written` wrote."""
    found = []
    for told in json.loads((out / "load_testers.json").read_text())["tools"]:
        results = Results(**told)
        results.cases = {
            name: Run(**{**run, "told": Told(**run["told"]) if run["told"] else None})
            for name, run in told["cases"].items()
        }
        found.append(results)
    return found


if __name__ == "__main__":
    main()
