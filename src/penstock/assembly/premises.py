"""What the keepers of one process share: process trees and their records, reports, GPUs."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from penstock.core.config import ModelConfig
from penstock.core.errors import PenstockError
from penstock.store.home import Home
from penstock.store.runtime import PartReports
from penstock.supervisor import machine
from penstock.supervisor.gpus import Gpus, check_gpus
from penstock.supervisor.keeper import Surroundings
from penstock.supervisor.reports import Reports
from penstock.supervisor.room import Machine
from penstock.supervisor.trees import Trees
from penstock.telemetry.gpu import GpuMemory, free_memory, holders, memory


class Premises:
    """What this process, which supervises, has of the machine and of its home.

    Args:
        environ: of this process, which may hide GPUs.
        models: all that are configured.
        say: prints a line for the owner.
    """

    def __init__(
        self,
        home: Home,
        environ: Mapping[str, str],
        models: Iterable[ModelConfig],
        say: Callable[[str], None],
    ) -> None:
        self._environ = environ
        self._say = say
        self._trees = Trees.here(home.trees)
        self._reports = PartReports(home.parts)
        self.gpus = Gpus(self._free_memory, models)
        self.machine = Machine(
            machine.host_free_bytes,
            machine.family,
            machine.private_bytes,
            self._gpu_memory,
            self.gpus.candidates,
        )

    def around(self, environ: Mapping[str, str]) -> Surroundings:
        """What a keeper gets whose children start from `environ`."""
        return Surroundings(
            environ,
            time.monotonic,
            random.random,
            self._say,
            trees=self._trees,
            reports=Reports(self._reports, time.time),
            gpu_users=holders,
        )

    def check_gpus(self, models: Sequence[ModelConfig]) -> None:
        """Counts the GPUs that the models ask for.

        Raises:
            PenstockError: there are not so many.
        """
        check_gpus(models, self._free_memory)

    def end_left(self, model: str) -> None:
        """Ends what an earlier supervisor has left of a model, or of the gateway where `model` is empty."""
        for part in self._trees.end_left(model, self._say, self._environ):
            self._reports.remove(part)

    def models_left(self) -> frozenset[str]:
        """The models of which an earlier supervisor may have left something, or this one runs something."""
        return self._trees.models_left() - {""}

    def _gpu_memory(self) -> Sequence[GpuMemory]:
        try:
            return memory(self._environ)
        except PenstockError:  # as below
            return ()

    def _free_memory(self) -> Mapping[int, int]:
        try:
            return free_memory(self._environ)
        except PenstockError:  # no GPU, or none that answers
            return {}
