"""Peers from a package index: each in a virtual environment of its own, its versions pinned in `locks/`, made once.

They lie outside the work tree, in `PENSTOCK_BENCH_CACHE` or `~/.cache/penstock-bench`. To pin newer versions, install
the peer by hand and put what `pip freeze` says in its lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LOCKS = Path(__file__).with_name("locks")
INSTALL_TIMEOUT_S = 900.0


class AbsentError(Exception):
    """A peer that can't be had here; the text says why."""


@dataclass(frozen=True, slots=True)
class Package:
    """A peer that pip installs.

    Args:
        lock: the name of its file in `locks`, without `.txt`.
        name: the distribution whose version is shown.
        python_min: it does not run on an older one.
        options: further options of `pip install`.
    """

    lock: str
    name: str
    python_min: tuple[int, int] = (3, 11)
    options: tuple[str, ...] = ()

    def version(self, locks: Path = LOCKS) -> str:
        """The version that is pinned."""
        pinned = re.search(rf"^{re.escape(self.name)}(?:==| @ \S+@)(\S+)$", self._text(locks), re.M | re.I)
        return pinned[1] if pinned else "?"

    def installed(self, cache: Path, locks: Path = LOCKS) -> Path:
        """Its virtual environment, made first where there is none for these versions.

        Raises:
            AbsentError: there is no Python for it, or pip could not install it.
        """
        python = _python(self.python_min)
        digest = hashlib.sha256(f"{python} {platform.python_version()} {self._text(locks)}".encode())
        venv = cache / f"{self.lock}-{digest.hexdigest()[:12]}"
        complete = venv / "complete"
        with _alone(cache):
            if not complete.exists():
                print(f"installing {self.lock} into {venv}", file=sys.stderr)
                shutil.rmtree(venv, ignore_errors=True)
                _made((python, "-m", "venv", str(venv)))
                pip = (str(venv / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check")
                _made((*pip, "--quiet", *self.options, "--requirement", str(locks / f"{self.lock}.txt")))
                complete.touch()
        return venv

    def _text(self, locks: Path) -> str:
        return (locks / f"{self.lock}.txt").read_text()


def cache_folder() -> Path:
    """Where the environments are kept."""
    named = os.environ.get("PENSTOCK_BENCH_CACHE")
    return Path(named).absolute() if named else Path.home() / ".cache" / "penstock-bench"


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """One installation at a time, over all processes."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _python(wanted: tuple[int, int]) -> str:
    """This Python where it is new enough, else the oldest one on the PATH that is."""
    if sys.version_info[:2] >= wanted:
        return sys.executable
    for minor in range(wanted[1], wanted[1] + 4):
        path = shutil.which(f"python{wanted[0]}.{minor}")
        if path and subprocess.run((path, "-c", ""), capture_output=True, check=False).returncode == 0:
            return path
    raise AbsentError(f"it needs Python {wanted[0]}.{wanted[1]} or newer, and there is none on the PATH")


def _made(argv: Sequence[str]) -> None:
    env = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False, env=env
        )
    except subprocess.TimeoutExpired:
        raise AbsentError(f"installing it took longer than {INSTALL_TIMEOUT_S:g} s") from None
    if done.returncode:
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
        reasons = [line for word in ("fatal:", "ERROR:", "error:") for line in said if line.startswith(word)]
        raise AbsentError(f"pip could not install it: {(reasons or said or ['no reason given'])[0][:300]}")
