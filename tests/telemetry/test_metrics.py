"""What `/metrics` shows is right, and does not grow with what clients make up."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.tools import needs

from penstock.core.config import Address, ModelConfig
from penstock.core.record import Attempt, Outcome, RequestRecord, Usage
from penstock.core.times import Times
from penstock.gateway.hedge import OUTRUN
from penstock.policy.breaker import Breaker, Trust
from penstock.policy.fleet import Fleet, Replica, State
from penstock.store.runtime import PartReport
from penstock.telemetry.boundaries import TOKEN_S
from penstock.telemetry.catalog import CATALOG
from penstock.telemetry.families import Families, Family, exposition
from penstock.telemetry.fleet_state import fleet_lines, part_lines
from penstock.telemetry.metrics import Metrics
from penstock.telemetry.request_counts import SERIES_MAX

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def model(name: str = "m", **slo: Any) -> ModelConfig:
    return ModelConfig.model_validate({"name": name, "engine": "sim", "slo": slo})


def record(route: str = "/v1/chat/completions", **members: Any) -> RequestRecord:
    return RequestRecord("req_1", "POST", route, arrived_s=100.0, started_at=1e9, **members)


def complete(**members: Any) -> RequestRecord:
    given = {
        "model": "m",
        "stream": True,
        "status": 200,
        "priority": "batch",
        "outcome": Outcome.COMPLETE,
        "lined_up_s": 100.0,
        "admitted_s": 100.25,
        "first_token_s": 100.5,
        "last_token_s": 101.5,
        "ended_s": 102.0,
        "usage": Usage(7, 3, "engine"),
        "attempts": [Attempt("a", "least_load", 100.25, failure="lost"), Attempt("b", "last_untried", 100.5)],
    }
    return record(**{**given, **members})


def metrics(*models: ModelConfig) -> Metrics:
    return Metrics(models or (model(),), on_bug=lambda where, error: None)


def samples(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def page(of: Metrics) -> Samples:
    return samples(of.exposition().decode())


def labels(**values: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(values.items()))


def test_a_request_is_counted_once_in_every_place() -> None:
    m = metrics()
    m.observe([complete()])

    found = page(m)
    ending = labels(
        route="/v1/chat/completions",
        model="m",
        status="200",
        outcome="complete",
        fault="",
        **{"class": "batch"},
    )
    assert found["penstock_requests_total", ending] == 1
    assert found["penstock_request_duration_seconds_sum", labels(model="m", outcome="complete")] == 2.0
    assert found["penstock_ttft_seconds_sum", labels(model="m")] == 0.5
    assert found["penstock_tpot_seconds_sum", labels(model="m")] == 0.5
    assert found["penstock_queue_wait_seconds_sum", labels(model="m", **{"class": "batch"})] == 0.25
    assert found["penstock_gateway_overhead_seconds_count", labels(model="m")] == 1
    assert found["penstock_tokens_total", labels(kind="prompt", model="m")] == 7
    assert found["penstock_tokens_total", labels(kind="completion", model="m")] == 3
    assert found["penstock_retries_total", labels(failure="lost", model="m")] == 1


def test_only_what_failed_before_its_client_saw_a_byte_counts_as_tried_again() -> None:
    m = metrics()
    outrun = Attempt("a", "least_load", 100.25, failure=OUTRUN)
    cut = Attempt("a", "least_load", 100.25, status=200, failure="engine_connection_lost")
    refused = Attempt("b", "continue", 100.5, failure="refused")
    last = Attempt("c", "continue", 100.5)
    m.observe(
        [
            complete(hedged=True, attempts=[outrun, last]),
            complete(continuations=1, attempts=[cut, refused, last]),
        ]
    )

    retries = {names: value for (name, names), value in page(m).items() if name == "penstock_retries_total"}
    assert retries == {labels(model="m", failure="refused"): 1}


def test_who_waited_in_vain_has_waited_and_who_was_turned_away_at_once_has_not() -> None:
    m = metrics()
    m.observe(
        [
            record(model="m", lined_up_s=100.0, ended_s=130.0, error_code="queue_timeout", fault="gateway"),
            record(model="m", lined_up_s=100.0, ended_s=100.0, error_code="queue_full", fault="gateway"),
        ]
    )

    waits = labels(model="m", **{"class": "none"})
    assert page(m)["penstock_queue_wait_seconds_sum", waits] == 30.0
    assert page(m)["penstock_queue_wait_seconds_count", waits] == 1


def test_gaps_are_those_of_the_streams_that_were_measured() -> None:
    m = metrics()
    gaps = Times(TOKEN_S)
    gaps.observe(0.02, 9)
    gaps.observe(4.0)
    m.observe([complete(gaps=gaps), complete(), complete(gaps=gaps)])
    m.follow([model(tpot={"under": "44ms"})])  # it has no bearing on them

    found = page(m)
    assert found["penstock_itl_seconds_count", labels(model="m")] == 20
    assert found["penstock_itl_seconds_sum", labels(model="m")] == pytest.approx(8.36)
    assert found["penstock_itl_seconds_bucket", labels(model="m", le="0.02")] == 18
    assert found["penstock_itl_seconds_bucket", labels(model="m", le="2.5")] == 18


def test_a_request_that_was_refused_has_no_times_of_an_answer() -> None:
    m = metrics()
    m.observe([record(status=401, fault="client", ended_s=100.001)])

    found = page(m)
    assert found["penstock_ttft_seconds_count", labels(model="other")] == 0
    assert found["penstock_request_duration_seconds_count", labels(model="other", outcome="complete")] == 0
    assert found["penstock_request_duration_seconds_count", labels(model="other", outcome="rejected")] == 1


def test_an_engine_s_error_that_came_whole_is_no_whole_answer() -> None:
    m = metrics()
    m.observe([complete(status=500, fault="engine", error_code="engine_status_500")])

    found = page(m)
    assert found["penstock_request_duration_seconds_count", labels(model="m", outcome="complete")] == 0
    assert found["penstock_request_duration_seconds_count", labels(model="m", outcome="rejected")] == 1
    outcomes = {dict(names)["outcome"] for name, names in found if name == "penstock_requests_total"}
    assert outcomes == {"rejected"}


def test_why_a_request_was_turned_away_is_told_by_the_line_and_by_the_limit() -> None:
    m = metrics()
    m.observe(
        [
            record(model="m", status=503, priority="standard", error_code="queue_full", fault="gateway"),
            record(
                model="m", status=429, error_code="rate_limit_exceeded", limit="usd_per_day", fault="client"
            ),
            record(status=429, error_code="too_many_requests_from_address", fault="client"),
        ]
    )

    found = page(m)
    away = labels(model="m", reason="queue_full", **{"class": "standard"})
    assert found["penstock_queue_rejections_total", away] == 1
    assert found["penstock_limits_hit_total", labels(model="m", limit="usd_per_day")] == 1
    assert found["penstock_limits_hit_total", labels(model="other", limit="address_requests_per_second")] == 1


def test_what_clients_and_engines_make_up_adds_no_series() -> None:
    m = metrics()
    m.observe([record("/v1/made-up", model="made-up", status=404, fault="client")])
    before = len(page(m))

    for i in range(10_000):
        m.observe([record(f"/v1/made-up-{i}", model=f"made-up-{i}", status=404, fault="client")])

    found = page(m)
    assert len(found) == before
    assert sum(value for (name, _), value in found.items() if name == "penstock_requests_total") == 10_001
    assert not any("made-up" in str(names) for _, names in found)


def test_no_family_grows_beyond_its_bound() -> None:
    m = metrics()
    for i in range(SERIES_MAX + 100):
        m.observe([record(model="m", status=599, error_code=f"engine_status_{i}", fault="engine")])

    found = {names: value for (name, names), value in page(m).items() if name == "penstock_errors_total"}
    assert len(found) == SERIES_MAX + 1
    assert found[labels(model="other", code="other")] == 100


def test_objectives_are_shown_from_the_first_scrape_on_and_judged_by_the_limits_in_force() -> None:
    m = metrics(model(availability=99.9, ttft={"under": "400ms"}))
    good, judged = "penstock_slo_good_requests_total", "penstock_slo_requests_total"
    ttft = labels(model="m", objective="ttft")
    assert (page(m)[judged, ttft], page(m)[good, ttft]) == (0, 0)

    m.observe([complete()])  # its first token came after 500 ms
    m.follow([model(availability=99.9, ttft={"under": "600ms"})])
    m.observe([complete()])

    found = page(m)
    assert (found[judged, ttft], found[good, ttft]) == (2, 1)
    assert found["penstock_slo_target_ratio", ttft] == 0.95
    assert found["penstock_slo_limit_seconds", ttft] == 0.6
    assert found[good, labels(model="m", objective="availability")] == 2
    assert (good, labels(model="m", objective="goodput")) not in found


def test_every_limit_is_a_boundary_of_its_histogram_for_every_model() -> None:
    m = metrics(model(ttft={"under": "333ms"}), model("n", tpot={"under": "44ms"}, e2e={"under": "7s"}))
    m.observe([complete(), complete(model="n")])

    found = page(m)
    for name in ("m", "n"):
        assert found["penstock_ttft_seconds_bucket", labels(model=name, le="0.333")] == 0
        assert found["penstock_tpot_seconds_bucket", labels(model=name, le="0.044")] == 0
        assert (
            found[
                "penstock_request_duration_seconds_bucket", labels(model=name, outcome="complete", le="7.0")
            ]
            == 1
        )


def test_a_model_that_a_reload_added_has_the_boundaries_of_the_others() -> None:
    limited = model("m", tpot={"under": "44ms"})
    m = metrics(limited)
    m.observe([complete()])
    m.follow([limited, model("n")])
    m.observe([complete(model="n")])

    found = page(m)
    assert found["penstock_tpot_seconds_bucket", labels(model="n", le="0.044")] == 0
    assert found["penstock_tpot_seconds_count", labels(model="m")] == 1  # it has gone on


def test_a_model_that_a_reload_removed_is_forgotten() -> None:
    m = metrics(model("m"), model("n"))
    m.observe([complete(), complete(model="n")])
    m.follow([model("n")])

    found = page(m)
    assert ("penstock_ttft_seconds_count", labels(model="m")) not in found
    assert found["penstock_ttft_seconds_count", labels(model="n")] == 1


def test_a_source_that_fails_costs_its_own_part_alone() -> None:
    bugs: list[str] = []
    m = Metrics([model()], on_bug=lambda where, error: bugs.append(str(error)))
    m.add(lambda: [str(1 // 0)])
    m.add(lambda: ["after 1"])

    text = m.exposition().decode()
    assert "\nafter 1\n" in text
    assert "penstock_build_info" in text
    assert len(bugs) == 1


def test_replicas_are_shown_by_state_and_one_by_one_without_their_keys() -> None:
    replica = Replica("a", "m", "sim", Address("h", 1), "sk-secret", state=State.READY)
    breakers = {"a": Breaker(state=Trust.OPEN, until_s=20.0)}

    text = "\n".join(fleet_lines(Fleet((replica,)), {"a": 3}, breakers, ["m", "n"], now_s=10.0)) + "\n"

    found = samples(text)
    assert found["penstock_replicas", labels(model="m", state="ready")] == 1
    assert found["penstock_replicas", labels(model="n", state="ready")] == 0
    assert found["penstock_replica_state", labels(model="m", replica="a", state="ready")] == 1
    assert found["penstock_replica_in_flight", labels(model="m", replica="a")] == 3
    assert found["penstock_breaker_state", labels(model="m", replica="a", state="open")] == 1
    assert "sk-secret" not in text


def test_a_breaker_whose_time_is_over_is_not_shown_as_open_where_nobody_asks() -> None:
    replica = Replica("a", "m", "sim", Address("h", 1), "", state=State.READY)
    breakers = {"a": Breaker(state=Trust.OPEN, until_s=20.0)}

    text = "\n".join(fleet_lines(Fleet((replica,)), {}, breakers, ["m"], now_s=20.0)) + "\n"

    assert samples(text)["penstock_breaker_state", labels(model="m", replica="a", state="half_open")] == 1


def test_parts_tell_how_often_they_were_started_again() -> None:
    text = "\n".join(part_lines([PartReport("m-0", "given_up", restarts=4)])) + "\n"

    found = samples(text)
    assert found["penstock_part_life", labels(part="m-0", life="given_up")] == 1
    assert found["penstock_part_restarts_total", labels(part="m-0")] == 4


def test_a_label_may_hold_what_its_text_must_not() -> None:
    name = 'a"b\\c'
    m = metrics(model(name))
    m.observe([complete(model=name)])

    assert page(m)["penstock_ttft_seconds_count", labels(model=name)] == 1


def test_promtool_finds_nothing_wrong_with_a_page_of_a_gateway_or_an_exporter() -> None:
    promtool = needs("promtool", "prometheus")
    m = metrics(model(availability=99.9), model('a"b\\c'))
    m.observe([complete(), record(status=503, error_code="queue_full", fault="gateway")])
    read = Families()
    read.add(Family("penstock_gpu_xid_errors_total", "counter", "Xids.", ("name",)), 2**60, 'of\ntwo "lines"')
    read.add(Family("penstock_gpu_energy_joules", "gauge", "Since."), 1e-9)

    done = subprocess.run(
        [promtool, "check", "metrics"],
        input=m.exposition() + exposition(read),
        capture_output=True,
        timeout=60,
    )

    assert (done.returncode, done.stderr) == (0, b"")


def test_names_are_unique_and_end_in_what_they_count() -> None:
    families = [family for _, group in CATALOG for family in group]
    names = [family.name for family in families]

    assert len(set(names)) == len(names)
    assert all(family.name.endswith("_total") == (family.kind == "counter") for family in families)
    assert all(family.name.endswith("_seconds") for family in families if family.kind == "histogram")
