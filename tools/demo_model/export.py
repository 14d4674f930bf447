"""The exports: one set of weights as a Hugging Face folder and as a GGUF file.

The weights are rounded to bfloat16 once. Safetensors holds them so; GGUF holds the same numbers as float16,
whose longer mantissa keeps them exactly, so that both engines compute with one model.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save
from tokenizers import Tokenizer

from .gguf_file import write_gguf
from .model import Llama, Shape
from .prompt import BEGIN, CHAT_TEMPLATE, END, PAD
from .tokenizer import token_id
from .training import load


def export(checkpoint: Path, folder: Path) -> None:
    """Write the model in the folder `checkpoint` in both forms to `folder`."""
    model, tokenizer = load(checkpoint)
    weights = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_hugging_face(model, weights, tokenizer, folder)
    write_gguf(model.shape, weights, tokenizer, folder / "demo.gguf")


def write_hugging_face(
    model: Llama, weights: dict[str, torch.Tensor], tokenizer: Tokenizer, folder: Path
) -> None:
    """Write what `AutoModelForCausalLM` and `AutoTokenizer` read to `folder`."""
    (folder / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    ids = {token: token_id(tokenizer, token) for token in (PAD, BEGIN, END)}
    write_json(folder / "config.json", llama_config(model.shape, ids))
    write_json(folder / "generation_config.json", generation_config(ids))
    write_json(folder / "tokenizer_config.json", tokenizer_config(model.shape))


def llama_config(shape: Shape, ids: dict[str, int]) -> dict[str, object]:
    """The contents of `config.json`."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.layer_count,
        "num_attention_heads": shape.head_count,
        "num_key_value_heads": shape.kv_head_count,
        "head_dim": shape.head_size,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context_len_max,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": ids[BEGIN],
        "eos_token_id": ids[END],
        "pad_token_id": ids[PAD],
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }


def generation_config(ids: dict[str, int]) -> dict[str, object]:
    """The contents of `generation_config.json`: greedy, until the end mark."""
    return {
        "bos_token_id": ids[BEGIN],
        "eos_token_id": ids[END],
        "pad_token_id": ids[PAD],
        "do_sample": False,
    }


def tokenizer_config(shape: Shape) -> dict[str, object]:
    """The contents of `tokenizer_config.json`."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": PAD,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": shape.context_len_max,
        "model_input_names": ["input_ids", "attention_mask"],
    }


def write_json(path: Path, content: dict[str, object]) -> None:
    """Write `content` to `path` as readable JSON."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
