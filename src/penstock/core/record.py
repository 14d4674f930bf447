"""`RequestRecord`: what happened to one request; made exactly once, filled in as the request goes its way.

Times are seconds on the monotonic clock of the process, but for `started_at`, which is seconds since the epoch.
A time that was never reached is None. Metrics, the log line and every later account are made from this alone.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from penstock.core.times import Times


class Outcome(StrEnum):
    """How a request ended, as its client saw it."""

    COMPLETE = "complete"  # the client has the engine's whole answer
    REJECTED = "rejected"  # an error instead of an answer
    INTERRUPTED = "interrupted"  # part of an answer, then an error event
    CANCELLED = "cancelled"  # the client left first


class Attempt(msgspec.Struct):
    """One try of a request at one replica."""

    replica: str
    reason: str
    started_s: float
    connected_s: float | None = None
    reused_connection: bool = False
    status: int | None = None
    failure: str = ""
    ended_s: float | None = None


class Trace(msgspec.Struct, gc=False):
    """The trace of a request, as W3C numbers it; `parent_id` is its caller's span, 0 where that has none.

    Spans are told apart within their trace alone: those below the request's own follow from its number.
    """

    trace_id: int
    span_id: int
    parent_id: int
    sampled: bool

    def span_below(self, number: int) -> int:
        """The id of the span below this one that has this number, 1 or more; attempts come first, in their order."""
        return self.span_id ^ number


class Usage(msgspec.Struct, gc=False):
    """Tokens of one request; `source` says who counted: the engine, or the gateway from events it delivered."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    source: str = "none"


class RequestRecord(msgspec.Struct):
    """Everything that is known of one request: a struct, which is made several times faster than a dataclass."""

    request_id: str
    method: str
    route: str
    arrived_s: float
    started_at: float
    model: str = ""
    tenant: str = ""
    key_id: str = ""
    stream: bool = False
    answers: int = 1  # that a stream brings side by side
    priority: str = ""  # the class in which it waited
    authenticated_s: float | None = None
    body_read_s: float | None = None
    lined_up_s: float | None = None  # it came to the line, with all that has to be known of it before
    admitted_s: float | None = None
    first_byte_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    ended_s: float | None = None
    attempts: list[Attempt] = []
    status: int = 0
    outcome: Outcome = Outcome.REJECTED
    fault: str = ""
    error_code: str = ""
    limit: str = ""  # the limit of its caller that refused it, by its name in the configuration
    usage: Usage = msgspec.field(default_factory=Usage)
    request_bytes: int = 0
    response_bytes: int = 0
    events: int = 0  # delivered events that brought a token, as far as they were looked at
    gaps: Times | None = None  # between these, where they are measured
    continuations: int = 0  # how often another replica went on with an answer that had begun
    hedged: bool = False  # a second attempt raced the first
    replayed: bool = False  # answered from a stored or running answer: nothing was generated for it
    cost_usd: float = 0.0  # at the configured prices
    trace: Trace | None = None  # where traces are made

    @property
    def replica(self) -> str:
        """The replica of the last attempt, or an empty string."""
        return self.attempts[-1].replica if self.attempts else ""

    @property
    def tokens(self) -> int:
        """Prompt and completion, as far as they were told."""
        return (self.usage.prompt_tokens or 0) + (self.usage.completion_tokens or 0)

    @property
    def told_outcome(self) -> Outcome:
        """The outcome as it is told: an engine's error that came whole is an error all the same."""
        is_error = self.outcome is Outcome.COMPLETE and self.fault
        return Outcome.REJECTED if is_error else self.outcome

    @property
    def duration_s(self) -> float | None:
        """The whole request, from its first byte in to its last byte out."""
        return None if self.ended_s is None else self.ended_s - self.arrived_s

    @property
    def ttft_s(self) -> float | None:
        """From arrival to the first token sent to the client; an empty role chunk is none."""
        return None if self.first_token_s is None else self.first_token_s - self.arrived_s

    @property
    def tpot_s(self) -> float | None:
        """(E2E - TTFT) / (n - 1) of a streamed answer of n tokens, two at least; the mean of several side by side."""
        tokens = (self.usage.completion_tokens or 0) / self.answers
        if self.first_token_s is None or self.last_token_s is None or tokens < 2:
            return None
        return (self.last_token_s - self.first_token_s) / (tokens - 1)

    @property
    def queue_s(self) -> float | None:
        """The wait in line: until its turn came, or until it left; None where it did not come so far."""
        left_s = self.ended_s if self.admitted_s is None else self.admitted_s
        return None if self.lined_up_s is None or left_s is None else left_s - self.lined_up_s

    @property
    def overhead_s(self) -> float | None:
        """Time of the gateway's own before the first attempt: from arrival, without the client's body and the line."""
        if not self.attempts:
            return None
        return self.attempts[0].started_s - self.arrived_s - self._body_s - (self.queue_s or 0.0)

    @property
    def _body_s(self) -> float:
        """For which the client was waited for."""
        if self.body_read_s is None or self.authenticated_s is None:
            return 0.0
        return self.body_read_s - self.authenticated_s
