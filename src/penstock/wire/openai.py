"""OpenAI's request bodies: only what routing needs is read; everything else goes to the engine as it came."""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.core.errors import ClientError
from penstock.wire.splice import insert_member, replace_member

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"


class StreamOptions(msgspec.Struct):
    """`stream_options`; other members are left to the engine."""

    include_usage: bool | None = None


class Message(msgspec.Struct):
    """The one member that every chat message must have."""

    role: str


class _Request(msgspec.Struct):
    model: str
    stream: bool | None = False
    stream_options: StreamOptions | msgspec.UnsetType | None = msgspec.UNSET


class _Chat(_Request, kw_only=True):
    messages: list[Message]


class _Completions(_Request, kw_only=True):
    prompt: msgspec.Raw


class _Embeddings(_Request, kw_only=True):
    input: msgspec.Raw


_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    CHAT: msgspec.json.Decoder(_Chat),
    COMPLETIONS: msgspec.json.Decoder(_Completions),
    EMBEDDINGS: msgspec.json.Decoder(_Embeddings),
}
_ANY_ROUTE = msgspec.json.Decoder(_Request)


class _HasOptions(msgspec.Struct):
    """The same member with every value as it came, to be written anew."""

    stream_options: dict[str, msgspec.Raw] | None


_OPTIONS = msgspec.json.Decoder(_HasOptions)


class InferenceRequest(msgspec.Struct, frozen=True):
    """What the gateway knows of a request: which model, streamed or not, and the body for the engine.

    `hides_usage` says that the usage chunk was asked for by the gateway alone, and is kept from the client.
    """

    model: str
    stream: bool
    body: bytes
    hides_usage: bool = False


def read_request(route: str, body: bytes) -> InferenceRequest:
    """The request in `body`.

    Raises:
        ClientError: the body is not JSON, lacks a member or has one of the wrong type; `param` names it.
    """
    request = _decoded(_DECODERS.get(route, _ANY_ROUTE), body)
    if not request.model:
        raise ClientError("model: must not be empty", code="invalid_value", param="model")
    if route == CHAT and not request.messages:
        raise ClientError("messages: must hold at least one message", code="invalid_value", param="messages")
    return _with_usage(request, route, body)


def with_model(request: InferenceRequest, name: str) -> InferenceRequest:
    """The request for the model's own name, where the client used an alias."""
    if name == request.model:
        return request
    body = replace_member(request.body, "model", msgspec.json.encode(name))
    return msgspec.structs.replace(request, model=name, body=body)


def _decoded(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _wrong_member(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ClientError(
            f"the body is not valid JSON: {error}",
            code="invalid_json",
            hint="send one JSON object, encoded as UTF-8",
        ) from None


def _with_usage(request: _Request, route: str, body: bytes) -> InferenceRequest:
    stream = bool(request.stream)
    options = request.stream_options
    asked = isinstance(options, StreamOptions) and options.include_usage
    if not stream or asked or route not in (CHAT, COMPLETIONS):
        return InferenceRequest(request.model, stream, body)
    if options is msgspec.UNSET:
        body = insert_member(body, "stream_options", b'{"include_usage":true}')
    else:
        members = _decoded(_OPTIONS, body).stream_options or {}
        value = msgspec.json.encode({**members, "include_usage": True})
        body = replace_member(body, "stream_options", value)
    return InferenceRequest(request.model, stream, body, hides_usage=True)


def _wrong_member(message: str) -> ClientError:
    """OpenAI's shape for msgspec's words: `Expected `str`, got `int` - at `$.model``."""
    text, _, path = message.partition(" - at `")
    param = path.rstrip("`").removeprefix("$").removeprefix(".")
    if text.startswith("Object missing required field"):
        field = text.split("`")[1]
        param = f"{param}.{field}" if param else field
        return ClientError(
            f"{param}: is required", code="missing_required_parameter", param=param, hint=f"add {field!r}"
        )
    text = text[:1].lower() + text[1:]
    return ClientError(f"{param or 'the body'}: {text}", code="invalid_type", param=param or None)
