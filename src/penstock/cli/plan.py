"""`penstock plan`: does a model fit, on what, with how much room, and which flags."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.loading import Invocation, invocation
from penstock.cli.terminal import UsageError, epilog, out, say

if TYPE_CHECKING:
    from penstock.engines.model_files import Description
    from penstock.planner.hardware import Gpu
    from penstock.planner.plan import Ask

EXIT_FITS = 0
EXIT_DOES_NOT_FIT = 3
CODES = "Exit codes: 0 it fits, 1 it can't be planned, 2 wrong usage, 3 it does not fit"
CONTEXT_MAX = 100_000_000
KV_CACHE_TYPES = ("auto", "fp8")
RAM_BYTES_MAX = 64 * 2**40


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        "plan",
        help="Say whether a model fits: its weights and KV cache on each GPU, how many sequences run at once, the "
        "fewest GPUs that do, and what to set. MODEL is a folder with a config.json, a .gguf file, demo, or a name of "
        "the Hugging Face Hub; no weights are read. Without --gpu or --detect it says which GPUs would do.",
        epilog=epilog(
            "penstock plan meta-llama/Llama-3.1-70B-Instruct --gpu 2xA6000 --quantization awq",
            "penstock plan models/qwen3-8b --detect --context 32768 --concurrency 16",
            "penstock plan models/llama-3.2-3b-q4_k_m.gguf --gpu 'RTX 3060' --json",
            "penstock plan bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M --ram detect",
            "penstock plan Qwen/Qwen3-8B --gpu L40S --price-per-gpu-hour 1.80",
            codes=CODES,
        ),
    )(plan)


def plan(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder, .gguf file, demo, or owner/model.")],
    gpu: Annotated[
        str | None, typer.Option("--gpu", help="GPUs there are, as 2xA6000 or 'RTX 4090'.")
    ] = None,
    detect: Annotated[bool, typer.Option("--detect", help="Take the GPUs of this machine.")] = False,
    length: Annotated[
        int | None,
        typer.Option("--context", min=1, max=CONTEXT_MAX, help="Tokens of a sequence, prompt and answer."),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Sequences of that length that must fit at once.")
    ] = None,
    quantization: Annotated[
        str | None, typer.Option(help="How weights are stored: bf16, fp8, int8, awq, gptq, q4_k_m...")
    ] = None,
    tensor_parallel: Annotated[
        int | None, typer.Option(min=1, max=1024, help="GPUs that share a replica; else the fewest that do.")
    ] = None,
    kv_cache: Annotated[str, typer.Option(help="Type of the KV cache: auto or fp8.")] = "auto",
    utilization: Annotated[
        float, typer.Option(min=0.05, max=1.0, help="Part of a GPU's memory that the engine may take.")
    ] = 0.92,
    ram: Annotated[
        str | None,
        typer.Option(
            help="Plan for llama.cpp on a CPU with so much memory, as 16GiB; detect: this machine's."
        ),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(
            "--price-per-gpu-hour",
            min=0.0001,
            max=10_000,
            help="USD; adds what a million tokens cost at least.",
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Prints it, and ends with an exit code that says it."""
    from penstock.engines.model_files import describe
    from penstock.planner.plan import Ask
    from penstock.planner.quantization import method

    if sum(map(bool, (gpu, detect, ram))) > 1:
        raise UsageError(
            "--gpu, --detect and --ram: name GPUs, take those of this machine, or plan for a CPU"
        )
    if kv_cache not in KV_CACHE_TYPES:
        raise UsageError(f"--kv-cache: expected {' or '.join(KV_CACHE_TYPES)}, found {kv_cache!r}")
    for option, value in (("--tensor-parallel", tensor_parallel), ("--price-per-gpu-hour", price)):
        if value and not (gpu or detect):
            raise UsageError(f"{option}: has no effect without --gpu or --detect")
    chosen = method(quantization) if quantization and quantization.lower() != "none" else None
    ask = Ask(
        *(_memory(ram) if ram else _gpus(invocation(context), gpu, detect=detect)),
        context=length,
        concurrency=concurrency,
        method=chosen,
        small_kv=kv_cache == "fp8",
        utilization=utilization,
        tensor_parallel=tensor_parallel,
    )
    described = describe(model, revision=revision)
    if gpu or detect or ram:
        raise typer.Exit(_planned(described, ask, price, as_json))
    raise typer.Exit(_surveyed(described, ask, as_json))


def _planned(described: Description, ask: Ask, price: float | None, as_json: bool) -> int:
    from penstock.cli.plan_text import plan_json, plan_text
    from penstock.planner.cost import costs
    from penstock.planner.plan import plan as made

    found = made(described.architecture, ask)
    cost = costs(found, price) if price else ()
    out(json.dumps(plan_json(described, found, cost)) if as_json else plan_text(described, found, cost))
    if price and found.choice.fits and not cost:
        say(
            f"warning: the speed of the {ask.gpu.name}'s memory is not known here, so neither is a price of tokens"
        )
    return EXIT_FITS if found.choice.fits else EXIT_DOES_NOT_FIT


def _surveyed(described: Description, ask: Ask, as_json: bool) -> int:
    from penstock.cli.plan_text import survey_json, survey_text
    from penstock.planner.survey import survey

    rows = list(survey(described.architecture, ask))
    out(json.dumps(survey_json(described, rows)) if as_json else survey_text(described, rows))
    return EXIT_FITS if rows else EXIT_DOES_NOT_FIT


def _memory(text: str) -> tuple[Gpu, int]:
    """The memory of a CPU."""
    from penstock.core.units import parse_size_bytes
    from penstock.planner.hardware import GIB, main_memory

    if text == "detect":
        from penstock.supervisor.machine import main_memory_here

        return main_memory_here(), 1
    try:
        size = parse_size_bytes(text)
    except (ValueError, OverflowError):
        size = 0
    if not GIB // 4 <= size <= RAM_BYTES_MAX:
        raise UsageError(f"--ram: expected detect, or a size from 256MiB to 64TiB, found {text[:40]!r}")
    return main_memory(size), 1


def _gpus(here: Invocation, named: str | None, *, detect: bool) -> tuple[Gpu, int]:
    """The kind of GPU there is, and how many; any where none is asked for."""
    from penstock.planner.hardware import GPUS, parse_gpus

    if detect:
        from penstock.telemetry.gpu import detect as detected

        found = detected(here.environ)
        if len({one.name for one in found}) > 1:
            say(f"warning: GPUs differ; planned as if all {len(found)} were the smallest")
        least = min(found, key=lambda one: one.free_bytes)
        return least, len(found)
    if named:
        count, gpu = parse_gpus(named)
        return gpu, count
    return GPUS[0], 1
