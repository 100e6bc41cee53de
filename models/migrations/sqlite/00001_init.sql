-- +goose Up
-- The twin of Postgres's file of this number: same tables, columns and indexes. Times are whole
-- microseconds since 1970; TIMESTAMP is the declared type that the driver turns back into times.

CREATE TABLE webhooks (
    id                    TEXT PRIMARY KEY,
    tenant                TEXT NOT NULL,
    external_id           TEXT,
    name                  TEXT NOT NULL,
    target_url            TEXT NOT NULL,
    event_types           TEXT NOT NULL,
    filter                TEXT,
    payload_query         TEXT,
    sealed_headers        TEXT NOT NULL DEFAULT '',
    status                TEXT NOT NULL,
    status_reason         TEXT,
    timeout               INTEGER,
    retry_schedule        TEXT,
    rate_limit_per_second INTEGER,
    signing               TEXT NOT NULL,
    sealed_key            TEXT NOT NULL DEFAULT '',
    key_hint              TEXT,
    public_key            TEXT,
    sealed_previous_key   TEXT NOT NULL DEFAULT '',
    previous_public_key   TEXT,
    previous_expires_at   TIMESTAMP,
    version               INTEGER NOT NULL,
    revision              INTEGER NOT NULL,
    epoch                 INTEGER NOT NULL,
    created_at            TIMESTAMP NOT NULL,
    updated_at            TIMESTAMP NOT NULL,
    deleted_at            TIMESTAMP
);
-- Lists of a tenant, and what intake reloads when the epoch moved.
CREATE INDEX webhooks_tenant ON webhooks (tenant, id) WHERE deleted_at IS NULL;
-- A deleted webhook's external id is free again.
CREATE UNIQUE INDEX webhooks_external_id ON webhooks (tenant, external_id)
    WHERE deleted_at IS NULL AND external_id IS NOT NULL;
-- Webhooks that no longer take deliveries: what a sweep settles.
CREATE INDEX webhooks_inactive ON webhooks (id) WHERE status <> 'ACTIVE' OR deleted_at IS NOT NULL;

CREATE TABLE webhook_revisions (
    webhook_id    TEXT NOT NULL,
    revision      INTEGER NOT NULL,
    epoch         INTEGER NOT NULL,
    tenant        TEXT NOT NULL,
    event_types   TEXT NOT NULL,
    filter        TEXT,
    payload_query TEXT,
    status        TEXT NOT NULL,
    status_reason TEXT,
    deleted       BOOLEAN NOT NULL DEFAULT false,
    created_at    TIMESTAMP NOT NULL,
    PRIMARY KEY (webhook_id, revision)
);
CREATE INDEX webhook_revisions_tenant ON webhook_revisions (tenant, epoch);

-- One row a webhook, moved by every flush of the recorder: no index but its key.
CREATE TABLE webhook_health (
    webhook_id           TEXT PRIMARY KEY,
    consecutive_failures INTEGER NOT NULL DEFAULT 0,
    failing_since        TIMESTAMP,
    last_success_at      TIMESTAMP,
    last_failure_at      TIMESTAMP,
    notified_at          TIMESTAMP
);

CREATE TABLE event_types (
    id          TEXT PRIMARY KEY,
    name        TEXT NOT NULL UNIQUE,
    title       TEXT NOT NULL,
    description TEXT,
    schema      TEXT,
    example     TEXT,
    strict      BOOLEAN NOT NULL DEFAULT false,
    status      TEXT NOT NULL,
    builtin     BOOLEAN NOT NULL DEFAULT false,
    created_at  TIMESTAMP NOT NULL,
    updated_at  TIMESTAMP NOT NULL
);

-- data is text, not JSON, which would rewrite numbers and the order of keys.
CREATE TABLE events (
    id              TEXT PRIMARY KEY,
    tenant          TEXT NOT NULL,
    event_type      TEXT NOT NULL,
    data            TEXT,
    "timestamp"     TIMESTAMP NOT NULL,
    deliver_at      TIMESTAMP,
    idempotency_key TEXT,
    matched         INTEGER NOT NULL DEFAULT 0,
    epoch           INTEGER NOT NULL,
    test            BOOLEAN NOT NULL DEFAULT false,
    created_at      TIMESTAMP NOT NULL,
    erased_at       TIMESTAMP
);
-- A page is the tenant's newest, of one type or of all; times of creation are ranges of ids.
CREATE INDEX events_tenant ON events (tenant, id);
CREATE INDEX events_tenant_type ON events (tenant, event_type, id);
CREATE INDEX events_idempotency_key ON events (tenant, idempotency_key, id) WHERE idempotency_key IS NOT NULL;

CREATE TABLE idempotency_keys (
    tenant     TEXT NOT NULL,
    key        TEXT NOT NULL,
    event_id   TEXT NOT NULL,
    hash       TEXT NOT NULL,
    expires_at TIMESTAMP NOT NULL,
    PRIMARY KEY (tenant, key)
);
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);

-- The claim columns are in no index and no predicate, so that a claim writes the row alone.
-- Recording moves entries of those indexes only that hold the status or the time that it is due.
CREATE TABLE deliveries (
    id              TEXT PRIMARY KEY,
    tenant          TEXT NOT NULL,
    event_id        TEXT NOT NULL,
    webhook_id      TEXT NOT NULL,
    event_type      TEXT NOT NULL,
    revision        INTEGER NOT NULL,
    status          TEXT NOT NULL,
    status_reason   TEXT,
    status_detail   TEXT,
    "trigger"       TEXT NOT NULL,
    body            TEXT,
    attempt_count   INTEGER NOT NULL DEFAULT 0,
    schedule_step   INTEGER NOT NULL DEFAULT 0,
    attempt_trigger TEXT NOT NULL,
    next_attempt_at TIMESTAMP,
    claim_token     TEXT,
    claimed_at      TIMESTAMP,
    claimed_until   TIMESTAMP,
    last_outcome    TEXT,
    last_status     INTEGER,
    succeeded_at    TIMESTAMP,
    replay_id       TEXT,
    created_at      TIMESTAMP NOT NULL,
    completed_at    TIMESTAMP
);
-- Pages: newest first within what the caller named. Times of creation are ranges of ids.
CREATE INDEX deliveries_tenant ON deliveries (tenant, id);
CREATE INDEX deliveries_webhook ON deliveries (webhook_id, id);
CREATE INDEX deliveries_event ON deliveries (event_id, id);
-- A rare type among millions of others.
CREATE INDEX deliveries_tenant_type ON deliveries (tenant, event_type, id);
CREATE INDEX deliveries_webhook_type ON deliveries (webhook_id, event_type, id);
-- SUCCEEDED is what nearly all end as: a page of it is found by walking the full indexes, so its
-- entries are saved. The same holds for SUCCESS, 200 and AUTOMATIC below. A list of several
-- statuses is merged from one walk each.
CREATE INDEX deliveries_status ON deliveries (status, id) WHERE status <> 'SUCCEEDED';
CREATE INDEX deliveries_tenant_status ON deliveries (tenant, status, id) WHERE status <> 'SUCCEEDED';
CREATE INDEX deliveries_webhook_status ON deliveries (webhook_id, status, id) WHERE status <> 'SUCCEEDED';
CREATE INDEX deliveries_tenant_outcome ON deliveries (tenant, last_outcome, id) WHERE last_outcome <> 'SUCCESS';
CREATE INDEX deliveries_webhook_outcome ON deliveries (webhook_id, last_outcome, id) WHERE last_outcome <> 'SUCCESS';
CREATE INDEX deliveries_tenant_response ON deliveries (tenant, last_status, id) WHERE last_status <> 200;
CREATE INDEX deliveries_webhook_response ON deliveries (webhook_id, last_status, id) WHERE last_status <> 200;
CREATE INDEX deliveries_tenant_trigger ON deliveries (tenant, "trigger", id) WHERE "trigger" <> 'AUTOMATIC';
CREATE INDEX deliveries_webhook_trigger ON deliveries (webhook_id, "trigger", id) WHERE "trigger" <> 'AUTOMATIC';
-- What may be attempted, oldest first: the reconciler's walk.
CREATE INDEX deliveries_due ON deliveries (next_attempt_at, id) WHERE status IN ('PENDING', 'RETRYING');

CREATE TABLE attempts (
    delivery_id        TEXT NOT NULL,
    number             INTEGER NOT NULL,
    tenant             TEXT NOT NULL,
    token              TEXT NOT NULL,
    "trigger"          TEXT NOT NULL,
    started_at         TIMESTAMP NOT NULL,
    ended_at           TIMESTAMP,
    outcome            TEXT,
    error              TEXT,
    remote_address     TEXT,
    request_url        TEXT NOT NULL,
    request_headers    TEXT NOT NULL,
    response_status    INTEGER,
    response_headers   TEXT,
    response_body      TEXT,
    response_truncated BOOLEAN NOT NULL DEFAULT false,
    total_micros       INTEGER,
    dns_micros         INTEGER,
    connect_micros     INTEGER,
    tls_micros         INTEGER,
    first_byte_micros  INTEGER,
    PRIMARY KEY (delivery_id, number)
);

-- Minute by minute: measure < 0 counts (see the Measure constants), measure >= 0 is a bucket of
-- latency on a log scale. shard keeps the recorders of two processes off each other's rows.
CREATE TABLE delivery_minutes (
    webhook_id TEXT NOT NULL,
    minute     TIMESTAMP NOT NULL,
    event_type TEXT NOT NULL,
    shard      INTEGER NOT NULL,
    measure    INTEGER NOT NULL,
    tenant     TEXT NOT NULL,
    n          INTEGER NOT NULL,
    PRIMARY KEY (webhook_id, minute, event_type, shard, measure)
);
CREATE INDEX delivery_minutes_tenant ON delivery_minutes (tenant, minute);

CREATE TABLE api_keys (
    id           TEXT PRIMARY KEY,
    name         TEXT NOT NULL,
    tenant       TEXT,
    scopes       TEXT NOT NULL,
    prefix       TEXT NOT NULL,
    hash         TEXT NOT NULL UNIQUE,
    last_used_at TIMESTAMP,
    expires_at   TIMESTAMP,
    revoked_at   TIMESTAMP,
    created_at   TIMESTAMP NOT NULL
);

-- The head of the log of config changes. One row.
CREATE TABLE config_epoch (
    one  BOOLEAN PRIMARY KEY DEFAULT true CHECK (one),
    head INTEGER NOT NULL
);
INSERT INTO config_epoch (head) VALUES (0);

CREATE TABLE changes (
    epoch      INTEGER PRIMARY KEY,
    tenant     TEXT NOT NULL,
    kind       TEXT NOT NULL,
    object_id  TEXT NOT NULL,
    created_at TIMESTAMP NOT NULL
);

CREATE TABLE leases (
    name       TEXT PRIMARY KEY,
    holder     TEXT NOT NULL,
    expires_at TIMESTAMP NOT NULL
);
