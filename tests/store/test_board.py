"""Workers read what the others said lately, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from penstock.store.board import FRESH_S, Board


def test_a_worker_sees_the_others_and_not_itself(tmp_path: Path) -> None:
    one, two = Board(tmp_path / "b", 0), Board(tmp_path / "b", 1)
    one.post({"in_progress": 1}, "a 1\n")
    two.post({"in_progress": 2}, "a 2\n")

    (seen,) = one.others()

    assert (seen.worker, seen.view, seen.metrics) == (1, {"in_progress": 2}, "a 2\n")


def test_what_is_old_or_torn_or_left_is_not_seen(tmp_path: Path) -> None:
    one, old, gone = Board(tmp_path, 0), Board(tmp_path, 1), Board(tmp_path, 2)
    for board in (one, old, gone):
        board.post({}, "")
    stale = (tmp_path / "1.json").stat().st_mtime - FRESH_S - 1
    os.utime(tmp_path / "1.json", (stale, stale))
    (tmp_path / "3.json").write_text("{")
    gone.leave()

    assert one.others() == []
    assert Board(tmp_path / "nowhere", 0).others() == []
