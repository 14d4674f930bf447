"""The admin API and the commands that read it."""

from __future__ import annotations

import json

import pytest

from tests.e2e.processes import Gateway, Sim


@pytest.mark.parametrize("path", ["/admin/overview", "/admin/fleet", "/admin/queues", "/admin/limits"])
def test_the_admin_api_asks_for_its_key(front: Gateway, path: str) -> None:
    assert front.admin(path).status == 200
    assert front.admin(path, key="").json()["error"]["code"] == "missing_api_key"
    assert front.admin(path, key="wrong").status == 401


def test_an_api_key_opens_it_only_with_the_scope(front: Gateway) -> None:
    ordinary = front.headers["Authorization"].removeprefix("Bearer ")
    made = json.loads(front.penstock("keys", "create", "--scope", "admin", "--json").stdout)

    refused = front.admin("/admin/fleet", key=ordinary)

    assert (refused.status, refused.json()["error"]["code"]) == (403, "scope_missing")
    assert front.admin("/admin/fleet", key=made["secret"]).status in (200, 401)  # known within a second


def test_metrics_need_no_key(front: Gateway) -> None:
    assert front.admin("/metrics", key="").status == 200


def test_the_admin_api_is_not_on_the_public_listener(front: Gateway) -> None:
    assert front.request("GET", "/admin/fleet").status == 404
    assert front.request("GET", "/metrics").status == 404


def test_the_fleet_is_shown_with_its_evidence_and_load(front: Gateway, sim: Sim) -> None:
    replica = front.admin("/admin/fleet").json()["replicas"][0]

    assert (replica["name"], replica["state"], replica["address"]) == (
        "m-0",
        "ready",
        f"127.0.0.1:{sim.port}",
    )
    assert replica["cause"] == "a token came"
    assert replica["in_flight"] == 0
    assert replica["concurrency"] >= 1


def test_status_shows_states_and_load(front: Gateway) -> None:
    told = front.penstock("status")

    assert "m-0" in told.stdout
    assert "ready" in told.stdout
    assert json.loads(front.penstock("status", "--json").stdout)["replicas"][0]["state"] == "ready"


def test_top_prints_one_screen_where_there_is_no_terminal(front: Gateway) -> None:
    told = front.penstock("top")

    assert told.returncode == 0, told.stderr
    for word in ("REPLICA", "m-0", "QUEUE", "PERMITS", "tenant:default"):
        assert word in told.stdout


def test_top_says_that_nothing_answers(front: Gateway) -> None:
    other = Gateway(front.process, front.port, front.log, front.headers, 1, front.home)

    told = other.penstock("top")

    assert told.returncode == 1
    assert "no gateway answers at" in told.stderr
