"""The ledger is kept by a process of its own, for the moment that it takes.

A thread would share the interpreter with the loop that serves requests, and cost each of them three times what it
costs here. So the gateway asks now and then; what it gets back is what was spent, and what is to be told.

Run as `python -m penstock.store.ledger_keeper LEDGER JOURNAL '{"keep_s": ...}'`; prints one JSON object.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from contextlib import suppress
from pathlib import Path

import msgspec

from penstock.core.errors import PenstockError

# Serving goes first.
NICENESS = 5
# As much as the ledger's own patience, and what a pass over gigabytes may take.
PASS_TIMEOUT_S = 900

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Task(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the ledger is to be kept.

    Args:
        keep_s: how long files of the journal are kept once they are read; None for ever.
        wait_s: how long to wait while another process keeps the ledger.
        parent: the process for which it is done, and without which it is not; 0 for none.
        outbox: rows are to be sent elsewhere as well.
    """

    keep_s: float | None = None
    wait_s: float = 0.0
    parent: int = 0
    outbox: bool = False


class Problem(msgspec.Struct, frozen=True):
    """Something to be told to whoever runs the gateway."""

    message: str
    hint: str = ""


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a pass over the journal found.

    Args:
        whole: all that was there was taken in; else it is to be tried again.
        torn: lines of the journal that were passed over.
        unreadable: files of the journal that could not be read.
        tenants: US dollars that each has spent in this UTC day and month.
        keys: likewise, by the keys' ids.
    """

    whole: bool = False
    torn: int = 0
    unreadable: int = 0
    tenants: dict[str, tuple[float, float]] = {}
    keys: dict[str, tuple[float, float]] = {}
    problems: list[Problem] = []


async def keep(ledger: Path, journal: Path, task: Task) -> Kept:
    """Has the journal taken into the ledger; the process that does it is ended where this is cancelled."""
    told = msgspec.json.encode(msgspec.structs.replace(task, parent=os.getpid())).decode()
    command = (sys.executable, "-P", "-m", __name__, str(ledger), str(journal), told)
    said, trouble = await run_for_parent(command)
    try:
        return msgspec.json.decode(said, type=Kept)
    except msgspec.DecodeError:
        return _failed(trouble)


async def run_for_parent(command: tuple[str, ...], told: bytes = b"") -> tuple[bytes, str]:
    """What a process says that gets `told`, and how it ended; the process is ended where this is cancelled."""
    try:
        process = await _started(command)
    except OSError as error:
        return b"", f"no process could be started: {error}"
    try:
        said, complaint = await process.communicate(told)
    except BaseException:
        await _ended(process)
        raise
    last_words = complaint.decode(errors="replace").strip().rpartition("\n")[2]
    return said, f"its process ended with {process.returncode}: {last_words or 'no word'}"


async def _started(command: tuple[str, ...]) -> Process:
    """The process. asyncio's own start, where it is cancelled, may wait for ever for what it has half made."""
    pipe = asyncio.subprocess.PIPE
    # in a session of its own: a Ctrl-C is for the gateway, which drains and comes to its own end
    start = asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
    )
    starting = asyncio.ensure_future(start)
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        with suppress(OSError):
            await _ended(await starting)
        raise


async def _ended(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()  # a transaction that is cut is none
    await process.wait()


def _failed(why: str) -> Kept:
    hint = "the journal has it all: it is tried again"
    return Kept(problems=[Problem(f"the usage ledger was not kept: {why}", hint)])


def run(ledger_path: Path, journal: Path, task: Task) -> Kept:
    """Takes the journal into the ledger, here and now."""
    from penstock.store.ledger import Ledger  # and with it SQLite, which the gateway's process never needs

    problems: list[Problem] = []

    def tell(error: PenstockError) -> None:
        problems.append(Problem(error.message, error.hint))

    ledger = Ledger(ledger_path, journal, time.time, keep_s=task.keep_s, outbox=task.outbox, on_problem=tell)
    try:
        report = ledger.ingest(wait_s=task.wait_s)
        spend = ledger.spend()
    except PenstockError as error:
        tell(error)
        return Kept(problems=problems)
    whole = not report.busy and not report.unreadable
    return Kept(whole, report.torn, report.unreadable, dict(spend.tenants), dict(spend.keys), problems)


def serve_parent(parent: int) -> bool:
    """Binds this process to the one for which it works, where there is one, and bounds it; False where that is gone."""
    if sys.platform == "linux":
        import ctypes  # half a megabyte that the gateway has no use for

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent and os.getppid() != parent:
        return False
    signal.alarm(PASS_TIMEOUT_S)
    os.nice(NICENESS)
    return True


def main() -> None:
    """Does what the command line says; never outlives who asked for it, and takes no longer than it may."""
    ledger, journal, told = sys.argv[1:]
    task = msgspec.json.decode(told, type=Task)
    if not serve_parent(task.parent):
        return
    sys.stdout.buffer.write(msgspec.json.encode(run(Path(ledger), Path(journal), task)))


if __name__ == "__main__":
    main()
