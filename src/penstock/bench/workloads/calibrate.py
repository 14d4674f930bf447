"""Finds out, by a few requests before a run, how to make texts of an exact number of tokens.

First the words: those that are one token each, tried many at once. Then what a chat template adds. Then trials: texts
as the run will send them, whose count must be what it should. At last one request for one token, whose usage must
say the same: it also finds out whether the server takes `ignore_eos`, and fails here rather than a thousand times in
the run where the key, the model or the path is wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path

import msgspec

from penstock.bench.load.endpoint import Endpoint
from penstock.bench.workloads.calibration import ANCHOR, CANDIDATES, WORDS_MIN, Calibration, Source
from penstock.bench.workloads.prompts import Texts
from penstock.bench.workloads.tokenizers import (
    CalibrationError,
    Counter,
    LlamaCppCounter,
    LocalTexts,
    NoUsageError,
    Server,
    ServersTexts,
    TemplatedCounter,
    UsageCounter,
    VllmCounter,
    member,
    usage_tokens,
    whole,
)
from penstock.engines.client import EngineClient

# Words from which beginnings are made that are all different; more are not looked for one by one.
WORDS_ENOUGH = 64
# So many words are tried at once where all together were not one token each.
CHUNK_WORDS = 16
# Counting costs a server little, an answer more; and somebody waits.
COUNTS_MAX = 160
USAGE_COUNTS_MAX = 24
_AT_ONCE = 8
# Words of trial texts: a short prompt, and a usual one.
TRIAL_WORDS = (5, 61, 509)
# An answer of one token, and the room for it.
_SPARE_TOKENS = 16


class Counting(StrEnum):
    """Who is to count."""

    AUTO = "auto"  # the server, else a file where one is given, else usage
    SERVER = "server"
    LOCAL = "local"
    USAGE = "usage"
    OFF = "off"


async def calibrate(
    client: EngineClient,
    endpoint: Endpoint,
    model: str,
    *,
    counting: Counting = Counting.AUTO,
    tokenizer: Path | None = None,
    sessions: bool = False,
    ask_ignore_eos: bool = True,
) -> Calibration:
    """How texts of an exact number of tokens are made for a server.

    Args:
        client: speaks to it, with TLS where it wants that; stays open.
        model: its name there.
        counting: who counts.
        tokenizer: a tokenizer.json, or a folder with one.
        sessions: find out what a further turn adds, too.
        ask_ignore_eos: find out whether it takes `ignore_eos`.

    Raises:
        CalibrationError: it refuses a request as the run would send it, or can't count as it was told to.
        PenstockError: it can't be reached.
    """
    server = Server(client, endpoint, model)
    if counting is Counting.OFF:
        return Calibration(chat=server.chat)
    source, counter = await _counter(server, counting, tokenizer)
    try:
        made = await _counted(server, source, counter, sessions)
    except NoUsageError:
        if counting is not Counting.AUTO:
            raise
        made = Calibration(chat=server.chat)  # nobody counts: lengths are guesses, and said to be
    made = await _checked(server, made, ask_ignore_eos)
    return msgspec.structs.replace(made, requests=server.requests)


async def _counted(server: Server, source: Source, counter: Counter, sessions: bool) -> Calibration:
    """What the counter tells of texts.

    Raises:
        NoUsageError: it counts by a usage that the server does not tell.
        CalibrationError: it can't count.
    """
    made = Calibration(source=source, chat=server.chat)
    made = msgspec.structs.replace(made, context_tokens=await _context(server, counter))
    made = await _with_words(counter, made)
    if sessions:
        added = await counter.count([ANCHOR, ANCHOR, ANCHOR]) - made.base_tokens
        made = msgspec.structs.replace(made, turn_tokens=added)
    return await _tried(counter, made, sessions)


async def _counter(server: Server, counting: Counting, tokenizer: Path | None) -> tuple[Source, Counter]:
    """The best counter that there is."""
    if counting is Counting.LOCAL and tokenizer is None:
        raise CalibrationError("no tokenizer is given", hint="name a tokenizer.json")
    if counting in (Counting.AUTO, Counting.SERVER):
        counters: list[Counter] = [VllmCounter(server), LlamaCppCounter(server)]
        if server.chat:
            counters.append(TemplatedCounter(server, ServersTexts(server)))
        for counter in counters:
            if await _counts(counter):
                return Source.SERVER, counter
        if counting is Counting.SERVER:
            raise CalibrationError(
                "the server has no /tokenize that is known: neither vLLM's nor SGLang's nor llama.cpp's",
                hint="give a tokenizer.json, or let usage count",
            )
    if tokenizer is not None and counting is not Counting.USAGE:
        return Source.LOCAL, TemplatedCounter(server, LocalTexts(tokenizer))
    return Source.USAGE, UsageCounter(server)


async def _counts(counter: Counter) -> bool:
    """Whether a counter counts: more for a longer text."""
    try:
        return (
            0 < await counter.count([ANCHOR]) < await counter.count([f"{ANCHOR} {' '.join(CANDIDATES[:4])}"])
        )
    except CalibrationError:
        return False


async def _context(server: Server, counter: Counter) -> int | None:
    """How long prompt and answer may be together, as far as the server says."""
    if isinstance(counter, VllmCounter) and counter.context_tokens:
        return counter.context_tokens
    models = member(await server.get("/v1/models"), "data")
    for card in models if isinstance(models, list) else ():
        if member(card, "id") == server.model and (tokens := whole(member(card, "max_model_len"))):
            return tokens
    return whole(member(await server.get("/props"), "default_generation_settings", "n_ctx")) or None


async def _with_words(counter: Counter, made: Calibration) -> Calibration:
    """Adds the words that are one token each; all of them, with their mean, where too few are."""
    base = await counter.count([ANCHOR])
    counts_max = USAGE_COUNTS_MAX if made.source is Source.USAGE else COUNTS_MAX
    candidates = CANDIDATES
    if made.context_tokens is not None:
        candidates = candidates[: max(0, made.context_tokens - base - _SPARE_TOKENS) // 2]
    words, mean = await _one_token_words(counter, base, candidates, counts_max)
    if len(words) >= WORDS_MIN:
        return msgspec.structs.replace(made, base_tokens=base, words=words)
    note = "Hardly any common English word is one token of this model, so lengths of prompts are estimates."
    return msgspec.structs.replace(made, base_tokens=base, tokens_per_word=mean, notes=(*made.notes, note))


async def _one_token_words(
    counter: Counter, base: int, candidates: Sequence[str], counts_max: int
) -> tuple[tuple[str, ...], float]:
    """The words that are one token each, as far as `counts_max` counts tell, and the mean tokens of all words."""
    if not candidates:
        return (), 1.0
    all_tokens = await _tokens(counter, base, candidates)
    if all_tokens == len(candidates):
        return tuple(candidates), 1.0
    chunks = [candidates[at : at + CHUNK_WORDS] for at in range(0, len(candidates), CHUNK_WORDS)]
    good, doubtful = await _sorted(counter, base, chunks[:counts_max])
    singles = [(word,) for chunk in doubtful for word in chunk]
    if len(good) < WORDS_ENOUGH:
        good += (await _sorted(counter, base, singles[: max(0, counts_max - len(chunks))]))[0]
    return tuple(good), all_tokens / len(candidates)


async def _sorted(
    counter: Counter, base: int, groups: Sequence[Sequence[str]]
) -> tuple[list[str], list[Sequence[str]]]:
    """The words of the groups that have one token for each, and the other groups; stops when that is enough."""
    good: list[str] = []
    doubtful: list[Sequence[str]] = []
    for at in range(0, len(groups), _AT_ONCE):
        tried = groups[at : at + _AT_ONCE]
        found = await asyncio.gather(*(_tokens(counter, base, group) for group in tried))
        for group, tokens in zip(tried, found, strict=True):
            if tokens == len(group):
                good += group
            else:
                doubtful.append(group)
        if len(good) >= WORDS_ENOUGH:
            break
    return good, doubtful


async def _tokens(counter: Counter, base: int, words: Sequence[str]) -> int:
    return await counter.count([f"{ANCHOR} {' '.join(words)}"]) - base


async def _tried(counter: Counter, made: Calibration, sessions: bool) -> Calibration:
    """Notes how far texts as the run sends them are from their plan."""
    texts = Texts(made, "trial")
    off = [
        await counter.count([texts.unique(size, size)]) - made.tokens_of(size) for size in _trial_sizes(made)
    ]
    if sessions:
        said = [
            texts.unique(0, 7),
            texts.answer(0, 11),
            texts.unique(1, 3),
            texts.answer(1, 2),
            texts.unique(2, 9),
        ]
        off.append(await counter.count(said) - made.tokens_of(7 + 11 + 3 + 2 + 9, turns=2))
    off_by = max(map(abs, off))
    exact = off_by == 0 and made.tokens_per_word == 1.0
    return msgspec.structs.replace(made, off_by=off_by, exact=exact)


async def _checked(server: Server, made: Calibration, ask_ignore_eos: bool) -> Calibration:
    """Compares the count with the usage of a real request, and finds out whether `ignore_eos` is taken.

    Raises:
        CalibrationError: the server refuses the request.
    """
    texts = Texts(made, "check")
    words = _trial_sizes(made)
    reply = await server.answer([texts.unique(0, words[0])], ignore_eos=ask_ignore_eos)
    taken = True if ask_ignore_eos else None
    if ask_ignore_eos and reply.status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY):
        reply, taken = await server.answer([texts.unique(1, words[0])]), False
    if reply.status != HTTPStatus.OK:
        raise server.refusal(reply, "a request before the run failed")
    made = msgspec.structs.replace(made, ignore_eos=taken)
    tokens = usage_tokens(reply)
    if tokens is None:
        note = "The server tells no usage, so the lengths of prompts could not be checked by it."
        return msgspec.structs.replace(made, notes=(*made.notes, note))
    off = [tokens - made.tokens_of(words[0])]
    if made.exact:
        counter = UsageCounter(server)
        off += [await counter.count([texts.unique(size, size)]) - made.tokens_of(size) for size in words[1:2]]
    return _agreed(made, off)


def _agreed(made: Calibration, off: Sequence[int]) -> Calibration:
    """What remains of a calibration of which the server's usage says otherwise, by so many tokens at each size."""
    if not made.exact or not any(off):
        return made
    if made.source is Source.SERVER and len(set(off)) == 1:  # what the server adds, /tokenize does not know
        note = (
            f"The server reads {off[0]:+d} tokens to what its /tokenize counts; lengths follow what it reads."
        )
        base = made.base_tokens + off[0]
        return msgspec.structs.replace(made, base_tokens=base, notes=(*made.notes, note))
    note = "The server's usage and the tokenizer do not agree: is it this model's own?"
    return msgspec.structs.replace(made, exact=False, off_by=max(map(abs, off)), notes=(*made.notes, note))


def _trial_sizes(made: Calibration) -> list[int]:
    """Words of trial texts that the server has room for; one at least."""
    if made.context_tokens is None:
        return list(TRIAL_WORDS)
    most = made.context_tokens - made.base_tokens - _SPARE_TOKENS
    return [words for words in TRIAL_WORDS if words * made.tokens_per_word * 2 <= most] or [1]
