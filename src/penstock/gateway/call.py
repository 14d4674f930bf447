"""`Call`: one accepted request on its way to an engine."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from penstock.core.config import ModelConfig, Timeouts
from penstock.core.record import RequestRecord
from penstock.engines.exchange import Headers
from penstock.gateway.comments import Comments
from penstock.gateway.relay import Rewrite
from penstock.gateway.responder import Responder
from penstock.gateway.tenants import Caller
from penstock.wire.openai import InferenceRequest


def _nothing() -> None:
    pass


class Call(msgspec.Struct, kw_only=True):
    """What is asked, of which model, and where the answer goes.

    Args:
        timeouts: of each phase, in seconds.
        deadline_s: when all of it must be over, on the clock of the record.
        before_end: called before the client sees the end of its whole answer; may raise PenstockError.
        reply_headers: to add to those of the reply.
        comments: fill the silence of an answer that is streamed; they run until the call is over.
    """

    route: str
    request: InferenceRequest
    model: ModelConfig
    caller: Caller
    headers: Headers
    session: str
    responder: Responder
    record: RequestRecord
    timeouts: Timeouts
    deadline_s: float
    before_end: Callable[[], None] = _nothing
    reply_headers: Headers = []
    comments: Comments | None = None
    rewrite_reply: Rewrite | None = None
    rewrite_event: Rewrite | None = None

    @property
    def tried(self) -> list[str]:
        """The names of the replicas that were asked."""
        return [attempt.replica for attempt in self.record.attempts]
