"""What is wrong with the weights that an engine of Hugging Face models shall load, as far as this disk tells.

A model that is only on the Hub is the engine's own, or `penstock pull`'s, to find. What reads files of models is loaded
when one is to be read: a gateway asks an engine's module for facts alone, and would carry 4 MB of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from penstock.core.config import DEMO_SOURCE, ModelConfig
from penstock.engines.paths import CONFIG_NAME, DEMO_FOLDER, path_of

WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.npz", "*.tensors")
OTHER_CONFIG = "params.json"  # of Mistral's own format
USE_LLAMACPP = 'set engine = "llamacpp", or name the safetensors model that it was made from'


def local_folder(model: ModelConfig) -> Path | None:
    """The folder that `source` names; None where it is a name of the Hub."""
    path = DEMO_FOLDER if model.source == DEMO_SOURCE else path_of(str(model.source))
    return path.absolute() if path.is_dir() else None


def known_folder(model: ModelConfig) -> Path | None:
    """The folder that holds the model, also in the Hub's cache; None where it is not on this disk."""
    from penstock.engines.hub import local_path

    found = local_folder(model) or local_path(str(model.source))
    return found if found is not None and found.is_dir() else None


def source_of(model: ModelConfig) -> str:
    """What to tell the engine to load."""
    return str(local_folder(model) or model.source)


def config_of(folder: Path) -> dict[str, Any]:
    """The model's `config.json`; empty where it can't be read."""
    from penstock.planner.architecture import CONFIG_BYTES_MAX

    try:
        with (folder / CONFIG_NAME).open("rb") as file:
            content = json.loads(file.read(CONFIG_BYTES_MAX))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def weight_mistakes(model: ModelConfig, engine: str, *, takes_gguf: bool = False) -> Iterator[str]:
    """Complaints about `source`.

    Args:
        engine: what to call it.
        takes_gguf: it loads such files, too.
    """
    source = str(model.source)
    folder = local_folder(model)
    path = path_of(source)
    if folder is not None:
        yield from _folder_mistakes(folder, engine, takes_gguf)
        if "load_format" not in model.engine_args and not any(
            next(folder.glob(pattern), None) for pattern in WEIGHTS
        ):
            yield f"source: {folder} holds no weights; finish the download"
    elif source.lower().endswith(".gguf") or ":" in source or _is_gguf(path):
        if not takes_gguf:
            yield f"source: {source} is a GGUF file, which {engine} does not load; {USE_LLAMACPP}"
    elif path.exists():
        yield f"source: {path} is a file; name the folder that holds it and its {CONFIG_NAME}"
    elif source.startswith(("/", ".", "~")):
        yield f"source: {path} does not exist; name a folder, or owner/model of the Hub"


def _folder_mistakes(folder: Path, engine: str, takes_gguf: bool) -> Iterator[str]:
    from penstock.engines.model_files import describe
    from penstock.planner.shapes import DamagedError, PlanError

    if not any((folder / name).is_file() for name in (CONFIG_NAME, OTHER_CONFIG)):
        ggufs = sorted(folder.glob("*.gguf"))
        if not ggufs:
            yield f"source: {folder} has no {CONFIG_NAME}; name the folder that a model was downloaded into"
        elif not takes_gguf:
            yield f"source: {folder} has only GGUF files, which {engine} does not load; {USE_LLAMACPP}"
        return
    try:
        describe(str(folder))
    except DamagedError as error:
        yield f"source: {error.message}; {error.hint}"
    except PlanError:
        pass  # of a family that the planner does not know: the engine may


def split_mistakes(model: ModelConfig, name: str) -> Iterator[str]:
    """A complaint where the argument `name`, over how many GPUs each layer is split, does not divide the heads."""
    folder = known_folder(model)
    size = model.engine_args.get(name, 1)
    if folder is None or not isinstance(size, int) or isinstance(size, bool) or size < 1:
        return
    config = config_of(folder)
    inner = config.get("text_config")
    heads = (inner if isinstance(inner, dict) else config).get("num_attention_heads")
    if isinstance(heads, int) and heads > 0 and heads % size:
        fitting = ", ".join(str(one) for one in range(1, min(heads, 64) + 1) if heads % one == 0)
        yield f"engine_args.{name}: {size} does not divide the model's {heads} attention heads; set one of {fitting}"


def _is_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False
