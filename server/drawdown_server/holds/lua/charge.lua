-- charge.lua: debit at once, without a hold before: Authorize and Commit in one step. The charge is a committed hold.
--
-- ARGV   request: epoch, tenant_id, wallet_id, hold_id (the charge's id), fingerprint, amounts {asset, units,
--        overage_policy, known}, subjects, labels, outbox_backlog_limit, tombstone_ms
-- Reply  as authorize | BALANCE_OUT_OF_RANGE {asset, required}
-- Checks as authorize, without the open-hold limit. Funds deny only under overage policy REJECT: the others charge what
--        is available, or everything, unless the debt would be too deep to be exact.

local function charge_refusal(wallet, request)
  check_distinct(request.amounts)
  touch_assets(wallet, request.amounts)
  for _, amount in ipairs(request.amounts) do
    if not amount.known then
      return { reason = 'ASSET_NOT_FOUND', asset = amount.asset }
    end
  end
  for _, amount in ipairs(request.amounts) do
    local asset = asset_of(wallet, amount.asset)
    local available = asset and available_of(asset) or 0
    if amount.overage_policy == 'REJECT' and checked(amount.units) > available then
      return {
        reason = 'INSUFFICIENT_FUNDS', asset = amount.asset, required = amount.units, available = available,
      }
    end
    if amount.overage_policy == 'CHARGE_FULL' and asset and not can_be_owed(asset, amount.units) then
      return { status = 'BALANCE_OUT_OF_RANGE', asset = amount.asset, required = amount.units }
    end
  end
  local met = caps_met(wallet, request.subjects, request.amounts)
  local cap, observed = check_caps(wallet, met, request.amounts)
  if cap then
    return { reason = 'CAP_EXCEEDED', asset = cap.asset, cap = cap }
  end
  return nil, met, observed
end

local function charge_amount(wallet, wanted, met)
  local asset = asset_of(wallet, wanted.asset) or new_asset(wallet, wanted.asset)
  local amount, units = new_amount(wanted, met), checked_amount(wanted.units)
  if wanted.overage_policy == 'CHARGE_AVAILABLE' then
    units = math.min(units, math.max(0, available_of(asset)))
  end
  amount.uncollected = wanted.units - units
  debit_free(wallet, amount, units)
  return amount
end

local function charge_now(wallet, request)
  expire_due(wallet, request.tombstone_ms)
  local denial, met, observed = charge_refusal(wallet, request)
  if denial then
    return denial.reason and denied(wallet, request.amounts, denial) or denial
  end
  local hold = new_hold(wallet, request, 0)
  for i, wanted in ipairs(request.amounts) do
    hold.amounts[i] = charge_amount(wallet, wanted, met)
  end
  for _, amount in ipairs(hold.amounts) do
    count(wallet, amount)
  end
  tidy_assets(wallet, hold)
  record_commit(wallet, hold, true, false)
  close_hold(wallet, hold, 'COMMITTED', request.tombstone_ms)
  return {
    status = 'OK', hold = hold_reply(hold), balances = hold_balances(wallet, hold), replayed = false,
    observed = observed,
  }
end

VERBS.charge = reads(function(wallet, request)
  return early_answer(wallet, request, request.amounts) or saved(wallet, charge_now(wallet, request))
end)
