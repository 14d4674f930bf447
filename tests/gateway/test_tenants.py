"""What a caller may do follows from its key and its tenant together."""

from __future__ import annotations

import pytest

from penstock.core.config import BudgetConfig, ModelConfig, TenantConfig
from penstock.core.errors import AuthError
from penstock.gateway.tenants import Tenants
from penstock.policy.budget import Limits
from penstock.store.keys import ADMIN, Key

M = ModelConfig(name="m", engine="sim")
N = ModelConfig(name="n", engine="sim")


def key(tenant: str = "default", **terms: object) -> Key:
    return Key("k1", "", tenant, "", 0.0, **terms)  # type: ignore[arg-type]  # as each test gives them


def test_a_request_is_counted_against_its_key_and_its_tenant() -> None:
    tenant = TenantConfig(
        name="t", requests_per_minute=5, parallel_requests=2, budget=BudgetConfig(per_day_usd=1.5)
    )

    caller = Tenants([tenant]).caller(key("t", limits=Limits(tokens_per_minute=9), lineage="k0"))

    assert [(subject.id, subject.limits) for subject in caller.subjects] == [
        ("key:k0", Limits(tokens_per_minute=9)),
        ("tenant:t", Limits(requests_per_minute=5, parallel_requests=2, usd_per_day=1.5)),
    ]


def test_the_default_tenant_is_there_without_being_configured_and_can_be() -> None:
    assert Tenants([]).caller(key()).tenant.weight == 1
    assert Tenants([TenantConfig(name="default", weight=3)]).caller(key()).tenant.weight == 3


@pytest.mark.parametrize(
    ("of_key", "of_tenant", "allowed"),
    [((), (), "mn"), (("m",), (), "m"), ((), ("n",), "n"), (("m",), ("m", "n"), "m"), (("m",), ("n",), "")],
)
def test_a_model_must_be_allowed_by_both(
    of_key: tuple[str, ...], of_tenant: tuple[str, ...], allowed: str
) -> None:
    caller = Tenants([TenantConfig(name="t", models=of_tenant)]).caller(key("t", models=of_key))

    assert "".join(model.name for model in (M, N) if caller.may_use(model)) == allowed
    for model in (M, N):
        if model.name not in allowed:
            with pytest.raises(AuthError) as caught:
                caller.check_model(model)
            assert (caught.value.status, caught.value.code) == (403, "model_not_allowed")


@pytest.mark.parametrize(
    ("own", "asked", "priority"),
    [
        ("interactive", "", "interactive"),
        ("interactive", "batch", "batch"),
        ("standard", "interactive", "standard"),
        ("batch", "standard", "batch"),
        ("standard", "nonsense", "standard"),
    ],
)
def test_a_request_may_wait_in_a_lower_class_and_never_in_a_higher(
    own: str, asked: str, priority: str
) -> None:
    tenant = TenantConfig(name="t", priority=own)  # type: ignore[arg-type]  # one of three

    assert Tenants([tenant]).caller(key("t")).priority(asked) == priority


def test_a_key_for_something_else_or_of_nobody_is_no_caller() -> None:
    for unfit, code in ((key(scopes=(ADMIN,)), "scope_missing"), (key("gone"), "tenant_unknown")):
        with pytest.raises(AuthError) as caught:
            Tenants([]).caller(unfit)
        assert (caught.value.status, caught.value.code) == (403, code)
