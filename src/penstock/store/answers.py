"""Answers kept by idempotency key: what they are, and `AnswerStore`, what each kind of store can do.

A key is claimed before its request runs. The claim is a lease, which its owner renews until it leaves the answer
or releases the key.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

ANSWER_BYTES_MAX = 8 * 2**20  # of one body; a chat answer is a few kilobytes, its stream some hundred
HEAD_BYTES_MAX = 64 * 2**10
TTL_S = 86_400.0
ENTRIES_MAX = 10_000
BYTES_MAX = 256_000_000
LEASE_S = 30.0
RENEWALS = 3  # of a lease before it runs out

VERSION = 1
_COMPRESSION_LEVEL = 1


class AnswersError(Exception):
    """The store can't be read or written now."""


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """A final answer, as it is given again."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run the request of one key: to be completed or released by the store that gave it."""

    tenant: str
    key: bytes
    fingerprint: bytes
    owner: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """Nobody has run it: the caller shall."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Running:
    """It runs in another process, or under another claim of this one."""


@dataclass(frozen=True, slots=True)
class Stored:
    """It has run; `answer` is None where that was too large to be kept."""

    answer: Answer | None


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The key belongs to another request."""


Known = Running | Stored | Mismatch


class AnswerStore(Protocol):
    """Keeps answers by tenant and key."""

    async def claim(self, tenant: str, key: bytes, fingerprint: bytes) -> Claimed | Known:
        """Claims the key, or tells what is known of it.

        Raises:
            AnswersError: the store is out of reach.
        """

    async def renew(self, claims: Sequence[Claim]) -> None:
        """Prolongs the leases of claims by `LEASE_S` from now; one that was lost stays so.

        Raises:
            AnswersError: the store is out of reach.
        """

    async def complete(self, claim: Claim, answer: Answer | None) -> None:
        """Keeps the answer in place of the claim, None for one that was too large; nothing where that was lost.

        Raises:
            AnswersError: the store is out of reach.
        """

    async def release(self, claim: Claim) -> None:
        """Frees the key, so that the request may be tried again; nothing where the claim was lost.

        Raises:
            AnswersError: the store is out of reach.
        """

    async def close(self) -> None:
        """Gives back what the store holds of the system."""


class LaterAnswers:
    """A store that is made when the first key comes, for few use any and SQLite takes 2 MB.

    Args:
        make: makes it.
    """

    def __init__(self, make: Callable[[], AnswerStore]) -> None:
        self._make = make
        self._store: AnswerStore | None = None

    async def claim(self, tenant: str, key: bytes, fingerprint: bytes) -> Claimed | Known:
        return await self._made.claim(tenant, key, fingerprint)

    async def renew(self, claims: Sequence[Claim]) -> None:
        await self._made.renew(claims)

    async def complete(self, claim: Claim, answer: Answer | None) -> None:
        await self._made.complete(claim, answer)

    async def release(self, claim: Claim) -> None:
        await self._made.release(claim)

    async def close(self) -> None:
        if self._store is not None:
            await self._store.close()

    @property
    def _made(self) -> AnswerStore:
        if self._store is None:
            self._store = self._make()
        return self._store


def packed(answer: Answer) -> bytes:
    """The answer as it is stored."""
    return zlib.compress(msgspec.msgpack.encode(answer), _COMPRESSION_LEVEL)


def unpacked(data: bytes) -> Answer | None:
    """A stored answer; None where it is damaged, or larger than any that we store."""
    try:
        inflating = zlib.decompressobj()
        text = inflating.decompress(data, ANSWER_BYTES_MAX + HEAD_BYTES_MAX)
        return _ANSWER.decode(text) if inflating.eof else None
    except (zlib.error, msgspec.DecodeError, UnicodeDecodeError):
        return None


_ANSWER = msgspec.msgpack.Decoder(Answer)
