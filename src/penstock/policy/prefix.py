"""Which replica has seen which beginning of a prompt, by hashes of blocks that are chained with those before.

A prompt becomes a chain once, by `chain_of`. The index keeps two halves: what is used goes to the young one; when
that is full it becomes the old one, and what nobody used since the last time is dropped. So a use costs one
lookup, and nothing grows. It is the one changeable thing in this folder: a copy for each request would cost more
than everything else a request does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

# About 128 tokens of English. A shorter shared beginning saves an engine less than a millisecond.
BLOCK_BYTES = 512
# From here on a little more or less of a hit hardly matters, and large blocks hash faster.
FINE_BLOCKS = 64
COARSE_BLOCK_BYTES = 4096
# 800 KB of prompt: as much as 200,000 tokens; what follows does not choose the replica.
BLOCKS_MAX = 256

# Enough for 16 replicas with a cache of 500,000 tokens each. Measured: 10 MB when full.
ENTRIES_MAX = 65_536
# A beginning that everybody uses is soon everywhere; the latest few are as good as all of them.
HOLDERS_MAX = 4

# The member that holds the prompt is looked for here; members before it are few and small, but for tools, which
# chat templates put at the beginning of the prompt.
_HEAD_BYTES = 4096
_PROMPT_MEMBERS = (b'"messages"', b'"prompt"', b'"input"', b'"instructions"', b'"system"')
_LARGE_MEMBERS = (b'"tools"', b'"functions"')


def chain_of(prompt: bytes, start: int = 0) -> tuple[int, ...]:
    """The hashes of the whole blocks of `prompt` from `start` on, each of them of all that is before it too.

    They are comparable within one process only, because Python's hash of bytes is.
    """
    ends = range(start + BLOCK_BYTES, min(len(prompt), start + FINE_BLOCKS * BLOCK_BYTES) + 1, BLOCK_BYTES)
    chain = []
    link = 0
    for end in ends:
        link = hash((link, prompt[end - BLOCK_BYTES : end]))
        chain.append(link)
    if len(chain) == FINE_BLOCKS:
        at = start + FINE_BLOCKS * BLOCK_BYTES + COARSE_BLOCK_BYTES
        most = at + (BLOCKS_MAX - FINE_BLOCKS - 1) * COARSE_BLOCK_BYTES
        for end in range(at, min(len(prompt), most) + 1, COARSE_BLOCK_BYTES):
            link = hash((link, prompt[end - COARSE_BLOCK_BYTES : end]))
            chain.append(link)
    return tuple(chain)


def prompt_start(body: bytes) -> int:
    """Where the prompt begins in the JSON of a request; 0 where that can't be seen without parsing.

    Members that stand before it (a model, a seed, a limit) then do not make two equal prompts different. A model
    can be told a wrong place by what a client writes, which costs that client a cache hit and nobody anything.
    """
    for names in (_PROMPT_MEMBERS, _LARGE_MEMBERS):
        found = [at for name in names if (at := body.find(name, 0, _HEAD_BYTES)) >= 0]
        if found:
            return min(found)
    return 0


class PrefixIndex:
    """The beginnings that the replicas of one model have seen lately.

    Args:
        entries_max: blocks remembered, 2 at least.
    """

    __slots__ = ("_alone", "_births", "_half_max", "_lives", "_names", "_old", "_young")

    def __init__(self, entries_max: int = ENTRIES_MAX) -> None:
        self._half_max = max(1, entries_max // 2)
        self._young: dict[int, tuple[int, ...]] = {}
        self._old: dict[int, tuple[int, ...]] = {}
        # a replica has a new number in each of its lives, so that forgetting one need not look for its blocks
        self._births = 0
        self._lives: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._alone: dict[int, tuple[int, ...]] = {}

    def __len__(self) -> int:
        """How many blocks are remembered."""
        return len(self._young) + len(self._old)

    def holders(self, chain: Sequence[int], among: Collection[str]) -> tuple[int, Sequence[str]]:
        """Which of `among` have the longest known beginning of `chain`.

        Returns:
            How many blocks of it they have, and their names; 0 and none where nobody has any.
        """
        young, old, names = self._young, self._old, self._names
        found: list[tuple[int, ...]] = []
        for link in chain:
            lives = young.get(link) or old.get(link)
            if lives is None:
                break
            found.append(lives)
        for blocks in range(len(found), 0, -1):
            known = (names.get(life) for life in found[blocks - 1])
            held = [name for name in known if name is not None and name in among]
            if held:
                return blocks, held
        return 0, ()

    def add(self, chain: Iterable[int], name: str) -> None:
        """The replica `name` is given a prompt with this chain."""
        life = self._lives.get(name)
        if life is None:
            life = self._born(name)
        alone = self._alone[life]
        for link in chain:
            lives = self._young.get(link)
            if lives is not None and lives[0] == life:
                continue
            if lives is None:
                lives = self._old.pop(link, ())
                self._make_room()
            others = [other for other in lives if other != life and other in self._names]
            self._young[link] = (life, *others[: HOLDERS_MAX - 1]) if others else alone

    def forget(self, name: str) -> None:
        """The replica `name` is gone or was started anew: its cache is empty."""
        life = self._lives.pop(name, None)
        if life is not None:
            del self._names[life], self._alone[life]

    def _born(self, name: str) -> int:
        self._births = life = self._births + 1
        self._lives[name], self._names[life], self._alone[life] = life, name, (life,)
        return life

    def _make_room(self) -> None:
        if len(self._young) >= self._half_max:
            self._old, self._young = self._young, {}
