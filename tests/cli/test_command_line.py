"""What every command has in common: help, exit codes, messages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import penstock as package
from penstock.cli.app import COMMANDS
from tests.cli.conftest import Command

COMMAND_LINES = [*((name,) for name in COMMANDS), *(("keys", one) for one in ("create", "list", "revoke"))]


def test_the_version_is_data(penstock: Command) -> None:
    result = penstock("--version")

    assert (result.code, result.out, result.err) == (0, f"penstock {package.__version__}\n", "")


@pytest.mark.parametrize("line", [(), *COMMAND_LINES, ("sim", "engine")], ids=" ".join)
def test_every_help_tells_the_exit_codes_and_ends_with_examples(
    penstock: Command, line: tuple[str, ...]
) -> None:
    result = penstock(*line, "--help")

    exits, _, examples = result.out.partition("Examples:\n")
    assert result.code == 0
    assert "Exit codes: 0" in exits
    assert all(example.startswith("    penstock ") for example in examples.strip("\n").splitlines())


def test_without_a_command_the_help_is_shown_and_it_is_a_mistake(penstock: Command) -> None:
    result = penstock()

    assert result.code == 2
    assert all(f"\n  {name} " in result.out for name in COMMANDS)


def test_the_version_loads_no_command() -> None:
    code = "import sys; from penstock.cli.app import run; run(['--version']); print(*sys.modules)"

    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert not {"penstock.core.config", "fastapi", "xllamacpp", "penstock.cli.up"} & set(modules.split())


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (("nope",), "error: No such command 'nope'.\nhint: penstock --help\n"),
        (("up", "--foo"), "error: No such option: --foo\nhint: penstock up --help\n"),
        (("keys", "revoke"), "error: Missing argument 'ID'.\nhint: penstock keys revoke --help\n"),
    ],
)
def test_wrong_usage_gets_an_error_and_a_hint(penstock: Command, line: tuple[str, ...], error: str) -> None:
    result = penstock(*line)

    assert (result.code, result.out, result.err) == (2, "", error)


def test_a_named_configuration_that_is_not_there_is_wrong_usage(penstock: Command) -> None:
    result = penstock("-c", "none.toml", "up")

    assert result.code == 2
    assert "none.toml can't be read: no such file or directory" in result.err
    assert "hint: " in result.err


def test_every_mistake_of_a_configuration_is_a_line(penstock: Command, folder: Path) -> None:
    (folder / "penstock.toml").write_text("[gateway]\nlistn = 1\ndrain_timeout = 'x'\n")

    result = penstock("up")

    assert result.code == 2
    assert result.err.count("error: gateway.") == 2
    assert not (folder / ".penstock").exists()


def test_every_model_that_can_not_start_is_a_line(penstock: Command, folder: Path) -> None:
    (folder / "text.gguf").write_text("hello")
    (folder / "penstock.toml").write_text(
        '[[models]]\nname = "a"\nengine = "llamacpp"\nsource = "absent.gguf"\nengine_args = { n_cxt = 1 }\n'
        '[[models]]\nname = "b"\nengine = "llamacpp"\nsource = "text.gguf"\n'
    )

    result = penstock("up")

    assert result.code == 2
    assert result.err.splitlines()[:2] == [
        "error: models.0.source: absent.gguf does not exist",
        "error: models.0.engine_args.n_cxt: llamacpp has no such argument; did you mean n_ctx?",
    ]
    assert "error: models.1.source: text.gguf is not a GGUF file" in result.err


def test_a_dotenv_beside_the_configuration_is_read(penstock: Command, folder: Path) -> None:
    (folder / "sub" / "config").mkdir(parents=True)
    (folder / "sub" / "penstock.toml").write_text("")
    (folder / "sub" / "config" / ".env").write_text("PENSTOCK_GATEWAY__LISTEN=nonsense\n")

    result = penstock("-c", "sub/penstock.toml", "up")

    assert result.code == 2
    assert "gateway.listen" in result.err
    assert "config/.env" in result.err


def test_the_credential_of_a_service_takes_the_place_of_a_dotenv(
    penstock: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / ".env").write_text("PENSTOCK_GATEWAY__ADMIN=nonsense\n")
    (folder / "credentials").mkdir()
    (folder / "credentials" / "penstock.env").write_text("PENSTOCK_GATEWAY__LISTEN=nonsense\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder / "credentials"))

    result = penstock("up")

    assert result.code == 2
    assert "gateway.listen" in result.err
    assert "credentials/penstock.env" in result.err
    assert "gateway.admin" not in result.err


def test_an_unknown_model_is_answered_with_the_nearest(penstock: Command) -> None:
    result = penstock("engine", "penstok-demo")

    assert result.code == 2
    assert "did you mean penstock-demo?" in result.err


def test_a_home_that_can_not_be_written_is_said_in_one_message(penstock: Command, folder: Path) -> None:
    (folder / ".penstock").write_text("a file")

    result = penstock("up")

    assert result.code == 1
    assert result.err.count("error: ") == 1
    assert "it is a file, not a folder" in result.err


def test_an_old_python_gets_a_message_and_no_traceback() -> None:
    code = (
        "import sys; sys.version_info = (3, 8, 1)\n"
        "import penstock.__main__ as main; sys.argv = ['penstock', 'up']; main.main()"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})

    assert result.returncode == 2
    assert result.stderr.startswith("error: Penstock needs Python 3.11 or newer, this is 3.8\nhint: ")


@pytest.mark.parametrize("line", [("plan", "a" * 300), ("up", "--model", "a" * 300)], ids=" ".join)
def test_what_the_disk_refuses_is_a_sentence_and_no_bug(penstock: Command, line: tuple[str, ...]) -> None:
    result = penstock(*line)

    assert (result.code, result.out) == (1, "")
    assert result.err == f"error: {'a' * 300}: file name too long\nhint: name another place\n"


@pytest.mark.parametrize(
    "line", [("plan", "~nobody-here/x"), ("up", "--model", "~nobody-here/x")], ids=" ".join
)
def test_the_home_of_nobody_is_a_place_that_is_not_there(penstock: Command, line: tuple[str, ...]) -> None:
    result = penstock(*line)

    assert result.code in (1, 2)
    assert "~nobody-here/x: there is no such file or folder" in result.err
