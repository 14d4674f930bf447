"""Load generator processes: what they measure together, how they are stopped, and what is left when one fails."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil
import pytest

from penstock.bench.load.endpoint import Endpoint, EndpointError
from penstock.bench.load.plan_file import AHEAD_REQUESTS
from penstock.bench.load.processes import Generated, GeneratorError, Progress, Timeouts, generate
from penstock.bench.load.spool import read_spool
from penstock.bench.plan import PlannedRequest
from penstock.bench.sample import Cause
from tests.bench.test_spool import room_for
from tests.bench.under_load import CHUNKED, answering, chunk, endpoint_of, planned, run, said
from tests.engines.fake_engine import FakeEngine, Peer, Script

Beside = Callable[[asyncio.Event, list[Progress]], Any]


def load(
    spool: Path, script: Script, plan: Iterable[PlannedRequest], beside: Beside | None = None, **more: Any
) -> tuple[Generated, list[Progress]]:
    async def whole() -> tuple[Generated, list[Progress]]:
        told: list[Progress] = []
        stop = asyncio.Event()
        more.setdefault("concurrency", None)
        more.setdefault("duration_s", None)
        more.setdefault("timeouts", Timeouts(drain_s=5.0))
        async with FakeEngine(script) as server:
            helper = asyncio.create_task(beside(stop, told)) if beside else None
            endpoint = more.pop("endpoint", None) or endpoint_of(server)
            generated = await generate(
                endpoint, plan, spool=spool, on_progress=told.append, stop=stop, **more
            )
            if helper:
                await helper
        return generated, told

    return run(whole())


def workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "penstock.bench.load.worker" in child.cmdline()]


async def endless(peer: Peer) -> None:
    await peer.request()
    await peer.say(CHUNKED)
    while True:
        await peer.say(chunk(said("more")))
        await asyncio.sleep(0.01)


def test_processes_share_a_plan_and_its_clock(tmp_path: Path) -> None:
    plan = [planned(index, at_s=0.002 * index) for index in range(100)]

    generated, _ = load(tmp_path, answering(), plan, processes=2)

    samples = list(generated.samples())
    assert sorted(sample.index for sample in samples) == list(range(100))
    assert {sample.process for sample in samples} == {0, 1}
    assert all(sample.index % 2 == sample.process for sample in samples)
    assert {sample.cause for sample in samples} == {Cause.NONE}
    assert all(sample.sent_s is not None and sample.sent_s >= sample.scheduled_s for sample in samples)
    assert (generated.problems, generated.interrupted) == ((), False)
    assert generated.client.events == 400
    assert len(generated.client.cpu_share) == 2
    assert generated.client.ceiling_events_per_s > 0
    assert generated.client.rss_max_bytes > 0
    assert 0.198 <= generated.wall_s < 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples-0.jsonl", "samples-1.jsonl"]
    assert workers() == []


def test_progress_is_told_while_the_load_goes_on(tmp_path: Path) -> None:
    plan = [planned(index, at_s=0.01 * index) for index in range(80)]

    generated, told = load(tmp_path, answering(), plan)

    assert len(told) >= 2
    assert [progress.sent for progress in told] == sorted(progress.sent for progress in told)
    seen = [value for progress in told for value in progress.recent_ttft_s]
    assert 1 <= len(seen) <= 80
    assert all(value > 0 for value in seen)
    assert told[-1].sent == told[-1].completed == 80
    assert told[-1].output_tokens == 160
    assert told[-1].elapsed_s == generated.wall_s


def test_a_closed_loop_is_shared_by_no_more_processes_than_it_has_places(tmp_path: Path) -> None:
    generated, _ = load(tmp_path, answering(), map(planned, range(10)), concurrency=1, processes=2)

    assert generated.processes == 1
    assert len(list(generated.samples())) == 10


def test_a_load_that_is_stopped_keeps_what_it_has_and_says_so(tmp_path: Path) -> None:
    async def stop_amid_it(stop: asyncio.Event, told: list[Progress]) -> None:
        while not told or not told[-1].output_tokens:
            await asyncio.sleep(0.01)
        stop.set()

    generated, _ = load(
        tmp_path,
        endless,
        map(planned, range(1000)),
        stop_amid_it,
        concurrency=3,
        processes=2,
        duration_s=60.0,
    )

    samples = list(generated.samples())
    assert generated.interrupted
    assert generated.problems == ()
    assert [sample.cause for sample in samples] == [Cause.CUT_OFF] * 3
    assert all(sample.chunk_s for sample in samples)
    assert workers() == []


def test_a_process_that_is_killed_ends_the_load_and_is_named(tmp_path: Path) -> None:
    async def kill(_: asyncio.Event, told: list[Progress]) -> None:
        while not told or not told[-1].output_tokens:
            await asyncio.sleep(0.01)
        workers()[0].send_signal(signal.SIGKILL)

    generated, _ = load(tmp_path, endless, map(planned, range(100)), kill, concurrency=2, processes=2)

    assert generated.interrupted
    assert "signal 9" in generated.problems[0]
    assert len(list(generated.samples())) == 1
    assert workers() == []


def test_a_load_whose_parent_task_is_cancelled_leaves_no_process_behind(tmp_path: Path) -> None:
    async def whole() -> None:
        told: list[Progress] = []
        async with FakeEngine(endless) as server:
            task = asyncio.create_task(
                generate(
                    endpoint_of(server),
                    map(planned, range(9)),
                    concurrency=1,
                    duration_s=None,
                    timeouts=Timeouts(),
                    spool=tmp_path,
                    on_progress=told.append,
                    stop=asyncio.Event(),
                )
            )
            while not told:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run(whole())

    assert workers() == []


def test_a_full_disk_ends_the_load_with_what_was_written(tmp_path: Path) -> None:
    with room_for(40_000):
        generated, _ = load(tmp_path, answering(), map(planned, range(150)), concurrency=2)

    assert generated.interrupted
    assert "written so far are kept" in generated.problems[0]
    assert list(generated.samples())


def test_a_spool_of_another_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "samples-0.jsonl").write_text("precious")

    with pytest.raises(GeneratorError, match="exists already"):
        load(tmp_path, answering(), [planned(0)])

    assert (tmp_path / "samples-0.jsonl").read_text() == "precious"
    assert workers() == []


def test_a_spool_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(GeneratorError, match="Not a directory"):
        load(tmp_path / "file" / "spool", answering(), [planned(0)])


def test_a_host_that_nobody_knows_is_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match="no known host"):
        load(tmp_path, answering(), [planned(0)], endpoint=Endpoint(host="nowhere.invalid", port=80))


def test_what_a_plan_raises_is_raised(tmp_path: Path) -> None:
    def broken() -> Iterable[PlannedRequest]:
        yield planned(0)
        raise ValueError("line 7 of the trace")

    with pytest.raises(ValueError, match="line 7"):
        load(tmp_path, answering(), broken())


def test_a_plan_that_is_too_short_for_its_duration_is_said(tmp_path: Path) -> None:
    generated, _ = load(tmp_path, answering(), [planned(0)], concurrency=1, duration_s=60.0)

    assert "the plan ended" in generated.problems[0]
    assert not generated.interrupted


def test_the_key_is_in_no_file_and_no_argument(tmp_path: Path) -> None:
    seen: list[str] = []

    async def look(stop: asyncio.Event, told: list[Progress]) -> None:
        while not told or not told[-1].output_tokens:
            await asyncio.sleep(0.01)
        seen.extend(" ".join(child.cmdline()) for child in workers())
        seen.extend(path.read_bytes().decode(errors="replace") for path in tmp_path.iterdir())
        stop.set()

    async def whole() -> None:
        told: list[Progress] = []
        stop = asyncio.Event()
        async with FakeEngine(endless) as server:
            helper = asyncio.create_task(look(stop, told))
            await generate(
                endpoint_of(server, api_key="sk-secret"),
                map(planned, range(9)),
                concurrency=1,
                duration_s=None,
                timeouts=Timeouts(),
                spool=tmp_path,
                on_progress=told.append,
                stop=stop,
            )
            await helper

    run(whole())

    assert seen
    assert not any("sk-secret" in text for text in seen)


def test_a_name_with_two_addresses_is_dialled_where_it_answers(tmp_path: Path) -> None:
    async def whole() -> Generated:
        async with FakeEngine(answering()) as server:  # on 127.0.0.1 only
            return await generate(
                Endpoint(host="localhost", port=server.address.port),
                map(planned, range(6)),
                concurrency=2,
                duration_s=None,
                timeouts=Timeouts(),
                spool=tmp_path,
                on_progress=lambda _: None,
                stop=asyncio.Event(),
            )

    assert {sample.cause for sample in run(whole()).samples()} == {Cause.NONE}


def test_a_plan_that_breaks_amid_the_load_ends_it_with_what_was_measured(tmp_path: Path) -> None:
    def broken() -> Iterable[PlannedRequest]:
        for index in range(AHEAD_REQUESTS):
            yield planned(index, body=b"{}", at_s=0.0 if index < 500 else 60.0)
        raise ValueError("line 7 of the trace")

    async def nothing(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    generated, _ = load(tmp_path, nothing, broken())

    assert generated.problems == ("the plan is cut short: line 7 of the trace",)
    assert generated.interrupted
    assert len(list(generated.samples())) == 500


def test_what_the_teller_of_progress_raises_is_raised(tmp_path: Path) -> None:
    async def whole() -> None:
        async with FakeEngine(endless) as server:
            await generate(
                endpoint_of(server),
                map(planned, range(9)),
                concurrency=1,
                duration_s=None,
                timeouts=Timeouts(),
                spool=tmp_path,
                on_progress=lambda progress: [][progress.sent],
                stop=asyncio.Event(),
            )

    with pytest.raises(IndexError):
        run(whole())
    assert workers() == []


PARENT = """
import asyncio, sys
from pathlib import Path
from penstock.bench.load.endpoint import Endpoint
from penstock.bench.plan import PlannedRequest
from penstock.bench.load.processes import Timeouts, generate

asyncio.run(generate(
    Endpoint(host="127.0.0.1", port=int(sys.argv[1])),
    [PlannedRequest(index=0, body=b'{"stream":true}')],
    concurrency=1, duration_s=None, timeouts=Timeouts(), spool=Path(sys.argv[2]),
    on_progress=lambda progress: print(progress.in_flight, flush=True), stop=asyncio.Event(),
))
"""


def test_a_process_whose_parent_was_killed_ends_and_keeps_what_it_measured(tmp_path: Path) -> None:
    async def whole() -> None:
        async with FakeEngine(endless) as server:
            parent = await asyncio.create_subprocess_exec(
                sys.executable, "-c", PARENT, str(server.address.port), str(tmp_path), stdout=subprocess.PIPE
            )
            assert parent.stdout is not None
            while await parent.stdout.readline() != b"1\n":
                pass
            (worker,) = psutil.Process(parent.pid).children()
            parent.kill()
            await parent.wait()
            while psutil.pid_exists(worker.pid) and worker.status() != psutil.STATUS_ZOMBIE:
                await asyncio.sleep(0.01)

    run(whole())

    assert [sample.cause for sample in read_spool(tmp_path / "samples-0.jsonl")] == [Cause.CUT_OFF]


def test_a_load_generator_imports_nothing_heavy() -> None:
    code = "import penstock.bench.load.worker, sys; print(*{name.partition('.')[0] for name in sys.modules})"

    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    heavy = {
        "numpy",
        "pandas",
        "pyarrow",
        "pydantic",
        "rich",
        "typer",
        "tokenizers",
        "psutil",
        "redis",
        "fastapi",
    }
    assert heavy.isdisjoint(told.split())
