"""Facts are read as they are, and nothing that is not there is an error."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from penstock.doctor.facts import KernelXid
from penstock.doctor.gather import (
    STALE_AFTER_S,
    host_facts,
    installed_engines,
    kernel_xids,
    stale_files,
    token_source,
    xids_in,
)


def test_this_machine_is_read(tmp_path: Path) -> None:
    facts = host_facts({"home": tmp_path / "not" / "there"})

    assert facts.python == sys.version_info[:3]
    assert 0 < facts.memory_available_bytes <= facts.memory_total_bytes
    assert facts.disks["home"].total_bytes >= facts.disks["home"].free_bytes > 0
    assert facts.disks["home"].writable
    assert facts.nofile.soft != 0


def test_xids_are_read_out_of_the_kernels_lines() -> None:
    lines = (
        "4,1234,5678,-;NVRM: Xid (PCI:0000:01:00): 79, pid='<unknown>', GPU has fallen off the bus.",
        "6,1,2,-;NVRM: loading NVIDIA UNIX x86_64 Kernel Module",
        "4,1,2,-;NVRM: Xid (PCI:0001:00:00): 31, pid=4711, name=python, Ch 00000008",
        "Xid without a number (PCI:)",
    )

    assert list(xids_in(lines)) == [KernelXid("0000:01:00", 79), KernelXid("0001:00:00", 31)]


def test_the_kernels_log_is_read_to_its_end_and_one_that_may_not_be_read_is_none(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_text("4,1,2,-;NVRM: Xid (PCI:0000:01:00): 48, pid=1\n")

    assert kernel_xids(log) == (KernelXid("0000:01:00", 48),)
    assert kernel_xids(tmp_path / "absent") is None
    assert kernel_xids() is None or isinstance(kernel_xids(), tuple)


def test_engines_are_found_in_this_environment_and_in_others(tmp_path: Path) -> None:
    other = tmp_path / "venv"
    info = other / "lib" / "python3.12" / "site-packages" / "vllm-0.32.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n")

    found = {(each.name, each.version, each.where) for each in installed_engines({}, [str(other), ""])}

    assert ("vllm", "0.32.0", str(other)) in found
    assert any(name == "xllamacpp" for name, _, _ in found)


@pytest.mark.parametrize(
    ("environ", "from_config", "said"),
    [
        ({"HF_TOKEN": "hf_secret"}, False, "HF_TOKEN in the environment"),
        ({}, True, "HF_TOKEN in .env"),
        ({"HF_HOME": "{folder}"}, False, "{folder}/token"),
        ({"HF_HOME": "{folder}/absent"}, False, ""),
    ],
)
def test_a_token_is_told_by_where_it_is_and_never_by_what_it_is(
    environ: dict[str, str], from_config: bool, said: str, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("hf_secret")
    here = {name: value.format(folder=tmp_path) for name, value in environ.items()}

    assert token_source(here, from_config) == said.format(folder=tmp_path)


def test_files_of_writers_that_were_killed_are_found_once_they_are_old(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    names = ("run/.keys.json.0a1b2c3d", "run/proof-4711", "run/lock", ".hidden", "keys.json")
    for name in names:
        (tmp_path / name).touch()
    now = (tmp_path / "run").stat().st_mtime

    assert stale_files(tmp_path, now) == ()
    assert stale_files(tmp_path, now + STALE_AFTER_S + 10) == tuple(
        str(tmp_path / name) for name in sorted(names[:2])
    )


def test_a_folder_that_can_not_be_looked_at_is_a_finding_and_no_end_of_all(tmp_path: Path) -> None:
    facts = host_facts({"model cache": tmp_path / ("a" * 300)})

    assert facts.disks["model cache"].total_bytes > 0
