"""`penstock doctor`, wired: gathers the facts of this machine, this home and its configuration."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from penstock.assembly.engines import traces_of_engines
from penstock.core.config import DEMO_SOURCE, Config, ModelConfig, TracesConfig
from penstock.core.config_sources import Loaded
from penstock.core.errors import PenstockError
from penstock.doctor.facts import GpuFacts, ModelFacts, SetupFacts
from penstock.doctor.finding import Finding
from penstock.doctor.gather import host_facts, installed_engines, kernel_xids, stale_files, token_source
from penstock.doctor.gpu_checks import gpu_findings
from penstock.doctor.host_checks import host_findings
from penstock.doctor.setup_checks import setup_findings
from penstock.engines.catalog import SPECS
from penstock.engines.hub import HubError, parse_name
from penstock.engines.hub_cache import cache_folder
from penstock.engines.model_files import cached, describe
from penstock.engines.paths import path_of
from penstock.engines.vllm import VENV_VARIABLE
from penstock.exporter.owners import Owner, by_pid, owner_of
from penstock.planner.shapes import DamagedError, PlanError
from penstock.store.home import Home
from penstock.store.runtime import Registration, Registry, lock_holder
from penstock.supervisor.ports import why_not_free
from penstock.supervisor.preflight import complaints_of
from penstock.telemetry.gpu_driver import Driver, Sight, read_within

GPU_ENGINES = frozenset({"vllm", "sglang", "transformers"})
"""Kinds that run on a GPU as a rule."""

DRIVER_WITHIN_S = 20.0
"""Loading a driver without persistence mode takes some seconds for each GPU."""


def examine(
    load: Callable[[], Loaded],
    config_from: str,
    home: Home,
    environ: Mapping[str, str],
    nvml: Callable[[], Any],
) -> list[Finding]:
    """All findings.

    Args:
        load: reads the configuration; raises PenstockError.
        config_from: what that is, for people.
        nvml: makes the library of the driver.
    """
    loaded, problems = _loaded(load)
    config = loaded.config if loaded else None
    models = config.models if config else ()
    traces = traces_of_engines(config) if config else None
    sight = read_within(Driver(time.monotonic, nvml), DRIVER_WITHIN_S)
    registrations = Registry(home.replicas).registrations()
    gpus = GpuFacts(
        sight,
        None if sight.trouble else kernel_xids(),
        _owned(sight, registrations),
        any(model.engine in GPU_ENGINES for model in models),
    )
    holder = lock_holder(home.lock)
    setup = SetupFacts(
        config_from=config_from,
        config_problems=problems,
        config_warnings=loaded.warnings if loaded else (),
        models=tuple(_model(model, traces, environ) for model in models),
        engines=installed_engines(environ, [environ.get(VENV_VARIABLE, ""), *_venvs(models)]),
        ports=_ports(config) if config else {},
        running=holder.pid if holder else 0,
        token_from=token_source(environ, "HF_TOKEN" in loaded.engine_environ if loaded else False),
        hub_models=tuple(
            model.name for model in models if model.engine != "remote" and _is_of_hub(str(model.source))
        ),
        leftovers={} if holder else _leftovers(home, registrations),
        stale_files=stale_files(home.root),
    )
    host = host_facts({"home": home.root, "model cache": cache_folder(environ)})
    return [
        *gpu_findings(gpus),
        *host_findings(host, several_gpus=len(sight.gpus) > 1),
        *setup_findings(setup),
    ]


def _loaded(load: Callable[[], Loaded]) -> tuple[Loaded | None, tuple[str, ...]]:
    try:
        return load(), ()
    except PenstockError as error:
        return None, tuple(error.message.splitlines())


def _venvs(models: Iterable[ModelConfig]) -> Iterator[str]:
    return (str(model.venv) for model in models if model.venv)


def _model(model: ModelConfig, traces: TracesConfig | None, environ: Mapping[str, str]) -> ModelFacts:
    spec = SPECS[model.engine]
    facts = ModelFacts(model.name, model.engine, tuple(complaints_of(model, spec, traces)))
    return facts if facts.complaints or spec.launch is None else _files(facts, str(model.source), environ)


def _files(facts: ModelFacts, source: str, environ: Mapping[str, str]) -> ModelFacts:
    """The same with how its files were found, and what is wrong with them."""
    if not source:
        return replace(facts, files="without files")
    try:
        if _is_of_hub(source):
            return _of_hub(facts, source, cached(source, environ))
        describe(source)
    except DamagedError as error:
        return replace(facts, complaints=(f"{error.message}; {error.hint}",))
    except HubError as error:  # of what is neither a file nor a folder
        return replace(facts, complaints=(f"{source} is no file and no folder here; {error.message}",))
    except PlanError as error:
        return replace(
            facts, doubt=error.message, mend="its engine may know it: start it, see `penstock status`"
        )
    files = "the bundled model" if source == DEMO_SOURCE else source
    return replace(facts, files=f"{files} is whole")


def _of_hub(facts: ModelFacts, source: str, found: Path | None) -> ModelFacts:
    if found is None:
        mend = f"penstock pull {source} does it now, with its progress"
        return replace(facts, doubt=f"{source} is downloaded by its first start", mend=mend)
    return replace(facts, files=f"{source} is whole in the Hub's cache")


def _is_of_hub(source: str) -> bool:
    return source != DEMO_SOURCE and not path_of(source).exists() and parse_name(source) is not None


def _ports(config: Config) -> dict[str, str]:
    """Each setting of an address, and why a server can't listen there."""
    addresses = {"gateway.listen": config.gateway.listen, "gateway.admin": config.gateway.admin}
    if config.exporter.enabled:
        addresses["exporter.listen"] = config.exporter.listen
    return {name: why_not_free(address) for name, address in addresses.items() if address.port}


def _owned(sight: Sight, registrations: Sequence[Registration]) -> dict[int, str]:
    """The processes on the GPUs that belong to replicas, and whose they are."""
    owners = by_pid(Owner(each.name, each.model, each.pid) for each in registrations)
    pids = {pid for gpu in sight.gpus for pid in gpu.processes or ()}
    found = {pid: owner_of(pid, owners) for pid in pids}
    return {pid: owner.replica for pid, owner in found.items() if owner is not None}


def _leftovers(home: Home, registrations: Sequence[Registration]) -> dict[int, str]:
    """Replicas that live although nobody holds the lock of their model."""

    def alone() -> Iterator[tuple[int, str]]:
        for each in registrations:
            if lock_holder(home.engine_lock(each.model)) is None:
                yield each.pid, each.name

    return dict(alone())
