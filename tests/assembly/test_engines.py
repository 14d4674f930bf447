"""What a process forgets and who it locks out before it starts engines."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import pytest

from penstock.assembly.engines import Engines
from penstock.core.config import Config, ModelConfig, TracesConfig
from penstock.core.config_sources import Loaded
from penstock.core.errors import PenstockError
from penstock.engines.client import EngineClient
from penstock.policy.restart import RestartLimits
from penstock.store.home import Home
from penstock.store.runtime import Drained, Holder, Lock
from penstock.supervisor.keeper import Keeper
from penstock.supervisor.room import Machine
from penstock.supervisor.trees import Trees
from tests.engines import installed
from tests.supervisor.parts import Said

MODEL = ModelConfig(name="m", engine="sim")
POOR = Machine(lambda: 0, lambda pid: (pid,), lambda _: 1, lambda: (), lambda _: None)


@pytest.fixture
def engines(tmp_path: Path) -> Engines:
    home = Home(tmp_path)
    home.prepare()
    return Engines(Loaded(Config(models=(MODEL,))), home, {}, EngineClient(), Said())


class Running(Keeper):
    """A keeper whose part runs."""

    @property
    def pid(self) -> int:
        return 7


def test_a_new_replica_is_not_drained_as_one_of_its_name_was(engines: Engines, tmp_path: Path) -> None:
    drained = Drained(Home(tmp_path).drained)
    for name in ("m-0", "m-1", "other-0"):
        drained.set(name, drained=True)

    (keeper,) = engines.keepers(MODEL, [1])

    assert keeper.part.name == "m-1"
    assert drained() == {"m-0", "other-0"}


def test_engines_send_spans_where_the_configuration_in_force_says(engines: Engines, tmp_path: Path) -> None:
    venv = installed.vllm(tmp_path / "venv", more='parser.add_argument("--otlp-traces-endpoint")')
    model = ModelConfig(name="v", engine="vllm", source="demo", venv=str(venv))
    traces = TracesConfig(endpoint="http://collector:4318", engines=True)

    def argv() -> tuple[str, ...]:
        (keeper,) = engines.keepers(model, [0])
        return keeper.part.launch().argv

    before = argv()
    engines.adopt(Loaded(Config(models=(model,), traces=traces)))

    assert "http://collector:4318/v1/traces" not in before
    assert "http://collector:4318/v1/traces" in argv()
    with pytest.raises(PenstockError, match=r"models\.0\.venv: traces\.engines needs opentelemetry-sdk"):
        engines.check([model])


def test_without_room_the_numbers_are_told_and_what_to_do(engines: Engines, tmp_path: Path) -> None:
    engines.premises.machine = POOR
    (keeper,) = engines.keepers(MODEL, [0])
    running = Running(keeper.part, tmp_path / "log", RestartLimits(), engines.premises.around({}))

    with pytest.raises(PenstockError, match=r"no room for another replica of m .* 0 B are free") as raised:
        asyncio.run(engines.check_room(MODEL, MODEL, [running]))

    assert raised.value.code == "no_room"
    assert "--in-place" in raised.value.hint
    assert "503 with Retry-After" in raised.value.hint


def test_a_model_is_run_by_one_process_alone(engines: Engines) -> None:
    taken = pytest.raises(PenstockError, match="the engine of m is already running here")
    with engines.locked([MODEL], Holder(os.getpid())), taken, engines.locked([MODEL], Holder(1)):
        raise AssertionError("both have it")


def test_what_was_left_of_a_model_that_is_configured_no_more_is_ended_unless_somebody_runs_it(
    engines: Engines, tmp_path: Path
) -> None:
    home = Home(tmp_path)
    left = [subprocess.Popen(["sleep", "600"], start_new_session=True) for _ in range(2)]
    for name, process in zip(("gone", "elsewhere"), left, strict=True):
        Trees(home.trees).plant(f"{name}-0", name).begin(process.pid)
    running = Lock(home.engine_lock("elsewhere"))
    running.acquire(Holder(pid=1))

    engines.end_left([MODEL], Holder(pid=os.getpid()))

    assert left[0].wait(10.0) == -signal.SIGKILL
    assert left[1].poll() is None
    assert not home.engine_lock("gone").exists()
    running.release()
    left[1].kill()
    left[1].wait()
