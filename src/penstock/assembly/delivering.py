"""When rows are sent to ClickHouse, and what is told of it: at once while it takes them, ever more rarely while not."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from penstock.core.config import ClickHouseConfig
from penstock.store.clickhouse.progress import Progress, load, save
from penstock.store.ledger_keeper import Problem, run_for_parent
from penstock.telemetry.logs import Logger

# Not imported: it brings SQLite along, which the gateway's own process does without.
PROCESS = "penstock.assembly.clickhouse"
# After the first failure; then twice as long each time.
WAIT_S = 15.0
WAIT_S_MAX = 600.0


class Delivering:
    """Delivers the ledger of this home; starts no process where nothing can have come since all was sent.

    Args:
        deliver: sends what there is to send.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        ledger: Path,
        config: ClickHouseConfig,
        log: Logger,
        deliver: Deliver | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._config = config
        self._log = log
        self._deliver = deliver or deliver_apart
        self._now = now
        self._told = ""
        self._wanted = True  # an earlier gateway may have left some
        self._not_before_s = 0.0
        self._wait_s = 0.0
        self.failing = False
        self.sent_rows = 0
        self.unsent_rows = 0

    def rows_came(self) -> None:
        """There may be something to send."""
        self._wanted = True

    async def tend(self, now_s: float) -> None:
        """Sends what there is to send, unless it failed a moment ago.

        Args:
            now_s: monotonic seconds.
        """
        if not self._wanted or now_s < self._not_before_s:
            return
        began = self._now()
        report = await self._deliver(self._ledger, self._config)
        self._wanted = report.busy or report.problem is not None or report.unsent != 0
        self.sent_rows += report.sent
        if report.unsent is not None:
            self.unsent_rows = report.unsent
        if report.left_out:
            self._log.warning(
                f"{report.left_out} rows were not sent to ClickHouse: they are older than it keeps rows, and may have "
                "been counted there before",
                hint="penstock usage has them",
            )
        if not report.busy:
            save(self._ledger, self._judged(report, now_s - began))

    def _judged(self, report: DeliveryReport, monotonic_s: float) -> Progress:
        """How it goes now.

        Args:
            monotonic_s: what makes a moment since the epoch one of the monotonic clock.
        """
        before, now = load(self._ledger), self._now()  # what other workers did is in it
        sent_at = now if report.sent else before.sent_at
        if report.problem is None:
            if self.failing:
                self._log.info("ClickHouse takes rows again")
            self.failing, self._told, self._wait_s = False, "", 0.0
            return Progress(sent_at)
        message, hint = report.problem.message, report.problem.hint
        if message != self._told:
            self._log.error(message, hint=hint)
        self.failing, self._told = True, message
        self._wait_s = min(max(WAIT_S, 2 * self._wait_s), WAIT_S_MAX)
        self._not_before_s = now + self._wait_s + monotonic_s
        return Progress(sent_at, before.failing_since or now, message, hint, now + self._wait_s)


class Delivery(msgspec.Struct, frozen=True):
    """What the process needs to know: `section` is the configuration's, `parent` the process for which it works."""

    section: dict[str, str | float]
    parent: int


class DeliveryReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of it: rows that were sent, and rows that wait; None where that is not known.

    Args:
        left_out: rows that won't be sent, since nobody can tell whether they were.
        busy: another worker sends just now.
    """

    sent: int = 0
    left_out: int = 0
    unsent: int | None = None
    problem: Problem | None = None
    busy: bool = False


Deliver = Callable[[Path, ClickHouseConfig], Awaitable[DeliveryReport]]


async def deliver_apart(ledger: Path, config: ClickHouseConfig) -> DeliveryReport:
    """Delivers the ledger's rows in a process of its own, which is ended where this is cancelled."""
    section: dict[str, str | float] = {
        "url": config.url or "",
        "database": config.database,
        "timeout": config.timeout_s,
        **({"user": config.user.get_secret_value()} if config.user else {}),
        **({"password": config.password.get_secret_value()} if config.password else {}),
    }
    told = msgspec.json.encode(Delivery(section, os.getpid()))
    command = (sys.executable, "-P", "-m", PROCESS, str(ledger))
    said, trouble = await run_for_parent(command, told)
    try:
        return msgspec.json.decode(said, type=DeliveryReport)
    except msgspec.DecodeError:
        problem = Problem(f"rows were not sent to ClickHouse: {trouble}", "they wait in the ledger")
        return DeliveryReport(problem=problem)
