"""The lines before the models, one each, and how many permits each has to give."""

from __future__ import annotations

import math
from collections.abc import Callable

from penstock.core.config import ModelConfig
from penstock.core.errors import OverloadError
from penstock.gateway.line import Line
from penstock.gateway.replicas import Replicas
from penstock.gateway.settings import Settings
from penstock.policy.fleet import Replica

# A line without bounds is bounded by the connections that a gateway takes.
UNBOUNDED = 1_000_000
NOT_READY_RETRY_AFTER_S = 2


class Lines:
    """Keeps a line for each model; its permits are those of its ready replicas.

    Args:
        concurrency: requests that a replica may hold at once.
        workers: gateways of this machine, which divide the permits among them.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        settings: Settings,
        replicas: Replicas,
        concurrency: Callable[[Replica], int],
        *,
        workers: int,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._replicas = replicas
        self.concurrency = concurrency
        self._workers = workers
        self._clock = clock
        self.by_model: dict[str, Line] = {}
        self.refresh()

    def of(self, model: ModelConfig) -> Line:
        """The line of `model`; a model that a reload has removed keeps its own while requests hold it."""
        return self.by_model[model.name]

    def serves(self, model: ModelConfig) -> bool:
        """Whether a replica of `model` is ready."""
        return bool(self._replicas.fleet.ready(model.name))

    def require(self, model: ModelConfig) -> None:
        """Refuses a request for a model that nobody can serve now.

        Raises:
            OverloadError: no replica of `model` is ready.
        """
        if not self.serves(model):
            raise OverloadError(
                f"model {model.name!r} is not ready: {self._replicas.fleet.unready_reason(model.name)}",
                code="no_replica_ready",
                hint="try again shortly; `penstock status` shows the replicas",
                retry_after_s=NOT_READY_RETRY_AFTER_S,
            )

    def refresh(self) -> None:
        """Follows the settings and the fleet; to be called whenever either has changed."""
        gateway = self._settings.gateway
        queue_len_max = gateway.queue_len_max if gateway.backpressure else UNBOUNDED
        for model in self._settings.models:
            line = self.by_model.get(model.name)
            if line is None:
                line = self.by_model[model.name] = Line(
                    model.name, queue_len_max=queue_len_max, sheds=gateway.backpressure, clock=self._clock
                )
            line.set_limits(queue_len_max=queue_len_max, sheds=gateway.backpressure)
            ready = self._replicas.fleet.ready(model.name)
            permits = sum(map(self.concurrency, ready))
            line.set_capacity(math.ceil(permits / self._workers))
        names = {model.name for model in self._settings.models}
        for name in [name for name, line in self.by_model.items() if name not in names]:
            if not len(self.by_model[name]) and not self.by_model[name].permits_out:
                del self.by_model[name]
