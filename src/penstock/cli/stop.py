"""`penstock stop`: asks what runs here to drain and end, and waits for it."""

from __future__ import annotations

import os
import signal
import time
from typing import Annotated

import typer

from penstock.cli.loading import invocation
from penstock.cli.terminal import epilog, say
from penstock.core.errors import PenstockError
from penstock.core.units import format_duration
from penstock.store.home import Home
from penstock.store.runtime import Holder, Registry, lock_holder

LOOK_EVERY_S = 0.05
STILL_SAID_EVERY_S = 5.0
MARGIN_S = 5.0
APART_S = 0.3  # else the kernel may hand over the later of two signals first
NOW_WITHIN_S = 10.0  # the kernel ends what was killed, and a GPU driver can delay that


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        "stop",
        help="Stop what runs here, as Ctrl-C would: open requests are finished first. "
        "Returns when it is gone; nothing to stop is no error.",
        epilog=epilog("penstock stop", "penstock stop --now"),
    )(stop)


def stop(
    context: typer.Context,
    now: Annotated[
        bool, typer.Option("--now", help="Cut open requests, also of a stop that is under way.")
    ] = False,
) -> None:
    """Waits for the end."""
    home = invocation(context).home
    holder = lock_holder(home.lock)
    if holder is None:
        say("Penstock is not running here")
        return
    if not holder.pid:
        raise PenstockError("Penstock is just starting here", code="starting", hint="try again in a moment")
    how = " at once; open requests are cut" if now else "; open requests are finished first"
    say(f"stopping pid {holder.pid}{how}")
    _ask(holder, signal.SIGTERM)
    if now:
        time.sleep(APART_S)
        _ask(holder, signal.SIGINT)  # Ctrl-C amid a stop
    _wait(home, holder, NOW_WITHIN_S if now else holder.stop_within_s + MARGIN_S)
    say("stopped")


def _ask(holder: Holder, number: signal.Signals) -> None:
    try:
        os.kill(holder.pid, number)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise PenstockError(
            f"pid {holder.pid} belongs to another user", code="not_permitted", hint="stop it as that user"
        ) from error


def _wait(home: Home, holder: Holder, within_s: float) -> None:
    began_s = said_s = time.monotonic()
    while (there := lock_holder(home.lock)) is not None and there.pid == holder.pid:
        time.sleep(LOOK_EVERY_S)
        now_s = time.monotonic()
        if now_s - began_s > within_s:
            raise PenstockError(
                f"pid {holder.pid} has not stopped within {within_s:.0f} s",
                code="not_stopped",
                hint=f"kill -9 {holder.pid}: its engines end with it",
            )
        if now_s - said_s > STILL_SAID_EVERY_S:
            said_s = now_s
            names = ", ".join(one.name for one in Registry(home.replicas).registrations())
            took = format_duration(round(now_s - began_s))
            say(f"still stopping after {took}; still there: {names or 'the gateway'}")
