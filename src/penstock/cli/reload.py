"""`penstock reload`: makes what runs here follow the configuration, without cutting a stream."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli.admin import Admin
from penstock.cli.asking import IN_PLACE_HELP, READY_WITHIN, WITHIN_HELP, ask_supervisor, within_s
from penstock.cli.loading import invocation
from penstock.cli.terminal import epilog, out, say


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        "reload",
        help="Make what runs here follow the configuration: models, replicas, tenants, limits. Where an engine has "
        "another source or other arguments, new replicas take the place of the old ones. Open streams go on. A "
        "configuration with mistakes, or whose replicas do not become ready, changes nothing.",
        epilog=epilog("penstock reload", "penstock --config rack.toml reload", "penstock reload --in-place"),
    )(reload)


def reload(
    context: typer.Context,
    in_place: Annotated[bool, typer.Option("--in-place", help=IN_PLACE_HELP)] = False,
    within: Annotated[str, typer.Option(help=WITHIN_HELP)] = READY_WITHIN,
    as_json: Annotated[bool, typer.Option("--json", help="Print each step as JSON.")] = False,
) -> None:
    """Says what has changed."""
    ready_within_s = within_s(within)
    here = invocation(context)
    from penstock.store.runtime import lock_holder
    from penstock.supervisor.control import Ask

    if lock_holder(here.home.lock) is not None:
        # It tells the mistakes of what it reads, secrets of its service included, which are not shown to this process.
        ask_supervisor(here, Ask("reload", in_place=in_place, ready_within_s=ready_within_s), as_json=as_json)
        return
    here.load()  # its mistakes are told here, and nobody else is bothered
    answer = Admin(here).ask("POST", "/admin/reload")
    said = f"the gateway goes by the new configuration (generation {answer['generation']})"
    if as_json:
        out(f'{{"kind": "done", "text": "{said}"}}')
    else:
        say(said)
