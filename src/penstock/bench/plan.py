"""What a load generator is given: every request of a run, with its bytes and its time, made before the run."""

from __future__ import annotations

import msgspec


class PlannedRequest(msgspec.Struct, frozen=True, gc=False):
    """One request that is to be sent.

    Args:
        index: its place in the whole run, from 0.
        body: the JSON to send, as it is.
        at_s: when to send it, seconds from the start of the load; None is as soon as a place is free (closed loop).
        kind: the prompt type, such as `short`.
        stage: the part of the load that it belongs to, from 0; warm-up is -1.
        prompt_tokens: expected length of the prompt, tokens; None where nobody knows.
        output_tokens: length of the answer that is asked for, tokens.
        shared_tokens: how much of the prompt's beginning other requests have too, by design, tokens: the chat template,
            a shared prefix, the earlier turns. What a prefix cache has beyond that was not asked for.
        session: a conversation whose turns are sent one after the other; -1 is none.
        turn: place in its session, from 0.
        think_s: pause before this turn, after the answer to the one before it, seconds.
        cancel_after_s: the client leaves so long after sending, seconds; None is never.
        read_bytes_per_s: how fast a slow reader takes its answer; None is as fast as it comes.
    """

    index: int
    body: bytes
    at_s: float | None = None
    kind: str = "default"
    stage: int = 0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    shared_tokens: int = 0
    session: int = -1
    turn: int = 0
    think_s: float = 0.0
    cancel_after_s: float | None = None
    read_bytes_per_s: float | None = None


class Stage(msgspec.Struct, frozen=True):
    """One part of a load, over which its figures are told apart.

    Args:
        label: for people, such as `concurrency 8` or `20/s`.
        begins_s, ends_s: seconds from the start of the load; None where only a count ends it.
        rate_per_s: requests offered; None in a closed loop.
        concurrency: requests under way at once; None in an open loop.
    """

    label: str
    begins_s: float = 0.0
    ends_s: float | None = None
    rate_per_s: float | None = None
    concurrency: int | None = None
