package models

import (
	"context"
	"errors"
	"reflect"
	"time"

	"gorm.io/gorm"
)

// UpsertEventType lets change edit the event type of this name, or fill in a new one: an ACTIVE one
// with nothing but its id and name, whose CreatedAt is zero. Where change leaves an existing type as
// it was, nothing is written. change runs while no event is committed anywhere: it must wait for
// nothing, and it may run more than once. Its error aborts the change. Identity and times are not
// change's to edit. A built-in type that was edited is the operator's from then on.
func (s *Store) UpsertEventType(ctx context.Context, name string, change func(*EventType) error) (EventType, error) {
	return s.upsertEventType(ctx, name, func(t *EventType) error {
		before := *t
		if err := change(t); err != nil {
			return err
		}
		t.Builtin = before.Builtin
		if !t.CreatedAt.IsZero() && reflect.DeepEqual(before, *t) {
			return errUnchanged
		}
		t.Builtin = false
		return nil
	})
}

// upsertEventType writes what change makes of the type of this name.
func (s *Store) upsertEventType(ctx context.Context, name string, change func(*EventType) error) (EventType, error) {
	fresh := EventType{ID: NewID(PrefixEventType), Name: name, Status: EventTypeActive}
	t, err := s.Tenant(Reach{All: true}).EventTypeByName(ctx, name)
	switch {
	case err == nil:
		fresh.ID = t.ID // types are never deleted, so what the change log will name is known
	case !errors.Is(err, ErrNotFound):
		return EventType{}, err
	}
	err = s.changeConfig(ctx, ChangedEventType, "", fresh.ID, func(tx *gorm.DB, _ int64, now time.Time) error {
		t = EventType{}
		err := tx.Where("name = ?", name).Take(&t).Error
		isNew := errors.Is(err, gorm.ErrRecordNotFound)
		switch {
		case isNew:
			t = fresh
		case err != nil:
			return err
		}
		id, created := t.ID, t.CreatedAt
		if err := change(&t); err != nil {
			return err
		}
		t.ID, t.Name, t.CreatedAt, t.UpdatedAt = id, name, created, now
		if isNew {
			t.CreatedAt = now
			return tx.Create(&t).Error
		}
		return tx.Model(&EventType{}).Where("id = ?", id).Select("*").UpdateColumns(&t).Error
	})
	if err != nil && !errors.Is(err, errUnchanged) {
		return EventType{}, err
	}
	return t, nil
}

// EnsureBuiltinTypes adds those of types that are missing, and brings those that nobody has
// edited up to date. An existing type keeps its status. Where there is nothing to do, it only reads.
func (s *Store) EnsureBuiltinTypes(ctx context.Context, types []EventType) error {
	stored, err := s.AllEventTypes(ctx)
	if err != nil {
		return err
	}
	byName := make(map[string]EventType, len(stored))
	for _, t := range stored {
		byName[t.Name] = t
	}
	for _, want := range types {
		if have, ok := byName[want.Name]; ok && (!have.Builtin || sameBuiltin(have, want)) {
			continue
		}
		_, err := s.upsertEventType(ctx, want.Name, func(t *EventType) error {
			isNew := t.CreatedAt.IsZero()
			if !isNew && (!t.Builtin || sameBuiltin(*t, want)) {
				return errUnchanged
			}
			if isNew && want.Status != "" {
				t.Status = want.Status
			}
			t.Title, t.Description, t.Schema, t.Example = want.Title, want.Description, want.Schema, want.Example
			t.Strict, t.Builtin = want.Strict, true
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// sameBuiltin reports whether a stored built-in type is as it is shipped, its status aside.
func sameBuiltin(a, b EventType) bool {
	return a.Title == b.Title && a.Strict == b.Strict && reflect.DeepEqual(a.Description, b.Description) &&
		reflect.DeepEqual(a.Schema, b.Schema) && reflect.DeepEqual(a.Example, b.Example)
}
