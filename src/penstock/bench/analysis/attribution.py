"""Where the time to the first token went, as far as a gateway tells: `Server-Timing` of each answer, and its replica.

    client      from the scheduled send to the real one, less what the connection took to open
    connecting  of the client's own connection
    gateway     what it says of itself: `auth`, `queue` (in line), `connect` (to the engine)
    engine      what is left of its `first_token`, which counts from the arrival of the request
    network     all else, there and back

Another server's `Server-Timing` is told as it stands, by its own names.

Pure, and in bounded memory: of a long run, the times of its first requests are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from penstock.bench.sample import Cause, Sample
from penstock.core.stats import percentile

# Percentiles of more values look the same.
VALUES_MAX = 20_000
# A header from outside names them.
PARTS_MAX = 12
REPLICAS_MAX = 64
OTHERS = "others"
# Of a Penstock gateway: from the arrival of a request to its first token.
GATEWAY_WHOLE = "first_token"


class TimePart(msgspec.Struct, frozen=True):
    """One part of the time to the first token, over all whole answers that tell of it; seconds."""

    name: str
    count: int
    mean_s: float
    p50_s: float
    p95_s: float


class ReplicaPart(msgspec.Struct, frozen=True):
    """What one replica answered."""

    name: str
    requests: int
    failed: int
    ttft_p50_s: float | None


class Attribution(msgspec.Struct, frozen=True):
    """The parts, in the order that a request passes them; and the replicas by name. Empty where nobody told."""

    parts: list[TimePart] = []
    replicas: list[ReplicaPart] = []


class Attributing:
    """Reads samples while they pass."""

    def __init__(self) -> None:
        self._parts: dict[str, list[float]] = {}
        self._ttft: dict[str, list[float]] = {}
        self._requests: dict[str, int] = {}
        self._failed: dict[str, int] = {}

    def passing(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """The same samples, each looked at."""
        for sample in samples:
            if sample.stage >= 0:
                self.add(sample)
            yield sample

    def add(self, sample: Sample) -> None:
        """Reads one."""
        if sample.replica:
            self._add_replica(sample)
        if not sample.server_timing_ms or sample.first_token_s is None or sample.sent_s is None:
            return
        if sample.cause is not Cause.NONE:
            return
        for name, value in _parts(sample).items():
            if name not in self._parts and len(self._parts) >= PARTS_MAX:
                continue
            values = self._parts.setdefault(name, [])
            if len(values) < VALUES_MAX:
                values.append(value)

    def result(self) -> Attribution:
        """What was read."""
        parts = [_part(name, values) for name, values in self._parts.items()]
        return Attribution(parts, [self._replica(name) for name in sorted(self._requests)])

    def _add_replica(self, sample: Sample) -> None:
        known = sample.replica in self._requests or len(self._requests) < REPLICAS_MAX
        name = sample.replica if known else OTHERS
        self._requests[name] = self._requests.get(name, 0) + 1
        if sample.cause not in (Cause.NONE, Cause.CANCELLED, Cause.CUT_OFF):
            self._failed[name] = self._failed.get(name, 0) + 1
        values = self._ttft.setdefault(name, [])
        if sample.first_token_s is not None and len(values) < VALUES_MAX:
            values.append(sample.first_token_s - sample.scheduled_s)

    def _replica(self, name: str) -> ReplicaPart:
        values = self._ttft[name]
        middle = percentile(values, 50) if values else None
        return ReplicaPart(name, self._requests[name], self._failed.get(name, 0), middle)


def _parts(sample: Sample) -> dict[str, float]:
    """The parts of one, seconds, in the order that a request passes them."""
    assert sample.sent_s is not None
    assert sample.first_token_s is not None
    told = {name: ms / 1000 for name, ms in sample.server_timing_ms.items()}
    whole_s = told.pop(GATEWAY_WHOLE, None)
    connecting_s = sample.connect_s or 0.0
    parts = {
        "client": max(0.0, sample.sent_s - sample.scheduled_s - connecting_s),
        "connecting": connecting_s,
    }
    if whole_s is None:
        return parts | {f"server: {name}": value for name, value in told.items()}
    parts |= {f"gateway: {name}": value for name, value in told.items()}
    parts["engine"] = max(0.0, whole_s - sum(told.values()))
    parts["network"] = max(0.0, sample.first_token_s - sample.sent_s - whole_s)
    return parts


def _part(name: str, values: list[float]) -> TimePart:
    mean = sum(values) / len(values)
    return TimePart(name, len(values), mean, percentile(values, 50), percentile(values, 95))
