"""What generated tokens cost at least, by the price of a GPU's hour and by how fast its memory can be read.

To generate a token for each of some sequences, a GPU reads every weight that they are computed with once, and the KV
cache of all of them. So no engine is faster than its memory; most reach a half to four fifths of that. Prompts are left
out: they are computed, not read, and cost less a token.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.planner.plan import Plan
from penstock.planner.quantization import Method, weight_bits
from penstock.planner.room import Terms, sequence_bytes
from penstock.planner.shapes import DTYPE_BYTES, Architecture, Role, Weight, share

GB = 10**9
HOUR_S = 3600
MILLION = 10**6


@dataclass(frozen=True, slots=True)
class Cost:
    """What tokens cost where some sequences are generated at once.

    Args:
        sequences: at once on one replica.
        tokens_per_s: of all of them together at most.
        usd_per_million: generated tokens, at least.
    """

    sequences: int
    tokens_per_s: float
    usd_per_million: float


def costs(plan: Plan, usd_per_gpu_hour: float) -> tuple[Cost, ...]:
    """What it costs with one sequence at once, and with as many as fit; nothing where it does not fit, or where the
    memory's speed is not known.

    Args:
        usd_per_gpu_hour: above 0.
    """
    choice, speed = plan.choice, plan.ask.gpu.bandwidth_gb_s * GB
    if not choice.fits or not speed:
        return ()
    gpus = choice.room.gpus
    found = []
    for sequences in sorted({1, choice.terms.sequences}):
        rate = sequences * speed / _read_bytes(plan.model, choice.method, gpus, choice.terms, sequences)
        found.append(Cost(sequences, rate, usd_per_gpu_hour * gpus / HOUR_S / rate * MILLION))
    return tuple(found)


def _read_bytes(model: Architecture, way: Method, gpus: int, terms: Terms, sequences: int) -> float:
    """What each step reads of the fullest GPU's memory, with sequences that are half as long as they may be."""
    plain_bits = way.plain_bits or 8 * min(2, DTYPE_BYTES[model.dtype or "float16"])
    bits = sum(
        weight_bits(weight, way, model, plain_bits)
        * (share(model.layers, gpus) if terms.layered else share(weight.units, gpus))
        * _touched(weight, sequences, model.tied)
        for weight in model.weights
    )
    # By layers, GPUs work one after another, each on its own part.
    turns = gpus if terms.layered else 1
    return turns * (bits / 8 + sequences * sequence_bytes(model, gpus, terms, max(1, terms.context // 2)))


def _touched(weight: Weight, sequences: int, tied: bool) -> float:
    """The part of a weight that a step reads: experts by chance, one row of an embedding for each sequence."""
    if weight.role is Role.EMBEDDING and not tied:
        return 0.0
    if weight.active is None or not weight.count:
        return 1.0
    return 1 - (1 - weight.active / weight.count) ** sequences
