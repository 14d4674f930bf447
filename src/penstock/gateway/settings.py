"""What the gateway goes by now: one configuration, replaced whole by a reload.

Whoever needs it asks `Settings` anew for each request; a request under way keeps what it began with.
"""

from __future__ import annotations

from penstock.core.config import Config
from penstock.gateway.models import Models
from penstock.gateway.tenants import Tenants


class Settings:
    """The configuration in force."""

    def __init__(self, config: Config) -> None:
        self.generation = 0
        self.apply(config)

    def apply(self, config: Config) -> None:
        """Puts another configuration in force."""
        self.config = config
        self.gateway = config.gateway
        self.models = Models(config.models)
        self.tenants = Tenants(config.tenants)
        self.generation += 1
