"""A gateway that follows a changed configuration."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from penstock.assembly.worker import Worker
from penstock.core.config import Config
from penstock.core.config_sources import Loaded
from penstock.core.errors import ClientError, PenstockError
from penstock.gateway.settings import Settings
from penstock.telemetry.logs import Logger
from penstock.telemetry.notify import Notifier


class GatewayReload:
    """Puts the configuration in force as it is now; one with mistakes is refused whole."""

    def __init__(
        self,
        settings: Settings,
        load: Callable[[], Loaded],
        follow: Callable[[], None],
        worker: Worker,
        log: Logger,
        notifier: Notifier,
    ) -> None:
        self._settings = settings
        self._load = load
        self._follow = follow
        self._worker = worker
        self._log = log
        self._notifier = notifier
        self.applied = self.refused = 0
        self.refused_last = False
        self._told_others: Config | None = None  # of which the parent tells this worker as well

    async def asked(self) -> int:
        """A reload that the admin API was asked for; returns the generation.

        Raises:
            ClientError: the configuration has mistakes.
        """
        try:
            self._apply()
        except PenstockError as error:  # mistakes, or a file that can't be read
            self._note(refused=True)
            raise ClientError(
                error.message, code="invalid_configuration", hint="everything is as it was before"
            ) from None
        if self._worker.count > 1:
            self._told_others = self._settings.config
            os.kill(os.getppid(), signal.SIGHUP)  # which tells every worker
        return self._settings.generation

    def signalled(self) -> None:
        """A reload by SIGHUP."""
        known, self._told_others = self._told_others, None
        try:
            self._apply(known)
        except PenstockError as error:
            self._note(refused=True)
            self._log.error("reload refused", problems=error.message)

    def _apply(self, known: Config | None = None) -> None:
        with self._notifier.reloading():
            config = self._load().config
            if config == known:
                return
            self._settings.apply(config)
            self._follow()
        self._note(refused=False)
        self._log.info("reloaded", generation=self._settings.generation)

    def _note(self, *, refused: bool) -> None:
        self.refused_last = refused
        self.refused += refused
        self.applied += not refused
