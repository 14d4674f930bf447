"""Which files a command reads: `penstock.toml`, and `.env` beside it; and where its home is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from penstock.cli.terminal import UsageError, say
from penstock.store.home import Home
from penstock.telemetry.notify import Notifier

if TYPE_CHECKING:
    from penstock.core.config_sources import Loaded

CONFIG_VARIABLE = "PENSTOCK_CONFIG"
CONFIG_NAME = "penstock.toml"
DOTENV_NAMES = (".env", "config/.env")
# systemd's folder of secrets for a unit; what is there takes the place of `.env`.
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
CREDENTIAL_NAME = "penstock.env"


@dataclass(frozen=True, slots=True)
class Invocation:
    """What is true of any command: the option `--config` as given, the environment, the working directory, and
    whom to tell how it goes.
    """

    config: Path | None
    environ: Mapping[str, str]
    cwd: Path
    notifier: Notifier = field(default_factory=Notifier)

    @property
    def home(self) -> Home:
        """The home of this working directory."""
        return Home.of(self.environ, self.cwd)

    @property
    def options(self) -> tuple[str, ...]:
        """The options that make a child command read the same files."""
        return ("--config", str(self.config)) if self.config else ()

    @property
    def config_name(self) -> str:
        """The file of the configuration, for people."""
        toml = self.toml
        return str(toml) if toml else "no penstock.toml (the bundled demo)"

    def load(self, *, quiet: bool = False) -> Loaded:
        """The configuration; its warnings are printed unless it shall be `quiet`.

        Raises:
            ConfigError: it has mistakes.
            UsageError: a file that is named can't be read.
        """
        from penstock.core.config_sources import load_config  # pydantic, which not every command needs

        toml = self.toml
        folder = toml.parent if toml else self.cwd
        credentials = self.environ.get(CREDENTIALS_VARIABLE)
        places = [Path(credentials, CREDENTIAL_NAME)] if credentials else []
        places += [folder / name for name in DOTENV_NAMES]
        dotenv = next(filter(_is_there, places), None)
        loaded = load_config(
            toml_text=_read(toml) if toml else None,
            toml_name=str(toml or CONFIG_NAME),
            environ=self.environ,
            dotenv_text=_read(dotenv) if dotenv else None,
            dotenv_name=str(dotenv or DOTENV_NAMES[0]),
        )
        for warning in () if quiet else loaded.warnings:
            say(f"warning: {warning}")
        return loaded

    @property
    def toml(self) -> Path | None:
        """The configuration file, if there is one."""
        named = self.config or self.environ.get(CONFIG_VARIABLE)
        if named:
            return self.cwd / named
        found = self.cwd / CONFIG_NAME
        return found if found.is_file() else None


def invocation(context: typer.Context) -> Invocation:
    """The invocation that `context` belongs to."""
    found = context.find_object(Invocation)
    assert found is not None
    return found


def begin(config: Path | None) -> Invocation:
    """The invocation of this process."""
    notifier = Notifier.taken_from(os.environ, os.getpid())
    return Invocation(config, dict(os.environ), Path.cwd(), notifier)


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:
        return True  # reading it says so


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise UsageError(
            f"{path} can't be read: {str(error.strerror).lower()}",
            hint="name the configuration with --config PATH or PENSTOCK_CONFIG",
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
