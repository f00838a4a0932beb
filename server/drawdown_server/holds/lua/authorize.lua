-- authorize.lua: place a hold if the wallet can pay for it.
--
-- ARGV   request: epoch, tenant_id, wallet_id, hold_id, fingerprint, amounts {asset, units, known}, ttl_ms, subjects,
--        overage_policy, expiry_action, labels, open_holds_max, tombstone_ms
-- Reply  OK {hold, balances, replayed} | DENIED {reason, asset, required, available, balances}
--        | ID_REUSED {fingerprint of the first call} | NOT_LOADED | STALE_EPOCH
-- Checks, the first that fails decides: epoch; hold id known; wallet loaded; wallet state; due holds are freed;
--        open-hold limit; assets; funds. All of them before the first write.
-- OOM    refused by a full Redis: it must not take the memory that settling needs.

-- The same hold id again. Only a release is an answer of its own: its hold can never be committed.
local function replay_authorize(keys, request, hold)
  local wallet = open_wallet(keys, request)
  if hold.fingerprint ~= '' and hold.fingerprint ~= request.fingerprint then
    return { status = 'ID_REUSED', fingerprint = hold.fingerprint }
  end
  if hold.state == 'RELEASED' then
    return { status = 'DENIED', reason = 'HOLD_RELEASED', replayed = true, balances = hold_balances(wallet, hold) }
  end
  return { status = 'OK', hold = hold_reply(hold), balances = hold_balances(wallet, hold), replayed = true }
end

-- The first check that fails, or nil.
local function refusal(wallet, request, open_holds)
  if open_holds >= request.open_holds_max then
    return { reason = 'TOO_MANY_HOLDS' }
  end
  for _, amount in ipairs(request.amounts) do
    if not amount.known then
      return { reason = 'ASSET_NOT_FOUND', asset = amount.asset }
    end
  end
  for _, amount in ipairs(request.amounts) do
    local asset = asset_of(wallet, amount.asset)
    local available = asset and asset.available or 0
    if available < checked_amount(amount.units) then
      return {
        reason = 'INSUFFICIENT_FUNDS', asset = amount.asset, required = amount.units, available = available,
      }
    end
  end
  return nil
end

local function requested_balances(wallet, request)
  local balances = {}
  for i, amount in ipairs(request.amounts) do
    balances[i] = balance_of(amount.asset, asset_of(wallet, amount.asset), false)
  end
  return balances
end

local function place_hold(wallet, request)
  local hold = {
    hold_id = request.hold_id, state = 'HELD', fingerprint = request.fingerprint, amounts = {},
    create_ms = wallet.now, expire_ms = wallet.now + request.ttl_ms, settle_ms = 0, subjects = request.subjects,
    overage_policy = request.overage_policy, expiry_action = request.expiry_action, labels = request.labels,
    late = false, wallet_sequence = 0,
  }
  for i, amount in ipairs(request.amounts) do
    hold.amounts[i] = {
      asset = amount.asset, authorized = amount.units, held = amount.units, debited = 0, uncollected = 0,
      pins = pin_units(asset_of(wallet, amount.asset), amount.units),
    }
  end
  queue(wallet, 'HSET', wallet.keys[HOLDS], hold.hold_id, pack_hold(hold))
  queue(wallet, 'ZADD', wallet.keys[OPEN], hold.expire_ms, hold.hold_id)
  due_by(wallet, hold.expire_ms)
  return hold
end

local function authorize(keys, args)
  local request = cmsgpack.unpack(args[1])
  if epoch_is_stale(keys, request) then
    return answer({ status = 'STALE_EPOCH' })
  end
  local known = find_hold(keys, request.hold_id)
  if known then
    return answer(replay_authorize(keys, request, known))
  end
  local wallet = open_wallet(keys, request)
  if not wallet then
    return answer({ status = 'NOT_LOADED' })
  end
  if wallet.state ~= 'ACTIVE' then
    return answer({
      status = 'DENIED', reason = 'WALLET_' .. wallet.state, balances = requested_balances(wallet, request),
    })
  end
  local open_holds = redis.call('ZCARD', keys[OPEN])
  local denial, expired = refusal(wallet, request, open_holds), 0
  while denial do
    -- Only a call that would be denied waits for due holds to be freed; the sweep frees the others.
    local freed = expire_chunk(wallet, request.tombstone_ms, expired)
    if freed == 0 then
      break
    end
    expired = expired + freed
    denial = refusal(wallet, request, open_holds - expired)
  end
  if denial then
    if expired > 0 then
      save(wallet)
    end
    denial.status = 'DENIED'
    denial.balances = requested_balances(wallet, request)
    return answer(denial)
  end
  local hold = place_hold(wallet, request)
  save(wallet)
  return answer({
    status = 'OK', hold = hold_reply(hold), balances = requested_balances(wallet, request), replayed = false,
  })
end
