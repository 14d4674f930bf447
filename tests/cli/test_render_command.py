"""`penstock render`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.cli.conftest import Command

UNITS = {
    "penstock.service",
    "penstock-gateway.service",
    "penstock-engine@.service",
    "penstock-exporter.service",
}


def test_units_are_written_into_a_folder_and_named(penstock: Command, folder: Path) -> None:
    result = penstock("render", "systemd", "--output", "units")

    assert result.code == 0
    assert set(result.out.split()) == {f"units/{name}" for name in (*UNITS, "penstock.target")}
    assert {path.name for path in (folder / "units").iterdir()} == {*UNITS, "penstock.target"}


def test_one_unit_is_printed_as_it_is(penstock: Command) -> None:
    result = penstock("render", "systemd", "--only", "gateway", "--user", "ada")

    assert result.out.startswith("# Made by")
    assert f"ExecStart={sys.prefix}/bin/penstock gateway" in result.out
    assert "User=ada" in result.out
    assert "---" not in result.out


def test_the_units_are_of_the_machine_that_is_named(penstock: Command, folder: Path) -> None:
    (folder / "rack.toml").write_text('[gateway]\ndrain_timeout = "10m"\n')

    here = penstock("-c", "rack.toml", "render", "systemd", "--only", "supervisor")
    there = penstock(
        *("-c", "rack.toml", "render", "systemd", "--only", "supervisor"),
        *("--prefix", "/srv/penstock", "--config-path", "/etc/penstock/rack.toml"),
    )

    assert f"--config {folder}/rack.toml up" in here.out
    assert "ExecStart=/srv/penstock/bin/penstock --config /etc/penstock/rack.toml up" in there.out
    assert "EnvironmentFile=-/etc/penstock/environment" in there.out
    stop_s = int(there.out.split("TimeoutStopSec=")[1].split()[0])
    assert 2 * 600 < stop_s < 2 * 600 + 60


def test_a_model_in_a_temporary_folder_is_told_of(penstock: Command, folder: Path) -> None:
    (folder / "penstock.toml").write_text(
        '[[models]]\nname = "m"\nengine = "llamacpp"\nsource = "/tmp/m.gguf"\n'
    )

    result = penstock("render", "systemd", "--prefix", "/opt/penstock", "--config-path", "/etc/penstock.toml")

    assert result.code == 0
    assert "warning: /tmp/m.gguf is in a temporary folder" in result.err


def test_what_is_wrong_on_the_command_line_is_said(penstock: Command, folder: Path) -> None:
    (folder / "file").touch()

    assert penstock("render").code == 2
    assert penstock("render", "systemd", "--user", "root\nUser=root").code == 2
    assert penstock("render", "systemd", "--only", "console").code == 2
    refused = penstock("render", "systemd", "--output", "file")

    assert refused.code == 2
    assert "file/penstock.service can't be written" in refused.err
