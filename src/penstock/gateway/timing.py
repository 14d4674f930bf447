"""Headers that tell a person where an answer came from, and where its time went."""

from __future__ import annotations

from penstock.core.record import RequestRecord
from penstock.engines.exchange import Headers


def timing_headers(record: RequestRecord) -> Headers:
    """`x-penstock-replica`, and `server-timing` in milliseconds; nothing where no replica was asked.

    A phase that has not come to its end is left out. A stream's first token is the event with which it begins.
    """
    if not record.attempts:
        return []
    attempt = record.attempts[-1]
    headers = [(b"x-penstock-replica", attempt.replica.encode())]
    token_s = record.first_token_s or record.first_byte_s
    phases = (
        (b"auth", record.arrived_s, record.authenticated_s),
        (b"queue", record.lined_up_s, record.admitted_s),
        (b"connect", attempt.started_s, attempt.connected_s),
        (b"first_token", record.arrived_s, token_s),
    )
    told = [
        b"%b;dur=%.2f" % (name, (end_s - begun_s) * 1000 if end_s > begun_s else 0.0)
        for name, begun_s, end_s in phases
        if begun_s is not None and end_s is not None
    ]
    if told:
        headers.append((b"server-timing", b", ".join(told)))
    return headers
