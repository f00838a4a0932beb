-- caps.lua: hard limits on spend per wallet or subject, asset and window.
--
-- A cap is {subject, asset, window, limit, mode}: subject "" is the whole wallet, "key:sk_1" exactly that one,
-- "key:*" every subject of that prefix which has no exact cap of the same asset and window (the longest prefix wins).
-- A counter is a field of one hash per wallet, "subject|asset|WINDOW|period" with the request's own subject: units
-- held and debited in that period. A new period is a new field, so nothing has to be reset. A hold remembers its
-- counters, so headroom goes back to the window it came from.

local WINDOWS = { 'PER_REQUEST', 'MINUTE', 'HOUR', 'DAY', 'WEEK', 'MONTH', 'LIFETIME' }
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

local function caps_of(wallet)
  if not wallet.caps then
    local packed = wallet.has_caps and redis.call('HGET', wallet.keys[WALLET], 'caps')
    wallet.caps = packed and cmsgpack.unpack(packed) or {}
  end
  return wallet.caps
end

-- How specifically a cap names a subject: nil = not at all, longer prefixes more, the exact subject most.
local function specificity(cap_subject, subject)
  if cap_subject == subject then
    return math.huge
  end
  if subject ~= '' and cap_subject:sub(-1) == '*' then
    local prefix = cap_subject:sub(1, -2)
    if subject:sub(1, #prefix) == prefix then
      return #prefix
    end
  end
  return nil
end

-- The caps that apply to a subject and an asset, by window.
local function applicable(caps, subject, code)
  local best, found = {}, {}
  for _, cap in ipairs(caps) do
    local score = cap.asset == code and specificity(cap.subject, subject)
    local current = best[cap.window]
    if score and (not current or score > current.score) then
      best[cap.window] = { cap = cap, score = score }
    end
  end
  for _, window in ipairs(WINDOWS) do
    if best[window] then
      found[#found + 1] = best[window].cap
    end
  end
  return found
end

-- As Redis has it, and what this script has counted but not written yet. What is spent over all time may be more than
-- any limit: from UNITS_MAX on it reads as that, which is as much as a cap can ask.
local function counter_value(wallet, counter)
  if not wallet.counters[counter] then
    wallet.counters[counter] = tonumber(redis.call('HGET', wallet.keys[CAPS], counter) or 0)
  end
  return math.min(wallet.counters[counter] + (wallet.counted[counter] or 0), UNITS_MAX)
end

-- Every cap that a request of these subjects meets for one asset: {subject, cap, counter (nil: per request), used,
-- reset_ms}, for one subject after the other, "" first.
local function caps_met(wallet, subject, code)
  local met = {}
  for _, cap in ipairs(applicable(caps_of(wallet), subject, code)) do
    if cap.window == 'PER_REQUEST' then
      met[#met + 1] = { subject = subject, cap = cap, used = 0, reset_ms = 0 }
    else
      local period, reset_ms = period_of(cap.window, wallet.now)
      local counter = table.concat({ subject, code, cap.window, string.format('%d', period) }, '|')
      met[#met + 1] = {
        subject = subject, cap = cap, counter = counter, used = counter_value(wallet, counter), reset_ms = reset_ms,
      }
    end
  end
  return met
end

local function cap_status(met)
  return {
    cap = met.cap.subject, subject = met.subject, asset = met.cap.asset, window = met.cap.window, limit = met.cap.limit,
    used = met.used, mode = met.cap.mode, reset_ms = met.reset_ms,
  }
end

local function with_wallet(subjects)
  local all = { '' }
  for _, subject in ipairs(subjects) do
    all[#all + 1] = subject
  end
  return all
end

-- The caps that `amounts` ({asset, units}) would exceed: the first in force, and all that only observe.
local function check_caps(wallet, subjects, amounts)
  local observed = {}
  if not wallet.has_caps then
    return nil, observed
  end
  for _, subject in ipairs(with_wallet(subjects)) do
    for _, amount in ipairs(amounts) do
      for _, met in ipairs(caps_met(wallet, subject, amount.asset)) do
        if not met.counter then
          met.used = amount.reserved or 0 -- a raise is part of the request that it raises
        end
        if met.used + amount.units > met.cap.limit then
          if met.cap.mode == 'ENFORCE' then
            return cap_status(met), observed
          end
          observed[#observed + 1] = cap_status(met)
        end
      end
    end
  end
  return nil, observed
end

-- The most units of an asset that the caps in force leave to a request.
local function cap_headroom(wallet, subjects, code)
  local headroom = UNITS_MAX
  if wallet.has_caps then
    for _, subject in ipairs(with_wallet(subjects)) do
      for _, met in ipairs(caps_met(wallet, subject, code)) do
        if met.cap.mode == 'ENFORCE' then
          headroom = math.min(headroom, met.cap.limit - met.used)
        end
      end
    end
  end
  return headroom
end

-- The counters in which a request of these subjects counts now, for one asset.
local function counters_for(wallet, subjects, code)
  local counters = {}
  if wallet.has_caps then
    for _, subject in ipairs(with_wallet(subjects)) do
      for _, met in ipairs(caps_met(wallet, subject, code)) do
        counters[#counters + 1] = met.counter
      end
    end
  end
  return counters
end

-- The same as the first part of a hold's counts; a hold that meets no cap has none.
local function counts_of(wallet, subjects, code)
  local counters = counters_for(wallet, subjects, code)
  return #counters > 0 and { { counters, 0, 0 } } or {}
end

local function add_to_counters(wallet, counters, units)
  if units ~= 0 then
    for _, counter in ipairs(counters) do
      wallet.counted[counter] = (wallet.counted[counter] or 0) + units
      queue(wallet, 'HINCRBY', wallet.keys[CAPS], counter, string.format('%d', units))
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
