"""How long a request may take, and how long the end of a load may."""

from __future__ import annotations

import msgspec


class Timeouts(msgspec.Struct, frozen=True):
    """Limits, in seconds, above 0.

    Args:
        connect_s: opening a connection.
        first_token_s: from sending to the first content; None leaves it to `total_s`.
        stall_s: silence after it; None leaves it to `total_s`.
        total_s: the whole request: what bounds an endless stream.
        drain_s: how long requests under way may go on when the duration of a load is over, 0 or more; what is left
            then is cut off. A load without a duration waits for all of its answers, each for `total_s` at most.
    """

    connect_s: float = 10.0
    first_token_s: float | None = None
    stall_s: float | None = None
    total_s: float = 600.0
    drain_s: float = 30.0
