-- +goose Up
-- Pages of a platform key, which sees all tenants, narrowed by what is rare among millions.
CREATE INDEX deliveries_type ON deliveries (event_type, id);
CREATE INDEX deliveries_outcome ON deliveries (last_outcome, id) WHERE last_outcome <> 'SUCCESS';
CREATE INDEX deliveries_response ON deliveries (last_status, id) WHERE last_status <> 200;
CREATE INDEX deliveries_trigger ON deliveries ("trigger", id) WHERE "trigger" <> 'AUTOMATIC';
CREATE INDEX events_type ON events (event_type, id);
-- Few tenants use the same key, so one index serves those who see all of them and those who do not.
CREATE INDEX events_key ON events (idempotency_key, id) WHERE idempotency_key IS NOT NULL;
DROP INDEX events_idempotency_key;
