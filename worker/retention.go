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
	// recent counts the events that came within a time before now, up to most of them.
	recent func(ctx context.Context, within time.Duration, most int) (int, error)
}

// NewRetention prepares a Retention; Run runs it.
func NewRetention(o RetentionOptions) *Retention {
	return &Retention{RetentionOptions: o, holder: uuid.NewString(), recent: o.Store.RecentEvents}
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
	rows := func(kind models.PurgeKind) *purge {
		return &purge{of: string(kind), batch: func(ctx context.Context, size int) (models.PurgedRows, error) {
			return r.Store.Purge(ctx, kind, before, size)
		}}
	}
	after := ""
	events := &purge{of: "events", grows: true, batch: func(ctx context.Context, size int) (models.PurgedRows, error) {
		purged, err := r.Store.PurgeEvents(ctx, before, after, size)
		after = purged.Last
		return models.PurgedRows{Rows: purged.Events, More: purged.More, Held: purged.Held}, err
	}}
	keys := rows(models.PurgeKeys)
	keys.grows = true
	all := []*purge{events, keys}
	// In turns: to remove one of them as fast as it comes takes for ever where it comes fast, and then
	// the other has grown.
	err = r.purge(ctx, events, keys)
	for _, kind := range models.PurgeKinds {
		if err != nil {
			break
		}
		if kind != models.PurgeKeys {
			one := rows(kind)
			all = append(all, one)
			err = r.purge(ctx, one)
		}
	}
	removed, counts := 0, []any{}
	for _, one := range all {
		removed += one.removed
		counts = append(counts, one.of, one.removed)
	}
	if removed > 0 {
		r.Logger.DebugContext(ctx, "retention removed what is too old", slog.Group("rows", counts...))
	}
	return err
}

// purge is the removal of all that is too old of one kind, in batches.
type purge struct {
	of    string
	batch func(ctx context.Context, size int) (models.PurgedRows, error)
	grows bool // with the events that come

	pace    purgePace
	rested  time.Time // when the pause after its last batch was over
	removed int
	done    bool
}

// purge does some removals in turns, in batches of the size that fits their target.
func (r *Retention) purge(ctx context.Context, all ...*purge) error {
	var asked time.Time
	for _, one := range all {
		one.pace.size, one.rested = firstPurged, time.Now()
	}
	for left := len(all); left > 0; {
		for _, one := range all {
			if one.done {
				continue
			}
			if held, err := r.lease(ctx); err != nil || !held {
				return err
			}
			if one.grows && time.Since(asked) >= comeEvery {
				count, err := r.recent(ctx, comeEvery, mostCome)
				if err != nil {
					return err
				}
				for _, one := range all {
					one.pace.comes(float64(count) / comeEvery.Seconds())
				}
				asked = time.Now()
			}
			purged, err := one.batch(ctx, one.pace.size)
			if err != nil {
				return err
			}
			one.removed += purged.Rows
			if !purged.More {
				one.done = true
				left--
				continue
			}
			if err := pause(ctx, one.pace.next(purged.Rows, purged.Held, time.Since(one.rested))); err != nil {
				return err
			}
			one.rested = time.Now()
		}
	}
	return nil
}

// purgePace finds how many to remove at once, and how long to leave the database to others in
// between.
type purgePace struct {
	size  int
	least time.Duration // that a batch has kept the database
	rate  float64       // at which they come, a second
}

// comes takes in how many a second come now. A lull counts little by little.
func (p *purgePace) comes(rate float64) { p.rate = max(rate, 0.8*p.rate) }

// next takes in how many a batch removed, how long it kept the database and how long it took since the
// pause before it, with all that it waited for, sets the size, and gives the pause until the next batch.
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
