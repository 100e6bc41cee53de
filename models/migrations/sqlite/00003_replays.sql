-- +goose Up
CREATE TABLE replays (
    id                TEXT PRIMARY KEY,
    tenant            TEXT NOT NULL,
    webhook_id        TEXT NOT NULL,
    status            TEXT NOT NULL,
    since             TIMESTAMP NOT NULL,
    until             TIMESTAMP NOT NULL,
    statuses          TEXT NOT NULL,
    event_types       TEXT NOT NULL,
    include_unmatched BOOLEAN NOT NULL,
    idempotency_key   TEXT,
    hash              TEXT NOT NULL,
    total             INTEGER NOT NULL,
    made              INTEGER NOT NULL DEFAULT 0,
    succeeded         INTEGER NOT NULL DEFAULT 0,
    failed            INTEGER NOT NULL DEFAULT 0,
    done              INTEGER NOT NULL DEFAULT 0,
    stage             TEXT NOT NULL,
    cursor            TEXT NOT NULL DEFAULT '',
    created_at        TIMESTAMP NOT NULL,
    finished_at       TIMESTAMP
);
CREATE INDEX replays_tenant ON replays (tenant, id);
CREATE INDEX replays_webhook ON replays (webhook_id, id);
-- What is to be gone on with after a crash: few at any time.
CREATE INDEX replays_running ON replays (id) WHERE status = 'RUNNING';
CREATE UNIQUE INDEX replays_idempotency_key ON replays (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- Progress of a replay; nothing for the deliveries that events made.
CREATE INDEX deliveries_replay ON deliveries (replay_id, status, id) WHERE replay_id IS NOT NULL;
