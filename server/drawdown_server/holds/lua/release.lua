-- release.lua: give everything back that is still held.
--
-- ARGV   request: epoch, tenant_id, wallet_id, hold_id, tombstone_ms, bury (whether an unknown hold gets a tombstone),
--        forced (by an operator: the hold counts as expired, and its usage can still be committed)
-- Reply  OK {hold, balances, replayed} | HOLD_UNKNOWN | HOLD_COMMITTED {hold} | NOT_LOADED | STALE_EPOCH
-- Checks, the first that fails decides: epoch; wallet loaded; hold known; hold committed; hold released (the same
--        answer again).
-- OOM    allowed: a full Redis must not trap money. With `bury` it goes by the name bury, and is refused.

-- The hold of a Release that came before its Authorize: it holds nothing, and never will.
local function tombstone(wallet, request)
  return {
    hold_id = request.hold_id, state = 'HELD', fingerprint = '', amounts = {}, create_ms = wallet.now,
    expire_ms = 0, settle_ms = 0, subjects = {}, expiry_action = 'RELEASE', labels = '', late = false,
    wallet_sequence = 0, way = 0, refunds = {},
  }
end

local function release_hold(wallet, request, hold)
  touch_assets(wallet, hold.amounts)
  local buried = hold.fingerprint == ''
  if is_due(wallet, hold) and not buried then
    expire_hold(wallet, hold, request.tombstone_ms)
  end
  if hold.state == 'COMMITTED' then
    return { status = 'HOLD_COMMITTED', hold = hold_reply(hold) }
  end
  local final = request.forced and not buried and 'EXPIRED' or 'RELEASED'
  local replayed = hold.state == 'RELEASED' or hold.state == final
  if not replayed then
    give_back(wallet, hold)
    record_time(wallet, hold)
    close_hold(wallet, hold, final, request.tombstone_ms)
  end
  return { status = 'OK', hold = hold_reply(hold), balances = hold_balances(wallet, hold), replayed = replayed }
end

VERBS.release = writes(function(wallet, request)
  local hold = find_hold(wallet, request.hold_id) or (request.bury and tombstone(wallet, request))
  return hold and release_hold(wallet, request, hold) or { status = 'HOLD_UNKNOWN' }
end)
