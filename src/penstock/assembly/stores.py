"""What a gateway keeps: limits, answers, journal and ledger; of one process, one machine, or all that share Redis."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.assembly.delivering import Delivering
from penstock.assembly.worker import Worker
from penstock.core.config import Config
from penstock.core.errors import PenstockError
from penstock.store.answers import AnswerStore, LaterAnswers
from penstock.store.home import Home
from penstock.store.journal import Journal
from penstock.store.keys import KeyRing
from penstock.store.ledger_keeper import Kept, Task, keep
from penstock.store.limits import LimitStore, LocalLimits
from penstock.store.limits_shared import SharedLimits
from penstock.telemetry.logs import Logger

if TYPE_CHECKING:
    from penstock.store.answers_local import LocalAnswers
    from penstock.store.answers_redis import RedisAnswers
    from penstock.store.limits_redis import RedisLimits

# Nobody waits for it: `penstock usage` looks at the journal itself.
KEEP_LEDGER_EVERY_S = 15.0
# Also where nothing new came: files grow too old to be kept.
KEEP_LEDGER_AT_LEAST_EVERY_S = 3600.0
SEED_WITHIN_S = 30.0
ANSWER_PATIENCE_S = 0.25  # an answer is larger than a limit


class Stores:
    """The stores of one gateway process."""

    def __init__(self, config: Config, home: Home, worker: Worker, keys: KeyRing, log: Logger) -> None:
        self._keys = keys
        self._log = log
        self._redis_limits: RedisLimits | None = None
        self._redis_answers: RedisAnswers | None = None
        self._seeding: asyncio.Task[None] | None = None
        self.shared_is_up = config.shared.redis is None
        self.limits = self._open_limits(config, home, worker)
        self.answers = self._open_answers(config, home)
        self.journal = Journal(
            home.journal,
            time.time,
            sync=config.usage.journal_sync,
            on_failure=config.usage.on_journal_failure,
            on_problem=self._on_problem,
            on_recovered=lambda kept: log.info("journal works again", kept_lines=kept),
        )
        self._home = home
        self._task = Task(config.usage.journal_keep_s, outbox=config.clickhouse.url is not None)
        self.damage = (0, 0)  # torn lines and unreadable files of the journal
        self.ledger_failing = False
        self.delivery = Delivering(home.ledger, config.clickhouse, log) if config.clickhouse.url else None

    async def start(self) -> None:
        """Reaches what is shared, and lets budgets go on from what the ledger says was spent."""
        if self._redis_limits is not None:
            await self._redis_limits.start()
            if self._redis_limits.up:
                self._redis_is_there()
        if self._redis_answers is not None:
            await self._redis_answers.start()
        await self._seed_spend()

    def seed_again(self) -> None:
        """Tells the limits once more what was spent: they may have come to know it only now."""
        self._seeding = asyncio.get_running_loop().create_task(self._seed_spend())

    async def keep_ledger(self) -> None:
        """Brings the journal into the ledger: whichever worker comes first does it for all."""
        taken, taken_s = self.journal.lines, time.monotonic()  # what was there before is in it since `start`
        while True:
            await asyncio.sleep(KEEP_LEDGER_EVERY_S)
            lines, now_s = self.journal.lines, time.monotonic()
            if lines != taken or now_s - taken_s > KEEP_LEDGER_AT_LEAST_EVERY_S:
                kept = await self._keep(self._task)
                if kept.whole:
                    taken, taken_s = lines, now_s
                if self.delivery is not None:
                    self.delivery.rows_came()
            if self.delivery is not None:
                await self.delivery.tend(now_s)

    def on_answers(self, works: bool, why: str) -> None:
        """Tells whether answers for idempotency keys can be kept."""
        if works:
            self._log.info("answers are kept again")
        else:
            self._log.error("answers for idempotency keys can't be kept", why=why)

    async def close(self) -> None:
        """Lets go of files and connections."""
        self.journal.close()
        await self.limits.close()

    def _open_limits(self, config: Config, home: Home, worker: Worker) -> LimitStore:
        here: LimitStore = (
            SharedLimits(home.limits, worker.number, time.time)
            if worker.count > 1
            else LocalLimits(time.time)
        )
        shared = config.shared
        if shared.redis is None:
            return here
        from penstock.store.limits_redis import RedisLimits  # 5 MB that few need

        self._redis_limits = RedisLimits(
            shared.redis.get_secret_value(),
            shared.prefix,
            time.time,
            here,
            shared.timeout_s,
            self._on_redis,
        )
        return self._redis_limits

    def _open_answers(self, config: Config, home: Home) -> AnswerStore:
        bounds: Any = {
            "ttl_s": config.idempotency.ttl_s,
            "entries_max": config.idempotency.entries_max,
            "bytes_max": config.idempotency.bytes_max,
        }

        def here() -> LocalAnswers:
            from penstock.store.answers_local import LocalAnswers

            return LocalAnswers(home.answers, time.time, **bounds, on_problem=self._log.warning)

        shared = config.shared
        if shared.redis is None:
            return LaterAnswers(here)
        from penstock.store.answers_redis import RedisAnswers

        url = shared.redis.get_secret_value()
        patience_s = max(ANSWER_PATIENCE_S, shared.timeout_s)
        self._redis_answers = RedisAnswers(url, shared.prefix, here(), **bounds, timeout_s=patience_s)
        return self._redis_answers

    def _on_problem(self, error: PenstockError) -> None:
        self._log.error(error.message, hint=error.hint)

    def _on_redis(self, up: bool, why: str) -> None:
        if up:
            self._redis_is_there()
            self.seed_again()
        else:
            self.shared_is_up = False
            self._log.error("redis is away: every machine keeps its own limits now", why=why)

    def _redis_is_there(self) -> None:
        self.shared_is_up = True
        self._log.info("redis is there: limits are shared")

    async def _seed_spend(self) -> None:
        """Serving does not wait for accounts to be mended."""
        kept = await self._keep(msgspec.structs.replace(self._task, wait_s=SEED_WITHIN_S))
        counted_as = {key.id: key.counted_as for key in self._keys.valid()}
        subjects = {f"tenant:{name}": spent for name, spent in kept.tenants.items()}
        for key_id, spent in kept.keys.items():
            subject = f"key:{counted_as.get(key_id, key_id)}"
            day_usd, month_usd = subjects.get(subject, (0.0, 0.0))
            subjects[subject] = (day_usd + spent[0], month_usd + spent[1])
        for subject, (day_usd, month_usd) in subjects.items():
            await self.limits.seed_spend(subject, day_usd, month_usd)

    async def _keep(self, task: Task) -> Kept:
        kept = await keep(self._home.ledger, self._home.journal, task)
        self.ledger_failing = bool(kept.problems)
        for problem in kept.problems:
            self._log.error(problem.message, hint=problem.hint)
        damage = (kept.torn, kept.unreadable) if kept.whole or kept.unreadable else self.damage
        if any(damage) and damage != self.damage:
            self._log.warning("damaged lines in the journal", torn=kept.torn, unreadable=kept.unreadable)
        self.damage = damage
        return kept
