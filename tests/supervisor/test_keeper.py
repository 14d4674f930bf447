"""A keeper starts its part, watches it, and starts it again as policy says."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from penstock.core.errors import PenstockError
from penstock.policy.restart import RestartLimits
from penstock.store.runtime import PartReport, PartReports
from penstock.supervisor.keeper import Keeper
from penstock.supervisor.reports import Reports
from penstock.supervisor.trees import Trees
from tests.supervisor.parts import (
    DAEMON,
    DONE,
    FAIL,
    FALL_ONCE_SEEN,
    HANG,
    PORT_LOST,
    QUICK,
    STUBBORN,
    WITHIN_S,
    Said,
    ScriptPart,
    keeper,
    until,
)


async def ready(kept: Keeper) -> None:
    async with asyncio.timeout(WITHIN_S):
        await kept.became_ready.wait()


def test_a_part_that_serves_is_told_of_its_start_and_end(tmp_path: Path) -> None:
    part, said = ScriptPart("demo-0", tmp_path), Said()

    async def scene() -> None:
        kept = keeper(part, said)
        running = asyncio.create_task(kept.run())
        await ready(kept)
        await kept.stop()
        await running

    asyncio.run(scene())

    assert part.events == ["demo-0 started", "demo-0 ended"]
    assert "demo-0: up after" in said.text


def test_a_killed_part_is_started_again(tmp_path: Path) -> None:
    part, said = ScriptPart("demo-0", tmp_path), Said()

    async def scene() -> bool:
        kept = keeper(part, said)
        running = asyncio.create_task(kept.run())
        await ready(kept)
        first = kept.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: kept.pid not in (None, first))
        await ready(kept)
        await kept.stop()
        await running
        return kept.given_up == ""

    assert asyncio.run(scene())
    assert part.events == ["demo-0 started", "demo-0 ended"] * 2
    assert "demo-0 was killed by SIGKILL (137): somebody" in said.text


def test_a_part_that_never_serves_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    part, said = ScriptPart("demo-0", tmp_path, FAIL), Said()

    given_up = asyncio.run(_given_up(keeper(part, said)))

    assert part.events == ["demo-0 started", "demo-0 ended"] * 3
    assert given_up.startswith("demo-0 ended with exit code 1: its last words: the model file is bent")
    assert "3 starts in a row failed" in given_up
    assert str(tmp_path / "demo-0.log") in given_up
    assert said.lines[-2:] == ["    | first line", "    | the model file is bent"]


def test_a_part_that_falls_again_and_again_is_given_up(tmp_path: Path) -> None:
    part, said = ScriptPart("demo-0", tmp_path, FALL_ONCE_SEEN, takes_sign=True), Said()

    given_up = asyncio.run(_given_up(keeper(part, said)))

    assert "it was restarted 5 times in 10 minutes" in given_up
    assert part.events.count("demo-0 started") == 6


def test_a_program_that_is_not_there_is_given_up_too(tmp_path: Path) -> None:
    part, said = ScriptPart("demo-0", tmp_path, program="/no/such/program"), Said()

    given_up = asyncio.run(_given_up(keeper(part, said)))

    assert given_up.startswith("demo-0: /no/such/program can't be started: no such file")
    assert part.events == []


def test_a_part_that_can_not_be_registered_is_not_left_running(tmp_path: Path) -> None:
    part, said = ScriptPart("demo-0", tmp_path), Said()

    def full_disk(event: str) -> None:
        if event == "demo-0 started":
            raise OSError(28, "No space left on device")

    part.on_event = full_disk

    given_up = asyncio.run(_given_up(keeper(part, said)))

    assert "demo-0 can't be registered: [Errno 28] No space left on device" in given_up
    assert "3 starts in a row failed" in given_up
    assert "killed" not in said.text
    assert part.events == ["demo-0 started", "demo-0 ended"] * 3


def test_a_part_that_has_served_is_started_until_there_is_room_to_register_it(tmp_path: Path) -> None:
    part, said = ScriptPart("demo-0", tmp_path), Said()

    def full_disk(event: str) -> None:
        if event == "demo-0 started" and 2 <= part.events.count(event) < 8:
            raise OSError(28, "No space left on device")

    part.on_event = full_disk

    async def scene() -> str:
        kept = keeper(part, said)
        running = asyncio.create_task(kept.run())
        await ready(kept)
        assert kept.pid is not None
        os.kill(kept.pid, signal.SIGKILL)
        await until(lambda: part.events.count("demo-0 started") == 8 and kept.became_ready.is_set())
        await kept.stop()
        await running
        return kept.given_up

    assert asyncio.run(scene()) == ""
    assert said.text.count("demo-0 can't be registered: [Errno 28] No space left on device") == 6
    assert said.text.count("it is tried until that can be written") == 6


def test_a_part_whose_files_can_not_be_removed_is_started_again_all_the_same(tmp_path: Path) -> None:
    part, said = ScriptPart("demo-0", tmp_path, FAIL), Said()
    records = tmp_path / "trees"

    def read_only_disk(event: str) -> None:
        if event == "demo-0 started":
            (records / "demo-0.json").unlink(missing_ok=True)
            (records / "demo-0.json").mkdir(exist_ok=True)
        else:
            raise OSError(30, "Read-only file system")

    part.on_event = read_only_disk

    given_up = asyncio.run(_given_up(keeper(part, said, trees=Trees(records))))

    assert "3 starts in a row failed" in given_up


def test_a_part_that_does_not_stop_in_its_time_is_killed(tmp_path: Path) -> None:
    part, said = ScriptPart("demo-0", tmp_path, STUBBORN, stop_within_s=0.05), Said()

    async def scene() -> None:
        kept = keeper(part, said)
        running = asyncio.create_task(kept.run())
        await ready(kept)
        await kept.stop()
        async with asyncio.timeout(WITHIN_S):
            await running

    asyncio.run(scene())

    assert part.events == ["demo-0 started", "demo-0 ended"]


def test_what_is_restarted_is_ended_whole_and_comes_back(tmp_path: Path) -> None:
    part, said = ScriptPart("demo-0", tmp_path), Said()

    async def scene() -> None:
        kept = keeper(part, said)
        running = asyncio.create_task(kept.run())
        await ready(kept)
        await kept.restart("it has stalled")
        await until(lambda: part.events.count("demo-0 started") == 2)
        await kept.stop()
        await running

    asyncio.run(scene())

    assert "demo-0 is restarted: it has stalled" in said.lines


def test_what_hangs_at_its_start_is_ended_and_reported_but_not_started_again(tmp_path: Path) -> None:
    part, said = ScriptPart("demo-0", tmp_path, HANG, start_silence_s=0.4), Said()

    given_up = asyncio.run(_given_up(keeper(part, said, clock=time.monotonic)))

    assert given_up.startswith(
        "demo-0 hung before it was ready and was ended: it has neither written nor computed"
    )
    assert "models.N.start_timeout" in given_up
    assert "it never became ready" in given_up
    assert part.events == ["demo-0 started", "demo-0 ended"]


def test_what_is_done_at_once_is_told_as_such(tmp_path: Path) -> None:
    part, said = ScriptPart("demo-0", tmp_path, DONE), Said()

    given_up = asyncio.run(_given_up(keeper(part, said)))

    assert given_up.startswith("demo-0 ended with exit code 0: it was done before it served anything")
    assert "its last words: usage: serve [--port]" in given_up


def test_what_goes_into_the_background_is_told_as_such(tmp_path: Path) -> None:
    part, said = ScriptPart("demo-0", tmp_path, DAEMON), Said()

    given_up = asyncio.run(_given_up(keeper(part, said)))

    assert "it went on in the background with 1 process, which Penstock has ended" in given_up


def test_a_lost_port_is_no_failure_until_it_is_lost_again_and_again(tmp_path: Path) -> None:
    part, said = ScriptPart("demo-0", tmp_path, PORT_LOST), Said()

    given_up = asyncio.run(_given_up(keeper(part, said)))

    assert "its port was taken by another process" in given_up
    assert part.events.count("demo-0 started") == QUICK.port_tries_max + QUICK.failed_starts_max


def test_causes_of_its_own_kind_are_told(tmp_path: Path) -> None:
    part, said = ScriptPart("demo-0", tmp_path, FAIL, causes=(("file is bent", "straighten it"),)), Said()

    given_up = asyncio.run(_given_up(keeper(part, said)))

    assert given_up.startswith(
        "demo-0 ended with exit code 1: straighten it; its log says: the model file is bent"
    )


def test_what_becomes_of_it_is_on_file_until_it_is_stopped(tmp_path: Path) -> None:
    folder = PartReports(tmp_path / "parts")
    (tmp_path / "parts").mkdir()
    part, said = ScriptPart("demo-0", tmp_path), Said()
    slow = RestartLimits(first_wait_s=60.0, wait_s_max=60.0)

    async def scene() -> tuple[PartReport, PartReport]:
        kept = keeper(part, said, slow, reports=Reports(folder, lambda: 1000.0))
        running = asyncio.create_task(kept.run())
        await ready(kept)
        kept.loads("reading weights")
        (running_report,) = folder.all()
        assert kept.pid is not None
        os.kill(kept.pid, signal.SIGKILL)
        await until(lambda: folder.all()[0].life == "waiting")
        (waiting_report,) = folder.all()
        await kept.stop()
        await running
        return running_report, waiting_report

    running, waiting = asyncio.run(scene())

    assert (running.life, running.model, running.loading, running.since) == (
        "running",
        "demo",
        "reading weights",
        1000.0,
    )
    assert running.pid > 0
    assert (waiting.life, waiting.pid, waiting.restarts, waiting.next_start_at) == ("waiting", 0, 1, 1060.0)
    assert waiting.last_exit.startswith("demo-0 was killed by SIGKILL")
    assert folder.all() == ()


def test_what_is_given_up_says_why_on_file(tmp_path: Path) -> None:
    folder = PartReports(tmp_path / "parts")
    (tmp_path / "parts").mkdir()
    part = ScriptPart("demo-0", tmp_path, FAIL)

    given_up = asyncio.run(_given_up(keeper(part, Said(), reports=Reports(folder, lambda: 0.0))))

    (report,) = folder.all()
    assert (report.life, report.why, report.log) == ("given_up", given_up, str(tmp_path / "demo-0.log"))


def test_a_new_start_waits_until_the_gpu_has_let_the_former_one_go(tmp_path: Path) -> None:
    part, said, answers = ScriptPart("demo-0", tmp_path, gpus=(0,)), Said(), []
    former: set[int] = set()

    def users(gpus: Sequence[int]) -> dict[int, int]:
        assert gpus == (0,)
        answers.append(dict.fromkeys(former, 1 << 30) if len(answers) < 4 else {})
        return answers[-1]

    async def scene() -> None:
        kept = keeper(part, said, gpu_users=users)
        running = asyncio.create_task(kept.run())
        await ready(kept)
        assert kept.pid is not None
        former.add(kept.pid)
        os.kill(kept.pid, signal.SIGKILL)
        await until(lambda: part.events.count("demo-0 started") == 2)
        await kept.stop()
        await running

    asyncio.run(scene())

    assert [line for line in said.lines if "waits until the GPU" in line] == [
        f"demo-0: waits until the GPU has freed the memory of pid {former.pop()}"
    ]
    assert answers[-1] == {}


def test_a_stranger_on_its_gpu_is_named(tmp_path: Path) -> None:
    part, said = ScriptPart("demo-0", tmp_path, FAIL, gpus=(1,)), Said()
    name = psutil.Process().name()

    given_up = asyncio.run(_given_up(keeper(part, said, gpu_users=lambda _: {os.getpid(): 3_200_000_000})))

    assert f"on its GPU 1, pid {os.getpid()} ({name}) holds 3.2 GB" in given_up


def test_a_driver_that_fails_holds_nothing_up(tmp_path: Path) -> None:
    part, said = ScriptPart("demo-0", tmp_path, FAIL, gpus=(0,)), Said()

    def fails(_: Sequence[int]) -> dict[int, int]:
        raise PenstockError("the driver is gone")

    assert "3 starts in a row failed" in asyncio.run(_given_up(keeper(part, said, gpu_users=fails)))


def test_what_it_was_given_is_free_for_others_once_it_is_not_started_again(tmp_path: Path) -> None:
    part = ScriptPart("demo-0", tmp_path, FAIL)

    asyncio.run(_given_up(keeper(part, Said())))

    assert part.is_left


async def _given_up(kept: Keeper) -> str:
    async with asyncio.timeout(WITHIN_S):
        await kept.run()
    return kept.given_up


def test_a_part_that_is_restarted_comes_back_and_the_reason_is_said(tmp_path: Path) -> None:
    part, said = ScriptPart("demo-0", tmp_path), Said()

    async def scene() -> None:
        kept = keeper(part, said)
        await kept.restart("nothing runs yet, which is no trouble")
        running = asyncio.create_task(kept.run())
        await ready(kept)
        first = kept.pid
        await kept.restart("it has been stalled for 3m")
        await until(lambda: kept.pid not in (None, first))
        await ready(kept)
        await kept.stop()
        await running

    asyncio.run(scene())

    assert part.events == ["demo-0 started", "demo-0 ended"] * 2
    assert "demo-0 is restarted: it has been stalled for 3m" in said.text
    assert "nothing runs yet" not in said.text
