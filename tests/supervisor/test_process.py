"""Processes: started in a session of their own, ended with all that they started."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from penstock.core.errors import PenstockError
from penstock.engines.spec import Launch
from penstock.supervisor.process import Child, spawn
from tests.supervisor.parts import WITHIN_S, until

FAMILY = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN) if "stubborn" in sys.argv else None
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(os.getpid(), flush=True)
signal.pause()
"""
SUPERVISE = """
import asyncio, sys
from pathlib import Path
from penstock.engines.spec import Launch
from penstock.supervisor.process import spawn
async def main():
    child = spawn(Launch((sys.executable, "-c", "import signal; signal.pause()")), Path(sys.argv[1]), {})
    print(child.pid, flush=True)
    await child.ended()
asyncio.run(main())
"""


def python(code: str, *arguments: str, env: dict[str, str] | None = None) -> Launch:
    """A command that runs `code`."""
    return Launch((sys.executable, "-c", code, *arguments), env or {})


async def first_line(log: Path) -> str:
    """The first line of a log, once it is there."""

    def lines() -> list[str]:
        return log.read_text().split("\n") if log.exists() else []

    await until(lambda: len(lines()) > 1)
    return lines()[0]


def alive(pid: int) -> bool:
    """Whether the process runs; one that is dead and not collected does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def run_out(child: Child) -> tuple[int, tuple[str, ...]]:
    """Its return code and last lines."""
    async with asyncio.timeout(WITHIN_S):
        ended = await child.ended()
    return ended.returncode, ended.last_lines


async def gone(pid: int) -> None:
    """Waits for the end of a process that is not ours to wait for."""
    await until(lambda: not alive(pid))


def test_an_end_is_told_with_the_return_code_and_the_last_lines_of_both_outputs(tmp_path: Path) -> None:
    async def scene() -> tuple[int, tuple[str, ...]]:
        code = "import sys; print('out', flush=True); print('err', file=sys.stderr); sys.exit(3)"
        return await run_out(spawn(python(code), tmp_path / "log", os.environ))

    assert asyncio.run(scene()) == (3, ("out", "err"))


def test_only_the_lines_of_this_run_are_told(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("an earlier run\n")

    async def scene() -> tuple[int, tuple[str, ...]]:
        return await run_out(spawn(python("print('this run')"), tmp_path / "log", os.environ))

    assert asyncio.run(scene()) == (0, ("this run",))
    assert (tmp_path / "log").read_text() == "an earlier run\nthis run\n"


def test_the_variables_of_a_launch_lie_over_the_given_ones(tmp_path: Path) -> None:
    async def scene() -> tuple[int, tuple[str, ...]]:
        launch = python("import os; print(os.environ['A'], os.environ['B'])", env={"B": "launch"})
        return await run_out(spawn(launch, tmp_path / "log", {"A": "given", "B": "given"}))

    assert asyncio.run(scene()) == (0, ("given launch",))


def test_a_program_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    async def scene() -> None:
        spawn(Launch(("/no/such/program",)), tmp_path / "log", {})

    with pytest.raises(PenstockError, match="/no/such/program can't be started: no such file"):
        asyncio.run(scene())


def test_stopping_asks_first(tmp_path: Path) -> None:
    async def scene() -> int:
        child = spawn(python("print('up', flush=True)\nimport signal; signal.pause()"), tmp_path / "log", {})
        await first_line(tmp_path / "log")
        return (await child.stop(WITHIN_S)).returncode

    assert asyncio.run(scene()) == -signal.SIGTERM


def test_what_does_not_listen_is_killed_with_its_whole_group(tmp_path: Path) -> None:
    async def scene() -> tuple[int, bool]:
        child = spawn(python(FAMILY, "stubborn"), tmp_path / "log", {})
        grandchild = int(await first_line(tmp_path / "log"))
        ended = await child.stop(0.05)
        await gone(grandchild)
        return ended.returncode, alive(grandchild)

    assert asyncio.run(scene()) == (-signal.SIGKILL, False)


def test_what_an_ended_process_leaves_behind_is_killed(tmp_path: Path) -> None:
    async def scene() -> tuple[int, bool]:
        child = spawn(python(FAMILY), tmp_path / "log", {})
        grandchild = int(await first_line(tmp_path / "log"))
        os.kill(child.pid, signal.SIGKILL)
        returncode, _ = await run_out(child)
        await gone(grandchild)
        return returncode, alive(grandchild)

    assert asyncio.run(scene()) == (-signal.SIGKILL, False)


def test_stopping_twice_tells_the_same_end(tmp_path: Path) -> None:
    async def scene() -> tuple[int, int]:
        child = spawn(python("import signal; signal.pause()"), tmp_path / "log", {})
        first = await child.stop(WITHIN_S)
        second = await child.stop(WITHIN_S)
        return first.returncode, second.returncode

    assert asyncio.run(scene()) == (-signal.SIGTERM, -signal.SIGTERM)


def test_a_child_ends_with_a_killed_supervisor(tmp_path: Path) -> None:
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISE, tmp_path / "log"], stdout=subprocess.PIPE)
    assert supervisor.stdout is not None
    child = int(supervisor.stdout.readline())
    supervisor.kill()
    supervisor.communicate()

    asyncio.run(gone(child))

    assert not alive(child)
