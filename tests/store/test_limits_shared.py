"""Accounts of one machine: N processes keep one limit together, whoever of them is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.core.errors import PenstockError
from penstock.policy.budget import FREE, Balance, Cost, Limits, Refused, Subject
from penstock.store import limits_shared
from penstock.store.limits import Reservation
from penstock.store.limits_shared import SharedLimits
from tests.store.test_limits import FREE_SUBJECT, KEY, TENANT, Clock, granted, refused, run

WITHIN_S = 30.0

# A worker: on a line of input takes what it can until it is refused; prints how it goes, and the sum at its end.
WORKER = """
import asyncio, itertools, sys
from pathlib import Path
from penstock.policy.budget import FREE, Cost, Limits, Refused, Subject
from penstock.store.limits_shared import SharedLimits

async def main(path, worker, mode):
    store = SharedLimits(Path(path), worker, lambda: 1.8e9)
    subjects = (Subject("key", Limits(requests_per_minute=6000)), Subject("tenant", Limits(usd_per_day=100.0)))
    held = (Subject("held", Limits(parallel_requests=10)),)
    if mode == "hold":
        taken = [await store.reserve(held, Cost(0, 0.5)) for _ in range(3)]
        print("holds", flush=True)
    else:
        print("ready", flush=True)
    sys.stdin.readline()
    passed = 0
    for turn in itertools.count():
        reservation = await store.reserve(subjects, Cost(0, 0.002))
        if isinstance(reservation, Refused):
            break
        passed += 1
        await store.settle(reservation, Cost(0, 0.001))
        if turn == 20:
            print("begun", flush=True)
    print(passed, flush=True)

asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
"""


LOCKER = """
import fcntl, sys
file = open(sys.argv[1])
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


class Workers:
    """Worker processes on one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, worker: int, mode: str = "hammer") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(self.path), str(worker), mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def start_together(self, count: int) -> list[subprocess.Popen[str]]:
        """Workers that have begun to take, all of them after the last has opened the file."""
        processes = [self.start(worker) for worker in range(count)]
        assert {line(process) for process in processes} == {"ready"}
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        return processes

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    """Worker processes, which end with the test."""
    started = Workers(tmp_path / "limits")
    yield started
    started.stop()


def line(process: subprocess.Popen[str]) -> str:
    """The next line that a worker prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> None:
    """Ends a worker without a chance to tidy up."""
    process.send_signal(signal.SIGKILL)
    process.wait(WITHIN_S)


def opened(path: Path, worker: int = 0, clock: Clock | None = None) -> SharedLimits:
    """The store of one worker."""
    return SharedLimits(path, worker, clock or Clock())


def test_four_processes_keep_one_limit_together(workers: Workers) -> None:
    processes = workers.start_together(4)

    passed = [int(process.communicate(timeout=WITHIN_S)[0].split()[-1]) for process in processes]

    assert sum(passed) == 6000


def test_a_worker_that_is_killed_amid_it_neither_blocks_the_others_nor_passes_the_limit(
    workers: Workers,
) -> None:
    processes = workers.start_together(4)
    assert line(processes[0]) == "begun"
    kill(processes[0])

    passed = [int(process.communicate(timeout=WITHIN_S)[0].split()[-1]) for process in processes[1:]]

    async def scene() -> tuple[Balance, ...]:
        return await opened(workers.path, 4).usage((Subject("key", Limits(6000)), Subject("tenant")))

    assert 0 < sum(passed) < 6000
    assert run(scene())[0].requests_left == 0


def test_what_a_killed_worker_left_is_cleared_when_its_slot_starts_again(workers: Workers) -> None:
    held = Subject("held", Limits(parallel_requests=10, usd_per_day=3.0))
    dead, lives = workers.start(1, "hold"), workers.start(2, "hold")
    assert (line(dead), line(lives)) == ("holds", "holds")

    async def scene() -> list[tuple[int, float]]:
        seen = []
        first = opened(workers.path, 0)
        await granted(first, held)
        seen.append((await first.usage((held,)))[0])
        kill(dead)
        again = opened(workers.path, 1)
        seen.append((await again.usage((held,)))[0])
        kill(lives)
        await first.clear_worker(2)
        seen.append((await first.usage((held,)))[0])
        return [(balance.parallel, balance.reserved_usd) for balance in seen]

    assert run(scene()) == [(7, 3.0), (4, 1.5), (1, 0.0)]


def test_every_dead_worker_is_cleared_by_the_next_to_start(workers: Workers) -> None:
    held = Subject("held", Limits(parallel_requests=10))
    dead = [workers.start(worker, "hold") for worker in (1, 5, 63)]
    assert [line(process) for process in dead] == ["holds"] * 3
    for process in dead:
        kill(process)

    async def scene() -> int:
        return (await opened(workers.path, 0).usage((held,)))[0].parallel

    assert run(scene()) == 0


def test_a_lock_whose_holder_was_stopped_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "limits"

    async def scene() -> list[bool]:
        store = opened(path)
        with subprocess.Popen(
            [sys.executable, "-c", LOCKER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert line(process) == "locked"
            async with asyncio.timeout(
                5
            ):  # half a second for the first; without a limit it would be for ever
                passed = [isinstance(await store.reserve((KEY,), FREE), Reservation) for _ in range(3)]
            process.kill()
        await store.clear_worker(0)
        return [*passed, isinstance(await store.reserve((KEY,), FREE), Reservation)]

    assert run(scene()) == [True, True, False, True]


def test_a_request_that_is_cancelled_while_it_waits_for_the_lock_has_ended(tmp_path: Path) -> None:
    async def scene() -> Balance:
        store = opened(tmp_path / "limits")
        reservation = await granted(store, KEY, cost=Cost(100))
        with subprocess.Popen(
            [sys.executable, "-c", LOCKER, str(tmp_path / "limits")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert line(process) == "locked"
            ending = asyncio.create_task(store.settle(reservation, FREE))
            await asyncio.sleep(0.01)
            ending.cancel()
            await asyncio.wait((ending,))
            process.kill()
        assert ending.cancelled()
        return (await store.usage((KEY,)))[0]

    assert run(scene()) == Balance("key:a", 0, 59, 1000, 0.0, 0.0, 0.0)


def test_money_and_rates_survive_a_restart_and_what_ran_does_not(tmp_path: Path) -> None:
    async def scene() -> tuple[Balance, ...]:
        before = opened(tmp_path / "limits")
        await before.seed_spend("tenant:a", 0.25, 0.5)
        await before.settle(await granted(before, KEY, TENANT, cost=Cost(400, 0.5)), Cost(300, 0.25))
        await granted(before, KEY, TENANT, cost=Cost(100, 0.125))
        await before.close()
        return await opened(tmp_path / "limits").usage((KEY, TENANT))

    assert run(scene()) == (
        Balance("key:a", 0, 58, 600, 0.0, 0.25, 0.25),
        Balance("tenant:a", 0, None, None, 0.0, 0.5, 0.75),
    )


def test_a_released_or_refused_request_leaves_no_trace(tmp_path: Path) -> None:
    async def scene() -> tuple[str, tuple[Balance, ...]]:
        store = opened(tmp_path / "limits")
        reservation = await granted(store, KEY, TENANT, cost=Cost(400, 0.25))
        await store.release(reservation)
        await store.release(reservation)
        await store.settle(reservation, Cost(400, 0.25))
        why = await refused(store, KEY, TENANT, cost=Cost(400, 1.5))
        return why, await store.usage((KEY, TENANT))

    assert run(scene()) == (
        "tenant:a usd_per_month",
        (Balance("key:a", 0, 60, 1000, 0.0, 0.0, 0.0), Balance("tenant:a", 0, None, None, 0.0, 0.0, 0.0)),
    )


def test_workers_see_each_other_s_requests(tmp_path: Path) -> None:
    async def scene() -> tuple[str, Balance]:
        one, two = opened(tmp_path / "limits", 0), opened(tmp_path / "limits", 1)
        first = await granted(one, KEY, cost=Cost(100))
        second = await granted(two, KEY, cost=Cost(100))
        why = await refused(one, KEY)
        await two.settle(second, FREE)
        await one.settle(first, FREE)
        return why, (await two.usage((KEY,)))[0]

    assert run(scene()) == ("key:a parallel_requests", Balance("key:a", 0, 58, 1000, 0.0, 0.0, 0.0))


def test_a_request_without_limits_does_not_touch_the_file(tmp_path: Path) -> None:
    async def scene() -> tuple[bytes, Balance]:
        store = opened(tmp_path / "limits")
        await granted(store, FREE_SUBJECT, cost=Cost(5, 0.5))
        await store.settle(await granted(store, FREE_SUBJECT, cost=Cost(5, 0.5)), Cost(5, 0.25))
        return (tmp_path / "limits").read_bytes()[64:], (await store.usage((FREE_SUBJECT,)))[0]

    records, balance = run(scene())

    assert not any(records)
    assert balance == Balance("tenant:free", 1, None, None, 0.5, 0.25, 0.25)


@pytest.mark.parametrize("what", ["empty", "short", "garbage", "version", "slots", "workers"])
def test_a_file_that_is_not_ours_is_replaced(tmp_path: Path, what: str) -> None:
    path = tmp_path / "limits"
    run(granted(opened(path), KEY))
    good = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "short": good[:-1],
            "garbage": os.urandom(len(good)),
            "version": good[:8] + struct.pack("=I", 99) + good[12:],
            "slots": good[:16] + struct.pack("=I", 99) + good[20:],
            "workers": good[:20] + struct.pack("=I", 99) + good[24:],
        }[what]
    )

    balance = run(opened(path).usage((KEY,)))[0]

    assert (balance.requests_left, balance.parallel) == (60, 0)
    assert path.stat().st_size == len(good)
    assert [entry.name for entry in tmp_path.iterdir()] == ["limits"]


def test_a_record_of_garbage_counts_as_fresh(tmp_path: Path) -> None:
    async def scene() -> tuple[Balance, ...]:
        path = tmp_path / "limits"
        store = opened(path)
        await granted(store, KEY, TENANT)
        content = path.read_bytes()
        torn = bytearray(content)
        for at in range(64, len(content), limits_shared._RECORD_BYTES):
            if any(content[at : at + 16]):
                torn[at + 16 : at + limits_shared._RECORD_BYTES] = b"\xff" * (
                    limits_shared._RECORD_BYTES - 16
                )
        with path.open("r+b") as file:
            file.write(torn)
        await granted(store, KEY, TENANT)
        return await store.usage((KEY, TENANT))

    assert [(balance.parallel, balance.month_usd) for balance in run(scene())] == [(1, 0.0), (1, 0.0)]


@pytest.mark.parametrize("every_s", [400, 1])
def test_a_full_file_forgets_what_is_idle_and_keeps_what_runs_or_has_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_s: int
) -> None:
    slots = 64
    size = limits_shared._HEADER_BYTES + slots * limits_shared._RECORD_BYTES
    offsets = range(limits_shared._HEADER_BYTES, size, limits_shared._RECORD_BYTES)
    for name, value in {
        "SLOTS": slots,
        "PROBES_MAX": 16,
        "_FILE_BYTES": size,
        "_FORMAT": (*limits_shared._FORMAT[:3], slots),
        "_OFFSETS": offsets,
    }.items():
        monkeypatch.setattr(limits_shared, name, value)

    async def scene() -> tuple[list[int], float]:
        clock = Clock()
        store = opened(tmp_path / "limits", 0, clock)
        running = Subject("runs", KEY.limits)
        await granted(store, running)
        await store.seed_spend("paid", 1.0, 1.0)
        for number in range(300):
            clock.now_s += every_s
            await store.settle(await granted(store, Subject(f"key:{number}", KEY.limits)), FREE)
        await granted(store, running)
        balances = await store.usage(
            (running, Subject("key:299", KEY.limits), Subject("paid", TENANT.limits))
        )
        return [balance.parallel for balance in balances], balances[2].month_usd

    assert run(scene()) == ([2, 0, 0], 1.0)


def test_a_request_that_ends_after_its_worker_was_cleared_counts_no_less_than_none(tmp_path: Path) -> None:
    async def scene() -> int:
        store = opened(tmp_path / "limits")
        reservation = await granted(store, KEY)
        await store.clear_worker(0)
        await store.settle(reservation, FREE)
        await granted(store, KEY)
        return (await store.usage((KEY,)))[0].parallel

    assert run(scene()) == 1


def test_an_absurd_cost_is_counted_as_one_in_range(tmp_path: Path) -> None:
    async def scene() -> list[float]:
        store = opened(tmp_path / "limits")
        limits = Limits(parallel_requests=9)
        await granted(store, Subject("a", limits), cost=Cost(1, -5.0))
        await granted(store, Subject("a", limits), cost=Cost(1, 2.0))
        await granted(store, Subject("b", limits), cost=Cost(1, float("inf")))
        balances = await store.usage((Subject("a", limits), Subject("b", limits)))
        return [balance.reserved_usd for balance in balances]

    assert run(scene()) == [2.0, 1e6]


def test_two_workers_with_one_number_are_told_apart(tmp_path: Path) -> None:
    store = opened(tmp_path / "limits", 3)

    with pytest.raises(PenstockError, match="worker 3 runs already"):
        opened(tmp_path / "limits", 3)

    run(store.close())
    run(opened(tmp_path / "limits", 3).close())


def test_a_number_out_of_range_and_a_place_that_can_t_be_written_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="worker: expected 0 to 63, not 64"):
        opened(tmp_path / "limits", 64)
    with pytest.raises(PenstockError, match="No such file or directory") as caught:
        opened(tmp_path / "missing" / "limits")
    assert caught.value.code == "limits_unavailable"
    with pytest.raises(PenstockError, match="Is a directory"):
        opened(tmp_path)


def test_a_subject_waits_no_longer_than_its_bucket_takes(tmp_path: Path) -> None:
    async def scene() -> list[bool]:
        clock = Clock()
        store = opened(tmp_path / "limits", 0, clock)
        passed = []
        for step_s in (0, 0, -30, 30, 59, 1):
            clock.now_s += step_s
            verdict = await store.reserve((Subject("k", Limits(requests_per_minute=1)),), FREE)
            passed.append(not isinstance(verdict, Refused))
        return passed

    assert run(scene()) == [True, False, False, False, False, True]
