"""What a replica is asked: whether it is healthy, for a token, and whether its engine makes steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from penstock.core.errors import DeadlineError, EngineError, OverloadError, PenstockError, Phase
from penstock.engines.client import ConnectRefusedError, EngineClient, Reply
from penstock.engines.spec import EngineSpec
from penstock.policy.fleet import Event, Replica
from penstock.wire.exposition import Pulse, read_pulse
from penstock.wire.openai import CHAT, COMPLETIONS, EMBEDDINGS

HEALTH_TIMEOUT_S = 2.0
# How much of an engine's own words is kept as evidence.
EVIDENCE_CHARS_MAX = 200

# The least that an engine can be asked for, by route: not every one has each of them.
_CANARIES: Mapping[str, Mapping[str, Any]] = {
    COMPLETIONS: {"prompt": "Hello", "max_tokens": 1},
    CHAT: {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1},
    EMBEDDINGS: {"input": "Hello"},
}
# How engines say that they do not offer a route.
_NOT_OFFERED = frozenset({400, 404, 405, 501})

# An event, its cause for anybody, and its evidence for whoever runs the replica.
Seen = tuple[Event, str, str]


class Probes:
    """Asks replicas."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client

    async def health(self, replica: Replica, spec: EngineSpec) -> Seen:
        """What its health check tells."""
        try:
            reply = await self._health_page(replica, spec)
        except ConnectRefusedError as error:
            return Event.REFUSED, "nothing answers there", error.message
        except (EngineError, OverloadError) as error:
            if _is_unconnected(error):
                return Event.REFUSED, "no connection to it can be opened", error.message
            self._client.close_idle(replica.address)  # where packets are lost, they would be tried one by one
            return Event.SLOW, "its health check came to no end", error.message  # no proof of anything
        if reply.status == 200:
            return Event.HEALTHY, f"{spec.health_path} says 200", ""
        return Event.UNREADY, f"{spec.health_path} says {reply.status}", _text(reply)

    async def canary(self, replica: Replica, timeout_s: float) -> Seen:
        """What comes of asking it for one token, or one vector where it makes no text."""
        seen: Seen = (Event.MUTE, "answers, but has no route to ask for a token", "")
        for route in _CANARIES:
            reply = await self._post(replica, route, timeout_s)
            if not isinstance(reply, Reply):
                return reply
            if reply.status == 200:
                return Event.WARMED, "a vector came" if route == EMBEDDINGS else "a token came", ""
            if reply.status not in _NOT_OFFERED:
                return Event.CANARY_FAILED, f"its canary got {reply.status}", _text(reply)
            seen = (*seen[:2], _text(reply))
        return seen

    async def pulse(self, replica: Replica, spec: EngineSpec, timeout_s: float) -> tuple[Pulse | None, str]:
        """How far its engine has stepped, where it tells; and what is wrong with the page that should tell it."""
        try:
            reply = await self._get(replica, spec.metrics_path, timeout_s)
        except (EngineError, OverloadError) as error:
            return None, f"{spec.metrics_path}: {error.message}"
        if reply.status >= 500:
            return None, f"{spec.metrics_path} says {reply.status}"
        return read_pulse(reply.body, spec.steps) if reply.status == 200 else None, ""

    async def _health_page(self, replica: Replica, spec: EngineSpec) -> Reply:
        try:
            return await self._get(replica, spec.health_path, HEALTH_TIMEOUT_S)
        except DeadlineError as error:
            if not _is_unconnected(error):
                raise
        # Once may be this process's own doing, or the machine's, that stood still.
        return await self._get(replica, spec.health_path, HEALTH_TIMEOUT_S)

    async def _get(self, replica: Replica, path: str, timeout_s: float) -> Reply:
        return await self._client.fetch(
            replica.address, b"GET", path.encode(), headers=_key_header(replica), timeout_s=timeout_s
        )

    async def _post(self, replica: Replica, route: str, timeout_s: float) -> Reply | Seen:
        try:
            return await self._client.fetch(
                replica.address,
                b"POST",
                route.encode(),
                headers=[(b"content-type", b"application/json"), *_key_header(replica)],
                body=msgspec.json.encode({"model": replica.model, **_CANARIES[route]}),
                timeout_s=timeout_s,
            )
        except ConnectRefusedError as error:
            return Event.REFUSED, "nothing answers there", error.message
        except (EngineError, OverloadError) as error:
            return Event.CANARY_FAILED, "its canary came to no end", error.message


def _is_unconnected(error: PenstockError) -> bool:
    """Whether time was up before there was a connection."""
    return isinstance(error, DeadlineError) and error.phase is Phase.CONNECT


def _text(reply: Reply) -> str:
    return reply.body.decode(errors="replace")[:EVIDENCE_CHARS_MAX]


def _key_header(replica: Replica) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", b"Bearer " + replica.api_key.encode())] if replica.api_key else []
