"""`tools/gpu_check.py` goes all its way on a GPU that is not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.e2e.processes import environment

ROOT = Path(__file__).resolve().parents[2]


def test_every_part_is_gone_through_without_a_gpu_and_what_needs_one_is_skipped_with_its_reason(
    tmp_path: Path,
) -> None:
    table = tmp_path / "table.md"

    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "tools" / "gpu_check.py"), "--fake"),
            *("--folder", str(tmp_path), "--markdown", str(table)),
        ],
        env=environment(tmp_path / "unused"),
        capture_output=True,
        text=True,
        timeout=110,
    )

    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.read_text().splitlines()]
    checks = {(row[0], row[1]): row[-1] for row in rows if len(row) > 3}
    assert done.returncode == 0, done.stdout + done.stderr
    assert "on a GPU that is not there" in table.read_text()
    for check in (
        ("fields", "gpu 0: what alerts need"),
        ("serve", "2 replicas ready"),
        ("serve", "memory by replica"),
        ("stall", "the stream"),
        ("kill", "the stream"),
        ("kill", "all of its processes gone, memory freed"),
        ("kill", "serves again"),
        ("stop", "memory freed"),
    ):
        assert checks[check] == "ok", done.stdout
    assert checks["plan", "a model of real size"] == "skip" or checks["plan", "weights, bytes"] == "ok"
    assert checks["serve", "transformers serve"] == "skip"
