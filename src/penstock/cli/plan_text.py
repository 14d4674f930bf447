"""A plan as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from penstock.cli.terminal import table
from penstock.engines.model_files import Description
from penstock.planner.cost import Cost
from penstock.planner.flags import engine_args
from penstock.planner.hardware import GIB, Gpu
from penstock.planner.plan import Choice, Plan, gib
from penstock.planner.room import Room, visible_bytes
from penstock.planner.shapes import Architecture

KIB = 1024
Surveyed = Sequence[tuple[Gpu, int, Choice]]


def plan_text(described: Description, plan: Plan, costs: Sequence[Cost] = ()) -> str:
    """The plan for people."""
    parts = [
        "\n".join(_model_lines(described)),
        _verdict(plan),
        _memory(plan),
        _lengths(plan),
        _costs(plan, costs),
        _choices(plan),
        _settings(plan),
        "\n".join(f"note: {note}" for note in (*_held_notes(described), *plan.notes)),
    ]
    return "\n\n".join(filter(None, parts))


def survey_text(described: Description, rows: Surveyed) -> str:
    """Which GPUs would do, for people."""
    header = ("GPU", "GPUS", "WEIGHTS", "WEIGHTS/GPU", "KV/GPU", "TOKENS", "SEQUENCES")
    cells = [(gpu.name, str(count), *_choice_cells(choice)) for gpu, count, choice in rows]
    found = table(header, cells) if rows else "None of the surveyed GPUs would do, in any number."
    asked = f"The fewest GPUs that do, for sequences of {rows[0][2].room.context} tokens:" if rows else ""
    notes = "\n".join(f"note: {note}" for note in (*_held_notes(described), *described.architecture.notes))
    return "\n\n".join(filter(None, ("\n".join(_model_lines(described)), asked, found, notes)))


def plan_json(described: Description, plan: Plan, costs: Sequence[Cost] = ()) -> dict[str, Any]:
    """The plan for programs: sizes in bytes, of each GPU."""
    return {
        "model": _model_json(described),
        "gpu": {
            "name": plan.ask.gpu.name,
            "count": plan.ask.count,
            "memory_bytes": plan.ask.gpu.memory_bytes,
        },
        "context": plan.choice.terms.context,
        "utilization": plan.choice.terms.utilization,
        "fits": plan.choice.fits,
        "why": plan.choice.why,
        "replicas": plan.replicas,
        "gpus_needed": plan.choice.room.gpus if plan.choice.fits else plan.needed,
        "plan": _choice_json(plan.choice),
        "sequences_by_length": dict(plan.lengths),
        "choices": [_choice_json(choice) for choice in plan.choices],
        "costs_estimate": [
            {
                "sequences": one.sequences,
                "tokens_per_s_at_most": round(one.tokens_per_s, 1),
                "usd_per_million_tokens_at_least": round(one.usd_per_million, 4),
            }
            for one in costs
        ],
        "engine": plan.choice.method.engine,
        "engine_args": engine_args(plan) if plan.choice.fits else {},
        "notes": [*_held_notes(described), *plan.notes],
    }


def survey_json(described: Description, rows: Surveyed) -> dict[str, Any]:
    """Which GPUs would do, for programs."""
    return {
        "model": _model_json(described),
        "gpus": [{"gpu": gpu.name, "count": count, **_choice_json(choice)} for gpu, count, choice in rows],
        "notes": [*_held_notes(described), *described.architecture.notes],
    }


def _model_lines(described: Description) -> Iterator[str]:
    model = described.architecture
    stored = model.quantized or model.dtype or "of a type that its configuration does not say"
    yield f"{described.name}: {model.family}, {model.parameters:,} parameters, {stored}"
    if model.active_parameters != model.parameters:
        yield f"  of which a token is computed with {model.active_parameters:,}"
    if model.tied:
        yield "  the embedding is the output head, and counted once"
    yield f"  KV cache: {_kv_said(model)} at 16 bits"
    if model.context_max:
        yield f"  trained for {model.context_max} tokens"


def _kv_said(model: Architecture) -> str:
    each = _token_bytes(model)
    windows = [one for one in model.kv if one.window_tokens]
    said = f"{each / KIB:g} KiB a token"
    if windows:
        far, layers = max(one.window_tokens or 0 for one in windows), sum(one.layers for one in windows)
        grows = 2 * sum(one.layers * one.heads * one.width for one in model.kv if not one.window_tokens)
        said += f", {grows / KIB:g} KiB beyond a window of {far} that {layers} of {model.layers} layers have,"
    if model.states:
        said += f", beside a state of fixed size in {sum(one.layers for one in model.states)} layers,"
    return said


def _token_bytes(model: Architecture) -> int:
    return 2 * sum(one.layers * one.heads * one.width for one in model.kv)


def _verdict(plan: Plan) -> str:
    ask, choice = plan.ask, plan.choice
    length = choice.terms.context
    there = ask.gpu.name if ask.gpu.ram else f"{ask.count} x {ask.gpu.name}"
    asked = f"{there}, weights as {choice.method.name}, sequences of {length} tokens"
    if choice.fits:
        size = choice.room.gpus
        gpus = "" if ask.gpu.ram else " on 1 GPU" if size == 1 else f" on {size} GPUs together"
        more = f"; {plan.replicas} replicas" if plan.replicas > 1 else ""
        return f"{asked}: it fits{gpus}{more}."
    if ask.gpu.ram:
        return f"{asked}: it does not fit.\n{choice.why[:1].upper()}{choice.why[1:]}; {_would_do(choice)} would do."
    cure = f"{plan.needed} x {ask.gpu.name} would do" if plan.needed else "no number of these GPUs would do"
    return f"{asked}: it does not fit.\n{choice.why[:1].upper()}{choice.why[1:]}; {cure}."


def _would_do(choice: Choice) -> str:
    """The RAM that one sequence needs."""
    room = choice.room
    needed = (room.weights + room.activations + room.runtime + room.sequence) / choice.terms.utilization
    return f"{gib(round(needed))} of free RAM"


def _costs(plan: Plan, costs: Sequence[Cost]) -> str:
    if not costs:
        return ""
    rows = [
        (f"{one.sequences:,}", f"{one.tokens_per_s:,.0f}", f"{one.usd_per_million:,.2f}") for one in costs
    ]
    header = ("SEQUENCES AT ONCE", "TOKENS/S AT MOST", "USD PER MILLION AT LEAST")
    half = max(1, plan.choice.terms.context // 2)
    return (
        f"{table(header, rows)}\nAn estimate: generated tokens, sequences of {half} tokens, by the speed of memory "
        "alone; engines reach a half to four fifths of it."
    )


def _memory(plan: Plan) -> str:
    room = plan.choice.room
    rows = [
        ("memory", gib(plan.ask.gpu.memory_bytes), ""),
        (
            "usable",
            gib(room.budget),
            f"{plan.choice.terms.utilization:g} of {gib(visible_bytes(plan.ask.gpu))}",
        ),
        ("weights", gib(room.weights), ""),
        ("activations", gib(room.activations), f"estimate, {plan.choice.terms.batch_tokens} tokens a step"),
        ("CUDA graphs", gib(room.graphs), "estimate"),
        ("runtime", gib(room.runtime), "estimate"),
        (
            "KV cache",
            gib(room.kv),
            _held(room),
        ),
    ]
    header = "RAM" if plan.ask.gpu.ram else "EACH GPU"
    return table((header, "", ""), [row for row in rows if row[0] != "CUDA graphs" or room.graphs])


def _held(room: Room) -> str:
    if room.kv <= 0:
        return ""
    return f"{room.tokens:,} tokens; {room.sequences:,} sequence{'s' * (room.sequences != 1)} of {room.context:,}"


def _lengths(plan: Plan) -> str:
    if not plan.lengths:
        return ""
    return table(("TOKENS", "SEQUENCES AT ONCE"), [(f"{one:,}", f"{many:,}") for one, many in plan.lengths])


def _choices(plan: Plan) -> str:
    header = ("WEIGHTS", "GPUS", "WEIGHTS/GPU", "KV/GPU", "TOKENS", "SEQUENCES", "")
    rows = []
    for choice in plan.choices:
        name, *cells = _choice_cells(choice)
        rows.append((name, str(choice.room.gpus), *cells, choice.why))
    return table(header, rows)


def _choice_cells(choice: Choice) -> tuple[str, ...]:
    room = choice.room
    left = gib(room.kv) if room.kv > 0 else "-"
    return (choice.method.name, gib(room.weights), left, f"{room.tokens:,}", f"{room.sequences:,}")


def _settings(plan: Plan) -> str:
    if not plan.choice.fits:
        return ""
    args = engine_args(plan)
    members = ", ".join(f"{name} = {json.dumps(value)}" for name, value in args.items())
    lines = ["Set in penstock.toml:", f"  engine_args = {{ {members} }}"]
    if plan.choice.method.engine == "vllm":
        words = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in args.items())
        lines += ["or, for vLLM alone:", f"  {words}"]
    return "\n".join(lines)


def _held_notes(described: Description) -> Iterator[str]:
    """What safetensors files beside the configuration say of it."""
    held, model = described.held, described.architecture
    if described.note:
        yield described.note
    if held is None:
        return
    if not held.plain or model.quantized:
        yield f"the safetensors files hold {held.size_bytes / GIB:.2f} GiB"
    elif held.total == model.parameters:
        yield f"the safetensors files hold the same {held.total:,} parameters"
    else:
        yield (
            f"the safetensors files hold {held.total:,} parameters, not the {model.parameters:,} that config.json "
            "describes; a head that is stored beside the embedding that it is counts twice there"
        )


def _model_json(described: Description) -> dict[str, Any]:
    model, held = described.architecture, described.held
    return {
        "name": described.name,
        "family": model.family,
        "parameters": model.parameters,
        "active_parameters": model.active_parameters,
        "tied": model.tied,
        "dtype": model.dtype,
        "quantized": model.quantized,
        "layers": model.layers,
        "attention_heads": model.heads,
        "kv_heads": model.kv_heads,
        "context_max": model.context_max,
        "kv_bytes_per_token": _token_bytes(model),
        "held_bytes": held.size_bytes if held else None,
    }


def _choice_json(choice: Choice) -> dict[str, Any]:
    room = choice.room
    return {
        "quantization": choice.method.name,
        "gpus": room.gpus,
        "fits": choice.fits,
        "why": choice.why,
        "budget_bytes": room.budget,
        "weights_bytes": room.weights,
        "activations_bytes_estimate": room.activations,
        "graphs_bytes_estimate": room.graphs,
        "runtime_bytes_estimate": room.runtime,
        "kv_cache_bytes": max(0, room.kv),
        "kv_bytes_per_token": room.token,
        "kv_bytes_per_sequence": room.sequence,
        "tokens": room.tokens,
        "sequences": room.sequences,
    }
