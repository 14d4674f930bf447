"""`python -m benchmarks.gateway`: runs the comparison and prints its tables."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

if not __package__:  # started by its path
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.gateway.arms import ARMS
from benchmarks.gateway.report import as_json, as_markdown
from benchmarks.gateway.sitting import BUSY_MAX, ArmError, Plan, measure


def main() -> int:
    """The exit code: 1 where an arm did not start or a cell is void."""
    options = _options()
    names = options.arms.split(",")
    streams = sorted((int(count) for count in options.streams.split(",") if count), reverse=True)
    plan = Plan(tuple(streams), options.tokens, options.plain_requests, options.rounds)
    try:
        results = measure([ARMS[name] for name in names], plan)
    except ArmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(as_markdown(results, names, BUSY_MAX))
    if options.json:
        options.json.write_text(json.dumps(as_json(results), indent=1) + "\n")
    return 1 if any(cell.void for cell in results.cells) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument("--arms", default=",".join(ARMS), help=f"of {', '.join(ARMS)}; default: all")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument(
        "--streams", default="200,20", help="open streams, a cell for each; default: %(default)s"
    )
    parser.add_argument("--tokens", type=int, default=100, help="of each stream; default: %(default)s")
    parser.add_argument(
        "--plain-requests", type=int, default=4000, help="of each round; default: %(default)s"
    )
    parser.add_argument("--json", type=Path, help="write every measurement to this file")
    options = parser.parse_args()
    unknown = [name for name in options.arms.split(",") if name not in ARMS]
    if unknown or options.rounds < 1 or options.tokens < 2 or options.plain_requests < 1:
        parser.error(f"unknown arms: {', '.join(unknown)}" if unknown else "a count is too small")
    return options


if __name__ == "__main__":
    sys.exit(main())
