"""What a reader is told about a mistake in the configuration: one line with its place, never a secret.

A value is shown only where it can't be one: API keys, engine options and unparsed texts stay hidden.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel

from penstock.core.config import Address, Config, keys_of, section_of
from penstock.core.errors import PenstockError

KeyPath = tuple[str | int, ...]

_HIDDEN_KEYS = frozenset(
    {
        *("admin_key", "api_key", "api_keys", "engine_args", "headers", "page_webhook", "password", "redis"),
        *("ticket_webhook", "user"),
    }
)
_SHOWN_CHARS_MAX = 60
_NAMES_SHOWN_MAX = 12
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TYPE_WORDS = {
    "bool": "true or false",
    "dict": "a table",
    "float": "a number",
    "int": "a number",
    "list": "a list",
    "NoneType": "nothing",
    "str": "text",
}
_EXPECTED: dict[str, str] = {
    "dict_type": "a table",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "model_type": "a table",
    "string_pattern_mismatch": "a name of lower-case letters, digits and underscores",
    "string_type": "text",
    "string_unicode": "text that is Unicode",
    "too_long": "at most {max_length} entries",
    "tuple_type": "a list",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in the configuration, printed as one line.

    Args:
        path: the key, as `models.0.timeouts.stall`; empty where the text itself can't be read.
        found: what stands there; never a secret.
        expected: what should stand there; empty when nothing should.
        hint: the nearest known name; empty when none is near.
        origin: the file or variable that it comes from.
    """

    path: str
    found: str
    expected: str = ""
    hint: str = ""
    origin: str = ""

    def __str__(self) -> str:
        """One line such as `log.levl: unknown key; did you mean log.level? (penstock.toml)`."""
        place = f"{self.path}: " if self.path else ""
        found = f"expected {self.expected}, found {self.found}" if self.expected else self.found
        hint = f"; did you mean {self.hint}?" if self.hint else ""
        origin = f" ({self.origin})" if self.origin else ""
        return f"{place}{found}{hint}{origin}"


class ConfigError(PenstockError):
    """The configuration has mistakes; `problems` lists every one of them."""

    code = "invalid_configuration"

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__(
            "\n".join(str(problem) for problem in problems),
            hint="docs/reference/config.md and penstock.example.toml list every key",
        )
        self.problems = problems


def dotted(path: KeyPath) -> str:
    """A path as text; a key that is not a plain word is quoted."""
    return ".".join(
        str(part) if isinstance(part, int) or _BARE_KEY.fullmatch(part) else json.dumps(part[:64])
        for part in path
    )


def printable(name: str) -> str:
    """A name from outside as one short line."""
    return name[:128] if name.isprintable() else ascii(name[:128])


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that is most like `word`, or an empty string when none is near."""
    return next(iter(get_close_matches(word[:128], list(known), n=1)), "")


def shown(value: object, path: KeyPath) -> str:
    """A value as a mistake may show it: short, on one line, and only its type where it could be a secret."""
    if isinstance(value, Address):
        return str(value)
    is_plain = isinstance(value, str | int | float) and not (isinstance(value, str) and "@" in value)
    if not is_plain or not _HIDDEN_KEYS.isdisjoint(path):
        return _TYPE_WORDS.get(type(value).__name__, type(value).__name__)
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str | float) else str(value).lower()
    safe = text if text.isprintable() else ascii(value)
    return safe if len(safe) <= _SHOWN_CHARS_MAX else safe[:_SHOWN_CHARS_MAX] + "..."


def problems_of(error: Mapping[str, Any], origin_of: Callable[[KeyPath], str]) -> list[Problem]:
    """The problems that one entry of pydantic's `errors()` stands for."""
    path: KeyPath = tuple(part for part in error["loc"] if part != "[key]")
    kind, value = error["type"], error["input"]
    if kind == "repeated":
        return repeated_problems(path, error["ctx"]["mistakes"], origin_of)
    if kind == "unknown_model":
        return [
            _unknown_model(path + below, name, known, origin_of)
            for below, name, known in error["ctx"]["mistakes"]
        ]
    if kind == "extra_forbidden":
        return [_unknown_key(path, origin_of(path))]
    if kind == "missing":
        return [Problem(dotted(path), "missing", origin=origin_of(path))]
    hint = nearest(value, _choices(error)) if kind == "literal_error" and isinstance(value, str) else ""
    found = "nothing" if value == "" else shown(value, path)
    return [Problem(dotted(path), found, _expected(error), f'"{hint}"' if hint else "", origin_of(path))]


def repeated_problems(
    path: KeyPath, mistakes: Iterable[tuple[KeyPath, str, str]], origin_of: Callable[[KeyPath], str]
) -> list[Problem]:
    """The problems that the result of `repeated_names` for the list at `path` stands for."""
    return [
        Problem(
            dotted(path + below),
            shown(name, path),
            f"a name other than that of {dotted(path)}.{first_use}",
            origin=origin_of(path + below),
        )
        for below, name, first_use in mistakes
    ]


def _unknown_model(
    path: KeyPath, name: str, known: tuple[str, ...], origin_of: Callable[[KeyPath], str]
) -> Problem:
    names = ", ".join(known[:_NAMES_SHOWN_MAX]) or "no other is configured"
    return Problem(
        dotted(path),
        shown(name, path),
        f"the name of a model ({names})",
        nearest(name, known),
        origin_of(path),
    )


def _expected(error: Mapping[str, Any]) -> str:
    context = error.get("ctx", {})
    if "error" in context:
        return str(context["error"]).removeprefix("expected ")
    template = _EXPECTED.get(error["type"])
    return error["msg"] if template is None else template.format_map(context)


def _choices(error: Mapping[str, Any]) -> list[str]:
    return re.findall(r"'([^']*)'", error["ctx"]["expected"])


def _unknown_key(path: KeyPath, origin: str) -> Problem:
    siblings = list(keys_of(_section_at(path[:-1])))
    word = str(path[-1])
    here = nearest(word, siblings)
    hint = dotted((*path[:-1], here)) if here else _elsewhere(word)
    names = "" if hint else f", not one of {', '.join(siblings[:_NAMES_SHOWN_MAX])}"
    return Problem(dotted(path), f"unknown key{names}", hint=hint, origin=origin)


def _section_at(path: KeyPath) -> type[BaseModel]:
    section: type[BaseModel] = Config
    for part in path:
        if isinstance(part, str):
            section = section_of(keys_of(section)[part])[0] or section
    return section


def _elsewhere(word: str) -> str:
    """The path of a key of another section that is spelled exactly so, or an empty string."""
    for name, field in keys_of(Config).items():
        section, is_list = section_of(field)
        if section is not None and word in keys_of(section):
            return f"{name}.0.{word}" if is_list else f"{name}.{word}"
    return ""
