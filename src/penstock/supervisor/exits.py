"""Why a child ended, in a sentence: from its return code, the kernel's counters and its last lines."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from penstock.supervisor.causes import CAUSES, FOR_MEMORY, PORT_TAKEN, SIGNALS
from penstock.supervisor.process import Ended

EVIDENCE_CHARS_MAX = 240
LAST_LINES = 40
"""All of these are looked at, further ones only where they tell of a fault."""

_FROM_OUTSIDE = tuple(-number for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
"""It did not get to say anything about these."""

_TELLS_OF_FAULT = re.compile(
    r"error|exception|fatal|critical|fail|abort|terminate|can't|cannot|could ?n[o']t|unable|denied|killed|died"
    r"|no space|timed? ?out|not supported|unsupported|exit ?code"
)
_IS_HARMLESS = re.compile(r"\b(?:DEBUG|INFO|WARNING)\b")  # levels of a log; NCCL says WARN of what ends it
_EXCEPTION = re.compile(r"\b(?:\w+\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit)\b(?::\s*\S|$)")
_POINTS_ELSEWHERE = re.compile(
    r"root cause|see (?:stack )?trace|engine core initialization failed", re.IGNORECASE
)
_HINT = "hint: "  # of Penstock's own commands, after the error
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a child ended.

    Args:
        sentence: the end of one that begins with the child's name.
        evidence: the line that it was concluded from; empty where it was none.
        port_taken: whether all that is wrong is the port.
        disk_failed: whether all that is wrong is that its files can't be written.
    """

    sentence: str
    evidence: str = ""
    port_taken: bool = False
    disk_failed: bool = False


def explained(ended: Ended, causes: Iterable[tuple[str, str]] = (), *, was_ready: bool = True) -> Explanation:
    """Why it ended.

    Args:
        causes: of its engine kind, which are tried before those of any program.
        was_ready: whether it had become ready.
    """
    how = _how(ended.returncode)
    lines = [_COLOUR.sub("", line).strip() for line in ended.last_lines]
    telling = [line for line in _telling(lines) if not _IS_HARMLESS.search(line)]
    cause, evidence = _by_kernel(ended), ""
    if not cause and ended.returncode not in _FROM_OUTSIDE:
        cause, evidence = _by_log((*causes, *CAUSES), telling)
    if cause:
        told = f"; its log says: {evidence}" if evidence else ""
        return Explanation(f"{how}: {cause}{told}", evidence, port_taken=cause == PORT_TAKEN)
    cause = _by_code(ended, was_ready=was_ready)
    if ended.returncode in _FROM_OUTSIDE:
        return Explanation(f"{how}: {cause}")
    evidence = _last_words(lines)
    words = f"its last words: {evidence}" if evidence else "without a word"
    return Explanation(f"{how}: {cause}; {words}" if cause else f"{how}: {words}", evidence)


def _how(returncode: int) -> str:
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    return f"was killed by {_name(returncode)} ({128 - returncode})"


def _name(returncode: int) -> str:
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"


def _by_kernel(ended: Ended) -> str:
    if ended.oom_kills:
        return f"out of memory, as the kernel says (oom_kill {ended.oom_kills} in its control group): {FOR_MEMORY}"
    if ended.returncode == -signal.SIGKILL and ended.machine_oom_kills:
        return (
            "out of memory, as the kernel says (oom_kill in /proc/vmstat has grown by "
            f"{ended.machine_oom_kills}): {FOR_MEMORY}"
        )
    return ""


def _by_log(causes: Iterable[tuple[str, str]], lines: Sequence[str]) -> tuple[str, str]:
    """The first cause that the lines tell of, and the first line that tells it."""
    lowered = [line.lower() for line in lines]
    for pattern, cause in causes:
        search = re.compile(pattern).search
        for line, low in zip(lines, lowered, strict=True):
            if search(low):
                return cause, _short(line)
    return "", ""


def _telling(lines: Sequence[str]) -> list[str]:
    """The last lines, and before them those that tell of a fault."""
    before, last = lines[:-LAST_LINES], lines[-LAST_LINES:]
    return [*(line for line in before if _TELLS_OF_FAULT.search(line.lower())), *last]


def _by_code(ended: Ended, *, was_ready: bool) -> str:
    if ended.returncode == -signal.SIGKILL and ended.machine_oom_kills is None:
        return f"somebody killed it, or the kernel for memory, of which it tells nothing here: {FOR_MEMORY}"
    if ended.returncode == -signal.SIGKILL:
        return "somebody else killed it; not the kernel for memory, whose count (oom_kill in /proc/vmstat) is as before"
    if ended.returncode < 0:
        return SIGNALS.get(_name(ended.returncode), "")
    if ended.returncode == 0 and ended.left:
        return (
            f"it went on in the background with {ended.left} "
            f"process{'' if ended.left == 1 else 'es'}, which Penstock has ended: make it stay in the foreground"
        )
    if ended.returncode == 0 and not was_ready:
        return "it was done before it served anything: look for an option that only prints something"
    return ""


def _last_words(lines: Sequence[str]) -> str:
    """The exception that came first in what it said, else the last line."""
    found = next(_exceptions(lines), "")
    said = (line for line in reversed(lines) if line and not line.startswith(_HINT))
    return _short(found or next(said, ""))


def _exceptions(lines: Sequence[str]) -> Iterator[str]:
    fit = (line for line in lines if _EXCEPTION.search(line) and not _IS_HARMLESS.search(line))
    return (line for line in fit if not _POINTS_ELSEWHERE.search(line))


def _short(line: str) -> str:
    return line[:EVIDENCE_CHARS_MAX]
