"""A stack to break: engines, two gateways, an exporter on GPUs that are not there, and who watches them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.alerts.gpu import Gpus
from tests.alerts.site import Site, site
from tests.alerts.watch import Watch, watching
from tests.e2e.processes import (
    KEY,
    Gateway,
    Server,
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
SCRAPE_EVERY = "500ms"
CONCURRENCY = 4
QUEUE_LEN_MAX = 64
# Two that serve `m`; one each that serves what drills of their own ask for.
PAIR = (0, 1)
WORN, LONG = 2, 3
_FAST = (
    *("--base-step-s", "0.01", "--max-num-seqs", "4"),
    *("--kv-blocks", "64", "--max-model-len", "1024"),
)
ENGINES = (
    ("--model", "m", *_FAST),
    ("--model", "m", *_FAST),
    ("--model", "worn", "--model", "ruined", *_FAST),
    ("--model", "long", "--base-step-s", "1", "--max-num-seqs", "64", "--answer-tokens-mean", "0"),
)
# Two gateways, exporter, Prometheus and Alertmanager; engines, of which one serves two models.
TARGETS = 5 + len(ENGINES) + 1
SHM_BYTES = CACHE_BYTES = 8 * 2**20


@dataclass
class Stack:
    """All of it."""

    folder: Path
    engines: list[Sim]
    gateway: Gateway
    exporter: subprocess.Popen[str]
    gpus: Gpus
    watch: Watch
    site: Site

    def start_engine(self, number: int, *options: str) -> None:
        """Starts an engine anew at its address."""
        port = self.engines[number].port
        log = (self.folder / f"again-{number}.log").open("a")
        command = (sys.executable, "-m", "penstock", "sim", "engine", "--port", str(port))
        self.engines[number].process = subprocess.Popen(
            [*command, *ENGINES[number], *options],
            stdout=log,
            stderr=log,
            text=True,
            env=environment(self.folder),
        )
        wait_until(lambda: _answers(self.engines[number], "/health"), "the engine to answer again")
        wait_until(lambda: _answers(self.gateway, "/ready"), "the engine to be ready again")

    def stop_engine(self, number: int) -> None:
        """Kills an engine."""
        self.engines[number].process.kill()
        self.engines[number].process.wait()

    def change_engines(self, *numbers: int, options: tuple[str, ...] = ()) -> None:
        """Starts engines anew, with other options."""
        for number in numbers:
            self.stop_engine(number)
            self.start_engine(number, *options)

    def shown(self, number: int, name: str) -> float:
        """What an engine's page says of itself."""
        lines = self.engines[number].request("GET", "/metrics").body.decode().splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{"))

    def in_exporter(self, path: Path) -> Path:
        """A path as the exporter sees it."""
        return Path(f"/proc/{self.exporter.pid}/root") / path.relative_to("/")

    @property
    def model_cache(self) -> Path:
        """The folder for models, which is a small disk of its own for the exporter."""
        return self.folder / "cache"


@contextmanager
def stack(folder: Path) -> Iterator[Stack]:
    """Runs it until it is left."""
    with ExitStack() as over:
        engines = [over.enter_context(sim_engine(folder, *options)) for options in ENGINES]
        over.callback(lambda: [stop(engine.process) for engine in engines])
        beside = over.enter_context(site(folder / "site"))
        gpus = Gpus(folder / "gpus.json")
        exporter_port = free_port()
        gateway = over.enter_context(ready_gateway(folder, _toml(engines, exporter_port)))
        over.callback(lambda: stop(gateway.process))
        config = {
            "gateway": {"admin": f"127.0.0.1:{gateway.admin_port}"},
            "exporter": {"listen": f"127.0.0.1:{exporter_port}"},
            "models": [
                {"name": name, "engine": "remote", "source": sources}
                for name, sources in _sources(engines).items()
            ],
            "monitoring": {"scrape_every": SCRAPE_EVERY},
        }
        watch = over.enter_context(watching(folder / "watch", config, TIME_SCALE))
        watch.ask_too(
            {
                "job_name": "site",
                "static_configs": [
                    {
                        "targets": [f"127.0.0.1:{beside.gateway.admin_port}"],
                        "labels": {"job": "penstock-gateway"},
                    }
                ],
            }
        )
        (folder / "cache").mkdir()
        made = Stack(folder, engines, gateway, _exporter(gateway, folder, gpus), gpus, watch, beside)
        over.callback(lambda: stop(made.exporter))
        wait_until(lambda: watch.up(TARGETS), "everything to be scraped")
        yield made


def _sources(engines: list[Sim]) -> dict[str, list[str]]:
    """The engines of each model."""
    return {
        "m": [engines[number].url for number in PAIR],
        "worn": [engines[WORN].url],
        "ruined": [engines[WORN].url],
        "long": [engines[LONG].url],
    }


def namespace() -> list[str]:
    """What a command is run by that has disks of its own; empty where this machine does not let us."""
    command = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    try:
        done = subprocess.run([*command, "true"], capture_output=True, timeout=30)
    except OSError:
        return []
    return command if done.returncode == 0 else []


def _exporter(gateway: Gateway, folder: Path, gpus: Gpus) -> subprocess.Popen[str]:
    """The exporter, with a small disk for models and small shared memory, which can be filled."""
    log = (folder / "exporter.log").open("a")
    command = [sys.executable, "-m", "penstock", "--config", str(folder / "penstock.toml")]
    command += ["exporter", "--fake-gpus", str(gpus.path)]
    if within := namespace():
        disks = (
            f"mount -t tmpfs -o size={SHM_BYTES} none /dev/shm && "
            f'mount -t tmpfs -o size={CACHE_BYTES} none "$HF_HUB_CACHE" && exec "$@"'
        )
        command = [*within, "sh", "-c", disks, "sh", *command]
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=log,
        stderr=log,
        text=True,
        env=environment(gateway.home, HF_HUB_CACHE=str(folder / "cache")),
    )


def restart_exporter(stack: Stack) -> None:
    """Starts the exporter anew."""
    stack.exporter = _exporter(stack.gateway, stack.folder, stack.gpus)


def restart_gateway(stack: Stack, command: tuple[str, ...] = ("-m", "penstock")) -> None:
    """Starts the gateway anew, at its addresses.

    Args:
        command: what Python runs.
    """
    gateway = stack.gateway
    log = gateway.log.open("a")
    gateway.process = subprocess.Popen(
        [sys.executable, *command, "--config", str(stack.folder / "penstock.toml"), "gateway"],
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
    wait_until(lambda: _answers(gateway, "/ready"), "the gateway to be ready again")


def _answers(server: Server, path: str) -> bool:
    try:
        return server.request("GET", path).status == 200
    except OSError:
        return False


def _toml(engines: list[Sim], exporter_port: int) -> str:
    head = _HEAD.format(queue=QUEUE_LEN_MAX, exporter=exporter_port)
    return head + "".join(
        f'[[models]]\nname = "{name}"\nengine = "remote"\nsource = {json.dumps(sources)}\n{_MODELS[name]}'
        for name, sources in _sources(engines).items()
    )


_HEAD = """
[gateway]
queue_len_max = {queue}

[exporter]
listen = "127.0.0.1:{exporter}"
every = "500ms"

[[tenants]]
name = "poor"
budget = {{ per_day_usd = 0 }}
[[tenants]]
name = "few"
requests_per_minute = 1

"""
# `ruined` may miss next to nothing, and pages at once; `worn` may miss a tenth, and only part of it is missed.
_MODELS: dict[str, str] = {
    "m": f"""
concurrency = {CONCURRENCY}
price = {{ prompt_usd_per_million = 1 }}
timeouts = {{ total = "60s", queue = "20s" }}
[models.slo]
availability = 99.9
goodput = 95
ttft = {{ under = "1s" }}
tpot = {{ under = "60ms" }}
e2e = {{ under = "2s" }}
""",
    "worn": """
concurrency = 32
[models.slo]
availability = 90
goodput = 85
ttft = { under = "200ms", p = 90 }
tpot = { under = "100ms", p = 90 }
e2e = { under = "1s", p = 90 }
""",
    "ruined": """
concurrency = 32
[models.slo]
availability = 99.9
goodput = 95
ttft = { under = "200ms" }
tpot = { under = "100ms" }
e2e = { under = "1s" }
""",
    "long": """
concurrency = 32
timeouts = { total = "300s" }
""",
}
