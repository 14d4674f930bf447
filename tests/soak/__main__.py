"""`python -m tests.soak --minutes 15`: a gateway at half load, with clients that leave and engines that fail.

Memory, open files, threads, requests held, metric series, and the size of journal and ledger per request must be
flat after a warm-up. Prints a row each minute, then a verdict for each; exits with 1 where one is broken.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psutil

from tests.e2e.accounts import leftovers, settled
from tests.e2e.load import Background, End, Seen, Target
from tests.e2e.processes import KEY, Gateway, ready_gateway, remote, sim_engine
from tests.e2e.questions import Mix, questions
from tests.soak.trend import Verdict, growth, slope

MIB = 2**20
SAMPLE_EVERY_S = 2.0
WARM_UP_SHARE = 0.3
WRONG_SHOWN = 10

# Engines that take 64 requests at once, and half as many clients: one percent of the requests meets a fault.
# Connections that nobody uses are closed soon, so that those that are left were forgotten.
ENGINE = ("--model", "m", "--base-step-s", "0.01", "--max-num-seqs", "32", "--keep-alive-s", "5")
FAULTS = (
    "reset_before:0.002",
    "reset_after_tokens=5:0.003",
    "status=500:0.002",
    "abort=4:0.002",
    "malformed=3:0.001",
)
CLIENTS = 32
LEAVING = 0.1
TOKENS = 32

# What may be found to grow though nothing leaks: noise of the fit, pages that an allocator keeps.
RSS_MIB_MAX = 4.0
RSS_SHARE_MAX = 0.04
FILES_MAX = 6.0
THREADS_MAX = 2.0
HELD_MAX = 8.0
SERIES_MAX = 12.0  # a failure that is seen for the first time
IDLE_FILES_MAX = 6
JOURNAL_BYTES_MAX = 1000.0  # of one request; docs/usage.md tells of 750
LEDGER_BYTES_MAX = 500.0  # of one request; docs/usage.md tells of 230, and its log is as large again


@dataclass(frozen=True, slots=True)
class Sample:
    """The gateway at one moment; `at_s` since the load began."""

    at_s: float
    requests: int
    rss_bytes: int
    files: int
    threads: int
    held: int
    series: int
    journal_bytes: int
    ledger_bytes: int


@dataclass
class Count:
    """What the clients saw."""

    ends: Counter[End] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __call__(self, seen: Seen) -> None:
        self.ends[seen.end] += 1
        if seen.wrong or seen.end in (End.CUT, End.UNREACHED):
            self.wrong.append(seen.tell())

    @property
    def total(self) -> int:
        return sum(self.ends.values())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0, help="how long the load lasts; at least 1")
    parser.add_argument("--clients", type=int, default=CLIENTS, help="requests at once")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32, help="of all choices")
    options = parser.parse_args()
    if options.minutes < 1:
        parser.error("--minutes: expected at least 1")
    with tempfile.TemporaryDirectory(prefix="penstock-soak-") as folder:
        return soak(Path(folder), options.minutes * 60, options.clients, options.seed)


def soak(folder: Path, seconds: float, clients: int, seed: int) -> int:
    say(f"seed {seed}")
    with ExitStack() as stack:
        quiet = stack.enter_context(sim_engine(folder, "--model", "m", "--base-step-s", "0"))
        found = questions(quiet, "m", 20, TOKENS)
        rates = [option for rate in FAULTS for option in ("--fault-rate", rate)]
        engines = [
            stack.enter_context(sim_engine(folder, *ENGINE, *rates, "--seed", str(seed + number)))
            for number in range(2)
        ]
        front = stack.enter_context(ready_gateway(folder, remote("m", *engines)))
        mix = Mix(
            Random(seed), "m", found, [KEY], leaving=LEAVING, declining=0.5, prefix="soak", tokens_least=8
        )
        count = Count()
        idle = sample(front, 0.0, 0)
        load = Background(Target(front.port), mix, clients=clients, on_seen=count)
        load.start()
        samples = watch(front, count, seconds)
        load.stop()
        left = leftovers(settled(lambda: front.admin("/admin/overview").json()))
        after = settled_files(front, idle.files)
        doubled, complete = ledger_counts(front)
    verdicts = [
        *judge(samples),
        Verdict("open files when idle again", after - idle.files, IDLE_FILES_MAX, "more"),
    ]
    verdicts += [
        Verdict("replies that were wrong or cut", len(count.wrong), 0, ""),
        Verdict("requests twice in the ledger", doubled, 0, ""),
        Verdict("whole answers that the ledger lacks", count.ends[End.COMPLETE] - complete, 0, ""),
        Verdict("permits, places and slots left", sum(left.values()), 0, f"{left or ''}"),
        Verdict("requests that were refused or broken", refused(count), 0.02 * count.total, ""),
    ]
    say(f"\n{count.total} requests: " + ", ".join(f"{number} {end}" for end, number in count.ends.items()))
    for line in (*count.wrong[:WRONG_SHOWN], *(verdict.tell() for verdict in verdicts)):
        say(line)
    return 0 if all(verdict.good for verdict in verdicts) else 1


def refused(count: Count) -> int:
    return count.ends[End.REFUSED] + count.ends[End.ERROR_EVENT]


def watch(front: Gateway, count: Count, seconds: float) -> list[Sample]:
    """Samples over so many seconds; prints one each minute."""
    say(
        f"{'minute':>6} {'requests':>9} {'RSS MiB':>8} {'files':>6} {'threads':>7} {'held':>5} {'series':>7} "
        f"{'journal B/req':>14} {'ledger B/req':>13}"
    )
    begun_s = time.monotonic()
    samples: list[Sample] = []
    minute = 0
    while (at_s := time.monotonic() - begun_s) < seconds:
        samples.append(sample(front, at_s, count.total))
        if at_s // 60 >= minute:
            minute += 1
            say(row(samples[-1]))
        time.sleep(SAMPLE_EVERY_S)
    samples.append(sample(front, time.monotonic() - begun_s, count.total))
    say(row(samples[-1]))
    return samples


def row(one: Sample) -> str:
    requests = max(1, one.requests)
    return (
        f"{one.at_s / 60:>6.1f} {one.requests:>9} {one.rss_bytes / MIB:>8.1f} {one.files:>6} {one.threads:>7} "
        f"{one.held:>5} {one.series:>7} {one.journal_bytes / requests:>14.0f} {one.ledger_bytes / requests:>13.0f}"
    )


def sample(front: Gateway, at_s: float, requests: int) -> Sample:
    process = psutil.Process(front.process.pid)
    metrics = front.admin("/metrics", key="").body.splitlines()
    return Sample(
        at_s,
        requests,
        process.memory_info().rss,
        process.num_fds(),
        process.num_threads(),
        front.admin("/admin/overview").json()["in_progress"],
        sum(not line.startswith(b"#") for line in metrics),
        sum(path.stat().st_size for path in (front.home / "journal").glob("*.jsonl")),
        sum(path.stat().st_size for path in front.home.glob("usage.sqlite*")),
    )


def judge(samples: list[Sample]) -> list[Verdict]:
    """Whether the gateway was the same at the end as after its warm-up."""
    kept = samples[int(len(samples) * WARM_UP_SHARE) :]
    at_s = [one.at_s for one in kept]

    def rises(name: str, unit: str, value: Callable[[Sample], float], bound: float) -> Verdict:
        return growth(name, unit, at_s, [value(one) for one in kept], bound)

    def each(name: str, value: Callable[[Sample], float], bound: float) -> Verdict:
        return Verdict(
            name, slope([one.requests for one in kept], [value(one) for one in kept]), bound, "bytes"
        )

    rss_mib = kept[0].rss_bytes / MIB
    return [
        rises(
            "growth of memory",
            "MiB",
            lambda one: one.rss_bytes / MIB,
            max(RSS_MIB_MAX, RSS_SHARE_MAX * rss_mib),
        ),
        rises("growth of open files", "files", lambda one: one.files, FILES_MAX),
        rises("growth of threads", "threads", lambda one: one.threads, THREADS_MAX),
        rises("growth of requests held", "requests", lambda one: one.held, HELD_MAX),
        Verdict("growth of metric series", kept[-1].series - kept[0].series, SERIES_MAX, "series"),
        each("journal for each request", lambda one: one.journal_bytes, JOURNAL_BYTES_MAX),
        each("ledger for each request", lambda one: one.ledger_bytes, LEDGER_BYTES_MAX),
    ]


def settled_files(front: Gateway, before: int) -> int:
    """Open files of the gateway, once they are as few as before, or will not become so."""
    deadline_s = time.monotonic() + 20
    process = psutil.Process(front.process.pid)
    while (files := process.num_fds()) > before and time.monotonic() < deadline_s:
        time.sleep(0.2)
    return int(files)


def ledger_counts(front: Gateway) -> tuple[int, int]:
    """Rows beyond the first of a request, and requests that are complete, after `penstock usage`."""
    told = front.penstock("usage", "--json")
    assert told.returncode == 0, told.stderr
    with closing(sqlite3.connect(f"file:{front.home / 'usage.sqlite'}?mode=ro", uri=True)) as db:
        query = (
            "SELECT count(*) - count(DISTINCT request_id), "
            "sum(outcome = 'complete' AND status = 200) FROM requests WHERE request_id LIKE 'soak-%'"
        )
        doubled, complete = db.execute(query).fetchone()
    return doubled, complete


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
