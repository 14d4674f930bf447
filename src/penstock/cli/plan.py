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
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Prints it, and ends with an exit code that says it."""
    from penstock.engines.model_files import describe
    from penstock.planner.plan import Ask
    from penstock.planner.quantization import method

    if gpu and detect:
        raise UsageError("--gpu and --detect: name GPUs, or take those of this machine")
    if kv_cache not in KV_CACHE_TYPES:
        raise UsageError(f"--kv-cache: expected {' or '.join(KV_CACHE_TYPES)}, found {kv_cache!r}")
    if tensor_parallel and not (gpu or detect):
        raise UsageError("--tensor-parallel: has no effect without --gpu or --detect")
    chosen = method(quantization) if quantization and quantization.lower() != "none" else None
    ask = Ask(
        *_gpus(invocation(context), gpu, detect=detect),
        context=length,
        concurrency=concurrency,
        method=chosen,
        small_kv=kv_cache == "fp8",
        utilization=utilization,
        tensor_parallel=tensor_parallel,
    )
    described = describe(model, revision=revision)
    raise typer.Exit(
        _planned(described, ask, as_json) if gpu or detect else _surveyed(described, ask, as_json)
    )


def _planned(described: Description, ask: Ask, as_json: bool) -> int:
    from penstock.cli.plan_text import plan_json, plan_text
    from penstock.planner.plan import plan as made

    found = made(described.architecture, ask)
    out(json.dumps(plan_json(described, found)) if as_json else plan_text(described, found))
    return EXIT_FITS if found.choice.fits else EXIT_DOES_NOT_FIT


def _surveyed(described: Description, ask: Ask, as_json: bool) -> int:
    from penstock.cli.plan_text import survey_json, survey_text
    from penstock.planner.survey import survey

    rows = list(survey(described.architecture, ask))
    out(json.dumps(survey_json(described, rows)) if as_json else survey_text(described, rows))
    return EXIT_FITS if rows else EXIT_DOES_NOT_FIT


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
