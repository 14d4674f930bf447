"""Who is calling: a key from the headers, never from the URL."""

from __future__ import annotations

from collections.abc import Iterable

from penstock.core.errors import AuthError
from penstock.store.keys import Key, KeyRing

# Longer than any key of ours; a longer value is no key, and is not worth hashing.
SECRET_BYTES_MAX = 512


def authenticate(headers: Iterable[tuple[bytes, bytes]], keys: KeyRing) -> Key:
    """The key that `Authorization: Bearer` or `X-API-Key` names.

    Raises:
        AuthError: there is none, or it is not known, or no longer.
    """
    secret = secret_of(headers)
    if not secret:
        raise AuthError(
            "no API key was given",
            code="missing_api_key",
            hint="send the header `Authorization: Bearer <key>`; `penstock keys create` makes a key",
        )
    key = keys.find(secret.decode("utf-8", "surrogateescape")) if len(secret) <= SECRET_BYTES_MAX else None
    if key is None:
        raise AuthError(
            "the API key is not known here, or was revoked",
            hint="check the key; `penstock keys list` shows which exist",
        )
    return key


def secret_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """What `Authorization: Bearer` or `X-API-Key` holds; empty where there is neither."""
    for name, value in headers:
        if name == b"authorization":
            scheme, _, secret = value.partition(b" ")
            if scheme.lower() == b"bearer":
                return secret.strip()
        elif name == b"x-api-key":
            return value.strip()
    return b""
