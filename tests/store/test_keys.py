"""API keys: kept as digests, found by secret."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from penstock.core.errors import PenstockError
from penstock.policy.budget import Limits
from penstock.store.keys import ADMIN, INFERENCE, LOOK_EVERY_S, KeyRing, KeyStore, KeyTerms


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def store(path: Path) -> KeyStore:
    days: Iterator[int] = count(1)
    return KeyStore(path, lambda: next(days) * 86400.0)


def unexpected(error: PenstockError) -> None:
    raise error


def test_a_secret_shows_its_id_and_is_stored_nowhere(store: KeyStore, path: Path) -> None:
    key, secret = store.create(KeyTerms("laptop"))

    assert re.fullmatch(rf"sk-penstock-{key.id}-[A-Za-z0-9_-]{{43}}", secret)
    assert secret.rpartition(f"{key.id}-")[2] not in path.read_text()


def test_a_created_key_is_listed_with_its_name_and_tenant(store: KeyStore) -> None:
    key, _ = store.create(KeyTerms("laptop", "search"))

    assert store.list() == (key,)
    assert (key.name, key.tenant, key.revoked_at) == ("laptop", "search", None)


def test_the_file_is_for_its_owner_alone(store: KeyStore, path: Path) -> None:
    store.create(KeyTerms("laptop"))

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_keys_made_at_the_same_time_are_all_kept(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(
            pool.map(lambda number: KeyStore(path, lambda: 1.0).create(KeyTerms(str(number)))[0], range(24))
        )

    assert {key.id for key in KeyStore(path, lambda: 1.0).list()} == {key.id for key in made}


def test_a_revoked_key_stays_listed_and_can_not_be_revoked_again(store: KeyStore) -> None:
    key, _ = store.create(KeyTerms("laptop"))

    revoked = store.revoke(key.id)

    assert revoked.revoked_at == 2 * 86400.0
    assert store.list() == (revoked,)
    with pytest.raises(PenstockError, match="is revoked already"):
        store.revoke(key.id)


def test_an_unknown_id_is_answered_with_the_nearest(store: KeyStore) -> None:
    key, _ = store.create(KeyTerms("laptop"))
    typo = key.id[:-1] + ("0" if key.id[-1] != "0" else "1")

    with pytest.raises(PenstockError, match=f"did you mean {key.id}"):
        store.revoke(typo)


def test_a_discarded_key_leaves_no_trace(store: KeyStore) -> None:
    key, _ = store.create(KeyTerms("laptop"))

    store.discard(key.id)

    assert store.list() == ()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1, "keys": [{"id": 5}]}', '{"version": 2}'])
def test_a_damaged_file_is_an_error_and_is_left_as_it_is(store: KeyStore, path: Path, text: str) -> None:
    path.write_text(text)

    with pytest.raises(PenstockError):
        store.create(KeyTerms("laptop"))

    assert path.read_text() == text


def test_the_ring_finds_a_key_by_its_whole_secret_only(store: KeyStore, path: Path) -> None:
    key, secret = store.create(KeyTerms("laptop"))
    ring = KeyRing(path, [], Clock(), float, unexpected)

    assert ring.find(secret) == key
    assert ring.find(secret[:-1]) is None
    assert ring.find("") is None
    assert ring.find("\udcff") is None


def test_the_ring_holds_the_secrets_of_the_environment(path: Path) -> None:
    ring = KeyRing(path, ["one", "two", "one"], Clock(), float, unexpected)

    found = [ring.find("one"), ring.find("two")]

    assert [(key.id, key.tenant) for key in found if key] == [("env-1", "default"), ("env-2", "default")]


def test_the_ring_follows_the_file_at_its_pace(store: KeyStore, path: Path) -> None:
    clock = Clock()
    ring = KeyRing(path, [], clock, float, unexpected)
    key, secret = store.create(KeyTerms("laptop"))
    before = ring.find(secret)
    clock.now_s += LOOK_EVERY_S
    created = ring.find(secret)
    store.revoke(key.id)
    clock.now_s += LOOK_EVERY_S
    revoked = ring.find(secret)

    assert (before, created, revoked) == (None, key, None)


def test_the_ring_keeps_its_keys_when_the_file_is_damaged_later_and_says_so(
    store: KeyStore, path: Path
) -> None:
    clock = Clock()
    key, secret = store.create(KeyTerms("laptop"))
    told: list[PenstockError] = []
    ring = KeyRing(path, [], clock, float, told.append)
    path.write_text("{")
    clock.now_s += LOOK_EVERY_S

    assert ring.find(secret) == key
    assert ["is damaged" in error.message for error in told] == [True]


def test_a_ring_is_not_made_from_a_damaged_file(path: Path) -> None:
    path.write_text("{")

    with pytest.raises(PenstockError, match="is damaged"):
        KeyRing(path, [], Clock(), float, unexpected)


def test_the_ring_does_not_read_an_unchanged_file_again(store: KeyStore, path: Path) -> None:
    clock = Clock()
    key, secret = store.create(KeyTerms("laptop"))
    ring = KeyRing(path, [], clock, float, unexpected)
    before = path.stat()
    path.write_bytes(b"x" * before.st_size)  # the same inode and size; and now the same mtime
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    clock.now_s += LOOK_EVERY_S

    assert ring.find(secret) == key


def test_a_key_ends_when_it_expires(path: Path) -> None:
    clock, now = Clock(), Clock()
    _, secret = KeyStore(path, now).create(KeyTerms(expires_at=10.0))
    ring = KeyRing(path, [], clock, now, unexpected)
    before = ring.find(secret)
    now.now_s = 10.0
    clock.now_s += LOOK_EVERY_S

    assert (before is not None, ring.find(secret)) == (True, None)


def test_a_rotated_key_goes_on_for_the_overlap_and_its_successor_has_the_same_terms(path: Path) -> None:
    clock, now = Clock(), Clock()
    store = KeyStore(path, now)
    terms = KeyTerms("ci", "search", None, (INFERENCE, ADMIN), Limits(requests_per_minute=5), ("m",))
    old, old_secret = store.create(terms)

    fresh, secret = store.rotate(old.id, 60.0)

    ring = KeyRing(path, [], clock, now, unexpected)
    assert KeyTerms(fresh.name, fresh.tenant, None, fresh.scopes, fresh.limits, fresh.models) == terms
    assert fresh.counted_as == old.counted_as == old.id
    assert (ring.find(old_secret) is not None, ring.find(secret)) == (True, fresh)
    now.now_s = 60.0
    clock.now_s += LOOK_EVERY_S
    assert (ring.find(old_secret), ring.find(secret)) == (None, fresh)


def test_a_rotation_never_lengthens_a_life(path: Path) -> None:
    store = KeyStore(path, float)
    key, _ = store.create(KeyTerms(expires_at=10.0))

    store.rotate(key.id, 60.0)

    assert [one.expires_at for one in store.list()] == [10.0, 10.0]


def test_a_key_that_has_ended_can_not_be_rotated(store: KeyStore) -> None:
    key, _ = store.create(KeyTerms())
    store.revoke(key.id)

    with pytest.raises(PenstockError, match="no longer valid"):
        store.rotate(key.id, 60.0)


def test_keys_of_the_version_before_are_read(path: Path, store: KeyStore) -> None:
    path.write_text(
        '{"version": 1, "keys": [{"id": "a", "name": "", "tenant": "t", "sha256": "", "created_at": 1}]}'
    )

    assert store.list()[0].scopes == (INFERENCE,)
