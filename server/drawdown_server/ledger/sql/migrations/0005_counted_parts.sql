-- What a hold counts in caps may be several parts, each with counters of its own.
COMMENT ON COLUMN settled_holds.amounts IS
    'Array of {asset, authorized, debited, uncollected, refunded, debits, usage, parts}: debits = what each grant paid and was not refunded, in order; usage = units per counter of a cap; parts = [[counters], units] in order, when there are several. What is 0 or empty is left out.';
