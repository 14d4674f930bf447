"""What a site may have beside a gateway: a supervisor, Redis, ClickHouse, a collector of traces."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.alerts.drill import LOAD, TROUBLE, Drill, Lane
from tests.alerts.stack import Stack
from tests.alerts.traffic import traffic

REFUSES = "Code: 241. DB::Exception: Memory limit (total) exceeded. (MEMORY_LIMIT_EXCEEDED)"
KILLS_EVERY_S = 0.2


@contextmanager
def redis_killed(stack: Stack) -> Iterator[None]:
    """Redis is killed."""
    with traffic(stack.site.gateway, 1, model="c"):
        stack.site.redis.kill()
        yield
        stack.site.redis.start()


@contextmanager
def collectors_refusing(stack: Stack) -> Iterator[None]:
    """ClickHouse refuses rows, and the collector spans."""
    stack.site.clickhouse.refuse = [REFUSES] * 1000
    stack.site.collector.status = 403
    with traffic(stack.site.gateway, 1, model="c"):
        yield
    stack.site.clickhouse.refuse = []
    stack.site.collector.status = 200


@contextmanager
def ledger_blocked(stack: Stack) -> Iterator[None]:
    """The ledger's file is gone, and a folder is in its place."""
    ledger = stack.site.gateway.home / "usage.sqlite"
    kept = ledger.with_suffix(".kept")
    ledger.rename(kept)
    ledger.mkdir()
    with traffic(stack.site.gateway, 1, model="c"):
        yield
    ledger.rmdir()
    kept.rename(ledger)


@contextmanager
def engine_dying(stack: Stack) -> Iterator[None]:
    """An engine is killed whenever it is there, until its supervisor has had enough."""
    over = threading.Event()

    def kill() -> None:
        killed = 0
        while not over.wait(KILLS_EVERY_S):
            pid = stack.site.engine_pid("c-0")
            if pid not in (0, killed):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                killed = pid

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


MORE = (*TROUBLE, *LOAD)
OPTIONAL: Lane = (
    Drill(
        "Redis killed",
        redis_killed,
        ("SharedStoreDown",),
        models=("c",),
    ),
    Drill(
        "ClickHouse and a collector that refuse",
        collectors_refusing,
        ("ClickHouseFailing", "TelemetryDropped"),
        models=("c",),
    ),
    Drill(
        "a ledger that can't be opened",
        ledger_blocked,
        ("LedgerFailing",),
        ("ClickHouseFailing", "JournalFailing"),
        models=("c",),
    ),
    Drill(
        "an engine that dies again and again",
        engine_dying,
        ("EngineCrashLoop", "EngineGivenUp"),
        MORE,
        models=("c",),
    ),
)
