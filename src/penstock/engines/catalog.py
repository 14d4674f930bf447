"""Every engine kind that Penstock knows, by its name in `models.N.engine`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import get_args

from penstock.core.config import EngineKind, ModelConfig
from penstock.engines import remote
from penstock.engines.spec import EngineSpec


class _Specs(Mapping[str, EngineSpec]):
    """The facts by kind; the module of one is loaded when it is asked for, since most have one engine alone."""

    _KINDS: tuple[str, ...] = get_args(EngineKind)

    def __getitem__(self, kind: str) -> EngineSpec:
        if kind not in self._KINDS:
            raise KeyError(kind)
        return _spec(kind)

    def __iter__(self) -> Iterator[str]:
        return iter(self._KINDS)

    def __len__(self) -> int:
        return len(self._KINDS)


SPECS: Mapping[str, EngineSpec] = _Specs()


def spec_of(engine: str, model: ModelConfig | None) -> EngineSpec:
    """The facts of a replica's engine.

    Args:
        model: as it is configured, which says more of a remote one; None where nothing is known of it.
    """
    return remote.spec_of(model) if engine == "remote" and model is not None else SPECS[engine]


@cache
def _spec(kind: str) -> EngineSpec:
    spec: EngineSpec = import_module(f"penstock.engines.{kind}").SPEC
    return spec
