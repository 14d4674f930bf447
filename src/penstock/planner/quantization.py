"""What a weight takes in memory, by the method it is quantized with.

Bits per parameter of a linear layer, its scales and zero points among them; embeddings, head, norms, biases and
routers stay as they are unless a method says otherwise. Sources:

- AWQ, GPTQ (4 bits): for each group of 128 weights of a row a 16-bit scale and a 4-bit zero point; GPTQ has a
  32-bit index of the group for each input besides (`qweight`, `qzeros`, `scales`, `g_idx` of AutoAWQ and GPTQModel).
- fp8, int8: one byte, and a 32-bit scale for each row (compressed-tensors, strategy `channel`; bitsandbytes' `SCB`).
  DeepSeek's scales for blocks of 128 x 128 are counted as if they were rows': some thousandths of a percent more.
- NF4 (bitsandbytes): 4 bits and, for each 64 weights, a 32-bit scale; without double quantization.
- MXFP4 (OCP Microscaling Formats 1.0): 4 bits and an 8-bit exponent for each 32 weights; gpt-oss has experts in it.
- GGUF: bits of a block by its layout in llama.cpp's `ggml-common.h`: q4_0 18 bytes for 32 weights, q5_0 22, q8_0 34;
  q4_K 144 for 256, q5_K 176, q6_K 210. Which layers get which by `llama-quant.cpp` for dense models; its exceptions
  for 70B and for eight experts (a better kind for the value projection) are left out: less than 1 %.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.planner.shapes import DTYPE_BYTES, Architecture, PlanError, Role, Weight, share

VLLM_CAPABILITY = 70
"""vLLM runs on Volta and later (its installation page), and needs 8.0 for bfloat16; of methods what their
`get_min_capability` says in 0.32. Times 10."""

GROUP = 128
"""Weights that share a scale where nothing else is said: what AWQ and GPTQ files are published with."""

Q4_0, Q5_0, Q8_0 = 18 * 8 / 32, 22 * 8 / 32, 34 * 8 / 32
Q4_K, Q5_K, Q6_K = 144 * 8 / 256, 176 * 8 / 256, 210 * 8 / 256


@dataclass(frozen=True, slots=True)
class Method:
    """One way to store weights.

    Args:
        name: as `--quantization` spells it.
        linear_bits: of a weight in a linear layer or an expert, without scales; 0 where it stays as it is.
        group_bits: for each group of weights of a row.
        row_bits: for each row.
        input_bits: for each input of a layer.
        experts_only: whether linear layers outside of experts stay as they are.
        more_bits: of the value and down projections of about half the layers (llama.cpp's `_M` mixtures).
        outer_bits: of the embedding; 0 where it stays as it is.
        head_bits: of the head, and of an embedding that is one.
        plain_bits: of what is not quantized; 0 for the model's own.
        capability: the least CUDA compute capability, times 10, that engines have kernels for.
        flag: what vLLM's `--quantization` takes to make it while loading; empty where the files must have it.
        engine: that it is for.
    """

    name: str
    linear_bits: float = 0
    group_bits: int = 0
    row_bits: int = 0
    input_bits: int = 0
    experts_only: bool = False
    more_bits: float = 0
    outer_bits: float = 0
    head_bits: float = 0
    plain_bits: int = 0
    capability: int = 0
    flag: str = ""
    engine: str = "vllm"


def _gguf(name: str, bits: float, *, more: float = 0, head: float = Q6_K) -> Method:
    return Method(
        name, bits, more_bits=more, outer_bits=bits, head_bits=head, plain_bits=32, engine="llamacpp"
    )


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("float32", plain_bits=32, capability=VLLM_CAPABILITY),
        Method("bfloat16", plain_bits=16, capability=80),
        Method("float16", plain_bits=16, capability=VLLM_CAPABILITY),
        Method("fp8", 8, row_bits=32, capability=75, flag="fp8"),
        Method("int8", 8, row_bits=32, capability=75),
        Method("awq", 4, group_bits=16 + 4, capability=75),
        Method("gptq", 4, group_bits=16 + 4, input_bits=32, capability=VLLM_CAPABILITY),
        Method("bnb-int4", 4 + 32 / 64, capability=70, flag="bitsandbytes"),
        Method("mxfp4", 4 + 8 / 32, experts_only=True, capability=80),
        _gguf("q8_0", Q8_0, head=Q8_0),
        _gguf("q6_k", Q6_K),
        _gguf("q5_k_m", Q5_K, more=Q6_K),
        _gguf("q5_0", Q5_0),
        _gguf("q4_k_m", Q4_K, more=Q6_K),
        _gguf("q4_0", Q4_0),
    )
}

ALIASES = {
    "none": "", "bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32",
    "int4": "awq", "w4a16": "gptq", "w8a8": "int8", "awq_marlin": "awq", "gptq_marlin": "gptq",
    "bitsandbytes": "bnb-int4", "nf4": "bnb-int4",
}  # fmt: skip

STORED = Method("stored", engine="llamacpp")
"""A GGUF file as it is: each weight takes what it takes there."""

MORE_ROLES = frozenset({"attention.v", "mlp.down"})


def method(name: str) -> Method:
    """The method called `name`, in any case, or by an alias.

    Raises:
        PlanError: it is not known here.
    """
    word = name.strip().lower()
    found = METHODS.get(ALIASES.get(word, word))
    if found is None:
        known = f"known: none, {', '.join(METHODS)}"
        raise PlanError(f"--quantization: {name[:60]!r} is not known here", code="usage", hint=known)
    return found


def own_method(model: Architecture) -> Method:
    """How the model's own files are stored.

    Raises:
        PlanError: they are quantized by a method that is not known here.
    """
    if any(weight.bits for weight in model.weights):
        return STORED
    if model.quantized:
        found = METHODS.get(model.quantized)
        if found is None:
            raise PlanError(
                f"quantization_config: method {model.quantized[:60]!r} is not known here",
                hint=f"known: {', '.join(METHODS)}; name the nearest with --quantization",
            )
        return found
    return METHODS[model.dtype or "float16"]


def weight_bytes(model: Architecture, way: Method, *, gpus: int = 1) -> int:
    """Bytes of all weights on the fullest of `gpus` GPUs that share the model by tensor parallelism."""
    plain_bits = way.plain_bits or 8 * min(2, DTYPE_BYTES[model.dtype or "float16"])
    bits = 0.0
    for weight in model.weights:
        bits += weight_bits(weight, way, model, plain_bits) * share(weight.units, gpus)
    return round(bits / 8)


def weight_bits(weight: Weight, way: Method, model: Architecture, plain_bits: int) -> float:
    """Bits of all copies of one weight, with its scales.

    Args:
        plain_bits: of a parameter that the method leaves as it is.
    """
    if weight.bits:
        return weight.parameters * weight.bits
    if weight.role is Role.EMBEDDING:
        each = way.head_bits if model.tied else way.outer_bits
        return weight.parameters * (each or _outer(plain_bits, way))
    if weight.role is Role.HEAD:
        return weight.parameters * (way.head_bits or _outer(plain_bits, way))
    left = weight.role is Role.PLAIN or (way.experts_only and weight.role is not Role.EXPERT)
    if left or not way.linear_bits:
        return weight.parameters * plain_bits
    return _linear_bits(weight, way, model.group or GROUP)


def _outer(plain_bits: int, way: Method) -> float:
    """A matrix that is not quantized: as the model has it; GGUF's plain bits are for norms only."""
    return 16 if way.engine == "llamacpp" and way.linear_bits else plain_bits


def _linear_bits(weight: Weight, way: Method, group: int) -> float:
    rows = weight.outputs * weight.count
    bits = weight.parameters * way.linear_bits
    if way.more_bits and weight.name in MORE_ROLES:
        part = sum(_gets_more(layer, weight.count) for layer in range(weight.count)) / weight.count
        bits += weight.parameters * part * (way.more_bits - way.linear_bits)
    groups = -(-weight.inputs // group)
    return (
        bits + rows * (groups * way.group_bits + way.row_bits) + weight.inputs * weight.count * way.input_bits
    )


def _gets_more(layer: int, layers: int) -> bool:
    """Whether llama.cpp gives this layer's value and down projections the better kind (`use_more_bits`)."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
