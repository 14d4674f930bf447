"""One request: sent, timed as its bytes come, and told as a sample, whatever becomes of it."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field

from penstock.bench.load.chunks import DETAIL_LEN_MAX
from penstock.bench.load.endpoint import Endpoint
from penstock.bench.load.stream import Answer
from penstock.bench.load.timeouts import Timeouts
from penstock.bench.plan import PlannedRequest
from penstock.bench.sample import Cause, Sample
from penstock.core.errors import DeadlineError, EngineError, OverloadError, PenstockError, Phase
from penstock.engines.client import ConnectRefusedError, Dialling, EngineClient, TlsError
from penstock.engines.exchange import Exchange, MalformedResponseError, PhaseTimeouts

# After the end mark, servers end their response at once; one that does not is not waited for.
END_WAIT_S = 1.0
# Of a slow reader's connection: what it leaves unread waits at the server, all but this. With less, the windows of
# TCP and not the reader would set the pace.
SLOW_READER_BUFFER_BYTES = 32 * 1024

_STREAMED = re.compile(rb'"stream"\s*:\s*true')
_DURATION = re.compile(r"\s*([\w.-]+)\s*;(?:[^,]*;)?\s*dur=([0-9.]+)")
_TOO_LATE = {
    Phase.CONNECT: Cause.CONNECT_TIMEOUT,
    Phase.FIRST_TOKEN: Cause.FIRST_TOKEN_TIMEOUT,
    Phase.STALL: Cause.STALL_TIMEOUT,
    Phase.TOTAL: Cause.TOTAL_TIMEOUT,
}


@dataclass(slots=True)
class Counts:
    """What all calls of a process add up to.

    Args:
        events: server-sent events read.
        output_tokens: as far as they are known.
        connections_opened, stale_connections, connections_refused_here: see `health.ProcessHealth`.
        recent_ttft_s, recent_tpot_s: of late, for who watches; emptied by them.
    """

    events: int = 0
    output_tokens: int = 0
    connections_opened: int = 0
    stale_connections: int = 0
    connections_refused_here: int = 0
    recent_ttft_s: list[float] = field(default_factory=list)
    recent_tpot_s: list[float] = field(default_factory=list)


# Enough to draw a percentile from between two looks of a person.
RECENT_LEN_MAX = 256


class Caller:
    """Sends requests to one endpoint; as many at once as it is asked to.

    Args:
        hosts: where to dial; see `Dialling`.
        connections_max: open connections; a request beyond them fails, and is counted as our fault.
        zero_s: the start of the load, on the clock of `time.monotonic`.
        process: number of this load generator, from 0.
        keep_answers: whether samples keep the text of answers.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        timeouts: Timeouts,
        *,
        hosts: tuple[str, ...] = (),
        connections_max: int,
        zero_s: float = 0.0,
        process: int = 0,
        keep_answers: bool = False,
    ) -> None:
        self.zero_s = zero_s
        self.process = process
        self.keep_answers = keep_answers
        self.counts = Counts()
        self.address = endpoint.address
        self.target = endpoint.target()
        self.headers = endpoint.header_lines()
        self.timeouts = PhaseTimeouts(
            connect_s=timeouts.connect_s,
            first_byte_s=timeouts.first_token_s,
            stall_s=timeouts.stall_s,
            total_s=timeouts.total_s,
        )
        tls = endpoint.tls_context()
        self.client = EngineClient(connections_max=connections_max, idle_max=connections_max)
        self.client.reach(self.address, Dialling(hosts=hosts, tls=tls))
        self.slow_client = EngineClient(connections_max=connections_max, idle_max=0)
        self.slow_client.reach(
            self.address, Dialling(hosts=hosts, tls=tls, receive_buffer_bytes=SLOW_READER_BUFFER_BYTES)
        )

    def now_s(self) -> float:
        """Seconds since the start of the load."""
        return time.monotonic() - self.zero_s

    async def call(self, planned: PlannedRequest, scheduled_s: float) -> Sample:
        """Sends a request now and returns what came of it.

        Cancelling the call closes the connection, and returns a sample that says `cut_off`.
        """
        sample = Sample(
            index=planned.index,
            kind=planned.kind,
            stage=planned.stage,
            scheduled_s=scheduled_s,
            session=planned.session,
            turn=planned.turn,
            process=self.process,
            planned_prompt_tokens=planned.prompt_tokens,
            planned_output_tokens=planned.output_tokens,
        )
        await _Call(self, planned, sample).run()
        self._count(sample)
        return sample

    def close(self) -> None:
        """Closes all idle connections."""
        self.client.close()
        self.slow_client.close()

    def _count(self, sample: Sample) -> None:
        counts = self.counts
        chunks = len(sample.chunk_s)
        if sample.completion_tokens is not None:
            counts.output_tokens += sample.completion_tokens - chunks  # chunks were counted as they came
        if chunks and len(counts.recent_ttft_s) < RECENT_LEN_MAX:
            counts.recent_ttft_s.append(sample.chunk_s[0] - sample.scheduled_s)
        tokens = sample.completion_tokens or 0
        if chunks > 1 and tokens > 1 and len(counts.recent_tpot_s) < RECENT_LEN_MAX:
            counts.recent_tpot_s.append((sample.chunk_s[-1] - sample.chunk_s[0]) / (tokens - 1))


class _Call:
    """One request while it is under way; the watcher of its exchange."""

    __slots__ = (
        "_answer",
        "_caller",
        "_cut",
        "_dialled_s",
        "_exchange",
        "_loop",
        "_planned",
        "_resume_timer",
        "_sample",
        "_timers",
    )

    def __init__(self, caller: Caller, planned: PlannedRequest, sample: Sample) -> None:
        self._caller = caller
        self._planned = planned
        self._sample = sample
        self._loop = asyncio.get_running_loop()
        streamed = _STREAMED.search(planned.body) is not None
        self._answer = Answer(streamed=streamed, keep_text=caller.keep_answers)
        self._exchange: Exchange | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._resume_timer: asyncio.TimerHandle | None = None
        self._cut = Cause.NONE
        self._dialled_s = 0.0

    async def run(self) -> None:
        """Sends it, and fills the sample in."""
        caller, sample, planned = self._caller, self._sample, self._planned
        client = caller.client if planned.read_bytes_per_s is None else caller.slow_client
        cause, detail = Cause.NONE, ""
        self._dialled_s = caller.now_s()
        try:
            exchange = await client.open(
                caller.address,
                b"POST",
                caller.target,
                caller.headers,
                planned.body,
                caller.timeouts,
                watcher=self,
            )
            await exchange.end()
            self._answer.end(caller.now_s())
        except asyncio.CancelledError:
            cause = Cause.NONE if self._answer.over else Cause.CUT_OFF
        except PenstockError as error:
            cause, detail = self._why(error)
        finally:
            self._let_go()
        sample.ended_s = caller.now_s()
        self._answer.fill(sample)
        if sample.cause is Cause.NONE or cause in (Cause.CANCELLED, Cause.CUT_OFF):
            sample.cause, sample.detail = cause, detail

    def _let_go(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if self._resume_timer is not None:
            self._resume_timer.cancel()
        if self._exchange is not None:
            self._exchange.cancel()
            self._exchange = None

    def _why(self, error: PenstockError) -> tuple[Cause, str]:
        """What an error means for the sample; nothing where the answer was over before."""
        if self._cut is not Cause.NONE:
            return self._cut, ""
        if self._answer.over:
            return Cause.NONE, ""
        if isinstance(error, OverloadError):
            self._caller.counts.connections_refused_here += 1
        return _cause(error), error.message.replace("the engine", "the server")[:DETAIL_LEN_MAX]

    # -- Watcher ------------------------------------------------------------------------------------

    def on_send(self, exchange: Exchange, reused: bool) -> None:
        """An open connection is there."""
        caller, sample = self._caller, self._sample
        now_s = caller.now_s()
        if sample.sent_s is not None:
            caller.counts.stale_connections += 1
        sample.sent_s = now_s
        if not reused:
            caller.counts.connections_opened += 1
            sample.connect_s = now_s - self._dialled_s
        leave_s = self._planned.cancel_after_s
        if leave_s is not None and self._exchange is None:
            self._timers.append(self._loop.call_later(leave_s, self._leave))
        self._exchange = exchange

    def on_head(self, exchange: Exchange) -> None:
        """The answer begins."""
        self._answer.begin(exchange.status, exchange.headers)
        _note_headers(self._sample, exchange)
        exchange.receive(self._on_body)

    def _on_body(self, data: bytes) -> None:
        caller, answer = self._caller, self._answer
        events, chunks, was_over = answer.events, answer.chunks, answer.over
        answer.feed(data, time.monotonic() - caller.zero_s)
        caller.counts.events += answer.events - events
        caller.counts.output_tokens += answer.chunks - chunks
        exchange = self._exchange
        if exchange is None:
            return
        if not answer.chunks:
            exchange.expect_first_token()
        if answer.over and not was_over:
            self._loop.call_soon(self._expect_end)
        if self._planned.read_bytes_per_s is not None:
            exchange.pause()
            pause_s = len(data) / self._planned.read_bytes_per_s
            self._resume_timer = self._loop.call_later(pause_s, exchange.resume)

    def _expect_end(self) -> None:
        exchange = self._exchange
        if exchange is not None and not exchange.complete:
            self._timers.append(self._loop.call_later(END_WAIT_S, exchange.cancel))

    def _leave(self) -> None:
        if self._exchange is not None and not self._answer.over:
            self._cut = Cause.CANCELLED
            self._exchange.cancel()


def _cause(error: PenstockError) -> Cause:
    """The cause that a failure of the exchange stands for."""
    if isinstance(error, DeadlineError):
        return _TOO_LATE[error.phase]
    if isinstance(error, TlsError):
        return Cause.TLS
    if isinstance(error, ConnectRefusedError | OverloadError):
        return Cause.CONNECT
    if isinstance(error, MalformedResponseError):
        return Cause.MALFORMED
    assert isinstance(error, EngineError), error
    return Cause.RESET


def _note_headers(sample: Sample, exchange: Exchange) -> None:
    for name, value in exchange.headers:
        if name == b"x-request-id":
            sample.request_id = value.decode(errors="replace")[:128]
        elif name == b"x-penstock-replica":
            sample.replica = value.decode(errors="replace")[:128]
        elif name == b"server-timing":
            told = _DURATION.findall(value.decode(errors="replace"))
            sample.server_timing_ms = {name: float(ms) for name, ms in told if ms.count(".") <= 1}
