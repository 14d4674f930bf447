"""A loop to run a test in, and engines that say what the test tells them to."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from tests.engines.fake_engine import FakeEngine, Script

# A test that waits longer than this for something has failed; a slow machine takes a tenth of it.
PATIENCE_S = 10.0

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Runs a coroutine; what the loop was told of and nobody handled fails the test, and so does a leak."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    unhandled: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: unhandled.append(context))

        def run_it(work: Coroutine[Any, Any, None]) -> None:
            async def bounded() -> None:
                async with asyncio.timeout(PATIENCE_S):
                    await work

            runner.run(bounded())

        yield run_it
    gc.collect()
    assert not unhandled


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Coroutine[Any, Any, None]]:
    """Waits for a condition; the test's own time limit ends a wait in vain."""

    async def wait(condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0.002)

    return wait


@pytest.fixture
def engine() -> Callable[[Script], FakeEngine]:
    """Makes an engine that follows a script on each connection: `async with engine(script) as e`."""
    return FakeEngine
