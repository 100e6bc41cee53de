package live

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/intervengine/webhooks/models"
)

// Query says what to follow.
type Query struct {
	// Reach is what the caller may see.
	Reach models.Reach
	// After is the cursor of the last update that the caller got; nil: from now on.
	After *string
}

// Update is one change for one follower. What it points to is shared with others: read only.
type Update struct {
	// Cursor is the place right after the update.
	Cursor string
	// Delivery is set where deliveries are followed: as it stood right after the change.
	Delivery *models.Delivery
	// Event and Data are set where events are followed.
	Event *models.Event
	Data  string
}

// Subscription is one follower, for one goroutine. It must be closed.
type Subscription struct {
	feed     *Feed
	interest interest
	tenant   *string // the one tenant that there is for this caller; nil: all
	// keep says whether a change is wanted, and completes its update.
	keep func(c *change, u *Update) (bool, error)

	// The backlog: where it is read from, and the place where the tail was joined, which is its end.
	from    models.FeedPosition
	joined  *models.FeedPosition
	pending []change
	more    bool          // there may be more to read of the backlog
	age     time.Duration // how old from may be; zero once that was checked
	// The tail: the next batch, nil once dropped or not joined yet.
	at      atomic.Pointer[batch]
	dropped chan struct{}
	mu      sync.Mutex
	why     error
}

// Deliveries follows the changes of deliveries that a filter leaves, judged by how they stood right
// after each. The error is of the cursor (models.ErrInvalidCursor, models.ErrCursorExpired), of the
// database, or ErrStopped.
func (f *Feed) Deliveries(ctx context.Context, q Query, filter models.DeliveryFilter) (*Subscription, error) {
	s := &Subscription{keep: func(c *change, u *Update) (bool, error) {
		u.Delivery = c.delivery
		return filter.Matches(c.delivery), nil
	}}
	if q.Reach.All && filter.Tenant != nil {
		q.Reach = models.Reach{Tenant: *filter.Tenant}
	}
	return s, f.open(ctx, s, models.FeedDelivery, q)
}

// Events follows what is emitted. keep says which events are wanted and what of their data; its
// error ends the subscription and is what Next answers with. Test events, and events that were
// erased before they were read, are left out.
func (f *Feed) Events(ctx context.Context, q Query, keep func(*models.Event) (data string, wanted bool, err error)) (*Subscription, error) {
	s := &Subscription{keep: func(c *change, u *Update) (wanted bool, err error) {
		u.Event = c.event
		u.Data, wanted, err = keep(c.event)
		return wanted, err
	}}
	return s, f.open(ctx, s, models.FeedEvent, q)
}

func (f *Feed) open(ctx context.Context, s *Subscription, kind models.FeedKind, q Query) error {
	s.feed = f
	s.dropped = make(chan struct{})
	s.interest = interest{kind: kind, all: q.Reach.All}
	if !q.Reach.All {
		s.tenant, s.interest.tenant = &q.Reach.Tenant, q.Reach.Tenant
	}
	if q.After == nil {
		_, err := f.join(ctx, s, nil)
		return err
	}
	var err error
	if s.from, err = models.ParseFeedCursor(*q.After, kind); err != nil {
		return err
	}
	s.more, s.age = true, f.opt.Retention
	// The first page is read now, so that a cursor that is too old is an error of the call.
	return s.backlog(ctx)
}

// begin puts the follower before a batch of the tail.
func (s *Subscription) begin(at *batch) { s.at.Store(at) }

// drop ends the subscription from outside, and frees what it held of the tail.
func (s *Subscription) drop(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.why != nil {
		return
	}
	s.why = why
	s.at.Store(nil)
	close(s.dropped)
}

func (s *Subscription) reason() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why
}

// Close ends the subscription. It may be called twice.
func (s *Subscription) Close() {
	s.feed.leave(s)
	s.drop(ErrStopped)
}

// Next waits for the next update. After an error there are no more.
func (s *Subscription) Next(ctx context.Context) (Update, error) {
	for {
		for len(s.pending) > 0 {
			c := &s.pending[0]
			s.pending = s.pending[1:]
			if c.item.Kind != s.interest.kind || s.tenant != nil && *s.tenant != c.item.Tenant {
				continue
			}
			var u Update
			wanted, err := s.keep(c, &u)
			if err != nil {
				s.Close()
				return Update{}, err
			}
			if wanted {
				u.Cursor = c.item.Cursor()
				return u, nil
			}
		}
		if err := s.fill(ctx); err != nil {
			s.Close()
			return Update{}, err
		}
	}
}

// fill gets the next changes: from the backlog first, then from the tail.
func (s *Subscription) fill(ctx context.Context) error {
	for len(s.pending) == 0 && s.more {
		if err := s.backlog(ctx); err != nil {
			return err
		}
	}
	if len(s.pending) > 0 {
		return nil
	}
	at := s.at.Load()
	if at == nil {
		return s.reason()
	}
	select {
	case <-at.ready:
	case <-s.dropped:
		return s.reason()
	case <-ctx.Done():
		return ctx.Err()
	}
	s.pending = at.changes
	// Dropped meanwhile: then there is nothing to go on from.
	if !s.at.CompareAndSwap(at, at.next) {
		s.pending = nil
		return s.reason()
	}
	return nil
}

// backlog reads a page of what came before the tail was joined. It joins once there is little left.
func (s *Subscription) backlog(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.joined != nil && s.reason() != nil {
		// The tail ran away meanwhile. The log still has it all, so go on with that.
		if err := s.reason(); !errors.Is(err, ErrSlow) {
			return err
		}
		s.rejoin()
	}
	page, err := s.feed.opt.Store.ReadFeed(ctx, models.FeedRead{
		From: s.from, Until: s.joined, Kind: s.interest.kind, Tenant: s.tenant, Rows: readRows, MaxAge: s.age,
	})
	if err != nil {
		return err
	}
	s.age = 0
	if s.pending, err = load(ctx, s.feed.opt.Store, page.Items); err != nil {
		return err
	}
	s.from = page.Next
	switch {
	case page.More:
	case s.joined == nil:
		place, err := s.feed.join(ctx, s, &s.from)
		if err != nil {
			return err
		}
		s.joined = &place
	default:
		s.more = false
	}
	return nil
}

// rejoin makes a subscription that was dropped from the tail one that has not joined yet.
func (s *Subscription) rejoin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.why, s.joined, s.dropped = nil, nil, make(chan struct{})
}
