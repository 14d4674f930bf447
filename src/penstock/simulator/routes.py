"""The routes of the simulated engine: vLLM's, and two under /sim for tests and drills."""

from __future__ import annotations

import asyncio
import hmac
import time
import uuid
from collections.abc import Callable, Mapping
from http import HTTPStatus
from random import Random
from typing import Any
from urllib.parse import parse_qs

import msgspec

from penstock import __version__
from penstock.simulator.bodies import (
    EmbeddingAsk,
    Refusal,
    encode_vector,
    read_detokenize,
    read_embedding,
    read_fault,
    read_tokenize,
)
from penstock.simulator.chunks import embedding_of, token_ids_of, usage_of
from penstock.simulator.engine_loop import EngineLoop
from penstock.simulator.faults import NO_FAULT, Fault, FaultPlan, parse_fault_rate
from penstock.simulator.generation import Generation
from penstock.simulator.http_connection import Connection, Request
from penstock.simulator.request_log import Entry, RequestLog
from penstock.simulator.settings import SimEngineSettings

_JSON = b"application/json"
_METRICS = b"text/plain; version=0.0.4; charset=utf-8"
_REQUESTS_SHOWN = 20
_GENERATING = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")


class _FaultScript(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /sim/faults; what is left out stays as it is."""

    rates: list[str] | None = None
    fault: str | None = None
    requests: int = 1


class _EmbeddingWait:
    """Embeddings being computed: a timer that the client's leaving cancels."""

    def __init__(self, timer: asyncio.TimerHandle, on_cancel: Callable[[], None]) -> None:
        self._timer = timer
        self._on_cancel = on_cancel

    def block(self) -> None:
        """Nothing is on the wire yet."""

    def wake(self) -> None:
        """Nothing waits for the wire."""

    def cancel(self) -> None:
        """The client has left."""
        self._timer.cancel()
        self._on_cancel()


class _Stalled:
    """A reply that never comes."""

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        self.cancel = on_cancel

    def block(self) -> None:
        """Nothing is on the wire."""

    def wake(self) -> None:
        """Nothing waits for the wire."""


class Routes:
    """Answers requests; the `Site` of its connections.

    Args:
        settings: of the engine.
        refuse: closes the listener for a number of seconds.
    """

    def __init__(self, settings: SimEngineSettings, refuse: Callable[[float], None]) -> None:
        loop = asyncio.get_running_loop()
        self.settings = settings
        self.body_bytes_max = settings.body_bytes_max
        self.connections: set[Connection] = set()
        self.draining = False
        self.gone = asyncio.Event()
        self.engine = EngineLoop(settings.engine_model(), loop)
        self.log = RequestLog(settings.request_log_len)
        # Its own source of chance, so that faults and jitter do not disturb each other.
        self.faults = FaultPlan(settings.fault_rates(), Random(settings.seed ^ 0x5EED))  # noqa: S311
        self._loop = loop
        self._refuse = refuse
        self._generation = Generation(settings, self.engine, self.log)
        self._table: Mapping[str, Mapping[str, Callable[[Connection, Request], None]]] = {
            "/health": {"GET": self._empty},
            "/ping": {"GET": self._empty, "POST": self._empty},
            "/version": {"GET": self._version},
            "/metrics": {"GET": self._metrics},
            "/v1/models": {"GET": self._models},
            "/v1/chat/completions": {"POST": self._generate},
            "/v1/completions": {"POST": self._generate},
            "/v1/embeddings": {"POST": self._generate},
            "/tokenize": {"POST": self._tokenize},
            "/detokenize": {"POST": self._detokenize},
            "/sim/requests": {"GET": self._sim_requests},
            "/sim/faults": {"GET": self._sim_faults, "POST": self._set_sim_faults},
        }

    def joined(self, connection: Connection) -> bool:
        """Notes a new connection; False where it is one too many."""
        self.connections.add(connection)
        return len(self.connections) <= self.settings.connections_max

    def left(self, connection: Connection) -> None:
        """Forgets a connection; the last one to leave is waited for when shutting down."""
        self.connections.discard(connection)
        if self.draining and not self.connections:
            self.gone.set()

    def serve(self, connection: Connection, request: Request) -> None:
        """Answers a request, now or later."""
        handlers = self._table.get(request.path)
        if handlers is None:
            self._send(connection, HTTPStatus.NOT_FOUND, b'{"detail":"Not Found"}')
            return
        handler = handlers.get(request.method)
        if handler is None:
            self._send(connection, HTTPStatus.METHOD_NOT_ALLOWED, b'{"detail":"Method Not Allowed"}')
            return
        if request.path.startswith("/v1/") and not self._authorized(request):
            self._send(connection, HTTPStatus.UNAUTHORIZED, b'{"error":"Unauthorized"}')
            return
        try:
            handler(connection, request)
        except Refusal as refusal:
            self._send_refusal(connection, refusal)
        except Exception as error:
            # A bug in here: said aloud, and answered, so that no client waits for ever.
            self._loop.call_exception_handler({"message": f"{request.path} failed", "exception": error})
            self._send_refusal(
                connection, Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "a bug in the simulator")
            )

    def _authorized(self, request: Request) -> bool:
        key = self.settings.api_key
        scheme, _, token = request.header(b"authorization").partition(" ")
        return not key or (scheme.lower() == "bearer" and hmac.compare_digest(token.encode(), key.encode()))

    # -- generating ---------------------------------------------------------------------------------

    def _generate(self, connection: Connection, request: Request) -> None:
        entry = Entry(uuid.uuid4().hex, request.path, request.headers, request.body, time.time())
        self.log.start(entry)
        try:
            self._generate_logged(connection, request, entry)
        except Refusal as refusal:
            entry.status = refusal.status
            self.log.end(entry, "rejected", time.time())
            raise

    def _generate_logged(self, connection: Connection, request: Request, entry: Entry) -> None:
        asked = read_fault(request.header(b"x-sim-fault"))
        embeds = request.path == "/v1/embeddings"
        ask = (
            read_embedding(request.body, self.settings.max_model_len)
            if embeds
            else self._generation.read(request)
        )
        self._check_model(ask.model)
        fault = self.faults.draw(ask.fault.merged(asked))
        connection.close_unannounced = fault.close_idle
        if self._strikes_first(connection, entry, fault):
            return
        if isinstance(ask, EmbeddingAsk):
            self._embed(connection, entry, ask, fault)
        else:
            self._generation.begin(connection, request, entry, ask, fault)

    def _check_model(self, model: str | None) -> None:
        if model is not None and model not in self.settings.model:
            raise Refusal(HTTPStatus.NOT_FOUND, f"The model `{model}` does not exist.", param="model")

    def _strikes_first(self, connection: Connection, entry: Entry, fault: Fault) -> bool:
        """Does what a fault does before the engine is asked; True where that is all there is."""
        if fault.freeze_s is not None:
            self.engine.freeze(fault.freeze_s)
        if fault.refuse_s is not None:
            self._refuse(fault.refuse_s)
        if fault.reset_before or fault.refuse_s is not None:
            self.log.end(entry, "failed", time.time())
            connection.reset()
            return True
        if fault.status is not None:
            message = f"simulated fault: status {fault.status}"
            raise Refusal(fault.status, message, retry_after_s=fault.retry_after_s)
        return False

    def _embed(self, connection: Connection, entry: Entry, ask: EmbeddingAsk, fault: Fault) -> None:
        def cancelled() -> None:
            self.log.end(entry, "cancelled", time.time())

        if fault.stall_before_first or fault.stall_after_tokens is not None:
            connection.underway = _Stalled(cancelled)
            return
        dimensions = ask.dimensions or self.settings.embedding_dimensions
        if not 1 <= dimensions <= self.settings.embedding_dimensions:
            raise Refusal(
                HTTPStatus.BAD_REQUEST,
                f"dimensions must be 1 to {self.settings.embedding_dimensions}, got {dimensions}.",
                param="dimensions",
            )
        count = sum(map(len, ask.inputs))
        took_s = self.settings.base_step_s + self.settings.prefill_s_per_token * count

        def send() -> None:
            entry.status = HTTPStatus.OK
            body = self._embeddings_body(ask, dimensions, count, usage=not fault.no_usage)
            self.log.end(entry, "finished", time.time())
            self._send(connection, HTTPStatus.OK, body[: len(body) // 2] if fault.malformed else body)

        connection.underway = _EmbeddingWait(self._loop.call_later(took_s, send), cancelled)

    def _embeddings_body(self, ask: EmbeddingAsk, dimensions: int, count: int, *, usage: bool) -> bytes:
        vectors = (embedding_of(tokens, dimensions) for tokens in ask.inputs)
        body: dict[str, Any] = {
            "id": "embd-" + uuid.uuid4().hex,
            "object": "list",
            "created": int(time.time()),
            "model": ask.model or self.settings.model[0],
            "data": [
                {"index": index, "object": "embedding", "embedding": encode_vector(vector, ask.as_base64)}
                for index, vector in enumerate(vectors)
            ],
        }
        if usage:
            body["usage"] = usage_of(count, 0)
        return msgspec.json.encode(body)

    # -- the rest of vLLM's routes ------------------------------------------------------------------

    def _empty(self, connection: Connection, _request: Request) -> None:
        self._send(connection, HTTPStatus.OK, b"")

    def _version(self, connection: Connection, _request: Request) -> None:
        self._send_json(connection, {"version": f"penstock-sim-{__version__}"})

    def _metrics(self, connection: Connection, _request: Request) -> None:
        self._send(connection, HTTPStatus.OK, self.engine.exposition(self.settings.model[0]), _METRICS)

    def _models(self, connection: Connection, _request: Request) -> None:
        cards = [
            {
                "id": name,
                "object": "model",
                "created": int(time.time()),
                "owned_by": "penstock-sim",
                "root": self.settings.model[0],
                "parent": None,
                "max_model_len": self.settings.max_model_len,
            }
            for name in self.settings.model
        ]
        self._send_json(connection, {"object": "list", "data": cards})

    def _tokenize(self, connection: Connection, request: Request) -> None:
        tokens, with_texts = read_tokenize(request.body)
        texts = [token.decode("utf-8", "replace") for token in tokens] if with_texts else None
        self._send_json(
            connection,
            {
                "count": len(tokens),
                "max_model_len": self.settings.max_model_len,
                "tokens": token_ids_of(tokens),
                "token_strs": texts,
            },
        )

    def _detokenize(self, connection: Connection, request: Request) -> None:
        self._send_json(connection, {"prompt": read_detokenize(request.body)})

    # -- for tests and drills -----------------------------------------------------------------------

    def _sim_requests(self, connection: Connection, request: Request) -> None:
        query = parse_qs(request.target.partition("?")[2])
        last = query.get("last", [str(_REQUESTS_SHOWN)])[0]
        if not last.isdecimal():
            raise Refusal(HTTPStatus.BAD_REQUEST, f"last must be a whole number, not {last!r}", param="last")
        self._send_json(connection, self.log.as_json(int(last)))

    def _sim_faults(self, connection: Connection, _request: Request) -> None:
        rates = [rate.text for rate in self.faults.rates]
        self._send_json(connection, {"rates": rates, "requests": self.faults.remaining})

    def _set_sim_faults(self, connection: Connection, request: Request) -> None:
        try:
            script = msgspec.json.decode(request.body, type=_FaultScript)
            rates = None if script.rates is None else tuple(map(parse_fault_rate, script.rates))
        except (msgspec.DecodeError, ValueError) as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, str(error)) from None
        if script.requests < 0:
            raise Refusal(HTTPStatus.BAD_REQUEST, "requests must be at least 0", param="requests")
        fault = read_fault(script.fault)
        if rates is not None:
            self.faults.rates = rates
        if script.fault is not None:
            self.faults.script(fault, script.requests if fault != NO_FAULT else 0)
        self._sim_faults(connection, request)

    # -- sending ------------------------------------------------------------------------------------

    def _send_json(self, connection: Connection, value: object) -> None:
        self._send(connection, HTTPStatus.OK, msgspec.json.encode(value))

    def _send_refusal(self, connection: Connection, refusal: Refusal) -> None:
        more = b"" if refusal.retry_after_s is None else b"retry-after: %d\r\n" % refusal.retry_after_s
        self._send(connection, refusal.status, refusal.body(), more=more)

    @staticmethod
    def _send(
        connection: Connection, status: int, body: bytes, content_type: bytes = _JSON, more: bytes = b""
    ) -> None:
        kind = b"content-type: %b\r\n" % content_type if body else b""
        head = connection.head(status, b"%bcontent-length: %d\r\n%b" % (kind, len(body), more))
        connection.write(head + body)
        connection.end()
