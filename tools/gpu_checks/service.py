"""`penstock up` and `penstock exporter` in a folder of their own, asked as a client would ask them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from penstock.core.address import Address
from penstock.core.errors import PenstockError
from penstock.engines.client import EngineClient
from penstock.engines.exchange import PhaseTimeouts
from penstock.store.home import Home
from penstock.store.keys import read_admin_key
from penstock.store.runtime import Registration, Registry
from penstock.supervisor.ports import free_port

KEY = "sk-gpu-check"
MODEL = "check"
HOST = "127.0.0.1"
READY_WITHIN_S = 420.0
# Of an answer that did not end well, for the table.
LAST_BYTES = 200
LOOK_EVERY_S = 0.05
QUESTION = "Tell a long story."


class ServiceError(Exception):
    """The service did not do what it was waited for."""


@dataclass(slots=True)
class Stream:
    """A streamed answer as it comes: when each piece came, and how it ended."""

    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    ended: str = ""

    @property
    def events(self) -> int:
        """Events with data so far; comments are none."""
        return sum(data.count(b"data: {") for _, data in self.pieces)

    @property
    def text(self) -> bytes:
        """All bytes so far."""
        return b"".join(data for _, data in self.pieces)


class Service:
    """The running parts.

    Args:
        folder: for the configuration, the home and the logs.
        model: lines of `[[models]]` beside its name.
        exporter_options: of `penstock exporter`.
        members: of each request, beside those that every engine knows: Transformers refuses any other.
    """

    def __init__(
        self,
        folder: Path,
        model: str,
        exporter_options: tuple[str, ...] = (),
        members: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._members = members
        self.home = Home(folder / "home")
        self.registry = Registry(self.home.replicas)
        self._folder = folder
        self._exporter_options = exporter_options
        self._client = EngineClient()
        self._listen, self._admin, self._metrics = (Address(HOST, free_port(HOST)) for _ in range(3))
        self._processes: list[subprocess.Popen[bytes]] = []
        (folder / "penstock.toml").write_text(
            f'[gateway]\nlisten = "{self._listen}"\nadmin = "{self._admin}"\n'
            f'[exporter]\nlisten = "{self._metrics}"\nevery = "1s"\n[[models]]\nname = "{MODEL}"\n{model}\n'
        )

    async def start(self) -> float:
        """Starts everything; returns the seconds until all replicas answered."""
        begun_s = time.monotonic()
        up = self._spawn("up")
        self._spawn("exporter", *self._exporter_options)

        async def ready() -> bool:
            if up.poll() is not None:
                raise ServiceError(f"penstock up has ended: {self._last_words()}")
            return bool(await self._is_ready()) and all(
                each["state"] == "ready" for each in await self.replicas()
            )

        await until(ready, "the service to be ready", READY_WITHIN_S)
        return time.monotonic() - begun_s

    async def stop(self) -> float:
        """Stops everything; returns the seconds that took."""
        begun_s = time.monotonic()
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            await asyncio.to_thread(process.wait)
        self._processes = []
        self._client.close()
        return time.monotonic() - begun_s

    async def replicas(self) -> list[dict[str, Any]]:
        """What the gateway knows of each replica."""
        key = read_admin_key(self.home.admin_key)
        reply = await self._fetch(self._admin, b"/admin/fleet", key)
        found: list[dict[str, Any]] = json.loads(reply)["replicas"]
        return found

    async def page(self) -> str:
        """The exporter's page."""
        return (await self._fetch(self._metrics, b"/metrics", "")).decode()

    def registration(self, name: str) -> Registration | None:
        """What is registered of a replica now."""
        return next((each for each in self.registry.registrations() if each.name == name), None)

    async def stream(self, into: Stream, tokens: int) -> None:
        """Asks for a long answer, and fills `into` until it ends."""
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": QUESTION}],
            "max_tokens": tokens,
            "stream": True,
            "temperature": 0,
            **self._members,
        }
        headers = [
            (b"authorization", b"Bearer " + KEY.encode()),
            (b"content-type", b"application/json"),
        ]
        try:
            exchange = await self._client.open(
                self._listen,
                b"POST",
                b"/v1/chat/completions",
                headers,
                json.dumps(body).encode(),
                PhaseTimeouts(connect_s=5.0, first_byte_s=None, stall_s=None, total_s=READY_WITHIN_S),
            )
            try:
                exchange.receive(lambda data: into.pieces.append((time.monotonic(), data)))
                await exchange.end()
            finally:
                exchange.cancel()
        except PenstockError as error:
            into.ended = f"cut: {error.message}"
            return
        text = into.text
        if b"data: [DONE]" in text:
            into.ended = "done"
        else:
            ending = "error event" if b'"error"' in text else "no end"
            into.ended = f"{ending}: {text[-LAST_BYTES:].decode(errors='replace').strip()}"

    async def _is_ready(self) -> bool:
        try:
            reply = await self._client.fetch(self._listen, b"GET", b"/ready", timeout_s=2.0)
        except PenstockError:
            return False
        return reply.status == 200

    async def _fetch(self, address: Address, target: bytes, key: str) -> bytes:
        headers = [(b"authorization", b"Bearer " + key.encode())] if key else []
        reply = await self._client.fetch(address, b"GET", target, headers=headers, timeout_s=5.0)
        if reply.status != 200:
            raise ServiceError(f"{target.decode()} answered {reply.status}: {reply.body[:200]!r}")
        return reply.body

    def _spawn(self, *words: str) -> subprocess.Popen[bytes]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        environ = {**kept, "PENSTOCK_HOME": str(self.home.root), "GATEWAY_API_KEYS": KEY}
        with (self._folder / f"{words[0]}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "penstock", *words],
                cwd=self._folder,
                env=environ,
                stdout=log,
                stderr=log,
            )
        self._processes.append(process)
        return process

    def _last_words(self) -> str:
        return " | ".join((self._folder / "up.log").read_text(errors="replace").splitlines()[-5:])


async def until(condition: Callable[[], Any], what: str, within_s: float) -> float:
    """The seconds until `condition`, plain or awaitable, is true.

    Raises:
        ServiceError: it is not, within `within_s`.
    """
    begun_s = time.monotonic()
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return time.monotonic() - begun_s
        if time.monotonic() - begun_s > within_s:
            raise ServiceError(f"waited {within_s:g} s for {what}")
        await asyncio.sleep(LOOK_EVERY_S)
