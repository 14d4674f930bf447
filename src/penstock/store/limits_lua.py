"""The Lua scripts of `RedisLimits`: `policy/budget` once more, for it has to be decided where the accounts are.

Line by line the same arithmetic on the same floats; a property test compares the two. Numbers are written with
17 digits, which no float is lost in.

Each subject has two keys: a hash with its account, and a sorted set with a lease for each request that runs
(`NAME|USD`, by the time at which it runs out). All scripts begin with the same arguments: the time in seconds, or
an empty string for the server's own, and how long a lease lasts.
"""

from __future__ import annotations

from penstock.policy import budget
from penstock.store.redis_link import Script

_CONSTANTS = "".join(
    f"local {name} = {getattr(budget, name)!r}\n"
    for name in (
        "CLOCK_BACK_MAX_S",
        "DAY_S",
        "DEBT_MINUTES_MAX",
        "MINUTE_S",
        "PERIOD_BACK_MAX_S",
        "REQUEST_GRAIN",
        "TOKEN_GRAIN",
        "USD_GRAIN",
    )
)

_ACCOUNT = """
local FULL = math.huge
local FORGET_S = (DEBT_MINUTES_MAX + 1) * MINUTE_S
local FAR_LEASES_MAX = 100
local floor, fmod, max, min = math.floor, math.fmod, math.max, math.min

local lease_s = tonumber(ARGV[2])
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] + time[2] / 1000000
end

local function digits(number)
  return string.format('%.17g', number)
end

local function lease_usd(lease)
  return tonumber(string.match(lease, '|(.*)$')) or 0
end

local function limits_at(first)
  local limits = {
    requests = tonumber(ARGV[first]), tokens = tonumber(ARGV[first + 1]), parallel = tonumber(ARGV[first + 2]),
    day = tonumber(ARGV[first + 3]), month = tonumber(ARGV[first + 4]),
  }
  limits.any = limits.requests or limits.tokens or limits.parallel or limits.day or limits.month
  return limits
end

local function month_end()
  local days = (now - fmod(now, DAY_S)) / DAY_S + 719468
  local era = floor(days / 146097)
  local day = days - era * 146097
  local year = floor((day - floor(day / 1460) + floor(day / 36524) - floor(day / 146096)) / 365)
  local month = floor((5 * (day - (365 * year + floor(year / 4) - floor(year / 100))) + 2) / 153) + 1
  if month == 12 then
    year, month = year + 1, 0
  end
  days = 365 * year + floor(year / 4) - floor(year / 100) + floor(year / 400) + floor((153 * month + 2) / 5)
  return (era * 146097 + days - 719468) * DAY_S
end

local function refilled(level, per_minute, passed_s)
  if level < 0 then
    level = max(level, -DEBT_MINUTES_MAX * per_minute)
  end
  return min(per_minute, level + passed_s * per_minute / MINUTE_S)
end

local function refresh(account, limits)
  if limits.any then
    local passed_s = now - account.at
    if passed_s < 0 then
      if passed_s < -CLOCK_BACK_MAX_S then
        account.at = now
      end
      passed_s = 0
    else
      account.at = now
    end
    if limits.requests then
      account.requests = refilled(account.requests, limits.requests, passed_s)
    end
    if limits.tokens then
      account.tokens = refilled(account.tokens, limits.tokens, passed_s)
    end
  end
  local ends = account.day_ends
  if now < ends - (DAY_S + PERIOD_BACK_MAX_S) or now >= ends then
    if now >= ends then
      account.day = 0
    end
    account.day_ends = ((now - fmod(now, DAY_S)) / DAY_S + 1) * DAY_S
  end
  ends = account.month_ends
  if now < ends - (31 * DAY_S + PERIOD_BACK_MAX_S) or now >= ends then
    if now >= ends then
      account.month = 0
    end
    account.month_ends = month_end()
  end
end

local function count(account)
  account.parallel = redis.call('ZCARD', account.leases)
  if account.parallel == 0 then
    account.reserved = 0
  end
end

local function load(index, limits)
  local key, leases = KEYS[2 * index - 1], KEYS[2 * index]
  local found = redis.call(
    'HMGET', key, 'requests', 'tokens', 'at', 'reserved', 'day', 'day_ends', 'month', 'month_ends')
  local account = {
    key = key, leases = leases, requests = tonumber(found[1]) or FULL, tokens = tonumber(found[2]) or FULL,
    at = tonumber(found[3]) or 0, reserved = tonumber(found[4]) or 0, day = tonumber(found[5]) or 0,
    day_ends = tonumber(found[6]) or 0, month = tonumber(found[7]) or 0, month_ends = tonumber(found[8]) or 0,
  }
  for _, lease in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', digits(now))) do
    redis.call('ZREM', leases, lease)
    account.reserved = max(0, account.reserved - lease_usd(lease))
    account.changed = true
  end
  -- The clock stepped back: no lease lasts longer than a new one.
  local far = '(' .. digits(now + lease_s)
  for _, lease in ipairs(redis.call('ZRANGEBYSCORE', leases, far, '+inf', 'LIMIT', 0, FAR_LEASES_MAX)) do
    redis.call('ZADD', leases, digits(now + lease_s), lease)
  end
  count(account)
  refresh(account, limits)
  return account
end

local function save(account)
  redis.call(
    'HSET', account.key, 'requests', account.requests == FULL and '' or digits(account.requests),
    'tokens', account.tokens == FULL and '' or digits(account.tokens), 'at', digits(account.at),
    'reserved', digits(account.reserved), 'day', digits(account.day), 'day_ends', digits(account.day_ends),
    'month', digits(account.month), 'month_ends', digits(account.month_ends))
  local keep_s = FORGET_S
  if account.month > 0 then
    keep_s = max(keep_s, account.month_ends - now + PERIOD_BACK_MAX_S)
  end
  redis.call('EXPIRE', account.key, floor(keep_s))
  redis.call('EXPIRE', account.leases, floor(lease_s) + 1)
end

local function told(account)
  local parts = {
    account.requests, account.tokens, account.at, account.parallel, account.reserved, account.day,
    account.day_ends, account.month, account.month_ends,
  }
  for i = 1, #parts do
    parts[i] = digits(parts[i])
  end
  return table.concat(parts, ' ')
end
"""

_RESERVE = """
local lease, tokens, usd = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local accounts, granted, reply = {}, 1, {}
for i = 1, #KEYS / 2 do
  local limits = limits_at(1 + 5 * i)
  local account = load(i, limits)
  local more = account.reserved + usd - USD_GRAIN
  if (limits.requests and account.requests + REQUEST_GRAIN < 1)
    or (limits.tokens and account.tokens + TOKEN_GRAIN < tokens)
    or (limits.parallel and account.parallel >= limits.parallel)
    or (limits.day and account.day + more > limits.day)
    or (limits.month and account.month + more > limits.month)
  then
    granted = 0
  end
  account.limits = limits
  accounts[i] = account
  reply[i] = told(account)
end
for _, account in ipairs(accounts) do
  if granted == 1 then
    if account.limits.requests then
      account.requests = account.requests - 1
    end
    if account.limits.tokens then
      account.tokens = account.tokens - tokens
    end
    account.reserved = account.reserved + usd
    redis.call('ZADD', account.leases, digits(now + lease_s), lease)
  end
  save(account)
end
return {granted, digits(now), unpack(reply)}
"""

_END = """
local lease, if_held = ARGV[3], ARGV[4] == '1'
local requests_back, tokens_back, spent = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
for i = 1, #KEYS / 2 do
  local limits = limits_at(3 + 5 * i)
  local account = load(i, limits)
  local held = redis.call('ZREM', account.leases, lease) == 1
  if held then
    account.reserved = max(0, account.reserved - lease_usd(lease))
    count(account)
  end
  if held or not if_held then
    if limits.requests then
      account.requests = min(limits.requests, account.requests + requests_back)
    end
    if limits.tokens then
      account.tokens = min(limits.tokens, account.tokens + tokens_back)
    end
    account.day = account.day + spent
    account.month = account.month + spent
    save(account)
  elseif account.changed then
    save(account)
  end
end
return {}
"""

_RENEW = """
local account = load(1, {})
for i = 3, #ARGV do
  if redis.call('ZADD', account.leases, digits(now + lease_s), ARGV[i]) == 1 then
    account.reserved = account.reserved + lease_usd(ARGV[i])
  end
end
save(account)
return {}
"""

_SPEND = """
local account = load(1, {})
local more = tonumber(ARGV[5])
account.day = max(account.day, tonumber(ARGV[3])) + more
account.month = max(account.month, tonumber(ARGV[4])) + more
save(account)
return {}
"""

_READ = """
local reply = {}
for i = 1, #KEYS / 2 do
  local account = load(i, limits_at(5 * i - 2))
  if account.changed then
    save(account)
  end
  reply[i] = told(account)
end
return {digits(now), unpack(reply)}
"""


def _script(body: str) -> Script:
    return Script.of(_CONSTANTS + _ACCOUNT + body)


# After the time and the lease's length:
RESERVE = _script(_RESERVE)  # lease, tokens, usd, five limits for each subject
END = _script(
    _END
)  # lease, 1 for only if it is held, requests back, tokens back, usd spent, five limits each
RENEW = _script(_RENEW)  # leases of one subject
SPEND = _script(_SPEND)  # at least this day, at least this month, and this more; of one subject
READ = _script(_READ)  # five limits for each subject
ALL = (RESERVE, END, RENEW, SPEND, READ)
