"""A changed configuration is followed as a whole, or not at all."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from penstock.core.config import Config, ModelConfig
from penstock.core.config_sources import Loaded
from penstock.core.errors import PenstockError
from tests.assembly.stage import Stage, model
from tests.supervisor.parts import FAIL, until


async def follow(stage: Stage, *models: ModelConfig, in_place: bool = False) -> str:
    stage.loaded = Loaded(Config(models=models))
    return await stage.reloading.run(in_place=in_place, ready_within_s=20.0, tell=stage.told)


def test_a_model_that_starts_otherwise_is_swapped_and_others_are_left_alone(tmp_path: Path) -> None:
    stage = Stage(tmp_path, (model("a", 2), model("b")))

    async def scene() -> None:
        outcome = await follow(stage, model("a", 2, seed=1), model("b"), model("c"))
        assert outcome == "the new configuration is in force"
        assert sorted(stage.names()) == ["a-2", "a-3", "b-0", "c-0"]

    stage.run(scene)

    assert stage.gateway.reloads == 1
    assert stage.reloading.models["a"].engine_args == {"seed": 1}
    assert stage.told.steps[:2] == [": model c is new", ": models a: engine_args has changed"]
    assert stage.engines.checked == [stage.loaded]  # and not the one of before, which may lack a token


def test_a_swap_that_fails_puts_back_those_before_it(tmp_path: Path) -> None:
    stage = Stage(tmp_path, (model("a", 2), model("b")), scripts={2: FAIL})
    before = stage.loaded

    async def scene() -> None:
        with pytest.raises(PenstockError, match="b-1 ended with exit code 1"):
            await follow(stage, model("a", 1, seed=1), model("b", seed=2))
        assert sorted(stage.names()) == ["a-0", "a-1", "b-0"]

    stage.run(scene)

    assert "a: putting back the replicas of before" in stage.told.steps
    assert stage.gateway.reloads == 0
    assert stage.reloading.loaded is before
    assert stage.engines.adopted[-1] is before


def test_a_gateway_that_refuses_changes_nothing(tmp_path: Path) -> None:
    stage = Stage(tmp_path, (model("a"),))
    stage.gateway.refuses = "the gateway refuses: no"

    async def scene() -> None:
        with pytest.raises(PenstockError, match="the gateway refuses: no"):
            await follow(stage, model("a", seed=1), model("c"))
        assert stage.names() == ["a-0"]

    stage.run(scene)

    assert stage.events.count("c-0 ended") == 1


def test_replicas_come_and_go_with_their_number(tmp_path: Path) -> None:
    stage = Stage(tmp_path, (model("a", 2), model("b")))
    names: list[list[str]] = []

    async def scene() -> None:
        for models in ((model("a", 3), model("b")), (model("a", 1),)):
            await follow(stage, *models)
            names.append(stage.names())
        assert await follow(stage, model("a", 1)) == "nothing has changed"

    stage.run(scene)

    assert names == [["a-0", "a-1", "a-2", "b-0"], ["a-0"]]


def test_without_room_it_is_refused_unless_in_place(tmp_path: Path) -> None:
    stage = Stage(tmp_path, (model("a", 2),))
    stage.engines.room = 0

    async def scene() -> None:
        with pytest.raises(PenstockError, match="there is no room"):
            await follow(stage, model("a", 2, seed=1))
        assert stage.names() == ["a-0", "a-1"]
        await follow(stage, model("a", 2, seed=1), in_place=True)
        assert stage.names() == ["a-0", "a-1"]

    stage.run(scene)

    assert stage.events.index("a-0 ended") < stage.events.index("a-0 started", 2)


def test_an_in_place_swap_that_fails_starts_the_old_settings_again(tmp_path: Path) -> None:
    stage = Stage(tmp_path, (model("a"),), scripts={1: FAIL})

    async def scene() -> None:
        with pytest.raises(PenstockError, match="3 starts in a row failed"):
            await follow(stage, model("a", seed=1), in_place=True)
        await until(lambda: stage.of("a")[0].became_ready.is_set())
        assert stage.names() == ["a-0"]

    stage.run(scene)


def test_who_withdraws_a_reload_finds_everything_as_it_was(tmp_path: Path) -> None:
    stage = Stage(tmp_path, (model("a"), model("b")), scripts={2: "import signal; signal.pause()"})

    async def scene() -> None:
        following = asyncio.create_task(follow(stage, model("a", seed=1), model("b", seed=2)))
        await until(lambda: "b-1 started" in stage.events)
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
        assert sorted(stage.names()) == ["a-0", "b-0"]

    stage.run(scene)


def test_an_engine_that_penstock_starts_takes_other_names_than_the_remote_one_has(tmp_path: Path) -> None:
    remote = ModelConfig(name="a", engine="remote", source=("http://127.0.0.1:1", "http://127.0.0.1:2"))
    stage = Stage(tmp_path, (remote, model("b")))
    stage.gateway.elsewhere = ("a-0", "a-2")  # as one is called that has made room for another

    async def scene() -> None:
        await follow(stage, model("a", 2), model("b"))
        assert sorted(stage.names()) == ["a-1", "a-3", "b-0"]

    stage.run(scene)


def test_everything_goes_on_while_a_new_model_is_locked_and_what_earlier_ones_left_is_ended(
    tmp_path: Path,
) -> None:
    stage, turned = Stage(tmp_path, (model("a"),)), threading.Event()
    locked: list[tuple[str, bool]] = []
    stage.reloading._lock = lambda one: locked.append((one.name, turned.wait(5.0)))

    async def scene() -> None:
        following = asyncio.create_task(follow(stage, model("a"), model("c")))
        await asyncio.sleep(0.01)  # in which the loop turns
        turned.set()
        await following

    stage.run(scene)

    assert locked == [("c", True)]


def test_a_lock_is_taken_whole_by_a_reload_that_is_withdrawn_amid_it(tmp_path: Path) -> None:
    stage, begun, let_go = Stage(tmp_path, (model("a"),)), threading.Event(), threading.Event()
    locked: list[str] = []

    def lock(one: ModelConfig) -> None:
        locked.append(one.name)
        begun.set()
        let_go.wait(5.0)

    stage.reloading._lock = lock

    async def scene() -> None:
        following = asyncio.create_task(follow(stage, model("a"), model("c")))
        await until(begun.is_set)
        following.cancel()
        await asyncio.sleep(0.01)
        let_go.set()
        with pytest.raises(asyncio.CancelledError):
            await following
        await follow(stage, model("a"), model("c"))

    stage.run(scene)

    assert locked == ["c"]
    assert stage.names() == ["a-0", "c-0"]
