"""The lines before the models, one each, and how many permits each has to give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus

from penstock.core.config import ModelConfig
from penstock.core.errors import ClientError, Fault, PenstockError
from penstock.gateway.line import Line
from penstock.gateway.replicas import Replicas
from penstock.gateway.settings import Settings
from penstock.policy.admit import capacity_of
from penstock.policy.breaker import Breaker
from penstock.policy.permits import PERMITS_UNKNOWN

# A line without bounds is bounded by the connections that a gateway takes.
UNBOUNDED = 1_000_000


class Lines:
    """Keeps a line for each model; its permits are those of its ready replicas.

    Args:
        permits: requests that this gateway may have at a replica at once, by its name.
        breakers: whether replicas are trusted, by their names.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        settings: Settings,
        replicas: Replicas,
        permits: Mapping[str, int],
        breakers: Mapping[str, Breaker],
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._replicas = replicas
        self._permits = permits
        self._breakers = breakers
        self._clock = clock
        self.by_model: dict[str, Line] = {}
        self.refresh()

    def of(self, model: ModelConfig) -> Line:
        """The line of `model`.

        Raises:
            OverloadError: no replica of `model` is ready; or a reload has just removed it.
        """
        line = self.by_model.get(model.name)
        if line is None or not self.serves(model):
            raise self._replicas.not_ready(model.name)
        return line

    def permits_of(self, replica: str) -> int:
        """Requests that this gateway may have at a replica at once."""
        return self._permits.get(replica, PERMITS_UNKNOWN)

    def serves(self, model: ModelConfig) -> bool:
        """Whether a replica of `model` is ready."""
        return bool(self._replicas.fleet.ready(model.name))

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
            line.set_capacity(capacity_of(ready, self._breakers, self._permits, self._clock()))
        names = {model.name for model in self._settings.models}
        for name in [name for name in self.by_model if name not in names]:
            self.by_model[name].turn_away(partial(_removed, name))
            if not self.by_model[name].permits_out:
                del self.by_model[name]


def _removed(model: str) -> PenstockError:
    """What they are told who waited for a model that there is no more: what everybody is told who asks for it now."""
    error = ClientError(
        f"model {model!r} was removed while this request waited for it",
        code="model_not_found",
        param="model",
        hint="`GET /v1/models` lists the models that are here now",
        status=HTTPStatus.NOT_FOUND,
    )
    error.fault = Fault.GATEWAY  # the client asked for what was there
    return error
