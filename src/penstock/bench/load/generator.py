"""One load generator process as its parent knows it: started, spoken to, and ended."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import msgspec

from penstock.bench.load.worker_words import Begin, Ended, Halt, Job, Report, Word
from penstock.core.errors import PenstockError

# A report holds some hundred figures.
LINE_BYTES_MAX = 1024 * 1024
# A process that has said its last line, or is told to end, is gone within milliseconds.
END_S = 2.0
# What it says when it breaks off is for people to read.
LOG_BYTES_MAX = 64 * 1024

_encode = msgspec.json.Encoder().encode
_WORDS: msgspec.json.Decoder[Word] = msgspec.json.Decoder(Word)


class GeneratorError(PenstockError):
    """The load generators could not do their work."""

    code = "load_generator"


@dataclass(slots=True)
class Generator:
    """One process.

    Args:
        log: what it writes when it fails.
        report, ended: the last of each that it said.
        recent_ttft_s, recent_tpot_s, late_max_s: gathered from reports until they are told on.
    """

    number: int
    process: asyncio.subprocess.Process
    log: Path
    report: Report | None = None
    ended: Ended | None = None
    recent_ttft_s: list[float] = field(default_factory=list)
    recent_tpot_s: list[float] = field(default_factory=list)
    late_max_s: float = 0.0

    @classmethod
    async def start(cls, job: Job) -> Self:
        """A process that has its job; away from the terminal, whose Ctrl-C is for its parent.

        Raises:
            GeneratorError: it can't be started.
        """
        log = Path(job.spool).with_suffix(".log")
        try:
            with log.open("wb") as errors:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "penstock.bench.load.worker",
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=errors,
                    limit=LINE_BYTES_MAX,
                    start_new_session=True,
                )
        except OSError as error:
            raise GeneratorError(f"load generator {job.process} can't be started: {error}") from None
        generator = cls(job.process, process, log)
        generator.tell(job)
        return generator

    @property
    def taken(self) -> int:
        """Requests it has read from its plan."""
        return self.report.taken if self.report else 0

    def tell(self, word: Job | Begin | Halt) -> None:
        """Sends it a line; one that has gone hears nothing."""
        assert self.process.stdin is not None
        with suppress(OSError, RuntimeError):
            self.process.stdin.write(_encode(word) + b"\n")

    async def hear(self) -> Word | None:
        """Its next line; None when it has said its last."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        return _WORDS.decode(line) if line.endswith(b"\n") else None

    def note(self, report: Report) -> None:
        """Keeps what it reports."""
        self.report = report
        self.recent_ttft_s += report.recent_ttft_s
        self.recent_tpot_s += report.recent_tpot_s
        self.late_max_s = max(self.late_max_s, report.send_late_max_s)

    async def last_words(self) -> str:
        """How a process that broke off did so."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.process.wait(), END_S)
        with self.log.open("rb") as file:
            lines = file.read(LOG_BYTES_MAX).decode(errors="replace").strip().splitlines()
        code = self.process.returncode
        how = f"by signal {-code}" if code is not None and code < 0 else f"with code {code}"
        return f"it ended {how}" + (f": {lines[-1][:300]}" if lines else "")

    async def end(self) -> None:
        """Ends the process, if it has not ended by itself, and clears away what it left."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        for force in (self.process.terminate, self.process.kill):
            try:
                await asyncio.wait_for(self.process.wait(), END_S)
                break
            except TimeoutError:
                with suppress(ProcessLookupError):
                    force()
        await self.process.wait()
        if self.log.exists() and self.log.stat().st_size == 0:
            self.log.unlink()
