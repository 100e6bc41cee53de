package worker

import (
	"context"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/intervengine/webhooks/models"
)

const (
	retentionLease = "retention"
	// retentionLeaseFor is renewed while a pass runs; a holder that died is replaced after it.
	retentionLeaseFor = time.Minute
	// A batch of events shall keep the database for about purgeTarget more than a batch keeps it at
	// least: that long a writer may have to wait for it on a database that has one writer. After each,
	// the database belongs to others for twice as long, as far as what comes lets it.
	purgeTarget   = 4 * time.Millisecond
	dearestPurge  = 10 * time.Millisecond
	fewestPurged  = 5
	mostPurged    = 500
	firstPurged   = 20
	purgeRows     = 200
	shortestPause = 5 * time.Millisecond
	// More than comes must go, or what is kept grows for as long as it goes on. Every comeEvery it is
	// asked how much came in that time, up to mostCome.
	goesToComes = 1.5
	comeEvery   = 2 * time.Second
	mostCome    = 20_000
)

// RetentionOptions are what NewRetention needs; all fields are required.
type RetentionOptions struct {
	Store  *models.Store
	Logger *slog.Logger
	// Keep is how long events, and what came of them, are kept after they came.
	Keep time.Duration
	// Interval is the time between two passes.
	Interval time.Duration
}

// Retention is the duty that removes what is older than it has to be kept: events with their
// deliveries and attempts, statistics, expired idempotency keys, finished replays, what is left of
// deleted webhooks. It goes in small batches with pauses between them, so that traffic does not
// notice, and one process at a time does it, by a lease.
type Retention struct {
	RetentionOptions
	holder string
	leased time.Time // until when the lease is surely ours
}

// NewRetention prepares a Retention; Run runs it.
func NewRetention(o RetentionOptions) *Retention {
	return &Retention{RetentionOptions: o, holder: uuid.NewString()}
}

// Run makes a pass at once and then one in every interval, until ctx ends; it returns nil then. A
// fault is logged, and the next pass goes on with what it left.
func (r *Retention) Run(ctx context.Context) error {
	defer r.release(ctx)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		if err := r.pass(ctx); err != nil && ctx.Err() == nil {
			r.Logger.WarnContext(ctx, "retention pass incomplete", "error", err)
		}
		timer.Reset(r.Interval)
	}
}

// release lets another process make the next pass.
func (r *Retention) release(ctx context.Context) {
	if r.leased.IsZero() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = r.Store.ReleaseLease(ctx, retentionLease, r.holder) // it runs out by itself
}

// lease takes or renews the lease where it does not hold for a while yet.
func (r *Retention) lease(ctx context.Context) (bool, error) {
	if time.Until(r.leased) > retentionLeaseFor/2 {
		return true, nil
	}
	asked := time.Now()
	held, err := r.Store.AcquireLease(ctx, retentionLease, r.holder, retentionLeaseFor)
	if held {
		r.leased = asked.Add(retentionLeaseFor)
	}
	return held, err
}

// pass removes everything that is too old now.
func (r *Retention) pass(ctx context.Context) error {
	if held, err := r.lease(ctx); err != nil || !held {
		return err
	}
	now, err := r.Store.Now(ctx)
	if err != nil {
		return err
	}
	before := models.Instant(now.Add(-r.Keep))
	events, err := r.events(ctx, before)
	removed := []any{"events", events}
	for _, kind := range models.PurgeKinds {
		if err != nil {
			return err
		}
		var n int
		n, err = r.rows(ctx, kind, before)
		removed = append(removed, string(kind), n)
		events += n
	}
	if events > 0 {
		r.Logger.DebugContext(ctx, "retention removed what is too old", slog.Group("rows", removed...))
	}
	return err
}

// events removes events, in batches of the size that fits their target.
func (r *Retention) events(ctx context.Context, before time.Time) (removed int, err error) {
	pace := purgePace{size: firstPurged}
	var asked time.Time
	for after := ""; ; {
		if held, err := r.lease(ctx); err != nil || !held {
			return removed, err
		}
		started := time.Now()
		if started.Sub(asked) >= comeEvery {
			count, err := r.Store.RecentEvents(ctx, comeEvery, mostCome)
			if err != nil {
				return removed, err
			}
			pace.comes(float64(count) / comeEvery.Seconds())
			asked = started
		}
		purged, err := r.Store.PurgeEvents(ctx, before, after, pace.size)
		if err != nil {
			return removed, err
		}
		removed += purged.Events
		if !purged.More {
			return removed, nil
		}
		after = purged.Last
		if err := pause(ctx, pace.next(purged.Events, purged.Held, time.Since(started))); err != nil {
			return removed, err
		}
	}
}

// purgePace finds how many events to remove at once, and how long to leave the database to others
// in between.
type purgePace struct {
	size  int
	least time.Duration // that a batch has kept the database
	rate  float64       // of the events that come, a second
}

// comes takes in how many events a second come now. A lull counts little by little.
func (p *purgePace) comes(rate float64) { p.rate = max(rate, 0.8*p.rate) }

// next takes in how many events a batch removed, how long it kept the database and how long it took
// with all that it waited for, sets the size, and gives the pause until the next batch.
//
// A database that is slow makes every batch slow, and small ones would fall behind what comes: so what
// the quickest took, twice and up to dearestPurge each, is added to the target. Where others keep it so
// busy that each batch waits for long, only larger ones with less in between remove as much as comes.
func (p *purgePace) next(removed int, held, took time.Duration) time.Duration {
	if p.least == 0 || held < p.least {
		p.least = held
	}
	pause, behind := max(shortestPause, 2*held), false
	if removed > 0 && p.rate > 0 {
		// What such a batch and its pause may take.
		due := time.Duration(float64(removed) / (goesToComes * p.rate) * float64(time.Second))
		pause, behind = max(0, min(pause, due-took)), due < took+took/2
	}
	target := purgeTarget + 2*min(p.least, dearestPurge)
	switch {
	case behind, held < target/2:
		p.size = min(mostPurged, 2*p.size)
	case held > target:
		p.size = max(fewestPurged, p.size/2)
	}
	return pause
}

// rows removes what belongs to no event.
func (r *Retention) rows(ctx context.Context, kind models.PurgeKind, before time.Time) (removed int, err error) {
	for {
		if held, err := r.lease(ctx); err != nil || !held {
			return removed, err
		}
		started := time.Now()
		n, err := r.Store.Purge(ctx, kind, before, purgeRows)
		removed += n
		if err != nil || n < purgeRows {
			return removed, err
		}
		if err := pause(ctx, max(shortestPause, 2*time.Since(started))); err != nil {
			return removed, err
		}
	}
}

// pause leaves the database to others for a while.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
