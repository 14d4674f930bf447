"""`penstock usage`."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from penstock.cli.usage import _last_days
from penstock.core.record import Outcome
from penstock.store.journal import Journal
from tests.cli.conftest import Command
from tests.store.journals import PRICE, record

Use = Callable[..., None]


@pytest.fixture
def use(folder: Path) -> Use:
    """Writes the journal of requests that end now, or some days ago."""

    def write(*requests: dict[str, str], days_ago: int = 0) -> None:
        (folder / ".penstock").mkdir(exist_ok=True)
        at = time.time() - days_ago * 86400
        log = Journal(folder / ".penstock" / "journal", lambda: at)
        for request in requests:
            one = replace(record(**request), started_at=at)  # type: ignore[arg-type]
            log.end(log.begin(one, 200), one, PRICE)
        log.close()

    return write


def test_without_any_use_it_says_so_and_makes_nothing(penstock: Command, folder: Path) -> None:
    result = penstock("usage")

    assert (result.code, result.out) == (0, "")
    assert "nothing was used here yet" in result.err
    assert list(folder.iterdir()) == []


def test_it_shows_tenants_with_a_row_of_totals(penstock: Command, use: Use) -> None:
    use({"tenant": "ads"}, {"tenant": "search"}, {"tenant": "search", "outcome": Outcome.INTERRUPTED})

    result = penstock("usage")

    assert (result.code, result.err) == (0, "")
    assert [line.split() for line in result.out.splitlines()] == [
        ["TENANT", "REQUESTS", "INTERRUPTED", "PROMPT", "TOKENS", "COMPLETION", "TOKENS", "COST", "USD"],
        ["ads", "1", "0", "100", "20", "<0.0001"],
        ["search", "2", "1", "200", "40", "0.0001"],
        ["total", "3", "1", "300", "60", "0.0001"],
    ]


def test_requests_that_run_are_not_counted_until_they_end(penstock: Command, folder: Path) -> None:
    (folder / ".penstock").mkdir()
    log, one = Journal(folder / ".penstock" / "journal", time.time), record()
    entry = log.begin(one, 1)
    before = penstock("usage")
    log.end(entry, one, PRICE)

    after = penstock("usage", "--json")

    assert before.out == ""
    assert json.loads(after.out)["total"]["requests"] == 1
    log.close()


def test_json_has_the_rows_and_their_total_in_dollars(penstock: Command, use: Use) -> None:
    use({"model": "llama"}, {"model": "qwen", "key_id": "k2"})

    data = json.loads(penstock("usage", "--by", "model, key", "--json").out)

    figures = {"requests": 1, "interrupted": 0, "prompt_tokens": 100, "completion_tokens": 20}
    assert data == {
        "by": ["model", "key"],
        "since": None,
        "until": None,
        "rows": [
            {"model": "llama", "key": "k1", **figures, "cost_usd": 0.000027},
            {"model": "qwen", "key": "k2", **figures, "cost_usd": 0.000027},
        ],
        "total": {name: 2 * value for name, value in figures.items()} | {"cost_usd": 0.000054},
        "torn_lines": 0,
    }


def test_json_of_nothing_is_json(penstock: Command) -> None:
    data = json.loads(penstock("usage", "--json").out)

    assert (data["rows"], data["total"]["requests"]) == ([], 0)


def test_csv_has_a_header_and_no_total(penstock: Command, use: Use) -> None:
    use({"tenant": "a,b"})

    rows = list(csv.reader(io.StringIO(penstock("usage", "--csv").out)))

    assert rows == [
        ["tenant", "requests", "interrupted", "prompt_tokens", "completion_tokens", "cost_usd"],
        ["a,b", "1", "0", "100", "20", "0.000027000"],
    ]


def test_the_last_days_include_today(penstock: Command, use: Use) -> None:
    for days_ago in range(4):
        use({}, days_ago=days_ago)

    data = json.loads(penstock("usage", "--by", "day", "--since", "3d", "--json").out)

    today = datetime.now(UTC).date()
    assert [row["day"] for row in data["rows"]][-1] in (str(today), str(today - timedelta(days=1)))
    assert data["total"]["requests"] in (3, 2)  # midnight may pass amid the test


def test_seven_days_begin_six_days_ago() -> None:
    today = datetime(2026, 12, 3, tzinfo=UTC).date()

    assert str(_last_days("7d", today)) == "2026-11-27"


def test_days_outside_of_the_period_do_not_count(penstock: Command, use: Use) -> None:
    use({})

    result = penstock("usage", "--since", "2020-01-01", "--until", "2020-12-31")

    assert (result.code, result.out) == (0, "")
    assert "nothing was used in that time" in result.err


def test_filters_are_joined(penstock: Command, use: Use) -> None:
    use({"tenant": "ads"}, {"tenant": "search", "model": "qwen"}, {"tenant": "search", "key_id": "k2"})

    def requests(*options: str) -> int:
        total: int = json.loads(penstock("usage", "--json", *options).out)["total"]["requests"]
        return total

    assert requests("--tenant", "search") == 2
    assert requests("--tenant", "search", "--tenant", "ads") == 3
    assert requests("--tenant", "search", "--model", "qwen") == 1
    assert requests("--key", "k2") == 1


def test_a_name_that_used_nothing_is_answered_with_the_nearest(penstock: Command, use: Use) -> None:
    use({"tenant": "search"})

    result = penstock("usage", "--tenant", "serach")

    assert (result.code, result.out) == (0, "")
    assert "tenant 'serach' used nothing; did you mean search?" in result.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--by", "tenat"), "did you mean tenant?"),
        (("--by", ","), "expected one or more of tenant, key, model, day"),
        (("--since", "yesterday"), "'yesterday' is no day"),
        (("--since", "0d"), "expected 1d to 36500d"),
        (("--since", "99999d"), "expected 1d to 36500d"),
        (("--until", "2026-02-30"), "'2026-02-30' is no day"),
        (("--since", "2026-02-02", "--until", "2026-02-01"), "2026-02-02 is after --until 2026-02-01"),
        (("--json", "--csv"), "choose one"),
    ],
)
def test_wrong_options_are_refused(penstock: Command, options: tuple[str, ...], message: str) -> None:
    result = penstock("usage", *options)

    assert (result.code, result.out) == (2, "")
    assert message in result.err


def test_torn_lines_are_told_each_time(penstock: Command, use: Use, folder: Path) -> None:
    use({})
    (path,) = (folder / ".penstock" / "journal").iterdir()
    with path.open("ab") as file:
        file.write(b"00000000 {torn\n")

    results = [penstock("usage") for _ in range(2)]

    assert ["warning: 1 torn line in " in result.err for result in results] == [True, True]
    assert [result.code for result in results] == [0, 0]


def test_a_damaged_ledger_is_told_and_made_again(penstock: Command, use: Use, folder: Path) -> None:
    use({})
    penstock("usage")
    (folder / ".penstock" / "usage.sqlite").write_text("rubbish " * 1000)

    result = penstock("usage", "--json")

    assert json.loads(result.out)["total"]["requests"] == 1
    assert "was damaged" in result.err
    assert "usage.sqlite.corrupt-" in result.err


def test_a_ledger_that_can_not_be_used_is_an_error(penstock: Command, use: Use, folder: Path) -> None:
    use({})
    (folder / ".penstock" / "usage.sqlite").mkdir()

    result = penstock("usage")

    assert (result.code, result.out) == (1, "")
    assert "can't be used" in result.err
    assert "hint: nothing is lost" in result.err
