"""The proxy that everybody writes first: FastAPI in front, httpx behind. Runs in its own environment, by uvicorn."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx  # type: ignore[import-not-found,unused-ignore] # lives in the environment of this arm alone
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

DROPPED = {"host", "content-length", "connection"}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One client for all requests, without a limit on its connections."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
    async with httpx.AsyncClient(
        base_url=os.environ["BACKEND"], limits=limits, timeout=600, trust_env=False
    ) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    """Sends the request on, and its answer back."""
    body = await request.json()
    headers = {name: value for name, value in request.headers.items() if name not in DROPPED}
    client: httpx.AsyncClient = request.app.state.client
    if not body.get("stream"):
        answer = await client.post("/v1/chat/completions", json=body, headers=headers)
        return Response(answer.content, answer.status_code, media_type=answer.headers["content-type"])

    async def events() -> AsyncIterator[bytes]:
        async with client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
            async for chunk in answer.aiter_bytes():
                yield chunk

    return StreamingResponse(events(), media_type="text/event-stream")
