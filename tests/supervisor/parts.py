"""Parts for tests: small Python programs as children, which say in a file that they are ready."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.engines.spec import Launch
from penstock.policy.restart import RestartLimits
from penstock.supervisor.keeper import Keeper, Surroundings

READY = "import sys, pathlib; pathlib.Path(sys.argv[1]).touch(); "
SERVE = READY + "import signal; signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SERVE
FALL_ONCE_SEEN = READY + "\nimport time\nwhile pathlib.Path(sys.argv[1]).exists(): time.sleep(0.005)"
HANG = "import signal; signal.pause()"
DONE = "print('usage: serve [--port]')"
DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    time.sleep(1000)
time.sleep(0.1)
"""
PORT_LOST = "import sys; sys.exit('OSError: [Errno 98] Address already in use')"
FAIL = "import sys; print('first line', flush=True); sys.exit('the model file is bent')"

WITHIN_S = 30.0
QUICK = RestartLimits(first_wait_s=0.001, wait_s_max=0.001)


@dataclass
class ScriptPart:
    """A part whose process is `python -c script PATH`; it is ready once the file at PATH exists.

    With `takes_sign` the file is removed when it is found, which tells the process that it was seen.
    """

    name: str
    folder: Path
    script: str = SERVE
    stop_within_s: float = 20.0
    program: str = sys.executable
    takes_sign: bool = False
    model_name: str = "demo"
    engine: str = "script"
    gpus: tuple[int, ...] = ()
    causes: tuple[tuple[str, str], ...] = ()
    start_silence_s: float = 300.0
    cleanup: tuple[str, ...] = ()
    is_left: bool = False
    events: list[str] = field(default_factory=list)
    on_event: Callable[[str], None] = lambda _: None

    @property
    def sign(self) -> Path:
        """The file that says it is ready."""
        return self.folder / f"{self.name}.ready"

    def launch(self) -> Launch:
        self.sign.unlink(missing_ok=True)
        return Launch((self.program, "-c", self.script, str(self.sign)), cleanup=self.cleanup)

    def started(self, pid: int) -> None:
        self._happened(f"{self.name} started")

    def ended(self) -> None:
        self._happened(f"{self.name} ended")

    def left(self) -> None:
        self.is_left = True

    async def is_ready(self) -> bool:
        found = self.sign.exists()
        if found and self.takes_sign:
            self.sign.unlink()
        return found

    def _happened(self, event: str) -> None:
        self.events.append(event)
        self.on_event(event)


@dataclass
class Said:
    """Lines that were said."""

    lines: list[str] = field(default_factory=list)

    def __call__(self, line: str) -> None:
        self.lines.append(line)

    @property
    def text(self) -> str:
        """All of them."""
        return "\n".join(self.lines)


def keeper(part: ScriptPart, said: Said, limits: RestartLimits = QUICK, **around: Any) -> Keeper:
    """A keeper of `part`; its clock stands still unless another is given, which makes every restart a recent one."""
    given = {"environ": {}, "clock": lambda: 0.0, "chance": lambda: 0.0, "say": said, **around}
    return Keeper(part, part.folder / f"{part.name}.log", limits, Surroundings(**given))


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what a process does, of which no event tells."""
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.01)
