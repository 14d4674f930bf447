"""Where a model's files are put on this disk: into the Hub's ordinary cache, or into a folder that is named."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from penstock.engines.hub_cache import BRANCH_DEFAULT, INCOMPLETE, PARTS, repo_folder
from penstock.planner.repository import Listed


class Shelf(Protocol):
    """Where the files of one repository at one commit are put."""

    root: Path
    """The folder that holds them by their names once they are there."""

    large: Mapping[str, str]
    """What tells huggingface_hub to put a file there."""

    def part(self, file: Listed) -> Path:
        """Where what is there of a file is kept until it is whole."""

    def whole(self, file: Listed) -> Path | None:
        """Where a file lies that is there and as long as it should be; None where there is none such."""

    def place(self, file: Listed) -> None:
        """Puts what `part` names, whole now, where it belongs."""

    def drop(self, file: Listed) -> None:
        """Removes a file that is damaged."""

    def finish(self) -> None:
        """Ends a download of which everything is there."""


class CacheShelf:
    """The Hub's cache.

    Args:
        cache: its folder.
        revision: that was asked for: a branch or tag is noted as this commit.
    """

    def __init__(self, cache: Path, repo: str, commit: str, revision: str | None) -> None:
        self._folder = repo_folder(cache, repo)
        self._commit = commit
        self._revision = revision or BRANCH_DEFAULT
        self.root = self._folder / "snapshots" / commit
        self.large: Mapping[str, str] = {"cache_dir": str(cache)}

    def part(self, file: Listed) -> Path:
        """As `Shelf` says."""
        return self._blob(file).with_name(_key(file) + INCOMPLETE)

    def whole(self, file: Listed) -> Path | None:
        """As `Shelf` says."""
        link, blob = self.root / file.name, self._blob(file)
        return next((path for path in (link, blob) if _has_size(path, file.size_bytes)), None)

    def place(self, file: Listed) -> None:
        """As `Shelf` says; where links can't be made, the file itself is put there."""
        blob, link = self._blob(file), self.root / file.name
        part = self.part(file)
        if part.exists():
            part.replace(blob)
        link.parent.mkdir(parents=True, exist_ok=True)
        if _has_size(link, file.size_bytes):
            return
        link.unlink(missing_ok=True)
        try:
            link.symlink_to(os.path.relpath(blob, link.parent))
        except OSError:
            blob.replace(link)

    def drop(self, file: Listed) -> None:
        """As `Shelf` says."""
        (self.root / file.name).unlink(missing_ok=True)
        self._blob(file).unlink(missing_ok=True)

    def finish(self) -> None:
        """Notes which commit the branch or tag is."""
        if self._revision == self._commit:
            return
        ref = self._folder / "refs" / self._revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        fresh = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
        fresh.write_text(self._commit, "ascii")
        fresh.replace(ref)

    def _blob(self, file: Listed) -> Path:
        return self._folder / "blobs" / _key(file)


class FolderShelf:
    """A folder that is named."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.large: Mapping[str, str] = {"local_dir": str(folder)}
        self._parts = folder / PARTS

    def part(self, file: Listed) -> Path:
        """As `Shelf` says."""
        return self._parts / (_key(file) + INCOMPLETE)

    def whole(self, file: Listed) -> Path | None:
        """As `Shelf` says."""
        path = self.root / file.name
        return path if _has_size(path, file.size_bytes) else None

    def place(self, file: Listed) -> None:
        """As `Shelf` says."""
        path = self.root / file.name
        if self.part(file).exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.part(file).replace(path)

    def drop(self, file: Listed) -> None:
        """As `Shelf` says."""
        (self.root / file.name).unlink(missing_ok=True)

    def finish(self) -> None:
        """Removes the folder of parts, unless others are in it."""
        with suppress(OSError):
            self._parts.rmdir()


def _key(file: Listed) -> str:
    """What a file is called in the cache: its checksum, as the Hub's ETag says."""
    return file.sha256 or file.blob


def _has_size(path: Path, size_bytes: int) -> bool:
    try:
        return path.stat().st_size == size_bytes and path.is_file()
    except OSError:
        return False
