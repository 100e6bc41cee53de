-- +goose Up
-- The feed: what changed, written in the transactions that change it, and read by whoever shows it
-- live. One row holds all that a transaction did of one kind for one tenant.
--
-- seq is drawn while the locks of what the row tells about are held, so it orders the changes of
-- one object. xid names the transaction: a reader knows by a snapshot which transactions ran when it
-- passed a number by, so rows need no order of commit, and writers take no lock for one.
CREATE TABLE feed (
    xid        bigint NOT NULL DEFAULT (pg_current_xact_id()::text::bigint),
    seq        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant     text COLLATE "C" NOT NULL,
    kind       text COLLATE "C" NOT NULL,
    items      text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
-- What one tenant resumes from.
CREATE INDEX feed_tenant ON feed (tenant, kind, seq);
-- What came late.
CREATE INDEX feed_xid ON feed (xid);

-- One row: the feed's name, so that a cursor of another database is told, and up to when and to which
-- row it was emptied.
CREATE TABLE feed_state (
    one          boolean PRIMARY KEY DEFAULT true CHECK (one),
    id           text NOT NULL,
    purged_until timestamptz,
    purged_seq   bigint NOT NULL DEFAULT 0
);
INSERT INTO feed_state (id) VALUES (left(replace(gen_random_uuid()::text, '-', ''), 12));
