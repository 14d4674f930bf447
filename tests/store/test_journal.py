"""The usage journal: a line before an engine works, a line before a client sees the end."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.record import Outcome
from penstock.store.journal import CATCH_UP_LINES, JournalError
from penstock.store.journal_line import (
    COST_NANO_USD_MAX,
    LINE_BYTES_MAX,
    Begin,
    End,
    decode_line,
    encode_line,
    nano_usd,
)
from penstock.store.journal_reader import is_finished
from tests.store.journals import NOON, PRICE, begin_line, journal, lines_in, record

# Writes requests under a limit of 2,000 bytes a file, then lifts it: the disk is full, then has room.
FULL_DISK = """
import resource, sys
from pathlib import Path
from penstock.store.journal import CATCH_UP_LINES, JournalError
from tests.store.journals import PRICE, journal, record
problems, recovered = [], []
log = journal(Path(sys.argv[1]), on_failure=sys.argv[2], on_problem=problems.append, on_recovered=recovered.append,
    kept_max=int(sys.argv[3]))
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
for number in range(20):
    one = record(f"r{number:02}")
    try:
        log.end(log.begin(one, 200), one, PRICE)
    except JournalError as error:
        print("refused", error.status, error.code)
failing, kept = log.failing, log.kept
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
log.tend()
one = record("later")
log.end(log.begin(one, 200), one, PRICE)
print(failing, kept, log.failing, log.kept, log.dropped, [error.code for error in problems], recovered)
log.close()
"""


# The disk has room for a line but for its newline, then for all.
NO_ROOM_FOR_A_NEWLINE = """
import resource, sys
from pathlib import Path
from tests.store.journals import journal, record
log = journal(Path(sys.argv[1]), on_failure="refuse")
first = log.begin(record("r0"), 200)
size = next(Path(sys.argv[1]).iterdir()).stat().st_size
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (2 * size - 1, hard))
second = log.begin(record("r1"), 200)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
log.end(first, record("r0"))
log.end(second, record("r1"))
log.close()
"""


def on_a_full_disk(folder: Path, on_failure: str, kept_max: int = 100) -> list[str]:
    """What `FULL_DISK` prints."""
    return subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(folder), on_failure, str(kept_max)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout.splitlines()


def test_a_request_has_a_line_for_its_beginning_and_one_for_its_end(tmp_path: Path) -> None:
    log, one = journal(tmp_path), record()
    entry = log.begin(one, 200)
    begun = lines_in(tmp_path)

    log.end(entry, one, PRICE)

    facts = ("r1", "search", "k1", "llama", "/v1/chat/completions", NOON, 200)
    begin = Begin(entry.id, *facts)
    end = End(
        entry.id,
        *facts,
        ended_at=NOON,
        status=200,
        outcome="complete",
        replica="llama-0",
        prompt_tokens=100,
        completion_tokens=20,
        usage_source="engine",
        cost_nano_usd=27_000,
        prompt_usd_per_million=0.15,
        completion_usd_per_million=0.6,
        attempts=1,
    )
    assert begun == [begin]
    assert lines_in(tmp_path) == [begin, end]
    log.close()


def test_entries_of_one_request_id_are_told_apart(tmp_path: Path) -> None:
    first, second = journal(tmp_path), journal(tmp_path)

    ids = {log.begin(record("same"), 1).id for log in (first, first, second)}

    assert len(ids) == 3
    first.close()
    second.close()


def test_a_second_end_of_an_entry_writes_nothing(tmp_path: Path) -> None:
    log, one = journal(tmp_path), record()
    entry = log.begin(one, 200)
    log.end(entry, one)

    log.end(entry, one)
    log.ensure_end(entry, one)

    assert len(lines_in(tmp_path)) == 2
    log.close()


def test_files_are_named_by_start_process_and_number_and_are_their_owners_alone(tmp_path: Path) -> None:
    log = journal(tmp_path / "journal")
    log.begin(record(), 1)

    (path,) = (tmp_path / "journal").iterdir()

    assert re.fullmatch(r"20261130T120000Z-\d+-1\.jsonl", path.name)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    log.close()


def test_a_file_is_finished_when_its_writer_has_let_go(tmp_path: Path) -> None:
    log = journal(tmp_path)
    log.begin(record(), 1)
    (path,) = tmp_path.iterdir()
    held = is_finished(path)

    log.close()

    assert (held, is_finished(path)) == (False, True)


def test_an_empty_file_is_not_finished(tmp_path: Path) -> None:
    path = tmp_path / "20261130T120000Z-1-1.jsonl"
    path.touch()

    assert not is_finished(path)


def test_a_full_file_is_held_until_its_requests_have_ended(tmp_path: Path) -> None:
    log, long, short = journal(tmp_path, segment_bytes=1000), record("long"), record("short")
    entry = log.begin(long, 1)
    for _ in range(5):
        log.end(log.begin(short, 1), short)
    first, second, *_ = sorted(tmp_path.iterdir())
    before = is_finished(first), is_finished(second)

    log.end(entry, long)

    assert before == (False, True)
    assert is_finished(first)
    assert [line for line in lines_in(tmp_path) if line is None] == []
    log.close()


def test_names_that_are_taken_are_passed_over(tmp_path: Path) -> None:
    log = journal(tmp_path)
    log.begin(record(), 1)
    (taken,) = tmp_path.iterdir()
    later = journal(tmp_path)

    later.begin(record(), 1)

    assert len(list(tmp_path.iterdir())) == 2
    assert taken.exists()
    log.close()
    later.close()


@pytest.mark.parametrize("sync", ["none", "always"])
def test_both_ways_of_syncing_write_the_same(tmp_path: Path, sync: str) -> None:
    log, one = journal(tmp_path, sync=sync), record()

    log.end(log.begin(one, 1), one)

    assert len(lines_in(tmp_path)) == 2
    log.close()


def test_a_full_disk_refuses_requests_and_works_again_when_there_is_room(tmp_path: Path) -> None:
    *refusals, state = on_a_full_disk(tmp_path, "refuse")

    assert set(refusals) == {"refused 503 journal_unwritable"}
    assert state == "True 0 False 0 0 ['journal_unwritable'] [0]"
    found = lines_in(tmp_path)
    assert found.count(None) <= 1
    ends = [line.request_id for line in found if isinstance(line, End)]
    assert ends == [*(f"r{number:02}" for number in range(20 - len(refusals))), "later"]
    assert sum(type(line) is Begin for line in found) - len(ends) in (0, 1)  # one could begin, not end


def test_a_full_disk_costs_no_line_of_served_requests(tmp_path: Path) -> None:
    (state,) = on_a_full_disk(tmp_path, "serve")

    failing, kept, still, left, dropped, *told = state.split()
    assert (failing, still, left, dropped) == ("True", "False", "0", "0")
    assert int(kept) > 10
    assert told == ["['journal_unwritable']", f"[{kept}]"]
    ends = [line.request_id for line in lines_in(tmp_path) if isinstance(line, End)]
    assert sorted(ends) == ["later", *(f"r{number:02}" for number in range(20))]


def test_lines_beyond_what_memory_may_hold_are_counted_as_lost(tmp_path: Path) -> None:
    (state,) = on_a_full_disk(tmp_path, "serve", kept_max=3)

    failing, kept, _, left, dropped, *told = state.split()
    assert (failing, kept, left) == ("True", "3", "0")
    assert int(dropped) > 10
    assert told[:2] == ["['journal_unwritable',", "'journal_unwritable']"]
    ends = [line for line in lines_in(tmp_path) if isinstance(line, End)]
    assert len(ends) < 21


def test_a_line_that_lacks_its_newline_alone_counts_as_written(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", NO_ROOM_FOR_A_NEWLINE, str(tmp_path)], check=True, timeout=60)

    assert [line and line.request_id for line in lines_in(tmp_path)] == ["r0", "r1", "r0", "r1"]


def test_a_kept_beginning_is_not_written_behind_its_end(tmp_path: Path) -> None:
    folder, one = tmp_path / "journal", record()
    folder.touch()
    log = journal(folder)
    entries = [log.begin(one, 1) for _ in range(CATCH_UP_LINES + 2)]
    folder.unlink()

    log.end(entries[-1], one)
    log.close()

    of_last = [type(line) for line in lines_in(folder) if line and line.entry == entries[-1].id]
    assert of_last == [End]
    assert len(lines_in(folder)) == len(entries)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    try:
        mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_the_journal_outlives_a_disk_without_room(tiny_disk: Path) -> None:
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(bytes(56 * 1024))
    problems: list[JournalError] = []
    log = journal(tiny_disk / "journal", on_problem=problems.append)
    for number in range(40):
        one = record(f"r{number:02}")
        log.end(log.begin(one, 200), one)
    failing = log.failing

    ballast.unlink()
    log.close()

    assert failing
    assert "no space left on device" in problems[0].message
    found = lines_in(tiny_disk / "journal")
    ends = [line.request_id for line in found if isinstance(line, End)]
    assert sorted(ends) == [f"r{number:02}" for number in range(40)]
    assert found.count(None) <= 1


def test_what_is_kept_goes_with_a_journal_that_can_not_be_written_to_its_close(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("a file where the folder should be")
    problems: list[JournalError] = []
    log, one = journal(tmp_path / "journal", on_problem=problems.append), record()
    log.end(log.begin(one, 1), one)
    kept = log.kept

    log.close()

    assert (kept, log.kept, log.dropped) == (1, 0, 1)
    assert len(problems) == 2


def test_an_end_that_is_refused_can_be_told_otherwise_and_is_kept(tmp_path: Path) -> None:
    log, one = journal(tmp_path / "journal", on_failure="refuse"), record()
    entry = log.begin(one, 1)
    (path,) = (tmp_path / "journal").iterdir()
    log.tend()
    path.unlink()
    (tmp_path / "journal").rmdir()
    (tmp_path / "journal").touch()
    log.tend()
    with pytest.raises(JournalError):
        log.end(entry, one)
    one.outcome = Outcome.INTERRUPTED
    log.ensure_end(entry, one)
    (tmp_path / "journal").unlink()

    log.tend()

    (end,) = lines_in(tmp_path / "journal")
    assert isinstance(end, End)
    assert end.outcome == "interrupted"
    log.close()


def test_a_file_that_is_removed_while_in_use_is_noticed_and_replaced(tmp_path: Path) -> None:
    problems: list[JournalError] = []
    log, one = journal(tmp_path, on_problem=problems.append), record()
    entry = log.begin(one, 1)
    for path in tmp_path.iterdir():
        path.unlink()

    log.tend()
    log.end(entry, one)

    assert ["removed while in use" in problem.message for problem in problems] == [True]
    assert [line.request_id for line in lines_in(tmp_path) if line] == ["r1"]
    log.close()


@pytest.mark.parametrize(
    ("usd", "expected"),
    [
        (0.0, 0),
        (1.5e-7, 150),
        (1.0, 10**9),
        (-1.0, 0),
        (float("nan"), 0),
        (float("inf"), COST_NANO_USD_MAX),
        (1e30, COST_NANO_USD_MAX),
    ],
)
def test_money_is_in_whole_nano_dollars_and_in_range(usd: float, expected: int) -> None:
    assert nano_usd(usd) == expected


def test_tokens_that_no_engine_can_have_counted_are_held_in_range(tmp_path: Path) -> None:
    log, one = journal(tmp_path), record()
    one.usage.prompt_tokens, one.usage.completion_tokens = 2**53, -1

    log.end(log.begin(one, -5), one)

    end = lines_in(tmp_path)[1]
    assert isinstance(end, End)
    assert (end.prompt_tokens, end.completion_tokens, end.reserved_tokens) == (10**9, 0, 0)
    log.close()


def test_a_line_that_is_too_long_is_cut_to_one_that_is_read() -> None:
    line = begin_line("e1")
    line.model = "\x01" * 5000

    raw = encode_line(line)

    assert len(raw) < LINE_BYTES_MAX
    read = decode_line(raw[:-1])
    assert read is not None
    assert (read.entry, read.model) == ("e1", "\x01" * 64)


@given(st.data())
def test_a_line_with_any_byte_changed_is_none(data: st.DataObject) -> None:
    raw = bytearray(encode_line(begin_line("e1"))[:-1])
    where = data.draw(st.integers(0, len(raw) - 1))
    raw[where] ^= data.draw(st.integers(1, 255))

    assert decode_line(bytes(raw)) is None


@given(st.binary(max_size=200))
def test_any_bytes_can_be_looked_at(raw: bytes) -> None:
    assert decode_line(raw) is None
