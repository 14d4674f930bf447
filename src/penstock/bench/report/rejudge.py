"""A run that was kept, judged by other limits than its own: its requests are on the disk, so nothing is sent again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec

from penstock.bench.analysis.slo import parse_slo
from penstock.bench.analysis.summary import summarize
from penstock.bench.analysis.validity import LIMITS, judge
from penstock.bench.report.facts import Report
from penstock.bench.report.folder import FolderError, samples_of


def rejudged(made: Report, folder: Path, slo: str) -> Report:
    """The report of the run in `folder`, under the limits `slo`.

    Raises:
        SloError: it is no SLO.
        FolderError: the requests were not kept.
    """
    if next(samples_of(folder), None) is None:
        raise FolderError(f"{folder}: its requests were not kept", hint="run it with --rows jsonl")
    old = made.summary
    summary = summarize(
        samples_of(folder),
        old.plan,
        slo=parse_slo(slo),
        client=old.client,
        beside=made.readings,
        expected_cache_share=old.cache.expected_share,
        interrupted=old.interrupted,
    )
    summary.verdict = judge(
        summary, msgspec.structs.replace(LIMITS, error_share_max=made.meta.max_error_rate)
    )
    return replace(made, summary=summary, meta=msgspec.structs.replace(made.meta, slo=slo))
