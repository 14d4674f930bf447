"""The report for a pull request: Markdown, short, the verdict first. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from penstock.bench.analysis.result import Part, Summary, Verdict, VerdictKind
from penstock.bench.report.facts import Report, interval, part_rows, percentile_of, told
from penstock.bench.report.page import kind_name, verdict_says
from penstock.bench.report.shown import DURATION, SHARE, number, shown, whole

_MARK = {VerdictKind.VALID: "✅"}


def report_markdown(report: Report) -> str:
    """All of it, with a newline at its end."""
    return "\n".join(_lines(report)).rstrip() + "\n"


def _lines(report: Report) -> Iterator[str]:
    summary, meta = report.summary, report.meta
    yield f"### Load test: {_text(report.title)}"
    yield ""
    yield from verdict_lines(summary.verdict)
    if summary.interrupted:
        yield "**Interrupted**: these are the figures of a part of the run."
        yield ""
    yield f"`{_code(meta.model)}` at `{_code(meta.endpoint)}`, {_text(meta.load)}, {shown(summary.duration_s, 's')}."
    yield ""
    yield from _table(summary)
    yield from _failures(summary)
    notes = report.notes()
    if notes:
        yield from (f"- {_text(note)}" for note in notes)
        yield ""
    yield "<details><summary>Workload</summary>"
    yield ""
    yield from (f"- {_text(sentence)}" for sentence in meta.workload)
    yield f"- seed {meta.settings.get('seed', '-')}, Penstock {meta.penstock}, {meta.host.cores} cores"
    yield ""
    yield "</details>"


def verdict_lines(verdict: Verdict | None) -> Iterator[str]:
    """The judgement with its reasons; nothing where nobody judged."""
    if verdict is None:
        return
    mark = _MARK.get(verdict.kind, "⚠️")
    yield f"{mark} **{kind_name(verdict.kind)}**: {_text(verdict_says(verdict))}"
    yield ""
    for reason in verdict.reasons:
        hint = f" *{_text(reason.hint)}*" if reason.hint else ""
        yield f"- {kind_name(reason.kind)}: {_text(reason.says)}{hint}"
    if verdict.reasons:
        yield ""


def _table(summary: Summary) -> Iterator[str]:
    header = ["", "requests", "errors", "req/s", "tok/s", "TTFT p50", "TTFT p95", "TPOT p50", "TPOT p95"]
    header += ["E2E p50", "E2E p95"]
    slo = summary.all.goodput is not None
    rows = [_row(part, slo) for part in part_rows(summary)]
    yield from table_lines([*header, "good"] if slo else header, rows)
    if any("few" in row for row in rows):
        yield "*few*: not enough samples for this percentile."
        yield ""


def _row(part: Part, slo: bool) -> list[str]:
    counts, rate = part.counts, part.throughput
    cells = [
        _text(part.label),
        whole(counts.requests),
        shown(counts.error_share, SHARE, digits=2) if counts.failed else "0",
        number(rate.completed_per_s),
        number(rate.output_tokens_per_s),
    ]
    for measure in ("ttft", "tpot", "e2e"):
        for p in (50, 95):
            found = percentile_of(part, measure, p)
            within = interval(found, DURATION) if part.kind is None and part.stage is None else ""
            cells.append(told(found, DURATION) + (f"<br><sub>{within}</sub>" if within else ""))
    if slo:
        cells.append(shown(part.goodput.share if part.goodput else None, SHARE))
    return cells


def _failures(summary: Summary) -> Iterator[str]:
    if not summary.failures:
        return
    for failure in summary.failures[:8]:
        status = f", status {failure.status}" if failure.status else ""
        detail = f": {_text(' '.join(failure.detail.split())[:160])}" if failure.detail else ""
        yield f"- {failure.count:,} x `{_code(failure.cause)}`{status}{detail}"
    yield ""


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table, and an empty line behind it."""
    yield f"| {' | '.join(header)} |"
    yield f"|---|{'---:|' * (len(header) - 1)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def _text(text: str) -> str:
    """Text from outside, in which nothing is markup."""
    for character in "\\`*_[]<>|#":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def _code(text: str) -> str:
    return " ".join(text.replace("`", "'").replace("|", "/").split())
