"""`penstock reload`: makes what runs here follow the configuration, without cutting a stream."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import typer

from penstock.cli.admin import Admin
from penstock.cli.loading import Invocation, invocation
from penstock.cli.terminal import epilog, say
from penstock.core.errors import PenstockError

LOOK_EVERY_S = 0.05
TOLD_WITHIN_S = 30.0


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        "reload",
        help="Make what runs here follow the configuration: models, replicas, tenants, limits. Open streams go on. "
        "A configuration with mistakes changes nothing.",
        epilog=epilog("penstock reload", "penstock --config rack.toml reload"),
    )(reload)


def reload(context: typer.Context) -> None:
    """Says what has changed."""
    here = invocation(context)
    here.load()  # its mistakes are told here, and nobody else is bothered
    from penstock.store.runtime import lock_holder

    holder = lock_holder(here.home.lock)
    if holder is None:
        answer = Admin(here).ask("POST", "/admin/reload")
        say(f"the gateway goes by the new configuration (generation {answer['generation']})")
        return
    before = _stamp(here.home.reloaded)
    os.kill(holder.pid, signal.SIGHUP)
    for line in _told(here, before):
        say(line)


def _told(here: Invocation, before: int) -> list[str]:
    from penstock.store.runtime import read_reload

    end_s = time.monotonic() + TOLD_WITHIN_S
    while _stamp(here.home.reloaded) == before:
        if time.monotonic() > end_s:
            raise PenstockError(
                f"the supervisor has said nothing for {TOLD_WITHIN_S:.0f} s",
                code="reload_unanswered",
                hint="its own output says what it does",
            )
        time.sleep(LOOK_EVERY_S)
    told = read_reload(here.home.reloaded)
    if told.error:
        raise PenstockError(told.error, code="reload_refused", hint="everything is as it was before")
    return list(told.changes) or ["nothing has changed"]


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
