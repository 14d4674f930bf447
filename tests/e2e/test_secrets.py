"""Keys and prompts reach no log and no file of the home, however loud the log is and whatever goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import KEY, Gateway, Sim, ready_gateway, remote, sim_engine, wait_until
from tests.otlp import Collector, http_collector

PROMPT = "the-words-that-nobody-may-keep"
ENGINE_KEY, ADMIN_KEY, COLLECTOR_KEY = "key-of-the-engine", "key-of-the-admin", "key-of-the-collector"
FOREIGN_KEY = "sk-that-is-not-known-here"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with http_collector() as server:
        yield server


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with sim_engine(tmp_path_factory.mktemp("engine"), "--model", "m", key=ENGINE_KEY) as engine:
        yield engine


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory, sim: Sim, collector: Collector) -> Iterator[Gateway]:
    toml = (
        remote("m", sim, extra=f'api_key = "{ENGINE_KEY}"')
        + f'[traces]\nendpoint = "{collector.url}"\nsample = 1\nheaders = {{ x-api-key = "{COLLECTOR_KEY}" }}\n'
    )
    env = {"PENSTOCK_LOG__LEVEL": "debug", "PENSTOCK_GATEWAY__ADMIN_KEY": ADMIN_KEY}
    with ready_gateway(tmp_path_factory.mktemp("front"), toml, **env) as server:
        yield server


def written(front: Gateway, home: Path) -> bytes:
    """All that it has written but its configuration and the kept answers, which say so themselves."""
    files = [path for path in home.rglob("*") if path.is_file() and not path.name.startswith("answers")]
    return b"".join(path.read_bytes() for path in [front.log, *files])


def test_nothing_secret_is_written(front: Gateway, sim: Sim, collector: Collector) -> None:
    front.ask(PROMPT, "m")
    front.ask(PROMPT, "m", stream=True)
    front.ask(PROMPT, PROMPT)
    front.ask(PROMPT, "m", temperature="hot")
    sim.script("status=500")
    front.ask(PROMPT, "m")
    sim.script("reset_after_tokens=2")
    front.ask(PROMPT, "m", stream=True)
    front.request("POST", "/v1/chat/completions", PROMPT.encode(), {"Content-Type": "application/json"})
    front.request("POST", f"/v1/completions?key={FOREIGN_KEY}&prompt={PROMPT}", {"model": "m"})
    front.request("GET", "/v1/models", headers={"Authorization": f"Bearer {FOREIGN_KEY}"})
    front.admin("/admin/overview", key=FOREIGN_KEY)
    reply = front.ask(PROMPT, "m")
    front.record(reply.headers["x-request-id"])
    wait_until(lambda: len(collector.spans) > 10, "spans")
    front.stop()

    text = written(front, front.home) + b"".join(span.SerializeToString() for span in collector.spans)
    for secret in (KEY, ENGINE_KEY, ADMIN_KEY, COLLECTOR_KEY, FOREIGN_KEY):
        assert secret.encode() not in text, secret
    found = [line for line in text.split(b"\n") if PROMPT.encode() in line]
    assert not found, found
