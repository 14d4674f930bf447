"""What was checked, as rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How it went; `info` is a number to keep, with nothing to hold it against."""

    OK = "ok"
    FAIL = "FAIL"
    SKIP = "skip"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Row:
    """One check.

    Args:
        part: of the whole check.
        what: was looked at.
        seen: what came of it, or why it was skipped.
        wanted: what it is held against; empty for none.
    """

    part: str
    what: str
    seen: str
    verdict: Verdict
    wanted: str = ""


HEAD = ("part", "what", "seen", "wanted", "verdict")


def judged(part: str, what: str, seen: str, wanted: str, well: bool) -> Row:
    """A row that is held against something."""
    return Row(part, what, seen, Verdict.OK if well else Verdict.FAIL, wanted)


def info(part: str, what: str, seen: str) -> Row:
    """A number to keep."""
    return Row(part, what, seen, Verdict.INFO)


def skipped(part: str, what: str, why: str) -> Row:
    """What could not be done here."""
    return Row(part, what, why, Verdict.SKIP)


def text(rows: Sequence[Row]) -> str:
    """The rows in columns."""
    cells = [HEAD, *map(_cells, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table of Markdown."""
    cells = (HEAD, ("---",) * len(HEAD), *map(_cells, rows))
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells)


def _cells(row: Row) -> tuple[str, ...]:
    return row.part, row.what, row.seen, row.wanted, row.verdict
