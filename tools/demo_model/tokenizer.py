"""The tokenizer: byte-level BPE with GPT-2's split, which llama.cpp knows under the same name."""

from __future__ import annotations

import random
from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from .prompt import SPECIAL_TOKENS, Segment

VOCAB_SIZE = 2048


def trained_tokenizer(texts: Iterable[str], vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """A byte-level BPE tokenizer of `vocab_size` tokens fitted to `texts`; special tokens come first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of `token`; raises `KeyError` if the vocabulary has none."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise KeyError(token)
    return found


def encoded(
    tokenizer: Tokenizer, segments: list[Segment], resume_chance: float, rng: random.Random
) -> tuple[list[int], list[bool]]:
    """Token ids of `segments`, and for each whether the model speaks it.

    With probability `resume_chance` an answer's beginning is cut into tokens anew, as it is when an engine
    is asked to continue the text of a lost stream.
    """
    ids: list[int] = []
    spoken: list[bool] = []
    for segment in segments:
        piece = tokenizer.encode(segment.text).ids
        heard = 0
        if segment.speaks and not segment.special and len(piece) > 2 and rng.random() < resume_chance:
            piece, heard = resumed(tokenizer, segment.text, piece, rng)
        ids += piece
        spoken += [segment.speaks and index >= heard for index in range(len(piece))]
    return ids, spoken


def resumed(tokenizer: Tokenizer, text: str, piece: list[int], rng: random.Random) -> tuple[list[int], int]:
    """`text`, whose tokens are `piece`, cut in two: its ids, and how many of them are given to the model.

    The cut is between two tokens, where engines cut a stream, or between two characters.
    """
    if rng.random() < 0.5:
        cut = rng.randrange(1, len(piece))
        begun, rest = tokenizer.encode(tokenizer.decode(piece[:cut])).ids, piece[cut:]
    else:
        cut = rng.randrange(1, len(text))
        begun, rest = tokenizer.encode(text[:cut]).ids, tokenizer.encode(text[cut:]).ids
    return begun + rest, len(begun)
