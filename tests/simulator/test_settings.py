from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from dataclasses import fields

import pytest

from penstock.core.config import ModelConfig
from penstock.engines import sim
from penstock.engines.spec import Placement
from penstock.simulator.settings import SimEngineSettings

OWN = {"host", "port", "model", "api_key"}
PLACE = Placement("127.0.0.1", 9001, "sk-secret")


def model(**engine_args: object) -> ModelConfig:
    return ModelConfig(name="tiny", engine="sim", engine_args=engine_args)


def test_the_engine_arguments_are_the_settings_but_for_where_and_who():
    types = {"int": int, "float": float, "bool": bool, "tuple[str, ...]": list}
    wanted = {
        field.name: types[str(field.type)] for field in fields(SimEngineSettings) if field.name not in OWN
    }

    assert wanted == sim.ARGS


def test_the_key_is_in_the_environment_and_never_in_the_command_line():
    assert sim.SPEC.launch is not None

    launch = sim.SPEC.launch(model(), PLACE)

    assert launch.env == {"PENSTOCK_SIM_API_KEY": "sk-secret"}
    assert not any("sk-secret" in word for word in launch.argv)


def test_arguments_become_options():
    assert sim.SPEC.launch is not None
    args = {"max_model_len": 512, "prefix_cache": False, "fault_rate": ["no_usage:0.1", "abort:0.2"]}

    argv = sim.SPEC.launch(model(**args), PLACE).argv

    assert argv[:5] == (sys.executable, "-m", "penstock", "sim", "engine")
    assert argv[5:11] == ("--host", "127.0.0.1", "--port", "9001", "--model", "tiny")
    assert argv[11:] == (
        *("--max-model-len", "512", "--no-prefix-cache"),
        *("--fault-rate", "no_usage:0.1", "--fault-rate", "abort:0.2"),
    )


def test_wrong_arguments_are_complained_of_with_the_nearest_known_name():
    complaints = sim.SPEC.check(
        model(max_model_length=1, seed="x", jitter=1, kv_blocks=True, fault_rate="no_usage:0")
    )

    assert complaints == [
        "engine_args.max_model_length: sim has no such argument; did you mean max_model_len?",
        "engine_args.seed: expected a whole number, found 'x'",
        "engine_args.kv_blocks: expected a whole number, found True",
    ]


def test_the_defaults_have_nothing_to_complain_of():
    assert SimEngineSettings().check() == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"base_step_s": -1}, "base_step_s: should be at least 0"),
        ({"base_step_s": float("nan")}, "base_step_s: should be at least 0"),
        ({"port": 70000}, "port: should be 0 to 65535"),
        ({"jitter": 1.0}, "jitter: should be 0 to below 1"),
        ({"model": ()}, "model: should be at least one name"),
        ({"kv_blocks": 1}, "kv_blocks: 1 blocks of 16 hold 16 tokens"),
        ({"fault_rate": ("nope:1",)}, "fault_rate: unknown fault 'nope'"),
    ],
)
def test_each_wrong_setting_is_complained_of(wrong, words):
    (complaint,) = SimEngineSettings(**wrong).check()

    assert complaint.startswith(words)


def test_every_setting_says_what_it_means():
    described = re.findall(
        r"^    (\w+): \S", inspect.getdoc(SimEngineSettings).partition("Args:")[2], re.MULTILINE
    )

    assert described == [field.name for field in fields(SimEngineSettings)]


def test_the_simulator_imports_neither_gateway_nor_supervisor():
    script = (
        "import sys, penstock.simulator.engine_server;"
        "print([m for m in sys.modules if m.startswith(('penstock.gateway.', 'penstock.supervisor.'))])"
    )

    seen = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ, check=True
    )

    assert seen.stdout.strip() == "[]"
