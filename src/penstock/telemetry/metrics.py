"""The page that `/metrics` shows: what was counted of requests, and what others show of themselves.

Both are plain numbers, and become text when the page is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from penstock import __version__
from penstock.core.config import ModelConfig
from penstock.core.record import RequestRecord
from penstock.telemetry import catalog
from penstock.telemetry.families import Family
from penstock.telemetry.process import process_lines
from penstock.telemetry.request_counts import RequestCounts

Source = Callable[[], Iterable[str]]


class Metrics:
    """All that one process shows.

    Args:
        models: those of the configuration.
        on_bug: takes what a source raises; the page is made without it.
    """

    def __init__(self, models: Iterable[ModelConfig], on_bug: Callable[[str, BaseException], None]) -> None:
        self._requests = RequestCounts(models)
        self._on_bug = on_bug
        self._sources: list[Source] = [
            self._requests.lines,
            lambda: catalog.BUILD.lines([((__version__,), 1)]),
            process_lines,
        ]

    def add(self, source: Source) -> None:
        """Shows the lines of one more source, asked for at each scrape."""
        self._sources.append(source)

    def show(self, family: Family, value: Callable[[], float]) -> None:
        """Shows one more number, asked for at each scrape."""
        self.add(lambda: family.single(value()))

    def follow(self, models: Iterable[ModelConfig]) -> None:
        """Goes by another configuration."""
        self._requests.follow(models)

    def observe(self, records: Sequence[RequestRecord]) -> None:
        """Counts requests."""
        for record in records:
            self._requests.observe(record)

    def exposition(self) -> bytes:
        """The text for Prometheus."""
        return "\n".join([*self._lines(), ""]).encode()

    def _lines(self) -> Iterator[str]:
        for source in self._sources:
            try:
                yield from list(source())
            except Exception as error:
                self._on_bug("metrics", error)
