"""How Penstock speaks: data to standard output, the rest to standard error, plain text without colour."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress

from penstock.core.errors import PenstockError

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration"


class UsageError(PenstockError):
    """The command line or a file that it names is wrong."""

    code = "usage"


def say(line: str) -> None:
    """Prints a line for people; where nobody can read it any more, nothing ends by that."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def out(line: str) -> None:
    """Prints a line of data."""
    print(line, flush=True)


def complain(error: PenstockError) -> None:
    """Prints an error, each of its lines as one, and its hint."""
    for line in error.message.splitlines():
        say(f"error: {line}")
    if error.hint:
        say(f"hint: {error.hint}")


def epilog(*examples: str, codes: str = EXIT_CODES) -> str:
    """The end of a help text: the exit codes, then examples as they are typed."""
    return "\n".join((f"{codes}.", "", "\b", "Examples:", *(f"  {example}" for example in examples)))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows below a header, in columns."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in (header, *rows)
    )
    return "\n".join(line.rstrip() for line in lines)
