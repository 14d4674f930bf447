"""What is measured of a request, with its definition and what other tools call it. Pure.

A measure is a function of one sample, and None where the sample does not have it. Times count from the scheduled send
unless a name says otherwise: a request that the client could not send in time has waited all the same. `docs/bench.md`
and `--define` print this table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from penstock.bench.sample import Sample

Value = Callable[[Sample], float | None]


def tokens(sample: Sample) -> int | None:
    """Output tokens: from usage, else as each chunk told them, else one for each chunk; None without any of these."""
    if sample.completion_tokens is not None:
        return sample.completion_tokens
    if sample.chunk_tokens:
        return sum(sample.chunk_tokens)
    return len(sample.chunk_s) or None


def end_s(sample: Sample) -> float | None:
    """When its last content came; of an answer that came in one piece or is empty, when it was done."""
    return sample.last_token_s if sample.last_token_s is not None else sample.done_s


def gaps(sample: Sample) -> list[float]:
    """Times between its chunks, seconds; one fewer than there are chunks."""
    return [later - earlier for earlier, later in pairwise(sample.chunk_s)]


def first_chunk_tokens(sample: Sample) -> float | None:
    """Tokens of its first chunk: as the server told them, else taken to be those of the mean chunk."""
    chunks = len(sample.chunk_s)
    if chunks and len(sample.chunk_tokens) == chunks:
        return sample.chunk_tokens[0]
    count = tokens(sample)
    return count / chunks if chunks and count else None


def _between(begin: float | None, end: float | None) -> float | None:
    return end - begin if begin is not None and end is not None else None


def _ttft(sample: Sample) -> float | None:
    return _between(sample.scheduled_s, sample.first_token_s)


def _ttft_from_sent(sample: Sample) -> float | None:
    return _between(sample.sent_s, sample.first_token_s)


def _first_answer(sample: Sample) -> float | None:
    return _between(sample.scheduled_s, sample.first_answer_s)


def _e2e(sample: Sample) -> float | None:
    return _between(sample.scheduled_s, end_s(sample))


def _e2e_from_sent(sample: Sample) -> float | None:
    return _between(sample.sent_s, end_s(sample))


def _decoding_s(sample: Sample) -> float | None:
    return _between(sample.first_token_s, sample.last_token_s)


def _tpot(sample: Sample) -> float | None:
    decoding_s, count = _decoding_s(sample), tokens(sample)
    return decoding_s / (count - 1) if decoding_s is not None and count is not None and count > 1 else None


def _decode(sample: Sample) -> float | None:
    decoding_s, count, first = _decoding_s(sample), tokens(sample), first_chunk_tokens(sample)
    if decoding_s is None or count is None or first is None or count <= first:
        return None
    return decoding_s / (count - first)


def _itl_request(sample: Sample) -> float | None:
    chunks = len(sample.chunk_s)
    return (sample.chunk_s[-1] - sample.chunk_s[0]) / (chunks - 1) if chunks > 1 else None


def _gap_max(sample: Sample) -> float | None:
    return max(gaps(sample), default=None)


def _tail(sample: Sample) -> float | None:
    return _between(sample.last_token_s, sample.done_s)


def _speed(sample: Sample) -> float | None:
    tpot_s = _tpot(sample)
    return 1 / tpot_s if tpot_s else None


def _connect(sample: Sample) -> float | None:
    return sample.connect_s


def send_late_s(sample: Sample) -> float | None:
    """How late it was sent, without the time that its connection took to open."""
    late_s = _between(sample.scheduled_s, sample.sent_s)
    return None if late_s is None else max(0.0, late_s - (sample.connect_s or 0.0))


def _output_tokens(sample: Sample) -> float | None:
    return tokens(sample)


def _input_tokens(sample: Sample) -> float | None:
    return sample.prompt_tokens


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure.

    Args:
        name: in files and options.
        label: for people.
        unit: `s`, `tokens` or `tokens/s`.
        definition: one or two sentences.
        of: its value in one sample; None for the gaps of all requests pooled, of which a sample has many.
        higher_is_better: None where neither is.
        guidellm, aiperf, vllm: what these call it, with how theirs differs; empty where they do not have it.
    """

    name: str
    label: str
    unit: str
    definition: str
    of: Value | None
    higher_is_better: bool | None = False
    guidellm: str = ""
    aiperf: str = ""
    vllm: str = ""


MEASURES: tuple[Measure, ...] = (
    Measure(
        "ttft",
        "TTFT",
        "s",
        "Time to the first token: from the scheduled send to the first chunk with content or reasoning. An empty "
        "role chunk is none.",
        _ttft,
        vllm="`ttft` + `client_queue_time`, the role chunk counts",
    ),
    Measure(
        "ttft_from_sent",
        "TTFT from sent",
        "s",
        "The same from the moment that the request's first byte was handed to an open connection.",
        _ttft_from_sent,
        guidellm="`time_to_first_token`",
        aiperf="`time_to_first_token`, with the time to connect",
        vllm="`ttft`, with the time to connect; the role chunk counts",
    ),
    Measure(
        "first_answer",
        "first answer token",
        "s",
        "From the scheduled send to the first content that is not reasoning.",
        _first_answer,
        guidellm="`time_to_first_output_token`, from sent",
        aiperf="`time_to_first_output_token`, from sent",
    ),
    Measure(
        "itl",
        "ITL",
        "s",
        "Gap between two chunks of an answer, the gaps of all answers pooled. It is a time per chunk: where a chunk "
        "brings several tokens, see the decode time per token.",
        None,
        aiperf="`inter_chunk_latency`",
        vllm="`itl`, the role and finish chunks count",
    ),
    Measure(
        "itl_request",
        "ITL per request",
        "s",
        "Mean gap between the chunks of one answer: (last chunk - first chunk) / (chunks - 1).",
        _itl_request,
    ),
    Measure(
        "gap_max",
        "longest gap",
        "s",
        "Longest gap between two chunks of one answer: what its reader feels as a stall.",
        _gap_max,
    ),
    Measure(
        "tpot",
        "TPOT",
        "s",
        "Time per output token: (E2E - TTFT) / (tokens - 1), tokens from usage. An answer of one token has none.",
        _tpot,
        guidellm="`inter_token_latency`; its `time_per_output_token` has TTFT in it",
        vllm="`tpot`",
    ),
    Measure(
        "decode",
        "decode time per token",
        "s",
        "(last token - first token) / (tokens - those of the first chunk). Where a chunk brings k tokens, TPOT is too "
        "small, since k - 1 of them took no time; this is not. Tokens of the first chunk as the server told them, "
        "else tokens / chunks.",
        _decode,
        aiperf="`inter_token_latency`, tokens counted by its own tokenizer",
    ),
    Measure(
        "e2e",
        "E2E",
        "s",
        "The whole request: from the scheduled send to its last content.",
        _e2e,
        guidellm="`request_scheduled_latency`, only in its JSON, and to the end of the stream",
        aiperf="`effective_latency`, which leaves out the wait for a free place",
        vllm="`e2el_including_client_queue`, where asked for",
    ),
    Measure(
        "e2e_from_sent",
        "E2E from sent",
        "s",
        "The same from the moment that the request's first byte was handed to an open connection.",
        _e2e_from_sent,
        guidellm="`request_latency`, to the end of the stream",
        aiperf="`request_latency`",
        vllm="`e2el`",
    ),
    Measure(
        "tail",
        "tail",
        "s",
        "From the last content to the end mark `[DONE]`: usage, and what the server does after an answer.",
        _tail,
    ),
    Measure(
        "speed",
        "tokens/s per user",
        "tokens/s",
        "1 / TPOT: how fast one reader's answer grows.",
        _speed,
        higher_is_better=True,
        aiperf="`output_token_throughput_per_user`, by its `inter_token_latency`",
    ),
    Measure(
        "connect",
        "connect",
        "s",
        "How long the connection took to open, TLS with it, for requests that opened one.",
        _connect,
    ),
    Measure(
        "send_late",
        "send lateness",
        "s",
        "How long after its scheduled time a request was sent, less the time to connect: the client's own doing.",
        send_late_s,
        aiperf="`credit_to_start_latency`, after the wait for a free place",
        vllm="`client_queue_time`",
    ),
    Measure(
        "output_tokens",
        "output tokens",
        "tokens",
        "Tokens of the answer, reasoning too: from usage, else as the chunks told them, else one for each chunk.",
        _output_tokens,
        higher_is_better=None,
        guidellm="`output_token_count`",
        aiperf="`output_sequence_length`, counted by its own tokenizer",
        vllm="`output_lens`",
    ),
    Measure(
        "input_tokens",
        "input tokens",
        "tokens",
        "Tokens of the prompt, from usage.",
        _input_tokens,
        higher_is_better=None,
        guidellm="`prompt_token_count`",
        aiperf="`input_sequence_length`, counted by its own tokenizer",
        vllm="`input_lens`",
    ),
)

BY_NAME = {measure.name: measure for measure in MEASURES}
