"""Which headers go on to the engine, and which come back from it."""

from __future__ import annotations

from collections.abc import Iterable

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
# The client's own keys stay here; lengths are written anew; a compressed answer could not be watched.
_NOT_TO_ENGINE = _HOP_BY_HOP | {
    b"accept-encoding",
    b"authorization",
    b"content-length",
    b"cookie",
    b"expect",
    b"host",
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


def headers_to_engine(headers: Iterable[tuple[bytes, bytes]], request_id: str, api_key: str) -> Headers:
    """The request's headers for a replica that asks for `api_key`."""
    kept = _kept(headers, _NOT_TO_ENGINE)
    kept.append((b"x-request-id", request_id.encode()))
    if api_key:
        kept.append((b"authorization", b"Bearer " + api_key.encode()))
    return kept


def headers_to_client(headers: Iterable[tuple[bytes, bytes]], request_id: str) -> Headers:
    """The response's headers for the client."""
    kept = _kept(headers, _NOT_TO_CLIENT)
    kept.append((b"x-request-id", request_id.encode()))
    return kept


def content_type(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The media type without parameters, in lower case; empty where none is given."""
    value = next((value for name, value in headers if name == b"content-type"), b"")
    return value.partition(b";")[0].strip().lower().decode("latin-1")


def _kept(headers: Iterable[tuple[bytes, bytes]], dropped: frozenset[bytes]) -> Headers:
    headers = list(headers)  # looked through twice
    kept = [(name, value) for name, value in headers if name not in dropped]
    named = {
        token.strip().lower()
        for name, value in headers
        if name == b"connection" and value.lower() not in _PLAIN_CONNECTION
        for token in value.split(b",")
    }
    return [(name, value) for name, value in kept if name not in named] if named else kept
