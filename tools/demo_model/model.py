"""The network: a small Llama in plain PyTorch, its parameters named as in `LlamaForCausalLM`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  (the name everyone reads)
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Shape:
    """The constants of the network; all exports write these and no others."""

    vocab_size: int = 2048
    hidden_size: int = 256
    intermediate_size: int = 512
    layer_count: int = 4
    head_count: int = 4
    kv_head_count: int = 2
    head_size: int = 64
    context_len_max: int = 2048
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a learned gain."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions (the half-split layout of Hugging Face)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        width, kv_width = shape.head_count * shape.head_size, shape.kv_head_count * shape.head_size
        self.q_proj = nn.Linear(shape.hidden_size, width, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, kv_width, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, kv_width, bias=False)
        self.o_proj = nn.Linear(width, shape.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        size, group = self.shape.head_size, self.shape.head_count // self.shape.kv_head_count
        q = rotated(self.q_proj(x).view(batch, length, -1, size).transpose(1, 2), cos, sin)
        k = rotated(self.k_proj(x).view(batch, length, -1, size).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(batch, length, -1, size).transpose(1, 2)
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
        return out


class MLP(nn.Module):
    """The gated feed-forward layer (SwiGLU)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """Attention and feed-forward, each behind a norm and beside a residual path."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.norm_eps)
        self.mlp = MLP(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        mixed: Tensor = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out: Tensor = mixed + self.mlp(self.post_attention_layernorm(mixed))
        return out


class Body(nn.Module):
    """Everything below the output head."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layer_count))
        self.norm = RMSNorm(shape.hidden_size, shape.norm_eps)

    def forward(self, ids: Tensor) -> Tensor:
        cos, sin = rotary_tables(self.shape, ids.shape[1])
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, cos, sin)
        normed: Tensor = self.norm(x)
        return normed


class Llama(nn.Module):
    """The language model. Its output head is its embedding table."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                scale = (
                    (2 * shape.layer_count) ** -0.5
                    if name.endswith(("o_proj.weight", "down_proj.weight"))
                    else 1.0
                )
                nn.init.normal_(
                    parameter, std=0.02 if "embed" in name else scale * parameter.shape[1] ** -0.5
                )

    def forward(self, ids: Tensor) -> Tensor:
        """Hidden states of `ids` (batch, length), before the head."""
        hidden: Tensor = self.model(ids)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token for `hidden` states of any leading shape."""
        return F.linear(hidden, self.model.embed_tokens.weight)

    def parameter_count(self) -> int:
        """How many numbers the model has."""
        return sum(parameter.numel() for parameter in self.parameters())


def rotary_tables(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the first `length` positions, each of shape (length, head_size)."""
    steps = torch.arange(0, shape.head_size, 2, dtype=torch.float32) / shape.head_size
    angles = torch.outer(torch.arange(length, dtype=torch.float32), shape.rope_theta**-steps)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x` (batch, heads, length, size) turned by its positions."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin
