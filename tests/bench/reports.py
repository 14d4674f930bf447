"""Reports of samples of known timing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock.bench.analysis.slo import parse_slo
from penstock.bench.analysis.summary import summarize
from penstock.bench.analysis.validity import judge
from penstock.bench.plan import Stage
from penstock.bench.report.facts import Host, Meta, Report
from penstock.bench.report.picks import Picks
from penstock.bench.sample import Cause, Sample
from tests.bench.answers import answer, failure

SLO = "ttft=250ms,tpot=50ms"


def both_kinds(count: int = 200) -> list[Sample]:
    """Answers of two kinds in turns, ten a second, the long ones slower; and one in fifty failed."""
    samples = [
        answer(index, at_s=index / 10, ttft_s=0.1 + index % 7 / 100, gap_s=0.02)
        if index % 2
        else answer(index, at_s=index / 10, ttft_s=0.3 + index % 5 / 100, kind="long", tokens=64)
        for index in range(count)
    ]
    for index in range(0, count, 50):
        samples[index] = failure(
            index, at_s=index / 10, cause=Cause.SERVER_ERROR, status=503, detail="<b>full</b> | *really*"
        )
    return samples


def report(
    samples: Sequence[Sample] | None = None, *, interrupted: bool = False, slo: str = SLO, **meta: Any
) -> Report:
    """What a run with these samples would have reported."""
    samples = both_kinds() if samples is None else samples
    stages = [Stage("10/s poisson", 0.0, 20.0, rate_per_s=10.0)]
    summary = summarize(samples, stages, slo=parse_slo(slo) if slo else None, interrupted=interrupted)
    summary.verdict = judge(summary)
    picks = Picks()
    for sample in samples:
        picks.add(sample)
    given: dict[str, Any] = {
        "endpoint": "http://127.0.0.1:8000",
        "model": "llama<3>",
        "load": "10/s poisson",
        "workload": ["Cache-busting: each prompt begins with words of its own."],
        "host": Host("Linux", "x86_64", 2, "3.11"),
        "slo": slo,
        "started_at": 1_800_000_000.0,
        "settings": {"seed": 7},
    }
    return Report(Meta(**given | meta), summary, picks=picks.all())
