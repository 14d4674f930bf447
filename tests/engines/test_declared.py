"""Options read out of a program's source."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.engines.declared import declared, parameters

SOURCE = '''
class EngineArgs:
    port: int = 1

class FrontendArgs(Base):
    """Its fields are options."""
    lora_modules: list | None = None
    name = "no field"

def build(parser, kwargs):
    group = parser.add_argument_group("Model")
    group.add_argument("--max-model-len", "-m", **kwargs["max_model_len"])
    group.add_argument("--quiet", action="store_true")
    group.add_argument("--log", "--loud", action=BooleanOptionalAction)
    parser.add_argument("model")
    other.add_arguments("--not-this")
'''


def test_arguments_and_fields_are_options_and_switches_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(SOURCE)

    assert declared((tmp_path / "a.py",), "FrontendArgs") == {
        "lora_modules": False,
        "max_model_len": False,
        "quiet": True,
        "log": False,
        "loud": False,
    }


def test_several_files_add_up_and_a_changed_one_is_read_again(tmp_path: Path) -> None:
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("p.add_argument('--a')")
    two.write_text("p.add_argument('--b')")
    before = declared((one, two), "Args")

    one.write_text("p.add_argument('--a-changed')")

    assert set(before) == {"a", "b"}
    assert set(declared((one, two), "Args")) == {"a_changed", "b"}


@pytest.mark.parametrize("text", ["class (", "\0", "a = " + "(" * 5000 + ")" * 5000, ""])
def test_what_can_not_be_read_declares_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.py").write_text(text)

    assert declared((tmp_path / "a.py",), "Args") == {}
    assert parameters(tmp_path / "a.py", "Serve") == frozenset()


def test_parameters_of_a_class_are_its_options(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "class Serve:\n    def __init__(self, model, dtype='auto'):\n        pass\n"
    )

    assert parameters(tmp_path / "a.py", "Serve") == {"model", "dtype"}
    assert parameters(tmp_path / "a.py", "Other") == frozenset()
