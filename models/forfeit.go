package models

import (
	"context"

	"gorm.io/gorm"
)

// ForfeitClaims ends the lease of every claim at once, where it is certain that whoever claimed
// is gone: on SQLite, whose file one process holds, before that process claims anything. Elsewhere
// it does nothing. The reconciler's first pass then makes the deliveries due again, instead of
// their waiting for leases of the dead to run out.
func (s *Store) ForfeitClaims(ctx context.Context) error {
	if s.dialect != DialectSQLite {
		return nil
	}
	return s.transaction(ctx, func(tx *gorm.DB) error {
		now, err := s.clock(tx)
		if err != nil {
			return err
		}
		return tx.Model(&Delivery{}).
			Where("status IN ('PENDING', 'RETRYING') AND claim_token IS NOT NULL AND claimed_until > ?", now).
			UpdateColumn("claimed_until", now).Error
	})
}
