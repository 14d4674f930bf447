"""GPUs are read, logged and paid for; a machine without one is told so, and nothing fails."""

from __future__ import annotations

import asyncio
import re
import resource
from datetime import datetime
from itertools import count
from pathlib import Path

import pytest

from penstock.bench.beside.energy import Price, cost, energy_j
from penstock.bench.beside.gpu import WANTED, GpuReading, Gpus, local_gpus
from penstock.bench.beside.gpu_log import HEADER
from penstock.bench.beside.power import GpuLogError, Power, PowerReadings
from penstock.telemetry.fake_nvml import FakeGpu, FakeMachine, FakeNvml
from penstock.telemetry.gpu_driver import Driver
from penstock.telemetry.nvml import NoGpuError

MIB = 1024 * 1024


def gpu(*lacks: str) -> FakeGpu:
    """One at work that does not support the functions `lacks`."""
    return FakeGpu(
        errors={f"nvmlDeviceGet{name}": "NVML_ERROR_NOT_SUPPORTED" for name in lacks},
        utilization_percent=97,
        memory_utilization_percent=41,
        used_mib=70000,
        temperature_c=54,
        power_w=300.25,
        sm_clock_mhz=1980,
        energy_j=5000.0,
    )


def machine(*gpus: FakeGpu, error: str = "") -> FakeNvml:
    return FakeNvml(FakeMachine(gpus=list(gpus), error=error))


def opened(library: FakeNvml) -> Gpus:
    return Gpus(Driver(lambda: 0.0, lambda: library, WANTED))


def measured(
    library: FakeNvml, log: Path | None = None, ticks: int = 3, ends_s: float | None = None
) -> PowerReadings:
    """What is read of these GPUs until the log, or the clock, has seen so many readings."""
    clock = count()

    async def work() -> PowerReadings:
        power = Power(
            lambda: opened(library),
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
    (reading,) = opened(machine(gpu())).read()

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
    (reading,) = opened(machine(gpu(lacks))).read()

    assert getattr(reading, member) is None
    assert reading.memory_total_mib == 81559.0


def test_a_gpu_that_is_lost_amid_a_load_tells_nothing_and_the_others_go_on() -> None:
    library = machine(gpu(), gpu())
    gpus = opened(library)

    library.machine.gpus[0].lost = True
    lost, other = gpus.read()

    assert lost == GpuReading()
    assert other.power_w == 300.25
    library.machine.error = "NVML_ERROR_DRIVER_NOT_LOADED"
    assert gpus.read() == [GpuReading(), GpuReading()]


@pytest.mark.parametrize(
    ("library", "said"),
    [
        (machine(error="NVML_ERROR_NOT_SUPPORTED"), "Not Supported"),
        (machine(gpu(), error="NVML_ERROR_UNKNOWN"), "Unknown Error"),
        (machine(), "no GPU"),
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
        with pytest.raises(NoGpuError, match="no NVIDIA driver") as caught:
            local_gpus()
        assert caught.value.hint


def test_the_log_is_what_nvidia_smi_would_write(tmp_path: Path) -> None:
    log = tmp_path / "gpu.csv"

    measured(machine(gpu("PowerUsage"), gpu("PowerUsage")), log)

    header, *rows = log.read_text().splitlines()
    assert header == (
        "timestamp, utilization.gpu [%], utilization.memory [%], memory.used [MiB], memory.total [MiB], "
        "temperature.gpu, power.draw [W]"
    )
    assert set(rows) == {"2026/01/02 03:04:05.678, 97 %, 41 %, 70000 MiB, 81559 MiB, 54, [N/A]"}
    assert len(rows) % 2 == 0


def test_the_log_has_the_power_in_watts(tmp_path: Path) -> None:
    log = tmp_path / "gpu.csv"

    measured(machine(gpu()), log)

    assert log.read_text().splitlines()[1].endswith(", 54, 300.25 W")


def test_a_log_that_cannot_be_opened_is_an_error_before_the_load(tmp_path: Path) -> None:
    with pytest.raises(GpuLogError, match=re.escape(str(tmp_path))):
        measured(machine(gpu()), tmp_path / "absent" / "gpu.csv")


def test_a_full_disk_is_an_error_before_the_load() -> None:
    with pytest.raises(GpuLogError, match="No space left"):
        measured(machine(gpu()), Path("/dev/full"))


def test_a_disk_that_fills_ends_the_log_and_not_the_run(tmp_path: Path) -> None:
    log = tmp_path / "gpu.csv"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(HEADER) + 1, hard))

    try:
        readings = measured(machine(gpu()), log)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert readings.energy_j is not None
    assert readings.notes == [f"{log}: File too large; the log of the GPUs ends here"]


def test_series_and_energy_are_kept_for_each_gpu_and_the_driver_is_let_go() -> None:
    library = machine(gpu(), gpu())

    readings = measured(library, ends_s=0.5)

    assert [gpu.name for gpu in readings.gpus] == ["NVIDIA H100 80GB HBM3"] * 2
    assert {value for _, value in readings.gpus[0].series["power_w"]} == {300.25}
    assert readings.energy_j == 0  # its counter stands still
    assert library.opened == 0


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
    readings = measured(machine(gpu("TotalEnergyConsumption")), ends_s=0.5)

    spent = readings.cost(1_000_000, Price())

    assert spent.energy_j == pytest.approx(300.25 * 0.5)
    assert spent.gpus == 1
