"""What `penstock status` says fits into 80 columns, and leaves out nothing that is wrong."""

from __future__ import annotations

from typing import Any

from penstock.cli.status_text import WIDTH, text

CAUSE = "m-1 was killed by SIGKILL (137): probably out of memory, if nobody killed it; lower the context"


def replica(name: str, **members: Any) -> dict[str, Any]:
    return {
        "name": name,
        "model": "llama-3.1-8b-instruct",
        "engine": "vllm",
        "url": "http://127.0.0.1:45678",
        "port": 45678,
        "pid": 1234567,
        "up_s": 7300.0,
        "state": "ready",
        "cause": "a token came",
        "evidence": "",
        "state_since_s": 7200.0,
        "in_flight": 12,
        "concurrency": 256,
        "life": "running",
        "life_since_s": 7300.0,
        "why": "",
        "restarts": 0,
        "last_exit": "",
        "next_start_in_s": None,
        "loading": "",
        "gpus": [],
        "log": f".penstock/logs/{name}.log",
        "memory_bytes": 23_400_000_000,
        "gpu_memory_bytes": None,
        **members,
    }


def waiting(name: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("url", "port", "pid", "up_s", "in_flight", "concurrency", "memory_bytes"))
    life = {"state": "waiting", "life": "waiting", "life_since_s": 3.0, "cause": "", "state_since_s": None}
    return replica(name, **nothing, **life, why=CAUSE, last_exit=CAUSE, restarts=3, next_start_in_s=12.3)


def found(*replicas: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {
        "running": True,
        "ready": True,
        "reason": "",
        "reload_refused": "",
        "pid": 4711,
        "up_s": 7400.0,
        "url": "http://127.0.0.1:8080",
        "queues": {},
        "parts": [],
        "replicas": list(replicas),
        **members,
    }


def test_where_all_is_well_there_is_a_table_and_nothing_more() -> None:
    said = text(found(replica("m-0"), replica("m-1", state="busy")))

    assert said.splitlines() == [
        "Penstock at http://127.0.0.1:8080 (pid 4711) is ready, up 2h.",
        "",
        "llama-3.1-8b-instruct (vllm): 2 of 2 ready",
        "",
        "REPLICA  STATE  LOAD    MEMORY   RESTARTS  UP  PID      ADDRESS",
        "m-0      ready  12/256  23.4 GB  0         2h  1234567  :45678",
        "m-1      busy   12/256  23.4 GB  0         2h  1234567  :45678",
    ]


def test_a_configuration_that_was_refused_is_told_beside_what_serves() -> None:
    said = text(found(replica("m-0"), reload_refused="gateway.nonsense: unknown key"))

    assert said.splitlines()[:2] == [
        "Penstock at http://127.0.0.1:8080 (pid 4711) is ready, up 2h.",
        "The last reload was refused: gateway.nonsense: unknown key",
    ]


def test_one_that_waits_is_shown_with_why_and_when_it_starts_again() -> None:
    said = text(found(replica("m-0"), waiting("m-1"), queues={"llama-3.1-8b-instruct": {"length": 7}}))

    assert "llama-3.1-8b-instruct (vllm): 1 of 2 ready; 7 wait in line" in said
    assert said.endswith(
        "m-1: waiting\n"
        "  for           3s\n"
        "  cause         m-1 was killed by SIGKILL (137): probably out of memory, if\n"
        "                nobody killed it; lower the context\n"
        "  starts again  in 12.3s\n"
        "  restarts      3\n"
        "  log           .penstock/logs/m-1.log"
    )


def test_one_that_is_given_up_loads_or_was_restarted_has_a_block() -> None:
    up = replica("m-0", restarts=1, last_exit="m-0 ended with exit code 1: it fell")
    lost = {**waiting("m-1"), "state": "given_up", "life": "given_up", "next_start_in_s": None}
    loads = replica(
        "m-2", state="loading", loading="capturing graphs; 40 s", gpus=[0, 1], gpu_memory_bytes=10**9
    )

    said = text(found(up, lost, loads, ready=False, reason="m-1 is not there"))

    assert "is not ready, up 2h: m-1 is not\n  there\n" in said
    assert "m-0: ready\n  for           2h\n  last exit     m-0 ended with exit code 1: it fell\n" in said
    assert "m-1: given up\n" in said
    assert "m-2: loading\n  for           2h\n  cause         capturing graphs; 40 s\n" in said
    assert "0,1: 1.0 GB" in said


def test_the_gateway_is_shown_too_and_a_gateway_alone_is_called_so() -> None:
    gateway = {**replica("gateway"), "life": "waiting", "why": "gateway ended with exit code 1"}

    assert "gateway: waiting\n" in text(found(parts=[gateway]))
    assert text(found(replica("m-0"), pid=None, up_s=None)).startswith("Penstock (a gateway alone) is ready.")
    assert text(found(running=False)) == "Penstock is not running here."


def test_no_line_is_wider_than_a_terminal() -> None:
    evidence = "word " * 60
    bad = replica(
        "llama-3.1-8b-0", state="loading", cause=evidence, evidence=evidence, loading=evidence, gpus=[0]
    )

    assert (
        max(map(len, text(found(bad, waiting("llama-3.1-8b-1"), ready=False, reason=evidence)).splitlines()))
        <= WIDTH
    )
