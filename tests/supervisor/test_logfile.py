"""Log files of children."""

from __future__ import annotations

import stat
from pathlib import Path

from penstock.supervisor.logfile import LOG_BYTES_MAX, LOGS_KEPT, open_log, read_from


def grown(path: Path, first: bytes) -> None:
    """Fills the log at `path` so that the next start turns it over."""
    path.write_bytes(first.ljust(LOG_BYTES_MAX + 1, b"."))


def test_a_small_log_is_appended_to(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("old\n")

    file, start = open_log(tmp_path / "log")
    with file:
        file.write(b"new\n")

    assert start == 4
    assert (tmp_path / "log").read_text() == "old\nnew\n"


def test_a_log_is_for_its_owner_alone(tmp_path: Path) -> None:
    open_log(tmp_path / "log")[0].close()

    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600


def test_large_logs_are_turned_over_and_only_the_newest_are_kept(tmp_path: Path) -> None:
    for number in range(LOGS_KEPT + 2):
        grown(tmp_path / "log", b"%d" % number)
        open_log(tmp_path / "log")[0].close()

    names = sorted(path.name for path in tmp_path.iterdir())
    firsts = [(tmp_path / f"log.{number}").read_bytes()[:1] for number in range(1, LOGS_KEPT + 1)]
    assert names == ["log", "log.1", "log.2", "log.3"]
    assert firsts == [b"4", b"3", b"2"]


def test_only_the_end_of_a_long_output_is_read(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"a" * 100 + b"end")

    assert read_from(tmp_path / "log", 0, 5) == "aaend"[-5:]
    assert read_from(tmp_path / "log", 101, 5) == "nd"
    assert read_from(tmp_path / "absent", 0, 5) == ""
