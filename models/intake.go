package models

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"gorm.io/gorm"
)

// defaultIdempotencyTTL is how long a key is remembered where NewEvent does not say.
const defaultIdempotencyTTL = 24 * time.Hour

// EventTx is the transaction that events are about to be committed in, held against config
// changes: what it reads is what is in force when they become visible. It is valid only inside
// the function that CommitEvents was given, for one goroutine.
type EventTx struct {
	epoch int64
	now   time.Time
	db    *gorm.DB
}

// IDs is what the ids of the events and their deliveries must be fitted to.
func (t *EventTx) IDs() IDClock { return NewIDClock(t.now) }

// Epoch is the newest config epoch.
func (t *EventTx) Epoch() int64 { return t.epoch }

// Now is the database's clock, which becomes the events' time of creation.
func (t *EventTx) Now() time.Time { return t.now }

// ChangesSince lists the config changes after epoch, oldest first.
func (t *EventTx) ChangesSince(epoch int64) ([]Change, error) {
	var changes []Change
	err := t.db.Where("epoch > ?", epoch).Order("epoch").Find(&changes).Error
	return changes, err
}

// Webhooks lists the webhooks of a tenant that are not deleted, in order of creation.
func (t *EventTx) Webhooks(tenant string) ([]Webhook, error) { return tenantWebhooks(t.db, tenant) }

// EventTypes lists the catalogue by name, archived types too.
func (t *EventTx) EventTypes() ([]EventType, error) { return allEventTypes(t.db) }

// NewEvent is an event to commit, with its deliveries. What is left zero is filled in: ids, the
// default tenant, and from the event the deliveries' event, tenant and type; a delivery without a
// status is PENDING and due at once, or at the event's DeliverAt. Time of creation and epoch are
// always those of the transaction.
//
// A delivery with a ClaimToken, which must be new, is claimed from its first moment on, until
// ClaimedUntil: the transaction orders that claim against config changes just as Claim would be.
type NewEvent struct {
	Event
	Deliveries []Delivery
	// IdempotencyHash tells whether two events under one IdempotencyKey are the same. Without a
	// key it means nothing.
	IdempotencyHash string
	// IdempotencyTTL is how long the key is remembered. Zero: 24 h.
	IdempotencyTTL time.Duration
}

// EventResult is what became of a NewEvent.
type EventResult struct {
	// Event is the event that is stored: the new one, or the one that had the key.
	Event Event
	// Duplicate says that the key was known and nothing was written.
	Duplicate bool
	// Deliveries are those of a new event. A duplicate's are read by page.
	Deliveries []Delivery
	// Err is ErrIdempotencyMismatch where the key belongs to another event, or ErrUnstorable.
	// Nothing was written then.
	Err error
}

// CommitEvents commits the events that prepare makes, all of them and their deliveries in one
// transaction, and answers for each in its order. prepare runs inside that transaction, and again
// where a conflict with another one undoes it; its error undoes everything.
//
// An UnavailableError whose OutcomeUnknown is true means that the connection broke at the commit,
// and that the database did not tell afterwards what became of it.
func (s *Store) CommitEvents(ctx context.Context, prepare func(ctx context.Context, tx *EventTx) ([]NewEvent, error)) ([]EventResult, error) {
	commit := s.pgCommitEvents
	if s.dialect == DialectSQLite {
		commit = s.liteCommitEvents
	}
	var results []EventResult
	err := s.retry(ctx, s.timeout, func(ctx context.Context) (err error) {
		results, err = commit(ctx, prepare)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.feed.notify()
	return results, nil
}

// flush is one transaction's events on their way to their results.
type flush struct {
	now     time.Time
	results []EventResult
	news    []int // indexes into results that are new events
	keyed   []keyed
	same    map[int]int // index → index of the first with its key
}

// keyed is an event whose idempotency key is to be taken.
type keyed struct {
	index             int
	tenant, key, hash string
	expires           time.Time
	owner             string // the event that has the key, where it is not this one
	ownerHash         string
}

// newFlush completes the events and finds those that share a key within the batch: the first one
// takes it, the others are its duplicates.
func newFlush(events []NewEvent, epoch int64, now time.Time) *flush {
	f := &flush{now: now, results: make([]EventResult, len(events)), same: map[int]int{}}
	first := map[[2]string]int{}
	for i := range events {
		e := &events[i]
		e.complete(epoch, now)
		f.results[i] = EventResult{Event: e.Event, Deliveries: e.Deliveries}
		if !e.storable() {
			f.results[i] = EventResult{Err: ErrUnstorable}
			continue
		}
		if e.IdempotencyKey == nil {
			continue
		}
		k := keyed{
			index: i, tenant: e.Tenant, key: *e.IdempotencyKey, hash: e.IdempotencyHash,
			expires: Instant(now.Add(cmp.Or(e.IdempotencyTTL, defaultIdempotencyTTL))),
		}
		if n, ok := first[[2]string{k.tenant, k.key}]; ok {
			f.same[i] = n
			if events[n].IdempotencyHash != k.hash {
				f.results[i].Err = ErrIdempotencyMismatch
			}
			continue
		}
		first[[2]string{k.tenant, k.key}] = i
		f.keyed = append(f.keyed, k)
	}
	// Every transaction takes keys in this order, or two could wait for each other.
	slices.SortFunc(f.keyed, func(a, b keyed) int {
		return cmp.Or(cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.key, b.key))
	})
	return f
}

func (e *NewEvent) complete(epoch int64, now time.Time) {
	e.ID = cmp.Or(e.ID, NewID(PrefixEvent))
	e.Tenant = cmp.Or(e.Tenant, DefaultTenant)
	if e.Timestamp.IsZero() {
		e.Timestamp = now
	}
	e.Timestamp, e.DeliverAt, e.CreatedAt, e.Epoch = Instant(e.Timestamp), instantOf(e.DeliverAt), now, epoch
	for i := range e.Deliveries {
		d := &e.Deliveries[i]
		d.ID = cmp.Or(d.ID, NewID(PrefixDelivery))
		d.Tenant, d.EventID, d.EventType, d.CreatedAt = e.Tenant, e.ID, e.EventType, now
		d.Status = cmp.Or(d.Status, DeliveryPending)
		d.Trigger = cmp.Or(d.Trigger, TriggerAutomatic)
		if d.AttemptTrigger == "" {
			d.AttemptTrigger = d.Trigger
		}
		switch {
		case d.Status == DeliveryHeld:
			d.NextAttemptAt = nil
		case !d.Status.Open():
			d.NextAttemptAt = nil
			if d.CompletedAt == nil {
				d.CompletedAt = &now
			}
		case d.NextAttemptAt == nil && e.DeliverAt != nil && e.DeliverAt.After(now):
			d.NextAttemptAt = e.DeliverAt
		case d.NextAttemptAt == nil:
			d.NextAttemptAt = &now
		}
		d.NextAttemptAt, d.CompletedAt = instantOf(d.NextAttemptAt), instantOf(d.CompletedAt)
		if d.ClaimToken != nil {
			d.ClaimedAt, d.ClaimedUntil = &now, instantOf(d.ClaimedUntil)
		}
	}
}

// ErrUnstorable says that a text of an event has a NUL in it or is not UTF-8.
var ErrUnstorable = errors.New("text has a NUL in it or is not UTF-8")

// storable reports whether both databases can hold the event: one that they cannot must not spoil
// the batch.
func (e *NewEvent) storable() bool {
	for _, text := range []*string{&e.ID, &e.Tenant, &e.EventType, e.Data, e.IdempotencyKey} {
		if text != nil && !storable(*text) {
			return false
		}
	}
	for i := range e.Deliveries {
		d := &e.Deliveries[i]
		for _, text := range []**string{&d.Body, &d.StatusDetail} {
			if *text != nil && !storable(**text) {
				cleaned := clean(**text)
				*text = &cleaned
			}
		}
	}
	return true
}

func instantOf(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	at := Instant(*t)
	return &at
}

// settle turns what the key table said into results, and lists what is to be inserted. events
// loads events by id.
func (f *flush) settle(events func(ids []string) ([]Event, error)) error {
	var ids []string
	for _, k := range f.keyed {
		if k.owner != "" && k.ownerHash == k.hash {
			ids = append(ids, k.owner)
		}
	}
	known := map[string]Event{}
	if len(ids) > 0 {
		found, err := events(ids)
		if err != nil {
			return err
		}
		for _, e := range found {
			known[e.ID] = e
		}
	}
	for _, k := range f.keyed {
		r := &f.results[k.index]
		switch {
		case k.owner == "":
		case k.ownerHash != k.hash:
			*r = EventResult{Err: ErrIdempotencyMismatch}
		default:
			// An event that retention took before its key expired is still the first one.
			first, ok := known[k.owner]
			if !ok {
				first = Event{ID: k.owner, Tenant: k.tenant, EventType: r.Event.EventType, IdempotencyKey: r.Event.IdempotencyKey}
			}
			*r = EventResult{Event: first, Duplicate: true}
		}
	}
	for i := range f.results {
		r := &f.results[i]
		first, follows := f.same[i]
		switch {
		case follows && r.Err == nil:
			leader := f.results[first]
			*r = EventResult{Event: leader.Event, Duplicate: leader.Err == nil, Err: leader.Err}
		case follows:
			*r = EventResult{Err: r.Err}
		case r.Err == nil && !r.Duplicate:
			f.news = append(f.news, i)
		}
	}
	return nil
}

// counts is the minute statistics of what is inserted.
func (f *flush) counts() minutes {
	m := minutes{}
	for _, i := range f.news {
		for d := range f.results[i].Deliveries {
			m.add(&f.results[i].Deliveries[d], MeasureTotal)
		}
	}
	return m
}

// errUndone says that a commit whose connection broke did not take effect.
var errUndone = errors.New("transaction did not take effect")
