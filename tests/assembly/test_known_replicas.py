"""Replicas of the configuration and of the registry, each with a name of its own."""

from __future__ import annotations

import os
from pathlib import Path

from penstock.assembly.known_replicas import KnownReplicas
from penstock.core.config import Config, ModelConfig
from penstock.gateway.settings import Settings
from penstock.store.home import Home
from penstock.store.runtime import Registration, Registry

ONE, TWO = "http://127.0.0.1:1", "http://127.0.0.1:2"


def remote(*urls: str) -> Config:
    return Config(models=(ModelConfig(name="m", engine="remote", source=urls),))


def test_a_url_gets_another_name_for_good_while_a_replica_that_leaves_has_its_own(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.prepare()
    registry = Registry(home.replicas)
    registry.register(Registration("m-0", "m", "sim", "http://127.0.0.1:9", os.getpid(), "", 0.0))
    settings = Settings(remote(ONE, TWO))
    known = KnownReplicas(settings, home)

    def names() -> list[tuple[str, str]]:
        return [(replica.name, str(replica.address)) for replica in known()]

    with_both = names()
    registry.unregister("m-0")
    alone = names()
    settings.apply(remote(TWO))
    fewer = names()

    assert with_both == [("m-2", "127.0.0.1:1"), ("m-1", "127.0.0.1:2"), ("m-0", "127.0.0.1:9")]
    assert alone == with_both[:2]
    assert fewer == [("m-0", "127.0.0.1:2")]
