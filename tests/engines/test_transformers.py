"""Transformers: what is said before it is started, and the gate before its server, on an application of the test.

The real one is held to the contract of all engines by `make test-vllm`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.core.config import ModelConfig
from penstock.engines import transformers
from penstock.engines.spec import Placement
from penstock.engines.transformers_server import BODY_BYTES_MAX, Gate, Message
from penstock.wire.exposition import EngineLoad, read_load
from tests.engines import installed

KEY = "secret-of-the-replica"
SERVE = """
class Serve:
    def __init__(self, force_model=None, dtype="auto", continuous_batching=False, host="localhost"):
        pass
"""
NEEDED = {"torch": "2.9", "accelerate": "1.15.0", "fastapi": "0.120", "uvicorn": "0.30", "openai": "2.1"}


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment with Transformers and its server."""
    folder = installed.environment(tmp_path / "v", ("transformers",), {"transformers": "5.19.0", **NEEDED})
    installed.put(folder, "transformers/cli/serve.py", SERVE)
    return folder


def model(venv: Path | None, source: str = "demo", **engine_args: object) -> ModelConfig:
    """A model for Transformers."""
    return ModelConfig(
        name="demo",
        engine="transformers",
        source=source,
        venv=str(venv) if venv else None,
        engine_args=engine_args,
    )


# -- before the start -----------------------------------------------------------------------------------


def test_its_command_line_has_its_arguments_and_not_its_key(venv: Path) -> None:
    launch = transformers.launch(
        model(venv, continuous_batching=True, dtype="float32"), Placement("127.0.0.1", 1, KEY)
    )

    assert launch.argv == (
        *(
            str(venv / "bin" / "python3"),
            str(transformers.SERVER),
            "serve",
            transformers.source_of(model(venv)),
        ),
        *("--host", "127.0.0.1", "--port", "1", "--continuous-batching", "--dtype", "float32"),
    )
    assert KEY in launch.env.values()


def test_what_its_environment_lacks_is_said_with_the_cure(
    venv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    old = installed.environment(tmp_path / "old", ("transformers",), {"transformers": "4.57.0"})
    bare = installed.environment(
        tmp_path / "bare", ("transformers",), {"transformers": "5.1.0", "torch": "2.9"}
    )

    assert transformers.check(model(venv)) == []
    assert transformers.check(model(None))[0].startswith(
        "engine: there is no Transformers; `pip install torch"
    )
    assert transformers.check(model(old))[0].startswith("engine: Transformers 4.57.0 has no such server")
    assert "needs accelerate, fastapi, uvicorn, openai beside it" in transformers.check(model(bare))[0]


def test_arguments_that_it_does_not_take_are_said(venv: Path) -> None:
    assert transformers.check(model(venv, dtpye="x", host="y")) == [
        "engine_args.host: not for you to set: Penstock chooses it",
        "engine_args.dtpye: transformers serve has no such argument; did you mean dtype?",
    ]


# -- the gate -------------------------------------------------------------------------------------------


class Inner:
    """What stands behind the gate: keeps what it was asked, and answers with these pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.asked: dict[str, Any] = {}
        self.length = b""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked = json.loads((await receive())["body"])
        self.length = dict(scope["headers"])[b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def passed(inner: Inner) -> Gate:
    return Gate(
        inner, KEY, "/models/demo", "demo", lambda text, special: [1] * special + [7] * len(text.split())
    )


def ask(
    gate: Gate, path: str, body: object = None, *, key: str = KEY, raw: bytes | None = None
) -> tuple[int, bytes]:
    """Status and body of the gate's answer."""
    said = raw if raw is not None else json.dumps(body).encode()
    sent: list[Message] = []
    incoming = [{"type": "http.request", "body": said}, {"type": "http.disconnect"}]

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {key}".encode()), (b"content-length", b"%d" % len(said))]
    asyncio.run(gate({"type": "http", "path": path, "headers": headers}, receive, send))
    assert not any(name == b"content-length" for name, _ in sent[0]["headers"]) or len(sent) == 2
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def chunk(delta: dict[str, Any], **more: Any) -> bytes:
    choice = {
        "delta": delta,
        "index": 0,
        **({"finish_reason": more.pop("finish")} if "finish" in more else {}),
    }
    event = {"id": "1", "choices": [choice], "model": "/models/demo@main", **more}
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


def test_who_has_no_key_gets_no_further() -> None:
    inner = Inner()

    status, body = ask(passed(inner), "/v1/chat/completions", {}, key="wrong")

    assert status == 401
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    assert inner.asked == {}


def test_a_request_is_put_into_its_words() -> None:
    inner = Inner(b'{"model":"/models/demo@main"}')
    asked = {
        "model": "demo",
        "max_completion_tokens": 5,
        "continue_final_message": True,
        "add_generation_prompt": False,
        "stream_options": {"include_usage": True},
    }

    _, body = ask(passed(inner), "/v1/chat/completions", asked)

    assert inner.asked == {
        "model": "/models/demo",
        "max_tokens": 5,
        "chat_template_kwargs": {"continue_final_message": True},
    }
    assert int(inner.length) == len(json.dumps(inner.asked))
    assert json.loads(body) == {"model": "demo"}


@pytest.mark.parametrize("include", [True, False])
def test_a_stream_ends_with_its_usage_and_done(include: bool) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    inner = Inner(chunk({"content": "Hi"}), chunk({"content": "!"}) + chunk({}, finish="stop", usage=usage))
    gate = passed(inner)

    _, body = ask(
        gate, "/v1/chat/completions", {"stream": True, "stream_options": {"include_usage": include}}
    )

    *events, last = [line[6:] for line in body.split(b"\n\n") if line]
    chunks = [json.loads(event) for event in events]
    assert last == b"[DONE]"
    assert [one["choices"][0].get("finish_reason") for one in chunks if one["choices"]] == [
        None,
        None,
        "stop",
    ]
    assert [one.get("usage") for one in chunks if "usage" in one] == ([usage] if include else [])
    assert {one["model"] for one in chunks} == {"demo"}
    assert b"transformers:generation_tokens_total 2\n" in ask(gate, "/metrics")[1]


def test_a_stream_that_fails_is_not_called_done() -> None:
    inner = Inner(chunk({"content": "Hi"}), b'data: {"error": "out of memory"}\n\n')

    _, body = ask(passed(inner), "/v1/chat/completions", {"stream": True})

    assert b"[DONE]" not in body


def test_what_it_said_of_the_end_as_text_is_only_text() -> None:
    inner = Inner(chunk({"content": '"finish_reason":"stop"'}))

    _, body = ask(passed(inner), "/v1/chat/completions", {"stream": True})

    assert b"[DONE]" not in body


def test_it_lists_its_model_counts_tokens_and_tells_its_load() -> None:
    gate = passed(Inner())

    assert json.loads(ask(gate, "/v1/models")[1])["data"][0]["id"] == "demo"
    assert json.loads(ask(gate, "/tokenize", {"prompt": "a b", "add_special_tokens": False})[1])["count"] == 2
    assert read_load(ask(gate, "/metrics")[1], transformers.SPEC.load) == EngineLoad(0, 0, None)


@pytest.mark.parametrize(
    ("make", "status"),
    [
        (lambda: b"{", 400),
        (lambda: b"[]", 400),
        (lambda: b"[" * 100_000, 400),
        (lambda: b'{"model":"other"}', 404),
        (lambda: b" " * (BODY_BYTES_MAX + 1), 413),
    ],
)
def test_a_request_that_can_not_be_is_refused(make: Callable[[], bytes], status: int) -> None:
    assert ask(passed(Inner()), "/v1/completions", raw=make())[0] == status
