"""Processes: started in a session of their own, ended with all that they started."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from penstock.core.errors import PenstockError
from penstock.engines.spec import Launch
from penstock.supervisor.logfile import MARK, LogFile
from penstock.supervisor.process import Child, spawn, told
from tests.supervisor.parts import WITHIN_S, until

FAMILY = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN) if "stubborn" in sys.argv else None
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(os.getpid(), flush=True)
signal.pause()
"""
ORDERLY = """
import os, signal, sys, time
def end(*_):
    print("the child may end now", flush=True)
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
    print("done", flush=True)
    sys.exit(0)
child = os.fork()
if child == 0:
    signal.pause()
    os._exit(0)
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
while True:
    time.sleep(1000)
"""
SUPERVISE = """
import asyncio, sys
from pathlib import Path
from penstock.engines.spec import Launch
from penstock.supervisor.logfile import LogFile
from penstock.supervisor.process import spawn
async def main():
    child = spawn(Launch((sys.executable, "-c", "import signal; signal.pause()")), LogFile(Path(sys.argv[1])), {})
    print(child.pid, flush=True)
    await child.ended()
asyncio.run(main())
"""


def python(code: str, *arguments: str, env: dict[str, str] | None = None) -> Launch:
    """A command that runs `code`."""
    return Launch((sys.executable, "-c", code, *arguments), env or {})


async def first_line(log: Path) -> str:
    """The first line of a log that is not ours, once it is there."""

    def lines() -> list[str]:
        return written(log.read_text()) if log.exists() else []

    await until(lambda: len(lines()) > 0)
    return lines()[0]


def written(text: str) -> list[str]:
    """The whole lines that a process has written."""
    return [line for line in text.split("\n")[:-1] if not line.startswith(MARK)]


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
        return await run_out(spawn(python(code), LogFile(tmp_path / "log"), os.environ))

    assert asyncio.run(scene()) == (3, ("out", "err"))


def test_only_the_lines_of_this_run_are_told(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("an earlier run\n")

    async def scene() -> tuple[int, tuple[str, ...]]:
        return await run_out(spawn(python("print('this run')"), LogFile(tmp_path / "log"), os.environ))

    assert asyncio.run(scene()) == (0, ("this run",))
    assert written((tmp_path / "log").read_text()) == ["an earlier run", "this run"]


def test_the_variables_of_a_launch_lie_over_the_given_ones(tmp_path: Path) -> None:
    async def scene() -> tuple[int, tuple[str, ...]]:
        launch = python("import os; print(os.environ['A'], os.environ['B'])", env={"B": "launch"})
        return await run_out(spawn(launch, LogFile(tmp_path / "log"), {"A": "given", "B": "given"}))

    assert asyncio.run(scene()) == (0, ("given launch",))


def test_a_program_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    async def scene() -> None:
        spawn(Launch(("/no/such/program",)), LogFile(tmp_path / "log"), {})

    with pytest.raises(PenstockError, match="/no/such/program can't be started: no such file"):
        asyncio.run(scene())


def test_stopping_asks_first(tmp_path: Path) -> None:
    async def scene() -> int:
        child = spawn(
            python("print('up', flush=True)\nimport signal; signal.pause()"), LogFile(tmp_path / "log"), {}
        )
        await first_line(tmp_path / "log")
        return (await child.stop(WITHIN_S)).returncode

    assert asyncio.run(scene()) == -signal.SIGTERM


def test_the_log_tells_of_start_and_end_with_their_time(tmp_path: Path) -> None:
    async def scene() -> int:
        child = spawn(python("raise SystemExit(3)"), LogFile(tmp_path / "log"), os.environ)
        await run_out(child)
        return child.pid

    pid = asyncio.run(scene())

    begin, end = (tmp_path / "log").read_text().splitlines()
    assert re.fullmatch(
        rf"--- \d{{4}}-\d\d-\d\dT[\d:]{{8}}Z started pid {pid}: \S+ -c raise SystemExit\(3\)", begin
    )
    assert re.fullmatch(rf"--- \d{{4}}-\d\d-\d\dT[\d:]{{8}}Z ended pid {pid} with exit code 3", end)


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (("vllm", "--api-key", "s3cret", "--port", "1"), "vllm --api-key *** --port 1"),
        (("x", "--hf-token=s3cret", "--tokenizer", "t"), "x --hf-token=*** --tokenizer t"),
        (("x", "-c", "a\nb"), r"x -c a\nb"),
    ],
)
def test_no_key_of_a_command_line_is_shown(argv: tuple[str, ...], shown: str) -> None:
    assert told(argv) == shown


def test_an_asked_end_is_the_first_process_s_to_carry_out(tmp_path: Path) -> None:
    async def scene() -> tuple[str, ...]:
        child = spawn(python(ORDERLY), LogFile(tmp_path / "log"), os.environ)
        await first_line(tmp_path / "log")
        return (await child.stop(WITHIN_S)).last_lines

    assert asyncio.run(scene()) == ("up", "the child may end now", "done")


def test_what_does_not_listen_is_killed_with_its_whole_group(tmp_path: Path) -> None:
    async def scene() -> tuple[int, bool]:
        child = spawn(python(FAMILY, "stubborn"), LogFile(tmp_path / "log"), {})
        grandchild = int(await first_line(tmp_path / "log"))
        ended = await child.stop(0.05)
        await gone(grandchild)
        return ended.returncode, alive(grandchild)

    assert asyncio.run(scene()) == (-signal.SIGKILL, False)


def test_what_an_ended_process_leaves_behind_is_killed(tmp_path: Path) -> None:
    async def scene() -> tuple[int, bool]:
        child = spawn(python(FAMILY), LogFile(tmp_path / "log"), {})
        grandchild = int(await first_line(tmp_path / "log"))
        os.kill(child.pid, signal.SIGKILL)
        returncode, _ = await run_out(child)
        await gone(grandchild)
        return returncode, alive(grandchild)

    assert asyncio.run(scene()) == (-signal.SIGKILL, False)


def test_stopping_twice_tells_the_same_end(tmp_path: Path) -> None:
    async def scene() -> tuple[int, int]:
        child = spawn(python("import signal; signal.pause()"), LogFile(tmp_path / "log"), {})
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
