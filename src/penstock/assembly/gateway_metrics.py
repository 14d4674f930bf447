"""What a gateway process shows of itself at `/metrics`, wired."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from penstock.assembly.gateway_reload import GatewayReload
from penstock.assembly.stores import Stores
from penstock.gateway.api_answers import ApiAnswers
from penstock.gateway.inference import Inference
from penstock.gateway.lines import Lines
from penstock.gateway.replicas import Replicas
from penstock.gateway.routing import Routing
from penstock.gateway.server import GatewayServer
from penstock.gateway.settings import Settings
from penstock.gateway.streams import StreamFigures
from penstock.store.runtime import Refusal
from penstock.telemetry import catalog
from penstock.telemetry.fleet_state import fleet_lines, line_lines
from penstock.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from penstock.telemetry.traces import SpanCounts

LAGS_KEPT = 60


class Health:
    """What went wrong in this process beside its requests."""

    def __init__(self) -> None:
        self.bugs = 0
        self._lags_s: deque[float] = deque(maxlen=LAGS_KEPT)

    def note_lag(self, lag_s: float) -> None:
        """By how much the event loop was late just now; to be told once a second."""
        self._lags_s.append(max(0.0, lag_s))

    @property
    def lag_max_s(self) -> float:
        """The worst of the last minute."""
        return max(self._lags_s, default=0.0)


def show_fleet(
    metrics: Metrics, settings: Settings, replicas: Replicas, lines: Lines, routing: Routing
) -> None:
    """Shows lines and replicas."""
    metrics.add(lambda: line_lines({name: line.snapshot() for name, line in lines.by_model.items()}))
    metrics.add(
        lambda: fleet_lines(
            replicas.fleet,
            replicas.in_flight,
            routing.breakers,
            [model.name for model in settings.models],
            time.monotonic(),
        )
    )


def show_connections(metrics: Metrics, answers: ApiAnswers, server: GatewayServer) -> None:
    """Shows what was answered without an engine, and what was refused before there was a request."""
    metrics.add(lambda: catalog.API_REQUESTS.lines(answers.counts.items()))
    metrics.add(lambda: catalog.REFUSED.lines(((code,), count) for code, count in server.refused.items()))


def show_inference(metrics: Metrics, settings: Settings, inference: Inference) -> None:
    """Shows requests and streams under way."""
    metrics.show(catalog.IN_PROGRESS, lambda: inference.in_progress)
    metrics.show(catalog.DRAINING, lambda: inference.draining)

    def streams() -> Iterator[str]:
        none = {model.name: StreamFigures() for model in settings.models}
        figures = {**none, **inference.stream_figures()}
        yield from catalog.STREAMS.lines(((model,), one.count) for model, one in figures.items())
        yield from catalog.SILENCE.lines(((model,), one.silence_max_s) for model, one in figures.items())

    metrics.add(streams)


def show_stores(metrics: Metrics, stores: Stores) -> None:
    """Shows journal, ledger and what is shared."""
    journal = stores.journal
    metrics.show(catalog.JOURNAL_FAILING, lambda: journal.failing)
    metrics.show(catalog.JOURNAL_KEPT, lambda: journal.kept)
    metrics.show(catalog.JOURNAL_LINES, lambda: journal.lines)
    metrics.show(catalog.LEDGER_FAILING, lambda: stores.ledger_failing)
    metrics.show(catalog.SHARED_STORE_UP, lambda: stores.shared_is_up)

    def damage() -> Iterator[str]:
        torn, unreadable = stores.damage
        return catalog.LEDGER_DAMAGE.lines(((("torn_lines",), torn), (("unreadable_files",), unreadable)))

    metrics.add(damage)
    if (delivery := stores.delivery) is not None:
        metrics.show(catalog.CLICKHOUSE_FAILING, lambda: delivery.failing)
        metrics.show(catalog.CLICKHOUSE_UNSENT, lambda: delivery.unsent_rows)
        metrics.show(catalog.CLICKHOUSE_SENT, lambda: delivery.sent_rows)


def show_health(
    metrics: Metrics, settings: Settings, reload: GatewayReload, refusal: Refusal, health: Health
) -> None:
    """Shows reloads, of the supervisor too, and what went wrong."""
    metrics.show(catalog.GENERATION, lambda: settings.generation)
    metrics.show(catalog.RELOAD_FAILED, lambda: reload.refused_last or bool(refusal.why()))
    metrics.show(catalog.BUGS, lambda: health.bugs)
    metrics.show(catalog.LOOP_LAG, lambda: health.lag_max_s)
    metrics.add(
        lambda: catalog.RELOADS.lines(((("applied",), reload.applied), (("refused",), reload.refused)))
    )


def show_traces(metrics: Metrics, counts: SpanCounts) -> None:
    """Shows what became of spans."""
    metrics.show(catalog.TRACES_SENT, lambda: counts.sent)
    metrics.show(catalog.TRACES_FAILED, lambda: counts.failed)
    metrics.show(catalog.TRACES_DROPPED, lambda: counts.dropped)
