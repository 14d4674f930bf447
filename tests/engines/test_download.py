"""Fetching a model's files, by the real huggingface_hub from a look-alike of the Hub."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.engines.download import Download
from penstock.engines.hub import Hub, HubError
from penstock.engines.shelf import CacheShelf, FolderShelf, Shelf
from penstock.planner.repository import select
from tests.engines.hub_look_alike import Fault, LookAlike, Repo, serving

LARGE = hashlib.shake_128(b"weights").digest(5_000_000)
SMALL = b'{"model_type": "llama"}'
NAME = "acme/tiny"


@pytest.fixture
def look() -> Iterator[LookAlike]:
    made = LookAlike({NAME: Repo({"model.safetensors": LARGE, "config.json": SMALL, "empty.txt": b""})})
    with serving(made):
        yield made


def download(
    look: LookAlike, shelf: Shelf | Path, *, token: str | None = None, verify: bool = True
) -> Download:
    hub = Hub(token, endpoint=look.url)
    listing = hub.listing(NAME)
    if isinstance(shelf, Path):
        shelf = CacheShelf(shelf, NAME, listing.commit, None)
    return Download(hub, listing, select(listing.files, NAME), shelf, verify=verify, first_wait_s=0.01)


def run(download: Download) -> tuple[str, ...]:
    download.run(lambda: None)
    return download.tally.notes()


def test_files_lie_in_the_cache_as_the_library_itself_finds_them(look: LookAlike, tmp_path: Path) -> None:
    import huggingface_hub

    run(download(look, tmp_path))

    found = huggingface_hub.try_to_load_from_cache(NAME, "model.safetensors", cache_dir=tmp_path)
    assert isinstance(found, str)
    assert Path(found).read_bytes() == LARGE
    assert Path(found).is_symlink()
    snapshot = huggingface_hub.snapshot_download(NAME, cache_dir=tmp_path, local_files_only=True)
    assert sorted(path.name for path in Path(snapshot).iterdir()) == [
        "config.json",
        "empty.txt",
        "model.safetensors",
    ]
    assert huggingface_hub.scan_cache_dir(tmp_path).warnings == []


def test_files_lie_in_a_folder_that_is_named_and_nothing_else_does(look: LookAlike, tmp_path: Path) -> None:
    run(download(look, FolderShelf(tmp_path / "here")))

    found = {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}
    assert found == {"model.safetensors": LARGE, "config.json": SMALL, "empty.txt": b""}


def test_what_is_there_is_not_fetched_again(look: LookAlike, tmp_path: Path) -> None:
    run(download(look, tmp_path))
    look.seen.clear()

    again = download(look, tmp_path)
    assert again.missing_bytes == 0
    run(again)

    assert [one.path for one in look.seen] == [f"/api/models/{NAME}"]
    assert again.tally.standing().checked_bytes == len(LARGE) + len(SMALL)


def test_a_file_that_was_cut_off_goes_on_where_it_was(look: LookAlike, tmp_path: Path) -> None:
    look.faults += [
        Fault("model.safetensors", cut_bytes=1_500_000),
        Fault("model.safetensors", cut_bytes=1_000),
    ]

    notes = run(download(look, tmp_path))

    ranges = [one.range for one in look.sent("model.safetensors")]
    assert len(ranges) == 3
    assert ranges[0] == ""
    assert int(ranges[1].removeprefix("bytes=")[:-1]) > 1_000_000
    assert len(notes) == 2
    assert "model.safetensors" in notes[0]


def test_another_run_goes_on_with_what_is_there(look: LookAlike, tmp_path: Path) -> None:
    look.faults += [
        Fault("model.safetensors", cut_bytes=2_200_000),
        Fault("model.safetensors", status=404, times=9),
    ]
    with pytest.raises(HubError):
        run(download(look, tmp_path))
    look.faults.clear()
    look.seen.clear()

    (part,) = tmp_path.glob(f"*/blobs/{hashlib.sha256(LARGE).hexdigest()}.incomplete")
    have = part.stat().st_size
    run(download(look, tmp_path))

    assert have >= 2_000_000
    assert [one.range for one in look.sent("model.safetensors")] == [f"bytes={have}-"]


def test_a_server_that_heeds_no_range_sends_the_whole_once_more(look: LookAlike, tmp_path: Path) -> None:
    look.faults += [Fault("model.safetensors", cut_bytes=2_200_000), Fault("model.safetensors", whole=True)]

    made = download(look, tmp_path)
    run(made)

    assert made.tally.standing().have_bytes == len(LARGE) + len(SMALL)


def test_a_file_that_comes_damaged_is_fetched_once_more(look: LookAlike, tmp_path: Path) -> None:
    look.faults.append(Fault("model.safetensors", corrupt=True))

    notes = run(download(look, FolderShelf(tmp_path)))

    assert (tmp_path / "model.safetensors").read_bytes() == LARGE
    assert notes == ("model.safetensors came damaged: it does not have its checksum; it is fetched again",)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_comes_damaged_twice_is_an_error_and_never_gets_its_name(
    look: LookAlike, tmp_path: Path, name: str
) -> None:
    look.faults.append(Fault(name, corrupt=True, times=2))

    with pytest.raises(HubError, match=f"{name} came twice with another checksum"):
        run(download(look, FolderShelf(tmp_path)))

    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_was_damaged_on_this_disk_is_found_and_fetched_again(
    look: LookAlike, tmp_path: Path, name: str
) -> None:
    run(download(look, tmp_path))
    (damaged,) = tmp_path.glob(f"models--*/snapshots/*/{name}")
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + b"?")

    trusting = run(download(look, tmp_path, verify=False))
    notes = run(download(look, tmp_path))

    assert trusting == ()
    assert notes == (f"{name} is damaged: it does not have its checksum; it is fetched again",)
    assert damaged.read_bytes() == content


def test_a_part_that_is_longer_than_the_file_is_begun_anew(look: LookAlike, tmp_path: Path) -> None:
    part = tmp_path / ".penstock" / f"{hashlib.sha256(LARGE).hexdigest()}.incomplete"
    part.parent.mkdir()
    part.write_bytes(bytes(len(LARGE) + 1))

    run(download(look, FolderShelf(tmp_path)))

    assert (tmp_path / "model.safetensors").read_bytes() == LARGE


def test_a_part_that_another_process_writes_is_left_alone(look: LookAlike, tmp_path: Path) -> None:
    import fcntl

    part = tmp_path / ".penstock" / f"{hashlib.sha256(LARGE).hexdigest()}.incomplete"
    part.parent.mkdir()
    with part.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Exception, match="is being fetched by another process"):
            run(download(look, FolderShelf(tmp_path)))


def test_trouble_of_the_hub_is_waited_out(look: LookAlike, tmp_path: Path) -> None:
    look.faults += [
        Fault("model.safetensors", status=503, times=2),
        Fault("config.json", status=429, headers={"Retry-After": "0"}),
    ]

    notes = run(download(look, FolderShelf(tmp_path)))

    assert (tmp_path / "model.safetensors").read_bytes() == LARGE
    assert sum("the Hub has trouble of its own (status 503)" in note for note in notes) == 2
    assert any("too many requests" in note for note in notes)


def test_a_hub_that_asks_to_come_back_much_later_is_an_error(look: LookAlike, tmp_path: Path) -> None:
    look.faults.append(Fault("config.json", status=429, headers={"RateLimit": '"api";r=0;t=240'}))

    with pytest.raises(HubError, match="asks to come back later") as caught:
        run(download(look, FolderShelf(tmp_path)))

    assert caught.value.wait_s == 240


def test_trouble_without_end_is_an_error_and_keeps_what_is_there(look: LookAlike, tmp_path: Path) -> None:
    look.faults += [
        Fault("model.safetensors", cut_bytes=1_500_000),
        Fault("model.safetensors", status=502, times=99),
    ]

    with pytest.raises(HubError, match="trouble of its own"):
        run(download(look, tmp_path))

    assert download(look, tmp_path).tally.standing().have_bytes > 1_000_000


def test_a_token_opens_a_gated_model_and_is_not_sent_to_the_storage_behind(
    look: LookAlike, tmp_path: Path
) -> None:
    look.repos[NAME].gated = True
    look.granted.add("hf_right")
    look.known.add("hf_other")

    for token, said in ((None, "is gated"), ("hf_other", "is gated")):
        with pytest.raises(HubError, match=said) as caught:
            run(download(look, tmp_path, token=token))
        assert caught.value.code == "hub_no_access"
    run(download(look, tmp_path, token="hf_right"))

    assert {one.token for one in look.seen if one.at_cdn} == {""}


def test_a_token_that_is_none_is_said_so(look: LookAlike, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="does not accept the token") as caught:
        download(look, tmp_path, token="hf_wrong")

    assert "hf_wrong" not in caught.value.message + caught.value.hint


def test_too_little_space_is_said_with_numbers_before_a_byte_is_fetched(
    look: LookAlike, tmp_path: Path
) -> None:
    with pytest.raises(HubError, match=r"needs 5\.0 MB more in .*, and 2\.0 MB are free") as caught:
        download(look, tmp_path).check_space(lambda folder: 2_000_000)

    assert caught.value.code == "hub_no_space"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_disk_that_is_full_is_said_so(look: LookAlike, tmp_path: Path) -> None:
    part = tmp_path / ".penstock" / f"{hashlib.sha256(LARGE).hexdigest()}.incomplete"
    part.parent.mkdir()
    part.symlink_to("/dev/full")

    with pytest.raises(HubError, match=r"model\.safetensors: the disk is full") as caught:
        run(download(look, FolderShelf(tmp_path)))

    assert caught.value.code == "hub_no_space"


@pytest.mark.parametrize("into", [None, "here"])
def test_a_file_that_is_too_large_for_plain_http_is_left_to_the_library_and_checked(
    look: LookAlike, tmp_path: Path, into: str | None
) -> None:
    hub = Hub(endpoint=look.url)
    listing = hub.listing(NAME)
    shelf: Shelf = FolderShelf(tmp_path / into) if into else CacheShelf(tmp_path, NAME, listing.commit, None)
    files = select(listing.files, NAME)
    for corrupt in (True, False):
        made = Download(hub, listing, files, shelf, verify=True, plain_bytes_max=1_000_000)
        look.faults.append(Fault("model.safetensors", corrupt=corrupt, times=1))
        if corrupt:
            with pytest.raises(HubError, match=r"model\.safetensors came with another checksum"):
                run(made)
            continue
        notes = run(made)

    assert "which the Hub gives by Xet alone" in notes[0]
    assert (shelf.root / "model.safetensors").read_bytes() == LARGE


def test_names_that_lead_out_of_the_folder_are_refused(look: LookAlike, tmp_path: Path) -> None:
    look.repos[NAME].files["../../evil.json"] = b"{}"

    with pytest.raises(HubError, match="without a usable name"):
        download(look, tmp_path)


def test_a_note_is_left_of_which_commit_the_branch_is(look: LookAlike, tmp_path: Path) -> None:
    run(download(look, tmp_path))

    (ref,) = tmp_path.glob("models--acme--tiny/refs/main")
    assert ref.read_text() == look.repos[NAME].commit
    assert list(ref.parent.iterdir()) == [ref]
