"""The benchmarks run, check every reply and report; what they measure is asserted nowhere but in them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.tools import needs

ROOT = Path(__file__).parents[2]


def run(*argv: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *argv], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_gateway_and_nginx_are_compared_over_whole_replies(tmp_path: Path) -> None:
    needs("nginx", "nginx")

    table = run(
        "benchmarks.gateway",
        "--rounds=1",
        "--streams=40",
        "--tokens=20",
        "--plain-requests=64",
        f"--json={tmp_path / 'out.json'}",
    )

    assert "| nginx |" in table
    assert "| penstock |" in table
    assert json.loads((tmp_path / "out.json").read_text())


def test_the_simulated_engine_is_counted_over_whole_streams() -> None:
    said = run("benchmarks.simulator", "--streams=20", "--tokens=200")

    assert "4020 events" in said
