"""`penstock up` with one real vLLM, its exporter and its traces; a start takes most of a minute, so tests share it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from penstock.engines.model_files import DEMO_FOLDER
from penstock.engines.vllm import VENV_VARIABLE
from tests.e2e.conftest import DEMO
from tests.e2e.processes import KEY, Gateway, Server, free_port, penstock_up, wait_until
from tests.e2e.test_continuation import ready_replicas
from tests.e2e.test_vllm import OFFLINE, START_S
from tests.e2e.test_vllm_rolling import ONE_THREAD
from tests.otlp import Collector, http_collector

NEEDS_VLLM = pytest.mark.skipif(
    VENV_VARIABLE not in os.environ,
    reason=f"no vLLM: {VENV_VARIABLE} is not set to its virtual environment",
)
SEQUENCES, PERMITS = 2, 3
BLOCKS, BLOCK_TOKENS = 96, 32
# One request more than it runs at once, which waits in vLLM itself; few blocks, so that its cache is seen to fill.
MODEL = f"""[[models]]
name = "{DEMO}"
engine = "vllm"
source = {json.dumps(str(DEMO_FOLDER))}
concurrency = {PERMITS}
slo = {{ ttft = {{ p = 95, under = "500ms" }}, tpot = {{ p = 95, under = "50ms" }}, availability = 99.9 }}

[models.engine_args]
enforce_eager = true
max_model_len = 2048
max_num_seqs = {SEQUENCES}
block_size = {BLOCK_TOKENS}
num_gpu_blocks_override = {BLOCKS}
enable_prompt_tokens_details = true
"""
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "200"}  # ms, for the spans of vLLM; 5 s otherwise


@dataclass(frozen=True)
class Observed:
    """What runs.

    Args:
        vllm: the replica itself.
        exporter: that of `penstock up`.
        collector: has the spans of both the gateway and vLLM.
    """

    up: Gateway
    vllm: Server
    exporter: Server
    collector: Collector


@contextmanager
def observed_vllm(folder: Path) -> Iterator[Observed]:
    """All of it, ready."""
    port = free_port()
    with http_collector() as collector:
        toml = f"""
[exporter]
enabled = true
listen = "127.0.0.1:{port}"
every = "500ms"

[traces]
endpoint = "{collector.url}"
sample = 0
engines = true

{MODEL}"""
        env = {
            VENV_VARIABLE: os.environ[VENV_VARIABLE],
            "GATEWAY_API_KEYS": KEY,
            **OFFLINE,
            **ONE_THREAD,
            **SOON,
        }
        with penstock_up(folder, toml, **env) as up:
            wait_until(lambda: ready_replicas(up) == 1, "vLLM to be ready", START_S)
            (path,) = (up.home / "run" / "replicas").glob("*.json")
            url = json.loads(path.read_text())["url"]
            vllm = Server(up.process, int(url.rpartition(":")[2]), up.log)
            yield Observed(up, vllm, Server(up.process, port, up.log), collector)
