"""A stack to break: two simulated engines, a gateway, an exporter on a GPU that is not there, and who watches them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.alerts.watch import Watch, watching
from tests.e2e.processes import (
    KEY,
    Gateway,
    Sim,
    environment,
    free_port,
    ready_gateway,
    sim_engine,
    stop,
    wait_until,
)

# What takes an hour takes three minutes.
TIME_SCALE = 0.05
ENGINE = (
    "--model",
    "m",
    "--base-step-s",
    "0.01",
    "--max-num-seqs",
    "4",
    "--kv-blocks",
    "64",
    "--max-model-len",
    "1024",
)
CONCURRENCY = 4
QUEUE_LEN_MAX = 64
# Gateway, exporter, two engines, Prometheus and Alertmanager.
TARGETS = 6


@dataclass
class Gpu:
    """The GPU that is not there: what it tells is a file that the exporter reads again."""

    path: Path
    state: dict[str, Any] = field(default_factory=dict)

    def tell(self, **changes: Any) -> None:
        """Changes what it tells; without any it is well again."""
        self.state = {**self.state, **changes} if changes else {}
        fields = {
            "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION": 0,
            "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN": 0,
            "NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL": 0,
            **self.state.get("fields", {}),
        }
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps({"gpus": [{**self.state, "fields": fields}]}))
        fresh.replace(self.path)


@dataclass
class Stack:
    """All of it."""

    folder: Path
    config: dict[str, Any]
    engines: list[Sim]
    gateway: Gateway
    exporter: subprocess.Popen[str]
    gpu: Gpu
    watch: Watch

    def start_engine(self, number: int, *options: str) -> None:
        """Starts an engine anew at its address."""
        port = self.engines[number].port
        log = (self.folder / f"again-{number}.log").open("a")
        process = subprocess.Popen(
            [*(sys.executable, "-m", "penstock", "sim", "engine", "--port", str(port)), *ENGINE, *options],
            stdout=log,
            stderr=log,
            text=True,
            env=environment(self.folder),
        )
        self.engines[number].process = process
        wait_until(lambda: _ready(self.gateway), "the engine to be ready again")

    def stop_engine(self, number: int) -> None:
        """Kills an engine."""
        self.engines[number].process.kill()
        self.engines[number].process.wait()


@contextmanager
def stack(folder: Path) -> Iterator[Stack]:
    """Runs it until it is left."""
    with ExitStack() as over:
        engines = [over.enter_context(sim_engine(folder, *ENGINE)) for _ in range(2)]
        sources = [engine.url for engine in engines]
        exporter_port = free_port()
        gpu = Gpu(folder / "gpus.json")
        gpu.tell()
        toml = _TOML.format(sources=json.dumps(sources), exporter=exporter_port, concurrency=CONCURRENCY)
        gateway = over.enter_context(ready_gateway(folder, toml))
        exporter = _exporter(gateway, folder, gpu)
        over.callback(stop, exporter)
        config = {
            "gateway": {"admin": f"127.0.0.1:{gateway.admin_port}"},
            "exporter": {"listen": f"127.0.0.1:{exporter_port}"},
            "models": [{"name": "m", "engine": "remote", "source": sources}],
            "monitoring": {"scrape_every": "500ms"},
        }
        watch = over.enter_context(watching(folder / "watch", config, TIME_SCALE))
        made = Stack(folder, config, engines, gateway, exporter, gpu, watch)
        over.callback(lambda: [stop(engine.process) for engine in engines])
        over.callback(lambda: stop(made.exporter))
        over.callback(lambda: stop(gateway.process))
        wait_until(lambda: watch.up(TARGETS), "everything to be scraped")
        yield made


def _exporter(gateway: Gateway, folder: Path, gpu: Gpu) -> subprocess.Popen[str]:
    log = (folder / "exporter.log").open("a")
    command = [sys.executable, "-m", "penstock", "--config", str(folder / "penstock.toml")]
    return subprocess.Popen(
        [*command, "exporter", "--fake-gpus", str(gpu.path)],
        cwd=folder,
        stdout=log,
        stderr=log,
        text=True,
        env=environment(gateway.home),
    )


def restart_exporter(stack: Stack) -> None:
    """Starts the exporter anew."""
    stack.exporter = _exporter(stack.gateway, stack.folder, stack.gpu)


def restart_gateway(stack: Stack) -> None:
    """Starts the gateway anew, at its addresses."""
    gateway = stack.gateway
    log = gateway.log.open("a")
    gateway.process = subprocess.Popen(
        [sys.executable, "-m", "penstock", "--config", str(stack.folder / "penstock.toml"), "gateway"],
        stdout=log,
        stderr=log,
        text=True,
        cwd=stack.folder,
        env=environment(
            gateway.home,
            GATEWAY_API_KEYS=KEY,
            PENSTOCK_GATEWAY__LISTEN=f"127.0.0.1:{gateway.port}",
            PENSTOCK_GATEWAY__ADMIN=f"127.0.0.1:{gateway.admin_port}",
        ),
    )
    wait_until(lambda: _ready(gateway), "the gateway to be ready again")


def _ready(gateway: Gateway) -> bool:
    try:
        return gateway.request("GET", "/ready").status == 200
    except OSError:
        return False


_TOML = f"""
[gateway]
queue_len_max = {QUEUE_LEN_MAX}

[exporter]
listen = "127.0.0.1:{{exporter}}"
every = "500ms"

[[models]]
name = "m"
engine = "remote"
source = {{sources}}
concurrency = {{concurrency}}
price = {{{{ prompt_usd_per_million = 1 }}}}
timeouts = {{{{ total = "60s", queue = "20s" }}}}

[models.slo]
availability = 99.9
goodput = 95
ttft = {{{{ under = "1s" }}}}
tpot = {{{{ under = "60ms" }}}}
e2e = {{{{ under = "2s" }}}}

[[tenants]]
name = "poor"
budget = {{{{ per_day_usd = 0 }}}}
[[tenants]]
name = "few"
requests_per_minute = 1
"""
