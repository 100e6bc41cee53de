package worker

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A hundred thousand deliveries that failed at the same moment come back spread over the whole tenth on
// either side: no second has more than five times the average.
func TestRetryDelay_SpreadsAHundredThousand(t *testing.T) {
	t.Parallel()
	const deliveries = 100_000
	schedule := []time.Duration{5 * time.Hour}
	bySecond := map[time.Duration]int{}
	for range deliveries {
		delay, more := retryDelay(schedule, 0)
		require.True(t, more)
		require.GreaterOrEqual(t, delay, 270*time.Minute)
		require.LessOrEqual(t, delay, 330*time.Minute)
		bySecond[delay.Truncate(time.Second)]++
	}
	most := 0
	for _, n := range bySecond {
		most = max(most, n)
	}
	require.LessOrEqual(t, most, 5*deliveries/int(time.Hour/time.Second))
	_, more := retryDelay(schedule, 1)
	require.False(t, more)
}
