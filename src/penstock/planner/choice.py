"""How to serve a model of which nothing but its name is said: quantization, GPUs and context, each with its reason.

Every choice is an entry of `[[models]]` that somebody could have written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from penstock.planner.flags import Value, engine_args
from penstock.planner.hardware import Gpu
from penstock.planner.plan import CONTEXT_DEFAULT, Ask, Plan, gib, plan
from penstock.planner.quantization import METHODS, own_method
from penstock.planner.repository import Variant
from penstock.planner.shapes import Architecture, PlanError

CONTEXT_WANTED = 32768
"""Where several sequences of it fit: longer prompts are rare, and each token of room is taken from other sequences."""

SEQUENCES_WANTED = 4
CONTEXT_SHORT = 4096
"""Rather than a shorter one, a model that can be is quantized."""

CONTEXTS = (32768, 16384, 8192, 4096, 2048, 1024, 512)

ON_LOAD = ("fp8", "bnb-int4")
"""What vLLM quantizes to while it loads, the better first."""

PREFERRED = (
    *(
        "Q4_K_M",
        "Q4_K_L",
        "Q4_K_S",
        "IQ4_XS",
        "IQ4_NL",
        "Q4_0",
        "Q4_1",
        "MXFP4",
        "MXFP4_MOE",
        "Q5_K_M",
        "Q5_K_S",
    ),
    *(
        "Q3_K_L",
        "Q3_K_M",
        "IQ3_M",
        "Q6_K",
        "Q3_K_S",
        "IQ3_XS",
        "IQ3_XXS",
        "Q8_0",
        "Q2_K",
        "IQ2_M",
        "BF16",
        "F16",
        "F32",
    ),
)
"""GGUF quantizations: on a CPU speed goes with size, and below four bits quality is lost fast."""

TRIED_MAX = 4
"""Variants of which a header is read."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What to serve it with.

    Args:
        args: `engine_args` of the model.
        weights: how they are stored and where they lie, as a phrase.
        context: what of it fits, as a phrase.
    """

    args: dict[str, Value]
    weights: str
    context: str


def for_gpus(model: Architecture, gpus: Sequence[Gpu]) -> Chosen:
    """How vLLM can serve it on the GPUs of this machine: as it is stored, or else quantized while it loads.

    Raises:
        PlanError: it can't; says what would do.
    """
    smallest = min(gpus, key=lambda one: one.free_bytes)
    own = own_method(model)
    methods = [own] if model.quantized else [own, *(METHODS[name] for name in ON_LOAD)]
    lengths = list(_contexts(model, CONTEXT_DEFAULT))
    usual = [length for length in lengths if length >= CONTEXT_SHORT] or lengths[:1]
    plans = [
        plan(model, Ask(smallest, len(gpus), method=None if way is own else way, context=length))
        for some in (usual, lengths[len(usual) :])
        for way in methods
        for length in some
    ]
    fitting = next((one for one in plans if one.choice.fits), None)
    if fitting is None:
        raise _too_large(plans[0], f"{len(gpus)} x {smallest.name}")
    found = _longer(fitting)
    room, count = found.choice.room, len(gpus)
    stored = found.choice.method.name
    how = (
        f"{stored}, as stored"
        if found.choice.method.name == plans[0].choice.method.name
        else f"{stored} on loading"
    )
    why = "the fewest that hold it" if room.gpus > 1 or count > 1 else ""
    where = f"{gib(room.weights)} on {'each of ' if room.gpus > 1 else ''}{room.gpus} of {count} x {smallest.name}"
    more = f"; replicas = {found.replicas} would fit" if found.replicas > 1 else ""
    return Chosen(engine_args(found), ", ".join(filter(None, (how, where, why))) + more, _said(found))


def for_memory(model: Architecture, memory: Gpu) -> Chosen:
    """How llama.cpp can serve a GGUF model in a CPU's memory.

    Raises:
        PlanError: it can't; says what would do.
    """
    plans = [plan(model, Ask(memory, 1, context=length)) for length in _contexts(model, CONTEXT_DEFAULT)]
    fitting = next((one for one in plans if one.choice.fits), None)
    if fitting is None:
        raise _too_large(plans[-1], memory.name)
    room = fitting.choice.room
    return Chosen(engine_args(fitting), f"{gib(room.weights)} of {memory.name}", _said(fitting))


def pick(
    among: Sequence[Variant], memory: Gpu, describe: Callable[[Variant], Architecture], where: str
) -> tuple[Variant, Chosen]:
    """Which of some GGUF variants to serve in a CPU's memory.

    Args:
        describe: reads the header of one.
        where: the repository or folder, for messages.

    Raises:
        PlanError: none fits, or none can be read.
    """
    small = [one for one in sorted(among, key=_rank) if one.size_bytes < memory.free_bytes]
    failed: PlanError | None = None
    for one in small[:TRIED_MAX]:
        try:
            return one, for_memory(describe(one), memory)
        except PlanError as error:
            failed = failed or error
    if failed is not None:
        raise failed
    least = min(among, key=lambda one: one.size_bytes)
    raise PlanError(
        f"{where}: the smallest of its {len(among)} variants takes {gib(least.size_bytes)}, and "
        f"{gib(memory.free_bytes)} of {memory.name} are free",
        code="model_too_large",
        hint="free some memory, or name a smaller model",
    )


def _rank(one: Variant) -> tuple[int, int]:
    known = one.quantization in PREFERRED
    return (PREFERRED.index(one.quantization) if known else len(PREFERRED), one.size_bytes)


def _contexts(model: Architecture, most: int) -> Iterator[int]:
    """Lengths to try, from the longest."""
    longest = min(most, model.context_max or most)
    yield longest
    yield from (one for one in CONTEXTS if one < longest)


def _longer(found: Plan) -> Plan:
    """The same plan with a longer context, if enough sequences of it still fit."""
    size = found.choice.room.gpus
    for length in _contexts(found.model, CONTEXT_WANTED):
        if length <= found.choice.terms.context:
            break
        longer = plan(found.model, replace(found.ask, context=length, tensor_parallel=size))
        if longer.choice.fits and longer.choice.room.sequences >= SEQUENCES_WANTED:
            return replace(longer, replicas=found.replicas)
    return found


def _said(found: Plan) -> str:
    room, terms = found.choice.room, found.choice.terms
    count = min(terms.sequences, room.sequences)
    trained = f" of {found.model.context_max} that it was trained for" if found.model.context_max else ""
    return (
        f"{terms.context} tokens{trained}; {count} sequence{'s' * (count != 1)} at once, of {room.sequences} "
        f"that {gib(room.kv)} of KV cache hold"
    )


def _too_large(found: Plan, there: str) -> PlanError:
    needed = f"{found.needed} x {found.ask.gpu.name} would do; " if found.needed else ""
    return PlanError(
        f"it does not fit into {there}: {found.choice.why}",
        code="model_too_large",
        hint=f"{needed}name a smaller or a quantized model; penstock plan shows the numbers",
    )
