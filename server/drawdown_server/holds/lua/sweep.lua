-- sweep.lua: do what time asks for in one wallet: free due holds, let grants become effective and expire, forget old
-- tombstones and counters. Bounded, so call it again while `more`.
--
-- ARGV   request: epoch, tenant_id, wallet_id, tombstone_ms
-- Reply  OK {expired, forgotten, more} | NOT_LOADED | STALE_EPOCH
-- OOM    allowed: it gives memory and money back.

local FORGET_MAX = 1000 -- tombstones looked at in one call; about 3 ms of script time
local RETRY_MS = 1000 -- when to look again at a tombstone that the ledger cannot replace yet
local COUNTER_KEPT_MS = 2 * 86400000 -- counters outlive their window by more than the longest ttl of a hold

-- How far Postgres has recorded the outbox: a function that tells whether all events up to a moment are recorded. The
-- flusher trims up to the last recorded event and keeps that one, so in a trimmed outbox it is the first.
local function recorded_until(wallet)
  if redis.call('EXISTS', wallet.keys[OUTBOX]) == 0 then
    return function() return true end
  end
  local reply, info = redis.call('XINFO', 'STREAM', wallet.keys[OUTBOX]), {}
  for i = 1, #reply, 2 do
    info[reply[i]] = reply[i + 1]
  end
  local first, last = info['first-entry'], info['last-entry']
  local trimmed = info['entries-added'] > info['length']
  local first_ms = first and tonumber(first[1]:match('^%d+'))
  return function(time_ms)
    return trimmed and (not first or first[1] == last[1] or time_ms < first_ms)
  end
end

-- A hold with events is remembered until the ledger can answer for it: all its events, refunds and late progress too,
-- are older than the time at which it may be forgotten. Returns how many were looked at, and how many forgotten.
local function forget_tombstones(wallet)
  local is_recorded, forgotten = recorded_until(wallet), {}
  local due = redis.call(
    'ZRANGEBYSCORE', wallet.keys[SETTLED], '-inf', wallet.now, 'WITHSCORES', 'LIMIT', 0, FORGET_MAX
  )
  for i = 1, #due, 2 do
    local hold_id, forget_ms = due[i], tonumber(due[i + 1])
    if find_hold(wallet, hold_id).wallet_sequence ~= 0 and not is_recorded(forget_ms) then
      queue(wallet, 'ZADD', wallet.keys[SETTLED], wallet.now + RETRY_MS, hold_id)
    else
      forgotten[#forgotten + 1] = hold_id
    end
  end
  if #forgotten > 0 then
    queue_removal(wallet, 'HDEL', wallet.keys[HOLDS], unpack(forgotten))
    queue_removal(wallet, 'ZREM', wallet.keys[SETTLED], unpack(forgotten))
  end
  return #due / 2, #forgotten
end

-- A counter whose window is over is history: give it up once no open hold can still count in it.
local function forget_counters(wallet)
  if not wallet.has_caps then
    return
  end
  for _, counter in ipairs(redis.call('HKEYS', wallet.keys[CAPS])) do
    local window, period = counter:match('|([A-Z]+)|(%d+)$')
    local current = period_of(window, wallet.now - COUNTER_KEPT_MS)
    if tonumber(period) < current then
      queue_removal(wallet, 'HDEL', wallet.keys[CAPS], counter)
    end
  end
end

local function asset_codes(wallet)
  local codes = {}
  for _, field in ipairs(redis.call('HKEYS', wallet.keys[WALLET])) do
    if field ~= 'head' and field ~= 'caps' and field:sub(-1) ~= REST then
      codes[#codes + 1] = field
    end
  end
  table.sort(codes, text_before)
  return codes
end

local function score_at(key, rank)
  local entry = redis.call('ZRANGE', key, rank, rank, 'WITHSCORES')
  return tonumber(entry[2])
end

-- When something is due next. Writes are still queued: what was expired or looked at is skipped by its count.
local function next_due(wallet, expired, looked_at, tombstone_ms)
  local due_ms = score_at(wallet.keys[OPEN], expired) or 0
  due_ms = sooner(due_ms, score_at(wallet.keys[SETTLED], looked_at) or 0)
  due_ms = sooner(due_ms, expired > 0 and wallet.now + tombstone_ms or 0)
  for _, asset in pairs(wallet.assets) do
    local next_ms = asset and asset.next_ms or 0
    -- What is still due waits for room: for the next round.
    due_ms = sooner(due_ms, next_ms ~= 0 and math.max(next_ms, wallet.now + 1) or 0)
  end
  return due_ms
end

function VERBS.sweep(keys, args)
  local request = cmsgpack.unpack(args[1])
  if epoch_is_stale(keys, request) then
    return answer({ status = 'STALE_EPOCH' })
  end
  local wallet = open_wallet(keys, request)
  local member = request.tenant_id .. '|' .. request.wallet_id
  if not wallet then
    redis.call('ZREM', keys[DUE], member)
    return answer({ status = 'NOT_LOADED' })
  end
  local expired = expire_due(wallet, request.tombstone_ms)
  for _, code in ipairs(asset_codes(wallet)) do
    touch_asset(wallet, code)
  end
  local looked_at, forgotten = forget_tombstones(wallet)
  forget_counters(wallet)
  wallet.due_ms = next_due(wallet, expired, looked_at, request.tombstone_ms)
  if forgotten < looked_at then
    wallet.due_ms = sooner(wallet.due_ms, wallet.now + RETRY_MS)
  end
  if wallet.due_ms == 0 then
    queue_removal(wallet, 'ZREM', keys[DUE], member)
  else
    queue(wallet, 'ZADD', keys[DUE], wallet.due_ms, member)
  end
  save(wallet)
  return answer({
    status = 'OK', expired = expired, forgotten = forgotten,
    more = wallet.due_ms ~= 0 and wallet.due_ms <= wallet.now,
  })
end
