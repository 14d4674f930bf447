"""`.penstock/`: the one folder that Penstock writes to, and how it writes a file there.

Everything in it is for its owner alone: folders have mode 0700, files 0600. A file is replaced whole, so that
a reader sees the old text or the new one and never a part.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from penstock.core.errors import PenstockError

FOLDER = ".penstock"
VARIABLE = "PENSTOCK_HOME"
FOLDER_MODE = 0o700
FILE_MODE = 0o600

_PROOF_BYTES = 4096  # one block: a disk without room for it has no room for keys either
_CAUSES = {
    errno.EROFS: ("the file system is read-only", "a folder that can be written"),
    errno.EACCES: ("permission denied", "a folder that you own"),
    errno.EPERM: ("permission denied", "a folder that you own"),
    errno.ENOSPC: ("the disk is full", "a disk with room, or make some"),
    errno.EDQUOT: ("your disk quota is used up", "a disk with room, or make some"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "a path of folders"),
    errno.EEXIST: ("it is a file, not a folder", "another path, or move that file away"),
}


@dataclass(frozen=True, slots=True)
class Home:
    """The paths of one Penstock home."""

    root: Path

    @classmethod
    def of(cls, environ: Mapping[str, str], cwd: Path) -> Home:
        """The home that `PENSTOCK_HOME` names, else `.penstock` in `cwd`."""
        named = environ.get(VARIABLE, "")
        return cls((cwd / named) if named else (cwd / FOLDER))

    @property
    def keys(self) -> Path:
        """The API keys, as digests."""
        return self.root / "keys.json"

    @property
    def run(self) -> Path:
        """What is running now."""
        return self.root / "run"

    @property
    def lock(self) -> Path:
        """Held by the process that runs this home."""
        return self.run / "lock"

    @property
    def replicas(self) -> Path:
        """One registration for each running replica."""
        return self.run / "replicas"

    @property
    def parts(self) -> Path:
        """What the supervisor knows of each part that it runs."""
        return self.run / "parts"

    @property
    def trees(self) -> Path:
        """The processes of each part, for who has to end what a killed supervisor left."""
        return self.run / "trees"

    @property
    def logs(self) -> Path:
        """The output of engines and gateway, one file each."""
        return self.root / "logs"

    @property
    def starts(self) -> Path:
        """How long the last start of each model took."""
        return self.root / "starts.json"

    @property
    def journal(self) -> Path:
        """What was used, line by line."""
        return self.root / "journal"

    @property
    def ledger(self) -> Path:
        """What was used, in SQLite; made from the journal."""
        return self.root / "usage.sqlite"

    @property
    def answers(self) -> Path:
        """Answers kept for requests with an idempotency key."""
        return self.run / "answers.sqlite"

    @property
    def limits(self) -> Path:
        """What the workers of this machine count together."""
        return self.run / "limits"

    @property
    def admin_key(self) -> Path:
        """The key of the admin API, where none is configured."""
        return self.root / "admin-key"

    @property
    def control(self) -> Path:
        """The socket over which commands reach the supervisor."""
        return self.run / "control"

    @property
    def workers(self) -> Path:
        """What the workers of the gateway tell each other."""
        return self.run / "workers"

    @property
    def drained(self) -> Path:
        """The replicas that were asked to drain."""
        return self.run / "drained.json"

    @property
    def refusal(self) -> Path:
        """Why the supervisor has refused the last reload."""
        return self.run / "reload-refused"

    def engine_lock(self, model: str) -> Path:
        """Held by the process that runs the replicas of `model`."""
        return self.run / f"engine-{file_name(model)}.lock"

    def log(self, name: str) -> Path:
        """The log of the engine or gateway `name`."""
        return self.logs / f"{file_name(name)}.log"

    def prepare(self) -> None:
        """Makes the folders, and proves that a file can be written.

        Raises:
            PenstockError: it can't be written, and why.
        """
        try:
            for folder in (
                self.root,
                self.run,
                self.replicas,
                self.parts,
                self.trees,
                self.logs,
                self.journal,
            ):
                folder.mkdir(mode=FOLDER_MODE, parents=folder is self.root, exist_ok=True)
            self.root.chmod(FOLDER_MODE)
            proof = self.run / f"proof-{os.getpid()}"
            write_private(proof, bytes(_PROOF_BYTES))
            proof.unlink()
        except OSError as error:
            cause, cure = _CAUSES.get(
                error.errno or 0, (os.strerror(error.errno or 0).lower(), "another folder")
            )
            raise PenstockError(
                f"can't write to {self.root}: {cause}",
                code="home_unusable",
                hint=f"run in, or set {VARIABLE} to, {cure}",
            ) from error


def file_name(name: str) -> str:
    """`name` as a file name: other characters than letters, digits, `.`, `_`, `-` as `%XX`; never hidden."""
    safe = "".join(
        char if char.isascii() and (char.isalnum() or char in "._-") else _percent(char) for char in name
    )
    return f"%2E{safe[1:]}" if safe.startswith(".") else safe


def write_private(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replaces the file at `path` with `data`, whole or not at all.

    Args:
        durable: also across a power cut, which takes a wait for the disk.

    Raises:
        OSError: it can't be written; the old file is as it was.
    """
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE), "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        with suppress(OSError):
            fresh.unlink()
        raise


def _percent(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode())
