"""A log line tells of a request all that is on the record, and nothing of what was said."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from penstock.core.record import Attempt, Outcome, RequestRecord, Trace, Usage
from penstock.telemetry.logs import Logger, RequestLog, open_log
from penstock.telemetry.repeats import KINDS_MAX, WINDOW_S, WRITTEN_MAX, Repeats

FIELDS = {
    "event", "level", "time",
    "request_id", "route", "model", "tenant", "key_id", "stream", "status", "outcome", "fault", "error_code",
    "replica", "attempts", "duration_s", "ttft_s", "tpot_s", "overhead_s", "prompt_tokens",
    "completion_tokens", "usage_source", "request_bytes", "response_bytes", "events",
    *("priority", "queue_s", "continuations", "hedged", "replayed", "cost_usd", "trace_id"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def record(**members: Any) -> RequestRecord:
    return RequestRecord("req_1", "POST", "/v1/chat/completions", arrived_s=100.0, started_at=1e9, **members)


def log_request(log: Logger, told: RequestRecord) -> None:
    RequestLog(log).write([told])


def lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capfd.readouterr().err.rstrip("\n").split("\n")]


def test_a_request_is_one_line_of_json_with_these_members_and_no_other(
    capfd: pytest.CaptureFixture[str],
) -> None:
    log = open_log("info", "json")

    log_request(
        log,
        record(
            model="m",
            tenant="t",
            key_id="env-1",
            status=200,
            outcome=Outcome.COMPLETE,
            first_token_s=100.25,
            ended_s=101.0000001,
            attempts=[Attempt("a", "only_one", 100.0)],
            usage=Usage(1, 2, "engine"),
        ),
    )

    (line,) = lines(capfd)
    assert set(line) == FIELDS  # no body, no header, no secret: a new member has to be allowed here
    assert (line["event"], line["level"], line["outcome"]) == ("request", "info", "complete")
    assert (line["replica"], line["attempts"], line["key_id"]) == ("a", 1, "env-1")
    assert (line["ttft_s"], line["duration_s"], line["tpot_s"]) == (0.25, 1.0, None)


def test_what_a_client_wrote_can_not_make_a_second_line(capfd: pytest.CaptureFixture[str]) -> None:
    log = open_log("info", "json")

    log_request(log, record(model='m"\n{"event":"forged"}\u2028\x1b[31m'))

    (line,) = lines(capfd)
    assert line["model"] == 'm"\n{"event":"forged"}\u2028\x1b[31m'


def test_lines_below_the_level_are_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    log = open_log("warning", "json")

    log_request(log, record())
    log.warning("seen")

    assert [line["event"] for line in lines(capfd)] == ["seen"]


def test_another_level_and_format_hold_from_the_next_line_on(capfd: pytest.CaptureFixture[str]) -> None:
    log = open_log("warning", "json")
    requests = RequestLog(log)

    requests.write([record()])
    log.follow("info", "json")
    requests.write([record(status=200)])
    log.follow("info", "console")
    requests.write([record(status=503)])

    first, second = capfd.readouterr().err.splitlines()
    assert json.loads(first)["status"] == 200
    assert "status=503" in second
    assert not second.startswith("{")


@pytest.mark.parametrize("member", ["half a pair: \udc80", "nul \x00, escape \x1b[2J, line\u2028\n"])
def test_any_text_makes_one_line_of_json(capfd: pytest.CaptureFixture[str], member: str) -> None:
    open_log("info", "json").info("odd", member=member, other={1j})

    (line,) = lines(capfd)
    assert line["member"] == member.replace("\udc80", "?")


def test_an_exception_moves_no_cursor_of_who_reads_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    log = open_log("info", "console")

    try:
        raise ValueError("a client wrote \x1b[2J")
    except ValueError as error:
        log.error("bug", exc_info=error)

    text = capfd.readouterr().err
    assert "\x1b" not in text
    assert "\\x1b[2J" in text
    assert "\nTraceback (most recent call last):\n" in text


def test_an_exception_is_told_with_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    log = open_log("info", "json")

    try:
        raise ValueError("boom")
    except ValueError as error:
        log.error("bug", request_id="req_1", exc_info=error)

    (line,) = lines(capfd)
    assert "ValueError: boom" in line["exception"]
    assert line["request_id"] == "req_1"


def test_what_libraries_warn_of_comes_along(capfd: pytest.CaptureFixture[str]) -> None:
    open_log("info", "json")

    logging.getLogger("some.library").warning("watch out: %s", 7)
    logging.getLogger("some.library").info("chatter")

    assert [(line["event"], line["logger"]) for line in lines(capfd)] == [("watch out: 7", "some.library")]


def test_lines_for_people_say_the_same_in_plain_text(capfd: pytest.CaptureFixture[str]) -> None:
    log = open_log("info", "console")

    log_request(log, record(model="m", status=503))

    text = capfd.readouterr().err
    assert "request_id=req_1" in text
    assert "\x1b" not in text


def test_members_that_json_does_not_know_are_told_as_python_prints_them(
    capfd: pytest.CaptureFixture[str],
) -> None:
    log = open_log("info", "json")

    log.info("odd", value={1j})

    assert lines(capfd)[0]["value"] == ["1j"]


def test_lines_for_people_can_not_be_forged_by_what_a_client_wrote(capfd: pytest.CaptureFixture[str]) -> None:
    log = open_log("info", "console")

    log.warning("odd", model="m\n2026-01-01 error forged\x1b[2J", route="/v1/x y")
    try:
        raise ValueError("boom")
    except ValueError as error:
        log.error("bug", exc_info=error)

    text = capfd.readouterr().err
    assert "\x1b" not in text
    assert "\n2026-01-01 error" not in text
    assert "ValueError: boom" in text


def test_a_warning_with_its_exception_comes_along_whole(capfd: pytest.CaptureFixture[str]) -> None:
    open_log("info", "json")

    try:
        raise KeyError("lost")
    except KeyError:
        logging.getLogger("some.library").exception("failed")

    (line,) = lines(capfd)
    assert (line["event"], line["level"]) == ("failed", "error")
    assert "KeyError: 'lost'" in line["exception"]


@pytest.mark.parametrize(("sampled", "told"), [(True, f"{9:032x}"), (False, "")])
def test_a_traced_request_is_told_with_its_trace(
    capfd: pytest.CaptureFixture[str], sampled: bool, told: str
) -> None:
    log_request(open_log("info", "json"), record(trace=Trace(9, 8, 0, sampled)))

    assert lines(capfd)[0]["trace_id"] == told


def test_what_is_said_again_and_again_is_counted(capfd: pytest.CaptureFixture[str]) -> None:
    now_s = 0.0
    log = Logger("info", "json", lambda: now_s)
    for _ in range(WRITTEN_MAX + 3):
        log.warning("the disk is full", path="a")
    log.warning("the disk is full", path="b")
    now_s = WINDOW_S
    log.warning("the disk is full", path="a")

    found = [(line["path"], line.get("repeats", 0)) for line in lines(capfd)]
    assert found == [*[("a", 0)] * WRITTEN_MAX, ("b", 0), ("a", 3)]


def test_a_bug_that_every_request_meets_is_the_same_line(capfd: pytest.CaptureFixture[str]) -> None:
    log = Logger("info", "json", lambda: 0.0)

    for number in range(WRITTEN_MAX + 1):
        try:
            raise ValueError(number)
        except ValueError as error:
            log.error("bug", where=f"req_{number}", exc_info=error)

    assert len(lines(capfd)) == WRITTEN_MAX


def test_what_happens_is_told_each_time(capfd: pytest.CaptureFixture[str]) -> None:
    log = Logger("info", "json", lambda: 0.0)
    for _ in range(WRITTEN_MAX + 1):
        log.info("replica", state="ready")

    assert len(lines(capfd)) == WRITTEN_MAX + 1


def test_many_kinds_of_lines_take_bounded_memory() -> None:
    repeats = Repeats(lambda: 0.0)
    for number in range(3 * KINDS_MAX):
        assert repeats.passes(number) == 0

    for _ in range(WRITTEN_MAX):
        repeats.passes("again")

    assert repeats.passes("again") is None
    assert repeats.passes(0) == 0  # forgotten, and new
