-- register.lua: the library's functions. SUFFIX is a hash of the library's text, so that two versions serve side by
-- side during a rollout.

local function register(name, callback, flags)
  redis.register_function({ function_name = name .. SUFFIX, callback = callback, flags = flags })
end

register('authorize', authorize, {})
register('commit', commit, { 'allow-oom' })
register('release', release, { 'allow-oom' })
register('extend', extend, {})
register('charge', charge, {})
register('refund', refund, { 'allow-oom' })
register('sweep', sweep, { 'allow-oom' })
register('load', load, {})
register('apply', apply, {})
register('evict', evict, { 'allow-oom' })
register('read_wallet', read_wallet, { 'no-writes' })
register('read_hold', read_hold, { 'no-writes' })
register('read_caps', read_caps, { 'no-writes' })
register('list_holds', list_holds, { 'no-writes' })
