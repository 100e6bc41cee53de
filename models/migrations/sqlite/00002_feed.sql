-- +goose Up
-- The twin of Postgres's file of this number. There is one writer, so rows are committed in the order
-- of their numbers and need no transaction's name.
CREATE TABLE feed (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant     TEXT NOT NULL,
    kind       TEXT NOT NULL,
    items      TEXT NOT NULL,
    created_at TIMESTAMP NOT NULL
);
-- What one tenant resumes from.
CREATE INDEX feed_tenant ON feed (tenant, kind, seq);

-- One row: the feed's name, so that a cursor of another database is told, and up to when and to which
-- row it was emptied.
CREATE TABLE feed_state (
    one          BOOLEAN PRIMARY KEY DEFAULT true CHECK (one),
    id           TEXT NOT NULL,
    purged_until TIMESTAMP,
    purged_seq   INTEGER NOT NULL DEFAULT 0
);
INSERT INTO feed_state (id) VALUES (lower(hex(randomblob(6))));
