-- read.lua: look, and change nothing.
--
-- read_wallet  ARGV request: epoch, tenant_id, wallet_id, assets (none: all), with_grants
--              Reply OK {wallet {state, sequence, change_number, open_holds, balances}} | NOT_LOADED | STALE_EPOCH
-- read_caps    ARGV request: epoch, tenant_id, wallet_id, subjects
--              Reply OK {caps, usage (as they stand for the named subjects, the whole wallet and exact subjects)} | ...
-- read_hold    ARGV request: epoch, tenant_id, wallet_id, hold_id
--              Reply OK {hold} | HOLD_UNKNOWN | NOT_LOADED | STALE_EPOCH
-- list_holds   ARGV request: epoch, tenant_id, wallet_id, after_ms, after_id, limit
--              Reply OK {holds, soonest expiry first, after (after_ms, after_id)} | NOT_LOADED | STALE_EPOCH

local function read_wallet(keys, args)
  local request = cmsgpack.unpack(args[1])
  if epoch_is_stale(keys, request) then
    return answer({ status = 'STALE_EPOCH' })
  end
  local wallet = open_wallet(keys, request)
  if not wallet then
    return answer({ status = 'NOT_LOADED' })
  end
  -- As of now: what time did is in the numbers, and becomes an event with the next call that writes.
  local sequence, balances = wallet.sequence, {}
  for i, code in ipairs(#request.assets > 0 and request.assets or asset_codes(keys)) do
    balances[i] = balance_of(code, asset_of(wallet, code), request.with_grants)
  end
  return answer({
    status = 'OK',
    wallet = {
      state = wallet.state, sequence = sequence, change_number = wallet.change_number,
      open_holds = redis.call('ZCARD', keys[OPEN]), balances = balances,
    },
  })
end

local function read_hold(keys, args)
  local request = cmsgpack.unpack(args[1])
  if epoch_is_stale(keys, request) then
    return answer({ status = 'STALE_EPOCH' })
  end
  if redis.call('EXISTS', keys[WALLET]) == 0 then
    return answer({ status = 'NOT_LOADED' })
  end
  local hold = find_hold(keys, request.hold_id)
  if not hold then
    return answer({ status = 'HOLD_UNKNOWN' })
  end
  return answer({ status = 'OK', hold = hold_reply(hold) })
end

local LIST_CHUNK = 256 -- holds read at a time while looking for the first one after the page before

local function list_holds(keys, args)
  local request = cmsgpack.unpack(args[1])
  if epoch_is_stale(keys, request) then
    return answer({ status = 'STALE_EPOCH' })
  end
  if redis.call('EXISTS', keys[WALLET]) == 0 then
    return answer({ status = 'NOT_LOADED' })
  end
  local holds, offset = {}, 0
  while #holds < request.limit do
    local entries = redis.call(
      'ZRANGEBYSCORE', keys[OPEN], request.after_ms, '+inf', 'WITHSCORES', 'LIMIT', offset, LIST_CHUNK
    )
    for i = 1, #entries, 2 do
      local is_after = tonumber(entries[i + 1]) > request.after_ms or text_before(request.after_id, entries[i])
      if is_after and #holds < request.limit then
        holds[#holds + 1] = hold_reply(find_hold(keys, entries[i]))
      end
    end
    if #entries < 2 * LIST_CHUNK then
      break
    end
    offset = offset + LIST_CHUNK
  end
  return answer({ status = 'OK', holds = holds })
end

-- How every cap stands: for the subject it names, or for those of the request that a prefix cap covers.
local function read_caps(keys, args)
  local request = cmsgpack.unpack(args[1])
  if epoch_is_stale(keys, request) then
    return answer({ status = 'STALE_EPOCH' })
  end
  local wallet = open_wallet(keys, request)
  if not wallet then
    return answer({ status = 'NOT_LOADED' })
  end
  local seen, subjects, assets, usage = {}, {}, {}, {}
  for _, cap in ipairs(caps_of(wallet)) do
    assets[cap.asset] = true
    if cap.subject ~= '' and cap.subject:sub(-1) ~= '*' and not seen[cap.subject] then
      seen[cap.subject] = true
      subjects[#subjects + 1] = cap.subject
    end
  end
  for _, subject in ipairs(request.subjects) do
    if not seen[subject] then
      seen[subject] = true
      subjects[#subjects + 1] = subject
    end
  end
  local codes = {}
  for code in pairs(assets) do
    codes[#codes + 1] = code
  end
  table.sort(codes, text_before)
  for _, subject in ipairs(with_wallet(subjects)) do
    for _, code in ipairs(codes) do
      for _, met in ipairs(caps_met(wallet, subject, code)) do
        usage[#usage + 1] = cap_status(met)
      end
    end
  end
  return answer({ status = 'OK', caps = caps_of(wallet), usage = usage })
end
