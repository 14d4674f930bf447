"""`python -m benchmarks.gateway`: runs the comparison, prints its report, and writes it to a folder.

Without options it runs the whole table: every arm, every load, three rounds. `--quick` takes a minute.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import sys
from pathlib import Path

if not __package__:  # started by its path
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.gateway.arms import ARMS, OURS, QUICK_ARMS
from benchmarks.gateway.bars import asserted
from benchmarks.gateway.peers import cache_folder
from benchmarks.gateway.plan import FULL, QUICK, TINY, Plan
from benchmarks.gateway.plot import as_svg
from benchmarks.gateway.processes import ROOT
from benchmarks.gateway.report import as_json, as_markdown
from benchmarks.gateway.sitting import Results, measure

FILES_MAX = 65_536  # enough for 2,000 streams; some programs prepare for each file that they may open


def main() -> int:
    """The exit code: 1 where direct or Penstock did not serve or has a void cell, or an asserted bar is missed."""
    options = _options()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    results = measure([ARMS[name] for name in options.arms], _plan(options), cache_folder())
    print(_write(results, options.out))
    failed = [
        *(f"{name}: {why}" for name, why in results.skipped.items() if name in OURS),
        *(f"{c.arm}, {c.step}: {c.void}" for c in results.cells if c.void and c.arm in (*OURS, "direct")),
    ]
    if options.assert_bars:
        failed += [f"{one.bar}: {one.wanted}; {one.found or 'not measured'}" for one in asserted(results)]
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    return 1 if failed else 0


def _write(results: Results, folder: Path) -> str:
    """The report, once it is in `folder` with its picture and its numbers."""
    command = shlex.join(["python", "-m", "benchmarks.gateway", *sys.argv[1:]])
    text = as_markdown(results, command, "gateway.svg")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gateway.md").write_text(text)
    (folder / "gateway.json").write_text(json.dumps(as_json(results), indent=1) + "\n")
    (folder / "gateway.svg").write_text(as_svg(results, [name for name in results.arms if name != "direct"]))
    print(f"written to {folder}: gateway.md, gateway.json, gateway.svg", file=sys.stderr)
    return text


def _plan(options: argparse.Namespace) -> Plan:
    plan = QUICK if options.quick else TINY if options.tiny else FULL
    steps = tuple(step for step in plan.steps if not options.loads or step.key in options.loads)
    return Plan(steps, options.rounds or plan.rounds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help=f"a minute: {', '.join(QUICK_ARMS)}, two loads")
    size.add_argument("--tiny", action="store_true", help="every load for a moment; the numbers mean nothing")
    parser.add_argument("--arms", type=_names, help=f"of {', '.join(ARMS)}; default: all")
    parser.add_argument(
        "--loads", type=_names, help=f"of {', '.join(step.key for step in FULL.steps)}; default: all"
    )
    parser.add_argument("--rounds", type=int, help=f"default: {FULL.rounds}")
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "build" / "benchmarks",
        help="folder of the report; default: %(default)s",
    )
    parser.add_argument(
        "--assert", dest="assert_bars", action="store_true",
        help="fail where a bar that is a ratio to another arm is missed",
    )  # fmt: skip
    options = parser.parse_args()
    options.arms = options.arms or (QUICK_ARMS if options.quick else tuple(ARMS))
    for kind, named, known in (
        ("arm", options.arms, ARMS),
        ("load", options.loads or (), [step.key for step in (QUICK if options.quick else FULL).steps]),
    ):
        unknown = [name for name in named if name not in known]
        if unknown:
            parser.error(f"no such {kind}: {', '.join(unknown)}; there are {', '.join(known)}")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds: expected at least 1")
    return options


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in text.split(",") if name))


if __name__ == "__main__":
    sys.exit(main())
