"""`penstock undrain`: puts a drained replica back into service."""

from __future__ import annotations

from urllib.parse import quote

import typer

from penstock.cli.admin import Admin
from penstock.cli.drain import ReplicaName
from penstock.cli.loading import invocation
from penstock.cli.terminal import epilog, say


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        "undrain",
        help="Put a drained replica back into service, once its canary has shown that it works.",
        epilog=epilog("penstock undrain llama-0"),
    )(undrain)


def undrain(context: typer.Context, replica: ReplicaName) -> None:
    """Says that it was asked for."""
    Admin(invocation(context)).ask("POST", f"/admin/replicas/{quote(replica, safe='')}/undrain")
    say(f"{replica} serves again as soon as its canary has come")
