-- commit.lua: debit what was really used, give the rest back, and record it in the outbox in the same step.
--
-- ARGV   request: epoch, tenant_id, wallet_id, hold_id, amounts {asset, units} (totals so far), final, tombstone_ms,
--        lost (the hold that Redis lost, as its token or the ledger has it; only if it is still unknown),
--        ticket_ms (of `lost`: Redis TIME of the HOLD_UNKNOWN after which the ledger was asked)
-- Reply  OK {hold, balances, replayed} | HOLD_UNKNOWN {now_ms} | TICKET_EXPIRED | HOLD_RELEASED
--        | HOLD_COMMITTED {hold} | ASSET_NOT_HELD {asset}
--        | TOTAL_BELOW_DEBITED {asset, required, available: debited and uncollected so far}
--        | EXCEEDS_HOLD {asset, required, available: authorized} | INSUFFICIENT_FUNDS {asset, required, available}
--        | BALANCE_OUT_OF_RANGE {asset, required} | NOT_LOADED | STALE_EPOCH
-- Checks, the first that fails decides: epoch; wallet loaded; hold known, or lost and the ticket young; hold released;
--        hold committed (the same totals again: the same answer); assets held; totals not below what is accounted
--        for; the overage policy. The wallet's state is no check: what was held may be settled on a frozen wallet.
--        A lost hold whose Commit is refused stays unknown.
-- OOM    allowed: a full Redis must not trap money.

-- No settled hold is forgotten sooner (config.py: the least tombstone_ms). So whoever committed this hold after the
-- ticket was taken, unseen by the reader of the ledger, has left a tombstone that is still here. As in load.lua, a
-- ticket from the future is of a clock that was set back since.
local TICKET_OF_LOST_MAX_MS = 1000

local function totals_of(request)
  local totals = {}
  check_distinct(request.amounts)
  for _, amount in ipairs(request.amounts) do
    totals[amount.asset] = checked_amount(amount.units)
  end
  return totals
end

local function accounted(amount)
  return amount.debited + amount.uncollected
end

-- Assets that are not named are used no more than so far.
local function has_same_totals(hold, totals)
  for _, amount in ipairs(hold.amounts) do
    if totals[amount.asset] and totals[amount.asset] ~= accounted(amount) then
      return false
    end
  end
  for asset in pairs(totals) do
    if not amount_of(hold, asset) then
      return false
    end
  end
  return true
end

-- Why more than the hold cannot be charged, or nil. REJECT: a late commit may use the funds there are. CHARGE_FULL: no
-- debt is so deep that it is not exact.
local function overage_refusal(wallet, hold, amount, total)
  local delta = total - accounted(amount)
  local extra = delta - amount.held
  if extra > 0 and amount.overage_policy == 'CHARGE_FULL' then
    if not can_be_owed(asset_of(wallet, amount.asset), extra) then
      return { status = 'BALANCE_OUT_OF_RANGE', asset = amount.asset, required = extra }
    end
  end
  if amount.overage_policy ~= 'REJECT' or extra <= 0 then
    return nil
  end
  if hold.state == 'HELD' or total > amount.authorized then
    return { status = 'EXCEEDS_HOLD', asset = amount.asset, required = total, available = amount.authorized }
  end
  local available = available_of(asset_of(wallet, amount.asset))
  if delta > available then
    return { status = 'INSUFFICIENT_FUNDS', asset = amount.asset, required = delta, available = available }
  end
  return nil
end

-- The first check of amounts that fails, or nil.
local function commit_refusal(wallet, request, hold)
  for _, wanted in ipairs(request.amounts) do
    if not amount_of(hold, wanted.asset) then
      return { status = 'ASSET_NOT_HELD', asset = wanted.asset }
    end
  end
  for _, wanted in ipairs(request.amounts) do
    local so_far = accounted(amount_of(hold, wanted.asset))
    if wanted.units < so_far then
      return { status = 'TOTAL_BELOW_DEBITED', asset = wanted.asset, required = wanted.units, available = so_far }
    end
  end
  for _, wanted in ipairs(request.amounts) do
    local refused = overage_refusal(wallet, hold, amount_of(hold, wanted.asset), wanted.units)
    if refused then
      return refused
    end
  end
  return nil
end

-- Debits what is new of one asset: from what is held, then under the overage policy.
local function debit_total(wallet, amount, total)
  local delta = total - accounted(amount)
  local from_hold = math.min(delta, amount.held)
  debit_held(wallet, amount, from_hold)
  local extra = delta - from_hold
  if amount.overage_policy == 'CHARGE_AVAILABLE' then
    local charged = math.min(extra, math.max(0, available_of(asset_of(wallet, amount.asset))))
    amount.uncollected = amount.uncollected + extra - charged
    extra = charged
  end
  debit_free(wallet, amount, extra)
end

local function settle(wallet, request, hold, totals)
  local late = hold.state == 'EXPIRED'
  hold.late = hold.late or late
  for _, amount in ipairs(hold.amounts) do
    debit_total(wallet, amount, totals[amount.asset] or accounted(amount))
    if request.final and amount.held > 0 then
      unpin(wallet, amount.asset, amount.pins)
      amount.held = 0
      amount.pins = {}
    end
    count(wallet, amount)
  end
  tidy_assets(wallet, hold)
  record_commit(wallet, hold, request.final, late)
  if request.final then
    close_hold(wallet, hold, 'COMMITTED', request.tombstone_ms)
  elseif late then
    keep_settled(wallet, hold, request.tombstone_ms) -- still in use: remember it for longer
  else
    keep_hold(wallet, hold)
  end
end

local function changes_nothing(request, hold, totals)
  if request.final then
    return false
  end
  for _, amount in ipairs(hold.amounts) do
    if totals[amount.asset] and totals[amount.asset] ~= accounted(amount) then
      return false
    end
  end
  return true
end

local function committed_answer(wallet, request, hold, totals)
  if request.final and has_same_totals(hold, totals) then
    return { status = 'OK', hold = hold_reply(hold), balances = hold_balances(wallet, hold), replayed = true }
  end
  return { status = 'HOLD_COMMITTED', hold = hold_reply(hold) }
end

local function commit_hold(wallet, request, hold)
  local totals = totals_of(request)
  if hold.state == 'RELEASED' then
    return { status = 'HOLD_RELEASED' }
  end
  touch_assets(wallet, hold.amounts)
  -- A hold is over at its expiry, whether or not the sweep has been here: its units are free, the usage is late.
  if is_due(wallet, hold) then
    expire_hold(wallet, hold, request.tombstone_ms)
  end
  if hold.state == 'COMMITTED' then
    return committed_answer(wallet, request, hold, totals)
  end
  local refused = commit_refusal(wallet, request, hold)
  if refused then
    if hold.state == 'EXPIRED' and not hold.is_lost then
      keep_settled(wallet, hold, request.tombstone_ms) -- it will be sent again: remember it for longer
    end
    return refused
  end
  local replayed = changes_nothing(request, hold, totals)
  if not replayed then
    settle(wallet, request, hold, totals)
  end
  return { status = 'OK', hold = hold_reply(hold), balances = hold_balances(wallet, hold), replayed = replayed }
end

-- A hold that Redis lost counts as expired: what is used of it is late, and counts in the windows of now.
local function recall_lost(wallet, request)
  local hold = recall(request.hold_id, request.lost)
  local met = caps_met(wallet, hold.subjects, hold.amounts)
  hold.is_lost = true
  for _, amount in ipairs(hold.amounts) do
    if not asset_of(wallet, amount.asset) then
      new_asset(wallet, amount.asset)
    end
    amount.counts[#amount.counts + 1] = { counters_for(met, amount.asset), 0, 0 }
  end
  return hold
end

VERBS.commit = writes(function(wallet, request)
  local hold = find_hold(wallet, request.hold_id)
  if not hold then
    if not request.lost then
      return { status = 'HOLD_UNKNOWN', now_ms = wallet.now }
    end
    if wallet.now < request.ticket_ms or wallet.now - request.ticket_ms >= TICKET_OF_LOST_MAX_MS then
      return { status = 'TICKET_EXPIRED' }
    end
    hold = recall_lost(wallet, request)
  end
  return commit_hold(wallet, request, hold)
end)
