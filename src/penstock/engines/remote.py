"""An OpenAI-compatible server that somebody else runs: Penstock routes to it and never starts or stops it."""

from __future__ import annotations

from dataclasses import replace

from penstock.core.config import Address, ModelConfig
from penstock.engines.spec import VLLM_MANNER, EngineSpec
from penstock.wire.exposition import KV_USAGE, RUNNING, STEPS, WAITING, LoadNames
from penstock.wire.tokenize import Tokenizer

SCHEME = "http://"


def check(model: ModelConfig) -> list[str]:
    """What is wrong with the sources."""
    mistakes = []
    for source in model.sources:
        if not source.startswith(SCHEME):
            mistakes.append(
                f"source: {source!r} should begin with {SCHEME} (put a TLS proxy beside the engine)"
            )
            continue
        try:
            Address.parse(source.removeprefix(SCHEME))
        except ValueError:
            mistakes.append(f"source: {source!r} should be {SCHEME}HOST:PORT without path or query")
    return mistakes


# It may be any of those that are known: each takes the members of its own, and leaves the others.
_TOKENIZER = Tokenizer(texts=("prompt", "content"), whole=("add_special_tokens", "add_special"))
MANNER = replace(VLLM_MANNER, tokenizer=_TOKENIZER)


def spec_of(model: ModelConfig) -> EngineSpec:
    """The facts of this engine, with what its owner says of it."""
    names = model.metrics

    def given(name: str | None, known: tuple[bytes, ...]) -> tuple[bytes, ...]:
        return (name.encode(),) if name else known

    load = LoadNames(
        given(names.running, RUNNING), given(names.waiting, WAITING), given(names.kv_usage, KV_USAGE)
    )
    return replace(
        SPEC,
        health_path=model.health_path or SPEC.health_path,
        metrics_path=names.path,
        load=load,
        steps=given(names.steps, SPEC.steps),
    )


# Every OpenAI-compatible server has this route; not all of them have /health.
SPEC = EngineSpec(
    kind="remote", launch=None, check=check, health_path="/v1/models", manner=MANNER, steps=STEPS
)
