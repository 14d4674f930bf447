"""The few numbers that routing, health and load tests need, out of a page of /metrics in the Prometheus text format.

Only lines of known names are looked at; a line that is not well-formed, or whose value can't be, is passed over.
Several engines in one process add up; ranks of one engine report the same requests, and only the first one counts.
Of what waits, where an engine says why, only what waits for room counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# vLLM's page is 50 kB; what stands behind this is not read.
BODY_BYTES_MAX = 1024 * 1024
LINE_BYTES_MAX = 1024
# Engines that run data-parallel in one process have one sample each.
SAMPLES_MAX = 256
# No engine runs more requests than this.
COUNT_MAX = 10**9
STEPS_MAX = 2**63

RUNNING = (
    b"vllm:num_requests_running",
    b"llamacpp:requests_processing",
    b"sglang:num_running_reqs",
    b"transformers:requests_running",
)
WAITING = (
    b"vllm:num_requests_waiting_by_reason",
    b"vllm:num_requests_waiting",
    b"llamacpp:requests_deferred",
    b"sglang:num_queue_reqs",
    b"transformers:requests_waiting",
)
# The first is named as the second was until vLLM 0.10.
KV_USAGE = (b"vllm:kv_cache_usage_perc", b"vllm:gpu_cache_usage_perc", b"sglang:token_usage")
# What grows with each step of an engine whose kind is not known.
STEPS = (b"vllm:iteration_tokens_total_count", b"sglang:realtime_tokens_total", b"llamacpp:n_decode_total")


@dataclass(frozen=True, slots=True)
class LoadNames:
    """What a page of metrics calls the load; of several names the first that a page has counts."""

    running: tuple[bytes, ...] = RUNNING
    waiting: tuple[bytes, ...] = WAITING
    kv_usage: tuple[bytes, ...] = KV_USAGE


KNOWN_LOAD = LoadNames()

_SAMPLE = re.compile(
    rb"""(\{(?:[^"{}]|"(?:[^"\\]|\\.)*")*\})?      # labels; a text may hold braces
    [ \t]+([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)
    (?:[ \t]+-?\d+)?[ \t]*\r?$                     # a time stamp
    """,
    re.VERBOSE,
)
_NOT_COUNTED = re.compile(rb'[{,][ \t]*(?:(?:tp|pp|moe_ep)_rank="(?!0")|reason="(?!capacity"))')


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What an engine says of its load.

    Args:
        running: requests in its batch.
        waiting: requests in its own queue.
        kv_usage: the used part of its KV cache, 0 to 1; None where it does not say.
    """

    running: int
    waiting: int
    kv_usage: float | None


def read_load(body: bytes, names: LoadNames = KNOWN_LOAD) -> EngineLoad | None:
    """The load in a page of metrics; None where it names no running or no waiting requests."""
    body = bounded(body)
    running, waiting = values_of(body, names.running, COUNT_MAX), values_of(body, names.waiting, COUNT_MAX)
    if not running or not waiting:
        return None
    usage = values_of(body, names.kv_usage, 1.0)
    return EngineLoad(round(sum(running)), round(sum(waiting)), max(usage, default=None))


@dataclass(frozen=True, slots=True)
class Pulse:
    """What in a page changes with each step of the engine, and with nothing else: another pulse, another step.

    vLLM counts a step only where a token came of it; a part of a long prompt shows in the KV cache.

    Args:
        counter: name of the metric that counts steps.
        steps: what it says.
        kv_usage: the used part of the KV cache; None where the page does not say.
    """

    counter: str
    steps: float
    kv_usage: float | None = None


def read_pulse(body: bytes, counters: tuple[bytes, ...]) -> Pulse | None:
    """The pulse in a page of metrics; None where it has none of these counters."""
    body = bounded(body)
    for counter in counters:
        steps = values_of(body, (counter,), STEPS_MAX)
        if steps:
            usage = values_of(body, KV_USAGE, 1.0)
            return Pulse(counter.decode(), sum(steps), sum(usage) if usage else None)
    return None


def bounded(body: bytes) -> bytes:
    """A page without what stands behind its first `BODY_BYTES_MAX` bytes."""
    return body if len(body) <= BODY_BYTES_MAX else body[: body.rfind(b"\n", 0, BODY_BYTES_MAX) + 1]


def values_of(body: bytes, names: tuple[bytes, ...], most: float) -> list[float]:
    """The values, 0 to `most`, of the first of `names` that a page has; none where it has none of them."""
    for name in names:
        values = [value for value in _samples(body, name) if 0 <= value <= most]
        if values:
            return values
    return []


def _samples(body: bytes, name: bytes) -> Iterator[float]:
    start = 0
    for _ in range(SAMPLES_MAX):
        start = body.find(name, start)
        if start < 0:
            return
        end = body.find(b"\n", start)
        end = end if end >= 0 else len(body)
        begins_line = start == 0 or body[start - 1] == ord("\n")
        match = None
        if begins_line and end - start <= LINE_BYTES_MAX:
            match = _SAMPLE.match(body[start + len(name) : end])
        if match is not None and not _NOT_COUNTED.search(match[1] or b""):
            yield float(match[2])
        start += len(name)
