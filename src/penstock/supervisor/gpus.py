"""Which GPUs a replica gets: those that the configuration names, else free ones with the most free memory.

No GPU is given to two replicas unless it is named for each of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import prod

from penstock.core.config import ModelConfig
from penstock.core.errors import PenstockError

GPU_KINDS = frozenset({"vllm", "sglang", "transformers"})
"""Engine kinds that take a GPU where there is one, without being told."""

FreeMemory = Callable[[], Mapping[int, int]]
"""Bytes that are free on each GPU that may be used, by index; empty where there is none."""

GpuUsers = Callable[[Sequence[int]], Mapping[int, int]]
"""Bytes that each process holds on these GPUs, by process id."""

_SPANS = (
    ("tensor_parallel_size", "tp_size", "tp"),
    ("pipeline_parallel_size", "pp_size", "pp"),
    ("data_parallel_size_local", "data_parallel_size", "dp_size", "dp"),
)


def span(model: ModelConfig) -> int:
    """GPUs that one replica works on together."""
    return prod(
        _size(next((model.engine_args[name] for name in names if name in model.engine_args), 1))
        for names in _SPANS
    )


class Gpus:
    """The GPUs of this machine, and who has them.

    Args:
        models: all that are configured; what they name is not given to others by itself.
    """

    def __init__(self, free: FreeMemory, models: Iterable[ModelConfig] = ()) -> None:
        self._free = free
        self.name(models)
        self._given: dict[str, tuple[int, ...]] = {}

    def take(self, name: str, model: ModelConfig) -> tuple[int, ...] | None:
        """The GPUs of the replica `name` until they are given back; None where nobody has to choose.

        Raises:
            PenstockError: there are not enough of them now.
        """
        if name in self._given:
            return self._given[name]
        found = self.candidates(model)
        if found is None or model.gpus == ():
            return found
        count = span(model)
        chosen = found[:count]
        if len(chosen) < count:
            raise PenstockError(
                f"{name} needs {_gpus(count)}, and there {_are(len(chosen))} free for it: stop another replica, "
                "or name GPUs that it may share in models.N.gpus",
                code="no_gpu_free",
            )
        self._given[name] = tuple(sorted(chosen))
        return self._given[name]

    def candidates(self, model: ModelConfig) -> tuple[int, ...] | None:
        """The GPUs that one more replica could get, those first that it would; None where nobody has to choose."""
        if model.gpus is not None:
            left = Counter(model.gpus) - Counter(self._of(model.name))
            # In their order; those that most replicas shall share first, or the last would find but one of them.
            named = dict.fromkeys(index for index in model.gpus if left[index])
            return tuple(sorted(named, key=lambda index: -left[index]))
        free = self._free() if model.engine in GPU_KINDS else {}
        if not free:
            return None
        taken = self._named.union(*self._given.values())
        return tuple(sorted(free.keys() - taken, key=lambda index: (-free[index], index)))

    def name(self, models: Iterable[ModelConfig]) -> None:
        """Follows another configuration: what its models name is not given to others by itself."""
        self._named = {index for model in models for index in model.gpus or ()}

    def give_back(self, name: str) -> None:
        """Makes the GPUs of a replica free for others."""
        self._given.pop(name, None)

    def _of(self, model: str) -> Iterator[int]:
        for name, indices in self._given.items():
            if name.rpartition("-")[0] == model:
                yield from indices


def check_gpus(models: Sequence[ModelConfig], free: FreeMemory) -> None:
    """Counts what the models ask for, before anything is started.

    Raises:
        PenstockError: there are not so many GPUs; every complaint a line.
    """
    complaints = [said for number, model in enumerate(models) for said in _named_wrongly(number, model, free)]
    automatic = [
        (number, model)
        for number, model in enumerate(models)
        if model.gpus is None and model.engine in GPU_KINDS
    ]
    there = free() if automatic else {}
    if there:
        left = len(there.keys() - {index for model in models for index in model.gpus or ()})
        wanted = sum(model.replicas * span(model) for _, model in automatic)
        if wanted > left:
            each = ", ".join(
                f"models.{number} {model.replicas} x {span(model)}" for number, model in automatic
            )
            complaints.append(
                f"models: {_gpus(wanted)} {'is' if wanted == 1 else 'are'} needed ({each}: replicas x GPUs of each), "
                f"and there {_are(left)} for them here: lower replicas or tensor_parallel_size, or let replicas share "
                "by naming a GPU for each of them in models.N.gpus"
            )
    if complaints:
        raise PenstockError("\n".join(complaints), code="models_unusable")


def _named_wrongly(number: int, model: ModelConfig, free: FreeMemory) -> Iterator[str]:
    if not model.gpus:
        return
    there = sorted(free())
    missing = sorted(set(model.gpus).difference(there))
    if missing:
        has = (
            f"there {_are(len(there))} here: {', '.join(map(str, there))}" if there else "there is none here"
        )
        yield f"models.{number}.gpus: GPU {', '.join(map(str, missing))} can't be used; {has}"
        return
    count, have = span(model), Counter(model.gpus)
    wanted = count * model.replicas
    most = sum(min(times, model.replicas) for times in have.values())
    if most < wanted:
        yield (
            f"models.{number}.gpus: {model.replicas} x {count} are needed (replicas x GPUs of each), and {most} can be "
            "given out: name more, or one again for each replica that shall share it"
        )


def _size(value: object) -> int:
    return value if type(value) is int and value > 0 else 1


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"


def _are(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}"
