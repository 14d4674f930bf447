"""The ledger is kept by a process that ends with its work, or with whoever asked for it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from penstock.store.home import Home
from penstock.store.journal import Journal
from penstock.store.ledger_file import LedgerFile
from penstock.store.ledger_keeper import Task, keep, run
from tests.store.journals import NOON, journal, record


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.prepare()
    return home


def used(home: Home) -> Journal:
    """A journal in which one request has ended."""
    written = journal(home.journal)
    ended = record()
    written.end(written.begin(ended, 120), ended)
    return written


def test_what_is_in_the_journal_is_taken_in_and_told(home: Home) -> None:
    written = used(home)

    kept = asyncio.run(keep(home.ledger, home.journal, Task()))

    assert written.lines == 2
    assert kept.whole
    assert kept.problems == []
    assert set(kept.tenants) <= {"search"}  # spent today, whichever day this is
    assert run(home.ledger, home.journal, Task()).whole


def test_a_pass_that_found_another_at_it_is_to_be_made_again(home: Home) -> None:
    used(home)
    with LedgerFile(home.ledger, lambda: NOON).alone(0.0) as alone:
        kept = asyncio.run(keep(home.ledger, home.journal, Task()))

    assert alone
    assert not kept.whole
    assert kept.problems == []


def test_a_ledger_that_can_not_be_kept_is_told(home: Home) -> None:
    used(home)
    home.ledger.mkdir()

    kept = asyncio.run(keep(home.ledger, home.journal, Task()))

    assert not kept.whole
    assert str(home.ledger) in kept.problems[0].message


def test_a_process_that_can_not_be_started_is_told(home: Home) -> None:
    code = (
        "import asyncio, resource, sys; from pathlib import Path;"
        "from penstock.store.ledger_keeper import Task, keep\n"
        "async def main():\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (len(__import__('os').listdir('/proc/self/fd')), 999))\n"
        "    return await keep(Path(sys.argv[1]), Path(sys.argv[2]), Task())\n"
        "print(asyncio.run(main()).problems[0].message)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(home.ledger), str(home.journal)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert "the usage ledger was not kept: no process could be started" in told.stdout, told.stderr


def test_it_ends_where_it_is_no_longer_wanted(home: Home) -> None:
    used(home)

    async def scene() -> None:
        with LedgerFile(home.ledger, lambda: NOON).alone(0.0):
            keeping = asyncio.create_task(keep(home.ledger, home.journal, Task(wait_s=30.0)))
            while not (children := keepers_of(psutil.Process())):
                await asyncio.sleep(0.01)
            keeping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await keeping
        assert not any(child.is_running() for child in children)

    asyncio.run(scene())


@pytest.mark.parametrize("turns", range(6))
def test_a_start_that_is_cancelled_leaves_nothing(home: Home, turns: int) -> None:
    async def scene() -> None:
        keeping = asyncio.create_task(keep(home.ledger, home.journal, Task()))
        for _ in range(turns):
            await asyncio.sleep(0)
        keeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await keeping

    asyncio.run(scene())

    assert keepers_of(psutil.Process()) == []


def test_it_does_not_outlive_who_asked_for_it(home: Home) -> None:
    used(home)
    code = (
        "import asyncio, sys; from pathlib import Path; from penstock.store.ledger_keeper import Task, keep\n"
        "asyncio.run(keep(Path(sys.argv[1]), Path(sys.argv[2]), Task(wait_s=30.0)))"
    )
    with LedgerFile(home.ledger, lambda: NOON).alone(0.0):
        asking = subprocess.Popen([sys.executable, "-c", code, str(home.ledger), str(home.journal)])
        while not (children := keepers_of(psutil.Process(asking.pid))):
            assert asking.poll() is None
        os.kill(asking.pid, signal.SIGKILL)
        asking.wait()
        gone, alive = psutil.wait_procs(children, timeout=10.0)

    assert alive == []
    assert gone == children


def keepers_of(parent: psutil.Process) -> list[psutil.Process]:
    """Those of its children that keep a ledger."""
    found = []
    for child in parent.children():
        with suppress(psutil.NoSuchProcess):
            if "ledger_keeper" in " ".join(child.cmdline()):
                found.append(child)
    return found
