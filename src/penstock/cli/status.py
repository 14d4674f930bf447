"""`penstock status`: what runs here, and whether it can serve."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.loading import Invocation, invocation
from penstock.cli.terminal import epilog, out, table
from penstock.core.errors import PenstockError

if TYPE_CHECKING:
    from penstock.store.runtime import Registration

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


def _look(here: Invocation) -> dict[str, Any]:
    from penstock.store.runtime import Registry, lock_holder

    holder = lock_holder(here.home.lock)
    overview = _overview(here)
    reason = _unready(holder.listen) if holder else _alone(overview)
    own = {replica.name: replica for replica in Registry(here.home.replicas).registrations()}
    seen = {one["name"]: one for one in overview.get("replicas", [])}
    return {
        "running": holder is not None or bool(overview),
        "ready": not reason,
        "reason": reason,
        "pid": holder.pid if holder else None,
        "url": holder.listen if holder else None,
        "admin_url": holder.admin if holder else None,
        "workers": overview.get("workers"),
        "in_progress": overview.get("in_progress"),
        "queues": overview.get("queues", {}),
        "replicas": [_replica(name, own.get(name), seen.get(name, {})) for name in {**own, **seen}],
    }


def _alone(overview: Mapping[str, Any]) -> str:
    """Why a gateway that was started alone can't serve; empty when it can."""
    if not overview:
        return "nothing runs here"
    waiting = [one["name"] for one in overview["replicas"] if one["state"] not in _SERVING]
    return f"not ready: {', '.join(waiting)}" if waiting or not overview["replicas"] else ""


def _replica(name: str, own: Registration | None, seen: Mapping[str, Any]) -> dict[str, Any]:
    """What the supervisor has registered of a replica, and what the gateway knows of it."""
    return {
        "name": name,
        "model": own.model if own else seen["model"],
        "engine": own.engine if own else seen["engine"],
        "url": own.url if own else f"http://{seen['address']}",
        "pid": own.pid if own else None,
        "up_s": round(time.time() - own.started_at, 1) if own else None,
        "state": seen.get("state", "unknown"),
        "cause": seen.get("cause", ""),
        "evidence": seen.get("evidence", ""),
        "in_flight": seen.get("in_flight"),
        "concurrency": seen.get("concurrency"),
    }


def _overview(here: Invocation) -> dict[str, Any]:
    """What the gateway shows of itself; nothing where it does not answer."""
    from penstock.cli.admin import Admin

    try:
        return Admin(here).get("/admin/overview")
    except PenstockError:
        return {}


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


def _text(found: dict[str, Any]) -> str:
    if not found["running"] and not found["replicas"]:
        return "Penstock is not running here."
    state = "ready" if found["ready"] else f"not ready: {found['reason']}"
    where = f"at {found['url']} (pid {found['pid']})" if found["pid"] else "(a gateway alone)"
    head = f"Penstock {where} is {state}." if found["running"] else ""
    waiting = [
        f"{line['length']} wait for {model}" for model, line in found["queues"].items() if line["length"]
    ]
    parts = [head, *([f"In line: {', '.join(waiting)}."] if waiting else [])]
    if found["replicas"]:
        header = ("REPLICA", "MODEL", "ENGINE", "STATE", "LOAD", "ADDRESS", "PID", "UP")
        parts.append(table(header, [_row(one) for one in found["replicas"]]))
        parts += [f"{one['name']}: {one['cause']}" for one in found["replicas"] if one["state"] not in _FINE]
    return "\n\n".join(filter(None, parts))


_SERVING = frozenset({"ready", "busy"})
_FINE = _SERVING | {"unknown"}


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    from penstock.core.units import format_duration

    load = "-" if one["in_flight"] is None else f"{one['in_flight']}/{one['concurrency']}"
    up = format_duration(one["up_s"]) if one["up_s"] is not None else "-"
    pid = str(one["pid"] or "-")
    return (one["name"], one["model"], one["engine"], one["state"], load, one["url"], pid, up)
