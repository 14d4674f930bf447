"""What a pull is made of: the Hub, what is there of a model, and where its files go."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.core.config import DEMO_SOURCE, ModelConfig
from penstock.core.errors import PenstockError
from penstock.engines.download import Download
from penstock.engines.hub import Hub, HubError, HubName, Listing, parse_name
from penstock.engines.hub_cache import cache_folder
from penstock.engines.paths import path_of
from penstock.engines.shelf import CacheShelf, FolderShelf, Shelf
from penstock.planner.repository import Listed, is_safe, parts_of, select

TOKEN_VARIABLE = "HF_TOKEN"  # noqa: S105 - a name
TOKEN_BYTES_MAX = 4096
WAITS_S, WAIT_MAX_S = (1.0, 3.0), 30.0
"""Between questions what there is, and the longest that the Hub may ask for: nothing has been shown by then."""

_TOKEN = re.compile(r"[!-~]{1,512}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be pulled.

    Args:
        name: of the Hub.
        revision: branch, tag or commit; the newest by default.
        include: patterns of files to take, in place of what is needed.
        exclude: patterns of files not to take.
        to: a folder for them, in place of the Hub's cache.
        cache: a cache in place of the one that the Hub's variables name.
    """

    name: HubName
    revision: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    to: Path | None = None
    cache: Path | None = None


@dataclass(frozen=True, slots=True)
class Pull:
    """A pull that can begin.

    Args:
        wanted: what was asked for.
        listing: what the Hub has.
        files: of it that are fetched.
        shelf: where they go.
        download: brings them there.
    """

    wanted: Wanted
    listing: Listing
    files: tuple[Listed, ...]
    shelf: Shelf
    download: Download

    @property
    def path(self) -> Path:
        """What an engine is given: the first file of a GGUF model, or the folder."""
        models = sorted(file.name for file in self.files if file.name.lower().endswith(".gguf"))
        stems = {parts_of(name)[0] for name in models}
        return self.shelf.root / models[0] if len(stems) == 1 else self.shelf.root


def prepare(
    wanted: Wanted,
    hub: Hub,
    environ: Mapping[str, str],
    *,
    verify: bool,
    pause: Callable[[float], None] = time.sleep,
) -> Pull:
    """Asks the Hub what there is, and looks at what is here already.

    Args:
        environ: says where the Hub's cache is.
        verify: whether the checksums of files that are here are looked at again.
        pause: waits some seconds.

    Raises:
        HubError: the Hub does not say.
        PlanError: what is wanted is not there.
    """
    if wanted.revision and not is_safe(wanted.revision):
        raise PenstockError(
            f"--revision: {ascii(wanted.revision)[:80]} is no branch, tag or commit",
            code="usage",
            hint="leave it out for the newest",
        )
    name = wanted.name
    listing = _listing(wanted, hub, pause)
    files = select(
        listing.files,
        name.repo,
        quantization=name.quantization,
        file=name.file,
        include=wanted.include,
        exclude=wanted.exclude,
    )
    shelf: Shelf
    if wanted.to:
        shelf = FolderShelf(wanted.to)
    else:
        # By the name that was asked for: a model that was renamed is looked for under its old one.
        cache = wanted.cache or cache_folder(environ)
        shelf = CacheShelf(cache.absolute(), name.repo, listing.commit, wanted.revision)
    return Pull(wanted, listing, files, shelf, Download(hub, listing, files, shelf, verify=verify))


def _listing(wanted: Wanted, hub: Hub, pause: Callable[[float], None]) -> Listing:
    """What the Hub has, asked a little later again where that may help."""
    for wait_s in WAITS_S:
        try:
            return hub.listing(wanted.name.repo, wanted.revision)
        except HubError as error:
            if not error.transient or error.wait_s > WAIT_MAX_S:
                raise
            pause(max(wait_s, error.wait_s))
    return hub.listing(wanted.name.repo, wanted.revision)


def configured(models: Iterable[ModelConfig]) -> Iterator[Wanted]:
    """What of a configuration comes from the Hub."""
    for model in models:
        source = model.source
        if model.engine in ("sim", "remote") or not isinstance(source, str) or source == DEMO_SOURCE:
            continue
        name = parse_name(source)
        if name is None or path_of(source).exists():
            continue
        args = model.engine_args
        cache, revision = args.get("download_dir"), args.get("revision")
        yield Wanted(
            name,
            revision if isinstance(revision, str) else None,
            cache=path_of(cache) if isinstance(cache, str) else None,
        )


def token_of(file: Path | None, environs: Sequence[Mapping[str, str]]) -> str | None:
    """The token to use: that of a file, or of the first environment that has one; None for what is stored elsewhere.

    Raises:
        PenstockError: the file can't be read, or holds none.
    """
    if file is None:
        return next(filter(None, (one.get(TOKEN_VARIABLE, "").strip() for one in environs)), None)
    try:
        with file.open("rb") as content:
            token = content.read(TOKEN_BYTES_MAX).decode("ascii", "replace").strip()
    except OSError as error:
        raise PenstockError(
            f"--token-file: {file} can't be read: {str(error.strerror).lower()}",
            code="usage",
            hint="name a file that holds one token and nothing else",
        ) from error
    if not _TOKEN.fullmatch(token):
        raise PenstockError(
            f"--token-file: {file} holds no token",
            code="usage",
            hint="name a file that holds one token and nothing else",
        )
    return token
