"""Answers by idempotency key: the same for a file and for a real Redis; and what only one of them can meet."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from penstock.store.answers import (
    ANSWER_BYTES_MAX,
    Answer,
    AnswersError,
    AnswerStore,
    Claim,
    Claimed,
    Known,
    LaterAnswers,
    Mismatch,
    Running,
    Stored,
    packed,
    unpacked,
)
from penstock.store.answers_local import LocalAnswers
from penstock.store.answers_redis import RedisAnswers
from tests.store.test_limits_redis import Server

WITHIN_S = 20.0
HELLO = Answer(200, ((b"content-type", b"application/json"),), b'{"id":"1","text":"hello"}')
PRINT, OTHER_PRINT = b"\x00" * 32, b"\xff" * 32

Make = Callable[..., AnswerStore]


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
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


@pytest.fixture(params=["file", "later", "redis"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Makes a store; all of one test share what they keep, as gateways do."""
    count = iter(range(100))

    def make_file(**options: float) -> AnswerStore:
        return LocalAnswers(tmp_path / "answers.sqlite", time.time, **options)  # type: ignore[arg-type]

    def make_later(**options: float) -> AnswerStore:
        return LaterAnswers(lambda: make_file(**options))

    def make_redis(**options: float) -> AnswerStore:
        return on_redis(shared, tmp_path / f"{next(count)}.sqlite", tmp_path.name, None, **options)

    if request.param != "redis":
        return make_file if request.param == "file" else make_later
    shared: Server = request.getfixturevalue("redis_server")
    return make_redis


def on_redis(
    server: Server,
    path: Path,
    prefix: str = "test",
    states: list[tuple[bool, str]] | None = None,
    **options: float,
) -> RedisAnswers:
    told = [] if states is None else states
    return RedisAnswers(
        server.url,
        prefix,
        LocalAnswers(path, time.time),
        timeout_s=5.0,
        on_state=lambda up, why: told.append((up, why)),
        **options,  # type: ignore[arg-type]
    )


def run(work: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(WITHIN_S):
            await work

    asyncio.run(bounded())


def claimed(found: Claimed | Known) -> Claim:
    assert isinstance(found, Claimed)
    return found.claim


async def until(found: Callable[[], Awaitable[object]]) -> None:
    """Waits until `found` finds something."""
    while not await found():
        await asyncio.sleep(0.005)


async def until_claimed(store: AnswerStore, key: bytes = b"k") -> Claim:
    while True:
        found = await store.claim("t", key, PRINT)
        if isinstance(found, Claimed):
            return found.claim
        await asyncio.sleep(0.005)


async def keep(store: AnswerStore, key: bytes, answer: Answer | None = HELLO) -> None:
    await store.complete(claimed(await store.claim("t", key, PRINT)), answer)


async def close(*stores: AnswerStore) -> None:
    for store in stores:
        await store.close()


# -- every store ---------------------------------------------------------------------------------------


def test_a_key_is_claimed_by_one_alone(make: Make) -> None:
    async def scene() -> None:
        stores = [make(), make()]

        found = await asyncio.gather(*(store.claim("t", b"k", PRINT) for store in stores * 10))

        assert sum(isinstance(one, Claimed) for one in found) == 1
        assert found.count(Running()) == 19
        await close(*stores)

    run(scene())


def test_an_answer_is_found_by_every_store_as_it_was_given(make: Make) -> None:
    async def scene() -> None:
        here, there = make(), make()
        body = bytes(range(256)) * 1000
        answer = Answer(400, ((b"content-type", b"x/y"), (b"x-a", b"\xe9")), body)

        await keep(here, b"k", answer)

        assert await there.claim("t", b"k", PRINT) == Stored(answer)
        assert await here.claim("t", b"k", PRINT) == Stored(answer)
        await close(here, there)

    run(scene())


def test_an_answer_that_was_too_large_is_remembered_as_such(make: Make) -> None:
    async def scene() -> None:
        store = make()

        await keep(store, b"k", None)

        assert await store.claim("t", b"k", PRINT) == Stored(None)
        await close(store)

    run(scene())


def test_a_key_belongs_to_one_request_while_it_runs_and_after_it(make: Make) -> None:
    async def scene() -> None:
        store = make()
        claim = claimed(await store.claim("t", b"k", PRINT))

        assert await store.claim("t", b"k", OTHER_PRINT) == Mismatch()
        await store.complete(claim, HELLO)
        assert await store.claim("t", b"k", OTHER_PRINT) == Mismatch()
        await close(store)

    run(scene())


def test_tenants_do_not_see_each_others_keys(make: Make) -> None:
    async def scene() -> None:
        store = make()
        await keep(store, b"k")

        other = await store.claim("u", b"k", OTHER_PRINT)

        assert isinstance(other, Claimed)
        await close(store)

    run(scene())


def test_a_released_key_is_free_for_any_request(make: Make) -> None:
    async def scene() -> None:
        store = make()
        claim = claimed(await store.claim("t", b"k", PRINT))

        await store.release(claim)

        claimed(await store.claim("t", b"k", OTHER_PRINT))
        await close(store)

    run(scene())


def test_a_claim_that_is_not_renewed_runs_out(make: Make) -> None:
    async def scene() -> None:
        here, there = make(lease_s=0.05), make(lease_s=60.0)
        lost = claimed(await here.claim("t", b"k", PRINT))

        taken = await until_claimed(there)
        await here.complete(lost, HELLO)
        await here.release(lost)

        assert await there.claim("t", b"k", PRINT) == Running()
        await there.complete(taken, HELLO)
        assert await here.claim("t", b"k", PRINT) == Stored(HELLO)
        await close(here, there)

    run(scene())


def test_a_claim_that_is_renewed_lasts(make: Make) -> None:
    async def scene() -> None:
        short, long = make(lease_s=0.6), make(lease_s=60.0)
        renewed = claimed(await short.claim("t", b"k", PRINT))
        forgotten = claimed(await short.claim("t", b"other", PRINT))

        await long.renew([renewed])
        await until_claimed(long, b"other")

        assert forgotten != renewed
        assert await short.claim("t", b"k", PRINT) == Running()
        await close(short, long)

    run(scene())


def test_an_answer_expires(make: Make) -> None:
    async def scene() -> None:
        store = make(ttl_s=0.05)
        await keep(store, b"k")

        await until_claimed(store)
        await close(store)

    run(scene())


def test_beyond_the_number_of_entries_the_oldest_go(make: Make) -> None:
    async def scene() -> None:
        store = make(entries_max=3)
        for number in range(6):
            await keep(store, b"%d" % number)

        for number in (3, 4, 5):
            assert await store.claim("t", b"%d" % number, PRINT) == Stored(HELLO)
        claimed(await store.claim("t", b"2", PRINT))
        await close(store)

    run(scene())


def test_beyond_the_bytes_the_oldest_go(make: Make) -> None:
    async def scene() -> None:
        size = len(packed(HELLO))
        store = make(bytes_max=3 * size)
        for number in range(6):
            await keep(store, b"%d" % number)

        for number in (3, 4, 5):
            assert await store.claim("t", b"%d" % number, PRINT) == Stored(HELLO)
        claimed(await store.claim("t", b"2", PRINT))
        await close(store)

    run(scene())


def test_an_entry_that_was_made_anew_is_not_taken_for_the_old_one(make: Make) -> None:
    async def scene() -> None:
        short, store = make(ttl_s=0.05, entries_max=3), make(entries_max=3)
        await keep(store, b"before")
        await keep(short, b"k")
        await store.complete(await until_claimed(store), HELLO)  # the old one has expired

        await keep(store, b"other")

        assert await store.claim("t", b"k", PRINT) == Stored(HELLO)
        assert await store.claim("t", b"other", PRINT) == Stored(HELLO)
        await close(short, store)

    run(scene())


def test_an_answer_larger_than_all_the_room_is_too_large(make: Make) -> None:
    async def scene() -> None:
        store = make(bytes_max=len(packed(HELLO)) - 1)

        await keep(store, b"k")

        assert await store.claim("t", b"k", PRINT) == Stored(None)
        await close(store)

    run(scene())


def test_the_largest_answer_comes_back(make: Make) -> None:
    async def scene() -> None:
        store = make()
        answer = Answer(200, ((b"x-long", b"x" * 32_000),), b"0123456789abcdef" * (ANSWER_BYTES_MAX // 16))

        await keep(store, b"k", answer)

        assert await store.claim("t", b"k", PRINT) == Stored(answer)
        await close(store)

    run(scene())


@pytest.mark.parametrize("cut", [0, 1, 20, -1])
def test_what_is_no_stored_answer_is_none(cut: int) -> None:
    assert unpacked(packed(HELLO)[:cut]) is None
    assert unpacked(packed(Answer(200, (), b" " * (ANSWER_BYTES_MAX + 100_000)))) is None


# -- the file ------------------------------------------------------------------------------------------

_CHILD = """
import asyncio, sys, time
from pathlib import Path
from penstock.store.answers_local import LocalAnswers
async def main():
    store = LocalAnswers(Path(sys.argv[1]), time.time)
    print(await store.claim("t", b"k", bytes(32)), flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def test_a_claim_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    child = subprocess.Popen([sys.executable, "-c", _CHILD, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline().startswith("Claimed")

    async def scene() -> None:
        store = LocalAnswers(path, time.time)

        assert await store.claim("t", b"k", PRINT) == Running()
        child.kill()
        child.wait()
        claimed(await store.claim("t", b"k", PRINT))

        assert len(list((tmp_path / "answers.sqlite.owners").iterdir())) == 1  # what it left was cleared away
        await store.close()

    try:
        run(scene())
    finally:
        child.kill()
        child.communicate()


def test_answers_are_there_after_a_restart_and_claims_are_not(tmp_path: Path) -> None:
    async def scene() -> None:
        before = LocalAnswers(tmp_path / "a", time.time)
        await keep(before, b"k")
        claimed(await before.claim("t", b"ran", PRINT))
        await before.close()

        after = LocalAnswers(tmp_path / "a", time.time)

        assert await after.claim("t", b"k", PRINT) == Stored(HELLO)
        claimed(await after.claim("t", b"ran", PRINT))
        await after.close()

    run(scene())


def test_nobody_else_may_read_the_file(tmp_path: Path) -> None:
    async def scene() -> None:
        store = LocalAnswers(tmp_path / "a", time.time)
        await keep(store, b"k")

        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}

        assert modes == {"a": 0o600, "a-wal": 0o600, "a-shm": 0o600, "a.owners": 0o700}
        await store.close()

    run(scene())


def spoil(path: Path, how: str) -> None:
    if how == "version":
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA user_version = 99")
        db.close()
    else:
        path.write_bytes(b"garbage, and no file of SQLite" * 1000)


@pytest.mark.parametrize("how", ["garbage", "version"])
def test_a_damaged_file_is_moved_aside_and_begun_anew(tmp_path: Path, how: str) -> None:
    async def scene() -> None:
        path = tmp_path / "a"
        problems: list[str] = []
        before = LocalAnswers(path, time.time)
        await keep(before, b"k")
        await before.close()
        spoil(path, how)

        store = LocalAnswers(path, time.time, on_problem=problems.append)
        await keep(store, b"k")

        assert await store.claim("t", b"k", PRINT) == Stored(HELLO)
        assert (tmp_path / "a.damaged").exists()
        (problem,) = problems
        assert "a.damaged" in problem
        await store.close()

    run(scene())


def test_a_file_that_is_damaged_under_way_is_begun_anew_once_for_all(tmp_path: Path) -> None:
    async def scene() -> None:
        path = tmp_path / "a"
        problems: list[str] = []
        stores = [LocalAnswers(path, time.time, on_problem=problems.append) for _ in range(2)]
        for number in range(200):  # enough for pages that are not in a cache
            await keep(stores[0], b"%d" % number, Answer(200, (), bytes([number]) * 100 + b"x" * number))
        claimed(await stores[1].claim("t", b"mine", PRINT))
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.close()
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.seek(100)
            file.write(b"\xee" * (size - 100))

        for store in stores:
            await until(lambda store=store: tried(store))  # type: ignore[misc]

        assert len(problems) == 1
        assert await stores[0].claim("t", b"new", PRINT) == Running()
        await close(*stores)

    async def tried(store: LocalAnswers) -> bool:
        await store.claim("t", b"new", PRINT)
        return (tmp_path / "a.damaged").exists()

    run(scene())


def test_a_file_that_somebody_removed_is_made_anew(tmp_path: Path) -> None:
    async def scene() -> None:
        store = LocalAnswers(tmp_path / "a", time.time)
        await keep(store, b"k")
        for path in tmp_path.glob("a*"):
            if path.is_file():
                path.unlink()

        await keep(store, b"k")

        assert await store.claim("t", b"k", PRINT) == Stored(HELLO)
        await store.close()

    run(scene())


def test_a_place_that_cannot_be_written_is_an_error_each_time(tmp_path: Path) -> None:
    async def scene() -> None:
        (tmp_path / "file").write_text("")
        store = LocalAnswers(tmp_path / "file" / "a", time.time)

        for _ in range(2):
            with pytest.raises(AnswersError, match="file/a"):
                await store.claim("t", b"k", PRINT)
        await store.close()

    run(scene())


def test_claims_of_the_dead_do_not_fill_the_file(tmp_path: Path) -> None:
    async def scene() -> None:
        now = [1000.0]
        store = LocalAnswers(tmp_path / "a", lambda: now[0], entries_max=5)
        for number in range(50):
            claimed(await store.claim("t", b"dead-%d" % number, PRINT))
        now[0] += 100.0

        for number in range(3):
            await keep(store, b"%d" % number)

        for number in range(3):
            assert await store.claim("t", b"%d" % number, PRINT) == Stored(HELLO)
        await store.close()

    run(scene())


# -- Redis away ----------------------------------------------------------------------------------------


def test_without_redis_the_file_is_used_and_that_is_told(server: Server, tmp_path: Path) -> None:
    async def scene() -> None:
        states: list[tuple[bool, str]] = []
        store = on_redis(server, tmp_path / "a", "test", states)
        await store.start()
        await keep(store, b"before")
        server.kill()

        await keep(store, b"k")

        assert await store.claim("t", b"k", PRINT) == Stored(HELLO)
        assert [up for up, _ in states] == [False]
        assert states[0][1]
        await store.close()

    run(scene())


def test_what_was_kept_without_redis_is_found_when_it_is_back(server: Server, tmp_path: Path) -> None:
    async def scene() -> None:
        states: list[tuple[bool, str]] = []
        server.kill()
        store = on_redis(server, tmp_path / "a", "test", states)
        await store.start()
        await keep(store, b"k")
        runs = claimed(await store.claim("t", b"runs", PRINT))

        server.start()
        await until(lambda: told(states, count=2))

        assert states[-1] == (True, "")
        assert await store.claim("t", b"k", PRINT) == Stored(HELLO)
        assert await store.claim("t", b"runs", PRINT) == Running()
        await store.complete(runs, HELLO)
        assert await store.claim("t", b"runs", PRINT) == Stored(HELLO)
        await store.close()

    run(scene())


async def told(states: list[tuple[bool, str]], count: int) -> bool:
    return len(states) >= count


def test_a_key_that_runs_is_guarded_on_its_machine_when_redis_goes(server: Server, tmp_path: Path) -> None:
    async def scene() -> None:
        here, neighbour = on_redis(server, tmp_path / "a"), on_redis(server, tmp_path / "a")
        claim = claimed(await here.claim("t", b"k", PRINT))
        server.kill()

        await here.claim("t", b"other", PRINT)  # which finds out
        await here.renew([claim])
        await here.renew([claim])

        assert await neighbour.claim("t", b"k", PRINT) == Running()
        await here.complete(claim, HELLO)
        assert await neighbour.claim("t", b"k", PRINT) == Stored(HELLO)
        await close(here, neighbour)

    run(scene())


def test_a_claim_that_was_guarded_is_released_everywhere(server: Server, tmp_path: Path) -> None:
    async def scene() -> None:
        states: list[tuple[bool, str]] = []
        store = on_redis(server, tmp_path / "a", "test", states)
        claim = claimed(await store.claim("t", b"k", PRINT))
        server.kill()
        await store.claim("t", b"other", PRINT)
        await store.renew([claim])

        await store.release(claim)

        claimed(await store.claim("t", b"k", PRINT))
        await store.close()

    run(scene())


def test_a_redis_that_hangs_costs_one_wait(server: Server, tmp_path: Path) -> None:
    async def scene() -> None:
        states: list[tuple[bool, str]] = []
        store = RedisAnswers(
            server.url,
            "test",
            LocalAnswers(tmp_path / "a", time.time),
            timeout_s=0.05,
            on_state=lambda up, why: states.append((up, why)),
        )
        await store.start()
        server.signal(signal.SIGSTOP)

        found = await store.claim("t", b"k", PRINT)
        again = await store.claim("t", b"k", PRINT)

        assert isinstance(found, Claimed)
        assert again == Running()
        await until(lambda: told(states, count=1))
        assert "no answer within" in states[0][1]
        server.signal(signal.SIGCONT)
        await store.close()

    run(scene())


def test_an_answer_that_redis_took_late_is_found_by_other_machines(server: Server, tmp_path: Path) -> None:
    async def scene() -> None:
        here = RedisAnswers(server.url, "test", LocalAnswers(tmp_path / "a", time.time), timeout_s=0.5)
        there = on_redis(server, tmp_path / "b")
        claim = claimed(await here.claim("t", b"k", PRINT))
        server.signal(signal.SIGSTOP)
        await here.claim("t", b"other", PRINT)  # waits in vain
        await here.complete(claim, HELLO)
        server.signal(signal.SIGCONT)
        await until(lambda: is_stored(there))

        assert await here.claim("t", b"k", PRINT) == Stored(HELLO)
        await close(here, there)

    async def is_stored(store: RedisAnswers) -> bool:
        return await store.claim("t", b"k", PRINT) == Stored(HELLO)

    run(scene())


def test_a_damaged_answer_in_redis_is_forgotten(redis_server: Server, tmp_path: Path) -> None:
    async def scene() -> None:
        store = on_redis(redis_server, tmp_path / "a", "damaged")
        await keep(store, b"k")
        client = Redis.from_url(redis_server.url)
        async for name in client.scan_iter("{damaged}:answers:*"):
            if await client.type(name) == b"hash":
                await client.hset(name, "a", "garbage")

        claimed(await store.claim("t", b"k", PRINT))
        await client.aclose()
        await store.close()

    run(scene())


def test_nothing_is_left_in_redis_for_ever(redis_server: Server, tmp_path: Path) -> None:
    async def scene() -> None:
        store = on_redis(redis_server, tmp_path / "a", "bounded")
        await keep(store, b"k")
        await keep(store, b"large", None)
        claimed(await store.claim("t", b"runs", PRINT))
        client = Redis.from_url(redis_server.url)

        names = [name async for name in client.scan_iter("{bounded}:*")]
        lives = [await client.ttl(name) for name in names]

        assert len(names) >= 5
        assert min(lives) > 0
        await client.aclose()
        await store.close()

    run(scene())


def test_a_gateway_does_without_sqlite_until_a_key_comes() -> None:
    code = "import penstock.assembly.gateway, sys; print(*sys.modules)"

    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert "penstock.store.answers" in modules.split()
    assert "sqlite3" not in modules.split()


def test_a_store_that_nobody_asked_is_closed_without_being_made() -> None:
    def never() -> AnswerStore:
        raise AssertionError

    run(LaterAnswers(never).close())
