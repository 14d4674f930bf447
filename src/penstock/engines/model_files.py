"""Where a model's description comes from: a folder, a GGUF or safetensors file, the demo, or the Hub.

Only headers are read, never weights.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from penstock.core.config import DEMO_MODEL, DEMO_SOURCE
from penstock.core.units import format_size
from penstock.engines import hub
from penstock.engines.hub_cache import PARTS, cache_folder, incomplete_bytes, repo_folder, snapshot
from penstock.engines.paths import CONFIG_NAME, DEMO_FOLDER, path_of
from penstock.engines.remote_model import remote_gguf
from penstock.planner.architecture import CONFIG_BYTES_MAX, read_config
from penstock.planner.gguf import Header, read_header
from penstock.planner.gguf_model import read_gguf
from penstock.planner.repository import Listed, has_weights, parts_of, variant, variants
from penstock.planner.safetensors import Held, read_held
from penstock.planner.shapes import Architecture, DamagedError, PlanError

INDEX_NAMES = ("model.safetensors.index.json",)
INDEX_BYTES_MAX = 64_000_000
FILES_MAX = 4096

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)
_SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})(\.safetensors|\.bin)")


@dataclass(frozen=True, slots=True)
class Description:
    """A model as its files describe it.

    Args:
        name: as it was asked for.
        architecture: what it is made of.
        held: what safetensors files beside its configuration hold; None where there are none.
        note: what to know of its files; may be empty.
    """

    name: str
    architecture: Architecture
    held: Held | None = None
    note: str = ""


def describe(
    name: str,
    *,
    revision: str | None = None,
    fetch: Callable[[str, str, str | None], Path] = hub.fetch,
    at: Callable[[], hub.Hub] = hub.Hub,
    environ: Mapping[str, str] = os.environ,
) -> Description:
    """The model called `name`.

    Args:
        name: a folder with a config.json, a `.gguf` or `.safetensors` file, `demo`, or a name of the Hub.
        revision: of the Hub's repository.
        fetch: has a small file of the Hub downloaded.
        at: where the Hub is asked what a GGUF repository holds.
        environ: says where the Hub's cache is.

    Raises:
        PlanError: it is not there, can't be read, or is of a kind that is not known here.
        HubError: it can't be had from the Hub.
    """
    path = DEMO_FOLDER if name in (DEMO_SOURCE, DEMO_MODEL) else path_of(name)
    if path.is_dir():
        return replace(_folder(path), name=name)
    if path.is_file():
        return replace(_file(path), name=name)
    named = hub.parse_name(name)
    if named is None:
        raise PlanError(
            f"{name[:200]}: there is no such file or folder",
            hint="name a folder, a .gguf file, or owner/model of the Hub",
        )
    try:
        here, note = cached(name, environ) if revision is None else None, ""
    except DamagedError as error:
        here, note = None, error.message
    if here is not None:
        return replace(_folder(here) if here.is_dir() else _file(here), name=name)
    return replace(_on_the_hub(named, revision, fetch, at), name=name, note=note)


def cached(source: str, environ: Mapping[str, str]) -> Path | None:
    """Where a model of the Hub lies in the local cache.

    Args:
        source: `owner/model`, `owner/model:Q4_K_M` or `owner/model/file.gguf`.
        environ: says where the cache is.

    Returns:
        The folder of its files, or the (first) GGUF file; None where nothing of it is there, or it is no such name.

    Raises:
        DamagedError: it is there in part, as after a download that was cut off.
        PlanError: it has several GGUF models, and none is named.
    """
    named = hub.parse_name(source)
    if named is None:
        return None
    cache = cache_folder(environ)
    folder, part_bytes = (
        snapshot(cache, named.repo),
        incomplete_bytes(repo_folder(cache, named.repo) / "blobs"),
    )
    try:
        found = None if folder is None else _whole(folder, named)
    except DamagedError as error:
        raise _half(named, f"; {error.message}", part_bytes) from error
    if found is None and part_bytes:
        raise _half(named, "", part_bytes)
    return found


def _half(named: hub.HubName, said: str, part_bytes: int) -> DamagedError:
    begun = f"; {format_size(part_bytes)} of files are there that are not whole" if part_bytes else ""
    return DamagedError(
        f"{named} is half-downloaded in the Hub's cache{begun}{said}",
        hint=f"penstock pull {named} goes on with it",
    )


def _whole(folder: Path, named: hub.HubName) -> Path | None:
    """The model in a snapshot; None where there are no weights in it yet."""
    files = [
        Listed(path.relative_to(folder).as_posix(), path.stat().st_size)
        for path in sorted(folder.rglob("*"))[:FILES_MAX]
        if path.is_file()
    ]
    if named.file or named.quantization or not has_weights(files):
        name = named.file
        if not name:
            if not any(one.name.lower().endswith(".gguf") for one in files):
                return None
            name = variant(variants(files), named.quantization, str(folder)).files[0].name
        path = folder / name
        if not path.is_file():
            return None
        for part in _parts(path):
            read_gguf_header(part)
        return _parts(path)[0]
    _all_there([folder / name for name in _shards(one.name for one in files)], folder)
    try:
        _folder(folder)
    except DamagedError:
        raise
    except PlanError:
        pass  # of a family that is not known here: an engine may know it
    return folder


def _shards(names: Iterable[str]) -> Iterator[str]:
    """The names of all parts of weights of which one is there (`model-00001-of-00004.safetensors`)."""
    for name in names:
        match = _SHARD.fullmatch(name)
        if match is None:
            continue
        for number in range(1, min(int(match[2]), FILES_MAX) + 1):
            yield f"{match[1]}-{number:05}-of-{match[2]}{match[3]}"


def _on_the_hub(
    named: hub.HubName,
    revision: str | None,
    fetch: Callable[[str, str, str | None], Path],
    at: Callable[[], hub.Hub],
) -> Description:
    if not named.file and not named.quantization:
        try:
            content = _content(fetch(named.repo, CONFIG_NAME, revision))
            return Description(named.repo, read_config(content, f"{named.repo}: {CONFIG_NAME}"))
        except hub.HubError as error:
            if error.missing != CONFIG_NAME:
                raise
    asked = at()
    listing = asked.listing(named.repo, revision)
    return Description(str(named), remote_gguf(asked, listing, gguf_files(listing.files, named)))


def gguf_files(files: Sequence[Listed], named: hub.HubName) -> tuple[Listed, ...]:
    """The parts of the GGUF model that `named` names, the first first.

    Raises:
        PlanError: there is none such, or none of several is named.
    """
    if named.file:
        stem = parts_of(named.file)[0]
        found = sorted((one for one in files if parts_of(one.name)[0] == stem), key=lambda one: one.name)
        if found:
            return tuple(found)
        raise PlanError(f"{named.repo} has no {named.file}", code="hub_not_found", hint="check the spelling")
    return variant(variants(files), named.quantization, named.repo).files


def _folder(folder: Path) -> Description:
    config = folder / CONFIG_NAME
    files = sorted(folder.glob("*.gguf"))
    if config.is_file():
        part_bytes = incomplete_bytes(folder / PARTS)
        note = (
            f"a download into {folder} is not finished: {format_size(part_bytes)} of files that are not whole"
        )
        held = _held(folder)
        return Description(
            str(folder), read_config(_content(config), str(config)), held, note if part_bytes else ""
        )
    if len({_stem(file) for file in files}) == 1:
        return _file(files[0])
    found = ", ".join(file.name for file in files[:4])
    said = f"it has several GGUF models: {found}" if files else f"it has no {CONFIG_NAME} and no .gguf file"
    raise PlanError(f"{folder}: {said}", hint="name one file" if files else "name the folder of a model")


def _file(path: Path) -> Description:
    if path.suffix.lower() == ".gguf":
        parts = _parts(path)
        headers = [read_gguf_header(part) for part in parts]
        tensors = tuple(tensor for header in headers for tensor in header.tensors)
        return Description(str(path), read_gguf(Header(headers[0].metadata, tensors), str(path)))
    if path.name == CONFIG_NAME or path.suffix.lower() == ".safetensors":
        return _folder(path.parent)
    if path.suffix.lower() == ".json":
        return Description(str(path), read_config(_content(path), str(path)))
    raise PlanError(f"{path}: neither .gguf nor .safetensors nor a configuration in JSON")


def _stem(path: Path) -> str:
    match = _PART.fullmatch(path.name)
    return match[1] if match else path.name


def _parts(path: Path) -> list[Path]:
    """All files of a model that is split, the first of them first."""
    match = _PART.fullmatch(path.name)
    if match is None:
        return [path]
    count = min(int(match[3]), FILES_MAX)
    parts = [path.with_name(f"{match[1]}-{number:05}-of-{match[3]}.gguf") for number in range(1, count + 1)]
    _all_there(parts, path.parent)
    return parts


def read_gguf_header(path: Path) -> Header:
    """The header of a GGUF file that is as long as its header says.

    Raises:
        DamagedError: it is shorter.
        PlanError: it is no such file, or can't be read.
    """
    try:
        with path.open("rb") as file:
            header, size = read_header(file, str(path)), path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error
    if size < header.file_bytes:
        raise DamagedError(f"{path} has {size} bytes of {header.file_bytes}", hint="finish the download")
    return header


def _held(folder: Path) -> Held | None:
    """What the safetensors files of a folder hold; None where there are none."""
    files = list(_indexed(folder)) or sorted(folder.glob("*.safetensors"))[:FILES_MAX]
    _all_there([*files, *(folder / name for name in _shards(file.name for file in files))], folder)
    total: Held | None = None
    for path in files:
        try:
            with path.open("rb") as file:
                held = read_held(file, str(path), path.stat().st_size)
        except OSError as error:
            raise _unreadable(path, error) from error
        total = held if total is None else total + held
    return total


def _indexed(folder: Path) -> Iterator[Path]:
    """The files that an index names, where there is one and any of them is there."""
    index = next((folder / name for name in INDEX_NAMES if (folder / name).is_file()), None)
    if index is None or not any(folder.glob("*.safetensors")):
        return
    try:
        names = {str(name) for name in json.loads(_content(index, INDEX_BYTES_MAX))["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(
            f"{index} can't be read: {error}", hint="a download may have been cut off"
        ) from error
    yield from (folder / Path(name).name for name in sorted(names)[:FILES_MAX])


def _all_there(files: list[Path], folder: Path) -> None:
    files = list(dict.fromkeys(files))
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise DamagedError(
            f"{folder} is incomplete: {len(missing)} of {len(files)} files are missing, as {missing[0]}",
            hint="finish the download",
        )


def _content(path: Path, most: int = CONFIG_BYTES_MAX) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most + 1)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> PlanError:
    return PlanError(f"{path} can't be read: {str(error.strerror).lower()}")
