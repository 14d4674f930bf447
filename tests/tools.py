"""Programs that tests use and Python packages do not bring."""

from __future__ import annotations

import os
import shutil

import pytest


def needs(command: str, package: str) -> str:
    """The path of `command`; without it the test is skipped, and in CI it fails."""
    path = shutil.which(command, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if path is None:
        message = f"{command} is missing: apt-get install {package}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return path
