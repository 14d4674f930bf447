"""`penstock logs`: what engines and gateway have written, and what they write."""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated
from urllib.parse import unquote

import typer

from penstock.cli.loading import Invocation, invocation
from penstock.cli.terminal import UsageError, epilog, out
from penstock.core.errors import PenstockError
from penstock.core.units import parse_duration_s

if TYPE_CHECKING:
    from penstock.supervisor.logtail import Line, LogTail

LINES = 100
LINES_MAX = 10_000_000
LOOK_EVERY_S = 0.1
CODES = "Exit codes: 0 done, 1 nothing has been logged here, 2 wrong usage or no such part, 130 Ctrl-C"

_COLOURS = (36, 32, 33, 35, 34, 96, 92, 93, 95, 94)
_RESET = "\x1b[0m"
_NOT_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        "logs",
        help="Show what engines and gateway have written, also while nothing runs. NAME is a replica, a model for "
        "all of its replicas, or gateway; left out, all are shown, each line with the name of who wrote it.",
        epilog=epilog(
            "penstock logs",
            "penstock logs llama-0 --lines 500",
            "penstock logs gateway -f",
            "penstock logs --since 10m --json | jq -r .text",
            codes=CODES,
        ),
    )(logs)


def logs(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Replica, model, or gateway.")] = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Go on with what is written, across restarts, until Ctrl-C."),
    ] = False,
    lines: Annotated[
        int | None,
        typer.Option(
            "--lines", "-n", min=0, max=LINES_MAX, help=f"Last lines of each; {LINES}, or all with --since."
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Only what was written since: 90s, 10m, 2h.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object for each line.")] = False,
) -> None:
    """Prints them."""
    here = invocation(context)
    since_at = time.time() - _duration_s(since) if since else 0.0
    if lines is None and not since:
        lines = LINES
    tails = _tails(here, name)
    coloured = sys.stdout.isatty() and not here.environ.get("NO_COLOR")
    show = _Printer(prefixed=name is None or len(tails) > 1, as_json=as_json, coloured=coloured)
    try:
        show(_in_order(line for tail in tails for line in tail.so_far(lines, since_at)))
        while follow:
            time.sleep(LOOK_EVERY_S)
            known = {tail.name for tail in tails}
            tails += [
                tail for tail in _tails(here, name) if tail.name not in known
            ]  # of a part that came later
            show(_in_order(line for tail in tails for line in tail.fresh()))
    except BrokenPipeError:  # its reader has seen enough
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        for tail in tails:
            tail.close()


def _duration_s(text: str) -> float:
    try:
        return parse_duration_s(text)
    except ValueError as error:
        raise UsageError(f"--since: {error}") from None


def _tails(here: Invocation, name: str | None) -> list[LogTail]:
    """Readers of the logs that are meant.

    Raises:
        PenstockError: nothing was ever logged here.
        UsageError: `name` is none of those that were.
    """
    from penstock.supervisor.logtail import LogTail

    known = {unquote(path.stem): path for path in sorted(here.home.logs.glob("*.log"))}
    if not known:
        raise PenstockError(
            f"nothing has been logged in {here.home.logs}",
            code="no_logs",
            hint="start something with `penstock up`, or set PENSTOCK_HOME to where it runs",
        )
    meant = {one: path for one, path in known.items() if name in (None, one, one.rpartition("-")[0])}
    if not meant:
        near = difflib.get_close_matches(name or "", known, n=1)
        raise UsageError(
            f"nothing has been logged by {name!r}" + (f"; did you mean {near[0]}?" if near else ""),
            hint=f"known: {', '.join(known)}",
        )
    return [LogTail(one, path) for one, path in meant.items()]


class _Printer:
    """Prints lines as they are wanted.

    Args:
        prefixed: whether each begins with the name of its part.
        coloured: whether it goes to a terminal, which only colours may reach of what is no text.
    """

    def __init__(self, *, prefixed: bool, as_json: bool, coloured: bool) -> None:
        self._prefixed = prefixed
        self._as_json = as_json
        self._coloured = coloured
        self._colours: dict[str, int] = {}
        self._width = 0

    def __call__(self, lines: Sequence[Line]) -> None:
        self._width = max(self._width, max((len(line.name) for line in lines), default=0))
        if lines:
            out("\n".join(map(self._json if self._as_json else self._text, lines)))

    def _json(self, line: Line) -> str:
        at = datetime.fromtimestamp(line.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if line.at else None
        return json.dumps({"time": at, "name": line.name, "text": line.text})

    def _text(self, line: Line) -> str:
        text, prefix = line.text, f"{line.name:<{self._width}} | " if self._prefixed else ""
        if not self._coloured:
            return f"{prefix}{text}"
        colour = self._colours.setdefault(line.name, _COLOURS[len(self._colours) % len(_COLOURS)])
        text = _NOT_COLOUR.sub(lambda found: found[1] or "?", text)
        return f"\x1b[{colour}m{prefix}{_RESET}{text}{_RESET}"


def _in_order(lines: Iterable[Line]) -> list[Line]:
    """Those of several parts by their times, to a second; those of one stay in their order."""
    return sorted(lines, key=lambda line: line.at)
