"""Models on the Hugging Face Hub, or a mirror of it: their names, what is there, and what its errors mean.

The library huggingface_hub is loaded where the Hub is asked, and nowhere else. It reads `HF_ENDPOINT`,
`HF_HUB_OFFLINE`, `HF_HOME` and `HF_TOKEN` itself. A token is only ever a header of a request to the Hub's own address.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from importlib import import_module
from pathlib import Path
from typing import Any

from penstock import __version__
from penstock.engines.hub_errors import NO_ACCESS, NOT_FOUND, HubError, explained, unaskable
from penstock.planner.repository import FILES_MAX, Listed, is_safe

__all__ = [
    "Hub",
    "HubError",
    "HubName",
    "Incoming",
    "Listing",
    "fetch",
    "local_path",
    "parse_name",
]

INSTALL_HINT = "pip install huggingface_hub, or name a folder that holds the model's config.json"
ASK_TIMEOUT_S = 20.0
READ_TIMEOUT_S = 30.0
"""Longest silence: of an answer of the API, and amid a file."""

PROBE_TIMEOUT_S = 5.0
"""A look before a start, which goes on without it."""

CONFIGS = ("config.json", "params.json")
"""What a repository has that is no bare store of files: Hugging Face's, and Mistral's own."""

CHUNK_BYTES = 1 << 20
FOUND_MAX = 5

_REPO = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}"
_NAME = re.compile(rf"({_REPO})(?::([A-Za-z0-9_.-]{{1,40}})|/([^:\\]{{1,500}}\.gguf))?", re.IGNORECASE)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE_ENDINGS = (".gguf", ".safetensors", ".json")


@dataclass(frozen=True, slots=True)
class HubName:
    """A model on the Hub as it is written: `owner/model`, `owner/model:Q4_K_M` or `owner/model/file.gguf`.

    Args:
        repo: `owner/model`.
        quantization: which of a GGUF repository; may be empty.
        file: its path in the repository; may be empty.
    """

    repo: str
    quantization: str = ""
    file: str = ""

    def __str__(self) -> str:
        """As it is written."""
        if self.file:
            return f"{self.repo}/{self.file}"
        return f"{self.repo}:{self.quantization}" if self.quantization else self.repo


def parse_name(text: str) -> HubName | None:
    """The model of the Hub that `text` names; None where it can only be a path."""
    match = _NAME.fullmatch(text)
    if match is None:
        return None
    repo, quantization, file = match[1], match[2] or "", match[3] or ""
    only_repo = not quantization and not file
    if (only_repo and repo.lower().endswith(_FILE_ENDINGS)) or (file and not is_safe(file)):
        return None
    return HubName(repo, quantization, file)


def local_path(source: str, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Where a model of the Hub lies in the local cache, if it is whole there.

    Args:
        source: `owner/model`, `owner/model:Q4_K_M` or `owner/model/file.gguf`.
        environ: says where the cache is, as huggingface_hub reads it.

    Returns:
        The folder of its files, or the (first) GGUF file; None where it is not there, or not whole.
    """
    from penstock.engines.model_files import cached  # which reads files by this module's names
    from penstock.planner.shapes import PlanError

    try:
        return cached(source, environ)
    except PlanError:
        return None


@dataclass(frozen=True, slots=True)
class Listing:
    """What is in a repository at one commit.

    Args:
        repo: `owner/model`, as its owner spells it now.
        commit: 40 hexadecimal digits.
        files: all of them.
    """

    repo: str
    commit: str
    files: tuple[Listed, ...]


@dataclass(frozen=True, slots=True)
class Incoming:
    """A file that is being received.

    Args:
        start: the byte that it begins with; 0 where the server sends all of it.
        chunks: its bytes, some at a time.
    """

    start: int
    chunks: Iterator[bytes]


class Hub:
    """The Hub.

    Args:
        token: in place of HF_TOKEN and of what `hf auth login` stored.
        endpoint: in place of HF_ENDPOINT.
        library: the module `huggingface_hub`; found by itself by default.

    Raises:
        HubError: from its methods: what stands in the way, and what to do.
    """

    def __init__(self, token: str | None = None, *, endpoint: str | None = None, library: Any = None) -> None:
        self._token = token
        self._endpoint = endpoint
        self._given = library

    def listing(self, repo: str, revision: str | None = None, *, timeout_s: float = ASK_TIMEOUT_S) -> Listing:
        """What is in `repo` at a branch, tag or commit, the newest by default."""
        with self._asked(repo, "") as library:
            api = library.HfApi(
                endpoint=self._endpoint,
                token=self._token,
                library_name="penstock",
                library_version=__version__,
            )
            info = api.model_info(repo, revision=revision, files_metadata=True, timeout=timeout_s)
        files = tuple(_listed(one) for one in (info.siblings or ())[:FILES_MAX])
        strange = next((one for one in files if not _is_sane(one)), None)
        if strange or not _COMMIT.fullmatch(info.sha or "") or parse_name(info.id) is None:
            wrong = f"a file {ascii(strange.name)[:200]}" if strange else f"a commit {ascii(info.sha)[:60]}"
            raise HubError(
                f"{repo}: the Hub tells of {wrong}, without a usable name or checksum",
                hint="check HF_ENDPOINT",
            )
        return Listing(info.id, info.sha, files)

    @contextmanager
    def open(self, listing: Listing, name: str, start: int = 0, end: int | None = None) -> Iterator[Incoming]:
        """A file of a repository.

        Args:
            start: byte to begin with.
            end: byte to end before; where it is given, less may come.
        """
        with self._asked(listing.repo, name) as library:
            url = library.hf_hub_url(listing.repo, name, revision=listing.commit, endpoint=self._endpoint)
            headers = library.utils.build_hf_headers(
                token=self._token, library_name="penstock", library_version=__version__
            )
            headers["Accept-Encoding"] = "identity"  # sizes and ranges are of the file, not of what is packed
            if start or end is not None:
                headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
            with library.get_session().stream(
                "GET", url, headers=headers, timeout=READ_TIMEOUT_S
            ) as response:
                library.utils.hf_raise_for_status(response)
                partial = response.status_code == HTTPStatus.PARTIAL_CONTENT
                yield Incoming(start if partial else 0, response.iter_bytes(CHUNK_BYTES))

    def fetch_large(self, listing: Listing, name: str, where: Mapping[str, str]) -> Path:
        """A file of a repository, fetched by the library itself.

        Args:
            where: `cache_dir` or `local_dir`.
        """
        with self._asked(listing.repo, name) as library:
            return Path(
                library.hf_hub_download(
                    listing.repo,
                    name,
                    revision=listing.commit,
                    token=self._token,
                    endpoint=self._endpoint,
                    **where,
                )
            )

    def search(self, words: str) -> tuple[str, ...]:
        """Repositories whose names have these words, the most downloaded first."""
        with self._asked(words, "") as library:
            api = library.HfApi(endpoint=self._endpoint, token=self._token)
            found = api.list_models(search=words, sort="downloads", limit=FOUND_MAX)
            return tuple(one.id for one in found if parse_name(one.id))

    def lacking(self, name: HubName, revision: str | None = None) -> str:
        """Why an engine that takes `name` can't have it from here, and what to do; nothing where it can, or may: the
        Hub can't be asked."""
        try:
            listing = self.listing(name.repo, revision, timeout_s=PROBE_TIMEOUT_S)
            if not any(one.name in CONFIGS for one in listing.files):
                return (
                    f"{name} has no {CONFIGS[0]}; a GGUF repository is for engine llamacpp, as {name}:Q4_K_M"
                )
            with self.open(listing, next(one.name for one in listing.files if one.name in CONFIGS), 0, 1):
                return ""  # a gated repository is listed, but not opened
        except HubError as error:
            told = error.code in (NOT_FOUND, NO_ACCESS)
            return f"{error.message}; {error.hint}" if told else ""

    @contextmanager
    def _asked(self, repo: str, name: str) -> Iterator[Any]:
        library = self._given or _library(repo)
        try:
            yield library
        except Exception as error:
            said = explained(error, repo, name) or _without_client(error, library, repo)
            if said is None:
                raise
            raise said from error


def fetch(repo: str, name: str, revision: str | None = None, *, library: Any = None) -> Path:
    """The file `name` of `repo` in the local cache, downloaded where it is not there yet.

    Args:
        repo: `owner/model`.
        name: of a small file.
        revision: a branch, tag or commit; the newest by default.
        library: the module `huggingface_hub`; found by itself by default.

    Raises:
        HubError: the library is missing, or the file can't be had; says why.
    """
    hub = library or _library(repo)
    try:
        return Path(hub.hf_hub_download(repo, name, revision=revision))
    except Exception as error:
        said = explained(error, repo, name) or _without_client(error, hub, repo)
        if said is None:
            raise
        raise said from error


def _without_client(error: Exception, library: Any, repo: str) -> HubError | None:
    """What `error` means where the library can't even make its HTTP client: it goes by variables of the environment."""
    try:
        library.get_session()
    except Exception as same:
        return unaskable(error, repo, os.environ) if type(same) is type(error) else None
    return None


def _listed(sibling: Any) -> Listed:
    """One file, of which the Hub's answer is believed no more than it must be."""
    lfs = sibling.lfs
    sha256 = str(lfs.sha256) if lfs is not None else ""
    size = lfs.size if lfs is not None else sibling.size
    return Listed(str(sibling.rfilename), max(0, int(size or 0)), sha256, str(sibling.blob_id or ""))


def _is_sane(file: Listed) -> bool:
    """Whether a file's name and checksum can be used for paths of this disk."""
    known = _SHA256.fullmatch(file.sha256) if file.sha256 else _COMMIT.fullmatch(file.blob)
    return is_safe(file.name) and known is not None


def _library(repo: str) -> Any:
    try:
        found, tools = import_module("huggingface_hub"), import_module("huggingface_hub.utils")
    except ImportError as error:
        raise HubError(
            f"{repo} is no folder here, and the Hub can't be asked: huggingface_hub is not installed",
            hint=INSTALL_HINT,
        ) from error
    tools.logging.set_verbosity_error()  # what goes wrong is told by errors, once
    tools.disable_progress_bars()
    return found
