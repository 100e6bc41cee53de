package models

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"gorm.io/gorm"
)

// maxFeedItems bounds a row of the feed, so that a reader can take them one after the other.
const maxFeedItems = 500

// feedRow is a row of the feed to write.
type feedRow struct {
	tenant string
	kind   FeedKind
	items  []byte // a JSON list, without its end until it is written
	n      int
}

// feedRows collects what one transaction changed.
type feedRows struct {
	rows []*feedRow
	open map[feedKey]*feedRow
}

type feedKey struct {
	tenant string
	kind   FeedKind
}

// item starts an item; the caller appends it to what it gets.
func (f *feedRows) item(tenant string, kind FeedKind) *feedRow {
	key := feedKey{tenant, kind}
	r := f.open[key]
	if r == nil || r.n == maxFeedItems {
		if f.open == nil {
			f.open = map[feedKey]*feedRow{}
		}
		r = &feedRow{tenant: tenant, kind: kind, items: make([]byte, 0, 512)}
		f.rows = append(f.rows, r)
		f.open[key] = r
	}
	separator := byte(',')
	if r.n == 0 {
		separator = '['
	}
	r.items = append(r.items, separator)
	r.n++
	return r
}

func (f *feedRows) delivery(d *Delivery) {
	r := f.item(d.Tenant, FeedDelivery)
	r.items = appendState(r.items, d)
}

func (f *feedRows) event(e *Event) {
	if e.Test {
		return
	}
	r := f.item(e.Tenant, FeedEvent)
	r.items = append(append(append(r.items, '"'), e.ID...), '"')
}

func (r *feedRow) text() string { return string(append(r.items, ']')) }

// feed is what a flush of events makes.
func (f *flush) feed() *feedRows {
	var rows feedRows
	for _, i := range f.news {
		rows.event(&f.results[i].Event)
		for d := range f.results[i].Deliveries {
			rows.delivery(&f.results[i].Deliveries[d])
		}
	}
	return &rows
}

// feedOf is what a flush of records changed.
func feedOf(changed []*entry) *feedRows {
	var rows feedRows
	for _, d := range changed {
		rows.delivery(&d.Delivery)
	}
	return &rows
}

// appendState writes what DeliveryState.UnmarshalJSON reads. Ids, states and reasons need no
// escapes.
func appendState(b []byte, d *Delivery) []byte {
	null := func(b []byte) []byte { return append(b, ",null"...) }
	quoted := func(b []byte, s string) []byte { return append(append(append(b, '"'), s...), '"') }
	b = quoted(append(b, '['), d.ID)
	b = quoted(append(b, ','), string(d.Status))
	if d.StatusReason != nil {
		b = quoted(append(b, ','), string(*d.StatusReason))
	} else {
		b = null(b)
	}
	if d.StatusDetail != nil && (d.StatusReason == nil || *d.StatusReason != ReasonFilterError) {
		text, err := json.Marshal(*d.StatusDetail)
		if err != nil { // a text always is JSON
			text = []byte("null")
		}
		b = append(append(b, ','), text...)
	} else {
		b = null(b)
	}
	b = strconv.AppendInt(append(b, ','), int64(d.AttemptCount), 10)
	end := len(b) // what follows is left out where it is null to the end
	micros := func(b []byte, t *time.Time) []byte {
		if t == nil {
			return null(b)
		}
		b = strconv.AppendInt(append(b, ','), t.UnixMicro(), 10)
		end = len(b)
		return b
	}
	b = micros(b, d.NextAttemptAt)
	if d.LastOutcome != nil {
		b = quoted(append(b, ','), string(*d.LastOutcome))
		end = len(b)
	} else {
		b = null(b)
	}
	if d.LastStatus != nil {
		b = strconv.AppendInt(append(b, ','), int64(*d.LastStatus), 10)
		end = len(b)
	} else {
		b = null(b)
	}
	b = micros(b, d.CompletedAt)
	return append(b[:end], ']')
}

const pgInsertFeed = `INSERT INTO feed (tenant, kind, items) SELECT * FROM unnest($1::text[], $2::text[], $3::text[])`

func (f *feedRows) pgQueue(batch *pgx.Batch) {
	if len(f.rows) == 0 {
		return
	}
	n := len(f.rows)
	tenants, kinds, items := make([]string, n), make([]string, n), make([]string, n)
	for i, r := range f.rows {
		tenants[i], kinds[i], items[i] = r.tenant, string(r.kind), r.text()
	}
	batch.Queue(pgInsertFeed, tenants, kinds, items)
}

const liteInsertFeed = `INSERT INTO feed (tenant, kind, items, created_at) VALUES (?, ?, ?, ?)`

func (f *feedRows) liteWrite(tx *liteTx) error {
	for _, r := range f.rows {
		if _, err := tx.exec(liteInsertFeed, r.tenant, r.kind, r.text(), tx.now); err != nil {
			return err
		}
	}
	return nil
}

// In: what names rows of deliveries. Out: their states as JSON lists, by tenant.
const (
	pgFeedStates = `json_agg(json_build_array(id, status, status_reason,
  CASE WHEN status_reason = 'FILTER_ERROR' THEN NULL ELSE status_detail END, attempt_count,
  (extract(epoch FROM next_attempt_at) * 1000000)::bigint, last_outcome, last_status,
  (extract(epoch FROM completed_at) * 1000000)::bigint) ORDER BY id)::text`
	pgFeedDeliveries = `
INSERT INTO feed (tenant, kind, items)
SELECT tenant, 'd', ` + pgFeedStates + ` FROM deliveries WHERE id IN ? GROUP BY tenant`
	liteFeedDeliveries = `
INSERT INTO feed (tenant, kind, items, created_at)
SELECT tenant, 'd', json_group_array(json_array(id, status, status_reason,
  CASE WHEN status_reason = 'FILTER_ERROR' THEN NULL ELSE status_detail END, attempt_count,
  next_attempt_at, last_outcome, last_status, completed_at)), ?
FROM (SELECT * FROM deliveries WHERE id IN ? ORDER BY id) GROUP BY tenant`
)

// feedChanged writes to the feed how deliveries stand, within the transaction that changed them.
// Every change of a delivery that a caller can see goes through it, or through feedRows on the
// hot path.
func feedChanged(tx *gorm.DB, ids []string) error {
	for part := range slices.Chunk(ids, maxFeedItems) {
		var err error
		if tx.Name() == DialectPostgres {
			err = tx.Exec(pgFeedDeliveries, part).Error
		} else {
			err = tx.Exec(liteFeedDeliveries, Instant(time.Now()), part).Error
		}
		if err != nil {
			return err
		}
	}
	if mark, ok := tx.Statement.Context.Value(feedMarkKey{}).(*feedMark); ok {
		mark.written = true
	}
	return nil
}

// feedMark notes that a transaction wrote to the feed, so that its commit tells.
type feedMark struct{ written bool }

type feedMarkKey struct{}

func withFeedMark(ctx context.Context) (context.Context, *feedMark) {
	mark := &feedMark{}
	return context.WithValue(ctx, feedMarkKey{}, mark), mark
}

// feedSignal tells those who wait in this process that the feed has grown.
type feedSignal struct {
	mu      sync.Mutex
	waiters map[chan struct{}]struct{}
}

func (s *feedSignal) notify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ch := range s.waiters {
		select {
		case ch <- struct{}{}:
		default: // the waiter has not taken the last notice yet, which says the same
		}
	}
}

// FeedGrown gives a channel that holds a notice whenever this process has committed to the feed
// since the last one was taken, and the function that ends it.
func (s *Store) FeedGrown() (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	if s.feed.waiters == nil {
		s.feed.waiters = map[chan struct{}]struct{}{}
	}
	s.feed.waiters[ch] = struct{}{}
	return ch, func() {
		s.feed.mu.Lock()
		defer s.feed.mu.Unlock()
		delete(s.feed.waiters, ch)
	}
}
