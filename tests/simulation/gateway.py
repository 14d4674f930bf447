"""The gateway's policies at work in virtual time: the same decisions, with a heap of events for a world.

Each request takes the way of `gateway/inference` and `gateway/attempts`: budget, line, route, attempt, retry, and one
outcome. `watch` is told of what happens, and complains.
"""

from __future__ import annotations

from penstock.core.errors import DeadlineError, EngineError, Phase
from penstock.policy import budget
from penstock.policy.admit import ADMITTED, Admission, Verdict
from penstock.policy.breaker import CLEAN, Sign, begun, observed, sign_of
from penstock.policy.fair import Entry
from penstock.policy.fleet import Event
from penstock.policy.retry import RETRIED_STATUSES, Failure, RetryBudget, retry
from penstock.policy.route import route
from tests.simulation.engines import Engine, Mode
from tests.simulation.scenario import Arrival, Scenario, Tenant, Trouble, cost_of
from tests.simulation.world import World

EPOCH_S = 1.7e9  # budgets go by the calendar

_LOST = EngineError("lost", code="engine_lost")
_REFUSED = EngineError("refused", code="engine_refused")
_LATE = {phase: DeadlineError(phase, phase=phase) for phase in Phase}
_MODES = {
    "die": Mode.DEAD,
    "stall": Mode.STALLED,
    "break": Mode.BROKEN,
    "slow": Mode.SLOW,
    "flaky": Mode.FLAKY,
}


class Request(Entry):
    """One request on its way, and its place in line."""

    __slots__ = (
        "arrival",
        "attempts",
        "begun_s",
        "deadline_s",
        "delivered",
        "first_token_s",
        "granted_s",
        "number",
        "outcome",
        "phase",
        "replica",
        "reserved",
        "step",
        "subject",
        "total_s",
        "tried",
    )

    def __init__(self, number: int, arrival: Arrival, tenant: Tenant) -> None:
        tokens = arrival.prompt_tokens + arrival.max_tokens
        super().__init__(tenant.name, weight=tenant.weight, priority=tenant.priority, cost_tokens=tokens)
        self.number = number
        self.arrival = arrival
        self.phase = "new"  # new, waits, runs, pauses, over
        self.step = 0  # an event that was planned in an earlier step comes to nothing
        self.outcome = ""
        self.attempts = 0
        self.tried: set[str] = set()
        self.replica = ""
        self.begun_s = self.granted_s = self.deadline_s = self.total_s = 0.0
        self.first_token_s: float | None = None
        self.delivered = 0
        self.reserved = cost_of(tokens)
        self.subject = budget.Subject(tenant.name, tenant.limits)


class Gateway(World):
    """One model behind one gateway, and what happens to its requests.

    Args:
        admission: another than the real one, to see that its flaws are found.
    """

    def __init__(self, scenario: Scenario, admission: Admission | None = None) -> None:
        super().__init__(scenario, admission or Admission(queue_len_max=0))
        self.retries = RetryBudget()
        self.last_turns: dict[str, int] = {}
        self.turn = 0
        self.requests = [
            Request(i, arrival, self.tenants[arrival.tenant]) for i, arrival in enumerate(scenario.arrivals)
        ]

    def run(self) -> None:
        """Everything that happens, to the end.

        Raises:
            BrokenInvariantError: something that must always hold does not.
        """
        for request in self.requests:
            self._at(request.arrival.at_s, self._arrive, request)
        for trouble in self.scenario.troubles:
            self._at(trouble.at_s, self._trouble, trouble)
        self._happen()
        self.watch.end(self.requests)

    def _arrive(self, request: Request) -> None:
        self.retries = self.retries.deposited()
        self.watch.deposited()
        tenant = self.tenants[request.arrival.tenant]
        request.weight, request.subject = tenant.weight, budget.Subject(tenant.name, tenant.limits)
        account = self.accounts[request.tenant]
        answer = budget.reserve([account], [request.subject], request.reserved, EPOCH_S + self.now_s)
        if isinstance(answer, budget.Refused):
            self._over(request, "limited", reserved=False)
            return
        self.watch.reserved(request)
        request.total_s = self.now_s + self.scenario.total_s
        request.deadline_s = self.now_s + min(self.scenario.queue_s, self.scenario.total_s)
        self._at(request.total_s, self._out_of_time, request)
        if request.arrival.patience_s < 1e6:
            self._at(self.now_s + request.arrival.patience_s, self._client_leaves, request)
        if not self.fleet.replicas:
            self._over(request, "no_replica")
            return
        decision = self.admission.arrive(request, request.deadline_s - self.now_s)
        if decision is ADMITTED:
            self.watch.served(request)
            self._granted(request)
        elif decision.verdict is Verdict.REJECT:
            assert decision.reason is not None
            self._over(request, decision.reason)
        else:
            if isinstance(decision.loser, Request):
                self.watch.left_line(decision.loser)
                self._over(decision.loser, "queue_full")
            request.phase = "waits"
            self.watch.joined_line(request)
            self._at(request.deadline_s, self._turn_never_came, request, request.step)

    def _admit(self) -> None:
        while (request := self.admission.next_admitted()) is not None:
            assert isinstance(request, Request)
            self.watch.left_line(request)
            self.watch.served(request, waited=True)
            self._granted(request)

    def _granted(self, request: Request) -> None:
        request.granted_s = self.now_s
        self._attempt(request)

    def _attempt(self, request: Request) -> None:
        choice = route(
            self.ready,
            self.in_flight,
            self.turn,
            strategy=self.scenario.strategy,
            tried=frozenset(request.tried),
            now_s=self.now_s,
            breakers=self.breakers,
            breaker_limits=self.scenario.breaker,
            concurrency=self.concurrency,
            last_turns=self.last_turns,
            chance=self.rng.random(),
            session=request.tenant,
            slow_start_s=self.scenario.slow_start_s,
        )
        if choice is None:
            self._over(request, "no_replica")
            return
        name = choice.replica.name
        self.watch.chosen(request, name, choice.reason)
        self.last_turns[name] = self.turn
        self.turn += 1
        self._set_breaker(name, begun(self.breakers.get(name, CLEAN), self.now_s, self.scenario.breaker))
        request.phase, request.replica, request.begun_s = "runs", name, self.now_s
        request.attempts += 1
        request.step += 1
        request.tried.add(name)
        self.in_flight[name] = self.in_flight.get(name, 0) + 1
        engine = self.engines[name]
        engine.live[request] = None
        self._at(self.now_s + self.scenario.first_token_s, self._no_token, request, request.step)
        course = engine.course(request, self.rng)
        if course is None:
            return
        if course.failure == "refused":
            self._at(self.now_s + course.begins_s, self._refused, request, request.step)
        elif course.failure == "status":
            self._at(self.now_s + course.begins_s, self._answered_5xx, request, request.step, course.status)
        elif course.status != 200:
            self._at(self.now_s + course.begins_s, self._answered_4xx, request, request.step, course.status)
        elif course.lasts_s < 0.0:
            self._at(self.now_s + course.begins_s, self._lost, request, request.step)
        else:
            first_s = self.now_s + course.begins_s
            self._at(first_s, self._first_token, request, request.step)
            ending = self._lost if course.failure else self._complete
            self._at(first_s + course.lasts_s, ending, request, request.step)

    def _first_token(self, request: Request, step: int) -> None:
        if request.step == step:
            request.first_token_s = self.now_s

    def _complete(self, request: Request, step: int) -> None:
        if request.step == step:
            request.delivered = request.arrival.completion_tokens
            self._judge(request, sign_of(status=200))
            self._over(request, "complete")

    def _answered_4xx(self, request: Request, step: int, status: int) -> None:
        if request.step == step:
            self._judge(request, sign_of(status=status))
            self._over(request, "client_error")

    def _answered_5xx(self, request: Request, step: int, status: int) -> None:
        if request.step == step:
            assert status in RETRIED_STATUSES
            self._judge(request, sign_of(status=status))
            self._failed(request, Failure.STATUS)

    def _refused(self, request: Request, step: int) -> None:
        if request.step == step:
            name = request.replica
            self._judge(request, sign_of(error=_REFUSED))
            self._seen(name, Event.REFUSED)
            self.watch.refused(name)
            self._failed(request, Failure.REFUSED)

    def _lost(self, request: Request, step: int) -> None:
        if request.step != step:
            return
        self._judge(request, sign_of(error=_LOST))
        if request.first_token_s is None:
            self._failed(request, Failure.LOST)
        else:
            self._cut(request, "interrupted")

    def _no_token(self, request: Request, step: int) -> None:
        if request.step == step and request.first_token_s is None:
            self._judge(request, sign_of(error=_LATE[Phase.FIRST_TOKEN], no_token=True))
            self._failed(request, Failure.TIMEOUT)

    def _silent(self, request: Request, step: int) -> None:
        if request.step == step:
            self._judge(request, sign_of(error=_LATE[Phase.STALL]))
            self._cut(request, "interrupted")

    def _out_of_time(self, request: Request) -> None:
        if request.phase == "over":
            return
        if request.phase == "runs":
            no_token = request.first_token_s is None
            # what was left of its time is not enough to judge by, where the line or another replica had the rest
            short = self.now_s - request.begun_s < self.scenario.first_token_s
            late = _LATE[Phase.TOTAL]
            self._judge(request, sign_of(error=late, no_token=no_token, limited_by_client=short))
        self._cut(request, "total_timeout")

    def _client_leaves(self, request: Request) -> None:
        if request.phase == "over":
            return
        if request.phase == "runs":
            self._judge(request, Sign.NOTHING)
        self._cut(request, "left")

    def _turn_never_came(self, request: Request, step: int) -> None:
        if request.phase == "waits" and request.step == step:
            self._cut(request, "queue_timeout")

    def _cut(self, request: Request, outcome: str) -> None:
        if request.phase == "waits":
            assert self.admission.abandon(request)
            self.watch.left_line(request)
        elif request.first_token_s is not None:
            some = int((self.now_s - request.first_token_s) / 0.01)
            request.delivered = min(request.arrival.completion_tokens, some)
        self._over(request, outcome)

    def _failed(self, request: Request, failure: Failure) -> None:
        decision, self.retries = retry(
            failure,
            retries_done=request.attempts - 1,
            retries_max=self.scenario.retries_max,
            elsewhere=any(replica.name not in request.tried for replica in self.ready),
            budget=self.retries,
            time_left_s=request.total_s - self.now_s,
        )
        if not decision.again:
            self._over(request, "failed")
            return
        self.watch.retried(request, failure)
        request.phase = "pauses"
        self._at(self.now_s + decision.delay_s, self._again, request, request.step)

    def _again(self, request: Request, step: int) -> None:
        if request.phase == "pauses" and request.step == step:
            self._attempt(request)

    def _judge(self, request: Request, sign: Sign) -> None:
        """The attempt is over: its replica is free of it, and judged."""
        name = request.replica
        self.in_flight[name] -= 1
        del self.engines[name].live[request]
        request.replica, request.phase = "", "pauses"
        request.step += 1
        if self.fleet.get(name) is None:
            return
        before = self.breakers.get(name, CLEAN)
        after = observed(
            self.breakers,
            name,
            sign,
            self.now_s,
            begun_s=request.begun_s,
            ready=self.ready,
            limits=self.scenario.breaker,
        )
        self.watch.judged(name, sign, before, after)
        self._set_breaker(name, after)

    def _over(self, request: Request, outcome: str, *, reserved: bool = True) -> None:
        self.watch.outcome(request, outcome)
        request.phase, request.outcome = "over", outcome
        request.step += 1
        account, now_s = self.accounts[request.tenant], EPOCH_S + self.now_s
        actual = request.arrival.prompt_tokens + request.delivered if request.delivered else 0
        if reserved:
            self.watch.settled_budget(request, actual)
            if request.attempts:
                budget.settle([account], [request.subject], request.reserved, cost_of(actual), now_s)
            else:
                budget.release([account], [request.subject], request.reserved, now_s)
        hold_s = self.now_s - request.granted_s
        if self.admission.release(request, actual_tokens=actual, hold_s=hold_s):
            self.watch.settled(request, actual)
            self._admit()

    def _trouble(self, trouble: Trouble) -> None:
        mode = _MODES.get(trouble.kind)
        if mode is None:
            getattr(self, f"_change_{trouble.kind}")(trouble)
            return
        engines = list(self.engines.values())
        engine = engines[trouble.which % len(engines)]
        engine.mode = mode
        self.watch.faulty(engine.name)
        if mode is Mode.DEAD:
            for request in list(engine.live):
                self._lost(request, request.step)
            self._at(self.now_s + trouble.amount * 2.0, self._found_dead, engine.name)
        elif mode is Mode.STALLED:
            for request in engine.live:
                request.step += 1  # what it was to send does not come
                late = self._silent
                wait_s = self.scenario.stall_s
                if request.first_token_s is None:
                    late, wait_s = self._no_token, request.begun_s + self.scenario.first_token_s - self.now_s
                self._at(self.now_s + max(0.0, wait_s), late, request, request.step)
        self._at(self.now_s + trouble.duration_s, self._recover, engine, mode)

    def _found_dead(self, name: str) -> None:
        if self.engines[name].mode is Mode.DEAD:
            self._seen(name, Event.REFUSED)

    def _recover(self, engine: Engine, mode: Mode) -> None:
        if engine.mode is mode:
            engine.mode = Mode.SOUND
