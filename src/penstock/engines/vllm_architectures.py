"""Whether a vLLM knows the architecture of a model that lies on this disk, before it is started."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from penstock.core.config import ModelConfig
from penstock.engines.vllm_installation import Vllm
from penstock.engines.weights import config_of, known_folder

REGISTRY = "vllm/model_executor/models/registry.py"
REGISTRY_BYTES_MAX = 1024 * 1024
_ENTRY = re.compile(r'"(\w+)":\s*\(')  # of those that it knows; former ones are followed by a text


def architecture_mistakes(model: ModelConfig, vllm: Vllm) -> Iterator[str]:
    """A complaint where neither vLLM nor its Transformers can know it; silent where that can't be told."""
    folder = known_folder(model)
    registry = vllm.sources.source(REGISTRY) if vllm.sources else None
    if (
        folder is None
        or registry is None
        or vllm.may_have_more
        or "model_class_overrides" in model.engine_args
    ):
        return
    config = config_of(folder)
    names = config.get("architectures")
    if not isinstance(names, list) or not names or "auto_map" in config:  # code of its own comes with it
        return
    if any(name in _known(registry) for name in names) or _is_of_transformers(config.get("model_type"), vllm):
        return
    yield f"source: {vllm.name} does not know the architecture {names[0]}; update vLLM, or choose another engine"


def _known(registry: Path) -> set[str]:
    with registry.open(encoding="utf-8", errors="replace") as file:
        return set(_ENTRY.findall(file.read(REGISTRY_BYTES_MAX)))


def _is_of_transformers(model_type: object, vllm: Vllm) -> bool:
    """Whether Transformers has the family, by which vLLM then runs it."""
    is_name = isinstance(model_type, str) and re.fullmatch(r"[\w-]+", model_type) is not None
    path = f"transformers/models/{str(model_type).replace('-', '_')}/__init__.py"
    return is_name and vllm.sources is not None and vllm.sources.source(path) is not None
