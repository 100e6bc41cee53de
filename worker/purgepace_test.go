package worker

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
)

func TestPurgePace_FitsTheDatabase(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		wait         time.Duration // for the database, before each batch
		least, event time.Duration // what a batch keeps it at least, and what each event adds
		comes        float64       // events a second
		fewest, most int           // of the sizes that it settles on
		slowest      time.Duration // that a batch keeps the database
		atLeast      float64       // events a second that it removes
	}{
		"fast":                      {least: 500 * time.Microsecond, event: 50 * time.Microsecond, fewest: 40, most: 160, slowest: 9 * time.Millisecond, atLeast: 3000},
		"slow to commit":            {least: 10 * time.Millisecond, event: 50 * time.Microsecond, fewest: 40, most: 500, slowest: 36 * time.Millisecond, atLeast: 1000},
		"slow in everything":        {least: 10 * time.Millisecond, event: 5 * time.Millisecond, fewest: 5, most: 20, slowest: 110 * time.Millisecond, atLeast: 40},
		"so fast that all are most": {least: 100 * time.Microsecond, event: time.Microsecond, fewest: 500, most: 500, slowest: time.Millisecond, atLeast: 50_000},
		"others keep it busy, little comes": {
			wait: 40 * time.Millisecond, least: time.Millisecond, event: 50 * time.Microsecond, comes: 100,
			fewest: 40, most: 160, slowest: 9 * time.Millisecond, atLeast: 500,
		},
		"others keep it busy, and much comes": {
			wait: 60 * time.Millisecond, least: time.Millisecond, event: 50 * time.Microsecond, comes: 2000,
			fewest: 160, most: 500, slowest: 26 * time.Millisecond, atLeast: 3000,
		},
		"more comes than can go": {
			wait: 100 * time.Millisecond, least: time.Millisecond, event: 100 * time.Microsecond, comes: 20_000,
			fewest: 500, most: 500, slowest: 51 * time.Millisecond, atLeast: 3000,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := purgePace{size: firstPurged}
			p.comes(test.comes)
			removed, spent := 0, time.Duration(0)
			for n := range 200 {
				held := test.least + time.Duration(p.size)*test.event
				assert.LessOrEqual(t, held, test.slowest)
				now := p.size
				pause := p.next(now, held, test.wait+held)
				if n < 100 {
					continue
				}
				removed, spent = removed+now, spent+test.wait+held+pause
				assert.GreaterOrEqual(t, p.size, test.fewest)
				assert.LessOrEqual(t, p.size, test.most)
			}
			assert.GreaterOrEqual(t, float64(removed)/spent.Seconds(), test.atLeast)
		})
	}
}

// Where nothing goes, since all of it is open yet, it does not hurry.
func TestPurgePace_NothingGoes(t *testing.T) {
	t.Parallel()
	p := purgePace{size: firstPurged}
	p.comes(5000)
	for range 10 {
		assert.GreaterOrEqual(t, p.next(0, 20*time.Millisecond, 30*time.Millisecond), 40*time.Millisecond)
	}
	p.comes(0)
	p.comes(0)
	assert.InDelta(t, 3200, p.rate, 1, "a lull counts little by little")
}

// What comes fast into a database that others keep busy goes as fast, keys and events both, however long
// that goes on: no pass takes ever longer than the one before.
func TestRetention_RemovesBothAsFastAsTheyCome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const (
			comes    = 2000 // a second
			wait     = 60 * time.Millisecond
			interval = time.Minute
		)
		began := time.Now()
		come := func(at time.Time) int { return int(at.Sub(began).Seconds() * comes) }
		r := &Retention{
			leased: began.Add(24 * time.Hour),
			recent: func(context.Context, time.Duration, int) (int, error) { return comes * int(comeEvery.Seconds()), nil },
		}
		// batch removes of those that have come by a time.
		batch := func(gone *int, by func() time.Time) func(ctx context.Context, size int) (models.PurgedRows, error) {
			return func(ctx context.Context, size int) (models.PurgedRows, error) {
				held := time.Millisecond + time.Duration(size)*50*time.Microsecond
				if err := pause(ctx, wait+held); err != nil {
					return models.PurgedRows{}, err
				}
				n := min(size, come(by())-*gone)
				*gone += n
				return models.PurgedRows{Rows: n, More: n == size, Held: held}, nil
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Hour)
		defer cancel()
		events, keys := 0, 0
		for range 30 {
			require.NoError(t, pause(ctx, interval))
			started := time.Now()
			require.NoError(t, r.purge(ctx,
				&purge{grows: true, batch: batch(&events, func() time.Time { return started })},
				&purge{grows: true, batch: batch(&keys, time.Now)},
			))
			require.Less(t, time.Since(started), 5*interval)
			require.GreaterOrEqual(t, events, come(started))
			require.GreaterOrEqual(t, keys, come(started))
		}
	})
}
