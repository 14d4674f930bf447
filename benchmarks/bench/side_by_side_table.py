"""The table of a sitting, as Markdown; a figure that is not the truth is bold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from benchmarks.bench.calm import OTHERS_SHARE_MAX
from benchmarks.bench.expected import (
    OFF_MS,
    OFF_PER_TOKEN_MS,
    OFF_SHARE,
    TIMES,
    Load,
    Told,
    expected,
    is_right,
)
from benchmarks.bench.truth import CASES

if TYPE_CHECKING:
    from benchmarks.bench.side_by_side import Results, Run

HEADERS = {
    "ttft_ms": "TTFT",
    "answer_ms": "answer",
    "itl_ms": "ITL",
    "tpot_ms": "TPOT",
    "decode_ms": "decode",
    "named_tpot_ms": "its `TPOT`",
    "e2e_ms": "E2E",
    "tokens": "tokens",
    "whole": "whole",
    "failed": "failed",
}


def table(all_results: Sequence[Results], loads: Mapping[str, Load], machine: str) -> str:
    """The whole report."""
    there = [results for results in all_results if not results.absent]
    lines = [
        f"Milliseconds, means over whole answers. **Bold** is further from the truth than {OFF_SHARE:.0%} and "
        f"{OFF_MS:g} ms, of times per token {OFF_PER_TOKEN_MS:g} ms. {machine}.",
        "",
        *_truths(there, loads),
        "",
        *_costs(there),
        "",
        *(f"- {results.name}: {results.remark}." for results in there if results.remark),
        *_disturbed(there),
        *(f"- {results.name}: {note}" for results in there for note in results.notes),
        *(
            f"- {results.name} could not be had: {results.absent}"
            for results in all_results
            if results.absent
        ),
    ]
    return "\n".join(lines) + "\n"


def _disturbed(there: Sequence[Results]) -> list[str]:
    """Which runs did not have the machine for themselves."""
    return [
        f"- {results.name}, {name}: others used {run.others_share:.0%} of the machine meanwhile."
        for results in there
        for name, run in results.cases.items()
        if run.others_share > OTHERS_SHARE_MAX
    ]


def _truths(there: Sequence[Results], loads: Mapping[str, Load]) -> list[str]:
    lines = [_row(["case", "truth", *(results.name for results in there)])]
    lines.append(_row(["---"] * (2 + len(there))))
    for name, load in loads.items():
        truth = expected(CASES[load.case], load)
        shown = [figure for figure in HEADERS if _is_shown(figure, truth, load)]
        of_truth = [figure for figure in shown if figure != "named_tpot_ms"]
        cells = [_cell(results.cases.get(name), truth, shown) for results in there]
        if any(cells):
            lines.append(_row([name, _figures(truth, of_truth), *cells]))
    return lines


def _is_shown(figure: str, truth: Told, load: Load) -> bool:
    if getattr(truth, figure) is None:
        return False
    return not load.rate_per_s or figure in ("e2e_ms", "whole", "failed")


def _cell(run: Run | None, truth: Told, shown: Sequence[str]) -> str:
    if run is None:
        return ""
    if run.told is None:
        return run.failure or "nothing"
    cell = _figures(run.told, shown, truth)
    if run.elsewhere_ms is not None and run.told.e2e_ms is not None and "ttft_ms" not in shown:
        cell += f"<br>elsewhere: E2E {_number('e2e_ms', run.elsewhere_ms, truth.e2e_ms)}"
    return cell


def _figures(told: Told, shown: Sequence[str], truth: Told | None = None) -> str:
    parts = []
    for figure in shown:
        value = getattr(told, figure)
        right = getattr(truth, figure) if truth is not None else None
        if value is not None:
            parts.append(f"{HEADERS[figure]} {_number(figure, value, right)}")
    return ", ".join(parts)


def _number(figure: str, value: float, truth: float | None) -> str:
    text = f"{value:.1f}" if figure in TIMES else f"{value:g}"
    return text if truth is None or is_right(figure, value, truth) else f"**{text}**"


def _costs(there: Sequence[Results]) -> list[str]:
    rows = [
        ("version", [results.version for results in there]),
        ("Poisson arrivals: rate (30/s)", [_told(r.arrivals_per_s, "{:.1f}") for r in there]),
        ("Poisson arrivals: index of dispersion (1)", [_told(r.dispersion, "{:.2f}") for r in there]),
        ("CPU for an event, µs", [_told(r.cpu_us_per_event, "{:.0f}") for r in there]),
        ("CPU of a run of one request, s", [_told(r.start_cpu_s, "{:.2f}") for r in there]),
        ("largest process at 100 streams, MB", [_told(r.largest_process_mb, "{:.0f}") for r in there]),
        ("installed, MB", [_told(r.installed_mb, "{:.0f}") for r in there]),
    ]
    head = [_row(["", *(results.name for results in there)]), _row(["---"] * (1 + len(there)))]
    return head + [_row([name, *cells]) for name, cells in rows]


def _told(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in cells)} |"
