"""`POST /generate`: a prompt in, text out; a thin dress over a chat completion with one user message."""

from __future__ import annotations

import msgspec

from penstock.core.errors import ClientError, EngineError
from penstock.wire.sse import event, event_data


class GenerateRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `/generate`.

    Args:
        prompt: what to answer.
        model: a model's name; the first of the configuration where it is missing.
        max_tokens: 1 or more.
        temperature: 0 to 2.
        stream: answer in server-sent events.
    """

    prompt: str
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    stream: bool = False


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Delta | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None

    @property
    def text(self) -> str:
        part = self.message or self.delta
        return (part.content if part else None) or ""


class _Completion(msgspec.Struct):
    id: str = ""
    model: str = ""
    choices: list[_Choice] | msgspec.UnsetType = msgspec.UNSET
    usage: msgspec.Raw = msgspec.Raw(b"null")


_REQUEST = msgspec.json.Decoder(GenerateRequest)
_COMPLETION = msgspec.json.Decoder(_Completion)


def to_chat(body: bytes, default_model: str) -> bytes:
    """The chat completion request that does what this `/generate` request asks for.

    Raises:
        ClientError: the body is not as `GenerateRequest` says.
    """
    try:
        request = _REQUEST.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ClientError(
            f"the body is no /generate request: {error}",
            code="invalid_json" if not isinstance(error, msgspec.ValidationError) else "invalid_type",
            hint='send {"prompt": "...", "max_tokens": 64, "temperature": 0, "stream": false}',
        ) from None
    members = {
        "model": request.model or default_model,
        "messages": [{"role": "user", "content": request.prompt}],
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "stream": request.stream,
    }
    return msgspec.json.encode({name: value for name, value in members.items() if value is not None})


def from_chat(reply: bytes) -> bytes:
    """The `/generate` reply for a whole chat completion.

    Raises:
        EngineError: it is none.
    """
    completion = _completion(reply)
    if completion is None or not completion.choices:
        raise EngineError("the engine's reply is no chat completion", code="engine_malformed_response")
    choice = completion.choices[0]
    return msgspec.json.encode(
        {
            "id": completion.id,
            "model": completion.model,
            "text": choice.text,
            "finish_reason": choice.finish_reason,
            "usage": completion.usage,
        }
    )


def from_chat_event(chat_event: bytes) -> bytes:
    """The `/generate` event for one event of a chat stream; empty where there is nothing to tell.

    What is no chunk, such as an engine's error, is passed on as it came.
    """
    data = event_data(chat_event)
    completion = _completion(data) if data.startswith(b"{") else None
    if completion is None or completion.choices is msgspec.UNSET:
        return chat_event
    choice = next(iter(completion.choices), None)
    if choice is None or not (choice.text or choice.finish_reason):
        return b""
    return event(msgspec.json.encode({"text": choice.text, "finish_reason": choice.finish_reason}))


def _completion(data: bytes) -> _Completion | None:
    try:
        return _COMPLETION.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
