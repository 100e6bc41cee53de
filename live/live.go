// Package live follows the feed, the log of what changed, for callers who want to see it as it
// happens. It sits between models, which writes the feed in the transactions that make the changes,
// and graph, which turns updates into answers.
//
// It hides how a change reaches its followers at once and exactly once: one reader a process tails
// the log, woken by this process's commits and by notices of others over Redis; each change is
// loaded once and shared by all followers; each follower filters for itself. A follower that
// resumes reads its backlog from the log and joins the tail where the two meet.
//
// Invariants:
//   - a follower gets each change that it may see once, in the order in which those of one object
//     happened, whatever becomes of Redis, of other processes or of its connection;
//   - Redis only wakes: without it the log is looked at every poll interval;
//   - what is kept for followers is bounded, and shared: one that falls behind by more is dropped
//     with ErrSlow, and goes on from its last cursor;
//   - while nobody follows, nothing is read.
package live

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/intervengine/webhooks/models"
)

// ErrSlow says that a follower took too long and was dropped. It may follow again from the last
// cursor that it got, and has missed nothing then.
var ErrSlow = errors.New("too slow: updates came faster than they were read; go on from the last cursor")

// ErrStopped says that the process is stopping.
var ErrStopped = errors.New("the server is stopping")

// Options is what New needs. Store, Logger and Retention are required.
type Options struct {
	Store  *models.Store
	Logger *slog.Logger
	// Redis joins the processes; nil: there is one process.
	Redis redis.UniversalClient
	// Retention is how old a cursor may be.
	Retention time.Duration
	// Poll is how often the log is looked at without a notice. Zero: 250 ms.
	Poll time.Duration
	// PurgeInterval is how often what is older than Retention is removed. Zero: a minute.
	PurgeInterval time.Duration
	// MaxLag and MaxLagBytes bound what is kept for a follower that has not taken it: changes, and
	// the bytes of their events' data. Zero: 10,000 and 32 MiB. They are shared by all followers.
	MaxLag, MaxLagBytes int
}

// Feed follows the log for the callers of one process. It is safe for concurrent use.
type Feed struct {
	opt    Options
	holder string // in the lease of purging
	wake   chan struct{}
	listen chan struct{} // closed when somebody follows for the first time
	once   sync.Once

	mu         sync.Mutex
	stopped    bool
	followers  map[*Subscription]struct{}
	wanted     map[interest]int
	position   *models.FeedPosition // of the reader; nil: nobody follows
	tail       *batch               // where the next batch will be
	moved      chan struct{}        // closed when position changes
	generation int                  // raised when more is wanted than before
}

// interest is what a follower wants of the log; tenant "" with all set is every tenant's.
type interest struct {
	kind   models.FeedKind
	all    bool
	tenant string
}

// New makes a Feed. It panics where a required option is missing. Without Run, nothing comes.
func New(o Options) *Feed {
	if o.Store == nil || o.Logger == nil || o.Retention <= 0 {
		panic("live: a required option is missing")
	}
	o.Poll = cmp.Or(o.Poll, 250*time.Millisecond)
	o.PurgeInterval = cmp.Or(o.PurgeInterval, time.Minute)
	o.MaxLag, o.MaxLagBytes = cmp.Or(o.MaxLag, 10_000), cmp.Or(o.MaxLagBytes, 32<<20)
	return &Feed{
		opt: o, holder: rand.Text(), wake: make(chan struct{}, 1), listen: make(chan struct{}),
		followers: map[*Subscription]struct{}{}, wanted: map[interest]int{}, tail: newBatch(),
		moved: make(chan struct{}),
	}
}

// Run reads, tells other processes of this one's commits, and keeps the log short, until ctx ends.
// Then it drops all followers with ErrStopped and returns nil. It is called once.
func (f *Feed) Run(ctx context.Context) error {
	grown, stop := f.opt.Store.FeedGrown()
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { f.tell(ctx, grown); return nil })
	g.Go(func() error { f.hear(ctx); return nil })
	g.Go(func() error { f.read(ctx); return nil })
	g.Go(func() error { f.purge(ctx); return nil })
	err := g.Wait()
	f.stop()
	return err
}

// stop drops all followers, now and from now on.
func (f *Feed) stop() {
	f.mu.Lock()
	f.stopped = true
	close(f.moved)
	f.moved = make(chan struct{})
	f.mu.Unlock()
	f.dropAll(ErrStopped)
}

func (f *Feed) dropAll(why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.followers {
		f.forget(s)
		s.drop(why)
	}
}

// join makes s a follower of the tail. What comes over it is what comes after the place that join
// returns, which is at or after from; without from it is where the reader is now. Where the reader
// has not come as far as from, join waits for it.
func (f *Feed) join(ctx context.Context, s *Subscription, from *models.FeedPosition) (models.FeedPosition, error) {
	f.once.Do(func() { close(f.listen) })
	for {
		place, moved, err := f.tryJoin(ctx, s, from)
		if err != nil || moved == nil {
			return place, err
		}
		f.rouse()
		select {
		case <-moved:
		case <-ctx.Done():
			return place, ctx.Err()
		}
	}
}

// tryJoin is join that does not wait: where the reader has to come further, it returns a channel that
// is closed when it moves.
func (f *Feed) tryJoin(ctx context.Context, s *Subscription, from *models.FeedPosition) (models.FeedPosition, <-chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.stopped:
		return models.FeedPosition{}, nil, ErrStopped
	case f.position == nil && from != nil:
		f.moveTo(*from)
		f.generation++
	case f.position == nil:
		head, err := f.opt.Store.FeedHead(ctx)
		if err != nil {
			return models.FeedPosition{}, nil, err
		}
		f.moveTo(head)
		f.generation++
	case from != nil && (!f.position.Whole() || !f.position.Covers(from)):
		return models.FeedPosition{}, f.moved, nil
	}
	s.begin(f.tail)
	f.followers[s] = struct{}{}
	if f.wanted[s.interest]++; f.wanted[s.interest] == 1 {
		// What is being read now was not read for s.
		f.generation++
		f.rouse()
	}
	return *f.position, nil, nil
}

// moveTo moves the reader. f.mu is held.
func (f *Feed) moveTo(p models.FeedPosition) {
	f.position = &p
	close(f.moved)
	f.moved = make(chan struct{})
}

func (f *Feed) leave(s *Subscription) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forget(s)
}

// forget ends following. f.mu is held.
func (f *Feed) forget(s *Subscription) {
	if _, ok := f.followers[s]; !ok {
		return
	}
	delete(f.followers, s)
	if f.wanted[s.interest]--; f.wanted[s.interest] == 0 {
		delete(f.wanted, s.interest)
	}
	if len(f.followers) == 0 {
		f.position = nil
		f.generation++
		close(f.moved) // who waits for the reader takes its place
		f.moved = make(chan struct{})
	}
}

// rouse makes the reader look at the log.
func (f *Feed) rouse() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Followers is how many follow the tail now.
func (f *Feed) Followers() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.followers)
}
