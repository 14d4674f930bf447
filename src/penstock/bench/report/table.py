"""The report for a terminal: one table by prompt type, one by measure, and the verdict. Plain text, pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from penstock.bench.analysis.measures import BY_NAME
from penstock.bench.analysis.result import Part, Summary, Verdict
from penstock.bench.report.facts import Report, interval, part_rows, percentile_of, told
from penstock.bench.report.page import kind_name, verdict_says
from penstock.bench.report.shown import DURATION, SHARE, number, shown, whole

SHOWN_MEASURES = ("ttft", "first_answer", "itl", "tpot", "e2e")
_FAILURES_SHOWN_MAX = 8
_DETAIL_CHARS_MAX = 100


def report_text(report: Report) -> str:
    """All of it."""
    return "\n\n".join(section for section in _sections(report) if section)


def _sections(report: Report) -> Iterator[str]:
    summary, meta = report.summary, report.meta
    yield f"{meta.model} at {meta.endpoint}: {meta.load}" + (
        "  (INTERRUPTED: a part of the run)" if summary.interrupted else ""
    )
    yield _by_part(summary)
    yield _by_measure(summary.all)
    yield _failures(summary)
    yield _cost(report)
    notes = report.notes()
    yield "\n".join(f"note: {note}" for note in notes)
    yield verdict_text(summary.verdict)


def verdict_text(verdict: Verdict | None) -> str:
    """The judgement with its reasons; empty where nobody judged."""
    if verdict is None:
        return ""
    lines = [f"{kind_name(verdict.kind)}: {verdict_says(verdict)}"]
    for reason in verdict.reasons:
        lines.append(f"  {kind_name(reason.kind)}: {reason.says}")
        if reason.hint:
            lines.append(f"    hint: {reason.hint}")
    return "\n".join(lines)


def _by_part(summary: Summary) -> str:
    header = ["", "REQUESTS", "ERRORS", "REQ/S", "TOK/S"]
    header += ["TTFT P50", "P95", "P99", "TPOT P50", "P95", "E2E P50", "P95", "P99"]
    slo = summary.all.goodput is not None
    rows = [_part(part, slo) for part in part_rows(summary)]
    text = aligned([*header, "GOOD", "GOOD/S"] if slo else header, rows)
    missing = "few" in text.split()
    return text + ("\nfew: not enough samples for this percentile, see below" if missing else "")


def _part(part: Part, slo: bool) -> list[str]:
    counts, rate = part.counts, part.throughput
    cells = [
        part.label,
        whole(counts.requests),
        shown(counts.error_share, SHARE, digits=2) if counts.failed else "0",
        number(rate.completed_per_s),
        number(rate.output_tokens_per_s),
    ]
    for measure, percentiles in (("ttft", (50, 95, 99)), ("tpot", (50, 95)), ("e2e", (50, 95, 99))):
        cells += [told(percentile_of(part, measure, p), DURATION) for p in percentiles]
    if slo:
        good = part.goodput
        cells += [shown(good.share if good else None, SHARE), number(good.per_s) if good else "-"]
    return cells


def _by_measure(part: Part) -> str:
    rows = []
    for name in SHOWN_MEASURES:
        spread = part.measures.get(name)
        if spread is None:
            continue
        first = part.measures.get("ttft")
        if name == "first_answer" and first is not None and spread.mean == first.mean:
            continue  # without reasoning it is the same
        row = [BY_NAME[name].label, whole(spread.count), shown(spread.mean, spread.unit)]
        for p in (50, 95, 99):
            found = spread.at(p)
            needs = (
                f"needs {found.needs:,}" if found and found.value is None else interval(found, spread.unit)
            )
            row += [told(found, spread.unit), needs]
        rows.append([*row, shown(spread.most, spread.unit)])
    header = [
        "",
        "COUNT",
        "MEAN",
        "P50",
        "95 % INTERVAL",
        "P95",
        "95 % INTERVAL",
        "P99",
        "95 % INTERVAL",
        "MAX",
    ]
    text = aligned(header, rows) if rows else ""
    open_ended = any(cell.endswith("to ?") or cell.startswith("? to") for row in rows for cell in row)
    return text + ("\n?: so few samples do not bound the interval on this side" if open_ended else "")


def _failures(summary: Summary) -> str:
    lines = []
    for failure in summary.failures[:_FAILURES_SHOWN_MAX]:
        status = f" (status {failure.status})" if failure.status else ""
        detail = " ".join(failure.detail.split())[:_DETAIL_CHARS_MAX]
        lines.append(f"{failure.count:>7,} x {failure.cause}{status}" + (f": {detail}" if detail else ""))
    more = len(summary.failures) - _FAILURES_SHOWN_MAX
    if more > 0:
        lines.append(f"        and {more} other sorts")
    counts = summary.all.counts
    if counts.cancelled:
        lines.append(f"{counts.cancelled:>7,} x cancelled, as planned")
    if counts.cut_off:
        lines.append(f"{counts.cut_off:>7,} x cut off by the end of the run")
    return "\n".join(["without a whole answer:", *lines]) if lines else ""


def _cost(report: Report) -> str:
    cost = report.cost
    if cost is None or (cost.energy_j is None and cost.gpu_money_per_million_tokens is None):
        return ""
    told_costs = []
    if cost.energy_j is not None:
        told_costs.append(f"{number(cost.energy_j)} J, {shown(cost.power_w, 'W')} on average")
    if cost.joules_per_million_tokens is not None:
        told_costs.append(f"{number(cost.joules_per_million_tokens)} J per million output tokens")
    for value, what in (
        (cost.energy_money_per_million_tokens, "electricity"),
        (cost.gpu_money_per_million_tokens, "GPUs by the hour"),
    ):
        if value is not None:
            told_costs.append(f"{number(value)} {cost.currency} per million output tokens ({what})")
    return "GPU: " + "; ".join(told_costs)


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows below a header: the first column from the left, the others from the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = []
    for row in (header, *rows):
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
