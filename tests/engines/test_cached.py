"""Models of the Hub that lie in its cache: whole, half, or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.assembly.pulling import Wanted, prepare
from penstock.engines.hub import Hub, HubName, local_path, parse_name
from penstock.engines.hub_cache import cache_folder
from penstock.engines.model_files import cached, describe
from penstock.engines.paths import DEMO_FOLDER
from penstock.planner.shapes import DamagedError
from tests.engines.hub_look_alike import Fault, LookAlike, Repo, folder, serving
from tests.planner.ggufs import DATA_BYTES, LLAMA, TENSORS, gguf

DEMO = folder(DEMO_FOLDER)
TINY, TINY_GGUF = "acme/tiny", "acme/tiny-GGUF"
PARTS = {
    f"q/x-Q8_0-0000{number}-of-00002.gguf": gguf(
        LLAMA if number == 1 else {"split.no": 1}, tensors, data=DATA_BYTES
    )
    for number, tensors in ((1, TENSORS[:2]), (2, TENSORS[2:]))
}


@pytest.fixture
def look() -> Iterator[LookAlike]:
    plain = {name: data for name, data in DEMO.items() if not name.endswith(".gguf")}
    ggufs = {"tiny-Q4_K_M.gguf": DEMO["demo.gguf"], **PARTS}
    with serving(LookAlike({TINY: Repo(plain), TINY_GGUF: Repo(ggufs)})) as made:
        yield made


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HF_HOME": str(tmp_path)}


def pull(look: LookAlike, environ: dict[str, str], name: str, revision: str | None = None) -> Path:
    named = parse_name(name)
    assert named is not None
    made = prepare(Wanted(named, revision), Hub(endpoint=look.url), environ, verify=False)
    made.download.run(lambda: None)
    return made.path


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("acme/tiny", HubName("acme/tiny")),
        ("acme/tiny:Q4_K_M", HubName("acme/tiny", "Q4_K_M")),
        ("acme/tiny/q/x.gguf", HubName("acme/tiny", file="q/x.gguf")),
        ("acme/tiny/x.GGUF", HubName("acme/tiny", file="x.GGUF")),
        ("models/x.gguf", None),
        ("acme/tiny/../x.gguf", None),
        ("tiny", None),
        ("/acme/tiny", None),
        ("./acme/tiny", None),
        ("acme/tiny/x.safetensors", None),
        ("https://huggingface.co/acme/tiny", None),
        ("acme/tiny:", None),
    ],
)
def test_a_name_of_the_hub_is_told_from_a_path(text: str, named: HubName | None) -> None:
    assert parse_name(text) == named
    assert named is None or str(named) == text


@pytest.mark.parametrize(
    "name", [TINY, f"{TINY_GGUF}:Q4_K_M", f"{TINY_GGUF}:q8_0", f"{TINY_GGUF}/tiny-Q4_K_M.gguf", TINY_GGUF]
)
def test_what_was_pulled_is_found_by_the_same_name(
    look: LookAlike, environ: dict[str, str], name: str
) -> None:
    assert local_path(name, environ) is None

    pulled = pull(look, environ, name)

    assert local_path(name, environ) == pulled
    assert pulled.exists()
    assert describe(name, environ=environ).architecture == describe(str(pulled)).architecture


def test_what_was_pulled_at_a_commit_is_found_where_it_is_the_only_one(
    look: LookAlike, environ: dict[str, str]
) -> None:
    pulled = pull(look, environ, TINY, look.repos[TINY].commit)

    assert not (pulled.parent.parent / "refs").exists()
    assert local_path(TINY, environ) == pulled


def test_another_quantization_than_that_which_is_here_is_not_found(
    look: LookAlike, environ: dict[str, str]
) -> None:
    pull(look, environ, f"{TINY_GGUF}:Q8_0")

    assert local_path(f"{TINY_GGUF}:Q4_K_M", environ) is None
    assert local_path(f"{TINY_GGUF}/tiny-Q4_K_M.gguf", environ) is None


@pytest.mark.parametrize("name", [TINY, TINY_GGUF])
def test_a_download_that_was_cut_off_is_told_with_how_to_go_on(
    look: LookAlike, environ: dict[str, str], name: str
) -> None:
    large = "model.safetensors" if name == TINY else "tiny-Q4_K_M.gguf"
    look.faults += [Fault(large, cut_bytes=3_000_000), Fault(large, status=404, times=9)]
    with pytest.raises(Exception, match="has no"):
        pull(look, environ, name)

    with pytest.raises(
        DamagedError, match=rf"{name} is half-downloaded .* MB of files .* not whole"
    ) as caught:
        cached(name, environ)

    assert caught.value.hint == f"penstock pull {name} goes on with it"
    assert local_path(name, environ) is None


def test_a_shard_that_is_missing_is_a_download_that_was_cut_off(
    look: LookAlike, environ: dict[str, str]
) -> None:
    shard = DEMO["model.safetensors"]
    look.repos[TINY].files = {
        "config.json": DEMO["config.json"],
        **{f"model-0000{number}-of-00002.safetensors": shard for number in (1, 2)},
    }
    pulled = pull(look, environ, TINY)
    assert local_path(TINY, environ) == pulled

    (pulled / "model-00002-of-00002.safetensors").unlink()

    with pytest.raises(DamagedError, match=r"1 of 2 files are missing, as model-00002-of-00002"):
        cached(TINY, environ)


def test_a_configuration_alone_is_no_download_that_was_begun(environ: dict[str, str], tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--acme--tiny" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_bytes(DEMO["config.json"])

    assert cached(TINY, environ) is None


def test_a_half_model_can_be_planned_and_the_plan_says_so(look: LookAlike, environ: dict[str, str]) -> None:
    pulled = pull(look, environ, TINY)
    (pulled / "model.safetensors").unlink()
    (pulled.parent.parent / "blobs" / "x.incomplete").write_bytes(bytes(1000))

    found = describe(TINY, environ=environ, fetch=lambda *_: pulled / "config.json")

    assert found.architecture.family == "llama"
    assert "half-downloaded in the Hub's cache; 1.0 KB of files" in found.note


def test_a_gguf_model_is_described_by_its_headers_alone(look: LookAlike, environ: dict[str, str]) -> None:
    found = describe(f"{TINY_GGUF}:Q8_0", environ=environ, at=lambda: Hub(endpoint=look.url))

    assert found.architecture.family == "llama"
    assert found.name == f"{TINY_GGUF}:Q8_0"
    assert all(one.range for one in look.seen if "resolve" in one.path)


def test_a_header_that_is_longer_than_was_asked_for_is_asked_for_again(
    look: LookAlike, environ: dict[str, str]
) -> None:
    metadata = {**LLAMA, "tokenizer.ggml.tokens": [f"token {number:06}" for number in range(100_000)]}
    look.repos[TINY_GGUF].files = {"x-Q4_0.gguf": gguf(metadata, TENSORS, data=DATA_BYTES)}

    found = describe(TINY_GGUF, environ=environ, at=lambda: Hub(endpoint=look.url), fetch=_none)

    assert found.architecture.vocabulary == 100_000
    assert [one.range for one in look.sent("x-Q4_0.gguf")] == ["bytes=0-1048575", "bytes=0-4194303"]


def _none(repo: str, name: str, revision: str | None) -> Path:
    from penstock.engines.hub import HubError

    raise HubError(f"{repo} has no {name}", code="hub_not_found", missing=name)


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HUGGINGFACE_HUB_CACHE": "/c", "HF_HOME": "/b"}, "/c"),
        ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/d"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/d"}, "/d/huggingface/hub"),
        ({}, str(Path("~/.cache/huggingface/hub").expanduser())),
    ],
)
def test_the_cache_is_where_the_library_looks_for_it(environ: dict[str, str], folder: str) -> None:
    assert cache_folder(environ) == Path(folder)


def test_a_hub_that_fails_once_is_asked_again(look: LookAlike, environ: dict[str, str]) -> None:
    look.faults += [Fault("api", status=502), Fault("api", status=429, headers={"Retry-After": "7"})]
    waits: list[float] = []

    prepare(Wanted(HubName(TINY)), Hub(endpoint=look.url), environ, verify=False, pause=waits.append)

    assert waits == [1.0, 7.0]


def test_an_engine_is_told_why_it_can_not_have_a_model(look: LookAlike) -> None:
    hub = Hub(endpoint=look.url)
    assert hub.lacking(HubName(TINY)) == ""
    assert "there is no acme/none on the Hub" in hub.lacking(HubName("acme/none"))
    assert "has no such revision" in hub.lacking(HubName(TINY), "v9")
    assert "has no config.json; a GGUF repository is for engine llamacpp" in hub.lacking(HubName(TINY_GGUF))

    look.repos[TINY].gated = True
    assert "is gated" in hub.lacking(HubName(TINY))
    look.faults.append(Fault("api", status=503))
    assert hub.lacking(HubName(TINY)) == ""
    assert Hub(endpoint="http://127.0.0.1:9").lacking(HubName(TINY)) == ""


def test_an_index_is_read_from_the_cache(look: LookAlike, environ: dict[str, str]) -> None:
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    look.repos[TINY].files = {
        "config.json": DEMO["config.json"],
        "model.safetensors.index.json": json.dumps(index).encode(),
        "a.safetensors": DEMO["model.safetensors"],
    }

    pull(look, environ, TINY)

    with pytest.raises(DamagedError, match=r"1 of 2 files are missing, as b\.safetensors"):
        cached(TINY, environ)
