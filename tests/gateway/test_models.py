"""Models are found by name and alias, and a wrong name is answered with the right ones."""

from __future__ import annotations

import pytest

from penstock.core.config import ModelConfig
from penstock.core.errors import ClientError
from penstock.gateway.models import NAMED_MAX, Models


def model(name: str, *aliases: str) -> ModelConfig:
    return ModelConfig(name=name, aliases=aliases, engine="remote", source="http://h:1")


def test_a_model_answers_to_its_name_and_its_aliases() -> None:
    first, second = model("a", "gpt-4o", "best"), model("b")
    models = Models([first, second])

    assert [models.find(name) for name in ("a", "gpt-4o", "best", "b")] == [first, first, first, second]
    assert list(models) == [first, second]
    assert models.default is first


@pytest.mark.parametrize("name", ["A", "", "a ", "a\n", "x" * 100_000])
def test_an_unknown_name_is_a_404_that_lists_what_there_is(name: str) -> None:
    with pytest.raises(ClientError) as caught:
        Models([model("a", "alias"), model("b")]).find(name)

    error = caught.value
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    assert error.hint == "models here: a, b"
    assert len(error.message) < 300
    assert "\n" not in error.message


def test_a_long_list_of_names_is_cut() -> None:
    with pytest.raises(ClientError) as caught:
        Models([model(f"m{i}") for i in range(NAMED_MAX + 1)]).find("x")

    assert caught.value.hint.count(",") == NAMED_MAX
    assert caught.value.hint.endswith(", ...")
