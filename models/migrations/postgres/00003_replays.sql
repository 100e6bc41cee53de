-- +goose Up
CREATE TABLE replays (
    id                text COLLATE "C" PRIMARY KEY,
    tenant            text COLLATE "C" NOT NULL,
    webhook_id        text COLLATE "C" NOT NULL,
    status            text NOT NULL,
    since             timestamptz NOT NULL,
    until             timestamptz NOT NULL,
    statuses          text NOT NULL,
    event_types       text NOT NULL,
    include_unmatched boolean NOT NULL,
    idempotency_key   text COLLATE "C",
    hash              text NOT NULL,
    total             integer NOT NULL,
    made              integer NOT NULL DEFAULT 0,
    succeeded         integer NOT NULL DEFAULT 0,
    failed            integer NOT NULL DEFAULT 0,
    done              integer NOT NULL DEFAULT 0,
    stage             text NOT NULL,
    cursor            text COLLATE "C" NOT NULL DEFAULT '',
    created_at        timestamptz NOT NULL,
    finished_at       timestamptz
);
CREATE INDEX replays_tenant ON replays (tenant, id);
CREATE INDEX replays_webhook ON replays (webhook_id, id);
-- What is to be gone on with after a crash: few at any time.
CREATE INDEX replays_running ON replays (id) WHERE status = 'RUNNING';
CREATE UNIQUE INDEX replays_idempotency_key ON replays (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- Progress of a replay; nothing for the deliveries that events made.
CREATE INDEX deliveries_replay ON deliveries (replay_id, status, id) WHERE replay_id IS NOT NULL;
