"""A replica that serves is stopped, then killed; what its clients, the gateway and the GPU see of it is timed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil

from gpu_checks.row import Row, info, judged
from gpu_checks.service import LOOK_EVERY_S, Service, Stream, until
from gpu_checks.vram import Vram

STALL_S = 3.0
"""`timeouts.stall` of the model that is drilled."""

NOTICED_WITHIN_S = STALL_S + 2.0
GOES_ON_WITHIN_S = 15.0
"""Another replica prefills what there was of the answer first."""

FREED_WITHIN_S = 30.0
SERVES_WITHIN_S = 300.0
TOKENS = 1500
BEGUN_EVENTS = 8
LEFT_BYTES_MAX = 300 * 2**20
"""What a GPU may hold more than before, after all has ended: another program's doing, or the driver's."""


async def serve(service: Service, vram: Vram) -> AsyncIterator[Row]:
    """A plain answer, and what the exporter says meanwhile."""
    part, stream = "serve", Stream()
    begun_s = time.monotonic()
    await service.stream(stream, 128)
    first_s, last_s = stream.pieces[0][0] - begun_s, stream.pieces[-1][0] - begun_s
    yield judged(
        part, "a streamed answer", f"{stream.events} events, {stream.ended}", "done", stream.ended == "done"
    )
    yield info(part, "first byte, last byte", f"{first_s:.2f} s, {last_s:.2f} s")
    vram.look()
    names = {each.name for each in service.registry.registrations()}

    async def attributed() -> bool:
        page = await service.page()
        return all(f'replica="{name}"' in page for name in names)

    took_s = await until(attributed, "the exporter to tell whose memory it is", 10.0)
    yield judged(
        part,
        "memory by replica",
        f"all {len(names)} on the exporter's page after {took_s:.1f} s",
        "all",
        True,
    )
    page = await service.page()
    orphans = [line for line in page.splitlines() if line.startswith('penstock_gpu_orphan_processes{gpu="0"')]
    yield info(part, "orphans on the GPU", orphans[0].rpartition(" ")[2] if orphans else "not told")


async def stall(service: Service) -> AsyncIterator[Row]:
    """The replica that answers is stopped by SIGSTOP, all of its processes at once."""
    part = "stall"
    async with _answering(service) as (stream, name, pid):
        os.killpg(pid, signal.SIGSTOP)
        stopped_s, before = time.monotonic(), stream.events
        try:
            told = await _outcome(part, stream, before, stopped_s, NOTICED_WITHIN_S + GOES_ON_WITHIN_S)
            state = await _state(service, name)
        finally:
            os.killpg(pid, signal.SIGCONT)
        yield told
        yield info(part, "the gateway's word for it", state)
        took_s = await until(lambda: _is(service, name, "ready"), f"{name} to be ready", SERVES_WITHIN_S)
        yield judged(
            part, "ready again after SIGCONT", f"{took_s:.1f} s", f"{SERVES_WITHIN_S:.0f} s", well=True
        )


async def kill(service: Service, vram: Vram) -> AsyncIterator[Row]:
    """The first process of the replica that answers is killed."""
    part = "kill"
    async with _answering(service) as (stream, name, pid):
        tree = {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}
        held = {each: held for each, held in vram.holders().items() if each in tree}
        os.kill(pid, signal.SIGKILL)
        killed_s, before = time.monotonic(), stream.events
        yield await _outcome(part, stream, before, killed_s, GOES_ON_WITHIN_S)
        yield info(part, "memory it held", f"{sum(held.values()) / 2**30:.1f} GiB in {len(held)} processes")
        took_s = await until(
            lambda: not tree & set(vram.holders()) and not any(map(_lives, tree)),
            "its memory to be freed",
            FREED_WITHIN_S,
        )
        yield judged(
            part,
            "all of its processes gone, memory freed",
            f"{took_s:.1f} s",
            f"{FREED_WITHIN_S:.0f} s",
            True,
        )
        await until(lambda: _is_another(service, name, pid), f"{name} to be started anew", SERVES_WITHIN_S)
        await until(lambda: _is(service, name, "ready"), f"{name} to be ready", SERVES_WITHIN_S)
        yield judged(
            part, "serves again", f"{time.monotonic() - killed_s:.1f} s", f"{SERVES_WITHIN_S:.0f} s", True
        )


async def stop(service: Service, vram: Vram, before_bytes: int) -> AsyncIterator[Row]:
    """Everything is stopped."""
    pids = {each.pid for each in service.registry.registrations()}
    took_s = await service.stop()
    yield info("stop", "stopped", f"{took_s:.1f} s")
    left = vram.used_bytes() - before_bytes
    held = sorted(pids & set(vram.holders()))
    yield judged(
        "stop", "memory freed", f"{left / 2**20:+.0f} MiB, holders of ours: {held or 'none'}",
        f"under {LEFT_BYTES_MAX // 2**20} MiB, none", left < LEFT_BYTES_MAX and not held,
    )  # fmt: skip


@asynccontextmanager
async def _answering(service: Service) -> AsyncIterator[tuple[Stream, str, int]]:
    """A stream that has begun, the name of the replica that answers it, and its process."""
    stream = Stream()
    task = asyncio.create_task(service.stream(stream, TOKENS))
    try:
        await until(lambda: stream.events >= BEGUN_EVENTS, "the answer to begin", 120.0)
        busy = [each["name"] for each in await service.replicas() if each["in_flight"]]
        registration = service.registration(busy[0])
        assert registration is not None
        yield stream, registration.name, registration.pid
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _outcome(part: str, stream: Stream, before: int, since_s: float, within_s: float) -> Row:
    """How the stream went on: from another replica, or with an error event; never silence, never a false end."""

    def decided() -> bool:
        late = [data for at_s, data in stream.pieces if at_s > since_s + LOOK_EVERY_S]
        return bool(stream.ended) or any(b"data: {" in data for data in late)

    await until(decided, "the stream to go on or to end", within_s)
    took_s = time.monotonic() - since_s
    ended = stream.ended or "goes on from another replica"
    seen = f"{ended} after {took_s:.1f} s ({before} events before)"
    return judged(
        part,
        "the stream",
        seen,
        f"goes on, or an error event, in {within_s:.0f} s",
        ended not in ("done", "no end"),
    )


async def _state(service: Service, name: str) -> str:
    found = next((each for each in await service.replicas() if each["name"] == name), None)
    return f"{found['state']}: {found['cause']} {found['evidence']}".strip() if found else "not known"


async def _is(service: Service, name: str, state: str) -> bool:
    return any(each["name"] == name and each["state"] == state for each in await service.replicas())


def _is_another(service: Service, name: str, pid: int) -> bool:
    found = service.registration(name)
    return found is not None and found.pid != pid


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
