-- apply.lua: apply one numbered change that Postgres has already recorded: a grant, or a new state of the wallet.
-- load.lua applies those that are waiting when it brings a wallet.
--
-- Changes of a wallet are numbered 1, 2, 3, ... and applied in that order, each exactly once, however often and by
-- however many servers it is sent: the number of the last one is part of the wallet.
--
-- ARGV   request: epoch, tenant_id, wallet_id, change {change_number, kind ("GRANT" or "STATE"), grant {asset,
--        grant_id, units, priority, source, effective_ms, expire_ms, create_ms, labels}, state}
-- Reply  OK {applied: whether this call did it} | GAP {change_number: the last one applied} | NOT_LOADED | STALE_EPOCH
-- Checks, the first that fails decides: epoch; wallet loaded; applied before; the one before is missing.
--        Limits were checked before Postgres recorded the change: from then on it has to succeed.

local function apply_grant(wallet, grant)
  local asset = asset_of(wallet, grant.asset) or new_asset(wallet, grant.asset)
  add_grant(asset, {
    grant.grant_id, checked_amount(grant.units), 0, grant.priority, grant.expire_ms, grant.source, grant.effective_ms,
    grant.create_ms,
  })
  return { { 'GRANT', grant.asset, grant.units, grant.grant_id } }
end

local function apply_change(wallet, change)
  local lines, labels = {}, ''
  if change.kind == 'GRANT' then
    lines, labels = apply_grant(wallet, change.grant), change.grant.labels
  elseif change.kind == 'STATE' then
    wallet.state = change.state
  else
    error('unknown kind of change: ' .. change.kind)
  end
  wallet.change_number = change.change_number
  record(wallet, { kind = change.kind, change_number = change.change_number, lines = lines, labels = labels })
end

local function apply(keys, args)
  local request = cmsgpack.unpack(args[1])
  if epoch_is_stale(keys, request) then
    return answer({ status = 'STALE_EPOCH' })
  end
  local wallet = open_wallet(keys, request)
  if not wallet then
    return answer({ status = 'NOT_LOADED' })
  end
  local number = request.change.change_number
  if number <= wallet.change_number then
    return answer({ status = 'OK', applied = false })
  end
  if number > wallet.change_number + 1 then
    return answer({ status = 'GAP', change_number = wallet.change_number })
  end
  apply_change(wallet, request.change)
  save(wallet)
  return answer({ status = 'OK', applied = true })
end
