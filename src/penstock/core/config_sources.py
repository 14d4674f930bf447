"""From texts and variables to one checked `Config`: read each source, lay them over each other, check once.

Lowest to highest: defaults, `penstock.toml`, `.env`, environment; within `.env` and within the environment
the seed names come before the `PENSTOCK_*` names. An empty variable counts as absent. Every mistake of every
source is reported at once, but for those of values while `penstock.toml` can't be read at all.
"""

from __future__ import annotations

import copy
import io
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dotenv.parser import Binding, parse_stream
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from penstock.core.config import DEMO_MODEL, DEMO_SOURCE, Config, keys_of, repeated_names, section_of
from penstock.core.config_problems import (
    ConfigError,
    KeyPath,
    Problem,
    dotted,
    nearest,
    printable,
    problems_of,
    repeated_problems,
)
from penstock.core.config_seeds import SEED_NAMES, Assignment, Layer, comma_separated, read_seeds

__all__ = ["ConfigError", "Loaded", "Problem", "load_config"]

PREFIX = "PENSTOCK_"
RESERVED_NAMES = (
    "PENSTOCK_API_KEY",
    "PENSTOCK_BENCH_API_KEY",
    "PENSTOCK_HOME",
    "PENSTOCK_CONFIG",
    "PENSTOCK_VLLM_VENV",
    "PENSTOCK_SIM_API_KEY",
)
INTERNAL_PREFIX = "PENSTOCK_INTERNAL_"
PASSED_ON_NAMES = ("HF_TOKEN",)

# Kubernetes gives these to every pod beside a service whose name starts with "penstock".
_KUBERNETES_NAME = re.compile(
    r"PENSTOCK_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_\d+_(TCP|UDP|SCTP)(_[A-Z]+)?)?)"
)
_TOML_LINE = re.compile(r"^(.*) \(at line (\d+), column \d+\)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration without mistakes.

    Args:
        config: what the sources say together.
        warnings: what was given but has no effect, one sentence each.
        engine_environ: variables of `.env` to put into the environment of engines, unless they are there.
        models_given: whether any source says something of a model.
    """

    config: Config
    warnings: tuple[str, ...] = ()
    engine_environ: Mapping[str, SecretStr] = field(default_factory=dict)
    models_given: bool = False


def load_config(
    *,
    toml_text: str | None,
    toml_name: str,
    environ: Mapping[str, str],
    dotenv_text: str | None,
    dotenv_name: str,
) -> Loaded:
    """The configuration that all sources together give.

    Args:
        toml_text: the text of `penstock.toml`; None where there is none.
        toml_name: its name, for messages.
        environ: the environment.
        dotenv_text: the text of `.env`; None where there is none.
        dotenv_name: its name, for messages.

    Raises:
        ConfigError: with every mistake of every source.
    """
    table, toml_problems = _read_toml(toml_text or "", toml_name)
    dotenv, dotenv_problems = _read_dotenv(dotenv_text or "", dotenv_name)
    unshadowed = {name: value for name, value in dotenv.items() if not environ.get(name, "").strip()}
    lower = _read_variables(unshadowed, dotenv_name, model_is_given="models" in table)
    model_is_given = "models" in table or any(one.path[:1] == ("models",) for one in lower.assignments)
    upper = _read_variables(environ, "environment", model_is_given=model_is_given)
    problems = [*toml_problems, *dotenv_problems, *lower.problems, *upper.problems]
    if toml_problems:
        raise ConfigError(tuple(problems))
    assignments, idle = _for_engine(table, (*lower.assignments, *upper.assignments))
    merged = _Merged(table, toml_name)
    problems += merged.lay(assignments)
    config, mistakes = _check(merged)
    if config is None or problems:
        raise ConfigError((*problems, *mistakes))
    warnings = (*lower.warnings, *upper.warnings, *_strangers(dotenv, dotenv_name), *idle)
    passed_on = {name: SecretStr(unshadowed[name]) for name in PASSED_ON_NAMES if unshadowed.get(name)}
    models_given = model_is_given or any(one.path[0] == "models" for one in upper.assignments)
    return Loaded(config, warnings, passed_on, models_given)


def variable_of(path: KeyPath) -> str:
    """The environment variable of a key: `PENSTOCK_MODELS__0__NAME`."""
    return PREFIX + "__".join(str(part).upper() for part in path)


def settings(section: type[BaseModel] = Config, below: KeyPath = ()) -> Iterator[tuple[KeyPath, FieldInfo]]:
    """Every key of the schema that holds a plain value, with index 0 in lists."""
    for key, info in keys_of(section).items():
        inner, is_list = section_of(info)
        path = (*below, key, 0) if inner is not None and is_list else (*below, key)
        if inner is None:
            yield path, info
        else:
            yield from settings(inner, path)


def _read_toml(text: str, name: str) -> tuple[dict[str, Any], list[Problem]]:
    try:
        return tomllib.loads(text.removeprefix("\ufeff")), []
    except RecursionError:
        return {}, [Problem("", "values nested too deeply", origin=name)]
    except ValueError as error:
        message = str(error)
    match = _TOML_LINE.match(message)
    found, origin = (match[1], f"{name} line {match[2]}") if match else (message, name)
    return {}, [Problem("", f"not TOML: {found}", origin=origin)]


def _read_dotenv(text: str, name: str) -> tuple[dict[str, str], list[Problem]]:
    values: dict[str, str] = {}
    problems = []
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            origin = f"{name} line {_line_of(binding)}"
            problems.append(Problem("", "a line that is not NAME=value", origin=origin))
        elif binding.key is not None and binding.value is not None:
            values[binding.key] = binding.value
    return values, problems


def _line_of(binding: Binding) -> int:
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")


def _read_variables(values: Mapping[str, str], source: str, *, model_is_given: bool) -> Layer:
    """What one source of variables says: its seed names, then its own names, tables before their keys."""
    seeds = read_seeds(values, source, model_is_given=model_is_given)
    assignments: list[Assignment] = []
    problems: list[Problem] = []
    for name, text in values.items():
        if not text.strip() or not _is_setting(name, text):
            continue
        origin = f"{source} {printable(name)}"
        target = _target_of(name)
        if target is None:
            problems.append(_unknown_variable(name, source))
            continue
        try:
            value = _value_of(text.strip(), *target)
        except ValueError as error:
            problems.append(Problem(dotted(target[0]), "other text", str(error), origin=origin))
        else:
            assignments.append(Assignment(target[0], value, origin))
    assignments.sort(key=lambda one: [(isinstance(part, str), part) for part in one.path])
    return Layer((*seeds.assignments, *assignments), seeds.warnings, (*seeds.problems, *problems))


def _is_setting(name: str, text: str) -> bool:
    if not name.startswith(PREFIX) or name in RESERVED_NAMES or name.startswith(INTERNAL_PREFIX):
        return False
    from_kubernetes = _KUBERNETES_NAME.fullmatch(name) is not None
    return not from_kubernetes or (name.endswith("PORT") and "://" not in text and "TCP" not in name)


def _target_of(name: str) -> tuple[KeyPath, str] | None:
    """The key that a variable sets and how its text is read (table, list, source, arg, text), or None."""
    parts = name.removeprefix(PREFIX).lower().split("__")
    section: type[BaseModel] = Config
    path: KeyPath = ()
    while parts and name == name.upper():
        part = parts.pop(0)
        info = keys_of(section).get(part)
        if info is None:
            return None
        path = (*path, part)
        inner, is_list = section_of(info)
        if inner is None:
            return _plain_target(path, parts, is_list)
        if is_list and parts:
            if not re.fullmatch(r"[0-9]{1,4}", parts[0]):
                return None
            path = (*path, int(parts.pop(0)))
        if not parts:
            return path, "table"
        section = inner
    return None


def _plain_target(path: KeyPath, rest: list[str], is_list: bool) -> tuple[KeyPath, str] | None:
    if path[-1] == "engine_args" and len(rest) <= 1:
        return (*path, *rest), "arg" if rest else "table"
    if path[-1] == "headers":
        return None if rest else (path, "table")
    kind = "list" if is_list else "source" if path[-1] == "source" else "text"
    return None if rest else (path, kind)


def _value_of(text: str, path: KeyPath, kind: str) -> object:
    """The value that the text of a variable stands for; ValueError says what was expected."""
    if kind == "table":
        value = _json(text)
        if not isinstance(value, list if path in {("models",), ("tenants",)} else dict):
            raise ValueError("a table, or a list of tables, as JSON")
        return value
    if kind == "text":
        return text
    if kind == "arg":
        value = _json(text)
        return text if value is None or isinstance(value, dict) else value  # vLLM takes objects as JSON text
    is_separated = kind == "list" or "://" in text
    if not text.startswith("["):
        return comma_separated(text) if is_separated and (kind == "list" or "," in text) else text
    value = _json(text)
    if not isinstance(value, list):
        raise ValueError("a list as JSON, or entries separated by commas")
    return value


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _unknown_variable(name: str, source: str) -> Problem:
    known = [*(variable_of(path) for path, _ in settings()), *RESERVED_NAMES]
    path = tuple(name.removeprefix(PREFIX).lower().split("__"))
    return Problem(
        dotted(path), "unknown key", hint=nearest(name, known), origin=f"{source} {printable(name)}"
    )


def _strangers(dotenv: Mapping[str, str], source: str) -> Iterator[str]:
    """A warning for each name of `.env` that is not Penstock's; the file may serve other programs as well."""
    for name in dotenv:
        if name in RESERVED_NAMES or name.startswith(INTERNAL_PREFIX):
            yield f"{source} {printable(name)} has no effect: it is read from the environment only"
        elif name not in SEED_NAMES and not name.startswith(PREFIX):
            near = nearest(name, SEED_NAMES)
            hint = f"; did you mean {near}?" if near else ""
            yield f"{source} {printable(name)} has no effect: Penstock does not know this name{hint}"


def _for_engine(
    table: Mapping[str, Any], assignments: tuple[Assignment, ...]
) -> tuple[list[Assignment], list[str]]:
    """The assignments that suit the engine of model 0, and a warning for each that does not."""
    merged = _Merged(copy.deepcopy(dict(table)), "")
    merged.lay([one for one in assignments if not one.engines])
    models = merged.values["models"]
    first = models[0] if isinstance(models, list) and models else None
    engine = first.get("engine") if isinstance(first, dict) else None
    kept = [one for one in assignments if not one.engines or engine in one.engines]
    idle = [one for one in assignments if one.engines and engine not in one.engines]
    return kept, [f"{one.origin} has no effect: it does nothing with engine {engine}" for one in idle]


class _Merged:
    """The values of all sources laid over each other, and where each came from."""

    def __init__(self, table: dict[str, Any], name: str) -> None:
        self.values = copy.deepcopy(table)
        self._origins: dict[KeyPath, str] = {(): name if table else "default"}
        if "models" not in table:
            self.values["models"] = [{"name": DEMO_MODEL, "engine": "llamacpp", "source": DEMO_SOURCE}]
            self._origins["models",] = "default"

    def lay(self, assignments: list[Assignment]) -> list[Problem]:
        """Puts the values in, later over earlier, and returns the ones that have no place."""
        problems = []
        for one in assignments:
            size = _put(self.values, one.path, one.value)
            if size is not None:
                expected = f"an index up to {size}, the next free one"
                problems.append(Problem(dotted(one.path), "a gap in the list", expected, origin=one.origin))
            self._origins = {path: name for path, name in self._origins.items() if not _is_at(path, one.path)}
            self._origins[one.path] = one.origin
        return problems

    def origin_of(self, path: KeyPath) -> str:
        """The source of the value at `path`, or of the nearest table around it."""
        ends = range(len(path), 0, -1)
        return next(
            (self._origins[path[:end]] for end in ends if path[:end] in self._origins), self._origins[()]
        )


def _is_at(path: KeyPath, place: KeyPath) -> bool:
    return path[: len(place)] == place


def _put(values: dict[str, Any], path: KeyPath, value: object) -> int | None:
    """Sets one value, unless something else is in its way, which the check will report.

    Returns:
        The length of a list that is too short for the path's index, else None.
    """
    here: Any = values
    for part, following in zip(path, (*path[1:], None), strict=True):
        fresh: Any = value if following is None else [] if isinstance(following, int) else {}
        if isinstance(part, int) and isinstance(here, list):
            if part > len(here):
                return len(here)
            if part == len(here):
                here.append(fresh)
            elif following is None:
                here[part] = fresh
        elif isinstance(part, str) and isinstance(here, dict):
            here[part] = fresh if following is None else here.get(part, fresh)
        else:
            return None
        here = here[part]
    return None


def _check(merged: _Merged) -> tuple[Config | None, list[Problem]]:
    try:
        return Config.model_validate(merged.values), []
    except ValidationError as error:
        errors: list[Any] = error.errors(include_url=False)
    problems = [problem for one in errors for problem in problems_of(one, merged.origin_of)]
    for key in ("models", "tenants"):
        entries = merged.values.get(key)
        if isinstance(entries, list) and not any(
            one["type"] == "repeated" and one["loc"] == (key,) for one in errors
        ):
            problems += repeated_problems((key,), repeated_names(entries), merged.origin_of)
    return None, problems
