-- register.lua: the library's functions. SUFFIX is a hash of the library's text, so that two versions serve side by
-- side during a rollout.

local function register(name, flags)
  redis.register_function({ function_name = name .. SUFFIX, callback = VERBS[name], flags = flags })
end

register('authorize', {})
register('commit', { 'allow-oom' })
register('release', { 'allow-oom' })
-- A Release of a hold that nobody knows: its tombstone takes memory and gives no money back. When memory is full every
-- Authorize fails, and a careful caller releases what it does not know to be held; that must not fill it further.
VERBS.bury = VERBS.release
register('bury', {})
register('extend', {})
-- An Extend without amounts keeps held what is held, in the same bytes. A full store must not let it expire under a
-- request.
VERBS.extend_ttl = VERBS.extend
register('extend_ttl', { 'allow-oom' })
register('charge', {})
register('refund', { 'allow-oom' })
register('sweep', { 'allow-oom' })
register('load', {})
register('apply', {})
register('evict', { 'allow-oom' })
register('read_wallet', { 'no-writes' })
register('read_hold', { 'no-writes' })
register('read_caps', { 'no-writes' })
register('list_holds', { 'no-writes' })
