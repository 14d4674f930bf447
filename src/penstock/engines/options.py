"""`engine_args` as words of a command line, and the nearest known name of one that is not known."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterator, Mapping


def words(args: Mapping[str, object], switches: Collection[str] = ()) -> Iterator[str]:
    """The words for an argument parser of Python: true is `--name`, false `--no-name`; a table is JSON; a list is
    several words behind one name.

    Args:
        switches: names that have no `--no-` form; false leaves them out.
    """
    for name, value in args.items():
        flag = name.replace("_", "-")
        if value is True:
            yield f"--{flag}"
        elif value is False:
            if name not in switches:
                yield f"--no-{flag}"
        elif isinstance(value, list | tuple):
            yield f"--{flag}"
            yield from map(_text, value)
        elif (text := _text(value)).startswith("-"):
            yield f"--{flag}={text}"  # or it would be taken for an option
        else:
            yield from (f"--{flag}", text)


def nearest(name: str, known: Collection[str]) -> str:
    """`did you mean X?` with the nearest of `known`, or nothing where none is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def own_mistakes(args: Mapping[str, object], own: Mapping[str, str]) -> Iterator[str]:
    """A complaint for each argument that is not for the owner to set; `own` says why."""
    for name in args:
        if name in own:
            yield f"engine_args.{name}: not for you to set: {own[name]}"


def _text(value: object) -> str:
    return json.dumps(value) if isinstance(value, dict | list | bool) else str(value)
