"""The same metrics are pushed to a real OTLP receiver; one that is down, slow or refuses harms nothing."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from penstock.exporter.otlp import Push, PushError, beginnings
from penstock.telemetry.families import Families, Family, Gathered

NOW_NS = 1_700_000_000_000_000_000
HEAT = Family("penstock_gpu_temperature_celsius", "gauge", "Of its chip.", ("gpu",))
ENERGY = Family("penstock_gpu_energy_joules_total", "counter", "Since.", ("gpu",))


class Receiver(ThreadingHTTPServer):
    """Takes metrics; answers with `status`, after `delay_s`."""

    daemon_threads = True

    def __init__(self, status: int, delay_s: float, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.status, self.delay_s = status, delay_s
        self.released = threading.Event()
        self.taken: list[ExportMetricsServiceRequest] = []
        self.paths: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.taken.append(ExportMetricsServiceRequest.FromString(body))
        self.server.paths.append(self.path)
        if self.server.delay_s:
            self.server.released.wait(self.server.delay_s)
        self.send_response(self.server.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def receiver(status: int = 200, delay_s: float = 0.0, port: int = 0) -> Iterator[Receiver]:
    server = Receiver(status, delay_s, port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def pushing(endpoint: str, timeout_s: float = 5.0) -> Iterator[Push]:
    push = Push(endpoint, timeout_s, lambda: NOW_NS)
    try:
        yield push
    finally:
        push.close()


def families() -> list[Gathered]:
    found = Families()
    found.add(HEAT, 91.5, "0")
    found.add(HEAT, 40, "1")
    found.add(ENERGY, 1234, "0")
    return list(found)


def test_gauges_and_counters_arrive_as_they_are() -> None:
    with receiver() as server, pushing(f"http://127.0.0.1:{server.server_port}") as push:
        push.send(families())

    (request,) = server.taken
    (of_resource,) = request.resource_metrics
    heat, energy = of_resource.scope_metrics[0].metrics
    assert server.paths == ["/v1/metrics"]
    named = {each.key: each.value.string_value for each in of_resource.resource.attributes}
    assert named["service.name"] == "penstock-exporter"
    assert [(p.attributes[0].value.string_value, p.as_double) for p in heat.gauge.data_points] == [
        ("0", 91.5),
        ("1", 40.0),
    ]
    assert (energy.name, energy.sum.is_monotonic) == ("penstock_gpu_energy_joules_total", True)
    assert energy.sum.aggregation_temporality == 2  # cumulative
    (point,) = energy.sum.data_points
    assert point.start_time_unix_nano == point.time_unix_nano == NOW_NS  # since when it counts is not known


def test_a_counter_counts_since_it_was_seen_and_anew_where_it_fell() -> None:
    def seen(*values: float) -> list[Gathered]:
        found = Families()
        for place, value in enumerate(values):
            found.add(ENERGY, value, str(place))
        return list(found)

    begun = beginnings({}, seen(5, 9), 10)
    begun = beginnings(begun, seen(7, 2, 0), 20)
    begun = beginnings(begun, seen(7, 3), 30)

    name = ENERGY.name
    assert begun == {(name, ("0",)): (10, 7), (name, ("1",)): (20, 3)}


@pytest.mark.parametrize("status", [400, 401, 404])
def test_an_endpoint_that_refuses_is_an_error_that_says_so(status: int) -> None:
    with receiver(status) as server, pushing(f"http://127.0.0.1:{server.server_port}/v1/metrics") as push:
        error = refused(push)

    assert f":{server.server_port}/v1/metrics did not take the metrics: " in error.message
    assert str(status) in error.message
    assert error.hint


@pytest.mark.parametrize(("status", "delay_s"), [(503, 0.0), (200, 30.0)], ids=["unavailable", "slow"])
def test_an_endpoint_that_is_busy_or_slow_is_given_up(status: int, delay_s: float) -> None:
    with receiver(status, delay_s) as server:
        with pushing(f"http://127.0.0.1:{server.server_port}", timeout_s=0.3) as push:
            refused(push)

        assert not server.released.is_set()  # it was not waited for


def test_an_endpoint_that_is_down_is_an_error_and_gets_the_next_push_once_it_is_up() -> None:
    with receiver() as server:
        port = server.server_port
    with pushing(f"http://127.0.0.1:{port}", timeout_s=2.0) as push:
        refused(push)
        with receiver(port=port) as again:
            push.send(families())

    assert len(again.taken) == 1


def refused(push: Push) -> PushError:
    with pytest.raises(PushError) as caught:
        push.send(families())
    return caught.value
