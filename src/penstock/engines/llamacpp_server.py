"""The process of one llama.cpp replica: `python -m penstock.engines.llamacpp_server --model-path X.gguf ...`.

llama.cpp's own C++ server runs in threads of this process; Python only sets it up and waits for SIGTERM, after which
it waits for the requests that run. While a model loads, SIGTERM has the kernel's default effect, and ends this process
at once. Imports nothing of Penstock: it starts fast.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

KEY_VARIABLE = "PENSTOCK_INTERNAL_ENGINE_KEY"
DRAIN_VARIABLE = "PENSTOCK_INTERNAL_DRAIN_S"
SLOTS = 8  # enough for a small team on one machine; memory grows with slots x context
SLOT_TOKENS = 2048
BATCH_TOKENS = 2048
CACHE_RAM_MIB = 512  # prompts kept in memory for reuse; llama.cpp's own limit is 8 GiB
NO_SSE_PINGS = -1  # the gateway sends them, and judges silence: an engine's pings would hide a stall
QUIET = 1  # errors only
LOOK_EVERY_S = 0.05
# Looks in a row that find nothing to do: the last bytes of an answer leave after its slot is free.
IDLE_LOOKS = 3
BUSY = re.compile(r"(?m)^llamacpp:requests_(?:processing|deferred) (?!0\s*$)")
HEADER_BYTES = 65536  # the metadata of a GGUF file begin with what this module looks for


def arguments() -> argparse.ArgumentParser:
    """The command line; every option but the first four is one of `engine_args`."""
    parser = argparse.ArgumentParser(prog="penstock.engines.llamacpp_server", allow_abbrev=False)
    parser.add_argument("--model-path", type=Path, required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--n-ctx", type=int, default=SLOT_TOKENS, help="tokens of context for each slot")
    parser.add_argument("--n-parallel", type=int, default=SLOTS, help="slots: requests run at the same time")
    parser.add_argument("--n-batch", type=int, default=BATCH_TOKENS, help="tokens in a logical batch")
    parser.add_argument("--n-ubatch", type=int, help="tokens in a physical batch, and in one embedding input")
    parser.add_argument("--n-threads", type=int, help="threads that compute; default: llama.cpp's choice")
    parser.add_argument("--n-gpu-layers", type=int, help="layers on the GPU; default: all that fit")
    parser.add_argument("--main-gpu", type=int, help="GPU for a model that is not split")
    parser.add_argument("--flash-attn", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--cache-type-k", help="type of the K cache: f16, q8_0, q4_0...")
    parser.add_argument("--cache-type-v", help="type of the V cache")
    parser.add_argument("--cache-ram-mib", type=int, default=CACHE_RAM_MIB, help="memory for idle prompts")
    parser.add_argument("--chat-template", help="in place of the one in the file")
    parser.add_argument("--embeddings", choices=("true", "false"), default="true")
    parser.add_argument("--pooling", choices=("model", "mean", "cls", "last"), help="default: the model's")
    return parser


def params(options: argparse.Namespace, api_key: str) -> Any:
    """llama.cpp's parameters.

    Raises:
        ValueError: an option has no such value.
    """
    import xllamacpp  # the command line is checked before 33 MB are loaded

    made = xllamacpp.CommonParams()
    made.model.path = str(options.model_path)
    made.model_alias = {options.alias}
    made.hostnames = [options.host]
    made.port = options.port
    made.api_keys = [api_key] if api_key else []
    made.n_parallel = options.n_parallel
    made.n_ctx = options.n_ctx * options.n_parallel
    made.n_batch = options.n_batch
    made.n_ubatch = options.n_ubatch or min(options.n_batch, options.n_ctx)
    made.cache_ram_mib = options.cache_ram_mib
    made.sse_ping_interval = NO_SSE_PINGS
    made.verbosity = QUIET
    made.endpoint_metrics = made.endpoint_slots = made.endpoint_props = True
    made.use_jinja = made.cont_batching = True
    made.ui = False
    if options.n_threads is not None:
        made.cpuparams.n_threads = made.cpuparams_batch.n_threads = options.n_threads
    for name in ("n_gpu_layers", "main_gpu", "chat_template"):
        if (value := getattr(options, name)) is not None:
            setattr(made, name, value)
    _set_types(made, options, xllamacpp)
    return made


def main() -> NoReturn:
    """Serves until SIGTERM; exits 1 with one sentence when it can't."""
    options = arguments().parse_args()
    try:
        made = params(options, os.environ.pop(KEY_VARIABLE, ""))
    except ValueError as error:
        _fail(str(error))
    import xllamacpp

    try:
        server = xllamacpp.Server(made)
    except RuntimeError:
        _fail(
            f"llama.cpp can't serve {options.model_path} on {options.host}:{options.port}; "
            "the lines above say why"
        )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _stop(server))
    print(server.listening_address, flush=True)  # noqa: T201 - the address is this command's output
    while True:
        signal.pause()


def _stop(server: Any) -> NoReturn:
    _drain(server, float(os.environ.get(DRAIN_VARIABLE, "0")))
    os._exit(0)  # the C++ threads would otherwise be joined one answer later


def _drain(server: Any, timeout_s: float) -> None:
    """Waits until nothing runs, but not longer than `timeout_s`."""
    end_s, idle = time.monotonic() + timeout_s, 0
    while idle < IDLE_LOOKS and time.monotonic() < end_s:
        idle = 0 if BUSY.search(server.handle_metrics()) else idle + 1
        time.sleep(LOOK_EVERY_S)


def _set_types(made: Any, options: argparse.Namespace, xllamacpp: Any) -> None:
    attention = {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}[options.flash_attn]
    made.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{attention}")
    for name in ("cache_type_k", "cache_type_v"):
        if (value := getattr(options, name)) is not None:
            kind = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{value.upper()}", None)
            if kind is None:
                raise ValueError(f"--{name.replace('_', '-')}: llama.cpp has no type {value!r}")
            setattr(made, name, kind)
    made.embedding = options.embeddings == "true"
    pooling = options.pooling or ("model" if _has_pooling(options.model_path) else "mean")
    if pooling != "model":
        name = f"LLAMA_POOLING_TYPE_{pooling.upper()}"
        made.pooling_type = getattr(xllamacpp.llama_pooling_type, name)


def _has_pooling(path: Path) -> bool:
    """Whether the model is made for embeddings and says how; a chat model's are the mean of its tokens."""
    try:
        with path.open("rb") as file:
            return b".pooling_type" in file.read(HEADER_BYTES)
    except OSError:
        return False


def _fail(sentence: str) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr, flush=True)  # noqa: T201 - this command's last word
    sys.exit(1)


if __name__ == "__main__":
    main()
