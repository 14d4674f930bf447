"""Augmentation: the ways a person might type a question, made from the wordings of the corpus.

Every function takes its randomness as an argument. No result ever equals a held-out wording.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from .corpus import Entry, held_out_wordings, normalized
from .phrases import (
    DEFINITION_LEADS,
    DEFINITION_TAILS,
    HOW_LEADS,
    PREFIXES,
    SUFFIXES,
    SYSTEM_PROMPTS,
    WHY_LEADS,
)
from .prompt import Segment, Turn, chat_segments, raw_segments

FAMILIES = (
    (
        re.compile(r"^(?:what is|what's|what are|explain|define|describe|tell me about) ", re.IGNORECASE),
        DEFINITION_LEADS,
    ),
    (re.compile(r"^(?:how do i|how can i|how to|how should i|how do you) ", re.IGNORECASE), HOW_LEADS),
    (re.compile(r"^why ", re.IGNORECASE), WHY_LEADS),
)


@dataclass(frozen=True, slots=True)
class Odds:
    """How often each change is made to a question: probabilities from 0 to 1."""

    untouched: float = 0.2
    new_lead: float = 0.45
    prefix: float = 0.2
    suffix: float = 0.12
    word_dropout: float = 0.25
    typo: float = 0.15
    lower: float = 0.4
    upper: float = 0.04
    bare_end: float = 0.4
    odd_end: float = 0.12


ODDS = Odds()
WORD_DROPPED = 0.15
TAIL_CHANCE = 0.15
OWN_WORDS_CHANCE = 0.12
RETRIES_MAX = 8


@dataclass(frozen=True, slots=True)
class Augmenter:
    """A source of training conversations over `entries`, drawn by `weights`."""

    entries: list[Entry]
    weights: list[float]
    forbidden: frozenset[str]

    @classmethod
    def over(cls, entries: list[Entry]) -> Augmenter:
        """An augmenter that draws entries with many wordings, and long answers, more often."""
        weights = [
            max(1.0, (len(e.wordings) / 8) ** 0.6) * (2.0 if len(e.answer) > 900 else 1.0) for e in entries
        ]
        return cls(entries, weights, held_out_wordings(entries))

    def conversation(self, entry: Entry, rng: random.Random) -> list[Segment]:
        """A prompt and its answers that ends in `entry`, in the chat form or the raw one."""
        turn = self.turn(entry, rng)
        if rng.random() < 0.12:
            return raw_segments(turn)
        earlier_count = rng.choices((0, 1, 2, 3), (0.62, 0.22, 0.12, 0.04))[0]
        earlier = [self.turn(e, rng) for e in rng.choices(self.entries, self.weights, k=earlier_count)]
        system = rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.4 else None
        return chat_segments(system, [*earlier, turn])

    def turn(self, entry: Entry, rng: random.Random) -> Turn:
        """`entry` asked in a way that no held-out wording asks it."""
        wording = entry.question if rng.random() < OWN_WORDS_CHANCE else rng.choice(entry.wordings)
        for _ in range(RETRIES_MAX):
            asked = reworded(wording, rng)
            if normalized(asked) not in self.forbidden and normalized(asked):
                return Turn(asked, entry.answer)
        return Turn(wording, entry.answer)

    def epoch(self, size: int, rng: random.Random) -> list[list[Segment]]:
        """`size` conversations."""
        return [self.conversation(e, rng) for e in rng.choices(self.entries, self.weights, k=size)]


def reworded(text: str, rng: random.Random, odds: Odds = ODDS) -> str:
    """`text` as a person in a hurry, or a polite one, might type it."""
    if rng.random() < odds.untouched:
        return text
    if rng.random() < odds.new_lead:
        text = with_new_lead(text, rng)
    if rng.random() < odds.word_dropout:
        text = without_some_words(text, rng)
    if rng.random() < odds.prefix:
        text = rng.choice(PREFIXES) + text[:1].lower() + text[1:]
    if rng.random() < odds.suffix:
        text = text.rstrip("?.!") + rng.choice(SUFFIXES) + "?"
    if rng.random() < odds.typo:
        text = with_typo(text, rng)
    return with_other_end(with_other_case(text, rng, odds), rng, odds)


def with_new_lead(text: str, rng: random.Random) -> str:
    """`text` with its opening ("what is", "how do I", "why") exchanged for another of the same family."""
    for pattern, leads in FAMILIES:
        if pattern.match(text):
            rest = pattern.sub("", text)
            if leads is DEFINITION_LEADS and rng.random() < TAIL_CHANCE:
                return "what is " + rest.rstrip("?.!") + rng.choice(DEFINITION_TAILS) + "?"
            return rng.choice(leads) + rest
    return text


def without_some_words(text: str, rng: random.Random) -> str:
    """`text` with words left out at random; at least two stay."""
    words = text.split()
    kept = [word for word in words if rng.random() >= WORD_DROPPED]
    return " ".join(kept) if len(kept) >= 2 else text


def with_typo(text: str, rng: random.Random) -> str:
    """`text` with one longer word misspelt: a letter lost, doubled, or exchanged with its neighbour."""
    words = text.split(" ")
    places = [index for index, word in enumerate(words) if len(word) >= 5]
    if not places:
        return text
    place = rng.choice(places)
    word = words[place]
    cut = rng.randrange(1, len(word) - 1)
    lost = word[:cut] + word[cut + 1 :]
    doubled = word[:cut] + word[cut] + word[cut:]
    exchanged = word[:cut] + word[cut + 1] + word[cut] + word[cut + 2 :]
    words[place] = rng.choice((lost, doubled, exchanged))
    return " ".join(words)


def with_other_case(text: str, rng: random.Random, odds: Odds) -> str:
    """`text` in lower case, in capitals, or as it is."""
    draw = rng.random()
    if draw < odds.lower:
        return text.lower()
    if draw < odds.lower + odds.upper:
        return text.upper()
    return text


def with_other_end(text: str, rng: random.Random, odds: Odds) -> str:
    """`text` with another end mark, or none."""
    draw = rng.random()
    if draw < odds.bare_end:
        return text.rstrip("?.!")
    if draw < odds.bare_end + odds.odd_end:
        return text.rstrip("?.!") + rng.choice(("?", "??", "!", ".", " ?", "...", "?!"))
    return text
