"""The KV cache of a simulated engine: a fixed pool of blocks, shared by content, evicted least recently used.

A block is in use while sequences hold it, else free. A free block keeps its content, so that a later prompt
with the same beginning finds it, until it is handed out for something else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class KvBlocks:
    """A pool of KV blocks with a prefix cache.

    Args:
        count: blocks in the pool, at least 1.
        prefix_cache: whether content is found again.
    """

    __slots__ = ("_block_of", "_free", "_key_of", "_prefix_cache", "_users", "count")

    def __init__(self, count: int, *, prefix_cache: bool) -> None:
        self.count = count
        self._prefix_cache = prefix_cache
        self._users = [0] * count
        self._key_of: dict[int, int] = {}
        self._block_of: dict[int, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(count))

    @property
    def free(self) -> int:
        """Blocks that no sequence holds, with or without content worth finding."""
        return len(self._free)

    @property
    def used(self) -> int:
        """Blocks that at least one sequence holds."""
        return self.count - len(self._free)

    def find(self, keys: Iterable[int]) -> list[int]:
        """The blocks that hold the longest known beginning of `keys`, in order; they are not held yet."""
        found: list[int] = []
        if self._prefix_cache:
            for key in keys:
                block = self._block_of.get(key)
                if block is None:
                    break
                found.append(block)
        return found

    def take(self, shared: Sequence[int], fresh: int) -> list[int] | None:
        """Holds the blocks `shared`, and `fresh` ones more; all in order, or None where the pool lacks.

        Args:
            shared: blocks that `find` named since the last change.
            fresh: blocks wanted with no content yet, at least 0.
        """
        revived = [block for block in shared if not self._users[block]]
        if len(self._free) - len(revived) < fresh:
            return None
        for block in revived:
            del self._free[block]
        for block in shared:
            self._users[block] += 1
        return [*shared, *(self._hand_out() for _ in range(fresh))]

    def name(self, block: int, key: int) -> None:
        """Notes that a full `block` holds the content `key`; the first block to do so stays the known one."""
        if self._prefix_cache and key not in self._block_of and block not in self._key_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def release(self, blocks: Sequence[int]) -> None:
        """Lets go of `blocks`, in the order of their sequence; its end is evicted before its beginning."""
        for block in reversed(blocks):
            self._users[block] -= 1
            if not self._users[block]:
                self._free[block] = None

    def _hand_out(self) -> int:
        block, _ = self._free.popitem(last=False)
        key = self._key_of.pop(block, None)
        if key is not None:
            del self._block_of[key]
        self._users[block] = 1
        return block
