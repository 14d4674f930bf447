"""The load tester: a plan made before the run, a load generator that only sends and times, and numbers that are
judged before they are shown.

In a notebook: `from penstock import bench; result = await bench.run(url=..., model=..., concurrency=8, requests=100)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.bench.report.finished import Finished

__all__ = ["run"]


async def run(url: str, **options: Any) -> Finished:
    """One run; see `runner.run`, which is imported only now: load generators are processes that need none of it."""
    from penstock.bench import runner

    return await runner.run(url, **options)
