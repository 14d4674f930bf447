"""Answers of many machines: `RedisAnswers` keeps them in Redis, and falls back to another store without it.

An entry is a hash: `f` the fingerprint, `o` the owner while its request runs, then `a` the answer, and `m` its
place in the index. The index, a sorted set by end of life, and a count of bytes bound what is kept.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import count
from typing import TypeVar, cast

from redis.asyncio import Redis, RedisCluster

from penstock.store.answers import (
    BYTES_MAX,
    ENTRIES_MAX,
    LEASE_S,
    TTL_S,
    VERSION,
    Answer,
    AnswersError,
    Claim,
    Claimed,
    Known,
    Mismatch,
    Running,
    Stored,
    packed,
    unpacked,
)
from penstock.store.answers_local import LocalAnswers
from penstock.store.redis_link import AwayError, Command, RedisLink, Script

TIMEOUT_S = 0.25  # an answer is larger than an account
CLAIMS_AT_ONCE = 500
PROBE_MS = 1000
INLINE_BYTES_MAX = 32 * 2**10  # about half a millisecond to compress
_OWNER = "redis:"

Given = TypeVar("Given")
Result = TypeVar("Result")

# ARGV: fingerprint, owner, lease_ms
_CLAIM = Script.of("""
local f, o, a = unpack(redis.call('HMGET', KEYS[1], 'f', 'o', 'a'))
if not f then
  redis.call('HSET', KEYS[1], 'f', ARGV[1], 'o', ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return {'claimed'}
end
if f ~= ARGV[1] then return {'mismatch'} end
if o then return {'running'} end
return {'stored', a}
""")

# ARGV: lease_ms, then the owner for each key
_RENEW = Script.of("""
for at, key in ipairs(KEYS) do
  if redis.call('HGET', key, 'o') == ARGV[at + 1] then redis.call('PEXPIRE', key, ARGV[1]) end
end
return {}
""")

# ARGV: owner
_RELEASE = Script.of("""
if redis.call('HGET', KEYS[1], 'o') == ARGV[1] then redis.call('DEL', KEYS[1]) end
return {}
""")

# KEYS: entry, index, bytes. ARGV: owner, answer, member, ttl_ms, entries_max, bytes_max, prefix of entries.
# A member is `size:owner:digest`; the entry of one that goes may be another's by now, and is left alone then.
_COMPLETE = Script.of("""
local entry, index, total = unpack(KEYS)
if redis.call('HGET', entry, 'o') ~= ARGV[1] then return {0} end
redis.call('HDEL', entry, 'o')
redis.call('HSET', entry, 'a', ARGV[2], 'm', ARGV[3])
redis.call('PEXPIRE', entry, ARGV[4])
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', index, now_ms + ARGV[4], ARGV[3])
local bytes = redis.call('INCRBY', total, #ARGV[2])
local entries = redis.call('ZCARD', index)
while entries > 0 do
  local member, until_ms = unpack(redis.call('ZRANGE', index, 0, 0, 'WITHSCORES'))
  local fits = entries <= tonumber(ARGV[5]) and bytes <= tonumber(ARGV[6])
  if fits and tonumber(until_ms) > now_ms then break end
  redis.call('ZREM', index, member)
  local size, digest = string.match(member, '^(%d+):.*:(%x+)$')
  bytes = redis.call('DECRBY', total, size)
  entries = entries - 1
  local old = ARGV[7] .. digest
  if redis.call('HGET', old, 'm') == member then redis.call('DEL', old) end
end
local last_ms = redis.call('ZRANGE', index, -1, -1, 'WITHSCORES')[2] or now_ms
redis.call('PEXPIREAT', index, last_ms)
redis.call('PEXPIREAT', total, last_ms)
return {1}
""")

# One that writes: a Redis may answer and not store. ARGV: ms
_PROBE = Script.of("redis.call('SET', KEYS[1], '1', 'PX', ARGV[1]) return {}")

# One that is damaged.
_FORGET = Script.of(
    "if redis.call('HEXISTS', KEYS[1], 'a') == 1 then redis.call('DEL', KEYS[1]) end return {}"
)

_ALL = (_CLAIM, _RENEW, _RELEASE, _COMPLETE, _PROBE, _FORGET)


class RedisAnswers:
    """Answers in Redis, shared by all gateways with the same `prefix`.

    While Redis is away the fallback decides. What it keeps then is found for as long as this gateway runs, also
    when Redis is back; other machines do not see it.

    Args:
        client_or_url: `redis://`, `rediss://` or `unix://`; a client that is passed in is not closed, and must
            not decode responses.
        prefix: begins every key, as its hash tag.
        fallback: of this machine.
        ttl_s, entries_max, bytes_max, lease_s: as for `LocalAnswers`.
        timeout_s: the longest wait for Redis.
        on_state: told once for each change: False and why, or True and nothing.
    """

    def __init__(
        self,
        client_or_url: Redis | RedisCluster | str,
        prefix: str,
        fallback: LocalAnswers,
        *,
        ttl_s: float = TTL_S,
        entries_max: int = ENTRIES_MAX,
        bytes_max: int = BYTES_MAX,
        lease_s: float = LEASE_S,
        timeout_s: float = TIMEOUT_S,
        on_state: Callable[[bool, str], None] = lambda _up, _why: None,
    ) -> None:
        self._prefix = f"{{{prefix}}}:answers:{VERSION}:"
        self._fallback = fallback
        self._ttl_ms = str(max(1, round(ttl_s * 1000)))
        self._lease_ms = str(max(1, round(lease_s * 1000)))
        self._bytes_max = bytes_max
        self._entries_max = entries_max
        self._name = f"{_OWNER}{secrets.token_hex(8)}"
        self._numbers = count()
        self._used_fallback = False
        self._covered: dict[
            str, Claim
        ] = {}  # claims of ours in Redis, by owner, that the fallback holds as well
        self._link = RedisLink(
            client_or_url,
            scripts=_ALL,
            probe=Command(_PROBE, (f"{self._prefix}probe",), (str(PROBE_MS),)),
            timeout_s=timeout_s,
            on_state=on_state,
        )

    @property
    def up(self) -> bool:
        """Whether Redis decides, and not the fallback."""
        return self._link.up

    async def start(self) -> None:
        """Connects; where that fails, the fallback decides from the first request on."""
        await self._link.start()

    async def claim(self, tenant: str, key: bytes, fingerprint: bytes) -> Claimed | Known:
        """Claims the key, or tells what is known of it."""
        if self._used_fallback and self._link.up:
            with suppress(AnswersError):
                known = await self._fallback.find(tenant, key, fingerprint)
                if known is not None:
                    return known
        try:
            return await self._claim(tenant, key, fingerprint)
        except AwayError:
            self._used_fallback = True
            return await self._fallback.claim(tenant, key, fingerprint)

    async def renew(self, claims: Sequence[Claim]) -> None:
        """Prolongs the leases of claims; while Redis is away, the fallback guards their keys on this machine."""
        ours = [claim for claim in claims if claim.owner.startswith(_OWNER)]
        if self._link.up:
            for first in range(0, len(ours), CLAIMS_AT_ONCE):
                some = ours[first : first + CLAIMS_AT_ONCE]
                keys = [self._entry(claim) for claim in some]
                self._link.post(Command(_RENEW, keys, [self._lease_ms, *(claim.owner for claim in some)]))
        else:
            for claim in ours:
                await self._cover(claim)
        others = [claim for claim in claims if not claim.owner.startswith(_OWNER)]
        others += self._covered.values()
        if others:
            await self._fallback.renew(others)

    async def complete(self, claim: Claim, answer: Answer | None) -> None:
        """Keeps the answer in place of the claim, None for one that was too large; nothing where that was lost."""
        if not claim.owner.startswith(_OWNER):
            await self._fallback.complete(claim, answer)
            return
        data = b"" if answer is None else await _elsewhere(len(answer.body), packed, answer)
        if len(data) > self._bytes_max:
            data = b""
        digest = self._digest(claim)
        args = (
            claim.owner,
            data,
            f"{len(data)}:{claim.owner}:{digest}",
            self._ttl_ms,
            str(self._entries_max),
            str(self._bytes_max),
            self._prefix,
        )
        keys = (self._entry(claim), f"{self._prefix}index", f"{self._prefix}bytes")
        # the link takes bytes as it takes text
        command = Command(_COMPLETE, keys, cast("Sequence[str]", args))
        try:
            await self._link.call(command)
        except AwayError:
            if self._link.up:  # only late: other machines shall find it too
                self._link.post(command)
            await self._cover(claim)
            covering = self._covered.pop(claim.owner, None)
            if covering is not None:
                await self._fallback.complete(covering, answer)
        else:
            await self._uncover(claim)

    async def release(self, claim: Claim) -> None:
        """Frees the key; nothing where the claim was lost. Redis is told without waiting for it."""
        if not claim.owner.startswith(_OWNER):
            await self._fallback.release(claim)
            return
        self._link.post(self._command(_RELEASE, claim, claim.owner))
        await self._uncover(claim)

    async def close(self) -> None:
        """Closes the connection, and the fallback."""
        await self._link.close()
        await self._fallback.close()

    async def _claim(self, tenant: str, key: bytes, fingerprint: bytes) -> Claimed | Known:
        claim = Claim(tenant, key, fingerprint, f"{self._name}:{next(self._numbers)}")
        undo = self._command(_RELEASE, claim, claim.owner)
        found, *rest = await self._link.call(
            self._command(_CLAIM, claim, fingerprint.hex(), claim.owner, self._lease_ms, repair=undo)
        )
        if found == b"claimed":
            return Claimed(claim)
        if found == b"mismatch":
            return Mismatch()
        if found == b"running":
            return Running()
        if not rest[0]:
            return Stored(None)
        answer = await _elsewhere(len(rest[0]), unpacked, rest[0])
        if answer is not None:
            return Stored(answer)
        await self._link.call(self._command(_FORGET, claim))
        return await self._claim(tenant, key, fingerprint)

    async def _cover(self, claim: Claim) -> None:
        if claim.owner not in self._covered:
            self._used_fallback = True
            found = await self._fallback.claim(claim.tenant, claim.key, claim.fingerprint)
            if isinstance(found, Claimed):
                self._covered[claim.owner] = found.claim

    async def _uncover(self, claim: Claim) -> None:
        covering = self._covered.pop(claim.owner, None)
        if covering is not None:
            await self._fallback.release(covering)

    def _command(self, script: Script, claim: Claim, *args: str, repair: Command | None = None) -> Command:
        return Command(script, (self._entry(claim),), args, repair)

    def _entry(self, claim: Claim) -> str:
        return self._prefix + self._digest(claim)

    def _digest(self, claim: Claim) -> str:
        return sha256(claim.tenant.encode() + b"\0" + claim.key).hexdigest()


async def _elsewhere(size_bytes: int, work: Callable[[Given], Result], given: Given) -> Result:
    """`work(given)`, in a thread where it would hold up the event loop."""
    return work(given) if size_bytes <= INLINE_BYTES_MAX else await asyncio.to_thread(work, given)
