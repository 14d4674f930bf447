"""Log files of parts: bounded, turned over while they are written, without a byte that is lost."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.supervisor.logfile import STAMP, LogFile, files_of, read_last, times_of


class Clock:
    """A time that a test sets."""

    now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


def written(log: Path) -> bytes:
    """All that is in the files of a log, oldest first."""
    return b"".join(path.read_bytes() for path in reversed(files_of(log)))


def test_a_log_is_appended_to(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("old\n")

    LogFile(tmp_path / "log").append(b"new\n")

    assert (tmp_path / "log").read_text() == "old\nnew\n"


def test_a_log_is_for_its_owner_alone(tmp_path: Path) -> None:
    LogFile(tmp_path / "log").close()

    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o600}


def test_a_full_file_is_turned_over_between_two_lines(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log", bytes_max=10)

    log.append(b"first\nsecond\nthird\n")

    assert [path.read_text() for path in files_of(tmp_path / "log")] == ["third\n", "second\n", "first\n"]


def test_only_the_newest_files_are_kept(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log", bytes_max=5, kept=2)

    for number in range(6):
        log.append(b"line%d\n" % number)

    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".times") == [
        "log",
        "log.1",
        "log.2",
    ]
    assert written(tmp_path / "log") == b"line3\nline4\nline5\n"


def test_a_line_without_an_end_does_not_grow_a_file_for_ever(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log", bytes_max=100)

    for _ in range(50):
        log.append(b"." * 10)

    assert all(path.stat().st_size <= 210 for path in files_of(tmp_path / "log"))
    assert written(tmp_path / "log") == b"." * 500


@settings(max_examples=40, deadline=None)
@given(pieces=st.lists(st.binary(max_size=60), max_size=12), bytes_max=st.integers(20, 60))
def test_however_it_comes_nothing_is_lost(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], bytes_max: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    log = LogFile(folder / "log", bytes_max=bytes_max, kept=64)

    for piece in pieces:
        log.append(piece)
    log.close()

    names = [folder / "log", *(folder / f"log.{number}" for number in range(1, 65))]
    found = b"".join(path.read_bytes() for path in reversed(names) if path.exists())
    assert found == b"".join(pieces)
    assert log.written_bytes == len(found)


def test_the_times_say_what_was_written_when(tmp_path: Path) -> None:
    clock = Clock()
    log = LogFile(tmp_path / "log", now=clock)

    log.append(b"one\n")
    log.append(b"at once\n")
    clock.now_s += 5
    log.append(b"later\n")

    times = list(STAMP.iter_unpack(times_of(tmp_path / "log").read_bytes()))
    assert times == [(1_000_000.0, 0), (1_000_005.0, len(b"one\nat once\n"))]


def test_a_mark_begins_a_line_of_its_own(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log", now=Clock())

    log.append(b"amid a li")
    log.mark("ended")

    assert (tmp_path / "log").read_text() == "amid a li\n--- 1970-01-12T13:46:40Z ended\n"


def test_a_log_that_was_removed_is_made_anew(tmp_path: Path) -> None:
    clock = Clock()
    log = LogFile(tmp_path / "log", now=clock)
    log.append(b"one\n")

    (tmp_path / "log").unlink()
    clock.now_s += 2
    log.append(b"two\n")

    assert (tmp_path / "log").read_text() == "two\n"


def test_a_log_that_can_not_be_made_anew_writes_into_no_other_file(tmp_path: Path) -> None:
    clock = Clock()
    log = LogFile(tmp_path / "logs" / "log", now=clock)
    shutil.rmtree(tmp_path / "logs")
    (tmp_path / "logs").touch()

    clock.now_s += 2.0
    log.append(b"line\n")
    with (tmp_path / "other").open("wb"):
        log.append(b"line\n")

    assert (tmp_path / "other").read_bytes() == b""


def test_a_log_that_can_not_be_turned_over_goes_on_in_its_file(tmp_path: Path) -> None:
    (tmp_path / "log.2").mkdir()
    (tmp_path / "log.1").touch()

    LogFile(tmp_path / "log", bytes_max=10, kept=2).append(b"first\nsecond\nthird\n")

    assert (tmp_path / "log").read_text() == "first\nsecond\nthird\n"


def test_on_a_full_disk_lines_are_counted_and_said_once_and_the_log_says_how_many(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path / "log"], capture_output=True, text=True, check=True
    ).stdout.splitlines()

    assert told == [f"{tmp_path / 'log'} can't be written, lines are lost: File too large", "5"]
    assert (
        tmp_path / "log"
    ).read_text() == "before\na\n--- 5 lines are missing here: they could not be written\nafter\n"


def test_the_end_is_read_across_files(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log", bytes_max=8)
    log.append(b"first\nsecond\nthird\n")

    assert read_last(tmp_path / "log", 9) == "nd\nthird\n"
    assert read_last(tmp_path / "log", 1000) == "first\nsecond\nthird\n"
    assert read_last(tmp_path / "absent", 5) == ""


# A limit for files is the cheapest disk that is full, and full for this process alone.
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from penstock.supervisor.logfile import LogFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = LogFile(Path(sys.argv[1]), on_trouble=print)
log.append(b"before\\n")
resource.setrlimit(resource.RLIMIT_FSIZE, (8, resource.RLIM_INFINITY))
log.append(b"a line\\nb\\n")
log.append(b"c\\nd\\ne\\n")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.append(b"after\\n")
print(log.lost_lines)
"""
