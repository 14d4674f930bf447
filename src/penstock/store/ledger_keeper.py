"""The ledger is kept by a process of its own, for the moment that it takes.

A thread would share the interpreter with the loop that serves requests, and cost each of them three times what it
costs here. So the gateway asks now and then; what it gets back is what was spent, and what is to be told.

Run as `python -m penstock.store.ledger_keeper '{"ledger": ...}'`; prints one JSON object.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import msgspec

from penstock.core.errors import PenstockError

# Serving goes first.
NICENESS = 5
# As much as the ledger's own patience, and what a pass over gigabytes may take.
PASS_TIMEOUT_S = 900.0


class Task(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is to be done.

    Args:
        ledger: `Home.ledger`.
        journal: `Home.journal`.
        keep_s: how long files of the journal are kept once they are read; None for ever.
        wait_s: how long to wait while another process keeps the ledger.
    """

    ledger: str
    journal: str
    keep_s: float | None = None
    wait_s: float = 0.0


class Problem(msgspec.Struct, frozen=True):
    """Something to be told to whoever runs the gateway."""

    message: str
    hint: str = ""


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a pass over the journal found.

    Args:
        torn: lines of the journal that were passed over.
        unreadable: files of the journal that could not be read.
        tenants: US dollars that each has spent in this UTC day and month.
        keys: likewise, by the keys' ids.
    """

    torn: int = 0
    unreadable: int = 0
    tenants: dict[str, tuple[float, float]] = {}
    keys: dict[str, tuple[float, float]] = {}
    problems: list[Problem] = []


async def keep(task: Task) -> Kept:
    """Has the journal taken into the ledger; the process that does it is ended where this is cancelled."""
    command = (sys.executable, "-P", "-m", __name__, msgspec.json.encode(task).decode())
    pipe = asyncio.subprocess.PIPE
    # in a session of its own: a Ctrl-C is for the gateway, which drains and comes to its own end
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, start_new_session=True)
    try:
        async with asyncio.timeout(PASS_TIMEOUT_S):
            told, complaint = await process.communicate()
    except BaseException as error:
        process.kill()  # a transaction that is cut is none
        await process.wait()
        if isinstance(error, TimeoutError):
            return _failed(f"it took longer than {PASS_TIMEOUT_S:.0f} s")
        raise
    if process.returncode:
        return _failed(complaint.decode(errors="replace").strip().rpartition("\n")[2])
    return msgspec.json.decode(told, type=Kept)


def _failed(why: str) -> Kept:
    return Kept(
        problems=[
            Problem(f"the usage ledger was not kept: {why}", "the journal has it all: it is tried again")
        ]
    )


def run(task: Task) -> Kept:
    """Takes the journal into the ledger, here and now."""
    from penstock.store.ledger import Ledger  # and with it SQLite, which the gateway's process never needs

    problems: list[Problem] = []

    def tell(error: PenstockError) -> None:
        problems.append(Problem(error.message, error.hint))

    ledger = Ledger(Path(task.ledger), Path(task.journal), time.time, keep_s=task.keep_s, on_problem=tell)
    try:
        report = ledger.ingest(wait_s=task.wait_s)
        spend = ledger.spend()
    except PenstockError as error:
        tell(error)
        return Kept(problems=problems)
    return Kept(report.torn, report.unreadable, dict(spend.tenants), dict(spend.keys), problems)


def main() -> None:
    """Does what the command line says."""
    os.nice(NICENESS)
    task = msgspec.json.decode(sys.argv[1], type=Task)
    sys.stdout.buffer.write(msgspec.json.encode(run(task)))


if __name__ == "__main__":
    main()
