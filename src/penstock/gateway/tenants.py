"""What a caller may do, and how it waits: its key and its tenant together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from penstock.core.config import ModelConfig, Priority, TenantConfig
from penstock.core.errors import AuthError
from penstock.core.tenancy import TENANT
from penstock.policy.budget import Limits, Subject
from penstock.store.keys import INFERENCE, Key

# Highest first; a request may ask for a lower one than its tenant's.
PRIORITIES: tuple[Priority, ...] = ("interactive", "standard", "batch")


@dataclass(frozen=True, slots=True)
class Caller:
    """A key that may call for inference.

    Args:
        subjects: what its requests are counted against.
        models: names of the models that it may use; None for all.
    """

    key: Key
    tenant: TenantConfig
    subjects: tuple[Subject, ...]
    models: frozenset[str] | None

    def may_use(self, model: ModelConfig) -> bool:
        """Whether it may use `model`."""
        return self.models is None or model.name in self.models

    def check_model(self, model: ModelConfig) -> None:
        """Refuses a model that it may not use.

        Raises:
            AuthError: 403, it may not.
        """
        if self.models is not None and not self.may_use(model):
            raise AuthError(
                f"this API key may not use model {model.name!r}",
                code="model_not_allowed",
                param="model",
                hint=f"it may use: {', '.join(sorted(self.models)) or 'none'}",
                status=HTTPStatus.FORBIDDEN,
            )

    def priority(self, asked: str) -> Priority:
        """The class in which a request waits that asks for the class `asked`: never above its tenant's."""
        own = self.tenant.priority
        if not asked or asked == own:
            return own
        lower = PRIORITIES[PRIORITIES.index(own) :]
        return next((priority for priority in lower if priority == asked), own)


class Tenants:
    """The configured tenants, and `default`."""

    def __init__(self, tenants: Sequence[TenantConfig]) -> None:
        self._by_name = {TENANT: TenantConfig(name=TENANT), **{tenant.name: tenant for tenant in tenants}}
        self._callers: dict[str, Caller] = {}

    @property
    def by_name(self) -> Mapping[str, TenantConfig]:
        """Every tenant by its name."""
        return self._by_name

    def subject(self, name: str) -> Subject:
        """What the requests of all keys of a tenant are counted against."""
        return Subject(f"tenant:{name}", limits_of(self._by_name[name]))

    def caller(self, key: Key) -> Caller:
        """The caller that `key` stands for.

        Raises:
            AuthError: 403, the key is for something else, or its tenant is no longer configured.
        """
        caller = self._callers.get(key.id)
        if caller is None:
            caller = self._callers[key.id] = self._new(key)
        return caller

    def _new(self, key: Key) -> Caller:
        if INFERENCE not in key.scopes:
            raise AuthError(
                f"this API key is for {', '.join(key.scopes) or 'nothing'}, not for inference",
                code="scope_missing",
                hint="`penstock keys create` makes keys for inference",
                status=HTTPStatus.FORBIDDEN,
            )
        tenant = self._by_name.get(key.tenant)
        if tenant is None:
            raise AuthError(
                f"the tenant {key.tenant!r} of this API key is no longer configured",
                code="tenant_unknown",
                hint="whoever runs this gateway: add it to [[tenants]], or revoke the key",
                status=HTTPStatus.FORBIDDEN,
            )
        subjects = (
            Subject(f"key:{key.counted_as}", key.limits),
            Subject(f"tenant:{tenant.name}", limits_of(tenant)),
        )
        return Caller(key, tenant, subjects, _both(key.models, tenant.models))


def limits_of(tenant: TenantConfig) -> Limits:
    """The limits of all its keys together."""
    return Limits(
        requests_per_minute=tenant.requests_per_minute,
        tokens_per_minute=tenant.tokens_per_minute,
        parallel_requests=tenant.parallel_requests,
        usd_per_day=tenant.budget.per_day_usd,
        usd_per_month=tenant.budget.per_month_usd,
    )


def _both(first: Sequence[str], second: Sequence[str]) -> frozenset[str] | None:
    """What both lists allow; an empty list allows everything."""
    if first and second:
        return frozenset(first) & frozenset(second)
    return frozenset(first or second) or None
