"""Which of its model's objectives a request met.

What its client did wrong, a limit of the client's own included, is judged by none. A request that did not come to its
end missed a time only if it had passed it by then, and is not judged by it otherwise: the load tester says the same.
An answer that is not streamed has no time to its first token and none between tokens; one of a single token has none
between them: such a request is judged by the other objectives alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from penstock.core.config_slo import AVAILABILITY, GOODPUT
from penstock.core.errors import Fault
from penstock.core.record import Outcome, RequestRecord


def judged(record: RequestRecord, limits_s: Mapping[str, float]) -> dict[str, bool]:
    """Whether a request that has ended was good, by objective; without those that it is not judged by.

    Args:
        limits_s: `SloConfig.limits_s` of its model.
    """
    if record.fault == Fault.CLIENT:
        return {}
    failed = bool(record.fault) or record.outcome in (Outcome.REJECTED, Outcome.INTERRUPTED)
    complete = record.outcome is Outcome.COMPLETE and not failed
    verdicts = {AVAILABILITY: not failed} if complete or failed else {}
    if record.replayed:  # nothing was generated for it
        return verdicts
    kept = True
    for name, limit_s in limits_s.items():
        met = _met(record, name, limit_s, complete)
        if met is not None:
            verdicts[name] = met
            kept = kept and met
    if complete or failed or not kept:
        verdicts[GOODPUT] = kept and not failed
    return verdicts


def _met(record: RequestRecord, name: str, limit_s: float, complete: bool) -> bool | None:
    """Whether it met one limit; None where that can't be told."""
    if name == "tpot":
        tpot_s = record.tpot_s if complete else None  # the mean of what was cut off might yet have fallen
        return None if tpot_s is None else tpot_s <= limit_s
    if name == "ttft":
        if not record.stream:
            return None
        if record.ttft_s is not None:
            return record.ttft_s <= limit_s
    elif complete and record.duration_s is not None:
        return record.duration_s <= limit_s
    return False if record.duration_s is not None and record.duration_s > limit_s else None
