package models

import (
	"context"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// DisableFailing disables an active webhook, with the reason FAILING, if the run of failures that
// began at failingSince still lasts, and cancels its open deliveries. A success that was recorded
// meanwhile, another status or a deletion make it false, and nothing is changed.
//
// With an error the webhook may be disabled and its deliveries not all cancelled; the sweep over
// inactive webhooks goes on with it.
func (s *Store) DisableFailing(ctx context.Context, webhookID string, failingSince time.Time) (bool, error) {
	disabled := false
	w, err := s.changeWebhook(ctx, Reach{All: true}, webhookID, func(tx *gorm.DB, w *Webhook, _ time.Time) error {
		disabled = false
		if w.Status != WebhookActive {
			return errUnchanged
		}
		// Locked, so that no success is recorded between this look and the commit.
		var health []WebhookHealth
		err := tx.Clauses(clause.Locking{Strength: clause.LockingStrengthUpdate}).
			Where("webhook_id = ? AND failing_since = ?", webhookID, Instant(failingSince)).Find(&health).Error
		if err != nil {
			return err
		}
		if len(health) == 0 {
			return errUnchanged
		}
		reason := ReasonFailing
		w.Status, w.StatusReason = WebhookDisabled, &reason
		disabled = true
		return nil
	})
	if err != nil || !disabled {
		return false, err
	}
	return true, s.cancelOpen(ctx, w, ReasonWebhookDisabled, nil)
}

// AutoDisabled is a webhook that the system disabled by itself.
type AutoDisabled struct {
	Webhook
	// DisabledBy is the revision that it was disabled with, and DisabledAt when that was: edits
	// since then do not move them.
	DisabledBy   int64
	DisabledAt   time.Time
	FailingSince *time.Time
}

// In: how many at most, since when. The disabling revision is the one after the last that was not
// disabled.
const autoDisabled = `
SELECT w.*, r.revision AS disabled_by, r.created_at AS disabled_at, h.failing_since
FROM webhooks w
JOIN webhook_revisions r ON r.webhook_id = w.id AND r.revision = 1 +
  (SELECT max(b.revision) FROM webhook_revisions b WHERE b.webhook_id = w.id AND b.status <> 'DISABLED')
LEFT JOIN webhook_health h ON h.webhook_id = w.id
WHERE w.status = 'DISABLED' AND w.deleted_at IS NULL AND w.status_reason IN ('RECEIVER_GONE', 'FAILING') AND r.created_at >= ?
ORDER BY r.created_at DESC, w.id LIMIT ?`

// AutoDisabled lists webhooks that the system disabled within a time until now, by the database's
// clock, at most limit, the latest first.
func (s *Store) AutoDisabled(ctx context.Context, within time.Duration, limit int) ([]AutoDisabled, error) {
	var found []AutoDisabled
	err := s.retry(ctx, s.work, func(ctx context.Context) error {
		found = nil
		db := s.reads.WithContext(ctx)
		now, err := s.clock(db)
		if err != nil {
			return err
		}
		return db.Raw(autoDisabled, Instant(now.Add(-within)), limit).Find(&found).Error
	})
	return found, err
}
