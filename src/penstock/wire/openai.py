"""OpenAI's request bodies: only what routing needs is read; everything else goes to the engine as it came."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from penstock.core.errors import ClientError
from penstock.wire.splice import insert_member, replace_member

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"

# Routes whose replies are not generated.
_WITHOUT_ANSWER = frozenset({EMBEDDINGS, "/v1/score", "/v1/rerank", "/v1/classify", "/v1/pooling"})

# As OpenAI's API.
CHOICES_MAX = 128


class StreamOptions(msgspec.Struct):
    """`stream_options`; other members are left to the engine."""

    include_usage: bool | None = None


class Message(msgspec.Struct):
    """The one member that every chat message must have."""

    role: str


_ABSENT = msgspec.Raw(b"")
# One of these must be there; the first is the usual one.
_PROMPTS = {COMPLETIONS: ("prompt", "prompt_embeds"), EMBEDDINGS: ("input", "messages")}


class _Request(msgspec.Struct):
    model: str
    stream: bool | None = False
    stream_options: StreamOptions | msgspec.UnsetType | None = msgspec.UNSET
    # of any type: the engine says what it takes
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    n: Any = None
    best_of: Any = None
    user: Any = None
    prompt_cache_key: Any = None


class _Chat(_Request, kw_only=True):
    messages: list[Message]


class _Completions(_Request, kw_only=True):
    prompt: msgspec.Raw = _ABSENT
    prompt_embeds: msgspec.Raw = _ABSENT  # vLLM's


class _Embeddings(_Request, kw_only=True):
    input: msgspec.Raw = _ABSENT
    messages: msgspec.Raw = _ABSENT  # vLLM's


_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    CHAT: msgspec.json.Decoder(_Chat),
    COMPLETIONS: msgspec.json.Decoder(_Completions),
    EMBEDDINGS: msgspec.json.Decoder(_Embeddings),
}
# An escape of either half, paired or not: its place is taken by as many bytes, for reading only.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_ANY_ROUTE = msgspec.json.Decoder(_Request)


class _HasOptions(msgspec.Struct):
    """The same member with every value as it came, to be written anew."""

    stream_options: dict[str, msgspec.Raw] | None


_OPTIONS = msgspec.json.Decoder(_HasOptions)


class InferenceRequest(msgspec.Struct, frozen=True):
    """What the gateway knows of a request: which model, streamed or not, and the body for the engine.

    Args:
        hides_usage: the usage chunk was asked for by the gateway alone, and is kept from the client.
        completion_tokens_max: tokens that the answer may have, over all its choices; None where it is not said.
        answers: how many a stream brings side by side; 1 where it is no stream.
        session: who asks, as the body's `prompt_cache_key` or `user` names them; may be empty.
    """

    model: str
    stream: bool
    body: bytes
    hides_usage: bool = False
    completion_tokens_max: int | None = None
    answers: int = 1
    session: str = ""


def read_request(route: str, body: bytes) -> InferenceRequest:
    """The request in `body`.

    Raises:
        ClientError: the body is not JSON, lacks a member or has one of the wrong type; `param` names it.
    """
    request = _decoded(_DECODERS.get(route, _ANY_ROUTE), body)
    if not request.model:
        raise ClientError("model: must not be empty", code="invalid_value", param="model")
    prompts = _PROMPTS.get(route, ())
    if prompts and not any(bytes(getattr(request, name)) for name in prompts):
        raise _missing(prompts[0])
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
        return _read(decoder, body)
    except msgspec.ValidationError as error:
        raise _wrong_member(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ClientError(
            f"the body is not valid JSON: {error}",
            code="invalid_json",
            hint="send one JSON object, encoded as UTF-8",
        ) from None


def _read(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """What is in `body`, where JSON may have halves of surrogate pairs (RFC 8259, 8.2), which msgspec refuses."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        readable = _SURROGATE.sub(rb"\\ufffd", body)
        if readable == body:
            raise
    return decoder.decode(readable)


def _with_usage(request: _Request, route: str, body: bytes) -> InferenceRequest:
    stream = bool(request.stream)
    options = request.stream_options
    asked = isinstance(options, StreamOptions) and options.include_usage
    session = request.prompt_cache_key or request.user
    known = InferenceRequest(
        request.model,
        stream,
        body,
        completion_tokens_max=_completion_tokens_max(request, route),
        answers=_answers(request) if stream else 1,
        session=session if isinstance(session, str) else "",
    )
    if not stream or asked or route not in (CHAT, COMPLETIONS):
        return known
    if options is msgspec.UNSET:
        body = insert_member(body, "stream_options", b'{"include_usage":true}')
    else:
        members = _decoded(_OPTIONS, body).stream_options or {}
        value = msgspec.json.encode({**members, "include_usage": True})
        body = replace_member(body, "stream_options", value)
    return msgspec.structs.replace(known, body=body, hides_usage=True)


def _completion_tokens_max(request: _Request, route: str) -> int | None:
    """Tokens that the answer may have, of all choices together."""
    if route not in (CHAT, COMPLETIONS):
        told = request.max_output_tokens if request.max_tokens is None else request.max_tokens
        return 0 if route in _WITHOUT_ANSWER else told if isinstance(told, int) and told >= 0 else None
    choices = request.n
    if isinstance(choices, int) and not 1 <= choices <= CHOICES_MAX:
        raise ClientError(f"n: must be from 1 to {CHOICES_MAX}", code="invalid_value", param="n")
    least = 1 if route == CHAT else 0  # a completion of no tokens scores its prompt
    limits = [("max_tokens", request.max_tokens)]
    if route == CHAT:  # a text completion does not have the other one
        limits.insert(0, ("max_completion_tokens", request.max_completion_tokens))
    for name, tokens in limits:
        if not isinstance(tokens, int) or isinstance(tokens, bool):
            continue
        if tokens < least:
            raise ClientError(
                f"{name}: must be at least {least}",
                code="invalid_value",
                param=name,
                hint=f"leave {name} out for as many as fit",
            )
        return tokens * _answers(request)
    return None


def _answers(request: _Request) -> int:
    """How many answers are generated: for each prompt, the choices, or the best of more."""
    wanted = [many for many in (request.n, request.best_of) if isinstance(many, int) and many > 0]
    prompts = getattr(request, "prompt", b"")
    count = 1
    if bytes(prompts).lstrip()[:1] == b"[":
        several = msgspec.json.decode(prompts)
        count = len(several) if several and isinstance(several[0], str | list) else 1
    return count * max(wanted, default=1)


def _wrong_member(message: str) -> ClientError:
    """OpenAI's shape for msgspec's words: `Expected `str`, got `int` - at `$.model``."""
    text, _, path = message.partition(" - at `")
    param = path.rstrip("`").removeprefix("$").removeprefix(".")
    if text.startswith("Object missing required field"):
        field = text.split("`")[1]
        return _missing(field, f"{param}.{field}" if param else field)
    text = text[:1].lower() + text[1:]
    return ClientError(f"{param or 'the body'}: {text}", code="invalid_type", param=param or None)


def _missing(field: str, param: str = "") -> ClientError:
    param = param or field
    return ClientError(
        f"{param}: is required", code="missing_required_parameter", param=param, hint=f"add {field!r}"
    )
