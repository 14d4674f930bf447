"""The readers of traces' formats, and the quirks of the files that are really out there."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from functools import lru_cache
from typing import Any

import msgspec

from penstock.bench.workloads.trace_file import lines, values
from penstock.bench.workloads.trace_rows import TOKENS_MAX, Reader, Rows, TraceFormat, TraceRow

NO_ANSWER = "without an answer: it had failed"
NO_PROMPT = "without a prompt"
CUT_LINE = "cut off at the end of the file"
# A name of a kind in a report.
_KIND_CHARS_MAX = 32
# A conversation longer than this is no conversation of people.
_TURNS_MAX = 1000

_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,12}))?\s*(?:Z|UTC|([+-])(\d\d):?(\d\d))?"
)


def parse_time_ns(text: str) -> int:
    """A date with a time of day as nanoseconds on one scale; with up to 12 digits after the point; UTC where
    no zone is told.

    Raises:
        ValueError: it is none.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text[:40]!r} is no date and time")
    year, month, day, hour, minute, second, fraction, sign, zone_h, zone_m = match.groups()
    seconds = (
        _day(int(year), int(month), int(day)) * 86_400 + int(hour) * 3600 + int(minute) * 60 + int(second)
    )
    if sign:
        seconds += (1 if sign == "-" else -1) * (int(zone_h) * 3600 + int(zone_m) * 60)
    return seconds * 10**9 + int((fraction or "0").ljust(9, "0")[:9])


@lru_cache(maxsize=64)
def _day(year: int, month: int, day: int) -> int:
    return date(year, month, day).toordinal()


def read_azure(rows: Rows) -> None:
    """Azure's traces of 2023 and 2024: times with seven digits after the point, or with six and a zone."""
    begin_ns: int | None = None
    for number, cells in _cells(rows, ("timestamp", "contexttokens", "generatedtokens")):
        try:
            at_ns = parse_time_ns(cells[0])
            prompt, output = _tokens(cells[1]), _tokens(cells[2])
        except ValueError as error:
            raise rows.wrong(number, str(error), "TIMESTAMP,ContextTokens,GeneratedTokens") from None
        begin_ns = at_ns if begin_ns is None else begin_ns
        if not _add(rows, (at_ns - begin_ns) / 1e9, prompt, output, "trace"):
            return


def read_burstgpt(rows: Rows) -> None:
    """BurstGPT: seconds from the start of the recording; its sessions are replayed as requests at their own times."""
    wanted = ("timestamp", "requesttokens", "responsetokens")
    for number, cells in _cells(rows, wanted, optional=("logtype",)):
        try:
            at_s = float(cells[0])
            prompt, output = _tokens(cells[1]), _tokens(cells[2])
            if not abs(at_s) < 1e12:
                raise ValueError(f"{cells[0][:40]!r} is no time in seconds")
        except ValueError as error:
            raise rows.wrong(
                number, str(error), "Timestamp,Model,Request tokens,Response tokens,..."
            ) from None
        kind = cells[3].lower().removesuffix(" log").strip()[:_KIND_CHARS_MAX] or "trace"
        if not _add(rows, at_s, prompt, output, kind):
            return


def _add(rows: Rows, at_s: float | None, prompt: int, output: int, kind: str, **more: Any) -> bool:
    """Takes or drops a row; False where it is one too many."""
    if output < 1:
        rows.drop(NO_ANSWER)
    elif prompt < 1:
        rows.drop(NO_PROMPT)
    else:
        return rows.add(TraceRow(at_s, prompt, output, kind, **more))
    return True


def _cells(
    rows: Rows, wanted: tuple[str, ...], optional: tuple[str, ...] = ()
) -> Iterator[tuple[int, list[str]]]:
    """The cells of the wanted columns, line by line; an optional one that is not there is empty."""
    found = lines(rows.path)
    first = next(found, None)
    if first is None:
        return
    names = ["".join(name.lower().split()) for name in _split(rows, *first[:2])]
    missing = [name for name in wanted if name not in names]
    if missing:
        raise rows.wrong(
            first[0], f"no column {missing[0]} in the header line", f"it has {', '.join(names)[:200]}"
        )
    places = [names.index(name) if name in names else -1 for name in (*wanted, *optional)]
    needed = max(places) + 1
    for number, text, whole in found:
        cells = _split(rows, number, text)
        if len(cells) < needed:
            if not whole:
                rows.drop(CUT_LINE)
                return
            raise rows.wrong(number, f"{len(cells)} columns instead of {len(names)}")
        yield number, [cells[place] if place >= 0 else "" for place in places]


def _split(rows: Rows, number: int, text: str) -> list[str]:
    try:
        return next(csv.reader([text]))
    except csv.Error as error:
        raise rows.wrong(number, str(error)) from None


def _tokens(text: str) -> int:
    """A number of tokens; some files write 374.0."""
    value = float(text)
    if not 0 <= value <= TOKENS_MAX or value != int(value):
        raise ValueError(f"{text[:40]!r} is no number of tokens")
    return int(value)


class _MooncakeRow(msgspec.Struct):
    input_length: int
    output_length: int
    timestamp: float | None = None
    hash_ids: list[int | str] = []
    session_id: int | str | None = None
    delay: float | None = None


def read_mooncake(rows: Rows) -> None:
    """Mooncake's traces, and Dynamo's, which add sessions whose later turns have a delay in place of a time."""
    decode = msgspec.json.Decoder(_MooncakeRow).decode
    for number, row in _objects(rows, decode):
        if not (0 <= row.input_length <= TOKENS_MAX and 0 <= row.output_length <= TOKENS_MAX):
            raise rows.wrong(number, f"input_length and output_length should be 0 to {TOKENS_MAX}")
        taken = _add(
            rows,
            None if row.timestamp is None else row.timestamp / 1e3,
            row.input_length,
            row.output_length,
            "trace",
            blocks=tuple(row.hash_ids),
            session="" if row.session_id is None else str(row.session_id),
            think_s=max(0.0, (row.delay or 0.0) / 1e3),
        )
        if not taken:
            return


class _Record(msgspec.Struct):
    """Rows of a run and lines of the gateway's log, told apart by their members."""

    event: str | None = None
    scheduled_s: float | None = None
    stage: int = 0
    kind: str = "default"
    session: int = -1
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    planned_prompt_tokens: int | None = None
    planned_output_tokens: int | None = None
    time: str | None = None
    duration_s: float | None = None
    model: str = ""


def read_records(rows: Rows) -> None:
    """Penstock's own rows of a run, without its warm-up, or the lines of requests in a gateway's log.

    A session's turns are sent one after the other, and none before its recorded time.
    """
    begin_ns: int | None = None
    for number, record in _objects(rows, msgspec.json.Decoder(_Record).decode):
        prompt = record.prompt_tokens or record.planned_prompt_tokens or 0
        output = record.completion_tokens or record.planned_output_tokens or 0
        if record.scheduled_s is not None:
            if record.stage < 0:
                rows.drop("of a warm-up")
                continue
            at_s, kind = record.scheduled_s, record.kind
        elif record.event == "request" and record.time is not None:
            try:
                end_ns = parse_time_ns(record.time)
            except ValueError as error:
                raise rows.wrong(number, f"time: {error}") from None
            at_ns = end_ns - round((record.duration_s or 0.0) * 1e9)
            begin_ns = at_ns if begin_ns is None else begin_ns
            at_s, kind = (at_ns - begin_ns) / 1e9, record.model or "trace"
        else:
            rows.drop("of the log, but not about a request")
            continue
        session = str(record.session) if record.session >= 0 else ""
        if not _add(rows, at_s, prompt, output, kind[:_KIND_CHARS_MAX], session=session):
            return


def _objects(rows: Rows, decode: Callable[[str], Any]) -> Iterator[tuple[int, Any]]:
    """The objects of a file of JSON lines."""
    for number, text, whole in lines(rows.path):
        try:
            yield number, decode(text)
        except msgspec.DecodeError as error:
            if not whole:
                rows.drop(CUT_LINE)
                return
            raise rows.wrong(number, str(error)) from None


_USERS = frozenset({"human", "user"})
_ASSISTANTS = frozenset({"gpt", "assistant", "chatgpt", "bing", "bard", "model"})


def read_sharegpt(rows: Rows) -> None:
    """ShareGPT: each question with all that was said before it; the recorded answers stand between them."""
    for number, entry in values(rows.path):
        said = entry.get("conversations", entry.get("items")) if isinstance(entry, dict) else None
        if not isinstance(said, list):
            raise rows.wrong(number, "an entry without conversations (the number is the entry's)")
        texts, why = _dialogue(said[:_TURNS_MAX])
        if len(texts) < 2:
            rows.drop(why)
            continue
        session = f"{number}" if len(texts) >= 4 else ""
        for turn in range(0, len(texts) - 1, 2):
            row = TraceRow(
                None,
                None,
                None,
                "trace",
                session=session,
                texts=tuple(texts[: turn + 1]),
                answer=texts[turn + 1],
            )
            if not rows.add(row):
                return


def _dialogue(said: list[Any]) -> tuple[list[str], str]:
    """The texts by user and assistant in turns, as far as they take turns, and why there are none."""
    texts: list[str] = []
    for part in said:
        who = str(part.get("from", part.get("role", ""))).lower() if isinstance(part, dict) else ""
        text = part.get("value", part.get("content")) if isinstance(part, dict) else None
        if who == "system" and not texts:
            continue
        expected = _ASSISTANTS if len(texts) % 2 else _USERS
        if who not in expected or not isinstance(text, str) or not text.strip():
            break
        texts.append(text)
    if not said:
        return [], "empty conversations"
    return texts, "conversations that do not begin with a question and its answer"


READERS: Mapping[TraceFormat, Reader] = {
    TraceFormat.AZURE: read_azure,
    TraceFormat.BURSTGPT: read_burstgpt,
    TraceFormat.MOONCAKE: read_mooncake,
    TraceFormat.SHAREGPT: read_sharegpt,
    TraceFormat.RECORDS: read_records,
}
