"""A request's cost is in proportion to its tokens."""

from __future__ import annotations

import pytest

from penstock.policy.cost import Price, prompt_tokens_expected


def test_tokens_cost_their_price() -> None:
    price = Price(prompt_usd_per_million=0.5, completion_usd_per_million=2.0)

    assert price.usd(2_000_000, 500_000) == pytest.approx(2.0)
    assert Price().usd(10**9, 10**9) == 0


@pytest.mark.parametrize(("body_bytes", "tokens"), [(0, 1), (3, 1), (4, 2), (200_000, 50_001)])
def test_a_prompt_is_guessed_from_its_size(body_bytes: int, tokens: int) -> None:
    assert prompt_tokens_expected(body_bytes) == tokens
