"""`penstock render grafana`: dashboards, and what makes Grafana find them."""

from __future__ import annotations

from importlib import import_module

import typer

from penstock.cli.loading import invocation
from penstock.cli.render import Output, deliver
from penstock.cli.terminal import epilog
from penstock.core.errors import PenstockError


def register(group: typer.Typer) -> None:
    """Adds the command."""
    group.command(
        "grafana",
        help="Dashboards for Grafana as JSON, and its provisioning. Needs `pip install penstock[grafana]`.",
        epilog=epilog(
            "penstock render grafana -o deploy/grafana",
            "penstock -c rack.toml render grafana -o /etc/grafana/penstock",
        ),
    )(render_grafana)


def render_grafana(context: typer.Context, output: Output = None) -> None:
    """Makes them from the configuration."""
    config = invocation(context).load().config
    try:
        module = import_module("penstock.render.grafana")
    except ImportError as error:
        raise PenstockError(
            f"dashboards can't be made: {error}",
            code="not_installed",
            hint="pip install penstock[grafana]; those of the default configuration are in deploy/grafana",
        ) from None
    deliver(module.grafana(config), output)
