"""The text of prompts: of a known number of words, and equal to each other exactly as far as they should be.

All text is made of stretches. A stretch has a key; two with one key are the same as far as both go, and two with
different keys differ within their first words: those are drawn from the hash of the key alone. What follows is cut
out of one long random text, which costs a few microseconds for any length.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate
from random import Random
from typing import Self

import msgspec

from penstock.bench.workloads.calibration import ANCHOR, WORDS_MIN, Calibration
from penstock.bench.workloads.lengths import WorkloadError

# A block of vLLM's prefix cache: two prompts of which not even one block is equal share nothing.
HEAD_WORDS = 16
# About 160 KB of text; a prompt that is longer repeats itself, but never from its beginning on.
POOL_WORDS = 32_768
# Blocks of Mooncake's traces.
BLOCK_TOKENS = 512
# More shared beginnings than this are as good as none shared: each would be met a few times in a run.
GROUPS_MAX = 100_000

_DIGEST_BYTES = HEAD_WORDS * 2 + 8


class Cache(msgspec.Struct, frozen=True):
    """What a prefix cache can find in prompts.

    Args:
        share: of each prompt's own words, how much is the beginning of its group, 0 to 1; 0 lets no two prompts begin
            alike.
        groups: how many different beginnings there are, at least 1.
    """

    share: float = 0.0
    groups: int = 1

    @classmethod
    def checked(cls, share: float, groups: int = 1) -> Self:
        """The settings, where they make sense.

        Raises:
            WorkloadError: they make none.
        """
        if not 0 <= share <= 1:
            raise WorkloadError(
                f"share: {share:g} should be 0 to 1", hint="0.8 shares four fifths of each prompt"
            )
        if not 1 <= groups <= GROUPS_MAX:
            raise WorkloadError(f"groups: {groups} should be 1 to {GROUPS_MAX}")
        return cls(share, groups)

    @property
    def busting(self) -> bool:
        """Whether no two prompts begin alike."""
        return self.share == 0.0

    def describe(self) -> str:
        """What it does, in a sentence."""
        if self.busting:
            return (
                "Cache-busting: each prompt begins with words of its own, so that no engine can take more than the "
                "chat template from its prefix cache."
            )
        groups = "one beginning" if self.groups == 1 else f"one of {self.groups} beginnings"
        return (
            f"Cache-friendly: {self.share:.0%} of each prompt is {groups} that it shares with others, so that a "
            "prefix cache saves that part; figures are not those of prompts that nobody has sent before."
        )


class Texts:
    """Makes texts of words that are known to the tokenizer.

    Args:
        calibration: the words.
        salt: two runs of different salt share no text.

    Raises:
        WorkloadError: there are too few words to tell beginnings apart.
    """

    def __init__(self, calibration: Calibration, salt: str) -> None:
        words = calibration.words
        if len(words) < WORDS_MIN:
            raise WorkloadError(
                f"only {len(words)} words are one token each; {WORDS_MIN} are needed to tell prompts apart",
                hint="give a tokenizer.json, or calibrate by usage",
            )
        random = Random(f"{salt}/pool")  # noqa: S311 - text, no secret
        pool = [f" {word}" for word in random.choices(words, k=POOL_WORDS)]
        pool += pool  # so that a stretch may begin anywhere
        self._words = [f" {word}" for word in words]
        self._pool = "".join(pool)
        self._starts = list(accumulate(map(len, pool), initial=0))
        self._hash = blake2b(salt.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES)

    def stretch(self, key: str, words: int) -> str:
        """The first so many words of a key's text, each after a space."""
        hashed = self._hash.copy()
        hashed.update(b"/" + key.encode("utf-8", "surrogatepass"))
        digest = hashed.digest()
        known, count = self._words, len(self._words)
        drawn = range(0, 2 * min(words, HEAD_WORDS), 2)
        head = "".join([known[(digest[at] << 8 | digest[at + 1]) % count] for at in drawn])
        return head + self._cut(int.from_bytes(digest[-8:], "big") % POOL_WORDS, words - HEAD_WORDS)

    def unique(self, index: int, words: int) -> str:
        """A text that begins like no other of the run, after its anchor."""
        return ANCHOR + self.stretch(f"request {index}", words)

    def shared(self, index: int, group: int, shared_words: int, words: int) -> str:
        """A text of which the first `shared_words` are those of its group, and only the rest its own."""
        own = words - shared_words
        return ANCHOR + self.stretch(f"group {group}", shared_words) + self.stretch(f"request {index}", own)

    def blocks(self, index: int, blocks: Sequence[int | str], words: int) -> str:
        """A text whose first blocks are those of a trace, and the rest its own."""
        parts, left = [ANCHOR], words
        for block in blocks:
            if left <= 0:
                break
            parts.append(self.stretch(f"block {block}", min(left, BLOCK_TOKENS)))
            left -= BLOCK_TOKENS
        if left > 0:
            parts.append(self.stretch(f"request {index}", left))
        return "".join(parts)

    def answer(self, index: int, words: int) -> str:
        """The words that stand for an answer which nobody has yet."""
        return ANCHOR + self.stretch(f"answer {index}", words)

    def _cut(self, begin: int, words: int) -> str:
        if words <= 0:
            return ""
        starts, pool = self._starts, self._pool
        if words <= POOL_WORDS:
            return pool[starts[begin] : starts[begin + words]]
        whole, rest = divmod(words, POOL_WORDS)
        return pool[starts[begin] : starts[begin + POOL_WORDS]] * whole + self._cut(begin, rest)
