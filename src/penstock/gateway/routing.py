"""Which replica gets an attempt, and what the attempts tell of their replicas: acts for `policy/route` and
`policy/breaker`, and keeps what they need to know."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from penstock.core.config import ModelConfig
from penstock.gateway.replicas import Replicas
from penstock.policy.breaker import CLEAN, Breaker, Sign, Trust, allowed, begun, observed
from penstock.policy.fleet import Replica
from penstock.policy.prefix import PrefixIndex, chain_of, prompt_start
from penstock.policy.route import ONLY_ONE, Choice, route


class Routing:
    """Chooses among the ready replicas of each model.

    Args:
        permits: how many requests a replica may hold, by its name.
        clock: monotonic seconds.
        chance: a number from 0 to 1, each time another.
        on_trust: told of each replica that is ejected or comes back, with its breaker.
    """

    def __init__(
        self,
        replicas: Replicas,
        permits: Mapping[str, int],
        clock: Callable[[], float],
        chance: Callable[[], float],
        on_trust: Callable[[str, Breaker], None],
    ) -> None:
        self.breakers: dict[str, Breaker] = {}
        self._replicas = replicas
        self._permits = permits
        self._clock = clock
        self._chance = chance
        self._on_trust = on_trust
        self._turns: dict[str, int] = {}
        self._last_turns: dict[str, int] = {}
        self._prefixes: dict[str, PrefixIndex] = {}

    def choose(
        self, model: ModelConfig, body: bytes, session: str, tried: Collection[str] = ()
    ) -> Choice | None:
        """The replica for the next attempt; None where none is ready. Tell what came of it by `observe`.

        Args:
            body: of the request, for its prompt.
            session: who asks; may be empty.
            tried: names that this request has tried.
        """
        now_s = self._clock()
        ready = self._replicas.fleet.ready(model.name)
        turn = self._turns[model.name] = self._turns.get(model.name, -1) + 1
        if len(ready) == 1:
            choice: Choice | None = Choice(ready[0], ONLY_ONE)
        else:
            choice = self._decided(model, ready, turn, body, session, frozenset(tried), now_s)
        if choice is None:
            return None
        name = choice.replica.name
        self._last_turns[name] = turn
        breaker = self.breakers.get(name)
        if breaker is not None and breaker.state is not Trust.CLOSED:
            self.breakers[name] = begun(breaker, now_s)
        return choice

    def _decided(
        self,
        model: ModelConfig,
        ready: Sequence[Replica],
        turn: int,
        body: bytes,
        session: str,
        tried: frozenset[str],
        now_s: float,
    ) -> Choice | None:
        """What the model's strategy decides."""
        strategy = model.routing
        chain: Sequence[int] = ()
        prefixes = None
        if strategy == "prefix":
            chain = chain_of(body, prompt_start(body))
            prefixes = self._prefixes.setdefault(model.name, PrefixIndex())
        choice = route(
            ready,
            self._replicas.in_flight,
            turn,
            strategy=strategy,
            tried=tried,
            now_s=now_s,
            breakers=self.breakers,
            concurrency=self._permits,
            last_turns=self._last_turns,
            chance=self._chance() if strategy == "p2c" else 0.0,
            session=session,
            chain=chain,
            prefixes=prefixes,
        )
        if choice is not None and prefixes is not None:
            prefixes.add(chain, choice.replica.name)
        return choice

    def open_to(self, model: ModelConfig) -> list[str]:
        """The names of the replicas that may be given requests for `model`."""
        ready = self._replicas.fleet.ready(model.name)
        return [replica.name for replica in allowed(ready, self.breakers, self._clock())]

    def observe(self, model: str, name: str, sign: Sign, begun_s: float) -> None:
        """What an attempt at a replica tells of it.

        Args:
            begun_s: when the attempt began.
        """
        before = self.breakers.get(name, CLEAN)
        ready = self._replicas.fleet.ready(model)
        after = observed(self.breakers, name, sign, self._clock(), begun_s=begun_s, ready=ready)
        self.breakers[name] = after
        if after.state is not before.state:
            self._on_trust(name, after)

    def forget(self, name: str) -> None:
        """The replica is gone, or was started anew: its cache is cold and its failures are of another process."""
        self.breakers.pop(name, None)
        self._last_turns.pop(name, None)
        for prefixes in self._prefixes.values():
            prefixes.forget(name)
