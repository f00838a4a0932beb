-- refund.lua: give debited units back to the grants that paid, the last debit first, and headroom to the caps.
--
-- ARGV   request: epoch, tenant_id, wallet_id, hold_id, refund_id, digest (of the amounts), amounts {asset, units},
--        grants (those that paid, as Postgres has them: one that is used up lives again), recorded (the hold as the
--        ledger has it, for when Redis has forgotten it), tombstone_ms
-- Reply  OK {hold, balances, replayed} | HOLD_UNKNOWN | ID_REUSED {fingerprint: digest of the first call}
--        | ASSET_NOT_HELD {asset} | EXCEEDS_DEBITED {asset, required, available: debited and not refunded}
--        | BALANCE_OUT_OF_RANGE {asset, required} | NOT_LOADED | STALE_EPOCH
-- Checks, the first that fails decides: epoch; wallet loaded; hold known; refund id known (the same answer again);
--        assets held; not more than was debited; room for it, also where a grant that is over would not keep it. The
--        wallet's state is no check.
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

-- The grant as it lives in the stack, brought back from what Postgres has when it was used up.
local function live_grant(wallet, request, code, asset, grant_id)
  local place = 1
  while grant_at(wallet, code, asset, place) do
    if asset.grants[place][ID] == grant_id then
      return asset.grants[place]
    end
    place = place + 1
  end
  for _, grant in ipairs(request.grants) do
    if grant[ID] == grant_id then
      local revived = {
        grant[ID], 0, 0, grant[PRIORITY], grant[EXPIRE], grant[SOURCE], grant[EFFECTIVE], grant[CREATE], grant[VOIDED],
      }
      insert_sorted(asset.grants, revived, burns_before)
      return revived
    end
  end
  error('the request lacks a grant that paid')
end

-- Units go back to one grant; one that is over keeps none of them.
local function refund_grant(wallet, request, code, asset, grant_id, units)
  add_line(wallet, 'REFUND', code, units, grant_id)
  asset.changed = true
  if grant_id == '' then
    asset.debt = asset.debt - units
    return
  end
  local grant = live_grant(wallet, request, code, asset, grant_id)
  grant[FREE] = grant[FREE] + units
  asset.free = asset.free + units
  if grant[VOIDED] then
    drain(wallet, code, asset, grant, units, 'VOID')
  elseif is_over(grant, wallet.now) then
    drain(wallet, code, asset, grant, units, 'EXPIRE')
  end
end

local function refund_amount(wallet, request, amount, units)
  local asset = asset_of(wallet, amount.asset) or new_asset(wallet, amount.asset)
  amount.refunded = amount.refunded + units
  count(wallet, amount)
  while units > 0 do
    local debit = amount.debits[#amount.debits]
    local part = math.min(debit[2], units)
    refund_grant(wallet, request, amount.asset, asset, debit[1], part)
    units = units - part
    if part == debit[2] then
      table.remove(amount.debits)
    else
      amount.debits[#amount.debits] = { debit[1], debit[2] - part }
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
