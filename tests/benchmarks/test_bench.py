"""The truth server answers as its cases say, and the load tester's bars are measured and reported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.bench.rows import rows
from benchmarks.bench.truth import CASES, case_of, steps

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", CASES)
def test_an_answer_has_its_tokens_at_its_times_and_its_end_behind_them(name: str) -> None:
    case = CASES[name]

    plan = steps(case, True, False)

    brings = [at_s for at_s, _, has_tokens in plan if has_tokens]
    assert brings == [case.first_s + n * case.gap_s for n in range(case.tokens // case.per_chunk)]
    assert plan[-1][0] == brings[-1] + case.tail_s
    assert plan[-1][1].endswith(b"0\r\n\r\n")
    assert (b'"completion_tokens":%d' % case.tokens in plan[-1][1]) == case.usage
    assert sum(data.count(b" w") for _, data, _ in plan) == case.tokens


def test_usage_is_told_to_those_who_ask_and_a_reset_answer_is_half() -> None:
    assert b"usage" not in steps(CASES["base"], False, False)[-1][1]
    assert len(steps(CASES["reset"], True, True)) == 8


def test_a_path_names_its_case() -> None:
    assert case_of("/tail/v1/chat/completions") == CASES["tail"]
    assert case_of("/nowhere/v1/chat/completions") is None
    fast = case_of("/fast-40-300/v1/chat/completions")
    assert fast is not None
    assert (fast.gap_s, fast.tokens) == (0.04, 300)


def test_a_row_is_measured_and_written(tmp_path: Path) -> None:
    argv = (
        sys.executable,
        "-m",
        "benchmarks.bench",
        "--rows=truth-reset,start",
        "--tries=1",
        f"--out={tmp_path}",
    )

    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode in (0, 1), done.stderr  # a busy machine may miss a row
    told = {row["row"]: row for row in json.loads((tmp_path / "bench.json").read_text())}
    assert list(told) == ["truth-reset", "start"]
    assert not [wrong for wrong in told["truth-reset"]["wrong"] if "tokens" in wrong or "failures" in wrong]
    assert "start" in done.stdout


def test_every_row_has_a_name_of_its_own_and_a_row_that_is_none_is_refused() -> None:
    names = [row.name for row in rows()]
    assert len(set(names)) == len(names)

    argv = (sys.executable, "-m", "benchmarks.bench", "--rows=nonsense")
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2
    assert "no such row: nonsense" in done.stderr
