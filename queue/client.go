package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxOutbox bounds the items that wait for Redis in this process.
	maxOutbox = 1 << 16
	// maxSend bounds what one trip takes, so that a caller's few items are not stuck behind all.
	maxSend = 4096
)

// outbox holds what waits to be enqueued.
type outbox struct {
	ready  chan struct{} // cap 1: there may be jobs
	mu     sync.Mutex
	jobs   []job
	items  int
	closed bool
}

type job struct {
	items []Item
	done  chan error // cap 1
}

type counters struct {
	enqueued, failed, conflicts atomic.Int64
}

// Counters is what a Conn has done since it was opened.
type Counters struct {
	Enqueued  int64 // items handed to Redis
	Failed    int64 // items that were not, and were left to the Reconciler
	Conflicts int64 // tasks whose id was taken
}

// Counters reads the counters.
func (c *Conn) Counters() Counters {
	return Counters{
		Enqueued:  c.counters.enqueued.Load(),
		Failed:    c.counters.failed.Load(),
		Conflicts: c.counters.conflicts.Load(),
	}
}

// Enqueue makes workers pick items up when they are due. Items that are due now share tasks.
//
// It waits until Redis has them, but no longer than Options.EnqueueWait: nil means that they are
// stored or on their way. An error (ErrAway, ErrFull, ErrClosed or Redis's own) needs no handling
// beyond a line in the log, because the Reconciler finds what is due in the database.
func (c *Conn) Enqueue(ctx context.Context, items []Item) error {
	if len(items) == 0 {
		return nil
	}
	done, err := c.post(items)
	if err != nil {
		return fmt.Errorf("enqueue: %w", err)
	}
	timer := time.NewTimer(c.opts.EnqueueWait)
	defer timer.Stop()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("enqueue: %w", err)
		}
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}

// EnqueueAsync is Enqueue without any wait and any answer; failures are counted.
func (c *Conn) EnqueueAsync(items []Item) {
	if len(items) == 0 {
		return
	}
	_, _ = c.post(items) // counted and logged there
}

// post puts items into the outbox. The caller may use items again afterwards.
func (c *Conn) post(items []Item) (<-chan error, error) {
	if c.health.away.Load() {
		c.counters.failed.Add(int64(len(items)))
		return nil, ErrAway
	}
	j := job{items: append([]Item(nil), items...), done: make(chan error, 1)}
	c.outbox.mu.Lock()
	defer c.outbox.mu.Unlock()
	switch {
	case c.outbox.closed:
		c.counters.failed.Add(int64(len(items)))
		return nil, ErrClosed
	case c.outbox.items > 0 && c.outbox.items+len(items) > maxOutbox:
		c.counters.failed.Add(int64(len(items)))
		if c.embedded != nil {
			c.window.refuse(items, c.now())
		}
		if c.noise.allow(time.Second) {
			c.log.Warn("too much waits to be enqueued; left to the reconciler", slog.Int("items", len(items)))
		}
		return nil, ErrFull
	}
	c.outbox.jobs = append(c.outbox.jobs, j)
	c.outbox.items += len(items)
	select {
	case c.outbox.ready <- struct{}{}:
	default:
	}
	return j.done, nil
}

// take removes up to maxSend items; more is true where others remain.
func (o *outbox) take() (jobs []job, more bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, items := 0, 0
	for n < len(o.jobs) && (n == 0 || items+len(o.jobs[n].items) <= maxSend) {
		items += len(o.jobs[n].items)
		n++
	}
	jobs = o.jobs[:n:n]
	o.jobs = o.jobs[n:]
	o.items -= items
	return jobs, len(o.jobs) > 0
}

func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
}

// send carries the outbox to Redis. There is one of it: while one trip is under way the next one
// fills, so many small calls share their bundles and their round trip.
func (c *Conn) send(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			// What callers were told is on its way gets its trip, if Redis is there to take it.
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			for more := true; more; {
				more = c.sendSome(last)
			}
			return
		case <-c.outbox.ready:
			for more := true; more && ctx.Err() == nil; {
				more = c.sendSome(context.WithoutCancel(ctx))
			}
		}
	}
}

func (c *Conn) sendSome(ctx context.Context) (more bool) {
	jobs, more := c.outbox.take()
	if len(jobs) == 0 {
		return false
	}
	items := jobs[0].items
	for _, j := range jobs[1:] {
		items = append(items, j.items...)
	}
	if c.embedded != nil {
		items = c.fit(ctx, items)
	}
	var err error
	switch {
	case len(items) == 0: // left out
	case c.health.away.Load():
		err = ErrAway
	default:
		err = c.put(ctx, tasksOf(items, c.now(), ""))
	}
	if err != nil {
		c.counters.failed.Add(int64(len(items)))
	} else {
		c.counters.enqueued.Add(int64(len(items)))
	}
	for _, j := range jobs {
		j.done <- err
	}
	return more
}

// put stores tasks and draws the conclusions from a failure.
func (c *Conn) put(ctx context.Context, tasks []task) error {
	ctx, cancel := context.WithTimeout(ctx, c.opts.DialTimeout+2*c.opts.Timeout)
	defer cancel()
	err := c.store(ctx, tasks)
	switch {
	case err == nil:
	case meansAway(err) && !errors.Is(err, context.Canceled):
		c.setAway(ctx, err)
	case c.noise.allow(time.Second):
		c.log.WarnContext(ctx, "enqueue refused; left to the reconciler", slog.Any("error", err))
	}
	return err
}
