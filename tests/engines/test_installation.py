"""Where an engine is installed, and `engine_args` as words."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.engines.installation import find, version_of
from penstock.engines.options import nearest, own_mistakes, words
from tests.engines import installed


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("0.32.0+cpu", (0, 32, 0)),
        ("v0.11.1rc2", (0, 11, 1)),
        ("0.10.1.1.post2", (0, 10, 1)),
        ("1.2", (1, 2, 0)),
        ("latest", None),
        ("0.0.0", None),
        ("", None),
    ],
)
def test_a_version_is_its_first_three_numbers(text: str, version: tuple[int, ...] | None) -> None:
    assert version_of(text) == version


def test_a_named_environment_is_the_only_place_to_look(tmp_path: Path) -> None:
    other = installed.environment(tmp_path / "other", ("engine",), {"engine": "1.0"})
    environ = {"PATH": str(other / "bin")}

    assert find("engine", str(tmp_path / "none"), environ) is None
    assert find("engine", "", environ) == find("engine", str(other), {})


def test_an_environment_knows_its_packages_and_files(tmp_path: Path) -> None:
    installed.environment(tmp_path, ("engine",), {"engine": "1.0", "engine-cpu": "1.1"})
    installed.put(tmp_path, "engine/args.py", "")

    found = find("engine", str(tmp_path), {})

    assert found is not None
    package = found.distribution(("nothing", "engine-cpu"))
    assert package is not None
    assert package.version == "1.1"
    assert found.distribution(("nothing",)) is None
    assert found.source("engine/args.py") == installed.site(tmp_path) / "engine/args.py"
    assert found.source("engine/none.py") is None
    assert found.python == tmp_path / "bin" / "python3"


# Python's parser takes `--` for an end of options wherever it stands.
WORD = st.text("abc/=.-", min_size=1, max_size=6).filter(lambda text: text != "--")
PLAIN = st.one_of(st.integers(-(10**6), 10**6), WORD)
ENTRY = st.one_of(st.integers(-(10**6), 10**6), st.text("abc/=.", min_size=1, max_size=6))
TABLE = st.dictionaries(st.text("ab", min_size=1, max_size=3), st.one_of(PLAIN, st.booleans()), max_size=3)
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}[a-z0-9]", fullmatch=True)


@given(
    st.dictionaries(
        NAMES, st.one_of(st.booleans(), PLAIN, TABLE, st.lists(ENTRY, min_size=1, max_size=3)), max_size=5
    )
)
def test_a_parser_reads_the_words_as_they_were_meant(args: dict[str, Any]) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name, value in args.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            parser.add_argument(flag, dest=name, action=argparse.BooleanOptionalAction)
        elif isinstance(value, list):
            parser.add_argument(flag, dest=name, nargs="+")
        else:
            parser.add_argument(flag, dest=name, type=json.loads if isinstance(value, dict) else str)

    read = vars(parser.parse_args(list(words(args))))

    assert read == {
        name: [str(one) for one in value]
        if isinstance(value, list)
        else value
        if isinstance(value, bool | dict)
        else str(value)
        for name, value in args.items()
    }


def test_a_switch_is_there_or_it_is_not() -> None:
    assert list(words({"a": True, "b": False, "c": False}, switches={"b"})) == ["--a", "--no-c"]


def test_what_is_near_is_offered() -> None:
    assert nearest("max_modle_len", ["max_model_len", "seed"]) == "; did you mean max_model_len?"
    assert nearest("zzz", ["max_model_len"]) == ""
    assert list(own_mistakes({"port": 1, "seed": 2}, {"port": "it is chosen"})) == [
        "engine_args.port: not for you to set: it is chosen"
    ]
