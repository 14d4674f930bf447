"""`penstock up`: engines and gateway under one supervisor, until Ctrl-C."""

from __future__ import annotations

import signal

import typer

from penstock.cli.loading import Invocation, invocation
from penstock.cli.terminal import epilog, out, say

CODES = (
    "Exit codes: 0 stopped when asked to, 1 could not start or go on, 2 wrong usage or configuration, "
    "130 Ctrl-C before it was ready, or twice"
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        "up",
        help="Start every engine of the configuration and the gateway, and keep them running until Ctrl-C. "
        "Without a configuration this serves the bundled demo model. "
        "Prints the address, and on the first start the API key, once a model really answers.",
        epilog=epilog("penstock up", "penstock --config rack.toml up", codes=CODES),
    )(up)


def up(context: typer.Context) -> None:
    """Runs it, and ends with its exit code."""
    raise typer.Exit(_up(invocation(context)))


def _up(here: Invocation) -> int:
    from penstock.assembly.supervision import (
        Session,  # this is where pydantic and the engine client are loaded
    )
    from penstock.cli.banner import banner

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload that comes before there is anything to reload
    loaded = here.load()
    session = Session(loaded, here.load, here.home, here.environ, here.options, say, here.notifier)
    return session.run_all(lambda listen, secret: out(banner(loaded.config, listen, secret)))
