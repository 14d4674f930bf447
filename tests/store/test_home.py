"""The one folder that Penstock writes to."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.errors import PenstockError
from penstock.store.home import Home, file_name, write_private

NOBODY = 65534


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for nothing; needs root."""
    mount = tmp_path / "disk"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=20", "tmpfs", mount], capture_output=True
    )
    if made.returncode:
        pytest.skip("mounting a tmpfs needs root")
    (mount / "filler").write_bytes(bytes(4096))
    yield mount
    subprocess.run(["umount", mount], check=True)


def test_home_is_in_the_working_directory_unless_named(tmp_path: Path) -> None:
    assert Home.of({}, tmp_path).root == tmp_path / ".penstock"
    assert Home.of({"PENSTOCK_HOME": "/srv/penstock"}, tmp_path).root == Path("/srv/penstock")
    assert Home.of({"PENSTOCK_HOME": "here"}, tmp_path).root == tmp_path / "here"


def test_a_prepared_home_is_for_its_owner_alone_and_has_no_rest_of_the_proof(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")

    home.prepare()

    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700
    assert not [path for path in home.run.rglob("*") if path.is_file()]


def test_preparing_twice_keeps_what_is_there(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.prepare()
    home.keys.write_text("mine")

    home.prepare()

    assert home.keys.read_text() == "mine"


def test_a_file_in_the_way_is_said(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")

    with pytest.raises(PenstockError, match="it is a file, not a folder"):
        Home(tmp_path / "home").prepare()


def test_a_path_through_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")

    with pytest.raises(PenstockError, match="a part of the path is a file"):
        Home(tmp_path / "file" / "home").prepare()


def test_a_read_only_file_system_is_said() -> None:
    with pytest.raises(PenstockError, match=r"can't write to /proc/penstock: ") as caught:
        Home(Path("/proc/penstock")).prepare()

    assert "PENSTOCK_HOME" in caught.value.hint


def test_a_folder_without_permission_is_said(tmp_path: Path) -> None:
    was = os.geteuid()
    tmp_path.chmod(0o500)
    if was == 0:
        os.seteuid(NOBODY)  # root may write everywhere
    try:
        with pytest.raises(PenstockError, match="permission denied"):
            Home(tmp_path / "home").prepare()
    finally:
        os.seteuid(was)


def test_a_full_disk_is_said(tiny_disk: Path) -> None:
    with pytest.raises(PenstockError, match="the disk is full"):
        Home(tiny_disk / "home").prepare()


def test_a_file_that_can_not_be_written_leaves_the_old_one_and_no_rest(tiny_disk: Path) -> None:
    (tiny_disk / "keys").touch()

    with pytest.raises(OSError, match="No space left"):
        write_private(tiny_disk / "keys", b"x" * 100_000)

    assert (tiny_disk / "keys").read_bytes() == b""
    assert sorted(path.name for path in tiny_disk.iterdir()) == ["filler", "keys"]


def test_a_written_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    write_private(tmp_path / "keys", b"data")

    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o600
    assert (tmp_path / "keys").read_bytes() == b"data"


@given(names=st.sets(st.text(min_size=1), min_size=2, max_size=2))
def test_different_names_get_different_plain_file_names(names: set[str]) -> None:
    files = [file_name(name) for name in names]

    assert len(set(files)) == 2
    assert all("/" not in file and "\0" not in file and not file.startswith(".") for file in files)
