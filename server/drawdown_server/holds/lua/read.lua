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

VERBS.read_wallet = reads(function(wallet, request)
  -- As of now: what time did is in the numbers, and becomes an event with the next call that writes.
  local sequence, balances = wallet.sequence, {}
  for i, code in ipairs(#request.assets > 0 and request.assets or asset_codes(wallet)) do
    balances[i] = balance_of(wallet, code, request.with_grants)
  end
  return {
    status = 'OK',
    wallet = {
      state = wallet.state, sequence = sequence, change_number = wallet.change_number,
      open_holds = redis.call('ZCARD', wallet.keys[OPEN]), balances = balances,
    },
  }
end)

VERBS.read_hold = reads(function(wallet, request)
  local hold = find_hold(wallet, request.hold_id)
  return hold and { status = 'OK', hold = hold_reply(hold) } or { status = 'HOLD_UNKNOWN' }
end)

local LIST_CHUNK = 256 -- holds read at a time while looking for the first one after the page before

VERBS.list_holds = reads(function(wallet, request)
  local holds, offset = {}, 0
  while #holds < request.limit do
    local entries = redis.call(
      'ZRANGEBYSCORE', wallet.keys[OPEN], request.after_ms, '+inf', 'WITHSCORES', 'LIMIT', offset, LIST_CHUNK
    )
    for i = 1, #entries, 2 do
      local is_after = tonumber(entries[i + 1]) > request.after_ms or text_before(request.after_id, entries[i])
      if is_after and #holds < request.limit then
        holds[#holds + 1] = hold_reply(find_hold(wallet, entries[i]))
      end
    end
    if #entries < 2 * LIST_CHUNK then
      break
    end
    offset = offset + LIST_CHUNK
  end
  return { status = 'OK', holds = holds }
end)

-- How every cap stands: for the subject it names, or for those of the request that a prefix cap covers.
VERBS.read_caps = reads(function(wallet, request)
  local seen, subjects, amounts, caps, usage = {}, {}, {}, list_caps(wallet), {}
  for _, cap in ipairs(caps) do
    local subject = cap.subject
    if subject ~= '' and subject:sub(-1) ~= '*' and not seen[subject] then
      seen[subject] = true
      subjects[#subjects + 1] = subject
    end
  end
  for _, subject in ipairs(request.subjects) do
    if not seen[subject] then
      seen[subject] = true
      subjects[#subjects + 1] = subject
    end
  end
  for code in pairs(caps_of(wallet)) do
    amounts[#amounts + 1] = { asset = code }
  end
  table.sort(amounts, function(a, b) return text_before(a.asset, b.asset) end)
  for i, met in ipairs(caps_met(wallet, subjects, amounts)) do
    usage[i] = cap_status(wallet, met, units_used(wallet, met))
  end
  return { status = 'OK', caps = caps, usage = usage }
end)
