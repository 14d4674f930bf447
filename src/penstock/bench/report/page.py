"""Parts of an HTML page: what the reports of a run, of a sweep and of a comparison are put together from. Pure.

A page is one file: its style is in it, it has no script, and it asks nobody for anything.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from penstock import __version__
from penstock.bench.analysis.result import Verdict, VerdictKind
from penstock.bench.report.drawing import Chart, style

_OF_THE_PAGE = ":root { color-scheme: light dark; } body { margin: 0; min-height: 100vh; }\n"
_TONES = {VerdictKind.VALID: "good", VerdictKind.ERRORS: "bad", VerdictKind.CLIENT_LIMITED: "bad"}


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page of parts that are HTML already."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="generator" content="Penstock {__version__}"><title>{text(title)}</title>\n'
        f'<style>\n{_OF_THE_PAGE}{style()}{report_style()}</style></head>\n<body class="penstock"><main>\n'
        + "\n".join(part for part in parts if part)
        + f"\n<footer>Penstock {__version__}. Times are from the scheduled send, unless a name says otherwise.</footer>"
        "\n</main></body></html>\n"
    )


def report_style() -> str:
    """The style of reports, all of it below the class `penstock`: a notebook keeps its own."""
    return Path(__file__).with_name("report.css").read_text("utf-8")


def text(words: object) -> str:
    """Text from outside, with nothing in it that a browser would take for markup."""
    return html.escape(str(words))


def heading(title: str, *lines: str) -> str:
    """The head of a page."""
    return f"<header><h1>{text(title)}</h1>{''.join(f'<p>{text(line)}</p>' for line in lines)}</header>"


def kind_name(kind: VerdictKind) -> str:
    """A verdict as people write it: `NOT-STEADY`."""
    return kind.value.replace("_", "-")


def verdict_says(verdict: Verdict) -> str:
    """Its line, without the name of its kind."""
    return verdict.says.removeprefix(f"{verdict.kind}: ")


def verdict_box(verdict: Verdict | None, interrupted: bool = False) -> str:
    """The judgement with its reasons."""
    cut = "<p><b>Interrupted:</b> these are the figures of a part of the run.</p>" if interrupted else ""
    if verdict is None:
        return f'<section class="verdict bad">{cut}</section>' if cut else ""
    tone = _TONES.get(verdict.kind, "warn")
    mark = "✓" if tone == "good" else "!"
    reasons = "".join(
        f"<li><b>{kind_name(reason.kind)}</b>: {text(reason.says)}"
        + (f' <span class="hint">{text(reason.hint).capitalize()}.</span>' if reason.hint else "")
        + "</li>"
        for reason in verdict.reasons
    )
    told = f"<ul>{reasons}</ul>" if reasons else ""
    return (
        f'<section class="verdict {tone}"><p><span class="badge">{mark} {kind_name(verdict.kind)}</span>'
        f"{text(verdict_says(verdict))}</p>{cut}{told}</section>"
    )


def tile(name: str, value: str, below: Sequence[str] = (), title: str = "") -> str:
    """One large figure; `value` is a number and its unit, `below` are smaller lines."""
    figure, _, unit = value.partition(" ")
    small = f" <small>{text(unit)}</small>" if unit else ""
    under = "".join(f"<p>{text(line)}</p>" for line in below)
    label = f'<abbr title="{text(title)}">{text(name)}</abbr>' if title else text(name)
    return (
        f'<dl class="tile"><dt>{label}</dt><dd>{text(figure)}{small}</dd><dd class="below">{under}</dd></dl>'
    )


def tiles(each: Iterable[str]) -> str:
    """Figures side by side."""
    return f'<section class="tiles">{"".join(each)}</section>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, last_is_total: bool = False) -> str:
    """Rows of cells that are HTML already; a column whose header ends in `|` holds text."""
    classes = [' class="text"' if name.endswith("|") else "" for name in header]
    names = zip(header, classes, strict=True)
    head = "".join(f"<th{of}>{name.removesuffix('|')}</th>" for name, of in names)
    body = []
    for number, row in enumerate(rows):
        total = ' class="total"' if last_is_total and number == len(rows) - 1 and len(rows) > 1 else ""
        cells = "".join(f"<td{of}>{cell}</td>" for cell, of in zip(row, classes, strict=True))
        body.append(f"<tr{total}>{cells}</tr>")
    return (
        f'<div class="card"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
    )


def pictures(charts: Sequence[Chart], wide: Iterable[str] = ()) -> str:
    """Charts side by side; those named in `wide` over the whole width."""
    names = frozenset(wide)
    cards = "".join(
        f'<div class="card{" wide" if chart.name in names else ""}">{chart.html()}</div>' for chart in charts
    )
    return f'<section class="grid">{cards}</section>' if cards else ""


def facts(entries: Mapping[str, object]) -> str:
    """Names and values."""
    told = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in entries.items())
    return f'<dl class="facts">{told}</dl>'


def notes(sentences: Sequence[str]) -> str:
    """Sentences below each other."""
    told = "".join(f"<li>{text(sentence)}</li>" for sentence in sentences)
    return f'<ul class="notes">{told}</ul>' if told else ""


def folded(title: str, content: str, *, opened: bool = False) -> str:
    """What is shown on demand."""
    return f'<details class="card"{" open" if opened else ""}><summary>{text(title)}</summary>{content}</details>'
