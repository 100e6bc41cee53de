package models

import (
	"context"
	"errors"
	"slices"

	"gorm.io/gorm"
)

// Reach says whose objects a caller may touch: all tenants' or one's.
type Reach struct {
	All    bool   // a platform key: every tenant
	Tenant string // otherwise: this one
}

// Tenant reads what one caller may see. Another tenant's object is exactly like one that does not
// exist: ErrNotFound by id, absent from maps and lists, and so are ids that cannot be ids. It is
// safe for concurrent use and costs nothing to make.
type Tenant struct {
	store *Store
	reach Reach
}

// Tenant narrows the store to what reach may see.
func (s *Store) Tenant(reach Reach) *Tenant { return &Tenant{store: s, reach: reach} }

// within narrows a query to the reach's rows.
func (r Reach) within(q *gorm.DB) *gorm.DB {
	if r.All {
		return q
	}
	return q.Where("tenant = ?", r.Tenant)
}

// of is a query over the rows of model that the caller may see, narrowed further to the tenant
// that a filter names. Naming another tenant than one's own leaves nothing.
func (t *Tenant) of(db *gorm.DB, model any, named *string) *gorm.DB {
	return equal(t.reach.within(db.Model(model)), "tenant", named)
}

// equal narrows q to rows whose column is value; nil does not narrow.
func equal[S ~string](q *gorm.DB, column string, value *S) *gorm.DB {
	if value == nil {
		return q
	}
	if !storable(string(*value)) {
		return nothing(q)
	}
	return q.Where(column+" = ?", string(*value))
}

// among narrows q to rows whose column is one of values; none do not narrow. common is the value
// that partial indexes leave out, "" where there are none: saying that it is not asked for is what
// lets both databases use them.
func among[S ~string](q *gorm.DB, column, common string, values []S) *gorm.DB {
	if len(values) == 0 {
		return q
	}
	texts := make([]string, 0, len(values))
	rare := common != ""
	for _, v := range values {
		if storable(string(v)) {
			texts = append(texts, string(v))
		}
		rare = rare && string(v) != common
	}
	if len(texts) == 0 {
		return nothing(q)
	}
	if rare {
		q = q.Where(column + " <> '" + common + "'")
	}
	if len(texts) == 1 {
		return q.Where(column+" = ?", texts[0])
	}
	return q.Where(column+" IN ?", texts)
}

// maxArms bounds the walks that one page is merged from.
const maxArms = 16

// split is among as one selection a value. A page of several values is then merged from one walk
// along (column, id) each, where a single one would have to sort all rows or skip most.
func split[S ~string](q *gorm.DB, column, common string, values []S) []*gorm.DB {
	values = slices.Compact(slices.Sorted(slices.Values(values)))
	if len(values) < 2 || len(values) > maxArms {
		return []*gorm.DB{among(q, column, common, values)}
	}
	q = q.Session(&gorm.Session{})
	arms := make([]*gorm.DB, len(values))
	for i := range values {
		arms[i] = among(q, column, common, values[i:i+1])
	}
	return arms
}

// nothing narrows q to no rows.
func nothing(q *gorm.DB) *gorm.DB { return q.Where("1 = 0") }

// take reads the one row that q selects.
func take[T any](ctx context.Context, s *Store, q func(db *gorm.DB) *gorm.DB) (T, error) {
	var row T
	err := s.reading(ctx, func(db *gorm.DB) error {
		row = *new(T)
		return q(db).Take(&row).Error
	})
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return row, ErrNotFound
	}
	return row, err
}

// find reads the rows that q selects.
func find[T any](ctx context.Context, s *Store, q func(db *gorm.DB) *gorm.DB) ([]T, error) {
	var rows []T
	err := s.reading(ctx, func(db *gorm.DB) error {
		rows = nil
		return q(db).Find(&rows).Error
	})
	return rows, err
}

// count counts the rows that q selects.
func count(ctx context.Context, s *Store, q func(db *gorm.DB) *gorm.DB) (int, error) {
	var n int64
	err := s.reading(ctx, func(db *gorm.DB) error { return q(db).Count(&n).Error })
	return int(n), err
}

// page reads a page of the rows that the arms select together.
func page[T any](ctx context.Context, s *Store, l list[T], p Page, arms func(db *gorm.DB) []*gorm.DB) (Result[T], error) {
	var r Result[T]
	err := s.reading(ctx, func(db *gorm.DB) error {
		var err error
		r, err = l.read(p, arms(db)...)
		return err
	})
	return r, err
}

// one reads the caller's row with this id.
func one[T any](ctx context.Context, t *Tenant, prefix, id string) (T, error) {
	var row T
	if !ValidID(prefix, id) {
		return row, ErrNotFound
	}
	return take[T](ctx, t.store, func(db *gorm.DB) *gorm.DB { return t.of(db, &row, nil).Where("id = ?", id) })
}

// byIDs reads the caller's rows with these ids, by id. Unknown ones are absent.
func byIDs[T any](ctx context.Context, t *Tenant, prefix string, ids []string, key func(*T) string) (map[string]T, error) {
	ids = valid(prefix, ids)
	found := make(map[string]T, len(ids))
	if len(ids) == 0 {
		return found, nil
	}
	rows, err := find[T](ctx, t.store, func(db *gorm.DB) *gorm.DB {
		return t.of(db, new(T), nil).Where("id IN ?", ids)
	})
	for i := range rows {
		found[key(&rows[i])] = rows[i]
	}
	return found, err
}

// valid keeps of ids those that can exist.
func valid(prefix string, ids []string) []string {
	kept := make([]string, 0, len(ids))
	for _, id := range ids {
		if ValidID(prefix, id) {
			kept = append(kept, id)
		}
	}
	return kept
}
