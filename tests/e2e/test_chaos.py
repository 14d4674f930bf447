"""Thousands of requests under random faults: ledger, log, metrics and engines say what the clients saw.

`PENSTOCK_CHAOS_REQUESTS=10000` makes it longer, `PENSTOCK_CHAOS_SEED=...` repeats a run as far as a machine can.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest

from penstock.store.home import Home
from penstock.store.keys import KeyStore, KeyTerms
from tests.e2e.accounts import Row, Rows, agree, disagreements, ledger, leftovers, log_lines, reached, settled
from tests.e2e.load import CHAT, End, Seen, Target, apply_all
from tests.e2e.processes import PATIENCE_S, Gateway, ready_gateway, remote, sim_engine, wait_until
from tests.e2e.questions import Mix, questions
from tests.e2e.scripted import ROLE, answer, begin_stream, say, scripted_engine, token
from tests.e2e.test_streams import chat, open_stream, read_until

REQUESTS = int(os.environ.get("PENSTOCK_CHAOS_REQUESTS", "2000"))
SEED = int(os.environ.get("PENSTOCK_CHAOS_SEED", "0")) or time.time_ns() % 2**32
CLIENTS = 64
TOKENS = 16

REPLY = (
    b'{"id":"1","choices":[{"index":0,"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}]}'
)

# Each strikes by itself, on every engine; more than a tenth of all requests meets one of them.
FAULTS = (
    "reset_before:0.01",
    "reset_after_tokens=3:0.01",
    "stall_before_first:0.002",
    "stall_after_tokens=4:0.004",
    "status=500:0.01",
    "status=503;retry_after=1:0.01",
    "status=429;retry_after=1:0.01",
    "status=400:0.01",
    "malformed=2:0.01",
    "abort=2:0.01",
    "trickle=0.1ms:0.003",
    "late_usage=20ms:0.02",
    "no_usage:0.02",
    "early_role:0.05",
    "tokens_per_chunk=3:0.05",
    "close_idle:0.05",
    "refuse=200ms:0.001",
    "freeze=300ms:0.001",
)
MODEL = """
concurrency = 12
timeouts = { connect = "1s", first_token = "2s", stall = "1s", total = "4s", queue = "3s" }
price = { prompt_usd_per_million = 3, completion_usd_per_million = 15 }
"""
TENANTS = """
[[tenants]]
name = "heavy"
weight = 4
parallel_requests = 1000
[[tenants]]
name = "narrow"
parallel_requests = 4
[[tenants]]
name = "few"
requests_per_minute = 60
[[tenants]]
name = "poor"
budget = { per_day_usd = 0.02 }
"""


def secrets(folder: Path) -> list[str]:
    """Keys in the home of a gateway that is not yet running: two of each tenant, more of the heavy one."""
    home = Home(folder / "home")
    home.prepare()
    store = KeyStore(home.keys, time.time)
    tenants = ["heavy"] * 8 + ["narrow", "few", "poor"] * 2
    return [store.create(KeyTerms(tenant=tenant))[1] for tenant in tenants]


@pytest.mark.timeout(120 + REQUESTS // 20)
def test_every_account_agrees_with_what_the_clients_saw(folder: Path) -> None:
    random = Random(SEED)
    rates = [option for rate in FAULTS for option in ("--fault-rate", rate)]
    options = ("--model", "m", "--base-step-s", "0.002", "--request-log-len", "100000", *rates)
    known = secrets(folder)
    with ExitStack() as stack:
        quiet = stack.enter_context(sim_engine(folder, "--model", "m", "--base-step-s", "0"))
        found = questions(quiet, "m", 12, TOKENS)
        engines = [
            stack.enter_context(sim_engine(folder, *options, "--seed", str(SEED + number)))
            for number in range(3)
        ]
        front = stack.enter_context(
            ready_gateway(folder, remote("m", *engines, extra=MODEL) + TENANTS, GATEWAY_API_KEYS="")
        )
        mix = Mix(random, "m", found, known, leaving=0.1, leave_within_s=0.15, declining=0.3)

        seen = apply_all(Target(front.port), [mix() for _ in range(REQUESTS)], clients=CLIENTS)
        view = settled(lambda: front.admin("/admin/overview").json())
        wait_until(lambda: all(engine.seen()["running"] == 0 for engine in engines), "the engines to be idle")
        rows, at_engines = ledger(front), reached(*engines)
        lines = wait_until(lambda: whole_log(front), "the log")
        counted = requests_counted(front)

    ends = Counter(one.end for one in seen)
    print(f"seed {SEED}: {dict(ends)}")  # noqa: T201 - pytest shows it with a failure
    assert leftovers(view) == {}
    agree(disagreements(seen, rows, at_engines))
    agree(log_disagreements(seen, rows, lines))
    assert spent(view) == pytest.approx(spent_by_ledger(rows))
    assert counted == len(lines)
    # the storm was one, and most got through it
    assert ends[End.CUT] == ends[End.UNREACHED] == 0
    assert ends[End.COMPLETE] > REQUESTS * 0.5
    assert ends[End.LEFT] > REQUESTS * 0.02
    assert min(ends[End.REFUSED], ends[End.ERROR_EVENT]) > 0


def whole_log(front: Gateway) -> Rows:
    """The log, once it has grown no more for longer than it collects lines."""
    before = -1
    while before != (before := front.log.stat().st_size):
        time.sleep(0.5)
    return log_lines(front.log)


def requests_counted(front: Gateway) -> float:
    lines = front.admin("/metrics", key="").body.decode().splitlines()
    return sum(
        float(line.split()[-1])
        for line in lines
        if line.startswith("penstock_requests_total{") and 'route="/v1/models"' not in line
    )


def log_disagreements(seen: list[Seen], rows: Rows, lines: Rows) -> list[str]:
    """Where the log tells another story than clients and ledger."""
    found = []
    for one in seen:
        told = lines.get(one.ask.request_id, [])
        if len(told) != 1:
            if told or one.end is not End.LEFT:
                found.append(f"{one.tell()}: {len(told)} lines in the log")
            continue
        line, row = told[0], rows.get(one.ask.request_id, [{}])[0]
        pairs = {name: (line[name], row.get(name, line[name])) for name in ("tenant", "key_id", "outcome")}
        if one.end in (End.REFUSED, End.ERROR_EVENT) and not line["error_code"].startswith("engine_status"):
            pairs["error_code"] = line["error_code"], one.error_code
        if row:
            pairs["tokens"] = line["completion_tokens"] or 0, row["completion_tokens"] or 0
        if one.end in (End.COMPLETE, End.REFUSED):
            pairs["status"] = line["status"], one.status
        if one.end is End.COMPLETE:
            pairs["complete"] = line["outcome"], "complete"
        if not row and line["attempts"]:
            found.append(f"{one.tell()}: it was tried, and is not in the ledger")
        found += [f"{one.tell()}: {name}: {two}" for name, two in pairs.items() if two[0] != two[1]]
    return found


def spent(view: dict[str, list[dict[str, object]]]) -> dict[str, object]:
    """US dollars of this day by tenant, as the limits know them."""
    return {
        str(one["subject_id"]).removeprefix("tenant:"): one["day_usd"]
        for one in view["limits"]
        if one["subject_id"] == "tenant:poor"
    }


def spent_by_ledger(rows: Rows) -> dict[str, float]:
    return {
        "poor": sum(row["cost_nano_usd"] for (row,) in rows.values() if row["tenant"] == "poor") / 1e9,
    }


# -- what the storm has brought to light -----------------------------------------------------------------


def row_after(front: Gateway, request_id: str) -> Row:
    line = front.record(request_id)
    (row,) = ledger(front)[request_id]
    assert (row["outcome"], row["completion_tokens"]) == (line["outcome"], line["completion_tokens"])
    return row


def test_tokens_that_come_with_the_end_are_counted_where_the_engine_tells_no_usage(folder: Path) -> None:
    def script(sock: socket.socket, _: int) -> None:
        begin_stream(sock)
        say(sock, ROLE + token("one") + token("two") + b"data: [DONE]\n\n")
        sock.sendall(b"0\r\n\r\n")

    with scripted_engine(script) as engine, ready_gateway(folder, remote("m", engine)) as front:
        reply = front.request("POST", CHAT, chat(stream=True), {"X-Request-Id": "one-read"})
        row = row_after(front, "one-read")

    assert reply.body.endswith(b"data: [DONE]\n\n")
    assert (row["completion_tokens"], row["usage_source"]) == (2, "events")


def test_a_client_that_hangs_up_behind_the_end_has_had_a_whole_answer(folder: Path) -> None:
    hold = threading.Event()

    def script(sock: socket.socket, _: int) -> None:
        begin_stream(sock)
        say(sock, token("one") + b"data: [DONE]\n\n")
        hold.wait(PATIENCE_S)

    with scripted_engine(script) as engine, ready_gateway(folder, remote("m", engine)) as front:
        with open_stream(front, chat()) as sock:
            read_until(sock, b"[DONE]")
        wait_until(lambda: front.admin("/admin/overview").json()["in_progress"] == 0, "it to be over")
        (name,) = whole_log(front)
        row = row_after(front, name)
        hold.set()

    assert row["outcome"] == "complete"


@pytest.mark.parametrize(
    "bad",
    [REPLY.replace(b'"stop"', b'"abort"'), REPLY[:-20], b"", b"<html>"],
    ids=["abort", "cut", "empty", "html"],
)
def test_a_plain_answer_that_is_none_is_made_again(folder: Path, bad: bytes) -> None:
    answers = [bad, REPLY]

    def script(sock: socket.socket, _: int) -> None:
        answer(sock, answers.pop(0))

    with scripted_engine(script) as engine, ready_gateway(folder, remote("m", engine)) as front:
        reply = front.ask("hello", "m")

    assert (reply.status, reply.body) == (200, REPLY)
