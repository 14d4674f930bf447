"""A run is judged by what spoils its numbers most, and says all of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from penstock.bench.analysis.result import Summary, VerdictKind
from penstock.bench.analysis.summary import summarize
from penstock.bench.analysis.validity import EXIT_CODES, Limits, judge
from penstock.bench.load.health import ClientHealth
from penstock.bench.plan import Stage
from penstock.bench.sample import Cause
from tests.bench.answers import answer, failure

GOOD = [answer(n, at_s=n / 10, cached_tokens=0) for n in range(200)]
STAGE = [Stage("10/s", 0.0, 20.0, rate_per_s=10.0)]


def good(**client: Any) -> Summary:
    return summarize(GOOD, STAGE, client=ClientHealth(**client))


def test_a_run_that_nothing_speaks_against_is_valid() -> None:
    verdict = judge(good(send_late_p99_s=0.009, loop_lag_p99_s=0.002, cpu_share=(0.5, 0.8)))

    assert (verdict.kind, verdict.exit_code, verdict.reasons) == (VerdictKind.VALID, 0, [])
    assert verdict.says.startswith("VALID")


@pytest.mark.parametrize(
    ("client", "says"),
    [
        ({"send_late_p99_s": 0.011}, "sent 11.0 ms late"),
        ({"loop_lag_p99_s": 0.02}, "20.0 ms late one time in a hundred"),
        ({"cpu_share": (0.2, 0.95)}, "95% of a core"),
        ({"events_per_s": 45_000, "ceiling_events_per_s": 50_000}, "ceiling is 50,000"),
        ({"connections_refused_here": 3}, "3 requests found no connection"),
        ({"plan_waits": 2}, "2 requests were due before"),
    ],
)
def test_a_client_at_its_limit_measured_itself(client: dict[str, Any], says: str) -> None:
    verdict = judge(good(**client))

    assert verdict.kind is VerdictKind.CLIENT_LIMITED
    assert verdict.exit_code == 10
    assert says in verdict.says
    assert verdict.reasons[0].hint


def test_slow_servers_allow_a_little_more_lateness() -> None:
    slow = [answer(n, at_s=n / 10, ttft_s=2.0) for n in range(200)]

    assert judge(summarize(slow, STAGE, client=ClientHealth(send_late_p99_s=0.03))).kind is VerdictKind.VALID


def test_without_word_of_the_client_its_lateness_is_read_from_the_samples() -> None:
    late = [answer(n, at_s=n / 100, sent_s=n / 100 + 0.05) for n in range(700)]

    assert judge(summarize(late)).kind is VerdictKind.CLIENT_LIMITED


def test_errors_over_the_allowed_share_are_named_with_their_cause() -> None:
    samples = [*GOOD, *(failure(900 + n, cause=Cause.RATE_LIMITED, detail="slow down") for n in range(5))]

    verdict = judge(summarize(samples, STAGE))

    assert (verdict.kind, verdict.exit_code) == (VerdictKind.ERRORS, 11)
    assert "2.4% of the requests failed (5 of 205), most of them by 429: slow down" in verdict.says
    assert judge(summarize(samples, STAGE), Limits(error_share_max=0.05)).kind is VerdictKind.VALID


def test_a_run_without_any_answer_is_one_of_errors() -> None:
    verdict = judge(summarize([failure(n) for n in range(5)]))

    assert verdict.kind is VerdictKind.ERRORS
    assert "all 5 requests failed" in verdict.says
    assert VerdictKind.TOO_FEW_SAMPLES in {reason.kind for reason in verdict.reasons}


def test_what_moved_all_the_time_is_not_steady() -> None:
    growing = [answer(n, at_s=n / 10, ttft_s=0.1 + n / 20) for n in range(200)]

    verdict = judge(summarize(growing, STAGE))

    assert (verdict.kind, verdict.exit_code) == (VerdictKind.NOT_STEADY, 12)


def test_cache_hits_that_the_workload_did_not_ask_for_taint_a_run() -> None:
    hits = [answer(n, at_s=n / 10, prompt_tokens=1000, cached_tokens=500) for n in range(200)]
    template = [answer(n, at_s=n / 10, prompt_tokens=100, cached_tokens=32) for n in range(200)]

    tainted = judge(summarize(hits, STAGE, expected_cache_share=0.1))

    assert (tainted.kind, tainted.exit_code) == (VerdictKind.CACHE_TAINTED, 13)
    assert "50.0% of the prompt tokens came from the prefix cache (told by usage)" in tainted.says
    assert judge(summarize(hits, STAGE, expected_cache_share=0.48)).kind is VerdictKind.VALID
    assert judge(summarize(template, STAGE)).kind is VerdictKind.VALID


def test_too_few_answers_for_the_wanted_percentile_are_told_by_stage() -> None:
    samples = [answer(n, at_s=n / 10, stage=n // 150) for n in range(200)]
    stages = [Stage("a", 0.0, 15.0, rate_per_s=10.0), Stage("b", 15.0, 20.0, rate_per_s=10.0)]

    verdict = judge(summarize(samples, stages))

    assert (verdict.kind, verdict.exit_code) == (VerdictKind.TOO_FEW_SAMPLES, 14)
    assert verdict.says == "TOO_FEW_SAMPLES: stage b: 50 whole answers; p95 needs 130"
    assert judge(summarize(samples, stages), Limits(percentile=50.0)).kind is VerdictKind.VALID


def test_the_worst_comes_first_and_the_others_are_told_too() -> None:
    samples = [*(answer(n, at_s=n / 10) for n in range(20)), failure(99)]

    verdict = judge(summarize(samples, client=ClientHealth(cpu_share=(1.0,))))

    assert [reason.kind for reason in verdict.reasons] == [
        VerdictKind.CLIENT_LIMITED,
        VerdictKind.ERRORS,
        VerdictKind.TOO_FEW_SAMPLES,
    ]
    assert verdict.says.endswith("(and 2 more)")


def test_every_verdict_has_an_exit_code_of_its_own() -> None:
    assert sorted(EXIT_CODES) == sorted(VerdictKind)
    assert len(set(EXIT_CODES.values())) == len(VerdictKind)


def test_a_verdict_is_part_of_the_file() -> None:
    summary = good()
    summary.verdict = judge(summary)

    assert msgspec.json.decode(msgspec.json.encode(summary), type=Summary).verdict == summary.verdict
