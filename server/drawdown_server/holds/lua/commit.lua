-- commit.lua: debit what was really used, give the rest back, and record it in the outbox in the same step.
--
-- ARGV   request: epoch, tenant_id, wallet_id, hold_id, amounts {asset, units} (totals), tombstone_ms
-- Reply  OK {hold, balances, replayed} | HOLD_UNKNOWN | HOLD_RELEASED | HOLD_COMMITTED {hold}
--        | ASSET_NOT_HELD {asset} | EXCEEDS_HOLD {asset, required, available} | INSUFFICIENT_FUNDS {the same}
--        | NOT_LOADED | STALE_EPOCH
-- Checks, the first that fails decides: epoch; wallet loaded; hold known; hold released; hold committed (the same
--        totals again: the same answer); assets held; not more than held; and for a hold that expired, whose units
--        are free again: funds. The wallet's state is no check: what was held may be settled on a frozen wallet.
-- OOM    allowed: a full Redis must not trap money.

local function totals_of(request)
  local totals = {}
  for _, amount in ipairs(request.amounts) do
    totals[amount.asset] = checked_amount(amount.units)
  end
  return totals
end

local function has_same_totals(hold, totals)
  local seen = {}
  for _, amount in ipairs(hold.amounts) do
    seen[amount.asset] = true
    if (totals[amount.asset] or 0) ~= amount.debited + amount.uncollected then
      return false
    end
  end
  for asset in pairs(totals) do
    if not seen[asset] then
      return false
    end
  end
  return true
end

-- The first check of amounts that fails, or nil.
local function commit_refusal(wallet, request, hold)
  local authorized = {}
  for _, amount in ipairs(hold.amounts) do
    authorized[amount.asset] = amount.authorized
  end
  for _, amount in ipairs(request.amounts) do
    if not authorized[amount.asset] then
      return { status = 'ASSET_NOT_HELD', asset = amount.asset }
    end
  end
  for _, amount in ipairs(request.amounts) do
    local held = authorized[amount.asset]
    if amount.units > held then
      return { status = 'EXCEEDS_HOLD', asset = amount.asset, required = amount.units, available = held }
    end
  end
  if hold.state == 'EXPIRED' then
    for _, amount in ipairs(request.amounts) do
      local available = asset_of(wallet, amount.asset).available
      if amount.units > available then
        return {
          status = 'INSUFFICIENT_FUNDS', asset = amount.asset, required = amount.units, available = available,
        }
      end
    end
  end
  return nil
end

-- Debits one asset of the hold, and appends a line per grant that paid.
local function debit_amount(wallet, amount, used, is_late, lines)
  local asset, debits = asset_of(wallet, amount.asset), nil
  if is_late then
    debits = debit_free(asset, used)
  else
    debits = settle_pins(asset, amount.pins, used)
  end
  for _, debit in ipairs(debits) do
    lines[#lines + 1] = { 'DEBIT', amount.asset, debit[2], debit[1] }
  end
  amount.debited = used
  amount.held = 0
  amount.pins = {}
end

local function settle(wallet, request, hold, totals)
  local lines, amounts = {}, {}
  hold.late = hold.state == 'EXPIRED'
  for i, amount in ipairs(hold.amounts) do
    debit_amount(wallet, amount, totals[amount.asset] or 0, hold.late, lines)
    amounts[i] = { amount.asset, amount.authorized, amount.debited, amount.uncollected }
  end
  hold.wallet_sequence = wallet.sequence + 1
  record(wallet, {
    kind = 'COMMIT', hold_id = hold.hold_id, lines = lines, amounts = amounts, subjects = hold.subjects,
    labels = hold.labels, hold_create_ms = hold.create_ms, late = hold.late,
  })
  close_hold(wallet, hold, 'COMMITTED', request.tombstone_ms)
end

local function commit(keys, args)
  local request = cmsgpack.unpack(args[1])
  if epoch_is_stale(keys, request) then
    return answer({ status = 'STALE_EPOCH' })
  end
  local wallet = open_wallet(keys, request)
  if not wallet then
    return answer({ status = 'NOT_LOADED' })
  end
  local hold = find_hold(keys, request.hold_id)
  if not hold then
    return answer({ status = 'HOLD_UNKNOWN' })
  end
  if hold.state == 'RELEASED' then
    return answer({ status = 'HOLD_RELEASED' })
  end
  local totals = totals_of(request)
  if hold.state == 'COMMITTED' then
    local same = has_same_totals(hold, totals)
    return answer({
      status = same and 'OK' or 'HOLD_COMMITTED', hold = hold_reply(hold), replayed = true,
      balances = hold_balances(wallet, hold),
    })
  end
  -- A hold is over at its expiry, whether or not the sweep has been here: its units are free, the usage is late.
  if is_due(wallet, hold) then
    expire_hold(wallet, hold, request.tombstone_ms)
  end
  local refused = commit_refusal(wallet, request, hold)
  if refused then
    if hold.state == 'EXPIRED' then
      close_hold(wallet, hold, 'EXPIRED', request.tombstone_ms) -- it will be sent again: remember it for longer
    end
    if #wallet.writes > 0 then
      save(wallet)
    end
    return answer(refused)
  end
  settle(wallet, request, hold, totals)
  save(wallet)
  return answer({
    status = 'OK', hold = hold_reply(hold), balances = hold_balances(wallet, hold), replayed = false,
  })
end
