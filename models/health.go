package models

import (
	"context"
	"time"

	"gorm.io/gorm"
)

// FailingWebhook is an active webhook in a run of failures.
type FailingWebhook struct {
	Webhook
	Health WebhookHealth
}

// FailingWebhooks lists active webhooks whose attempts have only failed for at least failingFor,
// by the database's clock, at most limit: first those whose run was not notified yet, then by how
// long it lasts.
func (s *Store) FailingWebhooks(ctx context.Context, failingFor time.Duration, limit int) ([]FailingWebhook, error) {
	var failing []FailingWebhook
	err := s.retry(ctx, s.work, func(ctx context.Context) error {
		failing = nil
		db := s.reads.WithContext(ctx)
		now, err := s.clock(db)
		if err != nil {
			return err
		}
		var health []WebhookHealth
		err = db.Select("webhook_health.*").Joins("JOIN webhooks w ON w.id = webhook_health.webhook_id").
			Where("webhook_health.failing_since <= ? AND w.status = 'ACTIVE' AND w.deleted_at IS NULL", Instant(now.Add(-failingFor))).
			Order("webhook_health.notified_at IS NOT NULL, webhook_health.failing_since, webhook_health.webhook_id").
			Limit(limit).Find(&health).Error
		if err != nil || len(health) == 0 {
			return err
		}
		ids := make([]string, len(health))
		for i, h := range health {
			ids[i] = h.WebhookID
		}
		var webhooks []Webhook
		if err := db.Where("id IN ?", ids).Find(&webhooks).Error; err != nil {
			return err
		}
		byID := make(map[string]Webhook, len(webhooks))
		for _, w := range webhooks {
			byID[w.ID] = w
		}
		for _, h := range health {
			if w, ok := byID[h.WebhookID]; ok {
				failing = append(failing, FailingWebhook{Webhook: w, Health: h})
			}
		}
		return nil
	})
	return failing, err
}

// MarkNotified notes that the run of failures since failingSince was notified. False where it was
// already, or where that run is over: of several processes one is told true.
func (s *Store) MarkNotified(ctx context.Context, webhookID string, failingSince time.Time) (bool, error) {
	marked := false
	err := s.working(ctx, func(tx *gorm.DB) error {
		now, err := s.clock(tx)
		if err != nil {
			return err
		}
		result := tx.Model(&WebhookHealth{}).
			Where("webhook_id = ? AND failing_since = ? AND notified_at IS NULL", webhookID, Instant(failingSince)).
			UpdateColumn("notified_at", now)
		marked = result.RowsAffected == 1
		return result.Error
	})
	return marked && err == nil, err
}
