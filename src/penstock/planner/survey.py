"""Which GPUs would do: the fewest of each kind, for who has not chosen any yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from penstock.planner.hardware import Gpu, known_gpu
from penstock.planner.plan import Ask, Choice, plan
from penstock.planner.shapes import Architecture

SURVEYED = (
    *("RTX 3060", "T4", "RTX 4080", "L4", "RTX 4090", "RTX 5090", "A100 40GB", "L40S", "RTX A6000"),
    *("A100 80GB", "H100 80GB", "RTX PRO 6000", "H200", "B200"),
)
"""Kinds that people buy or rent, by memory."""


def survey(model: Architecture, ask: Ask) -> Iterator[tuple[Gpu, int, Choice]]:
    """The fewest GPUs of each kind that do what is asked for; kinds of which no number does are left out.

    Args:
        ask: its GPU and count do not matter.

    Raises:
        PlanError: what is asked for can't be planned for this model.
    """
    for name in SURVEYED:
        gpu = known_gpu(name)
        assert gpu is not None
        needed = plan(model, replace(ask, gpu=gpu, count=1)).needed or 1
        found = plan(model, replace(ask, gpu=gpu, count=needed)).choice
        if found.fits:
            yield gpu, needed, found
