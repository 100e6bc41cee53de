package models

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The lock comes in a statement before the reading one, so that this one's snapshot is later than
// every change that the lock waited for. Out: the epoch, the clock, and the transaction's name,
// which tells after a broken connection whether it committed.
const (
	pgLockShared = `SELECT pg_advisory_xact_lock_shared($1)`
	pgReadEpoch  = `SELECT head, clock_timestamp(), pg_current_xact_id()::text FROM config_epoch`
)

// In: rows by column, and now. A key that has expired is taken over.
const pgTakeKeys = `
INSERT INTO idempotency_keys AS k (tenant, key, event_id, hash, expires_at)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
ON CONFLICT (tenant, key) DO UPDATE SET event_id = excluded.event_id, hash = excluded.hash, expires_at = excluded.expires_at
WHERE k.expires_at <= $6`

// In: the same keys and events. Out: the keys that others have, by position.
const pgOtherKeys = `
SELECT u.n, k.event_id, k.hash
FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS u (tenant, key, event_id, n)
JOIN idempotency_keys k ON k.tenant = u.tenant AND k.key = u.key
WHERE k.event_id <> u.event_id`

const pgInsertEvents = `
INSERT INTO events (id, tenant, event_type, data, "timestamp", deliver_at, idempotency_key, matched, test, epoch, created_at)
SELECT *, $10::bigint, $11::timestamptz
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[], $7::text[], $8::integer[], $9::boolean[])`

const pgInsertDeliveries = `
INSERT INTO deliveries (id, tenant, event_id, webhook_id, event_type, revision, status, status_reason, status_detail,
    "trigger", body, attempt_trigger, next_attempt_at, replay_id, completed_at, claim_token, claimed_at, claimed_until, created_at)
SELECT *, $19::timestamptz
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::text[], $9::text[],
    $10::text[], $11::text[], $12::text[], $13::timestamptz[], $14::text[], $15::timestamptz[], $16::text[],
    $17::timestamptz[], $18::timestamptz[])`

// pgCommitEvents takes two round trips, three with idempotency keys, and those of prepare.
func (s *Store) pgCommitEvents(ctx context.Context, prepare func(context.Context, *EventTx) ([]NewEvent, error)) ([]EventResult, error) {
	var f *flush
	var xid string
	err := s.pgDo(ctx, s.hot, func(p *pgSession) error {
		tx := &EventTx{db: p.gorm(ctx, s.db)}
		begin := &pgx.Batch{}
		begin.Queue("BEGIN")
		begin.Queue(pgLockShared, int64(configLock))
		begin.Queue(pgReadEpoch).QueryRow(func(row pgx.Row) error { return row.Scan(&tx.epoch, &tx.now, &xid) })
		if err := p.send(ctx, begin); err != nil {
			return err
		}
		tx.now = Instant(tx.now)
		events, err := prepare(ctx, tx)
		if err != nil {
			return err
		}
		f = newFlush(events, tx.epoch, tx.now)
		if err := f.pgKeys(ctx, p, tx); err != nil {
			return err
		}
		if len(f.news) == 0 {
			return nil // nothing was written: rolled back
		}
		return p.commit(ctx, s.pgInserts(f))
	})
	if err != nil {
		return s.afterCommit(ctx, err, f, xid)
	}
	return f.results, nil
}

func (f *flush) pgKeys(ctx context.Context, p *pgSession, tx *EventTx) error {
	if len(f.keyed) > 0 {
		n := len(f.keyed)
		tenants, keys, events, hashes := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
		expires := make([]time.Time, n)
		for i, k := range f.keyed {
			tenants[i], keys[i], hashes[i], expires[i] = k.tenant, k.key, k.hash, k.expires
			events[i] = f.results[k.index].Event.ID
		}
		batch := &pgx.Batch{}
		batch.Queue(pgTakeKeys, tenants, keys, events, hashes, expires, f.now)
		batch.Queue(pgOtherKeys, tenants, keys, events).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				var at int
				var owner, hash string
				if err := rows.Scan(&at, &owner, &hash); err != nil {
					return err
				}
				f.keyed[at-1].owner, f.keyed[at-1].ownerHash = owner, hash
			}
			return rows.Err()
		})
		if err := p.send(ctx, batch); err != nil {
			return err
		}
	}
	return f.settle(func(ids []string) (found []Event, err error) {
		err = tx.db.Where("id IN ?", ids).Find(&found).Error
		return found, err
	})
}

// pgInserts is the batch that writes everything new and commits.
func (s *Store) pgInserts(f *flush) *pgx.Batch {
	var e struct {
		id, tenant, eventType []string
		data, key             []*string
		timestamp             []time.Time
		deliverAt             []*time.Time
		matched               []int
		test                  []bool
	}
	var d struct {
		id, tenant, event, webhook, eventType, status, trigger, attemptTrigger []string
		revision                                                               []int64
		detail, body, replay                                                   []*string
		reason, token                                                          []*string
		next, completed, claimedAt, claimedUntil                               []*time.Time
	}
	var epoch int64
	for _, i := range f.news {
		x := &f.results[i].Event
		epoch = x.Epoch
		e.id, e.tenant, e.eventType = append(e.id, x.ID), append(e.tenant, x.Tenant), append(e.eventType, x.EventType)
		e.data, e.key = append(e.data, x.Data), append(e.key, x.IdempotencyKey)
		e.timestamp, e.deliverAt = append(e.timestamp, x.Timestamp), append(e.deliverAt, x.DeliverAt)
		e.matched, e.test = append(e.matched, x.Matched), append(e.test, x.Test)
		for j := range f.results[i].Deliveries {
			y := &f.results[i].Deliveries[j]
			d.id, d.tenant, d.event = append(d.id, y.ID), append(d.tenant, y.Tenant), append(d.event, y.EventID)
			d.webhook, d.eventType = append(d.webhook, y.WebhookID), append(d.eventType, y.EventType)
			d.revision, d.status = append(d.revision, y.Revision), append(d.status, string(y.Status))
			d.reason, d.detail = append(d.reason, (*string)(y.StatusReason)), append(d.detail, y.StatusDetail)
			d.trigger, d.body = append(d.trigger, string(y.Trigger)), append(d.body, y.Body)
			d.attemptTrigger = append(d.attemptTrigger, string(y.AttemptTrigger))
			d.next, d.replay = append(d.next, y.NextAttemptAt), append(d.replay, y.ReplayID)
			d.completed, d.token = append(d.completed, y.CompletedAt), append(d.token, y.ClaimToken)
			d.claimedAt, d.claimedUntil = append(d.claimedAt, y.ClaimedAt), append(d.claimedUntil, y.ClaimedUntil)
		}
	}
	batch := &pgx.Batch{}
	batch.Queue(pgInsertEvents, e.id, e.tenant, e.eventType, e.data, e.timestamp, e.deliverAt, e.key, e.matched, e.test, epoch, f.now)
	if len(d.id) > 0 {
		batch.Queue(pgInsertDeliveries, d.id, d.tenant, d.event, d.webhook, d.eventType, d.revision, d.status, d.reason, d.detail,
			d.trigger, d.body, d.attemptTrigger, d.next, d.replay, d.completed, d.token, d.claimedAt, d.claimedUntil, f.now)
		s.pgQueueMinutes(batch, f.counts(), f.now)
	}
	f.feed().pgQueue(batch)
	batch.Queue("COMMIT")
	return batch
}

func (s *Store) pgQueueMinutes(batch *pgx.Batch, m minutes, now time.Time) {
	if len(m) > 0 {
		webhooks, types, measures, tenants, ns := m.columns()
		batch.Queue(pgAddMinutes, now.Truncate(time.Minute), s.shard, webhooks, types, measures, tenants, ns)
	}
}

// afterCommit finds out what became of a commit whose connection broke: the events are looked up,
// and the transaction is asked after, since it may still be on its way.
func (s *Store) afterCommit(ctx context.Context, err error, f *flush, xid string) ([]EventResult, error) {
	if !atCommit(err) {
		return nil, err
	}
	left := time.Until(deadlineOf(ctx, s.timeout))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(left, s.timeout/8, 250*time.Millisecond))
	defer cancel()
	for {
		// In: an event of the transaction, its name. Out: is it there, and how the transaction stands.
		var there bool
		var status *string
		asked := s.main.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM events WHERE id = $1), pg_xact_status($2::text::xid8)",
			f.results[f.news[0]].Event.ID, xid).Scan(&there, &status)
		var pg *pgconn.PgError
		switch {
		case asked == nil && there:
			return f.results, nil
		case asked == nil && (status == nil || *status == "aborted"),
			// After a crash the server may not have got as far as that name: it never committed.
			errors.As(asked, &pg) && pg.Code == "22023":
			var commit *commitError
			errors.As(err, &commit)
			return nil, errors.Join(errUndone, commit.err)
		case asked != nil && errors.As(asked, &pg) && !unavailable(asked):
			return nil, errors.Join(err, asked)
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func deadlineOf(ctx context.Context, otherwise time.Duration) time.Time {
	if at, ok := ctx.Deadline(); ok {
		return at
	}
	return time.Now().Add(otherwise)
}
