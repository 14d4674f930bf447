from __future__ import annotations

from penstock.simulator.kv_blocks import KvBlocks


def filled(*keys: int, count: int = 4) -> KvBlocks:
    """A pool in which one sequence has come and gone, its blocks full of `keys`."""
    pool = KvBlocks(count, prefix_cache=True)
    blocks = pool.take((), len(keys))
    assert blocks is not None
    for block, key in zip(blocks, keys, strict=True):
        pool.name(block, key)
    pool.release(blocks)
    return pool


def test_the_end_of_a_sequence_is_evicted_before_its_beginning():
    pool = filled(1, 2, 3, 4)

    pool.take((), 2)

    assert len(pool.find([1, 2, 3, 4])) == 2


def test_a_shared_block_is_free_only_when_all_have_let_go():
    pool = filled(1, 2)
    first = pool.take(pool.find([1, 2]), 0)
    second = pool.take(pool.find([1, 2]), 0)
    assert first == second is not None

    pool.release(first)

    assert pool.used == 2
    pool.release(second)
    assert pool.used == 0


def test_taking_more_than_there_is_takes_nothing():
    pool = filled(1, 2)

    assert pool.take(pool.find([1, 2]), 3) is None
    assert pool.free == 4
