"""What an error of huggingface_hub means, in a sentence with what to do."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from http import HTTPStatus

from penstock.core.errors import PenstockError

NOT_FOUND, NO_ACCESS, NO_SPACE = "hub_not_found", "hub_no_access", "hub_no_space"

_TOKEN_HINT = "set HF_TOKEN, or name a file that holds a token with --token-file"  # noqa: S105 - no token
_UNSENDABLE = "the token for {repo} can't be sent: it holds characters that no token has"
_PROXY_VARIABLES = frozenset({"HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"})
_NETWORK_HINT = "check the network, HF_ENDPOINT and HF_TOKEN"

_CAUSES = {
    "GatedRepoError": (
        NO_ACCESS,
        "{repo} is gated: its owner wants you to agree to something first",
        "agree at https://huggingface.co/{repo} and set HF_TOKEN to a token of that account",
    ),
    "RevisionNotFoundError": (
        NOT_FOUND,
        "{repo} has no such revision",
        "leave --revision out for its newest",
    ),
    "RepositoryNotFoundError": (
        NOT_FOUND,
        "there is no {repo} on the Hub, or it is private",
        "check the spelling; for a private one, " + _TOKEN_HINT,
    ),
    "DisabledRepoError": (NO_ACCESS, "{repo} was disabled by the Hub", "name another model"),
    "LocalEntryNotFoundError": (
        "",
        "{repo} is not in the local cache, and the Hub can't be reached",
        "check the network, HF_ENDPOINT and HF_HUB_OFFLINE, or name a folder with the model's config.json",
    ),
    "OfflineModeIsEnabled": (
        "",
        "{repo} is not in the local cache, and HF_HUB_OFFLINE forbids to ask the Hub",
        "unset HF_HUB_OFFLINE, or name a folder with the model's config.json",
    ),
    "EntryNotFoundError": (
        NOT_FOUND,
        "{repo} has no {name}",
        "it may hold GGUF files only: name one, as {repo}:Q4_K_M or {repo}/FILE.gguf",
    ),
    "HFValidationError": (NOT_FOUND, "{repo} is no name of the Hub", "names are of the form owner/model"),
    # Of a header, which is the token's: what the library says of these would show it.
    "LocalProtocolError": (NO_ACCESS, _UNSENDABLE, _TOKEN_HINT),
    "UnicodeEncodeError": (NO_ACCESS, _UNSENDABLE, _TOKEN_HINT),
}
"""What each error of the library means, those that are special cases of others first."""

_STATUSES = {
    HTTPStatus.UNAUTHORIZED: (
        NO_ACCESS,
        "the Hub does not accept the token that was sent for {repo}",
        "make a new one at https://huggingface.co/settings/tokens; unset HF_TOKEN for a public model",
    ),
    HTTPStatus.FORBIDDEN: (
        NO_ACCESS,
        "the Hub refuses access to {repo}",
        "agree to its terms at https://huggingface.co/{repo}; a fine-grained token needs read access to gated models",
    ),
    HTTPStatus.NOT_FOUND: (NOT_FOUND, "{repo} has no {name}", "check HF_ENDPOINT, which may be no Hub"),
    HTTPStatus.TOO_MANY_REQUESTS: (
        "",
        "the Hub asks to come back later: too many requests were sent from here",
        "wait some minutes; a token (HF_TOKEN) raises the limit",
    ),
}
# Of an address: a password of a mirror's, and the signature of one that the storage gave.
_CREDENTIALS = re.compile(r"(?<=://)[^\s/@'\"]*@|\?[^\s'\"]*")
_TRANSIENT_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
_TROUBLE = HTTPStatus.INTERNAL_SERVER_ERROR


class HubError(PenstockError):
    """A file can't be had from the Hub.

    Args:
        transient: whether it may well succeed a little later.
        wait_s: how long the Hub asks to wait before; 0 where it does not say.
        missing: the file that a repository does not have; empty where something else is the matter.
    """

    code = "hub"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str = "",
        transient: bool = False,
        wait_s: float = 0.0,
        missing: str = "",
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.transient = transient
        self.wait_s = wait_s
        self.missing = missing


def explained(error: Exception, repo: str, name: str) -> HubError | None:
    """What `error` means, which came of asking for a file of `repo`; None where it is a bug."""
    if isinstance(error, PenstockError):
        return None
    found = _by_kind(error) or _by_status(error) or _by_system(error)
    if found is None:
        return None
    code, said, hint = found
    status = _status(error)
    return HubError(
        said.format(repo=repo, name=name or "such page"),
        code=code or None,
        hint=hint.format(repo=repo, name=name),
        transient=status in _TRANSIENT_STATUSES
        if status
        else not code and not isinstance(error, PermissionError),
        wait_s=_wait_s(error),
        missing=name if code == NOT_FOUND and "EntryNotFoundError" in _kinds(error) else "",
    )


def unaskable(error: Exception, repo: str, environ: Mapping[str, str]) -> HubError:
    """What is told where no HTTP client can be made, as `error` says, by what is set in `environ`."""
    proxies = [name for name, value in environ.items() if value and name.upper() in _PROXY_VARIABLES]
    where = " and ".join(sorted(proxies)) or "the environment"
    return HubError(
        f"{where}: the Hub can't be asked for {repo}: {_told(error)}",
        hint="name a proxy as http://HOST:PORT, or unset the variable",
    )


def _kinds(error: Exception) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _by_kind(error: Exception) -> tuple[str, str, str] | None:
    kinds = _kinds(error)
    return next((cause for name, cause in _CAUSES.items() if name in kinds), None)


def _status(error: Exception) -> int:
    response = getattr(error, "response", None)
    return int(getattr(response, "status_code", 0))


def _by_status(error: Exception) -> tuple[str, str, str] | None:
    status = _status(error)
    if status >= _TROUBLE:
        return (
            "",
            f"the Hub has trouble of its own (status {status})",
            "try again later: what is here is kept",
        )
    return _STATUSES.get(HTTPStatus(status)) if status in _STATUSES else None


def _by_system(error: Exception) -> tuple[str, str, str] | None:
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return (
            NO_SPACE,
            "there is no space left for {name} of {repo}",
            "free some; the same command goes on then",
        )
    if isinstance(error, OSError) or not _kinds(error).isdisjoint({"HTTPError", "RequestError"}):
        return "", f"{{repo}} can't be fetched from the Hub: {_told(error)}", _NETWORK_HINT
    return None


def _told(error: Exception) -> str:
    text = _CREDENTIALS.sub("", next(iter(str(error).splitlines()), ""))[:200]
    text = text if text.isprintable() else ascii(text)
    return text.replace("{", "(").replace("}", ")") or "no answer"


def _wait_s(error: Exception) -> float:
    """What `Retry-After` says in seconds, or the Hub's own `RateLimit` (`"api";r=0;t=55`)."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    text = headers.get("Retry-After", "")
    if not text.isdecimal():
        fields = dict(part.strip().partition("=")[::2] for part in headers.get("RateLimit", "").split(";"))
        text = fields.get("t", "") if fields.get("r") == "0" else ""
    return float(text[:6]) if text.isdecimal() else 0.0
