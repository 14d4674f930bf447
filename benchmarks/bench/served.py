"""A truth server and loads on it: what the client says, beside what the server knows."""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from penstock.bench.load.endpoint import Endpoint
from penstock.bench.load.health import ClientHealth
from penstock.bench.load.processes import Generated, generate
from penstock.bench.load.timeouts import Timeouts
from penstock.bench.plan import PlannedRequest
from penstock.bench.sample import Sample

ROOT = Path(__file__).parents[2]
BODY = (
    b'{"model":"truth","messages":[{"role":"user","content":"hello"}],"max_tokens":16,"stream":true,'
    b'"stream_options":{"include_usage":true}}'
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a load.

    Args:
        samples: what the client noted, seconds from the start of the load.
        arrived_s, written_s: by request id, when the server had the request, and when it wrote each chunk with
            content; seconds from the start of the load.
        cpu_s: of the load generators, from their start to their end.
    """

    samples: list[Sample]
    client: ClientHealth
    arrived_s: dict[str, float]
    written_s: dict[str, list[float]]
    wall_s: float
    cpu_s: float


class Served:
    """A truth server that is running."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"

    def load(
        self,
        case: str,
        requests: int,
        *,
        concurrency: int | None = None,
        times_s: Sequence[float] = (),
        processes: int = 1,
        ramp_s: float = 0.0,
    ) -> Outcome:
        """Puts a load on a case: so many at once, or each at its time.

        Raises:
            RuntimeError: the load generators had a problem of their own.
        """
        self._log()
        before_s = _children_cpu_s()
        plan = (
            PlannedRequest(index=n, body=BODY, at_s=times_s[n] if times_s else None, output_tokens=16)
            for n in range(requests)
        )
        with tempfile.TemporaryDirectory() as folder:
            generated = asyncio.run(self._generate(case, plan, concurrency, processes, ramp_s, Path(folder)))
            samples = list(generated.samples())
        if generated.problems:
            raise RuntimeError("; ".join(generated.problems))
        log = {name: [at_s - generated.zero_s for at_s in times] for name, times in self._log()}
        return Outcome(
            samples=samples,
            client=generated.client,
            arrived_s={name: times[0] for name, times in log.items()},
            written_s={name: times[1:] for name, times in log.items()},
            wall_s=generated.wall_s,
            cpu_s=_children_cpu_s() - before_s,
        )

    async def _generate(
        self,
        case: str,
        plan: Iterable[PlannedRequest],
        concurrency: int | None,
        processes: int,
        ramp_s: float,
        folder: Path,
    ) -> Generated:
        return await generate(
            Endpoint.parse(f"{self._base}/{case}/v1"),
            plan,
            concurrency=concurrency,
            duration_s=None,
            processes=processes,
            ramp_s=ramp_s,
            timeouts=Timeouts(),
            spool=folder,
            on_progress=lambda _: None,
            stop=asyncio.Event(),
        )

    def _log(self) -> Iterable[tuple[str, list[float]]]:
        with urllib.request.urlopen(f"{self._base}/log") as reply:
            return [(name, times) for name, times in json.load(reply)]


@contextmanager
def served() -> Iterator[Served]:
    """A truth server while the block runs."""
    argv = (sys.executable, "-m", "benchmarks.bench.truth")
    child = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        yield Served(int(child.stdout.readline()))
    finally:
        child.terminate()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def _children_cpu_s() -> float:
    """CPU time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
