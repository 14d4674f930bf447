"""The supervisor: starts together, stops in order, ends with everything it started."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from penstock.policy.restart import RestartLimits
from penstock.supervisor.keeper import Keeper
from penstock.supervisor.loop import ModelKeepers, Supervisor
from tests.supervisor.parts import (
    FAIL,
    FALL_ONCE_SEEN,
    QUICK,
    SERVE,
    STUBBORN,
    WITHIN_S,
    Said,
    ScriptPart,
    keeper,
    until,
)


@pytest.fixture(autouse=True)
def _as_without_nohup() -> Iterator[None]:
    """A command that was tried in this process before may have left SIGHUP ignored, as nohup does."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@dataclass
class Stage:
    """A supervisor of scripts: engines `a-0`, `a-1`... and a gateway; it is ready when all parts are."""

    folder: Path
    engine_scripts: tuple[str, ...] = ()
    gateway_script: str | None = None
    others_serve: bool = False
    events: list[str] = field(default_factory=list)
    said: Said = field(default_factory=Said)
    told: list[str] = field(default_factory=list)
    banners: int = 0

    def __post_init__(self) -> None:
        scripts = enumerate(self.engine_scripts or (ScriptPart.script,))
        self.engines = [self._keeper(f"a-{number}", script, QUICK) for number, script in scripts]
        gateway_limits = RestartLimits(first_wait_s=0.001, wait_s_max=0.001, failed_starts_max=1)
        script = self.gateway_script or ScriptPart.script
        self.gateway = self._keeper("gateway", script, gateway_limits)
        self.supervisor = Supervisor(
            [ModelKeepers("a", tuple(self.engines))],
            self.gateway,
            others_serve=self.others_serve,
            unready=self._unready,
            on_waiting=self.told.append,
            on_ready=self._on_ready,
            on_stopping=self._on_stopping,
            say=self.said,
        )

    def run(
        self,
        scene: Callable[[asyncio.Event], Awaitable[None]],
        beside: Sequence[Callable[[], Coroutine[None, None, None]]] = (),
    ) -> int:
        """The supervisor's exit code; `scene` plays meanwhile, and gets an event that tells readiness."""

        async def play() -> int:
            self._is_ready = asyncio.Event()
            playing = asyncio.ensure_future(scene(self._is_ready))
            async with asyncio.timeout(WITHIN_S):
                code = await self.supervisor.run(beside)
                await playing
            return code

        return asyncio.run(play())

    def _keeper(self, name: str, script: str, limits: RestartLimits) -> Keeper:
        takes_sign = script == FALL_ONCE_SEEN
        part = ScriptPart(name, self.folder, script, events=self.events, takes_sign=takes_sign)
        return keeper(part, self.said, limits)

    async def _unready(self) -> str:
        waiting = [kept.part.name for kept in (*self.engines, self.gateway) if not kept.became_ready.is_set()]
        return ", ".join(waiting)

    async def _on_stopping(self) -> None:
        self.told.append(f"stopping, down: {self.supervisor.down}")

    def _on_ready(self) -> None:
        self.banners += 1
        self._is_ready.set()


async def _nothing(_ready: asyncio.Event) -> None:
    """A scene in which the supervisor is left to itself."""


def _signal(*numbers: int) -> Callable[[asyncio.Event], Awaitable[None]]:
    """A scene that sends signals once all is ready."""

    async def scene(ready: asyncio.Event) -> None:
        await ready.wait()
        for number in numbers:
            os.kill(os.getpid(), number)
            await asyncio.sleep(0.05)  # two of one kind at once would be one signal

    return scene


def test_a_signal_stops_the_gateway_before_the_engines(tmp_path: Path) -> None:
    stage = Stage(tmp_path, (ScriptPart.script, ScriptPart.script))

    code = stage.run(_signal(signal.SIGTERM))

    assert code == 0
    assert stage.banners == 1
    assert sorted(stage.events[:3]) == ["a-0 started", "a-1 started", "gateway started"]
    assert stage.events[3] == "gateway ended"
    assert sorted(stage.events[4:]) == ["a-0 ended", "a-1 ended"]


def test_it_tells_what_it_waits_for_and_that_it_is_about_to_stop(tmp_path: Path) -> None:
    stage = Stage(tmp_path)

    stage.run(_signal(signal.SIGTERM))

    assert stage.told[0] == "a-0, gateway"
    assert stage.told[-1] == "stopping, down: ()"
    assert stage.said.lines[-1] == "stopped"


def test_a_terminal_that_is_closed_stops_in_order_what_has_nothing_to_reload(tmp_path: Path) -> None:
    stage = Stage(tmp_path)

    code = stage.run(_signal(signal.SIGHUP))

    assert code == 0
    assert stage.events[-2:] == ["gateway ended", "a-0 ended"]


def test_an_interrupt_when_ready_is_a_clean_stop(tmp_path: Path) -> None:
    assert Stage(tmp_path).run(_signal(signal.SIGINT)) == 0


def test_an_interrupt_before_it_is_ready_is_told_in_the_exit_code(tmp_path: Path) -> None:
    stage = Stage(tmp_path, ("import signal; signal.pause()",))

    async def scene(_ready: asyncio.Event) -> None:
        await stage.gateway.became_ready.wait()
        os.kill(os.getpid(), signal.SIGINT)

    assert stage.run(scene) == 130
    assert stage.banners == 0


def test_a_second_signal_kills_what_does_not_stop_and_is_told_in_the_exit_code(tmp_path: Path) -> None:
    stage = Stage(tmp_path, (STUBBORN,), STUBBORN)

    code = stage.run(_signal(signal.SIGINT, signal.SIGINT))

    assert code == 130
    assert "stopping at once" in stage.said.lines
    assert {"gateway ended", "a-0 ended"} <= set(stage.events)


def test_a_gateway_that_ends_at_once_ends_everything(tmp_path: Path) -> None:
    stage = Stage(tmp_path, gateway_script=FAIL)

    code = stage.run(_nothing)

    assert code == 1
    assert "error: gateway ended with exit code 1: its last words: the model file is bent" in stage.said.text
    assert {"gateway ended", "a-0 ended"} <= set(stage.events)
    assert stage.events.count("gateway started") == 1


def test_a_model_that_can_not_start_ends_everything(tmp_path: Path) -> None:
    stage = Stage(tmp_path, (FAIL,))

    code = stage.run(_nothing)

    assert code == 1
    assert stage.events.count("a-0 started") == 3
    assert "3 starts in a row failed" in stage.said.text
    assert stage.events[-1] == "gateway ended"


def test_a_gateway_that_falls_later_is_started_again(tmp_path: Path) -> None:
    stage = Stage(tmp_path)

    async def scene(ready: asyncio.Event) -> None:
        await ready.wait()
        assert stage.gateway.pid is not None
        os.kill(stage.gateway.pid, signal.SIGKILL)
        await until(lambda: stage.events.count("gateway started") == 2)
        await stage.gateway.became_ready.wait()
        os.kill(os.getpid(), signal.SIGTERM)

    assert stage.run(scene) == 0


def test_the_last_replica_to_be_given_up_ends_everything(tmp_path: Path) -> None:
    stage = Stage(tmp_path)

    async def scene(ready: asyncio.Event) -> None:
        await ready.wait()
        stage.engines[0].part.script = FAIL  # type: ignore[attr-defined]  # a ScriptPart
        assert stage.engines[0].pid is not None
        os.kill(stage.engines[0].pid, signal.SIGKILL)

    assert stage.run(scene) == 1
    assert "error: a-0 ended with exit code 1" in stage.said.text


def test_a_replica_that_is_given_up_later_leaves_the_others_serving(tmp_path: Path) -> None:
    stage = Stage(tmp_path, (ScriptPart.script, ScriptPart.script))

    async def scene(ready: asyncio.Event) -> None:
        await ready.wait()
        stage.engines[0].part.script = FAIL  # type: ignore[attr-defined]  # a ScriptPart
        assert stage.engines[0].pid is not None
        os.kill(stage.engines[0].pid, signal.SIGKILL)
        await until(lambda: bool(stage.engines[0].given_up))
        os.kill(os.getpid(), signal.SIGTERM)

    assert stage.run(scene) == 0
    assert "a-1 ended" in stage.events


def test_what_fails_beside_the_engines_is_said_and_ends_none_of_them(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stopped = asyncio.Event()

    async def bug() -> None:
        raise RuntimeError("a bug of ours")

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
            assert "gateway ended" not in stage.events

    code = stage.run(_signal(signal.SIGTERM), (bug, endless))

    assert code == 0
    assert "RuntimeError: a bug of ours" in stage.said.text
    assert stopped.is_set()


def test_asked_twice_to_end_it_still_lets_everything_finish(tmp_path: Path) -> None:
    finishes = (
        "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), sys.exit()))\n"
    )
    stage = Stage(tmp_path, gateway_script=finishes + SERVE)
    stage.gateway.part.on_event = lambda event: lasts.append(event)  # type: ignore[attr-defined]
    lasts: list[str] = []

    async def scene(ready: asyncio.Event) -> None:
        await ready.wait()
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.05)
        assert "gateway ended" not in lasts  # it was asked while it still finished

    assert stage.run(scene) == 0
    assert "stopping at once" not in stage.said.lines
