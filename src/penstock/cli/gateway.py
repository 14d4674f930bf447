"""`penstock gateway`: the gateway alone."""

from __future__ import annotations

import signal

import typer

from penstock.cli.loading import invocation
from penstock.cli.terminal import epilog, say


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        "gateway",
        help="Run the gateway alone: for replicas that `penstock engine` runs in the same home, "
        "and for models with engine remote. SIGTERM and Ctrl-C drain it.",
        epilog=epilog("penstock gateway", "penstock --config rack.toml gateway"),
    )(gateway)


def gateway(context: typer.Context) -> None:
    """Runs it until it is drained."""
    from penstock.assembly.worker import WORKER_VARIABLE, Worker

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload that comes before there is anything to reload
    here = invocation(context)
    loaded = here.load()
    here.home.prepare()
    if loaded.config.gateway.workers > 1 and WORKER_VARIABLE not in here.environ:
        from penstock.assembly.workers import run_workers

        raise typer.Exit(
            run_workers(loaded.config.gateway, here.home, here.options, here.environ, say, here.notifier)
        )
    from penstock.assembly.gateway import run_gateway  # this is where the web framework is loaded

    run_gateway(loaded.config, here.load, here.home, Worker.of(here.environ), here.notifier)
