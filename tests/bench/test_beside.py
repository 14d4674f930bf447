"""Pages of metrics are read beside a load from real servers; one that can't be read is noted, and fails nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TypeVar

import pytest

from penstock.bench.beside.energy import Price
from penstock.bench.beside.pages import REASONS_MAX, Beside, Readings, Source, SourceError, SourceKind
from penstock.engines.client import FETCH_BYTES_MAX, EngineClient
from tests.e2e.processes import ready_gateway, remote, sim_engine

OFTEN_S = 0.01
PATIENCE_S = 20.0
Answer = Callable[[int], bytes | None]


def reply(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


def vllm(running: float = 1, hits: float = 0, tokens: float = 0) -> bytes:
    return reply(
        b"vllm:num_requests_running %g\nvllm:num_requests_waiting 2\nvllm:kv_cache_usage_perc 0.5\n"
        b"vllm:prefix_cache_queries_total %f\nvllm:prefix_cache_hits_total %f\nvllm:generation_tokens_total %f\n"
        % (running, hits * 2, hits, tokens)
    )


class Page:
    """A server whose n-th answer `answer(n)` makes; None closes the connection, and an empty one is no answer."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._count = count()
        self.asked = 0
        self.heads: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                answer = self._answer(next(self._count))
                self.asked += 1
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def page(answer: Answer) -> AsyncIterator[tuple[Page, str]]:
    server = Page(answer)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    try:
        yield server, f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


T = TypeVar("T")


def run(work: Callable[[EngineClient], Awaitable[T]]) -> T:
    """What `work` returns; the client's connections are closed, and what served them has ended."""

    async def bounded() -> T:
        async with asyncio.timeout(PATIENCE_S):
            client = EngineClient()
            try:
                return await work(client)
            finally:
                client.close()
                await until(lambda: len(asyncio.all_tasks()) == 1)

    return asyncio.run(bounded())


def read(answer: Answer, times: int = 4, every_s: float = OFTEN_S) -> Readings:
    """What is read of a page that has been asked so often."""

    async def work(client: EngineClient) -> Readings:
        async with page(answer) as (server, url):
            beside = Beside([Source(url)], client, every_s=every_s)
            await beside.start()
            await until(lambda: server.asked >= times)
            return await beside.stop(0.0)

    return run(work)


def test_levels_and_growth_are_read_until_the_load_has_ended() -> None:
    readings = read(lambda n: vllm(running=n, hits=100 + 10 * n, tokens=1000 + n))

    assert [value for _, value in readings.series["running"]][:4] == [0.0, 1.0, 2.0, 3.0]
    assert readings.increases["generation_tokens"] == len(readings.series["running"]) - 1
    assert readings.prefix_hits == 10.0 * (len(readings.series["running"]) - 1)
    assert readings.prefix_queries == 2 * readings.prefix_hits
    assert readings.notes == []


def test_times_are_seconds_since_the_start_of_the_load() -> None:
    clock = count(1000)

    async def work(client: EngineClient) -> Readings:
        async with page(lambda n: vllm()) as (_, url):
            beside = Beside([Source(url)], client, every_s=60.0, now_s=lambda: float(next(clock)))
            await beside.start()
            return await beside.stop(1000.0)

    readings = run(work)

    assert readings.series["running"][0][0] == 0.5  # asked at 0, answered at 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (reply(b"<html>not here</html>"), "says nothing that is known of an engine"),
        (reply(b"", b"404 Not Found"), "answered 404"),
        (b"garbage\r\n\r\n", "not HTTP/1.1"),
        (reply(b"x" * (FETCH_BYTES_MAX + 1)), "larger than"),
        (None, "closed the connection"),
    ],
    ids=["html", "404", "garbage", "huge", "closed"],
)
def test_a_page_that_cannot_be_read_is_noted_and_fails_nothing(answer: bytes | None, said: str) -> None:
    readings = read(lambda n: answer, times=2)

    assert said in readings.notes[0]
    assert readings.series == {}
    assert readings.prefix_hits is None


def test_a_page_that_is_silent_is_given_up_and_the_others_are_read_on() -> None:
    async def work(client: EngineClient) -> Readings:
        async with page(lambda n: b"") as (silent, one), page(lambda n: vllm(running=n)) as (other, two):
            sources = [Source(one), Source(two)]
            beside = Beside(sources, client, every_s=OFTEN_S, read_timeout_s=0.05, edge_timeout_s=0.05)
            await beside.start()
            await until(lambda: silent.asked > 2 and other.asked > 9)
            return await beside.stop(0.0)

    readings = run(work)

    assert any("no answer within 0.05 s" in note for note in readings.notes)
    assert any("left out" in note for note in readings.notes)
    assert len(readings.series["running"]) > 9


def test_an_engine_that_comes_late_and_one_that_goes_are_read_while_they_are_there() -> None:
    readings = read(lambda n: None if n in (0, 1, 4) else vllm(running=n), times=6)

    assert [value for _, value in readings.series["running"]][:2] == [2.0, 3.0]
    assert "closed the connection" in readings.notes[0]


def test_an_engine_that_was_started_anew_is_noted() -> None:
    readings = read(lambda n: vllm(tokens=100 if n < 2 else n))

    assert any("generation_tokens went back" in note for note in readings.notes)


def test_reasons_from_outside_stay_bounded() -> None:
    readings = read(lambda n: reply(b"", b"%d X" % (400 + n)), times=60, every_s=0.001)

    assert len(readings.notes) <= REASONS_MAX + 1
    assert any("other reasons" in note for note in readings.notes)


def test_gpus_of_an_exporter_cost_what_their_power_says() -> None:
    price = Price(per_gpu_hour=2.0)
    gpu = reply(
        b'DCGM_FI_DEV_GPU_TEMP{gpu="0"} 60\nDCGM_FI_DEV_GPU_TEMP{gpu="1"} 61\n'
        b'DCGM_FI_DEV_POWER_USAGE{gpu="0"} 300\nDCGM_FI_DEV_POWER_USAGE{gpu="1"} 100\n'
    )

    async def work(client: EngineClient) -> Readings:
        async with page(lambda n: gpu) as (server, url):
            beside = Beside([Source(url, SourceKind.GPU)], client, every_s=OFTEN_S)
            await beside.start()
            await until(lambda: server.asked > 3)
            return await beside.stop(0.0)

    spent = run(work).gpu_cost(10.0, 1_000_000, price)

    assert spent is not None
    assert spent.gpus == 2
    assert spent.energy_j == pytest.approx(4000.0)
    assert spent.gpu_money_per_million_tokens == pytest.approx(2 * 2.0 * 10 / 3600)
    assert Readings([], {}, {}, []).gpu_cost(10.0, 1, price) is None


def test_no_pages_are_nothing_to_read() -> None:
    async def work(client: EngineClient) -> Readings:
        beside = Beside([], client)
        await beside.start()
        return await beside.stop(0.0)

    assert run(work) == Readings([], {}, {}, [])


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1/metrics", "127.0.0.1:8000", "http://[::1", "http://a:99999"]
)
def test_an_address_that_cannot_be_asked_is_an_error_that_names_it(url: str) -> None:
    with pytest.raises(SourceError) as caught:
        _ = Source(url).address

    assert url in caught.value.message


@pytest.mark.parametrize(
    ("url", "target"),
    [("http://a", b"/metrics"), ("http://a:1/", b"/metrics"), ("http://a/x/m?y=1", b"/x/m?y=1")],
)
def test_the_usual_path_is_taken_where_none_is_named(url: str, target: bytes) -> None:
    assert Source(url).target == target


def test_a_simulated_engine_and_a_gateway_are_read_beside_requests(tmp_path: Path) -> None:
    with (
        sim_engine(tmp_path, "--model", "m") as engine,
        ready_gateway(tmp_path, remote("m", engine)) as front,
    ):
        sources = [
            Source(engine.url),
            Source(f"http://127.0.0.1:{front.admin_port}", SourceKind.GATEWAY),
        ]

        async def work(client: EngineClient) -> tuple[Readings, dict[str, float]]:
            beside = Beside(sources, client, every_s=0.05)
            await beside.start()
            for _ in range(2):
                asked = await asyncio.to_thread(front.ask, "a question " * 40, "m", max_tokens=16)
                assert asked.status == 200
            await until(lambda: beside.now.get("generation_tokens") == 32.0)
            return await beside.stop(0.0), beside.now

        readings, now = run(work)

    assert readings.notes == [], readings.notes
    assert readings.increases["generation_tokens"] == 32.0
    assert readings.prefix_hits is not None
    assert readings.prefix_hits > 0  # the second question is the first one again
    assert now["gateway_in_progress"] == 0.0
    assert readings.increase("generation_tokens", 0.0, float("inf")) == 32.0
