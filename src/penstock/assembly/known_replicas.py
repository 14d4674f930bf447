"""Which replicas there shall be: remote ones of the configuration, and what is registered in this home."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator

from penstock.core.config import Config, ModelConfig
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
        self._moved: dict[tuple[str, str], str] = {}

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
        self._known = [*self._remote(self._settings.config), *self._registered]
        return self._known

    def _remote(self, config: Config) -> list[Replica]:
        models = [model for model in config.models if model.engine == "remote"]
        urls = {(model.name, url) for model in models for url in model.sources}
        self._moved = {key: name for key, name in self._moved.items() if key in urls}
        registered = {replica.name for replica in self._registered}
        return [
            replica_of(
                name,
                model.name,
                model.engine,
                url,
                model.api_key.get_secret_value() if model.api_key else "",
            )
            for model in models
            for name, url in self._named(model, registered)
        ]

    def _named(self, model: ModelConfig, registered: Collection[str]) -> Iterator[tuple[str, str]]:
        """A name for each URL: by its place, or another for good where a replica that is about to leave has that."""
        for number, url in enumerate(model.sources):
            taken = {*registered, *self._moved.values()}
            if (model.name, url) not in self._moved and f"{model.name}-{number}" in taken:
                free = (f"{model.name}-{n}" for n in itertools.count(len(model.sources)))
                self._moved[model.name, url] = next(name for name in free if name not in taken)
            yield self._moved.get((model.name, url), f"{model.name}-{number}"), url
