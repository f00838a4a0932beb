"""Rules of the wallet, broken one at a time: each mutant is one edit of one Lua file."""

from __future__ import annotations

from typing import Final, NamedTuple


class Mutant(NamedTuple):
    """A rule that no longer holds."""

    name: str
    file: str
    old: str
    """Text that occurs exactly once."""
    new: str


MUTANTS: Final = (
    # --- order of checks, and checks left out
    Mutant("the epoch is not checked", "store.lua", "'epoch') ~= request.epoch", "'epoch') == 'x'"),
    Mutant(
        "a hold id is free again",
        "authorize.lua",
        "  local known = find_hold(wallet, request.hold_id)\n",
        "  local known = nil\n",
    ),
    Mutant(
        "other content under the same id is a replay",
        "authorize.lua",
        "hold.fingerprint ~= '' and hold.fingerprint ~= request.fingerprint",
        "false",
    ),
    Mutant("a released hold is replayed as OK", "authorize.lua", "if hold.state == 'RELEASED' then", "if false then"),
    Mutant(
        "a frozen wallet takes holds",
        "authorize.lua",
        "  if wallet.state ~= 'ACTIVE' then\n",
        "  if wallet.state == 'CLOSED' then\n",
    ),
    Mutant("the backlog limit is off by one", "store.lua", "keys[OUTBOX]) > limit", "keys[OUTBOX]) > limit + 1"),
    Mutant("no backlog limit is a limit", "store.lua", "return limit > 0 and", "return"),
    Mutant(
        "authorize ignores the backlog", "authorize.lua", "if backlog_is_full(wallet, request) then", "if false then"
    ),
    Mutant(
        "the open-hold limit is off by one", "authorize.lua", ">= request.open_holds_max", "> request.open_holds_max"
    ),
    Mutant("due holds count as open", "authorize.lua", "keys[OPEN]) - expired >=", "keys[OPEN]) >="),
    Mutant("due holds are not freed by authorize", "authorize.lua", "expire_due(wallet, request.tombstone_ms)", "0"),
    Mutant("due holds are not freed by charge", "charge.lua", "  expire_due(wallet, request.tombstone_ms)\n", ""),
    Mutant("funds are off by one", "authorize.lua", "if units > available then", "if units > available + 1 then"),
    Mutant("a charge is made twice", "charge.lua", "early_answer(wallet, request, request.amounts) or ", ""),
    Mutant("a charge is not checked for funds", "charge.lua", "amount.overage_policy == 'REJECT' and", "false and"),
    Mutant("the last way to pay says why not", "authorize.lua", "denial = denial or refused", "denial = refused"),
    Mutant("alternatives are not tried", "authorize.lua", "index = i - 1", "index = 0"),
    Mutant(
        "partial approval ignores the caps",
        "authorize.lua",
        "available, cap_headroom(wallet, request.subjects, amount.asset)",
        "available",
    ),
    Mutant(
        "partial approval takes the least",
        "authorize.lua",
        "units = math.max(units, amount.min_units)",
        "units = amount.min_units",
    ),
    # --- grants
    Mutant("priority is reversed", "grants.lua", "a[PRIORITY] < b[PRIORITY]", "a[PRIORITY] > b[PRIORITY]"),
    Mutant(
        "never expires first",
        "grants.lua",
        "a[EXPIRE] ~= 0 and (b[EXPIRE] == 0 or",
        "a[EXPIRE] == 0 or (b[EXPIRE] ~= 0 and",
    ),
    Mutant(
        "promotions burn last",
        "grants.lua",
        "    return a[SOURCE] == 'PROMOTION'\n",
        "    return b[SOURCE] == 'PROMOTION'\n",
    ),
    Mutant("the youngest grant burns first", "grants.lua", "a[CREATE] < b[CREATE]", "a[CREATE] > b[CREATE]"),
    Mutant("grants expire a millisecond late", "grants.lua", "grant[EXPIRE] <= now\n", "grant[EXPIRE] < now\n"),
    Mutant(
        "grants start a millisecond late", "grants.lua", "[EFFECTIVE] <= wallet.now and", "[EFFECTIVE] < wallet.now and"
    ),
    Mutant("a grant comes in without room", "grants.lua", " and has_room(asset, grant[FREE])", ""),
    Mutant(
        "a refund comes in without room", "refund.lua", "if asset and not has_room(asset, wanted.units)", "if false"
    ),
    Mutant("debt has no bottom", "commit.lua", "if not can_be_owed(asset_of(wallet, amount.asset), extra)", "if false"),
    Mutant("a charge's debt has no bottom", "charge.lua", "not can_be_owed(asset, amount.units)", "false"),
    Mutant(
        "what expired makes no room",
        "grants.lua",
        "  until not may_begin(wallet, asset, asset.scheduled[1])",
        "  until true",
    ),
    Mutant(
        "the sweep looks at a waiting grant for ever",
        "sweep.lua",
        "math.max(next_ms, wallet.now + 1) or 0",
        "next_ms or 0",
    ),
    Mutant("debt is not repaid by a new grant", "apply.lua", "    repay_debt(wallet, funds.asset, asset)\n", ""),
    Mutant(
        "debt is not repaid by a scheduled grant",
        "grants.lua",
        "      repay_debt(wallet, code, asset)\n    end\n",
        "    end\n",
    ),
    Mutant(
        "debt stands beside free units",
        "grants.lua",
        "local function tidy(wallet, code, asset)\n  repay_debt(wallet, code, asset)\n",
        "local function tidy(wallet, code, asset)\n",
    ),
    Mutant("a loaded debt stands beside free units", "load.lua", "  repay_debt(wallet, row.asset, asset)\n", ""),
    Mutant(
        "units come back to an expired grant",
        "grants.lua",
        "  elseif is_over(grant, wallet.now) then\n",
        "  elseif false then\n",
    ),
    Mutant("units come back to a voided grant", "grants.lua", "  if grant[VOIDED] then\n", "  if false then\n"),
    Mutant(
        "pins do not protect from expiry",
        "grants.lua",
        "grant[FREE] > 0 and is_over(grant, wallet.now)",
        "grant[FREE] >= 0 and is_over(grant, wallet.now)",
    ),
    Mutant("empty grants stay", "grants.lua", "if grant[FREE] + grant[PINNED] > 0 then", "if true then"),
    Mutant(
        "a grant with pins alone is dropped",
        "grants.lua",
        "if grant[FREE] + grant[PINNED] > 0 then",
        "if grant[FREE] > 0 then",
    ),
    Mutant(
        "overdraft is free",
        "grants.lua",
        "asset.free - asset.debt - asset.overdraft_held +",
        "asset.free - asset.debt +",
    ),
    Mutant("debt is not owed", "grants.lua", "asset.free - asset.debt - asset", "asset.free - asset"),
    Mutant(
        "overdraft given back is kept", "grants.lua", "      asset.overdraft_held = asset.overdraft_held - units\n", ""
    ),
    Mutant("held overdraft is debited without debt", "grants.lua", "        asset.debt = asset.debt + debited\n", ""),
    Mutant("the sweep is not told of an expiry", "grants.lua", "  due_by(wallet, next_ms)\n", ""),
    Mutant(
        "void leaves the free units", "apply.lua", "      drain(wallet, code, asset, grant, grant[FREE], 'VOID')\n", ""
    ),
    Mutant("void forgets the pinned units", "apply.lua", "    grant[VOIDED] = true\n", ""),
    Mutant("void leaves a scheduled grant", "apply.lua", "    table.remove(asset.scheduled, scheduled)\n", ""),
    Mutant(
        "another expiry keeps the place in the stack",
        "apply.lua",
        "      insert_sorted(grants, grant, before)\n",
        "      table.insert(grants, place, grant)\n",
    ),
    # --- the rest of a stack
    Mutant("what is not read is no money", "grants.lua", "asset.unread_units - asset.debt", "-asset.debt"),
    Mutant(
        "what is read counts twice",
        "assets.lua",
        "    asset.unread_units = asset.unread_units - grant[FREE] - grant[PINNED]\n",
        "",
    ),
    Mutant("grants that no call needed are lost", "assets.lua", " .. asset.head:sub(asset.head_place)", ""),
    Mutant("grants that a call needed are kept twice", "assets.lua", "asset.head:sub(asset.head_place)", "asset.head"),
    Mutant(
        "an expiry that is not read is not planned",
        "grants.lua",
        "has_unread_head(asset) and asset.next_ms or asset.rest_ms",
        "asset.rest_ms",
    ),
    Mutant("a void is forgotten", "assets.lua", "g[VOIDED] and 1 or 0", "0"),
    Mutant("the rest is forgotten", "assets.lua", "has_rest = rest ~= nil", "has_rest = false"),
    Mutant("time stands still in the rest", "grants.lua", "  read_rest(wallet, code, asset)\n  repeat", "  repeat"),
    Mutant("an expiry in the rest is not planned", "assets.lua", "grant[FREE] > 0 and grant[EXPIRE] or 0)", "0)"),
    Mutant(
        "a start in the rest is not planned",
        "assets.lua",
        "sooner(asset.rest_ms, begins_ms(asset.scheduled[1]))",
        "asset.rest_ms",
    ),
    Mutant(
        "the rest is not reached", "grants.lua", "while units > 0 and asset.free > 0 do", "while asset.grants[place] do"
    ),
    Mutant(
        "units of the rest that are spent come back",
        "assets.lua",
        "      fields[#fields + 1] = code .. REST\n      fields[#fields + 1] = rest\n",
        "      if not has_rest then table.insert(fields, code .. REST) table.insert(fields, rest) end\n",
    ),
    # --- changes
    Mutant(
        "a change is applied twice",
        "apply.lua",
        "if number <= wallet.change_number then",
        "if number < wallet.change_number then",
    ),
    Mutant(
        "a gap in the changes is skipped", "apply.lua", "if number > wallet.change_number + 1 then", "if false then"
    ),
    Mutant("changes are lost by a load", "load.lua", "    apply_change(wallet, change)\n", ""),
    Mutant("a live wallet is overwritten", "load.lua", "redis.call('EXISTS', keys[WALLET]) == 1", "false"),
    Mutant(
        "an old ticket is good",
        "load.lua",
        "request.ticket_ms > TICKET_MAX_MS",
        "request.ticket_ms > TICKET_MAX_MS + 1",
    ),
    Mutant("a ticket from the future is good", "load.lua", "now < request.ticket_ms or ", ""),
    # --- eviction
    Mutant("a wallet is evicted with its holds", "evict.lua", "redis.call('EXISTS', keys[HOLDS]) == 1", "false"),
    Mutant(
        "a wallet with unrecorded events is evicted", "evict.lua", "sequence == request.sequence and", "sequence and"
    ),
    Mutant("a wallet behind its time is evicted", "evict.lua", " and wallet.sequence == sequence\n", "\n"),
    Mutant("a wallet with unapplied changes is evicted", "evict.lua", " and number == request.change_number", ""),
    Mutant(
        "a wallet with unrecorded changes is evicted",
        "evict.lua",
        "number == request.applied_change_number and ",
        "",
    ),
    Mutant("a young wallet is evicted", "evict.lua", "wallet.loaded_ms < LIVE_MIN_MS", "wallet.loaded_ms < 0"),
    Mutant(
        "a wallet is evicted a moment early",
        "evict.lua",
        "wallet.loaded_ms < LIVE_MIN_MS",
        "wallet.loaded_ms < LIVE_MIN_MS - 1",
    ),
    Mutant("eviction leaves the counters of caps", "evict.lua", ", keys[CAPS])", ")"),
    Mutant(
        "eviction leaves the wallet in the sweep's list",
        "evict.lua",
        "  redis.call('ZREM', keys[DUE], wallet.tenant_id .. '|' .. wallet.wallet_id)\n",
        "",
    ),
    Mutant("eviction does nothing", "evict.lua", "keys[WALLET], keys[HOLDS]", "keys[HOLDS]"),
    # --- commit
    Mutant("a commit after a release is charged", "commit.lua", "if hold.state == 'RELEASED' then", "if false then"),
    Mutant("a due hold is committed in time", "commit.lua", "  if is_due(wallet, hold) then\n", "  if false then\n"),
    Mutant(
        "holds expire a millisecond late",
        "holds.lua",
        "hold.expire_ms <= wallet.now\n",
        "hold.expire_ms < wallet.now\n",
    ),
    Mutant(
        "other totals of a committed hold are a replay",
        "commit.lua",
        "request.final and has_same_totals(hold, totals)",
        "request.final",
    ),
    Mutant(
        "progress of a committed hold is a replay",
        "commit.lua",
        "request.final and has_same_totals(hold, totals)",
        "has_same_totals(hold, totals)",
    ),
    Mutant("a total may shrink", "commit.lua", "if wanted.units < so_far then", "if false then"),
    Mutant("REJECT charges more than the hold", "commit.lua", "amount.overage_policy ~= 'REJECT' or", "true or"),
    Mutant(
        "a late commit may exceed the authorization",
        "commit.lua",
        "hold.state == 'HELD' or total > amount.authorized",
        "hold.state == 'HELD'",
    ),
    Mutant("a late commit needs no funds", "commit.lua", "  if delta > available then\n", "  if false then\n"),
    Mutant(
        "CHARGE_AVAILABLE goes into debt",
        "commit.lua",
        "if amount.overage_policy == 'CHARGE_AVAILABLE' then",
        "if false then",
    ),
    Mutant(
        "CHARGE_FULL stops at what is available",
        "commit.lua",
        "if amount.overage_policy == 'CHARGE_AVAILABLE' then",
        "if true then",
    ),
    Mutant(
        "uncollected units are forgotten", "commit.lua", "amount.uncollected + extra - charged", "amount.uncollected"
    ),
    Mutant(
        "totals are increments",
        "commit.lua",
        "  local delta = total - accounted(amount)\n  local from_hold",
        "  local delta = total\n  local from_hold",
    ),
    Mutant("a final commit keeps the rest", "commit.lua", "if request.final and amount.held > 0 then", "if false then"),
    Mutant(
        "progress gives the rest back",
        "commit.lua",
        "if request.final and amount.held > 0 then",
        "if amount.held > 0 then",
    ),
    Mutant("a late commit is not flagged", "commit.lua", "hold.late = hold.late or late", "hold.late = false"),
    Mutant(
        "late progress is forgotten in time",
        "commit.lua",
        "    keep_settled(wallet, hold, request.tombstone_ms) -- still in use: remember it for longer",
        "    keep_hold(wallet, hold)",
    ),
    Mutant(
        "repeated progress is an event",
        "commit.lua",
        "  local replayed = changes_nothing(request, hold, totals)\n",
        "  local replayed = false\n",
    ),
    # --- release and expiry
    Mutant(
        "an expired hold cannot be released",
        "release.lua",
        "hold.state == 'RELEASED' or hold.state == final",
        "hold.state ~= 'HELD'",
    ),
    Mutant(
        "a forced release forbids a late commit",
        "release.lua",
        "request.forced and not buried and 'EXPIRED'",
        "false and 'EXPIRED'",
    ),
    Mutant("a committed hold is released", "release.lua", "if hold.state == 'COMMITTED' then", "if false then"),
    Mutant(
        "an unknown hold leaves no tombstone", "release.lua", "(request.bury and tombstone(wallet, request))", "nil"
    ),
    Mutant("COMMIT_FULL releases", "holds.lua", "if hold.expiry_action == 'COMMIT_FULL' then", "if false then"),
    Mutant(
        "tombstones are forgotten too late",
        "holds.lua",
        "wallet.forget[hold.hold_id] = tombstone_ms",
        "wallet.forget[hold.hold_id] = tombstone_ms + 1",
    ),
    Mutant(
        "the event of a settle has no subjects",
        "holds.lua",
        "amounts = amounts, subjects = hold.subjects,",
        "amounts = amounts,",
    ),
    Mutant("the sweep expires no grants", "sweep.lua", "    touch_asset(wallet, code)\n", ""),
    Mutant(
        "the sweep forgets no tombstones",
        "sweep.lua",
        "  local looked_at, forgotten = forget_tombstones(wallet)\n",
        "  local looked_at, forgotten = 0, 0\n",
    ),
    Mutant("what is taken out stays", "verbs.lua", "    redis.call(unpack(removal))\n", ""),
    Mutant(
        "a hold that is settled stays open", "holds.lua", "if hold.state == 'HELD' and hold.expire_ms ~= 0", "if false"
    ),
    Mutant("the sweep plans no next look", "sweep.lua", "score_at(wallet.keys[OPEN], expired) or 0", "0"),
    # --- extend
    Mutant("extend shortens", "extend.lua", "math.max(hold.expire_ms, wallet.now + ttl_ms)", "wallet.now + ttl_ms"),
    Mutant("extend revives a due hold", "extend.lua", "  if is_due(wallet, hold) then\n", "  if false then\n"),
    Mutant("a raise needs no funds", "extend.lua", "if raise.units > available then", "if false then"),
    Mutant("a raise ignores the caps", "extend.lua", "  if cap then\n", "  if false then\n"),
    Mutant("a raise on a frozen wallet", "extend.lua", "#raises > 0 and wallet.state ~= 'ACTIVE'", "false"),
    Mutant(
        "a total below what is reserved is accepted",
        "extend.lua",
        "if checked_amount(wanted.units) < reserved then",
        "if false then",
    ),
    Mutant(
        "a raise counts in the old window",
        "extend.lua",
        "    amount.counts[#amount.counts + 1] = { counters, 0, 0 }\n",
        "    if not last then amount.counts[1] = { counters, 0, 0 } end\n",
    ),
    Mutant(
        "a raise brings uncounted units into the caps",
        "extend.lua",
        "amount.held + amount.debited - amount.refunded - units, 0 }",
        "0, 0 }",
    ),
    # --- refund
    Mutant("a refund is made twice", "refund.lua", "if digest == request.digest then", "if false then"),
    Mutant("a refund id is free again", "refund.lua", "  elseif digest then\n", "  elseif false then\n"),
    Mutant(
        "more is refunded than was debited",
        "refund.lua",
        "if checked_amount(wanted.units) > left then",
        "if wanted.units > amount.debited then",
    ),
    Mutant(
        "the first debit is refunded first",
        "refund.lua",
        "  local debits, parts = amount.debits, {}\n",
        "  local debits, parts = amount.debits, {}\n  table.sort(debits, function(a, b) return a[1] > b[1] end)\n",
    ),
    Mutant("a revived grant burns last", "refund.lua", "    table.sort(asset.grants, burns_before)\n", ""),
    Mutant("a refund is not counted", "refund.lua", "  amount.refunded = amount.refunded + units\n", ""),
    Mutant("a refund gives no headroom back", "refund.lua", "  count(wallet, amount)\n", ""),
    Mutant("a refund does not repay debt", "refund.lua", "  tidy_assets(wallet, hold)\n", ""),
    Mutant(
        "a refund does not lengthen the memory",
        "refund.lua",
        "    keep_settled(wallet, hold, request.tombstone_ms)\n",
        "    keep_hold(wallet, hold)\n",
    ),
    Mutant(
        "the ledger's hold is unknown",
        "refund.lua",
        "(request.recorded and recall(request.hold_id, request.recorded))",
        "nil",
    ),
    Mutant("a recalled hold id is free again", "holds.lua", "fingerprint = recorded.fingerprint", "fingerprint = ''"),
    # --- lost holds
    Mutant(
        "a lost hold is committed again",
        "commit.lua",
        "  if not hold then\n    if not request.lost then",
        "  if not hold or request.lost then\n    if not request.lost then",
    ),
    Mutant(
        "a lost hold is committed long after the ledger was asked",
        "commit.lua",
        ">= TICKET_OF_LOST_MAX_MS",
        "> TICKET_OF_LOST_MAX_MS",
    ),
    Mutant("a lost hold takes a ticket from the future", "commit.lua", "wallet.now < request.ticket_ms or ", ""),
    Mutant("a refused hold is not lost any more", "commit.lua", " and not hold.is_lost then", " then"),
    Mutant("a lost hold counts in no cap", "commit.lua", "{ counters_for(met, amount.asset), 0, 0 }", "{ {}, 0, 0 }"),
    Mutant(
        "a lost hold loses its policy",
        "holds.lua",
        "overage_policy = a.overage_policy, pins = {}",
        "overage_policy = 'REJECT', pins = {}",
    ),
    Mutant(
        "what the ledger has of a lost hold is debited again",
        "holds.lua",
        "held = 0, debited = a.debited",
        "held = 0, debited = 0",
    ),
    Mutant(
        "an asset that is gone cannot be owed",
        "commit.lua",
        "      new_asset(wallet, amount.asset)\n",
        "",
    ),
    # --- caps
    Mutant("a raise is a request of its own", "caps.lua", "used = amount.reserved or 0", "used = 0"),
    Mutant(
        "caps are off by one",
        "caps.lua",
        "used + amount.units > one.cap.limit",
        "used + amount.units > one.cap.limit + 1",
    ),
    Mutant("OBSERVE denies", "caps.lua", "      if one.cap.mode == 'ENFORCE' then\n", "      if true then\n"),
    Mutant("ENFORCE observes", "caps.lua", "      if one.cap.mode == 'ENFORCE' then\n", "      if false then\n"),
    Mutant("the shortest prefix wins", "caps.lua", "return #a.subject > #b.subject", "return #a.subject < #b.subject"),
    Mutant(
        "a default overrides the subject's own cap",
        "caps.lua",
        "    return b_is_default\n",
        "    return a_is_default\n",
    ),
    Mutant(
        "a prefix cap covers the whole wallet",
        "caps.lua",
        "cap.prefix and subject ~= '' and",
        "cap.prefix and",
    ),
    Mutant(
        "subjects of a prefix share one counter",
        "caps.lua",
        "counter = counter_name(wallet, subject,",
        "counter = counter_name(wallet, cap.subject,",
    ),
    Mutant("the whole wallet is asked last", "caps.lua", "for i = 0, #subjects do", "for i = 1, #subjects + 1 do"),
    Mutant("headroom of this script is not seen", "caps.lua", " + (wallet.counted[counter] or 0),", ","),
    Mutant(
        "counters forget what was counted before",
        "store.lua",
        "      fields[#fields + 1] = before + change\n",
        "      fields[#fields + 1] = change\n",
    ),
    Mutant(
        "counters are not exact beyond 2^53",
        "store.lua",
        "if math.max(before, before + change) > UNITS_MAX then",
        "if false then",
    ),
    Mutant(
        "a cap is set twice",
        "apply.lua",
        "local caps = caps_without(wallet, change.cap)",
        "local caps = list_caps(wallet)",
    ),
    Mutant(
        "wide windows are asked first",
        "store.lua",
        "'PER_REQUEST', 'MINUTE', 'HOUR', 'DAY', 'WEEK', 'MONTH', 'LIFETIME',",
        "'LIFETIME', 'MONTH', 'WEEK', 'DAY', 'HOUR', 'MINUTE', 'PER_REQUEST',",
    ),
    Mutant("weeks begin on Sunday", "caps.lua", "local EPOCH_WEEKDAY = 3", "local EPOCH_WEEKDAY = 4"),
    Mutant(
        "months begin a day late",
        "caps.lua",
        "month_of(math.floor(now / DAY_MS))",
        "month_of(math.floor(now / DAY_MS) - 1)",
    ),
    Mutant(
        "a month ends in the wrong place",
        "caps.lua",
        "first_day_of(period + 1) * DAY_MS",
        "(first_day_of(period) + 30) * DAY_MS",
    ),
    Mutant("a leap day is lost", "caps.lua", "math.floor(doe / 1460)", "math.floor(doe / 1461)"),
    Mutant("a minute begins early", "caps.lua", "math.floor(now / MINUTE_MS)", "math.floor((now + 1) / MINUTE_MS)"),
    Mutant(
        "commit of less keeps the headroom",
        "commit.lua",
        "    count(wallet, amount)\n",
        "    if not request.final then count(wallet, amount) end\n",
    ),
    Mutant(
        "a release keeps the headroom",
        "holds.lua",
        "      amount.pins = {}\n    end\n    count(wallet, amount)\n",
        "      amount.pins = {}\n    end\n",
    ),
    Mutant(
        "headroom goes back to the first window",
        "holds.lua",
        "for i = #amount.counts, 1, -1 do",
        "for i = 1, #amount.counts do",
    ),
    Mutant("the ledger is not told of the caps", "caps.lua", "      part[3] = usage\n", ""),
    Mutant("counters are forgotten a window early", "sweep.lua", "wallet.now - COUNTER_KEPT_MS)", "wallet.now)"),
    # --- events
    Mutant("an event repeats a sequence", "store.lua", "  wallet.sequence = wallet.sequence + 1\n", ""),
    Mutant(
        "time leaves no event",
        "store.lua",
        "  if #wallet.lines > 0 then\n    if hold then",
        "  if wallet.lines == nil then\n    if hold then",
    ),
    Mutant("a hold forgets its last event", "holds.lua", "  hold.wallet_sequence = wallet.sequence + 1\n", ""),
)
