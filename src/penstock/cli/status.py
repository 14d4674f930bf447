"""`penstock status`: what runs here, and whether it can serve."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from penstock.cli.loading import invocation
from penstock.cli.terminal import epilog, out

EXIT_READY = 0
EXIT_NOT_READY = 1
EXIT_NOT_RUNNING = 3
CODES = "Exit codes: 0 ready, 1 running and not ready, 2 wrong usage, 3 not running"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        "status",
        help="Show what runs here: the gateway, whether it can serve, and every replica with its state, memory, "
        "restarts and address; of each that is not ready, why, and when it is started again.",
        epilog=epilog("penstock status", "penstock status --json | jq .replicas", codes=CODES),
    )(status)


def status(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Prints it, and ends with an exit code that says it."""
    from penstock.cli.status_text import text
    from penstock.cli.status_view import look

    found = look(invocation(context))
    out(json.dumps(found) if as_json else text(found))
    code = EXIT_READY if found["ready"] else EXIT_NOT_READY if found["running"] else EXIT_NOT_RUNNING
    raise typer.Exit(code)
