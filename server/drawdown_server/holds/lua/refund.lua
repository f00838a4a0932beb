-- refund.lua: give debited units back to the grants that paid, the last debit first, and headroom to the caps.
--
-- ARGV   request: epoch, tenant_id, wallet_id, hold_id, refund_id, digest (of the amounts), amounts {asset, units},
--        grants (those that paid, as Postgres has them: one that is used up lives again), recorded (the hold as the
--        ledger has it, for when Redis has forgotten it), tombstone_ms
-- Reply  OK {hold, balances, replayed} | HOLD_UNKNOWN | ID_REUSED {fingerprint: digest of the first call}
--        | ASSET_NOT_HELD {asset} | EXCEEDS_DEBITED {asset, required, available: debited and not refunded}
--        | BALANCE_OUT_OF_RANGE {asset, required} | GRANTS_MISSING {grants: ids that the request must bring as well}
--        | NOT_LOADED | STALE_EPOCH
-- Checks, the first that fails decides: epoch; wallet loaded; hold known; refund id known (the same answer again);
--        assets held; not more than was debited; room for it, also where a grant that is over would not keep it; every
--        grant that paid is alive or in the request. The wallet's state is no check.
-- OOM    allowed: a full Redis must not trap money.

local function known_digest(hold, refund_id)
  for _, refund in ipairs(hold.refunds) do
    if refund[1] == refund_id then
      return refund[2]
    end
  end
  return nil
end

local function refund_refusal(wallet, request, hold)
  check_distinct(request.amounts)
  for _, wanted in ipairs(request.amounts) do
    if not amount_of(hold, wanted.asset) then
      return { status = 'ASSET_NOT_HELD', asset = wanted.asset }
    end
  end
  for _, wanted in ipairs(request.amounts) do
    local amount = amount_of(hold, wanted.asset)
    local left = amount.debited - amount.refunded
    if checked_amount(wanted.units) > left then
      return { status = 'EXCEEDS_DEBITED', asset = wanted.asset, required = wanted.units, available = left }
    end
  end
  for _, wanted in ipairs(request.amounts) do
    local asset = asset_of(wallet, wanted.asset)
    if asset and not has_room(asset, wanted.units) then
      return { status = 'BALANCE_OUT_OF_RANGE', asset = wanted.asset, required = wanted.units }
    end
  end
  return nil
end

-- Grants that paid, are used up, and are not in the request either: the caller could not know of a debit that Postgres
-- has not recorded yet.
local function missing_grants(wallet, request, hold)
  local brought, missing = {}, {}
  for _, grant in ipairs(request.grants) do
    brought[grant[ID]] = true
  end
  for _, wanted in ipairs(request.amounts) do
    local asset, debits = asset_of(wallet, wanted.asset), amount_of(hold, wanted.asset).debits
    local live = asset and grants_of(wallet, wanted.asset, asset, debits) or {}
    for _, debit in ipairs(debits) do
      if debit[1] ~= '' and not live[debit[1]] and not brought[debit[1]] then
        missing[#missing + 1] = debit[1]
      end
    end
  end
  return missing
end

-- Takes units off the debits of an amount, the last first. Returns {{grant id, units}, ...}.
local function take_debits(amount, units)
  local debits, parts = amount.debits, {}
  while units > 0 do
    local grant_id, debited = debits[#debits][1], debits[#debits][2]
    local part = math.min(debited, units)
    debits[#debits] = part < debited and { grant_id, debited - part } or nil
    parts[#parts + 1] = { grant_id, part }
    units = units - part
  end
  return parts
end

-- The grants that paid, by id: as they live in the stack, or brought back from what Postgres has once they are used up.
local function grants_that_paid(wallet, request, code, asset, parts)
  local by_id, is_used_up = grants_of(wallet, code, asset, parts), {}
  local live = #asset.grants
  for _, part in ipairs(parts) do
    is_used_up[part[1]] = part[1] ~= '' and not by_id[part[1]]
  end
  for _, grant in ipairs(request.grants) do
    if is_used_up[grant[ID]] and not by_id[grant[ID]] then
      local revived = {
        grant[ID], 0, 0, grant[PRIORITY], grant[EXPIRE], grant[SOURCE], grant[EFFECTIVE], grant[CREATE], grant[VOIDED],
      }
      by_id[grant[ID]] = revived
      asset.grants[#asset.grants + 1] = revived
    end
  end
  if #asset.grants > live then
    table.sort(asset.grants, burns_before)
  end
  return by_id
end

local function refund_amount(wallet, request, amount, units)
  local code, parts = amount.asset, take_debits(amount, units)
  local asset = asset_of(wallet, code) or new_asset(wallet, code)
  local by_id = grants_that_paid(wallet, request, code, asset, parts)
  amount.refunded = amount.refunded + units
  count(wallet, amount)
  asset.changed = true
  for _, part in ipairs(parts) do
    add_line(wallet, 'REFUND', code, part[2], part[1])
    if part[1] == '' then
      asset.debt = asset.debt - part[2]
    else
      give(wallet, code, asset, by_id[part[1]] or error('the request lacks a grant that paid'), part[2])
    end
  end
end

local function refund_hold(wallet, request, hold)
  touch_assets(wallet, hold.amounts)
  local digest = known_digest(hold, request.refund_id)
  if digest == request.digest then
    return { status = 'OK', hold = hold_reply(hold), balances = hold_balances(wallet, hold), replayed = true }
  elseif digest then
    return { status = 'ID_REUSED', fingerprint = digest }
  end
  local refused = refund_refusal(wallet, request, hold)
  if refused then
    return refused
  end
  local missing = missing_grants(wallet, request, hold)
  if #missing > 0 then
    return { status = 'GRANTS_MISSING', grants = missing }
  end
  for _, wanted in ipairs(request.amounts) do
    refund_amount(wallet, request, amount_of(hold, wanted.asset), wanted.units)
  end
  tidy_assets(wallet, hold)
  hold.refunds[#hold.refunds + 1] = { request.refund_id, request.digest }
  hold.wallet_sequence = wallet.sequence + 1
  record(wallet, {
    kind = 'REFUND', hold_id = hold.hold_id, subjects = hold.subjects, labels = hold.labels,
    hold_create_ms = hold.create_ms, refund_id = request.refund_id,
  })
  if hold.state == 'HELD' then
    keep_hold(wallet, hold)
  else
    keep_settled(wallet, hold, request.tombstone_ms)
  end
  return { status = 'OK', hold = hold_reply(hold), balances = hold_balances(wallet, hold), replayed = false }
end

VERBS.refund = writes(function(wallet, request)
  local hold = find_hold(wallet, request.hold_id) or (request.recorded and recall(request.hold_id, request.recorded))
  return hold and refund_hold(wallet, request, hold) or { status = 'HOLD_UNKNOWN' }
end)
