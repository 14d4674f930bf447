"""What a request is charged: reserved before, settled after, entered once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from penstock.core.config import ModelConfig, PriceConfig, TenantConfig
from penstock.core.errors import LimitError
from penstock.core.record import Attempt, Outcome, RequestRecord, Usage
from penstock.gateway.charges import Charge, Charges
from penstock.gateway.tenants import Caller, Tenants
from penstock.store.journal import Journal
from penstock.store.keys import Key
from penstock.store.limits import LocalLimits
from penstock.wire.openai import InferenceRequest

run = asyncio.run  # nothing here waits: each step may have a loop of its own
MODEL = ModelConfig(
    name="m",
    engine="sim",
    completion_tokens_expected=50,
    price=PriceConfig(prompt_usd_per_million=1, completion_usd_per_million=2),
)


@pytest.fixture
def limits() -> LocalLimits:
    return LocalLimits(lambda: 1e9)


@pytest.fixture
def charges(tmp_path: Path, limits: LocalLimits) -> Charges:
    return Charges(limits, Journal(tmp_path, lambda: 1e9))


def caller(**limits: int) -> Caller:
    tenant = TenantConfig(name="t", parallel_requests=9, tokens_per_minute=1000).model_copy(update=limits)
    return Tenants([tenant]).caller(Key("k", "", "t", "", 0.0))


def record() -> RequestRecord:
    made = RequestRecord("r", "POST", "/v1/completions", 0.0, 0.0, model="m", tenant="t", key_id="k")
    made.status = 200
    return made


def request(tokens: int | None = 100) -> InferenceRequest:
    return InferenceRequest("m", False, b"x" * 399, completion_tokens_max=tokens)


async def opened(charges: Charges, told: RequestRecord, tokens: int | None = 100, **limits: int) -> Charge:
    return await charges.open(caller(**limits), MODEL, request(tokens), told)


async def left(limits: LocalLimits) -> tuple[int | None, int]:
    (balance,) = await limits.usage([caller().subjects[1]])
    return balance.tokens_left, balance.parallel


def lines(folder: Path) -> list[dict[str, object]]:
    texts = [path.read_text() for path in folder.glob("*.jsonl")]
    return [json.loads(line[9:]) for text in texts for line in text.splitlines()]


@pytest.mark.parametrize(("said", "reserved"), [(100, 200), (None, 150), (0, 100)])
def test_prompt_and_answer_are_reserved(charges: Charges, said: int | None, reserved: int) -> None:
    charge = run(opened(charges, record(), said))

    assert charge.tokens == reserved  # 399 bytes are taken for 100 tokens


def test_what_was_used_takes_the_place_of_what_was_reserved(charges: Charges, limits: LocalLimits) -> None:
    told = record()
    charge = run(opened(charges, told))
    during = run(left(limits))
    told.attempts.append(Attempt("m-0", "only_one", 0.0, status=200))
    told.usage, told.outcome = Usage(10, 20, "engine"), Outcome.COMPLETE

    run(charge.close())

    assert during == (800, 1)
    assert run(left(limits)) == (970, 0)
    assert told.cost_usd == pytest.approx(50e-6)


def test_a_request_that_no_engine_got_costs_nothing(charges: Charges, limits: LocalLimits) -> None:
    charge = run(opened(charges, record(), requests_per_minute=5))

    run(charge.close())

    assert run(left(limits)) == (1000, 0)


def test_one_that_was_cut_is_charged_for_its_prompt_and_what_was_delivered(charges: Charges) -> None:
    told = record()
    charge = run(opened(charges, told))
    told.attempts.append(Attempt("m-0", "only_one", 0.0, status=200))
    told.events, told.outcome = 7, Outcome.CANCELLED

    run(charge.close())

    assert (told.usage.completion_tokens, told.usage.source) == (7, "events")
    assert told.cost_usd == pytest.approx((100 + 2 * 7) / 1e6)


@pytest.mark.parametrize(
    ("stream", "failure", "usage", "left_tokens"),
    [
        (False, "", Usage(), 800),  # as was reserved
        (True, "", Usage(), 900),
        (False, "refused", Usage(), 1000),
        (False, "", Usage(10, 20, "engine"), 970),
    ],
)
def test_a_plain_call_whose_client_leaves_costs_its_prompt_and_counts_as_reserved(
    charges: Charges, limits: LocalLimits, stream: bool, failure: str, usage: Usage, left_tokens: int
) -> None:
    told = record()
    charge = run(opened(charges, told))
    told.attempts.append(Attempt("m-0", "only_one", 0.0, failure=failure))
    told.stream, told.outcome, told.usage = stream, Outcome.CANCELLED, usage

    run(charge.close())

    assert run(left(limits)) == (left_tokens, 0)
    prompt, completion = (10, 20) if usage.source == "engine" else (0 if failure else 100, 0)
    assert told.cost_usd == pytest.approx((prompt + 2 * completion) / 1e6)


def test_the_journal_has_its_beginning_and_one_end(charges: Charges, tmp_path: Path) -> None:
    told = record()
    charge = run(opened(charges, told))
    charge.begin()
    told.attempts.append(Attempt("m-0", "only_one", 0.0, status=200))
    told.usage = Usage(10, 20, "engine")

    charge.end()
    run(charge.close())

    begin, end = lines(tmp_path)
    assert (begin["line"], begin["entry"]) == ("begin", end["entry"])
    assert (end["outcome"], end["completion_tokens"], end["cost_nano_usd"]) == ("complete", 20, 50_000)


def test_a_limit_that_is_used_up_is_told_with_what_is_left(charges: Charges) -> None:
    run(opened(charges, record(), 800))

    with pytest.raises(LimitError) as caught:
        run(opened(charges, record(), 800))

    assert (caught.value.status, caught.value.code) == (429, "rate_limit_exceeded")
    assert (caught.value.retry_after_s or 0) >= 1
    assert dict(caught.value.headers)[b"x-ratelimit-limit-tokens"] == b"1000"
