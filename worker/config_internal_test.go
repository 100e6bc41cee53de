package worker

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/intervengine/webhooks/egress"
)

func TestReceiver_ArrivedLate(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	answered := func(connect, total time.Duration) egress.Timing {
		return egress.Timing{Connect: connect, Total: total, FirstByte: total - connect}
	}
	for name, test := range map[string]struct {
		before []egress.Timing
		now    egress.Timing
		want   time.Duration
	}{
		"the first":             {now: answered(0, 300*ms), want: 0},
		"a new connection":      {now: answered(120*ms, 130*ms), want: 120 * ms},
		"as usual":              {before: []egress.Timing{answered(0, 10*ms)}, now: answered(0, 55*ms), want: 0},
		"later than usual":      {before: []egress.Timing{answered(0, 10*ms)}, now: answered(0, 170*ms), want: 110 * ms},
		"and a new connection":  {before: []egress.Timing{answered(0, 10*ms)}, now: answered(70*ms, 240*ms), want: 180 * ms},
		"no more than a bound":  {before: []egress.Timing{answered(0, 10*ms)}, now: answered(0, 5000*ms), want: longestDelay},
		"always slow":           {before: []egress.Timing{answered(0, 2000*ms)}, now: answered(0, 2040*ms), want: 0},
		"quicker than ever":     {before: []egress.Timing{answered(0, 2000*ms)}, now: answered(0, 20*ms), want: 0},
		"never answered":        {before: []egress.Timing{answered(0, 10*ms)}, now: egress.Timing{Connect: 20 * ms, Total: 15000 * ms}, want: 20 * ms},
		"after a slow exchange": {before: []egress.Timing{answered(0, 10*ms), answered(0, 650*ms)}, now: answered(0, 170*ms), want: 100 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &receiver{}
			for _, before := range test.before {
				r.arrivedLate(before)
			}
			assert.Equal(t, test.want, r.arrivedLate(test.now))
		})
	}
}

// Who gets slower for good is as fast as its limit again after a while.
func TestReceiver_ArrivedLateForgets(t *testing.T) {
	t.Parallel()
	r := &receiver{}
	for n := range 400 {
		took := 10 * time.Millisecond
		if n > 0 {
			took = 500 * time.Millisecond
		}
		r.arrivedLate(egress.Timing{Total: took, FirstByte: took})
	}
	assert.Zero(t, r.arrivedLate(egress.Timing{Total: 500 * time.Millisecond, FirstByte: 500 * time.Millisecond}))
}
