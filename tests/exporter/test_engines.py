"""Engines' pages are read from real servers, in one vocabulary; one that can't be read harms no other."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from tests.bench.test_beside import Answer, page, reply, run, vllm
from tests.e2e.processes import sim_engine

from penstock.core.address import Address
from penstock.engines.catalog import SPECS
from penstock.engines.client import FETCH_BYTES_MAX, EngineClient
from penstock.engines.spec import EngineSpec
from penstock.exporter.engines import METRICS, OF_FIGURE, Engines, Failure, Page, Target, engine_families
from penstock.telemetry.families import Families
from penstock.wire.engine_figures import ENGINE
from penstock.wire.exposition import LoadNames

LABELS = ("m-0", "m", "remote")


def target(url: str, key: str = "", spec: EngineSpec = SPECS["remote"]) -> Target:
    return Target("m-0", "m", spec, Address.parse(url.removeprefix("http://")), key)


def read(answer: Answer, timeout_s: float = 1.0) -> Page:
    async def work(client: EngineClient) -> Page:
        async with page(answer) as (_, url):
            engines = Engines(lambda: [target(url)], client, timeout_s)
            await engines.read()
            return engines.pages[0]

    return run(work)


def test_every_figure_has_a_metric() -> None:
    assert {figure.name for figure in ENGINE} <= set(OF_FIGURE)
    assert all(metric.labels == ("replica", "model", "engine") for metric in METRICS)


def test_a_page_becomes_the_common_vocabulary() -> None:
    families = Families()

    engine_families(families, [read(lambda _: vllm(running=3, hits=50, tokens=900))])

    found = {family.name: dict(samples) for family, samples in families}
    assert found["llm_up"] == {LABELS: 1}
    assert found["llm_requests_running"] == {LABELS: 3}
    assert found["llm_requests_waiting"] == {LABELS: 2}
    assert found["llm_kv_cache_usage_ratio"] == {LABELS: 0.5}
    assert found["llm_prefix_cache_query_tokens_total"] == {LABELS: 100}
    assert found["llm_prefix_cache_hit_tokens_total"] == {LABELS: 50}
    assert found["llm_generation_tokens_total"] == {LABELS: 900}


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (reply(b"<html>not here</html>"), Failure.UNKNOWN),
        (reply(b"\xff\x00" * 1000), Failure.UNKNOWN),
        (reply(b"", b"404 Not Found"), Failure.STATUS),
        (b"garbage\r\n\r\n", Failure.UNREADABLE),
        (reply(b"x" * (FETCH_BYTES_MAX + 1)), Failure.UNREADABLE),
        (None, Failure.UNREADABLE),
    ],
    ids=["html", "bytes", "404", "garbage", "huge", "closed"],
)
def test_a_page_that_can_not_be_read_says_why(answer: bytes | None, failure: Failure) -> None:
    found = read(lambda _: answer)

    assert (found.failure, found.values) == (failure, {})
    assert found.detail


def test_one_that_is_silent_or_gone_does_not_hold_up_the_others() -> None:
    async def work(client: EngineClient) -> list[Failure | None]:
        async with page(lambda _: b"") as (_, silent), page(lambda _: vllm()) as (_, well):
            with_port = "http://127.0.0.1:1"
            engines = Engines(lambda: [target(silent), target(with_port), target(well)], client, 0.1)
            async with asyncio.timeout(10):
                await engines.read()
            return [each.failure for each in engines.pages]

    assert run(work) == [Failure.TIMEOUT, Failure.UNREACHABLE, None]


def test_an_engine_whose_owner_has_names_of_their_own_is_read_by_them() -> None:
    body = b"trt_running 4\ntrt_waiting 1\ntrt_kv 0.25\ntrt_steps 99\nvllm:num_requests_running 77\n"
    names = LoadNames((b"trt_running",), (b"trt_waiting",), (b"trt_kv",))
    spec = replace(SPECS["remote"], metrics_path="/prom", load=names, steps=(b"trt_steps",))

    async def work(client: EngineClient) -> tuple[Page, bytes]:
        async with page(lambda _: reply(body)) as (server, url):
            engines = Engines(lambda: [target(url, spec=spec)], client)
            await engines.read()
            return engines.pages[0], server.heads[0]

    found, head = run(work)

    assert found.values == {"running": 4.0, "waiting": 1.0, "kv_usage": 0.25, "steps": 99.0}
    assert head.startswith(b"GET /prom ")


def test_an_engine_is_asked_with_its_key_which_is_told_to_nobody() -> None:
    async def work(client: EngineClient) -> bytes:
        async with page(lambda _: vllm()) as (server, url):
            asked = target(url, "sk-secret")
            assert "sk-secret" not in repr(asked)
            await Engines(lambda: [asked], client).read()
            return server.heads[0]

    assert b"authorization: Bearer sk-secret" in run(work)


def test_a_simulated_engine_is_read(tmp_path: Path) -> None:
    with sim_engine(tmp_path, "--model", "m") as engine:

        async def work(client: EngineClient) -> Page:
            engines = Engines(lambda: [target(engine.url)], client)
            await engines.read()
            return engines.pages[0]

        found = run(work)

    assert found.failure is None
    assert set(found.values) >= {"running", "waiting", "kv_usage", "generation_tokens", "preemptions"}
