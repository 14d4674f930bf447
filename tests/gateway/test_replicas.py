"""The fleet follows the replicas that shall be there."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from penstock.engines.catalog import SPECS
from penstock.engines.client import Reply
from penstock.gateway.replicas import Replicas, replica_of
from penstock.policy.fleet import Replica, State

WITHIN_S = 20.0


class Server:
    """Serves those who bring its key."""

    def __init__(self, key: str) -> None:
        self.key = key

    async def fetch(self, *_: object, headers: list[tuple[bytes, bytes]], **__: object) -> Reply:
        known = dict(headers).get(b"authorization") == b"Bearer " + self.key.encode()
        return Reply(200 if known else 401, (), b"{}")


def remote(key: str) -> list[Replica]:
    return [replica_of("m-0", "m", "remote", "http://127.0.0.1:9", key)]


def test_a_replica_is_asked_with_the_key_that_is_configured_now() -> None:
    server: Any = Server("new")
    known, left = [remote("old")], []
    replicas = Replicas(
        lambda: known[0],
        frozenset,
        lambda replica: SPECS[replica.engine],
        server,
        lambda before, after: left.append(before) if after.state is State.STOPPED else None,
        lambda _, error: None,
        lambda _: "",
    )

    async def until(state: State) -> None:
        while not (found := replicas.fleet.get("m-0")) or found.state is not state:
            await asyncio.sleep(0.01)

    async def scene() -> None:
        watching = asyncio.create_task(replicas.run())
        async with asyncio.timeout(WITHIN_S):
            await until(State.LOADING)
            known[0] = remote("new")
            await until(State.READY)
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching

    asyncio.run(scene())

    assert left == []
