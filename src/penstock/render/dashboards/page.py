"""What a dashboard is made of: rows of panels, each with its queries, unit and meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["timeseries", "stat", "table", "bars", "states"]
Source = Literal["prometheus", "clickhouse"]

# Units by Grafana's names for them.
SECONDS, PERCENT, COUNT, PER_SECOND = "s", "percentunit", "short", "reqps"
BYTES, BYTES_PER_SECOND, WATTS, CELSIUS, HERTZ, JOULES, USD, TOKENS_PER_SECOND = (
    *("bytes", "Bps", "watt", "celsius", "hertz", "joule", "currencyUSD", "cps"),
)

MODEL = 'model=~"$model"'


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked, and what each series of the answer is called: `{{label}}` is filled in."""

    text: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Args:
        title: the figure.
        about: what it means, and what to make of it.
        unit: by Grafana's name.
        width: of 24.
        limits: values from which it is yellow, then red; falling ones where little is bad.
        most: where the axis ends; None leaves it open.
        stacked: series add up.
    """

    title: str
    about: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "timeseries"
    width: int = 8
    limits: tuple[float, float] | None = None
    most: float | None = None
    stacked: bool = False
    source: Source = "prometheus"


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """One dashboard; its `uid` is part of its address."""

    uid: str
    title: str
    about: str
    rows: tuple[Row, ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All of them."""
        return tuple(panel for row in self.rows for panel in row.panels)

    @property
    def sources(self) -> frozenset[Source]:
        """The kinds of databases that it asks."""
        return frozenset(panel.source for panel in self.panels)


def quantiles(
    metric: str, by: str = "", more: str = "", *, of: tuple[float, ...] = (0.5, 0.95, 0.99)
) -> tuple[Query, ...]:
    """Quantiles of a histogram of the chosen models, by its boundaries; nothing where nothing was measured."""
    labels = f"le, {by}" if by else "le"
    name = f"{{{{{by}}}}} " if by else ""
    return tuple(
        Query(
            f"histogram_quantile({share}, sum by ({labels}) "
            f"(rate({metric}_bucket{{{MODEL}{more}}}[$__rate_interval]))) >= 0",
            f"{name}p{round(share * 100)}",
        )
        for share in of
    )


def rate(metric: str, by: str, more: str = "") -> str:
    """What a counter of the chosen models grows by in a second."""
    return f"sum by ({by}) (rate({metric}{{{MODEL}{more}}}[$__rate_interval]))"
