"""`penstock top`: a live view of the gateway, until Ctrl-C or `q`."""

from __future__ import annotations

import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from penstock.cli.admin import Admin
from penstock.cli.loading import invocation
from penstock.cli.terminal import epilog
from penstock.core.errors import PenstockError

EVERY_S = 1.0
TENANTS_SHOWN_MAX = 12
CAUSE_CHARS_MAX = 48
_COLOURS = {
    "ready": "green",
    "busy": "green",
    "draining": "yellow",
    "loading": "cyan",
    "warming": "cyan",
    "starting": "magenta",
}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        "top",
        help="Show replicas, queues and limits as they change, until q or Ctrl-C.",
        epilog=epilog("penstock top", "penstock top --once"),
    )(top)


def top(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Print it once and end.")] = False,
    every: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds between two looks.")] = EVERY_S,
) -> None:
    """Draws until it is stopped."""
    admin = Admin(invocation(context))
    console = Console()
    first = admin.get("/admin/overview")  # an error now ends the command, later ones are shown
    if once or not console.is_terminal:
        console.print(screen(first, admin.url, ""))
        return
    with _keys() as pressed, Live(screen(first, admin.url, ""), console=console, screen=True) as live:
        shown = first
        while not pressed(every):
            trouble = ""
            try:
                shown = admin.get("/admin/overview")
            except PenstockError as error:
                trouble = error.message
            live.update(screen(shown, admin.url, trouble), refresh=True)


def screen(view: Mapping[str, Any], url: str, trouble: str) -> RenderableType:
    """What is shown of an overview; `trouble` says why it is an old one."""
    workers = f", {view['workers']} workers" if view["workers"] > 1 else ""
    state = "draining" if view["draining"] else "serving"
    head = Text(
        f"Penstock {view['version']} at {url}: {state}{workers}, {view['in_progress']} requests under way"
    )
    if trouble:
        head.append(f"\n{trouble}; what follows is old", style="red")
    return Group(head, _replicas(view["replicas"]), _queues(view["queues"]), _limits(view["limits"]))


def _replicas(replicas: list[Mapping[str, Any]]) -> Table:
    table = _table("REPLICA", "MODEL", "ENGINE", "STATE", "FOR", "LOAD", "", "CAUSE")
    for one in replicas:
        state = Text(one["state"], style=_COLOURS.get(one["state"], "red"))
        load = f"{one['in_flight']}/{one['concurrency']}"
        cause = Text(one["cause"][:CAUSE_CHARS_MAX], style="dim")
        since = _duration(one["since_s"])
        bar = _bar(one["in_flight"], one["concurrency"])
        table.add_row(one["name"], one["model"], one["engine"], state, since, load, bar, cause)
    return table


def _queues(queues: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table("QUEUE", "WAITING", "OF", "PERMITS", "WAIT", "BY TENANT")
    for model, line in queues.items():
        wait = "-" if line["predicted_wait_s"] is None else _duration(line["predicted_wait_s"])
        tenants = ", ".join(
            f"{name} {count}" for name, count in list(line["by_tenant"].items())[:TENANTS_SHOWN_MAX]
        )
        permits = f"{line['permits_out']}/{line['capacity']}"
        table.add_row(model, str(line["length"]), str(line["length_max"]), permits, wait, tenants)
    return table


def _limits(limits: list[Mapping[str, Any]]) -> Table:
    table = _table("WHO", "PARALLEL", "REQUESTS LEFT", "TOKENS LEFT", "TODAY", "THIS MONTH")
    busy = sorted(limits, key=lambda one: (-one["parallel"], -one["month_usd"], one["subject_id"]))
    for one in busy[:TENANTS_SHOWN_MAX]:
        set_to = one["limits"]
        table.add_row(
            one["subject_id"],
            _of(one["parallel"], set_to["parallel_requests"]),
            _of(one["requests_left"], set_to["requests_per_minute"]),
            _of(one["tokens_left"], set_to["tokens_per_minute"]),
            _money(one["day_usd"], set_to["usd_per_day"]),
            _money(one["month_usd"], set_to["usd_per_month"]),
        )
    return table


def _table(*names: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left", show_edge=False)
    for name in names:
        table.add_column(name, header_style="bold", no_wrap=True)
    return table


def _bar(part: int, whole: int) -> Text:
    filled = min(10, round(10 * part / whole)) if whole else 0
    return Text("█" * filled + "·" * (10 - filled), style="red" if part >= whole > 0 else "blue")


def _of(value: int | None, limit: int | None) -> str:
    if limit is None:
        return "-" if value is None else str(value)
    return f"{value}/{limit}"


def _money(spent: float, limit: float | None) -> str:
    return f"${spent:.2f}" + (f"/${limit:.2f}" if limit is not None else "")


def _duration(seconds: float) -> str:
    from penstock.core.units import format_duration

    return format_duration(round(seconds, 1))


@contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """A function that waits some seconds for `q`, and says whether it came; the terminal is put right again."""
    if not sys.stdin.isatty():

        def never(within_s: float) -> bool:
            time.sleep(within_s)
            return False

        yield never
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)

    def pressed(within_s: float) -> bool:
        readable, _, _ = select.select([sys.stdin], [], [], within_s)
        return bool(readable) and sys.stdin.read(1) in ("q", "Q")

    try:
        yield pressed
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
