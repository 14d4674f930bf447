"""What tokens cost at least."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.planner.cost import costs
from penstock.planner.hardware import GPUS, Gpu, parse_gpus
from penstock.planner.plan import Ask, plan
from penstock.planner.shapes import PlanError
from tests.planner.models import TOTALS, model


def cost(name: str, gpus: str, price: float = 2.0, **asked: int) -> tuple[tuple[int, float, float], ...]:
    count, gpu = parse_gpus(gpus)
    found = costs(plan(model(name), Ask(gpu, count, **asked)), price)  # type: ignore[arg-type]
    return tuple((one.sequences, one.tokens_per_s, one.usd_per_million) for one in found)


def test_one_stream_is_as_fast_as_the_weights_are_read() -> None:
    (one, rate, usd), (many, together, less) = cost("llama-3.1-8b", "L40S", 1.8)

    # 864 GB/s, 15.0 GB of weights without the embedding, and 4096 tokens of cache
    assert one == 1
    assert rate == pytest.approx(864e9 / (2 * (8_030_261_248 - 128256 * 4096) + 4096 * 131072), rel=0.01)
    assert usd == pytest.approx(1.8 / 3600 / rate * 1e6)
    assert many > 1
    assert together > rate
    assert less < usd


def test_a_mixture_is_read_in_part_by_one_and_almost_whole_by_many() -> None:
    (_, rate, _), (many, together, _) = cost("mixtral-8x7b", "2xA100 80GB")

    assert rate > 2 * 2039e9 / (2 * 46_702_792_704) * 1.5
    assert together < many * rate


def test_nothing_is_said_where_it_does_not_fit_or_memory_is_of_unknown_speed() -> None:
    unknown = Gpu("X", 81920, 0, 90)

    assert cost("llama-3-70b", "T4") == ()
    assert costs(plan(model("llama-3.1-8b"), Ask(unknown, 1)), 2.0) == ()


@given(st.sampled_from(sorted(TOTALS)), st.sampled_from(GPUS), st.integers(1, 8), st.floats(0.01, 100))
def test_more_at_once_are_never_dearer_each(name: str, gpu: Gpu, count: int, price: float) -> None:
    try:
        found = costs(plan(model(name), Ask(gpu, count)), price)
    except PlanError:
        return

    assert all(one.tokens_per_s > 0 and one.usd_per_million > 0 for one in found)
    assert [one.usd_per_million for one in found] == sorted(
        (one.usd_per_million for one in found), reverse=True
    )
