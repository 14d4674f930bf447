"""`penstock render KIND`: files for other programs, made from the configuration.

A kind is a line in `KINDS`: a module beside this one that adds the command of that name to the group.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.terminal import EXIT_USAGE, UsageError, epilog, out

KINDS = ("grafana", "nginx", "prometheus", "systemd")

Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder to write to; else everything is printed.")
]


def register(app: typer.Typer) -> None:
    """Adds the group of commands."""
    group = typer.Typer(
        help="Files for other programs, made from the configuration.",
        epilog=epilog(
            "penstock render systemd --only gateway",
            "penstock -c rack.toml render prometheus -o deploy/prometheus",
        ),
        rich_markup_mode=None,
    )
    group.callback(invoke_without_command=True)(_group)
    for kind in KINDS:
        import_module(f"penstock.cli.render_{kind}").register(group)
    app.add_typer(group, name="render")


def deliver(files: Mapping[str, str], output: Path | None) -> None:
    """Writes the files into the folder `output` and names them; prints them where there is none.

    Raises:
        UsageError: the folder can't be written to.
    """
    if output is None:
        for name, text in files.items():
            out(f"# --- {name}\n{text}" if len(files) > 1 else text.rstrip("\n"))
        return
    for name, text in files.items():
        path = output / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        except OSError as error:
            raise UsageError(
                f"{path} can't be written: {str(error.strerror).lower()}",
                hint="--output names a folder that you can write to",
            ) from error
        out(str(path))


def _group(context: typer.Context) -> None:
    """Prints the help where there is no kind."""
    if context.invoked_subcommand is None:
        out(context.get_help())
        raise typer.Exit(EXIT_USAGE)
