"""The migrations: numbered files of SQL, which never change once they were released; a change is another file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from string import Template

from penstock.core.config import ClickHouseConfig

_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_DAY_S = 86_400

APPLIED_TABLE = "penstock_migrations"
MAKE_APPLIED_TABLE = f"""CREATE TABLE IF NOT EXISTS {APPLIED_TABLE}
(number UInt32, name String, applied_at DateTime DEFAULT now())
ENGINE = MergeTree ORDER BY number"""
APPLIED = f"SELECT DISTINCT number FROM {APPLIED_TABLE} ORDER BY number"  # noqa: S608 - ours


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number, its name, and its text with the retention of the configuration filled in."""

    number: int
    name: str
    text: str

    @property
    def statements(self) -> tuple[str, ...]:
        """Its statements, to be run one after the other; each can be run again. The last notes that it was applied."""
        parts = (part.strip() for part in self.text.split(";\n"))
        mark = f"INSERT INTO {APPLIED_TABLE} (number, name) VALUES ({self.number}, '{self.name}')"  # noqa: S608 - ours
        return (MAKE_APPLIED_TABLE, *(part for part in parts if _without_comments(part)), mark)


def migrations(config: ClickHouseConfig) -> tuple[Migration, ...]:
    """All of them, by their numbers."""
    found = []
    for file in files(__package__).iterdir():
        match = _NAME.fullmatch(file.name)
        if match is not None:
            text = Template(file.read_text(encoding="utf-8")).substitute(_retention(config))
            found.append(Migration(int(match[1]), match[2], text))
    return tuple(sorted(found, key=lambda migration: migration.number))


def _retention(config: ClickHouseConfig) -> Mapping[str, str]:
    kept_s = {
        "requests": config.requests_keep_s,
        "minutes": config.minutes_keep_s,
        "usage": config.usage_keep_s,
        "traces": config.traces_keep_s,
        "logs": config.logs_keep_s,
        "metrics": config.metrics_keep_s,
    }
    return {f"{name}_keep_days": str(max(1, round(seconds / _DAY_S))) for name, seconds in kept_s.items()}


def _without_comments(statement: str) -> str:
    return "".join(line for line in statement.splitlines() if not line.startswith("--")).strip()
