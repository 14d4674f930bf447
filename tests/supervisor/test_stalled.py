"""A replica that stays stalled is started again, when its model says so and not before."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from penstock.core.config import ModelConfig
from penstock.core.errors import PenstockError
from penstock.engines.catalog import SPECS
from penstock.supervisor.parts import ReplicaPart
from penstock.supervisor.stalled import StalledReplica, StalledRestarts


class Keeper:
    """A keeper that is only told."""

    def __init__(self, number: int = 0, **health: Any) -> None:
        made = ModelConfig.model_validate({"name": "m", "engine": "sim", "health": health})
        anything: Any = None
        self.part = ReplicaPart(made, SPECS["sim"], number, anything, anything, lambda: 0.0)
        self.pid: int | None = 7
        self.causes: list[str] = []

    async def restart(self, cause: str) -> None:
        self.causes.append(cause)


def look(found: Mapping[str, StalledReplica] | PenstockError, *keepers: Any) -> None:
    async def stalled() -> Mapping[str, StalledReplica]:
        if isinstance(found, PenstockError):
            raise found
        return found

    asyncio.run(StalledRestarts(stalled, lambda: keepers).look())


def test_one_that_is_stalled_for_longer_than_two_minutes_is_started_again_with_the_reason() -> None:
    short, long = Keeper(0), Keeper(1)

    look(
        {"m-0": StalledReplica(119.0, "x"), "m-1": StalledReplica(125.0, "3 requests, no step")}, short, long
    )

    assert short.causes == []
    assert long.causes == ["it has been stalled for 2m: 3 requests, no step"]


@pytest.mark.parametrize(
    ("health", "restarts"),
    [({"restart_after": "10s"}, 1), ({"restart": False}, 0), ({"restart_after": "1h"}, 0)],
)
def test_its_model_says_whether_and_when(health: dict[str, Any], restarts: int) -> None:
    keeper = Keeper(**health)

    look({"m-0": StalledReplica(600.0, "x")}, keeper)

    assert len(keeper.causes) == restarts


def test_one_that_is_not_running_is_left_alone() -> None:
    keeper = Keeper()
    keeper.pid = None

    look({"m-0": StalledReplica(600.0, "x")}, keeper)

    assert keeper.causes == []


def test_a_gateway_that_does_not_answer_is_no_reason() -> None:
    keeper = Keeper()

    look(PenstockError("the gateway does not answer"), keeper)

    assert keeper.causes == []
