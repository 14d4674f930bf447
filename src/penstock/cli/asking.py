"""How commands ask the supervisor of this home: each step is printed as it comes, the outcome ends the command."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from penstock.cli.loading import Invocation
from penstock.cli.terminal import out, say
from penstock.core.errors import PenstockError
from penstock.core.units import parse_duration_s

if TYPE_CHECKING:
    from penstock.supervisor.control import Ask, Told

WITHIN_HELP = "How long a new replica may take to become ready."
IN_PLACE_HELP = (
    "Stop each replica before the one that takes its place is started, where there is no room for both."
)
READY_WITHIN = "30m"


def ask_supervisor(here: Invocation, ask: Ask, *, as_json: bool) -> None:
    """Prints what it tells: lines for people, or one JSON object each on standard output.

    Raises:
        PenstockError: it failed, or no supervisor answers.
    """
    from penstock.supervisor.control import asked

    try:
        for told in asked(here.home.control, ask):
            if as_json:
                out(json.dumps(asdict(told)))
            elif told.kind != "failed":
                say(_line(told))
            if told.kind == "failed":
                raise PenstockError(told.text, code=told.code or "failed", hint=told.hint)
    except KeyboardInterrupt:
        say(
            "withdrawn: new replicas that are not ready yet are stopped, old ones that leave already go on leaving"
        )
        raise


def within_s(option: str) -> float:
    """The option `--within` in seconds.

    Raises:
        PenstockError: it is no duration.
    """
    try:
        return parse_duration_s(option)
    except ValueError as error:
        raise PenstockError(f"--within: {error}", code="usage") from None


def _line(told: Told) -> str:
    if told.kind == "done":
        return told.text
    about = f"{told.about}: " if told.about else ""
    return f"{told.after_s:7.1f}s  {about}{told.text}"
