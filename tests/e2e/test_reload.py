"""The configuration changes while everything runs: no stream is cut, and a bad file changes nothing."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.processes import (
    Gateway,
    Reply,
    Sim,
    penstock_up,
    ready_gateway,
    remote,
    sim_engine,
    wait_until,
)

SIM = '[[models]]\nname = "{name}"\nengine = "sim"\nreplicas = {replicas}\nengine_args = {{ base_step_s = 0.05 }}\n'


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with sim_engine(tmp_path_factory.mktemp("engine"), "--model", "m") as sim:
        yield sim


class Stream(threading.Thread):
    """A long streamed answer, read in the background."""

    def __init__(self, front: Gateway, model: str, tokens: int = 60) -> None:
        super().__init__()
        self.reply: Reply | None = None
        self._front, self._model, self._tokens = front, model, tokens
        self.start()
        wait_until(lambda: self._in_progress() > 0, "the stream to begin")

    def _in_progress(self) -> int:
        in_progress: int = self._front.admin("/admin/overview").json()["in_progress"]
        return in_progress

    def run(self) -> None:
        members = {"stream": True, "max_tokens": self._tokens, "ignore_eos": True}
        self.reply = self._front.ask("hi", self._model, **members)

    def whole(self) -> bool:
        self.join()
        assert self.reply is not None
        events = self.reply.body.count(b"data: ")
        return self.reply.body.endswith(b"data: [DONE]\n\n") and events >= self._tokens


def test_models_and_tenants_come_and_go_with_sighup(folder: Path, engine: Sim) -> None:
    with ready_gateway(folder, remote("m", engine)) as front:
        stream = Stream(front, "m")
        (folder / "penstock.toml").write_text(
            remote("m2", engine) + '[[tenants]]\nname = "default"\nrequests_per_minute = 1\n'
        )
        front.process.send_signal(signal.SIGHUP)
        wait_until(lambda: front.request("GET", "/v1/models/m2").status == 200, "the new model")

        assert front.ask("hi", "m").status == 404
        wait_until(lambda: front.request("GET", "/ready").status == 200, "its replica to be ready")
        assert [front.ask("hi", "m2").status for _ in range(2)][-1] == 429
        assert stream.whole()


def test_the_log_changes_its_level_and_its_format(folder: Path, engine: Sim) -> None:
    with ready_gateway(folder, '[log]\nlevel = "error"\n' + remote("m", engine)) as front:
        assert front.ask("hi", "m").status == 200
        (folder / "penstock.toml").write_text('[log]\nformat = "console"\n' + remote("m", engine))
        front.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "reloaded" in front.log.read_text(), "the reload")
        assert front.ask("hi", "m").status == 200
        wait_until(lambda: "status=200" in front.log.read_text(), "the request's line")

    assert '"event"' not in front.log.read_text()


def test_who_waits_for_a_model_that_is_removed_is_told_so_at_once(folder: Path, engine: Sim) -> None:
    one_at_a_time = 'concurrency = 1\ntimeouts = { queue = "50s" }\n'
    with ready_gateway(folder, remote("m", engine, extra=one_at_a_time)) as front:
        stream = Stream(front, "m", tokens=300)
        with ThreadPoolExecutor(3) as pool:
            waiters = [pool.submit(front.ask, "hi", "m", stream=stream) for stream in (False, False, True)]
            wait_until(lambda: queue_length(front) == 3, "all to wait")
            (folder / "penstock.toml").write_text(remote("m2", engine))
            front.process.send_signal(signal.SIGHUP)
            replies = [waiter.result(timeout=10) for waiter in waiters]
        was_running = stream.is_alive()

        assert was_running
        assert stream.whole()
        for reply in replies:
            assert (reply.status, reply.headers["x-penstock-fault"]) == (404, "gateway")
            assert reply.json()["error"]["code"] == "model_not_found"
            assert "/v1/models" in reply.json()["error"]["hint"]


@pytest.mark.parametrize("bad", ["[[models", '[gateway]\nbody_max = "much"\n', "models = []\n"])
def test_a_bad_file_changes_nothing(folder: Path, engine: Sim, bad: str) -> None:
    with ready_gateway(folder, remote("m", engine)) as front:
        (folder / "penstock.toml").write_text(bad)

        refused = front.admin("/admin/reload", "POST")
        front.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "reload refused" in front.log.read_text(), "the refusal to be logged")

        assert (refused.status, refused.json()["error"]["code"]) == (400, "invalid_configuration")
        assert "penstock.toml" in refused.json()["error"]["message"]
        assert front.ask("hi", "m").status == 200
        assert front.admin("/admin/overview").json()["generation"] == 1


def test_penstock_reload_adds_and_removes_models_and_replicas_under_up(folder: Path) -> None:
    with penstock_up(folder, SIM.format(name="a", replicas=2)) as front:
        stream = Stream(front, "a")
        (folder / "penstock.toml").write_text(
            SIM.format(name="a", replicas=1) + SIM.format(name="b", replicas=1)
        )

        told = front.penstock("reload")

        assert told.returncode == 0, told.stderr
        assert "model b is new" in told.stderr
        assert "replicas has changed" in told.stderr
        wait_until(lambda: front.ask("hi", "b").status == 200, "the new model to answer")
        assert stream.whole()
        wait_until(lambda: names(front) == ["a-0", "b-0"], "the spare replica to be gone")
        (folder / "penstock.toml").write_text(SIM.format(name="b", replicas=1))

        front.penstock("reload")

        wait_until(lambda: names(front) == ["b-0"], "the model to be gone")
        assert front.ask("hi", "a").status == 404
        assert front.ask("hi", "b").status == 200


def test_penstock_reload_tells_mistakes_and_leaves_everything_as_it_is(folder: Path) -> None:
    with penstock_up(folder, SIM.format(name="a", replicas=1)) as front:
        (folder / "penstock.toml").write_text(SIM.format(name="a", replicas=0))

        told = front.penstock("reload")

        assert (told.returncode, told.stdout) == (2, "")
        assert "models.0.replicas: expected at least 1" in told.stderr
        os.kill(front.process.pid, signal.SIGHUP)  # and when nobody has looked before
        wait_until(lambda: "reload refused" in front.log.read_text(), "the refusal to be said")
        assert front.ask("hi", "a").status == 200


def test_a_drained_replica_finishes_what_it_has_and_gets_no_more(folder: Path) -> None:
    with penstock_up(folder, SIM.format(name="a", replicas=2)) as front:
        stream = Stream(front, "a")
        held = next(one["name"] for one in fleet(front) if one["in_flight"])

        drained = front.penstock("drain", held)

        assert drained.returncode == 0, drained.stderr
        assert stream.whole()
        records = [front.record(front.ask("hi", "a").headers["x-request-id"]) for _ in range(4)]
        assert held not in {record["replica"] for record in records}
        assert front.penstock("undrain", held).returncode == 0
        wait_until(lambda: all(one["state"] == "ready" for one in fleet(front)), "it to serve again")


def test_an_unknown_replica_can_not_be_drained(folder: Path, engine: Sim) -> None:
    with ready_gateway(folder, remote("m", engine)) as front:
        told = front.penstock("drain", "nobody")

    assert told.returncode == 1
    assert "there is no replica 'nobody'" in told.stderr
    assert "hint: replicas: m-0" in told.stderr


def fleet(front: Gateway) -> list[dict[str, object]]:
    replicas: list[dict[str, object]] = front.admin("/admin/fleet").json()["replicas"]
    return replicas


def queue_length(front: Gateway) -> int:
    length: int = front.admin("/admin/queues").json()["queues"]["m"]["length"]
    return length


def names(front: Gateway) -> list[object]:
    status = json.loads(front.penstock("status", "--json").stdout)
    return [one["name"] for one in status["replicas"]]
