package models

import (
	"context"
	"slices"

	"gorm.io/gorm"
)

// DetailShare is the detail of a delivery that waits for a slot of its webhook, with RATE_LIMITED as its
// reason. Such a delivery is parked: its next attempt is due about when a slot will be free, and may be
// made earlier, see Unpark. So is one that waits for its webhook's circuit to close, with CIRCUIT_OPEN.
const DetailShare = "Waits for its turn: the webhook has as many attempts under way as it may have."

// parkedWithin is how many of the oldest open deliveries of a webhook are looked through for parked ones:
// what is scheduled for a later day must not be read over and over.
const parkedWithin = 1000

// In: webhook, the detail, now, how many, among how many of each status. Out: ids. Each half walks its
// status's index from the oldest on and ends with the last one that is wanted.
const (
	parkedOf = `
SELECT id FROM (` + parkedPending + `) p UNION ALL SELECT id FROM (` + parkedRetrying + `) r`
	parkedPending = `
  SELECT id FROM deliveries WHERE webhook_id = @webhook AND status = 'PENDING' AND ` + isOpen + ` AND ` + isParked + ` AND id <= coalesce(
    (SELECT id FROM deliveries WHERE webhook_id = @webhook AND status = 'PENDING' AND ` + isOpen + ` ORDER BY id LIMIT 1 OFFSET @within), '~')
  ORDER BY id LIMIT @limit`
	parkedRetrying = `
  SELECT id FROM deliveries WHERE webhook_id = @webhook AND status = 'RETRYING' AND ` + isOpen + ` AND ` + isParked + ` AND id <= coalesce(
    (SELECT id FROM deliveries WHERE webhook_id = @webhook AND status = 'RETRYING' AND ` + isOpen + ` ORDER BY id LIMIT 1 OFFSET @within), '~')
  ORDER BY id LIMIT @limit`
	// isOpen is the condition of the index: SQLite does not see that it follows.
	isOpen = `status <> 'SUCCEEDED'`
	// coalesce keeps Postgres from walking the index over everybody's times instead.
	isParked = `claim_token IS NULL AND (status_reason = 'CIRCUIT_OPEN' OR status_reason = 'RATE_LIMITED' AND status_detail = @detail)
    AND coalesce(next_attempt_at, @now) > @now`

	// In: as above, and ids. Out: those of them that are still parked and that nobody is changing.
	pgStillParked = `SELECT id FROM deliveries WHERE id IN @ids AND status IN ('PENDING', 'RETRYING') AND ` + isParked + `
ORDER BY id FOR UPDATE SKIP LOCKED`
	unpark = `UPDATE deliveries SET next_attempt_at = @now WHERE id IN @ids AND status IN ('PENDING', 'RETRYING') AND ` + isParked
)

// Unpark makes parked deliveries of a webhook due at once, the oldest first, at most limit, and returns
// them. It does not wait for those that others are changing.
func (s *Store) Unpark(ctx context.Context, webhookID string, limit int) ([]Due, error) {
	var due []Due
	err := s.retry(ctx, s.work, func(ctx context.Context) error {
		due = nil
		// The search needs no lock, and on SQLite it must not keep the one writer waiting.
		reads := s.reads.WithContext(ctx)
		now, err := s.clock(reads)
		if err != nil {
			return err
		}
		in := map[string]any{
			"webhook": webhookID, "detail": DetailShare, "now": Instant(now), "limit": limit, "within": parkedWithin,
		}
		var ids []string
		if err := reads.Raw(parkedOf, in).Scan(&ids).Error; err != nil || len(ids) == 0 {
			return err
		}
		slices.Sort(ids)
		in["ids"] = ids[:min(len(ids), limit)]
		return s.transaction(ctx, func(tx *gorm.DB) error {
			if s.dialect == DialectPostgres {
				var still []string
				if err := tx.Raw(pgStillParked, in).Scan(&still).Error; err != nil || len(still) == 0 {
					return err
				}
				in["ids"] = still
			}
			if err := tx.Exec(unpark, in).Error; err != nil {
				return err
			}
			err := tx.Table("deliveries").Select("id AS delivery_id", "attempt_count", "next_attempt_at").
				Where("id IN ? AND next_attempt_at = ? AND claim_token IS NULL", in["ids"], in["now"]).Order("id").Find(&due).Error
			if err != nil || len(due) == 0 {
				return err
			}
			changed := make([]string, len(due))
			for n, d := range due {
				changed[n] = d.DeliveryID
			}
			return feedChanged(tx, changed)
		})
	})
	return due, err
}
