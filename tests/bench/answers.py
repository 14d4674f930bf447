"""Samples of known timing."""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.bench.sample import Cause, Sample


def answer(
    index: int = 0,
    *,
    at_s: float = 0.0,
    ttft_s: float = 0.2,
    gap_s: float = 0.02,
    tokens: int = 16,
    per_chunk: int = 1,
    tail_s: float = 0.0,
    **fields: Any,
) -> Sample:
    """A whole answer: its first chunk after `ttft_s`, the others each `gap_s` later, `per_chunk` tokens in each."""
    chunks = -(-tokens // per_chunk)
    chunk_s = [at_s + ttft_s + gap_s * number for number in range(chunks)]
    end_s = chunk_s[-1] if chunk_s else at_s + ttft_s
    sample = Sample(
        index=index,
        kind="short",
        stage=0,
        scheduled_s=at_s,
        sent_s=at_s,
        first_token_s=chunk_s[0] if chunk_s else None,
        first_answer_s=chunk_s[0] if chunk_s else None,
        last_token_s=chunk_s[-1] if chunk_s else None,
        done_s=end_s + tail_s,
        ended_s=end_s + tail_s,
        chunk_s=chunk_s,
        status=200,
        prompt_tokens=100,
        completion_tokens=tokens,
        tokens_from="usage",
    )
    return msgspec.structs.replace(sample, **fields)


def failure(index: int = 0, *, at_s: float = 0.0, cause: Cause = Cause.SERVER_ERROR, **fields: Any) -> Sample:
    """A request without a whole answer, which ended after 10 ms."""
    sample = Sample(index=index, kind="short", stage=0, scheduled_s=at_s, sent_s=at_s, ended_s=at_s + 0.01)
    return msgspec.structs.replace(sample, cause=cause, **fields)
