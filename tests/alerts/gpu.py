"""GPUs that are not there: what they tell is a file that the exporter reads again."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FIELDS = {
    "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION": 0,
    "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN": 0,
    "NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL": 0,
}
GROWS_EVERY_S = 0.5
GPUS = 2


class Gpus:
    """The machine's GPUs.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._machine: dict[str, Any] = {}
        self._gpus: list[Mapping[str, Any]] = [{} for _ in range(GPUS)]
        self._write()

    @contextmanager
    def told(self, gpu: int = 0, **changes: Any) -> Iterator[None]:
        """One of them tells something else, until it is left."""
        self._set(gpu, changes)
        try:
            yield
        finally:
            self._set(gpu, {})

    @contextmanager
    def growing(self, at: Callable[[int], Mapping[str, Any]]) -> Iterator[None]:
        """The first one tells something else each half second, by the number of the half second."""
        over = threading.Event()

        def grow() -> None:
            step = 0
            while not over.wait(GROWS_EVERY_S):
                step += 1
                self._set(0, at(step))

        thread = threading.Thread(target=grow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._set(0, {})

    @contextmanager
    def machine(self, **changes: Any) -> Iterator[None]:
        """The driver itself is not well."""
        self._machine = changes
        self._write()
        try:
            yield
        finally:
            self._machine = {}
            self._write()

    def _set(self, gpu: int, changes: Mapping[str, Any]) -> None:
        self._gpus[gpu] = changes
        self._write()

    def _write(self) -> None:
        with self._lock:
            gpus = [{**gpu, "fields": {**FIELDS, **gpu.get("fields", {})}} for gpu in self._gpus]
            fresh = self.path.with_suffix(".new")
            fresh.write_text(json.dumps({**self._machine, "gpus": gpus}))
            fresh.replace(self.path)
