"""What is known of what runs here: from the supervisor's files, the gateway's view and the machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from penstock.cli.loading import Invocation
from penstock.core.errors import PenstockError

if TYPE_CHECKING:
    from penstock.store.runtime import PartReport, Registration
    from penstock.telemetry.gpu import GpuMemory

NO_STATE = "unknown"


def look(here: Invocation) -> dict[str, Any]:
    """Everything, as it is printed with `--json`."""
    from penstock.store.runtime import PartReports, Refusal, Registry, lock_holder

    holder = lock_holder(here.home.lock)
    overview = _overview(here)
    reason = _unready(holder.listen) if holder else _alone(overview)
    own = {replica.name: replica for replica in Registry(here.home.replicas).registrations()}
    seen = {one["name"]: one for one in overview.get("replicas", [])}
    reports = {report.name: report for report in PartReports(here.home.parts).all()} if holder else {}
    names = sorted({*own, *seen, *(name for name, report in reports.items() if report.model)})
    gpus = _gpus(reports.values())
    return {
        "running": holder is not None or bool(overview),
        "ready": not reason,
        "reason": reason,
        "pid": holder.pid if holder else None,
        "up_s": round(time.time() - holder.started_at, 1) if holder and holder.started_at else None,
        "reload_refused": Refusal(here.home.refusal).why() if holder else "",
        "url": holder.listen if holder else None,
        "admin_url": holder.admin if holder else None,
        "workers": overview.get("workers"),
        "in_progress": overview.get("in_progress"),
        "queues": overview.get("queues", {}),
        "parts": [
            {"name": report.name, **_part(report), **_process(report.pid, gpus)}
            for report in reports.values()
            if not report.model
        ],
        "replicas": [
            _replica(name, own.get(name), seen.get(name, {}), reports.get(name), gpus) for name in names
        ],
    }


def _replica(
    name: str,
    own: Registration | None,
    seen: Mapping[str, Any],
    report: PartReport | None,
    gpus: Sequence[GpuMemory],
) -> dict[str, Any]:
    """What was registered of a replica, what the gateway knows of it, and what its keeper says."""
    address = own.url.removeprefix("http://") if own else seen.get("address", "")
    pid = own.pid if own else report.pid if report else 0
    running = report is None or report.life == "running"
    up_s = round(time.time() - own.started_at, 1) if own else None
    state = seen.get("state", NO_STATE) if running else report.life if report else NO_STATE
    return {
        "name": name,
        "model": own.model if own else report.model if report else seen.get("model", ""),
        "engine": own.engine if own else report.engine if report else seen.get("engine", ""),
        "url": f"http://{address}" if address else None,
        "port": int(address.rpartition(":")[2]) if address else None,
        "up_s": up_s,
        "state": state,
        "cause": seen.get("cause", "") if running else "",
        "evidence": seen.get("evidence", "") if running else "",
        "state_since_s": min(seen["since_s"], up_s or seen["since_s"]) if running and seen else None,
        "in_flight": seen.get("in_flight"),
        "concurrency": seen.get("concurrency"),
        **_part(report),
        **_process(pid, gpus),
    }


def _part(report: PartReport | None) -> dict[str, Any]:
    """What its keeper says of a part; nothing of one that another process keeps."""
    if report is None:
        nothing = ("life", "life_since_s", "restarts", "next_start_in_s", "log")
        return {**dict.fromkeys(nothing), "why": "", "last_exit": "", "loading": "", "gpus": []}
    now = time.time()
    waits = report.life == "waiting" and report.next_start_at
    return {
        "life": report.life,
        "life_since_s": round(max(0.0, now - report.since), 1) if report.since else None,
        "restarts": report.restarts,
        "next_start_in_s": round(max(0.0, report.next_start_at - now), 1) if waits else None,
        "log": report.log,
        "why": report.why,
        "last_exit": report.last_exit,
        "loading": report.loading,
        "gpus": list(report.gpus),
    }


def _process(pid: int, gpus: Sequence[GpuMemory]) -> dict[str, Any]:
    """The memory of a process and all below it."""
    if not pid:
        return {"pid": None, "memory_bytes": None, "gpu_memory_bytes": None}
    from penstock.supervisor.machine import family, resident_bytes

    members = family(pid)
    held = sum(gpu.held_bytes.get(member, 0) for gpu in gpus for member in members)
    return {"pid": pid, "memory_bytes": resident_bytes(members) or None, "gpu_memory_bytes": held or None}


def _gpus(reports: Iterable[PartReport]) -> Sequence[GpuMemory]:
    """The GPUs, where one was given to a part and the driver answers."""
    if not any(report.gpus for report in reports):
        return ()
    from penstock.telemetry.gpu import memory

    try:
        return memory({})
    except PenstockError:
        return ()


def _alone(overview: Mapping[str, Any]) -> str:
    """Why a gateway that was started alone can't serve; empty when it can."""
    if not overview:
        return "nothing runs here"
    waiting = [one["name"] for one in overview["replicas"] if not one["ready_at"]]
    return f"not ready: {', '.join(waiting)}" if waiting or not overview["replicas"] else ""


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
