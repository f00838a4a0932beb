-- apply.lua: apply one numbered change that Postgres has already recorded. load.lua applies those that are waiting when
-- it brings a wallet.
--
-- Changes of a wallet are numbered 1, 2, 3, ... and applied in that order, each exactly once, however often and by
-- however many servers it is sent: the number of the last one is part of the wallet.
--
-- ARGV   request: epoch, tenant_id, wallet_id, change {change_number, kind, and by kind
--          GRANT        grant {asset, grant_id, units, priority, source, effective_ms, expire_ms, create_ms, labels}
--          VOID         grant {asset, grant_id}: its free units are taken back, and the pinned ones when given back
--          EXPIRY       grant {asset, grant_id, expire_ms}
--          STATE        state
--          OVERDRAFT    asset, limit
--          CAP          cap {subject, asset, window, limit, mode}: sets it
--          CAP_REMOVAL  cap {subject, asset, window}}
-- Reply  OK {applied: whether this call did it} | GAP {change_number: the last one applied} | NOT_LOADED | STALE_EPOCH
-- Checks, the first that fails decides: epoch; wallet loaded; applied before; the one before is missing.
--        Limits were checked before Postgres recorded the change: from then on it has to succeed.

local APPLY = {}

local function asset_or_new(wallet, code)
  return touch_asset(wallet, code) or new_asset(wallet, code)
end

-- With all its grants.
local function whole_asset(wallet, code)
  local asset = asset_or_new(wallet, code)
  read_rest(wallet, code, asset)
  return asset
end

local function place_of(grants, grant_id)
  for i, grant in ipairs(grants) do
    if grant[ID] == grant_id then
      return i
    end
  end
  return nil
end

function APPLY.GRANT(wallet, change)
  local funds = change.grant
  local asset = whole_asset(wallet, funds.asset)
  local grant = {
    funds.grant_id, checked_amount(funds.units), 0, funds.priority, funds.expire_ms, funds.source, funds.effective_ms,
    funds.create_ms, false,
  }
  if may_begin(wallet, asset, grant) then
    activate(wallet, funds.asset, asset, grant)
    repay_debt(wallet, funds.asset, asset)
  else
    insert_sorted(asset.scheduled, grant, effective_before)
  end
  refresh(wallet, funds.asset, asset)
end

function APPLY.VOID(wallet, change)
  local code, asset = change.grant.asset, whole_asset(wallet, change.grant.asset)
  local scheduled = place_of(asset.scheduled, change.grant.grant_id)
  if scheduled then
    table.remove(asset.scheduled, scheduled)
  end
  local grant = asset.grants[place_of(asset.grants, change.grant.grant_id)]
  if grant then
    grant[VOIDED] = true
    if grant[FREE] > 0 then
      drain(wallet, code, asset, grant, grant[FREE], 'VOID')
    end
  end
  refresh(wallet, code, asset)
end

function APPLY.EXPIRY(wallet, change)
  local code, asset = change.grant.asset, whole_asset(wallet, change.grant.asset)
  for grants, before in pairs({ [asset.grants] = burns_before, [asset.scheduled] = effective_before }) do
    local place = place_of(grants, change.grant.grant_id)
    if place then
      local grant = table.remove(grants, place)
      grant[EXPIRE] = change.grant.expire_ms
      insert_sorted(grants, grant, before)
    end
  end
  refresh(wallet, code, asset)
end

function APPLY.STATE(wallet, change)
  wallet.state = change.state
end

function APPLY.OVERDRAFT(wallet, change)
  local asset = asset_or_new(wallet, change.asset)
  asset.overdraft_limit = checked_amount(change.limit)
  asset.changed = true
end

local function caps_without(wallet, gone)
  local kept = {}
  for _, cap in ipairs(list_caps(wallet)) do
    if cap.subject ~= gone.subject or cap.asset ~= gone.asset or cap.window ~= gone.window then
      kept[#kept + 1] = cap
    end
  end
  return kept
end

function APPLY.CAP_REMOVAL(wallet, change)
  keep_caps(wallet, caps_without(wallet, change.cap))
end

function APPLY.CAP(wallet, change)
  local caps = caps_without(wallet, change.cap)
  caps[#caps + 1] = change.cap
  keep_caps(wallet, caps)
end

local function apply_change(wallet, change)
  APPLY[change.kind](wallet, change)
  wallet.change_number = change.change_number
  record(wallet, {
    kind = change.kind, change_number = change.change_number,
    labels = change.kind == 'GRANT' and change.grant.labels or '',
  })
end

VERBS.apply = writes(function(wallet, request)
  local number = request.change.change_number
  if number <= wallet.change_number then
    return { status = 'OK', applied = false }
  end
  if number > wallet.change_number + 1 then
    return { status = 'GAP', change_number = wallet.change_number }
  end
  apply_change(wallet, request.change)
  return { status = 'OK', applied = true }
end)
