-- Who may do what in Postgres. Run by a superuser in the database that Drawdown is to use, before the first
-- drawdown-server migrate; again is harmless:
--
--     psql "$SUPERUSER_URL" -v ON_ERROR_STOP=1 -f deploy/postgres/roles.sql
--
-- The roles have no passwords yet, so nobody can log in as them: set one each with psql's \password, which sends no more
-- than a digest. Roles belong to the whole Postgres server, their rights in tables to this database.

DO $$
BEGIN
    -- Owns the schema: drawdown-server migrate runs as this one, and nothing else does.
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'drawdown_migrator') THEN
        CREATE ROLE drawdown_migrator LOGIN;
    END IF;
    -- What serve, flush and the commands of operators run as. Its rights in tables come with each release, from
    -- drawdown-server migrate: what is recorded it can add to, and never change or delete.
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'drawdown_server') THEN
        CREATE ROLE drawdown_server LOGIN;
    END IF;
    -- People who look: CREATE ROLE alice LOGIN IN ROLE drawdown_reader.
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'drawdown_reader') THEN
        CREATE ROLE drawdown_reader NOLOGIN;
    END IF;

    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format(
        'GRANT CONNECT ON DATABASE %I TO drawdown_migrator, drawdown_server, drawdown_reader', current_database());
END
$$;
-- Before PostgreSQL 15 everybody could create tables here.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT CREATE ON SCHEMA public TO drawdown_migrator;
