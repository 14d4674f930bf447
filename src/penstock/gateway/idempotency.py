"""`Idempotency-Key`: the same request again gets the same answer, whether that runs, has ended, or runs elsewhere.

Sits between `Inference` and the serving of a call. A generation runs in a task of its own, so that it goes on
when its client leaves; it writes to a `Broadcast`, from which its client and all who repeat the request read.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from hashlib import sha256
from http import HTTPStatus
from typing import NamedTuple, cast

from penstock.core.errors import (
    ClientError,
    Fault,
    InternalError,
    OverloadError,
    PenstockError,
)
from penstock.core.record import Outcome, RequestRecord
from penstock.gateway.broadcast import AnswerTooLargeError, Broadcast
from penstock.gateway.call import Call
from penstock.gateway.reader import Reader, model_deadline_s
from penstock.gateway.responder import Responder
from penstock.store.answers import (
    ANSWER_BYTES_MAX,
    LEASE_S,
    RENEWALS,
    AnswersError,
    AnswerStore,
    Claim,
    Claimed,
    Known,
    Mismatch,
    Running,
    Stored,
)

KEY_HEADER = b"idempotency-key"
EVENT_HEADER = b"last-event-id"
POLL_EVERY_S = 0.1
COMMENT_EVERY_S = 15.0
CUT_S = 1.0
INLINE_BYTES_MAX = 256 * 1024  # of a body: some 100 us to digest
STOPPING_RETRY_AFTER_S = 2

_KEY = re.compile(rb"[\x20-\x7e]{1,255}")
_EVENT_NUMBER = re.compile(rb"[0-9]{1,9}")

Run = Callable[[Call], Awaitable[None]]


class _Scope(NamedTuple):
    """What makes two requests the same."""

    tenant: str
    key: bytes
    fingerprint: bytes


@dataclass(slots=True, eq=False)
class _Shared:
    """One answer that requests here wait for; `record` is of the request for which it is generated, if it is."""

    scope: _Scope
    broadcast: Broadcast
    record: RequestRecord | None = None
    task: asyncio.Task[None] = field(init=False)


class Idempotency:
    """Serves requests that have an idempotency key.

    Args:
        clock: monotonic seconds.
        on_bug: takes an exception that nobody expected, with the request's id.
        on_state: told once for each change: False and why while the store can't be used, or True and nothing. A
            key is then guarded in this process alone, and for as long as its request runs.
        comment_every_s: silence after which a stream that waits for another gateway gets a comment.
        answer_bytes_max: one larger is passed on and not kept.
        poll_every_s: how often an answer is looked for that another gateway makes.
        renew_every_s: how often the claims of what runs here are renewed.
    """

    def __init__(
        self,
        store: AnswerStore,
        clock: Callable[[], float],
        *,
        on_bug: Callable[[str, BaseException], None],
        on_state: Callable[[bool, str], None] = lambda _up, _why: None,
        comment_every_s: float = COMMENT_EVERY_S,
        answer_bytes_max: int = ANSWER_BYTES_MAX,
        poll_every_s: float = POLL_EVERY_S,
        renew_every_s: float = LEASE_S / RENEWALS,
    ) -> None:
        self._store = store
        self._clock = clock
        self._on_bug = on_bug
        self._on_state = on_state
        self._comment_every_s = comment_every_s
        self._answer_bytes_max = answer_bytes_max
        self._poll_every_s = poll_every_s
        self._renew_every_s = renew_every_s
        self._shared: dict[_Scope, _Shared] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: dict[str, Claim] = {}
        self._renewer: asyncio.Task[None] | None = None
        self._store_works = True

    @property
    def in_progress(self) -> int:
        """Answers that are generated or waited for, with clients or without."""
        return len(self._tasks)

    @property
    def alone(self) -> int:
        """Answers that are generated for nobody who waits: their clients have left."""
        return sum(not shared.broadcast.is_read for shared in self._shared.values())

    async def serve(self, call: Call, run: Run, *, key: bytes, last_event_id: bytes, body: bytes) -> bool:
        """Gives the request the answer of its key.

        Args:
            run: has the request served, answers its errors, and finishes its record; must not raise.
            key, last_event_id: the headers; the latter may be empty.
            body: of the request as it came.

        Returns:
            Whether `run` has the call: its record is then finished there, maybe later. Else the record is the
            caller's, as after an exception.

        Raises:
            ClientError: a header is unfit; or the key is another request's; or its answer was not kept.
            DeadlineError: the answer of another gateway did not come in time.
            OverloadError: the gateway stops.
        """
        after = _event_number(call, last_event_id)
        scope = await _scope(call.record, key, body)
        shared = self._shared.get(scope)
        if shared is None or shared.broadcast.is_spent:
            shared = self._open(scope, run)
        reader = Reader(shared.broadcast, call, after, self._clock)
        shared.broadcast.attach(reader)
        expiry = asyncio.get_running_loop().call_later(
            max(0.0, call.deadline_s - self._clock()), reader.expire
        )
        try:
            await self._read(shared, reader)
        finally:
            expiry.cancel()
            shared.broadcast.detach(reader)
        if not reader.owns:
            _account(call.record, shared)
        return reader.owns

    async def drain(self, timeout_s: float, cut_s: float = CUT_S) -> None:
        """Lets what runs finish, with a client or without, and cuts what is left after `timeout_s`."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in self._tasks:
            _cut(task)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=cut_s)

    async def close(self) -> None:
        """Closes the store; to be called after `drain`."""
        if self._renewer is not None:
            self._renewer.cancel()
            await asyncio.wait((self._renewer,))
        await self._store.close()

    async def _read(self, shared: _Shared, reader: Reader) -> None:
        """Waits until the client has all, or has left."""
        try:
            await asyncio.wait((reader.done,))
        except asyncio.CancelledError:
            if not reader.owns:
                raise
            if not reader.call.responder.gone:  # not the client left: the gateway stops
                _cut(shared.task)
                with suppress(asyncio.CancelledError):
                    await asyncio.wait((reader.done,))
            return
        reader.done.result()

    def _open(self, scope: _Scope, run: Run) -> _Shared:
        shared = self._shared[scope] = _Shared(scope, Broadcast(self._answer_bytes_max))
        shared.task = asyncio.get_running_loop().create_task(self._answer(shared, run))
        self._tasks.add(shared.task)
        shared.task.add_done_callback(self._tasks.discard)
        return shared

    async def _answer(self, shared: _Shared, run: Run) -> None:
        """Finds the answer, or has it generated."""
        try:
            found = await self._find(shared)
            if found is None or isinstance(found, Claimed):
                await self._generate(shared, None if found is None else found.claim, run)
        except asyncio.CancelledError:
            shared.broadcast.refuse(_stopping())
            raise
        except PenstockError as error:
            shared.broadcast.refuse(error)
        except Exception as error:  # a bug: the clients get no more than that, the log gets all
            self._on_bug(shared.record.request_id if shared.record else "", error)
            shared.broadcast.refuse(InternalError("the gateway failed; this is a bug in Penstock"))
        finally:
            shared.broadcast.break_off()  # nobody waits for what will not come
            self._forget(shared)

    async def _find(self, shared: _Shared) -> Claimed | Stored | Running | None:
        """A claim, or what was found and given to the readers; None where the store can't be asked.

        Raises:
            ClientError: the key is another request's, or its answer was too large to be kept.
        """
        heard_s = self._clock()
        while True:
            found = await self._claim(shared.scope)
            if isinstance(found, Mismatch):
                raise _reused()
            if isinstance(found, Stored):
                if found.answer is None:
                    raise AnswerTooLargeError
                shared.broadcast.play(found.answer)
            if not isinstance(found, Running) or not shared.broadcast.is_read:
                return found
            await asyncio.sleep(self._poll_every_s)
            if self._clock() - heard_s >= self._comment_every_s:
                shared.broadcast.comment()
                heard_s = self._clock()

    async def _generate(self, shared: _Shared, claim: Claim | None, run: Run) -> None:
        """Has the answer generated, for the first who waits for it; nobody may be left."""
        broadcast = shared.broadcast
        if claim is not None:
            self._hold(claim)
        final = False
        try:
            owner = broadcast.elect()
            if owner is not None:
                shared.record = owner.call.record
                call = copy(owner.call)
                call.responder = cast("Responder", broadcast)
                call.deadline_s = model_deadline_s(call)  # others may wait longer than who came first
                await run(call)
                final = broadcast.is_final and shared.record.outcome is Outcome.COMPLETE
            broadcast.break_off()  # where `run` has left it open
        finally:
            if not final:
                self._forget(shared)
            if claim is not None:
                await self._settle(shared, claim, final=final)

    async def _settle(self, shared: _Shared, claim: Claim, *, final: bool) -> None:
        """Leaves a final answer in place of the claim, or frees its key."""
        del self._held[claim.owner]
        try:
            if final:
                await self._store.complete(claim, shared.broadcast.answer())
            else:
                await self._store.release(claim)
        except AnswersError as error:
            self._store_worked(str(error))

    async def _claim(self, scope: _Scope) -> Claimed | Known | None:
        try:
            found = await self._store.claim(*scope)
        except AnswersError as error:
            self._store_worked(str(error))
            return None
        self._store_worked("")
        return found

    def _hold(self, claim: Claim) -> None:
        self._held[claim.owner] = claim
        if self._renewer is None:
            self._renewer = asyncio.get_running_loop().create_task(self._keep_renewing())

    async def _keep_renewing(self) -> None:
        while self._held:
            await asyncio.sleep(self._renew_every_s)
            try:
                if self._held:
                    await self._store.renew(tuple(self._held.values()))
            except AnswersError as error:
                self._store_worked(str(error))
        self._renewer = None

    def _forget(self, shared: _Shared) -> None:
        if self._shared.get(shared.scope) is shared:
            del self._shared[shared.scope]

    def _store_worked(self, why_not: str) -> None:
        works = not why_not
        if works != self._store_works:
            self._store_works = works
            self._on_state(works, why_not)


async def _scope(record: RequestRecord, key: bytes, body: bytes) -> _Scope:
    """The scope of a request.

    Raises:
        ClientError: the key is unfit.
    """
    if not _KEY.fullmatch(key):
        raise ClientError(
            "Idempotency-Key: expected 1 to 255 printable ASCII characters",
            code="invalid_idempotency_key",
            param="Idempotency-Key",
            hint="use a UUID",
        )
    digest = sha256(record.route.encode() + b"\0")
    if len(body) <= INLINE_BYTES_MAX:
        digest.update(body)
    else:
        await asyncio.to_thread(digest.update, body)
    return _Scope(record.tenant, key, digest.digest())


def _event_number(call: Call, header: bytes) -> int:
    """The number of the last event that the client has.

    Raises:
        ClientError: it is none, or the request is not for a stream.
    """
    if not header:
        return 0
    if not _EVENT_NUMBER.fullmatch(header) or not call.request.stream:
        raise ClientError(
            "Last-Event-ID: expected the number in an `id:` line of the stream that is to be resumed",
            code="invalid_last_event_id",
            param="Last-Event-ID",
            hint="leave it out to have the whole answer",
        )
    return int(header)


def _cut(task: asyncio.Task[None]) -> None:
    """Cancels a generation once: a second time would cut what it has to tidy up."""
    if not task.cancelling():
        task.cancel()


def _account(record: RequestRecord, shared: _Shared) -> None:
    """What became of a request that got the answer of another; nothing was used for it."""
    broadcast = shared.broadcast
    if shared.record is not None:
        record.fault, record.error_code = shared.record.fault, shared.record.error_code
    elif broadcast.status >= 400:
        record.fault, record.error_code = Fault.CLIENT, f"engine_status_{broadcast.status}"
    if broadcast.is_final:
        record.outcome = Outcome.COMPLETE
    elif broadcast.closes or broadcast.cut:
        record.outcome = Outcome.INTERRUPTED
    else:
        record.outcome = Outcome.REJECTED


def _reused() -> ClientError:
    return ClientError(
        "this Idempotency-Key was used with another request",
        code="idempotency_key_reused",
        status=HTTPStatus.UNPROCESSABLE_ENTITY,
        param="Idempotency-Key",
        hint="use a new key for each new request",
    )


def _stopping() -> OverloadError:
    return OverloadError(
        "the gateway is stopping",
        code="draining",
        hint="send the request again, with the same key",
        retry_after_s=STOPPING_RETRY_AFTER_S,
    )
