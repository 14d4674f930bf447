"""The gateway's admin API, for the supervisor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.core.config import Address
from penstock.core.errors import EngineError, PenstockError
from penstock.engines.client import EngineClient
from penstock.policy.fleet import State
from penstock.supervisor.stalled import StalledReplica

ASK_WITHIN_S = 10.0
ANSWER_CHARS_MAX = 500


@dataclass(frozen=True, slots=True)
class SeenReplica:
    """How the gateway sees a replica.

    Args:
        model: that it serves.
        state: in the words of one worker.
        cause: of the state.
        in_flight: requests that it has from all workers.
        ready_at: workers that may give it requests.
    """

    model: str
    state: str
    cause: str
    in_flight: int
    ready_at: int


@dataclass(frozen=True, slots=True)
class SeenFleet:
    """How the gateway sees its replicas, by their names."""

    workers: int
    replicas: Mapping[str, SeenReplica]

    def is_ready(self, name: str) -> bool:
        """Whether every worker may give this replica requests."""
        found = self.replicas.get(name)
        return found is not None and found.ready_at >= self.workers

    def is_idle(self, name: str) -> bool:
        """Whether no worker gives this replica requests, and it has none left."""
        found = self.replicas.get(name)
        return found is None or not (found.ready_at or found.in_flight)


class GatewayAdmin:
    """Asks the gateway.

    Args:
        key: the admin key, as it is now.

    Raises:
        PenstockError: from its methods: it does not answer, or refuses.
    """

    def __init__(self, client: EngineClient, address: Address, key: Callable[[], str]) -> None:
        self._client = client
        self._address = address
        self._key = key

    async def reload(self) -> None:
        """Makes the gateway read its configuration anew."""
        await self._ask(b"POST", b"/admin/reload")

    async def fleet(self) -> SeenFleet:
        """Its view of the replicas."""
        answer = await self._ask(b"GET", b"/admin/fleet")
        return SeenFleet(
            answer["workers"],
            {
                one["name"]: SeenReplica(
                    one["model"], one["state"], one["cause"], one["in_flight"], one["ready_at"]
                )
                for one in answer["replicas"]
            },
        )

    async def stalled(self) -> dict[str, StalledReplica]:
        """The replicas that are stalled, by name."""
        answer = await self._ask(b"GET", b"/admin/fleet")
        return {
            one["name"]: StalledReplica(one["since_s"], one["evidence"])
            for one in answer["replicas"]
            if one["state"] == State.STALLED
        }

    async def _ask(self, method: bytes, path: bytes) -> dict[str, Any]:
        headers = [(b"authorization", b"Bearer " + self._key().encode())]
        try:
            reply = await self._client.fetch(
                self._address, method, path, headers=headers, timeout_s=ASK_WITHIN_S
            )
        except EngineError as error:  # of this client: it is the gateway that does not answer
            raise PenstockError(f"the gateway does not answer: {error.message}", code="not_running") from None
        if reply.status != 200:
            said = reply.body.decode(errors="replace")[:ANSWER_CHARS_MAX]
            raise PenstockError(f"the gateway refuses: {said}", code="gateway_refuses")
        answer: dict[str, Any] = msgspec.json.decode(reply.body)
        return answer
