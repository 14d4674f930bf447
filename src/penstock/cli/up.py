"""`penstock up`: engines and gateway under one supervisor, until Ctrl-C."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from typing import Annotated

import typer

from penstock.cli.loading import Invocation, invocation
from penstock.cli.terminal import EXIT_INTERRUPTED, EXIT_OK, UsageError, epilog, out, say

CODES = (
    "Exit codes: 0 stopped when asked to, 1 could not start or go on, 2 wrong usage or configuration, "
    "130 Ctrl-C before it was ready, or twice"
)
MODELS_VARIABLE = "PENSTOCK_MODELS"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        "up",
        help="Start every engine of the configuration and the gateway, and keep them running until Ctrl-C. "
        "Without a configuration this serves the bundled demo model. "
        "Prints the address, and on the first start the API key, once a model really answers. "
        "With --model it serves one model that no configuration names, in the way that suits this machine: it says "
        "which engine, quantization and context it takes and why, and downloads what is missing. "
        "The rest of the configuration holds; one that has models of its own is refused.",
        epilog=epilog(
            "penstock up",
            "penstock --config rack.toml up",
            "penstock up --model Qwen/Qwen3-8B",
            "penstock up --model bartowski/Meta-Llama-3.1-8B-Instruct-GGUF --print-config >> penstock.toml",
            codes=CODES,
        ),
    )(up)


def up(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Option("--model", help="Name on the Hub, folder, .gguf file, or demo.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="Engine for --model: vllm, llamacpp or transformers; else what suits this machine."
        ),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print what --model would be in penstock.toml, and end.")
    ] = False,
) -> None:
    """Runs it, and ends with its exit code."""
    here = invocation(context)
    if model is None and (engine or print_config):
        raise UsageError("--engine and --print-config: have no effect without --model")
    try:
        chosen = here if model is None else _with_model(here, model, engine, print_config=print_config)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    raise typer.Exit(EXIT_OK if chosen is None else _up(chosen))


def _with_model(here: Invocation, model: str, engine: str | None, *, print_config: bool) -> Invocation | None:
    """The same with a configuration that serves `model`, which is here then; None where it was only printed."""
    from penstock.assembly.choosing import Machine, choose, toml
    from penstock.cli.pull import display, hub_for, pulled

    loaded = here.load(quiet=True)
    if loaded.models_given and not print_config:
        names = ", ".join(one.name for one in loaded.config.models)
        raise UsageError(
            f"--model {model[:200]}: the configuration has models of its own ({names}), which it would replace",
            hint=f"add it to them: penstock up --model {model[:200]} --print-config >> penstock.toml; "
            "or name a configuration without models with --config",
        )
    hub = hub_for(here)
    served = choose(model, engine, Machine.here(here.environ), hub, here.environ)
    for line in served.reasons:
        say(line)
    if print_config:
        out(toml(served.entry))
        return None
    if served.wanted:
        pulled(here, served.wanted, hub, display(), verify=False)
    return replace(here, environ={**here.environ, MODELS_VARIABLE: json.dumps([served.entry])})


def _up(here: Invocation) -> int:
    from penstock.assembly.supervision import (
        Session,  # this is where pydantic and the engine client are loaded
    )
    from penstock.cli.banner import banner

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload that comes before there is anything to reload
    loaded = here.load()
    session = Session(loaded, here.load, here.home, here.environ, here.options, say, here.notifier)
    return session.run_all(lambda listen, secret: out(banner(loaded.config, listen, secret)))
