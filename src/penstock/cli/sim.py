"""`penstock sim`: the simulated engine, a vLLM look-alike with a service-time model and scripted faults.

Its options are the fields of `SimEngineSettings`: name, type
and default from the class, help from its docstring.
"""

from __future__ import annotations

import os
from typing import Any

import typer

from penstock.cli.options import with_options
from penstock.cli.terminal import UsageError, epilog, out
from penstock.simulator.settings import SimEngineSettings

KEY_VARIABLE = "PENSTOCK_SIM_API_KEY"
KEY_FIELD = "api_key"  # never an option: command lines are there for everybody to read

EXAMPLES = (
    "penstock sim engine --port 8000 --model llama",
    "penstock sim engine --fault-rate reset_after_tokens=5:0.01 --seed 7",
)


def register(app: typer.Typer) -> None:
    """Adds the group of commands."""
    group = typer.Typer(
        help="Simulated engines: no model and no GPU, real sockets.",
        epilog=epilog(*EXAMPLES),
        rich_markup_mode=None,
    )

    def group_help() -> None:
        """Keeps `engine` a command of its own while it is the only one."""

    group.callback()(group_help)
    group.command(
        "engine",
        help="Run a simulated engine with vLLM's API, until SIGTERM. Prints its address when it listens. "
        f"{KEY_VARIABLE} holds the key that it asks for.",
        epilog=epilog(*EXAMPLES),
    )(with_options(SimEngineSettings, _engine, leave_out=(KEY_FIELD,)))
    app.add_typer(group, name="sim")


def engine(settings: SimEngineSettings) -> None:
    """Serves until it is stopped."""
    from penstock.simulator.engine_server import run

    complaints = settings.check()
    if complaints:
        raise UsageError("\n".join(complaints), hint="penstock sim engine --help")

    def ready(port: int) -> None:
        out(f"http://{settings.host}:{port}")

    run(settings, ready=ready)


def _engine(_: typer.Context, **values: Any) -> None:
    engine(SimEngineSettings(**values, api_key=os.environ.get(KEY_VARIABLE, "")))
