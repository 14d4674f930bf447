"""Every query of every dashboard is answered by a real Prometheus that has watched a real run."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import pytest

from penstock.core.config_sources import load_config
from penstock.render.dashboards.all import PAGES
from penstock.render.dashboards.page import Page
from penstock.render.prometheus import prometheus
from penstock.store.home import Home
from penstock.store.runtime import Registration, Registry
from tests.e2e.processes import (
    Gateway,
    Server,
    Sim,
    free_port,
    ready_gateway,
    remote,
    sim_engine,
    stop,
    wait_until,
)
from tests.e2e.test_exporter import exporter

pytestmark = [
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="prometheus is missing: apt-get install prometheus"
    ),
    pytest.mark.timeout(300),
]

RATE_INTERVAL = "10s"
# Panels whose subject is not in this run.
SILENT = {
    "Parts",  # a gateway alone has no supervisor
    "Restarts",
    "Rows that wait for ClickHouse",
    "Rows that ClickHouse has taken",
    "Spans",
    "Engine's phases",  # the simulated engine does not tell them
    "Budget left, 30 days",  # is reckoned each five minutes
}
MODEL = """concurrency = 1
price = { completion_usd_per_million = 1 }
slo = { ttft = { p = 95, under = "500ms" }, tpot = { p = 95, under = "50ms" }, availability = 99.9 }
"""


@contextmanager
def prometheus_at(folder: Path, front: Gateway, beside: Server, model: str) -> Iterator[Server]:
    """A Prometheus with what `penstock render prometheus` makes, at short intervals."""
    port, log = free_port(), folder / "prometheus.log"
    toml = f"""
[gateway]
admin = "127.0.0.1:{front.admin_port}"
[monitoring]
prometheus = "127.0.0.1:{port}"
scrape_every = "1s"
[exporter]
listen = "127.0.0.1:{beside.port}"
{model}"""
    loaded = load_config(toml_text=toml, toml_name="", environ={}, dotenv_text=None, dotenv_name="")
    for name, text in prometheus(loaded.config).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    argv = [
        *(
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
        ),
        *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"),
    ]
    with log.open("w") as sink:
        process = subprocess.Popen(argv, stdout=sink, stderr=sink, text=True, cwd=folder)
    server = Server(process, port, log)
    try:
        wait_until(lambda: ready(server), "Prometheus to be ready")
        yield server
    finally:
        stop(process)


def ready(server: Server) -> bool:
    assert server.process.poll() is None, server.log.read_text()
    with suppress(OSError):
        return server.request("GET", "/-/ready").status == 200
    return False


class Traffic:
    """Clients that ask for what goes well, is refused, fails, and is tried again."""

    def __init__(self, front: Gateway, broken: Sim) -> None:
        self._front, self._broken = front, broken
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(6)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self, number: int) -> None:
        while not self._over.is_set():
            with suppress(OSError, http.client.HTTPException):
                if number == 0:
                    self._broken.script("status=500", 2)
                    self._front.ask("hello", "nobody")
                    self._front.request("GET", "/v1/models", headers={"Authorization": "Bearer wrong"})
                self._front.ask("Tell me.", "m", stream=True, max_tokens=20)
            self._over.wait(0.05)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Prometheus that has watched a gateway, two engines and an exporter under traffic for half a minute."""
    folder = tmp_path_factory.mktemp("watched")
    with ExitStack() as stack:
        one = stack.enter_context(sim_engine(folder, "--model", "m", "--max-num-seqs", "1"))
        two = stack.enter_context(sim_engine(folder, "--model", "m", "--max-num-seqs", "1"))
        model = remote("m", one, two, extra=MODEL)
        for name in ("front", "exporter"):
            (folder / name).mkdir()
        gpu = {
            "utilization_percent": 90,
            "processes": {one.process.pid: 2**30},
            "mig": [[40_000, 100], [40_000, 0]],
            "nvlinks": [1, 1],
            "fields": {
                "NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP": 10**9,
                "NVML_FI_DEV_MEMORY_TEMP": 60,
                "NVML_FI_DEV_PCIE_COUNT_CORRECTABLE_ERRORS": 3,
                "NVML_FI_DEV_RETIRED_SBE": 1,
            },
        }
        (folder / "gpus.json").write_text(json.dumps({"gpus": [gpu]}))
        home = Home(folder / "exporter" / "home")
        home.prepare()
        own = Registration("own-0", "m", "sim", one.url, one.process.pid, "", time.time())
        Registry(home.replicas).register(own)
        limits = '[[tenants]]\nname = "default"\nparallel_requests = 4\n'
        gateway = ready_gateway(folder / "front", f"[gateway]\nqueue_len_max = 2\n{model}{limits}")
        front = stack.enter_context(gateway)
        script = ("--fake-gpus", str(folder / "gpus.json"))
        beside = stack.enter_context(exporter(folder / "exporter", model, *script))
        prom = stack.enter_context(prometheus_at(folder, front, beside, model))
        with Traffic(front, two):
            time.sleep(20)  # of history
            yield prom


def answer(server: Server, query: str) -> list[object]:
    reply = server.request("GET", f"/api/v1/query?query={quote(query, safe='')}").json()
    assert reply["status"] == "success", (query, reply)
    found: list[object] = reply["data"]["result"]
    return found


def shown(server: Server, page: Page) -> Iterator[tuple[str, dict[str, list[object]]]]:
    """The title of each panel, and what each of its queries is answered with."""
    for panel in page.panels:
        if panel.source != "prometheus":
            continue
        asked = [
            query.text.replace("$model", ".*")
            .replace("$__rate_interval", RATE_INTERVAL)
            .replace("[5m]", "[10s]")
            for query in panel.queries
        ]
        yield panel.title, {text: answer(server, text) for text in asked}


def test_every_query_is_answered_with_data(watched: Server) -> None:
    silent = [
        f"{page.uid}: {title}: {list(found)}"
        for page in PAGES
        for title, found in shown(watched, page)
        if not any(found.values()) and title not in SILENT
    ]

    assert silent == [], "\n".join(silent)
