"""The admin listener: metrics and the fleet. Never public."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Response

from penstock import __version__
from penstock.gateway.api import answer_errors
from penstock.gateway.replicas import Replicas

EXPOSITION_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def build_admin(replicas: Replicas, exposition: Callable[[], bytes]) -> FastAPI:
    """The application; `exposition` makes the text for Prometheus."""
    admin = FastAPI(title="Penstock admin", version=__version__, docs_url=None, redoc_url=None)
    answer_errors(admin)

    async def metrics() -> Response:
        return Response(exposition(), media_type=EXPOSITION_TYPE)

    async def fleet() -> dict[str, Any]:
        return {
            "replicas": [
                {
                    "name": replica.name,
                    "model": replica.model,
                    "engine": replica.engine,
                    "address": str(replica.address),
                    "state": replica.state,
                    "cause": replica.cause,
                    "evidence": replica.evidence,
                    "in_flight": replicas.in_flight.get(replica.name, 0),
                }
                for replica in replicas.fleet.replicas
            ]
        }

    admin.get("/metrics")(metrics)
    admin.get("/admin/fleet")(fleet)
    return admin
