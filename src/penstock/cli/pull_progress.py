"""How a pull shows how far it is: bars on a terminal, some lines elsewhere, or events in JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

from penstock.assembly.pulling import Pull
from penstock.core.errors import PenstockError
from penstock.core.units import format_duration, format_size
from penstock.engines.progress import Pace, Standing, left_s

LINE_EVERY_S = 10.0
EVENT_EVERY_S = 1.0


class Display(Protocol):
    """Where a pull is shown."""

    def begin(self, pull: Pull) -> None:
        """It begins."""

    def show(self, standing: Standing) -> None:
        """So far it is; called some times a second."""

    def note(self, line: str) -> None:
        """Something that went wrong, and goes on."""

    def end(self, pull: Pull, took_s: float) -> None:
        """All is there."""

    def close(self) -> None:
        """It is over, in whatever way."""


class Lines:
    """A line at the beginning and the end, and one now and then."""

    def __init__(self, say: Callable[[str], None], now_s: Callable[[], float]) -> None:
        self._say = say
        self._now_s = now_s
        self._pace = Pace()
        self._said_s = now_s()

    def begin(self, pull: Pull) -> None:
        """As `Display` says."""
        self._say(began(pull))
        self._pace.rate(0, self._now_s())

    def show(self, standing: Standing) -> None:
        """As `Display` says."""
        now_s = self._now_s()
        rate = self._pace.rate(standing.fetched_bytes, now_s)
        if now_s - self._said_s >= LINE_EVERY_S:
            self._said_s = now_s
            self._say(far(standing, rate))

    def note(self, line: str) -> None:
        """As `Display` says."""
        self._say(line)

    def end(self, pull: Pull, took_s: float) -> None:
        """As `Display` says."""
        self._say(ended(pull, took_s))

    def close(self) -> None:
        """As `Display` says."""


class Bars(Lines):
    """A bar for all of it, and one for each file that is under way."""

    def __init__(self, say: Callable[[str], None], now_s: Callable[[], float]) -> None:
        from rich import progress  # only a terminal needs it
        from rich.console import Console

        super().__init__(say, now_s)
        self._progress = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),  # names are the server's
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._all: progress.TaskID | None = None
        self._tasks: dict[str, progress.TaskID] = {}

    def begin(self, pull: Pull) -> None:
        """As `Display` says."""
        super().begin(pull)
        self._tasks = {}
        standing = pull.download.tally.standing()
        self._progress.start()
        self._all = self._progress.add_task(
            pull.wanted.name.repo, total=standing.total_bytes, completed=standing.have_bytes
        )

    def show(self, standing: Standing) -> None:
        """As `Display` says."""
        assert self._all is not None
        checking = standing.checked_bytes and not standing.fetched_bytes
        said = f"checked {format_size(standing.checked_bytes)}" if checking else None
        self._progress.update(self._all, completed=standing.have_bytes, description=said)
        for name in set(self._tasks) - {name for name, _, _ in standing.under_way}:
            self._progress.remove_task(self._tasks.pop(name))
        for name, have, total in standing.under_way:
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(f"  {name}", total=total, completed=have)
            self._progress.update(self._tasks[name], completed=have)

    def note(self, line: str) -> None:
        """As `Display` says."""
        self._progress.console.print(line, markup=False, highlight=False)

    def end(self, pull: Pull, took_s: float) -> None:
        """As `Display` says."""
        self.close()
        super().end(pull, took_s)

    def close(self) -> None:
        """As `Display` says."""
        self._progress.stop()
        for task in list(self._progress.task_ids):
            self._progress.remove_task(task)


class Events:
    """An object in JSON a line."""

    def __init__(self, out: Callable[[str], None], now_s: Callable[[], float]) -> None:
        self._out = out
        self._now_s = now_s
        self._pace = Pace()
        self._said_s = now_s()

    def begin(self, pull: Pull) -> None:
        """As `Display` says."""
        standing = pull.download.tally.standing()
        self._pace.rate(0, self._now_s())
        self._event(
            "begin",
            model=str(pull.wanted.name),
            commit=pull.listing.commit,
            files=standing.files,
            total_bytes=standing.total_bytes,
            have_bytes=standing.have_bytes,
            folder=str(pull.shelf.root),
        )

    def show(self, standing: Standing) -> None:
        """As `Display` says."""
        now_s = self._now_s()
        rate = self._pace.rate(standing.fetched_bytes, now_s)
        if now_s - self._said_s < EVENT_EVERY_S:
            return
        self._said_s = now_s
        left = left_s(standing, rate)
        self._event(
            "progress",
            have_bytes=standing.have_bytes,
            total_bytes=standing.total_bytes,
            checked_bytes=standing.checked_bytes,
            bytes_per_s=round(rate),
            left_s=None if left is None else round(left, 1),
            files_ended=standing.ended,
        )

    def note(self, line: str) -> None:
        """As `Display` says."""
        self._event("note", text=line)

    def end(self, pull: Pull, took_s: float) -> None:
        """As `Display` says."""
        files = [
            {
                "name": file.name,
                "size_bytes": file.size_bytes,
                "sha256": file.sha256 or None,
                "blob": file.blob,
            }
            for file in pull.files
        ]
        self._event(
            "done",
            model=str(pull.wanted.name),
            commit=pull.listing.commit,
            path=str(pull.path),
            took_s=round(took_s, 1),
            files=files,
        )

    def close(self) -> None:
        """As `Display` says."""

    def failed(self, error: PenstockError, exit_code: int) -> None:
        """It came to nothing."""
        self._event("error", code=error.code, message=error.message, hint=error.hint, exit_code=exit_code)

    def _event(self, name: str, **members: Any) -> None:
        self._out(json.dumps({"event": name, **members}))


def began(pull: Pull) -> str:
    """What is about to be fetched, in a line."""
    standing, commit = pull.download.tally.standing(), pull.listing.commit
    here = f", {format_size(standing.have_bytes)} of it here already" if standing.have_bytes else ""
    count = f"{standing.files} file{'s' * (standing.files != 1)}"
    return f"{pull.wanted.name} at commit {commit}: {count}, {format_size(standing.total_bytes)}{here}"


def far(standing: Standing, rate: float) -> str:
    """How far it is, in a line."""
    if standing.have_bytes == standing.total_bytes:
        return f"checking: {format_size(standing.checked_bytes)} of {format_size(standing.total_bytes)} read"
    left = left_s(standing, rate)
    at = f", {format_size(round(rate))}/s" if rate else ""
    until = f", {format_duration(left)} left" if left is not None else ""
    return (
        f"{format_size(standing.have_bytes)} of {format_size(standing.total_bytes)} "
        f"({100 * standing.have_bytes // max(1, standing.total_bytes)} %){at}{until}"
    )


def ended(pull: Pull, took_s: float) -> str:
    """What was done, in a line."""
    standing = pull.download.tally.standing()
    fetched = (
        f"{format_size(standing.fetched_bytes)} fetched" if standing.fetched_bytes else "nothing to fetch"
    )
    return f"{pull.wanted.name} is whole: {fetched} in {format_duration(took_s)}, in {pull.shelf.root}"
