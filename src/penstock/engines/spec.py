"""What every engine kind must tell Penstock: facts and pure functions, no process and no socket.

One module per kind (`llamacpp`, `vllm`...) makes one `EngineSpec`; `engines/catalog.py` lists them by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from penstock.core.config import ModelConfig, TracesConfig
from penstock.wire.exposition import KNOWN_LOAD, LoadNames
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
    """A process to start, as data.

    Args:
        argv: its command.
        env: laid over the environment of the caller.
        cleanup: a command that ends what the process may leave behind (its container); empty where its own group
            is all there is.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cleanup: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and with what one replica shall run.

    Args:
        host: a loopback address to listen on.
        port: of it.
        api_key: what it must ask for.
        gpus: indices of the GPUs that it may use; None where nobody has chosen.
        drain_timeout_s: how long its requests may go on after SIGTERM.
        traces: where it sends spans of its own; None where it makes none.
    """

    host: str
    port: int
    api_key: str
    gpus: tuple[int, ...] | None = None
    drain_timeout_s: float = 20.0
    traces: TracesConfig | None = None

    @property
    def gpu_env(self) -> dict[str, str]:
        """The variables by which CUDA sees these GPUs alone, numbered as the driver numbers them."""
        if self.gpus is None:
            return {}
        return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(map(str, self.gpus))}

    @property
    def drain_s(self) -> int:
        """`drain_timeout_s` for engines that take whole seconds, of which 0 would mean none."""
        return max(1, math.ceil(self.drain_timeout_s))


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """The facts of one engine kind.

    Args:
        kind: its name in `models.N.engine`.
        launch: makes the command line of a replica; None where Penstock does not start the engine (remote).
        check: complains about the model's `source` or `engine_args` before anything is started; one sentence
            for each problem, none when all is well.
        warn: says what of them will have no effect, or not the one that is meant, as `check` does.
        check_spans: complains, as `check` does, about what keeps the engine from sending spans of its own; says
            nothing where it has none.
        health_path: answers 200 once the engine has loaded its model.
        manner: how it is asked to go on with an answer; None where it can't.
        metrics_path: where its page of metrics is.
        load: what that page calls its load; the names of all known engines, unless its owner has said others.
        steps: names of metrics that grow with each step of the engine; the first that a page has counts. Empty
            where none does.
        stages: patterns of log lines, and the stage of loading that such a line begins, as a short phrase.
        causes: patterns of its last log lines, in lower case, and why it ended, as the end of a sentence that says
            what to change; the first that matches counts, before those that hold for every program.
    """

    kind: str
    launch: Callable[[ModelConfig, Placement], Launch] | None
    check: Callable[[ModelConfig], list[str]]
    warn: Callable[[ModelConfig], Sequence[str]] = lambda _model: ()
    check_spans: Callable[[ModelConfig, TracesConfig], Iterable[str]] = lambda _model, _traces: ()
    health_path: str = "/health"
    manner: Manner | None = None
    metrics_path: str = "/metrics"
    load: LoadNames = KNOWN_LOAD
    steps: tuple[bytes, ...] = ()
    stages: tuple[tuple[str, str], ...] = ()
    causes: tuple[tuple[str, str], ...] = ()
