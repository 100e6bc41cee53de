package models

import (
	"context"
	"database/sql"
	"errors"
)

const (
	liteReadEpoch = `SELECT head FROM config_epoch`
	liteTakeKey   = `
INSERT INTO idempotency_keys (tenant, key, event_id, hash, expires_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (tenant, key) DO UPDATE SET event_id = excluded.event_id, hash = excluded.hash, expires_at = excluded.expires_at
WHERE idempotency_keys.expires_at <= ?`
	liteKeyOwner    = `SELECT event_id, hash FROM idempotency_keys WHERE tenant = ? AND key = ?`
	liteInsertEvent = `
INSERT INTO events (id, tenant, event_type, data, "timestamp", deliver_at, idempotency_key, matched, test, epoch, created_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	liteInsertDelivery = `
INSERT INTO deliveries (id, tenant, event_id, webhook_id, event_type, revision, status, status_reason, status_detail,
    "trigger", body, attempt_trigger, next_attempt_at, replay_id, completed_at, claim_token, claimed_at, claimed_until, created_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
)

// liteCommitEvents needs no lock but that of its transaction: there is one writer.
func (s *Store) liteCommitEvents(ctx context.Context, prepare func(context.Context, *EventTx) ([]NewEvent, error)) ([]EventResult, error) {
	var f *flush
	err := s.sqliteTx(ctx, liteUrgent, func(lite *liteTx) error {
		tx := &EventTx{now: lite.now, db: lite.db}
		if err := lite.query(func(row *sql.Rows) error { return row.Scan(&tx.epoch) }, liteReadEpoch); err != nil {
			return err
		}
		events, err := prepare(ctx, tx)
		if err != nil {
			return err
		}
		f = newFlush(events, tx.epoch, tx.now)
		if err := f.liteKeys(lite); err != nil {
			return err
		}
		return s.liteInserts(lite, f)
	})
	if err != nil {
		if atCommit(err) && !errors.Is(err, errNotSynced) && s.liteHas(ctx, f) && s.onDisk() == nil {
			return f.results, nil
		}
		return nil, err
	}
	return f.results, nil
}

func (f *flush) liteKeys(tx *liteTx) error {
	for i := range f.keyed {
		k := &f.keyed[i]
		changed, err := tx.exec(liteTakeKey, k.tenant, k.key, f.results[k.index].Event.ID, k.hash, k.expires, f.now)
		if err != nil {
			return err
		}
		if changed > 0 {
			continue
		}
		err = tx.query(func(row *sql.Rows) error { return row.Scan(&k.owner, &k.ownerHash) }, liteKeyOwner, k.tenant, k.key)
		if err != nil {
			return err
		}
	}
	return f.settle(func(ids []string) (found []Event, err error) {
		err = tx.db.Where("id IN ?", ids).Find(&found).Error
		return found, err
	})
}

func (s *Store) liteInserts(tx *liteTx, f *flush) error {
	for _, i := range f.news {
		e := &f.results[i].Event
		_, err := tx.exec(liteInsertEvent, e.ID, e.Tenant, e.EventType, e.Data, e.Timestamp, e.DeliverAt, e.IdempotencyKey,
			e.Matched, e.Test, e.Epoch, f.now)
		if err != nil {
			return err
		}
		for j := range f.results[i].Deliveries {
			d := &f.results[i].Deliveries[j]
			_, err := tx.exec(liteInsertDelivery, d.ID, d.Tenant, d.EventID, d.WebhookID, d.EventType, d.Revision, d.Status,
				d.StatusReason, d.StatusDetail, d.Trigger, d.Body, d.AttemptTrigger, d.NextAttemptAt, d.ReplayID, d.CompletedAt,
				d.ClaimToken, d.ClaimedAt, d.ClaimedUntil, f.now)
			if err != nil {
				return err
			}
		}
	}
	if err := f.feed().liteWrite(tx); err != nil {
		return err
	}
	return s.liteAddMinutes(tx, f.counts())
}

// liteHas looks whether a commit that reported an error took effect all the same.
func (s *Store) liteHas(ctx context.Context, f *flush) bool {
	if len(f.news) == 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout/8)
	defer cancel()
	var there bool
	err := s.readers.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM events WHERE id = ?)", f.results[f.news[0]].Event.ID).Scan(&there)
	return err == nil && there
}
