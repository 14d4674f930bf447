"""What is wrong before anything is started."""

from __future__ import annotations

import socket

import pytest

from penstock.core.config import Address, GatewayConfig, ModelConfig, TracesConfig
from penstock.core.errors import PenstockError
from penstock.engines.spec import EngineSpec
from penstock.supervisor.preflight import check_addresses, check_models


def test_complaints_of_all_models_come_at_once_with_their_places() -> None:
    models = [ModelConfig(name=name, engine="sim") for name in ("a", "b")]
    specs = {"sim": EngineSpec("sim", None, lambda model: [f"source: {model.name} is bent"])}

    with pytest.raises(PenstockError) as caught:
        check_models(models, specs)

    assert caught.value.message == "models.0.source: a is bent\nmodels.1.source: b is bent"


def test_models_without_complaints_pass() -> None:
    check_models([ModelConfig(name="a", engine="sim")], {"sim": EngineSpec("sim", None, lambda _: [])})


def test_what_has_no_effect_is_told_with_its_place() -> None:
    models = [ModelConfig(name=name, engine="sim") for name in ("a", "b")]
    spec = EngineSpec("sim", None, lambda _: [], warn=lambda model: [f"engine_args.{model.name}: idle"])

    told = check_models(models, {"sim": spec}, lambda model: model.name == "b")

    assert told == ["models.1.engine_args.b: idle"]


def test_spans_of_engines_are_asked_about_where_they_shall_be_sent() -> None:
    models = [ModelConfig(name="a", engine="sim")]
    spec = EngineSpec(
        "sim", None, lambda _: [], check_spans=lambda _, traces: [f"engine: not to {traces.url}"]
    )
    traces = TracesConfig(endpoint="http://c:4318/v1/traces", engines=True)

    check_models(models, {"sim": spec})
    with pytest.raises(PenstockError) as caught:
        check_models(models, {"sim": spec}, traces=traces)

    assert caught.value.message == "models.0.engine: not to http://c:4318/v1/traces"


def test_both_addresses_are_tried() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        listen, admin = (Address("127.0.0.1", server.getsockname()[1]) for server in (one, two))

        with pytest.raises(PenstockError) as caught:
            check_addresses(GatewayConfig(listen=listen, admin=admin))

    lines = caught.value.message.splitlines()
    assert [line.split(":")[0] for line in lines] == ["gateway.listen", "gateway.admin"]


def test_free_addresses_pass() -> None:
    check_addresses(GatewayConfig(listen=Address("127.0.0.1", 0), admin=Address("127.0.0.1", 0)))
