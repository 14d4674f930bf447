"""What of a repository's files a model needs: one format of its weights, one quantization, no leftovers of training."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from penstock.planner.shapes import PlanError

FILES_MAX = 20_000
NAME_CHARS_MAX = 1024
"""Published repositories have some hundred files; names are paths of some ten characters."""

QUANTIZATION_DEFAULT = "Q4_K_M"
"""What is taken of a GGUF repository that has several: what most of its users take."""

BESIDE = (
    *("*.json", "*.txt", "*.model", "*.jinja", "*.py", "*.tiktoken", "*.md", "*.vocab"),
    *("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*"),
)
"""What engines read beside weights, and what its owner asks to keep with them."""

WEIGHTS = (("*.safetensors",), ("*.bin",), ("*.pth", "*.pt"))
"""Formats of weights, the one to prefer first: safetensors runs no code while it is read."""

LEFTOVERS = (
    *("consolidated*", "original/*", "onnx/*", "openvino/*", "coreml/*", "runs/*", "checkpoint-*"),
    *("optimizer*", "scheduler*", "rng_state*", "training_args*", "*.onnx_data"),
)
"""The same weights once more in another layout, and what training leaves behind."""

ADDITIONS = ("mmproj", "imatrix", "lora")
"""GGUF files that are no model by themselves, by a part of their names."""

_QUANTIZATION = re.compile(
    r"(?<![A-Za-z0-9])(IQ[1-4]_[A-Z]{1,3}|T?Q[1-8]_K(?:_[SML]|_XL)?|TQ[12]_0|Q[1-8]_[01]|MXFP4(?:_MOE)?|NVFP4|BF16|F16|F32)"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.gguf|\.safetensors|\.bin)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Listed:
    """A file as a repository lists it.

    Args:
        name: its path there.
        size_bytes: of its content.
        sha256: of its content; empty where only `blob` is known.
        blob: git's SHA-1 of its content; that of a pointer where `sha256` is known.
    """

    name: str
    size_bytes: int
    sha256: str = ""
    blob: str = ""


@dataclass(frozen=True, slots=True)
class Variant:
    """One model of a GGUF repository.

    Args:
        quantization: in upper case as llama.cpp writes it (`Q4_K_M`); empty where its name does not tell.
        files: all its parts, the first first.
    """

    quantization: str
    files: tuple[Listed, ...]

    @property
    def size_bytes(self) -> int:
        """Of all its parts."""
        return sum(file.size_bytes for file in self.files)


def is_safe(name: str) -> bool:
    """Whether a name that a server gives stays in the folder that it is put into."""
    parts = name.split("/")
    return (
        0 < len(name) <= NAME_CHARS_MAX
        and name.isprintable()
        and "\\" not in name
        and not any(part in ("", ".", "..") for part in parts)
    )


def quantization_of(name: str) -> str:
    """What a file's name says of how its weights are stored, in upper case; the last that it says, or nothing."""
    found = _QUANTIZATION.findall(name.rpartition("/")[2].removesuffix(".gguf")) or _QUANTIZATION.findall(
        name
    )
    return found[-1].upper() if found else ""


def parts_of(name: str) -> tuple[str, int, int]:
    """What the parts of a file that is split have in common, which part `name` is, and of how many."""
    match = _PART.fullmatch(name)
    return (match[1] + match[4].lower(), int(match[2]), int(match[3])) if match else (name, 1, 1)


def variants(files: Iterable[Listed]) -> tuple[Variant, ...]:
    """The models among GGUF files, the smallest first; those of which a part is missing are left out."""
    found: dict[str, dict[int, Listed]] = {}
    for file in files:
        last = file.name.rpartition("/")[2].lower()
        if last.endswith(".gguf") and not any(word in last for word in ADDITIONS):
            stem, number, _ = parts_of(file.name)
            found.setdefault(stem, {})[number] = file
    whole = [
        tuple(parts[number] for number in sorted(parts))
        for parts in found.values()
        if len(parts) == parts_of(next(iter(parts.values())).name)[2]
    ]
    made = [Variant(quantization_of(parts[0].name), parts) for parts in whole]
    return tuple(sorted(made, key=lambda one: (one.size_bytes, one.files[0].name)))


def variant(among: Sequence[Variant], quantization: str, where: str) -> Variant:
    """The one that is asked for, or that is taken where nothing is asked for.

    Args:
        quantization: in any case; empty for the only one, or `QUANTIZATION_DEFAULT`.
        where: the repository, for messages.

    Raises:
        PlanError: there is none, or none of several is named.
    """
    wanted = quantization.upper() or QUANTIZATION_DEFAULT
    found = [one for one in among if one.quantization == wanted]
    if not found and not quantization and len(among) == 1:
        return among[0]
    if found:
        return found[0]
    names = ", ".join(dict.fromkeys(f"{one.quantization or one.files[0].name}" for one in among))
    said = f"has no quantization {quantization[:40]}" if quantization else "has several quantizations"
    if not among:
        raise PlanError(
            f"{where}: there is no GGUF model in it", code="hub_not_found", hint="leave :QUANTIZATION out"
        )
    last = among[-1]
    raise PlanError(
        f"{where}: it {said}; there are {names[:400]}",
        code="hub_not_found" if quantization else "usage",
        hint=f"name one, as {where}{f':{last.quantization}' if last.quantization else f'/{last.files[0].name}'}",
    )


def select(
    files: Sequence[Listed],
    where: str,
    *,
    quantization: str = "",
    file: str = "",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> tuple[Listed, ...]:
    """The files that are needed, in the order in which they are best fetched: the small ones first.

    Args:
        files: of the repository.
        where: its name, for messages.
        quantization: of a GGUF repository.
        file: the one GGUF file that is asked for, with its other parts.
        include: patterns of names to take, in place of what is needed; `*` also matches `/`.
        exclude: patterns of names not to take.

    Raises:
        PlanError: nothing is left, what is asked for is not there, or none of several quantizations is named.
    """
    if include:
        chosen = [one for one in files if _matches(one.name, include)]
    elif file:
        chosen = _parts(files, file, where)
    elif quantization or not _weights(files):
        chosen = _gguf(files, quantization, where)
    else:
        chosen = [*_weights(files), *(one for one in files if _is_beside(one.name))]
    kept = {one.name: one for one in chosen if not _matches(one.name, exclude)}
    if not kept:
        raise PlanError(
            f"{where}: {_nothing(files, include, exclude)}",
            code="hub_not_found",
            hint="penstock pull MODEL --include '*' --dry-run lists all that is there",
        )
    return tuple(sorted(kept.values(), key=lambda one: (one.size_bytes, one.name)))


def has_weights(files: Iterable[Listed]) -> bool:
    """Whether there are weights that are not in GGUF files."""
    return bool(_weights(list(files)))


def _weights(files: Sequence[Listed]) -> list[Listed]:
    """Weights in the best format there is; those of its own folder where there are any, and not those below it."""
    for patterns in WEIGHTS:
        found = [one for one in files if _matches(one.name, patterns) and not _matches(one.name, LEFTOVERS)]
        if not found:  # Mistral's and Meta's own layout alone
            found = [
                one for one in files if _matches(one.name, patterns) and one.name.startswith("consolidated")
            ]
        if found:
            return [one for one in found if "/" not in one.name] or found
    return []


def _gguf(files: Sequence[Listed], quantization: str, where: str) -> list[Listed]:
    found = variants(files)
    if not found and not quantization:
        return []
    beside = [one for one in files if "/" not in one.name and _is_beside(one.name)]
    return [*variant(found, quantization, where).files, *beside]


def _parts(files: Sequence[Listed], file: str, where: str) -> list[Listed]:
    stem = parts_of(file)[0]
    if not any(one.name == file for one in files):
        raise PlanError(f"{where}: there is no {file} in it", code="hub_not_found", hint="check the spelling")
    return [one for one in files if parts_of(one.name)[0] == stem]


def _is_beside(name: str) -> bool:
    return _matches(name.rpartition("/")[2], BESIDE) and not _matches(name, LEFTOVERS)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _nothing(files: Sequence[Listed], include: Sequence[str], exclude: Sequence[str]) -> str:
    if include or exclude:
        return f"--include and --exclude leave none of {len(files)} files"
    return f"there are no weights among its {len(files)} files"
