"""What one run is told, checked: from options as people write them to what the load tester works with."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from penstock.bench.analysis.slo import Slo, parse_slo
from penstock.bench.beside.energy import Price
from penstock.bench.load.endpoint import CHAT_PATH, COMPLETIONS_PATH, Endpoint
from penstock.bench.load.processes import PROCESSES_MAX
from penstock.bench.load.timeouts import Timeouts
from penstock.bench.options import Options
from penstock.bench.report.folder import RowsFormat
from penstock.bench.workloads.arrivals import Load
from penstock.bench.workloads.calibrate import Counting
from penstock.bench.workloads.kinds import Kind, Mix, mix_of, parse_mix
from penstock.bench.workloads.lengths import Lengths, Span, parse_lengths, parse_span
from penstock.bench.workloads.prompts import Cache
from penstock.bench.workloads.trace_file import lines
from penstock.bench.workloads.workload import IgnoreEos
from penstock.core.errors import PenstockError
from penstock.core.units import parse_duration_s

KEY_VARIABLES = ("PENSTOCK_BENCH_API_KEY", "OPENAI_API_KEY", "PENSTOCK_API_KEY", "GATEWAY_API_KEYS")
CONCURRENCY = 8
DURATION_S = 30.0
WARMUP_S = 5.0
# A key is some hundred letters.
KEY_BYTES_MAX = 16 * 1024

_Word = TypeVar("_Word", bound=StrEnum)


class SettingsError(PenstockError):
    """An option that makes no sense, alone or with the others."""

    code = "usage"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One run.

    Args:
        model: empty is the only one that the server has.
        duration_s: of the load, the warm-up with it; None ends by `requests`.
        requests: how many at most; None is as many as the time allows.
        warmup_s: from the start, whose requests are in no figure.
        extra: further members of each body.
        min_goodput: share of good requests below which a run is not good enough; None asks for none.
        public: the options that were given, for the report.
    """

    endpoint: Endpoint
    load: Load
    mix: Mix
    model: str = ""
    duration_s: float | None = None
    requests: int | None = None
    warmup_s: float = 0.0
    ramp_s: float = 0.0
    processes: int = 1
    seed: int = 0
    cache: Cache = Cache()
    counting: Counting = Counting.AUTO
    tokenizer: Path | None = None
    ignore_eos: IgnoreEos = IgnoreEos.AUTO
    stream: bool = True
    extra: dict[str, Any] = {}
    cancel_share: float = 0.0
    cancel_after: Span = Span(1.0, 1.0)
    slow_share: float = 0.0
    slow_bytes_per_s: float = 1000.0
    slo: Slo | None = None
    min_goodput: float | None = None
    max_error_rate: float = 0.01
    timeouts: Timeouts = Timeouts()
    metrics: tuple[str, ...] = ()
    gateway_metrics: tuple[str, ...] = ()
    gpu_metrics: tuple[str, ...] = ()
    metrics_keys: dict[str, str] = {}
    find_metrics: bool = True
    gpu: bool = False
    gpu_log: Path | None = None
    price: Price = Price()
    output: Path | None = None
    rows: RowsFormat = RowsFormat.JSONL
    keep_answers: bool = False
    name: str = ""
    public: dict[str, Any] = {}


def read(options: Options, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings that options stand for.

    Args:
        environ: where keys are looked for; None is the process's own.

    Raises:
        PenstockError: an option is wrong; the message names it.
    """
    environ = os.environ if environ is None else environ
    load = load_of(options)
    duration_s, warmup_s = _times(options, load)
    if not 1 <= options.processes <= PROCESSES_MAX:
        raise SettingsError(f"processes: {options.processes} should be 1 to {PROCESSES_MAX}")
    if options.requests is not None and options.requests < 1:
        raise SettingsError(f"requests: {options.requests} should be 1 or more")
    slo = parse_slo(options.slo) if options.slo else None
    min_goodput = share("min-goodput", options.min_goodput) if options.min_goodput else None
    if min_goodput is not None and slo is None:
        raise SettingsError("min-goodput: without an SLO nothing is good", hint="add --slo ttft=500ms")
    return Settings(
        endpoint=_endpoint(options, environ),
        load=load,
        mix=_mix(options),
        model=options.model,
        duration_s=duration_s,
        requests=options.requests,
        warmup_s=warmup_s,
        ramp_s=seconds("ramp-up", options.ramp_up),
        processes=options.processes,
        seed=options.seed,
        cache=Cache.checked(options.cache_share, options.cache_groups),
        counting=_one_of("count-tokens", Counting, options.count_tokens),
        tokenizer=Path(options.tokenizer) if options.tokenizer else None,
        ignore_eos=_one_of("ignore-eos", IgnoreEos, options.ignore_eos),
        stream=not options.no_stream,
        extra=_body(options.body),
        cancel_share=options.cancel_share,
        cancel_after=parse_span(options.cancel_after, "cancel-after"),
        slow_share=options.slow_share,
        slow_bytes_per_s=options.slow_bytes_per_s,
        slo=slo,
        min_goodput=min_goodput,
        max_error_rate=share("max-error-rate", options.max_error_rate),
        timeouts=_timeouts(options),
        metrics=options.metrics,
        gateway_metrics=options.gateway_metrics,
        gpu_metrics=options.gpu_metrics,
        metrics_keys=dict(options.metrics_keys),
        find_metrics=not options.no_metrics and not options.metrics,
        gpu=options.gpu or bool(options.gpu_log),
        gpu_log=Path(options.gpu_log) if options.gpu_log else None,
        price=Price(options.price_kwh, options.price_gpu_hour, options.currency),
        output=Path(options.output) if options.output else None,
        rows=_one_of("rows", RowsFormat, options.rows),
        keep_answers=options.keep_answers,
        name=options.name,
        public=options.public(),
    )


def key_of(options: Options, environ: Mapping[str, str]) -> str:
    """The API key; empty where there is none.

    Raises:
        SettingsError: it is given twice, or a file or variable that is named has none.
    """
    given = [name for name in ("api_key", "key_file", "key_env") if getattr(options, name)]
    if len(given) > 1:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise SettingsError(f"{names}: the key is given more than once", hint="give one of them")
    if options.api_key:
        return options.api_key
    if options.key_file:
        return _key_in(Path(options.key_file))
    if options.key_env and not environ.get(options.key_env):
        raise SettingsError(f"key-env: {options.key_env} is not set", hint=f"export {options.key_env}=...")
    for name in (options.key_env,) if options.key_env else KEY_VARIABLES:
        if value := environ.get(name, "").strip():
            # Where there are several, as in GATEWAY_API_KEYS, each of them opens the door.
            return value.partition(",")[0].strip()
    return ""


def share(name: str, written: str) -> float:
    """A part of 1, from `1%` or `0.01`.

    Raises:
        SettingsError: it is none.
    """
    try:
        value = float(written.removesuffix("%")) / (100 if written.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise SettingsError(f"{name}: {written!r} is no part of 1", hint="write 1% or 0.01")
    return value


def _endpoint(options: Options, environ: Mapping[str, str]) -> Endpoint:
    headers = []
    for line in options.header:
        name, colon, value = line.partition(":")
        if not colon:
            raise SettingsError(f"header: {name.strip()!r} has no value", hint="write 'name: value'")
        headers.append((name.strip(), value.strip()))
    return Endpoint.parse(
        options.url,
        path=COMPLETIONS_PATH if options.completions else CHAT_PATH,
        api_key=key_of(options, environ),
        headers=tuple(headers),
        insecure=options.insecure,
        ca_file=options.ca_file,
    )


def _key_in(path: Path) -> str:
    try:
        with path.open("rb") as file:
            key = file.read(KEY_BYTES_MAX).decode("utf-8", "replace").strip()
    except OSError as error:
        raise SettingsError(f"key-file: {path}: {error.strerror or error}") from None
    if not key:
        raise SettingsError(f"key-file: {path} is empty")
    return key


def load_of(options: Options) -> Load:
    """The load alone.

    Raises:
        SettingsError: what is said of it does not go together.
        LoadError: there is no such load.
    """
    kind, _, rest = options.arrivals.partition(":")
    rate, closed = options.rate, options.concurrency
    if rate is not None and closed is not None:
        raise SettingsError(
            "concurrency and rate: a load is a closed loop or an open one",
            hint="--concurrency N sends when an answer has ended, --rate R whatever the server does",
        )
    of_its_own = kind in ("ramp", "staircase", "spike")
    if of_its_own:
        if rate is not None or closed is not None:
            raise SettingsError(
                f"arrivals: {kind} has its own rates", hint="leave --rate and --concurrency out"
            )
        return Load.parse(options.arrivals)
    if rate is None:
        if kind != "poisson" or rest:
            raise SettingsError(f"arrivals: {options.arrivals} needs a rate", hint="add --rate 10")
        return Load.closed(CONCURRENCY if closed is None else closed)
    if kind == "gamma":
        return Load.parse(f"gamma:{rate:f},{rest}")
    if kind not in ("poisson", "constant") or rest:
        raise SettingsError(
            f"arrivals: {options.arrivals!r} is none",
            hint="poisson, constant, gamma:0.5, ramp:1-20, staircase:1,2,4/30s or spike:5-50@30s+10s",
        )
    return Load.poisson(rate) if kind == "poisson" else Load.constant(rate)


def _times(options: Options, load: Load) -> tuple[float | None, float]:
    """How long the load lasts, the warm-up with it, and the warm-up."""
    changing = load.kind in ("ramp", "staircase", "spike")
    if options.warmup:
        warmup_s = seconds("warmup", options.warmup)
    else:
        warmup_s = 0.0 if options.requests is not None or changing else WARMUP_S
    if options.duration:
        duration_s = seconds("duration", options.duration)
        if duration_s <= 0:
            raise SettingsError(f"duration: {options.duration} should be above 0")
        return duration_s + (0.0 if changing else warmup_s), warmup_s
    if options.requests is not None or load.kind == "staircase":
        return None, warmup_s
    return DURATION_S + (0.0 if changing else warmup_s), warmup_s


def _mix(options: Options) -> Mix:
    mix = parse_mix(options.mix)
    lengths: dict[str, Lengths | Span] = {}
    for member, written, least in (
        ("prompt", options.prompt_tokens, 1),
        ("output", options.output_tokens, 1),
        ("turns", options.turns, 1),
        ("turn_prompt", options.turn_tokens, 1),
    ):
        if written:
            lengths[member] = parse_lengths(written, _NAMES[member], _file_lines, least=least)
    if options.think:
        lengths["think"] = parse_span(options.think, "think")
    if not lengths:
        return mix
    kinds: list[Kind] = [msgspec.structs.replace(kind, **lengths) for kind in mix.kinds]
    return mix_of(list(zip(kinds, mix.weights, strict=True)))


_NAMES = {
    "prompt": "prompt-tokens",
    "output": "output-tokens",
    "turns": "turns",
    "turn_prompt": "turn-tokens",
}


def _file_lines(path: str) -> Iterable[str]:
    return (text for _, text, _ in lines(Path(path)))


def _timeouts(options: Options) -> Timeouts:
    first, stall = options.first_token_timeout, options.stall_timeout
    found = Timeouts(
        connect_s=seconds("connect-timeout", options.connect_timeout),
        first_token_s=seconds("first-token-timeout", first) if first else None,
        stall_s=seconds("stall-timeout", stall) if stall else None,
        total_s=seconds("timeout", options.timeout),
        drain_s=seconds("drain", options.drain),
    )
    for name in ("connect_s", "first_token_s", "stall_s", "total_s"):
        if getattr(found, name) == 0:
            raise SettingsError(f"{name.removesuffix('_s')} timeout: it should be above 0")
    return found


def seconds(name: str, written: str) -> float:
    """A duration.

    Raises:
        SettingsError: it is none.
    """
    try:
        return parse_duration_s(written)
    except ValueError as error:
        raise SettingsError(f"{name}: {written!r}: {error}", hint="write 500ms, 30s or 2m") from None


def _one_of(name: str, of: type[_Word], written: str) -> _Word:
    try:
        return of(written)
    except ValueError:
        raise SettingsError(f"{name}: {written!r} is none of {', '.join(of)}") from None


def _body(written: str) -> dict[str, Any]:
    if not written:
        return {}
    try:
        return msgspec.json.decode(written, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise SettingsError(f"body: no JSON object: {error}", hint="""write '{"temperature": 0}'""") from None
