"""`penstock stop`: asks what runs here to drain and end, and waits for it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import typer

from penstock.cli.loading import invocation
from penstock.cli.terminal import epilog, say
from penstock.core.errors import PenstockError
from penstock.store.runtime import Holder, lock_holder

LOOK_EVERY_S = 0.05
MARGIN_S = 5.0


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        "stop",
        help="Stop what runs here, as Ctrl-C would: open requests are finished first. "
        "Returns when it is gone; nothing to stop is no error.",
        epilog=epilog("penstock stop"),
    )(stop)


def stop(context: typer.Context) -> None:
    """Waits for the end."""
    lock = invocation(context).home.lock
    holder = lock_holder(lock)
    if holder is None:
        say("Penstock is not running here")
        return
    if not holder.pid:
        raise PenstockError("Penstock is just starting here", code="starting", hint="try again in a moment")
    say(f"stopping pid {holder.pid}; open requests are finished first")
    _ask(holder)
    _wait(lock, holder)
    say("stopped")


def _ask(holder: Holder) -> None:
    try:
        os.kill(holder.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise PenstockError(
            f"pid {holder.pid} belongs to another user", code="not_permitted", hint="stop it as that user"
        ) from error


def _wait(lock: Path, holder: Holder) -> None:
    end_s = time.monotonic() + holder.stop_within_s + MARGIN_S
    while (now := lock_holder(lock)) is not None and now.pid == holder.pid:
        if time.monotonic() > end_s:
            raise PenstockError(
                f"pid {holder.pid} has not stopped within {holder.stop_within_s:.0f} s",
                code="not_stopped",
                hint=f"kill -9 {holder.pid}: its engines end with it",
            )
        time.sleep(LOOK_EVERY_S)
