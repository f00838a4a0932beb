-- caps.lua: hard limits on spend per wallet or subject, asset and window.
--
-- A cap is {subject, asset, window, limit, mode}: subject "" is the whole wallet, "key:sk_1" exactly that one,
-- "key:*" every subject of that prefix which has no exact cap of the same asset and window (the longest prefix wins).
-- They are kept as one text, a record after the other, in the order in which a request looks for them: narrow windows
-- first, and of one window the closest cap first.
--
-- A counter is a field of one hash per wallet, "subject|asset|WINDOW|period" with the request's own subject: units
-- held and debited in that period. A new period is a new field, so nothing has to be reset. A hold remembers its
-- counters, so headroom goes back to the window it came from.

local CAP = '<ssBBd' -- subject, asset, window, mode, limit; no zero bytes in the texts
local NO_CAPS = {}
local MINUTE_MS, HOUR_MS, DAY_MS = 60000, 3600000, 86400000
local WEEK_DAYS = 7
local EPOCH_WEEKDAY = 3 -- 1970-01-01 was a Thursday; weeks begin on Monday

-- Days since 1970-01-01 to months since year 0 (Howard Hinnant's civil_from_days), and back to the first day.
local function month_of(day)
  local z = day + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return year * 12 + month - 1
end

local function first_day_of(months)
  local year, month = math.floor(months / 12), months % 12 + 1
  if month <= 2 then
    year = year - 1
  end
  local era = math.floor(year / 400)
  local yoe = year - era * 400
  local doy = math.floor((153 * (month + (month > 2 and -3 or 9)) + 2) / 5)
  local doe = yoe * 365 + math.floor(yoe / 4) - math.floor(yoe / 100) + doy
  return era * 146097 + doe - 719468
end

-- The period of a window in which a moment lies, and when it ends (0 = never).
local function period_of(window, now)
  if window == 'MINUTE' then
    local period = math.floor(now / MINUTE_MS)
    return period, (period + 1) * MINUTE_MS
  elseif window == 'HOUR' then
    local period = math.floor(now / HOUR_MS)
    return period, (period + 1) * HOUR_MS
  elseif window == 'DAY' then
    local period = math.floor(now / DAY_MS)
    return period, (period + 1) * DAY_MS
  elseif window == 'WEEK' then
    local period = math.floor((math.floor(now / DAY_MS) + EPOCH_WEEKDAY) / WEEK_DAYS)
    return period, ((period + 1) * WEEK_DAYS - EPOCH_WEEKDAY) * DAY_MS
  elseif window == 'MONTH' then
    local period = month_of(math.floor(now / DAY_MS))
    return period, first_day_of(period + 1) * DAY_MS
  end
  return 0, 0
end

-- The caps of a wallet by asset, in the order in which a request looks for them.
local function caps_of(wallet)
  if not wallet.caps then
    local text = wallet.caps_text or (wallet.has_caps and redis.call('HGET', wallet.keys[WALLET], 'caps')) or ''
    local place = 1
    wallet.caps = {}
    while place <= #text do
      local subject, code, window, mode, limit, next_place = struct.unpack(CAP, text, place)
      local caps = wallet.caps[code] or {}
      wallet.caps[code] = caps
      caps[#caps + 1] = {
        subject = subject, asset = code, window = WORDS[window], limit = limit, mode = WORDS[mode],
        prefix = subject:sub(-1) == '*' and subject:sub(1, -2),
      }
      place = next_place
    end
  end
  return wallet.caps
end

local function cap_before(a, b)
  if a.subject ~= b.subject then
    return text_before(a.subject, b.subject)
  elseif a.asset ~= b.asset then
    return text_before(a.asset, b.asset)
  end
  return WORDS[a.window] < WORDS[b.window]
end

local function asked_before(a, b)
  local a_is_default, b_is_default = a.subject:sub(-1) == '*', b.subject:sub(-1) == '*'
  if a.window ~= b.window then
    return WORDS[a.window] < WORDS[b.window]
  elseif a_is_default ~= b_is_default then
    return b_is_default
  elseif #a.subject ~= #b.subject then
    return #a.subject > #b.subject
  end
  return cap_before(a, b)
end

-- All caps of a wallet, by subject, asset and window.
local function list_caps(wallet)
  local list = {}
  for _, caps in pairs(caps_of(wallet)) do
    for _, cap in ipairs(caps) do
      list[#list + 1] = {
        subject = cap.subject, asset = cap.asset, window = cap.window, limit = cap.limit, mode = cap.mode,
      }
    end
  end
  table.sort(list, cap_before)
  return list
end

-- From now on the wallet has these caps.
local function keep_caps(wallet, list)
  local records = {}
  table.sort(list, asked_before)
  for i, cap in ipairs(list) do
    records[i] = struct.pack(CAP, cap.subject, cap.asset, WORDS[cap.window], WORDS[cap.mode], cap.limit)
  end
  wallet.caps, wallet.caps_text = nil, table.concat(records)
  wallet.has_caps = #list > 0
  if wallet.has_caps then
    queue(wallet, 'HSET', wallet.keys[WALLET], 'caps', wallet.caps_text)
  else
    queue(wallet, 'HDEL', wallet.keys[WALLET], 'caps')
  end
end

-- What a cap that a request meets has counted, in this script too. A request stands by itself: its own cap has no
-- counter. What is spent over all time may be more than any limit: from UNITS_MAX on it reads as that, which is as much
-- as a cap can ask.
local function units_used(wallet, met)
  local counter = met.counter
  return counter and math.min(wallet.counters[counter] + (wallet.counted[counter] or 0), UNITS_MAX) or 0
end

local function counter_name(wallet, subject, code, window)
  if window == 'PER_REQUEST' then
    return nil
  end
  local period = wallet.periods[window]
  if not period then
    period = string.format('%d', (period_of(window, wallet.now)))
    wallet.periods[window] = period
  end
  return subject .. '|' .. code .. '|' .. window .. '|' .. period
end

-- Whether a cap is for a subject: its own one, or a default of its prefix. The whole wallet ("") has no defaults.
local function covers(cap, subject)
  return cap.subject == subject
    or (cap.prefix and subject ~= '' and subject:sub(1, #cap.prefix) == cap.prefix)
end

-- Adds those of an asset's caps that apply to a subject, of each window the closest, and their counters.
local function meet(wallet, met, counters, subject, caps)
  local window
  for _, cap in ipairs(caps) do
    if cap.window ~= window and covers(cap, subject) then
      window = cap.window
      local counter = counter_name(wallet, subject, cap.asset, window)
      met[#met + 1] = { cap = cap, subject = subject, counter = counter }
      counters[#counters + 1] = counter
    end
  end
end

-- Every cap that a request of these subjects meets for `amounts` ({asset}): {cap, subject (of the request), counter}.
-- The whole wallet first, then subject by subject, asset by asset, narrow windows first. Their counters are read.
local function caps_met(wallet, subjects, amounts)
  local met, counters = {}, {}
  if not wallet.has_caps then
    return met
  end
  local caps = caps_of(wallet)
  for i = 0, #subjects do
    for _, amount in ipairs(amounts) do
      meet(wallet, met, counters, subjects[i] or '', caps[amount.asset] or NO_CAPS)
    end
  end
  read_counters(wallet, counters)
  return met
end

local function cap_status(wallet, met, used)
  local cap = met.cap
  local _, reset_ms = period_of(cap.window, wallet.now)
  return {
    cap = cap.subject, subject = met.subject, asset = cap.asset, window = cap.window, limit = cap.limit, used = used,
    mode = cap.mode, reset_ms = reset_ms,
  }
end

-- The caps that `amounts` ({asset, units}) would exceed of those they meet: the first in force, and all that only
-- observe.
local function check_caps(wallet, met, amounts)
  local observed = {}
  for _, one in ipairs(met) do
    local amount, used = find_amount(amounts, one.cap.asset), units_used(wallet, one)
    if not one.counter then
      used = amount.reserved or 0 -- a raise is part of the request that it raises
    end
    if used + amount.units > one.cap.limit then
      if one.cap.mode == 'ENFORCE' then
        return cap_status(wallet, one, used), observed
      end
      observed[#observed + 1] = cap_status(wallet, one, used)
    end
  end
  return nil, observed
end

-- The most units of an asset that the caps in force leave to a request.
local function cap_headroom(wallet, subjects, code)
  local headroom = UNITS_MAX
  for _, met in ipairs(caps_met(wallet, subjects, { { asset = code } })) do
    if met.cap.mode == 'ENFORCE' then
      headroom = math.min(headroom, met.cap.limit - units_used(wallet, met))
    end
  end
  return headroom
end

-- The counters of one asset, of the caps that a request meets.
local function counters_for(met, code)
  local counters = {}
  for _, one in ipairs(met) do
    if one.cap.asset == code then
      counters[#counters + 1] = one.counter
    end
  end
  return counters
end

-- The same as the first part of a hold's counts; a hold that meets no cap has none.
local function counts_of(met, code)
  local counters = counters_for(met, code)
  return #counters > 0 and { { counters, 0, 0 } } or {}
end

local function add_to_counters(wallet, counters, units)
  if units ~= 0 then
    for _, counter in ipairs(counters) do
      wallet.counted[counter] = (wallet.counted[counter] or 0) + units
    end
  end
end

-- What the ledger has to know of the counters: units debited, not units held. `counts` are the parts of a hold's
-- amount, {cap counters, units counted, units recorded}; what is debited fills them from the first.
local function record_cap_usage(wallet, counts, debited)
  for _, part in ipairs(counts) do
    local usage = math.min(part[2], debited)
    debited = debited - usage
    if usage ~= part[3] then
      for _, counter in ipairs(part[1]) do
        wallet.cap_usage[#wallet.cap_usage + 1] = { counter, usage - part[3] }
      end
      part[3] = usage
    end
  end
end
