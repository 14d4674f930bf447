"""`penstock render systemd`: units for the machine that Penstock is installed on, or for another one."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.loading import Invocation, invocation
from penstock.cli.render import Output, deliver
from penstock.cli.terminal import UsageError, epilog, say
from penstock.engines.vllm import VENV_VARIABLE
from penstock.render.systemd import Part, Site, units, unseen

DEFAULT_USER = "penstock"
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,30}")  # what systemd takes for a user's name


def register(group: typer.Typer) -> None:
    """Adds the command."""
    group.command(
        "systemd",
        help="Units for systemd: penstock.service runs everything under one supervisor; or penstock.target with a "
        "service each for the gateway, the engine of a model, and the exporter.",
        epilog=epilog(
            "penstock render systemd --only supervisor",
            "sudo penstock -c /etc/penstock/penstock.toml render systemd -o /etc/systemd/system",
        ),
    )(systemd)


def systemd(
    context: typer.Context,
    output: Output = None,
    user: Annotated[str, typer.Option(help="Whose processes they are.")] = DEFAULT_USER,
    only: Annotated[list[Part] | None, typer.Option(help="Part to render; may be given again.")] = None,
    prefix: Annotated[
        Path | None,
        typer.Option(help="Where Penstock is installed on that machine; else where it is here."),
    ] = None,
    config_path: Annotated[
        Path | None, typer.Option(help="Where the configuration is on that machine; else where it is here.")
    ] = None,
) -> None:
    """Makes them from the configuration."""
    here = invocation(context)
    if not _USER.fullmatch(user):
        raise UsageError(f"--user: {user!r} is no user's name", hint="such as penstock")
    config = here.load().config
    site = _site(here, user, prefix, config_path)
    for path in unseen(config, site):
        say(f"warning: {path} is in a temporary folder, of which each unit has its own: move it")
    deliver(units(config, site, only or tuple(Part)), output)


def _site(here: Invocation, user: str, prefix: Path | None, config_path: Path | None) -> Site:
    found = config_path or here.toml
    return Site(
        command=here.cwd / (prefix or Path(sys.prefix)) / "bin" / "penstock",
        config=here.cwd / found if found else None,
        user=user,
        vllm_venv=here.environ.get(VENV_VARIABLE, ""),
    )
