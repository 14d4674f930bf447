"""What a real gateway's `/metrics` shows: bounded, right, and by the objectives of its configuration."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.processes import KEY, Gateway, Sim, ready_gateway, remote, wait_until

SLO = """
slo = { availability = 99, goodput = 95, ttft = { p = 95, under = "333ms" }, e2e = { under = "1m" } }
"""
MADE_UP = 10_000

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory, sim: Sim) -> Iterator[Gateway]:
    with ready_gateway(tmp_path_factory.mktemp("front"), remote("m", sim, extra=SLO)) as server:
        yield server


def page(of: Gateway) -> Samples:
    text = of.admin("/metrics", key="").body.decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(samples: Samples, name: str, **labels: str) -> float:
    return sum(
        v
        for (found, values), v in samples.items()
        if found == name and labels.items() <= dict(values).items()
    )


def made_up(number: int) -> bytes:
    """A request whose model, key, path or method nobody has heard of."""
    kind, model, key, path, method = number % 4, "m", KEY, "/v1/completions", "POST"
    if kind == 0:
        model = f"made-up-{number}"
    elif kind == 1:
        key = f"sk-made-up-{number}"
    elif kind == 2:
        path = f"/v1/made-up-{number}"
    else:
        method = ("GET", "PUT", "PATCH", "DELETE")[number % 16 // 4]
        path = f"/made-up-{number}"
    body = json.dumps({"model": model, "prompt": "hi", "max_tokens": 1}).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n"
        f"X-Priority: made-up-{number}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def send(server: Gateway, requests: Iterator[bytes]) -> None:
    """Sends them one after the other, on as few connections as the gateway allows."""
    sock = server.connect()
    for request in requests:
        sock.sendall(request)
        head, _, body = read_head(sock)
        lines = head.lower().split(b"\r\n")
        size = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        while len(body) < size:
            body += sock.recv(65536)
        if b"connection: close" in lines:
            sock.close()
            sock = server.connect()
    sock.close()


def read_head(sock: socket.socket) -> tuple[bytes, bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        assert more, data
        data += more
    return data.partition(b"\r\n\r\n")


def test_made_up_models_keys_paths_and_methods_add_no_series(front: Gateway) -> None:
    assert front.ask("hi", "m", max_tokens=1).status == 200
    send(front, map(made_up, range(32)))
    wait_until(
        lambda: total(page(front), "penstock_errors_total", code="model_not_found") >= 8, "them to be counted"
    )
    before = page(front)

    send(front, map(made_up, range(32, MADE_UP)))

    wait_until(
        lambda: total(page(front), "penstock_errors_total", code="model_not_found") == MADE_UP / 4,
        "all to be counted",
    )
    after = page(front)
    assert {key for key in after if key not in before} == set()
    assert len(after) < 1000
    assert not any("made-up" in value for _, labels in after for _, value in labels)


def test_every_request_is_judged_by_the_objectives_of_its_model(front: Gateway) -> None:
    before = page(front)

    front.request("POST", "/v1/completions", {"model": "m", "prompt": "hi", "max_tokens": 3, "stream": True})
    slow = {"model": "m", "prompt": "hi", "max_tokens": 1, "stream": True, "sim_fault": "freeze=0.5s"}
    front.request("POST", "/v1/completions", slow)
    broken = {"model": "m", "prompt": "hi", "max_tokens": 9, "stream": True, "sim_fault": "status=501"}
    front.request("POST", "/v1/completions", broken)

    def judged(name: str, objective: str) -> float:
        labels = {"objective": objective}
        return total(page(front), name, **labels) - total(before, name, **labels)

    wait_until(lambda: judged("penstock_slo_requests_total", "availability") == 3, "all to be judged")
    assert judged("penstock_slo_good_requests_total", "availability") == 2
    assert judged("penstock_slo_requests_total", "goodput") == 3
    assert judged("penstock_slo_good_requests_total", "goodput") == 1
    assert judged("penstock_slo_requests_total", "ttft") == 2
    assert judged("penstock_slo_good_requests_total", "ttft") == 1


def test_a_limit_is_a_boundary_that_says_the_same_as_the_counter(front: Gateway) -> None:
    found = page(front)

    assert total(found, "penstock_ttft_seconds_bucket", model="m", le="0.333") == total(
        found, "penstock_slo_good_requests_total", model="m", objective="ttft"
    )


def test_a_stream_that_has_fallen_silent_is_seen_while_it_is(front: Gateway) -> None:
    body = {
        "model": "m",
        "prompt": "hi",
        "max_tokens": 9,
        "stream": True,
        "sim_fault": "stall_after_tokens=2",
    }
    text = json.dumps(body).encode()
    with front.connect() as sock:
        sock.sendall(
            f"POST /v1/completions HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {KEY}\r\n"
            f"Content-Length: {len(text)}\r\n\r\n".encode()
            + text
        )
        wait_until(
            lambda: total(page(front), "penstock_stream_silence_max_seconds", model="m") > 0.3, "silence"
        )

        assert total(page(front), "penstock_streams", model="m") == 1

    wait_until(lambda: total(page(front), "penstock_streams", model="m") == 0, "the stream to be gone")


def test_a_reload_with_mistakes_is_seen(front: Gateway) -> None:
    config = front.log.parent / "penstock.toml"
    good = config.read_text()

    config.write_text("[gateway]\nnonsense = 1\n")
    assert front.admin("/admin/reload", "POST").status == 400
    refused = page(front)
    config.write_text(good.replace("333ms", "444ms"))
    assert front.admin("/admin/reload", "POST").status == 200
    applied = page(front)

    assert total(refused, "penstock_config_reload_failed") == 1
    assert total(applied, "penstock_config_reload_failed") == 0
    assert total(applied, "penstock_config_reloads_total", result="refused") == 1
    assert total(applied, "penstock_slo_limit_seconds", objective="ttft") == 0.444
    assert total(applied, "penstock_ttft_seconds_bucket", le="0.444", model="m") == 0


def test_workers_have_the_same_boundaries_and_their_counts_add_up(tmp_path: Path, sim: Sim) -> None:
    with ready_gateway(tmp_path, remote("m", sim, extra=SLO), PENSTOCK_GATEWAY__WORKERS="2") as front:
        for _ in range(12):
            wait_until(lambda: front.ask("hi", "m", max_tokens=1).status == 200, "an answer")

        def edges() -> dict[str, set[str]] | None:
            """The boundaries of each worker, once both show theirs, and all is counted."""
            found = page(front)
            seen: dict[str, set[str]] = {}
            for name, labels in found:
                if name == "penstock_ttft_seconds_bucket":
                    seen.setdefault(dict(labels)["worker"], set()).add(dict(labels)["le"])
            good = total(found, "penstock_slo_good_requests_total", objective="availability")
            return seen if len(seen) == 2 and good == 12 else None

        both = wait_until(edges, "both workers to show all")

    assert both["0"] == both["1"]
    assert "0.333" in both["0"]
