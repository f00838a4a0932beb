-- store.lua: how the verbs read and write. Shared by every script of the library.
--
-- KEYS   the same eight for every verb that works on a wallet, in the order of keys.py: all of one partition.
-- ARGV   one: the request, a msgpack map (holds/messages.py has its fields).
-- Reply  one msgpack map with `status`. "OK" or what stopped the verb; the rest depends on the verb.
-- Units  integers in the asset's smallest unit; Lua numbers are doubles, exact up to 2^53-1.
-- Times  milliseconds of Redis TIME, which stands still inside a script. 0 = never / not yet.
--
-- A verb first reads and decides, changing only Lua tables. Writes are queued and performed by `save` (verbs.lua) at
-- the very end, so nothing that can fail stands between two of them: scripts are isolated, but not rolled back. A verb
-- that only reads does the same and never saves.

local META, OUTBOX, DUE, WALLET, HOLDS, OPEN, SETTLED, CAPS = 1, 2, 3, 4, 5, 6, 7, 8

-- A grant, as grants.lua explains it.
local ID, FREE, PINNED, PRIORITY, EXPIRE, SOURCE, EFFECTIVE, CREATE, VOIDED = 1, 2, 3, 4, 5, 6, 7, 8, 9

local UNITS_MAX = 9007199254740991 -- 2^53-1
local EVENT_VERSION = 1
local COUNTERS_AT_ONCE = 1000 -- in one HMGET or HSET: Lua passes a few thousand arguments at most

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- When an event was appended, by the outbox: its ids never go back, the clock may be set back.
local function appended_ms(event_id)
  return tonumber(event_id:match('^%d+'))
end

-- Guards against our own bugs: raised before any write, so it costs an error and no money.
local function checked(units)
  if units ~= math.floor(units) or units > UNITS_MAX or units < -UNITS_MAX then
    error('units out of range: ' .. string.format('%.17g', units))
  end
  return units
end

-- An amount from a request: never negative.
local function checked_amount(units)
  if checked(units) < 0 then
    error('an amount is negative: ' .. string.format('%.17g', units))
  end
  return units
end

-- The amounts of a request name each asset once: checks look at one amount at a time.
local function check_distinct(amounts)
  local seen = {}
  for _, amount in ipairs(amounts) do
    if seen[amount.asset] then
      error('an asset is named twice: ' .. amount.asset)
    end
    seen[amount.asset] = true
  end
end

-- Byte order, as sorted sets have it: Lua's < follows the locale in which the store was started.
local function text_before(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then
      return x < y
    end
  end
  return #a < #b
end

local function find_amount(amounts, code)
  for _, amount in ipairs(amounts) do
    if amount.asset == code then
      return amount
    end
  end
  return nil
end

-- The partition was rebuilt since this server learnt its epoch: it must not touch anything.
local function epoch_is_stale(keys, request)
  return redis.call('HGET', keys[META], 'epoch') ~= request.epoch
end

-- Postgres is too far behind: new spending waits, what was approved goes on. 0 = no limit.
local function backlog_is_full(wallet, request)
  local limit = request.outbox_backlog_limit
  return limit > 0 and redis.call('XLEN', wallet.keys[OUTBOX]) > limit
end

local function answer(reply)
  return cmsgpack.pack(reply)
end

-- What is kept says these words by their place in this list: a new one comes last.
local WORDS = {
  'RELEASE', 'COMMIT_FULL', 'REJECT', 'CHARGE_AVAILABLE', 'CHARGE_FULL',
  'PURCHASE', 'PROMOTION', 'TOP_UP', 'REFUND', 'ADJUSTMENT', 'ENFORCE', 'OBSERVE',
  'PER_REQUEST', 'MINUTE', 'HOUR', 'DAY', 'WEEK', 'MONTH', 'LIFETIME',
}
for place = 1, #WORDS do
  WORDS[WORDS[place]] = place
end

-- Wallet hash: `head` = {state, sequence, change number, due, loaded, has caps, when its last event was appended,
-- format}, `caps` = the caps if there are any, and the assets.

local FORMAT = 2 -- of everything that is kept of a wallet: with another number, other versions of the scripts refuse it

local function new_wallet(keys, request, now)
  return {
    keys = keys, now = now, tenant_id = request.tenant_id, wallet_id = request.wallet_id,
    assets = {}, writes = {}, removals = {}, lines = {}, cap_usage = {}, periods = {}, counters = {}, counted = {},
    forget = {}, appended_ms = 0,
  }
end

local function open_wallet(keys, request)
  local packed = redis.call('HGET', keys[WALLET], 'head')
  if not packed then
    return nil
  end
  local head, wallet = cmsgpack.unpack(packed), new_wallet(keys, request, now_ms())
  if head[8] ~= FORMAT then
    error({ err = 'TRYAGAIN the wallet is of another version of the scripts' }) -- a newer server can serve the call
  end
  wallet.state = head[1]
  wallet.sequence = head[2]
  wallet.change_number = head[3]
  wallet.due_ms = head[4] -- when the sweep looks at this wallet next; never later than something is due
  wallet.loaded_ms = head[5]
  wallet.has_caps = head[6]
  wallet.appended_ms = head[7]
  return wallet
end

local function queue(wallet, ...)
  wallet.writes[#wallet.writes + 1] = { ... }
end

-- Takes something out of a key that is gone when it was the last: after all other writes, each thing once and only what
-- is there. While a slot of a cluster is MIGRATING, Valkey stops a script at a key that it has emptied itself.
local function queue_removal(wallet, ...)
  wallet.removals[#wallet.removals + 1] = { ... }
end

-- The sweep must look at this wallet no later than `due_ms`; 0 asks for nothing.
local function due_by(wallet, due_ms)
  if due_ms ~= 0 and (wallet.due_ms == 0 or due_ms < wallet.due_ms) then
    wallet.due_ms = due_ms
    queue(wallet, 'ZADD', wallet.keys[DUE], due_ms, wallet.tenant_id .. '|' .. wallet.wallet_id)
  end
end

-- One line of the event that is being made: units of a grant ("" = debt) that moved.
local function add_line(wallet, kind, asset, units, grant_id)
  wallet.lines[#wallet.lines + 1] = { kind, asset, units, grant_id }
end

-- Makes the wallet's next event of the lines so far. `event` has kind and what else ledger/events.py lists.
local function record(wallet, event)
  wallet.sequence = wallet.sequence + 1
  queue(wallet, 'XADD', wallet.keys[OUTBOX], '*', 'e', cmsgpack.pack({
    EVENT_VERSION,
    event.kind,
    wallet.tenant_id,
    wallet.wallet_id,
    wallet.sequence,
    wallet.now,
    event.change_number or 0,
    event.hold_id or '',
    wallet.lines,
    event.amounts or {},
    event.subjects or {},
    event.labels or '',
    event.hold_create_ms or 0,
    event.late or false,
    event.final ~= false,
    event.refund_id or '',
    wallet.cap_usage,
  }))
  wallet.lines = {}
  wallet.cap_usage = {}
end

-- What time did by itself: grants that became effective or expired, also by what `hold` gave back. Nothing to record,
-- no event.
local function record_time(wallet, hold)
  if #wallet.lines > 0 then
    if hold then
      hold.wallet_sequence = wallet.sequence + 1
    end
    record(wallet, { kind = 'TIME', hold_id = hold and hold.hold_id })
  end
end

-- Reads the counters of caps that this script does not know yet.
local function read_counters(wallet, counters)
  local unread = {}
  for _, counter in ipairs(counters) do
    if not wallet.counters[counter] then
      unread[#unread + 1] = counter
    end
  end
  for first = 1, #unread, COUNTERS_AT_ONCE do
    local last = math.min(first + COUNTERS_AT_ONCE - 1, #unread)
    for i, units in ipairs(redis.call('HMGET', wallet.keys[CAPS], unpack(unread, first, last))) do
      wallet.counters[unread[first + i - 1]] = tonumber(units or 0)
    end
  end
end

-- Queues what was counted in the counters of caps: all of them in one HSET, but those that may be too large to be exact
-- here.
local function keep_counters(wallet)
  local counters, fields = {}, {}
  for counter in pairs(wallet.counted) do
    counters[#counters + 1] = counter
  end
  read_counters(wallet, counters)
  for i, counter in ipairs(counters) do
    local before, change = wallet.counters[counter], wallet.counted[counter]
    if math.max(before, before + change) > UNITS_MAX then
      queue(wallet, 'HINCRBY', wallet.keys[CAPS], counter, change)
    else
      fields[#fields + 1] = counter
      fields[#fields + 1] = before + change
    end
    if #fields == 2 * COUNTERS_AT_ONCE or (i == #counters and #fields > 0) then
      queue(wallet, 'HSET', wallet.keys[CAPS], unpack(fields))
      fields = {}
    end
  end
end
