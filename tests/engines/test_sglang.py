"""SGLang's command line, and how its key stays out of it. SGLang itself needs a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.core.config import ModelConfig
from penstock.engines import sglang
from penstock.engines.spec import Placement
from tests.engines import installed

KEY = "secret-of-the-replica"
PLACEMENT = Placement("127.0.0.1", 41231, KEY, gpus=(1,))

# What a module that is started by `python -m` sees, also in a process that it starts itself.
LAUNCH_SERVER = """
import json, multiprocessing, sys

def seen(pipe):
    pipe.send(open("/proc/self/cmdline").read())

if __name__ == "__main__":
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=seen, args=(theirs,))
    child.start()
    own = open("/proc/self/cmdline").read()
    print(json.dumps({"argv": sys.argv[1:], "lines": [own, ours.recv()], "name": __spec__.name}))
"""


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment with something in SGLang's place."""
    folder = installed.environment(tmp_path / "venv", ("sglang",), {"sglang": "0.5.23"})
    installed.put(folder, "sglang/__init__.py", "")
    installed.put(folder, "sglang/launch_server.py", LAUNCH_SERVER)
    python = folder / "bin" / "python3"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={installed.site(folder)} exec {sys.executable} "$@"\n')
    return folder


def model(venv: Path | None, source: str = "demo", **engine_args: object) -> ModelConfig:
    """A model for SGLang."""
    return ModelConfig(
        name="llama",
        engine="sglang",
        source=source,
        venv=str(venv) if venv else None,
        engine_args=engine_args,
    )


def test_its_key_reaches_it_and_no_command_line(venv: Path) -> None:
    launch = sglang.launch(model(venv, tp_size=2, trust_remote_code=False, enable_p2p_check=True), PLACEMENT)

    done = subprocess.run(launch.argv, env={**os.environ, **launch.env}, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["name"] == "sglang.launch_server"
    assert seen["argv"][:2] == ["--model-path", str(sglang.source_of(model(venv)))]
    assert seen["argv"][2:] == [
        *("--served-model-name", "llama", "--host", "127.0.0.1", "--port", "41231", "--enable-metrics"),
        *("--tp-size", "2", "--enable-p2p-check", "--api-key", KEY),
    ]
    assert not any(KEY in line for line in seen["lines"])
    assert launch.env["CUDA_VISIBLE_DEVICES"] == "1"


def test_it_is_checked_before_it_is_started(
    venv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert sglang.check(model(venv)) == []
    assert sglang.check(model(venv, "/nowhere", tp_size=2, port=1, ssl_keyfile="/k")) == [
        "source: /nowhere does not exist; name a folder, or owner/model of the Hub",
        "engine_args.port: not for you to set: Penstock chooses it",
        "engine_args.ssl_keyfile: not for you to set: the gateway speaks plain HTTP to engines, on loopback",
    ]
    assert "3 does not divide the model's 4 attention heads" in sglang.check(model(venv, tp_size=3))[0]
    assert sglang.check(model(None))[0].startswith("engine: there is no SGLang; `pip install sglang`")
    assert sglang.check(model(tmp_path))[0].startswith(f"venv: {tmp_path} has no SGLang")
