"""The line before a busy engine: bounded, fair between tenants, and never a 429."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Gateway, Reply, Sim, ready_gateway, remote, sim_engine, wait_until

TENANTS = """
[[tenants]]
name = "heavy"
[[tenants]]
name = "light"
[[tenants]]
name = "batch"
priority = "batch"
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    options = ("--model", "m", "--base-step-s", "0.01", "--max-num-seqs", "64")
    with sim_engine(tmp_path_factory.mktemp("engine"), *options) as sim:
        yield sim


def secrets(front: Gateway, *tenants: str) -> list[str]:
    made = [front.penstock("keys", "create", "--tenant", tenant, "--json").stdout for tenant in tenants]
    found = [str(json.loads(text)["secret"]) for text in made]
    for secret in found:
        bearer = {"Authorization": f"Bearer {secret}"}
        wait_until(
            lambda bearer=bearer: front.request("GET", "/v1/models", headers=bearer).status == 200,  # type: ignore[misc]
            "the key to be known",
        )
    return found


class Asked(threading.Thread):
    """A request in the background; `took_s` is until its whole answer."""

    def __init__(self, front: Gateway, secret: str, tokens: int = 20, **headers: str) -> None:
        super().__init__()
        self._front, self._tokens = front, tokens
        self._headers = {"Authorization": f"Bearer {secret}", **headers}
        self.reply: Reply
        self.start()

    def run(self) -> None:
        begun_s = time.monotonic()
        body: dict[str, Any] = {
            "model": "m",
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": self._tokens,
            "ignore_eos": True,
        }
        self.reply = self._front.request("POST", "/v1/chat/completions", body, self._headers)
        self.ended_s = time.monotonic()
        self.took_s = self.ended_s - begun_s

    def status(self) -> int:
        self.join()
        return self.reply.status


def waiting(front: Gateway) -> int:
    length: int = front.admin("/admin/queues").json()["queues"]["m"]["length"]
    return length


def test_a_light_tenant_is_not_held_up_by_a_heavy_one(folder: Path, engine: Sim) -> None:
    with ready_gateway(folder, remote("m", engine, extra="concurrency = 2") + TENANTS) as front:
        heavy, light = secrets(front, "heavy", "light")
        flood = [Asked(front, heavy) for _ in range(40)]
        wait_until(lambda: waiting(front) >= 30, "a long line")

        quick = Asked(front, light)

        assert quick.status() == 200
        before = sum(one.status() == 200 and one.ended_s < quick.ended_s for one in flood)
        assert before <= 20  # of 40 that were there before it; in turn it would have been last
        assert quick.took_s < max(one.took_s for one in flood) / 2


def test_a_lower_class_waits_for_a_higher_one_and_is_served_all_the_same(folder: Path, engine: Sim) -> None:
    with ready_gateway(folder, remote("m", engine, extra="concurrency = 1") + TENANTS) as front:
        batch, light = secrets(front, "batch", "light")
        first = Asked(front, light, tokens=60)
        wait_until(lambda: front.admin("/admin/overview").json()["in_progress"] == 1, "the first to begin")
        low = [Asked(front, batch) for _ in range(4)]
        wait_until(lambda: waiting(front) == 4, "the lower class to wait")
        high = [Asked(front, light) for _ in range(4)]

        assert {one.status() for one in (first, *low, *high)} == {200}
        assert max(one.ended_s for one in high) < max(one.ended_s for one in low)


def test_a_full_line_turns_away_with_a_time_to_come_back(folder: Path, engine: Sim) -> None:
    with ready_gateway(
        folder,
        remote("m", engine),
        ENABLE_BACKPRESSURE="true",
        QUEUE_CAPACITY="2",
        MAX_CONCURRENT_REQUESTS="1",
    ) as front:
        secret = front.headers["Authorization"].removeprefix("Bearer ")
        asked = [Asked(front, secret, tokens=60) for _ in range(8)]
        replies = [one.reply for one in asked if one.status()]

        assert sorted(reply.status for reply in replies) == [200] * 3 + [503] * 5
        refused = next(reply for reply in replies if reply.status == 503)
        assert refused.json()["error"]["code"] == "queue_full"
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["x-penstock-fault"] == "gateway"


def test_a_set_concurrency_holds_from_the_first_request(folder: Path, engine: Sim) -> None:
    with ready_gateway(folder, remote("m", engine, extra="concurrency = 3")) as front:
        capacity = front.admin("/admin/queues").json()["queues"]["m"]["capacity"]

    assert capacity == 3


def test_a_wait_that_is_too_long_ends_with_the_phase(folder: Path, engine: Sim) -> None:
    extra = 'concurrency = 1\ntimeouts = { queue = "200ms" }'
    with ready_gateway(folder, remote("m", engine, extra=extra)) as front:
        secret = front.headers["Authorization"].removeprefix("Bearer ")
        first = Asked(front, secret, tokens=100)
        wait_until(lambda: front.admin("/admin/overview").json()["in_progress"] == 1, "the first to begin")
        second = Asked(front, secret)

        assert (first.status(), second.status()) == (200, 503)
        assert second.reply.json()["error"]["code"] == "queue_timeout"


def test_who_leaves_the_line_leaves_nothing_behind(folder: Path, engine: Sim) -> None:
    with ready_gateway(folder, remote("m", engine, extra="concurrency = 1")) as front:
        secret = front.headers["Authorization"].removeprefix("Bearer ")
        first = Asked(front, secret, tokens=100)
        wait_until(lambda: front.admin("/admin/overview").json()["in_progress"] == 1, "the first to begin")
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
        with front.connect() as sock:
            sock.sendall(
                f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            wait_until(lambda: waiting(front) == 1, "it to wait")

        wait_until(lambda: waiting(front) == 0, "it to be gone")
        assert first.status() == 200
        assert Asked(front, secret).status() == 200
        queue = front.admin("/admin/queues").json()["queues"]["m"]
        assert (queue["permits_out"], queue["capacity"]) == (0, 1)
        assert engine.seen() is not None
