"""One small file of a model on the Hugging Face Hub, through huggingface_hub where that is installed."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from penstock.core.errors import PenstockError

INSTALL_HINT = "pip install huggingface_hub, or name a folder that holds the model's config.json"

_CAUSES = {
    "GatedRepoError": (
        "{repo} is gated: its owner wants you to agree to something first",
        "agree at https://huggingface.co/{repo} and set HF_TOKEN to a token of that account",
    ),
    "RevisionNotFoundError": ("{repo} has no such revision", "leave --revision out for its newest"),
    "RepositoryNotFoundError": (
        "there is no {repo} on the Hub, or it is private",
        "check the spelling; set HF_TOKEN for a private one",
    ),
    "LocalEntryNotFoundError": (
        "{repo} is not in the local cache, and the Hub can't be reached",
        "check the network, HF_ENDPOINT and HF_HUB_OFFLINE, or name a folder with the model's config.json",
    ),
    "OfflineModeIsEnabled": (
        "{repo} is not in the local cache, and HF_HUB_OFFLINE forbids to ask the Hub",
        "unset HF_HUB_OFFLINE, or name a folder with the model's config.json",
    ),
    "EntryNotFoundError": (
        "{repo} has no {name}",
        "it may hold GGUF files only: download one, and name its path",
    ),
    "HFValidationError": ("{repo} is no name of the Hub", "names are of the form owner/model"),
}
"""What each error of the library means, those that are special cases of others first."""


class HubError(PenstockError):
    """A file can't be had from the Hub."""

    code = "hub"


def fetch(repo: str, name: str, revision: str | None = None, *, library: Any = None) -> Path:
    """The file `name` of `repo` in the local cache, downloaded where it is not there yet.

    Args:
        repo: `owner/model`.
        revision: a branch, tag or commit; the newest by default.
        library: the module `huggingface_hub`; found by itself by default.

    Raises:
        HubError: the library is missing, or the file can't be had; says why.
    """
    hub = library or _library(repo)
    try:
        return Path(hub.hf_hub_download(repo, name, revision=revision))
    except Exception as error:
        said, hint = _cause(error)
        raise HubError(said.format(repo=repo, name=name), hint=hint.format(repo=repo, name=name)) from error


def local_path(source: str) -> Path | None:
    """Where `owner/repo/file.gguf` lies in the local cache; None where it does not."""
    owner, _, rest = source.partition("/")
    name, _, file = rest.partition("/")
    if not file:
        return None
    found = import_module("huggingface_hub").try_to_load_from_cache(f"{owner}/{name}", file)
    return Path(found) if isinstance(found, str) else None


def _library(repo: str) -> Any:
    try:
        return import_module("huggingface_hub")
    except ImportError as error:
        raise HubError(
            f"{repo} is no folder here, and the Hub can't be asked: huggingface_hub is not installed",
            hint=INSTALL_HINT,
        ) from error


def _cause(error: Exception) -> tuple[str, str]:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    for name, cause in _CAUSES.items():
        if name in kinds:
            return cause
    if isinstance(error, OSError) or "HTTPError" in kinds or "RequestError" in kinds:
        told = (
            str(error).splitlines()[0][:200].replace("{", "(").replace("}", ")")
            if str(error)
            else "no answer"
        )
        return (
            f"{{repo}} can't be fetched from the Hub: {told}",
            "check the network, HF_ENDPOINT and HF_TOKEN",
        )
    raise error
