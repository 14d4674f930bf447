"""How the load generators themselves fared: what tells whether a run measured the server or its own client."""

from __future__ import annotations

import math

import msgspec

# Buckets grow by 4 %, so that what is read from them is right within 2 %; the first ends at 1 µs.
_GROWTH = math.log(1.04)
_FIRST_S = 1e-6


class Spread(msgspec.Struct):
    """How durations are spread, in bounded memory; those of several processes can be added up.

    Args:
        buckets: how many durations fell into each bucket of the logarithmic scale.
        max_s: the longest one, seconds.
    """

    buckets: dict[int, int] = {}
    max_s: float = 0.0

    @property
    def count(self) -> int:
        """How many durations there were."""
        return sum(self.buckets.values())

    def note(self, duration_s: float) -> None:
        """Adds a duration, seconds; one below 0 counts as 0."""
        bucket = math.ceil(math.log(duration_s / _FIRST_S) / _GROWTH) if duration_s > _FIRST_S else 0
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        self.max_s = max(self.max_s, duration_s)

    def add(self, other: Spread) -> None:
        """Adds all durations of another spread."""
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count
        self.max_s = max(self.max_s, other.max_s)

    def quantile(self, share: float) -> float:
        """The duration that `share` (0 to 1) of all do not exceed, seconds, within 4 %; 0 where there is none."""
        wanted = math.ceil(share * self.count)
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= wanted:
                return min(self.max_s, _FIRST_S * math.exp(bucket * _GROWTH))
        return 0.0


class ProcessHealth(msgspec.Struct):
    """What one load generator process says of itself at its end.

    Args:
        send_late: from the scheduled time to the moment that the process turned to the request.
        loop_lag: how late timers of its event loop rang; up to 2 ms is its own resolution, but on Linux.
        cpu_s: its CPU time during the load, seconds.
        wall_s: how long the load lasted for it, seconds.
        events: server-sent events it read.
        ceiling_events_per_s: events it could read in a second, measured before the load.
        in_flight_max: most requests under way at once.
        connections_opened: connections it dialled.
        stale_connections: kept-alive connections that the server had closed when they were wanted again.
        connections_refused_here: requests that found no connection because this process may not open more.
        plan_waits: times that a request was due, or a place free, before the plan had been written so far.
        rss_max_bytes: the most memory it held.
    """

    send_late: Spread
    loop_lag: Spread
    cpu_s: float = 0.0
    wall_s: float = 0.0
    events: int = 0
    ceiling_events_per_s: float = 0.0
    in_flight_max: int = 0
    connections_opened: int = 0
    stale_connections: int = 0
    connections_refused_here: int = 0
    plan_waits: int = 0
    rss_max_bytes: int = 0


class ClientHealth(msgspec.Struct, frozen=True):
    """How all load generators of a run fared.

    Args:
        send_late_p50_s, send_late_p99_s, send_late_max_s: from the scheduled time of a request to the moment that
            its process turned to it; opening a connection comes later and counts for the server.
        loop_lag_p99_s, loop_lag_max_s: how late timers rang; up to 2 ms is the loop's own resolution, but on Linux.
        cpu_share: of one core, for each process, 0 to 1.
        ceiling_events_per_s: events all processes could read in a second, as measured before the load.
        events_per_s: events they read in a second, over the whole load.
        events: events they read.
        in_flight_max: sum over processes of the most requests under way at once.
        connections_opened, stale_connections, connections_refused_here, plan_waits: see `ProcessHealth`.
        rss_max_bytes: the most memory that one process held.
    """

    send_late_p50_s: float = 0.0
    send_late_p99_s: float = 0.0
    send_late_max_s: float = 0.0
    loop_lag_p99_s: float = 0.0
    loop_lag_max_s: float = 0.0
    cpu_share: tuple[float, ...] = ()
    ceiling_events_per_s: float = 0.0
    events_per_s: float = 0.0
    events: int = 0
    in_flight_max: int = 0
    connections_opened: int = 0
    stale_connections: int = 0
    connections_refused_here: int = 0
    plan_waits: int = 0
    rss_max_bytes: int = 0


class Progress(msgspec.Struct, frozen=True):
    """How far a load has come; sums over all processes.

    Args:
        elapsed_s: since the start of the load, seconds.
        sent: requests that were begun.
        in_flight: of these, those without an end.
        completed: requests with a whole answer.
        failed: requests with another end, without those that were cancelled by plan or cut off.
        output_tokens: chunks with content so far, or tokens where the server has told them.
        recent_ttft_s: first tokens since the last report, from the scheduled time; a sample of them where many.
        recent_tpot_s: time per token of requests that ended since then.
        send_late_max_s: the latest send since then.
        cpu_share: of one core, for each process, since then.
    """

    elapsed_s: float = 0.0
    sent: int = 0
    in_flight: int = 0
    completed: int = 0
    failed: int = 0
    output_tokens: int = 0
    recent_ttft_s: list[float] = []
    recent_tpot_s: list[float] = []
    send_late_max_s: float = 0.0
    cpu_share: tuple[float, ...] = ()


def client_health(parts: list[ProcessHealth], cores: int | None = None) -> ClientHealth:
    """What all processes together say of the client.

    Args:
        cores: that they share: each measured its ceiling as if it had one to itself. None is enough for all.
    """
    late, lag = Spread(), Spread()
    for part in parts:
        late.add(part.send_late)
        lag.add(part.loop_lag)
    wall_s = max((part.wall_s for part in parts), default=0.0)
    events = sum(part.events for part in parts)
    of_a_core = min(1.0, cores / len(parts)) if cores and parts else 1.0
    return ClientHealth(
        send_late_p50_s=late.quantile(0.5),
        send_late_p99_s=late.quantile(0.99),
        send_late_max_s=late.max_s,
        loop_lag_p99_s=lag.quantile(0.99),
        loop_lag_max_s=lag.max_s,
        cpu_share=tuple(part.cpu_s / part.wall_s if part.wall_s else 0.0 for part in parts),
        ceiling_events_per_s=of_a_core * sum(part.ceiling_events_per_s for part in parts),
        events_per_s=events / wall_s if wall_s else 0.0,
        events=events,
        in_flight_max=sum(part.in_flight_max for part in parts),
        connections_opened=sum(part.connections_opened for part in parts),
        stale_connections=sum(part.stale_connections for part in parts),
        connections_refused_here=sum(part.connections_refused_here for part in parts),
        plan_waits=sum(part.plan_waits for part in parts),
        rss_max_bytes=max((part.rss_max_bytes for part in parts), default=0),
    )
