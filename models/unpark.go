package models

import (
	"context"
	"time"

	"gorm.io/gorm"
)

// DetailShare is the detail of a delivery that waits for a slot of its webhook, with RATE_LIMITED as its
// reason. Such a delivery is parked: its next attempt is due about when a slot will be free, and may be
// made earlier, see Unpark.
const DetailShare = "Waits for its turn: the webhook has as many attempts under way as it may have."

// Reserved is what a worker has for a delivery that is about to be committed.
type Reserved struct {
	// Held: room for an attempt at once.
	Held bool
	// Wait is how long the delivery has to wait before it is worth a claim, for that reason; 0: not at all.
	Wait   time.Duration
	Reason DeliveryStatusReason
	Detail string
}

// parkedWithin is among how many of the oldest open deliveries of a webhook parked ones are looked for,
// beyond those that are wanted: what is scheduled for a later day must not be read over and over.
const parkedWithin = 1000

// In: webhook, how many of each status to look at, the detail, now, how many. Out: ids.
const (
	parkedOf = `
SELECT d.id FROM deliveries d WHERE d.id IN (
  SELECT id FROM (SELECT id FROM deliveries WHERE webhook_id = @webhook AND status = 'PENDING' ORDER BY id LIMIT @within) p
  UNION ALL
  SELECT id FROM (SELECT id FROM deliveries WHERE webhook_id = @webhook AND status = 'RETRYING' ORDER BY id LIMIT @within) r
) AND d.status IN ('PENDING', 'RETRYING') AND d.claim_token IS NULL AND d.status_reason = 'RATE_LIMITED'
  AND d.status_detail = @detail AND d.next_attempt_at > @now
ORDER BY d.id LIMIT @limit`
	unpark = `UPDATE deliveries SET next_attempt_at = ? WHERE id IN ?`
)

// Unpark makes parked deliveries of a webhook due at once, the oldest first, at most limit, and returns
// them. It does not wait for those that others are changing.
func (s *Store) Unpark(ctx context.Context, webhookID string, limit int) ([]Due, error) {
	var due []Due
	err := s.working(ctx, func(tx *gorm.DB) error {
		due = nil
		now, err := s.clock(tx)
		if err != nil {
			return err
		}
		text := parkedOf
		if s.dialect == DialectPostgres {
			text += " FOR UPDATE OF d SKIP LOCKED"
		}
		var ids []string
		err = tx.Raw(text, map[string]any{
			"webhook": webhookID, "within": limit + parkedWithin, "detail": DetailShare, "now": Instant(now), "limit": limit,
		}).Scan(&ids).Error
		if err != nil || len(ids) == 0 {
			return err
		}
		if err := tx.Exec(unpark, Instant(now), ids).Error; err != nil {
			return err
		}
		err = tx.Table("deliveries").Select("id AS delivery_id", "attempt_count", "next_attempt_at").
			Where("id IN ?", ids).Order("id").Find(&due).Error
		if err != nil {
			return err
		}
		return feedChanged(tx, ids)
	})
	return due, err
}
