"""A caller's own limits: refused with 429 and what is left, while other callers feel nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import (
    KEY,
    Gateway,
    Reply,
    Sim,
    gateway,
    ready_gateway,
    remote,
    sim_engine,
    wait_until,
)

TENANTS = """
[[tenants]]
name = "few"
requests_per_minute = 3
[[tenants]]
name = "small"
tokens_per_minute = 200
[[tenants]]
name = "one-at-a-time"
parallel_requests = 1
[[tenants]]
name = "poor"
budget = { per_day_usd = 0.001 }
[[tenants]]
name = "picky"
models = ["other"]
[[tenants]]
name = "free"
"""
PRICE = "price = { prompt_usd_per_million = 0, completion_usd_per_million = 10 }"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with sim_engine(tmp_path_factory.mktemp("engine"), "--model", "m", "--base-step-s", "0.001") as sim:
        yield sim


@pytest.fixture
def front(folder: Path, engine: Sim) -> Iterator[Gateway]:
    toml = remote("m", engine, extra=PRICE) + remote("other", engine) + TENANTS
    with ready_gateway(folder, toml) as server:
        yield server


def key_of(front: Gateway, tenant: str, *terms: str) -> str:
    """A new key of this tenant, once the gateway knows it."""
    made = front.penstock("keys", "create", "--tenant", tenant, "--json", *terms)
    assert made.returncode == 0, made.stderr
    secret: str = json.loads(made.stdout)["secret"]
    wait_until(lambda: models(front, secret).status in (200, 403), "the key to be known")
    return secret


def models(front: Gateway, secret: str) -> Reply:
    return front.request("GET", "/v1/models", headers={"Authorization": f"Bearer {secret}"})


def ask(front: Gateway, secret: str, **members: object) -> Reply:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10, **members}
    return front.request("POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {secret}"})


def test_requests_per_minute_are_counted_down_and_then_refused(front: Gateway) -> None:
    few, free = key_of(front, "few"), key_of(front, "free")

    replies = [ask(front, few) for _ in range(4)]

    assert [reply.status for reply in replies] == [200, 200, 200, 429]
    assert [reply.headers["x-ratelimit-remaining-requests"] for reply in replies] == ["2", "1", "0", "0"]
    assert {reply.headers["x-ratelimit-limit-requests"] for reply in replies} == {"3"}
    refused = replies[-1]
    assert 1 <= int(refused.headers["retry-after"]) <= 20
    assert refused.headers["x-penstock-fault"] == "client"
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert "requests_per_minute of tenant:few is 3" in refused.json()["error"]["message"]
    assert ask(front, free).status == 200


def test_all_keys_of_a_tenant_are_counted_together(front: Gateway) -> None:
    one, two = key_of(front, "few"), key_of(front, "few")

    statuses = [ask(front, secret).status for secret in (one, two, one, two)]

    assert statuses == [200, 200, 200, 429]


def test_a_key_has_limits_of_its_own(front: Gateway) -> None:
    limited, other = key_of(front, "free", "--requests-per-minute", "1"), key_of(front, "free")

    statuses = [ask(front, secret).status for secret in (limited, limited, other)]

    assert statuses == [200, 429, 200]


def test_tokens_are_reserved_before_and_settled_after(front: Gateway) -> None:
    small = key_of(front, "small")

    first = ask(front, small, max_tokens=100)  # reserves more than half
    second = ask(front, small, max_tokens=100)  # fits, for the first one's answer was settled

    assert first.status == second.status == 200
    used = first.json()["usage"]["total_tokens"] + second.json()["usage"]["total_tokens"]
    left = int(ask(front, small, max_tokens=1).headers.get("x-ratelimit-remaining-tokens", "-1"))
    assert 0 <= left <= 200 - used + 30  # refilled by a few seconds


def test_a_request_that_can_never_pass_is_told_so(front: Gateway) -> None:
    reply = ask(front, key_of(front, "small"), max_tokens=100_000)

    assert (reply.status, reply.json()["error"]["code"]) == (429, "request_too_large_for_limit")
    assert "retry-after" not in reply.headers


def test_parallel_requests_are_counted_to_the_last_byte(front: Gateway, engine: Sim) -> None:
    secret = key_of(front, "one-at-a-time")
    engine.script("stall_after_tokens=2")
    body = json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, "stream": True}
    )
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\n"
    with front.connect() as open_stream:
        open_stream.sendall(
            f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        assert open_stream.recv(4096).startswith(b"HTTP/1.1 200")

        meanwhile = ask(front, secret)

    assert meanwhile.status == 429
    assert "parallel_requests" in meanwhile.json()["error"]["message"]
    wait_until(lambda: ask(front, secret).status == 200, "the slot to come back when its client has left")


def test_parallel_callers_never_pass_a_limit_together(front: Gateway) -> None:
    few = key_of(front, "few")
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(ask(front, few).status)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(statuses) == [200] * 3 + [429] * 9


def test_money_runs_out_and_stays_so_after_a_restart(folder: Path, engine: Sim) -> None:
    toml = remote("m", engine, extra=PRICE) + TENANTS.replace('models = ["other"]', "")
    with ready_gateway(folder, toml) as front:
        poor = key_of(front, "poor")  # 0.001 dollars buy 100 tokens

        first, second = (ask(front, poor, max_tokens=90, ignore_eos=True) for _ in range(2))

        assert (first.status, second.status) == (200, 429)
        assert "usd_per_day of tenant:poor" in second.json()["error"]["message"]
        assert int(second.headers["retry-after"]) > 0
    with ready_gateway(folder, toml) as front:
        assert ask(front, poor, max_tokens=90).status == 429
        assert ask(front, poor, max_tokens=1).status == 200


def test_a_tenant_is_served_only_the_models_that_it_may_use(front: Gateway) -> None:
    picky = key_of(front, "picky")

    refused, allowed = ask(front, picky), ask(front, picky, model="other")

    assert (refused.status, refused.json()["error"]["code"]) == (403, "model_not_allowed")
    assert "it may use: other" in refused.json()["error"]["hint"]
    assert allowed.status == 404  # by the engine, which is called m: it was let through to it
    assert [one["id"] for one in models(front, picky).json()["data"]] == ["other"]


def test_a_key_without_the_scope_can_not_be_used_for_inference(front: Gateway) -> None:
    reply = ask(front, key_of(front, "free", "--scope", "admin"))

    assert (reply.status, reply.json()["error"]["code"]) == (403, "scope_missing")


def test_a_key_of_a_deleted_tenant_is_refused(folder: Path, engine: Sim) -> None:
    with ready_gateway(folder, remote("m", engine) + TENANTS.replace('models = ["other"]', "")) as front:
        secret = key_of(front, "free")
    with ready_gateway(folder, remote("m", engine)) as front:
        reply = ask(front, secret)

    assert (reply.status, reply.json()["error"]["code"]) == (403, "tenant_unknown")


def test_a_revoked_key_is_refused_within_a_second(front: Gateway) -> None:
    made = json.loads(front.penstock("keys", "create", "--json").stdout)
    wait_until(lambda: ask(front, made["secret"]).status == 200, "the key to be known")

    front.penstock("keys", "revoke", made["id"])

    wait_until(lambda: ask(front, made["secret"]).status == 401, "the key to be refused", patience_s=1.0)


def test_one_address_may_make_so_many_requests_in_a_second(folder: Path, engine: Sim) -> None:
    with gateway(folder, remote("m", engine), PENSTOCK_GATEWAY__ADDRESS_REQUESTS_PER_SECOND="1") as front:
        replies = [front.request("GET", "/health") for _ in range(20)]

        refused = [reply for reply in replies if reply.status == 429]
        assert refused
        assert refused[0].json()["error"]["code"] == "too_many_requests_from_address"
        assert int(refused[0].headers["retry-after"]) >= 1


def test_an_address_behind_a_trusted_proxy_is_the_one_that_counts(folder: Path, engine: Sim) -> None:
    with gateway(
        folder,
        remote("m", engine),
        PENSTOCK_GATEWAY__ADDRESS_REQUESTS_PER_SECOND="1",
        PENSTOCK_GATEWAY__TRUSTED_PROXIES="127.0.0.0/8",
    ) as front:
        statuses = [
            front.request("GET", "/health", headers={"X-Forwarded-For": f"203.0.113.{number}"}).status
            for number in range(20)
        ]

        assert statuses == [200] * 20


def test_a_shorter_time_limit_of_the_client_counts_and_a_longer_one_does_not(
    front: Gateway, engine: Sim
) -> None:
    engine.script("stall_before_first", requests=1)

    reply = front.request(
        "POST",
        "/v1/chat/completions",
        {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
        {"X-Request-Timeout": "300ms"},
    )

    assert (reply.status, reply.json()["error"]["code"]) == (504, "total_timeout")
    bad = front.request("POST", "/v1/chat/completions", {}, {"X-Request-Timeout": "soon"})
    assert bad.status == 400


def test_the_shared_test_key_belongs_to_the_default_tenant(front: Gateway) -> None:
    reply = ask(front, KEY)

    assert front.record(reply.headers["x-request-id"])["tenant"] == "default"
