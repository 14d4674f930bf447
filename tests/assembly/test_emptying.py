"""Replicas that end while their gateway goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from penstock.assembly.emptying import Emptying
from penstock.store.runtime import Drained


def test_a_gateway_that_can_not_be_told_keeps_nothing_from_stopping(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    nobody: Any = None
    said: list[str] = []
    emptying = Emptying(["m-0"], nobody, Drained(tmp_path / "run" / "drained.json"), 1.0, said.append)

    asyncio.run(emptying.run())
    emptying.undo()

    assert said[0].startswith("stopping while the gateway still gives requests: it can't be told: ")
