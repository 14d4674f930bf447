"""Every engine kind that Penstock knows, by its name in `models.N.engine`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from penstock.core.config import ModelConfig
from penstock.engines import llamacpp, remote, sglang, sim, transformers, vllm
from penstock.engines.spec import EngineSpec

SPECS: Mapping[str, EngineSpec] = MappingProxyType(
    {
        spec.kind: spec
        for spec in (llamacpp.SPEC, remote.SPEC, sglang.SPEC, sim.SPEC, transformers.SPEC, vllm.SPEC)
    }
)


def spec_of(engine: str, model: ModelConfig | None) -> EngineSpec:
    """The facts of a replica's engine.

    Args:
        model: as it is configured, which says more of a remote one; None where nothing is known of it.
    """
    return remote.spec_of(model) if engine == "remote" and model is not None else SPECS[engine]
