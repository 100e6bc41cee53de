package models

import (
	"context"
	"errors"
	"time"

	"gorm.io/gorm"
)

// AcquireLease takes or renews the lease of this name for ttl, by the database's clock. False
// where another holder has it.
func (s *Store) AcquireLease(ctx context.Context, name, holder string, ttl time.Duration) (bool, error) {
	held := false
	err := s.working(ctx, func(tx *gorm.DB) error {
		now, err := s.clock(tx)
		if err != nil {
			return err
		}
		// In: name, holder, end, now. One row changed: it is held.
		result := tx.Exec(`
INSERT INTO leases (name, holder, expires_at) VALUES (?, ?, ?)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
WHERE leases.holder = excluded.holder OR leases.expires_at <= ?`, name, holder, Instant(now.Add(ttl)), now)
		held = result.RowsAffected == 1
		return result.Error
	})
	return held && err == nil, err
}

// ReleaseLease gives a lease back early, so that another holder need not wait for its end.
func (s *Store) ReleaseLease(ctx context.Context, name, holder string) error {
	return s.working(ctx, func(tx *gorm.DB) error {
		return tx.Exec("DELETE FROM leases WHERE name = ? AND holder = ?", name, holder).Error
	})
}

// reconciled names the lease that a completed pass takes and lets run out at once: its end is when
// that was, for every process to read.
const reconciled = "reconciled"

// MarkReconciled notes that a pass of the reconciler was completed just now.
func (s *Store) MarkReconciled(ctx context.Context) error {
	_, err := s.AcquireLease(ctx, reconciled, reconciled, 0)
	return err
}

// ReconciledAgo is how long ago any process completed a pass of the reconciler, by the database's
// clock; known is false where none ever did.
func (s *Store) ReconciledAgo(ctx context.Context) (age time.Duration, known bool, err error) {
	err = s.reading(ctx, func(db *gorm.DB) error {
		age, known = 0, false
		var marks []time.Time
		if err := db.Table("leases").Where("name = ?", reconciled).Pluck("expires_at", &marks).Error; err != nil || len(marks) == 0 {
			return err
		}
		now, err := s.clock(db)
		age, known = max(0, now.Sub(marks[0])), err == nil
		return err
	})
	return age, known, err
}

// DueDeliveries lists open deliveries that have been due for longer than olderThan and that
// nobody has claimed, the oldest first, at most limit, after a place in that order. The zero
// cursor is before all.
func (s *Store) DueDeliveries(ctx context.Context, olderThan time.Duration, after DueCursor, limit int) ([]Due, error) {
	var due []Due
	err := s.retry(ctx, s.work, func(ctx context.Context) error {
		due = nil
		db := s.reads.WithContext(ctx)
		now, err := s.clock(db)
		if err != nil {
			return err
		}
		q := db.Table("deliveries").Select("id AS delivery_id", "attempt_count", "next_attempt_at").
			Where("status IN ('PENDING', 'RETRYING') AND next_attempt_at <= ? AND claim_token IS NULL", Instant(now.Add(-olderThan)))
		if after != (DueCursor{}) {
			q = q.Where("(next_attempt_at, id) > (?, ?)", after.NextAttemptAt, after.DeliveryID)
		}
		return q.Order("next_attempt_at, id").Limit(limit).Find(&due).Error
	})
	return due, err
}

// defaultClaimsRead is how many due deliveries ExpireClaims looks through at a time. Which of them are claimed is
// in no index of Postgres', because that would cost every claim more than this costs now and then.
const defaultClaimsRead = 20_000

// ExpireClaims turns claims whose lease ran out into ABANDONED attempts: those of the next deliveries after
// a place in the order of being due, at most limit. Their deliveries are due again at once, and are
// returned. next is the place to go on from; zero where there is no more.
//
// It searches without a lock: a backlog of hours is long, and nobody waits for it to be looked through. SQLite
// has an index of what is claimed, and needs no place.
func (s *Store) ExpireClaims(ctx context.Context, after DueCursor, limit int) (due []Due, next DueCursor, err error) {
	err = s.retry(ctx, s.work, func(ctx context.Context) error {
		due = nil
		reads := s.reads.WithContext(ctx)
		now, err := s.clock(reads)
		if err != nil {
			return err
		}
		search := pgExpired
		if s.dialect == DialectSQLite {
			search = liteExpired
		}
		var ids []string
		if ids, next, err = search(reads, now, after, s.claimsRead, limit); err != nil || len(ids) == 0 {
			return err
		}
		due, err = s.expire(ctx, ids)
		return err
	})
	return due, next, err
}

// pgExpired finds claims that have run out among the next deliveries after a place.
func pgExpired(db *gorm.DB, now time.Time, after DueCursor, read, limit int) (ids []string, next DueCursor, err error) {
	open := func() *gorm.DB {
		q := db.Table("deliveries").Select("id AS delivery_id", "next_attempt_at").
			Where("status IN ('PENDING', 'RETRYING') AND next_attempt_at <= ?", now).Order("next_attempt_at, id")
		if after != (DueCursor{}) {
			q = q.Where("(next_attempt_at, id) > (?, ?)", after.NextAttemptAt, after.DeliveryID)
		}
		return q
	}
	// Of the index alone.
	var last, expired []Due
	if err := open().Offset(read - 1).Limit(1).Find(&last).Error; err != nil {
		return nil, next, err
	}
	claimed := open().Where("claimed_until <= ?", now)
	if len(last) > 0 {
		next = last[0].Cursor()
		claimed = claimed.Where("(next_attempt_at, id) <= (?, ?)", next.NextAttemptAt, next.DeliveryID)
	}
	if err := claimed.Limit(limit).Find(&expired).Error; err != nil {
		return nil, next, err
	}
	if len(expired) == limit {
		next = expired[limit-1].Cursor()
	}
	for _, d := range expired {
		ids = append(ids, d.DeliveryID)
	}
	return ids, next, nil
}

// liteExpired finds claims that have run out in the index of all claims.
func liteExpired(db *gorm.DB, now time.Time, _ DueCursor, _, limit int) (ids []string, next DueCursor, err error) {
	if err := db.Raw(liteClaimsExpired, now, now, limit).Scan(&ids).Error; err != nil {
		return nil, next, err
	}
	if len(ids) == limit {
		next.DeliveryID = ids[limit-1]
	}
	return ids, next, nil
}

const liteClaimsExpired = `
SELECT id FROM deliveries INDEXED BY deliveries_claimed
WHERE claim_token IS NOT NULL AND claimed_until <= ? AND status IN ('PENDING', 'RETRYING') AND next_attempt_at <= ?
ORDER BY claimed_until LIMIT ?`

// expire abandons those claims on the given deliveries that have run out. It does not wait for rows that
// others hold: who records an attempt at this moment is not dead.
//
// It asks the database the same few times for one and for all, so that a page of them gets done on a
// database that is far away or slow. What takes longer than it may is rolled back, and would be for ever.
func (s *Store) expire(ctx context.Context, ids []string) ([]Due, error) {
	var due []Due
	err := s.transaction(ctx, func(tx *gorm.DB) error {
		due = nil
		now, err := s.clock(tx)
		if err != nil {
			return err
		}
		q := tx.Table("deliveries").Select("id", "tenant", "webhook_id", "event_type", "\"trigger\"", "attempt_count").
			Where("id IN ? AND status IN ('PENDING', 'RETRYING') AND next_attempt_at <= ? AND claimed_until <= ?", ids, now, now)
		text := "? ORDER BY next_attempt_at, id"
		if s.dialect == DialectPostgres {
			text += " FOR UPDATE SKIP LOCKED"
		}
		var rows []Delivery
		if err := tx.Raw(text, q).Find(&rows).Error; err != nil || len(rows) == 0 {
			return err
		}
		counts := minutes{}
		changed := make([]string, 0, len(rows))
		for i := range rows {
			d := &rows[i]
			counts.add(d, MeasureAttempts)
			due = append(due, Due{DeliveryID: d.ID, AttemptCount: d.AttemptCount, NextAttemptAt: now})
			changed = append(changed, d.ID)
		}
		if err := abandon(tx, changed, now); err != nil {
			return err
		}
		if err := s.addMinutes(tx, counts, now); err != nil {
			return err
		}
		return feedChanged(tx, changed)
	})
	return due, err
}

// A number that is taken, by a late record or one abandoned before, makes the row go after it.
const abandonAttempts = `
INSERT INTO attempts (delivery_id, number, tenant, token, "trigger", started_at, ended_at, outcome, request_url, request_headers)
SELECT d.id,
  (SELECT min(c.n) FROM (
     SELECT d.attempt_count + 1 AS n UNION ALL
     SELECT a.number + 1 FROM attempts a WHERE a.delivery_id = d.id AND a.number > d.attempt_count) c
   WHERE NOT EXISTS (SELECT 1 FROM attempts t WHERE t.delivery_id = d.id AND t.number = c.n)),
  d.tenant, coalesce(d.claim_token, ''), d.attempt_trigger, coalesce(d.claimed_at, @now), @now, @outcome, w.target_url, @headers
FROM deliveries d JOIN webhooks w ON w.id = d.webhook_id
WHERE d.id IN @ids`

// abandon writes the attempts of which nothing was heard, and makes their deliveries due. What they were
// asked for, an attempt of the schedule, a test or a redelivery, is still to be done: it neither counts
// nor uses a step.
func abandon(tx *gorm.DB, ids []string, now time.Time) error {
	err := tx.Exec(abandonAttempts, map[string]any{"ids": ids, "now": now, "outcome": OutcomeAbandoned, "headers": Headers{}}).Error
	if err != nil {
		return err
	}
	return tx.Model(&Delivery{}).Where("id IN ?", ids).UpdateColumns(map[string]any{
		"status": DeliveryRetrying, "status_reason": nil, "status_detail": nil, "next_attempt_at": now,
		"claim_token": nil, "claimed_at": nil, "claimed_until": nil, "last_outcome": OutcomeAbandoned, "last_status": nil,
	}).Error
}

// errEnough ends a walk that has done its share.
var errEnough = errors.New("enough")

// Webhooks whose open deliveries are not where the webhook's state wants them: a change of state
// was cut short before it had moved them all.
const unsettled = `
SELECT w.* FROM webhooks w
WHERE ((w.deleted_at IS NOT NULL OR w.status = 'DISABLED') AND EXISTS (SELECT 1 FROM deliveries d
         WHERE d.webhook_id = w.id AND d.status <> 'SUCCEEDED' AND d.status IN ('PENDING', 'RETRYING', 'HELD')))
   OR (w.deleted_at IS NULL AND w.status = 'PAUSED' AND EXISTS (SELECT 1 FROM deliveries d
         WHERE d.webhook_id = w.id AND d.status <> 'SUCCEEDED' AND d.status IN ('PENDING', 'RETRYING')))
   OR (w.deleted_at IS NULL AND w.status = 'ACTIVE' AND EXISTS (SELECT 1 FROM deliveries d
         WHERE d.webhook_id = w.id AND d.status <> 'SUCCEEDED' AND d.status = 'HELD'))
ORDER BY w.id LIMIT 20`

// SettleInactive moves open deliveries to where their webhook's state wants them: cancelled for
// one that is deleted or disabled, held for one that is paused, due for one that is active again.
// It moves about limit, and says how many it did.
func (s *Store) SettleInactive(ctx context.Context, limit int) (int, error) {
	var webhooks []Webhook
	err := s.retry(ctx, s.work, func(ctx context.Context) error {
		webhooks = nil
		return s.reads.WithContext(ctx).Raw(unsettled).Find(&webhooks).Error
	})
	if err != nil {
		return 0, err
	}
	moved := 0
	for _, w := range webhooks {
		if moved >= limit {
			break
		}
		err := s.settle(ctx, w, func(_ context.Context, page []Due) error {
			moved += len(page)
			if moved >= limit {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			return moved, err
		}
	}
	return moved, nil
}

// settle moves one webhook's deliveries, and hands each page to after.
func (s *Store) settle(ctx context.Context, w Webhook, after func(context.Context, []Due) error) error {
	switch {
	case w.DeletedAt != nil:
		return s.cancelOpen(ctx, w, ReasonWebhookDeleted, after)
	case w.Status == WebhookDisabled && w.StatusReason != nil && *w.StatusReason == ReasonReceiverGone:
		return s.cancelOpen(ctx, w, ReasonGone, after)
	case w.Status == WebhookDisabled:
		return s.cancelOpen(ctx, w, ReasonWebhookDisabled, after)
	case w.Status == WebhookPaused:
		return s.holdOpen(ctx, w, after)
	default:
		return s.resumeHeld(ctx, w, after)
	}
}

// OpenStats is how much is left to do.
type OpenStats struct {
	Open      int           // PENDING, RETRYING and HELD deliveries, counted up to OpenCounted
	OldestDue time.Duration // how long the oldest due delivery has been due; 0 where none is
}

// OpenCounted is where OpenStats stops to count: looking through more would cost more than the
// figure is worth.
const OpenCounted = 100_000

// OpenStats counts open deliveries and looks for the oldest due one, over all tenants.
func (s *Store) OpenStats(ctx context.Context) (OpenStats, error) {
	var stats OpenStats
	err := s.retry(ctx, s.work, func(ctx context.Context) error {
		db := s.reads.WithContext(ctx)
		now, err := s.clock(db)
		if err != nil {
			return err
		}
		err = db.Raw("SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE status <> 'SUCCEEDED' "+
			"AND status IN ('PENDING', 'RETRYING', 'HELD') LIMIT ?) AS open", OpenCounted).Row().Scan(&stats.Open)
		if err != nil {
			return err
		}
		// Of the index alone: what is claimed now is still waiting.
		var oldest []Due
		err = db.Table("deliveries").Select("id AS delivery_id", "next_attempt_at").
			Where("status IN ('PENDING', 'RETRYING') AND next_attempt_at <= ?", now).
			Order("next_attempt_at, id").Limit(1).Find(&oldest).Error
		stats.OldestDue = 0
		if len(oldest) > 0 {
			stats.OldestDue = now.Sub(oldest[0].NextAttemptAt)
		}
		return err
	})
	return stats, err
}
