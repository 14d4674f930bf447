"""A client may have less time than the model gives, never more."""

from __future__ import annotations

import pytest

from penstock.core.errors import ClientError
from penstock.gateway.deadline import timeout_s


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(b"", 60.0), (b"2s", 2.0), (b"500ms", 0.5), (b"1.5", 1.5), (b"1h", 60.0), (b"99999999999", 60.0)],
)
def test_the_shorter_one_counts(header: bytes, seconds: float) -> None:
    assert timeout_s(60.0, header) == seconds


@pytest.mark.parametrize("header", [b"0", b"-1", b"soon", b"\xff", b"1" * 33, b"nan", b"inf"])
def test_what_is_no_time_is_refused_with_an_example(header: bytes) -> None:
    with pytest.raises(ClientError, match="500ms") as caught:
        timeout_s(60.0, header)

    assert (caught.value.status, caught.value.code) == (400, "invalid_header")
