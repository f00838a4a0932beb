-- verbs.lua: how every verb begins and ends.

local function save(wallet)
  if #wallet.lines > 0 then
    error('lines without an event')
  end
  keep_counters(wallet)
  local fields = {}
  for code, asset in pairs(wallet.assets) do
    if asset and asset.changed then
      add_asset(wallet, fields, code, asset)
    end
  end
  -- From here on nothing can fail.
  for _, write in ipairs(wallet.writes) do
    local reply = redis.call(unpack(write))
    if write[1] == 'XADD' then
      wallet.appended_ms = appended_ms(reply)
    end
  end
  redis.call('HSET', wallet.keys[WALLET], 'head', cmsgpack.pack({
    wallet.state, wallet.sequence, wallet.change_number, wallet.due_ms, wallet.loaded_ms, wallet.has_caps,
    wallet.appended_ms, FORMAT,
  }), unpack(fields))
  -- From the last event on if that is later than the clock says: the sweep compares this time with the outbox's ids.
  for hold_id, tombstone_ms in pairs(wallet.forget) do
    local from_ms = math.max(wallet.now, wallet.appended_ms)
    redis.call('ZADD', wallet.keys[SETTLED], from_ms + tombstone_ms, hold_id)
  end
  for _, removal in ipairs(wallet.removals) do
    redis.call(unpack(removal))
  end
end

local VERBS = {} -- the library's functions, by name

-- `act(wallet, request)` makes the reply; it is asked once the epoch is known to be good and the wallet is here.

-- A verb that saves nothing, unless its `act` does.
local function reads(act)
  return function(keys, args)
    local request = cmsgpack.unpack(args[1])
    if epoch_is_stale(keys, request) then
      return answer({ status = 'STALE_EPOCH' })
    end
    local wallet = open_wallet(keys, request)
    return answer(wallet and act(wallet, request) or { status = 'NOT_LOADED' })
  end
end

-- Saves what was changed on the way to a reply, if anything.
local function saved(wallet, reply)
  if #wallet.writes > 0 then
    save(wallet)
  end
  return reply
end

local function writes(act)
  return reads(function(wallet, request)
    return saved(wallet, act(wallet, request))
  end)
end
