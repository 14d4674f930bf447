"""Permits are as they are set, or as an engine teaches; and an engine that can't be asked changes nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from tests.e2e.processes import Sim, sim_engine

from penstock.core.config import Address, ModelConfig
from penstock.core.errors import DeadlineError, OverloadError, PenstockError, Phase
from penstock.engines.catalog import SPECS
from penstock.engines.client import ConnectRefusedError, EngineClient, Reply
from penstock.engines.exchange import Headers, PhaseTimeouts
from penstock.engines.llamacpp_server import SLOTS
from penstock.gateway.permits import (
    ASK_AFTER_FAILURE_S,
    ASK_EVERY_S,
    ASK_WITHOUT_METRICS_S,
    ASKED_AT_ONCE_MAX,
    Permits,
    known_permits,
)
from penstock.policy.fleet import Fleet, Replica, State
from penstock.policy.permits import PERMITS_FIRST, PERMITS_MAX, PERMITS_UNKNOWN

Play = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture
def play() -> Play:
    def run(scene: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(30.0):
                await scene

        asyncio.run(bounded())

    return run


def replica(name: str, state: State = State.READY, *, model: str = "m", port: int = 1) -> Replica:
    return Replica(name, model, "remote", Address("127.0.0.1", port), "secret", state=state)


def metrics(running: int, waiting: int, usage: float = 0.5) -> Reply:
    body = (
        f"vllm:num_requests_running {running}\n"
        f"vllm:num_requests_waiting {waiting}\nvllm:kv_cache_usage_perc {usage}\n"
    )
    return Reply(200, [], body.encode())


def counting(running: int, waiting: int, steps: int) -> Reply:
    """A page of an engine that counts its steps."""
    page = metrics(running, waiting)
    return Reply(200, [], b"%bvllm:iteration_tokens_total_count %d\n" % (page.body, steps))


class Client:
    """Answers /metrics with what a test has put there."""

    def __init__(self) -> None:
        self.answer: Reply | BaseException = metrics(1, 0)
        self.asked: list[str] = []
        self.headers: Headers = []
        self.at_once = 0
        self.at_once_most = 0

    async def fetch(
        self, address: Address, method: bytes, target: bytes, *, headers: Headers, timeout_s: float
    ) -> Reply:
        assert (method, target) == (b"GET", b"/metrics")
        assert 0 < timeout_s <= ASK_EVERY_S
        self.asked.append(str(address))
        self.headers = headers
        self.at_once += 1
        self.at_once_most = max(self.at_once, self.at_once_most)
        await asyncio.sleep(0)
        self.at_once -= 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def fake_client() -> Any:
    return Client()


class Scene:
    """Permits with a client, a fleet and a clock that the test sets."""

    def __init__(self, *replicas: Replica, workers: int = 1) -> None:
        self.client = fake_client()
        self.fleet = Fleet(replicas)
        self.in_flight: dict[str, int] = {}
        self.known: dict[str, int] = {}
        self.now_s = 1000.0
        self.bugs: list[BaseException] = []
        self.permits = Permits(
            lambda: self.fleet,
            self.in_flight,
            self.client,
            self.known.get,
            lambda replica: SPECS[replica.engine],
            lambda: self.now_s,
            lambda _, error: self.bugs.append(error),
            workers=workers,
        )

    async def ask(self, times: int = 1) -> int:
        """Asks so often, as time goes by; returns the permits of `a`."""
        for _ in range(times):
            await self.permits.ask()
            self.now_s += ASK_EVERY_S
        return self.permits.concurrency("a")


def test_what_is_set_or_known_is_not_asked_for(play: Play) -> None:
    async def scene() -> None:
        it = Scene(replica("a"), replica("b", model="other"))
        it.known["m"] = 5
        assert it.permits.concurrency("a") == PERMITS_UNKNOWN

        assert await it.ask() == 5

        assert len(it.client.asked) == 1  # b
        it.known["m"] = 6
        assert await it.ask() == 6

    play(scene())


def test_workers_divide_what_is_known_and_not_what_each_has_learned_for_itself(play: Play) -> None:
    async def scene() -> None:
        it = Scene(replica("a"), replica("b", model="other"), workers=3)
        it.known["m"] = 8
        assert it.permits.concurrency("b") == 86

        assert await it.ask() == 3

        assert it.permits.concurrency("b") == PERMITS_FIRST

    play(scene())


def test_a_replica_begins_with_what_is_enough_to_learn_from_and_is_told_the_key(play: Play) -> None:
    async def scene() -> None:
        it = Scene(replica("a"))

        assert await it.ask() == PERMITS_FIRST

        assert it.client.headers == [(b"authorization", b"Bearer secret")]

    play(scene())


def test_permits_follow_the_engine(play: Play) -> None:
    async def scene() -> None:
        it = Scene(replica("a"))
        it.in_flight["a"] = 64
        it.client.answer = metrics(64, 0)
        assert await it.ask() > PERMITS_FIRST

        it.client.answer = metrics(8, 56)

        assert 9 <= await it.ask(20) <= 10

    play(scene())


def test_an_engine_that_stands_still_teaches_nothing(play: Play) -> None:
    async def scene() -> None:
        it = Scene(replica("a"))
        it.in_flight["a"] = 1000
        moving = [counting(64, 0, step) for step in range(4)]
        for it.client.answer in moving:
            before = await it.ask()

        assert await it.ask(20) == before  # by the page it could take more
        it.client.answer = counting(64, 0, 5)
        assert await it.ask() > before

    play(scene())


def test_an_engine_at_which_this_gateway_holds_nothing_is_left_alone(play: Play) -> None:
    async def scene() -> None:
        it = Scene(replica("a"), replica("b", State.LOADING), replica("c", State.DRAINING))

        await it.ask(10)

        assert len(it.client.asked) == 1  # to learn that a has metrics
        it.in_flight["a"] = 1
        await it.ask(10)
        assert len(it.client.asked) == 11

    play(scene())


@pytest.mark.parametrize(
    ("answer", "pause_s"),
    [
        (Reply(404, [], b"vllm:num_requests_running 1\nvllm:num_requests_waiting 9"), ASK_WITHOUT_METRICS_S),
        (Reply(200, [], b"<html>"), ASK_WITHOUT_METRICS_S),
        (ConnectRefusedError("nobody there"), ASK_AFTER_FAILURE_S),
        (DeadlineError("slow", phase=Phase.TOTAL), ASK_AFTER_FAILURE_S),
        (OverloadError("connections"), ASK_AFTER_FAILURE_S),
    ],
)
def test_an_engine_that_tells_nothing_keeps_its_permits_and_is_asked_less_often(
    play: Play, answer: Reply | PenstockError, pause_s: float
) -> None:
    async def scene() -> None:
        for begins_well in (False, True):
            it = Scene(replica("a"))
            it.in_flight["a"] = 64
            before = await it.ask() if begins_well else PERMITS_UNKNOWN
            it.client.asked.clear()
            it.client.answer = answer

            assert await it.ask() == before
            assert await it.ask(int(pause_s / ASK_EVERY_S) - 1) == before
            assert len(it.client.asked) == 1
            it.client.answer = metrics(64, 0)
            await it.ask()

            assert len(it.client.asked) == 2
            assert it.permits.concurrency("a") in range(PERMITS_FIRST, PERMITS_UNKNOWN)

    play(scene())


def test_what_was_learned_of_a_replica_goes_with_it(play: Play) -> None:
    async def scene() -> None:
        it = Scene(replica("a"), replica("b"))
        it.known["m"] = 5
        await it.ask()
        it.known.clear()
        await it.ask()

        it.fleet = Fleet((replica("b"),))
        await it.ask()

        assert it.permits.by_name.keys() == it.permits._lessons.keys() == {"b"}

    play(scene())


def test_a_replica_that_goes_while_it_is_asked_leaves_nothing(play: Play) -> None:
    async def scene() -> None:
        it = Scene(replica("a"))
        asking = asyncio.create_task(it.permits.ask())
        while not it.client.asked:
            await asyncio.sleep(0)

        it.fleet = Fleet()
        await asking

        assert not it.permits.by_name
        assert not it.permits._lessons

    play(scene())


def test_not_all_are_asked_at_once(play: Play) -> None:
    async def scene() -> None:
        it = Scene(*[replica(f"m-{number}") for number in range(64)])

        await it.ask()

        assert len(it.client.asked) == 64
        assert it.client.at_once_most == ASKED_AT_ONCE_MAX

    play(scene())


def test_a_bug_is_told_and_asking_goes_on(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        monkeypatch.setattr("penstock.gateway.permits.ASK_EVERY_S", 0.0)
        it = Scene(replica("a"))
        it.client.answer = ZeroDivisionError()
        running = asyncio.create_task(it.permits.run())
        while len(it.bugs) < 2:
            await asyncio.sleep(0)

        it.client.answer = metrics(1, 0)
        while it.permits.concurrency("a") != PERMITS_FIRST:
            await asyncio.sleep(0)

        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    play(scene())


@pytest.mark.parametrize(
    ("engine", "args", "permits"),
    [
        ("llamacpp", {}, SLOTS),
        ("llamacpp", {"n_parallel": 3}, 3),
        ("vllm", {"max_num_seqs": 32}, 32),
        ("vllm", {"max_num_seqs": 100_000}, PERMITS_MAX),
        ("vllm", {"max_num_seqs": "many"}, None),
        ("vllm", {}, None),
        ("sim", {"max_num_seqs": 4}, 4),
        ("sim", {"max_num_seqs": 0}, None),
        ("remote", {}, None),
    ],
)
def test_an_engines_options_tell_its_permits(engine: Any, args: dict[str, Any], permits: int | None) -> None:
    sources = {"llamacpp": "demo", "vllm": "org/model", "remote": "http://127.0.0.1:1"}

    model = ModelConfig(name="m", engine=engine, source=sources.get(engine, ""), engine_args=args)

    assert known_permits(model) == permits


# -- a real engine ---------------------------------------------------------------------------------------

BATCH = 4
CALLERS = 24


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    options = ("--model", "m", "--max-num-seqs", str(BATCH), "--base-step-s", "0.002")
    with sim_engine(tmp_path_factory.mktemp("engine"), *options, key="secret") as server:
        yield server


def busy(client: EngineClient, it: Scene, address: Address) -> AbstractAsyncContextManager[None]:
    """Many callers who take a permit each, as far as there are any, and ask again as soon as they are answered."""
    body = json.dumps({"model": "m", "prompt": "x", "max_tokens": 30}).encode()
    timeouts = PhaseTimeouts(connect_s=30.0, first_byte_s=None, stall_s=None, total_s=30.0)
    headers = [(b"authorization", b"Bearer secret"), (b"content-type", b"application/json")]

    async def caller() -> None:
        while True:
            if it.in_flight.get("a", 0) >= it.permits.concurrency("a"):
                await asyncio.sleep(0.002)
                continue
            it.in_flight["a"] = it.in_flight.get("a", 0) + 1
            try:
                exchange = await client.open(address, b"POST", b"/v1/completions", headers, body, timeouts)
                await exchange.read(100_000)
            finally:
                it.in_flight["a"] -= 1

    @asynccontextmanager
    async def calling() -> Any:
        tasks = [asyncio.create_task(caller()) for _ in range(CALLERS)]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    return calling()


def test_a_real_engines_queue_moves_into_the_gateway(play: Play, engine: Sim) -> None:
    async def scene() -> None:
        it = Scene(replica("a", port=engine.port))
        client = EngineClient()
        it.permits = Permits(
            lambda: it.fleet,
            it.in_flight,
            client,
            it.known.get,
            lambda replica: SPECS[replica.engine],
            lambda: it.now_s,
            lambda *_: None,
        )
        async with busy(client, it, it.fleet.replicas[0].address):
            while it.permits.concurrency("a") > BATCH + 3:
                await it.ask()
                await asyncio.sleep(0.01)
            late = [await it.ask() for _ in range(10)]
        client.close()

        assert min(late) >= BATCH
        assert max(late) <= BATCH + 4

    play(scene())


def test_a_real_engine_shows_its_metrics_to_everybody(play: Play, engine: Sim) -> None:
    async def scene() -> None:
        it = Scene(Replica("a", "m", "remote", Address("127.0.0.1", engine.port), "wrong", State.READY))
        client = EngineClient()
        it.permits = Permits(
            lambda: it.fleet,
            it.in_flight,
            client,
            it.known.get,
            lambda replica: SPECS[replica.engine],
            lambda: it.now_s,
            lambda *_: None,
        )

        assert await it.ask() == PERMITS_FIRST
        client.close()

    play(scene())
