-- release.lua: give everything back.
--
-- ARGV   request: epoch, tenant_id, wallet_id, hold_id, tombstone_ms, bury (whether an unknown hold gets a tombstone)
-- Reply  OK {hold, balances, replayed} | HOLD_UNKNOWN | HOLD_COMMITTED {hold} | NOT_LOADED | STALE_EPOCH
-- Checks, the first that fails decides: epoch; wallet loaded; hold known; hold committed; hold released (the same
--        answer again).
-- OOM    allowed: a full Redis must not trap money.

-- The hold of a Release that came before its Authorize: it holds nothing, and never will.
local function tombstone(wallet, request)
  return {
    hold_id = request.hold_id, state = 'RELEASED', fingerprint = '', amounts = {}, create_ms = wallet.now,
    expire_ms = 0, settle_ms = 0, subjects = {}, overage_policy = 'REJECT', expiry_action = 'RELEASE', labels = '',
    late = false, wallet_sequence = 0,
  }
end

local function release(keys, args)
  local request = cmsgpack.unpack(args[1])
  if epoch_is_stale(keys, request) then
    return answer({ status = 'STALE_EPOCH' })
  end
  local wallet = open_wallet(keys, request)
  if not wallet then
    return answer({ status = 'NOT_LOADED' })
  end
  local hold = find_hold(keys, request.hold_id)
  if not hold then
    if not request.bury then
      return answer({ status = 'HOLD_UNKNOWN' })
    end
    hold = tombstone(wallet, request)
  elseif hold.state == 'COMMITTED' then
    return answer({ status = 'HOLD_COMMITTED', hold = hold_reply(hold) })
  elseif hold.state == 'RELEASED' then
    return answer({
      status = 'OK', hold = hold_reply(hold), balances = hold_balances(wallet, hold), replayed = true,
    })
  end
  give_back(wallet, hold)
  close_hold(wallet, hold, 'RELEASED', request.tombstone_ms)
  save(wallet)
  return answer({
    status = 'OK', hold = hold_reply(hold), balances = hold_balances(wallet, hold), replayed = false,
  })
end
