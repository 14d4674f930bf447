"""`penstock usage`: who used how much, and what it cost."""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.loading import invocation
from penstock.cli.terminal import UsageError, epilog, out, say, table
from penstock.core.errors import PenstockError

if TYPE_CHECKING:
    from penstock.store.home import Home
    from penstock.store.ledger import Ledger, Total

BUSY_WAIT_S = 10.0
DAYS_MAX = 36_500
DIMENSIONS = ("tenant", "key", "model", "day")
FIGURES = ("requests", "interrupted", "prompt_tokens", "completion_tokens", "cost_usd")

_DAYS = re.compile(r"(\d{1,5})d")
_LEAST_SHOWN_USD = 0.00005


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        "usage",
        help="Show what was used: requests, tokens and their cost, whether the gateway runs or not. Days are UTC.",
        epilog=epilog(
            "penstock usage",
            "penstock usage --by tenant,model --since 7d",
            "penstock usage --by day --tenant search --since 2026-11-01 --until 2026-11-30",
            "penstock usage --by key,day --csv > usage.csv",
            "penstock usage --json | jq .total.cost_usd",
        ),
    )(usage)


def usage(
    context: typer.Context,
    by: Annotated[str, typer.Option(help="Any of tenant, key, model, day, with commas between.")] = "tenant",
    since: Annotated[
        str, typer.Option(metavar="DAY", help="First day: 2026-11-01, or 7d for the last seven days.")
    ] = "",
    until: Annotated[str, typer.Option(metavar="DAY", help="Last day, such as 2026-11-30.")] = "",
    tenant: Annotated[list[str] | None, typer.Option(help="Only this tenant; may be repeated.")] = None,
    key: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Only the key with this id; may be repeated.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only this model; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, without the row of totals.")] = False,
) -> None:
    """Takes in what is new in the journal, and prints the sums."""
    if as_json and as_csv:
        raise UsageError("--json and --csv: choose one")
    wanted = {name: names for name, names in (("tenant", tenant), ("key", key), ("model", model)) if names}
    asked = _Asked(_dimensions(by), *_period(since, until, datetime.now(UTC).date()), wanted)
    found = _look(invocation(context).home, asked)
    if as_json:
        out(json.dumps(_as_data(found)))
    elif as_csv:
        out(_as_csv(found))
    elif found.rows:
        out(_as_table(found))


@dataclass(frozen=True, slots=True)
class _Asked:
    by: tuple[str, ...]
    since: date | None
    until: date | None
    where: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class _Found:
    asked: _Asked
    rows: list[Total]
    torn_lines: int = 0


def _look(home: Home, asked: _Asked) -> _Found:
    from penstock.store.ledger import Ledger

    if not home.journal.is_dir() and not home.ledger.exists():
        say("nothing was used here yet")
        return _Found(asked, [])
    ledger = Ledger(home.ledger, home.journal, time.time, on_problem=_warn)
    _ingest(ledger)
    rows = ledger.totals(asked.by, since=asked.since, until=asked.until, where=asked.where)
    if not rows:
        say(_why_empty(ledger, asked))
    torn = ledger.torn_lines()
    if torn:
        say(
            f"warning: {torn} torn line{'s' if torn > 1 else ''} in {home.journal} passed over; "
            "a request may be missing, or shown as interrupted"
        )
    return _Found(asked, rows, torn)


def _ingest(ledger: Ledger) -> None:
    """Where nothing new can be taken in, what was taken in before is shown."""
    try:
        report = ledger.ingest(wait_s=BUSY_WAIT_S)
    except PenstockError as error:
        if error.code != "ledger_unusable":
            raise
        _warn(error)
        return
    if report.busy:
        say("warning: another process takes in the journal; the newest requests may be missing")
    if report.unreadable:
        say(f"warning: {report.unreadable} files of the journal can't be read; what is in them is missing")


def _warn(error: PenstockError) -> None:
    say(f"warning: {error.message}")
    if error.hint:
        say(f"hint: {error.hint}")


def _why_empty(ledger: Ledger, asked: _Asked) -> str:
    for dimension, names in asked.where.items():
        known = ledger.names(dimension)
        unknown = [name for name in names if name not in known]
        if unknown:
            near = difflib.get_close_matches(unknown[0], known, n=1)
            return f"{dimension} {unknown[0]!r} used nothing" + (f"; did you mean {near[0]}?" if near else "")
    if asked.where or asked.since or asked.until:
        return "nothing was used in that time" if not asked.where else "nothing of that was used"
    return "nothing was used here yet"


def _dimensions(by: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in by.split(",") if name.strip()))
    unknown = next((name for name in names if name not in DIMENSIONS), None)
    if unknown is not None:
        near = difflib.get_close_matches(unknown, DIMENSIONS, n=1)
        hint = f"did you mean {near[0]}?" if near else ""
        raise UsageError(f"--by: {unknown!r} is none of {', '.join(DIMENSIONS)}", hint=hint)
    if not names:
        raise UsageError(f"--by: expected one or more of {', '.join(DIMENSIONS)}")
    return names


def _period(since: str, until: str, today: date) -> tuple[date | None, date | None]:
    first = _last_days(since, today) or _date(since, "--since", "a day such as 2026-11-01, or 7d")
    last = _date(until, "--until", "a day such as 2026-11-30")
    if first and last and first > last:
        raise UsageError(f"--since: {first} is after --until {last}")
    return first, last


def _last_days(text: str, today: date) -> date | None:
    """The first of the last so many days, of which today is one."""
    match = _DAYS.fullmatch(text)
    if match is None:
        return None
    days = int(match[1])
    if not 1 <= days <= DAYS_MAX:
        raise UsageError(f"--since: expected 1d to {DAYS_MAX}d")
    return today - timedelta(days=days - 1)


def _date(text: str, option: str, expected: str) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option}: {text!r} is no day; expected {expected}") from None


def _sum(rows: Sequence[Total]) -> dict[str, Any]:
    return {figure: sum(getattr(row, figure) for row in rows) for figure in FIGURES[:-1]} | {
        "cost_usd": sum(row.cost_nano_usd for row in rows) / 1e9
    }


def _as_data(found: _Found) -> dict[str, Any]:
    asked = found.asked
    return {
        "by": asked.by,
        "since": asked.since and asked.since.isoformat(),
        "until": asked.until and asked.until.isoformat(),
        "rows": [
            dict(zip(asked.by, row.group, strict=True)) | {name: getattr(row, name) for name in FIGURES}
            for row in found.rows
        ],
        "total": _sum(found.rows),
        "torn_lines": found.torn_lines,
    }


def _as_csv(found: _Found) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*found.asked.by, *FIGURES))
    for row in found.rows:
        figures = (getattr(row, name) for name in FIGURES[:-1])
        writer.writerow((*row.group, *figures, f"{row.cost_usd:.9f}"))
    return text.getvalue().removesuffix("\n")


def _as_table(found: _Found) -> str:
    header = (*found.asked.by, "requests", "interrupted", "prompt tokens", "completion tokens", "cost usd")
    total = _sum(found.rows)
    rows = [(*row.group, *_shown({name: getattr(row, name) for name in FIGURES})) for row in found.rows]
    rows.append(("total", *[""] * (len(found.asked.by) - 1), *_shown(total)))
    return table([name.upper() for name in header], _right_aligned(header, rows, len(found.asked.by)))


def _shown(figures: Mapping[str, Any]) -> tuple[str, ...]:
    usd = figures["cost_usd"]
    cost = "<0.0001" if 0 < usd < _LEAST_SHOWN_USD else f"{usd:,.4f}"
    return (*(f"{figures[name]:,}" for name in FIGURES[:-1]), cost)


def _right_aligned(header: Sequence[str], rows: Sequence[Sequence[str]], first: int) -> list[tuple[str, ...]]:
    """The rows with their cells from the column `first` on as wide as the column."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    return [
        tuple(cell.rjust(widths[column]) if column >= first else cell for column, cell in enumerate(row))
        for row in rows
    ]
