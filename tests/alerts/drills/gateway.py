"""The gateway itself."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.alerts.drill import BURNS, LOAD, TROUBLE, Drill, Lane
from tests.alerts.stack import Stack, restart_gateway
from tests.alerts.traffic import traffic
from tests.e2e.processes import wait_until

# One reader of requests is replaced by one that fails in a way that nobody expects.
BUG = """
import penstock.gateway.inference as path

def broken(*_: object) -> None:
    raise ZeroDivisionError("built in on purpose")

path.read_request = broken
from penstock.__main__ import main
main()
"""
CONNECTIONS = 150
HELD_UP_S = 2.0


@contextmanager
def limits_hit(stack: Stack) -> Iterator[None]:
    """Tenants without money and with one request a minute go on asking; others try keys."""
    with ExitStack() as over:
        for tenant in ("poor", "few"):
            made = stack.gateway.penstock("keys", "create", "--tenant", tenant, "--json")
            headers = {"Authorization": f"Bearer {json.loads(made.stdout)['secret']}"}
            over.enter_context(traffic(stack.gateway, 2, pause_s=0.1, headers=headers))
        headers = {"Authorization": "Bearer sk-none"}
        over.enter_context(traffic(stack.gateway, 2, pause_s=0.1, headers=headers))
        yield


@contextmanager
def configuration_spoilt(stack: Stack) -> Iterator[None]:
    """The file has a mistake, and is to be followed."""
    path = stack.folder / "penstock.toml"
    good = path.read_text()
    path.write_text("[gateway]\nnonsense = 1\n")
    stack.gateway.process.send_signal(signal.SIGHUP)
    yield
    path.write_text(good)
    stack.gateway.process.send_signal(signal.SIGHUP)


@contextmanager
def journal_blocked(stack: Stack) -> Iterator[None]:
    """The journal's files are gone, and its folder is a file."""
    journal = stack.gateway.home / "journal"
    with traffic(stack.gateway, 1):
        shutil.rmtree(journal)
        journal.write_text("")
        yield
        journal.unlink()


@contextmanager
def held_up(stack: Stack) -> Iterator[None]:
    """The gateway's process gets no processor for two seconds."""
    process = stack.gateway.process
    process.send_signal(signal.SIGSTOP)
    time.sleep(HELD_UP_S)
    process.send_signal(signal.SIGCONT)
    yield


@contextmanager
def connections_kept(stack: Stack) -> Iterator[None]:
    """Many clients keep their connections, where few files may be open."""
    pid = stack.gateway.process.pid
    usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    with ExitStack() as over:
        before = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (before + CONNECTIONS + 20, usual[1]))
        for _ in range(CONNECTIONS):
            sock = over.enter_context(socket.create_connection(("127.0.0.1", stack.gateway.port), 10))
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: g\r\n\r\n")
        yield
    resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)


@contextmanager
def killed(stack: Stack) -> Iterator[None]:
    """The gateway is killed."""
    _kill(stack)
    yield
    restart_gateway(stack)


@contextmanager
def with_a_bug(stack: Stack) -> Iterator[None]:
    """Its code has a mistake that each request meets."""
    _kill(stack)
    restart_gateway(stack, ("-c", BUG))
    with traffic(stack.gateway, 1):
        yield
    _kill(stack)
    restart_gateway(stack)


@contextmanager
def restarting(stack: Stack) -> Iterator[None]:
    """It is killed again and again."""
    for _ in range(3):
        _kill(stack)
        restart_gateway(stack)
        wait_until(lambda: stack.watch.is_up(stack.gateway.admin_port), "it to be scraped")
    yield


def _kill(stack: Stack) -> None:
    stack.gateway.process.kill()
    stack.gateway.process.wait()


LIMITS: Lane = (
    Drill(
        "limits and unknown keys",
        limits_hit,
        ("BudgetExhausted", "LimitsHit", "AuthenticationFailures"),
        (*BURNS, *LOAD),
    ),
)
WITHIN: Lane = (
    Drill("a configuration with a mistake", configuration_spoilt, ("ConfigReloadFailed",)),
    Drill("a journal that can't be written", journal_blocked, ("JournalFailing",), ("LedgerFailing", *BURNS)),
    Drill("more connections than files", connections_kept, ("GatewayFilesNearlyOut",)),
    Drill("a gateway without a processor", held_up, ("GatewayLoopSlow",), ("GatewayDown", *TROUBLE)),
)
WHOLE: Lane = (
    Drill("the gateway killed", killed, ("GatewayDown",), (*TROUBLE, "GatewayRestarting")),
    Drill(
        "a gateway with a bug", with_a_bug, ("GatewayBug",), (*TROUBLE, "GatewayDown", "GatewayRestarting")
    ),
    Drill(
        "a gateway that ends again and again",
        restarting,
        ("GatewayRestarting",),
        (*TROUBLE, "GatewayDown"),
    ),
)
