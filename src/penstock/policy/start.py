"""How long a start may take: as long as something moves, and no longer than a multiple of the limit for silence.

A model of 400 GB loads for an hour from a slow disk, and one that hangs does so for ever: only what its processes
do tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass

CPU_SHARE_MIN = 0.01  # less is the idle wake-ups of a program that waits
READ_BYTES_PER_S_MIN = 64 * 1024  # likewise
SILENCES_MAX = 8
"""A start that keeps a processor busy for so many times the limit is no start: it spins."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What the processes of a start have done so far: written, computed, read; and how many there are."""

    log_bytes: int
    cpu_s: float
    read_bytes: int
    processes: int


@dataclass(frozen=True, slots=True)
class StartState:
    """When the start began, and when something moved last, with what was known then."""

    began_s: float
    moved_s: float
    progress: Progress


def begin(now_s: float) -> StartState:
    """A start that has just begun."""
    return StartState(now_s, now_s, Progress(0, 0.0, 0, 0))


def after_look(state: StartState, progress: Progress, now_s: float) -> StartState:
    """The start after a look at it."""
    was, still_s = state.progress, now_s - state.moved_s
    moved = (
        progress.log_bytes > was.log_bytes
        or progress.processes != was.processes
        or progress.cpu_s - was.cpu_s > CPU_SHARE_MIN * still_s
        or progress.read_bytes - was.read_bytes > READ_BYTES_PER_S_MIN * still_s
    )
    return StartState(state.began_s, now_s, progress) if moved else state


def overdue(state: StartState, now_s: float, silence_s: float) -> str:
    """Why it is not waited for any longer, as the end of a sentence; empty while it is.

    Args:
        silence_s: how long nothing may move.
    """
    if now_s - state.moved_s >= silence_s:
        minutes = _minutes(now_s - state.moved_s)
        return f"it has neither written nor computed nor read anything for {minutes}"
    if now_s - state.began_s >= SILENCES_MAX * silence_s:
        return f"it is busy but has not become ready for {_minutes(now_s - state.began_s)}"
    return ""


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"
