"""Where an engine's program and packages are installed, found without importing or starting anything."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from penstock.engines.paths import path_of

Version = tuple[int, ...]

_NUMBERS = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")
_PACKAGES = ("lib/python3*/site-packages", "lib64/python3*/site-packages", "lib/python3*/dist-packages")


@dataclass(frozen=True, slots=True)
class Installation:
    """A Python environment.

    Args:
        folder: the one that holds `bin` and `lib`.
    """

    folder: Path

    def command(self, name: str) -> Path | None:
        """A command of it."""
        path = self.folder / "bin" / name
        return path if os.access(path, os.X_OK) and path.is_file() else None

    @property
    def python(self) -> Path | None:
        """Its interpreter."""
        return self.command("python3") or self.command("python")

    def distribution(self, names: Iterable[str]) -> metadata.Distribution | None:
        """The first installed one of these packages."""
        for name in names:
            found = next(iter(metadata.distributions(name=name, path=self._packages)), None)
            if found is not None:
                return found
        return None

    def has_plugins(self, group: str, but: Iterable[str]) -> bool:
        """Whether any package `but` these has entry points whose group begins with `group`."""
        others = (one for one in metadata.distributions(path=self._packages) if one.name not in but)
        return any(point.group.startswith(group) for one in others for point in one.entry_points)

    def source(self, path: str) -> Path | None:
        """A file of its packages, as `vllm/engine/arg_utils.py`."""
        return next((file for folder in self._packages if (file := Path(folder) / path).is_file()), None)

    @property
    def _packages(self) -> list[str]:
        return [str(path) for pattern in _PACKAGES for path in sorted(self.folder.glob(pattern))]


def find(command: str, venv: str, environ: Mapping[str, str]) -> Installation | None:
    """The environment that has `command`.

    Args:
        venv: the only folder to look in; empty for the environment of this process, then the PATH of `environ`.
    """
    if venv:
        found = Installation(path_of(venv))
        return found if found.command(command) else None
    own = Installation(Path(sys.prefix))
    if own.command(command):
        return own
    path = shutil.which(command, path=environ.get("PATH", ""))
    return Installation(Path(path).resolve().parent.parent) if path else None


def version_of(text: str) -> Version | None:
    """Major, minor and patch of a version; None where it does not begin so, or stands for none (0.0.0)."""
    match = _NUMBERS.match(text.removeprefix("v"))
    numbers = tuple(int(part or 0) for part in match.groups()) if match else ()
    return numbers if any(numbers) else None
