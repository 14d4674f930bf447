"""API keys: `KeyStore` keeps them in `keys.json`, `KeyRing` answers for each request whose a secret is.

Only digests are kept. A secret holds 256 random bits, so that nobody can try them out, and a plain SHA-256 is
as good as a slow password hash. The secrets of `GATEWAY_API_KEYS` are people's own and live in the
environment alone.
"""

from __future__ import annotations

import difflib
import fcntl
import hashlib
import math
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from penstock.core.errors import PenstockError
from penstock.core.tenancy import TENANT
from penstock.policy.budget import Limits
from penstock.store.home import write_private

KEYS_MAX = 10_000  # the file is read and written whole
FOUND_MAX = 1024  # secrets in use, remembered with their keys
LOOK_EVERY_S = 0.5  # how late a revoked key may still pass
ID_BYTES = 4
SECRET_BYTES = 32
PREFIX = "sk-penstock-"
VERSION = 1

INFERENCE = "inference"
ADMIN = "admin"
SCOPES = (INFERENCE, ADMIN)


@dataclass(frozen=True, slots=True)
class Key:
    """An API key: a public `id`, and the digest of its secret.

    Args:
        revoked_at: seconds since the epoch; None while it was not.
        expires_at: when it ends by itself; None for never.
        scopes: what it opens: `inference`, `admin`.
        limits: of this key, beside those of its tenant.
        models: names of the models that it may use; empty for all that its tenant may.
        lineage: the id of the first key of a rotation; they are counted as one. Empty for its own id.
    """

    id: str
    name: str
    tenant: str
    sha256: str = field(repr=False)
    created_at: float
    revoked_at: float | None = None
    expires_at: float | None = None
    scopes: tuple[str, ...] = (INFERENCE,)
    limits: Limits = field(default_factory=Limits)
    models: tuple[str, ...] = ()
    lineage: str = ""

    @property
    def counted_as(self) -> str:
        """The id under which its use is counted."""
        return self.lineage or self.id

    def is_valid(self, now: float) -> bool:
        """Whether it opens anything at `now`, seconds since the epoch."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class KeyTerms:
    """What a new key is given: see `Key`."""

    name: str = ""
    tenant: str = TENANT
    expires_at: float | None = None
    scopes: tuple[str, ...] = (INFERENCE,)
    limits: Limits = field(default_factory=Limits)
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _File:
    version: int = VERSION
    keys: tuple[Key, ...] = ()


class KeyStore:
    """The keys in one file.

    Args:
        path: `Home.keys`.
        now: seconds since the epoch.
    """

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        self._path = path
        self._now = now

    def create(self, terms: KeyTerms) -> tuple[Key, str]:
        """A new key, and its secret, which is kept nowhere.

        Raises:
            PenstockError: the file is damaged, or full.
        """
        with self._locked():
            keys = self.list()
            key, secret = self._fresh(keys, terms)
            self._write((*keys, key))
        return key, secret

    def rotate(self, key_id: str, overlap_s: float) -> tuple[Key, str]:
        """A new key in the place of an old one, which is valid for `overlap_s` seconds more.

        Raises:
            PenstockError: there is no such key, or it is no longer valid; or the file is damaged, or full.
        """
        with self._locked():
            keys = self.list()
            old = self._valid(key_id, keys)
            terms = KeyTerms(old.name, old.tenant, old.expires_at, old.scopes, old.limits, old.models)
            fresh, secret = self._fresh(keys, terms)
            fresh = replace(fresh, lineage=old.counted_as)
            end = self._now() + overlap_s
            ending = replace(old, expires_at=end if old.expires_at is None else min(end, old.expires_at))
            self._write((*(ending if key.id == key_id else key for key in keys), fresh))
        return fresh, secret

    def list(self) -> tuple[Key, ...]:
        """Every key, revoked ones too, oldest first.

        Raises:
            PenstockError: the file is damaged.
        """
        return _read(self._path)

    def revoke(self, key_id: str) -> Key:
        """The key, which is no longer valid.

        Raises:
            PenstockError: there is no such key, or it was revoked before; or the file is damaged.
        """
        with self._locked():
            keys = self.list()
            key = _named(key_id, keys)
            if key.revoked_at is not None:
                raise PenstockError(f"key {key_id} is revoked already", code="key_revoked")
            revoked = replace(key, revoked_at=self._now())
            self._write(tuple(revoked if key.id == key_id else key for key in keys))
        return revoked

    def discard(self, key_id: str) -> None:
        """Takes a key back whose secret nobody has seen."""
        with self._locked():
            self._write(tuple(key for key in self.list() if key.id != key_id))

    def _fresh(self, keys: tuple[Key, ...], terms: KeyTerms) -> tuple[Key, str]:
        if len(keys) >= KEYS_MAX:
            raise PenstockError(f"{self._path} holds {KEYS_MAX} keys, which is all it may", code="keys_full")
        taken = {key.id for key in keys}
        key_id = next(fresh for fresh in iter(lambda: secrets.token_hex(ID_BYTES), "") if fresh not in taken)
        secret = f"{PREFIX}{key_id}-{secrets.token_urlsafe(SECRET_BYTES)}"
        key = Key(
            key_id,
            terms.name,
            terms.tenant,
            _digest(secret),
            self._now(),
            expires_at=terms.expires_at,
            scopes=terms.scopes,
            limits=terms.limits,
            models=terms.models,
        )
        return key, secret

    def _valid(self, key_id: str, keys: tuple[Key, ...]) -> Key:
        key = _named(key_id, keys)
        if not key.is_valid(self._now()):
            raise PenstockError(
                f"key {key_id} is no longer valid",
                code="key_ended",
                hint="make a new one with `penstock keys create`",
            )
        return key

    def _write(self, keys: tuple[Key, ...]) -> None:
        text = msgspec.json.format(msgspec.json.encode(_File(keys=keys)), indent=1)
        write_private(self._path, text + b"\n")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time; the lock is on the folder, because the file is replaced at each write."""
        fd = os.open(self._path.parent, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


class KeyRing:
    """The keys that are valid now, by secret.

    Args:
        path: `Home.keys`; looked at again when it has changed.
        static_secrets: further secrets, with ids `env-1`, `env-2`... and the default tenant.
        clock: monotonic seconds.
        now: seconds since the epoch, by which keys expire.
        on_problem: told when the file is found damaged later; the keys then stay as they were.

    Raises:
        PenstockError: the file is damaged.
    """

    def __init__(
        self,
        path: Path,
        static_secrets: Iterable[str],
        clock: Callable[[], float],
        now: Callable[[], float],
        on_problem: Callable[[PenstockError], None],
    ) -> None:
        self._path = path
        self._clock = clock
        self._now = now
        self._static = {
            _digest(secret): Key(f"env-{number}", f"env-{number}", TENANT, _digest(secret), 0.0)
            for number, secret in enumerate(dict.fromkeys(static_secrets), start=1)
        }
        self._found: dict[
            str, Key
        ] = {}  # by secret, what was found lately: its digest costs more than the rest
        self._stamp = self._stamp_now()
        self._expires_at = math.inf
        self._keys = self._read()
        self._looked_s = clock()
        self._on_problem = on_problem

    def find(self, secret: str) -> Key | None:
        """The valid key of `secret`, else None.

        A dictionary's comparison stops at the first byte that differs, but what it compares are digests: to
        learn from the time how much of one is right, a caller would have to choose the digest, and SHA-256
        prevents it. Secrets that were right are looked up by a hash too, which is keyed at random.
        """
        self._look()
        key = self._found.get(secret)
        if key is None:
            key = self._keys.get(_digest(secret))
            if key is not None:
                if len(self._found) >= FOUND_MAX:
                    self._found.clear()
                self._found[secret] = key
        return key

    def valid(self) -> list[Key]:
        """Every key that is valid now."""
        self._look()
        now = self._now()
        return [key for key in self._keys.values() if key.is_valid(now)]

    def _look(self) -> None:
        now_s = self._clock()
        if now_s - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now_s
        stamp = self._stamp_now()
        if stamp == self._stamp and self._now() < self._expires_at:
            return
        self._stamp = stamp
        try:
            self._keys = self._read()
            self._found.clear()
        except PenstockError as error:
            self._on_problem(error)

    def _read(self) -> dict[str, Key]:
        now = self._now()
        stored = {key.sha256: key for key in _read(self._path) if key.is_valid(now)}
        self._expires_at = min((key.expires_at or math.inf for key in stored.values()), default=math.inf)
        return stored | self._static

    def _stamp_now(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino, stat.st_size


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _read(path: Path) -> tuple[Key, ...]:
    hint = f"restore it from a backup, or move it away and make new keys with `penstock keys create`: {path}"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise PenstockError(f"{path} can't be read: {error.strerror}", code="keys_unreadable") from error
    try:
        file = msgspec.json.decode(data, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PenstockError(f"{path} is damaged: {error}", code="keys_damaged", hint=hint) from error
    if file.version != VERSION:
        raise PenstockError(
            f"{path} has version {file.version}, this Penstock knows {VERSION}",
            code="keys_version",
            hint="use the Penstock that wrote it",
        )
    return file.keys


def _named(key_id: str, keys: tuple[Key, ...]) -> Key:
    key = next((key for key in keys if key.id == key_id), None)
    if key is None:
        raise _unknown(key_id, keys)
    return key


def _unknown(key_id: str, keys: tuple[Key, ...]) -> PenstockError:
    near = difflib.get_close_matches(key_id, [key.id for key in keys if key.revoked_at is None], n=1)
    return PenstockError(
        f"there is no key {key_id!r}" + (f"; did you mean {near[0]}?" if near else ""),
        code="key_unknown",
        hint="`penstock keys list` shows all ids",
    )


def make_admin_key(path: Path) -> str:
    """The key of the admin API in the file at `path`, which is made where it is not there, or empty.

    Raises:
        PenstockError: it can neither be read nor made.
    """
    if not read_admin_key(path):
        try:
            write_private(path, secrets.token_urlsafe(SECRET_BYTES).encode())
        except OSError as error:
            raise PenstockError(
                f"{path} can't be written: {error.strerror}",
                code="admin_key_unusable",
                hint="make room or make it writable, or set gateway.admin_key",
            ) from error
    made = read_admin_key(path)
    if not made:
        raise PenstockError(f"{path} can't be read", code="admin_key_unusable", hint="make it readable")
    return made


def read_admin_key(path: Path) -> str:
    """The key of the admin API in the file at `path`; empty where it can't be read."""
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
