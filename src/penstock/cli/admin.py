"""How commands ask a running gateway: the admin API of what runs in this home, with this home's admin key."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from penstock.cli.loading import Invocation
from penstock.core.errors import PenstockError

ASK_WITHIN_S = 5.0


class NotRunningError(PenstockError):
    """No gateway answers."""

    code = "not_running"


class Admin:
    """The admin API.

    Raises:
        ConfigError: the configuration has mistakes.
    """

    def __init__(self, here: Invocation) -> None:
        from penstock.store.keys import read_admin_key
        from penstock.store.runtime import lock_holder

        holder = lock_holder(here.home.lock)
        gateway = here.load(quiet=True).config.gateway
        if not (holder and holder.admin) and gateway.admin.port == 0:
            raise NotRunningError(
                "gateway.admin: it has port 0, and only `penstock up` tells in this home which port that became",
                hint="`penstock up` starts one; for a gateway that runs alone, set gateway.admin to a port",
            )
        self.url = holder.admin if holder and holder.admin else f"http://{gateway.admin.reachable()}"
        own_key = gateway.admin_key.get_secret_value() if gateway.admin_key else ""
        self._key = own_key or read_admin_key(here.home.admin_key)

    def get(self, path: str) -> dict[str, Any]:
        """What it says; see `ask`."""
        return self.ask("GET", path)

    def ask(self, method: str, path: str, within_s: float = ASK_WITHIN_S) -> dict[str, Any]:
        """What it answers.

        Raises:
            NotRunningError: nothing answers there.
            PenstockError: what it complains of.
        """
        return asyncio.run(self._ask(method, path, within_s))

    async def _ask(self, method: str, path: str, within_s: float) -> dict[str, Any]:
        from penstock.core.config import Address
        from penstock.core.errors import EngineError
        from penstock.engines.client import EngineClient

        client = EngineClient()
        try:
            reply = await client.fetch(
                Address.parse(self.url.removeprefix("http://")),
                method.encode(),
                path.encode(),
                headers=[(b"authorization", b"Bearer " + self._key.encode())],
                timeout_s=within_s,
            )
        except EngineError as error:
            raise NotRunningError(
                f"no gateway answers at {self.url}: {error.message}",
                hint="`penstock up` starts one; is gateway.admin the same as its own?",
            ) from None
        finally:
            client.close()
        return _read(reply.status, reply.body)


def _read(status: int, body: bytes) -> dict[str, Any]:
    try:
        answer = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        raise PenstockError(f"the admin API answered {status} with no JSON", code="admin_answer") from None
    if status < 400:
        return answer
    error = answer.get("error") or {}
    code = str(error.get("code") or "admin_answer")
    raise PenstockError(str(error.get("message") or status), code=code, hint=str(error.get("hint") or ""))
