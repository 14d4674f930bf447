"""`penstock restart`: new replicas take the place of a model's running ones, without cutting a stream."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli.asking import IN_PLACE_HELP, READY_WITHIN, WITHIN_HELP, ask_supervisor, within_s
from penstock.cli.loading import Invocation, invocation
from penstock.cli.terminal import complain, epilog
from penstock.core.errors import PenstockError

EXIT_NOT_RUNNING = 3
CODES = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not running"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        "restart",
        help="Restart the replicas of a model, one after another, without cutting a stream: a new one is started, and "
        "once it answers, the old one finishes what it has and is stopped. Where the new one does not become ready, "
        "the old one goes on. Ctrl-C leaves as many replicas as there were.",
        epilog=epilog(
            "penstock restart llama",
            "penstock restart llama --in-place",
            "penstock restart llama --replica llama-1",
            codes=CODES,
        ),
    )(restart)


def restart(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model in the configuration.")],
    replica: Annotated[str, typer.Option(help="Restart this replica of it alone.")] = "",
    in_place: Annotated[bool, typer.Option("--in-place", help=IN_PLACE_HELP)] = False,
    within: Annotated[str, typer.Option(help=WITHIN_HELP)] = READY_WITHIN,
    as_json: Annotated[bool, typer.Option("--json", help="Print each step as JSON.")] = False,
) -> None:
    """Tells each step."""
    ready_within_s = within_s(within)
    here = invocation(context)
    from penstock.store.runtime import lock_holder
    from penstock.supervisor.control import Ask

    if lock_holder(here.home.lock) is None:
        _refuse_alone(here, model)
        complain(PenstockError("Penstock is not running here", hint="`penstock up` starts it"))
        raise typer.Exit(EXIT_NOT_RUNNING)
    ask_supervisor(here, Ask("restart", model, replica, in_place, ready_within_s), as_json=as_json)


def _refuse_alone(here: Invocation, model: str) -> None:
    """Says so where the engine was started by `penstock engine`."""
    from penstock.store.runtime import lock_holder

    alone = lock_holder(here.home.engine_lock(model))
    if alone is not None:
        raise PenstockError(
            f"{model} was started alone (`penstock engine`, pid {alone.pid}): only `penstock up` can restart a replica "
            "while others serve",
            code="started_alone",
            hint="stop that process and start it again; the gateway answers 503 with Retry-After meanwhile",
        )
