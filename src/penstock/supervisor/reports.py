"""What a keeper tells of its part, for `penstock status`: written at each change, taken back when it is stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from penstock.store.runtime import PartReport, PartReports


class Reports:
    """Where reports go.

    Args:
        folder: gets them.
        now: Unix time.
    """

    def __init__(self, folder: PartReports, now: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self.now = now


class Reporter:
    """The report of one part.

    Args:
        reports: None keeps it to itself.
        first: what is known from the beginning.
    """

    def __init__(self, reports: Reports | None, first: PartReport) -> None:
        self._reports = reports
        self._report = first

    def __call__(self, **changes: Any) -> None:
        """Writes what has changed, as fields of a `PartReport`; nothing where nothing has."""
        report = replace(self._report, **changes)
        if self._reports is None or report == self._report:
            return
        if report.life != self._report.life or report.pid != self._report.pid:
            report = replace(report, since=self._reports.now())
        self._report = report
        with suppress(OSError):  # a full disk: status knows less
            self._reports.folder.write(report)

    def waits(self, last_exit: str, wait_s: float) -> None:
        """It has ended, and is started again after `wait_s`."""
        at = self._reports.now() + wait_s if self._reports else 0.0
        self(
            life="waiting",
            why=last_exit,
            last_exit=last_exit,
            pid=0,
            loading="",
            next_start_at=at,
            restarts=self._report.restarts + 1,
        )

    def forget(self) -> None:
        """Takes it back."""
        if self._reports is not None:
            with suppress(OSError):
                self._reports.folder.remove(self._report.name)
