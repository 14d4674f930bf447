"""What must always hold, checked after every event by books that are kept apart from the policies' own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from penstock.policy.breaker import CLEAN, Breaker, Sign, Trust
from penstock.policy.budget import MINUTE_S, Limits
from penstock.policy.fleet import State
from penstock.policy.retry import BUDGET_MAX, BUDGET_PER_REQUEST, Failure
from tests.simulation.fairness import GRAIN, Fairness
from tests.simulation.scenario import USD_PER_TOKEN

if TYPE_CHECKING:
    from tests.simulation.gateway import Request
    from tests.simulation.world import World

EVENTS_REMEMBERED = 12


class BrokenInvariantError(AssertionError):
    """Something that must always hold does not; `invariant` names it."""

    def __init__(self, invariant: str, message: str) -> None:
        super().__init__(f"{invariant}: {message}")
        self.invariant = invariant


class Spent:
    """What a tenant was granted by its limits, reckoned from outside."""

    __slots__ = ("changed", "open", "requests", "tokens", "usd")

    def __init__(self) -> None:
        self.open = 0
        self.requests = 0
        self.tokens = 0
        self.usd = 0.0
        self.changed = False


class Watch:
    """Keeps the books on one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._log: list[str] = []
        self._arrived = self._retries = 0
        self._out = 0
        self._length_before = 0
        self._faulty: set[str] = set()
        self._refused: set[str] = set()
        self._pausing: set[Request] = set()
        self._spent = {tenant.name: Spent() for tenant in world.tenants}
        self.fairness = Fairness(self.fail)

    def fail(self, invariant: str, message: str) -> None:
        """Stops the run."""
        at = f"{message}, at {self._world.now_s:.3f} s"
        raise BrokenInvariantError(
            invariant, "\n  ".join([at, "the last events:", *self._log[-EVENTS_REMEMBERED:]])
        )

    # --- around each event ---

    def before(self, name: str, args: tuple[Any, ...]) -> None:
        """An event is about to happen."""
        world = self._world
        who = getattr(args[0], "number", getattr(args[0], "kind", args[0])) if args else ""
        self._log.append(f"{world.now_s:9.3f} {name[1:]} {who}")
        if len(self._log) > 10 * EVENTS_REMEMBERED:
            del self._log[:-EVENTS_REMEMBERED]
        self._length_before = world.admission.line.length

    def after(self) -> None:
        """An event has happened: everything that can be seen from outside must agree."""
        self._permits()
        self._attempts()
        self._budgets()

    def _permits(self) -> None:
        admission = self._world.admission
        out, capacity, length = admission.out, admission.capacity, admission.line.length
        if out != self._out:
            self.fail("no permit leaks", f"{out} permits are out, and {self._out} are held")
        if length != self.fairness.waiting:
            self.fail("no request is lost in line", f"{length} wait, not {self.fairness.waiting}")
        if length > max(admission.queue_len_max, self._length_before):
            self.fail("the line is bounded", f"{length} wait")
        if length and out < capacity:
            self.fail("no permit is free while someone waits", f"{out} of {capacity} are out")
        if length and not self._pausing:
            self._idle()

    def _idle(self) -> None:
        """Where every permit is used at a replica that has room for it, none that is trusted may be idle."""
        world = self._world
        room: dict[str, int] = {}
        idle = ""
        for replica in world.ready:
            trust = world.breakers.get(replica.name, CLEAN).state
            room[replica.name] = {Trust.CLOSED: world.concurrency[replica.name], Trust.HALF_OPEN: 1}.get(
                trust, 0
            )
            if trust is Trust.CLOSED and not world.in_flight.get(replica.name):
                idle = replica.name
        if idle and all(held <= room.get(name, 0) for name, held in world.in_flight.items()):
            self.fail("no healthy replica is idle while someone waits", f"{idle} is")

    def _attempts(self) -> None:
        world = self._world
        running = 0
        for name, engine in world.engines.items():
            live = len(engine.live)
            running += live
            if world.in_flight.get(name, 0) != live:
                self.fail("in-flight counts are true", f"{name} has {live}, not {world.in_flight.get(name)}")
        if running > self._out:
            self.fail("an attempt holds a permit", f"{running} attempts and {self._out} permits")

    def _budgets(self) -> None:
        world = self._world
        if self._retries > BUDGET_MAX + BUDGET_PER_REQUEST * self._arrived + GRAIN:
            self.fail("the retry budget holds", f"{self._retries} retries of {self._arrived} requests")
        for name, account in world.accounts.items():
            if account.parallel != self._spent[name].open:
                self.fail(
                    "no reservation leaks", f"{name} has {account.parallel}, not {self._spent[name].open}"
                )

    def end(self, requests: Sequence[Request]) -> None:
        """Nothing is left to happen."""
        world = self._world
        without = [request.number for request in requests if not request.outcome]
        if without:
            self.fail("every request has an outcome", f"{without} have none")
        if self._out or self.fairness.waiting:
            self.fail("every permit comes back", f"{self._out} are out, {self.fairness.waiting} wait")
        for name, account in world.accounts.items():
            if account.reserved_usd or account.parallel:
                self.fail("no reservation leaks", f"{name} keeps {account.reserved_usd} USD")
            spent = self._spent[name]
            if abs(account.day_usd - spent.usd) > GRAIN:
                self.fail("money is charged once", f"{name}: {account.day_usd} USD, not {spent.usd}")

    # --- requests ---

    def outcome(self, request: Request, outcome: str) -> None:
        """A request comes to its end."""
        self._pausing.discard(request)
        if request.outcome:
            self.fail("one outcome", f"{request.number} is {request.outcome} and {outcome}")
        if request.phase == "runs":
            self.fail("no attempt is left behind", f"{request.number} still runs at {request.replica}")
        if outcome == "queue_timeout" and self._world.now_s < request.deadline_s - GRAIN:
            self.fail("nobody is timed out early", f"{request.number}")

    def chosen(self, request: Request, name: str, reason: str) -> None:
        """A replica was chosen for an attempt."""
        world = self._world
        self._pausing.discard(request)
        if name in self._refused:
            self.fail("a replica that refused is asked first", f"{name} was chosen ({reason})")
        replica = world.fleet.get(name)
        if replica is None or replica.state is not State.READY:
            self.fail("only ready replicas get requests", f"{name} was chosen ({reason})")
        if request.attempts > world.scenario.retries_max:
            self.fail("attempts are bounded", f"{request.number} was tried {request.attempts} times")
        trusted = [r for r in world.ready if world.breakers.get(r.name, CLEAN).state is Trust.CLOSED]
        if world.breakers.get(name, CLEAN).state is Trust.OPEN:
            breaker = world.breakers[name]
            if trusted and world.now_s < breaker.until_s:
                self.fail("an ejected replica gets nothing", f"{name} was chosen ({reason})")
        if name in request.tried and any(r.name not in request.tried for r in trusted):
            self.fail("a retry goes elsewhere", f"{request.number} went to {name} again ({reason})")
        self._balanced(request, name, trusted)

    def _balanced(self, request: Request, name: str, trusted: list[Any]) -> None:
        """A full replica gets no request while a trusted one that would do has room."""
        world = self._world
        if world.in_flight.get(name, 0) < world.concurrency[name] or not trusted:
            return
        room = [
            r.name
            for r in trusted
            if r.name not in request.tried and world.in_flight.get(r.name, 0) < world.concurrency[r.name]
        ]
        if room:
            self.fail("no replica is idle while another is overfull", f"{name} was chosen, {room} have room")

    def deposited(self) -> None:
        """A request came in."""
        self._arrived += 1

    def retried(self, request: Request, failure: Failure) -> None:
        """A request is tried again."""
        self._retries += 1
        self._pausing.add(request)
        if request.first_token_s is not None:
            self.fail("no retry after the first token", f"{request.number}")
        if failure is Failure.TIMEOUT:
            self.fail("no retry after a time limit", f"{request.number}")

    # --- permits and fairness ---

    def joined_line(self, request: Request) -> None:
        """A request waits."""
        self.fairness.joined(request)

    def left_line(self, request: Request) -> None:
        """A request does not wait any more."""
        self.fairness.left(request)

    def served(self, request: Request, *, waited: bool = False) -> None:
        """A request got a permit."""
        self._out += 1
        admission = self._world.admission
        if admission.out > admission.capacity:
            self.fail("permits stay within capacity", f"{admission.out} of {admission.capacity} are out")
        if not waited and self.fairness.waiting:
            self.fail("nobody jumps the line", f"{request.number} did not wait")
        self.fairness.served(request, waited=waited)

    def settled(self, request: Request, actual_tokens: int) -> None:
        """A permit came back."""
        self._out -= 1
        if self._out < 0:
            self.fail("no permit leaks", "more came back than were given")
        self.fairness.settled(request, actual_tokens)

    def weight_changed(self, tenant: str) -> None:
        """A tenant has another weight from now on."""
        self.fairness.exempt.add(tenant)

    # --- limits ---

    def limits_changed(self, tenant: str) -> None:
        """A tenant has other limits from now on; what it was granted before does not count for them."""
        self._spent[tenant].changed = True

    def reserved(self, request: Request) -> None:
        """A request was counted against the limits of its tenant."""
        spent, limits = self._spent[request.tenant], request.subject.limits
        spent.open += 1
        spent.requests += 1
        spent.tokens += request.reserved.tokens
        spent.usd += request.reserved.usd
        if limits.parallel_requests is not None and spent.open > limits.parallel_requests:
            self.fail("no limit is passed", f"{request.tenant} has {spent.open} in parallel")
        if not spent.changed:
            self._rates(request.tenant, spent, limits)

    def _rates(self, tenant: str, spent: Spent, limits: Limits) -> None:
        minutes = 1.0 + self._world.now_s / MINUTE_S
        if (
            limits.requests_per_minute is not None
            and spent.requests > limits.requests_per_minute * minutes + 0.1
        ):
            self.fail("no limit is passed", f"{tenant} made {spent.requests} requests in {minutes} minutes")
        if limits.tokens_per_minute is not None and spent.tokens > limits.tokens_per_minute * minutes + 1.0:
            self.fail(
                "no limit is passed", f"{tenant} was granted {spent.tokens} tokens in {minutes} minutes"
            )
        if limits.usd_per_day is not None and spent.usd > limits.usd_per_day + GRAIN:
            self.fail("no limit is passed", f"{tenant} was granted {spent.usd} USD")

    def settled_budget(self, request: Request, actual_tokens: int) -> None:
        """A reservation was settled."""
        spent = self._spent[request.tenant]
        spent.open -= 1
        spent.requests -= not request.attempts
        spent.tokens += actual_tokens - request.reserved.tokens
        spent.usd += actual_tokens * USD_PER_TOKEN - request.reserved.usd

    # --- breakers ---

    def faulty(self, name: str) -> None:
        """An engine has failed, or will, through its own fault."""
        self._faulty.add(name)

    def refused(self, name: str) -> None:
        """Nothing listens at a replica."""
        self._refused.add(name)

    def answered(self, name: str) -> None:
        """A replica was asked how it is, and answered."""
        self._refused.discard(name)

    def judged(self, name: str, sign: Sign, before: Breaker, after: Breaker) -> None:
        """An attempt has told something about a replica."""
        if sign is not Sign.FAILURE and after.state is Trust.OPEN and before.state is not Trust.OPEN:
            self.fail("only failures eject", f"{name} was ejected after {sign}")
        if after.state is Trust.CLOSED:
            return
        if name not in self._faulty:
            self.fail("clients' errors never eject", f"{name} never failed, and is {after.state}")
        if before.state is Trust.CLOSED:
            world = self._world
            left = [r.name for r in world.ready if r.name != name]
            if not any(world.breakers.get(other, CLEAN).state is Trust.CLOSED for other in left):
                self.fail("the last replica is never ejected", f"{name} was, and left are {left}")
