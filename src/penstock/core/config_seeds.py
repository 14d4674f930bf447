"""The environment names of the projects that Penstock grew from, and what each of them means today.

One table, read by the loader and by the reference. A name whose meaning is gone gets a warning that says what
took its place; a name that is absent or empty says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from penstock.core.config import DEMO_MODEL, DEMO_SOURCE
from penstock.core.config_problems import KeyPath, Problem, dotted, shown

MODEL: KeyPath = ("models", 0)
ANY_ENGINE: frozenset[str] = frozenset()
_VLLM = frozenset({"vllm"})
_NO_SWAP = (
    "vLLM's V1 engine has no swap space any more and recomputes preempted requests; "
    "lower MAX_NUM_SEQS or raise GPU_MEMORY_UTILIZATION instead"
)


@dataclass(frozen=True, slots=True)
class Assignment:
    """A value for a key of the configuration, from a variable.

    Args:
        path: the key.
        value: what to put there.
        origin: the source and the name of the variable.
        engines: the engines of model 0 that it is meant for; empty for all.
    """

    path: KeyPath
    value: object = field(repr=False)
    origin: str = ""
    engines: frozenset[str] = ANY_ENGINE


@dataclass(frozen=True, slots=True)
class Layer:
    """What one source says, in the order in which it applies."""

    assignments: tuple[Assignment, ...] = ()
    warnings: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Seed:
    """One seed name.

    Args:
        name: the variable.
        becomes: what the reference and a warning say of it.
        path: the key that it sets; empty when it sets none or several.
        convert: text to value; None for a text that sets nothing; ValueError says what it expected.
        engines: the engines of model 0 that it is meant for; empty for all.
        is_gone: whether it has no effect, of which the reader is warned.
    """

    name: str
    becomes: str = ""
    path: KeyPath = ()
    convert: Callable[[str], object] = str
    engines: frozenset[str] = ANY_ENGINE
    is_gone: bool = False


def comma_separated(text: str) -> list[str]:
    """The entries of a comma-separated list, without blanks around them and without empty ones."""
    return [entry.strip() for entry in text.split(",") if entry.strip()]


def _whole(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) == 0:
        raise ValueError("a whole number of at least 1")
    return int(text)


def _share(text: str) -> float:
    if not re.fullmatch(r"[0-9]{0,3}\.?[0-9]{1,9}", text) or not 0 < float(text) <= 1:
        raise ValueError("a share above 0 and up to 1")
    return float(text)


def _unless_none(text: str) -> str | None:
    return None if text.lower() == "none" else text


def _arg(name: str, key: str, convert: Callable[[str], object] = str) -> Seed:
    return Seed(name, path=(*MODEL, "engine_args", key), convert=convert, engines=_VLLM)


SEEDS: tuple[Seed, ...] = (
    Seed("MODEL_NAME", "models.0.name (its last part), models.0.source and models.0.engine"),
    Seed("MODEL_PATH", "models.0.source; without MODEL_NAME and [[models]] also the name and the engine"),
    Seed("HF_TOKEN", "handed to engines in their environment, never kept in the configuration"),
    Seed(
        "VLLM_API_KEY",
        path=(*MODEL, "api_key"),
        engines=frozenset({"vllm", "transformers", "sglang", "remote"}),
    ),
    Seed("GATEWAY_API_KEYS", path=("gateway", "api_keys"), convert=comma_separated),
    _arg("TP_SIZE", "tensor_parallel_size", _whole),
    _arg("QUANTIZATION", "quantization", _unless_none),
    _arg("GPU_MEMORY_UTILIZATION", "gpu_memory_utilization", _share),
    _arg("GPU_UTIL", "gpu_memory_utilization", _share),
    _arg("MAX_MODEL_LEN", "max_model_len", _whole),
    _arg("MAX_NUM_SEQS", "max_num_seqs", _whole),
    _arg("MODEL_CACHE_DIR", "download_dir"),
    _arg("MODEL_DOWNLOAD_DIR", "download_dir"),
    Seed("SWAP_SPACE_GB", _NO_SWAP, is_gone=True),
    Seed("SWAP_SPACE", _NO_SWAP, is_gone=True),
    Seed("ENABLE_BACKPRESSURE", path=("gateway", "backpressure")),
    Seed("QUEUE_CAPACITY", path=("gateway", "queue_len_max")),
    Seed("MAX_CONCURRENT_REQUESTS", path=(*MODEL, "concurrency")),
    Seed("WARMUP", "an engine is always warmed up before it gets requests", is_gone=True),
)
SEED_NAMES = frozenset(seed.name for seed in SEEDS)


def read_seeds(values: Mapping[str, str], source: str, *, model_is_given: bool) -> Layer:
    """What the seed names of one source set.

    Args:
        values: variables by name; other names are left alone.
        source: the name of the source, for origins.
        model_is_given: whether a lower source already describes model 0, so that MODEL_PATH only moves it.
    """
    given = {name: value.strip() for name, value in values.items() if name in SEED_NAMES and value.strip()}
    assignments, problems = _model(given, source, model_is_given)
    warnings = []
    for seed in SEEDS:
        if seed.name not in given:
            continue
        origin = f"{source} {seed.name}"
        if seed.is_gone:
            warnings.append(f"{origin} has no effect: {seed.becomes}")
        elif seed.path:
            try:
                value = seed.convert(given[seed.name])
            except ValueError as error:
                found = shown(given[seed.name], ())
                problems.append(Problem(dotted(seed.path), found, str(error), origin=origin))
            else:
                assignments.append(Assignment(seed.path, value, origin, seed.engines))
    kept = [assignment for assignment in assignments if assignment.value is not None]
    return Layer(tuple(kept), tuple(warnings), (*problems, *_conflicts(kept, source)))


def _model(
    given: Mapping[str, str], source: str, model_is_given: bool
) -> tuple[list[Assignment], list[Problem]]:
    """What MODEL_NAME, which clients ask for, and MODEL_PATH, where it lies, say together."""
    name, path = given.get("MODEL_NAME", ""), given.get("MODEL_PATH", "")
    if not name and not path:
        return [], []
    served = path or name
    if name in (DEMO_MODEL, DEMO_SOURCE) and served not in (DEMO_MODEL, DEMO_SOURCE):
        found = f"MODEL_NAME says {name} and MODEL_PATH says otherwise"
        return [], [Problem("models.0.source", found, "one of them", origin=source)]
    origin = f"{source} {'MODEL_NAME' if name else 'MODEL_PATH'}"
    place = f"{source} {'MODEL_PATH' if path else 'MODEL_NAME'}"
    if served in (DEMO_MODEL, DEMO_SOURCE):
        facts = {"name": DEMO_MODEL, "engine": "llamacpp", "source": DEMO_SOURCE}
    else:
        engine = "llamacpp" if served.lower().endswith(".gguf") else "vllm"
        facts = {"name": _last_part(name or path), "engine": engine, "source": served}
    if not name and model_is_given:
        facts = {"source": facts["source"]}
    return [
        Assignment((*MODEL, key), value, place if key == "source" else origin) for key, value in facts.items()
    ], []


def _last_part(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _conflicts(assignments: list[Assignment], source: str) -> list[Problem]:
    """Keys that two names of one source set differently; both are named."""
    problems = []
    first: dict[KeyPath, Assignment] = {}
    for assignment in assignments:
        earlier = first.setdefault(assignment.path, assignment)
        if earlier.value != assignment.value:
            names = " and ".join(one.origin.removeprefix(f"{source} ") for one in (earlier, assignment))
            problems.append(Problem(dotted(assignment.path), f"{names} differ", origin=source))
    return problems
