package models

import (
	"context"
	"errors"
	"time"

	"gorm.io/gorm"
)

// CreateFirstAPIKey stores k where there is no API key at all yet, revoked ones included, and
// reports whether it did. Of several processes that start at once on a new database one does.
func (s *Store) CreateFirstAPIKey(ctx context.Context, k *APIKey) (bool, error) {
	err := s.changeConfig(ctx, ChangedAPIKey, "", k.ID, func(tx *gorm.DB, _ int64, now time.Time) error {
		var known int64
		if err := tx.Model(&APIKey{}).Limit(1).Count(&known).Error; err != nil {
			return err
		}
		if known > 0 {
			return errUnchanged
		}
		k.CreatedAt = now
		return tx.Create(k).Error
	})
	if errors.Is(err, errUnchanged) {
		return false, nil
	}
	return err == nil, err
}
