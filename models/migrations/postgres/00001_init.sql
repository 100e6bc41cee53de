-- +goose Up
-- Ids are a prefix and 26 base32hex characters of a UUIDv7, so they sort by creation; COLLATE "C"
-- keeps that order and compares bytes. There are no foreign keys: the writers keep references
-- right within one transaction, and a key check per row would cost the hot tables a lock each.

CREATE TABLE webhooks (
    id                    text COLLATE "C" PRIMARY KEY,
    tenant                text COLLATE "C" NOT NULL,
    external_id           text COLLATE "C",
    name                  text NOT NULL,
    target_url            text NOT NULL,
    event_types           text NOT NULL,
    filter                text,
    payload_query         text,
    sealed_headers        text NOT NULL DEFAULT '',
    status                text NOT NULL,
    status_reason         text,
    timeout               bigint,
    retry_schedule        text,
    rate_limit_per_second integer,
    signing               text NOT NULL,
    sealed_key            text NOT NULL DEFAULT '',
    key_hint              text,
    public_key            text,
    sealed_previous_key   text NOT NULL DEFAULT '',
    previous_public_key   text,
    previous_expires_at   timestamptz,
    version               integer NOT NULL,
    revision              bigint NOT NULL,
    epoch                 bigint NOT NULL,
    created_at            timestamptz NOT NULL,
    updated_at            timestamptz NOT NULL,
    deleted_at            timestamptz
);
-- Lists of a tenant, and what intake reloads when the epoch moved.
CREATE INDEX webhooks_tenant ON webhooks (tenant, id) WHERE deleted_at IS NULL;
-- A deleted webhook's external id is free again.
CREATE UNIQUE INDEX webhooks_external_id ON webhooks (tenant, external_id)
    WHERE deleted_at IS NULL AND external_id IS NOT NULL;
-- Webhooks that no longer take deliveries: what a sweep settles.
CREATE INDEX webhooks_inactive ON webhooks (id) WHERE status <> 'ACTIVE' OR deleted_at IS NOT NULL;

CREATE TABLE webhook_revisions (
    webhook_id    text COLLATE "C" NOT NULL,
    revision      bigint NOT NULL,
    epoch         bigint NOT NULL,
    tenant        text COLLATE "C" NOT NULL,
    event_types   text NOT NULL,
    filter        text,
    payload_query text,
    status        text NOT NULL,
    status_reason text,
    deleted       boolean NOT NULL DEFAULT false,
    created_at    timestamptz NOT NULL,
    PRIMARY KEY (webhook_id, revision)
);
CREATE INDEX webhook_revisions_tenant ON webhook_revisions (tenant, epoch);

-- One row a webhook, moved by every flush of the recorder: room on the page keeps that HOT.
CREATE TABLE webhook_health (
    webhook_id           text COLLATE "C" PRIMARY KEY,
    consecutive_failures integer NOT NULL DEFAULT 0,
    failing_since        timestamptz,
    last_success_at      timestamptz,
    last_failure_at      timestamptz,
    notified_at          timestamptz
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

CREATE TABLE event_types (
    id          text COLLATE "C" PRIMARY KEY,
    name        text COLLATE "C" NOT NULL UNIQUE,
    title       text NOT NULL,
    description text,
    schema      text,
    example     text,
    strict      boolean NOT NULL DEFAULT false,
    status      text NOT NULL,
    builtin     boolean NOT NULL DEFAULT false,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL
);

-- data is text, not jsonb, which would rewrite numbers and the order of keys.
CREATE TABLE events (
    id              text COLLATE "C" PRIMARY KEY,
    tenant          text COLLATE "C" NOT NULL,
    event_type      text COLLATE "C" NOT NULL,
    data            text,
    "timestamp"     timestamptz NOT NULL,
    deliver_at      timestamptz,
    idempotency_key text COLLATE "C",
    matched         integer NOT NULL DEFAULT 0,
    epoch           bigint NOT NULL,
    test            boolean NOT NULL DEFAULT false,
    created_at      timestamptz NOT NULL,
    erased_at       timestamptz
) WITH (autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);
-- A page is the tenant's newest, of one type or of all; times of creation are ranges of ids.
CREATE INDEX events_tenant ON events (tenant, id);
CREATE INDEX events_tenant_type ON events (tenant, event_type, id);
CREATE INDEX events_idempotency_key ON events (tenant, idempotency_key, id) WHERE idempotency_key IS NOT NULL;

CREATE TABLE idempotency_keys (
    tenant     text COLLATE "C" NOT NULL,
    key        text COLLATE "C" NOT NULL,
    event_id   text COLLATE "C" NOT NULL,
    hash       text COLLATE "C" NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, key)
);
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);

-- The claim columns are in no index and no predicate, and pages keep room, so that a claim is a
-- HOT update: it writes no index. Recording changes the status and is not; it costs one entry in
-- each full index, which is why there are few of those, and partial ones for what is rare.
CREATE TABLE deliveries (
    id              text COLLATE "C" PRIMARY KEY,
    tenant          text COLLATE "C" NOT NULL,
    event_id        text COLLATE "C" NOT NULL,
    webhook_id      text COLLATE "C" NOT NULL,
    event_type      text COLLATE "C" NOT NULL,
    revision        bigint NOT NULL,
    status          text COLLATE "C" NOT NULL,
    status_reason   text,
    status_detail   text,
    "trigger"       text COLLATE "C" NOT NULL,
    body            text,
    attempt_count   integer NOT NULL DEFAULT 0,
    schedule_step   integer NOT NULL DEFAULT 0,
    attempt_trigger text NOT NULL,
    next_attempt_at timestamptz,
    claim_token     text,
    claimed_at      timestamptz,
    claimed_until   timestamptz,
    last_outcome    text COLLATE "C",
    last_status     integer,
    succeeded_at    timestamptz,
    replay_id       text COLLATE "C",
    created_at      timestamptz NOT NULL,
    completed_at    timestamptz
) WITH (
    fillfactor = 50,
    -- Each delivery leaves two dead versions within a second. Vacuum often and little, or the
    -- due index fills with entries of what has ended and every look at it wades through them.
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 1
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
    delivery_id        text COLLATE "C" NOT NULL,
    number             integer NOT NULL,
    tenant             text COLLATE "C" NOT NULL,
    token              text NOT NULL,
    "trigger"          text NOT NULL,
    started_at         timestamptz NOT NULL,
    ended_at           timestamptz,
    outcome            text,
    error              text,
    remote_address     text,
    request_url        text NOT NULL,
    request_headers    text NOT NULL,
    response_status    integer,
    response_headers   text,
    response_body      text,
    response_truncated boolean NOT NULL DEFAULT false,
    total_micros       bigint,
    dns_micros         bigint,
    connect_micros     bigint,
    tls_micros         bigint,
    first_byte_micros  bigint,
    PRIMARY KEY (delivery_id, number)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.05);

-- Minute by minute: measure < 0 counts (see the Measure constants), measure >= 0 is a bucket of
-- latency on a log scale. shard keeps the recorders of two processes off each other's rows.
CREATE TABLE delivery_minutes (
    webhook_id text COLLATE "C" NOT NULL,
    minute     timestamptz NOT NULL,
    event_type text COLLATE "C" NOT NULL,
    shard      smallint NOT NULL,
    measure    smallint NOT NULL,
    tenant     text COLLATE "C" NOT NULL,
    n          bigint NOT NULL,
    PRIMARY KEY (webhook_id, minute, event_type, shard, measure)
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
CREATE INDEX delivery_minutes_tenant ON delivery_minutes (tenant, minute);

CREATE TABLE api_keys (
    id           text COLLATE "C" PRIMARY KEY,
    name         text NOT NULL,
    tenant       text COLLATE "C",
    scopes       text NOT NULL,
    prefix       text NOT NULL,
    hash         text COLLATE "C" NOT NULL UNIQUE,
    last_used_at timestamptz,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    created_at   timestamptz NOT NULL
);

-- The head of the log of config changes. One row; changes are ordered by an advisory lock.
CREATE TABLE config_epoch (
    one  boolean PRIMARY KEY DEFAULT true CHECK (one),
    head bigint NOT NULL
);
INSERT INTO config_epoch (head) VALUES (0);

CREATE TABLE changes (
    epoch      bigint PRIMARY KEY,
    tenant     text COLLATE "C" NOT NULL,
    kind       text NOT NULL,
    object_id  text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL
);

CREATE TABLE leases (
    name       text COLLATE "C" PRIMARY KEY,
    holder     text NOT NULL,
    expires_at timestamptz NOT NULL
);
