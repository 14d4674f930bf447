"""A key counts in the two headers that carry keys, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.errors import AuthError
from penstock.gateway.auth import SECRET_BYTES_MAX, authenticate
from penstock.store.keys import KeyRing

LONGEST = "k" * SECRET_BYTES_MAX
RING = KeyRing(
    Path("/nonexistent/keys.json"), ["sk-1", "sk-2", LONGEST, LONGEST + "k"], float, float, lambda _: None
)

Headers = list[tuple[bytes, bytes]]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer sk-1")],
        [(b"authorization", b"bearer sk-1")],
        [(b"authorization", b"BEARER   sk-1 ")],
        [(b"x-api-key", b"sk-1")],
        [(b"x-api-key", b" sk-1 ")],
        [(b"authorization", b"Basic c2stMjo="), (b"x-api-key", b"sk-1")],
        [(b"x-api-key", b"sk-1"), (b"authorization", b"Bearer sk-2")],
    ],
)
def test_a_known_key_is_let_in(headers: Headers) -> None:
    assert authenticate(headers, RING).id == "env-1"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"sk-1")],
        [(b"authorization", b"Basic sk-1")],
        [(b"authorization", b"Digest sk-1")],
        [(b"x-api-key", b"")],
        [(b"cookie", b"api_key=sk-1")],
        [(b"referer", b"http://h/?api_key=sk-1")],
        [(b"api-key", b"sk-1")],
    ],
)
def test_no_key_is_a_401_that_says_how_to_send_one(headers: Headers) -> None:
    with pytest.raises(AuthError) as caught:
        authenticate(headers, RING)

    assert (caught.value.status, caught.value.code) == (401, "missing_api_key")
    assert "Authorization: Bearer" in caught.value.hint


@pytest.mark.parametrize(
    "secret", [b"sk-3", b"sk-", b"sk-1x", b"SK-1", b"sk-1 sk-2", b"\xff\x00", b"\xed\xa0\x80"]
)
def test_an_unknown_key_is_a_401_that_does_not_repeat_it(secret: bytes) -> None:
    with pytest.raises(AuthError) as caught:
        authenticate([(b"authorization", b"Bearer " + secret)], RING)

    assert caught.value.code == "invalid_api_key"
    assert secret.decode("latin-1") not in caught.value.message + caught.value.hint


def test_a_key_that_is_too_long_is_not_even_looked_at() -> None:
    assert authenticate([(b"x-api-key", LONGEST.encode())], RING).id == "env-3"
    with pytest.raises(AuthError):
        authenticate([(b"x-api-key", LONGEST.encode() + b"k")], RING)


def test_a_key_of_the_environment_may_hold_any_letters() -> None:
    ring = KeyRing(Path("/nonexistent/keys.json"), ["schlüssel"], float, float, lambda _: None)

    assert authenticate([(b"x-api-key", "schlüssel".encode())], ring).id == "env-1"


@given(st.binary(max_size=60), st.sampled_from([b"authorization", b"x-api-key"]))
def test_any_other_value_is_refused_and_never_fails(value: bytes, name: bytes) -> None:
    with pytest.raises(AuthError):
        authenticate([(name, b"Bearer x" + value)], RING)
