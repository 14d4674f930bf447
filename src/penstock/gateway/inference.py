"""The path of a request, on one page: admit, read, hand to `Attempts`, answer errors, record.

Serves every `POST /v1/*` and `POST /generate`, started by `GatewayProtocol` with a `Request` and a `Responder`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from functools import partial

from penstock.core.config import ModelConfig
from penstock.core.errors import ClientError, InternalError, OverloadError, PenstockError
from penstock.core.record import Outcome, RequestRecord
from penstock.engines.exchange import Headers
from penstock.gateway.addresses import ClientAddresses
from penstock.gateway.asgi import target_path
from penstock.gateway.attempts import Attempts
from penstock.gateway.auth import authenticate
from penstock.gateway.body import read_body
from penstock.gateway.call import Call
from penstock.gateway.charges import Charge, Charges
from penstock.gateway.deadline import timeout_s
from penstock.gateway.forwarding import media_type
from penstock.gateway.idempotency import EVENT_HEADER, KEY_HEADER, Idempotency
from penstock.gateway.lines import Lines
from penstock.gateway.relay import Comments, fail_stream
from penstock.gateway.request import Request
from penstock.gateway.request_id import HEADER, fit_id
from penstock.gateway.responder import Responder
from penstock.gateway.responses import error_body, error_headers
from penstock.gateway.settings import Settings
from penstock.gateway.streams import StreamFigures, Streams
from penstock.gateway.tenants import Caller
from penstock.gateway.tracing import Tracing
from penstock.store.keys import KeyRing
from penstock.wire import generate, sse
from penstock.wire.openai import CHAT, COMPLETIONS, EMBEDDINGS, read_request, with_model

GENERATE = "/generate"
DRAINING_RETRY_AFTER_S = 2
_STREAM_HEADERS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))

_ROUTE = re.compile(r"/v1(/[A-Za-z0-9_-]{1,64}){1,4}")
# These change the engine for everybody; vLLM has them beside the inference routes.
_ENGINE_ADMIN_ROUTES = frozenset({"/v1/load_lora_adapter", "/v1/unload_lora_adapter"})
# The gateway answers this one itself.
_OWN_ROUTES = frozenset({"/v1/models"})


# Almost every request is for one of these, spelled like this.
_USUAL_ROUTES = {route.encode(): route for route in (CHAT, COMPLETIONS, EMBEDDINGS, GENERATE)}


def inference_route(method: bytes, target: bytes) -> str | None:
    """The route of a request that goes to an engine, else None.

    Raises:
        httptools.HttpParserError, ValueError: `target` is no URL.
    """
    if method != b"POST":
        return None
    usual = _USUAL_ROUTES.get(target)
    if usual is not None:
        return usual
    path = target_path(target)
    if path in _ENGINE_ADMIN_ROUTES or path in _OWN_ROUTES:
        return None
    return path if path == GENERATE or _ROUTE.fullmatch(path) else None


class Inference:
    """Serves inference requests.

    Args:
        addresses: the limits of each client address; None where there are none.
        tracing: begins traces; None where there are none.
        clock: monotonic seconds.
        finish: takes each record once, after its request has ended.
        on_bug: takes an exception that nobody expected, with the request's id.
    """

    def __init__(
        self,
        settings: Settings,
        keys: KeyRing,
        charges: Charges,
        lines: Lines,
        attempts: Attempts,
        idempotency: Idempotency,
        addresses: ClientAddresses | None,
        tracing: Tracing | None,
        clock: Callable[[], float],
        finish: Callable[[RequestRecord], None],
        on_bug: Callable[[str, BaseException], None],
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._charges = charges
        self._lines = lines
        self._attempts = attempts
        self._idempotency = idempotency
        self._addresses = addresses
        self._tracing = tracing
        self._clock = clock
        self._finish = finish
        self._on_bug = on_bug
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams = Streams()
        self.draining = False

    @property
    def in_progress(self) -> int:
        """Requests under way, and answers that are made for clients that have left."""
        return len(self._tasks) + self._idempotency.alone

    def stream_figures(self) -> Mapping[str, StreamFigures]:
        """How the streams under way are, by model."""
        return self._streams.figures(self._clock())

    async def drain(self, timeout_s: float, cut_s: float) -> None:
        """Turns new requests away, lets those under way finish, and cuts what is left after `timeout_s`.

        Args:
            cut_s: how long those that are cut may take to tell their clients.
        """
        self.draining = True
        end_s = self._clock() + timeout_s
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        await self._idempotency.drain(max(0.0, end_s - self._clock()), cut_s)
        cut = [task for task in self._tasks if task.cancel()]
        if cut:
            await asyncio.wait(cut, timeout=cut_s)

    def start(self, request: Request, responder: Responder) -> None:
        """Begins to serve a request, in a task of its own."""
        task = self._loop.create_task(self._serve(request, responder))
        self._tasks.add(task)
        responder.on_disconnect = task.cancel

    async def _serve(self, request: Request, responder: Responder) -> None:
        """One request, whatever becomes of it."""
        record = RequestRecord(
            request_id=fit_id(request.header(HEADER)),
            method=request.method,
            route=request.path,
            arrived_s=self._clock(),
            started_at=time.time(),
        )
        handed_on = False  # its record is finished elsewhere
        try:
            if responder.gone:
                raise asyncio.CancelledError
            body, caller = await self._accept(request, record)
            call = self._call(request, responder, record, caller, body)
            key, event_id = request.header(KEY_HEADER), request.header(EVENT_HEADER)
            has_key = request.names(KEY_HEADER)  # an empty one is refused, not passed over
            request.release()
            if has_key:
                handed_on = await self._idempotency.serve(
                    call, self._run, key=key, last_event_id=event_id, body=body
                )
            else:
                await self._run(call)
                handed_on = True
        except (asyncio.CancelledError, Exception) as error:
            self._end_by(error, responder, record, [])
        finally:
            if not handed_on:
                self._close(responder, record)
            self._tasks.discard(asyncio.current_task(self._loop))

    async def _run(self, call: Call) -> None:
        """Has a call served, and finishes its record; raises nothing."""
        responder, record = call.responder, call.record
        charge = None
        try:
            charge = await self._charges.open(call.caller, call.model, call.request, record)
            call.reply_headers = charge.headers
            await self._admit(call, charge)
        except (asyncio.CancelledError, Exception) as error:
            self._end_by(error, responder, record, call.reply_headers)
        finally:
            responder.on_disconnect = None  # who leaves now does not cut what is to be settled
            try:
                if charge is not None:
                    await charge.close()
            finally:
                self._close(responder, record)

    def _comments(self, call: Call) -> Comments:
        """Fills the silence in line, and until a relay has its own way to."""

        def comment() -> None:
            responder = call.responder
            if not responder.started:
                request_id = call.record.request_id.encode()
                responder.start(200, [*_STREAM_HEADERS, *call.reply_headers, (HEADER, request_id)])
                responder.on_failure = partial(fail_stream, responder)
            if not responder.write_paused:
                responder.write(sse.COMMENT)

        return Comments(self._settings.gateway.comment_every_s, self._clock, comment)

    def _end_by(
        self, error: BaseException, responder: Responder, record: RequestRecord, headers: Headers
    ) -> None:
        """Ends a request that did not come to its own end."""
        if isinstance(error, PenstockError):
            _refuse(responder, record, error, headers)
        elif not isinstance(error, asyncio.CancelledError):
            # a bug: the client gets no more than that, the log gets all
            self._on_bug(record.request_id, error)
            bug = InternalError("the gateway failed; this is a bug in Penstock")
            _refuse(responder, record, bug, headers)
        elif record.outcome is Outcome.COMPLETE:
            pass  # the client was sent all of it, and left while its engine hung up
        elif responder.gone:
            record.outcome = Outcome.CANCELLED
            record.status = record.status or 499  # as nginx logs it; nobody is there to see it
        else:
            _refuse(responder, record, _stopping(), headers)

    def _close(self, responder: Responder, record: RequestRecord) -> None:
        responder.on_disconnect = responder.on_write_pause = None
        record.ended_s = self._clock()
        record.response_bytes = responder.bytes_written
        self._finish(record)

    async def _accept(self, request: Request, record: RequestRecord) -> tuple[bytes, Caller]:
        """The body, and who sends it."""
        if self.draining:
            raise _stopping()
        if self._addresses is not None:
            self._addresses.admit(request.peer, request.header(b"x-forwarded-for"))
        key = authenticate(request.credentials, self._keys)
        record.key_id, record.tenant = key.id, key.tenant
        caller = self._settings.tenants.caller(key)
        record.authenticated_s = self._clock()
        _require_json(request)
        gateway = self._settings.gateway
        body = await read_body(request, bytes_max=gateway.body_max_bytes, timeout_s=gateway.body_timeout_s)
        record.request_bytes = len(body)
        record.body_read_s = self._clock()
        return body, caller

    def _call(
        self, incoming: Request, responder: Responder, record: RequestRecord, caller: Caller, body: bytes
    ) -> Call:
        route = record.route
        generates = route == GENERATE
        models = self._settings.models
        if generates:
            route, body = CHAT, generate.to_chat(body, models.default.name)
        request = read_request(route, body)
        model = self._healthy(models.find(request.model), caller)
        record.model, record.stream, record.answers = model.name, request.stream, request.answers
        record.priority = caller.priority(incoming.header(b"x-priority").decode("latin-1"))
        headers = incoming.onward if self._tracing is None else self._tracing.begin(record, incoming.onward)
        total_s = timeout_s(model.timeouts.total_s, incoming.header(b"x-request-timeout"))
        return Call(
            route=route,
            request=with_model(request, model.name),
            model=model,
            caller=caller,
            headers=headers,
            session=incoming.header(b"x-session-id").decode("latin-1") or request.session,
            responder=responder,
            record=record,
            timeouts=model.timeouts,
            deadline_s=record.arrived_s + total_s,
            rewrite_reply=generate.from_chat if generates else None,
            rewrite_event=generate.from_chat_event if generates else None,
        )

    def _healthy(self, model: ModelConfig, caller: Caller) -> ModelConfig:
        """The model that was asked for, or the first of its fallbacks while no replica of it is healthy."""
        caller.check_model(model)
        if not model.fallbacks or self._lines.serves(model):
            return model
        others = (self._settings.models.find(name) for name in model.fallbacks)
        return next((one for one in others if self._lines.serves(one) and caller.may_use(one)), model)

    async def _admit(self, call: Call, charge: Charge) -> None:
        """Waits for a permit, and has the request served with it."""
        record, tenant = call.record, call.caller.tenant
        line = self._lines.of(call.model)
        if call.request.stream:
            call.comments = self._comments(call)
            self._streams.add(call)
        try:
            record.lined_up_s = self._clock()
            permit = await line.enter(
                tenant.name,
                weight=tenant.weight,
                priority=record.priority,
                cost_tokens=charge.tokens,
                deadline_s=min(call.deadline_s, self._clock() + call.timeouts.queue_s),
            )
            try:
                record.admitted_s = self._clock()
                charge.begin()
                call.before_end = charge.end
                await self._attempts.serve(call)
            finally:
                # one that was cut before its usage was told is taken for what was expected of it
                line.leave(permit, record.tokens if record.usage.source == "engine" else None)
        finally:
            if call.comments is not None:
                call.comments.stop()
                self._streams.remove(call)


def _refuse(responder: Responder, record: RequestRecord, error: PenstockError, headers: Headers) -> None:
    record.fault, record.error_code = error.fault, error.code
    if responder.ended:  # a bug behind the answer: there is nothing left to tell
        return
    if responder.started:
        record.outcome = Outcome.INTERRUPTED
        responder.fail(error)
        return
    record.outcome, record.status = Outcome.REJECTED, error.status
    told = [*error_headers(error), *headers, (HEADER, record.request_id.encode())]
    responder.respond(error.status, told, error_body(error))


def _require_json(request: Request) -> None:
    given = media_type(request.header(b"content-type"))
    if given not in ("", "application/json") and not given.endswith("+json"):
        raise ClientError(
            f"content-type {given[:64]!r} is not supported",
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
