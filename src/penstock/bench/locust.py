"""A Locust user on Penstock's own client: Locust's master and workers spread the load, Penstock takes the times.

    BASE_URL=http://10.0.0.5:8080 API_KEY=sk-... MIX=short=0.7,long=0.3 locust -f "$(python -m penstock.bench.locust)"

BASE_URL    the server; Locust's own --host is the same, and wins
API_KEY     sent as a bearer token; none where it is empty
MODEL       the model to ask for; where it is empty, the first that /v1/models names
MIX         kinds of prompts with their shares, such as short=0.7,long=0.3; short where it is empty
THINK_S     pause of a user between two requests, seconds; 0 where it is empty
SEED        of kinds and lengths, a whole number; 0 where it is empty
INSECURE    true takes any certificate

Each request is told to Locust three times, each under the name of its kind: as E2E, from when its user wanted to send
it to its last token, and where it succeeded also as TTFT and TPOT. So Locust's line `Aggregated` adds up different
things, and says nothing. A request that fails is one E2E, with its cause.

Locust runs in gevent's greenlets; requests are sent and timed in a thread beside them, see `native_loop`. It is a
closed loop: a user waits for its answer before it goes on, and a slow server is asked less often.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import msgspec
from gevent import sleep
from locust import User, events, task
from locust.env import Environment

from penstock.bench.analysis.measures import BY_NAME
from penstock.bench.load.call import Caller
from penstock.bench.load.endpoint import Endpoint
from penstock.bench.load.native_loop import NativeLoop
from penstock.bench.load.timeouts import Timeouts
from penstock.bench.sample import Cause, Sample
from penstock.bench.workloads.kinds import parse_mix
from penstock.bench.workloads.workload import Plan, Workload, plan
from penstock.core.errors import PenstockError

# As many as the files that one process may have open on most systems; Locust has thousands of users, not more.
CONNECTIONS_MAX = 16_384
MODELS_TIMEOUT_S = 10.0
# A server that can't even name its model is asked again so often by each user.
RETRY_S = 1.0
EXIT_USAGE = 2

N = TypeVar("N", int, float)

_log = logging.getLogger("penstock.bench.locust")


class LocustError(PenstockError):
    """A Locust run that can't begin, or a request of one that failed."""

    code = "locust"

    def __str__(self) -> str:
        """As Locust shows it."""
        return self.message


class Settings(msgspec.Struct, frozen=True):
    """What the environment says; see the module's text."""

    base_url: str
    api_key: str = ""
    model: str = ""
    mix: str = "short"
    think_s: float = 0.0
    seed: int = 0
    insecure: bool = False

    @classmethod
    def read(cls, env: Mapping[str, str], host: str | None) -> Settings:
        """The settings in an environment; `host` is Locust's own.

        Raises:
            LocustError: a value is none.
        """
        base_url = host or env.get("BASE_URL", "")
        if not base_url:
            raise LocustError(
                "BASE_URL: no server is named", hint="BASE_URL=http://127.0.0.1:8080, or --host"
            )
        settings = cls(
            base_url=base_url,
            api_key=env.get("API_KEY", ""),
            model=env.get("MODEL", ""),
            mix=env.get("MIX") or "short",
            think_s=_number(env, "THINK_S", float, 3600.0),
            seed=_number(env, "SEED", int, 2**63),
            insecure=env.get("INSECURE", "").lower() in ("1", "true", "yes"),
        )
        settings.endpoint()
        parse_mix(settings.mix, where="MIX")
        return settings

    def endpoint(self) -> Endpoint:
        """What is put under load."""
        return Endpoint.parse(self.base_url, api_key=self.api_key, insecure=self.insecure)


class Load:
    """The requests of one Locust worker.

    Args:
        worker: its number; each has its own requests.
    """

    def __init__(self, settings: Settings, worker: int) -> None:
        self._settings = settings
        self._seed = settings.seed * 1_000_003 + worker
        self._caller = Caller(
            settings.endpoint(), Timeouts(), connections_max=CONNECTIONS_MAX, process=worker
        )
        self._loop = NativeLoop()
        self._plan: Plan | None = None

    def request(self) -> Sample:
        """Sends the next request, and waits for what comes of it.

        Raises:
            LocustError: the server does not name its model.
        """
        if self._plan is None:
            self._plan = self._planned(self._settings.model or self._first_model())
        planned = next(self._plan)
        wanted_s = self._caller.now_s()
        return self._loop.call(lambda: self._caller.call(planned, wanted_s))

    def close(self) -> None:
        """Ends what is under way, and all connections."""
        self._loop.call(self._let_go)
        self._loop.close()

    async def _let_go(self) -> None:
        self._caller.close()

    def _planned(self, model: str) -> Plan:
        workload = Workload(model, parse_mix(self._settings.mix, where="MIX"), salt=os.urandom(8).hex())
        return plan(workload, None, seed=self._seed)

    def _first_model(self) -> str:
        caller, endpoint = self._caller, self._settings.endpoint()

        async def ask() -> tuple[int, bytes]:
            reply = await caller.client.fetch(
                caller.address,
                b"GET",
                endpoint.target("/v1/models"),
                headers=caller.headers,
                timeout_s=MODELS_TIMEOUT_S,
            )
            return reply.status, reply.body

        where = f"{endpoint.url}/v1/models"
        try:
            status, body = self._loop.call(ask)
        except PenstockError as error:
            raise LocustError(f"{where}: {error.message}; is BASE_URL right?") from None
        if status != 200:
            raise LocustError(f"{where} answered {status}; are BASE_URL and API_KEY right?")
        try:
            return msgspec.json.decode(body, type=_Models).data[0].id
        except (msgspec.DecodeError, IndexError):
            raise LocustError(f"{where} names no model; set MODEL") from None


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


class PenstockUser(User):
    """Sends one request after the other; all users of a process share its connections."""

    settings: ClassVar[Settings | None] = None
    load: ClassVar[Load | None] = None

    def wait_time(self) -> float:
        """The pause before the next request, seconds."""
        assert PenstockUser.settings is not None
        return PenstockUser.settings.think_s

    @task
    def ask(self) -> None:
        """One request."""
        if PenstockUser.load is None:
            assert PenstockUser.settings is not None
            PenstockUser.load = Load(
                PenstockUser.settings, getattr(self.environment.runner, "worker_index", 0)
            )
        try:
            sample = PenstockUser.load.request()
        except LocustError as error:
            self._tell("E2E", "models", 0.0, 0, error)
            sleep(RETRY_S)
            return
        tell(sample, self._tell)

    def _tell(self, what: str, name: str, seconds: float, length: int, error: Exception | None) -> None:
        self.environment.events.request.fire(
            request_type=what,
            name=name,
            response_time=seconds * 1000.0,
            response_length=length,
            exception=error,
            context=self.context(),
        )


Tell = Callable[[str, str, float, int, Exception | None], None]


def tell(sample: Sample, say: Tell) -> None:
    """Says what became of a request: its E2E, and where it succeeded its TTFT and TPOT as well."""
    if sample.cause is not Cause.NONE:
        seconds = (sample.ended_s or sample.scheduled_s) - sample.scheduled_s
        detail = f": {sample.detail}" if sample.detail else ""
        say("E2E", sample.kind, seconds, sample.response_bytes, LocustError(f"{sample.cause}{detail}"))
        return
    for what in ("E2E", "TTFT", "TPOT"):
        value_of = BY_NAME[what.lower()].of
        value_s = value_of(sample) if value_of is not None else None
        if value_s is not None:
            say(what, sample.kind, value_s, sample.response_bytes if what == "E2E" else 0, None)


def begin(environment: Environment, **_: Any) -> None:
    """Reads the settings before anything starts, and ends Locust where they are wrong."""
    try:
        PenstockUser.settings = Settings.read(os.environ, environment.host)
    except PenstockError as error:
        _log.error("%s%s", error.message, f" (hint: {error.hint})" if error.hint else "")
        sys.exit(EXIT_USAGE)


def end(environment: Environment, **_: Any) -> None:  # noqa: ARG001 - Locust's signature
    """Closes what was opened."""
    if PenstockUser.load is not None:
        PenstockUser.load.close()
        PenstockUser.load = None


def _number(env: Mapping[str, str], name: str, kind: type[N], most: float) -> N:
    text = env.get(name) or "0"
    try:
        value = kind(text)
    except ValueError:
        value = kind(-1)
    if not 0 <= value <= most:
        raise LocustError(f"{name}: {text!r} is no number from 0 to {most:g}")
    return value


# Locust has types, but for these two.
events.init.add_listener(begin)  # type: ignore[no-untyped-call]
events.quitting.add_listener(end)  # type: ignore[no-untyped-call]

if __name__ == "__main__":
    print(__file__)  # noqa: T201 - for `locust -f "$(python -m penstock.bench.locust)"`
