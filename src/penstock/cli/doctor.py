"""`penstock doctor`: what stands in the way of a good service here, and how to mend it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.exporter import FakeGpus
from penstock.cli.loading import invocation
from penstock.cli.terminal import EXIT_FAILED, EXIT_OK, epilog, out

if TYPE_CHECKING:
    from penstock.doctor.finding import Finding

CODES = "Exit codes: 0 nothing fails, 1 something fails, 2 wrong usage"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        "doctor",
        help="Check driver, GPUs, limits, disks, ports, engines, configuration and model files, and say how to mend "
        "what is wrong. It changes nothing.",
        epilog=epilog("penstock doctor", "penstock --config rack.toml doctor --json", codes=CODES),
    )(doctor)


def doctor(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    fake_gpus: FakeGpus = None,
) -> None:
    """Prints the findings, and ends with an exit code that says whether something fails."""
    from penstock.assembly.doctor import examine
    from penstock.doctor.finding import any_fails
    from penstock.telemetry.fake_nvml import library

    here = invocation(context)
    findings = examine(
        lambda: here.load(quiet=True), here.config_name, here.home, here.environ, library(fake_gpus)
    )
    out(json.dumps({"findings": [asdict(each) for each in findings]}) if as_json else text(findings))
    raise typer.Exit(EXIT_FAILED if any_fails(findings) else EXIT_OK)


def text(findings: Sequence[Finding]) -> str:
    """Findings as rows, and below each what mends it; then how many there are of each level."""
    from penstock.doctor.finding import Level

    width = max(len(each.subject) for each in findings)
    lines = []
    for each in findings:
        lines.append(f"{each.level:<4}  {each.subject:<{width}}  {each.seen}")
        if each.mend:
            lines.append(f"{'':<{width + 8}}hint: {each.mend}")
    counts = Counter(each.level for each in findings)
    summary = ", ".join(f"{counts[level]} {level}" for level in Level if counts[level])
    return "\n".join((*lines, "", summary))
