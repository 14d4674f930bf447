"""What is read beside a load, engines and GPUs, from before its start until after its end."""

from __future__ import annotations

import time
from collections.abc import Mapping

from penstock.bench.beside.pages import Beside, Readings
from penstock.bench.beside.power import Power, PowerReadings
from penstock.bench.load.processes import Generated
from penstock.bench.prepare import Prepared
from penstock.bench.settings import Settings
from penstock.engines.client import EngineClient


class Instruments:
    """Reads from `start` to `stop`; each of them may be missing."""

    def __init__(self, settings: Settings, prepared: Prepared) -> None:
        self._client = EngineClient()
        self._beside = Beside(prepared.sources, self._client) if prepared.sources else None
        self._power = Power(log=settings.gpu_log) if settings.gpu else None

    @property
    def now(self) -> Mapping[str, float]:
        """The newest figures."""
        return self._beside.now if self._beside is not None else {}

    async def start(self) -> None:
        """Begins to read.

        Raises:
            GpuLogError: the log of the GPUs can't be written.
        """
        if self._power is not None:
            await self._power.start()
        if self._beside is not None:
            await self._beside.start()

    async def stop(self, generated: Generated | None) -> tuple[Readings | None, PowerReadings | None]:
        """Ends the reading, and returns what was read, on the clock of the load; of a load that failed, nothing."""
        if generated is None:
            origin_s, wall_s = time.monotonic(), 0.0
        else:
            origin_s, wall_s = time.monotonic() - (time.time() - generated.started_at), generated.wall_s
        try:
            readings = await self._beside.stop(origin_s) if self._beside is not None else None
            powered = await self._power.stop(origin_s, wall_s) if self._power is not None else None
        finally:
            self._client.close()
        return readings, powered
