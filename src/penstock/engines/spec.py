"""What every engine kind must tell Penstock: facts and pure functions, no process and no socket.

One module per kind (`llamacpp`, `sim`, `remote`) makes one `EngineSpec`; `engines/catalog.py` lists them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from penstock.core.config import ModelConfig
from penstock.wire.resume import Manner
from penstock.wire.tokenize import Tokenizer

# vLLM's, which others have taken over; what knows no such members answers as to any other conversation.
VLLM_MANNER = Manner(
    (("continue_final_message", b"true"), ("add_generation_prompt", b"false")),
    completion_tokens=16,  # as OpenAI's API, and vLLM after it
    tokenizer=Tokenizer(),  # SGLang has the same
)


@dataclass(frozen=True, slots=True)
class Launch:
    """A process to start, as data: `argv`, and `env` to lay over the environment of the caller."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one replica shall listen: a loopback `host`, a `port`, and the `api_key` it must ask for."""

    host: str
    port: int
    api_key: str


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """The facts of one engine kind.

    Args:
        kind: its name in `models.N.engine`.
        launch: makes the command line of a replica; None where Penstock does not start the engine (remote).
        check: complains about the model's `source` or `engine_args` before anything is started; one sentence
            for each problem, none when all is well.
        health_path: answers 200 once the engine has loaded its model.
        manner: how it is asked to go on with an answer; None where it can't.
    """

    kind: str
    launch: Callable[[ModelConfig, Placement], Launch] | None
    check: Callable[[ModelConfig], list[str]]
    health_path: str = "/health"
    manner: Manner | None = None
