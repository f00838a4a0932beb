-- store.lua: how the verbs read and write. Shared by every script of the library.
--
-- KEYS   the same eight for every verb that works on a wallet, in the order of keys.py: all of one partition.
-- ARGV   one: the request, a msgpack map (holds/messages.py has its fields).
-- Reply  one msgpack map with `status`. "OK" or what stopped the verb; the rest depends on the verb.
-- Units  integers in the asset's smallest unit; Lua numbers are doubles, exact up to 2^53-1.
-- Times  milliseconds of Redis TIME, which stands still inside a script. 0 = never / not yet.
--
-- A verb first reads and decides, changing only Lua tables. Writes are queued and performed by `save` at the very
-- end, so nothing that can fail stands between two of them: scripts are isolated, but not rolled back. A verb that
-- only reads does the same and never saves.

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
    assets = {}, writes = {}, lines = {}, cap_usage = {}, periods = {}, counters = {}, counted = {}, forget = {},
    appended_ms = 0,
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

-- An asset is two fields of the wallet hash: `USD` has its numbers and the head of its stack, which is all that most
-- calls need; `USD+`, if there is more, has the rest of the stack and the scheduled grants, in which time next changes
-- something at `rest_ms`. Of the head too a call unpacks only the grants that it needs: `grants` are the first of the
-- stack, up to `head_place` in the text `head`, and `unread_units` are the units of all the others. Once the rest is
-- read, `grants` is the whole stack and `scheduled` is there.

-- Grants with free units in the head of a stack. Those before them whose units are all pinned are in the head too: most
-- calls find free units there until these are used up. A stack of at most twice as many is all head: reading a field
-- costs as much as a few grants.
local HEAD_GRANTS = 4
local REST = '+'

local function sooner(one, other)
  return (one == 0 or (other ~= 0 and other < one)) and other or one
end

-- When a scheduled grant can begin. One that is effective at once (0) and waits for room is due: 0 would mean never.
local function begins_ms(grant)
  return math.max(1, grant[EFFECTIVE])
end

-- Grants are kept as one text, a record after the other: id (it has no zero byte), free, pinned, priority, expire_ms,
-- source, effective_ms, create_ms, voided. A time has 6 bytes, enough until the year 10889.
local GRANT = '<sddi4I6BI6I6B'

local function pack_grants(grants)
  local records = {}
  for i, g in ipairs(grants) do
    records[i] = struct.pack(
      GRANT, g[ID], g[FREE], g[PINNED], g[PRIORITY], g[EXPIRE], WORDS[g[SOURCE]], g[EFFECTIVE], g[CREATE],
      g[VOIDED] and 1 or 0
    )
  end
  return table.concat(records)
end

-- Adds the grant at a place of a text to a list. Returns the place of the next one, and the grant.
local function unpack_grant(grants, text, place)
  local id, free, pinned, priority, expire_ms, source, effective_ms, create_ms, voided, next_place =
    struct.unpack(GRANT, text, place)
  local grant = { id, free, pinned, priority, expire_ms, WORDS[source], effective_ms, create_ms, voided == 1 }
  grants[#grants + 1] = grant
  return next_place, grant
end

local function has_unread_head(asset)
  return asset.head_place <= #asset.head
end

-- Reads one more grant of the head, if there is one.
local function read_grant(asset)
  if has_unread_head(asset) then
    local next_place, grant = unpack_grant(asset.grants, asset.head, asset.head_place)
    asset.head_place = next_place
    asset.unread_units = asset.unread_units - grant[FREE] - grant[PINNED]
    return true
  end
  return false
end

local function unpack_asset(packed)
  local free, pinned, debt, overdraft_limit, overdraft_held, next_ms, units, has_rest, rest_ms, head =
    cmsgpack.unpack(packed)
  return {
    free = free, pinned = pinned, debt = debt, overdraft_limit = overdraft_limit, overdraft_held = overdraft_held,
    next_ms = next_ms, grants = {}, head = head, head_place = 1, unread_units = units, rest_ms = rest_ms,
    has_rest = has_rest, scheduled = not has_rest and {} or nil,
  }
end

-- Reads the assets of amounts that are not known yet. False: the wallet never had any.
local function read_assets(wallet, amounts)
  local codes = {}
  for _, amount in ipairs(amounts) do
    if wallet.assets[amount.asset] == nil then
      codes[#codes + 1] = amount.asset
    end
  end
  if #codes > 0 then
    for i, packed in ipairs(redis.call('HMGET', wallet.keys[WALLET], unpack(codes))) do
      wallet.assets[codes[i]] = packed and unpack_asset(packed)
    end
  end
end

-- Reads all that there is of an asset.
local function read_rest(wallet, code, asset)
  while read_grant(asset) do end
  if not asset.scheduled then
    local rest, scheduled = cmsgpack.unpack(redis.call('HGET', wallet.keys[WALLET], code .. REST))
    asset.head, asset.head_place = rest, 1
    while read_grant(asset) do end
    asset.scheduled, asset.rest_ms = {}, 0
    local place = 1
    while place <= #scheduled do
      place = unpack_grant(asset.scheduled, scheduled, place)
    end
  end
end

-- Parts a whole stack again. Returns the rest, packed; nil if there is none.
local function cut_rest(asset)
  local rest, free_grants, is_long = {}, 0, #asset.grants > 2 * HEAD_GRANTS
  for place, grant in ipairs(asset.grants) do
    if is_long and free_grants == HEAD_GRANTS then
      rest[#rest + 1] = grant
      asset.grants[place] = nil
      asset.unread_units = asset.unread_units + grant[FREE] + grant[PINNED]
      asset.rest_ms = sooner(asset.rest_ms, grant[FREE] > 0 and grant[EXPIRE] or 0)
    elseif grant[FREE] > 0 then
      free_grants = free_grants + 1
    end
  end
  if asset.scheduled[1] then
    asset.rest_ms = sooner(asset.rest_ms, begins_ms(asset.scheduled[1]))
  end
  return (#rest > 0 or asset.scheduled[1]) and cmsgpack.pack(pack_grants(rest), pack_grants(asset.scheduled)) or nil
end

local function pack_asset(asset, has_rest)
  local units = asset.unread_units
  for _, grant in ipairs(asset.grants) do
    units = units + grant[FREE] + grant[PINNED]
  end
  checked(asset.free + asset.pinned) -- all of it may become free again
  return cmsgpack.pack(
    checked(asset.free), checked(asset.pinned), checked(asset.debt), asset.overdraft_limit,
    checked(asset.overdraft_held), asset.next_ms, units, has_rest, asset.rest_ms,
    pack_grants(asset.grants) .. asset.head:sub(asset.head_place)
  )
end

-- Adds a changed asset to the fields to write.
local function add_asset(wallet, fields, code, asset)
  local has_rest = asset.has_rest
  if asset.scheduled and not has_unread_head(asset) then
    local rest = cut_rest(asset)
    if rest then
      fields[#fields + 1] = code .. REST
      fields[#fields + 1] = rest
    elseif has_rest then
      queue(wallet, 'HDEL', wallet.keys[WALLET], code .. REST)
    end
    has_rest = rest ~= nil
  end
  fields[#fields + 1] = code
  fields[#fields + 1] = pack_asset(asset, has_rest)
end

local function save(wallet)
  if #wallet.lines > 0 then
    error('lines without an event')
  end
  keep_counters(wallet)
  local fields = {}
  for code, asset in pairs(wallet.assets) do
    if asset and asset.changed then
      add_asset(wallet, fields, code, asset)
    end
  end
  -- From here on nothing can fail.
  for _, write in ipairs(wallet.writes) do
    local reply = redis.call(unpack(write))
    if write[1] == 'XADD' then
      wallet.appended_ms = appended_ms(reply)
    end
  end
  redis.call('HSET', wallet.keys[WALLET], 'head', cmsgpack.pack({
    wallet.state, wallet.sequence, wallet.change_number, wallet.due_ms, wallet.loaded_ms, wallet.has_caps,
    wallet.appended_ms, FORMAT,
  }), unpack(fields))
  -- From the last event on if that is later than the clock says: the sweep compares this time with the outbox's ids.
  for hold_id, tombstone_ms in pairs(wallet.forget) do
    local from_ms = math.max(wallet.now, wallet.appended_ms)
    redis.call('ZADD', wallet.keys[SETTLED], from_ms + tombstone_ms, hold_id)
  end
end

local VERBS = {} -- the library's functions, by name

-- `act(wallet, request)` makes the reply; it is asked once the epoch is known to be good and the wallet is here.

-- A verb that saves nothing, unless its `act` does.
local function reads(act)
  return function(keys, args)
    local request = cmsgpack.unpack(args[1])
    if epoch_is_stale(keys, request) then
      return answer({ status = 'STALE_EPOCH' })
    end
    local wallet = open_wallet(keys, request)
    return answer(wallet and act(wallet, request) or { status = 'NOT_LOADED' })
  end
end

-- Saves what was changed on the way to a reply, if anything.
local function saved(wallet, reply)
  if #wallet.writes > 0 then
    save(wallet)
  end
  return reply
end

local function writes(act)
  return reads(function(wallet, request)
    return saved(wallet, act(wallet, request))
  end)
end
