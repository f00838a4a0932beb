-- assets.lua: how the assets of a wallet are kept, and read as far as they are needed.
--
-- An asset is two fields of the wallet hash: `USD` has its numbers and the head of its stack, which is all that most
-- calls need; `USD+`, if there is more, has the rest of the stack and the scheduled grants, in which time next changes
-- something at `rest_ms`. Of the head too a call unpacks only the grants that it needs: `grants` are the first of the
-- stack, up to `head_place` in the text `head`, and `unread_units` are the units of all the others. Once the rest is
-- read, `grants` is the whole stack and `scheduled` is there.

-- Grants with free units in the head of a stack. Those before them whose units are all pinned are in the head too: most
-- calls find free units there until these are used up. A stack of at most twice as many is all head: reading a field
-- costs as much as a few grants.
local HEAD_GRANTS = 4
local REST = '+'

local function sooner(one, other)
  return (one == 0 or (other ~= 0 and other < one)) and other or one
end

-- When a scheduled grant can begin. One that is effective at once (0) and waits for room is due: 0 would mean never.
local function begins_ms(grant)
  return math.max(1, grant[EFFECTIVE])
end

-- Grants are kept as one text, a record after the other: id (it has no zero byte), free, pinned, priority, expire_ms,
-- source, effective_ms, create_ms, voided. A time has 6 bytes, enough until the year 10889.
local GRANT = '<sddi4I6BI6I6B'

local function pack_grants(grants)
  local records = {}
  for i, g in ipairs(grants) do
    records[i] = struct.pack(
      GRANT, g[ID], g[FREE], g[PINNED], g[PRIORITY], g[EXPIRE], WORDS[g[SOURCE]], g[EFFECTIVE], g[CREATE],
      g[VOIDED] and 1 or 0
    )
  end
  return table.concat(records)
end

-- Adds the grant at a place of a text to a list. Returns the place of the next one, and the grant.
local function unpack_grant(grants, text, place)
  local id, free, pinned, priority, expire_ms, source, effective_ms, create_ms, voided, next_place =
    struct.unpack(GRANT, text, place)
  local grant = { id, free, pinned, priority, expire_ms, WORDS[source], effective_ms, create_ms, voided == 1 }
  grants[#grants + 1] = grant
  return next_place, grant
end

local function has_unread_head(asset)
  return asset.head_place <= #asset.head
end

-- Reads one more grant of the head, if there is one.
local function read_grant(asset)
  if has_unread_head(asset) then
    local next_place, grant = unpack_grant(asset.grants, asset.head, asset.head_place)
    asset.head_place = next_place
    asset.unread_units = asset.unread_units - grant[FREE] - grant[PINNED]
    return true
  end
  return false
end

local function unpack_asset(packed)
  local free, pinned, debt, overdraft_limit, overdraft_held, next_ms, units, has_rest, rest_ms, head =
    cmsgpack.unpack(packed)
  return {
    free = free, pinned = pinned, debt = debt, overdraft_limit = overdraft_limit, overdraft_held = overdraft_held,
    next_ms = next_ms, grants = {}, head = head, head_place = 1, unread_units = units, rest_ms = rest_ms,
    has_rest = has_rest, scheduled = not has_rest and {} or nil,
  }
end

-- Reads the assets of amounts that are not known yet. False: the wallet never had any.
local function read_assets(wallet, amounts)
  local codes = {}
  for _, amount in ipairs(amounts) do
    if wallet.assets[amount.asset] == nil then
      codes[#codes + 1] = amount.asset
    end
  end
  if #codes > 0 then
    for i, packed in ipairs(redis.call('HMGET', wallet.keys[WALLET], unpack(codes))) do
      wallet.assets[codes[i]] = packed and unpack_asset(packed)
    end
  end
end

-- Reads all that there is of an asset.
local function read_rest(wallet, code, asset)
  while read_grant(asset) do end
  if not asset.scheduled then
    local rest, scheduled = cmsgpack.unpack(redis.call('HGET', wallet.keys[WALLET], code .. REST))
    asset.head, asset.head_place = rest, 1
    while read_grant(asset) do end
    asset.scheduled, asset.rest_ms = {}, 0
    local place = 1
    while place <= #scheduled do
      place = unpack_grant(asset.scheduled, scheduled, place)
    end
  end
end

-- Parts a whole stack again. Returns the rest, packed; nil if there is none.
local function cut_rest(asset)
  local rest, free_grants, is_long = {}, 0, #asset.grants > 2 * HEAD_GRANTS
  for place, grant in ipairs(asset.grants) do
    if is_long and free_grants == HEAD_GRANTS then
      rest[#rest + 1] = grant
      asset.grants[place] = nil
      asset.unread_units = asset.unread_units + grant[FREE] + grant[PINNED]
      asset.rest_ms = sooner(asset.rest_ms, grant[FREE] > 0 and grant[EXPIRE] or 0)
    elseif grant[FREE] > 0 then
      free_grants = free_grants + 1
    end
  end
  if asset.scheduled[1] then
    asset.rest_ms = sooner(asset.rest_ms, begins_ms(asset.scheduled[1]))
  end
  return (#rest > 0 or asset.scheduled[1]) and cmsgpack.pack(pack_grants(rest), pack_grants(asset.scheduled)) or nil
end

local function pack_asset(asset, has_rest)
  local units = asset.unread_units
  for _, grant in ipairs(asset.grants) do
    units = units + grant[FREE] + grant[PINNED]
  end
  checked(asset.free + asset.pinned) -- all of it may become free again
  return cmsgpack.pack(
    checked(asset.free), checked(asset.pinned), checked(asset.debt), asset.overdraft_limit,
    checked(asset.overdraft_held), asset.next_ms, units, has_rest, asset.rest_ms,
    pack_grants(asset.grants) .. asset.head:sub(asset.head_place)
  )
end

-- Adds a changed asset to the fields to write.
local function add_asset(wallet, fields, code, asset)
  local has_rest = asset.has_rest
  if asset.scheduled and not has_unread_head(asset) then
    local rest = cut_rest(asset)
    if rest then
      fields[#fields + 1] = code .. REST
      fields[#fields + 1] = rest
    elseif has_rest then
      queue(wallet, 'HDEL', wallet.keys[WALLET], code .. REST)
    end
    has_rest = rest ~= nil
  end
  fields[#fields + 1] = code
  fields[#fields + 1] = pack_asset(asset, has_rest)
end
