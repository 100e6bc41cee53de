-- +goose Up
-- Which claims have run out must not need a look at all that is due while the one writer waits. On Postgres the
-- same index would cost more than it saves: an update of a claim touches no index there.
CREATE INDEX deliveries_claimed ON deliveries (claimed_until) WHERE claim_token IS NOT NULL;
