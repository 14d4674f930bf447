"""The process of one replica of `transformers serve`: `python transformers_server.py serve MODEL ...`.

It runs the command `transformers` of the environment that it is run in, with a gate before its application, for what
`transformers serve` 5 lacks: a key, the model's name, `[DONE]` at the end of a stream, usage in a chunk of its own,
continuing an answer, `/tokenize`, `/metrics`, and an end that waits for its streams. Imports nothing of Penstock.
"""

from __future__ import annotations

import functools
import hmac
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

KEY_VARIABLE = "PENSTOCK_INTERNAL_ENGINE_KEY"
NAME_VARIABLE = "PENSTOCK_INTERNAL_MODEL_NAME"
DRAIN_VARIABLE = "PENSTOCK_INTERNAL_DRAIN_S"
BODY_BYTES_MAX = 64 * 1024 * 1024
CONTINUES = ("continue_final_message", "add_generation_prompt")
OPEN = frozenset({"/health", "/metrics"})
GENERATES = frozenset({"/v1/chat/completions", "/v1/completions"})

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class RefusedError(Exception):
    """A request that does not reach `transformers serve`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Gate:
    """An ASGI application before that of `transformers serve`.

    Args:
        app: what it stands before.
        model: by which name `transformers serve` knows its only model.
        name: by which clients do.
        tokenize: the token ids of a text, with or without the special ones.
    """

    app: App
    key: str
    model: str
    name: str
    tokenize: Callable[[str, bool], list[int]]
    running: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    _shown: bytes = field(init=False)

    def __post_init__(self) -> None:
        self._shown = json.dumps(f"{self.model}@main").encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            await self._answer(scope, receive, send)
        except RefusedError as error:
            kind = "invalid_request_error" if error.status < 500 else "server_error"
            await _reply(send, error.status, {"error": {"message": str(error), "type": kind, "code": None}})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path not in OPEN and not self._is_allowed(scope):
            raise RefusedError(401, "the key is missing or wrong")
        if path == "/metrics":
            await _reply(send, 200, self._metrics())
        elif path == "/v1/models":
            model = {"id": self.name, "object": "model", "created": 0, "owned_by": "transformers"}
            await _reply(send, 200, {"object": "list", "data": [model]})
        elif path == "/tokenize":
            asked = await _body(receive)
            tokens = self.tokenize(str(asked.get("prompt", "")), bool(asked.get("add_special_tokens", True)))
            await _reply(send, 200, {"tokens": tokens, "count": len(tokens)})
        elif path in GENERATES:
            await self._generate(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _generate(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = await _body(receive)
        if asked.get("model") not in (None, self.name):
            raise RefusedError(404, f"there is no model {asked['model']!r} here")
        options = asked.pop("stream_options", None)
        body = json.dumps(_translated(asked, self.model)).encode()
        scope = {**scope, "headers": [_sized(header, len(body)) for header in scope["headers"]]}
        wants_usage = isinstance(options, dict) and options.get("include_usage") is True
        forward = functools.partial(self._forward, send, wants_usage, asked.get("stream") is True)
        self.running += 1
        try:
            await self.app(scope, _replaying(body, receive), forward)
        finally:
            self.running -= 1

    async def _forward(self, send: Send, wants_usage: bool, streams: bool, message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [header for header in message["headers"] if header[0].lower() != b"content-length"]
            await send({**message, "headers": kept})
            return
        said = message.get("body", b"").replace(self._shown, json.dumps(self.name).encode())
        if said:
            self.steps += 1
        if streams and b'"finish_reason":"' in said:
            said = self._ended(said, wants_usage)
        await send({**message, "body": said})

    def _ended(self, said: bytes, wants_usage: bool) -> bytes:
        """The last event in OpenAI's form: its usage in a chunk of its own, where that was asked for, and `[DONE]`."""
        head, _, last = said.rstrip().rpartition(b"data: ")
        chunk = json.loads(last)
        usage = chunk.pop("usage", None)
        events = [chunk]
        if usage:
            self.prompt_tokens += usage["prompt_tokens"]
            self.completion_tokens += usage["completion_tokens"]
            if wants_usage:
                events.append({**chunk, "choices": [], "usage": usage})
        return (
            head
            + b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events)
            + b"data: [DONE]\n\n"
        )

    def _is_allowed(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name.lower() == b"authorization"), b"")
        return hmac.compare_digest(given, b"Bearer " + self.key.encode())

    def _metrics(self) -> str:
        rows = (
            ("requests_running", "gauge", self.running),
            ("requests_waiting", "gauge", 0),
            ("steps_total", "counter", self.steps),
            ("prompt_tokens_total", "counter", self.prompt_tokens),
            ("generation_tokens_total", "counter", self.completion_tokens),
        )
        return "".join(
            f"# TYPE transformers:{name} {kind}\ntransformers:{name} {value}\n" for name, kind, value in rows
        )


def _translated(asked: dict[str, Any], model: str) -> dict[str, Any]:
    """A request in the words of `transformers serve`."""
    continues = {name: asked.pop(name) for name in CONTINUES if name in asked}
    if continues.get("continue_final_message"):
        asked["chat_template_kwargs"] = {
            **(asked.get("chat_template_kwargs") or {}),
            "continue_final_message": True,
        }
    if (limit := asked.pop("max_completion_tokens", None)) is not None:
        asked.setdefault("max_tokens", limit)
    return {**asked, "model": model}


async def _body(receive: Receive) -> dict[str, Any]:
    said = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(400, "the request was not sent to its end")
        said += message.get("body", b"")
        if len(said) > BODY_BYTES_MAX:
            raise RefusedError(413, f"the body is longer than {BODY_BYTES_MAX} bytes")
        if not message.get("more_body"):
            break
    try:
        asked = json.loads(said)
    except (ValueError, RecursionError):
        raise RefusedError(400, "the body is not JSON") from None
    if not isinstance(asked, dict):
        raise RefusedError(400, "the body is no JSON object")
    return asked


def _replaying(body: bytes, receive: Receive) -> Receive:
    """Gives `body` once, and then what else comes: that the client has left."""
    left = [body]

    async def again() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return again


def _sized(header: tuple[bytes, bytes], size: int) -> tuple[bytes, bytes]:
    return (header[0], b"%d" % size) if header[0].lower() == b"content-length" else header


async def _reply(send: Send, status: int, content: dict[str, Any] | str) -> None:
    body = (content if isinstance(content, str) else json.dumps(content)).encode()
    kind = b"text/plain; version=0.0.4" if isinstance(content, str) else b"application/json"
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _install(model: str) -> None:
    """Puts the gate before the application that `transformers serve` is about to build."""
    server: Any = import_module("transformers.cli.serving.server")
    tokenizers: Any = import_module("transformers").PreTrainedTokenizerBase
    uvicorn: Any = import_module("uvicorn")
    build, template = server.build_server, tokenizers.apply_chat_template
    key, name = os.environ.pop(KEY_VARIABLE), os.environ.pop(NAME_VARIABLE)
    drain_s = int(os.environ.pop(DRAIN_VARIABLE))

    def build_gated(manager: Any, *rest: Any, **named: Any) -> App:
        def tokenize(text: str, special: bool) -> list[int]:
            _, processor = manager.load_model_and_processor(manager.process_model_name(model))
            tokenizer = getattr(processor, "tokenizer", processor)
            return list(tokenizer(text, add_special_tokens=special)["input_ids"])

        return Gate(build(manager, *rest, **named), key, model, name, tokenize)

    def apply_continuing(self: Any, *given: Any, **named: Any) -> Any:
        if named.get("continue_final_message"):
            named["add_generation_prompt"] = False
        return template(self, *given, **named)

    server.build_server = build_gated
    tokenizers.apply_chat_template = apply_continuing
    uvicorn.Config = functools.partial(uvicorn.Config, timeout_graceful_shutdown=drain_s, access_log=False)


def main() -> None:
    """Serves until SIGTERM, and then until its streams have ended."""
    sys.path.pop(0)  # this folder, where modules have the names of engines
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))  # while it loads, and once uvicorn has drained
    _install(sys.argv[2])
    import_module("transformers.cli.transformers").main()


if __name__ == "__main__":
    main()
