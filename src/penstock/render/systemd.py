"""Units for systemd: Penstock as one service, or gateway, engines and exporter as services of their own.

Every time limit comes from the configuration; no unit holds a key. What each setting is for is said in the unit
itself, as far as it can't be guessed, and in `docs/systemd.md`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from penstock.core.config import Config
from penstock.core.errors import PenstockError
from penstock.render.sandbox import Sandbox, sandbox
from penstock.supervisor.parts import (
    ENGINE_STOP_MARGIN_S,
    GATEWAY_STOP_MARGIN_S,
    engine_drain_s,
    stop_within_s,
)
from penstock.telemetry.notify import START_EXTENDED_BY_S

WATCHDOG_S = 30
# Beyond what the parts may take: processes that SIGKILL does not end at once, and the interpreter's own end.
STOP_MARGIN_S = 30
RESTART_AFTER_S = 5
# The kernel's own limit on what a process may ask for; systemd refuses no smaller one.
FILES_MAX = 1024 * 1024
FILES_MIN = 65536
FILES_PER_CONNECTION = 2  # the client's, and the engine's
UNIT_NAME_MAX = 255
CREDENTIAL = "penstock.env"  # which `cli/loading` reads

_PLAIN_INSTANCE = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_:.-]*")
_PLAIN_WORD = re.compile(r"[A-Za-z0-9_/.,:=@+-]+")
_HEAD = "# Made by `penstock render systemd` from the configuration; change that, and render again."
# Engines that run on no device of this machine.
_NO_DEVICE = frozenset({"remote", "sim"})


class Part(StrEnum):
    """What a unit runs."""

    SUPERVISOR = "supervisor"
    GATEWAY = "gateway"
    ENGINE = "engine"
    EXPORTER = "exporter"


@dataclass(frozen=True, slots=True)
class Site:
    """Where Penstock is on the machine that the units are for, and who runs it.

    Args:
        command: the command `penstock`.
        config: the configuration; None for the demo.
        user: whose processes they are.
        vllm_venv: where vLLM is installed; empty where it is on the PATH.
    """

    command: Path
    config: Path | None
    user: str = "penstock"
    vllm_venv: str = ""


def units(config: Config, site: Site, parts: Collection[Part] = tuple(Part)) -> dict[str, str]:
    """The files, by name.

    Raises:
        PenstockError: the name of a model is too long for a unit, or a path has characters that none can have.
    """
    _check(site)
    files = {f"{_NAMES[part]}.service": _Unit(config, site, part).text() for part in Part if part in parts}
    instances = {model.name: _instance(model.name) for model in config.models if model.engine != "remote"}
    if Part.ENGINE in parts:
        for name, instance in instances.items():
            if instance != name or not _PLAIN_INSTANCE.fullmatch(name):
                start = _command(site, "engine", "--", name)
                text = _ini("Service", ["ExecStart=", f"ExecStart={start}"])
                files[f"penstock-engine@{instance}.service.d/name.conf"] = f"{_HEAD}\n\n{text}"
    split = [part for part in Part if part in parts and part is not Part.SUPERVISOR]
    if len(split) > 1:
        files["penstock.target"] = _target(split, instances.values())
    return files


_NAMES = {
    Part.SUPERVISOR: "penstock",
    Part.GATEWAY: "penstock-gateway",
    Part.ENGINE: "penstock-engine@",
    Part.EXPORTER: "penstock-exporter",
}
_DESCRIPTIONS = {
    Part.SUPERVISOR: "Penstock: engines and gateway under one supervisor",
    Part.GATEWAY: "Penstock gateway",
    Part.ENGINE: "Penstock engine of %i",
    Part.EXPORTER: "Penstock exporter of GPU metrics",
}
_COMMANDS = {
    Part.SUPERVISOR: ("up",),
    Part.GATEWAY: ("gateway",),
    Part.ENGINE: ("engine", "%i"),
    Part.EXPORTER: ("exporter",),
}


class _Unit:
    """One service."""

    def __init__(self, config: Config, site: Site, part: Part) -> None:
        self._config = config
        self._site = site
        self._part = part
        self._has_engines = part in (Part.SUPERVISOR, Part.ENGINE)
        self._listens = part in (Part.SUPERVISOR, Part.GATEWAY)

    def text(self) -> str:
        """The file."""
        service = [
            *self._life(),
            *self._stop(),
            *self._surroundings(),
            *self._resources(),
            *sandbox(self._sandbox()),
        ]
        return "\n".join(
            (
                f"{_HEAD}\n",
                _ini("Unit", list(self._unit())),
                _ini("Service", service),
                _ini("Install", ["WantedBy=multi-user.target"]),
            )
        )

    def _unit(self) -> Iterator[str]:
        yield f"Description={_DESCRIPTIONS[self._part]}"
        yield "Wants=network-online.target"
        yield "After=network-online.target" + (" nvidia-persistenced.service" if self._uses_gpu else "")
        if self._part is Part.SUPERVISOR:
            yield "Conflicts=penstock.target"
        else:
            yield "PartOf=penstock.target"
        yield "# A service that can't be kept up stays down and is seen, instead of starting for ever."
        yield "StartLimitIntervalSec=10min"
        yield "StartLimitBurst=5"

    def _life(self) -> Iterator[str]:
        yield "# Active once it can serve; `systemctl status` tells what it waits for until then."
        yield "Type=notify"
        yield "NotifyAccess=main"
        yield f"ExecStart={_command(self._site, *_COMMANDS[self._part], plain=True)}"
        if self._part is Part.SUPERVISOR:
            yield "# Fails where the supervisor refuses the configuration."
            yield f"ExecReload={_command(self._site, 'reload')}"
        elif self._part is Part.GATEWAY:
            yield "# No command of Penstock: systemd 252 shows credentials to the main process alone."
            yield "ExecReload=/bin/kill -HUP $MAINPID"
        if self._has_engines:
            yield "# From the last word that engines come on; the supervisor itself ends one that hangs while it loads."
        yield f"TimeoutStartSec={START_EXTENDED_BY_S}"
        yield "# The event loop has to show that it turns, or is ended by SIGABRT and says where it hung."
        yield f"WatchdogSec={WATCHDOG_S}"
        yield "TimeoutAbortSec=10"
        yield "Restart=on-failure"
        yield f"RestartSec={RESTART_AFTER_S}"
        yield "# A wrong configuration is not mended by another start."
        yield "RestartPreventExitStatus=2"

    def _stop(self) -> Iterator[str]:
        yield ""
        if self._part is Part.EXPORTER:
            yield "KillMode=control-group"
        else:
            yield "# SIGTERM goes to the main process alone, which finishes open streams, then ends what they needed;"
            yield "# sent to the whole group, it would end vLLM's own under them. Whatever process is left at the end"
            yield "# gets SIGKILL, as with control-group."
            yield "KillMode=mixed"
            yield "# More than that may take, which follows from gateway.drain_timeout."
        yield f"TimeoutStopSec={stop_timeout_s(self._config, self._part)}"

    def _surroundings(self) -> Iterator[str]:
        site = self._site
        yield ""
        yield f"User={_value(site.user)}"
        yield "UMask=0077"
        yield "Slice=penstock.slice"
        yield "StateDirectory=penstock"
        yield "StateDirectoryMode=0700"
        yield "CacheDirectory=penstock"
        yield "CacheDirectoryMode=0700"
        yield "Environment=PENSTOCK_HOME=%S/penstock HOME=%S/penstock XDG_CACHE_HOME=%C/penstock"
        if self._has_engines and site.vllm_venv:
            yield f"Environment={_quoted(f'PENSTOCK_VLLM_VENV={site.vllm_venv}', dollar='$')}"
        yield f"WorkingDirectory={_value(str(site.config.parent)) if site.config else '%S/penstock'}"
        if site.config:
            yield "# For what is no secret: HF_ENDPOINT, HTTPS_PROXY."
            yield f"EnvironmentFile=-{_value(str(site.config.parent / 'environment'))}"
        yield f"# Keys and tokens: NAME=value lines in /etc/credstore/{CREDENTIAL}, which root alone can read."
        yield f"LoadCredential={CREDENTIAL}"

    def _resources(self) -> Iterator[str]:
        yield ""
        yield f"LimitNOFILE={self._files()}"
        yield "# A core would hold prompts."
        yield "LimitCORE=0"
        if self._has_engines:
            yield "LimitMEMLOCK=infinity"
            yield "TasksMax=32768"
            yield "# Each engine gets a control group of its own below this one."
            yield "Delegate=yes"
            yield "# An engine that ran out of memory is started again by its supervisor, which says why."
            yield "OOMPolicy=continue"
        else:
            yield "OOMPolicy=stop"
        if self._part is Part.GATEWAY:
            yield "OOMScoreAdjust=-500"

    def _files(self) -> int:
        connections = self._config.gateway.connections_max if self._listens else 0
        return min(max(FILES_MIN, FILES_PER_CONNECTION * connections + FILES_MIN), FILES_MAX)

    def _sandbox(self) -> Sandbox:
        return Sandbox(
            compiles=self._has_engines,
            uses_gpu=self._uses_gpu,
            has_groups=self._has_engines,
            binds_low_port=any(0 < port < 1024 for port in self._ports()),
            lives_in_home=any(_is_below(path, _HOMES) for path in paths(self._config, self._site)),
        )

    def _ports(self) -> Iterator[int]:
        """Those that it listens on."""
        if self._listens:
            yield from (self._config.gateway.listen.port, self._config.gateway.admin.port)
        if self._part in (Part.SUPERVISOR, Part.EXPORTER):
            yield self._config.exporter.listen.port

    @property
    def _uses_gpu(self) -> bool:
        if self._part is Part.EXPORTER:
            return True
        return self._has_engines and any(model.engine not in _NO_DEVICE for model in self._config.models)


def stop_timeout_s(config: Config, part: Part) -> int:
    """How long systemd waits for a part to stop, in whole seconds: longer than it takes at the longest."""
    drain_s = config.gateway.drain_timeout_s
    needed_s = {
        Part.SUPERVISOR: stop_within_s(drain_s),
        Part.GATEWAY: drain_s + GATEWAY_STOP_MARGIN_S,
        Part.ENGINE: drain_s + engine_drain_s(drain_s) + ENGINE_STOP_MARGIN_S,
        Part.EXPORTER: 0.0,
    }
    return math.ceil(needed_s[part]) + STOP_MARGIN_S


_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
_TEMPORARY = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - the folders that a unit does not see


def paths(config: Config, site: Site) -> tuple[Path, ...]:
    """What the units read: command, configuration, models and vLLM."""
    folder = site.config.parent if site.config else Path("/")
    sources = [
        folder / model.source
        for model in config.models
        if isinstance(model.source, str) and model.engine != "remote"
    ]
    venv = [Path(site.vllm_venv)] if site.vllm_venv else []
    return (site.command, *filter(None, [site.config]), *sources, *venv)


def unseen(config: Config, site: Site) -> tuple[Path, ...]:
    """What is in a temporary folder, of which each unit has its own."""
    return tuple(path for path in paths(config, site) if _is_below(path, _TEMPORARY))


def _is_below(path: Path, folders: Sequence[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _check(site: Site) -> None:
    """Refuses paths that would be read as something else, or not at all."""
    if not str(site.command).isprintable() or set(str(site.command)) & set("\"'\\$"):
        raise PenstockError(
            f"systemd runs no program at {str(site.command)!r}",
            code="path_unusable",
            hint="install Penstock at a path without quotes, backslashes and dollars, or name one with --prefix",
        )
    for path in (str(site.config or ""), site.vllm_venv):
        if path and not path.isprintable():
            raise PenstockError(
                f"a unit can't name {path!r}",
                code="path_unusable",
                hint="use a path without line breaks and control characters",
            )


def _target(parts: Sequence[Part], instances: Collection[str]) -> str:
    wanted = []
    for part in parts:
        names = [f"{_NAMES[part]}{one}" for one in instances] if part is Part.ENGINE else [_NAMES[part]]
        wanted += [f"Wants={name}.service" for name in names]
    unit = [
        "Description=Penstock in parts: gateway, engines, exporter",
        "Conflicts=penstock.service",
        *wanted,
    ]
    return "\n".join((f"{_HEAD}\n", _ini("Unit", unit), _ini("Install", ["WantedBy=multi-user.target"])))


def _instance(name: str) -> str:
    """The name of a model as that of an instance: `\\xNN` for bytes that a unit's name can't have."""
    plain = "".join(
        char if char.isascii() and (char.isalnum() or char in "_:.-") else _escaped(char) for char in name
    )
    if len(f"{_NAMES[Part.ENGINE]}{plain}.service.d") > UNIT_NAME_MAX:
        raise PenstockError(
            f"the model {name!r} has a name that is too long for a unit",
            code="name_too_long",
            hint="give it a short name and this one as an alias, or render --only supervisor",
        )
    return plain


def _escaped(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in char.encode())


def _command(site: Site, *words: str, plain: bool = False) -> str:
    """A command line; the specifiers in `words` are systemd's to expand where they are `plain`."""
    own = [str(site.command), *(("--config", str(site.config)) if site.config else ())]
    return " ".join((*map(_quoted, own), *(words if plain else map(_quoted, words))))


def _quoted(word: str, dollar: str = "$$") -> str:
    """A word of a command line; or of a list, in which a dollar stands for itself."""
    if _PLAIN_WORD.fullmatch(word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("$", dollar)
    return f'"{_value(escaped)}"'


def _value(text: str) -> str:
    """A value that is taken whole, but for specifiers."""
    return text.replace("%", "%%")


def _ini(section: str, lines: Sequence[str]) -> str:
    return "\n".join((f"[{section}]", *lines, ""))
