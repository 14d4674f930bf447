"""How long a model's last start took is known again, unless it was another model then."""

from __future__ import annotations

from pathlib import Path

from penstock.store.starts import MODELS_MAX, Start, Starts


def test_the_last_start_of_each_model_is_remembered_across_processes(tmp_path: Path) -> None:
    Starts(tmp_path / "starts.json").note("a", Start("x", 12.0))
    Starts(tmp_path / "starts.json").note("b", Start("y", 3.0))
    Starts(tmp_path / "starts.json").note("a", Start("x", 41.5))

    later = Starts(tmp_path / "starts.json")
    assert (later.took_s("a", "x"), later.took_s("b", "y")) == (41.5, 3.0)


def test_the_start_of_another_model_of_the_same_name_says_nothing(tmp_path: Path) -> None:
    starts = Starts(tmp_path / "starts.json")
    starts.note("a", Start("x", 12.0))

    assert starts.took_s("a", "other options") is None


def test_a_file_that_is_torn_or_lies_is_as_none_and_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "starts.json"
    starts = Starts(path)
    for text in (
        "",
        "[]",
        '{"a": 1}',
        '{"a": {"of": "x", "took_s": -1}}',
        '{"a": {"of": "x", "took_s": "1"}}',
    ):
        path.write_text(text)
        assert starts.took_s("a", "x") is None

    starts.note("a", Start("x", 2.0))

    assert starts.took_s("a", "x") == 2.0


def test_what_is_remembered_is_bounded_and_the_oldest_is_forgotten(tmp_path: Path) -> None:
    starts = Starts(tmp_path / "starts.json")
    for number in range(MODELS_MAX + 1):
        starts.note(f"m{number}", Start("x", 1.0))

    assert starts.took_s("m0", "x") is None
    assert starts.took_s("m1", "x") == starts.took_s(f"m{MODELS_MAX}", "x") == 1.0


def test_a_folder_that_can_not_be_written_is_no_trouble(tmp_path: Path) -> None:
    starts = Starts(tmp_path / "missing" / "starts.json")

    starts.note("a", Start("x", 2.0))

    assert starts.took_s("a", "x") is None
