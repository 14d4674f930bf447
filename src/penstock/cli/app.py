"""The command `penstock`: its commands by name, and how errors end it.

A command's module is imported only when its name is on the command line, or when all are to be listed.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from penstock import __version__
from penstock.cli.loading import begin
from penstock.cli.terminal import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, complain, epilog, out, say
from penstock.core.errors import PenstockError

COMMANDS = (
    *("up", "gateway", "engine", "exporter"),
    *("plan", "pull", "doctor"),
    *("keys", "status", "top", "usage", "logs", "metrics"),
    *("drain", "undrain", "restart", "reload", "stop"),
    *("sim", "bench", "render", "clickhouse"),
)
VERSION_OPTION = "--version"
USAGE_CODES = frozenset({"usage", "invalid_configuration", "models_unusable"})
# What a disk or its owner refuses is no bug, wherever it comes to light.
REFUSALS = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
HELP_NAMES = {"help_option_names": ["-h", "--help"]}


def command_line(arguments: Sequence[str]) -> typer.Typer:
    """The command line, with the commands that `arguments` can mean."""
    app = typer.Typer(
        name="penstock",
        help="Serve open-weight language models: engines, an OpenAI-compatible gateway, metrics.",
        epilog=epilog("penstock up", "penstock --config rack.toml up", "penstock keys create --name laptop"),
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings=HELP_NAMES,
    )
    app.callback(invoke_without_command=True)(penstock)
    named = [name for name in COMMANDS if name in arguments]
    for name in named or (() if VERSION_OPTION in arguments else COMMANDS):
        import_module(f"penstock.cli.{name}").register(app)
    return app


def penstock(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            help="Configuration file; else PENSTOCK_CONFIG, else penstock.toml here, else the demo.",
        ),
    ] = None,
    version: Annotated[bool, typer.Option(VERSION_OPTION, help="Print the version and exit.")] = False,
) -> None:
    """What holds for every command."""
    if version:
        out(f"penstock {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        out(context.get_help())
        raise typer.Exit(EXIT_USAGE)
    context.obj = begin(config)


def run(arguments: Sequence[str]) -> int:
    """The exit code of the command line `arguments`, without the program's name."""
    try:
        code = command_line(arguments)(list(arguments), prog_name="penstock", standalone_mode=False)
    except PenstockError as error:
        complain(error)
        return EXIT_USAGE if error.code in USAGE_CODES else EXIT_FAILED
    except OSError as error:
        if error.errno not in REFUSALS or error.filename is None:
            raise
        complain(PenstockError(f"{error.filename}: {str(error.strerror).lower()}", hint="name another place"))
        return EXIT_FAILED
    except TyperException as error:
        say(f"error: {error.format_message()}")
        context = getattr(error, "ctx", None)
        say(f"hint: {context.command_path if context else 'penstock'} --help")
        return EXIT_USAGE
    except (typer.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    return code if isinstance(code, int) else 0
