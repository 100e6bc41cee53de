package models

import (
	"context"
	"time"

	"gorm.io/gorm"
)

// The kinds of object that a Change names.
const (
	ChangedWebhook   = "webhook"
	ChangedEventType = "event_type"
	ChangedAPIKey    = "api_key"
)

// Change is an entry of the log of config changes. Epochs rise by one a change, without gaps.
type Change struct {
	Epoch     int64  `gorm:"primaryKey;autoIncrement:false"`
	Tenant    string // "" for what all tenants share: event types, and API keys
	Kind      string
	ObjectID  string
	CreatedAt time.Time
}

// changeConfig runs fn in a transaction that is alone among config changes, event commits and
// claims, and logs it as a change of object at the epoch that fn is given. What it wrote is seen
// by every event and claim that commits after it. now is the database's clock. fn may run more
// than once; its error undoes everything.
func (s *Store) changeConfig(ctx context.Context, kind, tenant, objectID string,
	fn func(tx *gorm.DB, epoch int64, now time.Time) error,
) error {
	return s.writing(ctx, func(tx *gorm.DB) error { return s.logChange(tx, kind, tenant, objectID, fn) })
}

func (s *Store) logChange(tx *gorm.DB, kind, tenant, objectID string,
	fn func(tx *gorm.DB, epoch int64, now time.Time) error,
) error {
	if s.dialect == DialectPostgres {
		// In: the lock. Waits for the commits and claims that run; later ones wait for this.
		if err := tx.Exec("SELECT pg_advisory_xact_lock(?)", int64(configLock)).Error; err != nil {
			return err
		}
	}
	now, err := s.clock(tx)
	if err != nil {
		return err
	}
	var epoch int64
	// Out: the new head.
	if err := tx.Raw("UPDATE config_epoch SET head = head + 1 RETURNING head").Row().Scan(&epoch); err != nil {
		return err
	}
	if err := fn(tx, epoch, now); err != nil {
		return err
	}
	return tx.Create(&Change{Epoch: epoch, Tenant: tenant, Kind: kind, ObjectID: objectID, CreatedAt: now}).Error
}

// ConfigEpoch is the epoch of the newest config change, 0 before the first.
func (s *Store) ConfigEpoch(ctx context.Context) (int64, error) {
	var head int64
	err := s.reading(ctx, func(db *gorm.DB) error {
		return db.Raw("SELECT head FROM config_epoch").Row().Scan(&head)
	})
	return head, err
}

// ChangesSince lists the changes after epoch, oldest first.
func (s *Store) ChangesSince(ctx context.Context, epoch int64) ([]Change, error) {
	var changes []Change
	err := s.reading(ctx, func(db *gorm.DB) error {
		changes = nil
		return db.Where("epoch > ?", epoch).Order("epoch").Find(&changes).Error
	})
	return changes, err
}

// TenantWebhooks lists the webhooks of a tenant that are not deleted, in order of creation.
func (s *Store) TenantWebhooks(ctx context.Context, tenant string) ([]Webhook, error) {
	var webhooks []Webhook
	err := s.reading(ctx, func(db *gorm.DB) (err error) {
		webhooks, err = tenantWebhooks(db, tenant)
		return err
	})
	return webhooks, err
}

func tenantWebhooks(db *gorm.DB, tenant string) ([]Webhook, error) {
	var webhooks []Webhook
	err := db.Where("tenant = ? AND deleted_at IS NULL", tenant).Order("id").Find(&webhooks).Error
	return webhooks, err
}

// AllEventTypes lists the catalogue by name, archived types too.
func (s *Store) AllEventTypes(ctx context.Context) ([]EventType, error) {
	var types []EventType
	err := s.reading(ctx, func(db *gorm.DB) (err error) {
		types, err = allEventTypes(db)
		return err
	})
	return types, err
}

func allEventTypes(db *gorm.DB) ([]EventType, error) {
	var types []EventType
	err := db.Order("name").Find(&types).Error
	return types, err
}

// WebhookByID reads a webhook, also a deleted one. ErrNotFound where there is none.
func (s *Store) WebhookByID(ctx context.Context, id string) (Webhook, error) {
	var found []Webhook
	err := s.reading(ctx, func(db *gorm.DB) error {
		found = nil
		return db.Where("id = ?", id).Limit(1).Find(&found).Error
	})
	switch {
	case err != nil:
		return Webhook{}, err
	case len(found) == 0:
		return Webhook{}, ErrNotFound
	}
	return found[0], nil
}
