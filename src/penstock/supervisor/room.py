"""Whether another replica has room beside those that run: in the machine's memory, and in its GPUs'.

What a running replica holds tells best what another one needs. Silent where nothing is known: a start that fails
leaves the old replica as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.core.config import ModelConfig
from penstock.core.units import format_size
from penstock.engines import llamacpp
from penstock.engines.paths import path_of
from penstock.planner.plan import UTILIZATION_DEFAULT
from penstock.supervisor.gpus import span
from penstock.telemetry.gpu import GpuMemory

HOST_RESERVE_BYTES = 256 * 1024**2
"""Memory that a start leaves to everything else."""

WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")
WEIGHT_FILES_MAX = 4096


@dataclass(frozen=True, slots=True)
class Machine:
    """What is asked of this machine.

    Args:
        host_free_bytes: memory that a process could still get.
        family: the ids of a process and all below it.
        private_bytes: memory that a process shares with no other.
        gpus: its GPUs; none where there is no driver.
        gpus_for: indices of those that one more replica of a model could be given; None where nobody chooses.
    """

    host_free_bytes: Callable[[], int]
    family: Callable[[int], Sequence[int]]
    private_bytes: Callable[[int], int]
    gpus: Callable[[], Sequence[GpuMemory]]
    gpus_for: Callable[[ModelConfig], Sequence[int] | None]


@dataclass(frozen=True, slots=True)
class Room:
    """How many replicas fit beside those that run.

    Args:
        replicas: at least 0; None where nothing is known.
        why: with numbers, as the end of a sentence.
    """

    replicas: int | None
    why: str = ""


def room_beside(before: ModelConfig, after: ModelConfig, pids: Sequence[int], machine: Machine) -> Room:
    """Room for replicas of `after` beside those of `before`, whose processes are `pids`."""
    families = [machine.family(pid) for pid in pids]
    known = [
        room
        for room in (_on_gpus(after, families, machine), _on_host(before, after, families, machine))
        if room
    ]
    return min(known, key=lambda room: room.replicas or 0, default=Room(None))


def _on_host(
    before: ModelConfig, after: ModelConfig, families: Sequence[Sequence[int]], machine: Machine
) -> Room | None:
    held = max((sum(map(machine.private_bytes, family)) for family in families), default=0)
    need = held + _more_weights(before, after)
    if not need:
        return None
    free = machine.host_free_bytes()
    fits = max(0, free - HOST_RESERVE_BYTES) // need
    return Room(fits, f"another replica needs {format_size(need)} of memory; {format_size(free)} are free")


def _more_weights(before: ModelConfig, after: ModelConfig) -> int:
    """Bytes that other weights take beyond those that the running replica holds by itself."""
    if before.engine == after.engine and before.source == after.source:
        return 0
    if after.engine == "llamacpp":  # which maps its file: nothing of the old one is counted as its own
        return _weights(llamacpp.model_path(after))
    return max(0, _weights(path_of(str(after.source))) - _weights(path_of(str(before.source))))


def _weights(path: Path) -> int:
    """Bytes of the weights that lie at `path`; 0 where none do."""
    try:
        if path.is_dir():
            files = (file for pattern in WEIGHTS for file in path.glob(pattern))
            return sum(file.stat().st_size for file, _ in zip(files, range(WEIGHT_FILES_MAX), strict=False))
        return path.stat().st_size
    except OSError:
        return 0


def _on_gpus(model: ModelConfig, families: Sequence[Sequence[int]], machine: Machine) -> Room | None:
    if model.gpus == ():
        return None
    gpus, given = machine.gpus(), machine.gpus_for(model)
    shares = [share for family in families if (share := _share(family, gpus))]
    if given is not None:
        if len(given) < span(model):
            return Room(0, _too_few(model, len(given)))
        gpus = [gpu for gpu in gpus if gpu.index in given]
    asked = list(_asked(model, gpus))
    if not gpus or not (asked or shares):
        return None
    count = len(asked) or max(len(share) for share in shares)
    need = max(asked or (held for share in shares for held in share))
    fits = sum(gpu.free_bytes >= need for gpu in gpus) // count
    free = ", ".join(f"{format_size(gpu.free_bytes)} on GPU {gpu.index}" for gpu in gpus)
    on = "a GPU" if count == 1 else f"each of {count} GPUs"
    return Room(fits, f"another replica needs {format_size(need)} of {on}; free are {free}")


def _too_few(model: ModelConfig, left: int) -> str:
    count = span(model)
    gpus = "a GPU" if count == 1 else f"{count} GPUs"
    return f"another replica needs {gpus}, and of those that it may have, {left or 'none'} are free"


def _share(family: Sequence[int], gpus: Sequence[GpuMemory]) -> list[int]:
    """What a replica holds of each GPU that it uses."""
    held = (sum(gpu.held_bytes.get(pid, 0) for pid in family) for gpu in gpus)
    return [one for one in held if one]


def _asked(model: ModelConfig, gpus: Sequence[GpuMemory]) -> Iterator[int]:
    """What vLLM takes of each GPU whatever it needs; it refuses to start with less."""
    sizes = [model.engine_args.get(f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline")]
    part = model.engine_args.get("gpu_memory_utilization", UTILIZATION_DEFAULT)
    if model.engine != "vllm" or not gpus or not isinstance(part, int | float):
        return
    if all(type(size) is int for size in sizes):
        for _ in range(int(sizes[0]) * int(sizes[1])):
            yield int(part * max(gpu.total_bytes for gpu in gpus))
