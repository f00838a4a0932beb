-- holds.lua: one hold and its life: HELD -> COMMITTED, RELEASED or EXPIRED. No verb of its own.
--
-- All holds of a wallet are fields of one hash. An open hold is also in the sorted set OPEN by its expiry; a
-- settled one is in SETTLED by the time at which it may be forgotten. So every hold is in exactly one of the two,
-- the number of open holds is ZCARD, and nothing that carries money has a TTL.
--
-- An amount of a hold: authorized = reserved in total; pins = {{grant id, units}, ...} still held, in burn order;
-- debits = the same for what was debited and not refunded, in the order of the debits; counts = where it counts in
-- caps, {{cap counters, units, units recorded in the ledger}, ...}: a part for the Authorize and one for each raise in
-- another window. Their units always add up to held + debited - refunded.

local EXPIRE_MAX = 1000 -- due holds freed in one call; about 5 ms of script time

-- Stored as arrays, to keep an open hold small.
local function pack_hold(hold)
  local amounts = {}
  for i, a in ipairs(hold.amounts) do
    amounts[i] = {
      a.asset, a.authorized, a.held, a.debited, a.uncollected, a.refunded, WORDS[a.overage_policy], a.pins, a.debits,
      a.counts,
    }
  end
  return cmsgpack.pack({
    hold.state, hold.fingerprint, hold.create_ms, hold.expire_ms, hold.settle_ms, WORDS[hold.expiry_action],
    amounts, hold.subjects, hold.labels, hold.late, hold.wallet_sequence, hold.way, hold.refunds,
  })
end

local function unpack_hold(hold_id, packed)
  local h, amounts = cmsgpack.unpack(packed), {}
  for i, a in ipairs(h[7]) do
    amounts[i] = {
      asset = a[1], authorized = a[2], held = a[3], debited = a[4], uncollected = a[5], refunded = a[6],
      overage_policy = WORDS[a[7]], pins = a[8], debits = a[9], counts = a[10],
    }
  end
  return {
    hold_id = hold_id, state = h[1], fingerprint = h[2], create_ms = h[3], expire_ms = h[4], settle_ms = h[5],
    expiry_action = WORDS[h[6]], amounts = amounts, subjects = h[8], labels = h[9], late = h[10],
    wallet_sequence = h[11], way = h[12], refunds = h[13],
  }
end

-- A hold that Redis does not know, as the ledger or a token has it: nothing of it is held.
local function recall(hold_id, recorded)
  local amounts = {}
  for i, a in ipairs(recorded.amounts) do
    local counts = {}
    for j, part in ipairs(a.parts) do
      counts[j] = { part[1], part[2], part[2] }
    end
    amounts[i] = {
      asset = a.asset, authorized = a.authorized, held = 0, debited = a.debited, uncollected = a.uncollected,
      refunded = a.refunded, overage_policy = a.overage_policy, pins = {}, debits = a.debits,
      counts = counts,
    }
  end
  return {
    hold_id = hold_id, state = recorded.state, fingerprint = recorded.fingerprint, amounts = amounts,
    create_ms = recorded.create_ms, expire_ms = recorded.expire_ms, settle_ms = recorded.settle_ms,
    subjects = recorded.subjects, expiry_action = recorded.expiry_action, labels = recorded.labels,
    late = recorded.late, wallet_sequence = recorded.wallet_sequence, way = recorded.way, refunds = recorded.refunds,
  }
end

local function find_hold(wallet, hold_id)
  local packed = redis.call('HGET', wallet.keys[HOLDS], hold_id)
  return packed and unpack_hold(hold_id, packed) or nil
end

local function keep_hold(wallet, hold)
  queue(wallet, 'HSET', wallet.keys[HOLDS], hold.hold_id, pack_hold(hold))
end

-- As holds/model.py has it: pins, debits and counters stay inside.
local function hold_reply(hold)
  local amounts = {}
  for i, a in ipairs(hold.amounts) do
    amounts[i] = {
      asset = a.asset, authorized = a.authorized, held = a.held, debited = a.debited, uncollected = a.uncollected,
      refunded = a.refunded, overage_policy = a.overage_policy,
    }
  end
  return {
    hold_id = hold.hold_id, state = hold.state, fingerprint = hold.fingerprint, amounts = amounts,
    create_ms = hold.create_ms, expire_ms = hold.expire_ms, settle_ms = hold.settle_ms, subjects = hold.subjects,
    expiry_action = hold.expiry_action, labels = hold.labels, late = hold.late, wallet_sequence = hold.wallet_sequence,
    way = hold.way,
  }
end

local function hold_balances(wallet, hold)
  local balances = {}
  for i, amount in ipairs(hold.amounts) do
    balances[i] = balance_of(wallet, amount.asset, false)
  end
  return balances
end

local function amount_of(hold, code)
  return find_amount(hold.amounts, code)
end

-- Brings the counters of caps in line with what the hold now holds and has debited. What is less goes back to the
-- windows it came from, the last first; what is more counts in the last.
local function count(wallet, amount)
  local change = amount.held + amount.debited - amount.refunded
  for _, part in ipairs(amount.counts) do
    change = change - part[2]
  end
  for i = #amount.counts, 1, -1 do
    local part = amount.counts[i]
    local step = math.max(change, -part[2])
    add_to_counters(wallet, part[1], step)
    part[2] = part[2] + step
    change = change - step
  end
  record_cap_usage(wallet, amount.counts, amount.debited - amount.refunded)
end

-- Keeps a hold in a final state, and remembers it for `tombstone_ms` from now, so that repeats get the same answer.
local function keep_settled(wallet, hold, tombstone_ms)
  keep_hold(wallet, hold)
  wallet.forget[hold.hold_id] = tombstone_ms
  due_by(wallet, wallet.now + tombstone_ms)
end

-- Moves a hold to a final state. One that has expired is not among the open ones any more, one that never expires (a
-- charge, a tombstone) never was.
local function close_hold(wallet, hold, state, tombstone_ms)
  if hold.state == 'HELD' and hold.expire_ms ~= 0 then
    queue_removal(wallet, 'ZREM', wallet.keys[OPEN], hold.hold_id)
  end
  hold.state = state
  hold.settle_ms = wallet.now
  keep_settled(wallet, hold, tombstone_ms)
end

-- Gives everything that is still held back to the grants it came from.
local function give_back(wallet, hold)
  for _, amount in ipairs(hold.amounts) do
    if amount.held > 0 then
      unpin(wallet, amount.asset, amount.pins)
      amount.held = 0
      amount.pins = {}
    end
    count(wallet, amount)
  end
end

-- Notes what was debited: a line per grant that paid, the hold's totals, the usage of its caps.
local function note_debits(wallet, amount, debits)
  local units = 0
  for _, debit in ipairs(debits) do
    add_line(wallet, 'DEBIT', amount.asset, debit[2], debit[1])
    units = units + debit[2]
  end
  append_units(amount.debits, debits)
  amount.debited = amount.debited + units
end

-- Debits units that are pinned.
local function debit_held(wallet, amount, units)
  if units > 0 then
    local debits, left = debit_pins(wallet, amount.asset, amount.pins, units)
    amount.held = amount.held - units
    amount.pins = left
    note_debits(wallet, amount, debits)
  end
end

-- Debits units that are not pinned.
local function debit_free(wallet, amount, units)
  if units > 0 then
    note_debits(wallet, amount, take(wallet, amount.asset, units, false))
  end
end

-- What of each part of an amount was debited, {{cap counters, units}, ...}: only if there are several, because the
-- counters of a single one are in cap_usage.
local function recorded_parts(counts)
  local parts = {}
  for _, part in ipairs(counts) do
    if part[3] > 0 then
      parts[#parts + 1] = { part[1], part[3] }
    end
  end
  return #counts > 1 and #parts > 0 and parts or nil
end

-- The event of usage, once its lines are made.
local function record_commit(wallet, hold, final, late)
  local amounts = {}
  for i, a in ipairs(hold.amounts) do
    amounts[i] = { a.asset, a.authorized, a.debited, a.uncollected, recorded_parts(a.counts) }
  end
  hold.wallet_sequence = wallet.sequence + 1
  record(wallet, {
    kind = 'COMMIT', hold_id = hold.hold_id, amounts = amounts, subjects = hold.subjects, labels = hold.labels,
    hold_create_ms = hold.create_ms, late = late, final = final,
  })
end

-- After the units of a hold have moved. Before its event is recorded: debt may be repaid by what it gave back.
local function tidy_assets(wallet, hold)
  for _, amount in ipairs(hold.amounts) do
    local asset = asset_of(wallet, amount.asset)
    if asset then
      tidy(wallet, amount.asset, asset)
    end
  end
end

local function is_due(wallet, hold)
  return hold.state == 'HELD' and hold.expire_ms <= wallet.now
end

-- Brings the assets of a hold, or of a way to pay, up to date: the event of what time did comes before all others.
local function touch_assets(wallet, amounts)
  read_assets(wallet, amounts)
  for _, amount in ipairs(amounts) do
    touch_asset(wallet, amount.asset)
  end
end

-- The end of a hold that nobody settled in time.
local function expire_hold(wallet, hold, tombstone_ms)
  touch_assets(wallet, hold.amounts)
  if hold.expiry_action == 'COMMIT_FULL' then
    for _, amount in ipairs(hold.amounts) do
      debit_held(wallet, amount, amount.held)
      count(wallet, amount)
    end
    tidy_assets(wallet, hold)
    record_commit(wallet, hold, true, false)
    close_hold(wallet, hold, 'COMMITTED', tombstone_ms)
  else
    give_back(wallet, hold)
    record_time(wallet, hold)
    close_hold(wallet, hold, 'EXPIRED', tombstone_ms)
  end
end

-- Frees the due holds of this wallet, soonest first. Returns how many.
local function expire_due(wallet, tombstone_ms)
  if wallet.due_ms == 0 or wallet.due_ms > wallet.now then
    return 0
  end
  local ids = redis.call('ZRANGEBYSCORE', wallet.keys[OPEN], '-inf', wallet.now, 'LIMIT', 0, EXPIRE_MAX)
  for _, hold_id in ipairs(ids) do
    expire_hold(wallet, find_hold(wallet, hold_id), tombstone_ms)
  end
  return #ids
end
