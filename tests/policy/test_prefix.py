"""Two prompts share a chain as far as they share whole blocks, and the index finds who has the most of it."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.policy.prefix import (
    BLOCK_BYTES,
    BLOCKS_MAX,
    COARSE_BLOCK_BYTES,
    FINE_BLOCKS,
    HOLDERS_MAX,
    PrefixIndex,
    chain_of,
    prompt_start,
)

FINE_BYTES = FINE_BLOCKS * BLOCK_BYTES
NAMES = tuple("abcdef")


def blocks_of(size_bytes: int) -> int:
    """How many whole blocks a prompt of this size has, counted one by one."""
    count = at = 0
    while count < BLOCKS_MAX:
        at += BLOCK_BYTES if count < FINE_BLOCKS else COARSE_BLOCK_BYTES
        if at > size_bytes:
            break
        count += 1
    return count


# -- chains ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size_bytes",
    [
        *(0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, FINE_BYTES - 1, FINE_BYTES, FINE_BYTES + 1),
        *(FINE_BYTES + COARSE_BLOCK_BYTES - 1, FINE_BYTES + COARSE_BLOCK_BYTES, 200_000, 819_199, 819_200),
        5_000_000,
    ],
)
@pytest.mark.parametrize("start", [0, 7])
def test_a_prompt_has_a_link_for_each_whole_block_up_to_a_limit(size_bytes: int, start: int) -> None:
    assert len(chain_of(bytes(start + size_bytes), start)) == blocks_of(size_bytes)


@given(st.integers(0, 60_000), st.integers(0, 60_000), st.integers(0, 1000))
def test_two_prompts_share_their_chain_up_to_the_block_in_which_they_differ(
    shared: int, more: int, start: int
) -> None:
    one = b"y" * start + b"x" * shared + b"1" + b"x" * more
    two = b"z" * start + b"x" * shared + b"2" + b"x" * more

    pairs = zip(chain_of(one, start), chain_of(two, start), strict=True)

    assert [a == b for a, b in pairs] == [
        number < blocks_of(shared) for number in range(blocks_of(shared + 1 + more))
    ]


def test_the_same_block_in_another_place_is_another_link() -> None:
    assert len(set(chain_of(b"x" * 100_000))) == blocks_of(100_000)


@given(st.binary(max_size=3000), st.integers(0, 4000))
def test_any_bytes_from_any_place_make_a_chain(prompt: bytes, start: int) -> None:
    assert len(chain_of(prompt, start)) == blocks_of(max(0, len(prompt) - start))


@pytest.mark.parametrize(
    ("body", "member"),
    [
        (b'{"model":"m","seed":1,"messages":[{"role":"user","content":"hi"}]}', b'"messages"'),
        (b'{"prompt": "hi", "model": "m"}', b'"prompt"'),
        (b'{"input":"hi"}', b'"input"'),
        (b'{"model":"m","prompt":"see \\"messages\\""}', b'"prompt"'),
        (b'{"model":"m","instructions":"be brief","input":"hi"}', b'"instructions"'),
        (b'{"max_tokens":9,"system":"be brief","messages":[]}', b'"system"'),
        (b'{"user":"a","tools":[%b],"messages":[]}' % (b"1," * 4000), b'"tools"'),
        (b'{"user":"a","tools":[1],"messages":[]}', b'"messages"'),
    ],
)
def test_the_prompt_begins_at_its_member(body: bytes, member: bytes) -> None:
    assert body[prompt_start(body) :].startswith(member)


SYSTEM = b'"' + b"Be brief, and cite your sources. " * 100 + b'"'
CHAT = b'"messages":[{"role":"system","content":%b},{"role":"user","content":"%b"}]'
OTHER_FIELDS = [
    b'"model":"m"',
    b'"model":"m","seed":7,"user":"somebody else","max_tokens":100',
    b'"stream":true',
]


@pytest.mark.parametrize(
    "prompt",
    [
        CHAT % (SYSTEM, b"%b"),
        b'"prompt":%b%%b"' % SYSTEM[:-1],
        b'"instructions":%b,"input":"%%b"' % SYSTEM,
        b'"system":%b,"messages":[{"role":"user","content":"%%b"}]' % SYSTEM,
        b'"tools":[{"type":"function","function":{"name":"look_up","description":%b}}],"messages":["%%b"]'
        % (SYSTEM + SYSTEM),
    ],
)
def test_a_shared_beginning_gives_the_same_blocks_whatever_fields_stand_before_or_behind_it(
    prompt: bytes,
) -> None:
    before = [
        b"{%b,%b}" % (fields, prompt % question)
        for fields, question in zip(OTHER_FIELDS, (b"Why?", b"How?", b"Who?"), strict=True)
    ]
    behind = [b"{%b,%b}" % (prompt % b"When?", fields) for fields in OTHER_FIELDS]

    chains = [chain_of(body, prompt_start(body)) for body in (*before, *behind)]

    shared = len(SYSTEM) // BLOCK_BYTES
    assert len({chain[:shared] for chain in chains}) == 1
    assert len(chains[0]) >= shared


@given(st.binary(max_size=200))
def test_a_body_in_which_no_prompt_is_seen_counts_from_its_beginning(body: bytes) -> None:
    assert prompt_start(body) == 0 or body[prompt_start(body) :].startswith(b'"')
    assert prompt_start(b" " * 10_000 + b'"messages"') == 0


# -- the index -------------------------------------------------------------------------------------------


def test_who_has_more_of_the_prompt_is_found_and_who_may_not_have_it_is_passed_over() -> None:
    chain = tuple(range(1, 11))
    index = PrefixIndex()
    index.add(chain[:3], "a")
    index.add(chain[:7], "b")

    assert index.holders(chain, {"a", "b"}) == (7, ["b"])
    assert index.holders(chain, {"a"}) == (3, ["a"])
    assert index.holders(chain[:2], {"a", "b"}) == (2, ["b", "a"])
    assert index.holders(chain, {"c"}) == (0, ())
    assert index.holders((99, *chain), {"a", "b"}) == (0, ())
    assert index.holders((), {"a", "b"}) == (0, ())


def test_the_latest_holders_are_remembered() -> None:
    index = PrefixIndex()

    for name in NAMES:
        index.add((1, 2), name)

    assert index.holders((1, 2), set(NAMES)) == (2, list(reversed(NAMES))[:HOLDERS_MAX])


def test_a_holder_that_is_used_again_is_the_latest() -> None:
    index = PrefixIndex()

    for name in (*NAMES[:HOLDERS_MAX], "a", "x", "y"):
        index.add((1,), name)

    assert index.holders((1,), {*NAMES, "x", "y"}) == (1, ["y", "x", "a", "d"])


def test_one_that_is_forgotten_takes_no_place_among_the_holders() -> None:
    index = PrefixIndex()
    for name in NAMES[:HOLDERS_MAX]:
        index.add((1,), name)

    index.forget("d")
    index.add((1,), "x")

    assert index.holders((1,), {*NAMES, "x"}) == (1, ["x", "c", "b", "a"])


def test_what_comes_back_into_use_is_still_held_by_all_who_had_it() -> None:
    index = PrefixIndex(entries_max=4)
    index.add((1,), "a")
    index.add((2, 3), "b")  # 1 is old now

    index.add((1,), "b")

    assert index.holders((1,), {"a", "b"}) == (1, ["b", "a"])


def test_a_replica_that_was_started_anew_has_nothing_until_it_is_given_something() -> None:
    index = PrefixIndex()
    index.add((1, 2), "a")
    index.add((1, 2), "b")

    index.forget("a")
    index.forget("never seen")
    assert index.holders((1, 2), {"a", "b"}) == (2, ["b"])
    index.add((1,), "a")

    assert index.holders((1, 2), {"a"}) == (1, ["a"])


def test_what_is_used_stays_and_what_is_not_goes() -> None:
    index = PrefixIndex(entries_max=100)
    index.add((1, 2, 3), "a")

    for number in range(1000):
        index.add((1, 2, 3), "a")
        index.add((10_000 + number,), "b")

    assert index.holders((1, 2, 3), {"a"})[0] == 3
    assert index.holders((10_000,), {"b"})[0] == 0
    assert index.holders((10_999,), {"b"})[0] == 1


STEPS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.lists(st.integers(1, 40), max_size=8, unique=True) | st.none()),
    max_size=60,
)


@given(STEPS, st.integers(2, 30))
def test_it_never_grows_past_its_limit_and_never_tells_of_a_prompt_that_was_not_given(
    steps: list[tuple[str, list[int] | None]], entries_max: int
) -> None:
    index, given_since = PrefixIndex(entries_max), {name: set[int]() for name in NAMES}
    for name, chain in steps:
        if chain is None:
            index.forget(name)
            given_since[name].clear()
        else:
            index.add(chain, name)
            given_since[name].update(chain)

        assert len(index) <= entries_max
        for link in range(1, 41):
            for holder in index.holders((link,), NAMES)[1]:
                assert link in given_since[holder]


@given(STEPS, st.integers(2, 30))
def test_it_forgets_nothing_that_is_among_the_latest_half_of_its_limit(
    steps: list[tuple[str, list[int] | None]], entries_max: int
) -> None:
    index, latest = PrefixIndex(entries_max), OrderedDict[int, str]()
    for name, chain in steps:
        for link in chain or ():
            index.add((link,), name)
            latest[link] = name
            latest.move_to_end(link)

        for link in list(latest)[-(entries_max // 2) :]:
            assert latest[link] in index.holders((link,), NAMES)[1]


def test_lives_of_replicas_that_restart_all_the_time_leave_nothing_behind() -> None:
    index = PrefixIndex(entries_max=10)

    for number in range(1000):
        index.add((number,), "a")
        index.forget("a")

    assert (len(index._names), len(index._lives), len(index._alone)) == (0, 0, 0)
    assert len(index) <= 10
