package worker

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
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
