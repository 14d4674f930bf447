"""Transformers: `transformers serve` of Hugging Face, in an environment that has it with its server.

The slowest engine and the one that knows the most architectures; `transformers_server` is its process.
"""

from __future__ import annotations

import os
from pathlib import Path

from penstock.core.config import ModelConfig
from penstock.engines import transformers_server
from penstock.engines.causes import HUB_CAUSES
from penstock.engines.declared import parameters
from penstock.engines.installation import Installation, find, version_of
from penstock.engines.options import nearest, own_mistakes, words
from penstock.engines.spec import VLLM_MANNER, EngineSpec, Launch, Placement
from penstock.engines.weights import source_of, weight_mistakes

SERVER = Path(transformers_server.__file__)
SINCE = (5, 0)
# What its server needs beside it; `transformers[serving]` asks for all but accelerate.
NEEDED = ("torch", "accelerate", "fastapi", "uvicorn", "openai")
INSTALL = "pip install torch accelerate 'transformers[serving]'"

OWN = {
    "host": "Penstock chooses it",
    "port": "Penstock chooses it",
    "force_model": "it is models.N.source",
    "model_timeout": "the model stays loaded",
    "non_blocking": "it is for tests of Transformers",
    "enable_cors": "no browser reaches an engine",
}


def launch(model: ModelConfig, placement: Placement) -> Launch:
    """The command line of one replica."""
    found = _installation(model)
    return Launch(
        argv=(
            *(str(found.python if found else "python3"), str(SERVER), "serve", source_of(model)),
            *("--host", placement.host, "--port", str(placement.port)),
            *words(model.engine_args),
        ),
        env={
            transformers_server.KEY_VARIABLE: placement.api_key,
            transformers_server.NAME_VARIABLE: model.name,
            transformers_server.DRAIN_VARIABLE: str(placement.drain_s),
            **placement.gpu_env,
        },
    )


def check(model: ModelConfig) -> list[str]:
    """What is wrong with the installation, the weights or the arguments."""
    found = _installation(model)
    if found is None or found.python is None:
        place = f"venv: {model.venv} has no" if model.venv else "engine: there is no"
        return [f"{place} Transformers; `{INSTALL}` in a virtual environment, and set models.N.venv to it"]
    package = found.distribution(("transformers",))
    version = version_of(package.version) if package else None
    if version is not None and version < SINCE:
        return [
            f"engine: Transformers {'.'.join(map(str, version))} has no such server; `{INSTALL}` of 5.0 or newer"
        ]
    missing = [name for name in NEEDED if found.distribution((name,)) is None]
    if missing:
        return [
            f"engine: the server of Transformers needs {', '.join(missing)} beside it; `{INSTALL}` in {found.folder}"
        ]
    return [*weight_mistakes(model, "Transformers"), *_arg_mistakes(model, found)]


def _arg_mistakes(model: ModelConfig, found: Installation) -> list[str]:
    source = found.source("transformers/cli/serve.py")
    known = parameters(source, "Serve") if source else frozenset()
    unknown = [name for name in model.engine_args if known and name not in known]
    return [
        *own_mistakes(model.engine_args, OWN),
        *(
            f"engine_args.{name}: transformers serve has no such argument{nearest(name, known)}"
            for name in unknown
        ),
    ]


def _installation(model: ModelConfig) -> Installation | None:
    found = find("transformers", model.venv or "", os.environ)
    return found if found and found.distribution(("transformers",)) else None


SPEC = EngineSpec(
    kind="transformers",
    launch=launch,
    check=check,
    manner=VLLM_MANNER,
    steps=(b"transformers:steps_total",),
    stages=(
        (r"(?i)^loading .*@", "reading weights"),
        (r"(?i)loading (checkpoint shards|weights)", "reading weights"),
        (r"(?i)application startup complete|uvicorn running", "ready"),
    ),
    causes=(
        (r"requires `accelerate`", f"its environment lacks accelerate; `{INSTALL}` there"),
        (r"missing dependencies for serving", f"its environment lacks its server; `{INSTALL}` there"),
        (
            r"has no attribute '\w+for\w+'",
            "Transformers does not know the model's architecture; update it, or choose another engine",
        ),
        *HUB_CAUSES,
    ),
)
