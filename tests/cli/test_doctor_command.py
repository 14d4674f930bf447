"""`penstock doctor`."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.cli.conftest import Command


def test_a_well_machine_with_a_gpu_is_told_as_rows_with_a_count(penstock: Command, folder: Path) -> None:
    gpus(folder, '{"gpus": [{}]}')

    result = penstock("doctor", "--fake-gpus", "gpus.json")

    assert result.code == 0, result.out
    rows = [line for line in result.out.splitlines() if line.startswith("ok ")]
    assert any("NVIDIA H100 80GB HBM3, 0.5 of 79.6 GiB used" in row for row in rows)
    assert any("llamacpp, the bundled model is whole" in row for row in rows)
    assert " ok" in result.out.splitlines()[-1]


def test_what_fails_is_told_with_a_hint_and_by_the_exit_code(penstock: Command, folder: Path) -> None:
    gpus(folder, '{"gpus": [{"ecc_uncorrected": 2}]}')

    result = penstock("doctor", "--fake-gpus", "gpus.json")

    lines = result.out.splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith("fail"))
    assert result.code == 1
    assert "2 uncorrected memory errors" in lines[at]
    assert lines[at + 1].strip() == "hint: stop what uses it, then: sudo nvidia-smi --gpu-reset -i 0"
    assert lines[-1].startswith("1 fail")


def test_json_has_every_finding(penstock: Command, folder: Path) -> None:
    findings = json.loads(penstock("doctor", "--json").out)["findings"]

    assert {"driver", "config", "shm", "disk of home", "gateway.listen"} <= {
        each["subject"] for each in findings
    }
    assert {"subject", "level", "seen", "mend"} == set(findings[0])


def test_a_broken_configuration_is_a_finding_and_the_rest_is_examined(
    penstock: Command, folder: Path
) -> None:
    (folder / "penstock.toml").write_text('[gateway]\nlisten = "nowhere"\n')

    result = penstock("doctor", "--json")

    failed = [each for each in json.loads(result.out)["findings"] if each["level"] == "fail"]
    assert result.code == 1
    assert "gateway.listen: expected host:port" in failed[0]["seen"]


def test_model_files_that_are_missing_or_strange_and_a_taken_port_are_found(
    penstock: Command, folder: Path
) -> None:
    (folder / "strange.gguf").write_bytes(b"GGUF no more")
    names = "".join(
        f'[[models]]\nname = "{name}"\nengine = "llamacpp"\nsource = "{name}.gguf"\n'
        for name in ("strange", "absent")
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        (folder / "penstock.toml").write_text(f'[gateway]\nlisten = "{address}"\n{names}')
        result = penstock("doctor", "--json")

    by_subject = {each["subject"]: each for each in json.loads(result.out)["findings"]}
    assert by_subject["gateway.listen"]["level"] == "fail"
    assert f"{address} is in use by" in by_subject["gateway.listen"]["seen"]
    assert by_subject["model absent"]["level"] == "fail", by_subject["model absent"]
    assert by_subject["model strange"]["level"] == "warn", by_subject["model strange"]


def test_a_model_of_the_hub_is_looked_for_in_the_cache_and_never_on_the_network(
    penstock: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(folder / "cache"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    (folder / "penstock.toml").write_text(
        '[[models]]\nname = "m"\nengine = "llamacpp"\nsource = "owner/model:Q4_K_M"\n'
    )

    result = penstock("doctor")

    assert (
        "owner/model:Q4_K_M is not on this disk; `penstock pull owner/model:Q4_K_M` fetches it" in result.out
    )
    assert "m may be gated, and downloads are limited without" in result.out


def test_a_token_is_never_shown(penstock: Command, folder: Path) -> None:
    (folder / ".env").write_text("HF_TOKEN=hf_a_secret\n")

    result = penstock("doctor")

    assert "there is one (HF_TOKEN in .env)" in result.out
    assert "hf_a_secret" not in result.out + result.err


def gpus(folder: Path, text: str) -> None:
    """A machine with these GPUs, and a configuration whose ports are free."""
    (folder / "gpus.json").write_text(text)
    (folder / "penstock.toml").write_text('gateway = { listen = "127.0.0.1:0", admin = "127.0.0.1:0" }\n')
