package models

import (
	"context"

	"gorm.io/gorm"
)

// Sealed is what one webhook stores sealed, deleted ones too: their history still shows the names
// of their headers. "" where there is nothing.
type Sealed struct {
	WebhookID         string
	SealedKey         string
	SealedPreviousKey string
	SealedHeaders     string
}

// Resealed replaces what a webhook stores sealed. Both name the same webhook.
type Resealed struct{ From, To Sealed }

// MaxResealed is how many webhooks ReplaceSealed takes at once: events and claims wait for it.
const MaxResealed = 50

// sealedColumns are the columns that hold what is sealed.
const sealedColumns = "id AS webhook_id, sealed_key, sealed_previous_key, sealed_headers"

// SealedPage lists what webhooks store sealed, in order of their ids, after the webhook with the
// given id ("": from the first), at most limit of them.
func (s *Store) SealedPage(ctx context.Context, after string, limit int) ([]Sealed, error) {
	var page []Sealed
	err := s.reading(ctx, func(db *gorm.DB) error {
		page = nil
		// In: the last id, the size of the page. Out: the page, by the primary key.
		return db.Model(&Webhook{}).Select(sealedColumns).Where("id > ?", after).Order("id").Limit(limit).Scan(&page).Error
	})
	return page, err
}

// CountSealed counts the webhooks that SealedPage lists in all.
func (s *Store) CountSealed(ctx context.Context) (int, error) {
	return count(ctx, s, func(db *gorm.DB) *gorm.DB { return db.Model(&Webhook{}) })
}

// SealedOutside finds one webhook with something sealed that begins with none of the prefixes,
// which must all have the same length; ok is false where there is none. It may look at every
// webhook, for as long as a caller's statement may take.
func (s *Store) SealedOutside(ctx context.Context, prefixes []string) (found Sealed, ok bool, err error) {
	if len(prefixes) == 0 {
		return Sealed{}, false, nil
	}
	length := len(prefixes[0])
	var page []Sealed
	err = s.reading(ctx, func(db *gorm.DB) error {
		page = nil
		// In: how the texts may begin. Out: at most one row.
		return db.Model(&Webhook{}).Select(sealedColumns).Where("(sealed_key <> '' AND substr(sealed_key, 1, ?) NOT IN ?)"+
			" OR (sealed_previous_key <> '' AND substr(sealed_previous_key, 1, ?) NOT IN ?)"+
			" OR (sealed_headers <> '' AND substr(sealed_headers, 1, ?) NOT IN ?)",
			length, prefixes, length, prefixes, length, prefixes).Limit(1).Scan(&page).Error
	})
	if err != nil || len(page) == 0 {
		return Sealed{}, false, err
	}
	return page[0], true, nil
}

// ReplaceSealed writes what was sealed anew, and reports for how many webhooks it did: not for
// those whose stored texts are no longer those of From. It takes at most MaxResealed. It is no
// change of the configuration: what the texts hold is the same, and no version is raised.
func (s *Store) ReplaceSealed(ctx context.Context, changes []Resealed) (replaced int, err error) {
	if len(changes) == 0 {
		return 0, nil
	}
	err = s.working(ctx, func(tx *gorm.DB) error {
		replaced = 0
		if s.dialect == DialectPostgres {
			// A config change reads a webhook and writes all of it: it must not write back what it read
			// before this.
			if err := tx.Exec("SELECT pg_advisory_xact_lock(?)", int64(configLock)).Error; err != nil {
				return err
			}
		}
		for _, c := range changes {
			// In: the id, what is stored, what is to be. Out: one row, or none.
			done := tx.Model(&Webhook{}).
				Where("id = ? AND sealed_key = ? AND sealed_previous_key = ? AND sealed_headers = ?",
					c.From.WebhookID, c.From.SealedKey, c.From.SealedPreviousKey, c.From.SealedHeaders).
				UpdateColumns(map[string]any{
					"sealed_key": c.To.SealedKey, "sealed_previous_key": c.To.SealedPreviousKey, "sealed_headers": c.To.SealedHeaders,
				})
			if done.Error != nil {
				return done.Error
			}
			replaced += int(done.RowsAffected)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return replaced, nil
}
