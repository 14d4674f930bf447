"""`python -m benchmarks.metrics`: what metrics cost: a request counted, a gap measured, a page of 50 models made."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any, cast

if not __package__:  # started by its path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from penstock.core.address import Address
from penstock.core.config import ModelConfig
from penstock.core.record import Attempt, Outcome, RequestRecord, Usage
from penstock.core.times import Times
from penstock.engines.exchange import Exchange, PhaseTimeouts
from penstock.gateway.line import LineSnapshot
from penstock.gateway.relay import Comments, StreamRelay
from penstock.policy.fleet import Fleet, Replica, State
from penstock.telemetry.boundaries import TOKEN_S
from penstock.telemetry.fleet_state import fleet_lines, line_lines
from penstock.telemetry.metrics import Metrics
from penstock.telemetry.together import together
from penstock.wire.delivered import RAW_READS_MAX, Delivered

MODELS = 50
TENANTS = 200
REPLICAS_EACH = 2
REQUESTS = 40_000
PAGES = 20
PAGE_MS_MAX = 20.0
REQUEST_US_MAX = 30.0
EVENTS = 20_000
GAP_US_MAX = 1.0
CLASSES = ("interactive", "standard", "batch")
ENDINGS = ((Outcome.COMPLETE, 200, "", ""), (Outcome.REJECTED, 503, "gateway", "queue_full"))


def main() -> int:
    """The exit code: 1 where a bar is missed."""
    metrics = filled()
    page = metrics.exposition().decode()
    page_ms = _best_ms(metrics.exposition, PAGES)
    pages = [(worker, page) for worker in range(4)]
    together_ms = _best_ms(lambda: together(pages), 5)
    request_us = _request_us()
    print(f"a request counted             {request_us:8.2f} us of CPU, best of 5, {REQUESTS} requests")
    event_us, measured_us = asyncio.run(_event_us())
    print(f"an event passed on            {event_us:8.2f} us of CPU, best of 9, {EVENTS} events")
    print(f"one whose gap is measured     {measured_us:8.2f} us")
    print(f"a page of {MODELS} models            {page_ms:8.2f} ms, {len(page.splitlines())} lines")
    print(f"four such pages made one      {together_ms:8.2f} ms, in a thread")
    missed = [
        f"{what}: {found:.1f} {unit}, at most {bar:g} wanted"
        for what, found, bar, unit in (
            ("a page", page_ms, PAGE_MS_MAX, "ms"),
            ("a request", request_us, REQUEST_US_MAX, "us"),
            ("a gap", measured_us - event_us, GAP_US_MAX, "us"),
        )
        if found > bar
    ]
    for line in missed:
        print(f"error: {line}", file=sys.stderr)
    return 1 if missed else 0


def filled() -> Metrics:
    """A gateway's metrics once every model has met every class and ending, and every line every tenant."""
    models = [_model(number) for number in range(MODELS)]
    metrics = Metrics(models, on_bug=_fail)
    for model in models:
        metrics.observe([_record(model.name, number) for number in range(12)])
    replicas = tuple(
        Replica(f"{model.name}-{n}", model.name, "vllm", Address("127.0.0.1", 8000 + n), "", State.READY)
        for model in models
        for n in range(REPLICAS_EACH)
    )
    by_tenant = {f"tenant-{n}": n for n in range(TENANTS)}
    line = LineSnapshot(10, 1000, dict.fromkeys(CLASSES, 3), by_tenant, 1.5, 64, 64)
    metrics.add(lambda: line_lines({model.name: line for model in models}))
    metrics.add(lambda: fleet_lines(Fleet(replicas), {}, {}, [model.name for model in models], 0.0))
    return metrics


def _model(number: int) -> ModelConfig:
    slo = {"availability": 99.9, "goodput": 95, "ttft": {"under": "500ms"}, "tpot": {"under": "50ms"}}
    return ModelConfig.model_validate({"name": f"model-{number}", "engine": "sim", "slo": slo})


def _record(model: str, number: int) -> RequestRecord:
    outcome, status, fault, code = ENDINGS[number % 2]
    return RequestRecord(
        "req_1", "POST", "/v1/chat/completions", 100.0, 1e9,
        model=model, stream=True, priority=CLASSES[number % 3], body_read_s=100.0, admitted_s=100.2,
        first_token_s=100.3, last_token_s=101.3, ended_s=101.4, outcome=outcome, status=status, fault=fault,
        error_code=code, usage=Usage(200, 100, "engine"), attempts=[Attempt("a", "least_load", 100.2)],
    )  # fmt: skip


def _request_us() -> float:
    metrics = Metrics([_model(0)], on_bug=_fail)
    records = [_record("model-0", 2 * (number % 3)) for number in range(REQUESTS)]
    best_s = float("inf")
    for _ in range(5):
        begun_s = time.process_time()
        for start in range(0, REQUESTS, 64):
            metrics.observe(records[start : start + 64])
        best_s = min(best_s, time.process_time() - begun_s)
    return best_s / REQUESTS * 1e6


class _Nobody:
    """A client and an engine's connection that cost nothing."""

    started = ended = write_paused = False
    chunked = True

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None

    def write_chunk(self, chunk: bytes, size: int) -> None:
        """Takes it."""


async def _event_us() -> tuple[float, float]:
    """An event of a stream on the quick way, and one of a stream whose gaps are measured."""
    running: list[asyncio.Task[None]] = []
    streams = [await _stream(gaps, running) for gaps in (None, Times(TOKEN_S))]
    best_s = [float("inf")] * len(streams)
    chunk = b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT)
    for _ in range(9):
        for place, exchange in enumerate(streams):
            take = exchange.on_chunk
            assert take is not None
            begun_s = time.process_time()
            for _ in range(EVENTS):
                take(chunk, len(_EVENT))
            assert take(chunk, len(_EVENT))  # as it took all before
            best_s[place] = min(best_s[place], time.process_time() - begun_s)
    return best_s[0] / EVENTS * 1e6, best_s[1] / EVENTS * 1e6


_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    b'[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}\n\n'
)


async def _stream(gaps: Times | None, running: list[asyncio.Task[None]]) -> Exchange:
    """The exchange of a stream that is under way."""
    exchange = Exchange(_Nobody(), PhaseTimeouts(60, 60, 60, 60), asyncio.get_running_loop())
    exchange.on_head(200, [])
    record = _record("m", 0)
    record.gaps = gaps
    relay = StreamRelay(
        exchange, cast("Any", _Nobody()), record, [], hides_usage=False, needs_done=True, rewrite=None,
        before_end=lambda: None, comments=Comments(60, time.monotonic), clock=time.monotonic, delivered=Delivered(),
    )  # fmt: skip
    running.append(asyncio.create_task(relay.run()))
    await asyncio.sleep(0)
    for _ in range(RAW_READS_MAX + 1):
        exchange.on_data(_EVENT)
    return exchange


def _best_ms(work: object, times: int) -> float:
    best_s = float("inf")
    for _ in range(times):
        begun_s = time.process_time()
        work()  # type: ignore[operator]
        best_s = min(best_s, time.process_time() - begun_s)
    return best_s * 1000


def _fail(where: str, error: BaseException) -> None:
    raise RuntimeError(where) from error


if __name__ == "__main__":
    sys.exit(main())
