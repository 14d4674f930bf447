"""`penstock bench sweep`, `search` and `compare`: several loads, one after the other."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.bench.options import Options
from penstock.cli.bench_session import BenchCommand, PrintOptions, Session, write_files
from penstock.cli.bench_view import View
from penstock.cli.terminal import EXIT_FAILED, UsageError, say

if TYPE_CHECKING:
    from penstock.bench.comparing import Compare
    from penstock.bench.searches import Search
    from penstock.bench.settings import Settings
    from penstock.bench.sweeps import Sweep

# What is no URL may still be one without its scheme; else it is a folder that is not there.
_ADDRESS = re.compile(r"[\w.-]+:\d+")
# Of each of several runs, where nothing else is said.
DURATION = "20s"
WARMUP = "3s"


@dataclass(frozen=True, kw_only=True)
class SweepOptions(PrintOptions, Options):
    """Of `sweep`.

    Args:
        kinds: prompts, one kind after the other; of short, long, chat, rag, code.
        levels: requests under way of each run: `1,2,4,8`, or `1..64`, which doubles.
        rates: requests a second of each run, in place of levels.
    """

    kinds: str = "short,long"
    levels: str = "1..64"
    rates: str = ""


@dataclass(frozen=True, kw_only=True)
class SearchOptions(PrintOptions, Options):
    """Of `search`.

    Args:
        of: what is searched for: the highest `rate`, or the highest `concurrency`.
        start: the first load that is tried.
        most: no load above it is tried.
        within: how near the answer must come.
        share: part of the requests that must meet the SLO.
        trials: how many runs there may be.
    """

    of: str = "rate"
    start: float = 1.0
    most: float = 10_000.0
    within: str = "5%"
    share: str = "95%"
    trials: int = 40


@dataclass(frozen=True, kw_only=True)
class CompareOptions(PrintOptions, Options):
    """Of `compare`.

    Args:
        a: folder of a run, or URL of a server.
        b: the same, of what is compared with it.
        interleave: order of the runs on two servers: `ABBA` takes turns, `AB` is one after the other.
        pairs: of runs, where they take turns.
        model_b: name of the model at B, where it is another.
        fail_if_worse: end with code 16 where B is worse beyond doubt.
    """

    a: str
    b: str
    interleave: str = "ABBA"
    pairs: int = 4
    model_b: str = ""
    fail_if_worse: bool = False


def sweep(session: Session) -> int:
    """A matrix of kinds and loads."""
    from penstock.bench import sweeps
    from penstock.bench.report import sweep as report_sweep
    from penstock.bench.report.folder import as_json
    from penstock.bench.settings import load_of, read

    given = session.given
    text = given["rates"] or given["levels"]
    closed = not given["rates"]
    found = sweeps.levels(text, whole=closed)
    if closed and given["arrivals"] != "poisson":
        raise UsageError(f"arrivals: {given['arrivals']} needs rates", hint="add --rates 1,2,4")
    options = _short(session.options(mix=given["kinds"]))
    levels = [
        replace(options, concurrency=int(level)) if closed else replace(options, rate=level)
        for level in found
    ]
    settings = read(levels[0])

    async def make(view: View, stop: asyncio.Event) -> Sweep:
        return await sweeps.sweep(settings, [load_of(each) for each in levels], view, stop)

    swept = session.run(make)
    contents = _printed(
        session,
        "sweep.json",
        data=lambda: as_json(swept),
        text=lambda: report_sweep.sweep_text(swept),
        markdown=lambda: report_sweep.sweep_markdown(swept),
        html=lambda: report_sweep.sweep_html(swept),
    )
    return swept.exit_code if _written(settings, contents) else EXIT_FAILED


def search(session: Session) -> int:
    """The highest load that meets the SLO."""
    from penstock.bench import searches
    from penstock.bench.analysis.search import SearchSettings
    from penstock.bench.report import search as report_search
    from penstock.bench.report.folder import as_json
    from penstock.bench.settings import SettingsError, read, share

    given = session.given
    if given["of"] not in ("rate", "concurrency"):
        raise SettingsError(f"of: {given['of']!r} is none of rate, concurrency")
    closed = given["of"] == "concurrency"
    if not 0 < given["start"] <= given["most"]:
        raise SettingsError(f"start: {given['start']:g} should be above 0, and at most {given['most']:g}")
    options = _short(session.options())
    settings = read(
        replace(options, concurrency=max(1, int(given["start"])))
        if closed
        else replace(options, rate=given["start"])
    )
    how = SearchSettings(
        start=given["start"],
        most=given["most"],
        whole=closed,
        within=share("within", given["within"]),
        share=min(0.9999, share("share", given["share"])),
        trials_max=given["trials"],
    )

    async def make(view: View, stop: asyncio.Event) -> Search:
        return await searches.search(settings, how, view, stop)

    found = session.run(make)
    contents = _printed(
        session,
        "search.json",
        data=lambda: as_json(found),
        text=lambda: report_search.search_text(found),
        markdown=lambda: report_search.search_markdown(found),
        html=lambda: report_search.search_html(found),
    )
    return found.exit_code if _written(settings, contents) else EXIT_FAILED


def compare(session: Session) -> int:
    """What differs between two runs, or two servers."""
    from penstock.bench import comparing
    from penstock.bench.report import compare as report_compare
    from penstock.bench.report.folder import as_json

    given = session.given
    a, b = given["a"], given["b"]
    folders = [Path(each).is_dir() for each in (a, b)]
    if all(folders):
        _check_nothing_is_sent(session)
        compared = comparing.compare_folders(Path(a), Path(b), seed=given["seed"])
    elif any(folders):
        raise UsageError(
            f"{a} and {b}: one is a folder, the other is none", hint="compare two runs, or two servers"
        )
    else:
        compared = _compare_servers(session)
    contents = _printed(
        session,
        "comparison.json",
        data=lambda: as_json(compared),
        text=lambda: report_compare.compare_text(compared),
        markdown=lambda: report_compare.compare_markdown(compared),
        html=lambda: report_compare.compare_html(compared),
    )
    output = Path(given["output"]) if given["output"] else None
    if output is not None and all(folders):
        from penstock.bench.report.folder import make_folder

        make_folder(output)
    written = _write(output, contents)
    return compared.exit_code(fail_if_worse=given["fail_if_worse"]) if written else EXIT_FAILED


def _check_nothing_is_sent(session: Session) -> None:
    """Raises UsageError where an option is of a load, and there is none."""
    for name in session.options(url="-").public():
        if name not in ("url", "output", "seed"):
            option = name.replace("_", "-")
            raise UsageError(
                f"{option}: two runs that were kept are compared as they are",
                hint=f"leave --{option} out, or name two servers",
            )


def _compare_servers(session: Session) -> Compare:
    from penstock.bench import comparing
    from penstock.bench.settings import read

    given = session.given
    for side in ("a", "b"):
        if "://" not in given[side] and not _ADDRESS.match(given[side]):
            raise UsageError(f"{given[side]}: no such folder", hint="a URL begins with http:// or https://")
    if given["interleave"].upper() not in ("AB", "ABBA"):
        raise UsageError(f"interleave: {given['interleave']!r} is none of AB, ABBA")
    options = _short(session.options(url=given["a"], output=""))
    settings = (
        read(options),
        read(replace(options, url=given["b"], model=given["model_b"] or options.model)),
    )
    output = Path(given["output"]) if given["output"] else None

    async def make(view: View, stop: asyncio.Event) -> Compare:
        return await comparing.compare_servers(
            settings,
            given["pairs"],
            view,
            stop,
            interleave=given["interleave"].upper() == "ABBA",
            output=output,
        )

    return session.run(make)


def _short(options: Options) -> Options:
    """With a short time for each of several runs, where nothing else is said."""
    if options.requests is not None:
        return options
    return replace(options, duration=options.duration or DURATION, warmup=options.warmup or WARMUP)


def _printed(
    session: Session,
    name: str,
    *,
    data: Callable[[], bytes],
    text: Callable[[], str],
    markdown: Callable[[], str],
    html: Callable[[], str],
) -> dict[str, Callable[[], bytes]]:
    """Prints a result in the form that was asked for, and returns what makes its files: `name` is that of the data."""
    session.publish(text=text, markdown=markdown, data=data)
    return {
        name: data,
        "report.md": lambda: markdown().encode(),
        "report.html": lambda: html().encode(),
    }


def _written(settings: Settings, contents: dict[str, Callable[[], bytes]]) -> bool:
    return _write(settings.output, contents)


def _write(output: Path | None, contents: dict[str, Callable[[], bytes]]) -> bool:
    if output is None:
        return True
    written = write_files(output, {name: make() for name, make in contents.items()})
    say(f"report: {output / 'report.html'}")
    return written


COMMANDS = (
    BenchCommand(
        "sweep",
        sweep,
        SweepOptions,
        "Run a matrix: each kind of prompt under each load.",
        (
            "penstock bench sweep --levels 1..16 --output sweep",
            "penstock bench sweep http://127.0.0.1:8000 --kinds chat,code --rates 1,2,4,8 --duration 60s",
        ),
        positional=("url",),
        leave_out=frozenset({"mix", "concurrency", "rate", "min_goodput", "junit"}),
    ),
    BenchCommand(
        "search",
        search,
        SearchOptions,
        "Find the highest load that meets the SLO, and the knee.",
        (
            "penstock bench search --slo ttft=500ms,tpot=50ms",
            "penstock bench search http://127.0.0.1:8000 --of concurrency --slo e2e=5s --share 99%",
        ),
        positional=("url",),
        leave_out=frozenset({"concurrency", "rate", "min_goodput", "junit"}),
    ),
    BenchCommand(
        "compare",
        compare,
        CompareOptions,
        "Tell what differs between two runs, or between two servers under the same load, and how sure that is.",
        (
            "penstock bench compare before after",
            "penstock bench compare http://127.0.0.1:8000 http://127.0.0.1:8001 --interleave ABBA --pairs 5",
        ),
        positional=("a", "b"),
        leave_out=frozenset({"url", "min_goodput", "junit"}),
    ),
)
