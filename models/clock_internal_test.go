package models

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestClockReading_Better(t *testing.T) {
	t.Parallel()
	start := time.Now()
	noon := time.Date(2026, 3, 29, 12, 0, 0, 0, time.UTC)
	look := func(after, said, doubt time.Duration) *clockReading {
		return &clockReading{said: noon.Add(said), heard: start.Add(after), doubt: doubt}
	}
	before := look(0, 0, 2*time.Millisecond) // the database is between 0 and 2 ms ahead of noon
	for name, test := range map[string]struct {
		later *clockReading
		want  bool
	}{
		"more exact":                      {look(time.Second, time.Second, time.Millisecond), true},
		"as exact":                        {look(time.Second, time.Second+time.Millisecond, 2*time.Millisecond), true},
		"less exact":                      {look(time.Second, time.Second-time.Millisecond, 20*time.Millisecond), false},
		"less exact, but what was is old": {look(time.Minute, time.Minute-time.Millisecond, 20*time.Millisecond), true},
		"set ahead":                       {look(time.Second, time.Hour, time.Second), true},
		"set back":                        {look(time.Second, -time.Hour, time.Second), true},
		"set back by less than the doubt": {look(time.Second, time.Second-10*time.Millisecond, 20*time.Millisecond), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, test.want, test.later.better(before))
			require.True(t, test.later.better(nil))
		})
	}
}
