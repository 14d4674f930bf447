"""What a request is charged: reserved and entered in the journal before it is served, settled when it has ended.

The journal's line is written before the client sees the end of its answer: what a client has, was recorded.
"""

from __future__ import annotations

import math
from http import HTTPStatus

from penstock.core.config import ModelConfig
from penstock.core.errors import LimitError
from penstock.core.record import Attempt, Outcome, RequestRecord
from penstock.engines.exchange import Headers
from penstock.gateway.tenants import Caller
from penstock.policy.budget import Cost, Left, Refused, Standing
from penstock.policy.cost import Price, prompt_tokens_expected
from penstock.store.journal import Entry, Journal
from penstock.store.limits import LimitStore, Reservation
from penstock.wire.openai import InferenceRequest


class Charges:
    """Opens charges."""

    def __init__(self, limits: LimitStore, journal: Journal) -> None:
        self.limits = limits
        self.journal = journal
        self._prices: dict[str, tuple[ModelConfig, Price]] = {}

    async def open(
        self, caller: Caller, model: ModelConfig, request: InferenceRequest, record: RequestRecord
    ) -> Charge:
        """Reserves what the request may use at most; to be closed, whatever happens.

        Raises:
            LimitError: a limit of the caller's does not allow it.
        """
        price = self._price(model)
        prompt_tokens = prompt_tokens_expected(len(request.body))
        said = request.completion_tokens_max
        completion_tokens = model.completion_tokens_expected if said is None else said
        cost = Cost(prompt_tokens + completion_tokens, price.usd(prompt_tokens, completion_tokens))
        found = await self.limits.reserve(caller.subjects, cost)
        if isinstance(found, Refused):
            record.limit = found.limit_name
            raise _refusal(found)
        return Charge(self, record, price, prompt_tokens, found)

    def _price(self, model: ModelConfig) -> Price:
        known = self._prices.get(model.name)
        if known is None or known[0] is not model:  # of another configuration
            price = Price(model.price.prompt_usd_per_million, model.price.completion_usd_per_million)
            known = self._prices[model.name] = (model, price)
        return known[1]


class Charge:
    """The charge of one request."""

    __slots__ = ("_actual", "_charges", "_entry", "_price", "_prompt_tokens", "_record", "_reservation")

    def __init__(
        self,
        charges: Charges,
        record: RequestRecord,
        price: Price,
        prompt_tokens: int,
        reservation: Reservation,
    ) -> None:
        self._charges = charges
        self._record = record
        self._price = price
        self._prompt_tokens = prompt_tokens
        self._reservation = reservation
        self._entry: Entry | None = None
        self._actual: Cost | None = None  # of a whole answer whose engine told

    @property
    def tokens(self) -> int:
        """What is reserved: prompt and completion."""
        return self._reservation.cost.tokens

    @property
    def headers(self) -> Headers:
        """How the caller stands with its limits."""
        return standing_headers(self._reservation.standing)

    def begin(self) -> None:
        """Enters the request in the journal, before an engine gets it.

        Raises:
            JournalError: it can't be written, and requests shall then be refused.
        """
        self._entry = self._charges.journal.begin(self._record, self.tokens)

    def end(self) -> None:
        """Enters the whole answer in the journal, before the client sees its end.

        Raises:
            JournalError: as `begin`.
        """
        record = self._record
        record.outcome = Outcome.COMPLETE
        actual = self._reckon()
        self._actual = actual if record.usage.source == "engine" else None
        if self._entry is not None:
            self._charges.journal.end(self._entry, record, self._price)

    async def close(self) -> None:
        """Enters what has become of the request, unless that is done, and charges what it used."""
        actual = self._actual if self._record.outcome is Outcome.COMPLETE else None
        if actual is None:
            actual = self._reckon()
        try:
            if self._entry is not None:
                self._charges.journal.ensure_end(self._entry, self._record, self._price)
        finally:
            if self._record.attempts:
                await self._charges.limits.settle(self._reservation, self._limited(actual))
            else:  # no engine was asked: nothing of it counts
                await self._charges.limits.release(self._reservation)

    def _limited(self, actual: Cost) -> Cost:
        """What the limits count of it.

        The client of a plain call that leaves has got nothing, and the engine, cancelled within 100 ms, tells of
        nothing: how much it had written nobody knows. The ledger and the money hold to what is known, the prompt.
        But tokens a minute are there to protect the engine, which may have worked at all that was asked for: leaving
        early would be a way around them. They take it for what was reserved, as the line does, and are full again
        within the minute.
        """
        record = self._record
        left = record.outcome is Outcome.CANCELLED and not record.stream and record.usage.source != "engine"
        if left and any(map(_has_begun, record.attempts)):
            return Cost(max(actual.tokens, self.tokens), actual.usd)
        return actual

    def _reckon(self) -> Cost:
        """What the request used, as far as anybody knows; it goes on the record."""
        record = self._record
        count_delivered(record)
        usage = record.usage
        prompt_tokens = usage.prompt_tokens
        if prompt_tokens is None:
            prompt_tokens = 0
            if any(_has_begun(attempt) for attempt in record.attempts):
                # the engine began with the prompt, and did not come to tell its length
                prompt_tokens = usage.prompt_tokens = self._prompt_tokens
                usage.source = "events"
        completion_tokens = usage.completion_tokens or 0
        record.cost_usd = self._price.usd(prompt_tokens, completion_tokens)
        return Cost(prompt_tokens + completion_tokens, record.cost_usd)


def _has_begun(attempt: Attempt) -> bool:
    """Whether an engine had the request, and may have worked at it."""
    return attempt.status == HTTPStatus.OK or (attempt.status is None and not attempt.failure)


def count_delivered(record: RequestRecord) -> None:
    """Tokens by the events that were delivered, where the engine did not tell, or not to the end."""
    usage = record.usage
    untold = record.outcome is not Outcome.COMPLETE or usage.source == "none"
    if untold and record.events > (usage.completion_tokens or 0):
        usage.completion_tokens, usage.source = record.events, "events"


def standing_headers(standing: Standing) -> Headers:
    """`x-ratelimit-*`, as OpenAI's API has them, for what is limited."""
    headers: Headers = []
    for kind, left in ((b"requests", standing.requests), (b"tokens", standing.tokens)):
        if left is not None:
            headers += _left_headers(kind, left)
    return headers


def _left_headers(kind: bytes, left: Left) -> Headers:
    return [
        (b"x-ratelimit-limit-" + kind, b"%d" % left.limit),
        (b"x-ratelimit-remaining-" + kind, b"%d" % left.remaining),
        (b"x-ratelimit-reset-" + kind, b"%.3fs" % left.reset_s),
    ]


def _refusal(found: Refused) -> LimitError:
    return LimitError(
        found.message,
        code=found.code,
        hint=found.hint,
        retry_after_s=None if found.retry_after_s is None else max(1, math.ceil(found.retry_after_s)),
        headers=standing_headers(found.standing),
    )
