package live

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/intervengine/webhooks/models"
)

const (
	// readRows is how many rows of the log are read at once.
	readRows = 32
	// loadAtOnce is how many changes are loaded and handed on at once.
	loadAtOnce = 1000
	// spacing lets changes gather while many come, so that they are loaded together.
	spacing = 5 * time.Millisecond
	// faultPause is how long the reader waits when the database does not answer.
	faultPause = time.Second
)

// change is an item of the log with what it is about. It is shared by all followers.
type change struct {
	item     *models.FeedItem
	delivery *models.Delivery // as it was right after the change
	event    *models.Event
}

// batch is what the reader got at once. Batches form a chain; followers walk along it, and what no
// follower has before it any more is freed. The last one is empty until it is ready.
type batch struct {
	ready   chan struct{}
	changes []change
	next    *batch
	// What all batches before this one held, for lags.
	items, bytes int
}

func newBatch() *batch { return &batch{ready: make(chan struct{})} }

// read tails the log while somebody follows.
func (f *Feed) read(ctx context.Context) {
	poll := time.NewTicker(f.opt.Poll)
	defer poll.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		case <-poll.C:
		}
		more, err := f.readOnce(ctx)
		pause := spacing
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, models.ErrCursorExpired):
			// The database was away for longer than it keeps the log, or is another one.
			f.dropAll(err)
			err = nil
		case err != nil:
			if !failed {
				f.opt.Logger.WarnContext(ctx, "live feed not read, trying again", "error", err)
			}
			pause = faultPause
		case failed:
			f.opt.Logger.InfoContext(ctx, "live feed is read again")
		}
		failed = err != nil
		if more || failed {
			f.rouse()
		}
		if !wait(ctx, pause) {
			return
		}
	}
}

// wait waits for d; false where ctx ended before.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// readOnce reads what came since the last time and hands it on. more says that there was more.
func (f *Feed) readOnce(ctx context.Context) (more bool, err error) {
	f.mu.Lock()
	if f.position == nil {
		f.mu.Unlock()
		return false, nil
	}
	r := models.FeedRead{From: *f.position, Rows: readRows}
	generation := f.generation
	wanted := make(map[interest]bool, len(f.wanted))
	kinds := map[models.FeedKind]bool{}
	for i := range f.wanted {
		wanted[i], kinds[i.kind] = true, true
	}
	f.mu.Unlock()

	if len(kinds) == 1 {
		for kind := range kinds {
			r.Kind = kind
		}
	}
	page, err := f.opt.Store.ReadFeed(ctx, r)
	if err != nil {
		return false, err
	}
	page.Items = slices.DeleteFunc(page.Items, func(i models.FeedItem) bool {
		return !wanted[interest{kind: i.Kind, all: true}] && !wanted[interest{kind: i.Kind, tenant: i.Tenant}]
	})
	if len(page.Items) == 0 {
		f.pass(generation, page.Next)
		return page.More, nil
	}
	for from := 0; from < len(page.Items); from += loadAtOnce {
		end := min(from+loadAtOnce, len(page.Items))
		changes, err := load(ctx, f.opt.Store, page.Items[from:end])
		if err != nil {
			return false, err
		}
		next := page.Next
		if end < len(page.Items) {
			next = page.Items[end-1].Position()
		}
		if !f.append(generation, changes, next) {
			return true, nil // somebody else follows now: read again for all
		}
	}
	return page.More, nil
}

// load reads what items are about, each once, one statement a kind.
func load(ctx context.Context, store *models.Store, items []models.FeedItem) ([]change, error) {
	var deliveryIDs, eventIDs []string
	for i := range items {
		switch items[i].Kind {
		case models.FeedDelivery:
			deliveryIDs = append(deliveryIDs, items[i].State.DeliveryID)
		case models.FeedEvent:
			eventIDs = append(eventIDs, items[i].EventID)
		}
	}
	slices.Sort(deliveryIDs)
	deliveries, err := store.FeedDeliveries(ctx, slices.Compact(deliveryIDs))
	if err != nil {
		return nil, err
	}
	events, err := store.FeedEvents(ctx, eventIDs)
	if err != nil {
		return nil, err
	}
	changes := make([]change, 0, len(items))
	for i := range items {
		c := change{item: &items[i]}
		switch items[i].Kind {
		case models.FeedDelivery:
			d, ok := deliveries[items[i].State.DeliveryID]
			if !ok {
				continue // retention took it
			}
			d = items[i].State.On(d)
			c.delivery = &d
		case models.FeedEvent:
			e, ok := events[items[i].EventID]
			if !ok || e.Data == nil {
				continue // erased, there is nothing to show
			}
			c.event = &e
		}
		changes = append(changes, c)
	}
	return changes, nil
}

// pass moves the reader on over what nobody wants.
func (f *Feed) pass(generation int, next models.FeedPosition) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.generation == generation {
		f.moveTo(next)
	}
}

// append hands changes to the followers and moves the reader on. It does neither where more is
// wanted by now than the changes were read for.
func (f *Feed) append(generation int, changes []change, next models.FeedPosition) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.generation != generation {
		return false
	}
	f.moveTo(next)
	if len(changes) == 0 {
		return true
	}
	b := f.tail
	b.changes, b.next = changes, newBatch()
	b.next.items, b.next.bytes = b.items+len(changes), b.bytes
	for _, c := range changes {
		if c.event != nil {
			b.next.bytes += len(*c.event.Data)
		}
	}
	f.tail = b.next
	close(b.ready)
	for s := range f.followers {
		if at := s.at.Load(); at != nil && (f.tail.items-at.items > f.opt.MaxLag+len(changes) || b.bytes-at.bytes > f.opt.MaxLagBytes) {
			f.forget(s)
			s.drop(ErrSlow)
		}
	}
	return true
}
