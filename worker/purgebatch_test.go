package worker

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestPurgeBatch_FitsTheDatabase(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		commit, event time.Duration // what a batch takes at least, and what each event adds
		fewest, most  int           // of the sizes that it settles on
		slowest       time.Duration
	}{
		"fast":                      {commit: 500 * time.Microsecond, event: 50 * time.Microsecond, fewest: 40, most: 160, slowest: 9 * time.Millisecond},
		"slow to commit":            {commit: 10 * time.Millisecond, event: 50 * time.Microsecond, fewest: 40, most: 500, slowest: 36 * time.Millisecond},
		"slow in everything":        {commit: 10 * time.Millisecond, event: 5 * time.Millisecond, fewest: 5, most: 20, slowest: 110 * time.Millisecond},
		"so fast that all are most": {commit: 100 * time.Microsecond, event: time.Microsecond, fewest: 500, most: 500, slowest: time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := purgeBatch{size: firstPurged}
			for n := range 50 {
				took := test.commit + time.Duration(b.size)*test.event
				assert.LessOrEqual(t, took, test.slowest)
				b.adapt(took)
				if n >= 10 {
					assert.GreaterOrEqual(t, b.size, test.fewest)
					assert.LessOrEqual(t, b.size, test.most)
				}
			}
		})
	}
}
