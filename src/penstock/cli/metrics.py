"""`penstock metrics`: what the exporter would show or push, once, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.exporter import FakeGpus
from penstock.cli.loading import invocation
from penstock.cli.terminal import UsageError, epilog, out, say

if TYPE_CHECKING:
    from penstock.assembly.exporter import Parts
    from penstock.telemetry.families import Gathered

LEVELS = ("debug", "info", "warning", "error")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        "metrics",
        help="Read GPUs, host and engines once, and push what the exporter would push to exporter.otlp_endpoint; "
        "with --dry-run print it instead, as Prometheus would see it.",
        epilog=epilog(
            "penstock metrics --dry-run --log-level DEBUG", "penstock metrics --dry-run | grep gpu"
        ),
    )(metrics)


def metrics(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print it, and push nothing.")] = False,
    log_level: Annotated[
        str | None,
        typer.Option(
            help="Least severe line of the log: DEBUG also says what each source told.", metavar="LEVEL"
        ),
    ] = None,
    fake_gpus: FakeGpus = None,
) -> None:
    """Reads, and prints or pushes."""
    from penstock.assembly.exporter import Parts, look_once, open_push
    from penstock.telemetry.families import exposition
    from penstock.telemetry.logs import open_log

    here = invocation(context)
    config = here.load().config
    level = (log_level or config.log.level).lower()
    if level not in LEVELS:
        raise UsageError(f"--log-level: expected {', '.join(LEVELS)}, found {log_level!r}")
    endpoint = config.exporter.otlp_endpoint
    if endpoint is None and not dry_run:
        raise UsageError(
            "there is nowhere to push to: exporter.otlp_endpoint is not set",
            hint="set it, or print what would be pushed with --dry-run",
        )
    parts = Parts(config, here.load, here.home, here.environ, fake_gpus, open_log(level, config.log.format))
    families = asyncio.run(look_once(parts))
    if level == "debug":
        _explain(parts, families)
    if dry_run or endpoint is None:
        out(exposition(families).decode().rstrip())
        return
    open_push(endpoint).send(families)
    say(f"pushed {sum(len(samples) for _, samples in families)} samples to {endpoint}")


def _explain(parts: Parts, families: Sequence[Gathered]) -> None:
    """Says on standard error what each source told, and what it did not."""
    from penstock.exporter import host

    values = {family.name: len(samples) for family, samples in families}
    absent = [family.name for family in host.METRICS if family.name not in values]
    say(
        f"host: {sum(values.get(family.name, 0) for family in host.METRICS)} values"
        + (f"; not told here: {', '.join(absent)}" if absent else "")
    )
    sight = parts.exporter.sight
    if sight.trouble is not None:
        say(f"gpu: {sight.trouble.message} ({sight.trouble.reason})")
    for gpu in sight.gpus:
        say(
            f"gpu {gpu.index}: {gpu.name} ({gpu.uuid}): {len(gpu.values)} fields"
            + (", lost" if gpu.lost else "")
        )
        for field, absence in sorted(gpu.absent.items()):
            say(f"gpu {gpu.index}: {field}: {absence}")
    pages = parts.exporter.pages
    for page in pages:
        told = (
            page.detail
            if page.failure
            else ", ".join(f"{name}={value:g}" for name, value in page.values.items())
        )
        say(f"replica {page.target.replica} ({page.target.spec.kind} at {page.target.address}): {told}")
    if not pages:
        say("engines: no replica is registered in this home or configured as remote")
