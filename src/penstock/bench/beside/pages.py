"""The pages of /metrics beside a load: of engines, of a Penstock gateway, of a GPU exporter, read every second.

Reading never fails a run. What can't be read is noted, with how often: a page that is gone, slow, huge, or no page of
metrics at all. Each page has a reader of its own, so a slow one does not hold up the others; a reading that takes
longer than its time is never piled upon. Times are taken on the monotonic clock, amid question and answer, and told in
seconds since the start of the load, as the samples' are.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum
from urllib.parse import urlsplit

import msgspec

from penstock.bench.beside import figures
from penstock.bench.beside.energy import Cost, Price, cost, energy_j
from penstock.bench.beside.series import Point, Series, growth, together
from penstock.core.address import Address
from penstock.core.errors import DeadlineError, PenstockError
from penstock.engines.client import EngineClient

EVERY_S = 1.0
# A vLLM server under full load was seen to take two seconds for its page.
READ_TIMEOUT_S = 5.0
# Before and after the load somebody waits for the reading.
EDGE_TIMEOUT_S = 2.0
# A reason holds text from outside: so many different ones are told apart, each so long.
REASONS_MAX = 16
REASON_CHARS_MAX = 200


class SourceKind(StrEnum):
    """Whose page it is."""

    ENGINE = "engine"
    GATEWAY = "gateway"
    GPU = "gpu"


FIGURES = {
    SourceKind.ENGINE: figures.ENGINE,
    SourceKind.GATEWAY: figures.GATEWAY,
    SourceKind.GPU: figures.GPU,
}


class Source(msgspec.Struct, frozen=True):
    """One page.

    Args:
        url: `http://host:port`, with `/metrics` where it names no path.
        kind: whose it is.
        headers: sent with each question, lower-case names.
    """

    url: str
    kind: SourceKind = SourceKind.ENGINE
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def address(self) -> Address:
        """Where to ask.

        Raises:
            SourceError: the URL is none that can be asked.
        """
        try:
            parts = urlsplit(self.url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise SourceError(f"{self.url}: {error}", hint=SOURCE_HINT) from None
        if parts.scheme != "http" or not host:
            raise SourceError(f"{self.url}: no http:// address of metrics", hint=SOURCE_HINT)
        return Address(host, port or 80)

    @property
    def target(self) -> bytes:
        """Path and query."""
        parts = urlsplit(self.url)
        path = parts.path if parts.path not in ("", "/") else "/metrics"
        return f"{path}?{parts.query}".encode() if parts.query else path.encode()


SOURCE_HINT = "name it as in http://127.0.0.1:8000/metrics; an engine's metrics are seldom behind TLS"


class SourceError(PenstockError):
    """A page that can't be asked for."""

    code = "metrics_source"


class SourceReadings(msgspec.Struct):
    """What one page said.

    Args:
        series: points of each figure; a counter's are its growth since the first reading.
        increases: growth of each counter from the first reading to the last.
        reads: how often it was read.
        failures: how often it could not be, by reason.
    """

    url: str
    kind: SourceKind
    series: dict[str, list[Point]]
    increases: dict[str, float]
    reads: int
    failures: dict[str, int]


class Readings(msgspec.Struct):
    """What all pages said; the report's part `beside`.

    Args:
        sources: page by page.
        series: figure -> points, of all pages that have it: engines' requests added up, the fullest KV cache.
        increases: figure -> growth of all pages' counters, from `Beside.start` to `Beside.stop`.
        notes: what the reader of a report must know, in sentences.
    """

    sources: list[SourceReadings]
    series: dict[str, list[Point]]
    increases: dict[str, float]
    notes: list[str]

    @property
    def prefix_hits(self) -> float | None:
        """Prompt tokens that an engine took from its prefix cache; None where no engine says."""
        return self.increases.get("prefix_hit_tokens")

    @property
    def prefix_queries(self) -> float | None:
        """Prompt tokens that were looked for there; None where no engine says."""
        return self.increases.get("prefix_query_tokens")

    def increase(self, figure: str, begins_s: float, ends_s: float) -> float | None:
        """Growth of a counter between two times, such as those of a stage; None where no page has it."""
        grown = [
            growth(source.series[figure], begins_s, ends_s)
            for source in self.sources
            if figure in source.series
        ]
        return sum(grown) if grown else None

    def gpu_cost(self, seconds: float, output_tokens: int, price: Price) -> Cost | None:
        """What the GPUs of the exporters cost over a load of so many seconds and tokens; None where none was read."""
        gpus = [source.series for source in self.sources if source.kind is SourceKind.GPU and source.series]
        if not gpus:
            return None
        energies = [
            energy_j(of.get("gpu_power_w", []), of.get("gpu_energy_mj", []), 0.0, seconds) for of in gpus
        ]
        told = [energy for energy in energies if energy is not None]
        count = sum(round(max(value for _, value in of["gpus"])) for of in gpus if "gpus" in of)
        return cost(sum(told) if told else None, seconds, count, output_tokens, price)


class Beside:
    """Reads pages from `start` to `stop`.

    Args:
        sources: the pages; none is well, and gives empty readings.
        client: opens the connections, and stays open.
        every_s: seconds from one reading to the next.
        read_timeout_s, edge_timeout_s: how long a reading may take, amid the load and at both its ends.
        now_s: the clock of the samples.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        client: EngineClient,
        *,
        every_s: float = EVERY_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        edge_timeout_s: float = EDGE_TIMEOUT_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_timeout_s = read_timeout_s
        self._edge_timeout_s = edge_timeout_s
        self._readers = [_Reader(source, client, every_s, now_s) for source in sources]
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Reads once, waits for that a little, and goes on in the background."""
        await asyncio.gather(*(reader.read(self._edge_timeout_s) for reader in self._readers))
        self._tasks = [asyncio.create_task(reader.watch(self._read_timeout_s)) for reader in self._readers]

    async def stop(self, origin_s: float) -> Readings:
        """Reads a last time, and returns all.

        Args:
            origin_s: the start of the load, on the clock `now_s`.
        """
        for task in self._tasks:
            task.cancel()
        for reader, ended in zip(
            self._readers, await asyncio.gather(*self._tasks, return_exceptions=True), strict=False
        ):
            if isinstance(ended, Exception):
                reader.note(f"the reader itself failed: {ended!r}")
        self._tasks = []
        await asyncio.gather(*(reader.read(self._edge_timeout_s) for reader in self._readers))
        return _joined([reader.readings(origin_s) for reader in self._readers])

    @property
    def now(self) -> dict[str, float]:
        """The newest value of each figure, for a live view; of several engines those that have answered."""
        values: dict[str, list[float]] = {}
        for reader in self._readers:
            for name, value in reader.newest().items():
                values.setdefault(name, []).append(value)
        return {name: figures.BY_NAME[name].together(each) for name, each in values.items()}


class _Reader:
    """Reads one page."""

    def __init__(
        self, source: Source, client: EngineClient, every_s: float, now_s: Callable[[], float]
    ) -> None:
        self._source = source
        self._address, self._target = source.address, source.target
        self._client = client
        self._every_s = every_s
        self._now_s = now_s
        self._series: dict[str, Series] = {}
        self._failures: Counter[str] = Counter()
        self._reads = 0

    async def watch(self, timeout_s: float) -> None:
        """Reads at every tick, within `timeout_s` each, and leaves out those that pass amid a reading."""
        begun_s, ticks = self._now_s(), 0
        while True:
            passed = int((self._now_s() - begun_s) / self._every_s)
            if passed > ticks:
                self._failures["too slow: a reading was left out"] += passed - ticks
            ticks = max(ticks, passed) + 1
            await asyncio.sleep(begun_s + ticks * self._every_s - self._now_s())
            await self.read(timeout_s)

    async def read(self, timeout_s: float) -> None:
        """Reads once, within `timeout_s`."""
        asked_s = self._now_s()
        try:
            reply = await self._client.fetch(
                self._address, b"GET", self._target, headers=list(self._source.headers), timeout_s=timeout_s
            )
        except DeadlineError:
            self.note(f"no answer within {timeout_s:g} s")
            return
        except PenstockError as error:
            self.note(error.message)
            return
        if reply.status != 200:
            self.note(f"answered {reply.status}")
            return
        values = figures.read(reply.body, FIGURES[self._source.kind])
        if not values:
            self.note(f"says nothing that is known of {_OF[self._source.kind]}")
            return
        self._reads += 1
        at_s = (asked_s + self._now_s()) / 2
        for name, value in values.items():
            if name not in self._series:
                self._series[name] = Series(counter=figures.BY_NAME[name].counter)
            self._series[name].add(at_s, value)

    def note(self, reason: str) -> None:
        """Counts a reading that failed."""
        reason = reason[:REASON_CHARS_MAX]
        full = len(self._failures) >= REASONS_MAX and reason not in self._failures
        self._failures["other reasons" if full else reason] += 1

    def newest(self) -> dict[str, float]:
        """The last value of each figure."""
        return {name: series.last[1] for name, series in self._series.items() if series.last is not None}

    def readings(self, origin_s: float) -> SourceReadings:
        """All that was read."""
        points = {name: series.points(origin_s) for name, series in self._series.items()}
        for name, series in self._series.items():
            if series.resets:
                self.note(f"{name} went back: the engine was started anew")
        counters = {name: of for name, of in points.items() if figures.BY_NAME[name].counter}
        increases = {name: growth(of, of[0][0], of[-1][0]) for name, of in counters.items()}
        return SourceReadings(
            self._source.url, self._source.kind, points, increases, self._reads, dict(self._failures)
        )


_OF = {
    SourceKind.ENGINE: "an engine (vLLM, SGLang, llama.cpp)",
    SourceKind.GATEWAY: "a Penstock gateway",
    SourceKind.GPU: "a GPU (DCGM exporter)",
}


def _joined(sources: list[SourceReadings]) -> Readings:
    names = dict.fromkeys(name for source in sources for name in source.series)
    series = {
        name: together(
            [each.series[name] for each in sources if name in each.series], figures.BY_NAME[name].together
        )
        for name in names
    }
    grown = dict.fromkeys(name for source in sources for name in source.increases)
    increases = {name: sum(source.increases.get(name, 0.0) for source in sources) for name in grown}
    notes = [
        f"{source.url}: {times} time{'s' if times > 1 else ''}: {reason} ({source.reads} readings were good)"
        for source in sources
        for reason, times in source.failures.items()
    ]
    return Readings(sources, series, increases, notes)
