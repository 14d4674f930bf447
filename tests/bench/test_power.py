"""GPUs are read, logged and paid for; a machine without one is told so, and nothing fails."""

from __future__ import annotations

import asyncio
import re
import resource
from collections.abc import Callable
from datetime import datetime
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from penstock.bench.beside.energy import Price, cost, energy_j
from penstock.bench.beside.gpu import NoGpuError, Nvml, local_gpus
from penstock.bench.beside.gpu_log import HEADER
from penstock.bench.beside.power import GpuLogError, Power, PowerReadings

MIB = 1024 * 1024


class FakeNvml:
    """What `pynvml` offers, of GPUs that draw 300 W; `lacks` names the functions that they do not support."""

    NVML_TEMPERATURE_GPU, NVML_CLOCK_SM, NVML_CLOCK_MEM = 0, 1, 2
    nvmlMemory_v2 = 0x2000028  # noqa: N815 - its name there

    class NVMLError(Exception):
        """As there."""

    def __init__(self, gpus: int = 1, lacks: str = "", broken: str = "") -> None:
        self.gpus, self.lacks, self.broken = gpus, lacks, broken
        self.energy = count(5_000_000, 150_000)  # 150 J for each reading
        self.closed = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not name.startswith("nvml"):
            raise AttributeError(name)
        what = name.removeprefix("nvml").removeprefix("DeviceGet").removeprefix("Device")

        def call(*arguments: Any, **named: Any) -> Any:
            if what in (*self.lacks.split(), self.broken) and not (what == "MemoryInfo" and not named):
                raise self.NVMLError("Not Supported")
            return self.answer(what, *arguments)

        return call

    def answer(self, what: str, *arguments: Any) -> Any:
        if what == "Shutdown":
            self.closed += 1
        return {
            "Init": None,
            "Shutdown": None,
            "Count": self.gpus,
            "HandleByIndex": arguments[0] if arguments else None,
            "Name": "NVIDIA H100 80GB HBM3",
            "UtilizationRates": SimpleNamespace(gpu=97, memory=41),
            "MemoryInfo": SimpleNamespace(used=70000 * MIB, total=81559 * MIB),
            "Temperature": 54,
            "PowerUsage": 300_250,
            "ClockInfo": 1980 if arguments[1:] == (self.NVML_CLOCK_SM,) else 2619,
            "TotalEnergyConsumption": next(self.energy) if what == "TotalEnergyConsumption" else None,
        }[what]


def measured(
    library: Any, log: Path | None = None, ticks: int = 3, ends_s: float | None = None
) -> PowerReadings:
    """What is read of these GPUs until the log, or the clock, has seen so many readings."""
    clock = count()

    async def work() -> PowerReadings:
        power = Power(
            lambda: Nvml(library),
            log=log,
            every_s=0.005,
            now_s=lambda: next(clock) / 200,
            today=lambda: datetime(2026, 1, 2, 3, 4, 5, 678_901),
        )
        await power.start()
        async with asyncio.timeout(20):
            while next(clock) < 50 * ticks:
                await asyncio.sleep(0.005)
        return await power.stop(0.0, ends_s)

    return asyncio.run(work())


def test_every_member_of_a_gpu_is_read() -> None:
    (reading,) = Nvml(FakeNvml()).read()

    assert (reading.utilization_percent, reading.memory_utilization_percent) == (97.0, 41.0)
    assert (reading.memory_used_mib, reading.memory_total_mib) == (70000.0, 81559.0)
    assert (reading.temperature_c, reading.power_w) == (54, 300.25)
    assert (reading.sm_clock_mhz, reading.memory_clock_mhz, reading.energy_mj) == (1980, 2619, 5_000_000)


@pytest.mark.parametrize(
    ("lacks", "member"),
    [
        ("UtilizationRates", "utilization_percent"),
        ("PowerUsage", "power_w"),
        ("Temperature", "temperature_c"),
        ("ClockInfo", "sm_clock_mhz"),
        ("TotalEnergyConsumption", "energy_mj"),
    ],
)
def test_what_a_gpu_does_not_support_is_absent_and_the_rest_is_read(lacks: str, member: str) -> None:
    (reading,) = Nvml(FakeNvml(lacks=lacks)).read()

    assert getattr(reading, member) is None
    assert reading.memory_total_mib == 81559.0


def test_an_old_library_without_the_second_account_of_memory_is_read_by_the_first() -> None:
    (reading,) = Nvml(FakeNvml(lacks="MemoryInfo")).read()

    assert reading.memory_used_mib == 70000.0


@pytest.mark.parametrize(
    ("library", "said"),
    [
        (FakeNvml(broken="Init"), "Not Supported"),
        (FakeNvml(broken="Count"), "Not"),
        (FakeNvml(gpus=0), "no GPU"),
    ],
)
def test_a_machine_without_a_gpu_is_read_as_none_with_its_reason(
    library: FakeNvml, said: str, tmp_path: Path
) -> None:
    log = tmp_path / "gpu.csv"

    readings = measured(library, log, ticks=0)

    assert readings.gpus == []
    assert readings.energy_j is None
    assert said in readings.notes[0]
    assert log.read_text() == f"{HEADER}\n"


def test_the_real_library_says_what_is_wrong_where_there_is_no_driver() -> None:
    if Path("/proc/driver/nvidia/version").exists():
        gpus = local_gpus()
        assert gpus.read()[0].memory_total_mib
        gpus.close()
    else:
        with pytest.raises(NoGpuError, match="NVML") as caught:
            local_gpus()
        assert caught.value.hint


def test_the_log_is_what_nvidia_smi_would_write(tmp_path: Path) -> None:
    log = tmp_path / "gpu.csv"

    measured(FakeNvml(gpus=2, lacks="PowerUsage"), log)

    header, *rows = log.read_text().splitlines()
    assert header == (
        "timestamp, utilization.gpu [%], utilization.memory [%], memory.used [MiB], memory.total [MiB], "
        "temperature.gpu, power.draw [W]"
    )
    assert set(rows) == {"2026/01/02 03:04:05.678, 97 %, 41 %, 70000 MiB, 81559 MiB, 54, [N/A]"}
    assert len(rows) % 2 == 0


def test_the_log_has_the_power_in_watts(tmp_path: Path) -> None:
    log = tmp_path / "gpu.csv"

    measured(FakeNvml(), log)

    assert log.read_text().splitlines()[1].endswith(", 54, 300.25 W")


def test_a_log_that_cannot_be_opened_is_an_error_before_the_load(tmp_path: Path) -> None:
    with pytest.raises(GpuLogError, match=re.escape(str(tmp_path))):
        measured(FakeNvml(), tmp_path / "absent" / "gpu.csv")


def test_a_full_disk_is_an_error_before_the_load() -> None:
    with pytest.raises(GpuLogError, match="No space left"):
        measured(FakeNvml(), Path("/dev/full"))


def test_a_disk_that_fills_ends_the_log_and_not_the_run(tmp_path: Path) -> None:
    log = tmp_path / "gpu.csv"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(HEADER) + 1, hard))

    try:
        readings = measured(FakeNvml(), log)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert readings.energy_j is not None
    assert readings.notes == [f"{log}: File too large; the log of the GPUs ends here"]


def test_series_and_energy_are_kept_for_each_gpu_and_the_driver_is_let_go() -> None:
    library = FakeNvml(gpus=2)

    readings = measured(library, ends_s=0.5)

    assert [gpu.name for gpu in readings.gpus] == ["NVIDIA H100 80GB HBM3"] * 2
    assert {value for _, value in readings.gpus[0].series["power_w"]} == {300.25}
    assert readings.energy_j is not None
    assert readings.energy_j > 0
    assert library.closed == 1


def test_energy_is_that_of_the_counter_and_without_one_the_area_under_the_power() -> None:
    counter_mj, power_w = [(0.0, 0.0), (10.0, 50_000.0)], [(0.0, 4.0), (10.0, 6.0)]

    assert energy_j(power_w, counter_mj, 0.0, 5.0) == pytest.approx(25.0)
    assert energy_j(power_w, [], 0.0, 10.0) == pytest.approx(50.0)
    assert energy_j([(0.0, 4.0)], [], 0.0, 10.0) is None


def test_a_million_tokens_cost_their_energy_and_their_hours() -> None:
    spent = cost(36_000.0, 60.0, 2, 100_000, Price(per_kwh=0.25, per_gpu_hour=3.0, currency="EUR"))

    assert spent.power_w == pytest.approx(600.0)
    assert spent.joules_per_million_tokens == pytest.approx(360_000.0)
    assert spent.energy_money_per_million_tokens == pytest.approx(0.1 * 0.25)
    assert spent.gpu_money_per_million_tokens == pytest.approx(2 * 3.0 / 60 * 10)
    assert spent.currency == "EUR"


@pytest.mark.parametrize(("energy", "gpus", "tokens"), [(None, 0, 1000), (None, 0, 0), (1000.0, 1, 0)])
def test_what_is_not_known_costs_nothing_that_is_told(energy: float | None, gpus: int, tokens: int) -> None:
    spent = cost(energy, 10.0, gpus, tokens, Price(per_kwh=0.25, per_gpu_hour=3.0))

    assert spent.joules_per_million_tokens is None
    assert spent.energy_money_per_million_tokens is None
    assert spent.gpu_money_per_million_tokens is None
    assert cost(5.0, 1.0, 1, 10, Price()).energy_money_per_million_tokens is None


def test_the_cost_of_a_load_is_that_of_its_gpus() -> None:
    readings = measured(FakeNvml(lacks="TotalEnergyConsumption"), ends_s=0.5)

    spent = readings.cost(1_000_000, Price())

    assert spent.energy_j == pytest.approx(300.25 * 0.5)
    assert spent.gpus == 1
