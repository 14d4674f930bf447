"""The exporter as a part that is kept running; nothing else waits for it, and nothing ends with it."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from penstock.core.address import Address
from penstock.core.errors import PenstockError
from penstock.engines.client import EngineClient
from penstock.engines.spec import Launch
from penstock.supervisor.parts import PROBE_WITHIN_S

START_SILENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class ExporterPart:
    """The exporter.

    Args:
        listen: where it listens.
        options: of the command line, before the command: `--config PATH`.
    """

    listen: Address
    options: tuple[str, ...]
    client: EngineClient
    name: str = "exporter"
    model_name: str = ""
    engine: str = ""
    gpus: tuple[int, ...] = ()
    causes: tuple[tuple[str, str], ...] = ()
    start_silence_s: float = START_SILENCE_S
    stop_within_s: float = 5.0

    def launch(self) -> Launch:
        """The command of its next start."""
        argv = (sys.executable, "-m", "penstock", *self.options, "exporter")
        return Launch(argv, env={"PENSTOCK_EXPORTER__LISTEN": str(self.listen)})

    def started(self, pid: int) -> None:
        """Its process runs."""

    def ended(self) -> None:
        """Its process is gone."""
        self.client.forget(self.listen.reachable())

    def left(self) -> None:
        """It is not started again."""

    async def is_ready(self) -> bool:
        """Whether it listens."""
        try:
            reply = await self.client.fetch(
                self.listen.reachable(), b"GET", b"/health", timeout_s=PROBE_WITHIN_S
            )
        except PenstockError:
            return False
        return reply.status == 200
