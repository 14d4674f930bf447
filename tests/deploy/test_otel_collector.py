"""The Collector's configuration is whole: every part that a pipeline names is there, and every part is used."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from penstock.core.config import ClickHouseConfig
from penstock.store.clickhouse.migrations import migrations

CONFIG = yaml.safe_load((Path(__file__).parents[2] / "deploy" / "otel" / "collector.yaml").read_text())


def test_pipelines_name_what_is_there_and_all_of_it() -> None:
    pipelines = CONFIG["service"]["pipelines"].values()
    for kind in ("receivers", "processors", "exporters"):
        assert {name for pipeline in pipelines for name in pipeline[kind]} == set(CONFIG[kind])
    assert set(CONFIG["service"]["extensions"]) == set(CONFIG["extensions"])


def test_memory_is_limited_first_and_what_waits_is_on_disk_before_it_is_batched() -> None:
    queue = CONFIG["exporters"]["clickhouse"]["sending_queue"]

    for pipeline in CONFIG["service"]["pipelines"].values():
        assert pipeline["processors"][0] == "memory_limiter"
    assert queue["storage"] == "file_storage"
    assert queue["batch"]["min_size"] <= queue["batch"]["max_size"] < queue["queue_size"]
    assert CONFIG["exporters"]["clickhouse"]["retry_on_failure"]["max_elapsed_time"] == "0s"


def test_what_people_said_is_left_out_of_spans_and_logs() -> None:
    for kind in ("traces", "logs"):
        assert {"attributes/content", "transform/content"} <= set(
            CONFIG["service"]["pipelines"][kind]["processors"]
        )


def test_it_writes_to_the_tables_that_the_migrations_make() -> None:
    sql = "\n".join(migration.text for migration in migrations(ClickHouseConfig()))
    made = set(re.findall(r"CREATE TABLE IF NOT EXISTS (\w+)", sql))
    exporter = CONFIG["exporters"]["clickhouse"]
    named = {exporter["traces_table_name"], exporter["logs_table_name"]}
    named |= {table["name"] for table in exporter["metrics_tables"].values()}

    assert named <= made
    assert len(named) == 7
    assert exporter["create_schema"] is False
