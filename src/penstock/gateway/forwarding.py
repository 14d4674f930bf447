"""Which headers go on to the engine, and which come back from it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from penstock.engines.exchange import Headers

# RFC 9110, 7.6.1: these belong to one connection.
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Almost every `connection` header is one of these, and names no other header.
_PLAIN_CONNECTION = frozenset({b"keep-alive", b"close"})
_NOTHING: frozenset[bytes] = frozenset()
# The client's own keys stay here; lengths are written anew; a compressed answer could not be watched.
NOT_TO_ENGINE = _HOP_BY_HOP | {
    b"accept-encoding",
    b"authorization",
    b"content-length",
    b"cookie",
    b"expect",
    b"host",
    b"idempotency-key",
    b"last-event-id",
    b"x-api-key",
    b"x-request-id",
}
# Who may read an answer from a web page is the gateway's to say, not the engine's.
_NOT_TO_CLIENT = _HOP_BY_HOP | {
    b"access-control-allow-origin",
    b"content-length",
    b"date",
    b"server",
    b"set-cookie",
    b"x-penstock-fault",
    b"x-request-id",
}


def headers_to_engine(onward: Headers, request_id: str, api_key: str) -> Headers:
    """The headers for a replica that asks for `api_key`; `onward` are those of `Request`, sorted already."""
    headers = [*onward, (b"x-request-id", request_id.encode())]
    if api_key:
        headers.append((b"authorization", b"Bearer " + api_key.encode()))
    return headers


def headers_to_client(headers: Iterable[tuple[bytes, bytes]], request_id: str) -> Headers:
    """The response's headers for the client."""
    kept = []
    unwanted: set[bytes] = set()
    for header in headers:
        if header[0] not in _NOT_TO_CLIENT:
            kept.append(header)
        elif header[0] == b"connection":
            unwanted |= named_by_connection(header[1])
    if unwanted:
        kept = [header for header in kept if header[0] not in unwanted]
    kept.append((b"x-request-id", request_id.encode()))
    return kept


def named_by_connection(value: bytes) -> frozenset[bytes] | set[bytes]:
    """The headers that a `connection` header names: they belong to this connection, as it does."""
    if value.lower() in _PLAIN_CONNECTION:
        return _NOTHING
    return {token.strip().lower() for token in value.split(b",")}


def content_type(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The media type of the first `content-type`; empty where none is given."""
    for name, value in headers:
        if name == b"content-type":
            return media_type(value)
    return ""


def media_type(value: bytes) -> str:
    """A `content-type` without parameters, in lower case."""
    return _usual_type(value) if len(value) <= _USUAL_BYTES_MAX else _media_type(value)


def _media_type(value: bytes) -> str:
    return value.partition(b";")[0].strip().lower().decode("latin-1")


# Each request has two of them, and nearly always the same.
_USUAL_BYTES_MAX = 64
_usual_type = lru_cache(maxsize=64)(_media_type)
