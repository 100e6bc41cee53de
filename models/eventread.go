package models

import (
	"context"

	"gorm.io/gorm"
)

// Event gives an event by id, test events too.
func (t *Tenant) Event(ctx context.Context, id string) (Event, error) {
	return one[Event](ctx, t, PrefixEvent, id)
}

// EventsByIDs gives events by id, test events too. Unknown ids are absent.
func (t *Tenant) EventsByIDs(ctx context.Context, ids []string) (map[string]Event, error) {
	return byIDs(ctx, t, PrefixEvent, ids, eventID)
}

// Events lists events, newest first, without those that testWebhook made: they did not happen.
func (t *Tenant) Events(ctx context.Context, f EventFilter, p Page) (Result[Event], error) {
	return page(ctx, t.store, byID("events", "", PrefixEvent, eventID), p, func(db *gorm.DB) []*gorm.DB {
		q := equal(t.of(db, &Event{}, f.Tenant).Where("NOT test"), "idempotency_key", f.IdempotencyKey)
		return split(created(q, PrefixEvent, f.Since, f.Until), "event_type", "", f.EventTypes)
	})
}

func eventID(e *Event) string { return e.ID }

// EventTypes lists the catalogue, which all tenants share, by name; status nil lists all.
func (t *Tenant) EventTypes(ctx context.Context, status *EventTypeStatus, p Page) (Result[EventType], error) {
	l := list[EventType]{
		name: "eventTypes", column: "name", asc: true,
		key:   func(e *EventType) string { return e.Name },
		valid: storable,
	}
	return page(ctx, t.store, l, p, func(db *gorm.DB) []*gorm.DB { return []*gorm.DB{eventTypes(db, status)} })
}

// EventTypeCount counts what EventTypes lists over all its pages.
func (t *Tenant) EventTypeCount(ctx context.Context, status *EventTypeStatus) (int, error) {
	return count(ctx, t.store, func(db *gorm.DB) *gorm.DB { return eventTypes(db, status) })
}

// EventType gives an event type by id.
func (t *Tenant) EventType(ctx context.Context, id string) (EventType, error) {
	if !ValidID(PrefixEventType, id) {
		return EventType{}, ErrNotFound
	}
	return take[EventType](ctx, t.store, func(db *gorm.DB) *gorm.DB { return eventTypes(db, nil).Where("id = ?", id) })
}

// EventTypeByName gives an event type by its name.
func (t *Tenant) EventTypeByName(ctx context.Context, name string) (EventType, error) {
	return take[EventType](ctx, t.store, func(db *gorm.DB) *gorm.DB { return equal(eventTypes(db, nil), "name", &name) })
}

func eventTypes(db *gorm.DB, status *EventTypeStatus) *gorm.DB {
	return equal(db.Model(&EventType{}), "status", status)
}
