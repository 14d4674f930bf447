"""What the simulated model says: nonsense in English words, as a greedy model would choose it.

The next token is a function of all the text before it, and of nothing else. So an answer that is continued
after k tokens, on any route and on any replica, goes on with exactly the rest. Sampling changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

_WORDS = """
    a able about above acid act add after again age ago air all alone along also among and angle apart
    apple arc area arm as ask at away axis back ball bank bar base basin be beam bear bed begin below
    bend best big bird bit black blade block blue board boat body bolt book both bow box brass break
    brief bring broad build bulk burn busy but by cable calm came canal care carry case cast catch cause
    cell chain check city clay clean clear climb close cloud coast cold color come cool copy cord core
    count cover crack creek crest cross crowd cup curve cut cycle dam dark data dawn day deal deep depth
    disc ditch do dock door down draft drain draw drift drill drive drop dry dust duty each early earth
    east easy edge eight elbow end enter equal even ever exact extra fact fair fall far fast feed feel
    few field fill final find fine fire firm first fish five fixed flat float flood floor flow fluid
    foam force form four frame free fresh from front full gain gate gauge gear give glass go good grade
    grain grand grid grow guide hand hard have head heat heavy here high hill hold hole home hot hour
    how ice idea if in inlet iron is it item join joint jump just keep kind know lake land large last
    late layer lead leaf level lift light lime line link list load local lock long loop low main make
    map mark mass metal mill mix
""".split()  # noqa: SIM905 - a list of 256 lines teaches nothing
_VOCABULARY_SIZE = 256
_HASH_MULTIPLIER = 2654435761  # Knuth's: spreads what crc32 leaves linear


def _vocabulary() -> tuple[bytes, ...]:
    """The words, each with its leading space; every eighth one of four letters or fewer ends a sentence."""
    words = [" " + word for word in _WORDS[:_VOCABULARY_SIZE]]
    return tuple(
        (word + "." if place % 8 == 0 and len(word) <= 5 else word).encode()
        for place, word in enumerate(words)
    )


VOCABULARY = _vocabulary()


@dataclass(frozen=True, slots=True)
class Limits:
    """What ends an answer.

    Args:
        tokens_max: at least 1.
        tokens_min: tokens before which the model may not stop by itself.
        ignore_eos: the model may never stop by itself.
        stop: texts that end the answer where they begin.
        mean_tokens: how long answers are that end by themselves, tokens; 0 where none does.
    """

    tokens_max: int
    tokens_min: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    mean_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, planned before its first token is due.

    Args:
        tokens: the tokens the model computes; the one that ends the text by itself is empty.
        deltas: the text each of them adds for the client, all of it ASCII that JSON need not escape.
        finish_reason: "stop" or "length".
        stop_reason: the stop text that ended it, if one did.
    """

    tokens: tuple[bytes, ...]
    deltas: tuple[bytes, ...]
    finish_reason: str
    stop_reason: str | None = None

    @property
    def text(self) -> str:
        """All the client gets."""
        return b"".join(self.deltas).decode("ascii")


def answer(context: bytes, limits: Limits) -> Answer:
    """The greedy answer to `context`, all text that the model has read."""
    tokens: list[bytes] = []
    state = crc32(context)
    # A word at the very beginning, or after white space, has no space of its own.
    glue = not context or context[-1:].isspace()
    eos_below = 0 if limits.ignore_eos or not limits.mean_tokens else (1 << 32) // limits.mean_tokens
    tail = _StopSearch(limits.stop)
    for count in range(limits.tokens_max):
        mixed = state * _HASH_MULTIPLIER & 0xFFFFFFFFFFFF
        if count >= limits.tokens_min and (mixed ^ mixed >> 15) & 0xFFFFFFFF < eos_below:
            tokens.append(b"")
            return Answer(tuple(tokens), tuple(tokens), "stop")
        word = VOCABULARY[mixed >> 20 & 255]
        if glue:
            word = word[1:]
            glue = False
        tokens.append(word)
        state = crc32(word, state)
        found = tail.add(word) if limits.stop else None
        if found is not None and count + 1 >= limits.tokens_min:
            return Answer(tuple(tokens), _cut(tokens, tail.kept), "stop", found)
    return Answer(tuple(tokens), tuple(tokens), "length")


class _StopSearch:
    """Finds the first stop text in a text that grows; one found before `tokens_min` is forgotten."""

    __slots__ = ("_stop", "_text", "kept")

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop
        self._text = ""
        self.kept = 0

    def add(self, word: bytes) -> str | None:
        """The stop text that `word` completes, if any; `kept` is then what goes before it, in characters."""
        known = len(self._text)
        self._text += word.decode("ascii")
        found = None
        for stop in self._stop:
            at = self._text.find(stop, max(0, known - len(stop) + 1))
            if at >= 0 and (found is None or at < self.kept):
                found, self.kept = stop, at
        return found


def _cut(tokens: Sequence[bytes], kept: int) -> tuple[bytes, ...]:
    deltas = []
    for token in tokens:
        deltas.append(token[:kept])
        kept -= len(deltas[-1])
    return tuple(deltas)
