"""`penstock logs`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.supervisor.logfile import LogFile
from tests.cli.conftest import Command


@pytest.fixture
def home(folder: Path) -> Path:
    """A home in which two replicas and a gateway have written."""
    for name in ("demo-0", "demo-1", "gateway"):
        log = LogFile(folder / ".penstock" / "logs" / f"{name}.log")
        log.append(b"".join(b"%s writes %d\n" % (name.encode(), number) for number in range(200)))
        log.close()
    return folder / ".penstock"


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    return {**kept, "PENSTOCK_HOME": str(home)}


def test_the_last_lines_of_all_are_shown_with_their_names(penstock: Command, home: Path) -> None:
    result = penstock("logs", "--lines", "1")

    assert result.code == 0
    assert sorted(result.out.splitlines()) == [
        "demo-0  | demo-0 writes 199",
        "demo-1  | demo-1 writes 199",
        "gateway | gateway writes 199",
    ]


def test_one_is_shown_as_it_was_written(penstock: Command, home: Path) -> None:
    lines = penstock("logs", "demo-1").out.splitlines()

    assert (len(lines), lines[0], lines[-1]) == (100, "demo-1 writes 100", "demo-1 writes 199")


def test_a_model_s_name_shows_its_replicas(penstock: Command, home: Path) -> None:
    lines = penstock("logs", "demo", "-n", "1").out.splitlines()

    assert lines == ["demo-0 | demo-0 writes 199", "demo-1 | demo-1 writes 199"]


def test_since_shows_all_that_came_since_as_json_too(penstock: Command, home: Path) -> None:
    result = penstock("logs", "gateway", "--since", "1h", "--json")

    lines = [json.loads(line) for line in result.out.splitlines()]
    assert len(lines) == 200
    assert (lines[0]["name"], lines[0]["text"]) == ("gateway", "gateway writes 0")
    assert lines[0]["time"].endswith("Z")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("demo-9",), "error: nothing has been logged by 'demo-9'; did you mean demo-"),
        (("x",), "hint: known: demo-0, demo-1, gateway"),
        (("--since", "soon"), "error: --since: expected a duration"),
        (("--lines", "-1"), "error: "),
    ],
)
def test_what_is_wrong_is_said(penstock: Command, home: Path, arguments: tuple[str, ...], said: str) -> None:
    result = penstock("logs", *arguments)

    assert (result.code, result.out) == (2, "")
    assert said in result.err


def test_where_nothing_was_logged_it_says_so(penstock: Command, folder: Path) -> None:
    result = penstock("logs")

    assert result.code == 1
    assert "nothing has been logged in " in result.err


def test_a_reader_that_leaves_is_no_error(home: Path) -> None:
    argv = [sys.executable, "-m", "penstock", "logs", "--lines", "200"]
    reader = subprocess.run(
        ["sh", "-c", '"$@" | head -n 1', "sh", *argv],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert reader.stderr == ""


def test_following_goes_on_across_files_and_with_parts_that_come_later(home: Path) -> None:
    argv = [sys.executable, "-m", "penstock", "logs", "-f", "--lines", "1"]
    with subprocess.Popen(argv, env=environment(home), stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        so_far = [follower.stdout.readline() for _ in range(3)]
        log = LogFile(home / "logs" / "demo-0.log", bytes_max=60)
        for number in range(10):
            log.append(b"again %d\n" % number)
        LogFile(home / "logs" / "demo-2.log").append(b"late\n")
        fresh = [follower.stdout.readline() for _ in range(11)]
        follower.send_signal(signal.SIGINT)

    assert len(so_far) == 3
    assert sorted(fresh) == sorted(
        [*(f"demo-0  | again {number}\n" for number in range(10)), "demo-2  | late\n"]
    )
    assert follower.returncode == 130
