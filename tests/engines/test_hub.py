"""The Hub, through a stand-in for huggingface_hub that has its errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.engines.hub import HubError, fetch


class HfHubHTTPError(OSError): ...


class RepositoryNotFoundError(HfHubHTTPError): ...


class GatedRepoError(RepositoryNotFoundError): ...


class RevisionNotFoundError(HfHubHTTPError): ...


class EntryNotFoundError(Exception): ...


class LocalEntryNotFoundError(FileNotFoundError, EntryNotFoundError): ...


class OfflineModeIsEnabled(ConnectionError): ...  # noqa: N818 - as it is called there


class HFValidationError(ValueError): ...


class Hub:
    def __init__(self, answer: Exception | str) -> None:
        self.answer = answer

    def hf_hub_download(self, repo: str, name: str, **options: Any) -> str:
        if isinstance(self.answer, Exception):
            raise self.answer
        return f"{self.answer}/{repo}/{name}@{options['revision']}"


def test_a_file_is_where_the_library_put_it() -> None:
    assert fetch("a/b", "config.json", "v1", library=Hub("/cache")) == Path("/cache/a/b/config.json@v1")


@pytest.mark.parametrize(
    ("error", "said", "hint"),
    [
        (GatedRepoError("403"), "a/b is gated", "https://huggingface.co/a/b"),
        (RepositoryNotFoundError("404"), "there is no a/b on the Hub", "HF_TOKEN"),
        (RevisionNotFoundError("404"), "a/b has no such revision", "--revision"),
        (EntryNotFoundError("404"), "a/b has no config.json", "GGUF"),
        (LocalEntryNotFoundError("?"), "the Hub can't be reached", "HF_ENDPOINT"),
        (OfflineModeIsEnabled("?"), "HF_HUB_OFFLINE forbids", "unset HF_HUB_OFFLINE"),
        (HFValidationError("?"), "a/b is no name of the Hub", "owner/model"),
        (HfHubHTTPError("500 {oops}\nmore"), "a/b can't be fetched from the Hub: 500 (oops)", "HF_TOKEN"),
        (OSError("\x1b[2Joops"), r"a/b can't be fetched from the Hub: '\x1b[2Joops'", "network"),
        (TimeoutError(), "a/b can't be fetched from the Hub: no answer", "network"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, Exception) else "",
)
def test_an_error_of_the_library_is_a_sentence_with_what_to_do(
    error: Exception, said: str, hint: str
) -> None:
    with pytest.raises(HubError) as caught:
        fetch("a/b", "config.json", library=Hub(error))

    assert said in caught.value.message
    assert hint in caught.value.hint


def test_no_password_and_no_signature_of_an_address_is_shown() -> None:
    told = "418 for url 'http://me:SECRET@mirror:80/api/a/b?X-Signature=SECRET'"

    with pytest.raises(HubError, match="418 for url 'http://mirror:80/api/a/b'") as caught:
        fetch("a/b", "config.json", library=Hub(HfHubHTTPError(told)))

    assert "SECRET" not in str(caught.value)


def test_an_error_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        fetch("a/b", "config.json", library=Hub(ZeroDivisionError()))
