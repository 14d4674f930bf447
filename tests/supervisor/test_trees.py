"""Process trees: whatever a part does with its processes, none is left before the next start."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from penstock.engines.spec import Launch
from penstock.supervisor import procfs
from penstock.supervisor.cgroups import Cgroups, Group
from penstock.supervisor.logfile import MARK, LogFile
from penstock.supervisor.process import Child, Ended, spawn
from penstock.supervisor.procfs import Identity
from penstock.supervisor.trees import TreeRecord, Trees
from tests.supervisor.parts import WITHIN_S, Said, until

HERE = Cgroups.here()

FORKS = """
import os, signal, sys, time
def stay():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(1, b"%d\\n" % os.getpid())
    time.sleep(1000)
def fork(then):
    if os.fork() == 0:
        then()
        os._exit(0)
"""
SESSION = (
    FORKS
    + """
fork(lambda: (os.setsid(), stay()))
stay()
"""
)
DAEMON = (
    FORKS
    + """
fork(lambda: (os.setsid(), fork(stay)))
time.sleep(0.2)  # it is the daemon's pid that is waited for
stay()
"""
)
BACKGROUND = (
    FORKS
    + """
fork(lambda: (os.setsid(), fork(stay)))
"""
)
NAMELESS = (
    FORKS
    + """
NEW = "import os, time; os.write(1, b'%d\\\\n' % os.getpid()); time.sleep(1000)"
def forget():
    os.setsid()
    fork(lambda: os.execve(sys.executable, ["x", "-c", NEW], {}))
fork(forget)
stay()
"""
)
SUPERVISE = """
import asyncio, os, sys
from pathlib import Path
from penstock.engines.spec import Launch
from penstock.supervisor.cgroups import Cgroups
from penstock.supervisor.logfile import LogFile
from penstock.supervisor.process import spawn
from penstock.supervisor.trees import Trees
async def main(folder, code, grouped):
    trees = Trees(folder / "trees", Cgroups.here() if grouped else None)
    launch = Launch((sys.executable, "-c", code))
    await spawn(launch, LogFile(folder / "log"), os.environ, trees.plant("demo-0", "demo")).ended()
asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "grouped"))
"""
HUNGRY = """
held = []
while True:
    held.append(bytearray(8 << 20))
"""


def can_group() -> bool:
    """Whether this machine lets a test make control groups."""
    group = HERE.make(f"test-{os.getpid()}")
    if group is not None:
        group.remove()
    return group is not None


needs_groups = pytest.mark.skipif(not can_group(), reason="no control group can be made here")


@pytest.fixture(params=[pytest.param("grouped", marks=needs_groups), "followed"])
def way(request: pytest.FixtureRequest) -> str:
    """How a tree is held together."""
    found: str = request.param
    return found


def trees_of(folder: Path, way: str) -> Trees:
    return Trees(folder / "trees", HERE if way == "grouped" else None)


def start(code: str, folder: Path, trees: Trees) -> Child:
    launch = Launch((sys.executable, "-c", code))
    return spawn(launch, LogFile(folder / "log"), os.environ, trees.plant("demo-0", "demo"))


def pids(folder: Path) -> list[int]:
    """The ids that the processes of a tree have written."""
    log = folder / "log"
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [int(line) for line in lines if not line.startswith(MARK)]


async def end(child: Child) -> Ended:
    async with asyncio.timeout(WITHIN_S):
        return await child.ended()


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("code", [SESSION, DAEMON])
def test_when_the_end_is_told_no_process_of_the_tree_is_left(tmp_path: Path, way: str, code: str) -> None:
    async def scene() -> tuple[Ended, list[bool]]:
        child = start(code, tmp_path, trees_of(tmp_path, way))
        await until(lambda: len(pids(tmp_path)) == 2)
        os.kill(child.pid, signal.SIGKILL)
        ended = await end(child)
        return ended, [alive(pid) for pid in pids(tmp_path)]

    ended, living = asyncio.run(scene())

    assert (ended.returncode, ended.left, ended.stuck) == (-signal.SIGKILL, 1, ())
    assert living == [False, False]
    assert list((tmp_path / "trees").iterdir()) == []


def test_what_does_not_stop_when_asked_is_killed_whole(tmp_path: Path, way: str) -> None:
    async def scene() -> list[bool]:
        child = start(SESSION, tmp_path, trees_of(tmp_path, way))
        await until(lambda: len(pids(tmp_path)) == 2)
        await child.stop(0.05)
        return [alive(pid) for pid in pids(tmp_path)]

    assert asyncio.run(scene()) == [False, False]


def test_what_puts_itself_into_the_background_is_found_there(tmp_path: Path, way: str) -> None:
    async def scene() -> tuple[Ended, int]:
        ended = await end(start(BACKGROUND, tmp_path, trees_of(tmp_path, way)))
        return ended, sum(alive(pid) for pid in pids(tmp_path))

    ended, living = asyncio.run(scene())

    assert (ended.returncode, living) == (0, 0)


@needs_groups
def test_a_control_group_holds_even_what_has_lost_its_parent_session_and_environment(tmp_path: Path) -> None:
    async def scene() -> list[bool]:
        child = start(NAMELESS, tmp_path, trees_of(tmp_path, "grouped"))
        await until(lambda: len(pids(tmp_path)) == 2)
        child.kill()
        await end(child)
        return [alive(pid) for pid in pids(tmp_path)]

    assert asyncio.run(scene()) == [False, False]


@needs_groups
def test_a_control_group_goes_with_its_tree(tmp_path: Path) -> None:
    async def scene() -> tuple[bool, bool]:
        planted = trees_of(tmp_path, "grouped").plant("demo-0", "demo")
        group = planted.tree.group
        assert group is not None
        child = spawn(
            *(Launch((sys.executable, "-c", "import signal; signal.pause()")), LogFile(tmp_path / "log")),
            *(os.environ, planted),
        )
        before = child.pid in group.pids() or group.path.exists()
        os.kill(child.pid, signal.SIGTERM)
        await end(child)
        return before, any(folder.exists() for folder in group.folders)

    assert asyncio.run(scene()) == (True, False)


def memory_limit(group: Group, limit_bytes: int) -> bool:
    """Whether the group could be limited."""
    file = group.memory / "memory.limit_in_bytes" if group.memory else group.path / "memory.max"
    try:
        file.write_text(str(limit_bytes))
    except OSError:
        return False
    return True


@needs_groups
def test_a_kill_for_memory_is_counted(tmp_path: Path) -> None:
    async def scene() -> Ended | None:
        planted = trees_of(tmp_path, "grouped").plant("demo-0", "demo")
        assert planted.tree.group is not None
        if not memory_limit(planted.tree.group, 64 << 20):
            planted.uproot()
            return None
        return await end(
            spawn(Launch((sys.executable, "-c", HUNGRY)), LogFile(tmp_path / "log"), os.environ, planted)
        )

    ended = asyncio.run(scene())

    if ended is None:
        pytest.skip("the memory of control groups is not to be limited here")
    assert (ended.returncode, ended.oom_kills) == (-signal.SIGKILL, 1)


def test_what_a_killed_supervisor_left_is_ended_by_the_next(tmp_path: Path, way: str) -> None:
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISE, tmp_path, SESSION, way])
    asyncio.run(until(lambda: len(pids(tmp_path)) == 2))
    supervisor.kill()
    supervisor.wait()
    said = Said()

    parts = Trees(tmp_path / "trees").end_left("demo", said, os.environ)

    assert parts == ("demo-0",)
    assert [alive(pid) for pid in pids(tmp_path)] == [False, False]
    assert "demo-0: an earlier supervisor has left processes behind (pid" in said.text
    assert list((tmp_path / "trees").iterdir()) == []


def test_what_is_of_another_model_is_left_alone(tmp_path: Path) -> None:
    trees = Trees(tmp_path / "trees")
    trees.plant("demo-0", "demo")

    assert trees.end_left("other", Said(), os.environ) == ()
    assert len(list((tmp_path / "trees").iterdir())) == 1


def test_a_process_that_has_an_old_id_by_chance_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True
    )
    trees, said = Trees(tmp_path / "trees"), Said()
    planted = trees.plant("demo-0", "demo")
    planted.tree.known.add(Identity(stranger.pid, started=1))
    trees.keep(planted)

    trees.end_left("demo", said, os.environ)

    assert stranger.poll() is None
    assert said.lines == []
    stranger.communicate()


def test_records_of_another_boot_and_torn_ones_end_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "trees"
    trees, said = Trees(folder), Said()
    me = procfs.seen(os.getpid())
    assert me is not None
    record = TreeRecord("demo-0", "demo", "another boot", "mark", known=((me.pid, me.started),))
    folder.mkdir()
    (folder / "demo-0.json").write_bytes(msgspec.json.encode(record))
    (folder / "demo-1.json").write_bytes(b"\xff{")

    assert trees.end_left("demo", said, os.environ) == ("demo-0",)
    assert said.lines == []


def test_what_a_part_leaves_outside_its_processes_is_cleaned_up(tmp_path: Path) -> None:
    async def scene() -> Ended:
        planted = Trees().plant(
            "demo-0", cleanup=(sys.executable, "-c", f"open({str(tmp_path / 'done')!r}, 'w')")
        )
        return await end(
            spawn(Launch((sys.executable, "-c", "")), LogFile(tmp_path / "log"), os.environ, planted)
        )

    ended = asyncio.run(scene())

    assert (tmp_path / "done").exists()
    assert ended.trouble == ""


def test_a_cleaning_that_fails_is_told(tmp_path: Path) -> None:
    async def scene() -> Ended:
        planted = Trees().plant(
            "demo-0", cleanup=(sys.executable, "-c", "raise SystemExit('no such command')")
        )
        return await end(
            spawn(Launch((sys.executable, "-c", "")), LogFile(tmp_path / "log"), os.environ, planted)
        )

    assert asyncio.run(scene()).trouble == f"{sys.executable} could not clean up: no such command"


def test_orphans_are_adopted_and_taken_out_of_the_table_of_processes(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", ADOPT, tmp_path], capture_output=True, text=True, timeout=WITHIN_S, check=True
    )

    assert told.stdout == "adopted\ncollected\n"


ADOPT = """
import os, subprocess, sys, time
from pathlib import Path
from penstock.supervisor import procfs
from penstock.supervisor.trees import Trees
trees = Trees.here(Path(sys.argv[1]) / "trees")
out = subprocess.run([sys.executable, "-c", "import os, time; pid = os.fork(); print(pid) if pid else time.sleep(0.3)"],
    stdout=subprocess.PIPE, text=True).stdout
orphan = int(out)
while procfs.seen(orphan).lives:
    time.sleep(0.01)
print("adopted" if procfs.seen(orphan).parent == os.getpid() else "not adopted")
trees.collect()
trees.collect()
print("collected" if procfs.seen(orphan) is None else "left")
"""


@needs_groups
def test_what_systemd_has_delegated_is_used_as_it_asks(tmp_path: Path) -> None:
    own = HERE.make(f"delegated-{os.getpid()}")
    assert own is not None
    try:
        os.setxattr(own.path, "user.delegate", b"1")
    except OSError:
        own.remove()
        pytest.skip("control groups take no marks here")

    told = subprocess.run(
        [sys.executable, "-c", DELEGATED, own.path],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=True,
    )
    own.remove()

    assert told.stdout == f"{own.path}/supervisor\n{own.path}/penstock-demo-0\n"


DELEGATED = """
import os, sys
from pathlib import Path
from penstock.supervisor.cgroups import Cgroups
own = Path(sys.argv[1])
(own / "cgroup.procs").write_text("0")
groups = Cgroups.here()
group = groups.make("demo-0")
is_in = lambda folder: str(os.getpid()) in (folder / "cgroup.procs").read_text().split()
print(next(filter(is_in, (own, own / "supervisor"))))
print(group.path)
group.remove()
"""
