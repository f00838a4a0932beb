-- grants.lua: grants stack; which of them pays, and what time does to them.
--
-- A grant is {id, free, pinned, priority, expire_ms, source, effective_ms, create_ms, voided}: `free` units can be
-- held, `pinned` units belong to open holds. An asset keeps its live grants (free + pinned > 0) in burn order, and
-- those that are not effective yet in `scheduled`, where they are no money.
--
--   available = free - debt - overdraft held + overdraft limit      held = pinned + overdraft held
--   settled   = free + pinned - debt
--
-- Units that no grant covers are drawn on the overdraft: held as "overdraft held", debited as debt. In pins and
-- debits their grant id is "".

-- Burn order: low priority number, soonest expiry (never last), promotions before the rest, oldest, id.
local function burns_before(a, b)
  if a[PRIORITY] ~= b[PRIORITY] then
    return a[PRIORITY] < b[PRIORITY]
  end
  if a[EXPIRE] ~= b[EXPIRE] then
    return a[EXPIRE] ~= 0 and (b[EXPIRE] == 0 or a[EXPIRE] < b[EXPIRE])
  end
  if (a[SOURCE] == 'PROMOTION') ~= (b[SOURCE] == 'PROMOTION') then
    return a[SOURCE] == 'PROMOTION'
  end
  if a[CREATE] ~= b[CREATE] then
    return a[CREATE] < b[CREATE]
  end
  return text_before(a[ID], b[ID])
end

local function effective_before(a, b)
  if a[EFFECTIVE] ~= b[EFFECTIVE] then
    return a[EFFECTIVE] < b[EFFECTIVE]
  end
  return burns_before(a, b)
end

local function available_of(asset)
  return asset.free - asset.debt - asset.overdraft_held + asset.overdraft_limit
end

local function held_of(asset)
  return asset.pinned + asset.overdraft_held
end

-- Whether so many more units can come in: what there is and what may be owed must be exact together.
local function has_room(asset, units)
  return available_of(asset) + held_of(asset) + units <= UNITS_MAX
end

-- Whether so many units that nobody holds can be debited: what no grant covers is debt, as held overdraft may become.
local function can_be_owed(asset, units)
  return asset.debt + asset.overdraft_held - asset.free + units <= UNITS_MAX
end

local function is_over(grant, now)
  return grant[EXPIRE] ~= 0 and grant[EXPIRE] <= now
end

local function insert_sorted(grants, grant, before)
  local place = #grants + 1
  while place > 1 and before(grant, grants[place - 1]) do
    place = place - 1
  end
  table.insert(grants, place, grant)
end

-- The grant at a place in the stack, at most one after what is read of it.
local function grant_at(wallet, code, asset, place)
  if place > #asset.grants and not read_grant(asset) then
    read_rest(wallet, code, asset)
  end
  return asset.grants[place]
end

-- Takes units out of a grant that are not pinned, for good.
local function drain(wallet, code, asset, grant, units, kind)
  grant[FREE] = grant[FREE] - units
  asset.free = asset.free - units
  asset.changed = true
  add_line(wallet, kind, code, units, grant[ID])
end

-- Funds come in.
local function activate(wallet, code, asset, grant)
  insert_sorted(asset.grants, grant, burns_before)
  asset.free = asset.free + grant[FREE]
  add_line(wallet, 'GRANT', code, grant[FREE], grant[ID])
  asset.changed = true
end

-- Debt never stands beside free units: whatever becomes free repays it first, in burn order. Otherwise a grant could
-- expire beside a debt that it could have paid.
local function repay_debt(wallet, code, asset)
  local place = 1
  while asset.debt > 0 and asset.free > 0 do
    local grant = grant_at(wallet, code, asset, place)
    local repaid = math.min(asset.debt, grant[FREE])
    if repaid > 0 then
      drain(wallet, code, asset, grant, repaid, 'REPAY')
      asset.debt = asset.debt - repaid
    end
    place = place + 1
  end
end

local function expire_grants(wallet, code, asset)
  for _, grant in ipairs(asset.grants) do
    if grant[FREE] > 0 and is_over(grant, wallet.now) then
      drain(wallet, code, asset, grant, grant[FREE], 'EXPIRE')
    end
  end
end

-- Drops grants with nothing left: they are history, and the ledger keeps them. And plans when time next changes
-- something by itself: a grant becomes effective, or free units expire. While grants of the head are unread that is no
-- later than it was.
local function drop_and_plan(wallet, asset)
  local live, next_ms = {}, has_unread_head(asset) and asset.next_ms or asset.rest_ms
  if asset.scheduled and asset.scheduled[1] then
    next_ms = begins_ms(asset.scheduled[1])
  end
  for _, grant in ipairs(asset.grants) do
    if grant[FREE] + grant[PINNED] > 0 then
      live[#live + 1] = grant
    end
    if grant[FREE] > 0 then
      next_ms = sooner(next_ms, grant[EXPIRE])
    end
  end
  asset.grants = live
  asset.next_ms = next_ms
  asset.changed = true
  due_by(wallet, next_ms)
end

-- A grant comes into force at its time, and when there is room for it: Postgres made sure that there is, but did not
-- know of refunds that it had not recorded yet.
local function may_begin(wallet, asset, grant)
  return grant ~= nil and grant[EFFECTIVE] <= wallet.now and has_room(asset, grant[FREE])
end

-- Does what time has done: the event, if any, is made by the caller (`record_time`).
local function refresh(wallet, code, asset)
  read_rest(wallet, code, asset)
  repeat
    while may_begin(wallet, asset, asset.scheduled[1]) do
      activate(wallet, code, asset, table.remove(asset.scheduled, 1))
      repay_debt(wallet, code, asset)
    end
    expire_grants(wallet, code, asset)
  until not may_begin(wallet, asset, asset.scheduled[1]) -- what expired may have made room
  drop_and_plan(wallet, asset)
end

-- After units have moved: debt, grants with nothing left, the next time that matters.
local function tidy(wallet, code, asset)
  repay_debt(wallet, code, asset)
  drop_and_plan(wallet, asset)
end

local function new_asset(wallet, code)
  local asset = {
    free = 0, pinned = 0, debt = 0, overdraft_limit = 0, overdraft_held = 0, next_ms = 0, grants = {}, head = '',
    head_place = 1, unread_units = 0, rest_ms = 0, has_rest = false, scheduled = {},
  }
  wallet.assets[code] = asset
  return asset
end

-- What time did meanwhile becomes an event.
local function bring_up_to_date(wallet, code, asset)
  if asset.next_ms ~= 0 and asset.next_ms <= wallet.now then
    refresh(wallet, code, asset)
    record_time(wallet)
  end
end

-- The asset of a wallet, as of now; nil if the wallet never had any of it.
local function asset_of(wallet, code)
  if wallet.assets[code] == nil then
    read_assets(wallet, { { asset = code } })
    if wallet.assets[code] then
      bring_up_to_date(wallet, code, wallet.assets[code])
    end
  end
  return wallet.assets[code] or nil
end

-- The same, looked at again: what this script has done before may have made room for a grant that waits. Not while
-- lines are pending: they belong to another event.
local function touch_asset(wallet, code)
  local asset = asset_of(wallet, code)
  if asset then
    bring_up_to_date(wallet, code, asset)
  end
  return asset
end

-- Takes up to `units` of free funds in burn order, and the rest from the overdraft. With `pin` they are held, else
-- they are gone. Returns {{grant id, units}, ...}. Whether that much is available is the caller's question.
local function take(wallet, code, units, pin)
  local asset, taken, place = asset_of(wallet, code), {}, 1
  while units > 0 and asset.free > 0 do
    local grant = grant_at(wallet, code, asset, place)
    local part = math.min(grant[FREE], units)
    if part > 0 then
      grant[FREE] = grant[FREE] - part
      asset.free = asset.free - part
      if pin then
        grant[PINNED] = grant[PINNED] + part
        asset.pinned = asset.pinned + part
      end
      taken[#taken + 1] = { grant[ID], part }
      units = units - part
    end
    place = place + 1
  end
  if units > 0 then
    taken[#taken + 1] = { '', units }
    if pin then
      asset.overdraft_held = asset.overdraft_held + units
    else
      asset.debt = asset.debt + units
    end
  end
  asset.changed = true
  return taken
end

-- Adds pins or debits to a list of them. Those of one grant in a row are one, so that a hold does not grow with every
-- raise and progress report.
local function append_units(list, more)
  for _, entry in ipairs(more) do
    local last = list[#list]
    if last and last[1] == entry[1] then
      list[#list] = { entry[1], last[2] + entry[2] }
    else
      list[#list + 1] = entry
    end
  end
end

-- The live grants of pins or debits, by id.
local function grants_of(wallet, code, asset, pins)
  local by_id, place = {}, 1
  for _, pin in ipairs(pins) do
    while pin[1] ~= '' and not by_id[pin[1]] and grant_at(wallet, code, asset, place) do
      local grant = asset.grants[place]
      by_id[grant[ID]] = grant
      place = place + 1
    end
  end
  return by_id
end

-- Debits `units` of what is pinned, in the order in which it was pinned. Returns the debits and the pins left.
local function debit_pins(wallet, code, pins, units)
  local asset, debits, left = asset_of(wallet, code), {}, {}
  local by_id = grants_of(wallet, code, asset, pins)
  for _, pin in ipairs(pins) do
    local grant_id, debited = pin[1], math.min(pin[2], units)
    units = units - debited
    if debited > 0 then
      debits[#debits + 1] = { grant_id, debited }
      if grant_id == '' then
        asset.overdraft_held = asset.overdraft_held - debited
        asset.debt = asset.debt + debited
      else
        by_id[grant_id][PINNED] = by_id[grant_id][PINNED] - debited
        asset.pinned = asset.pinned - debited
      end
    end
    if pin[2] > debited then
      left[#left + 1] = { grant_id, pin[2] - debited }
    end
  end
  asset.changed = true
  return debits, left
end

-- Units come back to a grant. One that expired or was voided meanwhile keeps none of them.
local function give(wallet, code, asset, grant, units)
  grant[FREE] = grant[FREE] + units
  asset.free = asset.free + units
  if grant[VOIDED] then
    drain(wallet, code, asset, grant, units, 'VOID')
  elseif is_over(grant, wallet.now) then
    drain(wallet, code, asset, grant, units, 'EXPIRE')
  end
end

-- Gives pinned units back to the grants they came from.
local function unpin(wallet, code, pins)
  local asset = asset_of(wallet, code)
  local by_id = grants_of(wallet, code, asset, pins)
  for _, pin in ipairs(pins) do
    local grant_id, units = pin[1], pin[2]
    if grant_id == '' then
      asset.overdraft_held = asset.overdraft_held - units
    else
      by_id[grant_id][PINNED] = by_id[grant_id][PINNED] - units
      asset.pinned = asset.pinned - units
      give(wallet, code, asset, by_id[grant_id], units)
    end
  end
  tidy(wallet, code, asset)
end

local function balance_of(wallet, code, with_grants)
  local asset = asset_of(wallet, code)
  if not asset then
    return {
      asset = code, settled = 0, held = 0, available = 0, debt = 0, overdraft_limit = 0, grants = {}, scheduled = {},
    }
  end
  -- Settled is summed from the grants rather than derived, so that available + held = settled + overdraft limit
  -- is a check of the books and not a definition.
  if with_grants then
    read_rest(wallet, code, asset)
  end
  local settled, grants, scheduled = asset.unread_units - asset.debt, {}, {}
  local function describe(grant)
    return {
      grant_id = grant[ID], free = grant[FREE], pinned = grant[PINNED], priority = grant[PRIORITY],
      source = grant[SOURCE], effective_ms = grant[EFFECTIVE], expire_ms = grant[EXPIRE], create_ms = grant[CREATE],
    }
  end
  for i, grant in ipairs(asset.grants) do
    settled = settled + grant[FREE] + grant[PINNED]
    if with_grants then
      grants[i] = describe(grant)
    end
  end
  for i, grant in ipairs(with_grants and asset.scheduled or {}) do
    scheduled[i] = describe(grant)
  end
  return {
    asset = code, settled = settled, held = held_of(asset), available = available_of(asset), debt = asset.debt,
    overdraft_limit = asset.overdraft_limit, grants = grants, scheduled = scheduled,
  }
end
