"""What the ledger, the log and the engines say of requests, beside what their clients saw."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.e2e.load import End, Seen
from tests.e2e.processes import Gateway, Sim

DISAGREEMENTS_SHOWN = 20

Row = dict[str, Any]
Rows = Mapping[str, list[Row]]

# What the ledger may say of a request, by what its client saw.
OUTCOMES = {
    End.COMPLETE: {"complete"},
    End.ERROR_EVENT: {"interrupted"},
    End.REFUSED: {"rejected"},  # by the gateway, or by the engine's own whole reply
    End.LEFT: {"complete", "rejected", "interrupted", "cancelled"},
    # A gateway that is killed between the line in the journal and the client's last bytes has said `complete`.
    End.CUT: {"interrupted", "complete"},
    End.UNREACHED: set[str](),
}


def ledger(front: Gateway) -> Rows:
    """The rows of an idle gateway's ledger by request id, after `penstock usage` has taken in the journal."""
    told = front.penstock("usage", "--by", "tenant,key", "--json")
    assert told.returncode == 0, told.stderr
    usage = json.loads(told.stdout)
    assert usage["torn_lines"] == 0, told.stdout
    with closing(sqlite3.connect(f"file:{front.home / 'usage.sqlite'}?mode=ro", uri=True)) as db:
        db.row_factory = sqlite3.Row
        rows = [dict(row) for row in db.execute("SELECT * FROM requests")]
        under_way = db.execute("SELECT count(*) FROM running").fetchone()[0]
    assert not under_way, f"{under_way} requests have no end in the journal of an idle gateway"
    sums: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        group = row["tenant"], row["key_id"]
        sums[*group, "requests"] += 1
        sums[*group, "interrupted"] += row["outcome"] == "interrupted"
        for name in ("prompt_tokens", "completion_tokens"):
            sums[*group, name] += row[name] or 0
    reported = {
        (one["tenant"], one["key"], name): one[name]
        for one in usage["rows"]
        for name in ("requests", "interrupted", "prompt_tokens", "completion_tokens")
    }
    assert reported == dict(sums)
    return by_id(rows)


def by_id(rows: Iterable[Row]) -> Rows:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["request_id"], []).append(row)
    return found


def log_lines(*logs: Path) -> Rows:
    """The lines of requests in these logs, by request id; one that was cut off by a kill is left out."""
    lines = []
    for log in logs:
        for line in log.read_bytes().split(b"\n"):
            if b'"event":"request"' in line:
                try:
                    lines.append(json.loads(line))
                except ValueError:
                    continue
    return by_id(lines)


def reached(*engines: Sim) -> set[str]:
    """The ids of all requests of which an engine got the body."""
    return {
        value
        for engine in engines
        for entry in engine.request("GET", "/sim/requests?last=1000000").json()["requests"]
        for name, value in entry["headers"]
        if name == "x-request-id"
    }


def agree(found: list[str]) -> None:
    """Fails with the first of what was found."""
    assert not found, f"{len(found)} disagree:\n" + "\n".join(found[:DISAGREEMENTS_SHOWN])


def disagreements(seen: Iterable[Seen], rows: Rows, at_engines: set[str]) -> list[str]:
    """Where the ledger and the clients tell different stories; no request may be there twice, or be invented."""
    found = []
    asked = set()
    for one in seen:
        asked.add(one.ask.request_id)
        there = rows.get(one.ask.request_id, [])
        reason = _disagreement(one, there, one.ask.request_id in at_engines)
        if reason:
            found.append(f"{one.tell()}: {reason}: {there}")
    found += [f"{name} is in the ledger, and was never asked" for name in rows if name not in asked]
    return found


def _disagreement(seen: Seen, rows: list[Row], at_engine: bool) -> str:
    if seen.wrong:
        return "the reply is wrong"
    if len(rows) > 1:
        return f"it is there {len(rows)} times"
    begun = seen.end in (End.COMPLETE, End.ERROR_EVENT) or (seen.end is End.CUT and seen.status == 200)
    if not rows:
        return "it is missing" if begun or at_engine else ""
    row = rows[0]
    if row["outcome"] not in OUTCOMES[seen.end]:
        return "another outcome"
    if seen.end in (End.COMPLETE, End.REFUSED) and row["status"] != seen.status:
        return "another status"
    return _tokens_disagree(seen, row)


def _tokens_disagree(seen: Seen, row: Row) -> str:
    asked = seen.ask
    tokens = row["completion_tokens"] or 0
    if row["outcome"] == "complete" and row["status"] == 200:
        source = row["usage_source"]
        expected = {"engine": asked.tokens, "events": seen.token_events if asked.streamed else 0, "none": 0}
        if seen.end is End.COMPLETE and tokens != expected[source]:
            return f"{tokens} tokens by {source}, not {expected[source]}"
        if seen.usage is not None and tokens != seen.usage["completion_tokens"]:
            return "not the tokens that the client was told of"
    told = bool(row["ended_at"])  # one that ended with its gateway has no tokens: nobody counted
    if told and not seen.token_events <= tokens <= asked.tokens:
        return f"{tokens} tokens, of which the client got {seen.token_events} of {asked.tokens}"
    price = row["prompt_usd_per_million"], row["completion_usd_per_million"]
    if row["prompt_tokens"] is not None and told:
        cost = round((row["prompt_tokens"] * price[0] + tokens * price[1]) * 1000)
        if row["cost_nano_usd"] != cost:
            return f"a cost of {row['cost_nano_usd']} instead of {cost}"
    return ""


def settled(front_overview: Callable[[], dict[str, Any]], patience_s: float = 20.0) -> dict[str, Any]:
    """The overview once nothing is under way, or as it is when patience ends."""
    deadline_s = time.monotonic() + patience_s
    while True:
        view = front_overview()
        if not leftovers(view) or time.monotonic() > deadline_s:
            return view
        time.sleep(0.05)


def leftovers(view: Mapping[str, Any]) -> dict[str, Any]:
    """What an idle gateway must not hold, of `/admin/overview`; empty when it holds nothing."""
    held: dict[str, Any] = {"in_progress": view["in_progress"]}
    for replica in view["replicas"]:
        held[f"in_flight of {replica['name']}"] = replica["in_flight"]
    for model, queue in view["queues"].items():
        held[f"permits_out of {model}"] = queue["permits_out"]
        held[f"length of {model}"] = queue["length"]
    for one in view["limits"]:
        held[f"parallel of {one['subject_id']}"] = one["parallel"]
        held[f"reserved_usd of {one['subject_id']}"] = round(one["reserved_usd"], 9)
    return {name: value for name, value in held.items() if value}
