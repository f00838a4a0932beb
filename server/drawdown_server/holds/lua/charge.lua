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
  local cap, observed = check_caps(wallet, request.subjects, request.amounts)
  if cap then
    return { reason = 'CAP_EXCEEDED', asset = cap.asset, cap = cap }
  end
  return nil, observed
end

local function charge_amount(wallet, request, wanted)
  local asset = asset_of(wallet, wanted.asset) or new_asset(wallet, wanted.asset)
  local amount, units = new_amount(wallet, request, wanted), checked_amount(wanted.units)
  if wanted.overage_policy == 'CHARGE_AVAILABLE' then
    units = math.min(units, math.max(0, available_of(asset)))
  end
  amount.uncollected = wanted.units - units
  debit_free(wallet, amount, units)
  return amount
end

local function charge(keys, args)
  local request = cmsgpack.unpack(args[1])
  if epoch_is_stale(keys, request) then
    return answer({ status = 'STALE_EPOCH' })
  end
  local known = find_hold(keys, request.hold_id)
  if known then
    return answer(replay(keys, request, known))
  end
  local wallet = open_wallet(keys, request)
  if not wallet then
    return answer({ status = 'NOT_LOADED' })
  end
  if backlog_is_full(keys, request) then
    return answer({ status = 'BACKLOG_FULL' })
  end
  if wallet.state ~= 'ACTIVE' then
    return answer(denied(wallet, request.amounts, { reason = 'WALLET_' .. wallet.state }))
  end
  expire_due(wallet, request.tombstone_ms)
  local denial, observed = charge_refusal(wallet, request)
  if denial then
    denial = denial.reason and denied(wallet, request.amounts, denial) or denial
    if #wallet.writes > 0 then
      save(wallet)
    end
    return answer(denial)
  end
  local hold = new_hold(wallet, request, 0)
  for i, wanted in ipairs(request.amounts) do
    hold.amounts[i] = charge_amount(wallet, request, wanted)
  end
  for _, amount in ipairs(hold.amounts) do
    count(wallet, amount)
  end
  tidy_assets(wallet, hold)
  record_commit(wallet, hold, true, false)
  close_hold(wallet, hold, 'COMMITTED', request.tombstone_ms)
  save(wallet)
  return answer({
    status = 'OK', hold = hold_reply(hold), balances = hold_balances(wallet, hold), replayed = false,
    observed = observed,
  })
end
