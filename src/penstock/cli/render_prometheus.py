"""`penstock render prometheus`: what Prometheus and Alertmanager are set up by."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import typer

from penstock.cli.loading import invocation
from penstock.cli.render import Output, deliver
from penstock.cli.terminal import epilog, say
from penstock.core.errors import PenstockError
from penstock.render.prometheus import ALERTMANAGER_FILE, CONFIG_FILE, prometheus

# The tools that check, each with its arguments.
CHECKS = (
    ("promtool", ("check", "config", CONFIG_FILE)),
    ("amtool", ("check-config", ALERTMANAGER_FILE)),
)
CHECK_TIMEOUT_S = 60


def register(group: typer.Typer) -> None:
    """Adds the command."""
    group.command(
        "prometheus",
        help="Scraping, recording rules and alerts for Prometheus, and receivers for Alertmanager. Where promtool and "
        "amtool are installed they check it all before it is written.",
        epilog=epilog(
            "penstock render prometheus -o deploy/prometheus",
            "penstock -c rack.toml render prometheus -o /etc/prometheus/penstock",
        ),
    )(render_prometheus)


def render_prometheus(context: typer.Context, output: Output = None) -> None:
    """Makes them from the configuration."""
    files = prometheus(invocation(context).load().config)
    check(files)
    deliver(files, output)


def check(files: Mapping[str, str]) -> None:
    """Has the tools look at the files, as far as they are installed; says which is not.

    Raises:
        PenstockError: a tool refuses them.
    """
    with TemporaryDirectory(prefix="penstock-") as folder:
        for name, text in files.items():
            path = Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
        for tool, arguments in CHECKS:
            found = shutil.which(tool)
            if found is None:
                say(f"warning: not checked by {tool}, which is not installed")
                continue
            try:
                done = subprocess.run(
                    [found, *arguments], cwd=folder, capture_output=True, text=True, timeout=CHECK_TIMEOUT_S
                )
            except subprocess.TimeoutExpired as error:
                raise PenstockError(
                    f"{tool} did not come to an end in {CHECK_TIMEOUT_S} s",
                    code="render_unchecked",
                    hint=f"nothing was written; is {found} what it should be?",
                ) from error
            if done.returncode:
                raise PenstockError(
                    f"{tool} refuses what was made: {(done.stderr or done.stdout).strip()}",
                    code="render_refused",
                    hint="nothing was written; a name or a URL in the configuration may be at fault",
                )
