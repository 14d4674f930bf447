"""Commands in a folder of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from penstock.cli.app import run


@dataclass(frozen=True, slots=True)
class Result:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


Command = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and an environment without Penstock's variables."""
    monkeypatch.chdir(tmp_path)
    for name in ("PENSTOCK_HOME", "PENSTOCK_CONFIG", "GATEWAY_API_KEYS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def penstock(folder: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line in `folder`, in this process."""

    def command(*arguments: str) -> Result:
        code = run(arguments)
        printed = capsys.readouterr()
        return Result(code, printed.out, printed.err)

    return command
