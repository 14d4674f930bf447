"""Where a model's description comes from: a folder, a GGUF or safetensors file, the demo, or the Hub.

Only headers are read, never weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import penstock
from penstock.core.config import DEMO_MODEL, DEMO_SOURCE
from penstock.engines import hub
from penstock.planner.architecture import CONFIG_BYTES_MAX, read_config
from penstock.planner.gguf import Header, read_header
from penstock.planner.gguf_model import read_gguf
from penstock.planner.safetensors import Held, read_held
from penstock.planner.shapes import Architecture, DamagedError, PlanError

CONFIG_NAME = "config.json"
INDEX_NAMES = ("model.safetensors.index.json",)
INDEX_BYTES_MAX = 64_000_000
FILES_MAX = 4096
DEMO_FOLDER = Path(penstock.__file__).parent / "demo_model"

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class Description:
    """A model as its files describe it.

    Args:
        name: as it was asked for.
        architecture: what it is made of.
        held: what safetensors files beside its configuration hold; None where there are none.
    """

    name: str
    architecture: Architecture
    held: Held | None = None


def describe(
    name: str, *, revision: str | None = None, fetch: Callable[[str, str, str | None], Path] = hub.fetch
) -> Description:
    """The model called `name`.

    Args:
        name: a folder with a config.json, a `.gguf` or `.safetensors` file, `demo`, or a name of the Hub.
        revision: of the Hub's repository.
        fetch: has a file of the Hub downloaded.

    Raises:
        PlanError: it is not there, can't be read, or is of a kind that is not known here.
        HubError: it can't be had from the Hub.
    """
    path = DEMO_FOLDER if name in (DEMO_SOURCE, DEMO_MODEL) else Path(name).expanduser()
    if path.is_dir():
        return replace(_folder(path), name=name)
    if path.is_file():
        return replace(_file(path), name=name)
    if _HUB_NAME.fullmatch(name) and not name.lower().endswith((".gguf", ".safetensors", ".json")):
        return Description(
            name, read_config(_content(fetch(name, CONFIG_NAME, revision)), f"{name}: {CONFIG_NAME}")
        )
    raise PlanError(
        f"{name[:200]}: there is no such file or folder",
        hint="name a folder, a .gguf file, or owner/model of the Hub",
    )


def _folder(folder: Path) -> Description:
    config = folder / CONFIG_NAME
    files = sorted(folder.glob("*.gguf"))
    if config.is_file():
        return Description(str(folder), read_config(_content(config), str(config)), _held(folder))
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
    _all_there(files, folder)
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
