"""Files of recorded loads, with the quirks that they have."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.bench.sample import Sample
from penstock.bench.workloads.trace_file import LINE_BYTES_MAX, TraceError
from penstock.bench.workloads.trace_formats import CUT_LINE, NO_ANSWER, NO_PROMPT, parse_time_ns
from penstock.bench.workloads.traces import Trace, TraceFormat, TraceRow, detect, read_trace, step_of
from penstock.core.record import RequestRecord, Usage
from penstock.telemetry.logs import request_line

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
AZURE = f"{HEADER}\r\n2023-11-16 18:15:46.6805900,374,44\r\n2023-11-16 18:15:50.9951690,396,109"
BURSTGPT = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,472,18,490,Conversation log\n"
    "45.0,GPT-4,1087,0,1087,API log\n"
    "118,GPT-4,417.0,276,693,API log\n"
)


def written(tmp_path: Path, text: str | bytes, name: str = "trace") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def lengths(trace: Trace) -> list[tuple[float | None, int | None, int | None]]:
    return [(row.at_s, row.prompt_tokens, row.output_tokens) for row in trace.rows]


def mooncake(*rows: tuple[int, int, int, list[int]], **more: Any) -> str:
    names = ("timestamp", "input_length", "output_length", "hash_ids")
    return "".join(json.dumps({**dict(zip(names, row, strict=True)), **more}) + "\n" for row in rows)


# -- Azure ---------------------------------------------------------------------------------------------------------


def test_azures_times_have_seven_digits_after_the_point(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, AZURE))

    assert trace.format is TraceFormat.AZURE
    assert lengths(trace) == [(0.0, 374, 44), (4.314579, 396, 109)]


def test_azures_times_of_2024_have_a_zone(tmp_path: Path) -> None:
    text = f"{HEADER}\n2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 01:00:00+01:00,9,6\n"

    assert lengths(read_trace(written(tmp_path, text))) == [(0.0, 9, 6), (0.00993, 2162, 5)]


@pytest.mark.parametrize(
    ("text", "after_ns"),
    [
        ("2023-11-16 18:15:46.6805900", 680_590_000),
        ("2023-11-16T18:15:46Z", 0),
        ("2023-11-16 18:15:46.1234567899", 123_456_789),
        ("2023-11-16 20:15:46.5+02:00", 500_000_000),
        ("2023-11-16 13:45:46.5-0430", 500_000_000),
    ],
)
def test_a_time_is_read_to_the_nanosecond(text: str, after_ns: int) -> None:
    assert parse_time_ns(text) - parse_time_ns("2023-11-16 18:15:46") == after_ns


@pytest.mark.parametrize("text", ["", "18:15:46", "2023-11-16", "2023-13-16 18:15:46", "16.11.2023 18:15:46"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_time_ns(text)


# -- BurstGPT ------------------------------------------------------------------------------------------------------


def test_burstgpts_answers_of_no_tokens_are_dropped_and_counted(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, BURSTGPT))

    assert trace.format is TraceFormat.BURSTGPT
    assert lengths(trace) == [(0.0, 472, 18), (113.0, 417, 276)]
    assert trace.dropped == {NO_ANSWER: 1}
    assert [row.kind for row in trace.rows] == ["conversation", "api"]
    assert f"Dropped 1 rows: {NO_ANSWER}." in trace.describe()


def test_burstgpts_newer_files_have_sessions_between(tmp_path: Path) -> None:
    header = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type"
    text = f"{header}\n1,,2.5,GPT-4,7,8,15,API log\n"

    assert lengths(read_trace(written(tmp_path, text))) == [(0.0, 7, 8)]


# -- Mooncake ------------------------------------------------------------------------------------------------------


def test_mooncakes_steps_of_three_seconds_are_spread_out_evenly(tmp_path: Path) -> None:
    text = mooncake(*[(3000 * (place // 50), 600, 5, [1, 2]) for place in range(2000)])

    trace = read_trace(written(tmp_path, text))

    times = [row.at_s for row in trace.rows if row.at_s is not None]
    assert trace.step_s == 3.0
    assert times == sorted(times)
    assert len(set(times)) == 2000
    by_second = [sum(second <= at_s % 3 < second + 1 for at_s in times) for second in range(3)]
    assert by_second == pytest.approx([667] * 3, rel=0.12)
    assert "steps of 3 s" in " ".join(trace.describe())


def test_a_request_stays_in_its_step(tmp_path: Path) -> None:
    text = mooncake(*[(3000 * (place // 10), 600 + place // 10, 5, []) for place in range(200)])

    trace = read_trace(written(tmp_path, text), seed=7)

    assert [row.prompt_tokens for row in trace.rows] == [600 + place // 10 for place in range(200)]


def test_the_seed_says_where_in_its_step_a_request_is(tmp_path: Path) -> None:
    path = written(tmp_path, mooncake(*[(3000 * (place // 10), 600, 5, []) for place in range(100)]))

    assert read_trace(path, seed=1).rows == read_trace(path, seed=1).rows
    assert read_trace(path, seed=1).rows != read_trace(path, seed=2).rows


def test_steps_can_be_told_or_left_as_they_are(tmp_path: Path) -> None:
    path = written(tmp_path, mooncake((0, 600, 5, []), (0, 600, 5, []), (3000, 600, 5, [])))

    assert [row.at_s for row in read_trace(path, step_s=0).rows] == [0.0, 0.0, 3.0]
    assert read_trace(path, step_s=1.5).step_s == 1.5


def test_blocks_are_kept(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, mooncake((0, 1000, 5, [0, 1]), (10, 1000, 5, [0, 2]))))

    assert [row.blocks for row in trace.rows] == [(0, 1), (0, 2)]


def test_a_session_has_delays_in_place_of_times(tmp_path: Path) -> None:
    first = {"timestamp": 0, "input_length": 9, "output_length": 5, "session_id": "a"}
    text = json.dumps(first) + "\n" + json.dumps({**first, "timestamp": None, "delay": 2500}) + "\n"

    rows = read_trace(written(tmp_path, text)).rows

    assert [(row.session, row.at_s, row.think_s) for row in rows] == [("a", 0.0, 0.0), ("a", None, 2.5)]


def test_times_that_are_hardly_ever_the_same_are_exact() -> None:
    assert step_of([float(at) for at in range(100)]) == 0.0
    assert step_of([*map(float, range(100)), 5.0]) == 0.0
    assert step_of([0.0, 1e-7, 1e-7, 2e-7]) == 0.0
    assert step_of([1.0, 1.0]) == 0.0
    assert step_of([0.0, 0.0, 1.0, 1.0, 5.0, 9.0]) == 1.0


# -- ShareGPT ------------------------------------------------------------------------------------------------------


def talk(*said: tuple[str, str]) -> dict[str, Any]:
    return {"id": "x", "conversations": [{"from": who, "value": text} for who, text in said]}


HELLO = (("human", "hello 😀"), ("gpt", "hi"), ("human", "more"), ("gpt", "fine"))


@pytest.mark.parametrize("form", ["array", "indented", "lines"])
def test_sharegpts_questions_come_with_all_that_was_said_before(tmp_path: Path, form: str) -> None:
    entries = [talk(*HELLO), talk(*HELLO[:2])]
    texts = {
        "array": json.dumps(entries),
        "indented": json.dumps(entries, indent=1, ensure_ascii=False),
        "lines": "\n".join(map(json.dumps, entries)),
    }

    trace = read_trace(written(tmp_path, texts[form]))

    assert trace.format is TraceFormat.SHAREGPT
    assert not trace.timed
    assert [(row.session, row.texts, row.answer) for row in trace.rows] == [
        ("1", ("hello 😀",), "hi"),
        ("1", ("hello 😀", "hi", "more"), "fine"),
        ("", ("hello 😀",), "hi"),
    ]


def test_conversations_that_are_none_are_dropped_and_counted(tmp_path: Path) -> None:
    entries = [
        talk(*HELLO[:2]),
        talk(),
        talk(("gpt", "hi")),
        talk(("human", "alone")),
        talk(("human", " "), ("gpt", "x")),
    ]

    trace = read_trace(written(tmp_path, json.dumps(entries)))

    assert len(trace.rows) == 1
    assert sorted(trace.dropped.values()) == [1, 3]


def test_a_conversation_goes_as_far_as_it_takes_turns(tmp_path: Path) -> None:
    entries = [talk(("system", "be good"), *HELLO[:3], ("human", "again"), ("gpt", "late"))]

    assert [row.texts for row in read_trace(written(tmp_path, json.dumps(entries))).rows] == [("hello 😀",)]


def test_a_large_file_is_read_value_by_value(tmp_path: Path) -> None:
    entries = [talk(("human", "ä😀" * 50_000), ("gpt", str(number))) for number in range(15)]

    trace = read_trace(written(tmp_path, json.dumps(entries, ensure_ascii=False)))

    assert [row.answer for row in trace.rows] == [str(number) for number in range(15)]
    assert {len(row.texts[0]) for row in trace.rows} == {100_000}


def test_a_file_that_is_cut_off_is_told_with_its_entry(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"trace: entry 2: "):
        read_trace(written(tmp_path, json.dumps([talk(*HELLO), talk(*HELLO)])[:-40]))


# -- our own -------------------------------------------------------------------------------------------------------


def test_the_rows_of_a_run_are_replayed_without_its_warm_up(tmp_path: Path) -> None:
    samples = [
        Sample(0, "short", -1, 0.5, prompt_tokens=10, completion_tokens=5),
        Sample(2, "long", 0, 9.0, prompt_tokens=30, completion_tokens=7, session=4, turn=1),
        Sample(1, "short", 0, 2.0, planned_prompt_tokens=20, planned_output_tokens=6, session=4),
    ]

    trace = read_trace(written(tmp_path, b"\n".join(map(msgspec.json.encode, samples))))

    assert trace.format is TraceFormat.RECORDS
    assert lengths(trace) == [(0.0, 20, 6), (7.0, 30, 7)]
    assert [(row.kind, row.session) for row in trace.rows] == [("short", "4"), ("long", "4")]
    assert trace.dropped == {"of a warm-up": 1}


def test_the_gateways_log_tells_when_requests_came(tmp_path: Path) -> None:
    def line(begun_s: float, ended_s: float, completion: int | None) -> bytes:
        record = RequestRecord("r", "POST", "/v1/chat/completions", begun_s, 1.7e9 + begun_s, model="demo")
        record.ended_s, record.usage = ended_s, Usage(12, completion, "engine")
        return msgspec.json.encode(request_line(record))

    lines = [b'{"event":"ready","level":"info"}', line(1.0, 2.0, 7), line(0.5, 9.0, 8), line(3.0, 3.1, None)]

    trace = read_trace(written(tmp_path, b"\n".join(lines)))

    assert lengths(trace) == [(0.0, 12, 8), (pytest.approx(0.5, abs=1e-5), 12, 7)]
    assert trace.rows[0].kind == "demo"
    assert trace.dropped == {NO_ANSWER: 1, "of the log, but not about a request": 1}


# -- any file ------------------------------------------------------------------------------------------------------


def test_a_packed_file_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    plain = read_trace(written(tmp_path, AZURE, "trace"))

    packed = read_trace(written(tmp_path, gzip.compress(b"\xef\xbb\xbf" + AZURE.encode()), "trace"))

    assert packed == plain


def test_blank_lines_are_passed_over(tmp_path: Path) -> None:
    assert len(read_trace(written(tmp_path, "\n" + BURSTGPT + "\n\n")).rows) == 2


def test_a_last_line_that_is_cut_off_is_dropped_and_counted(tmp_path: Path) -> None:
    text = mooncake((0, 600, 5, []), (1, 600, 5, []))

    assert read_trace(written(tmp_path, text[:-9])).dropped == {CUT_LINE: 1}
    assert read_trace(written(tmp_path, BURSTGPT + "200,GPT")).dropped[CUT_LINE] == 1


def test_no_more_rows_are_read_than_may_be(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, mooncake(*[(at, 600, 5, []) for at in range(10)])), rows_max=4)

    assert len(trace.rows) == 4
    assert trace.describe()[-1] == "The file is longer: only its first 4 requests were read."


def test_rows_without_a_prompt_are_dropped_and_counted(tmp_path: Path) -> None:
    assert read_trace(written(tmp_path, mooncake((0, 0, 5, []), (1, 9, 5, [])))).dropped == {NO_PROMPT: 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (AZURE + "\n2023-11-16,374,44\n", r"trace:4: '2023-11-16' is no date and time"),
        (AZURE + "\n2023-11-16 18:15:46.1,x,44\n", r"trace:4: could not convert"),
        (AZURE + "\n2023-11-16 18:15:46.1,-1,44\n", r"trace:4: '-1' is no number of tokens"),
        (AZURE + "\n2023-11-16 18:15:46.1,1.5,44\n", r"trace:4: '1.5' is no number of tokens"),
        (AZURE + "\n2023-11-16 18:15:46.1\n", r"trace:4: 1 columns instead of 3"),
        ("TIMESTAMP,ContextTokens,x\n1,2,3\n", r"trace:1: no column generatedtokens"),
        (BURSTGPT + "nan,GPT-4,1,2,3,API log\n", r"trace:5: 'nan' is no time"),
        (BURSTGPT + "inf,GPT-4,1,2,3,API log\n", r"trace:5: 'inf' is no time"),
        (BURSTGPT + "1,GPT-4,inf,2,3,API log\n", r"trace:5: 'inf' is no number of tokens"),
        (mooncake((0, 9, 5, [])) + "{}\n", r"trace:2: Object missing required field"),
        (mooncake((0, 9, 5, [])) + "{\n", r"trace:2: "),
        (mooncake((0, -9, 5, [])), r"trace:1: input_length and output_length"),
        (mooncake((0, 9, 5, []), (10**15, 9, 5, [])), r"span more than a year"),
        (mooncake((0, 9, 0, [])), r"no request that can be replayed \(dropped: 1 without an answer"),
        ('{"scheduled_s": "x"}\n', r"trace:1: "),
        ('{"event": "request", "time": "now"}\n', r"trace:1: time: 'now'"),
        ('[{"id": 1}]', r"trace:1: an entry without conversations"),
        ('[{"conversations": [}]', r"entry 1: "),
        ("[" * 100_000, r"entry 1: "),
        ("", r"begins like no trace"),
        ("hello\n", r"trace:1: begins like no trace that is known: 'hello'"),
        (b"\xff\xfe\n", r"begins like no trace"),
        (mooncake((0, 9, 5, [])).encode() + b"\xff\n", r"trace:2: no UTF-8"),
        (mooncake((0, 9, 5, [])) + " " * (LINE_BYTES_MAX + 9), r"trace:2: a line of more than"),
        (gzip.compress(AZURE.encode() * 99, mtime=0)[:60], r"trace: "),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        read_trace(written(tmp_path, text))


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="nothing: No such file"):
        read_trace(tmp_path / "nothing")
    with pytest.raises(TraceError, match="Is a directory"):
        read_trace(tmp_path)


def test_parquet_is_refused_with_what_to_give_instead(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="Parquet") as caught:
        detect(written(tmp_path, "PAR1", "samples.parquet"))
    assert "samples.jsonl" in caught.value.hint


@given(
    text=st.binary(max_size=200),
    head=st.sampled_from([b"", AZURE.encode(), BURSTGPT.encode(), b'[{"conversations":[']),
)
def test_any_bytes_are_a_trace_or_a_complaint(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, head: bytes
) -> None:
    path = written(tmp_path_factory.getbasetemp(), head + text, "any")
    for form in (TraceFormat.AUTO, *list(TraceFormat)[1:]):
        try:
            trace = read_trace(path, form)
        except TraceError:
            continue
        assert trace.rows
        assert all(isinstance(row, TraceRow) and (row.at_s or 0.0) >= 0 for row in trace.rows)
