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


class Gpus:
    """The machine's GPUs, of which the first is the one that suffers.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._machine: dict[str, Any] = {}
        self._first: dict[str, Any] = {}
        self._others: list[dict[str, Any]] = []
        self._write()

    @contextmanager
    def told(self, **changes: Any) -> Iterator[None]:
        """The first one tells something else, until it is left."""
        self._set(first=changes)
        try:
            yield
        finally:
            self._set(first={})

    @contextmanager
    def growing(self, at: Callable[[int], Mapping[str, Any]]) -> Iterator[None]:
        """The first one tells something else each half second, by the number of the half second."""
        over = threading.Event()

        def grow() -> None:
            step = 0
            while not over.wait(GROWS_EVERY_S):
                step += 1
                self._set(first=dict(at(step)))

        thread = threading.Thread(target=grow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._set(first={})

    @contextmanager
    def another(self, **gpu: Any) -> Iterator[None]:
        """There is one more."""
        self._set(others=[gpu])
        try:
            yield
        finally:
            self._set(others=[])

    @contextmanager
    def machine(self, **changes: Any) -> Iterator[None]:
        """The driver itself is not well."""
        self._set(machine=changes)
        try:
            yield
        finally:
            self._set(machine={})

    def _set(self, **changes: Any) -> None:
        with self._lock:
            for name, value in changes.items():
                setattr(self, f"_{name}", value)
            self._write()

    def _write(self) -> None:
        gpus = [
            {**gpu, "fields": {**FIELDS, **gpu.get("fields", {})}} for gpu in (self._first, *self._others)
        ]
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps({**self._machine, "gpus": gpus}))
        fresh.replace(self.path)
