"""What tests of deliveries to ClickHouse share; ClickHouse itself is loaded for them alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.clickhouse import ClickHouseServer


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    from tests.clickhouse import clickhouse, migrate, settings

    with clickhouse(tmp_path_factory.mktemp("clickhouse")) as server:
        asyncio.run(migrate(settings(server)))
        yield server


@pytest.fixture
def server(shared: ClickHouseServer) -> ClickHouseServer:
    """The server, empty and in good health."""
    from tests.clickhouse import Trouble

    for (name,) in shared.query(
        "SELECT name FROM system.tables WHERE engine LIKE '%MergeTree' AND database = 'default'"
    ):
        if name != "penstock_migrations":
            shared.run(f"TRUNCATE TABLE {name}")
    shared.trouble, shared.inserts = Trouble(), 0
    return shared


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path
