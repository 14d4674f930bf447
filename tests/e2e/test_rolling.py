"""Replicas take the place of others under load: no request fails, no stream breaks; what goes wrong changes nothing."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest

from penstock.engines.llamacpp import DEMO_FILE
from tests.e2e.conftest import DEMO
from tests.e2e.load import CHAT, Ask, Background, End, Seen, Target
from tests.e2e.processes import (
    KEY,
    PATIENCE_S,
    Gateway,
    environment,
    free_port,
    penstock_up,
    remote,
    sim_engine,
    wait_until,
)
from tests.e2e.questions import Mix, questions

CLIENTS = 6
TOKENS = 24
PAUSE_S = 0.1

TOML = """
[gateway]
workers = 2
[[models]]
name = "m"
engine = "sim"
replicas = 2
engine_args = {{ {args} }}
[[models]]
name = "penstock-demo"
engine = "llamacpp"
source = "{source}"
"""
QUICK = "base_step_s = 0.01"


class Site:
    """A folder in which `penstock up` runs, with one model of two simulated replicas and the demo model."""

    def __init__(self, front: Gateway) -> None:
        self.front = front

    def write(self, args: str = QUICK, source: str = "demo") -> None:
        (self.front.log.parent / "penstock.toml").write_text(TOML.format(args=args, source=source))

    def names(self) -> set[str]:
        """Of the replicas that are registered."""
        return {path.stem for path in (self.front.home / "run" / "replicas").glob("*.json")}

    def ask(self, model: str) -> int:
        return self.front.ask("hello", model, max_tokens=2).status

    def lines(self, prefix: str) -> list[dict[str, Any]]:
        """The log lines of requests whose ids begin so."""
        texts = [path.read_text() for path in (self.front.home / "logs").glob("gateway-*.log")]
        lines = [json.loads(line) for text in texts for line in text.splitlines() if f'"{prefix}-' in line]
        return [line for line in lines if line.get("event") == "request"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("rolling")
    toml = TOML.format(args=QUICK, source="demo")
    with penstock_up(folder, toml, GATEWAY_API_KEYS=KEY) as front:
        yield Site(front)


@pytest.fixture(scope="module")
def mix(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Callable[[], Ask]]:
    """Makes makers of requests for `m`, half of which want no answer continued."""
    with sim_engine(tmp_path_factory.mktemp("sim"), "--model", "m", "--base-step-s", "0") as sim:
        found = questions(sim, "m", 8, TOKENS)
    return lambda prefix: Mix(Random(1), "m", found, [KEY], declining=0.5, prefix=prefix)


def demo_asks(front: Gateway, prefix: str, tokens: int = TOKENS) -> Callable[[], Ask]:
    """Greedy questions to the demo model, streamed and plain, with the answer that it gives when nothing happens."""
    body = {
        "model": DEMO,
        "messages": [{"role": "user", "content": "Count from one to one hundred."}],
        "temperature": 0,
        "max_tokens": tokens,
        "ignore_eos": True,
    }
    answer = front.request("POST", CHAT, body).json()["choices"][0]["message"]["content"]
    numbers = itertools.count()

    def make() -> Ask:
        number = next(numbers)
        streamed = number % 3 > 0
        sent = json.dumps({**body, "stream": streamed}).encode()
        return Ask(f"{prefix}-{number}", KEY, CHAT, sent, streamed, tokens, answer)

    return make


def through(
    front: Gateway, make: Callable[[], Ask], *command: str
) -> tuple[list[Seen], subprocess.CompletedProcess[str]]:
    """What clients saw while a command ran from its beginning to its end; and what it said."""
    load = Background(Target(front.port), make, clients=CLIENTS, pause_s=lambda: PAUSE_S)
    load.start()
    wait_until(lambda: len(load.seen) >= CLIENTS, "the load to begin")
    before = len(load.seen)
    told = front.penstock(*command)
    during = len(load.seen) - before
    wait_until(lambda: len(load.seen) >= before + during + CLIENTS, "the load to go on")
    return load.stop(), told


def assert_all_whole(seen: Sequence[Seen]) -> None:
    assert Counter(one.end for one in seen) == {End.COMPLETE: len(seen)}, [
        one.tell() for one in seen if one.end is not End.COMPLETE
    ][:5]
    assert [one.tell() for one in seen if one.wrong] == []


def test_a_restart_under_load_fails_no_request(site: Site, mix: Callable[[str], Callable[[], Ask]]) -> None:
    before = site.names()

    seen, told = through(site.front, mix("restart"), "restart", "m")

    assert told.returncode == 0, told.stderr
    assert_all_whole(seen)
    lines = wait_until(lambda: found if len(found := site.lines("restart")) == len(seen) else None, "the log")
    assert {line["attempts"] for line in lines} == {1}
    assert {f"{DEMO}-0", *(name for name in site.names() if name.startswith("m-"))} == site.names()
    assert len(site.names() - before) == 2
    assert told.stderr.index(": ready") < told.stderr.index("draining") < told.stderr.index("stopped")
    assert re.search(r"^m: 2 replicas restarted in [\d.]+s$", told.stderr, re.M)


def test_the_demo_model_restarts_under_load_and_says_the_same(site: Site) -> None:
    seen, told = through(site.front, demo_asks(site.front, "demo"), "restart", DEMO, "--json")

    steps = [json.loads(line) for line in told.stdout.splitlines()]
    assert told.returncode == 0, told.stderr
    assert_all_whole(seen)
    assert steps[-1]["kind"] == "done"
    assert {step["kind"] for step in steps[:-1]} == {"step"}
    assert {"ready", "stopped"} <= {step["text"] for step in steps}


def test_a_reload_with_another_source_swaps_it_under_load(site: Site) -> None:
    source = site.front.log.parent / "other.gguf"
    shutil.copy(DEMO_FILE, source)
    site.write(source=str(source))

    seen, told = through(site.front, demo_asks(site.front, "swap"), "reload")

    assert told.returncode == 0, told.stderr
    assert_all_whole(seen)
    assert f"models {DEMO}: source has changed" in told.stderr
    assert "the new configuration is in force" in told.stderr
    assert site.front.penstock("reload").stderr.endswith("nothing has changed\n")


@pytest.mark.parametrize(
    ("args", "options", "said"),
    [
        ("load_s = 1000", ("--within", "0.5s"), "was not ready after 0.5s: "),
        ("blok_size = 1", (), "models.0.engine_args.blok_size: sim has no such argument"),
    ],
)
def test_what_does_not_become_ready_leaves_the_old_replicas_and_their_configuration(
    site: Site, args: str, options: tuple[str, ...], said: str
) -> None:
    before = site.names()
    site.write(args, source="demo")

    told = site.front.penstock("reload", *options)

    assert told.returncode in (1, 2)
    assert f"{said}" in told.stderr
    assert "hint: everything is as it was before" in told.stderr
    assert site.names() == before
    assert [site.ask("m") for _ in range(4)] == [200] * 4


def test_a_source_that_is_not_there_changes_nothing_and_one_replica_can_be_restarted_alone(
    site: Site,
) -> None:
    site.write(source="absent.gguf")
    before = site.names()

    told = site.front.penstock("reload")
    restarted = site.front.penstock("restart", "m", "--replica", min(before - {f"{DEMO}-0", f"{DEMO}-1"}))

    assert (told.returncode, told.stdout) == (2, "")
    assert "models.1.source: absent.gguf does not exist" in told.stderr
    assert restarted.returncode == 0, restarted.stderr  # with the configuration in force, which is a good one


def test_an_unknown_model_is_answered_with_the_known_ones(site: Site) -> None:
    told = site.front.penstock("restart", "nobody")

    assert told.returncode == 1
    assert "error: there is no model 'nobody'\nhint: known: m, penstock-demo\n" in told.stderr


def test_the_only_replica_restarts_in_place_with_503_meanwhile(site: Site) -> None:
    load = Background(
        Target(site.front.port), demo_asks(site.front, "place"), clients=2, pause_s=lambda: PAUSE_S
    )
    load.start()
    wait_until(lambda: load.seen, "the load to begin")

    told = site.front.penstock("restart", DEMO, "--in-place")
    wait_until(lambda: load.seen[-1].end is End.COMPLETE, "it to answer again")
    seen = load.stop()

    assert told.returncode == 0, told.stderr
    assert "requests get 503 with Retry-After meanwhile" in told.stderr
    assert {(one.end, one.status) for one in seen} == {(End.COMPLETE, 200), (End.REFUSED, 503)}
    assert [one.tell() for one in seen if one.wrong] == []


def test_a_model_moves_to_an_engine_that_runs_elsewhere_and_back(
    site: Site, mix: Callable[[str], Callable[[], Ask]], tmp_path: Path
) -> None:
    with sim_engine(tmp_path, "--model", "m", "--base-step-s", "0.01") as sim:
        config = site.front.log.parent / "penstock.toml"
        config.write_text("[gateway]\nworkers = 2\n" + remote("m", sim))
        there, told = through(site.front, mix("there"), "reload")
        site.write()
        back, told_back = through(site.front, mix("back"), "reload")

    assert (told.returncode, told_back.returncode) == (0, 0), told.stderr + told_back.stderr
    assert_all_whole(there)
    assert_all_whole(back)


def test_a_remote_engine_that_does_not_answer_takes_no_place(site: Site) -> None:
    nobody = free_port()
    config = site.front.log.parent / "penstock.toml"
    config.write_text(f'[[models]]\nname = "m"\nengine = "remote"\nsource = "http://127.0.0.1:{nobody}"\n')

    told = site.front.penstock("reload")

    assert told.returncode == 1
    assert f"models m: none of its URLs answers: 127.0.0.1:{nobody}: " in told.stderr
    assert site.ask("m") == 200


def start(front: Gateway, *command: str) -> subprocess.Popen[str]:
    """A command of Penstock in the background."""
    return subprocess.Popen(
        [sys.executable, "-m", "penstock", *command],
        cwd=front.log.parent,
        env=environment(front.home),
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_restart_can_be_withdrawn_and_a_stop_amid_it_is_a_clean_one(folder: Path) -> None:
    slow = '[[models]]\nname = "m"\nengine = "sim"\nengine_args = { load_s = 2 }\n'
    with penstock_up(folder, slow, GATEWAY_API_KEYS=KEY) as front:
        said = front.log.read_text
        first = start(front, "restart", "m")
        wait_until(lambda: "m-1: started" in said(), "the new replica to be started")

        second = front.penstock("restart", "m")
        os.kill(front.process.pid, signal.SIGHUP)
        wait_until(lambda: "SIGHUP: a reload follows" in said(), "the signal to be noticed")
        first.send_signal(signal.SIGINT)
        _, withdrawn = first.communicate(timeout=PATIENCE_S)
        wait_until(lambda: "reload: nothing has changed" in said(), "the reload that had to wait")

        assert (second.returncode, first.returncode) == (1, 130)
        assert "withdrawn" in withdrawn
        assert "error: restart of m is under way\n" in second.stderr
        assert [path.stem for path in (front.home / "run" / "replicas").glob("*.json")] == ["m-0"]
        assert front.ask("hello", "m", max_tokens=2).status == 200
        third = start(front, "restart", "m")
        wait_until(lambda: said().count("m-1: started") == 2, "it to be started again")
        family = psutil.Process(front.process.pid).children(recursive=True)

        code = front.stop()
        _, why = third.communicate(timeout=PATIENCE_S)

        assert (code, third.returncode) == (0, 1)
        assert "error: the supervisor stops" in why
        assert not any(one.is_running() for one in family)
        assert {path.name for path in (front.home / "run").iterdir() if not path.is_dir()} <= {"drained.json"}
