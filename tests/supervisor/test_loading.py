"""How far a start has come is told in words: its stage, what it has read, and its time beside that of the last."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from penstock.core.config import ModelConfig
from penstock.engines.catalog import SPECS
from penstock.engines.vllm import STAGES
from penstock.store.starts import Start, Starts
from penstock.supervisor.loading import LoadingWatch, how_far, identity, stage_of, work_of
from penstock.supervisor.parts import ReplicaPart


@pytest.mark.parametrize(
    ("elapsed_s", "last_s", "expected"),
    [
        (12.4, None, "loading weights, 40 %; 3.1 GB read; 12 s"),
        (12.4, 41.0, "loading weights, 40 %; 3.1 GB read; 12 s of the 41 s of last time"),
        (60.0, 41.0, "loading weights, 40 %; 3.1 GB read; 60 s, longer than the 41 s of last time"),
        (83.0, 41.0, "loading weights, 40 %; 3.1 GB read; 83 s, twice the 41 s of last time"),
        (170.0, 41.0, "loading weights, 40 %; 3.1 GB read; 170 s, 4 times the 41 s of last time"),
    ],
)
def test_the_time_stands_beside_that_of_the_last_start(
    elapsed_s: float, last_s: float | None, expected: str
) -> None:
    assert how_far("loading weights, 40 %", "3.1 GB read", elapsed_s, last_s) == expected


def test_a_start_of_which_nothing_is_known_is_loading() -> None:
    assert how_far("", "", 3.0, None) == "loading; 3 s"


VLLM_LOG = (
    "(APIServer pid=7) INFO 11-28 14:31:21 [model.py:733] Resolved architecture: LlamaForCausalLM\n"
    "(EngineCore pid=8) INFO 11-28 14:31:27 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: x\n"
    "(Worker pid=9) INFO 11-28 14:31:43 [cpu_model_runner.py:68] Starting to load model /m...\n"
    "\rLoading safetensors checkpoint shards:   0% Completed | 0/4 [00:00<?, ?it/s]"
    "\rLoading safetensors checkpoint shards:  50% Completed | 2/4 [00:01<00:01,  1.9it/s]\n"
    "(Worker pid=9) INFO 11-28 14:31:43 [default_loader.py:501] Loading weights took 0.04 seconds\n"
    "(EngineCore pid=8) INFO 11-28 14:31:45 [kv_cache_utils.py:2327] CPU KV cache size: 524,288 tokens, more\n"
    "(EngineCore pid=8) INFO 11-28 14:31:48 [core.py:402] init engine (profile, create kv cache, warmup) took 3 s\n"
)
STAGES_SEEN = [
    "",
    "starting its engine",
    "starting its workers",
    "loading the model",
    "loading weights, 0 %",
    "loading weights, 50 %",
    "weights are loaded",
    "warming up",
    "starting its server",
]


def test_the_stages_of_vllm_are_told_from_what_it_logs_line_by_line() -> None:
    lines = VLLM_LOG.replace("\r", "\n").replace("\n\n", "\n").splitlines(keepends=True)
    seen = [stage_of("".join(lines[:count]), STAGES) for count in range(len(lines) + 1)]

    assert seen == STAGES_SEEN


def test_the_last_of_what_was_written_over_in_one_line_counts() -> None:
    assert stage_of(VLLM_LOG[: VLLM_LOG.index("1.9it/s")], STAGES) == "loading weights, 50 %"


def test_the_work_of_a_process_that_lives_is_told_and_that_of_none_is_not() -> None:
    assert work_of(os.getpid()).endswith(("in memory", "read"))
    assert work_of(2**22 + 1) == ""


def model(**members: Any) -> ModelConfig:
    return ModelConfig.model_validate({"name": "m", "engine": "sim", **members})


def test_a_model_with_other_options_is_another_start() -> None:
    assert identity(model()) == identity(model(replicas=2))
    assert identity(model()) != identity(model(engine_args={"seed": 1}))


class Keeper:
    """A keeper whose part starts when the test says so."""

    def __init__(self, made: ModelConfig) -> None:
        anything: Any = None
        self.part = ReplicaPart(made, SPECS["vllm"], 0, anything, anything, lambda: 0.0)
        self.pid: int | None = None
        self.told: list[str] = []
        self.up = False

    @property
    def became_ready(self) -> Any:
        return self

    def is_set(self) -> bool:
        return self.up

    def loads(self, how_far: str) -> None:
        self.told.append(how_far)


class Scene:
    """A watch with one keeper, a log and a clock."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "m-0.log"
        self.starts = Starts(folder / "starts.json")
        self.kept: Any = Keeper(model())
        self.now_s = 100.0
        self.watch = LoadingWatch(lambda: [self.kept], self.starts, lambda _: self.log, lambda: self.now_s)

    def write(self, text: str) -> None:
        with self.log.open("a") as file:
            file.write(text)

    def look(self, after_s: float = 0.5) -> str:
        self.now_s += after_s
        self.watch.look()
        return self.watch.how_far("m-0")


def test_a_start_is_told_of_until_it_is_up_and_its_time_is_remembered(tmp_path: Path) -> None:
    it = Scene(tmp_path)
    it.look()
    it.kept.pid = os.getpid()
    assert it.look() == ""
    it.write(VLLM_LOG[: VLLM_LOG.index("Loading weights took")])

    told = it.look(12.0)

    assert told.startswith("loading weights, 50 %; ")
    assert told.endswith("; 12 s")
    assert it.kept.told == [told]
    it.kept.up = True
    assert it.look(1.0) == ""
    assert it.kept.told == [told, ""]
    assert it.starts.took_s("m", identity(model())) == 13.0


def test_what_the_process_before_it_wrote_is_no_stage_of_it(tmp_path: Path) -> None:
    it = Scene(tmp_path)
    it.write(VLLM_LOG)
    it.look()
    it.kept.pid = os.getpid()
    it.look()

    assert it.look(5.0).startswith("loading; ")
    it.kept.pid = None
    it.look()
    it.kept.pid = os.getppid()
    it.look()
    assert it.look(5.0).startswith("loading; ")


def test_what_an_earlier_supervisor_saw_written_is_no_stage_of_a_start(tmp_path: Path) -> None:
    it = Scene(tmp_path)
    it.write(f"{VLLM_LOG}--- 2026-11-28T14:31:48Z started pid {os.getpid()}: vllm serve\n")
    it.kept.pid = os.getpid()
    it.look()

    assert it.look(5.0).startswith("loading; ")
    it.write(VLLM_LOG[: VLLM_LOG.index("1.9it/s")])
    assert it.look().startswith("loading weights, 50 %; ")


def test_a_log_that_was_begun_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    it = Scene(tmp_path)
    it.write(VLLM_LOG * 3)
    it.look()
    it.kept.pid = os.getpid()
    it.log.write_text(VLLM_LOG[:100])

    it.look()

    assert it.look(2.0).startswith("starting its engine; ")


def test_a_start_is_measured_by_the_last_one(tmp_path: Path) -> None:
    it = Scene(tmp_path)
    it.starts.note("m", Start(identity(model()), 5.0))
    it.kept.pid = os.getpid()
    it.look()

    assert it.look(4.0).endswith("; 4 s of the 5 s of last time")
    assert it.look(7.0).endswith("; 11 s, twice the 5 s of last time")


def test_a_start_of_a_moment_is_not_spoken_of(tmp_path: Path) -> None:
    it = Scene(tmp_path)
    it.kept.pid = os.getpid()
    it.look()
    it.kept.up = True
    it.look(0.5)

    assert it.kept.told == []
    assert it.starts.took_s("m", identity(model())) is None
