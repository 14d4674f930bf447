"""A client's own request id is taken where it can do no harm."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.request_id import new_request_id, request_id_of


@pytest.mark.parametrize("given_id", [b"abc", b"req_0.1:2-3_Z", b"a" * 128])
def test_a_fit_id_is_kept(given_id: bytes) -> None:
    assert request_id_of([(b"x-a", b"no"), (b"x-request-id", given_id)]) == given_id.decode()


@pytest.mark.parametrize(
    "given_id",
    [
        b"",
        b"a" * 129,
        b"a b",
        b"a\r\nx-evil: 1",
        b"a\n",
        b"a\x00",
        b"\xff",
        b"\xc3\xa9",
        b'a"b',
        b"a/../b",
        b"${jndi:ldap://x}",
        b"<script>",
        b"a\x1b[31m",
    ],
)
def test_an_id_that_could_do_harm_is_replaced(given_id: bytes) -> None:
    assert re.fullmatch(r"req_[0-9a-f]{24}", request_id_of([(b"x-request-id", given_id)]))


@given(st.binary(max_size=200))
def test_an_id_is_always_fit_for_headers_and_logs(given_id: bytes) -> None:
    assert re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", request_id_of([(b"x-request-id", given_id)]))


def test_the_first_of_several_ids_counts() -> None:
    assert request_id_of([(b"x-request-id", b"one"), (b"x-request-id", b"two")]) == "one"


def test_a_request_without_an_id_gets_one_that_nobody_else_has() -> None:
    assert len({new_request_id() for _ in range(1000)} | {request_id_of([])}) == 1001
