package queue

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/intervengine/webhooks/models"
)

const (
	leaseName = "reconcile"
	// leaseIntervals is how many intervals a holder keeps the lease that it does not renew. Two
	// and a half: one pass may be late, a dead holder is replaced well within a minute.
	leaseIntervals = 2.5
	// grace is for what was enqueued just now and is on its way to a claim.
	grace = 3 * time.Second
	// maxPatience bounds how long a delivery may be due before it is put back though the backlog
	// may hold it.
	maxPatience = 40 * time.Second
	// maxPages bounds each kind of work in a pass, so that the others get their turn.
	maxPages = 200
)

// occasion is what set a pass off.
type occasion int

const (
	inTurn    occasion = iota // the interval is over
	atStart                   // the embedded queue has just forgotten everything
	afterLoss                 // Redis came back, or lost its memory
)

// Ledger is what the Reconciler asks of the database. *models.Store is one.
type Ledger interface {
	// AcquireLease takes or renews a named lease; false where another holder has it.
	AcquireLease(ctx context.Context, name, holder string, ttl time.Duration) (bool, error)
	// ReleaseLease gives a lease up before it runs out.
	ReleaseLease(ctx context.Context, name, holder string) error
	// MarkReconciled notes for every process that a pass was completed.
	MarkReconciled(ctx context.Context) error
	// ExpireClaims records the attempts of claims that ran out as abandoned, of some deliveries after
	// a place in the order of being due. It returns those that are due again, and the place to go on from,
	// zero at the end.
	ExpireClaims(ctx context.Context, after models.DueCursor, limit int) ([]models.Due, models.DueCursor, error)
	// DueDeliveries returns what has been due for longer than olderThan and is not claimed, after
	// a place in the order of being due.
	DueDeliveries(ctx context.Context, olderThan time.Duration, after models.DueCursor, limit int) ([]models.Due, error)
	// SettleInactive ends or holds open deliveries of webhooks that are not active, and says how many.
	SettleInactive(ctx context.Context, limit int) (int, error)
}

var _ Ledger = (*models.Store)(nil)

// ReconcilerOptions tells NewReconciler how to work. Only Logger has no default.
type ReconcilerOptions struct {
	// Interval between passes. Zero: 10 s.
	Interval time.Duration
	// PageSize bounds what one statement reads or changes. Zero: 1000.
	PageSize int
	// Timeout bounds each call of the Ledger. Zero: 10 s.
	Timeout time.Duration
	// Holder names this process in the lease. Empty: a random name.
	Holder string
	Logger *slog.Logger
}

// Reconciler makes the queue agree with the database: what is due and claimed by nobody is
// enqueued again, what a dead worker claimed becomes due again, and what can no longer be sent is
// settled. One process at a time does it, by a lease in the database.
type Reconciler struct {
	conn   *Conn
	ledger Ledger
	opts   ReconcilerOptions
	log    *slog.Logger
	kick   chan struct{}
	sent   sentBook
	stuck  map[string]time.Time // active tasks without a lease, since when they were seen
	leased time.Time            // until when the lease is ours
	claims models.DueCursor     // up to where claims were looked through; a pass may not see all of a backlog
	noise  throttle

	repaired, expired, settled, healed atomic.Int64
	passed                             atomic.Int64 // Unix ns
	leading                            atomic.Bool
}

// ReconcilerStats is what a Reconciler has done in this process.
type ReconcilerStats struct {
	Repaired int64 // deliveries that were enqueued again
	Expired  int64 // claims that had run out
	Settled  int64 // deliveries of webhooks that are not active
	Healed   int64 // broken entries that were removed from Redis
	// LastPass is when this process last finished a pass of its own. Zero: never.
	LastPass time.Time
	Leading  bool // this process holds the lease
}

// NewReconciler prepares a Reconciler; Run runs it.
func NewReconciler(conn *Conn, ledger Ledger, opts ReconcilerOptions) *Reconciler {
	opts.Interval = orDefault(opts.Interval, 10*time.Second)
	opts.Timeout = orDefault(opts.Timeout, 10*time.Second)
	if opts.PageSize <= 0 {
		opts.PageSize = 1000
	}
	if opts.Holder == "" {
		opts.Holder = rand.Text()
	}
	return &Reconciler{
		conn: conn, ledger: ledger, opts: opts, log: opts.Logger,
		kick: make(chan struct{}, 1), stuck: make(map[string]time.Time),
	}
}

// Kick makes Run start a pass now, with no regard for what was enqueued moments ago. It does not
// wait for it.
func (r *Reconciler) Kick() {
	select {
	case r.kick <- struct{}{}:
	default: // a pass is about to start anyway
	}
}

// Stats reads what was done. It is safe for concurrent use.
func (r *Reconciler) Stats() ReconcilerStats {
	at := func(ns int64) time.Time {
		if ns == 0 {
			return time.Time{}
		}
		return time.Unix(0, ns)
	}
	return ReconcilerStats{
		Repaired: r.repaired.Load(), Expired: r.expired.Load(), Settled: r.settled.Load(), Healed: r.healed.Load(),
		LastPass: at(r.passed.Load()), Leading: r.leading.Load(),
	}
}

// Run reconciles at once, then in every interval, and whenever Redis comes back or has lost its
// memory, until ctx ends; it returns nil then. A fault is logged and tried again with the next
// pass.
func (r *Reconciler) Run(ctx context.Context) error {
	returned, cancel := r.conn.returns.subscribe()
	defer cancel()
	defer r.release(ctx)
	if r.conn.embedded != nil {
		var refill sync.WaitGroup
		defer refill.Wait()
		refill.Go(func() { r.refill(ctx) })
	}
	timer := time.NewTimer(r.opts.Interval)
	defer timer.Stop()
	for why := atStart; ; {
		if err := r.pass(ctx, why); err != nil && ctx.Err() == nil && r.noise.allow(time.Minute) {
			r.log.WarnContext(ctx, "reconciler pass incomplete", slog.Any("error", err))
		}
		timer.Reset(r.opts.Interval)
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			why = inTurn
		case <-returned:
			why = afterLoss
		case <-r.kick:
			why = afterLoss
		}
	}
}

// pass does everything once, if the lease is to be had. Its parts do not depend on each other.
func (r *Reconciler) pass(ctx context.Context, why occasion) error {
	r.leased = time.Time{}
	leading, err := r.lease(ctx)
	r.leading.Store(leading)
	if err != nil {
		return fmt.Errorf("acquire lease: %w", err)
	}
	if !leading {
		return nil
	}
	var errs []error
	if r.conn.Degraded() == nil {
		if err := r.heal(ctx); err != nil {
			errs = append(errs, fmt.Errorf("heal queue: %w", err))
		}
	}
	if err := r.expireClaims(ctx); err != nil {
		errs = append(errs, fmt.Errorf("expire claims: %w", err))
	}
	if err := r.settle(ctx); err != nil {
		errs = append(errs, fmt.Errorf("settle deliveries: %w", err))
	}
	if r.conn.Degraded() == nil {
		if err := r.repair(ctx, why); err != nil {
			errs = append(errs, fmt.Errorf("repair queue: %w", err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	r.passed.Store(time.Now().UnixNano())
	call, cancel := context.WithTimeout(ctx, r.opts.Timeout)
	defer cancel()
	if err := r.ledger.MarkReconciled(call); err != nil {
		return fmt.Errorf("mark pass: %w", err)
	}
	return nil
}

// lease reports whether the lease is ours, and renews it when half of it is over.
func (r *Reconciler) lease(ctx context.Context) (bool, error) {
	ttl := time.Duration(leaseIntervals * float64(r.opts.Interval))
	if time.Until(r.leased) > ttl/2 {
		return true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.opts.Timeout)
	defer cancel()
	asked := time.Now()
	ours, err := r.ledger.AcquireLease(ctx, leaseName, r.opts.Holder, ttl)
	if ours {
		r.leased = asked.Add(ttl)
	}
	return ours, err
}

// release lets another process take over at once.
func (r *Reconciler) release(ctx context.Context) {
	if !r.leading.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = r.ledger.ReleaseLease(ctx, leaseName, r.opts.Holder) // otherwise it runs out by itself
	r.leading.Store(false)
}

// pages calls page until it says that there is no more, the lease is lost, or it is enough for
// one pass.
func (r *Reconciler) pages(ctx context.Context, page func(ctx context.Context) (more bool, err error)) error {
	for range maxPages {
		if ours, err := r.lease(ctx); err != nil || !ours {
			return err
		}
		call, cancel := context.WithTimeout(ctx, r.opts.Timeout)
		more, err := page(call)
		cancel()
		if err != nil || !more {
			return err
		}
	}
	return nil
}

func (r *Reconciler) expireClaims(ctx context.Context) error {
	return r.pages(ctx, func(ctx context.Context) (bool, error) {
		due, next, err := r.ledger.ExpireClaims(ctx, r.claims, r.opts.PageSize)
		if err != nil {
			return false, err
		}
		r.claims = next
		more := next != (models.DueCursor{})
		if len(due) == 0 {
			return more, nil
		}
		r.expired.Add(int64(len(due)))
		r.log.WarnContext(ctx, "abandoned attempts found; attempting again", slog.Int("deliveries", len(due)))
		if r.conn.Degraded() == nil {
			// What fails here is due, and found by the next repair.
			_ = r.enqueue(ctx, due)
		}
		return more, nil
	})
}

func (r *Reconciler) settle(ctx context.Context) error {
	return r.pages(ctx, func(ctx context.Context) (bool, error) {
		n, err := r.ledger.SettleInactive(ctx, r.opts.PageSize)
		r.settled.Add(int64(n))
		return n >= r.opts.PageSize, err
	})
}

// repair enqueues what is due and should have been claimed by now.
//
// The queue is first in, first out. So a delivery that became due before the task at its head
// was enqueued is not in it any more, and one that became due later may still be: how long the
// head has been waiting tells what is lost from what is only late, and a backlog is not enqueued
// again with every pass. After a loss that does not hold: what could not be enqueued was never in
// it, so everything is taken for lost, at the price of some tasks too many.
//
// The in-process queue gets a part of a large backlog only; the rest is for refill.
func (r *Reconciler) repair(ctx context.Context, why occasion) error {
	if r.conn.window.behind.Load() {
		return nil
	}
	sizes, err := r.conn.Sizes(ctx)
	if err != nil {
		return err
	}
	now := r.conn.now()
	head := now // of an empty queue
	if !sizes.OldestPending.IsZero() && sizes.OldestPending.Before(now) {
		head = sizes.OldestPending
	}
	r.sent.prune(now, head)
	patience := min(now.Sub(head)+time.Second, maxPatience)
	switch {
	case why == inTurn:
		patience = max(patience, grace)
	case why == afterLoss || sizes.OldestPending.IsZero():
		patience = 0
	}
	var after models.DueCursor
	total := 0
	err = r.pages(ctx, func(ctx context.Context) (bool, error) {
		due, err := r.ledger.DueDeliveries(ctx, patience, after, r.opts.PageSize)
		if err != nil || len(due) == 0 {
			return false, err
		}
		after = due[len(due)-1].Cursor()
		lost := r.sent.missing(due)
		if err := r.enqueue(ctx, lost); err != nil {
			return false, err
		}
		total += len(lost)
		r.repaired.Add(int64(len(lost)))
		more := len(due) == r.opts.PageSize
		if more && r.conn.embedded != nil && total >= refillSize {
			r.conn.window.fallBehind(now)
			more = false
		}
		return more && !r.sent.full(), nil
	})
	if total > 0 {
		r.log.InfoContext(ctx, "due deliveries put back into the queue", slog.Int("deliveries", total))
	}
	return err
}

// enqueue stores tasks for due in pages, and remembers them.
func (r *Reconciler) enqueue(ctx context.Context, due []models.Due) error {
	if len(due) == 0 {
		return nil
	}
	now := r.conn.now()
	if err := r.conn.put(ctx, tasksOfDue(due, now)); err != nil {
		return err
	}
	r.sent.add(due, now)
	return nil
}

// tasksOfDue bundles deliveries whose tasks, if they had any, are taken for lost.
func tasksOfDue(due []models.Due, now time.Time) []task {
	items := make([]Item, len(due))
	for i, d := range due {
		items[i] = Item{DeliveryID: d.DeliveryID, Attempt: d.AttemptCount}
	}
	return tasksOf(items, now, rand.Text()[:8])
}
