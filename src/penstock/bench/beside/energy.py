"""What a load cost in joules and in money. Pure arithmetic over readings."""

from __future__ import annotations

import msgspec

from penstock.bench.beside.series import Point, growth, integral

MILLION = 1_000_000
JOULES_PER_KWH = 3_600_000.0
SECONDS_PER_HOUR = 3600.0


class Price(msgspec.Struct, frozen=True):
    """What is paid; None is not known, and what follows from it is then not told.

    Args:
        per_kwh: of electricity at the GPU, money per kilowatt-hour.
        per_gpu_hour: of one GPU, its electricity included, money per hour.
        currency: the money, for the report.
    """

    per_kwh: float | None = None
    per_gpu_hour: float | None = None
    currency: str = "USD"


class Cost(msgspec.Struct, frozen=True):
    """The cost of a load.

    Args:
        seconds: how long it took.
        gpus: how many were at work or held for it.
        output_tokens: tokens that were generated.
        energy_j: of the GPUs alone: not of processors, fans or losses of the power supply.
        power_w: mean of all GPUs together.
        joules_per_million_tokens: energy for a million output tokens.
        energy_money_per_million_tokens: its electricity.
        gpu_money_per_million_tokens: GPUs by the hour.
    """

    seconds: float
    gpus: int
    output_tokens: int
    currency: str
    energy_j: float | None = None
    power_w: float | None = None
    joules_per_million_tokens: float | None = None
    energy_money_per_million_tokens: float | None = None
    gpu_money_per_million_tokens: float | None = None


def energy_j(power_w: list[Point], counter_mj: list[Point], begins_s: float, ends_s: float) -> float | None:
    """The energy between two times: by the GPU's own counter where it has one, else the area under its power.

    Args:
        power_w: readings of its power, watts.
        counter_mj: growth of its energy counter, millijoules.

    Returns:
        Joules; None where there are fewer than two readings of either.
    """
    if len(counter_mj) > 1:
        return growth(counter_mj, begins_s, ends_s) / 1000.0
    return integral(power_w, begins_s, ends_s) if len(power_w) > 1 else None


def cost(energy: float | None, seconds: float, gpus: int, output_tokens: int, price: Price) -> Cost:
    """The cost of a load; what its figures do not tell is None.

    Args:
        energy: joules of its GPUs.
        seconds: its length.
        gpus: number of its GPUs, 0 where nobody knows.
        output_tokens: generated in that time.
    """
    millions = output_tokens / MILLION
    joules = energy / millions if energy is not None and millions else None
    hours = seconds * gpus / SECONDS_PER_HOUR
    by_energy = by_hour = None
    if joules is not None and price.per_kwh is not None:
        by_energy = joules / JOULES_PER_KWH * price.per_kwh
    if millions and gpus and price.per_gpu_hour is not None:
        by_hour = hours * price.per_gpu_hour / millions
    return Cost(
        seconds=seconds,
        gpus=gpus,
        output_tokens=output_tokens,
        currency=price.currency,
        energy_j=energy,
        power_w=energy / seconds if energy is not None and seconds > 0 else None,
        joules_per_million_tokens=joules,
        energy_money_per_million_tokens=by_energy,
        gpu_money_per_million_tokens=by_hour,
    )
