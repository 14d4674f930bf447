"""What a load tester should say of each case of the truth server, computed from how the server answers. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields
from statistics import mean

from benchmarks.bench.truth import Case

# A time is right within the larger of these; one that is a mean over the tokens of an answer must be closer.
OFF_MS, OFF_PER_TOKEN_MS, OFF_SHARE = 2.0, 0.2, 0.01
_PER_TOKEN = frozenset(("itl_ms", "tpot_ms", "decode_ms", "named_tpot_ms"))


@dataclass(frozen=True, slots=True)
class Told:
    """What a tool says, or should say, of a load; None is nothing. Means over whole answers, milliseconds.

    Args:
        ttft_ms: first token, from the sending.
        answer_ms: first token that is no reasoning.
        itl_ms: gap between chunks.
        tpot_ms: (last token - first token) / (tokens - 1).
        decode_ms: (last token - first token) / (tokens - those of the first chunk).
        named_tpot_ms: what the tool calls TPOT, where that is another thing.
        e2e_ms: last token; where the load has a schedule, from that.
        tokens: of an answer.
        whole, failed: requests.
    """

    ttft_ms: float | None = None
    answer_ms: float | None = None
    itl_ms: float | None = None
    tpot_ms: float | None = None
    decode_ms: float | None = None
    named_tpot_ms: float | None = None
    e2e_ms: float | None = None
    tokens: float | None = None
    whole: int | None = None
    failed: int | None = None


FIGURES = tuple(field.name for field in fields(Told))
TIMES = tuple(name for name in FIGURES if name.endswith("_ms"))


@dataclass(frozen=True, slots=True)
class Load:
    """One load that each tool puts on one case.

    Args:
        case: its name at the truth server.
        requests: in all.
        concurrency: requests under way at once: the load itself in a closed loop, a cap in an open one; 0 is none.
        rate_per_s: of an open loop, at constant gaps; 0 is a closed loop.
        poisson: the gaps are exponential.
    """

    case: str
    requests: int = 20
    concurrency: int = 4
    rate_per_s: float = 0.0
    poisson: bool = False


def expected(case: Case, load: Load) -> Told:
    """The truth of a case under a load.

    Args:
        case: as the server keeps it.
        load: of which the server, or the client's cap, may make a queue.
    """
    chunks = case.tokens // case.per_chunk
    decoding_s = (chunks - 1) * case.gap_s
    service_s = case.first_s + decoding_s
    wait_s = 0.0
    places = case.places or load.concurrency
    if load.rate_per_s and places:
        wait_s = mean(waits(load.requests, load.rate_per_s, places, service_s))
    failed = load.requests * max(case.refused, case.reset) // 10
    return Told(
        # Under a schedule only the whole is compared: a tool may tell its first token from either moment.
        ttft_ms=None if load.rate_per_s else case.first_s * 1000,
        answer_ms=(case.first_s + case.reasoning * case.gap_s) * 1000 if case.reasoning else None,
        itl_ms=case.gap_s * 1000,
        tpot_ms=decoding_s / (case.tokens - 1) * 1000,
        decode_ms=decoding_s / (case.tokens - case.per_chunk) * 1000,
        named_tpot_ms=decoding_s / (case.tokens - 1) * 1000,
        e2e_ms=(wait_s + service_s) * 1000,
        tokens=case.tokens,
        whole=load.requests - failed,
        failed=failed,
    )


def waits(requests: int, rate_per_s: float, places: int, service_s: float) -> list[float]:
    """How long each request waits for a place, from its schedule, first come first served."""
    free_s = [0.0] * places
    waited = []
    for number in range(requests):
        due_s = number / rate_per_s
        start_s = max(due_s, min(free_s))
        free_s[free_s.index(min(free_s))] = start_s + service_s
        waited.append(start_s - due_s)
    return waited


def is_right(name: str, told: float, truth: float) -> bool:
    """Whether a figure is what it should be."""
    if name in TIMES:
        return abs(told - truth) <= max(OFF_PER_TOKEN_MS if name in _PER_TOKEN else OFF_MS, OFF_SHARE * truth)
    return told == truth


def dispersion(times_s: list[float], window_s: float = 0.5) -> float | None:
    """The index of dispersion of arrivals: variance over mean of their number in windows; 1 for a Poisson process.

    None where they span less than two windows.
    """
    begin_s = min(times_s)
    counts = [0] * int((max(times_s) - begin_s) / window_s)
    if len(counts) < 2:
        return None
    for at_s in times_s:
        window = int((at_s - begin_s) / window_s)
        if window < len(counts):
            counts[window] += 1
    average = mean(counts)
    return sum((count - average) ** 2 for count in counts) / (len(counts) - 1) / average
