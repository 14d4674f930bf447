"""`penstock bench`: load tests whose numbers can be stood behind."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from penstock.cli import bench_matrix, bench_run
from penstock.cli.bench_session import CODES, command
from penstock.cli.options import with_options
from penstock.cli.terminal import EXIT_USAGE, complain, epilog, out
from penstock.core.errors import PenstockError

EXAMPLES = (
    "penstock bench run --concurrency 32 --duration 60s",
    "penstock bench run http://127.0.0.1:8000 --rate 10 --mix short=0.7,long=0.3 --output report",
    "penstock bench search http://127.0.0.1:8000 --slo ttft=500ms,tpot=50ms",
    "penstock bench --define ttft",
)


def register(app: typer.Typer) -> None:
    """Adds the group of commands."""
    group = typer.Typer(
        help="Load tests whose numbers can be stood behind, of any OpenAI-compatible server.",
        epilog=epilog(*EXAMPLES, codes=CODES),
        rich_markup_mode=None,
    )
    group.callback(invoke_without_command=True)(_group)
    for one in (*bench_run.COMMANDS, *bench_matrix.COMMANDS):
        left_out = one.leave_out | {
            "metrics_keys"
        }  # keys are read from this home, and never from a command line
        made = with_options(one.options, command(one.act), leave_out=left_out, positional=one.positional)
        group.command(one.name, help=one.help, epilog=epilog(*one.examples, codes=CODES))(made)
    app.add_typer(group, name="bench")


def _group(
    context: typer.Context,
    define: Annotated[
        str,
        typer.Option("--define", help="Print what a measure is, and what other tools call it; such as ttft."),
    ] = "",
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of summary.json.")] = False,
) -> None:
    """Prints a definition or the schema, or the help where there is no command."""
    if context.invoked_subcommand is not None:
        return
    if schema:
        from penstock.bench.analysis import result

        out(json.dumps(result.schema(), indent=1))
        return
    if not define:
        out(context.get_help())
        raise typer.Exit(EXIT_USAGE)
    from penstock.bench.analysis.definitions import define as definition

    try:
        out(definition(define))
    except PenstockError as error:
        complain(error)
        raise typer.Exit(EXIT_USAGE) from None
