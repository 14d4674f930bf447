"""A second gateway, under `penstock up`, with what is optional: own engines, Redis, ClickHouse, a collector."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.clickhouse import ClickHouseServer, clickhouse
from tests.e2e.processes import Gateway, penstock_up, wait_until
from tests.otlp import Collector, http_collector
from tests.store.test_limits_redis import Server as Redis


@dataclass
class Site:
    """All of it; its one model is `c`."""

    gateway: Gateway
    redis: Redis
    clickhouse: ClickHouseServer
    collector: Collector

    def engine_pid(self, replica: str) -> int:
        """The process of a replica; 0 where none is registered."""
        for path in (self.gateway.home / "run" / "replicas").glob("*.json"):
            with suppress(OSError, ValueError):
                told = json.loads(path.read_text())
                if told["name"] == replica:
                    return int(told["pid"])
        return 0


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    """Runs it until it is left."""
    folder.mkdir()
    with ExitStack() as over:
        redis = Redis(folder)
        redis.start()
        over.callback(redis.kill)
        rows = over.enter_context(clickhouse(folder))
        collector = over.enter_context(http_collector())
        toml = _TOML.format(redis=redis.url, clickhouse=rows.url, collector=collector.url)
        front = over.enter_context(penstock_up(folder, toml))
        wait_until(lambda: front.request("GET", "/ready").status == 200, "the site to be ready")
        done = front.penstock("clickhouse", "migrate")
        assert done.returncode == 0, done.stderr
        yield Site(front, redis, rows, collector)


_TOML = """
[shared]
redis = "{redis}"
timeout = "250ms"

[clickhouse]
url = "{clickhouse}"

[traces]
endpoint = "{collector}"
sample = 1

[[models]]
name = "c"
engine = "sim"
replicas = 2
"""
