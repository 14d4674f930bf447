"""How `penstock up --model NAME` comes to an entry of `[[models]]`: what is there of it, and what this machine is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from penstock.assembly.pulling import Wanted
from penstock.core.config import DEMO_MODEL, DEMO_SOURCE, ModelConfig
from penstock.core.errors import PenstockError
from penstock.engines.catalog import SPECS
from penstock.engines.hub import Hub, HubError, HubName, parse_name
from penstock.engines.hub_cache import cache_folder, snapshot
from penstock.engines.model_files import cached, describe, gguf_files
from penstock.engines.paths import DEMO_FOLDER, path_of
from penstock.engines.remote_model import remote_config, remote_gguf
from penstock.engines.transformers import INSTALL
from penstock.planner.choice import Chosen, for_gpus, pick
from penstock.planner.hardware import Gpu
from penstock.planner.plan import CONTEXT_DEFAULT
from penstock.planner.repository import FILES_MAX, Listed, Variant, has_weights, variants
from penstock.planner.shapes import Architecture, PlanError
from penstock.supervisor.machine import main_memory_here
from penstock.telemetry.gpu import detect

ENGINES = ("llamacpp", "vllm", "transformers")
NAMES = {"vllm": "vLLM", "transformers": "Transformers"}  # of those that serve no GGUF files
NAME_CHARS_MAX = 100


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to serve with.

    Args:
        gpus: none where no driver tells of any.
        memory: of the CPU.
        vllm: whether it is installed.
        transformers: likewise, with its server.
    """

    gpus: tuple[Gpu, ...]
    memory: Gpu
    vllm: bool
    transformers: bool = False

    @classmethod
    def here(cls, environ: Mapping[str, str]) -> Machine:
        """This one."""
        try:
            gpus = detect(environ)
        except PenstockError:
            gpus = ()
        vllm, transformers = (
            not SPECS[engine].check(ModelConfig(name="any", engine=engine, source="any/any"))
            for engine in ("vllm", "transformers")
        )
        return cls(gpus, main_memory_here(), vllm, transformers)


@dataclass(frozen=True, slots=True)
class Served:
    """An entry of the configuration, and why it is so.

    Args:
        entry: of `[[models]]`.
        reasons: a line each for engine, weights and context.
        wanted: what has to be pulled first; None where all is here.
    """

    entry: dict[str, Any]
    reasons: tuple[str, ...]
    wanted: Wanted | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """What there is of a model.

    Args:
        source: what the configuration calls it, where an engine takes all of it.
        name: what clients may call it.
        weights: whether there are any but in GGUF files.
        ggufs: models in GGUF files.
        read: reads the architecture of a GGUF model, or of all of it.
        place: what the configuration calls a GGUF model.
        wanted: what has to be pulled for it.
        alias: what else clients may call it: its whole name on the Hub.
    """

    source: str
    name: str
    weights: bool
    ggufs: tuple[Variant, ...]
    read: Callable[[Variant | None], Architecture]
    place: Callable[[Variant], str]
    wanted: Callable[[Variant | None], Wanted | None] = lambda _: None
    alias: str = ""


def choose(name: str, engine: str | None, machine: Machine, hub: Hub, environ: Mapping[str, str]) -> Served:
    """How to serve the model called `name` here.

    Args:
        name: of the Hub, a folder, a .gguf file, or `demo`.
        engine: the one to take; the best for this machine by default.
        environ: says where the Hub's cache is.

    Raises:
        PenstockError: it can't be served here, or is not there; says what to do.
    """
    if engine not in (None, *ENGINES):
        raise PenstockError(f"--engine: expected {' or '.join(ENGINES)}, found {engine!r}", code="usage")
    if name in (DEMO_MODEL, DEMO_SOURCE) and engine not in NAMES:
        entry = {"name": DEMO_MODEL, "engine": "llamacpp", "source": DEMO_SOURCE}
        return Served(
            entry,
            ("engine: llamacpp, which runs the bundled model", "weights: bundled", "context: 2048 tokens"),
        )
    found = _found(str(DEMO_FOLDER) if name == DEMO_SOURCE else name, hub, environ)
    if found.alias and not found.ggufs and engine not in NAMES and not _suits_vllm(found, engine, machine):
        found = _whole(name, hub) or found  # only a part of the repository was pulled
    taken, why = _engine(name, found, engine, machine, hub)
    if taken == "vllm":
        return _on_vllm(found, why, machine)
    if taken == "transformers":
        chosen = Chosen({}, "as stored", "the model's own; Transformers itself sees what fits")
        return _served(found, taken, found.source, why, chosen, found.wanted(None))
    return _on_llamacpp(name, found, why, machine)


def toml(entry: Mapping[str, Any]) -> str:
    """An entry as it stands in penstock.toml."""
    return "\n".join(("[[models]]", *(f"{key} = {_toml(value)}" for key, value in entry.items())))


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)  # a text, a number and a truth are written alike in both


def _found(name: str, hub: Hub, environ: Mapping[str, str]) -> _Found:
    path = path_of(name)
    if path.is_dir():
        return _local(path, name, lambda file: str(path / file))
    if path.is_file():
        only = path.name if path.suffix.lower() == ".gguf" else ""
        return _local(path.parent, str(path.parent), lambda file: str(path.parent / file), only)
    named = parse_name(name)
    if named is None:
        raise PenstockError(
            f"--model {name[:200]}: there is no such file or folder, and it is no name of the Hub",
            code="usage",
            hint="name owner/model, owner/model:Q4_K_M, a folder, a .gguf file, or demo",
        )
    try:
        local = cached(name, environ)
    except PlanError:
        local = None  # it is there in part, and a pull goes on with it
    folder = snapshot(cache_folder(environ), named.repo)
    if local is not None and folder is not None:
        only = "" if local == folder else local.relative_to(folder).as_posix()
        found = _local(folder, named.repo, lambda file: f"{named.repo}/{file}", only)
        return replace(found, name=Path(named.repo).name, alias=named.repo)
    return _remote(named, hub)


def _local(folder: Path, source: str, place: Callable[[str], str], only: str = "") -> _Found:
    """A model on this disk; `only` names the GGUF file that is meant."""
    files = [
        Listed(path.relative_to(folder).as_posix(), path.stat().st_size)
        for path in sorted(folder.rglob("*"))[:FILES_MAX]
        if path.is_file()
    ]
    ggufs = tuple(one for one in variants(files) if not only or any(file.name == only for file in one.files))
    if only and not ggufs:
        describe(str(folder / only))  # says which part is missing
    return _Found(
        source,
        Path(only).stem if only else folder.absolute().name,
        not only and has_weights(files),
        ggufs,
        lambda one: describe(str(folder / one.files[0].name if one else folder)).architecture,
        lambda one: place(one.files[0].name),
    )


def _remote(named: HubName, hub: Hub) -> _Found:
    """A model that is still to be pulled."""
    listing = hub.listing(named.repo)
    one_gguf = bool(named.file or named.quantization)
    ggufs = variants(listing.files)
    if one_gguf:
        files = gguf_files(listing.files, named)
        ggufs = tuple(one for one in ggufs if one.files == files)
    return _Found(
        named.repo,
        Path(named.repo).name,
        not one_gguf and has_weights(listing.files),
        ggufs,
        lambda one: remote_gguf(hub, listing, one.files) if one else remote_config(hub, listing),
        lambda one: f"{named.repo}/{one.files[0].name}",
        lambda one: Wanted(HubName(named.repo, file=one.files[0].name if one else "")),
        named.repo,
    )


def _whole(name: str, hub: Hub) -> _Found | None:
    """The model as it is on the Hub, where that can be asked and has GGUF files of it."""
    named = parse_name(name)
    if named is None:
        return None
    try:
        found = _remote(named, hub)
    except PenstockError:
        return None
    return found if found.ggufs else None


def _suits_vllm(found: _Found, asked: str | None, machine: Machine) -> bool:
    """Whether vLLM is the engine where nobody has said."""
    return asked is None and bool(machine.gpus) and machine.vllm and found.weights


def _engine(name: str, found: _Found, asked: str | None, machine: Machine, hub: Hub) -> tuple[str, str]:
    """The engine, and why it."""
    gpus = f"{len(machine.gpus)} x {machine.gpus[0].name}" if machine.gpus else ""
    if asked in NAMES:
        if not found.weights:
            raise PenstockError(
                f"{name}: {NAMES[asked]} serves no GGUF files, and there are no other weights",
                code="model_unusable",
                hint="leave --engine out for llama.cpp, or name the model that it was made from",
            )
        return asked, f"as asked for, on {gpus or 'the CPU'}"
    if _suits_vllm(found, asked, machine):
        return "vllm", f"as {gpus} and vLLM are here"
    if found.ggufs:
        if asked:
            return "llamacpp", "as asked for, on the CPU"
        lacking = (
            "vLLM is not found" if gpus and found.weights else "vLLM serves no GGUF files" if gpus else ""
        )
        return "llamacpp", f"on the CPU, as {lacking or 'there is no GPU here'}"
    if not found.weights:
        raise PenstockError(
            f"{name}: there are no weights in it", code="model_unusable", hint="name another model"
        )
    if asked is None and machine.transformers:
        return "transformers", f"on {gpus or 'the CPU'}, as {_lacking(machine)} and there are no GGUF files"
    raise _no_engine(name, found, asked, machine, hub)


def _lacking(machine: Machine) -> str:
    """Why it is not vLLM."""
    return "vLLM is not found" if machine.gpus else "there is no GPU here"


def _no_engine(name: str, found: _Found, asked: str | None, machine: Machine, hub: Hub) -> PenstockError:
    """What to do where llama.cpp alone is here, and there are no GGUF files."""
    needs = "llama.cpp needs GGUF files, and it has none"
    if asked is None:
        needs = f"{_lacking(machine)}, and llama.cpp needs GGUF files, of which it has none"
    hints = []
    others = _siblings(found.source, hub)
    if others:
        more = f" (or {', '.join(others[1:])})" if len(others) > 1 else ""
        hints.append(f"others have made some: penstock up --model {others[0]}{more}")
    else:
        hints.append("name a GGUF repository or file of it")
    if machine.vllm:
        hints.append("or --engine vllm, which runs on a CPU where it is built for one")
    elif machine.gpus:
        hints.append("or install vLLM and set PENSTOCK_VLLM_VENV to its folder")
    if asked is None:
        hints.append(f"or, for the slowest engine, which serves it as it is: {INSTALL} beside Penstock")
    return PenstockError(f"{name}: {needs}", code="model_unusable", hint="; ".join(hints))


def _siblings(source: str, hub: Hub) -> tuple[str, ...]:
    """GGUF repositories of the same model, where the Hub can be asked."""
    model = Path(source).name
    try:
        found = hub.search(f"{model}-GGUF")
    except HubError:
        return ()
    return tuple(one for one in found if one.lower().endswith("gguf"))


def _on_vllm(found: _Found, why: str, machine: Machine) -> Served:
    architecture = found.read(None)
    if machine.gpus:
        chosen = for_gpus(architecture, machine.gpus)
    else:
        context = min(CONTEXT_DEFAULT, architecture.context_max or CONTEXT_DEFAULT)
        chosen = Chosen(
            {"max_model_len": context}, "as stored", f"{context} tokens; vLLM itself sees what fits"
        )
    return _served(found, "vllm", found.source, why, chosen, found.wanted(None))


def _on_llamacpp(name: str, found: _Found, why: str, machine: Machine) -> Served:
    variant, chosen = pick(found.ggufs, machine.memory, found.read, name)
    of = f" of {len(found.ggufs)} variants" if len(found.ggufs) > 1 else ""
    stored = f"{variant.quantization or variant.files[0].name}{of}, "
    chosen = replace(chosen, weights=stored + chosen.weights)
    return _served(found, "llamacpp", found.place(variant), why, chosen, found.wanted(variant))


def _served(
    found: _Found, engine: str, source: str, why: str, chosen: Chosen, wanted: Wanted | None
) -> Served:
    short = re.sub(r"[-.]gguf$", "", found.name, flags=re.IGNORECASE)
    entry: dict[str, Any] = {"name": re.sub(r"[^\w.-]+", "-", short)[:NAME_CHARS_MAX] or "model"}
    if found.alias and found.alias != entry["name"]:
        entry["aliases"] = [found.alias]
    entry |= {"engine": engine, "source": source}
    if chosen.args:
        entry["engine_args"] = dict(chosen.args)
    reasons = (f"engine: {engine}, {why}", f"weights: {chosen.weights}", f"context: {chosen.context}")
    return Served(entry, reasons, wanted)
