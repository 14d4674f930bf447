"""How many tokens a text is, by the word of a replica's own tokenizer."""

from __future__ import annotations

from http import HTTPStatus

from penstock.core.errors import EngineError, OverloadError
from penstock.engines.client import EngineClient
from penstock.policy.fleet import Replica
from penstock.wire.tokenize import Tokenizer, tokens_in

# A client waits for the rest of its answer meanwhile; a tokenizer takes milliseconds.
TOKENIZE_TIMEOUT_S = 1.0


async def tokens_of(client: EngineClient, replica: Replica, tokenizer: Tokenizer, text: str) -> int | None:
    """How many tokens `text` is; None where the replica does not tell in time."""
    headers = [(b"content-type", b"application/json")]
    if replica.api_key:
        headers.append((b"authorization", b"Bearer " + replica.api_key.encode()))
    try:
        reply = await client.fetch(
            replica.address,
            b"POST",
            tokenizer.path.encode(),
            headers=headers,
            body=tokenizer.body(replica.model, text),
            timeout_s=TOKENIZE_TIMEOUT_S,
        )
    except (EngineError, OverloadError):
        return None
    return tokens_in(reply.body) if reply.status == HTTPStatus.OK else None
