package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSlope(t *testing.T) {
	t.Parallel()
	line := func(perHour float64, noise ...int64) (looks []look) {
		for n, off := range noise {
			at := time.Duration(n) * 10 * time.Minute
			looks = append(looks, look{at: at, resident: 100_000_000 + int64(perHour*at.Hours()) + off})
		}
		return looks
	}
	for name, c := range map[string]struct {
		looks []look
		want  float64
	}{
		"none":         {nil, 0},
		"one":          {line(5, 0), 0},
		"level":        {line(0, 0, 0, 0, 0), 0},
		"grows":        {line(6_000_000, 0, 0, 0, 0), 6_000_000},
		"shrinks":      {line(-6_000_000, 0, 0, 0, 0), -6_000_000},
		"noise is out": {line(6_000_000, 1000, -1000, -1000, 1000), 6_000_000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.InDelta(t, c.want, slope(c.looks, look.memory), 10)
		})
	}
}
