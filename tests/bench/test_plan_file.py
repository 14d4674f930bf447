"""Plans on the way to their processes: dealt out, written ahead, and read while they grow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.bench.load.plan_file import PlanReader, PlanWriter
from penstock.bench.plan import PlannedRequest
from tests.bench.under_load import plan_in, planned


def read(reader: PlanReader) -> list[PlannedRequest]:
    requests = list(iter(reader.take, None))
    reader.close()
    return requests


def deal(folder: Path, plan: list[PlannedRequest], processes: int) -> list[list[PlannedRequest]]:
    paths = [folder / f"{number}" for number in range(processes)]
    with PlanWriter(iter(plan), paths) as writer:
        writer.write_ahead([0] * processes)
    return [read(PlanReader(path)) for path in paths]


def test_a_request_is_read_as_it_was_planned(tmp_path: Path) -> None:
    request = planned(
        3, body=b'{"a":"\xc3\xbc"}' * 100_000, at_s=1.25, kind="x", session=4, cancel_after_s=0.5
    )
    reader = plan_in(tmp_path, [request])

    assert read(reader) == [request]
    assert reader.ended


@given(plan=st.lists(st.integers(-1, 5), max_size=60), processes=st.integers(1, 4))
def test_every_request_goes_to_one_process_and_a_session_to_one(
    plan: list[int], processes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    requests = [planned(index, session=session) for index, session in enumerate(plan)]

    parts = deal(tmp_path_factory.mktemp("plan"), requests, processes)

    assert sorted(r.index for part in parts for r in part) == [r.index for r in requests]
    for number, part in enumerate(parts):
        assert [r.index for r in part] == sorted(r.index for r in part)
        assert {(r.session if r.session >= 0 else r.index) % processes for r in part} <= {number}


def test_a_plan_is_not_read_further_than_it_is_ahead(tmp_path: Path) -> None:
    taken_from_plan = 0

    def endless() -> Iterator[PlannedRequest]:
        nonlocal taken_from_plan
        while True:
            yield planned(taken_from_plan)
            taken_from_plan += 1

    with PlanWriter(endless(), [tmp_path / "0", tmp_path / "1"], ahead_requests=100) as writer:
        writer.write_ahead([0, 0])
        first = taken_from_plan
        writer.write_ahead([0, 0])
        again = taken_from_plan
        writer.write_ahead([1000, 10])
        later = taken_from_plan

    assert first == again == pytest.approx(2 * 100, abs=2)
    assert later == pytest.approx(2 * (100 + 1000), abs=2)
    assert not writer.complete


def test_large_requests_are_not_written_further_ahead_than_a_disk_bears(tmp_path: Path) -> None:
    plan = (planned(n, body=bytes(10_000)) for n in range(1000))

    with PlanWriter(plan, [tmp_path / "0"], ahead_bytes=100_000) as writer:
        writer.write_ahead([0])

    assert 100_000 <= (tmp_path / "0").stat().st_size < 120_000


def test_a_plan_that_is_still_being_written_has_no_end_yet(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    with PlanWriter(iter([planned(0), planned(1)]), [whole]) as writer:
        writer.write_ahead([0])
    data = whole.read_bytes()
    growing = tmp_path / "growing"
    growing.touch()
    reader = PlanReader(growing)
    indexes = []

    with growing.open("ab", buffering=0) as file:
        for at in range(len(data)):
            while (request := reader.take()) is not None:
                indexes.append(request.index)
            assert not reader.ended
            file.write(data[at : at + 1])
    indexes += [request.index for request in read(reader)]

    assert indexes == [0, 1]
    assert reader.ended


def test_a_look_at_the_next_request_does_not_take_it(tmp_path: Path) -> None:
    reader = plan_in(tmp_path, [planned(0), planned(1)])

    seen = reader.peek()

    assert seen == planned(0)
    assert [request.index for request in read(reader)] == [0, 1]
    assert reader.peek() is None
