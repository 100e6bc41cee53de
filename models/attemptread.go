package models

import (
	"context"

	"gorm.io/gorm"
)

// MaxAttemptsShown is how many attempts of a delivery AttemptsOf gives, the newest.
const MaxAttemptsShown = 100

// Attempt gives an attempt by its public id.
func (t *Tenant) Attempt(ctx context.Context, id string) (Attempt, error) {
	deliveryID, number, ok := ParseAttemptID(id)
	if !ok {
		return Attempt{}, ErrNotFound
	}
	return take[Attempt](ctx, t.store, func(db *gorm.DB) *gorm.DB {
		return t.of(db, &Attempt{}, nil).Where("delivery_id = ? AND number = ?", deliveryID, number)
	})
}

// AttemptsOf gives the attempts of each delivery, oldest first, at most the newest
// MaxAttemptsShown. Deliveries without any are absent.
func (t *Tenant) AttemptsOf(ctx context.Context, deliveryIDs []string) (map[string][]Attempt, error) {
	found := make(map[string][]Attempt, len(deliveryIDs))
	deliveryIDs = valid(PrefixDelivery, deliveryIDs)
	if len(deliveryIDs) == 0 {
		return found, nil
	}
	rows, err := find[Attempt](ctx, t.store, func(db *gorm.DB) *gorm.DB {
		newest := t.of(db, &Attempt{}, nil).Where("delivery_id IN ?", deliveryIDs).
			Select("*, ROW_NUMBER() OVER (PARTITION BY delivery_id ORDER BY number DESC) AS place")
		return db.Table("(?) AS attempts", newest).
			Where("place <= ?", MaxAttemptsShown).Order("delivery_id, number")
	})
	for _, a := range rows {
		found[a.DeliveryID] = append(found[a.DeliveryID], a)
	}
	return found, err
}

// LastAttempts gives the newest attempt of each delivery. Deliveries without any are absent.
func (t *Tenant) LastAttempts(ctx context.Context, deliveryIDs []string) (map[string]Attempt, error) {
	found := make(map[string]Attempt, len(deliveryIDs))
	deliveryIDs = valid(PrefixDelivery, deliveryIDs)
	if len(deliveryIDs) == 0 {
		return found, nil
	}
	rows, err := find[Attempt](ctx, t.store, func(db *gorm.DB) *gorm.DB {
		last := db.Model(&Attempt{}).Select("delivery_id, MAX(number)").
			Where("delivery_id IN ?", deliveryIDs).Group("delivery_id")
		return t.of(db, &Attempt{}, nil).Where("(delivery_id, number) IN (?)", last)
	})
	for _, a := range rows {
		found[a.DeliveryID] = a
	}
	return found, err
}
