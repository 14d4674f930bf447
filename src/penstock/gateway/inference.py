"""The path of a request, on one page: admit, read, hand to `Attempts`, answer errors, record.

A raw ASGI application for every `POST /v1/*` and `POST /generate`. It answers through the connection's
`Responder`, so it runs behind `GatewayProtocol` only.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable

from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, HTTPScope

from penstock.core.config import GatewayConfig
from penstock.core.errors import ClientError, InternalError, OverloadError, PenstockError
from penstock.core.record import Outcome, RequestRecord
from penstock.gateway.attempts import Attempts, Call
from penstock.gateway.auth import authenticate
from penstock.gateway.body import read_body
from penstock.gateway.forwarding import content_type
from penstock.gateway.models import Models
from penstock.gateway.request_id import HEADER, request_id_of
from penstock.gateway.responder import RESPONDER, Responder
from penstock.gateway.responses import error_body, error_headers
from penstock.store.keys import KeyRing
from penstock.wire import generate
from penstock.wire.openai import CHAT, read_request, with_model

GENERATE = "/generate"
DRAINING_RETRY_AFTER_S = 2

_ROUTE = re.compile(r"/v1(/[A-Za-z0-9_-]{1,64}){1,4}")
# These change the engine for everybody; vLLM has them beside the inference routes.
_ENGINE_ADMIN_ROUTES = frozenset({"/v1/load_lora_adapter", "/v1/unload_lora_adapter"})
# The gateway answers this one itself.
_OWN_ROUTES = frozenset({"/v1/models"})


def is_inference(method: str, path: str) -> bool:
    """Whether a request goes to an engine."""
    if method != "POST" or path in _ENGINE_ADMIN_ROUTES or path in _OWN_ROUTES:
        return False
    return path == GENERATE or _ROUTE.fullmatch(path) is not None


class Inference:
    """Serves inference requests.

    Args:
        clock: monotonic seconds.
        finish: takes each record once, after its request has ended.
        on_bug: takes an exception that nobody expected, with the request's id.
    """

    def __init__(
        self,
        config: GatewayConfig,
        models: Models,
        keys: KeyRing,
        attempts: Attempts,
        clock: Callable[[], float],
        finish: Callable[[RequestRecord], None],
        on_bug: Callable[[str, BaseException], None],
    ) -> None:
        self._config = config
        self._models = models
        self._keys = keys
        self._attempts = attempts
        self._clock = clock
        self._finish = finish
        self._on_bug = on_bug
        self._tasks: set[asyncio.Task[None]] = set()
        self.draining = False

    @property
    def in_progress(self) -> int:
        """Requests under way."""
        return len(self._tasks)

    async def drain(self, timeout_s: float, cut_s: float) -> None:
        """Turns new requests away, lets those under way finish, and cuts what is left after `timeout_s`.

        Args:
            cut_s: how long those that are cut may take to tell their clients.
        """
        self.draining = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        cut = [task for task in self._tasks if task.cancel()]
        if cut:
            await asyncio.wait(cut, timeout=cut_s)

    async def __call__(self, scope: HTTPScope, receive: ASGIReceiveCallable, _: ASGISendCallable) -> None:
        """One request, whatever becomes of it."""
        responder: Responder = scope[RESPONDER]  # type: ignore[literal-required]  # our own key
        task: asyncio.Task[None] | None = asyncio.current_task()
        assert task is not None
        responder.on_disconnect = task.cancel
        record = RequestRecord(
            request_id=request_id_of(scope["headers"]),
            method=scope["method"],
            route=scope["path"],
            arrived_s=self._clock(),
            started_at=time.time(),
        )
        self._tasks.add(task)
        try:
            if responder.gone:
                raise asyncio.CancelledError
            call = await self._accept(scope, receive, responder, record)
            await self._attempts.serve(call)
        except asyncio.CancelledError:
            self._cancelled(responder, record)
        except PenstockError as error:
            _refuse(responder, record, error)
        except Exception as error:  # a bug: the client gets no more than that, the log gets all
            self._on_bug(record.request_id, error)
            _refuse(responder, record, InternalError("the gateway failed; this is a bug in Penstock"))
        finally:
            self._tasks.discard(task)
            responder.on_disconnect = responder.on_write_pause = None
            record.ended_s = self._clock()
            _count_delivered(record)
            record.response_bytes = responder.bytes_written
            self._finish(record)

    async def _accept(
        self, scope: HTTPScope, receive: ASGIReceiveCallable, responder: Responder, record: RequestRecord
    ) -> Call:
        """The request, authenticated and read."""
        if self.draining:
            raise _stopping()
        key = authenticate(scope["headers"], self._keys)
        record.key_id, record.tenant = key.id, key.tenant
        _require_json(scope)
        body = await read_body(
            scope,
            receive,
            responder,
            bytes_max=self._config.body_max_bytes,
            timeout_s=self._config.body_timeout_s,
        )
        record.request_bytes = len(body)
        record.body_read_s = self._clock()
        return self._call(scope, responder, record, body)

    def _call(self, scope: HTTPScope, responder: Responder, record: RequestRecord, body: bytes) -> Call:
        route = record.route
        generates = route == GENERATE
        if generates:
            route, body = CHAT, generate.to_chat(body, self._models.default.name)
        request = read_request(route, body)
        model = self._models.find(request.model)
        record.model, record.stream = model.name, request.stream
        return Call(
            route=route,
            request=with_model(request, model.name),
            model=model,
            headers=scope["headers"],
            responder=responder,
            record=record,
            rewrite_reply=generate.from_chat if generates else None,
            rewrite_event=generate.from_chat_event if generates else None,
        )

    def _cancelled(self, responder: Responder, record: RequestRecord) -> None:
        if responder.gone:
            record.outcome = Outcome.CANCELLED
            record.status = record.status or 499  # as nginx logs it; nobody is there to see it
        else:
            _refuse(responder, record, _stopping())


def _refuse(responder: Responder, record: RequestRecord, error: PenstockError) -> None:
    record.fault, record.error_code = error.fault, error.code
    if responder.started:
        record.outcome = Outcome.INTERRUPTED
        responder.fail(error)
        return
    record.outcome, record.status = Outcome.REJECTED, error.status
    headers = [*error_headers(error), (HEADER, record.request_id.encode())]
    responder.respond(error.status, headers, error_body(error))


def _count_delivered(record: RequestRecord) -> None:
    """Tokens by the events that were delivered, where the engine did not tell, or not to the end."""
    usage = record.usage
    untold = record.outcome is not Outcome.COMPLETE or usage.source == "none"
    if untold and record.events > (usage.completion_tokens or 0):
        usage.completion_tokens, usage.source = record.events, "events"


def _require_json(scope: HTTPScope) -> None:
    media_type = content_type(scope["headers"])
    if media_type not in ("", "application/json") and not media_type.endswith("+json"):
        raise ClientError(
            f"content-type {media_type[:64]!r} is not supported",
            code="unsupported_media_type",
            hint="send JSON with the header `Content-Type: application/json`",
            status=415,
        )


def _stopping() -> OverloadError:
    return OverloadError(
        "the gateway is stopping",
        code="draining",
        hint="send the request again; another gateway, or this one once it is back, will take it",
        retry_after_s=DRAINING_RETRY_AFTER_S,
    )
