"""`penstock status`: what runs here, and whether it can serve."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Annotated

import typer

from penstock.cli.loading import Invocation, invocation
from penstock.cli.terminal import epilog, out, table

EXIT_READY = 0
EXIT_NOT_READY = 1
EXIT_NOT_RUNNING = 3
CODES = "Exit codes: 0 ready, 1 running and not ready, 2 wrong usage, 3 not running"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        "status",
        help="Show what runs here: the gateway, whether it can serve, and every replica.",
        epilog=epilog("penstock status", "penstock status --json | jq .replicas", codes=CODES),
    )(status)


def status(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Prints it, and ends with an exit code that says it."""
    found = _look(invocation(context))
    out(json.dumps(found) if as_json else _text(found))
    code = EXIT_READY if found["ready"] else EXIT_NOT_READY if found["running"] else EXIT_NOT_RUNNING
    raise typer.Exit(code)


def _look(here: Invocation) -> dict[str, object]:
    from penstock.store.runtime import Registry, lock_holder

    holder = lock_holder(here.home.lock)
    reason = _unready(holder.listen) if holder else "nothing runs here"
    return {
        "running": holder is not None,
        "ready": not reason,
        "reason": reason,
        "pid": holder.pid if holder else None,
        "url": holder.listen if holder else None,
        "admin_url": holder.admin if holder else None,
        "replicas": [
            {
                "name": replica.name,
                "model": replica.model,
                "engine": replica.engine,
                "url": replica.url,
                "pid": replica.pid,
                "up_s": round(time.time() - replica.started_at, 1),
            }
            for replica in Registry(here.home.replicas).registrations()
        ],
    }


def _unready(url: str) -> str:
    """Why the gateway at `url` can't serve; empty when it can."""
    from penstock.core.config import Address
    from penstock.engines.client import EngineClient
    from penstock.supervisor.parts import readiness

    async def ask() -> str:
        client = EngineClient()
        try:
            return await readiness(client, Address.parse(url.removeprefix("http://")))
        finally:
            client.close()

    return asyncio.run(ask()) if url else "it is starting"


def _text(found: dict[str, object]) -> str:
    from penstock.core.units import format_duration

    if not found["running"]:
        head = "Penstock is not running here."
    else:
        state = "ready" if found["ready"] else f"not ready: {found['reason']}"
        head = f"Penstock at {found['url']} (pid {found['pid']}) is {state}."
    replicas = found["replicas"]
    assert isinstance(replicas, list)
    if not replicas:
        return head
    rows = [
        (one["name"], one["model"], one["engine"], one["url"], str(one["pid"]), format_duration(one["up_s"]))
        for one in replicas
    ]
    return f"{head}\n\n{table(('REPLICA', 'MODEL', 'ENGINE', 'ADDRESS', 'PID', 'UP'), rows)}"
