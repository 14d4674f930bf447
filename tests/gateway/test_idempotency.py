"""The same key gets the same answer: it is generated once, whoever leaves, returns, or asks another gateway."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.test_broadcast import JSON, STREAM, Asked, Client
from tests.gateway.test_line import VirtualLoop

from penstock.core.errors import (
    ClientError,
    DeadlineError,
    InternalError,
    OverloadError,
    PenstockError,
    Phase,
)
from penstock.core.record import Outcome, RequestRecord, Usage
from penstock.gateway.call import Call
from penstock.gateway.idempotency import Idempotency
from penstock.gateway.responses import error_body, error_headers
from penstock.store.answers import (
    Answer,
    AnswersError,
    AnswerStore,
    Claim,
    Claimed,
    Known,
    Mismatch,
    Running,
    Stored,
)
from penstock.store.answers_local import LocalAnswers
from penstock.wire.sse import COMMENT, DONE, event

BODY = b'{"model":"m"}'
ONE, TWO, THREE = (event(b'{"n":%d}' % number) for number in (1, 2, 3))
NUMBERED = b"id: 1\n" + ONE + b"id: 2\n" + TWO + b"id: 3\n" + DONE


class MemoryAnswers:
    """A store that several gateways share, on the clock of the loop; `fails` makes it out of reach."""

    def __init__(self, lease_s: float = 30.0) -> None:
        self.entries: dict[tuple[str, bytes], tuple[Claim, float, Stored | None]] = {}
        self.lease_s = lease_s
        self.fails = False
        self.asked = 0
        self.closed = False
        self.gate: asyncio.Event | None = None
        self.release_gate: asyncio.Event | None = None

    async def claim(self, tenant: str, key: bytes, fingerprint: bytes) -> Claimed | Known:
        self.check()
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        entry = self.entries.get((tenant, key))
        if entry is None or (entry[2] is None and entry[1] <= now_s()):
            claim = Claim(tenant, key, fingerprint, f"memory:{self.asked}")
            self.entries[tenant, key] = (claim, now_s() + self.lease_s, None)
            return Claimed(claim)
        if entry[0].fingerprint != fingerprint:
            return Mismatch()
        return entry[2] or Running()

    async def renew(self, claims: Sequence[Claim]) -> None:
        self.check()
        for claim in claims:
            if self._is_held(claim):
                self.entries[claim.tenant, claim.key] = (claim, now_s() + self.lease_s, None)

    async def complete(self, claim: Claim, answer: Answer | None) -> None:
        self.check()
        if self._is_held(claim):
            self.entries[claim.tenant, claim.key] = (claim, 0.0, Stored(answer))

    async def release(self, claim: Claim) -> None:
        self.check()
        if self.release_gate is not None:
            await self.release_gate.wait()
        if self._is_held(claim):
            del self.entries[claim.tenant, claim.key]

    async def close(self) -> None:
        self.closed = True

    def check(self) -> None:
        if self.fails:
            raise AnswersError("no disk")

    def _is_held(self, claim: Claim) -> bool:
        entry = self.entries.get((claim.tenant, claim.key))
        return entry is not None and entry[0] == claim and entry[2] is None


class Gateway:
    """Idempotency as `Inference` uses it, and an engine whose answers the test writes."""

    def __init__(self, store: AnswerStore | None = None, **options: Any) -> None:
        self.store = store or MemoryAnswers()
        self.bugs: list[BaseException] = []
        self.states: list[tuple[bool, str]] = []
        self.idempotency = Idempotency(
            self.store,
            now_s,
            on_bug=lambda _, error: self.bugs.append(error),
            on_state=lambda up, why: self.states.append((up, why)),
            **options,
        )
        self.runs: list[Call] = []
        self.finished: list[RequestRecord] = []
        self.script: Callable[[Call], Awaitable[None]] = self.stands
        self.goes_on = asyncio.Event()

    async def stands(self, call: Call) -> None:
        """A stream of two events, then a pause until `goes_on`, then its end."""
        call.responder.start(200, STREAM)
        call.responder.write(ONE)
        await self.goes_on.wait()
        call.responder.write(TWO + DONE)
        call.responder.end()

    async def run(self, call: Call) -> None:
        self.runs.append(call)
        call.record.usage = Usage(5, 2, "engine")
        try:
            await self.script(call)
            call.record.outcome = Outcome.COMPLETE
        except asyncio.CancelledError:
            refuse(call, OverloadError("stopping"))
        except PenstockError as error:
            refuse(call, error)
        self.finished.append(call.record)

    def ask(self, asked: Asked | None = None, **headers: Any) -> Ask:
        return Ask(self, asked or Asked(), **headers)


def refuse(call: Call, error: PenstockError) -> None:
    if call.responder.started:
        call.record.outcome = Outcome.INTERRUPTED
        call.responder.fail(error)
        return
    call.record.outcome = Outcome.REJECTED
    call.responder.respond(error.status, error_headers(error), error_body(error))


class Ask:
    """One request, in a task as `Inference` has it."""

    def __init__(
        self,
        gateway: Gateway,
        asked: Asked,
        *,
        key: bytes = b"k",
        body: bytes = BODY,
        last: bytes = b"",
        tenant: str = "t",
        route: str = "/v1/chat/completions",
        timeout_s: float = 600.0,
    ) -> None:
        self.client, self.record = asked.responder, asked.record
        self.record.tenant, self.record.route = tenant, route
        self.record.arrived_s = now_s()
        # a dataclass of our own stands for the call: so little of one is looked at
        asked.deadline_s = now_s() + timeout_s
        self.task = asyncio.get_running_loop().create_task(
            gateway.idempotency.serve(
                asked,  # type: ignore[arg-type]
                gateway.run,
                key=key,
                last_event_id=last,
                body=body,
            )
        )

    def leaves(self) -> None:
        self.client.gone = True
        self.task.cancel()

    async def error(self) -> PenstockError:
        with pytest.raises(PenstockError) as caught:
            await self.task
        return caught.value


def renewing() -> bool:
    """Whether some gateway renews its claims."""
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return "Idempotency._keep_renewing" in names


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def settle() -> None:
    """Lets everything happen that can happen now."""
    for _ in range(20):
        await asyncio.sleep(0)


def virtually(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    def wrapper(**parameters: Any) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(**parameters))

    wrapper.__name__ = test.__name__
    wrapper.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return wrapper


# -- once ----------------------------------------------------------------------------------------------


@virtually
async def test_two_at_once_run_once_and_both_get_all() -> None:
    gateway = Gateway()

    first, second = gateway.ask(), gateway.ask()
    await settle()
    gateway.goes_on.set()

    assert await first.task
    assert not await second.task
    assert len(gateway.runs) == 1
    assert first.client.body == second.client.body == NUMBERED
    assert first.client.ended
    assert second.client.ended


@virtually
async def test_a_repetition_amid_it_gets_all_from_the_beginning_and_then_the_rest_live() -> None:
    gateway = Gateway()
    first = gateway.ask()
    await settle()

    second = gateway.ask()
    await settle()

    assert second.client.body == b"id: 1\n" + ONE
    gateway.goes_on.set()
    await first.task
    await second.task
    assert second.client.body == NUMBERED


@virtually
async def test_a_repetition_after_it_gets_the_same_events() -> None:
    gateway = Gateway()
    gateway.goes_on.set()
    first = gateway.ask()
    await first.task
    await settle()

    second = gateway.ask()

    assert not await second.task
    assert len(gateway.runs) == 1
    assert second.client.body == first.client.body == NUMBERED
    assert (b"idempotent-replayed", b"true") in second.client.head
    assert (b"idempotent-replayed", b"true") not in first.client.head
    assert gateway.idempotency.in_progress == 0


@virtually
async def test_a_plain_answer_is_given_again_with_an_id_of_the_request_and_the_body_as_it_was() -> None:
    gateway = Gateway()

    async def script(call: Call) -> None:
        call.responder.respond(200, [*JSON, (b"server-timing", b"auth;dur=1")], b'{"id":"chatcmpl-1"}')

    gateway.script = script
    await gateway.ask(Asked(stream=False)).task
    await settle()

    again = gateway.ask(Asked(stream=False))
    await again.task

    assert again.client.body == b'{"id":"chatcmpl-1"}'
    assert dict(again.client.head) == {
        b"content-type": b"application/json",
        b"content-length": b"19",
        b"x-request-id": b"req_mine",
        b"idempotent-replayed": b"true",
    }


@virtually
async def test_the_record_of_a_generation_is_its_own_and_a_replay_used_nothing() -> None:
    gateway = Gateway()
    first, attached = gateway.ask(), gateway.ask()
    await settle()
    gateway.goes_on.set()
    await asyncio.gather(first.task, attached.task)
    await settle()
    replayed = gateway.ask()
    await replayed.task

    assert gateway.finished == [first.record]
    assert not first.record.replayed
    for record in (attached.record, replayed.record):
        assert record.replayed
        assert record.usage == Usage()
        assert (record.outcome, record.status) == (Outcome.COMPLETE, 200)


# -- leaving and coming back ---------------------------------------------------------------------------


@virtually
async def test_a_client_that_leaves_and_comes_back_goes_on_behind_its_last_event() -> None:
    gateway = Gateway()
    first = gateway.ask()
    await settle()

    first.leaves()
    assert await first.task  # the record is still the generation's
    assert gateway.finished == []
    second = gateway.ask(last=b"1")
    await settle()
    assert second.client.body == b""
    gateway.goes_on.set()
    await second.task

    assert second.client.body == NUMBERED.removeprefix(b"id: 1\n" + ONE)
    assert len(gateway.runs) == 1


@virtually
async def test_a_generation_whose_client_left_goes_on_and_is_kept() -> None:
    gateway = Gateway()
    first = gateway.ask()
    await settle()
    first.leaves()
    await first.task

    gateway.goes_on.set()
    await settle()

    assert gateway.finished == [first.record]
    assert first.record.outcome is Outcome.COMPLETE
    again = gateway.ask(last=b"2")
    await again.task
    assert again.client.body == b"id: 3\n" + DONE


@virtually
async def test_one_who_only_listens_leaves_without_a_trace() -> None:
    gateway = Gateway()
    first, second = gateway.ask(), gateway.ask()
    await settle()

    second.leaves()

    with pytest.raises(asyncio.CancelledError):
        await second.task
    gateway.goes_on.set()
    await first.task
    assert first.client.body == NUMBERED


@virtually
async def test_one_who_leaves_before_anything_ran_leaves_the_key_free() -> None:
    store = MemoryAnswers()
    store.gate = asyncio.Event()
    gateway = Gateway(store)
    first = gateway.ask()
    await settle()

    first.leaves()
    with pytest.raises(asyncio.CancelledError):
        await first.task
    store.gate.set()
    await settle()

    assert gateway.runs == []
    assert store.entries == {}
    assert gateway.idempotency.in_progress == 0


@virtually
async def test_an_answer_that_is_not_there_cannot_be_resumed_and_does_not_run() -> None:
    gateway = Gateway()

    error = await gateway.ask(last=b"3").error()
    await settle()

    assert (error.status, error.code) == (409, "nothing_to_resume")
    assert gateway.runs == []
    gateway.goes_on.set()
    assert await gateway.ask(last=b"0").task


# -- what belongs to a key -----------------------------------------------------------------------------


@pytest.mark.parametrize("other", [{"body": b'{"model":"n"}'}, {"route": "/generate"}])
@virtually
async def test_another_request_with_the_same_key_is_refused_while_it_runs_and_after(
    other: dict[str, Any],
) -> None:
    gateway = Gateway()
    first = gateway.ask()
    await settle()

    during = await gateway.ask(**other).error()
    gateway.goes_on.set()
    await first.task
    await settle()
    after = await gateway.ask(**other).error()

    for error in (during, after):
        assert (error.status, error.code) == (422, "idempotency_key_reused")
    assert len(gateway.runs) == 1


@virtually
async def test_tenants_may_use_the_same_key() -> None:
    gateway = Gateway()
    gateway.goes_on.set()
    await gateway.ask().task
    await settle()

    assert await gateway.ask(tenant="other", body=b"{}").task
    assert len(gateway.runs) == 2


@pytest.mark.parametrize("key", [b"", b"x" * 256, b"x" * 10_000, b"a\tb", b"\xc3\xa4", b"a\x00"])
@virtually
async def test_an_unfit_key_is_refused(key: bytes) -> None:
    error = await Gateway().ask(key=key).error()

    assert (error.status, error.code) == (400, "invalid_idempotency_key")
    assert len(error.message) < 200


@pytest.mark.parametrize("last", [b"-1", b"x", b"1.5", b" ", b"1" * 10, b"\xb2", b"9" * 5000])
@virtually
async def test_an_unfit_last_event_id_is_refused(last: bytes) -> None:
    error = await Gateway().ask(last=last).error()

    assert (error.status, error.code) == (400, "invalid_last_event_id")


@virtually
async def test_only_a_stream_can_be_resumed() -> None:
    error = await Gateway().ask(Asked(stream=False), last=b"1").error()

    assert (error.status, error.code) == (400, "invalid_last_event_id")


@virtually
async def test_a_large_body_is_told_apart_by_its_last_byte() -> None:
    gateway = Gateway()
    gateway.goes_on.set()
    await gateway.ask(body=b"x" * 200_000).task
    await settle()

    assert (await gateway.ask(body=b"x" * 199_999 + b"y").error()).status == 422


# -- what is kept --------------------------------------------------------------------------------------


async def broken_off(call: Call) -> None:
    call.responder.start(200, STREAM)
    call.responder.write(ONE)
    call.responder.write(event(b'{"error":{}}'))
    call.responder.end(close=True)
    raise OverloadError("as relay.fail had it")


async def too_many(call: Call) -> None:
    call.responder.respond(429, JSON, b"{}")


async def failed(call: Call) -> None:
    call.responder.respond(500, JSON, b"{}")


async def refused_by_us(call: Call) -> None:
    raise ClientError("no such thing")


async def forgets(call: Call) -> None:
    """Ends nothing."""


@pytest.mark.parametrize("script", [broken_off, too_many, failed, refused_by_us, forgets])
@virtually
async def test_what_is_not_final_frees_the_key(script: Callable[[Call], Awaitable[None]]) -> None:
    gateway = Gateway()
    gateway.script = script
    first = gateway.ask()
    await first.task

    gateway.script = gateway.stands
    gateway.goes_on.set()
    second = gateway.ask()  # at once: no other may be told what the first was

    assert await second.task
    assert second.client.body == NUMBERED
    assert first.client.ended


@virtually
async def test_one_who_returns_before_a_broken_generation_is_over_gets_another() -> None:
    gateway = Gateway()
    over = asyncio.Event()

    async def script(call: Call) -> None:
        call.responder.start(200, STREAM)
        call.responder.end(close=True)
        await over.wait()
        raise OverloadError("as relay.fail had it")

    gateway.script = script
    first = gateway.ask()
    await first.task
    gateway.script = gateway.stands
    gateway.goes_on.set()
    second = gateway.ask()
    await asyncio.sleep(1.0)

    assert not second.client.started
    over.set()
    assert await second.task
    assert second.client.body == NUMBERED


@virtually
async def test_one_who_returns_before_the_key_is_free_again_does_not_get_the_old_refusal() -> None:
    store = MemoryAnswers()
    store.release_gate = asyncio.Event()
    gateway = Gateway(store)
    gateway.script = refused_by_us
    first = gateway.ask()
    await first.task
    await settle()

    gateway.script = gateway.stands
    gateway.goes_on.set()
    second = gateway.ask()
    await asyncio.sleep(1.0)
    store.release_gate.set()

    assert await second.task
    assert second.client.body == NUMBERED


@virtually
async def test_a_mistake_of_the_request_is_kept() -> None:
    gateway = Gateway()

    async def script(call: Call) -> None:
        call.responder.respond(400, JSON, b'{"error":{}}')

    gateway.script = script
    await gateway.ask().task
    await settle()

    again = gateway.ask()

    assert not await again.task
    assert (again.client.status, again.client.body) == (400, b'{"error":{}}')
    assert (again.record.outcome, again.record.fault) == (Outcome.COMPLETE, "client")
    assert again.record.error_code == "engine_status_400"
    assert len(gateway.runs) == 1


@virtually
async def test_those_attached_get_a_refusal_too() -> None:
    gateway = Gateway()

    async def script(call: Call) -> None:
        await gateway.goes_on.wait()
        raise OverloadError("full", retry_after_s=3)

    gateway.script = script
    first, second = gateway.ask(), gateway.ask()
    await settle()
    gateway.goes_on.set()
    await asyncio.gather(first.task, second.task)

    assert first.client.status == second.client.status == 503
    assert second.record.outcome is Outcome.REJECTED


@virtually
async def test_an_answer_too_large_is_passed_on_and_the_key_says_so() -> None:
    gateway = Gateway(answer_bytes_max=1000)

    async def script(call: Call) -> None:
        call.responder.start(200, STREAM)
        call.responder.write(event(b"x" * 2000))
        await gateway.goes_on.wait()
        call.responder.write(DONE)
        call.responder.end()

    gateway.script = script
    first = gateway.ask()
    await settle()
    during = await gateway.ask().error()
    gateway.goes_on.set()
    await first.task
    await settle()
    after = await gateway.ask().error()

    assert first.client.body.endswith(DONE)
    for error in (during, after):
        assert (error.status, error.code) == (409, "idempotent_answer_too_large")
    assert len(gateway.runs) == 1


# -- elsewhere -----------------------------------------------------------------------------------------


@virtually
async def test_what_runs_elsewhere_is_waited_for_and_replayed() -> None:
    store = MemoryAnswers()
    here, there = Gateway(store), Gateway(store)
    first = here.ask()
    await settle()

    second, third = there.ask(), there.ask(last=b"2")
    await asyncio.sleep(1.0)
    assert not second.client.started
    here.goes_on.set()
    await first.task
    began_s = now_s()
    assert not await second.task
    assert not await third.task

    assert now_s() - began_s <= 0.2
    assert second.client.body == NUMBERED
    assert third.client.body == b"id: 3\n" + DONE
    assert there.runs == []
    assert second.record.replayed


@virtually
async def test_a_stream_that_waits_for_another_gateway_hears_comments() -> None:
    store = MemoryAnswers()
    here, there = Gateway(store), Gateway(store, comment_every_s=15.0)
    first = here.ask()
    await settle()

    second, plain = there.ask(), there.ask(Asked(stream=False))
    await asyncio.sleep(40.0)
    here.goes_on.set()
    await asyncio.gather(first.task, second.task, plain.task)

    assert second.client.body == COMMENT + COMMENT + NUMBERED
    assert plain.client.body == NUMBERED


@virtually
async def test_an_owner_that_died_is_taken_over_from() -> None:
    store = MemoryAnswers(lease_s=30.0)
    await store.claim("t", b"k", await fingerprint_of(store))
    gateway = Gateway(store)
    gateway.goes_on.set()

    asked = gateway.ask()
    assert await asked.task

    assert 29.0 < now_s() < 31.0
    assert asked.client.body.endswith(NUMBERED)
    assert gateway.finished == [asked.record]
    assert not asked.record.replayed


async def fingerprint_of(store: MemoryAnswers) -> bytes:
    """What a plain `ask` is known by."""
    probe = MemoryAnswers()
    gateway = Gateway(probe)
    gateway.goes_on.set()
    await gateway.ask().task
    ((claim, _, _),) = probe.entries.values()
    return claim.fingerprint


@virtually
async def test_a_claim_is_renewed_for_as_long_as_it_runs_and_no_longer() -> None:
    store = MemoryAnswers(lease_s=30.0)
    here, there = Gateway(store), Gateway(store)
    first = here.ask()
    await asyncio.sleep(100.0)
    assert renewing()

    second = there.ask()
    await asyncio.sleep(1.0)

    assert there.runs == []
    here.goes_on.set()
    await first.task
    await second.task
    await asyncio.sleep(11.0)
    assert not renewing()


@virtually
async def test_one_who_waits_for_another_gateway_gives_up_at_its_deadline() -> None:
    store = MemoryAnswers()
    here, there = Gateway(store), Gateway(store)
    first = here.ask()
    await settle()

    waits = there.ask(timeout_s=5.0)
    error = await waits.error()

    assert isinstance(error, DeadlineError)
    assert now_s() == pytest.approx(5.0)
    await asyncio.sleep(1.0)
    assert there.idempotency.in_progress == 0
    first.leaves()
    here.goes_on.set()
    await first.task


@pytest.mark.parametrize("owner_s", [5.0, 7.0])
@virtually
async def test_each_client_waits_by_its_own_time_and_the_generation_goes_on(owner_s: float) -> None:
    gateway = Gateway()
    owner, attached = gateway.ask(timeout_s=owner_s), gateway.ask(timeout_s=6.0)

    error = await attached.error()
    attached.client.fail(error)
    assert now_s() == pytest.approx(6.0)
    assert await owner.task

    assert now_s() == pytest.approx(max(6.0, owner_s))
    for client in (owner.client, attached.client):
        assert client.body.startswith(b"id: 1\n" + ONE + b'data: {"error":')
        assert client.closed
    assert gateway.runs[0].deadline_s == 600.0
    assert gateway.finished == []
    late = gateway.ask()
    await settle()
    gateway.goes_on.set()
    await late.task
    assert late.client.body == NUMBERED
    assert len(gateway.runs) == 1


@virtually
async def test_an_owner_whose_time_is_over_before_the_head_is_told_so() -> None:
    gateway = Gateway()

    async def waits(call: Call) -> None:
        await gateway.goes_on.wait()
        call.responder.respond(200, JSON, b"{}")

    gateway.script = waits
    owner = gateway.ask(Asked(stream=False), timeout_s=2.0)

    assert await owner.task

    assert now_s() == pytest.approx(2.0)
    assert (owner.client.status, b"total_timeout" in owner.client.body) == (504, True)
    gateway.goes_on.set()
    again = gateway.ask(Asked(stream=False))
    await again.task
    assert (again.client.status, again.client.body) == (200, b"{}")
    assert [record.outcome for record in gateway.finished] == [Outcome.COMPLETE]


@virtually
async def test_an_owner_that_asked_for_no_less_than_the_model_gives_is_told_by_the_generation() -> None:
    gateway = Gateway()

    async def ends_late(call: Call) -> None:
        await asyncio.sleep(call.deadline_s - now_s())
        raise DeadlineError("the engine took too long", phase=Phase.TOTAL)

    gateway.script = ends_late
    owner = gateway.ask(Asked(stream=False))

    assert await owner.task

    assert b"the engine took too long" in owner.client.body


# -- trouble -------------------------------------------------------------------------------------------


@virtually
async def test_without_a_store_the_key_is_guarded_here_and_that_is_told_once() -> None:
    store = MemoryAnswers()
    store.fails = True
    gateway = Gateway(store)

    first, second = gateway.ask(), gateway.ask()
    await settle()
    gateway.goes_on.set()
    await asyncio.gather(first.task, second.task)
    await settle()

    assert len(gateway.runs) == 1
    assert second.client.body == NUMBERED
    assert gateway.states == [(False, "no disk")]
    store.fails = False
    await gateway.ask().task
    assert gateway.states == [(False, "no disk"), (True, "")]


@virtually
async def test_a_store_that_fails_amid_it_spoils_no_answer() -> None:
    store = MemoryAnswers()
    gateway = Gateway(store)
    first = gateway.ask()
    await settle()
    store.fails = True

    await asyncio.sleep(25.0)
    gateway.goes_on.set()
    await first.task
    await settle()

    assert first.client.body == NUMBERED
    assert gateway.states == [(False, "no disk")]
    assert gateway.bugs == []


@virtually
async def test_a_bug_is_told_and_nobody_waits_for_ever() -> None:
    gateway = Gateway()

    async def script(call: Call) -> None:
        raise ValueError

    gateway.script = script
    first, second = gateway.ask(), gateway.ask()
    await asyncio.gather(first.task, second.task, return_exceptions=True)
    await settle()

    assert [type(bug) for bug in gateway.bugs] == [ValueError]
    for asked in (first, second):
        assert isinstance(asked.task.exception(), InternalError)
    gateway.script = gateway.stands
    gateway.goes_on.set()
    assert await gateway.ask().task


@virtually
async def test_draining_waits_for_generations_without_a_client() -> None:
    gateway = Gateway()
    first = gateway.ask()
    await settle()
    first.leaves()
    await first.task

    draining = asyncio.ensure_future(gateway.idempotency.drain(30.0))
    await asyncio.sleep(5.0)
    assert not draining.done()
    gateway.goes_on.set()
    await draining

    assert now_s() == pytest.approx(5.0)
    assert first.record.outcome is Outcome.COMPLETE


@virtually
async def test_what_outlasts_the_drain_is_cut_and_its_clients_and_the_key_know() -> None:
    store = MemoryAnswers()
    gateway = Gateway(store)
    owner, attached = gateway.ask(), gateway.ask()
    await settle()

    await gateway.idempotency.drain(30.0)
    await asyncio.gather(owner.task, attached.task)

    assert now_s() == pytest.approx(30.0)
    assert owner.client.broken
    assert attached.client.broken
    assert attached.record.outcome is Outcome.INTERRUPTED
    assert gateway.finished == [owner.record]
    assert store.entries == {}


@virtually
async def test_the_owner_cut_by_its_gateway_has_its_generation_cut() -> None:
    gateway = Gateway()
    owner = gateway.ask()
    await settle()

    owner.task.cancel()

    assert await owner.task
    assert owner.client.broken
    assert gateway.finished == [owner.record]


@virtually
async def test_a_generation_that_is_cut_from_two_sides_may_tidy_up() -> None:
    gateway = Gateway()
    tidied: list[bool] = []

    async def script(call: Call) -> None:
        try:
            await gateway.goes_on.wait()
        finally:
            await asyncio.sleep(0.1)
            tidied.append(True)

    gateway.script = script
    owner = gateway.ask()
    await settle()

    draining = asyncio.ensure_future(gateway.idempotency.drain(1.0))
    await asyncio.sleep(1.05)
    owner.task.cancel()

    assert await owner.task
    await draining
    assert tidied == [True]
    assert owner.client.status == 503


@virtually
async def test_a_cut_owner_whose_client_takes_nothing_is_let_go() -> None:
    gateway = Gateway()
    owner = gateway.ask(Asked(Client(room=1)))
    await settle()
    gateway.runs[0].responder.write(event(b"more than it takes"))
    owner.task.cancel()
    await settle()

    owner.task.cancel()

    assert await owner.task
    assert gateway.finished == [owner.record]


@virtually
async def test_one_who_waits_for_another_gateway_is_told_of_the_stop() -> None:
    store = MemoryAnswers()
    here, there = Gateway(store), Gateway(store)
    first = here.ask()
    await settle()
    waits = there.ask()
    await settle()

    await there.idempotency.drain(1.0)

    assert (await waits.error()).code == "draining"
    here.goes_on.set()
    await first.task


@virtually
async def test_closing_ends_the_renewal_and_the_store() -> None:
    store = MemoryAnswers()
    gateway = Gateway(store)
    first = gateway.ask()
    await settle()

    await gateway.idempotency.close()

    assert store.closed
    assert not renewing()
    first.leaves()
    gateway.goes_on.set()
    await first.task


@virtually
async def test_a_slow_client_does_not_hold_up_its_generation() -> None:
    gateway = Gateway()
    slow = gateway.ask(Asked(Client(room=1)))
    await settle()
    gateway.goes_on.set()
    await settle()

    assert gateway.finished == [slow.record]
    assert not slow.task.done()
    slow.client.take()
    assert await slow.task
    assert slow.client.body == NUMBERED


# -- with a file ---------------------------------------------------------------------------------------


def test_two_workers_with_one_file_run_a_request_once(tmp_path: Path) -> None:
    async def scene() -> None:
        stores = [LocalAnswers(tmp_path / "a", time.time) for _ in range(2)]
        here, there = (Gateway(store, poll_every_s=0.005) for store in stores)
        asks = [gateway.ask(body=b"x" * 500_000) for gateway in (here, there) * 5]
        while not (here.runs or there.runs):
            await asyncio.sleep(0.005)
        here.goes_on.set()
        there.goes_on.set()
        owners = await asyncio.gather(*(ask.task for ask in asks))

        assert len(here.runs) + len(there.runs) == 1
        assert sum(owners) == 1
        assert {ask.client.body for ask in asks} == {NUMBERED}
        for gateway in (here, there):
            await gateway.idempotency.drain(5.0)
            await gateway.idempotency.close()

    asyncio.run(asyncio.wait_for(scene(), 20.0))


def test_an_answer_survives_the_gateway(tmp_path: Path) -> None:
    async def scene() -> None:
        before = Gateway(LocalAnswers(tmp_path / "a", time.time))
        before.goes_on.set()
        await before.ask().task
        await before.idempotency.drain(5.0)
        await before.idempotency.close()

        after = Gateway(LocalAnswers(tmp_path / "a", time.time))
        again = after.ask(last=b"1")
        assert not await again.task

        assert again.client.body == NUMBERED.removeprefix(b"id: 1\n" + ONE)
        await after.idempotency.close()

    asyncio.run(asyncio.wait_for(scene(), 20.0))
