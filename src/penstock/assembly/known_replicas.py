"""Which replicas there shall be: remote ones of the configuration, and what is registered in this home."""

from __future__ import annotations

from penstock.core.config import Config
from penstock.gateway.replicas import replica_of
from penstock.gateway.settings import Settings
from penstock.policy.fleet import Replica
from penstock.store.home import Home
from penstock.store.runtime import Registry


class KnownReplicas:
    """The replicas that shall be there now; gives the same list until that changes."""

    def __init__(self, settings: Settings, home: Home) -> None:
        self._settings = settings
        self._registry = Registry(home.replicas)
        self._changed = (0, 0)
        self._registered: list[Replica] = []
        self._known: list[Replica] = []

    def __call__(self) -> list[Replica]:
        """All of them; looked for again only when settings or registry have changed, and can be read."""
        changed_ns = self._registry.changed_ns()
        changed = (changed_ns or self._changed[0], self._settings.generation)
        if changed == self._changed:
            return self._known
        if changed[0] != self._changed[0]:
            self._registered = [
                replica_of(entry.name, entry.model, entry.engine, entry.url, entry.api_key)
                for entry in self._registry.registrations()
            ]
        self._changed = changed
        self._known = [*_remote(self._settings.config), *self._registered]
        return self._known


def _remote(config: Config) -> list[Replica]:
    return [
        replica_of(
            f"{model.name}-{number}",
            model.name,
            model.engine,
            url,
            model.api_key.get_secret_value() if model.api_key else "",
        )
        for model in config.models
        if model.engine == "remote"
        for number, url in enumerate(model.sources)
    ]
