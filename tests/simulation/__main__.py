"""Runs the gateway's policies in virtual time: `python -m tests.simulation --seeds 2000`, or `--seed 1234` alone."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence

from tests.simulation.run import FailedSeedError, simulate


def main(argv: Sequence[str] | None = None) -> int:
    """Runs seeds one after another; 1 when one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="how many, from --first on (2000)")
    parser.add_argument("--first", type=int, default=0, help="the first one (0)")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first that fails")
    args = parser.parse_args(argv)
    seeds = (
        range(args.first, args.first + args.seeds) if args.seed is None else range(args.seed, args.seed + 1)
    )
    outcomes: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    done = 0
    started_s = time.perf_counter()
    for seed in seeds:
        done += 1
        try:
            outcomes.update(simulate(seed))
        except FailedSeedError as failure:
            failed[failure.invariant] += 1
            sys.stderr.write(f"{failure}\n")
            if not args.keep_going:
                break
    took_s = time.perf_counter() - started_s
    sys.stdout.write(f"{done} seeds in {took_s:.1f} s, {failed.total()} failed\n")
    for counts in (failed, outcomes):
        sys.stdout.writelines(f"{count:9} {name}\n" for name, count in counts.most_common())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
