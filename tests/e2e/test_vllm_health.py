"""The health of a real vLLM: a stopped EngineCore is seen, left and found again, and full load is never taken for one.

    PENSTOCK_VLLM_VENV=/path/to/venv pytest tests/e2e/test_vllm_health.py -s

Skipped without one. Times are printed.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest

from penstock.engines.vllm import VENV_VARIABLE
from penstock.policy.fleet import SERVING
from penstock.policy.stall import SHORT_STEPS_S
from tests.e2e.conftest import DEMO
from tests.e2e.processes import Gateway, penstock_up, wait_until
from tests.e2e.test_continuation import CHAT, events_of, open_stream, read_events, read_until, ready_replicas
from tests.e2e.test_vllm import COUNT, OFFLINE, START_S, VLLM, ask, assert_one_answer, events_in, registered

pytestmark = [
    pytest.mark.skipif(
        VENV_VARIABLE not in os.environ,
        reason=f"no vLLM: {VENV_VARIABLE} is not set to its virtual environment",
    ),
    pytest.mark.timeout(600),
]

STALL_S = SHORT_STEPS_S  # which is what holds where nothing is set
SEEN_WITHIN_S = STALL_S + 2.0
RESTART_AFTER_S = 40.0
# A model's table ends where that of its engine_args begins, so these stand before.
HEALTH = f"""replicas = 2
routing = "round_robin"
concurrency = 64
health = {{ restart_after = "{RESTART_AFTER_S}s" }}
timeouts = {{ first_token = "120s", stall = "120s", total = "240s" }}
"""
SATURATED_S = float(os.environ.get("PENSTOCK_SATURATED_S", "180"))
CLIENTS = 48  # of which an engine runs 8 at once
PLAIN = ask(COUNT, stream=False, stream_options=None, max_tokens=8)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """`penstock up` with two replicas of the demo model on vLLM."""
    env = {VENV_VARIABLE: os.environ[VENV_VARIABLE], **OFFLINE}
    with penstock_up(
        tmp_path_factory.mktemp("health"), VLLM.replace("replicas = 2\n", HEALTH), **env
    ) as server:
        wait_until(lambda: ready_replicas(server) == 2, "both replicas to be ready", START_S)
        yield server


def engine_core(stack: Gateway, name: str) -> int:
    """The process that makes the steps of this replica, found in the tree of the registered one."""
    pid = next(entry["pid"] for entry in registered(stack) if entry["name"] == name)
    family = psutil.Process(pid).children(recursive=True)
    return next(one.pid for one in family if any("EngineCore" in word for word in one.cmdline()))


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGCONT)


def replica(stack: Gateway, name: str) -> dict[str, Any]:
    replicas = stack.admin("/admin/fleet").json()["replicas"]
    return next((one for one in replicas if one["name"] == name), {"state": "absent"})


def moves(stack: Gateway) -> list[tuple[str, str, str, str]]:
    """All changes of state so far: of which replica, from what, to what, and by which evidence."""
    lines = (stack.home / "logs" / "gateway.log").read_text().splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{")]  # others are the supervisor's marks
    changes = [one for one in told if one.get("event") == "replica"]
    return [(one["replica"], one["before"], one["after"], one["evidence"]) for one in changes]


def tell(text: str) -> None:
    sys.stdout.write(f"\n{text}\n")


def writer_of(said: bytes) -> str:
    found = re.search(rb"x-penstock-replica: (\S+)", said)
    assert found is not None, said
    return found[1].decode()


@dataclass
class Drill:
    """What came of stopping an engine amid an answer; times since it was stopped, and since it went on."""

    name: str
    said: bytes = b""
    seen: dict[str, Any] = field(default_factory=dict)
    seen_s: float = 0.0
    whole_s: float = 0.0
    back_s: float = 0.0
    early: list[int] = field(default_factory=list)
    late: list[list[Any]] = field(default_factory=list)

    def state(self, stack: Gateway) -> str:
        return str(replica(stack, self.name)["state"])

    def ask(self, stack: Gateway) -> None:
        """A request that comes before anybody knows."""
        self.early.append(stack.request("POST", CHAT, PLAIN).status)


def drill(stack: Gateway, request_id: str) -> Drill:
    with open_stream(stack, ask(COUNT), request_id) as sock:
        said = read_events(sock, 3)
        it = Drill(writer_of(said), said)
        with stopped(engine_core(stack, it.name)):
            stopped_s = time.monotonic()
            threads = [threading.Thread(target=it.ask, args=(stack,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            wait_until(lambda: it.state(stack) == "stalled", "the stall to be seen")
            it.seen_s = time.monotonic() - stopped_s
            it.seen = replica(stack, it.name)
            it.said += read_until(sock, b"[DONE]")
            it.whole_s = time.monotonic() - stopped_s
            it.late = [events_of(stack, CHAT, ask(COUNT, max_tokens=8)) for _ in range(4)]
            for thread in threads:
                thread.join(60)
            assert it.state(stack) == "stalled"
        resumed_s = time.monotonic()
    wait_until(lambda: it.state(stack) == "ready", "it to be ready again")
    it.back_s = time.monotonic() - resumed_s
    return it


def test_a_stopped_engine_core_is_seen_left_and_found_again(stack: Gateway) -> None:
    whole = events_of(stack, CHAT, ask(COUNT))

    for number in range(10):  # on a busy machine an answer can be over before its engine is stopped
        it = drill(stack, f"drill-{number}")
        record = stack.record(f"drill-{number}")
        if record["attempts"] > 1:
            break

    tell(
        f"seen {it.seen_s:.2f} s after SIGSTOP (stall {STALL_S:g} s), answer whole after {it.whole_s:.2f} s, "
        f"ready {it.back_s:.2f} s after SIGCONT\n{it.seen['cause']}: {it.seen['evidence']}"
    )
    assert it.seen_s <= SEEN_WITHIN_S
    assert_one_answer([*events_in(it.said), "[DONE]"], whole)
    assert (record["outcome"], record["continuations"]) == ("complete", 1)
    assert it.early == [200] * 4
    assert all(events[-1] == "[DONE]" for events in it.late)
    assert "no step for" in it.seen["evidence"]
    assert it.seen["evidence"].endswith("/health says 200")
    path = [("ready", "stalled"), ("stalled", "warming"), ("warming", "ready")]
    wait_until(  # by way of the supervisor
        lambda: [move[1:3] for move in moves(stack) if move[0] == it.name][-3:] == path, "the log to tell it"
    )
    wait_until(lambda: _serves(stack, it.name), "it to be given requests again")


def _serves(stack: Gateway, name: str) -> bool:
    reply = stack.request("POST", CHAT, PLAIN)
    return reply.status == 200 and reply.headers["x-penstock-replica"] == name


def test_an_engine_under_full_load_is_always_given_requests(stack: Gateway) -> None:
    """Far more requests than it can run, short and long, streamed and not, with prompts that take it many steps."""
    ends: Counter[str] = Counter()
    until_s = time.monotonic() + SATURATED_S
    earlier = len(moves(stack))

    def client(seed: int) -> None:
        chance = random.Random(seed)
        while time.monotonic() < until_s:
            words = chance.choice((5, 50, 300))
            members: dict[str, Any] = {"max_tokens": chance.choice((1, 40, 400)), "ignore_eos": True}
            if chance.random() < 0.5:
                members |= {"stream": False, "stream_options": None}
            text = f"{seed} {chance.random()} " + "word " * words
            reply = stack.request("POST", CHAT, ask(text, **members), {"X-Request-Timeout": "200"}, 240.0)
            ends[str(reply.status)] += 1

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    states: Counter[str] = Counter()
    while time.monotonic() < until_s:
        states.update(one["state"] for one in stack.admin("/admin/fleet").json()["replicas"])
        time.sleep(0.5)
    for thread in threads:
        thread.join(240)

    tell(f"{dict(ends)} in {SATURATED_S:g} s with {CLIENTS} clients; states looked at: {dict(states)}")
    changes = moves(stack)[earlier:]
    assert not [change for change in changes if not SERVING.issuperset(change[1:3])], changes
    assert SERVING.issuperset(states)
    assert set(ends) == {"200"}


def test_an_engine_that_stays_stopped_is_started_again(stack: Gateway) -> None:
    name = f"{DEMO}-0"
    former = next(entry["pid"] for entry in registered(stack) if entry["name"] == name)
    core = engine_core(stack, name)
    with stopped(core):
        stopped_s = time.monotonic()
        answers = [stack.request("POST", CHAT, PLAIN).status for _ in range(2)]
        assert replica(stack, name)["state"] == "stalled"
        wait_until(
            lambda: not psutil.pid_exists(core), "the stopped process to be ended", RESTART_AFTER_S + 60
        )
        ended_s = time.monotonic() - stopped_s
    wait_until(lambda: replica(stack, name)["state"] == "ready", "a new one to be ready", START_S)

    tell(f"ended {ended_s:.1f} s after SIGSTOP, ready again after {time.monotonic() - stopped_s:.1f} s")
    assert answers == [200, 200]
    assert next(entry["pid"] for entry in registered(stack) if entry["name"] == name) != former
    assert f"{name} is restarted: it has been stalled for" in stack.log.read_text()
