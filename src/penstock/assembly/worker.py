"""Which worker of a gateway a process is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.core.config_sources import INTERNAL_PREFIX

WORKER_VARIABLE = f"{INTERNAL_PREFIX}WORKER"
WORKERS_VARIABLE = f"{INTERNAL_PREFIX}WORKERS"


@dataclass(frozen=True, slots=True)
class Worker:
    """Which worker of a gateway this process is: `number` of `count`."""

    number: int = 0
    count: int = 1

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Worker:
        """The worker that the parent's variables name; the only one where there are none."""
        return cls(int(environ.get(WORKER_VARIABLE, "0")), int(environ.get(WORKERS_VARIABLE, "1")))
