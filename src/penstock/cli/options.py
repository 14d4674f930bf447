"""Commands whose options are the fields of a dataclass: name, type and default from it, help from its docstring."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_type_hints

import typer

_Options = TypeVar("_Options")


def with_options(
    options: type[_Options],
    act: Callable[..., Any],
    *,
    leave_out: Collection[str] = (),
    positional: Sequence[str] = (),
) -> Callable[..., Any]:
    """A function with one keyword for each field, as typer reads them, that calls `act` with the fields by name.

    Args:
        act: called with the typer context, and then a keyword for each field; a field of several has a tuple.
        leave_out: fields that are no options.
        positional: fields that are named by their place, in this order; one without a default must be given.
    """

    def command(context: typer.Context, **values: Any) -> None:
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        act(context, **given)

    types, helps = get_type_hints(options), descriptions(options)
    parameters = [
        inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    ]
    by_name = {field.name: field for field in fields(options)}  # type: ignore[arg-type]  # a dataclass, as said
    for name in dict.fromkeys((*positional, *by_name)):
        field = by_name[name]
        if name in leave_out:
            continue
        several = types[field.name] == tuple[str, ...]
        default: Any = ... if field.default is MISSING else field.default
        default = list(default) if several else default
        parameters.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=_declared(field.name, default, helps.get(field.name, ""), field.name in positional),
                annotation=list[str] if several else types[field.name],
            )
        )
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by inspect
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def descriptions(options: type) -> dict[str, str]:
    """The text of each entry under `Args:`, of a class and of those it extends."""
    found: dict[str, str] = {}
    for of in reversed(options.__mro__):
        _, _, entries = inspect.cleandoc(of.__doc__ or "").partition("Args:\n")
        each = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", entries, re.MULTILINE)
        found |= {name: " ".join(text.split()).replace("`", "") for name, text in each}
    return found


def _declared(name: str, default: Any, help_text: str, positional: bool) -> Any:
    """One option or argument, as typer takes it."""
    shown = not (default in ("", []) or default is None or default is False or default is ...)
    if positional:
        return typer.Argument(default, help=help_text, metavar=name.upper(), show_default=shown)
    metavar = "TEXT" if isinstance(default, list) else None
    # What is off can only be turned on; what is on has an option that turns it off.
    names = [f"--{name.replace('_', '-')}"] if default is False else []
    return typer.Option(default, *names, help=help_text, metavar=metavar, show_default=shown)
