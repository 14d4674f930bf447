"""What is wrong before anything is started: models that can't be launched, addresses that are taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from penstock.core.config import GatewayConfig, ModelConfig, TracesConfig
from penstock.core.errors import PenstockError
from penstock.engines.spec import EngineSpec
from penstock.supervisor.ports import why_not_free


def check_models(
    models: Sequence[ModelConfig],
    specs: Mapping[str, EngineSpec],
    only: Callable[[ModelConfig], bool] = lambda _: True,
    traces: TracesConfig | None = None,
) -> list[str]:
    """Asks each engine kind about its models, `only` those that are to be started; returns what will have no effect.

    Args:
        traces: where their engines send spans of their own.

    Raises:
        PenstockError: with every complaint, one a line.
    """
    asked = [(number, model) for number, model in enumerate(models) if only(model)]
    complaints = [
        f"models.{number}.{said}"
        for number, model in asked
        for said in complaints_of(model, specs[model.engine], traces)
    ]
    if complaints:
        raise PenstockError("\n".join(complaints), code="models_unusable")
    return [f"models.{number}.{said}" for number, model in asked for said in specs[model.engine].warn(model)]


def complaints_of(model: ModelConfig, spec: EngineSpec, traces: TracesConfig | None) -> list[str]:
    """What its engine's kind says is wrong with a model."""
    return [*spec.check(model), *(spec.check_spans(model, traces) if traces else ())]


def check_addresses(gateway: GatewayConfig) -> None:
    """Tries whether the gateway can listen where it shall.

    Raises:
        PenstockError: it can't, on one or both.
    """
    complaints = []
    for name, address in (("gateway.listen", gateway.listen), ("gateway.admin", gateway.admin)):
        reason = why_not_free(address)
        if reason:
            cure = f"stop it or set {name}" if "in use by" in reason else f"set {name}"
            complaints.append(f"{name}: {reason}; {cure}")
    if complaints:
        raise PenstockError("\n".join(complaints), code="address_unusable")
