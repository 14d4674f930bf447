"""Another model answers while no replica of the one that was asked for is healthy."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.e2e.processes import free_port, gateway, ready_gateway, remote, sim_engine, wait_until


def test_a_fallback_answers_while_the_model_is_away_and_not_after(folder: Path) -> None:
    port = free_port()
    lost = (
        f'[[models]]\nname = "m"\nengine = "remote"\nsource = "http://127.0.0.1:{port}"\nfallbacks = ["b"]\n'
    )
    with sim_engine(folder, "--model", "b") as other, gateway(folder, lost + remote("b", other)) as front:
        wait_until(lambda: front.ask("hi", "b").status == 200, "the fallback to be ready")

        meanwhile = front.ask("hi", "m")

        assert meanwhile.status == 200
        assert meanwhile.json()["model"] == "b"
        assert front.record(meanwhile.headers["x-request-id"])["model"] == "b"
        with sim_engine(folder, "--model", "m", port=port):
            wait_until(lambda: front.ask("hi", "m").json()["model"] == "m", "the model itself to answer")


def test_without_a_healthy_fallback_it_is_503_with_a_time_to_come_back(folder: Path) -> None:
    lost = f'[[models]]\nname = "m"\nengine = "remote"\nsource = "http://127.0.0.1:{free_port()}"\n'
    with gateway(folder, lost) as front:
        reply = front.ask("hi", "m")

    assert (reply.status, reply.json()["error"]["code"]) == (503, "no_replica_ready")
    assert int(reply.headers["retry-after"]) >= 1
    assert reply.headers["x-penstock-fault"] == "gateway"


def test_the_head_tells_which_replica_answered_and_where_the_time_went(folder: Path) -> None:
    with sim_engine(folder, "--model", "m") as engine, ready_gateway(folder, remote("m", engine)) as front:
        plain, stream = front.ask("hi", "m"), front.ask("hi", "m", stream=True)

    for reply in (plain, stream):
        assert reply.headers["x-penstock-replica"] == "m-0"
        phases = dict(re.findall(r"(\w+);dur=([0-9.]+)", reply.headers["server-timing"]))
        assert list(phases) == ["auth", "queue", "connect", "first_token"]
        assert 5 < float(phases["first_token"]) < 5000  # the engine takes 10 ms for a token
    assert json.loads(plain.body)["choices"]
