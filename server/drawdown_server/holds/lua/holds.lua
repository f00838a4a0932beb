-- holds.lua: one hold and its life: HELD -> COMMITTED, RELEASED or EXPIRED. No verb of its own.
--
-- All holds of a wallet are fields of one hash. An open hold is also in the sorted set OPEN by its expiry; a
-- settled one is in SETTLED by the time at which it may be forgotten. So every hold is in exactly one of the two,
-- the number of open holds is ZCARD, and nothing that carries money has a TTL.

local EXPIRE_CHUNK = 100  -- due holds read at a time
local EXPIRE_MAX = 1000   -- due holds freed in one call; about 3 ms of script time

-- Stored as an array, to keep an open hold small.
local function pack_hold(hold)
  local amounts = {}
  for i, amount in ipairs(hold.amounts) do
    amounts[i] = {
      amount.asset, amount.authorized, amount.held, amount.debited, amount.uncollected, amount.pins,
    }
  end
  return cmsgpack.pack({
    hold.state, hold.fingerprint, hold.create_ms, hold.expire_ms, hold.settle_ms, hold.overage_policy,
    hold.expiry_action, amounts, hold.subjects, hold.labels, hold.late, hold.wallet_sequence,
  })
end

local function unpack_hold(hold_id, packed)
  local h = cmsgpack.unpack(packed)
  local amounts = {}
  for i, a in ipairs(h[8]) do
    amounts[i] = { asset = a[1], authorized = a[2], held = a[3], debited = a[4], uncollected = a[5], pins = a[6] }
  end
  return {
    hold_id = hold_id, state = h[1], fingerprint = h[2], create_ms = h[3], expire_ms = h[4], settle_ms = h[5],
    overage_policy = h[6], expiry_action = h[7], amounts = amounts, subjects = h[9], labels = h[10], late = h[11],
    wallet_sequence = h[12],
  }
end

local function find_hold(keys, hold_id)
  local packed = redis.call('HGET', keys[HOLDS], hold_id)
  return packed and unpack_hold(hold_id, packed) or nil
end

-- As holds/model.py has it: which grants are pinned stays inside.
local function hold_reply(hold)
  local amounts = {}
  for i, a in ipairs(hold.amounts) do
    amounts[i] = {
      asset = a.asset, authorized = a.authorized, held = a.held, debited = a.debited, uncollected = a.uncollected,
    }
  end
  return {
    hold_id = hold.hold_id, state = hold.state, fingerprint = hold.fingerprint, amounts = amounts,
    create_ms = hold.create_ms, expire_ms = hold.expire_ms, settle_ms = hold.settle_ms, subjects = hold.subjects,
    overage_policy = hold.overage_policy, expiry_action = hold.expiry_action, labels = hold.labels,
    late = hold.late, wallet_sequence = hold.wallet_sequence,
  }
end

local function hold_balances(wallet, hold)
  local balances = {}
  for i, amount in ipairs(hold.amounts) do
    balances[i] = balance_of(amount.asset, asset_of(wallet, amount.asset), false)
  end
  return balances
end

-- Moves a hold to a final state; it is remembered for `tombstone_ms`, so that repeats get the same answer.
local function close_hold(wallet, hold, state, tombstone_ms)
  local forget_ms = wallet.now + tombstone_ms
  hold.state = state
  hold.settle_ms = wallet.now
  queue(wallet, 'HSET', wallet.keys[HOLDS], hold.hold_id, pack_hold(hold))
  queue(wallet, 'ZREM', wallet.keys[OPEN], hold.hold_id)
  queue(wallet, 'ZADD', wallet.keys[SETTLED], forget_ms, hold.hold_id)
  due_by(wallet, forget_ms)
end

-- Gives everything that is still held back to the grants it came from.
local function give_back(wallet, hold)
  for _, amount in ipairs(hold.amounts) do
    if amount.held > 0 then
      settle_pins(asset_of(wallet, amount.asset), amount.pins, 0)
      amount.held = 0
      amount.pins = {}
    end
  end
end

local function is_due(wallet, hold)
  return hold.state == 'HELD' and hold.expire_ms <= wallet.now
end

local function expire_hold(wallet, hold, tombstone_ms)
  give_back(wallet, hold)
  close_hold(wallet, hold, 'EXPIRED', tombstone_ms)
end

-- Frees the next chunk of due holds of this wallet, soonest first. `done` is how many this call has freed before:
-- writes are queued, so those are still in the set and have to be skipped. Returns how many were freed.
local function expire_chunk(wallet, tombstone_ms, done)
  if wallet.due_ms == 0 or wallet.due_ms > wallet.now or done >= EXPIRE_MAX then
    return 0
  end
  local ids = redis.call('ZRANGEBYSCORE', wallet.keys[OPEN], '-inf', wallet.now, 'LIMIT', done, EXPIRE_CHUNK)
  for _, hold_id in ipairs(ids) do
    expire_hold(wallet, find_hold(wallet.keys, hold_id), tombstone_ms)
  end
  return #ids
end
