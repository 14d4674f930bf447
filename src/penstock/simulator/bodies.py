"""Request bodies of the simulated engine: what is asked for, checked as vLLM checks it.

Fields that are not named here change nothing: sampling is greedy; tools and structured output are not
simulated.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec

from penstock.simulator.answers import Limits
from penstock.simulator.faults import NO_FAULT, Fault, parse_fault
from penstock.simulator.tokens import pieces, text_of

_COMPLETION_TOKENS_DEFAULT = 16
_STOPS_MAX = 16
_INPUTS_MAX = 2048
_ERROR_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    413: "BadRequestError",
    429: "RateLimitError",
    503: "ServiceUnavailableError",
}


class Refusal(Exception):  # noqa: N818 - it is an answer, not a failure of the simulator
    """An error reply in vLLM's shape.

    Args:
        status: HTTP status.
        message: what is wrong.
        param: the field at fault.
        retry_after_s: sent as `Retry-After`.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def body(self) -> bytes:
        """The JSON body."""
        kind = _ERROR_TYPES.get(
            self.status, "BadRequestError" if self.status < 500 else "InternalServerError"
        )
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.status}
        return msgspec.json.encode({"error": error})


def _bad(message: str, param: str | None = None) -> Refusal:
    return Refusal(HTTPStatus.BAD_REQUEST, message, param=param)


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = False


class _Generate(msgspec.Struct, kw_only=True):
    model: str | None = None
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    n: int | None = 1
    stop: str | list[str] | None = None
    return_token_ids: bool | None = False
    sim_fault: str | None = None


class _Part(msgspec.Struct):
    type: str
    text: str | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None


class _Chat(_Generate, kw_only=True):
    messages: list[_Message]
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    max_completion_tokens: int | None = None


class _Completion(_Generate, kw_only=True):
    prompt: str | list[int | str | list[int]]
    echo: bool | None = False
    best_of: int | None = None


class _Embedding(msgspec.Struct, kw_only=True):
    input: str | list[int | str | list[int]]
    model: str | None = None
    encoding_format: str | None = "float"
    dimensions: int | None = None
    sim_fault: str | None = None


class _Tokenize(msgspec.Struct, kw_only=True):
    model: str | None = None
    prompt: str | None = None
    messages: list[_Message] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    return_token_strs: bool | None = False


class _Detokenize(msgspec.Struct, kw_only=True):
    tokens: list[int]
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """A generation that a client asked for.

    Args:
        chat: a chat completion; else a text completion.
        model: as the client named it; None where it did not.
        role: of the message that the answer belongs to.
        prompt: the prompt's tokens.
        limits: what ends the answer.
        stream: as server-sent events.
        include_usage: a stream ends with a usage chunk.
        return_token_ids: the ids of prompt and answer go with the text.
        fault: what its body asks to go wrong.
    """

    chat: bool
    model: str | None
    role: str
    prompt: Sequence[bytes]
    limits: Limits
    stream: bool
    include_usage: bool
    return_token_ids: bool
    fault: Fault


@dataclass(frozen=True, slots=True)
class EmbeddingAsk:
    """Texts to embed, each as its tokens; `as_base64` in place of lists of numbers."""

    model: str | None
    inputs: Sequence[Sequence[bytes]]
    dimensions: int | None
    as_base64: bool
    fault: Fault


_T = TypeVar("_T")


def _decode(body: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise _bad(str(error)) from None


def read_fault(text: str | None) -> Fault:
    """The fault that a header or body field describes.

    Raises:
        Refusal: 400, it can't be read.
    """
    if not text:
        return NO_FAULT
    try:
        return parse_fault(text)
    except ValueError as error:
        raise _bad(str(error), "sim_fault") from None


def read_chat(body: bytes, max_model_len: int, mean_tokens: int) -> Ask:
    """The generation that the body of /v1/chat/completions asks for.

    Args:
        body: the raw JSON.
        max_model_len: prompt and answer together, tokens.
        mean_tokens: see `Limits`.

    Raises:
        Refusal: 400, something is wrong with it.
    """
    read = _decode(body, _Chat)
    prompt = pieces(_render(read))
    wanted = read.max_tokens if read.max_completion_tokens is None else read.max_completion_tokens
    role = "assistant" if read.add_generation_prompt else read.messages[-1].role
    return _ask(read, prompt, _limits(read, len(prompt), wanted, max_model_len, mean_tokens), role)


def read_completion(body: bytes, max_model_len: int, mean_tokens: int) -> Ask:
    """The generation that the body of /v1/completions asks for; see `read_chat`."""
    read = _decode(body, _Completion)
    if read.echo or read.best_of not in (None, 1):
        raise _bad("echo and best_of are not simulated", "echo" if read.echo else "best_of")
    prompt = _one_prompt(read.prompt)
    if not prompt:
        raise _bad("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    room = max(1, max_model_len - len(prompt))
    wanted = min(_COMPLETION_TOKENS_DEFAULT, room) if read.max_tokens is None else read.max_tokens
    limits = _limits(read, len(prompt), wanted, max_model_len, mean_tokens)
    return _ask(read, prompt, limits, None)


def _ask(read: _Generate, prompt: Sequence[bytes], limits: Limits, role: str | None) -> Ask:
    if read.n not in (None, 1):
        raise _bad(f"n={read.n}: the simulated engine gives one choice; leave n out or set it to 1", "n")
    options = read.stream_options
    if options is not None and not read.stream:
        raise _bad("Stream options can only be defined when `stream=True`.", "stream_options")
    return Ask(
        chat=role is not None,
        model=read.model,
        role=role or "",
        prompt=prompt,
        limits=limits,
        stream=bool(read.stream),
        include_usage=bool(options and options.include_usage),
        return_token_ids=bool(read.return_token_ids),
        fault=read_fault(read.sim_fault),
    )


def _limits(
    read: _Generate, prompt_len: int, wanted: int | None, max_model_len: int, mean_tokens: int
) -> Limits:
    room = max_model_len - prompt_len
    limit = f"This model's maximum context length is {max_model_len} tokens"
    if room < 1:
        raise _bad(
            f"{limit}. However, your request has {prompt_len} input tokens. Please reduce the length of the "
            "input messages."
        )
    if wanted is not None and wanted < 1:
        raise _bad(f"max_tokens must be at least 1, got {wanted}.", "max_tokens")
    if wanted is not None and wanted > room:
        raise _bad(
            f"'max_tokens' or 'max_completion_tokens' is too large: {wanted}. {limit} and your request has "
            f"{prompt_len} input tokens ({wanted} > {max_model_len} - {prompt_len}).",
            "max_tokens",
        )
    tokens_max = room if wanted is None else wanted
    if not 0 <= read.min_tokens <= tokens_max:
        raise _bad(f"min_tokens must be 0 to max_tokens={tokens_max}, got {read.min_tokens}.", "min_tokens")
    stop = (read.stop,) if isinstance(read.stop, str) else tuple(read.stop or ())
    if len(stop) > _STOPS_MAX or not all(stop):
        raise _bad(f"stop must be at most {_STOPS_MAX} texts, and none empty", "stop")
    return Limits(tokens_max, read.min_tokens, read.ignore_eos, stop, mean_tokens)


def _render(read: _Chat | _Tokenize) -> bytes:
    """The text that the model reads: each message under its role, the last one open where it is continued."""
    messages = read.messages or []
    if not messages:
        raise _bad("messages: at least one is needed", "messages")
    if read.continue_final_message and read.add_generation_prompt:
        raise _bad("Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
    text = "".join(f"<{message.role}>\n{_text(message)}\n" for message in messages)
    if read.continue_final_message:
        text = text[:-1]
    elif read.add_generation_prompt:
        text += "<assistant>\n"
    return text.encode("utf-8", "surrogatepass")


def _text(message: _Message) -> str:
    if isinstance(message.content, list):
        for part in message.content:
            if part.type != "text":
                raise _bad(f"content of type {part.type!r}: the simulated engine reads text only", "messages")
        return "".join(part.text or "" for part in message.content)
    return message.content or ""


def _one_prompt(prompt: str | list[Any]) -> Sequence[bytes]:
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        if len(prompt) > 1:
            raise _bad("prompt: the simulated engine takes one prompt a request", "prompt")
        prompt = prompt[0]
    return _tokens(prompt, "prompt")


def _tokens(given: Any, param: str) -> Sequence[bytes]:
    """The tokens of a text, or of a list of token ids."""
    if isinstance(given, str):
        return pieces(given.encode("utf-8", "surrogatepass"))
    try:
        return [text_of((token_id,)) for token_id in given]
    except (ValueError, TypeError) as error:
        raise _bad(str(error), param) from None


def read_embedding(body: bytes, max_model_len: int) -> EmbeddingAsk:
    """The texts that the body of /v1/embeddings asks to embed; see `read_chat`."""
    read = _decode(body, _Embedding)
    given = read.input
    single = isinstance(given, str) or (bool(given) and isinstance(given[0], int))
    inputs = [_tokens(one, "input") for one in ([given] if single else given)]
    if not inputs or len(inputs) > _INPUTS_MAX or not all(inputs):
        raise _bad(f"input: 1 to {_INPUTS_MAX} texts are needed, and none empty", "input")
    longest = max(map(len, inputs))
    if longest > max_model_len:
        raise _bad(
            f"This model's maximum context length is {max_model_len} tokens. However, your request has "
            f"{longest} input tokens.",
            "input",
        )
    if read.encoding_format not in (None, "float", "base64"):
        raise _bad(f"encoding_format {read.encoding_format!r} is none of float, base64", "encoding_format")
    return EmbeddingAsk(
        read.model, inputs, read.dimensions, read.encoding_format == "base64", read_fault(read.sim_fault)
    )


def read_tokenize(body: bytes) -> tuple[Sequence[bytes], bool]:
    """The tokens of the text or messages in the body of /tokenize, and whether to return their texts too."""
    read = _decode(body, _Tokenize)
    text = read.prompt.encode("utf-8", "surrogatepass") if read.prompt is not None else _render(read)
    return pieces(text), bool(read.return_token_strs)


def read_detokenize(body: bytes) -> str:
    """The text of the token ids in the body of /detokenize."""
    return b"".join(_tokens(_decode(body, _Detokenize).tokens, "tokens")).decode("utf-8", "replace")


def encode_vector(vector: Sequence[float], as_base64: bool) -> str | Sequence[float]:
    """An embedding as it goes into the reply."""
    if not as_base64:
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
