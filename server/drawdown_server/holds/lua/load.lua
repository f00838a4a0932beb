-- load.lua: bring a wallet from Postgres, as of the last event that Postgres recorded, and apply the changes that came
-- after it in the same step: nobody may see a wallet that is already frozen there as active.
--
-- ARGV   request: epoch, tenant_id, wallet_id, ticket_ms (Redis TIME taken before Postgres was read), state, sequence,
--        change_number, assets {asset, debt, overdraft_limit, grants, scheduled (grants.lua says how a grant looks)},
--        caps, cap_usage {{counter, units}, ...}, changes (as in apply.lua, in order)
-- Reply  OK {loaded: whether this call did it} | TICKET_EXPIRED | STALE_EPOCH
-- Checks, the first that fails decides: epoch; already here (what is live is never overwritten); ticket.

-- A wallet stays in Redis for longer than a ticket lives, so a slow reader of Postgres can never put back a
-- state from before the wallet was here. A ticket from the future is of a clock that was set back since: nobody knows
-- how old it is.
local TICKET_MAX_MS = 30000

local function load_asset(wallet, row)
  local asset = new_asset(wallet, row.asset)
  asset.debt = row.debt
  asset.overdraft_limit = row.overdraft_limit
  for _, grant in ipairs(row.grants) do
    insert_sorted(asset.grants, grant, burns_before)
    asset.free = asset.free + grant[FREE]
  end
  -- What was pinned when its grant was voided came back as free: no hold survives a load.
  for _, grant in ipairs(asset.grants) do
    if grant[VOIDED] and grant[FREE] > 0 then
      drain(wallet, row.asset, asset, grant, grant[FREE], 'VOID')
    end
  end
  for _, grant in ipairs(row.scheduled) do
    insert_sorted(asset.scheduled, grant, effective_before)
  end
  -- Units of a hold that was lost with an older Redis are free again: they may stand beside a debt now.
  repay_debt(wallet, row.asset, asset)
  record_time(wallet)
  drop_and_plan(wallet, asset)
end

function VERBS.load(keys, args)
  local request = cmsgpack.unpack(args[1])
  if epoch_is_stale(keys, request) then
    return answer({ status = 'STALE_EPOCH' })
  end
  if redis.call('EXISTS', keys[WALLET]) == 1 then
    return answer({ status = 'OK', loaded = false })
  end
  local now = now_ms()
  if now < request.ticket_ms or now - request.ticket_ms > TICKET_MAX_MS then
    return answer({ status = 'TICKET_EXPIRED' })
  end
  local wallet = new_wallet(keys, request, now)
  wallet.state = request.state
  wallet.sequence = request.sequence
  wallet.change_number = request.change_number
  wallet.due_ms = 0
  wallet.loaded_ms = now
  wallet.has_caps = false
  for _, row in ipairs(request.assets) do
    load_asset(wallet, row)
  end
  if #request.caps > 0 then
    keep_caps(wallet, request.caps)
  end
  for _, usage in ipairs(request.cap_usage) do
    queue(wallet, 'HSET', keys[CAPS], usage[1], string.format('%d', usage[2]))
  end
  for _, change in ipairs(request.changes) do
    apply_change(wallet, change)
  end
  save(wallet)
  return answer({ status = 'OK', loaded = true })
end
