"""Whose an idempotency key is, and how long it is known."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Gateway, Reply, Sim, gateway, ready_gateway, remote, sim_engine, wait_until

TENANTS = '[[tenants]]\nname = "other"\n'


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with sim_engine(tmp_path_factory.mktemp("engine"), "--model", "m", "--base-step-s", "0.02") as sim:
        yield sim


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory, engine: Sim) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("front")
    with ready_gateway(folder, remote("m", engine) + TENANTS) as server:
        yield server


def chat(text: str, *, stream: bool = False, tokens: int = 20) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "m", "messages": messages, "stream": stream, "max_tokens": tokens, "ignore_eos": True}


def post(front: Gateway, body: Mapping[str, Any], key: str, **headers: str) -> Reply:
    return front.request("POST", "/v1/chat/completions", body, {"Idempotency-Key": key, **headers})


def started(engine: Sim) -> int:
    count: int = engine.seen()["started"]
    return count


def test_other_tenants_do_not_see_a_key(front: Gateway, engine: Sim) -> None:
    secret = json.loads(front.penstock("keys", "create", "--tenant", "other", "--json").stdout)["secret"]
    other = {"Authorization": f"Bearer {secret}"}
    wait_until(lambda: front.request("GET", "/v1/models", headers=other).status == 200, "the key to be known")
    post(front, chat("mine"), "k5")
    before = started(engine)

    reply = post(front, chat("theirs"), "k5", **other)

    assert reply.status == 200
    assert "idempotent-replayed" not in reply.headers
    assert started(engine) == before + 1


def test_an_answer_survives_a_restart_of_the_gateway_and_needs_no_engine_then(
    folder: Path, engine: Sim
) -> None:
    with ready_gateway(folder, remote("m", engine)) as front:
        first = post(front, chat("kept"), "k7")
        front.stop()
    with gateway(
        folder, '[[models]]\nname = "m"\nengine = "remote"\nsource = "http://127.0.0.1:9"\n'
    ) as front:
        again = post(front, chat("kept"), "k7")

    assert again.body == first.body
