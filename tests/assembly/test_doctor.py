"""What doctor finds out about a model's files."""

from __future__ import annotations

import os
from pathlib import Path

import huggingface_hub
import pytest

from penstock.assembly.doctor import _files
from penstock.doctor.facts import ModelFacts


def test_a_source_that_is_neither_file_nor_folder_is_told_with_why_the_hub_has_it_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "null").symlink_to(os.devnull)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HTTPS_PROXY", "foo://x")  # and so nobody is asked
    huggingface_hub.close_session()

    facts = _files(ModelFacts("m", "vllm", ()), "acme/null", os.environ)

    (complaint,) = facts.complaints
    assert complaint.startswith("acme/null is no file and no folder here; HTTPS_PROXY")
