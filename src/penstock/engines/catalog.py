"""Every engine kind that Penstock knows, by its name in `models.N.engine`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from penstock.engines import llamacpp, remote, sim, vllm
from penstock.engines.spec import EngineSpec

SPECS: Mapping[str, EngineSpec] = MappingProxyType(
    {spec.kind: spec for spec in (llamacpp.SPEC, remote.SPEC, sim.SPEC, vllm.SPEC)}
)
