"""What becomes of a real vLLM when one of its processes is killed; skipped without one.

    PENSTOCK_VLLM_VENV=/path/to/venv pytest -s tests/e2e/test_vllm_supervision.py

One replica under `penstock up` serves the demo model. Its processes are killed one after another; each time nothing
of the old tree may live when the new one starts. The times are printed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import penstock
from penstock.engines.vllm import VENV_VARIABLE
from tests.e2e.conftest import DEMO
from tests.e2e.processes import Gateway, environment, penstock_up, wait_until

pytestmark = [
    pytest.mark.skipif(
        VENV_VARIABLE not in os.environ,
        reason=f"no vLLM: {VENV_VARIABLE} is not set to its virtual environment",
    ),
    pytest.mark.timeout(400),
]

VLLM = f"""
[[models]]
name = "{DEMO}"
engine = "vllm"
source = {json.dumps(str(Path(penstock.__file__).parent / "demo_model"))}

[models.engine_args]
enforce_eager = true
max_model_len = 1024
max_num_seqs = 8
"""
OFFLINE = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
VENV = {VENV_VARIABLE: os.environ.get(VENV_VARIABLE, "")}
START_S = 180.0
ROLES = ("API server", "EngineCore", "Worker")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with penstock_up(tmp_path_factory.mktemp("vllm"), VLLM, **OFFLINE, **VENV) as server:
        yield server


def root_of(server: Gateway) -> int:
    """The first process of the replica; 0 while there is none."""
    files = list((server.home / "run" / "replicas").glob("*.json"))
    try:
        pids = [int(json.loads(path.read_text())["pid"]) for path in files]
    except (OSError, ValueError):
        return 0
    return pids[0] if pids else 0


def tree_of(root: int) -> dict[str, psutil.Process]:
    """The processes of a vLLM, by what they are; others by their ids."""
    first = psutil.Process(root)
    found = {ROLES[0]: first}
    for child in first.children(recursive=True):
        words = " ".join(child.cmdline())
        found[next((role for role in ROLES[1:] if role in words), str(child.pid))] = child
    return found


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def tell(line: str) -> None:
    """Shows a line of the transcript, where pytest shows output."""
    sys.stdout.write(f"\n{line}\n")


def serves(server: Gateway) -> bool:
    return server.ask("Hello", DEMO, max_tokens=4).status == 200


@pytest.mark.parametrize("role", ["API server", "Worker", "EngineCore"])
def test_nothing_of_a_broken_tree_is_left_when_the_new_one_starts(stack: Gateway, role: str) -> None:
    wait_until(lambda: serves(stack), "the replica to serve", START_S)
    old = root_of(stack)
    tree = tree_of(old)
    assert set(ROLES) <= set(tree)
    sessions = {os.getsid(process.pid) for process in tree.values()}

    killed_s = time.monotonic()
    tree[role].send_signal(signal.SIGKILL)
    wait_until(lambda: root_of(stack) != old, "the broken replica to be noticed")
    noticed_s = time.monotonic() - killed_s
    new = wait_until(lambda: root_of(stack), "a new start")
    left = {name: process.pid for name, process in tree.items() if lives(process)}
    wait_until(lambda: serves(stack), "the new replica to serve", START_S)
    served_s = time.monotonic() - killed_s

    tell(
        f"SIGKILL {role}: {len(tree)} processes in {len(sessions)} session(s), noticed and gone after "
        f"{noticed_s:.2f} s, served again after {served_s:.1f} s"
    )
    assert new != old
    assert left == {}


def test_what_a_killed_supervisor_left_of_it_is_ended_by_the_next_up(stack: Gateway) -> None:
    wait_until(lambda: serves(stack), "the replica to serve", START_S)
    tree = tree_of(root_of(stack))
    tree[ROLES[0]].send_signal(signal.SIGSTOP)  # it can't follow the kernel, which asks it to end

    where = {
        "PENSTOCK_GATEWAY__LISTEN": f"127.0.0.1:{stack.port}",
        "PENSTOCK_GATEWAY__ADMIN": f"127.0.0.1:{stack.admin_port}",
    }
    stack.stop(signal.SIGKILL)
    assert lives(tree["EngineCore"])
    began_s = time.monotonic()
    with (stack.log.parent / "again.log").open("w") as sink:
        again = subprocess.Popen(
            [sys.executable, "-m", "penstock", "up"],
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
            cwd=stack.log.parent,
            env=environment(stack.home, **OFFLINE, **VENV, **where),
        )
    try:
        wait_until(lambda: root_of(stack) not in (0, tree[ROLES[0]].pid), "a new start", START_S)
        left = {name: process.pid for name, process in tree.items() if lives(process)}
        took_s = time.monotonic() - began_s
    finally:
        again.terminate()
        again.communicate(timeout=START_S)

    tell(f"SIGKILL supervisor: nothing left when the next one has started its engine, {took_s:.2f} s later")
    assert left == {}
    assert "an earlier supervisor has left processes behind" in (stack.log.parent / "again.log").read_text()
