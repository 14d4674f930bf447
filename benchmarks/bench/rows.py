"""What is asserted of the load tester: its times against what is true, its schedule, and what it costs.

A time is compared in two ways: with the server's own log, for every chunk of every request, and with what the case
says, as the mean over a load. A machine that is busy otherwise makes either late; so a row has three tries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import mean

from benchmarks.bench.expected import Load, dispersion, expected, is_right, waits
from benchmarks.bench.served import Outcome, Served
from benchmarks.bench.truth import CASES, Case

from penstock.bench.sample import Cause, Sample
from penstock.bench.workloads import arrivals

OFF_S, OFF_SHARE = 0.002, 0.01
DISPERSION = (0.8, 1.25)
JITTER_P99_S = 0.002
EVENT_US = 15.0
STREAMS, EVENTS_PER_S = 2000, 50_000
START_CPU_S = 0.5
MEMORY_BYTES, MEMORY_BYTES_PER_STREAM = 60e6, 10e3
TRIES = 3

TRUTH = ("base", "role", "lumps", "reasoning", "tail", "refused", "reset", "no-usage")
_BROKEN = {"refused": Cause.RATE_LIMITED, "reset": Cause.RESET}


@dataclass(frozen=True, slots=True)
class Found:
    """What a try of a row found: in words, and what is wrong with it; nothing where it is met."""

    told: str
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that is asserted.

    Args:
        name: for people and for `--rows`.
        wanted: what must be.
        look: one try.
    """

    name: str
    wanted: str
    look: Callable[[Served], Found]


def rows() -> list[Row]:
    """All rows, in the order in which they are measured."""
    truth = [
        Row(f"truth-{case}", "every time within 1 % or 2 ms, tokens exact", _truth(case)) for case in TRUTH
    ]
    poisson = [
        Row(f"poisson-{n}", f"index of dispersion {DISPERSION[0]} to {DISPERSION[1]}", _poisson(n))
        for n in (1, 2, 4)
    ]
    return [
        *truth,
        Row(
            "schedule",
            "times from the schedule within 1 % or 2 ms, where the server makes requests wait",
            _queue,
        ),
        *poisson,
        Row("constant", f"200/s: 99 % sent within {JITTER_P99_S * 1000:g} ms of their time", _constant),
        Row("cpu", f"at most {EVENT_US:g} us of CPU for an event", _cpu),
        Row("scale", f"{STREAMS} streams and {EVENTS_PER_S} events/s on one core", _scale),
        Row("start", f"under {START_CPU_S:g} s of CPU to start, measure the ceiling and end", _start),
    ]


# -- truth ----------------------------------------------------------------------------------------------


def _truth(name: str) -> Callable[[Served], Found]:
    load = Load(name)

    def look(server: Served) -> Found:
        outcome = server.load(name, load.requests, concurrency=load.concurrency)
        good = [sample for sample in outcome.samples if sample.cause is Cause.NONE]
        wrong = [*_off_log(outcome), *_off_case(CASES[name], load, good), *_off_causes(name, load, outcome)]
        worst_s = max(off_s for off_s, _ in _offs(outcome))
        ttft_ms = mean((s.first_token_s or 0.0) - s.scheduled_s for s in good) * 1000
        e2e_ms = mean((s.last_token_s or 0.0) - s.scheduled_s for s in good) * 1000
        chunks = sum(len(sample.chunk_s) for sample in outcome.samples)
        told = (
            f"TTFT {ttft_ms:.1f}, E2E {e2e_ms:.1f} ms; {chunks} chunks, the worst {worst_s * 1000:.2f} ms off"
        )
        return Found(told, tuple(wrong))

    return look


def _offs(outcome: Outcome) -> Iterable[tuple[float, float]]:
    """How far each chunk's time is from the server's, and how long after the schedule it came."""
    for sample in outcome.samples:
        written_s = outcome.written_s.get(sample.request_id, [])
        for seen_s, wrote_s in zip(sample.chunk_s, written_s, strict=False):
            yield seen_s - wrote_s, seen_s - sample.scheduled_s
        if sample.first_token_s is not None and sample.connect_s is None:
            # the way to the server is the other half of a first token's time
            yield outcome.arrived_s[sample.request_id] - sample.scheduled_s, seen_s - sample.scheduled_s


def _off_log(outcome: Outcome) -> Iterable[str]:
    """Chunks whose time is not what the server's log says."""
    for sample in outcome.samples:
        if sample.chunk_s and len(sample.chunk_s) != len(outcome.written_s[sample.request_id]):
            yield f"request {sample.index}: {len(sample.chunk_s)} chunks, where the server wrote another number"
    for off_s, since_s in _offs(outcome):
        if not -0.0001 <= off_s <= max(OFF_S, OFF_SHARE * since_s):
            yield f"a chunk {off_s * 1000:.2f} ms off, {since_s * 1000:.0f} ms after the schedule"


def _off_case(case: Case, load: Load, good: list[Sample]) -> Iterable[str]:
    """Means over whole answers that are not what the case says."""
    truth = expected(case, load)
    last_s = [(s.last_token_s or 0.0) - s.scheduled_s for s in good]
    found = {
        "ttft_ms": mean((s.first_token_s or 0.0) - s.scheduled_s for s in good) * 1000,
        "e2e_ms": mean(last_s) * 1000,
        "itl_ms": mean(b - a for s in good for a, b in zip(s.chunk_s, s.chunk_s[1:], strict=False)) * 1000,
        "answer_ms": mean((s.first_answer_s or 0.0) - s.scheduled_s for s in good) * 1000,
        "tail_ms": mean((s.done_s or 0.0) - (s.last_token_s or 0.0) for s in good) * 1000,
    }
    wanted = {
        "ttft_ms": truth.ttft_ms,
        "e2e_ms": truth.e2e_ms,
        "itl_ms": truth.itl_ms,
        "answer_ms": truth.answer_ms or truth.ttft_ms,
        "tail_ms": case.tail_s * 1000,
    }
    for name, value in found.items():
        true = wanted[name]
        if true is not None and not is_right("e2e_ms" if name == "tail_ms" else name, value, true):
            yield f"{name} {value:.2f}, where {true:.2f} is true"
    chunks = case.tokens // case.per_chunk
    for sample in good:
        counted = (sample.completion_tokens, sample.tokens_from)
        if counted != ((case.tokens, "usage") if case.usage else (chunks, "chunks")):
            yield f"request {sample.index}: {counted[0]} tokens, from {counted[1]}"


def _off_causes(name: str, load: Load, outcome: Outcome) -> Iterable[str]:
    """Failures that are too many, too few, or of another cause."""
    bad = [sample.cause for sample in outcome.samples if sample.cause is not Cause.NONE]
    wanted = load.requests * max(CASES[name].refused, CASES[name].reset) // 10
    if bad != [_BROKEN.get(name)] * wanted:
        yield f"{len(bad)} failures of {wanted}: {', '.join(sorted(set(bad)))}"


# -- the schedule ---------------------------------------------------------------------------------------


def _queue(server: Served) -> Found:
    load = Load("queue", requests=40, rate_per_s=16.0, concurrency=0)
    case = CASES["queue"]
    times_s = [n / load.rate_per_s for n in range(load.requests)]
    outcome = server.load(load.case, load.requests, times_s=times_s)
    service_s = case.first_s + (case.tokens // case.per_chunk - 1) * case.gap_s
    truth = [wait_s + service_s for wait_s in waits(load.requests, load.rate_per_s, case.places, service_s)]
    samples = sorted(outcome.samples, key=lambda sample: sample.index)
    found = [(sample.last_token_s or 0.0) - sample.scheduled_s for sample in samples]
    true_ms, found_ms = mean(truth) * 1000, mean(found) * 1000
    wrong = list(_off_log(outcome))
    if not is_right("e2e_ms", found_ms, true_ms):
        wrong.append(f"the mean is {found_ms:.1f} ms, where {true_ms:.1f} is true")
    told = f"mean {found_ms:.0f} of {true_ms:.0f} ms, most {max(found) * 1000:.0f} of {max(truth) * 1000:.0f}"
    return Found(told, tuple(wrong))


def _poisson(processes: int) -> Callable[[Served], Found]:
    times_s, _ = arrivals.schedule(arrivals.Load.poisson(200), duration_s=10, seed=1)

    def look(server: Served) -> Found:
        outcome = server.load("instant", len(times_s), times_s=times_s, processes=processes)
        found = dispersion(sorted(outcome.arrived_s.values()), 0.025)
        wrong = () if DISPERSION[0] <= found <= DISPERSION[1] else (f"{found:.2f}",)
        return Found(f"{found:.2f} at the server; the schedule has {dispersion(times_s, 0.025):.2f}", wrong)

    return look


def _constant(server: Served) -> Found:
    times_s, _ = arrivals.schedule(arrivals.Load.constant(200), duration_s=5)
    outcome = server.load("instant", len(times_s), times_s=times_s)
    late_s = sorted(
        outcome.arrived_s[sample.request_id] - sample.scheduled_s
        for sample in outcome.samples
        if sample.request_id
    )
    p50_s, p99_s = late_s[len(late_s) // 2], late_s[int(0.99 * len(late_s))]
    wrong = () if p99_s < JITTER_P99_S and late_s[0] > -0.0001 else (f"p99 {p99_s * 1000:.2f} ms",)
    told = (
        f"at the server p50 {p50_s * 1000:.2f}, p99 {p99_s * 1000:.2f}, most {late_s[-1] * 1000:.2f} ms late"
    )
    return Found(told, wrong)


# -- costs ----------------------------------------------------------------------------------------------


def _cpu(server: Served) -> Found:
    short = server.load("fast-20-20", 100, concurrency=100)
    long = server.load("fast-20-200", 100, concurrency=100)
    each_us = (long.cpu_s - short.cpu_s) / (long.client.events - short.client.events) * 1e6
    told = f"{each_us:.1f} us for each of {long.client.events - short.client.events}, 100 streams of 50/s"
    return Found(told, () if each_us <= EVENT_US else (f"{each_us:.1f} us",))


def _scale(server: Served) -> Found:
    outcome = server.load("fast-40-300", STREAMS, concurrency=STREAMS, ramp_s=2.0)
    client = outcome.client
    steady = _rate(outcome, 4.0, 10.0)
    share = client.cpu_share[0] * outcome.wall_s / client.events * EVENTS_PER_S
    room = MEMORY_BYTES + STREAMS * MEMORY_BYTES_PER_STREAM
    bad = sum(sample.cause is not Cause.NONE or len(sample.chunk_s) != 300 for sample in outcome.samples)
    wrong = []
    if bad:
        wrong.append(f"{bad} streams are not whole")
    if share > 1:
        wrong.append(f"{share:.2f} cores for {EVENTS_PER_S} events/s")
    if steady < 0.98 * EVENTS_PER_S:
        wrong.append(f"{steady:.0f} events/s")
    if client.rss_max_bytes > room:
        wrong.append(f"{client.rss_max_bytes / 1e6:.0f} MB of {room / 1e6:.0f}")
    told = f"{steady:.0f} events/s with {share:.2f} of a core, {client.rss_max_bytes / 1e6:.0f} MB"
    lag = f"loop lag p99 {client.loop_lag_p99_s * 1000:.1f} ms"
    return Found(f"{told}; {lag}; ceiling {client.ceiling_events_per_s:.0f}/s", tuple(wrong))


def _rate(outcome: Outcome, begins_s: float, ends_s: float) -> float:
    """Chunks a second between two times, when all streams were under way."""
    seen = sum(begins_s <= at_s < ends_s for sample in outcome.samples for at_s in sample.chunk_s)
    return seen / (ends_s - begins_s)


def _start(server: Served) -> Found:
    outcome = server.load("instant", 1, concurrency=1)
    wrong = () if outcome.cpu_s < START_CPU_S else (f"{outcome.cpu_s:.2f} s",)
    return Found(f"{outcome.cpu_s:.2f} s, {outcome.client.rss_max_bytes / 1e6:.0f} MB", wrong)
