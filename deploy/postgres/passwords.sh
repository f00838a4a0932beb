#!/bin/sh
# For the first start of a Postgres container, behind roles.sql: the passwords of the roles that log in.
#
#   POSTGRES_MIGRATOR_PASSWORD   of drawdown_migrator
#   POSTGRES_SERVER_PASSWORD     of drawdown_server, the one in DRAWDOWN_POSTGRES_URL
set -eu

psql --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" --set ON_ERROR_STOP=1 --quiet \
  --set migrator="${POSTGRES_MIGRATOR_PASSWORD:?is not set}" --set server="${POSTGRES_SERVER_PASSWORD:?is not set}" <<'SQL'
ALTER ROLE drawdown_migrator PASSWORD :'migrator';
ALTER ROLE drawdown_server PASSWORD :'server';
SQL
