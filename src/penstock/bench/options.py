"""What a run can be told, as people write it: the options of the command line, and the arguments of `bench.run`.

`settings.read` turns them into what the load tester works with, or says which one is wrong.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

SECRET = frozenset({"api_key", "header", "metrics_keys"})


@dataclass(frozen=True, kw_only=True)
class EndpointOptions:
    """What is put under load.

    Args:
        url: base URL of an OpenAI-compatible server; without one, the gateway that runs here.
        model: its name at the server; needed where it serves several.
        completions: use /v1/completions in place of /v1/chat/completions.
        key_env: name of the environment variable that holds the API key; else the first one of PENSTOCK_BENCH_API_KEY,
            OPENAI_API_KEY and GATEWAY_API_KEYS that is set.
        key_file: file that holds the API key.
        api_key: the API key itself; other users of this machine can read it off the process list.
        header: further header of every request, `name: value`.
        insecure: take any TLS certificate.
        ca_file: PEM file of certificates to trust.
    """

    url: str = ""
    model: str = ""
    completions: bool = False
    key_env: str = ""
    key_file: str = ""
    api_key: str = ""
    header: tuple[str, ...] = ()
    insecure: bool = False
    ca_file: str = ""


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """When requests are sent.

    Args:
        concurrency: requests under way at once (closed loop); 8 where no rate is given.
        rate: requests a second, whatever the server does (open loop).
        arrivals: how they follow a rate: `poisson`, `constant`, `gamma:0.5` (bursts); or a course of rates of its own:
            `ramp:1-20`, `staircase:1,2,4/30s`, `spike:5-50@30s+10s`.
        duration: how long, after the warm-up; 30s where no number of requests is given.
        requests: how many.
        warmup: requests of so long at the beginning are in no figure; 5s, or 0s with --requests or a course of rates.
        ramp_up: over which a closed loop opens its places.
        processes: load generators that share the load.
        seed: of times, lengths and kinds; the same seed sends the same load.
    """

    concurrency: int | None = None
    rate: float | None = None
    arrivals: str = "poisson"
    duration: str = ""
    requests: int | None = None
    warmup: str = ""
    ramp_up: str = "0s"
    processes: int = 1
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class WorkloadOptions:
    """What is sent.

    Args:
        mix: kinds of prompts and their shares: `short=0.7,long=0.3`; of short, long, chat, rag, code.
        prompt_tokens: length of prompts, in place of the kinds' own: `512`, `uniform:100-500`, `normal:512,64`,
            `lognormal:512,0.6`, `file:lengths.txt`.
        output_tokens: length of answers, likewise.
        turns: turns of each conversation, likewise.
        turn_tokens: what each later turn adds, likewise.
        think: pause before a later turn, `2s` or `500ms-2s`.
        cache_share: part of each prompt that it shares with others, 0 to 1; at 0, no two prompts begin alike.
        cache_groups: how many different shared beginnings there are.
        count_tokens: who counts tokens of prompts: `auto`, `server` (/tokenize), `local` (--tokenizer), `usage`, `off`.
        tokenizer: tokenizer.json, or a folder with one.
        ignore_eos: answers of exactly the length asked for: `auto` where the server takes it, `on`, `off`.
        no_stream: ask for whole answers.
        body: JSON object with further members of every request.
        cancel_share: part of the requests that their client cancels, 0 to 1.
        cancel_after: how long after sending, `2s` or `500ms-2s`.
        slow_share: part of the answers that are read slowly, 0 to 1.
        slow_bytes_per_s: how slowly.
    """

    mix: str = "short"
    prompt_tokens: str = ""
    output_tokens: str = ""
    turns: str = ""
    turn_tokens: str = ""
    think: str = ""
    cache_share: float = 0.0
    cache_groups: int = 1
    count_tokens: str = "auto"
    tokenizer: str = ""
    ignore_eos: str = "auto"
    no_stream: bool = False
    body: str = ""
    cancel_share: float = 0.0
    cancel_after: str = "1s"
    slow_share: float = 0.0
    slow_bytes_per_s: float = 1000.0


@dataclass(frozen=True, kw_only=True)
class LimitOptions:
    """What is good, and how long to wait.

    Args:
        slo: limits of a good request: `ttft=500ms,tpot=50ms`; of ttft, first_answer, itl, gap, tpot, decode, e2e. Or
            `config`: those of the model in the configuration.
        min_goodput: part of the requests that must be good, or the exit code is 15: `95%`.
        max_error_rate: part of the requests that may fail: `1%`.
        connect_timeout: for opening a connection.
        first_token_timeout: from sending to the first token.
        stall_timeout: silence within an answer.
        timeout: whole request.
        drain: how long requests under way may go on at the end.
    """

    slo: str = ""
    min_goodput: str = ""
    max_error_rate: str = "1%"
    connect_timeout: str = "10s"
    first_token_timeout: str = ""
    stall_timeout: str = ""
    timeout: str = "600s"
    drain: str = "30s"


@dataclass(frozen=True, kw_only=True)
class BesideOptions:
    """What is read beside the load.

    Args:
        metrics: URL of an engine's /metrics; the endpoint's own is tried where none is given.
        gateway_metrics: URL of a Penstock gateway's /metrics.
        gpu_metrics: URL of a DCGM exporter's /metrics.
        metrics_keys: keys that pages of metrics ask for, by their URLs; no option of a command.
        no_metrics: read none that is not named.
        gpu: read this machine's GPUs (NVML).
        gpu_log: write them to this CSV file, as nvidia-smi would.
        price_kwh: price of a kilowatt-hour.
        price_gpu_hour: price of a GPU for an hour.
        currency: of these prices.
    """

    metrics: tuple[str, ...] = ()
    gateway_metrics: tuple[str, ...] = ()
    gpu_metrics: tuple[str, ...] = ()
    metrics_keys: tuple[tuple[str, str], ...] = ()
    no_metrics: bool = False
    gpu: bool = False
    gpu_log: str = ""
    price_kwh: float | None = None
    price_gpu_hour: float | None = None
    currency: str = "USD"


@dataclass(frozen=True, kw_only=True)
class KeepOptions:
    """What is kept.

    Args:
        output: new folder for the report, its figures and every request.
        rows: how requests are kept there: `jsonl`, `parquet` (needs pyarrow) or `none`.
        keep_answers: keep the text of answers, too.
        name: of the run, for reports.
    """

    output: str = ""
    rows: str = "jsonl"
    keep_answers: bool = False
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Options(KeepOptions, BesideOptions, LimitOptions, WorkloadOptions, LoadOptions, EndpointOptions):
    """All of them."""

    def public(self) -> dict[str, Any]:
        """Those that differ from their defaults, without secrets."""
        given = asdict(self)
        defaults = {field.name: field.default for field in fields(self)}
        told = {
            name: value for name, value in given.items() if name not in SECRET and value != defaults[name]
        }
        headers = [line.partition(":")[0].strip() for line in self.header]
        return told | ({"header": headers} if headers else {})
