"""The plan: how many GPUs a model needs, how it is to be stored, and what fits beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from penstock.planner.hardware import BF16_CAPABILITY, COUNT_MAX, FP8_CAPABILITY, GIB, MIB, Gpu
from penstock.planner.quantization import GROUP, METHODS, STORED, Method, own_method
from penstock.planner.room import Q8_0_BYTES, STEPS_IN_FLIGHT, Room, Terms, divides, room, sequence_bytes
from penstock.planner.shapes import Architecture, PlanError

CONTEXT_DEFAULT = 8192
SEQUENCES_DEFAULT = 256
UTILIZATION_DEFAULT = 0.92
BATCHES = ((160 * GIB, 16384), (70 * GIB, 8192), (0, 2048))
SMALL_BATCH_NAME = "A100"
"""What vLLM 0.32's server does if it isn't told: sequences at once (1024 from 70 GiB on, which few models have room
for), the part of memory that it takes, and tokens of a step by a GPU's memory, but for the A100 (`CacheConfig`,
`EngineArgs._set_default_max_num_seqs_and_batched_tokens_args`)."""

LLAMACPP_BATCH = 2048
LLAMACPP_SEQUENCES = 8
"""What Penstock starts llama.cpp with (`engines/llamacpp_server.py`): tokens of a step at most, and slots."""

COMPARED = ("fp8", "int8", "awq")
GGUF_COMPARED, GGUF_DEFAULT = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0"), "q4_k_m"
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144, 1048576)


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked for.

    Args:
        gpu: the kind there is; the smallest one where they differ.
        count: how many.
        context: tokens of a sequence; `CONTEXT_DEFAULT`, or less where the model has less, by default.
        concurrency: sequences of that length that must fit at once; one by default.
        method: to store weights with; as the model's files have them by default.
        small_kv: whether the KV cache takes about half: fp8 with vLLM, q8_0 with llama.cpp.
        utilization: the part of a GPU's memory that the engine may take, 0 to 1.
        tensor_parallel: GPUs that share a replica; the smallest that fits by default.
    """

    gpu: Gpu
    count: int
    context: int | None = None
    concurrency: int | None = None
    method: Method | None = None
    small_kv: bool = False
    utilization: float = UTILIZATION_DEFAULT
    tensor_parallel: int | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to store and divide the model.

    Args:
        method: that its weights are stored with.
        room: on each GPU.
        terms: how the engine is to run there.
        fits: whether as many sequences as are asked for fit.
        why: why not, or what to know of it; may be empty.
    """

    method: Method
    room: Room
    terms: Terms
    fits: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What was found.

    Args:
        model: the model.
        ask: what was asked for.
        choice: the one that is planned: the fewest GPUs that do, or all there are where they don't.
        replicas: that all GPUs together can run.
        needed: GPUs of this kind that would do, where there are too few; None where no number would.
        choices: other ways, a row each.
        lengths: sequences of some lengths that fit at once, by length.
        notes: what to know, a sentence each.
    """

    model: Architecture
    ask: Ask
    choice: Choice
    replicas: int
    needed: int | None
    choices: tuple[Choice, ...]
    lengths: tuple[tuple[int, int], ...]
    notes: tuple[str, ...]


def plan(model: Architecture, ask: Ask) -> Plan:
    """How the model can be served with what there is.

    Raises:
        PlanError: what is asked for can't be planned for this model: a tensor-parallel size that does not divide its
            heads, a method that it can't be stored with.
    """
    method = _method(model, ask)
    terms = _terms(model, ask, method)
    _check(model, ask, terms, method)
    sizes = [ask.tensor_parallel] if ask.tensor_parallel else list(_sizes(model, ask.count, terms, method))
    tried = [_choice(model, ask, method, size, terms) for size in sizes]
    choice = next((one for one in tried if one.fits), tried[-1])
    return Plan(
        model=model,
        ask=ask,
        choice=choice,
        replicas=ask.count // choice.room.gpus if choice.fits else 0,
        needed=None if choice.fits else _needed(model, ask, method, terms),
        choices=tuple(_choices(model, ask, terms)),
        lengths=tuple(_lengths(model, choice)) if choice.fits else (),
        notes=(*model.notes, *_notes(model, ask, terms, choice)),
    )


def batch_tokens(gpu: Gpu, method: Method, context: int) -> int:
    """Tokens that the engine computes in one step at most, unless it is told otherwise."""
    if method.engine == "llamacpp":
        return min(LLAMACPP_BATCH, context)
    if gpu.name.startswith(SMALL_BATCH_NAME):
        return BATCHES[-1][1]
    return next(tokens for least, tokens in BATCHES if gpu.memory_bytes >= least)


def _method(model: Architecture, ask: Ask) -> Method:
    own = own_method(model) if ask.method is None or model.quantized or _is_gguf(model) else None
    if ask.gpu.ram and not _is_gguf(model):
        return _in_ram(model, ask)
    if ask.method is None:
        assert own is not None
        return _half(own, ask.gpu)
    if own is not None and own.name != ask.method.name:
        said = "a GGUF file" if own is STORED else f"quantized with {own.name}"
        raise PlanError(
            f"--quantization {ask.method.name}: the model is {said} already",
            code="usage",
            hint="leave --quantization out, or name the model that it was made from",
        )
    return ask.method


def _in_ram(model: Architecture, ask: Ask) -> Method:
    """What llama.cpp could have of a model that is no GGUF file yet."""
    if model.quantized or (ask.method and ask.method.engine != "llamacpp"):
        name = ask.method.name if ask.method else model.quantized
        raise PlanError(
            f"weights as {name[:40]}: llama.cpp, which runs models on a CPU, has no such kind",
            code="usage",
            hint=f"name a GGUF file, or --quantization {', '.join(GGUF_COMPARED)} for an estimate",
        )
    return ask.method or METHODS[GGUF_DEFAULT]


def _is_gguf(model: Architecture) -> bool:
    return any(weight.bits for weight in model.weights)


def _half(method: Method, gpu: Gpu) -> Method:
    """What the engine loads weights as: 16 bits where files have 32, and float16 where the GPU has no bfloat16."""
    if method.name not in ("float32", "bfloat16"):
        return method
    lacking = gpu.capability and gpu.capability < BF16_CAPABILITY
    return METHODS["float16" if lacking or method.name == "float32" else "bfloat16"]


def _terms(model: Architecture, ask: Ask, method: Method) -> Terms:
    context = ask.context or min(CONTEXT_DEFAULT, model.context_max or CONTEXT_DEFAULT)
    layered = method.engine == "llamacpp"
    return Terms(
        context=context,
        sequences=ask.concurrency or (LLAMACPP_SEQUENCES if layered else SEQUENCES_DEFAULT),
        batch_tokens=batch_tokens(ask.gpu, method, context),
        utilization=ask.utilization,
        kv_bytes=(Q8_0_BYTES if layered else 1) if ask.small_kv else 2,
        layered=layered,
        graphs=not layered,
        steps=1 if layered else STEPS_IN_FLIGHT,
    )


def _check(model: Architecture, ask: Ask, terms: Terms, method: Method) -> None:
    size = ask.tensor_parallel
    if size is None:
        return
    if size > ask.count:
        raise PlanError(f"--tensor-parallel {size}: there are {ask.count} GPUs", code="usage")
    if not terms.layered and not divides(model, size, method):
        fine = ", ".join(str(one) for one in range(1, 65) if divides(model, one, method))
        raise PlanError(
            f"--tensor-parallel {size}: does not divide {model.heads} attention heads, {model.kv_heads} KV heads "
            "and the MLP evenly" + (", with whole groups of weights" if method.group_bits else ""),
            code="usage",
            hint=f"possible: {fine}",
        )


def _sizes(model: Architecture, most: int, terms: Terms, method: Method) -> Iterator[int]:
    """Numbers of GPUs that can share the model, the smallest first."""
    if terms.layered:
        yield from range(1, min(most, model.layers) + 1)
    else:
        yield from (size for size in range(1, min(most, model.heads) + 1) if divides(model, size, method))


def _choice(model: Architecture, ask: Ask, method: Method, size: int, terms: Terms) -> Choice:
    found = room(model, method, ask.gpu, size, terms)
    unable, wanted = _unable(method, ask.gpu), ask.concurrency or 1
    if unable or found.sequences < wanted:
        return Choice(method, found, terms, False, unable or _short(found, wanted))
    if ask.concurrency is None and found.sequences < terms.sequences:
        terms = replace(terms, sequences=found.sequences)  # fewer logits, so that a little more is left
        found = room(model, method, ask.gpu, size, terms)
    return Choice(method, found, terms, True, _slow(method, ask.gpu))


def _unable(method: Method, gpu: Gpu) -> str:
    """Why this GPU can't compute with weights stored like that; empty where it can."""
    if not gpu.capability or gpu.capability >= method.capability:
        return ""
    return f"{method.name} needs compute capability {method.capability / 10}; the {gpu.name} has {gpu.capability / 10}"


def _slow(method: Method, gpu: Gpu) -> str:
    """What to know of a method that this GPU has no arithmetic for; empty where it has."""
    if method.name != "fp8" or not gpu.capability or gpu.capability >= FP8_CAPABILITY:
        return ""
    return "stored as fp8, computed in 16 bits: this GPU has no fp8 arithmetic"


def _short(found: Room, wanted: int) -> str:
    """What is missing, with numbers."""
    if found.budget < found.weights:
        missing = f"the weights alone take {gib(found.weights)} of {gib(found.budget)}"
    elif found.kv <= 0:
        missing = f"weights and activations leave nothing of {gib(found.budget)} for the KV cache"
    else:
        what = f"one sequence of {found.context} tokens takes"
        if wanted > 1:
            what = f"{wanted} sequences of {found.context} tokens take"
        missing = f"{what} {gib(found.sequence * wanted)} of KV cache, and {gib(found.kv)} are left"
    return missing


def gib(size_bytes: int) -> str:
    """Memory for people, in GiB as engines and `nvidia-smi` count it."""
    return f"{size_bytes / GIB:.{1 if abs(size_bytes) >= 10 * GIB else 2}f} GiB"


def _needed(model: Architecture, ask: Ask, method: Method, terms: Terms) -> int | None:
    """The fewest GPUs of this kind that would do."""
    if ask.gpu.ram:
        return None
    sizes = _sizes(model, COUNT_MAX, terms, method)
    return next((size for size in sizes if _choice(model, ask, method, size, terms).fits), None)


def _choices(model: Architecture, ask: Ask, terms: Terms) -> Iterator[Choice]:
    """Every way to store it that can be compared, with the fewest GPUs that do and with all there are."""
    for method in _compared(model, ask):
        sizes = [size for size in _sizes(model, ask.count, terms, method) if size & (size - 1) == 0]
        tried = [_choice(model, ask, method, size, terms) for size in sizes]
        first = next((one for one in tried if one.fits), tried[-1])
        yield first
        if tried[-1] is not first:
            yield tried[-1]


def _compared(model: Architecture, ask: Ask) -> Iterator[Method]:
    own = own_method(model)
    if own is STORED or model.quantized:
        yield own
        return
    if ask.gpu.ram:
        yield from (METHODS[name] for name in GGUF_COMPARED)
        return
    half = _half(own, ask.gpu)
    yield half
    yield from (METHODS[name] for name in COMPARED)
    if ask.method and ask.method.engine == "vllm" and ask.method.name not in (half.name, *COMPARED):
        yield ask.method


def _lengths(model: Architecture, choice: Choice) -> Iterator[tuple[int, int]]:
    """How many sequences of some lengths fit, up to what the model was trained for."""
    terms = choice.terms
    most = max(terms.context, model.context_max or 0)
    for length in (*(one for one in LENGTHS if one < most), most):
        each = sequence_bytes(model, choice.room.gpus, terms, length)
        yield length, max(0, choice.room.kv // each)


def _notes(model: Architecture, ask: Ask, terms: Terms, choice: Choice) -> Iterator[str]:
    if model.context_max and terms.context > model.context_max:
        yield (
            f"{terms.context} tokens are more than the {model.context_max} that the model was trained for: "
            "engines refuse that unless its rotary positions are scaled"
        )
    method = choice.method
    if (
        ask.method
        and method.linear_bits
        and not method.flag
        and method.engine == "vllm"
        and not model.quantized
    ):
        yield f"{method.name} needs files that are quantized so already; these are not"
    if method.engine == "llamacpp" and not _is_gguf(model):
        yield f"{method.name} is an estimate by llama.cpp's rules for dense models; a GGUF file's own header is exact"
    if choice.room.gpus > model.kv_heads and not terms.layered:
        yield f"each GPU holds a whole KV head or latent: there are {model.kv_heads} for {choice.room.gpus} GPUs"
    if choice.room.gpus < ask.count and method.group_bits and not divides(model, ask.count, method):
        yield f"{ask.count} GPUs do not divide the MLP in whole groups of {model.group or GROUP} weights"
    yield from _together(model, ask, terms, choice)
    if ask.small_kv:
        yield "a KV cache of 8 bits costs some quality; compare your own answers before you rely on it"
    if ask.gpu.used_mib:
        what = "the RAM" if ask.gpu.ram else "a GPU's memory"
        yield f"{gib(ask.gpu.used_mib * MIB)} of {what} are in use by others already"


def _together(model: Architecture, ask: Ask, terms: Terms, choice: Choice) -> Iterator[str]:
    """What all GPUs would hold as one replica, where that is more than they hold as several."""
    size, count = choice.room.gpus, ask.count
    if not choice.fits or terms.layered or size == count or not divides(model, count, choice.method):
        return
    sequences = room(model, choice.method, ask.gpu, count, terms).sequences
    if sequences > choice.room.sequences * (count // size):
        yield (
            f"{count} GPUs would hold {sequences} sequences as one replica (--tensor-parallel {count}), "
            f"and {choice.room.sequences * (count // size)} as {count // size}"
        )
