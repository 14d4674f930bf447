"""The exporter goes on through all that may happen to what it reads, and shows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from tests.bench.test_beside import page, vllm

from penstock.core.address import Address
from penstock.engines.catalog import SPECS
from penstock.engines.client import EngineClient
from penstock.exporter.engines import Engines, Target
from penstock.exporter.exporter import Exporter, Sources
from penstock.exporter.notes import AGAIN_AFTER_S, PLACES_MAX, Notes
from penstock.exporter.watch import STALE_AFTER_S_MIN
from penstock.telemetry.fake_nvml import FakeGpu, FakeMachine, FakeNvml
from penstock.telemetry.gpu_driver import REOPEN_MAX_S, Driver

PATIENCE_S = 20.0


REMOTE = replace(SPECS["remote"], metrics_path="/own")


class Bench:
    """An exporter of fake GPUs, at a time that the test moves on."""

    def __init__(self, folder: Path, urls: list[str]) -> None:
        self.now_s = 1000.0
        self.lines: list[str] = []
        self.details: list[str] = []
        self.nvml = FakeNvml(FakeMachine(gpus=[FakeGpu()]))
        self.client = EngineClient()

        def write(event: str, members: Mapping[str, str]) -> None:
            self.lines.append(f"{event} {members['source']} {members.get('reason', '')}".strip())
            self.details.append(members.get("detail", ""))

        targets = [
            Target(f"m-{at}", "m", REMOTE, Address.parse(url.removeprefix("http://")))
            for at, url in enumerate(urls)
        ]
        engines = Engines(lambda: targets, self.client, 1.0)
        driver = Driver(self.clock, lambda: self.nvml)
        sources = Sources(driver, {"home": folder}, engines, list)
        self.exporter = Exporter(sources, 0.01, self.clock, Notes(write, write, self.clock))

    def clock(self) -> float:
        return self.now_s

    async def shows(self, line: str) -> None:
        """Waits until the page has a line that begins so."""
        await until(lambda: any(each.startswith(line) for each in self.exporter.page().decode().splitlines()))

    async def says(self, line: str) -> None:
        await until(lambda: line in self.lines)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


@asynccontextmanager
async def running(folder: Path, *urls: str) -> AsyncIterator[Bench]:
    bench = Bench(folder, list(urls))
    task = asyncio.create_task(bench.exporter.run())
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield bench
    finally:
        bench.nvml.released.set()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        bench.client.close()
        await until(lambda: len(asyncio.all_tasks()) == 1)  # those of what it has read


def test_a_driver_that_dies_and_comes_back_is_shown_and_said_once(tmp_path: Path) -> None:
    async def work() -> list[str]:
        async with running(tmp_path) as bench:
            await bench.shows('penstock_gpu_driver_up{reason=""} 1')
            bench.nvml.machine.error = "NVML_ERROR_DRIVER_NOT_LOADED"
            await bench.shows('penstock_gpu_driver_up{reason="driver_not_loaded"} 0')
            await bench.says("not_read gpu driver_not_loaded")
            bench.nvml.machine.error = ""
            bench.now_s += REOPEN_MAX_S
            await bench.shows('penstock_gpu_driver_up{reason=""} 1')
            await bench.says("read_again gpu")
            return bench.lines

    lines = [line for line in asyncio.run(work()) if "hangs" not in line]  # it may, while the clock jumps

    assert lines == ["not_read gpu driver_not_loaded", "read_again gpu"]


def test_a_driver_that_hangs_is_shown_and_the_rest_goes_on(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as bench:
            await bench.shows('penstock_gpu_driver_up{reason=""} 1')
            bench.nvml.machine.hangs = True
            await asyncio.sleep(0.05)
            bench.now_s += STALE_AFTER_S_MIN + 1
            await bench.shows('penstock_gpu_driver_up{reason="hangs"} 0')
            await bench.says("not_read gpu hangs")
            await bench.shows("penstock_host_memory_total_bytes")
            bench.nvml.machine.hangs = False
            bench.nvml.released.set()
            await bench.shows('penstock_gpu_driver_up{reason=""} 1')

    asyncio.run(work())


def test_a_gpu_that_is_lost_is_down_and_said(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as bench:
            bench.nvml.machine.gpus.append(FakeGpu(lost=True))
            await bench.shows('penstock_gpu_up{gpu="0"')
            bench.nvml.machine.gpus[0].lost = True
            await bench.says("not_read gpu 0 (GPU-00000000-0000-0000-0000-000000000000) lost")

    asyncio.run(work())


def test_each_xid_is_a_line_of_the_log(tmp_path: Path) -> None:
    place = "gpu 0 (GPU-00000000-0000-0000-0000-000000000000)"

    async def work() -> list[str]:
        async with running(tmp_path) as bench:
            await bench.shows('penstock_gpu_up{gpu="0"')
            bench.nvml.machine.gpus[0].xids.append(31)
            await bench.says(f"gpu_xid {place} xid_31")
            bench.nvml.machine.gpus[0].xids.append(31)
            await until(lambda: len(bench.lines) == 2)
            await bench.shows('penstock_gpu_xid_last_code{gpu="0"')
            return bench.lines

    assert asyncio.run(work()) == [f"gpu_xid {place} xid_31"] * 2


def test_an_engine_that_can_not_be_read_is_counted_by_its_reason(tmp_path: Path) -> None:
    async def work() -> list[str]:
        async with (
            page(lambda _: vllm(running=4)) as (_, well),
            running(tmp_path, "http://127.0.0.1:1", well) as b,
        ):
            await b.shows('llm_up{replica="m-0",model="m",engine="remote"} 0')
            await b.shows('llm_requests_running{replica="m-1",model="m",engine="remote"} 4')
            await b.shows('penstock_exporter_errors_total{source="engines",reason="timeout"} 0')
            await until(lambda: b'reason="unreachable"} 0' not in b.exporter.page())
            assert b.details[0].startswith("127.0.0.1:1/own: ")
            return b.lines

    assert asyncio.run(work()) == ["not_read replica m-0 unreachable"]


def test_a_bug_of_a_source_ends_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as bench:
            bench.nvml.machine.gpus[0].processes = None  # type: ignore[assignment]
            await bench.says("not_read gpu bug")
            await bench.shows('penstock_exporter_errors_total{source="gpu",reason="bug"}')
            await bench.shows("penstock_host_load")

    asyncio.run(work())


def test_what_stays_wrong_is_said_again_seldom_and_what_changes_at_once() -> None:
    now_s, said = 0.0, []

    def write(event: str, members: Mapping[str, str]) -> None:
        said.append((now_s, event, members.get("reason", "")))

    notes = Notes(write, write, lambda: now_s)
    for step in range(1300):
        now_s = float(step)
        notes.wrong("gpu", "denied" if step < 10 else "hangs", "")
    notes.well("gpu")
    notes.well("gpu")

    assert said == [
        (0.0, "not_read", "denied"),
        (10.0, "not_read", "hangs"),
        (10.0 + AGAIN_AFTER_S, "not_read", "hangs"),
        (10.0 + 2 * AGAIN_AFTER_S, "not_read", "hangs"),
        (1299.0, "read_again", ""),
    ]


def test_places_that_are_gone_are_forgotten() -> None:
    said: list[str] = []
    notes = Notes(lambda _, m: said.append(m["source"]), lambda *_: None, lambda: 0.0)

    for place in range(PLACES_MAX + 10):
        notes.wrong(f"replica {place}", "timeout", "")
    notes.forget(frozenset({f"replica {PLACES_MAX}"}), "replica ")
    notes.wrong(f"replica {PLACES_MAX}", "timeout", "")
    notes.wrong("replica 77", "timeout", "")

    assert said[-2:] == [f"replica {PLACES_MAX + 9}", "replica 77"]


@pytest.mark.parametrize("hangs", [False, True])
def test_the_first_page_is_there_before_the_first_reading(tmp_path: Path, hangs: bool) -> None:
    bench = Bench(tmp_path, [])
    bench.nvml.machine.hangs = hangs

    assert b"penstock_exporter_build_info" in bench.exporter.page()
