-- grants.lua: grants stack; which of them pays. Works on the Lua tables of store.lua only, no Redis calls.
--
-- A grant is {id, free, pinned, priority, expire_ms, source, effective_ms, create_ms}: `free` units can be held,
-- `pinned` units belong to open holds. An asset keeps its live grants (free + pinned > 0) in burn order, and
-- available = sum of free - debt + overdraft limit, held = sum of pinned.

local ID, FREE, PINNED, PRIORITY, EXPIRE, SOURCE, EFFECTIVE, CREATE = 1, 2, 3, 4, 5, 6, 7, 8

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

local function add_grant(asset, grant)
  local place = #asset.grants + 1
  while place > 1 and burns_before(grant, asset.grants[place - 1]) do
    place = place - 1
  end
  table.insert(asset.grants, place, grant)
  asset.available = checked(asset.available + grant[FREE])
  checked(asset.available + asset.held) -- all of it may become available again
  asset.changed = true
end

-- Grants with nothing left are history; the ledger keeps them.
local function drop_empty_grants(asset)
  local live = {}
  for _, grant in ipairs(asset.grants) do
    if grant[FREE] + grant[PINNED] > 0 then
      live[#live + 1] = grant
    end
  end
  asset.grants = live
end

-- Takes `units` of free funds in burn order; the caller has checked that they are available.
-- Returns {{grant id, units}, ...}, and pins them when `pin` is true.
local function take(asset, units, pin)
  local taken = {}
  for _, grant in ipairs(asset.grants) do
    if units == 0 then
      break
    end
    local part = math.min(grant[FREE], units)
    if part > 0 then
      grant[FREE] = grant[FREE] - part
      if pin then
        grant[PINNED] = grant[PINNED] + part
      end
      taken[#taken + 1] = { grant[ID], part }
      units = units - part
      asset.available = asset.available - part
    end
  end
  if units ~= 0 then
    error('the grants do not add up to the available units')
  end
  asset.changed = true
  return taken
end

local function pin_units(asset, units)
  asset.held = asset.held + units
  return take(asset, units, true)
end

-- Ends the pins of a hold: `used` units are debited from the pinned grants in the order in which they were pinned,
-- the rest becomes free again in the same grants. Returns {{grant id, debited units}, ...}.
local function settle_pins(asset, pins, used)
  local grants_by_id = {}
  for _, grant in ipairs(asset.grants) do
    grants_by_id[grant[ID]] = grant
  end
  local debits = {}
  for _, pin in ipairs(pins) do
    local grant, units = grants_by_id[pin[1]], pin[2]
    local debited = math.min(units, used)
    local given_back = units - debited
    used = used - debited
    grant[PINNED] = grant[PINNED] - units
    grant[FREE] = grant[FREE] + given_back
    asset.held = asset.held - units
    asset.available = asset.available + given_back
    if debited > 0 then
      debits[#debits + 1] = { pin[1], debited }
    end
  end
  drop_empty_grants(asset)
  asset.changed = true
  return debits
end

-- Debits free funds at once, for usage that is no longer pinned.
local function debit_free(asset, units)
  local debits = take(asset, units, false)
  drop_empty_grants(asset)
  return debits
end

local function balance_of(code, asset, with_grants)
  asset = asset or { available = 0, held = 0, debt = 0, overdraft_limit = 0, grants = {} }
  -- Settled is summed from the grants rather than derived, so that available + held = settled + overdraft limit
  -- is a check of the books and not a definition.
  local settled, grants = -asset.debt, {}
  for i, grant in ipairs(asset.grants) do
    settled = settled + grant[FREE] + grant[PINNED]
    if with_grants then
      grants[i] = {
        grant_id = grant[ID], free = grant[FREE], pinned = grant[PINNED], priority = grant[PRIORITY],
        source = grant[SOURCE], effective_ms = grant[EFFECTIVE], expire_ms = grant[EXPIRE],
        create_ms = grant[CREATE],
      }
    end
  end
  return {
    asset = code, settled = settled, held = asset.held, available = asset.available, debt = asset.debt,
    overdraft_limit = asset.overdraft_limit, grants = grants,
  }
end
