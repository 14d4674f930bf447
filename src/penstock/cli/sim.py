"""`penstock sim`: the simulated engine, a vLLM look-alike with a service-time model and scripted faults.

Its options are the fields of `SimEngineSettings`: name, type
and default from the class, help from its docstring.
"""

from __future__ import annotations

import inspect
import os
import re
from dataclasses import fields
from typing import Any, get_type_hints

import typer

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
    )(_engine_command())
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


def _engine_command() -> Any:
    """A function with one keyword for each option, as typer reads them."""

    def command(**values: Any) -> None:
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        engine(SimEngineSettings(**given, api_key=os.environ.get(KEY_VARIABLE, "")))

    types = get_type_hints(SimEngineSettings)
    helps = _helps(SimEngineSettings.__doc__ or "")
    parameters = []
    for field in fields(SimEngineSettings):
        if field.name == KEY_FIELD:
            continue
        several = types[field.name] == tuple[str, ...]
        default = list(field.default) if several and isinstance(field.default, tuple) else field.default
        parameters.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=typer.Option(
                    default, help=helps.get(field.name, ""), metavar="TEXT" if several else None
                ),
                annotation=list[str] if several else types[field.name],
            )
        )
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by inspect
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _helps(docstring: str) -> dict[str, str]:
    """The text of each entry under `Args:`."""
    _, _, entries = inspect.cleandoc(docstring).partition("Args:\n")
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", entries, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}
