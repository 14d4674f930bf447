"""What `penstock up` prints when it is ready."""

from __future__ import annotations

import json
import shlex

from penstock.core.config import Address, Config

KEY_VARIABLE = "PENSTOCK_API_KEY"
QUESTION = "What is time to first token?"


def banner(config: Config, listen: Address, secret: str) -> str:
    """The text: where to send requests, with which key, and a line to try.

    Args:
        listen: where the gateway is reached.
        secret: the API key if it was made just now, else empty.
    """
    url = f"http://{listen}"
    if secret:
        key = f"{secret}   (shown this once)"
    elif config.gateway.api_keys:
        key = "one of gateway.api_keys (GATEWAY_API_KEYS)"
    else:
        key = "use a key you have, or `penstock keys create`"
    return "\n".join(
        (
            "",
            "Penstock is ready.",
            f"  Base URL  {url}/v1",
            f"  API key   {key}",
            f"  Models    {', '.join(model.name for model in config.models)}",
            f"  Docs      {url}/docs",
            "",
            "Try it:",
            f"  {curl(url, config.models[0].name, secret)}",
            "",
            "Stop it with Ctrl-C, or `penstock stop`.",
        )
    )


def curl(url: str, model: str, secret: str) -> str:
    """A command that asks one question; without `secret` it takes the key from the environment."""
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}]}
    return (
        f"curl {url}/v1/chat/completions "
        f'-H "Authorization: Bearer {secret or f"${KEY_VARIABLE}"}" '
        f'-H "Content-Type: application/json" -d {shlex.quote(json.dumps(body))}'
    )
