"""`penstock exporter`: metrics of GPUs, host and engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.loading import invocation
from penstock.cli.terminal import epilog

FakeGpus = Annotated[
    Path | None,
    typer.Option(
        "--fake-gpus",
        metavar="FILE",
        help="Read the GPUs that this JSON file describes instead of those of this machine: for drills, and to "
        "try alerts and dashboards without a GPU. It is read again when it changes.",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        "exporter",
        help="Serve metrics of GPUs (NVML), host and engines to Prometheus, at exporter.listen. It works without a "
        "GPU, and says so. SIGTERM and Ctrl-C end it.",
        epilog=epilog(
            "penstock exporter",
            "penstock --config rack.toml exporter",
        ),
    )(exporter)


def exporter(context: typer.Context, fake_gpus: FakeGpus = None) -> None:
    """Runs it until it is told to stop."""
    from penstock.assembly.exporter import run_exporter

    here = invocation(context)
    run_exporter(here.load().config, here.load, here.home, here.environ, fake_gpus, here.notifier)
