package models

import (
	"context"

	"gorm.io/gorm"
)

// AttemptsByIDs gives attempts by their public ids. Unknown ids are absent.
func (t *Tenant) AttemptsByIDs(ctx context.Context, ids []string) (map[string]Attempt, error) {
	keys := make([][]any, 0, len(ids))
	for _, id := range ids {
		if deliveryID, number, ok := ParseAttemptID(id); ok {
			keys = append(keys, []any{deliveryID, number})
		}
	}
	found := make(map[string]Attempt, len(keys))
	if len(keys) == 0 {
		return found, nil
	}
	rows, err := find[Attempt](ctx, t.store, func(db *gorm.DB) *gorm.DB {
		return t.of(db, &Attempt{}, nil).Where("(delivery_id, number) IN ?", keys)
	})
	for _, a := range rows {
		found[a.ID()] = a
	}
	return found, err
}

// EventTypesByIDs gives event types by id. Unknown ids are absent.
func (t *Tenant) EventTypesByIDs(ctx context.Context, ids []string) (map[string]EventType, error) {
	ids = valid(PrefixEventType, ids)
	found := make(map[string]EventType, len(ids))
	if len(ids) == 0 {
		return found, nil
	}
	rows, err := find[EventType](ctx, t.store, func(db *gorm.DB) *gorm.DB {
		return eventTypes(db, nil).Where("id IN ?", ids)
	})
	for _, e := range rows {
		found[e.ID] = e
	}
	return found, err
}
