"""The Lua that runs inside the server. Each script is atomic, takes its time from the server, and declares its keys.

Amounts are integers: tokens, requests, and nano-USD. Sums are the server's own 64-bit integers; where Lua compares sums
or merges the amounts of a batch they are doubles, which are exact up to 2**53 (nine million USD).
"""

import hashlib


class Script:
    """One script and its SHA-1, by which a server that has seen it runs it."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


RECORD = Script("""
-- KEYS: one an event, one a scope, one an index.
-- ARGV: JSON; ms for which an event is remembered; s for which a scope is kept; a name a scope.
-- JSON: [[[scope, ...], {field: amount, ...}] an event], [the key of the scope's index, 0 none, -1 never expires]
local events, indexes = unpack(cjson.decode(ARGV[1]))
local sums, is_new, fresh = {}, {}, 0
for scope in ipairs(indexes) do
  local size = redis.pcall('HLEN', KEYS[#events + scope])
  if type(size) == 'table' then return redis.error_reply('REFUSED ' .. size.err) end -- before anything is written
  is_new[scope] = size == 0
end
for number, event in ipairs(events) do
  if redis.call('SET', KEYS[number], '1', 'NX', 'PX', ARGV[2]) then
    fresh = fresh + 1
    for _, scope in ipairs(event[1]) do
      local sum = sums[scope] or {}
      sums[scope] = sum
      for field, amount in pairs(event[2]) do sum[field] = (sum[field] or 0) + amount end
    end
  end
end
local today = math.floor(redis.call('TIME')[1] / 86400)
for scope, sum in pairs(sums) do
  local key, index = KEYS[#events + scope], indexes[scope]
  for field, amount in pairs(sum) do redis.call('HINCRBY', key, field, amount) end
  local first = is_new[scope]
  if index > 0 and redis.call('ZADD', KEYS[index], 'GT', 'CH', today, ARGV[3 + scope]) == 1 then
    first = true -- of the day
    redis.call('ZREMRANGEBYSCORE', KEYS[index], '-inf', '(' .. today - math.floor(ARGV[3] / 86400))
    redis.call('EXPIRE', KEYS[index], ARGV[3] + 86400)
  end
  if first and index >= 0 then redis.call('EXPIRE', key, ARGV[3] + 86400) end
end
return fresh
""")

MONTH = """
local function month(days) -- a number that changes with the calendar month (UTC), of the days since 1970
  local z = days + 719468
  local era = math.floor(z / 146097)
  local of_era = z - era * 146097
  local leaps = math.floor(of_era / 1460) - math.floor(of_era / 36524) + math.floor(of_era / 146096)
  local year = math.floor((of_era - leaps) / 365)
  local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  return (era * 400 + year) * 12 + math.floor((5 * of_year + 2) / 153)
end
"""

_BUDGET = (
    MONTH
    + """
-- KEYS: the scope's sums; its open reservations by the ms at which they expire; what each of those holds; that this
-- reservation is settled.
-- ARGV: s for which an idle scope is kept; the reservation.
local AMOUNTS = {'cost', 'tokens', 'requests'}
local budget, expiries, open = KEYS[1], KEYS[2], KEYS[3]
local clock = redis.call('TIME')
local now, seconds = clock[1] * 1000 + math.floor(clock[2] / 1000), tonumber(clock[1])
local windows = {hour = math.floor(seconds / 3600), day = math.floor(seconds / 86400)}
windows.month = month(windows.day)

local function add(sums, amounts, sign)
  for number, name in ipairs(AMOUNTS) do
    if amounts[number] ~= '0' then redis.call('HINCRBY', budget, sums .. ':' .. name, sign .. amounts[number]) end
  end
end

local function is_current(window) return redis.call('HGET', budget, window) == tostring(windows[window]) end

local function read(sums)
  if windows[sums] and not is_current(sums) then return {'0', '0', '0'} end
  local found = redis.call('HMGET', budget, sums .. ':cost', sums .. ':tokens', sums .. ':requests')
  for number = 1, 3 do found[number] = found[number] or '0' end
  return found
end

local function let_go(reservation)
  local held = redis.call('HGET', open, reservation)
  if held then
    redis.call('HDEL', open, reservation)
    redis.call('ZREM', expiries, reservation)
    add('held', {string.match(held, '(%d+) (%d+) (%d+)')}, '-')
  end
  return held
end

local function touch()
  for number = 1, 3 do redis.call('EXPIRE', KEYS[number], ARGV[1]) end
end

for _, due in ipairs(redis.call('ZRANGEBYSCORE', expiries, '-inf', now, 'LIMIT', 0, 1000)) do let_go(due) end
"""
)

RESERVE = Script(
    _BUDGET
    + """
-- ARGV 3-5: amounts; 6: the sums that the limits are for; 7-9: limits, '' for none; 10: ms until it expires
if redis.call('EXISTS', KEYS[4]) == 1 then -- also when a server that hung gets to it late
  return redis.error_reply('REFUSED reservation ' .. ARGV[2] .. ' is settled: each call has a name of its own')
end
local amounts, spent, exceeded = {ARGV[3], ARGV[4], ARGV[5]}, read(ARGV[6]), ''
local again = redis.call('HGET', open, ARGV[2])
let_go(ARGV[2])
local held = read('held')
for number = 3, 1, -1 do
  local limit = ARGV[6 + number]
  if limit ~= '' and spent[number] + held[number] + amounts[number] > tonumber(limit) then
    exceeded = AMOUNTS[number]
  end
end
local keep = exceeded == '' and table.concat(amounts, ' ') or again
if keep then
  add('held', {string.match(keep, '(%d+) (%d+) (%d+)')}, '')
  redis.call('HSET', open, ARGV[2], keep)
  redis.call('ZADD', expiries, now + ARGV[10], ARGV[2])
end
touch()
return {exceeded, spent[1], spent[2], spent[3], held[1], held[2], held[3]}
"""
)

SETTLE = Script(
    _BUDGET
    + """
-- ARGV 3-5: what was really spent; 6: ms for which it is remembered
if redis.call('EXISTS', KEYS[4]) == 1 then return 0 end
let_go(ARGV[2])
add('all', {ARGV[3], ARGV[4], ARGV[5]}, '')
for name, current in pairs(windows) do
  if is_current(name) then
    add(name, {ARGV[3], ARGV[4], ARGV[5]}, '')
  else
    redis.call('HSET', budget, name, current,
      name .. ':cost', ARGV[3], name .. ':tokens', ARGV[4], name .. ':requests', ARGV[5])
  end
end
touch()
redis.call('SET', KEYS[4], '1', 'PX', ARGV[6])
return 1
"""
)

RELEASE = Script(_BUDGET + "return let_go(ARGV[2]) and 1 or 0")

SPENT = Script(
    _BUDGET
    + """
-- ARGV 3: the sums
local spent, held = read(ARGV[3]), read('held')
return {spent[1], spent[2], spent[3], held[1], held[2], held[3]}
"""
)
