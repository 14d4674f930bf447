"""Makes a model of real size with random weights, and measures what it takes of a GPU. Runs as a process of its own.

    python tools/gpu_checks/random_model.py device
    python tools/gpu_checks/random_model.py make FOLDER LAYERS
    python tools/gpu_checks/random_model.py measure FOLDER

Each prints one line of JSON. Layers are those of Llama 3.1 8B; the vocabulary is the demo model's, so that its
tokenizer can spell every token, and nothing is downloaded. Needs PyTorch and Transformers; without a GPU it takes the
processor, and counts the bytes of tensors instead of those that CUDA gave out.
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

DEMO = Path(__file__).resolve().parents[2] / "src" / "penstock" / "demo_model"
BATCH, LENGTH = 2, 64
"""Sequences and tokens whose KV cache is measured."""


def make(folder: Path, layers: int) -> dict[str, object]:
    """Writes the model."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    vocabulary = json.loads((DEMO / "config.json").read_text())["vocab_size"]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        bos_token_id=1,
        eos_token_id=None,  # random weights would end an answer at any time
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(_device()):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DEMO / name, folder / name)
    return {"parameters": sum(each.numel() for each in model.parameters())}


def measure(folder: Path) -> dict[str, object]:
    """Loads it, and fills a KV cache."""
    import torch
    from transformers import AutoModelForCausalLM

    device = _device()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(device)
    weights = sum(each.numel() * each.element_size() for each in model.parameters())
    if device == "cuda":
        torch.cuda.empty_cache()
        weights = torch.cuda.memory_allocated()
    tokens = torch.randint(3, 1000, (BATCH, LENGTH), device=device)
    with torch.inference_mode():
        cache = model(tokens, use_cache=True).past_key_values
    kv = sum(part.numel() * part.element_size() for layer in _layers(cache) for part in layer)
    return {"weights_bytes": weights, "kv_bytes_per_token": kv / (BATCH * LENGTH)}


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _layers(cache: object) -> list[tuple[object, ...]]:
    """Keys and values of each layer, by whichever names this Transformers has for them."""
    layers = getattr(cache, "layers", None)
    if layers is not None:
        return [(layer.keys, layer.values) for layer in layers]
    return list(cache.to_legacy_cache())


def device() -> dict[str, object]:
    """What it would run on, or which package is not there."""
    lacks = [name for name in ("torch", "transformers") if find_spec(name) is None]
    return {"lacks": " and no ".join(lacks)} if lacks else {"device": _device()}


def main(word: str, *rest: str) -> dict[str, object]:
    """What the command tells."""
    if word == "device":
        return device()
    return make(Path(rest[0]), int(rest[1])) if word == "make" else measure(Path(rest[0]))


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
