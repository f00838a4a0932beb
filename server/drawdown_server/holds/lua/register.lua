-- register.lua: the library's functions. SUFFIX is a hash of the library's text, so that two versions serve side by
-- side during a rollout.

local function register(name, flags)
  redis.register_function({ function_name = name .. SUFFIX, callback = VERBS[name], flags = flags })
end

register('authorize', {})
register('commit', { 'allow-oom' })
register('release', { 'allow-oom' })
register('extend', {})
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
