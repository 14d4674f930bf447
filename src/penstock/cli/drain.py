"""`penstock drain` and `penstock undrain`: takes a replica out of service without cutting a stream, and back."""

from __future__ import annotations

import time
from typing import Annotated
from urllib.parse import quote

import typer

from penstock.cli.admin import Admin
from penstock.cli.loading import invocation
from penstock.cli.terminal import epilog, say
from penstock.core.errors import PenstockError
from penstock.core.units import parse_duration_s

LOOK_EVERY_S = 0.2

ReplicaName = Annotated[str, typer.Argument(metavar="REPLICA", help="As `penstock status` names it.")]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        "drain",
        help="Give a replica no more requests, and wait until those that it has are finished.",
        epilog=epilog("penstock drain llama-0", "penstock drain llama-0 --wait 10m"),
    )(drain)


def drain(
    context: typer.Context,
    replica: ReplicaName,
    wait: Annotated[str, typer.Option(help="How long to wait for its requests.")] = "10m",
) -> None:
    """Says when it is idle."""
    try:
        end_s = time.monotonic() + parse_duration_s(wait)
    except ValueError as error:
        raise PenstockError(f"--wait: {error}", code="usage") from None
    admin = Admin(invocation(context))
    admin.ask("POST", f"/admin/replicas/{quote(replica, safe='')}/drain")
    while in_flight := _in_flight(admin, replica):
        if time.monotonic() > end_s:
            raise PenstockError(
                f"{replica} still has {in_flight} requests after {wait}",
                code="not_drained",
                hint="it gets no new ones; wait longer, or `penstock undrain` it",
            )
        time.sleep(LOOK_EVERY_S)
    say(f"{replica} is drained; `penstock undrain {replica}` puts it back into service")


def _in_flight(admin: Admin, name: str) -> int:
    """Requests that the replica has, one at least while it may still be given some."""
    replicas = admin.get("/admin/fleet")["replicas"]
    found = next((one for one in replicas if one["name"] == name), None)
    if found is None:
        return 0
    return max(int(found["in_flight"]), 1 if found["state"] in ("ready", "busy") else 0)
