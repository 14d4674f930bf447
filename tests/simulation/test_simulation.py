"""The gateway's policies hold what they promise under faults, and the simulation notices where they do not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from penstock.policy.admit import Admission
from penstock.policy.fair import Entry, FairLine, Lane
from penstock.policy.retry import RetryBudget
from tests.simulation.__main__ import main
from tests.simulation.gateway import Gateway
from tests.simulation.run import FailedSeedError, simulate
from tests.simulation.scenario import Scenario

SEEDS = range(200)


def test_nothing_that_must_always_hold_is_broken_in_two_hundred_seeds() -> None:
    for seed in SEEDS:
        assert simulate(seed).total() > 0


def test_a_seed_is_the_same_run_every_time() -> None:
    for seed in (3, 7, 11):
        assert simulate(seed) == simulate(seed)


def test_a_seed_is_the_same_run_in_another_process() -> None:
    command = [sys.executable, "-m", "tests.simulation", "--seed", "5"]

    runs = [
        subprocess.run(command, env={"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True)
        for hash_seed in ("1", "2")
    ]

    assert runs[0].stdout.splitlines()[1:] == runs[1].stdout.splitlines()[1:] != []


def test_every_kind_of_outcome_comes_about() -> None:
    outcomes = sum((simulate(seed) for seed in range(60)), simulate(60))

    assert set(outcomes) == {
        "client_error",
        "complete",
        "failed",
        "interrupted",
        "left",
        "limited",
        "no_replica",
        "predicted_wait_too_long",
        "queue_full",
        "queue_timeout",
        "total_timeout",
    }


class _FirstComeFirstServed(FairLine):
    def __init__(self) -> None:
        super().__init__()
        self.order: dict[Entry, None] = {}

    def push(self, entry: Entry) -> None:
        super().push(entry)
        self.order[entry] = None

    def remove(self, entry: Entry) -> bool:
        self.order.pop(entry, None)
        return super().remove(entry)

    def _next(self) -> Entry | None:
        first = next(iter(self.order), None)
        if first is not None:
            del self.order[first]
        return first


class _HighestClassOnly(FairLine):
    def _next(self) -> Entry | None:
        return next((lane.head() for lane in self.lanes.values() if lane.length), None)


class _GrudgingLane(Lane):
    def _level(self) -> float:
        return 0.0


class _SavesUp(FairLine):
    def __init__(self) -> None:
        super().__init__()
        self.lanes = {name: _GrudgingLane(lane.share) for name, lane in self.lanes.items()}


class _CountingLane(Lane):
    def settle(self, entry: Entry, actual_tokens: int) -> None:
        super().settle(entry, entry.cost_tokens)


class _Unsettled(FairLine):
    def __init__(self) -> None:
        super().__init__()
        self.lanes = {name: _CountingLane(lane.share) for name, lane in self.lanes.items()}


class _Leaking(Admission):
    def release(self, entry: Entry, *, actual_tokens: int | None, hold_s: float | None) -> bool:
        released = super().release(entry, actual_tokens=actual_tokens, hold_s=hold_s)
        if released and actual_tokens == 0:
            self.out += 1
        return released


class _OneTooMany(Admission):
    def next_admitted(self) -> Entry | None:
        if self.out > self.capacity:
            return None
        entry = self.line.pop()
        self.out += entry is not None
        return entry


class _Spendthrift(RetryBudget):
    def withdrawn(self) -> RetryBudget:
        return self

    def deposited(self) -> RetryBudget:
        return self


def _with_line(line: Callable[[], FairLine]) -> Callable[[Scenario], Gateway]:
    def gateway_for(scenario: Scenario) -> Gateway:
        gateway = Gateway(scenario)
        gateway.admission.line = line()
        return gateway

    return gateway_for


def _with_endless_retries(scenario: Scenario) -> Gateway:
    gateway = Gateway(scenario)
    gateway.retries = _Spendthrift()
    return gateway


@pytest.mark.parametrize(
    ("gateway_for", "invariant"),
    [
        (_with_line(_FirstComeFirstServed), "tenants share by weight"),
        (_with_line(_SavesUp), "tenants share by weight"),
        (_with_line(_Unsettled), "tenants share by weight"),
        (_with_line(_HighestClassOnly), "no class starves"),
        (lambda scenario: Gateway(scenario, _Leaking(queue_len_max=0)), "no permit leaks"),
        (lambda scenario: Gateway(scenario, _OneTooMany(queue_len_max=0)), "permits stay within capacity"),
        (_with_endless_retries, "the retry budget holds"),
    ],
    ids=[
        "first come",
        "saves up",
        "unsettled",
        "highest class",
        "leaking",
        "one too many",
        "endless retries",
    ],
)
def test_a_flaw_in_a_policy_is_found(gateway_for: Callable[[Scenario], Gateway], invariant: str) -> None:
    found: set[str] = set()
    for seed in SEEDS:
        try:
            simulate(seed, gateway_for)
        except FailedSeedError as failure:
            found.add(failure.invariant)
        if invariant in found:
            return

    pytest.fail(f"found only {found}")


def test_a_seed_that_fails_says_how_to_see_it_again() -> None:
    def simulate_all() -> None:
        for seed in SEEDS:
            simulate(seed, lambda scenario: Gateway(scenario, _Leaking(queue_len_max=0)))

    with pytest.raises(FailedSeedError, match=r"again: python -m tests\.simulation --seed \d+$"):
        simulate_all()


def test_the_command_says_how_many_seeds_it_ran(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "2", "--first", "40"]) == 0

    assert capsys.readouterr().out.startswith("2 seeds in ")
