"""The admin listener: metrics, everything that can be seen of the gateway, and what can be asked of it.

Never public. All of it but `/metrics` asks for the admin key, or for an API key with the scope `admin`.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi import Path as InPath
from fastapi.security import HTTPBearer

from penstock import __version__
from penstock.core.errors import AuthError, ClientError
from penstock.gateway.api import answer_errors
from penstock.gateway.auth import authenticate, secret_of
from penstock.gateway.overview import Overview
from penstock.store.keys import ADMIN, KeyRing
from penstock.telemetry.families import EXPOSITION_TYPE

ReplicaName = Annotated[str, InPath(max_length=256)]


def build_admin(
    overview: Overview,
    keys: KeyRing,
    admin_key: str,
    exposition: Callable[[], Awaitable[bytes]],
    drain: Callable[[str, bool], None],
    reload: Callable[[], Awaitable[int]],
) -> FastAPI:
    """The application.

    Args:
        exposition: makes the text for Prometheus.
        drain: takes a replica out of service, or puts it back.
        reload: reads the configuration anew; returns its generation.
    """
    admin = FastAPI(title="Penstock admin", version=__version__, docs_url=None, redoc_url=None)
    answer_errors(admin)

    async def metrics() -> Response:
        return Response(await exposition(), media_type=EXPOSITION_TYPE)

    def caller(request: Request) -> None:
        _check_key(request, keys, admin_key)

    routes = _Routes(overview, drain, reload)
    admin.get("/metrics")(metrics)
    guarded: Any = {"dependencies": [Depends(_BEARER), Depends(caller)]}
    for path, look in (
        ("overview", routes.everything),
        ("fleet", routes.fleet),
        ("queues", routes.queues),
        ("limits", routes.limits),
    ):
        admin.get(f"/admin/{path}", **guarded)(look)
    admin.post("/admin/replicas/{name}/drain", **guarded)(routes.drain)
    admin.post("/admin/replicas/{name}/undrain", **guarded)(routes.undrain)
    admin.post("/admin/reload", **guarded)(routes.reload)
    return admin


class _Routes:
    def __init__(
        self,
        overview: Overview,
        drain: Callable[[str, bool], None],
        reload: Callable[[], Awaitable[int]],
    ) -> None:
        self._overview = overview
        self._drain = drain
        self._reload = reload

    async def everything(self) -> dict[str, Any]:
        """Fleet, queues and limits at once."""
        return await self._overview.all()

    async def fleet(self) -> dict[str, Any]:
        """Every replica with its state, and what it is concluded from."""
        view = await self._overview.all()
        return {"workers": view["workers"], "replicas": view["replicas"]}

    async def queues(self) -> dict[str, Any]:
        """The line of every model."""
        return {"queues": (await self._overview.all())["queues"]}

    async def limits(self) -> dict[str, Any]:
        """How every tenant and key stands with its limits."""
        return {"limits": await self._overview.limits()}

    async def drain(self, name: ReplicaName) -> dict[str, Any]:
        """Gives the replica no more requests; those that it has are finished."""
        return self._set_drained(name, drained=True)

    async def undrain(self, name: ReplicaName) -> dict[str, Any]:
        """Puts the replica back into service, once its canary has shown that it works."""
        return self._set_drained(name, drained=False)

    async def reload(self) -> dict[str, Any]:
        """Reads the configuration anew; one with mistakes is refused whole, and changes nothing."""
        return {"generation": await self._reload()}

    def _set_drained(self, name: str, *, drained: bool) -> dict[str, Any]:
        names = [replica["name"] for replica in self._overview.own()["replicas"]]
        if name not in names:
            raise ClientError(
                f"there is no replica {name!r}",
                code="replica_unknown",
                hint=f"replicas: {', '.join(names) or 'none'}",
                status=404,
            )
        self._drain(name, drained)
        return {"replica": name, "drained": drained}


def _check_key(request: Request, keys: KeyRing, admin_key: str) -> None:
    """Lets in who has the admin key, or an API key with the scope `admin`.

    Raises:
        AuthError: neither.
    """
    headers = request.headers.raw
    secret = secret_of(headers)
    if secret and hmac.compare_digest(secret, admin_key.encode()):
        return
    key = authenticate(headers, keys)
    if ADMIN not in key.scopes:
        raise AuthError(
            "this API key does not open the admin API",
            code="scope_missing",
            hint="`penstock keys create --scope admin` makes one that does",
            status=403,
        )


_BEARER = HTTPBearer(auto_error=False, description="The admin key, or an API key with the scope `admin`.")
