"""What `/metrics` shows is right, and does not grow with what clients make up."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from penstock.core.config import Address
from penstock.core.record import Attempt, Outcome, RequestRecord, Usage
from penstock.policy.fleet import Fleet, Replica, State
from penstock.telemetry.metrics import Metrics


def record(route: str = "/v1/chat/completions", **members: Any) -> RequestRecord:
    return RequestRecord("req_1", "POST", route, arrived_s=100.0, started_at=1e9, **members)


def complete(model: str = "m") -> RequestRecord:
    return record(
        model=model,
        status=200,
        outcome=Outcome.COMPLETE,
        first_token_s=100.5,
        last_token_s=101.5,
        ended_s=102.0,
        usage=Usage(7, 3, "engine"),
        attempts=[Attempt("a", "least_load", 100.0, failure="lost"), Attempt("b", "last_untried", 100.1)],
    )


def metrics(fleet: Fleet | None = None, in_progress: int = 0) -> Metrics:
    return Metrics(lambda: fleet or Fleet(), lambda: in_progress)


def samples(of: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = of.exposition().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_request_is_counted_once_in_every_place() -> None:
    m = metrics()
    m.observe([complete()])

    found = samples(m)
    labels = {
        "route": "/v1/chat/completions", "model": "m", "status": "200", "outcome": "complete", "fault": "",
    }  # fmt: skip
    model = (("model", "m"),)
    assert found["penstock_requests_total", tuple(sorted(labels.items()))] == 1
    assert found["penstock_request_duration_seconds_sum", model] == 2.0
    assert found["penstock_ttft_seconds_sum", model] == 0.5
    assert found["penstock_tpot_seconds_sum", model] == 0.5
    assert found["penstock_gateway_overhead_seconds_count", model] == 1
    assert found["penstock_tokens_total", (("kind", "prompt"), ("model", "m"))] == 7
    assert found["penstock_tokens_total", (("kind", "completion"), ("model", "m"))] == 3
    assert found["penstock_retries_total", (("failure", "lost"), ("model", "m"))] == 1


def test_a_request_that_was_refused_has_no_times_of_an_answer() -> None:
    m = metrics()
    m.observe([record(status=401, fault="client")])

    found = samples(m)
    assert found["penstock_ttft_seconds_count", (("model", "other"),)] == 0
    assert found["penstock_request_duration_seconds_count", (("model", "other"),)] == 0


def test_routes_that_clients_make_up_add_no_series() -> None:
    m = metrics()
    m.observe([record("/v1/made-up", status=404, fault="client")])
    before = len(samples(m))

    for i in range(10_000):
        m.observe([record(f"/v1/made-up-{i}", status=404, fault="client")])

    found = samples(m)
    assert len(found) == before
    assert sum(value for (name, _), value in found.items() if name == "penstock_requests_total") == 10_001
    assert not any("made-up" in str(labels) for _, labels in found)


def test_requests_and_replicas_of_now_are_asked_for_at_each_scrape() -> None:
    replica = Replica("a", "m", "sim", Address("h", 1), "sk-secret", state=State.READY)
    m = metrics(Fleet((replica,)), in_progress=4)

    found = samples(m)
    assert found["penstock_requests_in_progress", ()] == 4
    assert found["penstock_replicas", (("model", "m"), ("state", "ready"))] == 1
    assert found["penstock_replicas", (("model", "m"), ("state", "loading"))] == 0
    assert "sk-secret" not in m.exposition().decode()
