-- Finds the grants that expire, or become effective, by their time: the alarm clock of wallets that are not in Valkey.
--
-- A column that an index names, also in its WHERE, makes every update of that column write all indexes of the row anew.
-- So neither names `remaining_units` or `live`, and the flusher's updates of what is left stay as cheap as they were:
-- `effective_time` never changes, `applied_expire_time` only when an operator changes the expiry.
CREATE INDEX grants_by_expiry ON grants (applied_expire_time, tenant_id, wallet_id, grant_id)
    WHERE applied_expire_time IS NOT NULL;
CREATE INDEX grants_by_start ON grants (effective_time, tenant_id, wallet_id, grant_id)
    WHERE effective_time IS NOT NULL;
