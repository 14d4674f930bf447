"""The side by side of load testers knows the truth, meters whole process trees, and names what it can't have."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.bench.calm import busy_s, process_cpu_s, share_of
from benchmarks.bench.expected import Load, Told, dispersion, expected, is_right, waits
from benchmarks.bench.peers import Place, Tool, write_tokenizer
from benchmarks.bench.side_by_side import ROOT, Results, Sitting, read_back, written
from benchmarks.bench.side_by_side_table import table
from benchmarks.bench.truth import CASES
from benchmarks.gateway.peers import Package

ASKS_ONCE = """
import json, sys, urllib.request
url, out = sys.argv[1:]
body = json.dumps({"model": "truth", "messages": [], "stream": True}).encode()
with urllib.request.urlopen(urllib.request.Request(url + "/v1/chat/completions", body)) as reply:
    chunks = sum(b"content" in line for line in reply)
open(out + "/told.json", "w").write(json.dumps({"ttft_ms": 50.0, "tokens": chunks, "whole": 20, "failed": 0}))
"""


class Odd(Tool):
    """A load tester of one request that tells a wrong time."""

    name = "odd"
    package = Package("odd", "odd")
    remark = "it asks once"

    def __init__(self, locks: Path, code: str = ASKS_ONCE) -> None:
        self.locks, self._code = locks, code
        (locks / "odd.txt").write_text("")

    def argv(self, load: Load, place: Place) -> list[str]:
        return [sys.executable, "-c", self._code, place.url, str(place.out)]

    def read(self, out: Path) -> Told:
        return Told(**json.loads((out / "told.json").read_text()))


@pytest.mark.parametrize(
    ("case", "ttft_ms", "tpot_ms", "e2e_ms"),
    [("base", 200, 20, 500), ("role", 200, 20, 500), ("lumps", 200, 4, 260), ("tail", 200, 20, 500)],
)
def test_the_truth_of_a_case_follows_from_how_it_is_served(
    case: str, ttft_ms: float, tpot_ms: float, e2e_ms: float
) -> None:
    truth = expected(CASES[case], Load(case))

    assert (truth.ttft_ms, truth.tpot_ms, truth.e2e_ms) == pytest.approx((ttft_ms, tpot_ms, e2e_ms))
    assert (truth.tokens, truth.whole, truth.failed) == (16, 20, 0)


def test_the_first_answer_comes_after_the_reasoning() -> None:
    assert expected(CASES["reasoning"], Load("reasoning")).answer_ms == pytest.approx(360)


@pytest.mark.parametrize("case", ["refused", "reset"])
def test_three_of_ten_requests_fail(case: str) -> None:
    truth = expected(CASES[case], Load(case))

    assert (truth.whole, truth.failed) == (14, 6)


def test_a_queue_grows_as_long_as_more_comes_than_is_served() -> None:
    assert waits(6, rate_per_s=16, places=2, service_s=0.5) == pytest.approx(
        [0, 0, 0.5 - 2 / 16, 0.5 - 2 / 16, 1 - 4 / 16, 1 - 4 / 16], abs=1e-9
    )
    assert expected(CASES["queue"], Load("queue", 40, 0, 16.0)) == expected(
        CASES["base"], Load("base", 40, 4, 16.0)
    )
    assert expected(CASES["queue"], Load("queue", 40, 0, 16.0)).e2e_ms == pytest.approx(1650, abs=30)


@pytest.mark.parametrize(
    ("name", "told", "truth", "right"),
    [
        ("ttft_ms", 201.9, 200.0, True),
        ("ttft_ms", 202.1, 200.0, False),
        ("tpot_ms", 20.19, 20.0, True),
        ("tpot_ms", 20.21, 20.0, False),
        ("e2e_ms", 504.9, 500.0, True),
        ("e2e_ms", 494.0, 500.0, False),
        ("tokens", 16.0, 16, True),
        ("tokens", 16.1, 16, False),
    ],
)
def test_a_time_may_be_off_by_a_little_and_a_count_not_at_all(
    name: str, told: float, truth: float, right: bool
) -> None:
    assert is_right(name, told, truth) is right


def test_arrivals_of_a_clock_have_no_dispersion_and_those_of_chance_have_one() -> None:
    chance, at_s, times = random.Random(7), 0.0, []
    for _ in range(20_000):
        at_s += chance.expovariate(30)
        times.append(at_s)

    assert dispersion([number / 30 for number in range(300)]) == pytest.approx(0.0, abs=0.1)
    assert dispersion([0.0, 0.1, 0.2]) is None
    assert dispersion(times) == pytest.approx(1.0, abs=0.1)


def test_a_process_that_nobody_waits_for_is_metered_too(tmp_path: Path) -> None:
    burns = "import time\nwhile time.process_time() < 0.3: pass"
    leaves = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {burns!r}]); sys.exit(3)"

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.bench.metered",
            str(tmp_path / "used"),
            sys.executable,
            "-c",
            leaves,
        ],
        cwd=ROOT,
    )

    used = json.loads((tmp_path / "used").read_text())
    assert done.returncode == used["exit_code"] == 3
    assert used["cpu_s"] > 0.3


def test_what_others_use_of_the_machine_is_a_part_of_it() -> None:
    before_s, own_s = busy_s(), process_cpu_s(os.getpid())

    while process_cpu_s(os.getpid()) - own_s < 0.1:
        pass

    assert busy_s() - before_s >= 0.09
    assert process_cpu_s(2**30) == 0.0
    assert share_of(0.5, 1.0) == 0.5 / (os.cpu_count() or 1)
    assert (share_of(-1.0, 1.0), share_of(99.0, 0.1), share_of(1.0, 0.0)) == (0.0, 1.0, 0.0)


def test_a_tool_is_put_beside_the_truth_and_its_wrong_time_is_bold(tmp_path: Path) -> None:
    sitting = Sitting(tmp_path / "cache", tmp_path, patience_s=0, tries=1)
    tool = Odd(tmp_path)

    run, arrivals = sitting.run(tool, tmp_path, Load("base"))
    failed, _ = sitting.run(Odd(tmp_path, "raise SystemExit('no licence')"), tmp_path, Load("role"))
    results = Results("odd", "1.0", tool.remark, cases={"base": run, "role": failed})
    shown = table([results], {"base": Load("base"), "role": Load("role")}, "a machine")

    assert run.told == Told(ttft_ms=50.0, tokens=16, whole=20, failed=0)
    assert len(arrivals) == 1
    assert (
        "| base | TTFT 200.0, ITL 20.0, TPOT 20.0, decode 20.0, E2E 500.0, tokens 16, whole 20, failed 0 |"
        in shown
    )
    assert "| TTFT **50.0**, tokens 16, whole 20, failed 0 |" in shown
    assert "| no results, exit code 1: no licence |" in shown
    assert "- odd: it asks once." in shown
    written([results], tmp_path)
    assert read_back(tmp_path) == [results]


def test_a_tool_that_cannot_be_had_is_named_with_the_reason(tmp_path: Path) -> None:
    class Absent(Odd):
        package = Package("odd", "odd", python_min=(99, 0))

    results = Sitting(tmp_path / "cache", tmp_path, patience_s=0, tries=1).all_of(
        Absent(tmp_path), quick=True
    )

    assert "- odd could not be had: it needs Python 99.0" in table([results], {}, "")


def test_the_tokenizer_has_a_token_for_each_word_of_the_truth(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer")

    vocabulary = json.loads((tmp_path / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    assert {f"w{number}" for number in range(16)} < vocabulary.keys()
