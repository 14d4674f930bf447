"""The bars for Penstock's gateway, and whether a sitting meets them.

A bar that is a ratio to another arm of the same sitting holds on any machine, and can be asserted; one that is a
number of microseconds, milliseconds or bytes is of the machine it was set on, and is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.gateway import measures
from benchmarks.gateway.arms import RUST_ROUTERS
from benchmarks.gateway.measures import Measure
from benchmarks.gateway.plan import ONE_WORKER, TRACED, TWO_WORKERS
from benchmarks.gateway.sitting import Results

NGINX_FACTOR_MAX = 1.5
TWO_WORKERS_FACTOR_MIN = 1.7
# A tenth of what a request may cost; metrics, log and traces together may take 30 µs. Of an event nothing, or what two
# runs of the same code differ by.
TRACES_US_MAX, EVENT_NOISE_US = 10, 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one bar came out.

    Args:
        bar: what is judged.
        wanted: the bar.
        found: what was measured; empty where it could not be judged.
        met: whether it is.
        ratio: to another arm, so that it can be asserted.
    """

    bar: str
    wanted: str
    found: str
    met: bool
    ratio: bool = False


def verdicts(results: Results) -> list[Verdict]:
    """Every bar that this sitting's plan has a load for, in the order of `peers.md`."""
    judged = [judge(results) for judge in _JUDGES]
    return [verdict for verdict in judged if verdict is not None]


def asserted(results: Results) -> list[Verdict]:
    """The bars that are missed, or could not be judged, among those that are ratios."""
    return [verdict for verdict in verdicts(results) if verdict.ratio and not verdict.met]


def _most(measure: Measure, limit: float, unit: str) -> Callable[[Results], Verdict | None]:
    def judge(results: Results) -> Verdict | None:
        if not _planned(results, measure):
            return None
        value = measure.median(results, ONE_WORKER)
        shown = "" if value is None else measure.form.format(value)
        met = value is not None and value <= limit
        return Verdict(measure.name(results.plan), f"at most {limit:g} {unit}", shown, met)

    return judge


def _against_nginx(results: Results) -> Verdict | None:
    measure = measures.EVENT_MANY
    if not _planned(results, measure) or "nginx" not in results.arms:
        return None
    ours, nginx = measure.median(results, ONE_WORKER), measure.median(results, "nginx")
    found = f"{ours / nginx:.2f} times" if ours and nginx else ""
    met = bool(ours and nginx and ours / nginx <= NGINX_FACTOR_MAX)
    return Verdict(
        measure.name(results.plan), f"at most {NGINX_FACTOR_MAX:g} times nginx", found, met, ratio=True
    )


def _below_rust(results: Results) -> Verdict | None:
    measure = measures.EVENT_MANY
    ours = measure.median(results, ONE_WORKER)
    theirs = {arm: value for arm in RUST_ROUTERS if (value := measure.median(results, arm)) is not None}
    if not _planned(results, measure) or not theirs:
        return None
    best = min(theirs, key=lambda arm: theirs[arm])
    found = f"{measure.form.format(ours)}; {best} {measure.form.format(theirs[best])}" if ours else ""
    met = ours is not None and ours < theirs[best]
    return Verdict(measure.name(results.plan), "below every Rust router", found, met, ratio=True)


def _over_direct(measure: Measure, limit_ms: float) -> Callable[[Results], Verdict | None]:
    """Ours is held against the direct run's own number; a difference of p99s is no p99 of anything."""

    def judge(results: Results) -> Verdict | None:
        if not _planned(results, measure) or "direct" not in results.arms:
            return None
        ours, direct = measure.median(results, ONE_WORKER), measure.median(results, "direct")
        wanted = f"at most {limit_ms:g} ms above direct"
        if ours is None or direct is None:
            return Verdict(measure.name(results.plan), wanted, "", met=False)
        found = f"{measure.form.format(ours)} ms; direct {measure.form.format(direct)} ms"
        return Verdict(measure.name(results.plan), wanted, found, ours - direct <= limit_ms)

    return judge


def _traces_add(measure: Measure, limit_us: float) -> Callable[[Results], Verdict | None]:
    """Traces on against off, of the same sitting."""

    def judge(results: Results) -> Verdict | None:
        if not _planned(results, measure) or TRACED not in results.arms:
            return None
        on, off = measure.median(results, TRACED), measure.median(results, ONE_WORKER)
        found = "" if on is None or off is None else f"{on - off:+.1f} µs"
        bar = f"{measure.name(results.plan)}: traces of 5 %"
        return Verdict(bar, f"add at most {limit_us:g} µs", found, bool(found) and on - off <= limit_us)

    return judge


def _two_workers_plain(results: Results) -> Verdict | None:
    measure = measures.THROTTLED_PER_S
    if not _planned(results, measure) or not {ONE_WORKER, TWO_WORKERS} <= {*results.arms}:
        return None
    one, two = measure.median(results, ONE_WORKER), measure.median(results, TWO_WORKERS)
    return _at_least("two workers: plain requests/s, the proxy the bottleneck", two and one and two / one)


def _two_workers_events(results: Results) -> Verdict | None:
    one = measures.EVENT_BUSIEST.median(results, ONE_WORKER)
    two = measures.PAIR_BUSIEST.median(results, TWO_WORKERS)
    planned = _planned(results, measures.PAIR_BUSIEST) and {ONE_WORKER, TWO_WORKERS} <= {*results.arms}
    return (
        _at_least("two workers: events until the busier one is full", one and two and one / two)
        if planned
        else None
    )


def _at_least(bar: str, factor: float | None) -> Verdict:
    wanted = f"at least {TWO_WORKERS_FACTOR_MIN:g} times one"
    found = f"{factor:.2f} times" if factor else ""
    return Verdict(bar, wanted, found, bool(factor and factor >= TWO_WORKERS_FACTOR_MIN), ratio=True)


def _planned(results: Results, measure: Measure) -> bool:
    return ONE_WORKER in results.arms and (not measure.step or results.plan.step(measure.step) is not None)


_JUDGES: tuple[Callable[[Results], Verdict | None], ...] = (
    _most(measures.EVENT_MANY, 20, "µs"),
    _against_nginx,
    _below_rust,
    _most(measures.PLAIN, 100, "µs"),
    _over_direct(measures.TTFT_P50, 1),
    _over_direct(measures.TTFT_P99, 3),
    _over_direct(measures.GAP_P99, 1),
    _most(measures.IDLE_RSS, 60, "MB per worker"),
    _most(measures.STREAM_KB, 12, "KB"),
    _most(measures.READY, 1, "s"),
    _traces_add(measures.EVENT_MANY, EVENT_NOISE_US),
    _traces_add(measures.PLAIN, TRACES_US_MAX),
    _two_workers_plain,
    _two_workers_events,
)
