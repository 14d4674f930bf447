"""A race of two attempts: the first to send a byte of its answer is taken, the other is ended at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from penstock.core.errors import EngineError, PenstockError
from penstock.gateway.call import Call
from penstock.gateway.trials import Trial
from penstock.policy.retry import RETRIED_STATUSES, Failure

OUTRUN = "outrun"


async def race(call: Call, first: Trial, after_s: float, another: Callable[[], Trial | None]) -> Trial:
    """The attempt to go on with; its exchange is open, and what has come waits in it. All others are closed.

    Args:
        after_s: silence of the first, in seconds, after which there is a second.
        another: begins the second; None where there may be none.

    Returns:
        Where all have failed, the last to fail, with its `error`.
    """
    running = {asyncio.create_task(_begin(call, first)): first}
    try:
        await asyncio.wait(running, timeout=after_s)
        if not any(task.done() for task in running) and (second := another()) is not None:
            call.record.hedged = True
            running[asyncio.create_task(_begin(call, second))] = second
        while True:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                trial = running.pop(task)
                if _is_taken(trial, task, alone=not running):
                    _move_last(call, trial)
                    return trial
    finally:
        for task, trial in running.items():
            if not task.cancel():
                task.exception()  # it came to its end at the same moment; nobody else will look at it
            trial.attempt.failure = OUTRUN
            trial.close()


async def _begin(call: Call, trial: Trial) -> None:
    exchange = await trial.open(call, call.request.body)
    await exchange.begun()


def _is_taken(trial: Trial, task: asyncio.Task[None], *, alone: bool) -> bool:
    """Whether this attempt, which has come to something, is the one; a failed one is only where it is `alone`."""
    error = task.exception()
    if error is None and (alone or trial.attempt.status not in RETRIED_STATUSES):
        return True
    if alone and isinstance(error, EngineError):
        trial.error = error  # told by whoever gets it
        return True
    trial.attempt.failure = Failure.STATUS
    if isinstance(error, EngineError):
        trial.failed(error)
    elif isinstance(error, PenstockError):
        trial.attempt.failure = error.code
    trial.close()
    if error is not None and (alone or not isinstance(error, PenstockError)):
        raise error
    return False


def _move_last(call: Call, trial: Trial) -> None:
    """The last attempt on the record is the one that answered."""
    attempts = call.record.attempts
    attempts.remove(trial.attempt)
    attempts.append(trial.attempt)
