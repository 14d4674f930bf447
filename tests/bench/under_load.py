"""What tests of the load generator share: a loop with a time limit, answers of servers, and requests to send."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from penstock.bench.load.call import Caller
from penstock.bench.load.endpoint import Endpoint
from penstock.bench.load.plan_file import PlanReader, PlanWriter
from penstock.bench.load.timeouts import Timeouts
from penstock.bench.plan import PlannedRequest
from penstock.bench.sample import Sample
from tests.engines.fake_engine import FakeEngine, Peer, Script
from tests.tools import needs

T = TypeVar("T")
# A test that waits longer than this for something has failed.
PATIENCE_S = 20.0
BODY = b'{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":true}}'
CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def run(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns, in time."""

    async def bounded() -> T:
        async with asyncio.timeout(PATIENCE_S):
            return await work

    return uvloop.run(bounded())


def event(**members: Any) -> bytes:
    return b"data: %b\n\n" % json.dumps(members).encode()


def said(text: str, finish: str | None = None, **more: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish}], **more)


def usage(completion: int, prompt: int = 3, **more: Any) -> bytes:
    return event(choices=[], usage={"prompt_tokens": prompt, "completion_tokens": completion, **more})


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def whole(
    body: bytes, status: bytes = b"200 OK", kind: bytes = b"application/json", more: bytes = b""
) -> bytes:
    head = b"HTTP/1.1 %b\r\ncontent-type: %b\r\n%bcontent-length: %d\r\n\r\n"
    return head % (status, kind, more, len(body)) + body


ANSWER = CHUNKED + chunk(said("a")) + chunk(said("b", "stop")) + chunk(usage(2)) + chunk(DONE) + b"0\r\n\r\n"


def answering(reply: bytes = ANSWER) -> Script:
    """Answers every request on a connection with `reply`."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.say(reply)

    return script


def planned(index: int = 0, **more: Any) -> PlannedRequest:
    return PlannedRequest(index=index, body=more.pop("body", BODY), **more)


def endpoint_of(server: FakeEngine, **more: Any) -> Endpoint:
    return Endpoint(host=server.address.host, port=server.address.port, **more)


def caller_of(endpoint: Endpoint, **more: Any) -> Caller:
    timeouts = more.pop("timeouts", Timeouts())
    return Caller(endpoint, timeouts, connections_max=more.pop("connections_max", 64), **more)


async def ask(script: Script, request: PlannedRequest | None = None, **more: Any) -> Sample:
    """What comes of one request to a server that follows `script`."""
    async with FakeEngine(script) as server:
        caller = caller_of(endpoint_of(server), zero_s=asyncio.get_running_loop().time(), **more)
        try:
            return await caller.call(request or planned(), 0.0)
        finally:
            caller.close()


def plan_in(folder: Path, plan: Iterable[PlannedRequest]) -> PlanReader:
    """A whole plan as one process reads it."""
    path = folder / "plan.bin"
    with PlanWriter(iter(plan), [path]) as writer:
        writer.write_ahead([0])
    return PlanReader(path)


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate that nobody has signed but itself, for localhost and 127.0.0.1, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    argv = [
        needs("openssl", "openssl"),
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    ]
    argv += ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)]
    argv += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(argv, check=True, capture_output=True)
    return certificate, key
