"""Replicas take the place of others, and whatever happens amid it leaves no fewer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from penstock.assembly import rolling
from penstock.assembly.rolling import Way
from penstock.core.errors import PenstockError
from penstock.store.runtime import Drained
from tests.assembly.stage import Stage, model
from tests.supervisor.parts import FAIL, until

MUTE = "import signal; signal.pause()"
BESIDE = Way(1, 20.0, 20.0)
IN_PLACE = Way(0, 20.0, 20.0)
OTHER = model(seed=1)


def test_the_new_replica_is_up_before_the_old_one_leaves(tmp_path: Path) -> None:
    stage = Stage(tmp_path, (model(replicas=2),))

    async def scene() -> None:
        await stage.rolling.replace(stage.of("a"), stage.models[0], 2, BESIDE, stage.told)

    stage.run(scene)

    assert [step for step in stage.told.steps if step.endswith(("ready", "stopped"))] == [
        *("a-2: ready", "a-0: stopped"),
        *("a-3: ready", "a-1: stopped"),
    ]
    assert Drained(stage.home.drained)() == set()


@pytest.mark.parametrize(("at_once", "most"), [(1, 4), (2, 5), (9, 6)])
def test_as_many_start_at_once_as_there_is_room_for(tmp_path: Path, at_once: int, most: int) -> None:
    stage = Stage(tmp_path, (model(replicas=3),))

    async def scene() -> None:
        await stage.rolling.replace(stage.of("a"), OTHER, 3, Way(at_once, 20.0, 20.0), stage.told)
        assert len(stage.names()) == 3

    stage.run(scene)

    assert stage.most_running == most


def test_fewer_and_more_replicas_than_before_can_take_their_place(tmp_path: Path) -> None:
    stage = Stage(tmp_path, (model(replicas=3),))
    names: list[list[str]] = []

    async def scene() -> None:
        for count in (1, 2):
            await stage.rolling.replace(stage.of("a"), OTHER, count, BESIDE, stage.told)
            names.append(stage.names())

    stage.run(scene)

    assert names == [["a-3"], ["a-0", "a-1"]]


@pytest.mark.parametrize("way", [BESIDE, IN_PLACE])
def test_a_new_replica_that_can_not_start_is_told_with_its_reason(tmp_path: Path, way: Way) -> None:
    stage = Stage(tmp_path, scripts={1: FAIL})
    names: list[list[str]] = []

    async def scene() -> None:
        with pytest.raises(PenstockError, match=r"the model file is bent.*3 starts in a row failed"):
            await stage.rolling.replace(stage.of("a"), OTHER, 1, way, stage.told)
        names.append(stage.names())

    stage.run(scene)

    assert names == [["a-0"]]
    assert stage.events.count("a-0 ended") == (1 if way is BESIDE else 4)


def test_a_new_replica_that_says_nothing_is_stopped_when_its_time_is_over(tmp_path: Path) -> None:
    stage = Stage(tmp_path, scripts={1: MUTE})

    async def scene() -> None:
        with pytest.raises(PenstockError, match=r"a-1 was not ready after 0.1s: ready|loading|starting"):
            await stage.rolling.replace(stage.of("a"), OTHER, 1, Way(1, 0.1, 20.0), stage.told)
        assert stage.names() == ["a-0"]
        assert "a-1 ended" in stage.events

    stage.run(scene)


def test_an_old_replica_leaves_when_its_last_request_has_ended(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.gateway.in_flight["a-0"] = 2

    async def scene() -> None:
        replacing = asyncio.create_task(stage.rolling.replace(stage.of("a"), OTHER, 1, BESIDE, stage.told))
        await until(lambda: "a-0: draining, 2 requests left" in stage.told.steps)
        stage.gateway.silent = True  # which is no proof of anything
        await until(lambda: "a-0: the gateway does not answer" in stage.told.steps)
        assert stage.all[0].pid is not None
        stage.gateway.silent, stage.gateway.in_flight = False, {}
        await replacing

    stage.run(scene)

    assert stage.told.steps[-1] == "a-0: stopped"


def test_an_old_replica_is_not_waited_for_longer_than_a_request_may_take(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.gateway.in_flight["a-0"] = 1

    async def scene() -> None:
        way = Way(1, 20.0, -rolling.DRAIN_MARGIN_S)
        await stage.rolling.replace(stage.of("a"), OTHER, 1, way, stage.told)

    stage.run(scene)

    assert "a-0: stopped with 1 request, which should have ended by now" in stage.told.steps


def test_who_withdraws_it_while_a_replica_starts_finds_the_old_ones(tmp_path: Path) -> None:
    stage = Stage(tmp_path, scripts={1: MUTE})

    async def scene() -> None:
        replacing = asyncio.create_task(stage.rolling.replace(stage.of("a"), OTHER, 1, BESIDE, stage.told))
        await until(lambda: "a-1 started" in stage.events)
        replacing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await replacing
        assert (stage.names(), stage.all[1].pid) == (["a-0"], None)

    stage.run(scene)


@pytest.mark.parametrize("way", [BESIDE, IN_PLACE])
def test_who_withdraws_it_while_a_replica_drains_finds_as_many_as_before(tmp_path: Path, way: Way) -> None:
    stage = Stage(tmp_path, (model(replicas=2),))
    stage.gateway.in_flight["a-0"] = 1

    async def scene() -> None:
        replacing = asyncio.create_task(stage.rolling.replace(stage.of("a"), OTHER, 2, way, stage.told))
        await until(lambda: "a-0: draining, 1 request left" in stage.told.steps)
        replacing.cancel()
        await asyncio.sleep(0)
        stage.gateway.in_flight = {}
        with pytest.raises(asyncio.CancelledError):
            await replacing
        await until(lambda: sum(one.pid is not None for one in stage.all) == 2)
        assert len(stage.names()) == 2
        assert "a-0: stopped" in stage.told.steps
        assert "a-1: stopped" not in stage.told.steps

    stage.run(scene)
