-- store.lua: how the verbs read and write. Shared by every script of the library.
--
-- KEYS   the same seven for every verb that works on a wallet, in the order of keys.py: all of one partition.
-- ARGV   one: the request, a msgpack map (holds/messages.py has its fields).
-- Reply  one msgpack map with `status`. "OK" or what stopped the verb; the rest depends on the verb.
-- Units  integers in the asset's smallest unit; Lua numbers are doubles, exact up to 2^53-1.
-- Times  milliseconds of Redis TIME, which stands still inside a script. 0 = never / not yet.
--
-- A verb first reads and decides, changing only Lua tables. Writes are queued and performed by `save` at the very
-- end, so nothing that can fail stands between two of them: scripts are isolated, but not rolled back.

local META, OUTBOX, DUE, WALLET, HOLDS, OPEN, SETTLED = 1, 2, 3, 4, 5, 6, 7

local UNITS_MAX = 9007199254740991 -- 2^53-1
local EVENT_VERSION = 1

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
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

-- The partition was rebuilt since this server learnt its epoch: it must not touch anything.
local function epoch_is_stale(keys, request)
  return redis.call('HGET', keys[META], 'epoch') ~= request.epoch
end

local function answer(reply)
  return cmsgpack.pack(reply)
end

-- Wallet hash: `head` = {state, sequence, change number, due, loaded}, and one packed field per asset code.

local function open_wallet(keys, request)
  local packed = redis.call('HGET', keys[WALLET], 'head')
  if not packed then
    return nil
  end
  local head = cmsgpack.unpack(packed)
  return {
    keys = keys,
    now = now_ms(),
    tenant_id = request.tenant_id,
    wallet_id = request.wallet_id,
    state = head[1],
    sequence = head[2],
    change_number = head[3],
    due_ms = head[4], -- when the sweep looks at this wallet next; never later than something is due
    loaded_ms = head[5],
    assets = {},
    writes = {},
  }
end

local function queue(wallet, ...)
  wallet.writes[#wallet.writes + 1] = { ... }
end

-- Asset field: {available, held, debt, overdraft limit, grants in burn order}.
local function unpack_asset(packed)
  local a = cmsgpack.unpack(packed)
  return { available = a[1], held = a[2], debt = a[3], overdraft_limit = a[4], grants = a[5] }
end

-- The asset of a wallet; nil if the wallet never had any of it.
local function asset_of(wallet, code)
  local asset = wallet.assets[code]
  if asset == nil then
    local packed = redis.call('HGET', wallet.keys[WALLET], code)
    asset = packed and unpack_asset(packed) or false
    wallet.assets[code] = asset
  end
  return asset or nil
end

local function new_asset(wallet, code)
  local asset = { available = 0, held = 0, debt = 0, overdraft_limit = 0, grants = {} }
  wallet.assets[code] = asset
  return asset
end

-- The sweep must look at this wallet no later than `due_ms`.
local function due_by(wallet, due_ms)
  if wallet.due_ms == 0 or due_ms < wallet.due_ms then
    wallet.due_ms = due_ms
    queue(wallet, 'ZADD', wallet.keys[DUE], due_ms, wallet.tenant_id .. '|' .. wallet.wallet_id)
  end
end

-- The next event of this wallet. `event` has kind, lines and what else ledger/events.py lists.
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
    event.lines,
    event.amounts or {},
    event.subjects or {},
    event.labels or '',
    event.hold_create_ms or 0,
    event.late or false,
  }))
end

local function save(wallet)
  local fields = { 'head', cmsgpack.pack({
    wallet.state, wallet.sequence, wallet.change_number, wallet.due_ms, wallet.loaded_ms,
  }) }
  for code, asset in pairs(wallet.assets) do
    if asset and asset.changed then
      checked(asset.available)
      checked(asset.held)
      fields[#fields + 1] = code
      fields[#fields + 1] = cmsgpack.pack({
        asset.available, asset.held, asset.debt, asset.overdraft_limit, asset.grants,
      })
    end
  end
  redis.call('HSET', wallet.keys[WALLET], unpack(fields))
  for _, write in ipairs(wallet.writes) do
    redis.call(unpack(write))
  end
end
