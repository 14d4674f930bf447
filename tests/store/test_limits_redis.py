"""Accounts in a real Redis: the same verdicts as in memory, for all gateways; and no wait when it is away."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from penstock.policy.budget import FREE, Balance, Cost, Left, Limits, Refused, Standing, Subject
from penstock.store import redis_link
from penstock.store.limits import LocalLimits, Reservation
from penstock.store.limits_redis import RedisLimits
from tests.policy.test_budget import LIMITS, STEPS
from tests.store.test_limits import FREE_SUBJECT, KEY, TENANT, Clock, granted, refused
from tests.tools import needs

WITHIN_S = 20.0
LEASE_FOREVER_S = 1e12


class Server:
    """A redis-server on a free port, which keeps nothing on disk."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.options = options
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Starts it, and returns once it accepts connections."""
        argv = [needs("redis-server", "redis-server"), "--port", str(self.port), "--bind", "127.0.0.1"]
        argv += ["--save", "", "--appendonly", "no", "--dir", str(self.folder), *self.options]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if "Ready to accept connections" in line:
                return
        raise AssertionError("redis-server ended")

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """Ends it without a chance to tidy up, also where it is stopped."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for tests that do it no harm."""
    server = Server(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server that the test may harm."""
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


class Gateway:
    """A store on Redis, and what it told of its state.

    The time limit is generous where a test is about something else: the machine is shared.
    """

    def __init__(
        self, url: str, clock: Clock | None = None, timeout_s: float = 5.0, **options: float
    ) -> None:
        self.states: list[tuple[bool, str]] = []
        self.clock = clock or Clock()
        self.local = LocalLimits(self.clock)
        self.store = RedisLimits(
            url,
            "test",
            self.clock,
            self.local,
            timeout_s,
            lambda up, why: self.states.append((up, why)),
            server_time=False,
            lease_s=options.get("lease_s", LEASE_FOREVER_S),
        )

    async def __aenter__(self) -> Gateway:
        await self.store.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.store.close()


async def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition."""
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.01)


async def flushed(url: str) -> None:
    """Empties the server."""
    async with Redis.from_url(url) as client:
        await client.flushall()


def scene_on(server: Server, scene: Callable[[], Awaitable[None]]) -> None:
    """Runs a scene on an empty server."""

    async def all_of_it() -> None:
        await flushed(server.url)
        await scene()

    asyncio.run(all_of_it())


def test_gateways_see_each_other_s_requests(shared_server: Server) -> None:
    async def scene() -> None:
        async with Gateway(shared_server.url) as one, Gateway(shared_server.url) as two:
            first = await granted(one.store, KEY, TENANT, cost=Cost(100, 0.25))
            second = await granted(two.store, KEY, TENANT, cost=Cost(100, 0.25))
            both = await one.store.usage((KEY, TENANT, FREE_SUBJECT))
            why = await refused(one.store, KEY)
            await two.store.settle(second, Cost(50, 0.125))
            await one.store.release(first)
            await two.store.standing((KEY,))
            ended = await one.store.usage((KEY, TENANT))

        assert both == (
            Balance("key:a", 2, 58, 800, 0.5, 0.0, 0.0),
            Balance("tenant:a", 2, None, None, 0.5, 0.0, 0.0),
            Balance("tenant:free", 0, None, None, 0.0, 0.0, 0.0),
        )
        assert why == "key:a parallel_requests"
        assert ended == (
            Balance("key:a", 0, 59, 950, 0.0, 0.125, 0.125),
            Balance("tenant:a", 0, None, None, 0.0, 0.125, 0.125),
        )

    scene_on(shared_server, scene)


def test_a_request_ends_once(shared_server: Server) -> None:
    async def scene() -> None:
        async with Gateway(shared_server.url) as gateway:
            reservation = await granted(gateway.store, KEY, TENANT, cost=Cost(100, 0.25))
            for _ in range(2):
                await gateway.store.settle(reservation, Cost(50, 0.125))
                await gateway.store.release(reservation)
            standing = await gateway.store.standing((KEY,))
            balances = await gateway.store.usage((TENANT,))

        assert standing == Standing(Left(60, 59, 1.0), Left(1000, 950, 3.0))
        assert balances[0].month_usd == 0.125

    scene_on(shared_server, scene)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(LIMITS, min_size=3, max_size=3), STEPS)
def test_redis_and_memory_decide_the_same(
    shared_server: Server, limits: list[Limits], steps: list[tuple[object, ...]]
) -> None:
    subjects = [Subject(f"s{at}", entry) for at, entry in enumerate(limits)]

    async def scene() -> None:
        async with Gateway(shared_server.url) as gateway:
            local = LocalLimits(gateway.clock)
            running: list[tuple[Reservation, Reservation]] = []
            for name, *args in steps:
                if name == "reserve":
                    who = tuple(subjects[at] for at in args[0])  # type: ignore[attr-defined]
                    there, here = await gateway.store.reserve(who, args[1]), await local.reserve(who, args[1])  # type: ignore[arg-type]
                    if isinstance(here, Refused) or isinstance(there, Refused):
                        assert there == here
                    else:
                        assert there.standing == here.standing
                        running.append((there, here))
                elif name in ("settle", "release") and running:
                    there, here = running.pop(args[0] % len(running))  # type: ignore[operator]
                    await getattr(gateway.store, str(name))(there, *args[1:])
                    await getattr(local, str(name))(here, *args[1:])
                elif name in ("ahead", "back"):
                    gateway.clock.now_s += args[0] * (50 if name == "ahead" else -2)  # type: ignore[operator]
            limited = [subject for subject in subjects if not subject.limits.unlimited]
            assert await gateway.store.usage(limited) == await local.usage(limited)
            assert gateway.states == []

    scene_on(shared_server, scene)


@pytest.mark.parametrize(
    "year_s", [*range(0, 450 * 31_557_600, 31_557_600 * 29 + 86_400 * 17), 951_000_000, 13_573_000_000]
)
def test_redis_and_memory_have_the_same_calendar(shared_server: Server, year_s: int) -> None:
    async def scene() -> None:
        clock = Clock()
        async with Gateway(shared_server.url, clock) as gateway:
            for at in range(40):
                clock.now_s = year_s + at * 86_400.0 * 7.3
                there = await gateway.store.reserve((TENANT,), Cost(0, 0.75))
                here = await gateway.local.reserve((TENANT,), Cost(0, 0.75))
                assert isinstance(there, Refused) == isinstance(here, Refused)
                if isinstance(there, Reservation) and isinstance(here, Reservation):
                    await gateway.store.settle(there, Cost(0, 0.75))
                    await gateway.local.settle(here, Cost(0, 0.75))
                else:
                    assert there == here

    scene_on(shared_server, scene)


MONEY = Subject("money", Limits(usd_per_day=1.0, usd_per_month=0.3))
RATES = Subject("rates", Limits(requests_per_minute=7, tokens_per_minute=77))
FAR_S = 2000 * 86_400.0
EDGES = {
    "a debt is forgotten after an hour": (
        RATES,
        [(0, Cost(7), Cost(10**9))] + [(s, Cost(70), FREE) for s in (3590, 8, 8)],
    ),
    "a wait is over when it was said to be": (RATES, [(0, FREE, FREE)] * 7 + [(60 / 7, FREE, FREE)] * 40),
    "tokens are whole": (RATES, [(0, Cost(77), Cost(77))] + [(0.5, Cost(1), Cost(1))] * 40),
    "ten times a tenth is one": (MONEY, [(0, Cost(0, 0.1), Cost(0, 0.1))] * 11),
    "a clock years ahead keeps the money": (
        MONEY,
        [
            (FAR_S, Cost(0, 0.25), Cost(0, 0.25)),
            (-FAR_S, Cost(0, 0.25), FREE),
            (20 * 86_400, Cost(0, 0.25), FREE),
        ],
    ),
    "a clock that steps back over midnight": (
        MONEY,
        [(s, Cost(0, 0.125), Cost(0, 0.125)) for s in (57_600 - 1, 2, -2, 2, -7200, 7200)],
    ),
    "a clock that steps back a little": (
        RATES,
        [(0, Cost(7), Cost(7))] * 7 + [(s, Cost(7), Cost(7)) for s in (-30, 30, -59, 59, 9)],
    ),
    "a clock that steps back far": (RATES, [(0, FREE, FREE)] * 7 + [(s, FREE, FREE) for s in (-3600, 9, 9)]),
    "absurd costs": (RATES, [(0, Cost(-5, -1.0), Cost(10**18, float("nan"))), (30, Cost(10**18), FREE)]),
}


@pytest.mark.parametrize("edge", EDGES)
def test_redis_and_memory_agree_at_the_edges(shared_server: Server, edge: str) -> None:
    subject, steps = EDGES[edge]

    async def scene() -> None:
        async with Gateway(shared_server.url) as gateway:
            for later_s, cost, actual in steps:
                gateway.clock.now_s += later_s
                there = await gateway.store.reserve((subject,), cost)
                here = await gateway.local.reserve((subject,), cost)
                if isinstance(there, Refused) or isinstance(here, Refused):
                    assert there == here
                else:
                    assert there.standing == here.standing
                    await gateway.store.settle(there, actual)
                    await gateway.local.settle(here, actual)
            assert await gateway.store.usage((subject,)) == await gateway.local.usage((subject,))

    scene_on(shared_server, scene)


def test_no_rounding_is_left_when_nothing_runs(shared_server: Server) -> None:
    async def scene() -> None:
        async with Gateway(shared_server.url) as gateway:
            held = [await granted(gateway.store, TENANT, cost=Cost(0, usd)) for usd in (0.1, 0.2, 0.3)]
            for reservation in held:
                await gateway.store.settle(reservation, FREE)

            assert (await gateway.store.usage((TENANT,)))[0].reserved_usd == 0.0

    scene_on(shared_server, scene)


def test_an_end_of_which_nobody_knows_whether_it_came_is_counted_once(shared_server: Server) -> None:
    async def scene() -> None:
        async with Gateway(shared_server.url) as gateway:
            store = gateway.store
            came, lost = [await granted(store, TENANT, cost=Cost(0, 0.25)) for _ in range(2)]
            ends = [store._end_command((TENANT,), it.lease, 0, 0, 0.125) for it in (came, lost)]
            store._link.post(ends[0])
            for end in ends * 2:
                assert end.in_doubt is not None
                store._link.post(end.in_doubt)
            balance = (await store.usage((TENANT,)))[0]

        assert (balance.parallel, balance.reserved_usd, balance.month_usd) == (0, 0.0, 0.25)

    scene_on(shared_server, scene)


def test_money_known_from_the_ledger_is_not_counted_twice(shared_server: Server) -> None:
    async def scene() -> None:
        async with Gateway(shared_server.url) as gateway:
            await gateway.store.seed_spend("tenant:a", 0.25, 0.5)
            await gateway.store.seed_spend("tenant:a", 0.125, 0.75)
            balance = (await gateway.store.usage((TENANT,)))[0]

        assert (balance.day_usd, balance.month_usd) == (0.25, 0.75)

    scene_on(shared_server, scene)


def test_concurrent_gateways_never_pass_a_limit_together(shared_server: Server) -> None:
    who = (Subject("k", Limits(requests_per_minute=100)), Subject("t", Limits(usd_per_day=10.0)))

    async def scene() -> None:
        async with Gateway(shared_server.url) as one, Gateway(shared_server.url) as two:
            verdicts = await asyncio.gather(
                *((one, two)[at % 2].store.reserve(who, Cost(0, 0.01)) for at in range(400))
            )

        assert sum(isinstance(verdict, Reservation) for verdict in verdicts) == 100

    scene_on(shared_server, scene)


def test_by_default_the_server_s_time_decides(shared_server: Server) -> None:
    who = (Subject("k", Limits(requests_per_minute=1)),)

    async def scene() -> None:
        clocks = Clock(), Clock()
        clocks[1].now_s += 3600
        stores = [RedisLimits(shared_server.url, "test", clock, LocalLimits(clock), 5.0) for clock in clocks]
        verdicts = [await store.reserve(who, FREE) for store in stores]
        for store in stores:
            await store.close()

        assert [isinstance(verdict, Refused) for verdict in verdicts] == [False, True]

    scene_on(shared_server, scene)


def test_leases_of_a_killed_gateway_run_out_and_a_living_one_renews_its_own(shared_server: Server) -> None:
    held = Subject("held", Limits(parallel_requests=2, usd_per_day=1.0))

    async def scene() -> None:
        clock = Clock()
        async with (
            Gateway(shared_server.url, clock, lease_s=60.0) as dead,
            Gateway(shared_server.url, clock, lease_s=60.0) as lives,
        ):
            await granted(dead.store, held, cost=Cost(0, 0.5))
            await granted(lives.store, held, cost=Cost(0, 0.25))
            clock.now_s += 40
            await lives.store.renew()
            before = (await lives.store.usage((held,)))[0]
            clock.now_s += 30
            after = (await lives.store.usage((held,)))[0]
            clock.now_s -= 3600
            stepped_back = (await lives.store.usage((held,)))[0]
            clock.now_s += 61
            ran_out = (await lives.store.usage((held,)))[0]

        found = [
            (balance.parallel, balance.reserved_usd) for balance in (before, after, stepped_back, ran_out)
        ]
        assert found == [(2, 0.75), (1, 0.25), (1, 0.25), (0, 0.0)]

    scene_on(shared_server, scene)


def test_leases_are_renewed_without_being_asked_to_and_put_back_where_redis_lost_them(
    shared_server: Server,
) -> None:
    async def scene() -> None:
        async with Gateway(shared_server.url, lease_s=0.3) as gateway:
            await granted(gateway.store, KEY, cost=Cost(0, 0.5))
            await flushed(shared_server.url)
            lost = (await gateway.store.usage((KEY,)))[0]
            async with asyncio.timeout(WITHIN_S):
                while (balance := (await gateway.store.usage((KEY,)))[0]).parallel == 0:
                    await asyncio.sleep(0.01)

        assert (lost.parallel, balance.parallel, balance.reserved_usd) == (0, 1, 0.5)

    scene_on(shared_server, scene)


def test_a_caller_that_is_cancelled_leaves_no_request_behind(shared_server: Server) -> None:
    async def scene() -> None:
        async with Gateway(shared_server.url) as gateway:
            asking = [asyncio.create_task(gateway.store.reserve((KEY,), Cost(10, 0.5))) for _ in range(2)]
            await asyncio.sleep(0)
            asking[0].cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            await gateway.store.standing((KEY,))
            balance = (await gateway.store.usage((KEY,)))[0]

        assert (balance.parallel, balance.requests_left, balance.reserved_usd) == (1, 59, 0.5)

    scene_on(shared_server, scene)


def test_keys_end_by_themselves_and_are_all_in_one_slot_of_a_cluster(shared_server: Server) -> None:
    async def scene() -> None:
        async with Gateway(shared_server.url, lease_s=60.0) as gateway:
            await granted(gateway.store, KEY, TENANT)
            await gateway.store.seed_spend("paid", 1.0, 1.0)
            await gateway.store.standing((KEY,))
            async with Redis.from_url(shared_server.url, decode_responses=True) as client:
                keys = await client.keys()
                ends_s = {key: await client.ttl(key) for key in keys}

        assert len(keys) == 6  # the probe's, too
        assert all(key.startswith("{test}:limits:") for key in keys)
        assert all(ends > 0 for ends in ends_s.values())
        assert ends_s["{test}:limits:leases:key:a"] <= 61
        assert ends_s["{test}:limits:account:paid"] > 86_400
        assert ends_s["{test}:limits:account:key:a"] <= 3660

    scene_on(shared_server, scene)


def test_it_runs_in_a_cluster(tmp_path: Path) -> None:
    server = Server(tmp_path, "--cluster-enabled", "yes")
    server.start()

    async def scene() -> None:
        async with Redis.from_url(server.url) as client:
            await client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            async with asyncio.timeout(WITHIN_S):
                while b"cluster_state:ok" not in (await client.execute_command("CLUSTER", "INFO")):
                    await asyncio.sleep(0.01)
        async with Gateway(server.url) as gateway:
            await granted(gateway.store, KEY, TENANT)
            balances = await gateway.store.usage((KEY, TENANT))

        assert gateway.states == []
        assert [balance.parallel for balance in balances] == [1, 1]

    try:
        asyncio.run(scene())
    finally:
        server.kill()


def test_a_request_without_limits_does_not_ask_redis(server: Server) -> None:
    async def scene() -> None:
        async with Gateway(server.url) as gateway:
            server.kill()
            reservation = await granted(gateway.store, FREE_SUBJECT, cost=Cost(5, 0.5))
            await gateway.store.settle(reservation, Cost(5, 0.25))

            assert gateway.states == []
            assert (await gateway.local.usage((FREE_SUBJECT,)))[0].day_usd == 0.25

    asyncio.run(scene())


def test_a_slow_redis_is_waited_for_once_and_asked_again_when_it_answers(server: Server) -> None:
    async def scene() -> None:
        async with Gateway(server.url, timeout_s=0.2) as gateway:
            store, loop = gateway.store, asyncio.get_running_loop()
            before = await granted(store, KEY, TENANT, cost=Cost(100, 0.25))
            server.signal(signal.SIGSTOP)
            began_s = loop.time()
            first = await granted(store, KEY, TENANT, cost=Cost(100, 0.25))
            first_s, began_s = loop.time() - began_s, loop.time()
            for _ in range(100):
                await store.settle(await granted(store, KEY), FREE)
                gateway.clock.now_s += 1
            others_s = loop.time() - began_s
            await store.settle(before, Cost(50, 0.125))
            await store.settle(first, Cost(50, 0.125))
            await until(lambda: not store.up)
            states = list(gateway.states)
            server.signal(signal.SIGCONT)
            await until(lambda: store.up)
            balances = await store.usage((KEY, TENANT))

        assert first_s < 10.0  # one time limit, on a machine that may be busy
        assert others_s < 10.0  # a hundred of them would take 20 s
        assert states == [(False, "no answer within 800 ms")]
        assert gateway.states == [*states, (True, "")]
        # What Redis ran in vain was undone, and what ended meanwhile was told to it.
        assert [balance.parallel for balance in balances] == [0, 0]
        assert [balance.reserved_usd for balance in balances] == [0.0, 0.0]
        assert balances[1].month_usd == 0.25

    asyncio.run(scene())


def test_whoever_stands_in_line_behind_a_slow_call_goes_on_with_it(server: Server) -> None:
    async def scene() -> None:
        async with Gateway(server.url, timeout_s=0.2) as gateway:
            server.signal(signal.SIGSTOP)
            first = asyncio.create_task(granted(gateway.store, TENANT))
            await asyncio.sleep(0.02)
            others = [asyncio.create_task(granted(gateway.store, TENANT)) for _ in range(5)]
            async with asyncio.timeout(WITHIN_S):
                reservations = await asyncio.gather(first, *others)
            server.signal(signal.SIGCONT)
            await until(lambda: gateway.store.up)
            for reservation in reservations:
                await gateway.store.settle(reservation, FREE)
            balance = (await gateway.store.usage((TENANT,)))[0]

        assert balance.parallel == 0

    asyncio.run(scene())


def test_an_answer_that_is_only_late_is_no_failure(server: Server) -> None:
    async def scene() -> None:
        async with Gateway(server.url, timeout_s=1.0) as gateway:
            server.signal(signal.SIGSTOP)
            reservations = [await granted(gateway.store, TENANT, cost=Cost(0, 0.25)) for _ in range(3)]
            here = (await gateway.local.usage((TENANT,)))[0]
            server.signal(signal.SIGCONT)
            async with asyncio.timeout(WITHIN_S):
                while gateway.store._link._is_late:
                    await asyncio.sleep(0.01)
            there = (await gateway.store.usage((TENANT,)))[0]
            for reservation in reservations:
                await gateway.store.settle(reservation, Cost(0, 0.125))
            after = (await gateway.store.usage((TENANT,)))[0]

        assert (here.parallel, there.parallel) == (3, 0)
        assert after.month_usd == 0.375
        assert gateway.states == []

    asyncio.run(scene())


def test_a_killed_redis_is_done_without_until_it_is_back_empty(server: Server) -> None:
    async def scene() -> None:
        async with Gateway(server.url) as gateway:
            store = gateway.store
            reservation = await granted(store, KEY, TENANT, cost=Cost(100, 0.25))
            server.kill()
            without = await granted(store, KEY, TENANT, cost=Cost(100, 0.5))
            await store.settle(reservation, Cost(50, 0.125))
            await store.settle(without, Cost(50, 0.25))
            states = list(gateway.states)
            balances = [await store.usage((TENANT,)), ()]
            server.start()
            await until(lambda: store.up)
            balances[1] = await store.usage((TENANT,))
            await store.settle(await granted(store, KEY, TENANT), Cost(10, 0.125))
            last = (await store.usage((TENANT,)))[0]

        assert [up for up, _ in states] == [False]
        assert [up for up, _ in gateway.states] == [False, True]
        assert "onnection" in states[0][1]
        assert [found[0].month_usd for found in balances] == [0.25, 0.375]
        assert (last.parallel, last.month_usd) == (0, 0.5)

    asyncio.run(scene())


def test_a_redis_that_restarts_is_asked_again(server: Server) -> None:
    async def scene() -> None:
        async with Gateway(server.url) as gateway:
            for _ in range(3):
                await granted(gateway.store, Subject("k", Limits(requests_per_minute=9)))
                server.kill()
                await until(lambda: not gateway.store.up) if not gateway.store.up else None
                await granted(gateway.store, Subject("k", Limits(requests_per_minute=9)))
                server.start()
                await until(lambda: gateway.store.up)

        assert [up for up, _ in gateway.states] == [False, True] * 3

    asyncio.run(scene())


def test_the_fallback_knows_what_redis_said_of_money(server: Server) -> None:
    async def scene() -> None:
        async with Gateway(server.url) as gateway:
            await gateway.store.seed_spend("tenant:a", 0.0, 0.25)
            async with Redis.from_url(server.url) as client:
                await client.hset("{test}:limits:account:tenant:a", "month", "0.75")
            await gateway.store.settle(await granted(gateway.store, TENANT), FREE)
            await gateway.store.standing((TENANT,))
            server.kill()

            assert await refused(gateway.store, TENANT, cost=Cost(0, 0.5)) == "tenant:a usd_per_month"
            assert not gateway.store.up

    asyncio.run(scene())


def test_a_wrong_password_is_told_and_serving_goes_on(tmp_path: Path) -> None:
    server = Server(tmp_path, "--requirepass", "right")
    server.start()

    async def scene() -> None:
        async with Gateway(server.url.replace("127", ":wrong@127")) as gateway:
            states = list(gateway.states)
            await granted(gateway.store, KEY)
        async with Gateway(server.url.replace("127", ":right@127")) as good:
            await granted(good.store, KEY)

        assert [up for up, _ in states] == [False]
        assert "AuthenticationError" in states[0][1]
        assert "wrong@" not in states[0][1]
        assert good.states == []

    try:
        asyncio.run(scene())
    finally:
        server.kill()


def test_a_redis_that_can_t_store_is_not_back(server: Server) -> None:
    async def scene() -> None:
        async with Gateway(server.url) as gateway, Redis.from_url(server.url) as client:
            await client.config_set("maxmemory", "1")
            await granted(gateway.store, KEY)
            await asyncio.sleep(3 * redis_link.RETRY_FIRST_S)
            states = list(gateway.states)
            await client.config_set("maxmemory", "0")
            await until(lambda: gateway.store.up)

        assert [up for up, _ in states] == [False]
        assert "OutOfMemory" in states[0][1]

    asyncio.run(scene())


def test_flushed_scripts_are_loaded_again(shared_server: Server) -> None:
    async def scene() -> None:
        async with Gateway(shared_server.url) as gateway, Redis.from_url(shared_server.url) as client:
            for _ in range(2):
                await client.script_flush()
                await granted(gateway.store, KEY)

            assert gateway.states == []
            assert (await gateway.store.usage((KEY,)))[0].parallel == 2

    scene_on(shared_server, scene)


def test_what_is_kept_for_redis_is_bounded_and_its_money_is_not_lost(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_link, "KEPT_MAX", 5)

    async def scene() -> None:
        async with Gateway(server.url) as gateway:
            store = gateway.store
            held = [await granted(store, TENANT) for _ in range(32)]
            server.kill()
            await granted(store, KEY)
            held += [await granted(store, TENANT) for _ in range(32)]
            for reservation in held:
                await store.settle(reservation, Cost(1, 2**-8))
            kept = len(store._link._line)
            server.start()
            await until(lambda: store.up)
            balance = (await store.usage((TENANT,)))[0]

        assert kept == 5
        assert balance.month_usd == 0.25

    asyncio.run(scene())
