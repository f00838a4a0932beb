-- sweep.lua: free the due holds of one wallet and forget its old tombstones; bounded, so call it again while `more`.
--
-- ARGV   request: epoch, tenant_id, wallet_id, tombstone_ms
-- Reply  OK {expired, forgotten, more} | NOT_LOADED | STALE_EPOCH
-- OOM    allowed: it gives memory and money back.

local FORGET_MAX = 1000 -- tombstones forgotten in one call; about 1 ms of script time

local function forget_tombstones(wallet)
  local ids = redis.call('ZRANGEBYSCORE', wallet.keys[SETTLED], '-inf', wallet.now, 'LIMIT', 0, FORGET_MAX)
  if #ids > 0 then
    queue(wallet, 'HDEL', wallet.keys[HOLDS], unpack(ids))
    queue(wallet, 'ZREM', wallet.keys[SETTLED], unpack(ids))
  end
  return #ids
end

local function score_at(key, rank)
  local entry = redis.call('ZRANGE', key, rank, rank, 'WITHSCORES')
  return tonumber(entry[2])
end

local function sooner(one, other)
  return (one == 0 or (other ~= 0 and other < one)) and other or one
end

-- When something is due next. Writes are still queued: what was expired or forgotten is skipped by its count.
local function next_due(wallet, expired, forgotten, tombstone_ms)
  local due_ms = score_at(wallet.keys[OPEN], expired) or 0
  due_ms = sooner(due_ms, score_at(wallet.keys[SETTLED], forgotten) or 0)
  return sooner(due_ms, expired > 0 and wallet.now + tombstone_ms or 0)
end

local function sweep(keys, args)
  local request = cmsgpack.unpack(args[1])
  if epoch_is_stale(keys, request) then
    return answer({ status = 'STALE_EPOCH' })
  end
  local wallet = open_wallet(keys, request)
  local member = request.tenant_id .. '|' .. request.wallet_id
  if not wallet then
    redis.call('ZREM', keys[DUE], member)
    return answer({ status = 'NOT_LOADED' })
  end
  local expired = expire_chunk(wallet, request.tombstone_ms, 0)
  local forgotten = forget_tombstones(wallet)
  wallet.due_ms = next_due(wallet, expired, forgotten, request.tombstone_ms)
  if wallet.due_ms == 0 then
    queue(wallet, 'ZREM', keys[DUE], member)
  else
    queue(wallet, 'ZADD', keys[DUE], wallet.due_ms, member)
  end
  save(wallet)
  return answer({
    status = 'OK', expired = expired, forgotten = forgotten, more = wallet.due_ms ~= 0 and wallet.due_ms <= wallet.now,
  })
end
