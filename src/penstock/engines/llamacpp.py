"""llama.cpp in a wheel (`xllamacpp`): the embedded engine, for one GGUF file, with or without a GPU."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from penstock.core.config import DEMO_SOURCE, ModelConfig
from penstock.engines.llamacpp_server import DRAIN_VARIABLE, KEY_VARIABLE
from penstock.engines.paths import DEMO_FOLDER, path_of
from penstock.engines.spec import EngineSpec, Launch, Placement
from penstock.wire.resume import Manner
from penstock.wire.tokenize import Tokenizer

DEMO_FILE = DEMO_FOLDER / "demo.gguf"
MAGIC = b"GGUF"
_ON_HUB = re.compile(r"[^/.~][^/]*/[^/:]+(:[^/]+|/.+)", re.IGNORECASE)

# A model this small is computed as fast by one thread as by two; and where others use the cores as well,
# threads that wait for each other at every layer are several times slower.
DEMO_OPTIONS = ("--n-threads", "1")

ARGS: dict[str, type] = {
    "n_ctx": int,
    "n_parallel": int,
    "n_batch": int,
    "n_ubatch": int,
    "n_threads": int,
    "n_gpu_layers": int,
    "main_gpu": int,
    "flash_attn": str,
    "cache_type_k": str,
    "cache_type_v": str,
    "cache_ram_mib": int,
    "chat_template": str,
    "embeddings": bool,
    "pooling": str,
}
"""What `engine_args` may set, and its type; `llamacpp_server.py` says what each means."""


def model_path(model: ModelConfig) -> Path:
    """The GGUF file of `model`; of one on the Hub, where it lies in the local cache."""
    if model.source == DEMO_SOURCE:
        return DEMO_FILE
    from penstock.engines.hub import local_path  # and with it the planner, which no gateway needs

    path = path_of(str(model.source))
    is_on_hub = not path.exists() and _ON_HUB.fullmatch(str(model.source)) is not None
    return (local_path(str(model.source)) if is_on_hub else None) or path


def launch(model: ModelConfig, placement: Placement) -> Launch:
    """The command line of one replica."""
    options = (
        list(DEMO_OPTIONS) if model.source == DEMO_SOURCE and "n_threads" not in model.engine_args else []
    )
    for name, value in model.engine_args.items():
        options += [
            f"--{name.replace('_', '-')}",
            str(value).lower() if isinstance(value, bool) else str(value),
        ]
    return Launch(
        argv=(
            *(sys.executable, "-m", "penstock.engines.llamacpp_server"),
            *("--model-path", str(model_path(model)), "--alias", model.name),
            *("--host", placement.host, "--port", str(placement.port)),
            *options,
        ),
        env={
            KEY_VARIABLE: placement.api_key,
            DRAIN_VARIABLE: str(placement.drain_timeout_s),
            **placement.gpu_env,
        },
    )


def check(model: ModelConfig) -> list[str]:
    """What is wrong with the file or the arguments."""
    return [*_file_mistakes(str(model.source), model_path(model)), *_arg_mistakes(model.engine_args)]


def _file_mistakes(source: str, path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except FileNotFoundError:
        if _ON_HUB.fullmatch(source):
            return [f"source: {source} is not on this disk; `penstock pull {source}` fetches it"]
        return [f"source: {path} does not exist"]
    except OSError as error:
        return [f"source: {path} can't be read: {str(error.strerror).lower()}"]
    if magic == MAGIC:
        return _damage(path)
    return [
        f"source: {path} is not a GGUF file (it begins with {magic!r}); convert the model to GGUF, "
        'or set engine = "vllm" and name its folder'
    ]


def _damage(path: Path) -> list[str]:
    """What is missing of a GGUF file; nothing where it is whole, or newer than what is known here."""
    from penstock.engines.model_files import read_gguf_header  # which every engine but this one does without
    from penstock.planner.shapes import DamagedError, PlanError

    try:
        read_gguf_header(path)
    except DamagedError as error:
        return [f"source: {error.message}; {error.hint}"]
    except PlanError:
        return []
    return []


def _arg_mistakes(args: Mapping[str, object]) -> list[str]:
    mistakes = []
    for name, value in args.items():
        wanted = ARGS.get(name)
        if wanted is None:
            near = difflib.get_close_matches(name, ARGS, n=1)
            known = f"did you mean {near[0]}?" if near else f"known: {', '.join(ARGS)}"
            mistakes.append(f"engine_args.{name}: llamacpp has no such argument; {known}")
        elif not _fits(value, wanted):
            mistakes.append(f"engine_args.{name}: expected {_TYPE_NAMES[wanted]}, found {value!r}")
    return mistakes


_TYPE_NAMES = {int: "a whole number", str: "text", bool: "true or false"}


def _fits(value: object, wanted: type) -> bool:
    return isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))


# Its server goes on with a last message of the assistant unasked, and refuses two of them.
MANNER = Manner(joins=True, tokenizer=Tokenizer(texts=("content",), whole=("add_special",)))

# One for each batch of prompts and tokens; it tells of them also amid the next one.
STEPS = (b"llamacpp:n_decode_total",)

CAUSES = (
    (r"failed to open gguf file .*\(no such file", "its model file is gone: check models.N.source"),
    (r"failed to read (magic|key-value|tensor)", "the model file is damaged or incomplete: fetch it again"),
    (
        r"unknown model architecture|unknown pre-tokenizer type",
        "this llama.cpp does not know the model's architecture: install a newer xllamacpp",
    ),
    (
        r"cudamalloc failed|failed to allocate cuda|ggml_backend_cuda_buffer_type_alloc_buffer",
        "the GPU has too little free memory: lower engine_args.n_gpu_layers, n_ctx or n_parallel",
    ),
    (
        r"failed to (allocate|create).{0,40}(kv|context|buffer)|failed to initialize the context",
        "there is too little memory for the context: lower engine_args.n_ctx or n_parallel",
    ),
    (r"has no type '", "engine_args.cache_type_k or cache_type_v names no type of llama.cpp"),
)

SPEC = EngineSpec(kind="llamacpp", launch=launch, check=check, manner=MANNER, steps=STEPS, causes=CAUSES)
