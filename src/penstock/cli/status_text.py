"""`penstock status` for people: a table that fits into 80 columns, and a block for each part in trouble."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from penstock.cli.terminal import table
from penstock.core.units import format_duration, format_size

WIDTH = 80
HEADER = ("REPLICA", "STATE", "LOAD", "MEMORY", "GPUS", "RESTARTS", "UP", "PID", "ADDRESS")
LOCAL = "127.0.0.1"
LABEL_WIDTH = 16
_FINE = frozenset({"ready", "busy", "unknown", "running"})


def text(found: Mapping[str, Any]) -> str:
    """All that is known, in words."""
    if not found["running"] and not found["replicas"]:
        return "Penstock is not running here."
    return "\n\n".join(filter(None, (_head(found), _models(found), _table(found), *_blocks(found))))


def _head(found: Mapping[str, Any]) -> str:
    if not found["running"]:
        return ""
    where = f"at {found['url']} (pid {found['pid']})" if found["pid"] else "(a gateway alone)"
    up = f", up {format_duration(round(found['up_s']))}" if found["up_s"] else ""
    state = f"Penstock {where} is ready{up}."
    if not found["ready"]:
        state = _wrapped(f"Penstock {where} is not ready{up}: {found['reason']}")
    refused = found["reload_refused"]
    return f"{state}\n{_wrapped(f'The last reload was refused: {refused}')}" if refused else state


def _models(found: Mapping[str, Any]) -> str:
    """A line for each model."""
    lines = []
    for name in dict.fromkeys(one["model"] for one in found["replicas"]):
        mine = [one for one in found["replicas"] if one["model"] == name]
        ready = sum(one["state"] in ("ready", "busy") for one in mine)
        waiting = found["queues"].get(name, {}).get("length")
        line = f"; {waiting} wait in line" if waiting else ""
        lines.append(f"{name} ({mine[0]['engine']}): {ready} of {len(mine)} ready{line}")
    return "\n".join(lines)


def _table(found: Mapping[str, Any]) -> str:
    parts = [{"in_flight": None, "state": part["life"], **part} for part in found["parts"]]
    rows = [_row(one) for one in (*found["replicas"], *parts)]
    columns = [at for at, name in enumerate(HEADER) if name != "GPUS" or any(row[at] != "-" for row in rows)]
    cells = [tuple(row[at] for at in columns) for row in (HEADER, *rows)]
    return table(cells[0], cells[1:]) if rows else ""


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    gpus = ",".join(map(str, one["gpus"]))
    up_s = one.get("up_s") or one["life_since_s"] if one["pid"] else None
    return (
        one["name"],
        one["state"],
        "-" if one["in_flight"] is None else f"{one['in_flight']}/{one['concurrency']}",
        _size(one["memory_bytes"]),
        f"{gpus}: {_size(one['gpu_memory_bytes'])}" if gpus and one["gpu_memory_bytes"] else gpus or "-",
        "-" if one["restarts"] is None else str(one["restarts"]),
        "-" if up_s is None else format_duration(round(up_s)),
        str(one["pid"] or "-"),
        (one.get("url") or "-").removeprefix("http://").removeprefix(LOCAL),
    )


def _blocks(found: Mapping[str, Any]) -> Iterator[str]:
    """What is to be said of those that are not as they should be, or have not always been."""
    parts = [{**part, "state": part["life"]} for part in found["parts"]]
    for one in (*found["replicas"], *parts):
        facts = [(name, said) for name, said in _facts(one) if said]
        if one["state"] not in _FINE or one["last_exit"]:
            yield "\n".join((f"{one['name']}: {one['state'].replace('_', ' ')}", *_told(facts)))


def _facts(one: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    since_s = one.get("state_since_s") if one["life"] in (None, "running") else one["life_since_s"]
    yield "for", format_duration(round(since_s)) if since_s else ""
    if one["state"] not in _FINE:
        yield "cause", one["loading"] or one.get("cause", "") or one["why"]
        yield "evidence", one.get("evidence", "")
    if one["last_exit"] != one["why"]:
        yield "last exit", one["last_exit"]
    if one["next_start_in_s"] is not None:
        yield "starts again", f"in {format_duration(round(one['next_start_in_s'], 1))}"
    yield "restarts", str(one["restarts"] or "")
    yield "log", one["log"] or ""


def _told(facts: list[tuple[str, str]]) -> Iterator[str]:
    for name, said in facts:
        yield _wrapped(f"  {name:<{LABEL_WIDTH - 2}}{' '.join(said.split())}", indent=LABEL_WIDTH)


def _wrapped(line: str, indent: int = 2) -> str:
    """The line in several that fit; a path or an address is not broken."""
    return textwrap.fill(
        line,
        WIDTH,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )


def _size(size_bytes: int | None) -> str:
    return format_size(size_bytes) if size_bytes else "-"
