"""Simulated engines as real processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.simulator.sim_client import Sim


@pytest.fixture
def start() -> Iterator[Callable[..., Sim]]:
    """Starts engines of one's own settings."""
    engines: list[Sim] = []

    def begin(**settings: Any) -> Sim:
        engines.append(Sim(**settings))
        return engines[-1]

    yield begin
    for engine in engines:
        if engine.process.poll() is None:
            engine.stop()


@pytest.fixture(scope="session")
def sim() -> Iterator[Sim]:
    """An engine that all tests share: tests that count or disturb start their own."""
    engine = Sim()
    yield engine
    engine.stop()
