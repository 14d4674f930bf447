"""How long the last start of each model took, for whoever waits for the next one."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from penstock.store.home import write_private

MODELS_MAX = 256


@dataclass(frozen=True, slots=True)
class Start:
    """A start that came to its end.

    Args:
        of: what was started: engine, source and options, in any form that tells them apart.
        took_s: until it answered.
    """

    of: str
    took_s: float


class Starts:
    """The last start of each model, in a file.

    Args:
        path: `Home.starts`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def took_s(self, model: str, of: str) -> float | None:
        """How long the model took; None where it was another one then, or nobody knows."""
        found = self._read().get(model)
        return found.took_s if found is not None and found.of == of and found.took_s > 0 else None

    def note(self, model: str, start: Start) -> None:
        """Remembers the start, in place of the one before; nothing where it can't be written."""
        others = [(name, one) for name, one in self._read().items() if name != model]
        kept = dict([*others[-MODELS_MAX + 1 :], (model, start)])
        with suppress(OSError):
            write_private(self._path, msgspec.json.encode(kept))

    def _read(self) -> dict[str, Start]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Start])
        except (OSError, ValueError):  # msgspec's are ValueErrors, and so is what is no UTF-8
            return {}
