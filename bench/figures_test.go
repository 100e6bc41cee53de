package main

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestQuantile(t *testing.T) {
	t.Parallel()
	hundred := make([]int, 100)
	for n := range hundred {
		hundred[n] = n + 1
	}
	for name, c := range map[string]struct {
		sorted []int
		q      float64
		want   int
	}{
		"none":             {nil, 0.5, 0},
		"one":              {[]int{7}, 0.99, 7},
		"middle of three":  {[]int{1, 2, 3}, 0.5, 2},
		"lower of two":     {[]int{1, 2}, 0.5, 1},
		"p99 of a hundred": {hundred, 0.99, 99},
		"p50 of a hundred": {hundred, 0.5, 50},
		"all":              {hundred, 1, 100},
		"nothing":          {hundred, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, quantile(c.sorted, c.q))
		})
	}
}

func TestQuantileIsOneOfTheValuesWithEnoughBelow(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.IntRange(-1000, 1000), 1, 200).Draw(t, "values")
		q := rapid.Float64Range(0, 1).Draw(t, "q")
		slices.Sort(values)
		got := quantile(values, q)
		below := 0
		for _, v := range values {
			if v <= got {
				below++
			}
		}
		require.Contains(t, values, got)
		require.GreaterOrEqual(t, float64(below)+1e-3, q*float64(len(values)))
	})
}

func TestText(t *testing.T) {
	t.Parallel()
	for want, cell := range map[string]any{
		"–": nil, "name": "name", "12.35 ms": 12345678 * time.Nanosecond, "1235": 1234.6, "0.25 %": share(0.0025),
		"150 MB": size(150_400_000), "6.13×": ratio(6.125001), "7": 7,
	} {
		require.Equal(t, want, text(cell))
	}
}
