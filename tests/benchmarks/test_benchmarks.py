"""The benchmarks run, check every reply and report; what they measure is asserted nowhere but in them."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from benchmarks.gateway.plan import TINY
from tests.tools import needs

ROOT = Path(__file__).parents[2]


def run(*argv: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *argv], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def compared(folder: Path, *arms: str) -> dict[str, Any]:
    said = run("benchmarks.gateway", "--tiny", f"--arms={','.join(arms)}", f"--out={folder}")
    assert said == (folder / "gateway.md").read_text() + "\n"
    numbers: dict[str, Any] = json.loads((folder / "gateway.json").read_text())
    assert not numbers["skipped"]
    return numbers


def test_every_load_is_put_on_nginx_and_penstock_over_whole_replies(tmp_path: Path) -> None:
    needs("nginx", "nginx")
    arms = ("direct", "nginx", "penstock")

    numbers = compared(tmp_path, *arms)

    measured = {(cell["arm"], cell["step"]) for cell in numbers["cells"] if cell["count"]}
    assert measured == {(arm, step.key) for arm in arms for step in TINY.of(arm)}
    assert {bar["bar"] for bar in numbers["bars"] if not bar["found"]} == set()
    assert "penstock" in {text.text for text in ET.parse(tmp_path / "gateway.svg").iter() if text.text}


def test_two_workers_are_held_against_one(tmp_path: Path) -> None:
    numbers = compared(tmp_path, "penstock", "penstock-2")

    found = [bar["found"] for bar in numbers["bars"] if bar["bar"].startswith("two workers")]
    assert len(found) == 2
    assert all(found)


def test_haproxy_passes_every_load(tmp_path: Path) -> None:
    needs("haproxy", "haproxy")

    numbers = compared(tmp_path, "haproxy")

    assert [cell["void"] for cell in numbers["cells"]] == [""] * len(TINY.of("haproxy"))


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--arms=ngnix"], "no such arm: ngnix"),
        (["--loads=flood"], "no such load: flood"),
        (["--rounds=0"], "--rounds"),
    ],
)
def test_an_option_that_names_nothing_is_an_error(argv: list[str], named: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gateway", *argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert named in done.stderr


def test_the_simulated_engine_is_counted_over_whole_streams() -> None:
    said = run("benchmarks.simulator", "--streams=20", "--tokens=200")

    assert "4020 events" in said
