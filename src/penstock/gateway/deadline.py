"""When a request must be over: the model's own limit, or a shorter one that the client asks for."""

from __future__ import annotations

from penstock.core.errors import ClientError
from penstock.core.units import parse_duration_s

HEADER = b"x-request-timeout"
VALUE_BYTES_MAX = 32


def timeout_s(own_s: float, header: bytes) -> float:
    """The time that a request has, in seconds: `own_s`, or less where the client's header says so.

    Raises:
        ClientError: the header is no duration above 0.
    """
    if not header:
        return own_s
    try:
        asked_s = parse_duration_s(header.decode("ascii")) if len(header) <= VALUE_BYTES_MAX else 0.0
    except ValueError:
        asked_s = 0.0
    if asked_s <= 0:
        raise ClientError(
            "X-Request-Timeout: expected a duration such as 500ms, 2s or 1.5",
            code="invalid_header",
            param="X-Request-Timeout",
        )
    return min(own_s, asked_s)
