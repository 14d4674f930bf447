"""Recorded requests, and what a format's reader fills with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

import msgspec

from penstock.bench.workloads.trace_file import TraceError

# A day of a busy service; more rows are in memory than a run of hours would send.
ROWS_MAX = 200_000
# Texts are in memory too: a fifth of ShareGPT, or hours of load.
TEXT_CHARS_MAX = 128 * 1024 * 1024
# A row that is more tokens than this is a mistake.
TOKENS_MAX = 10_000_000


class TraceFormat(StrEnum):
    """Whose file it is."""

    AUTO = "auto"
    AZURE = "azure"
    BURSTGPT = "burstgpt"
    MOONCAKE = "mooncake"
    SHAREGPT = "sharegpt"
    RECORDS = "records"


class TraceRow(msgspec.Struct, frozen=True, gc=False):
    """One recorded request.

    Args:
        at_s: when it came, seconds from the first one; None where nobody wrote it down.
        prompt_tokens: length of its prompt; None where only its text is known.
        output_tokens: length of its answer; None where only its text is known.
        kind: what it is told apart by in reports.
        blocks: names of the prompt's blocks of 512 tokens: equal ones are equal text, with all before them.
        session: its conversation; empty is none.
        think_s: pause after the answer before it, seconds.
        texts: what was said in its conversation, by user and assistant in turns, up to this request.
        answer: the text of its answer.
    """

    at_s: float | None
    prompt_tokens: int | None
    output_tokens: int | None
    kind: str = "trace"
    blocks: tuple[int | str, ...] = ()
    session: str = ""
    think_s: float = 0.0
    texts: tuple[str, ...] = ()
    answer: str = ""


class Rows:
    """What a format's reader fills.

    Args:
        path: of the file.
        rows_max: so many are taken.
    """

    def __init__(self, path: Path, rows_max: int) -> None:
        self.path = path
        self.rows: list[TraceRow] = []
        self.dropped: Counter[str] = Counter()
        self.rows_max = rows_max
        self.cut = False
        self._chars_left = TEXT_CHARS_MAX

    def add(self, row: TraceRow) -> bool:
        """Takes a row; False where it is one too many."""
        self._chars_left -= len(row.answer) + (len(row.texts[-1]) if row.texts else 0)
        if len(self.rows) >= self.rows_max or self._chars_left < 0:
            self.cut = True
            return False
        self.rows.append(row)
        return True

    def drop(self, reason: str) -> None:
        """Counts a row that can't be replayed."""
        self.dropped[reason] += 1

    def wrong(self, number: int, why: str, hint: str = "") -> TraceError:
        """The complaint about a line."""
        return TraceError(f"{self.path}:{number}: {why}", hint=hint)


Reader = Callable[[Rows], None]
