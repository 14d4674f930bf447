"""Whether the numbers of a run can be stood behind: one verdict, its reasons in numbers, its exit code. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from penstock.bench.analysis.result import Part, Reason, Summary, Verdict, VerdictKind
from penstock.core.stats import samples_needed

# Codes of the command line: 1 and 2 are failures and wrong usage, 130 an interruption.
EXIT_CODES = {
    VerdictKind.VALID: 0,
    VerdictKind.CLIENT_LIMITED: 10,
    VerdictKind.ERRORS: 11,
    VerdictKind.NOT_STEADY: 12,
    VerdictKind.CACHE_TAINTED: 13,
    VerdictKind.TOO_FEW_SAMPLES: 14,
}
_WORST_FIRST = {kind: place for place, kind in enumerate(VerdictKind)}


class Limits(msgspec.Struct, frozen=True):
    """What a run may have and still be valid.

    Args:
        error_share_max: failed / (completed + failed).
        late_s_max: the p99 of send lateness, and of the event loop's lag, seconds.
        late_share_max: or so large a part of the median TTFT (E2E where nothing was streamed), whichever is more.
        cpu_share_max: of one core, for each load generator process: above it, a process is late before it shows.
        ceiling_share_max: events read of those that the client could read.
        cache_share_max: prefix-cache hits beyond what the workload repeats, as a part of the prompt tokens.
        cache_tokens_max: and as tokens of each request: a chat template begins every prompt alike, and engines cache
            whole blocks of 16.
        percentile: the one that must be known.
    """

    error_share_max: float = 0.01
    late_s_max: float = 0.010
    late_share_max: float = 0.02
    cpu_share_max: float = 0.9
    ceiling_share_max: float = 0.8
    cache_share_max: float = 0.05
    cache_tokens_max: float = 32.0
    percentile: float = 95.0


LIMITS = Limits()


def judge(summary: Summary, limits: Limits = LIMITS) -> Verdict:
    """The verdict on a run; all that speaks against it is among the reasons, the worst first."""
    reasons = [
        *_client(summary, limits),
        *_errors(summary, limits),
        *_not_steady(summary),
        *_cache(summary, limits),
        *_too_few(summary, limits),
    ]
    reasons.sort(key=lambda reason: _WORST_FIRST[reason.kind])
    kind = reasons[0].kind if reasons else VerdictKind.VALID
    return Verdict(kind, EXIT_CODES[kind], reasons, _line(kind, reasons))


def _line(kind: VerdictKind, reasons: list[Reason]) -> str:
    if not reasons:
        return "VALID: nothing speaks against these numbers"
    others = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return f"{kind}: {reasons[0].says}{others}"


def _client(summary: Summary, limits: Limits) -> Iterator[Reason]:
    client = summary.client
    hint = "use more --processes, or a machine of its own for the load generator"
    allowed_s = max(limits.late_s_max, limits.late_share_max * _typical_s(summary.all))

    def limited(says: str, what: str = hint) -> Reason:
        return Reason(VerdictKind.CLIENT_LIMITED, says, what)

    late_s = client.send_late_p99_s if client else _measured_p99(summary.all, "send_late")
    if late_s > allowed_s:
        yield limited(
            f"one request in a hundred was sent {late_s * 1e3:.1f} ms late or more; {allowed_s * 1e3:.1f} ms is allowed"
        )
    if client is None:
        return
    if client.loop_lag_p99_s > allowed_s:
        yield limited(
            f"the client's event loop was {client.loop_lag_p99_s * 1e3:.1f} ms late one time in a hundred, so times "
            f"were read late; {allowed_s * 1e3:.1f} ms is allowed"
        )
    busiest = max(client.cpu_share, default=0.0)
    if busiest > limits.cpu_share_max:
        yield limited(
            f"a load generator process used {busiest:.0%} of a core; {limits.cpu_share_max:.0%} is allowed"
        )
    ceiling = client.ceiling_events_per_s
    if ceiling and client.events_per_s > limits.ceiling_share_max * ceiling:
        yield limited(
            f"{client.events_per_s:,.0f} events/s were read, and the client's ceiling is {ceiling:,.0f}; "
            f"{limits.ceiling_share_max:.0%} of it is allowed"
        )
    if client.connections_refused_here:
        yield limited(
            f"{client.connections_refused_here} requests found no connection, since a process may not open more",
            "use more --processes, or raise the limit of open files (ulimit -n)",
        )
    if client.plan_waits:
        yield limited(
            f"{client.plan_waits} requests were due before the plan for them had been written",
            "use shorter prompts or a lower rate, or a faster disk for the run's folder",
        )


def _typical_s(part: Part) -> float:
    for name in ("ttft", "e2e"):
        spread = part.measures.get(name)
        middle = spread.at(50.0) if spread is not None else None
        if middle is not None and middle.value is not None:
            return middle.value
    return 0.0


def _measured_p99(part: Part, name: str) -> float:
    spread = part.measures.get(name)
    found = spread.at(99.0) if spread is not None else None
    return (found.value or 0.0) if found is not None else 0.0


def _errors(summary: Summary, limits: Limits) -> Iterator[Reason]:
    counts = summary.all.counts
    if counts.failed and not counts.completed:
        yield Reason(
            VerdictKind.ERRORS,
            f"all {counts.failed} requests failed{_worst(summary)}",
            "look at the failures",
        )
    elif counts.error_share > limits.error_share_max:
        yield Reason(
            VerdictKind.ERRORS,
            f"{counts.error_share:.1%} of the requests failed ({counts.failed} of {counts.completed + counts.failed})"
            f"{_worst(summary)}; {limits.error_share_max:.1%} is allowed",
            "look at the failures, or allow more by --max-error-rate",
        )


def _worst(summary: Summary) -> str:
    if not summary.failures:
        return ""
    worst = summary.failures[0]
    return f", most of them by {worst.cause}" + (f": {worst.detail}" if worst.detail else "")


def _not_steady(summary: Summary) -> Iterator[Reason]:
    for part in summary.stages or [summary.all]:
        if part.window.steady is False:
            where = f"stage {part.label}: " if summary.stages else ""
            yield Reason(
                VerdictKind.NOT_STEADY,
                f"{where}{part.window.says}",
                "offer less load, or run longer or with more warm-up",
            )


def _cache(summary: Summary, limits: Limits) -> Iterator[Reason]:
    cache = summary.cache
    if cache.share is None or cache.hit_tokens_per_request is None or not cache.prompt_tokens:
        return
    beyond = cache.share - cache.expected_share
    each = cache.hit_tokens_per_request * beyond / cache.share if cache.share else 0.0
    if beyond > limits.cache_share_max and each > limits.cache_tokens_max:
        yield Reason(
            VerdictKind.CACHE_TAINTED,
            f"{cache.share:.1%} of the prompt tokens came from the prefix cache (told by {cache.source}), and the "
            f"workload repeats {cache.expected_share:.1%}",
            "use another --seed than the run before, prompts that bust the cache, or restart the engine",
        )


def _too_few(summary: Summary, limits: Limits) -> Iterator[Reason]:
    needs = samples_needed(limits.percentile)
    for part in summary.stages or [summary.all]:
        spread = part.measures.get("e2e")
        count = spread.count if spread is not None else 0
        if count < needs:
            where = f"stage {part.label}: " if summary.stages else ""
            yield Reason(
                VerdictKind.TOO_FEW_SAMPLES,
                f"{where}{count} whole answers; p{limits.percentile:g} needs {needs}",
                "run longer, or send more requests",
            )
