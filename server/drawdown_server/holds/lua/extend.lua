-- extend.lua: keep an open hold for longer, or hold more. A denied raise leaves the hold exactly as it was.
--
-- ARGV   request: epoch, tenant_id, wallet_id, hold_id, ttl_ms (from now, never shorter than before; 0 leaves it),
--        amounts {asset, units} (totals to have reserved, what was debited and uncollected included), tombstone_ms
-- Reply  OK {hold, balances, replayed, observed} | DENIED {reason, asset, required, available, cap, balances}
--        | HOLD_UNKNOWN | HOLD_RELEASED, HOLD_COMMITTED, HOLD_EXPIRED {hold} | ASSET_NOT_HELD {asset}
--        | BELOW_HOLD {asset, required, available: reserved} | NOT_LOADED | STALE_EPOCH
-- OOM    refused, but allowed under the name extend_ttl: without amounts it takes no memory.
-- Checks, the first that fails decides: epoch; wallet loaded; hold known; its state; assets held; totals not below what
--        is reserved; then for a raise: wallet state; funds; caps.

local function raises_of(request, hold)
  local raises = {}
  check_distinct(request.amounts)
  for _, wanted in ipairs(request.amounts) do
    if not amount_of(hold, wanted.asset) then
      return nil, { status = 'ASSET_NOT_HELD', asset = wanted.asset }
    end
  end
  for _, wanted in ipairs(request.amounts) do
    local amount = amount_of(hold, wanted.asset)
    local reserved = amount.held + amount.debited + amount.uncollected
    if checked_amount(wanted.units) < reserved then
      return nil, { status = 'BELOW_HOLD', asset = wanted.asset, required = wanted.units, available = reserved }
    end
    if wanted.units > reserved then
      raises[#raises + 1] = {
        asset = wanted.asset, units = wanted.units - reserved, reserved = reserved, total = wanted.units,
        amount = amount,
      }
    end
  end
  return raises
end

local function raise_refusal(wallet, hold, raises)
  if #raises > 0 and wallet.state ~= 'ACTIVE' then
    return { reason = 'WALLET_' .. wallet.state }
  end
  for _, raise in ipairs(raises) do
    local available = available_of(asset_of(wallet, raise.asset))
    if raise.units > available then
      return { reason = 'INSUFFICIENT_FUNDS', asset = raise.asset, required = raise.units, available = available }
    end
  end
  local met = caps_met(wallet, hold.subjects, raises)
  local cap, observed = check_caps(wallet, met, raises)
  if cap then
    return { reason = 'CAP_EXCEEDED', asset = cap.asset, cap = cap }
  end
  return nil, met, observed
end

-- A raise counts in the caps and windows of now, which may be other ones than those of the Authorize. What was reserved
-- before stays where it counts, also when that is nowhere.
local function count_raise(wallet, amount, units, met)
  local counters = counters_for(met, amount.asset)
  local last = amount.counts[#amount.counts]
  if table.concat(counters, ' ') ~= (last and table.concat(last[1], ' ') or '') then
    if not last then
      amount.counts[1] = { {}, amount.held + amount.debited - amount.refunded - units, 0 }
    end
    amount.counts[#amount.counts + 1] = { counters, 0, 0 }
  end
  count(wallet, amount)
end

local function raise_hold(wallet, hold, raises, met, ttl_ms)
  for _, raise in ipairs(raises) do
    local amount = raise.amount
    append_units(amount.pins, take(wallet, raise.asset, raise.units, true))
    amount.authorized = raise.total
    amount.held = amount.held + raise.units
    count_raise(wallet, amount, raise.units, met)
  end
  if ttl_ms > 0 then
    hold.expire_ms = math.max(hold.expire_ms, wallet.now + ttl_ms)
    queue(wallet, 'ZADD', wallet.keys[OPEN], hold.expire_ms, hold.hold_id)
    due_by(wallet, hold.expire_ms)
  end
  keep_hold(wallet, hold)
end

local function extend_hold(wallet, request, hold)
  touch_assets(wallet, hold.amounts)
  if is_due(wallet, hold) then
    expire_hold(wallet, hold, request.tombstone_ms)
  end
  if hold.state ~= 'HELD' then
    return { status = 'HOLD_' .. hold.state, hold = hold_reply(hold) }
  end
  local raises, wrong = raises_of(request, hold)
  if not raises then
    return wrong
  end
  local denial, met, observed = raise_refusal(wallet, hold, raises)
  if denial then
    denial.status = 'DENIED'
    denial.balances = hold_balances(wallet, hold)
    return denial
  end
  local replayed = #raises == 0 and request.ttl_ms == 0
  if not replayed then
    raise_hold(wallet, hold, raises, met, request.ttl_ms)
  end
  return {
    status = 'OK', hold = hold_reply(hold), balances = hold_balances(wallet, hold), replayed = replayed,
    observed = observed,
  }
end

VERBS.extend = writes(function(wallet, request)
  local hold = find_hold(wallet, request.hold_id)
  return hold and extend_hold(wallet, request, hold) or { status = 'HOLD_UNKNOWN' }
end)
