"""`python -m benchmarks.bench.metered REPORT COMMAND...`: runs a command, and tells what it and its offspring used.

A process is told only of the children that it waits for, and load testers leave some unwaited. So this process is the
one that orphans fall to (a subreaper), and it waits for every one of them before it sums up.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


def main(report: str, *argv: str) -> int:
    """Runs `argv`, and returns its exit code."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no subreaper")
    begun_s = time.monotonic()
    process = subprocess.Popen(argv)
    code = process.wait()
    wall_s = time.monotonic() - begun_s
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = {
        "exit_code": code,
        "wall_s": wall_s,
        "cpu_s": used.ru_utime + used.ru_stime,
        "largest_process_mb": used.ru_maxrss / 1024,
    }
    Path(report).write_text(json.dumps(told))
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
