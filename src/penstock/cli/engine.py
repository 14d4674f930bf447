"""`penstock engine NAME`: the replicas of one model, without a gateway."""

from __future__ import annotations

import difflib
from typing import Annotated

import typer

from penstock.cli.loading import Invocation, invocation
from penstock.cli.terminal import UsageError, epilog, out, say
from penstock.cli.up import CODES


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        "engine",
        help="Start the replicas of one model, and keep them running until Ctrl-C, without a gateway. "
        "Prints the name and address of each when all are ready; a gateway of the same home finds them.",
        epilog=epilog("penstock engine penstock-demo", "penstock -c rack.toml engine llama", codes=CODES),
    )(engine)


def engine(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the model in the configuration.")],
) -> None:
    """Runs it, and ends with its exit code."""
    raise typer.Exit(_engine(invocation(context), name))


def _engine(here: Invocation, name: str) -> int:
    from penstock.assembly.supervision import (
        Session,  # this is where pydantic and the engine client are loaded
    )

    loaded = here.load()
    models = {model.name: model for model in loaded.config.models}
    if name not in models:
        near = difflib.get_close_matches(name, models, n=1)
        raise UsageError(
            f"there is no model {name!r}" + (f"; did you mean {near[0]}?" if near else ""),
            hint=f"known: {', '.join(models)}",
        )
    if models[name].engine == "remote":
        raise UsageError(f"model {name!r} has engine remote, which Penstock does not start")
    session = Session(loaded, here.load, here.home, here.environ, here.options, say, here.notifier)
    return session.run_model(models[name], out)
