"""A rolling restart of a real vLLM under load; skipped without one.

    PENSTOCK_VLLM_VENV=/path/to/venv pytest tests/e2e/test_vllm_rolling.py

Two replicas under `penstock up` serve the demo model to eight clients, streamed and plain. Every answer is whole, and
the one that was given before anything happened. `pytest -s` shows the steps and their times.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from penstock.engines.vllm import VENV_VARIABLE
from tests.e2e.conftest import DEMO
from tests.e2e.load import Background, End, Seen, Target
from tests.e2e.processes import KEY, Gateway, penstock_up, wait_until
from tests.e2e.test_continuation import ready_replicas
from tests.e2e.test_rolling import demo_asks
from tests.e2e.test_vllm import OFFLINE, START_S, VLLM

pytestmark = [
    pytest.mark.skipif(
        VENV_VARIABLE not in os.environ,
        reason=f"no vLLM: {VENV_VARIABLE} is not set to its virtual environment",
    ),
    pytest.mark.timeout(900),
]

# Three engines on two cores: threads that wait for each other at every layer would leave none to one that loads.
ONE_THREAD = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
CLIENTS = 8
TOKENS = 48
PAUSE_S = 4.0  # two loading engines need the two cores too
RESTART_S = 450.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    env = {VENV_VARIABLE: os.environ[VENV_VARIABLE], "GATEWAY_API_KEYS": KEY, **OFFLINE, **ONE_THREAD}
    with penstock_up(tmp_path_factory.mktemp("vllm"), VLLM, **env) as server:
        wait_until(lambda: ready_replicas(server) == 2, "both replicas to be ready", START_S)
        yield server


def test_a_rolling_restart_of_vllm_under_load_fails_no_request(stack: Gateway) -> None:
    seen: list[tuple[float, Seen]] = []
    load = Background(
        Target(stack.port),
        demo_asks(stack, "vllm", TOKENS),
        clients=CLIENTS,
        pause_s=lambda: PAUSE_S,
        on_seen=lambda one: seen.append((time.monotonic(), one)),
    )
    load.start()
    wait_until(lambda: len(seen) >= CLIENTS, "the load to begin")
    began_s = time.monotonic()

    told = stack.penstock("restart", DEMO, "--json", patience_s=RESTART_S)
    ended_s = time.monotonic()
    after = len(seen)
    wait_until(lambda: len(seen) >= after + 2 * CLIENTS, "the load to go on")
    load.stop()

    during = sum(began_s <= at_s <= ended_s for at_s, _ in seen)
    ends = Counter(one.end.value for _, one in seen)
    steps = [json.loads(line) for line in told.stdout.splitlines()]
    transcript = [
        *(f"{step['after_s']:7.1f}s  {step['about']}: {step['text']}" for step in steps),
        f"{len(seen)} requests, {during} during the restart of {ended_s - began_s:.1f}s: {dict(ends)}",
    ]
    print("", *transcript, sep="\n")  # noqa: T201 - pytest -s shows it
    assert told.returncode == 0, told.stderr
    assert ends == {End.COMPLETE.value: len(seen)}
    assert [one.tell() for _, one in seen if one.wrong] == []
    assert during > CLIENTS
