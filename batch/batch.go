// Package batch is group commit: many callers hand in one item each, one flusher
// takes everything that waits and writes it at once, and every caller gets the
// outcome of its own item. There is no timer: a caller that is alone is flushed
// at once, and while a flush runs the next batch gathers by itself.
//
// It hides queueing, withdrawal, back pressure and shutdown from its users, which
// only say how a batch is written. Its invariants: an accepted item is flushed
// once or withdrawn, never both; every accepted item is answered once; items
// that one caller hands in one after the other are flushed in that order (with
// one flusher); the queue is bounded.
package batch

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
)

var (
	// ErrBusy means that MaxWaiting items wait already; nothing was accepted.
	ErrBusy = errors.New("batch: too many callers are waiting")
	// ErrStopped means that the committer was stopped before the item's batch
	// began; nothing was flushed.
	ErrStopped = errors.New("batch: stopped")
	// ErrOutcomeUnknown means that the item was in a batch whose outcome the
	// caller did not learn: it may or may not have taken effect.
	ErrOutcomeUnknown = errors.New("batch: outcome unknown")
)

const (
	defaultMaxBatch   = 256
	defaultMaxWaiting = 16_384
)

// Result is the outcome of one item.
type Result[Out any] struct {
	Value Out
	Err   error
}

// Options says how a Committer works.
type Options[In, Out any] struct {
	// Flush writes a batch of 1 to MaxBatch items and returns one result for each,
	// in their order. An error fails the whole batch. It must obey its context,
	// which ends when Stop runs out of time, and should set its own deadline. It
	// must not keep items. A panic becomes a *PanicError of that batch alone.
	// Required.
	Flush func(ctx context.Context, items []In) ([]Result[Out], error)
	// MaxBatch bounds the items of one flush. 0 means 256.
	MaxBatch int
	// MaxWaiting bounds the items that wait for a flush; more get ErrBusy.
	// 0 means 16,384.
	MaxWaiting int
	// Flushers is how many batches may be written at the same time. 0 means 1;
	// with more, items of different batches have no order.
	Flushers int
}

// PanicError is the outcome of a batch whose Flush panicked. It wraps
// ErrOutcomeUnknown: the panic may have come after the write.
type PanicError struct {
	Value any
	Stack []byte
}

// Error names the panic's value; the stack is in the field.
func (e *PanicError) Error() string { return fmt.Sprintf("batch: flush panicked: %v", e.Value) }

// Unwrap returns ErrOutcomeUnknown.
func (*PanicError) Unwrap() error { return ErrOutcomeUnknown }

// Committer gathers items into batches. Safe for concurrent use.
type Committer[In, Out any] struct {
	flush      func(ctx context.Context, items []In) ([]Result[Out], error)
	maxBatch   int
	maxWaiting int
	flushers   int

	ctx    context.Context // the flushers' own life, ended by Stop
	cancel context.CancelFunc
	done   chan struct{} // closed when the last flusher has ended

	mu      sync.Mutex
	work    sync.Cond
	waiting queue[In, Out]
	started bool
	stopped bool
	running int
}

// New makes a Committer that accepts items at once and flushes after Start. It
// panics without a Flush and on negative options: mistakes of the programmer.
func New[In, Out any](options Options[In, Out]) *Committer[In, Out] {
	if options.Flush == nil || options.MaxBatch < 0 || options.MaxWaiting < 0 || options.Flushers < 0 {
		panic("batch: Flush is required, and bounds are not negative")
	}
	c := &Committer[In, Out]{
		flush:      options.Flush,
		maxBatch:   orDefault(options.MaxBatch, defaultMaxBatch),
		maxWaiting: orDefault(options.MaxWaiting, defaultMaxWaiting),
		flushers:   orDefault(options.Flushers, 1),
		done:       make(chan struct{}),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background()) //nolint:gosec // Stop calls it
	c.work.L = &c.mu
	return c
}

// Start starts the flushers; a second call, and one after Stop, does nothing.
// Whoever calls Start calls Stop.
func (c *Committer[In, Out]) Start() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.started || c.stopped {
		return
	}
	c.started = true
	c.running = c.flushers
	for range c.flushers {
		go c.run()
	}
}

// Stop refuses new items, flushes those that wait and returns when the last batch
// is answered. When ctx ends first, what still waits is answered ErrStopped, the
// context of running flushes ends, and Stop returns ctx's error without waiting
// for them. Idempotent: every call waits in the same way.
func (c *Committer[In, Out]) Stop(ctx context.Context) error {
	c.mu.Lock()
	if !c.stopped {
		c.stopped = true
		if !c.started {
			close(c.done)
			c.cancel()
		}
		c.work.Broadcast()
	}
	started := c.started
	c.mu.Unlock()
	if !started {
		c.abandon()
		return nil
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
	}
	c.abandon()
	c.cancel()
	return fmt.Errorf("stop committer: %w", ctx.Err())
}

// Do hands in one item and waits for its outcome. When ctx ends before the item's
// batch began, the item is withdrawn, never flushed, and ctx's error is returned.
// When it ends later, the error wraps both ErrOutcomeUnknown and ctx's error.
// Other errors: ErrBusy, ErrStopped, and whatever Flush answered.
func (c *Committer[In, Out]) Do(ctx context.Context, in In) (Out, error) {
	if err := ctx.Err(); err != nil {
		var none Out
		return none, err
	}
	it, answer := newItem[In, Out](in)
	if _, err := c.enqueue(it); err != nil {
		var none Out
		return none, err
	}
	result := c.await(ctx, it, answer)
	return result.Value, result.Err
}

// DoAll hands in many items, which are flushed in their order, and waits for all of them. There is
// one result for each, in their order, as Do would have answered it.
func (c *Committer[In, Out]) DoAll(ctx context.Context, ins []In) []Result[Out] {
	results := make([]Result[Out], len(ins))
	items := make([]*item[In, Out], len(ins))
	answers := make([]<-chan Result[Out], len(ins))
	for i, in := range ins {
		items[i], answers[i] = newItem[In, Out](in)
	}
	accepted, err := 0, ctx.Err()
	if err == nil {
		accepted, err = c.enqueue(items...)
	}
	for i, it := range items {
		if i < accepted {
			results[i] = c.await(ctx, it, answers[i])
		} else {
			results[i].Err = err
		}
	}
	return results
}

// newItem makes an item whose outcome comes through a channel.
func newItem[In, Out any](in In) (*item[In, Out], <-chan Result[Out]) {
	answer := make(chan Result[Out], 1)
	return &item[In, Out]{in: in, answer: func(value Out, err error) { answer <- Result[Out]{value, err} }}, answer
}

// await waits for the outcome of one item.
func (c *Committer[In, Out]) await(ctx context.Context, it *item[In, Out], answer <-chan Result[Out]) Result[Out] {
	select {
	case result := <-answer:
		return result
	case <-ctx.Done():
	}
	if c.withdraw(it) {
		return Result[Out]{Err: ctx.Err()}
	}
	select {
	case result := <-answer: // it came at the same moment: better than not to know
		return result
	default:
		return Result[Out]{Err: fmt.Errorf("%w: %w", ErrOutcomeUnknown, ctx.Err())}
	}
}

// Submit hands in one item without waiting. It returns ErrBusy or ErrStopped, or
// nil, and then calls answer exactly once, from a flusher: answer must neither
// block nor panic, for the rest of the batch waits behind it. It may call Submit.
func (c *Committer[In, Out]) Submit(in In, answer func(Out, error)) error {
	_, err := c.enqueue(&item[In, Out]{in: in, answer: answer})
	return err
}

// SubmitAll is Submit for many, which are flushed in their order and together as far as batches go. accepted
// is how many were: answer is called for each of those, with its place. The others got err.
func (c *Committer[In, Out]) SubmitAll(ins []In, answer func(n int, value Out, err error)) (accepted int, err error) {
	items := make([]*item[In, Out], len(ins))
	for n, in := range ins {
		items[n] = &item[In, Out]{in: in, answer: func(value Out, err error) { answer(n, value, err) }}
	}
	return c.enqueue(items...)
}

// Waiting returns how many items wait for a flush, for metrics.
func (c *Committer[In, Out]) Waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting.length
}

// enqueue takes as many items as there is room for, at once. What follows one that was refused is refused
// as well, so that none overtakes another.
func (c *Committer[In, Out]) enqueue(items ...*item[In, Out]) (accepted int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return 0, ErrStopped
	}
	for _, it := range items {
		if c.waiting.length >= c.maxWaiting {
			return accepted, ErrBusy
		}
		c.waiting.push(it)
		c.work.Signal()
		accepted++
	}
	return accepted, nil
}

// withdraw takes the item out of the queue; false when its batch has begun.
func (c *Committer[In, Out]) withdraw(it *item[In, Out]) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !it.queued {
		return false
	}
	c.waiting.remove(it)
	return true
}

// abandon answers ErrStopped to everything that waits.
func (c *Committer[In, Out]) abandon() {
	c.mu.Lock()
	left := c.waiting.take(nil, c.waiting.length)
	c.mu.Unlock()
	var none Out
	for _, it := range left {
		it.answer(none, ErrStopped)
	}
}

// run is one flusher.
func (c *Committer[In, Out]) run() {
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.running--; c.running == 0 {
			close(c.done)
			c.cancel()
		}
	}()
	items := make([]*item[In, Out], 0, c.maxBatch)
	ins := make([]In, 0, c.maxBatch)
	for {
		items = c.next(items[:0])
		if len(items) == 0 {
			return
		}
		ins = ins[:0]
		for _, it := range items {
			ins = append(ins, it.in)
		}
		results, err := c.flushSafely(ins)
		for i, it := range items {
			if err != nil {
				var none Out
				it.answer(none, err)
				continue
			}
			it.answer(results[i].Value, results[i].Err)
		}
		// What the last batch held must not stay alive until the next one.
		clear(items)
		clear(ins)
	}
}

// next waits for items and takes up to maxBatch; none means stopped and drained.
func (c *Committer[In, Out]) next(into []*item[In, Out]) []*item[In, Out] {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.waiting.length == 0 {
		if c.stopped {
			return into
		}
		c.work.Wait()
	}
	into = c.waiting.take(into, c.maxBatch)
	if c.waiting.length > 0 {
		c.work.Signal() // several signals may have woken one flusher alone
	}
	return into
}

func (c *Committer[In, Out]) flushSafely(ins []In) (results []Result[Out], err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &PanicError{Value: value, Stack: debug.Stack()}
		}
	}()
	results, err = c.flush(c.ctx, ins)
	if err == nil && len(results) != len(ins) {
		err = fmt.Errorf("%w: flush answered %d results for %d items", ErrOutcomeUnknown, len(results), len(ins))
	}
	return results, err
}

func orDefault(value, fallback int) int {
	if value == 0 {
		return fallback
	}
	return value
}
