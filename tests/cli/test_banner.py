"""What `penstock up` prints when it is ready."""

from __future__ import annotations

import json
import shlex

from pydantic import SecretStr

from penstock.cli.banner import banner, curl
from penstock.core.config import Address, Config, GatewayConfig

LISTEN = Address("127.0.0.1", 8080)


def test_a_fresh_key_is_shown_and_is_in_the_line_to_paste() -> None:
    text = banner(Config(), LISTEN, "sk-penstock-1")

    assert "http://127.0.0.1:8080/v1" in text
    assert text.count("sk-penstock-1") == 2


def test_without_a_fresh_key_the_line_takes_it_from_the_environment() -> None:
    text = banner(Config(), LISTEN, "")

    assert '"Authorization: Bearer $PENSTOCK_API_KEY"' in text
    assert "penstock keys create" in text


def test_keys_of_the_configuration_are_named_and_not_shown() -> None:
    config = Config(gateway=GatewayConfig(api_keys=(SecretStr("hidden"),)))

    text = banner(config, LISTEN, "")

    assert "GATEWAY_API_KEYS" in text
    assert "hidden" not in text


def test_the_line_to_paste_survives_a_shell() -> None:
    words = shlex.split(curl("http://h:1", "it's a model", "key"))

    assert json.loads(words[-1])["model"] == "it's a model"
