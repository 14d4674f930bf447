"""How far the starts of replicas have come: the stage that their logs tell, what they have read, and for how long they
go on, beside how long they took the last time.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from penstock.core.config import ModelConfig
from penstock.core.units import format_size
from penstock.store.starts import Start, Starts
from penstock.supervisor.keeper import Keeper
from penstock.supervisor.logfile import STARTED
from penstock.supervisor.parts import ReplicaPart

LOOK_EVERY_S = 0.5
# Shorter starts are not spoken of.
SAID_AFTER_S = 1.0
# What an engine writes in one look, and more: vLLM draws bars while it loads.
LOG_BYTES_MAX = 64 * 1024
# Less was read from disk: the files are in memory, which then tells how far it is.
READ_BYTES_MIN = 10_000_000
STAGE_CHARS_MAX = 80


def how_far(stage: str, done: str, elapsed_s: float, last_s: float | None) -> str:
    """How far a start has come, in words.

    Args:
        stage: what it does now; empty where it does not say.
        done: how much it has read or holds; empty where that is not known.
        last_s: how long the last start took.
    """
    if last_s is None:
        time = f"{elapsed_s:.0f} s"
    elif elapsed_s <= last_s:
        time = f"{elapsed_s:.0f} s of the {last_s:.0f} s of last time"
    elif elapsed_s < 2 * last_s:
        time = f"{elapsed_s:.0f} s, longer than the {last_s:.0f} s of last time"
    else:
        times = "twice" if elapsed_s < 3 * last_s else f"{elapsed_s // last_s:.0f} times"
        time = f"{elapsed_s:.0f} s, {times} the {last_s:.0f} s of last time"
    return "; ".join(filter(None, (stage or "loading", done, time)))


def stage_of(text: str, stages: Iterable[tuple[str, str]]) -> str:
    """The stage that the last line begins of which one of the patterns tells; empty where none does.

    Args:
        text: of a log; a line may have been written over by others with carriage returns.
        stages: patterns, and phrases that may name their groups, as `EngineSpec.stages`.
    """
    patterns = [(re.compile(pattern), phrase) for pattern, phrase in stages]
    for line in reversed(re.split(r"[\r\n]+", text)):
        for pattern, phrase in patterns:
            match = pattern.search(line)
            if match is not None:
                return match.expand(phrase)[:STAGE_CHARS_MAX]
    return ""


def work_of(pid: int) -> str:
    """What a process and its children have read from disk; or, where that is little, hold in memory."""
    read_bytes = rss_bytes = 0
    with suppress(psutil.Error):
        first = psutil.Process(pid)
        for process in (first, *first.children(recursive=True)):
            with suppress(psutil.Error):
                rss_bytes += process.memory_info().rss
                read_bytes += process.io_counters().read_bytes
    if read_bytes >= READ_BYTES_MIN:
        return f"{format_size(read_bytes)} read"
    return f"{format_size(rss_bytes)} in memory" if rss_bytes else ""


def identity(model: ModelConfig) -> str:
    """What makes starts of a model alike, as one word."""
    parts = msgspec.json.encode([model.engine, model.sources, dict(model.engine_args)])
    return hashlib.blake2b(parts, digest_size=8).hexdigest()


@dataclass(slots=True)
class _Loading:
    """One start.

    Args:
        since_s: when it was first seen.
        log_start: where its part of the log begins.
        last_s: how long the last start of its model took.
        is_over: it answers.
    """

    pid: int
    since_s: float
    log_start: int
    last_s: float | None
    stage: str = ""
    told: str = ""
    is_over: bool = False


class LoadingWatch:
    """Tells each keeper how far the start of its replica has come, as long as it is not up.

    Args:
        keepers: those that run now.
        starts: remembers how long they took.
        log: where a part of this name writes.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        keepers: Callable[[], Iterable[Keeper]],
        starts: Starts,
        log: Callable[[str], Path],
        clock: Callable[[], float],
    ) -> None:
        self._keepers = keepers
        self._starts = starts
        self._log = log
        self._clock = clock
        self._found: dict[str, _Loading] = {}
        self._log_bytes: dict[str, int] = {}

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    def look(self) -> None:
        """Looks once at each."""
        names = set()
        for keeper in self._keepers():
            if isinstance(keeper.part, ReplicaPart):
                names.add(keeper.part.name)
                self._look_at(keeper, keeper.part)
        for name in self._found.keys() - names:
            del self._found[name]

    def how_far(self, name: str) -> str:
        """How far the start of this replica has come; empty where that is not known, or it is up."""
        found = self._found.get(name)
        return found.told if found is not None else ""

    def _look_at(self, keeper: Keeper, part: ReplicaPart) -> None:
        name, now_s = part.name, self._clock()
        found = self._found.get(name)
        if keeper.pid is None:
            self._found.pop(name, None)
            self._log_bytes[name] = self._size(name)
            return
        if found is None or found.pid != keeper.pid:
            last_s = self._starts.took_s(part.model.name, identity(part.model))
            found = _Loading(keeper.pid, now_s, self._log_bytes.get(name, 0), last_s)
            self._found[name] = found
        if found.is_over:
            return
        if keeper.became_ready.is_set():
            self._over(keeper, part, found, now_s - found.since_s)
        elif now_s - found.since_s >= SAID_AFTER_S:
            self._tell(keeper, part, found, now_s - found.since_s)

    def _tell(self, keeper: Keeper, part: ReplicaPart, found: _Loading, elapsed_s: float) -> None:
        written = self._written(part.name, found.log_start)
        _, began, of_this = written.rpartition(f" {STARTED} {found.pid}: ")  # the log may hold runs before it
        found.stage = stage_of(of_this if began else written, part.spec.stages) or found.stage
        told = how_far(found.stage, work_of(found.pid), elapsed_s, found.last_s)
        if told != found.told:
            found.told = told
            keeper.loads(told)

    def _over(self, keeper: Keeper, part: ReplicaPart, found: _Loading, took_s: float) -> None:
        found.is_over = True
        self._log_bytes[part.name] = self._size(part.name)
        if found.told:
            found.told = ""
            keeper.loads("")
            self._starts.note(part.model.name, Start(identity(part.model), round(took_s, 1)))

    def _size(self, name: str) -> int:
        try:
            return self._log(name).stat().st_size
        except OSError:
            return 0

    def _written(self, name: str, start: int) -> str:
        """The last of what this start has written; all of the log, where that was begun anew meanwhile."""
        try:
            with self._log(name).open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(start if start <= end else 0, end - LOG_BYTES_MAX))
                return file.read(LOG_BYTES_MAX).decode("utf-8", "replace")
        except OSError:
            return ""
