-- evict.lua: take an idle wallet out of Redis. Its next use loads it again, exactly as it was: nothing is evicted that
-- Postgres could not bring back.
--
-- ARGV   request: epoch, tenant_id, wallet_id, and what Postgres has of the wallet: sequence, applied_change_number,
--        change_number (the newest one)
-- Reply  OK | HAS_HOLDS | NOT_RECORDED | TOO_YOUNG | NOT_LOADED | STALE_EPOCH
-- Checks, the first that fails decides: epoch; wallet loaded; no hold, open or settled (a settled one answers repeats
--        until its window is over); Postgres has recorded and applied everything, also what time has done by now; age.
-- OOM    allowed: it gives memory back.

-- Longer than a ticket lives (load.lua). A ticket is taken while the wallet is not here; so whatever happened to the
-- wallet since, and was evicted with it, has outlived the ticket.
local LIVE_MIN_MS = 2 * TICKET_MAX_MS

local function is_recorded(wallet, request)
  local sequence, number = wallet.sequence, wallet.change_number
  for _, code in ipairs(asset_codes(wallet)) do
    asset_of(wallet, code) -- what time has done raises the sequence
  end
  return sequence == request.sequence and wallet.sequence == sequence
    and number == request.applied_change_number and number == request.change_number
end

VERBS.evict = reads(function(wallet, request)
  local keys = wallet.keys
  if redis.call('EXISTS', keys[HOLDS]) == 1 then
    return { status = 'HAS_HOLDS' }
  end
  if not is_recorded(wallet, request) then
    return { status = 'NOT_RECORDED' }
  end
  if wallet.now - wallet.loaded_ms < LIVE_MIN_MS then
    return { status = 'TOO_YOUNG' }
  end
  redis.call('DEL', keys[WALLET], keys[HOLDS], keys[OPEN], keys[SETTLED], keys[CAPS])
  redis.call('ZREM', keys[DUE], wallet.tenant_id .. '|' .. wallet.wallet_id)
  return { status = 'OK' }
end)
