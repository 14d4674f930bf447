"""What the commands of `penstock bench` have in common: where the load goes, Ctrl-C, exit codes by cause, output."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import typer
from rich.console import Console

from penstock.bench.options import Options
from penstock.cli.bench_view import View
from penstock.cli.loading import Invocation, invocation
from penstock.cli.terminal import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    UsageError,
    complain,
    out,
    say,
)
from penstock.core.errors import PenstockError

EXIT_UNREACHABLE = 3
EXIT_REFUSED = 4
CODES = (
    "Exit codes: 0 valid, 1 failed (also: not all could be written), 2 wrong usage, 3 the server can't be reached, "
    "4 it refuses or answers nonsense before the load, 10 CLIENT-LIMITED, 11 ERRORS, 12 NOT-STEADY, 13 CACHE-TAINTED, "
    "14 TOO-FEW-SAMPLES, 15 too few requests met the SLO, 16 B is worse than A, 130 interrupted"
)
# Codes of errors before a load, by whose fault they are.
_BY_CAUSE = {"unreachable": EXIT_UNREACHABLE, "bad_endpoint": EXIT_REFUSED, "calibration": EXIT_REFUSED}
_USAGE = frozenset(
    {
        "usage",
        "workload",
        "bad_load",
        "bad_slo",
        "trace",
        "bench_folder",
        "no_such_measure",
        "missing_library",
    }
    | {"metrics_source", "gpu_log", "invalid_configuration"}
)

# A key that is left behind, because the command was killed, opens nothing for long.
OWN_KEY_LIFE_S = 86_400.0

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class PrintOptions:
    """How results are printed.

    Args:
        json: print the figures as JSON.
        markdown: print the report as Markdown.
        junit: write a JUnit file for CI.
        quiet: show no progress.
        define: print what a measure is, and end; such as `ttft`.
    """

    json: bool = False
    markdown: bool = False
    junit: str = ""
    quiet: bool = False
    define: str = ""


# What `--slo` is given as to mean the objectives of the configuration.
SLO_OF_CONFIG = "config"


@dataclass(frozen=True, slots=True)
class Session:
    """One invocation of a command.

    Args:
        given: the values of all of its options.
        at_end: what is to be given back when the command is over.
    """

    here: Invocation
    given: dict[str, Any]
    at_end: ExitStack

    @property
    def printing(self) -> PrintOptions:
        """How results are printed."""
        names = [field.name for field in fields(PrintOptions)]
        return PrintOptions(**{name: self.given[name] for name in names if name in self.given})

    def options(self, **others: Any) -> Options:
        """The options of the run; `others` in place of those that were given."""
        names = {field.name for field in fields(Options)}
        options = Options(**{name: value for name, value in (self.given | others).items() if name in names})
        if options.api_key:
            say("warning: a key on the command line can be read by everybody on this machine")
            say("hint: put it into PENSTOCK_BENCH_API_KEY, or a file for --key-file")
        if options.slo == SLO_OF_CONFIG:
            options = replace(options, slo=_configured_slo(self.here, options.model))
        return options if options.url else _at_home(self.here, options, self.at_end)

    def run(self, make: Callable[[View, asyncio.Event], Awaitable[_Result]]) -> _Result:
        """What `make` comes to; Ctrl-C ends its load early, a second one ends it at once."""
        view = View(Console(stderr=True), quiet=self.printing.quiet)
        try:
            return asyncio.run(_stoppable(make, view))
        except asyncio.CancelledError:
            say("interrupted before anything was measured")
            raise typer.Exit(EXIT_INTERRUPTED) from None

    def publish(
        self, *, text: Callable[[], str], markdown: Callable[[], str], data: Callable[[], bytes]
    ) -> None:
        """Prints the result in the form that was asked for; only that one is made."""
        if self.printing.json:
            out(data().decode().rstrip("\n"))
        else:
            out((markdown if self.printing.markdown else text)().rstrip("\n"))


@dataclass(frozen=True, slots=True)
class BenchCommand:
    """One command of the group.

    Args:
        act: does it, and returns the exit code.
        options: dataclass of its options.
        positional: options that are named by their place.
        leave_out: options of the class that it does not have; they keep their defaults.
    """

    name: str
    act: Callable[[Session], int]
    options: type
    help: str
    examples: tuple[str, ...]
    positional: tuple[str, ...] = ()
    leave_out: frozenset[str] = frozenset()


def command(act: Callable[[Session], int]) -> Callable[..., None]:
    """A command that ends with the code that `act` returns, or with that of its error."""

    def invoked(context: typer.Context, **given: Any) -> None:
        try:
            with ExitStack() as at_end:
                code = ended(Session(invocation(context), given, at_end))
        except PenstockError as error:
            complain(error)
            raise typer.Exit(code_of(error)) from None
        raise typer.Exit(code)

    def ended(session: Session) -> int:
        if session.printing.define:
            from penstock.bench.analysis.definitions import define

            out(define(session.printing.define))
            return EXIT_OK
        if session.printing.json and session.printing.markdown:
            raise UsageError("--json and --markdown: standard output has room for one of them")
        return act(session)

    return invoked


def code_of(error: PenstockError) -> int:
    """The exit code of an error."""
    if error.code in _USAGE:
        return EXIT_USAGE
    return _BY_CAUSE.get(error.code, EXIT_FAILED)


def write_files(folder: Path, contents: dict[str, bytes]) -> bool:
    """Writes files into a folder that is there; says what can't be written, and whether all could."""
    whole = True
    for name, content in contents.items():
        try:
            (folder / name).write_bytes(content)
        except OSError as error:
            say(f"error: {folder / name}: {error.strerror or error}")
            whole = False
    return whole


async def _stoppable(make: Callable[[View, asyncio.Event], Awaitable[_Result]], view: View) -> _Result:
    stop = asyncio.Event()
    task = asyncio.current_task()
    assert task is not None

    def interrupted() -> None:
        if view.loading and not stop.is_set():
            stop.set()
            say("stopping; what was measured so far is reported. Once more to give up.")
        else:
            task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(
            NotImplementedError, RuntimeError, ValueError
        ):  # no main thread: somebody else's matter
            loop.add_signal_handler(number, interrupted)
    try:
        return await make(view, stop)
    finally:
        view.end()


def _configured_slo(here: Invocation, name: str) -> str:
    """The limits in `[models.slo]` of the model `name`, or of the first one, as `--slo` is written."""
    models = here.load(quiet=True).config.models
    model = next((one for one in models if name in ("", one.name, *one.aliases)), None)
    if model is None:
        raise UsageError(
            f"--slo config: {name!r} is no model of the configuration", hint="name one by --model"
        )
    if not model.slo.limits_s:
        raise UsageError(
            f"--slo config: {model.name} has no limits in the configuration",
            hint='add slo = { ttft = { under = "500ms" } } to it, or write --slo ttft=500ms',
        )
    return ",".join(f"{limit}={seconds * 1000:.9g}ms" for limit, seconds in model.slo.limits_s.items())


def _at_home(here: Invocation, options: Options, at_end: ExitStack) -> Options:
    """The options for the gateway that runs here, with its key, its metrics and its engines'."""
    from penstock.store.runtime import Registry, lock_holder

    holder = lock_holder(here.home.lock)
    if holder is None or not holder.listen:
        raise UsageError(
            "no URL is given, and no gateway runs here",
            hint="`penstock up` starts one; or name a server: penstock bench run http://127.0.0.1:8000",
        )
    replicas = Registry(here.home.replicas).registrations()
    engines = tuple(f"{one.url}/metrics" for one in replicas)
    found = replace(
        options,
        url=holder.listen,
        metrics=options.metrics or (() if options.no_metrics else engines),
        metrics_keys=tuple((f"{one.url}/metrics", one.api_key) for one in replicas if one.api_key),
        gateway_metrics=options.gateway_metrics
        or (() if options.no_metrics or not holder.admin else (f"{holder.admin}/metrics",)),
    )
    return found if _has_key(found) else _with_own_key(here, found, at_end)


def _has_key(options: Options) -> bool:
    from penstock.bench.settings import key_of

    return bool(key_of(options, os.environ))


def _with_own_key(here: Invocation, options: Options, at_end: ExitStack) -> Options:
    """With the first key of the configuration; where it has none, with one for this command alone."""
    from penstock.store.keys import LOOK_EVERY_S, KeyStore, KeyTerms

    keys = here.load(quiet=True).config.gateway.api_keys
    if keys:
        return replace(options, api_key=keys[0].get_secret_value())
    store = KeyStore(here.home.keys, time.time)
    key, secret = store.create(KeyTerms("penstock bench", expires_at=time.time() + OWN_KEY_LIFE_S))
    at_end.callback(store.discard, key.id)
    time.sleep(LOOK_EVERY_S)  # gateways look so often which keys there are
    return replace(options, api_key=secret)
