"""How often one client address may ask: a token bucket, kept as the one time at which it would be full again.

That is the generic cell rate algorithm (ITU-T I.371, annex A), whose state is a single number.
"""

from __future__ import annotations

# What may come at once: this many seconds' worth of requests, and one in any case.
BURST_S = 2.0


def take(full_at_s: float, now_s: float, rate_per_s: float) -> tuple[float, float]:
    """One request.

    Args:
        full_at_s: the bucket's state, 0.0 for a new one.
        now_s: a clock that may jump back: the bucket is then taken for empty, and no more than that.
        rate_per_s: requests in a second, more than 0.

    Returns:
        The new state, and in how many seconds to ask again: 0.0 where the request may go on.
    """
    room_s = max(BURST_S, 1 / rate_per_s)
    full_at_s = min(max(full_at_s, now_s), now_s + room_s)
    wait_s = full_at_s + 1 / rate_per_s - (now_s + room_s)
    if wait_s > _ROUNDING_S:
        return full_at_s, wait_s
    return full_at_s + 1 / rate_per_s, 0.0


# Sums of floats on a clock of some weeks are off by less.
_ROUNDING_S = 1e-6
