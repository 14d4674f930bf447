"""What is installed and configured. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.doctor.facts import Installed, ModelFacts, SetupFacts
from penstock.doctor.finding import Finding, fail, ok, skip, warn

ENGINE_PACKAGES = {
    "vllm": "vllm",
    "transformers": "transformers",
    "sglang": "sglang",
    "llamacpp": "xllamacpp",
}
"""Engine kind -> the package that it is."""

STALE_SHOWN = 3


def setup_findings(facts: SetupFacts) -> Iterator[Finding]:
    """All that is found of what is installed and configured."""
    yield from _config(facts)
    yield from _engines(facts)
    for model in facts.models:
        yield _model(model)
    yield from _token(facts)
    yield from _ports(facts)
    yield from _leftovers(facts)


def _config(facts: SetupFacts) -> Iterator[Finding]:
    for problem in facts.config_problems:
        yield fail("config", problem, "docs/reference/config.md and penstock.example.toml list every key")
    for warning in facts.config_warnings:
        yield warn("config", warning, "remove it, or set what has replaced it")
    if not facts.config_problems:
        count = len(facts.models)
        yield ok("config", f"{facts.config_from}: valid, {count} model{'s' if count != 1 else ''}")


def _engines(facts: SetupFacts) -> Iterator[Finding]:
    wanted = {ENGINE_PACKAGES[model.engine] for model in facts.models if model.engine in ENGINE_PACKAGES}
    installed: dict[str, list[Installed]] = {}
    for each in facts.engines:
        installed.setdefault(each.name, []).append(each)
    for name in sorted({*ENGINE_PACKAGES.values()}):
        subject = f"engine {name}"
        found = installed.get(name, [])
        if found:
            yield ok(subject, "; ".join(f"{each.version} in {each.where}" for each in found))
        elif name not in wanted:
            yield skip(subject, "not installed; no model needs it")
        # what a model needs and has not is a complaint of that model, by whoever knows where its engine may be


def _model(model: ModelFacts) -> Finding:
    subject = f"model {model.name}"
    if model.complaints:
        return fail(
            subject, "; ".join(model.complaints), "penstock plan says what is in a folder, and what would fit"
        )
    if model.doubt:
        return warn(subject, model.doubt, model.mend)
    seen = f"{model.engine}{', ' if model.files else ''}{model.files}"
    return ok(subject, seen)


def _token(facts: SetupFacts) -> Iterator[Finding]:
    if facts.token_from:
        yield ok("hub token", f"there is one ({facts.token_from})")
    elif facts.hub_models:
        yield warn(
            "hub token",
            f"there is none; {', '.join(facts.hub_models[:3])} may be gated, and downloads are limited without one",
            "set HF_TOKEN in the environment or in .env",
        )
    else:
        yield skip("hub token", "there is none; no model comes from the Hub")


def _ports(facts: SetupFacts) -> Iterator[Finding]:
    for name, reason in facts.ports.items():
        if not reason:
            yield ok(name, "free")
        elif facts.running and f"pid {facts.running} " in f"{reason} ":
            yield ok(name, f"in use by Penstock itself (pid {facts.running})")
        elif facts.running:
            yield ok(name, f"{reason}, while Penstock runs here (pid {facts.running})")
        else:
            yield fail(name, reason, f"stop what uses it, or set {name} to another address")


def _leftovers(facts: SetupFacts) -> Iterator[Finding]:
    for pid, name in facts.leftovers.items():
        yield warn("leftovers", f"{name} (pid {pid}) runs, and nobody keeps it", f"kill {pid}")
    if facts.stale_files:
        shown = ", ".join(facts.stale_files[:STALE_SHOWN])
        more = (
            f" and {len(facts.stale_files) - STALE_SHOWN} more"
            if len(facts.stale_files) > STALE_SHOWN
            else ""
        )
        yield warn("leftovers", f"files of writers that were killed: {shown}{more}", "remove them")
    if not facts.leftovers and not facts.stale_files:
        yield ok("leftovers", "no process and no file was left behind")
