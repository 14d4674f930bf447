"""An asyncio loop in a native thread, for programs that gevent has taken over.

gevent replaces what asyncio's own loops stand on, and its greenlets run one at a time beside whatever work Locust has.
uvloop stands on libuv and needs nothing of what is replaced. So the load's clock, its sockets and its streams live in
a native thread of gevent's thread pool; a greenlet hands a piece of work over and sleeps until its result is there.
Threads share the interpreter's lock: while Locust computes, the loop waits, for one switch interval at most.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

import uvloop
from gevent import get_hub
from gevent.event import AsyncResult
from gevent.threadpool import ThreadPool

# Python's own 5 ms is more than the gap between two tokens of a fast engine.
SWITCH_INTERVAL_S = 0.0005

T = TypeVar("T")


class NativeLoop:
    """A loop that runs from now on until `close`; to be made, used and closed in one gevent hub."""

    def __init__(self) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._loop = uvloop.new_event_loop()
        self._over: deque[tuple[AsyncResult[Any], Any, BaseException | None]] = deque()
        self._wake = get_hub().loop.async_(ref=False)
        self._wake.start(self._hand_back)
        self._threads = ThreadPool(1)
        self._running = self._threads.spawn(self._run)

    def call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What `work` returns in the loop; the greenlet sleeps meanwhile, and killing it cancels the work."""
        result: AsyncResult[T] = AsyncResult()
        tasks: list[asyncio.Task[T]] = []
        self._loop.call_soon_threadsafe(self._begin, work, result, tasks)
        try:
            value = result.get()
        except BaseException:
            self._loop.call_soon_threadsafe(_cancel, tasks)
            raise
        return cast("T", value)  # gevent's types know of time limits, under which it may be None

    def close(self) -> None:
        """Ends the loop; work under way is cancelled first."""
        if not self._running.ready():
            self._loop.call_soon_threadsafe(self._finish)
            self._running.get()
        self._wake.stop()
        self._wake.close()
        self._threads.kill()

    # -- in the native thread -----------------------------------------------------------------------

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    def _begin(
        self, work: Callable[[], Coroutine[Any, Any, T]], result: AsyncResult[T], tasks: list[Any]
    ) -> None:
        task = self._loop.create_task(work())
        tasks.append(task)
        task.add_done_callback(lambda done: self._ended(done, result))

    def _ended(self, task: asyncio.Task[T], result: AsyncResult[T]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        self._over.append((result, None if error else task.result(), error))
        self._wake.send()

    def _finish(self) -> None:
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        # One more turn of the loop for what the cancelled ones have to do.
        ended = asyncio.gather(*tasks, return_exceptions=True) if tasks else None
        if ended is None:
            self._loop.stop()
        else:
            ended.add_done_callback(lambda _: self._loop.call_soon(self._loop.stop))

    # -- in the hub ---------------------------------------------------------------------------------

    def _hand_back(self) -> None:
        while self._over:
            result, value, error = self._over.popleft()
            if error is None:
                result.set(value)
            else:
                result.set_exception(error)


def _cancel(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
