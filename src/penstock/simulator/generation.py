"""A request to generate, from its body to a reply under way in the engine."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from functools import partial
from http import HTTPStatus

from penstock.simulator.answers import answer
from penstock.simulator.bodies import Ask, Refusal, read_chat, read_completion
from penstock.simulator.chunks import StreamFormat, framed, plain_body, unframed
from penstock.simulator.engine_loop import EngineLoop
from penstock.simulator.engine_model import Verdict
from penstock.simulator.faults import Fault
from penstock.simulator.http_connection import Connection, Request
from penstock.simulator.replies import Ending, PlainReply, Reply, StreamReply
from penstock.simulator.request_log import Entry, RequestLog
from penstock.simulator.settings import SimEngineSettings

_ID_PREFIX = {True: "chatcmpl-", False: "cmpl-"}
_JSON = b"content-type: application/json\r\n"
_EVENTS = b"content-type: text/event-stream; charset=utf-8\r\n"


class Generation:
    """Chat and text completions.

    Args:
        settings: of the engine.
        engine: makes the tokens.
        log: notes how requests end.
    """

    def __init__(self, settings: SimEngineSettings, engine: EngineLoop, log: RequestLog) -> None:
        self._settings = settings
        self._engine = engine
        self._log = log
        self._loop = asyncio.get_running_loop()

    def read(self, request: Request) -> Ask:
        """What a request asks for.

        Raises:
            Refusal: something is wrong with it.
        """
        reader = read_chat if request.path == "/v1/chat/completions" else read_completion
        return reader(request.body, self._settings.max_model_len, self._settings.answer_tokens_mean)

    def begin(self, connection: Connection, request: Request, entry: Entry, ask: Ask, fault: Fault) -> None:
        """Puts a request to the engine, and the head of a stream on the wire.

        Raises:
            Refusal: 503, the line is full.
        """
        reply_id = _ID_PREFIX[ask.chat] + (request.header(b"x-request-id") or uuid.uuid4().hex)
        reply = self._reply(connection, request, ask, fault, reply_id, partial(self._ended, entry, ask))
        # Vetoed before the head is out, since a full line is an error reply.
        if self._engine.model.waiting >= self._settings.max_num_waiting:
            self._engine.metrics.rejections += 1
            raise Refusal(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"The waiting queue is full ({self._settings.max_num_waiting} requests).",
                retry_after_s=1,
            )
        entry.status = HTTPStatus.OK
        connection.underway = reply
        if ask.stream:
            transfer = (
                b"transfer-encoding: chunked\r\n" if request.chunked_reply else b"connection: close\r\n"
            )
            connection.write(connection.head(HTTPStatus.OK, _EVENTS + transfer))
        verdict = self._engine.submit(reply, tuple(ask.prompt))
        if verdict is not Verdict.ACCEPTED:
            raise RuntimeError(f"the engine refused a checked request: {verdict}")

    def _reply(
        self,
        connection: Connection,
        request: Request,
        ask: Ask,
        fault: Fault,
        reply_id: str,
        on_end: Callable[[Reply, Ending], None],
    ) -> Reply:
        said = answer(b"".join(ask.prompt), ask.limits)
        key = uuid.uuid4().hex
        model = ask.model or self._settings.model[0]
        created_at = int(time.time())
        later = self._loop.call_later
        if ask.stream:
            form = StreamFormat(
                ask, reply_id, created_at, model, framed if request.chunked_reply else unframed
            )
            quick = not ask.return_token_ids
            return StreamReply(key, said, connection, fault, on_end, later, form, ask.include_usage, quick)

        def render(count: int, finish_reason: str, stop_reason: str | None) -> bytes:
            body = plain_body(
                ask,
                reply_id,
                created_at,
                model,
                said.deltas[:count],
                said.tokens[:count],
                finish_reason,
                stop_reason,
                usage=not fault.no_usage,
            )
            if fault.malformed is not None:
                body = body[: len(body) * 3 // 4]
            return connection.head(HTTPStatus.OK, _JSON + b"content-length: %d\r\n" % len(body)) + body

        return PlainReply(key, said, connection, fault, on_end, later, render)

    def _ended(self, entry: Entry, ask: Ask, reply: Reply, ending: Ending) -> None:
        entry.tokens = reply.due
        self._log.end(entry, ending.value, time.time())
        self._engine.ended(reply, ending, len(ask.prompt))
