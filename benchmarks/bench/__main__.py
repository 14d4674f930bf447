"""`python -m benchmarks.bench`: holds the load tester against a server of known timing, and against its own bars.

Exits with 1 where a row is not met in any of its tries. It takes two minutes; nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from benchmarks.bench.rows import TRIES, Found, Row, rows
from benchmarks.bench.served import ROOT, Served, served


def main() -> int:
    """The exit code."""
    known = rows()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__)
    parser.add_argument("--rows", default="", help=f"of {', '.join(row.name for row in known)}; default: all")
    parser.add_argument("--tries", type=int, default=TRIES, help="default: %(default)s")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build" / "benchmarks", help="default: %(default)s"
    )
    options = parser.parse_args()
    names = [name for name in options.rows.split(",") if name]
    unknown = set(names) - {row.name for row in known}
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    with suppress(PermissionError):
        os.nice(-10)  # what else runs on this machine is not what is measured
    results = []
    with served() as server:
        for row in known:
            if not names or row.name in names:
                results.append((row, *_try(row, server, max(1, options.tries))))
                print(_line(*results[-1]), flush=True)
    _write(options.out / "bench.json", results)
    return 1 if any(found.wrong for _, found, _ in results) else 0


def _try(row: Row, server: Served, tries: int) -> tuple[Found, int]:
    """The first try that met the row, or the last one; and its number."""
    number, found = 1, row.look(server)
    while found.wrong and number < tries:
        number, found = number + 1, row.look(server)
    return found, number


def _line(row: Row, found: Found, tries: int) -> str:
    load = os.getloadavg()[0]
    lines = [f"{'ok  ' if not found.wrong else 'MISS'} {row.name:16} {found.told}"]
    if tries > 1:
        lines[0] += f"  (try {tries}, load {load:.1f})"
    shown = found.wrong[:5]
    lines += [f"     {row.wanted}: {wrong}" for wrong in shown]
    return "\n".join(lines)


def _write(path: Path, results: list[tuple[Row, Found, int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    told = [
        {
            "row": row.name,
            "wanted": row.wanted,
            "found": found.told,
            "wrong": list(found.wrong),
            "tries": tries,
        }
        for row, found, tries in results
    ]
    path.write_text(json.dumps(told, indent=1) + "\n")
    print(f"written to {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
