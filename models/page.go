package models

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// Bounds of a page.
const (
	DefaultPageSize = 20
	MaxPageSize     = 100
)

// Page asks for a part of a list, as GraphQL connections do. First counts from the list's start
// or from After, Last from its end or from Before; at most one of the two may be set, neither
// means First: DefaultPageSize. Zero is allowed and gives an empty page.
type Page struct {
	First  *int
	After  *string
	Last   *int
	Before *string
}

// PageError says what is wrong with a page's size. Its message is for the caller.
type PageError struct{ Message string }

func (e *PageError) Error() string { return e.Message }

// Result is one page, in the list's order whichever way it was read. HasNext and HasPrevious tell
// whether the list, as filtered, goes on after the last item and before the first.
type Result[T any] struct {
	Items       []T
	Cursors     []string // one for each item
	HasNext     bool
	HasPrevious bool
}

// list is one list that can be paged over. Its cursors name it, so that those of another list
// (or of the same list of another parent) are refused.
type list[T any] struct {
	name   string
	parent string // the object whose list it is, "" at the root
	column string // unique among the listed rows; its order is that of its bytes on both databases
	asc    bool
	key    func(*T) string   // the column's value
	valid  func(string) bool // whether a text can be such a value
}

// window is a checked page: the keys to stay between, and how many to take from which end.
type window struct {
	after, before *string
	size          int
	backward      bool
}

// byID is a list of objects with prefixed ids, newest first.
func byID[T any](name, parent, prefix string, key func(*T) string) list[T] {
	return list[T]{
		name: name, parent: parent, column: "id", key: key,
		valid: func(s string) bool { return ValidID(prefix, s) },
	}
}

// window checks p.
func (l list[T]) window(p Page) (window, error) {
	w := window{size: DefaultPageSize}
	switch {
	case p.First != nil && p.Last != nil:
		return w, &PageError{Message: "first and last exclude each other"}
	case p.First != nil:
		w.size = *p.First
	case p.Last != nil:
		w.size, w.backward = *p.Last, true
	}
	if w.size < 0 || w.size > MaxPageSize {
		name := "first"
		if w.backward {
			name = "last"
		}
		return w, &PageError{Message: fmt.Sprintf("%s must be from 0 to %d", name, MaxPageSize)}
	}
	var err error
	if w.after, err = l.parse(p.After); err != nil {
		return w, err
	}
	w.before, err = l.parse(p.Before)
	return w, err
}

// cursorVersion is raised when the form of cursors changes, so that old ones are refused, not misread.
const cursorVersion = "1"

// cursorSeparator is in no list name, id or event type name.
const cursorSeparator = "\x1f"

func (l list[T]) cursor(key string) string {
	parts := []string{cursorVersion, l.name, l.parent, key}
	return base64.RawURLEncoding.EncodeToString([]byte(strings.Join(parts, cursorSeparator)))
}

// parse takes the key out of a cursor of this list; nil stays nil.
func (l list[T]) parse(cursor *string) (*string, error) {
	if cursor == nil {
		return nil, nil
	}
	b, err := decodeCursor(*cursor)
	if err != nil {
		return nil, err
	}
	parts := strings.Split(string(b), cursorSeparator)
	if len(parts) != 4 || parts[0] != cursorVersion || parts[1] != l.name || parts[2] != l.parent || !l.valid(parts[3]) {
		return nil, ErrInvalidCursor
	}
	return &parts[3], nil
}

// decodeCursor accepts the one spelling that cursors are written in: line breaks, which encoding/base64
// skips, are refused.
func decodeCursor(cursor string) ([]byte, error) {
	if strings.ContainsAny(cursor, "\r\n") {
		return nil, ErrInvalidCursor
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil {
		return nil, ErrInvalidCursor
	}
	return b, nil
}

// compare orders keys as the list does.
func (l list[T]) compare(a, b string) int {
	if l.asc {
		return strings.Compare(a, b)
	}
	return strings.Compare(b, a)
}

// past is the condition for lying strictly after a key, in the list's order.
func (l list[T]) past(key string) clause.Expression {
	if l.asc {
		return clause.Gt{Column: l.column, Value: key}
	}
	return clause.Lt{Column: l.column, Value: key}
}

// ahead is the condition for lying strictly before a key, in the list's order.
func (l list[T]) ahead(key string) clause.Expression {
	if l.asc {
		return clause.Lt{Column: l.column, Value: key}
	}
	return clause.Gt{Column: l.column, Value: key}
}

func (l list[T]) order(backward bool) clause.OrderByColumn {
	return clause.OrderByColumn{Column: clause.Column{Name: l.column}, Desc: l.asc == backward}
}

// read gives the page p of the rows that the arms select together; no row is in two of them. An
// arm carries the model and the filter, no order and no limit. It is one statement: of each arm
// the page and one row more, and for each cursor one row on its far side, so that HasNext and
// HasPrevious are facts and not guesses from the cursor's presence (the filter may have
// changed, the row may have gone).
func (l list[T]) read(p Page, arms ...*gorm.DB) (Result[T], error) {
	w, err := l.window(p)
	if err != nil {
		return Result[T]{}, err
	}
	var parts []*gorm.DB
	for _, q := range arms {
		parts = append(parts, l.parts(q, w)...)
	}
	rows, err := union[T](parts)
	if err != nil {
		return Result[T]{}, err
	}
	return l.cut(rows, w), nil
}

// readEach gives the same page of the lists of many parents, by parent, in one statement: column
// holds the parent, of tells it from a row. Cursors belong to one parent, so a page with one is
// refused as soon as there are two parents.
func readEach[T any](p Page, lists []list[T], column string, of func(*T) string, arms ...*gorm.DB) (map[string]Result[T], error) {
	windows := make([]window, len(lists))
	var parts []*gorm.DB
	for i, l := range lists {
		var err error
		if windows[i], err = l.window(p); err != nil {
			return nil, err
		}
		for _, q := range arms {
			q = q.Session(&gorm.Session{}).Where(clause.Eq{Column: column, Value: l.parent})
			parts = append(parts, l.parts(q, windows[i])...)
		}
	}
	rows, err := union[T](parts)
	if err != nil {
		return nil, err
	}
	grouped := make(map[string][]T, len(lists))
	for i := range rows {
		parent := of(&rows[i])
		grouped[parent] = append(grouped[parent], rows[i])
	}
	results := make(map[string]Result[T], len(lists))
	for i, l := range lists {
		results[l.parent] = l.cut(grouped[l.parent], windows[i])
	}
	return results, nil
}

// parts are the selections whose union holds the window and what tells whether there is more.
func (l list[T]) parts(q *gorm.DB, w window) []*gorm.DB {
	q = q.Session(&gorm.Session{})
	within := q.Order(l.order(w.backward)).Limit(w.size + 1)
	parts := []*gorm.DB{nil}
	if w.after != nil {
		within = within.Where(l.past(*w.after))
		parts = append(parts, q.Not(l.past(*w.after)).Order(l.order(true)).Limit(1))
	}
	if w.before != nil {
		within = within.Where(l.ahead(*w.before))
		parts = append(parts, q.Not(l.ahead(*w.before)).Order(l.order(false)).Limit(1))
	}
	parts[0] = within
	return parts
}

// union runs all parts as one statement.
func union[T any](parts []*gorm.DB) ([]T, error) {
	var rows []T
	switch len(parts) {
	case 0:
		return nil, nil
	case 1:
		err := parts[0].Find(&rows).Error
		return rows, err
	}
	const arm = "SELECT * FROM (?) AS part"
	args := make([]any, len(parts))
	for i, part := range parts {
		args[i] = part
	}
	sql := arm + strings.Repeat(" UNION ALL "+arm, len(parts)-1)
	err := parts[0].Session(&gorm.Session{NewDB: true}).Raw(sql, args...).Scan(&rows).Error
	return rows, err
}

// cut sorts what read found into the page and what only tells that there is more.
func (l list[T]) cut(rows []T, w window) Result[T] {
	var r Result[T]
	for i := range rows {
		key := l.key(&rows[i])
		switch {
		case w.after != nil && l.compare(key, *w.after) <= 0:
			r.HasPrevious = true
		case w.before != nil && l.compare(key, *w.before) >= 0:
			r.HasNext = true
		default:
			r.Items = append(r.Items, rows[i])
		}
	}
	// UNION ALL promises no order.
	slices.SortFunc(r.Items, func(a, b T) int { return l.compare(l.key(&a), l.key(&b)) })
	if len(r.Items) > w.size {
		if w.backward {
			r.HasPrevious = true
			r.Items = r.Items[len(r.Items)-w.size:]
		} else {
			r.HasNext = true
			r.Items = r.Items[:w.size]
		}
	}
	r.Cursors = make([]string, len(r.Items))
	for i := range r.Items {
		r.Cursors[i] = l.cursor(l.key(&r.Items[i]))
	}
	return r
}

// storable reports whether both databases can hold s in a text column: what is not valid UTF-8
// or has a NUL in it is in no row, and Postgres answers a fault instead of no rows.
func storable(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") }

// contains is a LIKE pattern for texts that have s in them, to be used with ESCAPE '\'.
func contains(s string) string {
	return "%" + strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(s) + "%"
}
