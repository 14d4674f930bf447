"""The stacks that the end-to-end tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.processes import Gateway, Sim, penstock_up, ready_gateway, remote, sim_engine

if TYPE_CHECKING:
    from tests.e2e.observed import Observed

DEMO = "penstock-demo"
SIM = '[[models]]\nname = "sim-model"\naliases = ["gpt-4o-mini"]\nengine = "sim"\nreplicas = 2\n'


@pytest.fixture(scope="session")
def demo_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """`penstock up` as a newcomer gets it: the embedded llama.cpp with the demo model."""
    with penstock_up(tmp_path_factory.mktemp("demo")) as stack:
        yield stack


@pytest.fixture(scope="session")
def sim_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """`penstock up` with a simulated model of two replicas."""
    with penstock_up(tmp_path_factory.mktemp("sim"), SIM) as stack:
        yield stack


@pytest.fixture(scope="session")
def observed_vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """`penstock up` with a real vLLM, of which everything is observed."""
    from tests.e2e import observed  # which needs this module

    with observed.observed_vllm(tmp_path_factory.mktemp("observed")) as stack:
        yield stack


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    """One simulated engine, with 10 ms for a token."""
    with sim_engine(tmp_path_factory.mktemp("engine"), "--model", "m") as engine:
        yield engine


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Sim, Sim]]:
    """A gateway before two simulated engines."""
    folder = tmp_path_factory.mktemp("pair")
    with (
        sim_engine(folder, "--model", "m") as one,
        sim_engine(folder, "--model", "m") as two,
        ready_gateway(folder, remote("m", one, two, extra='aliases = ["alias"]')) as front,
    ):
        yield front, one, two


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory, sim: Sim) -> Iterator[Gateway]:
    """A gateway before the one simulated engine `sim`."""
    with ready_gateway(tmp_path_factory.mktemp("front"), remote("m", sim)) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for one test's processes."""
    return tmp_path
