"""Where a model's description comes from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from penstock.engines.model_files import describe, read_gguf_header
from penstock.engines.paths import DEMO_FOLDER
from penstock.planner.shapes import DamagedError, PlanError
from tests.planner.ggufs import DATA_BYTES, LLAMA, TENSORS, gguf
from tests.planner.models import FOLDER

CONFIG = (FOLDER / "gpt2.json").read_text()


def safetensors(*names: str) -> bytes:
    header = {
        name: {"dtype": "F16", "shape": [2], "data_offsets": [4 * at, 4 * at + 4]}
        for at, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(4 * len(names))


def test_the_demo_is_known_by_its_names() -> None:
    assert describe("demo").architecture == describe("penstock-demo").architecture
    assert describe("demo").name == "demo"


def test_a_folder_is_described_by_its_config_and_what_its_files_hold(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(CONFIG)
    (tmp_path / "a.safetensors").write_bytes(safetensors("x"))
    (tmp_path / "b.safetensors").write_bytes(safetensors("y", "z"))

    found = describe(str(tmp_path))

    assert found.architecture.parameters == 124_439_808
    assert found.held is not None
    assert (found.held.total, found.held.size_bytes) == (6, 12)


def test_a_file_of_a_folder_stands_for_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(CONFIG)
    (tmp_path / "model.safetensors").write_bytes(safetensors("x"))

    assert describe(str(tmp_path / "model.safetensors")).architecture.family == "gpt2"
    assert describe(str(tmp_path / "config.json")).held is not None


def test_a_configuration_may_have_any_name() -> None:
    assert describe(str(FOLDER / "gpt2.json")).architecture.family == "gpt2"


def test_a_folder_with_one_gguf_file_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(gguf(LLAMA, TENSORS, data=DATA_BYTES))

    assert describe(str(tmp_path)).architecture == describe(str(tmp_path / "x.gguf")).architecture


def test_a_split_gguf_is_the_sum_of_its_parts(tmp_path: Path) -> None:
    for number, tensors in ((1, TENSORS[:2]), (2, TENSORS[2:])):
        metadata = LLAMA if number == 1 else {"split.no": 1}
        (tmp_path / f"x-0000{number}-of-00002.gguf").write_bytes(gguf(metadata, tensors, data=DATA_BYTES))
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "x.gguf").write_bytes(gguf(LLAMA, TENSORS, data=DATA_BYTES))

    parts = describe(str(tmp_path / "x-00002-of-00002.gguf")).architecture

    assert parts == describe(str(tmp_path / "whole")).architecture == describe(str(tmp_path)).architecture


def test_a_gguf_file_that_is_shorter_than_it_says_is_a_download_that_was_cut_off(tmp_path: Path) -> None:
    whole = DEMO_FOLDER / "demo.gguf"
    (tmp_path / "x.gguf").write_bytes(whole.read_bytes()[:-1000])

    assert read_gguf_header(whole).file_bytes <= whole.stat().st_size
    with pytest.raises(DamagedError, match="has 5839864 bytes of 58"):
        describe(str(tmp_path))


def test_a_part_that_is_missing_is_a_download_that_was_cut_off(tmp_path: Path) -> None:
    (tmp_path / "x-00001-of-00003.gguf").write_bytes(gguf(LLAMA, TENSORS, data=DATA_BYTES))

    with pytest.raises(PlanError, match=r"is incomplete: 2 of 3 files are missing, as x-00002-of-00003.gguf"):
        describe(str(tmp_path))


def test_a_shard_that_no_index_names_is_missed_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(CONFIG)
    (tmp_path / "model-00001-of-00003.safetensors").write_bytes(safetensors("x"))

    with pytest.raises(DamagedError, match=r"2 of 3 files are missing, as model-00002-of-00003\.safetensors"):
        describe(str(tmp_path))


def test_a_pull_into_a_folder_that_is_not_finished_is_noted(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(CONFIG)
    (tmp_path / ".penstock").mkdir()
    (tmp_path / ".penstock" / "x.incomplete").write_bytes(bytes(2000))

    assert "is not finished: 2.0 KB of files that are not whole" in describe(str(tmp_path)).note


def test_a_file_that_the_index_names_and_is_missing_is_a_download_that_was_cut_off(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(CONFIG)
    (tmp_path / "a.safetensors").write_bytes(safetensors("x"))
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(PlanError, match=r"is incomplete: 1 of 2 files are missing, as b.safetensors"):
        describe(str(tmp_path))


def test_an_index_alone_stands_for_weights_that_are_not_needed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(CONFIG)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"x": "a.safetensors"}}')

    assert describe(str(tmp_path)).held is None


def test_an_index_can_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (tmp_path / "b.safetensors").write_bytes(b"secret")
    (model / "config.json").write_text(CONFIG)
    (model / "a.safetensors").write_bytes(safetensors("x"))
    (model / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../b.safetensors"}}')

    with pytest.raises(PlanError, match=r"1 of 1 files are missing, as b.safetensors"):
        describe(str(model))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "it has no config.json and no .gguf file"),
        ({"a.gguf": b"x", "b.gguf": b"x"}, "it has several GGUF models: a.gguf, b.gguf"),
        ({"a.gguf": b"GGUF"}, "the file ends amid its header"),
        ({"config.json": b"{"}, "config.json is not JSON"),
        (
            {"config.json": CONFIG.encode(), "a.safetensors": b"version https://git-lfs"},
            "is no safetensors file",
        ),
        (
            {"config.json": CONFIG.encode(), "a.safetensors": b"", "model.safetensors.index.json": b"[]"},
            "index.json can't be read",
        ),
    ],
)
def test_a_folder_that_holds_no_whole_model_says_what_is_wrong(
    tmp_path: Path, files: dict[str, bytes], said: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)

    with pytest.raises(PlanError) as caught:
        describe(str(tmp_path))

    assert said in caught.value.message
    assert str(tmp_path) in caught.value.message


def test_a_file_of_another_kind_is_a_mistake() -> None:
    with pytest.raises(PlanError, match=r"neither .gguf nor .safetensors"):
        describe(str(DEMO_FOLDER / "README.md"))


def test_a_path_that_is_not_there_is_not_asked_of_the_hub() -> None:
    for name in ("./nothing", "models/absent.gguf", "/a/b/c", "x"):
        with pytest.raises(PlanError, match="there is no such file or folder"):
            describe(name, fetch=lambda *_: pytest.fail("asked"))


def test_a_name_of_the_hub_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(CONFIG)
    asked: list[tuple[str, str, str | None]] = []

    def fetch(repo: str, name: str, revision: str | None) -> Path:
        asked.append((repo, name, revision))
        return tmp_path / name

    found = describe("openai-community/gpt2", revision="main", fetch=fetch)

    assert asked == [("openai-community/gpt2", "config.json", "main")]
    assert (found.name, found.architecture.family) == ("openai-community/gpt2", "gpt2")
