"""The usage ledger: each entry of the journal once, whatever was torn, damaged or killed."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.core.errors import PenstockError
from penstock.core.record import Outcome
from penstock.store.journal_line import Begin, End, encode_line
from penstock.store.journal_reader import CHUNK_BYTES
from penstock.store.ledger import Ledger, Spent, Total
from tests.store.journals import (
    NOON,
    PRICE,
    begin_line,
    end_line,
    journal,
    put,
    record,
    rows_of,
    sums_agree,
    told,
    write,
)

DAY_S = 86400.0
SEED = random.SystemRandom().getrandbits(32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "journal").mkdir()
    return tmp_path / "journal"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "usage.sqlite"


@pytest.fixture
def problems() -> list[PenstockError]:
    return []


Make = Callable[..., Ledger]


@pytest.fixture
def ledger_at(path: Path, folder: Path, problems: list[PenstockError]) -> Make:
    def make(now: float = NOON, keep_s: float | None = None) -> Ledger:
        return Ledger(path, folder, lambda: now, keep_s=keep_s, on_problem=problems.append)

    return make


@pytest.fixture
def ledger(ledger_at: Make) -> Ledger:
    return ledger_at()


def test_a_request_becomes_one_row_with_all_that_is_known(ledger: Ledger, folder: Path, path: Path) -> None:
    write(folder, record())

    report = ledger.ingest()

    assert (report.rows, report.interrupted, report.torn) == (1, 0, 0)
    columns = """request_id, tenant, key_id, model, route, replica, day, started_at, ended_at, status, outcome,
        reserved_tokens, prompt_tokens, completion_tokens, usage_source, cost_nano_usd, prompt_usd_per_million,
        completion_usd_per_million, continuations, replayed"""
    assert rows_of(path, columns) == [
        (
            *(
                "r1",
                "search",
                "k1",
                "llama",
                "/v1/chat/completions",
                "llama-0",
                "2026-11-30",
                NOON,
                NOON,
                200,
            ),
            *("complete", 200, 100, 20, "engine", 27_000, 0.15, 0.6, 0, 0),
        )
    ]


def test_what_was_taken_in_is_not_taken_in_again(ledger: Ledger, ledger_at: Make, folder: Path) -> None:
    write(folder, record())
    ledger.ingest()
    (original,) = folder.iterdir()
    original.with_name("20270101T000000Z-1-1.jsonl").write_bytes(original.read_bytes())

    again, elsewhere = ledger.ingest(), ledger_at().ingest()

    assert (again.rows, elsewhere.rows) == (0, 0)
    assert [total.requests for total in ledger.totals()] == [1]


def test_a_request_without_an_end_is_open_while_its_writer_lives_and_then_interrupted_once(
    ledger: Ledger, folder: Path, path: Path
) -> None:
    log = journal(folder)
    log.begin(record(), 200)
    open_yet = ledger.ingest().rows

    log.close()
    reports = [ledger.ingest() for _ in range(3)]

    assert open_yet == 0
    assert [(report.rows, report.interrupted) for report in reports] == [(1, 1), (0, 0), (0, 0)]
    assert rows_of(path, "request_id, outcome, ended_at, day") == [("r1", "interrupted", None, "2026-11-30")]
    assert ledger.totals() == [Total(("search",), 1, 1, 0, 0, 0)]


def test_an_end_in_a_later_file_belongs_to_its_beginning(ledger: Ledger, folder: Path, path: Path) -> None:
    log, long, short = journal(folder, segment_bytes=1000), record("long"), record("short")
    entry = log.begin(long, 1)
    for _ in range(5):
        log.end(log.begin(short, 1), short)
    first = ledger.ingest()
    log.end(entry, long)
    log.close()

    second = ledger.ingest()

    assert (first.interrupted, second.interrupted, second.rows) == (0, 0, 1)
    assert ("long", "complete") in rows_of(path)


def test_an_end_that_comes_after_all_replaces_the_interruption(
    ledger: Ledger, folder: Path, path: Path
) -> None:
    put(folder, "a.jsonl", begin_line("e1"), begin_line("e2"))
    ledger.ingest()
    put(folder, "b.jsonl", end_line("e1", prompt_tokens=7, cost_nano_usd=5))

    report = ledger.ingest()

    assert report.rows == 0
    assert rows_of(path) == [("req-e1", "complete"), ("req-e2", "interrupted")]
    assert ledger.totals() == [Total(("search",), 2, 1, 7, 0, 5)]
    assert sums_agree(path)


def test_an_end_stands_for_itself_where_its_beginning_was_lost(ledger: Ledger, folder: Path) -> None:
    put(folder, "a.jsonl", end_line("e1"))

    assert ledger.ingest().rows == 1


def test_a_line_half_written_is_waited_for(ledger: Ledger, folder: Path) -> None:
    log, one = journal(folder), record()
    entry = log.begin(one, 1)
    (path,) = folder.iterdir()
    raw = encode_line(end_line(entry.id))
    with path.open("ab") as file:
        file.write(raw[:40])
    before = ledger.ingest()
    with path.open("ab") as file:
        file.write(raw[40:])

    after = ledger.ingest()

    assert (before.rows, before.torn) == (0, 0)
    assert (after.rows, after.torn) == (1, 0)
    log.close()


def test_a_torn_last_line_is_counted_once_and_its_request_is_interrupted(
    ledger: Ledger, folder: Path
) -> None:
    raw = encode_line(begin_line("e1")) + encode_line(end_line("e1"))
    (folder / "a.jsonl").write_bytes(raw[:-30])

    reports = [ledger.ingest() for _ in range(2)]

    assert [(report.torn, report.interrupted) for report in reports] == [(1, 1), (0, 0)]
    assert ledger.torn_lines() == 1


def test_a_last_line_that_lacks_its_newline_alone_is_whole(ledger: Ledger, folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(encode_line(end_line("e1"))[:-1])

    report = ledger.ingest()

    assert (report.rows, report.torn) == (1, 0)


def test_a_line_without_end_is_passed_over_and_what_follows_is_read(ledger: Ledger, folder: Path) -> None:
    raw = b"x" * (3 * CHUNK_BYTES) + b"\n" + encode_line(end_line("e1"))
    (folder / "a.jsonl").write_bytes(raw)

    report = ledger.ingest()

    assert (report.rows, report.torn) == (1, 1)


_GARBAGE = st.one_of(
    st.binary(max_size=80),
    st.sampled_from([b"", b"\n", b"\n\n", b"00000000 {}\n", b"{}\n", bytes(4096), b"deadbeef {" * 20]),
    st.integers(1, 150).map(lambda cut: encode_line(end_line("torn"))[:cut]),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(pieces=st.lists(st.tuples(_GARBAGE, st.booleans()), max_size=12), cut=st.integers(0, 4000))
def test_every_whole_line_is_taken_in_once_whatever_is_between(
    pieces: list[tuple[bytes, bool]], cut: int
) -> None:
    expected = []
    raw = b""
    for number, (garbage, doubled) in enumerate(pieces):
        line = encode_line(end_line(f"e{number}"))
        raw += garbage + line + (line if doubled else b"")
        expected.append(f"e{number}")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "journal").mkdir()
        ledger = Ledger(root / "usage.sqlite", root / "journal", lambda: NOON)
        with journal_file(root / "journal" / "a.jsonl") as file:  # in two steps, cut anywhere
            file.write(raw[:cut])
            file.flush()
            ledger.ingest()
            file.write(raw[cut:])
        ledger.ingest()

        assert [entry for (entry,) in rows_of(root / "usage.sqlite", "entry_id")] == sorted(
            expected, key=lambda entry: f"req-{entry}"
        )
        assert not pieces or sums_agree(root / "usage.sqlite")


def journal_file(path: Path) -> IO[bytes]:
    """A file that is held, as its writer would hold it, until it is closed."""
    file = path.open("wb")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


_REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.sampled_from(["k1", "k2"]),
        st.sampled_from(["m", "n"]),
        st.sampled_from(Outcome),
        st.integers(0, 3),
        st.integers(0, 10**6) | st.none(),
        st.integers(0, 10**9),
        st.booleans(),
    ),
    max_size=30,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(requests=_REQUESTS, cuts=st.lists(st.integers(0, 30), max_size=3))
def test_the_sums_are_those_of_the_rows(requests: list[tuple[Any, ...]], cuts: list[int]) -> None:
    lines: list[Begin | End] = []
    for number, (tenant, key, model, outcome, day, tokens, cost, ends) in enumerate(requests):
        who = (f"e{number}", "r", tenant, key, model, "/v1/completions", NOON)
        lines.append(Begin(*who))
        if ends:
            lines.append(
                End(
                    *who,
                    ended_at=NOON + day * DAY_S,
                    status=200,
                    outcome=outcome.value,
                    prompt_tokens=tokens,
                    completion_tokens=tokens,
                    cost_nano_usd=cost,
                )
            )
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        ledger = Ledger(root / "usage.sqlite", root / "journal", lambda: NOON)
        parts = [0, *sorted(cuts), len(lines)]
        for number, (start, end) in enumerate(pairwise(parts)):
            put(root / "journal", f"{number}.jsonl", *lines[start:end])
            ledger.ingest()

        assert sums_agree(root / "usage.sqlite")
        assert sum(total.requests for total in ledger.totals(())) == len(requests)


def test_totals_are_made_by_any_dimensions_of_any_days(ledger: Ledger, folder: Path) -> None:
    put(
        folder,
        "a.jsonl",
        end_line("e1", cost_nano_usd=1),
        end_line("e2", cost_nano_usd=10, ended_at=NOON + DAY_S),
        End("e3", "r", "ads", "k2", "qwen", "/v1/completions", NOON, ended_at=NOON, status=200, outcome="x"),
    )
    ledger.ingest()

    assert [total.group for total in ledger.totals(("model", "tenant"))] == [
        ("llama", "search"),
        ("qwen", "ads"),
    ]
    assert [(total.group, total.cost_nano_usd) for total in ledger.totals(("day",))] == [
        (("2026-11-30",), 1),
        (("2026-12-01",), 10),
    ]
    assert ledger.totals((), since=date(2026, 12, 1)) == [Total((), 1, 0, 0, 0, 10)]
    assert ledger.totals((), until=date(2026, 11, 30), where={"key": ["k1"]}) == [Total((), 1, 0, 0, 0, 1)]
    assert ledger.totals((), where={"key": ["k9"]}) == []
    assert ledger.names("tenant") == ["ads", "search"]


def test_spending_is_of_this_day_and_month_in_utc(ledger_at: Make, folder: Path) -> None:
    put(
        folder,
        "a.jsonl",
        end_line("e1", cost_nano_usd=1 * 10**9),
        end_line("e2", cost_nano_usd=2 * 10**9, ended_at=NOON - DAY_S),
        end_line("e3", cost_nano_usd=4 * 10**9, ended_at=NOON - 40 * DAY_S),
    )
    ledger = ledger_at()
    ledger.ingest()

    assert ledger.spend().tenants == {"search": Spent(1.0, 3.0)}
    assert ledger.spend().keys == {"k1": Spent(1.0, 3.0)}
    assert ledger_at(NOON + DAY_S).spend().tenants == {}


def test_a_ledger_that_nobody_made_is_empty_and_is_not_made_by_looking(ledger: Ledger, path: Path) -> None:
    assert (ledger.totals(), ledger.spend().keys, ledger.torn_lines()) == ([], {}, 0)
    assert not path.exists()


def fill(ledger: Ledger, folder: Path) -> None:
    """Takes 50 requests in."""
    write(folder, *(record(f"r{number:02}", tenant=f"t{number % 3}") for number in range(50)))
    ledger.ingest()


def spoil_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\xff" * 100)


def spoil_text(path: Path) -> None:
    path.write_text("no database at all\n" * 100)


def spoil_by_cutting(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)


def spoil_pages(path: Path) -> None:
    """Every page but the first."""
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))


@pytest.mark.parametrize("spoil", [spoil_header, spoil_text, spoil_by_cutting, spoil_pages])
@pytest.mark.parametrize("find", ["ingest", "totals"])
def test_a_damaged_file_is_moved_aside_and_made_again(
    ledger: Ledger,
    folder: Path,
    path: Path,
    problems: list[PenstockError],
    spoil: Callable[[Path], None],
    find: str,
) -> None:
    fill(ledger, folder)
    spoil(path)

    report = ledger.ingest() if find == "ingest" else None
    totals = ledger.totals()

    (aside,) = path.parent.glob("usage.sqlite.corrupt-20261130T120000Z")
    assert report is None or report.rebuilt == str(aside)
    assert [total.requests for total in totals] == [17, 17, 16]
    assert told(problems) == ["ledger_damaged"]
    assert sums_agree(path)


def test_a_page_found_damaged_by_reading_alone_is_enough(
    ledger: Ledger, folder: Path, path: Path, problems: list[PenstockError]
) -> None:
    fill(ledger, folder)
    with sqlite3.connect(path) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'daily'").fetchone()
    db.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)
    quiet = ledger.ingest()

    totals = ledger.totals()

    assert quiet.rebuilt == ""
    assert sum(total.requests for total in totals) == 50
    assert told(problems) == ["ledger_damaged"]


def test_of_many_damaged_files_the_last_are_kept(ledger_at: Make, path: Path) -> None:
    for day in range(7):
        ledger = ledger_at(NOON + day * DAY_S)
        ledger.ingest()
        spoil_text(path)

    kept = sorted(one.name for one in path.parent.glob("usage.sqlite.corrupt-*"))

    assert kept == [f"usage.sqlite.corrupt-202612{day:02}T120000Z" for day in (4, 5, 6)]


def test_a_ledger_that_another_process_made_again_is_followed(
    ledger: Ledger, ledger_at: Make, folder: Path, path: Path
) -> None:
    other = ledger_at()
    fill(ledger, folder)
    before = other.totals(())
    spoil_text(path)
    ledger.ingest()
    write(folder, record("more"))
    ledger.ingest()

    assert [total.requests for total in (*before, *other.totals(()))] == [50, 51]


def test_a_ledger_that_was_removed_is_made_again(ledger: Ledger, folder: Path, path: Path) -> None:
    fill(ledger, folder)
    path.unlink()

    ledger.ingest()

    assert [total.requests for total in ledger.totals(())] == [50]


def test_a_ledger_that_was_removed_is_not_read_any_more(
    ledger: Ledger, ledger_at: Make, folder: Path, path: Path
) -> None:
    other = ledger_at()
    fill(ledger, folder)
    other.totals()
    path.unlink()
    write(folder, record("more"))
    ledger.ingest()

    assert [total.requests for total in other.totals(())] == [51]


def test_a_ledger_of_a_newer_penstock_is_left_alone(ledger: Ledger, folder: Path, path: Path) -> None:
    fill(ledger, folder)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()

    for use in (ledger.ingest, ledger.totals):
        with pytest.raises(PenstockError, match="has version 99, this Penstock knows 2"):
            use()
    assert list(path.parent.glob("*.corrupt*")) == []


def test_a_ledger_that_can_not_be_a_file_is_an_error_that_says_so(
    ledger: Ledger, folder: Path, path: Path
) -> None:
    path.mkdir()

    with pytest.raises(PenstockError, match="can't be used") as caught:
        ledger.ingest()

    assert caught.value.code == "ledger_unusable"


# Takes lines in while no file may grow over 200 kB, then without that limit.
FULL_DISK = """
import resource, sys
from pathlib import Path
from penstock.core.errors import PenstockError
from penstock.store.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]), Path(sys.argv[2]), lambda: 1.0)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
try:
    ledger.ingest()
except PenstockError as error:
    print(error.code)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
ledger.ingest()
"""


def test_a_full_disk_is_an_error_and_lines_are_taken_in_once_there_is_room(folder: Path, path: Path) -> None:
    write(folder, *(record(f"r{number}") for number in range(3000)))

    told = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), str(folder)], check=True, capture_output=True, timeout=60
    )

    assert told.stdout == b"ledger_unusable\n"
    assert len(rows_of(path)) == 3000
    assert sums_agree(path)


def test_reading_needs_no_ingest_after_one_was_killed(ledger: Ledger, folder: Path, path: Path) -> None:
    write(folder, *(record(f"r{number}") for number in range(100)))
    die = INGESTER.replace("ledger.ingest(wait_s=30)", DIE_AMID)
    subprocess.run([sys.executable, "-c", die, str(path), str(folder)], input=b"\n", timeout=60)

    totals = ledger.totals(())

    assert path.with_name("usage.sqlite-wal").exists()
    assert [total.requests for total in totals] == [100]


def test_only_one_takes_lines_in_at_a_time(ledger: Ledger, ledger_at: Make, folder: Path, path: Path) -> None:
    write(folder, record())
    lock = path.with_name("usage.sqlite.lock")
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout
        holder.stdout.readline()

        report = ledger.ingest()

        assert (report.busy, report.rows) == (True, 0)
        holder.communicate()
    assert ledger_at().ingest().rows == 1


def test_two_at_once_take_each_request_in_once(ledger_at: Make, folder: Path, path: Path) -> None:
    done = threading.Event()

    def take_in() -> None:
        ledger = ledger_at()
        while not done.is_set():
            ledger.ingest(wait_s=0.01)

    threads = [threading.Thread(target=take_in) for _ in range(2)]
    for thread in threads:
        thread.start()
    for part in range(5):
        write(folder, *(record(f"{part}-{number}") for number in range(100)))
    done.set()
    for thread in threads:
        thread.join()
    ledger_at().ingest()

    assert len(rows_of(path)) == 500
    assert {outcome for _, outcome in rows_of(path)} == {"complete"}
    assert sums_agree(path)


def test_an_empty_file_is_left_until_it_is_old(ledger_at: Make, folder: Path) -> None:
    empty = folder / "a.jsonl"
    empty.touch()
    os.utime(empty, (NOON, NOON))
    ledger_at(NOON + 60).ingest()
    before = empty.exists()

    ledger_at(NOON + 7200).ingest()

    assert (before, empty.exists()) == (True, False)


def test_an_old_empty_file_that_is_held_is_left(ledger_at: Make, folder: Path) -> None:
    with journal_file(folder / "a.jsonl"):
        os.utime(folder / "a.jsonl", (NOON, NOON))

        ledger_at(NOON + 7200).ingest()

        assert (folder / "a.jsonl").exists()


def test_files_are_removed_once_they_are_read_and_old_and_their_rows_stay(
    ledger_at: Make, folder: Path
) -> None:
    write(folder, record())
    log = journal(folder)
    log.begin(record("open"), 1)
    for path in folder.iterdir():
        os.utime(path, (NOON, NOON))
    ledger_at(NOON + 89 * DAY_S, keep_s=90 * DAY_S).ingest()
    early = len(list(folder.iterdir()))

    report = ledger_at(NOON + 91 * DAY_S, keep_s=90 * DAY_S).ingest()

    assert (early, report.removed, len(list(folder.iterdir()))) == (2, 1, 1)  # one is being written
    assert [total.requests for total in ledger_at().totals(())] == [1]
    log.close()


def test_a_file_that_vanishes_is_told_and_its_open_requests_are_interrupted(
    ledger: Ledger, folder: Path, path: Path, problems: list[PenstockError]
) -> None:
    log = journal(folder)
    log.begin(record(), 1)
    ledger.ingest()
    (file,) = folder.iterdir()
    file.unlink()

    reports = [ledger.ingest() for _ in range(2)]

    assert [report.vanished for report in reports] == [(file.name,), ()]
    assert told(problems) == ["journal_vanished"]
    assert rows_of(path) == [("r1", "interrupted")]
    log.close()


def test_a_file_that_can_not_be_read_is_counted_and_the_others_are_read(ledger: Ledger, folder: Path) -> None:
    (folder / "a.jsonl").mkdir()
    put(folder, "b.jsonl", end_line("e1"))

    report = ledger.ingest()

    assert (report.unreadable, report.rows) == (1, 1)


# Says on standard output what a client would have seen, in the order it would have: b for admitted, e for ended.
WRITER = """
import os, sys
from pathlib import Path
from penstock.store.journal import Journal
from tests.store.journals import PRICE, journal, record
log = journal(Path(sys.argv[1]), segment_bytes=20_000)
running = []
for number in range(100_000):
    one = record(f"{sys.argv[2]}-{number}")
    running.append((log.begin(one, 200), one))
    os.write(1, f"b {one.request_id}\\n".encode())
    if len(running) > 3:
        entry, one = running.pop(0)
        log.end(entry, one, PRICE)
        os.write(1, f"e {one.request_id}\\n".encode())
"""


def test_a_killed_writer_loses_nothing_that_a_client_has_seen(
    ledger: Ledger, folder: Path, path: Path
) -> None:
    chance = random.Random(SEED)
    begun, ended = set(), set()
    for boot in range(10):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(boot)], stdout=subprocess.PIPE
        )
        assert writer.stdout
        seen = [writer.stdout.readline() for _ in range(chance.randint(1, 300))]
        if boot % 2:
            ledger.ingest()  # amid the writing
        writer.send_signal(signal.SIGKILL)
        seen += writer.stdout.read().splitlines()
        writer.wait()
        writer.stdout.close()
        words = [line.decode().split() for line in seen if line.strip()]
        begun |= {word[1] for word in words if word[0] == "b" and len(word) == 2}
        ended |= {word[1] for word in words if word[0] == "e" and len(word) == 2}

    ledger.ingest()

    rows = rows_of(path)
    assert len({request_id for request_id, _ in rows}) == len(rows), SEED
    found = dict(rows)
    assert ended <= {name for name, outcome in found.items() if outcome == "complete"}, SEED
    assert begun <= found.keys(), SEED
    assert 10 <= sum(outcome == "interrupted" for outcome in found.values()) <= 50, SEED
    assert sums_agree(path)


INGESTER = """
import sys
from pathlib import Path
from penstock.store import journal_reader
from penstock.store.ledger import Ledger
journal_reader.CHUNK_BYTES = 10_000
ledger = Ledger(Path(sys.argv[1]), Path(sys.argv[2]), lambda: 1.0)
print(flush=True)
sys.stdin.readline()
ledger.ingest(wait_s=30)
"""


DIE_AMID = """
import os
with ledger._file.writing() as db:
    from penstock.store.ledger_intake import Intake
    Intake(db, Path(sys.argv[2]), 0.0, 1.0).run()
    os.kill(os.getpid(), 9)
"""


def test_a_killed_ingester_leaves_each_request_once(ledger: Ledger, folder: Path, path: Path) -> None:
    chance = random.Random(SEED)
    unfinished = 0
    for round_ in range(10):
        log = journal(folder, segment_bytes=50_000)
        for number in range(300):
            one = record(f"{round_}-{number}", tenant=f"t{number % 5}")
            entry = log.begin(one, 1)
            if number % 50:
                log.end(entry, one, PRICE)
        log.close()
        ingester = subprocess.Popen(
            [sys.executable, "-c", INGESTER, str(path), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert ingester.stdin
        assert ingester.stdout
        ingester.stdout.readline()
        ingester.stdin.write(b"\n")
        ingester.stdin.flush()
        try:
            ingester.wait(chance.uniform(0.0, 0.03))
        except subprocess.TimeoutExpired:
            unfinished += 1
        ingester.send_signal(signal.SIGKILL)
        ingester.communicate()

    ledger.ingest()

    rows = rows_of(path)
    assert len(rows) == 3000, SEED
    assert sum(outcome == "interrupted" for _, outcome in rows) == 60, SEED
    assert sums_agree(path), SEED
    assert unfinished


def test_a_ledger_of_an_earlier_penstock_is_taken_over(ledger: Ledger, folder: Path, path: Path) -> None:
    fill(ledger, folder)
    before = rows_of(path)
    with sqlite3.connect(path) as db:
        for column in (
            *("stream", "priority", "fault", "error_code"),
            *("attempts", "queue_s", "ttft_s", "tpot_s"),
        ):
            db.execute(f"ALTER TABLE requests DROP COLUMN {column}")
        db.execute("PRAGMA user_version = 1")
    db.close()
    write(folder, record("later"))
    ledger.ingest()

    assert rows_of(path) == sorted([*before, ("later", "complete")])
    assert sums_agree(path)
