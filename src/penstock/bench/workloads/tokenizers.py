"""Who counts tokens before a run: the server's /tokenize, a tokenizer.json, or the usage of a few requests.

A counter counts a whole request: the texts in it, and all that a chat template puts around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

import msgspec

from penstock.bench.load.endpoint import CHAT_PATH, Endpoint
from penstock.bench.workloads.bodies import Template, members
from penstock.bench.workloads.lengths import WorkloadError
from penstock.engines.client import EngineClient, Reply

# Counting is quick; a server that is slower than this at it is no help before a run.
COUNT_TIMEOUT_S = 30.0
# An answer of one token; a server may have to load its model for it.
ANSWER_TIMEOUT_S = 120.0
# A tokenizer.json of a vocabulary of 256,000 is 35 MB.
TOKENIZER_BYTES_MAX = 256 * 1024 * 1024
# What a server says of a refusal is shown so far.
_WORDS_CHARS_MAX = 300


class CalibrationError(WorkloadError):
    """The server, or a tokenizer, can't be used for counting."""

    code = "calibration"


class Counter(Protocol):
    """Counts the prompt tokens of a request."""

    async def count(self, texts: Sequence[str]) -> int:
        """Tokens of a request with `texts`, said by user and assistant in turns.

        Raises:
            CalibrationError: it can't be counted.
        """


class Server:
    """The server under load, asked before it is under load.

    Args:
        client: stays open.
        model: its name there.
    """

    def __init__(self, client: EngineClient, endpoint: Endpoint, model: str) -> None:
        self._client = client
        self._endpoint = endpoint
        self.model = model
        self.chat = endpoint.path == CHAT_PATH
        self.requests = 0

    async def post(self, path: str, body: bytes, timeout_s: float = COUNT_TIMEOUT_S) -> Reply:
        """What it answers; raises PenstockError where it does not."""
        return await self._ask(b"POST", path, body, timeout_s)

    async def get(self, path: str) -> Any:
        """The JSON that it answers; None where there is none."""
        return decoded(await self._ask(b"GET", path, b"", COUNT_TIMEOUT_S))

    async def answer(self, texts: Sequence[str], *, ignore_eos: bool = False) -> Reply:
        """A whole answer of one token."""
        template = Template(self.model, chat=self.chat, stream=False, ignore_eos=ignore_eos)
        return await self.post(self._endpoint.path, template.body(texts, 1), ANSWER_TIMEOUT_S)

    def refusal(self, reply: Reply, what: str) -> CalibrationError:
        """What to say of an answer that is none."""
        words = " ".join(reply.body[:2000].decode("utf-8", "replace").split())[:_WORDS_CHARS_MAX]
        return CalibrationError(
            f"{self._endpoint.url}{self._endpoint.path}: {what}: {reply.status} {words}".rstrip(),
            hint=_HINTS.get(reply.status, "ask it by curl what it wants; the run would get the same answer"),
        )

    async def _ask(self, method: bytes, path: str, body: bytes, timeout_s: float) -> Reply:
        self.requests += 1
        return await self._client.fetch(
            self._endpoint.address,
            method,
            self._endpoint.target(path),
            headers=self._endpoint.header_lines(),
            body=body,
            timeout_s=timeout_s,
        )


_HINTS: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: "give the key of this server",
    HTTPStatus.FORBIDDEN: "give a key that may use this model",
    HTTPStatus.NOT_FOUND: "is this the model's name, and the URL that an OpenAI client would get?",
    HTTPStatus.TOO_MANY_REQUESTS: "the key is limited already without load; raise its limits",
    HTTPStatus.SERVICE_UNAVAILABLE: "wait until the server is ready",
}


def decoded(reply: Reply) -> Any:
    """The JSON of a good answer; None where it is none."""
    if reply.status != HTTPStatus.OK:
        return None
    try:
        return msgspec.json.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def member(value: Any, *names: str | int) -> Any:
    """A member deep in JSON; None where there is none."""
    for name in names:
        if isinstance(name, str) and isinstance(value, dict):
            value = value.get(name)
        elif isinstance(name, int) and isinstance(value, list) and name < len(value):
            value = value[name]
        else:
            return None
    return value


def whole(value: Any) -> int | None:
    """A count, 0 or more; None where it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


class NoUsageError(CalibrationError):
    """The server answers, and does not tell of tokens."""


class UsageCounter:
    """Counts by requests for one token, of which the server tells the usage."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def count(self, texts: Sequence[str]) -> int:
        """See `Counter`."""
        reply = await self._server.answer(texts)
        if reply.status != HTTPStatus.OK:
            raise self._server.refusal(reply, "a request before the run failed")
        tokens = usage_tokens(reply)
        if tokens is None:
            raise NoUsageError(
                "the server tells no usage, so nobody knows how long prompts are",
                hint="give a tokenizer.json, or leave the tokens uncounted",
            )
        return tokens


def usage_tokens(reply: Reply) -> int | None:
    """The prompt's tokens as an answer tells them; None where it does not."""
    return whole(member(decoded(reply), "usage", "prompt_tokens"))


class VllmCounter:
    """vLLM's /tokenize, which knows chat templates; the simulated engine has the same."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.context_tokens: int | None = None

    async def count(self, texts: Sequence[str]) -> int:
        """See `Counter`."""
        body = b'{"model":%b,%b}' % (
            msgspec.json.encode(self._server.model),
            members(texts, self._server.chat),
        )
        reply = await self._server.post("/tokenize", body)
        told = decoded(reply)
        count = whole(member(told, "count"))
        if count is None:
            raise self._server.refusal(reply, "/tokenize gives no count")
        self.context_tokens = whole(member(told, "max_model_len")) or self.context_tokens
        return count


class LlamaCppCounter:
    """llama.cpp's /tokenize, after its /apply-template where there are messages."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def count(self, texts: Sequence[str]) -> int:
        """See `Counter`."""
        text = await self._rendered(texts) if self._server.chat else "\n".join(texts)
        body = msgspec.json.encode({"content": text, "add_special": True, "parse_special": True})
        reply = await self._server.post("/tokenize", body)
        tokens = member(decoded(reply), "tokens")
        if not isinstance(tokens, list):
            raise self._server.refusal(reply, "/tokenize gives no tokens")
        return len(tokens)

    async def _rendered(self, texts: Sequence[str]) -> str:
        reply = await self._server.post("/apply-template", b"{%b}" % members(texts, True))
        text = member(decoded(reply), "prompt")
        if not isinstance(text, str):
            raise self._server.refusal(reply, "/apply-template gives no prompt")
        return text


class TextCounter(Protocol):
    """Counts the tokens of one text, without what a chat template or a server adds to it."""

    async def __call__(self, text: str) -> int:
        """Tokens."""


class TemplatedCounter:
    """A counter of texts, with what the server adds to them: found out by the usage of one request for each number of
    turns."""

    def __init__(self, server: Server, tokens_of: TextCounter) -> None:
        self._server = server
        self._usage = UsageCounter(server)
        self._tokens_of = tokens_of
        self._added: dict[int, int] = {}

    async def count(self, texts: Sequence[str]) -> int:
        """See `Counter`."""
        parts = texts if self._server.chat else ["\n".join(texts)]
        tokens = sum([await self._tokens_of(text) for text in parts])
        if len(texts) not in self._added:
            self._added[len(texts)] = await self._usage.count(texts) - tokens
        return tokens + self._added[len(texts)]


class ServersTexts:
    """The tokens of a text by a /tokenize that knows no messages, such as SGLang's."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def __call__(self, text: str) -> int:
        """See `TextCounter`."""
        body = msgspec.json.encode({"model": self._server.model, "prompt": text})
        reply = await self._server.post("/tokenize", body)
        count = whole(member(decoded(reply), "count"))
        if count is None:
            raise self._server.refusal(reply, "/tokenize gives no count")
        return count


class LocalTexts:
    """The tokens of a text by a tokenizer.json.

    Args:
        path: the file, or a folder that has it.

    Raises:
        CalibrationError: there is no such file, it is no tokenizer, or the package that reads it is missing.
    """

    def __init__(self, path: Path) -> None:
        file = path / "tokenizer.json" if path.is_dir() else path
        try:
            size_bytes = file.stat().st_size
        except OSError as error:
            raise CalibrationError(
                f"{file}: {error.strerror}", hint="a model's folder has a tokenizer.json"
            ) from None
        if size_bytes > TOKENIZER_BYTES_MAX:
            raise CalibrationError(
                f"{file}: {size_bytes} bytes are no tokenizer", hint="give a tokenizer.json"
            )
        try:
            import tokenizers  # an optional package, and slow to load
        except ImportError:
            raise CalibrationError(
                "a tokenizer.json is read by the package tokenizers, which is not installed",
                hint="pip install 'penstock[tokenizers]'",
            ) from None
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the package raises nothing narrower
            raise CalibrationError(
                f"{file}: {error}", hint="give a tokenizer.json of Hugging Face's"
            ) from None

    async def __call__(self, text: str) -> int:
        """See `TextCounter`."""
        return self.tokens(text)

    def tokens(self, text: str) -> int:
        """Tokens of a text."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)
