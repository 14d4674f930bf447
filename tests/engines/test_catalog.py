"""Every engine kind of the configuration has a spec, and only those."""

from __future__ import annotations

from typing import get_args

from penstock.core.config import EngineKind
from penstock.engines.catalog import SPECS


def test_the_catalog_knows_every_kind_of_the_configuration() -> None:
    assert set(SPECS) == set(get_args(EngineKind))
    assert all(spec.kind == kind for kind, spec in SPECS.items())


def test_only_remote_engines_are_started_by_others() -> None:
    assert [kind for kind, spec in SPECS.items() if spec.launch is None] == ["remote"]
