"""`penstock stop`: what is open is finished, also when it is asked twice; what hangs does not keep it for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from tests.e2e.processes import PATIENCE_S, Gateway, environment, penstock_up, wait_until
from tests.e2e.test_reload import Stream

TOML = """
[gateway]
drain_timeout = "{drain}"
[[models]]
name = "m"
engine = "sim"
engine_args = {{ base_step_s = 0.02 }}
"""


def stop(front: Gateway, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "penstock", "stop", *options],
        cwd=front.log.parent,
        env=environment(front.home),
        stderr=subprocess.PIPE,
        text=True,
    )


def family(front: Gateway) -> list[psutil.Process]:
    return psutil.Process(front.process.pid).children(recursive=True)


def test_asked_twice_it_still_finishes_what_is_open(folder: Path) -> None:
    with penstock_up(folder, TOML.format(drain="30s")) as front:
        stream = Stream(front, "m")
        first = stop(front)
        wait_until(lambda: "stopping: open requests" in front.log.read_text(), "the first to be heard")
        second = stop(front)

        ends = [process.communicate(timeout=PATIENCE_S)[1].splitlines()[-1] for process in (first, second)]

        assert ends == ["stopped", "stopped"]
        assert stream.whole()
        assert front.process.wait(PATIENCE_S) == 0


def test_now_ends_a_stuck_gateway_and_a_hung_engine_amid_a_stop(folder: Path) -> None:
    with penstock_up(folder, TOML.format(drain="10m")) as front:
        stuck = family(front)
        for process in stuck:
            process.send_signal(signal.SIGSTOP)
        first = stop(front)
        wait_until(lambda: "stopping: open requests" in front.log.read_text(), "the first to be heard")

        told = front.penstock("stop", "--now")
        first.communicate(timeout=PATIENCE_S)

        assert (told.returncode, first.returncode) == (0, 0)
        assert "at once; open requests are cut" in told.stderr
        assert front.process.wait(PATIENCE_S) == 130
        assert not any(process.is_running() for process in stuck)


def test_a_stuck_gateway_is_killed_when_its_time_is_over(folder: Path) -> None:
    with penstock_up(folder, TOML.format(drain="0.1s")) as front:
        stuck = [process for process in family(front) if "gateway" in process.cmdline()]
        for process in stuck:
            process.send_signal(signal.SIGSTOP)

        first = stop(front)
        _, said = first.communicate(timeout=PATIENCE_S)

        assert first.returncode == 0, said
        assert "still stopping after" in said
        assert front.process.wait(PATIENCE_S) == 0
        assert stuck
        assert not any(process.is_running() for process in stuck)


def test_a_supervisor_that_hangs_itself_is_told_with_what_to_do(folder: Path) -> None:
    with penstock_up(folder, TOML.format(drain="0.1s")) as front:
        os.kill(front.process.pid, signal.SIGSTOP)
        told = front.penstock("stop", "--now")
        os.kill(front.process.pid, signal.SIGCONT)

        assert told.returncode == 1
        assert f"error: pid {front.process.pid} has not stopped within" in told.stderr
        assert f"hint: kill -9 {front.process.pid}: its engines end with it" in told.stderr
