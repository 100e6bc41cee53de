package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// drainLimit bounds the wait for what was emitted to arrive.
const drainLimit = 2 * time.Minute

// An emit is one that was answered.
type emit struct {
	id             string
	sent, answered time.Time
}

// saturate lets callers emit one after the other, without a pause, until the time is over.
func saturate(ctx context.Context, s *subject, e *emission, callers int, duration time.Duration) ([]emit, error) {
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	all := make([][]emit, callers)
	errs := make([]error, callers)
	var wait sync.WaitGroup
	for n := range callers {
		wait.Go(func() {
			c := &caller{addr: s.addr}
			defer c.close()
			var ids []string
			for ctx.Err() == nil {
				var sent time.Time
				ids, sent, errs[n] = c.emit(e, ids[:0])
				if errs[n] != nil {
					return
				}
				answered := time.Now()
				for _, id := range ids {
					all[n] = append(all[n], emit{id, sent, answered})
				}
			}
		})
	}
	wait.Wait()
	return slices.Concat(all...), errors.Join(errs...)
}

// pace emits at a steady rate, however long the answers take, until the time is over.
func pace(ctx context.Context, s *subject, e *emission, rate float64, duration time.Duration) ([]emit, error) {
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	var mu sync.Mutex
	var idle []*caller
	var all []emit
	var failed error // the first of them
	failures := 0
	one := func() {
		mu.Lock()
		c := &caller{addr: s.addr}
		if last := len(idle) - 1; last >= 0 {
			c, idle = idle[last], idle[:last]
		}
		mu.Unlock()
		ids, sent, err := c.emit(e, nil)
		answered := time.Now()
		mu.Lock()
		defer mu.Unlock()
		idle = append(idle, c)
		if err != nil {
			failed = cmp.Or(failed, err)
			failures++
		}
		for _, id := range ids {
			all = append(all, emit{id, sent, answered})
		}
	}
	tick := time.NewTicker(time.Duration(float64(time.Second) / rate))
	defer tick.Stop()
	var wait sync.WaitGroup
	for ctx.Err() == nil {
		select {
		case <-tick.C:
			wait.Go(one)
		case <-ctx.Done():
		}
	}
	wait.Wait()
	for _, c := range idle {
		c.close()
	}
	if failed != nil {
		failed = fmt.Errorf("%d of %d emits failed, the first: %w", failures, failures+len(all)/e.events, failed)
	}
	return all, failed
}

// A round is what one stretch of load came to.
type round struct {
	deliveries int
	missing    int             // of the baseline, which is not waited for to the end
	perSecond  float64         // from the first emit to the last arrival
	answers    []time.Duration // from sent to answered, sorted
	receipts   []time.Duration // from sent to arrived, sorted
	ways       []span          // the same by when they were
	cpu        map[string]time.Duration
	took       time.Duration
	peak       int64 // the server's memory
}

// saturatedRound drives a subject with waiting callers until the time is over, waits until
// everything has arrived, and says what came of it. Every event must arrive.
func (b *bench) saturatedRound(ctx context.Context, s *subject, e *emission, path string, duration time.Duration) (*round, error) {
	if err := b.receiver.reset(ctx); err != nil {
		return nil, err
	}
	meter, err := startMeter(append(slices.Clone(s.parties), b.others()...))
	if err != nil {
		return nil, err
	}
	watch := watchMemory(s.process.pid())
	defer watch.stop()
	began := time.Now()
	emits, err := saturate(ctx, s, e, b.callers, duration)
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", s.name, err, s.process.log)
	}
	r, err := b.settle(ctx, s, path, emits)
	if err != nil {
		return nil, err
	}
	if r.cpu, r.took, err = meter.used(); err != nil {
		return nil, err
	}
	r.peak = watch.stop()
	r.perSecond = float64(r.deliveries) / r.took.Seconds()
	if count, err := b.receiver.count(ctx, path); err == nil {
		r.perSecond = float64(r.deliveries) / count.last.Sub(began).Seconds()
	}
	return r, ctx.Err()
}

// settle waits until what was emitted has arrived, and joins both books.
func (b *bench) settle(ctx context.Context, s *subject, path string, emits []emit) (*round, error) {
	// The baseline leaves to asynq what fails, which may take minutes to come again.
	_, err := b.receiver.await(ctx, path, len(emits), drainLimit)
	if err != nil && (s.stack != "" || !errors.Is(err, errStalled)) {
		return nil, fmt.Errorf("%s: %w\n%s", s.name, err, s.process.log)
	}
	arrived, err := b.receiver.arrivals(ctx, path)
	if err != nil {
		return nil, err
	}
	r := &round{deliveries: len(emits)}
	for _, e := range emits {
		at, ok := arrived[e.id]
		if !ok && s.stack == "" {
			r.deliveries--
			r.missing++
			continue
		}
		if !ok {
			return nil, fmt.Errorf("%s: event %s was answered and never arrived", s.name, e.id)
		}
		r.answers = append(r.answers, e.answered.Sub(e.sent))
		// Both sides read the wall clock, which the receiver wrote without its monotonic part.
		way := span{e.sent.Round(0), at}
		r.receipts, r.ways = append(r.receipts, way.to.Sub(way.from)), append(r.ways, way)
	}
	slices.Sort(r.answers)
	slices.Sort(r.receipts)
	return r, nil
}

// memoryWatch follows a process's memory.
type memoryWatch struct {
	done, ended chan struct{}
	once        sync.Once
	peak        int64
}

func watchMemory(pid int) *memoryWatch {
	w := &memoryWatch{done: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(w.ended)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			if now, err := resident(pid); err == nil { // where there is no /proc it stays zero
				w.peak = max(w.peak, now)
			}
			select {
			case <-tick.C:
			case <-w.done:
				return
			}
		}
	}()
	return w
}

// stop ends the watch and gives the most that was seen. It may be called again.
func (w *memoryWatch) stop() int64 {
	w.once.Do(func() { close(w.done) })
	<-w.ended
	return w.peak
}
