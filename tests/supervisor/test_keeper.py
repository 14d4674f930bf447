"""A keeper starts its part, watches it, and starts it again as policy says."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from penstock.supervisor.keeper import Keeper
from tests.supervisor.parts import FAIL, FALL_ONCE_SEEN, STUBBORN, WITHIN_S, Said, ScriptPart, keeper, until


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
    assert "demo-0 was killed by SIGKILL (137): probably out of memory" in said.text


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

    assert given_up.startswith("/no/such/program can't be started: no such file")
    assert part.events == []


def test_a_part_that_can_not_be_registered_is_not_left_running(tmp_path: Path) -> None:
    part, said = ScriptPart("demo-0", tmp_path), Said()

    def full_disk(event: str) -> None:
        if event == "demo-0 started":
            raise OSError(28, "No space left on device")

    part.on_event = full_disk

    given_up = asyncio.run(_given_up(keeper(part, said)))

    assert "demo-0 can't be registered: [Errno 28] No space left on device" in said.text
    assert "3 starts in a row failed" in given_up
    assert part.events == ["demo-0 started", "demo-0 ended"] * 3


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
