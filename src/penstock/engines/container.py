"""An engine in a container: the same command, run by docker or podman.

No key is in an argv: variables are named there, and their values come from the environment of the client. The
container ends with its client's SIGTERM, which is passed on; what a killed client leaves behind, `Launch.cleanup` ends.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from penstock.core.config import ModelConfig
from penstock.engines.causes import Causes
from penstock.engines.hub_cache import cache_folder
from penstock.engines.spec import Launch, Placement
from penstock.engines.weights import local_folder

RUNTIMES = ("docker", "podman")
PORT = 8000  # in the container's own network
HOST = "0.0.0.0"  # noqa: S104 - likewise: from outside only the published loopback port is reached
HUGGINGFACE = "/root/.cache/huggingface"
ENGINE_CACHE = "/root/.cache/penstock"
# NCCL's rings are in shared memory, of which containers have 64 MB; what is not used takes nothing.
SHM_SIZE = "16g"
# For the engine's own end, after its drain, before it is killed.
STOP_MARGIN_S = 5
PASSED_ON = ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
SETTINGS = ("VLLM_", "SGLANG_", "NCCL_", "OTEL_")
# A port that all processes of vLLM count up from; in a pod beside a service called `vllm`, an URL, which it refuses.
FOREIGN = ("VLLM_PORT",)
CAUSES: Causes = (
    (
        r"could not select device driver|unresolvable cdi devices|nvidia-container-cli",
        "the container can't be given a GPU: install the NVIDIA Container Toolkit (podman: and run "
        "`nvidia-ctk cdi generate`)",
    ),
    (
        r"pull access denied|manifest unknown|manifest for .* not found|no such image|image not known"
        r"|repository does not exist|requested access to the resource is denied|short-name .* did not resolve",
        "its image can't be had: check models.N.image, and whether you are logged in to its registry",
    ),
    (
        r"cannot connect to the docker daemon|permission denied while trying to connect",
        "docker does not run, or this user may not use it: start it, or add the user to the group docker",
    ),
    (r"executable file .{0,80}not found", "the image does not hold this engine: check models.N.image"),
)
GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0")


def runtime_of(environ: Mapping[str, str]) -> str | None:
    """The program that runs containers."""
    found = (shutil.which(name, path=environ.get("PATH", "")) for name in RUNTIMES)
    return next((path for path in found if path), None)


def image_mistakes(model: ModelConfig, environ: Mapping[str, str]) -> Iterator[str]:
    """A complaint where the model's image can't be run."""
    if model.image and runtime_of(environ) is None:
        yield f"image: {model.image} needs docker or podman, and neither is on the PATH; install one, or set venv"


def inside(placement: Placement) -> Placement:
    """Where the engine listens, seen from within."""
    return replace(placement, host=HOST, port=PORT, gpus=None)


def in_image(
    launch: Launch,
    model: ModelConfig,
    placement: Placement,
    environ: Mapping[str, str],
    reads: tuple[str, ...] = (),
    gpu_devices: tuple[str, ...] = GPU_DEVICES,
) -> Launch:
    """`launch`, run in a container of the model's image that is reached at `placement`.

    Args:
        launch: as it is within; its first word is the entry point.
        environ: of the client; what of it concerns engines is passed on.
        reads: files that the command reads, beside the model's folder and what its arguments name.
        gpu_devices: where nobody has chosen GPUs, it gets all of them if one of these is there.
    """
    runtime = runtime_of(environ) or RUNTIMES[0]
    name = f"penstock-{re.sub(r'[^a-zA-Z0-9_.-]', '-', model.name)}-{placement.port}"
    folder = local_folder(model)
    read = dict.fromkeys((*([str(folder)] if folder else []), *reads, *_named_paths(model.engine_args)))
    env = {
        **{
            name: value
            for name, value in environ.items()
            if name.startswith(SETTINGS) and name not in FOREIGN
        },
        **launch.env,
        "HF_HOME": HUGGINGFACE,
        "XDG_CACHE_HOME": ENGINE_CACHE,
    }
    mounts = [
        _mount(path, path, "readonly") for path in read if path != model.engine_args.get("download_dir")
    ]
    mounts += [_mount(what, path) for path, what in _written(model, environ).items()]
    return Launch(
        argv=(
            *(runtime, "run", "--rm", *(() if _is_podman(runtime) else ("--init",)), "--name", name),
            *("--publish", f"{placement.host}:{placement.port}:{PORT}"),
            *("--stop-timeout", str(placement.drain_s + STOP_MARGIN_S), "--shm-size", SHM_SIZE),
            *("--security-opt", "no-new-privileges"),
            *_gpus(runtime, placement, gpu_devices),
            *(word for mount in mounts for word in ("--mount", mount)),
            *(word for variable in sorted({*env, *PASSED_ON}) for word in ("--env", variable)),
            *("--entrypoint", launch.argv[0], str(model.image), *launch.argv[1:]),
        ),
        env=env,
        cleanup=(runtime, "rm", "--force", name),
    )


def _written(model: ModelConfig, environ: Mapping[str, str]) -> dict[str, str]:
    """What it keeps from one start to the next, by the path within: models of the Hub, compiled kernels."""
    home = environ.get("HF_HOME") or str(Path(environ.get("HOME", "/root")) / ".cache" / "huggingface")
    kept = {
        HUGGINGFACE: home if Path(home).is_dir() else "penstock-huggingface",
        ENGINE_CACHE: "penstock-engine-cache",
    }
    cache = cache_folder(environ).absolute()  # it may lie elsewhere: HF_HUB_CACHE
    if cache.is_dir() and cache != Path(home).absolute() / "hub":
        kept[f"{HUGGINGFACE}/hub"] = str(cache)
    folder = model.engine_args.get("download_dir")
    return {**kept, folder: folder} if isinstance(folder, str) and Path(folder).is_dir() else kept


def _named_paths(args: Mapping[str, object]) -> Iterator[str]:
    """The files and folders that arguments name: whole, or behind `name=`."""
    for text in _texts(args.values()):
        path = text if text.startswith("/") else text.partition("=")[2]
        if path.startswith("/") and Path(path).exists():
            yield path


def _texts(values: Iterable[object]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list | tuple):
            yield from _texts(value.values() if isinstance(value, dict) else value)


def _gpus(runtime: str, placement: Placement, devices: tuple[str, ...]) -> tuple[str, ...]:
    gpus = placement.gpus
    if gpus == () or (gpus is None and not any(Path(device).exists() for device in devices)):
        return ()
    if _is_podman(runtime):  # by the Container Device Interface
        names = ("all",) if gpus is None else gpus
        return tuple(word for one in names for word in ("--device", f"nvidia.com/gpu={one}"))
    # The option's value is a line of CSV, so that a list needs its quotes.
    return ("--gpus", "all" if gpus is None else f'"device={",".join(map(str, gpus))}"')


def _is_podman(runtime: str) -> bool:
    """Whether GPUs have CDI's names, and the init process is a package of its own that is often not there."""
    return Path(runtime).name == "podman"


def _mount(source: str, target: str, *options: str) -> str:
    kind = "bind" if source.startswith("/") else "volume"
    fields = (f"type={kind}", f"source={source}", f"target={target}", *options)
    return ",".join(f'"{one}"' if "," in one else one for one in fields)  # a line of CSV
