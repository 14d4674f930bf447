"""The options that a program declares, read from its source: nothing of it is imported or run.

`add_argument("--max-model-len", ...)` declares one, and so does a field of a class that its argument parser is made
from. A dash in a name is an underscore here, as in `engine_args`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

SOURCE_BYTES_MAX = 4 * 1024 * 1024
SWITCH = "store_true"


def declared(paths: tuple[Path, ...], classes: str) -> Mapping[str, bool]:
    """The options by name, and of each whether it is a switch that has no `--no-` form.

    Args:
        paths: of source files.
        classes: how the names of the classes end whose fields are options.
    """
    found: dict[str, bool] = {}
    for path in paths:
        tree = _parsed(path, path.stat().st_mtime_ns)
        found |= dict(option for node in ast.walk(tree) for option in _options(node, classes))
    return found


def parameters(path: Path, name: str) -> frozenset[str]:
    """The parameters of the class called `name`, of which typer makes options; none where it is not there."""
    tree = _parsed(path, path.stat().st_mtime_ns)
    classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name)
    makers = (
        one
        for each in classes
        for one in each.body
        if isinstance(one, ast.FunctionDef) and one.name == "__init__"
    )
    return frozenset(
        argument.arg for maker in makers for argument in maker.args.args if argument.arg != "self"
    )


@lru_cache(maxsize=16)  # as many files as there are, some times over; each takes a tenth of a second
def _parsed(path: Path, _changed_ns: int) -> ast.Module:
    """The program in a file; an empty one where it is for a newer Python than this one."""
    with path.open("rb") as file:
        text = file.read(SOURCE_BYTES_MAX)
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return ast.Module(body=[], type_ignores=[])


def _options(node: ast.AST, classes: str) -> Iterator[tuple[str, bool]]:
    if isinstance(node, ast.ClassDef) and node.name.endswith(classes):
        for field in node.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                yield field.target.id, False
    elif (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "add_argument"
    ):
        is_switch = any(
            word.arg == "action" and isinstance(word.value, ast.Constant) and word.value.value == SWITCH
            for word in node.keywords
        )
        for argument in node.args:
            if isinstance(argument, ast.Constant) and str(argument.value).startswith("--"):
                yield str(argument.value)[2:].replace("-", "_"), is_switch
