"""Kinds of prompts, and in what order they come. Pure.

`short` and `long` ask for 64 and 256 tokens, and differ in nothing else, so that a matrix of both tells what the
length of an answer does. `chat` and `code` have the medians of the Azure traces of 2023 (Patel et al., Splitwise, ISCA
2024, section III: 1020 and 129 tokens in conversations, 1500 and 13 in coding); `rag` is a long context with a short
answer. The widths of these three, and all of `rag`, are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from random import Random

import msgspec

from penstock.bench.workloads.lengths import Lengths, Shape, Span, WorkloadError, fixed

# A table by kind has one row for each.
KINDS_MAX = 32
# The mix is kept over so many requests, and their order is shuffled.
_ROUND = 20


class Kind(msgspec.Struct, frozen=True):
    """One sort of requests.

    Args:
        name: for the report.
        prompt: length of a prompt, tokens; of the first one, in a session.
        output: length of an answer, tokens.
        turns: how many turns a session has; always 1 is no session.
        turn_prompt: length of what the user adds in each later turn, tokens.
        think: pause before each later turn.
    """

    name: str
    prompt: Lengths
    output: Lengths
    turns: Lengths = fixed(1)
    turn_prompt: Lengths = fixed(64)
    think: Span = Span()

    @property
    def in_sessions(self) -> bool:
        """Whether some of its requests follow others."""
        return self.turns.longest > 1


def _lognormal(median: int, sigma: float, most: int) -> Lengths:
    return Lengths(Shape.LOGNORMAL, float(median), sigma, 16, most)


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("short", fixed(128), fixed(64)),
        Kind("long", fixed(128), fixed(256)),
        Kind("chat", _lognormal(1020, 0.7, 8192), _lognormal(129, 0.8, 1024)),
        Kind("rag", _lognormal(3000, 0.4, 16384), _lognormal(200, 0.5, 1024)),
        Kind("code", _lognormal(1500, 0.9, 8192), _lognormal(13, 0.9, 512)),
    )
}


class Mix(msgspec.Struct, frozen=True):
    """Kinds with their weights, which add up to 1."""

    kinds: tuple[Kind, ...]
    weights: tuple[float, ...]

    def __str__(self) -> str:
        """The text that means the same."""
        if len(self.kinds) == 1:
            return self.kinds[0].name
        shares = zip(self.kinds, self.weights, strict=True)
        return ",".join(f"{kind.name}={weight:.4g}" for kind, weight in shares)

    def order(self, random: Random) -> Iterator[Kind]:
        """The kinds of all requests, without an end.

        Each round of requests has its kinds in their weights, as near as whole requests can come, and the rest is
        carried on to the next: so a short run has the mix that was asked for, in an order that nobody can foresee.
        """
        if len(self.kinds) == 1:
            while True:
                yield self.kinds[0]
        owed = [0.0] * len(self.kinds)
        while True:
            picked = []
            owed = [credit + weight * _ROUND for credit, weight in zip(owed, self.weights, strict=True)]
            for _ in range(_ROUND):
                most = max(range(len(owed)), key=owed.__getitem__)
                owed[most] -= 1.0
                picked.append(self.kinds[most])
            random.shuffle(picked)
            yield from picked


def mix_of(kinds: Sequence[tuple[Kind, float]], where: str = "mix") -> Mix:
    """A mix by weights of any size.

    Raises:
        WorkloadError: there is no kind, one is named twice, or a weight is not above 0.
    """
    names = [kind.name for kind, _ in kinds]
    if not 1 <= len(kinds) <= KINDS_MAX:
        raise WorkloadError(f"{where}: {len(kinds)} kinds; it should have 1 to {KINDS_MAX}")
    if len(set(names)) < len(names):
        raise WorkloadError(f"{where}: a kind is named twice: {', '.join(names)}")
    for kind, weight in kinds:
        if not 0 < weight < 1e9:
            raise WorkloadError(f"{where}: the weight of {kind.name} should be above 0, not {weight:g}")
    total = sum(weight for _, weight in kinds)
    return Mix(tuple(kind for kind, _ in kinds), tuple(weight / total for _, weight in kinds))


def parse_mix(text: str, known: Mapping[str, Kind] = KINDS, where: str = "mix") -> Mix:
    """The mix that `short=0.7,long=0.3`, `short,long` or `chat` describes.

    Args:
        text: names, each with its weight or with 1.
        known: the kinds by name.
        where: the place of the text, for messages.

    Raises:
        WorkloadError: it describes none.
    """
    kinds = []
    for part in text.split(","):
        name, equals, written = (each.strip() for each in part.partition("="))
        kind = known.get(name)
        if kind is None:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"it is one of {', '.join(known)}"
            raise WorkloadError(f"{where}: no kind of prompt is called {name[:64]!r}", hint=hint)
        try:
            weight = float(written) if equals else 1.0
        except ValueError:
            raise WorkloadError(
                f"{where}: {written[:64]!r} is no weight of {name}", hint="write short=0.7,long=0.3"
            ) from None
        kinds.append((kind, weight))
    return mix_of(kinds, where)
