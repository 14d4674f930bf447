"""What a reader of the numbers must know beside them, in sentences. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from penstock.bench.analysis.result import Counts, Summary
from penstock.bench.analysis.tally import Tally

# A chunk that brings so many tokens on average is not one token.
BUNDLED_FROM = 1.1
# Lengths that are so far from what was planned are another workload.
LENGTHS_OFF_FROM = 0.02


def notes(summary: Summary, tallies: Sequence[Tally], stages_left: int) -> list[str]:
    """Sentences, the most important first.

    Args:
        tallies: of the whole run.
        stages_left: stages beyond the limit, which nothing is told of.
    """
    counts = summary.all.counts
    return [
        *_of_the_run(summary, counts, stages_left),
        *_of_tokens(counts, tallies),
        *_of_lengths(tallies),
    ]


def _of_the_run(summary: Summary, counts: Counts, stages_left: int) -> Iterator[str]:
    if summary.interrupted:
        yield "The run was ended early: these are the numbers of what was done until then."
    if counts.cut_off:
        yield (
            f"{counts.cut_off} requests were cut off by the end of the run. Slow ones are more likely to be, so "
            "latencies are at least as high as shown."
        )
    if counts.cancelled:
        yield f"{counts.cancelled} requests were cancelled by plan; they are in no latency."
    if summary.kept.requests_share < 1:
        yield f"Percentiles are of one request in {1 / summary.kept.requests_share:.0f}; counts are of all."
    if summary.kept.gaps_share < summary.kept.requests_share:
        yield f"ITL is of the gaps of one request in {1 / summary.kept.gaps_share:.0f}."
    if summary.cache.source == "none" and counts.completed:
        yield "Nobody told of prefix-cache hits: neither usage nor the engine's metrics have them."
    if stages_left:
        yield f"{stages_left} stages are left out: so many make no table."


def _of_tokens(counts: Counts, tallies: Sequence[Tally]) -> Iterator[str]:
    if counts.tokens_from_chunks:
        yield (
            f"The server told no usage for {counts.tokens_from_chunks} of {counts.completed} answers: their tokens "
            "are counted as chunks, and TPOT is a time per chunk."
        )
    chunks = sum(tally.chunks for tally in tallies)
    got = sum(tally.output_tokens for tally in tallies if tally.from_usage)
    if counts.tokens_from_usage and not counts.tokens_from_chunks and chunks and got / chunks >= BUNDLED_FROM:
        yield (
            f"A chunk brought {got / chunks:.2f} tokens on average: ITL is a time per chunk, and TPOT counts the first "
            "chunk's tokens as if they had taken time; see the decode time per token."
        )
    if counts.one_token:
        yield f"{counts.one_token} answers had one token: they have no TPOT and are judged by TTFT and E2E alone."
    if counts.no_tokens:
        yield f"{counts.no_tokens} answers had no content at all: they have no TTFT."


def _of_lengths(tallies: Sequence[Tally]) -> Iterator[str]:
    for name, planned, got in (
        (
            "Answers",
            sum(tally.planned_output for tally in tallies),
            sum(tally.planned_output_got for tally in tallies),
        ),
        (
            "Prompts",
            sum(tally.planned_input for tally in tallies),
            sum(tally.planned_input_got for tally in tallies),
        ),
    ):
        if planned and abs(got / planned - 1) >= LENGTHS_OFF_FROM:
            way = "longer" if got > planned else "shorter"
            yield f"{name} were {abs(got / planned - 1):.0%} {way} in tokens than planned."
