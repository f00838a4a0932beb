-- authorize.lua: place a hold if the wallet can pay for it.
--
-- ARGV   request: epoch, tenant_id, wallet_id, hold_id, fingerprint, ways {{asset, units, min_units, overage_policy,
--        known}, ...}, ttl_ms, subjects, expiry_action, labels, open_holds_max, outbox_backlog_limit, tombstone_ms
-- Reply  OK {hold, balances, replayed, observed} | DENIED {reason, asset, required, available, cap, balances}
--        | ID_REUSED {fingerprint of the first call} | BACKLOG_FULL | NOT_LOADED | STALE_EPOCH
-- Checks, the first that fails decides: epoch; wallet loaded; hold id known; backlog of the outbox; wallet state; (due
--        holds and grants of this wallet expire;) open-hold limit; then for each way to pay, in order: assets; funds;
--        caps. The first way that passes is taken, else the refusal of the first way is the answer. All checks before
--        the first write.
-- OOM    refused by a full Redis: it must not take the memory that settling needs.

-- The same id again. Only a release is an answer of its own: its hold can never be committed.
local function replay(wallet, request, hold)
  if hold.fingerprint ~= '' and hold.fingerprint ~= request.fingerprint then
    return { status = 'ID_REUSED', fingerprint = hold.fingerprint }
  end
  if hold.state == 'RELEASED' then
    return { status = 'DENIED', reason = 'HOLD_RELEASED', replayed = true, balances = hold_balances(wallet, hold) }
  end
  return { status = 'OK', hold = hold_reply(hold), balances = hold_balances(wallet, hold), replayed = true }
end

local function balances_of(wallet, amounts)
  local balances = {}
  for i, amount in ipairs(amounts) do
    balances[i] = balance_of(wallet, amount.asset, false)
  end
  return balances
end

local function denied(wallet, amounts, denial)
  denial.status = 'DENIED'
  denial.balances = balances_of(wallet, amounts)
  return denial
end

-- How many units of an amount are held: all, or with min_units as many as funds and caps leave.
local function units_to_hold(wallet, request, amount)
  local asset = asset_of(wallet, amount.asset)
  local available, units = asset and available_of(asset) or 0, checked_amount(amount.units)
  if amount.min_units > 0 then
    units = math.min(units, available, cap_headroom(wallet, request.subjects, amount.asset))
    units = math.max(units, amount.min_units) -- less than that fails the checks
  end
  return units, available
end

-- What a way to pay would hold, {wanted {{asset, units, overage_policy}, ...}, caps met, caps observed}, or the first
-- check that it fails.
local function try_way(wallet, request, way)
  local wanted = {}
  check_distinct(way)
  touch_assets(wallet, way)
  for _, amount in ipairs(way) do
    if not amount.known then
      return nil, { reason = 'ASSET_NOT_FOUND', asset = amount.asset }
    end
  end
  for i, amount in ipairs(way) do
    local units, available = units_to_hold(wallet, request, amount)
    if units > available then
      return nil, {
        reason = 'INSUFFICIENT_FUNDS', asset = amount.asset, required = units, available = available,
      }
    end
    wanted[i] = { asset = amount.asset, units = units, overage_policy = amount.overage_policy }
  end
  local met = caps_met(wallet, request.subjects, wanted)
  local cap, observed = check_caps(wallet, met, wanted)
  if cap then
    return nil, { reason = 'CAP_EXCEEDED', asset = cap.asset, cap = cap }
  end
  return { wanted = wanted, met = met, observed = observed }
end

local function new_hold(wallet, request, way)
  return {
    hold_id = request.hold_id, state = 'HELD', fingerprint = request.fingerprint, amounts = {},
    create_ms = wallet.now, expire_ms = 0, settle_ms = 0, subjects = request.subjects,
    expiry_action = request.expiry_action or 'RELEASE', labels = request.labels, late = false, wallet_sequence = 0,
    way = way, refunds = {},
  }
end

local function new_amount(amount, met)
  return {
    asset = amount.asset, authorized = amount.units, held = 0, debited = 0, uncollected = 0, refunded = 0,
    overage_policy = amount.overage_policy, pins = {}, debits = {},
    counts = counts_of(met, amount.asset),
  }
end

local function place_hold(wallet, request, choice)
  local hold = new_hold(wallet, request, choice.index)
  hold.expire_ms = wallet.now + request.ttl_ms
  for i, want in ipairs(choice.wanted) do
    local amount = new_amount(want, choice.met)
    amount.pins = take(wallet, want.asset, want.units, true)
    amount.held = want.units
    hold.amounts[i] = amount
  end
  for _, amount in ipairs(hold.amounts) do
    count(wallet, amount)
  end
  keep_hold(wallet, hold)
  queue(wallet, 'ZADD', wallet.keys[OPEN], hold.expire_ms, hold.hold_id)
  due_by(wallet, hold.expire_ms)
  return hold
end

-- The first way that passes, with its index, or the refusal of the first one.
local function choose_way(wallet, request)
  local denial
  for i, way in ipairs(request.ways) do
    local choice, refused = try_way(wallet, request, way)
    if choice then
      choice.index = i - 1
      return choice
    end
    denial = denial or refused
  end
  return nil, denial
end

-- The answer that needs no decision about money, for which nothing is saved: also the first checks of charge.
local function early_answer(wallet, request, amounts)
  local known = find_hold(wallet, request.hold_id)
  if known then
    return replay(wallet, request, known)
  end
  if backlog_is_full(wallet, request) then
    return { status = 'BACKLOG_FULL' }
  end
  if wallet.state ~= 'ACTIVE' then
    return denied(wallet, amounts, { reason = 'WALLET_' .. wallet.state })
  end
  return nil
end

local function decide(wallet, request)
  local expired = expire_due(wallet, request.tombstone_ms)
  local choice, denial
  if redis.call('ZCARD', wallet.keys[OPEN]) - expired >= request.open_holds_max then
    touch_assets(wallet, request.ways[1])
    denial = { reason = 'TOO_MANY_HOLDS' }
  else
    choice, denial = choose_way(wallet, request)
  end
  if denial then
    return denied(wallet, request.ways[1], denial)
  end
  local hold = place_hold(wallet, request, choice)
  return {
    status = 'OK', hold = hold_reply(hold), balances = balances_of(wallet, choice.wanted), replayed = false,
    observed = choice.observed,
  }
end

VERBS.authorize = reads(function(wallet, request)
  return early_answer(wallet, request, request.ways[1]) or saved(wallet, decide(wallet, request))
end)
