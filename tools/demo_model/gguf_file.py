"""The GGUF file: llama.cpp's form of the model, its tokenizer and its chat template in one."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer

from .model import Shape
from .prompt import BEGIN, CHAT_TEMPLATE, END, PAD, SPECIAL_TOKENS

NAMES_BY_PART = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(shape: Shape, weights: dict[str, torch.Tensor], tokenizer: Tokenizer, path: Path) -> None:
    """Write `weights`, named as Hugging Face names them, with `tokenizer` to the file `path`."""
    writer = gguf.GGUFWriter(str(path), "llama")
    add_constants(writer, shape)
    add_tokenizer(writer, tokenizer)
    for name, tensor in weights.items():
        writer.add_tensor(gguf_name(name), gguf_array(name, tensor, shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_constants(writer: gguf.GGUFWriter, shape: Shape) -> None:
    """Write what `config.json` says, in GGUF's keys."""
    writer.add_name("penstock-demo")
    writer.add_license("apache-2.0")
    writer.add_context_length(shape.context_len_max)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.layer_count)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.head_count)
    writer.add_head_count_kv(shape.kv_head_count)
    writer.add_key_length(shape.head_size)
    writer.add_value_length(shape.head_size)
    writer.add_rope_dimension_count(shape.head_size)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    """Write the vocabulary, the merges, the special ids and the chat template."""
    description = json.loads(tokenizer.to_str())
    vocab: dict[str, int] = description["model"]["vocab"]
    tokens = sorted(vocab, key=lambda token: vocab[token])
    special = set(SPECIAL_TOKENS)
    kinds = [gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in description["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(vocab[BEGIN])
    writer.add_eos_token_id(vocab[END])
    writer.add_eot_token_id(vocab[END])
    writer.add_pad_token_id(vocab[PAD])
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def gguf_name(name: str) -> str:
    """GGUF's name of the parameter that Hugging Face calls `name`."""
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{NAMES_BY_PART[part]}.weight"


def gguf_array(name: str, tensor: torch.Tensor, shape: Shape) -> np.ndarray:
    """`tensor` as GGUF wants it: gains float32, matrices float16, q and k in llama.cpp's rotary order."""
    array: np.ndarray = tensor.float().numpy()
    if array.ndim == 1:
        return array
    if "q_proj" in name:
        array = interleaved(array, shape.head_count)
    if "k_proj" in name:
        array = interleaved(array, shape.kv_head_count)
    return array.astype(np.float16)


def interleaved(array: np.ndarray, head_count: int) -> np.ndarray:
    """Rows of each head from (half, pair) order to (pair, half) order, which llama.cpp rotates."""
    rows, columns = array.shape
    halves = array.reshape(head_count, 2, rows // head_count // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)
