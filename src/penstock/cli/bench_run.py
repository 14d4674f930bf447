"""`penstock bench run`, `replay`, `probe` and `report`: one load, and what came of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from penstock.bench.options import Options
from penstock.cli.bench_session import BenchCommand, PrintOptions, Session, write_files
from penstock.cli.bench_view import View
from penstock.cli.terminal import UsageError, say
from penstock.core.errors import PenstockError

if TYPE_CHECKING:
    from penstock.bench.report.facts import Report
    from penstock.bench.report.finished import Finished
    from penstock.bench.settings import Settings
    from penstock.bench.workloads.traces import Trace

PROBES_MAX = 1000
PROBE_PROMPT, PROBE_ANSWER = "32", "16"


@dataclass(frozen=True, kw_only=True)
class RunOptions(PrintOptions, Options):
    """Of `run`.

    Args:
        annotate: mark the run in this Grafana, such as http://127.0.0.1:3000; its token is in GRAFANA_TOKEN.
    """

    annotate: str = ""


@dataclass(frozen=True, kw_only=True)
class ReplayOptions(RunOptions):
    """Of `replay`.

    Args:
        trace: Azure or BurstGPT CSV, Mooncake JSONL, ShareGPT JSON, rows of a run, or the gateway's log; also as .gz.
        trace_format: whose file it is: `auto`, `azure`, `burstgpt`, `mooncake`, `sharegpt` or `records`.
        speed: 2 replays it twice as fast.
        first: only so much of the recording, such as 10m.
    """

    trace: str
    trace_format: str = "auto"
    speed: float = 1.0
    first: str = ""


@dataclass(frozen=True, kw_only=True)
class ProbeOptions(PrintOptions, Options):
    """Of `probe`.

    Args:
        count: how many requests, one after the other.
    """

    count: int = 5


@dataclass(frozen=True, kw_only=True)
class ReportOptions(PrintOptions):
    """Of `report`.

    Args:
        folder: of a run, or of a sweep.
        html: write the page to this file.
        slo: judge the requests by these limits, in place of those of the run.
        min_goodput: for --junit: the part of the requests that must meet the SLO.
    """

    folder: str
    html: str = ""
    slo: str = ""
    min_goodput: str = ""


def run(session: Session) -> int:
    """A load on a server."""
    from penstock.bench.settings import read

    return _measure(session, read(session.options()), "run")


def replay(session: Session) -> int:
    """A recorded load."""
    from penstock.bench.settings import read, seconds
    from penstock.bench.workloads.replay import rescaled, untimed
    from penstock.bench.workloads.trace_rows import TraceFormat
    from penstock.bench.workloads.traces import read_trace

    given = session.given
    settings = read(session.options(warmup=given["warmup"] or "0s"))
    if not given["duration"]:
        # A recorded load has an end of its own.
        settings = msgspec.structs.replace(settings, duration_s=None)
    try:
        form = TraceFormat(given["trace_format"])
    except ValueError:
        raise UsageError(
            f"trace-format: {given['trace_format']!r} is none of {', '.join(TraceFormat)}"
        ) from None
    trace = read_trace(Path(given["trace"]), form, seed=settings.seed)
    first_s = seconds("first", given["first"]) if given["first"] else None
    trace = rescaled(trace, given["speed"], first_s)
    if given["rate"] is not None or given["concurrency"] is not None or given["arrivals"] != "poisson":
        trace = untimed(trace)
    return _measure(session, settings, "replay", trace)


def probe(session: Session) -> int:
    """A few single requests, and how soon each was answered."""
    from penstock.bench.runner import measure
    from penstock.bench.settings import read

    count = session.given["count"]
    if not 1 <= count <= PROBES_MAX:
        raise UsageError(f"count: {count} should be 1 to {PROBES_MAX}")
    given = session.given
    settings = read(
        session.options(
            concurrency=1,
            requests=count,
            warmup="0s",
            prompt_tokens=given["prompt_tokens"] or PROBE_PROMPT,
            output_tokens=given["output_tokens"] or PROBE_ANSWER,
        )
    )

    async def make(view: View, stop: asyncio.Event) -> Finished:
        return await measure(settings, view, stop=stop, command="probe")

    finished = session.run(make)
    _print_probes(session, finished)
    counts = finished.summary.all.counts
    if finished.summary.interrupted:
        return finished.exit_code
    return 0 if counts.completed == counts.requests else ERRORS


def report(session: Session) -> int:
    """A run that was kept, shown again."""
    from penstock.bench.report.folder import read_run

    given = session.given
    folder = Path(given["folder"])
    if (folder / "sweep.json").is_file():
        return _report_sweep(session, folder)
    made = read_run(folder)
    if given["slo"]:
        made = _judged_anew(made, folder, given["slo"])
    least = None
    if given["min_goodput"]:
        from penstock.bench.settings import share

        least = share("min-goodput", given["min_goodput"])
    _publish(session, made, least)
    if given["html"]:
        from penstock.bench.report.html_page import report_html

        path = Path(given["html"])
        return 0 if write_files(path.parent, {path.name: report_html(made).encode()}) else 1
    return 0


def _measure(session: Session, settings: Settings, name: str, trace: Trace | None = None) -> int:
    from penstock.bench.runner import measure

    async def make(view: View, stop: asyncio.Event) -> Finished:
        return await measure(settings, view, stop=stop, trace=trace, command=name)

    finished = session.run(make)
    _publish(session, finished.report, settings.min_goodput)
    for trouble in finished.troubles:
        say(f"error: {trouble}")
    if session.given["annotate"]:
        _annotate(session, finished.report)
    if settings.output is not None:
        page = settings.output / "report.html"
        say(f"report: {page if page.is_file() else settings.output}")
    if not finished.good_enough:
        good = finished.summary.all.goodput
        told = "none" if good is None or good.share is None else f"{good.share:.1%}"
        say(f"goodput: {told} of the requests met the SLO; {settings.min_goodput:.1%} were asked for")
    return finished.exit_code


def _annotate(session: Session, made: Report) -> None:
    """Marks the run; one that can't be marked is as good as any."""
    from penstock.bench.annotating import TOKEN_VARIABLE, annotate

    try:
        asyncio.run(annotate(session.given["annotate"], session.here.environ.get(TOKEN_VARIABLE, ""), made))
    except PenstockError as error:
        say(f"warning: {error.message}" + (f"; {error.hint}" if error.hint else ""))


def _publish(session: Session, made: Report, min_goodput: float | None) -> None:
    from penstock.bench.report.folder import as_json
    from penstock.bench.report.junit import report_junit
    from penstock.bench.report.markdown import report_markdown
    from penstock.bench.report.table import report_text

    if session.printing.junit:
        path = Path(session.printing.junit)
        write_files(path.parent, {path.name: report_junit(made, min_goodput=min_goodput).encode()})
    session.publish(
        text=lambda: report_text(made),
        markdown=lambda: report_markdown(made),
        data=lambda: as_json(made.summary),
    )


def _print_probes(session: Session, finished: Finished) -> None:
    from penstock.bench.analysis.measures import BY_NAME
    from penstock.bench.report.folder import as_json
    from penstock.bench.report.markdown import report_markdown
    from penstock.bench.report.shown import shown
    from penstock.core.stats import percentile

    ttft, e2e = BY_NAME["ttft"].of, BY_NAME["e2e"].of
    assert ttft is not None
    assert e2e is not None

    def text() -> str:
        lines, values = [], []
        for sample in sorted(finished.samples(), key=lambda each: each.index):
            value, whole = ttft(sample), e2e(sample)
            ending = f"E2E {shown(whole, 's')}" if not sample.cause else f"{sample.cause}: {sample.detail}"
            opened = f", of which connecting {shown(sample.connect_s, 's')}" if sample.connect_s else ""
            lines.append(f"{sample.index + 1:>3}  TTFT {shown(value, 's'):>8}  {ending}{opened}")
            if value is not None:
                values.append(value)
        if values:
            middle = shown(percentile(values, 50), "s")
            ends = f"{shown(min(values), 's')} to {shown(max(values), 's')}"
            lines.append(f"TTFT of {len(values)}: median {middle}, {ends}")
        return "\n".join(lines)

    session.publish(
        text=text,
        markdown=lambda: report_markdown(finished.report),
        data=lambda: as_json(finished.summary),
    )


def _report_sweep(session: Session, folder: Path) -> int:
    from penstock.bench.report.folder import as_json
    from penstock.bench.report.sweep import sweep_html, sweep_markdown, sweep_text
    from penstock.bench.sweeps import read_sweep

    for name in ("slo", "min_goodput", "junit"):
        if session.given[name]:
            option = name.replace("_", "-")
            raise UsageError(
                f"{option}: {folder} is a sweep", hint=f"leave --{option} out, or name one of its runs"
            )
    swept = read_sweep(folder)
    session.publish(
        text=lambda: sweep_text(swept),
        markdown=lambda: sweep_markdown(swept),
        data=lambda: as_json(swept),
    )
    if session.given["html"]:
        path = Path(session.given["html"])
        return 0 if write_files(path.parent, {path.name: sweep_html(swept).encode()}) else 1
    return 0


def _judged_anew(made: Report, folder: Path, slo: str) -> Report:
    """The same run under other limits."""
    from penstock.bench.report.rejudge import rejudged

    return rejudged(made, folder, slo)


ERRORS = 11
COMMANDS = (
    BenchCommand(
        "run",
        run,
        RunOptions,
        "Put a server under load, and report what came of it.",
        (
            "penstock bench run --concurrency 32 --duration 60s",
            "penstock bench run http://127.0.0.1:8000 --rate 10 --arrivals gamma:0.5 --slo ttft=500ms,tpot=50ms",
            "penstock bench run https://llm.local --insecure --mix short=0.7,long=0.3 --requests 500 --output report",
        ),
        positional=("url",),
    ),
    BenchCommand(
        "replay",
        replay,
        ReplayOptions,
        "Send a recorded load again, at its own times or faster; or its requests at a --rate or --concurrency.",
        (
            "penstock bench replay AzureLLMInferenceTrace_conv.csv http://127.0.0.1:8000 --first 10m",
            "penstock bench replay conversation_trace.jsonl --speed 2 --output replay",
        ),
        positional=("trace", "url"),
        leave_out=frozenset({"mix", "prompt_tokens", "output_tokens", "turns", "turn_tokens", "think"}),
    ),
    BenchCommand(
        "probe",
        probe,
        ProbeOptions,
        "Send a few single requests, and tell how soon each was answered.",
        ("penstock bench probe", "penstock bench probe https://llm.local --insecure --count 10"),
        positional=("url",),
        leave_out=frozenset(
            {"concurrency", "rate", "arrivals", "duration", "requests", "warmup", "ramp_up", "processes"}
            | {"mix", "turns", "turn_tokens", "think", "min_goodput", "cancel_share", "cancel_after"}
            | {"slow_share", "slow_bytes_per_s"}
        ),
    ),
    BenchCommand(
        "report",
        report,
        ReportOptions,
        "Show a run that was kept, in another form.",
        (
            "penstock bench report report --markdown",
            "penstock bench report report --slo ttft=200ms --html strict.html --junit strict.xml",
        ),
        positional=("folder",),
    ),
)
