"""What a supervisor is asked for: one thing at a time, and no mistake of ours ends an engine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from penstock.assembly.commands import Commands
from penstock.core.config import Config, ModelConfig
from penstock.core.config_sources import Loaded
from penstock.core.errors import PenstockError
from penstock.store.runtime import Refusal
from penstock.supervisor.control import Ask
from penstock.telemetry.notify import Notifier
from tests.assembly.stage import Stage, model
from tests.supervisor.parts import FAIL, HANG, SERVE, until

RESTART = Ask("restart", "a")


def commands(stage: Stage) -> Commands:
    return Commands(
        *(stage.supervisor, stage.rolling, stage.reloading, stage.engines, stage.said, Notifier()),
        refused=Refusal(stage.home.refusal).note,
    )


def test_a_restart_says_how_many_in_which_time(tmp_path: Path) -> None:
    stage = Stage(tmp_path, (model(replicas=2),))

    async def scene() -> None:
        outcome = await commands(stage).carry_out(RESTART, stage.told)
        assert outcome.startswith("a: 2 replicas restarted in ")

    stage.run(scene)

    assert stage.told.steps[0] == "a: 2 replicas, one after another"
    assert "restart of a: a-2: ready" in stage.said.lines


def test_without_room_it_is_refused_and_in_place_says_what_that_means(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.engines.room = 0

    async def scene() -> None:
        asked = commands(stage)
        with pytest.raises(PenstockError, match="there is no room"):
            await asked.carry_out(RESTART, stage.told)
        await asked.carry_out(Ask("restart", "a", in_place=True), stage.told)

    stage.run(scene)

    assert stage.told.steps[0].startswith("a: its only replica is restarted in place: requests get 503")
    assert stage.events.count("a-0 started") == 2


ONCE = """
import pathlib, sys
mark = pathlib.Path(sys.argv[1] + ".once")
if mark.exists():
    {then}
mark.touch()
"""


@pytest.mark.parametrize("then", ["sys.exit('the model file is bent')", "import signal; signal.pause()"])
def test_a_restart_in_place_that_fails_says_what_is_not_up(tmp_path: Path, then: str) -> None:
    stage = Stage(tmp_path, scripts={0: ONCE.format(then=then) + SERVE})

    async def scene() -> None:
        with pytest.raises(PenstockError) as raised:
            await commands(stage).carry_out(
                Ask("restart", "a", in_place=True, ready_within_s=2.0), stage.told
            )
        assert raised.value.hint.startswith(
            "not up: a-0, and what ran before is stopped; see `penstock status`"
        )

    stage.run(scene)


def test_a_restart_that_fails_beside_what_serves_loses_nothing(tmp_path: Path) -> None:
    stage = Stage(tmp_path, (model(replicas=2),))
    stage.scripts = {0: FAIL}

    async def scene() -> None:
        with pytest.raises(PenstockError, match="the model file is bent") as raised:
            await commands(stage).carry_out(RESTART, stage.told)
        assert raised.value.hint == "as many replicas serve as before"
        assert stage.names() == ["a-0", "a-1"]

    stage.run(scene)


def test_what_somebody_else_runs_is_not_restarted(tmp_path: Path) -> None:
    elsewhere = ModelConfig(name="a", engine="remote", source="http://127.0.0.1:1")
    stage = Stage(tmp_path, (elsewhere, model("b")))

    async def scene() -> None:
        with pytest.raises(PenstockError, match="model 'a' has engine remote, which Penstock does not start"):
            await commands(stage).carry_out(RESTART, stage.told)

    stage.run(scene)


def test_an_unknown_replica_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    stage = Stage(tmp_path, (model(replicas=2),))

    async def scene() -> None:
        with pytest.raises(PenstockError, match="there is no replica 'a-9'") as raised:
            await commands(stage).carry_out(Ask("restart", "a", "a-9"), stage.told)
        assert raised.value.hint == "its replicas: a-0, a-1"

    stage.run(scene)


def test_a_second_command_is_turned_away_and_a_hangup_waits(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.gateway.in_flight["a-0"] = 1

    async def scene() -> None:
        asked = commands(stage)
        following = asyncio.create_task(asked.follow_hangups())
        first = asyncio.create_task(asked.carry_out(RESTART, stage.told))
        await until(lambda: "a-0: draining, 1 request left" in stage.told.steps)

        asked.hang_up()
        with pytest.raises(PenstockError, match="restart of a is under way"):
            await asked.carry_out(Ask("reload"), stage.told)
        assert stage.gateway.reloads == 0

        stage.gateway.in_flight = {}
        await first
        await until(lambda: "reload: nothing has changed" in stage.said.lines)
        following.cancel()

    stage.run(scene)

    assert "SIGHUP: a reload follows once restart of a is over" in stage.said.lines
    assert stage.gateway.reloads == 1


def test_a_hangup_withdraws_a_reload_that_waits_where_the_configuration_is_another_again(
    tmp_path: Path,
) -> None:
    stage = Stage(tmp_path, scripts={1: HANG})
    before = stage.loaded

    async def scene() -> None:
        asked = commands(stage)
        following = asyncio.create_task(asked.follow_hangups())
        stage.loaded = Loaded(Config(models=(model(seed=1),)))
        asked.hang_up()
        await until(lambda: "a-1 started" in stage.events)
        asked.hang_up()
        await until(lambda: "SIGHUP: the reload under way goes on" in stage.said.text)
        assert stage.names() == ["a-0", "a-1"]

        stage.loaded = before
        asked.hang_up()
        await until(lambda: "reload: nothing has changed" in stage.said.lines)
        assert stage.names() == ["a-0"]
        following.cancel()

    stage.run(scene)

    assert stage.events.count("a-1 started") == 1
    assert [line for line in stage.said.lines if "withdrawn" in line] == [
        "SIGHUP: the reload under way is withdrawn for another",
        "reload: withdrawn",
    ]


def test_a_hangup_with_mistakes_withdraws_nothing(tmp_path: Path) -> None:
    stage = Stage(tmp_path, scripts={1: HANG})

    def mistaken() -> Loaded:
        raise PenstockError("models: expected at least one model")

    async def scene() -> None:
        asked = commands(stage)
        following = asyncio.create_task(asked.follow_hangups())
        stage.loaded = Loaded(Config(models=(model(seed=1),)))
        asked.hang_up()
        await until(lambda: "a-1 started" in stage.events)
        stage.reloading._load = mistaken
        asked.hang_up()
        await until(lambda: "SIGHUP: refused" in stage.said.text)
        assert stage.names() == ["a-0", "a-1"]
        following.cancel()

    stage.run(scene)

    assert (
        "SIGHUP: refused, the reload under way goes on: models: expected at least one model"
        in stage.said.lines
    )


def test_a_bug_fails_the_command_and_nothing_else(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.engines.check_aside = None  # type: ignore[assignment, method-assign]  # a bug

    async def scene() -> None:
        with pytest.raises(PenstockError, match="restart of a ended by a bug: TypeError"):
            await commands(stage).carry_out(RESTART, stage.told)
        assert stage.names() == ["a-0"]

    stage.run(scene)

    assert "Traceback (most recent call last):" in stage.said.lines


def test_a_reload_that_can_not_take_a_model_away_says_so_and_the_next_one_does(tmp_path: Path) -> None:
    stage = Stage(tmp_path, (model("a"), model("b")))
    stage.home.drained.mkdir()  # which is no file to be written

    async def scene() -> None:
        asked = commands(stage)
        stage.loaded = Loaded(Config(models=(model("a"),)))
        with pytest.raises(PenstockError, match=r"drained\.json can't be written") as raised:
            await asked.carry_out(Ask("reload"), stage.told)
        assert raised.value.hint == "the new configuration is in force; reload again to finish"
        assert stage.names() == ["a-0", "b-0"]
        assert "drained.json can't be written" in Refusal(stage.home.refusal).why()

        stage.home.drained.rmdir()
        await asked.carry_out(Ask("reload"), stage.told)
        assert stage.names() == ["a-0"]
        assert Refusal(stage.home.refusal).why() == ""

    stage.run(scene)

    assert any(line.startswith("reload not finished: ") for line in stage.said.lines)
