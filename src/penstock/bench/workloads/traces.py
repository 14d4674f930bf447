"""Recorded loads: when requests came, and how long they were.

    azure     CSV  TIMESTAMP,ContextTokens,GeneratedTokens           no sessions, no shared prefixes
    burstgpt  CSV  Timestamp,Model,Request tokens,Response tokens,...  an answer of 0 tokens was a failure
    mooncake  JSONL  timestamp (ms), input_length, output_length, hash_ids of blocks of 512 tokens
    sharegpt  JSON  conversations with their texts, without times
    records   JSONL  Penstock's own: rows of a run, or the gateway's log

What can't be replayed is dropped, and counted by its reason. A mistake in a file is told with its line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random

import msgspec

from penstock.bench.workloads.trace_file import TraceError, opened
from penstock.bench.workloads.trace_formats import READERS
from penstock.bench.workloads.trace_rows import ROWS_MAX, Rows, TraceFormat, TraceRow

# Times that are farther apart belong to different recordings.
SPAN_MAX_S = 366 * 86_400.0
# Of the gaps between different times, the one at this place tells in what steps they were written down: a few odd ones
# do not matter.
_STEP_RANK = 0.05
# Fewer rows than this share of all have the same time as another by chance.
_SAME_SHARE = 0.05
# Steps that are finer make no bursts.
_STEP_MIN_S = 0.001


class Trace(msgspec.Struct):
    """A recorded load.

    Args:
        name: of its file.
        format: as it was found to be.
        rows: in the order of their times.
        dropped: how many were not taken, by reason.
        step_s: times were written down in such steps, and spread out over them; 0 is that they were exact.
        cut: whether the file has more rows than were read.
    """

    name: str
    format: TraceFormat
    rows: list[TraceRow]
    dropped: dict[str, int]
    step_s: float = 0.0
    cut: bool = False

    @property
    def duration_s(self) -> float:
        """From the first request to the last one, seconds."""
        times = [row.at_s for row in self.rows if row.at_s is not None]
        return max(times, default=0.0)

    @property
    def timed(self) -> bool:
        """Whether it says when requests came."""
        return any(row.at_s is not None for row in self.rows)

    def describe(self) -> list[str]:
        """What is replayed, in sentences."""
        told = [
            f"{self.name}: {len(self.rows)} requests of a {self.format} trace over {self.duration_s:.1f} s."
        ]
        told += [f"Dropped {count} rows: {reason}." for reason, count in sorted(self.dropped.items())]
        if self.step_s:
            told.append(
                f"Its times are written down in steps of {self.step_s:g} s; requests were spread evenly over each step."
            )
        if self.cut:
            told.append(f"The file is longer: only its first {len(self.rows)} requests were read.")
        return told


def read_trace(
    path: Path,
    form: TraceFormat = TraceFormat.AUTO,
    *,
    seed: int = 0,
    step_s: float | None = None,
    rows_max: int = ROWS_MAX,
) -> Trace:
    """A recorded load, its first request at 0 s.

    Args:
        path: of the file, which may be packed by gzip.
        form: whose file it is; AUTO looks at its first line.
        seed: of where in its step a request is put.
        step_s: in what steps times were written down, seconds; None finds it out, 0 leaves times as they are.
        rows_max: so many requests are read, 1 to `ROWS_MAX`.

    Raises:
        TraceError: the file can't be read, or has no requests that can be replayed.
    """
    if form is TraceFormat.AUTO:
        form = detect(path)
    rows = Rows(path, min(rows_max, ROWS_MAX))
    READERS[form](rows)
    if not rows.rows:
        dropped = ", ".join(f"{count} {reason}" for reason, count in rows.dropped.items())
        raise TraceError(
            f"{path}: no request that can be replayed" + (f" (dropped: {dropped})" if dropped else ""),
            hint=f"it was read as {form}; say which of {', '.join(list(TraceFormat)[1:])} it is",
        )
    made, step = _timed(rows.rows, path, seed, step_s)
    return Trace(path.name, form, made, dict(rows.dropped), step, rows.cut)


def detect(path: Path) -> TraceFormat:
    """Whose file it is, by its first line.

    Raises:
        TraceError: nobody's that is known.
    """
    if path.suffix == ".parquet":
        raise TraceError(f"{path}: Parquet can't be replayed", hint="give the samples.jsonl of a run")
    first = next(_beginning(path), "")
    head = first.lower().replace(" ", "").replace('"', "")
    if head.startswith("timestamp,contexttokens"):
        return TraceFormat.AZURE
    if head.startswith("timestamp,") and "requesttokens" in head:
        return TraceFormat.BURSTGPT
    if "input_length:" in head and head.startswith("{"):
        return TraceFormat.MOONCAKE
    if head.startswith("{") and ("scheduled_s:" in head or "event:" in head):
        return TraceFormat.RECORDS
    if head.startswith("[") or "conversations:" in head:
        return TraceFormat.SHAREGPT
    raise TraceError(
        f"{path}:1: begins like no trace that is known: {first[:80]!r}",
        hint=f"it should be one of {', '.join(list(TraceFormat)[1:])}; the first two need their header line",
    )


def _beginning(path: Path) -> Iterator[str]:
    """The first line, or the beginning of one that is too long for a line: ShareGPT is often a single one."""
    with opened(path) as file:
        while line := file.readline(4096):
            if text := line.decode("utf-8", "replace").strip():
                yield text
                return


def _timed(rows: list[TraceRow], path: Path, seed: int, step_s: float | None) -> tuple[list[TraceRow], float]:
    """The rows in the order of their times, from 0 on, spread out over the steps in which times were written."""
    times = [row.at_s for row in rows if row.at_s is not None]
    if not times:
        return rows, 0.0
    first_s = min(times)
    if max(times) - first_s > SPAN_MAX_S:
        raise TraceError(f"{path}: its times span more than a year", hint="are they in another unit?")
    step = step_of(times) if step_s is None else step_s
    random = Random(f"{seed}/trace")  # noqa: S311 - a schedule, no secret
    moved = [
        row
        if row.at_s is None
        else msgspec.structs.replace(row, at_s=row.at_s - first_s + step * random.random())
        for row in rows
    ]
    if step:
        begins_s = min(row.at_s for row in moved if row.at_s is not None)
        moved = [
            row if row.at_s is None else msgspec.structs.replace(row, at_s=row.at_s - begins_s)
            for row in moved
        ]
    known_s = 0.0
    keys = []
    for row in moved:  # a row without a time belongs to the one before it
        known_s = row.at_s if row.at_s is not None else known_s
        keys.append(known_s)
    order = sorted(range(len(moved)), key=keys.__getitem__)
    return [moved[at] for at in order], step


def step_of(times: Sequence[float]) -> float:
    """In what steps times were written down, seconds: 0 where too few are the same, or steps are too fine to matter.

    Mooncake's are in steps of 3 s, BurstGPT's of 1 s. Sent as they stand, requests would come in bursts that never
    were.
    """
    different = sorted(set(times))
    if len(different) < 2 or len(times) - len(different) < _SAME_SHARE * len(times):
        return 0.0
    gaps = sorted(after - before for before, after in pairwise(different))
    step_s = gaps[int(len(gaps) * _STEP_RANK)]
    return step_s if step_s >= _STEP_MIN_S else 0.0
