"""Where models of the Hugging Face Hub are kept, as huggingface_hub has it.

Its layout (its guide "Understand caching"): `blobs` by checksum, `snapshots` of links by commit, `refs` by branch. What
is being fetched is beside the blobs, and ends in `.incomplete`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from penstock.engines.paths import path_of

INCOMPLETE = ".incomplete"
PARTS = ".penstock"
"""The folder, in one that is named for a model, of what is being fetched into it."""

BRANCH_DEFAULT = "main"


def cache_folder(environ: Mapping[str, str]) -> Path:
    """The folder; it may not be there yet."""
    named = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
    if named:
        return path_of(os.path.expandvars(named))
    base = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return path_of(os.path.expandvars(environ.get("HF_HOME") or f"{base}/huggingface")) / "hub"


def repo_folder(cache: Path, repo: str) -> Path:
    """The folder of one repository in the cache."""
    return cache / f"models--{repo.replace('/', '--')}"


def snapshot(cache: Path, repo: str) -> Path | None:
    """The folder of the newest files of a repository that are known here, of its main branch or the only one there is;
    None where there is none."""
    folder = repo_folder(cache, repo)
    with suppress(OSError, UnicodeDecodeError):
        commit = (folder / "refs" / BRANCH_DEFAULT).read_text("ascii").strip()
        if re.fullmatch(r"[0-9a-f]{40}", commit) and (folder / "snapshots" / commit).is_dir():
            return folder / "snapshots" / commit
    with suppress(OSError):
        found = list((folder / "snapshots").iterdir())
        return found[0] if len(found) == 1 else None
    return None


def incomplete_bytes(folder: Path) -> int:
    """What is there of files that are not whole, in bytes, in a folder of blobs or parts."""
    return sum(path.stat().st_size for path in folder.glob(f"*{INCOMPLETE}"))
