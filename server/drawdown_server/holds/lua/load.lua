-- load.lua: bring a wallet from Postgres, as of the last event that Postgres recorded, and apply the changes that came
-- after it in the same step: nobody may see a wallet that is already frozen there as active.
--
-- ARGV   request: epoch, tenant_id, wallet_id, ticket_ms (Redis TIME taken before Postgres was read), state, sequence,
--        change_number, assets {asset, debt, overdraft_limit, grants {id, free, 0, priority, expire_ms, source,
--        effective_ms, create_ms}}, changes (as in apply.lua, in order)
-- Reply  OK {loaded: whether this call did it} | TICKET_EXPIRED | STALE_EPOCH
-- Checks, the first that fails decides: epoch; already here (what is live is never overwritten); ticket.

-- A wallet stays in Redis for longer than a ticket lives, so a slow reader of Postgres can never put back a
-- state from before the wallet was here.
local TICKET_MAX_MS = 30000

local function load(keys, args)
  local request = cmsgpack.unpack(args[1])
  if epoch_is_stale(keys, request) then
    return answer({ status = 'STALE_EPOCH' })
  end
  if redis.call('EXISTS', keys[WALLET]) == 1 then
    return answer({ status = 'OK', loaded = false })
  end
  local now = now_ms()
  if now - request.ticket_ms > TICKET_MAX_MS then
    return answer({ status = 'TICKET_EXPIRED' })
  end
  local wallet = {
    keys = keys, now = now, tenant_id = request.tenant_id, wallet_id = request.wallet_id, state = request.state,
    sequence = request.sequence, change_number = request.change_number, due_ms = 0, loaded_ms = now, assets = {},
    writes = {},
  }
  for _, row in ipairs(request.assets) do
    local asset = new_asset(wallet, row.asset)
    asset.debt = row.debt
    asset.overdraft_limit = row.overdraft_limit
    asset.available = row.overdraft_limit - row.debt
    asset.changed = true
    for _, grant in ipairs(row.grants) do
      add_grant(asset, grant)
    end
  end
  for _, change in ipairs(request.changes) do
    apply_change(wallet, change)
  end
  save(wallet)
  return answer({ status = 'OK', loaded = true })
end
